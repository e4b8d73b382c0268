"""Whether one division of a column refines another: from the questions and the schema alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_node import one_table
from ceiba_node.one_table import Division, _refines, _values, check_divisions
from ceiba_protocol.errors import AskedOtherwise
from ceiba_protocol.expression import Arithmetic, ColumnValue, Comparing, Number
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn, GroupKey, LabelBranch, Named, Plan, compile_plan
from ceiba_protocol.program import Comparison, evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.count import Count

SCHEMA = Schema.from_plain(
    {
        "table": "tax.firms",
        "subject_key": "uscc",
        "columns": [
            {"name": "sales", "type": "int", "minimum": -1_000_000, "maximum": 1_000_000, "nullable": True},
            {"name": "staff", "type": "int", "minimum": 0, "maximum": 99},
            {"name": "size", "type": "category", "domain": ["small", "middle", "large"]},
        ],
    }
)
SALES = ColumnValue(name="sales")


def plan(*keys: GroupKey) -> Plan:
    outputs = (Named(name="rows", statistic=Count()),)
    return Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), groups=keys, outputs=outputs)


def cut(*edges: int, value: Any = SALES) -> ByCase:
    branches = tuple(
        LabelBranch(
            when=Comparing(comparison=Comparison.LESS, left=value, right=Number(value=str(edge))), label=f"< {edge}"
        )
        for edge in edges
    )
    return ByCase(name="part", branches=branches, otherwise="more")


def buckets(low: int, high: int, count: int) -> ByBucket:
    return ByBucket(name="part", value=SALES, low=Number(value=str(low)), high=Number(value=str(high)), count=count)


def fit(*keys: GroupKey) -> bool:
    first, second = (plan(key) for key in keys)
    try:
        check_divisions(SCHEMA, [first], [second])
    except AskedOtherwise:
        return False
    return True


SQUARE = Arithmetic(op="multiply", left=SALES, right=SALES)


@pytest.mark.parametrize(
    ("one", "other", "refines"),
    [
        (cut(0, 10, 20), cut(10), True),
        (cut(10), cut(0, 10, 20), True),
        (cut(10), cut(11), False),
        (cut(0, 10), cut(5), False),
        (buckets(0, 100, 10), buckets(0, 100, 5), True),
        (buckets(0, 100, 10), buckets(0, 100, 3), False),
        (buckets(0, 100, 10), buckets(0, 120, 12), True),  # above 100 the other has more
        (buckets(0, 100, 10), cut(0, 50, 100), True),
        (buckets(0, 100, 10), cut(55), False),
        (cut(10), ByColumn(name="size", column="size"), True),  # of other columns
        (cut(10), cut(100, value=SQUARE), False),  # no line, so its edges cannot be told
    ],
)
def test_which_divisions_fit(one: GroupKey, other: GroupKey, refines: bool) -> None:
    assert fit(one, other) == refines == fit(other, one)
    assert fit(one, one)


EDGES = st.lists(st.integers(-30, 130), min_size=1, max_size=4, unique=True).map(sorted)
KEYS = EDGES.map(lambda edges: cut(*edges)) | st.builds(
    buckets, st.integers(-20, 0), st.integers(40, 120), st.integers(1, 6)
)


@settings(max_examples=150)
@given(KEYS, KEYS)
def test_the_edges_say_what_all_values_say(one: GroupKey, other: GroupKey) -> None:
    """Where a column has too many values to look at each, its edges are looked at, which is the same."""
    nodes = [compile_plan(plan(key), SCHEMA).keys[0].node for key in (one, other)]
    found = _values(*nodes)
    assert found is not None and len(found) < 20_000

    def parts(values: Any) -> set[tuple[Any, ...]]:
        return {tuple(evaluate(node, {"sales": value}) for node in nodes) for value in values}

    assert parts(found) == parts([*range(-1000, 1001), -1_000_000, 1_000_000, None])
    both = [Division(node, frozenset({"sales"}), is_key=True) for node in nodes]
    assert _refines(both[0], both[1]) == _refines(both[1], both[0])


def test_too_many_edges_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(buckets(0, 1000, 100), buckets(0, 1000, 50))
    monkeypatch.setattr(one_table, "MANY", 99)
    assert not fit(buckets(0, 1000, 100), buckets(0, 1000, 50))


def test_earlier_plans_are_not_compared_with_one_another() -> None:
    """They were answered; and a new schema must not end everything."""
    with pytest.raises(AskedOtherwise, match="division of sales"):
        check_divisions(SCHEMA, [], [plan(cut(10)), plan(cut(11))])
    check_divisions(SCHEMA, [plan(cut(10)), plan(cut(11))], [plan(ByColumn(name="size", column="size"))])
    check_divisions(SCHEMA, [], [plan(cut(10), ByColumn(name="size", column="size")), plan(cut(10))])
