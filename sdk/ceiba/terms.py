"""Terms: what a merchant writes with Python's operators, turned into the protocol's closed expressions.

    (heart.age > 50) & (heart.sex == "female")
    (heart.weight / (heart.height * heart.height)).round(1)

A term computes nothing; it is a question's part. SQL is read into the same terms, so that a question has one form,
however it was asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Literal, TypeVar, overload

from pydantic import ValidationError

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import BadQuestion, PlanTooLarge, WrongType
from ceiba_protocol.expression import (
    MAX_DIGITS,
    Arithmetic,
    Branch,
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
    TextValue,
    TruthValue,
    to_text,
)
from ceiba_protocol.plan import ByBucket, ByCalendar, ByCase, ByColumn, GroupKey, LabelBranch
from ceiba_protocol.program import CalendarUnit, Comparison
from ceiba_protocol.schema import nearest
from ceiba_protocol.wording import is_condition, key_text, parts_key, split_of

MAX_NESTING = 56
"""Levels of a plan as JSON; the manifest around it adds a few, and 64 is where documents are refused."""
MAX_MAGNITUDE = 40
"""A literal has no digits beyond 10^40 or below 10^-40."""

Scalar = bool | int | float | Decimal
"""A number or truth value, as Python or NumPy has it."""
_Document = TypeVar("_Document", bound=Document)


def built(make: Callable[..., _Document], **fields: Any) -> _Document:
    """A document made from what a merchant typed. Raises BadQuestion where the protocol refuses the value."""
    try:
        return make(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or make.__name__
        problem = f"{field}: {str(first['msg']).removeprefix('Value error, ')}"
        raise BadQuestion(problem=problem, hint="Give a value of the kind that it asks for.") from None


def require_shallow(document: Document) -> None:
    """Raises PlanTooLarge for what is nested too deeply to be sent. Walks without recursion."""
    level: list[Any] = [document]
    for _ in range(MAX_NESTING):
        level = [part for item in level for part in _parts_of(item)]
        if not level:
            return
    raise PlanTooLarge(what="nesting", limit=MAX_NESTING)


def _parts_of(value: Any) -> list[Any]:
    parts = vars(value).values() if isinstance(value, Document) else value
    return [part for part in parts if isinstance(part, Document | tuple)]


# --- literals ---------------------------------------------------------------------------------------------------


def literal(value: object) -> Expression:
    """A Python value as an exact literal; a float counts as the decimal that it prints as."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()  # a NumPy scalar
    match value:
        case bool():
            return TruthValue(value=value)
        case int() | Decimal():
            return _number(Decimal(value))
        case float():
            return _number(Decimal(repr(value)))
        case str():
            return built(TextValue, value=_nfc(value))
        case date():
            return TextValue(value=value.isoformat())
    hint = "Use numbers, text, True or False, dates; .isnull() asks for missing values."
    raise BadQuestion(problem=f"{type(value).__name__} is no kind of value that a question can contain", hint=hint)


def _number(value: Decimal) -> Number:
    if not value.is_finite() or (value and abs(value.adjusted()) > MAX_MAGNITUDE):
        hint = f"Use finite numbers between 10^-{MAX_MAGNITUDE} and 10^{MAX_MAGNITUDE}."
        raise BadQuestion(problem="a number is not finite, or too large or small", hint=hint)
    if value == value.to_integral_value():
        return built(Number, value=str(int(value)))
    return built(Number, value=format(value, "f").rstrip("0"))


def expression_of(value: object) -> Expression:
    """A term's expression; any other value as a literal."""
    return value.expression if isinstance(value, Term) else literal(value)


def python_value(value: object) -> object:
    """A literal term as Python has it; anything else unchanged."""
    match value:
        case Term(expression=Number(value=text)):
            exact = Decimal(text)
            return int(exact) if exact == exact.to_integral_value() else exact
        case Term(expression=TextValue(value=text)):
            return text
        case Term(expression=TruthValue(value=truth)):
            return truth
    return value


