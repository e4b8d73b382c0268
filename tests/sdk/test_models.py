"""Fitted models: what they predict, and that JSON and PMML say the same to a reader that shares no code."""

import math
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sklearn.metrics import roc_auc_score

from ceiba.formula import read_formula
from ceiba.models import FittedModel, LinkFunction, Origin
from ceiba.query import Table
from ceiba.statistics import statistic
from ceiba_protocol.errors import BadQuestion
from tests.support.fitting import lung, lung_rows
from tests.support.pooled import Pooled
from tests.support.visits import SCHEMA, frame_of

FORMULAS = [
    "cost ~ age + C(sex) * C(city)",
    "cost ~ log(age + 1) + sqrt(age) + exp(cost / 50) + log1p(age) - 1",
    "event ~ I(round(cost / age, 2)) + smoker:age + C(smoker) + I(age > 50)",
    "smoker ~ I((age > 50) & ~(sex == 'male')) + I(cost < 0 or sex == 'female') + I(-cost / 4 - 2)",
    "log(age + 1) ~ C(stage) + I(age ** 2) + I(smoker + 1) + I(round(cost)) + I(smoker == True)",
]
OFFSETS = [None, "age", "log(age + 1)"]


def model_of(
    formula: str, link: LinkFunction = LinkFunction.IDENTITY, seed: int = 0, offset: str | None = None
) -> FittedModel:
    """Made-up coefficients; `offset` is a column of a formula."""
    spec = read_formula(formula, SCHEMA)
    random = np.random.default_rng(seed)
    size = len(spec.names)
    return FittedModel(
        spec=spec,
        schema=SCHEMA,
        family="gaussian",
        link=link,
        values=tuple(map(float, random.normal(size=size) / 100)),
        covariance=tuple(tuple(map(float, row)) for row in np.diag(random.random(size))),
        rows=100,
        origin=Origin("ab" * 16, {"clinic-a": "cd" * 32}),
        facts={"dispersion": 1.5},
        offset=None if offset is None else read_formula(f"~ 0 + {offset}", SCHEMA).columns[0],
    )


def test_predictions_are_those_of_statsmodels() -> None:
    frame, new = frame_of(200), frame_of(50, seed=1)
    formula = "cost ~ age * C(sex) + C(city)"
    model = Table(SCHEMA, Pooled(SCHEMA, frame)).linear(formula).run().model
    theirs = smf.ols(formula, frame).fit()
    np.testing.assert_allclose(model.predict(new), theirs.predict(new), rtol=1e-9, atol=1e-9)
    wanted = theirs.cov_params()
    for name, row in zip(model.spec.names, model.covariance, strict=True):
        assert dict(zip(model.spec.names, row, strict=True)) == pytest.approx(dict(wanted[name]), rel=1e-8, abs=1e-12)
    assert model.standard_errors == pytest.approx(dict(theirs.bse), rel=1e-8)


def test_links_give_means() -> None:
    new = pd.DataFrame({"age": [0, 50, None]})
    for link, mean in ((LinkFunction.IDENTITY, lambda x: x), (LinkFunction.LOG, np.exp)):
        model = model_of("cost ~ age", link)
        np.testing.assert_allclose(model.predict(new), mean(model.linear_predictor(new)))
        assert np.isnan(model.predict(new)[2])
    linear = np.array([-800.0, 0.0, math.log(3), 800.0])
    np.testing.assert_allclose(LinkFunction.LOGIT.mean(linear), [0, 0.5, 0.75, 1])


def test_a_model_is_judged_on_rows_that_it_was_not_fitted_on() -> None:
    frame, new = frame_of(200), frame_of(150, seed=1)
    model = Table(SCHEMA, Pooled(SCHEMA, frame)).linear("event ~ age * C(sex) + I(cost > 0) + smoker").run().model
    other = Table(SCHEMA, Pooled(SCHEMA, new))
    found = other.roc(model.score(), "event", low=-1, high=2, bins=400).run()
    exact = roc_auc_score(new["event"], model.predict(new))
    assert found.auc == pytest.approx(exact, abs=found.auc_error + 1e-9) and found.auc_error < 0.03
    total = other.agg(total=statistic("sum")(model.score(9))).run().value
    assert total == pytest.approx(model.predict(new).sum(), rel=1e-5)
    wide = model_of("cost ~ " + " + ".join(f"I(age + {place})" for place in range(80)))
    assert other.agg(x=statistic("sum")(wide.score())).columns == ("x",), "not nested too deeply"
    assert repr(model_of("cost ~ age").score(2)).count("age") == 1
    with pytest.raises(BadQuestion, match="log"):
        model_of("cost ~ log(age)").score()


