"""A scorecard over three agencies' columns of the same firms, for tests."""

from collections.abc import Sequence
from typing import Any

from ceiba_protocol.canonical import Digest, sha256
from ceiba_protocol.expression import ColumnValue, Comparing, Missing, Number
from ceiba_protocol.linkage.score_model import (
    PrivateWeights,
    ProductWeights,
    SchemaPin,
    ScoreFeature,
    ScoreModel,
)
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn, LabelBranch
from ceiba_protocol.program import Comparison
from ceiba_protocol.schema import Column, ColumnType, Grade, Schema
from ceiba_protocol.sums.paillier import key_id
from tests.support.keys import keypair

NOON = 1_700_000_000
"""Seconds since 1970 UTC."""


def column(name: str, kind: ColumnType = ColumnType.INT, **values: Any) -> Column:
    return Column(name=name, type=kind, **values)


SCHEMAS = {
    schema.table: schema
    for schema in (
        Schema(
            table="insurance.firms",
            subject_key="uscc",
            columns=(column("months", minimum="0", maximum="600"), column("late", ColumnType.BOOL)),
        ),
        Schema(
            table="register.firms",
            subject_key="uscc",
            columns=(column("kind", ColumnType.CATEGORY, domain=("sole", "limited", "listed"), nullable=False),),
        ),
        Schema(
            table="tax.firms",
            subject_key="uscc",
            columns=(column("sales", minimum="0", maximum="100000", grade=Grade.SENSITIVE),),
        ),
    )
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
    ScoreFeature(holder="insurance", table="insurance.firms", key=SENIORITY),
    ScoreFeature(holder="insurance", table="insurance.firms", key=LATE),
    ScoreFeature(holder="register", table="register.firms", key=KIND),
    ScoreFeature(holder="tax", table="tax.firms", key=SALES),
)
POINTS = ((-9, 0, 4, 11, 25, -30), (12, -80, -3), (-5, 7, 40, 0), (-22, 31, 8, -14))
"""Bins: below 12, 12–48, 48–84, 84–120, from 120, NULL; false, true, NULL; the kinds, and not known; as in SALES."""


def model(key_bits: int = 256, **changes: Any) -> ScoreModel:
    """A private model under the test key of `key_bits` bits, whose blob is not there yet."""
    features = changes.get("features", FEATURES)
    tables = sorted({feature.table for feature in features})
    values: dict[str, Any] = {
        "model_id": "5c" * 16,
        "merchant": "bank",
        "purpose": "credit decision",
        "agreement_digest": Digest(sha256("example/agreement").hex()),
        "features": features,
        "schemas": tuple(SchemaPin(table=table, schema_digest=SCHEMAS[table].digest()) for table in tables),
        "weights": PrivateWeights(blob_digest=Digest("0" * 64)),
        "key_id": Digest(key_id(int(keypair(key_bits)[0].n)).hex()),
        "valid_until": NOON + 3600,
    }
    return ScoreModel(**values | changes)


def product(
    points: Sequence[Sequence[int]] = POINTS, reasons: int = 2, key_bits: int = 256, **changes: Any
) -> ScoreModel:
    return model(key_bits, weights=ProductWeights(points=tuple(map(tuple, points)), reasons=reasons), **changes)
