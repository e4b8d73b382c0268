"""Questions about joined tables, ready to be asked, and the results that are made of their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ceiba.labels import axis_labels
from ceiba.noise import NoiseReport
from ceiba.normal import NORMAL_95
from ceiba.query import python_label
from ceiba.released import Released
from ceiba.result import Result
from ceiba.terms import require_shallow
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.linkage.joint import JoinedTable, JointPlan, SidePlan, check_tables, programs_of
from ceiba_protocol.linkage.joint_wording import describe_joint
from ceiba_protocol.plan import ROW_COUNT, Label, Plan, Program, finish_one
from ceiba_protocol.schema import Schema, nearest
from ceiba_protocol.statistics import WITHHELD, Output, Total
from ceiba_protocol.trust.agreement import Mode

if TYPE_CHECKING:
    import pandas

    from ceiba.joint_explanation import JointExplanation
    from ceiba.joint_jobs import JointJob, JointRunner
    from ceiba.receipts import Receipt

SUBJECTS = "subjects"
"""The column of `tabulate` that has the numbers."""

Outcome = TypeVar("Outcome")
Opened = Mapping[str, Sequence[JoinedTable]]
"""By joined holder, a table of totals for each of its plans."""


@dataclass(frozen=True, repr=False, eq=False)
class JointQuery(ABC, Generic[Outcome]):
    """One question about joined tables; lazy, until `run` or `submit`."""

    schemas: Mapping[str, Schema]
    """By table; at least those that it asks."""
    runner: JointRunner
    asked: JointPlan
    names: tuple[str, ...]
    """Of what is asked for, in the order in which it was."""

    def __post_init__(self) -> None:
        """Raises what is wrong with the question."""
        require_shallow(self.asked)
        for columns in self._titles():
            if len(set(columns)) != len(columns):
                hint = 'Name them apart: .alias("name") for groups, agg(name=...) for statistics.'
                problem = f"two columns of the result have the same name: {', '.join(columns)}"
                raise BadQuestion(problem=problem, hint=hint)
        groups = [program.cells for program in self.programs[self.asked.base.holder]]
        for side in self.asked.joined:
            check_tables(groups, [(program.cells, len(program.sums)) for program in self.programs[side.holder]])

    @abstractmethod
    def _titles(self) -> Iterator[tuple[str, ...]]:
        """The columns of each table that is made, and of whatever else has names that may not be the same."""

    @abstractmethod
    def outcome(self, opened: Opened, **about: Any) -> Outcome:
        """Run by the merchant: what to show, from what was released; `about` fills in a Result's facts."""

    def plan(self) -> JointPlan:
        """What is sent to the holders, each of which reads all of it."""
        return self.asked

    @cached_property
    def programs(self) -> dict[str, tuple[Program, ...]]:
        """By holder, what its plans compute."""
        return {side.holder: programs_of(side, self.schemas[side.table]) for side in self.asked.sides}

    @property
    def base(self) -> Plan:
        """What the base is asked first: its groups."""
        return self.asked.base.plans[0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of its results should know."""
        return tuple(dict.fromkeys(map(self.remark_on, self.asked.joined)))

    def remark_on(self, side: SidePlan) -> str:
        """What of it is about figures of one joined table."""
        sides = (self.asked.base, side) if self.asked.mode is Mode.HIDDEN else self.asked.sides
        tables = " and ".join(one.table for one in sides)
        return f"Note: about subjects that {tables} have in common; {_KNOWN[self.asked.mode]}."

    @property
    def forms(self) -> tuple[JointQuery[Outcome], ...]:
        """What may be asked for it; the first that an agreement covers is asked."""
        return (self,)

    # asking

    def run(self, **options: Any) -> Outcome:
        """Ask the holders, and wait for the answer. Options as for `submit`, and `progress` as for a table's query."""
        return self.runner.run(self, **options)

    def submit(self, **options: Any) -> JointJob[Outcome]:
        """Ask the holders; a job to wait for. Options: `agreement`, `deadline`, `noise`, `purpose`; and `linkage`, an
        earlier result whose subjects are meant again, so that nobody is linked anew."""
        return self.runner.submit(self, **options)

    def explain(self, **options: Any) -> JointExplanation:
        """Who would see what, under which agreement, and what refuses it; asks nothing. Options as for `submit`, but no
        deadline."""
        return self.runner.explain(self, **options)

    def __repr__(self) -> str:
        first, *others = describe_joint(self.asked)
        return "\n".join([f"{first}, not asked yet", *others])


_KNOWN = {
    Mode.HIDDEN: "nobody has learnt which they are",
    Mode.CARDINALITY: "nobody has learnt which they are",
    Mode.REVEALED: "the holders have learnt which they are",
}


# --- statistics side by side -----------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class JointAggregate(JointQuery[Result]):
    """One table of statistics by groups."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The titles of the result's columns."""
        return (*self._groups, *self.names)

    @property
    def _groups(self) -> tuple[str, ...]:
        plans = (self.base, *(side.plans[0] for side in self.asked.joined))
        return tuple(key.name for plan in plans for key in plan.groups)

    def _titles(self) -> Iterator[tuple[str, ...]]:
        yield self.columns

    def outcome(self, opened: Opened, **about: Any) -> Result:
        tables = {side.plans[0]: opened[side.holder][0] for side in self.asked.joined}
        released = {plan: released_of(table) for plan, table in tables.items()}
        finished = {plan: _by_labels(tables[plan], found.rows) for plan, found in released.items()}
        widths = {plan: _by_labels(tables[plan], found.half_widths) for plan, found in released.items()}
        keys = [*self.base.groups, *(key for plan in tables for key in plan.groups)]
        rows, plus_minus = [], []
        for cell in _cells_of(list(finished.values()), next(iter(tables.values())).program):
            labels = [python_label(key, label) for key, label in zip(keys, cell, strict=True)]
            nobody = {plan: _of_nobody(table.program) for plan, table in tables.items()}
            rows.append((*labels, *self._in_order({plan: finished[plan].get(cell, nobody[plan]) for plan in tables})))
            if any(widths.values()):
                plus_minus.append((*labels, *self._in_order({plan: widths[plan][cell] for plan in tables})))
        return Result(
            self.columns,
            rows,
            groups=self._groups,
            labels=self._labels(),
            remarks=self.remarks,
            noise=noise_report(tables.values()),
            plus_minus=plus_minus,
            **about,
        )

    def _in_order(self, outputs: Mapping[Plan, Sequence[Any]]) -> list[Any]:
        """Those of all plans, as they were asked for."""
        named = {
            output.name: value
            for plan, values in outputs.items()
            for output, value in zip(plan.outputs, values, strict=True)
        }
        return [named[name] for name in self.names]

    def _labels(self) -> dict[str, str]:
        plans = [side.plans[0] for side in self.asked.sides]
        return {name: text for plan in plans for name, text in axis_labels(plan, self.schemas[plan.table]).items()}


def released_of(table: JoinedTable) -> Released:
    """Its totals, as those of any other answer."""
    return Released(table.totals, table.sent, table.noise, table.variances)


def noise_report(tables: Iterable[JoinedTable]) -> NoiseReport | None:
    """Of all tables of an answer; the count's σ is the largest of theirs. None without noise."""
    reports = [report for table in tables if (report := released_of(table).report(table.program)) is not None]
    if not reports:
        return None
    sigmas = tuple(sigma for report in reports for sigma in report.sigmas)
    return replace(reports[0], sigmas=sigmas, count_sigma=max(report.count_sigma for report in reports))


def _by_labels(table: JoinedTable, rows: Callable[[Program], Sequence[tuple[Any, ...]]]) -> dict[Any, Sequence[Any]]:
    """By a group's labels, what there is of it. Groups that are known to be empty are left out, as in SQL."""
    width = len(table.program.keys)
    return {row[:width]: row[width:] for row in rows(table.program)}


def _cells_of(finished: Sequence[Mapping[Any, Any]], program: Program) -> list[tuple[Label, ...]]:
    """The groups that at least one table has, in the order of their domains."""
    return [labels for labels in program.labels() if any(labels in one for one in finished)]


def _of_nobody(program: Program) -> tuple[Label | Output, ...]:
    """The outputs of a group without anybody, beside another table that has somebody in it."""
    sums = [Total(0, one.step) for one in program.sums]
    return tuple(finish_one(use, sums) for use in program.uses)


# --- how many there are ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class JointCount(JointQuery[Result]):
    """How many subjects all tables have in common: one number, which nothing else is learnt with."""

    exact: JointAggregate | None
    """The same as a statistic, where no agreement lets them be counted alone; None for what only this can say."""

    @property
    def forms(self) -> tuple[JointQuery[Result], ...]:
        return (self,) if self.exact is None else (self, self.exact)

    def _titles(self) -> Iterator[tuple[str, ...]]:
        yield self.names

    def outcome(self, opened: Opened, **about: Any) -> Result:
        ((table,),) = opened.values()
        labels = dict.fromkeys(self.names, "subjects in common")
        rounded = "Note: a number below 1,000 is rounded to the nearest ten."
        return Result(self.names, [tuple(table.subjects)], labels=labels, remarks=(*self.remarks, rounded), **about)


# --- many tables of one linkage --------------------------------------------------------------------------------


class JointResult(Mapping[str, Result]):
    """The tables of one linkage by name, each a Result: `tables["income"].to_pandas()`."""

    def __init__(self, tables: Mapping[str, Result]) -> None:
        self._tables = dict(tables)

    def __getitem__(self, name: str) -> Result:
        if name not in self._tables:
            problem = f"there is no table {name}; the nearest is {nearest(name, self._tables)}"
            raise BadQuestion(problem=problem, hint="`list(tables)` names them.")
        return self._tables[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def job_id(self) -> str:
        """Of the one job that all are of."""
        return next(iter(self._tables.values())).job_id

    @property
    def seconds(self) -> float | None:
        """From asking to the finished rows of all."""
        return next(iter(self._tables.values())).seconds

    @property
    def receipt(self) -> Receipt | None:
        """Of that job: proves the way of all tables."""
        return next(iter(self._tables.values())).receipt

    def to_dicts(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each, as dictionaries."""
        return {name: table.to_dicts() for name, table in self._tables.items()}

    def to_pandas(self) -> dict[str, pandas.DataFrame]:
        """A data frame for each."""
        return {name: table.to_pandas() for name, table in self._tables.items()}

    def __repr__(self) -> str:
        return "\n\n".join([f"{len(self)} tables of one linkage", *map(repr, self._tables.values())])

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self._tables.values())


@dataclass(frozen=True, repr=False, eq=False)
class JointTables(JointQuery[JointResult]):
    """Numbers of subjects by one key after the other, each a plan of its own; a table is called as its key."""

    def _titles(self) -> Iterator[tuple[str, ...]]:
        yield self.names
        for name in self.names:
            yield (*(key.name for key in self.base.groups), name, SUBJECTS)

    def outcome(self, opened: Opened, **about: Any) -> JointResult:
        made = {}
        for side in self.asked.joined:
            for plan, table in zip(side.plans, opened[side.holder], strict=True):
                made[plan.groups[0].name] = counts_of(self, (self.base, plan), side, table, about)
        return JointResult({name: made[name] for name in self.names})


def counts_of(
    query: JointQuery[Any], plans: tuple[Plan, Plan], side: SidePlan, table: JoinedTable, about: Mapping[str, Any]
) -> Result:
    """How many subjects are in each cell of a plan of the base with one of a joined side; empty ones are left out."""
    keys = tuple(key for plan in plans for key in plan.groups)
    groups = tuple(key.name for key in keys)
    half = NORMAL_95 * sqrt(table.variances[ROW_COUNT]) if table.variances else None
    rows, plus_minus = [], []
    for cell, count in zip(table.program.labels(), table.subjects, strict=True):
        labels = [python_label(key, label) for key, label in zip(keys, cell, strict=True)]
        if count != 0 or half is not None:
            rows.append((*labels, WITHHELD if count is None else count))
            plus_minus.append((*labels, None if count is None else half))
    labels_of = {name: text for plan in plans for name, text in axis_labels(plan, query.schemas[plan.table]).items()}
    labels_of[SUBJECTS] = "subjects in common"
    return Result(
        (*groups, SUBJECTS),
        rows,
        groups=groups,
        labels=labels_of,
        remarks=(query.remark_on(side),),
        noise=noise_report([table]),
        plus_minus=plus_minus if half is not None else [],
        **about,
    )
