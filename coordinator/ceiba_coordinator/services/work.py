"""Work (work.proto), and who is connected."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from ceiba_coordinator.agreements import Agreements
from ceiba_coordinator.bells import EVERYBODY, NEW_CHECKPOINT
from ceiba_coordinator.jobs import Jobs
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering, streaming
from ceiba_protocol.errors import MalformedMessage, MessageTooLarge, TooSlow
from ceiba_protocol.fit_rounds import MOST_BYTES
from ceiba_protocol.trust.documents import FitShare, GateShare, Submission
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import work_pb2 as pb
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2_grpc import WorkServicer
from ceiba_protocol.wire import chunks

log = structlog.get_logger()

PART_SECONDS = 60.0
"""From one part of an answer to the next: a part has at most 1 MiB, which takes a minute at 140 kbit/s."""


class Presence:
    """Which holders have a Pull open now. Tells people whom a job waits for; decides nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._streams: Counter[str] = Counter()

    def online(self) -> set[str]:
        return {holder for holder, streams in self._streams.items() if streams > 0}

    @contextmanager
    def connected(self, holder: str) -> Iterator[None]:
        self._streams[holder] += 1
        self._desk.notify([EVERYBODY])
        log.info("holder.connected", holder=holder)
        try:
            yield
        finally:
            self._streams[holder] -= 1
            self._desk.notify([EVERYBODY])
            log.info("holder.disconnected", holder=holder)


@dataclass
class Sent:
    """What one stream has carried, so that it carries nothing twice."""

    jobs: dict[bytes, set[tuple[str, int, int]]] = field(default_factory=dict)
    """By job: kinds of task, each with the attempt, or how many holders had left, and a fit's round or a joint job's
    step."""
    agreements: set[tuple[str, int]] = field(default_factory=set)
    checkpoint: Signed | None = None


