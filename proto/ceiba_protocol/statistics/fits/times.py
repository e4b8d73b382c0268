"""Times on a public grid, and their merging until enough subjects leave at each (PROTOCOL §4.1).

A subject leaves at its time, with the event or without. Figures at two neighbouring times differ by those who left
between them, so where rows are not public, times are merged until these are as many as any figure must be about.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ceiba_protocol.errors import BadModel, PlanTooLarge, TotalRejected
from ceiba_protocol.expression import Number
from ceiba_protocol.statistics.fits.base import Floats, Frame, Reading

MAX_TIMES = 20_000

Counts = npt.NDArray[np.int64]


def points(time: Reading, grid: Number) -> int:
    """How many points the grid 0, 1·grid, 2·grid, … has up to the time's declared maximum. Raises BadModel,
    PlanTooLarge."""
    if time.low < 0:
        raise BadModel(problem="the time can be negative, by its schema's bounds; declare a minimum of 0")
    step = float(grid.value)
    if not step > 0:
        raise BadModel(problem="the time grid has no width above 0")
    found = math.ceil(round(time.high / step, 9)) + 1
    if found > MAX_TIMES:
        raise PlanTooLarge(what="number of points of the time grid", limit=MAX_TIMES)
    return found


def places(times: Floats, grid: Number) -> Counts:
    """[rows]: each time's point, the first that is not before it."""
    return np.asarray(np.ceil(np.round(times / float(grid.value), 9)), dtype=np.int64)


def counted(cells: Counts, at: Counts, events: Floats, size: tuple[int, int]) -> Counts:
    """[cells, points, 2]: who leaves with the event, and without. `size`: cells, points."""
    found = np.zeros((*size, 2), dtype=np.int64)
    np.add.at(found, (cells, at, np.where(events > 0, 0, 1)), 1)
    return found


def last_rows(cells: Counts, at: Counts, subjects: Counts) -> Counts:
    """[rows]: 1 in each subject's last row in a cell, 0 in its others: who has several rows leaves once."""
    found = np.ones(len(cells), dtype=np.int64)
    order = np.lexsort((at, subjects, cells))
    same = (cells[order][1:] == cells[order][:-1]) & (subjects[order][1:] == subjects[order][:-1])
    found[order[:-1][same]] = 0
    return found


def subjects_leaving(cells: Counts, at: Counts, subjects: Counts, size: tuple[int, int]) -> Counts:
    """[cells, points]: subjects by their last row. `size`: cells, points."""
    found = np.zeros(size, dtype=np.int64)
    np.add.at(found, (cells, at), last_rows(cells, at, subjects))
    return found


def leaving_of(cells: Counts, at: Counts, subjects: Counts, size: tuple[int, int], *, is_guarded: bool) -> Counts:
    """[cells, points]: what steps are made of: subjects, or for public data every row."""
    if is_guarded:
        return subjects_leaving(cells, at, subjects, size)
    found = np.zeros(size, dtype=np.int64)
    np.add.at(found, (cells, at), 1)
    return found


def counts_in(totals: Sequence[int], frame: Frame) -> Counts:
    """What all holders have counted of their rows. Raises TotalRejected where one of them must have lied."""
    if totals and not 0 <= min(totals) <= max(totals) <= frame.rows:
        raise TotalRejected(problem="a count of rows is below 0, or above all the rows that there can be")
    return np.array(totals, dtype=np.int64)


def ends(leaving: Sequence[int], minimum: int) -> list[int]:
    """The points at which steps end, each the first by which at least `minimum` have left since the last. Whoever is
    left over leaves with the last step. No step, if nobody leaves at all."""
    found, left = [], 0
    for place, count in enumerate(leaving):
        left += count
        if left >= minimum and count:
            found.append(place)
            left = 0
    if left:
        last = max(place for place, count in enumerate(leaving) if count)
        found = [*found[:-1], last]
    return found


def steps_of(ends_of_cells: Sequence[Sequence[int]], size: int) -> Counts:
    """[cells, points]: the number of the step to which a point belongs, counted over all cells."""
    first, found = 0, np.zeros((len(ends_of_cells), size), dtype=np.int64)
    for cell, its_ends in enumerate(ends_of_cells):
        found[cell] = first + np.searchsorted(np.array(its_ends, dtype=np.int64), np.arange(size))
        first += len(its_ends)
    return found


def minimum_of(frame: Frame) -> int:
    """Who must leave in each step."""
    return frame.minimum if frame.is_guarded else 1
