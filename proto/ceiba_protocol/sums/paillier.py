"""Paillier encryption over gmpy2: keys, encryption, decryption and products, interoperable with `phe`.

Paillier (EUROCRYPT '99) with g = 1+n: the ciphertext of x in Z_n is (1 + n·x)·ρ mod n², where ρ, the *obfuscator*,
is an n-th residue in Z_{n²}^*. Multiplying ciphertexts adds plaintexts modulo n. A ciphertext takes ⌈2·bits(n)/8⌉
bytes on the wire: 768 for the default key. `phe` supplies the key types; plaintexts here are residues in [0, n), and
`sums.layout` gives them their meaning.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import gmpy2
import phe
from gmpy2 import mpz

from ceiba_protocol.errors import BadCiphertext, KeyTooShort, ValueOutOfRange, WrongType
from ceiba_protocol.sums.fixed_base import FixedBase, cheapest_shape
from ceiba_protocol.sums.randomness import Random, random_below, random_bits

MINIMUM_KEY_BITS = 3072
"""128-bit strength; health and credit data outlive the retirement of 2048-bit keys (PROTOCOL §2.2)."""
MAXIMUM_KEY_BITS = 4096
"""A longer key would only cost every holder time."""
_PRIMALITY_ROUNDS = 40


# --- keys ------------------------------------------------------------------------------------------------------


def generate_keypair(
    random: Random, bits: int = MINIMUM_KEY_BITS
) -> tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey]:
    """Run by the merchant: a key whose modulus has exactly `bits` bits (PROTOCOL §2.2). Takes 1–5 s."""
    check_key_length(bits)
    return _generate(random, bits)


def check_key_length(bits: int) -> None:
    """Refuse a modulus length that no holder accepts."""
    if not MINIMUM_KEY_BITS <= bits <= MAXIMUM_KEY_BITS:
        raise KeyTooShort(bits=bits, minimum=MINIMUM_KEY_BITS, maximum=MAXIMUM_KEY_BITS)


def _generate(random: Random, bits: int) -> tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey]:
    while True:
        p, q = _blum_prime(random, bits // 2), _blum_prime(random, bits // 2)
        if _is_good_pair(p, q, bits):
            public_key = phe.PaillierPublicKey(int(p * q))
            return public_key, phe.PaillierPrivateKey(public_key, int(p), int(q))


def _blum_prime(random: Random, bits: int) -> mpz:
    """A prime ≡ 3 mod 4 with its top two bits set: from a random start in steps of 4."""
    candidate = mpz(random_bits(random, bits)) | 3 << (bits - 2) | 3
    while not gmpy2.is_prime(candidate, _PRIMALITY_ROUNDS):
        candidate += 4
    return candidate


def _is_good_pair(p: mpz, q: mpz, bits: int) -> bool:
    n, totient = p * q, (p - 1) * (q - 1)
    return bool(
        abs(p - q) >= mpz(1) << (bits // 2 - 100)  # no factoring by Fermat's method
        and gmpy2.gcd(p - 1, q - 1) == 2
        and gmpy2.gcd(n, totient) == 1
        and n.bit_length() == bits
    )


def modulus_bytes(n: int) -> int:
    """Width of a residue modulo n on the wire."""
    return (int(n).bit_length() + 7) // 8


def encode_modulus(n: int) -> bytes:
    """n, big-endian, in its fixed width."""
    return int(n).to_bytes(modulus_bytes(n), "big")


def key_id(n: int) -> bytes:
    """32 bytes that name a public key: SHA256("ceiba/v1/pk" || n)."""
    return hashlib.sha256(b"ceiba/v1/pk" + encode_modulus(n)).digest()


# --- ciphertexts on the wire -----------------------------------------------------------------------------------


def ciphertext_bytes(n: int) -> int:
    """Width of every ciphertext under n: ⌈2·bits(n)/8⌉, so that lengths depend on public parameters only (I8)."""
    return (2 * int(n).bit_length() + 7) // 8


def encode_ciphertexts(ciphertexts: Iterable[int], n: int) -> bytes:
    """Ciphertexts in Z_{n²}, each big-endian in its fixed width, one after another."""
    width = ciphertext_bytes(n)
    return b"".join(int(ciphertext).to_bytes(width, "big") for ciphertext in ciphertexts)


def decode_ciphertexts(encoded: bytes, n: int, member: str) -> list[mpz]:
    """Ciphertexts that `member` sent, each a unit of Z_{n²}; anything else raises BadCiphertext.

    Under a proven key every unit is the ciphertext of exactly one plaintext (PROTOCOL §2.2, Lemma 1), so nothing
    more can be asked of a stranger's ciphertext. One gcd serves the whole batch.
    """
    width, square = ciphertext_bytes(n), mpz(n) ** 2
    if len(encoded) % width:
        raise BadCiphertext(member=member, problem=f"{len(encoded)} bytes are not a multiple of {width}")
    ciphertexts = [mpz.from_bytes(encoded[at : at + width], "big") for at in range(0, len(encoded), width)]
    if not all(0 < ciphertext < square for ciphertext in ciphertexts):
        raise BadCiphertext(member=member, problem="a ciphertext is not between 0 and the square of the modulus")
    product = mpz(1)
    for ciphertext in ciphertexts:
        product = product * (ciphertext % n) % n
    if gmpy2.gcd(product, n) != 1:
        raise BadCiphertext(member=member, problem="a ciphertext has a factor in common with the modulus")
    return ciphertexts


# --- encryption ------------------------------------------------------------------------------------------------


@contextmanager
def released_gil() -> Iterator[None]:
    """Let other threads run during this thread's long powers; gmpy2 keeps the setting for each thread apart."""
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        yield


