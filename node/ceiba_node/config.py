"""The node's folder, its keys and its node.toml."""

import fcntl
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from getpass import getpass
from itertools import count
from pathlib import Path
from sys import stdin
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ceiba_node.house_rules import POLICY_FILE, SAMPLE_POLICY, Policy, read_policy
from ceiba_node.ledger import Ledger
from ceiba_node.snapshots import SnapshotStore
from ceiba_protocol.errors import (
    BadCommand,
    BadConfiguration,
    BadIdentity,
    BadPassphrase,
    LedgerDamaged,
    NodeRunning,
    NoKeyFile,
    RosterNotPinned,
    WrongKey,
)
from ceiba_protocol.joining import IDENTITY_FILE, ROSTER_FILE, ask_passphrase, close_keys, open_keys
from ceiba_protocol.trust.identity import Duty, DutyKey, Identity
from ceiba_protocol.trust.roster import Roster

FILE = "node.toml"
LOCK_FILE = "node.lock"
_LEDGER_SUFFIXES = ("", "-wal", "-shm")
"""The ledger's file, and what SQLite keeps beside it."""

SAMPLE = """\
# A holder's node. Everything it keeps lies in this file's folder: identity.json (its keys), officer.key and
# publisher.key (unless they lie elsewhere), roster.json (what it pinned), policy.toml (what the house allows),
# ledger.sqlite3 (what it answered), snapshots/ (its published datasets). Back up the whole folder.

# How much memory DuckDB may use for one question, and on how many threads.
memory_limit = "400MB"
threads = 2

# Older versions of each dataset that stay available to jobs that pinned them.
keep_versions = 3

# Encryption factors prepared in idle time for each merchant; each is used once. 0: nothing is prepared.
prepared_ciphertexts = 256

# Likewise for each merchant that has a scoring model; one takes about 30 ms. 0: each score takes so much longer.
prepared_scores = 32
"""


