"""Scores: how well one tells events from the rest, whether it means what it says, and whether it has drifted.

A score is counted in equal bins between public ends, apart for rows with the event and without. Bins as fine as the
score's own units lose nothing; coarser ones treat all rows of a bin as ties, and what that can change is stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate
from math import inf, lcm, log, sqrt
from typing import TYPE_CHECKING, Any

from ceiba.analyses.cells import require_ungrouped
from ceiba.analysis import Analysis, AnalysisJob, Outcome
from ceiba.extras import stats
from ceiba.normal import NORMAL_95
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba.terms import Grouping, Scalar, Term, case, column_or_term, grouping, literal
from ceiba_protocol.errors import BadQuestion, UnboundedColumn
from ceiba_protocol.expression import Kind, Number, columns_of, lower, lower_number, number
from ceiba_protocol.job import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ceiba.query import Query, Table
    from ceiba.result import Result

DEFAULT_BINS = 20
MAX_BINS = 500
WITHHELD = (
    "A bin was withheld, because it is about too few (an empty one may look the same): what depends on it is left out. "
    "Use fewer bins."
)
PSI_READING = "Customary reading: below 0.1 no change, 0.1 to 0.25 some, above 0.25 a different population."
NOISY = "The counts carry noise: so do the figures made of them, and no interval or test is given."


@dataclass(frozen=True)
class Bins:
    """Bins of a score between `edges`, in rising order, each with its lower end; the last one with `high` as well."""

    value: Term
    edges: tuple[Fraction, ...]
    high: Fraction
    are_units: bool
    """Whether each bin is one value of the score."""
    numbers: tuple[int, ...]
    """Bins that the score can be in: 1 to `count`, 0 if it can be below them, and count + 1 if above."""

    @property
    def count(self) -> int:
        """How many there are between the ends."""
        return len(self.edges) - 1

    def ends(self, place: int) -> tuple[float | None, float | None]:
        """Where bin `place` begins and ends; None for an open end."""
        start = None if place == 0 else float(self.edges[place - 1])
        return start, None if place > self.count else float(self.edges[place])

    @property
    def key(self) -> Grouping:
        """The grouping key: conditions in rising order, of which the first that holds names the bin.

        Edges that are no decimals, such as thirds, are compared as multiples, so that nothing is rounded.
        """
        factor = lcm(*(edge.denominator for edge in self.edges)) if any(map(_is_endless, self.edges)) else 1
        value = self.value if factor == 1 else self.value * factor
        below = [place for place in self.numbers if place < self.count]
        tests = {place: value < Term(number(self.edges[place] * factor)) for place in below}
        tests[self.count] = value <= Term(number(self.high * factor))
        *branches, last = [(tests.get(place), str(place)) for place in self.numbers]
        if not branches:
            return case((self.value.notnull(), last[1])).alias("bin")
        return case(*branches, otherwise=last[1]).alias("bin")  # type: ignore[arg-type]  # only the last has none


def _is_endless(value: Fraction) -> bool:
    """Whether it has no end as a decimal."""
    try:
        number(value)
    except ValueError:
        return True
    return False


def bins_of(
    tables: Sequence[Table], score: str | Term, low: Scalar | None, high: Scalar | None, count: int | None
) -> Bins:
    """The bins of a score: from `low` to `high`, or its declared bounds in all tables; one for each value where these
    are few. Raises BadQuestion, UnboundedColumn, WrongType, and what the score's expression raises."""
    value = column_or_term(score)
    found = [_bounds(table, value, is_needed=low is None or high is None) for table in tables]
    lowest, highest, unit = min(one[0] for one in found), max(one[1] for one in found), found[0][2]
    first, last = lowest if low is None else _exact(low), highest if high is None else _exact(high)
    if first >= last or (last - first) % unit:
        hint = f"Give the lower end first, and ends that are whole multiples of {unit} apart."
        raise BadQuestion(problem=f"the bins of the score go from {first} to {last}", hint=hint)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_BINS):
        raise BadQuestion(problem=f"{count!r} bins are not possible", hint=f"Use 1 to {MAX_BINS}.")
    wanted, values = DEFAULT_BINS if count is None else count, int((last - first) / unit) + 1
    are_units = values <= wanted
    made, width = (values, unit) if are_units else (wanted, (last - first) / wanted)
    edges = tuple(first + place * width for place in range(made + 1))
    inside = [place for place in range(1, made + 1) if edges[place - 1] <= highest and edges[place] >= lowest]
    numbers = (*([0] if lowest < first else []), *inside, *([made + 1] if highest > last else []))
    return Bins(value, edges, last, are_units, numbers)


