"""Randomness that a test can repeat. Never for anything but tests: it is a hash of a label."""

import hashlib
import itertools

from ceiba_protocol.sums.randomness import Random


def seeded(label: str) -> Random:
    """A `Random` whose calls return SHAKE256(label, number of the call)."""
    calls = itertools.count()

    def random(size: int) -> bytes:
        return hashlib.shake_256(f"{label}/{next(calls)}".encode()).digest(size)

    return random
