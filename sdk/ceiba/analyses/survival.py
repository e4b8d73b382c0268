"""Survival: Kaplan–Meier, Nelson–Aalen, log-rank tests, and Cox's model.

Life tables are exact on their grid of times; everything else here follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ceiba.analyses.cells import require_ungrouped
from ceiba.analyses.coefficients import coefficient_rows, coefficient_titles
from ceiba.analyses.iterated import IteratedOutcome
from ceiba.analysis import Analysis, Outcome
from ceiba.extras import stats
from ceiba.formula import read_formula
from ceiba.models import FittedModel, LinkFunction, Origin
from ceiba.normal import NORMAL_95, around_logarithm
from ceiba.summary import TablePart
from ceiba.terms import Term, built, column_or_term, literal
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Number
from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.statistics.cox import Cox
from ceiba_protocol.statistics.survival import Survival

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from ceiba.models import Vector
    from ceiba.query import Table
    from ceiba.result import Result
    from ceiba.terms import Grouping


@dataclass(frozen=True)
class Curve:
    """One group's life table and what follows from it; all lists have one entry a time."""

    name: str
    times: Sequence[float]
    at_risk: Sequence[int]
    events: Sequence[int]
    censored: Sequence[int]

    @cached_property
    def survival(self) -> list[float]:
        """The product-limit estimate just after each time (Kaplan and Meier 1958)."""
        found, alive = [], 1.0
        for n, died in zip(self.at_risk, self.events, strict=True):
            alive *= (n - died) / n
            found.append(alive)
        return found

    @cached_property
    def _greenwood(self) -> list[float]:
        """Σ d/(n(n−d)) (Greenwood 1926); infinite where all have died."""
        found, total = [], 0.0
        for n, died in zip(self.at_risk, self.events, strict=True):
            total += died / (n * (n - died)) if n > died else math.inf if died else 0.0
            found.append(total)
        return found

    @cached_property
    def standard_errors(self) -> list[float]:
        """Of `survival`, by Greenwood's formula."""
        return [s * math.sqrt(v) if s > 0 else 0.0 for s, v in zip(self.survival, self._greenwood, strict=True)]

    @cached_property
    def intervals(self) -> list[tuple[float, float]]:
        """95 % intervals at each time, on the scale of log(−log S) (Kalbfleisch and Prentice 2002, §1.4)."""
        return [_log_log(s, v) for s, v in zip(self.survival, self._greenwood, strict=True)]

    @cached_property
    def cumulative_hazard(self) -> list[float]:
        """Σ d/n (Nelson 1972, Aalen 1978)."""
        return _running(died / n for n, died in zip(self.at_risk, self.events, strict=True))

    @cached_property
    def hazard_intervals(self) -> list[tuple[float, float]]:
        """95 % intervals of it, on the logarithm's scale, with the variance Σ d/n²."""
        variances = _running(died / n**2 for n, died in zip(self.at_risk, self.events, strict=True))
        return [
            around_logarithm(hazard, variance / hazard**2) if hazard else (0.0, 0.0)
            for hazard, variance in zip(self.cumulative_hazard, variances, strict=True)
        ]

    def quantile(self, share: float) -> float | None:
        """The first time at which no more than 1 − `share` are alive; None if there is none."""
        return self._first(self.survival, 1 - share)

    @property
    def median(self) -> float | None:
        return self.quantile(0.5)

    @property
    def median_interval(self) -> tuple[float | None, float | None]:
        """Where the interval's ends cross one half (Brookmeyer and Crowley 1982)."""
        lower, upper = zip(*self.intervals, strict=True) if self.intervals else ((), ())
        return self._first(lower, 0.5), self._first(upper, 0.5)

    def _first(self, values: Sequence[float], level: float) -> float | None:
        return next((t for t, value in zip(self.times, values, strict=True) if value <= level + 1e-12), None)

    def at(self, time: float) -> float:
        """The share that is alive just after a time."""
        return next((s for t, s in reversed(list(zip(self.times, self.survival, strict=True))) if t <= time), 1.0)