# --- terms ------------------------------------------------------------------------------------------------------


class Term:
    """A column, or something computed from columns on each row: a part of a question, not a value.

    >>> (col("age") + 1) * 2 > 100
    ((age + 1) * 2) > 100
    """

    __slots__ = ("expression",)
    __match_args__ = ("expression",)

    def __init__(self, expression: Expression) -> None:
        self.expression = expression

    def __repr__(self) -> str:
        return to_text(self.expression)

    def __bool__(self) -> bool:
        hint = "Write & | ~ instead of and, or, not, with comparisons in parentheses; .between(a, b) for a < x < b."
        raise BadQuestion(problem="a term has no truth value before the question is asked", hint=hint)

    def alias(self, name: str) -> Grouping:
        """The term as a grouping key with a name of its own: `group_by((heart.age > 50).alias("old"))`."""
        return grouping(self).alias(name)

    # arithmetic

    def __add__(self, other: object) -> Term:
        return Term(Arithmetic(op="add", left=self.expression, right=expression_of(other)))

    def __radd__(self, other: object) -> Term:
        return Term(literal(other)) + self

    def __sub__(self, other: object) -> Term:
        return Term(Arithmetic(op="subtract", left=self.expression, right=expression_of(other)))

    def __rsub__(self, other: object) -> Term:
        return Term(literal(other)) - self

    def __mul__(self, other: object) -> Term:
        return Term(Arithmetic(op="multiply", left=self.expression, right=expression_of(other)))

    def __rmul__(self, other: object) -> Term:
        return Term(literal(other)) * self

    def __truediv__(self, other: object) -> Term:
        return Term(Arithmetic(op="divide", left=self.expression, right=expression_of(other)))

    def __rtruediv__(self, other: object) -> Term:
        return Term(literal(other)) / self

    def __neg__(self) -> Term:
        if isinstance(self.expression, Number):
            return Term(_number(Decimal(self.expression.value).copy_negate()))
        return self * -1

    def __pos__(self) -> Term:
        return self

    def round(self, digits: int = 0) -> Term:
        """To `digits` decimals, halves away from zero. A quotient of columns needs it: `(a / b).round(2)`."""
        if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= MAX_DIGITS:
            hint = f"Round to 0 to {MAX_DIGITS} decimals."
            raise BadQuestion(problem=f"ROUND to {digits!r} digits is not possible", hint=hint)
        return Term(Round(value=self.expression, digits=digits))

    # comparison

    def __eq__(self, other: object) -> Term:  # type: ignore[override]
        return _compare(Comparison.EQUAL, self, other)

    def __ne__(self, other: object) -> Term:  # type: ignore[override]
        return _compare(Comparison.NOT_EQUAL, self, other)

    def __lt__(self, other: object) -> Term:
        return _compare(Comparison.LESS, self, other)

    def __le__(self, other: object) -> Term:
        return _compare(Comparison.LESS_OR_EQUAL, self, other)

    def __gt__(self, other: object) -> Term:
        return _compare(Comparison.GREATER, self, other)

    def __ge__(self, other: object) -> Term:
        return _compare(Comparison.GREATER_OR_EQUAL, self, other)

    def between(self, low: object, high: object) -> Term:
        """Not below `low` and not above `high`: `heart.age.between(50, 59)`."""
        return (self >= low) & (self <= high)

    def isin(self, values: Collection[object]) -> Term:
        """Equal to one of `values`: `heart.sex.isin(["female", "other"])`. No values: true for no row."""
        if isinstance(values, str):
            raise BadQuestion(problem="isin() was given a text", hint='Give a list: isin(["female"]).')
        tests: list[Expression] = [(self == value).expression for value in values]
        if len(tests) > 1:
            return Term(Logic(op="or", terms=tuple(tests)))
        return Term(tests[0] if tests else TruthValue(value=False))

    def isnull(self) -> Term:
        """True where the value is missing."""
        return Term(Missing(value=self.expression))

    def notnull(self) -> Term:
        """True where the value is there."""
        return ~self.isnull()

    # logic

    def __and__(self, other: object) -> Term:
        return joined("and", (self, other))

    def __rand__(self, other: object) -> Term:
        return joined("and", (other, self))

    def __or__(self, other: object) -> Term:
        return joined("or", (self, other))

    def __ror__(self, other: object) -> Term:
        return joined("or", (other, self))

    def __invert__(self) -> Term:
        return Term(Not(term=self.expression))


