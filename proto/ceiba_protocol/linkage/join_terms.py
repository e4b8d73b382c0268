"""What the parties of a private join agree on before it begins: its public facts, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from math import isqrt

import numpy as np

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.disclosure.noise import MINIMUM_VARIANCE
from ceiba_protocol.errors import BadJoin, GateTooLarge
from ceiba_protocol.linkage.masked_fields import NOISES, FieldShape

GROUP_MULTIPLE = 16
"""Groups are padded to a multiple of it, so that a size is known to within 15."""
GATE_TAIL = 6
"""Standard deviations below zero at which the gate still takes a count for small. One further down, of probability
below 2^-29, is released: it shows nothing that noise does not allow."""
MAX_TESTS = 200_000
"""Of the gate, over all cells of all groups: half a minute on two cores, 13 MB."""


@dataclass(frozen=True)
class JoinTerms:
    """The public facts of one join of two holders; each role derives them from the signed manifest.

    `context` is 32 bytes, a digest of the manifest and of whatever names this exchange in it. `groupings` has for each
    of A's groupings the number of its groups, empty ones included; a subject is in at most one group of each. `cells`
    has the shapes of B's cells, into any number of which each of its subjects may fall. A cell of a group is released
    if its count is at least `minimum_subjects`, or 0 where that is not hidden. With fewer than `smallest_intersection`
    subjects at both in any grouping, counted with noise if there is noise, nothing is computed. `base_subjects` and
    `joined_subjects` are announced: A has at most so many, B sends exactly so many rows, so that their number tells
    nothing.

    The last of `cells` are `guards`: they have no sums and are never released, but the cell in the place that stands
    for each in `guards` is not released either, in the same group, unless the guard is as large as a cell must be. So
    there is one for every condition behind a cell's sums (PROTOCOL §3.2).

    `plans` has how many of the released cells each of B's plans has: with each grouping these make a table, which is
    released with all of its cells or with none (ADR 0029). Without it, each cell is released by itself.

    With `one_row_for_all` groupings B encrypts each row once, and A sees in which combination of its groups it is: only
    for subjects of whom A may know that B has them. Otherwise B sends its rows anew for each grouping, and A sees no
    more than in as many joins.

    Raises BadJoin for terms that cannot be, GateTooLarge.
    """

    context: bytes
    base: str
    joined: str
    groupings: tuple[int, ...]
    one_row_for_all: bool
    cells: tuple[FieldShape, ...]
    minimum_subjects: int
    hides_zeros: bool
    smallest_intersection: int
    base_subjects: int
    joined_subjects: int
    guards: tuple[int, ...] = ()
    plans: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        most = min(self.base_subjects, self.joined_subjects)
        if len(self.context) != 32 or self.base == self.joined:
            raise self.bad("its context is not a digest, or its two holders are one")
        if not (self.cells and self.groupings) or min(*self.groupings, self.minimum_subjects, most) < 1:
            raise self.bad("it has no groups, no cells, no subjects or no minimum of them")
        if not all(0 <= cell < self.released_cells for cell in self.guards):
            raise self.bad("a cell is guarded that there is not")
        if any(cell.value_widths for cell in self.cells[self.released_cells :]):
            raise self.bad("a guard has sums")
        if self.plans and sum(self.plans) != self.released_cells:
            raise self.bad("its plans do not make its cells")
        if len({bool(cell.noise) for cell in self.cells}) > 1:
            raise self.bad("some of its cells have noise and some have not")
        for cell in self.cells:
            if cell.noise and (len(cell.noise) != 1 + len(cell.value_widths) or min(cell.noise) < MINIMUM_VARIANCE):
                raise self.bad(f"not every count and sum has noise, of a variance of at least {MINIMUM_VARIANCE}")
            if (most + cell.count_tail).bit_length() > cell.count_bits or min(cell.value_widths, default=2) < 2:
                raise self.bad("a field is too narrow for what it may have to hold")
        tests = self.groups * sum(len(self.forbidden(cell)) for cell in self.cells)
        if tests > MAX_TESTS:
            raise GateTooLarge(
                what=f"{len(self.shapes)} joined cells", limit=f"{MAX_TESTS} tests, and it takes {tests}"
            )

    def bad(self, problem: str) -> BadJoin:
        """The error for terms that cannot be, or for a holder's data that they do not cover."""
        return BadJoin(base=self.base, joined=self.joined, problem=problem)

    @property
    def noisy(self) -> bool:
        """Whether both holders add noise to every count and sum."""
        return bool(self.cells[0].noise)

    @property
    def groups(self) -> int:
        """How many there are in all groupings."""
        return sum(self.groupings)

    @cached_property
    def grouping_of(self) -> tuple[int, ...]:
        """Which grouping each group is of: grouping after grouping, the order in all messages."""
        return tuple(grouping for grouping, groups in enumerate(self.groupings) for _ in range(groups))

    @property
    def row_sets(self) -> int:
        """How many times B sends its rows."""
        return 1 if self.one_row_for_all else len(self.groupings)

    def row_set_of(self, grouping: int) -> int:
        """The rows that serve a grouping."""
        return 0 if self.one_row_for_all else grouping

    @property
    def released_cells(self) -> int:
        """How many of the cells may be released, in each group: those before the guards."""
        return len(self.cells) - len(self.guards)

    def released(self, are_large: Sequence[bool]) -> list[bool]:
        """Which of all shapes are released, if these are large enough: what is guarded, with its guards alone; and a
        table of exact figures whole or not at all, so that no other table or total gives a withheld cell away."""
        tested = np.array(are_large, dtype=np.bool_).reshape(self.groups, len(self.cells))
        found = tested.copy()
        for guard, cell in enumerate(self.guards, self.released_cells):
            found[:, cell] &= tested[:, guard]
        found[:, self.released_cells :] = False
        if not self.noisy:
            for groups, cells in product(_slices(self.groupings), _slices(self.plans)):
                found[groups, cells] &= found[groups, cells].all()
        return [bool(one) for one in found.ravel()]

    @property
    def smallest_group(self) -> int:
        """How many points a group has at least."""
        return padded(self.minimum_subjects)

    @property
    def most_points(self) -> int:
        """How many points all groups of all groupings have at most: messages have room for these."""
        return sum(self.base_subjects + groups * self.smallest_group for groups in self.groupings)

    @cached_property
    def shapes(self) -> tuple[FieldShape, ...]:
        """The shape of every cell of every group, group after group: the order in all messages."""
        return self.cells * self.groups

    def forbidden(self, cell: FieldShape) -> range:
        """The counts with which a cell is withheld; noise raises the minimum by two standard deviations (I10)."""
        if not cell.noise:
            return range(0 if self.hides_zeros and not cell.none_is_many else 1, self.minimum_subjects)
        variance = NOISES * cell.noise[0]
        return range(-isqrt(GATE_TAIL**2 * variance), self.minimum_subjects + isqrt(4 * variance))

    def digest(self) -> bytes:
        """32 bytes: SHA256(TLV["ceiba/v1/join", …]) over all fields, numbers as 8 bytes big-endian."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        rules = (self.minimum_subjects, self.hides_zeros, self.smallest_intersection)
        return sha256(
            "ceiba/v1/join",
            self.context,
            self.base.encode(),
            self.joined.encode(),
            _packed(self.groupings),
            _packed((self.one_row_for_all, *rules, self.base_subjects, self.joined_subjects)),
            _packed(self.guards),
            _packed(self.plans),
            *(_packed(cell.numbers()) for cell in self.cells),
        )

    def hash_domain(self) -> bytes:
        """The domain of the hash to the group: in another join the same identifier is another point."""
        return b"ceiba/v1/join" + self.digest()


def _slices(sizes: Sequence[int]) -> list[slice]:
    """Of parts that lie one after the other."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def padded(size: int) -> int:
    """How many points a group of `size` subjects shows: the next multiple of 16, and 16 for an empty one."""
    return max(-(-size // GROUP_MULTIPLE), 1) * GROUP_MULTIPLE


def _packed(numbers: tuple[int, ...]) -> bytes:
    return tlv(*(int(number).to_bytes(8, "big") for number in numbers))
