"""Estimates with their intervals, and eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ceiba.plots.style import (
    GREY,
    INK,
    SERIES,
    SMALL,
    is_number,
    new_figure,
    number_text,
    require_drawable,
    require_same_length,
    tidy,
    words,
)
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def forest(
    names: Sequence[object],
    estimates: Sequence[Any],
    lower: Sequence[Any],
    upper: Sequence[Any],
    *,
    reference: float = 1.0,
    log: bool = True,
    title: str = "",
    label: str = "",
) -> Figure:
    """A line for each estimate: its point, its interval, and both as numbers to the right; `reference` is no effect.

    `log`: ratios, on a scale where 2 and 1/2 are equally far from 1. None and WITHHELD leave a line with that word.
    Raises BadQuestion for ratios that are not above 0, MissingExtra.
    """
    require_same_length(names=names, estimates=estimates, lower=lower, upper=upper)
    columns = {"estimates": estimates, "lower": lower, "upper": upper}
    require_drawable(columns)
    drawn = [value for column in columns.values() for value in column if is_number(value)]
    if log and any(value <= 0 for value in [*drawn, reference]):
        raise BadQuestion(problem="a ratio is not above 0", hint="Draw differences with log=False, reference=0.")
    figure = new_figure(7.5, max(2.2, 1.3 + 0.34 * len(names)))
    axes = figure.subplots()
    axes.axvline(reference, color=GREY, linewidth=1, linestyle="--")
    for place, row in enumerate(zip(estimates, lower, upper, strict=True)):
        _draw_estimate(axes, place, *row)
    tidy(axes, title=title, x=label, grid="x")
    if log:
        _scale_ratios(axes, [*drawn, reference])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [words(name) for name in names])
    axes.tick_params(axis="y", length=0)
    return figure


def _draw_estimate(axes: Axes, place: int, estimate: Any, low: Any, high: Any) -> None:
    text, color = str(WITHHELD) if estimate is WITHHELD else "not estimated", GREY
    if is_number(estimate):
        text, color = number_text(float(estimate)), INK
        if is_number(low) and is_number(high):
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=1.6, solid_capstyle="butt")
            text += f"  ({number_text(float(low))} to {number_text(float(high))})"
        axes.plot([estimate], [place], marker="s", markersize=6, color=SERIES[0])
    right = axes.get_yaxis_transform()
    axes.text(1.02, place, text, transform=right, va="center", fontsize=SMALL + 1, color=color)


def _scale_ratios(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    decades = max(values) / min(values)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1000 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if decades < 10:
        axes.set_xlim(min(values) / 1.3, max(values) * 1.3)


def scree(eigenvalues: Sequence[float], *, title: str = "", label: str = "eigenvalue") -> Figure:
    """Eigenvalues in their order, each with the share of the variance that it and those before it explain.

    Raises BadQuestion, MissingExtra.
    """
    require_same_length(eigenvalues=eigenvalues)
    require_drawable({"eigenvalues": eigenvalues})
    if not all(map(is_number, eigenvalues)) or sum(eigenvalues) <= 0:
        raise BadQuestion(problem="the eigenvalues do not add up to a variance", hint="Give all of them, as numbers.")
    figure = new_figure(max(5.0, min(14.0, 0.6 * len(eigenvalues) + 2)))
    axes = figure.subplots()
    places = range(1, len(eigenvalues) + 1)
    axes.plot(places, eigenvalues, marker="o", color=SERIES[0], linewidth=1.6)
    for place in places:
        share = sum(eigenvalues[:place]) / sum(eigenvalues)
        axes.annotate(f"{share:.0%}", (place, eigenvalues[place - 1]), xytext=(6, 5), textcoords="offset points",
                      ha="left", fontsize=SMALL, color=GREY)  # fmt: skip
    axes.set_xticks(places)
    axes.set_ylim(0, max(eigenvalues) * 1.12)
    axes.set_xlim(0.5, len(eigenvalues) + 0.5)
    tidy(axes, title=title, x="component; above: share of variance up to it", y=label)
    return figure
