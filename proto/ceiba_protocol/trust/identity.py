"""A member's identity: what `init` makes, and the join token that it starts from.

Reading and writing files is the roles' business; here an identity is bytes in and bytes out.
"""

import base64
import binascii
from enum import StrEnum
from functools import cached_property
from typing import Self

import phe

from ceiba_protocol.canonical import BigInt, Document, Hex, Hex32, MemberName, Text, sha256
from ceiba_protocol.errors import BadJoinToken, MalformedDocument, MalformedMessage, WrongKey
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.paillier import encode_modulus, generate_keypair
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.certificates import (
    CertificateName,
    certificate_fingerprint,
    expires_at,
    is_issued_by,
    key_fingerprint,
    make_request,
    new_key,
    read_member_certificate,
)
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.roster import SUITE, Descriptor, Duties, EncryptionKey, Role
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.enrolment_pb2 import EnrolRequest, EnrolResponse, RenewRequest, RenewResponse

TOKEN_PREFIX = "ceiba-join-"  # noqa: S105 - a prefix, not a secret


class JoinToken(Document):
    """What the operator gives a new member: a one-use secret, where to go, and the CA to expect there, so that
    enrolment is not trust on first use."""

    space: MemberName
    name: MemberName
    role: Role
    organisation: Text
    secret: Hex
    coordinator: Text
    """host:port of the space's services."""
    enrolment: Text
    """host:port of the enrolment service."""
    authority: str
    """The CA's certificate, PEM."""

    def encode(self) -> str:
        """One word, to be pasted."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(self.body()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises BadJoinToken."""
        encoded = text.strip().removeprefix(TOKEN_PREFIX)
        try:
            return cls.parse(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except (binascii.Error, ValueError, MalformedDocument):
            raise BadJoinToken(problem="it is incomplete or mistyped") from None

    def __repr__(self) -> str:
        return f"JoinToken(space={self.space}, name={self.name}, role={self.role})"

    __str__ = __repr__


class EncryptionSecret(Document):
    """The two primes of a merchant's Paillier key."""

    p: BigInt
    q: BigInt

    @cached_property
    def keypair(self) -> tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey]:
        public = phe.PaillierPublicKey(self.p * self.q)
        return public, phe.PaillierPrivateKey(public, self.p, self.q)

    def __repr__(self) -> str:
        return "EncryptionSecret(...)"

    __str__ = __repr__


class Duty(StrEnum):
    """What a person at a holder signs, with a key of their own."""

    OFFICER = "officer"
    """Agreements, and notices about them."""
    PUBLISHER = "publisher"
    """Offers of datasets."""


class DutyKey(Document):
    """The key of one person at a holder; the holder's descriptor certifies its public half."""

    duty: Duty
    signing_seed: Hex32

    @cached_property
    def signing_key(self) -> SigningKey:
        return SigningKey(bytes.fromhex(self.signing_seed))

    def require_certified(self, descriptor: Descriptor, path: object) -> None:
        """Raises WrongKey if the member's descriptor has another key for this duty."""
        certified = descriptor.duties and getattr(descriptor.duties, self.duty)
        if certified != self.signing_key.public.hex():
            raise WrongKey(path=path, duty=self.duty, member=descriptor.name)

    def __repr__(self) -> str:
        return f"DutyKey(duty={self.duty}, public={self.signing_key.public.hex()})"

    __str__ = __repr__


def new_duty_key(duty: Duty, random: Random) -> DutyKey:
    """Run by the person who has the duty, where the key stays."""
    return DutyKey(duty=duty, signing_seed=random(32).hex())


class Identity(Document):
    """A member's keys and certificate. All of it is secret as a whole; `repr` shows the name only."""

    space: MemberName
    descriptor: Descriptor
    coordinator: Text
    signing_seed: Hex32
    sealing_seed: Hex32
    """X25519 private key to the descriptor's sealing key."""
    storage_key: Hex32
    """AES-256 key under which the member seals short-lived secrets in its own state."""
    tls_key: str
    certificate: str
    authority: str
    """PEM."""
    encryption: EncryptionSecret | None

    @property
    def name(self) -> str:
        return self.descriptor.name

    @property
    def authority_fingerprint(self) -> str:
        return certificate_fingerprint(self.authority.encode())

    @property
    def version_key(self) -> bytes:
        """Under which a holder digests its snapshots: 32 bytes, derived from the storage key and kept like it."""
        return sha256("ceiba/v1/version-key", bytes.fromhex(self.storage_key))

    @property
    def noise_key(self) -> bytes:
        """From which a holder draws its noise, 32 bytes, derived likewise: with a new one, old answers could be asked
        for again under other noise."""
        return sha256("ceiba/v1/noise-key", bytes.fromhex(self.storage_key))

    @cached_property
    def signing_key(self) -> SigningKey:
        return SigningKey(bytes.fromhex(self.signing_seed))

    def __repr__(self) -> str:
        return f"Identity(space={self.space}, name={self.name}, role={self.descriptor.role})"

    __str__ = __repr__


