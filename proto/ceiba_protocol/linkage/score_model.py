"""Scoring models: scorecards over binned features at several holders, and what must hold of them (PROTOCOL §5.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import Digest, Document, HexDigest, JobId, MemberName, Seconds, TableName, Text, sha256
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.errors import BadScoreModel, BinTooSmall
from ceiba_protocol.linkage.consent import ConsentTerms
from ceiba_protocol.plan import GroupKey, Key, Named, Plan, compile_plan
from ceiba_protocol.program import Load, Node, Part, children, evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.sums.paillier import Encryptor, ciphertext_bytes, decode_ciphertexts, encode_ciphertexts, key_id

SCORE_BITS = 24
"""L, unless the model says otherwise: points in units of 2^-10 up to ±2^13."""
FEWEST_FEATURES = 3
"""Of the whole model: with fewer a score would nearly say a bin (PROTOCOL §5.5)."""
MOST_FEATURES = 100
MOST_BINS = 100
"""Of one feature."""
MOST_MODEL_BINS = 4_000
"""Of all features together: 3 MB of ciphertexts."""
MOST_REASONS = 8


# --- the model -------------------------------------------------------------------------------------------------


class ScoreFeature(Document):
    """A feature: a holder's column, binned by a group key of the plan algebra, so that a joined histogram over the same
    key has the same bins. What is NULL is in the missing bin, and so is a subject whom the holder does not know."""

    holder: MemberName
    table: TableName
    key: GroupKey
    """Its `name` is the feature's, unique at its holder."""


class PrivateWeights(Document):
    """The merchant's own: each bin's weight is encrypted under its key, and holders see nothing of it."""

    kind: Literal["private"] = "private"
    blob_digest: HexDigest
    """SHA256(TLV["ceiba/v1/score-weights", blob]); the blob has E[f][b] for features and bins in their order."""


class ProductWeights(Document):
    """A product's: known to the holders, who approve them, and can therefore give reasons."""

    kind: Literal["product"] = "product"
    points: tuple[tuple[Annotated[int, Field(ge=-(2**31), le=2**31)], ...], ...]
    """For each feature, one integer for each of its bins."""
    reasons: Annotated[int, Field(ge=0, le=MOST_REASONS)]
    """How many of its features each holder may name to the merchant as those that cost the subject most points."""


class SchemaPin(Document):
    table: TableName
    schema_digest: HexDigest


class ScoreModel(Document):
    """A scorecard, signed by its merchant. Its digest is what consents and approvals name."""

    model_id: JobId
    suite: Literal["K1"] = "K1"
    merchant: MemberName
    purpose: Text
    agreement_digest: HexDigest
    features: Annotated[tuple[ScoreFeature, ...], Field(min_length=FEWEST_FEATURES, max_length=MOST_FEATURES)]
    """Sorted by holder; each holder's in whatever order."""
    schemas: tuple[SchemaPin, ...]
    """Of the features' tables, sorted by table."""
    weights: Annotated[PrivateWeights | ProductWeights, Field(discriminator="kind")]
    bits: Annotated[int, Field(ge=8, le=32)] = SCORE_BITS
    """L: a score is in [−2^(L−1), 2^(L−1)), and says no more than about L bits."""
    key_id: HexDigest
    """Of the merchant's Paillier key."""
    valid_until: Seconds

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [(feature.holder, feature.key.name) for feature in self.features]
        if [holder for holder, _ in names] != sorted(holder for holder, _ in names) or len(set(names)) != len(names):
            raise ValueError("features are sorted by holder, and no two of a holder have one name")
        if [pin.table for pin in self.schemas] != sorted({feature.table for feature in self.features}):
            raise ValueError("there is one schema for each table, sorted")
        return self

    @cached_property
    def holders(self) -> tuple[str, ...]:
        """Who adds to each score, sorted. The first adds the offset."""
        return tuple(dict.fromkeys(feature.holder for feature in self.features))

    def schema_digest(self, table: str) -> Digest:
        return next(pin.schema_digest for pin in self.schemas if pin.table == table)


def terms_of(model: ScoreModel) -> ConsentTerms:
    """What a consent to a score with this model must say."""
    return ConsentTerms(model.merchant, model.holders, model.purpose, model.digest())


# --- bins ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bins:
    """A feature's bins: the cells of its group key in their order, then a missing bin if the key has none."""

    feature: ScoreFeature
    key: Key
    missing: int
    """The bin of a row in which everything is NULL, and of a subject without a row."""

    @property
    def count(self) -> int:
        return max(len(self.key.values), self.missing + 1)

    @cached_property
    def _places(self) -> dict[int | None, int]:
        return {value: place for place, value in enumerate(self.key.values)}

    def of(self, value: int | None) -> int:
        """The bin of a row for which the key's node gives `value`. KeyError if that is outside the public domain."""
        if value is None and None not in self._places:
            return self.missing
        return self._places[value]


