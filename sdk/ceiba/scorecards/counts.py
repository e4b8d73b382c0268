"""What joined jobs answer, as a scorecard's maker holds it: how many subjects of each label are in each bin.

Counts come from `BinCounts.from_frame` (a result), or `of_rows` (a bank's own rows). A cell that holders withheld is
None, and stays so: what is made of it says what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ceiba.scorecards.binning import Binning, pair_labels, pair_name, truth_of
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
COUNT_COLUMNS = ("n", "rows", "count", "subjects")
"""What questions call how many there are."""


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
    def from_frame(cls, binning: Binning, frame: pandas.DataFrame, *, n: str = "") -> Population:
        """From a result by `binning.group_key()`; otherwise as `BinCounts.from_frame`. Raises BadQuestion."""
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
    def from_frame(
        cls, binning: Binning, frame: pandas.DataFrame, *, bad: str = "bad", value: object = True, n: str = ""
    ) -> BinCounts:
        """From a result grouped by `binning.group_key()` and by the label: `bad` is the label's column, and `value`
        what says there that a subject is bad. `n` is the column of counts, by default `n`, `rows`, `count` or
        `subjects`.

        A cell without a row has nobody, one with NULL was withheld; rows without a label are left out, and what the
        frame tells apart beside the feature and the label is added up. Raises BadQuestion.
        """
        cells = _cells(frame, (binning,), Label(bad, value), n)
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
        cls,
        first: Binning,
        second: Binning,
        frame: pandas.DataFrame,
        *,
        bad: str = "",
        value: object = True,
        n: str = "",
    ) -> PairCounts:
        """From a result grouped by both features' keys, or by their `pair_key`, and by the label if `bad` names its
        column; otherwise as `BinCounts.from_frame`."""
        cells = _cells(frame, (first, second), Label(bad, value) if bad else None, n)
        flat = np.array([[np.nan if one is None else one for one in side] for side in cells], dtype=np.float64)
        return cls(first, second, flat.reshape(-1, first.count, second.count))


@dataclass(frozen=True)
class Label:
    """Which column of a result says whether subjects are bad, and by which value."""

    column: str
    value: object

    def of(self, value: Any) -> bool | None:
        """None for a missing label. Raises BadQuestion for neither true nor false where that is asked."""
        if _is_missing(value):
            return None
        return truth_of(value) if self.value is True else bool(value == self.value)


def truths(values: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """bool [rows]: labels as truth values. Raises BadQuestion for anything but true and false, 1 and 0."""
    if any(map(_is_missing, values)):
        raise BadQuestion(problem="a row has no label", hint="Leave out rows whose outcome is not known yet.")
    return np.array([truth_of(value) for value in values], dtype=np.bool_)


def _is_missing(value: Any) -> bool:
    """Whether a frame's cell says nothing: None, NaN, NA."""
    import pandas

    return value is WITHHELD or bool(pandas.isna(value))


def _cells(frame: pandas.DataFrame, binnings: Sequence[Binning], label: Label | None, n: str) -> list[list[Count]]:
    """For each label, the counts of all cells, the last feature's bins fastest. Other columns' cells are added up."""
    size = prod(one.count for one in binnings)
    found: list[list[Count]] = [[0.0] * size for _ in range(1 if label is None else 2)]
    keys = _keys(frame, binnings)
    counts = frame[_count_column(frame, n)]
    labels = [False] * len(frame) if label is None else [label.of(value) for value in _column(frame, label.column)]
    for row, is_bad, value in zip(zip(*(frame[name] for name, _ in keys), strict=True), labels, counts, strict=True):
        if is_bad is None:
            continue
        cell = 0
        for (name, places), text in zip(keys, row, strict=True):
            if text not in places:
                raise BadQuestion(problem=f"{text!r} is no bin of {name}", hint="Group by the same binning's key.")
            cell = cell * len(places) + places[text]
        count, before = _count(value), found[is_bad][cell]
        found[is_bad][cell] = None if count is None or before is None else before + count
    return found


def _keys(frame: pandas.DataFrame, binnings: Sequence[Binning]) -> list[tuple[str, dict[str, int]]]:
    """The columns of the bins, with the place of each label: one for each feature, or one for a pair."""
    if len(binnings) == 2 and (name := pair_name(*binnings)) in frame.columns:
        return [(name, {label: place for place, label in enumerate(pair_labels(*binnings))})]
    for one in binnings:
        _column(frame, one.name)
    return [(one.name, {label: place for place, label in enumerate(one.labels)}) for one in binnings]


def _column(frame: pandas.DataFrame, name: str) -> Any:
    if name not in frame.columns:
        problem = f"the result has no column {name}; the nearest is {nearest(name, map(str, frame.columns))}"
        raise BadQuestion(problem=problem, hint="Group by the binning's key and by the label.")
    return frame[name]


def _count_column(frame: pandas.DataFrame, name: str) -> str:
    """The column of counts: the one named, or the one that questions call so."""
    known = [name] if name else [one for one in COUNT_COLUMNS if one in frame.columns]
    if len(known) != 1 or known[0] not in frame.columns:
        raise BadQuestion(problem="it is not clear which column has the counts", hint='Name it: n="rows".')
    return known[0]
