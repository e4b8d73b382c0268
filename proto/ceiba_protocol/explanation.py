"""What a job means before it runs, in the same words for the merchant who asks and the person who decides at a holder.

`explaining.explain` makes it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ceiba_protocol.disclosure.forecast import Forecast
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.explaining_fits import BYTES_A_SUM, FitFacts
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.rendering import moment, quoted, rules_of

DELTA = 1e-6
"""At which ρ is shown as ε."""
_LABEL_WIDTH = 14
_NOT_REFUSED = (
    "by nothing that can be known beforehand; a holder's own policy may refuse it, earlier answers withhold cells"
)


@dataclass(frozen=True)
class Account:
    """One of the limits that a job uses up; amounts as people write them."""

    what: str
    cost: str
    used: str
    limit: str
    remains: str
    """Once this job is answered; empty if what is left does not reach."""

    def __str__(self) -> str:
        after = f"{self.remains} left after it" if self.remains else "too little left for it"
        return f"{self.cost} of {self.what}: {self.used} of {self.limit} used, {after}"


@dataclass(frozen=True)
class NoiseFacts:
    """The noise in the answer, for privacy officers and statisticians."""

    rho: float
    epsilon: float
    """At δ = DELTA, of this one answer."""
    count_sigma: float
    """Standard deviation of the noise in a row count."""
    cells_per_subject: int
    shares: Mapping[str, float]
    """Output → the ρ of its sums. A sum that two outputs are made of counts in both."""

    def lines(self) -> list[str]:
        """In words."""
        parts = ", ".join(f"{name} {rho:.2g}" for name, rho in self.shares.items())
        spread = [f"parts of ρ: {parts}; a sum that two outputs are made of counts in both"]
        return [
            f"ρ {self.rho:g}, which is ε {self.epsilon:.2f} at δ {DELTA:g}; σ of a count is {self.count_sigma:.1f}; "
            f"cells that one subject adds to: at most {self.cells_per_subject}",
            *(spread if len(self.shares) > 1 else ()),
        ]


@dataclass(frozen=True)
class Explanation:
    """What a job means before it runs. Shows itself as text, the same at the merchant and at every holder."""

    question: str
    agreement: Agreement | CeibaError
    """Or why there is none."""
    holders: tuple[str, ...]
    cells: int
    sums: int
    """In each cell."""
    tests: int
    """In each cell, by which the gate decides what is released; 0 without a gate."""
    parties: Mapping[str, str]
    """Who → what it sees."""
    forecast: Forecast | None
    """What is likely withheld; None without a gate."""
    assumptions: str
    """What the forecast rests on."""
    refusals: tuple[CeibaError, ...]
    """What would refuse it, as far as that can be known beforehand."""
    needs_a_person: bool
    """Whether it waits for somebody at every holder, whatever their own policies say."""
    accounts: tuple[Account, ...]
    whose_count: str
    noise: NoiseFacts | None
    exact: str
    """On what terms exact figures are given; empty with noise."""
    ciphertexts: int
    bytes_per_holder: int
    """Ciphertexts, words for the gate, and about so many in the rounds of a fit."""
    seconds: float
    fit: FitFacts | None = None
    """Of a question that iterates; then nothing of `sums` is released."""

    @property
    def withheld(self) -> float:
        """How many cells are withheld on average."""
        return self.forecast.expected if self.forecast else 0.0

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__

    def lines(self) -> list[str]:
        """For people."""
        return [
            *map(_visible, self.question.split("\n")),
            "Who sees what",
            *(_line(party, sees) for party, sees in self.parties.items()),
            "Who allows it",
            *self._agreement_lines(),
            _line("holders", f"{', '.join(self.holders)}; {self._who_answers()}"),
            *(_line("refused", text) for text in [error.public for error in self.refusals] or [_NOT_REFUSED]),
            _line("a person", self._person_text()),
            "What comes of it",
            _line("withheld", self._withheld_text()),
            *self._fit_lines(),
            *(_line("noise", text) for text in (self.noise.lines() if self.noise else [self.exact])),
            "What it costs",
            *(_line("budget", f"{account}, {self.whose_count}") for account in self.accounts),
            _line("size", self._size_text()),
            _line("time", f"about {self.seconds:.1f} s, once nobody has to decide any more"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For programs: what JSON has."""
        agreed = self.agreement if isinstance(self.agreement, Agreement) else None
        return {
            "question": self.question,
            "agreement": agreed and agreed.agreement_id,
            "purpose": agreed and agreed.purpose,
            "holders": list(self.holders),
            "parties": dict(self.parties),
            "cells": self.cells,
            "sums": self.sums,
            "tests": self.tests,
            "withheld": self.forecast and round(self.withheld, 3),
            "assumptions": self.assumptions,
            "refusals": [{"code": error.code, "text": error.public} for error in self.refusals],
            "needs_a_person": self.needs_a_person,
            "accounts": [asdict(account) for account in self.accounts],
            "whose_count": self.whose_count,
            "noise": self.noise and {**asdict(self.noise), "delta": DELTA},
            "ciphertexts": self.ciphertexts,
            "bytes_per_holder": self.bytes_per_holder,
            "seconds": round(self.seconds, 3),
            "fit": self.fit and {**asdict(self.fit), "guards": list(self.fit.guards)},
        }

    def _agreement_lines(self) -> list[str]:
        if not isinstance(self.agreement, Agreement):
            return [_line("agreement", "none; what follows is the least that the columns' grades demand")]
        agreed = self.agreement
        about = f"{agreed.agreement_id[:12]}, for {quoted(agreed.purpose)}, until {moment(agreed.not_after)}"
        return [_line("agreement", about), *(_line(label, rule) for label, rule in rules_of(agreed.disclosure))]

    def _who_answers(self) -> str:
        smallest = self.agreement.smallest_set if isinstance(self.agreement, Agreement) else len(self.holders)
        fewer = f"; at least {smallest} when the others have left the job"
        return "all of them, or nobody" if smallest >= len(self.holders) else f"all of them{fewer}"

    def _person_text(self) -> str:
        if self.needs_a_person:
            return "decides at every holder"
        return "need not decide, unless a holder's own policy asks for one"

    def _fit_lines(self) -> list[str]:
        """What makes the holders refuse a fit once they see the data: none of it is known beforehand."""
        return [_line("no fit", f"if {reason}") for reason in self.fit.guards] if self.fit else []

    def _size_text(self) -> str:
        size = f"{self.bytes_per_holder:,} bytes from each holder (ciphertexts: {self.ciphertexts}"
        if self.fit is None:
            return f"{size})"
        most = BYTES_A_SUM * self.fit.largest
        rounds = "one round" if self.fit.rounds == 1 else f"about {self.fit.rounds} rounds"
        return f"about {size}; {rounds} of up to {most:,} bytes)"

    def _withheld_text(self) -> str:
        if self.forecast is None:
            return "no cell is"
        if self.fit is not None and len(self.forecast.chances) == 1:
            least = "enough subjects at enough holders"
            return f"all or nothing: {least} are behind the complete rows, and behind each column that is 0 somewhere"
        return f"about {self.withheld:.1f} of the cells ({self.cells}), if {self.assumptions}"


def _line(label: str, text: str) -> str:
    return f"  {label:{_LABEL_WIDTH}} {text}"


def _visible(line: str) -> str:
    """With what would be invisible as an escape: labels and texts in a question are the merchant's own."""
    indented = len(line) - len(line.lstrip(" "))
    return line[:indented] + quoted(line[indented:])[1:-1]
