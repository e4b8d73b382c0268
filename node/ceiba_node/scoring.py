"""How the node scores: it decides on models once, and answers requests from memory (PROTOCOL §5.5).

Whatever is sent is in the ledger, on the disk, before it is returned to be sent: a model's approval with its mask
secret, and of each answer the consents that it uses up. A request that comes again gets the same bytes.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from ceiba_node.contracts import Contracts
from ceiba_node.ledger import KeptAnswer, KeptModel, Scored
from ceiba_node.policy import (
    DecisionPending,
    ModelRequest,
    check_model_still,
    check_scores_in_all,
    day_begins,
    decide_on_model,
)
from ceiba_node.responding import House
from ceiba_node.snapshots import Snapshot
from ceiba_node.subject_index import SubjectIndex, build_index
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadConfiguration,
    CeibaError,
    Fault,
    InternalError,
    LedgerDamaged,
    MalformedMessage,
    NotReachable,
    ScoreModelNotReady,
    SecondPayload,
)
from ceiba_protocol.linkage.consent import check_consent, check_score_quota, open_subject
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import (
    Bins,
    PrivateWeights,
    ScoreModel,
    bins_at,
    check_agreed,
    check_bits,
    check_model,
    check_population,
    terms_of,
)
from ceiba_protocol.linkage.scoring import (
    HolderModel,
    MaskKeys,
    ModelApproval,
    ModelRefusal,
    ScoreAnswer,
    ScoreRefusal,
    ScoreRequest,
    absent,
    commit_to_holders,
    holder_score,
    ready_model,
    reasons_for,
    request_context,
    score_context,
    seal_reasons,
)
from ceiba_protocol.sums.paillier import encode_ciphertexts
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.agreement import Contract, check_parties
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.roster import Descriptor, Role
from ceiba_protocol.trust.signing import document_digest, sign, type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import RequestTask

log = structlog.get_logger()

NEW_SECONDS = 600
"""How long after its approval a model is made ready before the first request: others may never approve it."""
IDLE_SECONDS = 1.0
"""How long nobody has asked before the time counts as idle. A stock below a quarter is filled at once."""


class ModelsService(Protocol):
    """Where models are. Every method raises NotReachable, and what the operator says."""

    def weights(self, model_digest: str) -> bytes:
        """The encrypted weights of a model."""

    def approvals(self, model_digest: str) -> list[Signed]:
        """What its holders have approved it with so far."""


@dataclass(frozen=True)
class Ready:
    """A model that this house scores with, with everything that does not depend on the subject."""

    holder: HolderModel
    mask_keys: dict[str, bytes]
    merchant: Descriptor


class ScoreStock:
    """Single-use factors for each merchant's modulus, made in idle time. Safe for several threads."""

    def __init__(self, random: Random, stock: int) -> None:
        self._random = random
        self._stock = stock
        self._by_modulus: dict[int, FullObfuscators] = {}
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._last_asked = 0.0
        threading.Thread(target=self._keep_filled, name="scores", daemon=True).start()

    def prepare(self, modulus: int) -> None:
        """Keep the stock for a modulus filled from now on."""
        self._by_modulus.setdefault(modulus, FullObfuscators(modulus, self._random))
        self._wanted.set()

    def get(self, modulus: int) -> FullObfuscators:
        """Those for a modulus, somebody having asked."""
        self._last_asked = time.monotonic()
        self.prepare(modulus)
        return self._by_modulus[modulus]

    def keep(self, moduli: Set[int]) -> None:
        """Those of other moduli are of no more use."""
        for modulus in self._by_modulus.keys() - moduli:
            del self._by_modulus[modulus]

    def stop(self) -> None:
        self._stop.set()
        self._wanted.set()

    def _keep_filled(self) -> None:
        while not self._stop.is_set():
            self._wanted.wait()
            self._wanted.clear()
            for obfuscators in list(self._by_modulus.values()):
                obfuscators.fill(self._stock, partial(self._may_go_on, obfuscators))

    def _may_go_on(self, obfuscators: FullObfuscators) -> bool:
        busy = time.monotonic() - self._last_asked < IDLE_SECONDS
        if busy and len(obfuscators.pool) >= self._stock // 4:
            self._stop.wait(IDLE_SECONDS)
        return not self._stop.is_set()


