"""Every statistic against an oracle that shares no code with it: numpy, Python's `statistics`, exact fractions."""

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.expression import ColumnValue, Missing, Number
from ceiba_protocol.plan import ByCase, LabelBranch, Named, Plan, compile_plan, finish, grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS, Output, Statistic
from ceiba_protocol.statistics.base import root
from ceiba_protocol.statistics.correlation import Correlation
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.covariance import Covariance
from ceiba_protocol.statistics.histogram import Histogram
from ceiba_protocol.statistics.mean import Mean
from ceiba_protocol.statistics.moments import Moments
from ceiba_protocol.statistics.standard_deviation import StandardDeviation
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.statistics.variance import Variance

SCHEMA = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": name, "type": "decimal", "resolution": "0.01", "minimum": -1000, "maximum": 1000}
            for name in ("x", "y")
        ],
    }
)
X, Y = ColumnValue(name="x"), ColumnValue(name="y")
Values = Sequence[int | None]
columns = st.lists(
    st.tuples(st.none() | st.integers(-100_000, 100_000), st.none() | st.integers(-100_000, 100_000)), max_size=40
)


def answer(statistic: Statistic, rows: Sequence[tuple[int | None, int | None]]) -> Output:
    plan = Plan(table="t", schema_digest=SCHEMA.digest(), outputs=(Named(name="o", statistic=statistic),))
    compiled = compile_plan(plan, SCHEMA)
    ((value,),) = finish(compiled, grouped_sums(compiled, [{"x": x, "y": y} for x, y in rows]))
    return value  # type: ignore[return-value]


def of_x(rows: Sequence[tuple[int | None, int | None]]) -> list[Fraction]:
    return [Fraction(x, 100) for x, _ in rows if x is not None]


