"""Expressions in SQL: each node is looked up by its exact class in one closed table, and becomes a term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Literal

from sqlglot import exp

from ceiba.sql.functions import is_literal
from ceiba.sql.patterns import matching
from ceiba.sql.refusals import Refusal
from ceiba.sql.source import Source
from ceiba.terms import Grouping, Term, case, joined, literal, python_value
from ceiba_protocol.expression import TruthValue


class Reader:
    """Turns nodes into terms. What a name or a function call means is for the subclasses to say."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def term(self, node: exp.Expr) -> Term:
        """A node as a term. Raises UnsupportedSQL for every class that is not in the table."""
        handler = _HANDLERS.get(type(node))
        return handler(self, node) if handler else self.source.refuse(node)

    def column(self, node: exp.Column) -> Term:
        raise NotImplementedError

    def call(self, node: exp.Anonymous) -> Term:
        raise NotImplementedError

    def chosen(self, node: exp.Expr, branches: list[Any], otherwise: Any) -> Term:
        """CASE, whose outcomes may be text only where they make groups, or where rows are finished. With conditions as
        outcomes it is one."""
        made: Term | Grouping = case(*branches, otherwise=otherwise)
        if isinstance(made, Grouping):
            hint = "Labels make groups: use it in GROUP BY, or give numbers."
            self.source.refuse(node, Refusal("A CASE with text here", hint, "CASE"))
        values = [value for _, value in branches] + ([] if otherwise is None else [otherwise])
        return made == 1 if self.are_conditions(values) else made

    def date_part(self, node: exp.Expr) -> Term:
        """EXTRACT(year FROM x), YEAR(x), date_part('year', x): a number."""
        raise NotImplementedError

    def are_conditions(self, terms: Sequence[Term]) -> bool:
        """Whether they are all known to be true or false, rather than numbers."""
        raise NotImplementedError

    def labels(self, node: exp.Expr) -> tuple[str, ...] | None:
        """The public values of a column of text; None if there are none."""
        raise NotImplementedError

    def rounding(self, node: exp.Anonymous) -> Term:
        """ROUND(x) and ROUND(x, digits)."""
        if len(node.expressions) not in (1, 2):
            self.source.bad(node, "ROUND takes a value and a number of digits")
        value, *digits = node.expressions
        wanted: list[Any] = [python_value(self.term(one)) for one in digits]
        return self.term(value).round(*wanted)


def _literal(reader: Reader, node: exp.Literal) -> Term:
    return Term(literal(node.this if node.is_string else _decimal(reader, node)))


def _decimal(reader: Reader, node: exp.Literal) -> Any:
    try:
        return Decimal(node.this)
    except InvalidOperation:
        reader.source.bad(node, "a number is not written in decimal")


def _null(reader: Reader, node: exp.Null) -> Term:
    reader.source.refuse(node, Refusal("NULL as a value", "Write IS NULL or IS NOT NULL.", "NULL"))


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Reader, Any], Term]:
    def handler(reader: Reader, node: exp.Binary) -> Term:
        _require_parentheses(reader, node)
        term: Term = compare(reader.term(node.left), reader.term(node.right))
        return term

    return handler


def _require_parentheses(reader: Reader, node: exp.Binary) -> None:
    """`a < b = c` and `a = NOT b` mean different things to different databases, so they are refused."""
    for side in (node.left, node.right):
        if type(side) in _COMPARISONS or type(side) is exp.Not:
            hint = "Put parentheses around the condition that belongs together."
            reader.source.refuse(side, Refusal("A comparison of a condition without parentheses", hint))


def _arithmetic(operation: Callable[[Term, Term], Term]) -> Callable[[Reader, Any], Term]:
    return lambda reader, node: operation(reader.term(node.left), reader.term(node.right))


def _logic(op: Literal["and", "or"]) -> Callable[[Reader, Any], Term]:
    """AND and OR; long chains are read without recursion."""

    def handler(reader: Reader, node: exp.Connector) -> Term:
        return joined(op, [reader.term(part) for part in _chain(node)])

    return handler


def _chain(node: exp.Connector) -> list[exp.Expr]:
    parts = []
    left: exp.Expr = node
    while type(left) is type(node):
        parts.append(left.expression)
        left = left.this
    return [left, *reversed(parts)]


