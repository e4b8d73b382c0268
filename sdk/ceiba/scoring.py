"""Scoring single subjects with a model that holders have approved, once each consents (PROTOCOL §5.5).

model = space.register_model([Feature("tax.firms", "industry", points), ...], on="uscc")
model.wait()                                     # until every holder has approved it
Path("request.json").write_bytes(model.consent_request().body())
model.score(read_consent(Path("consent.json").read_bytes()), "91110000802100433B").points
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc

from ceiba.agreements import AgreementHandle, one_holder
from ceiba.choosing import lacking_identifier, uncovered
from ceiba.consents import ConsentRequest, GivenConsent
from ceiba.polling import backing_off
from ceiba.terms import Grouping, Term, built, grouping
from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    NotAgreed,
    NotReachable,
    ScoreModelNotReady,
    ScoreUnanswered,
    SetMismatch,
    TotalRejected,
    error_from,
)
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.consent import seal_subject
from ceiba_protocol.linkage.score_model import (
    MOST_BITS,
    SCORE_BITS,
    PrivateWeights,
    ProductWeights,
    ScoreFeature,
    ScoreModel,
    ScoreSide,
    bits_for,
    check_agreed,
    check_bits,
    check_model,
    encrypt_weights,
    feature_of,
    histogram_plan,
    terms_of,
    weights_digest,
)
from ceiba_protocol.linkage.score_receipt import score_receipt
from ceiba_protocol.linkage.scoring import (
    MOST_SCORES,
    Answers,
    ModelRefusal,
    Score,
    ScoreAnswer,
    ScoreRequest,
    check_answer,
    commit_to_holders,
    coordinator_combine,
    merchant_read,
    request_context,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.paillier import Encryptor, key_id
from ceiba_protocol.trust.agreement import DAY, SCORE, Agreement
from ceiba_protocol.trust.receipt import SharedText, SignedText
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.trust.signing import document_digest, sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import (
    ModelPart,
    ModelReference,
    ModelStatus,
    ScoreCall,
    ScoreOutcome,
    SealedSubjects,
)
from ceiba_protocol.v1.scoring_pb2_grpc import ScoringStub
from ceiba_protocol.wire import chunks, from_rpc_error

if TYPE_CHECKING:
    from ceiba.space import Space

CALL_SECONDS = 60.0
MODEL_DAYS = 30

__all__ = ["Feature", "ModelState", "RegisteredModel", "Score", "reattach", "register"]


@dataclass(frozen=True)
class Feature:
    """One feature of a scorecard: its bins, as groups of a question, and whole points for each, in their order. The
    last are for what is missing, unless one of the groups takes that."""

    table: str
    key: str | Term | Grouping
    points: Sequence[int]


@dataclass(frozen=True)
class Card:
    """A scorecard's features by holder, checked against their tables' schemas."""

    features: tuple[ScoreFeature, ...]
    points: tuple[tuple[int, ...], ...]
    sides: tuple[ScoreSide, ...]
    kind: IdentifierKind
    """Of the identifier by which subjects are found."""

    def columns(self, side: ScoreSide) -> frozenset[str]:
        """Those that a holder's features read."""
        own = [one for one in self.features if one.holder == side.holder]
        return frozenset().union(*(histogram_plan(one.table, one.key, side.schema_digest).columns for one in own))


@dataclass(frozen=True)
class ScoreWish:
    """A model that is to be registered, as `choosing.AnyWish` says."""

    card: Card
    now: int
    until: int
    purpose: str | None = None

    @property
    def tables(self) -> str:
        return ", ".join(side.table for side in self.card.sides)

    def is_about(self, agreement: Agreement) -> bool:
        wanted = {(side.holder, side.table) for side in self.card.sides}
        return agreement.joint is not None and wanted <= {(side.holder, side.table) for side in agreement.sides}

    def lacks(self, agreement: Agreement) -> list[str]:
        found = uncovered("operation", [SCORE], agreement.operations)
        if agreement.joint is not None and not agreement.joint.consent_issuers:
            found.append("names nobody who attests consent")
        for side in self.card.sides:
            found += lacking_identifier(agreement, side.holder, side.on)
            agreed = agreement.side_of(side.holder).columns
            found += [f"{one} of {side.table}" for one in uncovered("column", self.card.columns(side), agreed)]
        return found

    def check(self, agreement: Agreement) -> None:
        if not self.is_about(agreement) or self.lacks(agreement):
            raise NotAgreed(agreement=agreement.agreement_id, what="; ".join(["this model", *self._told(agreement)]))

    def _told(self, agreement: Agreement) -> list[str]:
        return [f"it {one}" for one in self.lacks(agreement)] if self.is_about(agreement) else []


