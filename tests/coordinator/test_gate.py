"""The gate as the coordinator passes it on: every holder's share once, to the job's holders alone, at its time."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ceiba_coordinator.services.calls import Desk
from ceiba_coordinator.services.work import Presence, Work
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadSignature,
    CeibaError,
    IllegalTransition,
    MalformedDocument,
    MalformedMessage,
    MessageTooLarge,
    NotYetDone,
    SecondPayload,
    SetMismatch,
    TotalRejected,
    UnknownJob,
    UnknownMember,
)
from ceiba_protocol.job import State
from ceiba_protocol.program import Row
from ceiba_protocol.trust.documents import GateShare
from ceiba_protocol.trust.log import LogEntry
from ceiba_protocol.trust.receipt import read_parts, verify
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import ReceiptParts
from ceiba_protocol.v1.work_pb2 import SharePart, SharesRequest, WorkPart
from tests.coordinator.office import Office, refused
from tests.support.members import HOLDERS, MERCHANT, NOW, World, graded, resigned, signed_by

FIRST, SECOND, THIRD = HOLDERS
OTHER_DIGEST = Digest("ab" * 32)
FOURTH = "dresden"
WOMEN: dict[str, list[Row]] = {
    name: [{"sex": 0, "age": 30 + at, "chol": 10 * at} for at in range(1, 4 + place)]
    for place, name in enumerate((*HOLDERS, FOURTH))
}
MAN: Row = {"sex": 1, "age": 50, "chol": 70}
"""The only one, at the first holder."""


class Gated(World):
    """Four holders, of whom three must at least answer."""

    def __init__(self, names: tuple[str, ...] = HOLDERS) -> None:
        super().__init__({name: WOMEN[name] + [MAN] * (name == FIRST) for name in names}, schema=graded("internal"))

    def make_agreement(self, *arguments: Any, **changes: Any) -> Any:
        return super().make_agreement(*arguments, **({"smallest_set": 3} | changes))


@pytest.fixture
def office() -> Office:
    """A job that waits for shares."""
    office = Office(world=Gated())
    office.submit()
    office.approve(*HOLDERS)
    return office


@pytest.fixture
def four() -> Office:
    office = Office(world=Gated((*HOLDERS, FOURTH)))
    office.submit()
    office.approve(*HOLDERS, FOURTH)
    return office


def released(office: Office) -> list[int]:
    """The true totals, 0 where the gate lets nothing pass."""
    opened = office.world.open(office.world.submissions)
    assert opened.sent is not None
    sent = opened.sent.reshape(-1).tolist()
    return [true if may else 0 for true, may in zip(office.world.truth(), sent, strict=True)]


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_job_with_a_gate_from_submission_to_answer() -> None:
    office = Office(world=Gated())
    office.submit()
    office.approve(FIRST, SECOND)
    assert [office.tasks(name) for name in HOLDERS] == [[], [], ["approve"]]
    office.approve(THIRD)
    assert office.state() == State.WAITING_FOR_SHARES
    assert [office.tasks(name) for name in HOLDERS] == [["gate"]] * 3
    office.share(THIRD, FIRST)
    assert [office.tasks(name) for name in HOLDERS] == [[], ["gate"], []]
    assert office.state() == State.WAITING_FOR_SHARES
    office.share(SECOND)
    assert office.state() == State.WAITING_FOR_SUBMISSIONS
    assert [office.tasks(name) for name in HOLDERS] == [["contribute"]] * 3
    office.contribute(*HOLDERS)
    assert (office.state(), office.tasks(SECOND)) == (State.DONE, [])
    assert office.result() == released(office)
    assert any(office.result()) and office.result() != office.world.truth()


def test_the_gates_task_has_the_approvals_as_they_were_signed(office: Office) -> None:
    (task,) = office.jobs.tasks(FIRST)
    assert list(task.gate.approvals) == office.world.approvals()
    assert task.gate.checkpoint == office.log.newest_checkpoint()


def test_status_says_who_has_shared(office: Office) -> None:
    office.share(SECOND)
    status = office.jobs.status(office.id, MERCHANT, set())
    assert (list(status.shared), list(status.submitted)) == ([SECOND], [])


def test_every_step_survives_a_restart(tmp_path: Path) -> None:
    office = Office(tmp_path / "coordinator.sqlite3", Gated())
    office.submit()
    office.approve(*HOLDERS)
    steps = [
        *(lambda name=name: office.share(name) for name in HOLDERS),
        *(lambda name=name: office.contribute(name) for name in HOLDERS),
    ]
    for step in steps:
        step()
        before = (office.state(), [office.jobs.tasks(name) for name in HOLDERS], office.store.log_size())
        office.restart()
        assert (office.state(), [office.jobs.tasks(name) for name in HOLDERS], office.store.log_size()) == before
        step()  # the member did not hear the answer and sends it again
        assert (office.state(), [office.jobs.tasks(name) for name in HOLDERS], office.store.log_size()) == before
    assert office.result() == released(office)


def test_a_job_without_a_gate_takes_no_share() -> None:
    office, gated = Office(), Gated()
    office.submit()
    office.approve(*HOLDERS)
    assert office.state() == State.WAITING_FOR_SUBMISSIONS
    refused(IllegalTransition, office.jobs.share, *gated.shares[0], office.id, FIRST)
    assert office.jobs.expected_words(office.id) == 0
    assert office.jobs.shares(office.id, FIRST) == []


def test_the_receipt_has_the_shares_and_so_does_the_log(office: Office) -> None:
    office.share(*HOLDERS)
    office.contribute(*HOLDERS)
    parts: ReceiptParts = office.receipts.parts(office.id, MERCHANT)
    assert [one.signer for one in parts.shares] == list(HOLDERS)
    steps = verify(read_parts(parts, office.world.roster), office.world.roster)
    assert [step.error for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert len(steps) == 8  # all but the witnesses', of whom there are none here
    entries = map(LogEntry.parse, office.log.read(0, office.store.log_size()))
    assert [entry.signer for entry in entries if entry.type == type_of(GateShare)] == list(HOLDERS)


# --- shares ------------------------------------------------------------------------------------------------------


def share_of(office: Office, name: str, **changes: Any) -> tuple[Signed, bytes]:
    """The holder's honest share, with fields that it has changed itself."""
    (found,) = [(signed, words) for signed, words in office.honest_shares() if signed.signer == name]
    return (resigned(found[0], GateShare, **changes), found[1]) if changes else found


