"""Paillier: agreement with `phe`, hygiene of ciphertexts, refusals."""

import copy
import hashlib
import os
import pickle
import threading
from collections.abc import Callable
from math import isqrt

import gmpy2
import phe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import BadCiphertext, KeyTooShort, ValueOutOfRange, WrongType
from ceiba_protocol.sums import paillier
from ceiba_protocol.sums.fixed_base import MAXIMUM_ENTRIES, CombShape, FixedBase, cheapest_shape
from ceiba_protocol.sums.paillier import Encryptor, Pool, decode_ciphertexts, decrypt, encode_ciphertexts, multiply
from ceiba_protocol.sums.randomness import random_below, random_bits
from tests.support.keys import keypair
from tests.support.seeded import seeded

PUBLIC, PRIVATE = keypair(1024)
N = int(PUBLIC.n)


@pytest.fixture(scope="module")
def encryptor() -> Encryptor:
    return Encryptor.for_count(N, 500, os.urandom)


def signed(residue: int, n: int) -> int:
    return residue - n if residue > n // 2 else residue


# --- randomness ------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**30), st.integers(0, 2**32))
def test_random_below_stays_below(bound: int, seed: int) -> None:
    assert 0 <= random_below(seeded(str(seed)), bound) < bound


def test_random_below_reaches_every_value_and_rejects_the_rest() -> None:
    # 3 bits are drawn from one byte's top; 5, 6 and 7 are rejected, not folded.
    draws = [bytes([value << 5]) for value in (7, 5, 4, 6, 0)]
    assert [random_below(lambda _: draws.pop(0), 5) for _ in range(2)] == [4, 0]


@given(st.integers(0, 300))
def test_random_bits_uses_exactly_that_many(bits: int) -> None:
    assert random_bits(lambda size: b"\xff" * size, bits) == 2**bits - 1


# --- keys ------------------------------------------------------------------------------------------------------


def test_generated_key_is_two_blum_primes_of_full_length() -> None:
    public_key, private_key = paillier._generate(seeded("key"), 768)
    p, q = private_key.p, private_key.q
    assert public_key.n == p * q
    assert public_key.n.bit_length() == 768
    assert (p.bit_length(), q.bit_length()) == (384, 384)
    assert p % 4 == q % 4 == 3
    assert gmpy2.is_prime(p)
    assert gmpy2.is_prime(q)
    assert gmpy2.gcd(p - 1, q - 1) == 2
    assert abs(p - q) >= 2**284


@pytest.mark.parametrize("bits", [1024, 2048, 3071, 4097])
def test_other_key_lengths_are_refused(bits: int) -> None:
    with pytest.raises(KeyTooShort):
        paillier.generate_keypair(os.urandom, bits)


@pytest.mark.slow
def test_default_key_has_3072_bits_and_decrypts_through_phe() -> None:
    public_key, private_key = paillier.generate_keypair(os.urandom)
    assert public_key.n.bit_length() == 3072
    assert private_key.decrypt(public_key.encrypt(-7)) == -7


def test_primes_that_fermat_would_find_are_refused() -> None:
    p = gmpy2.next_prime(isqrt(2**767))
    q = gmpy2.next_prime(p)
    assert not paillier._is_good_pair(p, q, 768)


