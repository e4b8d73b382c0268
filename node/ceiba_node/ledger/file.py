"""The ledger's file: made whole or not at all, checked before it is used, written in transactions."""

import contextlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ceiba_node.ledger.tables import TABLES, VERSION
from ceiba_protocol.errors import LedgerDamaged
from ceiba_protocol.trust.log import body_digest
from ceiba_protocol.v1.common_pb2 import Signed

_NONCE_BYTES = 12
_BUSY_SECONDS = 10.0
"""How long one process waits for another's transaction, which takes milliseconds."""


class LedgerFile:
    """A SQLite file with a write-ahead log and fsync at each commit. Safe for several threads and processes."""

    def __init__(self, path: Path, storage_key: bytes) -> None:
        """Opens or makes the file. Raises LedgerDamaged rather than start empty over a damaged one."""
        self._path = path
        self._seal = AESGCM(storage_key)
        self._lock = threading.Lock()
        try:
            if not path.exists():
                self._make()
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
            )
            self._check()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        except (sqlite3.DatabaseError, OSError):
            raise LedgerDamaged(path=path, problem="it is not a readable ledger") from None

    def _make(self) -> None:
        """An empty ledger, whole from the moment it has its name: a file without its version is a damaged one.

        A link, because it fails where another process was faster. Raises LedgerDamaged if only the log is left.
        """
        if self._path.with_name(f"{self._path.name}-wal").exists():
            raise LedgerDamaged(path=self._path, problem="the file is gone and its write-ahead log is still there")
        descriptor, staging = tempfile.mkstemp(prefix=f"{self._path.name}.new-", dir=self._path.parent)  # mode 0600
        try:
            with contextlib.closing(sqlite3.connect(staging, isolation_level=None)) as connection:
                connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
            os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(staging, self._path)
        finally:
            os.close(descriptor)
            os.unlink(staging)

    def _check(self) -> None:
        """Before anything is written: what is damaged stays as it is."""
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if verdict != "ok":
            raise LedgerDamaged(path=self._path, problem="its pages are damaged")
        if version != VERSION:
            raise LedgerDamaged(path=self._path, problem=f"its layout has version {version}, and this one is {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def _truncate_log(self) -> None:
        """After something was erased: the write-ahead log still has the pages as they were."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # --- sealing

    def _sealed(self, secret: bytes, job_id: bytes) -> bytes:
        """AES-256-GCM, bound to the job."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, secret, job_id)

    def _opened(self, sealed: bytes, job_id: bytes) -> bytes:
        try:
            return self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], job_id)
        except InvalidTag:
            raise LedgerDamaged(path=self._path, problem="it was sealed with another identity's key") from None


def note_signed(connection: sqlite3.Connection, signed: Signed, now: int, *, to_upload: bool) -> None:
    """Within a transaction: this holder signs `signed` and may send it once the transaction is on the disk."""
    connection.execute(
        "INSERT OR IGNORE INTO documents VALUES (?, ?, ?, ?, 0, ?)",
        (signed.type, body_digest(signed), signed.SerializeToString(), int(to_upload), now),
    )
