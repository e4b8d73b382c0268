"""Invitations, enrolment, rosters and offers: what an impostor, a thief of tokens or a lying holder can try."""

import base64
import hashlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import TOKEN_SECONDS, Membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_coordinator.store.members import OFFERS_KEPT
from ceiba_protocol.canonical import Digest, digest
from ceiba_protocol.errors import (
    BadCertificateRequest,
    BadCommand,
    BadJoinToken,
    BadKeyProof,
    BadSignature,
    CeibaError,
    DatasetMissing,
    KeyTooShort,
    MalformedDocument,
    MalformedMessage,
    ManifestMismatch,
    RosterMismatch,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.trust.certificates import (
    CertificateName,
    certificate_fingerprint,
    expires_at,
    key_fingerprint,
    make_authority,
    make_request,
    new_key,
    read_member_certificate,
)
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.identity import JoinToken
from ceiba_protocol.trust.roster import Descriptor, Role, Roster, approval_of
from ceiba_protocol.v1.enrolment_pb2 import EnrolRequest, EnrolResponse
from tests.support.members import (
    HOLDERS,
    LOG_KEY,
    MERCHANT,
    NOW,
    SCHEMA,
    changed,
    encryption_key,
    holder,
    merchant,
    signed_by,
)
from tests.support.seeded import seeded

DAY = 24 * 3600
AUTHORITY = make_authority("test-space", datetime.fromtimestamp(NOW, UTC))


class Newcomer:
    """Somebody with keys who asks to be enrolled."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.key = new_key()
        self.descriptor = changed(descriptor, tls_fingerprint=key_fingerprint(self.key))

    def request(self, token: JoinToken, /, **changes: Any) -> EnrolRequest:
        fields = {
            "token": bytes.fromhex(token.secret),
            "certificate_request": make_request(self.key),
            "descriptor": signed_by(self.descriptor.name, self.descriptor),
        }
        return EnrolRequest(**(fields | changes))


class Office:
    """A membership with its database file, and the operator's commands."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.path = path
        self.store = Store(open_engine(f"sqlite:///{path}"))
        log = Log(self.store, "test-space", LOG_KEY, lambda: self.now)
        self.membership = Membership(self.store, "test-space", AUTHORITY, log, lambda: self.now)
        self._random = seeded("tokens")

    def invite(self, name: str, role: Role = Role.HOLDER, organisation: str | None = None) -> JoinToken:
        return self.membership.invite(
            name, role, organisation or name, address="a:1", enrolment="a:2", random=self._random
        )

    def enrol(self, newcomer: Newcomer) -> EnrolResponse:
        described = newcomer.descriptor
        token = self.invite(described.name, described.role, described.organisation)
        return self.membership.enrol(newcomer.request(token))

    def enrol_everybody(self) -> None:
        for descriptor in (merchant(bits=3072), *map(holder, HOLDERS)):
            self.enrol(Newcomer(descriptor))

    def put_in_force(self, holders: list[str]) -> Roster:
        """A roster, approved by all who may."""
        roster = self.membership.propose_roster([(SCHEMA, holders)])
        for name in roster.signers:
            self.membership.approve_roster(signed_by(name, approval_of(roster, name)), name)
        return roster

    def offer(self, name: str, **changes: Any) -> tuple[Any, bytes, str]:
        fields: dict[str, Any] = {
            "table": "health.heart",
            "schema_digest": SCHEMA.digest(),
            "holder": name,
            "version": digest("version"),
            "row_capacity": 4,
            "published_at": NOW,
        }
        return signed_by(name, Offer(**(fields | changes))), SCHEMA.body(), name

    def files(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.path.parent.glob(f"{self.path.name}*"))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "coordinator.sqlite3")


def refused(office: Office, request: EnrolRequest, error: type[CeibaError]) -> None:
    """Refused, and nobody has joined by it."""
    members = office.store.descriptors()
    with pytest.raises(error):
        office.membership.enrol(request)
    assert office.store.descriptors() == members


# --- enrolment ---------------------------------------------------------------------------------------------------


