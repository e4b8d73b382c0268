"""Quantiles from counts up to public cuts, in several questions, each finer where a quantile lies.

Every question counts the values up to some cuts. Between the nearest two a sought value lies: its bracket. The next
question cuts the widest bracket. Where the holders withhold that, because too few lie between two cuts, the bracket is
asked again with a single cut, in its middle or nearer to one side; if that is withheld too, it stays as wide as it is.
A bracket of one step of the column's resolution is exact.

Counts up to a cut, and not in bins, because later questions then ask for nothing that an earlier one has shown in
other words, which holders would withhold: nobody can tell that the difference of the two is nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any, NoReturn

from ceiba.analyses.cells import Key, Labels, ask, cells, is_withheld, require_ungrouped
from ceiba.analyses.extremes import EXTREME_HINT, EXTREME_PROBLEM
from ceiba.analysis import Analysis, Outcome
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba.terms import Term, case, column_or_term
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import columns_of, lower_sum
from ceiba_protocol.schema import Grade
from ceiba_protocol.statistics import WITHHELD, Withheld

QUARTILES = (0.25, 0.5, 0.75)
MAX_BINS = 100
"""Cuts of one question, whose differences the holders test pair by pair."""
DEFAULT_BINS = 10
"""Of a question about columns that are not all public, where finer bins would be withheld."""


@dataclass(frozen=True)
class Quantile:
    """One quantile, and how sure it is."""

    q: float
    """0 to 1."""
    value: float | None
    """The middle of where it can lie, in the column's unit; None if there is no value, or if their number was withheld.

    Of known values it is numpy's and R's default (type 7 of Hyndman and Fan 1996, Am. Stat. 50, 361): the value at
    place (n − 1)·q of the sorted ones, counted from 0, and between two of them their weighted mean."""
    half_width: float | None
    """It lies at most so far from `value`, in the column's unit; 0 where it is exact."""


@dataclass(frozen=True)
class GroupQuantiles:
    """The quantiles of one group."""

    labels: tuple[Any, ...]
    """Empty without groups."""
    n: int | Withheld
    """Values that are not NULL."""
    quantiles: tuple[Quantile, ...]

    def at(self, q: float) -> Quantile | None:
        """The quantile q; None if it was not asked for."""
        return next((one for one in self.quantiles if one.q == q), None)

    @property
    def iqr(self) -> Quantile | None:
        """Distance between the quartiles; None if they were not asked for, or are not known. (Its q is 0.5.)"""
        low, high = self.at(0.25), self.at(0.75)
        if low is None or high is None or low.value is None or high.value is None:
            return None
        return Quantile(0.5, high.value - low.value, (high.half_width or 0.0) + (low.half_width or 0.0))


@dataclass(frozen=True, repr=False)
class Quantiles(Outcome):
    """Quantiles in each group. `result` is the last answer, `results` are all of them."""

    key: str | None
    """The name of the key that makes the groups."""
    groups: tuple[GroupQuantiles, ...]
    """In the order of the public labels; groups without rows are left out."""
    results: tuple[Result, ...] = field(repr=False, compare=False)
    """One for each question."""

    title = "Quantiles"

    @property
    def value(self) -> float | None:
        """The only quantile of the only group, such as a median. Raises BadQuestion if there are more."""
        found = [one.value for group in self.groups for one in group.quantiles]
        if len(found) != 1:
            raise BadQuestion(problem=f"these are {len(found)} quantiles", hint="Read groups[0].quantiles.")
        return found[0]

    def parts(self) -> Sequence[TablePart]:
        """A row for each quantile, and for the distance between the quartiles if both were asked for."""
        names = () if self.key is None else (self.key,)
        rows = [(*group.labels, *row) for group in self.groups for row in _rows(group)]
        return [TablePart("Quantiles", (*names, "quantile", "value", "±", "n"), rows)]

    def notes(self) -> list[str]:
        """How many questions it took, and how exact the answer is."""
        widths = [one.half_width for group in self.groups for one in group.quantiles]
        notes = [f"Questions asked: {len(self.results)}."]
        if any(widths):
            notes.append("± is half of the bin in which the quantile lies, for certain; the value is its middle.")
        if self.result.noise is not None:
            notes.append("The counts carry noise: the bins are the likely ones, and ± does not include the noise.")
        if any(is_withheld(group.n) for group in self.groups):
            notes.append("The number of values was withheld: there is no quantile.")
        if any(width for width in widths) and any(result.withheld for result in self.results):
            notes.append("Finer bins were withheld; fewer bins=, or low= and high= nearer to the values, may help.")
        return notes