def _log_log(survival: float, greenwood: float) -> tuple[float, float]:
    if survival in (0.0, 1.0) or not math.isfinite(greenwood):
        return survival, survival
    reach = NORMAL_95 * math.sqrt(greenwood) / math.log(survival)
    ends = survival ** math.exp(reach), survival ** math.exp(-reach)
    return min(ends), max(ends)


def _running(values: Any) -> list[float]:
    found, total = [], 0.0
    for value in values:
        total += value
        found.append(total)
    return found


@dataclass(frozen=True)
class LogRank:
    """Whether the groups have the same hazard (Mantel 1966); within strata, if there are any."""

    statistic: float
    degrees: int
    p: float
    observed: Mapping[str, int]
    expected: Mapping[str, float]


@dataclass(frozen=True, repr=False)
class SurvivalOutcome(Outcome):
    """Curves of the groups that were released."""

    curves: tuple[Curve, ...]
    """One for each group; with strata, one for each group and stratum."""
    withheld: tuple[str, ...]
    """Groups with too few subjects or holders."""
    log_rank: LogRank | None
    """None for a single group, and where a group was withheld or nobody had the event."""

    title = "Survival"

    def __getitem__(self, name: object) -> Curve:
        """The curve of a group by its label. Raises BadQuestion."""
        for curve in self.curves:
            if curve.name == str(name):
                return curve
        known = ", ".join(curve.name for curve in self.curves)
        raise BadQuestion(problem=f"there is no curve {name}", hint=f"There are: {known}.")

    def parts(self) -> Sequence[TablePart]:
        rows = []
        for curve in self.curves:
            low, high = curve.median_interval
            n = curve.at_risk[0] if curve.at_risk else 0
            rows.append((curve.name, n, sum(curve.events), curve.median, low, high))
        parts = [TablePart("groups", ("group", "n", "events", "median", "[0.025", "0.975]"), rows)]
        if self.log_rank is not None:
            test = self.log_rank
            facts = [(name, test.observed[name], test.expected[name]) for name in test.observed]
            parts.append(TablePart("log-rank", ("group", "observed", "expected"), facts))
            parts.append(TablePart("test", ("χ²", "df", "p"), [(test.statistic, test.degrees, test.p)]))
        return parts

    def life_table(self) -> Any:
        """Every group's life table as one data frame."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "group": curve.name, "time": time, "at_risk": n, "events": died, "censored": left,
                    "survival": s, "lower": ends[0], "upper": ends[1], "cumulative_hazard": hazard,
                }
                for curve in self.curves
                for time, n, died, left, s, ends, hazard in zip(
                    curve.times, curve.at_risk, curve.events, curve.censored, curve.survival, curve.intervals,
                    curve.cumulative_hazard, strict=True,
                )
            ]
        )  # fmt: skip

    def notes(self) -> list[str]:
        lines = ["Intervals are pointwise. Times are the grid's; where data are not public, merged ones of it."]
        if self.withheld:
            names = ", ".join(self.withheld)
            lines.append(f"Withheld, with too few subjects or holders: {names}. So there is no test of all groups.")
        return lines

    def plot(self, **options: Any) -> Figure:
        """Survival curves with their intervals and the numbers at risk."""
        from ceiba import plots

        curves = [
            plots.Curve(
                name=curve.name,
                times=list(curve.times),
                survival=curve.survival,
                lower=[low for low, _ in curve.intervals],
                upper=[high for _, high in curve.intervals],
                at_risk=list(curve.at_risk),
            )
            for curve in self.curves
        ]
        return plots.survival(curves, **options)


def kaplan_meier(
    table: Table, time: Term | str, event: Term | str, *, by: Any = None, strata: Any = None,
    grid: float = 1,
) -> Analysis[SurvivalOutcome]:  # fmt: skip
    """See `AnalysisMethods.kaplan_meier`."""
    if strata is not None and by is None:
        raise BadQuestion(problem="strata without groups", hint="Say what is compared within them: by=...")
    statistic = built(
        Survival, time=column_or_term(time).expression, event=column_or_term(event).expression, grid=_grid(grid)
    )
    query = grouped(table, "kaplan_meier", by, strata).agg(fit=statistic)

    def finish(result: Result) -> SurvivalOutcome:
        groups, withheld = _curves(result)
        return SurvivalOutcome(
            result=result,
            curves=tuple(groups.values()),
            withheld=tuple(withheld),
            log_rank=None if withheld or by is None else log_rank(groups),
        )

    return Analysis(query, finish)


def grouped(table: Table, name: str, *keys: str | Term | Grouping | None) -> Table:
    """The table with these groups and no others. Raises BadQuestion for one that has groups."""
    require_ungrouped(table, name)
    wanted = [key for key in keys if key is not None]
    return table.group_by(*wanted) if wanted else table


def _grid(width: float) -> Number:
    number = literal(width)
    if not isinstance(number, Number):
        raise BadQuestion(problem="the grid is no number", hint="Give the width of its steps, such as grid=30.")
    return number


def _curves(result: Result) -> tuple[dict[tuple[str, str], Curve], list[str]]:
    """(group, stratum) → curve, in the result's order; and the names of what was withheld."""
    curves, withheld = {}, []
    for *labels, found in result.rows:
        group, stratum = ("all", "") if not labels else (str(labels[0]), str(labels[1]) if labels[1:] else "")
        name = f"{group}, {stratum}" if stratum else group
        if found is WITHHELD:
            withheld.append(name)
        elif found["times"]:
            curves[group, stratum] = Curve(name, found["times"], found["at_risk"], found["events"], found["censored"])
    return curves, withheld


