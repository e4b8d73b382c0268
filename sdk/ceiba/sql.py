"""SQL, read into the same plans that the Python API builds.

`parse` understands one SELECT over one table: groups, aggregates, WHERE, HAVING, ORDER BY, LIMIT. sqlglot makes the
tree; each node is looked up by its exact class in a closed table, and whatever is not in it is refused by name, with
its place in the text. No text of the merchant ever becomes SQL again: a holder renders its own from the plan.

Import this module when it is needed: sqlglot takes a while to load.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import reduce
from itertools import count
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any, ClassVar, NamedTuple, NoReturn

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokens import Token, TokenType

from ceiba.presentation import Order, Presentation, Shown
from ceiba.statistics import statistic
from ceiba.terms import (
    MAX_NESTING,
    Grouping,
    Term,
    built,
    case,
    col,
    date_trunc,
    grouping,
    is_groupable,
    literal,
    plan_name,
    python_value,
    width_bucket,
)
from ceiba_protocol.errors import BadSQL, PlanTooLarge, UnknownColumn, UnknownTable, UnsupportedSQL
from ceiba_protocol.expression import ColumnValue, Expression, TruthValue, to_text
from ceiba_protocol.plan import ByColumn, Named, Plan
from ceiba_protocol.schema import Schema, nearest
from ceiba_protocol.statistics import STATISTICS, Statistic

SchemaOf = Callable[[str], Schema]
"""The schema of a table by its name; raises UnknownTable."""

AGGREGATES = {name.upper() for kind in STATISTICS.values() for name in kind.sql}
"""SQL functions that are statistics."""
_IRREGULAR = {"CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM", "OVERLAY"}
"""Functions whose arguments are not a plain list."""


class CeibaSQL(DuckDB):
    """DuckDB's SQL, except that functions stay as they were written, with their arguments as a list."""

    class Parser(DuckDBParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser for name, parser in DuckDBParser.FUNCTION_PARSERS.items() if name in _IRREGULAR
        }


def parse(sql: str, schema_of: SchemaOf) -> tuple[Plan, Presentation]:
    """The plan of a question in SQL, and how its result is shown.

    Raises BadSQL for what is no SQL, UnsupportedSQL for what is not in the subset, UnknownTable, UnknownColumn, and
    the errors of the Python API. Types are checked when the plan is compiled.
    """
    try:
        source = _Source.read(sql)
        return _Question(source, schema_of).read()
    except RecursionError:
        raise PlanTooLarge(what="nesting", limit=MAX_NESTING) from None


# --- the text, and places in it ---------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """Why a construct is outside the subset; `word` is the keyword to point at."""

    construct: str
    hint: str = "The subset is described in docs/merchant.md."
    word: str = ""


_ONE_TABLE = "Ask about one table; joining on persons would show who is in both."
_NO_ROWS = "Single persons' rows are never released: group by it, or put it into an aggregate such as AVG."
_FROM_RESULT = "Select the aggregates, and compute with them in the result."
_NO_EXTREMES = "It would be a single person's value, which is never released; use HISTOGRAM(x, low, high, bins)."
_READ_ONLY = "A question starts with SELECT."


@dataclass(frozen=True)
class _Source:
    """The SQL as typed, its tokens, and its one statement."""

    sql: str
    tokens: list[Token]
    select: exp.Select

    @classmethod
    def read(cls, sql: str) -> _Source:
        tokens = _tokenize(sql)
        _require_one_question(sql, tokens)
        try:
            statements = CeibaSQL().parser().parse(tokens, sql)
        except ParseError as error:
            raise _bad(sql, _start_of_error(error, tokens, sql), tokens) from None
        source = cls(sql, tokens, exp.Select())
        tree = statements[0]
        if type(tree) is not exp.Select:
            source.refuse(tree or exp.Select())
        return cls(sql, tokens, tree)

    def place(self, node: exp.Expr, word: str = "") -> tuple[int, int]:
        """Line and column of a node: of the keyword nearest to it if `word` is one, or else of its first token."""
        start = next((start for one in _outwards(node) for start in _starts(one)), 0)
        places = [token.start for token in self.tokens if word and token.text.upper() == word]
        return _line_and_column(self.sql, min(places, key=lambda place: abs(place - start), default=start))

    def refuse(self, node: exp.Expr, refusal: Refusal | None = None) -> NoReturn:
        """Raises UnsupportedSQL for a node, by its class if no reason is given."""
        why = refusal or REFUSED.get(type(node)) or Refusal(f"{type(node).key.upper()}")
        line, column = self.place(node, why.word)
        raise UnsupportedSQL(construct=why.construct, line=line, column=column, hint=why.hint)

    def bad(self, node: exp.Expr, problem: str) -> NoReturn:
        line, column = self.place(node)
        raise BadSQL(line=line, column=column, problem=problem)


