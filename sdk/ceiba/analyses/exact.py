"""Exact sums of products, and exact linear algebra on them: what linear models and matrices are made of.

Sums are integers in units of the columns' steps, so that normal equations can be solved without any rounding, and a
column that depends on others is found as an exact zero instead of a small number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any

from ceiba.analyses.cells import require_ungrouped
from ceiba.analysis import Analysis, Found
from ceiba.statistics import statistic
from ceiba.terms import Term
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    from ceiba.analysis import AnalysisJob
    from ceiba.query import Query, Table
    from ceiba.result import Result
    from ceiba_protocol.expression import Expression

Matrix = list[list[Fraction]]
MAX_VALUES = 100


@dataclass(frozen=True, repr=False)
class ExactAnalysis(Analysis[Found]):
    """An analysis that takes its sums for exact: it asks with `noise=False`, whatever the agreement's default is."""

    def run(self, **options: Any) -> Found:
        """Ask the holders, wait, and finish. Options as for `Query.run`; raises BadQuestion for noise."""
        return super().run(**_exactly(options))

    def submit(self, **options: Any) -> AnalysisJob[Found]:
        """Ask without waiting. Raises BadQuestion for noise."""
        return super().submit(**_exactly(options))

    def explain(self, **options: Any) -> Any:
        """Who would see what and what it would cost; asks nothing. Raises BadQuestion for noise."""
        return super().explain(**_exactly(options))


def _exactly(options: dict[str, Any]) -> dict[str, Any]:
    _refuse_noise(options.get("noise"))
    return {**options, "noise": False}


def _refuse_noise(noise: object) -> None:
    if noise:
        hint = "Ask without noise, under an agreement that allows exact figures; means and counts can carry noise."
        raise BadQuestion(problem="noise in the sums would make standard errors, p-values and ranks wrong", hint=hint)


def require_exact(result: Result) -> None:
    """Raises BadQuestion for an answer with noise, as an agreement may demand."""
    _refuse_noise(result.noise)


# --- moments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Over the n rows where no value is missing: Σxᵢ, and Σxᵢxⱼ as a symmetric matrix. All exact."""

    n: int
    sums: list[Fraction]
    products: Matrix

    def gram(self, places: Sequence[int | None]) -> Matrix:
        """X'X of the columns at these places of the values, None for the constant 1."""
        return [[self._product(left, right) for right in places] for left in places]

    def _product(self, left: int | None, right: int | None) -> Fraction:
        if left is None or right is None:
            place = left if right is None else right
            return Fraction(self.n) if place is None else self.sums[place]
        return self.products[left][right]

    def scatter(self) -> Matrix:
        """Σ(xᵢ − x̄ᵢ)(xⱼ − x̄ⱼ), exactly. n is at least 1."""
        return [
            [product - a * b / self.n for product, b in zip(row, self.sums, strict=True)]
            for row, a in zip(self.products, self.sums, strict=True)
        ]


def ask_moments(table: Table, values: Sequence[Expression], what: str) -> Query:
    """The query that `read_moments` reads. Raises BadQuestion for a grouped table, or none or too many values."""
    require_ungrouped(table, what)
    if not 1 <= len(values) <= MAX_VALUES:
        problem = f"{what}() was given {len(values)} columns, where 1 to {MAX_VALUES} are possible"
        raise BadQuestion(problem=problem, hint="A category counts as one column for each level.")
    return table.agg(moments=statistic("moments")([Term(value) for value in values]))


def read_moments(result: Result, what: str) -> Moments:
    """The exact moments. Raises BadQuestion where they were withheld, carry noise, or no row is complete."""
    require_exact(result)
    found = result["moments"][0]
    if found is WITHHELD:
        hint = (
            "One of the sums is about too few: leave out or merge rare levels and conditions, or ask about more rows. "
            "Columns with few values left cost all columns their rows."
        )
        raise BadQuestion(problem=f"{what}() has no result, because its sums were withheld", hint=hint)
    return moments_of(found, what)


def moments_of(entries: Sequence[dict[str, Any]], what: str) -> Moments:
    """The entries of the statistic `moments`, as matrices. Raises BadQuestion if no row is complete."""
    totals = {(entry["left"], entry["right"]): Fraction(entry["total"]) for entry in entries}
    n, width = int(totals[None, None]), sum(right is None for _, right in totals) - 1
    if n == 0:
        raise BadQuestion(problem=f"{what}() found no row in which every value is there", hint="Use fewer columns.")
    products = [[totals[min(i, j), max(i, j)] for j in range(width)] for i in range(width)]
    return Moments(n, [totals[i, None] for i in range(width)], products)


# --- linear algebra ---------------------------------------------------------------------------------------------


@dataclass
class Dependent(Exception):
    """Column `place` is exactly Σ cᵢ·(column i) over the earlier columns; `on` has those whose cᵢ is not 0."""

    place: int
    on: tuple[int, ...]


def inverse(matrix: Matrix) -> Matrix:
    """The inverse of a symmetric positive definite matrix, exactly.

    Gauss-Jordan elimination without fractions (Bareiss 1968, Math. Comp. 22, 565): every division leaves no rest, and
    a pivot is a leading minor, which is 0 only if the column depends on the earlier ones. Raises Dependent.
    """
    from gmpy2 import divexact, mpz

    size = len(matrix)
    common = lcm(*(value.denominator for row in matrix for value in row))
    work = [[mpz(int(value * common)) for value in row] for row in matrix]
    # In place: once column k is eliminated, its place holds column k of the right-hand side.
    previous = mpz(1)
    for k in range(size):
        pivot = work[k][k]
        if pivot <= 0:
            raise Dependent(k, tuple(i for i in range(k) if work[i][k]))
        top = work[k]
        for i in range(size):
            if i == k:
                continue
            row, factor = work[i], work[i][k]
            work[i] = [divexact(pivot * a - factor * b, previous) for a, b in zip(row, top, strict=True)]
            work[i][k] = -factor
        top[k] = previous
        previous = pivot
    return [[Fraction(int(value) * common, int(previous)) for value in row] for row in work]


def times(matrix: Matrix, vector: Sequence[Fraction]) -> list[Fraction]:
    """Matrix times vector, exactly."""
    return [dot(row, vector) for row in matrix]


def dot(left: Sequence[Fraction], right: Sequence[Fraction]) -> Fraction:
    """Σ leftᵢ·rightᵢ, exactly."""
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))