def test_the_same_share_again_changes_nothing_even_later(office: Office) -> None:
    office.share(FIRST)
    office.share(FIRST)
    assert office.tasks(FIRST) == []
    office.share(SECOND, THIRD)
    office.share(SECOND)
    assert office.state() == State.WAITING_FOR_SUBMISSIONS
    office.contribute(*HOLDERS)
    office.share(SECOND)
    assert office.result() == released(office)


def test_a_second_different_share_is_refused(office: Office) -> None:
    signed, words = share_of(office, FIRST)
    other = bytes([words[0] ^ 1]) + words[1:]
    second = resigned(signed, GateShare, words_digest=Digest(hashlib.sha256(other).hexdigest()))
    office.share(FIRST)
    refused(SecondPayload, office.jobs.share, second, other, office.id, FIRST)
    assert office.store.seats(office.id)[0].share == signed and office.jobs.words(office.id, FIRST) == words
    office.share(SECOND, THIRD)
    refused(SecondPayload, office.jobs.share, second, other, office.id, FIRST)


@pytest.mark.parametrize("change", ["shorter", "longer", "none", "another's", "flipped"])
def test_words_that_are_not_the_signed_ones_are_refused(office: Office, change: str) -> None:
    signed, words = share_of(office, FIRST)
    wrong = {
        "shorter": words[:-1],
        "longer": words + bytes(8),
        "none": b"",
        "another's": share_of(office, SECOND)[1],
        "flipped": bytes([words[0] ^ 1]) + words[1:],
    }[change]
    refused(MalformedMessage, office.jobs.share, signed, wrong, office.id, FIRST)
    assert (office.tasks(FIRST), office.jobs.words(office.id, FIRST)) == (["gate"], b"")


