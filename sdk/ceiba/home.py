"""A merchant's identity folder: its sealed keys, the roster that it pinned, and what it must not forget.

`numbers.json` has the number of the last job of each agreement, `asked.json` what the jobs cost, `jobs/` what is needed
to open their answers, `models/` scoring models, `checkpoint.json` the newest state of the log that was seen. Several
programs may use one folder at once.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ceiba.reattaching import AskedAnalysis
from ceiba_protocol.disclosure.grade import BUDGET_SECONDS
from ceiba_protocol.errors import (
    BadIdentity,
    LedgerDamaged,
    MalformedDocument,
    NoAgreement,
    RosterNotPinned,
    UnknownJob,
    UnknownScoreModel,
)
from ceiba_protocol.joining import IDENTITY_FILE, ROSTER_FILE, ask_passphrase, close_keys, open_keys
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.receipt import SignedText
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.v1.common_pb2 import Signed

NUMBERS_FILE = "numbers.json"
ASKED_FILE = "asked.json"
JOBS_FOLDER = "jobs"
MODELS_FOLDER = "models"
CHECKPOINT_FILE = "checkpoint.json"
LOCK_FILE = "lock"


class AskedJob(BaseModel):
    """What a job cost that was asked from this folder; it may have been refused, or have cost nothing a second time."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at: int
    """Seconds since 1970 UTC."""
    agreement: str
    """Its digest."""
    table: str
    versions: str
    """Digest of the holders and the versions of their data."""
    rho: int | None
    """In millionths; None: without noise."""


class KeptJoin(BaseModel):
    """What of a joint question does not stand in its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schemas: tuple[str, ...]
    """Of its tables."""
    names: tuple[str, ...]
    """What is asked for, in order."""
    shown_as: Literal["figures", "tables", "pairs"]
    """One table of figures, a table of counts for each feature, or for each pair of features."""


class KeptJob(BaseModel):
    """A job that was asked from this folder, as another process needs it to open and show the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    job_id: str
    """32 hexadecimal digits."""
    at: int
    """Seconds since 1970 UTC."""
    until: int
    """Its deadline."""
    manifest: SignedText
    agreement: str
    """The document that the manifest cites."""
    table_schema: str = ""
    presentation: str = ""
    """How the answer is shown, in JSON. Of a joint question there is `join` instead of both."""
    analysis: AskedAnalysis | None = None
    """Of which analysis it is the question, if of one."""
    join: KeptJoin | None = None


_ASKED = TypeAdapter(tuple[AskedJob, ...])


