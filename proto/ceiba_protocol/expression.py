"""Expressions: the closed, typed algebra of what may be computed on a row (I12: no SQL text, no user code).

An expression is a tree of documents, so it has one form in bytes. `lower` checks its types against a schema and
settles units: every number becomes an integer times a known step, and both sides of an addition or comparison are
brought to a common step by whole factors. What is exact stays exact; a quotient of columns must say its resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ceiba_protocol import program
from ceiba_protocol.canonical import Document, FieldName, Text, sha256
from ceiba_protocol.errors import ResolutionNeeded, SplitNeedsSubjectKey, UnboundedColumn, WrongType
from ceiba_protocol.program import Comparison, Node
from ceiba_protocol.schema import NUMERIC, PLAIN_DECIMAL, Column, ColumnType, Schema

MAX_DIGITS = 12
"""Finest resolution that ROUND may ask for: 10^-12."""
MAX_LITERAL = 90
"""Longest literal, in characters."""
MAX_LITERAL_DIGITS = 40
"""Most digits after a literal's decimal point."""


def _plain_decimal(text: str) -> str:
    """Digits, and perhaps a point: an exponent would make a short text a very large number."""
    if len(text) > MAX_LITERAL or not PLAIN_DECIMAL.fullmatch(text):
        raise ValueError("not a plain decimal number")
    return text


class ColumnValue(Document):
    op: Literal["column"] = "column"
    name: FieldName


class Number(Document):
    """An exact decimal literal, such as -0.5."""

    op: Literal["number"] = "number"
    value: Annotated[str, AfterValidator(_plain_decimal)]


class TextValue(Document):
    """A literal that the column beside it reads: a category, an ISO date or an ISO timestamp."""

    op: Literal["text"] = "text"
    value: Text


class TruthValue(Document):
    op: Literal["truth"] = "truth"
    value: bool


class Arithmetic(Document):
    """Divide by a literal is exact; by anything else it must stand inside Round."""

    op: Literal["add", "subtract", "multiply", "divide"]
    left: Expression
    right: Expression


class Round(Document):
    """To the nearest multiple of 10^-digits, halves away from zero."""

    op: Literal["round"] = "round"
    value: Expression
    digits: Annotated[int, Field(ge=0, le=MAX_DIGITS)]


class Branch(Document):
    when: Expression
    then: Expression


class Case(Document):
    op: Literal["case"] = "case"
    branches: Annotated[tuple[Branch, ...], Field(min_length=1)]
    otherwise: Expression | None = None


class Comparing(Document):
    op: Literal["compare"] = "compare"
    comparison: Comparison
    left: Expression
    right: Expression


class Logic(Document):
    op: Literal["and", "or"]
    terms: Annotated[tuple[Expression, ...], Field(min_length=1)]


class Not(Document):
    op: Literal["not"] = "not"
    term: Expression


class Missing(Document):
    """TRUE where the value is NULL."""

    op: Literal["is_null"] = "is_null"
    value: Expression


class SubjectCount(Document):
    """How many distinct subjects the rows have: only a sum as a whole, because no single row has a share in it."""

    op: Literal["subjects"] = "subjects"


class Part(Document):
    """Which part of a split a row's subject is in: 0 to parts - 1, the same at every holder and in every version
    (ADR 0019). It can be compared with a whole number, and nothing else."""

    op: Literal["part"] = "part"
    seed: Text
    parts: Literal[2, 4, 5, 10, 20]
    """Divisors of 20, so that all splits of one seed are made of the same twenty sets."""


Expression = Annotated[
    ColumnValue
    | Number
    | TextValue
    | TruthValue
    | Arithmetic
    | Round
    | Case
    | Comparing
    | Logic
    | Not
    | Missing
    | SubjectCount
    | Part,
    Field(discriminator="op"),
]

for _kind in (Arithmetic, Round, Branch, Case, Comparing, Logic, Not, Missing):
    _kind.model_rebuild()


# --- building blocks that several statistics share -------------------------------------------------------------

ONE = Number(value="1")


