"""Joint jobs that link subjects by tokens, among real nodes and a real coordinator: what comes of them, who is refused,
and that nothing of one that has ended is kept (PROTOCOL §5.2, §5.3)."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ceiba_coordinator import joint as coordinator_joint
from ceiba_node.answering import LOG_TIME
from ceiba_node.house_rules import Policy
from ceiba_node.linking import Linking, Session
from ceiba_node.own_side import OwnSide
from ceiba_protocol.errors import CeibaError, SetMismatch
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.linkage.joint import JointApproval, JointMessage, JointPlan, Kind
from ceiba_protocol.linkage.oprf import JobKey
from ceiba_protocol.plan import ByColumn, Named
from ceiba_protocol.program import Comparison
from ceiba_protocol.rounds import CLOCK_TOLERANCE
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import Mode
from tests.support.joint_nodes import JointNodes, quick_keys
from tests.support.members import MERCHANT, resigned
from tests.support.seeded import seeded

HOLDERS = ("patents", "social", "tax")
Change = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("joint") / "space")
        yield made
        made.close()


def two(nodes: JointNodes, **plans: Any) -> JointPlan:
    return nodes.plan(Mode.CARDINALITY, "tax", "social", **plans)


def three(nodes: JointNodes, **plans: Any) -> JointPlan:
    return nodes.plan(Mode.CARDINALITY, "tax", "social", "patents", **plans)


def revealing(nodes: JointNodes) -> JointPlan:
    """Wages of firms by industry, of those that all three know; the tax office asks of firms that sell a lot."""
    by_industry = nodes.counts(
        "tax", groups=(ByColumn(name="industry", column="industry"),), filter=more_than("sales", 300)
    )
    wages = (Named(name="wages", statistic=Sum(value=ColumnValue(name="wages"))), Named(name="n", statistic=Subjects()))
    plans = {"tax": by_industry, "social": nodes.counts("social", outputs=wages)}
    return nodes.plan(Mode.REVEALED, "tax", "social", linked=("patents",), **plans)


def more_than(column: str, value: int) -> Comparing:
    left, right = ColumnValue(name=column), Number(value=str(value))
    return Comparing(comparison=Comparison.GREATER, left=left, right=right)


def known(nodes: JointNodes, *names: str) -> set[str]:
    return set.intersection(*(set(nodes.world.datasets[name].frame.uscc) for name in names))


def number(nodes: JointNodes) -> int | None:
    ((table,),) = nodes.opened().values()
    return table.subjects[0]


def assert_nothing_is_kept(nodes: JointNodes) -> None:
    assert not nodes.kept()
    assert [house.session for house in nodes.houses.values()] == [None] * 3


# --- what comes of it ------------------------------------------------------------------------------------------


def test_two_holders_count_what_they_have_in_common(nodes: JointNodes) -> None:
    assert nodes.ask(two(nodes)) == "done"
    assert number(nodes) == len(known(nodes, "tax", "social")) == 40
    assert [step.kind for step in nodes.question.steps] == [Kind.OFFER, Kind.REPLY, Kind.SIZE]
    assert len(nodes.kept()) == 1, "more is kept than what the merchant may ask for"


def test_holders_count_after_their_filters_and_round(nodes: JointNodes) -> None:
    tax, social = (nodes.world.datasets[name].frame for name in ("tax", "social"))
    both = set(tax[tax.sales > 300].uscc) & set(social[social.employment > 7].uscc)
    assert (len(both), len(both & known(nodes, "patents"))) == (28, 14)
    filters = {
        "tax": nodes.counts("tax", filter=more_than("sales", 300)),
        "social": nodes.counts("social", filter=more_than("employment", 7)),
    }
    assert (nodes.ask(two(nodes, **filters)), number(nodes)) == ("done", 30)
    filtered = sizes_between_holders(nodes)
    assert (nodes.ask(three(nodes, **filters)), number(nodes)) == ("done", 10)
    # What a filter leaves shows in no message, only in the answer.
    assert (nodes.ask(two(nodes)), number(nodes)) == ("done", 40)
    assert sizes_between_holders(nodes) == filtered


def sizes_between_holders(nodes: JointNodes) -> list[int]:
    return [len(message.body) for message in nodes.office.store.joint_messages(nodes.id).values()]


def test_figures_are_of_the_subjects_that_all_have(nodes: JointNodes) -> None:
    assert nodes.ask(revealing(nodes)) == "done"
    ((table,),) = nodes.opened().values()
    tax, social = (nodes.world.datasets[name].frame for name in ("tax", "social"))
    both = tax[tax.sales > 300].merge(social, on="uscc")
    all_three = both[both.uscc.isin(known(nodes, *HOLDERS))]
    wages, firms = all_three.groupby("industry").wages.sum(), all_three.groupby("industry").uscc.nunique()
    width = len(table.program.sums)
    found = {
        label: (table.totals[place * width : (place + 1) * width], table.subjects[place])
        for place, (label,) in enumerate(table.program.labels())
    }
    for industry in ("food", "steel"):
        totals, subjects = found[industry]
        assert (wages[industry] in totals, subjects) == (True, firms[industry])
    assert 0 < sum(firms) < both.uscc.nunique(), "the third holder's part would not show"


def test_each_holder_learns_which_of_its_own_all_have_and_nothing_of_filters(
    nodes: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a build that links those who pass the filter, social learns which of its firms sell a lot."""
    learnt: dict[str, set[bytes]] = {}
    compute = Linking._compute

    def spying(linking: Linking, session: Session, *arguments: Any) -> bytes:
        payload = compute(linking, session, *arguments)
        learnt.setdefault(linking.name, set()).update(session.common or ())
        return payload

    monkeypatch.setattr(Linking, "_compute", spying)
    assert nodes.ask(revealing(nodes)) == "done"
    everybody = {name.encode() for name in known(nodes, *HOLDERS)}
    assert learnt["social"] == learnt["tax"] == everybody

    monkeypatch.setattr(OwnSide, "linked", those_who_pass)
    learnt.clear()
    assert nodes.ask(revealing(nodes)) == "done"
    tax = nodes.world.datasets["tax"].frame
    assert learnt["social"] == {one.encode() for one in tax[tax.sales > 300].uscc} & everybody != everybody


