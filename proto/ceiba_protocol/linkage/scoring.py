"""Private scoring, every role's step (PROTOCOL §5.5). `run_score` at the end is all of it in order.

Each holder multiplies one ciphertext for each of its features, that of the weight of the subject's bin, which it cannot
read; the merchant decrypts the sum over all holders, and nothing else.

What a merchant learns of a consented score is bounded whatever its weights are: it sees v = s + 2^L·Σρ_h mod n, where
s is whatever the weights make of the bins, and the ρ_h fill Z_n. The capacity of that channel is
log2 n − H(2^L·Σρ_h) = L bits for one holder, L + 0.28 for 2, L + 0.75 for 4, L + 1.25 for 8.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

import phe
from gmpy2 import mpz
from pydantic import Field, model_validator

from ceiba_protocol.canonical import Digest, Document, Hex, Hex32, HexDigest, JobId, MemberName, Text, sha256, tlv
from ceiba_protocol.errors import BadCiphertext, CeibaError, MalformedMessage, SetMismatch, error_from
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import (
    Bins,
    PrivateWeights,
    ProductWeights,
    ScoreModel,
    bins_at,
    check_model,
    encrypt_weights,
    weights_digest,
)
from ceiba_protocol.program import evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.key_proof import verify_key
from ceiba_protocol.sums.masks import combined_mask
from ceiba_protocol.sums.paillier import (
    Encryptor,
    ciphertext_bytes,
    decode_ciphertexts,
    decrypt,
    encode_ciphertexts,
    key_id,
    multiply,
)
from ceiba_protocol.sums.randomness import Random, random_below
from ceiba_protocol.trust.hpke import open_sealed, seal_to
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.roster import EncryptionKey, Role, Roster
from ceiba_protocol.v1.common_pb2 import Signed

MOST_SCORES = 256
"""In one request."""
_NO_REASON = 0xFFFF


# --- 1. each holder approves a model ---------------------------------------------------------------------------


class ModelApproval(Document):
    """A holder scores with a model, under the agreement and its own policy. Signed by it.

    `mask_key` is made for this model alone, and its secret half is erased when the model ends. A fresh key for each
    score would cost every score a round trip before the first ciphertext. With the key fixed, a mask is still used
    once: its seed is HKDF with the score's context as salt, which has the consent in it, and an honest holder answers
    a consent once. What is given up is forward secrecy while the model lives: who steals a holder's mask secret and has
    recorded its ciphertexts reads, with the merchant's key, L bits of each partial score.
    """

    model_digest: HexDigest
    holder: MemberName
    mask_key: Hex32
    """X25519 public key."""


class ModelRefusal(Document):
    """A holder does not score with a model. `code` and `fields` are an error of errors.py. Signed by it."""

    model_digest: HexDigest
    holder: MemberName
    code: Text
    fields: dict[Text, Text]


def commit_to_holders(model: ScoreModel, approvals: Iterable[Signed], roster: Roster) -> dict[str, bytes]:
    """Run by every party to a score: holder → its mask key, from approvals that exactly the model's holders have
    signed. Raises SetMismatch, UnknownMember, BadSignature, MalformedDocument."""
    keys: dict[str, bytes] = {}
    for signed in approvals:
        approval = roster.open(signed, ModelApproval, Role.HOLDER)
        if approval.holder != signed.signer or approval.model_digest != model.digest() or approval.holder in keys:
            raise SetMismatch(problem=f"an approval of {signed.signer} is of another model, or there twice")
        keys[approval.holder] = bytes.fromhex(approval.mask_key)
    if tuple(sorted(keys)) != model.holders:
        raise SetMismatch(problem="the approvals are not those of the model's holders")
    return keys


@dataclass(frozen=True)
class MaskKeys:
    """The holder's own secret and the public keys of all others of the model, from their signed approvals."""

    secret: bytes = field(repr=False)
    peers: Mapping[str, bytes]


