"""A small table with NULLs, Unicode and every column type, and DuckDB on the same rows as the meaning of SQL."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import duckdb

from ceiba.mock import mock_rows
from ceiba.query import Query, Table
from ceiba.released import Released
from ceiba.result import Result
from ceiba.sql import parse
from ceiba_protocol.errors import UnknownTable
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.program import Row
from ceiba_protocol.schema import Column, ColumnType, Schema, nearest

ROWS = 300

HEART = Schema.from_plain(
    {
        "table": "health.heart",
        "columns": [
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120, "unit": "years", "label": "Age"},
            {"name": "visits", "type": "int", "minimum": -5, "maximum": 20, "nullable": False},
            {"name": "chol", "type": "decimal", "resolution": 0.1, "minimum": -20, "maximum": 60},
            {"name": "dose", "type": "decimal", "resolution": 0.01, "minimum": 0, "maximum": 9},
            {"name": "sex", "type": "category", "domain": ["female", "male"]},
            {"name": "city", "type": "category", "domain": ["Köln", "東京", "O'Hara", "<b>"], "nullable": False},
            {"name": "smoker", "type": "bool"},
            {"name": "stage", "type": "int", "domain": [1, 2, 3]},
            {"name": "seen", "type": "date", "minimum": "2024-01-15", "maximum": "2024-06-10"},
            {"name": "came", "type": "timestamp", "minimum": "2024-01-01", "maximum": "2024-03-31"},
            {"name": "day", "type": "date", "domain": ["2024-01-01", "2024-01-02"]},
        ],
    }
)

_SQL_TYPES = {
    ColumnType.INT: "INTEGER",
    ColumnType.DECIMAL: "DECIMAL(9,2)",
    ColumnType.CATEGORY: "VARCHAR",
    ColumnType.BOOL: "BOOLEAN",
    ColumnType.DATE: "DATE",
    ColumnType.TIMESTAMP: "TIMESTAMP",
}
_WIDTH_BUCKET = """CREATE MACRO width_bucket(x, lo, hi, n) AS CASE WHEN x < lo THEN 0 WHEN x >= hi THEN n + 1
    ELSE CAST(floor((x - lo) * n / (hi - lo)) AS INTEGER) + 1 END"""


class NoRunner:
    """A runner that must not be reached: building, mocking and presenting need no network."""

    def run(self, query: Query, **options: Any) -> Result:
        raise AssertionError("a question was asked")

    submit = explain = run


def table() -> Table:
    return Table(HEART, NoRunner())


def schema_of(name: str) -> Schema:
    if name not in ("health.heart", "heart"):
        raise UnknownTable(table=name, nearest=nearest(name, ["health.heart"]))
    return HEART


def query_of(sql: str) -> Query:
    plan, presentation = parse(sql, schema_of)
    return Query(HEART, NoRunner(), plan, presentation)


@cache
def rows() -> list[Row]:
    return mock_rows(HEART, HEART.by_name, ROWS, seed=7)


def answer(query: Query) -> Result:
    """Ours: the plan's integers on the rows, finished and presented."""
    return query.result(Released(grouped_sums(query.program, rows())))


def decoded(column: Column, code: int | None) -> Any:
    """A snapshot's integer as the value that the source had."""
    if code is None:
        return None
    match column.type:
        case ColumnType.DECIMAL:
            return Decimal(code) * Decimal(column.resolution or "1")
        case ColumnType.CATEGORY:
            return (column.domain or ())[code]
        case ColumnType.BOOL:
            return bool(code)
        case ColumnType.DATE:
            return date(1970, 1, 1) + timedelta(days=code)
        case ColumnType.TIMESTAMP:
            return datetime(1970, 1, 1) + timedelta(microseconds=code)
        case _:
            return code


@cache
def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA health")
    columns = ", ".join(f"{column.name} {_SQL_TYPES[column.type]}" for column in HEART.columns)
    connection.execute(f"CREATE TABLE health.heart ({columns})")
    marks = ", ".join("?" * len(HEART.columns))
    values = [[decoded(column, row[column.name]) for column in HEART.columns] for row in rows()]
    connection.executemany(f"INSERT INTO health.heart VALUES ({marks})", values)
    connection.execute(_WIDTH_BUCKET)
    return connection


def truth(sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """DuckDB's titles and rows for the same text."""
    cursor = database().cursor().execute(sql)
    return [field[0] for field in cursor.description or ()], cursor.fetchall()
