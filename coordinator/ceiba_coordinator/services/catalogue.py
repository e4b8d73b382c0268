"""Catalogue (catalogue.proto)."""

from ceiba_coordinator.membership import Membership
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering
from ceiba_coordinator.services.work import Presence
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import catalogue_pb2 as pb
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueServicer


class Catalogue(CatalogueServicer):
    def __init__(self, desk: Desk, callers: Callers, membership: Membership, presence: Presence) -> None:
        self._desk = desk
        self._callers = callers
        self._membership = membership
        self._presence = presence

    @answering
    async def Announce(self, request: pb.AnnounceRequest, context: Context) -> pb.AnnounceResponse:
        holder = await self._callers.name(context, Role.HOLDER)
        await self._desk.run(self._membership.announce, request.offer, request.schema, holder)
        return pb.AnnounceResponse()

    @answering
    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        await self._callers.name(context)
        return await self._desk.run(self._membership.catalogue, self._presence.online())
