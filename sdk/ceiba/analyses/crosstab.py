"""Contingency tables: counts of two grouping keys, tests of independence, and measures of association.

Formulas are those of Agresti, Categorical Data Analysis (3rd ed. 2013), and of Rothman, Greenland and Lash, Modern
Epidemiology (3rd ed. 2008), where no other source stands beside them. Of a 2×2 table, the first row is the exposed
group and the first column is the event:

              event   no event
    exposed     a        b
    others      c        d
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ceiba.analyses.cells import (
    Estimate,
    Key,
    Labels,
    Test,
    Values,
    ask,
    cells,
    estimates_part,
    is_withheld,
    labels_of,
    require_ungrouped,
    standing_notes,
    tests_part,
)
from ceiba.analysis import Analysis, Outcome
from ceiba.extras import stats
from ceiba.normal import NORMAL_95, around_logarithm
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.statistics import Withheld

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL_EXPECTED = 5
"""Below this expected count χ² is only a rough guide (Cochran 1954, Biometrics 10, 417)."""

Matrix = npt.NDArray[np.float64]
"""[rows, columns] counts."""


@dataclass(frozen=True, repr=False)
class CrossTab(Outcome):
    """A table of counts. Measures are None where they are not defined, and where a cell was withheld."""

    keys: tuple[str, str]
    """The names of the rows' and the columns' key."""
    rows: Labels
    columns: Labels
    counts: tuple[tuple[int | Withheld, ...], ...]
    """[rows][columns]; WITHHELD where it was."""
    chi_square: Test | None
    """Pearson's χ² of independence, over the rows and columns that are not empty."""
    chi_square_yates: Test | None
    """Of a 2×2 table, with Yates's correction for continuity."""
    fisher: float | None
    """p of Fisher's exact test, two-sided, of a 2×2 table."""
    cramers_v: float | None
    """√(χ² / (n·(min(rows, columns) − 1))), 0 to 1."""
    odds_ratio: Estimate | None
    """ad/bc; the interval is Woolf's, of its logarithm (Woolf 1955)."""
    risk_ratio: Estimate | None
    """(a/(a+b)) / (c/(c+d)); the interval is that of its logarithm (Katz et al. 1978)."""
    risk_difference: Estimate | None
    """a/(a+b) − c/(c+d), with Wald's interval."""
    smallest_expected: float | None
    """The smallest count that independence would make one expect."""

    title = "Contingency table"

    @property
    def withheld(self) -> bool:
        """Whether a cell was."""
        return any(is_withheld(*row) for row in self.counts)

    @property
    def n(self) -> int | None:
        """All counted rows; None if a cell was withheld."""
        return None if self.withheld else int(_matrix(self.counts).sum())

    def parts(self) -> Sequence[TablePart]:
        """The counts, the tests, and for a 2×2 table the measures of association."""
        counts = [(label, *row) for label, row in zip(self.rows, self.counts, strict=True)]
        head = (f"{self.keys[0]} \\ {self.keys[1]}", *map(str, self.columns))
        tests = tests_part({"Pearson's χ²": self.chi_square, "χ², Yates": self.chi_square_yates})
        exact = [("Fisher's exact", None, None, self.fisher)] if self.fisher is not None else []
        parts = [TablePart("Counts", head, counts), TablePart(tests.title, tests.columns, [*tests.rows, *exact])]
        measures = {"odds ratio": self.odds_ratio, "risk ratio": self.risk_ratio}
        return [*parts, estimates_part("Association", {**measures, "risk difference": self.risk_difference})]

    def plot(self, **options: Any) -> Figure:
        """The counts as a heat map; withheld ones hatched."""
        from ceiba import plots

        names = {"row_axis": self.keys[0], "column_axis": self.keys[1], "label": "rows"}
        return plots.heat_map(self.rows, self.columns, self.counts, **(names | options))

    def notes(self) -> list[str]:
        """How a 2×2 table is read, and what limits the tests."""
        notes = standing_notes(self.result, self.withheld)
        if len(self.rows) == len(self.columns) == 2:
            event, exposed, others = self.columns[0], *self.rows
            key, outcome = self.keys
            notes.append(f"Risk of {outcome} = {event}, of {key} = {exposed} against {key} = {others}.")
        if self.smallest_expected is not None and self.smallest_expected < SMALL_EXPECTED:
            notes.append(f"The smallest expected count is {self.smallest_expected:.1f}: χ² is a rough guide.")
        if self.chi_square is not None and len(self.rows) == len(self.columns) == 2 and not _all_positive(self.counts):
            notes.append("A cell is empty: a ratio of 0 or infinity has no interval and is left out.")
        return notes