def _rows(group: GroupQuantiles) -> Iterator[tuple[Any, ...]]:
    for one in group.quantiles:
        yield one.q, one.value, one.half_width, group.n
    if group.iqr is not None:
        yield "IQR", group.iqr.value, group.iqr.half_width, group.n


# --- cuts -------------------------------------------------------------------------------------------------------


Cuts = tuple[int, ...]
"""Units, ascending."""


@dataclass(frozen=True)
class Bracket:
    """Values in units of the resolution, from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def width(self) -> int:
        """1 is exact."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Grid:
    """All that a value can be, and where it is cut. A cut at a unit counts the values up to it."""

    whole: Bracket
    start: Bracket
    """What is cut first: the whole, unless the merchant says where the values lie."""
    step: Fraction
    """What a unit is worth."""
    bins: int

    def attempts(self, bracket: Bracket, *, coarse: bool = False) -> list[Cuts]:
        """The cuts to try of a bracket, one after the other as they are withheld. `coarse`: something was already.

        At the ends of what a value can be there are few, so what touches an end is cut nearer to the other side."""
        target = self.start if bracket == self.whole else bracket
        low, high = bracket.first == self.whole.first, bracket.last == self.whole.last
        sizes = (self.bins, self.bins // 5) if not (low or high) else () if coarse else (self.bins,)
        found = [self._even(target, min(bins, target.width)) for bins in sizes if bins > 1]
        places = (4, 2, 6) if low == high else (4, 6, 7) if low else (4, 2, 1)
        found += [self._inner([target.first + target.width * place // 8 - 1]) for place in places]
        return list(dict.fromkeys(cuts for cuts in found if cuts)) if bracket.width > 1 else []

    def _even(self, target: Bracket, bins: int) -> Cuts:
        """The ends of equal bins."""
        return self._inner([target.first - 1 + target.width * k // bins for k in range(bins + 1)])

    def _inner(self, units: Sequence[int]) -> Cuts:
        """Without those that cut nothing off."""
        return tuple(unit for unit in units if self.whole.first <= unit < self.whole.last)


@dataclass
class Knowledge:
    """What is known of one group: how many of its n values lie up to a unit."""

    up_to: dict[int, int]
    n: int | None = None
    """None as long as it was withheld."""
    failed: set[Cuts] = field(default_factory=set)
    """What was withheld."""

    def bracket(self, rank: int) -> Bracket:
        """Where the value of this rank, 1 to n, lies between the nearest cuts."""
        first = max(unit for unit, count in self.up_to.items() if count < rank) + 1
        return Bracket(first, min(unit for unit, count in self.up_to.items() if count >= rank and unit >= first))

    def brackets(self, q: float) -> tuple[Bracket, Bracket, float]:
        """Where the two values are between which the quantile lies, and the weight of the second."""
        place = Fraction(repr(q)) * ((self.n or 1) - 1)
        low, weight = floor(place) + 1, float(place % 1)
        return self.bracket(low), self.bracket(low + 1 if weight else low), weight

    def quantile(self, q: float, step: Fraction) -> Quantile:
        """The quantile as far as it is known."""
        if self.n is None or self.n < 1:
            return Quantile(q, None, None)
        low, high, weight = self.brackets(q)
        first = float(step) * ((1 - weight) * low.first + weight * high.first)
        last = float(step) * ((1 - weight) * low.last + weight * high.last)
        return Quantile(q, (first + last) / 2, (last - first) / 2)


# --- the search -------------------------------------------------------------------------------------------------


Groups = dict[Labels, Knowledge]


@dataclass(frozen=True, repr=False)
class QuantileSearch(Analysis[Quantiles]):
    """The questions that find quantiles; lazy. `query` is the first of them, which `explain` is about."""

    question: Callable[[Cuts], Query]
    q: tuple[float, ...]
    grid: Grid
    questions: int
    """How many are asked at most."""

    def run(self, **options: Any) -> Quantiles:
        """Ask until the quantiles are exact, finer bins are withheld, or `questions` were asked. Noise costs budget
        each time, so with noise one question is all. Options as for `Query.run`."""
        return self._search(lambda query: query.run(**options))

    def mock(self, rows: int = 1000, seed: int = 0) -> Quantiles:
        """The same on made-up rows of the schema; means nothing."""
        return self._search(lambda query: query.mock(rows, seed))

    def submit(self, **_options: Any) -> NoReturn:
        """Not possible: a question depends on the answers before it."""
        raise BadQuestion(problem="quantiles are several questions, one after the other", hint="Use run().")

    def _search(self, answer: Callable[[Query], Result]) -> Quantiles:
        known: Groups = {}
        results: list[Result] = []
        cuts: Cuts | None = _first(self.grid)
        while cuts is not None and len(results) < self.questions:
            results.append(answer(self.question(cuts)))
            self._learn(known, cuts, results[-1])
            cuts = self._next(known) if results[-1].noise is None else None
        keys = self.query.asked.groups
        groups = tuple(self._group(labels, one) for labels, one in known.items())
        return Quantiles(results[-1], keys[0].name if keys else None, groups, tuple(results))

    def _learn(self, known: Groups, cuts: Cuts, result: Result) -> None:
        """Take up an answer, group by group."""
        for labels, (n, *counts) in cells(result, len(self.query.asked.groups)).items():
            group = known.setdefault(labels, Knowledge({self.grid.whole.first - 1: 0}))
            group.up_to |= {unit: count for unit, count in zip(cuts, counts, strict=True) if count is not WITHHELD}
            if not is_withheld(n):
                group.n = group.up_to[self.grid.whole.last] = n
            if is_withheld(n, *counts):
                group.failed.add(cuts)

    def _wanted(self, group: Knowledge) -> list[Bracket]:
        """Where the sought values lie."""
        if group.n is None:
            return [self.grid.whole]
        found = [group.brackets(q)[:2] for q in self.q] if group.n > 0 else []
        return list(dict.fromkeys(bracket for pair in found for bracket in pair))

    def _next(self, known: Groups) -> Cuts | None:
        """The next cuts of the widest bracket that can be cut; None if there is none."""
        found: dict[Cuts, int] = {}
        for group in known.values():
            for bracket in self._wanted(group):
                attempts = self.grid.attempts(bracket, coarse=bool(group.failed))
                for cuts in [one for one in attempts if one not in group.failed][:1]:
                    found[cuts] = max(found.get(cuts, 0), bracket.width)
        return max(found, key=lambda cuts: found[cuts], default=None)

    def _group(self, labels: Labels, known: Knowledge) -> GroupQuantiles:
        found = tuple(known.quantile(q, self.grid.step) for q in self.q)
        return GroupQuantiles(labels, WITHHELD if known.n is None else known.n, found)


def _first(grid: Grid) -> Cuts:
    return next(iter(grid.attempts(grid.whole)), ())


# --- the question -----------------------------------------------------------------------------------------------


def quantiles(
    table: Table,
    value: Term | str,
    q: Sequence[float] = QUARTILES,
    by: Key | None = None,
    *,
    bins: int | None = None,
    questions: int = 12,
    low: float | None = None,
    high: float | None = None,
) -> QuantileSearch:
    """Quantiles of a value in each group. Raises BadQuestion, and UnboundedColumn for a column without bounds."""
    require_ungrouped(table, "quantiles")
    expression = column_or_term(value).expression
    lowered = lower_sum(expression, table.schema)
    public = all(table.schema.column(name).grade is Grade.PUBLIC for name in columns_of(expression))
    bins = bins or (MAX_BINS if public else DEFAULT_BINS)
    _check(q, bins, questions)
    whole = Bracket(lowered.node.low, lowered.node.high)
    grid = Grid(whole, _start(whole, lowered.step, low, high), lowered.step, bins)

    def question(cuts: Cuts) -> Query:
        values, count = Term(expression), statistic("count")
        up_to = {
            f"up_to_{k}": count(case((values <= _decimal(cut * lowered.step), 1))) for k, cut in enumerate(cuts, 1)
        }
        return ask(table, [] if by is None else [by], {"n": count(values), **up_to})

    return QuantileSearch(question(_first(grid)), _unused, question, tuple(q), grid, questions)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _unused(result: Result) -> Quantiles:
    """Answers are finished by the search, which sees all of them."""
    raise NotImplementedError


def _check(q: Sequence[float], bins: int, questions: int) -> None:
    if not q or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in q):
        raise BadQuestion(
            problem="a quantile is no number from 0 to 1", hint="Write, for example, q=(0.25, 0.5, 0.75)."
        )
    if {0, 1} & set(q):
        raise BadQuestion(problem=EXTREME_PROBLEM, hint=EXTREME_HINT)
    if not 2 <= bins <= MAX_BINS or questions < 1:
        hint = f"Give 2 to {MAX_BINS} bins, and at least one question."
        raise BadQuestion(problem=f"quantiles in {bins} bins and {questions} questions", hint=hint)


def _start(whole: Bracket, step: Fraction, low: float | None, high: float | None) -> Bracket:
    """What lies from `low` to `high` of all that a value can be."""
    first = whole.first if low is None else max(whole.first, ceil(Fraction(repr(low)) / step))
    last = whole.last if high is None else min(whole.last, floor(Fraction(repr(high)) / step))
    if first >= last and whole.width > 1:
        hint = f"The column's values lie from {float(whole.first * step):g} to {float(whole.last * step):g}."
        raise BadQuestion(problem="between low and high there are no two values", hint=hint)
    return Bracket(first, last)
