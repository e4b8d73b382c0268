"""Integer programs: what a question becomes once types, units and literals are settled.

A program runs on one row of a snapshot, where every value is an integer or NULL. There are few node kinds, each with a
known range, so that an engine can render them in its own dialect and all engines give the same bits. `evaluate` is
their meaning; the engines are tested against it. NULL follows SQL: arithmetic and comparison with NULL give NULL,
AND, OR and NOT are three-valued, a CASE branch is taken only if its condition is TRUE. Truth values are 1 and 0.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, TypeVar, assert_never, dataclass_transform

from ceiba_protocol.errors import ValueOutOfRange
from ceiba_protocol.schema import EPOCH, days_since_epoch

T = TypeVar("T")

ENGINE_BITS = 126
"""Intermediate values stay within a 128-bit signed integer, the widest that engines offer."""

Row = Mapping[str, int | None]
"""A row by its columns; under SUBJECT, the number of the person or firm that it is about."""
SUBJECT = "#subject"
"""Where a row has its subject's number. No column of a schema can have this name."""


DIGEST = "#digest"
"""Where a row has `subject_digest` of its subject's identifier, in tables with a subject key."""
DIGEST_TAG = "ceiba/v1/subject:"
DIGEST_HEX, PART_HEX = 15, 13
"""Hexadecimal digits that are kept of a subject's digest, and of the hash that decides on its part."""


class Comparison(StrEnum):
    EQUAL = "="
    NOT_EQUAL = "<>"
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class CalendarUnit(StrEnum):
    DAY = "day"
    WEEK = "week"
    """ISO weeks, which begin on Monday."""
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def _node(kind: type[T]) -> type[T]:
    """A frozen dataclass that hashes itself once: large programs share long conditions among thousands of sums."""
    made = dataclass(frozen=True, kw_only=True)(kind)
    compute = made.__hash__

    def remembered(self: object) -> int:
        if "_hash" not in self.__dict__:
            object.__setattr__(self, "_hash", compute(self))
        return int(self.__dict__["_hash"])

    made.__hash__ = remembered  # type: ignore[method-assign]
    return made


@_node
class Node:
    """A node's `low` and `high` bound every value it can have; `nullable` says whether it can be NULL."""

    low: int
    high: int
    nullable: bool

    is_truth: ClassVar[bool] = False


@_node
class Truth(Node):
    """A condition: 1, 0 or NULL."""

    low: int = 0
    high: int = 1

    is_truth: ClassVar[bool] = True


@_node
class Load(Node):
    """A column of the snapshot."""

    name: str


@_node
class Constant(Node):
    value: int | None


@_node
class Add(Node):
    left: Node
    right: Node


@_node
class Multiply(Node):
    left: Node
    right: Node


@_node
class RoundedQuotient(Node):
    """left / right, rounded half away from zero; NULL where right is 0."""

    left: Node
    right: Node


@_node
class FloorQuotient(Node):
    """⌊value / divisor⌋ for a positive constant divisor."""

    value: Node
    divisor: int


@_node
class CalendarStart(Node):
    """The first day of the calendar unit in which `day` lies; both are days since 1970-01-01."""

    day: Node
    unit: CalendarUnit


@_node
class Compare(Truth):
    comparison: Comparison
    left: Node
    right: Node


@_node
class AllOf(Truth):
    terms: tuple[Node, ...]


@_node
class AnyOf(Truth):
    terms: tuple[Node, ...]


@_node
class Negation(Truth):
    term: Node


@_node
class IsNull(Truth):
    value: Node
    nullable: bool = field(default=False)


@_node
class Subjects(Node):
    """Stands for a whole sum, never for a part of one: how many distinct subjects the rows have. One more subject adds
    at most 1, however many rows it has."""

    low: int = field(default=0, init=False)
    high: int = field(default=1, init=False)
    nullable: bool = field(default=False, init=False)


@_node
class Part(Node):
    """Which part of a split the row's subject is in, from 0; `key`: `split_key` of the split's seed."""

    key: int
    parts: int


@_node
class Choose(Node):
    """CASE: the value of the first branch whose condition is TRUE, or else `otherwise`."""

    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node


# --- construction: ranges are computed, and what is already known is not asked of every row --------------------


def checked(node: Node, what: str, limit: int = ENGINE_BITS) -> Node:
    """`node`, if every value it can have fits so many bits beside its sign. Raises ValueOutOfRange."""
    bits = max(abs(node.low), abs(node.high)).bit_length()
    if bits > limit:
        raise ValueOutOfRange(what=what, bits=bits, limit=limit)
    return node