def _outwards(node: exp.Expr) -> Iterator[exp.Expr]:
    current: exp.Expr | None = node
    while current is not None:
        yield current
        current = current.parent


def _starts(node: exp.Expr) -> list[int]:
    """Where the first token of a node stands, if one of its parts remembers that."""
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return [min(starts)] if starts else []


def _line_and_column(sql: str, start: int) -> tuple[int, int]:
    before = sql[:start]
    return before.count("\n") + 1, start - (before.rfind("\n") + 1) + 1


def _tokenize(sql: str) -> list[Token]:
    try:
        return CeibaSQL().tokenize(sql)
    except TokenError as error:
        start = _unclosed(error)
        line, column = _line_and_column(sql, len(sql) if start is None else start)
        problem = "a quotation mark or comment is not closed"
        raise BadSQL(line=line, column=column, problem=problem) from None


def _unclosed(error: TokenError) -> int | None:
    """Where the text that has no end begins; sqlglot says it in the error behind the error, as "… line:start"."""
    _, colon, start = str(error.__cause__).rpartition(":")
    return int(start) if colon and start.isdecimal() else None


def _require_one_question(sql: str, tokens: list[Token]) -> None:
    """Refuse before parsing what is not one SELECT: sqlglot would take other statements for opaque commands."""
    if not tokens:
        raise BadSQL(line=1, column=1, problem="there is no question in it")
    first = tokens[0]
    if first.token_type is not TokenType.SELECT:
        why = _OTHER_STATEMENTS.get(first.text.upper(), Refusal(f"The statement {first.text.upper()}", _READ_ONLY))
        _refuse_token(sql, first, why)
    ends = [place for place, token in enumerate(tokens) if token.token_type is TokenType.SEMICOLON]
    if ends and ends[0] + 1 < len(tokens):
        after = tokens[ends[0] + 1]
        _refuse_token(sql, after, Refusal("A second statement", "Ask one question at a time."))


_OTHER_STATEMENTS = {
    "WITH": Refusal("WITH (a common table expression)", _ONE_TABLE),
    "FROM": Refusal("FROM before SELECT", _READ_ONLY),
    "(": Refusal("A statement in parentheses", _READ_ONLY),
}


def _refuse_token(sql: str, token: Token, why: Refusal) -> NoReturn:
    line, column = _line_and_column(sql, token.start)
    raise UnsupportedSQL(construct=why.construct, line=line, column=column, hint=why.hint)


def _start_of_error(error: ParseError, tokens: list[Token], sql: str) -> int:
    """Where sqlglot stopped: it reports the line and the last column of a token."""
    stopped = error.errors[0] if error.errors else {}
    at = [token.start for token in tokens if (token.line, token.col) == (stopped.get("line"), stopped.get("col"))]
    return at[0] if at else len(sql)


def _bad(sql: str, start: int, tokens: list[Token]) -> BadSQL:
    line, column = _line_and_column(sql, start)
    text = next((token.text for token in tokens if token.start == start), "the end")
    return BadSQL(line=line, column=column, problem=f"something is missing or misplaced at {text!r}")


# --- expressions ------------------------------------------------------------------------------------------------


class _Reader:
    """Turns nodes into terms. What a name or a function call means is for the subclasses to say."""

    def __init__(self, source: _Source) -> None:
        self.source = source

    def term(self, node: exp.Expr) -> Term:
        """A node as a term. Raises UnsupportedSQL for every class that is not in the table."""
        handler = _HANDLERS.get(type(node))
        return handler(self, node) if handler else self.source.refuse(node)

    def column(self, node: exp.Column) -> Term:
        raise NotImplementedError

    def call(self, node: exp.Anonymous) -> Term:
        raise NotImplementedError

    def rounding(self, node: exp.Anonymous) -> Term:
        """ROUND(x) and ROUND(x, digits)."""
        if len(node.expressions) not in (1, 2):
            self.source.bad(node, "ROUND takes a value and a number of digits")
        value, *digits = node.expressions
        return self.term(value).round(*(python_value(self.term(one)) for one in digits))


