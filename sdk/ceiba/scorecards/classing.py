"""Coarse bins from fine ones: neighbours that hold too few, or hardly differ, are joined (Kerber 1992, ChiMerge)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ceiba.scorecards.counts import BAD, GOOD, BinCounts, Vector
from ceiba_protocol.errors import BadQuestion

DIFFERENT = 3.841
"""χ² with one degree of freedom at 5 %: neighbours below it do not differ."""


def coarse(
    counts: BinCounts, *, min_share: float = 0.05, least: int = 10, max_bins: int = 8, monotone: bool = False
) -> BinCounts:
    """Counts in coarser bins, which are `coarse(...).binning`.

    Joined are neighbours (categories: those of the nearest share of bad) whose χ² is smallest, while a bin has less
    than `min_share` of the subjects or fewer than `least` of a label, while there are more than `max_bins`, while two
    do not differ at 5 %, and, if `monotone`, while the share of bad turns on its way. The bin of missing values stays
    by itself; with fewer than `least` of a label its counts are taken as withheld, so it is neutral. A withheld bin is
    joined to a neighbour, where it counts as nobody: ask again with the coarse bins for exact counts, and take as
    `least` the smallest group that the agreement releases. Raises BadQuestion.
    """
    if not 0 <= min_share <= 1 or least < 0 or max_bins < 1:
        problem = f"bins of at least {min_share:g} of all and {least} of a label, at most {max_bins}, are not possible"
        raise BadQuestion(problem=problem, hint="Use a share between 0 and 1, and at least one bin.")
    known = np.array([[one or 0.0 for one in side] for side in (counts.good, counts.bad)])
    classes = _Classes(known[:, : counts.binning.missing], ordered=not counts.binning.groups)
    fewest = min_share * known.sum()
    rising = classes.rises() if monotone else None
    while len(classes.groups) > 1:
        place = classes.next_pair(fewest, least, max_bins, rising)
        if place is None:
            break
        classes.join(place)
    made = counts.merged(classes.in_order())
    return _without_missing(made) if known[:, -1].any() and known[:, -1].min() < least else made


def _without_missing(counts: BinCounts) -> BinCounts:
    return BinCounts(counts.binning, (*counts.good[:-1], None), (*counts.bad[:-1], None))


class _Classes:
    """Groups of fine bins, in an order in which neighbours may be joined, and their counts: float64 [2, groups]."""

    def __init__(self, fine: Vector, *, ordered: bool) -> None:
        self._ordered = ordered
        order = list(range(fine.shape[1])) if ordered else np.argsort(_bad_rates(fine), kind="stable").tolist()
        self.groups: list[list[int]] = [[place] for place in order]
        self._counts = fine[:, order]

    def rises(self) -> bool:
        """Whether the share of bad rises along the order, by and large."""
        sizes, rates = self._counts.sum(axis=0), _bad_rates(self._counts)
        places = np.arange(len(sizes)) - np.average(np.arange(len(sizes)), weights=sizes + 1e-9)
        return bool((sizes * places * rates).sum() >= 0)

    def next_pair(self, fewest: float, least: int, max_bins: int, rising: bool | None) -> int | None:
        """The left one of the pair to join next; None if all is as it should be."""
        chi_squared, sizes = _chi_squared(self._counts), self._counts.sum(axis=0)
        lacking = (sizes < fewest) | (self._counts < least).any(axis=0)
        if lacking.any():
            smallest = int(np.argmin(np.where(lacking, sizes, np.inf)))
            allowed = [place for place in (smallest - 1, smallest) if 0 <= place < len(chi_squared)]
        elif len(sizes) > max_bins or chi_squared.min() < DIFFERENT:
            allowed = list(range(len(chi_squared)))
        else:
            steps = np.diff(_bad_rates(self._counts))
            against = np.zeros(len(steps)) if rising is None else steps * (-1 if rising else 1)
            allowed = np.flatnonzero(against > 0).tolist()
        return min(allowed, key=lambda place: float(chi_squared[place]), default=None)

    def join(self, place: int) -> None:
        self.groups[place] += self.groups.pop(place + 1)
        self._counts[:, place] += self._counts[:, place + 1]
        self._counts = np.delete(self._counts, place + 1, axis=1)

    def in_order(self) -> Sequence[Sequence[int]]:
        """The groups, each in the fine bins' order."""
        groups = [sorted(group) for group in self.groups]
        return groups if self._ordered else sorted(groups)


def _bad_rates(counts: Vector) -> Vector:
    """float64 [bins]; the share in all for a bin without anybody."""
    sizes = counts.sum(axis=0)
    overall = counts[BAD].sum() / max(sizes.sum(), 1.0)
    return np.asarray(np.where(sizes > 0, counts[BAD] / np.maximum(sizes, 1e-300), overall), np.float64)


def _chi_squared(counts: Vector) -> Vector:
    """float64 [bins − 1]: Pearson's χ² of the labels in each two neighbours; 0 where one label has nobody."""
    left, right = counts[:, :-1], counts[:, 1:]
    n, rows, columns = (left + right).sum(axis=0), left + right, (left.sum(axis=0), right.sum(axis=0))
    product = rows[GOOD] * rows[BAD] * columns[0] * columns[1]
    crossed = left[GOOD] * right[BAD] - left[BAD] * right[GOOD]
    return np.asarray(np.where(product > 0, n * crossed**2 / np.where(product > 0, product, 1.0), 0.0), np.float64)
