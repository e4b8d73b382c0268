"""Publishing: every rule is counted, no value leaks, and the version that answers changes in one step."""

import csv
import json
import os
import re
import resource
import stat
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ceiba_scenarios
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.publishing import PublishReport, publish
from ceiba_node.quantising import plain_number
from ceiba_node.snapshots import SUBJECT_COLUMN, Snapshot, SnapshotStore
from ceiba_protocol.errors import (
    BadSchema,
    BadSource,
    DatasetMissing,
    DatasetUnknown,
    DoesNotConform,
    EmptyTable,
    SnapshotDamaged,
    ValuesMissing,
)
from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.plan import ByColumn, Named, Plan, compile_plan, finish
from ceiba_protocol.program import DIGEST
from ceiba_protocol.schema import Schema, days_since_epoch, microseconds_since_epoch
from ceiba_protocol.statistics import STATISTICS
from tests.support.members import publisher

HEART = Path(ceiba_scenarios.__file__).parent / "data" / "heart_disease.csv"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"k" * 32


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store", holder="cleveland", keep=1)


def schema(*columns: dict[str, object], subject_key: str | None = None) -> Schema:
    return Schema.from_plain({"table": "health.heart", "subject_key": subject_key, "columns": list(columns)})


def write_csv(folder: Path, *rows: Sequence[object], name: str = "source.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def published(store: SnapshotStore, source: Path, of: Schema, **options: object) -> PublishReport:
    return publish(
        store, source, of, **{"now": NOW, "version_key": KEY, "publisher": publisher("cleveland"), **options}
    )


def column_of(snapshot: Snapshot, name: str) -> list[int | None]:
    with duckdb.connect(str(snapshot.path), read_only=True) as database:
        return [value for (value,) in database.execute(f'SELECT "{name}" FROM rows ORDER BY rowid').fetchall()]


def publish_texts(store: SnapshotStore, folder: Path, texts: Sequence[str], **column: object):
    """One column `x` of these texts: its integers, and its rules."""
    source = write_csv(folder, ["x", "row"], *([text, place] for place, text in enumerate(texts)))
    report = published(store, source, schema({"name": "x", **column}))
    return column_of(store.current("health.heart"), "x"), dict(report.counts.get("x", {}))


# --- rules -----------------------------------------------------------------------------------------------------

INT = {"type": "int", "minimum": -100, "maximum": 100}
TENTHS = {"type": "decimal", "resolution": "0.1", "minimum": -10, "maximum": 10}


@pytest.mark.parametrize(
    ("column", "texts", "values", "rules"),
    [
        (INT, ["1", "word", "1_0", "0x10", "٣"], [1, None, None, None, None], {"not_int": 4}),
        (INT, ["", " ", "7"], [None, None, 7], {"null": 2}),
        (INT, ["nan", "NaN", "inf", "-Infinity"], [None] * 4, {"not_finite": 4}),
        (INT, ["145.0", "+5", "1e2", ".0", "5."], [None, 5, 100, 0, 5], {"above_maximum": 1}),
        (INT, ["101", "-101", "9" * 60, "-1e300"], [None] * 4, {"below_minimum": 2, "above_maximum": 2}),
        ({**INT, "out_of_bounds": "clip"}, ["101", "-101", "1e300"], [100, -100, 100],
         {"below_minimum": 1, "above_maximum": 2}),
        ({**INT, "missing_codes": [0, "-9.5", "NA"]}, ["0", "0.0", "-9.50", "NA", "-9", "1e-90"],
         [None, None, None, None, -9, 0], {"missing_code": 4, "rounded": 1}),
        ({"type": "int", "domain": [1, 2, 5]}, ["1", "3", "9", "5.0"], [1, None, None, 5], {"not_in_domain": 2}),
        ({"type": "int"}, ["9223372036854775807", "-9223372036854775808", "9" * 30],
         [2**63 - 1, None, None], {"below_minimum": 1, "above_maximum": 1}),
        (TENTHS, ["0.05", "-0.05", "0.049999999999999999999999999", "0.25", "-0.15", "3.10"],
         [1, -1, 0, 3, -2, 31], {"rounded": 5}),
        (TENTHS, ["0.30000000000000004", "5e-2", "4.9999999999999996e-2"], [3, 1, 0], {"rounded": 3}),
        ({"type": "decimal", "resolution": "0.25", "minimum": 0, "maximum": 1}, ["0.125", "0.3749999", "0.375"],
         [1, 1, 2], {"rounded": 3}),
        ({"type": "category", "domain": ["a", "é", "it's"]}, ["a", "e\u0301", "it's", "A", "zz"],
         [0, 1, 2, None, None], {"not_in_domain": 2}),
        ({"type": "category", "domain": ["a"], "missing_codes": ["?"]}, ["?", "a"], [None, 0], {"missing_code": 1}),
        ({"type": "bool"}, ["True", "false", "1", "0", "yes", "N", "2"], [1, 0, 1, 0, 1, 0, None], {"not_bool": 1}),
        ({"type": "date", "minimum": "1900-01-01", "maximum": "2100-01-01"},
         ["1970-01-02", "1969-12-31", "2021-02-30", "infinity", "1899-01-01", "2000-01-01 00:00:00",
          "2000-01-01 09:00"],
         [1, -1, None, None, None, 10957, None], {"not_date": 3, "below_minimum": 1}),
        ({"type": "timestamp"},
         ["1970-01-01T00:00:01Z", "1970-01-01 02:00:00+02", "1969-12-31 23:59:59.9999999", "now", "1970-01-01"],
         [1_000_000, 0, -1, None, 0], {"not_timestamp": 1, "rounded": 1}),
    ],
)  # fmt: skip
def test_each_rule(store, tmp_path, column, texts, values, rules):
    assert publish_texts(store, tmp_path, texts, **column) == (values, rules)


@given(
    values=st.lists(
        st.decimals(-500, 500, allow_nan=False, places=8)
        | st.decimals(-1, 1, allow_nan=False)
        | st.floats(-500, 500).map(lambda value: Decimal(repr(value))),
        min_size=1,
        max_size=40,
    ),
    resolution=st.sampled_from(["1", "0.1", "0.01", "0.05", "0.25", "2.5"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_decimals_are_rounded_as_decimal_does(store, tmp_path, values, resolution):
    column = {"type": "decimal", "resolution": resolution, "minimum": -1000, "maximum": 1000}
    published, rules = publish_texts(store, tmp_path, [str(value) for value in values], **column)
    step = Decimal(resolution)
    assert published == [int((value / step).quantize(Decimal(1), ROUND_HALF_UP)) for value in values]
    assert rules.get("rounded", 0) == sum(value % step != 0 for value in values)


def test_doubles_are_read_as_people_write_them(store, tmp_path):
    path = tmp_path / "source.parquet"
    doubles = "[0.1::DOUBLE + 0.2::DOUBLE, 2.675, -2.675, 1e-7, 'nan'::DOUBLE, '-inf'::DOUBLE, NULL, 12.0]"
    duckdb.execute(f"COPY (SELECT unnest({doubles}) AS x, unnest({doubles})::FLOAT AS f) TO '{path}' (FORMAT parquet)")
    cents = {"type": "decimal", "resolution": "0.01", "minimum": -100, "maximum": 100}
    domain = {"name": "c", "type": "category", "domain": ["12"]}
    of = schema({"name": "x", **cents}, {"name": "f", **cents}, domain)
    report = published(store, path, of, source_columns={"c": "x"})
    expected = [30, 268, -268, 0, None, None, None, 1200]
    snapshot = store.current("health.heart")
    assert column_of(snapshot, "x") == column_of(snapshot, "f") == expected
    assert report.counts["x"] == {"null": 1, "not_finite": 2, "rounded": 4}
    assert column_of(snapshot, "c")[-1] == 0


def test_typed_sources_keep_their_days_and_instants(store, tmp_path):
    path = tmp_path / "source.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute(
            """CREATE TABLE heart AS SELECT DATE '2020-02-29' AS day, TIMESTAMPTZ '2020-02-29 12:00:00+02' AS zoned,
            TIMESTAMP '1960-01-01 00:00:00.000001' AS local, 12.345::DECIMAL(9, 3) AS price, true AS flag"""
        )
    of = schema(
        {"name": "day", "type": "date"},
        {"name": "zoned", "type": "timestamp"},
        {"name": "local", "type": "timestamp"},
        {"name": "price", "type": "decimal", "resolution": "0.01"},
        {"name": "flag", "type": "bool"},
    )
    published(store, path, of)
    snapshot = store.current("health.heart")
    assert column_of(snapshot, "day") == [days_since_epoch(datetime(2020, 2, 29).date())]
    assert column_of(snapshot, "zoned") == [microseconds_since_epoch(datetime(2020, 2, 29, 10))]
    assert column_of(snapshot, "local") == [microseconds_since_epoch(datetime(1960, 1, 1)) + 1]
    assert (column_of(snapshot, "price"), column_of(snapshot, "flag")) == ([1235], [1])


@pytest.mark.parametrize("text", ["1" * 400, "1e99999", "-1e99999", "1e-99999"])
def test_absurd_numbers_stay_short(text):
    assert len(plain_number(text, 30)) < 70


def test_columns_may_have_awkward_names(store, tmp_path):
    source = write_csv(tmp_path, ["t0", "subject", 'od"d'], ["1", "2", "3"])
    names = [{"name": name, "type": "int"} for name in ("rowid", "subject", "t0")]
    published(store, source, schema(*names), source_columns={"rowid": 'od"d'})
    snapshot = store.current("health.heart")
    with duckdb.connect(str(snapshot.path), read_only=True) as database:
        assert database.execute('SELECT "rowid", "subject", "t0", "#subject" FROM rows').fetchall() == [(3, 2, 1, 0)]


def test_columns_are_as_narrow_as_their_declared_range(store, tmp_path):
    source = write_csv(tmp_path, ["a", "b", "c", "d"], ["1", "1", "1", "x"])
    of = schema(
        {"name": "a", "type": "int", "minimum": 0, "maximum": 255},
        {"name": "b", "type": "int", "minimum": -1, "maximum": 40000},
        {"name": "c", "type": "int"},
        {"name": "d", "type": "category", "domain": ["x"]},
    )
    published(store, source, of)
    with duckdb.connect(str(store.current("health.heart").path), read_only=True) as database:
        types = [kind for _, kind, *_ in database.execute("DESCRIBE rows").fetchall()]
    assert types == ["UTINYINT", "INTEGER", "BIGINT", "UTINYINT", "UTINYINT"]


def test_a_resolution_beyond_128_bits_is_a_bad_schema(store, tmp_path):
    with pytest.raises(BadSchema, match=r"health\.heart"):
        publish_texts(store, tmp_path, ["1"], type="decimal", resolution="1e-35")


# --- refusals --------------------------------------------------------------------------------------------------

AGE_COLUMNS = ({"name": "age", "type": "int", "minimum": 0, "maximum": 120},)
AGE, AGE_ALONE = schema(*AGE_COLUMNS, subject_key="patient"), schema(*AGE_COLUMNS)


def test_an_empty_table_is_refused(store, tmp_path):
    with pytest.raises(EmptyTable):
        published(store, write_csv(tmp_path, ["patient", "age"]), AGE)


def test_missing_columns_are_named(store, tmp_path):
    with pytest.raises(BadSource, match="no column for age"):
        published(store, write_csv(tmp_path, ["patient", "alter"], [1, 2]), AGE)


def test_a_row_without_subject_is_refused(store, tmp_path):
    with pytest.raises(ValuesMissing, match="in: patient"):
        published(store, write_csv(tmp_path, ["patient", "age"], ["a", 2], ["", 3]), AGE)


def test_a_column_that_promised_values_has_them(store, tmp_path):
    of = schema({"name": "age", "type": "int", "nullable": False})
    with pytest.raises(ValuesMissing, match="2, in: age"):
        published(store, write_csv(tmp_path, ["age", "x"], [1, 1], ["word", 1], ["", 1]), of)


def test_the_tolerance_counts_rows_not_values(store, tmp_path):
    of = schema({"name": "a", **INT}, {"name": "b", **INT}, {"name": "c", **INT})
    source = write_csv(tmp_path, ["a", "b", "c"], ["word", "999", "1"], ["1", "1", ""], ["1.5", "word", "1"])
    assert published(store, source, of, tolerance=2).non_conforming_rows == 2
    with pytest.raises(DoesNotConform, match=r"2 rows .* more than the 1 allowed, in: a, b\."):
        published(store, source, of, tolerance=1)


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage\xff\xfe" * 50, b"PAR1 canary-4711", b"x" * 8 + b"DUCK" * 9])
def test_unreadable_sources_are_refused_in_our_words(store, tmp_path, content):
    path = tmp_path / "source.csv"
    path.write_bytes(content)
    with pytest.raises(BadSource) as refusal:
        published(store, path, AGE)
    assert "canary" not in everything_about(refusal.value)


def test_a_source_that_is_not_there(store, tmp_path):
    with pytest.raises(BadSource, match="missing"):
        published(store, tmp_path / "nowhere.csv", AGE)


# --- no value of a row leaves ----------------------------------------------------------------------------------


def everything_about(error: BaseException) -> str:
    texts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None:
            texts += [str(one), repr(one), repr(vars(one))]
            pending += [one.__cause__, one.__context__]
    return "\n".join(texts)


@pytest.mark.parametrize("options", [{}, {"tolerance": 0}])
@pytest.mark.parametrize(
    "column", [INT, TENTHS, {"type": "date"}, {"type": "bool"}, {"type": "category", "domain": ["a"]}]
)
def test_no_value_is_in_any_error_or_report(store, tmp_path, column, options):
    canaries = ["canary-4711", "8887776665", "1.23456789012345e+99", "2021-99-77"]
    source = write_csv(tmp_path, ["x", "patient"], *([value, f"{value}-person"] for value in canaries))
    of = schema({"name": "x", **column}, subject_key="patient")
    try:
        report = published(store, source, of, **options)
        said = "\n".join([str(report), repr(report), json.dumps(report.to_plain())])
    except DoesNotConform as error:
        said = everything_about(error)
    assert not [value for value in canaries if value in said]


def test_a_row_that_breaks_the_csv_format_is_not_quoted(store, tmp_path):
    path = tmp_path / "source.csv"
    rows = "".join(f"p{n},{n % 100}\n" for n in range(50_000))
    path.write_bytes(b"patient,age\n" + rows.encode() + b"canary-4711,\xff\xfe,too,many\n")
    with pytest.raises(BadSource) as refusal:
        published(store, path, AGE)
    assert "canary" not in everything_about(refusal.value)


# --- versions --------------------------------------------------------------------------------------------------


def ages(folder: Path, *rows: tuple[str, int]) -> Path:
    return write_csv(folder, ["patient", "age"], *rows)


def test_the_same_content_is_the_same_version_under_the_same_key(store, tmp_path):
    one = published(store, ages(tmp_path, ("a", 1), ("b", 2)), AGE).version
    as_parquet = tmp_path / "again.parquet"
    duckdb.execute(f"COPY (SELECT * FROM '{tmp_path}/source.csv') TO '{as_parquet}' (FORMAT parquet)")
    again = published(store, as_parquet, AGE, now=NOW + timedelta(days=1)).version
    other_key = published(store, as_parquet, AGE, version_key=b"o" * 32).version
    other_rows = published(store, ages(tmp_path, ("a", 1), ("b", 3)), AGE).version
    other_order = published(store, ages(tmp_path, ("b", 2), ("a", 1)), AGE).version
    assert one == again and len({one, other_key, other_rows, other_order}) == 4


def test_order_and_version_are_the_same_every_time_with_several_row_groups(tmp_path):
    """Parallel scans may not disturb the order, also with a large domain and many missing codes."""
    path, rows = tmp_path / "source.parquet", 400_000
    duckdb.execute(f"COPY (SELECT i AS x, i % 97 AS g FROM range({rows}) AS t(i)) TO '{path}' (FORMAT parquet)")
    of = schema(
        {"name": "x", "type": "int", "minimum": 0, "maximum": rows, "missing_codes": [-n for n in range(1, 20)]},
        {"name": "g", "type": "int", "domain": list(range(97))},
    )
    stores = [SnapshotStore(tmp_path / name, holder="cleveland") for name in ("one", "two")]
    versions = {published(store, path, of).version for store in stores}
    assert len(versions) == 1
    assert column_of(stores[0].current("health.heart"), "x") == list(range(rows))


def test_subject_numbers_stay_and_new_ones_follow(store, tmp_path):
    published(store, ages(tmp_path, ("ann", 1), ("bob", 2), ("ann", 3)), AGE)
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [0, 1, 0]
    published(store, ages(tmp_path, ("cho", 1), ("bob", 2), ("dee", 5), ("ann", 3)), AGE)
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [2, 1, 3, 0]


def test_without_a_subject_key_each_row_is_its_own_subject(store, tmp_path):
    published(store, write_csv(tmp_path, ["x", "y"], [5, 1], [6, 1], [5, 1]), schema({"name": "x", **INT}))
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [0, 1, 2]


def rows_of(snapshot: Snapshot) -> list[tuple[int, tuple[int | None, ...]]]:
    """(subject, values) of each row, in order, without digests."""
    with duckdb.connect(str(snapshot.path), read_only=True) as database:
        found = database.execute("SELECT * FROM rows")
        width = len([column for column in found.description or () if column[0] != DIGEST])
        return [(row[width - 1], row[: width - 1]) for row in found.fetchall()]


def values(folder: Path, *rows: int) -> Path:
    return write_csv(folder, ["x", "y"], *([value, 0] for value in rows))


X = schema({"name": "x", **INT})


@pytest.mark.parametrize(
    ("old", "new", "numbers"),
    [
        ([5, 6, 7], [9, 5, 6, 7], [3, 0, 1, 2]),
        ([5, 6, 7], [6, 7], [1, 2]),
        ([5, 6, 7], [7, 6, 5], [2, 1, 0]),
        ([5, 5, 6], [5, 6, 5, 5], [0, 2, 1, 3]),
        ([5, 6, 7], [5, 8, 7], [0, 3, 2]),
        ([""], ["", ""], [0, 1]),
    ],
)
def test_without_a_subject_key_equal_rows_keep_their_numbers(store, tmp_path, old, new, numbers):
    published(store, values(tmp_path, *old), X)
    published(store, values(tmp_path, *new), X)
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == numbers


def test_without_a_subject_key_no_number_is_given_twice(store, tmp_path):
    for rows, numbers in (([5, 6], [0, 1]), ([5], [0]), ([5, 6], [0, 2]), ([7], [3]), ([6, 8, 7], [4, 5, 3])):
        published(store, values(tmp_path, *rows), X)
        assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == numbers


SMALL = st.lists(st.integers(0, 3), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None)
@given(versions=st.lists(SMALL, min_size=2, max_size=5))
def test_numbers_are_paired_as_except_all_pairs_rows(tmp_path_factory, versions):
    folder = tmp_path_factory.mktemp("numbers")
    store, given_so_far, before = SnapshotStore(folder / "store", holder="cleveland"), set(), Counter()
    for rows in versions:
        published(store, values(folder, *rows), X)
        pairs = Counter((value, number) for number, (value,) in rows_of(store.current("health.heart")))
        numbers = {number for _, number in pairs}
        assert [value for _, (value,) in rows_of(store.current("health.heart"))] == rows
        assert len(numbers) == len(rows)
        kept = Counter(value for value, _ in (pairs & before).elements())
        assert kept == Counter(rows) & Counter(value for value, _ in before.elements())
        assert min(numbers - {number for _, number in before}, default=10**9) > max(given_so_far, default=-1)
        given_so_far |= numbers
        before = pairs


def test_an_unchanged_source_without_a_subject_key_is_the_same_version(store, tmp_path):
    published(store, values(tmp_path, 5, 6), X)
    version = published(store, values(tmp_path, 9, 6), X).version
    again = published(store, values(tmp_path, 9, 6), X, now=NOW + timedelta(days=1)).version
    assert again == version
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [2, 1]


def test_numbers_stay_with_several_row_groups(tmp_path):
    """One row inserted before 400,000: every other row keeps its number, whatever runs in parallel."""
    one, other, rows = tmp_path / "one.parquet", tmp_path / "other.parquet", 400_000
    duckdb.execute(f"COPY (SELECT i // 2 AS x FROM range({rows}) AS t(i)) TO '{one}' (FORMAT parquet)")
    duckdb.execute(f"COPY (FROM (VALUES (-1)) AS t(x) UNION ALL FROM '{one}') TO '{other}' (FORMAT parquet)")
    store = SnapshotStore(tmp_path / "store", holder="cleveland")
    of = schema({"name": "x", "type": "int", "minimum": -1, "maximum": rows})
    for path in (one, other):
        published(store, path, of)
    snapshot = store.current("health.heart")
    assert column_of(snapshot, "x") == [-1, *(i // 2 for i in range(rows))]
    numbers = column_of(snapshot, SUBJECT_COLUMN)
    assert numbers[0] == rows and sorted(numbers) == list(range(rows + 1))
    assert all(number // 2 == i // 2 for i, number in enumerate(numbers[1:]))


def test_a_snapshot_counts_its_subjects(store, tmp_path):
    published(store, ages(tmp_path, ("ann", 1), ("bob", 2), ("ann", 3)), AGE)
    snapshot = store.current("health.heart")
    assert (snapshot.rows, snapshot.subjects, snapshot.is_one_row_each) == (3, 2, False)
    published(store, ages(tmp_path, ("ann", 1), ("bob", 2)), AGE)
    assert store.current("health.heart").is_one_row_each


# --- in which versions numbers mean the same -------------------------------------------------------------------


def linked(store: SnapshotStore, one: str, other: str) -> bool:
    both_ways = {store.are_linked("health.heart", *pair) for pair in ((one, other), (other, one))}
    assert len(both_ways) == 1
    return both_ways.pop()


@pytest.mark.parametrize("has_key", [True, False])
def test_versions_are_linked_although_their_rows_are_gone(tmp_path, has_key):
    store, of = SnapshotStore(tmp_path / "store", holder="cleveland", keep=0), AGE if has_key else AGE_ALONE
    contents = [[("ann", 1)], [("ann", 1), ("bob", 2)], [("bob", 3)], [("ann", 1)]]
    versions = [published(store, ages(tmp_path, *rows), of).version for rows in contents]
    assert len(store.versions("health.heart")) == 1
    assert all(linked(store, one, other) for one in versions for other in versions)


def test_unknown_versions_are_linked_with_none(store, tmp_path):
    version = published(store, ages(tmp_path, ("ann", 1)), AGE).version
    assert not linked(store, version, "0" * 64)
    assert not store.are_linked("health.liver", version, version)


def sex_too(**options: object) -> Schema:
    return schema({"name": "age", "type": "int", "minimum": 0, "maximum": 120}, {"name": "sex", **INT}, **options)


def people(folder: Path, *rows: tuple[str, int, int]) -> Path:
    return write_csv(folder, ["patient", "age", "sex"], *rows)


def test_a_column_more_ends_no_chain_and_a_column_less_ends_the_chain(store, tmp_path):
    both = sex_too(subject_key="patient")
    one = published(store, people(tmp_path, ("ann", 1, 0), ("bob", 2, 0)), AGE).version
    two = published(store, people(tmp_path, ("ann", 1, 1), ("bob", 3, 0)), both).version
    three = published(store, people(tmp_path, ("ann", 1, 1), ("bob", 3, 0)), AGE).version
    assert linked(store, one, two) and not linked(store, two, three)
    assert linked(store, one, three) is False


def test_numbers_of_another_key_or_without_one_are_not_compared(store, tmp_path):
    source = people(tmp_path, ("ann", 1, 5), ("bob", 2, 6))
    one = published(store, source, AGE).version
    two = published(store, source, AGE_ALONE).version
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [2, 3]
    three = published(store, source, schema(*AGE_COLUMNS, subject_key="sex")).version
    assert not linked(store, one, two) and not linked(store, two, three)
    assert column_of(store.current("health.heart"), SUBJECT_COLUMN) == [4, 5]


@pytest.mark.parametrize("has_key", [True, False])
def test_after_a_loss_numbers_begin_anew(store, tmp_path, has_key):
    of = AGE if has_key else AGE_ALONE
    one = published(store, ages(tmp_path, ("ann", 1), ("bob", 2)), of).version
    store.subjects_path("health.heart").unlink()
    two = published(store, ages(tmp_path, ("bob", 2)), of).version
    store.current("health.heart").path.unlink()
    three = published(store, ages(tmp_path, ("bob", 3)), of).version
    assert not linked(store, one, two) and not linked(store, two, three) and linked(store, three, three)


def test_an_older_version_stays_readable_until_it_is_one_too_many(store, tmp_path):
    versions = [published(store, ages(tmp_path, ("a", age)), AGE).version for age in (1, 2, 3)]
    assert store.current("health.heart").version == versions[2]
    assert column_of(store.get("health.heart", versions[1]), "age") == [2]
    with pytest.raises(DatasetUnknown):
        store.get("health.heart", versions[0])
    assert store.tables() == ["health.heart"]


@pytest.mark.parametrize(("step", "name"), [(0, "rows.duckdb"), (1, "[0-9a-f]{64}"), (2, "current")])
def test_a_crash_before_the_last_step_leaves_the_old_version(store, tmp_path, monkeypatch, step, name):
    old = published(store, ages(tmp_path, ("a", 1)), AGE).version
    source = ages(tmp_path, ("a", 2))
    real, calls = os.replace, []

    def crash(one, two):
        calls.append(Path(two).name)
        if len(calls) > step:
            raise KeyboardInterrupt
        real(one, two)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        published(store, source, AGE)
    assert re.fullmatch(name, calls[-1])
    assert store.current("health.heart").version == old
    assert column_of(store.current("health.heart"), "age") == [1]
    assert not list(store.path_of("health.heart", old).parents[1].glob(".staging-*"))
    monkeypatch.setattr(os, "replace", real)
    new = published(store, source, AGE).version
    assert store.current("health.heart").version == new != old
    assert linked(store, old, new)


def test_after_a_crash_the_way_leads_from_the_version_that_answers(store, tmp_path, monkeypatch):
    """A version that was recorded and never answered is no part of the way."""
    old = published(store, ages(tmp_path, ("ann", 1), ("bob", 1)), AGE).version
    real = os.replace

    def crash(one, two):
        if Path(two).name == "current":
            raise KeyboardInterrupt
        real(one, two)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        published(store, ages(tmp_path, ("ann", 2), ("bob", 1)), AGE)
    monkeypatch.setattr(os, "replace", real)
    new = published(store, ages(tmp_path, ("ann", 1), ("bob", 2)), AGE).version
    assert linked(store, old, new)
    assert len(list(store.subjects_path("health.heart").parent.glob("steps/*"))) == 2


def test_a_refused_source_leaves_the_old_version(store, tmp_path):
    old = published(store, ages(tmp_path, ("a", 1)), AGE).version
    with pytest.raises(ValuesMissing):
        published(store, ages(tmp_path, ("a", 1), ("", 2)), AGE)
    assert store.current("health.heart").version == old


@pytest.mark.parametrize("of", [AGE, AGE_ALONE], ids=["key", "no key"])
def test_damage_is_noticed_and_mended_by_publishing_again(store, tmp_path, of):
    source = ages(tmp_path, ("a", 1))
    version = published(store, source, of).version
    path = store.current("health.heart").path
    for damage in (lambda: path.write_bytes(b"short"), path.unlink, (path.parent / "snapshot.json").unlink):
        damage()
        with pytest.raises(SnapshotDamaged):
            store.current("health.heart")
        assert published(store, source, of).version == version
        assert column_of(store.current("health.heart"), "age") == [1]


def test_overwritten_bytes_are_mended_by_publishing_again(store, tmp_path):
    """A disk that gives back other bytes leaves the file's length as it was."""
    source = ages(tmp_path, ("a", 1))
    version = published(store, source, AGE).version
    path = store.current("health.heart").path
    path.write_bytes(bytes(path.stat().st_size))
    assert published(store, source, AGE).version == version
    assert column_of(store.current("health.heart"), "age") == [1]


@pytest.mark.parametrize("version", ["0" * 64, "../../secret", "current", ""])
def test_unknown_versions_and_tables(store, tmp_path, version):
    published(store, ages(tmp_path, ("a", 1)), AGE)
    with pytest.raises(DatasetUnknown):
        store.get("health.heart", version)
    with pytest.raises(DatasetUnknown):
        store.get("../health.heart", version)
    with pytest.raises(DatasetMissing):
        store.current("health.liver")


def test_only_the_owner_can_read_the_store(store, tmp_path):
    published(store, ages(tmp_path, ("a", 1)), AGE)
    for path in (tmp_path / "store").rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path


def test_a_snapshot_says_what_a_holder_publishes_about_it(store, tmp_path):
    of = schema({"name": "x", **INT, "out_of_bounds": "clip"}, {"name": "y", **INT})
    report = published(store, write_csv(tmp_path, ["x", "y"], *([[999, 999]] * 2), *([[-999, 1]] * 3)), of)
    snapshot = store.current("health.heart")
    assert (snapshot.rows, snapshot.row_capacity, snapshot.clipped) == (5, 8, {"x": 5})
    assert (snapshot.schema, snapshot.published_at) == (of, NOW)
    assert str(report).splitlines()[1:] == [
        "  x  below_minimum             3",
        "  x  above_maximum             2",
        "  y  above_maximum             2",
    ]


# --- real data -------------------------------------------------------------------------------------------------

HEART_SCHEMA = schema(
    {"name": "age", "type": "int", "minimum": 0, "maximum": 120},
    {"name": "sex", "type": "category", "domain": ["Female", "Male"]},
    {"name": "cholesterol", "type": "int", "minimum": 50, "maximum": 700, "missing_codes": [0]},
    {"name": "st_depression", "type": "decimal", "resolution": "0.1", "minimum": -5, "maximum": 10},
    {"name": "diagnosis", "type": "int", "domain": [0, 1, 2, 3, 4]},
    subject_key="patient_id",
)


def test_answers_on_heart_disease_equal_duckdbs_on_the_source(store, tmp_path):
    published(store, HEART, HEART_SCHEMA)
    outputs = [("n", STATISTICS["count"]())]
    for name in ("age", "cholesterol", "st_depression"):
        value = ColumnValue(name=name)
        outputs += [(f"{kind}_{name}", STATISTICS[kind](value=value)) for kind in ("count", "sum", "mean", "variance")]
    plan = Plan(
        table="health.heart",
        schema_digest=HEART_SCHEMA.digest(),
        groups=(ByColumn(name="sex", column="sex"), ByColumn(name="diagnosis", column="diagnosis")),
        outputs=tuple(Named(name=name, statistic=statistic) for name, statistic in outputs),
    )
    program = compile_plan(plan, HEART_SCHEMA)
    engine = DuckDBEngine(holder="cleveland", memory_limit="200MB", threads=2, temp_directory=tmp_path / "spill")
    ours = finish(program, engine.grouped_sums(store.current("health.heart"), program))
    chol = "CASE WHEN cholesterol <> 0 THEN cholesterol END"
    wanted = ", ".join(f"count({x}), sum({x}), avg({x}), var_samp({x})" for x in ("age", chol, "st_depression"))
    theirs = duckdb.execute(
        f"SELECT sex, diagnosis, count(*), {wanted} FROM '{HEART}' GROUP BY ALL ORDER BY sex, diagnosis"
    ).fetchall()
    assert len(ours) == len(theirs) == 10
    for our, their in zip(ours, theirs, strict=True):
        assert our[:3] == their[:3]
        assert our[3:] == pytest.approx(their[3:], rel=1e-9)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(store, tmp_path):
    path, rows = tmp_path / "source.parquet", 2_000_000
    columns = ", ".join(f"hash(i + {n}) % 100000 AS c{n}" for n in range(6))
    duckdb.execute(
        f"COPY (SELECT {columns}, 'p' || i AS patient FROM range({rows}) AS t(i)) TO '{path}' (FORMAT parquet)"
    )
    of = schema(
        *({"name": f"c{n}", "type": "int", "minimum": 0, "maximum": 100_000} for n in range(6)), subject_key="patient"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert published(store, path, of).rows == rows
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024