def _literal(reader: _Reader, node: exp.Literal) -> Term:
    return Term(literal(node.this if node.is_string else _decimal(reader, node)))


def _decimal(reader: _Reader, node: exp.Literal) -> Any:
    try:
        return Decimal(node.this)
    except InvalidOperation:
        reader.source.bad(node, "a number is not written in decimal")


def _null(reader: _Reader, node: exp.Null) -> Term:
    reader.source.refuse(node, Refusal("NULL as a value", "Write IS NULL or IS NOT NULL.", "NULL"))


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[_Reader, Any], Term]:
    def handler(reader: _Reader, node: exp.Binary) -> Term:
        _require_parentheses(reader, node)
        term: Term = compare(reader.term(node.left), reader.term(node.right))
        return term

    return handler


def _require_parentheses(reader: _Reader, node: exp.Binary) -> None:
    """`a = b IS NULL` and `a < b = c` mean different things to different databases, so they are refused."""
    for side in (node.left, node.right):
        if type(side) in _COMPARISONS or type(side) in (exp.Is, exp.Not):
            hint = "Put parentheses around the condition that belongs together."
            reader.source.refuse(side, Refusal("A comparison of a condition without parentheses", hint))


def _arithmetic(operation: Callable[[Term, Term], Term]) -> Callable[[_Reader, Any], Term]:
    return lambda reader, node: operation(reader.term(node.left), reader.term(node.right))


def _logic(join: Callable[[Any, Any], Any]) -> Callable[[_Reader, Any], Term]:
    """AND and OR; long chains are read without recursion."""

    def handler(reader: _Reader, node: exp.Connector) -> Term:
        return reduce(join, (reader.term(part) for part in _chain(node)))

    return handler


def _chain(node: exp.Connector) -> list[exp.Expr]:
    parts = []
    left: exp.Expr = node
    while type(left) is type(node):
        parts.append(left.expression)
        left = left.this
    return [left, *reversed(parts)]


def _between(reader: _Reader, node: exp.Between) -> Term:
    _require_only(reader, node, "this", "low", "high")
    return reader.term(node.this).between(reader.term(node.args["low"]), reader.term(node.args["high"]))


def _in(reader: _Reader, node: exp.In) -> Term:
    _require_only(reader, node, "this", "expressions")
    return reader.term(node.this).isin([reader.term(value) for value in node.expressions])


def _require_only(reader: _Reader, node: exp.Expr, *known: str) -> None:
    """Refuse a node with a part that the subset does not know, such as IN with a subquery."""
    for name, part in node.args.items():
        if part and name not in known:
            reader.source.refuse(part if isinstance(part, exp.Expr) else node)


def _is(reader: _Reader, node: exp.Is) -> Term:
    value, asked = reader.term(node.this), node.expression
    match asked:
        case exp.Null():
            return value.isnull()
        case exp.Boolean(this=True):
            return value.notnull() & value
        case exp.Boolean():
            return value.notnull() & ~value
    return reader.source.refuse(node, Refusal("IS with this operand", "Write IS NULL, IS TRUE or IS FALSE.", "IS"))


def _case(reader: _Reader, node: exp.Case) -> Term:
    made = case(*_branches(reader, node), otherwise=_otherwise(reader, node))
    if isinstance(made, Grouping):
        hint = "Labels make groups: use it in GROUP BY, or give numbers."
        reader.source.refuse(node, Refusal("A CASE with text here", hint, "CASE"))
    return made


def _branches(reader: _Reader, node: exp.Case) -> list[Any]:
    """Conditions with their values; `CASE x WHEN v` is `CASE WHEN x = v`."""
    subject = reader.term(node.this) if node.this else None
    pairs = []
    for branch in node.args["ifs"]:
        condition = reader.term(branch.this)
        pairs.append((condition if subject is None else subject == condition, _outcome(reader, branch.args["true"])))
    return pairs


def _otherwise(reader: _Reader, node: exp.Case) -> Any:
    default = node.args.get("default")
    return None if default is None or type(default) is exp.Null else _outcome(reader, default)


def _outcome(reader: _Reader, node: exp.Expr) -> Any:
    """A label as text, anything else as a term."""
    return node.this if type(node) is exp.Literal and node.is_string else reader.term(node)


