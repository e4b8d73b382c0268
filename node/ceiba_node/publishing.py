"""Publishing: one source becomes one immutable snapshot, checked against its schema (DESIGN §8).

1. Read every value of the source once, as text (CSV, Parquet or a table of a DuckDB file).
2. Quantise it and note which rule it met (`quantising`); count the rules. Bring identifiers into their normal form.
3. Leave out who has withdrawn, and rows whose subject's identifier is malformed; refuse what the schema or the
   tolerance forbids.
4. Give every subject its number, the same as in earlier versions (`numbering`), and write the rows in the narrowest
   integers, in the source's order.
5. Name the version by a keyed digest, sign its offer with the publisher's key, and make it the current version in one
   step (`drafts`).

A value of a row appears in no error and no report: DuckDB's texts can quote values, so they stay here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ceiba_node.drafts import Draft, Seal, adopt_draft
from ceiba_node.numbering import number_by_equal_rows, number_by_key, number_by_place, open_book, predecessor
from ceiba_node.quantising import CONFORMING, NORMAL, OUTSIDE_BOUNDS, Quantised, Rule, code_of, marked, plain_number
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_node.sources import open_source
from ceiba_node.withdrawals import forget_withdrawn, load_withdrawn, require_subject_key
from ceiba_protocol.errors import DoesNotConform, DuplicateIdentifier, EmptyTable, ValuesMissing
from ceiba_protocol.schema import OutOfBounds, Schema
from ceiba_protocol.trust.keys import SigningKey

LISTED_ROWS = 20
"""Rows of the source that a report names, for each column of identifiers."""


@dataclass(frozen=True)
class Malformed:
    """The malformed identifiers of a source. A row without a subject is set aside; any other identifier is published
    as missing."""

    set_aside: int = 0
    """Rows that were left out, because the subject key is malformed; no other value of theirs is counted."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """column → what is wrong → number of rows."""
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """column → the first LISTED_ROWS of these rows, from 1: the first row of the source below its header."""


@dataclass(frozen=True)
class PublishReport:
    """What publishing did, in counts."""

    table: str
    version: str
    rows: int
    non_conforming_rows: int
    """Rows with at least one value that is not of the column's type, finite, within bounds and in the domain, or with a
    malformed identifier; those that were set aside are among them, though not among `rows`."""
    counts: Mapping[str, Mapping[str, int]]
    """column → rule → number of values; columns and rules that did not occur are left out."""
    withdrawn: int = 0
    """Rows of the source that were left out because their subjects have withdrawn; counted nowhere else."""
    malformed: Malformed = Malformed()

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "table": self.table,
            "version": self.version,
            "rows": self.rows,
            "non_conforming_rows": self.non_conforming_rows,
            "withdrawn": self.withdrawn,
            "set_aside": self.malformed.set_aside,
            "malformed_rows": {column: list(rows) for column, rows in self.malformed.rows.items()},
            "counts": {column: dict(rules) for column, rules in self.counts.items()},
        }

    def __str__(self) -> str:
        left_out = f", {self.withdrawn} left out" if self.withdrawn else ""
        set_aside = f", {self.malformed.set_aside} set aside" if self.malformed.set_aside else ""
        counted = f"{self.rows} rows, {self.non_conforming_rows} not conforming{left_out}{set_aside}"
        lines = [f"{self.table}: {counted}; version {self.version[:16]}…"]
        entries = [(column, rule, n) for column, rules in self.counts.items() for rule, n in rules.items()]
        wide = max((len(column) for column, _, _ in entries), default=0)
        lines += [f"  {column:<{wide}}  {rule:<15}{n:>12}" for column, rule, n in entries]
        for column, rows in self.malformed.rows.items():
            more = " …" if len(rows) == LISTED_ROWS else ""
            lines.append(f"  rows with a malformed {column}: {', '.join(map(str, rows))}{more}")
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

    Raises BadSource, EmptyTable, DoesNotConform, DuplicateIdentifier, BadSchema, NoSubjectKey, EngineFailed; then the
    old version stays.
    """
    seal = Seal(now, version_key, publisher)
    with store.staging(schema.table) as staging:
        previous = predecessor(store, schema)
        with Draft(staging, store.holder) as draft:
            press = _Press(store, draft, source, schema)
            press.read(source_columns or {}, source_table)
            withdrawn, malformed = press.leave_out_withdrawn(), press.set_aside()
            report = press.check(withdrawn, malformed, tolerance)
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
    holds each column's value and rule, the subject's identifier in `subject`, other declared ones in `i0`, `i1`, …,
    what is wrong with a declared one in `…_flaw`, and `place`, the row's number in the source; its own order means
    nothing, because DuckDB may evaluate a condition by a join.
    """

    def __init__(self, store: SnapshotStore, draft: Draft, source: Path, schema: Schema) -> None:
        self._store = store
        self._draft = draft
        self._path = source
        self._schema = schema
        self._columns: Sequence[Quantised] = ()
        self._others = [one.column for one in schema.identifiers if one.column != schema.subject_key]
        key = [] if schema.subject_key is None else [schema.subject_key]
        self._names = dict.fromkeys(key, "subject") | {one: f"i{place}" for place, one in enumerate(self._others)}
        self._declared = self._names if schema.subject_kind else {one: self._names[one] for one in self._others}
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
        found = {name: f"nullif(trim(CAST({source.column(one)} AS VARCHAR)), '')" for one, name in self._names.items()}
        texts = _named({**stages[0], "subject": "NULL", **found})
        self._draft.query(f"CREATE TEMP TABLE texts AS {_select(texts, source.relation)}", source.unreadable())
        self._normalise()
        judged = _select([*self._results(), *self._identified(), "place"], self._judging(stages[1:]))
        self._draft.query(f"CREATE TEMP TABLE judged AS {judged}{self._joins()}")
        self._draft.query("DROP TABLE texts")

    def _normalise(self) -> None:
        """For every declared identifier the table `normal_…`: each text of the source, marked."""
        for declared in self._schema.identifiers:
            name, function = self._declared[declared.column], f"marked_{self._declared[declared.column]}"
            mark = partial(marked, declared.kind)
            self._draft.database.create_function(function, mark, ["VARCHAR"], "VARCHAR")
            texts = f"SELECT DISTINCT {name} AS text FROM texts WHERE {name} IS NOT NULL"
            self._draft.query(
                f"CREATE TEMP TABLE normal_{name} AS SELECT text, {function}(text) AS marked FROM ({texts})"
            )

    def _identified(self) -> list[str]:
        """The identifiers of a row, and what is wrong with them."""
        columns = [] if "subject" in self._declared.values() else ["subject"]
        for name in self._declared.values():
            text, is_normal = f"normal_{name}.marked", f"starts_with(normal_{name}.marked, '{NORMAL}')"
            columns.append(f"CASE WHEN {is_normal} THEN substr({text}, {len(NORMAL) + 1}) END AS {name}")
            columns.append(f"CASE WHEN NOT {is_normal} THEN {text} END AS {name}_flaw")
        return columns

    def _joins(self) -> str:
        names = self._declared.values()
        return "".join(f" LEFT JOIN normal_{name} ON staged.{name} = normal_{name}.text" for name in names)

    def _judging(self, stages: Iterable[Mapping[str, str]]) -> str:
        """Sub-selects, one around the other, for the stages of all columns side by side."""
        relation = f"({_select(['*', 'rowid AS place'], 'texts')})"
        for made in stages:
            relation = f"({_select(['*', *_named(made)], relation)})"
        return f"{relation} AS staged"

    def _results(self) -> list[str]:
        return [name for column in self._columns for name in (column.value, column.rule)]

    # --- step 3 ----------------------------------------------------------------------------------------------------

    def leave_out_withdrawn(self) -> int:
        """How many rows were left out. Raises NoSubjectKey, if somebody has withdrawn and cannot be recognised."""
        withdrawn = self._store.withdrawn(self._schema.table)
        if not withdrawn:
            return 0
        require_subject_key(self._schema)
        load_withdrawn(self._draft, self._schema, withdrawn)
        return self._draft.number("DELETE FROM judged WHERE subject IN (SELECT identifier FROM withdrawn)")

    def set_aside(self) -> Malformed:
        """Leave out rows whose subject's identifier is malformed."""
        counts, rows, left_out = dict[str, dict[str, int]](), dict[str, list[int]](), 0
        for column, name in self._declared.items():
            flawed = f"FROM judged WHERE {name}_flaw IS NOT NULL"
            found = self._draft.query(f"SELECT {name}_flaw, count(*) {flawed} GROUP BY 1 ORDER BY 1")
            if found:
                counts[column] = dict(found)
                places = self._draft.query(f"SELECT place + 1 {flawed} ORDER BY 1 LIMIT {LISTED_ROWS}")
                rows[column] = [place for (place,) in places]
            if found and name == "subject":
                left_out = self._draft.number("DELETE FROM judged WHERE subject_flaw IS NOT NULL")
        return Malformed(left_out, counts, rows)

    def check(self, withdrawn: int, malformed: Malformed, tolerance: int | None) -> PublishReport:
        """The report, without its version. Raises EmptyTable, DoesNotConform, DuplicateIdentifier."""
        places = [(column, rule) for column in self._columns for rule in Rule]
        faults = ", ".join(str(code_of(rule)) for rule in Rule if rule not in CONFORMING)
        at_fault = [f"{column.rule} IN ({faults})" for column in self._columns]
        at_fault += [f"{name}_flaw IS NOT NULL" for name in self._declared.values()]
        wanted = [
            "count(*)",
            "count(subject)",
            f"count(*) FILTER (WHERE {' OR '.join(at_fault)})",
            *(f"count(*) - count({column.value})" for column in self._columns),
            *(f"count(*) FILTER (WHERE {column.rule} = {code_of(rule)})" for column, rule in places),
        ]
        rows, identified, non_conforming, *rest = self._draft.query(_select(wanted, "judged"))[0]
        if rows == malformed.set_aside == 0:
            raise EmptyTable(table=self._schema.table)
        self._refuse_gaps(rows, identified, rest[: len(self._columns)])
        counts = _counts(places, rest[len(self._columns) :])
        non_conforming += malformed.set_aside
        allowed = malformed.set_aside - 1 if tolerance is None and rows == 0 else tolerance
        if allowed is not None and non_conforming > allowed:
            raise self._does_not_conform(non_conforming, allowed, [*malformed.counts, *_at_fault(places, counts)])
        self._refuse_duplicates()
        all_counts = {**malformed.counts, **counts}
        return PublishReport(self._schema.table, "", rows, non_conforming, all_counts, withdrawn, malformed)

    def _refuse_gaps(self, rows: int, identified: int, nulls: Sequence[int]) -> None:
        """Every row needs its subject, and a column that promised to have no NULL has none."""
        if self._schema.subject_key is not None and identified < rows:
            raise self._values_missing(rows - identified, [self._schema.subject_key])
        gaps = {
            column.name: n for column, n in zip(self._schema.columns, nulls, strict=True) if n and not column.nullable
        }
        if gaps:
            raise self._values_missing(max(gaps.values()), gaps)

    def _refuse_duplicates(self) -> None:
        """An identifier beside the subject key belongs to one subject, and a subject has at most one."""
        for column in self._others:
            name = self._declared[column]
            for one, other, problem in (
                (name, "subject", "two subjects have it, or more, and there are {} such"),
                ("subject", name, "{} subjects have two, or more"),
            ):
                several = (
                    f"SELECT {one} FROM judged GROUP BY {one} HAVING {one} IS NOT NULL AND min({other}) <> max({other})"
                )
                found = self._draft.number(f"SELECT count(*) FROM ({several})")
                if found:
                    raise DuplicateIdentifier(table=self._schema.table, column=column, problem=problem.format(found))

    # --- step 4 ----------------------------------------------------------------------------------------------------

    def write(self, previous: Snapshot | None, version_key: bytes) -> None:
        """The table `rows`. `previous`: the current version, if subjects' numbers mean the same there."""
        values = {column.column.name: column.value for column in self._columns}
        open_book(self._draft, self._store.subjects_path(self._schema.table))
        if self._schema.subject_key is not None:
            number_by_key(self._draft, values, self._declared)
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
