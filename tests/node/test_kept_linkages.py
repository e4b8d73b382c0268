"""Linkages that serve several jobs, among real nodes and a real coordinator: what later jobs are about, and who refuses
them (ADR 0028)."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ceiba_node import kept_linkages
from ceiba_node.drafts import Seal
from ceiba_node.kept_linkages import KeptLinkages
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_node.publishing import publish
from ceiba_node.withdrawals import withdraw
from ceiba_protocol.errors import LinkageGone
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.linkage.joint import JointPlan, JointQuestion, Kind
from ceiba_protocol.linkage.ristretto import POINT_BYTES
from ceiba_protocol.plan import ByColumn, Named
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import KEPT_SECONDS, Mode, Word
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from tests.support.joint_nodes import HouseOfOne, JointNodes, quick_keys
from tests.support.members import MERCHANT, NOW, changed, publisher, signed_by
from tests.support.seeded import seeded

HOLDERS = ("patents", "social", "tax")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    """A linkage may serve three jobs."""
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("kept") / "space", jobs_per_linkage=3)
        yield made
        made.close()


@pytest.fixture
def own_nodes(tmp_path: Path) -> Iterator[JointNodes]:
    """The same, for a test that changes what they have."""
    with quick_keys():
        made = JointNodes(tmp_path / "space", jobs_per_linkage=3)
        yield made
        made.close()


def wages(nodes: JointNodes, linkage: str | None = None, **parts: Any) -> JointPlan:
    """The wages of firms that all three know, by industry."""
    by_industry = nodes.counts("tax", groups=(ByColumn(name="industry", column="industry"),), **parts)
    outputs = (
        Named(name="wages", statistic=Sum(value=ColumnValue(name="wages"))),
        Named(name="n", statistic=Subjects()),
    )
    plans = {"tax": by_industry, "social": nodes.counts("social", outputs=outputs)}
    asked = nodes.plan(Mode.REVEALED, "tax", "social", linked=("patents",), **plans)
    return asked.model_copy(update={"linkage": linkage})


def linked(nodes: JointNodes) -> str:
    """The job that has linked, just now."""
    assert nodes.ask(wages(nodes)) == "done"
    return nodes.id.hex()


def more_than(column: str, value: int) -> Comparing:
    left, right = ColumnValue(name=column), Number(value=str(value))
    return Comparing(comparison=Comparison.GREATER, left=left, right=right)


def known_to_all(nodes: JointNodes) -> set[str]:
    return set.intersection(*(set(nodes.world.datasets[name].frame.uscc) for name in HOLDERS))


def subjects(nodes: JointNodes) -> list[int | None]:
    ((table,),) = nodes.opened().values()
    return table.subjects


def kept(house: HouseOfOne) -> dict[str, frozenset[bytes] | None]:
    """By job, what it keeps."""
    return {job: one.common for job, one in house.node.linking._kept._by_job.items()}


def counted(house: HouseOfOne, job: str) -> int:
    return house.node.linking._kept._by_job[job].jobs


def is_empty(nodes: JointNodes) -> bool:
    return not any(kept(house) for house in nodes.houses.values())


def messages(nodes: JointNodes) -> list[Kind]:
    return [nodes.question.steps[number].kind for number in sorted(nodes.office.store.joint_messages(nodes.id))]


# --- what later jobs are about ---------------------------------------------------------------------------------


def test_later_jobs_are_about_the_same_subjects_with_a_third_of_the_messages(nodes: JointNodes) -> None:
    first = linked(nodes)
    everybody, before = sum(one or 0 for one in subjects(nodes)), len(messages(nodes))
    assert everybody == len(known_to_all(nodes)) == 20
    # Another filter: whom all know does not depend on it.
    sells = {"filter": more_than("sales", 300)}
    assert nodes.ask(wages(nodes, first, **sells)) == "done"
    assert (before, len(messages(nodes))) == (25, 8)
    tax = nodes.world.datasets["tax"].frame
    assert (
        sum(one or 0 for one in subjects(nodes))
        == len(set(tax[tax.sales > 300].uscc) & known_to_all(nodes))
        < everybody
    )
    # Another base, and another table joined.
    swapped = nodes.plan(Mode.REVEALED, "social", "tax", linked=("patents",))
    assert nodes.ask(swapped.model_copy(update={"linkage": first})) == "done"
    assert sum(one or 0 for one in subjects(nodes)) == everybody


def test_what_is_kept_is_whom_all_know_and_nothing_else(nodes: JointNodes) -> None:
    first = linked(nodes)
    everybody = frozenset(name.encode() for name in known_to_all(nodes))
    of_each = {name: kept(house)[first] for name, house in nodes.houses.items()}
    assert of_each == {"tax": everybody, "social": everybody, "patents": None}, "who is only linked learns nothing"
    house = nodes.houses["tax"]
    (one,) = (one for job, one in house.node.linking._kept._by_job.items() if job == first)
    assert set(vars(one)) == {"question", "common", "until", "jobs"} and "firm 1" not in repr(one)
    assert house.session is None


def test_a_holder_that_was_only_linked_has_not_learnt_whom_all_know(nodes: JointNodes) -> None:
    first = linked(nodes)
    other = nodes.plan(Mode.REVEALED, "tax", "patents", linked=("social",)).model_copy(update={"linkage": first})
    assert nodes.ask(other) == "refused"
    assert nodes.reason == ("patents", "linkage_differs") and "has not learnt" in nodes.error.public
    base = nodes.plan(Mode.REVEALED, "patents", "tax", linked=("social",)).model_copy(update={"linkage": first})
    assert nodes.ask(base) == "refused"
    assert nodes.reason == ("patents", "linkage_differs")


def test_messages_of_two_jobs_of_one_linkage_have_no_point_in_common(nodes: JointNodes) -> None:
    """Keys live for one job, also where both are about the same subjects."""
    first, sent = linked(nodes), list[bytes]()

    def seen(payload: bytes) -> bytes:
        sent.append(payload)
        return payload

    tax, social = nodes.houses["tax"], nodes.houses["social"]
    for _ in range(2):
        with tax.cheating(Kind.GROUPS, seen), social.cheating(Kind.ROWS, seen):
            assert nodes.ask(wages(nodes, first)) == "done"
    one, other = (
        {payload[at : at + POINT_BYTES] for payload in payloads for at in range(len(payload) - POINT_BYTES + 1)}
        for payloads in (sent[:2], sent[2:])
    )
    common = {found for found in one & other if bytes(8) not in found}  # which are in what fills messages up
    assert min(len(one), len(other)) > 20 * POINT_BYTES and not common


# --- how many jobs it serves -----------------------------------------------------------------------------------


def test_no_holder_serves_more_jobs_than_agreed(nodes: JointNodes) -> None:
    """Each counts for itself: also where the coordinator and the others would go on."""
    first = linked(nodes)
    assert [nodes.ask(wages(nodes, first)) for _ in range(3)] == ["done", "done", "refused"]
    assert nodes.reason[1] == "linkage_used_up" and nodes.error.fields["limit"] == "3"
    assert all(kept(house)[first] is None for house in nodes.houses.values()), "it ends with the last job"
    refused = {}
    for name, house in nodes.houses.items():
        nodes.submit(wages(nodes, first))
        (task,) = nodes.office.jobs.tasks(name)
        nodes._deliver(name, house.answer(task))
        refused[name] = nodes.reason
    assert refused == {name: (name, "linkage_used_up") for name in HOLDERS}
    assert nodes.ask(wages(nodes)) == "done", "linked anew"


def test_a_job_counts_once_when_it_is_approved_whatever_becomes_of_it(nodes: JointNodes) -> None:
    first, house = linked(nodes), nodes.houses["social"]
    assert counted(house, first) == 1
    nodes.submit(wages(nodes, first))
    (task,) = nodes.office.jobs.tasks("social")
    assert house.answer(task) == house.answer(task)
    assert counted(house, first) == 2
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()
    assert nodes.ask(wages(nodes, first)) == "done"
    assert (counted(house, first), counted(nodes.houses["tax"], first)) == (3, 2)


def test_a_later_job_is_no_linkage_itself(nodes: JointNodes) -> None:
    first = linked(nodes)
    assert nodes.ask(wages(nodes, first)) == "done"
    assert nodes.ask(wages(nodes, nodes.id.hex())) == "refused"
    assert nodes.reason[1] == "linkage_gone"


def test_a_person_is_not_asked_about_a_linkage_that_is_gone(nodes: JointNodes) -> None:
    house = nodes.houses["tax"]
    house.policy = house.policy.model_copy(update={"ask_for_new_questions": True})
    try:
        assert nodes.ask(wages(nodes, "0b" * 16)) == "refused"
        assert nodes.reason[1] == "linkage_gone"
        # One that is there counts when the person has decided.
        house.policy = type(house.policy)()
        first = linked(nodes)
        house.policy = house.policy.model_copy(update={"ask_for_new_questions": True})
        nodes.submit(wages(nodes, first))
        (task,) = nodes.office.jobs.tasks("tax")
        house.answer(task)
        assert counted(house, first) == 1
        house.node._ledger.decide(nodes.id, Decision(True, ""), "", NOW)
        house.answer(task)
        assert counted(house, first) == 2
    finally:
        house.policy = type(house.policy)()
        nodes.office.jobs.cancel(nodes.id, MERCHANT)
        nodes.tell_of_the_end()


# --- when nothing is kept --------------------------------------------------------------------------------------


def test_where_it_is_not_agreed_nothing_is_kept(tmp_path: Path) -> None:
    with quick_keys():
        nodes = JointNodes(tmp_path / "space")
        try:
            assert nodes.ask(wages(nodes)) == "done"
            assert is_empty(nodes)
        finally:
            nodes.close()


def test_other_modes_leave_nothing(own_nodes: JointNodes) -> None:
    for mode in (Mode.HIDDEN, Mode.CARDINALITY):
        assert own_nodes.ask(own_nodes.plan(mode, "tax", "social", "patents")) == "done"
    assert is_empty(own_nodes)


def test_a_job_that_breaks_off_leaves_nothing_to_whom_it_still_waits_for(own_nodes: JointNodes) -> None:
    nodes = own_nodes
    assert nodes.ask(wages(nodes), absent=("patents",)) == "waiting_for_messages"
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()
    assert is_empty(nodes)
    with nodes.houses["social"].cheating(Kind.ROWS, lambda sent: sent[:-1]):
        assert nodes.ask(wages(nodes)) == "failed"
    assert not kept(nodes.houses["tax"]) and not kept(nodes.houses["social"])
    assert nodes.ask(wages(nodes, nodes.id.hex())) == "refused"
    assert nodes.reason[1] == "linkage_gone"


@pytest.mark.parametrize("who", ["tax", "patents"])
def test_a_restart_ends_a_linkage(nodes: JointNodes, who: str) -> None:
    first = linked(nodes)
    nodes.houses[who].restart()
    assert nodes.ask(wages(nodes, first)) == "refused"
    assert nodes.reason == (who, "linkage_gone")
    assert "without `linkage`" in nodes.error.what_to_do


def test_a_restart_in_a_later_job_ends_that_job(nodes: JointNodes) -> None:
    first = linked(nodes)
    nodes.submit(wages(nodes, first))
    nodes.work()
    nodes.houses["social"].restart()
    assert nodes.go_on() == "failed"
    assert nodes.reason == ("social", "linkage_lost")


def test_new_data_end_a_linkage(own_nodes: JointNodes) -> None:
    """Also where the merchant asks for the old ones, which are still there."""
    nodes, house = own_nodes, own_nodes.houses["tax"]
    first, manifest = linked(nodes), nodes.question.manifest
    dataset = nodes.world.datasets["tax"]
    source = house.folder / "table.csv"
    dataset.frame.assign(sales=(dataset.frame.sales + 1) % 1000).to_csv(source, index=False)
    publish(
        house.snapshots,
        source,
        dataset.schema,
        now=datetime.fromtimestamp(NOW, UTC),
        version_key=seeded("storage key of tax")(32),
        publisher=publisher("tax"),
    )
    assert nodes.ask(wages(nodes, first)) == "refused"
    assert nodes.reason[1] == "linkage_differs" and "the data of tax" in nodes.error.public
    old = changed(manifest, job_id="0c" * 16, number=90, plan=wages(nodes, first))
    nodes.signed = signed_by(MERCHANT, old)
    nodes.id = nodes.office.jobs.submit(nodes.signed, MERCHANT)
    assert nodes.go_on() == "refused"
    assert nodes.reason == ("tax", "linkage_gone")
    house.node.forget_expired()
    assert not kept(house) and kept(nodes.houses["social"])


def test_a_firm_that_withdraws_is_in_no_later_job(own_nodes: JointNodes) -> None:
    nodes, house = own_nodes, own_nodes.houses["tax"]
    first = linked(nodes)
    firm = sorted(known_to_all(nodes))[0]
    seal = Seal(datetime.fromtimestamp(NOW + 1, UTC), seeded("storage key of tax")(32), publisher("tax"))
    withdraw(house.snapshots, "tax.firms", [firm], seal)
    house.node.forget_expired()
    assert not kept(house)
    assert nodes.ask(wages(nodes, first)) == "refused"
    assert nodes.reason[1] in ("linkage_gone", "linkage_differs")
    assert nodes.ask(wages(nodes)) == "done"
    assert sum(one or 0 for one in subjects(nodes)) == len(known_to_all(nodes)) - 1


def test_a_house_that_stops_keeps_nothing(own_nodes: JointNodes) -> None:
    nodes, house = own_nodes, own_nodes.houses["tax"]
    first = linked(nodes)
    house.node._ledger.stop(Stop(StopKind.DATASET, "tax.firms", "an incident", NOW))
    assert nodes.ask(wages(nodes, first)) == "refused"
    assert nodes.reason == ("tax", "stopped")
    house.node.forget_expired()
    assert not kept(house) and kept(nodes.houses["social"])


def test_an_agreement_that_is_suspended_ends_its_linkages(own_nodes: JointNodes) -> None:
    nodes = own_nodes
    linked(nodes)
    notice = nodes.world.notice("social", Word.SUSPEND)
    for house in nodes.houses.values():
        house.node.take_up_agreement(AgreementEvidence(signatures=nodes.world.signatures(), notices=[notice]))
        house.node.forget_expired()
    assert is_empty(nodes)


def test_it_ends_after_thirty_days(own_nodes: JointNodes) -> None:
    linked(own_nodes)
    house = own_nodes.houses["tax"]
    house.now = NOW + KEPT_SECONDS
    house.node.forget_expired()
    assert kept(house)
    house.now += 1
    house.node.forget_expired()
    assert not kept(house)


def test_it_ends_with_its_agreement_also_before_it_is_dropped(nodes: JointNodes) -> None:
    first, several = linked(nodes), KeptLinkages("tax")
    made, ends = nodes.question, nodes.question.agreement.not_after
    nodes.submit(wages(nodes, first))
    later = nodes.question
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()
    for since, until in ((ends - 60, ends), (NOW, NOW + KEPT_SECONDS)):
        several.keep(made, frozenset(), since)
        assert several.find(later, until).until == until
        with pytest.raises(LinkageGone):
            several.find(later, until + 1)


# --- how much is kept ------------------------------------------------------------------------------------------


def test_of_too_many_the_oldest_is_dropped(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(nodes)
    question, several = nodes.question, KeptLinkages("tax")
    jobs = [seeded(f"linkage {number}")(16).hex() for number in range(kept_linkages.MOST_KEPT + 1)]
    for job in jobs:
        several.keep(of_job(question, job), frozenset(), NOW)
    assert list(several._by_job) == jobs[1:]
    monkeypatch.setattr(kept_linkages, "MOST_SUBJECTS", 5)
    for number, job in enumerate(jobs[:3]):
        several.keep(of_job(question, job), frozenset(b"%d %d" % (number, one) for one in range(2)), NOW)
    assert list(several._by_job) == jobs[1:3]


def of_job(question: JointQuestion, job: str) -> JointQuestion:
    return replace(question, manifest=changed(question.manifest, job_id=job))