@settings(deadline=None)
@given(st.sampled_from(FORMULAS), st.sampled_from(LinkFunction), st.integers(0, 100), st.sampled_from(OFFSETS))
def test_json_gives_the_same_model(formula: str, link: LinkFunction, seed: int, offset: str | None) -> None:
    model = model_of(formula, link, seed, offset)
    again = FittedModel.from_json(model.to_json())
    assert again == model and again.to_json() == model.to_json()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda text: "[]",
        lambda text: "not JSON",
        lambda text: text.replace("ceiba-model-1", "ceiba-model-9"),
        lambda text: text.replace('"age"', '"agf"', 1),
        lambda text: text.replace('"link":"identity"', '"link":"cube"'),
        lambda text: text.replace('"Intercept":', '"intercept":'),
        lambda text: text.replace('"covariance":[[', '"covariance":[[1,'),
        lambda text: text.replace('"op":"column"', '"op":"code"', 1),
        lambda text: "x" * 20_000_000,
    ],
)
def test_what_is_no_model_is_refused(spoilt: Callable[[str], str]) -> None:
    with pytest.raises(BadQuestion, match="model"):
        FittedModel.from_json(spoilt(model_of("cost ~ age").to_json()))


# --- PMML -------------------------------------------------------------------------------------------------------

SPACE = "{http://www.dmg.org/PMML-4_4}"


def pmml_prediction(document: str, row: Mapping[str, Any]) -> float | None:
    """A small evaluator of what PMML 4.4 says about the elements that are used; None is missing."""
    root = ElementTree.fromstring(document)
    fields = {}
    for field in root.iter(f"{SPACE}DataField"):
        fields[field.get("name")] = row[str(field.get("name"))]
    for field in root.iter(f"{SPACE}DerivedField"):
        fields[field.get("name")] = apply(field[0], fields)
    (model,) = root.iter(f"{SPACE}RegressionModel")
    (table,) = model.iter(f"{SPACE}RegressionTable")
    total = float(str(table.get("intercept")))
    for predictor in table:
        value = fields[predictor.get("name")]
        if value is None:
            return None
        total += float(str(predictor.get("coefficient"))) * value
    inverse: Mapping[str, Callable[[float], float]] = {
        "none": float,
        "logit": lambda x: 1 / (1 + math.exp(-x)),
        "exp": math.exp,
    }
    return inverse[str(model.get("normalizationMethod"))](total)


def apply(element: ElementTree.Element, fields: Mapping[Any, Any]) -> Any:
    tag = element.tag.removeprefix(SPACE)
    if tag == "FieldRef":
        return fields[element.get("field")]
    if tag == "Constant":
        text = element.text or ""
        kind = element.get("dataType")
        return text == "true" if kind == "boolean" else float(text) if kind == "double" else text
    arguments = [apply(child, fields) for child in element]
    function = element.get("function")
    if function == "if":
        return None if arguments[0] is None else arguments[1] if arguments[0] else arguments[2]
    if function in ("and", "or"):  # three-valued
        deciding = function == "or"
        return deciding if deciding in arguments else None if None in arguments else not deciding
    if None in arguments:
        return None
    return FUNCTIONS[str(function)](*arguments)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else None,
    "ln": lambda a: math.log(a) if a > 0 else None,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "floor": math.floor,
    "not": lambda a: not a,
    "equal": lambda a, b: a == b,
    "notEqual": lambda a, b: a != b,
    "lessThan": lambda a, b: a < b,
    "lessOrEqual": lambda a, b: a <= b,
    "greaterThan": lambda a, b: a > b,
    "greaterOrEqual": lambda a, b: a >= b,
}


