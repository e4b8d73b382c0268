"""Linear models and matrices: the numbers of statsmodels, scikit-learn, numpy and NIST, to the digits of a float."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from ceiba.analyses.exact import Dependent, dot, inverse
from ceiba.analyses.linear import LinearFit
from ceiba.formula import design_matrix, read_formula
from ceiba.query import Query, Table
from ceiba.released import Released
from ceiba.result import Result
from ceiba_protocol.errors import BadQuestion, CeibaError, UnboundedColumn, WrongType
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.pooled import Pooled
from tests.support.visits import SCHEMA, frame_of


def table_of(frame: pd.DataFrame, schema: Schema = SCHEMA) -> Table:
    return Table(schema, Pooled(schema, frame))


FORMULAS = [
    "cost ~ age",
    "cost ~ 1",
    "cost ~ age - 1",
    "cost ~ C(sex) - 1",
    "cost ~ age * C(city)",
    "cost ~ C(city, Treatment('東京')) + smoker",
    "cost ~ I(age ** 2) + age + sex:smoker",
    "age ~ cost + I(cost > 0) + C(stage)",
    "I(cost > 0) ~ age + I(age + event)",
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FORMULAS), st.integers(0, 10_000), st.sampled_from([0.0, 0.1]))
def test_a_fit_is_that_of_statsmodels(formula: str, seed: int, missing: float) -> None:
    """With missing values, which leave their rows out; columns in another order are compared by name."""
    frame = frame_of(150, seed, missing)
    fit = table_of(frame).linear(formula, level=0.9).run()
    numbers = frame.astype({"cost": float, "age": float, "event": float})
    if "I(cost > 0)" in formula:
        numbers = numbers[numbers["cost"].notna()]  # pandas says False of a missing value, where SQL says NULL
        numbers["cost_above"] = (numbers["cost"] > 0).astype(float)
        formula = formula.replace("I(cost > 0)", "cost_above")
    numbers["smoker"] = numbers["smoker"].astype(float)
    theirs = smf.ols(formula, numbers).fit()
    assert_same_fit(fit, theirs, lambda name: name.replace("cost_above", "I(cost > 0)"))


def assert_same_fit(fit: LinearFit, theirs: Any, rename: Callable[[str], str]) -> None:
    ours = {one.name: one for one in fit.coefficients}
    intervals = theirs.conf_int(0.1)
    assert {rename(name).replace(" ", "") for name in theirs.params.index} == {name.replace(" ", "") for name in ours}
    by_name = {name.replace(" ", ""): one for name, one in ours.items()}
    for name, value in theirs.params.items():
        one = by_name[rename(name).replace(" ", "")]
        wanted = (value, theirs.bse[name], theirs.tvalues[name], theirs.pvalues[name], *intervals.loc[name])
        assert (one.value, one.standard_error, one.t, one.p, one.low, one.high) == pytest.approx(
            wanted, rel=1e-8, abs=1e-9
        )
    facts = (fit.r_squared, fit.adjusted_r_squared, fit.log_likelihood, fit.aic, fit.bic, fit.residual_variance)
    wanted = (theirs.rsquared, theirs.rsquared_adj, theirs.llf, theirs.aic, theirs.bic, theirs.scale)
    assert facts == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert (fit.n, fit.residual_degrees, fit.model_degrees) == (theirs.nobs, theirs.df_resid, theirs.df_model)
    if fit.model_degrees:
        assert (fit.f, fit.f_p) == pytest.approx((theirs.fvalue, theirs.f_pvalue), rel=1e-8, abs=1e-12)
    else:
        assert fit.f is None


NORRIS = """0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6
778.9 777.0 559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 556.0
228.3 228.1 998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2
998.5 999.0 778.9 779.0 10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5"""


def test_a_fit_has_the_certified_digits() -> None:
    """NIST Statistical Reference Datasets, Norris: https://www.itl.nist.gov/div898/strd/lls/data/Norris.shtml"""
    numbers = list(map(float, NORRIS.split()))
    fields = {"type": "decimal", "resolution": 0.1, "minimum": 0, "maximum": 1000}
    schema = Schema.from_plain({"table": "n", "columns": [{"name": name, **fields} for name in ("y", "x")]})
    fit = table_of(pd.DataFrame({"y": numbers[::2], "x": numbers[1::2]}), schema).linear("y ~ x").run()
    assert [one.value for one in fit.coefficients] == pytest.approx([-0.262323073774029, 1.00211681802045], rel=1e-14)
    errors = [one.standard_error for one in fit.coefficients]
    assert errors == pytest.approx([0.232818234301152, 0.429796848199937e-03], rel=1e-14)
    assert fit.residual_variance**0.5 == pytest.approx(0.884796396144373, rel=1e-14)
    assert fit.r_squared == pytest.approx(0.999993745883712, rel=1e-14)
    assert fit.f == pytest.approx(5436385.54079785, rel=1e-14)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 10, 1000]), st.booleans(), st.booleans())