class Home:
    """The folder; `~` is expanded. `passphrase`: of the sealed keys; without it, it is looked for when first needed."""

    def __init__(self, folder: str | Path, passphrase: bytes | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self._passphrase = passphrase
        self._opened: Identity | None = None

    # --- the identity

    def begun_identity(self) -> Identity | None:
        """The identity, also if it still lacks its certificate; None before `ceiba init`. Opened once.

        Raises PassphraseNeeded, BadPassphrase, BadIdentity.
        """
        path = self.folder / IDENTITY_FILE
        if self._opened is None and path.exists():
            self._opened = open_keys(path.read_bytes(), self._secret(), Identity, self.folder)
        return self._opened

    def identity(self) -> Identity:
        """Raises BadIdentity, and as `begun_identity`."""
        identity = self.begun_identity()
        if identity is None or not identity.certificate:
            raise BadIdentity(path=self.folder, problem="it has not joined a space yet")
        if identity.descriptor.role is not Role.MERCHANT:
            raise BadIdentity(path=self.folder, problem=f"it is a {identity.descriptor.role}'s, not a merchant's")
        return identity

    def save_identity(self, identity: Identity) -> None:
        new = not (self.folder / IDENTITY_FILE).exists()
        self._write(IDENTITY_FILE, close_keys(identity, self._secret(new=new), os.urandom))
        self._opened = identity

    def _secret(self, *, new: bool = False) -> bytes:
        if self._passphrase is None:
            self._passphrase = ask_passphrase(new=new)
        return self._passphrase

    # --- the roster

    def roster(self) -> Roster:
        """Raises RosterNotPinned."""
        roster = self.pinned_roster()
        if roster is None:
            raise RosterNotPinned(command="ceiba pin")
        return roster

    def pinned_roster(self) -> Roster | None:
        path = self.folder / ROSTER_FILE
        return Roster.parse(path.read_bytes()) if path.exists() else None

    def pin(self, roster: Roster) -> None:
        self._write(ROSTER_FILE, roster.body())

    # --- job numbers

    def next_number(self, agreement: Agreement) -> int:
        """A number for a job under an agreement, which nobody who uses this folder has had or will have.

        It is on disk before it is returned: a program that crashes now has wasted it, and nobody uses it again.
        Raises NoAgreement once all agreed jobs are asked, and LedgerDamaged.
        """
        with self._alone():
            numbers = self._numbers()
            number = numbers.get(agreement.digest(), 0) + 1
            if number > agreement.jobs:
                problem = f"all {agreement.jobs} jobs of {agreement.agreement_id} were asked"
                raise NoAgreement(table=agreement.table, problem=problem)
            numbers[agreement.digest()] = number
            self._write(NUMBERS_FILE, json.dumps(numbers, indent=1, sort_keys=True).encode())
        return number

    def jobs_asked(self, agreement: Agreement) -> int:
        """How many of an agreement's jobs this folder has asked, and lost. Raises LedgerDamaged."""
        return self._numbers().get(agreement.digest(), 0)

    def _numbers(self) -> dict[str, int]:
        path = self.folder / NUMBERS_FILE
        if not path.exists():
            return {}
        try:
            numbers = json.loads(path.read_bytes())
        except ValueError:
            numbers = None
        if not isinstance(numbers, dict) or not all(type(number) is int for number in numbers.values()):
            raise LedgerDamaged(path=path, problem="it does not have the number of each agreement's last job")
        return numbers

    # --- what was asked

    def note_asked(self, job: AskedJob) -> None:
        """To be called before the job is sent, so that nothing is missing. What counts no more is forgotten."""
        with self._alone():
            old = job.at - BUDGET_SECONDS
            kept = [one for one in self.asked_jobs() if one.rho is None or one.at > old]
            self._write(ASKED_FILE, _ASKED.dump_json((*kept, job), indent=1))

    def spent(self, table: str, now: int) -> int:
        """Millionths of ρ that questions about a table cost at most, in the last 365 days. Raises LedgerDamaged."""
        recent = [one for one in self.asked_jobs() if one.table == table and one.at > now - BUDGET_SECONDS]
        return sum(one.rho or 0 for one in recent)

    def exact_asked(self, table: str, versions: str) -> int:
        """Questions without noise on these data. Raises LedgerDamaged."""
        return sum((one.table, one.versions, one.rho) == (table, versions, None) for one in self.asked_jobs())

    def asked_jobs(self) -> tuple[AskedJob, ...]:
        """Oldest first. Raises LedgerDamaged."""
        path = self.folder / ASKED_FILE
        if not path.exists():
            return ()
        try:
            return _ASKED.validate_json(path.read_bytes())
        except ValueError:
            raise LedgerDamaged(path=path, problem="it does not say what was asked") from None

    # --- jobs that another process may wait for

    def keep_job(self, job: KeptJob) -> None:
        """To be called before the job is sent. What was kept a year before is forgotten."""
        with self._alone():
            (self.folder / JOBS_FOLDER).mkdir(mode=0o700, exist_ok=True)
            for path in self._kept():
                with suppress(FileNotFoundError):  # another program has cancelled it just now
                    if path.stat().st_mtime < job.at - BUDGET_SECONDS:
                        path.unlink()
            self._write(f"{JOBS_FOLDER}/{job.job_id}.json", job.model_dump_json(indent=1).encode())

    def forget_job(self, job_id: str) -> None:
        """It is none any more if it was one."""
        (self.folder / JOBS_FOLDER / f"{job_id}.json").unlink(missing_ok=True)

    def kept_job(self, beginning: str) -> KeptJob:
        """The one whose id begins so. Raises UnknownJob unless it is exactly one, and LedgerDamaged."""
        names = [path for path in self._kept() if beginning and path.stem.startswith(beginning.lower())]
        if len(names) != 1:
            raise UnknownJob(job=beginning)
        return _read_job(names[0])

    def kept_jobs(self) -> list[KeptJob]:
        """Newest first. Raises LedgerDamaged."""
        found = []
        for path in self._kept():
            with suppress(FileNotFoundError):  # another program has cancelled it just now
                found.append(_read_job(path))
        return sorted(found, key=lambda job: (job.at, job.job_id), reverse=True)

    def _kept(self) -> list[Path]:
        return list((self.folder / JOBS_FOLDER).glob("*.json"))

    # --- scoring models

    def keep_model(self, digest: str, content: bytes) -> None:
        """To be called before the model is sent: its base points are nowhere else."""
        with self._alone():
            (self.folder / MODELS_FOLDER).mkdir(mode=0o700, exist_ok=True)
            self._write(f"{MODELS_FOLDER}/{digest}.json", content)

    def kept_model(self, beginning: str) -> bytes:
        """The one whose digest begins so. Raises UnknownScoreModel unless it is exactly one."""
        paths = [path for path in (self.folder / MODELS_FOLDER).glob("*.json") if path.stem.startswith(beginning)]
        if len(paths) != 1 or not beginning:
            raise UnknownScoreModel(model=beginning)
        return paths[0].read_bytes()

    # --- the log

    def checkpoint(self) -> Signed | None:
        """The newest checkpoint that was seen, as the operator signed it. Raises LedgerDamaged."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return None
        try:
            return SignedText.parse(path.read_bytes()).signed()
        except MalformedDocument:
            raise LedgerDamaged(path=path, problem="it is not a checkpoint") from None

    def replace_checkpoint(self, old: Signed | None, new: Signed) -> None:
        """Keep a checkpoint that was found to continue the old one; not if another program has replaced that."""
        with self._alone():
            if self.checkpoint() == old:
                self._write(CHECKPOINT_FILE, SignedText.of(new).body())

    # --- files

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nobody else changes the folder: another thread waits here, as does another process."""
        self._make_folder()
        with os.fdopen(os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file at once, readable by its owner alone, and wait until it is on disk. Several processes may:
        each has its own new file."""
        self._make_folder()
        staging = self.folder / f"{name}.{secrets.token_hex(4)}.new"
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, survives a power cut
        finally:
            os.close(folder)


def _read_job(path: Path) -> KeptJob:
    try:
        return KeptJob.model_validate_json(path.read_bytes())
    except ValueError:
        raise LedgerDamaged(path=path, problem="it is not a job that was asked") from None
