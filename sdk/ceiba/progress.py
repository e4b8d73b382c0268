"""Showing how far a job is: approvals, the gate, rounds of a fit, messages of a join, answers; whom it waits for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from html import escape
from typing import Any

from ceiba_protocol.job import ENDED, State
from ceiba_protocol.v1.jobs_pb2 import JobStatus

Report = Callable[[JobStatus], None]
Progress = Callable[[], AbstractContextManager[Report]]


class Stage(Enum):
    """What the holders are asked for; a job goes through them in this order, and may leave some out."""

    APPROVALS = "have approved"
    GATE = "have counted for the gate"
    ROUNDS = "of a fit"
    MESSAGES = "of a join"
    ANSWERS = "have answered"


def in_words(status: JobStatus) -> str:
    """What a job is doing, for people: `2 of 3 holders have approved; waiting for a person at zurich; hungary left`."""
    stage = stage_of(status)
    waiting = [_waiting(holder, status) for holder in unanswered(status)]
    if stage is Stage.ROUNDS:
        parts = [f"round {status.iterations + 1} of the fit among {len(remaining(status))} holders"]
    elif stage is Stage.MESSAGES:
        parts = [f"{status.messages} of {status.messages_in_all} messages of the join"]
    else:
        parts = [f"{len(_done(status, stage))} of {len(remaining(status))} holders {stage.value}"]
    if stage in (Stage.ROUNDS, Stage.MESSAGES) and not _offline(status):
        waiting = []  # whose turn it is is not told; who is offline holds it up for certain
    parts += [f"waiting for {', '.join(waiting)}"] if waiting else []
    parts += [f"{', '.join(status.left)} left"] if status.left else []
    return "; ".join(parts)


def stage_of(status: JobStatus) -> Stage:
    """Where a job is, or where it was when it ended."""
    everybody = set(remaining(status))
    if not everybody <= set(status.approved):
        return Stage.APPROVALS
    if status.messages_in_all:
        return Stage.MESSAGES
    if status.state == State.WAITING_FOR_SHARES or (status.shared and not everybody <= set(status.shared)):
        return Stage.GATE
    is_fit = status.state == State.WAITING_FOR_ITERATIONS or status.iterations > 0
    return Stage.ROUNDS if is_fit and not status.submitted and status.state != State.DONE else Stage.ANSWERS


def share_done(status: JobStatus) -> float:
    """0 to 1. How many rounds a fit takes is not known before, so each leaves as much to be done as there was."""
    if status.state in ENDED:
        return 1.0
    holders = len(remaining(status)) or 1
    steps = len(status.approved) + len(status.shared) + len(status.submitted)
    if status.messages_in_all:
        return (len(status.approved) + status.messages) / (holders + status.messages_in_all)
    gate = holders if status.shared or status.state == State.WAITING_FOR_SHARES else 0
    return (steps + status.iterations) / (2 * holders + gate + status.iterations)


def remaining(status: JobStatus) -> list[str]:
    """The holders that have not left the job."""
    return [holder for holder in status.holders if holder not in status.left]


def unanswered(status: JobStatus) -> list[str]:
    """Those of them that the job waits for. In a round of a fit, and in a join, those that are offline, or else all."""
    stage = stage_of(status)
    if stage in (Stage.ROUNDS, Stage.MESSAGES):
        return _offline(status) or remaining(status)
    done = _done(status, stage)
    return [holder for holder in remaining(status) if holder not in done]


def _done(status: JobStatus, stage: Stage) -> Sequence[str]:
    """Who has done what a stage asks for."""
    return {Stage.APPROVALS: status.approved, Stage.GATE: status.shared}.get(stage, status.submitted)


def _offline(status: JobStatus) -> list[str]:
    return [holder for holder in remaining(status) if holder not in status.online]


def _waiting(holder: str, status: JobStatus) -> str:
    if holder in status.pending:
        return f"a person at {holder}"
    return holder if holder in status.online else f"{holder} (offline)"


# --- where it is shown -----------------------------------------------------------------------------------------


def shown_by_default() -> Progress:
    """A bar in a notebook and on a terminal, nothing where nobody looks, such as in a script whose output is kept."""
    return show() if _notebook() is not None or sys.stderr.isatty() else show_nothing


def wanted_progress(wanted: bool | None) -> Progress:
    """Of an option: True, False, or None for what the place where this runs is used to."""
    return shown_by_default() if wanted is None else show() if wanted else show_nothing


def show() -> Progress:
    """The bar of the place where this runs."""
    return show_in_notebook if _notebook() is not None else show_on_terminal


@contextmanager
def show_nothing() -> Iterator[Report]:
    yield lambda status: None


@contextmanager
def show_on_terminal() -> Iterator[Report]:
    """A bar on standard error, which goes away when the job has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=1.0)
        yield lambda status: bar.update(task, completed=share_done(status), description=in_words(status))


@contextmanager
def show_in_notebook() -> Iterator[Report]:
    """The same below the cell, by IPython alone: rich would need the package ipywidgets."""
    ipython = importlib.import_module("IPython.display")
    shown = ipython.display(ipython.HTML(_bar(0.0, "asking")), display_id=True)
    try:
        yield lambda status: shown.update(ipython.HTML(_bar(share_done(status), in_words(status))))
    finally:
        shown.update(ipython.HTML(""))


def _bar(share: float, words: str) -> str:
    return f'<progress max="1" value="{share:.3f}"></progress> {escape(words)}'


def _notebook() -> Any:
    """The kernel of the notebook that this runs in, or None; IPython is not imported for it."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None)
