"""Proof that a Paillier modulus is well formed: gcd(n, φ(n)) = 1.

Goldberg, Reyzin, Sagga, Baldimtsi, "Efficient noninteractive certification of RSA moduli and beyond" (ASIACRYPT 2019,
eprint 2018/057). Whoever knows the factors can take n-th roots modulo n; if a prime ℓ ≥ α divides gcd(n, φ(n)), at
most one residue in ℓ has such a root, and smaller primes are excluded by division. With α = 2^16 and m = 9 roots of
hashed challenges a false proof passes with probability at most 2^-144.

Without it a merchant can choose a modulus that reads a holder's figures through honest encryption: see
`tests/attacks/test_malformed_modulus.py`. No Paillier operation happens under an unproven key (I6).
"""

import hashlib
from functools import cache

import gmpy2
import phe
from gmpy2 import mpz

from ceiba_protocol.canonical import sha256
from ceiba_protocol.errors import BadKeyProof
from ceiba_protocol.sums.paillier import check_key_length, encode_modulus, modulus_bytes, released_gil

ALPHA = 1 << 16
"""Smaller prime factors of n are excluded by one gcd."""
ROOTS = 9
"""m: the proof holds one root for each challenge."""


def key_context(merchant: str, signing_key: bytes, suite: str, use: str) -> bytes:
    """32 bytes that tie a proof to its merchant and use, "long-lived" or a job id: SHA256(TLV[…]).

    `signing_key` is the merchant's Ed25519 public key, not its certificate, which is renewed.
    """
    return sha256("ceiba/v1/key-context", merchant.encode(), signing_key, suite.encode(), use.encode())


def prove_key(private_key: phe.PaillierPrivateKey, context: bytes) -> bytes:
    """Run by the merchant: n-th roots modulo n of the challenges, each ⌈bits(n)/8⌉ bytes; 3,456 bytes in all.

    s_i = y_i^(n^-1 mod λ(n)) mod n, by CRT, with side-channel-silent powers.
    """
    p, q = mpz(private_key.p), mpz(private_key.q)
    n = p * q
    if gmpy2.gcd(n, (p - 1) * (q - 1)) != 1:
        raise BadKeyProof(problem="its modulus has a factor in common with its totient, so there is no proof")
    exponent_p, exponent_q, inverse = gmpy2.invert(n, p - 1), gmpy2.invert(n, q - 1), gmpy2.invert(q, p)
    roots = []
    for index in range(ROOTS):
        challenge = _challenge(n, context, index)
        root_p = gmpy2.powmod_sec(challenge % p, exponent_p, p)
        root_q = gmpy2.powmod_sec(challenge % q, exponent_q, q)
        roots.append(int(root_q + (root_p - root_q) * inverse % p * q))
    return b"".join(root.to_bytes(modulus_bytes(n), "big") for root in roots)


def verify_key(n: int, proof: bytes, context: bytes) -> None:
    """Run by a holder, at enrolment and rotation, before any operation under n; about 0.1 s at 3072 bits.

    Raises KeyTooShort or BadKeyProof. Keep the verdict by the hash of n, proof *and* context, never by the key alone.
    """
    # 1. The length is one that the space accepts.
    check_key_length(int(n).bit_length())
    # 2. n is composite and has no small factor. (Powers of primes fail step 4.)
    if gmpy2.gcd(n, _small_primes()) != 1:
        raise BadKeyProof(problem=f"its modulus has a prime factor below {ALPHA}")
    if gmpy2.is_prime(n):
        raise BadKeyProof(problem="its modulus is a prime")
    # 3. The proof is m residues of fixed width, each in (0, n).
    width = modulus_bytes(n)
    if len(proof) != ROOTS * width:
        raise BadKeyProof(problem=f"its proof has {len(proof)} bytes instead of {ROOTS * width}")
    roots = [mpz.from_bytes(proof[at : at + width], "big") for at in range(0, len(proof), width)]
    if not all(0 < root < n for root in roots):
        raise BadKeyProof(problem="its proof holds a number that is not between 0 and the modulus")
    # 4. Each is an n-th root of its challenge.
    with released_gil():
        for index, root in enumerate(roots):
            if gmpy2.powmod(root, n, n) != _challenge(n, context, index):
                raise BadKeyProof(problem="its proof does not answer this merchant's challenges")


def _challenge(n: int, context: bytes, index: int) -> mpz:
    """y_i in Z_n: SHAKE256("ceiba/v1/paillier-key|" || context || n || i), 16 bytes wider than n: bias 2^-128."""
    hashed = hashlib.shake_256(b"ceiba/v1/paillier-key|" + context + encode_modulus(n) + index.to_bytes(4, "big"))
    return mpz.from_bytes(hashed.digest(modulus_bytes(n) + 16), "big") % n


@cache
def _small_primes() -> mpz:
    """The product of all primes below α."""
    return gmpy2.primorial(ALPHA - 1)
