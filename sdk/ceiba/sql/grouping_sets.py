"""GROUP BY with ROLLUP, CUBE and GROUPING SETS: which groups each row of the result is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, combinations

from sqlglot import exp

from ceiba_protocol.errors import PlanTooLarge

MAX_SETS = 256
"""Those of a CUBE of eight keys."""

GroupingSet = frozenset[str]
"""Names of groups."""


def grouping_sets(nodes: Iterable[exp.Expr], key_of: Callable[[exp.Expr], str]) -> list[GroupingSet]:
    """What GROUP BY asks for: every combination of its entries' sets. `key_of` names a group. Raises PlanTooLarge."""
    found = [GroupingSet()]
    for node in nodes:
        found = _limited(one | other for one in found for other in _sets_of(node, key_of))
    return found


def _limited(sets: Iterable[GroupingSet]) -> list[GroupingSet]:
    found = []
    for one in sets:
        found.append(one)
        if len(found) > MAX_SETS:
            raise PlanTooLarge(what="number of grouping sets", limit=MAX_SETS)
    return found


def _sets_of(node: exp.Expr, key_of: Callable[[exp.Expr], str]) -> list[GroupingSet]:
    match node:
        case exp.GroupingSets(expressions=parts):
            return _limited(chain.from_iterable(_sets_of(part, key_of) for part in parts))
        case exp.Rollup(expressions=parts):
            units = [_unit(part, key_of) for part in parts]
            return [GroupingSet().union(*units[:size]) for size in range(len(units), -1, -1)]
        case exp.Cube(expressions=parts):
            units = [_unit(part, key_of) for part in parts]
            sizes = range(len(units), -1, -1)
            return _limited(GroupingSet().union(*chosen) for size in sizes for chosen in combinations(units, size))
    return [_unit(node, key_of)]


def _unit(node: exp.Expr, key_of: Callable[[exp.Expr], str]) -> GroupingSet:
    """One group, or several in parentheses, which go together."""
    if type(node) is exp.Tuple:
        return GroupingSet(key_of(part) for part in node.expressions)
    return GroupingSet([key_of(node)])
