"""Noise as a merchant asks for it and sees it: what it costs, and how sure each number is (PROTOCOL §3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import isqrt, sqrt
from typing import Any, TypeGuard

from ceiba.normal import NORMAL_95
from ceiba_protocol.disclosure.accounting import epsilon
from ceiba_protocol.disclosure.grade import DEFAULT_RHO, MILLION, Disclosure, NoiseRule
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.explanation import DELTA
from ceiba_protocol.plan import Use
from ceiba_protocol.statistics import Output, Total
from ceiba_protocol.trust.documents import NoiseTerms


@dataclass(frozen=True)
class Noise:
    """Ask for an answer with noise: `query.run(noise=ceiba.Noise(rho=0.01))`.

    `rho`: what it costs of the year's budget, split evenly over the sums of a cell; twice as much gives √2 times less
    noise. `cells_per_subject`: to how many cells one person or firm may add; more lets more in, and needs more noise.
    """

    rho: float | str | Decimal = "0.005"
    cells_per_subject: int = 1

    def terms(self) -> NoiseTerms:
        """Raises BadQuestion for anything that is no multiple of a millionth between 0.000001 and 10."""
        hint = "Write, for example, ceiba.Noise(rho=0.005)."
        try:
            millionths = Decimal(str(self.rho)) * MILLION
        except InvalidOperation:
            raise BadQuestion(problem="rho is not a number", hint=hint) from None
        if not millionths.is_finite() or not 1 <= millionths <= 10 * MILLION or millionths != int(millionths):
            raise BadQuestion(problem="rho is no multiple of 0.000001 between that and 10", hint=hint)
        if not isinstance(self.cells_per_subject, int) or not 1 <= self.cells_per_subject <= 1000:
            raise BadQuestion(problem="cells_per_subject is no whole number between 1 and 1000", hint=hint)
        return NoiseTerms(rho=int(millionths), cells_per_subject=self.cells_per_subject)


Wanted = Noise | bool | None
"""None: as the agreement demands. True, or a Noise: with noise. False: exact."""


def terms_for(wanted: Wanted, rules: Disclosure) -> NoiseTerms | None:
    """What a job is asked with. Where noise is mandatory, an exact answer must be asked for by name: it waits for
    people at every holder, and there are few."""
    if isinstance(wanted, Noise):
        return wanted.terms()
    if wanted is None:
        wanted = rules.noise is NoiseRule.MANDATORY
    return NoiseTerms(rho=min(DEFAULT_RHO, max(1, rules.rho_per_year))) if wanted else None


@dataclass(frozen=True)
class NoiseReport:
    """The noise in one result, in the terms that privacy officers and statisticians use."""

    rho: float
    epsilon: float
    """At δ = DELTA, of this one answer."""
    delta: float
    cells_per_subject: int
    sigmas: tuple[float, ...]
    """Standard deviation of the noise in each sum of a cell, in the sum's own units."""
    count_sigma: float
    """That of the row counts."""

    def __str__(self) -> str:
        return (
            f"With noise: ρ {self.rho:g}, which is ε {self.epsilon:.2f} at δ {self.delta:g}; σ of a count is "
            f"{self.count_sigma:.1f}; ± is a 95 % interval of the noise alone"
        )


def report_of(terms: NoiseTerms, variances: Sequence[int], steps: Sequence[Fraction]) -> NoiseReport:
    """`variances` of the totals, in squared units of `steps`."""
    sigmas = tuple(sqrt(variance) * float(step) for variance, step in zip(variances, steps, strict=True))
    rho = Fraction(terms.rho, MILLION)
    return NoiseReport(float(rho), epsilon(float(rho), DELTA), DELTA, terms.cells_per_subject, sigmas, sigmas[0])


def half_width(use: Use, sums: Sequence[Total], variances: Sequence[int]) -> Any:
    """Half of an output's 95 % interval: a number, a list for a small table, None where it is not defined."""

    def finish(moved: Sequence[Total]) -> Output:
        return use.statistic.finish(*(moved[place] for place in use.sums))

    if isinstance(finish(sums), list):
        return [NORMAL_95 * sqrt(variances[place]) * float(sums[place].step) for place in use.sums]
    if not use.statistic.smooth:
        return None
    return spread(finish, sums, sorted(set(use.sums)), variances)


def spread(
    finish: Callable[[Sequence[Total]], Output], sums: Sequence[Total], places: Sequence[int], variances: Sequence[int]
) -> float | None:
    """Half of a number's 95 % interval: how far noise of one standard deviation in each sum of `places` moves it, by
    itself, added up as variances are (the delta method, with differences for derivatives).

    None where it is not defined, or no number.
    """
    steps = {one: isqrt(variances[one]) for one in places if variances[one]}
    moved = {one: _moved(finish, sums, one, step) for one, step in steps.items()}
    if not _is_number(finish(sums)) or None in moved.values():
        return None
    squares = ((by / steps[one]) ** 2 * variances[one] for one, by in moved.items() if by is not None)
    return NORMAL_95 * sqrt(sum(squares))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _moved(finish: Callable[[Sequence[Total]], Output], sums: Sequence[Total], moving: int, by: int) -> float | None:
    """Half of what `finish` changes when one sum moves from `by` below to `by` above; None if it ends in no number."""
    ends = []
    for sign in (1, -1):
        shifted = list(sums)
        shifted[moving] = Total(sums[moving].units + sign * by, sums[moving].step)
        ends.append(finish(shifted))
    above, below = ends
    return (above - below) / 2 if _is_number(above) and _is_number(below) else None