class Scoring:
    """Scores for one holder. Safe for several threads; requests are answered one at a time."""

    def __init__(self, house: House, stock: int) -> None:
        """`stock`: how many single-use factors to hold for each merchant with a model."""
        self._house = house
        self._identity = house.identity
        self._ledger = house.ledger
        self._contracts = Contracts(house.ledger, house.roster)
        self._stock = ScoreStock(house.random, stock)
        self._service: ModelsService | None = None
        self._deciding, self._answering = threading.Lock(), threading.Lock()
        self._ready: dict[tuple[str, bytes], Ready] = {}
        """By model and its approvals' bytes."""
        self._models: dict[str, ScoreModel] = {}
        self._indexes: dict[str, SubjectIndex] = {}
        self._snapshots: dict[str, Snapshot] = {}
        """By table: the one that was current when last looked at."""
        self._read_contracts: dict[str, tuple[bytes, Contract]] = {}
        """By digest: what the ledger had of it, and what that says."""

    @property
    def name(self) -> str:
        return self._identity.name

    def connect(self, service: ModelsService) -> None:
        """From now on weights and approvals are fetched there."""
        self._service = service

    def begin(self) -> None:
        """Before a connection's first task: a ledger that is an old copy is found out, and answers nothing. Raises that
        fault, and NotReachable."""
        self._house.witness.catch_up()

    def close(self) -> None:
        self._stock.stop()

    # --- models

    def consider(self, signed: Signed) -> Signed | None:
        """Decide on a model: the ModelApproval or ModelRefusal, stored; None if a person has to decide first.

        Raises what is wrong with a model that no merchant of the roster has signed, and what may be better the next
        time: NotReachable, DatasetMissing and other faults of this process.
        """
        model = self._house.roster.open(signed, ScoreModel, Role.MERCHANT)
        if model.merchant != signed.signer:
            raise MalformedMessage(message="ModelTask", problem="the model is another merchant's")
        with self._deciding:
            self._house.witness.check()
            kept = self._ledger.score_model(model.digest())
            if kept is not None and kept.word is not None:
                return kept.word
            return self._decide(signed, model, kept)

    def digest_of(self, signed: Signed) -> str:
        """Of a model that its merchant has signed."""
        return self._house.roster.open(signed, ScoreModel, Role.MERCHANT).digest()

    def _decide(self, signed: Signed, model: ScoreModel, before: KeptModel | None) -> Signed | None:
        now, digest, weights = self._house.clock(), model.digest(), b""
        kept = before or KeptModel(digest, model.merchant, signed, now, model.valid_until)
        secret: bytes | None = self._house.random(32)
        assert secret is not None
        word: ModelApproval | ModelRefusal
        try:
            weights = self._ledger.score_weights(digest) if before else self._connected().weights(digest)
            self._check(model, kept, weights, now)
            word = ModelApproval(
                model_digest=digest,
                holder=self.name,
                mask_key=x25519_public_key(secret).hex(),
            )
        except DecisionPending:
            self._ledger.add_score_model(kept, weights)
            log.info("score_model.waiting", model=digest, merchant=model.merchant)
            return None
        except CeibaError as error:
            if error.fault is Fault.US:
                raise
            log.warning("score_model.refused", model=digest, code=error.code, fields=error.fields)
            secret = None
            word = ModelRefusal(model_digest=digest, holder=self.name, code=error.code, fields=error.fields)
        self._house.witness.check()
        signed_word = sign(word, self.name, self._identity.signing_key)
        self._ledger.record_score_word(kept, weights, signed_word, secret, now)
        return signed_word

    def _check(self, model: ScoreModel, kept: KeptModel, weights: bytes, now: int) -> None:
        """Everything that a model must keep to here. Raises what does not hold, or DecisionPending."""
        # 1. The agreement, its parties, and what it allows.
        contract = self._contract(model.agreement_digest)
        check_parties(contract.agreement, self._house.roster)
        check_agreed(model, contract.agreement)
        if model.valid_until < now:
            raise ScoreModelNotReady(model=kept.digest, problem="its time is over")
        # 2. Its bins are those of this house's table, its weights those that it names.
        snapshot = self._snapshot(model)
        bins = bins_at(model, self.name, snapshot.schema)
        check_model(model, weights, self._modulus(model))
        check_bits(model)
        # 3. This house's policy; then a person, if it takes one.
        request = self._request(model, contract, snapshot, kept, now)
        is_pending = False
        try:
            decide_on_model(request)
        except DecisionPending:
            is_pending = True
        # 4. No bin isolates anybody. A person is not asked about a model that cannot be used.
        self._check_population(bins, self._index(model, snapshot), request)
        if is_pending:
            raise DecisionPending

    def _check_population(self, bins: Sequence[Bins], index: SubjectIndex, request: ModelRequest) -> None:
        is_private = isinstance(request.model.weights, PrivateWeights)
        for one, subjects in zip(bins, index.population, strict=True):
            check_population(one, subjects, request.rules, request.least, self.name, is_private=is_private)

    def decided(self) -> Iterator[Signed]:
        """The words on models on which a person has decided since."""
        for kept in self._ledger.score_models(self._house.clock()) if self._house.witness.fault is None else ():
            if kept.word is None and kept.decision is not None:
                word = self.consider(kept.model)
                if word is not None:
                    yield word

    def keep_ready(self) -> None:
        """Run now and then, so that nobody waits for it: indexes of the newest versions, models made ready, factors for
        each merchant. What is of no more use is forgotten."""
        now = self._house.clock()
        self._ledger.forget_scores(now)
        approved = {kept.digest: kept for kept in self._ledger.score_models(now) if kept.mask_secret is not None}
        for known in (self._indexes, self._models):
            for digest in known.keys() - approved.keys():
                del known[digest]
        self._ready = {key: ready for key, ready in self._ready.items() if key[0] in approved}
        moduli = set[int]()
        for kept in approved.values():
            model = self._parsed(kept)
            self._index(model, self._snapshot(model))
            moduli.add(modulus := self._modulus(model))
            self._stock.prepare(modulus)
            is_new = kept.since > now - NEW_SECONDS
            if is_new and not any(digest == kept.digest for digest, _ in self._ready):
                approvals = self._connected().approvals(kept.digest)
                if len(approvals) == len(model.holders):
                    self._model(kept, approvals)
        self._stock.keep(moduli)

    def _parsed(self, kept: KeptModel) -> ScoreModel:
        if kept.digest not in self._models:
            self._models[kept.digest] = ScoreModel.parse(kept.model.body)
        return self._models[kept.digest]

    def _index(self, model: ScoreModel, snapshot: Snapshot) -> SubjectIndex:
        """Of that version; made now if it is not there."""
        index = self._indexes.get(model.digest())
        if index is None or index.version != snapshot.version:
            groups = [model.features[place].key for place in model.places_of(self.name)]
            bins = bins_at(model, self.name, snapshot.schema)
            on = model.side_of(self.name).on
            index = self._indexes[model.digest()] = build_index(self._house.engine, snapshot, groups, bins, on)
            log.info("score_model.indexed", model=model.digest(), subjects=len(index.hashes))
        return index

    def _snapshot(self, model: ScoreModel) -> Snapshot:
        """The current version of this house's table, as its publisher offers it."""
        table = model.side_of(self.name).table
        known = self._snapshots.get(table)
        if known is None or known.version != self._house.snapshots.current_version(table):
            known = self._house.snapshots.current(table)
            known.check_offer(self._house.roster)
            self._snapshots[table] = known
        return known

    def _request(
        self, model: ScoreModel, contract: Contract, snapshot: Snapshot, kept: KeptModel, now: int
    ) -> ModelRequest:
        stops = self._ledger.stops()
        policy = self._house.policy()
        return ModelRequest(model, contract, snapshot.schema, policy, stops, kept.decision, self.name, now)

    def _contract(self, digest: Digest) -> Contract:
        """As this house knows it now. Raises what `Contracts.get` does."""
        evidence = self._ledger.evidence(digest).SerializeToString(deterministic=True)
        known = self._read_contracts.get(digest)
        if known is None or known[0] != evidence:
            known = self._read_contracts[digest] = (evidence, self._contracts.get(digest))
        return known[1]

    def _connected(self) -> ModelsService:
        if self._service is None:
            raise NotReachable(target="the coordinator", problem="there is no connection yet")
        return self._service

    def _merchant(self, model: ScoreModel) -> Descriptor:
        return self._house.roster.member(model.merchant, Role.MERCHANT)

    def _modulus(self, model: ScoreModel) -> int:
        key = self._merchant(model).encryption_key
        assert key is not None
        return key.n

    # --- requests

    def answer(self, task: RequestTask) -> tuple[Signed, bytes]:
        """The ScoreAnswer to a request and its ciphertexts, stored.

        Raises what is wrong with a request that its merchant has not signed, or whose model was not approved here; and
        SecondPayload if its id stands for another one.
        """
        request = self._house.roster.open(task.request, ScoreRequest, Role.MERCHANT)
        with self._answering:
            self._house.witness.check()
            stored = self._ledger.score_answer(request.request_id)
            if stored is not None and stored.request_digest != request.digest():
                raise SecondPayload(job=request.request_id)
            if stored is None:
                stored = self._answer(task, request)
            return stored.answer, stored.ciphertexts

    def _answer(self, task: RequestTask, request: ScoreRequest) -> KeptAnswer:
        kept = self._ledger.score_model(request.model_digest)
        if kept is None or kept.mask_secret is None or kept.merchant != task.request.signer:
            raise ScoreModelNotReady(model=request.model_digest, problem=f"{self.name} has not approved it")
        if [document_digest(consent) for consent in task.consents] != list(request.consents):
            raise MalformedMessage(message="RequestTask", problem="its consents are not those that the request names")
        if len(task.sealed) != len(task.consents):
            raise MalformedMessage(message="RequestTask", problem="it does not have a subject for each consent")
        ready = self._model(kept, task.approvals)
        one = _OneRequest(self, ready, request, kept)
        one.answer_all(task)
        ciphertexts = encode_ciphertexts(one.parts, int(ready.holder.n))
        answer = ScoreAnswer(
            request_id=request.request_id,
            model_digest=request.model_digest,
            holder=self.name,
            context_digest=Digest(one.context.hex()),
            refusals=tuple(one.refusals),
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            reasons=tuple(one.reasons),
        )
        self._house.witness.check()
        stored = KeptAnswer(request.digest(), sign(answer, self.name, self._identity.signing_key), ciphertexts)
        organisation = ready.merchant.legal_person
        self._ledger.record_scores(request.request_id, stored, one.scored, organisation, self._house.clock())
        log.info("score.answered", request=request.request_id, answered=len(one.parts), refused=len(one.refusals))
        return stored

    def _model(self, kept: KeptModel, approvals: Sequence[Signed]) -> Ready:
        """The model with these approvals, ready to score."""
        own = sorted(approvals, key=lambda signed: signed.signer)
        key = (kept.digest, b"".join(signed.SerializeToString(deterministic=True) for signed in own))
        if key not in self._ready:
            model = self._parsed(kept)
            mask_keys = commit_to_holders(model, approvals, self._house.roster)
            assert kept.mask_secret is not None
            if mask_keys[self.name] != x25519_public_key(kept.mask_secret):
                raise ScoreModelNotReady(model=kept.digest, problem=f"its approval by {self.name} is another one")
            merchant = self._merchant(model)
            assert merchant.encryption_key is not None
            holder = ready_model(
                model,
                self._ledger.score_weights(kept.digest),
                self.name,
                bins_at(model, self.name, self._snapshot(model).schema),
                MaskKeys(kept.mask_secret, {one: mask for one, mask in mask_keys.items() if one != self.name}),
                (merchant.encryption_key, merchant.key_context()),
            )
            self._ready[key] = Ready(holder, mask_keys, merchant)
        return self._ready[key]


