"""Drafts: the rows of a version while they are being written, and the one step that makes a draft the current version.

A value of a row appears in no error: DuckDB's texts can quote values, so they stay here.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np

from ceiba_node.quantising import identifier, literal
from ceiba_node.quiet import quietly
from ceiba_node.snapshots import IDENTIFIERS, ROWS_FILE, SUBJECT_COLUMN, Snapshot, SnapshotStore, make_offer
from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import CeibaError, EngineFailed
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed

_MEMORY_LIMIT = "400MB"
"""Of DuckDB while writing; what does not fit spills into the staging folder."""
_DIGEST_ROWS = 1 << 18
"""Rows that are digested at once: 2 MB a column."""
_NO_VALUE = -(2**63)
"""NULL in the digest; published integers are larger."""


@dataclass(frozen=True)
class Seal:
    """What makes a version this holder's own."""

    now: datetime
    version_key: bytes = field(repr=False)
    """The holder's secret: rows with few possibilities could be guessed from a plain digest."""
    publisher: SigningKey
    """Signs the offer of the version; a node answers from no other."""


class Draft:
    """One DuckDB connection, whose file becomes a version's rows: the table `rows`, last the subjects' numbers and,
    with a subject key, their digests."""

    def __init__(self, staging: Path, holder: str) -> None:
        self.path = staging / ROWS_FILE
        self._holder = holder
        self._database = quietly(lambda: duckdb.connect(str(self.path), config=_config(staging)), self.failed())
        self.path.chmod(0o600)
        self._database.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._database.close()

    @property
    def database(self) -> duckdb.DuckDBPyConnection:
        """For functions and sources; statements go through `query`."""
        return self._database

    def query(
        self, sql: str, failure: CeibaError | None = None, values: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """All rows of one statement. Raises `failure`, by default EngineFailed, where DuckDB fails."""
        return quietly(lambda: self._database.execute(sql, list(values)).fetchall(), failure or self.failed())

    def number(self, sql: str) -> int:
        """The one integer that a statement gives."""
        return int(self.query(sql)[0][0])

    def attach(self, path: Path, name: str, *, read_only: bool = True) -> None:
        """Another DuckDB file, readable by its owner alone."""
        self.query(f"ATTACH {literal(str(path))} AS {name} {'(READ_ONLY)' if read_only else ''}")
        if not read_only:
            path.chmod(0o600)

    def failed(self) -> EngineFailed:
        return EngineFailed(holder=self._holder)

    def digest(self, schema: Schema, version_key: bytes) -> str:
        """HMAC-SHA256 over the schema's digest, the row count, SHA-256 of every column (the subjects last) as 64-bit
        little-endian integers in row order, and that of the identifiers, if some are declared; read in slices, so that
        memory does not grow with the rows."""
        names = [f"c{place}" for place in range(len(schema.columns) + (1 if schema.subject_key is None else 2))]
        values = ", ".join(f"coalesce(CAST({name} AS BIGINT), {_NO_VALUE}) AS {name}" for name in names)
        rows = self.number("SELECT count(*) FROM rows")
        digests = [hashlib.sha256() for _ in names]
        for start in range(0, rows, _DIGEST_ROWS):
            piece = f"snapshot.rowid >= {start} AND snapshot.rowid < {start + _DIGEST_ROWS}"
            arrays = self._arrays(f"SELECT {values} FROM rows AS snapshot({', '.join(names)}) WHERE {piece}")
            for name, digest in zip(names, digests, strict=True):
                digest.update(np.asarray(arrays[name], dtype="<i8").tobytes())
        parts = [schema.digest().encode(), str(rows).encode(), *(digest.digest() for digest in digests)]
        if schema.identifiers:
            parts.append(self._digest_of_identifiers(schema))
        return hmac.new(version_key, tlv(b"ceiba/v1/snapshot", *parts), hashlib.sha256).hexdigest()

    def _digest_of_identifiers(self, schema: Schema) -> bytes:
        """SHA-256 over the identifiers, one a line, in the order of the subjects' numbers: a normal one has no line
        break and is not empty, as a missing one is."""
        digest = hashlib.sha256()
        columns = ", ".join(f"coalesce({identifier(one.column)}, '')" for one in schema.identifiers)
        statement = f"SELECT concat_ws(chr(10), {columns}, '') FROM {IDENTIFIERS} ORDER BY {identifier(SUBJECT_COLUMN)}"
        cursor = quietly(lambda: self._database.execute(statement), self.failed())
        while lines := quietly(lambda: cursor.fetchmany(_DIGEST_ROWS), self.failed()):
            digest.update("".join(line for (line,) in lines).encode())
        return digest.digest()

    def _arrays(self, sql: str) -> Mapping[str, Any]:
        return quietly(lambda: self._database.execute(sql).fetchnumpy(), self.failed())


def adopt_draft(
    store: SnapshotStore,
    draft: Draft,
    schema: Schema,
    clipped: Mapping[str, int],
    follows: bool,
    seal: Seal,
) -> Snapshot:
    """Make a written draft the current version, and close it.

    `follows`: whether subjects' numbers mean the same in the current version up to now. Run within `store.staging`.
    """
    version = draft.digest(schema, seal.version_key)
    rows, subjects = draft.query(f"SELECT count(*), count(DISTINCT {identifier(SUBJECT_COLUMN)}) FROM rows")[0]
    draft.query("CHECKPOINT")
    draft.database.close()
    snapshot = Snapshot(
        table=schema.table,
        version=version,
        schema=schema,
        rows=rows,
        clipped=clipped,
        published_at=seal.now,
        path=store.path_of(schema.table, version),
        offer=Signed(),
        subjects=subjects,
    )
    snapshot = replace(snapshot, offer=sign(make_offer(snapshot, store.holder), store.holder, seal.publisher))
    store.adopt(draft.path, snapshot, follows)
    return snapshot


def _config(staging: Path) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "memory_limit": _MEMORY_LIMIT,
        "temp_directory": str(staging),
        "preserve_insertion_order": True,  # the version depends on it
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
