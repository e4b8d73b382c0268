"""The engine gives, for every program and every rows, what `plan.grouped_sums` means."""

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.rendering import render
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.errors import CeibaError, EngineFailed, JobCancelled, SnapshotDamaged, ValueOutOfRange
from ceiba_protocol.expression import (
    Arithmetic,
    Comparing,
    Expression,
    Number,
    Round,
)
from ceiba_protocol.plan import (
    ByCalendar,
    ByColumn,
    Program,
    grouped_sums,
)
from ceiba_protocol.program import CalendarUnit, Comparison, Row
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS
from tests.support.errors import everything_about
from tests.support.random_questions import CONDITION, GROUPS, OUTPUTS, column, compiled, rows_of, schemas
from tests.support.snapshots import write_snapshot

FOLDER = Path(tempfile.mkdtemp(prefix="ceiba-engine-"))


def snapshot_of(schema: Schema, rows: Sequence[Row]) -> Snapshot:
    return write_snapshot(FOLDER, schema, rows)


@pytest.fixture(scope="module")
def engine():
    engine = DuckDBEngine(holder="cleveland", memory_limit="300MB", threads=2, temp_directory=FOLDER / "spill")
    yield engine
    engine.close()


@pytest.mark.slow
@given(data=st.data(), schema=schemas())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_engine_equals_the_reference(engine: DuckDBEngine, data: st.DataObject, schema: Schema):
    outputs = data.draw(st.lists(OUTPUTS, min_size=1, max_size=3))
    groups = data.draw(st.lists(GROUPS, max_size=2, unique_by=lambda group: group.name))
    condition = data.draw(st.none() | CONDITION)
    try:
        program = compiled(schema, outputs, groups, condition)
    except CeibaError:
        assume(False)
    rows = data.draw(rows_of(schema))
    snapshot = snapshot_of(schema, rows)
    try:
        given = engine.grouped_sums(snapshot, program)
    finally:
        engine.close()
        snapshot.path.unlink()
    assert given == grouped_sums(program, rows)


# --- named cases -----------------------------------------------------------------------------------------------

PLAIN = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "g", "type": "int", "domain": list(range(4))},
            {"name": "x", "type": "int", "minimum": -100, "maximum": 100},
            {"name": "wide", "type": "int", "minimum": -(2**62), "maximum": 2**62},
            {"name": "day", "type": "date", "minimum": "1600-01-01", "maximum": "2199-12-31"},
        ],
    }
)


def row(**values: int | None) -> Row:
    return {"g": 0, "x": None, "wide": None, "day": None, **values}


@pytest.mark.parametrize("divisor", ["8", "-8", "3"])
@pytest.mark.parametrize("xs", [range(-100, 0), range(101), range(-7, 60)])
def test_rounds_halves_away_from_zero_on_both_sides(engine: DuckDBEngine, divisor: str, xs: range):
    rows = [row(x=x) for x in xs]
    value = Round(value=Arithmetic(op="divide", left=column("x"), right=Number(value=divisor)), digits=0)
    program = compiled(PLAIN, [STATISTICS["covariance"](left=value, right=column("x"))])
    assert engine.grouped_sums(snapshot_of(PLAIN, rows), program) == grouped_sums(program, rows)


@pytest.mark.parametrize("unit", list(CalendarUnit))
def test_calendar_units_of_every_day_of_six_centuries(engine: DuckDBEngine, unit: CalendarUnit):
    first, last = PLAIN.column("day").range or (0, 0)
    schema, days = PLAIN, range(first, last, 1 if unit in (CalendarUnit.YEAR, CalendarUnit.QUARTER) else 5)
    if unit is CalendarUnit.DAY:  # six centuries have too many days to be groups
        day = {"name": "day", "type": "date", "minimum": "1969-01-01", "maximum": "1970-12-31"}
        schema = Schema.from_plain({"table": "t", "columns": [{"name": "g", "type": "int", "domain": [0]}, day]})
        days = range(-365, 365)
    program = compiled(schema, [STATISTICS["count"]()], [ByCalendar(name="d", column="day", unit=unit)])
    snapshot = snapshot_of(schema, [])
    with duckdb.connect(str(snapshot.path)) as database:
        database.execute(
            "INSERT INTO rows BY NAME SELECT 0 AS g, CAST(d AS INTEGER) AS day FROM range(?, ?, ?) AS days(d)",
            [days.start, days.stop, days.step],
        )
    assert engine.grouped_sums(snapshot, program) == grouped_sums(program, [row(day=day) for day in days])


def test_sums_beyond_64_bits_are_exact(engine: DuckDBEngine):
    rows = [row(wide=2**62)] * 5 + [row(wide=-(2**62) + 1), row()]
    program = compiled(PLAIN, [STATISTICS["variance"](value=column("wide"))], [ByColumn(name="g", column="g")])
    assert engine.grouped_sums(snapshot_of(PLAIN, rows), program) == grouped_sums(program, rows)


def test_a_sum_beyond_128_bits_fails_rather_than_wraps(engine: DuckDBEngine):
    square = Arithmetic(op="multiply", left=column("wide"), right=column("wide"))
    program = compiled(PLAIN, [STATISTICS["sum"](value=square)])
    with pytest.raises(EngineFailed) as failure:
        engine.grouped_sums(snapshot_of(PLAIN, [row(wide=2**62)] * 9), program)
    assert failure.value.private == "OutOfRangeException"
    assert str(2**124) not in everything_about(failure.value)


