"""What joined jobs answer, as a scorecard's maker holds it: how many subjects of each label are in each bin.

Counts come from `BinCounts.from_frame` (a result), or `of_rows` (a bank's own rows). A cell that holders withheld is
None, and stays so: what is made of it says what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ceiba.scorecards.binning import Binning, truth_of
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.schema import nearest
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    import pandas

Vector = npt.NDArray[np.float64]
Count = float | None
"""A number of subjects, whole unless it carries noise (then below 0 counts as 0); None where it was withheld."""
GOOD, BAD = 0, 1
"""Places of the labels in arrays."""


def _checked(binning: Binning, counts: Sequence[Any], what: str) -> tuple[Count, ...]:
    if len(counts) != binning.count:
        hint = "Give one for each of its labels, the last for missing values; None where it was withheld."
        raise BadQuestion(problem=f"{binning.name} has {binning.count} bins, and {len(counts)} {what}", hint=hint)
    return tuple(map(_count, counts))


def _count(value: Any) -> Count:
    """None for what was withheld, in whichever way a frame says so. Raises BadQuestion for what is no number."""
    if _is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = inf
    if not isfinite(number):
        raise BadQuestion(problem=f"a count is {value!r}", hint="Counts are numbers, or None where withheld.")
    return max(0.0, number)


@dataclass(frozen=True)
class Population:
    """Subjects in each bin of a feature (or of a score), whatever their label."""

    binning: Binning
    n: tuple[Count, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _checked(self.binning, self.n, "counts"))

    @classmethod
    def of_rows(cls, binning: Binning, frame: pandas.DataFrame) -> Population:
        """Of rows of one's own. Raises BadQuestion, UnknownCategory."""
        return cls(binning, tuple(np.bincount(binning.places(frame), minlength=binning.count).tolist()))

    @classmethod
    def from_frame(cls, binning: Binning, frame: pandas.DataFrame, *, n: str = "n") -> Population:
        """From a result by `binning.group_key()`. Raises BadQuestion."""
        return cls(binning, tuple(_cells(frame, (binning,), None, n)[0]))


@dataclass(frozen=True)
class BinCounts:
    """Subjects of each label in each bin of one feature, in the order of `binning.labels`."""

    binning: Binning
    good: tuple[Count, ...]
    bad: tuple[Count, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "good", _checked(self.binning, self.good, "counts of good"))
        object.__setattr__(self, "bad", _checked(self.binning, self.bad, "counts of bad"))

    @classmethod
    def of_rows(cls, binning: Binning, frame: pandas.DataFrame, bad: Sequence[Any]) -> BinCounts:
        """Of rows of one's own; `bad` has a truth value for each. Raises BadQuestion, UnknownCategory."""
        places, labels = binning.places(frame), truths(bad)
        sides = [np.bincount(places[labels == side], minlength=binning.count).tolist() for side in (False, True)]
        return cls(binning, tuple(sides[GOOD]), tuple(sides[BAD]))

    @classmethod
    def from_frame(cls, binning: Binning, frame: pandas.DataFrame, *, bad: str = "bad", n: str = "n") -> BinCounts:
        """From a result grouped by `binning.group_key()` and the label: a truth value in the column `bad`.

        A cell without a row has nobody; one with NULL was withheld; rows without a label are left out.
        Raises BadQuestion.
        """
        cells = _cells(frame, (binning,), bad, n)
        return cls(binning, tuple(cells[GOOD]), tuple(cells[BAD]))

    @property
    def name(self) -> str:
        """The feature's."""
        return self.binning.name

    @property
    def n(self) -> tuple[Count, ...]:
        """Subjects in each bin; None where a label's were withheld."""
        return tuple(None if None in pair else sum(pair) for pair in zip(self.good, self.bad, strict=True))  # type: ignore[arg-type]  # no None

    @property
    def withheld(self) -> tuple[int, ...]:
        """Places of the bins of which a count was withheld."""
        return tuple(place for place, one in enumerate(self.n) if one is None)

    def shown(self) -> Vector:
        """float64 [2, bins]: good and bad; 0 for both in a bin of which a count was withheld."""
        hidden = self.withheld
        sides = [[0.0 if place in hidden else one for place, one in enumerate(side)] for side in (self.good, self.bad)]
        return np.array(sides, dtype=np.float64)

    def merged(self, groups: Sequence[Sequence[int]]) -> BinCounts:
        """The counts of `binning.merged(groups)`. What was withheld counts as nobody in a joined bin: the counts of
        such a bin are too low by fewer than the smallest group that is released, for each bin withheld."""
        parts = [*groups, [self.binning.missing]]
        sides = [
            tuple(side[group[0]] if len(group) == 1 else sum(side[place] or 0.0 for place in group) for group in parts)
            for side in (self.good, self.bad)
        ]
        return BinCounts(self.binning.merged(groups), *sides)


