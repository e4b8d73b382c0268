"""Weight of evidence and information value (Siddiqi 2006, Credit Risk Scorecards, ch. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from ceiba.scorecards.counts import BAD, GOOD, BinCounts, Vector
from ceiba.summary import Summarised, TablePart
from ceiba_protocol.errors import BadQuestion, NoEvents

SMOOTHING = 0.5
READINGS = ((0.02, "useless"), (0.1, "weak"), (0.3, "medium"), (0.5, "strong"))
SUSPICIOUS = "very strong: does it know the outcome?"


@dataclass(frozen=True)
class BinEvidence:
    """One bin. Counts are None where they were withheld, and what follows from them."""

    label: str
    good: float | None
    bad: float | None
    share: float | None
    """Of all subjects in bins of which nothing was withheld."""
    bad_rate: float | None
    woe: float
    """Above 0: a larger share of the good than of the bad is in it. 0 where a count was withheld."""
    iv: float
    """What it adds to the information value."""


@dataclass(frozen=True)
class FeatureEvidence:
    """One feature's bins."""

    counts: BinCounts
    bins: tuple[BinEvidence, ...]

    @property
    def name(self) -> str:
        return self.counts.name

    @property
    def iv(self) -> float:
        """Information value: Σ (share of the good − share of the bad)·WOE."""
        return sum(one.iv for one in self.bins)

    @property
    def woe(self) -> tuple[float, ...]:
        """Of each bin."""
        return tuple(one.woe for one in self.bins)

    @property
    def reading(self) -> str:
        """The customary word for its information value."""
        return next((word for end, word in READINGS if self.iv < end), SUSPICIOUS)


@dataclass(frozen=True, repr=False)
class Evidence(Summarised):
    """How much each feature's bins say about the label, in the order in which they were given."""

    features: tuple[FeatureEvidence, ...]
    smoothing: float

    title = "Weight of evidence"

    @property
    def iv(self) -> dict[str, float]:
        """Feature → information value."""
        return {one.name: one.iv for one in self.features}

    def __getitem__(self, name: str) -> FeatureEvidence:
        """One feature's. KeyError for another name."""
        return {one.name: one for one in self.features}[name]

    def parts(self) -> Sequence[TablePart]:
        """The features by falling information value; then the bins of each."""
        ranked = sorted(self.features, key=lambda one: -one.iv)
        titles = ("bin", "good", "bad", "share", "bad rate", "WOE", "IV")
        return [
            TablePart("Information value", ("feature", "IV", "reading"), [(o.name, o.iv, o.reading) for o in ranked]),
            *(TablePart(one.name, titles, [astuple(row) for row in one.bins]) for one in self.features),
        ]

    def notes(self) -> list[str]:
        """What WOE is here, and which bins have none."""
        notes = ["WOE = ln(share of the good in a bin / share of the bad in it): above 0 is better than average."]
        if self.smoothing:
            notes.append(
                f"To every bin {self.smoothing:g} subjects of the rarer label are added, with the population's number "
                "of the other for each."
            )
        return [*notes, *(note for one in self.features for note in withheld_notes(one.counts))]


def withheld_notes(counts: BinCounts) -> list[str]:
    """In words what became of a feature's withheld bins."""
    if not counts.withheld:
        return []
    labels = "; ".join(counts.binning.labels[place] for place in counts.withheld)
    return [f"{counts.name}: withheld, or too few, in {labels}: neutral, WOE 0. coarse() joins bins to others."]


def woe(*features: BinCounts, smoothing: float = SMOOTHING) -> Evidence:
    """Weight of evidence of every bin, ln(share of the good in it / share of the bad in it), and information values.

    To every bin, `smoothing` subjects of the rarer label are added, and the population's number of the other for each:
    the WOE's sign stays, a bin without anybody has 0, and none is infinite. 0 gives the textbook's figures. A bin with
    a withheld count is neutral, and no share counts it. Raises BadQuestion, NoEvents.
    """
    require_features(features)
    if not smoothing >= 0:
        raise BadQuestion(problem=f"the smoothing {smoothing} is below 0", hint="Use 0.5, or 0 for none.")
    return Evidence(tuple(_feature(one, smoothing) for one in features), smoothing)


def require_features(features: Sequence[BinCounts]) -> None:
    """Raises BadQuestion for no features, two of one name, or one whose counts were all withheld; NoEvents for one that
    only one label is known of."""
    names = [one.name for one in features]
    if not names or len(set(names)) < len(names):
        raise BadQuestion(problem="there are no features, or two of one name", hint="Give each feature's counts once.")
    for one in features:
        if all(count is None for count in (*one.good, *one.bad)):
            hint = "A joined table with one small cell is withheld whole: ask with fewer bins, which have more in them."
            raise BadQuestion(problem=f"every count of {one.name} was withheld", hint=hint)
        for side, what in zip(one.shown(), ("good", "bad"), strict=True):
            if not side.any():
                raise NoEvents(what=f"the bins of {one.name}, or nobody there is {what}: nobody")


def _feature(counts: BinCounts, smoothing: float) -> FeatureEvidence:
    shown = counts.shown()
    values, parts = _woe_and_iv(shown, smoothing)
    total = shown.sum()
    bins = []
    for place, (label, good, bad) in enumerate(zip(counts.binning.labels, counts.good, counts.bad, strict=True)):
        n = None if good is None or bad is None else good + bad
        rate, share = (bad / n if n and bad is not None else None), None if n is None else float(n / total)
        bins.append(BinEvidence(label, good, bad, share, rate, float(values[place]), float(parts[place])))
    return FeatureEvidence(counts, tuple(bins))


def _woe_and_iv(counts: Vector, smoothing: float) -> tuple[Vector, Vector]:
    """float64 [bins] each, from [good and bad, bins]; 0 for a bin without anybody."""
    totals = counts.sum(axis=1, keepdims=True)
    smoothed = counts + smoothing * totals / totals.min() * counts.any(axis=0)
    shares = smoothed / smoothed.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(counts.any(axis=0), np.log(shares[GOOD] / shares[BAD]), 0.0)
    return values, (shares[GOOD] - shares[BAD]) * values
