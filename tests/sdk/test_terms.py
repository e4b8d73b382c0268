"""Terms: Python's operators become the protocol's expressions, exactly, or a named error."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ceiba.statistics
from ceiba.statistics import statistic, statistic_names
from ceiba.terms import Grouping, Term, case, col, date_trunc, grouping, literal, plan_name, width_bucket
from ceiba_protocol.errors import BadQuestion, PlanTooLarge, UnknownStatistic, WrongType
from ceiba_protocol.expression import Logic, Number, TextValue, TruthValue
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn
from ceiba_protocol.statistics import STATISTICS

AGE = col("age")


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (AGE + 1, "(age + 1)"),
        (1 + AGE, "(1 + age)"),
        (2 - AGE * 3, "(2 - (age * 3))"),
        (1 / AGE, "(1 / age)"),
        ((AGE / col("b")).round(2), "ROUND((age / b), 2)"),
        (-AGE, "(age * -1)"),
        (+AGE, "age"),
        (AGE == 5, "age = 5"),
        (AGE != "x", "age <> 'x'"),
        (Decimal("0.50") > AGE, "age < 0.5"),
        (AGE >= 0.1, "age >= 0.1"),
        (AGE.between(1, 9) & (col("b") == True), "(age >= 1 AND age <= 9 AND b = TRUE)"),  # noqa: E712
        ((AGE > 1) | (AGE > 2) | (AGE > 3), "(age > 1 OR age > 2 OR age > 3)"),
        (~(AGE > 1), "NOT (age > 1)"),
        (AGE.isin([1, 2]), "(age = 1 OR age = 2)"),
        (AGE.isin([1]), "age = 1"),
        (AGE.isin([]), "FALSE"),
        (AGE.isnull(), "age IS NULL"),
        (AGE.notnull(), "age IS NOT NULL"),
        (col("d") >= date(2024, 1, 31), "d >= '2024-01-31'"),
        (col("d") >= datetime(2024, 1, 31, 12, tzinfo=UTC), "d >= '2024-01-31T12:00:00+00:00'"),
        (case((AGE > 5, 1), (AGE > 3, AGE), otherwise=0), "CASE WHEN age > 5 THEN 1 WHEN age > 3 THEN age ELSE 0 END"),
    ],
)
def test_operators_become_expressions(term: Term, text: str) -> None:
    assert repr(term) == text


def test_a_term_has_no_truth_value() -> None:
    for use in (lambda: bool(AGE), lambda: AGE > 1 and AGE < 3, lambda: 1 < AGE < 3, lambda: AGE in [col("b")]):
        with pytest.raises(BadQuestion, match=r"& \| ~ instead of and, or, not"):
            use()


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        (True, TruthValue(value=True)),
        (0.1, Number(value="0.1")),
        (1e-7, Number(value="0.0000001")),
        (1e20, Number(value="100000000000000000000")),
        (-0.0, Number(value="0")),
        (Decimal("1E+2"), Number(value="100")),
        (Decimal("1234567890123456789012345678901.5"), Number(value="1234567890123456789012345678901.5")),
        (2**100, Number(value=str(2**100))),
        (numpy.int64(3), Number(value="3")),
        (numpy.float64(0.1), Number(value="0.1")),
        (numpy.bool_(False), TruthValue(value=False)),
        ("e\u0301", TextValue(value="\u00e9")),
    ],
)
def test_literals_are_exact(value: object, expression: object) -> None:
    assert literal(value) == expression


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), Decimal("1e999999999"), 10**60, None, object(), b"x", [1], "\ud800"]
)
def test_other_values_are_refused_by_name(value: object) -> None:
    with pytest.raises(BadQuestion):
        literal(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=15))
def test_decimals_keep_every_digit(value: Decimal) -> None:
    expression = literal(value)
    assert isinstance(expression, Number) and Decimal(expression.value) == value
    assert repr(-Term(expression)) == repr(Term(literal(value.copy_negate())))


def test_misuse_is_explained() -> None:
    for use in (
        lambda: AGE == None,  # noqa: E711
        lambda: AGE.isin("abc"),
        lambda: AGE.isin([None]),
        lambda: AGE.round(-1),
        lambda: AGE.round(13),
        lambda: col("no such"),
        lambda: col(3),  # type: ignore[arg-type]
        lambda: case(),
        lambda: case((AGE > 1, "\ud800")),
        lambda: case((AGE > 1, "a"), otherwise=0),  # type: ignore[arg-type]
        lambda: date_trunc("fortnight", "seen"),
        lambda: date_trunc("month", AGE + 1),
        lambda: width_bucket(AGE, 0, "x", 3),  # type: ignore[arg-type]
        lambda: width_bucket(AGE, 0, 10, 0),
        lambda: width_bucket(AGE, 0, 10, 2.5),  # type: ignore[arg-type]
        lambda: AGE.alias("größe"),
    ):
        with pytest.raises(BadQuestion):
            use()


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep = AGE
    for _ in range(5000):
        deep = deep + 1
    for use in (lambda: statistic("mean")(deep), lambda: grouping(deep > 1), lambda: width_bucket(deep, 0, 1, 2)):
        with pytest.raises(PlanTooLarge, match="nesting"):
            use()


# --- groups -----------------------------------------------------------------------------------------------------


def test_columns_and_conditions_are_groups() -> None:
    assert grouping("sex").key == grouping(col("sex")).key == ByColumn(name="sex", column="sex")
    old = grouping(AGE > 50)
    assert isinstance(old.key, ByCase) and old.key.name == "age_gt_50"
    assert [branch.label for branch in old.key.branches] == ["true", "false"]
    assert (AGE > 50).alias("old").key.name == "old"
    with pytest.raises(WrongType, match="width_bucket"):
        grouping(AGE + 1)


def test_helpers_make_groups() -> None:
    bucket = width_bucket(AGE, 0, 0.5, 4)
    assert isinstance(bucket.key, ByBucket) and bucket.key.high == Number(value="0.5")
    assert date_trunc("MONTH", "seen").key.name == "date_trunc_month_seen"
    labels = case((AGE < 40, "young"), otherwise="old")
    assert isinstance(labels, Grouping) and labels.alias("g").same_groups(labels)


@given(st.text())
def test_any_title_gives_a_name_that_a_plan_accepts(title: str) -> None:
    assert ByColumn(name=plan_name(title), column="x")


# --- statistics -------------------------------------------------------------------------------------------------


def test_arguments_fill_the_fields_in_order() -> None:
    assert repr(statistic("mean")("age").value) == repr(statistic("avg")(AGE).value)  # type: ignore[attr-defined]
    histogram: Any = statistic("histogram")("age", 0, 99.5, bins=10)
    assert (histogram.low.value, histogram.high.value, histogram.bins) == ("0", "99.5", 10)
    assert statistic("count")() == STATISTICS["count"](statistic="count")
    assert statistic("var_pop")("age") == statistic("variance")("age", population=True)
    assert statistic("stddev_pop")("age") == statistic("standard_deviation")("age", True)


def test_a_condition_can_be_averaged() -> None:
    condition: Any = statistic("mean")((AGE > 5) & (AGE < 9))
    assert isinstance(condition.value, Logic)


@pytest.mark.parametrize("name", statistic_names())
def test_every_constructor_explains_itself(name: str) -> None:
    construct = statistic(name)
    assert construct.__name__ == name and construct.__doc__
    with pytest.raises(BadQuestion, match=rf"Call it as {name}\("):
        construct("age", "age", "age", "age", "age", "age", "age", "age", "age", "age", "age", "age", no_such=1)


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(BadQuestion, match="missing a required argument: 'value'"):
        statistic("mean")()
    uses: list[Callable[[], object]] = [
        lambda: statistic("histogram")("age", 0, 10, "many"),
        lambda: statistic("histogram")("age", 10, 0, 5),
        lambda: statistic("histogram")("age", "age", 10, 5),
        lambda: statistic("variance")("age", population="yes"),
        lambda: statistic("var_pop")("age", population=False),
        lambda: statistic("mean")(Term(TextValue(value="x"))),
        lambda: statistic("mean")("no such"),
    ]
    for use in uses:
        with pytest.raises(BadQuestion):
            use()


def test_an_unknown_statistic_has_a_nearest_name() -> None:
    with pytest.raises(UnknownStatistic, match="mean"):
        statistic("meen")


def test_statistics_are_known_by_their_sql_names() -> None:
    assert {"avg", "var_samp", "stddev_pop", "corr", "covar_pop", "mean", "count"} <= set(statistic_names())
    assert ceiba.statistics.statistic("avg") is statistic("avg")
