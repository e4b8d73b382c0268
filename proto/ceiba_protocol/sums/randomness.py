"""Randomness is an argument: production passes `os.urandom`, test vectors pass a seeded stream."""

from collections.abc import Callable

Random = Callable[[int], bytes]
"""Called with a number of bytes, returns as many, uniform and independent of every earlier call."""


def random_bits(random: Random, bits: int) -> int:
    """Uniform in [0, 2^bits)."""
    return int.from_bytes(random((bits + 7) // 8), "big") >> (-bits % 8)


def random_below(random: Random, bound: int) -> int:
    """Uniform in [0, bound), bound ≥ 1, by rejection: fewer than two draws on average, and no bias."""
    bits = (bound - 1).bit_length()
    while (candidate := random_bits(random, bits)) >= bound:
        pass
    return candidate


def random_order(random: Random, count: int) -> list[int]:
    """The numbers 0 … count − 1 in an order that is uniform over all orders (Fisher and Yates)."""
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = random_below(random, last + 1)
        order[last], order[other] = order[other], order[last]
    return order
