"""What a joint question means before it is asked, in words for the merchant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ceiba.joint_queries import JointQuery
from ceiba_protocol.disclosure.grade import as_rho
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.linkage.joint import JointPlan
from ceiba_protocol.linkage.joint_wording import describe_joint
from ceiba_protocol.trust.agreement import DAY, KEPT_SECONDS, Agreement, Mode
from ceiba_protocol.trust.documents import NoiseTerms
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
    """0 where all that is asked is how many subjects there are."""
    cells: int
    """Of all tables together: groups of the base times those of the joined tables."""
    jobs_asked: int
    """Of the agreement, by this folder's own count."""
    noise: NoiseTerms | None
    """None for exact figures."""
    linkage: str = ""
    """What is used again of an earlier job, or kept of this one, in words; empty if neither."""

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
            _line("tables", f"{self.tables}, with {self.cells} cells in all" if self.tables else "none; one number"),
            _line("noise", self._noise_words()),
        ]

    def _noise_words(self) -> str:
        if self.noise is None:
            return "none: the figures are exact" if self.tables else "none: below 1,000, rounded to the nearest ten"
        cost = as_rho(self.noise.rho)
        return f"of both holders of each pair; ρ {cost}, which is charged again when the question is asked again"

    def _agreement_lines(self) -> list[str]:
        if isinstance(self.agreement, CeibaError):
            return [_line("refused", self.agreement.public)]
        agreed = self.agreement
        person = "a person at every holder decides on each job" if agreed.approval == "each job" else "standing"
        small = dict(rules_of(agreed.disclosure, is_joint=True))["small cells"]
        common = f"with fewer than {agreed.fewest_in_common} subjects in common nothing is answered"
        return [
            _line("agreement", f"{agreed.agreement_id}, until {moment(agreed.not_after)}; {person}"),
            _line("purpose", quoted(agreed.purpose)),
            _line("small cells", small),
            _line("in common", f"{common}; the base counts them with noise" if self.noise else common),
            *([_line("linkage", self.linkage)] if self.linkage else []),
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
            "noise": self.noise and self.noise.model_dump(mode="json"),
            "linkage": self.linkage,
        }


def explain_jointly(
    query: JointQuery[Any], agreement: Agreement | CeibaError, jobs_asked: int, noise: NoiseTerms | None
) -> JointExplanation:
    """What follows from the question and the agreement alone; no row is read, and nothing is sent."""
    plan = query.asked
    groups = sum(program.cells for program in query.programs[plan.base.holder])
    programs = [program for side in plan.joined for program in query.programs[side.holder]]
    is_counted = plan.mode is Mode.CARDINALITY
    return JointExplanation(
        question=tuple(describe_joint(plan)),
        agreement=agreement,
        holders=tuple(plan.holders),
        parties=_counting(plan) if is_counted else _joining(plan),
        tables=0 if is_counted else len(plan.base.plans) * len(programs),
        cells=1 if is_counted else groups * sum(program.cells for program in programs),
        jobs_asked=jobs_asked,
        noise=noise,
        linkage=_linkage(plan, agreement) if isinstance(agreement, Agreement) else "",
    )


def _linkage(plan: JointPlan, agreement: Agreement) -> str:
    jobs = agreement.joint.jobs_per_linkage if agreement.joint else 1
    if plan.linkage:
        return f"that of the job {plan.linkage} is used again, as one of at most {jobs} jobs; nobody is linked anew"
    if plan.mode is Mode.REVEALED and jobs > 1:
        return f"may serve {jobs} jobs; until then, for at most {KEPT_SECONDS // DAY} days, it is in holders' memory"
    return ""


# --- each party, and what it sees beside the question ----------------------------------------------------------

_EVERYBODY_ELSE = {"everybody else": "nothing; the log that holders witness has names and digests, no figures"}
_TOKENS = (
    "from the tokens that holders send it, which of these are at which holders, and so how many any of them have in "
    "common; not who they are, unless a holder tells it which tokens are its subjects'. NOBODY CHECKS what it says "
    "they have in common: it can leave subjects out, or add ones that not all have"
)
_TRAFFIC = "the question, who sends whom how much and when"
_SEALED = f"{_TRAFFIC}, and nothing in it: every message is sealed"


def _counting(plan: JointPlan) -> dict[str, str]:
    """Where all that is asked is how many subjects there are (PROTOCOL §5.3)."""
    number = "how many subjects all holders have in common after their filters, below 1,000 to the nearest ten"
    if len(plan.sides) > 2:
        each = (
            "how many subjects each other holder has, rounded up, whatever its filter; not how many they have in common"
        )
        return {
            "merchant": f"{number}; not which",
            **dict.fromkeys(plan.holders, each),
            "coordinator": f"{_TOKENS}; {_TRAFFIC}",
            **_EVERYBODY_ELSE,
        }
    (joined,) = (side.holder for side in plan.joined)
    return {
        "merchant": f"{number}; not which",
        plan.base.holder: f"how many of its subjects {joined} has, as it is, not which",
        joined: f"how many subjects {plan.base.holder} has, rounded up, whatever its filter; not how many match",
        "coordinator": _SEALED,
        **_EVERYBODY_ELSE,
    }


def _joining(plan: JointPlan) -> dict[str, str]:
    """Where figures are asked (PROTOCOL §5.4), after it has been revealed which subjects all have, or without."""
    is_revealed = plan.mode is Mode.REVEALED
    who, relayed = "", _SEALED
    if plan.has_tokens:
        who = "WHICH OF ITS OWN SUBJECTS ALL OTHERS KNOW, whatever the filters; "
        relayed = f"{_TOKENS}; {_TRAFFIC}; every other message is sealed"
    elif is_revealed:
        who = "WHICH OF ITS OWN SUBJECTS ALL OTHERS KNOW, which it has kept; "
        relayed = f"{_SEALED}; whose linkage is used again"
    return {
        "merchant": "the released figures, and which were withheld; not which subjects they are about",
        plan.base.holder: f"{who}how many of its subjects in each of its groups each joined holder knows, not which; "
        "which cells are released; none of their figures",
        **{
            side.holder: f"{who}how many subjects {plan.base.holder} has in each group, rounded up; which cells are "
            f"released; not which {'of them pass a filter' if is_revealed else 'subjects match'}"
            for side in plan.joined
        },
        **{side.holder: "how many subjects each other holder has, rounded up; nothing else" for side in plan.linked},
        "coordinator": relayed,
        **_EVERYBODY_ELSE,
    }


def _line(label: str, text: str) -> str:
    return f"  {label:{_LABEL_WIDTH}} {text}"
