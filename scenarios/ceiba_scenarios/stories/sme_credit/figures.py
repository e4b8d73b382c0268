"""The report's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ceiba.plots.style import GREY, LINE_STYLES, SERIES, new_figure, tidy, words
from ceiba.scorecards import Evidence, Judgement

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_roc(judged: Mapping[str, Judgement]) -> Figure:
    """One curve for each way of scoring: of all thresholds, the share of bad that is accepted against that of good."""
    figure = new_figure(4.8, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for (name, one), color, style in zip(judged.items(), SERIES, LINE_STYLES, strict=False):
        _, bad, good = zip(*one.curve, strict=True)
        axes.plot(bad, good, color=color, linestyle=style, linewidth=1.8, label=f"{name}, area {one.auc:.3f}")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    tidy(axes, x="share of the bad accepted", y="share of the good accepted", grid="both")
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_evidence(evidence: Evidence) -> Figure:
    """Bars for every bin of every feature, features one below the other."""
    names: list[str] = []
    values: list[float] = []
    starts: list[int] = []
    for feature in evidence.features:
        starts.append(len(names))
        shown = [one for one in feature.bins if one.good or one.bad]
        names += [f"{feature.name}: {one.label}" if not place else one.label for place, one in enumerate(shown)]
        values += [one.woe for one in shown]
    figure = new_figure(7.0, 0.8 + 0.2 * len(names))
    axes = figure.subplots()
    colors = [SERIES[0] if value >= 0 else SERIES[1] for value in values]
    axes.barh(range(len(names)), values, color=colors, height=0.75)
    axes.set_yticks(range(len(names)), [words(name) for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=1)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=GREY, linewidth=0.6)
    tidy(axes, x="weight of evidence: right of 0 better than average", grid="x")
    return figure


def draw_scores(scores: Sequence[int], bad: Sequence[bool]) -> Figure:
    """How many of the good and of the bad have about so many points."""
    figure = new_figure(7.0, 3.2)
    axes = figure.subplots()
    sides = [[score for score, one in zip(scores, bad, strict=True) if one is side] for side in (False, True)]
    edges = range(min(scores) // 50 * 50, max(scores) + 51, 50)
    axes.hist(sides, bins=list(edges), color=list(SERIES[:2]), label=["good", "bad"])
    tidy(axes, x="points", y="applicants")
    axes.legend(frameon=False)
    return figure