def constant(value: int | None) -> Constant:
    return Constant(value=value, low=value or 0, high=value or 0, nullable=value is None)


TRUE, FALSE, NULL = constant(1), constant(0), constant(None)
SUBJECTS = Subjects()


def load(name: str, low: int, high: int, nullable: bool) -> Load:
    return Load(name=name, low=low, high=high, nullable=nullable)


def add(left: Node, right: Node) -> Node:
    if right == FALSE:
        return left
    node = Add(
        left=left,
        right=right,
        low=left.low + right.low,
        high=left.high + right.high,
        nullable=left.nullable or right.nullable,
    )
    return checked(node, "A sum")


def multiply(left: Node, right: Node) -> Node:
    if left == TRUE:
        return right
    if right == TRUE:
        return left
    if left == right:
        low, high = _square_range(left)
    else:
        corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
        low, high = min(corners), max(corners)
    node = Multiply(left=left, right=right, low=low, high=high, nullable=left.nullable or right.nullable)
    return checked(node, "A product")


def _square_range(node: Node) -> tuple[int, int]:
    """A square is never negative, which a product of two independent ranges cannot know."""
    low = 0 if node.low <= 0 <= node.high else min(node.low**2, node.high**2)
    return low, max(node.low**2, node.high**2)


def scale(node: Node, factor: int) -> Node:
    return multiply(node, constant(factor))


def negate(node: Node) -> Node:
    return scale(node, -1)


def round_half_away(left: int, right: int) -> int:
    """left / right to the nearest integer, halves away from zero. `right` is not 0."""
    magnitude = (2 * abs(left) + abs(right)) // (2 * abs(right))
    return magnitude if (left < 0) == (right < 0) else -magnitude


