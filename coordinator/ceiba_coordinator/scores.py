"""Scoring models and requests at the coordinator: it stores models, passes requests on, and multiplies (PROTOCOL §5.5).

A model and what its holders say of it are on the disk. A request is in memory while it lasts: the consents in it, and
what holders have answered, are stored by the holders, who send the same again when the merchant asks again. Of both the
log has the digests.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from ceiba_coordinator.agreements import Agreements
from ceiba_coordinator.bells import Notify
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store
from ceiba_coordinator.store.scores import StoredModel
from ceiba_protocol.canonical import digest_of
from ceiba_protocol.errors import (
    AgreementNotActive,
    JobConflict,
    MalformedMessage,
    QuotaExceeded,
    ScoreModelNotReady,
    ScoreUnanswered,
    SecondPayload,
    UnknownJob,
    UnknownScoreModel,
)
from ceiba_protocol.linkage.consent import SEALED_BYTES, Consent
from ceiba_protocol.linkage.score_model import ScoreModel, check_agreed, check_model
from ceiba_protocol.linkage.scoring import (
    ModelApproval,
    ModelRefusal,
    ScoreAnswer,
    ScoreRequest,
    check_answer,
    commit_to_holders,
    coordinator_combine,
    request_context,
)
from ceiba_protocol.trust.agreement import Contract, State
from ceiba_protocol.trust.roster import OPERATOR, Role, Roster
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import (
    HolderAnswer,
    ModelStatus,
    ModelTask,
    RequestTask,
    ScoreCall,
    ScoreOutcome,
    ScoreTask,
)

log = structlog.get_logger()

OPEN_MODELS = 100
"""Of one merchant at a time: holders keep each ready in memory."""


@dataclass(frozen=True)
class ReadyModel:
    """A model that all its holders have approved, with what follows from the roster, the agreement and their words.
    Kept from one request to the next, for as long as none of these changes."""

    model: ScoreModel
    approvals: tuple[Signed, ...]
    mask_keys: dict[str, bytes]
    contract: Contract
    roster: Roster
    changes: int
    """Of agreements, when it was made."""


@dataclass
class OpenRequest:
    """A request that waits for its holders."""

    request: ScoreRequest
    model: ScoreModel
    context: bytes
    tasks: dict[str, ScoreTask]
    """By holder."""
    is_logged: bool
    """Whether its answers were in the log before: the merchant asks again."""
    answers: dict[str, tuple[Signed, ScoreAnswer, bytes]] = field(default_factory=dict)
    outcome: ScoreOutcome | None = None

    @property
    def missing(self) -> list[str]:
        return [holder for holder in self.model.holders if holder not in self.answers]


def models_bell(holder: str) -> str:
    """Rung when something for that holder has come."""
    return f"scores at {holder}"


def request_bell(request_id: str) -> str:
    """Rung when a request is complete."""
    return f"score {request_id}"


class Scores:
    """Not thread-safe: the server calls it from one thread."""

    def __init__(
        self, store: Store, membership: Membership, agreements: Agreements, log: Log, clock: Callable[[], int],
        notify: Notify = lambda names: None,
    ) -> None:  # fmt: skip
        """`clock` gives seconds since 1970 UTC."""
        self._store = store
        self._membership = membership
        self._agreements = agreements
        self._log = log
        self._clock = clock
        self._notify = notify
        self._open: dict[str, OpenRequest] = {}
        self._ready: dict[str, ReadyModel] = {}
        self._undecided: dict[str, list[tuple[str, Signed]]] = {}
        """By holder, until a model or a word comes."""

    # --- models

    def register(self, signed: Signed, weights: bytes, merchant: str) -> ModelStatus:
        """Store a model; what its holders have said so far. The same again changes nothing.

        Raises MalformedMessage, QuotaExceeded, ScoreModelNotReady if its time is over, and what `check_agreed`,
        `check_model` and `Agreements.require_active` do.
        """
        model = self._membership.roster().open(signed, ScoreModel, Role.MERCHANT)
        digest = model.digest()
        if not model.merchant == signed.signer == merchant:
            raise MalformedMessage(message="ModelPart", problem="the model is another merchant's")
        if self._store.score_model(digest) is None:
            self._check(model, weights)
            with self._store.transaction():
                self._store.add_score_model(digest, merchant, signed, weights, model.valid_until, model.holders)
                self._log.append(signed)
            self._undecided.clear()
            log.info("score_model.registered", model=digest, merchant=merchant, holders=model.holders)
        self._notify(map(models_bell, model.holders))
        return self.status(digest, merchant)

    def _check(self, model: ScoreModel, weights: bytes) -> None:
        now = self._clock()
        check_agreed(model, self._agreements.require_active(model.agreement_digest, model.merchant))
        check_model(model, weights, self._modulus(model))
        if model.valid_until < now:
            raise ScoreModelNotReady(model=model.digest(), problem="its time is over")
        used = self._store.count_score_models(model.merchant, now)
        if used >= OPEN_MODELS:
            raise QuotaExceeded(quota="scoring models", holder=f"the {OPERATOR}", used=used, limit=OPEN_MODELS)

    def status(self, digest: str, member: str) -> ModelStatus:
        """Raises UnknownScoreModel also for who is neither its merchant nor one of its holders."""
        stored = self._stored(digest)
        if member != stored.merchant and member not in stored.words:
            raise UnknownScoreModel(model=digest)
        words = [word for word in stored.words.values() if word is not None]
        return ModelStatus(
            model=stored.model,
            approvals=[word for word in words if word.type == type_of(ModelApproval)],
            refusals=[word for word in words if word.type == type_of(ModelRefusal)],
            pending=stored.pending,
        )

    def weights(self, digest: str, holder: str) -> bytes:
        """Raises UnknownScoreModel."""
        if holder not in self._stored(digest).words:
            raise UnknownScoreModel(model=digest)
        return self._store.score_weights(digest)

    def take_word(self, signed: Signed, holder: str) -> None:
        """Store a ModelApproval or ModelRefusal. A repetition changes nothing; an approval can become a refusal, and a
        refusal stays one. Raises UnknownScoreModel, MalformedMessage, SecondPayload, BadSignature."""
        roster, is_approval = self._membership.roster(), signed.type == type_of(ModelApproval)
        word: ModelApproval | ModelRefusal = (
            roster.open(signed, ModelApproval, Role.HOLDER)
            if is_approval
            else roster.open(signed, ModelRefusal, Role.HOLDER)
        )
        if not word.holder == signed.signer == holder:
            raise MalformedMessage(message="ModelWord", problem="it is another holder's")
        stored = self._stored(word.model_digest)
        if holder not in stored.words:
            raise UnknownScoreModel(model=word.model_digest)
        before = stored.words[holder]
        if before == signed:
            return
        if before is not None and (before.type == type_of(ModelRefusal) or is_approval):
            raise SecondPayload(job=word.model_digest)
        with self._store.transaction():
            self._store.put_score_word(word.model_digest, holder, signed)
            self._log.append(signed)
        self._ready.pop(word.model_digest, None)
        self._undecided.clear()
        log.info("score_model.word", model=word.model_digest, holder=holder, is_approval=is_approval)

    def wait_for_person(self, digest: str, holder: str) -> None:
        """Note that a person has to decide there. Raises UnknownScoreModel."""
        stored = self._stored(digest)
        if holder not in stored.words:
            raise UnknownScoreModel(model=digest)
        if stored.words[holder] is None:
            self._store.put_score_word(digest, holder, None)

    def _stored(self, digest: str) -> StoredModel:
        stored = self._store.score_model(digest)
        if stored is None:
            raise UnknownScoreModel(model=digest)
        return stored

    # --- requests

    def begin(self, call: ScoreCall, merchant: str) -> OpenRequest:
        """Log a request and tell its holders; the same one again joins it, or asks them again.

        Raises MalformedMessage, JobConflict, UnknownScoreModel, ScoreModelNotReady, SetMismatch, and what
        `Agreements.require_active` does.
        """
        request = self._membership.roster().open(call.request, ScoreRequest, Role.MERCHANT)
        if call.request.signer != merchant:
            raise MalformedMessage(message="ScoreCall", problem="the request is another merchant's")
        known = self._store.score_request(request.request_id)
        if known is not None and known[0] != request.digest():
            raise JobConflict(job=request.request_id)
        if request.request_id not in self._open:
            opened = self._opened(call, request, merchant, is_logged=known is not None and known[1])
            if known is None:
                with self._store.transaction():
                    self._store.add_score_request(request.request_id, request.digest())
                    self._log.append(call.request)
            self._open[request.request_id] = opened
            self._notify(map(models_bell, opened.model.holders))
        return self._open[request.request_id]

    def _opened(self, call: ScoreCall, request: ScoreRequest, merchant: str, *, is_logged: bool) -> OpenRequest:
        ready = self._ready_model(request.model_digest)
        model = ready.model
        if model.merchant != merchant:
            raise UnknownScoreModel(model=request.model_digest)
        if model.valid_until < self._clock():
            raise ScoreModelNotReady(model=request.model_digest, problem="its time is over")
        if (state := ready.contract.state(self._clock())) is not State.ACTIVE:
            raise AgreementNotActive(agreement=ready.contract.agreement.agreement_id, state=state)
        sealed = _checked_parts(call, request, model)
        tasks = {
            holder: ScoreTask(
                request=RequestTask(
                    request=call.request, approvals=ready.approvals, consents=call.consents, sealed=sealed[holder]
                )
            )
            for holder in model.holders
        }
        return OpenRequest(request, model, request_context(model, request, ready.mask_keys), tasks, is_logged)

    def _ready_model(self, digest: str) -> ReadyModel:
        """Raises UnknownScoreModel, ScoreModelNotReady, SetMismatch, and what `Agreements.contract` does."""
        roster, changes = self._membership.roster(), self._agreements.changes
        known = self._ready.get(digest)
        if known is None or known.roster is not roster or known.changes != changes:
            stored = self._stored(digest)
            _check_words(stored)
            model = ScoreModel.parse(stored.model.body)
            approvals = tuple(word for word in stored.words.values() if word is not None)
            mask_keys = commit_to_holders(model, approvals, roster)
            contract = self._agreements.contract(model.agreement_digest)
            self._ready = {key: one for key, one in self._ready.items() if one.model.valid_until >= self._clock()}
            known = self._ready[digest] = ReadyModel(model, approvals, mask_keys, contract, roster, changes)
        return known

    def tasks(self, holder: str) -> Iterator[tuple[str, ScoreTask]]:
        """What waits for the holder, each under a name of its own: requests first."""
        for request_id, opened in self._open.items():
            if holder in opened.missing:
                yield request_id, opened.tasks[holder]
        if holder not in self._undecided:
            self._undecided[holder] = self._store.undecided_score_models(holder, self._clock())
        for digest, model in self._undecided[holder]:
            yield digest, ScoreTask(model=ModelTask(model=model))

    def answer(self, signed: Signed, ciphertexts: bytes, holder: str) -> None:
        """Take a holder's answer; with the last one the request is complete. A repetition changes nothing.

        Raises UnknownJob, also once nobody waits for it, MalformedMessage, BadSignature, BadCiphertext, SecondPayload.
        """
        answer = self._membership.roster().open(signed, ScoreAnswer, Role.HOLDER)
        opened = self._open.get(answer.request_id)
        if opened is None or holder not in opened.model.holders or signed.signer != holder:
            raise UnknownJob(job=answer.request_id)
        if holder in opened.answers:
            if opened.answers[holder][0] != signed:
                raise SecondPayload(job=answer.request_id)
            return
        check_answer(
            answer, ciphertexts, holder, opened.model, opened.request, opened.context, self._modulus(opened.model)
        )
        opened.answers[holder] = (signed, answer, ciphertexts)
        if not opened.missing:
            self._complete(opened)

    def _complete(self, opened: OpenRequest) -> None:
        """All holders have answered: multiply, log, and wake the merchant's call."""
        request_id, answers = opened.request.request_id, opened.answers
        parts = {holder: (answer, ciphertexts) for holder, (_, answer, ciphertexts) in answers.items()}
        products = coordinator_combine(parts, len(opened.request.consents), self._modulus(opened.model))
        if not opened.is_logged:
            with self._store.transaction():
                for signed, _, _ in answers.values():
                    self._log.append(signed)
                self._store.mark_score_answered(request_id)
        opened.outcome = ScoreOutcome(
            answers=[HolderAnswer(answer=signed, ciphertexts=blob) for signed, _, blob in answers.values()],
            products=products,
            approvals=next(iter(opened.tasks.values())).request.approvals,
        )
        self._open.pop(request_id, None)
        self._notify([request_bell(request_id)])
        log.info("score.answered", request=request_id, scores=len(opened.request.consents))

    def give_up(self, opened: OpenRequest) -> ScoreUnanswered:
        """Nobody waits any more; the error that says for whom."""
        if self._open.get(opened.request.request_id) is opened:
            del self._open[opened.request.request_id]
        return ScoreUnanswered(holders=", ".join(opened.missing))

    def _modulus(self, model: ScoreModel) -> int:
        key = self._membership.roster().member(model.merchant, Role.MERCHANT).encryption_key
        assert key is not None
        return key.n


