"""What happens to released rows at the merchant's: HAVING, ORDER BY, LIMIT. It is never sent, and costs no budget.

Conditions are the protocol's expressions, here over the names of a result's columns, evaluated on finished values with
SQL's NULL: a condition that is NULL keeps no row, and NULL is sorted last unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from operator import add, eq, ge, gt, le, lt, mul, ne, sub, truediv
from typing import Any, NamedTuple

from ceiba_protocol.errors import WrongType
from ceiba_protocol.expression import (
    Arithmetic,
    Case,
    ColumnValue,
    Comparing,
    Expression,
    Logic,
    Missing,
    Not,
    Number,
    Part,
    Round,
    SubjectCount,
    TextValue,
    TruthValue,
    columns_of,
)
from ceiba_protocol.plan import Plan
from ceiba_protocol.program import Comparison, round_half_away
from ceiba_protocol.statistics import WITHHELD

Value = Any
"""A finished value: int, float, bool, str, date, None, or a small table (which no condition can compare)."""
Row = Mapping[str, Value]


class Shown(NamedTuple):
    """What a column of the result is computed from, in most cases one of the plan's columns, and its title."""

    expression: Expression
    title: str

    @classmethod
    def plain(cls, name: str, title: str) -> Shown:
        """One of the plan's columns as it is."""
        return cls(ColumnValue(name=name), title)

    @property
    def reads(self) -> frozenset[str]:
        """The plan's columns that it depends on."""
        return columns_of(self.expression)

    @property
    def is_plain(self) -> bool:
        return isinstance(self.expression, ColumnValue)

    def value(self, row: Row) -> Value:
        """WITHHELD if anything that it is computed from was withheld. Raises WrongType."""
        if isinstance(self.expression, ColumnValue):
            return row[self.expression.name]
        return WITHHELD if any(row[name] is WITHHELD for name in self.reads) else evaluate(self.expression, row)


@dataclass(frozen=True)
class Order:
    by: Expression
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True)
class Presentation:
    """Which columns are shown, which rows are kept, in which order. Titles differ from one another."""

    shown: tuple[Shown, ...]
    having: Expression | None = None
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    numeric: frozenset[str] = frozenset()
    """The plan's groups whose labels are whole numbers, such as years."""
    sets: tuple[frozenset[str], ...] = ()
    """Grouping sets: the groups that rows are about, the others being summed over; empty: all groups."""
    marks: tuple[tuple[str, str], ...] = ()
    """Groups, and the names under which a row has 1 if it is a total over the group, or else 0."""

    @classmethod
    def of(cls, plan: Plan) -> Presentation:
        """Everything that the plan asks for, under its own names."""
        return cls(tuple(Shown.plain(part.name, part.name) for part in (*plan.groups, *plan.outputs)))

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(column.title for column in self.shown)

    def apply(self, rows: Sequence[Row]) -> list[tuple[Value, ...]]:
        """The rows to show. Raises WrongType."""
        return [self.show(rows[place]) for place in self.choose(rows)]

    def choose(self, rows: Sequence[Row]) -> list[int]:
        """The places of the rows to show, in the order of SQL: HAVING, ORDER BY, OFFSET, LIMIT. Raises WrongType."""
        rows = [self._with_titles(row) for row in rows]
        kept = [
            place for place, row in enumerate(rows) if self.having is None or _truth(evaluate(self.having, row)) is True
        ]
        for order in reversed(self.order):
            kept = _ordered(kept, rows, order)
        end = None if self.limit is None else self.offset + self.limit
        return kept[self.offset : end]

    def _with_titles(self, row: Row) -> Row:
        """A row by the plan's names, and by titles that are none of those."""
        return {column.title: column.value(row) for column in self.shown} | dict(row)

    def show(self, row: Row) -> tuple[Value, ...]:
        """What of a row is shown."""
        return tuple(column.value(row) for column in self.shown)


def _ordered(places: list[int], rows: Sequence[Row], order: Order) -> list[int]:
    """A stable sort by one key, so that keys can be applied from the last to the first."""
    keyed = [(evaluate(order.by, rows[place]), place) for place in places]
    for value, _ in keyed:
        _require_comparable(value)
    nulls = [place for value, place in keyed if value is None]
    present = [pair for pair in keyed if pair[0] is not None]
    present.sort(key=lambda pair: pair[0], reverse=order.descending)
    values = [place for _, place in present]
    return nulls + values if order.nulls_first else values + nulls


