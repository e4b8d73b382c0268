"""Evidence is what `program.evaluate` says of the same rows: who meets each test in each cell, and who dominates."""

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_node.engines import duckdb_engine
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.evidence import Evidence
from ceiba_node.engines.statements import Statement
from ceiba_protocol.disclosure import support
from ceiba_protocol.disclosure.dominance import cannot_dominate, dominates
from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.disclosure.support import Tests
from ceiba_protocol.errors import CeibaError, EngineFailed, JobCancelled
from ceiba_protocol.expression import Comparing, Number
from ceiba_protocol.plan import ByBucket, ByColumn, Program
from ceiba_protocol.program import SUBJECT, Comparison, Node, Row, evaluate
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.statistics import STATISTICS
from tests.support.errors import everything_about
from tests.support.random_questions import CONDITION, GROUPS, OUTPUTS, column, compiled, rows_of, schemas
from tests.support.snapshots import write_snapshot

RULES_INTERNAL = RULES[Grade.INTERNAL]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    """An engine that reads three rows at a time."""
    spill = tmp_path_factory.mktemp("spill")
    made = DuckDBEngine(holder="cleveland", memory_limit="300MB", threads=2, temp_directory=spill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb_engine, "_rows_at_once", lambda _: 3)
        yield made
    made.close()


# --- the oracle -------------------------------------------------------------------------------------------------


def is_true(condition: Node | None, row: Row) -> bool:
    return condition is None or evaluate(condition, row) == 1


def oracle(
    program: Program, tests: Tests, rules: Disclosure, rows: Sequence[Row], *, one_row_each: bool = False
) -> Evidence:
    """With one row each, sums are not looked at where the declared bounds exclude dominance by one of k subjects."""
    spared = {place for place, one in enumerate(program.sums) if one_row_each and cannot_dominate(one.node, rules)}
    shape = (program.cells, len(tests))
    supports, members, magnitudes = defaultdict(set), defaultdict(set), defaultdict(lambda: defaultdict(int))
    for row in rows:
        if not is_true(program.condition, row):
            continue
        cell = program.cell_of(tuple(evaluate(key.node, row) for key in program.keys))
        for place, test in enumerate(tests.tests):
            if is_true(test.support, row):
                supports[cell, place].add(row[SUBJECT])
            if test.audited and is_true(test.members, row):
                members[cell, place].add(row[SUBJECT])
            for one in set(test.magnitudes) - spared:
                size = abs(evaluate(program.sums[one].node, row) or 0)
                magnitudes[cell, place, one][row[SUBJECT]] += size
    subjects, dominated = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for at, who in supports.items():
        subjects[at] = len(who)
    for (cell, place, _), by_subject in magnitudes.items():
        sizes = by_subject.values()
        dominated[cell, place] |= dominates(max(sizes), sum(sizes), rules)
    return Evidence(subjects, members, dominated)  # type: ignore[arg-type]


def assert_same(given: Evidence, wanted: Evidence) -> None:
    assert given.subjects.dtype == np.int64 and given.dominated.dtype == np.bool_
    assert given.subjects.tolist() == wanted.subjects.tolist()
    assert {at: set(bitmap) for at, bitmap in given.members.items()} == dict(wanted.members)
    assert given.dominated.tolist() == wanted.dominated.tolist()


def each_alone(rows: Sequence[Row]) -> list[Row]:
    return [{**row, SUBJECT: number} for number, row in enumerate(rows)]


@pytest.mark.slow
@given(data=st.data(), schema=schemas())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_evidence_equals_the_reference(engine: DuckDBEngine, tmp_path: Path, data: st.DataObject, schema: Schema):
    outputs = data.draw(st.lists(OUTPUTS, min_size=1, max_size=3))
    groups = data.draw(st.lists(GROUPS, max_size=3, unique_by=lambda group: group.name))
    condition = data.draw(st.none() | CONDITION)
    try:
        program = compiled(schema, outputs, groups, condition)
    except CeibaError:
        assume(False)
    tests, rows = support.tests_of(program), data.draw(rows_of(schema))
    one_row_each = data.draw(st.booleans())
    rows = each_alone(rows) if one_row_each else rows
    snapshot = write_snapshot(tmp_path, schema, rows)
    try:
        given = engine.evidence(snapshot, program, tests, RULES_INTERNAL, one_row_each)
    finally:
        engine.close()
        snapshot.path.unlink()
    assert_same(given, oracle(program, tests, RULES_INTERNAL, rows, one_row_each=one_row_each))


