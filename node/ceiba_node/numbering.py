"""Numbering: every subject has its number, the same in every version, and no number is ever given again.

With a subject key, the table's book (`subjects.duckdb`) knows the number of every identifier it has seen. Without one,
each row is its own subject: a row that is equal to a row of the version before keeps that row's number, and every other
row gets a new one. An inserted, removed or reordered row then changes no other row's number.

With a subject key, rows also have the digest of their subject's identifier, which is the same at every holder: splits
follow from it (ADR 0019).

What numbers reads the table `judged`, whose `place` is the row's number in the source, and writes the table `rows`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ceiba_node.drafts import Draft
from ceiba_node.quantising import identifier, narrowest_type
from ceiba_node.snapshots import IDENTIFIERS, SUBJECT_COLUMN, Snapshot, SnapshotStore
from ceiba_protocol.errors import SnapshotDamaged
from ceiba_protocol.program import DIGEST, DIGEST_HEX, DIGEST_TAG
from ceiba_protocol.schema import Column, ColumnType, Schema

DIGEST_SQL = (
    f"CAST(concat('0x', substr(sha256(concat('{DIGEST_TAG}', nfc_normalize(identifier))), 1, {DIGEST_HEX})) AS BIGINT)"
)
"""`program.subject_digest` of the book's `identifier`, which has no spaces around it."""


def predecessor(store: SnapshotStore, schema: Schema) -> Snapshot | None:
    """The current version of the schema's table, if its rows are whole and its subjects can be found in a version with
    this schema."""
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
    if (old.subject_key, old.subject_kind) != (new.subject_key, new.subject_kind):
        return False
    before, after = ({_encoding(column) for column in schema.columns} for schema in (old, new))
    return before == after if new.subject_key is None else before <= after


def _encoding(column: Column) -> tuple[object, ...]:
    """Equal integers of two columns with the same encoding mean the same."""
    domain = column.domain if column.type is ColumnType.CATEGORY else None
    return (column.name, column.type, column.step, domain)


def open_book(draft: Draft, path: Path) -> None:
    """Attach the table's book as `book`."""
    draft.attach(path, "book", read_only=False)
    draft.query("CREATE TABLE IF NOT EXISTS book.subjects (identifier VARCHAR NOT NULL, number BIGINT NOT NULL)")
    draft.query("CREATE TABLE IF NOT EXISTS book.given (below BIGINT NOT NULL)")


def number_by_key(draft: Draft, values: Mapping[str, str], identifiers: Mapping[str, str]) -> None:
    """Extend the book by identifiers that it has not seen, in order of appearance. `values`: column → its name in
    `judged`, which has the identifiers in `subject`; `identifiers`: likewise, those that the version itself keeps."""
    draft.query(
        f"""
        INSERT INTO book.subjects
        SELECT subject, {_first_free(draft)} + row_number() OVER (ORDER BY first_row) - 1
        FROM (SELECT subject, min(place) AS first_row FROM judged GROUP BY subject) AS present
        ANTI JOIN book.subjects ON identifier = subject
        """
    )
    _write(draft, values, "judged JOIN book.subjects ON identifier = subject", "number", "ORDER BY place", DIGEST_SQL)
    if identifiers:
        kept = "".join(f", max({name}) AS {identifier(column)}" for column, name in identifiers.items())
        draft.query(
            f"""
            CREATE TABLE {IDENTIFIERS} AS SELECT number AS {identifier(SUBJECT_COLUMN)}{kept}
            FROM judged JOIN book.subjects ON identifier = subject GROUP BY number ORDER BY number
            """
        )


def number_by_place(draft: Draft, values: Mapping[str, str], first: int | None = None) -> None:
    """Rows without a version before them: numbers in their order, from `first` or the first number that is free."""
    first = _first_free(draft) if first is None else first
    _write(draft, values, "judged", f"place + {first}", "ORDER BY place")


