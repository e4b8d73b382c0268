"""k-means by Lloyd's method at the holders (PROTOCOL §4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from gmpy2 import mpfr, sqrt
from pydantic import Field

from ceiba_protocol.canonical import BigInt
from ceiba_protocol.design import DesignColumn
from ceiba_protocol.errors import ClusterTooSmall, NotConverged
from ceiba_protocol.statistics.fits.base import (
    FLOAT_SLOTS,
    GRID_BITS,
    Columns,
    Fit,
    FitRows,
    FitState,
    Floats,
    Frame,
    float_values,
    read_floats,
    to_sums,
)
from ceiba_protocol.statistics.fits.exact import exactly, from_grid, on_grid, symmetric
from ceiba_protocol.statistics.fits.scaling import COUNTS, PARTS, Scaling, moment_sums, require_rows, scaling_of

POWER_STEPS = 60
"""Of the power method for the first principal axis; the start need not be exact, only the same everywhere."""
REACH = 1.5
"""The first centres lie evenly on the axis, up to so many standard deviations from the mean."""


class KMeansState(FitState):
    """Centres are multiples of 2^-40 of scaled columns, cluster after cluster."""

    phase: Literal["scaling", "axis", "counting", "lloyd"] = "scaling"
    scaling: Scaling = Scaling()
    centres: tuple[BigInt, ...] = ()
    iterations: int = 0
    released: tuple[BigInt, ...] = ()


@dataclass(frozen=True)
class Prepared:
    columns: Floats
    subjects: npt.NDArray[np.int64]


class KMeans(Fit):
    """Centres and sizes of k clusters of the standardised columns (Lloyd 1982), each row at its nearest centre.

    The first centres follow from the data, and from nothing that a merchant says: evenly along the first principal axis
    (Su and Dy 2007). The same as Lloyd's method from that start on pooled rows.

    Sums over a cluster of one would be a row that every holder reads. So where rows are not public, a round that only
    counts each cluster's subjects, capped as in the gate, goes before each round of sums.
    """

    statistic: Literal["kmeans"] = "kmeans"
    columns: Annotated[tuple[DesignColumn, ...], Field(min_length=1)]
    clusters: Annotated[int, Field(ge=2, le=50)]
    max_iterations: Annotated[int, Field(ge=1, le=300)] = 100

    def design(self) -> Sequence[DesignColumn]:
        return self.columns

    def check(self, frame: Frame) -> None:
        super().check(frame)
        Columns(self, self.columns, frame).bounds()

    # --- the rounds

    def begin(self, frame: Frame) -> KMeansState:
        return KMeansState()

    def prepare(self, rows: FitRows, frame: Frame) -> Prepared:
        return Prepared(Columns(self, self.columns, frame).values(rows), rows.subjects)

    def width(self, state: KMeansState, frame: Frame) -> int:
        size = len(self.columns)
        match state.phase:
            case "scaling":
                return COUNTS + PARTS * size
            case "axis":
                return size * (size + 1) // 2
            case "counting":
                return self.clusters
        return self.clusters * (1 + size) + 1

    def measure(self, state: KMeansState, prepared: Prepared, frame: Frame) -> list[int]:
        if state.phase == "scaling":
            bounds = Columns(self, self.columns, frame).bounds()
            return to_sums(moment_sums(prepared.columns, bounds, prepared.subjects))
        x = state.scaling.apply(prepared.columns)
        size = len(self.columns)
        if state.phase == "axis":
            return to_sums((x.T @ x)[np.triu_indices(size)])
        centres = np.ldexp(np.array(state.centres, dtype=np.float64), -GRID_BITS).reshape(-1, size)
        squares = ((x[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
        nearest = squares.argmin(axis=1) if len(x) else np.zeros(0, dtype=np.int64)
        if state.phase == "counting":
            pairs = np.unique(np.column_stack([nearest, prepared.subjects]), axis=0)
            counts = np.bincount(pairs[:, 0], minlength=self.clusters)
            return [int(count) if frame.cap is None else min(int(count), frame.cap) for count in counts]
        found = np.zeros((self.clusters, 1 + size))
        np.add.at(found, nearest, np.column_stack([np.ones(len(x)), x]))
        return to_sums([*found.reshape(-1), float(squares.min(axis=1).sum()) if len(x) else 0.0])

    def advance(self, state: KMeansState, totals: Sequence[int], frame: Frame) -> KMeansState:
        with exactly():
            if state.phase == "scaling":
                require_rows(totals, self.clusters, frame)
                scaling = scaling_of(totals, Columns(self, self.columns, frame), frame, centred=True)
                return KMeansState(phase="axis", scaling=scaling)
            if state.phase == "axis":
                return self._moved(state, self._first(totals), frame)
            if state.phase == "counting":
                least = frame.minimum if frame.least is None else frame.least
                if min(totals) < least:
                    raise ClusterTooSmall(least=least)
                return state.model_copy(update={"phase": "lloyd"})
            return self._step(state, totals, frame)

    @staticmethod
    def _moved(state: KMeansState, centres: Sequence[int], frame: Frame) -> KMeansState:
        phase = "counting" if frame.is_guarded else "lloyd"
        return state.model_copy(update={"phase": phase, "centres": tuple(centres)})

    def _first(self, totals: Sequence[int]) -> list[int]:
        size = len(self.columns)
        matrix = symmetric([from_grid(total, GRID_BITS) for total in totals], size)
        axis = [mpfr(1)] * size
        for _ in range(POWER_STEPS):
            moved = [sum((a * b for a, b in zip(row, axis, strict=True)), mpfr(0)) for row in matrix]
            length = sqrt(sum((one * one for one in moved), mpfr(0)))
            axis = [one / length for one in moved] if length > 0 else axis
        places = [2 * REACH * mpfr(k) / (self.clusters - 1) - REACH for k in range(self.clusters)]
        return [on_grid(place * one * sqrt(mpfr(size)), GRID_BITS) for place in places for one in axis]

    def _step(self, state: KMeansState, totals: Sequence[int], frame: Frame) -> KMeansState:
        size = len(self.columns)
        if state.iterations >= self.max_iterations:
            raise NotConverged(iterations=self.max_iterations)
        centres: list[int] = []
        counts = [totals[at] >> GRID_BITS for at in range(0, self.clusters * (1 + size), 1 + size)]
        if min(counts) < 1:
            raise ClusterTooSmall(least=1)
        for cluster, count in enumerate(counts):
            sums = totals[cluster * (1 + size) + 1 : (cluster + 1) * (1 + size)]
            centres += [on_grid(from_grid(total, GRID_BITS) / count, GRID_BITS) for total in sums]
        if tuple(centres) == state.centres:
            return self._final(state, counts, totals[-1])
        return self._moved(state, centres, frame).model_copy(update={"iterations": state.iterations + 1})

    def _final(self, state: KMeansState, counts: Sequence[int], within: int) -> KMeansState:
        size = len(self.columns)
        shifts, spreads = state.scaling.shifts(), state.scaling.spreads()
        centres = [
            from_grid(centre, GRID_BITS) * spreads[place % size] + shifts[place % size]
            for place, centre in enumerate(state.centres)
        ]
        figures = [*centres, *map(mpfr, counts), *spreads, from_grid(within, GRID_BITS), mpfr(state.iterations)]
        return state.model_copy(update={"is_final": True, "released": tuple(float_values(map(float, figures)))})

    # --- the answer

    def slots(self, frame: Frame) -> list[int]:
        size = len(self.columns)
        return [*FLOAT_SLOTS] * (self.clusters * (size + 1) + size + 2)

    def values(self, state: KMeansState, frame: Frame) -> list[int]:
        return list(state.released)

    def read(self, values: Sequence[int]) -> dict[str, Any]:
        """`centres` [clusters][columns] in the columns' units, `counts` of rows, `spreads` (each column's standard
        deviation, by which it was divided), `within` (the sum of squared distances so divided), `iterations`."""
        size, figures = len(self.columns), read_floats(values)
        centres = [figures[at : at + size] for at in range(0, self.clusters * size, size)]
        rest = figures[self.clusters * size :]
        return {
            "names": [column.name for column in self.columns],
            "centres": centres,
            "counts": [int(count) for count in rest[: self.clusters]],
            "spreads": rest[self.clusters : self.clusters + size],
            "within": rest[-2],
            "iterations": int(rest[-1]),
        }
