"""Expressions and plans: types, exact units, public domains, limits. Meaning is tested against DuckDB and Python."""

from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ceiba_protocol.errors import (
    CeibaError,
    ManifestMismatch,
    NoDomain,
    PlanTooLarge,
    ResolutionNeeded,
    TooManyGroups,
    UnboundedColumn,
    UnknownColumn,
    ValueOutOfRange,
    WrongType,
)
from ceiba_protocol.expression import (
    Arithmetic,
    Branch,
    Case,
    ColumnValue,
    Comparing,
    Expression,
    Logic,
    Missing,
    Not,
    Number,
    Round,
    SubjectCount,
    TextValue,
    lower,
    lower_condition,
    lower_sum,
    number,
    to_text,
)
from ceiba_protocol.plan import (
    ByBucket,
    ByCalendar,
    ByCase,
    ByColumn,
    LabelBranch,
    Named,
    Plan,
    compile_plan,
    finish,
    grouped_sums,
)
from ceiba_protocol.program import TRUE, CalendarUnit, Comparison, evaluate, round_half_away
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.histogram import Histogram
from ceiba_protocol.statistics.mean import Mean
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.statistics.sum import Sum

SCHEMA = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "sex", "type": "category", "domain": ["f", "m"]},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120},
            {"name": "price", "type": "decimal", "resolution": 0.01, "minimum": -100, "maximum": 100},
            {"name": "rate", "type": "decimal", "resolution": 0.125, "minimum": 0, "maximum": 8},
            {"name": "stage", "type": "int", "domain": [4, 1, 2], "nullable": False},
            {"name": "ill", "type": "bool", "nullable": False},
            {"name": "day", "type": "date", "minimum": "2016-01-01", "maximum": "2016-12-31"},
            {"name": "seen", "type": "timestamp", "minimum": "2016-01-01T00:00", "maximum": "2016-12-31T23:59"},
            {"name": "free", "type": "int"},
        ],
    }
)


def col(name: str) -> ColumnValue:
    return ColumnValue(name=name)


def compare(left: Expression, sign: str, right: Expression) -> Comparing:
    return Comparing(comparison=Comparison(sign), left=left, right=right)


def combine(left: Expression, op: str, right: Expression) -> Arithmetic:
    return Arithmetic(op=op, left=left, right=right)  # type: ignore[arg-type]


def plan(*statistics: Statistic, groups: tuple[object, ...] = (), where: Expression | None = None) -> Plan:
    outputs = tuple(Named(name=f"o{place}", statistic=one) for place, one in enumerate(statistics or (Count(),)))
    return Plan(table="t", schema_digest=SCHEMA.digest(), filter=where, groups=groups, outputs=outputs)  # type: ignore[arg-type]


def exact(expression: Expression, **row: int | None) -> Fraction | None:
    """An expression's exact value on a row of integers."""
    lowered = lower(expression, SCHEMA)
    value = evaluate(lowered.node, row)
    return None if value is None else value * lowered.step


# --- units are exact -------------------------------------------------------------------------------------------


@given(price=st.integers(-10_000, 10_000), rate=st.integers(0, 64), age=st.integers(0, 120))
def test_arithmetic_over_different_resolutions_is_exact(price: int, rate: int, age: int) -> None:
    p, r, a = Fraction(price, 100), Fraction(rate, 8), Fraction(age)
    row = {"price": price, "rate": rate, "age": age}
    assert exact(combine(col("price"), "add", col("rate")), **row) == p + r
    assert exact(combine(col("rate"), "subtract", col("price")), **row) == r - p
    assert exact(combine(col("price"), "multiply", col("rate")), **row) == p * r
    assert exact(combine(col("price"), "divide", Number(value="-3")), **row) == p / -3
    assert exact(combine(col("age"), "multiply", Number(value="0.5")), **row) == a / 2
    assert bool(exact(compare(col("price"), "<", col("rate")), **row)) == (p < r)
    assert bool(exact(compare(col("price"), ">=", Number(value="0.005")), **row)) == (p >= Fraction(1, 200))


