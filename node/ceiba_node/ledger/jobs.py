"""Jobs: what was approved, what was sent, and what was left.

A payload's key is (job, attempt, stage, iteration): a second payload for the same round cannot be stored. A job has
payloads or is left, never both, in whatever order two threads come.
"""

import sqlite3
from dataclasses import dataclass

from ceiba_node.ledger.disclosure import (
    Budget,
    Candidates,
    Charge,
    Settled,
    charge,
    is_pending,
    keep_candidates,
    settle,
)
from ceiba_node.ledger.file import LedgerFile, note_signed
from ceiba_node.policy import AnsweredSet
from ceiba_protocol.errors import AnswerPending, JobConflict, NumberUsed, SecondPayload
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class Job:
    """A job that this holder has approved."""

    job_id: bytes
    agreement_digest: str
    agreement_id: str
    number: int
    merchant: str
    organisation: str
    dataset: str
    dataset_version: str
    plan_digest: str
    cells: int
    manifest: Signed
    approved_at: int
    expires_at: int


@dataclass(frozen=True)
class Answer:
    """This holder's approval of one attempt at a job, with what it needs to go on."""

    job_id: bytes
    attempt: int
    merchant: str
    dataset: str
    dataset_version: str
    manifest: Signed
    approval: Signed
    mask_secret: bytes | None
    approved_at: int
    """When the job's first attempt was approved."""
    expires_at: int

    def __repr__(self) -> str:
        return f"Answer(job_id={self.job_id.hex()}, attempt={self.attempt}, merchant={self.merchant})"


@dataclass(frozen=True)
class Payload:
    """What this holder has sent for one round."""

    job_id: bytes
    attempt: int
    stage: str
    iteration: int
    context_digest: str
    holders: tuple[str, ...]
    submission: Signed
    ciphertexts: bytes | None


@dataclass(frozen=True)
class Left:
    """A job that this holder has left: it never gets a payload."""

    refusal: Signed
    token: Signed


