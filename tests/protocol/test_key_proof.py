"""The correct-key proof: accepted for honest keys, refused for every hostile modulus, each with its own reason."""

from collections.abc import Callable
from types import SimpleNamespace

import gmpy2
import pytest

from ceiba_protocol.errors import BadKeyProof, KeyTooShort
from ceiba_protocol.sums import key_proof
from ceiba_protocol.sums.key_proof import key_context, prove_key, verify_key
from tests.support.keys import keypair

CONTEXT = key_context("merchant", bytes(32), "K1", "long-lived")
PRIVATE = keypair(3072)[1]
P, Q = gmpy2.mpz(PRIVATE.p), gmpy2.mpz(PRIVATE.q)
N = int(P * Q)


@pytest.fixture(scope="module")
def proof() -> bytes:
    return prove_key(PRIVATE, CONTEXT)


def prime_of_3072_bits() -> int:
    """Group 15 of RFC 3526."""
    with gmpy2.context(precision=3200):
        pi = int(gmpy2.floor(gmpy2.const_pi() * gmpy2.mpz(2) ** 2942))
    return 2**3072 - 2**3008 - 1 + 2**64 * (pi + 1690314)


@pytest.mark.parametrize("bits", [3072, 4096])
def test_honest_key_is_accepted(bits: int) -> None:
    public_key, private_key = keypair(bits)
    honest = prove_key(private_key, CONTEXT)
    assert len(honest) == 9 * bits // 8
    verify_key(int(public_key.n), honest, CONTEXT)


def test_roots_are_roots_by_plain_python(proof: bytes) -> None:
    for index in range(9):
        root = int.from_bytes(proof[384 * index : 384 * (index + 1)], "big")
        assert pow(root, N, N) == key_proof._challenge(N, CONTEXT, index)


@pytest.mark.parametrize(
    "other",
    [
        key_context("merchant2", bytes(32), "K1", "long-lived"),
        key_context("merchant", bytes(31) + b"\x01", "K1", "long-lived"),
        key_context("merchant", bytes(32), "K1-PQ", "long-lived"),
        key_context("merchant", bytes(32), "K1", "00" * 16),
    ],
)
def test_proof_for_another_context_is_refused(proof: bytes, other: bytes) -> None:
    with pytest.raises(BadKeyProof, match="challenges"):
        verify_key(N, proof, other)


def test_context_parts_cannot_slide_into_one_another() -> None:
    assert key_context("m", bytes(32), "K1", "2") != key_context("m", bytes(32), "K12", "")


HOSTILE = {
    "even": (N + 1, "prime factor below"),
    "small factor": (65521 * N, "prime factor below"),
    "prime": (prime_of_3072_bits(), "is a prime"),
    "square of a prime": (int(P * P), "challenges"),
    "another product": (int(P * gmpy2.next_prime(Q)), "challenges"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_modulus_is_refused(proof: bytes, name: str) -> None:
    n, problem = HOSTILE[name]
    with pytest.raises(BadKeyProof, match=problem):
        verify_key(n, proof, CONTEXT)


def test_the_prime_of_the_test_is_one() -> None:
    assert gmpy2.is_prime(prime_of_3072_bits())
    assert prime_of_3072_bits().bit_length() == 3072


@pytest.mark.parametrize("factor", [2, 3, 65521])
def test_factors_below_the_bound_are_found(proof: bytes, factor: int) -> None:
    with pytest.raises(BadKeyProof, match="prime factor below"):
        verify_key(factor * N, proof, CONTEXT)


@pytest.mark.parametrize("n", [0, 1, int(keypair(2048)[0].n), N >> 1, N << 1025])
def test_length_outside_the_limits_is_refused(proof: bytes, n: int) -> None:
    with pytest.raises(KeyTooShort):
        verify_key(n, proof, CONTEXT)


@pytest.mark.parametrize("change", [lambda p: b"", lambda p: p[:-1], lambda p: p + b"\0", lambda p: p[384:]])
def test_proof_of_another_length_is_refused(proof: bytes, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadKeyProof, match="bytes instead of 3456"):
        verify_key(N, change(proof), CONTEXT)


@pytest.mark.parametrize("root", [0, N, 2**3072 - 1])
def test_root_outside_the_residues_is_refused(proof: bytes, root: int) -> None:
    with pytest.raises(BadKeyProof, match="not between 0 and the modulus"):
        verify_key(N, root.to_bytes(384, "big") + proof[384:], CONTEXT)


@pytest.mark.parametrize("position", range(9))
def test_every_root_counts(proof: bytes, position: int) -> None:
    changed = bytearray(proof)
    changed[384 * position + 383] ^= 1
    with pytest.raises(BadKeyProof, match="challenges"):
        verify_key(N, bytes(changed), CONTEXT)


def test_roots_in_another_order_are_refused(proof: bytes) -> None:
    with pytest.raises(BadKeyProof, match="challenges"):
        verify_key(N, proof[384:] + proof[:384], CONTEXT)


def test_no_proof_exists_where_n_shares_a_factor_with_its_totient() -> None:
    # 47 = 2·23 + 1, so that 23 divides both n = 23·47 and φ(n) = 22·46.
    with pytest.raises(BadKeyProof, match="in common with its totient"):
        prove_key(SimpleNamespace(p=23, q=47), CONTEXT)