def log_rank(curves: Mapping[tuple[str, str], Curve]) -> LogRank | None:
    """Observed less expected events and their hypergeometric covariance, summed over times and strata (Mantel 1966;
    Klein and Moeschberger 2003, §7.3). None for fewer than two groups, or without events."""
    import numpy as np

    chi2 = stats("A log-rank test").chi2
    groups = list(dict.fromkeys(group for group, _ in curves))
    strata = list(dict.fromkeys(stratum for _, stratum in curves))
    size = len(groups)
    observed, expected, covariance = np.zeros(size), np.zeros(size), np.zeros((size, size))
    for stratum in strata:
        tables = [curves.get((group, stratum)) for group in groups]
        for time in sorted({time for one in tables if one for time in one.times}):
            n, died = (np.array([_at(one, time, what) for one in tables]) for what in ("at_risk", "events"))
            everybody, deaths = n.sum(), died.sum()
            if not deaths:
                continue
            share = n / everybody
            observed, expected = observed + died, expected + deaths * share
            if everybody > 1:
                spread = deaths * (everybody - deaths) / (everybody - 1)
                covariance += spread * (np.diag(share) - np.outer(share, share))
    if size < 2 or not observed.sum():
        return None
    difference = (observed - expected)[:-1]
    statistic = float(difference @ np.linalg.pinv(covariance[:-1, :-1]) @ difference)
    return LogRank(
        statistic,
        size - 1,
        float(chi2.sf(statistic, size - 1)),
        dict(zip(groups, map(int, observed), strict=True)),
        dict(zip(groups, map(float, expected), strict=True)),
    )


def _at(curve: Curve | None, time: float, what: str) -> int:
    """How many of a group are at risk just before a time, or have the event at it."""
    if curve is None:
        return 0
    for place, own in enumerate(curve.times):
        if own == time:
            return int(getattr(curve, what)[place])
        if own > time:
            return int(curve.at_risk[place]) if what == "at_risk" else 0
    return 0


