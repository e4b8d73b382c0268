"""Masks: known answers of RFC 5869 and 7748, cancellation, refusals."""

import hashlib
import hmac
import itertools
import os
from collections.abc import Iterable

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import SeedReused, SetMismatch
from ceiba_protocol.sums.masks import SeedGuard, Words, combined_mask, combined_words, expand, expand_words, shared_seed
from tests.support.keys import keypair

N = int(keypair(1024)[0].n)
CONTEXT = bytes(range(32))

# RFC 7748 §6.1
ALICE_SECRET = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_SECRET = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 by `hmac`, apart from the library that the code uses."""
    key = hmac.digest(salt, secret, hashlib.sha256)
    output, block = b"", b""
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes([len(output) // 32 + 1]), hashlib.sha256)
        output += block
    return output[:length]


def lengths_first(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def fresh_keys(names: list[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    secrets = {name: X25519PrivateKey.generate() for name in names}
    public = {name: secret.public_key().public_bytes_raw() for name, secret in secrets.items()}
    return {name: secret.private_bytes_raw() for name, secret in secrets.items()}, public


# --- seeds -----------------------------------------------------------------------------------------------------


def test_the_oracle_answers_rfc_5869_case_1() -> None:
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    answer = hkdf_sha256(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert answer.hex() == expected


def test_seed_is_hkdf_of_the_rfc_7748_secret() -> None:
    info = lengths_first(b"ceiba/v1/mask", b"alice", b"bob")
    expected = hkdf_sha256(SHARED, CONTEXT, info, 32)
    assert shared_seed(ALICE_SECRET, BOB, CONTEXT, "alice", "bob") == expected
    assert shared_seed(BOB_SECRET, ALICE, CONTEXT, "bob", "alice") == expected


@settings(deadline=None)
@given(st.integers(0, 255))
def test_every_bit_of_the_context_changes_the_seed(bit: int) -> None:
    flipped = (int.from_bytes(CONTEXT, "big") ^ 1 << bit).to_bytes(32, "big")
    seed = shared_seed(ALICE_SECRET, BOB, CONTEXT, "alice", "bob")
    assert shared_seed(ALICE_SECRET, BOB, flipped, "alice", "bob") != seed


def test_names_cannot_slide_into_one_another() -> None:
    seeds = {shared_seed(ALICE_SECRET, BOB, CONTEXT, *names) for names in (("a", "bc"), ("ab", "c"), ("abc", ""))}
    assert len(seeds) == 3


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused_and_their_sender_named(point: str) -> None:
    with pytest.raises(SetMismatch, match="mallory"):
        shared_seed(ALICE_SECRET, bytes.fromhex(point), CONTEXT, "alice", "mallory")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(SetMismatch):
        shared_seed(ALICE_SECRET, bytes(length), CONTEXT, "alice", "bob")


# --- masks -----------------------------------------------------------------------------------------------------


def test_masks_are_the_aes_ctr_stream_modulo_n() -> None:
    # CTR from zero is the encryption of 0, 1, 2, …: written out block by block with ECB.
    seed, width = bytes(range(32)), 1024 // 8 + 16
    encryptor = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    stream = b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(3 * width // 16))
    expected = [int.from_bytes(stream[at : at + width], "big") % N for at in (0, width, 2 * width)]
    assert expand(seed, N, 3) == expected


def test_fewer_masks_are_the_first_of_more() -> None:
    assert expand(bytes(32), N, 5)[:2] == expand(bytes(32), N, 2)
    assert expand(bytes(32), N, 0) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), min_size=2, max_size=7, unique=True))
def test_masks_of_a_set_cancel_and_of_no_part_of_it(names: list[str]) -> None:
    secrets, public = fresh_keys(names)
    masks = {
        name: combined_mask(name, secrets[name], {p: k for p, k in public.items() if p != name}, CONTEXT, N, 3)
        for name in names
    }
    assert [sum(position) % N for position in zip(*masks.values(), strict=True)] == [0, 0, 0]
    for absent in names:
        rest = [mask for name, mask in masks.items() if name != absent]
        assert all(sum(position) % N for position in zip(*rest, strict=True))


@pytest.mark.parametrize("peers", [{}, {"alice": ALICE}, {"alice": ALICE, "bob": BOB}])
def test_a_mask_needs_peers_other_than_oneself(peers: dict[str, bytes]) -> None:
    with pytest.raises(SetMismatch):
        combined_mask("alice", os.urandom(32), peers, CONTEXT, N, 1)


# --- words of 64 bits --------------------------------------------------------------------------------------------


def test_words_are_the_aes_ctr_stream_little_endian() -> None:
    seed = bytes(range(32))
    encryptor = Cipher(algorithms.AES(seed), modes.ECB()).encryptor()
    stream = b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(3))
    expected = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 40, 8)]
    assert expand_words(seed, 5).tolist() == expected
    assert expand_words(seed, 2).tolist() == expected[:2]


def word_masks(names: list[str], context: bytes = CONTEXT, count: int = 3) -> dict[str, Words]:
    secrets, public = fresh_keys(names)
    return {
        name: combined_words(name, secrets[name], {p: k for p, k in public.items() if p != name}, context, count)
        for name in names
    }


def sum_of(masks: Iterable[Words]) -> list[int]:
    return [int(word) for word in sum(masks, start=np.zeros(3, dtype=np.uint64))]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), min_size=2, max_size=7, unique=True))
def test_words_of_a_set_cancel_and_of_no_part_of_it(names: list[str]) -> None:
    masks = word_masks(names)
    assert sum_of(masks.values()) == [0, 0, 0]
    for size in range(1, len(names)):
        for part in itertools.combinations(names, size):
            assert all(sum_of(masks[name] for name in part))


def test_one_who_sees_another_context_leaves_words_that_say_nothing() -> None:
    names = ["alice", "bob", "carol"]
    secrets, public = fresh_keys(names)
    contexts = {"alice": CONTEXT, "bob": CONTEXT, "carol": bytes(32)}
    masks = [
        combined_words(me, secrets[me], {p: k for p, k in public.items() if p != me}, contexts[me], 3) for me in names
    ]
    assert all(sum_of(masks))


def test_a_part_of_a_set_leaves_uniform_words() -> None:
    """Each of the 64 bits of 20,000 words is as often 1 as 0: within six standard deviations of a fair coin's."""
    masks = word_masks(["alice", "bob", "carol"], count=20_000)
    total = masks["alice"] + masks["carol"]
    ones = np.unpackbits(total.astype("<u8").view(np.uint8)).reshape(-1, 64).sum(axis=0, dtype=np.int64)
    assert np.abs(ones - 10_000).max() < 6 * np.sqrt(5_000)