def rounded_quotient(left: Node, right: Node) -> Node:
    if isinstance(right, Constant) and right.value in (1, None, 0):
        return left if right.value == 1 else NULL
    if right.low <= 0 <= right.high:
        largest = max(abs(left.low), abs(left.high))
        low, high = -largest, largest
    else:
        corners = [round_half_away(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
        low, high = min(corners), max(corners)
    checked(scale(left, 2), "A quotient's numerator")
    nullable = left.nullable or right.nullable or right.low <= 0 <= right.high
    return RoundedQuotient(left=left, right=right, low=low, high=high, nullable=nullable)


def floor_quotient(value: Node, divisor: int) -> Node:
    if divisor == 1:
        return value
    low, high = value.low // divisor, value.high // divisor
    return FloorQuotient(value=value, divisor=divisor, low=low, high=high, nullable=value.nullable)


def calendar_start(day: Node, unit: CalendarUnit) -> Node:
    low, high = start_of(unit, day.low), start_of(unit, day.high)
    return CalendarStart(day=day, unit=unit, low=low, high=high, nullable=day.nullable)


def compare(comparison: Comparison, left: Node, right: Node) -> Node:
    if comparison is Comparison.GREATER and left.is_truth and right == FALSE:
        return left
    return Compare(comparison=comparison, left=left, right=right, nullable=left.nullable or right.nullable)


def all_of(terms: tuple[Node, ...]) -> Node:
    kept = tuple(term for term in terms if term != TRUE)
    if not kept or FALSE in kept:
        return FALSE if FALSE in kept else TRUE
    return kept[0] if len(kept) == 1 else AllOf(terms=kept, nullable=any(term.nullable for term in kept))


def any_of(terms: tuple[Node, ...]) -> Node:
    kept = tuple(term for term in terms if term != FALSE)
    if not kept or TRUE in kept:
        return TRUE if TRUE in kept else FALSE
    return kept[0] if len(kept) == 1 else AnyOf(terms=kept, nullable=any(term.nullable for term in kept))


def part(key: int, parts: int) -> Part:
    return Part(key=key, parts=parts, low=0, high=parts - 1, nullable=False)


def negation(term: Node) -> Node:
    if term in (TRUE, FALSE):
        return FALSE if term == TRUE else TRUE
    return Negation(term=term, nullable=term.nullable)


def is_null(value: Node) -> Node:
    return IsNull(value=value) if value.nullable else FALSE


def choose(branches: tuple[tuple[Node, Node], ...], otherwise: Node) -> Node:
    kept = []
    for condition, value in branches:
        if condition == TRUE:
            otherwise = value
            break
        if condition != FALSE:
            kept.append((condition, value))
    if not kept:
        return otherwise
    values = [value for _, value in kept] + [otherwise]
    return Choose(
        branches=tuple(kept),
        otherwise=otherwise,
        low=min(value.low for value in values),
        high=max(value.high for value in values),
        nullable=any(value.nullable for value in values),
    )


def start_of(unit: CalendarUnit, day: int) -> int:
    """First day of `day`'s calendar unit; days since 1970-01-01."""
    moment = EPOCH + timedelta(days=day)
    match unit:
        case CalendarUnit.DAY:
            return day
        case CalendarUnit.WEEK:
            return day - moment.weekday()
        case CalendarUnit.MONTH:
            return days_since_epoch(moment.replace(day=1))
        case CalendarUnit.QUARTER:
            return days_since_epoch(moment.replace(month=moment.month - (moment.month - 1) % 3, day=1))
        case CalendarUnit.YEAR:
            return days_since_epoch(moment.replace(month=1, day=1))


# --- splits (ADR 0019) -------------------------------------------------------------------------------------------


def subject_digest(identifier: str) -> int:
    """A subject as splits know it, the same at every holder: 60 bits of SHA-256 of its identifier in Unicode's normal
    form C, without spaces around it."""
    text = DIGEST_TAG + unicodedata.normalize("NFC", identifier.strip(" "))
    return int(hashlib.sha256(text.encode()).hexdigest()[:DIGEST_HEX], 16)


def part_of(key: int, digest: int, parts: int) -> int:
    """⌊h·parts / 2^52⌋, h the first 52 bits of SHA-256 over both numbers in decimal digits, between them a colon."""
    hashed = int(hashlib.sha256(f"{key}:{digest}".encode()).hexdigest()[:PART_HEX], 16)
    return hashed * parts >> 4 * PART_HEX


def children(node: Node) -> tuple[Node, ...]:
    """The nodes that a node is made of."""
    match node:
        case Add() | Multiply() | RoundedQuotient() | Compare():
            return (node.left, node.right)
        case FloorQuotient() | IsNull():
            return (node.value,)
        case CalendarStart():
            return (node.day,)
        case AllOf() | AnyOf():
            return node.terms
        case Negation():
            return (node.term,)
        case Choose():
            return (*(part for branch in node.branches for part in branch), node.otherwise)
    return ()


# --- meaning ---------------------------------------------------------------------------------------------------


def evaluate(node: Node, row: Row) -> int | None:
    """The node's value on one row: an integer, or None for NULL."""
    match node:
        case Load(name=name):
            return row[name]
        case Constant(value=value):
            return value
        case Add() | Multiply() | RoundedQuotient() | Compare():
            return _binary(node, evaluate(node.left, row), evaluate(node.right, row))
        case FloorQuotient(value=inner, divisor=divisor):
            value = evaluate(inner, row)
            return None if value is None else value // divisor
        case CalendarStart(day=inner, unit=unit):
            day = evaluate(inner, row)
            return None if day is None else start_of(unit, day)
        case AllOf(terms=terms):
            return _decided(0, [evaluate(term, row) for term in terms])
        case AnyOf(terms=terms):
            return _decided(1, [evaluate(term, row) for term in terms])
        case Part(key=key, parts=parts):
            digest = row[DIGEST]
            assert digest is not None  # publishing refuses rows without a subject
            return part_of(key, digest, parts)
        case Negation(term=term):
            truth = evaluate(term, row)
            return None if truth is None else 1 - truth
        case IsNull(value=inner):
            return int(evaluate(inner, row) is None)
        case Choose(branches=branches, otherwise=otherwise):
            taken = (value for condition, value in branches if evaluate(condition, row) == 1)
            return evaluate(next(taken, otherwise), row)
        case _:
            raise NotImplementedError(type(node).__name__)


def _decided(decisive: int, truths: list[int | None]) -> int | None:
    """AND (decisive 0) and OR (decisive 1) of three-valued truths."""
    if decisive in truths:
        return decisive
    return None if None in truths else 1 - decisive


def _binary(node: Add | Multiply | RoundedQuotient | Compare, left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return None
    match node:
        case Add():
            return left + right
        case Multiply():
            return left * right
        case RoundedQuotient():
            return round_half_away(left, right) if right else None
        case Compare(comparison=comparison):
            return int(_holds(comparison, left, right))


def _holds(comparison: Comparison, left: int, right: int) -> bool:
    match comparison:
        case Comparison.EQUAL:
            return left == right
        case Comparison.NOT_EQUAL:
            return left != right
        case Comparison.LESS:
            return left < right
        case Comparison.LESS_OR_EQUAL:
            return left <= right
        case Comparison.GREATER:
            return left > right
        case Comparison.GREATER_OR_EQUAL:
            return left >= right
        case _:
            assert_never(comparison)
