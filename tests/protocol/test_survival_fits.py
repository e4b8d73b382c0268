"""Survival: life tables and Cox's model equal lifelines and statsmodels on pooled rows, and published figures."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines import KaplanMeierFitter

from ceiba_protocol.expression import ColumnValue, Number
from ceiba_protocol.plan import ByColumn
from ceiba_protocol.statistics.cox import Cox
from ceiba_protocol.statistics.fits.times import ends
from ceiba_protocol.statistics.survival import Survival
from tests.support.fitting import by_institution, column, fit, lung, lung_rows

TIME, EVENT = ColumnValue(name="time"), ColumnValue(name="status")
SEX = ByColumn(name="sex", column="sex")


def cox(ties: Literal["efron", "breslow"] = "efron") -> Cox:
    return Cox(time=TIME, event=EVENT, columns=(column("age"), column("sex")), ties=ties)


def test_life_tables_of_eighteen_institutions_are_lifelines_on_the_pooled_rows() -> None:
    rows = lung_rows()
    found = fit(Survival(time=TIME, event=EVENT), lung(), by_institution(rows), (SEX,))
    assert [label for label, _ in found] == [1, 2]
    for sex, table in found:
        pooled = rows[rows.sex == sex]
        wanted = KaplanMeierFitter().fit(pooled.time, pooled.status).event_table.iloc[1:]
        assert table["times"] == wanted.index.tolist()
        assert table["at_risk"] == wanted.at_risk.tolist()
        assert table["events"] == wanted.observed.tolist()
        assert table["censored"] == wanted.censored.tolist()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_is_statsmodels_on_the_pooled_rows(ties: Literal["efron", "breslow"]) -> None:
    rows = lung_rows()
    ((found,),) = fit(cox(ties), lung(), by_institution(rows, holders=4))
    wanted = sm.PHReg(rows.time, rows[["age", "sex"]].astype(float), rows.status.astype(int), ties=ties).fit()
    close(found["coefficients"], wanted.params)
    close(found["covariance"], wanted.cov_params())
    close(found["log_likelihood"], wanted.llf)
    assert (found["rows"], found["events"]) == (228, 165)


def test_cox_gives_the_published_coefficients() -> None:
    ((found,),) = fit(cox(), lung(), by_institution(lung_rows(), holders=4))
    np.testing.assert_allclose(found["coefficients"], [0.017045, -0.513219], atol=5e-7)


def test_strata_have_their_own_baselines() -> None:
    rows = lung_rows()
    model = Cox(time=TIME, event=EVENT, columns=(column("age"),))
    ((found,),) = fit(model, lung(), by_institution(rows, holders=4), (SEX,))
    wanted = sm.PHReg(
        rows.time, rows[["age"]].astype(float), rows.status.astype(int), ties="efron", strata=rows.sex
    ).fit()
    close(found["coefficients"], wanted.params)
    close(found["covariance"], wanted.cov_params())


def test_times_of_guarded_data_are_merged_until_enough_leave() -> None:
    rows, schema = lung_rows(), lung("internal")
    ((table,),) = fit(Survival(time=TIME, event=EVENT), schema, by_institution(rows, holders=4))
    leaving = [events + censored for events, censored in zip(table["events"], table["censored"], strict=True)]
    assert min(leaving) >= 5
    assert sum(leaving) == 228
    merged = rows.time.map(lambda time: next(end for end in table["times"] if end >= time))
    wanted = KaplanMeierFitter().fit(merged, rows.status).event_table.iloc[1:]
    assert table["events"] == wanted.observed.tolist()


def test_cox_on_merged_times_is_statsmodels_on_the_same_times() -> None:
    rows, schema = lung_rows(), lung("internal")
    parts = by_institution(rows, holders=4)
    ((table,),) = fit(Survival(time=TIME, event=EVENT), schema, parts)
    merged = rows.time.map(lambda time: next(end for end in table["times"] if end >= time))
    ((found,),) = fit(cox(), schema, parts)
    wanted = sm.PHReg(merged, rows[["age", "sex"]].astype(float), rows.status.astype(int), ties="efron").fit()
    close(found["coefficients"], wanted.params)
    close(found["covariance"], wanted.cov_params())


def test_a_coarser_grid_counts_at_the_next_of_its_times() -> None:
    rows = lung_rows()
    coarse = Survival(time=TIME, event=EVENT, grid=Number(value="30"))
    ((table,),) = fit(coarse, lung(), by_institution(rows, holders=4))
    wanted = KaplanMeierFitter().fit(np.ceil(rows.time / 30) * 30, rows.status).event_table.iloc[1:]
    assert table["times"] == wanted.index.tolist()
    assert table["at_risk"] == wanted.at_risk.tolist()


@pytest.mark.parametrize(
    ("leaving", "wanted"),
    [([], []), ([0, 0], []), ([5, 5], [0, 1]), ([2, 3, 0, 9], [1, 3]), ([5, 0, 4], [2]), ([4], [0]), ([5, 4, 0], [1])],
)
def test_steps_end_when_enough_have_left(leaving: list[int], wanted: list[int]) -> None:
    assert ends(leaving, 5) == wanted


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-6, atol=1e-12)


def test_the_trial_is_split_without_loss() -> None:
    rows = lung_rows()
    parts = by_institution(rows)
    assert len(parts) == 18
    assert len(pd.concat(parts.values())) == 228
