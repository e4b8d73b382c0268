"""Everybody's rows in one table: what the answer would be if nobody had to keep anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from ceiba.query import Query
from ceiba.released import Released
from ceiba.result import Result
from ceiba_protocol.plan import fit_alone, grouped_sums
from ceiba_protocol.program import DIGEST, Row, subject_digest
from ceiba_protocol.schema import Column, ColumnType, Schema

_WIDTH_BUCKET = """CREATE MACRO width_bucket(x, lo, hi, n) AS CASE WHEN x < lo THEN 0 WHEN x >= hi THEN n + 1
    ELSE CAST(floor((x - lo) * n / (hi - lo)) AS INTEGER) + 1 END"""


def pooled(sql: str, rows: Mapping[str, Sequence[Row]]) -> list[tuple]:
    """Of the table health.heart in `members`; `rows` are snapshots: categories and units become what people write."""
    with duckdb.connect() as database:
        database.execute(_WIDTH_BUCKET)
        database.execute("CREATE SCHEMA health")
        database.execute("CREATE TABLE health.heart (sex VARCHAR, age INTEGER, chol DECIMAL(9,1))")
        everybody = []
        for row in (row for own in rows.values() for row in own):
            chol = None if row["chol"] is None else row["chol"] / 10
            everybody.append([["female", "male"][row["sex"] or 0], row["age"], chol])
        database.executemany("INSERT INTO health.heart VALUES (?, ?, ?)", everybody)
        return database.execute(sql).fetchall()


class Pooled:
    """A `Runner` over the rows of a frame: `Table(schema, Pooled(schema, frame))`. Nothing is withheld."""

    def __init__(self, schema: Schema, frame: pd.DataFrame) -> None:
        self.rows = [
            {column.name: _code(column, row.get(column.name)) for column in schema.columns} | _subject(schema, row)
            for row in frame.to_dict("records")
        ]

    def run(self, query: Query, **_options: Any) -> Result:
        program = query.program
        totals = grouped_sums(program, self.rows) if program.fit is None else fit_alone(program, self.rows)
        return query.result(Released(totals))

    def submit(self, query: Query, **_options: Any) -> Any:
        raise NotImplementedError

    def explain(self, query: Query, **_options: Any) -> Any:
        raise NotImplementedError


def _subject(schema: Schema, row: dict[Any, Any]) -> dict[str, int]:
    """What splits know of the row's subject, if the frame says who it is."""
    key = schema.subject_key
    return {DIGEST: subject_digest(str(row[key]))} if key in row else {}


def _code(column: Column, value: Any) -> int | None:
    """A value as a snapshot has it: an integer in units of the column's step, or the place in its domain."""
    if pd.isna(value):
        return None
    if isinstance(value, bool | np.bool_):
        return int(value)
    whole = isinstance(value, float) and value.is_integer() and column.type is not ColumnType.CATEGORY
    return column.encode(str(int(value)) if whole else str(value))