_MOMENTS: dict[exp.DType, type[date]] = {
    exp.DType.DATE: date,
    exp.DType.TIMESTAMP: datetime,
    exp.DType.TIMESTAMPNTZ: datetime,
    exp.DType.TIMESTAMPTZ: datetime,
}


def _cast(reader: _Reader, node: exp.Cast) -> Term:
    """DATE '2026-01-31' and TIMESTAMP '…'; no other conversion."""
    moment = _MOMENTS.get(node.to.this)
    if moment is None or type(node.this) is not exp.Literal or not node.this.is_string:
        hint = "Only literals are converted: DATE '2026-01-31', TIMESTAMP '2026-01-31 12:00'."
        reader.source.refuse(node, Refusal("CAST", hint))
    try:
        return Term(literal(moment.fromisoformat(node.this.this)))
    except ValueError:
        reader.source.bad(node, f"it is no {node.to.this.value.lower()}; write DATE '2026-01-31'")


_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: eq,
    exp.NEQ: ne,
    exp.LT: lt,
    exp.LTE: le,
    exp.GT: gt,
    exp.GTE: ge,
}

_HANDLERS: dict[type[exp.Expr], Callable[[_Reader, Any], Term]] = {
    **{kind: _comparison(compare) for kind, compare in _COMPARISONS.items()},
    exp.Column: lambda reader, node: reader.column(node),
    exp.Anonymous: lambda reader, node: reader.call(node),
    exp.Literal: _literal,
    exp.Boolean: lambda _, node: Term(TruthValue(value=node.this)),
    exp.Null: _null,
    exp.Paren: lambda reader, node: reader.term(node.this),
    exp.Add: _arithmetic(lambda left, right: left + right),
    exp.Sub: _arithmetic(lambda left, right: left - right),
    exp.Mul: _arithmetic(lambda left, right: left * right),
    exp.Div: _arithmetic(lambda left, right: left / right),
    exp.Neg: lambda reader, node: -reader.term(node.this),
    exp.And: _logic(and_),
    exp.Or: _logic(or_),
    exp.Not: lambda reader, node: ~reader.term(node.this),
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Case: _case,
    exp.Cast: _cast,
}
"""All of the row algebra. A class that is not here is refused."""

