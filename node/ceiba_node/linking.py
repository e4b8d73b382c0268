"""How the node answers joint jobs: its side of each join, and of linking by tokens, step after step (PROTOCOL §5).

Nothing of a join is on the disk but that a step was taken: the keys that link subjects, and the figures, live in
memory until the job has ended. A node that was restarted meanwhile cannot go on, and says so. Which of its subjects all
others know is kept for later jobs where the agreement allows it, in memory as well (`kept_linkages`).
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from ceiba_node.kept_linkages import KeptLinkage, KeptLinkages
from ceiba_node.ledger import Answer, Budget, Charge, Job, Payload, Waiting
from ceiba_node.one_table import check_divisions
from ceiba_node.own_side import OwnSide
from ceiba_node.policy import DecisionPending, Request, check_cells, check_still, decide
from ceiba_node.responding import House, Pending, Reply, Responding
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.canonical import Digest, digest
from ceiba_protocol.disclosure.grade import DATASET_FACTOR
from ceiba_protocol.disclosure.noise import cells_order_key
from ceiba_protocol.errors import (
    AskedOtherwise,
    CeibaError,
    DatasetUnknown,
    JobConflict,
    LinkageGone,
    LinkageLost,
    LinkageTooLarge,
    NotReachable,
    PlanTooLarge,
    SetMismatch,
    UnknownJob,
)
from ceiba_protocol.linkage.cores import Progress
from ceiba_protocol.linkage.joint import (
    MOST_PAYLOAD,
    OF_PAIR,
    JointApproval,
    JointManifest,
    JointMessage,
    JointQuestion,
    JointSet,
    Kind,
    Step,
    announced,
    check_message,
    commit_jointly,
    join_key_context,
    message_of,
    programs_of,
    read_joint_manifest,
    sealed_for,
    sealing_info,
    shapes_of,
)
from ceiba_protocol.linkage.one_population import check_one_population, is_comparable
from ceiba_protocol.linkage.oprf import JobKey
from ceiba_protocol.linkage.private_join import BaseSide, JoinedSide, ProvenKey, bytes_of_rows, fresh_noise
from ceiba_protocol.linkage.token_steps import TokenSide
from ceiba_protocol.plan import Plan
from ceiba_protocol.rounds import check_window
from ceiba_protocol.sums.key_proof import prove_key
from ceiba_protocol.sums.paillier import MINIMUM_KEY_BITS, Encryptor, encode_modulus, generate_keypair
from ceiba_protocol.trust.agreement import DAY, Mode
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.hpke import open_sealed
from ceiba_protocol.trust.roster import EncryptionKey, Role
from ceiba_protocol.trust.signing import sign, type_of
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()

JOINT = "joint"
"""The stage of a payload to another holder, in the ledger."""
RELEASE = "release"
"""The stage of a payload to the merchant."""
LONG_STEP = 10_000
"""Rows; fewer take less than half a minute."""
TABLE_FOR = 10_000
"""Ciphertexts for which the table under the own key is made."""


def is_joint(manifest: Signed) -> bool:
    """Whether it is a joint one."""
    return bool(manifest.type == type_of(JointManifest))


def _told(agreed: JointSet, step: Step) -> Progress:
    """Says in the log how far a long step is, ten times."""
    said = 0

    def tell(done: int, total: int) -> None:
        nonlocal said
        if total >= LONG_STEP and done * 10 // total > said:
            said = done * 10 // total
            job = agreed.question.manifest.job_id
            log.info("job.linking", job=job, step=step.kind.value, rows=done, of_rows=total)

    return tell


class MessagesService(Protocol):
    """Where the messages of joint jobs are."""

    def received(self, job_id: bytes, step: int) -> tuple[Signed, bytes]:
        """A message to this holder, and its sealed payload. Raises NotReachable, and what the operator says."""


class OwnKey:
    """This holder's Paillier key, under which it encrypts what it joins. Made when it is first needed, and never on the
    disk: every message under it is of no use once its job has ended."""

    def __init__(self, house: House) -> None:
        context = join_key_context(house.identity.descriptor)
        self.public, self.private = generate_keypair(house.random, MINIMUM_KEY_BITS)
        proof = prove_key(self.private, context)
        self.announced = EncryptionKey(modulus=encode_modulus(self.public.n).hex(), proof=proof.hex())
        self.encryptor = Encryptor.for_count(self.public.n, TABLE_FOR, house.random)


@dataclass
class Session:
    """A joint job in progress."""

    question: JointQuestion
    snapshot: Snapshot
    earlier: tuple[tuple[Plan, Snapshot], ...] = ()
    """What was asked of this holder before in exact answers with which this one is compared."""
    token_key: JobKey | None = None
    """Where subjects are linked by tokens; dropped with `tokens`."""
    agreed: JointSet | None = None
    tokens: TokenSide | None = None
    common: frozenset[bytes] | None = None
    """Which of the own subjects all holders know, once that is revealed, in this job or in the one whose linkage it
    uses again; `tokens` has done its work then."""
    base: dict[str, BaseSide] = field(default_factory=dict)
    """By joined holder, where this one is the base."""
    joined: JoinedSide | None = None
    """Where it is joined."""
    share: bytes = b""
    """A joined holder's, for the merchant: made one step before it is sent."""
    sent: dict[int, Reply] = field(default_factory=dict)


