"""Tests of a cell: whatever way a sum over few people is written, one of its tests is about those people."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_protocol.disclosure import support
from ceiba_protocol.disclosure.support import ROWS, Test, difference, is_chosen, members
from ceiba_protocol.errors import CeibaError
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
    lower,
    number,
    only_where,
)
from ceiba_protocol.plan import Named, Plan, Program, compile_plan
from ceiba_protocol.program import SUBJECTS, TRUE, Comparison, Row, evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS, Statistic
from tests.support import random_questions

K = 5
MANY, FEW = 30, 1
SCHEMA = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "ill", "type": "bool", "nullable": False},
            {"name": "smokes", "type": "bool"},
            {"name": "code", "type": "int", "minimum": 0, "maximum": 1, "nullable": False},
            {"name": "five", "type": "int", "minimum": 5, "maximum": 6, "nullable": False},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120, "nullable": False},
            {"name": "x", "type": "int", "minimum": -50, "maximum": 50},
            {"name": "y", "type": "int", "minimum": 10, "maximum": 90},
        ],
    }
)
ILL, SMOKES, CODE, FIVE, AGE, X, Y = (ColumnValue(name=column.name) for column in SCHEMA.columns)
ONE, ZERO = number(1), number(0)
ORDINARY: Row = {"ill": 0, "smokes": 0, "code": 0, "five": 5, "age": 40, "x": 3, "y": 20}


def compiled(*statistics: Statistic) -> Program:
    named = tuple(Named(name=f"o{place}", statistic=statistic) for place, statistic in enumerate(statistics))
    return compile_plan(Plan(table="t", schema_digest=SCHEMA.digest(), outputs=named), SCHEMA)


def people(count: int, **values: int | None) -> list[Row]:
    return [{**ORDINARY, **values}] * count


def failing(program: Program, rows: Sequence[Row]) -> list[Test]:
    """The tests, of all that the outputs need, that so few rows meet. Each row is a subject of its own."""
    tests = support.tests_of(program)
    (counts,) = support.count_subjects(program, tests, rows)
    needed = {test for use in program.uses for one in use.sums for test in tests.needs[one]}
    return [
        tests.tests[place]
        for place in sorted(needed)
        if counts[place] < K and not (counts[place] == 0 and tests.tests[place].is_difference)
    ]


def stat(kind: str, *values: Expression) -> Statistic:
    names = ("left", "right") if len(values) == 2 else ("value",)
    return STATISTICS[kind](**dict(zip(names, values, strict=False)))


def times(left: Expression, right: Expression) -> Expression:
    return Arithmetic(op="multiply", left=left, right=right)


def plus(left: Expression, right: Expression) -> Expression:
    return Arithmetic(op="add", left=left, right=right)


def case(*arms: tuple[Expression, Expression], otherwise: Expression | None = None) -> Expression:
    return Case(branches=tuple(Branch(when=when, then=then) for when, then in arms), otherwise=otherwise)


def over(value: Expression, than: int) -> Expression:
    return Comparing(comparison=Comparison.GREATER, left=value, right=number(than))


def both(*terms: Expression) -> Expression:
    return Logic(op="and", terms=terms)


COUNT = stat("count")
SUM_X = stat("sum", X)
HALF_ILL = people(MANY, ill=1) + people(MANY)


# --- what passes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "rows"),
    [
        ([COUNT], people(K)),
        ([stat("subjects")], people(K)),
        ([stat("mean", X)], people(MANY) + people(FEW, x=None)),
        ([COUNT, stat("mean", X), stat("mean", Y)], people(MANY) + people(FEW, x=None) + people(FEW, y=None)),
        ([stat("correlation", X, Y)], people(MANY) + people(FEW, x=None) + people(FEW, y=None)),
        ([stat("mean", case((ILL, ONE), otherwise=ZERO))], HALF_ILL),
        ([stat("mean", ILL), COUNT], people(MANY, ill=1)),
        ([stat("mean", SMOKES)], people(MANY, smokes=1) + people(MANY) + people(FEW, smokes=None)),
        ([stat("sum", case((ILL, X), otherwise=Y))], HALF_ILL),
        ([stat("sum", case((ILL, X), otherwise=Y))], people(MANY, ill=1)),
        ([stat("mean", Round(value=Arithmetic(op="divide", left=X, right=Y), digits=2))], people(MANY)),
    ],
)
def test_sums_over_many_pass(outputs: list[Statistic], rows: list[Row]) -> None:
    assert failing(compiled(*outputs), rows) == []


# --- what does not, however it is written -----------------------------------------------------------------------

NOT_ILL = Not(term=ILL)
FEW_ILL = people(MANY) + people(FEW, ill=1, code=1, five=6, age=90)
FEW_HEALTHY = people(MANY, ill=1, code=1, five=6, age=90) + people(FEW)
HIGH = Round(value=Arithmetic(op="divide", left=AGE, right=number(130)), digits=0)
"""1 from 65 years on, otherwise 0."""


@pytest.mark.parametrize(
    "outputs",
    [
        [stat("mean", case((ILL, ONE), otherwise=ZERO))],
        [stat("mean", ILL)],
        [stat("mean", CODE)],
        [stat("mean", FIVE)],
        [stat("mean", HIGH)],
        [stat("mean", case((over(AGE, 80), ONE), (over(AGE, 70), ONE), otherwise=ZERO))],
        [stat("mean", case((NOT_ILL, ZERO), otherwise=ONE))],
        [stat("mean", case((ILL, number(2)), otherwise=ONE))],
        [stat("mean", plus(times(ILL, number(100)), Y))],
        [stat("mean", times(number(-3), CODE))],
        [stat("mean", times(HIGH, HIGH))],
        [stat("count", only_where(ILL, ONE)), COUNT],
        [stat("sum", only_where(ILL, X)), SUM_X],
        [stat("sum", times(ILL, X)), SUM_X],
        [stat("sum", times(X, CODE)), SUM_X],
        [stat("sum", times(X, HIGH)), SUM_X],
        [stat("sum", times(X, plus(FIVE, number(-5)))), SUM_X],
        [stat("sum", case((ILL, X), otherwise=ZERO)), SUM_X],
        [stat("sum", case((NOT_ILL, ZERO), otherwise=X)), SUM_X],
        [stat("sum", case((over(AGE, 80), X), (over(AGE, 70), X))), SUM_X],
        [stat("sum", case((ILL, X), otherwise=Y))],
        [stat("sum", case((ILL, case((over(AGE, 80), X), otherwise=Y)), otherwise=times(Y, number(2))))],
        [stat("variance", only_where(ILL, X)), stat("variance", X)],
        [stat("covariance", only_where(ILL, X), Y), stat("covariance", X, Y)],
    ],
)
@pytest.mark.parametrize("rows", [FEW_ILL, FEW_HEALTHY], ids=["few are ill", "few are healthy"])
def test_a_choice_of_few_is_found_on_both_sides(outputs: list[Statistic], rows: list[Row]) -> None:
    assert failing(compiled(*outputs), rows)


RATIO = Round(value=Arithmetic(op="divide", left=Y, right=X), digits=0)


@pytest.mark.parametrize(
    ("outputs", "rows"),
    [
        # few have a value
        ([stat("mean", X)], people(MANY, x=None) + people(FEW)),
        ([stat("correlation", X, Y)], people(MANY, x=None) + people(MANY, y=None) + people(FEW)),
        # few have one other than 0
        ([SUM_X], people(MANY, x=0) + people(FEW)),
        ([stat("sum", plus(X, number(-3)))], people(MANY) + people(FEW, x=4)),
        # 1 more each than a sum to which few add: with the count it is that sum
        ([stat("sum", plus(X, number(1))), COUNT], people(MANY, x=0) + people(FEW, x=4)),
        # of those that were asked, few do not smoke
        ([stat("mean", SMOKES)], people(MANY, smokes=None) + people(MANY, smokes=1) + people(FEW)),
        (
            [stat("count", X), stat("count", case((ILL, X)))],
            people(MANY, x=None) + people(MANY, ill=1) + people(FEW),
        ),
        # few of the ill have a value, or of the others
        ([stat("sum", case((ILL, X), otherwise=Y))], people(MANY, ill=1, x=None) + people(FEW, ill=1) + people(MANY)),
        ([stat("sum", case((ILL, ZERO), otherwise=X)), SUM_X],
         people(MANY, ill=1, x=None) + people(FEW, ill=1) + people(MANY)),
        # many are ill, many are old, few are both
        (
            [stat("sum", case((ILL, case((over(AGE, 80), X), otherwise=Y))))],
            people(MANY, ill=1) + people(MANY, age=90) + people(FEW, ill=1, age=90),
        ),
        (
            [stat("sum", times(ILL, case((over(AGE, 80), X), otherwise=Y)))],
            people(MANY, ill=1) + people(MANY, age=90) + people(FEW, ill=1, age=90),
        ),
        # a quotient is NULL where its divisor is 0: few are left out so
        ([stat("count", RATIO), COUNT], people(MANY) + people(FEW, x=0)),
        ([stat("sum", plus(times(number(0), RATIO), Y)), stat("sum", Y)], people(MANY) + people(FEW, x=0)),
    ],
)  # fmt: skip
def test_what_few_rows_add_is_found(outputs: list[Statistic], rows: list[Row]) -> None:
    assert failing(compiled(*outputs), rows)


# --- histograms -------------------------------------------------------------------------------------------------


def test_bins_hold_all_or_none_but_those_where_nobody_can_be() -> None:
    """Their whole may have been answered before, or be asked for next: less the others it would be the one withheld.
    Ages are 0 or more."""
    ages = STATISTICS["histogram"](value=AGE, low=Number(value="0"), high=Number(value="100"), bins=2)
    alone, beside = support.tests_of(compiled(ages)), support.tests_of(compiled(ages, COUNT))
    assert not any(test.is_difference for test in alone.tests) and alone.together == (2, 3, 4)
    assert all(len(needs) == 2 for needs in alone.needs[1:]), "the rows of the cell, and the bin's own"
    assert len(beside.together) == 3 and any(test.is_difference for test in beside.tests)


def test_a_quantile_has_the_tests_of_its_bins_alone() -> None:
    """Ages are 0 or more: where the bounds are inside, nobody is asked about what cannot be."""
    half = {"value": AGE, "q": Number(value="0.5"), "low": Number(value="-0.5"), "bins": 2}
    inside = support.tests_of(compiled(STATISTICS["quantile"](**half, high=Number(value="120.5"), inside=True)))
    beyond = support.tests_of(compiled(STATISTICS["quantile"](**half, high=Number(value="50.5"))))
    assert not any(test.is_difference for test in inside.tests) and inside.together == (1, 2)
    assert inside.units == ((1,), (2,)) and all(len(needs) == 2 for needs in inside.needs[1:])
    assert len(beyond.units) == 4 and len(beyond.together) == 3


# --- choices and presences --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "chosen"),
    [
        (Not(term=Missing(value=X)), False),
        (both(Not(term=Missing(value=X)), Not(term=Missing(value=Y))), False),
        (Not(term=Missing(value=times(plus(X, Y), X))), False),
        (Missing(value=X), True),
        (Not(term=Missing(value=case((ILL, ONE)))), True),
        (Not(term=Missing(value=plus(Y, case((ILL, ONE))))), True),
        (Not(term=Missing(value=RATIO)), True),
        (both(Not(term=Missing(value=X)), ILL), True),
    ],
)
def test_asking_whether_there_is_a_value_is_no_choice_but_a_disguised_condition_is(
    condition: Expression, chosen: bool
) -> None:
    assert is_chosen(lower(condition, SCHEMA).node) == chosen


# --- what the conditions mean -----------------------------------------------------------------------------------


def holds(condition: object, row: Row) -> bool:
    return evaluate(condition, row) == 1  # type: ignore[arg-type]


@given(data=st.data(), schema=random_questions.schemas())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_only_rows_of_the_support_add_and_all_of_them_are_members(data: st.DataObject, schema: Schema) -> None:
    try:
        program = random_questions.compiled(
            schema, data.draw(st.lists(random_questions.OUTPUTS, min_size=1, max_size=2))
        )
    except CeibaError:
        assume(False)
    tests, rows = support.tests_of(program), data.draw(random_questions.rows_of(schema))
    assert tests.tests[ROWS].support == TRUE and all(needs[0] == ROWS for needs in tests.needs)
    for one, needs in zip(program.sums, tests.needs, strict=True):
        own = tests.tests[needs[1] if len(needs) > 1 and one.node not in (TRUE, SUBJECTS) else ROWS]
        assert own.members == members(one.node)
        for row in rows:
            value = 1 if one.node == SUBJECTS else evaluate(one.node, row)
            assert holds(own.support, row) == (value not in (None, 0))
            assert holds(own.members, row) or not value
    for test in tests.tests:
        assert all(holds(test.members, row) for row in rows if holds(test.support, row))


@given(st.sampled_from([ILL, SMOKES, over(X, 0), over(Y, 30)]), st.sampled_from([ILL, SMOKES, over(X, 0)]), st.data())
def test_a_difference_is_the_rows_of_exactly_one(one: Expression, other: Expression, data: st.DataObject) -> None:
    left, right = lower(one, SCHEMA).node, lower(other, SCHEMA).node
    for row in data.draw(random_questions.rows_of(SCHEMA)):
        assert holds(difference(left, right), row) == (holds(left, row) != holds(right, row))
