"""The holder's own book: what it approved and what it sent, on the disk before anything leaves (I2, I9).

One row for each job, one for each payload. A payload's key is (job, attempt, stage, iteration): a second payload for
the same round cannot be stored, and what cannot be stored is never sent. Mask secrets and audit salts are sealed with
the node's storage key, so that a copy of this file alone opens nothing.
"""

import contextlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ceiba_protocol.errors import LedgerDamaged, SecondPayload
from ceiba_protocol.v1.common_pb2 import Signed

VERSION = 1
_NONCE_BYTES = 12

_TABLES = """
CREATE TABLE answers (
    job_id BLOB PRIMARY KEY,            -- 16 bytes
    merchant TEXT NOT NULL,
    dataset TEXT NOT NULL,              -- table name
    dataset_version TEXT NOT NULL,
    manifest BLOB NOT NULL,             -- Signed, as received
    approval BLOB NOT NULL,             -- Signed, as sent
    mask_secret BLOB,                   -- sealed; NULL once the job has ended
    approved_at INTEGER NOT NULL,       -- seconds since 1970 UTC
    expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE payloads (
    job_id BLOB NOT NULL REFERENCES answers (job_id),
    attempt INTEGER NOT NULL,
    stage TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    context_digest TEXT NOT NULL,
    submission BLOB NOT NULL,           -- Signed, as sent
    ciphertexts BLOB,                   -- as sent; NULL once the job has ended
    salt BLOB NOT NULL,                 -- sealed; opens the submission's commitment to an auditor on site
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, attempt, stage, iteration)
) STRICT;
"""


@dataclass(frozen=True)
class Answer:
    """A job that this holder has approved."""

    job_id: bytes
    merchant: str
    dataset: str
    dataset_version: str
    manifest: Signed
    approval: Signed
    mask_secret: bytes | None
    approved_at: int
    expires_at: int

    def __repr__(self) -> str:
        return f"Answer(job_id={self.job_id.hex()}, merchant={self.merchant}, dataset={self.dataset})"


@dataclass(frozen=True)
class Payload:
    """What this holder has sent for one round."""

    job_id: bytes
    attempt: int
    stage: str
    iteration: int
    context_digest: str
    submission: Signed
    ciphertexts: bytes | None


class Ledger:
    """The ledger file at `path`. Safe for several threads; one process at a time writes."""

    def __init__(self, path: Path, storage_key: bytes) -> None:
        """Opens or makes the file. Raises LedgerDamaged rather than start empty over a damaged one."""
        self._path = path
        self._seal = AESGCM(storage_key)
        self._lock = threading.Lock()
        try:
            if not path.exists():
                self._make()
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
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
                connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;")
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
            raise LedgerDamaged(path=self._path, problem=f"its layout has version {version}")

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

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # --- approvals

    def record_approval(self, answer: Answer) -> None:
        """Store an approval with its mask secret. On return it is on the disk."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    answer.job_id,
                    answer.merchant,
                    answer.dataset,
                    answer.dataset_version,
                    answer.manifest.SerializeToString(),
                    answer.approval.SerializeToString(),
                    self._sealed(answer.mask_secret or b"", answer.job_id),
                    answer.approved_at,
                    answer.expires_at,
                ),
            )

    def answer(self, job_id: bytes) -> Answer | None:
        """What was approved under this id, if anything."""
        with self._lock:
            row = self._connection.execute("SELECT * FROM answers WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            return None
        _, merchant, dataset, version, manifest, approval, secret, approved_at, expires_at = row
        return Answer(
            job_id=job_id,
            merchant=merchant,
            dataset=dataset,
            dataset_version=version,
            manifest=Signed.FromString(manifest),
            approval=Signed.FromString(approval),
            mask_secret=None if secret is None else self._opened(secret, job_id),
            approved_at=approved_at,
            expires_at=expires_at,
        )

    # --- payloads

    def record_payload(self, payload: Payload, salt: bytes, stored_at: int) -> None:
        """Store what is about to be sent. Raises SecondPayload if the round has one already."""
        try:
            with self._transaction() as connection:
                connection.execute(
                    "INSERT INTO payloads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        payload.job_id,
                        payload.attempt,
                        payload.stage,
                        payload.iteration,
                        payload.context_digest,
                        payload.submission.SerializeToString(),
                        payload.ciphertexts,
                        self._sealed(salt, payload.job_id),
                        stored_at,
                    ),
                )
        except sqlite3.IntegrityError:
            raise SecondPayload(job=payload.job_id.hex()) from None

    def payload(self, job_id: bytes, attempt: int, stage: str, iteration: int) -> Payload | None:
        """What was stored for a round, if anything."""
        query = (
            "SELECT context_digest, submission, ciphertexts FROM payloads"
            " WHERE (job_id, attempt, stage, iteration) = (?, ?, ?, ?)"
        )
        with self._lock:
            row = self._connection.execute(query, (job_id, attempt, stage, iteration)).fetchone()
        if row is None:
            return None
        context_digest, submission, ciphertexts = row
        return Payload(job_id, attempt, stage, iteration, context_digest, Signed.FromString(submission), ciphertexts)

    # --- the end of jobs

    def forget(self, job_id: bytes) -> None:
        """Erase the mask secret and the ciphertexts of a job that has ended; the record of it stays."""
        with self._transaction() as connection:
            connection.execute("UPDATE answers SET mask_secret = NULL WHERE job_id = ?", (job_id,))
            connection.execute("UPDATE payloads SET ciphertexts = NULL WHERE job_id = ?", (job_id,))
        with self._lock:  # the write-ahead log still has the pages as they were
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def expired(self, before: int) -> list[bytes]:
        """Jobs that ended before that time and still have a mask secret or ciphertexts."""
        query = (
            "SELECT job_id FROM answers WHERE expires_at < ? AND (mask_secret IS NOT NULL"
            " OR job_id IN (SELECT job_id FROM payloads WHERE ciphertexts IS NOT NULL))"
        )
        with self._lock:
            return [job_id for (job_id,) in self._connection.execute(query, (before,))]

    def counts(self) -> dict[str, int]:
        """How many jobs were approved, and how many payloads stored."""
        with self._lock:
            (approved,) = self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()
            (sent,) = self._connection.execute("SELECT COUNT(*) FROM payloads").fetchone()
        return {"approved": approved, "answered": sent}

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
