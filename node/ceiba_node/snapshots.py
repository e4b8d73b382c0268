"""Snapshots: the immutable, quantised datasets that a holder's jobs run on (DESIGN §8), and the folder they live in.

    <folder>/<table>/current                      the name of the version that answers questions
    <folder>/<table>/subjects.duckdb              subject identifier → number, the same in every version (`numbering`)
    <folder>/<table>/steps/                       in which versions numbers mean the same (`steps`)
    <folder>/<table>/withdrawn.json               who objected, by identifier (`withdrawals`)
    <folder>/<table>/<version>/rows.duckdb        the rows, all integers, and apart from them declared identifiers
    <folder>/<table>/<version>/snapshot.json      what `Snapshot` says

A version's folder is complete, and its step recorded, before `current` names it, so a crash at any moment leaves the
old one in place.
Files have mode 0600 and folders 0700.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from ceiba_node.durable import make_durable, write_durably
from ceiba_node.steps import Steps
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
IDENTIFIERS = "identifiers"
"""The table of a version's identifiers, beside its rows: the subject's number, and a column for each one declared."""
_STEPS_FOLDER = "steps"
_WITHDRAWN_FILE = "withdrawn.json"
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
    subjects: int
    """Distinct subjects of its rows."""

    @property
    def is_one_row_each(self) -> bool:
        """No subject has two rows, so counting rows counts subjects."""
        return self.rows == self.subjects

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
        version = self.current_version(table)
        if version is None:
            raise DatasetMissing(holders=self.holder, table=table)
        return self._read(table, version)

    def get(self, table: str, version: str) -> Snapshot:
        """One version. Raises DatasetUnknown, SnapshotDamaged."""
        well_formed = _TABLE.fullmatch(table) and _VERSION.fullmatch(version)
        if not well_formed or not (self._folder / table / version).is_dir():
            raise DatasetUnknown(holder=self.holder, table=table, version=version)
        return self._read(table, version)

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

    def adopt(self, rows: Path, snapshot: Snapshot, follows: bool) -> None:
        """Make `snapshot`, whose rows lie in the staging file `rows`, the current version of its table.

        `follows`: whether subjects' numbers mean the same in the version that was current up to now.
        Of the same content published before, the rows stay as they are, unless a single byte of them is damaged; the
        record gets the new time, by which merchants tell which version is the current one.
        """
        if self.is_whole(snapshot):
            record = _to_record(snapshot, snapshot.path)
            write_durably(rows.parent / _RECORD_FILE, json.dumps(record, indent=2))
            os.replace(rows.parent / _RECORD_FILE, snapshot.path.parent / _RECORD_FILE)
            make_durable(snapshot.path.parent)
        else:
            complete = rows.parent / snapshot.version
            complete.mkdir(mode=0o700)
            os.replace(rows, complete / ROWS_FILE)
            write_durably(complete / _RECORD_FILE, json.dumps(_to_record(snapshot, complete / ROWS_FILE), indent=2))
            make_durable(complete / ROWS_FILE)
            make_durable(complete)
            shutil.rmtree(snapshot.path.parent, ignore_errors=True)
            os.replace(complete, snapshot.path.parent)
            make_durable(snapshot.path.parent.parent)
        self._steps(snapshot.table).add(snapshot.version, self.current_version(snapshot.table), follows)
        self._point_to(snapshot, rows.parent)
        self._forget_old(snapshot)

    def versions(self, table: str) -> list[str]:
        """All that are kept, the newest first."""
        kept = [path for path in (self._folder / table).iterdir() if _VERSION.fullmatch(path.name)]
        kept.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path.name for path in kept]

    def are_linked(self, table: str, one: str, other: str) -> bool:
        """Whether a subject's number means the same subject in both versions."""
        return self._steps(table).are_linked(one, other)

    def delete(self, table: str, version: str) -> None:
        shutil.rmtree(self._folder / table / version)

    def withdrawn(self, table: str) -> list[str]:
        """The identifiers of those who objected, whether they are in the data or not."""
        path = self._folder / table / _WITHDRAWN_FILE
        return list(json.loads(path.read_bytes())) if path.exists() else []

    def keep_withdrawn(self, table: str, identifiers: Iterable[str], staging: Path) -> None:
        """Replace the list of those who objected."""
        write_durably(staging / _WITHDRAWN_FILE, json.dumps(sorted(identifiers), indent=0))
        os.replace(staging / _WITHDRAWN_FILE, self._folder / table / _WITHDRAWN_FILE)
        make_durable(self._folder / table)

    def path_of(self, table: str, version: str) -> Path:
        """Where the rows of a version lie."""
        return self._folder / table / version / ROWS_FILE

    def subjects_path(self, table: str) -> Path:
        return self._folder / table / SUBJECTS_FILE

    def is_whole(self, snapshot: Snapshot) -> bool:
        """Whether that version's rows are, byte for byte, those that were written. Reads the whole file."""
        try:
            self._read(snapshot.table, snapshot.version)
            record = json.loads((snapshot.path.parent / _RECORD_FILE).read_bytes())
            return bool(record.get("sha256") == _digest(snapshot.path))
        except (SnapshotDamaged, OSError):
            return False

    def current_version(self, table: str) -> str | None:
        """Its name, also if its files are damaged."""
        try:
            return (self._folder / table / _CURRENT).read_text().strip()
        except OSError:
            return None

    # --- files -------------------------------------------------------------------------------------------------

    def _steps(self, table: str) -> Steps:
        return Steps(self._folder / table / _STEPS_FOLDER)

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

    def _point_to(self, snapshot: Snapshot, staging: Path) -> None:
        """The one step that changes the answer: `current` names either the old version or the new."""
        write_durably(staging / _CURRENT, snapshot.version)
        os.replace(staging / _CURRENT, self._folder / snapshot.table / _CURRENT)
        make_durable(self._folder / snapshot.table)

    def _forget_old(self, snapshot: Snapshot) -> None:
        older = [version for version in self.versions(snapshot.table) if version != snapshot.version]
        for version in older[self._keep :]:
            self.delete(snapshot.table, version)


def _to_record(snapshot: Snapshot, rows: Path) -> dict[str, object]:
    """`rows`: the file, wherever it lies now."""
    return {
        "table": snapshot.table,
        "version": snapshot.version,
        "schema": to_plain(snapshot.schema),
        "rows": snapshot.rows,
        "subjects": snapshot.subjects,
        "clipped": dict(snapshot.clipped),
        "published_at": snapshot.published_at.isoformat(),
        "bytes": rows.stat().st_size,
        "sha256": _digest(rows),
        "offer": snapshot.offer.SerializeToString().hex(),
    }


def _from_record(record: dict[str, object], path: Path) -> Snapshot:
    """Raises ValueError, KeyError, TypeError or DecodeError for anything that `_to_record` did not write."""
    rows, subjects, clipped = record["rows"], record["subjects"], record["clipped"]
    if not isinstance(rows, int) or not isinstance(subjects, int) or not isinstance(clipped, dict):
        raise TypeError("not a snapshot's record")
    if not 1 <= subjects <= rows:
        raise ValueError("not a snapshot's record")
    return Snapshot(
        table=str(record["table"]),
        version=str(record["version"]),
        schema=Schema.model_validate_json(json.dumps(record["schema"])),
        rows=rows,
        clipped=clipped,
        published_at=datetime.fromisoformat(str(record["published_at"])),
        path=path,
        offer=Signed.FromString(bytes.fromhex(str(record["offer"]))),
        subjects=subjects,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
