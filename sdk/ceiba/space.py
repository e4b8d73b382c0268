"""A connection to a space: its tables, and asking. Everything that others sent is checked against the pinned roster."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from ceiba.agreements import AgreementHandle, Agreements
from ceiba.analysis import AnalysisJob
from ceiba.catalogue import Catalogue, CatalogueEntry
from ceiba.choosing import Wish
from ceiba.home import AskedJob, Home
from ceiba.jobs import Job
from ceiba.kept import JobList, asked, keep
from ceiba.noise import Wanted, terms_for
from ceiba.progress import wanted_progress
from ceiba.query import Query, Table
from ceiba.reattaching import taken_up
from ceiba.result import Result
from ceiba_protocol.disclosure.grade import disclosure_for
from ceiba_protocol.disclosure.noise import versions_digest
from ceiba_protocol.errors import (
    AgreementMismatch,
    AgreementNotActive,
    BadSignature,
    CeibaError,
    CertificateExpired,
    GradeForbids,
    ManifestMismatch,
    NoAgreement,
    NotAgreed,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.explaining import Asked, Book, explain
from ceiba_protocol.explanation import Explanation
from ceiba_protocol.joining import renew, successor
from ceiba_protocol.rounds import check_noise, make_manifest
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Manifest, NoiseTerms, Offer
from ceiba_protocol.trust.roster import Role, RosterTable
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.catalogue_pb2 import ListRequest, TableEntry
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import GetRosterRequest
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub
from ceiba_protocol.wire import from_rpc_error, secure_channel

if TYPE_CHECKING:
    from ceiba.joins import Join
    from ceiba.joint_jobs import JointJob
    from ceiba.scoring import Feature, RegisteredModel

CALL_SECONDS = 30.0
DEADLINE_SECONDS = 120
Found = TypeVar("Found")
Versions = Mapping[str, str]
"""Holder → the version of its dataset to use, or the beginning of it."""


def connect(
    address: str | None = None, identity: str | Path = "~/.ceiba", *, passphrase: str | bytes | None = None
) -> Space:
    """Connect to a space with the identity in a folder that `ceiba init` made.

    >>> space = ceiba.connect("coordinator.example:7443", identity="~/.ceiba/bank-a")

    `address` is the coordinator's host:port, by default the one in the join token. `passphrase` opens the keys; without
    it, it is taken from CEIBA_PASSPHRASE_FILE or CEIBA_PASSPHRASE, or asked for on a terminal. A certificate that ends
    within 30 days is renewed first, and saved; a newer roster that enough of its signers approved is pinned. Raises
    BadIdentity, PassphraseNeeded, BadPassphrase, RosterNotPinned, RosterMismatch, NotReachable, CertificateExpired.
    """
    home = Home(identity, passphrase.encode() if isinstance(passphrase, str) else passphrase)
    _renew(home, address)
    space = Space(home, address)
    try:
        space.take_up_roster()
        space.catalogue()
    except BaseException:
        space.close()
        raise
    return space


def _renew(home: Home, address: str | None) -> None:
    """Renew the certificate of the folder's identity if due. What fails, short of its end, is tried the next time."""
    identity = home.identity()
    try:
        renewed = renew(identity, datetime.now(UTC), address)
        if renewed is not None:
            home.save_identity(renewed)
    except CertificateExpired:
        raise
    except (CeibaError, OSError) as error:
        warnings.warn(f"The certificate of {identity.name} could not be renewed: {error}", stacklevel=3)