@dataclass(frozen=True)
class HolderModel:
    """A model as one holder scores with it: everything that does not depend on the subject. Made by `ready_model`."""

    model: ScoreModel
    me: str
    bins: tuple[Bins, ...]
    """Of its own features, in the model's order."""
    n: mpz
    square: mpz
    factors: tuple[tuple[mpz, ...], ...]
    """E[f][b] of its features; all 1 for a product."""
    points: tuple[tuple[int, ...], ...]
    """A product's; all 0 for a private model."""
    masks: MaskKeys

    @property
    def is_designated(self) -> bool:
        """Adds the offset that keeps sums from below zero."""
        return self.me == self.model.holders[0]


def ready_model(
    model: ScoreModel, blob: bytes, me: str, bins: tuple[Bins, ...], masks: MaskKeys, key: tuple[EncryptionKey, bytes]
) -> HolderModel:
    """Run by the holder `me`, once: `blob` as `check_model` took it, `bins` of `bins_at`; `key`: the merchant's, and
    the context of its proof, which is verified here, whoever verified it before: without it hostile ciphertexts read
    every bin through the fullest randomness (I6). Raises KeyTooShort, BadKeyProof, SetMismatch.
    """
    encryption_key, context = key
    verify_key(encryption_key.n, bytes.fromhex(encryption_key.proof), context)
    return _ready(model, blob, me, bins, masks, encryption_key.n)


def _ready(model: ScoreModel, blob: bytes, me: str, bins: tuple[Bins, ...], masks: MaskKeys, n: int) -> HolderModel:
    if sorted([me, *masks.peers]) != list(model.holders):
        raise SetMismatch(problem="the approvals are not those of the model's holders")
    ciphertexts = iter(decode_ciphertexts(blob, n, model.merchant))
    counts = [feature.bins for feature in model.features]
    factors = [tuple(next(ciphertexts, mpz(1)) for _ in range(count)) for count in counts]
    points = model.weights.points if isinstance(model.weights, ProductWeights) else [(0,) * count for count in counts]
    own = model.places_of(me)
    return HolderModel(
        model,
        me,
        bins,
        mpz(n),
        mpz(n) ** 2,
        tuple(factors[place] for place in own),
        tuple(tuple(points[place]) for place in own),
        masks,
    )


# --- 3. one request --------------------------------------------------------------------------------------------


class ScoreRequest(Document):
    """A merchant asks for scores of subjects who have consented. Signed by it; the subjects are sealed beside it."""

    request_id: JobId
    """16 random bytes."""
    model_digest: HexDigest
    consents: Annotated[tuple[HexDigest, ...], Field(min_length=1, max_length=MOST_SCORES)]
    """Digests of the consents, distinct, in the order of the answers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.consents)) != len(self.consents):
            raise ValueError("a consent stands in it twice")
        return self


def request_context(model: ScoreModel, request: ScoreRequest, mask_keys: Mapping[str, bytes]) -> bytes:
    """32 bytes over all that the holders of a request must agree on: the model, which has the agreement, key and L in
    it; the request with its consents; the set with its mask keys. Masks of holders that differ do not cancel (I4)."""
    members = [tlv(holder.encode(), key) for holder, key in sorted(mask_keys.items())]
    return sha256(
        "ceiba/v1/score-ctx",
        bytes.fromhex(model.digest()),
        bytes.fromhex(request.digest()),
        sha256("ceiba/v1/score-set", *members),
    )


def score_context(request_context: bytes, consent_digest: Digest) -> bytes:
    """32 bytes: of one score of a request. The salt of its mask seeds."""
    return sha256("ceiba/v1/score", request_context, bytes.fromhex(consent_digest))


# --- 4. each holder answers ------------------------------------------------------------------------------------


def blinding_bound(n: int, bits: int, holders: int) -> int:
    """ρ_h is uniform below ⌊n / (H·2^L)⌋: all of them together fill Z_n above the score's L bits, and never wrap."""
    return int(n) // (holders << bits)


