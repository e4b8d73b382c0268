"""Scoring models: scorecards over binned features at several holders, and what must hold of them (PROTOCOL §5.5)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import (
    Digest,
    Document,
    FieldName,
    HexDigest,
    JobId,
    MemberName,
    Seconds,
    TableName,
    Text,
    sha256,
)
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.errors import BadScoreModel, BinTooSmall, NotAgreed, ScoreSaysTooMuch, SetMismatch
from ceiba_protocol.linkage.consent import ConsentTerms
from ceiba_protocol.plan import GroupKey, Key, Named, Plan, compile_plan
from ceiba_protocol.program import Load, Node, Part, children, evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.sums.paillier import Encryptor, ciphertext_bytes, decode_ciphertexts, encode_ciphertexts, key_id
from ceiba_protocol.trust.agreement import SCORE, Agreement

SCORE_BITS = 24
"""L, unless the model says otherwise: points in units of 2^-10 up to ±2^13."""
FEWEST_BITS, MOST_BITS = 2, 32
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
    bins: Annotated[int, Field(ge=1, le=MOST_BINS)]
    """How many it has, the missing one included: who does not have the table's schema knows the layout from it."""


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


class ScoreSide(Document):
    """A holder's table in a model, and the column of identifiers by which its subjects are found."""

    holder: MemberName
    table: TableName
    schema_digest: HexDigest
    on: FieldName


class ScoreModel(Document):
    """A scorecard, signed by its merchant. Its digest is what consents and approvals name."""

    model_id: JobId
    suite: Literal["K1"] = "K1"
    merchant: MemberName
    purpose: Text
    agreement_digest: HexDigest
    features: Annotated[tuple[ScoreFeature, ...], Field(min_length=FEWEST_FEATURES, max_length=MOST_FEATURES)]
    """Sorted by holder; each holder's in whatever order."""
    sides: tuple[ScoreSide, ...]
    """One for each holder, sorted."""
    weights: Annotated[PrivateWeights | ProductWeights, Field(discriminator="kind")]
    bits: Annotated[int, Field(ge=FEWEST_BITS, le=MOST_BITS)] = SCORE_BITS
    """L: a score is in [−2^(L−1), 2^(L−1)), and says no more than about L bits."""
    key_id: HexDigest
    """Of the merchant's Paillier key."""
    valid_until: Seconds

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [(feature.holder, feature.key.name) for feature in self.features]
        if [holder for holder, _ in names] != sorted(holder for holder, _ in names) or len(set(names)) != len(names):
            raise ValueError("features are sorted by holder, and no two of a holder have one name")
        tables = sorted({(feature.holder, feature.table) for feature in self.features})
        if [(side.holder, side.table) for side in self.sides] != tables or len(tables) != len(self.holders):
            raise ValueError("there is one side for each holder, sorted, with the table of its features")
        return self

    @cached_property
    def holders(self) -> tuple[str, ...]:
        """Who adds to each score, sorted. The first adds the offset."""
        return tuple(dict.fromkeys(feature.holder for feature in self.features))

    def side_of(self, holder: str) -> ScoreSide:
        """Raises SetMismatch for one who has no features."""
        for side in self.sides:
            if side.holder == holder:
                return side
        raise SetMismatch(problem=f"{holder} has no feature of the model")

    def places_of(self, holder: str) -> range:
        """Where its features stand among all."""
        own = [place for place, feature in enumerate(self.features) if feature.holder == holder]
        return range(own[0], own[-1] + 1) if own else range(0)


def terms_of(model: ScoreModel) -> ConsentTerms:
    """What a consent to a score with this model must say."""
    return ConsentTerms(model.merchant, model.holders, model.purpose, model.digest())


# --- bins ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bins:
    """A feature's bins: the cells of its group key in their order, then a missing bin if the key has none."""

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


def histogram_plan(table: str, key: GroupKey, schema_digest: Digest) -> Plan:
    """How many subjects each cell of a feature's key has, as a question about its table."""
    output = Named(name="n" if key.name != "n" else "m", statistic=Subjects())
    return Plan(table=table, schema_digest=schema_digest, groups=(key,), outputs=(output,))


def bins_of(group: GroupKey, schema: Schema) -> Bins:
    """Raises BadScoreModel, and what `compile_plan` does: UnknownColumn, NoDomain, WrongType, …"""
    key = compile_plan(histogram_plan(schema.table, group, schema.digest()), schema).keys[0]
    if any(isinstance(node, Part) for node in _nodes(key.node)):
        raise BadScoreModel(problem=f"the feature {key.name} is a part of a split, which says nothing of a subject")
    nothing = dict.fromkeys((node.name for node in _nodes(key.node) if isinstance(node, Load)), None)
    value = evaluate(key.node, nothing)
    missing = key.values.index(value) if value in key.values else len(key.values)
    return Bins(key, missing)


