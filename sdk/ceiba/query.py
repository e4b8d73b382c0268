"""Tables and queries: what a merchant builds, step by step, before anything is asked.

    heart = space.table("health.heart")
    heart.filter(heart.age > 50).group_by("sex").agg(n=count(), chol=mean("cholesterol")).order_by("n").to_pandas()

Both are immutable, so every step gives a new one. A query knows its program from the moment it is built: what is
misspelt or of the wrong type is said then, by this process, and not by a holder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ceiba.analyses.methods import AnalysisMethods
from ceiba.display import html_table, text_table
from ceiba.labels import axis_labels
from ceiba.mock import mock_rows
from ceiba.presentation import Order, Presentation, Row, Shown, is_smooth
from ceiba.reattaching import AskedAnalysis
from ceiba.released import Released
from ceiba.result import Result
from ceiba.terms import Grouping, Term, built, expression_of, grouping, plan_name, require_shallow
from ceiba_protocol.errors import BadQuestion, UnknownColumn
from ceiba_protocol.expression import ColumnValue, Expression, columns_of, lower_condition, lower_number, to_text
from ceiba_protocol.plan import GroupKey, Label, Named, Plan, Program, compile_plan, fit_alone, grouped_sums
from ceiba_protocol.schema import Column, ColumnType, Schema, nearest
from ceiba_protocol.statistics import STATISTICS, WITHHELD, Statistic, Total
from ceiba_protocol.statistics.quantile import Quantile
from ceiba_protocol.wording import describe, is_condition, split_of, statistic_text

if TYPE_CHECKING:
    import pandas


class Runner(Protocol):
    """What asks a query of a space; a table carries one. Options are the runner's own."""

    @property
    def run(self) -> Callable[..., Result]:
        """Ask, wait, and give the released rows."""

    @property
    def submit(self) -> Callable[..., Any]:
        """Ask, and give the job without waiting."""

    @property
    def explain(self) -> Callable[..., Any]:
        """Say who would see what and what it would cost, without asking."""


class UnknownAttribute(UnknownColumn, AttributeError):
    """UnknownColumn for `heart.agee`; an AttributeError as well, so that `hasattr` works."""


@dataclass(frozen=True, repr=False, eq=False)
class Table(AnalysisMethods):
    """The union of all holders' datasets of one schema, perhaps filtered and grouped; it holds no rows.

    Columns are its attributes, `heart.age`, or its items, `heart["age"]`, which also reach a column that is called
    like one of the methods.
    """

    schema: Schema
    runner: Runner
    _condition: Expression | None = None
    _keys: tuple[GroupKey, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return list(self.schema.by_name)

    def __getitem__(self, name: str) -> Term:
        return Term(ColumnValue(name=self.schema.column(name).name))

    def __getattr__(self, name: str) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownColumn as error:
            raise UnknownAttribute(**error.fields) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.columns]

    def filter(self, *conditions: Term) -> Table:
        """Only the rows for which all conditions are true: `heart.filter(heart.age > 50, heart.sex == "female")`."""
        condition = self._condition
        for term in conditions:
            expression = expression_of(term)
            require_shallow(expression)
            lower_condition(expression, self.schema)
            condition = expression if condition is None else (Term(condition) & Term(expression)).expression
        return replace(self, _condition=condition)

    def group_by(self, *keys: str | Term | Grouping) -> Table:
        """One group for each combination of the keys' values: columns, conditions, `width_bucket`, `date_trunc`,
        or `case` with labels. Every key has a public list of values; a column's is its declared domain."""
        return replace(self, _keys=(*self._keys, *(grouping(key).key for key in keys)))

    def agg(self, *statistics: Statistic, **outputs: Statistic) -> Query:
        """The query for one or more statistics: `agg(n=ceiba.count(), chol=ceiba.mean("cholesterol"))`; without a name
        it gets one, `agg(ceiba.mean("cholesterol"))` gives mean_cholesterol."""
        asked = (*(named(None, one) for one in statistics), *(named(name, one) for name, one in outputs.items()))
        taken = [part.name for part in (*self._keys, *asked)]
        if len(set(taken)) != len(taken):
            hint = 'Name them apart: .alias("name") for groups, agg(name=...) for statistics.'
            raise BadQuestion(problem=f"two columns of the result have the same name: {', '.join(taken)}", hint=hint)
        if not asked:
            raise BadQuestion(problem="agg() asks for nothing", hint="Write, for example, agg(n=ceiba.count()).")
        plan = built(
            Plan,
            table=self.schema.table,
            schema_digest=self.schema.digest(),
            filter=self._condition,
            groups=self._keys,
            outputs=asked,
        )
        return Query(self.schema, self.runner, plan, Presentation.of(plan))

    def count(self) -> Query:
        """How many rows there are, in each group if there are groups; the column is called `count`."""
        return self.agg(count=STATISTICS["count"](statistic="count"))

    def __repr__(self) -> str:
        return text_table(COLUMN_FACTS, [facts(column) for column in self.schema.columns], self._notes())

    def _repr_html_(self) -> str:
        return html_table(COLUMN_FACTS, [facts(column) for column in self.schema.columns], self._notes())

    def _notes(self) -> list[str]:
        notes = [f"{self.schema.table}, version {self.schema.version}"]
        if self._condition is not None:
            notes.append(f"where {to_text(self._condition)}")
        if self._keys:
            notes.append(f"grouped by {', '.join(key.name for key in self._keys)}")
        return notes


