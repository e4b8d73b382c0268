"""Pairs of features among real nodes and a real coordinator: one job, a table for each, in either mode."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas
import pytest

from ceiba_node.own_side import OwnSide
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.linkage import joint
from ceiba_protocol.linkage.joint import JointPlan, announced
from ceiba_protocol.linkage.private_join import BaseSide
from ceiba_protocol.plan import ByColumn, Plan
from ceiba_protocol.program import Comparison
from ceiba_protocol.trust.agreement import Mode
from tests.support.joint_nodes import JointNodes, quick_keys

OWN, OTHERS = ("industry", "region"), ("size", "area")
"""Features of the tax office, and of the insurance, which calls its region an area."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("joint") / "space")
        yield made
        made.close()


def by(nodes: JointNodes, holder: str, name: str, **parts: Any) -> Plan:
    column = "region" if name == "area" else name
    return nodes.counts(holder, groups=(ByColumn(name=name, column=column),), **parts)


def pairs(nodes: JointNodes, mode: Mode, **parts: Any) -> JointPlan:
    """`parts`: of the insurance's plans."""
    plans = {
        "tax": tuple(by(nodes, "tax", name) for name in OWN),
        "social": tuple(by(nodes, "social", name, **parts) for name in OTHERS),
    }
    return nodes.plan(mode, "tax", "social", linked=("patents",) if mode is Mode.REVEALED else (), **plans)


def firms(nodes: JointNodes, mode: Mode) -> pandas.DataFrame:
    frames = {name: one.frame for name, one in nodes.world.datasets.items()}
    both = frames["tax"].merge(frames["social"].rename(columns={"region": "area"}), on="uscc")
    return both[both.uscc.isin(frames["patents"].uscc)] if mode is Mode.REVEALED else both


@pytest.fixture
def rows_received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the base has received in each join."""
    read, seen = BaseSide._read_rows, list[int]()

    def reading(side: BaseSide, rows: bytes) -> Any:
        found = read(side, rows)
        seen.append(len(found[1]))
        return found

    monkeypatch.setattr(BaseSide, "_read_rows", reading)
    return seen


@pytest.mark.parametrize(("mode", "times"), [(Mode.HIDDEN, 2), (Mode.REVEALED, 1)])
def test_one_job_makes_a_table_of_every_pair(
    nodes: JointNodes, mode: Mode, times: int, rows_received: list[int]
) -> None:
    """Where the base may know who is in common, the same rows serve all of its features."""
    assert nodes.ask(pairs(nodes, mode)) == "done"
    tables, known = nodes.opened()["social"], firms(nodes, mode)
    for (own, other), table in zip(product(OWN, OTHERS), tables, strict=True):
        assert [key.name for key in table.program.keys] == [own, other]
        counted = dict(zip(table.program.labels(), table.subjects, strict=True))
        truth = known.groupby([own, other]).uscc.nunique()
        assert {cell: count for cell, count in counted.items() if count} == truth.to_dict()
    assert rows_received == [announced(50) * times]


@pytest.mark.parametrize("mode", [Mode.HIDDEN, Mode.REVEALED])
def test_the_base_does_not_see_whom_the_others_filter_leaves(
    nodes: JointNodes, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a build that sends those alone who pass, it sees how many of its groups do, or of one subject whether."""
    match, seen = BaseSide._match, list[list[int]]()

    def matching(side: BaseSide, *arguments: Any) -> Any:
        found = match(side, *arguments)
        seen.append(found[0])
        return found

    monkeypatch.setattr(BaseSide, "_match", matching)
    large = Comparing(comparison=Comparison.GREATER, left=ColumnValue(name="employment"), right=Number(value="10"))
    assert nodes.ask(pairs(nodes, mode, filter=large)) == "done"
    assert seen == [[firms(nodes, mode).uscc.nunique()] * 2]
    every_row = OwnSide.rows
    monkeypatch.setattr(
        OwnSide, "rows", lambda *arguments: {one: row for one, row in every_row(*arguments).items() if row}
    )
    assert nodes.ask(pairs(nodes, mode, filter=large)) == "done"
    passing = firms(nodes, mode)
    assert seen[1] == [passing[passing.employment > 10].uscc.nunique()] * 2 != seen[0]


def test_too_many_cells_of_all_pairs_together_are_refused(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either side has few enough; that they are 8 groups of 14 sums shows once both have approved."""
    monkeypatch.setattr(joint, "MAX_SUMS", 8 * 14 - 1)
    assert nodes.ask(pairs(nodes, Mode.HIDDEN)) == "failed"
    assert nodes.reason[1] == "plan_too_large" and not nodes.kept()
    monkeypatch.setattr(joint, "MAX_SUMS", 8 * 14)
    assert nodes.ask(pairs(nodes, Mode.HIDDEN)) == "done"


def test_rows_that_no_message_would_hold_are_refused_before_they_are_made(
    nodes: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """56 subjects are announced, in two groupings; a row is a point and one ciphertext of 256 bytes. Before the rows
    there is room for whoever the base has in its 8 groups, and the gate key."""
    points = 2 * announced(nodes.world.datasets["tax"].frame.uscc.nunique()) + 8 * 16
    needed = (points + 1) * 32 + announced(50) * 2 * (32 + 256)
    monkeypatch.setattr("ceiba_node.linking.MOST_PAYLOAD", needed - 1)
    assert nodes.ask(pairs(nodes, Mode.HIDDEN)) == "failed"
    assert nodes.reason[1] == "plan_too_large" and "encrypted rows of social" in nodes.error.public
    monkeypatch.setattr("ceiba_node.linking.MOST_PAYLOAD", needed)
    assert nodes.ask(pairs(nodes, Mode.HIDDEN)) == "done"
