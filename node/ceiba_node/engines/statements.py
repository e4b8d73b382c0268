"""The statements behind the tests of a cell and behind bounded contributions, in DuckDB's dialect.

Each is a text and its parameters, as `rendering.render` makes them. Where a statement reads the rows in parts, its
first two parameters are a part's bounds, and 0 until then.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlglot import exp

from ceiba_node.engines.rendering import Renderer, cast, magnitude_of, type_for
from ceiba_node.snapshots import IDENTIFIERS
from ceiba_protocol import program
from ceiba_protocol.plan import Program, SumOf
from ceiba_protocol.program import SUBJECT, SUBJECTS, TRUE, Node

ROW_NUMBER = "rowid"
"""DuckDB's own number of a row, from 0 without gaps: a snapshot's rows are written once."""
IDENTIFIER = "#identifier"
_ORDER = "#h"
"""The keyed hash that chooses a subject's cells."""


class Statement(NamedTuple):
    sql: str
    parameters: list[int]

    def part(self, start: int, end: int) -> list[int]:
        """The parameters for the part from `start` up to, and without, `end`."""
        return [start, end, *self.parameters[2:]]


def render_flags(compiled: Program, conditions: Sequence[Node]) -> Statement:
    """For every row of a part that passes the filter: the keys `#k0`, `#k1`, …, the subject `#subject`, and for each
    condition whether it is TRUE, `#f0`, `#f1`, …. Parts are ranges of row numbers."""
    renderer = Renderer(between=ROW_NUMBER)
    keys = [_wide(key) for key in _keys(renderer, compiled)]
    flags = [exp.Coalesce(this=renderer.condition(one), expressions=[exp.false()]) for one in conditions]
    columns = [*_list("k", keys), _as(_wide(renderer.subject()), SUBJECT), *_list("f", flags)]
    return _statement(_filtered(renderer, compiled, columns), renderer)


def render_readings(compiled: Program) -> Statement:
    """For every row that a fit uses: the keys `#k0`, `#k1`, …, its subject, and its readings `#r0`, `#r1`, …."""
    renderer = Renderer()
    keys = [_wide(key) for key in _keys(renderer, compiled)]
    readings = [_wide(renderer.number(one.node, magnitude_of(one.node))) for one in compiled.readings]
    is_used = renderer.condition(compiled.is_used)
    columns = [*_list("k", keys), _as(_wide(renderer.subject()), SUBJECT), *_list("r", readings)]
    return _statement(_filtered(renderer, compiled, columns).where(is_used), renderer)


def render_factors(compiled: Program, condition: Node, factors: Sequence[Node]) -> Statement:
    """For every row of a part that passes the filter and for which the condition is TRUE: `#f0`, `#f1`, …, NULL where a
    factor is. Parts are ranges of row numbers."""
    renderer = Renderer(between=ROW_NUMBER)
    columns = [_wide(renderer.number(factor, magnitude_of(factor))) for factor in factors]
    rendered = None if condition == TRUE else renderer.condition(condition)
    query = _filtered(renderer, compiled, _list("f", columns))
    return _statement(query if rendered is None else query.where(rendered), renderer)


def render_magnitudes(compiled: Program, sums: Sequence[SumOf], one_row_each: bool) -> Statement:
    """For every cell that has rows in a part: the keys, then for each sum the largest contribution of one subject and
    the total of all, both of magnitudes: a subject's contribution is Σ|x| over its rows. NULL where no row has a value.
    Parts are ranges of subjects."""
    renderer = Renderer(between=SUBJECT)
    keys = _keys(renderer, compiled)
    values = [exp.Abs(this=renderer.number(one.node, magnitude_of(one.node))) for one in sums]
    if one_row_each:
        inner = _filtered(renderer, compiled, [*_list("k", keys), *_list("v", values)])
    else:
        totals = [exp.Sum(this=value) for value in values]
        inner = _filtered(renderer, compiled, [*_list("k", keys), *_list("v", totals)])
        inner = inner.group_by(*_numbers(len(keys)), renderer.subject())
    pairs = [kind(this=value.copy()) for value in _columns("v", len(sums)) for kind in (exp.Max, exp.Sum)]
    outer = exp.select(*_columns("k", len(keys)), *pairs).from_(inner.subquery())
    return _statement(outer.group_by(*_numbers(len(keys))), renderer)


def render_by_subject(compiled: Program, types: Sequence[str], one_row_each: bool) -> Statement:
    """For every cell in which a subject of a part has rows: the keys `#k0`, `#k1`, …, the subject `#subject`, and its
    sums `#v0`, `#v1`, …, each cast to its type, NULL where no row has a value. Parts are ranges of subjects."""
    renderer = Renderer(between=SUBJECT)
    keys = [_wide(key) for key in _keys(renderer, compiled)]
    sums = [
        cast(_own_total(renderer, one.node, one_row_each), name) for one, name in zip(compiled.sums, types, strict=True)
    ]
    columns = [*_list("k", keys), _as(_wide(renderer.subject()), SUBJECT), *_list("v", sums)]
    query = _filtered(renderer, compiled, columns)
    return _statement(query if one_row_each else query.group_by(*_numbers(len(keys) + 1)), renderer)


def _own_total(renderer: Renderer, node: Node, one_row_each: bool) -> exp.Expr:
    """A sum over a subject's rows; over a single row it is the value itself."""
    if node == SUBJECTS or (one_row_each and node == TRUE):
        return exp.Literal.number(1)
    return renderer.number(node, magnitude_of(node)) if one_row_each else renderer.total(node)


