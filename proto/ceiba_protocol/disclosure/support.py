"""Tests: what must be many in a cell before one of its sums is released (PROTOCOL §3.2, §3.5).

A sum is made by the rows that add something to it. `SUM(CASE WHEN rare THEN 1 ELSE 0 END)`, `COUNT(*) FILTER (rare)`
and `AVG(x)` where x is rarely measured are all sums over few people in a cell of many. So every sum has tests, and a
test is about a condition that a row meets: enough subjects at enough holders must. The tests follow from the plan
alone, and every party computes the same ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    Compare,
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
    """The rows that two other tests do not share, or that a part leaves. None of them is as good as many: then both are
    about the same."""
    cut: str = ""
    """As `Fit.cut`: answers about the same rows, cut otherwise, are not the same."""

    @cached_property
    def is_chosen(self) -> bool:
        """The question chooses these rows itself. If not, they are merely those that have a value, and are compared
        only with sums over the same columns: how many values are missing is no secret here."""
        return is_chosen(self.members)

    def is_comparable(self, other: "Test") -> bool:
        """Whether the difference of a sum behind each could be a sum over the rows that they do not share: unless
        neither chooses rows, and they add up different columns."""
        is_choice = (self.is_chosen and self.members != TRUE) or (other.is_chosen and other.members != TRUE)
        return is_choice or not self.columns.isdisjoint(other.columns)


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

    1. Each sum's own rows. 2. Where it treats some of them differently, such as by CASE: each of these parts, and the
    rest. 3. What two of these do not share, where the difference of two sums would be a sum over that. 4. Of a fit:
    what its columns have in pairs (`_add_fit`).
    """
    builder = _Builder()
    needs = [builder.add_sum(place, one.node) for place, one in enumerate(compiled.sums)]
    for use in compiled.uses:
        if use.statistic.disjoint:
            builder.settle(needs[one][0] for one in use.sums)
    disjoint = _is_disjoint(compiled)
    differences = {} if disjoint else builder.add_differences()
    for own in needs:
        own += [builder.place(test) for one in list(own) for test in differences.get(one, ())]
    whole = None
    if compiled.fit is not None:
        whole = _add_fit(builder, compiled, needs)
    parts = [
        place
        for place, test in enumerate(builder.tests())
        if place != ROWS and test.audited and test.is_chosen and _is_possible(test.members) and test.members != whole
    ]
    together = tuple(parts) if len(parts) > 1 else ()  # also bins: an earlier answer may be their whole
    return Tests(
        tests=tuple(builder.tests()),
        needs=tuple(tuple(dict.fromkeys((ROWS, *own))) for own in needs),
        units=(*(() if disjoint else ((ROW_COUNT,),)), *(unit for use in compiled.uses for unit in units_of(use))),
        together=together,
    )


def units_of(use: Use) -> list[tuple[int, ...]]:
    """The sums of one output that are released together."""
    return [(one,) for one in use.sums] if use.statistic.disjoint else [use.sums]


_Key = tuple[Node, Node, bool, bool, bool, str]


class _Builder:
    """Collects tests; those that differ only in the sums behind them are one."""

    def __init__(self) -> None:
        self._places: dict[_Key, int] = {}
        self._settled: list[frozenset[int]] = []
        self._columns: dict[_Key, frozenset[str]] = {}
        self._magnitudes: dict[_Key, tuple[int, ...]] = {}
        self.place(Test(TRUE, TRUE))

    def place(self, test: Test) -> int:
        """The test's place, the same for all that are about the same rows."""
        key = (test.support, test.members, test.audited, bool(test.magnitudes), test.is_difference, test.cut)
        self._columns[key] = self._columns.get(key, frozenset()) | test.columns
        self._magnitudes[key] = self._magnitudes.get(key, ()) + test.magnitudes
        return self._places.setdefault(key, len(self._places))

    def tests(self) -> list[Test]:
        return [
            Test(support, members, columns, audited, self._magnitudes[key], is_difference, cut)
            for key, columns in self._columns.items()
            for support, members, audited, _, is_difference, cut in (key,)
        ]

    def add_sum(self, place: int, node: Node) -> list[int]:
        """The places of a sum's own tests."""
        counts, rows = is_count(node), members(node)
        columns, audited = columns_of(node), not counts or is_chosen(rows)
        own = [self.place(Test(support(node), rows, columns, audited, () if counts else (place,)))]
        for part, is_rest in parts_of(node):
            if set(_terms(part)) != set(_terms(rows)):
                own.append(self.place(Test(part, part, audited=not is_rest, is_difference=is_rest)))
        if isinstance(node, Choose) and not any(list(parts_of(value)) for _, value in _arms(node)):
            self.settle(own)
        return own

    def settle(self, places: Iterable[int]) -> None:
        """What two of these do not share is made of whole others of them: no row is in two, but for one that may be the
        whole."""
        self._settled.append(frozenset(places))

    def add_differences(self) -> dict[int, list[Test]]:
        """Place → the tests of what it does not share with others that it is comparable with."""
        found: dict[int, list[Test]] = {}
        groups = [{group for group, places in enumerate(self._settled) if at in places} for at in self._places.values()]
        for (left, one), (right, other) in combinations(enumerate(self.tests()), 2):
            if groups[left] & groups[right]:
                continue
            if one.is_comparable(other) and one.members != other.members:
                for rows in _not_shared(one, other):
                    test = Test(rows, rows, audited=False, is_difference=True)
                    for place in {left, right} - {ROWS}:
                        found.setdefault(place, []).append(test)
        return found


