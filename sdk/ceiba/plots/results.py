"""Which figure suits a result: `Result.plot()`.

no group                bars of the outputs; a histogram, where an output is one
one key                 bars; a line with its intervals, where the key is a date
two keys                a heat map; a line for each group, where one of them is a date
several outputs         one panel each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ceiba.display import cell
from ceiba.plots.heat_maps import draw_heat_map, heat_map_size
from ceiba.plots.histograms import draw_histogram
from ceiba.plots.style import SERIES, Grid, interval_ends, new_figure, tidy, words
from ceiba.plots.tables import draw_bars, draw_line
from ceiba_protocol.errors import BadQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ceiba.result import Result

MAX_PANELS = 24
MAX_ROW_WIDTH = 14.0
"""Inches."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what draws on it, and its words."""

    draw: Callable[[Axes], None]
    title: str
    x: str = ""
    y: str = ""
    grid: Grid = "y"
    size: tuple[float, float] = (7.0, 4.2)
    """Inches, when it stands alone."""


@dataclass(frozen=True)
class Table:
    """A result by columns, with the halves of its intervals."""

    result: Result
    keys: Sequence[str]

    def label(self, name: str) -> str:
        return self.result.labels.get(name, name)

    def halves(self, name: str) -> list[Any]:
        """None where a value has no interval."""
        place = self.result.columns.index(name)
        return [row[place] for row in self.result.plus_minus] or [None] * len(self.result)

    def title(self, name: str) -> str:
        return f"{name} by {' and '.join(self.keys)}" if self.keys else name


def plot_result(result: Result, columns: Sequence[str], title: str) -> Figure:
    """Raises BadQuestion where nothing can be drawn: no rows, one single number, rows that do not say what they are
    about, more than two keys or too many panels; MissingExtra."""
    outputs = columns or [name for name in result.columns if name not in result.groups]
    _require_outputs(result, outputs)
    table = Table(result, result.groups)
    numbers = [name for name in outputs if not _is_small_table(result[name])]
    histograms = [panel for name in outputs if name not in numbers for panel in _histograms(table, name)]
    panels = _panels_of_numbers(table, numbers, is_alone=not histograms) if numbers else []
    return _arranged([*panels, *histograms], title)


def _require_outputs(result: Result, outputs: Sequence[str]) -> None:
    for name in outputs:
        if name in result.groups:
            problem = f"{name} says what a row is about, it is not a value"
            raise BadQuestion(problem=problem, hint="Name the columns of values, or none for all.")
        result[name]  # names the nearest column, if there is none of this name
    if not len(result) or not outputs:
        raise BadQuestion(problem="there is nothing to draw: the result is empty", hint="Ask for coarser groups.")
    about = {tuple(row[result.columns.index(key)] for key in result.groups) for row in result}
    if len(about) < len(result):
        hint = "Show every grouping key: in SQL, SELECT the keys of GROUP BY as well."
        raise BadQuestion(problem="the rows do not say what each of them is about", hint=hint)
    if len(result.groups) > 2:
        hint = "Group by one or two keys, or keep some rows with having()."
        raise BadQuestion(problem=f"a figure has no room for {len(result.groups)} grouping keys", hint=hint)


