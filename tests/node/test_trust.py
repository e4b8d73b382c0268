"""What people at a holder decide, and what its node does: agreements, the inbox, stops, leaving, near sets."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.contracts import Contracts
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger, Left
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_node.responding import Pending, Reply
from ceiba_protocol.errors import BadSignature, NotWaiting, UnknownAgreement
from ceiba_protocol.rounds import abort
from ceiba_protocol.trust.agreement import DAY, State, Word
from ceiba_protocol.trust.documents import AbortToken, Approval, Offer, Refusal
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import (
    MERCHANT,
    NOW,
    ROWS,
    World,
    changed,
    officer,
    publisher,
    signed_by,
    signing_key,
)
from tests.support.one_node import ME, SECOND, STORAGE_KEY, THIRD, Node

FOUR = {**ROWS, "lille": ROWS["zurich"]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.answering.close()


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Node]:
    """A node under an agreement of four holders, one of whom may leave a job."""
    made = Node(tmp_path, rows=FOUR, smallest_set=3)
    yield made
    made.answering.close()


def refusal_of(reply: Any, code: str) -> Refusal:
    assert isinstance(reply, Reply) and reply.payload == b""
    refusal = World(FOUR).roster.open(reply.signed, Refusal, Role.HOLDER)
    assert refusal.code == code
    return refusal


def stop(node: Node, kind: StopKind = StopKind.ALL, name: str = "", reason: str = "") -> None:
    """As `ceiba-node stop` does, in another process."""
    ledger = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY)
    ledger.stop(Stop(kind, name, reason, NOW))
    ledger.close()


# --- agreements --------------------------------------------------------------------------------------------------


def test_nothing_is_answered_under_an_agreement_that_is_not_known(node: Node) -> None:
    unknown = node.world.make_agreement(agreement_id="0f" * 16)
    node.world.agreement = unknown
    refusal_of(node.approve(), "unknown_agreement")
    node.learn(unknown)
    assert Approval.parse(node.approve().signed.body).holder == ME


def test_nor_before_every_party_has_signed(node: Node) -> None:
    node.world.agreement = node.world.make_agreement(agreement_id="0f" * 16)
    *but_one, last = node.world.signatures()
    node.answering.take_up_agreement(AgreementEvidence(signatures=but_one))
    refusal_of(node.approve(), "agreement_not_active")
    node.answering.take_up_agreement(AgreementEvidence(signatures=[last]))
    assert isinstance(node.approve(), Reply) and node.ledger.answer(node.id) is not None


@pytest.mark.parametrize("word", [Word.SUSPEND, Word.TERMINATE, Word.REFUSE])
def test_nor_after_a_party_has_ended_it_also_for_what_was_approved(node: Node, word: Word) -> None:
    approvals = node.approvals()
    node.learn(notices=[node.world.notice(SECOND, word)])
    refusal_of(node.contribute(approvals), "agreement_not_active")
    node.restart()
    refusal_of(node.contribute(approvals), "agreement_not_active")
    assert node.ledger.counts()["answered"] == 0


def test_a_coordinator_that_leaves_a_notice_out_does_not_undo_it(node: Node) -> None:
    node.learn(notices=[node.world.notice(SECOND, Word.SUSPEND)])
    node.learn()
    refusal_of(node.approve(), "agreement_not_active")
    node.learn(notices=[node.world.notice(SECOND, Word.RESUME, number=2)])
    assert node.ledger.answer(node.id) is None and Approval.parse(node.approve().signed.body)


def test_evidence_with_one_false_part_is_taken_up_not_at_all(node: Node) -> None:
    node.world.agreement = node.world.make_agreement(agreement_id="0f" * 16)
    false = sign(node.world.agreement, SECOND, signing_key(SECOND))
    for bad in (AgreementEvidence(), AgreementEvidence(signatures=[*node.world.signatures()[:2], false])):
        with pytest.raises(Exception, match=r"signed|signature"):
            node.answering.take_up_agreement(bad)
    assert len(Contracts(node.ledger, node.world.roster).all()) == 1


def test_a_signature_of_this_house_counts_without_the_coordinator(node: Node) -> None:
    node.world.agreement = agreement = node.world.make_agreement(agreement_id="0f" * 16)
    others = [signed for signed in node.world.signatures() if signed.signer != ME]
    node.answering.take_up_agreement(AgreementEvidence(signatures=others))
    own = signed_by(ME, agreement)
    node.ledger.record_signature(agreement.digest(), own, NOW)
    assert Contracts(node.ledger, node.world.roster).get(agreement.digest()).state(NOW) is State.ACTIVE
    assert Approval.parse(node.approve().signed.body)
    assert node.answering.to_upload() == [own]
    node.answering.mark_uploaded(own)
    assert node.answering.to_upload() == []


@pytest.mark.parametrize("text", ["", "0", "nothing", "0a" * 17])
def test_an_agreement_is_found_by_the_beginning_that_is_its_own(node: Node, text: str) -> None:
    node.learn(node.world.make_agreement(agreement_id="0f" * 16, merchant="bank-b"))
    known = Contracts(node.ledger, node.world.roster)
    assert known.find("0f0").agreement.merchant.name == "bank-b"
    assert known.find(node.world.agreement.digest()[:10]).agreement == node.world.agreement
    with pytest.raises(UnknownAgreement):
        known.find(text)


def test_a_number_is_one_job_for_ever(node: Node) -> None:
    node.approve()
    node.answering.forget(node.id)
    node.restart()
    node.ask("0c", 1)
    refusal_of(node.approve(), "number_used")
    node.ask("0d", 2)
    assert Approval.parse(node.approve().signed.body)


def test_quotas_begin_anew_at_midnight_utc_and_survive_a_restart(node: Node) -> None:
    node.policy = Policy(jobs_per_day=1)
    midnight = NOW - NOW % DAY + DAY
    for second, jobs in ((-1, "0c"), (0, "0d")):
        node.ask(jobs, int(jobs[1], 16))
        node.now = midnight + second
        manifest = node.world.signed_manifest(not_before=node.now, not_after=node.now + 60)
        assert Approval.parse(node.approve(manifest).signed.body).holder == ME
        node.restart()
        node.ask("0e", 14)
        late = node.world.signed_manifest(not_before=node.now, not_after=node.now + 60)
        refusal_of(node.approve(late), "quota_exceeded")


# --- duties ------------------------------------------------------------------------------------------------------


def test_the_publishers_key_signs_no_agreement_and_the_nodes_own_neither(node: Node) -> None:
    agreement = node.world.make_agreement(agreement_id="0f" * 16)
    for key in (publisher(SECOND), signing_key(SECOND)):
        with pytest.raises(BadSignature):
            node.answering.take_up_agreement(AgreementEvidence(signatures=[sign(agreement, SECOND, key)]))
    node.answering.take_up_agreement(AgreementEvidence(signatures=[sign(agreement, SECOND, officer(SECOND))]))


@pytest.mark.parametrize("key", [officer(ME), signing_key(ME), publisher(SECOND)], ids=["officer", "node", "stranger"])
def test_data_that_the_publisher_did_not_publish_is_neither_offered_nor_answered(node: Node, key: Any) -> None:
    node.publisher = key
    node.publish(ROWS[ME])
    assert node.answering.offers() == {}
    refusal_of(node.approve(), "bad_signature")
    node.publisher = publisher(ME)
    node.publish(ROWS[ME])
    ((signed, _),) = node.answering.offers().values()
    assert node.world.roster.open(signed, Offer, Role.HOLDER).version == node.world.pins[ME].version


# --- a person decides --------------------------------------------------------------------------------------------


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Node]:
    """A node under an agreement by which a person decides on each job."""
    made = Node(tmp_path, approval="each job")
    yield made
    made.answering.close()


def decide(node: Node, approved: bool, reason: str = "", private: str = "") -> None:
    """As `ceiba-node approvals` does, in another process."""
    ledger = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY)
    ledger.decide(node.id, Decision(approved, reason), private, NOW)
    ledger.close()


def test_a_job_waits_for_its_person_and_is_answered_then(asking: Node) -> None:
    assert asking.approve() == asking.approve() == Pending(asking.id)
    assert list(asking.answering.decided()) == [] and asking.ledger.counts()["approved"] == 0
    asking.restart()
    decide(asking, True)
    (reply,) = asking.answering.decided()
    assert Approval.parse(reply.signed.body).attempt == 0
    assert list(asking.answering.decided()) == []  # sent once; the coordinator asks again if it was lost
    assert asking.approve() == reply
    assert asking.contribute(asking.approvals()).payload


def test_the_merchant_reads_one_reason_and_the_house_another(asking: Node) -> None:
    asking.approve()
    decide(asking, False, "outside the study", "third time this week")
    (reply,) = asking.answering.decided()
    assert refusal_of(reply, "refused_by_person").fields["reason"] == "outside the study"
    assert b"third time" not in reply.signed.SerializeToString()
    waiting = asking.ledger.waiting(asking.id)
    assert waiting is not None and waiting.private_reason == "third time this week"
    refusal_of(asking.approve(), "refused_by_person")


def test_a_decision_is_made_once_and_only_on_what_waits(asking: Node) -> None:
    with pytest.raises(NotWaiting):
        decide(asking, True)
    asking.approve()
    decide(asking, False, "no")
    with pytest.raises(NotWaiting):
        decide(asking, True)


def test_other_rules_count_when_the_person_has_approved(asking: Node) -> None:
    asking.approve()
    decide(asking, True)
    stop(asking)
    (reply,) = asking.answering.decided()
    refusal_of(reply, "stopped")


def test_a_job_that_has_ended_waits_for_nobody(asking: Node) -> None:
    assert isinstance(asking.approve(), Pending)
    asking.answering.forget(asking.id)
    assert asking.ledger.undecided(NOW) == []
    with pytest.raises(NotWaiting):
        asking.ledger.decide(asking.id, Decision(approved=True, reason=""), "", NOW)
    assert list(asking.answering.decided()) == []


def test_what_nobody_decided_in_time_is_not_shown_any_more(asking: Node) -> None:
    asking.approve()
    assert [one.job_id for one in asking.ledger.undecided(NOW + 60)] == [asking.id]
    assert asking.ledger.undecided(NOW + 61) == []


# --- stops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stop_counts_at_once_and_after_a_restart(node: Node, restarted: bool) -> None:
    approvals = node.approvals()
    stop(node, reason="they lied to us")
    if restarted:
        node.restart()
    reply = node.contribute(approvals)
    refusal_of(reply, "stopped")
    assert b"lied" not in reply.signed.body
    node.ask("0c", 2)
    refusal_of(node.approve(), "stopped")


def test_what_is_stopped_is_not_even_sent_again(node: Node) -> None:
    approvals = node.approvals()
    first = node.contribute(approvals)
    stop(node, StopKind.MERCHANT, MERCHANT)
    refusal_of(node.contribute(approvals), "stopped")
    assert node.ledger.resume(StopKind.MERCHANT, MERCHANT)
    assert node.contribute(approvals) == first


def test_only_what_is_stopped_stops(node: Node) -> None:
    stop(node, StopKind.MERCHANT, "bank-b")
    assert node.contribute(node.approvals()).payload


# --- leaving, and going on without those who left ----------------------------------------------------------------


def token_of(reply: Any) -> AbortToken:
    assert reply.token is not None
    return World(FOUR).roster.open(reply.token, AbortToken, Role.HOLDER)


def test_who_refuses_lets_the_others_go_on_where_that_is_agreed(leaving: Node) -> None:
    stop(leaving)
    reply = leaving.approve()
    refusal_of(reply, "stopped")
    assert token_of(reply) == abort(leaving.world.read(), ME)
    left = Ledger(leaving.folder / "ledger.sqlite3", STORAGE_KEY).left(leaving.id)
    assert left == Left(reply.signed, reply.token)


def test_where_all_must_answer_a_refusal_brings_no_token(node: Node) -> None:
    stop(node)
    assert node.approve().token is None


def test_who_has_left_never_comes_back(leaving: Node) -> None:
    """Also when the reason is gone, after a restart, and in a later attempt."""
    approvals = leaving.approvals()
    stop(leaving)
    first = leaving.contribute(approvals)
    assert first.token is not None
    leaving.ledger.resume(StopKind.ALL, "")
    for _ in range(2):
        assert leaving.contribute(approvals) == first
        assert leaving.approve() == leaving.approve(attempt=1) == first
        leaving.restart()
    assert leaving.ledger.counts() == {"approved": 1, "answered": 0, "left": 1}


def test_who_has_submitted_gives_no_token(leaving: Node) -> None:
    approvals = leaving.approvals()
    assert leaving.contribute(approvals).payload
    stop(leaving)
    for reply, code in ((leaving.contribute(approvals), "stopped"), (leaving.approve(attempt=1), "second_payload")):
        refusal_of(reply, code)
        assert reply.token is None
    assert leaving.ledger.counts()["left"] == 0


def test_a_peers_fault_brings_no_token(leaving: Node) -> None:
    """Else the coordinator could push a holder out of a job by showing it a false set."""
    approvals = leaving.approvals()
    reply = leaving.contribute(approvals[:3])
    refusal_of(reply, "set_mismatch")
    assert reply.token is None and leaving.contribute(approvals).payload


ORDERS = list(itertools.product(["approve", "contribute", "stop", "resume", "restart"], repeat=4))


@pytest.mark.parametrize("order", ORDERS[::23], ids="-".join)
def test_never_a_token_and_a_submission_in_whatever_order(leaving: Node, order: tuple[str, ...]) -> None:
    approvals = leaving.approvals()
    sent: list[Any] = []
    steps: dict[str, Callable[[], Any]] = {
        "approve": lambda: sent.append(leaving.approve(attempt=1)),
        "contribute": lambda: sent.append(leaving.contribute(approvals)),
        "stop": lambda: stop(leaving),
        "resume": lambda: leaving.ledger.resume(StopKind.ALL, ""),
        "restart": leaving.restart,
    }
    for step in (*order, "contribute", "stop", "contribute", "resume", "contribute"):
        steps[step]()
    tokens, submissions = {bool(one.token) for one in sent}, {bool(one.payload) for one in sent}
    assert not (True in tokens and True in submissions)


def without(node: Node, name: str, attempt: int) -> tuple[list[Signed], list[Signed]]:
    """The approvals of those who remain, and the token of the one who left."""
    question = node.world.read()
    rest = [
        node.approve(attempt=attempt).signed if one == ME else node.world.approval(one, question, attempt=attempt)
        for one in node.world.holders
        if one != name
    ]
    return rest, [node.world.abort(name, question)]


def test_who_has_submitted_answers_no_smaller_set_of_the_job(leaving: Node) -> None:
    """Whatever tokens there are: one of a holder that was put back to an older state would be false."""
    approvals = leaving.approvals()
    rest, tokens = without(leaving, "lille", 1)
    assert leaving.contribute(approvals).payload == b""  # it has approved the newer attempt by now
    leaving.restart()
    assert leaving.contribute(rest, tokens).payload
    refusal_of(leaving.contribute(approvals), "set_mismatch")
    refusal_of(leaving.approve(attempt=2), "second_payload")


def test_a_smaller_set_is_answered_with_the_token_of_who_left(leaving: Node) -> None:
    rest, tokens = without(leaving, "lille", 1)
    reply = leaving.contribute(rest, tokens)
    assert reply.payload
    leaving.restart()
    assert leaving.contribute(rest, tokens) == reply


def test_a_smaller_set_without_a_token_or_with_a_false_one_is_refused(leaving: Node) -> None:
    rest, (token,) = without(leaving, "lille", 1)
    refusal_of(leaving.contribute(rest), "set_mismatch")
    refusal_of(leaving.contribute(rest, [changed_signature(token)]), "bad_signature")
    elsewhere = leaving.world.abort("lille", job_id="0c" * 16)
    refusal_of(leaving.contribute(rest, [elsewhere]), "set_mismatch")
    assert leaving.ledger.counts()["answered"] == 0


def changed_signature(signed: Signed) -> Signed:
    return Signed(type=signed.type, body=signed.body, signer=signed.signer, signature=bytes(64))


def test_each_attempt_has_its_own_mask_key(leaving: Node) -> None:
    keys = {Approval.parse(leaving.approve(attempt=attempt).signed.body).mask_key for attempt in (0, 1, 2)}
    assert len(keys) == 3
    assert leaving.ledger.debited(MERCHANT, 0, bytes(16))[0] == 1  # and all are one job


# --- sets that nearly coincide, over several jobs ----------------------------------------------------------------


def test_the_next_jobs_smaller_set_is_refused_for_thirty_days(leaving: Node) -> None:
    """The whole set was answered; without lille, the difference would be lille's."""
    assert leaving.contribute(leaving.approvals()).payload
    leaving.ask("0c", 2)
    rest, tokens = without(leaving, "lille", 1)
    reply = leaving.contribute(rest, tokens)
    assert refusal_of(reply, "nearby_set").fields["holders"] == "lille"
    assert reply.token is None  # which would leave this holder alone in the difference
    leaving.restart()
    refusal_of(leaving.contribute(rest, tokens), "nearby_set")