def test_ridge_is_that_of_scikit_learn(seed: int, penalty: float, standardise: bool, intercept: bool) -> None:
    frame = frame_of(120, seed)
    formula = "cost ~ age + C(city) + smoker" + ("" if intercept else " - 1")
    fit = table_of(frame).ridge(formula, penalty=penalty, standardise=standardise).run()
    columns = design_matrix(read_formula(formula, SCHEMA), SCHEMA, frame)[:, int(intercept) :]
    scale = StandardScaler(with_mean=False).fit(columns).scale_ if standardise else np.ones(columns.shape[1])
    theirs = Ridge(alpha=penalty, fit_intercept=intercept, solver="cholesky").fit(columns / scale, frame["cost"])
    wanted = [*([theirs.intercept_] if intercept else []), *(theirs.coef_ / scale)]
    assert list(fit.model.values) == pytest.approx(wanted, rel=1e-8, abs=1e-9)
    total = ((frame["cost"] - (frame["cost"].mean() if intercept else 0)) ** 2).sum()
    residual = ((frame["cost"] - theirs.predict(columns / scale)) ** 2).sum()
    assert fit.r_squared == pytest.approx(1 - residual / total, rel=1e-8, abs=1e-9)
    assert fit.model.covariance == () and "no p-values" in fit.notes()[0]
    scaled = columns / scale - ((columns / scale).mean(axis=0) if intercept else 0)
    singular = np.linalg.svd(scaled, compute_uv=False) ** 2
    assert fit.effective_degrees == pytest.approx((singular / (singular + penalty)).sum() + intercept, rel=1e-8)


def test_a_joint_test_is_that_of_nested_fits() -> None:
    frame = frame_of(150, 3)
    table = table_of(frame)
    fit = table.linear("cost ~ age + C(city)").run()
    names = [name for name in fit.model.coefficients if "city" in name]
    theirs = smf.ols("cost ~ age + C(city)", frame).fit().compare_f_test(smf.ols("cost ~ age", frame).fit())
    assert fit.f_test(*names) == pytest.approx(theirs[:2], rel=1e-9)
    assert fit.f_test("age")[0] == pytest.approx(fit.coefficients[1].t ** 2)
    assert fit.f_test("age")[1] == pytest.approx(fit.coefficients[1].p)
    for names in (["ages"], [], ["age", "age"]):
        with pytest.raises(BadQuestion, match="coefficient"):
            fit.f_test(*names)


# --- matrices ---------------------------------------------------------------------------------------------------