def test_deeply_nested_rounding_does_not_explode(engine: DuckDBEngine):
    value: Expression = column("x")
    for _ in range(25):
        value = Round(value=Arithmetic(op="divide", left=value, right=column("x")), digits=0)
    program = compiled(PLAIN, [STATISTICS["sum"](value=value)])
    rows = [row(x=x) for x in (-3, 0, 2, None, 50)]
    assert len(render(program)[0]) < 50_000
    assert engine.grouped_sums(snapshot_of(PLAIN, rows), program) == grouped_sums(program, rows)


def test_names_and_numbers_of_a_question_never_become_sql():
    condition = Comparing(comparison=Comparison.LESS, left=column("x"), right=Number(value="41"))
    sql, parameters = render(compiled(PLAIN, [STATISTICS["sum"](value=column("x"))], filter=condition))
    assert sql == 'SELECT COUNT(*), COUNT("x"), SUM("x") FROM "rows" WHERE ("x" < CAST($1 AS INT))'
    assert parameters == [41]


def test_a_literal_beyond_128_bits_is_refused_by_name(engine: DuckDBEngine):
    condition = Comparing(comparison=Comparison.LESS, left=column("x"), right=Number(value="1" + "0" * 45))
    with pytest.raises(ValueOutOfRange):
        engine.grouped_sums(snapshot_of(PLAIN, [row(x=1)]), compiled(PLAIN, [STATISTICS["count"]()], filter=condition))


# --- the connection --------------------------------------------------------------------------------------------

COUNT = compiled(PLAIN, [STATISTICS["count"]()])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT content FROM read_text('/etc/passwd')",
        "SELECT count(*) FROM glob('/*')",
        "ATTACH '/tmp/other.duckdb' AS other",
        "COPY rows TO '/tmp/leak.csv'",
        "INSTALL httpfs",
        "LOAD '/tmp/extension'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "SET memory_limit = '10GB'",
        "RESET memory_limit",
        "INSERT INTO rows VALUES (1, 1, 1, 1)",
    ],
)
def test_the_connection_is_locked_down(engine: DuckDBEngine, sql: str):
    with pytest.raises(duckdb.Error):
        engine._cursor(snapshot_of(PLAIN, [row()])).execute(sql)


def test_a_second_question_does_not_open_the_file_again(engine: DuckDBEngine, monkeypatch: pytest.MonkeyPatch):
    snapshot = snapshot_of(PLAIN, [row(), row()])
    assert engine.grouped_sums(snapshot, COUNT) == [2]
    monkeypatch.setattr(duckdb, "connect", lambda *_, **__: pytest.fail("opened again"))
    assert engine.grouped_sums(snapshot, COUNT) == [2]


def test_few_snapshots_stay_open_and_closed_ones_open_again(engine: DuckDBEngine):
    snapshots = [snapshot_of(PLAIN, [row()] * n) for n in range(1, 5)]
    for _ in range(2):
        assert [engine.grouped_sums(snapshot, COUNT) for snapshot in snapshots] == [[1], [2], [3], [4]]
    assert len(engine._open) == 2


def test_a_damaged_file_is_named_without_duckdbs_words(engine: DuckDBEngine):
    snapshot = snapshot_of(PLAIN, [])
    snapshot.path.write_bytes(b"canary-4711" * 2000)
    with pytest.raises(SnapshotDamaged) as damage:
        engine.grouped_sums(snapshot, COUNT)
    assert "canary" not in everything_about(damage.value)


def test_a_job_that_was_cancelled_does_not_begin(engine: DuckDBEngine):
    cancellation = Cancellation("job-1")
    cancellation.cancel()
    with pytest.raises(JobCancelled):
        engine.grouped_sums(snapshot_of(PLAIN, [row()]), COUNT, cancellation)


def test_a_running_query_is_stopped(engine: DuckDBEngine, monkeypatch: pytest.MonkeyPatch):
    """The statement would run for hours; `cancel` comes as soon as it has begun."""
    endless = "SELECT count(*) FROM range(1000000000) AS a(i), range(1000000000) AS b(j) WHERE (i * j) % 7 = 3"
    begun = threading.Event()

    def rendered(_: Program) -> tuple[str, list[int]]:
        begun.set()
        return endless, []

    monkeypatch.setattr("ceiba_node.engines.duckdb_engine.render", rendered)
    cancellation = Cancellation("job-1")
    canceller = threading.Thread(target=lambda: (begun.wait(), cancellation.cancel()))
    canceller.start()
    with pytest.raises(JobCancelled):
        engine.grouped_sums(snapshot_of(PLAIN, [row()]), COUNT, cancellation)
    canceller.join()


def test_many_threads_share_one_connection(engine: DuckDBEngine):
    snapshot = snapshot_of(PLAIN, [row(x=x) for x in range(100)])
    program = compiled(PLAIN, [STATISTICS["sum"](value=column("x"))])
    answers: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(engine.grouped_sums(snapshot, program))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[100, 100, 4950]] * 8
