"""Exact joint answers are all of one table: what is asked otherwise, and by whom it is refused (ADR 0029)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.house_rules import Policy
from ceiba_protocol.expression import Branch, Case, ColumnValue, Comparing, Logic, Number
from ceiba_protocol.linkage.joint import JointPlan
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn, GroupKey, LabelBranch, Named
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.joint_nodes import InternalNodes, JointNodes, quick_keys
from tests.support.members import MERCHANT, NOW

WAGES, EMPLOYMENT, SALES = (ColumnValue(name=name) for name in ("wages", "employment", "sales"))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[JointNodes]:
    with quick_keys():
        made = InternalNodes(tmp_path / "space")
        yield made
        made.close()


def above(column: ColumnValue, least: int) -> Comparing:
    return Comparing(comparison=Comparison.GREATER, left=column, right=Number(value=str(least)))


def buckets(count: int, high: int = 40) -> ByBucket:
    return ByBucket(name="staff", value=EMPLOYMENT, low=Number(value="0"), high=Number(value=str(high)), count=count)


def plan(nodes: JointNodes, *, base: Any = (), mode: Mode = Mode.HIDDEN, **social: Any) -> JointPlan:
    """`base`: parts of the tax office's plan; `social`: of the insurance's."""
    return nodes.plan(
        mode, "tax", "social", tax=nodes.counts("tax", **dict(base)), social=nodes.counts("social", **social)
    )


def grouped(*keys: GroupKey) -> dict[str, Any]:
    return {"groups": keys}


BY_SIZE = grouped(ByColumn(name="size", column="size"))
LARGER = {"filter": above(EMPLOYMENT, 10)}
BOTH = Logic(op="and", terms=(above(EMPLOYMENT, 10), above(WAGES, 100)))
OTHER_WAY = Logic(op="and", terms=BOTH.terms[::-1])
AIMED = Sum(value=Case(branches=(Branch(when=above(EMPLOYMENT, 11), then=WAGES),)))
EDGE_AT_TEN, EDGE_AT_ELEVEN = (
    grouped(ByCase(name="big", branches=(LabelBranch(when=above(EMPLOYMENT, edge), label="big"),), otherwise="small"))
    for edge in (10, 11)
)
AIMED_AT = {"outputs": (Named(name="wages", statistic=AIMED),)}

PASSES = {
    "the same again": (BY_SIZE, BY_SIZE),
    "the whole, and by a column": ({}, BY_SIZE),
    "by a column, and the whole": (BY_SIZE, {}),
    "another column": (BY_SIZE, grouped(buckets(4))),
    "both columns": (BY_SIZE, grouped(ByColumn(name="size", column="size"), buckets(4))),
    "coarser": (grouped(buckets(8)), grouped(buckets(4))),
    "finer": (grouped(buckets(4)), grouped(buckets(8))),
    "a filter in another order": ({"filter": BOTH}, {"filter": OTHER_WAY}),
    "another figure": (BY_SIZE, BY_SIZE | {"outputs": (Named(name="wages", statistic=Sum(value=WAGES)),)}),
}
DIFFER = {
    "a filter": ({}, LARGER, "another filter of insurance.firms"),
    "no filter": (LARGER, {}, "another filter of insurance.firms"),
    "an edge": (EDGE_AT_TEN, EDGE_AT_ELEVEN, "another division of employment of insurance.firms"),
    "buckets across": (grouped(buckets(4)), grouped(buckets(3)), "another division of employment"),
    "a condition in a sum": (EDGE_AT_TEN, AIMED_AT, "another division of employment"),
}


@pytest.mark.parametrize("what", PASSES)
def test_margins_of_one_table_are_answered(nodes: JointNodes, what: str) -> None:
    first, second = PASSES[what]
    assert nodes.ask(plan(nodes, **first)) == "done"
    assert nodes.ask(plan(nodes, **second)) == "done"


@pytest.mark.parametrize("what", DIFFER)
def test_what_is_asked_otherwise_is_refused_by_name(nodes: JointNodes, what: str) -> None:
    """By whoever sees it: of its own rows the insurance alone; but it may be asked with noise."""
    first, second, says = DIFFER[what]
    assert nodes.ask(plan(nodes, **first)) == "done"
    assert nodes.ask(plan(nodes, **second)) == "refused"
    assert nodes.reason[1] == "asked_otherwise" and says in nodes.error.public
    assert nodes.ask(plan(nodes, **second), noise=NoiseTerms(rho=100_000)) == "done"
    assert nodes.ask(plan(nodes, **first)) == "done", "and with noise nothing is remembered"


def test_the_bases_side_is_looked_at_as_well(nodes: JointNodes) -> None:
    by_sales = grouped(ByBucket(name="sold", value=SALES, low=Number(value="0"), high=Number(value="1000"), count=2))
    across = grouped(ByBucket(name="sold", value=SALES, low=Number(value="0"), high=Number(value="1000"), count=3))
    assert nodes.ask(plan(nodes, base=by_sales)) == "done"
    assert nodes.ask(plan(nodes, base=across)) == "refused"
    assert nodes.reason == ("tax", "asked_otherwise") and "division of sales" in nodes.error.public
    assert nodes.ask(plan(nodes, base={"filter": above(SALES, 10)})) == "refused"
    assert "another filter of tax.firms" in nodes.error.public


def test_tables_of_one_job_are_compared_too(nodes: JointNodes) -> None:
    two = nodes.counts("social", **grouped(buckets(4))), nodes.counts("social", **grouped(buckets(3)))
    assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social", social=two)) == "refused"
    assert "division of employment" in nodes.error.public
    two = nodes.counts("social"), nodes.counts("social", **LARGER)
    assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social", social=two)) == "refused"
    assert "several filters of insurance.firms" in nodes.error.public


def test_what_several_holders_have_in_common_is_something_else(nodes: JointNodes) -> None:
    assert nodes.ask(plan(nodes)) == "done"
    assert nodes.ask(plan(nodes, mode=Mode.CARDINALITY)) == "done", "two holders, the same subjects"
    assert nodes.ask(nodes.plan(Mode.REVEALED, "tax", "social", linked=("patents",))) == "refused"
    assert "social, tax have in common, and not patents, social, tax" in nodes.error.public
    assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "patents", patents=nodes.counts("patents"))) == "done"


def test_the_size_of_an_intersection_is_compared(nodes: JointNodes) -> None:
    assert nodes.ask(plan(nodes, mode=Mode.CARDINALITY)) == "done"
    assert nodes.ask(plan(nodes, mode=Mode.CARDINALITY, **LARGER)) == "refused"
    assert nodes.reason[1] == "asked_otherwise"


def test_it_is_remembered_for_as_long_as_the_policy_says_and_after_a_restart(nodes: JointNodes) -> None:
    assert nodes.ask(plan(nodes)) == "done"
    for house in nodes.houses.values():
        house.restart()
    assert nodes.ask(plan(nodes, **LARGER)) == "refused"
    for house in nodes.houses.values():
        house.policy, house.now = Policy(audit_days=1), NOW
        with house.node._ledger._transaction() as connection:
            connection.execute("UPDATE jobs SET approved_at = approved_at - 86401")
    assert nodes.ask(plan(nodes, **LARGER)) == "done"


def test_it_is_compared_with_what_one_organisation_asked_or_with_everything(nodes: JointNodes) -> None:
    assert nodes.ask(plan(nodes)) == "done"
    for house in nodes.houses.values():
        with house.node._ledger._transaction() as connection:
            connection.execute("UPDATE jobs SET organisation = 'another bank'")
    strict = nodes.houses["social"]
    strict.policy = Policy(strict_sets=True)
    assert nodes.ask(plan(nodes, **LARGER)) == "refused" and nodes.reason == ("social", "asked_otherwise")
    strict.policy = Policy()
    assert nodes.ask(plan(nodes, **LARGER)) == "done"


def test_a_new_version_has_to_differ_by_many(nodes: JointNodes) -> None:
    assert nodes.ask(plan(nodes)) == "done"
    house = nodes.houses["social"]
    frame = nodes.world.datasets["social"].frame
    house.publish(frame[frame.uscc != "firm 12"])
    assert nodes.ask(plan(nodes)) == "done" and nodes.opened()["social"][0].subjects == [None]
    house.publish(frame[~frame.uscc.isin([f"firm {number}" for number in range(12, 17)])])
    assert nodes.ask(plan(nodes)) == "done" and nodes.opened()["social"][0].subjects == [None], "of the second by four"
    house.publish(frame[~frame.uscc.isin([f"firm {number}" for number in range(12, 24)])])
    assert nodes.ask(plan(nodes)) == "done" and nodes.opened()["social"][0].subjects == [28]


def test_what_cannot_be_compared_is_refused(nodes: JointNodes) -> None:
    """The version that the first answer was about is not kept any more."""
    assert nodes.ask(plan(nodes)) == "done"
    house = nodes.houses["social"]
    frame = nodes.world.datasets["social"].frame
    for number in range(5):
        house.publish(frame[frame.uscc != f"firm {12 + number}"])
    assert nodes.ask(plan(nodes)) == "refused"
    assert nodes.reason == ("social", "asked_otherwise") and "not kept any more" in nodes.error.public


def test_what_was_never_answered_does_not_count(nodes: JointNodes) -> None:
    """But it does as long as it may be answered."""
    nodes.submit(plan(nodes))
    nodes.work(absent=("tax", "social"))  # both approve, and that is all
    under_way = nodes.id
    nodes.submit(plan(nodes, **LARGER))
    nodes.work(absent=("tax", "social"))
    assert nodes.state == "refused" and nodes.reason[1] == "asked_otherwise"
    nodes.office.jobs.cancel(under_way, MERCHANT)
    nodes.id = under_way
    nodes.tell_of_the_end()
    assert nodes.ask(plan(nodes, **LARGER)) == "done"
