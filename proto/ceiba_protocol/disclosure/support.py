"""Tests: what must be many in a cell before one of its sums is released (PROTOCOL §3.2, §3.5).

A sum is made by the rows that add something to it. `SUM(CASE WHEN rare THEN 1 ELSE 0 END)`, `COUNT(*) FILTER (rare)`
and `AVG(x)` where x is rarely measured are all sums over few people in a cell of many. So every sum has tests, and a
test is about a condition that a row meets: enough subjects at enough holders must. The tests follow from the plan
alone, and every party computes the same ones.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ceiba_protocol import program
from ceiba_protocol.plan import ROW_COUNT, Program, Use
from ceiba_protocol.program import (
    FALSE,
    NULL,
    TRUE,
    Add,
    AllOf,
    CalendarStart,
    Choose,
    Comparison,
    Constant,
    FloorQuotient,
    IsNull,
    Load,
    Multiply,
    Negation,
    Node,
    Row,
    Subjects,
    children,
    evaluate,
)

ROWS = 0
"""The first test of every program: the rows of the cell. Where it fails, nothing of the cell is released."""


@dataclass(frozen=True)
class Test:
    """One condition within a cell."""

    __test__ = False  # to pytest

    support: Node
    """The rows whose distinct subjects are counted: those that add something other than 0."""
    members: Node
    """The rows whose subjects are compared with those of other answers: all that take part, also with a 0."""
    columns: frozenset[str] = frozenset()
    """Those that the sums behind the test add up."""
    audited: bool = True
    """Whether it is compared with other answers."""
    magnitudes: tuple[int, ...] = ()
    """The sums behind the test that no one subject may dominate."""
    is_difference: bool = False
    """The rows that two other tests do not share. None of them is as good as many: then both are about the same."""
    measures: frozenset[Node] = frozenset()
    """What the sums behind the test add up, whichever rows they choose."""

    @property
    def is_chosen(self) -> bool:
        """The question chooses these rows itself. If not, they are merely those that have a value, and are compared
        only with sums over the same columns: how many values are missing is no secret here."""
        return is_chosen(self.members)

    def is_comparable(self, other: "Test") -> bool:
        """Whether the difference of a sum behind each could be a sum over the rows that they do not share: unless both
        only ask that values are there, and of different columns."""
        return is_choice(self.members) or is_choice(other.members) or not self.columns.isdisjoint(other.columns)


@dataclass(frozen=True)
class Tests:
    """A program's tests, the same in every cell."""

    __test__ = False

    tests: tuple[Test, ...]
    needs: tuple[tuple[int, ...], ...]
    """For each sum of the program, the tests that must hold before it is released; ROWS is always the first."""
    units: tuple[tuple[int, ...], ...]
    """Sums that are released together or not at all: those of one output, or each by itself where they are disjoint."""
    together: tuple[int, ...]
    """Tests that hold all or none: a part that is left out of several could be found from their whole."""

    def __len__(self) -> int:
        return len(self.tests)

    @cached_property
    def audited(self) -> tuple[int, ...]:
        """The tests whose members are compared with those of other answers."""
        return tuple(place for place, test in enumerate(self.tests) if test.audited)


def tests_of(compiled: Program) -> Tests:
    """The tests of a program's sums.

    1. Each sum's own rows. 2. The rows that each of its branches takes. 3. What two of these do not share, where the
    difference of two sums would be a sum over that.
    """
    builder = _Builder()
    needs = [builder.add_sum(place, one.node) for place, one in enumerate(compiled.sums)]
    disjoint = _is_disjoint(compiled)
    differences = {} if disjoint else builder.add_differences()
    for own in needs:
        own += [builder.place(test) for one in list(own) for test in differences.get(one, ())]
    parts = [place for place, test in enumerate(builder.tests()) if place != ROWS and test.audited and test.is_chosen]
    together = () if disjoint or len(parts) < 2 else tuple(parts)
    return Tests(
        tests=tuple(builder.tests()),
        needs=tuple(tuple(dict.fromkeys((ROWS, *own))) for own in needs),
        units=tuple(unit for use in compiled.uses for unit in units_of(use)),
        together=together,
    )


def units_of(use: Use) -> list[tuple[int, ...]]:
    """The sums of one output that are released together."""
    return [(one,) for one in use.sums] if use.statistic.disjoint else [use.sums]


_Key = tuple[Node, Node, bool, bool, bool]


