"""Work (work.proto), and who is connected."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import structlog

from ceiba_coordinator.jobs import Jobs
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.services.calls import EVERYBODY, Callers, Context, Desk, answering, streaming
from ceiba_protocol.errors import MalformedMessage, MessageTooLarge
from ceiba_protocol.trust.documents import Submission
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import work_pb2 as pb
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2_grpc import WorkServicer

log = structlog.get_logger()


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


class Work(WorkServicer):
    def __init__(self, desk: Desk, callers: Callers, membership: Membership, jobs: Jobs, presence: Presence) -> None:
        self._desk = desk
        self._callers = callers
        self._membership = membership
        self._jobs = jobs
        self._presence = presence

    @streaming
    async def Pull(self, request: pb.PullRequest, context: Context) -> AsyncIterator[pb.Task]:
        holder = await self._callers.name(context, Role.HOLDER)
        await self._until_pinned(holder, request.roster_digest)
        sent: dict[bytes, set[str]] = {}
        with self._presence.connected(holder):
            async for _ in self._desk.changes(holder, EVERYBODY):
                if not await self._has_pinned(request.roster_digest):
                    return  # the holder calls again, with the roster that it has pinned by then
                async for task in self._news(holder, sent):
                    yield task

    async def _until_pinned(self, holder: str, roster_digest: bytes) -> None:
        """Wait while the holder has not pinned the newest roster: it would have to refuse every task."""
        async for _ in self._desk.changes(EVERYBODY):
            if await self._has_pinned(roster_digest):
                return
            log.warning("holder.has_old_roster", holder=holder)

    async def _has_pinned(self, roster_digest: bytes) -> bool:
        newest = await self._desk.run(self._membership.roster)
        return bytes.fromhex(newest.digest()) == roster_digest

    async def _news(self, holder: str, sent: dict[bytes, set[str]]) -> AsyncIterator[pb.Task]:
        """Tasks not yet sent on this stream, and word of jobs that have ended since."""
        tasks = await self._desk.run(self._jobs.tasks, holder)
        for task in tasks:
            kinds = sent.setdefault(task.job_id, set())
            kind = task.WhichOneof("kind") or ""
            if kind not in kinds:
                kinds.add(kind)
                yield task
        for job_id in await self._desk.run(self._jobs.ended, list(sent)):
            del sent[job_id]
            yield pb.Task(job_id=job_id, forget=pb.ForgetTask())

    @answering
    async def Submit(self, request: AsyncIterator[pb.WorkPart], context: Context) -> pb.SubmitWorkResponse:
        holder = await self._callers.name(context, Role.HOLDER)
        first = await anext(request, pb.WorkPart())
        match first.WhichOneof("part"):
            case "approval":
                await self._desk.run(self._jobs.approve, first.approval, holder)
            case "refusal":
                await self._desk.run(self._jobs.refuse, first.refusal, holder)
            case "submission":
                await self._contribute(first.submission, request, holder)
            case _:
                raise MalformedMessage(message="WorkPart", problem="an answer begins with a signed document")
        return pb.SubmitWorkResponse()

    async def _contribute(self, signed: Signed, parts: AsyncIterator[pb.WorkPart], holder: str) -> None:
        job_id = bytes.fromhex(Submission.parse(signed.body).job_id)
        limit = await self._desk.run(self._jobs.expected_bytes, job_id)
        ciphertexts = bytearray()
        async for part in parts:
            if part.WhichOneof("part") != "ciphertexts":
                raise MalformedMessage(message="WorkPart", problem="only ciphertexts follow a submission")
            ciphertexts += part.ciphertexts
            if len(ciphertexts) > limit:
                raise MessageTooLarge(message="Submission", limit=limit)
        await self._desk.run(self._jobs.contribute, signed, bytes(ciphertexts), job_id, holder)
