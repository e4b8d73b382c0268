"""Linear algebra that gives every holder the same bits.

MPFR rounds each operation correctly to a stated precision, on whatever machine (Fousse et al. 2007, ACM TOMS 33);
BLAS does not. Matrices are small here: a fit of 50 columns takes 40,000 multiplications.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import frexp, inf, isfinite, ldexp

import gmpy2
from gmpy2 import mpfr

from ceiba_protocol.errors import TotalRejected

PRECISION = 256
"""Bits: a sum of 128 bits is exact, and a product of two."""
MANTISSA_BITS = 53
EXPONENT_BOUND = 1100
"""A float's exponent in magnitude, as `math.frexp` has it."""
SMALLEST_PIVOT = 2.0**-33
"""Of its diagonal element: what is left of a column once those before it explain the rest of it."""

Vector = list[mpfr]
Matrix = list[Vector]


@contextmanager
def exactly() -> Iterator[None]:
    """Everything within is rounded to PRECISION bits, to nearest."""
    with gmpy2.context(precision=PRECISION):
        yield


class Singular(Exception):
    """A column is a combination of those before it."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Factors:
    """L·D·Lᵀ of a symmetric, positive definite matrix; L has ones on its diagonal (Golub and Van Loan, §4.1)."""

    lower: Matrix
    diagonal: Vector

    def solve(self, right: Sequence[mpfr]) -> Vector:
        """x of matrix·x = right."""
        size, x = len(self.diagonal), list(right)
        for i in range(size):
            for j in range(i):
                x[i] -= self.lower[i][j] * x[j]
        x = [one / pivot for one, pivot in zip(x, self.diagonal, strict=True)]
        for i in reversed(range(size)):
            for j in range(i + 1, size):
                x[i] -= self.lower[j][i] * x[j]
        return x

    def inverse(self) -> Matrix:
        size = len(self.diagonal)
        return [self.solve([mpfr(i == j) for i in range(size)]) for j in range(size)]


def factorise(matrix: Matrix) -> Factors:
    """Raises Singular at the first pivot that is too small beside its diagonal element."""
    size = len(matrix)
    lower = [[mpfr(i == j) for j in range(size)] for i in range(size)]
    diagonal: Vector = []
    for j in range(size):
        pivot = matrix[j][j] - sum((lower[j][k] ** 2 * diagonal[k] for k in range(j)), mpfr(0))
        if not pivot > SMALLEST_PIVOT * abs(matrix[j][j]):
            raise Singular(j)
        diagonal.append(pivot)
        for i in range(j + 1, size):
            rest = matrix[i][j] - sum((lower[i][k] * lower[j][k] * diagonal[k] for k in range(j)), mpfr(0))
            lower[i][j] = rest / pivot
    return Factors(lower, diagonal)


def symmetric(upper: Sequence[mpfr], size: int) -> Matrix:
    """The matrix of its upper triangle, row after row."""
    matrix = [[mpfr(0)] * size for _ in range(size)]
    for (i, j), value in zip(triangle(size), upper, strict=True):
        matrix[i][j] = matrix[j][i] = value
    return matrix


def triangle(size: int) -> list[tuple[int, int]]:
    """The places of an upper triangle, row after row."""
    return [(i, j) for i in range(size) for j in range(i, size)]


# --- numbers as integers ---------------------------------------------------------------------------------------


def on_grid(value: float | mpfr, bits: int) -> int:
    """value·2^bits to the nearest integer, halves to even."""
    with exactly():
        return int(gmpy2.rint(mpfr(value) * mpfr(2) ** bits))


def from_grid(units: int, bits: int) -> mpfr:
    return mpfr(units) / mpfr(2) ** bits


def to_slots(value: float) -> tuple[int, int]:
    """A finite float as two integers, exactly: |mantissa| < 2^53, |exponent| below EXPONENT_BOUND."""
    fraction, exponent = frexp(value)
    return int(ldexp(fraction, MANTISSA_BITS)), exponent


def from_slots(mantissa: int, exponent: int) -> float:
    """Raises TotalRejected for what `to_slots` never gives."""
    try:
        value = ldexp(ldexp(mantissa, -MANTISSA_BITS), exponent)
    except OverflowError:
        value = inf
    if not isfinite(value) or to_slots(value) != (mantissa, exponent):
        raise TotalRejected(problem="a final figure is no number")
    return value