class _Builder:
    """Collects tests; those that differ only in the sums behind them are one."""

    def __init__(self) -> None:
        self._columns: dict[_Key, frozenset[str]] = {}
        self._magnitudes: dict[_Key, tuple[int, ...]] = {}
        self._measures: dict[_Key, frozenset[Node]] = {}
        self.place(Test(TRUE, TRUE))

    def place(self, test: Test) -> int:
        """The test's place, the same for all that are about the same rows."""
        key = (test.support, test.members, test.audited, bool(test.magnitudes), test.is_difference)
        self._columns[key] = self._columns.get(key, frozenset()) | test.columns
        self._magnitudes[key] = self._magnitudes.get(key, ()) + test.magnitudes
        self._measures[key] = self._measures.get(key, frozenset()) | test.measures
        return list(self._columns).index(key)

    def tests(self) -> list[Test]:
        return [
            Test(support, members, columns, audited, self._magnitudes[key], is_difference, self._measures[key])
            for key, columns in self._columns.items()
            for support, members, audited, _, is_difference in (key,)
        ]

    def add_sum(self, place: int, node: Node) -> list[int]:
        """The places of a sum's own tests."""
        rows, audited = members(node), not is_count(node) or is_chosen(members(node))
        own = Test(support(node), rows, columns_of(node), audited)
        if not is_count(node):
            own = replace(own, magnitudes=(place,), measures=frozenset({measure(node)}))
        return [self.place(test) for test in (own, *choices(node))]

    def add_differences(self) -> dict[int, list[Test]]:
        """Place → the tests of what it does not share with others that it is comparable with."""
        found: dict[int, list[Test]] = {}
        whole = [(place, test) for place, test in enumerate(self.tests()) if not test.is_difference]
        for (left, one), (right, other) in combinations(whole, 2):
            for rows in dict.fromkeys(not_shared(one, other)):
                test = Test(rows, rows, audited=False, is_difference=True)
                for place in {left, right} - {ROWS}:
                    found.setdefault(place, []).append(test)
        return found


def not_shared(one: Test, other: Test) -> Iterator[Node]:
    """The rows over which the difference of a sum behind each could be a sum: those that only one has; and where both
    add up the same, those to which only one adds something, as zeros tell nothing of the others."""
    if one.members != other.members and one.is_comparable(other):
        yield difference(one.members, other.members)
    if one.support != other.support and not one.measures.isdisjoint(other.measures):
        yield difference(one.support, other.support)


def _is_disjoint(compiled: Program) -> bool:
    """One statistic alone whose sums are disjoint by definition, and the cell's row count is not asked for."""
    return [use.statistic.disjoint for use in compiled.uses] == [True] and not uses_row_count(compiled)


def uses_row_count(compiled: Program) -> bool:
    """Whether an output is made of the cell's row count. Otherwise it is not released."""
    return any(ROW_COUNT in use.sums for use in compiled.uses)


def count_subjects(compiled: Program, tests: Tests, rows: Iterable[Row]) -> npt.NDArray[np.int64]:
    """[cells, tests]: the distinct subjects of the rows in each test's support; what a holder's engine must give.

    A row's subject is its "#subject"; without one, each row is a subject of its own.
    """
    found: dict[tuple[int, int], set[object]] = {}
    for place, row in enumerate(rows):
        if compiled.condition is not None and evaluate(compiled.condition, row) != 1:
            continue
        cell = compiled.cell_of(tuple(evaluate(key.node, row) for key in compiled.keys))
        for number, test in enumerate(tests.tests):
            if evaluate(test.support, row) == 1:
                found.setdefault((cell, number), set()).add(row.get("#subject", ("row", place)))
    counts = np.zeros((compiled.cells, len(tests)), dtype=np.int64)
    for where, subjects in found.items():
        counts[where] = len(subjects)
    return counts


# --- conditions ------------------------------------------------------------------------------------------------


def support(node: Node) -> Node:
    """TRUE in the rows where the node is neither NULL nor 0."""
    match node:
        case Subjects():
            return TRUE
        case Constant():
            return FALSE if node in (NULL, FALSE) else TRUE
        case Multiply(left=left, right=right):
            return program.all_of(_parts(support(left), support(right)))
        case Choose():
            return _union((rows, support(value)) for rows, value in branches(node) if value not in (NULL, FALSE))
    if node.is_truth:
        return node
    if node.low > 0 or node.high < 0:
        return present(node)
    return program.compare(Comparison.NOT_EQUAL, node, FALSE)


def members(node: Node) -> Node:
    """TRUE in the rows that take part in a sum of the node: it is not NULL there, and chosen."""
    match node:
        case Multiply(left=left, right=right):
            return program.all_of(_parts(members(left), members(right)))
        case Choose():
            return _union((rows, members(value)) for rows, value in branches(node) if value not in (NULL, FALSE))
    return _plain(node) if node.is_truth else present(node)


def present(node: Node) -> Node:
    """TRUE where the node is not NULL; of a sum or product, where none of its parts is."""
    match node:
        case Add() | Multiply():
            return program.all_of(_parts(present(node.left), present(node.right)))
        case Choose():
            return _union((rows, present(value)) for rows, value in branches(node) if value != NULL)
    return program.negation(program.is_null(node))


