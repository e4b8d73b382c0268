"""What one holder has for its side of a joint job: its subjects, its groups, and what each adds (PROTOCOL §5.4).

Nothing here leaves the house as it is: `linkage.private_join` and `linkage.token_steps` turn it into messages.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from pyroaring import BitMap

from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.engines.joined_rows import Bounds, Entry, base_groups, cells_of_subjects, joined_rows
from ceiba_node.near_tables import near_cells
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.disclosure.support import ROWS, tests_of
from ceiba_protocol.errors import DuplicateIdentifier
from ceiba_protocol.linkage.joint import JointQuestion, SidePlan, guards_of, programs_of
from ceiba_protocol.plan import ROW_COUNT, Plan, Program, SumOf, compile_plan
from ceiba_protocol.trust.agreement import Mode

Common = frozenset[bytes] | None
"""Which of the own subjects all holders know, where that is revealed."""


@dataclass(frozen=True)
class OwnSide:
    """Of one question, and the snapshot that it pins."""

    engine: DuckDBEngine
    question: JointQuestion
    snapshot: Snapshot
    me: str
    order_key: bytes = field(repr=False)
    """As `Bounds`."""

    @property
    def side(self) -> SidePlan:
        return self.question.plan.side_of(self.me)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Of its plans."""
        return programs_of(self.side, self.snapshot.schema)

    def linked(self) -> list[bytes]:
        """Whom this holder links by tokens: who passes its filter, if they are only counted. But if it is revealed who
        is at all holders, everybody: else the others would learn who passes."""
        return self._subjects(is_filtered=self.question.plan.mode is Mode.CARDINALITY)

    def _subjects(self, *, is_filtered: bool = False) -> list[bytes]:
        """Everybody of whom this holder has a row; or a row that passes the filter of its first plan."""
        program = self.programs[0]
        ungrouped = replace(program, keys=(), condition=program.condition if is_filtered else None)
        return list(cells_of_subjects(self.engine, self.snapshot, ungrouped, self.side.on))

    def check_groups(self) -> None:
        """As a base with groups it has one row of each subject: a refusal because of a single one that is in two groups
        would tell of it. Raises DuplicateIdentifier."""
        is_grouped = self.side == self.question.plan.base and any(program.keys for program in self.programs)
        if is_grouped and not self.snapshot.is_one_row_each:
            problem = "a subject may have several rows, and so be in two groups"
            raise DuplicateIdentifier(table=self.snapshot.table, column=self.side.on, problem=problem)

    def groupings(self, common: Common) -> list[list[list[bytes]]]:
        """For each of the base's plans, whom each of its groups has; of those alone that all know, if it is said."""
        groupings = [base_groups(self.engine, self.snapshot, program, self.side.on) for program in self.programs]
        if common is None:
            return groupings
        return [[[one for one in group if one in common] for group in groups] for groups in groupings]

    def rows(self, common: Common) -> dict[bytes, list[Entry]]:
        """What each subject of a joined holder adds to the cells of all plans, which stand one after the other, and
        then to the guards of an exact answer; of those alone that all know, if it is said.

        Whom a filter leaves out is there with nothing to add: else the base would see how many of its subjects pass.
        """
        rows: dict[bytes, list[Entry]] = {one: [] for one in self._subjects() if common is None or one in common}
        entries = self._guarded() if self.question.manifest.noise is None else self._bounded()
        for identifier, entry in entries:
            if identifier in rows:
                rows[identifier].append(entry)
        return rows

    def _bounded(self) -> Iterator[tuple[bytes, Entry]]:
        """What each subject adds to an answer with noise. The number of its rows is left out: it has one at most."""
        noise, first = self.question.manifest.noise, 0
        assert noise is not None
        for program in self.programs:
            bounds = Bounds(program, noise.cells_per_subject, self.order_key)
            found = joined_rows(self.engine, self.snapshot, program, self.side.on)
            for subject, identifier in enumerate(found.identifiers):
                for cell, sums in bounds.apply(identifier, found.entries(subject)):
                    yield identifier, (first + cell, sums[ROW_COUNT + 1 :])
            first += program.cells

    def _guarded(self) -> Iterator[tuple[bytes, Entry]]:
        """What each subject adds to an exact answer, and which guards' conditions it meets."""
        first, first_guard = 0, sum(program.cells for program in self.programs)
        for program in self.programs:
            guards, width = guards_of(program, self.question), len(program.sums)
            flags = tuple(SumOf(guard.support, Fraction(1)) for guard in guards)
            tested = replace(program, sums=(*program.sums, *flags))
            found = joined_rows(self.engine, self.snapshot, tested, self.side.on)
            for subject, identifier in enumerate(found.identifiers):
                for cell, sums in found.entries(subject):
                    yield identifier, (first + cell, sums[:width])
                    for place, times in enumerate(sums[width:]):
                        if times:
                            yield identifier, (first_guard + cell * len(guards) + place, [])
            first += program.cells
            first_guard += program.cells * len(guards)

    def vetoed(self, earlier: Iterable[tuple[Plan, Snapshot]], common: Common) -> set[int]:
        """Of the cells of this holder's plans, those of an exact answer that are about nearly the same of its subjects
        as others, or as those of `earlier` plans in the version that these were about."""
        if self.question.manifest.noise is not None:
            return set()
        numbers: dict[bytes, int] = {}
        tables, cells = list[list[BitMap]](), list[int]()
        for plan, snapshot in earlier:
            for members in self._members(compile_plan(plan, snapshot.schema), snapshot, numbers, common):
                tables.append(members)
                cells += [-1] * len(members)
        first = 0
        for program in self.programs:
            for members in self._members(program, self.snapshot, numbers, common):
                tables.append(members)
                cells += range(first, first + program.cells)
            first += program.cells
        return {cells[place] for place in near_cells(tables, self.question.least)} - {-1}

    def _members(
        self, program: Program, snapshot: Snapshot, numbers: dict[bytes, int], common: Common
    ) -> list[list[BitMap]]:
        """Who is in each of a program's cells, of those that may be in common; then for each condition by which its
        statistics choose rows, who meets it there. `numbers`: by identifier."""
        tests = tests_of(program).tests[ROWS + 1 :]
        chosen = tuple(SumOf(test.members, Fraction(1)) for test in tests if test.audited and test.is_chosen)
        found = joined_rows(self.engine, snapshot, replace(program, sums=chosen), self.side.on)
        members = [[BitMap() for _ in range(program.cells)] for _ in (None, *chosen)]
        for subject, identifier in enumerate(found.identifiers):
            if common is None or identifier in common:
                number = numbers.setdefault(identifier, len(numbers))
                for cell, times in found.entries(subject):
                    members[0][cell].add(number)
                    for place, met in enumerate(times, start=1):
                        if met:
                            members[place][cell].add(number)
        return members
