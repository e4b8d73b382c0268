"""Generalised linear models by Newton's method at the holders (PROTOCOL §4.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from gmpy2 import log, mpfr
from pydantic import Field

from ceiba_protocol.design import DesignColumn
from ceiba_protocol.errors import (
    BadModel,
)
from ceiba_protocol.expression import Comparing, Expression, Number, number
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.fits.base import (
    GRID_BITS,
    Columns,
    Fit,
    FitRows,
    Floats,
    Frame,
    of_subjects,
    read_floats,
    to_sums,
)
from ceiba_protocol.statistics.fits.exact import exactly, from_grid, on_grid
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


class Family(StrEnum):
    """Each with its usual link: identity, logit, log, log."""

    GAUSSIAN = "gaussian"
    BINOMIAL = "binomial"
    POISSON = "poisson"
    NEGATIVE_BINOMIAL = "negative_binomial"


@dataclass(frozen=True)
class Prepared:
    columns: Floats
    response: Floats
    offset: Floats
    weights: Floats
    subjects: npt.NDArray[np.int64]


class GLM(Fit):
    """Maximum likelihood (McCullagh and Nelder 1989, §2.5): the same optimum as on pooled rows.

    A weight multiplies a row's share of the likelihood; rows with a weight of 0 or less are left out. A negative
    binomial's `alpha` is its given dispersion: variance μ + alpha·μ².
    """

    statistic: Literal["glm"] = "glm"
    family: Family
    response: DesignColumn
    columns: tuple[DesignColumn, ...]
    intercept: bool = True
    offset: DesignColumn | None = None
    weights: DesignColumn | None = None
    alpha: Number = Number(value="1")
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 30

    @property
    def parameters(self) -> int:
        return len(self.columns) + self.intercept

    @property
    def names(self) -> list[str]:
        return [*(["Intercept"] if self.intercept else []), *(column.name for column in self.columns)]

    def design(self) -> Sequence[DesignColumn]:
        others = [one for one in (self.offset, self.weights) if one is not None]
        return [*self.columns, self.response, *others]

    def conditions(self) -> Sequence[Expression]:
        if self.weights is None:
            return ()
        (factor,) = self.weights.factors
        return [Comparing(comparison=Comparison.GREATER, left=factor.value, right=number(0))]

    def check(self, frame: Frame) -> None:
        super().check(frame)
        if self.parameters == 0:
            raise BadModel(problem="it has neither a column nor an intercept")
        if self.weights is not None and len(self.weights.factors) != 1:
            raise BadModel(problem="weights are one column, not a product")
        ((low, high),) = Columns(self, [self.response], frame).bounds()
        if self.family is Family.BINOMIAL and not 0 <= low <= high <= 1:
            raise BadModel(problem=f"the outcome {self.response.name} is not between 0 and 1, by its schema's bounds")
        if self.family in (Family.POISSON, Family.NEGATIVE_BINOMIAL) and low < 0:
            raise BadModel(problem=f"the outcome {self.response.name} can be negative, by its schema's bounds")
        if self.family is Family.NEGATIVE_BINOMIAL and not float(self.alpha.value) > 0:
            raise BadModel(problem="the dispersion alpha of a negative binomial is not above 0")
        Columns(self, self.columns, frame).bounds()

    # --- the rounds

    def begin(self, frame: Frame) -> NewtonState:
        return NewtonState()

    def prepare(self, rows: FitRows, frame: Frame) -> Prepared:
        def one(column: DesignColumn | None, otherwise: float) -> Floats:
            if column is None:
                return np.full(len(rows.values), otherwise)
            return Columns(self, [column], frame).values(rows)[:, 0]

        columns = Columns(self, self.columns, frame).values(rows)
        others = one(self.response, 0.0), one(self.offset, 0.0), one(self.weights, 1.0)
        return Prepared(columns, *others, rows.subjects)

    def width(self, state: NewtonState, frame: Frame) -> int:
        size = self.parameters
        if state.phase == "scaling":
            return COUNTS + PARTS * len(self.columns) + 3
        return size * (size + 1) // 2 + size + 4

    def measure(self, state: NewtonState, prepared: Prepared, frame: Frame) -> list[int]:
        if state.phase == "scaling":
            bounds = Columns(self, self.columns, frame).bounds()
            with np.errstate(over="ignore"):
                exposure = np.exp(prepared.offset) if self._has_log_link else prepared.offset
            sums = [prepared.weights.sum(), (prepared.weights * prepared.response).sum()]
            sums.append((prepared.weights * exposure).sum())
            return to_sums([*moment_sums(prepared.columns, bounds, prepared.subjects), *map(float, sums)])
        return to_sums(self._newton_sums(state, prepared, frame))

    @property
    def _has_log_link(self) -> bool:
        return self.family in (Family.POISSON, Family.NEGATIVE_BINOMIAL)

    def _newton_sums(self, state: NewtonState, prepared: Prepared, frame: Frame) -> Floats:
        """XᵀWX's upper triangle, the score, deviance, log-likelihood, Σw, Σw², of these w a subject's."""
        scaled = state.scaling.apply(prepared.columns)
        x = np.column_stack([np.ones(len(scaled)), scaled]) if self.intercept else scaled
        beta = np.array([math.ldexp(one, -GRID_BITS) for one in state.beta])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            working = _working(self.family, x @ beta + prepared.offset, prepared, float(self.alpha.value))
            weights = working.weights
            of_each = of_subjects(prepared.subjects, weights)
            require_spread(of_each, frame)
            information = (x * weights[:, None]).T @ x
            score = x.T @ working.residuals
            last = [working.deviance, working.likelihood, of_each.sum(), (of_each**2).sum()]
        upper = information[np.triu_indices(self.parameters)]
        return np.concatenate([upper, score, last])

    def advance(self, state: NewtonState, totals: Sequence[int], frame: Frame) -> NewtonState:
        with exactly():
            return self._start(totals, frame) if state.phase == "scaling" else self._step(state, totals, frame)

    def _start(self, totals: Sequence[int], frame: Frame) -> NewtonState:
        *moments, weight, response, exposure = totals
        rows = require_rows(moments, self.parameters, frame)
        columns = Columns(self, self.columns, frame)
        scaling = scaling_of(moments, columns, frame, centred=self.intercept)
        beta = [0] * self.parameters
        if self.intercept:
            beta[0] = on_grid(_link_of_mean(self.family, weight, response, exposure), GRID_BITS)
        return NewtonState(phase="newton", scaling=scaling, beta=tuple(beta), rows=rows)

    def _step(self, state: NewtonState, totals: Sequence[int], frame: Frame) -> NewtonState:
        size = self.parameters
        pairs = size * (size + 1) // 2
        numbers = [from_grid(total, GRID_BITS) for total in totals]
        deviance, likelihood, weight, square = numbers[pairs + size :]
        require_weight(weight, square, size, frame)
        at = Derivatives(deviance, numbers[pairs : pairs + size], numbers[:pairs])
        found = step(
            state, at, Model(self.names, self.intercept, self.family is not Family.GAUSSIAN, self.max_iterations)
        )
        if not isinstance(found, Optimum):
            return state.model_copy(update=found)
        released = found.figures([deviance, likelihood, mpfr(state.rows), mpfr(state.iterations + 1)])
        return state.model_copy(update={"is_final": True, "released": released})

    # --- the answer

    def slots(self, frame: Frame) -> list[int]:
        return figure_slots(self.parameters, last=4)

    def values(self, state: NewtonState, frame: Frame) -> list[int]:
        return list(state.released)

    def read(self, values: Sequence[int]) -> dict[str, Any]:
        """`coefficients`, `covariance` (the inverse of the information, for a dispersion of 1), `deviance`,
        `log_likelihood` (with a Gaussian, 0), `rows`, `iterations`."""
        coefficients, covariance, last = read_figures(read_floats(values), self.parameters)
        deviance, likelihood, rows, iterations = last
        return {
            "names": self.names,
            "coefficients": coefficients,
            "covariance": covariance,
            "deviance": deviance,
            "log_likelihood": likelihood,
            "rows": int(rows),
            "iterations": int(iterations),
        }


@dataclass(frozen=True)
class Working:
    """What one iteration needs of a holder's rows."""

    weights: Floats
    residuals: Floats
    """Weights times working residuals: the score is Xᵀ of it."""
    deviance: float
    likelihood: float


