"""Invitations, members, schemas, and what holders offer."""

from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows
from ceiba_protocol.v1.common_pb2 import Signed

OFFERS_KEPT = 10
"""Versions of one dataset that the catalogue remembers; the holder decides which of them it still has."""


class MemberRows(Rows):
    def add_invitation(self, **columns: object) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.invitations).values(**columns))

    def invitation(self, token_hash: str) -> Row[Any] | None:
        with self.transaction() as connection:
            query = select(tables.invitations).where(tables.invitations.c.token_hash == token_hash)
            return connection.execute(query).one_or_none()

    def use_invitation(self, token_hash: str, used_by: str) -> None:
        table = tables.invitations
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.token_hash == token_hash).values(used_by=used_by))

    def add_member(self, **columns: object) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.members).values(**columns))

    def set_certificate(self, name: str, certificate: bytes) -> None:
        """The member's newest certificate, PEM."""
        table = tables.members
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.name == name).values(certificate=certificate))

    def remove_member(self, name: str) -> None:
        with self.transaction() as connection:
            connection.execute(delete(tables.members).where(tables.members.c.name == name))
            connection.execute(delete(tables.offers).where(tables.offers.c.holder == name))

    def member(self, name: str) -> Row[Any] | None:
        with self.transaction() as connection:
            query = select(tables.members).where(tables.members.c.name == name)
            return connection.execute(query).one_or_none()

    def descriptors(self) -> list[Signed]:
        """Every enrolled member's self-signed descriptor, sorted by name."""
        with self.transaction() as connection:
            rows = connection.execute(select(tables.members.c.descriptor).order_by(tables.members.c.name))
            return [Signed.FromString(row.descriptor) for row in rows]

    # --- what they offer

    def put_schema(self, digest: str, body: bytes) -> None:
        if self.schema(digest) is None:
            with self.transaction() as connection:
                connection.execute(insert(tables.schemas).values(digest=digest, body=body))

    def schema(self, digest: str) -> bytes | None:
        with self.transaction() as connection:
            query = select(tables.schemas.c.body).where(tables.schemas.c.digest == digest)
            return connection.execute(query).scalar_one_or_none()

    def put_offer(self, table: str, holder: str, version: str, offer: bytes) -> None:
        """Make `version` the holder's current one; the oldest beyond OFFERS_KEPT are forgotten."""
        offers = tables.offers
        own = (offers.c.table_name == table) & (offers.c.holder == holder)
        with self.transaction() as connection:
            connection.execute(delete(offers).where(own, offers.c.version == version))
            connection.execute(insert(offers).values(table_name=table, holder=holder, version=version, offer=offer))
            newest = select(offers.c.number).where(own).order_by(offers.c.number.desc()).limit(OFFERS_KEPT)
            kept = [row.number for row in connection.execute(newest)]
            connection.execute(delete(offers).where(own, offers.c.number < min(kept)))

    def offers(self, table: str) -> list[Signed]:
        """The table's offers, oldest first, so that each holder's last one is its current version."""
        column = tables.offers.c
        query = select(column.offer).where(column.table_name == table).order_by(column.number)
        with self.transaction() as connection:
            return [Signed.FromString(row.offer) for row in connection.execute(query)]