def _bounds(table: Table, value: Term, *, is_needed: bool) -> tuple[Fraction, Fraction, Fraction]:
    """The least and the largest value that a score can have, and its unit."""
    lowered = lower_number(value.expression, table.schema, "A score")
    unbounded = [name for name in sorted(columns_of(value.expression)) if table.schema.column(name).range is None]
    if unbounded and is_needed:
        raise UnboundedColumn(column=unbounded[0])
    return lowered.node.low * lowered.step, lowered.node.high * lowered.step, lowered.step


def _exact(value: Scalar) -> Fraction:
    made = literal(value)
    if not isinstance(made, Number):
        raise BadQuestion(problem=f"{value!r} is no number", hint="Give the ends of the bins as numbers.")
    return Fraction(made.value)


def event_of(table: Table, event: str | Term) -> Term:
    """An event as a condition. Raises BadQuestion for what can be other than true and false, or 0 and 1."""
    term = column_or_term(event)
    lowered = lower(term.expression, table.schema)
    if lowered.kind is Kind.TRUTH:
        return term
    if lowered.kind is Kind.NUMBER and lowered.step == 1 and (lowered.node.low, lowered.node.high) == (0, 1):
        return term == 1
    hint = "Give a bool column, an int column bounded by 0 and 1, or a condition: table.diagnosis > 0."
    raise BadQuestion(problem=f"the event {term!r} can be something other than true and false", hint=hint)


def _ask(table: Table, bins: Bins, event: Term | None, sums: Mapping[str, Term], what: str) -> Query:
    """Counts, and sums, in each bin (and by the event), over the rows where the score (and the event) is there."""
    require_ungrouped(table, what)
    terms = [bins.value] if event is None else [bins.value, event]
    missing = [term for term in terms if lower(term.expression, table.schema).node.nullable]
    keys = [bins.key, *([] if event is None else [grouping(event).alias("event")])]
    outputs = {"n": statistic("count")(), **{name: statistic("sum")(term) for name, term in sums.items()}}
    return table.filter(*(term.notnull() for term in missing)).group_by(*keys).agg(**outputs)


# --- ROC --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreBin:
    """One bin of a score. Counts are None where they were withheld."""

    low: float | None
    """Where it begins; None below the ends."""
    high: float | None
    """Where it ends; None above."""
    events: int | None
    others: int | None
    predicted: float | None
    """Mean score in it; None without rows, or where the score is no probability."""

    @property
    def n(self) -> int | None:
        """Rows in it."""
        return None if self.events is None or self.others is None else self.events + self.others

    @property
    def observed(self) -> float | None:
        """Share of events; None without rows."""
        return self.events / self.n if self.n and self.events is not None else None


@dataclass(frozen=True)
class Calibration:
    """Hosmer and Lemeshow's test (Applied Logistic Regression, 3rd ed., §5.2.2), and Brier's score."""

    chi_squared: float
    degrees: int
    """Bins with rows, less two: for the data that the score was fitted on. On other data it is the bins (§5.2.5)."""
    p: float
    brier: float
    """Mean of (score − event)², exact whatever the bins: 0 is best (Brier 1950)."""


