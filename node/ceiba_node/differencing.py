"""Differencing: is an answer about nearly the same subjects as an earlier one? (PROTOCOL §3.5, ADR 0017)

Each holder finds, for each part of a new answer, by how many of its own subjects it differs from whatever was answered
before, or can be put together from that. The gate sums these numbers over all holders. Nothing here sees a value: only
who is behind an answer.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from pyroaring import BitMap

from ceiba_protocol.disclosure.gate import Released, margins_of
from ceiba_protocol.disclosure.support import Test, Tests
from ceiba_protocol.plan import Program
from ceiba_protocol.program import AllOf

Place = tuple[int, int]
"""A cell, and one of its audited tests."""
Linked = Callable[[str, str], bool]
"""Whether a subject's number means the same subject in two versions of the dataset."""

MAX_COMPARED = 20_000
"""Comparisons for one part of an answer: some seconds at a million subjects."""


@dataclass(frozen=True)
class Membership:
    """Who is behind one part of an answer, at this holder."""

    identity: str
    """64 hexadecimal digits: the same for the same words over the same versions at all holders."""
    chosen: bool
    """As `Test.is_chosen`."""
    columns: frozenset[str]
    version: str
    """Of this holder's dataset."""
    subjects: BitMap

    def is_comparable(self, other: "Membership") -> bool:
        """Whether the difference of two sums could be a sum over the subjects that they do not share."""
        return (self.chosen and other.chosen) or not self.columns.isdisjoint(other.columns)


class History(Protocol):
    """What was answered before about a table, or may be, by how many subjects are behind it."""

    @property
    def sizes(self) -> Sequence[int]:
        """Every size that there is, ascending."""

    def of_size(self, size: int) -> Sequence[Membership]:
        """The parts with so many subjects."""

    def released(self, identity: str) -> frozenset[str] | None:
        """The columns that parts of that identity added up when they were released; None if none was."""

    def linked(self, one: str, other: str) -> bool:
        """As `Linked`."""


def nearest(new: Membership, history: History, limit: int, beside: Sequence[Membership] = ()) -> int:
    """By how many subjects `new` differs from an earlier part, a union of two, or what one leaves of another: the least
    of these, at most `limit`. One of two may be of the same answer, whose other parts are `beside`. 0 where too many
    would have to be compared, so that the part is withheld. What was released before in the same words was compared
    then, and with all that came after it, but for columns that it adds up only now.

    Sizes alone exclude most: two sets that differ by fewer than `limit` differ by less in size.
    """
    unknown = _unknown(new, history)
    if unknown is None:
        return limit
    least = min(limit, len(new.subjects))  # an answer that this holder had no part in has nobody of it
    for old in _near(history, len(new.subjects), least):
        if _is_other(unknown, old):
            least = min(least, distance(old, (unknown,), history.linked))
    both = _Both(history, beside)
    pairs = chain(_as_part(unknown, both, least), _as_whole(unknown, both, least))
    for number, (whole, parts) in enumerate(pairs):
        if number == MAX_COMPARED or least == 0:
            return 0
        least = min(least, distance(whole, parts, history.linked))
    return least


def _unknown(new: Membership, history: History) -> Membership | None:
    """What of a part was not released in the same words: all of it, some columns' sums, or nothing."""
    known = history.released(new.identity)
    if known is None:
        return new
    columns = new.columns - known
    return replace(new, chosen=False, columns=columns) if columns else None


class _Both:
    """Earlier parts, and those of the new answer."""

    def __init__(self, history: History, beside: Sequence[Membership]) -> None:
        self._history = history
        self._beside: dict[int, list[Membership]] = {}
        for one in beside:
            self._beside.setdefault(len(one.subjects), []).append(one)
        self._own = frozenset(map(id, beside))
        self.sizes = sorted({*history.sizes, *self._beside})
        self.linked = history.linked

    def of_size(self, size: int) -> Iterator[Membership]:
        yield from self._history.of_size(size)
        yield from self._beside.get(size, ())

    def are_pair(self, one: Membership, other: Membership) -> bool:
        """Whether they are two, and not both new: that is what the tests of differences are for."""
        return one.identity != other.identity and not (id(one) in self._own and id(other) in self._own)


_Pairs = Iterator[tuple[Membership, Sequence[Membership]]]
"""A whole, and two parts of it."""


def _as_part(new: Membership, both: _Both, limit: int) -> _Pairs:
    size, wide = len(new.subjects), _wide(limit)
    for whole_size in both.sizes[bisect_left(both.sizes, size - limit + 1) :]:
        if _has_near(both, whole_size - size, wide):
            for whole in both.of_size(whole_size):
                if _is_other(new, whole) and _may_lie_in(new, whole, both, limit):
                    for part in _near(both, whole_size - size, wide):
                        if both.are_pair(whole, part) and _is_other(new, part):
                            yield whole, (new, part)