def evaluate(expression: Expression, row: Row) -> Value:
    """The value of an expression over one finished row; None is SQL's NULL, and what was withheld counts as NULL.

    Raises WrongType.
    """
    match expression:
        case ColumnValue(name=name):
            return None if row[name] is WITHHELD else row[name]
        case Number(value=value):
            exact = Fraction(value)
            return exact.numerator if exact.denominator == 1 else float(exact)
        case TextValue(value=value) | TruthValue(value=value):
            return value
        case Arithmetic():
            return _arithmetic(expression.op, evaluate(expression.left, row), evaluate(expression.right, row))
        case Round(value=inner, digits=digits):
            return _rounded(evaluate(inner, row), digits)
        case Case(branches=branches, otherwise=otherwise):
            taken = (branch.then for branch in branches if evaluate(branch.when, row) is True)
            value_of = next(taken, otherwise)
            return None if value_of is None else evaluate(value_of, row)
        case Comparing():
            return _compared(expression.comparison, evaluate(expression.left, row), evaluate(expression.right, row))
        case Logic(op=op, terms=terms):
            return _decided(op == "or", [_truth(evaluate(term, row)) for term in terms])
        case Not(term=term):
            truth = _truth(evaluate(term, row))
            return None if truth is None else not truth
        case Missing(value=inner):
            return evaluate(inner, row) is None
        case SubjectCount():
            hint = "Ask for it as a statistic, and use its name."
            raise WrongType(operation="HAVING or ORDER BY", given="a number of subjects", hint=hint)
        case Part():
            hint = "Group by it, and use the group's name."
            raise WrongType(operation="HAVING or ORDER BY", given="a part of a split", hint=hint)


def is_smooth(expression: Expression) -> bool:
    """Whether it is arithmetic alone, so that a small change of what it reads changes it a little."""
    match expression:
        case ColumnValue() | Number():
            return True
        case Arithmetic(left=left, right=right):
            return is_smooth(left) and is_smooth(right)
        case Round(value=inner):
            return is_smooth(inner)
    return False


def _decided(decisive: bool, truths: list[bool | None]) -> bool | None:
    """AND (decisive False) and OR (decisive True) of three-valued truths."""
    if decisive in truths:
        return decisive
    return None if None in truths else not decisive


def _truth(value: Value) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise WrongType(operation="A condition", given=_kind(value), hint="Compare it with something.")


_COMPARE: dict[Comparison, Callable[[Any, Any], bool]] = {
    Comparison.EQUAL: eq,
    Comparison.NOT_EQUAL: ne,
    Comparison.LESS: lt,
    Comparison.LESS_OR_EQUAL: le,
    Comparison.GREATER: gt,
    Comparison.GREATER_OR_EQUAL: ge,
}


def _compared(comparison: Comparison, left: Value, right: Value) -> bool | None:
    if left is None or right is None:
        return None
    left, right = _read_date(left, right), _read_date(right, left)
    _require_comparable(left)
    if _kind(left) != _kind(right):
        given = f"{_kind(left)} and {_kind(right)}"
        raise WrongType(operation="A comparison", given=given, hint="Compare values of the same kind.")
    return _COMPARE[comparison](left, right)


def _read_date(value: Value, beside: Value) -> Value:
    """A text beside a date is a date."""
    if not isinstance(value, str) or not isinstance(beside, date):
        return value
    try:
        return type(beside).fromisoformat(value)
    except ValueError:
        hint = "Write dates as '2026-01-31', times as '2026-01-31T12:00'."
        raise WrongType(operation="A comparison", given="a date and another text", hint=hint) from None


def _kind(value: Value) -> str:
    match value:
        case bool() | int() | float():
            return "a number"
        case str():
            return "a text"
        case datetime():
            return "a timestamp"
        case date():
            return "a date"
        case _:
            return "a small table"


def _require_comparable(value: Value) -> None:
    if isinstance(value, list):
        hint = "Compare or sort by a single number."
        raise WrongType(operation="HAVING or ORDER BY", given=_kind(value), hint=hint)


def _require_number(value: Value) -> None:
    if value is not None and _kind(value) != "a number":
        raise WrongType(operation="Arithmetic", given=_kind(value), hint="Use a numeric column of the result.")


def _arithmetic(op: str, left: Value, right: Value) -> Value:
    """Integers stay exact, quotients are floats; dividing by 0 gives NULL, as does what is too large for a float."""
    _require_number(left)
    _require_number(right)
    if left is None or right is None:
        return None
    try:
        found = _OPERATIONS[op](left, right)
    except ArithmeticError:
        return None
    return found if isinstance(found, int) or isfinite(found) else None


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {"add": add, "subtract": sub, "multiply": mul, "divide": truediv}


def _rounded(value: Value, digits: int) -> Value:
    _require_number(value)
    if value is None or isinstance(value, int):
        return value
    exact = Fraction(Decimal(repr(value))) * 10**digits
    return round_half_away(exact.numerator, exact.denominator) / 10**digits
