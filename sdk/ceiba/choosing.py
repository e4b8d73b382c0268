"""Which agreement a question is asked under. Pure: contracts and a wish in, one contract out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ceiba_protocol.errors import AgreementNotActive, NoAgreement
from ceiba_protocol.plan import Plan
from ceiba_protocol.trust.agreement import (
    Agreement,
    Contract,
    State,
    check_covers,
    foreign_seeds,
    no_party_now,
    operations_of,
)
from ceiba_protocol.trust.rendering import moment
from ceiba_protocol.trust.roster import Roster


class AnyWish(Protocol):
    """What is to be asked, from when until when at most (seconds since 1970 UTC)."""

    @property
    def now(self) -> int: ...

    @property
    def until(self) -> int: ...

    @property
    def purpose(self) -> str | None:
        """Only an agreement for this purpose; None for any."""

    @property
    def tables(self) -> str:
        """The tables that it is about, for people."""

    def is_about(self, agreement: Agreement) -> bool:
        """Whether the agreement is of this kind, and about the same tables."""

    def lacks(self, agreement: Agreement) -> list[str]:
        """What such an agreement does not cover, one entry for each thing: "does not cover the column age"."""

    def check(self, agreement: Agreement) -> None:
        """Raises NotAgreed, which names what any agreement does not cover."""


@dataclass(frozen=True)
class Wish:
    """A question to one table."""

    plan: Plan
    now: int
    until: int
    purpose: str | None = None

    @property
    def tables(self) -> str:
        return self.plan.table

    def is_about(self, agreement: Agreement) -> bool:
        return agreement.joint is None and agreement.table == self.plan.table

    def lacks(self, agreement: Agreement) -> list[str]:
        seeds = sorted(foreign_seeds(agreement, self.plan))
        return [
            *uncovered("column", self.plan.columns, agreement.columns),
            *uncovered("operation", operations_of(self.plan), agreement.operations),
            *(f"has another purpose than the split's seed, {seed}" for seed in seeds),
        ]

    def check(self, agreement: Agreement) -> None:
        check_covers(agreement, self.plan)


def uncovered(kind: str, wanted: Iterable[str], agreed: Iterable[str]) -> list[str]:
    """What is wanted and not agreed, each in words."""
    return [f"does not cover the {kind} {name}" for name in sorted(set(wanted) - set(agreed))]


def lacking_identifier(agreement: Agreement, holder: str, on: str) -> list[str]:
    """In words, if another column than the agreed one is to find a holder's subjects."""
    agreed, table = agreement.identifier_of(holder), agreement.side_of(holder).table
    return [] if on == agreed else [f"finds subjects of {table} by {agreed}, not by {on}"]


def choose(contracts: Iterable[Contract], wish: AnyWish, roster: Roster, asked: Callable[[Agreement], int]) -> Contract:
    """The active agreement that covers the plan with the fewest columns; of several such, the one that ends last.

    `asked`: how many of an agreement's jobs were asked. Raises NoAgreement, which says what the nearest one lacks.
    """
    known = [one for one in contracts if wish.purpose in (None, one.agreement.purpose)]
    about = [one for one in known if wish.is_about(one.agreement)]
    if not about:
        purpose = "" if wish.purpose is None else " for this purpose"
        these = "these tables together" if "," in wish.tables else "this table"
        raise NoAgreement(table=wish.tables, problem=f"none about {these}{purpose} is known")
    lacking = {one.digest: _lacking(one, wish, roster, asked(one.agreement)) for one in about}
    fit = [one for one in about if not lacking[one.digest]]
    if not fit:
        nearest = min(about, key=lambda one: (len(lacking[one.digest]), -one.agreement.not_after))
        problem = f"the nearest, {nearest.agreement.agreement_id}, {'; it '.join(lacking[nearest.digest])}"
        raise NoAgreement(table=wish.tables, problem=problem)
    return min(fit, key=lambda one: (_breadth(one.agreement), -one.agreement.not_after, one.agreement.agreement_id))


def _breadth(agreement: Agreement) -> int:
    """How many columns it covers, each table's once."""
    return len({(side.table, column) for side in agreement.sides for column in side.columns})


def require_fit(contract: Contract, wish: AnyWish, roster: Roster, asked: int) -> Contract:
    """The agreement that the merchant itself has named. Raises NotAgreed, AgreementNotActive, NoAgreement."""
    agreement = contract.agreement
    wish.check(agreement)
    if (state := contract.state(wish.now)) is not State.ACTIVE:
        raise AgreementNotActive(agreement=agreement.agreement_id, state=state)
    if lacking := _lacking(contract, wish, roster, asked):
        problem = f"{agreement.agreement_id} {'; it '.join(lacking)}"
        raise NoAgreement(table=wish.tables, problem=problem)
    return contract


def _lacking(contract: Contract, wish: AnyWish, roster: Roster, asked: int) -> list[str]:
    """What keeps an agreement about the same tables from being used, one entry for each thing."""
    agreement, state = contract.agreement, contract.state(wish.now)
    found = wish.lacks(agreement)
    if wish.purpose not in (None, agreement.purpose):
        found.append("is for another purpose")
    if state is not State.ACTIVE:
        missing = f", and {', '.join(contract.missing)} did not sign it" if contract.missing else ""
        found.append(f"is {state}{missing}")
    elif wish.now < agreement.not_before:
        found.append(f"begins at {moment(agreement.not_before)}")
    elif wish.until > agreement.not_after:
        found.append(f"ends at {moment(agreement.not_after)}, before the job's deadline")
    if asked >= agreement.jobs:
        found.append(f"is used up: all {agreement.jobs} jobs were asked")
    if because := no_party_now(agreement, roster):
        found.append(f"does not fit the roster ({because})")
    return found
