"""Years, quarters and months of a bounded date: the bounds say which there can be, so they are public."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal

from ceiba.terms import Term, col, joined
from ceiba_protocol.errors import UnboundedColumn, WrongType
from ceiba_protocol.schema import EPOCH, MICROSECONDS_PER_DAY, Column, ColumnType

MAX_SPANS = 1_200
"""Months of a century."""
MONTHS = {"year": 12, "quarter": 3, "month": 1}
"""Parts of a date by name, with how many months one lasts."""
Part = Literal["year", "quarter", "month"]


def parts_of(column: Column, part: str) -> list[tuple[Term, int]] | None:
    """The conditions that the part is 1, 2, and so on, with those numbers; None if there are too many.

    Raises WrongType for other columns than dates, UnboundedColumn.
    """
    if column.type not in (ColumnType.DATE, ColumnType.TIMESTAMP):
        raise WrongType(operation=part.upper(), given=column.type, hint="Use a date or timestamp column.")
    if column.range is None:
        raise UnboundedColumn(column=column.name)
    low, high = (_day(column, bound) for bound in column.range)
    months = MONTHS[part]
    first, last = (_months(day) // months for day in (low, high))
    if last - first >= MAX_SPANS:
        return None
    spans: dict[int, list[Term]] = {}
    for span in range(first, last + 1):
        number = span if part == "year" else span % (12 // months) + 1
        spans.setdefault(number, []).append(_within(column.name, span * months, months, last=span == last))
    return [(joined("or", found) if len(found) > 1 else found[0], number) for number, found in sorted(spans.items())]


def _within(name: str, first: int, months: int, *, last: bool) -> Term:
    """From the first day of a month on, for some months; the last span needs no end."""
    begun = col(name) >= _first_day(first)
    return begun if last else begun & (col(name) < _first_day(first + months))


def _day(column: Column, code: int) -> date:
    return EPOCH + timedelta(days=code if column.type is ColumnType.DATE else code // MICROSECONDS_PER_DAY)


def _months(day: date) -> int:
    return day.year * 12 + day.month - 1


def _first_day(months: int) -> date:
    return date(months // 12, months % 12 + 1, 1)
