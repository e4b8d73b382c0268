"""A fitted model over bins: what each bin adds to the log-odds of being good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ceiba.models import LinkFunction
from ceiba.scorecards.binning import Binning
from ceiba.scorecards.counts import Vector, truths
from ceiba.scorecards.evidence import Evidence, withheld_notes
from ceiba.summary import Summarised, TablePart
from ceiba_protocol.errors import BadQuestion, NotConverged, Separation

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Slope:
    """A coefficient: of a feature's WOE, or of a bin against the feature's largest."""

    name: str
    value: float
    error: float | None
    """Standard error; None where the fit has none."""


@dataclass(frozen=True, repr=False)
class BinModel(Summarised):
    """For each subject, intercept + Σ values of its bins: ln(good / bad), or with the identity link a probability."""

    method: str
    link: LinkFunction
    evidence: Evidence
    intercept: float
    values: tuple[tuple[float, ...], ...]
    """Of each feature's bins; 0 is neutral, and what a bin without evidence has."""
    slopes: tuple[Slope, ...]
    remarks: tuple[str, ...]
    """What the fit assumed, and what it did about counts that it lacked."""

    title = "Model over bins"

    @property
    def binnings(self) -> tuple[Binning, ...]:
        """The features' bins."""
        return tuple(one.counts.binning for one in self.evidence.features)

    def linear_predictor(self, frame: pandas.DataFrame) -> Vector:
        """float64 [rows]: intercept + Σ values, on rows of one's own. Raises BadQuestion, UnknownCategory."""
        total = np.full(len(frame), self.intercept)
        for binning, values in zip(self.binnings, self.values, strict=True):
            total += np.array(values)[binning.places(frame)]
        return total

    def probability_bad(self, frame: pandas.DataFrame) -> Vector:
        """float64 [rows]: of being bad; otherwise as `linear_predictor`."""
        return 1 - self.link.mean(self.linear_predictor(frame))

    def calibrated(self, log_odds: Sequence[float], bad: Sequence[Any]) -> BinModel:
        """The model with a new intercept and one factor on all values, so that the odds hold for subjects that it was
        not fitted on: their log-odds of this model, and whether they turned out bad (Platt 1999, without his prior).

        Ranks stay the same. Raises BadQuestion, NotConverged, Separation.
        """
        self.require_odds()
        intercept, factor = _logistic_line(np.array(log_odds, dtype=np.float64), ~truths(bad))
        if factor <= 0:
            problem = "the model ranks these subjects the wrong way round, or not at all"
            raise BadQuestion(problem=problem, hint="Check which of their labels means bad.")
        values = tuple(tuple(factor * value for value in part) for part in self.values)
        slopes = tuple(replace(one, value=factor * one.value, error=None) for one in self.slopes)
        remark = f"Calibrated on {len(bad)} subjects: all values times {factor:.4g}."
        start = intercept + factor * self.intercept
        return replace(self, intercept=start, values=values, slopes=slopes, remarks=(*self.remarks, remark))

    def require_odds(self) -> None:
        """Raises BadQuestion for a model whose probabilities are linear."""
        if self.link is not LinkFunction.LOGIT:
            hint = "Use fit_discriminant() or fit_logistic() on the same counts."
            raise BadQuestion(problem="a linear probability has no odds", hint=hint)

    def parts(self) -> Sequence[TablePart]:
        """The coefficients, and what each bin adds."""
        good, bad = (sum(one or 0 for one in side) for side in self._sides())
        facts = [("method", self.method), ("good", good), ("bad", bad), ("intercept", self.intercept)]
        rows = [
            (binning.name, label, value)
            for binning, values in zip(self.binnings, self.values, strict=True)
            for label, value in zip(binning.labels, values, strict=True)
        ]
        return [
            TablePart("Coefficients", ("", "coef", "std err"), [(o.name, o.value, o.error) for o in self.slopes]),
            TablePart.of_facts("Model", facts),
            TablePart("Bins", ("feature", "bin", "value"), rows),
        ]

    def _sides(self) -> tuple[Sequence[float | None], Sequence[float | None]]:
        counts = self.evidence.features[0].counts
        return counts.good, counts.bad

    def notes(self) -> list[str]:
        """What was assumed, which bins are neutral, and which features turned against their evidence."""
        withheld = [note for one in self.evidence.features for note in withheld_notes(one.counts)]
        by_feature = {one.name for one in self.evidence.features}
        turned = [one.name for one in self.slopes if one.value < 0 and one.name in by_feature]
        against = f"Beside the others, these count against their own evidence: {', '.join(turned)}. Leave them out?"
        return [*self.remarks, *withheld, *([against] if turned else [])]


def _logistic_line(x: Vector, good: Any) -> tuple[float, float]:
    """Intercept and slope of a logistic regression on one column, by Newton. Raises NotConverged, Separation."""
    if len(x) != len(good) or not np.isfinite(x).all() or good.all() or not good.any():
        hint = "Give one finite log-odds and one label for each subject, some of them good and some bad."
        raise BadQuestion(problem="these subjects cannot calibrate a model", hint=hint)
    if x[good].min() >= x[~good].max() or x[good].max() <= x[~good].min():
        raise Separation(column="the log-odds")
    design = np.column_stack([np.ones(len(x)), x])
    found = np.zeros(2)
    for _ in range(100):
        p = LinkFunction.LOGIT.mean(design @ found)
        gap = design.T @ (good - p)
        information = (design * (p * (1 - p))[:, None]).T @ design
        if np.abs(gap).max() <= 1e-9 * len(x):
            return float(found[0]), float(found[1])
        found = found + np.linalg.solve(information, gap)
    raise NotConverged(iterations=100)
