"""The coordinator's folder and its coordinator.toml."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ceiba_protocol.canonical import Document, Hex32, MemberName
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.joining import ask_passphrase, open_keys
from ceiba_protocol.trust.certificates import KeyAndCertificate
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.signing import D

FILE = "coordinator.toml"
AUTHORITY_KEY, AUTHORITY_CERTIFICATE = "authority.key", "authority.pem"
LOG_KEY = "log.key"

SAMPLE = """\
# The coordinator of a Ceiba space. Paths are relative to this file's folder.
space = "{space}"

# Where members reach the coordinator, as join tokens tell them.
address = "{address}"
enrolment_address = "{enrolment_address}"

# Where it listens: services with mutual TLS, and enrolment, whose callers have no certificate yet.
listen = "{listen}"
listen_enrolment = "{listen_enrolment}"

# sqlite:///FILE, or another database that SQLAlchemy opens.
database = "sqlite:///coordinator.sqlite3"
"""


class Settings(BaseModel):
    """coordinator.toml, key by key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: MemberName
    address: str
    enrolment_address: str
    listen: str
    listen_enrolment: str
    database: str = "sqlite:///coordinator.sqlite3"


class AuthorityKey(Document):
    """The CA's private key, PEM: what is in authority.key once that is unsealed."""

    pem: str

    def __repr__(self) -> str:
        return "AuthorityKey(...)"

    __str__ = __repr__


class LogKey(Document):
    """The key under which the operator signs the log: what is in log.key once that is unsealed."""

    signing_seed: Hex32

    def __repr__(self) -> str:
        return "LogKey(...)"

    __str__ = __repr__


class Config:
    """A coordinator's folder. `passphrase` opens its keys; None: it is looked for, or asked for, when first needed."""

    def __init__(self, home: Path, settings: Settings, passphrase: bytes | None = None) -> None:
        self.home = home
        self.settings = settings
        self._passphrase = passphrase

    @classmethod
    def read(cls, home: Path, passphrase: bytes | None = None) -> Self:
        """Raises BadConfiguration, in words of our own."""
        path = home / FILE
        try:
            return cls(home, Settings.model_validate(tomllib.loads(path.read_text())), passphrase)
        except OSError:
            raise BadConfiguration(path=path, problem="it cannot be read; `ceiba-coordinator init` makes it") from None
        except tomllib.TOMLDecodeError:
            raise BadConfiguration(path=path, problem="it is not TOML") from None
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
            raise BadConfiguration(path=path, problem=f"these keys are missing, unknown or wrong: {keys}") from None

    @property
    def space(self) -> str:
        return self.settings.space

    @property
    def listen(self) -> str:
        return self.settings.listen

    @property
    def listen_enrolment(self) -> str:
        return self.settings.listen_enrolment

    @property
    def database_url(self) -> str:
        prefix, file = "sqlite:///", self.settings.database
        if file.startswith(prefix):
            return f"{prefix}{(self.home / file.removeprefix(prefix)).resolve()}"
        return file

    def read_authority(self) -> KeyAndCertificate:
        """The CA, whose key signs members' certificates. Raises BadConfiguration, PassphraseNeeded, BadPassphrase."""
        key = self._open(AUTHORITY_KEY, AuthorityKey).pem.encode()
        return KeyAndCertificate(key, self._read(AUTHORITY_CERTIFICATE))

    def read_log_key(self) -> SigningKey:
        """Raises BadConfiguration, PassphraseNeeded, BadPassphrase."""
        return SigningKey(bytes.fromhex(self._open(LOG_KEY, LogKey).signing_seed))

    def _open(self, file: str, kind: type[D]) -> D:
        content = self._read(file)
        if self._passphrase is None:
            self._passphrase = ask_passphrase()
        return open_keys(content, self._passphrase, kind, self.home / file)

    def _read(self, file: str) -> bytes:
        try:
            return (self.home / file).read_bytes()
        except OSError:
            raise BadConfiguration(path=self.home, problem=f"its {file} cannot be read") from None