class Settings(BaseModel):
    """node.toml, key by key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_limit: Annotated[str, Field(pattern=r"^[0-9]+(MB|GB|MiB|GiB)$")] = "400MB"
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    keep_versions: Annotated[int, Field(ge=0, le=1000)] = 3
    prepared_ciphertexts: Annotated[int, Field(ge=0, le=100_000)] = 256
    prepared_scores: Annotated[int, Field(ge=0, le=100_000)] = 32


class Home:
    """A node's folder. Its keys are sealed under a passphrase, which is looked for when it is first needed."""

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self.folder = folder
        self._given = passphrase
        self._opened: tuple[bytes, Identity] | None = None

    @classmethod
    def make(cls, folder: Path, passphrase: bytes | None = None) -> Self:
        """A new folder with its sample configuration; an existing one stays as it is."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # also where the folder was made before
        for name, sample in ((FILE, SAMPLE), (POLICY_FILE, SAMPLE_POLICY)):
            if not (folder / name).exists():
                (folder / name).write_text(sample)
        return cls(folder, passphrase)

    @cached_property
    def passphrase(self) -> bytes:
        """Raises PassphraseNeeded."""
        if self._given is not None:
            return self._given
        return ask_passphrase(new=not (self.folder / IDENTITY_FILE).exists())

    def settings(self) -> Settings:
        """Raises BadConfiguration, in words of our own."""
        path = self.folder / FILE
        try:
            return Settings.model_validate(tomllib.loads(path.read_text()))
        except OSError:
            raise BadConfiguration(path=path, problem="it cannot be read; `ceiba-node init` makes it") from None
        except tomllib.TOMLDecodeError:
            raise BadConfiguration(path=path, problem="it is not TOML") from None
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
            raise BadConfiguration(path=path, problem=f"these keys are unknown or wrong: {keys}") from None

    def policy(self) -> Policy:
        """The house's rules as they stand now. Raises BadConfiguration."""
        return read_policy(self.folder / POLICY_FILE)

    # --- keys

    def identity(self) -> Identity:
        """Raises BadIdentity, PassphraseNeeded, BadPassphrase."""
        identity = self.begun_identity()
        if identity is None or not identity.certificate:
            raise BadIdentity(path=self.folder, problem="it has not joined a space yet")
        return identity

    def begun_identity(self) -> Identity | None:
        """The identity, also if it still lacks its certificate; None before `init`. Opened once, until it changes."""
        path = self.folder / IDENTITY_FILE
        if not path.exists():
            return None
        content = path.read_bytes()
        if self._opened is None or self._opened[0] != content:
            self._opened = content, open_keys(content, self.passphrase, Identity, self.folder)
        return self._opened[1]

    def save_identity(self, identity: Identity) -> None:
        write_private(self.folder / IDENTITY_FILE, close_keys(identity, self.passphrase, os.urandom))

    def duty_path(self, duty: Duty) -> Path:
        """Where the key of a duty lies, unless somebody keeps it elsewhere."""
        return self.folder / f"{duty}.key"

    def duty_key(self, duty: Duty, path: Path | None = None) -> DutyKey:
        """The key of the officer or the publisher, whom this member's descriptor certifies.

        Raises WrongKey, also for the other duty's key, NoKeyFile, BadIdentity, PassphraseNeeded, BadPassphrase.
        """
        place, identity = path or self.duty_path(duty), self.identity()
        key = read_duty_key(place, self.passphrase)
        if key.duty is not duty:
            raise WrongKey(path=place, duty=duty, member=identity.name)
        key.require_certified(identity.descriptor, place)
        return key

    # --- roster, ledger, datasets

    def roster(self) -> Roster:
        """The pinned roster. Raises RosterNotPinned."""
        pinned = self.pinned_roster()
        if pinned is None:
            raise RosterNotPinned(command="ceiba-node pin")
        return pinned

    def pinned_roster(self) -> Roster | None:
        path = self.folder / ROSTER_FILE
        return Roster.parse(path.read_bytes()) if path.exists() else None

    def pin(self, roster: Roster) -> None:
        """Pin a roster, unless the service or a command has pinned a newer one meanwhile. With the first one the
        node gets its ledger; if that is missing later, it was lost."""
        with _alone(self.folder):
            pinned = self.pinned_roster()
            if pinned is None:
                Ledger(self.ledger_path, bytes.fromhex(self.identity().storage_key)).close()
            elif pinned.version > roster.version:
                return
            write_private(self.folder / ROSTER_FILE, roster.body())

    def ledger(self) -> Ledger:
        """Raises LedgerDamaged rather than start an empty one over what was lost."""
        if not self.ledger_path.exists():
            raise LedgerDamaged(path=self.ledger_path, problem="it is missing")
        return Ledger(self.ledger_path, bytes.fromhex(self.identity().storage_key))

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the node runs, and nobody else does in this folder. Raises NodeRunning."""
        with os.fdopen(os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise NodeRunning(folder=self.folder) from None
            yield

    def restore_ledger(self, backup: Path) -> Path:
        """Put a backup in the ledger's place, once it has been found readable and of this identity; where the replaced
        one is kept. Raises NodeRunning, LedgerDamaged."""
        staging = _beside(self.ledger_path, ".restoring")
        with self.running():
            self._stage(backup, staging)
            kept = self._unused_name()
            # The file before its log: a log alone is refused, where a file without its log would be an older ledger.
            for suffix in _LEDGER_SUFFIXES:
                old = _beside(self.ledger_path, suffix)
                if old.exists():
                    os.replace(old, _beside(kept, suffix))
            os.replace(staging, self.ledger_path)
        return kept

    def _stage(self, backup: Path, staging: Path) -> None:
        """A copy of a backup, and of the log that may lie beside it, as one file. Raises LedgerDamaged."""
        key = bytes.fromhex(self.identity().storage_key)
        _discard(staging)
        try:
            write_private(staging, backup.read_bytes())
            if _beside(backup, "-wal").exists():
                write_private(_beside(staging, "-wal"), _beside(backup, "-wal").read_bytes())
            with closing(Ledger(staging, key)) as ledger:
                ledger.check_seals()
        except (OSError, LedgerDamaged) as error:
            _discard(staging)
            problem = error.fields["problem"] if isinstance(error, LedgerDamaged) else "it cannot be read"
            raise LedgerDamaged(path=backup, problem=problem) from None

    def _unused_name(self) -> Path:
        """For the ledger that is replaced: an earlier one that was replaced may be the newest."""
        names = (_beside(self.ledger_path, f".replaced-{number}") for number in count(1))
        return next(name for name in names if not any(_beside(name, one).exists() for one in _LEDGER_SUFFIXES))

    def snapshots(self) -> SnapshotStore:
        keep = self.settings().keep_versions
        return SnapshotStore(self.folder / "snapshots", holder=self.identity().name, keep=keep)

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.sqlite3"

    def make_spill_folder(self) -> Path:
        """An empty folder for what DuckDB cannot hold in memory: rows, so nobody else may read it."""
        spill = self.folder / "spill"
        shutil.rmtree(spill, ignore_errors=True)
        spill.mkdir(mode=0o700)
        return spill


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _discard(ledger: Path) -> None:
    for suffix in _LEDGER_SUFFIXES:
        _beside(ledger, suffix).unlink(missing_ok=True)


def read_duty_key(path: Path, passphrase: bytes) -> DutyKey:
    """A key file under this passphrase, or another one that its owner types. Raises NoKeyFile, BadIdentity,
    BadPassphrase."""
    try:
        content = path.read_bytes()
    except OSError:
        raise NoKeyFile(path=path) from None
    try:
        return open_keys(content, passphrase, DutyKey, path)
    except BadPassphrase:
        if not stdin.isatty():
            raise
    return open_keys(content, getpass(f"Passphrase of {path}: ").encode(), DutyKey, path)


def write_duty_key(path: Path, key: DutyKey, passphrase: bytes) -> None:
    """Seal a new key file. Raises BadCommand rather than replace one."""
    if path.exists():
        raise BadCommand(command="ceiba-node key", problem=f"there is a file {path} already")
    write_private(path, close_keys(key, passphrase, os.urandom))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process changes the folder: the service and the commands share it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once, readable by its owner alone. Several processes may: each has its own new file."""
    staging = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)
