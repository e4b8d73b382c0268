"""Agreements (agreements.proto)."""

from ceiba_coordinator.agreements import Agreements as AgreementBook
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering
from ceiba_protocol.v1 import agreements_pb2 as pb
from ceiba_protocol.v1.agreements_pb2_grpc import AgreementsServicer


class Agreements(AgreementsServicer):
    def __init__(self, desk: Desk, callers: Callers, agreements: AgreementBook) -> None:
        self._desk = desk
        self._callers = callers
        self._agreements = agreements

    @answering
    async def Submit(self, request: pb.SubmitAgreementRequest, context: Context) -> pb.AgreementEvidence:
        member = await self._callers.name(context)
        return await self._desk.run(self._agreements.submit, request.document, member)

    @answering
    async def List(self, request: pb.ListAgreementsRequest, context: Context) -> pb.ListAgreementsResponse:
        member = await self._callers.name(context)
        return await self._desk.run(self._agreements.list, member)
