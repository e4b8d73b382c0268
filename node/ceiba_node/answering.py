"""How the node answers its tasks. Every answer is in the ledger, on the disk, before it is returned to be sent.

A task can come any number of times, also after a restart: what is stored is returned again, byte for byte, and
nothing is computed twice for sending (I2).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from ceiba_node.disclosing import Computed, Disclosing
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Answer, Job, Ledger, Payload, Waiting
from ceiba_node.linking import Linking, is_joint
from ceiba_node.policy import (
    DecisionPending,
    Request,
    check_set,
    check_still,
    decide,
    may_leave,
)
from ceiba_node.responding import House, Pending, Reply, Responding
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_node.witness import Witness
from ceiba_protocol.canonical import Digest, digest_of
from ceiba_protocol.disclosure.gate import Released, pack_released
from ceiba_protocol.errors import (
    AgreementMismatch,
    CeibaError,
    Fault,
    JobConflict,
    JobExpired,
    NotReachable,
    SecondPayload,
    SetMismatch,
    UnknownJob,
    UnknownMember,
)
from ceiba_protocol.fit_rounds import FitRound, final_values, first_round, next_round, share_fit
from ceiba_protocol.rounds import (
    Commitment,
    Question,
    abort,
    approve,
    check_window,
    commit_to_set,
    contribute,
    open_gate,
    read_manifest,
    share_gate,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import RoundContext
from ceiba_protocol.trust.agreement import DAY
from ceiba_protocol.trust.documents import DatasetPin, Manifest
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()

GATE, RELEASE, FIT = "gate", "release", "fit"
"""The stages of an attempt; a fit has several rounds, each of the others one."""
LOG_TIME = 24 * 3600


@dataclass(frozen=True)
class FitProgress:
    """What was derived from the shares of the gate and of a fit's rounds."""

    attempt: int
    released: Released | None
    round: FitRound

    def leads_to(self, this: "Round") -> bool:
        """Whether that round is of the same attempt and set, and not an earlier one."""
        sets = (self.round.commitment.context.set_digest, this.commitment.context.set_digest)
        return self.attempt == this.answer.attempt and sets[0] == sets[1] and self.round.iteration <= this.iteration


@dataclass
class Work:
    """A job in progress: what it asks, and the figures, which are computed while the approvals travel."""

    question: Question
    snapshot: Snapshot
    computed: Future[Computed]
    cancellation: Cancellation
    fit: FitProgress | None = None
    """Where its fit is, if it is one that has begun."""


@dataclass(frozen=True)
class Round:
    """One round that this holder may answer, or has answered."""

    answer: Answer
    work: Work
    commitment: Commitment
    stage: str
    iteration: int
    stored: Payload | None


class SharesService(Protocol):
    """Where the shares of the gate and of a fit's rounds are."""

    def shares(self, job_id: bytes) -> list[tuple[Signed, bytes]]:
        """Of every holder of the job: the document and its words. Raises NotReachable, and what the operator says."""

    def fit_shares(self, job_id: bytes, iteration: int) -> list[tuple[Signed, bytes]]:
        """Likewise of a round of its fit."""

    def received(self, job_id: bytes, step: int) -> tuple[Signed, bytes]:
        """A message of a joint job to this holder, and its sealed payload. Raises likewise."""


