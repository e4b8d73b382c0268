"""Joins: tables of several holders about the same subjects, and questions about what they have in common.

    firms = space.join("tax.firms", "insurance.firms", on="uscc")
    firms.filter(firms["employment"] > 10).group_by("industry").agg(ceiba.mean("wages")).to_pandas()

One table is the *base*: its holder says which subjects belong together. Statistics are of the others, the *joined*
tables, each about the subjects that it and the base have in common; nobody learns which these are. With `reveal=True`
they are about the subjects that all tables have in common, and the holders learn which of their own these are. A name
means the one table that has such a column; `firms["tax.firms"].sales` says which, where several have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ceiba.display import html_table, text_table
from ceiba.joint_pairs import AllPairs, JointPairs
from ceiba.joint_queries import JointAggregate, JointCount, JointTables
from ceiba.query import COLUMN_FACTS, UnknownAttribute, facts, named
from ceiba.star import JoinSide, Parts, Place, Star, star_of
from ceiba.terms import Grouping, Term, built, expression_of, grouping, require_shallow
from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import AmbiguousColumn, BadQuestion, UnknownColumn
from ceiba_protocol.expression import ColumnValue, Expression, Logic, lower_condition, to_text
from ceiba_protocol.plan import ByCalendar, ByColumn, GroupKey, Named
from ceiba_protocol.schema import nearest
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.subjects import Subjects

if TYPE_CHECKING:
    from ceiba.joint_jobs import JointRunner

Key = str | Term | Grouping


class SideColumns:
    """The columns of one table of a join, as attributes and items: `firms["tax.firms"].sales`."""

    def __init__(self, side: JoinSide) -> None:
        self._side = side

    def __getitem__(self, name: str) -> Term:
        return Term(built(ColumnValue, name=self._side.prefix + self._side.schema.column(name).name))

    def __getattr__(self, name: str) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownColumn as error:
            raise UnknownAttribute(**error.fields) from None

    def __dir__(self) -> list[str]:
        return list(self._side.schema.by_name)

    def __repr__(self) -> str:
        rows = [facts(column) for column in self._side.schema.columns]
        return text_table(COLUMN_FACTS, rows, [f"{self._side.table}, joined on {self._side.on}"])


@dataclass(frozen=True, repr=False, eq=False)
class Join:
    """Tables about the same subjects, perhaps filtered and grouped; it holds no rows. `space.join` makes it."""

    runner: JointRunner
    _parts: Parts

    @property
    def sides(self) -> tuple[JoinSide, ...]:
        """The tables, in the order in which they were joined."""
        return self._parts.sides

    # --- its columns

    @property
    def columns(self) -> list[str]:
        """The columns' names; where several tables have one, qualified: `tax_firms__sales`."""
        return [name if len(self._having(name)) == 1 else side.prefix + name for side, name in self._every_column()]

    def __getitem__(self, name: str) -> Any:
        """A column, `firms["sales"]`, or the columns of a table, `firms["tax.firms"]`.

        Raises AmbiguousColumn, UnknownColumn.
        """
        for side in self.sides:
            if side.table == name:
                return SideColumns(side)
        self._find(name)
        return Term(built(ColumnValue, name=name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownColumn as error:
            raise UnknownAttribute(**error.fields) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.columns]

    def _every_column(self) -> Iterator[tuple[JoinSide, str]]:
        return ((side, name) for side in self.sides for name in side.schema.by_name)

    def _having(self, name: str) -> list[int]:
        """The places of the tables that have such a column."""
        return [place for place, side in enumerate(self.sides) if name in side.schema.by_name]

    def _find(self, name: str) -> tuple[int, str]:
        """The place of the table that a name means, and its column there. Raises AmbiguousColumn, UnknownColumn."""
        for place, side in enumerate(self.sides):
            if (plain := name.removeprefix(side.prefix)) != name and plain in side.schema.by_name:
                return place, plain
        having = self._having(name)
        if len(having) == 1:
            return having[0], name
        if having:
            first = self.sides[having[0]]
            tables = ", ".join(self.sides[place].table for place in having)
            raise AmbiguousColumn(column=name, tables=tables, first=first.table, qualified=first.prefix + name)
        close = nearest(name, [one for _, one in self._every_column()])
        raise UnknownColumn(table=self.sides[self._having(close)[0]].table, column=name, nearest=close)

    def _located(self, part: Document, what: str) -> tuple[Place, Any]:
        """The table whose columns a part of a question reads, and the part with the names that this table has.

        Raises BadQuestion if there are several, AmbiguousColumn, UnknownColumn.
        """
        require_shallow(part)
        read: dict[int, str] = {}

        def plain(name: str) -> str:
            place, found = self._find(name)
            read.setdefault(place, found)
            return found

        renamed = _renamed(part, plain)
        if len(read) > 1:
            columns = ", ".join(f"{name} of {self.sides[place].table}" for place, name in sorted(read.items()))
            hint = "A holder computes on its own rows alone: write it without the other table's columns."
            raise BadQuestion(problem=f"{what} reads columns of several tables: {columns}", hint=hint)
        return next(iter(read), None), renamed

    # --- building a question

    def filter(self, *conditions: Term) -> Join:
        """Only the rows for which all conditions are true. Each condition reads columns of one table.

        The base's conditions decide which subjects there are; a joined table's, of which of its rows figures are.
        """
        found = list(self._parts.conditions)
        for condition in conditions:
            for one in _conjuncts(expression_of(condition)):
                place, plain = self._located(one, "a condition")
                if place is not None:
                    lower_condition(plain, self.sides[place].schema)
                found.append((place, plain))
        return replace(self, _parts=replace(self._parts, conditions=tuple(found)))

    def group_by(self, *keys: Key) -> Join:
        """One group for each combination of the keys' values, as for a table. Each key reads columns of one table.

        The table with the keys is the base, unless figures of it are asked for: then they group these figures alone.
        """
        return replace(self, _parts=replace(self._parts, keys=(*self._parts.keys, *map(self._key, keys))))

    def _key(self, key: Key) -> tuple[Place, GroupKey]:
        place, made = self._located(grouping(key).key, "a group")
        prefix = "" if place is None else self.sides[place].prefix
        return place, _called(made, made.name.removeprefix(prefix))

    def agg(self, *statistics: Statistic, **outputs: Statistic) -> JointAggregate:
        """The query for one or more statistics: `agg(ceiba.mean("sales"))`, which is called mean_sales, or
        `agg(sales=ceiba.mean("sales"))`. `ceiba.count()` counts a joined table's rows, `ceiba.subjects()` subjects."""
        asked = [self._output(None, statistic) for statistic in statistics]
        asked += [self._output(name, statistic) for name, statistic in outputs.items()]
        if not asked:
            raise BadQuestion(problem="agg() asks for nothing", hint='Write, for example, agg(ceiba.mean("sales")).')
        star = star_of(self._parts, [place for place, _ in asked])
        plans = {
            one: [star.plan(one, star.keys_of(one), [output for at, output in asked if at in (one, None)])]
            for one in star.joined
        }
        return JointAggregate(self._schemas, self.runner, star.joint_plan(plans), tuple(one.name for _, one in asked))

    def _output(self, name: str | None, statistic: Statistic) -> tuple[Place, Named]:
        place, plain = self._located(statistic, "a statistic") if isinstance(statistic, Document) else (None, statistic)
        return place, named(name, plain)

    def count(self) -> JointAggregate | JointCount:
        """How many subjects the tables have in common, in each group if there are groups.

        Without groups: how many all of them have, after each one's filters, below 1,000 to the nearest ten, if an
        agreement has the mode "cardinality". Otherwise, and in groups, it is exact, a statistic like any other.
        """
        if self._parts.keys:
            return self.agg(count=Subjects())
        try:
            exact = self.agg(count=Subjects())
        except BadQuestion:  # there are more than two tables
            exact = None
        others = tuple(range(1, len(self.sides)))
        return JointCount(self._schemas, self.runner, Star(self._parts, 0, others).counting_plan(), ("count",), exact)

    def tabulate(self, *keys: Key, **named_keys: Key) -> JointTables:
        """How many subjects there are by each of the keys: a table for each key, all in one linkage.

        >>> income = ceiba.width_bucket("income", 0, 100, 10)
        >>> tables = firms.group_by("status").tabulate("seniority", income=income).run()
        >>> tables["income"].to_pandas()

        The keys are columns of joined tables; every table is grouped by those of `group_by` as well, the base's.
        """
        located = self._features("tabulate", keys, named_keys)
        star = star_of(self._parts, [place for place, _ in located])
        if own := [key.name for place in star.joined for key in star.keys_of(place)]:
            hint = "Group by columns of another table."
            raise BadQuestion(problem=f"{', '.join(own)} is a group of a table that is tabulated", hint=hint)
        plans = {one: [star.counting(one, [key]) for at, key in located if at == one] for one in star.joined}
        return JointTables(self._schemas, self.runner, star.joint_plan(plans), tuple(key.name for _, key in located))

    def pairs(self, *keys: Key, **named_keys: Key) -> AllPairs:
        """How many subjects there are by each two keys of different tables: a table of counts for each pair.

        >>> pairs = firms.pairs("industry", "size", income=ceiba.width_bucket("income", 0, 100, 10)).run()
        >>> pairs["industry", "size"].to_pandas()

        It takes one job less than there are tables with keys, whatever the number of keys. Each table's filter and
        groups of `group_by` are in all of its pairs: after `group_by("status")` those with the bank's columns are by
        the bank's label as well. Pairs of one table's columns are no questions to several: use `tabulate`.
        """
        located = self._features("pairs", keys, named_keys)
        tables = sorted({place for place, _ in located})
        if len(tables) < 2:
            hint = "Name columns of at least two tables; for two of one table, group by one, or by both together."
            raise BadQuestion(problem=f"all keys of pairs() are of {self._parts.names(tables)}", hint=hint)
        stars = [Star(self._parts, base, tuple(tables[at:])) for at, base in enumerate(tables[:-1], start=1)]
        return AllPairs(tuple(key.name for _, key in located), tuple(self._pairs_of(star, located) for star in stars))

    def _pairs_of(self, star: Star, located: Sequence[tuple[int, GroupKey]]) -> JointPairs:
        """Of the features of the base, with those of each joined table."""
        plans = {
            one: [star.counting(one, [*star.keys_of(one), key]) for at, key in located if at == one]
            for one in (star.base, *star.joined)
        }
        names = tuple(key.name for at, key in located if at in plans)
        return JointPairs(self._schemas, self.runner, star.joint_plan(plans), names)

    def _features(self, method: str, keys: Iterable[Key], named_keys: Mapping[str, Key]) -> list[tuple[int, GroupKey]]:
        """The keys that tables are made of, each with the place of its table. Raises BadQuestion."""
        located = [self._key(key) for key in keys]
        for name, key in named_keys.items():
            place, made = self._key(key)
            located.append((place, _called(made, name)))
        found = [(place, key) for place, key in located if place is not None]
        if not found or len(found) < len(located):
            hint = f'Name columns of joined tables: {method}("seniority", income=...).'
            raise BadQuestion(problem=f"{method}() was given no keys, or one that reads no column", hint=hint)
        return found

    @property
    def _schemas(self) -> dict[str, Any]:
        return {side.table: side.schema for side in self.sides}

    # --- showing itself

    def __repr__(self) -> str:
        return text_table(("table", *COLUMN_FACTS), self._facts(), self._notes())

    def _repr_html_(self) -> str:
        return html_table(("table", *COLUMN_FACTS), self._facts(), self._notes())

    def _facts(self) -> list[tuple[str, ...]]:
        return [(side.table, *facts(side.schema.column(name))) for side, name in self._every_column()]

    def _notes(self) -> list[str]:
        notes = [f"{side.table} of {side.holder}, joined on {side.on}" for side in self.sides]
        notes += [f"where {to_text(condition)}" for _, condition in self._parts.conditions]
        keys = ", ".join(key.name for _, key in self._parts.keys)
        notes += [f"grouped by {keys}"] if keys else []
        return [*notes, *(["the holders learn which subjects all of them have"] if self._parts.reveals else [])]


# --- parts of questions ----------------------------------------------------------------------------------------


def _renamed(part: Any, rename: Callable[[str], str]) -> Any:
    """The same part of a question with every column's name changed."""
    match part:
        case ColumnValue(name=name):
            return ColumnValue(name=rename(name))
        case ByColumn() | ByCalendar():
            return part.model_copy(update={"column": rename(part.column)})
        case Document():
            fields = {name: _renamed(getattr(part, name), rename) for name in type(part).model_fields}
            return type(part)(**fields)
        case tuple():
            return tuple(_renamed(one, rename) for one in part)
    return part


def _called(key: GroupKey, name: str) -> GroupKey:
    """The same groups under another name."""
    kind: Callable[..., GroupKey] = type(key)
    return built(kind, **{**dict(key), "name": name})


def _conjuncts(condition: Expression) -> list[Expression]:
    """Conditions that together are true where this one is."""
    if isinstance(condition, Logic) and condition.op == "and":
        return [one for term in condition.terms for one in _conjuncts(term)]
    return [condition]
