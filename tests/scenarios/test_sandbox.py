"""A tester's whole space, through the front door: real processes, and DuckDB on the union as the meaning of SQL."""

import contextlib
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ceiba.space import Space
from ceiba_protocol.errors import BadSource, CeibaError, JobRefused, UnknownTable
from ceiba_protocol.trust.sealing import is_sealed
from ceiba_scenarios import Sandbox

pytestmark = pytest.mark.slow

ROWS = 20_000
SECONDS = 20
HOLDERS = ("north", "east", "south")
MADE = """SELECT 'g' || (hash(i, {place}) % 100)::VARCHAR AS g, (hash(i, {place}, 'x') % 2001)::INTEGER - 1000 AS x,
    CASE WHEN hash(i, {place}, 'n') % 50 = 0 THEN NULL ELSE (hash(i, {place}, 'y') % 1000000)::DOUBLE / 100 END AS y,
    DATE '2024-01-01' + (hash(i, {place}, 'd') % 60)::INTEGER AS "seen.on", hash(i, {place}, 'b') % 2 = 0 AS "ph.ecog"
    FROM range({rows}) AS r(i)"""
"""Rows that look random and are the same in every run: 100 groups, whole numbers, cents with NULL, dates, bools."""

VISITS = {
    "table": "visits",
    "subject_key": "patient",
    "columns": [{"name": "cost", "type": "int", "minimum": 0, "maximum": 100}],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parquet")
    made = {name: folder / f"{name}.parquet" for name in HOLDERS}
    for place, path in enumerate(made.values()):
        duckdb.sql(MADE.format(place=place, rows=ROWS)).write_parquet(str(path))
    return made


@pytest.fixture(scope="module")
def sandbox(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Three holders of the table t, one with a data frame; its schema is derived. And of visits, with a key.

    The table t is public: of internal data nobody is told what a single holder's new version has changed.
    """
    holders: dict[str, Any] = {name: {"t": path} for name, path in files.items()}
    frame = duckdb.read_parquet(str(files["south"])).to_df()
    frame["seen.on"] = frame["seen.on"].dt.date  # a data frame has no type for days but this
    holders["south"]["t"] = frame
    for tables in holders.values():
        tables["visits"] = tmp_path_factory.mktemp("visits") / "visits.csv"
        tables["visits"].write_text("patient,cost\n" + "".join(f"p{n % 10},{n}\n" for n in range(30)))
    with Sandbox(
        holders, schemas={"visits": VISITS}, folder=tmp_path_factory.mktemp("space"), grade="public"
    ) as running:
        yield running


def pooled(files: dict[str, Path], select: str) -> list[tuple[Any, ...]]:
    """What DuckDB says of the union, with y as exact cents."""
    connection = duckdb.connect()
    paths = [str(path) for path in files.values()]
    connection.execute("CREATE TABLE t AS SELECT * REPLACE (y::DECIMAL(9, 2) AS y) FROM read_parquet(?)", [paths])
    return connection.execute(select).fetchall()


def test_grouped_statistics_equal_those_of_the_union(sandbox: Sandbox, files: dict[str, Path]) -> None:
    result = sandbox.merchant("bank-a").sql("SELECT g, COUNT(*), SUM(x), AVG(y), VAR_SAMP(y) FROM t GROUP BY g").run()
    sums = "SELECT g, COUNT(*), SUM(x), COUNT(y), SUM(y), SUM(y * y) FROM t GROUP BY g"
    expected = []
    for g, rows, x, n, y, yy in pooled(files, sums):
        mean = Fraction(y) / n
        expected.append((g, rows, x, float(mean), float((Fraction(yy) - n * mean * mean) / (n - 1))))
    assert sorted(result.rows) == sorted(expected)
    assert len(expected) == 100


def test_dates_and_bools_group(sandbox: Sandbox, files: dict[str, Path]) -> None:
    select = "SELECT {} AS day, {} AS ecog, COUNT(*) FROM t GROUP BY day, ecog"
    result = sandbox.merchant("bank-a").sql(select.format("seen_on", "ph_ecog")).run()
    assert sorted(result.rows) == sorted(pooled(files, select.format('"seen.on"', '"ph.ecog"')))


def test_keys_are_readable_by_their_owner_alone(sandbox: Sandbox) -> None:
    secrets = [*sandbox.folder.rglob("identity.json"), *sandbox.folder.rglob("*.key"), sandbox.passphrase_file]
    assert len(secrets) >= 3 * len(HOLDERS) + 3  # each with its officer's and publisher's; the CA's, the log's
    assert {path.stat().st_mode & 0o077 for path in secrets} == {0}
    assert all(is_sealed(path.read_bytes()) for path in secrets if path != sandbox.passphrase_file)


def test_the_declared_schema_of_four_hospitals(space_of_four: Sandbox) -> None:
    """A cholesterol or blood pressure of 0 is missing, as empty cells are. A person at each approves exact counts."""
    space = space_of_four.merchant("bank-a")
    select = "SELECT COUNT(*), COUNT(cholesterol), COUNT(resting_bp) FROM health.heart"
    job = space.sql(select).submit(noise=False)
    for hospital in space.roster.table("health.heart").holders:
        space_of_four.decide(hospital, job.id)
    assert job.wait().rows == [(920, 920 - 30 - 172, 920 - 59 - 1)]
    assert sum(report.non_conforming_rows for report in space_of_four.reports.values()) == 0


@pytest.mark.parametrize(
    ("source", "schemas", "error"),
    [
        ("nowhere.csv", {}, BadSource),
        (None, {"tt": {"table": "tt", "columns": [{"name": "x", "type": "int"}]}}, UnknownTable),
    ],
)
def test_a_space_that_cannot_be_made_leaves_no_process(
    source: str | None, schemas: dict[str, Any], error: type[CeibaError], files: dict[str, Path]
) -> None:
    sandbox = Sandbox({name: {"t": source or path} for name, path in files.items()}, schemas=schemas)
    with pytest.raises(error), sandbox:
        pass
    assert not any(process.is_running() for process in sandbox.processes.values())
    assert not sandbox.folder.exists()


def test_who_objects_is_in_no_later_answer(sandbox: Sandbox) -> None:
    report = sandbox.withdraw("north", "visits", ["p3", "p4", "p11"])
    assert (report.found, report.rows_left_out) == (2, 6)
    wait_for_count(sandbox.merchant("bank-a"), 3 * 30 - 6, "visits")


def test_publishing_again_changes_the_answer(sandbox: Sandbox, files: dict[str, Path]) -> None:
    """Last in this file: it leaves the space with fewer rows."""
    half = duckdb.sql(f"SELECT * FROM read_parquet('{files['north']}') LIMIT {ROWS // 2}").to_df()
    half["seen.on"] = half["seen.on"].dt.date
    sandbox.publish("north", "t", half)
    wait_for_count(sandbox.merchant("bank-a"), 3 * ROWS - ROWS // 2)


def wait_for_count(space: Space, rows: int, table: str = "t") -> None:
    """A running node offers what was published within seconds; until then the old version answers, if it is there."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(JobRefused):
            if space.sql(f"SELECT COUNT(*) FROM {table}").run().value == rows:
                return
    raise AssertionError(f"it never counted {rows} rows of {table}")
