"""The coordinator's folder and its coordinator.toml."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ceiba_protocol.canonical import MemberName
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.trust.certificates import KeyAndCertificate

FILE = "coordinator.toml"
AUTHORITY_KEY, AUTHORITY_CERTIFICATE = "authority-key.pem", "authority.pem"

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


class Config:
    """A coordinator's folder."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.home = home
        self.settings = settings

    @classmethod
    def read(cls, home: Path) -> Self:
        """Raises BadConfiguration, in words of our own."""
        path = home / FILE
        try:
            return cls(home, Settings.model_validate(tomllib.loads(path.read_text())))
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
        """Raises BadConfiguration."""
        try:
            return KeyAndCertificate(
                (self.home / AUTHORITY_KEY).read_bytes(), (self.home / AUTHORITY_CERTIFICATE).read_bytes()
            )
        except OSError:
            raise BadConfiguration(path=self.home, problem="the CA's key or certificate cannot be read") from None
