"""One real holder among simulated ones: it stores before it answers, answers one set once, and says no in words."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ceiba_node.answering import LOG_TIME
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.ledger import Ledger
from ceiba_node.responding import Reply
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadSignature,
    CeibaError,
    JobConflict,
    LedgerDamaged,
    UnknownJob,
    UnknownMember,
    error_from,
)
from ceiba_protocol.rounds import CLOCK_TOLERANCE, commit_to_set
from ceiba_protocol.trust.documents import Approval, Offer, Refusal, Submission
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import (
    MERCHANT,
    NOW,
    ROWS,
    SCHEMA,
    World,
    altered,
    changed,
    plan_of,
    signed_by,
)
from tests.support.one_node import ME, SECOND, STORAGE_KEY, THIRD, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.answering.close()


def refusal_in(reply: Reply) -> Refusal:
    """The refusal, signed by the node for this job; it brings no ciphertexts."""
    assert reply.payload == b"" and reply.token is None
    return World().roster.open(reply.signed, Refusal, Role.HOLDER)


def refused(node: Node, reply: Reply, code: str) -> None:
    """Refused for that reason, and no approval or payload was stored on the way."""
    refusal = refusal_in(reply)
    assert refusal.code == code
    assert (refusal.job_id, refusal.holder) == (node.world.job_id, ME)
    assert type(error_from(refusal.code, dict(refusal.fields))).code == code


# --- the whole ---------------------------------------------------------------------------------------------------


def test_its_answer_among_the_others_gives_the_pooled_sums(node: Node) -> None:
    approvals = node.approvals()
    reply = node.contribute(approvals)
    question = node.world.read()
    commitment = commit_to_set(question, approvals)
    others = [node.world.contribute(name, question, commitment) for name in (SECOND, THIRD)]
    opened = node.world.open([(reply.signed, reply.payload), *others], approvals=approvals)
    assert list(opened.sums) == node.world.truth()


def test_it_offers_its_current_version(node: Node) -> None:
    ((table, (signed, schema)),) = node.answering.offers().items()
    offer = node.world.roster.open(signed, Offer, Role.HOLDER)
    assert (table, schema) == (offer.table, SCHEMA.body())
    assert (offer.version, offer.row_capacity) == (node.world.pins[ME].version, 4)


def test_it_offers_nothing_whose_schema_is_not_the_rosters(node: Node) -> None:
    table = changed(node.world.roster.tables[0], schema_digest=Digest("ab" * 32))
    node.world.roster = changed(node.world.roster, tables=(table,))
    node.restart()
    assert node.answering.offers() == {}


# --- stored before it is sent (I2) -------------------------------------------------------------------------------


def test_approval_is_stored_before_it_is_returned(node: Node) -> None:
    reply = node.approve()
    stored = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY).answer(node.id)
    assert stored is not None and stored.approval == reply.signed
    assert stored.manifest == node.world.signed_manifest()


def test_submission_is_stored_before_it_is_returned(node: Node) -> None:
    reply = node.contribute()
    stored = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY).payload(node.id, 0, "release", 0)
    assert stored is not None and (stored.submission, stored.ciphertexts) == (reply.signed, reply.payload)
    assert stored.context_digest == Submission.parse(reply.signed.body).context_digest


@pytest.mark.parametrize("method", ["record_approval", "record_payload"])
def test_what_cannot_be_stored_is_not_sent(node: Node, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on /srv/secret-path")

    approvals = node.approvals() if method == "record_payload" else []
    monkeypatch.setattr(node.ledger, method, full_disk)
    reply = node.contribute(approvals) if approvals else node.approve()
    refused(node, reply, "internal_error")
    assert b"secret-path" not in reply.signed.body


def test_resend_is_byte_identical(node: Node) -> None:
    approvals = node.approvals()
    first = (node.approve(), node.contribute(approvals))
    assert (node.approve(), node.contribute(approvals)) == first
    for _ in range(2):
        node.restart()
        assert (node.approve(), node.contribute(approvals)) == first


def test_resend_does_not_depend_on_the_order_of_approvals(node: Node) -> None:
    approvals = node.approvals()
    first = node.contribute(approvals)
    node.restart()
    assert node.contribute(approvals[::-1]) == first


def test_resend_is_byte_identical_after_a_new_version_was_published(node: Node) -> None:
    approvals = node.approvals()
    first = node.contribute(approvals)
    node.publish(ROWS[SECOND])
    node.restart()
    assert node.contribute(approvals) == first


def test_restart_between_approval_and_contribution(node: Node) -> None:
    approvals = node.approvals()
    node.publish(ROWS[SECOND])
    node.restart()
    reply = node.contribute(approvals)
    question, commitment = node.world.read(), commit_to_set(node.world.read(), approvals)
    others = [node.world.contribute(name, question, commitment) for name in (SECOND, THIRD)]
    opened = node.world.open([(reply.signed, reply.payload), *others], approvals=approvals)
    assert list(opened.sums) == node.world.truth()


def test_each_job_has_its_own_mask_key(node: Node) -> None:
    first = node.approve()
    node.ask("0c", 2)
    keys = {Approval.parse(reply.signed.body).mask_key for reply in (first, node.approve())}
    assert len(keys) == 2


# --- one set only ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_second_different_set_is_refused(node: Node, restarted: bool) -> None:
    """The same holders, one with another mask key: two answers could be subtracted."""
    approvals = node.approvals()
    first = node.contribute(approvals)
    if restarted:
        node.restart()
    other = node.approvals(hungary=node.world.approval(SECOND, mask_key="cd" * 32))
    refused(node, node.contribute(other), "second_payload")
    assert node.contribute(approvals) == first


def test_smaller_set_is_refused(node: Node) -> None:
    refused(node, node.contribute(node.approvals()[:2]), "set_mismatch")
    assert node.ledger.counts()["answered"] == 0


def test_set_with_its_own_key_replaced_is_refused(node: Node) -> None:
    own = Approval.parse(node.approve().signed.body)
    forged = signed_by(ME, changed(own, mask_key="cd" * 32))
    refused(node, node.contribute(node.approvals(cleveland=forged)), "set_mismatch")
    assert node.ledger.counts()["answered"] == 0


def test_set_without_itself_is_refused(node: Node) -> None:
    node.approve()
    refused(node, node.contribute([node.world.approval(SECOND), node.world.approval(THIRD)]), "set_mismatch")


def test_unsigned_approval_in_the_set_is_refused(node: Node) -> None:
    approvals = node.approvals()
    approvals[1].signature = bytes(64)
    refused(node, node.contribute(approvals), "bad_signature")


def test_second_manifest_of_an_approved_job_is_refused(node: Node) -> None:
    approvals = node.approvals()
    refused(node, node.approve(node.world.signed_manifest(purpose="marketing")), "job_conflict")
    assert node.contribute(approvals).payload


def test_contribution_to_a_job_that_was_not_approved_is_not_answered(node: Node) -> None:
    with pytest.raises(UnknownJob):
        node.answering.contribute(node.id, node.world.approvals())


# --- what it refuses to approve ----------------------------------------------------------------------------------

WRONG_MANIFESTS: dict[str, tuple[str, Callable[[World], Signed]]] = {
    "another agreement": ("unknown_agreement", lambda world: world.signed_manifest(agreement_digest=Digest("ab" * 32))),
    "a smaller set": ("set_mismatch", lambda world: world.signed_manifest(datasets=world.manifest().datasets[:2])),
    "another key": ("manifest_mismatch", lambda world: world.signed_manifest(key_id=Digest("ab" * 32))),
    "another layout": ("manifest_mismatch", lambda world: world.signed_manifest(layout_digest=Digest("ab" * 32))),
    "another merchant's": ("manifest_mismatch", lambda world: signed_by("bank-b", world.manifest())),
    "an unknown version": (
        "dataset_unknown",
        lambda world: world.signed_manifest(
            datasets=(changed(world.manifest().datasets[0], version=Digest("ab" * 32)), *world.manifest().datasets[1:])
        ),
    ),
    "a set without it": (
        "dataset_unknown",
        lambda world: world.signed_manifest(datasets=world.manifest().datasets[1:]),
    ),
}


UNSIGNED: dict[str, tuple[type[CeibaError], Callable[[World], Signed]]] = {
    "a stranger's": (UnknownMember, lambda world: signed_by("mallory", world.manifest())),
    "a holder's": (UnknownMember, lambda world: signed_by(SECOND, world.manifest())),
    "changed on the way": (
        BadSignature,
        lambda world: altered(world.signed_manifest(), b"cleveland", b"clEveland"),
    ),
}


@pytest.mark.parametrize("kind", UNSIGNED)
def test_what_no_merchant_signed_gets_no_signature_either(node: Node, kind: str) -> None:
    """Else a coordinator could end a job with a holder's own refusal of a manifest that nobody sent."""
    error, make = UNSIGNED[kind]
    with pytest.raises(error):
        node.approve(make(node.world))
    assert node.ledger.counts() == {"approved": 0, "answered": 0, "left": 0}


