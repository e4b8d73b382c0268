"""The rounds of a fit as the coordinator passes them on: every holder's share of every round once, at its time."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ceiba_coordinator.services.calls import Desk
from ceiba_coordinator.services.work import Presence, Sent, Work
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
    UnknownJob,
    UnknownMember,
)
from ceiba_protocol.fit_rounds import MOST_BYTES
from ceiba_protocol.job import State
from ceiba_protocol.plan import finish, fit_alone
from ceiba_protocol.rounds import contribute
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.trust.documents import FitShare, GateShare, Submission
from ceiba_protocol.trust.log import LogEntry
from ceiba_protocol.trust.receipt import read_parts, verify
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import FitSharesRequest, SharePart, WorkPart
from tests.coordinator.office import Office, refused
from tests.support.fit_rounds import INTERNAL, ROUNDS, FitRounds, fit_world
from tests.support.members import HOLDERS, MERCHANT, NOW, SCHEMA, World, resigned, signed_by

FIRST, SECOND, THIRD = HOLDERS
FOURTH = "dresden"


class FitOffice(Office):
    """A job whose fit begins; holders are at the round that the test has taken them to."""

    def __init__(self, path: Path | None = None, schema: Schema = INTERNAL, names: tuple[str, ...] = HOLDERS) -> None:
        world = fit_world(names, schema=schema)
        world.agreement = world.make_agreement(smallest_set=3)
        super().__init__(path, world)
        self.submit()
        self.approve(*names)
        self.names = names
        if world.agreement.disclosure.has_gate:
            self.share(*names)
        self.begin()

    def begin(self) -> None:
        question = self.world.read()
        gate = self.honest_shares() if self.world.agreement.disclosure.has_gate else []
        self.fit = FitRounds(self.world, self.names, question, self.commitment(), gate)

    def iterate(self, *names: str) -> None:
        """Their honest shares of the current round."""
        for name in names:
            self.jobs.share_fit(*self.fit.share(name), self.id, name)

    def complete(self, rounds: int = 1) -> None:
        """So many rounds of everybody."""
        for _ in range(rounds):
            self.iterate(*self.names)
            self.fit.go_on()

    def release(self, *names: str) -> None:
        for name in names:
            self.jobs.contribute(*self.fit.submission(name), self.id, name)

    def iteration(self) -> int:
        job = self.store.job(self.id)
        assert job is not None
        return job.iteration

    def kept(self) -> int:
        return sum(len(self.store.fit_shares(self.id, at)) for at in range(ROUNDS + 1))


@pytest.fixture
def office() -> FitOffice:
    return FitOffice()


def share_of(office: FitOffice, name: str, **changes: Any) -> tuple[Signed, bytes]:
    """The holder's honest share, with fields that it has changed itself."""
    signed, words = office.fit.share(name)
    return (resigned(signed, FitShare, **changes) if changes else signed), words


def other_share(office: FitOffice, name: str) -> tuple[Signed, bytes]:
    """A second one of the same round, validly signed."""
    signed, words = office.fit.share(name)
    other = bytes([words[0] ^ 1]) + words[1:]
    return resigned(signed, FitShare, words_digest=Digest(hashlib.sha256(other).hexdigest())), other


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_fit_from_submission_to_answer(office: FitOffice) -> None:
    for at in range(ROUNDS):
        assert (office.state(), office.iteration()) == (State.WAITING_FOR_ITERATIONS, at)
        assert [office.tasks(name) for name in HOLDERS] == [["fit"]] * 3
        office.iterate(SECOND)
        assert [office.tasks(name) for name in HOLDERS] == [["fit"], [], ["fit"]]
        office.iterate(FIRST, THIRD)
        office.fit.go_on()
    assert office.fit.is_final
    assert [office.tasks(name) for name in HOLDERS] == [["fit"]] * 3  # whose answer is the release
    office.release(THIRD, FIRST)
    assert [office.tasks(name) for name in HOLDERS] == [[], ["fit"], []]
    office.release(SECOND)
    assert (office.state(), office.tasks(SECOND)) == (State.DONE, [])
    program = office.world.read().program
    alone = fit_alone(program, [row for rows in office.world.rows.values() for row in rows])
    ((found,),), ((wanted,),) = finish(program, office.result()), finish(program, alone)
    assert found["coefficients"] == pytest.approx(wanted["coefficients"], rel=1e-8)


