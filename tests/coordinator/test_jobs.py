"""The coordinator's book of jobs among simulated members: no network, no clock but the test's."""

import hashlib
from pathlib import Path

import pytest

from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    AgreementNotActive,
    BadCiphertext,
    BadSignature,
    CeibaError,
    IllegalTransition,
    JobConflict,
    LedgerDamaged,
    MalformedDocument,
    MalformedMessage,
    NotYetDone,
    NumberUsed,
    OutsideWindow,
    RosterNotPinned,
    SecondPayload,
    SetMismatch,
    UnknownAgreement,
    UnknownJob,
    UnknownMember,
)
from ceiba_protocol.job import State
from ceiba_protocol.rounds import CLOCK_TOLERANCE
from ceiba_protocol.trust.agreement import Word
from ceiba_protocol.trust.documents import Approval, Submission
from ceiba_protocol.trust.roster import merchant_key_id
from ceiba_protocol.v1.common_pb2 import Signed
from tests.coordinator.office import AUTHORITY, Office, refused
from tests.support.members import HOLDERS, LOG_KEY, MERCHANT, NOW, World, resigned, signed_by

FIRST, SECOND, THIRD = HOLDERS
OTHER_DIGEST = Digest("ab" * 32)


@pytest.fixture
def office() -> Office:
    return Office()


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_job_from_submission_to_answer(office: Office) -> None:
    office.submit()
    assert [office.tasks(name) for name in HOLDERS] == [["approve"]] * 3
    office.approve(FIRST, SECOND)
    assert [office.tasks(name) for name in HOLDERS] == [[], [], ["approve"]]
    office.approve(THIRD)
    assert [office.tasks(name) for name in HOLDERS] == [["contribute"]] * 3
    office.contribute(THIRD, FIRST)
    assert [office.tasks(name) for name in HOLDERS] == [[], ["contribute"], []]
    assert office.state() == State.WAITING_FOR_SUBMISSIONS
    office.contribute(SECOND)
    assert (office.state(), office.tasks(SECOND)) == (State.DONE, [])
    assert office.result() == office.world.truth()


def test_status_says_who_has_answered_and_who_is_there(office: Office) -> None:
    office.submit()
    office.approve(SECOND)
    status = office.jobs.status(office.id, MERCHANT, {THIRD, "somebody-else"})
    assert (list(status.holders), list(status.approved)) == (list(HOLDERS), [SECOND])
    assert (list(status.online), status.deadline) == ([THIRD], NOW + 60)


def test_every_step_survives_a_restart(tmp_path: Path) -> None:
    office = Office(tmp_path / "coordinator.sqlite3")
    steps = [
        office.submit,
        *(lambda name=name: office.approve(name) for name in HOLDERS),
        *(lambda name=name: office.contribute(name) for name in HOLDERS),
    ]
    for step in steps:
        step()
        before = (office.state(), [office.jobs.tasks(name) for name in HOLDERS])
        office.restart()
        assert (office.state(), [office.jobs.tasks(name) for name in HOLDERS]) == before
        step()  # the member did not hear the answer and sends it again
        assert (office.state(), [office.jobs.tasks(name) for name in HOLDERS]) == before
    assert office.result() == office.world.truth()


def test_holders_get_the_approvals_as_they_were_signed(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    (task,) = office.jobs.tasks(FIRST)
    assert list(task.contribute.approvals) == office.world.approvals()


def test_work_before_a_roster_is_refused() -> None:
    store = Store(open_engine("sqlite://"))
    log = Log(store, "test-space", LOG_KEY, lambda: NOW)
    empty = Membership(store, "test-space", AUTHORITY, log, lambda: NOW)
    refused(RosterNotPinned, empty.roster)


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be one" * 30, b"SQLite format 3\0" + bytes(200)]
)
def test_damaged_database_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "coordinator.sqlite3"
    path.write_bytes(content)
    refused(LedgerDamaged, open_engine, f"sqlite:///{path}")
    assert path.read_bytes() == content


