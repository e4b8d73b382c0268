"""Scorecards from counts that holders computed together, without anybody's rows.

from ceiba import Binning, scorecards
fine = Binning.equal(heart.schema, "age", 20)          # public edges, from the schema
counts = BinCounts.from_frame(fine, result)            # by fine.group_key() and the label, joined or not
age = scorecards.coarse(counts)                        # fewer bins, each with enough of both labels
scorecards.woe(age, income).summary()                  # weight of evidence, information value
model = scorecards.fit_logistic([age, income], pairs)  # from counts of pairs of features
card = scorecards.Scorecard.of(model)                  # 600 points at 19 good to one bad, 50 to double
scorecards.judge(card.score(rows), rows.bad)           # AUC, KS, calibration, out of sample
scorecards.stability(old, new)                         # has the population moved?
"""

from ceiba.scorecards.binning import Binning, pair_key
from ceiba.scorecards.card import Explanation, Scale, Scorecard
from ceiba.scorecards.classing import coarse
from ceiba.scorecards.counts import BinCounts, PairCounts, Population
from ceiba.scorecards.evidence import Evidence, woe
from ceiba.scorecards.fits import fit_discriminant, fit_linear, fit_logistic, fit_naive
from ceiba.scorecards.judging import Drift, Judgement, judge, stability
from ceiba.scorecards.model import BinModel

__all__ = [
    "BinCounts",
    "BinModel",
    "Binning",
    "Drift",
    "Evidence",
    "Explanation",
    "Judgement",
    "PairCounts",
    "Population",
    "Scale",
    "Scorecard",
    "coarse",
    "fit_discriminant",
    "fit_linear",
    "fit_logistic",
    "fit_naive",
    "judge",
    "pair_key",
    "stability",
    "woe",
]