def those_who_pass(own: OwnSide) -> list[bytes]:
    """As `OwnSide.linked`, with the filter."""
    return own._subjects(is_filtered=True)


def test_tokens_are_others_in_every_job_and_in_no_log(nodes: JointNodes, capsys: pytest.CaptureFixture[str]) -> None:
    """And so whoever sends those of an earlier job has nobody in common with the others."""
    sent: list[bytes] = []

    def first(payload: bytes) -> bytes:
        sent.append(payload)
        return sent[0]

    with nodes.houses["tax"].cheating(Kind.TOKENS, first):
        assert (nodes.ask(three(nodes)), number(nodes)) == ("done", 20)
        assert nodes.ask(three(nodes)) == "failed"
    assert nodes.reason == ("coordinator", "intersection_too_small")
    assert_nothing_is_kept(nodes)
    one, other = ({payload[at : at + 32] for at in range(0, len(payload), 32)} for payload in sent)
    assert len(one) == len(other) == 52 and not one & other
    printed = "".join(capsys.readouterr())
    assert "job.linked" in printed and not any(token.hex() in printed or repr(token) in printed for token in one)


def test_a_key_for_tokens_is_in_memory_alone_and_goes_with_the_job(nodes: JointNodes) -> None:
    nodes.submit(revealing(nodes))
    nodes.work()
    nodes.work()
    keys = [house.session.token_key for house in nodes.houses.values() if house.session]
    assert len(keys) == 3 and all(keys)
    for house in nodes.houses.values():
        assert not any(key.secret in house.files() for key in keys if key)
    # Once it is revealed what all have, tokens are of no more use; the joins go on without them.
    while not nodes.houses["tax"].session or not nodes.houses["tax"].session.common:
        assert nodes.work()
    assert nodes.houses["tax"].session.token_key is nodes.houses["tax"].session.tokens is None
    assert nodes.go_on() == "done"
    assert [house.session for house in nodes.houses.values()] == [None] * 3


