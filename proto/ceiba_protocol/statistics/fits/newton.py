"""Newton's method as fits share it: one step on the sums of all holders, and what a holder refuses to sum.

The information and the score are of columns with mean 0 and variance 1, so that coefficients are of one size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gmpy2 import mpfr

from ceiba_protocol.canonical import BigInt
from ceiba_protocol.errors import Collinear, NotConverged, NotFinite, Separation, WeightsConcentrated
from ceiba_protocol.statistics.fits.base import FLOAT_SLOTS, GRID_BITS, FitState, Floats, Frame, float_values
from ceiba_protocol.statistics.fits.exact import (
    Matrix,
    Singular,
    factorise,
    from_grid,
    on_grid,
    symmetric,
    triangle,
)
from ceiba_protocol.statistics.fits.scaling import ROWS_A_PARAMETER, Scaling, unscale

LARGEST_COEFFICIENT = 30
"""Beyond it the fit runs away."""
CONVERGED = 2.0**-30
"""The last step changes no coefficient by more; the error is about its square."""
HALVINGS = 20


class NewtonState(FitState):
    """Coefficients are multiples of 2^-40, the intercept first, if there is one."""

    phase: Literal["scaling", "newton"] = "scaling"
    scaling: Scaling = Scaling()
    rows: int = 0
    beta: tuple[BigInt, ...] = ()
    before: tuple[BigInt, ...] = ()
    """The coefficients before the last step, to which halving goes back."""
    loss: BigInt | None = None
    """At `before`: what is minimised, in multiples of 2^-40."""
    iterations: int = 0
    halvings: int = 0
    released: tuple[BigInt, ...] = ()
    """The final figures; empty before."""


@dataclass(frozen=True)
class Derivatives:
    """Of what is minimised, at a state's coefficients; over all holders."""

    loss: mpfr
    score: Sequence[mpfr]
    """The negative gradient."""
    information: Sequence[mpfr]
    """The upper triangle of the second derivatives, row after row."""


@dataclass(frozen=True)
class Model:
    """What a step must know of the fit."""

    names: Sequence[str]
    """Of the coefficients."""
    intercept: bool
    is_bounded: bool
    """Whether a large coefficient is a sign of separation."""
    max_iterations: int


@dataclass(frozen=True)
class Optimum:
    """The coefficients and their covariance, for the columns as they are."""

    coefficients: list[mpfr]
    covariance: Matrix

    def figures(self, last: Sequence[mpfr]) -> tuple[int, ...]:
        """What is released: coefficients, the covariance's upper triangle, and what else a fit has."""
        pairs = triangle(len(self.coefficients))
        numbers = [*self.coefficients, *(self.covariance[i][j] for i, j in pairs), *last]
        return tuple(float_values(map(float, numbers)))


def step(state: NewtonState, at: Derivatives, model: Model) -> Optimum | dict[str, object]:
    """Run by every holder: the optimum, or what changes in the state; half of the last step where the loss has grown.

    Call it within `exactly`. Raises NotConverged, Collinear, Separation.
    """
    if state.iterations >= model.max_iterations:
        raise NotConverged(iterations=model.max_iterations)
    if state.loss is not None and at.loss > from_grid(state.loss, GRID_BITS) + abs(at.loss) * CONVERGED:
        return _half_of_the_last(state)
    try:
        factors = factorise(symmetric(at.information, len(state.beta)))
    except Singular as error:
        name = model.names[error.place]
        raise Collinear(column=name) if state.iterations == 0 else Separation(column=name) from None
    change = factors.solve(at.score)
    beta = [one + on_grid(each, GRID_BITS) for one, each in zip(state.beta, change, strict=True)]
    if model.is_bounded:
        _require_bounded(beta[model.intercept :], model.names[model.intercept :])
    if max(map(abs, change)) <= CONVERGED:
        coefficients = [from_grid(one, GRID_BITS) for one in beta]
        return Optimum(*unscale(coefficients, factors.inverse(), state.scaling, intercept=model.intercept))
    return {
        "before": state.beta,
        "beta": tuple(beta),
        "loss": on_grid(at.loss, GRID_BITS),
        "iterations": state.iterations + 1,
        "halvings": 0,
    }


def _half_of_the_last(state: NewtonState) -> dict[str, object]:
    if state.halvings >= HALVINGS:
        raise NotConverged(iterations=state.iterations)
    beta = tuple((one + before) // 2 for one, before in zip(state.beta, state.before, strict=True))
    return {"beta": beta, "halvings": state.halvings + 1}


def _require_bounded(beta: Sequence[int], names: Sequence[str]) -> None:
    for name, one in zip(names, beta, strict=True):
        if abs(one) > LARGEST_COEFFICIENT << GRID_BITS:
            raise Separation(column=name)


def figure_slots(parameters: int, last: int) -> list[int]:
    """Of `Optimum.figures`."""
    return [*FLOAT_SLOTS] * (parameters + parameters * (parameters + 1) // 2 + last)


def read_figures(figures: Sequence[float], parameters: int) -> tuple[list[float], list[list[float]], list[float]]:
    """Coefficients, covariance, and what else a fit has."""
    pairs = triangle(parameters)
    covariance = [[0.0] * parameters for _ in range(parameters)]
    for (i, j), value in zip(pairs, figures[parameters:], strict=False):
        covariance[i][j] = covariance[j][i] = value
    return list(figures[:parameters]), covariance, list(figures[parameters + len(pairs) :])


# --- guards ----------------------------------------------------------------------------------------------------


def require_weight(weight: mpfr, square: mpfr, parameters: int, frame: Frame) -> None:
    """Run by every holder on Σw and Σw² over all: the effective sample size is enough. Raises WeightsConcentrated."""
    if frame.is_guarded and weight**2 < max(frame.minimum, ROWS_A_PARAMETER * parameters) * square:
        raise WeightsConcentrated


def require_spread(weights: Floats, frame: Frame) -> None:
    """Run by a holder on its subjects' weights: no few of them carry all, else a sum over all would be about these.

    Raises WeightsConcentrated, NotFinite.
    """
    if not np.isfinite(weights).all():
        raise NotFinite(what="a weight")
    if not frame.is_guarded or not len(weights):
        return
    shares = weights / (weights.max() or 1.0)
    if shares.sum() ** 2 <= min(frame.minimum, len(weights) / 2) * (shares**2).sum():
        raise WeightsConcentrated
