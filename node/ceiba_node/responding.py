"""What every kind of answer has in common: one thread a job, and an error that becomes a signed refusal."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from ceiba_node.contracts import Contracts
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger, Left
from ceiba_node.policy import Record, day_begins
from ceiba_node.snapshots import SnapshotStore
from ceiba_node.witness import Witness
from ceiba_protocol.errors import BadConfiguration, CeibaError, InternalError, LedgerDamaged, NotReachable
from ceiba_protocol.linkage.joint import JointManifest
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.agreement import NEARBY_SECONDS
from ceiba_protocol.trust.documents import Manifest, Refusal
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.trust.signing import document_digest, sign
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()


@dataclass(frozen=True)
class Reply:
    """One answer to a task: a signed document; a submission's ciphertexts, a share's words or a message's payload; an
    abort token with a refusal."""

    signed: Signed
    payload: bytes = b""
    token: Signed | None = None


@dataclass(frozen=True)
class Pending:
    """No answer yet: a person at this house has to decide."""

    job_id: bytes


@dataclass(frozen=True)
class House:
    """What a node answers with."""

    identity: Identity
    roster: Roster
    snapshots: SnapshotStore
    engine: DuckDBEngine
    ledger: Ledger
    policy: Callable[[], Policy]
    """The local policy as it stands now."""
    clock: Callable[[], int]
    """Seconds since 1970 UTC."""
    random: Random
    witness: Witness
    deciding: threading.Lock = field(default_factory=threading.Lock)
    """Held from reading the record to writing it: two jobs at once must not both be the last of a quota."""


class JobLocks:
    """A lock for each job that somebody is at; nothing is kept of others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[bytes, tuple[threading.Lock, int]] = {}
        """With how many hold it or wait for it."""

    @contextmanager
    def held(self, job_id: bytes) -> Iterator[None]:
        """One thread at a time."""
        with self._guard:
            lock, users = self._held.get(job_id, (threading.Lock(), 0))
            self._held[job_id] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._held.pop(job_id)
                if users > 1:
                    self._held[job_id] = lock, users - 1

    def __len__(self) -> int:
        return len(self._held)


class Responding:
    """The base of what answers for one holder. Safe for several threads; each job is worked on by one at a time."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._identity = house.identity
        self._roster = house.roster
        self._ledger = house.ledger
        self.witness = house.witness
        self._clock = house.clock
        self._random = house.random
        self._contracts = Contracts(house.ledger, house.roster)
        self._locks = JobLocks()

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def house(self) -> House:
        """For what answers beside it, with the same ledger and witness."""
        return self._house

    def _record(self, manifest: Manifest | JointManifest, table: str, now: int) -> Record:
        """What the ledger knows that matters for one question about a table of this house."""
        job_id = bytes.fromhex(manifest.job_id)
        jobs, cells = self._ledger.debited(manifest.merchant, day_begins(now), job_id)
        waiting = self._ledger.waiting(job_id)
        return Record(
            stops=self._ledger.stops(),
            jobs_today=jobs,
            cells_today=cells,
            number_used=self._ledger.is_number_used(manifest.agreement_digest, manifest.number, job_id),
            answered=self._ledger.answered_sets(now - NEARBY_SECONDS),
            asked_before=self._ledger.plan_was_approved(manifest.plan.digest()),
            decision=waiting.decision if waiting else None,
            kept_sets=self._ledger.count_sets(table),
        )

    def _replying(self, job_id: bytes, manifest: Signed, work: Callable[[], Reply | Pending]) -> Reply | Pending:
        """`work`, one thread a job; an error becomes a signed refusal, whose fields are public. That the log cannot be
        reached is none: the task comes again. Nor is a fault of the log's, which is raised: whatever an old copy of the
        ledger signs, the newest one does not know."""
        with self._locks.held(job_id):
            try:
                return work()
            except NotReachable:
                raise
            except Exception as error:
                self.witness.check()
                return self._refuse(job_id, manifest, self._public(job_id, error))

    def _public(self, job_id: bytes, error: Exception) -> CeibaError:
        """What others may know: of the node's own files, and of what nobody foresaw, an incident's number alone."""
        job = job_id.hex()
        if isinstance(error, CeibaError) and not isinstance(error, LedgerDamaged | BadConfiguration):
            private = {"private": error.private} if error.private else {}
            log.warning("job.refused", job=job, code=error.code, fields=error.fields, **private)
            return error
        incident = secrets.token_hex(4)
        own = {"fields": error.fields} if isinstance(error, LedgerDamaged | BadConfiguration) else {}  # this house's
        log.error("job.failed", job=job, incident=incident, exception=type(error).__name__, **own)
        return InternalError(component=self.name, incident=incident)

    def _refuse(self, job_id: bytes, manifest: Signed, error: CeibaError) -> Reply:
        """A refusal, with an abort token where the others may go on; in the ledger before it is returned."""
        refusal = Refusal(
            job_id=job_id.hex(),
            manifest_digest=document_digest(manifest),
            holder=self.name,
            code=error.code,
            fields=error.fields,
        )
        signed, now = sign(refusal, self.name, self._identity.signing_key), self._clock()
        token = self._token(job_id, manifest, error, now)
        if token is not None and self._ledger.record_left(job_id, Left(signed, token), now):
            log.info("job.left", job=job_id.hex())
            return Reply(signed, token=token)
        self._ledger.record_signed(signed, now)
        return Reply(signed)

    def _token(self, _job_id: bytes, _manifest: Signed, _error: CeibaError, _now: int) -> Signed | None:
        """An abort token, if the others may go on without this holder."""
        return None
