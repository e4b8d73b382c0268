"""Whether exact joint questions about one holder's table are margins of one table (ADR 0029).

They divide columns in ways of which one refines the other: two divisions whose edges lie apart by little differ by the
few firms between them, a finer and a coarser one by whole parts, each of which is tested by itself. Whether they do
follows from the questions and the schema. No row is read: a refusal that depended on rows would tell of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ceiba_protocol.disclosure.support import ROWS, tests_of
from ceiba_protocol.errors import AskedOtherwise
from ceiba_protocol.plan import Plan, compile_plan
from ceiba_protocol.program import (
    TRUE,
    Add,
    AllOf,
    AnyOf,
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
    children,
    evaluate,
)
from ceiba_protocol.schema import Schema

MANY = 20_000
"""Values of a column at which two divisions are compared at most."""


@dataclass(frozen=True)
class Division:
    """A group key, or a condition within a statistic, by which a question chooses rows."""

    node: Node
    columns: frozenset[str]
    is_key: bool

    @property
    def words(self) -> str:
        """The same for the same division, whatever it is called."""
        return repr(self.node)


def check_divisions(schema: Schema, earlier: Iterable[Plan], asked: Sequence[Plan]) -> None:
    """No plan that is asked divides a column in another way than an earlier one, or than another that is asked, unless
    one way refines the other. Within one plan its own tests see to that (`disclosure.support`). Raises AskedOtherwise.
    """
    new = [tuple(_divisions(plan, schema)) for plan in asked]
    old = {frozenset(one.words for one in own): own for plan in earlier if (own := tuple(_divisions(plan, schema)))}
    pairs = [(own, other) for place, own in enumerate(new) for other in (*old.values(), *new[:place])]
    for one, other in _apart(pairs):
        if not _refines(one, other):
            columns = ", ".join(sorted(one.columns & other.columns))
            raise AskedOtherwise(what=f"another division of {columns} of {schema.table}")


def _divisions(plan: Plan, schema: Schema) -> Iterator[Division]:
    """Those of one plan: its groups, and the rows that its statistics choose."""
    program = compile_plan(plan, schema)
    for key in program.keys:
        yield Division(key.node, frozenset(one.name for one in _loads(key.node)), is_key=True)
    for place, test in enumerate(tests_of(program).tests):
        if place != ROWS and test.audited and test.is_chosen and test.members != TRUE:
            yield Division(test.members, frozenset(one.name for one in _loads(test.members)), is_key=False)


def _apart(pairs: Iterable[tuple[Sequence[Division], Sequence[Division]]]) -> Iterator[tuple[Division, Division]]:
    """Those of two plans that read a common column and are not the same; each pair once, and none that one of the two
    plans has by itself."""
    compared = set[frozenset[str]]()
    for own, others in pairs:
        together = {one.words for one in own}, {other.words for other in others}
        for one, other in product(own, others):
            words = frozenset((one.words, other.words))
            is_seen = words in compared or any(words <= known for known in together)
            if not is_seen and not one.columns.isdisjoint(other.columns):
                compared.add(words)
                yield one, other


def _refines(one: Division, other: Division) -> bool:
    """Whether every part of one lies in a single part of the other, or the other way, whatever a row has."""
    if not (one.is_key and other.is_key and one.columns == other.columns and len(one.columns) == 1):
        return False
    values = _values(one.node, other.node)
    if values is None:
        return False
    (column,) = one.columns
    parts = {(evaluate(one.node, {column: value}), evaluate(other.node, {column: value})) for value in values}
    return len(parts) in (len({first for first, _ in parts}), len({second for _, second in parts}))


def _values(*nodes: Node) -> list[int | None] | None:
    """Values of the one column that these nodes read, at which they take everything that they can; None if these cannot
    be told, or are too many: all values, or both ends and the neighbours of each edge."""
    column = next(load for node in nodes for load in _loads(node))
    null = [None] if column.nullable else []
    if column.high - column.low < MANY:
        return [*range(column.low, column.high + 1), *null]
    edges = {column.low, column.high}
    for node in nodes:
        found = _edges(node, column.low, column.high)
        if found is None or len(found) > MANY:
            return None
        edges |= found
    near = {edge + step for edge in edges for step in (-1, 0, 1)}
    return [*(value for value in near if column.low <= value <= column.high), *null]


def _edges(node: Node, low: int, high: int) -> set[int] | None:
    """Where a node's value may change with the column's, from `low` to `high`: at these and their neighbours; None if
    it cannot be told."""
    match node:
        case Constant() | IsNull():
            return set()
        case Compare():
            line = _difference(node.left, node.right)
            if line is not None:
                slope, offset = line
                return {-offset // slope, -(offset // slope)} if slope else set()
        case FloorQuotient():
            line = _linear(node.value)
            if line is not None:
                return _steps(node.divisor, line, low, high)
        case Choose():
            return _edges_of_choice(node, low, high)
        case Add() | Multiply() | AllOf() | AnyOf() | Negation():
            pass
        case _:
            return None
    return _union(_edges(child, low, high) for child in children(node))


def _edges_of_choice(node: Choose, low: int, high: int) -> set[int] | None:
    """What is chosen if nothing before was is looked at where that can be, as in a bucket between its bounds."""
    found = list[set[int] | None]()
    for condition, value in node.branches:
        found += [_edges(condition, low, high), _edges(value, low, high)]
        line = _difference(condition.left, condition.right) if isinstance(condition, Compare) else None
        if isinstance(condition, Compare) and line is not None and line[0] > 0:
            crossing = -(line[1] // line[0])
            if condition.comparison is Comparison.LESS:
                low = max(low, crossing)
            elif condition.comparison is Comparison.GREATER_OR_EQUAL:
                high = min(high, crossing - 1)
    return _union([*found, _edges(node.otherwise, low, high)])


def _union(sets: Iterable[set[int] | None]) -> set[int] | None:
    edges = set[int]()
    for one in sets:
        if one is None:
            return None
        edges |= one
    return edges


def _steps(divisor: int, line: tuple[int, int], low: int, high: int) -> set[int] | None:
    """Where a line passes a multiple of the divisor."""
    slope, offset = line
    if slope == 0 or low > high:
        return set()
    first, last = sorted((slope * end + offset) // divisor for end in (low, high))
    if last - first > MANY:
        return None
    return {(divisor * step - offset) // slope for step in range(first, last + 1)}


def _difference(left: Node, right: Node) -> tuple[int, int] | None:
    """As `_linear`, of left − right."""
    one, other = _linear(left), _linear(right)
    return (one[0] - other[0], one[1] - other[1]) if one and other else None


def _linear(node: Node) -> tuple[int, int] | None:
    """Slope and offset of a node as a function of the one column; None if it is no line."""
    match node:
        case Load():
            return 1, 0
        case Constant(value=int(value)):
            return 0, value
        case Add():
            left, right = _linear(node.left), _linear(node.right)
            return (left[0] + right[0], left[1] + right[1]) if left and right else None
        case Multiply():
            left, right = _linear(node.left), _linear(node.right)
            if left and right and 0 in (left[0], right[0]):
                return left[0] * right[1] + right[0] * left[1], left[1] * right[1]
    return None


def _loads(node: Node) -> Iterator[Load]:
    if isinstance(node, Load):
        yield node
    for child in children(node):
        yield from _loads(child)