def number(value: int | Decimal | Fraction) -> Number:
    """An exact literal. A Fraction must be a finite decimal; ValueError otherwise."""
    exact = Fraction(value)
    digits = 0
    while exact.denominator != 1:
        digits, exact = digits + 1, exact * 10
        if digits > MAX_LITERAL_DIGITS:
            raise ValueError("not a finite decimal")
    whole, places = divmod(abs(exact.numerator), 10**digits)
    sign = "-" if exact < 0 else ""
    return Number(value=f"{sign}{whole}.{places:0{digits}}" if digits else f"{sign}{whole}")


def present(*values: Expression) -> Expression:
    """TRUE where none of `values` is NULL."""
    tests = tuple(Not(term=Missing(value=value)) for value in values)
    return tests[0] if len(tests) == 1 else Logic(op="and", terms=tests)


def only_where(condition: Expression, value: Expression) -> Expression:
    """`value` where the condition is TRUE, otherwise NULL, which adds nothing to a sum."""
    return Case(branches=(Branch(when=condition, then=value),))


def product(left: Expression, right: Expression) -> Expression:
    return Arithmetic(op="multiply", left=left, right=right)


# --- types -----------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    NUMBER = "a number"
    CATEGORY = "a category"
    TRUTH = "a condition"
    DATE = "a date"
    TIMESTAMP = "a timestamp"
    TEXT = "a text literal"
    PART = "a part of a split"


@dataclass(frozen=True)
class Lowered:
    """A typed integer program: its value is `node`·`step`. `column` is the category's, for its domain."""

    node: Node
    kind: Kind
    step: Fraction = Fraction(1)
    column: Column | None = None
    literal: str | None = None


_KIND_OF = {
    ColumnType.INT: Kind.NUMBER,
    ColumnType.DECIMAL: Kind.NUMBER,
    ColumnType.CATEGORY: Kind.CATEGORY,
    ColumnType.BOOL: Kind.TRUTH,
    ColumnType.DATE: Kind.DATE,
    ColumnType.TIMESTAMP: Kind.TIMESTAMP,
}
_INT64 = 2**63 - 1


def lower(expression: Expression, schema: Schema) -> Lowered:
    """Check types and settle units. Raises UnknownColumn, UnknownCategory, WrongType, ResolutionNeeded,
    ValueOutOfRange."""
    match expression:
        case ColumnValue(name=name):
            return _lower_column(schema.column(name))
        case Number(value=value):
            exact = Fraction(value)
            node = program.checked(program.constant(exact.numerator), "A literal")
            return Lowered(node, Kind.NUMBER, Fraction(1, exact.denominator))
        case TextValue(value=value):
            return Lowered(program.NULL, Kind.TEXT, literal=value)
        case TruthValue(value=truth):
            return Lowered(program.TRUE if truth else program.FALSE, Kind.TRUTH)
        case Arithmetic(op="divide"):
            return _lower_division(expression, schema)
        case Arithmetic():
            return _lower_arithmetic(expression, schema)
        case Round():
            return _lower_round(expression, schema)
        case Case():
            return _lower_case(expression, schema)
        case Comparing():
            return _lower_comparison(expression, schema)
        case Logic():
            return _lower_logic(expression, schema)
        case Not(term=term):
            return Lowered(program.negation(lower_condition(term, schema)), Kind.TRUTH)
        case Missing(value=value):
            return _lower_missing(value, schema)
        case SubjectCount():
            hint = "Ask for it as a statistic of its own."
            raise WrongType(operation="Arithmetic, a condition or a group", given="a number of subjects", hint=hint)
        case Part(seed=seed, parts=parts):
            if schema.subject_key is None:
                raise SplitNeedsSubjectKey(table=schema.table)
            return Lowered(program.part(split_key(seed), parts), Kind.PART)


def split_key(seed: str) -> int:
    """120 bits that a split's seed stands for."""
    return int.from_bytes(sha256("ceiba/v1/split", seed.encode())[:15])


