"""Rates made comparable: directly standardised to a population's make-up, or as a ratio to what is expected.

With d_i events among n_i subjects, or in n_i units of time, in stratum i:

    crude      Σd_i / Σn_i
    direct     Σw_i·d_i/n_i, weights w_i of the standard population, which add up to 1
    indirect   SMR = Σd_i / Σn_i·r_i, rates r_i of the standard population
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from ceiba.analyses.cells import (
    Estimate,
    Key,
    ask,
    cells,
    estimates_part,
    is_withheld,
    labels_of,
    require_ungrouped,
    standing_notes,
)
from ceiba.analysis import Analysis, Outcome
from ceiba.extras import stats
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba.terms import Term, case, column_or_term
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Kind, lower
from ceiba_protocol.statistics import Statistic, Withheld


@dataclass(frozen=True)
class Stratum:
    """One stratum's figures."""

    label: Any
    events: float | Withheld
    exposure: float | Withheld
    """Subjects, or the time at risk in the unit of its column."""
    standard: float
    """The standard population's share (direct, 0 to 1), or its rate (indirect)."""

    @property
    def rate(self) -> float | Withheld | None:
        """Events per unit of exposure; None without exposure."""
        if isinstance(self.events, Withheld) or isinstance(self.exposure, Withheld):
            return self.events if isinstance(self.events, Withheld) else self.exposure
        return self.events / self.exposure if self.exposure else None


@dataclass(frozen=True, repr=False)
class StandardisedRate(Outcome):
    """Rates; None where a stratum was withheld, or where a stratum that has weight has no exposure."""

    key: str
    """The name of the key that makes the strata."""
    strata: tuple[Stratum, ...]
    crude: Estimate | None
    """Events per unit of exposure, with the exact Poisson interval (Garwood 1936, Biometrika 28, 437)."""
    adjusted: Estimate | None
    """The directly standardised rate, with the gamma interval of Fay and Feuer (1997, Stat. Med. 16, 791)."""

    title = "Directly standardised rate"

    def parts(self) -> Sequence[TablePart]:
        """Both rates, and the strata."""
        rates = estimates_part("Rates", {"crude": self.crude, "standardised": self.adjusted})
        return [rates, _strata_part(self.key, self.strata, "share of the standard")]

    def notes(self) -> list[str]:
        """Why something is missing."""
        return _notes(self, needs_rates=True)


@dataclass(frozen=True, repr=False)
class StandardisedRatio(Outcome):
    """Observed against expected events; None where a stratum was withheld."""

    key: str
    """The name of the key that makes the strata."""
    strata: tuple[Stratum, ...]
    observed: float | None
    """Events."""
    expected: float | None
    """Events, had every stratum the standard population's rate."""
    ratio: Estimate | None
    """The standardised mortality or incidence ratio, observed / expected, with the exact Poisson interval of the
    observed number (Garwood 1936)."""

    title = "Standardised ratio"

    def parts(self) -> Sequence[TablePart]:
        """The ratio, and the strata."""
        totals = TablePart("Events", ("observed", "expected"), [(self.observed, self.expected)])
        ratio = estimates_part("Ratio", {"SMR": self.ratio})
        return [ratio, totals, _strata_part(self.key, self.strata, "standard rate")]

    def notes(self) -> list[str]:
        """Why something is missing."""
        return _notes(self, needs_rates=False)


def _strata_part(key: str, strata: Sequence[Stratum], standard: str) -> TablePart:
    rows = [(one.label, one.events, one.exposure, one.rate, one.standard) for one in strata]
    return TablePart("Strata", (key, "events", "exposure", "rate", standard), rows)


def _notes(outcome: StandardisedRate | StandardisedRatio, *, needs_rates: bool) -> list[str]:
    notes = standing_notes(outcome.result, any(is_withheld(one.events, one.exposure) for one in outcome.strata))
    if needs_rates and any(one.standard and one.exposure == 0 for one in outcome.strata):
        notes.append("A stratum of the standard population is empty here, so there is no standardised rate: merge it.")
    return notes


# --- the question -----------------------------------------------------------------------------------------------


def standardised_rate(
    table: Table, events: Term | str, by: Key, population: Mapping[Any, float], time: Term | str | None = None
) -> Analysis[StandardisedRate]:
    """Direct standardisation. Raises BadQuestion."""
    query = _ask(table, events, by, time)
    return Analysis(query, partial(_finish_direct, query, _standard(query, population, "population")))


def standardised_ratio(
    table: Table, events: Term | str, by: Key, expected: Mapping[Any, float], time: Term | str | None = None
) -> Analysis[StandardisedRatio]:
    """Indirect standardisation. Raises BadQuestion."""
    query = _ask(table, events, by, time)
    return Analysis(query, partial(_finish_indirect, query, _standard(query, expected, "expected")))