def _between(reader: Reader, node: exp.Between) -> Term:
    _require_only(reader, node, "this", "low", "high")
    return reader.term(node.this).between(reader.term(node.args["low"]), reader.term(node.args["high"]))


def _in(reader: Reader, node: exp.In) -> Term:
    _require_only(reader, node, "this", "expressions")
    return reader.term(node.this).isin([reader.term(value) for value in node.expressions])


def _require_only(reader: Reader, node: exp.Expr, *known: str) -> None:
    """Refuse a node with a part that the subset does not know, such as IN with a subquery."""
    for name, part in node.args.items():
        if part and name not in known:
            form = Refusal(f"This form of {node.key.upper()}", "Write x IN (1, 2), x BETWEEN 1 AND 2.")
            reader.source.refuse(part, None if type(part) is exp.Subquery else form)


def _is(reader: Reader, node: exp.Is) -> Term:
    value, asked = reader.term(node.this), node.expression
    match asked:
        case exp.Null():
            return value.isnull()
        case exp.Boolean(this=True):
            return value.notnull() & value
        case exp.Boolean():
            return value.notnull() & ~value
    return reader.source.refuse(node, Refusal("IS with this operand", "Write IS NULL, IS TRUE or IS FALSE.", "IS"))


def _if(reader: Reader, node: exp.If) -> Term:
    return reader.chosen(node, *if_parts(reader, node))


def if_parts(reader: Reader, node: exp.If) -> tuple[list[Any], Any]:
    """IF(condition, value, other) as the branches of a CASE, and what it is otherwise."""
    default = node.args.get("false")
    return [(reader.term(node.this), _outcome(reader, node.args["true"]))], _otherwise(reader, default)


def _case(reader: Reader, node: exp.Case) -> Term:
    return reader.chosen(node, branches_of(reader, node), otherwise_of(reader, node))


def branches_of(reader: Reader, node: exp.Case) -> list[Any]:
    """Conditions with their values; `CASE x WHEN v` is `CASE WHEN x = v`."""
    subject = reader.term(node.this) if node.this else None
    pairs = []
    for branch in node.args["ifs"]:
        condition = reader.term(branch.this)
        pairs.append((condition if subject is None else subject == condition, _outcome(reader, branch.args["true"])))
    return pairs


def otherwise_of(reader: Reader, node: exp.Case) -> Any:
    return _otherwise(reader, node.args.get("default"))


def _otherwise(reader: Reader, default: exp.Expr | None) -> Any:
    return None if default is None or type(default) is exp.Null else _outcome(reader, default)


def _outcome(reader: Reader, node: exp.Expr) -> Any:
    """A label as text, anything else as a term."""
    return node.this if type(node) is exp.Literal and node.is_string else reader.term(node)


_MOMENTS: dict[exp.DType, type[date]] = {
    exp.DType.DATE: date,
    exp.DType.TIMESTAMP: datetime,
    exp.DType.TIMESTAMPNTZ: datetime,
    exp.DType.TIMESTAMPTZ: datetime,
}


def _cast(reader: Reader, node: exp.Cast) -> Term:
    """DATE '2026-01-31' and TIMESTAMP '…'; no other conversion."""
    moment = _MOMENTS.get(node.to.this)
    if moment is None or type(node.this) is not exp.Literal or not node.this.is_string:
        hint = "Only literals are converted: DATE '2026-01-31', TIMESTAMP '2026-01-31 12:00'."
        reader.source.refuse(node, Refusal("CAST", hint))
    try:
        return Term(literal(moment.fromisoformat(node.this.this)))
    except ValueError:
        reader.source.bad(node, "a literal is no date or time; write DATE '2026-01-31'")


def _distinct(*, negate: bool) -> Callable[[Reader, Any], Term]:
    """IS NOT DISTINCT FROM: equal, or both NULL; never NULL itself. `negate`: IS DISTINCT FROM."""

    def handler(reader: Reader, node: exp.Binary) -> Term:
        _require_parentheses(reader, node)
        sides = [bare(node.left), bare(node.right)]
        terms = [reader.term(side) for side in sides if type(side) is not exp.Null]
        nulls = [Term(TruthValue(value=False)) if is_literal(term) else term.isnull() for term in terms]
        same = joined("and", nulls) if nulls else Term(TruthValue(value=True))
        if len(terms) == 2:
            same = (terms[0] == terms[1]) & ~nulls[0] & ~nulls[1] | same
        return ~same if negate else same

    return handler


