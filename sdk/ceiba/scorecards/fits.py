"""Log-odds from counts: what each fit assumes stands at it.

Three kinds of counts lead to three kinds of fits. From single features alone, `fit_naive`; with pairs of features as
well, `fit_discriminant` and `fit_linear`, exact for what they are, and `fit_logistic`, which comes within a unit of
log-likelihood of the regression on everybody's rows. None needs a row, and none a second round of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ceiba.models import LinkFunction
from ceiba.scorecards.counts import BAD, GOOD, BinCounts, PairCounts, Vector
from ceiba.scorecards.evidence import SMOOTHING, Evidence, woe
from ceiba.scorecards.model import BinModel, Slope
from ceiba.scorecards.moments import Moments, moments_of
from ceiba_protocol.errors import BadQuestion, Collinear, ConstantColumn, NotConverged, Separation

Coding = Literal["woe", "bins"]
ITERATIONS = 200
CONVERGED = 1e-9
"""Of the score equations, per subject."""
LARGEST = 30.0
"""A log-odds ratio beyond it is on its way to infinity."""
WIDE = 3.0
"""Standard deviation of log-odds beyond which normality within bins costs more than sampling does."""
DEPENDENT = 1e-9
"""An eigenvalue of columns' correlations below which one is a combination of others."""
ROUNDING = 1e-9
"""What rounding can leave of a variance that is 0."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
"""Gauss and Hermite's rule for means under the normal distribution."""


def fit_naive(features: Sequence[BinCounts], *, slope: float = 1.0, smoothing: float = SMOOTHING) -> BinModel:
    """Bayes' rule as if features were independent among the good and among the bad: ln odds + slope·Σ WOE.

    Needs counts of single features only. Where features say the same thing twice, it counts twice: ranks suffer
    little, odds become too extreme. What the slope should be then cannot be known from such counts; below 1 it
    shrinks, and `calibrated` finds it from applicants whose outcome is known. Raises BadQuestion, NoEvents.
    """
    if not slope > 0:
        raise BadQuestion(problem=f"the slope {slope} is not above 0", hint="Use 1, or less to shrink.")
    evidence = woe(*features, smoothing=smoothing)
    good, bad = np.max([one.shown().sum(axis=1) for one in features], axis=0)
    values = tuple(tuple(slope * value for value in one.woe) for one in evidence.features)
    slopes = tuple(Slope(one.name, slope, None) for one in evidence.features)
    notes = ("Assumes features to be independent among the good, and among the bad.",)
    return BinModel("naive Bayes", LinkFunction.LOGIT, evidence, float(np.log(good / bad)), values, slopes, notes)


def fit_linear(
    features: Sequence[BinCounts],
    pairs: Sequence[PairCounts],
    *,
    coding: Coding = "woe",
    ridge: float = 1.0,
    smoothing: float = SMOOTHING,
) -> BinModel:
    """Least squares of the label, 1 for good: the probability itself is linear, and can leave 0 to 1.

    Exactly that of pooled rows, if all pairs were counted and nothing was withheld: second moments are all it needs.
    `ridge` is added to their diagonal, but for the intercept (Hoerl and Kennard 1970). It ranks as
    `fit_discriminant` does, and has no odds to make points of. Raises BadQuestion, NoEvents, Collinear,
    ConstantColumn.
    """
    design = _Design.of(features, pairs, coding, smoothing)
    squares = design.codes.T @ design.moments.pairs.sum(axis=0) @ design.codes
    found = _solved(design, squares, design.codes.T @ design.moments.counts[GOOD], ridge)
    return design.model("least squares", LinkFunction.IDENTITY, found, [None] * len(design.names))


def fit_discriminant(
    features: Sequence[BinCounts],
    pairs: Sequence[PairCounts],
    *,
    coding: Coding = "woe",
    ridge: float = 1.0,
    smoothing: float = SMOOTHING,
) -> BinModel:
    """Fisher's linear discriminant (1936) as log-odds: least squares' direction, with the slope that normal features
    would give (Haggstrom 1983, JBES 1(3)).

    Exactly that of pooled rows, as `fit_linear` is. Its odds are right if the features are normal among the good and
    among the bad, with one covariance; bins are not, so mid-range odds are fair and extreme ones are not. Raises what
    `fit_linear` does.
    """
    design = _Design.of(features, pairs, coding, smoothing)
    codes, sizes = design.codes[:, 1:], design.moments.subjects
    means = [codes.T @ design.moments.counts[side] / sizes[side] for side in (GOOD, BAD)]
    between = sum(sizes[side] * np.outer(means[side], means[side]) for side in (GOOD, BAD))
    within = codes.T @ design.moments.pairs.sum(axis=0) @ codes - between
    slopes = _solved(design, within / sizes.sum(), means[GOOD] - means[BAD], ridge / sizes.sum(), intercept=False)
    start = np.log(sizes[GOOD] / sizes[BAD]) - slopes @ (means[GOOD] + means[BAD]) / 2
    notes = ("Odds assume normal features; the ranks are those of least squares.",)
    return design.model("discriminant", LinkFunction.LOGIT, np.array([start, *slopes]), [None] * len(slopes), notes)


