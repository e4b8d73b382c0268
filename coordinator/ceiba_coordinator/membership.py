"""Who is in the space: invitations, enrolment, the roster, and what its holders offer."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from ceiba_coordinator.store.database import Store
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadCertificateRequest,
    BadJoinToken,
    DatasetMissing,
    ManifestMismatch,
    RosterMismatch,
    RosterNotPinned,
    UnknownMember,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.key_proof import verify_key
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.certificates import (
    CertificateName,
    KeyAndCertificate,
    certificate_fingerprint,
    issue_member,
    request_fingerprint,
)
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.identity import JoinToken
from ceiba_protocol.trust.roster import Descriptor, Role, Roster, RosterTable, check_roster
from ceiba_protocol.trust.signing import open_signed
from ceiba_protocol.v1.catalogue_pb2 import ListResponse, TableEntry
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import EnrolRequest, EnrolResponse

TOKEN_SECONDS = 24 * 3600


class Membership:
    """The members of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(self, store: Store, space: str, authority: KeyAndCertificate, clock: Callable[[], int]) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._store = store
        self._space = space
        self._authority = authority
        self._clock = clock
        self._roster: Roster | None = None
        self._schemas: dict[str, Schema] = {}

    # --- enrolment

    def invite(
        self, name: str, role: Role, organisation: str, *, address: str, enrolment: str, random: Random
    ) -> JoinToken:
        """A join token for one new member, good once and for 24 hours."""
        token = JoinToken(
            space=self._space,
            name=name,
            role=role,
            organisation=organisation,
            secret=random(16).hex(),
            coordinator=address,
            enrolment=enrolment,
            authority=self._authority.certificate.decode(),
        )
        self._store.add_invitation(
            token_hash=_token_hash(bytes.fromhex(token.secret)),
            name=name,
            role=role,
            organisation=organisation,
            expires_at=self._clock() + TOKEN_SECONDS,
        )
        return token

    def enrol(self, request: EnrolRequest) -> EnrolResponse:
        """Admit a new member. The same token with the same keys again returns the same certificate.

        Raises BadJoinToken, BadCertificateRequest, BadSignature, MalformedDocument, KeyTooShort, BadKeyProof.
        """
        token_hash = _token_hash(request.token)
        descriptor, fingerprint = self._admissible(request, token_hash)
        member = self._store.member(descriptor.name)
        if member is None:
            certificate = self._issue(request.certificate_request, descriptor.role, descriptor.name)
            with self._store.transaction():
                self._store.use_invitation(token_hash, fingerprint)
                self._store.add_member(
                    name=descriptor.name,
                    role=descriptor.role,
                    descriptor=request.descriptor.SerializeToString(),
                    tls_fingerprint=fingerprint,
                    certificate=certificate,
                )
        elif member.tls_fingerprint == fingerprint:
            certificate = member.certificate
        else:
            raise BadJoinToken(problem=f"there is a member called {descriptor.name} already")
        return EnrolResponse(certificate=certificate, authority=self._authority.certificate)

    def _admissible(self, request: EnrolRequest, token_hash: str) -> tuple[Descriptor, Digest]:
        """The newcomer's descriptor and TLS fingerprint, once token, request and keys fit each other."""
        invitation = self._store.invitation(token_hash)
        if invitation is None or invitation.expires_at < self._clock():
            raise BadJoinToken(problem="it is unknown or has expired")
        descriptor = _self_signed(request.descriptor)
        invited = (invitation.name, invitation.role, invitation.organisation)
        if (descriptor.name, descriptor.role, descriptor.organisation) != invited:
            raise BadJoinToken(problem="it is for another member")
        fingerprint = request_fingerprint(request.certificate_request)
        if descriptor.tls_fingerprint != fingerprint:
            raise BadCertificateRequest(problem="its key is not the one in the descriptor")
        if invitation.used_by not in (None, fingerprint):
            raise BadJoinToken(problem="it has been used")
        if descriptor.encryption_key is not None:
            # One merchant with a malformed key would keep everybody from pinning the next roster.
            key = descriptor.encryption_key
            verify_key(key.n, bytes.fromhex(key.proof), descriptor.key_context())
        return descriptor, fingerprint

    def renew(self, certificate_request: bytes, name: str) -> bytes:
        """A later certificate, PEM, for the caller's same name and key; any number of times.

        Raises UnknownMember if it was removed, BadCertificateRequest if the request is for another key.
        """
        member = self._store.member(name)
        if member is None:
            raise UnknownMember(member=name, role="member")
        if request_fingerprint(certificate_request) != member.tls_fingerprint:
            raise BadCertificateRequest(problem="its key is not the one that the member enrolled with")
        certificate = self._issue(certificate_request, member.role, member.name)
        self._store.set_certificate(name, certificate)
        return certificate

    def _issue(self, certificate_request: bytes, role: str, name: str) -> bytes:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return issue_member(self._authority, certificate_request, CertificateName(self._space, role, name), now)

    def remove(self, name: str) -> None:
        """Forget a member, so that the next roster is made without it and its name can be invited again.

        Its certificate opens nothing from now on; the roster that names it stays pinned until members pin the next.
        Raises UnknownMember.
        """
        if self._store.member(name) is None:
            raise UnknownMember(member=name, role="member")
        self._store.remove_member(name)

    def is_enrolled(self, name: str, role: str, tls_fingerprint: str) -> bool:
        """Whether a certificate's name, role and key are a member's. A certificate alone admits nobody."""
        member = self._store.member(name)
        return member is not None and (member.role, member.tls_fingerprint) == (role, tls_fingerprint)

    def enrolled(self) -> tuple[Descriptor, ...]:
        """Every member's descriptor, sorted by name."""
        return tuple(_self_signed(signed) for signed in self._store.descriptors())

    # --- the roster

    def propose_roster(self, tables: list[tuple[Schema, list[str]]]) -> Roster:
        """The next roster from all enrolled members and the given tables, each with its holders; stored.

        Raises RosterMismatch, TooFewHolders, UnknownMember, BadKeyProof.
        """
        newest = self.newest_roster()
        members = self.enrolled()
        if not members:
            raise RosterMismatch(problem="nobody has enrolled yet")
        roster = Roster(
            space=self._space,
            version=1 if newest is None else newest.version + 1,
            authority_fingerprint=certificate_fingerprint(self._authority.certificate),
            members=members,
            tables=tuple(
                RosterTable(table=schema.table, schema_digest=schema.digest(), holders=tuple(sorted(holders)))
                for schema, holders in tables
            ),
        )
        check_roster(roster, members[0])
        with self._store.transaction():
            self._store.add_roster(roster.version, roster.body())
            for schema, _ in tables:
                self._store.put_schema(schema.digest(), schema.body())
        return roster

    def roster(self) -> Roster:
        """The newest roster. Raises RosterNotPinned before there is one."""
        roster = self.newest_roster()
        if roster is None:
            raise RosterNotPinned(command="ceiba-coordinator roster")
        return roster

    def newest_roster(self) -> Roster | None:
        """As in the database, which the command line writes too; None before there is one."""
        version = self._store.newest_roster_version()
        if version is not None and (self._roster is None or self._roster.version != version):
            self._roster, self._schemas = Roster.parse(self._store.roster(version)), {}
        return self._roster

    def schema(self, table: str) -> Schema:
        """The schema of a table of the roster. Raises UnknownTable, DatasetMissing if no member has sent it yet."""
        entry = self.roster().table(table)
        if table not in self._schemas:
            body = self._store.schema(entry.schema_digest)
            if body is None:
                raise DatasetMissing(holders=", ".join(entry.holders), table=table)
            self._schemas[table] = Schema.parse(body)
        return self._schemas[table]

    # --- the catalogue

    def announce(self, signed: Signed, schema: bytes, holder: str) -> None:
        """Store a holder's offer. Raises BadSignature, ManifestMismatch, UnknownTable, UnknownMember."""
        roster = self.roster()
        offer = roster.open(signed, Offer, Role.HOLDER)
        table = roster.table(offer.table)
        if not offer.holder == signed.signer == holder or holder not in table.holders:
            raise UnknownMember(member=holder, role=f"holder of {offer.table}")
        if offer.schema_digest != table.schema_digest:
            raise ManifestMismatch(problem=f"the offer's schema is not the roster's for {offer.table}")
        Schema.parse_pinned(schema, table.schema_digest)
        with self._store.transaction():
            self._store.put_schema(offer.schema_digest, schema)
            self._store.put_offer(offer.table, holder, offer.version, signed.SerializeToString())

    def catalogue(self, online: set[str]) -> ListResponse:
        entries = [
            TableEntry(
                table=table.table,
                schema=self._store.schema(table.schema_digest) or b"",
                offers=self._store.offers(table.table),
                online=sorted(online.intersection(table.holders)),
            )
            for table in sorted(self.roster().tables, key=lambda table: table.table)
        ]
        return ListResponse(tables=entries)


def _token_hash(secret: bytes) -> Digest:
    return Digest(hashlib.sha256(secret).hexdigest())


def _self_signed(signed: Signed) -> Descriptor:
    """A descriptor, signed with the key that it describes. Raises BadSignature, MalformedDocument."""
    unverified = Descriptor.parse(signed.body)
    return open_signed(signed, Descriptor, unverified.public_key)
