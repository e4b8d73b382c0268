"""What one holder has for its side of a joint job: its subjects, its groups, and what each adds (PROTOCOL §5.4).

Nothing here leaves the house as it is: `linkage.private_join` and `linkage.token_steps` turn it into messages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from pyroaring import BitMap

from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.engines.joined_rows import Bounds, Entry, base_groups, cells_of_subjects, joined_rows
from ceiba_node.near_tables import near_cells
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.linkage.joint import JointQuestion, SidePlan, guards_of, programs_of
from ceiba_protocol.plan import ROW_COUNT, Plan, Program, SumOf
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

    def vetoed(self, earlier: Sequence[Plan], common: Common) -> set[int]:
        """Of the cells of this holder's plans, those of an exact answer that are about nearly the same of its subjects
        as others, or as those of `earlier` plans."""
        if self.question.manifest.noise is not None:
            return set()
        before = programs_of(self.side.model_copy(update={"plans": tuple(earlier)}), self.snapshot.schema)
        numbers: dict[bytes, int] = {}
        tables = [self._members(program, numbers, common) for program in (*before, *self.programs)]
        first = sum(program.cells for program in before)
        return {cell - first for cell in near_cells(tables, self.question.least) if cell >= first}

    def _members(self, program: Program, numbers: dict[bytes, int], common: Common) -> list[BitMap]:
        """Who is in each of a program's cells, of those that may be in common; `numbers`: by identifier."""
        found = joined_rows(self.engine, self.snapshot, replace(program, sums=()), self.side.on)
        members = [BitMap() for _ in range(program.cells)]
        for subject, identifier in enumerate(found.identifiers):
            if common is None or identifier in common:
                number = numbers.setdefault(identifier, len(numbers))
                for cell, _ in found.entries(subject):
                    members[cell].add(number)
        return members
