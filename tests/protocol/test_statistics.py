"""Every statistic against an oracle that shares no code with it: numpy, Python's `statistics`, exact fractions."""

import math
import statistics
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.expression import ColumnValue, Missing, Number
from ceiba_protocol.plan import ByCase, LabelBranch, Named, Plan, compile_plan, finish, grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS, WITHHELD, Output, Statistic
from ceiba_protocol.statistics.base import Total, root
from ceiba_protocol.statistics.correlation import Correlation
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.covariance import Covariance
from ceiba_protocol.statistics.histogram import Histogram
from ceiba_protocol.statistics.mean import Mean
from ceiba_protocol.statistics.moments import Moments
from ceiba_protocol.statistics.quantile import Quantile
from ceiba_protocol.statistics.regression import Regression
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


@settings(deadline=None)
@given(columns, st.sampled_from(["0", "0.25", "0.5", "0.9", "1"]))
def test_quantiles_agree_with_numpy(rows: list[tuple[int | None, int | None]], q: str) -> None:
    """Values are whole here, from -20 to 20, and bins one wide; values beyond the bounds have no place in them."""
    rows = [(None if x is None else x // 5000 * 100, None) for x, _ in rows]
    xs = [float(x) for x in of_x(rows)]
    whole = Quantile(value=X, q=Number(value=q), low=Number(value="-15.5"), high=Number(value="15.5"), bins=31)
    got = answer(whole, rows)
    if not xs:
        assert got is None
        return
    position = float(q) * (len(xs) - 1)
    neighbours = [sorted(xs)[math.floor(position)], sorted(xs)[math.ceil(position)]]
    if max(map(abs, neighbours)) > 15:
        assert got is None
        return
    assert got == pytest.approx(np.quantile(xs, float(q)), rel=1e-9, abs=1e-9)
    coarse = answer(whole.model_copy(update={"bins": 7}), rows)
    assert isinstance(coarse, float) and abs(coarse - np.quantile(xs, float(q))) <= 31 / 7 / 2 + 1e-9


def test_a_quantile_inside_its_bounds_counts_nothing_beyond_them() -> None:
    bounds = {"low": Number(value="-0.5"), "high": Number(value="3.5"), "bins": 4}
    inside = Quantile(value=X, q=Number(value="0.5"), inside=True, **bounds)
    assert len(inside.sums()) == 4 and len(Quantile(value=X, q=Number(value="0.5"), **bounds).sums()) == 6
    assert answer(inside, [(0, None), (300, None), (100, None)]) == 1
    withheld = [Total(1, Fraction(1)), Total(0, Fraction(1), withheld=True), *[Total(5, Fraction(1))] * 2]
    assert inside.finish(*withheld) is WITHHELD


@given(columns)
def test_the_least_squares_line_agrees_with_scipy(rows: list[tuple[int | None, int | None]]) -> None:
    def part(name: str) -> Output:
        return answer(Regression(y=Y, x=X, part=name), rows)

    xs, ys = ([float(one) for one in side] for side in complete(rows))
    assert part("count") == len(xs)
    if len(set(xs)) < 2:
        assert part("slope") is part("intercept") is part("r2") is None
        assert (part("sxx") is None) == (not xs) and (part("avgx") is None) == (not xs)
        return
    line = scipy.stats.linregress(xs, ys)
    scale = max(map(abs, ys)) or 1
    assert part("slope") == pytest.approx(line.slope, rel=1e-7, abs=1e-9 * scale)
    assert part("intercept") == pytest.approx(line.intercept, rel=1e-7, abs=1e-7 * scale)
    assert part("r2") == pytest.approx(1.0 if len(set(ys)) == 1 else line.rvalue**2, rel=1e-7, abs=1e-9)
    centred_x, centred_y = np.array(xs) - np.mean(xs), np.array(ys) - np.mean(ys)
    assert part("sxx") == pytest.approx(centred_x @ centred_x, rel=1e-9)
    assert part("syy") == pytest.approx(centred_y @ centred_y, rel=1e-9, abs=1e-9)
    assert part("sxy") == pytest.approx(centred_x @ centred_y, rel=1e-7, abs=1e-6)
    assert (part("avgx"), part("avgy")) == (pytest.approx(np.mean(xs)), pytest.approx(np.mean(ys)))


def test_each_part_of_the_line_asks_for_no_more_than_it_needs() -> None:
    sums = {
        part: len(Regression(y=Y, x=X, part=part).sums()) for part in ("count", "avgx", "sxx", "sxy", "slope", "r2")
    }
    assert sums == {"count": 1, "avgx": 2, "sxx": 3, "sxy": 4, "slope": 5, "r2": 6}


def test_nothing_cancels_where_floats_would() -> None:
    """Values with a large mean and a tiny spread: the textbook's float formula gives nonsense here."""
    rows = [(99_999, None), (100_000, None), (100_000, None)]
    assert answer(Variance(value=X), rows) == float(Fraction(1, 30_000))


def test_every_statistic_is_documented_and_has_a_name_and_sql() -> None:
    assert set(STATISTICS) == {
        "count", "subjects", "sum", "mean", "variance", "standard_deviation", "covariance", "correlation", "histogram",
        "moments", "glm", "survival", "cox", "kmeans", "quantile", "regression",
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