def holder_score(
    ready: HolderModel, bins: Sequence[int], context: bytes, obfuscators: FullObfuscators, random: Random
) -> mpz:
    """Run by the holder: its part of one score, a ciphertext in Z_{n²}.

    C_h = Π_f E[f][bins_f] · (1 + n·(s_h + ρ_h·2^L + r_h + [designated]·2^(L−1))) · r^n mod n². E is 1 for a product and
    s_h, its points, 0 for a private model. ρ_h is uniform below `blinding_bound`. r_h is a pairwise mask in Z_n, and
    Σ_h r_h = 0. r^n has full entropy, because the merchant owns the key and the product was made with our secrets (I7).
    Must hold before: the consent allows it; `context` is `score_context`'s; `bins` are the subject's, or the missing
    ones of a subject that is not known, for which the same is done. Must follow: the consent's jti is stored durably
    before the ciphertext is sent, and the ciphertext is sent again only as it is.
    """
    model, n, square = ready.model, ready.n, ready.square
    plain = random_below(random, blinding_bound(int(n), model.bits, len(model.holders))) << model.bits
    if ready.masks.peers:
        plain += combined_mask(ready.me, ready.masks.secret, ready.masks.peers, context, int(n), 1)[0]
    if ready.is_designated:
        plain += 1 << model.bits - 1
    product = obfuscators.take()
    for factors, points, place in zip(ready.factors, ready.points, bins, strict=True):
        product = product * factors[place] % square
        plain += points[place]
    return product * (1 + n * (plain % n)) % square


def absent(ready: HolderModel) -> list[int]:
    """The bins of a subject that the holder does not know: those of one of whom everything is missing."""
    return [one.missing for one in ready.bins]


def reasons_for(ready: HolderModel, bins: Sequence[int]) -> bytes:
    """Run by a holder of a product: which of its features cost the subject most points against their best bins.

    The costliest first, at most `weights.reasons`, none that costs nothing: 2 bytes big-endian for the feature's place
    in the model, 0xFFFF where there are no more, so that the length tells nothing.
    """
    weights = ready.model.weights
    if not isinstance(weights, ProductWeights):
        return b""
    costs = [max(points) - points[place] for points, place in zip(ready.points, bins, strict=True)]
    first = ready.model.places_of(ready.me).start
    costly = sorted((at for at, cost in enumerate(costs) if cost), key=lambda at: (-costs[at], at))
    named = [first + at for at in costly][: weights.reasons]
    named += [_NO_REASON] * (weights.reasons - len(named))
    return b"".join(place.to_bytes(2, "big") for place in named)


def seal_reasons(reasons: bytes, context: bytes, holder: str, sealing_key: bytes) -> bytes:
    """For the merchant alone, and this score."""
    return seal_to(sealing_key, reasons, tlv(b"ceiba/v1/score-reasons", context, holder.encode()))


def open_reasons(
    sealed: bytes, context: bytes, holder: str, model: ScoreModel, sealing_secret: bytes
) -> tuple[str, ...]:
    """Run by the merchant: names of that holder's features, the costliest first. Raises MalformedMessage."""
    try:
        info = tlv(b"ceiba/v1/score-reasons", context, holder.encode())
        plain = open_sealed(sealing_secret, sealed, info, "ScoreAnswer")
    except MalformedMessage:
        plain = b"\0"
    places = [int.from_bytes(plain[at : at + 2], "big") for at in range(0, len(plain), 2)]
    own = {at: model.features[at].key.name for at in model.places_of(holder)}
    named = [place for place in places if place != _NO_REASON]
    limit = model.weights.reasons if isinstance(model.weights, ProductWeights) else 0
    if len(plain) != 2 * limit or not set(named) <= own.keys():
        raise MalformedMessage(message="ScoreAnswer", problem=f"the reasons of {holder} cannot be read")
    return tuple(own[place] for place in named)


class ScoreRefusal(Document):
    """Why a holder does not answer one consent of a request. `code` and `fields` are an error of errors.py."""

    place: Annotated[int, Field(ge=0, lt=MOST_SCORES)]
    """Of the consent in the request, from 0."""
    code: Text
    fields: dict[Text, Text]