# --- named cases ------------------------------------------------------------------------------------------------

SCHEMA = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "g", "type": "int", "domain": [7, -2, 3]},
            {"name": "x", "type": "int", "minimum": -128, "maximum": 127},
            {"name": "pay", "type": "int", "minimum": 50, "maximum": 100, "nullable": False},
        ],
    }
)
BY_G = ByColumn(name="g", column="g")


def row(subject: int, g: int | None = 7, x: int | None = 1, pay: int = 60) -> Row:
    return {SUBJECT: subject, "g": g, "x": x, "pay": pay}


def evidence(
    engine: DuckDBEngine, folder: Path, program: Program, rows: Sequence[Row], *, one_row_each: bool = False
) -> Evidence:
    tests = support.tests_of(program)
    given = engine.evidence(write_snapshot(folder, SCHEMA, rows), program, tests, RULES_INTERNAL, one_row_each)
    assert_same(given, oracle(program, tests, RULES_INTERNAL, rows, one_row_each=one_row_each))
    return given


def test_several_rows_of_a_subject_in_several_slices_count_once(engine: DuckDBEngine, tmp_path: Path):
    program = compiled(SCHEMA, [STATISTICS["mean"](value=column("x"))], [BY_G])
    rows = [row(5, x=None), row(2**32 - 1), row(5), row(5, g=None), row(6, x=0), row(5, x=-128), row(6)]
    given = evidence(engine, tmp_path, program, rows)
    assert given.subjects[:, 0].tolist() == [3, 0, 0, 1], "7, -2, 3 and NULL"
    assert set(given.members[0, 0]) == {5, 6, 2**32 - 1}


def test_the_filter_and_the_keys_of_a_computed_group_apply(engine: DuckDBEngine, tmp_path: Path):
    bucket = ByBucket(name="b", value=column("x"), low=Number(value="-10"), high=Number(value="10"), count=4)
    where = Comparing(comparison=Comparison.GREATER, left=column("pay"), right=Number(value="55"))
    program = compiled(SCHEMA, [STATISTICS["subjects"]()], [bucket, BY_G], where)
    rows = [row(i, g=(7, -2, 3, None)[i % 4], x=(None, -128, -3, 9, 127)[i % 5], pay=50 + i) for i in range(20)]
    given = evidence(engine, tmp_path, program, rows)
    assert given.subjects[:, 0].sum() == 14


def test_a_table_without_rows_has_no_evidence(engine: DuckDBEngine, tmp_path: Path):
    given = evidence(engine, tmp_path, compiled(SCHEMA, [STATISTICS["sum"](value=column("x"))], [BY_G]), [])
    assert not given.subjects.any() and not given.members and not given.dominated.any()


def test_more_cells_than_16_bits_number(engine: DuckDBEngine, tmp_path: Path):
    many = [
        ByBucket(name=name, value=column("pay"), low=Number(value="50"), high=Number(value="100"), count=count)
        for name, count in (("a", 300), ("b", 310))
    ]
    program = compiled(SCHEMA, [STATISTICS["count"]()], many)
    assert program.cells > 2**16
    given = evidence(engine, tmp_path, program, [row(i % 3, pay=50 + i % 51) for i in range(60)])
    assert np.count_nonzero(given.subjects[:, 0]) == 51


@pytest.mark.parametrize(
    ("sizes", "is_dominated"),
    [([42, 58], True), ([42, 42, 16], False), ([43, 43, 14], True), ([-43, 29, 28], True), ([0, 0], False)],
)
@pytest.mark.parametrize("one_row_each", [True, False])
def test_a_subject_dominates_from_42_percent_and_a_half_on(
    engine: DuckDBEngine, tmp_path: Path, sizes: list[int], is_dominated: bool, one_row_each: bool
):
    """Half of 85 percent, of magnitudes: what is paid and what is paid back do not cancel."""
    program = compiled(SCHEMA, [STATISTICS["sum"](value=column("x"))])
    given = evidence(engine, tmp_path, program, [row(i, x=x) for i, x in enumerate(sizes)], one_row_each=one_row_each)
    assert given.dominated.any() == is_dominated


