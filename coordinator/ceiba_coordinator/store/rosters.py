"""Rosters, and who has approved them."""

from sqlalchemy import func, insert, select, update

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows
from ceiba_protocol.v1.common_pb2 import Signed


class RosterRows(Rows):
    def add_roster(self, version: int, digest: str, body: bytes) -> None:
        """Store a roster that is only proposed."""
        with self.transaction() as connection:
            connection.execute(insert(tables.rosters).values(version=version, digest=digest, body=body))

    def put_in_force(self, version: int, at: int) -> None:
        """`at`: seconds since 1970 UTC."""
        with self.transaction() as connection:
            statement = update(tables.rosters).where(tables.rosters.c.version == version)
            connection.execute(statement.values(in_force_since=at))

    def newest_roster_version(self) -> int | None:
        """Of all, in force or only proposed."""
        with self.transaction() as connection:
            version: int | None = connection.execute(select(func.max(tables.rosters.c.version))).scalar_one()
            return version

    def versions_in_force(self) -> dict[int, str]:
        """The digests of all rosters that are or were in force, by version; the last one is."""
        column = tables.rosters.c
        query = select(column.version, column.digest).where(column.in_force_since.is_not(None))
        with self.transaction() as connection:
            return {row.version: row.digest for row in connection.execute(query.order_by(column.version))}

    def roster(self, version: int) -> bytes:
        with self.transaction() as connection:
            query = select(tables.rosters.c.body).where(tables.rosters.c.version == version)
            return bytes(connection.execute(query).scalar_one())

    def add_roster_approval(self, version: int, member: str, approval: Signed) -> None:
        with self.transaction() as connection:
            statement = insert(tables.roster_approvals)
            connection.execute(statement.values(version=version, member=member, approval=approval.SerializeToString()))

    def roster_approvals(self, version: int) -> list[Signed]:
        """Sorted by member."""
        table = tables.roster_approvals
        query = select(table.c.approval).where(table.c.version == version).order_by(table.c.member)
        with self.transaction() as connection:
            return [Signed.FromString(row.approval) for row in connection.execute(query)]