def _add_fit(builder: _Builder, compiled: Program, needs: Sequence[list[int]]) -> Node:
    """A fit's figures are made of its columns' sums of products: of the information matrix, the number of rows in which
    two conditions hold can be read. So the rows of each pair are tested, and as a condition counts what a factor's
    levels leave, its base. Its complete rows, which are returned, are compared with those of other answers over the
    same columns."""
    assert compiled.fit is not None
    rows, *columns = compiled.uses[0].sums
    used = support(compiled.sums[rows].node)
    read = frozenset().union(*(_columns_read(one.node) for one in compiled.readings))
    needs[rows].append(builder.place(Test(used, used, read, cut=compiled.fit.cut)))
    parts = [(one, *_part(compiled.sums[one].node)) for one in columns]
    factors: dict[Node, list[tuple[int, Node]]] = {}
    for place, part, factor in parts:
        if factor is not None:
            factors.setdefault(factor, []).append((place, part))
    bases = []
    for factor, levels in factors.items():
        base = _all(used, *(_is_not(level) for _, level in levels))
        test = builder.place(Test(base, base, audited=False, is_difference=True))
        for place, _ in levels:
            needs[place].append(test)
        bases.append((levels[0][0], base, factor))
    for (left, one, factor), (right, other, beside) in combinations([*parts, *bases], 2):
        if (factor is None or factor != beside) and not {one, other} & {TRUE, used}:
            both = _all(used, one, other)
            test = builder.place(Test(both, both, audited=False))
            needs[left].append(test)
            needs[right].append(test)
    return used


def _part(node: Node) -> tuple[Node, Node | None]:
    """Of a fit's column: the rows in which it is not 0, among those that are used; and if it says no more than a
    condition, the factor whose level it is."""
    value = node.branches[0][1] if isinstance(node, Choose) else node
    if isinstance(value, Compare) and value.comparison is Comparison.EQUAL and isinstance(value.right, Constant):
        return value, value.left
    part = support(value)
    return (TRUE if _is_presence(part) else part), (part if _has_two_values(value) else None)


def _columns_read(node: Node) -> frozenset[str]:
    """Also in conditions."""
    own = frozenset({node.name}) if isinstance(node, Load) else frozenset()
    return own.union(*map(_columns_read, children(node)))


def _not_shared(one: Test, other: Test) -> list[Node]:
    """The rows in which the two differ; and, if they add up the same column, those of them that add anything."""
    rows = [difference(one.members, other.members)]
    if not one.columns.isdisjoint(other.columns):
        rows.append(difference(one.support, other.support))
    return list(dict.fromkeys(rows))


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
            return _all(support(left), support(right))
        case Choose(branches=((condition, value),), otherwise=otherwise) if otherwise in (NULL, FALSE):
            return _all(condition, support(value))
    if node.is_truth:
        return node
    if node.low > 0 or node.high < 0:
        return present(node)
    return program.compare(Comparison.NOT_EQUAL, node, FALSE)


