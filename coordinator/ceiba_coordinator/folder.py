"""Making a coordinator's folder: configuration, CA, log key and database."""

import os
from datetime import UTC, datetime
from pathlib import Path

from ceiba_coordinator.config import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_KEY,
    FILE,
    LOG_KEY,
    SAMPLE,
    AuthorityKey,
    Config,
    LogKey,
)
from ceiba_coordinator.store.database import open_engine
from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.joining import ask_passphrase, close_keys
from ceiba_protocol.trust.certificates import make_authority


def make_folder(
    home: Path, space: str, *, address: str, enrolment: str, listen: str, passphrase: bytes | None = None
) -> Config:
    """A new folder; `address` and `enrolment` are what members dial (host:port), `listen` the interface to bind.
    Its keys are sealed under `passphrase`; None: it is looked for, or asked for.

    Raises BadConfiguration if there is one already, PassphraseNeeded.
    """
    if (home / FILE).exists():
        raise BadConfiguration(path=home / FILE, problem="it exists already; a new CA would orphan every member")
    passphrase = passphrase or ask_passphrase(new=True)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = make_authority(space, datetime.now(UTC))
    _write_keys(home / AUTHORITY_KEY, AuthorityKey(pem=authority.key.decode()), passphrase)
    _write_keys(home / LOG_KEY, LogKey(signing_seed=os.urandom(32).hex()), passphrase)
    (home / AUTHORITY_CERTIFICATE).write_bytes(authority.certificate)
    text = SAMPLE.format(
        space=space,
        address=address,
        enrolment_address=enrolment,
        listen=f"{listen}:{_port(address)}",
        listen_enrolment=f"{listen}:{_port(enrolment)}",
    )
    (home / FILE).write_text(text)
    config = Config.read(home, passphrase)
    open_engine(config.database_url).dispose()
    return config


def _write_keys(path: Path, keys: Document, passphrase: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(close_keys(keys, passphrase, os.urandom))


def _port(address: str) -> str:
    return address.rpartition(":")[2]
