"""From an integer program to one SQL statement in DuckDB's dialect.

Built from sqlglot's expression nodes: names are quoted by the generator, and every number of the question is a bound
parameter, so no text of a question becomes SQL. All arithmetic is on integers. A node's declared range picks the type
that it is computed in (`Renderer.number`), before the operation, so that nothing overflows and every engine gives the
bits of `program.evaluate`.
"""

from collections.abc import Iterable
from functools import reduce

from sqlglot import exp

from ceiba_protocol import program
from ceiba_protocol.plan import Program
from ceiba_protocol.program import (
    DIGEST,
    FALSE,
    NULL,
    PART_HEX,
    SUBJECT,
    SUBJECTS,
    TRUE,
    Add,
    AllOf,
    AnyOf,
    CalendarStart,
    CalendarUnit,
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
    Part,
    RoundedQuotient,
    children,
)

LONG = 8
"""Terms of a condition that is worth a name of its own."""
ROWS = "rows"
"""The table of a snapshot."""
_WIDTHS = ((31, "INTEGER"), (63, "BIGINT"), (127, "HUGEINT"))
"""Bits of magnitude that a type holds. Narrower sums are faster: DuckDB adds up to 63 bits without carrying."""
_BEFORE_ALL = -1
"""The stage of intermediate columns that reads the table itself."""
_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DATE", "VARCHAR")
_KINDS = {name: exp.DataType.build(name).this for name in _TYPES}
_COMPARISONS: dict[Comparison, type[exp.Binary]] = {
    Comparison.EQUAL: exp.EQ,
    Comparison.NOT_EQUAL: exp.NEQ,
    Comparison.LESS: exp.LT,
    Comparison.LESS_OR_EQUAL: exp.LTE,
    Comparison.GREATER: exp.GT,
    Comparison.GREATER_OR_EQUAL: exp.GTE,
}


def render(compiled: Program) -> tuple[str, list[int]]:
    """The statement and its parameters `$1`, `$2`, …: one row for each cell that has rows, in any order; first the
    keys' integers, then the sums (NULL where no row has a value).

    Raises ValueOutOfRange for a literal that no 128-bit integer holds.
    """
    renderer = Renderer()
    keys = [renderer.plain(key.node) for key in compiled.keys]
    sums = [renderer.total(one.node) for one in compiled.sums]
    condition = None if compiled.condition is None else renderer.condition(compiled.condition)
    query = exp.select(*keys, *sums, copy=False).from_(renderer.source(), copy=False)
    if condition is not None:
        query = query.where(condition, copy=False)
    if keys:
        query = query.group_by(*(exp.Literal.number(place + 1) for place in range(len(keys))), copy=False)
    return query.sql(dialect="duckdb"), renderer.parameters


def magnitude_of(*nodes: Node) -> int:
    return max(max(abs(node.low), abs(node.high)) for node in nodes)


def type_for(magnitude: int) -> str:
    """The narrowest type that holds ±magnitude. Raises ValueOutOfRange."""
    for bits, name in _WIDTHS:
        if magnitude.bit_length() <= bits:
            return name
    program.checked(program.constant(magnitude), "A literal")
    raise AssertionError


def cast(value: exp.Expr, name: str) -> exp.Expression:
    """CAST to a type of DuckDB's. sqlglot's own `cast` reads the name anew each time, which large programs feel."""
    return exp.Cast(this=value, to=exp.DataType(this=_KINDS[name]))


def binary(kind: type[exp.Binary], left: exp.Expression, right: exp.Expression) -> exp.Expression:
    return exp.Paren(this=kind(this=left, expression=right))


def _integer(value: int) -> exp.Expression:
    """A constant of the formula itself, never of the question."""
    return exp.Literal.number(value)


def _call(function: str, *arguments: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=function, expressions=list(arguments))


