"""Analysis of variance of one or two factors, from the count, mean and variance of each cell.

A linear model of factors fits the same value to all rows of a cell, so its residual sum of squares is the squares
within cells plus what weighted least squares leaves of the cells' means (Searle 1971, Linear Models, ch. 7): no row is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ceiba.analyses.cells import (
    Group,
    Key,
    Sample,
    ask,
    cells,
    group,
    labels_of,
    moments,
    require_ungrouped,
    sample,
    standing_notes,
)
from ceiba.analysis import Analysis, Outcome
from ceiba.extras import stats
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.summary import TablePart
from ceiba.terms import Term
from ceiba_protocol.errors import BadQuestion

Matrix = npt.NDArray[np.float64]

EMPTY_CELL = (
    "A combination of both factors has no rows: type III compares means that nobody measured, so it is left out; "
    "the interaction is that of the combinations that there are."
)

NO_TEST = "There is no test: fewer than two groups, no more values than groups, or factors that say the same."


@dataclass(frozen=True)
class Effect:
    """One line of a table of variance."""

    source: str
    squares: float
    """Sum of squares, in the value's unit squared."""
    degrees: int
    f: float | None
    """Mean square over that of the residuals; None of the residuals, and where these do not vary."""
    p: float | None
    eta_squared: float | None
    """Of one factor squares / total squares, 0 to 1; of two, partial: squares / (squares + residual squares)."""
    omega_squared: float | None
    """η² without its bias (Olejnik and Algina 2003): (S − d·M)/(T + M) with one factor, and partial
    (S − d·M)/(S + (n − d)·M) with two, where M is the residual mean square; may be slightly negative."""

    @property
    def row(self) -> tuple[Any, ...]:
        """As a row of a summary."""
        mean = self.squares / self.degrees if self.degrees else None
        sizes = (self.eta_squared, self.omega_squared)
        return self.source, self.squares, self.degrees, mean, self.f, self.p, *sizes


@dataclass(frozen=True, repr=False)
class Anova(Outcome):
    """Tables of variance. Empty where a cell was withheld, or where no residuals are left."""

    factors: tuple[str, ...]
    groups: tuple[Group, ...]
    """Each cell with rows, labelled by its factors' labels."""
    effects: tuple[Effect, ...]
    """The factors and the residuals; of two factors the sums of squares of type II: each factor beside the other, the
    interaction beside both."""
    effects_type_3: tuple[Effect, ...]
    """Of two factors, type III: each effect beside all others, with sum-to-zero contrasts. Empty of one factor, and
    where a combination has no rows."""

    title = "Analysis of variance"

    def parts(self) -> Sequence[TablePart]:
        """The table of variance, of two factors both types, and the groups."""
        sizes = ("partial η²", "partial ω²") if len(self.factors) > 1 else ("η²", "ω²")
        head = ("source", "sum of squares", "df", "mean square", "F", "p", *sizes)
        name = "Variance, type II" if len(self.factors) > 1 else "Variance"
        tables = [TablePart(name, head, [one.row for one in self.effects])]
        if self.effects_type_3:
            tables.append(TablePart("Variance, type III", head, [one.row for one in self.effects_type_3]))
        groups = [(*one.label, *one.row[1:]) for one in self.groups]
        return [*tables, TablePart("Groups", (*self.factors, "n", "mean", "sd"), groups)]

    def notes(self) -> list[str]:
        """Why something is missing."""
        withheld = any(one.withheld for one in self.groups)
        notes = standing_notes(self.result, withheld)
        if not notes and not self.effects:
            notes.append(NO_TEST)
        if self.effects and len(self.factors) > 1 and not self.effects_type_3:
            notes.append(EMPTY_CELL)
        return notes


def anova(table: Table, value: Term | str, by: Key | Sequence[Key]) -> Analysis[Anova]:
    """Of one factor, or of two with their interaction. Raises BadQuestion."""
    require_ungrouped(table, "anova")
    keys: Sequence[Key] = by if isinstance(by, tuple | list) else [by]  # type: ignore[list-item]  # a text is no list
    if not 1 <= len(keys) <= 2:
        hint = 'Write anova("cholesterol", by="sex"), or by=("sex", "chest_pain").'
        raise BadQuestion(problem=f"anova() was given {len(keys)} factors", hint=hint)
    query = ask(table, keys, moments(value))
    return Analysis(query, partial(_finish, query))