class Space:
    """A merchant's view of a space. Use it as a context manager, or `close` it."""

    def __init__(self, home: Home, address: str | None = None) -> None:
        self.home = home
        self.identity = home.identity()
        self.roster = home.roster()
        self.address = address or self.identity.coordinator
        self.channel = secure_channel(self.address, self.identity)
        self.agreements = Agreements(self)
        """What was agreed with whom: `space.agreements()`, `space.agreements.propose(...)`."""
        self._catalogue = CatalogueStub(self.channel)
        self._directory = DirectoryStub(self.channel)
        self._schemas: dict[str, Schema] = {}

    def close(self) -> None:
        self.channel.close()

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
        return self.with_newest_roster(lambda: Catalogue([self._checked(entry) for entry in self._entries()]))

    def entry(self, table: str) -> CatalogueEntry:
        """What the catalogue has of one table. Raises UnknownTable, NotReachable."""
        self.roster.table(table)
        return next(self._checked(entry) for entry in self._entries() if entry.table == table)

    def table(self, name: str, version: Versions | None = None) -> Table:
        """A table to ask questions of: the union of all its holders' datasets.

        >>> heart = space.table("health.heart")
        >>> then = space.table("health.heart", version={"cleveland": "3f2a91"})

        Raises UnknownTable, which names the nearest one, and DatasetMissing before its schema is known.
        """
        entry = self.with_newest_roster(lambda: self.entry(name))
        return Table(entry.required_schema(), Pinned(self, dict(version)) if version else self)

    def join(
        self,
        *tables: str,
        on: str | Mapping[str, str],
        holder: Mapping[str, str] | None = None,
        version: Versions | None = None,
        reveal: bool = False,
    ) -> Join:
        """Tables that different holders have about the same subjects, to ask what these have in common.

        >>> firms = space.join("tax.firms", "insurance.firms", on="uscc")
        >>> firms.group_by("industry").agg(ceiba.mean("wages")).to_pandas()

        `on`: the identifier by which subjects are the same, or {table: identifier} where it has several names.
        `holder`: {table: holder} where several have a table. `version`: as of `table`. Nobody learns which subjects two
        holders have in common. With `reveal`, figures are of the subjects that all tables have, and each holder learns
        which of its own these are; the agreement has to allow it. Raises UnknownTable, SeveralHolders,
        NotAnIdentifier, BadQuestion, DatasetMissing.
        """
        from ceiba.joining import join

        return self.with_newest_roster(lambda: join(self, tables, on, holder or {}, version or {}, reveal=reveal))

    def register_model(
        self, features: Iterable[Feature], *, on: str | Mapping[str, str], **options: Any
    ) -> RegisteredModel:
        """A scoring model: points for the bins of features that different holders have, encrypted under this merchant's
        key, so that no holder sees them. It is sent to the holders, each of whom approves or refuses it once.

        >>> model = space.register_model([Feature("tax.firms", "industry", points), ...], on="uscc").wait()
        >>> model.score(consent, "91110000802100433B").points

        `on`: the identifier by which a subject is found, or {table: identifier}. Options: `base`, points that everybody
        has; `product=True` shows the points to the holders, who can then give up to `reasons` of them each for a score;
        `agreement`, `purpose`, `holder` as of `submit` and `join`; `days` until it ends; `bits` of a score, else as few
        as the points take: a private score has at most half as many as its bins say together.
        Raises ScoreSaysTooMuch, BadScoreModel, BadQuestion, NoAgreement, NotAgreed, NotAnIdentifier, SeveralHolders.
        """
        from ceiba.scoring import register

        wanted = list(features)
        return self.with_newest_roster(lambda: register(self, wanted, on=on, **options))

    def score_model(self, beginning: str) -> RegisteredModel:
        """A model that this folder has registered, perhaps in another process, by its digest or its first digits.
        Raises UnknownScoreModel."""
        from ceiba.scoring import reattach

        return reattach(self, beginning)

    def sql(self, text: str, parameters: Sequence[object] | None = None) -> Query:
        """A question in SQL, ready to be asked: `space.sql("SELECT ...").to_pandas()`.

        `parameters`: a value for each `?` in it, as in `space.sql("SELECT ... WHERE age > ?", [50])`; they are never
        read as SQL.

        Raises BadSQL, UnsupportedSQL (with the place), UnknownTable, UnknownColumn and the other errors of a query.
        """
        from ceiba.sql import parse

        schemas: dict[str, Schema] = {}

        def schema_of(table: str) -> Schema:
            schemas[table] = self.table(table).schema
            return schemas[table]

        plan, presentation = parse(text, schema_of, parameters)
        return Query(schemas[plan.table], self, plan, presentation)

    # --- asking (what `Query.run`, `submit` and `explain` call)

    def run(self, query: Query, **options: Any) -> Result:
        """Ask and wait; options as for `submit`, and `progress`: True, False, or None for a terminal or notebook."""
        progress = options.pop("progress", None)
        return self.submit(query, **options).wait(wanted_progress(progress))

    def submit(
        self,
        query: Query,
        *,
        agreement: AgreementHandle | str | None = None,
        deadline: float | timedelta = DEADLINE_SECONDS,
        purpose: str | None = None,
        version: Versions | None = None,
        noise: Wanted = None,
    ) -> Job:
        """Ask without waiting, under an agreement: the named one (or the first digits of its id), else the active one
        that covers the question with the fewest columns, for that purpose if one is given.

        `noise`: a `ceiba.Noise`, True for the default one, False for exact figures; else what the agreement demands.
        `deadline`: seconds until the job ends even if a holder has not answered. Every job takes one of the agreement's
        numbers, also if it fails. Raises NoAgreement, NotAgreed, AgreementNotActive, UnknownAgreement, DatasetMissing.
        """
        started = time.time()
        seconds = max(1, int(deadline.total_seconds() if isinstance(deadline, timedelta) else deadline))
        signed, agreed = self.with_newest_roster(
            lambda: self._manifest(query, self._wish(query, seconds, purpose), agreement, version or {}, noise)
        )
        job = Job(self, query, signed, agreed, started)
        self.home.keep_job(keep(query, job.manifest, signed, agreed))
        try:
            job.send()
        except KeyboardInterrupt:
            job.abandon()
            raise
        return job

    def job(self, beginning: str) -> Job | AnalysisJob[Any] | JointJob[Any]:
        """A job that this folder has asked, perhaps in another process, by its id or the id's first digits.

        >>> space.job("f0618a39").wait()

        Of an analysis it gives the same outcome, if its arguments were plain values; if some were terms, a result that
        says how to finish it. Raises UnknownJob unless it is exactly one, and AgreementMismatch if a party has other
        keys since.
        """
        job = self.plain_job(beginning)
        if not isinstance(job, Job):
            return job
        analysis = taken_up(job.query, lambda condition: Table(job.query.schema, self, condition))
        if analysis is not None:
            return AnalysisJob(job, analysis.finish)
        job.remarks = () if job.query.analysis is None else (job.query.analysis.note,)
        return job

    def plain_job(self, beginning: str) -> Job | JointJob[Any]:
        """The same without what an analysis makes of it. Raises what `job` does."""
        kept = self.home.kept_job(beginning)
        if (joint := kept.join) is not None:
            from ceiba.joint_jobs import taken_up_jointly

            return self.with_newest_roster(lambda: taken_up_jointly(self, kept, joint))
        query, signed, agreement = asked(kept, self)
        return self.with_newest_roster(lambda: Job(self, query, signed, agreement, kept.at))

    def jobs(self, newest: int = 20) -> JobList:
        """The newest of the jobs that this folder has asked in the last year; shows itself as a table, with states."""
        kept = self.home.kept_jobs()
        return JobList(self, kept[:newest], max(0, len(kept) - newest))

    def _manifest(
        self, query: Query, wish: Wish, named: AgreementHandle | str | None, version: Versions, noise: Wanted
    ) -> tuple[Signed, Agreement]:
        """The signed manifest, and the agreement that it cites."""
        agreement = self.agreements.choose(wish, named).agreement
        terms = terms_for(_wanted(noise, query), agreement.disclosure)
        check_noise(terms, agreement)
        manifest = make_manifest(
            job_id=secrets.token_hex(16),
            number=1,
            agreement=agreement,
            merchant=self.identity.descriptor,
            plan=query.plan(),
            schema=query.schema,
            offers=self.entry(query.plan().table).offers(version).values(),
            now=wish.now,
            seconds=wish.until - wish.now,
            noise=terms,
        )
        # The number comes last, so that what cannot be asked uses up none.
        numbered = manifest.model_copy(update={"number": self.home.next_number(agreement)})
        self.home.note_asked(_asked_job(numbered))
        return sign(numbered, self.identity.name, self.identity.signing_key), agreement

    def _wish(self, query: Query, seconds: int, purpose: str | None) -> Wish:
        now = int(time.time())
        return Wish(query.plan(), now, now + seconds, purpose)

    def explain(
        self,
        query: Query,
        *,
        agreement: AgreementHandle | str | None = None,
        purpose: str | None = None,
        version: Versions | None = None,
        noise: Wanted = None,
    ) -> Explanation:
        """Who would see what, under which agreement, what would be withheld, what refuses it, and what it costs by this
        folder's own count. Asks nothing; options as for `submit`."""
        wish = self._wish(query, DEADLINE_SECONDS, purpose)
        return self.with_newest_roster(lambda: self._explain(query, wish, agreement, version or {}, noise))

    def _explain(
        self, query: Query, wish: Wish, named: AgreementHandle | str | None, version: Versions, noise: Wanted
    ) -> Explanation:
        offers = self.entry(query.plan().table).offers(version)
        try:
            agreement: Agreement | CeibaError = self.agreements.choose(wish, named).agreement
        except (NoAgreement, NotAgreed, AgreementNotActive) as error:
            agreement = error
        key = self.identity.descriptor.encryption_key
        assert key is not None
        asked = Asked(
            plan=query.plan(),
            schema=query.schema,
            capacities={holder: offer.row_capacity for holder, offer in offers.items()},
            key_bits=key.n.bit_length(),
            noise=_terms(noise, query, agreement),
            agreement=agreement,
        )
        return explain(asked, self._book(agreement, wish, offers))

    def _book(self, agreement: Agreement | CeibaError, wish: Wish, offers: Mapping[str, Offer]) -> Book:
        """What this folder knows of earlier jobs; other folders of the same merchant have their own."""
        agreed = agreement if isinstance(agreement, Agreement) else None
        names = agreed.holder_names if agreed else tuple(offers)
        versions = versions_digest({name: offers[name].version for name in names if name in offers}).hex()
        table = wish.plan.table
        return Book(
            whose="by this folder's own count",
            jobs=self.home.jobs_asked(agreed) if agreed else 0,
            spent=self.home.spent(table, wish.now),
            exact=self.home.exact_asked(table, versions),
        )

    # --- the roster

    def take_up_roster(self) -> bool:
        """Pin the newest roster if enough signers of the pinned one have approved it; whether there was one.

        Raises RosterMismatch, NotReachable.
        """
        try:
            received = self._directory.GetRoster(GetRosterRequest(), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from None
        roster = successor(self.identity, self.roster, received)
        if roster is not None:
            self.home.pin(roster)
            self.roster = roster
        return roster is not None

    def with_newest_roster(self, step: Callable[[], Found]) -> Found:
        """A step that asks and checks; once more under a newer roster if the pinned one does not fit what it met."""
        try:
            return step()
        except (UnknownMember, UnknownTable, BadSignature, ManifestMismatch, AgreementMismatch, NoAgreement):
            if not self.take_up_roster():
                raise
        return step()

    # --- the catalogue, checked

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


def _terms(noise: Wanted, query: Query, agreement: Agreement | CeibaError) -> NoiseTerms | None:
    """As `submit` would ask; without an agreement, by the least that the columns' grades demand."""
    wanted = _wanted(noise, query)
    if isinstance(agreement, Agreement):
        return terms_for(wanted, agreement.disclosure)
    try:
        return terms_for(wanted, disclosure_for(query.plan().columns, query.schema))
    except GradeForbids:
        return None


def _wanted(noise: Wanted, query: Query) -> Wanted:
    """A fit is exact, and says so by itself: its iterates have no noise."""
    return False if noise is None and query.program.fit is not None else noise


def _asked_job(manifest: Manifest) -> AskedJob:
    return AskedJob(
        at=manifest.not_before,
        agreement=manifest.agreement_digest,
        table=manifest.plan.table,
        versions=versions_digest(manifest.versions).hex(),
        rho=manifest.noise.rho if manifest.noise else None,
    )


@dataclass(frozen=True)
class Pinned:
    """Asks a space for given versions of the holders' datasets."""

    space: Space
    versions: dict[str, str]

    def run(self, query: Query, **options: Any) -> Result:
        return self.space.run(query, version=self.versions, **options)

    def submit(self, query: Query, **options: Any) -> Job:
        return self.space.submit(query, version=self.versions, **options)

    def explain(self, query: Query, **options: Any) -> Explanation:
        return self.space.explain(query, version=self.versions, **options)