class ScoreAnswer(Document):
    """What a holder has sent for one request, without the ciphertexts themselves. Signed by it."""

    request_id: JobId
    model_digest: HexDigest
    holder: MemberName
    context_digest: HexDigest
    """`request_context`: the same from every holder, because there is no canary that would show a difference."""
    refusals: tuple[ScoreRefusal, ...]
    """In the order of their places. The others are answered, in their order."""
    ciphertext_digest: HexDigest
    """SHA-256 of the ciphertexts' bytes."""
    reasons: tuple[Hex, ...]
    """A product's, if it has reasons: for each answered consent, what `seal_reasons` made."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        places = [refusal.place for refusal in self.refusals]
        if places != sorted(set(places)):
            raise ValueError("refusals are sorted by place, one for each")
        return self

    def answered(self, scores: int) -> list[int]:
        """Places of the consents that are answered, of a request for so many scores."""
        refused = {refusal.place for refusal in self.refusals}
        return [place for place in range(scores) if place not in refused]


def check_answer(
    answer: ScoreAnswer, ciphertexts: bytes, holder: str, model: ScoreModel, request: ScoreRequest, context: bytes,
    n: int,
) -> None:  # fmt: skip
    """Run by the coordinator and the merchant, once the signature of `holder` is verified: the answer is to this
    request, in this context, and has its ciphertexts. Raises MalformedMessage, BadCiphertext."""
    check_answered(answer, holder, model, request, context)
    scores = len(answer.answered(len(request.consents)))
    if len(ciphertexts) != scores * ciphertext_bytes(n):
        raise BadCiphertext(member=holder, problem=f"they are not {scores} ciphertexts")
    if hashlib.sha256(ciphertexts).hexdigest() != answer.ciphertext_digest:
        raise BadCiphertext(member=holder, problem="they are not those that it signed")


def check_answered(answer: ScoreAnswer, holder: str, model: ScoreModel, request: ScoreRequest, context: bytes) -> None:
    """Run by who verifies a receipt, who has no ciphertexts: likewise of the signed answer alone. Raises
    MalformedMessage."""
    scores = len(answer.answered(len(request.consents)))
    said = (answer.holder, answer.request_id, answer.model_digest, answer.context_digest)
    if said != (holder, request.request_id, model.digest(), context.hex()):
        raise MalformedMessage(message="ScoreAnswer", problem=f"that of {holder} is for another request or set")
    if any(refusal.place >= len(request.consents) for refusal in answer.refusals):
        raise MalformedMessage(message="ScoreAnswer", problem=f"{holder} refuses what was not asked")
    has_reasons = isinstance(model.weights, ProductWeights) and model.weights.reasons > 0
    if len(answer.reasons) != (scores if has_reasons else 0):
        raise MalformedMessage(message="ScoreAnswer", problem=f"that of {holder} has too few or too many reasons")


# --- 5. coordinator and merchant -------------------------------------------------------------------------------


Answers = Mapping[str, tuple[ScoreAnswer, bytes]]
"""Of all holders of a model to one request, each checked by `check_answer`, with its ciphertexts."""


def answered_by_all(answers: Answers, scores: int) -> list[int]:
    """Places of the consents that no holder refused. What one refused, nobody can open: the masks stay on it."""
    refused = {refusal.place for answer, _ in answers.values() for refusal in answer.refusals}
    return [place for place in range(scores) if place not in refused]


def coordinator_combine(answers: Answers, scores: int, n: int) -> bytes:
    """Run by the coordinator, and again by the merchant: for each score that all holders answered, the product of their
    ciphertexts. Empty if there is none. Raises BadCiphertext."""
    wanted = answered_by_all(answers, scores)
    vectors = []
    for holder, (answer, ciphertexts) in answers.items():
        own = dict(zip(answer.answered(scores), decode_ciphertexts(ciphertexts, n, holder), strict=True))
        vectors.append([own[place] for place in wanted])
    return encode_ciphertexts(multiply(vectors, n), n)


def merchant_open(products: bytes, private_key: phe.PaillierPrivateKey, bits: int) -> list[int]:
    """Run by the merchant: the scores, each in [−2^(L−1), 2^(L−1)): decrypted, reduced modulo 2^L, centred.

    Must hold before: the products are those of the holders' signed ciphertexts, and all holders signed the same
    context. There is no canary: ρ fills the whole of Z_n, so that masks that do not cancel give a wrong number.
    """
    residues = decrypt(private_key, decode_ciphertexts(products, private_key.public_key.n, "the coordinator"))
    return [residue % (1 << bits) - (1 << bits - 1) for residue in residues]


@dataclass(frozen=True)
class Score:
    """One subject's score."""

    points: int
    reasons: Mapping[str, tuple[str, ...]]
    """Holder → names of its features, the costliest first; empty for a private model."""
    receipt: Document | None = field(default=None, repr=False, compare=False)
    """A ScoreReceipt, of all scores of one request; the merchant's to keep."""