class _OneRequest:
    """A request that is being answered, consent by consent."""

    def __init__(self, scoring: Scoring, ready: Ready, request: ScoreRequest, kept: KeptModel) -> None:
        self._scoring = scoring
        self._house = scoring._house
        self._ready = ready
        self._request = request
        self._kept = kept
        self.context = request_context(ready.holder.model, request, ready.mask_keys)
        self.parts: list[int] = []
        self.reasons: list[str] = []
        self.refusals: list[ScoreRefusal] = []
        self.scored: list[Scored] = []

    def answer_all(self, task: RequestTask) -> None:
        """Each consent is answered or refused by itself; what forbids all of them refuses each."""
        obstacle: CeibaError | None = None
        try:
            contract, index = self._require_now()
        except Exception as error:
            obstacle = self._public(error)
        for place, (consent, sealed) in enumerate(zip(task.consents, task.sealed, strict=True)):
            try:
                if obstacle is not None:
                    raise obstacle
                self._score(place, consent, sealed, contract, index)
            except Exception as error:
                public = self._public(error)
                self.refusals.append(ScoreRefusal(place=place, code=public.code, fields=public.fields))

    def _require_now(self) -> tuple[Contract, SubjectIndex]:
        """The agreement and the newest data, if scores may be given now."""
        model, now, scoring = self._ready.holder.model, self._house.clock(), self._scoring
        if model.valid_until < now:
            raise ScoreModelNotReady(model=self._kept.digest, problem="its time is over")
        contract = scoring._contract(model.agreement_digest)
        check_parties(contract.agreement, self._house.roster)
        snapshot = scoring._snapshot(model)
        request = scoring._request(model, contract, snapshot, self._kept, now)
        check_model_still(request)
        index = scoring._index(model, snapshot)
        scoring._check_population(self._ready.holder.bins, index, request)
        return contract, index

    def _score(self, place: int, consent: Signed, sealed: bytes, contract: Contract, index: SubjectIndex) -> None:
        ready, me, now = self._ready.holder, self._scoring.name, self._house.clock()
        joint = contract.agreement.joint
        assert joint is not None  # `check_agreed` has seen it
        # 1. The subject, and its consent to this score.
        digest = self._request.consents[place]
        subject = open_subject(sealed, digest, me, bytes.fromhex(self._house.identity.sealing_seed))
        issuers = {issuer.name: bytes.fromhex(issuer.key) for issuer in joint.consent_issuers}
        opened = check_consent(consent, terms_of(ready.model), issuers, subject, now, self._is_used)
        # 2. How often it was scored today, whether it is known here or not, and all subjects together.
        table, number = ready.model.side_of(me).table, index.number(subject.identifier)
        tagged = _tagged(subject.identifier) if number is None else _numbered(table, number)
        person = hmac.digest(self._house.identity.version_key, tagged, "sha256")
        organisation, since = self._ready.merchant.legal_person, day_begins(now)
        used = self._house.ledger.count_scores(person, organisation, since)
        used += sum(one.subject == person for one in self.scored)
        check_score_quota(used, joint.scores_per_day, me)
        in_all = self._house.ledger.count_all_scores(organisation, since) + len(self.scored)
        check_scores_in_all(in_all, self._house.policy(), ready.model.merchant, me)
        # 3. Its bins, and the ciphertext that follows from them.
        bins = index.find(subject.identifier) or absent(ready)
        context = score_context(self.context, digest)
        obfuscators = self._scoring._stock.get(int(ready.n))
        part = holder_score(ready, bins, context, obfuscators, self._house.random)
        if plain := reasons_for(ready, bins):
            sealing_key = bytes.fromhex(self._ready.merchant.sealing_key)
            self.reasons.append(seal_reasons(plain, context, me, sealing_key).hex())
        self.parts.append(part)
        self.scored.append(Scored(opened.jti, person))

    def _is_used(self, jti: str) -> bool:
        return self._house.ledger.has_scored(jti) or any(one.jti == jti for one in self.scored)

    def _public(self, error: Exception) -> CeibaError:
        """What others may know: of the node's own files, and of what nobody foresaw, an incident's number alone."""
        if isinstance(error, CeibaError) and not isinstance(error, LedgerDamaged | BadConfiguration):
            log.info("score.refused", request=self._request.request_id, code=error.code)
            return error
        incident = secrets.token_hex(4)
        log.error("score.failed", incident=incident, exception=type(error).__name__)
        return InternalError(component=self._scoring.name, incident=incident)


def _tagged(identifier: str) -> bytes:
    return b"ceiba/v1/scored-subject" + identifier.encode()


def _numbered(table: str, number: int) -> bytes:
    """Of a subject that has several identifiers: by whichever it is found, it is the same."""
    return b"ceiba/v1/scored-number" + number.to_bytes(8, "big") + table.encode()


def is_approval(word: Signed) -> bool:
    """Whether a word on a model is an approval."""
    return bool(word.type == type_of(ModelApproval))
