"""What is made of fits: curves, tests, intervals and criteria equal lifelines and statsmodels on pooled rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from lifelines import CoxPHFitter, KaplanMeierFitter, NelsonAalenFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import median_survival_times

from ceiba.analyses.survival import CoxOutcome, Curve, SurvivalOutcome
from ceiba.query import Table
from ceiba.released import Released
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.plan import fit_alone
from tests.support.fitting import heart, heart_rows, lung, lung_rows
from tests.support.pooled import Pooled

ROWS = lung_rows()


def trial(rows: pd.DataFrame = ROWS) -> Table:
    return Table(lung(), Pooled(lung(), rows))


def patients() -> Table:
    return Table(heart(), Pooled(heart(), heart_rows()))


def close(found: Any, wanted: Any, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(found, np.asarray(wanted, dtype=float), rtol=rtol, atol=1e-12)


# --- survival ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_sex() -> SurvivalOutcome:
    return trial().kaplan_meier("time", "status", by="sex").run()


def test_medians_are_the_published_ones(by_sex: SurvivalOutcome) -> None:
    (everybody,) = trial().kaplan_meier("time", "status").run().curves
    assert [everybody.median, by_sex[1].median, by_sex[2].median] == [310, 270, 426]


@pytest.mark.parametrize("sex", [1, 2])
def test_curves_and_their_intervals_are_lifelines(by_sex: SurvivalOutcome, sex: int) -> None:
    own = ROWS[ROWS.sex == sex]
    wanted = KaplanMeierFitter().fit(own.time, own.status)
    curve = by_sex[sex]
    close(curve.survival, wanted.survival_function_.loc[curve.times].iloc[:, 0])
    low, high = wanted.confidence_interval_.loc[curve.times].to_numpy().T
    close([one for one, _ in curve.intervals], low, rtol=1e-6)
    close([one for _, one in curve.intervals], high, rtol=1e-6)
    close(curve.median_interval, median_survival_times(wanted.confidence_interval_).to_numpy()[0])
    hazard = NelsonAalenFitter(nelson_aalen_smoothing=False).fit(own.time, own.status)
    close(curve.cumulative_hazard, hazard.cumulative_hazard_.loc[curve.times].iloc[:, 0])
    assert curve.at(0) == 1.0
    assert curve.at(1e9) == curve.survival[-1]


def test_standard_errors_are_greenwoods() -> None:
    """As statsmodels has them."""
    (curve,) = trial().kaplan_meier("time", "status").run().curves
    wanted = sm.SurvfuncRight(ROWS.time, ROWS.status.astype(int))
    died = np.isin(curve.times, wanted.surv_times)
    close(np.array(curve.standard_errors)[died], wanted.surv_prob_se, rtol=1e-9)


def test_the_log_rank_test_is_lifelines(by_sex: SurvivalOutcome) -> None:
    wanted = multivariate_logrank_test(ROWS.time, ROWS.sex, ROWS.status)
    assert by_sex.log_rank is not None
    close([by_sex.log_rank.statistic, by_sex.log_rank.p], [wanted.test_statistic, wanted.p_value])
    assert by_sex.log_rank.degrees == 1


def test_a_log_rank_test_of_several_groups_within_strata_is_statsmodels() -> None:
    rows = ROWS.dropna(subset=["ph_ecog"])
    rows = rows[rows.ph_ecog < 3]
    found = trial(rows).kaplan_meier("time", "status", by="ph_ecog", strata="sex").run().log_rank
    statistic, p = sm.duration.survdiff(rows.time, rows.status.astype(int), rows.ph_ecog, strata=rows.sex)
    assert found is not None and found.degrees == 2
    close([found.statistic, found.p], [statistic, p], rtol=1e-8)


def test_a_withheld_group_is_named_and_there_is_no_test_of_all() -> None:
    analysis = trial().kaplan_meier("time", "status", by="sex")
    program = analysis.query.program
    values = fit_alone(program, Pooled(lung(), ROWS).rows)
    sent = np.repeat([[True], [False]], len(values) // 2, axis=1)
    found = analysis.finish(analysis.query.result(Released(values, sent)))
    assert [curve.name for curve in found.curves] == ["1"] and found.withheld == ("2",)
    assert found.log_rank is None and "Withheld" in found.summary()
    assert found.curves[0].median == 270  # the other's absence changes nothing


def test_a_group_in_which_nobody_dies_stays_at_one() -> None:
    curve = Curve("some", [1.0, 2.0], [5, 3], [0, 0], [2, 3])
    assert curve.survival == [1.0, 1.0] and curve.median is None
    assert curve.intervals == [(1.0, 1.0)] * 2 and curve.hazard_intervals == [(0.0, 0.0)] * 2


def test_curves_are_drawn_with_their_values(by_sex: SurvivalOutcome) -> None:
    axes = by_sex.plot().axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    for curve in by_sex.curves:
        close(drawn[curve.name][-1], curve.survival[-1])
    assert len(by_sex.life_table()) == sum(len(curve.times) for curve in by_sex.curves)


def test_survival_of_what_is_grouped_already_or_has_no_groups_to_stratify_is_refused() -> None:
    with pytest.raises(BadQuestion, match="grouped already"):
        trial().group_by("sex").kaplan_meier("time", "status")  # type: ignore[attr-defined]
    with pytest.raises(BadQuestion, match="strata"):
        trial().kaplan_meier("time", "status", strata="sex")


# --- Cox --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hazards() -> CoxOutcome:
    return trial().cox("age + sex", "time", "status").run()


def test_hazard_ratios_and_their_test_are_lifelines(hazards: CoxOutcome) -> None:
    wanted = CoxPHFitter().fit(ROWS[["time", "status", "age", "sex"]], "time", "status")
    close(list(hazards.hazard_ratios.values()), wanted.hazard_ratios_, rtol=1e-5)
    close(hazards.standard_errors, wanted.standard_errors_, rtol=1e-5)
    test = wanted.log_likelihood_ratio_test()
    close(hazards.likelihood_ratio()[::2], [test.test_statistic, test.p_value], rtol=1e-6)
    (coefficients, *_) = hazards.parts()
    close([row[4] for row in coefficients.rows], wanted.summary["p"], rtol=1e-4)


def test_a_formula_with_an_outcome_or_without_covariates_is_refused() -> None:
    for formula in ("time ~ age", "~ 1"):
        with pytest.raises(BadQuestion):
            trial().cox(formula, "time", "status")
    with pytest.raises(BadQuestion, match="exact"):
        trial().cox("age", "time", "status", ties="exact")


# --- generalised linear models ----------------------------------------------------------------------------------


def test_a_logistic_summary_is_statsmodels() -> None:
    rows = heart_rows().assign(sick=lambda frame: (frame.diagnosis > 0).astype(int))
    found = patients().logistic("I(diagnosis > 0) ~ age * C(sex) + log(resting_bp)").run()
    used = rows.dropna(subset=["resting_bp"])
    wanted = smf.glm("sick ~ age * C(sex) + np.log(resting_bp)", used, family=sm.families.Binomial()).fit(tol=1e-14)
    (table, ratios, _) = found.parts()
    order = [row[0] for row in table.rows]
    theirs = [name.replace("log(", "np.log(") for name in order]
    for column, values in ((1, wanted.params), (2, wanted.bse), (3, wanted.tvalues), (4, wanted.pvalues)):
        close([row[column] for row in table.rows], values[theirs], rtol=1e-5)
    close([found.aic, found.bic], [wanted.aic, wanted.bic_llf], rtol=1e-9)
    assert (found.rows, found.residual_df) == (860, wanted.df_resid)
    close([row[1] for row in ratios.rows], np.exp(wanted.params[theirs[1:]]), rtol=1e-6)


def test_a_gaussian_has_its_dispersion_and_students_t() -> None:
    found = patients().glm("max_heart_rate ~ age + C(sex)").run()
    wanted = smf.ols("max_heart_rate ~ age + C(sex)", heart_rows()).fit()
    order = ["Intercept", "age", "C(sex)[T.Male]"]
    close(found.standard_errors, wanted.bse[order], rtol=1e-7)
    close([row[4] for row in found.parts()[0].rows], wanted.pvalues[order], rtol=1e-6)
    close([found.log_likelihood, found.dispersion], [wanted.llf, wanted.scale], rtol=1e-9)


def test_an_exposure_is_the_offset_of_its_logarithm() -> None:
    found = patients().glm("diagnosis ~ age", "poisson", exposure="max_heart_rate").run()
    rows = heart_rows().dropna(subset=["max_heart_rate"])
    wanted = smf.glm("diagnosis ~ age", rows, family=sm.families.Poisson(), exposure=rows.max_heart_rate).fit(tol=1e-14)
    close(found.coefficients, wanted.params, rtol=1e-6)
    with pytest.raises(BadQuestion, match="both"):
        patients().glm("diagnosis ~ age", "poisson", exposure="age", offset="log(age)")
    with pytest.raises(BadQuestion, match="not one column"):
        patients().glm("diagnosis ~ age", "poisson", offset="age + sex")


def test_a_model_of_the_intercept_alone_has_nothing_to_draw() -> None:
    found = patients().logistic("I(diagnosis > 0) ~ 1").run()
    sick = (heart_rows().diagnosis > 0).mean()
    close(found.coefficients, [np.log(sick / (1 - sick))], rtol=1e-9)
    assert "odds ratios" not in found.to_dict()
    with pytest.raises(BadQuestion, match="no column"):
        found.plot()


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(BadQuestion, match="poisson"):
        patients().glm("diagnosis ~ age", "poison")


# --- clusters ---------------------------------------------------------------------------------------------------


def test_clusters_explain_what_is_not_within_them() -> None:
    found = patients().kmeans(["age", "max_heart_rate"], 3).run()
    assert sum(found.counts) == heart_rows().dropna(subset=["max_heart_rate"]).shape[0]
    facts = {row[""]: row["value"] for row in found.to_dict()["fit"]}
    close(facts["explained"], 1 - found.within / (2 * sum(found.counts)))


# --- pictures of what one round gives ---------------------------------------------------------------------------


def texts(figure: Any) -> list[str]:
    """What is printed on the cells; the first text names what they are."""
    return [text.get_text() for text in figure.axes[0].texts][1:]


def test_a_cross_table_is_drawn_with_its_counts() -> None:
    table = patients()
    found = table.crosstab("sex", table.diagnosis > 0).run()
    shown = texts(found.plot())
    assert [text for row in found.counts for text in map(str, row)] == shown


def test_a_matrix_and_components_are_drawn_with_their_values() -> None:
    names = ["age", "max_heart_rate", "st_depression"]
    matrix = patients().correlation_matrix(names).run()
    assert texts(matrix.plot())[0] == "1"
    components = patients().pca(names).run()
    close(components.plot().axes[0].get_lines()[0].get_ydata(), components.variances)


def test_a_linear_model_is_drawn_without_its_intercept() -> None:
    found = patients().linear("max_heart_rate ~ age + C(sex)").run()
    axes = found.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["age", "C(sex)[T.Male]"]
    with pytest.raises(BadQuestion, match="no column"):
        patients().linear("max_heart_rate ~ 1").run().plot()
