"""How the node answers its tasks. Every answer is in the ledger, on the disk, before it is returned to be sent.

A task can come any number of times, also after a restart: what is stored is returned again, byte for byte, and
nothing is computed twice for sending (I2).
"""

import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.ledger import Answer, Ledger, Payload
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_protocol.canonical import Digest, digest_of
from ceiba_protocol.errors import (
    CeibaError,
    InternalError,
    JobConflict,
    JobExpired,
    LedgerDamaged,
    SecondPayload,
    UnknownJob,
)
from ceiba_protocol.rounds import Question, approve, check_window, commit_to_set, contribute, read_manifest
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.documents import DatasetPin, Manifest, Offer, Refusal
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()

RELEASE_ROUND = (0, "release", 0)
"""Attempt, stage and iteration of the one round that a plain question has."""
LOG_TIME = 24 * 3600


@dataclass(frozen=True)
class Reply:
    """One answer to a task: a signed document, and a submission's ciphertexts."""

    signed: Signed
    ciphertexts: bytes = b""


@dataclass
class Work:
    """A job in progress: what it asks, and the sums, which are computed while the approvals travel."""

    question: Question
    sums: Future[list[int]]
    cancellation: Cancellation


class Answering:
    """Answers for one holder. Safe for several threads; each job is worked on by one at a time."""

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        snapshots: SnapshotStore,
        engine: DuckDBEngine,
        ledger: Ledger,
        encryptors: Encryptors,
        clock: Callable[[], int],
        random: Random,
    ) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._identity = identity
        self._roster = roster
        self._snapshots = snapshots
        self._engine = engine
        self._ledger = ledger
        self._encryptors = encryptors
        self._clock = clock
        self._random = random
        self._scans = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scan")
        self._work: dict[bytes, Work] = {}
        self._locks: dict[bytes, threading.Lock] = {}
        self._withheld: set[str] = set()

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def roster_digest(self) -> bytes:
        return bytes.fromhex(self._roster.digest())

    def close(self) -> None:
        """Stop what is being computed."""
        for work in list(self._work.values()):
            work.cancellation.cancel()
        self._scans.shutdown()
        self._encryptors.stop()
        self._engine.close()
        self._ledger.close()

    # --- datasets

    def offers(self) -> dict[str, tuple[Signed, bytes]]:
        """By table: a signed offer of the current version, and the schema's bytes, where it is the roster's schema."""
        wanted = {table.table: table.schema_digest for table in self._roster.tables if self.name in table.holders}
        offers = {}
        for table in self._snapshots.tables():
            snapshot = self._snapshots.current(table)
            if wanted.get(table) == snapshot.schema.digest():
                offer = _offer(snapshot, self.name)
                signed = sign(offer, self.name, self._identity.signing_key)
                offers[table] = (signed, snapshot.schema.body())
            elif snapshot.version not in self._withheld:
                self._withheld.add(snapshot.version)
                log.warning("dataset.not_offered", table=table, reason="its schema is not the pinned roster's")
        return offers

    # --- tasks

    def approve(self, job_id: bytes, manifest: Signed) -> Reply:
        """Decide on a job: an Approval, stored with its mask secret, or a Refusal that says why.

        Raises what is wrong with a manifest that no merchant of the roster has signed for this job: it deserves no
        signature of ours, not even under a refusal.
        """
        if self._roster.open(manifest, Manifest, Role.MERCHANT).job_id != job_id.hex():
            raise JobConflict(job=job_id.hex())
        return self._replying(job_id, manifest, lambda: self._approve(job_id, manifest))

    def contribute(self, job_id: bytes, approvals: Sequence[Signed]) -> Reply:
        """Answer a job whose set is fixed: the stored Submission and ciphertexts, or a Refusal that says why."""
        answer = self._ledger.answer(job_id)
        if answer is None:
            raise UnknownJob(job=job_id.hex())
        return self._replying(job_id, answer.manifest, lambda: self._contribute(answer, approvals))

    def forget(self, job_id: bytes) -> None:
        """The job has ended: stop its scan and erase its secrets."""
        work = self._work.pop(job_id, None)
        if work is not None:
            work.cancellation.cancel()
        self._locks.pop(job_id, None)
        self._ledger.forget(job_id)

    def forget_expired(self) -> None:
        """Erase the secrets of jobs whose window is long over, in case nobody said that they have ended."""
        for job_id in self._ledger.expired(before=self._clock() - LOG_TIME):
            self.forget(job_id)

    # --- approving

    def _approve(self, job_id: bytes, manifest: Signed) -> Reply:
        stored = self._ledger.answer(job_id)
        if stored is not None:
            if stored.manifest != manifest:
                raise JobConflict(job=job_id.hex())
            return Reply(stored.approval)
        # 1. Verify against the pinned roster and the published schema. 2. The pinned version is here.
        question, snapshot = self._read(manifest, self._clock())
        own = DatasetPin(holder=self.name, version=Digest(snapshot.version), row_capacity=snapshot.row_capacity)
        # 3. A fresh mask key; 4. store; then it may be sent.
        mask_secret = self._random(32)
        approval = approve(question, self.name, own, mask_secret, self._random(16))
        signed = sign(approval, self.name, self._identity.signing_key)
        self._start(job_id, question, snapshot)
        self._ledger.record_approval(
            Answer(
                job_id=job_id,
                merchant=question.manifest.merchant,
                dataset=snapshot.table,
                dataset_version=snapshot.version,
                manifest=manifest,
                approval=signed,
                mask_secret=mask_secret,
                approved_at=self._clock(),
                expires_at=question.manifest.not_after,
            )
        )
        log.info("job.approved", job=job_id.hex(), merchant=question.manifest.merchant, table=snapshot.table)
        return Reply(signed)

    def _read(self, manifest: Signed, now: int) -> tuple[Question, Snapshot]:
        """The question, and the snapshot that it pins. Raises what `read_manifest` does, and DatasetUnknown."""
        opened = self._roster.open(manifest, Manifest, Role.MERCHANT)
        pins = [pin for pin in opened.datasets if pin.holder == self.name]
        version = pins[0].version if pins else ""
        snapshot = self._snapshots.get(opened.plan.table, version)
        return read_manifest(manifest, self._roster, snapshot.schema, now), snapshot

    def _start(self, job_id: bytes, question: Question, snapshot: Snapshot) -> Work:
        """Begin to compute the sums, which the approval of the others does not change."""
        cancellation = Cancellation(job_id.hex())
        sums = self._scans.submit(self._compute, question, snapshot, cancellation)
        self._work[job_id] = Work(question, sums, cancellation)
        return self._work[job_id]

    def _compute(self, question: Question, snapshot: Snapshot, cancellation: Cancellation) -> list[int]:
        """The layout's values: clip counts, then the sums of every cell."""
        clipped = [snapshot.clipped.get(column, 0) for column in question.program.clipped_columns]
        return clipped + self._engine.grouped_sums(snapshot, question.program, cancellation)

    # --- contributing

    def _contribute(self, answer: Answer, approvals: Sequence[Signed]) -> Reply:
        job_id = answer.job_id
        stored = self._ledger.payload(job_id, *RELEASE_ROUND)
        if stored is None and answer.mask_secret is None:
            raise JobExpired(job=job_id.hex(), holders=self.name)
        work = self._work.get(job_id)
        if work is None or work.question.digest != digest_of(Manifest, answer.manifest.body):
            work = self._resume(answer)
        commitment = commit_to_set(work.question, approvals)
        context_digest = commitment.context.digest().hex()
        if stored is not None:
            if stored.context_digest != context_digest:
                raise SecondPayload(job=job_id.hex())
            return Reply(stored.submission, stored.ciphertexts or b"")
        check_window(work.question.manifest, self._clock())
        values = work.sums.result()
        encryptor = self._encryptors.get(work.question.modulus, work.question.layout.ciphertexts)
        salt = self._random(32)
        assert answer.mask_secret is not None
        submission, ciphertexts = contribute(
            work.question, commitment, self.name, values, answer.mask_secret, encryptor, salt
        )
        signed = sign(submission, self.name, self._identity.signing_key)
        payload = Payload(job_id, *RELEASE_ROUND, context_digest, signed, ciphertexts)
        self._ledger.record_payload(payload, salt, self._clock())
        log.info("job.answered", job=job_id.hex(), bytes=len(ciphertexts))
        return Reply(signed, ciphertexts)

    def _resume(self, answer: Answer) -> Work:
        """After a restart: the question and its sums from what the ledger and the snapshot say."""
        question, snapshot = self._read(answer.manifest, answer.approved_at)
        return self._start(answer.job_id, question, snapshot)

    # --- errors

    def _replying(self, job_id: bytes, manifest: Signed, work: Callable[[], Reply]) -> Reply:
        """`work`, one thread a job; an error becomes a signed refusal, whose fields are public."""
        with self._locks.setdefault(job_id, threading.Lock()):
            try:
                return work()
            except Exception as error:
                return self._refusal(job_id, manifest, self._public(job_id, error))

    def _public(self, job_id: bytes, error: Exception) -> CeibaError:
        """What others may know: of the node's own files, and of what nobody foresaw, an incident's number alone."""
        job = job_id.hex()
        if isinstance(error, CeibaError) and not isinstance(error, LedgerDamaged):
            log.warning("job.refused", job=job, code=error.code, private=error.private, fields=error.fields)
            return error
        incident = secrets.token_hex(4)
        log.error("job.failed", job=job, incident=incident, exception=type(error).__name__)
        return InternalError(component=self.name, incident=incident)

    def _refusal(self, job_id: bytes, manifest: Signed, error: CeibaError) -> Reply:
        refusal = Refusal(
            job_id=job_id.hex(),
            manifest_digest=digest_of(Manifest, manifest.body),
            holder=self.name,
            code=error.code,
            fields=error.fields,
        )
        return Reply(sign(refusal, self.name, self._identity.signing_key))


def _offer(snapshot: Snapshot, holder: str) -> Offer:
    return Offer(
        table=snapshot.table,
        schema_digest=snapshot.schema.digest(),
        holder=holder,
        version=Digest(snapshot.version),
        row_capacity=snapshot.row_capacity,
        published_at=int(snapshot.published_at.timestamp()),
    )