def test_words_are_masked_once_for_each_round() -> None:
    secret = os.urandom(32)
    combined_words("alice", secret, {"bob": BOB}, CONTEXT, 1)
    for again in (combined_words, lambda *given: combined_mask(*given[:-1], N, 1)):
        with pytest.raises(SeedReused):
            again("alice", secret, {"bob": BOB}, CONTEXT, 1)


@pytest.mark.parametrize("peers", [{}, {"alice": ALICE}])
def test_words_need_peers_other_than_oneself(peers: dict[str, bytes]) -> None:
    with pytest.raises(SetMismatch):
        combined_words("alice", os.urandom(32), peers, CONTEXT, 1)


# --- single use ------------------------------------------------------------------------------------------------


def test_a_round_is_masked_once() -> None:
    secret = os.urandom(32)
    combined_mask("alice", secret, {"bob": BOB}, CONTEXT, N, 1)
    with pytest.raises(SeedReused):
        combined_mask("alice", secret, {"bob": BOB}, CONTEXT, N, 1)
    combined_mask("alice", secret, {"bob": BOB}, bytes(32), N, 1)


def test_a_guard_forgets_the_oldest_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba_protocol.sums.masks.MOST_SEEDS", 3)
    guard = SeedGuard()
    for round_ in range(5):
        guard.claim("a", b"k", bytes([round_]))
    assert len(guard._used) == 3
    for round_ in (2, 3, 4):
        with pytest.raises(SeedReused):
            guard.claim("a", b"k", bytes([round_]))


def test_guard_tells_holders_keys_and_rounds_apart() -> None:
    guard = SeedGuard()
    for claim in (("a", b"k", b"c"), ("b", b"k", b"c"), ("a", b"l", b"c"), ("a", b"k", b"d"), ("ak", b"", b"c")):
        guard.claim(*claim)
        with pytest.raises(SeedReused):
            guard.claim(*claim)
