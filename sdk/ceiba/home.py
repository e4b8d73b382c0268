"""A merchant's identity folder: its keys, and the roster that it pinned."""

import os
import secrets
from pathlib import Path

from ceiba_protocol.errors import BadIdentity, RosterNotPinned
from ceiba_protocol.joining import IDENTITY_FILE, ROSTER_FILE, read_identity
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Role, Roster


class Home:
    """The folder; `~` is expanded."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def begun_identity(self) -> Identity | None:
        """The identity, also if it still lacks its certificate; None before `ceiba init`."""
        path = self.folder / IDENTITY_FILE
        return read_identity(path.read_bytes(), self.folder) if path.exists() else None

    def identity(self) -> Identity:
        """Raises BadIdentity."""
        identity = self.begun_identity()
        if identity is None or not identity.certificate:
            raise BadIdentity(path=self.folder, problem="it has not joined a space yet")
        if identity.descriptor.role is not Role.MERCHANT:
            raise BadIdentity(path=self.folder, problem=f"it is a {identity.descriptor.role}'s, not a merchant's")
        return identity

    def save_identity(self, identity: Identity) -> None:
        self._write(IDENTITY_FILE, identity.body())

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

    def _write(self, name: str, content: bytes) -> None:
        """Replace a file at once, readable by its owner alone. Several processes may: each has its own new file."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging = self.folder / f"{name}.{secrets.token_hex(4)}.new"
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, self.folder / name)
