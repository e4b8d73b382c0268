"""Whatever the rules let out of a cell, nobody finds a sum over few people in it, or over people of few holders.

Questions are built from a grammar of SQL, so that the same sum is asked for in many ways; people are few and values
small, so that rare combinations occur. What is released is then held against the rows themselves: each sum, and the
difference of two sums of the same measure, by evaluating both on every row. Dominance and earlier answers are no part
of this.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, count, product

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ceiba.sql import parse
from ceiba_protocol.disclosure import support
from ceiba_protocol.disclosure.gate import GateForm, Released, decide, exact_words, released_sums, threshold_of
from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.plan import Program, compile_plan
from ceiba_protocol.program import SUBJECT, Node, Row, evaluate
from ceiba_protocol.schema import Grade, Schema
from tests.support.members import changed
from tests.support.seeded import seeded

Population = Mapping[str, Sequence[Row]]
"""By holder."""

SCHEMA = Schema.from_plain(
    {
        "table": "health.heart",
        "columns": [
            {"name": "sex", "type": "category", "domain": ["f", "m"], "nullable": False},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 5},
            {"name": "chol", "type": "int", "minimum": -3, "maximum": 5},
            {"name": "pills", "type": "int", "minimum": 2, "maximum": 4, "nullable": False},
        ],
    }
)
GRID: Sequence[Row] = [
    {"sex": sex, "age": age, "chol": chol, "pills": pills}
    for sex, age, chol, pills in product((0, 1), (0, 2, 3, 5, None), (-3, 0, 2, 5, None), (2, 3, 4))
]
"""The kinds of rows that people have: no value is 1, so that nothing looks like a count and is none."""

SMALL = changed(RULES[Grade.INTERNAL], minimum_subjects=3, minimum_holders=2)
STRICT = changed(RULES[Grade.SENSITIVE], minimum_subjects=5, minimum_holders=3)
"""Hides zeros, and has the thresholds of the grade below, so that small populations reach them."""


# --- questions ---------------------------------------------------------------------------------------------------

simple_conditions = st.sampled_from(
    [
        "age > 0", "age > 2", "age >= 5", "age BETWEEN 2 AND 3", "chol > 0", "chol < 5", "chol = 0", "pills > 2",
        "pills = 4", "age * chol > 4", "age IS NULL", "chol IS NOT NULL", "ROUND(age / chol, 0) > 1", "sex = 'm'",
    ]
)  # fmt: skip
conditions = st.recursive(
    simple_conditions,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=3,
)
measures = st.sampled_from(["1", "age", "chol", "pills", "age * chol"])


@st.composite
def outputs(draw: st.DrawFn) -> str:
    """One aggregate, in one of the ways in which people write it."""
    one, other, measure = draw(conditions), draw(conditions), draw(measures)
    return draw(
        st.sampled_from(
            [
                "COUNT(*)",
                f"COUNT({measure})",
                f"SUM({measure})",
                f"AVG({measure})",
                "STDDEV_SAMP(age)",
                "CORR(age, chol)",
                f"SUM(CASE WHEN {one} THEN {measure} ELSE 0 END)",
                f"SUM(CASE WHEN {one} THEN {measure} END)",
                f"COUNT(CASE WHEN {one} THEN 1 END)",
                f"AVG(CASE WHEN {one} THEN 1 ELSE 0 END)",
                f"AVG(CASE WHEN {one} THEN {measure} END)",
                f"SUM({measure} * (CASE WHEN {one} THEN 1 ELSE 0 END))",
                f"SUM((CASE WHEN {one} THEN 1 ELSE 0 END) * (CASE WHEN {other} THEN {measure} END))",
                f"SUM(CASE WHEN {one} THEN 0 WHEN {other} THEN {measure} ELSE 0 END)",
                f"SUM(CASE WHEN {one} THEN {measure} WHEN {other} THEN 0 ELSE {measure} END)",
                f"SUM(CASE WHEN {one} THEN {measure} WHEN {other} THEN {measure} ELSE 0 END)",
                f"SUM(CASE WHEN {one} THEN CASE WHEN {other} THEN {measure} ELSE 0 END ELSE 0 END)",
                "HISTOGRAM(age, 0, 6, 3)",
                "HISTOGRAM(chol, 0, 4, 2)",
            ]
        )
    )


@st.composite
def questions(draw: st.DrawFn) -> str:
    chosen = draw(st.lists(outputs(), min_size=1, max_size=3, unique=True))
    named = ", ".join(f"{one} AS s{place}" for place, one in enumerate(chosen))
    where = draw(st.sampled_from(["", "", " WHERE age > 0", " WHERE chol IS NOT NULL"]))
    grouped = draw(st.booleans())
    return f"SELECT {'sex, ' if grouped else ''}{named} FROM health.heart{where}{' GROUP BY sex' if grouped else ''}"


@cache
def compiled(sql: str) -> Program:
    return compile_plan(parse(sql, lambda _: SCHEMA)[0], SCHEMA)


# --- people ------------------------------------------------------------------------------------------------------


@st.composite
def populations(draw: st.DrawFn) -> Population:
    """Kinds of people whom every holder has some of, and a few odd ones; now and then somebody has two rows."""
    holders = [f"holder-{place}" for place in range(draw(st.integers(3, 5)))]
    kinds = draw(st.lists(st.sampled_from(GRID), min_size=1, max_size=6))
    rows: dict[str, list[Row]] = {name: [] for name in holders}
    subject = 0
    for kind in kinds:
        copies = draw(st.integers(1, 3))
        for name in holders:
            for _ in range(copies):
                subject += 1
                rows[name].append({**kind, SUBJECT: subject})
    for _ in range(draw(st.integers(0, 5))):
        name, odd = draw(st.sampled_from(holders)), draw(st.sampled_from(GRID))
        subject += 1
        rows[name].append({**odd, SUBJECT: rows[name][0][SUBJECT] if draw(st.booleans()) else subject})
    return rows


# --- the truth ---------------------------------------------------------------------------------------------------


def release(program: Program, people: Population, rules: Disclosure) -> Released:
    """[cells, sums]: what the holders send, in the open."""
    tests = support.tests_of(program)
    form = GateForm(program.cells, tests, threshold_of(rules), rules.hides_zeros, noisy=False)
    total = np.zeros(form.words, dtype=np.uint64)
    for rows in people.values():
        subjects = support.count_subjects(program, tests, rows)
        nobody, far = np.zeros(subjects.shape, dtype=np.bool_), np.full(subjects.shape, form.threshold.cap)
        total += exact_words(form, subjects, far, nobody, seeded("no veto"))
    return released_sums(form, decide(form, total))


def in_cell(program: Program, cell: int, people: Population) -> Iterator[tuple[str, Row]]:
    for name, rows in people.items():
        for row in rows:
            passes = program.condition is None or evaluate(program.condition, row) == 1
            if passes and program.cell_of(tuple(evaluate(key.node, row) for key in program.keys)) == cell:
                yield name, row


def value(node: Node, row: Row) -> int:
    return evaluate(node, row) or 0


@cache
def on_grid(node: Node) -> tuple[int, ...]:
    return tuple(value(node, row) for row in GRID)


def have_same_measure(one: Node, other: Node) -> bool:
    """Where both add something, they add the same, on every row that there can be."""
    return all(a == b or 0 in (a, b) for a, b in zip(on_grid(one), on_grid(other), strict=True))


def tell_only_what_is_missing(one: Node, other: Node) -> bool:
    """Counts that differ in nothing but which values are there: no secret here (ADR 0016)."""
    pairs = zip(on_grid(one), on_grid(other), GRID, strict=True)
    counts = {*on_grid(one), *on_grid(other)} <= {0, 1}
    return counts and all(a == b for a, b, row in pairs if None not in row.values())


def findings(program: Program, people: Population, rules: Disclosure) -> list[str]:
    """Every sum, and difference of two, over too few people or holders that can be had from what is released."""
    sent, found = release(program, people, rules), []
    for cell in range(program.cells):
        rows = list(in_cell(program, cell, people))
        nodes = [one.node for one, may in zip(program.sums, sent[cell], strict=True) if may]
        pairs = [
            (f"{nodes.index(one)} - {nodes.index(other)}", one, other)
            for one, other in combinations(nodes, 2)
            if have_same_measure(one, other) and not tell_only_what_is_missing(one, other)
        ]
        sums: list[tuple[str, Node, Node | None]] = [(f"{place}", node, None) for place, node in enumerate(nodes)]
        for name, one, other in [*sums, *pairs]:
            behind = [(holder, row) for holder, row in rows if value(one, row) != (value(other, row) if other else 0)]
            subjects, holders = {row[SUBJECT] for _, row in behind}, {holder for holder, _ in behind}
            enough = len(subjects) >= rules.minimum_subjects and len(holders) >= rules.minimum_holders
            if not enough and (behind or (rules.hides_zeros and other is None)):
                found.append(f"cell {cell}: sum {name} is over {len(subjects)} subjects of {len(holders)} holders")
    return found


both_rules = pytest.mark.parametrize("rules", [SMALL, STRICT], ids=["k = 3, h = 2", "k = 5, h = 3, zeros hidden"])


@both_rules
@given(questions(), populations())
@settings(max_examples=80, deadline=None)
def test_no_sum_over_few_is_released(rules: Disclosure, sql: str, people: Population) -> None:
    program = compiled(sql)
    event(f"something is released: {bool(release(program, people, rules).any())}")
    assert findings(program, people, rules) == []


@pytest.mark.slow
@both_rules
@given(questions(), populations())
@settings(max_examples=500, deadline=None)
def test_no_sum_over_few_is_released_in_many_more(rules: Disclosure, sql: str, people: Population) -> None:
    assert findings(compiled(sql), people, rules) == []


# --- what was found so, with people made for it --------------------------------------------------------------------


def everywhere(odd: Row | None = None, **kinds: Row) -> Population:
    """Four people of each kind at each of three holders, and an odd one at the first."""
    people: dict[str, list[Row]] = {name: [] for name in ("east", "north", "west")}
    for rows in people.values():
        rows += [kind for kind in kinds.values() for _ in range(4)]
    people["east"] += [odd] if odd else []
    numbers = count()
    return {name: [{**row, SUBJECT: next(numbers)} for row in rows] for name, rows in people.items()}


PERSON: Row = {"sex": 0, "age": 2, "chol": 2, "pills": 2}
ONE_IS_FOUND = {
    "the rest of a CASE with two branches": (
        "SUM(CASE WHEN pills = 2 THEN 1 WHEN pills = 3 THEN 1 ELSE 0 END)",
        {"pills": 4}, {"pills": 3},
    ),
    "what only the second branch takes": (
        "COUNT(*), SUM(CASE WHEN pills = 2 THEN 1 WHEN pills = 3 OR sex = 'm' THEN 0 ELSE 1 END)",
        {"pills": 3}, {"sex": 1, "pills": 2}, {"pills": 4},
    ),
    "the only one of whom the rest adds anything": (
        "SUM(age), SUM(CASE WHEN pills = 2 THEN age END)",
        {"pills": 3, "age": 5}, {"pills": 3, "age": 0},
    ),
    "one without a value, among those chosen": (
        "COUNT(age), COUNT(CASE WHEN pills = 2 THEN 1 END)",
        {"age": None}, {"age": None, "pills": 3},
    ),
    "a condition within a condition": (
        "SUM(CASE WHEN pills < 4 THEN 1 ELSE 0 END), "
        "SUM(CASE WHEN pills < 4 THEN CASE WHEN chol > 2 THEN 2 ELSE 1 END ELSE 0 END)",
        {"chol": 5}, {"pills": 4, "chol": 5}, {"pills": 4},
    ),
    "two conditions multiplied, and something added": (
        "COUNT(*), SUM(1 + (CASE WHEN pills = 3 THEN 1 ELSE 0 END) * (CASE WHEN chol > 2 THEN 1 ELSE 0 END))",
        {"pills": 3, "chol": 5}, {"pills": 3}, {"chol": 5},
    ),
}  # fmt: skip
"""By what one person was found by: the statistics, how that person differs from everybody, and how others do."""


@pytest.mark.parametrize("case", ONE_IS_FOUND)
def test_one_person_is_not_found_in_the_difference(case: str) -> None:
    """Everything is released of the others alone, and not with the odd one among them."""
    statistics, odd, *kinds = ONE_IS_FOUND[case]
    named = ", ".join(f"{one} AS s{place}" for place, one in enumerate(statistics.split(", ")))
    program = compiled(f"SELECT {named} FROM health.heart")
    others: dict[str, Row] = {f"kind {place}": {**PERSON, **kind} for place, kind in enumerate([{}, *kinds])}
    asked = sorted({place for use in program.uses for place in use.sums})
    assert release(program, everywhere(**others), SMALL)[0, asked].all()
    assert not release(program, everywhere({**PERSON, **odd}, **others), SMALL)[0, asked].all()