def histogram_plan(feature: ScoreFeature, schema_digest: Digest) -> Plan:
    """How many subjects each cell of the feature's key has, as a question about its table."""
    output = Named(name="n" if feature.key.name != "n" else "m", statistic=Subjects())
    return Plan(table=feature.table, schema_digest=schema_digest, groups=(feature.key,), outputs=(output,))


def bins_of(feature: ScoreFeature, schema: Schema) -> Bins:
    """Raises BadScoreModel, and what `compile_plan` does: UnknownColumn, NoDomain, WrongType, …"""
    key = compile_plan(histogram_plan(feature, schema.digest()), schema).keys[0]
    if any(isinstance(node, Part) for node in _nodes(key.node)):
        raise BadScoreModel(problem=f"the feature {key.name} is a part of a split, which says nothing of a subject")
    nothing = dict.fromkeys((node.name for node in _nodes(key.node) if isinstance(node, Load)), None)
    value = evaluate(key.node, nothing)
    missing = key.values.index(value) if value in key.values else len(key.values)
    return Bins(feature, key, missing)


def _nodes(node: Node) -> list[Node]:
    return [node, *(below for child in children(node) for below in _nodes(child))]


def check_population(bins: Bins, subjects: Sequence[int], rules: Disclosure, least: int) -> None:
    """Run by a holder before it approves a model: no bin isolates anybody (PROTOCOL §5.5).

    `subjects`: how many of its dataset are in each bin; `least`: k. A bin without anybody isolates nobody; but where
    the rules hide zeros it is refused like a small one, so that a refusal does not say that somebody is there. The
    missing bin may be empty in any case, because it also has everybody whom the holder does not know.
    Raises BinTooSmall, which does not say which bin.
    """
    for place, count in enumerate(subjects):
        may_be_empty = place == bins.missing or not rules.hides_zeros
        if count < least and not (count == 0 and may_be_empty):
            raise BinTooSmall(feature=bins.key.name, least=least, holder=bins.feature.holder)


# --- 1. the merchant's model, and each holder's check ----------------------------------------------------------


def check_points(points: Sequence[Sequence[int]], bits: int) -> None:
    """Run by the merchant, and by holders on a product: no subject's sum leaves [−2^(L−1), 2^(L−1)).

    Raises BadScoreModel.
    """
    low, high = sum(map(min, points)), sum(map(max, points))
    if not -(1 << bits - 1) <= low <= high < 1 << bits - 1:
        raise BadScoreModel(problem=f"its points add up to between {low} and {high}, beyond {bits} bits")


def encrypt_weights(points: Sequence[Sequence[int]], bits: int, encryptor: Encryptor) -> bytes:
    """Run by the merchant under its own key: E[f][b] of each feature's bins in their order, ⌈2·bits(n)/8⌉ bytes each.

    Short exponents are enough: the merchant hides its own weights from others. Raises BadScoreModel.
    """
    check_points(points, bits)
    return encode_ciphertexts([encryptor.encrypt(point % encryptor.n) for row in points for point in row], encryptor.n)


def weights_digest(blob: bytes) -> Digest:
    """What a private model says of its ciphertexts."""
    return Digest(sha256("ceiba/v1/score-weights", blob).hex())


def check_model(model: ScoreModel, schemas: Mapping[str, Schema], blob: bytes, n: int) -> tuple[Bins, ...]:
    """Run by the coordinator and by every holder: each feature's bins, once the model is well formed.

    1. Every table has the schema that the model pins. 2. Features have at most MOST_BINS bins, all together at most
    MOST_MODEL_BINS. 3. The key is the one that the model names. 4. A product has points for each bin, within L bits; a
    private model's blob is the one that it names, and has a unit of Z_{n²} for each bin.
    Raises BadScoreModel, BadCiphertext, and what `bins_of` does.
    """
    # 1. The schemas.
    for pin in model.schemas:
        if schemas[pin.table].digest() != pin.schema_digest:
            raise BadScoreModel(problem=f"it was made for another version of the schema of {pin.table}")
    # 2. The bins.
    bins = tuple(bins_of(feature, schemas[feature.table]) for feature in model.features)
    if any(one.count > MOST_BINS for one in bins) or sum(one.count for one in bins) > MOST_MODEL_BINS:
        raise BadScoreModel(problem=f"it has more than {MOST_BINS} bins in one feature, or {MOST_MODEL_BINS} in all")
    # 3. The key.
    if model.key_id != key_id(n).hex():
        raise BadScoreModel(problem="it is for another encryption key than its merchant's")
    # 4. The weights.
    match model.weights:
        case ProductWeights(points=points):
            if blob or [len(row) for row in points] != [one.count for one in bins]:
                raise BadScoreModel(problem="a product has points for each bin, and no ciphertexts")
            check_points(points, model.bits)
        case PrivateWeights(blob_digest=digest):
            if digest != weights_digest(blob):
                raise BadScoreModel(problem="its ciphertexts are not those that it names")
            if len(blob) != sum(one.count for one in bins) * ciphertext_bytes(n):
                raise BadScoreModel(problem="it does not have one ciphertext for each bin")
            decode_ciphertexts(blob, n, model.merchant)
    return bins
