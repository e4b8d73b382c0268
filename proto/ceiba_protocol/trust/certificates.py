"""X.509 for the space: one CA, ECDSA P-256 everywhere, because gRPC refuses Ed25519 certificates (PROTOCOL §0.16).

A certificate names its member in a SAN URI, ceiba://<space>/<role>/<name>. It opens a TLS connection and nothing
more: whose word counts is decided by the pinned roster. `cryptography` draws the keys' randomness itself.
"""

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import BadCertificateRequest

SERVER_NAME = "coordinator.ceiba.internal"
"""The DNS name in the coordinator's certificate. Members expect it under the space's CA, wherever it listens."""
AUTHORITY_DAYS = 3650
LEAF_DAYS = 90
RENEW_DAYS = 30
"""Renewed when fewer remain: a month to notice and mend whatever keeps a renewal from succeeding."""
_BACKDATED = timedelta(minutes=5)
"""Clocks differ; a certificate is valid from a little before it was made."""


class KeyAndCertificate(NamedTuple):
    """PEM bytes; the key is a secret."""

    key: bytes
    certificate: bytes


class CertificateName(NamedTuple):
    """What a member's SAN URI says."""

    space: str
    role: str
    name: str

    def uri(self) -> str:
        return f"ceiba://{self.space}/{self.role}/{self.name}"


def new_key() -> bytes:
    """A fresh P-256 private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def make_authority(space: str, now: datetime) -> KeyAndCertificate:
    """The space's CA, self-signed, good for ten years."""
    pem = new_key()
    key, name = _load_key(pem), _name(f"Ceiba space {space}")
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyAndCertificate(pem, certificate.public_bytes(Encoding.PEM))


def make_request(key: bytes) -> bytes:
    """A PKCS #10 request for `key`, PEM. It names nobody: the join token says who asks."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(_load_key(key), hashes.SHA256()).public_bytes(Encoding.PEM)


def issue_member(authority: KeyAndCertificate, request: bytes, name: CertificateName, now: datetime) -> bytes:
    """Run by the coordinator: a member's client certificate, PEM. Raises BadCertificateRequest."""
    return _issue(authority, _request_key(request), [x509.UniformResourceIdentifier(name.uri())], name.name, now)


def issue_server(authority: KeyAndCertificate, space: str, now: datetime) -> KeyAndCertificate:
    """Run by the coordinator for itself."""
    pem = new_key()
    names = [
        x509.DNSName(SERVER_NAME),
        x509.UniformResourceIdentifier(CertificateName(space, "coordinator", "coordinator").uri()),
    ]
    return KeyAndCertificate(pem, _issue(authority, _load_key(pem).public_key(), names, SERVER_NAME, now))


def _issue(
    authority: KeyAndCertificate,
    key: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    common_name: str,
    now: datetime,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    server = any(isinstance(name, x509.DNSName) for name in names)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = (
        _builder(_name(common_name), issuer.subject, key, now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(_load_key(authority.key), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _request_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a self-signed request. Raises BadCertificateRequest."""
    try:
        parsed = x509.load_pem_x509_csr(request)
        key = parsed.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadCertificateRequest(problem="its key is not on the curve P-256")
        if not parsed.is_signature_valid:
            raise BadCertificateRequest(problem="it is not signed with its own key")
    except (ValueError, InvalidSignature):
        raise BadCertificateRequest(problem="it is not a PKCS #10 request in PEM") from None
    return key


def request_fingerprint(request: bytes) -> Digest:
    """SHA-256 of the request's DER SubjectPublicKeyInfo. Raises BadCertificateRequest."""
    return _fingerprint(_request_key(request))


def key_fingerprint(key: bytes) -> Digest:
    """SHA-256 of the DER SubjectPublicKeyInfo of a private key in PEM."""
    return _fingerprint(_load_key(key).public_key())


def _fingerprint(key: ec.EllipticCurvePublicKey) -> Digest:
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Digest(hashlib.sha256(info).hexdigest())


def certificate_fingerprint(certificate: bytes) -> Digest:
    """SHA-256 of a certificate's DER."""
    parsed = x509.load_pem_x509_certificate(certificate)
    return Digest(parsed.fingerprint(hashes.SHA256()).hex())


def read_member_certificate(certificate: bytes) -> tuple[CertificateName, Digest] | None:
    """The name and TLS key fingerprint of a member's certificate, whose chain TLS has verified; None if it has
    no Ceiba name."""
    parsed = x509.load_pem_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    key = parsed.public_key()
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        parts = uri.removeprefix("ceiba://").split("/")
        if uri.startswith("ceiba://") and len(parts) == 3 and isinstance(key, ec.EllipticCurvePublicKey):
            return CertificateName(*parts), _fingerprint(key)
    return None


def expires_at(certificate: bytes) -> datetime:
    """End of a certificate's validity, UTC."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def is_renewal_due(certificate: bytes, now: datetime) -> bool:
    """Whether fewer than RENEW_DAYS of its validity remain, or none."""
    return expires_at(certificate) - now < timedelta(days=RENEW_DAYS)


def is_issued_by(authority: bytes, certificate: bytes) -> bool:
    """Whether `certificate` is readable and signed by the CA; both PEM. False for anything else, garbage included."""
    try:
        issued = x509.load_pem_x509_certificate(certificate)
        issued.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
