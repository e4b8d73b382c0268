"""Evidence: what a holder knows about each cell of an exact answer before it is released (PROTOCOL §3.2, §3.4, §3.5).

It never leaves the holder: the gate makes capped counts and anonymous vetoes of it.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ceiba_protocol.disclosure.dominance import cannot_dominate, dominates
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.disclosure.support import Tests
from ceiba_protocol.plan import Key, Program
from ceiba_protocol.program import SUBJECT, Node

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

_LARGEST_SUBJECT = 2**32 - 1
"""What a bitmap holds."""


@dataclass(frozen=True)
class Evidence:
    """By cell, in the order of the layout, and by test."""

    subjects: Integers
    """[cells, tests]: distinct subjects of the rows in the test's `support`, not capped."""
    members: Mapping[tuple[int, int], BitMap]
    """(cell, audited test) → the numbers of the subjects of the rows in `members`; empty ones are left out. Tests about
    the same rows share one bitmap: it is to be read, not changed."""
    dominated: Flags
    """[cells, tests]: whether one subject makes too much of a sum behind the test."""


class NotOurs(ValueError):
    """A snapshot holds what no publishing could have written. Says what, never a value."""


class Gathering:
    """Collects the subjects of every cell and condition from slices of the rows, in any order.

    `conditions` are the distinct ones, each rendered once. Where each row is its own subject, rows are counted and only
    audited conditions need to know whose they are.
    """

    def __init__(self, program: Program, tests: Tests, *, one_row_each: bool) -> None:
        self._program, self._tests = program, tests
        supports = [test.support for test in tests.tests]
        audited = [tests.tests[place].members for place in tests.audited]
        self.conditions: tuple[Node, ...] = tuple(dict.fromkeys([*supports, *audited]))
        self._places = {condition: place for place, condition in enumerate(self.conditions)}
        named = audited if one_row_each else self.conditions
        self._with_names = frozenset(self._places[condition] for condition in named)
        self._counts = np.zeros((program.cells, len(self.conditions)), np.int64)
        self._bitmaps: list[dict[int, BitMap]] = [{} for _ in self.conditions]

    def add(self, slice: Mapping[str, npt.NDArray[Any]]) -> None:
        """One slice, by the names of `render_flags`. Raises NotOurs."""
        cells = cells_of(
            self._program, [slice[f"#k{place}"] for place in range(len(self._program.keys))], slice[SUBJECT]
        )
        subjects = _numbers(slice[SUBJECT])
        order = np.argsort(cells, kind="stable")
        cells, subjects = cells[order], subjects[order]
        for place in range(len(self.conditions)):
            chosen = np.asarray(slice[f"#f{place}"], np.bool_)[order]
            if place in self._with_names:
                self._extend(self._bitmaps[place], cells[chosen], subjects[chosen])
            else:
                self._counts[:, place] += np.bincount(cells[chosen], minlength=self._program.cells)

    def finish(self, dominated: Flags) -> Evidence:
        for place in self._with_names:
            for cell, bitmap in self._bitmaps[place].items():
                self._counts[cell, place] = len(bitmap)
        subjects = self._counts[:, [self._places[test.support] for test in self._tests.tests]]
        members = {
            (cell, test): bitmap
            for test in self._tests.audited
            for cell, bitmap in self._bitmaps[self._places[self._tests.tests[test].members]].items()
        }
        return Evidence(subjects, members, dominated)

    @staticmethod
    def _extend(bitmaps: dict[int, BitMap], cells: npt.NDArray[Any], subjects: npt.NDArray[np.uint32]) -> None:
        for cell, piece in _pieces(cells, subjects):
            found = BitMap(array("I", piece.tobytes()))
            if cell in bitmaps:
                bitmaps[cell] |= found
            else:
                bitmaps[cell] = found