@pytest.mark.parametrize("kind", WRONG_MANIFESTS)
def test_wrong_manifest_is_refused(node: Node, kind: str) -> None:
    code, make = WRONG_MANIFESTS[kind]
    refused(node, node.approve(make(node.world)), code)
    assert node.ledger.counts() == {"approved": 0, "answered": 0, "left": 0}


def test_larger_capacity_than_published_is_refused(node: Node) -> None:
    """A merchant that claims more rows than there are: the layout follows it, the holder does not."""
    node.world.pins[ME] = changed(node.world.pins[ME], row_capacity=1024)
    refused(node, node.approve(), "dataset_unknown")


@pytest.mark.parametrize("late", [-CLOCK_TOLERANCE - 1, 60 + CLOCK_TOLERANCE + 1])
def test_manifest_outside_its_window_is_refused(node: Node, late: int) -> None:
    node.now = NOW + late
    refused(node, node.approve(), "outside_window")


def test_manifest_brought_under_another_job_id_is_refused(node: Node) -> None:
    with pytest.raises(JobConflict):
        node.answering.approve(bytes(16), node.world.signed_manifest())
    assert node.ledger.counts()["approved"] == 0


def test_approved_job_is_not_answered_after_its_window(node: Node) -> None:
    """A coordinator that holds the set back may not ask for the answer whenever it likes."""
    approvals = node.approvals()
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    refused(node, node.contribute(approvals), "outside_window")
    assert node.ledger.counts()["answered"] == 0


