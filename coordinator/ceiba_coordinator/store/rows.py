"""What all reads and writes share: the connection, and transactions."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.engine import Engine

from ceiba_protocol.v1.common_pb2 import Signed


class Rows:
    """Every method of a subclass is one transaction, or joins the caller's `with store.transaction()`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._connection: Connection | None = None
        self._has_erased = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that is committed at the end; inside another one, that one."""
        if self._connection is not None:
            yield self._connection
            return
        with self.engine.begin() as connection:
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None
        if self._has_erased:
            self._truncate_log()

    def _truncate_log(self) -> None:
        """After something was erased: SQLite's write-ahead log still has the pages as they were."""
        self._has_erased = False
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def read_signed(blob: bytes | None) -> Signed | None:
    """A stored Signed, or None for a NULL."""
    return None if blob is None else Signed.FromString(blob)
