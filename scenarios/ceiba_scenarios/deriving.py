"""A schema derived from files, for the sandbox alone: a real space declares its schemas, because deriving one looks
at every holder's rows, which only a laptop with all the files can do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ceiba_protocol.errors import BadSource
from ceiba_protocol.schema import Schema

MAX_CATEGORIES = 1000
FINEST_DIGITS = 6
"""A column with more decimals than this gets a resolution of 10^-6, and publishing counts what it rounded."""


@dataclass(frozen=True)
class Derived:
    """A schema, and how its columns are called in the files."""

    schema: Schema
    source_columns: dict[str, str]


def derive(table: str, files: Sequence[Path]) -> Derived:
    """Types, resolutions, domains of columns with up to 1,000 values, bounds; grade internal; rows as subjects.

    Text with more values is left out: it has no domain to be public. Raises BadSource.
    """
    connection = duckdb.connect()
    try:
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {_reader(path)}" for path in files)
        connection.execute(f"CREATE TEMP VIEW everything AS {union}")
        described = connection.execute("DESCRIBE everything").fetchall()
        columns = [(_name(source), source, kind) for source, kind, *_ in described]
        plain = [(name, source, _column(connection, source, kind)) for name, source, kind in columns]
    except duckdb.Error:
        raise BadSource(source=", ".join(map(str, files)), problem="it is no readable CSV or Parquet file") from None
    finally:
        connection.close()
    known = [(name, source, {"name": name, **column}) for name, source, column in plain if column]
    schema = Schema.from_plain({"table": table, "columns": [column for _, _, column in known]})
    return Derived(schema, {name: source for name, source, _ in known if name != source})


def _reader(path: Path) -> str:
    function = "read_parquet" if path.suffix.lower() in (".parquet", ".pq") else "read_csv"
    return f"{function}({_text(str(path))})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _name(source: str) -> str:
    """A column name of ASCII letters, digits and underscores."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", source).strip("_") or "column"
    return name if not name[0].isdigit() else f"c_{name}"


def _column(connection: duckdb.DuckDBPyConnection, source: str, kind: str) -> dict[str, Any] | None:
    """The column as a schema writes it, or None if it cannot be computed with."""
    if kind == "VARCHAR":
        return _category(connection, source)
    if kind == "BOOLEAN":
        return {"type": "bool", "nullable": _has_null(connection, source)}
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return _moment(connection, source, "date" if kind == "DATE" else "timestamp")
    return _number(connection, source, kind)


def _one(connection: duckdb.DuckDBPyConnection, select: str) -> tuple[Any, ...]:
    row = connection.execute(f"SELECT {select} FROM everything").fetchone()
    assert row is not None
    return row


def _has_null(connection: duckdb.DuckDBPyConnection, source: str) -> bool:
    return bool(_one(connection, f"COUNT(*) > COUNT({_quoted(source)})")[0])


def _category(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Any] | None:
    name = _quoted(source)
    domain = _values(connection, f"trim({name})", f"trim({name}) <> ''")
    if not domain or len(domain) > MAX_CATEGORIES:
        return None
    return {"type": "category", "domain": domain, "nullable": _has_null(connection, source) or "" in domain}


def _values(connection: duckdb.DuckDBPyConnection, value: str, condition: str) -> list[Any]:
    """Distinct values in order; one more than MAX_CATEGORIES if there are too many."""
    query = f"SELECT DISTINCT {value} AS v FROM everything WHERE {condition} ORDER BY v LIMIT {MAX_CATEGORIES + 1}"
    return [row[0] for row in connection.execute(query).fetchall()]


def _moment(connection: duckdb.DuckDBPyConnection, source: str, kind: str) -> dict[str, Any] | None:
    name = _quoted(source)
    low, high = _one(connection, f"MIN({name}), MAX({name})")
    if low is None:
        return None
    return {"type": kind, "minimum": low, "maximum": high, "nullable": _has_null(connection, source)}


def _number(connection: duckdb.DuckDBPyConnection, source: str, kind: str) -> dict[str, Any] | None:
    name = _quoted(source)
    finite = f"{name} IS NOT NULL AND isfinite({name}::DOUBLE)"
    low, high = _one(connection, f"MIN({name}) FILTER ({finite}), MAX({name}) FILTER ({finite})")
    if low is None:
        return None
    digits = 0 if "INT" in kind else _digits(connection, name, finite)
    column: dict[str, Any] = (
        {"type": "decimal", "resolution": f"{10**-digits:.{digits}f}"} if digits else {"type": "int"}
    )
    values = _values(connection, name, finite)
    texts = [_decimal(value, digits) for value in values]
    if 0 < len(values) <= MAX_CATEGORIES:
        column["domain"] = list(dict.fromkeys(texts))
    column["minimum"], column["maximum"] = _decimal(low, digits), _decimal(high, digits)
    _, missing = _one(connection, f"COUNT(*), COUNT(*) FILTER (NOT coalesce({finite}, false))")
    return {**column, "nullable": bool(missing)}


def _digits(connection: duckdb.DuckDBPyConnection, name: str, finite: str) -> int:
    """Decimals after the point that the column's values need, at most FINEST_DIGITS."""
    for digits in range(FINEST_DIGITS):
        (rest,) = _one(connection, f"COUNT(*) FILTER ({finite} AND round({name}::DOUBLE, {digits}) <> {name})")
        if rest == 0:
            return digits
    return FINEST_DIGITS


def _decimal(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if digits else str(int(value))
