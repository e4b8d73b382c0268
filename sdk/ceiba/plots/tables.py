"""Bars, and lines over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import cycle, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ceiba.plots.style import (
    GREY,
    SERIES,
    draw_intervals,
    heights,
    is_number,
    leave_room,
    mark_missing,
    new_figure,
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

Values = Sequence[Any] | Mapping[str, Sequence[Any]]
"""One value for each label, or several named series of them: numbers, None for NULL, WITHHELD."""

BARS_WIDTH = 0.8
"""Of all bars at one label; labels are 1 apart."""
LONG_LABELS = 70
"""Characters of all labels that fit side by side below a figure."""


# --- bars -------------------------------------------------------------------------------------------------------


def bars(
    labels: Sequence[object],
    values: Values,
    *,
    lower: Values | None = None,
    upper: Values | None = None,
    title: str = "",
    label: str = "",
    axis: str = "",
) -> Figure:
    """One bar for each label; side by side, where `values` has several named series.

    `lower` and `upper`: ends of intervals, in the form of `values`, None where there is none. `label` names the values
    with their unit, `axis` the labels. Raises BadQuestion for unequal lengths, MissingExtra.
    """
    series = named_series(values)
    figure = new_figure(width=min(14.0, max(7.0, 0.4 * len(labels) * len(series))))
    draw_bars(figure.subplots(), labels, series, named_series(lower), named_series(upper))
    tidy(figure.axes[0], title=title, x=axis, y=label)
    return figure


def named_series(values: Values | None) -> dict[str, Sequence[Any]]:
    """One series without a name, or those that have names."""
    if values is None:
        return {}
    return dict(values) if isinstance(values, Mapping) else {"": values}


def draw_bars(
    axes: Axes,
    labels: Sequence[object],
    series: Mapping[str, Sequence[Any]],
    lower: Mapping[str, Sequence[Any]],
    upper: Mapping[str, Sequence[Any]],
) -> None:
    """The bars of `bars`, on axes that exist. Raises BadQuestion."""
    _require_series(labels, series, lower, upper)
    width = BARS_WIDTH / len(series)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    for place, (name, values) in enumerate(series.items()):
        xs = [at - BARS_WIDTH / 2 + (place + 0.5) * width for at in range(len(labels))]
        axes.bar(xs, heights(values), width * 0.96, color=SERIES[place % len(SERIES)], label=words(name))
        draw_intervals(axes, xs, values, lower.get(name), upper.get(name))
        for x, value in zip(xs, values, strict=True):
            if not is_number(value):
                mark_missing(axes, value, x, width * 0.96)
    _label_places(axes, labels)
    leave_room(axes, series)
    if len(series) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _require_series(labels: Sequence[object], *kinds: Mapping[str, Sequence[Any]]) -> None:
    if not kinds[0]:
        raise BadQuestion(problem="there is nothing to draw: no values", hint="Give at least one series.")
    for kind in kinds:
        require_drawable(kind)
        for name, values in kind.items():
            require_same_length(labels=labels, **{name or "values": values})


def _label_places(axes: Axes, labels: Sequence[object]) -> None:
    """Labels at 0, 1, …; broken into lines, or else slanted, if they would run into each other."""
    texts = [words(label) for label in labels]
    room = LONG_LABELS // len(texts)
    if max(map(len, texts)) > room:
        texts = ["\n".join(wrap(text, max(8, room), break_long_words=False)) for text in texts]
    if max(len(part) for text in texts for part in text.split("\n")) > room:
        texts = [text.replace("\n", " ") for text in texts]
        axes.set_xticks(range(len(texts)), texts, rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(texts)), texts)


# --- lines ------------------------------------------------------------------------------------------------------


def line(
    times: Sequence[date],
    values: Values,
    *,
    lower: Values | None = None,
    upper: Values | None = None,
    title: str = "",
    label: str = "",
    axis: str = "",
) -> Figure:
    """Values over dates, as points joined by lines, with error bars where there are intervals; arguments as for `bars`.

    A line is broken where a value is missing. Raises BadQuestion, MissingExtra.
    """
    series = named_series(values)
    figure = new_figure()
    draw_line(figure.subplots(), times, series, named_series(lower), named_series(upper))
    tidy(figure.axes[0], title=title, x=axis, y=label)
    return figure


def draw_line(
    axes: Axes,
    times: Sequence[date],
    series: Mapping[str, Sequence[Any]],
    lower: Mapping[str, Sequence[Any]],
    upper: Mapping[str, Sequence[Any]],
) -> None:
    """The lines of `line`, on axes that exist. Raises BadQuestion."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    _require_series(times, series, lower, upper)
    xs = [float(date2num(time)) for time in times]  # type: ignore[no-untyped-call]
    for (name, values), color in zip(series.items(), cycle(SERIES), strict=False):
        axes.plot(xs, heights(values), marker="o", markersize=4, linewidth=1.5, color=color, label=words(name))
        draw_intervals(axes, xs, values, lower.get(name), upper.get(name))
    axes.set_xlim(axes.get_xlim())
    _mark_gaps(axes, xs, series)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    leave_room(axes, series)
    if len(series) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _mark_gaps(axes: Axes, xs: Sequence[float], series: Mapping[str, Sequence[Any]]) -> None:
    """One mark at each date where a value was withheld, in the line's colour if it is one line's, or where no line has
    one; below all lines. One of several lines may have nothing to show at a date."""
    gaps: list[tuple[object, float, str]] = []
    for x, values in zip(xs, zip(*series.values(), strict=True), strict=True):
        withheld = [place for place, value in enumerate(values) if value is WITHHELD]
        if withheld:
            gaps.append((WITHHELD, x, SERIES[withheld[0] % len(SERIES)] if len(withheld) == 1 else GREY))
        elif not any(map(is_number, values)):
            gaps.append((None, x, GREY))
    if gaps:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        axes.set_ylim(low - (high - low) * 0.35, high)
        axes.set_yticks(ticks)
    for value, x, color in gaps:
        mark_missing(axes, value, x, _narrowest(xs) * 0.6, color)


def _narrowest(xs: Sequence[float]) -> float:
    """The least distance of two of them."""
    ordered = sorted(set(xs))
    return min((after - before for before, after in pairwise(ordered)), default=1.0)
