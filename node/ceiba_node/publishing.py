"""Publishing: one source becomes one immutable snapshot, checked against its schema (DESIGN §8).

1. Read every value of the source once, as text (CSV, Parquet or a table of a DuckDB file).
2. Quantise it and note which rule it met (`quantising`); count the rules.
3. Refuse what the schema or the tolerance forbids.
4. Give every subject its number, the same as in earlier versions.
5. Write the rows in the narrowest integers, in the source's order, and name the version by a keyed digest.
6. Sign its offer with the publisher's key, and make it the current version in one step.

A value of a row appears in no error and no report: DuckDB's texts can quote values, so they stay here.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from ceiba_node.quantising import (
    CONFORMING,
    OUTSIDE_BOUNDS,
    Quantised,
    Rule,
    code_of,
    identifier,
    literal,
    narrowest_type,
    plain_number,
)
from ceiba_node.quiet import quietly
from ceiba_node.snapshots import ROWS_FILE, SUBJECT_COLUMN, Snapshot, SnapshotStore, make_offer
from ceiba_node.sources import Source, open_source
from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import CeibaError, DoesNotConform, EmptyTable, EngineFailed, ValuesMissing
from ceiba_protocol.schema import OutOfBounds, Schema
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed

_MEMORY_LIMIT = "400MB"
"""Of DuckDB while publishing; what does not fit spills into the staging folder."""
_DIGEST_ROWS = 1 << 18
"""Rows that are digested at once: 2 MB a column."""
_NO_VALUE = -(2**63)
"""NULL in the digest; published integers are larger."""


@dataclass(frozen=True)
class PublishReport:
    """What publishing did, in counts."""

    table: str
    version: str
    rows: int
    non_conforming_rows: int
    """Rows with at least one value that is not of the column's type, finite, within bounds and in the domain."""
    counts: Mapping[str, Mapping[str, int]]
    """column → rule → number of values; columns and rules that did not occur are left out."""

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "table": self.table,
            "version": self.version,
            "rows": self.rows,
            "non_conforming_rows": self.non_conforming_rows,
            "counts": {column: dict(rules) for column, rules in self.counts.items()},
        }

    def __str__(self) -> str:
        lines = [
            f"{self.table}: {self.rows} rows, {self.non_conforming_rows} not conforming; version {self.version[:16]}…"
        ]
        entries = [(column, rule, n) for column, rules in self.counts.items() for rule, n in rules.items()]
        wide = max((len(column) for column, _, _ in entries), default=0)
        lines += [f"  {column:<{wide}}  {rule:<15}{n:>12}" for column, rule, n in entries]
        return "\n".join(lines)


def publish(
    store: SnapshotStore,
    source: Path,
    schema: Schema,
    *,
    now: datetime,
    version_key: bytes,
    publisher: SigningKey,
    source_columns: Mapping[str, str] | None = None,
    source_table: str | None = None,
    tolerance: int | None = None,
) -> PublishReport:
    """Make `source` the current version of `schema.table`. Run by the holder.

    `source_columns` maps names of the schema (and its subject key) to names of the source where they differ;
    `source_table` names the table of a DuckDB file, by default the last part of the table's name. With `tolerance`,
    more rows than that which do not conform are refused; without, they are published as the schema says and counted.
    `version_key` is the holder's own secret: rows with few possibilities could be guessed from a plain digest.
    `publisher`: signs the offer of this version; a node answers from no other.

    Raises BadSource, EmptyTable, DoesNotConform, BadSchema, EngineFailed; then the old version stays in place.
    """
    with store.staging(schema.table) as staging:
        press = _Press(store, staging, source, schema)
        try:
            press.read(source_columns or {}, source_table)
            report = press.check(tolerance)
            press.number_subjects()
            version = press.write(version_key)
        finally:
            press.close()
        snapshot = Snapshot(
            table=schema.table,
            version=version,
            schema=schema,
            rows=report.rows,
            clipped=_clipped(schema, report),
            published_at=now,
            path=store.path_of(schema.table, version),
            offer=Signed(),
        )
        offer = sign(make_offer(snapshot, store.holder), store.holder, publisher)
        store.adopt(staging / ROWS_FILE, replace(snapshot, offer=offer))
    return replace(report, version=version)


def _clipped(schema: Schema, report: PublishReport) -> dict[str, int]:
    clipped = {}
    for column in schema.columns:
        if column.minimum is not None and column.out_of_bounds is OutOfBounds.CLIP:
            counts = report.counts.get(column.name, {})
            clipped[column.name] = sum(counts.get(rule, 0) for rule in OUTSIDE_BOUNDS)
    return {name: n for name, n in clipped.items() if n}