def _like(reader: Reader, node: exp.Like | exp.ILike, escape: str = "") -> Term:
    """IN the labels that match. What matches none is FALSE, and NULL for NULL, as `x <> x` is."""
    labels, pattern = reader.labels(bare(node.this)), bare(node.expression)
    if labels is None:
        hint = "Only a column of text with a declared domain is matched, because only its values are public."
        reader.source.refuse(node, Refusal("LIKE on anything but a column with a domain", hint, node.key.upper()))
    if type(pattern) is not exp.Literal or not pattern.is_string:
        reader.source.refuse(node, Refusal("LIKE with this pattern", "Write the pattern as text.", node.key.upper()))
    found = matching(pattern.this, labels, escape=escape, ignore_case=type(node) is exp.ILike)
    term = reader.term(node.this)
    matches = term.isin(found) if found else term != term
    return ~matches if node.args.get("negate") else matches


def _escaped_like(reader: Reader, node: exp.Escape) -> Term:
    like, escape = node.this, node.expression
    if type(like) not in (exp.Like, exp.ILike) or type(escape) is not exp.Literal or len(escape.this) > 1:
        reader.source.bad(node, "ESCAPE takes one character, after a LIKE")
    return _like(reader, like, escape.this)


def _date_arithmetic(reader: Reader, node: exp.Expr) -> date | None:
    """A literal date, perhaps with days added; None for anything else."""
    node = bare(node)
    if type(node) is exp.Cast and node.to.this is exp.DType.DATE:
        return date.fromisoformat(str(python_value(_cast(reader, node))))
    if not isinstance(node, exp.Add | exp.Sub):
        return None
    start, days_text = _date_arithmetic(reader, node.left), bare(node.right)
    if start is None or type(days_text) is not exp.Literal or not days_text.this.isdecimal() or days_text.is_string:
        return None
    try:
        days = timedelta(int(days_text.this))
        return start + days if type(node) is exp.Add else start - days
    except OverflowError:
        reader.source.bad(node, "a date lies beyond the calendar")


def _sum(operation: Callable[[Term, Term], Term]) -> Callable[[Reader, Any], Term]:
    """+ and -, also of a literal date and a number of days, and of two literal dates."""

    def handler(reader: Reader, node: exp.Binary) -> Term:
        shifted = _date_arithmetic(reader, node)
        if shifted is not None:
            return Term(literal(shifted))
        dates = [_date_arithmetic(reader, side) for side in (node.left, node.right)]
        if type(node) is exp.Sub and dates[0] is not None and dates[1] is not None:
            return Term(literal((dates[0] - dates[1]).days))
        return operation(reader.term(node.left), reader.term(node.right))

    return handler


_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: eq,
    exp.NEQ: ne,
    exp.LT: lt,
    exp.LTE: le,
    exp.GT: gt,
    exp.GTE: ge,
}

_HANDLERS: dict[type[exp.Expr], Callable[[Reader, Any], Term]] = {
    **{kind: _comparison(compare) for kind, compare in _COMPARISONS.items()},
    exp.Column: lambda reader, node: reader.column(node),
    exp.Anonymous: lambda reader, node: reader.call(node),
    exp.Literal: _literal,
    exp.Boolean: lambda _, node: Term(TruthValue(value=node.this)),
    exp.Null: _null,
    exp.Paren: lambda reader, node: reader.term(node.this),
    exp.Add: _sum(lambda left, right: left + right),
    exp.Sub: _sum(lambda left, right: left - right),
    exp.Mul: _arithmetic(lambda left, right: left * right),
    exp.Div: _arithmetic(lambda left, right: left / right),
    exp.Neg: lambda reader, node: -reader.term(node.this),
    exp.And: _logic("and"),
    exp.Or: _logic("or"),
    exp.Not: lambda reader, node: ~reader.term(node.this),
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Case: _case,
    exp.If: _if,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Escape: _escaped_like,
    exp.NullSafeEQ: _distinct(negate=False),
    exp.NullSafeNEQ: _distinct(negate=True),
    exp.Extract: lambda reader, node: reader.date_part(node),
    exp.Cast: _cast,
}
"""All of the row algebra. A class that is not here is refused."""


def bare(node: exp.Expr) -> exp.Expr:
    """A node without the parentheses around it."""
    while type(node) is exp.Paren:
        node = node.this
    return node
