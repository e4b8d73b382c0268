"""Opening the database, and the reads and writes that the services are made of.

Every method is one transaction, or joins the caller's `with store.transaction()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, create_engine, delete, event, func, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import StaticPool

from ceiba_coordinator.store import tables
from ceiba_protocol.errors import LedgerDamaged
from ceiba_protocol.job import ENDED, State
from ceiba_protocol.v1.common_pb2 import Signed

OFFERS_KEPT = 10
"""Versions of one dataset that the catalogue remembers; the holder decides which of them it still has."""


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
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


@dataclass(frozen=True)
class StoredJob:
    """A job as stored; `seats` is sorted by holder."""

    job_id: bytes
    merchant: str
    manifest: Signed
    state: State
    deadline: int
    refusal: Signed | None


@dataclass(frozen=True)
class Seat:
    """What one holder has answered to one job."""

    holder: str
    approval: Signed | None
    submission: Signed | None


class Store:
    """Reads and writes of jobs; see `transaction` for several at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._connection: Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that is committed at the end; inside another one, that one."""
        if self._connection is not None:
            yield self._connection
            return
        with self.engine.begin() as connection:
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None

    # --- jobs

    def job(self, job_id: bytes) -> StoredJob | None:
        with self.transaction() as connection:
            columns = [column for column in tables.jobs.c if column.name != "total"]
            row = connection.execute(select(*columns).where(tables.jobs.c.job_id == job_id)).one_or_none()
        return None if row is None else _stored_job(row)

    def open_jobs(self) -> list[StoredJob]:
        """Jobs that have not ended."""
        with self.transaction() as connection:
            columns = [column for column in tables.jobs.c if column.name != "total"]
            query = select(*columns).where(tables.jobs.c.state.not_in(sorted(ENDED)))
            return [_stored_job(row) for row in connection.execute(query)]

    def add_job(self, job: StoredJob, holders: list[str]) -> None:
        with self.transaction() as connection:
            connection.execute(
                insert(tables.jobs).values(
                    job_id=job.job_id,
                    merchant=job.merchant,
                    manifest=job.manifest.SerializeToString(),
                    state=job.state,
                    deadline=job.deadline,
                )
            )
            connection.execute(insert(tables.seats), [{"job_id": job.job_id, "holder": holder} for holder in holders])

    def set_state(self, job_id: bytes, state: State, **columns: bytes) -> None:
        """The job's new state, with its total or the refusal that ended it."""
        with self.transaction() as connection:
            statement = update(tables.jobs).where(tables.jobs.c.job_id == job_id)
            connection.execute(statement.values(state=state, **columns))

    def total(self, job_id: bytes) -> bytes:
        with self.transaction() as connection:
            return bytes(connection.execute(select(tables.jobs.c.total).where(_is(tables.jobs, job_id))).scalar_one())

    # --- seats

    def seats(self, job_id: bytes) -> list[Seat]:
        """Sorted by holder; without ciphertexts."""
        table = tables.seats
        query = select(table.c.holder, table.c.approval, table.c.submission)
        with self.transaction() as connection:
            rows = connection.execute(query.where(_is(table, job_id)).order_by(table.c.holder)).all()
        return [Seat(row.holder, _signed(row.approval), _signed(row.submission)) for row in rows]

    def fill_seat(self, job_id: bytes, holder: str, **columns: bytes) -> None:
        """Store a holder's approval, or its submission with its ciphertexts."""
        table = tables.seats
        with self.transaction() as connection:
            statement = update(table).where(_is(table, job_id), table.c.holder == holder)
            connection.execute(statement.values(**columns))

    def ciphertexts(self, job_id: bytes, *holders: str) -> dict[str, bytes]:
        """The ciphertexts of these holders, or of all."""
        table = tables.seats
        query = select(table.c.holder, table.c.ciphertexts).where(_is(table, job_id))
        with self.transaction() as connection:
            rows = connection.execute(query.where(table.c.holder.in_(holders)) if holders else query)
            return {row.holder: row.ciphertexts for row in rows if row.ciphertexts is not None}

    # --- members and what they offer

    def add_invitation(self, **columns: object) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.invitations).values(**columns))

    def invitation(self, token_hash: str) -> Row[Any] | None:
        with self.transaction() as connection:
            query = select(tables.invitations).where(tables.invitations.c.token_hash == token_hash)
            return connection.execute(query).one_or_none()

    def use_invitation(self, token_hash: str, used_by: str) -> None:
        table = tables.invitations
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.token_hash == token_hash).values(used_by=used_by))

    def add_member(self, **columns: object) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.members).values(**columns))

    def set_certificate(self, name: str, certificate: bytes) -> None:
        """The member's newest certificate, PEM."""
        table = tables.members
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.name == name).values(certificate=certificate))

    def remove_member(self, name: str) -> None:
        with self.transaction() as connection:
            connection.execute(delete(tables.members).where(tables.members.c.name == name))
            connection.execute(delete(tables.offers).where(tables.offers.c.holder == name))

    def member(self, name: str) -> Row[Any] | None:
        with self.transaction() as connection:
            query = select(tables.members).where(tables.members.c.name == name)
            return connection.execute(query).one_or_none()

    def descriptors(self) -> list[Signed]:
        """Every enrolled member's self-signed descriptor, sorted by name."""
        with self.transaction() as connection:
            rows = connection.execute(select(tables.members.c.descriptor).order_by(tables.members.c.name))
            return [Signed.FromString(row.descriptor) for row in rows]

    def add_roster(self, version: int, body: bytes) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.rosters).values(version=version, body=body))

    def newest_roster_version(self) -> int | None:
        with self.transaction() as connection:
            version: int | None = connection.execute(select(func.max(tables.rosters.c.version))).scalar_one()
            return version

    def roster(self, version: int) -> bytes:
        with self.transaction() as connection:
            query = select(tables.rosters.c.body).where(tables.rosters.c.version == version)
            return bytes(connection.execute(query).scalar_one())

    def put_schema(self, digest: str, body: bytes) -> None:
        if self.schema(digest) is None:
            with self.transaction() as connection:
                connection.execute(insert(tables.schemas).values(digest=digest, body=body))

    def schema(self, digest: str) -> bytes | None:
        with self.transaction() as connection:
            query = select(tables.schemas.c.body).where(tables.schemas.c.digest == digest)
            return connection.execute(query).scalar_one_or_none()

    def put_offer(self, table: str, holder: str, version: str, offer: bytes) -> None:
        """Make `version` the holder's current one; the oldest beyond OFFERS_KEPT are forgotten."""
        offers = tables.offers
        own = (offers.c.table_name == table) & (offers.c.holder == holder)
        with self.transaction() as connection:
            connection.execute(delete(offers).where(own, offers.c.version == version))
            connection.execute(insert(offers).values(table_name=table, holder=holder, version=version, offer=offer))
            newest = select(offers.c.number).where(own).order_by(offers.c.number.desc()).limit(OFFERS_KEPT)
            kept = [row.number for row in connection.execute(newest)]
            connection.execute(delete(offers).where(own, offers.c.number < min(kept)))

    def offers(self, table: str) -> list[Signed]:
        """The table's offers, oldest first, so that each holder's last one is its current version."""
        column = tables.offers.c
        query = select(column.offer).where(column.table_name == table).order_by(column.number)
        with self.transaction() as connection:
            return [Signed.FromString(row.offer) for row in connection.execute(query)]


def _is(table: Any, job_id: bytes) -> Any:
    return table.c.job_id == job_id


def _signed(blob: bytes | None) -> Signed | None:
    return None if blob is None else Signed.FromString(blob)


def _stored_job(row: Row[Any]) -> StoredJob:
    return StoredJob(
        row.job_id,
        row.merchant,
        Signed.FromString(row.manifest),
        State(row.state),
        row.deadline,
        _signed(row.refusal),
    )