class KeptModel(Document):
    """A model as the folder keeps it, so that another process can use it."""

    model: SignedText
    base: int
    """Points that every subject has; no holder knows of them."""
    kind: IdentifierKind
    agreement: SharedText
    """As all its parties have signed it: what receipts of scores begin with."""


# --- registering -----------------------------------------------------------------------------------------------


def register(
    space: Space, features: Sequence[Feature], *, on: str | Mapping[str, str], base: int = 0,
    agreement: AgreementHandle | str | None = None, purpose: str | None = None,
    holder: Mapping[str, str] | None = None, days: int = MODEL_DAYS, **weighing: Any,
) -> RegisteredModel:  # fmt: skip
    """What `Space.register_model` says; `weighing`: the options of `_weighed`."""
    card = _carded(space, features, on, holder or {})
    now = int(time.time())
    contract = space.agreements.choose(ScoreWish(card, now, now, purpose), agreement)
    agreed, parties = contract.agreement, SharedText.of(list(contract.signatures.values()))
    key = space.identity.descriptor.encryption_key
    assert key is not None
    weights, bits, blob = _weighed(card.points, key.n, **weighing)
    model = built(
        ScoreModel,
        model_id=secrets.token_hex(16),
        merchant=space.identity.name,
        purpose=agreed.purpose,
        agreement_digest=agreed.digest(),
        features=card.features,
        sides=card.sides,
        weights=weights,
        bits=bits,
        key_id=key_id(key.n).hex(),
        valid_until=min(now + days * DAY, agreed.not_after),
    )
    check_agreed(model, agreed)
    check_model(model, blob, key.n)
    check_bits(model)
    signed = sign(model, space.identity.name, space.identity.signing_key)
    kept = KeptModel(model=SignedText.of(signed), base=base, kind=card.kind, agreement=parties)
    space.home.keep_model(model.digest(), kept.body())
    registered = RegisteredModel(space, signed, base, card.kind, parties)
    registered.send(blob)
    return registered


def _carded(space: Space, features: Sequence[Feature], on: str | Mapping[str, str], chosen: Mapping[str, str]) -> Card:
    """The features by holder. Raises BadQuestion, NotAnIdentifier, SeveralHolders, and what `feature_of` does."""
    schemas = {one.table: space.table(one.table).schema for one in features}
    holders = {table: one_holder(space.roster, table, chosen) for table in schemas}
    made = [(feature_of(holders[one.table], grouping(one.key).key, schemas[one.table]), one) for one in features]
    for feature, one in made:
        if len(one.points) != feature.bins:
            problem = f"the feature {feature.key.name} has {feature.bins} bins, and {len(one.points)} points"
            hint = "Give points for each group in order; the last are for what is missing."
            raise BadQuestion(problem=problem, hint=hint)
    made.sort(key=lambda pair: pair[0].holder)
    sides = sorted(
        (_side(table, schemas[table], holders[table], on) for table in schemas), key=lambda side: side.holder
    )
    kinds = {side.table: schemas[side.table].identifier(side.on).kind for side in sides}
    if len(set(kinds.values())) != 1:
        listed = ", ".join(f"{kind} in {table}" for table, kind in kinds.items()) or "none"
        problem = f"subjects are found by identifiers of different kinds: {listed}"
        raise BadQuestion(problem=problem, hint="Name identifiers of one kind in `on`.")
    return Card(
        tuple(feature for feature, _ in made),
        tuple(tuple(one.points) for _, one in made),
        tuple(sides),
        next(iter(kinds.values())),
    )


def _side(table: str, schema: Schema, holder: str, on: str | Mapping[str, str]) -> ScoreSide:
    column = on if isinstance(on, str) else on.get(table)
    if column is None:
        hint = 'Write on="uscc", or {"tax.firms": "uscc", ...}.'
        raise BadQuestion(problem=f"it is not said by which identifier subjects of {table} are found", hint=hint)
    schema.identifier(column)
    return built(ScoreSide, holder=holder, table=table, schema_digest=schema.digest(), on=column)


