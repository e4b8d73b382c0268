"""Withdrawals: a person who objects is left out of every later version, and of the current one at once.

The table's list keeps the identifiers, also of those who are not in the data yet. The current version is replaced by
one without their rows, made from its own rows, so no source is needed; every older version in which one of them is, or
might be, is deleted. What was answered before cannot be called back.
"""

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceiba_node.drafts import Draft, Seal, adopt_draft
from ceiba_node.numbering import DIGEST_SQL, predecessor
from ceiba_node.quantising import identifier
from ceiba_node.snapshots import IDENTIFIERS, SUBJECT_COLUMN, SnapshotStore
from ceiba_protocol.errors import BadIdentifier, EmptyTable, EngineFailed, NoSubjectKey, SnapshotDamaged
from ceiba_protocol.identifiers import normalise
from ceiba_protocol.program import DIGEST
from ceiba_protocol.schema import Schema

_NUMBER = identifier(SUBJECT_COLUMN)
_LISTED = "(SELECT number FROM book.subjects SEMI JOIN withdrawn USING (identifier))"


@dataclass(frozen=True)
class WithdrawalReport:
    """What a withdrawal did, in counts."""

    table: str
    version: str
    """The current version now."""
    given: int
    """Identifiers that were given, each once."""
    found: int
    """How many of them were in the current version."""
    rows_left_out: int
    versions_deleted: int
    """Older versions, and the one that was current."""

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.table}: {self.found} of {self.given} found; rows left out: {self.rows_left_out}, "
            f"versions deleted: {self.versions_deleted}; version {self.version[:16]}…"
        )


def withdraw(store: SnapshotStore, table: str, identifiers: Iterable[str], seal: Seal) -> WithdrawalReport:
    """Leave subjects out of a table for good. Run by the holder.

    `identifiers`: as the source's subject key has them; they are read as at publishing: spaces around them do not
    count. The list is written before the version changes: after a crash the same command completes what was begun.

    Raises DatasetMissing, NoSubjectKey, BadIdentifier, SnapshotDamaged, EmptyTable (everybody would be left out),
    EngineFailed; then nothing has changed.
    """
    given = {name.strip(" ") for name in identifiers} - {""}
    schema = store.current(table).schema
    require_subject_key(schema)
    asked = len({_as_in_book(schema, one) for one in given})
    with store.staging(table) as staging:
        current, before = store.current(table), set(store.versions(table))
        previous = predecessor(store, current.schema)
        if previous is None:
            raise SnapshotDamaged(table=table, version=current.version, holder=store.holder)
        with Draft(staging, store.holder) as draft:
            draft.attach(previous.path, "previous")
            draft.attach(store.subjects_path(table), "book")
            listed = given | set(store.withdrawn(table))
            found = _count_found(draft, previous.schema, given)
            rows_left = _write_the_others(draft, previous.schema, listed)
            if rows_left == 0:
                raise EmptyTable(table=table)
            store.keep_withdrawn(table, listed, staging)
            if rows_left < previous.rows:
                # The counts of clipped values stay as they are: they were part of answers before, so counts without
                # the person's own values would tell these. They are upper bounds until the next publication.
                current = adopt_draft(store, draft, current.schema, current.clipped, True, seal)
        forget_withdrawn(store, table, staging)
        deleted = len(before - set(store.versions(table)))
    return WithdrawalReport(table, current.version, asked, found, previous.rows - rows_left, deleted)


def require_subject_key(schema: Schema) -> None:
    """Raises NoSubjectKey."""
    if schema.subject_key is None:
        raise NoSubjectKey(table=schema.table)


def load_withdrawn(draft: Draft, schema: Schema, identifiers: Iterable[str]) -> None:
    """The temporary table `withdrawn`, with identifiers as the book has them. What is malformed is in no version."""
    known = set[str]()
    for one in identifiers:
        with suppress(BadIdentifier):
            known.add(_as_in_book(schema, one))
    draft.query(
        "CREATE OR REPLACE TEMP TABLE withdrawn AS SELECT unnest(CAST(? AS VARCHAR[])) AS identifier",
        values=[list(known)],
    )


def _as_in_book(schema: Schema, given: str) -> str:
    """Raises BadIdentifier."""
    return given if schema.subject_kind is None else normalise(schema.subject_kind, given)


def forget_withdrawn(store: SnapshotStore, table: str, staging: Path) -> None:
    """Delete every older version in which somebody who has withdrawn is or might be, so that no job can pin it. Run
    within `store.staging`, after a version was made current."""
    withdrawn, current = store.withdrawn(table), store.current_version(table)
    if not withdrawn or current is None:
        return
    for version in store.versions(table):
        is_known = version == current or store.are_linked(table, version, current)
        if not is_known or (version != current and not _has_none(store, table, version, staging)):
            store.delete(table, version)


def _has_none(store: SnapshotStore, table: str, version: str, staging: Path) -> bool:
    """Whether it is certain that no row of a version belongs to somebody who has withdrawn."""
    with tempfile.TemporaryDirectory(dir=staging) as folder, Draft(Path(folder), store.holder) as empty:
        try:
            empty.attach(store.path_of(table, version), "previous")
            empty.attach(store.subjects_path(table), "book")
            return _count_found(empty, store.get(table, version).schema, store.withdrawn(table)) == 0
        except (EngineFailed, SnapshotDamaged):
            return False


def _count_found(draft: Draft, schema: Schema, given: Iterable[str]) -> int:
    load_withdrawn(draft, schema, given)
    return draft.number(f"SELECT count(DISTINCT {_NUMBER}) FROM previous.rows WHERE {_NUMBER} IN {_LISTED}")


def _write_the_others(draft: Draft, schema: Schema, listed: Iterable[str]) -> int:
    """The table `rows` without those who are listed, in the old order; how many rows it has."""
    load_withdrawn(draft, schema, listed)
    names = [column.name for column in schema.columns] + [SUBJECT_COLUMN]
    short = [f"c{place}" for place in range(len(names))]  # a column may be called rowid
    columns = ", ".join(f"{one} AS {identifier(name)}" for one, name in zip(short, names, strict=True))
    draft.query(
        f"""
        CREATE TABLE rows AS SELECT {columns}, {DIGEST_SQL} AS {identifier(DIGEST)}
        FROM previous.rows AS others({", ".join(short)}) JOIN book.subjects ON number = {short[-1]}
        WHERE {short[-1]} NOT IN {_LISTED} ORDER BY others.rowid
        """
    )
    if schema.identifiers:
        kept = f"SELECT * FROM previous.{IDENTIFIERS} WHERE {_NUMBER} NOT IN {_LISTED} ORDER BY {_NUMBER}"
        draft.query(f"CREATE TABLE {IDENTIFIERS} AS {kept}")
    return draft.number("SELECT count(*) FROM rows")