def _finish(query: Query, result: Result) -> Anova:
    factors = tuple(key.name for key in query.asked.groups)
    groups = [group(labels, values) for labels, values in cells(result, len(factors)).items()]
    groups = [one for one in groups if one.n != 0]
    samples = [one for each in groups if (one := sample(each)) is not None]
    effects: tuple[list[Effect], list[Effect]] = ([], [])
    if result.noise is None and samples and len(samples) == len(groups):
        if len(factors) == 1:
            effects = (one_way(factors[0], samples), [])
        else:
            effects = _two_way(factors, [_places(query, one.label) for one in groups], samples)
    return Anova(result, factors, tuple(groups), tuple(effects[0]), tuple(effects[1]))


def _places(query: Query, labels: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(labels_of(query, place).index(label) for place, label in enumerate(labels))


# --- sums of squares --------------------------------------------------------------------------------------------


def one_way(factor: str, samples: Sequence[Sample]) -> list[Effect]:
    """The lines of one factor and of the residuals; none where there is nothing to test."""
    n = sum(one.n for one in samples)
    mean = sum(one.n * one.mean for one in samples) / n
    between = sum(one.n * (one.mean - mean) ** 2 for one in samples)
    return _effects([(factor, between, len(samples) - 1)], samples, of_total=True)


def _two_way(
    factors: Sequence[str], places: Sequence[tuple[int, ...]], samples: Sequence[Sample]
) -> tuple[list[Effect], list[Effect]]:
    """The tables of type II and III."""
    first, second = (_contrasts([place[factor] for place in places]) for factor in (0, 1))
    both = np.hstack([first, second])
    crossed = (first[:, :, None] * second[:, None, :]).reshape(len(places), -1)
    names = (*factors, ":".join(factors))
    left = partial(_left, samples)
    full = left(np.hstack([both, crossed]))
    pairs = [(left(second), left(both)), (left(first), left(both)), (left(both), full)]
    type_2 = _effects([_gain(name, *pair) for name, pair in zip(names, pairs, strict=True)], samples)
    if len(places) < (first.shape[1] + 1) * (second.shape[1] + 1) or not crossed.size:
        return type_2, []
    without = [np.hstack([second, crossed]), np.hstack([first, crossed]), both]
    gains = [_gain(name, left(one), full) for name, one in zip(names, without, strict=True)]
    return type_2, _effects(gains, samples)


def _contrasts(levels: Sequence[int]) -> Matrix:
    """[cells, levels − 1]: sum-to-zero coding of the levels that occur."""
    present = sorted(set(levels))
    coded: Matrix = np.array([[float(level == one) for one in present] for level in levels])
    return coded[:, :-1] - coded[:, -1:]


def _left(samples: Sequence[Sample], design: Matrix) -> tuple[float, int]:
    """Weighted squares of the cells' means that a design with an intercept leaves, and the design's rank."""
    weights = np.sqrt([one.n for one in samples])
    means = np.array([one.mean for one in samples])
    means = means - np.average(means, weights=weights**2)  # so that a large mean costs no digits
    weighted = np.hstack([np.ones((len(samples), 1)), design]) * weights[:, None]
    solution, _, rank, _ = np.linalg.lstsq(weighted, means * weights, rcond=None)
    return float(((means * weights - weighted @ solution) ** 2).sum()), int(rank)


def _gain(name: str, smaller: tuple[float, int], larger: tuple[float, int]) -> tuple[str, float, int]:
    """What the larger model explains beyond the smaller: squares, and degrees of freedom."""
    return name, max(0.0, smaller[0] - larger[0]), larger[1] - smaller[1]


def _effects(
    gains: Sequence[tuple[str, float, int]], samples: Sequence[Sample], *, of_total: bool = False
) -> list[Effect]:
    """The lines of the effects, then of the residuals; none where there is nothing to test or to test against."""
    n, within = sum(one.n for one in samples), sum(one.squares for one in samples)
    degrees = n - len(samples)
    gains = [gain for gain in gains if gain[2]]
    if not gains or degrees < 1:
        return []
    lines = [_effect(gain, n, within, degrees, of_total) for gain in gains]
    return [*lines, Effect("residuals", within, degrees, None, None, None, None)]


def _effect(gain: tuple[str, float, int], n: int, within: float, degrees: int, of_total: bool) -> Effect:
    source, squares, own = gain
    error = within / degrees
    f = squares / own / error if error else None
    p = None if f is None else float(stats("anova()").f.sf(f, own, degrees))
    whole = squares + within
    unbiased = whole + error if of_total else squares + (n - own) * error
    sizes = (squares / whole, (squares - own * error) / unbiased) if whole else (None, None)
    return Effect(source, squares, own, f, p, *sizes)
