"""Generalised linear models: the coefficients of statsmodels on pooled rows, or a named error."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from ceiba_protocol.design import Function
from ceiba_protocol.statistics.glm import GLM, Family
from tests.support.fitting import by_hospital, column, fit, function, heart, heart_rows, where

CLOSE = 1e-6
"""Relative: what the grid of 2^-40 and the last step leave."""


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=CLOSE, atol=1e-12)


def test_logistic_on_heart_disease_is_statsmodels_on_the_pooled_rows() -> None:
    model = GLM(
        family=Family.BINOMIAL,
        response=where("diagnosis", ">", "0"),
        columns=(
            column("age"),
            where("sex", "=", "Male", text=True),
            column("max_heart_rate"),
            column("st_depression"),
        ),
    )
    rows = heart_rows()
    ((found,),) = fit(model, heart(), by_hospital(rows))
    pooled = rows.dropna(subset=["age", "sex", "max_heart_rate", "st_depression"]).assign(
        sick=lambda frame: (frame.diagnosis > 0).astype(int)
    )
    wanted = smf.glm("sick ~ age + C(sex) + max_heart_rate + st_depression", pooled, family=sm.families.Binomial()).fit(
        tol=1e-14
    )
    order = ["Intercept", "age", "C(sex)[T.Male]", "max_heart_rate", "st_depression"]
    close(found["coefficients"], wanted.params[order])
    close(found["covariance"], wanted.cov_params().loc[order, order])
    close([found["deviance"], found["log_likelihood"]], [wanted.deviance, wanted.llf])


@pytest.mark.parametrize("family", ["poisson", "negative_binomial", "gaussian"])
def test_other_families_are_statsmodels_on_the_pooled_rows(family: str) -> None:
    model = GLM(
        family=Family(family),
        response=column("diagnosis"),
        columns=(column("age"), function(Function.LOG, "resting_bp")),
    )
    rows = heart_rows()
    ((found,),) = fit(model, heart(), by_hospital(rows))
    kind = {
        "poisson": sm.families.Poisson(),
        "negative_binomial": sm.families.NegativeBinomial(alpha=1.0),
        "gaussian": sm.families.Gaussian(),
    }[family]
    pooled = rows.dropna(subset=["resting_bp"])
    wanted = smf.glm("diagnosis ~ age + np.log(resting_bp)", pooled, family=kind).fit(tol=1e-14)
    close(found["coefficients"], wanted.params)
    close(found["covariance"], wanted.normalized_cov_params)
    close(found["deviance"], wanted.deviance)
    if family != "gaussian":
        close(found["log_likelihood"], wanted.llf)