def fit_logistic(
    features: Sequence[BinCounts],
    pairs: Sequence[PairCounts],
    *,
    coding: Coding = "woe",
    ridge: float = 1.0,
    smoothing: float = SMOOTHING,
) -> BinModel:
    """Logistic regression, near to that of pooled rows, from counts of pairs.

    Its equations ask, for every bin, how many good subjects the model expects in it: the mean of 1/(1 + e^−z) over the
    bin's subjects. Counts of pairs say exactly what mean z has there among the good and among the bad, and nearly what
    variance; beyond these, z is taken as normal (ADR 0022). z is a sum over all features, so that is good for many of
    them with an AUC up to about 0.9, coarse for two or three strong ones, exact for one. On a lender's applications
    (12 features, out of sample) AUC is the pooled fit's to the third decimal, probabilities differ by 0.005 on average,
    and 0.8 of 1,542 of log-likelihood is lost, where sampling costs the pooled fit half a unit for each coefficient.

    `coding`: "woe", one slope for each feature, so points follow the evidence; "bins", one value for each bin.
    `ridge` penalises with ridge/2·Σ slope². Standard errors are those of the expected information, as near as the rest.
    Raises what `fit_linear` does, NotConverged, and Separation.
    """
    design = _Design.of(features, pairs, coding, smoothing)
    wanted = design.codes.T @ design.moments.counts[GOOD]
    penalty = np.array([0.0, *[ridge] * (design.codes.shape[1] - 1)])
    sizes = design.moments.subjects
    found = np.zeros(len(penalty))
    found[0] = np.log(sizes[GOOD] / sizes[BAD])
    for _ in range(ITERATIONS):
        expected, information = _expected(design, found)
        gap = wanted - expected - penalty * found
        _require_finite(design, found)
        if np.abs(gap).max() <= CONVERGED * sizes.sum():
            variances = np.diag(np.linalg.inv(information + np.diag(penalty)))
            errors = np.sqrt(variances[1:]).tolist()
            return design.model("logistic", LinkFunction.LOGIT, found, errors, _wide(design, found))
        found = found + _solved(design, information, gap, ridge)
    raise NotConverged(iterations=ITERATIONS)


# --- the design -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Design:
    """What each bin adds to each column of the regression."""

    moments: Moments
    evidence: Evidence
    codes: Vector
    """float64 [bins, 1 + columns]. A subject's row is the sum over its bins; so the intercept is 1 / features."""
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, features: Sequence[BinCounts], pairs: Sequence[PairCounts], coding: Coding, smoothing: float
    ) -> _Design:
        evidence = woe(*features, smoothing=smoothing)
        moments = moments_of(features, pairs)
        if coding not in ("woe", "bins"):
            raise BadQuestion(problem=f"there is no coding {coding!r}", hint='Use "woe" or "bins".')
        intercept = np.full((moments.counts.shape[1], 1), 1 / len(features))
        if coding == "woe":
            columns = moments.owners * np.concatenate([one.woe for one in evidence.features])[:, None]
            names = [one.name for one in evidence.features]
            for name, values in zip(names, columns.T, strict=True):
                if not values.any():
                    raise ConstantColumn(column=name)
        else:
            columns, names = _indicators(moments)
        return cls(moments, evidence, np.hstack([intercept, columns]), tuple(names))

    def model(
        self, method: str, link: LinkFunction, found: Vector, errors: Sequence[float | None], notes: Sequence[str] = ()
    ) -> BinModel:
        """`found`: the intercept and the slopes; `errors`: of the slopes."""
        values = self.codes[:, 1:] @ found[1:]
        parts = tuple(tuple(map(float, values[bins])) for bins in self.moments.slices)
        slopes = tuple(Slope(*row) for row in zip(self.names, map(float, found[1:]), errors, strict=True))
        return BinModel(method, link, self.evidence, float(found[0]), parts, slopes, (*self.moments.notes, *notes))