def _check_words(stored: StoredModel) -> None:
    """Raises ScoreModelNotReady unless all holders have approved the model."""
    problem = None
    if refused := [one for one, word in stored.words.items() if word and word.type == type_of(ModelRefusal)]:
        problem = f"{', '.join(refused)} refused it"
    elif undecided := [one for one, word in stored.words.items() if word is None]:
        problem = f"{', '.join(undecided)} did not approve it yet"
    if problem is not None:
        raise ScoreModelNotReady(model=stored.digest, problem=problem)


def _checked_parts(call: ScoreCall, request: ScoreRequest, model: ScoreModel) -> dict[str, list[bytes]]:
    """Holder → the subjects that are sealed to it. Raises MalformedMessage unless the call has the consents that its
    request names, and for each holder as many subjects."""
    if [digest_of(Consent, consent.body) for consent in call.consents] != list(request.consents):
        raise MalformedMessage(message="ScoreCall", problem="its consents are not those that the request names")
    sealed = {part.holder: list(part.sealed) for part in call.subjects}
    if tuple(sorted(sealed)) != model.holders or len(call.subjects) != len(sealed):
        raise MalformedMessage(message="ScoreCall", problem="its subjects are not sealed to the model's holders")
    sizes = {len(one) for part in sealed.values() for one in part}
    if sizes != {SEALED_BYTES} or {len(part) for part in sealed.values()} != {len(request.consents)}:
        raise MalformedMessage(message="ScoreCall", problem="it does not have one sealed subject for each consent")
    return sealed
