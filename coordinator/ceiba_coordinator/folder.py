"""Making a coordinator's folder: configuration, CA and database."""

import os
from datetime import UTC, datetime
from pathlib import Path

from ceiba_coordinator.config import AUTHORITY_CERTIFICATE, AUTHORITY_KEY, FILE, SAMPLE, Config
from ceiba_coordinator.store.database import open_engine
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.trust.certificates import make_authority


def make_folder(home: Path, space: str, *, address: str, enrolment: str, listen: str) -> Config:
    """A new folder; `address` and `enrolment` are what members dial (host:port), `listen` the interface to bind.

    Raises BadConfiguration if there is one already.
    """
    if (home / FILE).exists():
        raise BadConfiguration(path=home / FILE, problem="it exists already; a new CA would orphan every member")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = make_authority(space, datetime.now(UTC))
    with os.fdopen(os.open(home / AUTHORITY_KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(authority.key)
    (home / AUTHORITY_CERTIFICATE).write_bytes(authority.certificate)
    text = SAMPLE.format(
        space=space,
        address=address,
        enrolment_address=enrolment,
        listen=f"{listen}:{_port(address)}",
        listen_enrolment=f"{listen}:{_port(enrolment)}",
    )
    (home / FILE).write_text(text)
    config = Config.read(home)
    open_engine(config.database_url).dispose()
    return config


def _port(address: str) -> str:
    return address.rpartition(":")[2]
