"""The first round of a fit: centre and spread of each column, so that coefficients are of one size (PROTOCOL §4.1).

Only the holders learn them. They condition the arithmetic and do not change the fit, so that float64 is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from gmpy2 import mpfr
from pydantic import AfterValidator

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import ColumnConcentrated, ConstantColumn, TooFewRows
from ceiba_protocol.statistics.fits.base import GRID_BITS, Columns, Floats, Frame, of_subjects
from ceiba_protocol.statistics.fits.exact import Matrix, exactly, from_grid

SMALLEST_SPREAD = 2.0**-44
"""Of a column's variance, where its declared bounds are −1 and 1."""
ROWS_A_PARAMETER = 10
"""Complete rows that a guarded fit must have for each parameter."""
COUNTS, PARTS = 3, 7
"""Sums of `moment_sums`: of all rows, and of each column."""


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


def moment_sums(columns: Floats, bounds: Sequence[tuple[float, float]], subjects: npt.NDArray[np.int64]) -> list[float]:
    """Run by a holder: Σn, the number of subjects, Σn², for n the rows of each subject; then for each column Σu, Σv,
    Σv², Σu², Σuv, Σvn, Σun, for u and v the sums over a subject's rows of the value and of its square, where the
    column's bounds are −1 and 1."""
    n = of_subjects(subjects, np.ones(len(columns)))
    sums = [n.sum(), float(len(n)), (n * n).sum()]
    for values, (low, high) in zip(columns.T, bounds, strict=True):
        scaled = (values - (low + high) / 2) / (_half(low, high))
        u, v = of_subjects(subjects, scaled), of_subjects(subjects, scaled**2)
        sums += [each.sum() for each in (u, v, v * v, u * u, u * v, v * n, u * n)]
    return [float(one) for one in sums]


def _half(low: float, high: float) -> float:
    return (high - low) / 2 or 1.0


@dataclass(frozen=True)
class Moments:
    """Run by every holder on the sum of all."""

    rows: int
    subjects: int
    means: list[mpfr]
    variances: list[mpfr]
    effective: list[mpfr]
    """For each column, how many subjects carry its variance, if they carried it evenly: (Σq)² / Σq², for q the sum of
    (x−x̄)² over a subject's rows."""

    @classmethod
    def of(cls, totals: Sequence[int]) -> "Moments":
        """Call it within `exactly`."""
        n, subjects, nn, *sums = (from_grid(total, GRID_BITS) for total in totals)
        means, variances, effective = [], [], []
        for place in range(0, len(sums), PARTS):
            u, v, vv, uu, uv, vn, un = sums[place : place + PARTS]
            m = u / n if n else mpfr(0)
            square = v - n * m**2
            # q = v − 2·m·u + m²·n
            of_q = vv + 4 * m**2 * uu + m**4 * nn - 4 * m * uv + 2 * m**2 * vn - 4 * m**3 * un
            means.append(m)
            variances.append(square / n if n else mpfr(0))
            effective.append(square**2 / of_q if of_q > 0 else mpfr(0))
        return cls(int(n), int(subjects), means, variances, effective)


def require_rows(totals: Sequence[int], parameters: int, frame: Frame) -> int:
    """The number of rows, of the sums of `moment_sums`. Raises TooFewRows, also for too few subjects."""
    rows, subjects = (total >> GRID_BITS for total in totals[:2])
    least = max(ROWS_A_PARAMETER * parameters, frame.minimum) if frame.is_guarded else parameters + 1
    if rows < least or (frame.is_guarded and subjects < frame.minimum):
        raise TooFewRows(parameters=parameters, least=least)
    return rows


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