def _weighed(
    points: Sequence[Sequence[int]], n: int, *, product: bool = False, reasons: int = 0, bits: int | None = None
) -> tuple[PrivateWeights | ProductWeights, int, bytes]:
    """The model's weights, L, and the ciphertexts. Raises BadScoreModel, BadQuestion."""
    if product:
        return built(ProductWeights, points=tuple(map(tuple, points)), reasons=reasons), bits or SCORE_BITS, b""
    if reasons:
        problem = "reasons for scores whose weights no holder sees"
        raise BadQuestion(problem=problem, hint="Only a product has reasons: register it with product=True.")
    bits = bits or min(bits_for(points), MOST_BITS)  # no more than it takes, or holders refuse it
    blob = encrypt_weights(points, bits, Encryptor.for_count(n, sum(map(len, points)), os.urandom))
    return PrivateWeights(blob_digest=weights_digest(blob)), bits, blob


def reattach(space: Space, beginning: str) -> RegisteredModel:
    """What `Space.score_model` says."""
    kept = KeptModel.parse(space.home.kept_model(beginning))
    return RegisteredModel(space, kept.model.signed(), kept.base, kept.kind, kept.agreement)


# --- a registered model ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelState:
    """What the holders have said to a model."""

    approved: tuple[str, ...]
    refused: Mapping[str, CeibaError]
    """With each one's reason."""
    pending: tuple[str, ...]
    """Where a person has to decide."""
    silent: tuple[str, ...]
    """Of whom nothing is known yet."""

    @property
    def is_ready(self) -> bool:
        return not (self.refused or self.pending or self.silent)


