"""The engine gives, for every program and every rows, what `plan.grouped_sums` means."""

import itertools
import tempfile
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.rendering import render
from ceiba_node.quantising import column_type, identifier
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.errors import CeibaError, EngineFailed, JobCancelled, SnapshotDamaged, ValueOutOfRange
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
    TextValue,
    TruthValue,
)
from ceiba_protocol.plan import (
    ByBucket,
    ByCalendar,
    ByCase,
    ByColumn,
    GroupKey,
    LabelBranch,
    Named,
    Plan,
    Program,
    compile_plan,
    grouped_sums,
)
from ceiba_protocol.program import CalendarUnit, Comparison, Row
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS
from ceiba_protocol.v1.common_pb2 import Signed

FOLDER = Path(tempfile.mkdtemp(prefix="ceiba-engine-"))
FILES = itertools.count()


def snapshot_of(schema: Schema, rows: Sequence[Row]) -> Snapshot:
    path = FOLDER / f"{next(FILES)}.duckdb"
    columns = ", ".join(f"{identifier(column.name)} {column_type(column)}" for column in schema.columns)
    with duckdb.connect(str(path)) as database:
        database.execute(f"CREATE TABLE rows ({columns})")
        if rows:
            values = [[row[column.name] for column in schema.columns] for row in rows]
            marks = "(" + ", ".join("?" * len(schema.columns)) + ")"
            flat = [value for row in values for value in row]
            database.execute(f"INSERT INTO rows VALUES {', '.join([marks] * len(values))}", flat)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Snapshot(schema.table, "0" * 64, schema, max(len(rows), 1), {}, now, path, Signed(), max(len(rows), 1))


@pytest.fixture(scope="module")
def engine():
    engine = DuckDBEngine(holder="cleveland", memory_limit="300MB", threads=2, temp_directory=FOLDER / "spill")
    yield engine
    engine.close()


def compiled(
    schema: Schema, outputs: Sequence[object], groups: Sequence[GroupKey] = (), filter: Expression | None = None
) -> Program:
    named = tuple(Named(name=f"o{place}", statistic=statistic) for place, statistic in enumerate(outputs))
    plan = Plan(table=schema.table, schema_digest=schema.digest(), filter=filter, groups=tuple(groups), outputs=named)
    return compile_plan(plan, schema)


def column(name: str) -> ColumnValue:
    return ColumnValue(name=name)


# --- random schemas, rows and questions ------------------------------------------------------------------------

NUMBERS = ("whole", "small", "fine", "huge")


@st.composite
def schemas(draw):
    def bounds(least: int, most: int) -> dict[str, int]:
        low, high = sorted(draw(st.tuples(st.integers(least, most), st.integers(least, most))))
        return {"minimum": low, "maximum": high}

    nullable = {"nullable": draw(st.booleans())}
    return Schema.from_plain(
        {
            "table": "t",
            "columns": [
                {"name": "whole", "type": "int", **nullable, **bounds(-1000, 1000)},
                {"name": "small", "type": "int", **bounds(-3, 3)},
                {"name": "fine", "type": "decimal", "resolution": draw(st.sampled_from(["0.01", "0.25", "10"])),
                 "minimum": -10 * draw(st.integers(0, 50)), "maximum": 10 * draw(st.integers(0, 50))},
                {"name": "huge", "type": "int", **bounds(-(2**62), 2**62)},
                {"name": "kind", "type": "category", "domain": ["a", "b", "'c\""], **nullable},
                {"name": "flag", "type": "bool"},
                {"name": "level", "type": "int", "domain": [3, -1, 7]},
                {"name": "day", "type": "date", "minimum": "1899-12-30", "maximum": "2024-03-01"},
                {"name": "instant", "type": "timestamp", "minimum": "1969-01-31", "maximum": "1971-02-01", **nullable},
            ],
        }
    )  # fmt: skip


def rows_of(schema: Schema) -> st.SearchStrategy[list[dict[str, int | None]]]:
    def values(column):
        low, high = column.range
        known = st.sampled_from(column.codes) if column.codes else st.integers(low, high) | st.sampled_from([low, high])
        return st.none() | known if column.nullable else known

    return st.lists(st.fixed_dictionaries({column.name: values(column) for column in schema.columns}), max_size=12)


