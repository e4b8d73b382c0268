"""Publishing: one source becomes one immutable snapshot, checked against its schema (DESIGN §8).

1. Read every value of the source once, as text (CSV, Parquet or a table of a DuckDB file).
2. Quantise it and note which rule it met (`quantising`); count the rules.
3. Leave out who has withdrawn; refuse what the schema or the tolerance forbids.
4. Give every subject its number, the same as in earlier versions (`numbering`), and write the rows in the narrowest
   integers, in the source's order.
5. Name the version by a keyed digest, sign its offer with the publisher's key, and make it the current version in one
   step (`drafts`).

A value of a row appears in no error and no report: DuckDB's texts can quote values, so they stay here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ceiba_node.drafts import Draft, Seal, adopt_draft
from ceiba_node.numbering import number_by_equal_rows, number_by_key, number_by_place, open_book, predecessor
from ceiba_node.quantising import CONFORMING, OUTSIDE_BOUNDS, Quantised, Rule, code_of, plain_number
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_node.sources import Source, open_source
from ceiba_node.withdrawals import forget_withdrawn, load_withdrawn, require_subject_key
from ceiba_protocol.errors import DoesNotConform, EmptyTable, ValuesMissing
from ceiba_protocol.schema import OutOfBounds, Schema
from ceiba_protocol.trust.keys import SigningKey


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
    withdrawn: int = 0
    """Rows of the source that were left out because their subjects have withdrawn; counted nowhere else."""

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "table": self.table,
            "version": self.version,
            "rows": self.rows,
            "non_conforming_rows": self.non_conforming_rows,
            "withdrawn": self.withdrawn,
            "counts": {column: dict(rules) for column, rules in self.counts.items()},
        }

    def __str__(self) -> str:
        left_out = f", {self.withdrawn} left out" if self.withdrawn else ""
        counted = f"{self.rows} rows, {self.non_conforming_rows} not conforming{left_out}"
        lines = [f"{self.table}: {counted}; version {self.version[:16]}…"]
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

    Raises BadSource, EmptyTable, DoesNotConform, BadSchema, NoSubjectKey, EngineFailed; then the old version stays.
    """
    seal = Seal(now, version_key, publisher)
    with store.staging(schema.table) as staging:
        previous = predecessor(store, schema)
        with Draft(staging, store.holder) as draft:
            press = _Press(store, draft, source, schema)
            press.read(source_columns or {}, source_table)
            report = press.check(press.leave_out_withdrawn(), tolerance)
            press.write(previous, version_key)
            snapshot = adopt_draft(store, draft, schema, _clipped(schema, report), previous is not None, seal)
        forget_withdrawn(store, schema.table, staging)
    return replace(report, version=snapshot.version)


def _clipped(schema: Schema, report: PublishReport) -> dict[str, int]:
    clipped = {}
    for column in schema.columns:
        if column.minimum is not None and column.out_of_bounds is OutOfBounds.CLIP:
            counts = report.counts.get(column.name, {})
            clipped[column.name] = sum(counts.get(rule, 0) for rule in OUTSIDE_BOUNDS)
    return {name: n for name, n in clipped.items() if n}


class _Press:
    """The steps of one publishing, over a draft's connection.

    The temporary table `texts` is the source as text, in its order: a bare scan is what DuckDB keeps in order. `judged`
    holds each column's value and rule, the subject's identifier, and `place`, the row's number in the source; its own
    order means nothing, because DuckDB may evaluate a condition by a join.
    """

    def __init__(self, store: SnapshotStore, draft: Draft, source: Path, schema: Schema) -> None:
        self._store = store
        self._draft = draft
        self._path = source
        self._schema = schema
        self._columns: Sequence[Quantised] = ()
        draft.database.create_function("plain_number", plain_number, ["VARCHAR", "INTEGER"], "VARCHAR")

    # --- step 1 and 2 ----------------------------------------------------------------------------------------------

    def read(self, source_columns: Mapping[str, str], source_table: str | None) -> None:
        """Raises BadSource, BadSchema."""
        table = source_table or self._schema.table.rpartition(".")[2]
        source = open_source(self._draft.database, self._path, self._schema, source_columns, table)
        self._columns = [
            Quantised(column, place, source.column(column.name), source.is_float(column.name), self._schema.table)
            for place, column in enumerate(self._schema.columns)
        ]
        stages = [_merged(parts) for parts in zip(*(column.stages() for column in self._columns), strict=True)]
        texts = [*_named(stages[0]), f"{self._subject(source)} AS subject"]
        self._draft.query(f"CREATE TEMP TABLE texts AS {_select(texts, source.relation)}", source.unreadable())
        judged = _select([*self._results(), "subject", "place"], self._judging(stages[1:]))
        self._draft.query(f"CREATE TEMP TABLE judged AS {judged}")
        self._draft.query("DROP TABLE texts")

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

    def leave_out_withdrawn(self) -> int:
        """How many rows were left out. Raises NoSubjectKey, if somebody has withdrawn and cannot be recognised."""
        withdrawn = self._store.withdrawn(self._schema.table)
        if not withdrawn:
            return 0
        require_subject_key(self._schema)
        load_withdrawn(self._draft, withdrawn)
        return self._draft.number("DELETE FROM judged WHERE subject IN (SELECT identifier FROM withdrawn)")

    def check(self, withdrawn: int, tolerance: int | None) -> PublishReport:
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
        rows, identified, non_conforming, *rest = self._draft.query(_select(wanted, "judged"))[0]
        if rows == 0:
            raise EmptyTable(table=self._schema.table)
        self._refuse_gaps(rows, identified, rest[: len(self._columns)])
        counts = _counts(places, rest[len(self._columns) :])
        if tolerance is not None and non_conforming > tolerance:
            raise self._does_not_conform(non_conforming, tolerance, _at_fault(places, counts))
        return PublishReport(self._schema.table, "", rows, non_conforming, counts, withdrawn)

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

    def write(self, previous: Snapshot | None, version_key: bytes) -> None:
        """The table `rows`. `previous`: the current version, if subjects' numbers mean the same there."""
        values = {column.column.name: column.value for column in self._columns}
        open_book(self._draft, self._store.subjects_path(self._schema.table))
        if self._schema.subject_key is not None:
            number_by_key(self._draft, values)
        elif previous is not None:
            self._draft.attach(previous.path, "previous")
            number_by_equal_rows(self._draft, values, self._schema, previous)
        elif not self._mends(values, version_key):
            number_by_place(self._draft, values)

    def _mends(self, values: Mapping[str, str], version_key: bytes) -> bool:
        """Whether the current version, whose rows are lost, is the first one of the same source. Then its subjects have
        their numbers again."""
        current = self._store.current_version(self._schema.table)
        if current is None:
            return False
        number_by_place(self._draft, values, first=0)
        if self._draft.digest(self._schema, version_key) == current:
            return True
        self._draft.query("DROP TABLE rows")
        return False

    # --- errors ----------------------------------------------------------------------------------------------------

    def _values_missing(self, rows: int, columns: Iterable[str]) -> ValuesMissing:
        return ValuesMissing(rows=rows, table=self._schema.table, columns=", ".join(columns))

    def _does_not_conform(self, rows: int, allowed: int, columns: Iterable[str]) -> DoesNotConform:
        return DoesNotConform(rows=rows, table=self._schema.table, allowed=allowed, columns=", ".join(columns))


def _select(columns: Sequence[str], source: str) -> str:
    return f"SELECT {', '.join(columns)} FROM {source}"


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