class Renderer:
    """Renders the nodes of one program, collecting its parameters and its intermediate columns.

    `between`: a column by which the table is read in parts, from the parameter $1 up to, and without, $2.
    """

    def __init__(self, between: str | None = None) -> None:
        self.parameters: list[int] = []
        self._between = between
        if between is not None:
            self.bounds = (self.parameter(0), self.parameter(0))
        self._stages: dict[int, dict[Node, tuple[str, exp.Expression]]] = {}
        self._long: dict[int, tuple[Node, str]] = {}
        """Conditions under a name, by identity: comparing long ones costs more than rendering them."""

    # --- the parts of the statement ----------------------------------------------------------------------------

    def source(self) -> exp.Expression:
        """The table, wrapped in one sub-select for each stage of intermediate columns. Call it last."""
        source: exp.Expression = exp.Table(this=exp.to_identifier(ROWS, quoted=True))
        if self._between is not None:
            column, (start, end) = exp.column(exp.to_identifier(self._between, quoted=True)), self.bounds
            part = exp.and_(exp.GTE(this=column, expression=start), exp.LT(this=column.copy(), expression=end))
            source = exp.select(exp.Star()).from_(source).where(part).subquery()
        for _, columns in sorted(self._stages.items()):
            extra = [exp.alias_(value, name, quoted=True) for name, value in columns.values()]
            source = exp.select(exp.Star(), *extra, copy=False).from_(source, copy=False).subquery(copy=False)
        return source

    def total(self, node: Node) -> exp.Expression:
        """The aggregate over rows: SUM, or COUNT where it comes to the same and costs less."""
        if node == TRUE:
            return exp.Count(this=exp.Star())
        if node == SUBJECTS:
            return exp.Count(this=exp.Distinct(expressions=[self.subject()]))
        match _counted(node):
            case None:
                return exp.Sum(this=self.plain(node))
            case Negation(term=IsNull(value=value)):
                return exp.Count(this=self.plain(value))
            case condition:
                where = exp.Where(this=self.condition(condition))
                return exp.Filter(this=exp.Count(this=exp.Star()), expression=where)

    def subject(self) -> exp.Expression:
        return exp.column(exp.to_identifier(SUBJECT, quoted=True))

    # --- numbers -----------------------------------------------------------------------------------------------

    def plain(self, node: Node) -> exp.Expression:
        """The node's value in whatever integer type it has: a column as stored, anything else as computed."""
        if isinstance(node, Load):
            return exp.column(exp.to_identifier(node.name, quoted=True))
        return self.number(node, magnitude_of(node))

    def number(self, node: Node, magnitude: int) -> exp.Expression:
        """The node's value in a type that holds ±magnitude, which is at least the node's own."""
        wanted = type_for(magnitude)
        match node:
            case Load():
                return cast(self.plain(node), wanted)
            case Constant(value=value):
                return cast(exp.Null() if value is None else self.parameter(value), wanted)
            case _ if node.is_truth:
                return cast(self.condition(node), wanted)
        rendered, own = self._compute(node)
        return rendered if own == wanted else cast(rendered, wanted)

    def _compute(self, node: Node) -> tuple[exp.Expression, str]:
        """The node's formula and the type that it is computed in."""
        match node:
            case Add(left=left, right=right) | Multiply(left=left, right=right):
                kind = exp.Add if isinstance(node, Add) else exp.Mul
                size = magnitude_of(node, left, right)
                return binary(kind, self.number(left, size), self.number(right, size)), type_for(size)
            case RoundedQuotient(left=left, right=right):
                return self._rounded_quotient(left, right)
            case FloorQuotient(value=value, divisor=divisor):
                return self._floor_quotient(value, divisor)
            case CalendarStart(day=day, unit=unit):
                return self._calendar_start(day, unit)
            case Part():
                return self._part(node), "INTEGER"
            case Choose(branches=branches, otherwise=otherwise):
                size = magnitude_of(node)
                arms = [exp.If(this=self.condition(c), true=self.number(value, size)) for c, value in branches]
                default = None if otherwise == NULL else self.number(otherwise, size)
                return exp.Case(ifs=arms, default=default), type_for(size)
        raise NotImplementedError(type(node).__name__)

    def parameter(self, value: int) -> exp.Expression:
        self.parameters.append(value)
        return exp.Parameter(this=_integer(len(self.parameters)))

    def _rounded_quotient(self, left: Node, right: Node) -> tuple[exp.Expression, str]:
        """sign(l)·sign(r)·⌊(2|l| + |r|) / 2|r|⌋: half away from zero, NULL for r = 0."""
        size = max(2 * magnitude_of(left), magnitude_of(right)) + magnitude_of(right)
        top, bottom = self._named(left, size), self._named(right, size)
        doubled = binary(exp.Mul, _integer(2), _absolute(left, top))
        numerator = binary(exp.Add, doubled, _absolute(right, bottom))
        divisor = exp.Nullif(this=binary(exp.Mul, _integer(2), _absolute(right, bottom)), expression=_integer(0))
        quotient = binary(exp.IntDiv, numerator, divisor)
        signs = [exp.Sign(this=value.copy()) for node, value in ((left, top), (right, bottom)) if node.low < 0]
        return reduce(lambda product, sign: binary(exp.Mul, product, sign), signs, quotient), type_for(size)

    def _floor_quotient(self, value: Node, divisor: int) -> tuple[exp.Expression, str]:
        """⌊value / divisor⌋. SQL cuts towards zero, which is the floor once `value` is moved to start at 0 or above
        by whole divisors."""
        start = min(value.low // divisor, 0)
        size = max(magnitude_of(value), abs(start * divisor), value.high - start * divisor, divisor)
        moved = self.number(value, size)
        if start:
            moved = binary(exp.Add, moved, self.number(program.constant(-start * divisor), size))
        quotient = binary(exp.IntDiv, moved, self.number(program.constant(divisor), size))
        if start:
            quotient = binary(exp.Add, quotient, self.number(program.constant(start), size))
        return quotient, type_for(size)

    def _calendar_start(self, day: Node, unit: CalendarUnit) -> tuple[exp.Expression, str]:
        if unit is CalendarUnit.DAY:
            return self.number(day, magnitude_of(day)), type_for(magnitude_of(day))
        if unit is CalendarUnit.WEEK:  # 1970-01-01 was a Thursday, three days after the week's beginning
            weeks = program.floor_quotient(program.add(day, program.constant(3)), 7)
            start = program.add(program.scale(weeks, 7), program.constant(-3))
            return self.number(start, magnitude_of(start)), type_for(magnitude_of(start))
        epoch = cast(exp.Literal.string("1970-01-01"), "DATE")
        moment = binary(exp.Add, epoch, cast(self.plain(day), "INTEGER"))
        first = cast(exp.func("date_trunc", exp.Literal.string(unit.value), moment, dialect="duckdb"), "DATE")
        days = exp.Anonymous(this="date_diff", expressions=[exp.Literal.string("day"), epoch.copy(), first])
        return cast(days, "INTEGER"), "INTEGER"

    def _part(self, node: Part) -> exp.Expression:
        """`program.part_of` the row's digest, computed once for each row, before all other intermediate columns."""
        stage = self._stages.setdefault(_BEFORE_ALL, {})
        if node not in stage:
            digest = exp.column(exp.to_identifier(DIGEST, quoted=True))
            key = cast(self.parameter(node.key), "VARCHAR")
            text = _call("concat", key, exp.Literal.string(":"), cast(digest, "VARCHAR"))
            kept = _call("substr", _call("sha256", text), _integer(1), _integer(PART_HEX))
            hashed = cast(_call("concat", exp.Literal.string("0x"), kept), "BIGINT")
            scaled = binary(exp.Mul, hashed, cast(self.parameter(node.parts), "BIGINT"))
            part = binary(exp.IntDiv, scaled, _integer(1 << 4 * PART_HEX))
            stage[node] = (f"#{sum(map(len, self._stages.values()))}", cast(part, "INTEGER"))
        return cast(exp.column(exp.to_identifier(stage[node][0], quoted=True)), "INTEGER")

    def _named(self, node: Node, magnitude: int) -> exp.Expression:
        """The node's value under a name, so that a formula may use it more than once.

        Without it, ROUND within ROUND would double the statement at every level. Stage n reads stage n-1.
        """
        if isinstance(node, Load | Constant):
            return self.number(node, magnitude)
        stage = self._stages.setdefault(_rounding_depth(node), {})
        if node not in stage:
            value = self.number(node, magnitude)
            stage[node] = (f"#{sum(map(len, self._stages.values()))}", value)
        return cast(exp.column(exp.to_identifier(stage[node][0], quoted=True)), type_for(magnitude))

    # --- conditions --------------------------------------------------------------------------------------------

    def condition(self, node: Node) -> exp.Expression:
        """The node as SQL's TRUE, FALSE or NULL."""
        match node:
            case Compare(comparison=comparison, left=left, right=right):
                size = magnitude_of(left, right)
                return binary(_COMPARISONS[comparison], self._side(left, size), self._side(right, size))
            case AllOf(terms=terms) if len(terms) >= LONG:
                return self._long_condition(node, terms)
            case AllOf(terms=terms):
                return self._joined(exp.And, terms)
            case AnyOf(terms=terms):
                return self._joined(exp.Or, terms)
            case Negation(term=term):
                return exp.Paren(this=exp.Not(this=self.condition(term)))
            case IsNull(value=value):
                inner = self.condition(value) if value.is_truth else self.plain(value)
                return exp.Paren(this=exp.Is(this=inner, expression=exp.Null()))
        return binary(exp.EQ, self.number(node, 1), _integer(1))

    def _long_condition(self, node: Node, terms: tuple[Node, ...]) -> exp.Expression:
        """Under a name: thousands of sums over complete rows share one condition of a hundred terms."""
        if id(node) not in self._long:
            rendered = self._joined(exp.And, terms)
            stage = self._stages.setdefault(_rounding_depth(node), {})
            name, _ = stage.setdefault(node, (f"#{sum(map(len, self._stages.values()))}", rendered))
            self._long[id(node)] = node, name
        return exp.column(exp.to_identifier(self._long[id(node)][1], quoted=True))

    def _side(self, node: Node, magnitude: int) -> exp.Expression:
        """One side of a comparison; a column stays bare, so that DuckDB can skip row groups by their statistics."""
        return self.plain(node) if isinstance(node, Load) else self.number(node, magnitude)

    def _joined(self, kind: type[exp.Connector], terms: Iterable[Node]) -> exp.Expression:
        return reduce(lambda left, right: binary(kind, left, right), map(self.condition, terms))


def _counted(node: Node) -> Node | None:
    """The condition whose rows a sum of `node` counts; None if it sums anything else."""
    if node.is_truth:
        return node
    match node:
        case Choose(branches=((condition, then),), otherwise=otherwise):
            return condition if then == TRUE and otherwise in (NULL, FALSE) else None
    return None


def _absolute(node: Node, value: exp.Expression) -> exp.Expression:
    return exp.Abs(this=value.copy()) if node.low < 0 else value.copy()


def _rounding_depth(node: Node) -> int:
    """How many rounded quotients stand within one another in `node`."""
    inner = max(map(_rounding_depth, children(node)), default=0)
    return inner + isinstance(node, RoundedQuotient)