def seeds_of(part: object) -> frozenset[str]:
    """The seeds of all splits in a document, such as a plan, or in anything within one."""
    match part:
        case Part(seed=seed):
            return frozenset({seed})
        case Document():
            return seeds_of(tuple(getattr(part, name) for name in type(part).model_fields))
        case tuple() | list():
            return frozenset().union(*map(seeds_of, part))
    return frozenset()


_last_logic: tuple[Logic, Schema, Lowered] | None = None


def _lower_logic(expression: Logic, schema: Schema) -> Lowered:
    """The last one is remembered: the thousands of sums of one statistic share one long condition, the same object."""
    global _last_logic
    last = _last_logic
    if last is not None and last[0] is expression and last[1] is schema:
        return last[2]
    nodes = tuple(lower_condition(term, schema) for term in expression.terms)
    made = Lowered(program.all_of(nodes) if expression.op == "and" else program.any_of(nodes), Kind.TRUTH)
    _last_logic = (expression, schema, made)
    return made


def _lower_missing(value: Expression, schema: Schema) -> Lowered:
    lowered = lower(value, schema)
    if lowered.kind is Kind.TEXT:
        raise WrongType(operation="IS NULL", given=lowered.kind, hint="Test a column, or an expression of columns.")
    return Lowered(program.is_null(lowered.node), Kind.TRUTH)


def lower_condition(expression: Expression, schema: Schema) -> Node:
    """A condition's program. Raises WrongType for anything that is not true or false."""
    lowered = lower(expression, schema)
    if lowered.kind is not Kind.TRUTH:
        raise WrongType(operation="A condition", given=lowered.kind, hint="Compare it with something.")
    return lowered.node


def lower_number(expression: Expression, schema: Schema, operation: str) -> Lowered:
    """A number's program and step; a condition counts as 1 or 0. Raises WrongType for other kinds."""
    return _as_number(lower(expression, schema), operation)


def _as_number(lowered: Lowered, operation: str) -> Lowered:
    if lowered.kind is Kind.TRUTH:
        return replace(lowered, kind=Kind.NUMBER)
    if lowered.kind is not Kind.NUMBER:
        hint = "Use a numeric column; categories can be counted in groups or with CASE WHEN ... THEN 1."
        raise WrongType(operation=operation, given=lowered.kind, hint=hint)
    return lowered


def lower_sum(expression: Expression, schema: Schema) -> Lowered:
    """A number that will be summed over rows, so every column it adds up must have bounds; or the subjects' count."""
    if isinstance(expression, SubjectCount):
        return Lowered(program.SUBJECTS, Kind.NUMBER)
    lowered = lower_number(expression, schema, "A sum")
    if max(abs(lowered.node.low), abs(lowered.node.high)) >= _INT64:
        unbounded = [name for name in sorted(columns_of(expression)) if schema.column(name).range is None]
        if unbounded:
            raise UnboundedColumn(column=unbounded[0])
    return lowered


def _lower_column(column: Column) -> Lowered:
    low, high = column.range or (-_INT64, _INT64)
    node: Node = program.load(column.name, low, high, column.nullable)
    if column.type is ColumnType.BOOL:
        node = program.compare(Comparison.EQUAL, node, program.TRUE)
    step = column.step if column.type in NUMERIC else Fraction(1)
    return Lowered(node, _KIND_OF[column.type], step, column)


def common_step(left: Fraction, right: Fraction) -> Fraction:
    """The largest step of which both are whole multiples."""
    numerator = math.gcd(left.numerator * right.denominator, right.numerator * left.denominator)
    return Fraction(numerator, left.denominator * right.denominator)


def to_step(lowered: Lowered, step: Fraction) -> Node:
    """The value in units of `step`, of which its own step is a whole multiple."""
    return program.scale(lowered.node, int(lowered.step / step))


