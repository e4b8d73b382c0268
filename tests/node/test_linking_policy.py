"""What a house allows of joint jobs: its policy, its stops, its agreements, its people, and each number once.

Real nodes and a real coordinator, without a network. Whatever is forbidden is refused by name, before a job begins and
in its middle; a message that was not sent by then is never sent.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from ceiba_node.house_rules import Policy
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_node.responding import Pending, Reply
from ceiba_protocol.disclosure.grade import NoiseRule
from ceiba_protocol.errors import BadSignature, JobConflict, NumberUsed, UnknownJob, UnknownMember
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.linkage.joint import JointApproval, JointManifest, JointPlan
from ceiba_protocol.plan import ByColumn, Named
from ceiba_protocol.program import Comparison
from ceiba_protocol.rounds import CLOCK_TOLERANCE
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import Mode, Word
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.joint_nodes import HouseOfOne, JointNodes, quick_keys
from tests.support.members import MERCHANT, NOW, resigned


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("joint") / "space")
        yield made
        made.close()


@pytest.fixture(autouse=True)
def _as_before(nodes: JointNodes) -> Iterator[None]:
    yield
    for house in nodes.houses.values():
        house.policy, house.now = Policy(), NOW
    if nodes.id and nodes.state in ("waiting_for_approvals", "waiting_for_messages"):
        nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()


def question(nodes: JointNodes, sold: int = 300) -> JointPlan:
    """Wages by industry of firms that sell more; then how many firms of each size there are. `sold` makes it another
    question."""
    more = Comparing(comparison=Comparison.GREATER, left=ColumnValue(name="sales"), right=Number(value=str(sold)))
    wages = (Named(name="wages", statistic=Sum(value=ColumnValue(name="wages"))),)
    by_size = (ByColumn(name="size", column="size"),)
    plans = {
        "tax": nodes.counts("tax", groups=(ByColumn(name="industry", column="industry"),), filter=more),
        "social": (nodes.counts("social", outputs=wages), nodes.counts("social", groups=by_size)),
    }
    return nodes.plan(Mode.HIDDEN, "tax", "social", **plans)


def social(nodes: JointNodes) -> HouseOfOne:
    return nodes.houses["social"]


def nothing_was_sent(nodes: JointNodes) -> bool:
    return not nodes.office.store.joint_messages(nodes.id)


# --- policy.toml -------------------------------------------------------------------------------------------------

POLICIES = {
    "another merchant": ("social", {"merchants": ("mallory",)}, "forbidden_by_policy", "merchants"),
    "another purpose": ("tax", {"purposes": ("statistics",)}, "forbidden_by_policy", "purposes"),
    "a figure": ("social", {"forbidden_columns": ("insurance.firms.wages",)}, "forbidden_by_policy", "wages"),
    "the second plan's groups": ("social", {"columns": ("insurance.firms.wages",)}, "forbidden_by_policy", "size"),
    "the base's groups": ("tax", {"forbidden_columns": ("tax.firms.industry",)}, "forbidden_by_policy", "industry"),
    "the base's filter": ("tax", {"columns": ("tax.firms.industry",)}, "forbidden_by_policy", "sales"),
    "too small groups": ("social", {"minimum_subjects": 2}, "forbidden_by_policy", "minimum_subjects"),
    "too many cells in a job": ("social", {"cells_per_job": 3}, "forbidden_by_policy", "cells_per_job"),
    "too many jobs in a day": ("social", {"jobs_per_day": 1}, "quota_exceeded", "jobs of bank-a"),
    "too many cells in a day": ("social", {"cells_per_day": 5}, "quota_exceeded", "cells of bank-a"),
    "too many cells for all groups": ("social", {"cells_per_job": 15}, "forbidden_by_policy", "question has 16"),
    "too many cells for the base": ("tax", {"cells_per_job": 15}, "forbidden_by_policy", "question has 16"),
    "no exact answers": ("social", {"exact_jobs": 0}, "exact_quota_used", "insurance.firms"),
    "too many subjects of another": ("social", {"subjects_per_job": 40}, "linkage_too_large", "tax"),
}  # fmt: skip


@pytest.mark.parametrize("what", POLICIES)
def test_what_a_houses_policy_forbids_is_refused_by_name(nodes: JointNodes, what: str) -> None:
    name, settings, code, words = POLICIES[what]
    assert nodes.ask(question(nodes)) == "done", "it is allowed without"
    nodes.houses[name].policy = Policy(**settings)
    assert nodes.ask(question(nodes)) in ("failed", "refused")
    assert nodes.reason == (name, code) and words in nodes.error.public
    assert not nodes.kept()


def test_a_job_is_charged_once_and_as_an_exact_answer(nodes: JointNodes) -> None:
    """Also one that ends half-way: what was approved is charged."""
    house = social(nodes)
    version = house.snapshots.current("insurance.firms").version

    def used() -> tuple[int, int]:
        ledger = house.node._ledger
        jobs, _ = ledger.debited(MERCHANT, NOW - NOW % 86400, b"")
        return jobs, ledger.exact_used("insurance.firms", MERCHANT, version)

    jobs, exact = used()
    assert nodes.ask(question(nodes)) == "done"
    assert used() == (jobs + 1, exact + 1)
    nodes.submit(question(nodes))
    nodes.work()
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    assert used() == (jobs + 2, exact + 2)


def test_cells_are_counted_as_the_merchant_gets_them(nodes: JointNodes) -> None:
    """Four groups of the base, one of them for what is missing; one cell and three of the joined holder."""
    for name in ("social", "tax"):
        ledger = nodes.houses[name].node._ledger
        _, before = ledger.debited(MERCHANT, NOW - NOW % 86400, b"")
        assert nodes.ask(question(nodes)) == "done"
        _, after = ledger.debited(MERCHANT, NOW - NOW % 86400, b"")
        assert after - before == 4 * (1 + 3)
        nodes.houses[name].policy = Policy(cells_per_day=after + 15)
        assert nodes.ask(question(nodes)) == "failed"
        assert nodes.reason == (name, "quota_exceeded")
        nodes.houses[name].policy = Policy(cells_per_day=after + 16)
        ledger.debit_cells(nodes.id, 0)
        assert nodes.ask(question(nodes)) == "done"
        nodes.houses[name].policy = Policy()


# --- stops and agreements ----------------------------------------------------------------------------------------


def stops(nodes: JointNodes) -> list[tuple[StopKind, str]]:
    agreement = nodes.world.agreement.digest()
    names = {StopKind.ALL: "", StopKind.DATASET: "insurance.firms", StopKind.MERCHANT: MERCHANT}
    return [*names.items(), (StopKind.AGREEMENT, agreement)]


@pytest.mark.parametrize("kind", StopKind)
def test_a_stop_ends_what_is_asked_and_what_is_under_way(nodes: JointNodes, kind: StopKind) -> None:
    ledger, name = social(nodes).node._ledger, dict(stops(nodes))[kind]
    ledger.stop(Stop(kind, name, "not for others", NOW))
    try:
        assert nodes.ask(question(nodes)) == "refused"
        assert nodes.reason == ("social", "stopped") and "not for others" not in nodes.error.public
        assert nothing_was_sent(nodes)
    finally:
        ledger.resume(kind, name)
    nodes.submit(question(nodes))
    for _ in range(2):  # both have approved, and the tax office has sent its groups
        nodes.work()
    assert social(nodes).session is not None
    before = set(nodes.office.store.joint_messages(nodes.id))
    ledger.stop(Stop(kind, name, "", NOW))
    try:
        assert nodes.go_on() == "failed"
        assert nodes.reason == ("social", "stopped")
        assert social(nodes).session is None and not nodes.kept()
    finally:
        ledger.resume(kind, name)
    sent_later = set(nodes.office.store.joint_messages(nodes.id)) - before
    assert not [step for step in nodes.question.steps if step.number in sent_later and step.sender == "social"]
    assert nodes.ask(question(nodes)) == "done"


def test_another_tables_stop_is_none(nodes: JointNodes) -> None:
    social(nodes).node._ledger.stop(Stop(StopKind.DATASET, "tax.firms", "", NOW))
    try:
        assert nodes.ask(question(nodes)) == "done"
    finally:
        social(nodes).node._ledger.resume(StopKind.DATASET, "tax.firms")


def test_a_suspended_agreement_ends_what_is_asked_and_what_is_under_way(tmp_path: Any) -> None:
    """Of its own officer, before the coordinator has heard of it."""
    with quick_keys():
        nodes = JointNodes(tmp_path / "space")
        try:
            house = social(nodes)
            nodes.submit(question(nodes))
            for _ in range(2):
                nodes.work()
            suspend(nodes, house, Word.SUSPEND, 1)
            assert nodes.go_on() == "failed"
            assert nodes.reason == ("social", "agreement_not_active") and "suspended" in nodes.error.public
            assert house.session is None and not nodes.kept()
            assert nodes.ask(question(nodes)) == "refused"
            assert nodes.reason == ("social", "agreement_not_active") and nothing_was_sent(nodes)
            suspend(nodes, house, Word.RESUME, 2)
            assert nodes.ask(question(nodes)) == "done"
        finally:
            nodes.close()


def suspend(nodes: JointNodes, house: HouseOfOne, word: Word, number: int) -> None:
    notice = nodes.world.notice(house.name, word, number)
    house.node.take_up_agreement(AgreementEvidence(signatures=nodes.world.signatures(), notices=[notice]))


def test_a_job_whose_time_is_over_is_not_gone_on_with(nodes: JointNodes) -> None:
    nodes.submit(question(nodes))
    for _ in range(2):
        nodes.work()
    social(nodes).now = nodes.question.manifest.not_after + CLOCK_TOLERANCE + 1
    assert nodes.go_on() in ("failed", "refused")
    assert nodes.reason == ("social", "outside_window") and social(nodes).session is None


# --- a person ----------------------------------------------------------------------------------------------------

ASKS = {
    "new questions": Policy(ask_for_new_questions=True),
    "every exact answer": Policy(noise=NoiseRule.MANDATORY),
}


def waits(nodes: JointNodes, house: HouseOfOne, plan: JointPlan) -> None:
    """Everybody else has approved it; the house has asked a person."""
    nodes.submit(plan)
    for name, other in nodes.houses.items():
        for task in nodes.office.jobs.tasks(name):
            reply = other.answer(task)
            if name == house.name:
                assert reply == Pending(nodes.id)
                nodes.office.jobs.wait_for_person(nodes.id, name)
            else:
                assert isinstance(reply, Reply)
                nodes.office.jobs.approve(reply.signed, name)
    assert nodes.state == "waiting_for_approvals" and house.session is None


@pytest.mark.parametrize("why", ASKS)
def test_a_person_is_asked_and_decides(nodes: JointNodes, why: str) -> None:
    house = social(nodes)
    house.policy = ASKS[why]
    sold = 310 + len(why)
    waits(nodes, house, question(nodes, sold))
    assert house.answer(nodes.office.jobs.tasks("social")[0]) == Pending(nodes.id), "it is asked again"
    assert not list(house.node.decided())
    house.restart()
    house.node._ledger.decide(nodes.id, Decision(approved=True, reason=""), "", NOW)
    (reply,) = house.node.decided()
    nodes.office.jobs.approve(reply.signed, "social")
    assert nodes.go_on() == "done"

    waits_again = why != "new questions"  # the same question was approved
    if waits_again:
        waits(nodes, house, question(nodes, sold))
        nodes.office.jobs.cancel(nodes.id, MERCHANT)
    else:
        assert nodes.ask(question(nodes, sold)) == "done"

    waits(nodes, house, question(nodes, sold + 30))
    house.node._ledger.decide(nodes.id, Decision(approved=False, reason="outside the study"), "the third time", NOW)
    (reply,) = house.node.decided()
    nodes.office.jobs.refuse(reply.signed, "social")
    assert nodes.state == "refused" and nodes.reason == ("social", "refused_by_person")
    assert "outside the study" in nodes.error.public and "third" not in nodes.error.public
    assert nothing_was_sent(nodes)


def test_a_yes_does_not_outlast_a_stop(nodes: JointNodes) -> None:
    house = social(nodes)
    house.policy = ASKS["every exact answer"]
    waits(nodes, house, question(nodes, 400))
    house.node._ledger.stop(Stop(StopKind.ALL, "", "", NOW))
    try:
        house.node._ledger.decide(nodes.id, Decision(approved=True, reason=""), "", NOW)
        (reply,) = house.node.decided()
        assert Refusal.parse(reply.signed.body).code == "stopped"
    finally:
        house.node._ledger.resume(StopKind.ALL, "")


# --- each job once -----------------------------------------------------------------------------------------------


def manifest_of(nodes: JointNodes, **changes: Any) -> Signed:
    return resigned(nodes.signed, JointManifest, **changes)


def test_a_number_is_one_job(nodes: JointNodes) -> None:
    """The coordinator refuses it; a holder does, too, whatever the coordinator passes on."""
    assert nodes.ask(question(nodes)) == "done"
    other_id = "ab" * 16
    again = manifest_of(nodes, job_id=other_id)
    with pytest.raises(NumberUsed):
        nodes.office.jobs.submit(again, MERCHANT)
    for name in ("social", "tax"):
        reply = nodes.houses[name].node.approve(bytes.fromhex(other_id), again)
        assert isinstance(reply, Reply) and Refusal.parse(reply.signed.body).code == "number_used"


def test_a_job_id_is_one_manifest(nodes: JointNodes) -> None:
    assert nodes.ask(question(nodes)) == "done"
    house = social(nodes)
    other = manifest_of(nodes, number=90_000, not_after=NOW + 50)
    reply = house.node.approve(nodes.id, other)
    assert isinstance(reply, Reply) and Refusal.parse(reply.signed.body).code == "job_conflict"
    with pytest.raises(JobConflict):
        house.node.approve(bytes.fromhex("cd" * 16), nodes.signed)
    with pytest.raises(UnknownJob):
        house.node.linking.take_step(bytes.fromhex("cd" * 16), 1, [], house.log.checkpoint())


def test_a_replayed_manifest_is_answered_as_before_and_no_step_is_taken_again(nodes: JointNodes) -> None:
    """Neither at once, nor after the node has been restarted, nor where its window is over."""
    assert nodes.ask(question(nodes)) == "done"
    house, steps, approvals = social(nodes), nodes.question.steps, approvals_of(nodes)
    (own,) = [one for one in approvals if one.signer == "social"]
    for restarts in (False, True):
        if restarts:
            house.restart()
        again = house.node.approve(nodes.id, nodes.signed)
        assert again == Reply(own)
        for step in steps:
            if step.sender == "social":
                reply = house.node.linking.take_step(nodes.id, step.number, approvals, house.log.checkpoint())
                assert isinstance(reply, Reply) and reply.payload == b""
                assert Refusal.parse(reply.signed.body).code == "linkage_lost"
        assert house.session is None
    late = manifest_of(nodes, job_id="ef" * 16, number=90_001)
    house.now = nodes.question.manifest.not_after + CLOCK_TOLERANCE + 1
    reply = house.node.approve(bytes.fromhex("ef" * 16), late)
    assert isinstance(reply, Reply) and Refusal.parse(reply.signed.body).code == "outside_window"


def approvals_of(nodes: JointNodes) -> list[Signed]:
    seats = [seat.approval for seat in nodes.office.store.seats(nodes.id)]
    found = [one for one in seats if one is not None]
    assert {one.type for one in found} == {type_of(JointApproval)} and len(found) == 2
    return found


def test_what_no_merchant_has_signed_gets_no_signature(nodes: JointNodes) -> None:
    """Not even that of a refusal."""
    assert nodes.ask(question(nodes)) == "done"
    forged = Signed()
    forged.CopyFrom(manifest_of(nodes, job_id="1f" * 16))
    forged.signature = nodes.signed.signature
    with pytest.raises(BadSignature):
        social(nodes).node.approve(bytes.fromhex("1f" * 16), forged)
    forged.signer = "tax"
    with pytest.raises(UnknownMember):
        social(nodes).node.approve(bytes.fromhex("1f" * 16), forged)