def test_rows_of_a_subject_add_up_to_dominate(engine: DuckDBEngine, tmp_path: Path):
    program = compiled(SCHEMA, [STATISTICS["sum"](value=column("x"))])
    rows = [row(0, x=20), row(1, x=20), row(2, x=20)]
    assert not evidence(engine, tmp_path, program, rows).dominated.any()
    assert evidence(engine, tmp_path, program, [*rows, row(0, x=-30)]).dominated.any()


def test_bounds_that_exclude_dominance_spare_the_statement(
    engine: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """5 people with between 50 and 100 each: nobody has more than a third."""
    program = compiled(SCHEMA, [STATISTICS["sum"](value=column("pay"))])
    monkeypatch.setattr(duckdb_engine, "render_magnitudes", lambda *_: pytest.fail("asked"))
    snapshot = write_snapshot(tmp_path, SCHEMA, [row(i) for i in range(5)])
    given = engine.evidence(snapshot, program, support.tests_of(program), RULES_INTERNAL, True)
    assert not given.dominated.any()


def test_each_condition_is_rendered_once(engine: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = compiled(SCHEMA, [STATISTICS[kind](value=column("x")) for kind in ("mean", "variance", "sum", "count")])
    asked: list[Node] = []
    render = duckdb_engine.render_flags

    def spy(of: Program, conditions: Sequence[Node]) -> Statement:
        asked.extend(conditions)
        return render(of, conditions)

    monkeypatch.setattr(duckdb_engine, "render_flags", spy)
    evidence(engine, tmp_path, program, [row(0), row(1, x=None)])
    assert len(asked) == len(set(asked)) == 3, "all rows; x is there; x <> 0, and so is its square"


# --- what fails -------------------------------------------------------------------------------------------------


def fails(engine: DuckDBEngine, folder: Path, rows: Sequence[Row]) -> EngineFailed:
    program = compiled(SCHEMA, [STATISTICS["sum"](value=column("x"))], [BY_G])
    with pytest.raises(EngineFailed) as failure:
        engine.evidence(write_snapshot(folder, SCHEMA, rows), program, support.tests_of(program), RULES_INTERNAL, False)
    return failure.value


@pytest.mark.parametrize("subject", [-1, 2**32])
def test_a_subject_number_beyond_32_bits_fails(engine: DuckDBEngine, tmp_path: Path, subject: int):
    assert fails(engine, tmp_path, [row(subject)]).private == "a subject's number that does not fit 32 bits"


@pytest.mark.parametrize("g", [-3, 0, 8])
def test_a_key_outside_the_public_domain_fails(engine: DuckDBEngine, tmp_path: Path, g: int):
    assert fails(engine, tmp_path, [row(1), row(1, g=g)]).private == "a key outside the public domain"


def test_a_failing_statement_says_nothing_of_its_rows(engine: DuckDBEngine, tmp_path: Path):
    program = compiled(SCHEMA, [STATISTICS["sum"](value=column("x"))])
    snapshot = write_snapshot(tmp_path, SCHEMA, [row(1)])
    with duckdb.connect(str(snapshot.path)) as database:
        database.execute("CREATE OR REPLACE TABLE rows AS SELECT 'canary' AS x, 1 AS pay, 7 AS g, 1 AS \"#subject\"")
    with pytest.raises(EngineFailed) as failure:
        engine.evidence(snapshot, program, support.tests_of(program), RULES_INTERNAL, False)
    assert failure.value.private == "ConversionException"
    assert "canary" not in everything_about(failure.value)


def test_a_cancelled_job_stops_between_two_slices(
    engine: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`cancel` waits until nothing runs any more, so it is called from another thread."""
    program, cancellation = compiled(SCHEMA, [STATISTICS["count"]()]), Cancellation("job-1")
    canceller = threading.Thread(target=cancellation.cancel)

    class Cancelling(duckdb_engine.Gathering):
        def add(self, slice: Any) -> None:
            assert not cancellation.cancelled, "a slice after the cancellation"
            canceller.start()
            while not cancellation.cancelled:
                pass

    monkeypatch.setattr(duckdb_engine, "Gathering", Cancelling)
    snapshot = write_snapshot(tmp_path, SCHEMA, [row(i) for i in range(9)])
    with pytest.raises(JobCancelled):
        engine.evidence(snapshot, program, support.tests_of(program), RULES_INTERNAL, False, cancellation)
    canceller.join()
