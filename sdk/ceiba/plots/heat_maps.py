"""Tables with their values printed on colours."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ceiba.plots.style import (
    GREY,
    HATCH,
    INK,
    LETTERS,
    SMALL,
    heights,
    is_number,
    new_figure,
    number_text,
    require_drawable,
    require_same_length,
    tidy,
    words,
)
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SLANTED_FROM = 12
"""Longer words in columns' titles do not fit side by side, so all titles are slanted."""


def heat_map(
    row_labels: Sequence[object],
    column_labels: Sequence[object],
    matrix: Sequence[Sequence[Any]],
    *,
    plus_minus: Sequence[Sequence[Any]] | None = None,
    title: str = "",
    label: str = "",
    row_axis: str = "",
    column_axis: str = "",
) -> Figure:
    """A table with its values printed on colours: one hue, or two on both sides of 0 if values have both signs.

    `matrix`: [rows, columns] of numbers, None where there is nothing, and WITHHELD, which is hatched. `plus_minus`:
    halves of intervals, in the same form, printed too. Raises BadQuestion, MissingExtra.
    """
    figure = new_figure(*heat_map_size(row_labels, column_labels))
    draw_heat_map(figure.subplots(), row_labels, column_labels, matrix, plus_minus, label)
    tidy(figure.axes[0], title=title, x=column_axis, y=row_axis, grid=None)
    return figure


def heat_map_size(row_labels: Sequence[object], column_labels: Sequence[object]) -> tuple[float, float]:
    """Width and height, in inches, that leave the cells room for their numbers."""
    names, titles = (max((len(words(one)) for one in labels), default=0) for labels in (row_labels, column_labels))
    width = 1.5 + names / LETTERS + 0.95 * len(column_labels)
    slanted = 0.65 * titles / LETTERS if _longest_word(column_labels) > SLANTED_FROM else 0
    height = 1.4 + 0.5 * len(row_labels) + slanted
    return min(16.0, max(4.5, width)), min(14.0, max(2.6, height))


def _longest_word(labels: Sequence[object]) -> int:
    """In characters; words are what lines are made of."""
    return max((len(word) for label in labels for word in words(label).split()), default=0)


def draw_heat_map(
    axes: Axes,
    row_labels: Sequence[object],
    column_labels: Sequence[object],
    matrix: Sequence[Sequence[Any]],
    plus_minus: Sequence[Sequence[Any]] | None = None,
    label: str = "",
) -> None:
    """The cells of `heat_map`, on axes that exist, with `label` beside them. Raises BadQuestion."""
    for table in (matrix, plus_minus):
        if table is not None:
            require_same_length(row_labels=row_labels, rows=table)
            for row in table:
                require_same_length(column_labels=column_labels, columns=row)
    require_drawable({"matrix": [value for row in matrix for value in row]})
    colors = _colored(axes, matrix)
    axes.text(1.02, 0.5, words(label), transform=axes.transAxes, rotation=270, va="center", color=INK)
    for y, values in enumerate(matrix):
        for x, value in enumerate(values):
            half = None if plus_minus is None else plus_minus[y][x]
            _print_cell(axes, x, y, value, half, colors)
    axes.set_ylim(len(row_labels), 0)
    axes.set_yticks([row + 0.5 for row in range(len(row_labels))], [words(one) for one in row_labels])
    texts = ["\n".join(wrap(words(one), SLANTED_FROM, break_long_words=False)) for one in column_labels]
    is_long = _longest_word(column_labels) > SLANTED_FROM
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks([column + 0.5 for column in range(len(texts))], texts, **slant)


def _colored(axes: Axes, matrix: Sequence[Sequence[Any]]) -> Any:
    """Draws the coloured cells; gives what maps a value to its colour, None if no value is there."""
    import numpy as np

    cells = np.ma.masked_invalid([heights(row) for row in matrix])
    if cells.count() == 0:
        axes.set_xlim(0, cells.shape[1])
        return None
    low, high = float(cells.min()), float(cells.max())
    reach = max(-low, high)
    signed = low < 0 < high
    limits = (-reach, reach) if signed else (low - (high - low) * 0.1, high) if high > low else (low - 1, high + 1)
    return axes.pcolormesh(
        cells, cmap="PuOr" if signed else "Blues", vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=1.5
    )


def _print_cell(axes: Axes, column: int, row: int, value: Any, half: Any, colors: Any) -> None:
    from matplotlib.patches import Rectangle

    color, size = GREY, SMALL
    if value is WITHHELD:
        axes.add_patch(Rectangle((column, row), 1, 1, hatch=HATCH, facecolor="white", edgecolor="#BBBBBB"))
        text = str(WITHHELD)
    elif value is None:
        text = "–"
    else:
        text = number_text(value) + (f"\n±\N{NO-BREAK SPACE}{number_text(half)}" if is_number(half) else "")
        color, size = _ink_on(colors.cmap(colors.norm(value))), 9
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if value is WITHHELD else None
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=color, bbox=box)


def _ink_on(color: tuple[float, float, float, float]) -> str:
    """Dark text on light colours, white on dark ones: relative luminance and contrast of WCAG 2.2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.2 else INK