class RegisteredModel:
    """A scoring model of this merchant. `wait` until it is approved, then `score`."""

    def __init__(self, space: Space, signed: Signed, base: int, kind: IdentifierKind, agreement: SharedText) -> None:
        self._space = space
        self._signed = signed
        self._kind = kind
        self._agreement = agreement
        self._stub = ScoringStub(space.channel)
        self.base = base
        self.model = ScoreModel.parse(signed.body)
        self.digest = self.model.digest()

    def __repr__(self) -> str:
        return f"RegisteredModel({self.digest[:12]}, {len(self.model.features)} features)"

    def send(self, weights: bytes = b"") -> None:
        """Register it; the same again changes nothing. Raises NotAgreed, AgreementNotActive, QuotaExceeded."""

        def parts() -> Iterator[ModelPart]:
            yield ModelPart(model=self._signed)
            yield from (ModelPart(weights=part) for part in chunks(weights))

        try:
            self._stub.Register(parts(), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None

    def status(self) -> ModelState:
        """Whatever the coordinator says is believed only if its holder has signed it. Raises UnknownScoreModel."""
        return self._space.with_newest_roster(lambda: self._state(self._status()))

    def wait(self, deadline: float = 600) -> RegisteredModel:
        """Until every holder has approved it; `deadline` in seconds. Raises ScoreModelNotReady, also once one has
        refused it."""
        state = None
        for _ in backing_off(deadline):
            state = self.status()
            if state.is_ready:
                return self
            if state.refused:
                break
        assert state is not None
        refused = [f"{holder} refused it ({error.public})" for holder, error in state.refused.items()]
        waiting = [f"{holder} did not approve it yet" for holder in (*state.pending, *state.silent)]
        raise ScoreModelNotReady(model=self.digest, problem="; ".join(refused or waiting))

    def consent_request(self) -> ConsentRequest:
        """What a subject agrees to; `.body()` is the file that its issuer reads."""
        terms = terms_of(self.model)
        return ConsentRequest(
            merchant=terms.merchant,
            holders=terms.holders,
            purpose=terms.purpose,
            model_digest=terms.model_digest,
            kind=self._kind,
        )

    def score(self, consent: GivenConsent, subject: str, *, deadline: float = 60) -> Score:
        """One subject's score: `.points`, and of a product `.reasons`, by holder. `.receipt.body()` is a file for
        `ceiba verify`: that each holder has signed for what it sent, with which consent.

        `subject`: its identifier; `deadline`: seconds. Raises what a holder refuses the consent with, such as
        ConsentExpired; ScoreModelNotReady, ScoreUnanswered, BadIdentifier.
        """
        (score,) = self.score_all([(consent, subject)], deadline=deadline)
        if isinstance(score, CeibaError):
            raise score
        return score

    def score_all(
        self, wanted: Iterable[tuple[GivenConsent, str]], *, deadline: float = 60
    ) -> list[Score | CeibaError]:
        """Many scores, each with its own consent: for each the score, or the error with which a holder refused it.

        They travel 256 at a time. Raises what `score` does, but for refusals.
        """
        every = list(wanted)
        parts = [every[start : start + MOST_SCORES] for start in range(0, len(every), MOST_SCORES)]
        return [score for part in parts for score in self._score_part(part, deadline)]

    # --- one request

    def _score_part(self, wanted: Sequence[tuple[GivenConsent, str]], deadline: float) -> list[Score | CeibaError]:
        call = self._call(wanted)
        outcome = self._outcome(call, deadline)
        scores = self._space.with_newest_roster(lambda: self._read(call, outcome))
        answers = [one.answer for one in outcome.answers]
        papers = (self._signed, outcome.approvals, call.request, call.consents, answers)
        receipt = score_receipt(self._space.roster, self._agreement, *papers)
        return [
            replace(score, points=score.points + self.base, receipt=receipt) if isinstance(score, Score) else score
            for score in scores
        ]

    def _call(self, wanted: Sequence[tuple[GivenConsent, str]]) -> ScoreCall:
        consents = [given.signed for given, _ in wanted]
        request = built(
            ScoreRequest,
            request_id=secrets.token_hex(16),
            model_digest=self.digest,
            consents=tuple(document_digest(consent) for consent in consents),
        )
        asked = self.consent_request()
        subjects = [asked.subject(identifier, bytes.fromhex(given.salt)) for given, identifier in wanted]
        sealed = []
        for holder in self.model.holders:
            key = bytes.fromhex(self._space.roster.member(holder, Role.HOLDER).sealing_key)
            pairs = zip(subjects, request.consents, strict=True)
            own = [seal_subject(subject, digest, holder, key) for subject, digest in pairs]
            sealed.append(SealedSubjects(holder=holder, sealed=own))
        signed = sign(request, self._space.identity.name, self._space.identity.signing_key)
        return ScoreCall(request=signed, consents=consents, subjects=sealed)

    def _outcome(self, call: ScoreCall, deadline: float) -> ScoreOutcome:
        """The same request again while somebody is away: what a holder has answered, it sends again."""
        last: CeibaError | None = None
        for _ in backing_off(deadline):
            try:
                outcome: ScoreOutcome = self._stub.Score(call, timeout=CALL_SECONDS)
                return outcome
            except grpc.RpcError as error:
                last = from_rpc_error(error, self._space.address)
                if not isinstance(last, NotReachable | ScoreUnanswered):
                    raise last from None
        assert last is not None
        raise last

    def _read(self, call: ScoreCall, outcome: ScoreOutcome) -> list[Score | CeibaError]:
        """The scores, after every check.

        1. The approvals are those of the model's holders; the context follows from them. 2. Each answer is its holder's
        own, on this request in this context. 3. The products are those of what the holders signed. 4. Decrypt.
        """
        roster, model, identity = self._space.roster, self.model, self._space.identity
        assert identity.encryption is not None
        private_key = identity.encryption.keypair[1]
        n, request = int(private_key.public_key.n), ScoreRequest.parse(call.request.body)
        # 1.
        context = request_context(model, request, commit_to_holders(model, outcome.approvals, roster))
        # 2.
        answers: dict[str, tuple[ScoreAnswer, bytes]] = {}
        for one in outcome.answers:
            answer = roster.open(one.answer, ScoreAnswer, Role.HOLDER)
            check_answer(answer, one.ciphertexts, one.answer.signer, model, request, context, n)
            answers[one.answer.signer] = (answer, one.ciphertexts)
        if tuple(sorted(answers)) != model.holders or len(outcome.answers) != len(answers):
            raise SetMismatch(problem="the answers are not those of the model's holders")
        # 3.
        kept: Answers = answers
        if coordinator_combine(kept, len(request.consents), n) != outcome.products:
            raise TotalRejected(problem="it is not the product of the holders' answers")
        # 4.
        return merchant_read(model, request, kept, context, private_key, bytes.fromhex(identity.sealing_seed))

    # --- what holders have said

    def _status(self) -> ModelStatus:
        try:
            reference = ModelReference(model_digest=bytes.fromhex(self.digest))
            status: ModelStatus = self._stub.Status(reference, timeout=CALL_SECONDS)
            return status
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None

    def _state(self, status: ModelStatus) -> ModelState:
        roster = self._space.roster
        refusals = [roster.open(signed, ModelRefusal, Role.HOLDER) for signed in status.refusals]
        refused = {one.holder: error_from(one.code, one.fields) for one in refusals if one.model_digest == self.digest}
        approved = {signed.signer for signed in status.approvals}
        if approved == set(self.model.holders):
            commit_to_holders(self.model, status.approvals, roster)
        pending = set(status.pending) - approved - refused.keys()
        silent = set(self.model.holders) - approved - refused.keys() - pending
        return ModelState(tuple(sorted(approved)), refused, tuple(sorted(pending)), tuple(sorted(silent)))