def render_identifiers(column: str) -> Statement:
    """For every subject of a part that has an identifier in this column: its `#subject` and the `#identifier`, in the
    order of subjects."""
    subject, own = _column(SUBJECT), _column(column)
    start, end = (exp.Parameter(this=exp.Literal.number(place)) for place in (1, 2))
    part = [exp.GTE(this=subject.copy(), expression=start), exp.LT(this=subject.copy(), expression=end)]
    query = exp.select(subject, _as(own, IDENTIFIER)).from_(exp.to_identifier(IDENTIFIERS)).where(*part)
    query = query.where(exp.Not(this=exp.Is(this=own.copy(), expression=exp.Null()))).order_by("1")
    return Statement(query.sql(dialect="duckdb"), [0, 0])


def render_bounded(compiled: Program, cells_per_subject: int, seed: int) -> Statement:
    """For every cell that has rows in a part: the keys, then the sums of what each subject adds, once each addition is
    clipped to what one row can add, and each subject is left with at most so many cells. Parts are ranges of subjects.

    A subject with more cells keeps those of the lowest keyed hash, below that of the first one too many: where two
    hashes are equal it keeps fewer.
    """
    renderer = Renderer(between=SUBJECT)
    keys = _keys(renderer, compiled)
    seeded = [renderer.number(program.constant(seed), 2**62), renderer.subject(), *(key.copy() for key in keys)]
    order = exp.Anonymous(this="hash", expressions=list(map(_wide, seeded)))
    added = [_clipped(renderer, one.node) for one in compiled.sums]
    own = [*_list("k", keys), renderer.subject(), _as(order, _ORDER), *_list("v", added)]
    pairs = _filtered(renderer, compiled, own).group_by(*_numbers(len(keys) + 1))
    totals = [exp.Sum(this=value) for value in _columns("v", len(added))]
    query = exp.select(*_columns("k", len(keys)), *totals)
    if cells_per_subject < compiled.cells:
        query = query.with_("pairs", as_=pairs, materialized=True).with_("cuts", as_=_cuts(cells_per_subject))
        own_hash, cut = _column(_ORDER, "pairs"), _column(_ORDER, "cuts")
        kept = exp.or_(exp.Is(this=cut, expression=exp.Null()), exp.LT(this=own_hash, expression=cut.copy()))
        query = query.from_("pairs").join("cuts", using=[_column(SUBJECT)], join_type="left").where(kept)
    else:
        query = query.from_(pairs.subquery())
    return _statement(query.group_by(*_numbers(len(keys))), renderer)


def _cuts(cells_per_subject: int) -> exp.Select:
    """The hash of the first cell too many, of subjects that have one."""
    first_too_many = cells_per_subject + 1
    lowest = exp.Anonymous(this="min", expressions=[_column(_ORDER), exp.Literal.number(first_too_many)])
    last = exp.Anonymous(this="list_extract", expressions=[lowest, exp.Literal.number(first_too_many)])
    enough = exp.GT(this=exp.Count(this=exp.Star()), expression=exp.Literal.number(cells_per_subject))
    return exp.select(_column(SUBJECT), _as(last, _ORDER)).from_("pairs").group_by("1").having(enough)


def _clipped(renderer: Renderer, node: Node) -> exp.Expr:
    """What a subject adds to a cell: the sum over its rows, as far as one row could have made it."""
    if node in (TRUE, SUBJECTS):
        return cast(exp.Literal.number(1), "INTEGER")
    size = magnitude_of(node)
    total = exp.Coalesce(this=renderer.total(node), expressions=[exp.Literal.number(0)])
    lowest, highest = (renderer.number(program.constant(end), size) for end in (min(node.low, 0), max(node.high, 0)))
    inside = exp.Anonymous(
        this="greatest", expressions=[exp.Anonymous(this="least", expressions=[total, highest]), lowest]
    )
    return cast(inside, type_for(size))


# --- the parts of a statement ------------------------------------------------------------------------------------


def _keys(renderer: Renderer, compiled: Program) -> list[exp.Expr]:
    return [renderer.plain(key.node) for key in compiled.keys]


def _filtered(renderer: Renderer, compiled: Program, columns: Sequence[exp.Expr]) -> exp.Select:
    """The columns over the rows that pass the filter; everything else must have been rendered before."""
    condition = None if compiled.condition is None else renderer.condition(compiled.condition)
    query = exp.select(*columns).from_(renderer.source())
    return query if condition is None else query.where(condition)


def _as(value: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(value, name, quoted=True)


def _column(name: str, table: str | None = None) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True), table)


def _wide(value: exp.Expr) -> exp.Expr:
    return cast(value, "BIGINT")


def _list(letter: str, values: Sequence[exp.Expr]) -> list[exp.Expr]:
    """Names that no column of a schema can have."""
    return [_as(value, f"#{letter}{place}") for place, value in enumerate(values)]


def _columns(letter: str, count: int) -> list[exp.Expr]:
    return [_column(f"#{letter}{place}") for place in range(count)]


def _numbers(count: int) -> list[exp.Expr]:
    """The first columns, as GROUP BY names them."""
    return [exp.Literal.number(place + 1) for place in range(count)]


def _statement(query: exp.Select, renderer: Renderer) -> Statement:
    return Statement(query.sql(dialect="duckdb"), renderer.parameters)