_CONDITION = "Use comparisons, IN and BETWEEN; for patterns, IN with the values of the column's domain."
REFUSED: dict[type[exp.Expr], Refusal] = {
    exp.Subquery: Refusal("A subquery", _ONE_TABLE, "SELECT"),
    exp.Select: Refusal("A subquery", _ONE_TABLE, "SELECT"),
    exp.Exists: Refusal("EXISTS", _ONE_TABLE, "EXISTS"),
    exp.Any: Refusal("ANY", _ONE_TABLE, "ANY"),
    exp.All: Refusal("ALL", _ONE_TABLE, "ALL"),
    exp.Union: Refusal("UNION", "Ask two questions.", "UNION"),
    exp.Intersect: Refusal("INTERSECT", "Ask two questions.", "INTERSECT"),
    exp.Except: Refusal("EXCEPT", "Ask two questions.", "EXCEPT"),
    exp.Window: Refusal("A window function", "Use GROUP BY.", "OVER"),
    exp.Filter: Refusal("FILTER", "Aggregate a CASE: SUM(CASE WHEN condition THEN x END).", "FILTER"),
    exp.WithinGroup: Refusal("WITHIN GROUP", _NO_EXTREMES, "WITHIN"),
    exp.Distinct: Refusal("DISTINCT", "Counting distinct values needs each row's value; use GROUP BY.", "DISTINCT"),
    exp.Order: Refusal("ORDER BY inside a function", "Aggregates do not depend on an order.", "ORDER"),
    exp.Star: Refusal("*", _NO_ROWS),
    exp.Placeholder: Refusal("A parameter", "Write the value into the SQL, or use the Python API."),
    exp.Parameter: Refusal("A parameter", "Write the value into the SQL, or use the Python API."),
    exp.Like: Refusal("LIKE", _CONDITION, "LIKE"),
    exp.ILike: Refusal("ILIKE", _CONDITION, "ILIKE"),
    exp.SimilarTo: Refusal("SIMILAR TO", _CONDITION, "SIMILAR"),
    exp.NullSafeEQ: Refusal("IS NOT DISTINCT FROM", _CONDITION, "DISTINCT"),
    exp.NullSafeNEQ: Refusal("IS DISTINCT FROM", _CONDITION, "DISTINCT"),
    exp.If: Refusal("IF", "Write CASE WHEN condition THEN x ELSE y END.", "IF"),
    exp.Mod: Refusal("%", "Use +, -, *, / and ROUND.", "%"),
    exp.IntDiv: Refusal("//", "Use ROUND(a / b, digits).", "//"),
    exp.Pow: Refusal("A power", "Multiply the value by itself."),
    exp.DPipe: Refusal("||", "Texts are compared, never joined.", "||"),
    exp.Interval: Refusal("INTERVAL", "Write the date that you mean: DATE '2026-01-31'.", "INTERVAL"),
    exp.CurrentDate: Refusal("CURRENT_DATE", "Write the date that you mean: DATE '2026-01-31'.", "CURRENT_DATE"),
    exp.CurrentTimestamp: Refusal("CURRENT_TIMESTAMP", "Write the time that you mean.", "CURRENT_TIMESTAMP"),
    exp.Extract: Refusal("EXTRACT", "Group by date_trunc('month', column).", "EXTRACT"),
    exp.Rollup: Refusal("ROLLUP", "Ask one question for each grouping.", "ROLLUP"),
    exp.Cube: Refusal("CUBE", "Ask one question for each grouping.", "CUBE"),
    exp.GroupingSets: Refusal("GROUPING SETS", "Ask one question for each grouping.", "GROUPING"),
    exp.Join: Refusal("A join", _ONE_TABLE, "JOIN"),
    exp.Lateral: Refusal("LATERAL", _ONE_TABLE, "LATERAL"),
    exp.TableSample: Refusal("A sample", "Every row counts.", "SAMPLE"),
    exp.Pivot: Refusal("PIVOT", "Pivot the result.", "PIVOT"),
    exp.Fetch: Refusal("FETCH", "Use LIMIT.", "FETCH"),
    exp.With: Refusal("WITH (a common table expression)", _ONE_TABLE, "WITH"),
    exp.Qualify: Refusal("QUALIFY", "Use HAVING.", "QUALIFY"),
    exp.Into: Refusal("INTO", "Ceiba answers questions and changes nothing.", "INTO"),
    exp.Lock: Refusal("A lock", "Ceiba answers questions and changes nothing.", "FOR"),
    exp.Dot: Refusal("A qualified name of this kind", "Write column, table.column or schema.table.column."),
}
"""What people try, with a better word for it and a way out. Everything else is refused by its class's name."""

_FUNCTION_HINTS = dict.fromkeys(("MIN", "MAX", "FIRST", "LAST", "ANY_VALUE", "ARG_MIN", "ARG_MAX"), _NO_EXTREMES)
_FUNCTION_HINTS |= dict.fromkeys(("MEDIAN", "QUANTILE", "QUANTILE_CONT", "QUANTILE_DISC", "MODE"), _NO_EXTREMES)


def _function(node: exp.Anonymous) -> str:
    return node.name.upper()


def _unknown_function(source: _Source, node: exp.Anonymous) -> NoReturn:
    name = _function(node)
    known = sorted(AGGREGATES | {"ROUND", "WIDTH_BUCKET", "DATE_TRUNC"})
    hint = _FUNCTION_HINTS.get(name, f"The nearest that there is: {nearest(name, known)}.")
    source.refuse(node, Refusal(f"The function {name}", hint))


