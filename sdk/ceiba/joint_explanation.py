"""What a joint question means before it is asked, in words for the merchant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ceiba.joint_queries import JointQuery
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.linkage.joint_wording import describe_joint
from ceiba_protocol.trust.agreement import Agreement, Mode
from ceiba_protocol.trust.rendering import moment, quoted, rules_of

_LABEL_WIDTH = 14


@dataclass(frozen=True)
class JointExplanation:
    """Who would see what, what allows it, and what would refuse it. Shows itself as text."""

    question: tuple[str, ...]
    agreement: Agreement | CeibaError
    """Or why there is none."""
    holders: tuple[str, ...]
    parties: Mapping[str, str]
    """Who → what it sees."""
    tables: int
    cells: int
    """Of all tables together: groups of the base times those of the joined table."""
    jobs_asked: int
    """Of the agreement, by this folder's own count."""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def lines(self) -> list[str]:
        """For people."""
        return [
            *self.question,
            "Who sees what",
            *(_line(party, sees) for party, sees in self.parties.items()),
            "Who allows it",
            *self._agreement_lines(),
            _line("holders", f"{', '.join(self.holders)}; each can refuse, and then nothing is answered"),
            "What comes of it",
            _line("tables", f"{self.tables}, with {self.cells} cells in all"),
        ]

    def _agreement_lines(self) -> list[str]:
        if isinstance(self.agreement, CeibaError):
            return [_line("refused", self.agreement.public)]
        agreed, joint = self.agreement, self.agreement.joint
        person = "a person at every holder decides on each job" if agreed.approval == "each job" else "standing"
        small = dict(rules_of(agreed.disclosure, is_joint=True))["small cells"]
        least = joint.smallest_intersection if joint else 1
        return [
            _line("agreement", f"{agreed.agreement_id}, until {moment(agreed.not_after)}; {person}"),
            _line("purpose", quoted(agreed.purpose)),
            _line("small cells", small),
            _line("in common", f"with fewer than {least} subjects in common nothing is answered"),
            _line("jobs", f"{self.jobs_asked} of {agreed.jobs} were asked from this folder"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For programs: what JSON has."""
        agreed = self.agreement if isinstance(self.agreement, Agreement) else None
        return {
            "question": list(self.question),
            "agreement": agreed and agreed.agreement_id,
            "purpose": agreed and agreed.purpose,
            "refused": None if agreed else {"code": self.agreement.code, "text": self.agreement.public},  # type: ignore[union-attr]
            "holders": list(self.holders),
            "parties": dict(self.parties),
            "tables": self.tables,
            "cells": self.cells,
            "jobs_asked": self.jobs_asked,
        }


def explain_jointly(query: JointQuery[Any], agreement: Agreement | CeibaError, jobs_asked: int) -> JointExplanation:
    """What follows from the question and the agreement alone; no row is read, and nothing is sent."""
    plan = query.asked
    (base,) = query.programs[plan.base.holder]
    programs = [program for side in plan.joined for program in query.programs[side.holder]]
    return JointExplanation(
        question=tuple(describe_joint(plan)),
        agreement=agreement,
        holders=tuple(sorted(side.holder for side in plan.sides)),
        parties=_parties(query),
        tables=len(programs),
        cells=base.cells * sum(program.cells for program in programs),
        jobs_asked=jobs_asked,
    )


def _parties(query: JointQuery[Any]) -> dict[str, str]:
    """Each party, and what it sees beside the question (PROTOCOL §5.4)."""
    plan = query.asked
    who = "which of its own subjects all others know; " if plan.mode is Mode.REVEALED else ""
    return {
        "merchant": "the released figures, and which were withheld; not which subjects they are about",
        plan.base.holder: f"{who}how many of its subjects in each of its groups each joined holder knows, not which; "
        "which cells are released; none of their figures",
        **{
            side.holder: f"{who}how many subjects {plan.base.holder} has in each group, rounded up; which cells are "
            "released; not which subjects match"
            for side in plan.joined
        },
        "coordinator": "the question, who sends whom how much and when, and nothing in it: every message is sealed",
        "everybody else": "nothing; the log that holders witness has names and digests, no figures",
    }


def _line(label: str, text: str) -> str:
    return f"  {label:{_LABEL_WIDTH}} {text}"
