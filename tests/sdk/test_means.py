"""t-tests and analyses of variance against scipy and statsmodels on the pooled rows."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm

from ceiba.analyses.anova import Anova, Effect
from ceiba.analyses.cells import Sample
from ceiba.analyses.t_test import _effects, _of_two
from ceiba.query import Table
from ceiba_protocol.errors import BadQuestion, UnknownColumn
from ceiba_protocol.schema import Schema
from tests.support.pooled import Pooled
from tests.support.pooled_heart import frame, gated_heart, heart, noisy_heart

XAB = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "x", "type": "decimal", "resolution": 0.1, "minimum": 0, "maximum": 1000},
            {"name": "a", "type": "category", "domain": ["p", "q"]},
            {"name": "b", "type": "category", "domain": ["r", "s", "t"]},
        ],
    }
)


def close(found: object, expected: object, rel: float = 1e-9) -> None:
    assert found == pytest.approx(expected, rel=rel, abs=1e-11)


def _pair() -> tuple[pd.Series, pd.Series]:
    values = frame().dropna(subset=["cholesterol"])
    return values[values.sex == "Female"].cholesterol, values[values.sex == "Male"].cholesterol


# --- t-tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("equal", [False, True])
def test_two_groups_are_scipys(equal: bool) -> None:
    found = heart().t_test("cholesterol", by="sex", equal_variance=equal).run()
    first, second = _pair()
    expected = stats.ttest_ind(first, second, equal_var=equal)
    assert found.test and found.difference and found.cohens_d
    close((found.test.statistic, found.test.degrees, found.test.p), (expected.statistic, expected.df, expected.pvalue))
    interval = expected.confidence_interval(0.95)
    close((found.difference.low, found.difference.high), (interval.low, interval.high))
    pooled = np.sqrt(
        ((len(first) - 1) * first.var() + (len(second) - 1) * second.var()) / (len(first) + len(second) - 2)
    )
    close(found.cohens_d.value, (first.mean() - second.mean()) / pooled)
    close(found.groups[0].row[1:], (len(first), first.mean(), first.std()))
    assert "The difference is Female less Male." in found.summary()


def test_one_sample_is_scipys() -> None:
    found = heart().t_test("cholesterol", mean=240).run()
    expected = stats.ttest_1samp(frame().cholesterol.dropna(), 240)
    assert found.test and found.difference
    close((found.test.statistic, found.test.degrees, found.test.p), (expected.statistic, expected.df, expected.pvalue))
    interval = expected.confidence_interval(0.95)
    close((found.difference.low, found.difference.high), (interval.low - 240, interval.high - 240))
    values = frame().cholesterol.dropna()
    d, n = (values.mean() - 240) / values.std(), len(values)
    half = stats.norm.ppf(0.975) * np.sqrt(1 / n + d**2 / (2 * n))
    assert found.cohens_d
    close((found.cohens_d.value, found.cohens_d.low, found.cohens_d.high), (d, d - half, d + half))


@pytest.mark.parametrize("m", [2, 10, 50])
def test_hedges_correction_makes_d_unbiased(m: int) -> None:
    """d of no difference in samples whose variance has m degrees of freedom is off by E√(m/χ²), which it divides by."""
    bias = stats.chi2(m).expect(lambda x: np.sqrt(m / x))
    assert _effects(1.0, 0.1, m)[1].value == pytest.approx(1 / bias, rel=1e-6)


def test_effect_sizes_have_the_usual_intervals() -> None:
    """Borenstein et al. 2009, Introduction to Meta-Analysis, ch. 4: means 103 and 100, sd 5.5 and 4.5, n = 50 each give
    d = 0.5970 with variance 0.0418, and g = 0.5924."""
    _, _, d, g = _of_two(Sample(50, 103, 5.5**2), Sample(50, 100, 4.5**2), True)
    assert d.low is not None
    numbers = (round(d.value, 4), round(((d.value - d.low) / 1.959964) ** 2, 4), round(g.value, 4))
    assert numbers == (0.5970, 0.0418, 0.5924)


def test_what_cannot_be_tested_says_why() -> None:
    table = heart()
    found = table.filter(table.age > 77).t_test("cholesterol", by="sex").run()
    assert found.test is None and "fewer than two values" in found.summary()
    gated = gated_heart(200).t_test("cholesterol", by="sex").run()
    assert gated.test is None and gated.difference is None and "withheld" in gated.summary()
    noisy = noisy_heart().t_test("cholesterol", by="sex").run()
    assert noisy.test is None and noisy.groups[0].n and "noise" in noisy.summary()


def test_bad_questions_are_named() -> None:
    for kwargs in ({}, {"by": "sex", "mean": 3}):
        with pytest.raises(BadQuestion, match="by= or mean="):
            heart().t_test("age", **kwargs)
    with pytest.raises(BadQuestion, match="no finite number"):
        heart().t_test("age", mean=float("nan"))
    with pytest.raises(BadQuestion, match="4 labels"):
        heart().t_test("age", by="chest_pain")
    with pytest.raises(BadQuestion, match="with by="):
        heart().group_by("sex").t_test("age", mean=50)
    with pytest.raises(BadQuestion, match="3 factors"):
        heart().anova("age", by=("sex", "diagnosis", "chest_pain"))
    with pytest.raises(UnknownColumn, match="cholesterol"):
        heart().t_test("cholesterl", by="sex")


# --- analysis of variance ---------------------------------------------------------------------------------------


def test_one_factor_is_scipys() -> None:
    found = heart().anova("max_heart_rate", by="chest_pain").run()
    rows = frame().dropna(subset=["max_heart_rate"])
    expected = stats.f_oneway(*(one.max_heart_rate for _, one in rows.groupby("chest_pain")))
    effect, residuals = found.effects
    close((effect.f, effect.p), (expected.statistic, expected.pvalue))
    total = ((rows.max_heart_rate - rows.max_heart_rate.mean()) ** 2).sum()
    error = residuals.squares / residuals.degrees
    close(effect.eta_squared, 1 - residuals.squares / total)
    close(effect.omega_squared, (effect.squares - effect.degrees * error) / (total + error))


def test_two_factors_are_statsmodels() -> None:
    found = heart().anova("max_heart_rate", by=("sex", "chest_pain")).run()
    rows = frame().dropna(subset=["max_heart_rate"])
    fit = smf.ols("max_heart_rate ~ C(sex, Sum) * C(chest_pain, Sum)", rows).fit()
    expected = anova_lm(fit, typ=2)
    _compare(found.effects, expected)
    error = expected.sum_sq["Residual"] / expected.df["Residual"]
    for one, (_, row) in zip(found.effects[:3], expected.iterrows(), strict=False):
        unbiased = (row.sum_sq - row.df * error) / (row.sum_sq + (len(rows) - row.df) * error)
        close(one.omega_squared, unbiased, rel=1e-6)
        close(one.eta_squared, row.sum_sq / (row.sum_sq + expected.sum_sq["Residual"]), rel=1e-6)
    _compare(found.effects_type_3, anova_lm(fit, typ=3).drop("Intercept"))


def _compare(found: tuple[Effect, ...], expected: pd.DataFrame) -> None:
    lines = [(one.squares, one.degrees, one.f, one.p) for one in found]
    for line, (_, row) in zip(lines, expected.iterrows(), strict=True):
        close(line[:2], (row["sum_sq"], row["df"]), rel=1e-6)
        if line[2] is not None:
            close(line[2:], (row["F"], row["PR(>F)"]), rel=1e-6)


def test_withheld_cells_leave_no_table_of_variance() -> None:
    found = gated_heart(20).anova("max_heart_rate", by=("sex", "chest_pain")).run()
    assert any(one.withheld for one in found.groups)
    assert found.effects == found.effects_type_3 == () and "withheld" in found.summary()
    noisy = noisy_heart().anova("max_heart_rate", by="sex").run()
    assert noisy.effects == () and "noise" in noisy.summary()


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    rows = [{"x": 999.9 - 0.1 * (i % 3) - 0.1 * (i % 2), "a": "pq"[i % 2], "b": "rst"[i % 3]} for i in range(60)]
    found = _of(rows)
    table = pd.DataFrame(rows).round(1)
    fit = smf.ols("x ~ C(a, Sum) * C(b, Sum)", table.assign(x=table.x - 999)).fit()
    close([one.squares for one in found.effects[:2]], anova_lm(fit, typ=2).sum_sq[:2].tolist(), rel=1e-6)


def _of(rows: list[dict[str, object]]) -> Anova:
    table = pd.DataFrame(rows, columns=["x", "a", "b"])
    table["x"] = table.x.astype(float).round(1)
    return Table(XAB, Pooled(XAB, table)).anova("x", by=("a", "b")).run()


ROW = st.fixed_dictionaries(
    {
        "x": st.one_of(st.none(), st.integers(0, 50).map(lambda x: x / 10)),
        "a": st.sampled_from(["p", "q", None]),
        "b": st.sampled_from(["r", "s", "t", None]),
    }
)


@pytest.mark.filterwarnings("ignore")  # designs without full rank
@settings(max_examples=40)
@given(st.lists(ROW, min_size=8, max_size=40))
def test_any_two_factors_are_models_of_the_rows(rows: list[dict[str, object]]) -> None:
    """Also with empty cells: type II is the difference of residual squares of models fitted to the pooled rows."""
    found = _of(rows)
    assert found.summary() and found.to_dict()
    table = pd.DataFrame(rows, columns=["x", "a", "b"]).dropna()
    if table.a.nunique() < 2 or table.b.nunique() < 2 or len(table) == len(table.groupby(["a", "b"])):
        return
    squares = {formula: smf.ols(f"x ~ {formula}", table.astype({"x": float})).fit().ssr for formula in FORMULAS}
    expected = [squares["b"] - squares["a + b"], squares["a"] - squares["a + b"], squares["a + b"] - squares["a * b"]]
    by_source = {one.source: one.squares for one in found.effects}
    if not by_source:  # the factors are one
        assert "say the same" in found.summary() and expected == pytest.approx([0, 0, 0], abs=1e-8)
        return
    for source, value in zip(("a", "b", "a:b"), expected, strict=True):
        assert by_source.get(source, 0.0) == pytest.approx(value, abs=1e-8)
    assert by_source["residuals"] == pytest.approx(squares["a * b"], abs=1e-8)
    assert bool(found.effects_type_3) == (len(table.groupby(["a", "b"])) == 2 * table.b.nunique())


FORMULAS = ("a", "b", "a + b", "a * b")


@pytest.mark.filterwarnings("ignore")  # values that hardly vary
@given(st.lists(ROW, max_size=30))
def test_any_two_groups_are_scipys(rows: list[dict[str, object]]) -> None:
    table = pd.DataFrame(rows, columns=["x", "a", "b"])
    found = Table(XAB, Pooled(XAB, table)).t_test("x", by="a").run()
    assert found.summary() and found.to_dict()
    complete = table.dropna(subset=["x", "a"])
    first, second = (complete[complete.a == label].x.astype(float) for label in "pq")
    defined = min(len(first), len(second)) > 1 and first.nunique() + second.nunique() > 2
    assert (found.test is not None) == defined
    if found.test is not None:
        expected = stats.ttest_ind(first, second, equal_var=False)
        close((found.test.statistic, found.test.p), (expected.statistic, expected.pvalue), rel=1e-7)
