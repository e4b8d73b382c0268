"""Sealing a secret to one member: HPKE (RFC 9180), base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305.

The library draws its own randomness, so this is the one place of the protocol that cannot be given any.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from ceiba_protocol.errors import MalformedMessage

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def seal_to(public_key: bytes, secret: bytes, info: bytes) -> bytes:
    """`secret` for the owner of the sealing key (32 bytes, of its descriptor) alone: 48 bytes longer."""
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public_key), info)


def open_sealed(private_key: bytes, sealed: bytes, info: bytes, what: str) -> bytes:
    """What was sealed to the public half of `private_key` (32 bytes) for `info`. Raises MalformedMessage, which says
    in `what` it came."""
    try:
        return _SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError):
        raise MalformedMessage(message=what, problem="what is sealed in it cannot be opened") from None
