"""Members' keys as bytes with a purpose. Secrets are 32 bytes handed in by the caller and never printed."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class SigningKey:
    """A member's Ed25519 key (RFC 8032). `repr` shows the public half only."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 uniformly random bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"


def signature_is_valid(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is `public`'s on `message`. Callers turn False into an error that names the signer."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def x25519_public_key(secret: bytes) -> bytes:
    """The X25519 public key (RFC 7748, 32 bytes) of a secret of 32 random bytes: for masks, or for sealing."""
    key = X25519PrivateKey.from_private_bytes(secret)
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
