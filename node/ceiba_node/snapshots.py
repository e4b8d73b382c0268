"""Snapshots: the immutable, quantised datasets that a holder's jobs run on (DESIGN §8), and the folder they live in.

    <folder>/<table>/current                      the name of the version that answers questions
    <folder>/<table>/subjects.duckdb              subject identifier → number, the same in every version
    <folder>/<table>/<version>/rows.duckdb        the rows, all integers
    <folder>/<table>/<version>/snapshot.json      what `Snapshot` says

A version's folder is complete before `current` names it, so a crash at any moment leaves the old one in place.
Files have mode 0600 and folders 0700.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from ceiba_protocol.canonical import Digest, to_plain
from ceiba_protocol.errors import DatasetMissing, DatasetUnknown, MalformedMessage, SnapshotDamaged
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.v1.common_pb2 import Signed

ROWS_FILE = "rows.duckdb"
SUBJECTS_FILE = "subjects.duckdb"
SUBJECT_COLUMN = "#subject"
"""The rows' subject numbers. No column of a schema can have this name."""
_RECORD_FILE = "snapshot.json"
_CURRENT = "current"
_STAGING = ".staging-"
_LOCK = ".lock"
_TABLE = re.compile(r"[a-z][a-z0-9_.]*")
_VERSION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Snapshot:
    """One version of a holder's dataset."""

    table: str
    version: str
    """HMAC-SHA256 of the content under the holder's own key, in hexadecimal."""
    schema: Schema
    rows: int
    clipped: Mapping[str, int]
    """How many values of each column were clipped to its bounds; columns without any are left out."""
    published_at: datetime
    path: Path
    """The DuckDB file with the table `rows`."""
    offer: Signed
    """What the publisher signed when it was published."""

    @property
    def is_one_row_each(self) -> bool:
        return True

    @property
    def row_capacity(self) -> int:
        """The public bound on `rows`."""
        return capacity_of(self.rows)

    def check_offer(self, roster: Roster) -> None:
        """The publisher of this member, as the roster has it, offered exactly this version: nobody else's data is
        answered from. Raises UnknownMember, BadSignature, MalformedMessage."""
        offer = roster.open(self.offer, Offer, Role.HOLDER)
        if offer != make_offer(self, self.offer.signer):
            raise MalformedMessage(message="Offer", problem="it is for another version of the dataset")