def feature_of(holder: str, group: GroupKey, schema: Schema) -> ScoreFeature:
    """Run by the merchant: a feature of a new model. Raises what `bins_of` does, and BadScoreModel for too many."""
    count = bins_of(group, schema).count
    if count > MOST_BINS:
        raise BadScoreModel(problem=f"the feature {group.name} has {count} bins, and {MOST_BINS} are possible")
    return ScoreFeature(holder=holder, table=schema.table, key=group, bins=count)


def _nodes(node: Node) -> list[Node]:
    return [node, *(below for child in children(node) for below in _nodes(child))]


def check_population(
    bins: Bins, subjects: Sequence[int], rules: Disclosure, least: int, me: str, *, is_private: bool = False
) -> None:
    """Run by the holder `me` before it approves a model: no bin isolates anybody (PROTOCOL §5.5).

    `subjects`: how many of its dataset are in each bin; `least`: k. A bin without anybody isolates nobody; but where
    the rules hide zeros it is refused like a small one, so that a refusal does not say that somebody is there; and in a
    private model, whose bits are counted by its bins (`check_bits`). The missing bin may be empty in any case, because
    it also has everybody whom the holder does not know. Raises BinTooSmall, which does not say which bin.
    """
    for place, count in enumerate(subjects):
        may_be_empty = place == bins.missing or not (rules.hides_zeros or is_private)
        if count < least and not (count == 0 and may_be_empty):
            raise BinTooSmall(feature=bins.key.name, least=least, holder=me)


# --- the merchant's model, and what others check of it ---------------------------------------------------------


def check_points(points: Sequence[Sequence[int]], bits: int) -> None:
    """Run by the merchant, and by holders on a product: no subject's sum leaves [−2^(L−1), 2^(L−1)).

    Raises BadScoreModel.
    """
    low, high = sum(map(min, points)), sum(map(max, points))
    if not -(1 << bits - 1) <= low <= high < 1 << bits - 1:
        raise BadScoreModel(problem=f"its points add up to between {low} and {high}, beyond {bits} bits")


def bits_for(points: Sequence[Sequence[int]]) -> int:
    """Run by the merchant: the smallest L that every subject's sum fits, which may be more than is possible."""
    low, high = sum(map(min, points)), sum(map(max, points))
    return max(FEWEST_BITS, 1 + max(high, -low - 1).bit_length())


def most_bits(features: Iterable[ScoreFeature]) -> int:
    """The largest L of a private model with these features; see `check_bits`."""
    return (combinations(features).bit_length() - 1) // 2


def combinations(features: Iterable[ScoreFeature]) -> int:
    """In how many ways a subject can be in bins. Features that read a column again repeat the one with most bins, and
    those without a column say nothing: neither counts."""
    known, found = set[tuple[str, str]](), 1
    for one in sorted(features, key=lambda feature: -feature.bins):
        plan = histogram_plan(one.table, one.key, Digest("0" * 64))
        columns = {(one.holder, column) for column in plan.columns}
        found *= one.bins if columns and not columns & known else 1
        known |= columns
    return found


def check_bits(model: ScoreModel) -> None:
    """Run by the merchant, and by each holder before it approves a model: a private score cannot say half of its bins.

    Whoever chooses points that nobody sees chooses what the L bits of a score are: L ≤ ½·log2 Π bins, so that they are
    at most half of what the bins say together. A score of few bins is coarse, then: three features of five bins have
    sums of 3 bits. No L keeps a score from saying *which* few bins it will (PROTOCOL §5.5); a bound for each feature
    would leave no honest score, because sums have more values than a feature has bins. Bins in which nobody is would
    count as well, so holders refuse them (`check_population`). Raises ScoreSaysTooMuch.
    """
    ways = combinations(model.features)
    if isinstance(model.weights, PrivateWeights) and 4**model.bits > ways:
        say, fits = ways.bit_length() - 1, most_bits(model.features)
        raise ScoreSaysTooMuch(bits=model.bits, say=say, fits=fits, needed=2 * model.bits)