def _ask(table: Table, events: Term | str, by: Key, time: Term | str | None) -> Query:
    """Events and exposure over the rows where both are there."""
    require_ungrouped(table, "standardised_rate")
    happened = column_or_term(events)
    known = happened.notnull()
    if lower(happened.expression, table.schema).kind is Kind.TRUTH:
        happened = case((happened, 1), otherwise=0)
    outputs: dict[str, Statistic] = {"events": statistic("sum")(happened)}
    if time is None:
        outputs["exposure"] = statistic("count")(happened)
    else:
        known = known & column_or_term(time).notnull()
        outputs["exposure"] = statistic("sum")(column_or_term(time))
    return ask(table.filter(known), [by], outputs)


def _standard(query: Query, given: Mapping[Any, float], name: str) -> dict[Any, float]:
    """The standard's numbers in the order of the strata."""
    labels = labels_of(query, 0)
    hint = f"{name}= is a dictionary with a number for each of: {', '.join(map(str, labels))}."
    if set(given) != set(labels):
        missing = [str(label) for label in labels if label not in given]
        unknown = [str(label) for label in given if label not in labels]
        problem = f"{name} lacks {', '.join(missing)}" if missing else f"{name} has {', '.join(unknown)}, no stratum"
        raise BadQuestion(problem=problem, hint=f"{hint} A stratum that should not count has 0.")
    if not all(isfinite(one) and one >= 0 for one in given.values()) or not any(given.values()):
        raise BadQuestion(problem=f"{name} has a number that is below 0 or not finite, or only zeros", hint=hint)
    return {label: float(given[label]) for label in labels}


# --- the numbers ------------------------------------------------------------------------------------------------


def _strata(result: Result, standard: Mapping[Any, float]) -> tuple[Stratum, ...]:
    released = cells(result, 1)
    rows = [(label, *released.get((label,), (0, 0)), share) for label, share in standard.items()]
    return tuple(Stratum(label, events or 0, exposure or 0, share) for label, events, exposure, share in rows)


def _numbers(result: Result, strata: Sequence[Stratum]) -> list[tuple[float, float, float]] | None:
    """Events, exposure and standard of each stratum; None if something was withheld, or carries noise."""
    found = []
    for one in strata:
        if isinstance(one.events, Withheld) or isinstance(one.exposure, Withheld) or result.noise is not None:
            return None
        found.append((float(one.events), float(one.exposure), one.standard))
    return found


def _finish_direct(query: Query, population: Mapping[Any, float], result: Result) -> StandardisedRate:
    whole = sum(population.values())
    strata = _strata(result, {label: weight / whole for label, weight in population.items()})
    numbers = _numbers(result, strata)
    crude = adjusted = None
    if numbers is not None and sum(n for _, n, _ in numbers) > 0:
        d, n = (sum(column) for column in list(zip(*numbers, strict=True))[:2])
        crude = _poisson(d, n)
        if all(n > 0 for _, n, weight in numbers if weight):
            adjusted = _fay_feuer([(d, weight / n) for d, n, weight in numbers if weight])
    return StandardisedRate(result, query.asked.groups[0].name, strata, crude, adjusted)


def _finish_indirect(query: Query, rates: Mapping[Any, float], result: Result) -> StandardisedRatio:
    strata = _strata(result, rates)
    numbers = _numbers(result, strata)
    observed = expected = ratio = None
    if numbers is not None:
        observed, expected = sum(d for d, _, _ in numbers), sum(n * rate for _, n, rate in numbers)
        ratio = _poisson(observed, expected) if expected else None
    return StandardisedRatio(result, query.asked.groups[0].name, strata, observed, expected, ratio)


def _poisson(events: float, per: float) -> Estimate:
    """events / per; the exact interval of a Poisson mean is χ²(0.025; 2d)/2 to χ²(0.975; 2d + 2)/2."""
    chi = stats("standardised_rate()").chi2
    low = float(chi.ppf(0.025, 2 * events)) / 2 if events else 0.0
    return Estimate(events / per, low / per, float(chi.ppf(0.975, 2 * events + 2)) / 2 / per)


def _fay_feuer(strata: Sequence[tuple[float, float]]) -> Estimate:
    """Of events d_i, each of which adds w_i to the rate y = Σw_i·d_i, whose variance is v = Σw_i²·d_i: the points of
    gamma distributions with mean y and variance v, and above with mean y + w and variance v + w², w the largest w_i."""
    gamma = stats("standardised_rate()").gamma
    y, v = sum(d * w for d, w in strata), sum(d * w * w for d, w in strata)
    widest = max(w for _, w in strata)
    low = float(gamma.ppf(0.025, y**2 / v, scale=v / y)) if y else 0.0
    above, spread = y + widest, v + widest**2
    return Estimate(y, low, float(gamma.ppf(0.975, above**2 / spread, scale=spread / above)))
