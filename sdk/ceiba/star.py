"""Which table of a join is the base, and what each holder is asked. Pure: parts of a question in, a joint plan out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ceiba.terms import Term, built, joined
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Expression, to_text
from ceiba_protocol.linkage.joint import JointPlan, SidePlan
from ceiba_protocol.plan import GroupKey, Named, Plan
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.trust.agreement import Mode

Place = int | None
"""Which of the join's tables something is about; None for what reads no column, such as COUNT(*)."""


@dataclass(frozen=True)
class JoinSide:
    """One table of a join."""

    schema: Schema
    holder: str
    on: str
    """The identifier by which its subjects are found at the others."""

    @property
    def table(self) -> str:
        return self.schema.table

    @property
    def prefix(self) -> str:
        """What stands before a column's name where several tables have it: `tax_firms__sales`."""
        return f"{self.table.replace('.', '_')}__"


@dataclass(frozen=True)
class Parts:
    """What of a question is said before its statistics. Names in it are the tables' own."""

    sides: tuple[JoinSide, ...]
    conditions: tuple[tuple[Place, Expression], ...] = ()
    keys: tuple[tuple[Place, GroupKey], ...] = ()
    reveals: bool = False
    """Whether holders may learn which of their subjects all of the tables have; then figures are of these."""

    def names(self, places: Iterable[int]) -> str:
        """The tables in these places, for people."""
        return ", ".join(self.sides[place].table for place in sorted(places))

    @property
    def keyed(self) -> list[int]:
        """The tables that groups are of, in the order of the groups."""
        return list(dict.fromkeys(place for place, _ in self.keys if place is not None))


@dataclass(frozen=True)
class Star:
    """A base, and the tables that are joined to it."""

    parts: Parts
    base: int
    joined: tuple[int, ...]

    def keys_of(self, place: int) -> tuple[GroupKey, ...]:
        """The groups of one table. Those that read no column are the base's."""
        wanted = (place, None) if place == self.base else (place,)
        return tuple(key for at, key in self.parts.keys if at in wanted)

    def plan(self, place: int, keys: Sequence[GroupKey], outputs: Sequence[Named]) -> Plan:
        """A question to one table, with its conditions. Those that read no column are the base's."""
        schema = self.parts.sides[place].schema
        wanted = (place, None) if place == self.base else (place,)
        conditions = [Term(condition) for at, condition in self.parts.conditions if at in wanted]
        return built(
            Plan,
            table=schema.table,
            schema_digest=schema.digest(),
            filter=joined("and", conditions).expression if len(conditions) > 1 else _only(conditions),
            groups=tuple(keys),
            outputs=tuple(outputs),
        )

    def joint_plan(self, plans: Mapping[int, Sequence[Plan]]) -> JointPlan:
        """`plans`: of each joined table, and of the base if it has another one than for its groups."""
        own = plans.get(self.base) or [self.counting(self.base, self.keys_of(self.base))]
        return built(
            JointPlan,
            mode=Mode.REVEALED if self.parts.reveals else Mode.HIDDEN,
            base=self._side(self.base, own),
            joined=_sorted(self._side(place, plans[place]) for place in self.joined),
            linked=_sorted(self._counted(place) for place in self._linked),
        )

    def counting_plan(self) -> JointPlan:
        """How many subjects all tables have in common, each after its own conditions, and nothing else."""
        sides = map(self._counted, self.joined)
        return built(JointPlan, mode=Mode.CARDINALITY, base=self._counted(self.base), joined=_sorted(sides))

    @property
    def _linked(self) -> list[int]:
        """The tables of which nothing is asked but which subjects they have; while that is hidden they play no part."""
        used = (self.base, *self.joined)
        return [place for place in range(len(self.parts.sides)) if place not in used and self.parts.reveals]

    def counting(self, place: int, keys: Sequence[GroupKey]) -> Plan:
        """How many rows a table has in each group."""
        return self.plan(place, keys, [Named(name=free_name("rows", [key.name for key in keys]), statistic=Count())])

    def _counted(self, place: int) -> SidePlan:
        return self._side(place, [self.counting(place, ())])

    def _side(self, place: int, plans: Sequence[Plan]) -> SidePlan:
        side = self.parts.sides[place]
        return built(SidePlan, holder=side.holder, on=side.on, plans=tuple(plans))