class _RowReader(_Reader):
    """Expressions over rows: WHERE, and the arguments of groups and aggregates."""

    def __init__(self, source: _Source, schema: Schema, table_names: set[str]) -> None:
        super().__init__(source)
        self.schema = schema
        self.table_names = table_names
        self.columns = {name.casefold(): name for name in schema.by_name}

    def column_name(self, node: exp.Column) -> str:
        """The column as the schema spells it; SQL names ignore case. Raises UnknownColumn, UnknownTable."""
        if type(node.this) is exp.Star:
            self.source.refuse(node.this)
        table = ".".join(part.name for part in node.parts[:-1]).casefold()
        if table and table not in self.table_names:
            raise UnknownTable(table=table, nearest=nearest(table, self.table_names))
        return self.columns.get(node.name.casefold()) or self.schema.column(node.name).name

    def column(self, node: exp.Column) -> Term:
        return col(self.column_name(node))

    def call(self, node: exp.Anonymous) -> Term:
        name = _function(node)
        if name == "ROUND":
            return self.rounding(node)
        if name in AGGREGATES:
            hint = "Aggregates stand in SELECT, HAVING and ORDER BY, not inside one another or in WHERE."
            self.source.refuse(node, Refusal(f"The aggregate {name} here", hint))
        if name in _GROUPINGS:
            hint = "It makes groups: use it in GROUP BY."
            self.source.refuse(node, Refusal(f"The function {name} here", hint))
        return _unknown_function(self.source, node)

    def aggregate(self, node: exp.Anonymous) -> tuple[Statistic, str]:
        """AVG(x) and its like: the statistic that has the SQL name, and the column title that DuckDB gives it."""
        name = _function(node).lower()
        if name == "count" and all(_is_plain_star(part) for part in node.expressions):
            return statistic("count")(), "count_star()"
        terms = [self.term(part) for part in node.expressions]
        return statistic(name)(*terms), f"{name}({', '.join(map(repr, terms))})"

    def grouping(self, node: exp.Expr) -> Grouping:
        """A grouping key: a column, a condition, width_bucket, date_trunc, or CASE with labels."""
        node = _bare(node)
        if type(node) is exp.Anonymous and _function(node) in _GROUPINGS:
            return _GROUPINGS[_function(node)](self, node)
        if type(node) is exp.Case:
            made = case(*_branches(self, node), otherwise=_otherwise(self, node))
            if isinstance(made, Grouping):
                return made
        term = self.term(node)
        if not is_groupable(term.expression):
            hint = f"{_NO_ROWS} For groups use width_bucket(x, low, high, count)."
            self.source.refuse(node, Refusal("A computed value outside an aggregate", hint))
        return grouping(term)


def _is_plain_star(node: exp.Expr) -> bool:
    return type(node) is exp.Star and not any(node.args.values())


def _width_bucket(reader: _RowReader, node: exp.Anonymous) -> Grouping:
    if len(node.expressions) != 4:
        reader.source.bad(node, "width_bucket takes a value, low, high and the number of bins")
    value, *options = (reader.term(part) for part in node.expressions)
    low, high, count = map(python_value, options)
    return width_bucket(value, low, high, count)  # type: ignore[arg-type]


def _date_trunc(reader: _RowReader, node: exp.Anonymous) -> Grouping:
    if len(node.expressions) != 2:
        reader.source.bad(node, "date_trunc takes a unit and a column")
    unit, column = (reader.term(part) for part in node.expressions)
    return date_trunc(str(python_value(unit)), column)


_GROUPINGS = {"WIDTH_BUCKET": _width_bucket, "DATE_TRUNC": _date_trunc}


# --- the statement ----------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    """One entry of the SELECT list."""

    node: exp.Expr
    alias: str


_CLAUSES = {"expressions", "from_", "where", "group", "having", "order", "limit", "offset"}