class Work(WorkServicer):
    def __init__(
        self,
        desk: Desk,
        callers: Callers,
        membership: Membership,
        agreements: Agreements,
        jobs: Jobs,
        log: Log,
        presence: Presence,
    ) -> None:
        self._desk = desk
        self._callers = callers
        self._membership = membership
        self._agreements = agreements
        self._jobs = jobs
        self._log = log
        self._presence = presence

    @streaming
    async def Pull(self, request: pb.PullRequest, context: Context) -> AsyncIterator[pb.Task]:
        holder = await self._callers.name(context, Role.HOLDER)
        pinned, sent = request.roster_digest.hex(), Sent()
        async for task in self._rosters_after(pinned):
            yield task
        with self._presence.connected(holder):
            async for _ in self._desk.changes(holder, EVERYBODY, NEW_CHECKPOINT):
                if await self._desk.run(self._membership.successors, pinned) is not None:
                    return  # the holder calls again, and is sent the new roster unless it has pinned it by then
                for task in await self._desk.run(self._news, holder, sent):
                    yield task

    async def _rosters_after(self, pinned: str) -> AsyncIterator[pb.Task]:
        """While the caller has not pinned the roster in force, and so would have to refuse every task: what it has to
        take up, each once."""
        told = set[bytes]()
        async for _ in self._desk.changes(EVERYBODY):
            rosters = await self._desk.run(self._membership.successors, pinned)
            if rosters is None:
                return
            for roster in rosters:
                if roster.roster not in told:
                    told.add(roster.roster)
                    yield pb.Task(roster=pb.RosterTask(roster=roster))

    def _news(self, holder: str, sent: Sent) -> list[pb.Task]:
        """What was not yet sent on this stream: the log to witness, agreements, jobs, and word of jobs that ended."""
        tasks = []
        checkpoint = self._log.unwitnessed(holder)
        if checkpoint is not None and checkpoint != sent.checkpoint:
            sent.checkpoint = checkpoint
            tasks.append(pb.Task(witness=pb.WitnessTask(checkpoint=checkpoint)))
        for key, evidence in self._agreements.concerning(holder).items():
            if key not in sent.agreements:
                sent.agreements.add(key)
                tasks.append(pb.Task(agreement=evidence))
        for task in self._jobs.tasks(holder):
            kinds = sent.jobs.setdefault(task.job_id, set())
            aborts = task.gate.aborts or task.contribute.aborts or task.fit.aborts
            number = task.fit.iteration or task.joint.step
            kind = (task.WhichOneof("kind") or "", task.approve.attempt or len(aborts), number)
            if kind not in kinds:
                kinds.add(kind)
                tasks.append(task)
        for job_id in self._jobs.ended(list(sent.jobs)):
            del sent.jobs[job_id]
            tasks.append(pb.Task(job_id=job_id, forget=pb.ForgetTask()))
        return tasks

    @answering
    async def Submit(self, request: AsyncIterator[pb.WorkPart], context: Context) -> pb.SubmitWorkResponse:
        holder = await self._callers.name(context, Role.HOLDER)
        parts = in_time(request)
        first = await anext(parts, pb.WorkPart())
        match first.WhichOneof("part"):
            case "approval":
                await self._desk.run(self._jobs.approve, first.approval, holder)
            case "refusal":
                abort = await self._abort_after_refusal(parts)
                await self._desk.run(self._jobs.refuse, first.refusal, holder, abort)
            case "gate_share":
                await self._share(first.gate_share, parts, holder)
            case "fit_share":
                await self._share_fit(first.fit_share, parts, holder)
            case "submission":
                await self._contribute(first.submission, parts, holder)
            case "joint_message":
                await self._take_message(first.joint_message, parts, holder)
            case "pending":
                await self._desk.run(self._jobs.wait_for_person, first.pending, holder)
            case _:
                raise MalformedMessage(message="WorkPart", problem="an answer begins with a signed document")
        return pb.SubmitWorkResponse()

    async def _abort_after_refusal(self, parts: AsyncIterator[pb.WorkPart]) -> Signed | None:
        following = await anext(parts, None)
        if following is None:
            return None
        if following.WhichOneof("part") != "abort" or await anext(parts, None) is not None:
            raise MalformedMessage(message="WorkPart", problem="only an abort token follows a refusal")
        return following.abort

    async def _share(self, signed: Signed, parts: AsyncIterator[pb.WorkPart], holder: str) -> None:
        job_id = bytes.fromhex(GateShare.parse(signed.body).job_id)
        words = await collect(parts, "words", await self._desk.run(self._jobs.expected_words, job_id))
        await self._desk.run(self._jobs.share, signed, words, job_id, holder)

    async def _share_fit(self, signed: Signed, parts: AsyncIterator[pb.WorkPart], holder: str) -> None:
        job_id = bytes.fromhex(FitShare.parse(signed.body).job_id)
        words = await collect(parts, "words", MOST_BYTES)
        await self._desk.run(self._jobs.share_fit, signed, words, job_id, holder)

    async def _contribute(self, signed: Signed, parts: AsyncIterator[pb.WorkPart], holder: str) -> None:
        job_id = bytes.fromhex(Submission.parse(signed.body).job_id)
        ciphertexts = await collect(parts, "ciphertexts", await self._desk.run(self._jobs.expected_bytes, job_id))
        await self._desk.run(self._jobs.contribute, signed, ciphertexts, job_id, holder)

    async def _take_message(self, signed: Signed, parts: AsyncIterator[pb.WorkPart], holder: str) -> None:
        expected = await self._desk.run(self._jobs.expected_payload, signed, holder)
        payload = await collect(parts, "payload", expected)
        await self._desk.run(self._jobs.take_message, signed, payload, holder)

    @streaming
    async def Received(self, request: pb.ReceivedRequest, context: Context) -> AsyncIterator[pb.ReceivedPart]:
        holder = await self._callers.name(context, Role.HOLDER)
        job_id, step = request.job_id, request.step
        yield pb.ReceivedPart(message=await self._desk.run(self._jobs.received, job_id, step, holder))
        for part in chunks(await self._desk.run(self._jobs.joint_payload, job_id, step)):
            yield pb.ReceivedPart(payload=part)

    @streaming
    async def FitShares(self, request: pb.FitSharesRequest, context: Context) -> AsyncIterator[pb.SharePart]:
        holder = await self._callers.name(context, Role.HOLDER)
        job_id, iteration = request.job_id, request.iteration
        for share in await self._desk.run(self._jobs.fit_shares, job_id, holder, iteration):
            yield pb.SharePart(share=share)
            for part in chunks(await self._desk.run(self._jobs.fit_words, job_id, iteration, share.signer)):
                yield pb.SharePart(words=part)

    @streaming
    async def Shares(self, request: pb.SharesRequest, context: Context) -> AsyncIterator[pb.SharePart]:
        holder = await self._callers.name(context, Role.HOLDER)
        for share in await self._desk.run(self._jobs.shares, request.job_id, holder):
            yield pb.SharePart(share=share)
            for part in chunks(await self._desk.run(self._jobs.words, request.job_id, share.signer)):
                yield pb.SharePart(words=part)


async def collect(parts: AsyncIterator[pb.WorkPart], kind: str, limit: int) -> bytes:
    """The bytes that follow a document, in parts of one kind. Raises MalformedMessage, MessageTooLarge."""
    collected = bytearray()
    async for part in parts:
        if part.WhichOneof("part") != kind:
            raise MalformedMessage(message="WorkPart", problem=f"only {kind} follow this document")
        collected += getattr(part, kind)
        if len(collected) > limit:
            raise MessageTooLarge(message="WorkPart", limit=limit)
    return bytes(collected)


async def in_time(parts: AsyncIterator[pb.WorkPart]) -> AsyncIterator[pb.WorkPart]:
    """The same parts, each within PART_SECONDS. Raises TooSlow."""
    while True:
        try:
            part = await asyncio.wait_for(anext(parts), PART_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise TooSlow(message="an answer", seconds=f"{PART_SECONDS:.0f}") from None
        yield part