class _Press:
    """The steps of one publishing, over one DuckDB connection whose file becomes the snapshot's rows.

    The temporary table `texts` is the source as text, in its order: a bare scan is what DuckDB keeps in order. `judged`
    holds each column's value and rule, the subject's identifier, and `place`, the row's number in the source; its own
    order means nothing, because DuckDB may evaluate a condition by a join.
    """

    def __init__(self, store: SnapshotStore, staging: Path, source: Path, schema: Schema) -> None:
        self._holder = store.holder
        self._subjects = store.subjects_path(schema.table)
        self._path = source
        self._schema = schema
        self._columns: Sequence[Quantised] = ()
        rows = staging / ROWS_FILE
        self._database = quietly(lambda: duckdb.connect(str(rows), config=_config(staging)), self._failed())
        rows.chmod(0o600)
        self._database.execute("SET TimeZone = 'UTC'")
        self._database.create_function("plain_number", plain_number, ["VARCHAR", "INTEGER"], "VARCHAR")

    def close(self) -> None:
        self._database.close()

    # --- step 1 and 2 ----------------------------------------------------------------------------------------------

    def read(self, source_columns: Mapping[str, str], source_table: str | None) -> None:
        """Raises BadSource, BadSchema."""
        table = source_table or self._schema.table.rpartition(".")[2]
        source = open_source(self._database, self._path, self._schema, source_columns, table)
        self._columns = [
            Quantised(column, place, source.column(column.name), source.is_float(column.name), self._schema.table)
            for place, column in enumerate(self._schema.columns)
        ]
        stages = [_merged(parts) for parts in zip(*(column.stages() for column in self._columns), strict=True)]
        texts = [*_named(stages[0]), f"{self._subject(source)} AS subject"]
        self._query(f"CREATE TEMP TABLE texts AS {_select(texts, source.relation)}", source.unreadable())
        judged = _select([*self._results(), "subject", "place"], self._judging(stages[1:]))
        self._query(f"CREATE TEMP TABLE judged AS {judged}", self._failed())
        self._query("DROP TABLE texts", self._failed())

    def _subject(self, source: Source) -> str:
        key = self._schema.subject_key
        return "NULL" if key is None else f"nullif(trim(CAST({source.column(key)} AS VARCHAR)), '')"

    def _judging(self, stages: Iterable[Mapping[str, str]]) -> str:
        """Sub-selects, one around the other, for the stages of all columns side by side."""
        relation = f"({_select(['*', 'rowid AS place'], 'texts')})"
        for made in stages:
            relation = f"({_select(['*', *_named(made)], relation)})"
        return relation

    def _results(self) -> list[str]:
        return [name for column in self._columns for name in (column.value, column.rule)]

    # --- step 3 ----------------------------------------------------------------------------------------------------

    def check(self, tolerance: int | None) -> PublishReport:
        """The report, without its version. Raises EmptyTable, DoesNotConform."""
        places = [(column, rule) for column in self._columns for rule in Rule]
        faults = [code_of(rule) for rule in Rule if rule not in CONFORMING]
        at_fault = " OR ".join(f"{column.rule} IN ({', '.join(map(str, faults))})" for column in self._columns)
        wanted = [
            "count(*)",
            "count(subject)",
            f"count(*) FILTER (WHERE {at_fault})",
            *(f"count(*) - count({column.value})" for column in self._columns),
            *(f"count(*) FILTER (WHERE {column.rule} = {code_of(rule)})" for column, rule in places),
        ]
        rows, identified, non_conforming, *rest = self._query(_select(wanted, "judged"), self._failed())[0]
        if rows == 0:
            raise EmptyTable(table=self._schema.table)
        self._refuse_gaps(rows, identified, rest[: len(self._columns)])
        counts = _counts(places, rest[len(self._columns) :])
        if tolerance is not None and non_conforming > tolerance:
            raise self._does_not_conform(non_conforming, tolerance, _at_fault(places, counts))
        return PublishReport(self._schema.table, "", rows, non_conforming, counts)

    def _refuse_gaps(self, rows: int, identified: int, nulls: Sequence[int]) -> None:
        """Every row needs its subject, and a column that promised to have no NULL has none."""
        if self._schema.subject_key is not None and identified < rows:
            raise self._values_missing(rows - identified, [self._schema.subject_key])
        gaps = {
            column.name: n for column, n in zip(self._schema.columns, nulls, strict=True) if n and not column.nullable
        }
        if gaps:
            raise self._values_missing(max(gaps.values()), gaps)

    # --- step 4 ----------------------------------------------------------------------------------------------------

    def number_subjects(self) -> None:
        """Extend the table's book of subjects by identifiers that it has not seen, in order of appearance."""
        if self._schema.subject_key is None:
            return
        self._query(f"ATTACH {literal(str(self._subjects))} AS book", self._failed())
        self._subjects.chmod(0o600)
        self._query(
            "CREATE TABLE IF NOT EXISTS book.subjects (identifier VARCHAR NOT NULL, number BIGINT NOT NULL)",
            self._failed(),
        )
        self._query(
            """
            INSERT INTO book.subjects
            SELECT subject, (SELECT count(*) FROM book.subjects) + row_number() OVER (ORDER BY first_row) - 1
            FROM (SELECT subject, min(place) AS first_row FROM judged GROUP BY subject) AS present
            ANTI JOIN book.subjects ON identifier = subject
            """,
            self._failed(),
        )

    # --- step 5 ----------------------------------------------------------------------------------------------------

    def write(self, version_key: bytes) -> str:
        """Write the table `rows` and return its version."""
        columns = [f"{column.value} AS {identifier(column.column.name)}" for column in self._columns]
        if self._schema.subject_key is None:
            number, source = "place", "judged"
        else:
            number, source = "number", "judged JOIN book.subjects ON identifier = subject"
        highest = self._query(_select([f"max({number})"], source), self._failed())[0][0]
        columns.append(f"CAST({number} AS {narrowest_type(0, highest)}) AS {identifier(SUBJECT_COLUMN)}")
        self._query(f"CREATE TABLE rows AS {_select(columns, source, 'ORDER BY place')}", self._failed())
        version = self._digest(version_key)
        self._query("CHECKPOINT", self._failed())
        return version

    def _digest(self, version_key: bytes) -> str:
        """HMAC-SHA256 over the schema's digest, the row count, and SHA-256 of every column (the subjects last) as
        64-bit little-endian integers in row order; read in slices, so that memory does not grow with the rows."""
        names = [f"c{place}" for place in range(len(self._columns) + 1)]
        table = f"rows AS snapshot({', '.join(names)})"
        values = [f"coalesce(CAST({name} AS BIGINT), {_NO_VALUE}) AS {name}" for name in names]
        rows = self._query(_select(["count(*)"], "rows"), self._failed())[0][0]
        digests = [hashlib.sha256() for _ in names]
        for start in range(0, rows, _DIGEST_ROWS):
            piece = f"WHERE snapshot.rowid >= {start} AND snapshot.rowid < {start + _DIGEST_ROWS}"
            arrays = self._arrays(_select(values, table, piece))
            for name, digest in zip(names, digests, strict=True):
                digest.update(np.asarray(arrays[name], dtype="<i8").tobytes())
        parts = [self._schema.digest().encode(), str(rows).encode(), *(digest.digest() for digest in digests)]
        return hmac.new(version_key, tlv(b"ceiba/v1/snapshot", *parts), hashlib.sha256).hexdigest()

    # --- errors ----------------------------------------------------------------------------------------------------

    def _query(self, sql: str, failure: CeibaError) -> list[tuple[Any, ...]]:
        return quietly(lambda: self._database.execute(sql).fetchall(), failure)

    def _arrays(self, sql: str) -> Mapping[str, Any]:
        return quietly(lambda: self._database.execute(sql).fetchnumpy(), self._failed())

    def _failed(self) -> EngineFailed:
        return EngineFailed(holder=self._holder)

    def _values_missing(self, rows: int, columns: Iterable[str]) -> ValuesMissing:
        return ValuesMissing(rows=rows, table=self._schema.table, columns=", ".join(columns))

    def _does_not_conform(self, rows: int, allowed: int, columns: Iterable[str]) -> DoesNotConform:
        return DoesNotConform(rows=rows, table=self._schema.table, allowed=allowed, columns=", ".join(columns))


def _config(staging: Path) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "memory_limit": _MEMORY_LIMIT,
        "temp_directory": str(staging),
        "preserve_insertion_order": True,  # the version depends on it
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }


def _select(columns: Sequence[str], source: str, rest: str = "") -> str:
    return " ".join(["SELECT", ", ".join(columns), "FROM", source, rest])


def _named(made: Mapping[str, str]) -> list[str]:
    return [f"{sql} AS {name}" for name, sql in made.items()]


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {name: sql for part in parts for name, sql in part.items()}


def _counts(places: Sequence[tuple[Quantised, Rule]], numbers: Sequence[int]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (quantised, rule), n in zip(places, numbers, strict=True):
        if n:
            counts.setdefault(quantised.column.name, {})[rule.name_for(quantised.column)] = n
    return counts


def _at_fault(places: Sequence[tuple[Quantised, Rule]], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The columns that have a value which does not conform."""
    met = [
        quantised.column.name
        for quantised, rule in places
        if rule not in CONFORMING and rule.name_for(quantised.column) in counts.get(quantised.column.name, {})
    ]
    return list(dict.fromkeys(met))