@dataclass(frozen=True, repr=False)
class Roc(Outcome):
    """How a score tells events from other rows: the higher, the more likely the event.

    Its numbers are None where a bin was withheld, or where there are no events or nothing else.
    """

    bins: tuple[ScoreBin, ...]
    """From low to high scores."""
    auc: float | None
    """Probability that an event scores higher than another row, ties counting half (Hanley and McNeil 1982)."""
    auc_error: float | None
    """By how much binning can have moved the AUC, either way; 0 where each bin is one value."""
    auc_interval: tuple[float, float] | None
    """95 %, of the binned score (DeLong, DeLong and Clarke-Pearson 1988), within 0 and 1; None with noise."""
    ks: float | None
    """Largest difference of the two distributions; a lower bound where bins have several values."""
    ks_at: float | None
    """The score at and above which rows are taken where it is largest."""
    calibration: Calibration | None
    """Of scores bounded by 0 and 1; None for others, and with noise."""

    title = "ROC"

    @property
    def gini(self) -> float | None:
        """2·AUC − 1, also Somers' D."""
        return None if self.auc is None else 2 * self.auc - 1

    @property
    def curve(self) -> list[tuple[float | None, float, float]]:
        """(threshold, false positive rate, true positive rate), from taking no row to taking all: rows are taken whose
        score is at or above the threshold. The first threshold is None. Empty where a bin was withheld."""
        return roc_points([one.low for one in self.bins], _counts(self.bins))

    def parts(self) -> Sequence[TablePart]:
        """The figures, and the bins: of a probability the calibration table."""
        facts: list[tuple[str, Any]] = [
            ("events", self._total("events")),
            ("others", self._total("others")),
            ("AUC", self.auc),
            ("AUC ± by binning", self.auc_error),
            ("AUC 95 % low", None if self.auc_interval is None else self.auc_interval[0]),
            ("AUC 95 % high", None if self.auc_interval is None else self.auc_interval[1]),
            ("Gini", self.gini),
            ("KS", self.ks),
            ("KS at score", self.ks_at),
        ]
        if self.calibration is not None:
            found = self.calibration
            facts += [("Brier", found.brier), ("Hosmer-Lemeshow χ²", found.chi_squared)]
            facts += [("degrees of freedom", found.degrees), ("p", found.p)]
        rows = [(one.low, one.high, one.events, one.others, one.observed, one.predicted) for one in self.bins]
        titles = ("from", "to", "events", "others", "observed", "predicted")
        return [TablePart.of_facts("Figures", facts), TablePart("Bins", titles, rows)]

    def _total(self, name: str) -> int | None:
        counts = [getattr(one, name) for one in self.bins]
        return None if None in counts else sum(counts)

    def notes(self) -> list[str]:
        """What binning did, and why something is missing."""
        notes = []
        if any(one.n is None for one in self.bins):
            notes.append(WITHHELD)
        elif self.auc is None:
            notes.append("There are no events, or nothing but events: there is no curve.")
        elif self.auc_error:
            notes.append(f"Bins have several values: the AUC is within ±{self.auc_error:.3g}, and KS is at least this.")
        return [*notes, *([NOISY] if self.result.noise is not None else [])]

    def plot(self, **options: Any) -> Figure:
        """The curve. Raises BadQuestion where there is none, because a bin was withheld."""
        from ceiba import plots

        if not self.curve:
            raise BadQuestion(
                problem="there is no curve: " + " ".join(self.notes()).rstrip("."), hint="Use fewer bins."
            )
        _, false_positive, true_positive = zip(*self.curve, strict=True)
        return plots.roc(false_positive, true_positive, self.auc, **options)