def _working(family: Family, eta: Floats, prepared: Prepared, alpha: float) -> Working:
    """For each family with its link: w = a·(dμ/dη)²/V(μ), a·(y − μ)·(dμ/dη)/V(μ), and what they add to the deviance
    and the log-likelihood."""
    y, a = prepared.response, prepared.weights
    match family:
        case Family.GAUSSIAN:
            return Working(a, a * (y - eta), _total(a * (y - eta) ** 2), 0.0)
        case Family.BINOMIAL:
            mu = 1 / (1 + np.exp(-eta))
            likelihood = a * (y * eta - np.logaddexp(0, eta))  # logaddexp(0, η) = log(1 + exp η)
            saturated = a * (_xlogx(y) + _xlogx(1 - y))
            return Working(a * mu * (1 - mu), a * (y - mu), 2 * _total(saturated - likelihood), _total(likelihood))
        case Family.POISSON:
            mu = np.exp(eta)
            deviance = 2 * a * (_xlogx(y) - y * eta - (y - mu))
            return Working(a * mu, a * (y - mu), _total(deviance), _total(a * (y * eta - mu - _log_gamma(y + 1))))
        case Family.NEGATIVE_BINOMIAL:
            mu, size = np.exp(eta), 1 / alpha
            ratio, spread = np.log1p(alpha * mu), 1 + alpha * mu
            deviance = 2 * a * (_xlogx(y) - y * eta - (y + size) * (np.log1p(alpha * y) - ratio))
            counts = _log_gamma(y + size) - math.lgamma(size) - _log_gamma(y + 1)
            likelihood = a * (y * (eta + math.log(alpha) - ratio) - size * ratio + counts)
            return Working(a * mu / spread, a * (y - mu) / spread, _total(deviance), _total(likelihood))


def _total(values: Floats) -> float:
    return float(values.sum())


def _xlogx(x: Floats) -> Floats:
    """x·log x, 0 at 0."""
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))


def _log_gamma(x: Floats) -> Floats:
    """Each value once: outcomes that are counts have few."""
    distinct, places = np.unique(x, return_inverse=True)
    return np.array([math.lgamma(one) for one in distinct])[places]


def _link_of_mean(family: Family, weight: int, response: int, exposure: int) -> mpfr:
    """Where the intercept starts: the link of the outcome's mean, 0 where that is not defined."""
    w, y, e = (from_grid(total, GRID_BITS) for total in (weight, response, exposure))
    if family is Family.GAUSSIAN:
        return (y - e) / w if w > 0 else mpfr(0)
    if family is Family.BINOMIAL:
        return log(y / (w - y)) if 0 < y < w else mpfr(0)
    return log(y / e) if y > 0 and e > 0 else mpfr(0)