def test_what_was_answered_in_time_is_sent_again_after_the_window(node: Node) -> None:
    approvals = node.approvals()
    first = node.contribute(approvals)
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    node.restart()
    assert node.contribute(approvals) == first


# --- forgetting --------------------------------------------------------------------------------------------------


def test_forgotten_job_is_not_answered(node: Node) -> None:
    approvals = node.approvals()
    node.answering.forget(node.id)
    refused(node, node.contribute(approvals), "job_expired")
    assert node.ledger.counts()["answered"] == 0


def test_forgotten_answer_is_not_computed_again(node: Node) -> None:
    approvals = node.approvals()
    first = node.contribute(approvals)
    node.answering.forget(node.id)
    node.restart()
    again = node.contribute(approvals)
    assert again.signed == first.signed and again.payload == b""


def test_forgetting_erases_what_was_sent_and_the_secret(node: Node) -> None:
    ciphertexts = node.contribute().payload
    assert ciphertexts in node.files()
    node.answering.forget(node.id)
    assert not any(ciphertexts[at : at + 32] in node.files() for at in range(0, len(ciphertexts), 32))
    answer = node.ledger.answer(node.id)
    assert answer is not None and answer.mask_secret is None


def test_unknown_job_is_forgotten_without_complaint(node: Node) -> None:
    node.answering.forget(bytes(16))


def test_expired_jobs_are_forgotten_a_day_later(node: Node) -> None:
    node.approve()
    for late, kept in ((LOG_TIME, True), (LOG_TIME + 61, False)):
        node.now = NOW + late
        node.answering.forget_expired()
        answer = node.ledger.answer(node.id)
        assert answer is not None and (answer.mask_secret is not None) is kept


# --- damage, and what refusals say -------------------------------------------------------------------------------


def test_damaged_ledger_stops_the_node(node: Node) -> None:
    node.contribute()
    node.answering.close()
    path = node.folder / "ledger.sqlite3"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LedgerDamaged):
        node.start()
    for file in node.folder.glob("ledger.sqlite3*"):
        file.unlink()
    node.start()  # for the fixture to close


def test_ledger_of_another_key_answers_nothing_and_tells_no_path(node: Node) -> None:
    approvals = node.approvals()
    node.restart(storage_key=bytes(32))
    reply = node.approve()
    refused(node, reply, "internal_error")
    assert str(node.folder).encode() not in reply.signed.body
    with pytest.raises(LedgerDamaged):
        node.contribute(approvals)


def test_damaged_snapshot_is_refused_without_a_word_of_it(node: Node) -> None:
    rows = node.snapshots.current("health.heart").path
    rows.write_bytes(b"x" * rows.stat().st_size)
    reply = node.contribute()
    refused(node, reply, "snapshot_damaged")
    assert b"duckdb" not in reply.signed.body.lower()


CANARY = 98_765_431


def test_engine_failure_is_refused_without_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB's own texts quote what it failed on; the refusal has none of it, nor has any public field."""
    node = Node(tmp_path)

    def failing(*_: object) -> list[int]:
        raise ValueError(f"could not convert {CANARY}")

    monkeypatch.setattr(DuckDBEngine, "grouped_sums", failing)
    reply = node.contribute()
    node.answering.close()
    refused(node, reply, "internal_error")
    assert str(CANARY).encode() not in reply.signed.SerializeToString()


def test_no_refusal_carries_a_value_of_a_row(node: Node) -> None:
    """Every refusal of this module once more, with rows whose values are easy to search for."""
    values = [b"41", b"60", b"-7", b"511"]
    for _, make in WRONG_MANIFESTS.values():
        refusal = refusal_in(node.approve(make(node.world)))
        words = " ".join(refusal.fields.values()).encode().split()
        assert not [value for value in values if value in words]


def test_question_about_another_table_is_refused(node: Node) -> None:
    plan = changed(plan_of(), table="health.lungs")
    refused(node, node.approve(node.world.signed_manifest(plan=plan)), "dataset_unknown")


def test_the_merchant_of_the_refusals_question_stays_the_rosters(node: Node) -> None:
    reply = node.approve(signed_by(MERCHANT, changed(node.world.manifest(), merchant="bank-b")))
    refused(node, reply, "manifest_mismatch")
