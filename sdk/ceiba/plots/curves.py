"""Survival curves, and the curves by which a score is judged."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from ceiba.plots.style import (
    GREY,
    INK,
    LINE_STYLES,
    SERIES,
    SMALL,
    draw_intervals,
    heights,
    new_figure,
    require_drawable,
    require_same_length,
    tidy,
    words,
)
from ceiba_protocol.errors import BadQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """One group's survival: from 1 at time 0, it has the value `survival[k]` from `times[k]` until `times[k + 1]`."""

    name: str
    times: Sequence[float]
    """Ascending."""
    survival: Sequence[Any]
    """0 to 1; None from where it is not known."""
    lower: Sequence[Any] | None = None
    upper: Sequence[Any] | None = None
    """Ends of the confidence band at the same times."""
    at_risk: Sequence[Any] | None = None
    """How many were under observation just before each time; None or WITHHELD where that is not known."""
    censored: Sequence[float] = ()
    """Times of a mark on the curve."""

    def check(self) -> None:
        """Raises BadQuestion."""
        bands = {"lower": self.lower, "upper": self.upper, "at_risk": self.at_risk}
        require_same_length(times=self.times, survival=self.survival, **bands)
        if any(before > after for before, after in zip(self.times, self.times[1:], strict=False)):
            raise BadQuestion(problem=f"the times of {self.name} do not ascend", hint="Sort them.")
        require_drawable({"survival": self.survival})

    def from_start(self, values: Sequence[Any]) -> tuple[list[float], list[float]]:
        """Steps of `values`, with 1 at time 0."""
        started = len(self.times) > 0 and self.times[0] <= 0
        return ([] if started else [0.0]) + list(self.times), ([] if started else [1.0]) + heights(values)

    def risk_at(self, time: float) -> object:
        """How many were under observation just before `time`; 0 after the last time."""
        assert self.at_risk is not None
        place = bisect_left(self.times, time)
        return self.at_risk[place] if place < len(self.times) else 0

    def survival_at(self, time: float) -> float:
        """The height of a mark."""
        times, values = self.from_start(self.survival)
        return values[max(0, bisect_right(times, time) - 1)]


def survival(
    curves: Sequence[Curve], *, title: str = "", time: str = "time", label: str = "share without the event"
) -> Figure:
    """Steps with confidence bands; below the axis how many are at risk, where curves say so.

    `time` and `label` name the axes, with the unit of time. Raises BadQuestion, MissingExtra.
    """
    require_same_length(curves=curves)
    for curve in curves:
        curve.check()
    counted = [curve for curve in curves if curve.at_risk is not None]
    figure = new_figure(7.2, 4.2 + 0.22 * (len(counted) + 1) * bool(counted))
    axes = figure.subplots()
    looks = [(color, style) for style, color in product(LINE_STYLES, SERIES)]
    for curve, (color, style) in zip(curves, cycle(looks), strict=False):
        _draw_curve(axes, curve, color, style)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    tidy(axes, title=title, x=time, y=label)
    if len(curves) > 1:
        axes.legend(frameon=False, loc="best")
    if counted:
        _write_numbers_at_risk(axes, counted)
    return figure


def _draw_curve(axes: Axes, curve: Curve, color: str, style: str) -> None:
    times, values = curve.from_start(curve.survival)
    axes.step(times, values, where="post", color=color, linestyle=style, linewidth=1.6, label=words(curve.name))
    if curve.lower is not None and curve.upper is not None:
        low, high = curve.from_start(curve.lower)[1], curve.from_start(curve.upper)[1]
        axes.fill_between(times, low, high, step="post", color=color, alpha=0.18, linewidth=0)
    if curve.censored:
        marks = [curve.survival_at(moment) for moment in curve.censored]
        axes.plot(curve.censored, marks, linestyle="none", marker="|", markersize=6, color=color)


def _write_numbers_at_risk(axes: Axes, curves: Sequence[Curve]) -> None:
    """A line for each curve, at the ticks of the time axis, below its label."""
    figure = axes.figure
    ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    below = axes.get_xaxis_transform()
    height = figure.get_size_inches()[1] * 0.7  # type: ignore[union-attr]  # of the axes, about
    first, step = -0.62 / height, -0.2 / height
    axes.annotate("at risk", (0, first), xycoords=below, xytext=(-16, 0), textcoords="offset points", ha="right",
                  va="center", fontsize=SMALL, color=GREY)  # fmt: skip
    for line, curve in enumerate(curves, start=1):
        y = first + line * step
        axes.annotate(words(curve.name), (0, y), xycoords=below, xytext=(-16, 0), textcoords="offset points",
                      ha="right", va="center", fontsize=SMALL, color=INK)  # fmt: skip
        for tick in ticks:
            number = curve.risk_at(tick)
            text = "–" if number is None else words(number)
            axes.text(tick, y, text, transform=below, ha="center", va="center", fontsize=SMALL, color=INK)


# --- scores -----------------------------------------------------------------------------------------------------


def roc(
    false_positive: Sequence[float], true_positive: Sequence[float], auc: float | None, *, title: str = ""
) -> Figure:
    """The receiver operating characteristic: rates of 0 to 1, from (0, 0) to (1, 1); `auc` is the area below it.

    Raises BadQuestion, MissingExtra.
    """
    require_same_length(false_positive=false_positive, true_positive=true_positive)
    require_drawable({"false_positive": false_positive, "true_positive": true_positive})
    figure = new_figure(4.8, 4.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    named = "score" if auc is None else f"score, area {auc:.3f}"
    axes.plot(heights(false_positive), heights(true_positive), color=SERIES[0], linewidth=1.8, label=named)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    tidy(axes, title=title, x="false positive rate", y="true positive rate", grid="both")
    axes.legend(frameon=False, loc="lower right")
    return figure


def calibration(
    predicted: Sequence[Any],
    observed: Sequence[Any],
    counts: Sequence[Any],
    *,
    lower: Sequence[Any] | None = None,
    upper: Sequence[Any] | None = None,
    title: str = "",
) -> Figure:
    """Observed shares over mean predictions, both 0 to 1, for bins of the score; below, how many each bin has.

    None or WITHHELD leave a bin out. `lower` and `upper`: intervals of the observed shares. Raises BadQuestion,
    MissingExtra.
    """
    require_same_length(predicted=predicted, observed=observed, counts=counts, lower=lower, upper=upper)
    require_drawable({"predicted": predicted, "observed": observed, "counts": counts})
    figure = new_figure(4.8, 5.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    xs = heights(predicted)
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
    draw_intervals(above, xs, observed, lower, upper)
    above.plot(xs, heights(observed), color=SERIES[0], marker="o", markersize=5, linewidth=1.4, label="score")
    above.set_xlim(-0.02, 1.02)
    above.set_ylim(-0.02, 1.02)
    tidy(above, title=title, y="observed share", grid="both")
    above.legend(frameon=False, loc="upper left")
    below.vlines(xs, 0, heights(counts), color=SERIES[0], linewidth=5)
    below.set_ylim(bottom=0)
    tidy(below, x="predicted", y="rows")
    return figure