@given(price=st.integers(-10_000, 10_000), age=st.integers(0, 120), digits=st.integers(0, 4))
def test_a_rounded_quotient_is_the_nearest_multiple_halves_away_from_zero(price: int, age: int, digits: int) -> None:
    got = exact(Round(value=combine(col("price"), "divide", col("age")), digits=digits), price=price, age=age)
    if age == 0:
        assert got is None
        return
    wanted = Decimal(price) / 100 / age
    assert got == Fraction(wanted.quantize(Decimal(1).scaleb(-digits), rounding="ROUND_HALF_UP"))


@given(st.integers(-(10**6), 10**6), st.integers(-1000, 1000).filter(bool))
def test_rounding_halves_away_from_zero_is_symmetric_and_nearest(left: int, right: int) -> None:
    rounded = round_half_away(left, right)
    assert round_half_away(-left, right) == -rounded == round_half_away(left, -right)
    assert abs(Fraction(left, right) - rounded) <= Fraction(1, 2)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**30), max_value=10**30))
def test_a_literal_keeps_every_digit(value: Decimal) -> None:
    assert Fraction(number(value).value) == Fraction(value)


def test_a_literal_that_is_no_decimal_is_refused() -> None:
    with pytest.raises(ValueError, match="finite decimal"):
        number(Fraction(1, 3))


# --- three-valued logic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", list(Comparison))
def test_a_comparison_with_null_is_null(sign: Comparison) -> None:
    assert exact(Comparing(comparison=sign, left=col("age"), right=Number(value="1")), age=None) is None


def test_case_takes_the_first_branch_that_is_true_and_null_is_not() -> None:
    first = Branch(when=compare(col("age"), ">", Number(value="50")), then=Number(value="1"))
    case = Case(branches=(first,), otherwise=Number(value="2.5"))
    assert [exact(case, age=age) for age in (60, 40, None)] == [1, Fraction(5, 2), Fraction(5, 2)]


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        (col("agee"), UnknownColumn),
        (combine(col("sex"), "add", col("age")), WrongType),
        (combine(col("age"), "divide", col("price")), ResolutionNeeded),
        (combine(col("age"), "divide", Number(value="0")), WrongType),
        (compare(col("sex"), "<", TextValue(value="m")), WrongType),
        (compare(col("sex"), "=", col("age")), WrongType),
        (compare(col("day"), ">", TextValue(value="last week")), WrongType),
        (compare(TextValue(value="a"), "=", TextValue(value="a")), WrongType),
        (Not(term=col("age")), WrongType),
        (Missing(value=TextValue(value="x")), WrongType),
        (Number(value="1" + "0" * 40), ValueOutOfRange),
        (SubjectCount(), WrongType),
        (Missing(value=SubjectCount()), WrongType),
        (combine(SubjectCount(), "add", col("age")), WrongType),
        (compare(SubjectCount(), ">", Number(value="1")), WrongType),
        (Round(value=SubjectCount(), digits=0), WrongType),
        (combine(combine(col("free"), "multiply", col("free")), "multiply", col("free")), ValueOutOfRange),
    ],
)
def test_an_expression_without_meaning_is_refused(expression: Expression, error: type[CeibaError]) -> None:
    with pytest.raises(error):
        lower(expression, SCHEMA)


def test_subjects_are_counted_as_a_whole_and_never_within_a_statistic() -> None:
    compiled = compile_plan(plan(Subjects()), SCHEMA)
    assert [one.row_bound for one in compiled.sums] == [1, 1]
    for refused in (plan(Count(value=SubjectCount())), plan(where=SubjectCount()), plan(Mean(value=SubjectCount()))):
        with pytest.raises(WrongType, match="a number of subjects"):
            compile_plan(refused, SCHEMA)
    bucket = ByBucket(name="b", value=SubjectCount(), low=Number(value="0"), high=Number(value="1"), count=2)
    with pytest.raises(WrongType, match="a number of subjects"):
        compile_plan(plan(groups=(bucket,)), SCHEMA)