# --- interoperation with phe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_phe_decrypts_our_ciphertexts(bits: int) -> None:
    public_key, private_key = keypair(bits)
    n = int(public_key.n)
    ours = Encryptor.for_count(n, 5, os.urandom)
    for value in (0, 1, -1, n // 3 - 1, -(n // 3) + 1):
        assert private_key.decrypt(paillier.to_phe(public_key, ours.encrypt(value % n))) == value


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_we_decrypt_phe_ciphertexts(bits: int) -> None:
    public_key, private_key = keypair(bits)
    n = int(public_key.n)
    values = [0, 42, -42, n // 3 - 1, -(n // 3) + 1]
    # r_value=1 leaves a ciphertext unobfuscated, as phe does for constants.
    theirs = [public_key.encrypt(value) for value in values[:2]]
    theirs += [public_key.encrypt(value, r_value=1) for value in values[2:]]
    residues = decrypt(private_key, [paillier.from_phe(encrypted) for encrypted in theirs])
    assert [signed(residue, n) for residue in residues] == values


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_sums_of_ours_and_theirs(bits: int) -> None:
    public_key, private_key = keypair(bits)
    n = int(public_key.n)
    ours, theirs = Encryptor.for_count(n, 2, os.urandom).encrypt(-1000 % n), public_key.encrypt(58)
    assert private_key.decrypt(theirs + paillier.to_phe(public_key, ours)) == -942
    [product] = multiply([[ours], [paillier.from_phe(theirs)]], n)
    assert signed(decrypt(private_key, [product])[0], n) == -942


def test_floats_are_refused_for_their_exponent() -> None:
    with pytest.raises(WrongType):
        paillier.from_phe(PUBLIC.encrypt(1.5))


def test_reading_from_phe_does_not_change_the_ciphertext() -> None:
    unobfuscated = PUBLIC.encrypt(5, r_value=1)
    assert paillier.from_phe(unobfuscated) == 5 * N + 1


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_key_id_is_the_hash_of_the_fixed_width_modulus(bits: int) -> None:
    n = int(keypair(bits)[0].n)
    assert paillier.key_id(n) == hashlib.sha256(b"ceiba/v1/pk" + n.to_bytes(bits // 8, "big")).digest()


# --- encryption and decryption ---------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, N - 1))
def test_decryption_inverts_encryption(encryptor: Encryptor, plaintext: int) -> None:
    ciphertext = encryptor.encrypt(plaintext)
    assert decrypt(PRIVATE, [ciphertext]) == [plaintext]
    assert PRIVATE.raw_decrypt(int(ciphertext)) == plaintext


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, N - 1), min_size=2, max_size=2), min_size=1, max_size=5))
def test_products_encrypt_sums(encryptor: Encryptor, vectors: list[list[int]]) -> None:
    products = multiply([[encryptor.encrypt(value) for value in vector] for vector in vectors], N)
    assert decrypt(PRIVATE, products) == [sum(column) % N for column in zip(*vectors, strict=True)]


@pytest.mark.parametrize("plaintext", [-1, N, 2 * N])
def test_plaintexts_outside_the_residues_are_refused(encryptor: Encryptor, plaintext: int) -> None:
    with pytest.raises(ValueOutOfRange):
        encryptor.encrypt(plaintext)


def test_decrypting_nothing_gives_nothing() -> None:
    assert decrypt(PRIVATE, []) == []


# --- powers of a fixed base ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [CombShape(4, 1, 8), CombShape(5, 2, 4), CombShape(7, 4, 3), CombShape(12, 8, 1)])
def test_random_power_is_the_power_of_the_drawn_digits(shape: CombShape) -> None:
    modulus, base = gmpy2.mpz(10**9 + 7), gmpy2.mpz(5)
    drawn = seeded(str(shape))(2 * shape.strips * shape.width)
    exponent = 0
    for column in range(shape.strips * shape.width):
        # Columns are drawn strip by strip for each step, the step of the highest weight first.
        step, strip = divmod(column, shape.strips)
        digit = int.from_bytes(drawn[2 * column : 2 * column + 2], "big") % 2**shape.teeth
        for row in range(shape.teeth):
            position = (row * shape.strips + strip) * shape.width + (shape.width - 1 - step)
            exponent += (digit >> row & 1) << position
    assert FixedBase(base, modulus, shape).random_power(lambda _: drawn) == pow(5, exponent, 10**9 + 7)


def test_all_ones_reach_the_whole_exponent_range() -> None:
    shape = CombShape(6, 2, 5)
    power = FixedBase(gmpy2.mpz(3), gmpy2.mpz(10**9 + 7), shape).random_power(lambda size: b"\xff" * size)
    assert power == pow(3, 2**shape.exponent_bits - 1, 10**9 + 7)


@pytest.mark.parametrize("count", [1, 10, 300, 3_000, 10**6])
def test_chosen_shape_covers_half_the_modulus_within_the_memory_limit(count: int) -> None:
    shape = cheapest_shape(1536, count)
    assert shape.exponent_bits >= 1536
    assert shape.entries <= MAXIMUM_ENTRIES
    assert shape.teeth <= 16


