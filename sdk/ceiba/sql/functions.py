"""Functions that the closed algebra does not have: each is spelt out in CASE, comparisons and logic.

They mean the same on rows and on results. What they are made of is copied, so their size is watched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from ceiba.terms import Term, joined
from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import PlanTooLarge
from ceiba_protocol.expression import Number, TextValue, TruthValue

if TYPE_CHECKING:
    from ceiba.sql.expressions import Reader

MAX_PARTS = 20_000
"""Parts of one expression, after such functions were spelt out."""


def spelt_out(reader: Reader, node: exp.Anonymous) -> Term | None:
    """The call in CASE and comparisons; None for any other function. Raises BadSQL and PlanTooLarge."""
    name = node.name.upper()
    if name not in _FUNCTIONS:
        return None
    fewest, most, spell = _FUNCTIONS[name]
    if not fewest <= len(node.expressions) <= most:
        reader.source.bad(node, f"{name} takes {fewest if fewest == most else f'{fewest} or more'} values")
    made = spell([reader.term(part) for part in node.expressions])
    _require_small(made)
    branches, otherwise = made
    return reader.chosen(node, list(branches), otherwise) if branches else otherwise


_Branches = tuple[list[tuple[Term, Term]], Term | None]
"""Those of a CASE, and what it is otherwise; None for NULL."""


def _coalesce(terms: list[Term]) -> _Branches:
    end = next((place for place, term in enumerate(terms) if is_literal(term)), len(terms) - 1)
    return [(term.notnull(), term) for term in terms[:end]], terms[end]


def _nullif(terms: list[Term]) -> _Branches:
    value, other = terms
    differs = value != other
    return [(differs if is_literal(other) else differs | other.isnull(), value)], None


def _absolute(terms: list[Term]) -> _Branches:
    (value,) = terms
    return [(value < 0, -value)], value


def _extreme(is_first: Callable[[Term, Term], Term]) -> Callable[[list[Term]], _Branches]:
    """The value that no other precedes. As in DuckDB and PostgreSQL, NULL only if all are."""

    def branches(terms: list[Term]) -> _Branches:
        *others, last = terms
        return [(_leads(value, place, terms, is_first), value) for place, value in enumerate(others)], last

    return branches


def _leads(value: Term, place: int, terms: list[Term], is_first: Callable[[Term, Term], Term]) -> Term:
    """Whether the value is at least as far as each other, or the other is NULL."""
    others = [other for number, other in enumerate(terms) if number != place]
    tests = [
        is_first(value, other) if is_literal(other) else is_first(value, other) | other.isnull() for other in others
    ]
    return joined("and", [*([] if is_literal(value) else [value.notnull()]), *tests])


def is_literal(term: Term) -> bool:
    """Whether it is written out, and so never NULL."""
    return isinstance(term.expression, Number | TextValue | TruthValue)


_MANY = 100
_FUNCTIONS: dict[str, tuple[int, int, Callable[[list[Term]], _Branches]]] = {
    "ABS": (1, 1, _absolute),
    "COALESCE": (2, _MANY, _coalesce),
    "IFNULL": (2, 2, _coalesce),
    "NULLIF": (2, 2, _nullif),
    "GREATEST": (2, _MANY, _extreme(lambda one, other: one >= other)),
    "LEAST": (2, _MANY, _extreme(lambda one, other: one <= other)),
}
"""By name: the fewest and the most arguments, and what it is."""

FUNCTIONS = frozenset(_FUNCTIONS)


def _require_small(made: _Branches) -> None:
    branches, otherwise = made
    waiting: list[Any] = [term.expression for pair in branches for term in pair]
    waiting += [] if otherwise is None else [otherwise.expression]
    parts = 0
    while waiting:
        part = waiting.pop()
        parts += 1
        if parts > MAX_PARTS:
            raise PlanTooLarge(what="number of parts of an expression", limit=MAX_PARTS)
        inner = vars(part).values() if isinstance(part, Document) else part
        waiting += [one for one in inner if isinstance(one, Document | tuple)]
