"""Formulas: the same columns as formulaic's, from the schema alone, and nothing that could be executed."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba.formula import design_matrix, design_values, read_formula, require_binary
from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    NoDomain,
    ResolutionNeeded,
    UnboundedColumn,
    UnknownCategory,
    UnknownColumn,
    WrongType,
)
from ceiba_protocol.expression import ColumnValue, lower
from ceiba_protocol.program import evaluate
from tests.support.pooled import Pooled
from tests.support.visits import SCHEMA, frame_of

CONTEXT = {"sqrt": np.sqrt, "log1p": np.log1p}


NUMBERS = ["cost", "age", "smoker", "I(age ** 2)", "I(age + cost)", "I(age > 50)", "log(age + 1)", "exp(cost / 50)",
           "sqrt(age)", "log1p(age)", "I(sex == 'male')", "{age - 3}"]  # fmt: skip
CATEGORIES = ["sex", "city", "C(sex)", "C(city)", "C(stage)", "C(smoker)", 'C(city, Treatment("O\'Hara"))']
FACTORS = st.sampled_from(NUMBERS + CATEGORIES)
TERMS = st.one_of(
    FACTORS,
    st.lists(FACTORS, min_size=2, max_size=3).map(":".join),
    st.lists(FACTORS, min_size=2, max_size=3).map("*".join),
    st.lists(FACTORS, min_size=2, max_size=3).map(lambda parts: f"({' + '.join(parts)})**2"),
)
FORMULAS = st.tuples(st.lists(TERMS, min_size=1, max_size=3).map(" + ".join), st.sampled_from(["", " - 1", " + 0"]))


@settings(deadline=None)
@given(FORMULAS)
def test_columns_are_those_of_formulaic(parts: tuple[str, str]) -> None:
    """Names and order, what the full-rank rule leaves out, and the values."""
    formula, frame = "".join(parts), frame_of(12)
    expected = model_matrix(f"cost ~ {formula}", frame, context=CONTEXT).rhs
    spec = read_formula(f"cost ~ {formula}", SCHEMA)
    assert list(spec.names) == list(expected.columns)
    np.testing.assert_allclose(design_matrix(spec, SCHEMA, frame), expected.to_numpy(dtype=float), rtol=1e-12)


EXPRESSIONS = ["age + cost * 2", "-age / 4", "age ** 3", "(age > 50) & ~(sex == 'male')", "sex == 'male' or cost < 0",
               "10 < age <= 60", "round(cost / age, 2)", "seen - came", "not smoker", "smoker + 1", "city != 'a b'",
               "(stage == 3) | (age >= 3)", "cost - 0.5 > 0", "seen > '2024-02-01'", "round(cost)"]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(EXPRESSIONS), st.integers(0, 50))
def test_values_on_own_rows_are_what_holders_compute(expression: str, seed: int) -> None:
    """With missing values; the protocol's integers are the oracle."""
    spec = read_formula(f"~ I({expression})", SCHEMA)
    frame = frame_of(20, seed, missing=0.2)
    lowered = lower(spec.columns[0].factors[0].value, SCHEMA)
    rows = Pooled(SCHEMA, frame).rows
    exact = [evaluate(lowered.node, row) for row in rows]
    expected = [math.nan if value is None else float(value * lowered.step) for value in exact]
    np.testing.assert_allclose(design_values(spec.columns, SCHEMA, frame)[:, 0], expected, rtol=1e-12, atol=1e-12)