def test_tasks_name_the_round_and_have_the_set(office: FitOffice) -> None:
    office.complete()
    (task,) = office.jobs.tasks(FIRST)
    assert task.fit.iteration == 1
    assert list(task.fit.approvals) == office.world.approvals()
    assert task.fit.checkpoint == office.log.newest_checkpoint()


def test_every_step_survives_a_restart(tmp_path: Path) -> None:
    office = FitOffice(tmp_path / "coordinator.sqlite3")

    def now() -> Any:
        return office.state(), [office.jobs.tasks(name) for name in HOLDERS], office.store.log_size(), office.kept()

    for at in range(ROUNDS + 1):
        for name in HOLDERS:
            step = office.iterate if at < ROUNDS else office.release
            step(name)
            before = now()
            office.restart()
            assert now() == before
            step(name)  # the holder did not hear the answer and sends it again
            assert now() == before
        if at < ROUNDS:
            office.fit.go_on()
    assert office.state() == State.DONE and any(office.result())


def test_the_log_has_every_share_and_the_receipt_is_whole(office: FitOffice) -> None:
    office.complete(ROUNDS)
    office.release(*HOLDERS)
    entries = map(LogEntry.parse, office.log.read(0, office.store.log_size()))
    assert [entry.signer for entry in entries if entry.type == type_of(FitShare)] == list(HOLDERS) * ROUNDS
    steps = verify(read_parts(office.receipts.parts(office.id, MERCHANT), office.world.roster), office.world.roster)
    assert [step.error for step in steps[:-1]] == [None] * (len(steps) - 1)


# --- shares ------------------------------------------------------------------------------------------------------


def test_the_same_share_again_changes_nothing_even_later(office: FitOffice) -> None:
    old = share_of(office, FIRST)
    office.iterate(FIRST)
    office.iterate(FIRST)
    assert office.kept() == 1
    office.iterate(SECOND, THIRD)
    office.fit.go_on()
    size = office.store.log_size()
    office.jobs.share_fit(*old, office.id, FIRST)  # its acknowledgement was lost, and the round is over
    assert (office.iteration(), office.kept(), office.store.log_size()) == (1, 3, size)
    office.complete(ROUNDS - 1)
    office.release(*HOLDERS)
    assert office.state() == State.DONE


@pytest.mark.parametrize("later", [False, True])
def test_a_second_different_share_is_refused(office: FitOffice, later: bool) -> None:
    """Two of one round could be subtracted by whoever has both."""
    first, second = share_of(office, FIRST), other_share(office, FIRST)
    office.iterate(FIRST)
    if later:
        office.iterate(SECOND, THIRD)
        office.fit.go_on()
    refused(SecondPayload, office.jobs.share_fit, *second, office.id, FIRST)
    assert office.store.fit_shares(office.id, 0)[FIRST] == first[0]
    assert office.jobs.fit_words(office.id, 0, FIRST) == first[1]


@pytest.mark.parametrize("change", ["shorter", "longer", "none", "another's", "flipped"])
def test_words_that_are_not_the_signed_ones_are_refused(office: FitOffice, change: str) -> None:
    signed, words = share_of(office, FIRST)
    wrong = {
        "shorter": words[:-1],
        "longer": words + bytes(8),
        "none": b"",
        "another's": share_of(office, SECOND)[1],
        "flipped": bytes([words[0] ^ 1]) + words[1:],
    }[change]
    refused(MalformedMessage, office.jobs.share_fit, signed, wrong, office.id, FIRST)
    assert (office.tasks(FIRST), office.kept()) == (["fit"], 0)


WRONG: list[tuple[dict[str, Any], type[CeibaError]]] = [
    ({"holder": SECOND}, MalformedMessage),
    ({"job_id": "0c" * 16}, MalformedMessage),
    ({"attempt": 1}, IllegalTransition),
    ({"iteration": 1}, IllegalTransition),
    ({"iteration": 2**31}, MalformedDocument),
    ({"words": 2}, MalformedMessage),
    ({"words_digest": Digest("ab" * 32)}, MalformedMessage),
]