# --- submitting --------------------------------------------------------------------------------------------------


def test_same_manifest_again_changes_nothing(office: Office) -> None:
    office.submit()
    office.approve(FIRST)
    office.submit()
    assert office.tasks(FIRST) == []


def test_same_manifest_after_the_end_changes_nothing(office: Office) -> None:
    office.submit()
    office.jobs.cancel(office.id, MERCHANT)
    office.submit()
    assert office.state() == State.CANCELLED


def test_another_manifest_of_the_same_id_is_a_conflict(office: Office) -> None:
    office.submit()
    refused(JobConflict, office.submit, office.world.signed_manifest(purpose="marketing"))


def test_another_merchants_manifest_of_the_same_id_is_a_conflict(office: Office) -> None:
    office.submit()
    theirs = signed_by("bank-b", office.world.manifest(merchant="bank-b", key_id=key_id_of(office, "bank-b")))
    refused(JobConflict, office.jobs.submit, theirs, "bank-b")


def key_id_of(office: Office, name: str) -> Digest:
    return merchant_key_id(office.world.roster.by_name[name])


def test_manifest_of_another_merchant_is_not_passed_on(office: Office) -> None:
    refused(MalformedMessage, office.jobs.submit, office.world.signed_manifest(), "bank-b")
    refused(UnknownJob, office.state)


@pytest.mark.parametrize("late", [-CLOCK_TOLERANCE - 1, 60 + CLOCK_TOLERANCE + 1])
def test_manifest_outside_its_window_is_refused(office: Office, late: int) -> None:
    office.now = NOW + late
    refused(OutsideWindow, office.submit)


def test_manifest_for_a_smaller_set_is_refused(office: Office) -> None:
    refused(SetMismatch, office.submit, office.world.signed_manifest(datasets=office.world.manifest().datasets[1:]))


def test_proposed_roster_does_not_disturb_jobs(office: Office) -> None:
    office.propose(office.world.make_roster(version=2))
    office.finish()
    assert office.result() == office.world.truth()


def test_manifest_needs_an_agreement_that_everybody_has_signed() -> None:
    office = Office(agreed=False)
    refused(UnknownAgreement, office.submit)
    office.agree(MERCHANT, FIRST, SECOND)
    refused(AgreementNotActive, office.submit)
    office.agree(THIRD)
    office.submit()
    assert office.state() == State.WAITING_FOR_APPROVALS


def test_manifest_under_another_merchants_agreement_is_refused(office: Office) -> None:
    """It learns no more than that there is none."""
    theirs = signed_by("bank-b", office.world.manifest(merchant="bank-b", key_id=key_id_of(office, "bank-b")))
    refused(UnknownAgreement, office.jobs.submit, theirs, "bank-b")


def test_number_of_an_agreement_is_used_once(office: Office) -> None:
    office.submit()
    office.jobs.cancel(office.id, MERCHANT)
    refused(NumberUsed, office.submit, office.world.signed_manifest(job_id="0c" * 16))
    office.submit(office.world.signed_manifest(job_id="0c" * 16, number=2))
    assert len(office.store.open_jobs()) == 1


def test_stored_manifest_again_changes_nothing_even_when_its_agreement_has_ended(office: Office) -> None:
    office.finish()
    office.agreements.submit(office.world.notice(MERCHANT, Word.TERMINATE), MERCHANT)
    office.submit()
    refused(AgreementNotActive, office.submit, office.world.signed_manifest(job_id="0c" * 16, number=2))
    assert office.result() == office.world.truth()


def test_unreadable_manifest_is_refused(office: Office) -> None:
    signed = office.world.signed_manifest()
    signed.body = signed.body[:-1]
    refused(BadSignature, office.submit, signed)
    refused(UnknownMember, office.submit, Signed())


# --- other merchants' jobs ---------------------------------------------------------------------------------------


