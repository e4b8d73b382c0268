"""Which agreement a question is asked under. Pure: contracts and a plan in, one contract out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Wish:
    """What is to be asked, from when until when at most (seconds since 1970 UTC)."""

    plan: Plan
    now: int
    until: int
    purpose: str | None = None
    """Only an agreement for this purpose; None for any."""


def choose(contracts: Iterable[Contract], wish: Wish, roster: Roster, asked: Callable[[Agreement], int]) -> Contract:
    """The active agreement that covers the plan with the fewest columns; of several such, the one that ends last.

    `asked`: how many of an agreement's jobs were asked. Raises NoAgreement, which says what the nearest one lacks.
    """
    known = [one for one in contracts if wish.purpose in (None, one.agreement.purpose)]
    about = [one for one in known if one.agreement.table == wish.plan.table]
    if not about:
        purpose = "" if wish.purpose is None else " for this purpose"
        raise NoAgreement(table=wish.plan.table, problem=f"none about this table{purpose} is known")
    lacking = {one.digest: _lacking(one, wish, roster, asked(one.agreement)) for one in about}
    fit = [one for one in about if not lacking[one.digest]]
    if not fit:
        nearest = min(about, key=lambda one: (len(lacking[one.digest]), -one.agreement.not_after))
        problem = f"the nearest, {nearest.agreement.agreement_id}, {'; it '.join(lacking[nearest.digest])}"
        raise NoAgreement(table=wish.plan.table, problem=problem)
    return min(fit, key=lambda one: (len(one.agreement.columns), -one.agreement.not_after, one.agreement.agreement_id))


def require_fit(contract: Contract, wish: Wish, roster: Roster, asked: int) -> Contract:
    """The agreement that the merchant itself has named. Raises NotAgreed, AgreementNotActive, NoAgreement."""
    agreement = contract.agreement
    check_covers(agreement, wish.plan)
    if (state := contract.state(wish.now)) is not State.ACTIVE:
        raise AgreementNotActive(agreement=agreement.agreement_id, state=state)
    if lacking := _lacking(contract, wish, roster, asked):
        problem = f"{agreement.agreement_id} {'; it '.join(lacking)}"
        raise NoAgreement(table=wish.plan.table, problem=problem)
    return contract


def _lacking(contract: Contract, wish: Wish, roster: Roster, asked: int) -> list[str]:
    """What keeps an agreement on the plan's table from being used, one entry for each thing."""
    agreement, state = contract.agreement, contract.state(wish.now)
    columns = sorted(wish.plan.columns - set(agreement.columns))
    operations = sorted(operations_of(wish.plan) - set(agreement.operations))
    found = [f"does not cover the column {name}" for name in columns]
    found += [f"does not cover the operation {name}" for name in operations]
    seeds = sorted(foreign_seeds(agreement, wish.plan))
    found += [f"has another purpose than the split's seed, {seed}" for seed in seeds]
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
