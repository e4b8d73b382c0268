"""Small tables for people: aligned text for a terminal, plain semantic HTML for a notebook."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.trust.rendering import printable

if TYPE_CHECKING:
    import pandas

Entry = TypeVar("Entry")

MAX_ROWS = 30
"""Rows that a table shows before it says how many there are."""
MAX_WIDTH = 60
"""Characters of one cell."""


def cell(value: object) -> str:
    """One value in words: NULL for None, ten significant digits for floats, nothing that moves a cursor."""
    if value is None:
        return "NULL"
    text = format(value, ".10g") if isinstance(value, float) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    text = printable(text)
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


def text_table(headers: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str]) -> str:
    """Columns aligned, numbers to the right, with notes below.

    sex         n
    ------  -----
    female    201
    """
    shown = rows[:MAX_ROWS]
    body = [[cell(value) for value in row] for row in shown]
    to_right = [is_numeric([row[place] for row in shown]) for place in range(len(headers))]
    return "\n".join([*aligned(list(map(cell, headers)), body, to_right), *_more(rows), *notes])


def aligned(titles: Sequence[str], body: Sequence[Sequence[str]], to_right: Sequence[bool]) -> list[str]:
    """The lines of a table of texts, each column at the right or left of its width."""
    widths = [max(map(width_of, column)) for column in zip(titles, *body, strict=True)]
    lines = [titles, ["-" * width for width in widths], *body]
    return ["  ".join(map(_pad, line, widths, to_right)).rstrip() for line in lines]


def html_table(headers: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str]) -> str:
    """A `<table>` with its notes as caption; every text is escaped."""
    body = [list(map(cell, row)) for row in rows[:MAX_ROWS]]
    return html_cells(list(map(cell, headers)), body, " ".join([*_more(rows), *notes]))


def html_cells(titles: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    """A `<table>` of texts, escaped; without titles it has no head."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    rows = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in body)
    opening = f"<table><caption>{escape(caption)}</caption>"
    return f"{opening}{f'<thead><tr>{head}</tr></thead>' if titles else ''}<tbody>{rows}</tbody></table>"


def _more(rows: Sequence[Sequence[object]]) -> list[str]:
    hidden = len(rows) - MAX_ROWS
    return [f"... and {hidden} more rows"] if hidden > 0 else []


def is_numeric(values: Sequence[object]) -> bool:
    numbers = [value for value in values if value is not None and value is not WITHHELD]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)


def width_of(text: str) -> int:
    """Places on a terminal: two for a Chinese character, none for a combining mark."""
    return sum(0 if unicodedata.combining(s) else 1 + (unicodedata.east_asian_width(s) in "WF") for s in text)


def _pad(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if to_right else text + space


class Listing(ABC, Generic[Entry]):
    """Entries that show themselves as a table, one row each."""

    noun: str
    """What the entries are, in the plural."""

    def __init__(self, entries: Sequence[Entry], notes: Sequence[str] = ()) -> None:
        self.entries = list(entries)
        self.notes = list(notes)

    @abstractmethod
    def facts(self, entry: Entry) -> dict[str, Any]:
        """An entry's row, by column."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dicts(self) -> list[dict[str, Any]]:
        return [self.facts(entry) for entry in self.entries]

    def to_pandas(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(self.to_dicts())

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]], list[str]]:
        facts = self.to_dicts()
        columns = tuple(facts[0]) if facts else (self.noun,)
        return columns, [tuple(row.values()) for row in facts], [f"{self.noun}: {len(facts)}", *self.notes]

    def __repr__(self) -> str:
        return text_table(*self._cells())

    def _repr_html_(self) -> str:
        return html_table(*self._cells())