@pytest.mark.parametrize(("changes", "error"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_share_is_refused(office: FitOffice, changes: dict[str, Any], error: type[CeibaError]) -> None:
    refused(error, office.jobs.share_fit, *share_of(office, FIRST, **changes), office.id, FIRST)
    assert (office.tasks(FIRST), office.kept()) == (["fit"], 0)


def test_a_share_of_a_round_that_is_over_is_refused_in_the_next(office: FitOffice) -> None:
    """Replayed as the next round's, its document says otherwise; changed so, its words are still that state's, which
    the holders find out."""
    old, words = share_of(office, FIRST)
    office.complete()
    refused(SecondPayload, office.jobs.share_fit, *other_old(old, words), office.id, FIRST)
    office.jobs.share_fit(resigned(old, FitShare, iteration=1), words, office.id, FIRST)
    office.iterate(SECOND, THIRD)
    shares = [
        (signed, office.jobs.fit_words(office.id, 1, signed.signer))
        for signed in office.jobs.fit_shares(office.id, SECOND, 1)
    ]
    with pytest.raises(CeibaError, match=f"{FIRST} summed at another state"):
        office.fit.go_on(shares)


def other_old(signed: Signed, words: bytes) -> tuple[Signed, bytes]:
    other = bytes(len(words))
    return resigned(signed, FitShare, words_digest=Digest(hashlib.sha256(other).hexdigest())), other


def test_a_share_is_brought_by_who_signed_it(office: FitOffice) -> None:
    signed, words = share_of(office, FIRST)
    refused(MalformedMessage, office.jobs.share_fit, signed, words, office.id, SECOND)
    refused(UnknownJob, office.jobs.share_fit, signed, words, office.id, "lille")
    refused(UnknownJob, office.jobs.share_fit, signed, words, bytes(16), FIRST)
    by_merchant = signed_by(MERCHANT, FitShare.parse(signed.body))
    refused(UnknownMember, office.jobs.share_fit, by_merchant, words, office.id, FIRST)
    forged = Signed(type=signed.type, body=signed.body, signer=FIRST, signature=bytes(64))
    refused(BadSignature, office.jobs.share_fit, forged, words, office.id, FIRST)
    assert office.kept() == 0


def test_no_share_of_a_fit_before_the_gate_or_in_another_job() -> None:
    office = Office(world=fit_world())
    office.submit()
    office.approve(*HOLDERS)
    fit = FitRounds(office.world, HOLDERS, office.world.read(), office.commitment(), office.honest_shares())
    refused(IllegalTransition, office.jobs.share_fit, *fit.share(FIRST), office.id, FIRST)
    plain = Office(world=World())
    plain.submit()
    plain.approve(*HOLDERS)
    refused(IllegalTransition, plain.jobs.share_fit, *fit.share(FIRST), plain.id, FIRST)


def test_a_share_of_the_gate_is_none_of_a_round(office: FitOffice) -> None:
    gate, words = office.honest_shares()[0]
    refused(CeibaError, office.jobs.share_fit, gate, words, office.id, FIRST)
    changed = signed_by(FIRST, GateShare.parse(gate.body))
    office.jobs.share(changed, words, office.id, FIRST)  # the same again: nothing happens
    assert (office.state(), office.kept()) == (State.WAITING_FOR_ITERATIONS, 0)


# --- the release -------------------------------------------------------------------------------------------------


def test_whoever_has_submitted_sends_no_share_any_more(office: FitOffice) -> None:
    """And the others cannot finish without it: the job ends at its deadline."""
    office.complete(ROUNDS)
    office.release(FIRST)
    share = resigned(office.fit.sent(0)[0][0], FitShare, iteration=ROUNDS)
    assert share.signer == FIRST
    refused(SecondPayload, office.jobs.share_fit, share, office.fit.sent(0)[0][1], office.id, FIRST)
    assert (office.tasks(FIRST), office.tasks(SECOND)) == ([], ["fit"])


def test_one_that_submits_before_its_time_stops_the_job_and_releases_nothing(office: FitOffice) -> None:
    """The coordinator cannot know when a state is final. The round stays without its share, until the deadline."""
    office.iterate(SECOND, THIRD)
    this, world = office.fit.rounds[FIRST], office.world
    question = this.question
    made, blob = contribute(
        question, this.commitment, FIRST, [0] * question.layout.slots, world.mask_secrets[FIRST],
        Encryptor.for_count(question.modulus, 1, world.random), bytes(32), office.fit.released, "ab" * 32,
    )  # fmt: skip
    office.jobs.contribute(signed_by(FIRST, made), blob, office.id, FIRST)
    refused(SecondPayload, office.iterate, FIRST)
    refused(NotYetDone, office.jobs.result, office.id, MERCHANT)
    refused(IllegalTransition, office.jobs.fit_shares, office.id, SECOND, 0)
    assert [office.tasks(name) for name in HOLDERS] == [[], [], []]
    office.now = NOW + 61
    assert office.jobs.expire() == [office.id]


def test_no_second_submission(office: FitOffice) -> None:
    office.complete(ROUNDS)
    office.release(FIRST)
    office.release(FIRST)
    signed, blob = office.fit.submission(FIRST)
    refused(SecondPayload, office.jobs.contribute, resigned(signed, Submission, iterate=""), blob, office.id, FIRST)


# --- who gets them -----------------------------------------------------------------------------------------------


def test_shares_are_handed_to_the_jobs_holders_once_a_round_is_complete(office: FitOffice) -> None:
    office.iterate(FIRST, SECOND)
    for name in HOLDERS:
        refused(IllegalTransition, office.jobs.fit_shares, office.id, name, 0)
    office.iterate(THIRD)
    office.fit.go_on()
    for name in HOLDERS:
        assert office.jobs.fit_shares(office.id, name, 0) == [signed for signed, _ in office.fit.sent(0)]
        assert [office.jobs.fit_words(office.id, 0, one) for one in HOLDERS] == [blob for _, blob in office.fit.sent(0)]
        refused(IllegalTransition, office.jobs.fit_shares, office.id, name, 1)
        refused(IllegalTransition, office.jobs.fit_shares, office.id, name, 2**31)


def test_nobody_else_gets_them(office: FitOffice) -> None:
    office.complete()
    for stranger in (MERCHANT, "bank-b", "lille", ""):
        refused(UnknownJob, office.jobs.fit_shares, office.id, stranger, 0)
    refused(UnknownJob, office.jobs.fit_shares, bytes(16), FIRST, 0)


def test_earlier_rounds_are_handed_out_again_for_who_has_forgotten_them(office: FitOffice) -> None:
    office.complete(2)
    assert len(office.jobs.fit_shares(office.id, FIRST, 0)) == len(office.jobs.fit_shares(office.id, FIRST, 1)) == 3
    assert office.jobs.shares(office.id, FIRST) == office.world.share_documents  # and the gate's


# --- how a fit ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["done", "expired", "cancelled", "failed"])
def test_a_job_that_ends_forgets_its_rounds(office: FitOffice, how: str) -> None:
    office.complete(ROUNDS if how == "done" else 1)
    old = office.fit.sent(0)[0]
    assert office.kept()
    if how == "done":
        office.release(*HOLDERS)
    if how == "expired":
        office.now = NOW + 61
        assert office.jobs.expire() == [office.id]
    if how == "cancelled":
        office.jobs.cancel(office.id, MERCHANT)
    if how == "failed":
        office.jobs.refuse(office.world.refusal(SECOND), SECOND)
    assert (office.state(), office.kept(), office.jobs.fit_words(office.id, 0, FIRST)) == (how, 0, b"")
    assert [office.tasks(name) for name in HOLDERS] == [[], [], []]
    refused(IllegalTransition, office.jobs.fit_shares, office.id, FIRST, 0)
    refused(CeibaError, office.jobs.share_fit, *old, office.id, FIRST)  # it is a second payload, or comes too late
    assert office.kept() == 0


def test_nobody_leaves_a_fit_to_which_it_has_sent(office: FitOffice) -> None:
    office.iterate(FIRST)
    refused(SetMismatch, office.leave, FIRST)


def test_a_holder_may_leave_a_fit_without_a_gate_before_anybody_has_sent() -> None:
    """Then the first round comes again, of another attempt."""
    office = FitOffice(schema=SCHEMA, names=(*HOLDERS, FOURTH))
    old = office.fit.share(FIRST)
    office.leave(FOURTH)
    assert office.state() == State.WAITING_FOR_APPROVALS
    office.approve(*HOLDERS, attempt=1)
    assert (office.state(), office.iteration()) == (State.WAITING_FOR_ITERATIONS, 0)
    refused(IllegalTransition, office.jobs.share_fit, *old, office.id, FIRST)
    replayed = resigned(old[0], FitShare, attempt=1)
    office.names = HOLDERS
    office.begin()
    refused(UnknownJob, office.jobs.share_fit, replayed, old[1], bytes(16), FIRST)
    office.complete(ROUNDS)
    office.release(*HOLDERS)
    assert office.state() == State.DONE


# --- over the wire -----------------------------------------------------------------------------------------------


class Door:
    """The service itself, without a server: whoever calls is named in place of a context."""

    def __init__(self, office: FitOffice) -> None:
        async def name(context: Any, _: Any) -> Any:
            return context

        desk, callers = Desk(office.store), SimpleNamespace(name=name)
        needs: list[Any] = [desk, callers, office.membership, office.agreements, office.jobs, office.log]
        self.service: Any = Work(*needs, Presence(desk))

    def submit(self, holder: str, *parts: WorkPart) -> None:
        async def coming() -> AsyncIterator[WorkPart]:
            for part in parts:
                yield part

        asyncio.run(Work.Submit.__wrapped__(self.service, coming(), holder))  # type: ignore[attr-defined]

    def shares(self, holder: str, job_id: bytes, iteration: int) -> list[SharePart]:
        async def all_of_them() -> list[SharePart]:
            request = FitSharesRequest(job_id=job_id, iteration=iteration)
            return [part async for part in Work.FitShares.__wrapped__(self.service, request, holder)]  # type: ignore[attr-defined]

        return asyncio.run(all_of_them())

    def news(self, holder: str, sent: Sent) -> list[tuple[str, int]]:
        """The tasks of jobs that one stream would carry now."""
        tasks = self.service._news(holder, sent)
        return [(task.WhichOneof("kind"), task.fit.iteration) for task in tasks if task.job_id]


def in_parts(signed: Signed, words: bytes, size: int = 50) -> list[WorkPart]:
    pieces = [words[at : at + size] for at in range(0, len(words), size)]
    return [WorkPart(fit_share=signed), *(WorkPart(words=piece) for piece in pieces)]


def test_shares_come_in_parts_and_go_out_in_parts(tmp_path: Path) -> None:
    office = FitOffice(tmp_path / "coordinator.sqlite3")
    door = Door(office)
    for name in HOLDERS:
        door.submit(name, *in_parts(*office.fit.share(name)))
    door.submit(THIRD, *in_parts(*office.fit.share(THIRD)))  # which comes late
    assert office.iteration() == 1
    received: list[tuple[Signed, bytes]] = []
    for part in door.shares(SECOND, office.id, 0):
        if part.WhichOneof("part") == "share":
            received.append((part.share, b""))
        else:
            received[-1] = (received[-1][0], received[-1][1] + part.words)
    assert received == office.fit.sent(0)
    with pytest.raises(UnknownJob):
        door.shares("bank-b", office.id, 0)
    with pytest.raises(IllegalTransition):
        door.shares(SECOND, office.id, 1)


def test_no_more_words_are_taken_than_a_round_may_have(tmp_path: Path) -> None:
    office = FitOffice(tmp_path / "coordinator.sqlite3")
    door, (signed, words) = Door(office), office.fit.share(FIRST)
    with pytest.raises(MessageTooLarge):
        door.submit(FIRST, *in_parts(signed, bytes(MOST_BYTES + 1), size=1 << 20))
    with pytest.raises(MalformedMessage, match="only words follow"):
        door.submit(FIRST, *in_parts(signed, words), WorkPart(ciphertexts=b"1"))
    assert office.kept() == 0


def test_a_stream_carries_each_rounds_task_once() -> None:
    office = FitOffice()
    door, sent = Door(office), Sent()
    for at in range(ROUNDS):
        assert door.news(FIRST, sent) == [("fit", at)]
        assert door.news(FIRST, sent) == []
        office.iterate(FIRST)
        assert door.news(FIRST, sent) == []
        office.iterate(SECOND, THIRD)
        office.fit.go_on()
    assert door.news(FIRST, sent) == [("fit", ROUNDS)]
    office.release(*HOLDERS)
    assert door.news(FIRST, sent) == [("forget", 0)]


def test_a_stream_carries_the_first_round_again_in_another_attempt() -> None:
    """Else the job would stand still until the holder's next connection."""
    office = FitOffice(schema=SCHEMA, names=(*HOLDERS, FOURTH))
    door, sent = Door(office), Sent()
    assert door.news(FIRST, sent) == [("fit", 0)]
    office.leave(FOURTH)
    assert door.news(FIRST, sent) == [("approve", 0)]
    office.approve(*HOLDERS, attempt=1)
    assert door.news(FIRST, sent) == [("fit", 0)]
    assert door.news(FIRST, sent) == []