@settings(deadline=None)
@given(st.sampled_from(FORMULAS), st.sampled_from(LinkFunction), st.integers(0, 100), st.sampled_from(OFFSETS))
def test_pmml_predicts_the_same(formula: str, link: LinkFunction, seed: int, offset: str | None) -> None:
    model, frame = model_of(formula, link, seed, offset), frame_of(8, seed, missing=0.1)
    document = model.to_pmml()
    for row, wanted in zip(frame.to_dict("records"), model.predict(frame), strict=True):
        plain = {name: None if pd.isna(value) else value for name, value in row.items()}
        found = pmml_prediction(document, plain)
        assert (math.nan if found is None else found) == pytest.approx(wanted, rel=1e-9, nan_ok=True)


def test_pmml_says_what_the_fields_are() -> None:
    root = ElementTree.fromstring(model_of("cost ~ age + C(sex)").to_pmml())
    fields = {field.get("name"): field for field in root.iter(f"{SPACE}DataField")}
    assert set(fields) == {"age", "sex", "cost"}
    assert [value.get("value") for value in fields["sex"]] == ["male", "female"]
    uses = {field.get("name"): field.get("usageType") for field in root.iter(f"{SPACE}MiningField")}
    assert uses == {"age": "active", "sex": "active", "cost": "target"}
    assert [field.get("displayName") for field in root.iter(f"{SPACE}DerivedField")] == ["age", "C(sex)[T.female]"]
    with pytest.raises(BadQuestion, match="PMML"):
        model_of("cost ~ I(seen - came)").to_pmml()


# --- of fits ----------------------------------------------------------------------------------------------------


def table_of(frame: pd.DataFrame) -> Table:
    return Table(SCHEMA, Pooled(SCHEMA, frame))


def test_a_logistic_model_predicts_probabilities() -> None:
    frame, new = frame_of(300), frame_of(40, seed=1)
    formula = "event ~ C(sex) + age + cost"
    fit = table_of(frame).logistic(formula).run()
    theirs = smf.logit(formula, frame).fit(disp=False, tol=1e-12)
    np.testing.assert_allclose(fit.predict(new), theirs.predict(new), rtol=1e-6)
    assert fit.model.coefficients == pytest.approx(dict(zip(fit.names, theirs.params, strict=True)), rel=1e-6)
    document = fit.model.to_pmml()
    for row, wanted in zip(new.to_dict("records"), fit.predict(new), strict=True):
        assert pmml_prediction(document, row) == pytest.approx(wanted, rel=1e-9)
    assert FittedModel.from_json(fit.model.to_json()) == fit.model


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_models_of_counts_predict_numbers_and_rates(family: str) -> None:
    frame, new = frame_of(300).query("age > 0"), frame_of(40, seed=1).query("age > 0")
    fit = table_of(frame).glm("event ~ C(sex) + cost", family, exposure="age").run()
    kind = {"poisson": sm.families.Poisson(), "negative_binomial": sm.families.NegativeBinomial(alpha=1.0)}[family]
    theirs = smf.glm("event ~ C(sex) + cost", frame, family=kind, exposure=frame["age"]).fit(tol=1e-12)
    np.testing.assert_allclose(fit.predict(new), theirs.predict(new, exposure=new["age"]), rtol=1e-6)
    np.testing.assert_allclose(
        fit.predict(new, per_unit=True), theirs.predict(new, exposure=np.ones(len(new))), rtol=1e-6
    )
    assert fit.model.facts.get("alpha") == (1.0 if family == "negative_binomial" else None)
    document = fit.model.to_pmml()
    for row, wanted in zip(new.to_dict("records"), fit.predict(new), strict=True):
        assert pmml_prediction(document, row) == pytest.approx(wanted, rel=1e-9)


def test_a_cox_model_predicts_relative_hazards() -> None:
    rows = lung_rows()
    fit = Table(lung(), Pooled(lung(), rows)).cox("age + sex", time="time", event="status").run()
    theirs = CoxPHFitter().fit(rows[["time", "status", "age", "sex"]], "time", "status")
    ours, others = fit.predict(rows), theirs.predict_partial_hazard(rows)
    np.testing.assert_allclose(ours / ours[0], others / others.iloc[0], rtol=1e-5)
    again = FittedModel.from_json(fit.model.to_json())
    assert again == fit.model and not again.spec.intercept
    with pytest.raises(BadQuestion, match="baseline hazard"):
        fit.model.to_pmml()