def number_by_equal_rows(draft: Draft, values: Mapping[str, str], schema: Schema, previous: Snapshot) -> None:
    """Rows after a version, attached as `previous`, that has the same columns.

    Most rows of most versions stand where they stood, so equal rows at equal places are paired first; then any others.
    """
    names = [f"c{place}" for place in range(len(schema.columns))]
    named = dict(zip((column.name for column in schema.columns), names, strict=True))
    old_names = [named[column.name] for column in previous.schema.columns]
    old = f"previous.rows AS old({', '.join(old_names)}, number)"
    columns = ", ".join(f"{values[name]} AS {short}" for name, short in named.items())
    draft.query(f"CREATE TEMP TABLE ordered AS SELECT {columns} FROM judged ORDER BY place")
    draft.query("DROP TABLE judged")
    draft.query(
        f"""
        CREATE TEMP TABLE numbers AS SELECT place, CASE WHEN {_equal(names, "new", "old")} THEN number END AS number
        FROM (SELECT *, rowid AS place FROM ordered) AS new POSITIONAL JOIN {old} WHERE place IS NOT NULL
        """
    )
    if draft.number("SELECT count(*) - count(number) FROM numbers"):
        _pair_the_others(draft, names, old)
    _write(draft, named, "ordered POSITIONAL JOIN numbers", "number", "")


def _pair_the_others(draft: Draft, names: Sequence[str], old: str) -> None:
    """Complete `numbers`: of equal rows, the n-th without a number takes the number of the n-th old one without a row,
    as EXCEPT ALL pairs them; what is left gets new numbers."""
    columns = ", ".join(names)
    draft.query(
        f"""
        CREATE TEMP TABLE left_over AS
        SELECT {columns}, number, row_number() OVER (PARTITION BY {columns} ORDER BY number) AS nth
        FROM {old} ANTI JOIN numbers USING (number)
        """
    )
    draft.query(
        f"""
        CREATE TEMP TABLE open AS
        SELECT {columns}, place, row_number() OVER (PARTITION BY {columns} ORDER BY place) AS nth
        FROM (SELECT *, rowid AS place FROM ordered) SEMI JOIN (SELECT place FROM numbers WHERE number IS NULL)
        USING (place)
        """
    )
    draft.query(
        f"""
        CREATE TEMP TABLE paired AS SELECT place, left_over.number AS number
        FROM open LEFT JOIN left_over ON open.nth = left_over.nth AND {_equal(names, "open", "left_over")}
        """
    )
    draft.query(
        f"""
        CREATE TEMP TABLE all_numbers AS SELECT place, number FROM (
            SELECT place, number FROM numbers WHERE number IS NOT NULL
            UNION ALL SELECT place, number FROM paired WHERE number IS NOT NULL
            UNION ALL SELECT place, {_first_free(draft)} + row_number() OVER (ORDER BY place) - 1
            FROM paired WHERE number IS NULL
        ) ORDER BY place
        """
    )
    for table in ("left_over", "open", "paired", "numbers"):
        draft.query(f"DROP TABLE {table}")
    draft.query("ALTER TABLE all_numbers RENAME TO numbers")


def _equal(names: Sequence[str], one: str, other: str) -> str:
    return " AND ".join(f"{one}.{name} IS NOT DISTINCT FROM {other}.{name}" for name in names)


def _first_free(draft: Draft) -> int:
    """Above every number that was ever given."""
    return draft.number(
        """
        SELECT greatest(
            (SELECT coalesce(max(number) + 1, 0) FROM book.subjects), (SELECT coalesce(max(below), 0) FROM book.given)
        )
        """
    )


def _write(
    draft: Draft, values: Mapping[str, str], source: str, number: str, order: str, digest: str | None = None
) -> None:
    """The table `rows`, and the numbers that are given now in the book."""
    highest = draft.number(f"SELECT max({number}) FROM {source}")
    columns = [f"{value} AS {identifier(name)}" for name, value in values.items()]
    columns.append(f"CAST({number} AS {narrowest_type(0, highest)}) AS {identifier(SUBJECT_COLUMN)}")
    if digest is not None:
        columns.append(f"{digest} AS {identifier(DIGEST)}")
    draft.query(f"CREATE TABLE rows AS SELECT {', '.join(columns)} FROM {source} {order}")
    draft.query(f"INSERT INTO book.given SELECT {highest + 1} WHERE {highest + 1} > {_first_free(draft)}")