def branches(node: Choose) -> list[tuple[Node, Node]]:
    """Every value of a CASE with the rows that take it: those of its own condition and of none before it."""
    found, before = [], list[Node]()
    for condition, value in node.branches:
        found.append((program.all_of(_parts(*before, _plain(condition))), value))
        before.append(_is_not(_plain(condition)))
    return [*found, (program.all_of(_parts(*before)), node.otherwise)]


def _union(parts: Iterable[tuple[Node, Node]]) -> Node:
    """TRUE in the rows of any part, given as rows and what must hold of them."""
    return program.any_of(tuple(dict.fromkeys(program.all_of(_parts(*part)) for part in parts)))


def _plain(condition: Node) -> Node:
    """The condition, and "is not NULL" in terms of the columns."""
    match condition:
        case Negation(term=IsNull(value=value)):
            return present(value)
        case AllOf(terms=terms):
            return program.all_of(_parts(*map(_plain, terms)))
    return condition


def difference(left: Node, right: Node) -> Node:
    """TRUE in the rows for which exactly one of two conditions is TRUE."""
    only_left, only_right = program.all_of((left, _is_not(right))), program.all_of((right, _is_not(left)))
    return program.any_of((only_left, only_right))


def _is_not(condition: Node) -> Node:
    """TRUE where the condition is FALSE or NULL."""
    return program.any_of((program.negation(condition), program.is_null(condition)))


def _parts(*nodes: Node) -> tuple[Node, ...]:
    """The terms of several conditions, each once."""
    return tuple(dict.fromkeys(term for node in nodes for term in _terms(node)))


def _terms(condition: Node) -> tuple[Node, ...]:
    return condition.terms if isinstance(condition, AllOf) else (condition,)


def is_chosen(condition: Node) -> bool:
    """Whether the question chooses rows by it; not, if it only asks that columns have a value."""
    return condition == TRUE or not all(_is_presence(term) for term in _terms(condition))


def is_choice(condition: Node) -> bool:
    """Whether some rows are chosen by it and others not, by more than having a value."""
    return condition not in (TRUE, FALSE) and is_chosen(condition)


def _is_presence(term: Node) -> bool:
    match term:
        case Negation(term=IsNull(value=value)):
            return _is_null_where_columns_are(value)
    return term == TRUE


def _is_null_where_columns_are(node: Node) -> bool:
    """A quotient is NULL where its divisor is 0, and CASE where the question wants it: these would be choices."""
    allowed = Load | Constant | Add | Multiply | FloorQuotient | CalendarStart
    return isinstance(node, allowed) and node != NULL and all(map(_is_null_where_columns_are, children(node)))


def choices(node: Node, within: Node = TRUE) -> Iterator[Test]:
    """The parts into which a value's program divides the rows of `within`, wherever it chooses: what each branch of a
    CASE takes, the rest, and the rows that two choices multiplied have in common."""
    if node.is_truth:
        yield from _chosen(within, _plain(node))
        return
    if isinstance(node, Choose):
        *taken, (rest, otherwise) = branches(node)
        for rows, value in taken:
            yield from _chosen(within, rows)
            yield from choices(value, program.all_of(_parts(within, rows)))
        left = program.all_of(_parts(within, rest))
        if any(is_choice(rows) for rows, _ in taken):
            yield Test(left, left, audited=False, is_difference=True)
        yield from choices(otherwise, left)
        return
    if isinstance(node, Multiply) and is_choice(members(node.left)) and is_choice(members(node.right)):
        yield from _chosen(within, members(node))
    for child in children(node):
        yield from choices(child, within)


def _chosen(within: Node, rows: Node) -> Iterator[Test]:
    if is_choice(rows):
        both = program.all_of(_parts(within, rows))
        yield Test(both, both)


def measure(node: Node) -> Node:
    """What a sum adds up, whichever rows it chooses and however it scales them: TRUE if it counts."""
    match node:
        case Constant():
            return TRUE
        case Multiply(left=left, right=right):
            return program.multiply(*sorted((measure(left), measure(right)), key=repr))
        case Choose():
            values = {measure(value) for _, value in branches(node) if value not in (NULL, FALSE)}
            return values.pop() if len(values) == 1 else node
    return TRUE if is_count(node) else node


def columns_of(node: Node) -> frozenset[str]:
    """The columns whose values the node adds up; those in its conditions are left out."""
    if node.is_truth:
        return frozenset()
    if isinstance(node, Load):
        return frozenset({node.name})
    parts = [value for _, value in node.branches] + [node.otherwise] if isinstance(node, Choose) else children(node)
    return frozenset().union(*map(columns_of, parts))


def is_count(node: Node) -> bool:
    """Whether the sum counts rows or subjects: each adds 1 or nothing."""
    return node.is_truth or (node.low >= 0 and node.high <= 1 and not columns_of(node))
