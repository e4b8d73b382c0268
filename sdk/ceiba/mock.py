"""Made-up rows from a schema alone, so that a program can be written before anyone agreed to anything."""

from collections.abc import Iterable
from datetime import date, datetime, time
from hashlib import shake_256

from ceiba_protocol.program import DIGEST, Row, subject_digest
from ceiba_protocol.schema import Column, ColumnType, Schema, days_since_epoch, microseconds_since_epoch

WORD = 8
"""Bytes drawn for each decision; two decisions a value: whether it is NULL, and which it is."""
NULL_SHARE = 20
"""One value in 20 of a nullable column is NULL."""
_FIRST, _LAST = date(2020, 1, 1), date(2025, 12, 31)


def mock_rows(schema: Schema, columns: Iterable[str], rows: int, seed: int) -> list[Row]:
    """`rows` rows with integer values as a snapshot has them: even over each domain, NULLs where they may be. Each is
    about somebody else.

    The same schema and seed give the same values of a column, whichever others are asked for.
    """
    names = sorted(columns)
    values = [_values(schema.table, schema.column(name), rows, seed) for name in names]
    made: list[Row] = [{}] * rows
    if names:
        made = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    if schema.subject_key is None:
        return made
    return [{**row, DIGEST: subject_digest(f"mock/{seed}/{number}")} for number, row in enumerate(made)]


def _values(table: str, column: Column, rows: int, seed: int) -> list[int | None]:
    stream = shake_256(f"ceiba/v1/mock/{seed}/{table}/{column.name}".encode()).digest(2 * WORD * rows)
    words = [int.from_bytes(stream[start : start + WORD]) for start in range(0, len(stream), WORD)]
    return [_value(column, *pair) for pair in zip(words[::2], words[1::2], strict=True)]


def _value(column: Column, null: int, which: int) -> int | None:
    if column.nullable and null % NULL_SHARE == 0:
        return None
    if column.codes is not None:
        return column.codes[which % len(column.codes)]
    low, high = column.range or _undeclared_range(column)
    return low + which % (high - low + 1)


def _undeclared_range(column: Column) -> tuple[int, int]:
    """Where values lie if a column declares no bounds; decimals in steps of their resolution."""
    match column.type:
        case ColumnType.DATE:
            return days_since_epoch(_FIRST), days_since_epoch(_LAST)
        case ColumnType.TIMESTAMP:
            first, last = (datetime.combine(day, time()) for day in (_FIRST, _LAST))
            return microseconds_since_epoch(first), microseconds_since_epoch(last)
        case _:
            return 0, 100