class _Question:
    """One SELECT on its way into a plan: first the items, then the groups, then what refers to both."""

    def __init__(self, source: _Source, schema_of: SchemaOf) -> None:
        self.source = source
        self.select = source.select
        self._require_known_clauses()
        self.schema, names = self._table(schema_of)
        self.rows = _RowReader(source, self.schema, names)
        self.items = [_Item(_bare(node.unalias()), _alias(node)) for node in self.select.expressions]
        self.keys: list[Grouping] = []
        self.spelled: list[tuple[exp.Expr, str]] = []
        self.outputs: list[Named] = []

    def read(self) -> tuple[Plan, Presentation]:
        where = self.select.args.get("where")
        condition = None if where is None else self.rows.term(where.this).expression
        self._read_groups()
        shown = _distinct_titles([self._shown(item) for item in self.items])
        presentation = Presentation(
            shown=shown,
            having=self._having(shown),
            order=self._order(shown),
            limit=self._whole_number("limit"),
            offset=self._whole_number("offset") or 0,
        )
        if not self.outputs:
            self.output(statistic("count")(), "count_star()", "")
        plan = built(
            Plan,
            table=self.schema.table,
            schema_digest=self.schema.digest(),
            filter=condition,
            groups=tuple(key.key for key in self.keys),
            outputs=tuple(self.outputs),
        )
        return plan, presentation

    def _require_known_clauses(self) -> None:
        for name, clause in self.select.args.items():
            if clause and name not in _CLAUSES:
                first = clause[0] if isinstance(clause, list) else clause
                known = isinstance(first, exp.Expr)
                word = name.strip("_").upper()
                self.source.refuse(first if known else self.select, None if known else Refusal(word, word=word))

    def _table(self, schema_of: SchemaOf) -> tuple[Schema, set[str]]:
        """The one table, and the names by which its columns may be qualified."""
        clause = self.select.args.get("from_")
        if clause is None:
            self.source.bad(self.select, "there is no FROM")
        table = clause.this
        if type(table) is not exp.Table:
            self.source.refuse(table)
        for name, part in table.args.items():
            if part and name not in ("this", "db", "catalog", "alias"):
                first = part[0] if isinstance(part, list) else part
                self.source.refuse(first if isinstance(first, exp.Expr) else table)
        if type(table.this) is not exp.Identifier or table.alias_column_names:
            self.source.refuse(
                table, Refusal("A table function or renamed columns", "Name one table of the catalogue.")
            )
        name = ".".join(part.name for part in table.parts).lower()
        schema = schema_of(name)
        return schema, {(table.alias or table.name).casefold(), *([] if table.alias else [name.casefold()])}

    # groups

    def _read_groups(self) -> None:
        group = self.select.args.get("group")
        if group is None:
            return
        for name, part in group.args.items():
            if part and name not in ("expressions", "all"):
                self.source.refuse(part[0] if isinstance(part, list) else group)
        nodes = [item.node for item in self.items if not _has_aggregate(item.node)] if group.args.get("all") else []
        for node in [*nodes, *group.expressions]:
            self._add_key(self._referred(node))

    def _referred(self, node: exp.Expr) -> exp.Expr:
        """The item that a GROUP BY entry names by number or by alias, or the entry itself; columns go first."""
        if type(node) is exp.Literal and not node.is_string:
            return self._numbered(node).node
        if type(node) is exp.Column and not node.table and node.name.casefold() not in self.rows.columns:
            aliased = [item.node for item in self.items if item.alias.casefold() == node.name.casefold()]
            return aliased[0] if aliased else node
        return node

    def _numbered(self, node: exp.Literal) -> _Item:
        number = node.this
        if not number.isdecimal() or not 1 <= int(number) <= len(self.items):
            self.source.bad(node, f"there is no item {number} in the SELECT list")
        return self.items[int(number) - 1]

    def _add_key(self, node: exp.Expr) -> None:
        if _has_aggregate(node):
            self.source.refuse(node, Refusal("An aggregate in GROUP BY", "Group by columns, bins or conditions."))
        key = self.rows.grouping(node)
        if self._key_like(key) is None:
            aliases = [item.alias for item in self.items if item.alias and self._makes(item, key)]
            wanted = aliases[0] if aliases else key.key.name
            self.keys.append(key.alias(self._free_name(wanted)))
            self.spelled.append((node, self.keys[-1].key.name))

    def _makes(self, item: _Item, key: Grouping) -> bool:
        return not _has_aggregate(item.node) and self.rows.grouping(item.node).same_groups(key)

    def _key_like(self, wanted: Grouping) -> Grouping | None:
        return next((key for key in self.keys if key.same_groups(wanted)), None)

    # items

    def _shown(self, item: _Item) -> Shown:
        """An item as a column of the result, which the plan computes from now on."""
        node = item.node
        if _is_aggregate(node):
            made, title = self.rows.aggregate(node)
            return Shown(self.output(made, title, item.alias), item.alias or title)
        if _has_aggregate(node):
            self._refuse_around_aggregate(node)
        wanted = self.rows.grouping(node)
        key = self._key_like(wanted)
        if key is None:
            self.source.refuse(node, Refusal(f"{wanted.title} outside GROUP BY", _NO_ROWS))
        return Shown(key.key.name, item.alias or wanted.title)

    def _refuse_around_aggregate(self, node: exp.Expr) -> NoReturn:
        """Name what is wrong inside, such as a window; or else that it is arithmetic."""
        for part in node.walk():
            if type(part) in REFUSED and type(part) is not exp.Star:
                self.source.refuse(part)
        self.source.refuse(node, Refusal("Arithmetic with aggregates in SELECT", _FROM_RESULT))

    def output(self, made: Statistic, title: str, alias: str) -> str:
        """The plan's name for a statistic; one that is there already is not asked for twice."""
        same = [output.name for output in self.outputs if output.statistic == made]
        if same and not alias:
            return same[0]
        name = self._free_name(alias or title)
        self.outputs.append(built(Named, name=name, statistic=made))
        return name

    def _free_name(self, title: str) -> str:
        taken = {*(key.key.name for key in self.keys), *(output.name for output in self.outputs)}
        return _first_free(plan_name(title), taken, first=2)

    # what refers to the result

    def _having(self, shown: tuple[Shown, ...]) -> Expression | None:
        having = self.select.args.get("having")
        return None if having is None else _ReleasedReader(self, shown).term(having.this).expression

    def _order(self, shown: tuple[Shown, ...]) -> tuple[Order, ...]:
        order = self.select.args.get("order")
        return tuple(self._ordered(one, shown) for one in order.expressions) if order is not None else ()

    def _ordered(self, node: exp.Ordered, shown: tuple[Shown, ...]) -> Order:
        if node.args.get("with_fill"):
            self.source.refuse(node, Refusal("WITH FILL", word="FILL"))
        by = node.this
        if type(by) is exp.Literal and not by.is_string:
            place = self.items.index(self._numbered(by))
            expression: Expression = ColumnValue(name=shown[place].name)
        else:
            expression = _ReleasedReader(self, shown).term(by).expression
        return Order(expression, bool(node.args.get("desc")), bool(node.args.get("nulls_first")))

    def _whole_number(self, clause: str) -> int | None:
        node = self.select.args.get(clause)
        if node is None:
            return None
        if type(node) is exp.Fetch or node.args.get("limit_options"):
            self.source.refuse(node, Refusal(f"This form of {clause.upper()}", "Write LIMIT 10 OFFSET 20."))
        number = node.expression
        if type(number) is not exp.Literal or not number.this.isdecimal():
            self.source.refuse(node, Refusal(f"A computed {clause.upper()}", "Write a whole number.", clause.upper()))
        return int(number.this)


