"""Second moments of the bins from counts of pairs: what linear and logistic fits are made of.

For each label a matrix with a row and a column for every bin of every feature: how many subjects are in both. Tables
of pairs are raked to the single features' counts (Deming and Stephan 1940), which changes nothing where all were
counted over the same subjects and nothing was withheld.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np

from ceiba.scorecards.counts import BinCounts, PairCounts, Vector
from ceiba_protocol.errors import BadQuestion

RAKINGS = 500
CLOSE = 1e-10
"""Raking stops when no margin is off by more than this share of all subjects."""


@dataclass(frozen=True)
class Moments:
    """Counts of all bins and pairs of bins; features one after the other."""

    features: tuple[BinCounts, ...]
    counts: Vector
    """float64 [good and bad, bins]."""
    pairs: Vector
    """float64 [good and bad, bins, bins]: symmetric, with `counts` on the diagonal."""
    notes: tuple[str, ...]
    """What was withheld, not asked, or had no labels, and what was taken instead."""

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Which bins belong to each feature."""
        ends = np.cumsum([0, *(one.binning.count for one in self.features)])
        return tuple(slice(int(low), int(high)) for low, high in pairwise(ends))

    @cached_property
    def owners(self) -> Vector:
        """float64 [bins, features]: 1 where the bin is the feature's."""
        owners = np.zeros((self.counts.shape[1], len(self.features)))
        for place, bins in enumerate(self.slices):
            owners[bins, place] = 1
        return owners

    @property
    def subjects(self) -> Vector:
        """float64 [2]: good and bad, all together."""
        return np.asarray(self.counts[:, self.slices[0]].sum(axis=1), dtype=np.float64)


def moments_of(features: Sequence[BinCounts], pairs: Sequence[PairCounts]) -> Moments:
    """Raises BadQuestion for pairs of other features or bins."""
    totals = np.max([one.shown().sum(axis=1) for one in features], axis=0)
    filled = [_filled(one, totals) for one in features]
    places = {one.name: place for place, one in enumerate(features)}
    given = dict(_placed(pairs, features, places))
    moments = Moments(tuple(features), np.hstack(filled), np.array([np.diag(side) for side in np.hstack(filled)]), ())
    withheld, unlabelled, absent = 0, list[str](), list[str]()
    for left, right in combinations(range(len(features)), 2):
        name = f"{features[left].name} × {features[right].name}"
        cells = given.get((left, right))
        if cells is None:
            absent.append(name)
        elif len(cells) == 1:
            unlabelled.append(name)
        withheld += 0 if cells is None else int(np.isnan(cells).sum())
        table = _table(cells, filled[left], filled[right])
        moments.pairs[:, moments.slices[left], moments.slices[right]] = table
        moments.pairs[:, moments.slices[right], moments.slices[left]] = table.transpose(0, 2, 1)
    notes = _notes(withheld, unlabelled, absent)
    return Moments(moments.features, moments.counts, moments.pairs, tuple(notes))


def _notes(withheld: int, unlabelled: Sequence[str], absent: Sequence[str]) -> Iterator[str]:
    if withheld:
        yield f"{withheld} cells of pairs were withheld: each stands for what the features' own counts leave for it."
    if unlabelled:
        yield f"Counted without the label, as if associated alike among good and bad: {', '.join(unlabelled)}."
    if absent:
        yield f"Not counted, taken as independent among the good and among the bad: {', '.join(absent)}."


def _filled(counts: BinCounts, totals: Vector) -> Vector:
    """float64 [2, bins], each side with the same total as the other features have: withheld bins share the rest."""
    sides = []
    for side, total in zip((counts.good, counts.bad), totals, strict=True):
        hidden = side.count(None)
        rest = max(0.0, total - sum(one for one in side if one is not None))
        filled = np.array([rest / hidden if one is None else one for one in side])
        sides.append(filled * total / filled.sum())
    return np.array(sides)


def _placed(
    pairs: Sequence[PairCounts], features: Sequence[BinCounts], places: dict[str, int]
) -> Iterator[tuple[tuple[int, int], Vector]]:
    """The tables by the features' places, the first before the second."""
    for pair in pairs:
        for binning in (pair.first, pair.second):
            place = places.get(binning.name)
            if place is None or features[place].binning.labels != binning.labels:
                problem = f"pairs of {' and '.join(pair.names)} are not of the bins of {binning.name} that are given"
                raise BadQuestion(problem=problem, hint="Count pairs with the coarse bins' group_key().")
        left, right = (places[name] for name in pair.names)
        if left == right:
            raise BadQuestion(problem=f"{pair.names[0]} is paired with itself", hint="Leave this pair out.")
        yield ((left, right), pair.cells) if left < right else ((right, left), pair.cells.transpose(0, 2, 1))


def _table(cells: Vector | None, first: Vector, second: Vector) -> Vector:
    """float64 [2, bins of first, bins of second], with margins `first` and `second` (both [2, bins])."""
    independent = np.array([np.outer(*sides) / max(sides[0].sum(), 1.0) for sides in zip(first, second, strict=True)])
    if cells is None:
        return independent
    if len(cells) == 2:
        return _raked(np.where(np.isnan(cells), independent, np.maximum(cells, 0.0)), first, second, None)
    both = np.where(np.isnan(cells[0]), independent.sum(axis=0), np.maximum(cells[0], 0.0))
    both = _raked(both[None], first.sum(axis=0)[None], second.sum(axis=0)[None], None)[0]
    return _raked(independent, first, second, both)


def _raked(table: Vector, first: Vector, second: Vector, both: Vector | None) -> Vector:
    """The table scaled until its margins are these: of each label by `first` and `second`, and of both together by
    `both`, if that is known."""
    size = first.sum()
    for _ in range(RAKINGS):
        if both is not None:
            table = table * _ratio(both, table.sum(axis=0))
        table = table * _ratio(first, table.sum(axis=2))[:, :, None]
        table = table * _ratio(second, table.sum(axis=1))[:, None, :]
        if np.abs(table.sum(axis=2) - first).max() <= CLOSE * size:
            break
    return table


def _ratio(wanted: Vector, found: Vector) -> Vector:
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)