class Answering(Responding):
    """Answers for one holder. Safe for several threads; each job is worked on by one at a time."""

    def __init__(
        self, identity: Identity, roster: Roster, snapshots: SnapshotStore, engine: DuckDBEngine, ledger: Ledger,
        encryptors: Encryptors, policy: Callable[[], Policy], clock: Callable[[], int], random: Random,
    ) -> None:  # fmt: skip
        """`policy` gives the local policy as it stands now; `clock`, seconds since 1970 UTC."""
        witness = Witness(identity, roster, ledger, clock)
        super().__init__(House(identity, roster, snapshots, engine, ledger, policy, clock, random, witness))
        self._snapshots = snapshots
        self._engine = engine
        self._encryptors = encryptors
        self._policy = policy
        self.linking = Linking(self._house)
        self._disclosing = Disclosing(engine, ledger, snapshots, identity.noise_key, policy, random)
        self._shares_service: SharesService | None = None
        self._scans = ThreadPoolExecutor(max_workers=2, thread_name_prefix="scan")
        self._work: dict[bytes, Work] = {}
        self._submitting = threading.Lock()
        """Held likewise, so that two jobs whose sets nearly coincide see each other."""
        self._withheld: set[str] = set()

    @property
    def roster_digest(self) -> bytes:
        return bytes.fromhex(self._roster.digest())

    def connect(self, service: SharesService) -> None:
        """From now on the shares of gates and fits, and the messages of joint jobs, are fetched there."""
        self._shares_service = service
        self.linking.connect(service)

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
        """By table: the publisher's offer of the current version, and the schema's bytes. Withheld where the schema is
        not the roster's, or the publisher not this member's; none at all once the log is at fault."""
        wanted = {table.table: table.schema_digest for table in self._roster.tables if self.name in table.holders}
        offers = {}
        for table in self._snapshots.tables() if self.witness.fault is None else ():
            snapshot = self._snapshots.current(table)
            try:
                if wanted.get(table) != snapshot.schema.digest():
                    raise AgreementMismatch(agreement=table, problem="its schema is not the pinned roster's")
                snapshot.check_offer(self._roster)
            except CeibaError as error:
                if snapshot.version not in self._withheld:
                    self._withheld.add(snapshot.version)
                    log.warning("dataset.not_offered", table=table, code=error.code, fields=error.fields)
                continue
            offers[table] = (snapshot.offer, snapshot.schema.body())
        return offers

    # --- agreements and people

    def take_up_agreement(self, evidence: AgreementEvidence) -> None:
        """Add what the coordinator knows of an agreement to this holder's own copy. Raises as `Contracts.merge`."""
        contract = self._contracts.merge(evidence)
        log.info(
            "agreement.received", agreement=contract.agreement.agreement_id, state=contract.state(self._clock()).value
        )

    def to_upload(self) -> list[Signed]:
        """Signatures and notices that the coordinator does not have yet; none while the log is at fault."""
        return self._ledger.to_upload() if self.witness.fault is None else []

    def mark_uploaded(self, signed: Signed) -> None:
        self._ledger.mark_uploaded(signed)

    def decided(self) -> Iterator[Reply]:
        """The answers to jobs on which a person has decided since."""
        for waiting in self._ledger.decided_unanswered(self._clock()) if self.witness.fault is None else ():
            try:
                reply = self.approve(waiting.job_id, waiting.manifest, waiting.attempt)
            except CeibaError as error:
                if self.witness.fault is not None:  # the decision stays, for the day when it is mended
                    return
                log.warning("job.not_answered", job=waiting.job_id.hex(), code=error.code, fields=error.fields)
                reply = None
            self._ledger.mark_replied(waiting.job_id)
            if isinstance(reply, Reply):
                yield reply

    def broken_by_roster(self) -> Iterator[Reply]:
        """Refusals of running jobs one of whose members is none any more on a roster that was taken up since."""
        for job_id in self._ledger.running(self._clock()) if self.witness.fault is None else ():
            answer = self._ledger.answer(job_id)
            if answer is None:
                continue
            try:
                if is_joint(answer.manifest):
                    self.linking.question(answer.manifest, answer.approved_at)
                else:
                    self._question(answer.manifest, answer.approved_at)
            except (UnknownMember, AgreementMismatch) as error:
                yield self._refuse(job_id, answer.manifest, self._public(job_id, error))
            except CeibaError as error:  # said when the task comes
                log.debug("job.not_readable", job=job_id.hex(), code=error.code)

    # --- tasks

    def approve(self, job_id: bytes, manifest: Signed, attempt: int = 0) -> Reply | Pending:
        """Decide on a job: an Approval, stored with its mask secret; a Refusal that says why; or a person is asked.

        Raises what is wrong with a manifest that no merchant of the roster has signed for this job: it deserves no
        signature of ours, not even under a refusal.
        """
        if is_joint(manifest):
            return self.linking.approve(job_id, manifest)
        if self._roster.open(manifest, Manifest, Role.MERCHANT).job_id != job_id.hex():
            raise JobConflict(job=job_id.hex())
        return self._replying(job_id, manifest, lambda: self._approve(job_id, manifest, attempt))

    def share(
        self,
        job_id: bytes,
        approvals: Sequence[Signed],
        aborts: Sequence[Signed] = (),
        checkpoint: Signed | None = None,
    ) -> Reply | Pending:
        """Answer the gate of a job whose set is fixed: the stored GateShare and its words, or a Refusal."""
        return self._in_round(job_id, (GATE, 0), (approvals, aborts, checkpoint), self._share)

    def iterate(
        self,
        job_id: bytes,
        iteration: int,
        approvals: Sequence[Signed],
        aborts: Sequence[Signed] = (),
        checkpoint: Signed | None = None,
    ) -> Reply | Pending:
        """Answer a round of a fit: the stored FitShare and its words; or, if the state is final, the Submission and its
        ciphertexts; or a Refusal."""
        return self._in_round(job_id, (FIT, iteration), (approvals, aborts, checkpoint), self._iterate)

    def contribute(
        self,
        job_id: bytes,
        approvals: Sequence[Signed],
        aborts: Sequence[Signed] = (),
        checkpoint: Signed | None = None,
    ) -> Reply | Pending:
        """Answer a job whose set is fixed: the stored Submission and ciphertexts, or a Refusal that says why."""
        return self._in_round(job_id, (RELEASE, 0), (approvals, aborts, checkpoint), self._contribute)

    def _in_round(
        self, job_id: bytes, stage: tuple[str, int], task: tuple[Sequence[Signed], Sequence[Signed], Signed | None],
        work: Callable[[Round, Signed], Reply],
    ) -> Reply | Pending:  # fmt: skip
        """`work` on a round of a job that this holder has approved. `stage`: with the number of the round; `task`:
        approvals, aborts, checkpoint."""
        approved = self._ledger.answer(job_id)
        if approved is None:
            raise UnknownJob(job=job_id.hex())
        approvals, aborts, checkpoint = task

        def run() -> Reply:
            left = self._ledger.left(job_id)
            if left is not None:
                self.witness.check()
                return Reply(left.refusal, token=left.token)
            answer = self._ledger.answer(job_id) or approved  # as it is now: it may have been forgotten meanwhile
            return work(self._round(answer, stage, approvals, aborts), checkpoint or Signed())

        return self._replying(job_id, approved.manifest, run)

    def forget(self, job_id: bytes) -> None:
        """The job has ended: stop its scan, erase its secrets, and ask nobody about it any more. A round that is being
        answered ends first, or it would write its payload afterwards."""
        work = self._work.get(job_id)
        if work is not None:
            work.cancellation.cancel()
        self.linking.forget(job_id)
        with self._locks.held(job_id):
            self._work.pop(job_id, None)
            self._ledger.mark_ended(job_id)
            self._ledger.forget(job_id)

    def forget_expired(self) -> None:
        """Erase the secrets of jobs whose window is long over, in case nobody said that they have ended; and who was
        behind answers that are older than the house keeps them; and what is kept of linkages in vain."""
        for job_id in self._ledger.expired(before=self._clock() - LOG_TIME):
            self.forget(job_id)
        self.linking.drop_linkages()
        self._ledger.forget_sets(before=self._clock() - DAY * self._policy().audit_days)

    # --- approving

    def _approve(self, job_id: bytes, manifest: Signed, attempt: int) -> Reply | Pending:
        self.witness.check()
        left = self._ledger.left(job_id)
        if left is not None:
            return Reply(left.refusal, token=left.token)
        earlier = self._ledger.answer(job_id)
        if earlier is not None and earlier.manifest != manifest:
            raise JobConflict(job=job_id.hex())
        stored = self._ledger.answer(job_id, attempt)
        if stored is not None:
            return Reply(stored.approval)
        if self._ledger.has_payload(job_id):  # in an earlier attempt: a holder's figures go into one set of a job
            raise SecondPayload(job=job_id.hex())
        # 1. Verify against the pinned roster, the agreement and the published schema. 2. The pinned version is here.
        now = self._clock()
        question, snapshot = self._read(manifest, now)
        own = DatasetPin(holder=self.name, version=Digest(snapshot.version), row_capacity=snapshot.row_capacity)
        # 3. A fresh mask key.
        mask_secret = self._random(32)
        approval = approve(
            question, self.name, own, mask_secret, self._random(16), attempt=attempt, log_size=self.witness.size
        )
        signed = sign(approval, self.name, self._identity.signing_key)
        with self._house.deciding:
            self.witness.check()
            # 4. The policy; 5. store; then it may be sent.
            try:
                decide(self._request(question, snapshot.schema, now))
            except DecisionPending:
                self._ledger.add_waiting(Waiting(job_id, attempt, manifest, now, question.manifest.not_after))
                log.info("job.waits_for_a_person", job=job_id.hex(), merchant=question.manifest.merchant)
                return Pending(job_id)
            job, cost = _job(question, snapshot, manifest, now), self._disclosing.cost(question, snapshot.version, now)
            self._ledger.record_approval(job, attempt, signed, mask_secret, cost)
        self._start(job_id, question, snapshot)
        log.info("job.approved", job=job_id.hex(), merchant=question.manifest.merchant, table=snapshot.table)
        return Reply(signed)

    def _read(self, manifest: Signed, now: int) -> tuple[Question, Snapshot]:
        """The question, and the snapshot that it pins. Raises what `_question` does, DatasetUnknown, SnapshotDamaged,
        and BadSignature if the snapshot was not published by this member's publisher."""
        opened = self._roster.open(manifest, Manifest, Role.MERCHANT)
        pins = [pin for pin in opened.datasets if pin.holder == self.name]
        snapshot = self._snapshots.get(opened.plan.table, pins[0].version if pins else "")
        snapshot.check_offer(self._roster)
        return self._question(manifest, now, snapshot.schema), snapshot

    def _question(self, manifest: Signed, now: int, schema: Schema | None = None) -> Question:
        """Without a schema, that of the current version. Raises UnknownAgreement, DatasetMissing, and what
        `read_contract` and `read_manifest` do."""
        opened = self._roster.open(manifest, Manifest, Role.MERCHANT)
        contract = self._contracts.get(opened.agreement_digest)
        if schema is None:
            schema = self._snapshots.current(opened.plan.table).schema
        return read_manifest(manifest, contract.agreement, self._roster, schema, now)

    def _request(self, question: Question, schema: Schema, now: int) -> Request:
        """All that the policy looks at, as it stands now."""
        manifest = question.manifest
        record = self._record(manifest, manifest.plan.table, now)
        contract = self._contracts.get(manifest.agreement_digest)
        return Request(question, contract, schema, self._policy(), record, self.name, now)

    def _start(self, job_id: bytes, question: Question, snapshot: Snapshot) -> Work:
        """Begin to compute the sums, which neither the approval of the others nor the attempt changes."""
        work = self._work.get(job_id)
        if work is None or work.question.digest != question.digest:
            cancellation = Cancellation(job_id.hex())
            computed = self._scans.submit(self._disclosing.compute, question, snapshot, cancellation)
            work = self._work[job_id] = Work(question, snapshot, computed, cancellation)
        return work

    # --- rounds

    def _round(
        self, answer: Answer, stage: tuple[str, int], approvals: Sequence[Signed], aborts: Sequence[Signed]
    ) -> Round:
        """The round that these approvals make, once its set is the right one and nothing forbids to go on."""
        self.witness.check()
        stored = self._ledger.payload(answer.job_id, answer.attempt, *stage)
        if stored is None and answer.mask_secret is None:
            raise JobExpired(job=answer.job_id.hex(), holders=self.name)
        work = self._work.get(answer.job_id)
        if work is None or work.question.digest != digest_of(Manifest, answer.manifest.body):
            work = self._resume(answer)
        # The set: everyone's own signature, on this attempt, which is the newest that this holder has approved.
        commitment = commit_to_set(work.question, approvals, aborts)
        if commitment.context.attempt != answer.attempt:
            raise SetMismatch(problem=f"it is attempt {commitment.context.attempt}, not {answer.attempt}")
        check_still(self._request(work.question, work.snapshot.schema, self._clock()))
        return Round(answer, work, commitment, *stage, stored)

    def _stored(self, this: Round, context: RoundContext) -> Reply | None:
        """What was answered before, for the same context alone (I2)."""
        if this.stored is None:
            return None
        if this.stored.context_digest != context.digest().hex():
            raise SecondPayload(job=this.answer.job_id.hex())
        return Reply(this.stored.submission, this.stored.ciphertexts or b"")

    def _require_now(self, this: Round, checkpoint: Signed) -> Computed:
        """The figures, if it is the time for them, and nobody shows this holder the log in an older state than the
        others."""
        check_window(this.work.question.manifest, self._clock())
        self.witness.require(checkpoint, this.commitment.log_size)
        return this.work.computed.result()

    def _share(self, this: Round, checkpoint: Signed) -> Reply:
        question, commitment = this.work.question, this.commitment
        if commitment.gate is None:
            raise SetMismatch(problem="the job has no gate")
        stored = self._stored(this, commitment.gate_context)
        if stored is not None:
            return stored
        computed = self._require_now(this, checkpoint)
        assert this.answer.mask_secret is not None
        with self._submitting:
            self.witness.check()
            # Compare with all earlier answers, mask, store; then it may be sent. One job at a time: two at once would
            # not see each other.
            check_set(self._request(question, this.work.snapshot.schema, self._clock()), commitment.holders)
            words, candidates = self._disclosing.words(question, commitment, computed, this.work.snapshot)
            share, blob = share_gate(question, commitment, self.name, words, this.answer.mask_secret, self._random)
            signed = sign(share, self.name, self._identity.signing_key)
            payload = self._payload(this, commitment.gate_context, signed, blob)
            self._ledger.record_payload(payload, self._random(32), self._clock(), candidates)
        log.info("job.shared", job=this.answer.job_id.hex(), bytes=len(blob))
        return Reply(signed, blob)

    def _iterate(self, this: Round, checkpoint: Signed) -> Reply:
        progress = self._fit_progress(this)
        fit = progress.round
        if fit.state.is_final:
            stored = self._ledger.payload(this.answer.job_id, this.answer.attempt, RELEASE, 0)
            last = replace(this, commitment=fit.commitment, stage=RELEASE, iteration=0, stored=stored)
            return self._release(last, checkpoint, progress.released, fit)
        stored_before = self._stored(this, fit.context)
        if stored_before is not None:
            return stored_before
        computed = self._require_now(this, checkpoint)
        sums = fit.fit.measure(fit.state, computed.prepared, fit.frame)
        assert this.answer.mask_secret is not None
        with self._submitting:
            self.witness.check()
            check_set(self._request(fit.question, this.work.snapshot.schema, self._clock()), fit.commitment.holders)
            share, blob = share_fit(fit, self.name, sums, this.answer.mask_secret, self._random)
            signed = sign(share, self.name, self._identity.signing_key)
            payload = self._payload(this, fit.context, signed, blob)
            self._ledger.record_payload(payload, self._random(32), self._clock())
        log.info("job.iterated", job=this.answer.job_id.hex(), iteration=this.iteration, bytes=len(blob))
        return Reply(signed, blob)

    def _fit_progress(self, this: Round) -> FitProgress:
        """Where the fit is at this round: derived from the shares of the round before, or after a restart of all."""
        secret, job_id = bytes.fromhex(self._identity.sealing_seed), this.answer.job_id
        progress = this.work.fit
        if progress is None or not progress.leads_to(this):
            released, commitment = None, this.commitment
            if commitment.gate is not None:
                released, commitment = self._past_gate(this)
            first = first_round(this.work.question, commitment, released)
            progress = FitProgress(this.answer.attempt, released, first)
        fit = progress.round
        while fit.iteration < this.iteration:
            shares = self._service().fit_shares(job_id, fit.iteration)
            own = self._ledger.payload(job_id, this.answer.attempt, FIT, fit.iteration)
            if own is None or own.submission not in [signed for signed, _ in shares]:
                raise SetMismatch(problem="the shares of a round of the fit do not have this holder's own")
            fit = next_round(fit, shares, self.name, secret)
        this.work.fit = replace(progress, round=fit)
        return this.work.fit

    def _contribute(self, this: Round, checkpoint: Signed) -> Reply:
        released = None
        if this.commitment.gate is not None:
            released, commitment = self._past_gate(this)
            this = replace(this, commitment=commitment)
        return self._release(this, checkpoint, released)

    def _release(
        self, this: Round, checkpoint: Signed, released: Released | None, fit: FitRound | None = None
    ) -> Reply:
        """The last round: the sums, or a fit's final figures, for the merchant. Its commitment is past the gate."""
        question, commitment, iterate = this.work.question, this.commitment, fit.state.digest() if fit else ""
        context = commitment.release_context("" if released is None else pack_released(released), iterate)
        stored = self._stored(this, context)
        if stored is not None:
            return stored
        computed = self._require_now(this, checkpoint)
        values = self._disclosing.values(question, commitment, computed) + (final_values(fit) if fit else [])
        encryptor = self._encryptors.get(question.modulus, commitment.layout.ciphertexts)
        salt = self._random(32)
        assert this.answer.mask_secret is not None
        with self._submitting:
            self.witness.check()
            # No other set that nearly coincides, nor a stop since; mask, encrypt, store; then it may be sent.
            check_set(self._request(question, this.work.snapshot.schema, self._clock()), commitment.holders)
            submission, ciphertexts = contribute(
                question, commitment, self.name, values, this.answer.mask_secret, encryptor, salt, released, iterate
            )
            signed = sign(submission, self.name, self._identity.signing_key)
            payload = self._payload(this, context, signed, ciphertexts)
            settled = self._disclosing.settled(question, commitment, computed, this.work.snapshot, released)
            self._ledger.record_payload(payload, salt, self._clock(), settled)
        log.info("job.answered", job=this.answer.job_id.hex(), bytes=len(ciphertexts))
        return Reply(signed, ciphertexts)

    def _past_gate(self, this: Round) -> tuple[Released, Commitment]:
        """What the gate lets pass, from everybody's shares, and the set bound to them."""
        shares, secret = self._service().shares(this.answer.job_id), bytes.fromhex(self._identity.sealing_seed)
        released = open_gate(this.work.question, this.commitment, shares, self.name, secret)
        own = self._ledger.payload(this.answer.job_id, this.answer.attempt, GATE, 0)
        if own is None or own.submission not in [signed for signed, _ in shares]:
            raise SetMismatch(problem="the gate's shares do not have this holder's own")
        return released, this.commitment.after_gate(signed for signed, _ in shares)

    def _service(self) -> SharesService:
        if self._shares_service is None:
            raise NotReachable(target="the coordinator", problem="there is no connection yet")
        return self._shares_service

    def _payload(self, this: Round, context: RoundContext, signed: Signed, blob: bytes) -> Payload:
        holders, digest = tuple(this.commitment.holders), context.digest().hex()
        key = (this.answer.job_id, this.answer.attempt, this.stage, this.iteration)
        return Payload(*key, digest, holders, signed, blob)

    def _resume(self, answer: Answer) -> Work:
        """After a restart: the question and its sums from what the ledger and the snapshot say."""
        question, snapshot = self._read(answer.manifest, answer.approved_at)
        return self._start(answer.job_id, question, snapshot)

    # --- refusing

    def _token(self, job_id: bytes, manifest: Signed, error: CeibaError, now: int) -> Signed | None:
        """An abort token, unless the refusal is a peer's fault, a submission was made, or the others' total would show
        this holder's share of an earlier one."""
        if error.fault not in (Fault.POLICY, Fault.US) or self._ledger.has_payload(job_id):
            return None
        approved = self._ledger.answer_time(job_id)
        try:
            question = self._question(manifest, now if approved is None else approved)
            schema = self._snapshots.current(question.manifest.plan.table).schema
            if not may_leave(self._request(question, schema, now)):
                return None
        except CeibaError as unreadable:  # nobody else can answer it either
            log.debug("job.not_left", job=job_id.hex(), code=unreadable.code)
            return None
        return sign(abort(question, self.name), self.name, self._identity.signing_key)


def _job(question: Question, snapshot: Snapshot, manifest: Signed, now: int) -> Job:
    opened = question.manifest
    return Job(
        job_id=bytes.fromhex(opened.job_id),
        agreement_digest=opened.agreement_digest,
        agreement_id=question.agreement.agreement_id,
        number=opened.number,
        merchant=opened.merchant,
        organisation=question.merchant.legal_person,
        dataset=snapshot.table,
        dataset_version=snapshot.version,
        plan_digest=opened.plan.digest(),
        cells=question.program.cells,
        manifest=manifest,
        approved_at=now,
        expires_at=opened.not_after,
    )
