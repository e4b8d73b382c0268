"""How an outcome's tables are written: about five significant digits, p-values, facts in two columns.

Only what is shown is rounded; `to_dict` and `to_pandas` have every digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from math import isfinite
from typing import TYPE_CHECKING, Any

from ceiba.display import aligned, cell, html_cells, is_numeric, width_of
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FACTS = ("", "value")
"""The columns of a table of facts, such as n and the log-likelihood."""
SHOWN_ROWS = 100
DIGITS = 5
SMALLEST_P = 0.001
LARGEST_PLAIN, SMALLEST_PLAIN = 1e9, 1e-4
"""Numbers beyond have an exponent."""


class Summarised:
    """Something that is shown as tables: in a terminal, in a notebook, as a data frame."""

    title = "Outcome"

    def parts(self) -> Sequence[TablePart]:
        """The summary's tables; the first is the main one."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What a reader should know beside the tables."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """The tables by title, each a list of dictionaries; plain values, fit for JSON."""
        return {
            part.title: [dict(zip(part.columns, row, strict=True)) for row in part.plain()] for part in self.parts()
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The main table as a data frame."""
        import pandas

        main = self.parts()[0]
        return pandas.DataFrame(main.plain(), columns=list(main.columns))

    def plot(self, **options: Any) -> Figure:
        """A figure of it (`ceiba.plots`). Raises MissingExtra without matplotlib."""
        raise BadQuestion(problem=f"there is no picture of {self.title}", hint="Read its summary().")

    def summary(self) -> str:
        """The facts and tables as text, with about five significant digits."""
        return text_summary(self.title, self.parts(), self._all_notes())

    def _all_notes(self) -> list[str]:
        return self.notes()

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return html_summary(self.title, self.parts(), self._all_notes())


@dataclass(frozen=True)
class TablePart:
    """One table of an outcome's summary. A column called "p" or "P>|t|", and a fact called so, has p-values."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    @classmethod
    def of_facts(cls, title: str, facts: Sequence[tuple[str, Any]]) -> TablePart:
        """Names and values, which a summary has at its top."""
        return cls(title, FACTS, facts)

    @property
    def is_facts(self) -> bool:
        return self.columns == FACTS

    def plain(self) -> list[tuple[Any, ...]]:
        """The rows with None for what was withheld."""
        return [tuple(None if value is WITHHELD else value for value in row) for row in self.rows]

    def texts(self) -> list[list[str]]:
        """The entries as they are shown, row by row."""
        if self.is_facts:
            return [[cell(name), entry_text(value, name)] for name, value in self.rows]
        return [
            [entry_text(value, title) for value, title in zip(row, self.columns, strict=True)]
            for row in self.rows[:SHOWN_ROWS]
        ]

    def lines(self) -> list[str]:
        """For a terminal: numbers one below the other at their decimal points."""
        if self.is_facts:
            return _two_columns(self.texts())
        shown = self.rows[:SHOWN_ROWS]
        numeric = [is_numeric([row[place] for row in shown]) for place in range(len(self.columns))]
        columns = [list(column) for column in zip(*self.texts(), strict=True)] or [[] for _ in numeric]
        placed = [_at_points(column) if right else column for column, right in zip(columns, numeric, strict=True)]
        body = [list(row) for row in zip(*placed, strict=True)]
        return [*aligned(list(map(cell, self.columns)), body, numeric), *self._left_out()]

    def html(self) -> str:
        """A `<table>` with its title as caption."""
        head = [] if self.is_facts else list(map(cell, self.columns))
        return html_cells(head, self.texts(), " ".join([self.title, *self._left_out()]))

    def _left_out(self) -> list[str]:
        hidden = 0 if self.is_facts else len(self.rows) - SHOWN_ROWS
        return [f"... and {hidden} more rows: to_dict() has them"] if hidden > 0 else []


def entry_text(value: Any, title: str = "") -> str:
    """One entry: `-` for what is not there, p-values by their title, whole numbers without a point."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return p_text(value) if title == "p" or title.startswith(("p (", "P>|")) else number_text(value)
    return cell(value)


def p_text(p: float) -> str:
    """`<0.001`, or four decimals."""
    return f"<{SMALLEST_P}" if p < SMALLEST_P else f"{p:.4f}"


def number_text(value: float) -> str:
    """Five significant digits, fewer where these are all, and all digits of a whole number: 0.034560, 0.25, 250000."""
    size = abs(value)
    if not isfinite(value):
        return str(value)
    if value == int(value) and size < LARGEST_PLAIN:
        return str(int(value))
    if float(short := f"{value:.{DIGITS}g}") == value and "e" not in short:
        return short
    if not SMALLEST_PLAIN <= size < LARGEST_PLAIN:
        return f"{value:.{DIGITS - 1}e}"
    return f"{value:.0f}" if size >= 10**DIGITS else f"{value:#.{DIGITS}g}".removesuffix(".")


def text_summary(title: str, parts: Sequence[TablePart], notes: Sequence[str]) -> str:
    """The title, the facts, the tables, the notes."""
    blocks = [part.lines() for part in parts if part.is_facts]
    blocks += [[*([part.title] if part.title != title else []), *part.lines()] for part in parts if not part.is_facts]
    blocks += [list(notes)] if notes else []
    widest = max((width_of(line) for block in blocks for line in block), default=len(title))
    ruler = "=" * max(len(title), min(widest, 79))
    return "\n".join([title, ruler, *"\n\n".join("\n".join(block) for block in blocks).split("\n")])


def html_summary(title: str, parts: Sequence[TablePart], notes: Sequence[str]) -> str:
    """The same for a notebook: a heading, tables, and the notes as a list; every text is escaped."""
    ordered = sorted(parts, key=lambda part: not part.is_facts)
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    tables = "".join(part.html() for part in ordered)
    return f"<h4>{escape(title)}</h4>{tables}" + (f"<ul>{listed}</ul>" if listed else "")


def _at_points(texts: Sequence[str]) -> list[str]:
    """With spaces behind numbers, so that texts that end at one place have their points at one place."""
    behind = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    most = max(behind, default=0)
    return [text + " " * (most - own) if text[-1:].isdigit() else text for text, own in zip(texts, behind, strict=True)]


def _two_columns(facts: Sequence[Sequence[str]]) -> list[str]:
    half = (len(facts) + 1) // 2
    sides = [_facts_side(facts[:half]), _facts_side(facts[half:])]
    return ["    ".join(filter(None, pair)) for pair in zip_longest(*sides)]


def _facts_side(facts: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, values to the right."""
    names, values = (max(map(width_of, column)) for column in zip(*facts, strict=True)) if facts else (0, 0)
    return [name + " " * (names + values + 2 - width_of(name) - width_of(value)) + value for name, value in facts]