def magnitudes_of(program: Program, tests: Tests, rules: Disclosure, *, one_row_each: bool) -> list[int]:
    """The places of the sums that one subject could dominate."""
    places = sorted({place for test in tests.tests for place in test.magnitudes})
    return [place for place in places if not (one_row_each and cannot_dominate(program.sums[place].node, rules))]


class Dominance:
    """Collects the largest contribution and the total of the sums at `magnitudes`, from parts that share no subject."""

    def __init__(self, program: Program, magnitudes: Sequence[int]) -> None:
        self.sums = [program.sums[place] for place in magnitudes]
        self._program, self._magnitudes = program, magnitudes
        self._found: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, rows: Iterable[Sequence[int | None]]) -> None:
        """What `render_magnitudes` gives for one part. Raises NotOurs."""
        keys = len(self._program.keys)
        for row in rows:
            cell = cell_of(self._program, row[:keys])
            for place, largest, total in zip(self._magnitudes, row[keys::2], row[keys + 1 :: 2], strict=True):
                before, sum_before = self._found.get((cell, place), (0, 0))
                self._found[cell, place] = max(before, largest or 0), sum_before + (total or 0)

    def finish(self, tests: Tests, rules: Disclosure) -> Flags:
        """[cells, tests]: whether one subject dominates a sum behind the test."""
        places = {
            one: [at for at, test in enumerate(tests.tests) if one in test.magnitudes] for one in self._magnitudes
        }
        flags = np.zeros((self._program.cells, len(tests)), np.bool_)
        for (cell, place), (largest, total) in self._found.items():
            if dominates(largest, total, rules):
                flags[cell, places[place]] = True
        return flags


# --- cells -------------------------------------------------------------------------------------------------------


def cell_of(program: Program, keys: Sequence[int | None]) -> int:
    """The cell with these keys. Raises NotOurs."""
    try:
        return program.cell_of(tuple(keys))
    except KeyError:
        pass
    raise NotOurs("a key outside the public domain")


def _pieces(cells: npt.NDArray[Any], subjects: npt.NDArray[np.uint32]) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    """The subjects of each cell; the cells are in order."""
    if len(cells):
        changes = np.flatnonzero(cells[1:] != cells[:-1]) + 1
        for start, end in pairwise([0, *changes.tolist(), len(cells)]):
            yield int(cells[start]), subjects[start:end]


def _numbers(subjects: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    if len(subjects) and not 0 <= subjects.min() <= subjects.max() <= _LARGEST_SUBJECT:
        raise NotOurs("a subject's number that does not fit 32 bits")
    return np.asarray(subjects, np.uint32)


def cells_of(program: Program, keys: Sequence[npt.NDArray[Any]], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows' cells, from their keys' integers (masked where NULL): `Program.cell_of`, for as many as `rows`.

    In the narrowest type, because numpy sorts 16 bits in one pass. Raises NotOurs for a key outside the public domain.
    """
    cells = np.zeros(len(rows), np.int64)
    for key, values in zip(program.keys, keys, strict=True):
        cells = cells * len(key.values) + _places_of(key, values)
    return cells.astype(np.uint16) if program.cells <= 2**16 else cells


def _places_of(key: Key, values: npt.NDArray[Any]) -> Integers:
    """The places of a key's values in its domain."""
    known = np.array([value for value in key.values if value is not None], np.int64)
    places = np.flatnonzero([value is not None for value in key.values])
    ascending = np.argsort(known)
    known, places = known[ascending], places[ascending]
    is_null, given = np.ma.getmaskarray(values), np.ma.getdata(values)
    found = np.minimum(np.searchsorted(known, given), max(len(known) - 1, 0))
    is_known = known[found] == given if len(known) else np.zeros(len(given), np.bool_)
    if not np.all(is_known | is_null) or (np.any(is_null) and None not in key.values):
        raise NotOurs("a key outside the public domain")
    result = places[found] if len(places) else np.zeros(len(given), np.int64)
    if None in key.values:
        result = np.where(is_null, key.values.index(None), result)
    return result