def test_another_merchant_sees_as_little_as_of_no_job(office: Office) -> None:
    office.submit()
    for merchant, job_id in (("bank-b", office.id), (MERCHANT, bytes(16)), (MERCHANT, b""), (FIRST, office.id)):
        refused(UnknownJob, office.jobs.status, job_id, merchant, set())
        refused(UnknownJob, office.jobs.cancel, job_id, merchant)
        refused(UnknownJob, office.jobs.result, job_id, merchant)
    assert office.state() == State.WAITING_FOR_APPROVALS


def test_no_result_before_the_end(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    office.contribute(FIRST, SECOND)
    refused(NotYetDone, office.jobs.result, office.id, MERCHANT)


# --- approvals ---------------------------------------------------------------------------------------------------


def test_approval_again_changes_nothing_even_later(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS, FIRST)
    office.contribute(*HOLDERS)
    office.approve(SECOND)
    assert office.result() == office.world.truth()


def test_second_different_approval_is_refused(office: Office) -> None:
    office.submit()
    office.approve(FIRST)
    refused(SecondPayload, office.jobs.approve, office.world.approval(FIRST, mask_key="cd" * 32), FIRST)
    assert office.store.seats(office.id)[0].approval == office.world.approval(FIRST)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"holder": SECOND}, SetMismatch),
        ({"manifest_digest": OTHER_DIGEST}, SetMismatch),
        ({"dataset_version": OTHER_DIGEST}, SetMismatch),
        ({"job_id": "0c" * 16}, UnknownJob),
        ({"mask_key": "CD" * 32}, MalformedDocument),
    ],
    ids=["another's name", "another manifest", "another version", "another job", "malformed"],
)
def test_wrong_approval_is_refused(office: Office, changes: dict, error: type[CeibaError]) -> None:
    office.submit()
    refused(error, office.jobs.approve, office.world.approval(FIRST, **changes), FIRST)
    assert office.tasks(FIRST) == ["approve"]


def test_approval_brought_by_another_is_refused(office: Office) -> None:
    office.submit()
    refused(MalformedMessage, office.jobs.approve, office.world.approval(FIRST), SECOND)
    assert office.tasks(SECOND) == ["approve"] and office.tasks(FIRST) == ["approve"]


def test_approval_by_a_stranger_is_refused(office: Office) -> None:
    office.submit()
    stranger = signed_by("mallory", Approval.parse(office.world.approval(FIRST, holder="mallory").body))
    refused(UnknownMember, office.jobs.approve, stranger, "mallory")


def test_approval_of_an_ended_job_is_refused(office: Office) -> None:
    office.submit()
    office.approve(FIRST)
    office.jobs.cancel(office.id, MERCHANT)
    refused(IllegalTransition, office.approve, SECOND)
    office.approve(FIRST)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_refusal_ends_the_job_with_its_reason(office: Office) -> None:
    office.submit()
    office.approve(FIRST)
    office.jobs.refuse(office.world.refusal(SECOND), SECOND)
    status = office.jobs.status(office.id, MERCHANT, set())
    assert (status.state, status.refusal) == (State.REFUSED, office.world.refusal(SECOND))
    assert [office.tasks(name) for name in HOLDERS] == [[]] * 3
    assert office.jobs.ended([office.id]) == [office.id]


def test_refusal_after_the_set_is_fixed_is_a_failure(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    office.contribute(FIRST)
    office.jobs.refuse(office.world.refusal(THIRD), THIRD)
    assert office.state() == State.FAILED


def test_second_refusal_changes_nothing(office: Office) -> None:
    office.submit()
    for name in (SECOND, SECOND, THIRD):
        office.jobs.refuse(office.world.refusal(name), name)
    assert office.jobs.status(office.id, MERCHANT, set()).refusal.signer == SECOND


def test_refusal_does_not_undo_an_answer(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    office.contribute(*HOLDERS)
    office.jobs.refuse(office.world.refusal(FIRST), FIRST)
    assert office.result() == office.world.truth()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"holder": SECOND}, MalformedMessage),
        ({"manifest_digest": OTHER_DIGEST}, MalformedMessage),
        ({"job_id": "0c" * 16}, UnknownJob),
    ],
    ids=["another's name", "another manifest", "another job"],
)
def test_wrong_refusal_ends_nothing(office: Office, changes: dict, error: type[CeibaError]) -> None:
    office.submit()
    refused(error, office.jobs.refuse, office.world.refusal(FIRST, **changes), FIRST)
    assert office.state() == State.WAITING_FOR_APPROVALS