# --- Cox -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class CoxOutcome(IteratedOutcome):
    """Cox's proportional hazards: logarithms of hazard ratios, and the log partial likelihood. PMML has no form for
    it."""

    ties: str
    log_likelihood_at_zero: float
    """Without covariates."""
    events: int

    title = "Cox's proportional hazards"

    def predict(self, frame: pandas.DataFrame) -> Vector:
        """float64 [rows]: exp(Σ coefficient·column), the hazard relative to a row of zeros, NaN where a value is
        missing. Only quotients of two mean something: the baseline hazard is not estimated. Raises what
        `FittedModel.predict` does."""
        return self.model.predict(frame)

    @property
    def hazard_ratios(self) -> dict[str, float]:
        return {name: math.exp(one) for name, one in zip(self.names, self.coefficients, strict=True)}

    def likelihood_ratio(self) -> tuple[float, int, float]:
        """Statistic, degrees of freedom and p of all coefficients together."""
        chi2 = stats("A likelihood ratio test").chi2
        statistic = 2 * (self.log_likelihood - self.log_likelihood_at_zero)
        return statistic, len(self.names), float(chi2.sf(statistic, len(self.names)))

    def parts(self) -> Sequence[TablePart]:
        rows = coefficient_rows(self.names, self.coefficients, self.standard_errors)
        ratios = [(row[0], math.exp(row[1]), math.exp(row[5]), math.exp(row[6])) for row in rows]
        statistic, degrees, p = self.likelihood_ratio()
        facts = [
            ("rows", self.rows), ("events", self.events), ("ties", self.ties),
            ("log partial likelihood", self.log_likelihood), ("likelihood ratio", statistic),
            ("degrees of freedom", degrees), ("p", p), ("iterations", self.iterations),
        ]  # fmt: skip
        return [
            TablePart("coefficients", coefficient_titles(), rows),
            TablePart("hazard ratios", ("", "hazard ratio", "[0.025", "0.975]"), ratios),
            TablePart.of_facts("fit", facts),
        ]

    def plot(self, **options: Any) -> Figure:
        """A forest plot of the hazard ratios."""
        from ceiba import plots

        names, estimates, lower, upper = (list(part) for part in zip(*self.parts()[1].rows, strict=True))
        return plots.forest(names, estimates, lower, upper, **({"label": "hazard ratio"} | options))


def cox(
    table: Table, formula: str, time: Term | str, event: Term | str, *, strata: Any = None,
    ties: str = "efron", grid: float = 1, max_iterations: int = 30,
) -> Analysis[CoxOutcome]:  # fmt: skip
    """See `AnalysisMethods.cox`."""
    stats("A model's summary")  # said before anything is asked
    spec = read_formula(formula if "~" in formula else f"~ {formula}", table.schema)
    if spec.response is not None:
        hint = 'Write the covariates alone: cox("age + C(sex)", time="days", event="died").'
        raise BadQuestion(problem="the formula of a Cox model has an outcome", hint=hint)
    if not spec.columns:
        raise BadQuestion(problem="the formula has no covariate", hint="Use kaplan_meier() without covariates.")
    if ties not in ("efron", "breslow"):
        raise BadQuestion(problem=f"there is no rule for ties called {ties}", hint="Use efron or breslow.")
    statistic = built(
        Cox,
        time=column_or_term(time).expression,
        event=column_or_term(event).expression,
        columns=spec.columns,
        ties=ties,
        grid=_grid(grid),
        max_iterations=max_iterations,
    )

    def finish(result: Result) -> CoxOutcome:
        found = result.rows[0][-1]
        covariance = tuple(map(tuple, found["covariance"]))
        model = FittedModel(
            spec=replace(spec, intercept=False),
            schema=table.schema,
            family="cox",
            link=LinkFunction.LOG,
            values=tuple(found["coefficients"]),
            covariance=covariance,
            rows=found["rows"],
            origin=Origin.of(result),
            facts={"events": float(found["events"])},
        )
        return CoxOutcome(
            result=result,
            model=model,
            spec=spec,
            ties=ties,
            names=tuple(found["names"]),
            coefficients=tuple(found["coefficients"]),
            covariance=covariance,
            log_likelihood=found["log_likelihood"],
            log_likelihood_at_zero=found["log_likelihood_at_zero"],
            rows=found["rows"],
            events=found["events"],
            iterations=found["iterations"],
        )

    return Analysis(grouped(table, "cox", strata).agg(fit=statistic), finish)