COLUMN_FACTS = ("column", "type", "unit", "values", "grade", "meaning")
_DOMAIN_SHOWN = 5


def facts(column: Column) -> tuple[str, ...]:
    kind = f"{column.type}({column.resolution})" if column.resolution else str(column.type)
    return column.name, kind, column.unit, _values(column), str(column.grade), column.label


def _values(column: Column) -> str:
    """A column's domain or bounds in words."""
    if column.domain is not None:
        more = ", …" if len(column.domain) > _DOMAIN_SHOWN else ""
        return ", ".join(column.domain[:_DOMAIN_SHOWN]) + more
    if column.type is ColumnType.BOOL:
        return "true, false"
    return "" if column.minimum is None else f"{column.minimum} to {column.maximum}"


def named(name: str | None, statistic: object) -> Named:
    """A statistic as a column of the result; without a name it is called what it is. Raises BadQuestion."""
    if not isinstance(statistic, Statistic):
        hint = 'Name a statistic: agg(n=ceiba.count()), agg(age=ceiba.mean("age")).'
        problem = f"{name or 'an argument of agg()'} is a {type(statistic).__name__}, not a statistic"
        raise BadQuestion(problem=problem, hint=hint)
    return built(Named, name=name or plan_name(statistic_text(statistic)), statistic=statistic)


def python_label(key: GroupKey, label: Label) -> Label:
    """A group's label as Python has it: in the plan, a condition's are the texts "true" and "false", a split's are
    digits."""
    if label is None:
        return None
    if split_of(key) is not None:
        return int(str(label))
    return label == "true" if is_condition(key) else label


