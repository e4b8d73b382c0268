"""The story of a bank and seven agencies: who knows what, its oracles, and the whole of it on less data."""

import json
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ceiba.scorecards import judge
from ceiba_protocol.identifiers import IdentifierKind, normalise
from ceiba_protocol.schema import Schema
from ceiba_scenarios.stories.sme_credit import FULL, SMALL
from ceiba_scenarios.stories.sme_credit.alone import Rating, regression_on_rows
from ceiba_scenarios.stories.sme_credit.case import sql_of
from ceiba_scenarios.stories.sme_credit.index import parts_of_index
from ceiba_scenarios.stories.sme_credit.lending import fine_bins
from ceiba_scenarios.stories.sme_credit.product import points_of
from ceiba_scenarios.stories.sme_credit.world import (
    AGENCIES,
    BORROWER,
    NEWCOMER,
    OF_FIRMS,
    OF_OWNERS,
    OWN,
    STRANGER,
    Agency,
    World,
    code,
)
from tests.scenarios.test_lab import run_lab

SMALL_STORY = """
from ceiba_scenarios.stories import sme_credit


def run(lab):
    sme_credit.run(lab, sme_credit.SMALL)
"""


@pytest.fixture(scope="module")
def world() -> World:
    world = World(FULL, seed=5)
    world.owners["rating"] = Rating.of(world.part(BORROWER)).classes(world.owners)
    return world


@pytest.fixture(scope="module")
def schemas(world: World) -> dict[str, Schema]:
    return {table: Schema.from_plain(tomllib.loads(path.read_text())) for table, path in world.schemas().items()}


def test_every_row_is_in_one_part_and_only_strangers_are_outside_the_banks_files(world: World) -> None:
    parts = world.owners["part"].value_counts()
    assert parts.to_dict() == {BORROWER: 1680, NEWCOMER: 600, STRANGER: 110}
    assert world.owners["uscc"].is_unique and world.owners["number"].is_unique
    assert world.part(BORROWER)["number"].max() < world.part(NEWCOMER)["number"].min()
    again = World(FULL, seed=5).owners
    pd.testing.assert_frame_equal(again, world.owners[list(again.columns)])
    assert not World(FULL, seed=6).owners["knows_tax"].equals(again["knows_tax"])


@pytest.mark.parametrize("agency", AGENCIES, ids=lambda agency: agency.name)
def test_an_agency_spells_codes_in_its_own_way(world: World, tmp_path: Path, agency: Agency) -> None:
    files = world.holders(tmp_path / "members")[agency.name]
    for table, rows, columns in world.tables_of(agency):
        at_home = pd.read_csv(files[table], dtype=str, keep_default_na=False)
        assert tuple(at_home.columns) == ("uscc", *columns, *(["points"] if rows is world.firms else []))
        codes = {normalise(IdentifierKind.USCC, one) for one in at_home["uscc"]}
        assert codes == set(rows.loc[rows[agency.knows], "uscc"]) and len(codes) == len(at_home)
    spelt = agency.spelling(code("92", 17))
    assert normalise(IdentifierKind.USCC, spelt) == code("92", 17)


def test_agencies_are_unknown_to_a_few_and_know_half_of_who_never_applied(world: World) -> None:
    applied = world.owners["part"] != STRANGER
    for agency in OF_OWNERS:
        known = world.owners[agency.knows]
        assert 0.95 < known[applied].mean() < 1
        assert 0.3 < known[~applied].mean() < 0.7
    assert len({agency.spelling(code("92", 17)) for agency in OF_OWNERS}) == len(OF_OWNERS)


def test_who_is_missing_is_never_nearly_alone(world: World) -> None:
    """An agency would refuse a scorecard with a bin of fewer than five."""
    for size in (FULL, SMALL):
        owners = World(size, seed=1).owners
        for agency in OF_OWNERS:
            missing = owners.loc[owners[agency.knows], list(agency.owners)].isna().sum()
            assert all(count == 0 or count >= 5 for count in missing), (agency.name, size)
    assert not world.firms.isna().any(axis=None)