@dataclass(frozen=True, repr=False)
class StratifiedCrossTab(Outcome):
    """2×2 tables in strata, pooled over them. None where a cell was withheld, or where it is not defined."""

    key: str
    """The name of the key that makes the strata."""
    strata: dict[Any, CrossTab]
    """By label, in the order of the public labels; strata without rows are left out."""
    odds_ratio: Estimate | None
    """The common odds ratio Σ(ad/n) / Σ(bc/n) (Mantel and Haenszel 1959), with the interval of Robins, Breslow and
    Greenland (1986, Biometrics 42, 311)."""
    risk_ratio: Estimate | None
    """The common risk ratio, with the interval of Greenland and Robins (1985, Biometrics 41, 55)."""
    cmh: Test | None
    """The test of Cochran, Mantel and Haenszel that the common odds ratio is 1, without correction for continuity."""
    cmh_corrected: Test | None
    """With a correction of 1/2."""
    homogeneity: Test | None
    """The test of Breslow and Day (1980, Statistical Methods in Cancer Research I, 4.30) that all odds ratios are
    equal, without Tarone's correction."""

    title = "Contingency tables by strata"

    def parts(self) -> Sequence[TablePart]:
        """The pooled ratios, the tests, and each stratum's cells and odds ratio."""
        pooled = {"odds ratio (Mantel-Haenszel)": self.odds_ratio, "risk ratio (Mantel-Haenszel)": self.risk_ratio}
        tests = {"odds ratio = 1 (CMH)": self.cmh, "the same, corrected": self.cmh_corrected}
        strata = [_stratum_row(label, table) for label, table in self.strata.items()]
        head = (self.key, "a", "b", "c", "d", "odds ratio", "95 % low", "95 % high")
        homogeneity = {"equal odds ratios (Breslow-Day)": self.homogeneity}
        parts = [estimates_part("Pooled", pooled), tests_part({**tests, **homogeneity})]
        return [*parts, TablePart("Strata", head, strata)]

    def notes(self) -> list[str]:
        """What a, b, c and d are, and why something is missing."""
        notes = standing_notes(self.result, any(table.withheld for table in self.strata.values()))
        for table in list(self.strata.values())[:1]:
            (key, event), (exposed, others), (yes, no) = table.keys, table.rows, table.columns
            notes.append(f"a, b: {key} = {exposed}, with {event} = {yes}, {no}; c, d: {key} = {others}, likewise.")
        return notes


def _stratum_row(label: Any, table: CrossTab) -> tuple[Any, ...]:
    one = table.odds_ratio
    return label, *table.counts[0], *table.counts[1], *((one.value, one.low, one.high) if one else (None,) * 3)


# --- the questions ----------------------------------------------------------------------------------------------


def crosstab(table: Table, rows: Key, columns: Key) -> Analysis[CrossTab]:
    """The contingency table of two keys. Raises BadQuestion for a grouped table."""
    require_ungrouped(table, "crosstab")
    query = ask(table, [rows, columns], {"n": statistic("count")()})
    return Analysis(query, partial(_finish, query))


def stratified_crosstab(table: Table, rows: Key, columns: Key, by: Key) -> Analysis[StratifiedCrossTab]:
    """The 2×2 tables of two keys in the strata of a third. Raises BadQuestion for keys that have not two labels."""
    require_ungrouped(table, "crosstab")
    query = ask(table, [rows, columns, by], {"n": statistic("count")()})
    for place, key in enumerate(query.asked.groups[:2]):
        if len(labels_of(query, place)) != 2:
            problem = f"{key.name} has {len(labels_of(query, place))} labels, and strata are pooled over 2×2 tables"
            raise BadQuestion(problem=problem, hint="Give a condition, such as heart.diagnosis > 0, or leave by= out.")
    return Analysis(query, partial(_finish_strata, query))


