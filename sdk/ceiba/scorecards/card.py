"""Scorecards: whole points for each bin, on a scale on which a step doubles the odds (Siddiqi 2006, ch. 6).

    card = Scorecard.of(model)
    card.score(my_applicants)                  # on rows of one's own
    card.weights()                             # what goes, encrypted, to the holders of features (PROTOCOL §5.5)
    Path("card.json").write_text(card.to_json())

Odds are good to bad and more points are better: 600 points say 19 good for each bad, 650 say 38.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import log
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from ceiba.scorecards.binning import Binning, Edge, Places
from ceiba.scorecards.counts import Vector
from ceiba.scorecards.model import BinModel
from ceiba.summary import Summarised, TablePart
from ceiba.terms import Scalar, built, literal
from ceiba_protocol.canonical import Document, Text
from ceiba_protocol.errors import BadQuestion, MalformedDocument

if TYPE_CHECKING:
    import pandas

SCORE_BITS = 24
"""PROTOCOL §5.5: what a private score has room for, with its sign."""
MAX_FEATURES = 100
Points = Annotated[int, Field(gt=-(2 ** (SCORE_BITS - 1)), lt=2 ** (SCORE_BITS - 1))]


class Scale(Document):
    """What points mean: `anchor` points at odds of `odds` good to one bad, `doubling` more for twice the odds."""

    anchor: Points = 600
    odds: Edge = "19"
    doubling: Annotated[Points, Field(ge=1)] = 50

    @model_validator(mode="after")
    def _check(self) -> Self:
        if Fraction(self.odds) <= 0:
            raise ValueError("odds are above 0")
        return self

    @property
    def factor(self) -> float:
        """Points for each unit of log-odds."""
        return self.doubling / log(2)

    def points(self, log_odds: Vector | float) -> Vector:
        """float64: points, not rounded, at ln(good / bad)."""
        return np.asarray(self.anchor + self.factor * (np.asarray(log_odds) - log(Fraction(self.odds))), np.float64)

    def log_odds(self, points: Vector | Sequence[float]) -> Vector:
        """float64: ln(good / bad) at so many points."""
        return (np.asarray(points, dtype=np.float64) - self.anchor) / self.factor + log(Fraction(self.odds))


class CardFeature(Document):
    """One feature's bins and their points, in the order of `binning.labels`."""

    binning: Binning
    points: Annotated[tuple[Points, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.points) != self.binning.count:
            raise ValueError("a feature has points for each of its bins")
        return self


class Scorecard(Document):
    """Points for each bin of each feature, and points that everybody has. Its `digest()` is its identity."""

    MAX_BYTES: ClassVar[int] = 1024 * 1024
    name: Text
    scale: Scale
    base: Points
    """What everybody has; 0 where it is spread over the features."""
    features: Annotated[tuple[CardFeature, ...], Field(min_length=1, max_length=MAX_FEATURES)]
    method: Text = ""
    """How the points were found."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [feature.binning.name for feature in self.features]
        if len(set(names)) < len(names):
            raise ValueError("two features have the same name")
        low, high = self.bounds
        if not -(2 ** (SCORE_BITS - 1)) <= low <= high < 2 ** (SCORE_BITS - 1):
            raise ValueError(f"scores from {low} to {high} do not fit {SCORE_BITS} bits")
        return self

    @classmethod
    def of(
        cls,
        model: BinModel,
        *,
        name: str = "scorecard",
        anchor: int = 600,
        odds: Scalar = 19,
        doubling: int = 50,
        spread_base: bool = False,
    ) -> Scorecard:
        """Points of a model, each rounded: a score is off by at most half a point for each feature, and for the base.

        `anchor` points stand for `odds` good to one bad (19: one in twenty turns bad), `doubling` more for twice the
        odds. With `spread_base` the base is divided over the features, so that no points are below 0 for lack of it.
        Raises BadQuestion, also for a model without odds.
        """
        model.require_odds()
        scale = built(Scale, anchor=anchor, odds=getattr(literal(odds), "value", None), doubling=doubling)
        base = float(scale.points(model.intercept))
        share = base / len(model.values) if spread_base else 0.0
        features = tuple(
            built(CardFeature, binning=binning, points=tuple(round(share + scale.factor * one) for one in values))
            for binning, values in zip(model.binnings, model.values, strict=True)
        )
        whole = 0 if spread_base else round(base)
        return built(cls, name=name, scale=scale, base=whole, features=features, method=model.method)

    # --- scoring

    def places(self, frame: pandas.DataFrame) -> Places:
        """int64 [rows, features]: each row's bins. Raises BadQuestion, UnknownCategory."""
        return np.column_stack([feature.binning.places(frame) for feature in self.features])

    def score(self, frame: pandas.DataFrame) -> Places:
        """int64 [rows]: points of rows of one's own. Raises BadQuestion, UnknownCategory."""
        places = self.places(frame).T
        parts = [np.array(feature.points)[own] for feature, own in zip(self.features, places, strict=True)]
        return np.asarray(self.base + np.sum(parts, axis=0), dtype=np.int64)

    def probability_bad(self, points: Vector | Sequence[float]) -> Vector:
        """float64: of turning bad, as the scale says, at so many points."""
        return np.asarray(1 / (1 + np.exp(self.scale.log_odds(points))), dtype=np.float64)

    def weights(self) -> list[list[int]]:
        """For each feature the points of its bins, the last for missing values: what private scoring sums, encrypted.

        `base` is not among them: add it to the sum. Sum and score fit 24 bits with their sign.
        """
        return [list(feature.points) for feature in self.features]

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The least and the most points that anybody can have."""
        low, high = (self.base + sum(end(one.points) for one in self.features) for end in (min, max))
        return low, high

    # --- reading

    def to_frame(self) -> pandas.DataFrame:
        """Columns feature, bin, points: one row for each bin."""
        import pandas

        rows = [
            (feature.binning.name, label, points)
            for feature in self.features
            for label, points in zip(feature.binning.labels, feature.points, strict=True)
        ]
        return pandas.DataFrame(rows, columns=["feature", "bin", "points"])

    def explain(self, row: Mapping[str, Any]) -> Explanation:
        """Why one applicant has so many points; `row` has each feature's value. Raises BadQuestion, UnknownCategory."""
        import pandas

        places = self.places(pandas.DataFrame([dict(row)]))[0]
        parts = tuple(
            PointsOf(one.binning.name, one.binning.labels[place], one.points[place], max(one.points))
            for one, place in zip(self.features, places, strict=True)
        )
        score = self.base + sum(part.points for part in parts)
        return Explanation(parts, self.base, score, float(self.probability_bad([score])[0]))

    def to_json(self) -> str:
        """RFC 8785 JSON, which `from_json` reads; its bytes are what `digest()` is of."""
        return self.body().decode()

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """The scorecard that `to_json` wrote. Raises BadQuestion for anything else."""
        try:
            return cls.parse(text.encode())
        except (MalformedDocument, UnicodeEncodeError):
            hint = "Give the text that to_json() of a scorecard wrote, unchanged."
            raise BadQuestion(problem="the text is not a scorecard of this version", hint=hint) from None


@dataclass(frozen=True)
class PointsOf:
    """What one feature gives an applicant."""

    feature: str
    bin: str
    points: int
    best: int
    """The most that anybody gets for it."""

    @property
    def lost(self) -> int:
        """Points short of the best."""
        return self.best - self.points


@dataclass(frozen=True, repr=False)
class Explanation(Summarised):
    """One applicant's points."""

    features: tuple[PointsOf, ...]
    base: int
    score: int
    probability_bad: float

    title = "Points"

    def reasons(self, count: int = 4) -> tuple[PointsOf, ...]:
        """The features that cost most against the best bin, as reason codes; those that cost nothing are none."""
        ranked = sorted(self.features, key=lambda one: -one.lost)
        return tuple(one for one in ranked[:count] if one.lost)

    def parts(self) -> Sequence[TablePart]:
        """Features, those that cost most first; then the score."""
        rows = [(one.feature, one.bin, one.points, one.best, one.lost) for one in self.reasons(len(self.features))]
        rows += [(one.feature, one.bin, one.points, one.best, 0) for one in self.features if not one.lost]
        facts = [("score", self.score), ("base", self.base), ("probability of bad", self.probability_bad)]
        return [
            TablePart("Features", ("feature", "bin", "points", "best", "lost"), rows),
            TablePart.of_facts("Score", facts),
        ]