class Jobs(LedgerFile):
    # --- approvals

    def record_approval(
        self, job: Job, attempt: int, approval: Signed, mask_secret: bytes, cost: tuple[Charge, Budget] | None = None
    ) -> None:
        """Store an approval with its mask secret, and debit the job when it is the first: its number, and what it costs
        of the budget. On return it is on the disk.

        Raises NumberUsed if another job has the number, JobConflict if the id stands for another manifest or the job
        was left, BudgetExhausted, ExactQuotaUsed; then nothing is stored.
        """
        with self._transaction() as connection:
            known = connection.execute("SELECT manifest FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
            if _is_left(connection, job.job_id) or (known and known[0] != job.manifest.SerializeToString()):
                raise JobConflict(job=job.job_id.hex())
            if known is None:
                self._add_job(connection, job)
                if cost is not None:
                    charge(connection, *cost)
            row = (job.job_id, attempt, approval.SerializeToString(), self._sealed(mask_secret, job.job_id))
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)
            note_signed(connection, approval, job.approved_at, to_upload=False)

    def _add_job(self, connection: sqlite3.Connection, job: Job) -> None:
        row = (
            job.job_id,
            job.agreement_digest,
            job.number,
            job.merchant,
            job.organisation,
            job.dataset,
            job.dataset_version,
            job.plan_digest,
            job.cells,
            job.manifest.SerializeToString(),
            job.approved_at,
            job.expires_at,
        )
        try:
            connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            raise NumberUsed(number=job.number, agreement=job.agreement_id) from None

    def answer(self, job_id: bytes, attempt: int | None = None) -> Answer | None:
        """What was approved under this id, if anything: that attempt, or the newest."""
        row = self._one(
            "SELECT attempt, merchant, dataset, dataset_version, manifest, approval, mask_secret, approved_at,"
            " expires_at FROM answers JOIN jobs USING (job_id) WHERE job_id = ? AND attempt = coalesce(?, attempt)"
            " ORDER BY attempt DESC LIMIT 1",
            job_id,
            attempt,
        )
        if row is None:
            return None
        number, merchant, dataset, version, manifest, approval, secret, approved_at, expires_at = row
        return Answer(
            job_id=job_id,
            attempt=number,
            merchant=merchant,
            dataset=dataset,
            dataset_version=version,
            manifest=Signed.FromString(manifest),
            approval=Signed.FromString(approval),
            mask_secret=None if secret is None else self._opened(secret, job_id),
            approved_at=approved_at,
            expires_at=expires_at,
        )

    def answer_time(self, job_id: bytes) -> int | None:
        """When the job was first approved, if it was."""
        row = self._one("SELECT approved_at FROM jobs WHERE job_id = ?", job_id)
        return row[0] if row else None

    def is_number_used(self, agreement_digest: str, number: int, job_id: bytes) -> bool:
        """By another job than this one."""
        query = "SELECT 1 FROM jobs WHERE (agreement_digest, number) = (?, ?) AND job_id != ?"
        return self._one(query, agreement_digest, number, job_id) is not None

    def debited(self, merchant: str, since: int, job_id: bytes) -> tuple[int, int]:
        """Jobs of a merchant that were approved since that time, and their cells, without this one."""
        query = (
            "SELECT COUNT(*), coalesce(SUM(cells), 0) FROM jobs WHERE merchant = ? AND approved_at >= ? AND job_id != ?"
        )
        row = self._one(query, merchant, since, job_id)
        assert row is not None
        return row[0], row[1]

    def debit_cells(self, job_id: bytes, cells: int) -> None:
        """A joint job that was approved has so many cells, which its other holders' approvals have shown."""
        with self._transaction() as connection:
            connection.execute("UPDATE jobs SET cells = ? WHERE job_id = ?", (cells, job_id))

    # --- payloads

    def record_payload(
        self, payload: Payload, salt: bytes, stored_at: int, behind: Candidates | Settled | None = None
    ) -> None:
        """Store what is about to be sent, with the subjects behind it. Raises SecondPayload if the job has one of
        another attempt or set already, or was left: whatever others sign, a holder's figures go into one set of it; and
        AnswerPending before candidates while others are not settled."""
        row = (
            payload.job_id,
            payload.attempt,
            payload.stage,
            payload.iteration,
            payload.context_digest,
            ",".join(payload.holders),
            payload.submission.SerializeToString(),
            payload.ciphertexts,
            self._sealed(salt, payload.job_id),
            stored_at,
        )
        try:
            with self._transaction() as connection:
                if _is_left(connection, payload.job_id) or _has_other_attempt(connection, payload):
                    raise SecondPayload(job=payload.job_id.hex())
                connection.execute("INSERT INTO payloads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                note_signed(connection, payload.submission, stored_at, to_upload=False)
                if isinstance(behind, Candidates):
                    if is_pending(connection, behind, stored_at):
                        raise AnswerPending(table=behind.table, holder=payload.submission.signer)
                    keep_candidates(connection, behind, stored_at)
                if isinstance(behind, Settled):
                    settle(connection, behind, stored_at)
        except sqlite3.IntegrityError:
            raise SecondPayload(job=payload.job_id.hex()) from None

    def payload(self, job_id: bytes, attempt: int, stage: str, iteration: int) -> Payload | None:
        """What was stored for a round, if anything."""
        row = self._one(
            "SELECT context_digest, holders, submission, ciphertexts FROM payloads"
            " WHERE (job_id, attempt, stage, iteration) = (?, ?, ?, ?)",
            job_id, attempt, stage, iteration,
        )  # fmt: skip
        if row is None:
            return None
        context_digest, holders, submission, ciphertexts = row
        names, signed = tuple(holders.split(",")), Signed.FromString(submission)
        return Payload(job_id, attempt, stage, iteration, context_digest, names, signed, ciphertexts)

    def answered_sets(self, since: int) -> tuple[AnsweredSet, ...]:
        """The set of each job's newest attempt with a payload: an earlier attempt's round can never be completed."""
        rows = self._all(
            "SELECT job_id, dataset, organisation, holders, stored_at, MAX(attempt)"
            " FROM payloads JOIN jobs USING (job_id) WHERE stored_at > ? GROUP BY job_id",
            since,
        )
        return tuple(
            AnsweredSet(job_id, table, organisation, tuple(holders.split(",")), at)
            for job_id, table, organisation, holders, at, _ in rows
        )

    # --- leaving

    def record_left(self, job_id: bytes, left: Left, now: int) -> bool:
        """Write that this holder never submits to the job, with what it is about to send. False, and nothing written,
        if it has a payload for it, in whatever attempt; True also if it was left before."""
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM payloads WHERE job_id = ?", (job_id,)).fetchone():
                return False
            row = (job_id, left.refusal.SerializeToString(), left.token.SerializeToString(), now)
            connection.execute("INSERT OR IGNORE INTO left_jobs VALUES (?, ?, ?, ?)", row)
            connection.execute("UPDATE answers SET mask_secret = NULL WHERE job_id = ?", (job_id,))
            for signed in (left.refusal, left.token):
                note_signed(connection, signed, now, to_upload=False)
        return True

    def left(self, job_id: bytes) -> Left | None:
        row = self._one("SELECT refusal, token FROM left_jobs WHERE job_id = ?", job_id)
        return Left(Signed.FromString(row[0]), Signed.FromString(row[1])) if row else None

    def jobs_about(self, dataset: str, since: int) -> list[tuple[bytes, str, Signed, bool]]:
        """Id, the merchant's organisation, manifest, and whether anything was sent for it, of the jobs about a table
        that were approved since then."""
        rows = self._all(
            "SELECT job_id, organisation, manifest,"
            " EXISTS (SELECT 1 FROM payloads WHERE payloads.job_id = jobs.job_id)"
            " FROM jobs WHERE dataset = ? AND approved_at >= ? ORDER BY approved_at, jobs.rowid",
            dataset,
            since,
        )
        return [(job_id, whose, Signed.FromString(manifest), bool(sent)) for job_id, whose, manifest, sent in rows]

    def has_payload(self, job_id: bytes) -> bool:
        """In whatever attempt."""
        return self._one("SELECT 1 FROM payloads WHERE job_id = ?", job_id) is not None

    # --- the end of jobs

    def forget(self, job_id: bytes) -> None:
        """Erase the mask secrets and the ciphertexts of a job that has ended; the record of it stays."""
        with self._transaction() as connection:
            connection.execute("UPDATE answers SET mask_secret = NULL WHERE job_id = ?", (job_id,))
            connection.execute("UPDATE payloads SET ciphertexts = NULL WHERE job_id = ?", (job_id,))
        self._truncate_log()

    def expired(self, before: int) -> list[bytes]:
        """Jobs that ended before that time and still have a mask secret or ciphertexts."""
        rows = self._all(
            "SELECT job_id FROM jobs WHERE expires_at < ?"
            " AND (job_id IN (SELECT job_id FROM answers WHERE mask_secret IS NOT NULL)"
            " OR job_id IN (SELECT job_id FROM payloads WHERE ciphertexts IS NOT NULL)) ORDER BY approved_at, job_id",
            before,
        )
        return [job_id for (job_id,) in rows]

    def running(self, now: int) -> list[bytes]:
        """Jobs that were approved, may still be asked for, and have no payload."""
        rows = self._all(
            "SELECT job_id FROM jobs WHERE expires_at >= ? AND job_id NOT IN (SELECT job_id FROM payloads)"
            " AND job_id IN (SELECT job_id FROM answers WHERE mask_secret IS NOT NULL)",
            now,
        )
        return [job_id for (job_id,) in rows]

    def check_seals(self) -> None:
        """Raises LedgerDamaged if a secret in it was sealed with another identity's key."""
        query = (
            "SELECT job_id, mask_secret FROM answers WHERE mask_secret IS NOT NULL"
            " UNION ALL SELECT job_id, salt FROM payloads"
        )
        for job_id, sealed in self._all(query):
            self._opened(sealed, job_id)

    def counts(self) -> dict[str, int]:
        """How many jobs were approved, answered (payloads stored) and left."""
        tables = {"approved": "jobs", "answered": "payloads WHERE stage = 'release'", "left": "left_jobs"}
        counts = {}
        for name, table in tables.items():
            row = self._one(f"SELECT COUNT(*) FROM {table}")  # noqa: S608 - names of our own
            counts[name] = row[0] if row else 0
        return counts


def _has_other_attempt(connection: sqlite3.Connection, payload: Payload) -> bool:
    query = "SELECT 1 FROM payloads WHERE job_id = ? AND attempt != ?"
    return connection.execute(query, (payload.job_id, payload.attempt)).fetchone() is not None


def _is_left(connection: sqlite3.Connection, job_id: bytes) -> bool:
    return connection.execute("SELECT 1 FROM left_jobs WHERE job_id = ?", (job_id,)).fetchone() is not None