def capacity_of(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


def make_offer(snapshot: Snapshot, holder: str) -> Offer:
    """The offer of a snapshot, to be signed by the holder's publisher."""
    return Offer(
        table=snapshot.table,
        schema_digest=snapshot.schema.digest(),
        holder=holder,
        version=Digest(snapshot.version),
        row_capacity=snapshot.row_capacity,
        published_at=int(snapshot.published_at.timestamp()),
    )


class SnapshotStore:
    """The snapshots of `holder`. `keep` older versions of each table stay beside the current one."""

    def __init__(self, folder: Path, *, holder: str, keep: int = 3) -> None:
        self.holder = holder
        self._folder = folder
        self._keep = keep

    def tables(self) -> list[str]:
        """The tables that have a current version."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{_CURRENT}"))

    def current(self, table: str) -> Snapshot:
        """The version that answers questions. Raises DatasetMissing, SnapshotDamaged."""
        version = self._current_version(table)
        if version is None:
            raise DatasetMissing(holders=self.holder, table=table)
        return self._read(table, version)

    def get(self, table: str, version: str) -> Snapshot:
        """One version. Raises DatasetUnknown, SnapshotDamaged."""
        well_formed = _TABLE.fullmatch(table) and _VERSION.fullmatch(version)
        if not well_formed or not (self._folder / table / version).is_dir():
            raise DatasetUnknown(holder=self.holder, table=table, version=version)
        return self._read(table, version)

    def changed_subjects(self, table, older, newer):
        return None

    # --- for publishing ----------------------------------------------------------------------------------------

    @contextmanager
    def staging(self, table: str) -> Iterator[Path]:
        """An empty folder to write a version in, removed afterwards. One publisher at a time; others wait."""
        folder = self._folder / table
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / _LOCK).touch(mode=0o600)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in folder.glob(f"{_STAGING}*"):
                shutil.rmtree(leftover)
            staging = folder / f"{_STAGING}{secrets.token_hex(8)}"
            staging.mkdir(mode=0o700)
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def adopt(self, rows: Path, snapshot: Snapshot) -> None:
        """Make `snapshot`, whose rows lie in the staging file `rows`, the current version of its table.

        Of the same content published before, the rows stay as they are, unless a single byte of them is damaged; the
        record gets the new time, by which merchants tell which version is the current one.
        """
        if self._is_whole(snapshot):
            record = _to_record(snapshot, snapshot.path)
            _write(rows.parent / _RECORD_FILE, json.dumps(record, indent=2))
            os.replace(rows.parent / _RECORD_FILE, snapshot.path.parent / _RECORD_FILE)
            _sync(snapshot.path.parent)
        else:
            complete = rows.parent / snapshot.version
            complete.mkdir(mode=0o700)
            os.replace(rows, complete / ROWS_FILE)
            _write(complete / _RECORD_FILE, json.dumps(_to_record(snapshot, complete / ROWS_FILE), indent=2))
            _sync(complete / ROWS_FILE)
            _sync(complete)
            shutil.rmtree(snapshot.path.parent, ignore_errors=True)
            os.replace(complete, snapshot.path.parent)
            _sync(snapshot.path.parent.parent)
        self._point_to(snapshot, rows.parent)
        self._forget_old(snapshot)

    def path_of(self, table: str, version: str) -> Path:
        """Where the rows of a version lie."""
        return self._folder / table / version / ROWS_FILE

    def subjects_path(self, table: str) -> Path:
        return self._folder / table / SUBJECTS_FILE

    # --- files -------------------------------------------------------------------------------------------------

    def _current_version(self, table: str) -> str | None:
        try:
            return (self._folder / table / _CURRENT).read_text().strip()
        except OSError:
            return None

    def _read(self, table: str, version: str) -> Snapshot:
        path = self.path_of(table, version)
        try:
            record = json.loads((path.parent / _RECORD_FILE).read_bytes())
            whole = path.stat().st_size == record["bytes"]
            snapshot = _from_record(record, path) if whole else None
        except (OSError, ValueError, KeyError, TypeError, DecodeError):
            snapshot = None
        if snapshot is None or (snapshot.table, snapshot.version) != (table, version):
            raise SnapshotDamaged(table=table, version=version, holder=self.holder)
        return snapshot

    def _is_whole(self, snapshot: Snapshot) -> bool:
        """Whether that version's rows are, byte for byte, those that were written. Reads the whole file."""
        try:
            self._read(snapshot.table, snapshot.version)
            record = json.loads((snapshot.path.parent / _RECORD_FILE).read_bytes())
            return bool(record.get("sha256") == _digest(snapshot.path))
        except (SnapshotDamaged, OSError):
            return False

    def _point_to(self, snapshot: Snapshot, staging: Path) -> None:
        """The one step that changes the answer: `current` names either the old version or the new."""
        _write(staging / _CURRENT, snapshot.version)
        os.replace(staging / _CURRENT, self._folder / snapshot.table / _CURRENT)
        _sync(self._folder / snapshot.table)

    def _forget_old(self, snapshot: Snapshot) -> None:
        folder = self._folder / snapshot.table
        older = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.name != snapshot.version]
        older.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in older[self._keep :]:
            shutil.rmtree(path)


def _to_record(snapshot: Snapshot, rows: Path) -> dict[str, object]:
    """`rows`: the file, wherever it lies now."""
    return {
        "table": snapshot.table,
        "version": snapshot.version,
        "schema": to_plain(snapshot.schema),
        "rows": snapshot.rows,
        "clipped": dict(snapshot.clipped),
        "published_at": snapshot.published_at.isoformat(),
        "bytes": rows.stat().st_size,
        "sha256": _digest(rows),
        "offer": snapshot.offer.SerializeToString().hex(),
    }


def _from_record(record: dict[str, object], path: Path) -> Snapshot:
    """Raises ValueError, KeyError, TypeError or DecodeError for anything that `_to_record` did not write."""
    rows, clipped = record["rows"], record["clipped"]
    if not isinstance(rows, int) or rows < 1 or not isinstance(clipped, dict):
        raise TypeError("not a snapshot's record")
    return Snapshot(
        table=str(record["table"]),
        version=str(record["version"]),
        schema=Schema.model_validate_json(json.dumps(record["schema"])),
        rows=rows,
        clipped=clipped,
        published_at=datetime.fromisoformat(str(record["published_at"])),
        path=path,
        offer=Signed.FromString(bytes.fromhex(str(record["offer"]))),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