@dataclass(frozen=True)
class PairCounts:
    """Subjects in each pair of bins of two features, by label or not."""

    first: Binning
    second: Binning
    cells: Vector
    """float64 [labels, bins of first, bins of second]: good and bad, or one table of both; NaN where withheld."""

    def __post_init__(self) -> None:
        shape = np.shape(self.cells)
        if len(shape) != 3 or shape[0] not in (1, 2) or shape[1:] != (self.first.count, self.second.count):
            wanted = f"[1 or 2, {self.first.count}, {self.second.count}]"
            hint = "The last bin of each is for missing values."
            raise BadQuestion(problem=f"counts of {self.names} are {shape}, not {wanted}", hint=hint)

    @property
    def names(self) -> tuple[str, str]:
        return self.first.name, self.second.name

    @property
    def by_label(self) -> bool:
        return len(self.cells) == 2

    @classmethod
    def of_rows(
        cls, first: Binning, second: Binning, frame: pandas.DataFrame, bad: Sequence[Any] | None = None
    ) -> PairCounts:
        """Of rows of one's own, by label if there are labels. Raises BadQuestion, UnknownCategory."""
        places = first.places(frame) * second.count + second.places(frame)
        labels = np.zeros(len(frame), dtype=bool) if bad is None else truths(bad)
        size = first.count * second.count
        sides = [
            np.bincount(places[labels == side], minlength=size) for side in (False, True)[: 1 if bad is None else 2]
        ]
        return cls(first, second, np.array(sides, dtype=np.float64).reshape(-1, first.count, second.count))

    @classmethod
    def from_frame(
        cls, first: Binning, second: Binning, frame: pandas.DataFrame, *, bad: str | None = None, n: str = "n"
    ) -> PairCounts:
        """From a result grouped by both features' `group_key()`, and by the label if `bad` names its column; otherwise
        as `BinCounts.from_frame`."""
        flat = [[np.nan if one is None else one for one in side] for side in _cells(frame, (first, second), bad, n)]
        return cls(first, second, np.array(flat, dtype=np.float64).reshape(-1, first.count, second.count))


def truths(values: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """bool [rows]: labels as truth values. Raises BadQuestion for anything but true and false, 1 and 0."""
    if any(map(_is_missing, values)):
        raise BadQuestion(problem="a row has no label", hint="Leave out rows whose outcome is not known yet.")
    return np.array([truth_of(value) for value in values], dtype=np.bool_)


def _is_missing(value: Any) -> bool:
    """Whether a frame's cell says nothing: None, NaN, NA."""
    import pandas

    return value is WITHHELD or bool(pandas.isna(value))


def _cells(frame: pandas.DataFrame, binnings: Sequence[Binning], bad: str | None, n: str) -> list[list[Count]]:
    """For each label, the counts of all cells, the last feature's bins fastest."""
    wanted = [one.name for one in binnings] + ([] if bad is None else [bad]) + [n]
    for name in wanted:
        if name not in frame.columns:
            problem = f"the result has no column {name}; the nearest is {nearest(name, map(str, frame.columns))}"
            raise BadQuestion(problem=problem, hint="Group by group_key(), by the label, and count() as `n`.")
    places = [{label: place for place, label in enumerate(one.labels)} for one in binnings]
    size = int(np.prod([one.count for one in binnings]))
    found: list[list[Count]] = [[0.0] * size for _ in range(1 if bad is None else 2)]
    for row in frame[wanted].itertuples(index=False, name=None):
        if bad is not None and _is_missing(row[-2]):
            continue
        label = bad is not None and truth_of(row[-2])
        cell = 0
        for one, known, value in zip(binnings, places, row, strict=False):
            if value not in known:
                hint = "Group by the same binning's group_key()."
                raise BadQuestion(problem=f"{value!r} is no bin of {one.name}", hint=hint)
            cell = cell * one.count + known[value]
        found[int(label)][cell] = _count(row[-1])
    return found
