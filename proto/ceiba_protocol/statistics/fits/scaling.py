"""The first round of a fit: centre and spread of each column, so that coefficients are of one size (PROTOCOL §4.1).

Only the holders learn them. They condition the arithmetic and do not change the fit, so that float64 is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from gmpy2 import mpfr
from pydantic import AfterValidator

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import ColumnConcentrated, ConstantColumn, TooFewRows
from ceiba_protocol.statistics.fits.base import GRID_BITS, Columns, Floats, Frame
from ceiba_protocol.statistics.fits.exact import Matrix, exactly, from_grid

SMALLEST_SPREAD = 2.0**-44
"""Of a column's variance, where its declared bounds are −1 and 1."""
ROWS_A_PARAMETER = 10
"""Complete rows that a guarded fit must have for each parameter."""
POWERS = 4


def _hex_float(text: str) -> str:
    if float.fromhex(text).hex() != text:
        raise ValueError("not a float in hexadecimal")
    return text


ExactFloat = Annotated[str, AfterValidator(_hex_float)]
"""A float64 without loss, as `float.hex` writes it."""


class Scaling(Document):
    """A column's value x becomes (x − shift) / spread."""

    shift: tuple[ExactFloat, ...] = ()
    spread: tuple[ExactFloat, ...] = ()

    def apply(self, columns: Floats) -> Floats:
        """[rows, columns]"""
        shift, spread = (np.array([float.fromhex(one) for one in part]) for part in (self.shift, self.spread))
        return np.asarray((columns - shift) / spread)

    def shifts(self) -> list[mpfr]:
        return [mpfr(float.fromhex(one)) for one in self.shift]

    def spreads(self) -> list[mpfr]:
        return [mpfr(float.fromhex(one)) for one in self.spread]


def moment_sums(columns: Floats, bounds: Sequence[tuple[float, float]]) -> list[float]:
    """Run by a holder: its number of rows, then for each column the sums of the first four powers of its value, where
    its bounds are −1 and 1."""
    sums = [float(len(columns))]
    for values, (low, high) in zip(columns.T, bounds, strict=True):
        scaled = (values - (low + high) / 2) / (_half(low, high))
        power = np.ones(len(values))
        for _ in range(POWERS):
            power = power * scaled
            sums.append(float(power.sum()))
    return sums


def _half(low: float, high: float) -> float:
    return (high - low) / 2 or 1.0


@dataclass(frozen=True)
class Moments:
    """Run by every holder on the sum of all."""

    rows: int
    means: list[mpfr]
    variances: list[mpfr]
    effective: list[mpfr]
    """For each column, how many rows carry its variance, if they carried it evenly: (Σ(x−x̄)²)² / Σ(x−x̄)⁴."""

    @classmethod
    def of(cls, totals: Sequence[int]) -> "Moments":
        """Call it within `exactly`."""
        n, *sums = (from_grid(total, GRID_BITS) for total in totals)
        means, variances, effective = [], [], []
        for place in range(0, len(sums), POWERS):
            s1, s2, s3, s4 = sums[place : place + POWERS]
            mean = s1 / n if n else mpfr(0)
            square = s2 - n * mean**2
            fourth = s4 - 4 * mean * s3 + 6 * mean**2 * s2 - 3 * n * mean**4
            means.append(mean)
            variances.append(square / n if n else mpfr(0))
            effective.append(square**2 / fourth if fourth > 0 else mpfr(0))
        return cls(int(n), means, variances, effective)


def require_rows(rows: int, parameters: int, frame: Frame) -> None:
    """Raises TooFewRows."""
    least = max(ROWS_A_PARAMETER * parameters, frame.minimum) if frame.is_guarded else parameters + 1
    if rows < least:
        raise TooFewRows(parameters=parameters, least=least)


def scaling_of(totals: Sequence[int], columns: Columns, frame: Frame, *, centred: bool) -> Scaling:
    """Centre and spread of each column; without centring, its root mean square.

    Raises ConstantColumn, and for guarded data ColumnConcentrated.
    """
    with exactly():
        found, shifts, spreads = Moments.of(totals), [], []
        for place, (low, high) in enumerate(columns.bounds()):
            if not found.variances[place] > SMALLEST_SPREAD:
                raise ConstantColumn(column=columns.names[place])
            if frame.is_guarded and found.effective[place] < frame.minimum:
                raise ColumnConcentrated(column=columns.names[place])
            half, middle = mpfr(_half(low, high)), (mpfr(low) + mpfr(high)) / 2
            mean, variance = middle + half * found.means[place], half**2 * found.variances[place]
            shifts.append(float(mean) if centred else 0.0)
            spreads.append(float((variance if centred else variance + mean**2) ** mpfr("0.5")))
    return Scaling(shift=tuple(one.hex() for one in shifts), spread=tuple(one.hex() for one in spreads))


def unscale(coefficients: Sequence[mpfr], covariance: Matrix, scaling: Scaling, *, intercept: bool) -> tuple[
    list[mpfr], Matrix
]:  # fmt: skip
    """Coefficients and their covariance for the columns as they are; the intercept, if there is one, comes first."""
    shifts, spreads, first = scaling.shifts(), scaling.spreads(), int(intercept)
    size = len(coefficients)
    change = [[mpfr(0)] * size for _ in range(size)]
    if intercept:
        change[0][0] = mpfr(1)
    for place, (shift, spread) in enumerate(zip(shifts, spreads, strict=True)):
        change[place + first][place + first] = 1 / spread
        if intercept:
            change[0][place + first] = -shift / spread
    changed = [sum((a * b for a, b in zip(row, coefficients, strict=True)), mpfr(0)) for row in change]
    half = [[sum((row[k] * covariance[k][j] for k in range(size)), mpfr(0)) for j in range(size)] for row in change]
    whole = [[sum((one[k] * row[k] for k in range(size)), mpfr(0)) for row in change] for one in half]
    return changed, whole