def members(node: Node) -> Node:
    """TRUE in the rows that take part in a sum of the node: it is not NULL there, and chosen."""
    match node:
        case Constant():
            return FALSE if node in (NULL, FALSE) else TRUE
        case Multiply(left=left, right=right):
            return _all(members(left), members(right))
        case Choose(branches=((condition, value),), otherwise=otherwise) if otherwise in (NULL, FALSE):
            return _all(condition, members(value))
        case Choose(branches=branches, otherwise=otherwise):
            return program.choose(tuple((when, members(value)) for when, value in branches), members(otherwise))
    return support(node) if _has_two_values(node) and 0 in (node.low, node.high) else present(node)


def _is_possible(condition: Node) -> bool:
    """False where bounds alone say that no row meets it, such as a bin below a column's least value."""
    match condition:
        case AllOf(terms=terms):
            return all(map(_is_possible, terms))
        case Compare(comparison=Comparison.LESS, left=left, right=right):
            return left.low < right.high
        case Compare(comparison=Comparison.GREATER, left=left, right=right):
            return left.high > right.low
    return True


def _arms(node: Choose) -> Iterator[tuple[Node, Node]]:
    """Each value of a CASE, and the rows that get it."""
    earlier: Node = TRUE
    for condition, value in node.branches:
        yield _all(earlier, condition), value
        earlier = _all(earlier, _is_not(condition))
    yield earlier, node.otherwise


def _has_two_values(node: Node) -> bool:
    """Whether it says no more than a condition: one, a column of 0 and 1, a value rounded to nothing or all."""
    return not isinstance(node, Constant | Subjects) and node.high - node.low == 1


def present(node: Node) -> Node:
    """TRUE where the node is not NULL; of a sum or product, where none of its parts is."""
    if isinstance(node, Add | Multiply):
        return _all(present(node.left), present(node.right))
    return program.negation(program.is_null(node))


def difference(left: Node, right: Node) -> Node:
    """TRUE in the rows for which exactly one of two conditions is TRUE."""
    return program.any_of((_all(left, _is_not(right)), _all(right, _is_not(left))))


def _is_not(condition: Node) -> Node:
    """TRUE where the condition is FALSE or NULL."""
    return program.any_of((program.negation(condition), program.is_null(condition)))


def _all(*nodes: Node) -> Node:
    """TRUE where all of them are; each of their terms once."""
    return program.all_of(tuple(dict.fromkeys(term for node in nodes for term in _terms(node))))


def _terms(condition: Node) -> tuple[Node, ...]:
    return condition.terms if isinstance(condition, AllOf) else (condition,)


def is_chosen(condition: Node) -> bool:
    """Whether the question chooses rows by it; not, if it only asks that columns have a value."""
    return condition == TRUE or not all(_is_presence(term) for term in _terms(condition))


def _is_presence(term: Node) -> bool:
    match term:
        case Negation(term=IsNull(value=value)):
            return _is_null_where_columns_are(value)
    return term == TRUE


def _is_null_where_columns_are(node: Node) -> bool:
    """A quotient is NULL where its divisor is 0, and CASE where the question wants it: these would be choices."""
    allowed = Load | Constant | Add | Multiply | FloorQuotient | CalendarStart | Compare | Negation
    return isinstance(node, allowed) and node != NULL and all(map(_is_null_where_columns_are, children(node)))


def parts_of(node: Node, within: Node = TRUE) -> Iterator[tuple[Node, bool]]:
    """The rows that a sum of the node treats alike: those of each arm of a CASE, and those where a condition holds, or
    a value that says no more than one; and the rest, marked, of which none is as good as many."""
    if isinstance(node, Choose):
        arms = [(taken, value) for taken, value in _arms(node) if members(value) != FALSE]
        for taken, value in arms:
            yield _all(within, taken, members(value)), value is node.otherwise
            yield from parts_of(value, _all(within, taken))
    elif _has_two_values(node):
        higher = program.compare(Comparison.NOT_EQUAL, node, program.constant(node.low))
        one = support(node) if 0 in (node.low, node.high) else higher
        if is_chosen(one):
            yield _all(within, one), False
            yield _all(within, present(node), _is_not(one)), True
    else:
        for place, child in enumerate(children(node)):
            others = (*children(node)[:place], *children(node)[place + 1 :])
            beside = tuple(map(members, others)) if isinstance(node, Multiply) else (present(node),)
            adds = support(child) if isinstance(node, Add) else TRUE
            if is_chosen(adds) and adds != TRUE and not _has_two_values(child):
                yield _all(within, *beside, adds), True
            yield from parts_of(child, _all(within, *beside))


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