def roc_points(
    lows: Sequence[float | None], counts: Sequence[tuple[int, int]] | None
) -> list[tuple[float | None, float, float]]:
    """`Roc.curve` of (events, others) in bins of rising scores that begin at `lows`."""
    events, others = (sum(column) for column in zip(*counts or [(0, 0)], strict=True))
    if not counts or not events or not others:
        return []
    taken = list(accumulate(reversed(counts), lambda a, b: (a[0] + b[0], a[1] + b[1])))
    rates = [(low, other / others, event / events) for low, (event, other) in zip(reversed(lows), taken, strict=True)]
    return [(None, 0.0, 0.0), *rates]


def roc(
    table: Table, score: str | Term, event: str | Term, *, bins: int | None, low: Scalar | None, high: Scalar | None
) -> Analysis[Roc]:
    """Raises BadQuestion, and what `bins_of` does."""
    made, happened = bins_of([table], score, low, high, bins), event_of(table, event)
    lowered = lower_number(made.value.expression, table.schema, "A score")
    probability = lowered.node.low >= 0 and lowered.node.high * lowered.step <= 1
    value = made.value * 1 if lowered.kind is Kind.TRUTH else made.value
    sums = {"total": value, "squares": value * value} if probability else {}
    query = _ask(table, made, happened, sums, "roc")
    return Analysis(query, partial(_finish_roc, made, probability))


Cells = dict[tuple[int, bool], tuple[Any, ...]]


def _finish_roc(made: Bins, probability: bool, result: Result) -> Roc:
    cells: Cells = {(int(row[0]), bool(row[1])): row[2:] for row in result.rows if None not in row[:2]}
    bins = tuple(_score_bin(made, place, cells, probability) for place in made.numbers)
    calibrated = probability and _counts(bins) is not None and result.noise is None
    return roc_of(result, made, bins, _calibration(bins, cells) if calibrated else None)


def roc_of(result: Result, made: Bins, bins: tuple[ScoreBin, ...], calibration: Calibration | None = None) -> Roc:
    """From the counts in each bin, one for each of `made.numbers`."""
    counts = _counts(bins)
    mixed = [not made.are_units or _is_open(one) for one in bins]
    figures = None if counts is None else discrimination(counts, mixed)
    noisy = result.noise is not None
    return Roc(
        result=result,
        bins=bins,
        auc=None if figures is None else figures.auc,
        auc_error=None if figures is None or noisy else figures.error,
        auc_interval=None if figures is None or noisy else figures.interval,
        ks=None if figures is None else figures.ks,
        ks_at=None if figures is None else bins[figures.ks_place].low,
        calibration=calibration,
    )


def _score_bin(made: Bins, place: int, cells: Cells, probability: bool) -> ScoreBin:
    sides = [cells.get((place, happened), (0, 0, 0)) for happened in (True, False)]
    counts = [max(0, side[0]) if isinstance(side[0], int) else None for side in sides]
    rows = None if None in counts else sum(count for count in counts if count is not None)
    totals = [side[1] or 0 for side in sides] if probability and rows else []
    known = totals and all(isinstance(total, int | float) for total in totals)
    predicted = float(sum(totals)) / rows if known and rows else None
    return ScoreBin(*made.ends(place), counts[0], counts[1], predicted)


def _is_open(one: ScoreBin) -> bool:
    return one.low is None or one.high is None


def _counts(bins: Sequence[ScoreBin]) -> list[tuple[int, int]] | None:
    """(events, others) of each bin; None if one was withheld."""
    found = [(one.events, one.others) for one in bins if one.events is not None and one.others is not None]
    return found if len(found) == len(bins) else None


@dataclass(frozen=True)
class Discrimination:
    """How counts by rising score tell events from others; the fields are `Roc`'s."""

    auc: float
    error: float
    interval: tuple[float, float] | None
    ks: float
    ks_place: int
    """The bin at whose lower end KS is."""