def test_refusal_brought_by_another_ends_nothing(office: Office) -> None:
    office.submit()
    refused(MalformedMessage, office.jobs.refuse, office.world.refusal(FIRST), SECOND)
    assert office.state() == State.WAITING_FOR_APPROVALS


# --- submissions -------------------------------------------------------------------------------------------------


@pytest.fixture
def fixed(office: Office) -> Office:
    """A job whose set is fixed."""
    office.submit()
    office.approve(*HOLDERS)
    return office


def test_submission_before_the_set_is_fixed_is_refused(office: Office) -> None:
    office.submit()
    office.approve(FIRST, SECOND)
    refused(IllegalTransition, office.contribute, FIRST)


def test_submission_again_changes_nothing_even_after_the_end(fixed: Office) -> None:
    fixed.contribute(*HOLDERS)
    total = fixed.jobs.result(fixed.id, MERCHANT)[1]
    fixed.contribute(SECOND)
    assert fixed.jobs.result(fixed.id, MERCHANT)[1] == total


def test_second_different_submission_is_refused(fixed: Office) -> None:
    fixed.contribute(FIRST)
    signed, blob = fixed.world.submission(FIRST, commitment=OTHER_DIGEST)
    refused(SecondPayload, fixed.jobs.contribute, signed, blob, fixed.id, FIRST)
    assert fixed.store.ciphertexts(fixed.id) == {FIRST: blob}


@pytest.mark.parametrize("change", ["shorter", "longer", "none", "another's", "flipped"])
def test_ciphertexts_that_are_not_the_signed_ones_are_refused(fixed: Office, change: str) -> None:
    signed, blob = fixed.world.submission(FIRST)
    wrong = {
        "shorter": blob[:-1],
        "longer": blob + bytes(1),
        "none": b"",
        "another's": fixed.world.submission(SECOND)[1],
        "flipped": bytes([blob[0] ^ 1]) + blob[1:],
    }[change]
    refused(MalformedMessage, fixed.jobs.contribute, signed, wrong, fixed.id, FIRST)
    assert fixed.tasks(FIRST) == ["contribute"]


@pytest.mark.parametrize("kind", ["zero", "beyond n²", "not a unit", "too short"])
def test_signed_ciphertexts_that_are_none_are_refused(fixed: Office, kind: str) -> None:
    """A holder signs what it sends; one bad ciphertext would make the product undecryptable."""
    signed, blob = fixed.world.submission(FIRST)
    size = len(blob)
    wrong = {
        "zero": bytes(size),
        "beyond n²": b"\xff" * size,
        "not a unit": int(fixed.world.private_key.p).to_bytes(size, "big"),
        "too short": blob[:-1],
    }[kind]
    signed = resigned(signed, Submission, ciphertext_digest=Digest(hashlib.sha256(wrong).hexdigest()))
    refused(BadCiphertext, fixed.jobs.contribute, signed, wrong, fixed.id, FIRST)
    assert fixed.tasks(FIRST) == ["contribute"]


@pytest.mark.parametrize(
    "changes",
    [{"holder": SECOND}, {"job_id": "0c" * 16}, {"ciphertexts": 2}],
    ids=lambda c: next(iter(c)),
)
def test_wrong_submission_is_refused(fixed: Office, changes: dict) -> None:
    refused(MalformedMessage, fixed.jobs.contribute, *fixed.world.submission(FIRST, **changes), fixed.id, FIRST)


def test_submission_brought_by_another_is_refused(fixed: Office) -> None:
    refused(MalformedMessage, fixed.jobs.contribute, *fixed.world.submission(FIRST), fixed.id, SECOND)
    assert fixed.tasks(SECOND) == ["contribute"]


