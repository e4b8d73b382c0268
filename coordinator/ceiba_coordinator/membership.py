"""Who is in the space: invitations, enrolment, and what its holders offer; its rosters are in `rosters`."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from ceiba_coordinator.log import Log
from ceiba_coordinator.rosters import Rosters, read_descriptor
from ceiba_coordinator.store.database import Store
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadCertificateRequest,
    BadJoinToken,
    ManifestMismatch,
    RosterMismatch,
    UnknownMember,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.key_proof import verify_key
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.certificates import (
    CertificateName,
    KeyAndCertificate,
    issue_member,
    request_fingerprint,
)
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.identity import JoinToken
from ceiba_protocol.trust.roster import OPERATOR, Descriptor, Role
from ceiba_protocol.v1.catalogue_pb2 import ListResponse, TableEntry
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import EnrolRequest, EnrolResponse

TOKEN_SECONDS = 24 * 3600


class Membership(Rosters):
    """The members of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self, store: Store, space: str, authority: KeyAndCertificate, log: Log, clock: Callable[[], int]
    ) -> None:
        """`clock` gives seconds since 1970 UTC."""
        super().__init__(store, space, authority.certificate, log, clock)
        self._authority = authority

    # --- enrolment

    def invite(
        self, name: str, role: Role, organisation: str, *, address: str, enrolment: str, random: Random
    ) -> JoinToken:
        """A join token for one new member, good once and for 24 hours. Raises RosterMismatch for a name that is
        the operator's."""
        if name == OPERATOR:
            raise RosterMismatch(problem=f"{OPERATOR} is the operator's name in the log, and no member's")
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
        descriptor = read_descriptor(request.descriptor)
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
        """Forget a member that was never on a roster in force, so that its name can be invited again.

        Its certificate opens nothing from now on. Raises UnknownMember, and RosterMismatch for a member that the
        others know, which takes a revocation.
        """
        if self._store.member(name) is None:
            raise UnknownMember(member=name, role="member")
        if (roster := self.in_force()) is not None and name in roster.by_name:
            raise RosterMismatch(problem=f"{name} is on the roster in force; `ceiba-coordinator revoke` makes the next")
        self._store.remove_member(name)

    def is_enrolled(self, name: str, role: str, tls_fingerprint: str) -> bool:
        """Whether a certificate's name, role and key are a member's. A certificate alone admits nobody."""
        member = self._store.member(name)
        return member is not None and member.role == role and has_key(member, tls_fingerprint)

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


def has_key(member: Row[Any], tls_fingerprint: str) -> bool:
    """Whether it is the TLS key that the member enrolled with: the operator's CA could certify any."""
    return bool(member.tls_fingerprint == tls_fingerprint)


def _token_hash(secret: bytes) -> Digest:
    return Digest(hashlib.sha256(secret).hexdigest())