def discrimination(counts: Sequence[tuple[int, int]], mixed: Sequence[bool]) -> Discrimination | None:
    """From (events, others) by rising score; `mixed` says which bins can have several values. None without both."""
    events, others = sum(event for event, _ in counts), sum(other for _, other in counts)
    if not events or not others:
        return None
    others_below = [0, *accumulate(other for _, other in counts)]
    events_below = [0, *accumulate(event for event, _ in counts)]
    pairs = events * others
    wins = sum(event * (2 * below + other) for (event, other), below in zip(counts, others_below, strict=False))
    ties = sum(event * other for (event, other), several in zip(counts, mixed, strict=True) if several)
    gaps = [
        Fraction(other, others) - Fraction(event, events)
        for event, other in zip(events_below, others_below, strict=True)
    ]
    place = max(range(len(counts)), key=lambda at: abs(gaps[at]))
    auc = wins / (2 * pairs)
    return Discrimination(auc, ties / (2 * pairs), _delong(counts, auc), float(abs(gaps[place])), place)


def _delong(counts: Sequence[tuple[int, int]], auc: float) -> tuple[float, float] | None:
    """DeLong's interval: an event's placement is the share of others that it beats, and the reverse."""
    events, others = sum(event for event, _ in counts), sum(other for _, other in counts)
    if min(events, others) < 2:
        return None
    below = others_under = events_under = 0.0
    event_spread = other_spread = 0.0
    for event, other in counts:
        beats = (others_under + other / 2) / others
        beaten_by = 1 - (events_under + event / 2) / events
        event_spread += event * (beats - auc) ** 2
        other_spread += other * (beaten_by - auc) ** 2
        others_under, events_under = others_under + other, events_under + event
    variance = event_spread / (events - 1) / events + other_spread / (others - 1) / others
    reach = NORMAL_95 * sqrt(variance)
    return max(below, auc - reach), min(1.0, auc + reach)


def _calibration(bins: Sequence[ScoreBin], cells: Cells) -> Calibration | None:
    """None where there is no test, as `hosmer_lemeshow` says."""
    groups = [(one.n, one.events or 0, one.predicted or 0.0) for one in bins if one.n]
    tested = hosmer_lemeshow(groups, degrees=len(groups) - 2)
    if tested is None:
        return None
    squares = sum(cell[2] or 0 for cell in cells.values())
    of_events = sum((cell[1] or 0) for (_, happened), cell in cells.items() if happened)
    brier = float(squares - 2 * of_events + sum(events for _, events, _ in groups)) / sum(n for n, _, _ in groups)
    return Calibration(*tested, brier)


def hosmer_lemeshow(groups: Sequence[tuple[int, int, float]], degrees: int) -> tuple[float, int, float] | None:
    """χ², its degrees of freedom and p from (rows, events, mean predicted probability) of groups with rows.

    None without three groups, or where a mean probability is 0 or 1. Raises MissingExtra without scipy.
    """
    if len(groups) < 3 or not all(0 < predicted < 1 for _, _, predicted in groups):
        return None
    chi_squared = sum(
        (events - n * predicted) ** 2 / (n * predicted * (1 - predicted)) for n, events, predicted in groups
    )
    return chi_squared, degrees, float(stats("The test of Hosmer and Lemeshow").chi2.sf(chi_squared, degrees))


# --- stability --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StabilityBin:
    """One bin, perhaps of several that were merged; shares are None where the bin was withheld."""

    low: float | None
    high: float | None
    expected: float | None
    actual: float | None

    @property
    def contribution(self) -> float | None:
        """(actual − expected)·ln(actual / expected); None without both."""
        return psi_part(self.expected, self.actual)


def psi_part(expected: float | None, actual: float | None) -> float | None:
    """What one bin adds to the index, from its shares; None without both."""
    return (actual - expected) * log(actual / expected) if expected and actual else None