# --- hygiene ---------------------------------------------------------------------------------------------------


def test_short_exponent_ciphertexts_have_jacobi_symbol_one(encryptor: Encryptor) -> None:
    assert {gmpy2.jacobi(encryptor.encrypt(index) % N, N) for index in range(200)} == {1}


def test_no_ciphertext_repeats(encryptor: Encryptor) -> None:
    assert len({encryptor.encrypt(0) for _ in range(2_000)}) == 2_000


def test_encryptors_never_share_their_base() -> None:
    bases = {Encryptor.for_count(N, 1, os.urandom)._powers._tables[0][1] for _ in range(20)}
    assert len(bases) == 20


def test_base_is_an_nth_residue_of_our_own_choice() -> None:
    base = Encryptor.for_count(N, 1, os.urandom)._powers._tables[0][1]
    p, q = PRIVATE.p, PRIVATE.q
    assert pow(int(base), (p - 1) * (q - 1), N * N) == 1
    assert base != 1


def test_secrets_do_not_print(encryptor: Encryptor) -> None:
    encryptor.pool.add(encryptor.obfuscators(1))
    base = str(encryptor._powers._tables[0][1])
    shown = repr(encryptor) + str(encryptor) + repr(encryptor.pool) + repr(encryptor._powers)
    assert base not in shown
    assert str(encryptor.pool.take()) not in shown


# --- the pool --------------------------------------------------------------------------------------------------


def test_pooled_obfuscators_are_used_first_and_once() -> None:
    ours = Encryptor.for_count(N, 10, os.urandom)
    made = ours.obfuscators(3)
    ours.pool.add(made)
    assert [ours.encrypt(0) for _ in range(3)] == made
    assert len(ours.pool) == 0
    assert ours.encrypt(0) not in made


def test_pool_hands_each_out_once_under_threads() -> None:
    pool, taken = Pool(), []
    pool.add(range(20_000))
    start = threading.Barrier(8)

    def drain() -> None:
        start.wait()
        while (obfuscator := pool.take()) is not None:
            taken.append(obfuscator)

    threads = [threading.Thread(target=drain) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(20_000))


def test_pool_is_empty_in_a_forked_child_and_whole_in_the_parent() -> None:
    pool = Pool()
    pool.add(range(5))
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        found = pool.take()
        pool.add([7])
        os.write(writer, f"{found} {len(pool)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"None 1"
    assert len(pool) == 5
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_pool_cannot_be_copied(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(WrongType):
        duplicate(Pool())


# --- the wire --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1024, 2048, 3072, 4096])
def test_every_ciphertext_has_the_same_width(bits: int) -> None:
    n = int(keypair(bits)[0].n)
    encoded = encode_ciphertexts([1, n * n - 1], n)
    assert len(encoded) == 2 * paillier.ciphertext_bytes(n) == 2 * 2 * bits // 8
    assert decode_ciphertexts(encoded, n, "holder") == [1, n * n - 1]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ([0], "between 0"),
        ([1, N * N], "between 0"),
        ([1, int(PRIVATE.p), 1], "factor in common"),
        ([N], "factor in common"),
        ([int(PRIVATE.q) * 5], "factor in common"),
    ],
)
def test_what_is_not_a_unit_is_refused(bad: list[int], problem: str) -> None:
    with pytest.raises(BadCiphertext, match=problem):
        decode_ciphertexts(encode_ciphertexts(bad, N), N, "holder")


@given(st.binary(max_size=600))
def test_any_bytes_decode_to_units_or_are_refused(encoded: bytes) -> None:
    try:
        ciphertexts = decode_ciphertexts(encoded, N, "holder")
    except BadCiphertext as error:
        assert error.fields["member"] == "holder"
    else:
        assert encode_ciphertexts(ciphertexts, N) == encoded


def test_phe_types_are_the_key_types() -> None:
    assert isinstance(PUBLIC, phe.PaillierPublicKey)
    assert isinstance(PRIVATE, phe.PaillierPrivateKey)
