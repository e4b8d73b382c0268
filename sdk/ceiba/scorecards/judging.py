"""How well scores tell good from bad on subjects with known outcomes, and whether a population has moved.

The figures are those of `Table.roc` and `Table.population_stability`, from the same functions: there from holders'
counts, here from individual scores of consenting applicants, or from counts of joined jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ceiba.analyses.scores import (
    PSI_READING,
    Calibration,
    Discrimination,
    discrimination,
    hosmer_lemeshow,
    psi_part,
    roc_points,
    shift,
)
from ceiba.scorecards.counts import BinCounts, Population, Vector, truths
from ceiba.summary import Summarised, TablePart
from ceiba_protocol.errors import BadQuestion, NoEvents

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Band:
    """Subjects with scores from `low` to `high`, both within."""

    low: float
    high: float
    n: int
    bad: int
    observed: float
    """Share of bad."""
    predicted: float | None
    """Mean probability of bad that was foretold; None if none was."""


@dataclass(frozen=True, repr=False)
class Judgement(Summarised):
    """How scores, of which more are better, order subjects whose outcome is known."""

    figures: Discrimination
    """AUC (a good one has more than a bad one, ties half), DeLong's 95 % interval, KS."""
    ks_at: float
    """The score below which the share of bad exceeds the share of good most."""
    bands: tuple[Band, ...]
    calibration: Calibration | None
    """Of the probabilities, with as many degrees of freedom as bands, as for data that was not fitted on
    (Hosmer, Lemeshow and Sturdivant 2013, §5.2.5); None without them."""
    curve: tuple[tuple[float | None, float, float], ...]
    """(score, share of bad accepted, share of good accepted) if all at or above the score are."""

    title = "Judgement of scores"

    @property
    def auc(self) -> float:
        """Probability that a good subject scores higher than a bad one, ties counting half."""
        return self.figures.auc

    @property
    def auc_interval(self) -> tuple[float, float] | None:
        """95 % (DeLong, DeLong and Clarke-Pearson 1988); None with fewer than two of a label."""
        return self.figures.interval

    @property
    def gini(self) -> float:
        """2·AUC − 1."""
        return 2 * self.auc - 1

    @property
    def ks(self) -> float:
        """Largest difference between the two distributions."""
        return self.figures.ks

    def parts(self) -> Sequence[TablePart]:
        """The figures, and the bands: with probabilities the calibration table."""
        low, high = self.auc_interval or (None, None)
        n, bad = sum(one.n for one in self.bands), sum(one.bad for one in self.bands)
        facts: list[tuple[str, Any]] = [("good", n - bad), ("bad", bad), ("AUC", self.auc), ("AUC 95 % low", low)]
        facts += [("AUC 95 % high", high), ("Gini", self.gini), ("KS", self.ks), ("KS at score", self.ks_at)]
        if self.calibration is not None:
            found = self.calibration
            facts += [("Brier", found.brier), ("Hosmer-Lemeshow χ²", found.chi_squared)]
            facts += [("degrees of freedom", found.degrees), ("p", found.p)]
        titles = ("from", "to", "n", "bad", "observed", "predicted")
        return [TablePart.of_facts("Figures", facts), TablePart("Bands", titles, [astuple(one) for one in self.bands])]

    def plot(self, **options: Any) -> Figure:
        """The ROC curve. Raises MissingExtra without matplotlib."""
        from ceiba import plots

        _, false_positive, true_positive = zip(*self.curve, strict=True)
        return plots.roc(false_positive, true_positive, self.auc, **options)


def judge(
    scores: Sequence[float], bad: Sequence[Any], *, probabilities: Sequence[float] | None = None, bands: int = 10
) -> Judgement:
    """AUC, Gini, KS and calibration of `scores` (more is better) of subjects of whom `bad` says how they turned out.

    Judge on subjects that the model was not fitted on. `probabilities` of bad, such as `card.probability_bad(scores)`,
    are compared with what came in `bands` of about equal size; equal scores stay together. Raises BadQuestion,
    NoEvents, MissingExtra.
    """
    points, labels = _scores(scores), truths(bad)
    foretold = None if probabilities is None else _scores(probabilities)
    if len(points) != len(labels) or (foretold is not None and len(foretold) != len(points)):
        raise BadQuestion(problem="scores, labels and probabilities differ in number", hint="Give one for each row.")
    if not 1 <= bands <= 100:
        raise BadQuestion(problem=f"{bands} bands are not possible", hint="Use 1 to 100.")
    values, inverse = np.unique(points, return_inverse=True)
    counts = np.stack([np.bincount(inverse[labels == side], minlength=len(values)) for side in (False, True)], axis=1)
    pairs = [(int(good), int(is_bad)) for good, is_bad in counts]
    figures = discrimination(pairs, [False] * len(pairs))
    if figures is None:
        raise NoEvents(what="these subjects, or nobody is anything else: nobody")
    made = _bands(points, labels, foretold, bands)
    curve = tuple(roc_points([float(value) for value in values], pairs))
    calibration = None if foretold is None else _calibration(made, labels, foretold)
    return Judgement(figures, float(values[figures.ks_place]), made, calibration, curve)


