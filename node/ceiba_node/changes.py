"""Changes: comparing the rows of a new version with those of the version before it, subject by subject."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from ceiba_node.quantising import identifier, literal
from ceiba_node.snapshots import SUBJECT_COLUMN, Snapshot, SnapshotStore
from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import SnapshotDamaged
from ceiba_protocol.schema import Column, ColumnType, Schema


def predecessor(store: SnapshotStore, schema: Schema) -> Snapshot | None:
    """The current version of the schema's table, if its rows are whole and its subjects can be found in a version with
    this schema. None: nobody can say what changes."""
    version = store.current_version(schema.table)
    if version is None or not store.subjects_path(schema.table).exists():
        return None
    try:
        snapshot = store.current(schema.table)
    except SnapshotDamaged:
        return None
    return snapshot if is_comparable(snapshot.schema, schema) and store.is_whole(snapshot) else None


def is_comparable(old: Schema, new: Schema) -> bool:
    """Whether a subject can be found again: by its key or, without one, by equal rows.

    Columns may be added where there is a key. What was dropped and comes back could not be compared, so it ends the
    chain of comparable versions, like a change of meaning.
    """
    if old.subject_key != new.subject_key:
        return False
    before, after = ({_encoding(column) for column in schema.columns} for schema in (old, new))
    return before == after if new.subject_key is None else before <= after


def write_changes(path: Path, old: Schema, new: Schema, key: bytes) -> str:
    """SQL that writes a step's file from the tables `previous.rows` and `rows`.

    A subject has changed if its rows, as a multiset, differ in the columns of the old version. Where a row is its
    own subject, equal rows have equal numbers, so being there is all that can differ. `key`: without it a state, which
    outlives the rows, tells nothing about them; with few possible rows a plain digest would.
    """
    both = {_encoding(column) for column in old.columns}
    columns = [column for column in new.columns if _encoding(column) in both] if new.subject_key else []
    state = _state_of_row(columns, key) if columns else "1"
    number = identifier(SUBJECT_COLUMN)
    return f"""
        COPY (
            SELECT number, {_state_of_subject("old_rows")} AS before, {_state_of_subject("new_rows")} AS after
            FROM (
                SELECT number, sum(state) FILTER (NOT is_new) AS old_rows, sum(state) FILTER (is_new) AS new_rows
                FROM (
                    SELECT CAST({number} AS UBIGINT) AS number, {state} AS state, FALSE AS is_new FROM previous.rows
                    UNION ALL
                    SELECT CAST({number} AS UBIGINT) AS number, {state} AS state, TRUE AS is_new FROM rows
                )
                GROUP BY number
            )
            WHERE old_rows IS DISTINCT FROM new_rows
            ORDER BY number
        ) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)
    """


def _encoding(column: Column) -> tuple[object, ...]:
    """Equal integers of two columns with the same encoding mean the same."""
    domain = column.domain if column.type is ColumnType.CATEGORY else None
    return (column.name, column.type, column.step, domain)


def _state_of_row(columns: Sequence[Column], key: bytes) -> str:
    """64 bits, of which a subject's rows are summed."""
    names = [part.encode() for column in columns for part in (column.name, column.type.value)]
    secret = hmac.new(key, tlv(b"ceiba/v1/subject-state", *names), hashlib.sha256).hexdigest()
    values = ", ".join(f"coalesce(CAST({identifier(column.name)} AS VARCHAR), '')" for column in columns)
    return _first_bits(f"concat_ws(',', {literal(secret)}, {values})")


def _state_of_subject(total: str) -> str:
    return f"CASE WHEN {total} IS NULL THEN 0 ELSE {_first_bits(f'CAST({total} AS VARCHAR)')} END"


def _first_bits(text: str) -> str:
    return f"CAST('0x' || left(sha256({text}), 16) AS UBIGINT)"
