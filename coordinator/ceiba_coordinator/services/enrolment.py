"""Enrolment and Directory (enrolment.proto)."""

import structlog

from ceiba_coordinator.membership import Membership
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import enrolment_pb2 as pb
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryServicer, EnrolmentServicer

log = structlog.get_logger()


class Enrolment(EnrolmentServicer):
    def __init__(self, desk: Desk, membership: Membership) -> None:
        self._desk = desk
        self._membership = membership

    @answering
    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:
        return await self._desk.run(self._membership.enrol, request)


class Directory(DirectoryServicer):
    def __init__(self, desk: Desk, callers: Callers, membership: Membership) -> None:
        self._desk = desk
        self._callers = callers
        self._membership = membership

    @answering
    async def GetRoster(self, request: pb.GetRosterRequest, context: Context) -> pb.SignedRoster:
        await self._callers.name(context)
        return await self._desk.run(self._membership.signed_roster)

    @answering
    async def ApproveRoster(self, request: pb.ApproveRosterRequest, context: Context) -> pb.ApproveRosterResponse:
        holder = await self._callers.name(context, Role.HOLDER)
        await self._desk.run(self._membership.approve_roster, request.approval, holder)
        return pb.ApproveRosterResponse()

    @answering
    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        name = await self._callers.name(context)
        certificate = await self._desk.run(self._membership.renew, request.certificate_request, name)
        log.info("certificate.renewed", member=name)
        return pb.RenewResponse(certificate=certificate)