# --- queries ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class Query:
    """One question, ready to be asked; lazy, until `run`, `to_pandas` or `submit`."""

    schema: Schema
    runner: Runner
    asked: Plan
    presentation: Presentation
    analysis: AskedAnalysis | None = None
    """By which call of an analysis it was made, if by one."""

    def __post_init__(self) -> None:
        """Raises what is wrong with the question. HAVING and ORDER BY are tried on one made-up row."""
        require_shallow(self.asked)
        _ = self.program
        shown = self.presentation.shown
        if self.presentation.having is not None or self.presentation.order or not all(one.is_plain for one in shown):
            self.presentation.apply([self._sample()])

    def plan(self) -> Plan:
        """What is sent to the holders. Filters and groups are in it; `having`, `order_by` and `limit` are not."""
        return self.asked

    @cached_property
    def program(self) -> Program:
        """The plan compiled: its cells, its sums, and how they are finished."""
        return compile_plan(self.asked, self.schema)

    @property
    def columns(self) -> tuple[str, ...]:
        """The titles of the result's columns."""
        return self.presentation.titles

    # after the release: local, free, never sent

    def having(self, condition: Term) -> Query:
        """Only the result's rows for which the condition is true: `query.having(col("n") > 100)`."""
        expression = expression_of(condition)
        require_shallow(expression)
        for name in columns_of(expression):
            self._column(name)
        if self.presentation.having is not None:
            expression = (Term(self.presentation.having) & Term(expression)).expression
        return replace(self, presentation=replace(self.presentation, having=expression))

    def order_by(self, *names: str, descending: bool = False) -> Query:
        """The result's rows sorted, NULL last. A second call sorts what is equal after the first."""
        added = tuple(Order(self._column(name), descending) for name in names)
        return replace(self, presentation=replace(self.presentation, order=(*self.presentation.order, *added)))

    def limit(self, rows: int, offset: int = 0) -> Query:
        """At most `rows` of the result's rows, after leaving out the first `offset`."""
        if min(rows, offset) < 0:
            raise BadQuestion(problem="a limit is below zero", hint="Give 0 or more rows.")
        return replace(self, presentation=replace(self.presentation, limit=rows, offset=offset))

    def _column(self, name: str) -> Expression:
        """What a column of the result is computed from; it may be shown under another title than the plan's name."""
        names: dict[str, Expression] = {
            part.name: ColumnValue(name=part.name) for part in (*self.asked.groups, *self.asked.outputs)
        }
        names |= {column.title: column.expression for column in self.presentation.shown}
        if name not in names:
            problem = f"the result has no column {name}; the nearest is {nearest(name, names)}"
            raise BadQuestion(problem=problem, hint="`query.columns` lists the result's columns.")
        return names[name]

    def _sample(self) -> Row:
        """The row that one data row, 1 in every sum, would give; it has no NULL that could hide a wrong type."""
        labels = [key.labels[0] for key in self.program.keys]
        if self.program.fit is not None:
            raise BadQuestion(problem="a fit has no rows to choose from", hint="Choose in its summary, once it is run.")
        sums = [Total(1, one.step) for one in self.program.sums]
        outputs = [use.statistic.finish(*(sums[place] for place in use.sums)) for use in self.program.uses]
        return self._row((*labels, *(1 if output is None else output for output in outputs)))

    def _row(self, values: Sequence[Any], kept: Sequence[int] | None = None) -> Row:
        """A finished row by name, with dates and truth values as Python has them. `kept`: the places of the groups
        that it is about; for the others it has NULL, and its marks say that it is a total over them."""
        groups = self.asked.groups
        places = range(len(groups)) if kept is None else kept
        labels = {groups[place].name: self.label_of(groups[place], values[n]) for n, place in enumerate(places)}
        marks = {mark: int(name not in labels) for name, mark in self.presentation.marks}
        outputs = zip((output.name for output in self.asked.outputs), values[len(places) :], strict=True)
        return {key.name: labels.get(key.name) for key in groups} | marks | dict(outputs)

    def result(self, released: Released, **about: Any) -> Result:
        """Run by the merchant: the rows to show, from what all holders released; `about` fills in a Result's facts."""
        rows, widths = [], []
        for kept in self._groupings():
            program, totals = released.summed_over(self.program, kept)
            rows += [self._row(row, kept) for row in totals.rows(program)]
            widths += self._half_widths(program, totals, kept)
        chosen = self.presentation.choose(rows)
        return Result(
            self.columns,
            [self.presentation.show(rows[place]) for place in chosen],
            plus_minus=[widths[place] for place in chosen] if widths else [],
            noise=released.report(self.program),
            remarks=tuple(self._remarks([rows[place] for place in chosen])),
            groups=tuple(column.title for column in self.presentation.shown if column.reads <= self._about),
            labels=self._labels(),
            **about,
        )

    def _labels(self) -> dict[str, str]:
        """What the axes of a figure call the result's columns."""
        labels = axis_labels(self.asked, self.schema)
        shown = ((column.title, column.expression) for column in self.presentation.shown)
        names = ((title, one.name if isinstance(one, ColumnValue) else "") for title, one in shown)
        return {title: labels.get(name, title) for title, name in names}

    def _groupings(self) -> list[tuple[int, ...]]:
        """The places of the groups that rows are about: all of them, or those of each grouping set."""
        names = [key.name for key in self.asked.groups]
        sets = self.presentation.sets or (frozenset(names),)
        return [tuple(place for place, name in enumerate(names) if name in one) for one in sets]

    def _half_widths(self, program: Program, released: Released, kept: Sequence[int]) -> list[tuple[Any, ...]]:
        """For each row, half of each shown value's 95 % interval, None where there is none; no rows without noise."""
        plain = [self._row(row, kept) for row in released.half_widths(program)]

        def of(column: Shown) -> list[Any]:
            if isinstance(column.expression, ColumnValue):
                return [row[column.expression.name] for row in plain]
            if not is_smooth(column.expression) or not all(one.statistic.smooth for one in self._outputs_of(column)):
                return [None] * len(plain)
            return released.half_widths_of(program, lambda values: column.value(self._row(values, kept)))

        return list(zip(*map(of, self.presentation.shown), strict=True)) if plain else []

    def label_of(self, key: GroupKey, label: Label) -> Label:
        """As `python_label`, and numbers for what only the question knows to be one, such as a year."""
        if label is None:
            return None
        return int(str(label)) if key.name in self.presentation.numeric else python_label(key, label)

    def _outputs_of(self, column: Shown) -> list[Named]:
        """The plan's outputs that a shown column is computed from."""
        return [output for output in self.asked.outputs if output.name in column.reads]

    def _remarks(self, rows: Sequence[Row]) -> Iterator[str]:
        """How far quantiles may be off, and what to do where they are withheld."""
        for column in self.presentation.shown:
            for made in (output.statistic for output in self._outputs_of(column)):
                if isinstance(made, Quantile) and made.inside and any(column.value(row) is WITHHELD for row in rows):
                    yield f"Note: {column.title} needs people in every bin: name few bins, and narrow bounds."
                elif isinstance(made, Quantile) and not self._is_exact(made):
                    width = float(made.bin_width)
                    yield f"Note: {column.title} is read from bins {width:g} wide: off by at most {width / 2:g}."

    def _is_exact(self, quantile: Quantile) -> bool:
        """Whether each of its bins has one possible value, in the middle."""
        value = lower_number(quantile.value, self.schema, "A quantile")
        middle = Fraction(quantile.low.value) + quantile.bin_width / 2
        return quantile.bin_width == value.step and (middle / value.step).denominator == 1

    @property
    def _about(self) -> set[str]:
        """The names of what says what a row is about."""
        return {key.name for key in self.asked.groups} | {mark for _, mark in self.presentation.marks}

    # asking

    def run(self, **options: Any) -> Result:
        """Ask the holders, and wait for the answer."""
        return self.runner.run(self, **options)

    def to_pandas(self) -> pandas.DataFrame:
        """Ask the holders; the answer as a data frame."""
        return self.run().to_pandas()

    def submit(self, **options: Any) -> Any:
        """Ask the holders; a job to wait for."""
        return self.runner.submit(self, **options)

    def explain(self, **options: Any) -> Any:
        """Who would see what, what is likely withheld, what would refuse it and what it costs; asks nothing. Options as
        for `submit`, without a deadline."""
        return self.runner.explain(self, **options)

    def mock(self, rows: int = 1000, seed: int = 0) -> Result:
        """The same query on made-up rows of the schema. Touches no data and no network; means nothing."""
        start = perf_counter()
        made = mock_rows(self.schema, self.asked.columns, rows, seed)
        totals = grouped_sums(self.program, made) if self.program.fit is None else fit_alone(self.program, made)
        return self.result(Released(totals), job_id="mock", seconds=perf_counter() - start)

    def __repr__(self) -> str:
        lines = [f"Query on {self.asked.table}, not asked yet", *describe(self.asked)[1:]]
        lines += [f"  in all for {', '.join(sorted(one)) or 'everything'}" for one in self.presentation.sets]
        if self.presentation.having is not None:
            lines.append(f"  having {to_text(self.presentation.having)}")
        return "\n".join(lines)
