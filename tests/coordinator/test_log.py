"""The coordinator's log: every signed document has its entry, and proofs of it hold."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ceiba_coordinator.log import ENTRIES_A_MESSAGE
from ceiba_protocol.errors import BadSignature, MalformedMessage, NotYetDone, UnknownJob, UnknownMember
from ceiba_protocol.trust.agreement import Word
from ceiba_protocol.trust.log import (
    OPERATOR,
    Checkpoint,
    LogEntry,
    Release,
    cosigners,
    entry_of,
    open_operators,
    read_checkpoint,
    witness,
)
from ceiba_protocol.trust.merkle import Frontier, check_consistency, check_inclusion
from ceiba_protocol.trust.roster import approval_of
from ceiba_protocol.v1.common_pb2 import Signed
from tests.coordinator.office import Office, refused
from tests.support.members import HOLDERS, MERCHANT, NOW, signed_by

FIRST, SECOND, THIRD = HOLDERS


@pytest.fixture
def office() -> Office:
    return Office()


def entries(office: Office) -> list[LogEntry]:
    return [LogEntry.parse(body) for body in office.log.read(0, office.store.log_size())]


def newest(office: Office) -> Checkpoint:
    return read_checkpoint(office.log.newest_checkpoint(), office.world.roster)


def cosign(office: Office, *names: str) -> None:
    for name in names:
        office.log.cosign(signed_by(name, newest(office)), name, office.membership)


# --- entries -----------------------------------------------------------------------------------------------------


def test_every_document_has_its_entry_in_order(office: Office) -> None:
    office.finish()
    suspension = office.world.notice(FIRST, Word.SUSPEND)
    office.agreements.submit(suspension, FIRST)
    world, release = office.world, office.store.job(office.id).release
    judged = [signed_by(name, approval_of(world.roster, name)) for name in HOLDERS[:2]]
    documents = [
        *judged,
        *world.signatures(),
        world.signed_manifest(),
        *world.approvals(),
        *(signed for signed, _ in world.submissions),
        release,
        suspension,
    ]
    assert entries(office) == [entry_of(signed, NOW) for signed in documents]


def test_refused_documents_leave_no_entry(office: Office) -> None:
    size = office.store.log_size()
    refused(MalformedMessage, office.jobs.submit, office.world.signed_manifest(), "bank-b")
    office.submit()
    refused(MalformedMessage, office.jobs.approve, office.world.approval(FIRST), SECOND)
    assert office.store.log_size() == size + 1


def test_failed_transaction_leaves_neither_document_nor_entry(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    before, proofs = entries(office), office.log.consistency(1, office.store.log_size())

    def full(*arguments: object) -> int:
        raise OSError

    monkeypatch.setattr(office.log, "append", full)
    with pytest.raises(OSError):
        office.submit()
    monkeypatch.undo()
    assert (entries(office), office.store.job(office.id)) == (before, None)
    assert office.log.consistency(1, len(before)) == proofs
    office.submit()
    assert len(entries(office)) == len(before) + 1


def test_restart_keeps_the_log(tmp_path: Path) -> None:
    office = Office(tmp_path / "coordinator.sqlite3")
    office.finish()
    before, checkpoint = entries(office), newest(office)
    office.restart()
    assert (entries(office), newest(office)) == (before, checkpoint)
    office.agreements.submit(office.world.notice(FIRST, Word.SUSPEND), FIRST)
    office.log.checkpoint()
    assert entries(office)[:-1] == before
    bodies = office.log.read(0, office.store.log_size())
    assert witness(Frontier(), bodies, newest(office)).size == len(before) + 1


def test_release_names_the_total(office: Office) -> None:
    office.finish()
    job = office.store.job(office.id)
    release = open_operators(job.release, Release, office.world.roster)
    total = office.jobs.result(office.id, MERCHANT)[1]
    assert release.total_digest == hashlib.sha256(total).hexdigest()
    assert (release.job_id, release.attempt, release.at) == (office.world.job_id, 0, NOW)
    assert (entries(office)[job.release_index].signer, entries(office)[job.release_index].type) == (
        OPERATOR,
        "ceiba.v1.Release",
    )


def test_parts_of_the_log_are_small_and_complete(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba_coordinator.log.ENTRIES_A_MESSAGE", 4)
    office.finish()
    size = office.store.log_size()
    parts = list(office.log.parts(1, size))
    assert [first for first, _ in parts] == list(range(1, size, 4)) and parts[-1][1] == size
    bodies = [body for part in parts for body in office.log.read(*part)]
    assert bodies == office.log.read(1, size)
    assert max(map(len, bodies)) * ENTRIES_A_MESSAGE < 1024 * 1024
    assert list(office.log.parts(size, size)) == []


@pytest.mark.parametrize("beyond", [(0, 1), (1, 1), (2, -1)])
def test_entries_beyond_the_log_are_refused(office: Office, beyond: tuple[int, int]) -> None:
    size = office.store.log_size()
    refused(MalformedMessage, office.log.parts, size + beyond[0], size + beyond[1])


# --- checkpoints and proofs --------------------------------------------------------------------------------------


def test_first_checkpoint_is_of_the_log_as_it_is() -> None:
    assert newest(Office(agreed=False)).size == 2  # its roster's approvals


def test_checkpoint_is_made_when_the_log_has_grown(office: Office) -> None:
    office.log.checkpoint()
    first = office.log.newest_checkpoint()
    office.now += 1
    office.log.checkpoint()
    assert office.log.newest_checkpoint() == first
    office.submit()
    assert office.log.newest_checkpoint() == first
    office.log.checkpoint()
    assert newest(office).size == read_checkpoint(first, office.world.roster).size + 1


def test_finished_job_is_covered_at_once(office: Office) -> None:
    office.finish()
    assert newest(office).size == office.store.log_size()


def test_all_checkpoints_are_of_one_log(office: Office) -> None:
    """As a holder checks it, and as somebody checks who has only the checkpoints."""
    seen, frontier = [newest(office)], Frontier()
    frontier = witness(frontier, office.log.read(0, seen[0].size), seen[0])
    steps: list[Any] = [office.submit, *(lambda name=name: office.approve(name) for name in HOLDERS)]
    for step in steps:
        step()
        office.log.checkpoint()
        checkpoint = newest(office)
        frontier = witness(frontier, office.log.read(frontier.size, checkpoint.size), checkpoint)
        seen.append(checkpoint)
    for old in seen:
        for new in seen[seen.index(old) :]:
            proof = office.log.consistency(old.size, new.size)
            check_consistency(old.size, bytes.fromhex(old.root), new.size, bytes.fromhex(new.root), proof)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (0, 1_000), (1_000, 1_000)])
def test_consistency_of_sizes_that_are_none_is_refused(office: Office, old: int, new: int) -> None:
    refused(MalformedMessage, office.log.consistency, old, new)


def test_contribution_carries_the_newest_checkpoint(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    office.log.checkpoint()
    (task,) = office.jobs.tasks(FIRST)
    assert task.contribute.checkpoint == office.log.newest_checkpoint()


# --- cosignatures ------------------------------------------------------------------------------------------------


def test_cosignatures_come_with_their_checkpoint(office: Office) -> None:
    assert office.log.unwitnessed(FIRST) == office.log.newest_checkpoint()
    cosign(office, FIRST, THIRD, FIRST)
    assert office.log.unwitnessed(FIRST) is None and office.log.unwitnessed(SECOND) is not None
    witnessed = office.log.newest_witnessed()
    found = cosigners(witnessed.checkpoint, witnessed.cosignatures, HOLDERS, office.world.roster)
    assert (found, len(witnessed.cosignatures)) == ([FIRST, THIRD], 2)
    office.submit()
    office.log.checkpoint()
    assert office.log.unwitnessed(FIRST) == office.log.newest_checkpoint()


def test_cosignature_is_no_entry(office: Office) -> None:
    """Or witnessing the log would never end."""
    cosign(office, *HOLDERS)
    size = office.store.log_size()
    cosign(office, *HOLDERS)
    assert office.store.log_size() == size == newest(office).size


@pytest.mark.parametrize("changes", [{"root": "ab" * 32}, {"size": 3}, {"at": NOW + 1}, {"space": "another-space"}])
def test_cosignature_on_other_bytes_is_refused(office: Office, changes: dict[str, Any]) -> None:
    checkpoint = newest(office).model_copy(update=changes)
    refused(MalformedMessage, office.log.cosign, signed_by(FIRST, checkpoint), FIRST, office.membership)
    assert not office.log.newest_witnessed().cosignatures


def test_cosignature_of_another_is_refused(office: Office) -> None:
    checkpoint = newest(office)
    refused(MalformedMessage, office.log.cosign, signed_by(FIRST, checkpoint), SECOND, office.membership)
    refused(UnknownMember, office.log.cosign, signed_by(MERCHANT, checkpoint), MERCHANT, office.membership)
    by_operator = office.log.newest_checkpoint()
    refused(UnknownMember, office.log.cosign, by_operator, FIRST, office.membership)
    claimed = Signed(type=by_operator.type, body=by_operator.body, signer=FIRST, signature=by_operator.signature)
    refused(BadSignature, office.log.cosign, claimed, FIRST, office.membership)


# --- receipts ----------------------------------------------------------------------------------------------------


def test_receipt_has_all_that_was_signed(office: Office) -> None:
    office.finish()
    parts, world = office.receipts.parts(office.id, MERCHANT), office.world
    assert list(parts.agreement) == world.signatures()
    assert (parts.manifest, list(parts.approvals)) == (world.signed_manifest(), world.approvals())
    assert list(parts.submissions) == [signed for signed, _ in world.submissions]
    assert (list(parts.aborts), parts.schema) == ([], world.schema.body())
    assert LogEntry.parse(parts.entry) == entry_of(parts.release, NOW)


def test_receipts_inclusion_holds(office: Office) -> None:
    office.finish()
    office.agreements.submit(office.world.notice(FIRST, Word.SUSPEND), FIRST)
    office.log.checkpoint()
    cosign(office, FIRST)
    parts = office.receipts.parts(office.id, FIRST)
    checkpoint = read_checkpoint(parts.checkpoint.checkpoint, office.world.roster)
    check_inclusion(parts.entry, parts.index, checkpoint.size, list(parts.inclusion), bytes.fromhex(checkpoint.root))


def test_receipt_has_the_checkpoint_with_most_witnesses(office: Office) -> None:
    cosign(office, *HOLDERS)  # before the release: covers nothing of it
    office.finish()
    assert not office.receipts.parts(office.id, MERCHANT).checkpoint.cosignatures
    first = newest(office).size
    cosign(office, FIRST, SECOND)
    office.agreements.submit(office.world.notice(FIRST, Word.SUSPEND), FIRST)
    office.log.checkpoint()
    cosign(office, FIRST)

    def chosen() -> int:
        return Checkpoint.parse(office.receipts.parts(office.id, MERCHANT).checkpoint.checkpoint.body).size

    assert chosen() == first
    cosign(office, SECOND, THIRD)
    assert chosen() == first + 1


def test_receipt_is_for_the_jobs_members_once_it_is_done(office: Office) -> None:
    office.submit()
    refused(NotYetDone, office.receipts.parts, office.id, MERCHANT)
    refused(UnknownJob, office.receipts.parts, office.id, "bank-b")
    refused(UnknownJob, office.receipts.parts, bytes(16), MERCHANT)
