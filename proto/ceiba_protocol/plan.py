"""Plans: the whole of what a merchant may ask, as a closed document (DESIGN §4, I12).

A plan is a filter, groups with public domains, and statistics. `compile_plan` turns it, with the table's schema, into
the integer program that every holder runs and the list of sums that the layout is made of; every party computes it
from the same bytes, so nobody has to be told.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import product as cartesian
from math import prod
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ceiba_protocol import program
from ceiba_protocol.canonical import Document, FieldName, HexDigest, TableName, Text
from ceiba_protocol.errors import (
    BadModel,
    ManifestMismatch,
    NoDomain,
    PlanTooLarge,
    TooManyGroups,
    UnboundedColumn,
    WrongType,
)
from ceiba_protocol.expression import (
    ONE,
    ColumnValue,
    Expression,
    Kind,
    Lowered,
    Number,
    columns_of,
    common_step,
    lower,
    lower_condition,
    lower_number,
    lower_sum,
    to_step,
)
from ceiba_protocol.program import SUBJECT, SUBJECTS, CalendarUnit, Comparison, Node, Row, evaluate
from ceiba_protocol.schema import EPOCH, EPOCH_INSTANT, MICROSECOND, MICROSECONDS_PER_DAY, Column, OutOfBounds, Schema
from ceiba_protocol.statistics import WITHHELD, AnyStatistic, Output, Statistic, Total
from ceiba_protocol.statistics.fits.base import Fit, FitRows, Frame, Reading

MAX_SUMS = 100_000
"""Cells times sums in one job: about 1 MB of ciphertext per holder, and 10 s of decryption for the merchant."""
ROW_COUNT = 0
"""The first sum of every program counts the cell's rows: a cell without any is no row of the result, as in SQL."""
MAX_GROUP_KEYS = 8
MAX_OUTPUTS = 500
MAX_EXPRESSIONS = 6_000

Label = str | int | float | date | None
"""What a group is called in a result."""


class ByColumn(Document):
    """One group for each value of the column's declared domain."""

    key: Literal["column"] = "column"
    name: FieldName
    column: FieldName


class ByBucket(Document):
    """SQL's width_bucket: 0 below `low`, 1..count in equal bins, count+1 from `high` on."""

    key: Literal["bucket"] = "bucket"
    name: FieldName
    value: Expression
    low: Number
    high: Number
    count: Annotated[int, Field(ge=1, le=10_000)]


class ByCalendar(Document):
    """The first day of the calendar unit in which a date or timestamp (UTC) lies."""

    key: Literal["calendar"] = "calendar"
    name: FieldName
    column: FieldName
    unit: CalendarUnit


class LabelBranch(Document):
    when: Expression
    label: Text


class ByCase(Document):
    """The label of the first condition that holds, or `otherwise`."""

    key: Literal["case"] = "case"
    name: FieldName
    branches: Annotated[tuple[LabelBranch, ...], Field(min_length=1)]
    otherwise: Text | None = None


GroupKey = Annotated[ByColumn | ByBucket | ByCalendar | ByCase, Field(discriminator="key")]


class Named(Document):
    """One column of the result."""

    name: FieldName
    statistic: AnyStatistic