def _compare(comparison: Comparison, left: Term, right: object) -> Term:
    if right is None:
        hint = "Use .isnull() or .notnull(); in SQL, nothing equals NULL."
        raise BadQuestion(problem="a term was compared with None", hint=hint)
    return Term(Comparing(comparison=comparison, left=left.expression, right=expression_of(right)))


def joined(op: Literal["and", "or"], parts: Iterable[object]) -> Term:
    """AND or OR of several terms; chains become one list, so that a & b & c nests no deeper than a & b."""
    terms = tuple(term for part in parts for term in _chain(op, expression_of(part)))
    return Term(Logic(op=op, terms=terms))


def _chain(op: str, expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, Logic) and expression.op == op:
        return expression.terms
    return (expression,)


def col(name: str) -> Term:
    """The column `name` of whichever table the question is about, or of a result in `having`: `col("age") > 50`."""
    return Term(built(ColumnValue, name=name))


def column_or_term(value: object) -> Term:
    """A term as it is, a text as the name of a column."""
    return value if isinstance(value, Term) else col(value)  # type: ignore[arg-type]


@overload
def case(*branches: tuple[Term, str], otherwise: str | None = None) -> Grouping: ...
@overload
def case(*branches: tuple[Term, Term | Scalar], otherwise: Term | Scalar | None = None) -> Term: ...
def case(*branches: tuple[Term, Any], otherwise: Any = None) -> Grouping | Term:
    """SQL's CASE: the value of the first condition that holds, or else `otherwise`.

    With numbers it is a term to compute with; with text labels, groups:
    `group_by(case((heart.age < 40, "young"), (heart.age < 65, "middle"), otherwise="old").alias("age_group"))`
    """
    if not branches:
        raise BadQuestion(problem="case() has no branches", hint="Write case((condition, value), ..., otherwise=...).")
    values = [value for _, value in branches] + ([] if otherwise is None else [otherwise])
    texts = [isinstance(value, str) for value in values]
    if all(texts):
        arms = tuple(built(LabelBranch, when=expression_of(when), label=_nfc(label)) for when, label in branches)
        label = None if otherwise is None else _nfc(otherwise)
        return Grouping(built(ByCase, name="case", branches=arms, otherwise=label))
    if any(texts):
        raise BadQuestion(problem="case() mixes text labels and numbers", hint="Use labels only, or numbers only.")
    branch = tuple(Branch(when=expression_of(when), then=expression_of(then)) for when, then in branches)
    return Term(Case(branches=branch, otherwise=None if otherwise is None else expression_of(otherwise)))


def _nfc(text: str) -> str:
    """A text in the one form that documents have; what else they refuse is found when one is built."""
    return unicodedata.normalize("NFC", text)


def split(seed: str, parts: int = 5) -> Term:
    """Which of 2, 4, 5, 10 or 20 parts of a split a row's subject is in, from 0: the same at every holder, in every
    version, whatever the rows are.

    `heart.filter(ceiba.split("study 7") != 0)` to fit, and `== 0` to judge; or `group_by(ceiba.split("study 7"))`.
    Under an agreement that protects small groups, the seed is the agreement's purpose. Needs a table with a subject
    key; raises SplitNeedsSubjectKey when it is used with another.
    """
    if not isinstance(seed, str):
        raise BadQuestion(problem="a split's seed is no text", hint='Write, for example, ceiba.split("study 7", 5).')
    if parts not in SPLITS:
        raise BadQuestion(problem=f"a split has no {parts} parts", hint="Choose 2, 4, 5, 10 or 20.")
    return Term(built(Part, seed=_nfc(seed), parts=parts))