def new_identity(token: JoinToken, random: Random, duties: Duties | None = None) -> Identity:
    """Run by a new member: all its keys, made where they stay. It has no certificate yet.

    `duties`: a holder's officer's and publisher's public keys, which it certifies by signing its descriptor.
    """
    seed, sealing_seed, storage_key, tls_key = random(32), random(32), random(32), new_key()
    signing_key = SigningKey(seed)
    encryption = public = None
    if token.role is Role.MERCHANT:
        public_key, private_key = generate_keypair(random)
        proof = prove_key(private_key, key_context(token.name, signing_key.public, SUITE, "long-lived"))
        public = EncryptionKey(modulus=encode_modulus(public_key.n).hex(), proof=proof.hex())
        encryption = EncryptionSecret(p=int(private_key.p), q=int(private_key.q))
    descriptor = Descriptor(
        name=token.name,
        role=token.role,
        organisation=token.organisation,
        signing_key=signing_key.public.hex(),
        tls_fingerprint=key_fingerprint(tls_key),
        sealing_key=x25519_public_key(sealing_seed).hex(),
        duties=duties,
        encryption_key=public,
    )
    return Identity(
        space=token.space,
        descriptor=descriptor,
        coordinator=token.coordinator,
        signing_seed=seed.hex(),
        sealing_seed=sealing_seed.hex(),
        storage_key=storage_key.hex(),
        tls_key=tls_key.decode(),
        certificate="",
        authority=token.authority,
        encryption=encryption,
    )


def enrolment_request(identity: Identity, token: JoinToken) -> EnrolRequest:
    """Run by a new member: what it sends with its token. No secret of the identity is in it."""
    return EnrolRequest(
        token=bytes.fromhex(token.secret),
        certificate_request=make_request(identity.tls_key.encode()),
        descriptor=sign(identity.descriptor, identity.name, identity.signing_key),
    )


def accept_enrolment(identity: Identity, response: EnrolResponse) -> Identity:
    """Run by a new member: the identity with its certificate. Raises MalformedMessage if the certificate is not for
    this member's name and key, or the CA is not the token's."""
    if response.authority.decode() != identity.authority:
        raise MalformedMessage(message="EnrolResponse", problem="its CA is not the one in the join token")
    return _with_certificate(identity, response.certificate, "EnrolResponse")


def renewal_request(identity: Identity) -> RenewRequest:
    """Run by a member: what it sends for a new certificate of its same key."""
    return RenewRequest(certificate_request=make_request(identity.tls_key.encode()))


def accept_renewal(identity: Identity, response: RenewResponse) -> Identity:
    """Run by a member: the identity with its new certificate. Raises MalformedMessage if the certificate is not for
    this member's name and key, or does not end later than the one that it has."""
    renewed = _with_certificate(identity, response.certificate, "RenewResponse")
    if expires_at(response.certificate) <= expires_at(identity.certificate.encode()):
        raise MalformedMessage(message="RenewResponse", problem="the certificate does not end later than the old one")
    return renewed


def _with_certificate(identity: Identity, certificate: bytes, message: str) -> Identity:
    """The identity with a certificate that its CA issued for its name and key. Raises MalformedMessage."""
    if not is_issued_by(identity.authority.encode(), certificate):
        raise MalformedMessage(message=message, problem="the certificate is not by the space's CA")
    expected = CertificateName(identity.space, identity.descriptor.role, identity.name)
    if read_member_certificate(certificate) != (expected, identity.descriptor.tls_fingerprint):
        raise MalformedMessage(message=message, problem="the certificate is not for this member's key")
    return identity.model_copy(update={"certificate": certificate.decode()})