def _indicators(moments: Moments) -> tuple[Vector, list[str]]:
    """A column for each bin with subjects of which nothing was withheld, but for each feature's largest bin.

    Less its mean, so that 0 is neutral, and what a bin without subjects or with a withheld count has.
    """
    columns, names = [], []
    for feature, bins in zip(moments.features, moments.slices, strict=True):
        sizes = feature.shown().sum(axis=0)
        for place in np.flatnonzero(sizes):
            if place != sizes.argmax():
                column = np.zeros(moments.counts.shape[1])
                column[bins] = np.where(sizes > 0, (np.arange(len(sizes)) == place) - sizes[place] / sizes.sum(), 0.0)
                columns.append(column)
                names.append(f"{feature.name}: {feature.binning.labels[place]}")
    return np.array(columns).T.reshape(moments.counts.shape[1], len(columns)), names


def _solved(design: _Design, matrix: Vector, wanted: Vector, ridge: float, *, intercept: bool = True) -> Vector:
    """Raises Collinear, which names the first column that adds nothing to those before it."""
    if not ridge >= 0:
        raise BadQuestion(problem=f"the penalty {ridge} is below 0", hint="Use 0, or more to shrink.")
    first = int(intercept)
    penalised = matrix + ridge * np.diag([0.0] * first + [1.0] * (len(matrix) - first))
    names = ["the intercept"] * first + list(design.names)
    scale = np.sqrt(np.maximum(np.diag(penalised), 1e-300))
    reduced = penalised / np.outer(scale, scale)
    if np.linalg.eigvalsh(reduced)[0] < DEPENDENT:
        places = range(1, len(reduced) + 1)
        first_dependent = next(size for size in places if np.linalg.eigvalsh(reduced[:size, :size])[0] < DEPENDENT)
        raise Collinear(column=names[first_dependent - 1])
    return np.asarray(np.linalg.solve(reduced, wanted / scale) / scale, dtype=np.float64)


def _wide(design: _Design, found: Vector) -> list[str]:
    """A remark where log-odds vary so much that their distribution in a bin matters."""
    moments = design.moments
    values = design.codes[:, 1:] @ found[1:]
    mean = moments.counts.sum(axis=0) @ values / moments.subjects.sum()
    spread = float(np.sqrt(max(0.0, values @ moments.pairs.sum(axis=0) @ values / moments.subjects.sum() - mean**2)))
    if spread <= WIDE:
        return []
    return [f"Log-odds have a standard deviation of {spread:.1f}: so far apart, the fit is coarse. Use calibrated()."]


def _require_finite(design: _Design, found: Vector) -> None:
    ratios = np.ptp(design.codes[:, 1:] * found[1:], axis=0)
    if ratios.size and not ratios.max() <= LARGEST:
        raise Separation(column=design.names[int(np.argmax(ratios))])


# --- what a logistic model expects ------------------------------------------------------------------------------


def _expected(design: _Design, found: Vector) -> tuple[Vector, Vector]:
    """The columns' sums over the expected good, and the information: Σ p(1 − p)·column·column."""
    moments = design.moments
    values = design.codes[:, 1:] @ found[1:]
    expected, information = np.zeros(len(found)), np.zeros((len(found), len(found)))
    for counts, pairs in zip(moments.counts, moments.pairs, strict=True):
        means, variances = _in_bins(moments, counts, pairs, values)
        scores = found[0] + means[:, None] + np.sqrt(variances)[:, None] * NODES
        good = LinkFunction.LOGIT.mean(scores)
        expected += design.codes.T @ (counts * (good @ WEIGHTS))
        weighted = np.sqrt((good * (1 - good)) @ WEIGHTS)[:, None] * design.codes
        information += weighted.T @ pairs @ weighted
    return expected, information


def _in_bins(moments: Moments, counts: Vector, pairs: Vector, values: Vector) -> tuple[Vector, Vector]:
    """float64 [bins] each: mean and variance of Σ values over the subjects of one label in each bin.

    The mean is exact. So is each feature's own variance within a bin; the correlations of two features within a bin
    are those within the bins of that feature on average, because tables of three features are not asked for.
    """
    size, held = counts[moments.slices[0]].sum(), np.maximum(counts, 1e-300)[:, None]
    parts = moments.owners * values[:, None]
    means = pairs @ parts / held
    own = np.maximum(pairs @ (parts * values[:, None]) / held - means**2, 0.0)
    overall = counts @ parts / size
    covariance = parts.T @ pairs @ parts / size - np.outer(overall, overall)
    variances = np.zeros(len(counts))
    for bins in moments.slices:
        inside = means[bins] - overall
        within = covariance - (inside * (counts[bins] / size)[:, None]).T @ inside
        spread, varies = np.diag(within), np.diag(within) > ROUNDING * np.diag(covariance)
        scaled = np.where(varies, np.sqrt(own[bins] / np.where(varies, spread, 1.0)), 0.0)
        variances[bins] = np.einsum("bf,fg,bg->b", scaled, within, scaled)
    return means.sum(axis=1), np.maximum(variances, 0.0)
