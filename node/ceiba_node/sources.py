"""Sources: a CSV file, a Parquet file or a table of a DuckDB file, as a relation that SQL can read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ceiba_node.quantising import identifier, literal
from ceiba_node.quiet import quietly
from ceiba_protocol.errors import BadSource
from ceiba_protocol.schema import Schema

_FLOATS = ("DOUBLE", "FLOAT")


@dataclass(frozen=True)
class Source:
    """An opened source. `relation` is SQL; `names` maps the schema's names to the source's."""

    path: Path
    relation: str
    names: Mapping[str, str]
    floats: frozenset[str]
    """Names of the source whose values are binary floats."""

    def column(self, name: str) -> str:
        """SQL for the source's column of the schema's `name`."""
        return identifier(self.names[name])

    def is_float(self, name: str) -> bool:
        return self.names[name] in self.floats

    def unreadable(self) -> BadSource:
        return _unreadable(self.path)


def open_source(
    database: duckdb.DuckDBPyConnection, path: Path, schema: Schema, names: Mapping[str, str], table: str
) -> Source:
    """Open the file at `path` and find the schema's columns in it. Raises BadSource.

    `names` has the columns whose name differs in the source; `table` is the table of a DuckDB file.
    """
    relation = _relation(database, path, table)
    described = quietly(lambda: database.execute(f"DESCRIBE FROM {relation}").fetchall(), _unreadable(path))
    types = {str(name): str(kind) for name, kind, *_ in described}
    wanted = [column.name for column in schema.columns]
    if schema.subject_key is not None:
        wanted.append(schema.subject_key)
    wanted += [one.column for one in schema.identifiers if one.column != schema.subject_key]
    found = {name: names.get(name, name) for name in wanted}
    missing = [name for name in wanted if found[name] not in types]
    if missing:
        raise BadSource(source=path.name, problem=f"it has no column for {', '.join(missing)}")
    return Source(path, relation, found, frozenset(name for name, kind in types.items() if kind in _FLOATS))


def _relation(database: duckdb.DuckDBPyConnection, path: Path, table: str) -> str:
    """The format is told by the file's first bytes, not by its name."""
    head = _head(path)
    text = literal(str(path))
    if head[:4] == b"PAR1":
        return f"read_parquet({text})"
    if head[8:12] == b"DUCK":
        quietly(lambda: database.execute(f"ATTACH {text} AS source (READ_ONLY)"), _unreadable(path))
        return identifier("source", *table.split("."))
    return f"read_csv({text}, all_varchar = true, header = true)"  # the header has the columns' names


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(12)
    except OSError as error:
        failure = type(error).__name__
    raise BadSource(source=path.name, problem="it is missing or cannot be opened", private=failure)


def _unreadable(path: Path) -> BadSource:
    return BadSource(source=path.name, problem="it cannot be read as the format that it seems to have")