@dataclass(frozen=True, repr=False)
class Stability(Outcome):
    """The population stability index of a score (Siddiqi 2006, Credit Risk Scorecards, ch. 10)."""

    bins: tuple[StabilityBin, ...]
    psi: float | None
    """Σ (actual − expected)·ln(actual / expected); None where a bin was withheld, or a side has no rows."""
    merged: int
    """Bins that were joined to a neighbour, because a side had no rows in them."""
    other: Result | None
    """What was released about the expected rows, if that was a question of its own."""

    title = "Population stability"

    def parts(self) -> Sequence[TablePart]:
        """The index, and the shares in each bin."""
        rows = [(one.low, one.high, one.expected, one.actual, one.contribution) for one in self.bins]
        titles = ("from", "to", "expected", "actual", "contribution")
        return [TablePart.of_facts("Index", [("PSI", self.psi)]), TablePart("Bins", titles, rows)]

    def notes(self) -> list[str]:
        """The customary reading, and what was merged or is missing."""
        notes = [PSI_READING]
        if any(one.actual is None or one.expected is None for one in self.bins):
            notes.append(WITHHELD)
        elif self.psi is None:
            notes.append("A side has no rows: there is no index.")
        if self.merged:
            notes.append(f"{self.merged} bins were joined to a neighbour, because one side has no rows in them.")
        noisy = self.result.noise is not None or (self.other is not None and self.other.noise is not None)
        return [*notes, *([NOISY] if noisy else [])]


@dataclass(frozen=True, repr=False)
class _TwoJobs:
    """Two questions that are waited for together; known by the first one's id."""

    first: Any
    second: Any

    @property
    def id(self) -> str:
        return str(self.first.id)

    def status(self) -> Any:
        """Of the one that is not done."""
        first = self.first.status()
        return self.second.status() if first.state == State.DONE else first

    def progress(self) -> str:
        return f"{self.first.progress()}, and {self.second.progress()}"

    def wait(self, **options: Any) -> tuple[Result, Result]:
        return self.first.wait(**options), self.second.wait(**options)

    def cancel(self) -> None:
        self.first.cancel()
        self.second.cancel()


@dataclass(frozen=True, repr=False)
class StabilityOfTables(Analysis[Stability]):
    """An analysis of two questions: `query` about the actual rows, `expected` about those compared with."""

    expected: Query

    def run(self, **options: Any) -> Stability:
        """Ask both, one after the other: each takes one of its agreement's numbers."""
        return self._finish((self.query.run(**options), self.expected.run(**options)))

    def submit(self, **options: Any) -> AnalysisJob[Stability]:
        """Ask both without waiting."""
        jobs = _TwoJobs(self.query.submit(**options), self.expected.submit(**options))
        return AnalysisJob(jobs, self._finish)  # type: ignore[arg-type]  # the job gives both results

    def mock(self, rows: int = 1000, seed: int = 0) -> Stability:
        """The same on made-up rows; means nothing."""
        return self._finish((self.query.mock(rows, seed), self.expected.mock(rows, seed + 1)))

    def _finish(self, results: tuple[Result, Result]) -> Stability:
        return self.finish(results)  # type: ignore[arg-type]


def population_stability(
    table: Table,
    score: str | Term,
    expected: Table | Term | Sequence[float],
    *,
    bins: int | None,
    low: Scalar | None,
    high: Scalar | None,
) -> Analysis[Stability]:
    """`expected`: another table or version, a condition on this table's rows, or shares (or counts) of the bins.

    Raises BadQuestion, and what `bins_of` does.
    """
    from ceiba.query import Table as AnyTable

    tables = [table, expected] if isinstance(expected, AnyTable) else [table]
    made = bins_of(tables, score, low, high, 10 if bins is None else bins)
    if isinstance(expected, Term):
        happened = event_of(table, expected)
        query = _ask(table, made, happened, {}, "population_stability")
        return Analysis(query, partial(_within, made))
    query = _ask(table, made, None, {}, "population_stability")
    if isinstance(expected, AnyTable):
        other = _ask(expected, made, None, {}, "population_stability")
        return StabilityOfTables(query, partial(_between, made), other)
    return Analysis(query, partial(_against, made, _shares(expected, made)))


