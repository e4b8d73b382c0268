"""A connection to a space: its tables, and asking. Everything that others sent is checked against the pinned roster."""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from ceiba.catalogue import Catalogue, CatalogueEntry
from ceiba.explanation import Explanation, explain
from ceiba.home import Home
from ceiba.jobs import Job
from ceiba.progress import show_nothing, show_on_terminal
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba_protocol.errors import CeibaError, CertificateExpired
from ceiba_protocol.joining import renew
from ceiba_protocol.rounds import make_manifest
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Role, Roster, RosterTable
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.catalogue_pb2 import ListRequest, TableEntry
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2_grpc import JobsStub
from ceiba_protocol.wire import from_rpc_error, secure_channel

CALL_SECONDS = 30.0
DEADLINE_SECONDS = 120
Versions = Mapping[str, str]
"""Holder → the version of its dataset to use, or the beginning of it."""


def connect(address: str | None = None, identity: str | Path = "~/.ceiba") -> Space:
    """Connect to a space with the identity in a folder that `ceiba init` made.

    >>> space = ceiba.connect("coordinator.example:7443", identity="~/.ceiba/bank-a")

    `address` is the coordinator's host:port, by default the one in the join token. A certificate that ends within
    30 days is renewed first, and saved. Raises BadIdentity, RosterNotPinned, NotReachable, CertificateExpired.
    """
    home = Home(identity)
    space = Space(_renewed(home, address), home.roster(), address)
    space.catalogue()
    return space


def _renewed(home: Home, address: str | None) -> Identity:
    """The folder's identity, its certificate renewed if due. What fails, short of its end, is tried the next time."""
    identity = home.identity()
    try:
        renewed = renew(identity, datetime.now(UTC), address)
        if renewed is not None:
            home.save_identity(renewed)
    except CertificateExpired:
        raise
    except (CeibaError, OSError) as error:
        warnings.warn(f"The certificate of {identity.name} could not be renewed: {error}", stacklevel=3)
        return identity
    return renewed or identity


class Space:
    """A merchant's view of a space. Use it as a context manager, or `close` it."""

    def __init__(self, identity: Identity, roster: Roster, address: str | None = None) -> None:
        self.identity = identity
        self.roster = roster
        self.address = address or identity.coordinator
        self._channel = secure_channel(self.address, identity)
        self._catalogue = CatalogueStub(self._channel)
        self._jobs = JobsStub(self._channel)
        self._schemas: dict[str, Schema] = {}

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Space({self.roster.space!r}, as {self.identity.name!r}, at {self.address!r})"

    # --- what there is

    def catalogue(self) -> Catalogue:
        """Every table, with its holders and what they have published."""
        return Catalogue([self._checked(entry) for entry in self._entries()])

    def table(self, name: str, version: Versions | None = None) -> Table:
        """A table to ask questions of: the union of all its holders' datasets.

        >>> heart = space.table("health.heart")
        >>> then = space.table("health.heart", version={"cleveland": "3f2a91"})

        Raises UnknownTable, which names the nearest one, and DatasetMissing before its schema is known.
        """
        entry = self._entry(name)
        return Table(entry.required_schema(), Pinned(self, dict(version)) if version else self)

    def sql(self, text: str) -> Query:
        """A question in SQL, ready to be asked: `space.sql("SELECT ...").to_pandas()`.

        Raises BadSQL, UnsupportedSQL (with the place), UnknownTable, UnknownColumn and the other errors of a query.
        """
        from ceiba.sql import parse

        schemas: dict[str, Schema] = {}

        def schema_of(table: str) -> Schema:
            schemas[table] = self._entry(table).required_schema()
            return schemas[table]

        plan, presentation = parse(text, schema_of)
        return Query(schemas[plan.table], self, plan, presentation)

    # --- asking (what `Query.run`, `submit` and `explain` call)

    def run(self, query: Query, **options: Any) -> Result:
        """Ask and wait; options as for `submit`, and `progress` (True, False, or None: if there is a terminal)."""
        wanted = options.pop("progress", None)
        shown = sys.stderr.isatty() if wanted is None else wanted
        return self.submit(query, **options).wait(show_on_terminal if shown else show_nothing)

    def submit(
        self,
        query: Query,
        *,
        deadline: float | timedelta = DEADLINE_SECONDS,
        purpose: str = "",
        version: Versions | None = None,
    ) -> Job:
        """Ask without waiting. `deadline`: seconds until the job ends even if a holder has not answered."""
        started = time.monotonic()
        seconds = int(deadline.total_seconds() if isinstance(deadline, timedelta) else deadline)
        entry = self._entry(query.plan().table)
        manifest = make_manifest(
            job_id=secrets.token_hex(16),
            merchant=self.identity.descriptor,
            plan=query.plan(),
            schema=query.schema,
            roster=self.roster,
            offers=entry.offers(version or {}).values(),
            purpose=purpose,
            now=int(time.time()),
            seconds=max(1, seconds),
        )
        signed = sign(manifest, self.identity.name, self.identity.signing_key)
        job = Job(self, self._jobs, query, signed, started)
        job.send()
        return job

    def explain(self, query: Query, version: Versions | None = None) -> Explanation:
        """Who sees what, how large it is and how long it takes; nothing is asked."""
        entry = self._entry(query.plan().table)
        return explain(query, entry.offers(version or {}), self.identity.descriptor)

    # --- the catalogue, checked

    def _entry(self, table: str) -> CatalogueEntry:
        self.roster.table(table)
        return next(self._checked(entry) for entry in self._entries() if entry.table == table)

    def _entries(self) -> list[TableEntry]:
        try:
            return list(self._catalogue.List(ListRequest(), timeout=CALL_SECONDS).tables)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from None

    def _checked(self, entry: TableEntry) -> CatalogueEntry:
        """The entry: its schema compared with the roster, and those of its offers that their holders have signed.

        An offer that does not verify is left out, and cannot keep anybody from the others: one made with keys that a
        holder has lost since, for example.
        """
        pinned = self.roster.table(entry.table)
        schema = self._schema(entry.schema, pinned.schema_digest) if entry.schema else None
        offers = [offer for signed in entry.offers if (offer := self._offer(signed, pinned)) is not None]
        return CatalogueEntry(pinned, schema, offers, tuple(entry.online))

    def _schema(self, body: bytes, digest: str) -> Schema:
        """Read once and kept: what has this digest does not change."""
        if digest not in self._schemas:
            self._schemas[digest] = Schema.parse_pinned(body, digest)
        return self._schemas[digest]

    def _offer(self, signed: Signed, pinned: RosterTable) -> Offer | None:
        try:
            offer = self.roster.open(signed, Offer, Role.HOLDER)
        except CeibaError:
            return None
        is_own = offer.holder == signed.signer and offer.holder in pinned.holders
        fits = (offer.table, offer.schema_digest) == (pinned.table, pinned.schema_digest)
        return offer if is_own and fits else None


@dataclass(frozen=True)
class Pinned:
    """Asks a space for given versions of the holders' datasets."""

    space: Space
    versions: dict[str, str]

    def run(self, query: Query, **options: Any) -> Result:
        return self.space.run(query, version=self.versions, **options)

    def submit(self, query: Query, **options: Any) -> Job:
        return self.space.submit(query, version=self.versions, **options)

    def explain(self, query: Query) -> Explanation:
        return self.space.explain(query, version=self.versions)
