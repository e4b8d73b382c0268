"""Our rules against ACRO's, which checks tables for research data centres (Green, Ritchie and Smith 2021; `acro` 1.0).

ACRO sees the rows of all holders pooled; ours are decided by holders that see their own. What ACRO would suppress, we
withhold; we withhold more, because a cell needs several holders, and because no holder sees the others' largest
values. Each row is a subject of its own, as ACRO counts rows.

Slow, for ACRO's import alone takes seconds.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import pytest

from ceiba.sql import parse
from ceiba_protocol.disclosure.dominance import dominates
from ceiba_protocol.disclosure.gate import Released, decide, exact_words, gate_of
from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.disclosure.support import ROWS, count_subjects
from ceiba_protocol.disclosure.support import tests_of as find_tests
from ceiba_protocol.plan import compile_plan
from ceiba_protocol.program import Row
from ceiba_protocol.schema import Grade, Schema
from tests.support.members import changed
from tests.support.seeded import seeded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

SEXES, STAGES = ("f", "m"), ("a", "b", "c")
SCHEMA = Schema.from_plain(
    {
        "table": "health.heart",
        "columns": [
            {"name": "sex", "type": "category", "domain": list(SEXES), "nullable": False},
            {"name": "stage", "type": "category", "domain": list(STAGES), "nullable": False},
            {"name": "cost", "type": "int", "minimum": 0, "maximum": 1_000_000, "nullable": False},
        ],
    }
)
PROGRAM = compile_plan(
    parse("SELECT sex, stage, SUM(cost) AS cost FROM health.heart GROUP BY sex, stage", lambda _: SCHEMA)[0], SCHEMA
)
CELLS = len(SEXES) * len(STAGES)
INTERNAL, SENSITIVE = RULES[Grade.INTERNAL], RULES[Grade.SENSITIVE]

Table = Mapping[str, Sequence[Row]]
"""By holder."""


@pytest.fixture(scope="module")
def acro() -> Iterator[Any]:
    """A session of ACRO, quiet, in which empty cells are not a finding of their own."""
    logging.disable(logging.INFO)
    from acro import ACRO

    session = ACRO(suppress=False)
    session.config["zeros_are_disclosive"] = False
    yield session
    logging.disable(logging.NOTSET)


def table(seed: int, most: int, largest: int) -> Table:
    """Three to five holders with up to `most` rows in a cell, in some cells fewer or none, and costs of which a few are
    by far the largest."""
    random = Random(seed)
    limits = [random.choice((0, 1, most // 2, most)) for _ in range(CELLS)]
    return {
        f"holder-{place}": [
            {"sex": sex, "stage": stage, "cost": 1 + int(largest ** random.random() ** 2)}
            for sex in range(len(SEXES))
            for stage in range(len(STAGES))
            for _ in range(random.randint(0, limits[sex * len(STAGES) + stage]))
        ]
        for place in range(random.randint(3, 5))
    }


def unsafe(session: Any, people: Table, check: str, with_costs: bool) -> npt.NDArray[np.bool_]:
    """[cells]: where ACRO's check fails on the pooled rows."""
    rows = pandas.DataFrame([row for rows in people.values() for row in rows])
    sex, stage = (pandas.Categorical(rows[name], categories=range(size)) for name, size in (("sex", 2), ("stage", 3)))
    values = {"values": rows["cost"], "aggfunc": "sum"} if with_costs else {}
    session.crosstab(pandas.Series(sex, name="sex"), pandas.Series(stage, name="stage"), **values)
    (*_, last) = session.results.results.values()
    found = np.zeros((len(SEXES), len(STAGES)), dtype=np.bool_)
    for place in last.sdc["cells"][check]:
        found[tuple(place)] = True
    return found.reshape(-1)


def released(people: Table, rules: Disclosure) -> Released:
    """[cells]: what the holders let pass, by the rows alone."""
    gate = gate_of(PROGRAM, find_tests(PROGRAM), rules)
    assert gate is not None
    total = np.zeros(gate.words, dtype=np.uint64)
    for rows in people.values():
        subjects = count_subjects(PROGRAM, gate.tests, rows)
        far, nobody = np.full(subjects.shape, gate.threshold.cap), np.zeros(subjects.shape, dtype=np.bool_)
        total += exact_words(gate, subjects, far, nobody, seeded("no veto"))
    return decide(gate, total)[:, ROWS]


def is_empty(people: Table) -> npt.NDArray[np.bool_]:
    """[cells]."""
    counts = sum(count_subjects(PROGRAM, find_tests(PROGRAM), rows)[:, ROWS] for rows in people.values())
    return np.asarray(counts) == 0


def judged(acro: Any, rules: Disclosure) -> tuple[Released, Released, Released]:
    """[cells of several tables] each: too small to ACRO, without anybody, and released by us."""
    acro.config["safe_threshold"] = rules.minimum_subjects
    tables = [table(seed, most=rules.minimum_subjects, largest=100) for seed in range(8)]
    small = np.concatenate([unsafe(acro, one, "MinimumThresholdCheck", with_costs=False) for one in tables])
    empty = np.concatenate([is_empty(one) for one in tables])
    sent = np.concatenate([released(one, rules) for one in tables])
    assert empty.any() and (small & ~empty).any() and (sent & ~small).any()
    return small, empty, sent


@pytest.mark.parametrize("rules", [INTERNAL, SENSITIVE], ids=lambda rules: rules.grade)
def test_what_acro_finds_too_small_is_withheld(acro: Any, rules: Disclosure) -> None:
    """ACRO's threshold is our k. To it an empty cell is too small; to us it is a zero to show, where the grade does not
    hide zeros."""
    small, empty, sent = judged(acro, rules)
    assert not (sent & small & (~empty | rules.hides_zeros)).any()


@pytest.mark.parametrize("rules", [INTERNAL, SENSITIVE], ids=lambda rules: rules.grade)
def test_where_one_holder_is_enough_both_agree(acro: Any, rules: Disclosure) -> None:
    """With h = 1 the thresholds are the same rule. Zeros are again the difference, and none where the grade hides
    them."""
    small, empty, sent = judged(acro, changed(rules, minimum_holders=1))
    assert (sent == (~small | (empty & (not rules.hides_zeros)))).all()


@pytest.mark.parametrize(("n", "percent"), [(1, INTERNAL.dominance_one), (2, INTERNAL.dominance_two)])
def test_where_acro_finds_dominance_a_holder_vetoes(acro: Any, n: int, percent: int) -> None:
    """Its (n, k) rule on the pooled rows. It calls exactly k percent unsafe and we call it safe, as the rule is written
    ("at most"), so it is asked for a hair more."""
    acro.config |= {"safe_nk_n": n, "safe_nk_k": percent / 100 + 1e-9}
    found = 0
    for seed in range(8):
        people = table(seed, most=4, largest=3_000)
        by_cell = [[_costs(rows, cell) for rows in people.values()] for cell in range(CELLS)]
        vetoed = [any(dominates(max(own), sum(own), INTERNAL) for own in costs if own) for costs in by_cell]
        dominated = unsafe(acro, people, "NKCheck", with_costs=True)
        assert (np.array(vetoed) | ~dominated).all()
        found += int(dominated.sum())
    assert found >= 5


def _costs(rows: Sequence[Row], cell: int) -> list[int]:
    return [row["cost"] or 0 for row in rows if PROGRAM.cell_of((row["sex"], row["stage"])) == cell]