def test_nor_is_the_whole_set_answered_after_the_smaller_one(leaving: Node) -> None:
    rest, tokens = without(leaving, "lille", 1)
    assert leaving.contribute(rest, tokens).payload
    leaving.ask("0c", 2)
    refusal_of(leaving.contribute(leaving.approvals()), "nearby_set")
    later = leaving.ledger.answered_sets(NOW - 1)
    assert [one.holders for one in later] == [tuple(sorted(ROWS))]
    assert leaving.ledger.answered_sets(NOW) == ()


# --- a roster that revokes a member of a running job -------------------------------------------------------------


@pytest.mark.parametrize("gone", [THIRD, MERCHANT])
def test_a_running_job_ends_when_a_member_of_it_is_revoked(node: Node, gone: str) -> None:
    approvals = node.approvals()
    rest = tuple(member for member in node.world.roster.members if member.name != gone)
    node.world.roster = changed(node.world.roster, version=2, members=rest)
    node.restart(learn=False)
    (reply,) = node.answering.broken_by_roster()
    refusal_of(reply, "unknown_member")
    assert reply.token is None
    refusal_of(node.contribute(approvals), "unknown_member")
    assert node.ledger.counts()["answered"] == 0


def test_a_roster_that_keeps_its_members_ends_nothing(node: Node) -> None:
    node.approve()
    node.world.roster = changed(node.world.roster, version=2)
    node.restart()
    assert list(node.answering.broken_by_roster()) == []
