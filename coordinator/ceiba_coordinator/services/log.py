"""Log (log.proto)."""

from collections.abc import AsyncIterator

from ceiba_coordinator.log import Log as LogBook
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.receipts import Receipts
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering, streaming
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import log_pb2 as pb
from ceiba_protocol.v1.log_pb2_grpc import LogServicer


class Log(LogServicer):
    def __init__(self, desk: Desk, callers: Callers, membership: Membership, log: LogBook, receipts: Receipts) -> None:
        self._desk = desk
        self._callers = callers
        self._membership = membership
        self._log = log
        self._receipts = receipts

    @answering
    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.WitnessedCheckpoint:
        await self._callers.name(context)
        return await self._desk.run(self._log.newest_witnessed)

    @streaming
    async def Entries(self, request: pb.EntriesRequest, context: Context) -> AsyncIterator[pb.LogEntries]:
        await self._callers.name(context)
        for first, end in await self._desk.run(self._log.parts, request.first, request.end):
            yield pb.LogEntries(entries=await self._desk.run(self._log.read, first, end))

    @answering
    async def Consistency(self, request: pb.ConsistencyRequest, context: Context) -> pb.ConsistencyProof:
        await self._callers.name(context)
        nodes = await self._desk.run(self._log.consistency, request.old_size, request.new_size)
        return pb.ConsistencyProof(nodes=nodes)

    @answering
    async def Cosign(self, request: pb.CosignRequest, context: Context) -> pb.CosignResponse:
        holder = await self._callers.name(context, Role.HOLDER)
        await self._desk.run(self._log.cosign, request.cosignature, holder, self._membership)
        return pb.CosignResponse()

    @answering
    async def GetReceipt(self, request: pb.ReceiptRequest, context: Context) -> pb.ReceiptParts:
        member = await self._callers.name(context)
        return await self._desk.run(self._receipts.parts, request.job_id, member)