LITERALS = st.sampled_from(["0", "1", "-1", "2", "7", "-0.5", "0.01", "1000", "33.3"]).map(lambda v: Number(value=v))


def conditions(number, condition):
    compare = st.builds(Comparing, comparison=st.sampled_from(Comparison), left=number, right=number)
    kind = st.builds(
        lambda c, v: Comparing(comparison=c, left=column("kind"), right=TextValue(value=v)),
        st.sampled_from([Comparison.EQUAL, Comparison.NOT_EQUAL]),
        st.sampled_from(["a", "'c\""]),
    )
    day = st.builds(
        lambda c: Comparing(comparison=c, left=column("day"), right=TextValue(value="1970-01-01")),
        st.sampled_from(Comparison),
    )
    terms = st.lists(condition, min_size=1, max_size=3).map(tuple)
    return (
        compare
        | kind
        | day
        | st.builds(Logic, op=st.sampled_from(["and", "or"]), terms=terms)
        | st.builds(lambda term: Not(term=term), condition)
        | st.builds(lambda value: Missing(value=value), number | condition | st.just(column("day")))
    )


def numbers(number, condition):
    branch = st.builds(lambda when, then: Branch(when=when, then=then), condition, number)
    quotient = st.builds(lambda a, b: Arithmetic(op="divide", left=a, right=b), number, number)
    return (
        st.builds(Arithmetic, op=st.sampled_from(["add", "subtract", "multiply"]), left=number, right=number)
        | st.builds(lambda value, digits: Round(value=value, digits=digits), quotient | number, st.integers(0, 3))
        | st.builds(
            lambda arms, other: Case(branches=tuple(arms), otherwise=other),
            st.lists(branch, min_size=1, max_size=2),
            st.none() | number,
        )
        | st.builds(lambda value: Arithmetic(op="divide", left=value, right=Number(value="-4")), number)
        | st.just(Arithmetic(op="subtract", left=column("day"), right=column("day")))
        | condition
    )


NUMBER = st.sampled_from(NUMBERS).map(column) | LITERALS
CONDITION = st.just(column("flag")) | st.sampled_from([True, False]).map(lambda v: TruthValue(value=v))
for _ in range(2):
    NUMBER, CONDITION = NUMBER | numbers(NUMBER, CONDITION), CONDITION | conditions(NUMBER, CONDITION)

OUTPUTS = (
    st.builds(lambda kind, v: STATISTICS[kind](value=v), st.sampled_from(["count", "sum", "variance"]), NUMBER)
    | st.builds(lambda x, y: STATISTICS["covariance"](left=x, right=y), NUMBER, NUMBER)
    | st.builds(
        lambda v: STATISTICS["histogram"](value=v, low=Number(value="-1.5"), high=Number(value="3"), bins=3), NUMBER
    )
)
GROUPS = (
    st.sampled_from(["kind", "flag", "level"]).map(lambda name: ByColumn(name=name, column=name))
    | st.builds(
        lambda name, unit: ByCalendar(name=name, column=name, unit=unit),
        st.sampled_from(["day", "instant"]),
        st.sampled_from([unit for unit in CalendarUnit if unit is not CalendarUnit.DAY]),
    )
    | st.just(ByCalendar(name="instant", column="instant", unit=CalendarUnit.DAY))
    | st.builds(
        lambda value, count: ByBucket(
            name="bucket", value=value, low=Number(value="-7.5"), high=Number(value="40"), count=count
        ),
        NUMBER,
        st.integers(1, 7),
    )
    | st.builds(
        lambda one, two, other: ByCase(
            name="case", branches=(LabelBranch(when=one, label="x"), LabelBranch(when=two, label="y")), otherwise=other
        ),
        CONDITION,
        CONDITION,
        st.sampled_from([None, "x", "z"]),
    )
)


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


def everything_about(error: BaseException) -> str:
    """Every text that somebody could print of an error and of what led to it."""
    texts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None:
            texts += [str(one), repr(one), repr(vars(one))]
            pending += [one.__cause__, one.__context__]
    return "\n".join(texts)


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