class _ReleasedReader(_Reader):
    """Expressions over the result: HAVING and ORDER BY. An aggregate that is not selected is asked for and hidden."""

    def __init__(self, question: _Question, shown: tuple[Shown, ...]) -> None:
        super().__init__(question.source)
        self.question = question
        self.names = {key.key.column.casefold(): key.key.name for key in question.keys if isinstance(key.key, ByColumn)}
        aliases = zip(question.items, shown, strict=True)
        self.names |= {item.alias.casefold(): column.name for item, column in aliases if item.alias}

    def term(self, node: exp.Expr) -> Term:
        """A group that is spelled out again, as in ORDER BY date_trunc('month', visited), is that group's label."""
        spelled = [name for key, name in self.question.spelled if key == node]
        return col(spelled[0]) if spelled else super().term(node)

    def column(self, node: exp.Column) -> Term:
        name = node.name.casefold()
        if name in self.names:
            return col(self.names[name])
        column = self.question.rows.column_name(node)
        self.source.refuse(node, Refusal(f"{column} outside GROUP BY", _NO_ROWS))

    def call(self, node: exp.Anonymous) -> Term:
        if _function(node) == "ROUND":
            return self.rounding(node)
        if _function(node) in _GROUPINGS:
            hint = "Give it an alias in SELECT, and use the alias."
            self.source.refuse(node, Refusal(f"The function {_function(node)} here", hint))
        if not _is_aggregate(node):
            return _unknown_function(self.source, node)
        return col(self.question.output(*self.question.rows.aggregate(node), ""))


def _is_aggregate(node: exp.Expr) -> bool:
    return type(node) is exp.Anonymous and _function(node) in AGGREGATES


def _has_aggregate(node: exp.Expr) -> bool:
    return any(_is_aggregate(part) for part in node.walk())


def _alias(node: exp.Expr) -> str:
    return node.alias if type(node) is exp.Alias else ""


def _bare(node: exp.Expr) -> exp.Expr:
    """A node without the parentheses around it."""
    while type(node) is exp.Paren:
        node = node.this
    return node


def _first_free(name: str, taken: Collection[str], first: int) -> str:
    """`name`, or the name with the first free number after it if it is taken."""
    numbered = (f"{name[:58]}_{number}" for number in count(first))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _distinct_titles(shown: list[Shown]) -> tuple[Shown, ...]:
    """Titles that differ, as DuckDB makes them for data frames: a second `n` becomes `n_1`."""
    distinct: dict[str, Shown] = {}
    for column in shown:
        title = _first_free(column.title, distinct, first=1)
        distinct[title] = Shown(column.name, title)
    return tuple(distinct.values())