def _lower_arithmetic(expression: Arithmetic, schema: Schema) -> Lowered:
    left, right = lower(expression.left, schema), lower(expression.right, schema)
    if expression.op == "subtract" and left.kind is right.kind is Kind.DATE:
        return Lowered(program.add(left.node, program.negate(right.node)), Kind.NUMBER)
    left, right = _as_number(left, "Arithmetic"), _as_number(right, "Arithmetic")
    if expression.op == "multiply":
        return Lowered(program.multiply(left.node, right.node), Kind.NUMBER, left.step * right.step)
    step = common_step(left.step, right.step)
    addend = to_step(right, step)
    if expression.op == "subtract":
        addend = program.negate(addend)
    return Lowered(program.add(to_step(left, step), addend), Kind.NUMBER, step)


def _lower_division(expression: Arithmetic, schema: Schema) -> Lowered:
    left = lower_number(expression.left, schema, "Division")
    right = lower_number(expression.right, schema, "Division")
    if not isinstance(right.node, program.Constant):
        raise ResolutionNeeded()
    divisor = (right.node.value or 0) * right.step
    if divisor == 0:
        raise WrongType(operation="Division", given="the literal 0", hint="Divide by something else.")
    node = program.negate(left.node) if divisor < 0 else left.node
    return Lowered(node, Kind.NUMBER, left.step / abs(divisor))


def _lower_round(expression: Round, schema: Schema) -> Lowered:
    step = Fraction(1, 10**expression.digits)
    inner = expression.value
    if isinstance(inner, Arithmetic) and inner.op == "divide":
        left = lower_number(inner.left, schema, "Division")
        right = lower_number(inner.right, schema, "Division")
    else:
        left, right = lower_number(inner, schema, "ROUND"), Lowered(program.TRUE, Kind.NUMBER)
    factor = left.step / right.step / step
    numerator = program.scale(left.node, factor.numerator)
    denominator = program.scale(right.node, factor.denominator)
    return Lowered(program.rounded_quotient(numerator, denominator), Kind.NUMBER, step)


def _lower_case(expression: Case, schema: Schema) -> Lowered:
    conditions = [lower_condition(branch.when, schema) for branch in expression.branches]
    values = [lower_number(branch.then, schema, "CASE") for branch in expression.branches]
    if expression.otherwise is not None:
        values.append(lower_number(expression.otherwise, schema, "CASE"))
    step = values[0].step
    for value in values[1:]:
        step = common_step(step, value.step)
    nodes = [to_step(value, step) for value in values]
    otherwise = nodes.pop() if expression.otherwise is not None else program.NULL
    return Lowered(program.choose(tuple(zip(conditions, nodes, strict=True)), otherwise), Kind.NUMBER, step)


_ORDERED = {Kind.NUMBER, Kind.DATE, Kind.TIMESTAMP, Kind.PART}


def _lower_comparison(expression: Comparing, schema: Schema) -> Lowered:
    left, right = _read_literals(lower(expression.left, schema), lower(expression.right, schema))
    if left.kind is Kind.TRUTH and right.kind is Kind.NUMBER:
        left = replace(left, kind=Kind.NUMBER)
    if left.kind is Kind.NUMBER and right.kind is Kind.TRUTH:
        right = replace(right, kind=Kind.NUMBER)
    left, right = _read_part(left, right), _read_part(right, left)
    same_domain = left.kind is not Kind.CATEGORY or _domain(left) == _domain(right)
    are_parts = isinstance(left.node, program.Part) and isinstance(right.node, program.Part)
    is_refused = are_parts or left.kind is Kind.TEXT or not same_domain
    if left.kind is not right.kind or is_refused:
        given = f"{left.kind} and {right.kind}"
        raise WrongType(operation="A comparison", given=given, hint="Compare values of the same kind.")
    equality = expression.comparison in (Comparison.EQUAL, Comparison.NOT_EQUAL)
    if not equality and left.kind not in _ORDERED:
        hint = "Only = and <> apply to it, or IN with several values."
        raise WrongType(operation=f"The comparison {expression.comparison}", given=left.kind, hint=hint)
    step = common_step(left.step, right.step)
    node = program.compare(expression.comparison, to_step(left, step), to_step(right, step))
    return Lowered(node, Kind.TRUTH)


def _read_part(value: Lowered, beside: Lowered) -> Lowered:
    """A whole number beside a part of a split is the part's number."""
    is_whole = isinstance(value.node, program.Constant) and value.step == 1 and value.kind is Kind.NUMBER
    return replace(value, kind=Kind.PART) if is_whole and beside.kind is Kind.PART else value


