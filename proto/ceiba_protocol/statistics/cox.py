"""Cox's proportional hazards by Newton's method at the holders (PROTOCOL §4.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from gmpy2 import log, mpfr
from pydantic import Field

from ceiba_protocol.canonical import BigInt
from ceiba_protocol.design import DesignColumn, Factor
from ceiba_protocol.errors import (
    BadModel,
    NoEvents,
    PlanTooLarge,
)
from ceiba_protocol.expression import Expression, Number
from ceiba_protocol.statistics.fits.base import (
    GRID_BITS,
    MAX_SUMS,
    Columns,
    Fit,
    FitRows,
    Floats,
    Frame,
    happened,
    of_subjects,
    read_floats,
    to_sums,
)
from ceiba_protocol.statistics.fits.exact import exactly, from_grid, on_grid, triangle
from ceiba_protocol.statistics.fits.newton import (
    Derivatives,
    Model,
    NewtonState,
    Optimum,
    figure_slots,
    read_figures,
    require_spread,
    require_weight,
    step,
)
from ceiba_protocol.statistics.fits.scaling import (
    COUNTS,
    PARTS,
    moment_sums,
    require_rows,
    scaling_of,
)
from ceiba_protocol.statistics.fits.times import (
    Counts,
    counts_in,
    ends,
    leaving_of,
    minimum_of,
    places,
    points,
    steps_of,
)

MAX_TERMS = 5_000_000
"""Of one iteration with Efron's ties: 66,000 of them, ten columns and a thousand events, take 0.05 s."""


class CoxState(NewtonState):
    ends: tuple[tuple[int, ...], ...] = ()
    """For each stratum, the points of the grid at which its steps end."""
    at_zero: BigInt = 0
    """The log-likelihood without covariates."""


@dataclass(frozen=True)
class Prepared:
    cells: Counts
    places: Counts
    events: Floats
    columns: Floats
    subjects: Counts


