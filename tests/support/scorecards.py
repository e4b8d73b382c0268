"""A scorecard over three agencies' columns of the same firms, for tests."""

from collections.abc import Sequence
from typing import Any

from ceiba_protocol.canonical import Digest, sha256
from ceiba_protocol.expression import ColumnValue, Comparing, Missing, Number
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.score_model import (
    PrivateWeights,
    ProductWeights,
    ScoreFeature,
    ScoreModel,
    ScoreSide,
    feature_of,
)
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn, LabelBranch
from ceiba_protocol.program import Comparison
from ceiba_protocol.schema import Column, ColumnType, Grade, Identifier, Schema
from ceiba_protocol.sums.paillier import key_id
from tests.support.keys import keypair

NOON = 1_700_000_000
"""Seconds since 1970 UTC."""


def column(name: str, kind: ColumnType = ColumnType.INT, **values: Any) -> Column:
    return Column(name=name, type=kind, **values)


USCC = Identifier(column="uscc", kind=IdentifierKind.TEXT)
MONTHS = column("months", minimum="0", maximum="600")
IS_LATE = column("late", ColumnType.BOOL)
OF_KIND = column("kind", ColumnType.CATEGORY, domain=("sole", "limited", "listed"), nullable=False)
SALES_FILED = column("sales", minimum="0", maximum="100000", grade=Grade.SENSITIVE)
SCHEMAS = {
    table: Schema(table=table, subject_key="uscc", identifiers=(USCC,), columns=columns)
    for table, columns in {
        "insurance.firms": (MONTHS, IS_LATE),
        "register.firms": (OF_KIND,),
        "tax.firms": (SALES_FILED,),
        "registry.firms": (MONTHS, IS_LATE, OF_KIND, SALES_FILED),
    }.items()
}


def at_least(name: str, bound: int) -> Comparing:
    return Comparing(
        op="compare",
        comparison=Comparison.GREATER_OR_EQUAL,
        left=ColumnValue(name=name),
        right=Number(value=str(bound)),
    )


SENIORITY = ByBucket(
    name="seniority", value=ColumnValue(name="months"), low=Number(value="12"), high=Number(value="120"), count=3
)
LATE = ByColumn(name="late", column="late")
KIND = ByColumn(name="kind", column="kind")
SALES = ByCase(
    name="sales",
    branches=(
        LabelBranch(when=Missing(value=ColumnValue(name="sales")), label="none filed"),
        LabelBranch(when=at_least("sales", 5000), label="5000 and more"),
        LabelBranch(when=at_least("sales", 100), label="100 to 5000"),
    ),
    otherwise="below 100",
)
FEATURES = (
    feature_of("insurance", SENIORITY, SCHEMAS["insurance.firms"]),
    feature_of("insurance", LATE, SCHEMAS["insurance.firms"]),
    feature_of("register", KIND, SCHEMAS["register.firms"]),
    feature_of("tax", SALES, SCHEMAS["tax.firms"]),
)
MINE = tuple(feature_of("registry", key, SCHEMAS["registry.firms"]) for key in (SENIORITY, LATE, KIND, SALES))
"""The same features at one holder, whom no other holder's masks help."""
POINTS = ((-9, 0, 4, 11, 25, -30), (12, -80, -3), (-5, 7, 40, 0), (-22, 31, 8, -14))
"""Bins: below 12, 12–48, 48–84, 84–120, from 120, NULL; false, true, NULL; the kinds, and not known; as in SALES."""


def sides_of(features: Sequence[ScoreFeature]) -> tuple[ScoreSide, ...]:
    """With the schemas above."""
    tables = sorted({(feature.holder, feature.table) for feature in features})
    return tuple(
        ScoreSide(holder=holder, table=table, schema_digest=SCHEMAS[table].digest(), on="uscc")
        for holder, table in tables
    )


def model(key_bits: int = 256, **changes: Any) -> ScoreModel:
    """A private model under the test key of `key_bits` bits, whose blob is not there yet."""
    features = changes.get("features", FEATURES)
    values: dict[str, Any] = {
        "model_id": "5c" * 16,
        "merchant": "bank",
        "purpose": "credit decision",
        "agreement_digest": Digest(sha256("example/agreement").hex()),
        "features": features,
        "sides": sides_of(features),
        "weights": PrivateWeights(blob_digest=Digest("0" * 64)),
        "key_id": Digest(key_id(int(keypair(key_bits)[0].n)).hex()),
        "valid_until": NOON + 3600,
    }
    return ScoreModel(**values | changes)


def product(
    points: Sequence[Sequence[int]] = POINTS, reasons: int = 2, key_bits: int = 256, **changes: Any
) -> ScoreModel:
    return model(key_bits, weights=ProductWeights(points=tuple(map(tuple, points)), reasons=reasons), **changes)
