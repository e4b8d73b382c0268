"""Answers a query from a data frame, in this process: what a space gives, without one. To compare with pooled data."""

from typing import Any

import numpy as np
import pandas as pd

from ceiba.query import Query
from ceiba.released import Released
from ceiba.result import Result
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.program import DIGEST, subject_digest
from ceiba_protocol.schema import Column, ColumnType, Schema


class Pooled:
    """A `Runner` over the rows of a frame: `Table(schema, Pooled(schema, frame))`. Nothing is withheld."""

    def __init__(self, schema: Schema, frame: pd.DataFrame) -> None:
        self.rows = [
            {column.name: _code(column, row.get(column.name)) for column in schema.columns} | _subject(schema, row)
            for row in frame.to_dict("records")
        ]

    def run(self, query: Query, **_options: Any) -> Result:
        return query.result(Released(grouped_sums(query.program, self.rows)))

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
