"""Joins in every mode, through the front door: real processes of a tax office, an insurance and a patent office."""

from collections.abc import Iterator

import pytest

import ceiba
from ceiba.joins import Join
from ceiba.space import Space
from ceiba_protocol.errors import IntersectionTooSmall, JobRefused, LinkageUsedUp
from ceiba_scenarios import Sandbox
from tests.support.joint_space import PATENTS, SOCIAL, TAX, firms

pytestmark = pytest.mark.slow

FRAMES = firms()
TABLES = [TAX.table, SOCIAL.table, PATENTS.table]
BOTH = FRAMES["tax"].merge(FRAMES["social"], on="uscc", suffixes=("_tax", "_social"))
TERMS = {"modes": ["cardinality", "hidden", "revealed"], "smallest_intersection": 10, "jobs_per_linkage": 3}
ALL = BOTH[BOTH.uscc.isin(FRAMES["patents"].uscc)]


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    schemas = {one.table: one for one in (TAX, SOCIAL, PATENTS)}
    holders = {
        "tax": {TAX.table: FRAMES["tax"]},
        "social": {SOCIAL.table: FRAMES["social"]},
        "patents": {PATENTS.table: FRAMES["patents"]},
    }
    with Sandbox(holders, schemas=schemas) as sandbox:
        merchant = sandbox.merchant("bank")
        sandbox.agree_jointly(merchant, TABLES, **TERMS)
        yield merchant


def joined(space: Space, tables: int = 3, *, reveal: bool = False) -> Join:
    return space.join(*TABLES[:tables], on="uscc", reveal=reveal)


@pytest.mark.long
def test_a_space_answers_in_every_mode(space: Space) -> None:
    # Hidden: figures of what two tables have in common.
    wages = joined(space, 2).group_by("industry").agg(ceiba.sum("wages")).run()
    assert {row[0]: row[1] for row in wages} == BOTH.groupby("industry").wages.sum().to_dict()
    # Counted: how many two have, between them alone; how many three have, through the operator.
    assert joined(space, 2).count().run().value == BOTH.uscc.nunique() == 40
    count = joined(space).count().run()
    assert count.value == ALL.uscc.nunique() == 20
    assert count.receipt is not None and count.receipt.verify()
    # Revealed: figures of what all three have.
    revealed = joined(space, reveal=True).group_by("industry").agg(ceiba.sum("wages")).run()
    assert {row[0]: row[1] for row in revealed} == ALL.groupby("industry").wages.sum().to_dict()
    # What is too small is told by the operator, which alone knows it.
    join = joined(space)
    with pytest.raises(JobRefused) as caught:
        join.filter(join.sales > 800).count().run()
    assert isinstance(caught.value.reason, IntersectionTooSmall)


@pytest.mark.long
def test_later_questions_use_a_linkage_again(space: Space) -> None:
    join = joined(space, reveal=True)
    first = join.group_by("industry").agg(ceiba.sum("wages")).submit()
    assert {row[0]: row[1] for row in first.wait()} == ALL.groupby("industry").wages.sum().to_dict()
    second = join.filter(join.sales > 300).group_by("industry").agg(ceiba.sum("employment")).submit(linkage=first)
    selling = ALL[ALL.sales > 300].groupby("industry").employment.sum().to_dict()
    result = second.wait()
    assert {row[0]: row[1] for row in result} == selling
    assert result.receipt is not None and result.receipt.verify()
    assert (first.status().messages, second.status().messages) == (25, 8)
    # Another base, and then no more.
    sales = join.agg(ceiba.mean("sales"))
    assert sales.run(linkage=result).rows == sales.run().rows
    with pytest.raises(JobRefused) as caught:
        sales.run(linkage=result)
    assert isinstance(caught.value.reason, LinkageUsedUp)
