"""Pairs of features of different tables, on the merchant's side: counts of each, as scorecards read them."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import ceiba
from ceiba.cli import app
from ceiba.joins import Join
from ceiba.joint_pairs import PairTables
from ceiba.scorecards import Binning, PairCounts
from ceiba.space import Space
from ceiba_protocol.errors import BadQuestion, PlanTooLarge
from ceiba_protocol.trust.agreement import Mode
from tests.support.joint_space import SOCIAL, TAX, JointCoordinator, JointWorld, agree, firms, joint_home
from tests.support.members import NOW

FRAMES = firms()
TABLES = ["tax.firms", "insurance.firms", "patents.firms"]
NAMES = ("industry", "field", "large", "size", "sells")
"""Of two features of the tax office, two of the insurance, one of the patent office; not table by table."""
OF = {"industry": "tax", "sells": "tax", "large": "social", "size": "social", "field": "patents"}


def space_of(coordinator: JointCoordinator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(joint_home(coordinator.world, folder))


@pytest.fixture
def coordinator() -> JointCoordinator:
    return JointCoordinator(JointWorld())


@pytest.fixture
def space(coordinator: JointCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    return space_of(coordinator, tmp_path, monkeypatch)


def features(join: Join) -> dict[str, Any]:
    return {
        "industry": join.industry,
        "field": join.field,
        "large": join.employment > 10,
        "size": join["size"],
        "sells": ceiba.width_bucket("sales", 0, 1000, 2),
    }


def known(reveal: bool, *holders: str) -> pandas.DataFrame:
    """Of firms that these know, or that all do."""
    frame = FRAMES[holders[0]]
    for other in holders[1:]:
        frame = frame.merge(FRAMES[other], on="uscc", suffixes=("", "_"))
    if reveal:
        frame = frame[frame.uscc.isin(set.intersection(*(set(one.uscc) for one in FRAMES.values())))]
    with_sales = frame.assign(sells=frame.sales // 500 + 1) if "sales" in frame else frame
    return with_sales.assign(large=frame.employment > 10) if "employment" in frame else with_sales


@pytest.mark.parametrize("reveal", [False, True])
def test_every_pair_of_different_tables_is_that_of_the_joined_rows(
    space: Space, coordinator: JointCoordinator, reveal: bool
) -> None:
    agree(space, coordinator, TABLES, modes=sorted(Mode))
    join = space.join(*TABLES, on="uscc", reveal=reveal)
    asked = join.pairs(**features(join))
    pairs = asked.run()
    wanted = [pair for pair in combinations(NAMES, 2) if OF[pair[0]] != OF[pair[1]]]
    assert isinstance(pairs, PairTables) and list(pairs) == wanted and len(wanted) == 8
    for one, other in wanted:
        truth = known(reveal, OF[one], OF[other]).groupby([one, other]).uscc.nunique().to_dict()
        frame = pairs[one, other].to_pandas()
        assert dict(zip(zip(frame[one], frame[other], strict=True), frame.subjects, strict=True)) == truth
        assert pairs[other, one] is pairs[one, other] and (other, one) in pairs
    plans = [query.plan() for query in asked.queries]
    roles = [(plan.base.holder, [side.holder for side in plan.joined], len(plan.linked)) for plan in plans]
    assert roles == [("tax", ["patents", "social"], 0), ("social", ["patents"], int(reveal))]
    assert len(pairs.job_ids) == len(pairs.receipts) == 2 and pairs.receipt is None
    assert set(pairs.to_pandas()) == set(wanted) and "8 pairs of features" in repr(pairs) and pairs._repr_html_()


def test_scorecards_read_pairs_as_they_are(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES[:2])
    sales, staff = Binning.at("sales", [300, 600], table="tax.firms"), Binning.equal(SOCIAL, "employment", 4)
    industry = Binning.categories(TAX, "industry")
    join = space.join(*TABLES[:2], on="uscc")
    bins = (sales, industry, staff)
    pairs = join.pairs(*(one.group_key() for one in bins)).run()
    both = known(False, "tax", "social").drop_duplicates("uscc")
    for one in (sales, industry):
        frame = pairs[one.name, staff.name].to_pandas()
        read = PairCounts.from_frame(one, staff, frame)
        assert np.array_equal(read.cells, PairCounts.of_rows(one, staff, both).cells)


def test_groups_and_filters_of_a_table_are_in_all_of_its_pairs(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES)
    join = space.join(*TABLES, on="uscc")
    labelled = join.filter(join.sales < 900, join.patents > 1).group_by((join.sales > 400).alias("bad"))
    pairs = labelled.pairs("industry", "size", "field").run()
    frames = {one: known(False, *one) for one in (("tax", "social"), ("tax", "patents"), ("social", "patents"))}
    kept = {
        ("industry", "size"): frames["tax", "social"].query("sales < 900"),
        ("industry", "field"): frames["tax", "patents"].query("sales < 900 and patents > 1"),
        ("size", "field"): frames["social", "patents"].query("patents > 1"),
    }
    for pair, frame in kept.items():
        groups = [*([frame.sales > 400] if "industry" in pair else []), *pair]
        truth = frame.groupby(groups).uscc.nunique().to_dict()
        assert {row[:-1]: row[-1] for row in pairs[pair]} == truth
    assert pairs["industry", "size"].columns == ("bad", "industry", "size", "subjects")


def test_small_cells_are_withheld_and_stay_so(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES[:2], rules={"minimum_subjects": 9})
    pairs = space.join(*TABLES[:2], on="uscc").pairs("industry", "size").run()
    counts = known(False, "tax", "social").groupby(["industry", "size"]).uscc.nunique().to_dict()
    assert min(counts.values()) < 9 < max(counts.values())
    assert set(pairs["size", "industry"]["subjects"]) == {ceiba.WITHHELD}, "a table is shown whole or not at all"
    (receipt,) = pairs.receipts
    assert pairs.receipt is receipt and receipt.verify()


def test_all_jobs_are_asked_under_one_agreement(space: Space, coordinator: JointCoordinator) -> None:
    """The second job for itself would be asked under the other one, which is newer and covers it as well."""
    wide = agree(space, coordinator, TABLES, jobs=2)
    agree(space, coordinator, TABLES[1:], jobs=20)
    seen: list[str] = []
    answer = coordinator.answer

    def answering(manifest: Any) -> Any:
        seen.append(coordinator.question_of(manifest).agreement.agreement_id)
        return answer(manifest)

    coordinator.answer = answering  # type: ignore[method-assign]
    space.join(*TABLES, on="uscc").pairs("industry", "size", "field").run()
    assert seen == [wide.agreement_id] * 2


def test_what_pairs_would_show_is_explained_before(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES)
    join = space.join(*TABLES, on="uscc")
    asked = join.pairs("industry", "size", "field", sells=join.sales > 500)
    first, second = asked.explain()
    assert "base: tax" in str(first) and (first.tables, first.cells) == (4, (4 + 3) * (3 + 3))
    assert "base: social" in str(second) and (second.tables, second.cells) == (1, 3 * 3)
    assert "Pairs of industry, size, field, sells, 2 jobs" in repr(asked) and not coordinator.results


def test_a_job_of_pairs_goes_on_in_another_process(
    space: Space, coordinator: JointCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree(space, coordinator, TABLES[:2])
    (query,) = space.join(*TABLES[:2], on="uscc").pairs("industry", "size", where="insurance_firms__region").queries
    job = query.submit()
    later = Space(joint_home(coordinator.world, tmp_path))
    taken_up = later.job(job.id).wait()
    assert isinstance(taken_up, PairTables) and dict(taken_up) == dict(job.wait()) and len(taken_up) == 2
    monkeypatch.setattr("ceiba.space.connect", lambda **_: later)
    shown: Any = CliRunner().invoke(app, ["result", job.id, "--json"])
    assert set(json.loads(shown.stdout)) == {"industry and size", "industry and where"}


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda join: join.pairs("industry", "sales"), r"all keys of pairs\(\) are of tax.firms"),
        (lambda join: join.pairs(), r"pairs\(\) was given no keys"),
        (lambda join: join.pairs("industry", ceiba.split("x", 2)), "one that reads no column"),
        (lambda join: join.pairs("industry", industry=join["size"]), "same name: industry, industry"),
        (
            lambda join: join.group_by("industry").pairs("industry", "size"),
            "two columns of the result have the same name",
        ),
        (lambda join: join.pairs("industry", subjects=join["size"]), "same name"),
    ],
)
def test_what_makes_no_pairs_is_refused(space: Space, ask: Callable[[Join], Any], problem: str) -> None:
    with pytest.raises(BadQuestion, match=problem):
        ask(space.join(*TABLES, on="uscc"))


def test_pairs_that_are_too_many_cells_are_refused_before_they_are_asked(space: Space) -> None:
    join = space.join(*TABLES[:2], on="uscc")
    sales, wages = ceiba.width_bucket("sales", 0, 1000, 200), ceiba.width_bucket("wages", 0, 9000, 240)
    join.pairs(sales, wages)  # 203 × 243 cells, of each a count and a sum
    with pytest.raises(PlanTooLarge):
        join.pairs(sales, wages, "industry", "size")


def test_a_pair_that_there_is_not_is_asked_back(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES[:2])
    pairs = space.join(*TABLES[:2], on="uscc").pairs("industry", "size").run()
    with pytest.raises(BadQuestion, match="no pair industry and sise; the nearest is industry and size"):
        pairs["industry", "sise"]
    assert "industry" not in pairs and ("industry", "sise") not in pairs