def merchant_read(
    model: ScoreModel, request: ScoreRequest, answers: Answers, context: bytes,
    private_key: phe.PaillierPrivateKey, sealing_secret: bytes,
) -> list[Score | CeibaError]:  # fmt: skip
    """Run by the merchant: for each consent of the request its score, or the error of the first holder that refused
    it. Must hold before: `check_answer` for the holders of the model. Raises SetMismatch, BadCiphertext,
    MalformedMessage."""
    scores, n = len(request.consents), int(private_key.public_key.n)
    if tuple(sorted(answers)) != model.holders:
        raise SetMismatch(problem="the answers are not those of the model's holders")
    opened = merchant_open(coordinator_combine(answers, scores, n), private_key, model.bits)
    read: dict[int, Score | CeibaError] = {}
    for holder in reversed(model.holders):
        read |= {one.place: error_from(one.code, one.fields) for one in answers[holder][0].refusals}
    for place, points in zip(answered_by_all(answers, scores), opened, strict=True):
        one = score_context(context, request.consents[place])
        sealed = _reasons_at(answers, place, scores)
        reasons = {holder: open_reasons(blob, one, holder, model, sealing_secret) for holder, blob in sealed}
        read[place] = Score(points, reasons)
    return [read[place] for place in range(scores)]


def _reasons_at(answers: Answers, place: int, scores: int) -> Iterable[tuple[str, bytes]]:
    for holder, (answer, _) in answers.items():
        if answer.reasons:
            yield holder, bytes.fromhex(answer.reasons[answer.answered(scores).index(place)])


# --- the whole -------------------------------------------------------------------------------------------------


def run_score(
    model: ScoreModel,
    schemas: Mapping[str, Schema],
    points: Sequence[Sequence[int]],
    rows: Mapping[str, Mapping[str, int | None]],
    keypair: tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey],
    random: Random,
) -> int:
    """One subject's score, without a network: the first page for a newcomer, and an oracle for tests.

    `rows`: holder → the subject's row, all its columns as integers of the schema; a holder that does not know the
    subject has none. Left out: consent (`consent.check_consent`), the key proof, signatures, population of bins.
    """
    public_key, private_key = keypair
    n = int(public_key.n)

    # Merchant: encrypts each bin's weight, once for the model.
    blob = b""
    if isinstance(model.weights, PrivateWeights):
        blob = encrypt_weights(points, model.bits, Encryptor.for_count(n, sum(map(len, points)), random))
        weights = PrivateWeights(blob_digest=weights_digest(blob))
        model = model.model_copy(update={"weights": weights, "key_id": Digest(key_id(n).hex())})

    # Holders: check the model, and make a mask key for it.
    check_model(model, blob, n)
    secrets = {holder: random(32) for holder in model.holders}
    mask_keys = {holder: x25519_public_key(secret) for holder, secret in secrets.items()}

    # Merchant: asks for one score.
    consent_digest = Digest(sha256("example/consent").hex())
    request = ScoreRequest(request_id=random(16).hex(), model_digest=model.digest(), consents=(consent_digest,))
    context = score_context(request_context(model, request, mask_keys), consent_digest)

    # Holders: each multiplies the ciphertexts of the subject's bins.
    parts = []
    for me in model.holders:
        peers = {peer: key for peer, key in mask_keys.items() if peer != me}
        bins = bins_at(model, me, schemas[model.side_of(me).table])
        ready = _ready(model, blob, me, bins, MaskKeys(secrets[me], peers), n)
        row = rows.get(me)
        places = absent(ready) if row is None else [one.of(evaluate(one.key.node, row)) for one in ready.bins]
        part = holder_score(ready, places, context, FullObfuscators(n, random), random)
        parts.append([part])

    # Coordinator: multiplies what it cannot read. Merchant: decrypts and centres.
    return merchant_open(encode_ciphertexts(multiply(parts, n), n), private_key, model.bits)[0]
