"""A malformed modulus reads every feature of a holder through honest encryption; the key proof stops it.

PROTOCOL §2.2: n = p·q·Πℓ with p ≡ 1 mod Πℓ. The merchant sends "encrypted weights" U^(2^(B·j)), where U has order Πℓ
modulo p² and is 1 modulo the rest. n-th powers die in the subgroup that U generates, because each ℓ divides n; so the
holder's fresh randomness dies there too, and Σ 2^(B·j)·x_j mod Πℓ survives for the merchant to read.
"""

from dataclasses import dataclass
from functools import cache

import gmpy2
import pytest
from gmpy2 import mpz

from ceiba_protocol.errors import BadKeyProof
from ceiba_protocol.sums.key_proof import ROOTS, _challenge, key_context, prove_key, verify_key
from ceiba_protocol.sums.randomness import Random, random_below, random_bits
from tests.support.keys import keypair
from tests.support.seeded import seeded

FEATURE_BITS = 20
CONTEXT = key_context("mallory", bytes(32), "K1", "long-lived")


@dataclass(frozen=True)
class Trapdoor:
    """What the hostile merchant knows: n = p·q·Π primes, and u of order Π primes modulo p²."""

    n: mpz
    p: mpz
    primes: tuple[mpz, ...]
    product: mpz
    u: mpz


@cache
def trapdoor(primes_count: int) -> Trapdoor:
    """A modulus of at least 3072 bits whose small factors of 24 bits pass a trial division up to 2^16."""
    random = seeded(f"malformed {primes_count}")
    primes: list[mpz] = [gmpy2.next_prime(1 << 24)]
    while len(primes) < primes_count:
        primes.append(gmpy2.next_prime(primes[-1] + random_below(random, 5000)))
    product = gmpy2.mpz(1)
    for prime in primes:
        product *= prime
    p = mpz(4)
    while not gmpy2.is_prime(p):
        p = 2 * product * (random_bits(random, 1400 - product.bit_length()) | 1 << 1400 - product.bit_length()) + 1
    q = gmpy2.next_prime(1 << (3073 - p.bit_length() - product.bit_length()))
    u = mpz(1)
    while any(gmpy2.powmod(u, product // prime, p * p) == 1 for prime in primes):
        u = gmpy2.powmod(random_below(random, int(p * p)), p * (p - 1) // product, p * p)
    return Trapdoor(p * q * product, p, tuple(primes), product, u)


def combine(x: mpz, modulus: mpz, y: mpz, other: mpz) -> mpz:
    """The residue modulo modulus·other that is x modulo the one and y modulo the other."""
    return (x + modulus * ((y - x) * gmpy2.invert(modulus, other) % other)) % (modulus * other)


def hostile_weights(key: Trapdoor, features: int) -> list[mpz]:
    """Run by the merchant: units of Z_{n²}, indistinguishable from encrypted weights without the factors."""
    covert = combine(key.u, key.p**2, mpz(1), (key.n // key.p) ** 2)
    return [gmpy2.powmod(covert, mpz(1) << (FEATURE_BITS * j), key.n**2) for j in range(features)]


def holder_without_proof_check(n: mpz, weights: list[mpz], features: list[int], random: Random) -> mpz:
    """The weakened build: an honest weighted sum, masked and rerandomised in full, under an unproven key."""
    square, ciphertext = n**2, mpz(1)
    for weight, feature in zip(weights, features, strict=True):
        assert gmpy2.gcd(weight, n) == 1
        ciphertext = ciphertext * gmpy2.powmod(weight, feature, square) % square
    mask = random_below(random, int(n))
    obfuscator = gmpy2.powmod(random_below(random, int(n)), n, square)
    return ciphertext * (1 + n * mask) * obfuscator % square


def read_features(key: Trapdoor, answer: mpz, count: int) -> list[int]:
    """Run by the merchant: project into the subgroup, take one small discrete logarithm for each prime, combine."""
    square, cofactor = key.p**2, key.p * (key.p - 1) // key.product
    survivor, base = (gmpy2.powmod(element, cofactor, square) for element in (answer, key.u))
    packed, modulus = mpz(0), mpz(1)
    for prime in key.primes:
        exponent = key.product // prime
        target, generator = (gmpy2.powmod(element, exponent, square) for element in (survivor, base))
        packed = combine(packed, modulus, mpz(discrete_logarithm(target, generator, prime, square)), prime)
        modulus *= prime
    return [int(packed >> (FEATURE_BITS * j)) % 2**FEATURE_BITS for j in range(count)]


def discrete_logarithm(target: mpz, generator: mpz, order: mpz, modulus: mpz) -> int:
    """Baby steps, giant steps: about 2·√order multiplications."""
    step = int(gmpy2.isqrt(order)) + 1
    baby, power = {}, mpz(1)
    for index in range(step):
        baby[power] = index
        power = power * generator % modulus
    giant = gmpy2.invert(power, modulus)
    for index in range(step):
        if target in baby:
            return index * step + baby[target]
        target = target * giant % modulus
    raise AssertionError("not in the subgroup")


SIZES = [pytest.param(4, 4, id="4 primes"), pytest.param(14, 16, id="14 primes", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("primes", "features"), SIZES)
def test_without_the_proof_the_merchant_reads_every_feature(primes: int, features: int) -> None:
    key, random = trapdoor(primes), seeded("holder")
    secret = [random_below(random, 2**FEATURE_BITS) for _ in range(features)]
    answer = holder_without_proof_check(key.n, hostile_weights(key, features), secret, random)
    assert read_features(key, answer, features) == secret


def test_only_the_malformed_modulus_has_a_factor_in_common_with_its_totient() -> None:
    key, honest = trapdoor(4), mpz(keypair(3072)[0].n)
    assert gmpy2.gcd(key.n, key.p - 1) == key.product
    assert gmpy2.gcd(honest, (keypair(3072)[1].p - 1) * (keypair(3072)[1].q - 1)) == 1


@pytest.mark.parametrize(("primes", "features"), SIZES)
def test_the_key_proof_refuses_the_modulus(primes: int, features: int) -> None:
    key = trapdoor(primes)
    # No challenge has an n-th root modulo p, so whoever knows all factors cannot answer one either.
    exponent = (key.p - 1) // gmpy2.gcd(key.n, key.p - 1)
    challenges = [_challenge(int(key.n), CONTEXT, index) for index in range(ROOTS)]
    assert not any(gmpy2.powmod(challenge, exponent, key.p) == 1 for challenge in challenges)
    width = (key.n.bit_length() + 7) // 8
    for roots in (challenges, [1] * ROOTS):
        forged = b"".join(int(root).to_bytes(width, "big") for root in roots)
        with pytest.raises(BadKeyProof, match="challenges"):
            verify_key(int(key.n), forged, CONTEXT)


def test_an_honest_merchants_proof_does_not_carry_over() -> None:
    key, honest = trapdoor(4), prove_key(keypair(3072)[1], CONTEXT)
    width = (key.n.bit_length() + 7) // 8
    with pytest.raises(BadKeyProof):
        verify_key(int(key.n), honest[: ROOTS * width].ljust(ROOTS * width, b"\x01"), CONTEXT)
