"""What a joint agreement says of its holders, and what no joint question may go beyond."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from ceiba_protocol.errors import AgreementMismatch, NotAgreed
from ceiba_protocol.linkage.joint import JointPlan, SidePlan, check_joint_covers
from ceiba_protocol.linkage.joint_wording import rests_on
from ceiba_protocol.plan import Named, Plan
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.trust.agreement import Agreement, Contract, Mode, check_terms
from ceiba_protocol.trust.documents import NoiseTerms
from ceiba_protocol.trust.rendering import render
from tests.support.joint_space import TAX, JointWorld
from tests.support.members import NOW

WORLD = JointWorld()


def side(holder: str, **changes: Any) -> SidePlan:
    """How many rows a holder has."""
    schema = WORLD.datasets[holder].schema
    rows = (Named(name="rows", statistic=Count()),)
    plan = Plan(table=schema.table, schema_digest=schema.digest(), filter=None, outputs=rows)
    return SidePlan(**({"holder": holder, "on": "uscc", "plans": (plan,)} | changes))


def joined(base: str, other: str, mode: Mode = Mode.HIDDEN) -> JointPlan:
    return JointPlan(mode=mode, base=side(base), joined=(side(other),))


def text_of(agreement: Agreement) -> str:
    return "\n".join(render(Contract(agreement, {}, ()), WORLD.roster, NOW))


@pytest.mark.parametrize("mode", Mode)
def test_only_who_is_named_may_be_the_base(mode: Mode) -> None:
    agreement = WORLD.joint_agreement(bases=("patents", "tax"))
    check_joint_covers(agreement, joined("tax", "social", mode), None)
    with pytest.raises(NotAgreed, match=re.escape("social as the base, which may be patents, tax.")):
        check_joint_covers(agreement, joined("social", "tax", mode), None)
    assert re.search("base +may be patents, tax:", text_of(agreement))


@pytest.mark.parametrize("bases", [(), ("tax", "patents"), ("tax", "tax"), ("bank-a",)])
def test_bases_are_holders_of_the_agreement_sorted_and_distinct(bases: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        agreement = WORLD.joint_agreement(bases=bases)
        Agreement(**dict(agreement))


# --- by which column subjects are found --------------------------------------------------------------------------


def test_subjects_are_found_by_the_column_that_is_agreed_on() -> None:
    agreement = WORLD.joint_agreement()
    check_joint_covers(agreement, joined("tax", "social"), None)
    for plan in (
        JointPlan(mode=Mode.HIDDEN, base=side("tax", on="register"), joined=(side("social"),)),
        JointPlan(mode=Mode.HIDDEN, base=side("social"), joined=(side("tax", on="register"),)),
        JointPlan(mode=Mode.REVEALED, base=side("social"), joined=(side("patents"),), linked=(side("tax", on="tin"),)),
    ):
        with pytest.raises(NotAgreed, match=r"finding subjects of tax\.firms by (register|tin)"):
            check_joint_covers(agreement, plan, None)
    assert "tax.firms of tax, subjects found by uscc, columns industry" in text_of(agreement)


def test_what_subjects_are_found_by_is_an_identifier_of_the_schema() -> None:
    check_terms(WORLD.joint_agreement(), TAX)
    with pytest.raises(AgreementMismatch, match=r"industry is no identifier of tax\.firms"):
        check_terms(WORLD.joint_agreement(identifiers=("uscc", "uscc", "industry")), TAX)
    for identifiers in (("uscc",), ("uscc",) * 4, ()):
        with pytest.raises(ValidationError, match="one identifier for each holder"):
            Agreement(**dict(WORLD.joint_agreement(identifiers=identifiers)))


@pytest.mark.parametrize(
    ("mode", "is_believed"), [(Mode.HIDDEN, False), (Mode.CARDINALITY, True), (Mode.REVEALED, True)]
)
def test_the_text_says_where_the_operators_word_is_taken(mode: Mode, is_believed: bool) -> None:
    assert ("WHOSE WORD IS TAKEN" in text_of(WORLD.joint_agreement(modes=(mode,)))) == is_believed


# --- whose word an answer rests on -------------------------------------------------------------------------------


def test_a_person_reads_whose_word_an_exact_answer_rests_on() -> None:
    hidden, counted = joined("tax", "social"), joined("tax", "social", Mode.CARDINALITY)
    assert "tax's word for how many subjects are behind its groups; nobody" in rests_on(hidden, None)
    told = rests_on(counted, None)
    assert "tax's word for how many subjects match" in told and "operator" not in told
    among_three = JointPlan(
        mode=Mode.CARDINALITY, base=side("tax"), joined=(side("patents"), side("social"))
    )  # fmt: skip
    assert "the operator's word" in rests_on(among_three, None) and "tax" not in rests_on(among_three, None)
    assert "tax's word" in rests_on(joined("tax", "social", Mode.REVEALED), None)
    assert "the operator's word" in rests_on(joined("tax", "social", Mode.REVEALED), None)
    noisy = rests_on(joined("tax", "social", Mode.REVEALED), NoiseTerms(rho=5000))
    assert "noise of both holders of each pair, ρ 0.005" in noisy and "operator's word" in noisy and "tax" not in noisy
