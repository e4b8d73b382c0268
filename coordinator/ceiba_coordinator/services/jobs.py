"""Jobs (jobs.proto)."""

from collections.abc import AsyncIterator

from ceiba_coordinator.answers import aborts_in, approvals_in, shares_in
from ceiba_coordinator.bells import EVERYBODY
from ceiba_coordinator.jobs import Jobs as JobBook
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering, streaming
from ceiba_coordinator.services.work import Presence
from ceiba_protocol.job import ENDED
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import jobs_pb2 as pb
from ceiba_protocol.v1.jobs_pb2_grpc import JobsServicer
from ceiba_protocol.wire import chunks


class Jobs(JobsServicer):
    def __init__(self, desk: Desk, callers: Callers, jobs: JobBook, presence: Presence) -> None:
        self._desk = desk
        self._callers = callers
        self._jobs = jobs
        self._presence = presence

    async def _status(self, job_id: bytes, merchant: str) -> pb.JobStatus:
        return await self._desk.run(self._jobs.status, job_id, merchant, self._presence.online())

    @answering
    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.JobStatus:
        merchant = await self._callers.name(context, Role.MERCHANT)
        job_id = await self._desk.run(self._jobs.submit, request.manifest, merchant)
        return await self._status(job_id, merchant)

    @streaming
    async def Watch(self, request: pb.JobReference, context: Context) -> AsyncIterator[pb.JobStatus]:
        merchant = await self._callers.name(context, Role.MERCHANT)
        last = None
        async for _ in self._desk.changes(request.job_id.hex(), EVERYBODY):
            status = await self._status(request.job_id, merchant)
            if status != last:
                yield status
            if status.state in ENDED:
                return
            last = status

    @streaming
    async def Result(self, request: pb.JobReference, context: Context) -> AsyncIterator[pb.ResultPart]:
        merchant = await self._callers.name(context, Role.MERCHANT)
        seats, total = await self._desk.run(self._jobs.result, request.job_id, merchant)
        if await self._desk.run(self._jobs.is_joint_job, request.job_id):
            async for part in self._joint_result(request.job_id):
                yield part
            return
        for approval in approvals_in(seats):
            yield pb.ResultPart(approval=approval)
        for abort in aborts_in(seats):
            yield pb.ResultPart(abort=abort)
        for share in shares_in(seats):
            yield pb.ResultPart(gate_share=share)
        for seat in (seat for seat in seats if seat.submission):
            yield pb.ResultPart(submission=seat.submission)
            for piece in chunks(await self._desk.run(self._jobs.ciphertexts, request.job_id, seat.holder)):
                yield pb.ResultPart(ciphertexts=piece)
        for piece in chunks(total):
            yield pb.ResultPart(total=piece)

    async def _joint_result(self, job_id: bytes) -> AsyncIterator[pb.ResultPart]:
        approvals, messages = await self._desk.run(self._jobs.joint_result, job_id)
        for approval in approvals:
            yield pb.ResultPart(approval=approval)
        for step, message in messages:
            yield pb.ResultPart(joint_message=message)
            for part in chunks(await self._desk.run(self._jobs.joint_payload, job_id, step)):
                yield pb.ResultPart(payload=part)

    @answering
    async def Cancel(self, request: pb.JobReference, context: Context) -> pb.JobStatus:
        merchant = await self._callers.name(context, Role.MERCHANT)
        await self._desk.run(self._jobs.cancel, request.job_id, merchant)
        return await self._status(request.job_id, merchant)