def _finish(query: Query, result: Result) -> CrossTab:
    return _table(query, result, cells(result, 2))


def _finish_strata(query: Query, result: Result) -> StratifiedCrossTab:
    released = cells(result, 3)
    strata = {}
    for label in labels_of(query, 2):
        own = {labels[:2]: values for labels, values in released.items() if labels[2] == label}
        if own:
            strata[label] = _table(query, result, own)
    usable = bool(strata) and result.noise is None and not any(one.withheld for one in strata.values())
    pooled = _pooled([_matrix(one.counts) for one in strata.values()]) if usable else (None,) * 5
    return StratifiedCrossTab(result, query.asked.groups[2].name, strata, *pooled)


def _table(query: Query, result: Result, released: dict[Labels, Values]) -> CrossTab:
    rows, columns = (tuple(labels_of(query, place)) for place in (0, 1))
    counts = tuple(tuple(released.get((row, column), (0,))[0] for column in columns) for row in rows)
    names = (query.asked.groups[0].name, query.asked.groups[1].name)
    usable = result.noise is None and not any(is_withheld(*row) for row in counts)
    return CrossTab(result, names, rows, columns, counts, *(_measures(_matrix(counts)) if usable else (None,) * 8))


def _matrix(counts: Sequence[Sequence[Any]]) -> Matrix:
    return np.array(counts, dtype=np.float64)


def _all_positive(counts: Sequence[Sequence[Any]]) -> bool:
    return all(count > 0 for row in counts for count in row)


# --- the numbers ------------------------------------------------------------------------------------------------


def _measures(counts: Matrix) -> tuple[Any, ...]:
    """The fields of a CrossTab after its counts."""
    full = _without_empty(counts)
    test, smallest = _chi_square(full)
    v = None if test is None else sqrt(test.statistic / (full.sum() * (min(full.shape) - 1)))
    if counts.shape != (2, 2):
        return test, None, None, v, None, None, None, smallest
    yates = _chi_square(full, corrected=True)[0]
    fisher = float(stats("Fisher's exact test").fisher_exact(counts.astype(np.int64)).pvalue) if counts.sum() else None
    return test, yates, fisher, v, _odds_ratio(counts), _risk_ratio(counts), _risk_difference(counts), smallest


def chi_square(counts: Matrix) -> Test | None:
    """Pearson's χ² of independence; None of less than two rows and columns that are not empty."""
    return _chi_square(_without_empty(counts))[0]


def _without_empty(counts: Matrix) -> Matrix:
    full: Matrix = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    return full


def _chi_square(full: Matrix, *, corrected: bool = False) -> tuple[Test | None, float | None]:
    """χ² of a table without empty rows and columns, and its smallest expected count; None of less than 2×2."""
    if min(full.shape) < 2:
        return None, None
    found = stats("χ²").chi2_contingency(full, correction=corrected)
    return Test(float(found.statistic), float(found.dof), float(found.pvalue)), float(found.expected_freq.min())


def _interval_of_log(ratio: float, variance: float) -> Estimate:
    return Estimate(ratio, *around_logarithm(ratio, variance))


def _odds_ratio(counts: Matrix) -> Estimate | None:
    """Variance of the logarithm: 1/a + 1/b + 1/c + 1/d."""
    if not counts.all():
        return None
    (a, b), (c, d) = counts.tolist()
    return _interval_of_log(a * d / (b * c), float((1 / counts).sum()))


def _risk_ratio(counts: Matrix) -> Estimate | None:
    """Variance of the logarithm: 1/a − 1/(a+b) + 1/c − 1/(c+d)."""
    (a, b), (c, d) = counts.tolist()
    if not a or not c:
        return None
    return _interval_of_log((a / (a + b)) / (c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))


def _risk_difference(counts: Matrix) -> Estimate | None:
    """Variance: p(1 − p)/n of each row, added."""
    totals = counts.sum(1)
    if not totals.all():
        return None
    first, second = (counts[:, 0] / totals).tolist()
    half = NORMAL_95 * sqrt(first * (1 - first) / totals[0] + second * (1 - second) / totals[1])
    return Estimate(first - second, first - second - half, first - second + half)


