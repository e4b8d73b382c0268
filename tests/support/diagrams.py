"""Draws the state tables as diagrams into docs/protocol.md: `python -m tests.support.diagrams`, and a test compares."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from ceiba_protocol import job
from ceiba_protocol.trust import agreement

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def diagram(first: StrEnum, transitions: Mapping[tuple[StrEnum, StrEnum], StrEnum]) -> str:
    """A Mermaid state diagram: one arrow for each pair of states, labelled with all events that lead along it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), after in transitions.items():
        arrows.setdefault((state, after), []).append(event)
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    ends = sorted(set(transitions.values()) - {state for state, _ in transitions})
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *lines, *(f"    {end} --> [*]" for end in ends)])


DIAGRAMS = {
    "job": diagram(job.State.WAITING_FOR_APPROVALS, job.TRANSITIONS),
    "agreement": diagram(agreement.State.PROPOSED, agreement.TRANSITIONS),
}


def drawn(text: str) -> str:
    """The page's text with every block ```mermaid NAME drawn anew."""
    return re.sub(
        r"```mermaid (\w+)\n.*?```",
        lambda match: f"```mermaid {match[1]}\n{DIAGRAMS[match[1]]}\n```",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
