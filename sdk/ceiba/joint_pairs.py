"""Pairs of features of different holders: a table of counts for each, all of one linkage for every two tables.

    pairs = firms.pairs("industry", "size", income=ceiba.width_bucket("income", 0, 100, 10)).run()
    pairs["industry", "size"].to_pandas()

A table with all others after it is one job, whose base it is: its own features are groupings of its subjects, each with
every feature of the others. So the pairs of n tables take n − 1 jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from ceiba.joint_queries import SUBJECTS, JointQuery, Opened, counts_of
from ceiba.progress import wanted_progress
from ceiba.result import Result
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.plan import Plan
from ceiba_protocol.schema import nearest
from ceiba_protocol.trust.agreement import Mode

if TYPE_CHECKING:
    import pandas

    from ceiba.joint_explanation import JointExplanation
    from ceiba.receipts import Receipt

Pair = tuple[str, str]
"""Two features' names, in the order in which they were asked for."""


class PairTables(Mapping[Pair, Result]):
    """Tables of counts by pair of features, in either order: `pairs["industry", "size"].to_pandas()`."""

    def __init__(self, tables: Mapping[Pair, Result]) -> None:
        self._tables = dict(tables)

    def __getitem__(self, pair: Pair) -> Result:
        if pair not in self:
            known = {_words(one): one for one in self._tables}
            problem = f"there is no pair {_words(pair)}; the nearest is {nearest(_words(pair), known)}"
            hint = "`list(pairs)` names them; two features of one table are no pair of these."
            raise BadQuestion(problem=problem, hint=hint)
        return self._tables[pair if pair in self._tables else pair[::-1]]

    def __contains__(self, pair: object) -> bool:
        return isinstance(pair, tuple) and (pair in self._tables or pair[::-1] in self._tables)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def job_ids(self) -> list[str]:
        """Of the jobs that they are of, in the order in which these were asked."""
        return list(dict.fromkeys(table.job_id for table in self._tables.values()))

    @property
    def receipts(self) -> list[Receipt]:
        """One for each job: proves the way of all of its tables."""
        found = {table.job_id: table.receipt for table in self._tables.values()}
        return [receipt for receipt in found.values() if receipt is not None]

    @property
    def receipt(self) -> Receipt | None:
        """If they are of one job."""
        return self.receipts[0] if len(self.receipts) == 1 else None

    def to_dicts(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each, as dictionaries, by `industry and size`."""
        return {_words(pair): table.to_dicts() for pair, table in self._tables.items()}

    def to_pandas(self) -> dict[Pair, pandas.DataFrame]:
        """A data frame for each."""
        return {pair: table.to_pandas() for pair, table in self._tables.items()}

    def __repr__(self) -> str:
        return "\n\n".join([f"{len(self)} pairs of features", *map(repr, self._tables.values())])

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self._tables.values())


def _words(pair: Pair) -> str:
    return " and ".join(map(str, pair))


@dataclass(frozen=True, repr=False, eq=False)
class JointPairs(JointQuery[PairTables]):
    """Numbers of subjects by each feature of the base with each feature of a joined table, in one job.

    The last group of a plan is its feature; those before it are in all plans of its table.
    """

    def _titles(self) -> Iterator[tuple[str, ...]]:
        yield self.names
        for own, plan in product(self.asked.base.plans, (plan for side in self.asked.joined for plan in side.plans)):
            yield (*(key.name for key in (*own.groups, *plan.groups)), SUBJECTS)

    def outcome(self, opened: Opened, **about: Any) -> PairTables:
        made = dict[Pair, Result]()
        for side in self.asked.joined:
            pairs = product(self.asked.base.plans, side.plans)
            for (own, plan), table in zip(pairs, opened[side.holder], strict=True):
                made[self._pair(own, plan)] = counts_of(self, (own, plan), side, table, about)
        return PairTables({pair: made[pair] for pair in combinations(self.names, 2) if pair in made})

    def _pair(self, own: Plan, plan: Plan) -> Pair:
        first, second = sorted((own.groups[-1].name, plan.groups[-1].name), key=self.names.index)
        return first, second


@dataclass(frozen=True, repr=False, eq=False)
class AllPairs:
    """Every pair of features of different tables; lazy, until `run`."""

    names: tuple[str, ...]
    """The features', in the order in which they were asked for."""
    queries: tuple[JointPairs, ...]
    """The jobs that it takes. Each may also be asked for itself."""

    def run(self, *, progress: bool | None = None, **options: Any) -> PairTables:
        """Ask job after job, all under the agreement of the first, which reads the most, and of one linkage if it lets
        one serve so many; not with `linkage=None`. `progress` and the options are those of a query."""
        found = dict[Pair, Result]()
        for query in self.queries:
            job = query.submit(**options)
            found |= job.wait(wanted_progress(progress))
            options["agreement"] = job.agreement.agreement_id
            joint, mode = job.agreement.joint, query.asked.mode
            if joint and mode is Mode.REVEALED and joint.jobs_per_linkage >= len(self.queries):
                options.setdefault("linkage", job)
        return PairTables({pair: found[pair] for pair in combinations(self.names, 2) if pair in found})

    def explain(self, **options: Any) -> tuple[JointExplanation, ...]:
        """Of each job: who would see what, under which agreement, and what refuses it; as if each linked anew. Asks
        nothing."""
        return tuple(query.explain(**options) for query in self.queries)

    def __repr__(self) -> str:
        return "\n\n".join([f"Pairs of {', '.join(self.names)}, {len(self.queries)} jobs", *map(repr, self.queries)])
