"""Snapshots for tests of the engine, without publishing: a DuckDB file with the given rows."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ceiba_node.quantising import column_type, identifier
from ceiba_node.snapshots import IDENTIFIERS, Snapshot
from ceiba_protocol.program import DIGEST, SUBJECT, Row
from ceiba_protocol.schema import Schema
from ceiba_protocol.v1.common_pb2 import Signed

_FILES = itertools.count()


def identifier_of(column: str, number: int) -> str:
    return f"{column} {number}"


def write_snapshot(folder: Path, schema: Schema, rows: Sequence[Row]) -> Snapshot:
    """Rows as `grouped_sums` takes them; their subjects are under SUBJECT, 0 where a row has none. Subject 7 has the
    identifier `identifier_of(column, 7)` in every declared column of identifiers."""
    path = folder / f"{next(_FILES)}.duckdb"
    names = [column.name for column in schema.columns]
    columns = [f"{identifier(column.name)} {column_type(column)}" for column in schema.columns]
    with duckdb.connect(str(path)) as database:
        own = [f"{identifier(name)} BIGINT" for name in (SUBJECT, DIGEST)]
        database.execute(f"CREATE TABLE rows ({', '.join([*columns, *own])})")
        if rows:
            values = [[*(row[name] for name in names), row.get(SUBJECT, 0), row.get(DIGEST)] for row in rows]
            marks = "(" + ", ".join("?" * (len(names) + 2)) + ")"
            flat = [value for row in values for value in row]
            database.execute(f"INSERT INTO rows VALUES {', '.join([marks] * len(values))}", flat)
        if schema.identifiers:
            named = [one.column for one in schema.identifiers]
            texts = "".join(f", {identifier(name)} VARCHAR" for name in named)
            database.execute(f"CREATE TABLE {IDENTIFIERS} ({identifier(SUBJECT)} BIGINT{texts})")
            for number in sorted({row.get(SUBJECT, 0) for row in rows}):
                own = [number, *(identifier_of(name, number) for name in named)]
                database.execute(f"INSERT INTO {IDENTIFIERS} VALUES ({', '.join('?' * len(own))})", own)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    subjects = max(1, len({row.get(SUBJECT, 0) for row in rows}))
    return Snapshot(schema.table, "0" * 64, schema, max(len(rows), 1), {}, now, path, Signed(), subjects)