# --- holders that send something else ---------------------------------------------------------------------------

CHEATS: dict[str, tuple[str, Kind, Change, str, str]] = {
    # what: (how many holders, in which message of social, what it sends instead, who refuses it, with which error)
    "the identity, to be evaluated": (
        "three", Kind.BLINDED, lambda sent: bytes(32) + sent[32:], "patents", "bad_group_element",
    ),
    "more points than announced": ("three", Kind.BLINDED, lambda sent: sent + sent[:32], "patents", "count_not_kept"),
    "a wrong proof": ("three", Kind.EVALUATED, lambda sent: sent[:-1] + bytes([sent[-1] ^ 1]), "tax", "bad_key_use"),
    "a token twice": ("three", Kind.TOKENS, lambda sent: sent[:32] + sent[:-32], "coordinator", "bad_tokens"),
    "a token too few": ("two", Kind.REPLY, lambda sent: sent[:-32], "tax", "malformed_message"),
}  # fmt: skip
"""More of them in tests/protocol/linkage/test_token_steps.py."""


@pytest.mark.parametrize("what", CHEATS)
def test_a_holder_that_cheats_ends_the_job_and_is_named(nodes: JointNodes, what: str) -> None:
    holders, kind, change, by, code = CHEATS[what]
    with nodes.houses["social"].cheating(kind, change):
        assert nodes.ask(two(nodes) if holders == "two" else three(nodes)) == "failed"
    assert nodes.reason == (by, code)
    assert "social" in nodes.error.public
    assert_nothing_is_kept(nodes)


def test_a_message_of_another_job_is_not_taken(nodes: JointNodes) -> None:
    """Its sender signs it anew for this one; it stays bound to the other's keys."""
    assert nodes.ask(three(nodes)) == "done"
    first = nodes.office.store.joint_messages(nodes.id)[0]
    nodes.submit(three(nodes))
    nodes.work()
    again = resigned(first, JointMessage, job_id=nodes.id.hex(), manifest_digest=nodes.question.digest)
    with pytest.raises(SetMismatch, match="another job's"):
        nodes.office.jobs.take_message(again, b"", first.signer)
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()