def _sorted(sides: Iterable[SidePlan]) -> tuple[SidePlan, ...]:
    return tuple(sorted(sides, key=lambda side: side.holder))


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, or one like it that is not taken."""
    names = set(taken)
    while name in names:
        name += "_"
    return name


def _only(conditions: Sequence[Term]) -> Expression | None:
    return conditions[0].expression if conditions else None


# --- who is the base -------------------------------------------------------------------------------------------


def star_of(parts: Parts, measured: Iterable[Place]) -> Star:
    """The roles of the tables where something of these is measured. Raises BadQuestion.

    1. Measured tables are joined. 2. The base is the one with groups of the others, or else the first of them.
    3. What is asked can be answered so: every group, filter and count has its place.
    """
    asked = set(measured)
    places = {place for place in asked if place is not None} or _counted(parts)
    others = [place for place in range(len(parts.sides)) if place not in places]
    if not others:
        raise _no_base(parts, places)
    keyed = [place for place in parts.keyed if place not in places]
    if len(keyed) > 1:
        hint = "Group by columns of one of them, or ask for statistics of the others' columns."
        problem = f"groups are of several tables of which nothing else is asked: {parts.names(keyed)}"
        raise BadQuestion(problem=problem, hint=hint)
    star = Star(parts, keyed[0] if keyed else others[0], tuple(sorted(places)))
    if len(star.joined) > 1:
        _check_beside(star, counts=None in asked)
    _check_filters(star)
    return star


def _counted(parts: Parts) -> set[int]:
    """Whose rows are counted where no statistic reads a column: of the tables that groups are of, all but the first;
    or the only other table."""
    base, *others = parts.keyed or [0]
    others = others or [place for place in range(len(parts.sides)) if place != base]
    if parts.reveals and not parts.keys:
        others = others[:1]  # what all have in common is the same subjects everywhere
    if len(others) > 1:
        hint = "Join two tables to count what they have in common, or count a column: ceiba.count(column)."
        raise BadQuestion(problem=f"it is not said of which table rows are counted: {parts.names(others)}", hint=hint)
    return set(others)


def _no_base(parts: Parts, places: Iterable[int]) -> BadQuestion:
    groups = f", and {parts.names(parts.keyed[:1])} has the groups" if parts.keyed else ""
    return BadQuestion(
        problem=f"it has statistics of every joined table ({parts.names(places)}){groups}; one has to be the base, "
        "which only says which subjects belong together",
        hint="Leave out the statistics of one table, and ask for them in another question, where another is the base.",
    )


def _check_beside(star: Star, *, counts: bool) -> None:
    """Figures of several tables can stand in the same rows. Raises BadQuestion."""
    tables = star.parts.names(star.joined)
    if counts:
        hint = "Count a column instead, ceiba.count(column): the rows in which it is not missing."
        raise BadQuestion(problem=f"it is not said of which table rows are counted: {tables}", hint=hint)
    if own := [key.name for place in star.joined for key in star.keys_of(place)]:
        hint = "Ask for the figures of each table in a question of their own."
        raise BadQuestion(problem=f"{', '.join(own)} groups only one of {tables}, which are side by side", hint=hint)


def _check_filters(star: Star) -> None:
    """The base's filter reaches all figures, a joined table's only its own. Raises BadQuestion."""
    for place, condition in star.parts.conditions:
        missed = [one for one in star.joined if one != place]
        if place not in (None, star.base) and missed:
            table, names = star.parts.names([place or 0]), star.parts.names(missed)
            hint = f"Leave it out, or ask for figures of {table} alone. Filters of the base reach the figures of all."
            raise BadQuestion(problem=f"{to_text(condition)} of {table} does not filter figures of {names}", hint=hint)