class Plan(Document):
    """A question about one table, whose schema it pins by digest."""

    table: TableName
    schema_digest: HexDigest
    filter: Expression | None = None
    groups: tuple[GroupKey, ...] = ()
    outputs: Annotated[tuple[Named, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [part.name for part in (*self.groups, *self.outputs)]
        if len(set(names)) != len(names):
            raise ValueError("two columns of the result have the same name")
        return self

    @cached_property
    def columns(self) -> frozenset[str]:
        """Every column that the question reads."""
        parts = [expression for output in self.outputs for expression in output.statistic.sums()]
        for group in self.groups:
            match group:
                case ByColumn() | ByCalendar():
                    parts.append(ColumnValue(name=group.column))
                case ByBucket():
                    parts.append(group.value)
                case ByCase():
                    parts += [branch.when for branch in group.branches]
        if self.filter is not None:
            parts.append(self.filter)
        return frozenset().union(*map(columns_of, parts))


# --- compilation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """One grouping key: the integer that `node` gives a row, and the public list of what it can be."""

    name: str
    node: Node
    values: tuple[int | None, ...]
    """Every integer (None for NULL) that a row can have, in display order."""
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class SumOf:
    """A sum over rows: `node` in units of `step`; at most `row_bound` in magnitude for one row."""

    node: Node
    step: Fraction

    @property
    def row_bound(self) -> int:
        return max(abs(self.node.low), abs(self.node.high))


@dataclass(frozen=True)
class Use:
    """One output: its statistic, and which of the program's sums it is finished from."""

    name: str
    statistic: Statistic
    sums: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What every holder computes: for each cell of the public domain, each sum over the rows that pass the filter."""

    table: str
    condition: Node | None
    keys: tuple[Key, ...]
    sums: tuple[SumOf, ...]
    uses: tuple[Use, ...]
    clipped_columns: tuple[str, ...]
    """Columns whose out-of-bounds values were clipped at publishing; their counts travel with the answer."""
    readings: tuple[Reading, ...] = ()
    """What a fit reads of each row; then the sums are only the gate's, and none is released."""

    @property
    def cells(self) -> int:
        return prod(len(key.values) for key in self.keys)

    @property
    def fit(self) -> Fit | None:
        """The statistic, if it takes several rounds: then it is the only one."""
        statistic = self.uses[0].statistic if self.uses else None
        return statistic if isinstance(statistic, Fit) else None

    @property
    def is_used(self) -> Node:
        """Of a fit: 1 in the rows in which nothing is missing."""
        return self.sums[self.uses[0].sums[0]].node

    def frame(self, rows: int, minimum: int = 1, *, is_guarded: bool = True) -> Frame:
        """Of a fit over at most so many rows."""
        return Frame(self.readings, self.cells, rows, minimum, is_guarded)

    @property
    def released_cells(self) -> int:
        """How many times the released figures of one cell there are."""
        return 1 if self.fit is not None and not self.fit.per_cell else self.cells

    def labels(self) -> Iterator[tuple[Label, ...]]:
        """The cells' names, in the order of the layout."""
        return cartesian(*(key.labels for key in self.keys))

    @cached_property
    def _positions(self) -> tuple[dict[int | None, int], ...]:
        return tuple({value: place for place, value in enumerate(key.values)} for key in self.keys)

    def cell_of(self, values: tuple[int | None, ...]) -> int:
        """The place of the cell whose keys have these integers. KeyError if one is outside the public domain."""
        cell = 0
        for positions, value in zip(self._positions, values, strict=True):
            cell = cell * len(positions) + positions[value]
        return cell


@lru_cache(maxsize=8)
def compile_plan(plan: Plan, schema: Schema) -> Program:
    """Check a plan against its schema and lower it. Raises the errors of `expression.lower`, and NoDomain,
    TooManyGroups, PlanTooLarge, and ManifestMismatch if the schema is not the one that the plan pins."""
    if plan.schema_digest != schema.digest():
        raise ManifestMismatch(problem=f"the plan was made for another version of the schema of {plan.table}")
    if len(plan.groups) > MAX_GROUP_KEYS:
        raise PlanTooLarge(what="number of grouping keys", limit=MAX_GROUP_KEYS)
    if len(plan.outputs) > MAX_OUTPUTS:
        raise PlanTooLarge(what="number of outputs", limit=MAX_OUTPUTS)
    keys = tuple(_compile_key(group, schema) for group in plan.groups)
    sums, uses = _compile_outputs(plan, schema, cells=prod(len(key.values) for key in keys))
    readings = _compile_readings(plan, schema)
    return Program(
        table=plan.table,
        condition=None if plan.filter is None else lower_condition(plan.filter, schema),
        keys=keys,
        sums=tuple(sums),
        uses=tuple(uses),
        clipped_columns=tuple(sorted(name for name in plan.columns if _clips(schema.column(name)))),
        readings=readings,
    )


def _compile_readings(plan: Plan, schema: Schema) -> tuple[Reading, ...]:
    """What a fit reads of each row; nothing for other statistics. Raises BadModel."""
    fits = [output.statistic for output in plan.outputs if isinstance(output.statistic, Fit)]
    if not fits:
        return ()
    if len(plan.outputs) > 1:
        raise BadModel(problem="a question with a model asks for nothing else")
    if plan.groups and not fits[0].takes_groups:
        raise BadModel(problem="it is fitted to all rows together; filter the table instead of grouping it")
    return tuple(_reading(value, schema) for value in fits[0].variables())


def _reading(value: Expression, schema: Schema) -> Reading:
    lowered = lower_sum(value, schema)
    program.checked(lowered.node, "A value of a model", limit=62)
    return Reading(lowered.node, lowered.step)


def _compile_outputs(plan: Plan, schema: Schema, cells: int) -> tuple[list[SumOf], list[Use]]:
    """The distinct sums, and each output's places among them. A limit is checked before the work that it bounds."""
    sums = {_sum_of(ONE, schema): ROW_COUNT}
    uses, expressions = [], 0
    for output in plan.outputs:
        wanted = output.statistic.sums()
        expressions += len(wanted)
        if expressions > MAX_EXPRESSIONS:
            raise PlanTooLarge(what="number of sums before equal ones are joined", limit=MAX_EXPRESSIONS)
        places = tuple(sums.setdefault(one, len(sums)) for one in (_sum_of(each, schema) for each in wanted))
        uses.append(Use(output.name, output.statistic, places))
        if cells * len(sums) > MAX_SUMS:
            raise TooManyGroups(cells=cells, sums=len(sums), limit=MAX_SUMS)
    return list(sums), uses


def _clips(column: Column) -> bool:
    return column.minimum is not None and column.out_of_bounds is OutOfBounds.CLIP


def _sum_of(expression: Expression, schema: Schema) -> SumOf:
    lowered = lower_sum(expression, schema)
    return SumOf(lowered.node, lowered.step)


def _compile_key(group: GroupKey, schema: Schema) -> Key:
    match group:
        case ByColumn():
            return _compile_column_key(group, schema.column(group.column))
        case ByBucket():
            return _compile_bucket_key(group, lower_number(group.value, schema, "width_bucket"))
        case ByCalendar():
            return _compile_calendar_key(group, schema)
        case ByCase():
            return _compile_case_key(group, schema)


def _with_null(name: str, node: Node, values: list[int], labels: list[Label]) -> Key:
    """NULL is a group of its own, where it can occur."""
    if node.nullable:
        return Key(name, node, (*values, None), (*labels, None))
    return Key(name, node, tuple(values), tuple(labels))


def _compile_column_key(group: ByColumn, column: Column) -> Key:
    if column.codes is None:
        raise NoDomain(column=column.name)
    low, high = min(column.codes), max(column.codes)
    node = program.load(column.name, low, high, column.nullable)
    labels: list[Label] = [_label(column, code, text) for code, text in _domain(column)]
    return _with_null(group.name, node, list(column.codes), labels)


def _domain(column: Column) -> list[tuple[int, str]]:
    return list(zip(column.codes or (), column.domain_labels, strict=True))


def _label(column: Column, code: int, text: str) -> Label:
    """A domain value as a result shows it: numbers as numbers, everything else as declared."""
    match column.type:
        case "int":
            return code
        case "decimal":
            return float(code * column.step)
        case "bool":
            return bool(code)
        case "date":
            return EPOCH + timedelta(days=code)
        case "timestamp":
            return (EPOCH_INSTANT + code * MICROSECOND).replace(tzinfo=None)
        case _:
            return text


def _compile_bucket_key(group: ByBucket, value: Lowered) -> Key:
    low, high, count = Fraction(group.low.value), Fraction(group.high.value), group.count
    if low >= high:
        raise WrongType(operation="width_bucket", given="low >= high", hint="Give the lower bound first.")
    unit = common_step(value.step, common_step(low, high))
    x, first, end = to_step(value, unit), int(low / unit), int(high / unit)
    above_low = program.scale(program.add(x, program.constant(-first)), count)
    inside = program.add(program.floor_quotient(above_low, end - first), program.TRUE)
    below = program.compare(Comparison.LESS, x, program.constant(first))
    beyond = program.compare(Comparison.GREATER_OR_EQUAL, x, program.constant(end))
    branches = ((below, program.constant(0)), (beyond, program.constant(count + 1)))
    node = program.choose(branches, inside)
    buckets = [b for b in range(count + 2) if _reachable(b, x, first, end, count)]
    return _with_null(group.name, node, buckets, list(buckets))


def _reachable(bucket: int, x: Node, first: int, end: int, count: int) -> bool:
    """Whether the declared bounds let any value fall into this bucket."""
    starts = first + -(-(bucket - 1) * (end - first) // count)
    ends = first + -(-bucket * (end - first) // count)
    if bucket == 0:
        return x.low < first
    if bucket == count + 1:
        return x.high >= end
    return x.low < ends and x.high >= starts


_LONGEST = {
    CalendarUnit.DAY: 1,
    CalendarUnit.WEEK: 7,
    CalendarUnit.MONTH: 31,
    CalendarUnit.QUARTER: 92,
    CalendarUnit.YEAR: 366,
}
"""Days that surely lead from a unit's first day into the next unit, and not beyond it."""


def _compile_calendar_key(group: ByCalendar, schema: Schema) -> Key:
    lowered = lower(ColumnValue(name=group.column), schema)
    column = schema.column(group.column)
    if lowered.kind not in (Kind.DATE, Kind.TIMESTAMP):
        raise WrongType(operation="date_trunc", given=lowered.kind, hint="Use a date or timestamp column.")
    if column.range is None:
        raise UnboundedColumn(column=column.name)
    day = lowered.node
    if lowered.kind is Kind.TIMESTAMP:
        day = program.floor_quotient(day, MICROSECONDS_PER_DAY)
    node = program.calendar_start(day, group.unit)
    starts = [node.low]
    while starts[-1] < node.high:
        starts.append(program.start_of(group.unit, starts[-1] + _LONGEST[group.unit]))
        if len(starts) > MAX_SUMS:
            raise TooManyGroups(cells=f"more than {MAX_SUMS}", sums="1 or more", limit=MAX_SUMS)
    return _with_null(group.name, node, starts, [EPOCH + timedelta(days=start) for start in starts])


def _compile_case_key(group: ByCase, schema: Schema) -> Key:
    labels = list(dict.fromkeys(branch.label for branch in group.branches))
    if group.otherwise is not None and group.otherwise not in labels:
        labels.append(group.otherwise)
    codes = {label: code for code, label in enumerate(labels)}
    branches = tuple(
        (lower_condition(branch.when, schema), program.constant(codes[branch.label])) for branch in group.branches
    )
    otherwise = program.NULL if group.otherwise is None else program.constant(codes[group.otherwise])
    node = program.choose(branches, otherwise)
    return _with_null(group.name, node, list(codes.values()), list(codes))


# --- the reference engine --------------------------------------------------------------------------------------


def grouped_sums(compiled: Program, rows: Iterable[Row]) -> list[int]:
    """The totals of every cell, cell by cell, each sum after the other: what a holder's engine must give.

    Runs in Python on given rows; holders run the same program in their database. Used for `mock` and as the
    meaning that engines are tested against. A row without a subject's number is a subject of its own.
    """
    width = len(compiled.sums)
    totals = [0] * (compiled.cells * width)
    seen: set[tuple[int, int | None]] = set()
    for number, row in enumerate(rows):
        if compiled.condition is not None and evaluate(compiled.condition, row) != 1:
            continue
        start = width * compiled.cell_of(tuple(evaluate(key.node, row) for key in compiled.keys))
        subject = (start, row.get(SUBJECT, -1 - number))
        for place, one in enumerate(compiled.sums):
            value = int(subject not in seen) if one.node == SUBJECTS else evaluate(one.node, row)
            totals[start + place] += value or 0
        seen.add(subject)
    return totals


def fit_rows(compiled: Program, rows: Iterable[Row]) -> FitRows:
    """What a fit reads of the rows in which nothing is missing: what a holder's engine must give, in any order."""
    cells, units, subjects = [], [], []
    for number, row in enumerate(rows):
        conditions = [node for node in (compiled.is_used, compiled.condition) if node is not None]
        if all(evaluate(node, row) == 1 for node in conditions):
            cells.append(compiled.cell_of(tuple(evaluate(key.node, row) for key in compiled.keys)))
            units.append([evaluate(one.node, row) for one in compiled.readings])
            subjects.append(row.get(SUBJECT, -1 - number))
    readings = [np.array(column, dtype=np.int64) for column in zip(*units, strict=True)]
    return rows_of(compiled, np.array(cells, dtype=np.int64), readings, np.array(subjects, dtype=np.int64))


def rows_of(
    compiled: Program, cells: npt.NDArray[np.int64], units: Sequence[npt.NDArray[np.int64]],
    subjects: npt.NDArray[np.int64],
) -> FitRows:  # fmt: skip
    """`units`: for each reading, one integer a row, as its node gives it; `subjects`: whatever numbers they have."""
    values = np.empty((len(cells), len(compiled.readings)), order="F")
    for place, reading in enumerate(compiled.readings):
        values[:, place] = reading.floats(units[place]) if len(cells) else 0.0
    return FitRows(cells, values, np.unique(subjects, return_inverse=True)[1].reshape(-1))


def fit_alone(compiled: Program, rows: Iterable[Row]) -> list[int]:
    """A fit's final figures on rows that one process has: what a space of holders gives for the same rows. Public rules
    hold: nothing is withheld. Raises what the fit does."""
    fit = compiled.fit
    assert fit is not None
    used = fit_rows(compiled, rows)
    frame = compiled.frame(len(used.cells), is_guarded=False)
    fit.check(frame)
    state, prepared = fit.begin(frame), fit.prepare(used, frame)
    while not state.is_final:
        state = fit.advance(state, fit.measure(state, prepared, frame), frame)
    return fit.values(state, frame)


def finish(
    compiled: Program, totals: Sequence[int], sent: npt.NDArray[np.bool_] | None = None, *, noisy: bool = False
) -> list[tuple[Label | Output, ...]]:
    """Run by the merchant: the result's rows, group labels first, from the totals of all holders.

    `sent` [cells, sums] says which sums were released, None that all were. As in SQL, a group without rows is left out,
    if that is known, and a question without groups always has its one row.
    """
    if compiled.fit is not None:
        return _finish_fit(compiled, compiled.fit, totals, sent)
    width = len(compiled.sums)
    rows: list[tuple[Label | Output, ...]] = []
    for cell, labels in enumerate(compiled.labels()):
        may = [True] * width if sent is None else sent[cell].tolist()
        units = totals[cell * width : (cell + 1) * width]
        sums = [Total(n, one.step, not ok) for n, one, ok in zip(units, compiled.sums, may, strict=True)]
        if noisy or not compiled.keys or not _is_empty(compiled, sums):
            rows.append((*labels, *(finish_one(use, sums) for use in compiled.uses)))
    return rows


def _finish_fit(
    compiled: Program, fit: Fit, values: Sequence[int], sent: npt.NDArray[np.bool_] | None
) -> list[tuple[Label | Output, ...]]:
    if not fit.per_cell:
        return [(fit.read(values),)]
    width, rows = len(values) // compiled.cells, list[tuple[Label | Output, ...]]()
    for cell, labels in enumerate(compiled.labels()):
        is_sent = sent is None or bool(sent[cell].all())
        rows.append((*labels, fit.read(values[cell * width : (cell + 1) * width]) if is_sent else WITHHELD))
    return rows


def _is_empty(compiled: Program, sums: Sequence[Total]) -> bool:
    """Whether a cell is known to have no rows."""
    if not sums[ROW_COUNT].withheld:
        return sums[ROW_COUNT].units == 0
    used = [sums[place] for use in compiled.uses for place in use.sums]
    return not any(one.withheld or one.units for one in used)


def finish_one(use: Use, sums: Sequence[Total]) -> Output:
    """One output from a cell's totals; WITHHELD if one of its own was not released."""
    own = [sums[place] for place in use.sums]
    if any(one.withheld for one in own) and not use.statistic.disjoint:
        return WITHHELD
    return use.statistic.finish(*own)