def test_holders_take_only_their_own_tokens_from_the_coordinator(
    nodes: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = coordinator_joint.coordinator_link
    monkeypatch.setattr(coordinator_joint, "coordinator_link", lambda *sent: bytes(32) + link(*sent)[32:])
    assert nodes.ask(revealing(nodes)) == "failed"
    assert nodes.reason == ("tax", "bad_tokens")
    assert_nothing_is_kept(nodes)


def test_few_in_common_are_not_even_counted(nodes: JointNodes) -> None:
    tax = nodes.world.datasets["tax"].frame
    assert 0 < len(known(nodes, "tax", "social") & set(tax[tax.sales > 940].uscc)) < 3
    few = {"tax": nodes.counts("tax", filter=more_than("sales", 940))}
    assert nodes.ask(two(nodes, **few)) == "failed"
    assert nodes.reason == ("tax", "intersection_too_small")
    assert nodes.ask(three(nodes, **few)) == "failed"
    assert nodes.reason == ("coordinator", "intersection_too_small")
    assert_nothing_is_kept(nodes)


def test_a_house_links_no_more_subjects_of_others_than_it_allows(nodes: JointNodes) -> None:
    social = nodes.houses["social"]
    try:
        social.policy = Policy(subjects_per_job=51)
        assert nodes.ask(two(nodes)) == "failed"
        assert nodes.reason == ("social", "linkage_too_large")
        social.policy = Policy(subjects_per_job=52)
        assert nodes.ask(two(nodes)) == "done"
    finally:
        social.policy = Policy()


def test_a_key_that_its_holder_does_not_know_is_refused(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say, its own less those of the others, so that all keys together are one that it does know."""
    announce, others = JobKey.announce, JobKey(bytes(32), "others", seeded("others")).public

    def foreign(key: JobKey, size: int) -> bytes:
        announcement = announce(key, size)
        return announcement[:8] + others + announcement[40:] if "tax" in repr(key) else announcement

    monkeypatch.setattr(JobKey, "announce", foreign)
    assert nodes.ask(three(nodes)) == "failed"
    assert nodes.reason[1] == "bad_key_use"
    assert "tax" in nodes.error.public
    assert_nothing_is_kept(nodes)


def test_a_holder_announces_one_number_and_not_more_than_it_can_have(nodes: JointNodes) -> None:
    nodes.submit(three(nodes))
    (task,) = nodes.office.jobs.tasks("social")
    signed = nodes.houses["social"].answer(task).signed  # type: ignore[union-attr]
    for changes in ({"subjects": 200}, {"token_key": None}):
        with pytest.raises(CeibaError, match="social"):
            nodes.office.jobs.approve(resigned(signed, JointApproval, **changes), "social")
    # Fewer than its key is announced for: nobody could tell which of the two numbers holds.
    nodes.office.jobs.approve(resigned(signed, JointApproval, subjects=51), "social")
    assert nodes.go_on() == "failed"
    assert nodes.reason[1] == "set_mismatch"
    assert_nothing_is_kept(nodes)


# --- holders that drop out -------------------------------------------------------------------------------------


def half_way(nodes: JointNodes, plan: JointPlan) -> None:
    """The patent office has approved, and does nothing more: everybody else's messages are there."""
    assert nodes.ask(plan, absent=("patents",)) == "waiting_for_messages"
    assert nodes.kept()
    assert all(house.session for house in nodes.houses.values())


def test_of_a_job_that_expires_half_way_nothing_is_kept(nodes: JointNodes) -> None:
    half_way(nodes, revealing(nodes))
    office, question = nodes.office, nodes.question
    try:
        office.now = question.manifest.not_after + 1
        assert office.jobs.expire() == [nodes.id]
        assert nodes.state == "expired"
        assert not nodes.kept()
        nodes.tell_of_the_end()
        assert_nothing_is_kept(nodes)
    finally:
        office.now = question.manifest.not_before


def test_nor_after_the_coordinator_has_been_restarted(nodes: JointNodes) -> None:
    half_way(nodes, three(nodes))
    nodes.office.restart()
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    assert not nodes.kept()
    nodes.tell_of_the_end()
    assert_nothing_is_kept(nodes)


def test_a_restarted_coordinator_goes_on(nodes: JointNodes) -> None:
    half_way(nodes, three(nodes))
    nodes.office.restart()
    assert nodes.go_on() == "done"
    assert number(nodes) == 20


def test_a_node_that_nobody_tells_of_the_end_forgets_by_itself(nodes: JointNodes) -> None:
    half_way(nodes, three(nodes))
    house, question = nodes.houses["tax"], nodes.question
    try:
        house.now = question.manifest.not_after + LOG_TIME + CLOCK_TOLERANCE + 1
        house.node.forget_expired()
        assert house.session is None
    finally:
        house.now = question.manifest.not_before
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    nodes.tell_of_the_end()


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_node_that_was_restarted_has_lost_its_key(nodes: JointNodes, has_begun: bool) -> None:
    nodes.submit(three(nodes))
    for _ in range(2 if has_begun else 1):
        nodes.work()
    nodes.houses["social"].restart()
    assert nodes.go_on() == "failed"
    assert nodes.reason == ("social", "linkage_lost")
    assert_nothing_is_kept(nodes)