WRONG: list[tuple[dict[str, Any], type[CeibaError]]] = [
    ({"holder": SECOND}, MalformedMessage),
    ({"job_id": "0c" * 16}, MalformedMessage),
    ({"attempt": 1}, IllegalTransition),
    ({"words": 1}, MalformedMessage),
    ({"context_digest": OTHER_DIGEST}, TotalRejected),
    ({"words_digest": OTHER_DIGEST}, MalformedMessage),
    ({"words_digest": "AB" * 32}, MalformedDocument),
]


@pytest.mark.parametrize(("changes", "error"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_share_is_refused(office: Office, changes: dict[str, Any], error: type[CeibaError]) -> None:
    refused(error, office.jobs.share, *share_of(office, FIRST, **changes), office.id, FIRST)
    assert office.tasks(FIRST) == ["gate"]


def test_a_share_is_brought_by_who_signed_it(office: Office) -> None:
    signed, words = share_of(office, FIRST)
    refused(MalformedMessage, office.jobs.share, signed, words, office.id, SECOND)
    refused(UnknownJob, office.jobs.share, signed, words, office.id, "dresden")
    refused(UnknownJob, office.jobs.share, signed, words, bytes(16), FIRST)
    refused(
        UnknownMember, office.jobs.share, signed_by(MERCHANT, GateShare.parse(signed.body)), words, office.id, FIRST
    )
    forged = Signed(type=signed.type, body=signed.body, signer=FIRST, signature=bytes(64))
    refused(BadSignature, office.jobs.share, forged, words, office.id, FIRST)
    assert office.tasks(FIRST) == ["gate"]


def test_no_share_before_the_set_is_fixed() -> None:
    office = Office(world=Gated())
    office.submit()
    office.approve(FIRST, SECOND)
    refused(IllegalTransition, office.jobs.share, *office.world.shares[0], office.id, FIRST)


def test_no_submission_before_the_gate(office: Office) -> None:
    office.share(FIRST, SECOND)
    refused(IllegalTransition, office.contribute, FIRST)
    refused(NotYetDone, office.jobs.result, office.id, MERCHANT)


def test_expected_words_are_those_of_the_gate_at_any_time(four: Office) -> None:
    expected = len(share_of(four, FIRST)[1])
    four.leave(FOURTH)
    assert four.jobs.expected_words(four.id) == expected
    four.approve(*HOLDERS, attempt=1)
    assert four.jobs.expected_words(four.id) == expected == len(share_of(four, FIRST)[1])
    four.share(*HOLDERS)
    assert four.jobs.expected_words(four.id) == expected
    refused(UnknownJob, four.jobs.expected_words, bytes(16))


# --- who gets them -----------------------------------------------------------------------------------------------


def test_all_shares_are_handed_to_the_jobs_holders_once_all_are_there(office: Office) -> None:
    office.share(FIRST, SECOND)
    for name in HOLDERS:
        refused(IllegalTransition, office.jobs.shares, office.id, name)
    office.share(THIRD)
    for name in HOLDERS:
        assert office.jobs.shares(office.id, name) == office.world.share_documents
        assert [office.jobs.words(office.id, one) for one in HOLDERS] == [words for _, words in office.world.shares]


def test_nobody_else_gets_them(office: Office) -> None:
    office.share(*HOLDERS)
    for stranger in (MERCHANT, "bank-b", "dresden", ""):
        refused(UnknownJob, office.jobs.shares, office.id, stranger)
    refused(UnknownJob, office.jobs.shares, bytes(16), FIRST)


def test_they_are_handed_out_while_the_job_waits_for_submissions_and_no_longer(office: Office) -> None:
    office.share(*HOLDERS)
    office.contribute(FIRST, SECOND)
    assert len(office.jobs.shares(office.id, THIRD)) == 3
    office.contribute(THIRD)
    refused(IllegalTransition, office.jobs.shares, office.id, THIRD)


@pytest.mark.parametrize("shared", [0, 2, 3])
def test_deadline_and_cancelling_end_a_job_at_the_gate(office: Office, shared: int) -> None:
    office.share(*HOLDERS[:shared])
    office.now = NOW + 61
    assert office.jobs.expire() == [office.id]
    assert (office.state(), office.tasks(THIRD)) == (State.EXPIRED, [])
    refused(IllegalTransition, office.jobs.cancel, office.id, MERCHANT)


def test_a_refusal_at_the_gate_ends_the_job(office: Office) -> None:
    office.share(FIRST)
    office.jobs.refuse(office.world.refusal(SECOND), SECOND)
    assert (office.state(), office.tasks(THIRD)) == (State.FAILED, [])
    assert office.jobs.status(office.id, MERCHANT, set()).refusal.signer == SECOND
    refused(IllegalTransition, office.share, THIRD)


# --- over the wire -----------------------------------------------------------------------------------------------


class Door:
    """The service itself, without a server: whoever calls is named in place of a context."""

    def __init__(self, office: Office) -> None:
        async def name(context: Any, _: Role) -> Any:
            return context

        desk, callers = Desk(office.store), SimpleNamespace(name=name)
        needs: list[Any] = [
            desk,
            callers,
            office.membership,
            office.agreements,
            office.jobs,
            office.log,
            Presence(desk),
        ]
        self.service: Any = Work(*needs)

    def submit(self, holder: str, *parts: WorkPart) -> None:
        async def coming() -> AsyncIterator[WorkPart]:
            for part in parts:
                yield part

        asyncio.run(Work.Submit.__wrapped__(self.service, coming(), holder))  # type: ignore[attr-defined]

    def shares(self, holder: str, job_id: bytes) -> list[SharePart]:
        async def all_of_them() -> list[SharePart]:
            request = SharesRequest(job_id=job_id)
            return [part async for part in Work.Shares.__wrapped__(self.service, request, holder)]  # type: ignore[attr-defined]

        return asyncio.run(all_of_them())


def in_parts(signed: Signed, words: bytes, size: int = 50) -> list[WorkPart]:
    pieces = [words[at : at + size] for at in range(0, len(words), size)]
    return [WorkPart(gate_share=signed), *(WorkPart(words=piece) for piece in pieces)]


def file_office(tmp_path: Path) -> Office:
    """A job that waits for shares; with a file, because the service has its own thread."""
    office = Office(tmp_path / "coordinator.sqlite3", Gated())
    office.submit()
    office.approve(*HOLDERS)
    return office


def test_shares_come_in_parts_and_go_out_in_parts(tmp_path: Path) -> None:
    office = file_office(tmp_path)
    door = Door(office)
    for name in HOLDERS:
        door.submit(name, *in_parts(*share_of(office, name)))
    assert office.state() == State.WAITING_FOR_SUBMISSIONS
    received: list[tuple[Signed, bytes]] = []
    for part in door.shares(SECOND, office.id):
        if part.WhichOneof("part") == "share":
            received.append((part.share, b""))
        else:
            received[-1] = (received[-1][0], received[-1][1] + part.words)
    assert received == office.world.shares


def test_a_repetition_that_comes_late_is_accepted(tmp_path: Path) -> None:
    """The acknowledgement of the last share was lost, and the job has moved on."""
    office = file_office(tmp_path)
    door = Door(office)
    parts = {name: in_parts(*share_of(office, name)) for name in HOLDERS}
    for name in HOLDERS:
        door.submit(name, *parts[name])
    door.submit(THIRD, *parts[THIRD])
    office.contribute(*HOLDERS)
    door.submit(THIRD, *parts[THIRD])
    assert office.state() == State.DONE


def test_no_more_words_are_taken_than_the_gate_has(tmp_path: Path) -> None:
    office = file_office(tmp_path)
    door, (signed, words) = Door(office), share_of(office, FIRST)
    with pytest.raises(MessageTooLarge):
        door.submit(FIRST, *in_parts(signed, words + b"1"))
    for wrong in (WorkPart(ciphertexts=b"1"), WorkPart(gate_share=signed)):
        with pytest.raises(MalformedMessage, match="only words follow"):
            door.submit(FIRST, *in_parts(signed, words), wrong)
    with pytest.raises(MalformedMessage):
        door.submit(SECOND, *in_parts(signed, words))
    with pytest.raises(UnknownJob):
        door.shares("bank-b", office.id)
    assert office.tasks(FIRST) == ["gate"]


# --- leaving -----------------------------------------------------------------------------------------------------


def test_a_holder_may_leave_before_anybody_has_shared(four: Office) -> None:
    four.leave(FOURTH)
    assert four.state() == State.WAITING_FOR_APPROVALS
    four.approve(*HOLDERS, attempt=1)
    assert [four.tasks(name) for name in (*HOLDERS, FOURTH)] == [["gate"], ["gate"], ["gate"], []]
    (task,) = four.jobs.tasks(FIRST)
    assert [one.signer for one in task.gate.aborts] == [FOURTH]
    four.share(*HOLDERS)
    four.contribute_anew(*HOLDERS)
    assert four.state() == State.DONE
    assert four.result()[0] == sum(len(WOMEN[name]) for name in HOLDERS)


def test_whoever_has_shared_does_not_leave(four: Office) -> None:
    """Two gates with and without it would show its capped counts to the others."""
    four.share(FOURTH)
    refused(SetMismatch, four.leave, FOURTH)
    assert (four.state(), four.store.seats(four.id)[1].abort) == (State.WAITING_FOR_SHARES, None)
    four.share(*HOLDERS)
    refused(SetMismatch, four.leave, FOURTH)


def test_nobody_leaves_a_gate_to_which_somebody_has_shared(four: Office) -> None:
    """Who has shared would refuse another set, so the job ends."""
    four.share(FIRST)
    four.leave(FOURTH)
    assert (four.state(), [four.tasks(name) for name in HOLDERS]) == (State.FAILED, [[]] * 3)


def test_nobody_leaves_between_gate_and_release(four: Office) -> None:
    four.share(*HOLDERS, FOURTH)
    refused(SetMismatch, four.leave, FOURTH)
    four.jobs.refuse(four.world.refusal(FOURTH), FOURTH)
    assert four.state() == State.FAILED


def test_a_share_of_the_old_attempt_is_refused(four: Office) -> None:
    old = share_of(four, FIRST)
    four.leave(FOURTH)
    refused(IllegalTransition, four.jobs.share, *old, four.id, FIRST)
    four.approve(*HOLDERS, attempt=1)
    refused(IllegalTransition, four.jobs.share, *old, four.id, FIRST)
    assert four.tasks(FIRST) == ["gate"]


def test_a_smaller_set_survives_a_restart(tmp_path: Path) -> None:
    office = Office(tmp_path / "coordinator.sqlite3", Gated((*HOLDERS, FOURTH)))
    office.submit()
    office.approve(*HOLDERS, FOURTH)
    office.leave(FOURTH)
    office.approve(*HOLDERS, attempt=1)
    office.share(FIRST)
    office.restart()
    office.share(SECOND, THIRD)
    office.restart()
    office.contribute_anew(*HOLDERS)
    assert office.state() == State.DONE
