"""What the differencing audit costs: `measure_audit`, against the 0.2 ms a pair that PROTOCOL §3.5 measured.

One thread, CPU time, subjects drawn at random out of a million. That is the worst case for compressed bitmaps: real
cells have runs.
"""

from fractions import Fraction

import numpy as np
from pyroaring import BitMap

from bench.crypto import Figure, least_cpu
from ceiba_node.differencing import Membership, Names, distance, distances, memberships
from ceiba_protocol.disclosure.support import ROWS, tests_of
from ceiba_protocol.plan import Key, Program, SumOf
from ceiba_protocol.program import TRUE, load

SUBJECTS = 1_000_000
CELLS, TABLES = 100, 10
LIMIT = 5
PAIRS = 100


def measure_audit() -> dict[str, Figure]:
    """Milliseconds for one pair of sets, and seconds for one table of 100 cells against 1,000 earlier sets."""
    generator = np.random.default_rng(7)
    return {
        f"differencing, one pair, {share:.0%} of a million (ms)": _pair(generator, share) for share in (0.1, 0.5)
    } | {"differencing, 100 cells against 1,000 sets (s)": _table(generator)}


def _pair(generator: np.random.Generator, share: float) -> Figure:
    """The sets of two answers, in memory."""
    whole, part = (_part(np.flatnonzero(generator.random(SUBJECTS) < share), f"{share} {one}") for one in range(2))

    def compare() -> None:
        for _ in range(PAIRS):
            distance(whole, (part,), lambda one, other: True)

    return {"ours": least_cpu(compare) * 1000 / PAIRS, "baseline": None, "ratio": None, "reach": "≤ 0.2 ms"}


def _table(generator: np.random.Generator) -> Figure:
    """Ten earlier tables, each with all subjects in cells of its own, and ten answers about nine tenths of all."""
    earlier = _Sets()
    for number in range(TABLES):
        cells = generator.integers(0, CELLS, SUBJECTS)
        earlier.add([_part(np.flatnonzero(cells == cell), f"table {number}, {cell}") for cell in range(CELLS)])
        earlier.add([_part(np.flatnonzero(generator.random(SUBJECTS) < 0.9), f"total {number}")])
    names = _names()
    cells = generator.integers(0, CELLS, SUBJECTS)
    own = memberships(names, {(cell, ROWS): _bitmap(np.flatnonzero(cells == cell)) for cell in range(CELLS)})
    return {
        "ours": least_cpu(lambda: distances(names, own, earlier, LIMIT)),
        "baseline": None,
        "ratio": None,
        "reach": None,
    }


class _Sets:
    """A history in memory: what is measured is the audit, and not the disk."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[Membership]] = {}
        self.sizes: list[int] = []

    def add(self, parts: list[Membership]) -> None:
        for part in parts:
            self._by_size.setdefault(len(part.subjects), []).append(part)
        self.sizes = sorted(self._by_size)

    def of_size(self, size: int) -> list[Membership]:
        return self._by_size.get(size, [])

    def released(self, identity: str) -> frozenset[str] | None:
        return None

    def linked(self, one: str, other: str) -> bool:
        return True


def _names() -> Names:
    """Rows counted by one key."""
    values = tuple(range(CELLS))
    key = Key("cell", load("cell", 0, CELLS - 1, nullable=False), values, values)
    program = Program("a.table", None, (key,), (SumOf(TRUE, Fraction(1)),), (), ())
    return Names(program, tests_of(program), (("a holder", "a version"),), "a version")


def _part(subjects: np.ndarray, identity: str) -> Membership:
    return Membership(identity, True, frozenset(), "a version", _bitmap(subjects))


def _bitmap(subjects: np.ndarray) -> BitMap:
    return BitMap(subjects.astype(np.uint32))
