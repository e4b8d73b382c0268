"""Student's and Welch's t-tests, with effect sizes, from counts, means and variances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, isfinite, lgamma, sqrt

from ceiba.analyses.cells import (
    Estimate,
    Group,
    Key,
    Sample,
    Test,
    ask,
    cells,
    estimates_part,
    group,
    labels_of,
    moments,
    require_ungrouped,
    sample,
    standing_notes,
    tests_part,
)
from ceiba.analysis import Analysis, Outcome
from ceiba.extras import stats
from ceiba.normal import NORMAL_95
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.summary import TablePart
from ceiba.terms import Term
from ceiba_protocol.errors import BadQuestion


@dataclass(frozen=True, repr=False)
class TTest(Outcome):
    """A t-test. Its numbers are None where a group was withheld, has fewer than two values, or does not vary."""

    groups: tuple[Group, ...]
    """The two groups, or the one."""
    against: float | None
    """Of one sample, the mean that it is tested against, in the value's unit; None of two groups."""
    equal_variance: bool
    """Whether the variance is pooled (Student); otherwise Welch's test (1947, Biometrika 34, 28)."""
    difference: Estimate | None
    """Mean of the first group less that of the second, or less `against`; in the value's unit, with its t interval."""
    test: Test | None
    """t, its degrees of freedom, and the two-sided p."""
    cohens_d: Estimate | None
    """The difference in standard deviations, pooled over both groups (Cohen 1988, §2.2)."""
    hedges_g: Estimate | None
    """Cohen's d without its bias, by the exact factor (Hedges 1981, J. Educ. Stat. 6, 107)."""

    title = "t-test"

    def parts(self) -> Sequence[TablePart]:
        """The test, the effect with its sizes, and the groups."""
        name = "one sample" if self.against is not None else "Student" if self.equal_variance else "Welch"
        effects = {"difference of means": self.difference, "Cohen's d": self.cohens_d, "Hedges' g": self.hedges_g}
        groups = TablePart("Groups", ("group", "n", "mean", "sd"), [one.row for one in self.groups])
        return [tests_part({name: self.test}), estimates_part("Effects", effects), groups]

    def notes(self) -> list[str]:
        """What is compared, and why something is missing."""
        withheld = any(one.withheld for one in self.groups)
        other = self.against if self.against is not None else self.groups[1].label
        notes = [f"The difference is {self.groups[0].label} less {other}."]
        if self.test is None and not withheld and self.result.noise is None:
            notes.append("A group has fewer than two values, or none varies: there is no test.")
        return [*notes, *standing_notes(self.result, withheld)]


def t_test(
    table: Table, value: Term | str, by: Key | None = None, mean: float | None = None, *, equal_variance: bool = False
) -> Analysis[TTest]:
    """Of two groups, or of one sample against `mean`. Raises BadQuestion."""
    require_ungrouped(table, "t_test")
    if (by is None) == (mean is None):
        hint = 'Write t_test("cholesterol", by="sex"), or t_test("cholesterol", mean=200) for one sample.'
        raise BadQuestion(problem="t_test() needs either by= or mean=", hint=hint)
    if mean is not None and not (isinstance(mean, int | float) and isfinite(mean)):
        raise BadQuestion(problem="mean= is no finite number", hint='Write t_test("cholesterol", mean=200).')
    query = ask(table, [] if by is None else [by], moments(value))
    if by is not None and len(labels_of(query, 0)) != 2:
        problem = (
            f"{query.asked.groups[0].name} has {len(labels_of(query, 0))} labels, and a t-test compares two groups"
        )
        raise BadQuestion(problem=problem, hint='Group by a condition, such as by=heart.site == "A", or use anova().')
    return Analysis(query, partial(_finish, query, mean, equal_variance))


def _finish(query: Query, mean: float | None, equal_variance: bool, result: Result) -> TTest:
    released = cells(result, len(query.asked.groups))
    labels = [("all",)] if mean is not None else [(label,) for label in labels_of(query, 0)]
    groups = [group(label[0], released.get(() if mean is not None else label)) for label in labels]
    usable = [sample(one) for one in groups] if result.noise is None else []
    complete = [one for one in usable if one is not None and one.n > 1]
    numbers: tuple[object, ...] = (None,) * 4
    if len(complete) == len(groups) and any(one.variance for one in complete):
        numbers = _of_one(complete[0], mean) if mean is not None else _of_two(complete[0], complete[1], equal_variance)
    return TTest(result, tuple(groups), mean, equal_variance, *numbers)  # type: ignore[arg-type]


Numbers = tuple[Estimate, Test, Estimate, Estimate]
"""The fields of a TTest after its options."""


def _of_one(one: Sample, mean: float) -> Numbers:
    difference, degrees = one.mean - mean, one.n - 1
    d = difference / sqrt(one.variance)
    spread = sqrt(1 / one.n + d**2 / (2 * one.n))
    return (*_tested(difference, sqrt(one.variance / one.n), degrees), *_effects(d, spread, degrees))


def _of_two(first: Sample, second: Sample, equal_variance: bool) -> Numbers:
    difference, both = first.mean - second.mean, first.n + second.n
    pooled = (first.squares + second.squares) / (both - 2)
    if equal_variance:
        error, degrees = sqrt(pooled * (1 / first.n + 1 / second.n)), float(both - 2)
    else:  # Welch-Satterthwaite
        shares = (first.variance / first.n, second.variance / second.n)
        error = sqrt(sum(shares))
        degrees = sum(shares) ** 2 / (shares[0] ** 2 / (first.n - 1) + shares[1] ** 2 / (second.n - 1))
    d = difference / sqrt(pooled)
    spread = sqrt(both / (first.n * second.n) + d**2 / (2 * both))
    return (*_tested(difference, error, degrees), *_effects(d, spread, both - 2))


def _tested(difference: float, error: float, degrees: float) -> tuple[Estimate, Test]:
    """The difference with its interval, and the test that it is 0."""
    t = stats("t_test()").t
    half, statistic = float(t.ppf(0.975, degrees)) * error, difference / error
    p = 2 * float(t.sf(abs(statistic), degrees))
    return Estimate(difference, difference - half, difference + half), Test(statistic, degrees, p)


def _effects(d: float, spread: float, degrees: float) -> tuple[Estimate, Estimate]:
    """Cohen's d and Hedges' g, with intervals by the normal approximation (Hedges and Olkin 1985, §5B)."""
    half = NORMAL_95 * spread
    factor = exp(lgamma(degrees / 2) - lgamma((degrees - 1) / 2)) / sqrt(degrees / 2) if degrees > 1 else 0.0
    return Estimate(d, d - half, d + half), Estimate(d * factor, (d - half) * factor, (d + half) * factor)


def welch(first: Sample, second: Sample) -> float | None:
    """p of Welch's test; None where it is not defined."""
    if min(first.n, second.n) < 2 or not (first.variance or second.variance):
        return None
    return _of_two(first, second, False)[1].p