SPLITS = (2, 4, 5, 10, 20)
"""How many parts there can be: with any others, the parts of two splits would differ by few people."""


# --- groups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grouping:
    """One grouping key with its name in the result."""

    key: GroupKey
    written: str = ""
    """As it was written, where the key does not say so any more."""
    numeric: bool = False
    """Whether its labels are whole numbers."""

    def alias(self, name: str) -> Grouping:
        """The same groups under another name."""
        kind: Callable[..., GroupKey] = type(self.key)
        return replace(self, key=built(kind, **{**dict(self.key), "name": name}))

    def same_groups(self, other: Grouping) -> bool:
        """Whether both make the same groups, whatever they are called."""
        return self.alias("_").key == other.alias("_").key

    @property
    def title(self) -> str:
        """The key as SQL would write it."""
        if self.written:
            return self.written
        if isinstance(self.key, ByCase) and not is_condition(self.key) and split_of(self.key) is None:
            return "case"
        return key_text(self.key)


def plan_name(title: str) -> str:
    """A name that a plan can carry, from any text: `avg(age)` becomes `avg_age`."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", title.replace("<", " lt ").replace(">", " gt ").replace("=", " eq "))
    name = words.strip("_") if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", title) is None else title
    return (name if re.match("[A-Za-z_]", name) else f"_{name}")[:63]


def grouping(key: object) -> Grouping:
    """A grouping key from a column's name, a column, a condition (its groups are true and false), or itself."""
    if isinstance(key, Grouping):
        return key
    expression = column_or_term(key).expression
    require_shallow(expression)
    if isinstance(expression, ColumnValue):
        return Grouping(ByColumn(name=expression.name, column=expression.name))
    if isinstance(expression, Part):
        return Grouping(parts_key("part", expression))
    if not is_groupable(expression):
        hint = "Group numbers by bins, width_bucket(x, low, high, count), or by labels, case((condition, label), ...)."
        raise WrongType(operation="GROUP BY", given="a computed value", hint=hint)
    yes = LabelBranch(when=expression, label="true")
    no = LabelBranch(when=Not(term=expression), label="false")
    return _titled(Grouping(ByCase(name="_", branches=(yes, no))))


def is_groupable(expression: Expression) -> bool:
    """Whether an expression has public values by itself: a column's domain, a condition's truth, a split's parts."""
    return isinstance(expression, ColumnValue | Comparing | Logic | Not | Missing | TruthValue | Part)


def _titled(made: Grouping) -> Grouping:
    return made.alias(plan_name(made.title))


def width_bucket(x: Term | str, low: Scalar, high: Scalar, count: int) -> Grouping:
    """`count` equal bins from `low` to `high`, numbered from 1; 0 lies below and count+1 above, as in SQL.

    `heart.group_by(width_bucket(heart.age, 0, 100, 10).alias("decade")).count()`
    """
    value, ends = column_or_term(x).expression, (expression_of(low), expression_of(high))
    require_shallow(value)
    return _titled(Grouping(built(ByBucket, name="_", value=value, low=ends[0], high=ends[1], count=count)))


def date_trunc(unit: str, column: Term | str) -> Grouping:
    """Calendar units (day, week, month, quarter, year) of a date or timestamp, named by their first day.

    `visits.group_by(date_trunc("month", visits.arrived)).count()`
    """
    expression = column_or_term(column).expression
    if not isinstance(expression, ColumnValue):
        raise BadQuestion(problem="date_trunc() was given a computed value", hint="Give it a column.")
    units = [str(known) for known in CalendarUnit]
    if str(unit).lower() not in units:
        problem = f"{unit!r} is no calendar unit; the nearest is {nearest(str(unit), units)}"
        raise BadQuestion(problem=problem, hint=f"The units are {', '.join(units)}.")
    calendar = CalendarUnit(str(unit).lower())
    return _titled(Grouping(ByCalendar(name="_", column=expression.name, unit=calendar)))
