"""What people at this house have decided: jobs that wait for them, and what is stopped."""

from dataclasses import dataclass

from ceiba_node.ledger.file import LedgerFile
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_protocol.errors import NotWaiting
from ceiba_protocol.v1.common_pb2 import Signed

_COLUMNS = "job_id, attempt, manifest, since, expires_at, approved, reason, private_reason, decided_at, replied"


@dataclass(frozen=True)
class Waiting:
    """A job that a person has to decide on, or has decided on."""

    job_id: bytes
    attempt: int
    """The newest that the coordinator has asked about."""
    manifest: Signed
    since: int
    expires_at: int
    decision: Decision | None = None
    private_reason: str = ""
    """For this house."""
    decided_at: int | None = None
    replied: bool = False


class People(LedgerFile):
    # --- jobs that wait

    def add_waiting(self, waiting: Waiting) -> None:
        """Put a job in the inbox; one that is there keeps its decision and takes the newer attempt."""
        with self._transaction() as connection:
            connection.execute(
                f"INSERT INTO waiting ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, NULL, '', '', NULL, 0)"  # noqa: S608
                " ON CONFLICT (job_id) DO UPDATE SET attempt = MAX(attempt, excluded.attempt)",
                (
                    waiting.job_id,
                    waiting.attempt,
                    waiting.manifest.SerializeToString(),
                    waiting.since,
                    waiting.expires_at,
                ),
            )

    def waiting(self, job_id: bytes) -> Waiting | None:
        rows = self._all(f"SELECT {_COLUMNS} FROM waiting WHERE job_id = ?", job_id)  # noqa: S608
        return _waiting(rows[0]) if rows else None

    def undecided(self, now: int) -> list[Waiting]:
        """Those that a person can still decide on, oldest first."""
        query = f"SELECT {_COLUMNS} FROM waiting WHERE approved IS NULL AND expires_at >= ? ORDER BY since"  # noqa: S608
        return [_waiting(row) for row in self._all(query, now)]

    def decided_unanswered(self, now: int) -> list[Waiting]:
        """Those that were decided on, and the decision has not become an answer yet."""
        query = (
            f"SELECT {_COLUMNS} FROM waiting WHERE approved IS NOT NULL AND replied = 0"  # noqa: S608
            " AND expires_at >= ? ORDER BY decided_at"
        )
        return [_waiting(row) for row in self._all(query, now)]

    def decide(self, job_id: bytes, decision: Decision, private_reason: str, now: int) -> None:
        """What a person decided, once for all. Raises NotWaiting."""
        values = (int(decision.approved), decision.reason, private_reason, now, job_id)
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE waiting SET approved = ?, reason = ?, private_reason = ?, decided_at = ?"
                " WHERE job_id = ? AND approved IS NULL",
                values,
            )
            if changed.rowcount != 1:
                raise NotWaiting(job=job_id.hex())

    def mark_replied(self, job_id: bytes) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE waiting SET replied = 1 WHERE job_id = ?", (job_id,))

    def plan_was_approved(self, plan_digest: str) -> bool:
        """Whether a person has approved a job with this plan, and it was answered for."""
        query = "SELECT 1 FROM jobs JOIN waiting USING (job_id) WHERE plan_digest = ? AND approved = 1 LIMIT 1"
        return self._one(query, plan_digest) is not None

    # --- stops

    def stop(self, stop: Stop) -> None:
        """From now on, until `resume`; the first reason stays."""
        with self._transaction() as connection:
            values = (stop.kind.value, stop.name, stop.reason, stop.since)
            connection.execute("INSERT OR IGNORE INTO stops VALUES (?, ?, ?, ?)", values)

    def resume(self, kind: StopKind, name: str) -> bool:
        """Whether that was stopped."""
        with self._transaction() as connection:
            deleted = connection.execute("DELETE FROM stops WHERE (kind, name) = (?, ?)", (kind.value, name))
            return deleted.rowcount == 1

    def stops(self) -> tuple[Stop, ...]:
        rows = self._all("SELECT kind, name, reason, since FROM stops ORDER BY since, kind, name")
        return tuple(Stop(StopKind(kind), name, reason, since) for kind, name, reason, since in rows)


def _waiting(row: tuple[object, ...]) -> Waiting:
    job_id, attempt, manifest, since, expires_at, approved, reason, private_reason, decided_at, replied = row
    assert isinstance(job_id, bytes) and isinstance(manifest, bytes) and isinstance(attempt, int)
    assert isinstance(since, int) and isinstance(expires_at, int)
    return Waiting(
        job_id=job_id,
        attempt=attempt,
        manifest=Signed.FromString(manifest),
        since=since,
        expires_at=expires_at,
        decision=None if approved is None else Decision(bool(approved), str(reason)),
        private_reason=str(private_reason),
        decided_at=decided_at if isinstance(decided_at, int) else None,
        replied=bool(replied),
    )
