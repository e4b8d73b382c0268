"""What all figures share: size, colours, axes without ornament, words, and the marks of what is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from ceiba.display import cell
from ceiba.extras import PLOT
from ceiba_protocol.errors import BadQuestion, MissingExtra
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000")
"""Okabe and Ito (2008), Color Universal Design, without its yellow, which white paper swallows."""
LINE_STYLES = ("-", "--", "-.", ":")
INK, GREY, LIGHT = "#222222", "#6B6B6B", "#DDDDDD"
"""Text and intervals; what is not there, 5:1 on white; grid lines."""
HATCH = "////"
WITHHELD_HEIGHT = 0.1
"""Of what was withheld, as a share of the axes' height: it says nothing of the value."""
ROOM = 0.6
"""Inches that the word "withheld" takes."""
LETTERS = 12
"""To an inch, of a label."""
SMALL = 8
"""Points, of notes inside a figure."""


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty figure, in inches. Raises MissingExtra without matplotlib."""
    try:
        from ceiba.plots.picture import Picture
    except ImportError:
        raise MissingExtra(feature="Drawing a figure", package=PLOT) from None
    return Picture(figsize=(width, height), layout="constrained")


Grid = Literal["x", "y", "both"] | None
"""The axes whose ticks have grid lines."""


def tidy(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: Grid = "y") -> None:
    """Titles and labels in words, a light grid behind the data, no box."""
    wide, high = size_of(axes)
    axes.set_title(_wrapped(title, wide * 0.9), loc="left", fontsize=11, color=INK)
    axes.set_xlabel(_wrapped(x, wide), color=INK)
    axes.set_ylabel(_wrapped(y, high), color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=3)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=LIGHT, linewidth=0.8)


def size_of(axes: Axes) -> tuple[float, float]:
    """About how wide and high axes are, in inches, before they are laid out."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    place = axes.get_position()
    return float(width * place.width), float(height * place.height)


def _wrapped(text: str, inches: float) -> str:
    """A title on as many lines as it needs."""
    return "\n".join(wrap(words(text), max(16, round(inches * LETTERS))))


def words(value: object) -> str:
    """A label as it is: matplotlib would read what stands between two dollars as a formula."""
    return cell(value).replace("$", r"\$")


def number_text(value: float) -> str:
    """Whole numbers in full, with thousands apart; others to four significant digits."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def is_number(value: object) -> bool:
    """Whether it can be drawn at its height."""
    return isinstance(value, int | float) and isfinite(value)


def heights(values: Sequence[Any]) -> list[float]:
    """Numbers as floats, NaN for what cannot be drawn."""
    return [float(value) if is_number(value) else nan for value in values]


def mark_missing(axes: Axes, value: object, x: float, width: float, color: str = GREY) -> None:
    """What stands for a value that is no number, over `width` around `x`: hatched and "withheld", or "NULL".

    `color` is the hatching's. The axes' x limits must be final: the word lies where it has room, and stands elsewhere.
    """
    from matplotlib.patches import Rectangle

    down = axes.get_xaxis_transform()  # x in data, y from 0 to 1 over the axes
    is_withheld = value is WITHHELD
    if is_withheld:
        place = (x - width / 2, 0)
        axes.add_patch(
            Rectangle(place, width, WITHHELD_HEIGHT, transform=down, hatch=HATCH, facecolor="white", edgecolor=color)
        )
    text, above = (str(WITHHELD), WITHHELD_HEIGHT) if is_withheld else ("NULL", 0.0)
    low, high = axes.get_xlim()
    is_wide = width / (high - low) * size_of(axes)[0] > ROOM
    look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": SMALL, "color": GREY}
    axes.text(x, above + 0.015, text, transform=down, rotation=0 if is_wide else 90, **look)


def errors_around(values: Sequence[Any], lower: Sequence[Any], upper: Sequence[Any]) -> list[list[float]]:
    """The lengths of error bars down and up, [2, values]; NaN where there is no interval."""
    ends = zip(heights(values), heights(lower), heights(upper), strict=True)
    pairs = [(value - low, high - value) for value, low, high in ends]
    return [[down for down, _ in pairs], [up for _, up in pairs]]


def draw_intervals(
    axes: Axes, xs: Sequence[Any], values: Sequence[Any], lower: Sequence[Any] | None, upper: Sequence[Any] | None
) -> None:
    """Error bars, where there are ends."""
    if lower is not None and upper is not None:
        ends = errors_around(values, lower, upper)
        axes.errorbar(xs, heights(values), yerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=3)


def leave_room(axes: Axes, series: Mapping[str, Sequence[Any]]) -> None:
    """Nothing released: no scale to read. Only zeros: a scale that does not invent small numbers."""
    shown = [value for values in series.values() for value in values if is_number(value)]
    if not shown:
        axes.set_ylim(0, 1)
        axes.set_yticks([])
    elif not any(shown) and axes.get_ylim()[1] < 1:
        axes.set_ylim(0, 1)


def interval_ends(values: Sequence[Any], halves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Lower and upper ends from halves of intervals; None where there is none."""
    pairs = list(zip(values, halves, strict=True))
    known = [is_number(value) and is_number(half) for value, half in pairs]
    lower = [value - half if there else None for (value, half), there in zip(pairs, known, strict=True)]
    upper = [value + half if there else None for (value, half), there in zip(pairs, known, strict=True)]
    return lower, upper


def require_same_length(**columns: Sequence[Any] | None) -> None:
    """All that are given have as many entries as the first, at least one. Raises BadQuestion."""
    given = {name: len(column) for name, column in columns.items() if column is not None}
    first, entries = next(iter(given.items()))
    if entries == 0:
        raise BadQuestion(problem=f"there is nothing to draw: {first} is empty", hint="Draw something with rows.")
    for name, length in given.items():
        if length != entries:
            problem = f"{first} has {entries} entries, {name} has {length}"
            raise BadQuestion(problem=problem, hint="Give both the same number of entries.")


def require_drawable(values: Mapping[str, Sequence[Any]]) -> None:
    """Numbers, None and WITHHELD; all infinite or NaN is a mistake. Raises BadQuestion."""
    for name, column in values.items():
        for value in column:
            if value is not None and value is not WITHHELD and not is_number(value):
                problem = f"{name} has a {type(value).__name__} that is no finite number"
                raise BadQuestion(problem=problem, hint="Give numbers; None for NULL, ceiba.WITHHELD for withheld.")