def test_submission_to_no_job_is_refused(fixed: Office) -> None:
    refused(UnknownJob, fixed.jobs.contribute, *fixed.world.submission(FIRST), bytes(16), FIRST)
    refused(UnknownJob, fixed.jobs.expected_bytes, bytes(16))


def test_expected_bytes_are_those_of_the_layout(fixed: Office) -> None:
    assert fixed.jobs.expected_bytes(fixed.id) == len(fixed.world.submission(FIRST)[1])


# --- time and cancelling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("approvals", [1, 3])
def test_deadline_ends_a_job(office: Office, approvals: int) -> None:
    office.submit()
    office.approve(*HOLDERS[:approvals])
    office.now = NOW + 60
    assert office.jobs.expire() == []
    office.now += 1
    assert office.jobs.expire() == [office.id]
    assert (office.state(), office.jobs.expire()) == (State.EXPIRED, [])
    assert [office.tasks(name) for name in HOLDERS] == [[]] * 3


def test_deadline_does_not_end_what_has_ended(fixed: Office) -> None:
    fixed.contribute(*HOLDERS)
    fixed.now = NOW + 10_000
    assert fixed.jobs.expire() == []
    assert fixed.result() == fixed.world.truth()


def test_a_job_that_nobody_can_read_any_more_can_still_end(tmp_path: Path) -> None:
    """A coordinator that crashed before it ended the jobs of a revoked member does so at their deadline."""
    office = Office(tmp_path / "coordinator.sqlite3")
    office.submit()
    office.propose(office.world.make_roster(office.world.roster.members[:-1], version=2, tables=()))
    office.store.put_in_force(2, NOW)
    office.restart()
    refused(CeibaError, office.approve, FIRST)
    office.now = NOW + 61
    assert office.jobs.expire() == [office.id]
    assert office.state() == State.EXPIRED


def test_late_submission_is_refused(fixed: Office) -> None:
    fixed.contribute(FIRST, SECOND)
    fixed.now = NOW + 61
    fixed.jobs.expire()
    refused(IllegalTransition, fixed.contribute, THIRD)
    refused(NotYetDone, fixed.jobs.result, fixed.id, MERCHANT)


def test_cancelling_ends_a_job_once(fixed: Office) -> None:
    fixed.contribute(FIRST)
    fixed.jobs.cancel(fixed.id, MERCHANT)
    assert (fixed.state(), fixed.tasks(SECOND), fixed.jobs.ended([fixed.id])) == (State.CANCELLED, [], [fixed.id])
    refused(IllegalTransition, fixed.jobs.cancel, fixed.id, MERCHANT)
    refused(IllegalTransition, fixed.contribute, SECOND)


def test_answered_job_cannot_be_cancelled(fixed: Office) -> None:
    fixed.contribute(*HOLDERS)
    refused(IllegalTransition, fixed.jobs.cancel, fixed.id, MERCHANT)
    assert fixed.result() == fixed.world.truth()


def test_jobs_do_not_mix(office: Office) -> None:
    """Two jobs side by side, answered crosswise."""
    office.submit()
    other = World()
    other.job_id, other.number = "0c" * 16, 2
    office.jobs.submit(other.signed_manifest(), MERCHANT)
    for name in HOLDERS:
        office.jobs.approve(other.approval(name), name)
        office.approve(name)
    refused(MalformedMessage, office.jobs.contribute, *other.submission(FIRST), office.id, FIRST)
    for name in HOLDERS:
        office.contribute(name)
        office.jobs.contribute(*other.submission(name), bytes.fromhex(other.job_id), name)
    assert office.result() == office.world.truth()
    other_id = bytes.fromhex(other.job_id)
    seats, total = office.jobs.result(other_id, MERCHANT)
    blobs = {seat.holder: office.jobs.ciphertexts(other_id, seat.holder) for seat in seats}
    assert list(other.open([(seat.submission, blobs[seat.holder]) for seat in seats], total).sums) == other.truth()
