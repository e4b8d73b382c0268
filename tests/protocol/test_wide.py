"""Sums modulo 2^128: integers, also negative ones, and masks that cancel."""

from collections.abc import Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.sums.masks import Words, combined_words
from ceiba_protocol.sums.wide import BITS, add_wide, from_wide, negate_wide, to_wide
from tests.support.seeded import seeded

LARGEST = 2**127 - 1
INTEGERS = st.integers(-(2**110), 2**110)
EDGES = [0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**64), -(2**64) - 1, 2**100, -(2**100), LARGEST, -LARGEST - 1]


def vectors_of(holders: int, width: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(INTEGERS, min_size=width, max_size=width), min_size=holders, max_size=holders)


def masked(values: Sequence[Sequence[int]], contexts: Sequence[bytes]) -> list[int]:
    """The sum of what each holder sends, under its own view of the context."""
    names = [f"holder-{place:02}" for place in range(len(values))]
    secrets = {name: seeded(f"{name} of {contexts[0].hex()}")(32) for name in names}
    public = {
        name: X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        for name, secret in secrets.items()
    }
    total: Words = np.zeros(2 * len(values[0]), dtype=np.uint64)
    for me, own, context in zip(names, values, contexts, strict=True):
        peers = {name: key for name, key in public.items() if name != me}
        masks = combined_words(me, secrets[me], peers, context, 2 * len(own), add_wide, negate_wide)
        total = add_wide(total, add_wide(to_wide(own), masks))
    return from_wide(total)


@given(st.lists(INTEGERS, max_size=9))
def test_words_are_integers(values: list[int]) -> None:
    words = to_wide(values)
    assert words.dtype == np.uint64 and len(words) == 2 * len(values)
    assert from_wide(words) == values


@pytest.mark.parametrize("value", EDGES)
def test_edges(value: int) -> None:
    assert from_wide(to_wide([value])) == [value]
    assert from_wide(add_wide(to_wide([value]), negate_wide(to_wide([value])))) == [0]
    assert from_wide(negate_wide(to_wide([value]))) == [value if value == -(2**127) else -value]


@given(st.data(), st.integers(1, 12), st.integers(1, 5))
def test_sums_of_many_vectors_are_sums_of_integers(data: st.DataObject, holders: int, width: int) -> None:
    vectors = data.draw(
        st.lists(st.lists(INTEGERS, min_size=width, max_size=width), min_size=holders, max_size=holders)
    )
    total: Words = np.zeros(2 * width, dtype=np.uint64)
    for vector in vectors:
        total = add_wide(total, to_wide(vector))
    assert from_wide(total) == [sum(each) for each in zip(*vectors, strict=True)]


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_addition_carries_and_wraps(left: int, right: int) -> None:
    def words(value: int) -> Words:
        return np.array([value % 2**64, value >> 64], dtype=np.uint64)

    low, high = add_wide(words(left), words(right)).tolist()
    assert low + (high << 64) == (left + right) % 2**BITS
    low, high = negate_wide(words(left)).tolist()
    assert low + (high << 64) == -left % 2**BITS


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 4), st.binary(min_size=32, max_size=32))
def test_masks_cancel(data: st.DataObject, holders: int, width: int, context: bytes) -> None:
    vectors = data.draw(
        st.lists(st.lists(INTEGERS, min_size=width, max_size=width), min_size=holders, max_size=holders)
    )
    fresh = bytes(a ^ b for a, b in zip(context, seeded(repr(vectors))(32), strict=True))
    assert masked(vectors, [fresh] * holders) == [sum(each) for each in zip(*vectors, strict=True)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 255), st.integers(0, 2), st.integers(0, 2**60))
def test_one_flipped_bit_of_one_context_gives_garbage(bit: int, whose: int, salt: int) -> None:
    """And no part of the sum: whoever was told otherwise answers nothing."""
    context = seeded(f"context {bit} {whose} {salt}")(32)
    flipped = (int.from_bytes(context, "big") ^ (1 << bit)).to_bytes(32, "big")
    values = [[place, -place, 0, 7] for place in range(3)]
    found = masked(values, [flipped if place == whose else context for place in range(3)])
    assert all(abs(one) > 2**64 for one in found)
    assert len(set(found)) == len(found)