def test_a_formula_is_a_response_and_columns() -> None:
    spec = read_formula("cost ~ age:C(sex) + log(age)", SCHEMA)
    assert spec.response == DesignColumn(name="cost", factors=(Factor(value=ColumnValue(name="cost")),))
    assert spec.intercept and spec.names == ("Intercept", "log(age)", "age:C(sex)[male]", "age:C(sex)[female]")
    assert spec.columns[0].factors == (Factor(value=ColumnValue(name="age"), function=Function.LOG),)
    assert [len(column.factors) for column in spec.columns] == [1, 2, 2]
    assert read_formula("~ age - 1", SCHEMA).response is None
    assert read_formula("log(cost) ~ age", SCHEMA).response.factors[0].function is Function.LOG  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("formula", "error", "says"),
    [
        ("cost ~ ages", UnknownColumn, "nearest name is age"),
        ("cost ~ I(agee + 1)", UnknownColumn, "nearest name is age"),
        ("cost ~ free", UnboundedColumn, "free"),
        ("cost ~ I(free * 2)", UnboundedColumn, "free"),
        ("cost ~ log(free)", UnboundedColumn, "free"),
        ("cost ~ C(age)", NoDomain, "age"),
        ("cost ~ C(city, Treatment('Oslo'))", UnknownCategory, "Oslo"),
        ("cost ~ C(city, Sum)", BadQuestion, "coding Sum"),
        ("cost ~ C(city, Treatment, 3)", BadQuestion, "categorical"),
        ("cost ~ sin(age)", BadQuestion, "C, I, round, log, log1p, sqrt, exp"),
        ("cost ~ I(log(age) ** 2)", BadQuestion, "stand alone"),
        ("cost ~ I(age ** 0.5)", BadQuestion, "cannot stand"),
        ("cost ~ I(age ** 99)", BadQuestion, "power"),
        ("cost ~ I(age / cost)", ResolutionNeeded, "ROUND"),
        ("cost ~ I(city > 3)", WrongType, "category"),
        ("cost ~ I(age.__class__)", BadQuestion, "cannot stand"),
        ("cost ~ I(__import__('os').system('true'))", BadQuestion, "no function"),
        ("cost ~ I([1, 2])", BadQuestion, "cannot stand"),
        ("cost ~ I(lambda: 1)", BadQuestion, "."),
        ("cost ~ seen", BadQuestion, "date"),
        ("cost ~ 3:age", BadQuestion, "scales"),
        ("cost ~ age + (", BadQuestion, "not well formed"),
        ("cost ~ age | sex", BadQuestion, "."),
        ("cost ~ age ~ sex", BadQuestion, "not well formed"),
        ("cost ~ .", BadQuestion, "not well formed"),
        ("cost ~ 0", BadQuestion, "right-hand side"),
        ("cost + age ~ sex", BadQuestion, "response"),
        ("cost:age ~ sex", BadQuestion, "response"),
        ("1 ~ sex", BadQuestion, "response"),
        ("sex ~ age", BadQuestion, r"I\(sex == "),
        ("C(sex) ~ age", BadQuestion, r"I\(sex == "),
        (3, BadQuestion, "no formula"),
    ],
)
def test_what_cannot_be_asked_is_said(formula: Any, error: type[CeibaError], says: str) -> None:
    with pytest.raises(error, match=says):
        read_formula(formula, SCHEMA)


@pytest.mark.parametrize("response", ["smoker", "event", "I(age > 50)", "I(sex == 'male')"])
def test_an_event_is_zero_or_one(response: str) -> None:
    assert require_binary(read_formula(f"{response} ~ age", SCHEMA), SCHEMA).name == response


@pytest.mark.parametrize("formula", ["age ~ cost", "~ age", "log(event) ~ age", "stage ~ age", "I(event / 2) ~ age"])
def test_what_is_no_event_is_refused(formula: str) -> None:
    with pytest.raises(BadQuestion):
        require_binary(read_formula(formula, SCHEMA), SCHEMA)


def test_own_rows_must_fit_the_schema() -> None:
    spec = read_formula("~ age + C(sex)", SCHEMA)
    with pytest.raises(BadQuestion, match="no column age; the nearest is agee"):
        design_matrix(spec, SCHEMA, pd.DataFrame({"agee": [1], "sex": ["male"]}))
    with pytest.raises(UnknownCategory, match="Male"):
        design_matrix(spec, SCHEMA, pd.DataFrame({"age": [1], "sex": ["Male"]}))
    with pytest.raises(BadQuestion, match="not numeric"):
        design_matrix(spec, SCHEMA, pd.DataFrame({"age": ["x"], "sex": ["male"]}))
    logarithm = read_formula("~ log(age)", SCHEMA)
    assert np.isnan(design_matrix(logarithm, SCHEMA, pd.DataFrame({"age": [0]}))[0, 1])