COLUMNS = ["cost", "age", "event", "stage"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2]))
def test_matrices_are_those_of_pandas_on_complete_rows(seed: int, missing: float) -> None:
    frame = frame_of(60, seed, missing)
    complete = frame[COLUMNS].astype(float).dropna()
    assume(len(complete) > 5 and (complete.nunique() > 1).all())
    covariance = table_of(frame).covariance_matrix(COLUMNS).run()
    np.testing.assert_allclose(covariance.to_pandas(), complete.cov(), rtol=1e-9, atol=1e-9)
    correlation = table_of(frame).correlation_matrix(COLUMNS).run()
    np.testing.assert_allclose(correlation.to_pandas(), complete.corr(), rtol=1e-9, atol=1e-9)
    assert list(np.diag(correlation.to_numpy())) == [1.0] * 4
    assert covariance.n == correlation.n == len(complete)
    assert correlation.to_dict()["Correlation matrix"][1]["cost"] == correlation.values[0][1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_components_are_those_of_scikit_learn(seed: int, standardise: bool) -> None:
    frame = frame_of(80, seed)
    own = frame[COLUMNS].astype(float)
    found = table_of(frame).pca(COLUMNS, standardise=standardise).run()
    analysed = (own - own.mean()) / own.std() if standardise else own
    theirs = PCA().fit(analysed)
    assert found.variances == pytest.approx(theirs.explained_variance_, rel=1e-8)
    assert found.shares == pytest.approx(theirs.explained_variance_ratio_, rel=1e-8)
    vectors = np.array(found.loadings)
    assert (vectors.max(axis=0) == np.abs(vectors).max(axis=0)).all(), "the largest loading is positive"
    signs = np.sign((vectors * theirs.components_.T).sum(axis=0))
    np.testing.assert_allclose(vectors, theirs.components_.T * signs, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.scores(own), theirs.transform(analysed) * signs, rtol=1e-6, atol=1e-6)


# --- exact algebra ----------------------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(0, 10_000))
def test_an_inverse_is_exact(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(-50, 50, (size + random.integers(0, 3), size)).astype(object)
    exact = [[Fraction(int(value), 7) for value in row] for row in rows.T @ rows]
    try:
        found = inverse(exact)
    except Dependent as error:
        assert np.linalg.matrix_rank(rows[:, : error.place + 1].astype(float)) == error.place
        return
    columns = list(zip(*found, strict=True))
    assert all(dot(row, columns[j]) == (i == j) for i, row in enumerate(exact) for j in range(size))


# --- what is refused --------------------------------------------------------------------------------------------


def with_columns(**columns: Any) -> Table:
    return table_of(frame_of(100).assign(**columns))


@pytest.mark.parametrize(
    ("formula", "error", "says"),
    [
        ("cost ~ log(age + 1)", BadQuestion, r'glm\(.*family="gaussian"'),
        ("log(age) ~ cost", BadQuestion, "glm"),
        ("~ age", BadQuestion, "no response"),
        ("cost ~ free", UnboundedColumn, "free"),
        ("sex ~ age", BadQuestion, "category"),
    ],
)
def test_what_cannot_be_fitted_is_said_before_asking(formula: str, error: type[CeibaError], says: str) -> None:
    with pytest.raises(error, match=says):
        with_columns().linear(formula)


@pytest.mark.parametrize(
    ("columns", "formula", "says"),
    [
        ({"age": 50}, "cost ~ age", "age is the same in every row"),
        ({"age": 0}, "cost ~ age - 1", "age is 0 in every row"),
        ({"cost": 3.5}, "cost ~ age", "cost is the same in all 100 rows"),
        ({}, "cost ~ age + event + I(2 * age - event)", "collinear: it can be computed from age, event"),
        ({}, "cost ~ age + I(age + 1)", "computed from Intercept, age"),
        ({}, "cost ~ age + cost", "give the response exactly"),
        ({"sex": "male"}, "cost ~ C(sex)", r"C\(sex\)\[T.female\] is 0 in every row"),
        ({}, "cost ~ C(city) * C(stage) * smoker", "too few for 18 coefficients"),
        ({"age": None}, "cost ~ age", "no row in which every value is there"),
    ],
)
def test_what_data_do_not_allow_is_said_in_words(columns: dict[str, Any], formula: str, says: str) -> None:
    with pytest.raises(BadQuestion, match=says):
        with_columns(**columns).linear(formula).run()


def test_matrices_refuse_what_has_no_number() -> None:
    table = with_columns(age=50)
    with pytest.raises(BadQuestion, match="age is the same in every row"):
        table.correlation_matrix(["cost", "age"]).run()
    assert table.covariance_matrix(["cost", "age"]).run().values[1] == (0.0, 0.0)
    for columns, error in (
        (["sex"], WrongType),
        ("age", BadQuestion),
        (["age", "age"], BadQuestion),
        ([], BadQuestion),
    ):
        with pytest.raises(error):
            table.covariance_matrix(columns)
    with pytest.raises(BadQuestion, match="shape"):
        table.pca(["cost", "event"]).run().scores([[1.0]])


def test_arguments_are_checked() -> None:
    table = with_columns()
    for call in (
        lambda: table.linear("cost ~ age", level=95),
        lambda: table.ridge("cost ~ age", penalty=0),
        lambda: table.group_by("sex").linear("cost ~ age"),
        lambda: table.group_by("sex").pca(["age"]),
        lambda: table.covariance_matrix(["age"] + [table.age * place for place in range(100)]),
    ):
        with pytest.raises(BadQuestion):
            call()


class Runs:
    """A runner that gives what it is told to, with noise or withheld."""

    def __init__(self, **released: Any) -> None:
        self.released = released

    def run(self, query: Query, **options: Any) -> Result:
        self.options = options
        rows = Pooled(SCHEMA, frame_of(100)).rows
        return query.result(Released(grouped_sums(query.program, rows), **self.released))

    submit = explain = run


def test_noise_is_refused_before_it_is_paid_for_and_after() -> None:
    terms = NoiseTerms(rho=1_000)
    table = Table(SCHEMA, Runs(terms=terms, variances=[9] * 7))
    with pytest.raises(BadQuestion, match="noise"):
        table.linear("cost ~ age").run()
    for analysis in (table.linear("cost ~ age"), table.pca(["age", "cost"])):
        for ask in (analysis.run, analysis.submit, analysis.explain):
            with pytest.raises(BadQuestion, match="noise"):
                ask(noise=True)


def test_exact_figures_are_asked_for_whatever_the_agreements_default() -> None:
    runner = Runs()
    Table(SCHEMA, runner).linear("cost ~ age").run(purpose="study")
    assert runner.options == {"purpose": "study", "noise": False}


def test_withheld_sums_give_no_fit() -> None:
    sent = np.ones((1, 7), dtype=bool)
    sent[0, 3] = False
    with pytest.raises(BadQuestion, match="withheld"):
        Table(SCHEMA, Runs(sent=sent)).linear("cost ~ age").run()


def test_a_summary_shows_the_table_and_warns_of_near_collinearity() -> None:
    fit = with_columns().linear("cost ~ age + I(age ** 2) + I(age ** 3)").run()
    assert "condition number" in fit.notes()[0]
    assert "std err" in fit.summary() and "[0.025" in fit.summary()
    assert fit.to_pandas().shape == (4, 7)
    assert fit.to_dict()["Fit"][1] == {"": "n", "value": 100}
    made = with_columns().linear("cost ~ age").mock(rows=200)
    assert made.n > 100 and made.model.origin.job_id == "mock"
