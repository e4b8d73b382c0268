"""Whether exact joint questions about one holder's table are margins of one table (ADR 0029).

They are about versions of many other subjects, or the same; and divide columns in ways of which one refines the other.
Two divisions whose edges lie apart by little differ by the few firms between them; a finer and a coarser one differ by
whole parts, each of which is tested by itself. Whether they are finer and coarser is looked up in this holder's own
rows: what is so for all of its subjects is so for any of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.engines.joined_rows import numbers_of_subjects
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.disclosure.support import ROWS, tests_of
from ceiba_protocol.errors import AskedOtherwise, PlanTooLarge
from ceiba_protocol.plan import GroupKey, Named, Plan, compile_plan
from ceiba_protocol.program import TRUE, Load, Node, children
from ceiba_protocol.statistics.count import Count


@dataclass(frozen=True)
class Division:
    """A group key, or a condition within a statistic, by which a question chooses rows."""

    words: str
    """The same for the same division, whatever it is called."""
    columns: frozenset[str]
    key: GroupKey | None
    """None for a condition."""


def check_divisions(engine: DuckDBEngine, snapshot: Snapshot, plans: Sequence[Plan]) -> None:
    """No two of these plans divide a column in ways of which neither refines the other. Raises AskedOtherwise.

    Within one plan its own tests see to that (`disclosure.support`).
    """
    seen = dict[frozenset[str], tuple[Plan, tuple[Division, ...]]]()
    for plan in plans:
        own = tuple(divisions_of(plan, snapshot))
        seen.setdefault(frozenset(one.words for one in own), (plan, own))
    compared = set[frozenset[str]]()
    for (plan, own), (_, others) in combinations(seen.values(), 2):
        for one, other in _apart(own, others):
            pair = frozenset((one.words, other.words))
            if pair not in compared and not _refines(engine, snapshot, plan, one, other):
                columns = ", ".join(sorted(one.columns & other.columns))
                raise AskedOtherwise(what=f"another division of {columns} of {snapshot.table}")
            compared.add(pair)


def check_versions(engine: DuckDBEngine, versions: tuple[Snapshot, Snapshot], on: str, least: int) -> None:
    """Two versions of a dataset differ by at least so many subjects. Of how many in common, nobody can tell. Raises
    AskedOtherwise."""
    one, other = (numbers_of_subjects(engine, version, on).keys() for version in versions)
    if len(one ^ other) < least:
        raise AskedOtherwise(what=f"a version of {versions[0].table} with nearly the same subjects")


def divisions_of(plan: Plan, snapshot: Snapshot) -> Iterator[Division]:
    """Those of one plan: its groups, and the rows that its statistics choose."""
    program = compile_plan(plan, snapshot.schema)
    for key, group in zip(program.keys, plan.groups, strict=True):
        yield Division(repr(key.node), frozenset(_columns(key.node)), group)
    for place, test in enumerate(tests_of(program).tests):
        if place != ROWS and test.audited and test.is_chosen and test.members != TRUE:
            yield Division(repr(test.members), frozenset(_columns(test.members)), None)


def _apart(own: Iterable[Division], others: Sequence[Division]) -> Iterator[tuple[Division, Division]]:
    """Those of two plans that read a common column and are not the same."""
    for one in own:
        for other in others:
            if one.words != other.words and not one.columns.isdisjoint(other.columns):
                yield one, other


def _refines(engine: DuckDBEngine, snapshot: Snapshot, plan: Plan, one: Division, other: Division) -> bool:
    """Whether every part of one, among this holder's rows, lies in a single part of the other, or the other way."""
    if one.key is None or other.key is None:
        return False
    groups = (one.key.model_copy(update={"name": "one"}), other.key.model_copy(update={"name": "other"}))
    counted = (Named(name="rows", statistic=Count()),)
    both = Plan(table=plan.table, schema_digest=plan.schema_digest, filter=plan.filter, groups=groups, outputs=counted)
    try:
        program = compile_plan(both, snapshot.schema)
    except PlanTooLarge:
        return False
    rows = np.array(engine.grouped_sums(snapshot, program)).reshape(program.cells, -1)[:, 0]
    shared = rows.reshape([len(key.values) for key in program.keys]) > 0
    return bool((shared.sum(axis=0) <= 1).all() or (shared.sum(axis=1) <= 1).all())


def _columns(node: Node) -> Iterator[str]:
    if isinstance(node, Load):
        yield node.name
    for child in children(node):
        yield from _columns(child)
