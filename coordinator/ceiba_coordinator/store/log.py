"""The log's entries, its checkpoints, and the holders' signatures on them."""

from collections.abc import Iterable

from sqlalchemy import func, insert, select

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows
from ceiba_protocol.v1.common_pb2 import Signed


class LogRows(Rows):
    def log_size(self) -> int:
        """Entries so far."""
        with self.transaction() as connection:
            last: int | None = connection.scalar(select(func.max(tables.log_entries.c.position)))
            return 0 if last is None else last + 1

    def add_log_entry(self, position: int, body: bytes) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.log_entries).values(position=position, body=body))

    def log_entries(self, first: int, end: int) -> list[bytes]:
        """The bodies of the entries [first, end), in order."""
        column = tables.log_entries.c
        query = select(column.body).where(column.position >= first, column.position < end).order_by(column.position)
        with self.transaction() as connection:
            return [bytes(row.body) for row in connection.execute(query)]

    # --- checkpoints

    def add_checkpoint(self, size: int, checkpoint: Signed, frontier: bytes) -> None:
        with self.transaction() as connection:
            statement = insert(tables.checkpoints)
            connection.execute(
                statement.values(size=size, checkpoint=checkpoint.SerializeToString(), frontier=frontier)
            )

    def newest_checkpoint_size(self) -> int | None:
        with self.transaction() as connection:
            size: int | None = connection.scalar(select(func.max(tables.checkpoints.c.size)))
            return size

    def checkpoint(self, size: int) -> Signed | None:
        """The one that covers exactly so many entries."""
        query = select(tables.checkpoints.c.checkpoint).where(tables.checkpoints.c.size == size)
        with self.transaction() as connection:
            blob = connection.scalar(query)
        return None if blob is None else Signed.FromString(blob)

    def frontier(self, size: int) -> bytes:
        """Of the tree that the checkpoint of that size covers."""
        query = select(tables.checkpoints.c.frontier).where(tables.checkpoints.c.size == size)
        with self.transaction() as connection:
            return bytes(connection.execute(query).scalar_one())

    # --- cosignatures

    def add_cosignature(self, size: int, holder: str, cosignature: Signed) -> None:
        with self.transaction() as connection:
            statement = insert(tables.cosignatures)
            connection.execute(statement.values(size=size, holder=holder, cosignature=cosignature.SerializeToString()))

    def has_cosigned(self, size: int, holder: str) -> bool:
        table = tables.cosignatures
        query = select(func.count()).where(table.c.size == size, table.c.holder == holder)
        with self.transaction() as connection:
            return bool(connection.scalar(query))

    def cosignatures(self, size: int) -> list[Signed]:
        """Sorted by holder."""
        table = tables.cosignatures
        query = select(table.c.cosignature).where(table.c.size == size).order_by(table.c.holder)
        with self.transaction() as connection:
            return [Signed.FromString(row.cosignature) for row in connection.execute(query)]

    def best_witnessed(self, position: int, holders: Iterable[str]) -> int | None:
        """The size of the checkpoint covering that entry which most of these holders have signed, the smallest of
        several; None if none of them has signed any."""
        table = tables.cosignatures
        query = (
            select(table.c.size)
            .where(table.c.size > position, table.c.holder.in_(list(holders)))
            .group_by(table.c.size)
            .order_by(func.count().desc(), table.c.size)
            .limit(1)
        )
        with self.transaction() as connection:
            size: int | None = connection.scalar(query)
            return size