def test_a_column_without_bounds_cannot_be_summed_and_the_error_says_what_to_declare() -> None:
    with pytest.raises(UnboundedColumn, match="free has no declared minimum and maximum"):
        lower_sum(col("free"), SCHEMA)


def test_a_column_without_a_domain_cannot_be_grouped_by_and_the_error_says_what_to_declare() -> None:
    with pytest.raises(NoDomain) as raised:
        compile_plan(plan(groups=(ByColumn(name="age", column="age"),)), SCHEMA)
    assert "width_bucket(age" in raised.value.what_to_do


def test_more_cells_than_the_limit_are_refused() -> None:
    buckets = ByBucket(name="b", value=col("free"), low=Number(value="0"), high=Number(value="1"), count=10_000)
    with pytest.raises(TooManyGroups, match="the limit is 100000"):
        compile_plan(plan(groups=(buckets, ByCalendar(name="d", column="day", unit=CalendarUnit.DAY))), SCHEMA)


def test_more_grouping_keys_than_the_limit_are_refused() -> None:
    with pytest.raises(PlanTooLarge):
        compile_plan(plan(groups=tuple(ByColumn(name=f"g{i}", column="ill") for i in range(9))), SCHEMA)


def test_a_plan_for_another_schema_is_refused() -> None:
    other = SCHEMA.model_copy(update={"version": 2})
    with pytest.raises(ManifestMismatch):
        compile_plan(plan(), other)


def test_a_deep_expression_costs_no_more_than_its_size() -> None:
    """Lowering each operand twice would take 2^40 steps here."""
    deep: Expression = col("age")
    for _ in range(40):
        deep = combine(deep, "add", Number(value="1"))
    assert exact(deep, age=2) == 42


def test_more_sums_than_the_limit_are_refused_before_they_are_lowered() -> None:
    wide = Histogram(value=col("age"), low=Number(value="0"), high=Number(value="120"), bins=1000)
    with pytest.raises(PlanTooLarge, match="limit of 6000"):
        compile_plan(plan(*[wide] * 6), SCHEMA)


@pytest.mark.parametrize(
    "text", ["1E+100000000", "1e5", "NaN", "Infinity", "+1", "01", ".5", "1.", "1_000", "9" * 91, ""]
)
def test_a_literal_is_digits_and_nothing_that_stands_for_more_of_them(text: str) -> None:
    with pytest.raises(ValidationError):
        Number(value=text)


# --- public domains --------------------------------------------------------------------------------------------


def test_null_is_a_group_of_its_own_where_it_can_occur() -> None:
    compiled = compile_plan(plan(groups=(ByColumn(name="g", column="sex"), ByColumn(name="s", column="stage"))), SCHEMA)
    assert list(compiled.labels()) == [(g, s) for g in ("f", "m", None) for s in (4, 1, 2)]


def test_groups_without_rows_are_left_out_and_a_question_without_groups_has_one_row() -> None:
    compiled = compile_plan(plan(groups=(ByColumn(name="g", column="sex"),)), SCHEMA)
    assert finish(compiled, grouped_sums(compiled, [{"sex": 1}, {"sex": None}, {"sex": 1}])) == [("m", 2), (None, 1)]
    whole = compile_plan(plan(Count(), Sum(value=col("age"))), SCHEMA)
    assert finish(whole, grouped_sums(whole, [])) == [(0, None)]


