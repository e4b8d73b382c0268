"""Bounded sums: one subject, whatever its rows are, changes few cells, and each by no more than one row could."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_node.engines import duckdb_engine
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.statements import render_bounded
from ceiba_protocol.errors import CeibaError, EngineFailed, JobCancelled
from ceiba_protocol.plan import ByColumn, Program, grouped_sums
from ceiba_protocol.program import SUBJECT, SUBJECTS, Row, evaluate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS
from tests.support.random_questions import CONDITION, GROUPS, OUTPUTS, column, compiled, rows_of, schemas
from tests.support.snapshots import write_snapshot

Cells = list[tuple[int, ...]]
"""Each cell's sums."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    """An engine that takes ranges of subjects for three rows at a time."""
    spill = tmp_path_factory.mktemp("spill")
    made = DuckDBEngine(holder="cleveland", memory_limit="300MB", threads=2, temp_directory=spill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb_engine, "_rows_at_once", lambda _: 3)
        yield made
    made.close()


def clipped(program: Program, rows: Sequence[Row]) -> Cells:
    """What one subject with these rows would add if it could be in any number of cells."""
    totals = defaultdict(lambda: [0] * len(program.sums))
    for row in rows:
        if program.condition is None or evaluate(program.condition, row) == 1:
            cell = program.cell_of(tuple(evaluate(key.node, row) for key in program.keys))
            values = [1 if one.node == SUBJECTS else evaluate(one.node, row) or 0 for one in program.sums]
            totals[cell] = [total + value for total, value in zip(totals[cell], values, strict=True)]
    bounds = [(min(one.node.low, 0), max(one.node.high, 0)) for one in program.sums]
    return [
        tuple(max(low, min(high, total)) for total, (low, high) in zip(totals[cell], bounds, strict=True))
        for cell in range(program.cells)
    ]


def added(one: Cells, other: Cells) -> Cells:
    return [tuple(map(sum, zip(*pair, strict=True))) for pair in zip(one, other, strict=True)]


def in_cells(program: Program, totals: Sequence[int]) -> Cells:
    width = len(program.sums)
    return [tuple(totals[start : start + width]) for start in range(0, len(totals), width)]


def nothing(program: Program) -> Cells:
    return [(0,) * len(program.sums)] * program.cells


@pytest.mark.slow
@given(data=st.data(), schema=schemas(), most=st.integers(1, 3), order_key=st.binary(max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_subject_changes_few_cells_each_by_at_most_one_rows_bound(
    engine: DuckDBEngine, tmp_path: Path, data: st.DataObject, schema: Schema, most: int, order_key: bytes
):
    """What subjects add is added up, each by itself: nobody's part depends on who else is there. So adding or removing
    a subject changes exactly its own part."""
    outputs = data.draw(st.lists(OUTPUTS, min_size=1, max_size=3))
    groups = data.draw(st.lists(GROUPS, max_size=2, unique_by=lambda group: group.name))
    condition = data.draw(st.none() | CONDITION)
    try:
        program = compiled(schema, outputs, groups, condition)
    except CeibaError:
        assume(False)
    rows = data.draw(rows_of(schema, subjects=3))

    def bounded(of: Sequence[Row]) -> Cells:
        snapshot = write_snapshot(tmp_path, schema, of)
        try:
            return in_cells(program, engine.bounded_sums(snapshot, program, most, order_key, False))
        finally:
            engine.close()
            snapshot.path.unlink()

    whole = nothing(program)
    for subject in sorted({row[SUBJECT] for row in rows}):
        mine = [row for row in rows if row[SUBJECT] == subject]
        free, part = clipped(program, mine), bounded(mine)
        visited, kept = sum(map(any, free)), sum(map(any, part))
        assert kept == min(visited, most)
        assert all(not any(given) or given == wanted for given, wanted in zip(part, free, strict=True))
        assert all(abs(value) <= one.row_bound for cell in part for value, one in zip(cell, program.sums, strict=True))
        whole = added(whole, part)
    assert bounded(rows) == whole


# --- named cases ------------------------------------------------------------------------------------------------

SCHEMA = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "g", "type": "int", "domain": list(range(6))},
            {"name": "x", "type": "int", "minimum": 10, "maximum": 100},
            {"name": "y", "type": "int", "minimum": -100, "maximum": 20},
        ],
    }
)
PROGRAM = compiled(
    SCHEMA,
    [STATISTICS["sum"](value=column("x")), STATISTICS["sum"](value=column("y")), STATISTICS["subjects"]()],
    [ByColumn(name="g", column="g")],
)
"""In each cell: rows, x is there, x, y is there, y, subjects."""