def complete(rows: Sequence[tuple[int | None, int | None]]) -> tuple[list[Fraction], list[Fraction]]:
    pairs = [(Fraction(x, 100), Fraction(y, 100)) for x, y in rows if x is not None and y is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


@given(columns)
def test_counts_sums_and_means_are_the_correctly_rounded_exact_values(
    rows: list[tuple[int | None, int | None]],
) -> None:
    xs = of_x(rows)
    assert answer(Count(), rows) == len(rows)
    assert answer(Count(value=X), rows) == len(xs)
    assert answer(Sum(value=X), rows) == (float(sum(xs)) if xs else None)
    assert answer(Mean(value=X), rows) == (float(sum(xs) / len(xs)) if xs else None)


@given(columns)
def test_moments_are_exact_over_complete_rows(rows: list[tuple[int | None, int | None]]) -> None:
    found = answer(Moments(values=(X, Y, Number(value="1"))), rows)
    assert isinstance(found, list)
    sides = [*complete(rows), [Fraction(1)] * len(complete(rows)[0])]
    for entry in found:
        chosen = [sides[place] for place in (entry["left"], entry["right"]) if place is not None]
        assert Fraction(entry["total"]) == sum(math.prod(row) for row in zip(*chosen, sides[2], strict=True))
    places = [(entry["left"], entry["right"]) for entry in found]
    assert places[:4] == [(None, None), (0, None), (1, None), (2, None)]
    assert places[4:] == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


@given(columns)
def test_variances_are_the_correctly_rounded_exact_values(rows: list[tuple[int | None, int | None]]) -> None:
    xs = of_x(rows)
    sample = float(statistics.variance(xs)) if len(xs) > 1 else None
    population = float(statistics.pvariance(xs)) if xs else None
    assert answer(Variance(value=X), rows) == sample
    assert answer(Variance(value=X, population=True), rows) == population
    assert answer(StandardDeviation(value=X), rows) == (statistics.stdev(xs) if len(xs) > 1 else None)
    assert answer(StandardDeviation(value=X, population=True), rows) == (statistics.pstdev(xs) if xs else None)


@given(st.fractions(min_value=0) | st.integers(0, 2**300).map(Fraction))
def test_a_root_is_the_nearest_float(value: Fraction) -> None:
    got = Fraction(root(*value.as_integer_ratio()))
    below, above = (Fraction(math.nextafter(float(got), to)) for to in (0.0, math.inf))
    assert (max(got + below, 0) / 2) ** 2 <= value <= ((got + above) / 2) ** 2


@given(columns)
def test_covariances_use_the_rows_where_both_values_are_there(rows: list[tuple[int | None, int | None]]) -> None:
    xs, ys = complete(rows)
    n = len(xs)
    joint = sum((x - sum(xs) / n) * (y - sum(ys) / n) for x, y in zip(xs, ys, strict=True)) if n else Fraction(0)
    assert answer(Covariance(left=X, right=Y, population=True), rows) == (float(joint / n) if n else None)
    assert answer(Covariance(left=X, right=Y), rows) == (float(joint / (n - 1)) if n > 1 else None)


@given(columns)
def test_correlation_agrees_with_numpy(rows: list[tuple[int | None, int | None]]) -> None:
    xs, ys = complete(rows)
    got = answer(Correlation(left=X, right=Y), rows)
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        assert got is None
        return
    wanted = np.corrcoef(np.array(xs, dtype=float), np.array(ys, dtype=float))[0, 1]
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(columns, st.integers(1, 12))
def test_histograms_agree_with_numpy(rows: list[tuple[int | None, int | None]], bins: int) -> None:
    got = answer(Histogram(value=X, low=Number(value="-250.5"), high=Number(value="250.5"), bins=bins), rows)
    assert isinstance(got, list)
    xs = of_x(rows)
    low, high = Fraction("-250.5"), Fraction("250.5")
    places = [(x - low) * bins / (high - low) for x in xs if low <= x <= high]
    wanted, _ = np.histogram([min(int(place), bins - 1) for place in places], bins=bins, range=(0, bins))
    assert [entry["count"] for entry in got[1:-1]] == list(wanted)
    assert got[0] == {"from": None, "to": -250.5, "count": sum(x < low for x in xs)}
    assert got[-1] == {"from": 250.5, "to": None, "count": sum(x > high for x in xs)}


def test_nothing_cancels_where_floats_would() -> None:
    """Values with a large mean and a tiny spread: the textbook's float formula gives nonsense here."""
    rows = [(99_999, None), (100_000, None), (100_000, None)]
    assert answer(Variance(value=X), rows) == float(Fraction(1, 30_000))


def test_every_statistic_is_documented_and_has_a_name_and_sql() -> None:
    assert set(STATISTICS) == {
        "count", "subjects", "sum", "mean", "variance", "standard_deviation", "covariance", "correlation", "histogram",
        "moments", "glm", "survival", "cox", "kmeans",
    }  # fmt: skip
    for name, kind in STATISTICS.items():
        assert kind.__doc__ and kind.name() == name
    assert sorted(name for name, kind in STATISTICS.items() if not kind.sql) == [
        "cox", "glm", "kmeans", "moments", "subjects", "survival",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.integers(0, 3)), max_size=12))
def test_subjects_are_counted_once_in_each_group(rows: list[tuple[int | None, int]]) -> None:
    """A group is a value of x here, so that NULL is one too."""
    key = ByCase(name="g", branches=(LabelBranch(when=Missing(value=X), label="none"),), otherwise="some")
    named = Named(name="o", statistic=Subjects())
    plan = Plan(table="t", schema_digest=SCHEMA.digest(), groups=(key,), outputs=(named,))
    compiled = compile_plan(plan, SCHEMA)
    groups = [(label, {who for x, who in rows if (x is None) == (label == "none")}) for label in ("none", "some")]
    with_numbers = [{"x": x, "y": None, "#subject": who} for x, who in rows]
    assert finish(compiled, grouped_sums(compiled, with_numbers)) == [(label, len(who)) for label, who in groups if who]
    without = [{"x": x, "y": None} for x, _ in rows]
    counts = [(label, sum((x is None) == (label == "none") for x, _ in rows)) for label in ("none", "some")]
    assert finish(compiled, grouped_sums(compiled, without)) == [(label, n) for label, n in counts if n]