def _domain(lowered: Lowered) -> tuple[str, ...] | None:
    return lowered.column.domain if lowered.column else None


def _read_literals(left: Lowered, right: Lowered) -> tuple[Lowered, Lowered]:
    """A text literal takes the type of the column beside it."""
    if right.literal is not None and left.column is not None:
        return left, _read_literal(right.literal, left)
    if left.literal is not None and right.column is not None:
        return _read_literal(left.literal, right), right
    return left, right


def _read_literal(text: str, beside: Lowered) -> Lowered:
    column = beside.column
    assert column is not None
    try:
        code = column.encode(text)
    except (ValueError, KeyError):
        given = f"{beside.kind} ({column.name}) and the text {text!r}"
        hint = {
            Kind.DATE: "Write dates as '2026-01-31'.",
            Kind.TIMESTAMP: "Write times as '2026-01-31T12:00'.",
        }
        raise WrongType(
            operation="A comparison",
            given=given,
            hint=hint.get(beside.kind, "Write it as the column's type."),
        ) from None
    return replace(beside, node=program.constant(code))


def columns_of(expression: Expression) -> frozenset[str]:
    """Names of all columns that an expression reads."""
    match expression:
        case ColumnValue(name=name):
            return frozenset({name})
        case Number() | TextValue() | TruthValue() | SubjectCount() | Part():
            return frozenset()
        case Arithmetic(left=left, right=right) | Comparing(left=left, right=right):
            return columns_of(left) | columns_of(right)
        case Round(value=value) | Missing(value=value) | Not(term=value):
            return columns_of(value)
        case Logic():
            return _columns_of_logic(expression)
        case Case(branches=branches, otherwise=otherwise):
            parts = [part for branch in branches for part in (branch.when, branch.then)]
            return frozenset().union(*map(columns_of, [*parts, *([otherwise] if otherwise else [])]))


_last_columns: tuple[Logic, frozenset[str]] | None = None


def _columns_of_logic(expression: Logic) -> frozenset[str]:
    """The last one is remembered, as by `_lower_logic`."""
    global _last_columns
    last = _last_columns
    if last is not None and last[0] is expression:
        return last[1]
    made: frozenset[str] = frozenset().union(*map(columns_of, expression.terms))
    _last_columns = (expression, made)
    return made


_SIGN = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def to_text(expression: Expression) -> str:
    """The expression in SQL-like words, for people; parties compute on the document, never on this text."""
    match expression:
        case ColumnValue(name=name):
            return name
        case Number(value=value):
            return value
        case TextValue(value=value):
            return "'" + value.replace("'", "''") + "'"
        case TruthValue(value=truth):
            return "TRUE" if truth else "FALSE"
        case Arithmetic(op=op, left=left, right=right):
            return f"({to_text(left)} {_SIGN[op]} {to_text(right)})"
        case Round(value=value, digits=digits):
            return f"ROUND({to_text(value)}, {digits})"
        case Case(branches=branches, otherwise=otherwise):
            arms = " ".join(f"WHEN {to_text(arm.when)} THEN {to_text(arm.then)}" for arm in branches)
            return f"CASE {arms}{f' ELSE {to_text(otherwise)}' if otherwise else ''} END"
        case Comparing(comparison=comparison, left=left, right=right):
            return f"{to_text(left)} {comparison} {to_text(right)}"
        case Logic(op=op, terms=terms):
            return "(" + f" {op.upper()} ".join(map(to_text, terms)) + ")"
        case Not(term=Missing(value=value)):
            return f"{to_text(value)} IS NOT NULL"
        case Not(term=term):
            return f"NOT ({to_text(term)})"
        case Missing(value=value):
            return f"{to_text(value)} IS NULL"
        case SubjectCount():
            return "COUNT(DISTINCT subject)"
        case Part(seed=seed, parts=parts):
            return f"SPLIT({to_text(TextValue(value=seed))}, {parts})"
