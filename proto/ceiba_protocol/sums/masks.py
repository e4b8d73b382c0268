"""Pairwise masks: what each holder adds cancels in the sum over the agreed set, and over no other (PROTOCOL §2.5).

Two holders derive the same seed from their X25519 keys *and the context digest*. A holder that sees another set, key,
layout or round derives other seeds; its masks do not cancel, and the total is uniform garbage that the layout's
canary refuses. Masks are integers modulo n from AES-CTR, so that they are one-time pads; nothing here draws from
a statistics library.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from gmpy2 import mpz

from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import SeedReused, SetMismatch
from ceiba_protocol.sums.paillier import modulus_bytes


def shared_seed(secret_key: bytes, public_key: bytes, context_digest: bytes, me: str, peer: str) -> bytes:
    """Run by the holders `me` and `peer`, with the same outcome: the 32-byte seed of their mask.

    HKDF-SHA256(ikm = X25519(secret_key, public_key), salt = context_digest,
    info = TLV["ceiba/v1/mask", smaller id, larger id]). A public key of low order, for which the shared secret is
    zero (RFC 7748 §6.1), raises SetMismatch.
    """
    try:
        peer_key = X25519PublicKey.from_public_bytes(public_key)
        secret = X25519PrivateKey.from_private_bytes(secret_key).exchange(peer_key)
    except ValueError:
        raise SetMismatch(problem=f"the mask key of {peer} is not a usable X25519 key") from None
    info = tlv(b"ceiba/v1/mask", *(name.encode() for name in sorted((me, peer))))
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=context_digest, info=info).derive(secret)


def expand(seed: bytes, n: int, count: int) -> list[mpz]:
    """`count` masks in Z_n: AES-256-CTR from counter zero, bytes(n) + 16 bytes for each: bias 2^-128."""
    width = modulus_bytes(n) + 16
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(width * count))
    return [mpz.from_bytes(stream[at : at + width], "big") % n for at in range(0, len(stream), width)]


MOST_SEEDS = 100_000
"""That a guard remembers: 15 MB, and a day of more than a score each second. What is older, the ledgers remember."""


class SeedGuard:
    """Refuses to derive the seeds of one holder and one round twice in this process, among the last MOST_SEEDS.

    The keystream starts at zero because every seed is used once: the context digest has the round in it. This is
    the belt to those braces. All seeds of a round follow from (holder, mask key, context), so one entry stands for
    them; a resend is not a second use, because it sends the stored bytes.
    """

    def __init__(self) -> None:
        self._used: dict[bytes, None] = {}  # oldest first
        self._lock = threading.Lock()

    def claim(self, me: str, secret_key: bytes, context_digest: bytes) -> None:
        """Raises SeedReused from the second time on."""
        entry = hashlib.sha256(tlv(me.encode(), secret_key, context_digest)).digest()
        with self._lock:
            if entry in self._used:
                raise SeedReused
            self._used[entry] = None
            if len(self._used) > MOST_SEEDS:
                del self._used[next(iter(self._used))]


_GUARD = SeedGuard()
"""One for the process, so that no caller can forget to pass it."""


def combined_mask(
    me: str, secret_key: bytes, peers: Mapping[str, bytes], context_digest: bytes, n: int, count: int
) -> list[mpz]:
    """Run by the holder `me`, once for each round: `count` masks in Z_n that cancel against those of `peers`.

    Σ mask_ij over the peers j after me − Σ mask_ij over the peers j before me, by id. `peers` are the X25519 keys of
    all other members of the set that `context_digest` commits to, taken from their signed approvals.
    """
    if me in peers or not peers:
        raise SetMismatch(problem=f"{me} needs peers, and is none of its own")
    _GUARD.claim(me, secret_key, context_digest)
    total = [mpz(0)] * count
    for peer, public_key in peers.items():
        mask = expand(shared_seed(secret_key, public_key, context_digest, me, peer), n, count)
        sign = 1 if me < peer else -1
        total = [(have + sign * part) % n for have, part in zip(total, mask, strict=True)]
    return total


# --- sums that holders need: 64-bit words ----------------------------------------------------------------------

Words = npt.NDArray[np.uint64]
"""Integers modulo 2^64."""


def expand_words(seed: bytes, count: int) -> Words:
    """`count` uniform words: AES-256-CTR from counter zero, read as little-endian."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8")


def add_words(left: Words, right: Words) -> Words:
    """left + right modulo 2^64, word by word."""
    return left + right


def negate_words(words: Words) -> Words:
    """−words modulo 2^64."""
    return ~words + np.uint64(1)


def combined_words(
    me: str, secret_key: bytes, peers: Mapping[str, bytes], context_digest: bytes, count: int,
    add: Callable[[Words, Words], Words] = add_words, negate: Callable[[Words], Words] = negate_words,
) -> Words:  # fmt: skip
    """As `combined_mask`, in words: modulo 2^64, or as `add` and `negate` have it."""
    if me in peers or not peers:
        raise SetMismatch(problem=f"{me} needs peers, and is none of its own")
    _GUARD.claim(me, secret_key, context_digest)
    total = np.zeros(count, dtype=np.uint64)
    for peer, public_key in peers.items():
        mask = expand_words(shared_seed(secret_key, public_key, context_digest, me, peer), count)
        total = add(total, mask if me < peer else negate(mask))
    return total