def encrypt_weights(points: Sequence[Sequence[int]], bits: int, encryptor: Encryptor) -> bytes:
    """Run by the merchant under its own key: E[f][b] of each feature's bins in their order, ⌈2·bits(n)/8⌉ bytes each.

    Short exponents are enough: the merchant hides its own weights from others. Raises BadScoreModel.
    """
    check_points(points, bits)
    return encode_ciphertexts([encryptor.encrypt(point % encryptor.n) for row in points for point in row], encryptor.n)


def weights_digest(blob: bytes) -> Digest:
    """What a private model says of its ciphertexts."""
    return Digest(sha256("ceiba/v1/score-weights", blob).hex())


def check_model(model: ScoreModel, blob: bytes, n: int) -> None:
    """Run by the coordinator and by every holder, who need no schema for it: the model is well formed.

    1. Features have at most MOST_MODEL_BINS bins all together. 2. The key is the one that the model names. 3. A product
    has points for each bin, within L bits, and no blob; a private model's blob is the one that it names, and has a unit
    of Z_{n²} for each bin. Raises BadScoreModel, BadCiphertext.
    """
    # 1. The bins.
    counts = [feature.bins for feature in model.features]
    if sum(counts) > MOST_MODEL_BINS:
        raise BadScoreModel(problem=f"it has {sum(counts)} bins, and {MOST_MODEL_BINS} are possible")
    # 2. The key.
    if model.key_id != key_id(n).hex():
        raise BadScoreModel(problem="it is for another encryption key than its merchant's")
    # 3. The weights.
    match model.weights:
        case ProductWeights(points=points):
            if blob or [len(row) for row in points] != counts:
                raise BadScoreModel(problem="a product has points for each bin, and no ciphertexts")
            check_points(points, model.bits)
        case PrivateWeights(blob_digest=digest):
            if digest != weights_digest(blob):
                raise BadScoreModel(problem="its ciphertexts are not those that it names")
            if len(blob) != sum(counts) * ciphertext_bytes(n):
                raise BadScoreModel(problem="it does not have one ciphertext for each bin")
            decode_ciphertexts(blob, n, model.merchant)


def bins_at(model: ScoreModel, holder: str, schema: Schema) -> tuple[Bins, ...]:
    """Run by a holder with its own schema: the bins of its features, once they are those that the model announces.

    Raises BadScoreModel, SetMismatch, and what `bins_of` does.
    """
    if schema.digest() != model.side_of(holder).schema_digest:
        raise BadScoreModel(problem=f"it was made for another version of the schema of {schema.table}")
    own = [model.features[place] for place in model.places_of(holder)]
    bins = tuple(bins_of(feature.key, schema) for feature in own)
    if [one.count for one in bins] != [feature.bins for feature in own]:
        raise BadScoreModel(problem=f"a feature of {holder} has another number of bins")
    return bins


def check_agreed(model: ScoreModel, agreement: Agreement) -> None:
    """Run by every party: the agreement that the model cites allows it.

    1. It allows scores, and names who attests consent. 2. Merchant and purpose are its own; the model ends no later.
    3. Each side is one of its sides, with the identifier that is agreed, and the features read columns that are
    agreed. Raises NotAgreed.
    """
    what = None
    if agreement.joint is None or SCORE not in agreement.operations or not agreement.joint.consent_issuers:
        what = "scores of single subjects"
    elif (model.agreement_digest, model.merchant) != (agreement.digest(), agreement.merchant.name):
        what = f"a scoring model of {model.merchant}"
    elif model.purpose != agreement.purpose or model.valid_until > agreement.not_after:
        what = "the model's purpose, or its time"
    if what is not None:
        raise NotAgreed(agreement=agreement.agreement_id, what=what)
    agreed = {side.holder: side for side in agreement.sides}
    for side in model.sides:
        own = agreed.get(side.holder)
        if own is None or (own.table, own.schema_digest) != (side.table, side.schema_digest):
            raise NotAgreed(agreement=agreement.agreement_id, what=f"the table {side.table} of {side.holder}")
        if side.on != agreement.identifier_of(side.holder):
            raise NotAgreed(agreement=agreement.agreement_id, what=f"finding subjects of {side.table} by {side.on}")
        missing = columns_read(model, side.holder) - set(own.columns)
        if missing:
            raise NotAgreed(agreement=agreement.agreement_id, what=f"columns {', '.join(sorted(missing))}")


def columns_read(model: ScoreModel, holder: str) -> frozenset[str]:
    """The columns that a holder's features are made of."""
    digest = model.side_of(holder).schema_digest
    own = [model.features[place] for place in model.places_of(holder)]
    return frozenset().union(*(histogram_plan(one.table, one.key, digest).columns for one in own))
