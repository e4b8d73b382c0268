"""Joint jobs about subjects that an earlier one has linked: their steps, what is agreed on them, and what is the same
(ADR 0028)."""

from typing import Any

import pytest
from pydantic import ValidationError

from ceiba_protocol.errors import LinkageDiffers, NotAgreed, SetMismatch
from ceiba_protocol.linkage.joint import (
    OF_PAIR,
    JointManifest,
    JointPlan,
    SidePlan,
    check_joint_covers,
    check_same_linkage,
    commit_jointly,
    make_joint_manifest,
    steps_of,
)
from ceiba_protocol.linkage.joint_wording import describe_joint
from ceiba_protocol.plan import Named, Plan
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.trust.agreement import JointTerms, Mode
from ceiba_protocol.trust.rendering import render
from tests.support.joint_space import JointWorld
from tests.support.members import MERCHANT, NOW, changed, signed_by

FIRST = "0f" * 16


@pytest.fixture(scope="module")
def world() -> JointWorld:
    return JointWorld()


def plan(world: JointWorld, **parts: Any) -> JointPlan:
    """How many of the insurance's rows are of firms that all three know; of the linkage of FIRST."""
    outputs = (Named(name="rows", statistic=Count()),)
    sides = {}
    for name, dataset in world.datasets.items():
        asked = Plan(table=dataset.schema.table, schema_digest=dataset.schema.digest(), filter=None, outputs=outputs)
        sides[name] = SidePlan(holder=name, on="uscc", plans=(asked,))
    fixed: dict[str, Any] = {
        "mode": Mode.REVEALED,
        "base": sides["tax"],
        "joined": (sides["social"],),
        "linked": (sides["patents"],),
        "linkage": FIRST,
    }
    return JointPlan(**(fixed | parts))


def manifest(world: JointWorld, asked: JointPlan, **terms: Any) -> JointManifest:
    return make_joint_manifest(
        job_id="0e" * 16,
        number=2,
        agreement=world.joint_agreement(**({"jobs_per_linkage": 2} | terms)),
        merchant=MERCHANT,
        plan=asked,
        offers={offer.holder: offer for offer in world.joint_offers()},
        now=NOW,
        seconds=60,
    )


def test_its_pairs_begin_at_once_and_nothing_is_linked(world: JointWorld) -> None:
    steps = steps_of(plan(world), MERCHANT)
    assert [step.kind for step in steps] == list(OF_PAIR)
    assert steps[0].needs == ()
    first = steps_of(plan(world, linkage=None), MERCHANT)
    assert len(first) == 3 * 2 * 2 + 3 + 2 + len(steps)
    assert [step.kind for step in first if step.pair] == list(OF_PAIR)
    assert {step.sender for step in steps} == {"tax", "social"}, "who is only linked sends something"


def test_only_what_was_revealed_can_be_used_again(world: JointWorld) -> None:
    for mode in (Mode.HIDDEN, Mode.CARDINALITY):
        with pytest.raises(ValidationError, match="only a linkage that was revealed"):
            plan(world, mode=mode, linked=())
        plan(world, mode=mode, linked=(), linkage=None)


def test_an_approval_has_no_key_for_tokens(world: JointWorld) -> None:
    asked = manifest(world, plan(world))
    agreement = world.joint_agreement(jobs_per_linkage=2)
    question = world.joint_question(signed_by(MERCHANT, asked), agreement)
    approvals = [world.joint_approval(name, question) for name in question.holders]
    agreed = commit_jointly(question, approvals)
    assert all(one.token_key is None for one in agreed.approvals.values())
    assert agreed.terms("social").one_row_for_all
    key = world.token_key("patents", question)
    with pytest.raises(SetMismatch, match="patents has not the keys"):
        commit_jointly(question, [*approvals[1:], world.joint_approval("patents", question, token_key=key)])


def test_it_takes_an_agreement_that_says_so(world: JointWorld) -> None:
    with pytest.raises(NotAgreed, match="a linkage that serves several jobs"):
        manifest(world, plan(world), jobs_per_linkage=1)
    check_joint_covers(world.joint_agreement(), plan(world, linkage=None), None)


def test_only_what_is_revealed_is_agreed_to_serve_several_jobs(world: JointWorld) -> None:
    others = world.joint_agreement().joint
    assert others is not None and others.jobs_per_linkage == 1
    facts = dict(others) | {"jobs_per_linkage": 2}
    assert JointTerms(**facts).jobs_per_linkage == 2
    with pytest.raises(ValidationError, match="only what is revealed"):
        JointTerms(**(facts | {"modes": (Mode.CARDINALITY, Mode.HIDDEN)}))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        JointTerms(**(facts | {"jobs_per_linkage": 0}))


def test_officers_read_how_long_a_linkage_serves(world: JointWorld) -> None:
    text = "\n".join(render(world.contract(world.joint_agreement()), world.roster, NOW))
    assert "serves one job; nothing of it is kept" in text
    text = "\n".join(render(world.contract(world.joint_agreement(jobs_per_linkage=7)), world.roster, NOW))
    assert "serves 7 jobs at most: UNTIL THEN, FOR AT MOST 30 DAYS, EACH HOLDER KEEPS IN MEMORY" in text
    assert f"  linkage: of the job {FIRST}, used again" in describe_joint(plan(world))
    assert not any(FIRST in line for line in describe_joint(plan(world, linkage=None)))


def test_a_linkage_serves_the_very_same_question_of_whom(world: JointWorld) -> None:
    first = manifest(world, plan(world, linkage=None))
    tax, social, patents = (plan(world).side_of(name) for name in ("tax", "social", "patents"))
    swapped = manifest(world, plan(world, base=social, joined=(patents, tax), linked=()))
    check_same_linkage(first, manifest(world, plan(world)), "tax")
    check_same_linkage(first, swapped, "tax")  # any of them may be the base
    (pin, *pins), digest = first.datasets, "0d" * 32
    others = {
        "another agreement": changed(swapped, agreement_digest=digest),
        "other holders": manifest(world, plan(world, linked=())),
        "other holders, tables or identifiers": changed(
            first, plan=plan(world, base=tax.model_copy(update={"on": "name"}))
        ),
        "another version of the data of patents": changed(
            swapped, datasets=(pin.model_copy(update={"version": digest}), *pins)
        ),
    }
    for problem, other in others.items():
        with pytest.raises(LinkageDiffers, match=problem) as caught:
            check_same_linkage(first, other, "tax")
        assert caught.value.fields["holder"] == "tax" and "without `linkage`" in caught.value.what_to_do
