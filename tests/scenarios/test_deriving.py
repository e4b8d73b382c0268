"""Schemas derived from files: what a tester's CSV and Parquet files become without a word of declaration."""

from pathlib import Path

import duckdb
import pytest

from ceiba_protocol.errors import BadSource
from ceiba_protocol.schema import Column, ColumnType, Grade, Schema
from ceiba_scenarios.deriving import MAX_CATEGORIES, derive


def schema_of(folder: Path, select: str) -> Schema:
    """The schema derived from one Parquet file with what this query selects."""
    path = folder / "t.parquet"
    duckdb.sql(select).write_parquet(str(path))
    return derive("t", [path]).schema


def column_of(folder: Path, *values: str) -> Column:
    rows = ", ".join(f"({value})" for value in values)
    return schema_of(folder, f"SELECT x FROM (VALUES {rows}) AS v(x)").column("x")


def test_whole_numbers(tmp_path: Path) -> None:
    column = column_of(tmp_path, "3", "-1", "7")
    assert (column.type, column.minimum, column.maximum) == (ColumnType.INT, "-1", "7")
    assert column.domain == ("-1", "3", "7")
    assert not column.nullable


def test_floats_that_are_whole_are_ints(tmp_path: Path) -> None:
    column = column_of(tmp_path, "1::DOUBLE", "0", "NULL")
    assert (column.type, column.domain, column.nullable) == (ColumnType.INT, ("0", "1"), True)


@pytest.mark.parametrize(
    ("values", "resolution"),
    [
        (["0.5::DOUBLE", "2"], "0.1"),
        (["0.1::FLOAT", "0.25"], "0.01"),
        (["1.50::DECIMAL(9,2)", "0.25"], "0.01"),
        (["1e-6", "1"], "0.000001"),
        (["pi()", "1"], "0.000001"),
    ],
)
def test_the_resolution_is_what_the_values_need(tmp_path: Path, values: list[str], resolution: str) -> None:
    column = column_of(tmp_path, *values)
    assert (column.type, column.resolution) == (ColumnType.DECIMAL, resolution)


def test_bounds_of_decimals(tmp_path: Path) -> None:
    column = column_of(tmp_path, "-0.25", "12.5")
    assert (column.minimum, column.maximum) == ("-0.25", "12.50")


def test_nan_and_infinity_are_missing_not_bounds(tmp_path: Path) -> None:
    column = column_of(tmp_path, "1.5::DOUBLE", "'nan'", "'inf'", "'-inf'")
    assert (column.minimum, column.maximum, column.nullable) == ("1.5", "1.5", True)


def test_text_is_a_category(tmp_path: Path) -> None:
    column = column_of(tmp_path, "'b'", "'a'", "' a '", "NULL")
    assert (column.type, column.domain, column.nullable) == (ColumnType.CATEGORY, ("a", "b"), True)


def test_empty_text_is_missing(tmp_path: Path) -> None:
    column = column_of(tmp_path, "'b'", "''", "'  '")
    assert (column.domain, column.nullable) == (("b",), True)


@pytest.mark.parametrize(("values", "has_domain"), [(MAX_CATEGORIES, True), (MAX_CATEGORIES + 1, False)])
def test_a_domain_has_at_most_a_thousand_values(tmp_path: Path, values: int, has_domain: bool) -> None:
    schema = schema_of(tmp_path, f"SELECT i AS number, 'v' || i AS word FROM range({values}) AS r(i)")
    assert (schema.column("number").domain is not None) is has_domain
    assert ("word" in schema.by_name) is has_domain


def test_bool(tmp_path: Path) -> None:
    column = column_of(tmp_path, "true", "false")
    assert (column.type, column.nullable) == (ColumnType.BOOL, False)


def test_dates_and_timestamps(tmp_path: Path) -> None:
    day = column_of(tmp_path, "DATE '2024-01-31'", "DATE '2023-05-01'")
    at = column_of(tmp_path, "TIMESTAMP '2024-01-01 12:30:00'", "TIMESTAMP '2024-01-02'")
    assert (day.type, day.minimum, day.maximum) == (ColumnType.DATE, "2023-05-01", "2024-01-31")
    assert (at.type, at.minimum, at.maximum) == (ColumnType.TIMESTAMP, "2024-01-01T12:30:00", "2024-01-02T00:00:00")


def test_timestamps_with_a_zone(tmp_path: Path) -> None:
    assert column_of(tmp_path, "TIMESTAMPTZ '2024-01-01 12:30:00+02'").type is ColumnType.TIMESTAMP


def test_the_union_of_all_files_counts(tmp_path: Path) -> None:
    csv, parquet = tmp_path / "a.csv", tmp_path / "b.parquet"
    csv.write_text("sex,age\nfemale,30\n")
    duckdb.sql("SELECT 70.5 AS age, 'male' AS sex").write_parquet(str(parquet))
    schema = derive("t", [csv, parquet]).schema
    assert schema.column("sex").domain == ("female", "male")
    assert (schema.column("age").minimum, schema.column("age").maximum) == ("30.0", "70.5")


def test_a_column_that_one_file_lacks_is_nullable(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,1\n")
    (tmp_path / "b.csv").write_text("x\n2\n")
    schema = derive("t", [tmp_path / "a.csv", tmp_path / "b.csv"]).schema
    assert not schema.column("x").nullable
    assert schema.column("y").nullable


def test_names_that_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "lung.csv"
    path.write_text('ph.ecog,"2nd score"\n1,5\n')
    derived = derive("lung", [path])
    assert list(derived.schema.by_name) == ["ph_ecog", "c_2nd_score"]
    assert derived.source_columns == {"ph_ecog": "ph.ecog", "c_2nd_score": "2nd score"}


def test_columns_are_internal_and_rows_their_own_subjects(tmp_path: Path) -> None:
    schema = schema_of(tmp_path, "SELECT 1 AS x")
    assert schema.column("x").grade is Grade.INTERNAL
    assert schema.subject_key is None


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(BadSource):
        derive("t", [path])


@pytest.mark.parametrize("value", ["[1, 2]", "'x'::BLOB", "NULL::INTEGER", "NULL::VARCHAR", "uuid()", "TIME '12:00'"])
def test_what_cannot_be_computed_with_is_left_out(tmp_path: Path, value: str) -> None:
    assert list(schema_of(tmp_path, f"SELECT 1 AS y, {value} AS x").by_name) == ["y"]