def test_newcomer_gets_a_certificate_for_its_name_and_key(office: Office) -> None:
    newcomer = Newcomer(holder("cleveland"))
    response = office.enrol(newcomer)
    name = CertificateName("test-space", "holder", "cleveland")
    assert read_member_certificate(response.certificate) == (name, newcomer.descriptor.tls_fingerprint)
    assert response.authority == AUTHORITY.certificate
    assert office.membership.is_enrolled("cleveland", "holder", newcomer.descriptor.tls_fingerprint)


def test_certificate_is_good_for_ninety_days(office: Office) -> None:
    response = office.enrol(Newcomer(holder("cleveland")))
    assert expires_at(response.certificate) == datetime.fromtimestamp(NOW, UTC) + timedelta(days=90)


def test_same_token_and_keys_again_give_the_same_certificate(office: Office) -> None:
    newcomer, token = Newcomer(holder("cleveland")), office.invite("cleveland")
    responses = [office.membership.enrol(newcomer.request(token)) for _ in range(2)]
    assert responses[0] == responses[1]


def test_used_token_admits_nobody_else(office: Office) -> None:
    token = office.invite("cleveland")
    office.membership.enrol(Newcomer(holder("cleveland")).request(token))
    refused(office, Newcomer(holder("cleveland")).request(token), BadJoinToken)


def test_second_invitation_does_not_replace_a_member(office: Office) -> None:
    """The operator, or a thief of its machine, cannot give a member's name to other keys."""
    office.enrol(Newcomer(holder("cleveland")))
    refused(office, Newcomer(holder("cleveland")).request(office.invite("cleveland")), BadJoinToken)


def test_token_expires_after_a_day(office: Office) -> None:
    newcomer, token = Newcomer(holder("cleveland")), office.invite("cleveland")
    office.now = NOW + TOKEN_SECONDS + 1
    refused(office, newcomer.request(token), BadJoinToken)
    office.now = NOW + TOKEN_SECONDS
    assert office.membership.enrol(newcomer.request(token)).certificate


@pytest.mark.parametrize("secret", [b"", bytes(16), b"\xff" * 16, b"x" * 10_000])
def test_invented_token_is_refused(office: Office, secret: bytes) -> None:
    token = office.invite("cleveland")
    refused(office, Newcomer(holder("cleveland")).request(token, token=secret), BadJoinToken)


def test_part_of_a_token_is_refused(office: Office) -> None:
    token = office.invite("cleveland")
    secret = bytes.fromhex(token.secret)
    for part in (secret[:-1], secret + bytes(1), token.secret.encode()):
        refused(office, Newcomer(holder("cleveland")).request(token, token=part), BadJoinToken)


def test_only_a_hash_of_the_token_is_stored(office: Office) -> None:
    token = office.invite("cleveland")
    office.membership.enrol(Newcomer(holder("cleveland")).request(token))
    secret, files = bytes.fromhex(token.secret), office.files()
    assert digest_of(secret) in files  # the search would find it
    for form in (secret, token.secret.encode(), base64.b64encode(secret)[:20], base64.urlsafe_b64encode(secret)[:20]):
        assert form not in files


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).hexdigest().encode()


def test_a_stolen_database_admits_nobody(office: Office) -> None:
    token = office.invite("cleveland")
    with sqlite3.connect(office.path) as database:
        ((stored,),) = database.execute("SELECT token_hash FROM invitations").fetchall()
    refused(office, Newcomer(holder("cleveland")).request(token, token=bytes.fromhex(stored)), BadJoinToken)


@pytest.mark.parametrize(
    "described",
    [holder("hungary"), merchant("cleveland", 3072), holder("cleveland", organisation="somebody else")],
    ids=["name", "role", "organisation"],
)
def test_token_is_for_one_name_role_and_organisation(office: Office, described: Descriptor) -> None:
    token = office.invite("cleveland")
    refused(office, Newcomer(described).request(token), BadJoinToken)


def test_token_survives_a_failed_try(office: Office) -> None:
    newcomer, token = Newcomer(holder("cleveland")), office.invite("cleveland")
    refused(office, newcomer.request(token, certificate_request=b""), BadCertificateRequest)
    assert office.membership.enrol(newcomer.request(token)).certificate


# --- descriptors -------------------------------------------------------------------------------------------------


def test_descriptor_must_be_signed_with_its_own_key(office: Office) -> None:
    newcomer = Newcomer(holder("cleveland"))
    stolen = changed(newcomer.descriptor, signing_key=holder("hungary").signing_key)
    refused(
        office, newcomer.request(office.invite("cleveland"), descriptor=signed_by("cleveland", stolen)), BadSignature
    )


