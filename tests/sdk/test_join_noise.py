"""Joins with noise on the merchant's side: when they have it, what it costs, and how it shows."""

from pathlib import Path
from typing import Any

import pytest

import ceiba
from ceiba.space import Space
from ceiba_protocol.errors import NoAgreement, NoiseTooCostly, NoiseUndefined
from ceiba_protocol.linkage.joint import check_joint_noise
from ceiba_protocol.trust.agreement import Mode
from tests.sdk.test_joins import BOTH, TABLES, agreed, coordinator, space, two, world
from tests.support.joint_space import JointCoordinator, agree, joint_home

__all__ = ["agreed", "coordinator", "space", "world"]
DEAR = ceiba.Noise(rho=6.25)
"""σ of a count is 4 at each of two holders, the least that there is."""
SIGMA = 32**0.5


@pytest.fixture
def wary(space: Space, coordinator: JointCoordinator) -> Space:
    """Under an agreement in which nobody believes a base."""
    agree(space, coordinator, TABLES, base_is_trusted=False, modes=["hidden", "cardinality"])
    return space


def by_industry(space: Space) -> Any:
    return two(space).group_by("industry").agg(ceiba.mean("wages"), n=ceiba.count(), firms=ceiba.subjects())


def test_figures_have_intervals_in_which_the_truth_is(wary: Space) -> None:
    """Of a firm with two rows it counts one, and of both the sum: as much as one row may add."""
    result = by_industry(wary).run(noise=DEAR)
    assert result.noise is not None and result.noise.rho == DEAR.rho
    assert round(result.noise.count_sigma, 3) == round(SIGMA, 3)
    assert f"ρ {DEAR.rho:g}" in repr(result) and "±" in repr(result)
    firms = BOTH.groupby("industry").uscc.nunique()
    for row, industry in enumerate(result["industry"]):
        if result["n"][row] is ceiba.WITHHELD:
            continue
        low, high = result.interval(row, "n")
        assert high - low == pytest.approx(2 * 1.96 * SIGMA, rel=1e-3)
        assert abs(result["n"][row] - firms.get(industry, 0)) < 8 * SIGMA
        assert result.interval(row, "mean_wages") is not None
    assert {"n_plus_minus", "mean_wages_plus_minus"} <= set(result.to_pandas().columns)


def test_counts_of_bins_and_pairs_have_them_too(wary: Space) -> None:
    (table,) = two(wary).group_by("industry").tabulate("size").run(noise=DEAR).values()
    (pair,) = two(wary).pairs("industry", "size").run(noise=DEAR).values()
    for found in (table, pair):
        assert found.noise is not None
        halves = [found.interval(row, "subjects") for row, one in enumerate(found["subjects"]) if one != ceiba.WITHHELD]
        assert halves and all(high - low == pytest.approx(2 * 1.96 * SIGMA, rel=1e-3) for low, high in halves)
    assert "twice its noise" in repr(table) or ceiba.WITHHELD not in table["subjects"]


def test_it_is_the_rule_where_the_base_is_not_believed(wary: Space, coordinator: JointCoordinator) -> None:
    """And what it costs is noted, so that `explain` counts it."""
    asked = by_industry(wary)
    assert asked.run().noise is not None
    assert [job.rho for job in wary.home.asked_jobs()] == [5000, 5000]
    told = asked.explain()
    assert (
        "noise          of both holders of each pair; ρ 0.005" in str(told) and told.to_dict()["noise"]["rho"] == 5000
    )
    with pytest.raises(NoAgreement, match="does not trust the base"):
        asked.run(noise=False)
    assert "does not trust the base" in str(asked.explain(noise=False))


def test_it_is_asked_for_where_figures_may_be_exact(agreed: Space) -> None:
    asked = by_industry(agreed)
    assert asked.run().noise is None and "none: the figures are exact" in str(asked.explain())
    assert asked.run(noise=True).noise is not None


def test_what_all_have_in_common_is_rounded_unless_noise_is_asked_for(
    wary: Space, coordinator: JointCoordinator
) -> None:
    """Without noise it needs the base's word, like every exact figure."""
    counted = two(wary).count()
    with pytest.raises(NoAgreement, match="does not trust the base"):
        counted.run(noise=False)
    assert counted.run(noise=DEAR).noise is not None
    assert counted.forms[0].asked.mode is Mode.CARDINALITY
    with pytest.raises(NoiseUndefined, match="rounded"):
        check_joint_noise(agree(wary, coordinator, TABLES), counted.plan(), DEAR.terms())


def test_more_than_a_year_may_cost_is_refused_before_it_is_asked(wary: Space, coordinator: JointCoordinator) -> None:
    agreement = agree(wary, coordinator, TABLES[:2], base_is_trusted=False, rules={"rho_per_year": 10_000})
    with pytest.raises(NoiseTooCostly):
        by_industry(wary).run(noise=DEAR, agreement=agreement.agreement_id)


def test_a_job_with_noise_goes_on_in_another_process(
    wary: Space, coordinator: JointCoordinator, tmp_path: Path
) -> None:
    job = by_industry(wary).submit(noise=DEAR)
    again = Space(joint_home(coordinator.world, tmp_path)).job(job.id)
    assert again.wait() == job.wait() and again.wait().noise == job.wait().noise is not None