def row(subject: int, g: int | None = 0, x: int | None = 10, y: int | None = 0) -> Row:
    return {SUBJECT: subject, "g": g, "x": x, "y": y}


def bounded(
    engine: DuckDBEngine,
    folder: Path,
    rows: Sequence[Row],
    most: int,
    order_key: bytes = b"",
    one_row_each: bool = False,
) -> Cells:
    snapshot = write_snapshot(folder, SCHEMA, rows)
    return in_cells(PROGRAM, engine.bounded_sums(snapshot, PROGRAM, most, order_key, one_row_each))


def test_sums_are_clipped_to_what_one_row_can_add(engine: DuckDBEngine, tmp_path: Path):
    rows = [*[row(0, x=90, y=-90)] * 3, *[row(1, x=40, y=15)] * 2, row(2, x=None, y=None)]
    assert bounded(engine, tmp_path, rows, 9)[0] == (3, 2, 100 + 80, 2, -100 + 20, 3)


def test_many_cells_of_one_subject_are_cut_and_others_keep_theirs(engine: DuckDBEngine, tmp_path: Path):
    rows = [*(row(0, g) for g in (0, 1, 2, 3, 4, 5, None)), row(1, 3), row(1, 3), row(2, 5)]
    cells = bounded(engine, tmp_path, rows, 2)
    assert sum(cell[0] for cell in cells) == 2 + 1 + 1
    assert cells[3][0] >= 1 and cells[5][0] >= 1


def test_the_key_decides_which_cells_are_kept(engine: DuckDBEngine, tmp_path: Path):
    rows = [row(subject, g) for subject in range(5) for g in range(6)]
    once, again = (bounded(engine, tmp_path, rows, 1, b"one") for _ in range(2))
    assert once == again
    others = [bounded(engine, tmp_path, rows, 1, bytes([number])) for number in range(8)]
    assert any(other != once for other in others)
    assert all(sum(cell[0] for cell in other) == 5 for other in others)


def test_enough_cells_for_everybody_need_no_choice(engine: DuckDBEngine, tmp_path: Path):
    assert "cuts" in render_bounded(PROGRAM, 6, 1).sql
    assert "cuts" not in render_bounded(PROGRAM, 7, 1).sql
    rows = [row(0, g) for g in (0, 1, 2, 3, 4, 5, None)]
    assert bounded(engine, tmp_path, rows, 7) == bounded(engine, tmp_path, rows, 6 + 10**6) == [(1, 1, 10, 1, 0, 1)] * 7


def test_one_row_each_gives_the_plain_sums(engine: DuckDBEngine, tmp_path: Path):
    rows = [row(number, number % 6, 10 + number, -number) for number in range(20)]
    wanted = in_cells(PROGRAM, grouped_sums(PROGRAM, rows))
    assert bounded(engine, tmp_path, rows, 1, one_row_each=True) == bounded(engine, tmp_path, rows, 1) == wanted


def test_a_table_without_rows_gives_zeros(engine: DuckDBEngine, tmp_path: Path):
    assert bounded(engine, tmp_path, [], 1) == nothing(PROGRAM)


def test_a_key_outside_the_public_domain_fails(engine: DuckDBEngine, tmp_path: Path):
    with pytest.raises(EngineFailed) as failure:
        bounded(engine, tmp_path, [row(0, g=8)], 1)
    assert failure.value.private == "a key outside the public domain"


def test_a_job_that_was_cancelled_does_not_begin(engine: DuckDBEngine, tmp_path: Path):
    cancellation = Cancellation("job-1")
    cancellation.cancel()
    with pytest.raises(JobCancelled):
        engine.bounded_sums(write_snapshot(tmp_path, SCHEMA, [row(0)]), PROGRAM, 1, b"", False, cancellation)
