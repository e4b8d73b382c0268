"""The strict gate between two holders who share a count: one of them learns a single bit a cell (PROTOCOL §3.3, §5.4).

One holder has `share`, the other `mask`, and the count is share − mask. The first encrypts its share under its own key
by exponential ElGamal over ristretto255: (ρ·G, share·G + ρ·H) with H = x·G. For every value v that a count must not
have, the second turns it into an encryption of (count − v)·s with a random s ≠ 0, re-randomises it, and shuffles the
values of a cell. What the first then decrypts is the identity if the count has one of the values; else it is a
uniform point. So it learns whether, never which, and the second learns nothing.

Both follow the protocol here: who encrypts another share than its own, asks about another count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ceiba_protocol.linkage.cores import on_all_cores
from ceiba_protocol.linkage.ristretto import (
    POINT_BYTES,
    SCALAR_BYTES,
    Point,
    Scalar,
    add,
    base_multiply,
    decode_points,
    encode_points,
    multiply,
    multiply_scalars,
    random_scalar,
    subtract,
)
from ceiba_protocol.sums.randomness import Random, random_order

PAIR_BYTES = 2 * POINT_BYTES
"""Of one ciphertext."""
_ORDER = 2**252 + 27742317777372353535851937790883648493
_ONE = (1).to_bytes(SCALAR_BYTES, "little")
_GENERATOR = base_multiply(_ONE)

Pair = tuple[Point, Point]
"""An ElGamal ciphertext (ρ·G, m·G + ρ·H) of m."""


@dataclass(frozen=True)
class GateKey:
    """An ElGamal key for one job: `public` = `secret`·G."""

    secret: Scalar = field(repr=False)
    public: Point

    @classmethod
    def draw(cls, random: Random) -> "GateKey":
        """A fresh one."""
        secret = random_scalar(random)
        return cls(secret, base_multiply(secret))


def encrypt_shares(shares: Sequence[int], key: GateKey, random: Random) -> bytes:
    """Run by the holder of the key: its shares, each as 64 bytes. They may be negative."""

    encrypted = []
    for share in shares:
        randomness = random_scalar(random)
        exponent = share + _integer(multiply_scalars(randomness, key.secret))  # (share + ρ·x)·G = share·G + ρ·H
        encrypted += [base_multiply(randomness), base_multiply(_scalar(exponent))]
    return encode_points(encrypted)


def blind_tests(
    encrypted: bytes,
    public: Point,
    masks: Sequence[int],
    forbidden: Sequence[range],
    vetoed: Sequence[bool],
    random: Random,
    member: str,
) -> bytes:
    """Run by the holder of the masks: for each cell one encryption for every forbidden value, 64 bytes each, shuffled.

    `encrypted` has one ciphertext for each mask, under `public`; `forbidden` one range, with step 1, for each; `vetoed`
    says which cells are to look as if their count were forbidden, where any is. Raises BadGroupElement for what
    `member` sent.
    """
    pairs = _decode_pairs(encrypted, member)

    def blind(cell: int) -> bytes:
        tests = _tests_of_cell(pairs[cell], public, masks[cell], forbidden[cell], random)
        if tests and vetoed[cell]:
            fresh = random_scalar(random)
            tests[0] = base_multiply(fresh), multiply(fresh, public)  # Enc(0)
        return b"".join(encode_points(tests[place]) for place in random_order(random, len(tests)))

    return b"".join(on_all_cores(blind, range(len(masks))))


def _tests_of_cell(pair: Pair, public: Point, mask: int, values: range, random: Random) -> list[Pair]:
    """Enc((share − mask − v)·s) for each v, freshly randomised."""
    if not values:
        return []
    first, second = pair
    second = subtract(second, base_multiply(_scalar(mask + values[0])))
    tests = []
    for _ in values:
        tests.append(_hide((first, second), public, random))
        second = subtract(second, _GENERATOR)
    return tests


def _hide(pair: Pair, public: Point, random: Random) -> Pair:
    """Enc(m·s) from Enc(m): zero stays zero, everything else becomes uniform. 0.3 ms: four multiplications."""
    scale, fresh = random_scalar(random), random_scalar(random)
    first = add(multiply(scale, pair[0]), base_multiply(fresh))
    return first, add(multiply(scale, pair[1]), multiply(fresh, public))


def read_tests(tested: bytes, key: GateKey, counts: Sequence[int], member: str) -> list[bool]:
    """Run by the holder of the key: for each cell, with so many tests, whether its count has a forbidden value.

    Raises BadGroupElement for what `member` sent.
    """
    pairs = _decode_pairs(tested, member)
    cells = [pairs[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def has_zero(cell: list[Pair]) -> bool:
        return any(multiply(key.secret, first) == second for first, second in cell)

    return list(on_all_cores(has_zero, cells))


def _decode_pairs(blob: bytes, member: str) -> list[Pair]:
    points = decode_points(blob, member)
    return list(zip(points[::2], points[1::2], strict=True))


def _scalar(number: int) -> Scalar:
    return (number % _ORDER).to_bytes(SCALAR_BYTES, "little")


def _integer(scalar: Scalar) -> int:
    return int.from_bytes(scalar, "little")
