"""What needs no space: the bank's own rating of its own columns, and what a regression on all rows would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from ceiba import scorecards
from ceiba.scorecards import Binning, Judgement
from ceiba_scenarios.stories.health_research import logistic
from ceiba_scenarios.stories.sme_credit.world import BORROWER, LOANS, NEWCOMER, OWN, Vector, World

CLASSES = 5
"""Of the bank's own rating."""
RATING = Binning.at("rating", range(2, CLASSES + 1), table=LOANS)


@dataclass(frozen=True)
class Rating:
    """A logistic regression of the bank's own columns, made of its own borrowers."""

    means: Vector
    spreads: Vector
    coefficients: Vector
    """Of 1 and of the standardised columns, for ln(good / bad)."""
    limits: Vector
    """Between the classes of the rating, rising."""

    @classmethod
    def of(cls, borrowers: pandas.DataFrame) -> Rating:
        values = borrowers[list(OWN)].to_numpy(np.float64)
        means, spreads = values.mean(axis=0), values.std(axis=0)
        found, _ = logistic(_with_ones((values - means) / spreads), _floats(~borrowers["bad"]))
        scores = _with_ones((values - means) / spreads) @ np.array(found)
        return cls(means, spreads, np.array(found), np.quantile(scores, np.arange(1, CLASSES) / CLASSES))

    def scores(self, rows: pandas.DataFrame) -> Vector:
        """float64 [rows]: ln(good / bad) as the bank alone sees it."""
        standard = (rows[list(OWN)].to_numpy(np.float64) - self.means) / self.spreads
        return np.asarray(_with_ones(standard) @ self.coefficients, np.float64)

    def classes(self, rows: pandas.DataFrame) -> list[int]:
        """1, the worst fifth of the borrowers, to 5."""
        return [1 + int(place) for place in np.searchsorted(self.limits, self.scores(rows), side="right")]


def _with_ones(columns: Vector) -> Vector:
    return np.column_stack([np.ones(len(columns)), columns])


def rate(world: World) -> Judgement:
    """The bank's own rating of everybody who has applied, and how it ranks those who apply now."""
    rating = Rating.of(world.part(BORROWER))
    world.owners["rating"] = rating.classes(world.owners)
    newcomers = world.part(NEWCOMER)
    return scorecards.judge(list(rating.scores(newcomers)), list(newcomers["bad"]))


def regression_on_rows(fitted: pandas.DataFrame, judged: pandas.DataFrame, columns: Sequence[str]) -> Vector:
    """ln(good / bad) of `judged` by maximum likelihood on the rows of `fitted`: every number as it is, every category
    but one, and whether values are missing. In a real space nobody could compute it."""
    found, _ = logistic(_plain_design(fitted, fitted, columns), _floats(~fitted["bad"]))
    return np.asarray(_plain_design(judged, fitted, columns) @ np.array(found), np.float64)


def _plain_design(rows: pandas.DataFrame, fitted: pandas.DataFrame, columns: Sequence[str]) -> Vector:
    """float64 [rows, 1 + columns]: missing numbers at the mean, and once each pattern in which values are missing."""
    made: list[Vector] = [np.ones(len(rows))]
    patterns: set[bytes] = set()
    for name in columns:
        if pandas.api.types.is_numeric_dtype(fitted[name]):
            center, spread = float(fitted[name].mean()), float(fitted[name].std())
            made.append((_floats(rows[name].astype("Float64").fillna(center)) - center) / spread)
        else:
            made += [_floats(rows[name] == one) for one in fitted[name].value_counts().index[1:]]
        pattern = fitted[name].isna()
        if pattern.any() and pattern.to_numpy().tobytes() not in patterns:
            patterns.add(pattern.to_numpy().tobytes())
            made.append(_floats(rows[name].isna()))
    return np.column_stack(made)


def _floats(column: pandas.Series) -> Vector:
    return np.asarray(column.to_numpy(np.float64), np.float64)