def _as_whole(new: Membership, both: _Both, limit: int) -> _Pairs:
    size, wide = len(new.subjects), _wide(limit)
    for part_size in both.sizes[: bisect_right(both.sizes, size // 2 + limit - 1)]:
        if _has_near(both, size - part_size, wide):
            for small in both.of_size(part_size):
                if _is_other(new, small) and _may_lie_in(small, new, both, limit):
                    for large in _near(both, size - part_size, wide):
                        if both.are_pair(small, large) and len(large.subjects) >= part_size and _is_other(new, large):
                            yield new, (small, large)


def _wide(limit: int) -> int:
    """Who is in both parts and not in the whole is one subject, and counts twice by the sizes."""
    return 2 * limit - 1


def _near(history: "History | _Both", size: int, limit: int) -> Iterator[Membership]:
    """The parts whose size differs by less than `limit`."""
    first, last = bisect_left(history.sizes, size - limit + 1), bisect_right(history.sizes, size + limit - 1)
    for one in history.sizes[first:last]:
        yield from history.of_size(one)


def _has_near(history: _Both, size: int, limit: int) -> bool:
    first = bisect_left(history.sizes, size - limit + 1)
    return first < len(history.sizes) and history.sizes[first] < size + limit


def _is_other(new: Membership, old: Membership) -> bool:
    """Not the same by its words, and one whose difference could say something."""
    return old.identity != new.identity and new.is_comparable(old)


def _may_lie_in(part: Membership, whole: Membership, both: _Both, limit: int) -> bool:
    """Whether fewer than `limit` lie outside, or that cannot be told."""
    few = part.subjects.difference_cardinality(whole.subjects) < limit
    return few or not _has_same_numbers(part, whole, both.linked)


def distance(whole: Membership, parts: Sequence[Membership], linked: Linked) -> int:
    """Subjects that count differently in the whole and in its one or two parts together; 0 if that is not known.

    Who is in both counts as the same, also where the two are of different versions and rows were corrected in between:
    how many of them have another value in the very column that is added up is not known, and it may be one.
    """
    if not all(_has_same_numbers(part, whole, linked) for part in parts):
        return 0
    if len(parts) == 1:
        return int(whole.subjects.symmetric_difference_cardinality(parts[0].subjects))
    one, other = (part.subjects for part in parts)
    return len((whole.subjects ^ (one | other)) | (one & other))


def _has_same_numbers(part: Membership, whole: Membership, linked: Linked) -> bool:
    return part.version == whole.version or linked(part.version, whole.version)


# --- the parts of an answer ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What names the parts of one answer: the question, and the versions at all holders that it is about."""

    program: Program
    tests: Tests
    versions: tuple[tuple[str, str], ...]
    version: str
    """This holder's own."""

    def identity(self, values: Mapping[int, int | None], test: Test) -> str:
        """`values`: the group's integer for each key that is not summed over."""
        keys = sorted(f"{self.program.keys[place].node}={value}" for place, value in values.items())
        condition = self.program.condition
        terms = condition.terms if isinstance(condition, AllOf) else (condition,)
        cut = (test.cut,) if test.cut else ()
        return _digest(self.versions, sorted(map(repr, terms)), keys, test.members, *cut)

    def membership(self, values: Mapping[int, int | None], test: Test, subjects: BitMap) -> Membership:
        return Membership(self.identity(values, test), test.is_chosen, test.columns, self.version, subjects)

    def groups(self, cell: int) -> dict[int, int | None]:
        """The integers of a cell's keys."""
        values: dict[int, int | None] = {}
        for place in reversed(range(len(self.program.keys))):
            cell, own = divmod(cell, len(self.program.keys[place].values))
            values[place] = self.program.keys[place].values[own]
        return values


def memberships(names: Names, members: Mapping[Place, BitMap]) -> dict[Place, Membership]:
    """One for each cell and audited test; where nobody is behind it here, an empty one."""
    tests = names.tests
    return {
        (cell, place): names.membership(names.groups(cell), tests.tests[place], members.get((cell, place), BitMap()))
        for cell in range(names.program.cells)
        for place in tests.audited
    }


def distances(names: Names, own: Mapping[Place, Membership], history: History, limit: int) -> dict[Place, int]:
    """`nearest` of each part, and of the unions that it is in: what cells add up to is released with them. A cell that
    was released before in the same words stays what it was: it adds nothing to a union that it does not have already.
    """
    parts = list(own.values())
    found = {place: nearest(one, history, limit, parts) for place, one in own.items()}
    new = {place for place, one in own.items() if _unknown(one, history) is not None}
    for union in unions(names, own):
        near = nearest(union.whole, history, limit)
        for place in new.intersection(union.places):
            found[place] = min(found[place], near)
    return found


@dataclass(frozen=True)
class Union:
    """Cells that add up to one of a coarser question."""

    places: tuple[Place, ...]
    whole: Membership


def unions(names: Names, own: Mapping[Place, Membership]) -> list[Union]:
    """Every margin of the cells, for each audited test: the margins in the order of `margins_of`, each one's tests in
    theirs."""
    found = []
    for margin in margins_of(names.program):
        values = names.groups(margin.cells[0])
        for test in names.tests.audited:
            subjects = BitMap.union(*(own[cell, test].subjects for cell in margin.cells))
            whole = names.membership({key: values[key] for key in margin.keys}, names.tests.tests[test], subjects)
            found.append(Union(tuple((cell, test) for cell in margin.cells), whole))
    return found


def released_margins(names: Names, own: Mapping[Place, Membership], history: History) -> list[bool]:
    """For each margin, whether a coarser question has shown already what its cells add up to."""
    known = [history.released(union.whole.identity) is not None for union in unions(names, own)]
    width = len(names.tests.audited)
    return [any(known[start : start + width]) for start in range(0, len(known), width)]


def margins(names: Names, own: Mapping[Place, Membership], released: Released, job_id: str) -> list[Membership]:
    """What follows from the released cells by adding them up. Where a cell was withheld, the union of the others is not
    the coarser question's, and has another name."""
    found = []
    for union in unions(names, own):
        passed = [place for place in union.places if released[place]]
        if len(passed) == len(union.places):
            found.append(union.whole)
        elif passed:
            subjects = BitMap.union(*(own[place].subjects for place in passed))
            identity = _digest(union.whole.identity, job_id)
            found.append(replace(union.whole, identity=identity, subjects=subjects))
    return found


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