def _pooled(tables: Sequence[Matrix]) -> tuple[Any, ...]:
    """The fields of a StratifiedCrossTab after its strata. A stratum of one row tells nothing, and is not counted."""
    a, b, c, d = np.array([table.ravel() for table in tables if table.sum() > 1]).reshape(-1, 4).T
    ratio = _common_odds_ratio(a, b, c, d)
    tests = (_cmh(a, b, c, d, 0), _cmh(a, b, c, d, 0.5))
    return ratio, _common_risk_ratio(a, b, c, d), *tests, None if ratio is None else _breslow_day(a, b, c, d, ratio)


def _common_odds_ratio(a: Matrix, b: Matrix, c: Matrix, d: Matrix) -> Estimate | None:
    """With P = (a+d)/n, Q = (b+c)/n, R = ad/n, S = bc/n, the variance of the logarithm is
    ΣPR/2(ΣR)² + Σ(PS+QR)/2ΣRΣS + ΣQS/2(ΣS)²."""
    n = a + b + c + d
    p, q, r, s = (a + d) / n, (b + c) / n, a * d / n, b * c / n
    top, bottom = float(r.sum()), float(s.sum())
    if not top or not bottom:
        return None
    mixed = (p * s + q * r).sum() / (2 * top * bottom)
    return _interval_of_log(top / bottom, (p * r).sum() / (2 * top**2) + mixed + (q * s).sum() / (2 * bottom**2))


def _common_risk_ratio(a: Matrix, b: Matrix, c: Matrix, d: Matrix) -> Estimate | None:
    """R = a(c+d)/n, S = c(a+b)/n; variance of the logarithm: Σ((a+b)(c+d)(a+c) − acn)/n² / ΣRΣS."""
    n = a + b + c + d
    top, bottom = float((a * (c + d) / n).sum()), float((c * (a + b) / n).sum())
    if not top or not bottom:
        return None
    spread = (((a + b) * (c + d) * (a + c) - a * c * n) / n**2).sum()
    return _interval_of_log(top / bottom, float(spread) / (top * bottom))


def _cmh(a: Matrix, b: Matrix, c: Matrix, d: Matrix, correction: float) -> Test | None:
    """(|Σ(a − E a)| − correction)² / ΣVar a, with the hypergeometric mean and variance."""
    n = a + b + c + d
    expected = (a + b) * (a + c) / n
    variance = float(((a + b) * (c + d) * (a + c) * (b + d) / (n**2 * (n - 1))).sum())
    if not variance:
        return None
    statistic_ = max(0.0, abs(float((a - expected).sum())) - correction) ** 2 / variance
    return Test(statistic_, 1.0, float(stats("the CMH test").chi2.sf(statistic_, 1)))


def _breslow_day(a: Matrix, b: Matrix, c: Matrix, d: Matrix, ratio: Estimate) -> Test | None:
    """Σ(a − A)²/Var A over the strata whose margins are not empty, where A is what the common odds ratio expects."""
    inner = (a + b) * (c + d) * (a + c) * (b + d) > 0
    if inner.sum() < 2:
        return None
    a, b, c, d = a[inner], b[inner], c[inner], d[inner]
    fitted = _fitted(a, b, c, d, ratio.value)
    variance = 1 / (1 / fitted + 1 / (a + b - fitted) + 1 / (a + c - fitted) + 1 / (d - a + fitted))
    statistic_ = float(((a - fitted) ** 2 / variance).sum())
    degrees = float(inner.sum() - 1)
    return Test(statistic_, degrees, float(stats("the Breslow-Day test").chi2.sf(statistic_, degrees)))


def _fitted(a: Matrix, b: Matrix, c: Matrix, d: Matrix, ratio: float) -> Matrix:
    """The a that has these margins and this odds ratio: the root of A(d − a + A) = ratio·(a+b−A)(a+c−A) within them."""
    square = 1 - ratio
    linear = d - a + ratio * (2 * a + b + c)
    constant = -ratio * (a + b) * (a + c)
    root = np.sqrt(np.maximum(0, linear**2 - 4 * square * constant))
    return -2 * constant / (linear + root)  # the root that stays finite as the ratio nears 1
