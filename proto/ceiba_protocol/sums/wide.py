"""Integers modulo 2^128, as the masked sums of a fit have them (PROTOCOL §4.1): two words each, the lower one first."""

from collections.abc import Sequence

import numpy as np

from ceiba_protocol.sums.masks import Words

BITS = 128


def to_wide(values: Sequence[int]) -> Words:
    """[2·values]: signed integers of less than 127 bits, modulo 2^128."""
    raw = b"".join((value % (1 << BITS)).to_bytes(BITS // 8, "little") for value in values)
    return np.frombuffer(raw, dtype="<u8")


def from_wide(words: Words) -> list[int]:
    """The signed integers: those above 2^127 stand for negative ones."""
    raw, size = words.astype("<u8").tobytes(), BITS // 8
    residues = (int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size))
    return [value - (1 << BITS) if value >> (BITS - 1) else value for value in residues]


def add_wide(left: Words, right: Words) -> Words:
    """left + right modulo 2^128, number by number."""
    low = left[0::2] + right[0::2]
    high = left[1::2] + right[1::2] + (low < left[0::2])
    return _joined(low, high)


def negate_wide(words: Words) -> Words:
    """−words modulo 2^128."""
    low, high = ~words[0::2], ~words[1::2]
    return add_wide(_joined(low, high), to_wide([1] * len(low)))


def _joined(low: Words, high: Words) -> Words:
    words = np.empty(2 * len(low), dtype=np.uint64)
    words[0::2], words[1::2] = low, high
    return words