def _scores(values: Sequence[float]) -> Vector:
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if found.ndim != 1 or not np.isfinite(found).all():
        raise BadQuestion(problem="a score is missing, or no number", hint="Give one finite number for each row.")
    return found


def _bands(points: Vector, labels: Any, foretold: Vector | None, count: int) -> tuple[Band, ...]:
    """Cut at quantiles of the scores."""
    cuts = np.unique(np.quantile(points, np.arange(1, count) / count, method="higher"))
    places = np.searchsorted(cuts, points, side="right")
    made = []
    for place in np.unique(places):
        own = places == place
        n, bad = int(own.sum()), int(labels[own].sum())
        predicted = None if foretold is None else float(foretold[own].mean())
        made.append(Band(float(points[own].min()), float(points[own].max()), n, bad, bad / n, predicted))
    return tuple(made)


def _calibration(bands: Sequence[Band], labels: Any, foretold: Vector) -> Calibration | None:
    groups = [(one.n, one.bad, one.predicted) for one in bands if one.predicted is not None]
    tested = hosmer_lemeshow(groups, degrees=len(groups))
    return None if tested is None else Calibration(*tested, float(np.mean((foretold - labels) ** 2)))


# --- stability --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftBin:
    """One bin, perhaps of several that were joined; shares are None where a count was withheld."""

    label: str
    expected: float | None
    actual: float | None
    contribution: float | None


@dataclass(frozen=True)
class FeatureDrift:
    """How one feature's (or score's) distribution moved."""

    name: str
    bins: tuple[DriftBin, ...]
    psi: float | None
    """None where a count was withheld, or a side has nobody."""
    merged: int
    """Bins that were joined to the one before (or after), because a side has nobody in them."""


@dataclass(frozen=True, repr=False)
class Drift(Summarised):
    """Population stability indices (Siddiqi 2006, ch. 10): Σ (actual − expected)·ln(actual / expected)."""

    features: tuple[FeatureDrift, ...]

    title = "Population stability"

    @property
    def psi(self) -> dict[str, float | None]:
        """Feature → index."""
        return {one.name: one.psi for one in self.features}

    def parts(self) -> Sequence[TablePart]:
        """The features by falling index; then the bins of each."""
        ranked = sorted(self.features, key=lambda one: -1.0 if one.psi is None else -one.psi)
        titles = ("bin", "expected", "actual", "contribution")
        return [
            TablePart("Index", ("feature", "PSI"), [(one.name, one.psi) for one in ranked]),
            *(TablePart(one.name, titles, [astuple(row) for row in one.bins]) for one in self.features),
        ]

    def notes(self) -> list[str]:
        """The customary reading, and what was joined or is missing."""
        lacking = [one.name for one in self.features if one.psi is None]
        joined = [one.name for one in self.features if one.merged]
        notes = [PSI_READING]
        if lacking:
            notes.append(f"No index, because a count was withheld or a side has nobody: {', '.join(lacking)}.")
        if joined:
            notes.append(f"Bins were joined, because a side has nobody in them: {', '.join(joined)}.")
        return notes


def stability(expected: Sequence[BinCounts | Population], actual: Sequence[BinCounts | Population]) -> Drift:
    """How the same bins' shares moved from `expected` (when the scorecard was made) to `actual`, feature by feature.

    A score is one more: `Population.of_rows(Binning.at("score", [550, 600, 650]), frame)`. Raises BadQuestion.
    """
    before, now = ({one.binning.name: one for one in side} for side in (expected, actual))
    if set(before) != set(now) or any(before[name].binning.labels != now[name].binning.labels for name in before):
        raise BadQuestion(problem="the two sides differ in their features or bins", hint="Count both in the same bins.")
    return Drift(tuple(_drift(before[name], now[name]) for name in before))


def _drift(expected: BinCounts | Population, actual: BinCounts | Population) -> FeatureDrift:
    found = shift(expected.n, actual.n)
    labels = [", ".join(expected.binning.labels[place] for place in group) for group in found.groups]
    rows = zip(labels, found.expected, found.actual, strict=True)
    bins = tuple(DriftBin(label, before, now, psi_part(before, now)) for label, before, now in rows)
    return FeatureDrift(expected.binning.name, bins, found.psi, found.merged)