def test_the_oracles_bins_are_the_bins(world: World, schemas: dict[str, Schema]) -> None:
    bins = fine_bins(schemas)
    parts = [part.binning for own in parts_of_index(schemas).values() for part in own]
    for rows, binnings in ((world.owners, bins), (world.firms, parts)):
        with duckdb.connect() as connection:
            connection.register("pool", rows)
            for one in binnings:
                found = connection.sql(f"SELECT {sql_of(one)} FROM pool").fetchall()
                assert [label for (label,) in found] == [one.labels[place] for place in one.places(rows)]
    assert {one.name for one in bins} == {column for agency in OF_OWNERS for column in agency.owners}


def test_the_index_goes_from_0_to_100_and_its_bins_have_what_agencies_compute_at_home(
    world: World, schemas: dict[str, Schema]
) -> None:
    parts = parts_of_index(schemas)
    for agency in OF_FIRMS:
        by_bins = np.sum([part.of(world.firms) for part in parts[agency.firms_table]], axis=0)
        assert by_bins.tolist() == points_of(world.firms, agency.firms)
    every = [part for own in parts.values() for part in own]
    assert sum(max(part.points) for part in every) == 100
    assert {min(part.points) for part in every} == {0} and {part.points[-1] for part in every} == {0}
    assert {part.binning.name for part in every} == {
        column for agency in OF_FIRMS for column in agency.firms if column != "sector"
    }


def test_the_regressions_are_the_textbooks(world: World) -> None:
    borrowers, newcomers = world.part(BORROWER), world.part(NEWCOMER)
    columns = [*OWN, "seniority", "job", "income", "records", "age"]
    found = regression_on_rows(borrowers, newcomers, columns)
    frames = []
    for rows in (borrowers, newcomers):
        numbers = rows[[*OWN, "seniority", "income", "age"]].astype("Float64").astype(float)
        lacks = numbers["income"].isna().astype(float)
        filled = numbers.fillna(borrowers["income"].astype("Float64").astype(float).mean())
        frames.append(pd.get_dummies(rows[["job", "records"]], dtype=float).join(filled).assign(lacks=lacks))
    center, spread = frames[0].mean(), frames[0].std()
    fitted, judged = ((frame - center) / spread for frame in frames)
    model = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-10).fit(fitted, ~borrowers["bad"])
    np.testing.assert_allclose(found, model.decision_function(judged), atol=1e-3)
    assert judge(list(found), list(newcomers["bad"])).auc > 0.8


@pytest.mark.long
def test_the_story_on_less_data(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL_STORY)
    report = told(tmp_path, "./small.py")
    names = [check["name"] for check in report["checks"]]
    assert sum(name.startswith("status and ") for name in names) >= 9
    assert sum(name.startswith("refused: ") for name in names) == 4
    assert "all private scores are the scorecard's" in names
    page = (Path(report["folder"]) / "report.html").read_text()
    headings = ["What each party saw", "The bank alone and joined", "The scorecard", "Scores with consent", "Compared"]
    assert [page.index(f">{heading}") for heading in headings] == sorted(page.index(f">{one}") for one in headings)
    assert page.count("<figure>") == 3 and "Not protected:" in page and "<script" not in page


@pytest.mark.long
def test_the_story(tmp_path: Path) -> None:
    report = told(tmp_path, "sme_credit")
    names = [check["name"] for check in report["checks"]]
    assert "the index of 3COM CORP" in names and "mean index of every sector that can be shown" in names
    said = (Path(report["folder"]) / "report.txt").read_text()
    assert "32 wood, paper, chemicals" in said and "AUC 0.680 by the bank's own columns, 0.835 by the scorecard" in said


def told(folder: Path, story: str) -> dict[str, Any]:
    """The report of a run in which every check holds."""
    done = run_lab(folder, "run", story, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and all(check["ok"] for check in report["checks"])
    return report
