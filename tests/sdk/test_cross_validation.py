"""Cross-validation: the same folds, fits and losses as on pooled rows in plain statsmodels and scikit-learn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from sklearn.metrics import mean_poisson_deviance, mean_squared_error, roc_auc_score

from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba_protocol.errors import BadQuestion, JobRefused, SplitNeedsSubjectKey
from ceiba_protocol.expression import split_key
from ceiba_protocol.program import part_of, subject_digest
from tests.support.pooled import Pooled
from tests.support.pooled_heart import SCHEMA, frame, gated_heart, heart
from tests.support.visits import SCHEMA as WITHOUT_KEY
from tests.support.visits import frame_of

SEED = "study 7"
EVENT = "I(diagnosis > 0) ~ age + C(sex) + max_heart_rate"


def parts_of(rows: pd.DataFrame, folds: int) -> pd.Series:
    return rows["patient_id"].map(lambda who: part_of(split_key(SEED), subject_digest(str(who)), folds))


def predicted_out_of_sample(formula: str, family: Any, folds: int) -> tuple[pd.DataFrame, list[Any]]:
    """The complete rows with `part` and `predicted`, each by statsmodels' fit on the other parts."""
    rows = frame().dropna(subset=["max_heart_rate", "cholesterol"] if "chol" in formula else ["max_heart_rate"])
    rows = rows.assign(part=parts_of(rows, folds), event=(rows.diagnosis > 0).astype(int), predicted=np.nan)
    fits = []
    for part in range(folds):
        fits.append(smf.glm(formula, rows[rows.part != part], family=family).fit(tol=1e-12))
        rows.loc[rows.part == part, "predicted"] = fits[-1].predict(rows[rows.part == part])
    return rows, fits


def test_an_event_is_judged_on_rows_that_no_fit_has_seen() -> None:
    edges = [place / 100 for place in range(2, 99)]
    found = heart().cross_validate(EVENT, "binomial", seed=SEED, edges=edges).run()
    rows, fits = predicted_out_of_sample("event ~ age + C(sex) + max_heart_rate", sm.families.Binomial(), 5)
    for ours, theirs in zip(found.fits, fits, strict=True):
        assert ours.model.coefficients["age"] == pytest.approx(theirs.params["age"], rel=1e-6)
        assert ours.rows == theirs.nobs
    assert found.roc is not None and found.roc.auc is not None and found.roc.auc_error is not None
    assert found.roc.auc == pytest.approx(roc_auc_score(rows.event, rows.predicted), abs=found.roc.auc_error)
    assert found.roc.auc_error < 0.01
    for one in found.bins:
        inside = rows[(rows.predicted >= one.low) & (rows.predicted < one.high)]
        assert (one.events, one.others) == (inside.event.sum(), (1 - inside.event).sum())
    assert len(found.results) == 6 and "Questions asked: 6" in found.summary()
    assert found.plot().axes


def test_a_mean_is_judged_by_its_squared_error() -> None:
    found = heart().cross_validate("cholesterol ~ age + C(sex) + max_heart_rate", seed=SEED, folds=4).run()
    rows, _ = predicted_out_of_sample("cholesterol ~ age + C(sex) + max_heart_rate", sm.families.Gaussian(), 4)
    assert found.loss == pytest.approx(mean_squared_error(rows.cholesterol, rows.predicted), rel=1e-6)
    for part, one in enumerate(found.held_out):
        inside = rows[rows.part == part]
        assert one.rows == len(inside)
        assert one.bias == pytest.approx((inside.cholesterol - inside.predicted).mean(), rel=1e-6)
    assert len(found.results) == 8
    with pytest.raises(BadQuestion, match="curve"):
        found.plot()


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_counts_are_judged_by_their_deviance(family: str) -> None:
    found = heart().cross_validate("diagnosis ~ age + C(sex) + max_heart_rate", family, seed=SEED, folds=2).run()
    kind = {"poisson": sm.families.Poisson(), "negative_binomial": sm.families.NegativeBinomial(alpha=1.0)}[family]
    rows, _ = predicted_out_of_sample("diagnosis ~ age + C(sex) + max_heart_rate", kind, 2)
    assert found.loss == pytest.approx(mean_poisson_deviance(rows.diagnosis, rows.predicted), rel=1e-5)
    inside = rows[rows.part == 1]
    assert found.held_out[1].bias == pytest.approx(inside.diagnosis.sum() / inside.predicted.sum(), rel=1e-5)
    assert "mean Poisson deviance" in found.summary()


def test_a_withheld_bin_leaves_out_what_depends_on_it() -> None:
    found = Table(SCHEMA, GatedFits(50)).cross_validate(EVENT, "binomial", seed=SEED, edges=(0.05, 0.5)).run()
    assert found.roc is not None and found.roc.auc is None
    assert found.bins[0].events is None and found.bins[0].observed is None and found.bins[0].interval is None
    assert found.bins[1].observed is not None
    assert "withheld" in found.summary()
    with pytest.raises(BadQuestion, match="withheld"):
        found.plot()


class GatedFits(Pooled):
    """Fits pass, and cells of fewer than `least` rows do not."""

    def __init__(self, least: int) -> None:
        super().__init__(SCHEMA, frame())
        self._cells = gated_heart(least)

    def run(self, query: Query, **options: Any) -> Result:
        return self._cells.runner.run(query) if query.program.fit is None else super().run(query)


class RefusesThe(Pooled):
    """Refuses one question, as a holder does that has answered nearly the same before."""

    def __init__(self, number: int) -> None:
        super().__init__(SCHEMA, frame())
        self.number = number

    def run(self, query: Query, **options: Any) -> Result:
        self.number -= 1
        if self.number == 0:
            raise JobRefused(holder="cleveland", job="ab12", reason="an earlier answer is too near")
        return super().run(query)


def test_a_refusal_says_which_question_it_was_and_what_to_do() -> None:
    table = Table(SCHEMA, RefusesThe(2))
    with pytest.raises(BadQuestion, match=r"question 2 of 4 .* an earlier answer is too near") as caught:
        table.cross_validate("cholesterol ~ age", seed=SEED, folds=2).run()
    assert "fewer folds" in caught.value.what_to_do


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 3}, "no 3 parts"),
        ({"family": "cox"}, "no family cox"),
        ({"edges": (0.5, 0.2)}, "edges"),
        ({"edges": (0.0, 0.2)}, "edges"),
        ({"edges": ()}, "edges"),
        ({"edges": (0.5, 0.5 + 1e-12)}, "nearly the same"),
        ({"seed": 7}, "no text"),
        ({"formula": "age ~ diagnosis"}, "other than 0 and 1"),
        ({"formula": "I(diagnosis > 0) ~ log(age)"}, "no exact number"),
    ],
)
def test_what_cannot_be_cross_validated(options: dict[str, Any], said: str) -> None:
    wanted = {"formula": EVENT, "family": "binomial", "seed": SEED} | options
    with pytest.raises(BadQuestion, match=said):
        heart().cross_validate(**wanted)
    with pytest.raises(BadQuestion, match="one after the other"):
        heart().cross_validate(EVENT, "binomial", seed=SEED).submit()


def test_a_table_without_a_subject_key_has_no_folds() -> None:
    table = Table(WITHOUT_KEY, Pooled(WITHOUT_KEY, frame_of(100)))
    with pytest.raises(SplitNeedsSubjectKey):
        table.cross_validate("cost ~ age", seed=SEED)
    with pytest.raises(BadQuestion, match="grouped already"):
        heart().group_by("sex").cross_validate("cholesterol ~ age", seed=SEED)