def test_other_document_is_no_descriptor(office: Office) -> None:
    newcomer, token = Newcomer(holder("cleveland")), office.invite("cleveland")
    offer = office.offer("cleveland")[0]
    refused(office, newcomer.request(token, descriptor=offer), MalformedDocument)
    named = signed_by("cleveland", newcomer.descriptor)
    named.type = "ceiba.v1.Offer"
    refused(office, newcomer.request(token, descriptor=named), MalformedMessage)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (encryption_key(MERCHANT, 2048), KeyTooShort),
        (encryption_key("bank-b", 3072), BadKeyProof),
        (changed(encryption_key(MERCHANT, 3072), proof="00" * 3456), BadKeyProof),
    ],
    ids=["short key", "another's proof", "no proof"],
)
def test_merchant_without_a_good_key_is_not_admitted(office: Office, key: Any, error: type[CeibaError]) -> None:
    """Admitted, it would spoil every roster to come, because rosters list all members."""
    newcomer = Newcomer(merchant(MERCHANT, 3072, encryption_key=key))
    refused(office, newcomer.request(office.invite(MERCHANT, Role.MERCHANT)), error)


# --- certificate requests ----------------------------------------------------------------------------------------


def request_by(key: Any, name: str = "", **extensions: Any) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions.values():
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def forged_request(newcomer: Newcomer) -> bytes:
    """A request whose signature is of another request for the same key."""
    der = bytearray(x509.load_pem_x509_csr(make_request(newcomer.key)).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


REQUESTS: dict[str, Any] = {
    "empty": lambda newcomer: b"",
    "garbage": lambda newcomer: b"\xff" * 300,
    "truncated": lambda newcomer: make_request(newcomer.key)[:-60],
    "a certificate": lambda newcomer: AUTHORITY.certificate,
    "a private key": lambda newcomer: newcomer.key,
    "RSA": lambda newcomer: request_by(rsa.generate_private_key(65537, 2048)),
    "Ed25519": lambda newcomer: request_by(ed25519.Ed25519PrivateKey.generate()),
    "P-384": lambda newcomer: request_by(ec.generate_private_key(ec.SECP384R1())),
    "another P-256 key": lambda newcomer: make_request(new_key()),
    "wrong signature": forged_request,
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_bad_certificate_request_is_refused(office: Office, kind: str) -> None:
    newcomer = Newcomer(holder("cleveland"))
    request = newcomer.request(office.invite("cleveland"), certificate_request=REQUESTS[kind](newcomer))
    refused(office, request, BadCertificateRequest)


def test_names_and_powers_in_the_request_are_ignored(office: Office) -> None:
    newcomer = Newcomer(holder("cleveland"))
    key = ec.generate_private_key(ec.SECP256R1())
    newcomer.descriptor = changed(newcomer.descriptor, tls_fingerprint=fingerprint_of(key))
    uris = [x509.UniformResourceIdentifier("ceiba://test-space/coordinator/coordinator"), x509.DNSName("coordinator")]
    wish = request_by(
        key,
        name="bank-a",
        names=x509.SubjectAlternativeName(uris),
        authority=x509.BasicConstraints(ca=True, path_length=None),
    )
    response = office.membership.enrol(newcomer.request(office.invite("cleveland"), certificate_request=wish))
    certificate = x509.load_pem_x509_certificate(response.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["ceiba://test-space/holder/cleveland"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def fingerprint_of(key: ec.EllipticCurvePrivateKey) -> Digest:
    return key_fingerprint(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


# --- renewal -----------------------------------------------------------------------------------------------------


def enrolled(office: Office, name: str = "cleveland") -> Newcomer:
    newcomer = Newcomer(holder(name))
    office.enrol(newcomer)
    return newcomer


def test_renewed_certificate_has_the_same_name_and_key_and_ends_later(office: Office) -> None:
    member = enrolled(office)
    office.now = NOW + 61 * DAY
    certificate = office.membership.renew(make_request(member.key), "cleveland")
    name = CertificateName("test-space", "holder", "cleveland")
    assert read_member_certificate(certificate) == (name, member.descriptor.tls_fingerprint)
    assert expires_at(certificate) == datetime.fromtimestamp(NOW, UTC) + timedelta(days=61 + 90)
    stored = office.store.member("cleveland")
    assert stored is not None and stored.certificate == certificate
    assert office.membership.is_enrolled("cleveland", "holder", member.descriptor.tls_fingerprint)


def not_renewed(office: Office, error: type[CeibaError], request: bytes, name: str = "cleveland") -> None:
    """Refused, and everybody's stored certificate is what it was."""
    with office.store.transaction() as connection:
        before = connection.exec_driver_sql("SELECT name, certificate FROM members").all()
    with pytest.raises(error):
        office.membership.renew(request, name)
    with office.store.transaction() as connection:
        assert connection.exec_driver_sql("SELECT name, certificate FROM members").all() == before


@pytest.mark.parametrize("kind", REQUESTS)
def test_bad_request_does_not_renew(office: Office, kind: str) -> None:
    not_renewed(office, BadCertificateRequest, REQUESTS[kind](enrolled(office)))


def test_another_members_request_does_not_renew(office: Office) -> None:
    other = enrolled(office, "hungary")
    enrolled(office)
    not_renewed(office, BadCertificateRequest, make_request(other.key))


def test_removed_member_and_stranger_cannot_renew(office: Office) -> None:
    member = enrolled(office)
    office.membership.remove("cleveland")
    not_renewed(office, UnknownMember, make_request(member.key))
    not_renewed(office, UnknownMember, make_request(member.key), "nobody")


def test_removed_and_invited_again_the_old_key_does_not_renew(office: Office) -> None:
    before = enrolled(office)
    office.membership.remove("cleveland")
    enrolled(office)
    not_renewed(office, BadCertificateRequest, make_request(before.key))


# --- who is calling ----------------------------------------------------------------------------------------------


def test_a_name_with_another_key_or_role_is_nobody(office: Office) -> None:
    """What a certificate by the right CA is worth if the operator minted it for itself."""
    office.enrol_everybody()
    own = office.store.member("cleveland")
    assert own is not None
    assert not office.membership.is_enrolled("cleveland", "holder", key_fingerprint(new_key()))
    assert not office.membership.is_enrolled("cleveland", "merchant", own.tls_fingerprint)
    assert not office.membership.is_enrolled("hungary", "holder", own.tls_fingerprint)
    assert not office.membership.is_enrolled("nobody", "holder", own.tls_fingerprint)


# --- rosters -----------------------------------------------------------------------------------------------------


def test_roster_has_all_members_and_counts_up(office: Office) -> None:
    office.enrol_everybody()
    versions = [office.membership.propose_roster([(SCHEMA, [*HOLDERS])]) for _ in range(3)]
    assert [roster.version for roster in versions] == [1, 2, 3]
    assert office.membership.newest == versions[-1]
    assert sorted(versions[-1].by_name) == sorted([MERCHANT, *HOLDERS])
    assert versions[0].authority_fingerprint == certificate_fingerprint(AUTHORITY.certificate)


def refused_roster(office: Office, error: type[CeibaError], holders: list[str]) -> None:
    with pytest.raises(error):
        office.membership.propose_roster([(SCHEMA, holders)])
    assert office.store.newest_roster_version() is None


def test_no_roster_without_members(office: Office) -> None:
    refused_roster(office, BadCommand, [*HOLDERS])


def test_a_table_of_two_holders_is_for_joint_agreements_alone(office: Office) -> None:
    office.enrol_everybody()
    roster = office.membership.propose_roster([(SCHEMA, [*HOLDERS[:2]])])
    assert roster.tables[0].holders == tuple(sorted(HOLDERS[:2]))


def test_no_roster_with_strangers(office: Office) -> None:
    office.enrol_everybody()
    refused_roster(office, UnknownMember, [*HOLDERS, "mallory"])


def test_no_roster_with_one_organisation_twice(office: Office) -> None:
    office.enrol_everybody()
    office.enrol(Newcomer(holder("zz-top", organisation="zurich")))
    refused_roster(office, RosterMismatch, [*HOLDERS])


# --- offers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_office(office: Office) -> Office:
    office.enrol_everybody()
    office.enrol(Newcomer(holder("outsider")))
    office.put_in_force([*HOLDERS])
    return office


def test_offers_are_listed_oldest_first(open_office: Office) -> None:
    versions = [digest("version", bytes([number])) for number in range(3)]
    for version in (*versions, versions[0]):
        open_office.membership.announce(*open_office.offer("hungary", version=version))
    (entry,) = open_office.membership.catalogue({"hungary", MERCHANT}).tables
    listed = [Offer.parse(offer.body).version for offer in entry.offers]
    assert listed == [versions[1], versions[2], versions[0]]
    assert (list(entry.online), entry.schema) == (["hungary"], SCHEMA.body())


def test_old_offers_are_forgotten_holder_by_holder(open_office: Office) -> None:
    open_office.membership.announce(*open_office.offer("zurich"))
    for number in range(OFFERS_KEPT + 3):
        open_office.membership.announce(*open_office.offer("hungary", version=digest("v", bytes([number]))))
    holders = [offer.signer for offer in open_office.store.offers("health.heart")]
    assert (holders.count("zurich"), holders.count("hungary")) == (1, OFFERS_KEPT)


def refused_offer(office: Office, error: type[CeibaError], signed: Any, schema: bytes, caller: str) -> None:
    with pytest.raises(error):
        office.membership.announce(signed, schema, caller)
    assert office.store.offers("health.heart") == []


def test_offer_in_anothers_name_is_refused(open_office: Office) -> None:
    lie = signed_by("hungary", Offer.parse(open_office.offer("zurich")[0].body))
    refused_offer(open_office, UnknownMember, lie, SCHEMA.body(), "hungary")


def test_offer_brought_by_another_is_refused(open_office: Office) -> None:
    refused_offer(open_office, UnknownMember, open_office.offer("zurich")[0], SCHEMA.body(), "hungary")


def test_offer_of_a_holder_that_is_not_the_tables_is_refused(open_office: Office) -> None:
    refused_offer(open_office, UnknownMember, *open_office.offer("outsider"))


def test_offer_of_an_unknown_table_is_refused(open_office: Office) -> None:
    refused_offer(open_office, UnknownTable, *open_office.offer("zurich", table="health.lungs"))


def test_offer_with_another_schema_is_refused(open_office: Office) -> None:
    signed, _, caller = open_office.offer("zurich")
    other = changed(SCHEMA, version=2)
    refused_offer(open_office, ManifestMismatch, signed, other.body(), caller)
    signed = open_office.offer("zurich", schema_digest=other.digest())[0]
    refused_offer(open_office, ManifestMismatch, signed, other.body(), caller)
    refused_offer(open_office, ManifestMismatch, open_office.offer("zurich")[0], b"{}", caller)


def test_offer_that_another_holder_signed_is_refused(open_office: Office) -> None:
    signed = signed_by("hungary", Offer.parse(open_office.offer("zurich")[0].body))
    refused_offer(open_office, UnknownMember, signed, SCHEMA.body(), "zurich")


def test_removed_member_is_nobody(open_office: Office) -> None:
    open_office.enrol(Newcomer(holder("newcomer")))
    open_office.membership.remove("newcomer")
    assert open_office.store.member("newcomer") is None
    with pytest.raises(UnknownMember):
        open_office.membership.remove("newcomer")


def test_member_on_the_roster_in_force_is_revoked_and_not_removed(open_office: Office) -> None:
    signed, schema, caller = open_office.offer("zurich")
    open_office.membership.announce(signed, schema, caller)
    with pytest.raises(BadCommand, match="ceiba-coordinator revoke"):
        open_office.membership.remove("zurich")
    assert open_office.store.member("zurich") is not None
    open_office.membership.revoke("zurich", "a lost server")
    assert not open_office.store.offers("health.heart") and open_office.store.member("zurich") is None


def test_schema_of_a_table_without_offers_is_known_from_the_roster(open_office: Office) -> None:
    assert open_office.membership.schema("health.heart") == SCHEMA


def test_schema_that_nobody_sent_is_missing(open_office: Office) -> None:
    roster = open_office.membership.roster()
    table = changed(roster.tables[0], schema_digest=digest("another schema"))
    made = changed(roster, version=2, tables=(table,))
    open_office.store.add_roster(2, made.digest(), made.body())
    open_office.store.put_in_force(2, NOW)
    with pytest.raises(DatasetMissing):
        open_office.membership.schema("health.heart")