class Cox(Fit):
    """Maximum partial likelihood (Cox 1972) with ties by Efron (1977) or Breslow (1974), the same optimum as on pooled
    rows; groups are strata, each with its own baseline.

    Times are those of `Survival`; where they are merged, those within a step are ties, stratum by stratum.
    """

    statistic: Literal["cox"] = "cox"
    time: Expression
    event: Expression
    """Above 0 for whom it has happened at that time; whoever else is censored then."""
    columns: Annotated[tuple[DesignColumn, ...], Field(min_length=1)]
    ties: Literal["efron", "breslow"] = "efron"
    grid: Number = Number(value="1")
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 30

    takes_groups = True

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def _parts(self) -> int:
        """Sums of one kind in one step: θ, θ·x, θ·x·xᵀ."""
        size = len(self.columns)
        return 1 + size + size * (size + 1) // 2

    def design(self) -> Sequence[DesignColumn]:
        return [
            *self.columns,
            DesignColumn(name="time", factors=(Factor(value=self.time),)),
            happened(self.event),
        ]

    def check(self, frame: Frame) -> None:
        super().check(frame)
        size = self.points(frame)
        if frame.cells * size + COUNTS + PARTS * len(self.columns) > MAX_SUMS:
            raise PlanTooLarge(what="number of strata times points of the time grid", limit=MAX_SUMS)
        Columns(self, self.columns, frame).bounds()
        if float(self.grid.value) <= 0:
            raise BadModel(problem="the time grid has no width above 0")

    # --- the rounds

    def begin(self, frame: Frame) -> CoxState:
        return CoxState()

    def prepare(self, rows: FitRows, frame: Frame) -> Prepared:
        variables = self.variables()
        (event,) = happened(self.event).factors
        times, events = (rows.values[:, variables.index(value)] for value in (self.time, event.value))
        columns = Columns(self, self.columns, frame).values(rows)
        return Prepared(rows.cells, places(times, self.grid), events, columns, rows.subjects)

    def points(self, frame: Frame) -> int:
        """Of the time grid."""
        return points(frame.readings[self.variables().index(self.time)], self.grid)

    def width(self, state: CoxState, frame: Frame) -> int:
        size = len(self.columns)
        if state.phase == "scaling":
            return COUNTS + PARTS * size + frame.cells * self.points(frame)
        kinds = 2 if self.ties == "efron" else 1
        steps = sum(map(len, state.ends))
        return steps * kinds * self._parts + size + 2 + steps

    def measure(self, state: CoxState, prepared: Prepared, frame: Frame) -> list[int]:
        if state.phase == "scaling":
            moments = moment_sums(prepared.columns, Columns(self, self.columns, frame).bounds(), prepared.subjects)
            cells, at, shape = prepared.cells, prepared.places, (frame.cells, self.points(frame))
            leaving = leaving_of(cells, at, prepared.subjects, shape, is_guarded=frame.is_guarded)
            return to_sums(moments) + [int(count) for count in leaving.reshape(-1)]
        x = state.scaling.apply(prepared.columns)
        beta = np.array([math.ldexp(one, -GRID_BITS) for one in state.beta])
        with np.errstate(over="ignore", invalid="ignore"):
            theta = np.exp(x @ beta)
            of_each = of_subjects(prepared.subjects, theta)
            require_spread(of_each, frame)
            step = steps_of(state.ends, self.points(frame))[prepared.cells, prepared.places]
            died = prepared.events > 0
            steps = sum(map(len, state.ends))
            sums = [_by_step(step, theta, x, steps)]
            if self.ties == "efron":
                sums.append(_by_step(step[died], theta[died], x[died], steps))
            events = np.bincount(step[died], minlength=steps)
            last = [x[died].sum(axis=0), [of_each.sum(), (of_each**2).sum()], events]
        return to_sums(np.concatenate([np.concatenate(sums, axis=1).reshape(-1), *last]))

    def advance(self, state: CoxState, totals: Sequence[int], frame: Frame) -> CoxState:
        with exactly():
            return self._start(totals, frame) if state.phase == "scaling" else self._step(state, totals, frame)

    def _start(self, totals: Sequence[int], frame: Frame) -> CoxState:
        size = COUNTS + PARTS * len(self.columns)
        rows = require_rows(totals, len(self.columns), frame)
        scaling = scaling_of(totals[:size], Columns(self, self.columns, frame), frame, centred=True)
        leaving = counts_in(totals[size:], frame).reshape(frame.cells, -1)
        found = [ends(each, minimum_of(frame)) for each in leaving.tolist()]
        beta = (0,) * len(self.columns)
        return CoxState(phase="newton", scaling=scaling, ends=tuple(map(tuple, found)), rows=rows, beta=beta)

    def _step(self, state: CoxState, totals: Sequence[int], frame: Frame) -> CoxState:
        size, steps = len(self.columns), sum(map(len, state.ends))
        numbers = np.array([from_grid(total, GRID_BITS) for total in totals[: len(totals) - steps]], dtype=object)
        events = counts_in([total >> GRID_BITS for total in totals[len(totals) - steps :]], frame).tolist()
        if not any(events):
            raise NoEvents(what="these rows")
        if self.ties == "efron" and sum(events) * self._parts > MAX_TERMS:
            raise PlanTooLarge(what="number of events times pairs of columns, with Efron's ties", limit=MAX_TERMS)
        require_weight(numbers[-2], numbers[-1], size, frame)
        by_step = numbers[: -size - 2].reshape(steps, -1, self._parts)
        likelihood, score, information = self._partial(state, by_step, numbers[-size - 2 : -2], events)
        at = Derivatives(-likelihood, list(score), list(information))
        found = step(state, at, Model(self.names, False, True, self.max_iterations))
        at_zero = on_grid(likelihood, GRID_BITS) if state.iterations == 0 else state.at_zero
        if not isinstance(found, Optimum):
            return state.model_copy(update={**found, "at_zero": at_zero})
        counts = [mpfr(state.rows), mpfr(sum(events)), mpfr(state.iterations + 1)]
        released = found.figures([likelihood, from_grid(at_zero, GRID_BITS), *counts])
        return state.model_copy(update={"is_final": True, "released": released})

    def _partial(self, state: CoxState, by_step: Any, of_events: Any, events: Sequence[int]) -> tuple[mpfr, Any, Any]:
        """The log partial likelihood, its gradient and the information, from the sums of each step."""
        size = len(self.columns)
        beta = [from_grid(one, GRID_BITS) for one in state.beta]
        likelihood = sum((b * x for b, x in zip(beta, of_events, strict=True)), mpfr(0))
        score, pairs = np.array(of_events, dtype=object), triangle(size)
        information = np.array([mpfr(0)] * len(pairs), dtype=object)
        step = len(events)
        for its_ends in reversed(state.ends):
            risk = np.array([mpfr(0)] * self._parts, dtype=object)
            for _ in its_ends:
                step -= 1
                risk = risk + by_step[step, 0]
                died = by_step[step, 1] if self.ties == "efron" else None
                count = events[step]
                for order in range(count if died is not None else min(count, 1)):
                    times = 1 if died is not None else count
                    at_risk = risk if died is None else risk - died * (mpfr(order) / count)
                    mean = at_risk[1 : 1 + size] / at_risk[0]
                    products = np.array([mean[i] * mean[j] for i, j in pairs], dtype=object)
                    likelihood -= times * log(at_risk[0])
                    score = score - times * mean
                    information = information + times * (at_risk[1 + size :] / at_risk[0] - products)
        return likelihood, score, information

    # --- the answer

    def slots(self, frame: Frame) -> list[int]:
        return figure_slots(len(self.columns), last=5)

    def values(self, state: CoxState, frame: Frame) -> list[int]:
        return list(state.released)

    def read(self, values: Sequence[int]) -> dict[str, Any]:
        """`coefficients`, their `covariance`, `log_likelihood`, `log_likelihood_at_zero`, `rows`, `events`,
        `iterations`."""
        coefficients, covariance, last = read_figures(read_floats(values), len(self.columns))
        likelihood, at_zero, rows, events, iterations = last
        return {
            "names": self.names,
            "coefficients": coefficients,
            "covariance": covariance,
            "log_likelihood": likelihood,
            "log_likelihood_at_zero": at_zero,
            "rows": int(rows),
            "events": int(events),
            "iterations": int(iterations),
        }


def _by_step(step: Counts, theta: Floats, x: Floats, steps: int) -> Floats:
    """[steps, parts]: Σθ, Σθ·x, Σθ·x·xᵀ of the rows that leave in each step."""
    upper = np.triu_indices(x.shape[1])
    parts = np.column_stack([np.ones(len(x)), x, x[:, upper[0]] * x[:, upper[1]]]) * theta[:, None]
    found = np.zeros((steps, parts.shape[1]))
    np.add.at(found, step, parts)
    return found