class Pool:
    """Obfuscators made ahead, in idle time. Each is handed out once, in whatever thread; none outlives a fork.

    Two ciphertexts with the same obfuscator tell the difference of their plaintexts. So a pool stays in memory, it
    refuses to be copied or pickled, and in a forked child it is empty (PROTOCOL §2.3 rule 4).
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._unused: deque[mpz] = deque()  # its append and popleft are atomic

    def add(self, obfuscators: Iterable[mpz]) -> None:
        """Store fresh obfuscators, which the caller must not use otherwise."""
        self._forget_after_fork()
        self._unused.extend(obfuscators)

    def take(self) -> mpz | None:
        """An obfuscator that nobody else gets, or None when there is none."""
        self._forget_after_fork()
        try:
            return self._unused.popleft()
        except IndexError:
            return None

    def __len__(self) -> int:
        self._forget_after_fork()
        return len(self._unused)

    def __repr__(self) -> str:
        return f"Pool({len(self)} unused)"

    def __reduce__(self) -> NoReturn:
        hint = "Make a new Encryptor: an obfuscator may be used once only."
        raise WrongType(operation="copying", given="a pool of obfuscators", hint=hint)

    def _forget_after_fork(self) -> None:
        if self._process != os.getpid():
            self._process, self._unused = os.getpid(), deque()


class Encryptor:
    """Encryption under another member's key, with short exponents (Damgård–Jurik–Nielsen 2010, §4.2).

    The obfuscator is hs^r mod n², where hs = (−x²)^n mod n² for an x in Z_n of our own choice, and r has bits(n)/2
    bits. It is never taken from the wire: a foreign hs can be 1 (PROTOCOL §2.3 rule 1). It hides plaintexts from
    everybody but the key's owner; never use it on a ciphertext that was *derived* with our secrets and goes to the
    owner (I7). For a Blum n every ciphertext has Jacobi symbol +1 modulo n.

    Modular multiplications, at 3072 bits about 10 µs each: hs 3,600, once for each encryptor; then table and
    encryptions together 2,000 for one ciphertext, 4,800 for 10, 62,000 for 300; with the largest table 144 for each.
    """

    def __init__(self, n: int, powers: FixedBase, random: Random) -> None:
        self.n = n
        self.pool = Pool()
        self._n, self._square = mpz(n), mpz(n) ** 2
        self._powers = powers
        self._random = random

    @classmethod
    def for_count(cls, n: int, count: int, random: Random) -> "Encryptor":
        """An encryptor with its own hs, its table of the size that serves about `count` encryptions best."""
        modulus, square = mpz(n), mpz(n) ** 2
        root = -(mpz(random_below(random, int(n))) ** 2) % modulus
        with released_gil():
            base = gmpy2.powmod(root, modulus, square)
            powers = FixedBase(base, square, cheapest_shape(int(n).bit_length() // 2, count))
        return cls(int(n), powers, random)

    def __repr__(self) -> str:
        return f"Encryptor(key_id={key_id(self.n).hex()})"

    def obfuscators(self, count: int) -> list[mpz]:
        """`count` fresh hs^r in Z_{n²}. They do not depend on plaintexts: `pool.add` keeps them for later."""
        return [self._powers.random_power(self._random) for _ in range(count)]

    def encrypt(self, plaintext: int) -> mpz:
        """The ciphertext in Z_{n²} of a plaintext in [0, n): two multiplications when the pool is not empty."""
        if not 0 <= plaintext < self._n:
            raise ValueOutOfRange(what="A plaintext", bits=int(plaintext).bit_length(), limit=self._n.bit_length() - 1)
        obfuscator = self.pool.take()
        if obfuscator is None:
            obfuscator = self._powers.random_power(self._random)
        return (1 + self._n * plaintext) * obfuscator % self._square


# --- products and decryption -----------------------------------------------------------------------------------


def multiply(vectors: Sequence[Sequence[int]], n: int) -> list[mpz]:
    """Run by the coordinator: position by position, the product of ciphertexts modulo n².

    At least one vector, all of one length. It encrypts the sum of the plaintexts modulo n.
    """
    square = mpz(n) ** 2
    products = [mpz(ciphertext) for ciphertext in vectors[0]]
    for vector in vectors[1:]:
        products = [product * ciphertext % square for product, ciphertext in zip(products, vector, strict=True)]
    return products


def decrypt(private_key: phe.PaillierPrivateKey, ciphertexts: Sequence[int]) -> list[int]:
    """Run by the merchant: the plaintexts in [0, n) of ciphertexts in Z_{n²}^* (Paillier 1999, §7, by CRT).

    One thread works modulo p², the other modulo q², which takes 0.6 of the time of one thread on two cores. The
    powers are GMP's side-channel-silent ones: they cost 1.3 times the ordinary ones, for the key's sake.
    """
    p, q = mpz(private_key.p), mpz(private_key.q)
    with ThreadPoolExecutor(max_workers=2) as halves:
        modulo_p = halves.submit(_decrypt_modulo, p, q, ciphertexts)
        modulo_q = halves.submit(_decrypt_modulo, q, p, ciphertexts)
    inverse = gmpy2.invert(p, q)
    return [int(x + (y - x) * inverse % q * p) for x, y in zip(modulo_p.result(), modulo_q.result(), strict=True)]


def _decrypt_modulo(prime: mpz, other: mpz, ciphertexts: Sequence[int]) -> list[mpz]:
    """Plaintexts modulo `prime`: L(c^(p−1) mod p²)·L(g^(p−1) mod p²)^(−1), L(u) = (u−1)/p; for g = 1+n it is −q."""
    square, exponent = prime * prime, prime - 1
    scale = gmpy2.invert(-other % prime, prime)
    with released_gil():
        powers = [gmpy2.powmod_sec(mpz(c) % square, exponent, square) for c in ciphertexts]
    return [(power - 1) // prime * scale % prime for power in powers]


# --- interoperation with phe -----------------------------------------------------------------------------------


def to_phe(public_key: phe.PaillierPublicKey, ciphertext: int) -> phe.EncryptedNumber:
    """The ciphertext as `phe`'s type; `phe` reads plaintexts above n/2 as negative."""
    return phe.EncryptedNumber(public_key, int(ciphertext), exponent=0)


def from_phe(encrypted: phe.EncryptedNumber) -> int:
    """The ciphertext of an integer that `phe` encrypted. Other exponents are refused: they tell a float's size (I8)."""
    if encrypted.exponent != 0:
        hint = "Encrypt integers only: the exponent of a float is visible to everybody."
        raise WrongType(operation="a secure sum", given="an encrypted float", hint=hint)
    return int(encrypted.ciphertext(be_secure=False))
