"""Analyses on a running space: what the gate and the ledgers of four hospitals release is enough for them."""

from pathlib import Path

import pytest
from scipy import stats

from ceiba_scenarios import Sandbox
from ceiba_scenarios.stories.health_sharing import DATA, TABLE, split_by_hospital
from tests.support.pooled_heart import frame


@pytest.mark.slow
@pytest.mark.long
def test_quartiles_are_exact_though_small_cells_are_withheld(tmp_path: Path) -> None:
    """All columns of grade internal: five subjects and three holders behind every answer and every difference."""
    schema = tmp_path / "heart.toml"
    schema.write_text((DATA / "heart.toml").read_text().replace('grade = "sensitive"', 'grade = "internal"'))
    holders = {hospital: {TABLE: file} for hospital, file in split_by_hospital(tmp_path / "hospitals").items()}
    with Sandbox(holders, schemas={TABLE: schema}) as sandbox:
        heart = sandbox.merchant("bank-a").table(TABLE)
        test = heart.t_test("cholesterol", by="sex").run().test
        found = heart.quantiles("age").run()
        described = heart.describe(["age", "chest_pain"]).run()
    quartiles = found.groups[0].quantiles
    assert [one.value for one in quartiles] == frame().age.quantile([0.25, 0.5, 0.75]).tolist()
    assert {one.half_width for one in quartiles} == {0.0}
    assert any(result.withheld for result in found.results)
    assert described.numbers[0].groups[0].mean == pytest.approx(frame().age.mean())
    women, men = (rows.cholesterol.dropna() for _, rows in frame().groupby("sex"))
    assert test and test.p == pytest.approx(stats.ttest_ind(women, men, equal_var=False).pvalue, rel=1e-9)
