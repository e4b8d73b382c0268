"""Who is at risk, has the event, and is censored at each time: what Kaplan–Meier, Nelson–Aalen and log-rank tests are
made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ceiba_protocol.canonical import BigInt
from ceiba_protocol.design import DesignColumn, Factor
from ceiba_protocol.errors import PlanTooLarge
from ceiba_protocol.expression import Expression, Number
from ceiba_protocol.statistics.fits.base import (
    MAX_SUMS,
    Fit,
    FitRows,
    FitState,
    Frame,
    happened,
)
from ceiba_protocol.statistics.fits.times import (
    Counts,
    counted,
    counts_in,
    ends,
    leaving_of,
    minimum_of,
    places,
    points,
)


class SurvivalState(FitState):
    phase: Literal["leaving", "events"] = "leaving"
    ends: tuple[int, ...] = ()
    """The points at which steps end, in every group."""
    released: tuple[BigInt, ...] = ()


@dataclass(frozen=True)
class Prepared:
    counts: Counts
    """[cells, points, 2]"""
    leaving: Counts
    """[cells, points]"""


class Survival(Fit):
    """The life table of each group (Kaplan and Meier 1958), exact on its grid of times.

    Times are 0, 1·grid, 2·grid, …; a time between two of them counts at the later one. For public data these are the
    table's times. Otherwise the holders merge them, the same for all groups, until enough subjects of every group leave
    at each. So the first round counts who leaves at each time, and only the second, of merged times, who had the event.
    """

    statistic: Literal["survival"] = "survival"
    time: Expression
    event: Expression
    """Above 0 for whom it has happened at that time; whoever else is censored then."""
    grid: Number = Number(value="1")

    takes_groups = True
    per_cell = True

    def design(self) -> Sequence[DesignColumn]:
        return [
            DesignColumn(name="time", factors=(Factor(value=self.time),)),
            happened(self.event),
        ]

    def sums(self) -> Sequence[Expression]:
        """The rows, and those of them with the event: whoever chose an event that one person has could read when."""
        rows, _, events = super().sums()
        return [rows, events]

    @property
    def cut(self) -> str:
        return f"{self.time.digest()} {self.grid.value}"

    def check(self, frame: Frame) -> None:
        super().check(frame)
        if 2 * frame.cells * points(frame.readings[0], self.grid) > MAX_SUMS:
            raise PlanTooLarge(what="number of groups times points of the time grid", limit=MAX_SUMS // 2)

    def begin(self, frame: Frame) -> SurvivalState:
        return SurvivalState()

    def prepare(self, rows: FitRows, frame: Frame) -> Prepared:
        size = (frame.cells, points(frame.readings[0], self.grid))
        (event,) = happened(self.event).factors
        times, events = rows.values[:, self._place(self.time)], rows.values[:, self._place(event.value)]
        at = places(times, self.grid)
        leaving = leaving_of(rows.cells, at, rows.subjects, size, is_guarded=frame.is_guarded)
        return Prepared(counted(rows.cells, at, events, size), leaving)

    def _place(self, value: Expression) -> int:
        return self.variables().index(value)

    def width(self, state: SurvivalState, frame: Frame) -> int:
        if state.phase == "leaving":
            return frame.cells * points(frame.readings[0], self.grid)
        return 2 * frame.cells * len(state.ends)

    def measure(self, state: SurvivalState, prepared: Prepared, frame: Frame) -> list[int]:
        passed = np.array(frame.passed or [True] * frame.cells)
        if state.phase == "leaving":
            return [int(count) for count in (prepared.leaving * passed[:, None]).reshape(-1)]
        counts = prepared.counts * passed[:, None, None]
        starts = [0, *(end + 1 for end in state.ends[:-1])]
        merged = [counts[:, start : end + 1].sum(axis=1) for start, end in zip(starts, state.ends, strict=True)]
        return [int(count) for step in merged for count in step.reshape(-1)]

    def advance(self, state: SurvivalState, totals: Sequence[int], frame: Frame) -> SurvivalState:
        """Merge the times; then put each step's figures at its end, and 0 at the points within it."""
        if state.phase == "leaving":
            leaving = counts_in(totals, frame).reshape(frame.cells, -1)
            found = common_ends(leaving[leaving.sum(axis=1) > 0], minimum_of(frame))
            return SurvivalState(phase="events", ends=tuple(found))
        released = np.zeros((frame.cells, points(frame.readings[0], self.grid), 2), dtype=np.int64)
        if state.ends:
            merged = counts_in(totals, frame).reshape(len(state.ends), frame.cells, 2)
            released[:, list(state.ends)] = merged.swapaxes(0, 1)
        return state.model_copy(update={"is_final": True, "released": tuple(released.reshape(-1).tolist())})

    def slots(self, frame: Frame) -> list[int]:
        return [frame.rows] * (2 * points(frame.readings[0], self.grid))

    def values(self, state: SurvivalState, frame: Frame) -> list[int]:
        return list(state.released)

    def read(self, values: Sequence[int]) -> dict[str, Any]:
        """Lists of the same length: `times`, and at each `at_risk` just before it, `events`, `censored`."""
        counts = np.array(values, dtype=np.int64).reshape(-1, 2)
        leaving = counts.sum(axis=1)
        at_risk = leaving[::-1].cumsum()[::-1]
        kept = np.flatnonzero(leaving)
        return {
            "times": [float(place) * float(self.grid.value) for place in kept],
            "at_risk": at_risk[kept].tolist(),
            "events": counts[kept, 0].tolist(),
            "censored": counts[kept, 1].tolist(),
        }


def common_ends(leaving: Counts, minimum: int) -> list[int]:
    """[cells, points] → the ends of steps in each of which enough leave in every cell that has anybody.

    All of them are ends of the steps of all cells together: so whatever groups are asked for, between the times at
    which two questions about the same rows end their steps, enough have left.
    """
    if minimum == 1:
        return np.flatnonzero(leaving.sum(axis=0)).tolist()
    of_all, found, start = ends(leaving.sum(axis=0).tolist(), minimum), list[int](), 0
    for end in of_all:
        if leaving[:, start : end + 1].sum(axis=1).min() >= minimum:
            found.append(end)
            start = end + 1
    return [*found[:-1], of_all[-1]] if of_all else []
