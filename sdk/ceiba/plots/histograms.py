"""Histograms from the small tables of the statistic `histogram`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ceiba.plots.style import (
    SERIES,
    draw_intervals,
    heights,
    interval_ends,
    is_number,
    leave_room,
    mark_missing,
    new_figure,
    require_drawable,
    require_same_length,
    tidy,
)
from ceiba_protocol.errors import BadQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def histogram(
    entries: Sequence[Mapping[str, Any]],
    *,
    plus_minus: Sequence[Any] | None = None,
    title: str = "",
    label: str = "rows",
    axis: str = "",
) -> Figure:
    """The small table of the statistic `histogram`: entries with `from`, `to` (None beyond the ends) and `count`.

    Bins are as wide as they are. What lies beyond the ends is drawn apart, if there is any, as wide as the outermost
    bin. `plus_minus`: half of each count's interval, None where there is none. `label` names the counts, `axis` the
    values with their unit. Raises BadQuestion, MissingExtra.
    """
    figure = new_figure()
    draw_histogram(figure.subplots(), entries, plus_minus)
    tidy(figure.axes[0], title=title, x=axis, y=label)
    return figure


def draw_histogram(axes: Axes, entries: Sequence[Mapping[str, Any]], plus_minus: Sequence[Any] | None = None) -> None:
    """The bins of `histogram`, on axes that exist. Raises BadQuestion."""
    require_same_length(entries=entries, plus_minus=plus_minus)
    counts = [entry["count"] for entry in entries]
    require_drawable({"count": counts})
    inner = [entry for entry in entries if entry["from"] is not None and entry["to"] is not None]
    if not inner:
        raise BadQuestion(problem="no bin has two ends", hint="Draw the small table that histogram() gives.")
    halves = [None] * len(entries) if plus_minus is None else plus_minus
    pairs = [(entry, half) for entry, half in zip(entries, halves, strict=True) if entry in inner or entry["count"]]
    shown, halves = [entry for entry, _ in pairs], [half for _, half in pairs]
    places = [_bin_place(entry, inner) for entry in shown]
    kept = [entry["count"] for entry in shown]
    colors = [SERIES[0] if entry in inner else SERIES[4] for entry in shown]
    lefts, widths = [left for left, _ in places], [width for _, width in places]
    axes.bar(lefts, heights(kept), widths, align="edge", color=colors, edgecolor="white", linewidth=0.8)
    middles = [left + width / 2 for left, width in places]
    draw_intervals(axes, middles, kept, *interval_ends(kept, halves))
    axes.set_xlim(min(lefts) - widths[0] * 0.2, max(left + width for left, width in places) + widths[-1] * 0.2)
    for (left, width), count in zip(places, kept, strict=True):
        if not is_number(count):
            mark_missing(axes, count, left + width / 2, width)
    _label_bins(axes, inner, shown, places)
    leave_room(axes, {"count": kept})


def _bin_place(entry: Mapping[str, Any], inner: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Left end and width; half a bin away from the others for what lies beyond the ends."""
    if entry["from"] is None:
        width = inner[0]["to"] - inner[0]["from"]
        return entry["to"] - 1.5 * width, width
    if entry["to"] is None:
        width = inner[-1]["to"] - inner[-1]["from"]
        return entry["from"] + 0.5 * width, width
    return entry["from"], entry["to"] - entry["from"]


_MAX_EDGES = 11


def _label_bins(
    axes: Axes, inner: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]], places: Sequence[Any]
) -> None:
    """Ticks at the bins' ends, and words below what lies beyond them."""
    edges = [entry["from"] for entry in inner] + [inner[-1]["to"]]
    step = -(-len(edges) // _MAX_EDGES)
    ticks = {edge: f"{edge:g}" for edge in edges[::step]}
    for entry, (left, width) in zip(shown, places, strict=True):
        if entry["from"] is None:
            ticks[left + width / 2] = f"below\n{entry['to']:g}"
        elif entry["to"] is None:
            ticks[left + width / 2] = f"above\n{entry['from']:g}"
    axes.set_xticks(list(ticks), list(ticks.values()))