@given(st.integers(0, 365))
def test_calendar_groups_are_the_first_days_that_python_gives(offset: int) -> None:
    day = date(2016, 1, 1).toordinal() + offset
    moment = date.fromordinal(day)
    starts = {
        CalendarUnit.DAY: moment,
        CalendarUnit.WEEK: date.fromisocalendar(moment.isocalendar().year, moment.isocalendar().week, 1),
        CalendarUnit.MONTH: moment.replace(day=1),
        CalendarUnit.QUARTER: moment.replace(month=(moment.month + 2) // 3 * 3 - 2, day=1),
        CalendarUnit.YEAR: moment.replace(month=1, day=1),
    }
    since_1970 = day - date(1970, 1, 1).toordinal()
    for unit, start in starts.items():
        for name, value in (("day", since_1970), ("seen", since_1970 * 86_400_000_000 + 86_399_999_999)):
            compiled = compile_plan(plan(groups=(ByCalendar(name="g", column=name, unit=unit),)), SCHEMA)
            assert finish(compiled, grouped_sums(compiled, [{name: value}])) == [(start, 1)]


@given(price=st.integers(-10_000, 10_000), count=st.integers(1, 40))
def test_buckets_are_the_standards_width_bucket(price: int, count: int) -> None:
    low, high = Decimal("-33.335"), Decimal("41.7")
    group = ByBucket(name="b", value=col("price"), low=number(low), high=number(high), count=count)
    x = Fraction(price, 100)
    inside = int((x - Fraction(low)) * count // (Fraction(high) - Fraction(low))) + 1
    wanted = 0 if x < Fraction(low) else count + 1 if x >= Fraction(high) else inside
    compiled = compile_plan(plan(groups=(group,)), SCHEMA)
    assert finish(compiled, grouped_sums(compiled, [{"price": price}])) == [(wanted, 1)]


def test_buckets_that_the_bounds_rule_out_are_no_cells() -> None:
    group = ByBucket(name="b", value=col("age"), low=Number(value="0"), high=Number(value="200"), count=10)
    compiled = compile_plan(plan(groups=(group,)), SCHEMA)
    assert [label for (label,) in compiled.labels()] == [1, 2, 3, 4, 5, 6, 7, None]


def test_case_groups_share_a_label_and_may_leave_rows_to_null() -> None:
    young = LabelBranch(when=compare(col("age"), "<", Number(value="18")), label="other")
    old = LabelBranch(when=compare(col("age"), ">", Number(value="65")), label="other")
    compiled = compile_plan(plan(groups=(ByCase(name="c", branches=(young, old)),)), SCHEMA)
    rows: list[dict[str, int | None]] = [{"age": 3}, {"age": 70}, {"age": 30}, {"age": None}]
    assert finish(compiled, grouped_sums(compiled, rows)) == [("other", 2), (None, 2)]


# --- one form in bytes -----------------------------------------------------------------------------------------


def test_a_plan_survives_its_bytes_and_its_digest_is_of_its_content() -> None:
    made = plan(Sum(value=col("price")), groups=(ByColumn(name="g", column="sex"),), where=col("ill"))
    assert Plan.parse(made.body()) == made
    assert plan(Count()).digest() != plan(Count(value=col("age"))).digest()


def test_equal_sums_of_several_statistics_travel_once() -> None:
    compiled = compile_plan(plan(Count(), Count(value=col("stage")), Sum(value=col("stage"))), SCHEMA)
    assert len(compiled.sums) == 2, "stage is never NULL, so its count is the count of rows"


def test_an_expression_reads_as_sql() -> None:
    condition = compare(combine(col("age"), "add", Number(value="1")), ">", Number(value="50"))
    assert to_text(Case(branches=(Branch(when=condition, then=col("price")),))) == (
        "CASE WHEN (age + 1) > 50 THEN price END"
    )


def test_a_condition_that_is_remembered_is_not_taken_for_another_schemas() -> None:
    """The same object, lowered under two schemas in turn."""
    condition = Logic(op="and", terms=(Not(term=Missing(value=ColumnValue(name="x"))),) * 2)
    column = {"name": "x", "type": "int", "minimum": 0, "maximum": 5}
    nullable = Schema.from_plain({"table": "t", "columns": [column]})
    never = Schema.from_plain({"table": "t", "columns": [{**column, "nullable": False}]})
    for _ in range(2):
        assert lower_condition(condition, nullable) != TRUE
        assert lower_condition(condition, never) == TRUE