def _is_small_table(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def _is_calendar(values: Sequence[Any]) -> bool:
    """Dates, and perhaps NULL."""
    kinds = {isinstance(value, date) for value in values if value is not None}
    return kinds == {True}


# --- which panels -----------------------------------------------------------------------------------------------


def _panels_of_numbers(table: Table, names: Sequence[str], is_alone: bool) -> list[Panel]:
    match len(table.keys):
        case 0:
            if len(names) == 1 and is_alone:
                problem = f"there is nothing to draw: {names[0]} is one single value"
                raise BadQuestion(problem=problem, hint="Read result.value, or ask for groups.")
            return [_outputs_side_by_side(table, names)]
        case 1:
            draw = _line if _is_calendar(table.result[table.keys[0]]) else _bars
            return [draw(table, name) for name in names]
        case _:
            return [_of_two_keys(table, name) for name in names]


def _histograms(table: Table, name: str) -> list[Panel]:
    """One panel for each row."""
    panels = []
    for row, (entries, halves) in enumerate(zip(table.result[name], table.halves(name), strict=True)):
        about = ", ".join(cell(table.result[key][row]) for key in table.keys)
        panels.append(_histogram(table, name, f"{name}, {about}" if about else name, entries, halves))
    return panels


def _histogram(table: Table, name: str, title: str, entries: Any, halves: Any) -> Panel:
    if not isinstance(entries, list):  # withheld as a whole
        return Panel(lambda axes: draw_bars(axes, [""], {name: [entries]}, {}, {}), title, x=table.label(name))
    return Panel(lambda axes: draw_histogram(axes, entries, halves), title, x=table.label(name), y="rows")


def _outputs_side_by_side(table: Table, names: Sequence[str]) -> Panel:
    values = [table.result[name][0] for name in names]
    lower, upper = interval_ends(values, [table.halves(name)[0] for name in names])
    return Panel(lambda axes: draw_bars(axes, names, {"": values}, {"": lower}, {"": upper}), "", y="value")


def _bars(table: Table, name: str) -> Panel:
    key = table.keys[0]
    labels, values = table.result[key], table.result[name]
    lower, upper = interval_ends(values, table.halves(name))
    return Panel(
        lambda axes: draw_bars(axes, labels, {"": values}, {"": lower}, {"": upper}),
        table.title(name),
        x=table.label(key),
        y=table.label(name),
        size=(min(MAX_ROW_WIDTH, max(7.0, 0.4 * len(labels))), 4.2),
    )


def _line(table: Table, name: str) -> Panel:
    key = table.keys[0]
    return _lines(table, name, key, lambda row: "")


def _lines(table: Table, name: str, key: str, series_of: Callable[[int], str]) -> Panel:
    """A line for each series over the dates in `key`; rows whose date is NULL are counted below, not drawn."""
    dates, values, halves = table.result[key], table.result[name], table.halves(name)
    row_of = {(series_of(row), day): row for row, day in enumerate(dates) if day is not None}
    times = sorted({day for _, day in row_of})
    kinds = list(dict.fromkeys(kind for kind, _ in row_of))

    def over_time(column: Sequence[Any], kind: str) -> list[Any]:
        return [column[row_of[kind, time]] if (kind, time) in row_of else None for time in times]

    series = {kind: over_time(values, kind) for kind in kinds}
    ends = {kind: interval_ends(series[kind], over_time(halves, kind)) for kind in kinds}
    lower, upper = ({kind: ends[kind][side] for kind in kinds} for side in (0, 1))
    left_out = dates.count(None)
    note = f"; {left_out} without a date not drawn" if left_out else ""
    return Panel(
        lambda axes: draw_line(axes, times, series, lower, upper),
        table.title(name),
        x=table.label(key) + note,
        y=table.label(name),
    )


def _of_two_keys(table: Table, name: str) -> Panel:
    first, second = table.keys
    for key, other in ((first, second), (second, first)):
        others = table.result[other]
        if _is_calendar(table.result[key]) and not _is_calendar(others) and len(set(others)) <= len(SERIES):
            return _lines(table, name, key, lambda row, others=others: cell(others[row]))  # type: ignore[misc]
    return _heat_map(table, name)


def _heat_map(table: Table, name: str) -> Panel:
    first, second = table.keys
    rows, columns = (list(dict.fromkeys(table.result[key])) for key in table.keys)
    found = {pair: place for place, pair in enumerate(zip(table.result[first], table.result[second], strict=True))}

    def matrix(values: Sequence[Any]) -> list[list[Any]]:
        return [[values[found[row, column]] if (row, column) in found else None for column in columns] for row in rows]

    values, halves = matrix(table.result[name]), matrix(table.halves(name))
    return Panel(
        lambda axes: draw_heat_map(axes, rows, columns, values, halves, table.label(name)),
        table.title(name),
        x=table.label(second),
        y=table.label(first),
        grid=None,
        size=heat_map_size(rows, columns),
    )


# --- side by side -----------------------------------------------------------------------------------------------


def _arranged(panels: Sequence[Panel], title: str) -> Figure:
    """One panel alone, under `title` if it is given; several in rows of two."""
    if len(panels) > MAX_PANELS:
        hint = "Name the columns to draw, result.plot('n'), or keep some rows."
        raise BadQuestion(problem=f"a figure has no room for {len(panels)} panels", hint=hint)
    across = 1 if len(panels) == 1 else 2
    down = -(-len(panels) // across)
    width, height = max(panel.size[0] for panel in panels), max(panel.size[1] for panel in panels)
    shrink = 1.0 if across == 1 else 0.8
    figure = new_figure(min(16.0, width * across * shrink), height * down * shrink)
    grid = figure.subplots(down, across, squeeze=False)
    for place, panel in enumerate(panels):
        axes = grid.flat[place]
        panel.draw(axes)
        tidy(axes, title=title if title and across == 1 else panel.title, x=panel.x, y=panel.y, grid=panel.grid)
    for spare in grid.flat[len(panels) :]:
        spare.set_visible(False)
    if title and across > 1:
        figure.suptitle(words(title), x=0.01, ha="left", fontsize=12)
    return figure