def _shares(expected: Sequence[float], made: Bins) -> list[float | None]:
    bins = len(made.numbers)
    try:
        shares = [float(share) for share in expected]
    except (TypeError, ValueError):
        shares = []
    if len(shares) != bins or not all(share >= 0 for share in shares) or not 0 < sum(shares) < inf:
        hint = f"Give a table, a condition, or {bins} shares or counts, none below 0: one for each bin."
        raise BadQuestion(problem="`expected` does not fit the bins", hint=hint)
    return list(shares)


def _within(made: Bins, result: Result) -> Stability:
    cells = {(int(row[0]), bool(row[1])): row[2] for row in result.rows if None not in row[:2]}
    sides = [[_count(cells.get((one, side), 0)) for one in made.numbers] for side in (True, False)]
    return _stability(made, sides[0], sides[1], result, None)


def _between(made: Bins, results: tuple[Result, Result]) -> Stability:
    actual, expected = (_counted(made, result) for result in results)
    return _stability(made, expected, actual, *results)


def _against(made: Bins, shares: list[float | None], result: Result) -> Stability:
    return _stability(made, shares, _counted(made, result), result, None)


def _counted(made: Bins, result: Result) -> list[float | None]:
    """The count in each bin."""
    found = {int(row[0]): row[1] for row in result.rows if row[0] is not None}
    return [_count(found.get(one, 0)) for one in made.numbers]


def _count(value: Any) -> float | None:
    return max(0, value) if isinstance(value, int) else None


def _stability(
    made: Bins,
    expected: Sequence[float | None],
    actual: Sequence[float | None],
    result: Result,
    other: Result | None,
) -> Stability:
    """From the counts of both sides in each bin."""
    ends = [made.ends(one) for one in made.numbers]
    found = shift(expected, actual)
    bins = tuple(
        StabilityBin(ends[group[0]][0], ends[group[-1]][1], e, a)
        for group, e, a in zip(found.groups, found.expected, found.actual, strict=True)
    )
    return Stability(result, bins, found.psi, found.merged, other)


@dataclass(frozen=True)
class Shift:
    """How shares moved between two counts of the same bins."""

    groups: Sequence[Sequence[int]]
    """Places of the bins that were joined, so that both sides have rows in each group; none without rows on a side."""
    expected: Sequence[float | None]
    """The share of each group; None where a count of that side was withheld."""
    actual: Sequence[float | None]
    psi: float | None
    merged: int


def shift(expected: Sequence[float | None], actual: Sequence[float | None]) -> Shift:
    """The population stability index of counts in the same bins; None for a count that was withheld."""
    places = range(len(expected))
    if None in expected or None in actual:
        shares = [[_of(count, side) for count in side] for side in (expected, actual)]
        return Shift([[place] for place in places], shares[0], shares[1], None, 0)
    sides = [[count for count in side if count is not None] for side in (expected, actual)]
    if not all(map(sum, sides)):
        return Shift([], [], [], None, 0)
    groups = _merged(sides[0], sides[1])
    of_groups = [[sum(side[at] for at in group) / sum(side) for group in groups] for side in sides]
    psi = sum(psi_part(e, a) or 0.0 for e, a in zip(*of_groups, strict=True))
    return Shift(groups, of_groups[0], of_groups[1], psi, len(places) - len(groups))


def _of(count: float | None, side: Sequence[float | None]) -> float | None:
    """A count's share; None if some count of its side was withheld."""
    total = sum(one for one in side if one is not None)
    return count / total if count is not None and None not in side and total else None


def _merged(expected: Sequence[float], actual: Sequence[float]) -> list[list[int]]:
    """Neighbouring bins, joined until both sides have rows in each group."""
    groups: list[list[int]] = [[]]
    for place in range(len(expected)):
        groups[-1].append(place)
        if all(sum(side[at] for at in groups[-1]) for side in (expected, actual)):
            groups.append([])
    rest = groups.pop()
    groups[-1].extend(rest)
    return groups