class Linking(Responding):
    """Answers joint jobs for one holder."""

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._sessions: dict[bytes, Session] = {}
        self._kept = KeptLinkages(self.name)
        self._service: MessagesService | None = None
        self._own_key: OwnKey | None = None
        self._making_key = threading.Lock()
        self._proven: dict[str, tuple[str, ProvenKey]] = {}
        """By holder: the newest, since a node has one at a time."""

    def connect(self, service: MessagesService) -> None:
        """From now on messages are fetched there."""
        self._service = service

    def question(self, manifest: Signed, now: int) -> JointQuestion:
        """Raises UnknownAgreement, DatasetMissing, and what `read_contract` and `read_joint_manifest` do."""
        return self._read(manifest, now)[0]

    # --- approving

    def approve(self, job_id: bytes, manifest: Signed) -> Reply | Pending:
        """Decide on a joint job: a JointApproval, a Refusal that says why, or a person is asked.

        Raises what is wrong with a manifest that no merchant of the roster has signed for this job.
        """
        if self._roster.open(manifest, JointManifest, Role.MERCHANT).job_id != job_id.hex():
            raise JobConflict(job=job_id.hex())
        return self._replying(job_id, manifest, lambda: self._approve(job_id, manifest))

    def _approve(self, job_id: bytes, manifest: Signed) -> Reply | Pending:
        self.witness.check()
        earlier = self._ledger.answer(job_id)
        if earlier is not None:
            if earlier.manifest != manifest:
                raise JobConflict(job=job_id.hex())
            return Reply(earlier.approval)
        # 1. Verify against the pinned roster, the agreement and the published schema. 2. The pinned version is here.
        now = self._clock()
        question, snapshot = self._read(manifest, now)
        # 3. Say how many cells there are, how wide, and under which keys.
        self._own_side(question, snapshot).check_groups()
        token_key = None
        if question.plan.has_tokens:
            token_key = JobKey(bytes.fromhex(question.digest), self.name, self._random)
        approval = self._approval(question, snapshot, token_key)
        signed = sign(approval, self.name, self._identity.signing_key)
        with self._house.deciding:
            self.witness.check()
            # 4. The policy; 5. store; then it may be sent.
            kept = self._linked_before(question, snapshot, now) if question.plan.linkage else None
            try:
                before = self._earlier(question, snapshot, now)
                decide(self._request(question, snapshot, now))
            except DecisionPending:
                self._ledger.add_waiting(Waiting(job_id, 0, manifest, now, question.manifest.not_after))
                log.info("job.waits_for_a_person", job=job_id.hex(), merchant=question.manifest.merchant)
                return Pending(job_id)
            job = self._job(question, snapshot, manifest, now)
            self._ledger.record_approval(job, 0, signed, self._random(32), self._cost(question, snapshot, now))
            common = self._kept.serve(kept) if kept else None
            self._sessions[job_id] = Session(question, snapshot, before, token_key, common=common)
        log.info("job.approved", job=job_id.hex(), merchant=question.manifest.merchant, table=snapshot.table)
        return Reply(signed)

    def _linked_before(self, question: JointQuestion, snapshot: Snapshot, now: int) -> KeptLinkage:
        """What a job uses again. Raises LinkageGone also where these data are not the newest any more, and what
        `KeptLinkages.find` does."""
        kept = self._kept.find(question, now)
        if not self._is_newest(snapshot):
            raise LinkageGone(holder=self.name, job=kept.question.manifest.job_id)
        return kept

    def _is_newest(self, snapshot: Snapshot) -> bool:
        return self._house.snapshots.current_version(snapshot.table) == snapshot.version

    def _approval(self, question: JointQuestion, snapshot: Snapshot, token_key: JobKey | None) -> JointApproval:
        subjects = announced(snapshot.subjects)
        programs = programs_of(question.plan.side_of(self.name), snapshot.schema)
        return JointApproval(
            job_id=question.manifest.job_id,
            manifest_digest=question.digest,
            holder=self.name,
            dataset_version=Digest(snapshot.version),
            subjects=subjects,
            shapes=shapes_of(question, self.name, programs),
            encryption_key=self._key().announced if question.plan.encrypts(self.name) else None,
            token_key=token_key.announce(subjects).hex() if token_key else None,
            nonce=self._random(16).hex(),
            log_size=self.witness.size,
        )

    def _key(self) -> OwnKey:
        with self._making_key:
            self._own_key = self._own_key or OwnKey(self._house)
            return self._own_key

    def _read(self, manifest: Signed, now: int) -> tuple[JointQuestion, Snapshot]:
        """The question, and the snapshot that it pins. Raises also SetMismatch, DatasetUnknown, SnapshotDamaged, and
        BadSignature if the snapshot was not published by this member's publisher."""
        opened = self._roster.open(manifest, JointManifest, Role.MERCHANT)
        contract = self._contracts.get(opened.agreement_digest)
        side = opened.plan.side_of(self.name)
        versions = {pin.holder: pin.version for pin in opened.datasets}
        snapshot = self._house.snapshots.get(side.table, versions.get(self.name, ""))
        snapshot.check_offer(self._roster)
        schemas = {side.table: snapshot.schema}
        return read_joint_manifest(manifest, contract.agreement, self._roster, schemas, now), snapshot

    def _earlier(self, question: JointQuestion, snapshot: Snapshot, now: int) -> tuple[tuple[Plan, Snapshot], ...]:
        """What was asked of this holder in earlier exact answers, or is being asked, about subjects that it has in
        common with the same others, and of which version; by the same organisation, or anybody under `strict_sets`.
        Raises AskedOtherwise unless the question is about the same ones (ADR 0029).
        """
        manifest, side = question.manifest, question.plan.side_of(self.name)
        if manifest.noise is not None or not question.rules.has_gate:
            return ()
        policy = self._house.policy()
        jobs = self._ledger.jobs_about(side.table, now - DAY * policy.audit_days)
        asked = [
            earlier
            for job_id, organisation, signed, is_answered in jobs
            if job_id.hex() != manifest.job_id and is_joint(signed) and (is_answered or job_id in self._sessions)
            if policy.strict_sets or organisation == question.merchant.legal_person
            if (earlier := JointManifest.parse(signed.body)).noise is None
            if is_comparable(manifest, earlier, self.name)
        ]
        check_one_population(manifest, asked, self.name)
        before = {
            (plan, earlier.version_of(self.name)): None
            for earlier in asked
            for plan in earlier.plan.side_of(self.name).plans
        }
        check_divisions(snapshot.schema, (plan for plan, _ in before), side.plans)
        return tuple((plan, self._as_it_was(snapshot, version)) for plan, version in before)

    def _as_it_was(self, snapshot: Snapshot, version: str) -> Snapshot:
        """Another version of a dataset. Raises AskedOtherwise if it is not kept, so that nothing can be compared."""
        if version == snapshot.version:
            return snapshot
        try:
            return self._house.snapshots.get(snapshot.table, version)
        except DatasetUnknown:
            raise AskedOtherwise(what=f"a version of {snapshot.table} that is not kept any more") from None

    def _request(self, question: JointQuestion, snapshot: Snapshot, now: int) -> Request:
        """All that the policy looks at, as it stands now."""
        manifest = question.manifest
        record = self._record(manifest, snapshot.table, now)
        contract = self._contracts.get(manifest.agreement_digest)
        return Request(question, contract, snapshot.schema, self._house.policy(), record, self.name, now)

    def _cost(self, question: JointQuestion, snapshot: Snapshot, now: int) -> tuple[Charge, Budget]:
        """An exact answer about this version of the dataset, or what its noise costs. The same question again costs as
        much again: its noise is drawn anew, because nobody can tell whether the base's groups are the same."""
        manifest, rules = question.manifest, self._house.policy().tightened(question.rules)
        charge = Charge(
            job_id=bytes.fromhex(manifest.job_id),
            dataset=snapshot.table,
            merchant=manifest.merchant,
            organisation=question.merchant.legal_person,
            rho=manifest.noise.rho if manifest.noise else 0,
            sticky=digest("ceiba/v1/joint", bytes.fromhex(manifest.job_id)),
            exact=manifest.noise is None,
            version=snapshot.version,
            charged_at=now,
        )
        return charge, Budget(rules.rho_per_year, DATASET_FACTOR * rules.rho_per_year, rules.exact_jobs)

    def _job(self, question: JointQuestion, snapshot: Snapshot, manifest: Signed, now: int) -> Job:
        opened = question.manifest
        programs = programs_of(question.plan.side_of(self.name), snapshot.schema)
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
            cells=sum(one.cells for one in programs),
            manifest=manifest,
            approved_at=now,
            expires_at=opened.not_after,
        )

    # --- steps

    def take_step(self, job_id: bytes, number: int, approvals: list[Signed], checkpoint: Signed) -> Reply | Pending:
        """Answer one step of an approved joint job: a JointMessage and its payload, or a Refusal."""
        answer = self._ledger.answer(job_id)
        if answer is None:
            raise UnknownJob(job=job_id.hex())
        reply = self._replying(job_id, answer.manifest, lambda: self._step(answer, number, approvals, checkpoint))
        if isinstance(reply, Reply) and reply.signed.type == type_of(Refusal):
            self._sessions.pop(job_id, None)  # whoever cannot go on has nothing left of it
        return reply

    def _step(self, answer: Answer, number: int, approvals: list[Signed], checkpoint: Signed) -> Reply:
        self.witness.check()
        job_id = answer.job_id
        session = self._sessions.get(job_id)
        if session is not None and number in session.sent:
            return session.sent[number]
        session = session or self._begin_again(answer)
        # 1. The set: everyone's own signature on this manifest. 2. Nothing forbids to go on.
        agreed = commit_jointly(session.question, approvals)
        if session.agreed is not None and session.agreed.approvals != agreed.approvals:
            raise SetMismatch(problem="the approvals are others than in the steps before")
        now = self._clock()
        check_window(session.question.manifest, now)
        check_still(self._request(session.question, session.snapshot, now))
        if session.agreed is None:
            self._check_sizes(agreed)
            self._debit_cells(session, agreed, now)
            session.agreed = agreed
        self.witness.require(checkpoint, agreed.log_size)
        step = self._own_step(session.question, number)
        # 3. Compute from the message before. 4. Seal, sign, write down that it was sent; then it may be.
        payload = self._compute(session, agreed, step, self._messages_before(job_id, agreed, step))
        sealed = sealed_for(agreed, step, payload)
        signed = sign(message_of(agreed, step, sealed), self.name, self._identity.signing_key)
        stage = RELEASE if step.receiver == session.question.manifest.merchant else JOINT
        context = JointMessage.parse(signed.body).context_digest
        # No set of holders is kept with it: none of its figures is part of a sum over holders.
        kept = Payload(job_id, 0, stage, number, context, (), signed, None)
        self._ledger.record_payload(kept, self._random(32), now)
        session.sent[number] = Reply(signed, sealed)
        own = [one.number for one in session.question.steps if one.sender == self.name]
        if session.sent.keys() >= set(own):  # the job may have ended for the merchant as soon as this is sent
            self._kept.keep(session.question, session.common, now)
        log.info("job.linked", job=job_id.hex(), step=step.kind.value, bytes=len(sealed))
        return session.sent[number]

    def _begin_again(self, answer: Answer) -> Session:
        """After a restart, a job that has only been approved. Raises LinkageLost for one that has gone further, and for
        one whose approval announced a key for tokens, which is gone."""
        question, snapshot = self._read(answer.manifest, answer.approved_at)
        is_begun = self._ledger.has_payload(answer.job_id) or question.plan.mode is not Mode.HIDDEN
        if is_begun or answer.mask_secret is None:
            raise LinkageLost(holder=self.name)
        with self._house.deciding:
            earlier = self._earlier(question, snapshot, self._clock())
            return self._sessions.setdefault(answer.job_id, Session(question, snapshot, earlier))

    def _own_step(self, question: JointQuestion, number: int) -> Step:
        if number >= len(question.steps) or question.steps[number].sender != self.name:
            raise SetMismatch(problem=f"step {number} is not this holder's")
        return question.steps[number]

    def _check_sizes(self, agreed: JointSet) -> None:
        """Nobody else announced more subjects than this house links in one job, and no rows are to be sent that no
        message would hold. Raises LinkageTooLarge, PlanTooLarge."""
        limit = self._house.policy().subjects_per_job
        for name, one in agreed.approvals.items():
            if name != self.name and one.subjects > limit:
                raise LinkageTooLarge(member=name, announced=one.subjects, limit=limit)
            key, pair = one.encryption_key, (name, agreed.question.plan.base.holder)
            if key and self.name in pair and bytes_of_rows(agreed.terms(name), key.n) > MOST_PAYLOAD:
                raise PlanTooLarge(what=f"number of bytes of the encrypted rows of {name}", limit=MOST_PAYLOAD)

    def _debit_cells(self, session: Session, agreed: JointSet, now: int) -> None:
        """What the approval was debited with were this holder's cells alone. Raises what `check_cells` does."""
        cells = agreed.cells(self.name)
        with self._house.deciding:
            check_cells(self._request(session.question, session.snapshot, now), cells)
            self._ledger.debit_cells(bytes.fromhex(agreed.question.manifest.job_id), cells)

    def _messages_before(self, job_id: bytes, agreed: JointSet, step: Step) -> dict[Step, bytes]:
        """The payloads that a step needs and others have sent to this holder, opened."""
        needed = [agreed.question.steps[number] for number in step.needs]
        return {one: self._received(job_id, agreed, one) for one in needed if one.receiver == self.name}

    def _received(self, job_id: bytes, agreed: JointSet, step: Step) -> bytes:
        if self._service is None:
            raise NotReachable(target="the coordinator", problem="there is no connection yet")
        signed, sealed = self._service.received(job_id, step.number)
        check_message(agreed, step, signed, sealed)
        what = f"JointMessage of step {step.number}"
        return open_sealed(bytes.fromhex(self._identity.sealing_seed), sealed, sealing_info(agreed, step), what)

    def _compute(self, session: Session, agreed: JointSet, step: Step, before: Mapping[Step, bytes]) -> bytes:
        """What a step sends. The kinds are the steps of `token_steps` and `private_join`, in their order."""
        if step.kind not in OF_PAIR:
            return self._token_side(session, agreed).send(step, before)
        by_kind = {one.kind: payload for one, payload in before.items()}
        revealed = by_kind.pop(Kind.COMMON, None)
        if revealed is not None and session.common is None:
            session.common = self._token_side(session, agreed).common(revealed)
            session.tokens = session.token_key = None
        received = next(iter(by_kind.values()), b"")
        match step.kind:
            case Kind.GROUPS:
                return self._base_side(session, agreed, step.pair).groups()
            case Kind.ROWS:
                return self._joined_side(session, agreed).rows(received, _told(agreed, step))
            case Kind.MASKED:
                return session.base[step.pair].mask(received, _told(agreed, step))
            case Kind.TESTS:
                return self._joined_side(session, agreed).tests(received)
            case Kind.TESTED:
                return session.base[step.pair].test(received)
            case Kind.RELEASED:
                released, session.share = self._joined_side(session, agreed).decide(received)
                return released
            case Kind.JOINED_SHARE:
                return session.share
            case Kind.BASE_SHARE:
                return session.base[step.pair].share(received)
        raise SetMismatch(problem=f"step {step.number} is no holder's of a join")

    def _own(self, session: Session) -> OwnSide:
        return self._own_side(session.question, session.snapshot)

    def _own_side(self, question: JointQuestion, snapshot: Snapshot) -> OwnSide:
        order_key = cells_order_key(self._identity.noise_key)
        return OwnSide(self._house.engine, question, snapshot, self.name, order_key)

    def _token_side(self, session: Session, agreed: JointSet) -> TokenSide:
        if session.tokens is None:
            assert session.token_key is not None  # or `_begin_again` would have said so
            linked = self._own(session).linked()
            session.tokens = TokenSide(agreed, self.name, session.token_key, linked, self._random)
        return session.tokens

    def _base_side(self, session: Session, agreed: JointSet, pair: str) -> BaseSide:
        key = agreed.approvals[pair].encryption_key
        assert key is not None  # `check_joint_approval` has seen it
        terms, own = agreed.terms(pair), self._own(session)
        session.base[pair] = BaseSide(
            terms,
            own.groupings(session.common),
            self._prove(pair, key),
            self._random,
            noise=fresh_noise(terms, self._random),
            vetoed=own.vetoed(session.earlier, session.common),
        )
        return session.base[pair]

    def _joined_side(self, session: Session, agreed: JointSet) -> JoinedSide:
        if session.joined is None:
            key, joint = self._key(), agreed.question.agreement.joint
            assert joint is not None
            if agreed.approvals[self.name].encryption_key != key.announced:  # it was made before a restart
                raise LinkageLost(holder=self.name)
            terms, own = agreed.terms(self.name), self._own(session)
            session.joined = JoinedSide(
                terms,
                own.rows(session.common),
                key.private,
                self._random,
                joiner_is_semi_honest=joint.base_is_trusted,
                noise=fresh_noise(terms, self._random),
                encryptor=key.encryptor,
                vetoed=own.vetoed(session.earlier, session.common),
            )
        return session.joined

    def _prove(self, holder: str, key: EncryptionKey) -> ProvenKey:
        """A verified verdict is kept by the key's bytes and its proof (I6)."""
        wanted = digest("ceiba/v1/proven", holder.encode(), key.modulus.encode(), key.proof.encode())
        known, proven = self._proven.get(holder, ("", None))
        if proven is None or known != wanted:
            context = join_key_context(self._roster.member(holder, Role.HOLDER))
            proven = ProvenKey(key.n, bytes.fromhex(key.proof), context)
            self._proven[holder] = wanted, proven
        return proven

    # --- the end

    def forget(self, job_id: bytes) -> None:
        """The job has ended: its keys and figures are gone, as soon as a step that is being taken has ended."""
        with self._locks.held(job_id):
            self._sessions.pop(job_id, None)

    def drop_linkages(self) -> None:
        """What is kept of linkages that no job may use any more: their time is over, the data are not the newest, or
        this house has stopped answering, or a party the agreement."""
        now = self._clock()
        self._kept.drop(lambda kept: now > kept.until or self._is_void(kept.question, now))

    def _is_void(self, question: JointQuestion, now: int) -> bool:
        side, pin = question.plan.side_of(self.name), question.pin_of(self.name)
        try:
            snapshot = self._house.snapshots.get(side.table, pin.version)
            check_still(self._request(question, snapshot, now))
        except CeibaError:
            return True
        return not self._is_newest(snapshot)
