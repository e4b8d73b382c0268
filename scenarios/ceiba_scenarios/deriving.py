"""A schema derived from files, for the sandbox alone: a real space declares its schemas, because deriving one looks
at every holder's rows, which only a laptop with all the files can do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ceiba_protocol.errors import BadSource
from ceiba_protocol.schema import Grade, Schema

MAX_CATEGORIES = 1000
FINEST_DIGITS = 6
"""A column with more decimals than this gets a resolution of 10^-6, and publishing counts what it rounded."""
_WHOLE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
_FRACTION = re.compile(r"FLOAT|DOUBLE|DECIMAL\([0-9,]+\)")
_INSTANT = re.compile(r"TIMESTAMP(_S|_MS|_NS| WITH TIME ZONE)?")
"""DuckDB's names of types; columns of other types are left out."""


@dataclass(frozen=True)
class Derived:
    """A schema, and how its columns are called in the files."""

    schema: Schema
    source_columns: dict[str, str]


def derive(table: str, files: Sequence[Path], grade: Grade = Grade.INTERNAL) -> Derived:
    """Types, resolutions, domains of columns with up to 1,000 values, bounds; one grade for all; rows as subjects.

    Text with more values is left out: it has no domain to be public. Raises BadSource.
    """
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {_reader(path)}" for path in files)
        connection.execute(f"CREATE TEMP VIEW everything AS {union}")
        described = connection.execute("DESCRIBE everything").fetchall()
        columns = [(_name(source), source, kind) for source, kind, *_ in described]
        plain = [(name, source, _column(connection, source, kind)) for name, source, kind in columns]
    except duckdb.Error:
        raise BadSource(source=", ".join(map(str, files)), problem="it is no readable CSV or Parquet file") from None
    finally:
        connection.close()
    known = [(name, source, {"name": name, "grade": grade, **column}) for name, source, column in plain if column]
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
        return {"type": "bool", "nullable": _has_null(connection, _quoted(source))}
    if kind == "DATE" or _INSTANT.fullmatch(kind):
        return _moment(connection, source, "date" if kind == "DATE" else "timestamp")
    if _WHOLE.fullmatch(kind) or _FRACTION.fullmatch(kind):
        return _number(connection, source, kind)
    return None


def _one(connection: duckdb.DuckDBPyConnection, select: str) -> tuple[Any, ...]:
    row = connection.execute(f"SELECT {select} FROM everything").fetchone()
    assert row is not None
    return row


def _has_null(connection: duckdb.DuckDBPyConnection, value: str) -> bool:
    return bool(_one(connection, f"COUNT(*) > COUNT({value})")[0])


def _category(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Any] | None:
    value = f"nullif(trim({_quoted(source)}), '')"
    domain = _values(connection, value, f"{value} IS NOT NULL")
    if not domain or len(domain) > MAX_CATEGORIES:
        return None
    return {"type": "category", "domain": domain, "nullable": _has_null(connection, value)}


def _values(connection: duckdb.DuckDBPyConnection, value: str, condition: str) -> list[Any]:
    """Distinct values in order; one more than MAX_CATEGORIES if there are too many."""
    query = f"SELECT DISTINCT {value} AS v FROM everything WHERE {condition} ORDER BY v LIMIT {MAX_CATEGORIES + 1}"
    return [row[0] for row in connection.execute(query).fetchall()]


def _moment(connection: duckdb.DuckDBPyConnection, source: str, kind: str) -> dict[str, Any] | None:
    value = f"{_quoted(source)}::{kind}"  # a time with a zone counts in UTC
    low, high = _one(connection, f"MIN({value}), MAX({value})")
    if low is None:
        return None
    values = _values(connection, value, f"{value} IS NOT NULL")
    column = {"type": kind, "domain": values} if len(values) <= MAX_CATEGORIES else {"type": kind}
    return {**column, "minimum": low, "maximum": high, "nullable": _has_null(connection, value)}


def _number(connection: duckdb.DuckDBPyConnection, source: str, kind: str) -> dict[str, Any] | None:
    name = _quoted(source)
    finite = f"{name} IS NOT NULL AND isfinite({name}::DOUBLE)"
    low, high = _one(connection, f"MIN({name}) FILTER ({finite}), MAX({name}) FILTER ({finite})")
    if low is None:
        return None
    value = f"{name}::VARCHAR::DOUBLE" if kind == "FLOAT" else f"{name}::DOUBLE"  # 32 bits of 0.1 are 0.1, as printed
    digits = 0 if _WHOLE.fullmatch(kind) else _digits(connection, value, finite)
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


def _digits(connection: duckdb.DuckDBPyConnection, value: str, finite: str) -> int:
    """Decimals after the point that the column's values need, at most FINEST_DIGITS."""
    for digits in range(FINEST_DIGITS):
        (rest,) = _one(connection, f"COUNT(*) FILTER ({finite} AND round({value}, {digits}) <> {value})")
        if rest == 0:
            return digits
    return FINEST_DIGITS


def _decimal(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if digits else str(int(value))
