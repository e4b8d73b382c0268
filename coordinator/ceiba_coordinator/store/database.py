"""Opening the database. The reads and writes are sorted by what they are about into the modules beside this one."""

from typing import Any

from sqlalchemy import create_engine, event, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import StaticPool

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.agreements import AgreementRows
from ceiba_coordinator.store.jobs import JobRows
from ceiba_coordinator.store.log import LogRows
from ceiba_coordinator.store.members import MemberRows
from ceiba_coordinator.store.rosters import RosterRows
from ceiba_coordinator.store.scores import ScoreRows
from ceiba_protocol.errors import LedgerDamaged


class Store(JobRows, AgreementRows, MemberRows, RosterRows, LogRows, ScoreRows):
    """All reads and writes; see `transaction` for several at once."""


def open_engine(url: str) -> Engine:
    """An engine on `url`, its tables made if it is new. Raises LedgerDamaged for a file that is no such database.

    All access comes from one thread, so one connection serves, and a commit is on the disk when it returns.
    """
    options: dict[str, Any] = {"poolclass": StaticPool} if url.startswith("sqlite") else {}
    if options:
        options["connect_args"] = {"check_same_thread": False}
    engine = create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _make_durable)
    try:
        tables.metadata.create_all(engine)
        with engine.begin() as connection:
            version = connection.scalar(select(tables.about.c.version))
            if version is None:
                connection.execute(insert(tables.about).values(version=tables.SCHEMA_VERSION))
            elif version != tables.SCHEMA_VERSION:
                raise LedgerDamaged(path=engine.url.database or url, problem=f"its layout has version {version}")
    except (DatabaseError, OperationalError):
        raise LedgerDamaged(path=engine.url.database or url, problem="it is not a readable database") from None
    return engine


def _make_durable(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")
