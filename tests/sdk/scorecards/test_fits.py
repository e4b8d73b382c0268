"""Fits from counts, beside the same models of scikit-learn and statsmodels on the rows that nobody has together."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from ceiba.scorecards import (
    BinCounts,
    BinModel,
    Binning,
    PairCounts,
    fit_discriminant,
    fit_linear,
    fit_logistic,
    fit_naive,
    woe,
)
from ceiba_protocol.errors import BadQuestion, Collinear, ConstantColumn, NoEvents, NotConverged, Separation
from tests.support.credit import BANK, applications, counts_of, folds, is_bad, pairs_of

Vector = npt.NDArray[np.float64]
BINNINGS = [Binning.at("x", [1, 2, 3]), Binning.at("y", [1, 2]), Binning.at("z", [1])]


def log_likelihood(log_odds: Vector, bad: Vector) -> float:
    return float(np.sum(np.where(bad, -log_odds, 0) - np.logaddexp(0, -log_odds)))


def evidence_of(features: Sequence[BinCounts], frame: pd.DataFrame) -> Vector:
    """[rows, features]: the WOE of each row's bins."""
    found = woe(*features).features
    return np.column_stack([np.array(one.woe)[one.counts.binning.places(frame)] for one in found])


def indicators_of(features: Sequence[BinCounts], frame: pd.DataFrame) -> Vector:
    """[rows, bins]: whether a row is in each bin of which something is known, but for each feature's largest."""
    columns = []
    for one in features:
        places, sizes = one.binning.places(frame), one.shown().sum(axis=0)
        columns += [places == place for place in np.flatnonzero(sizes) if place != sizes.argmax()]
    return np.column_stack(columns).astype(float)


CODINGS = {"woe": evidence_of, "bins": indicators_of}


def small(seed: int, rows: int = 400, strength: float = 0.5) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """Three features that have to do with one another, some values missing."""
    random = np.random.default_rng(seed)
    common = random.normal(size=rows)
    frame = pd.DataFrame({name: random.normal(size=rows) + common + 1.5 for name in ("x", "y", "z")})
    bad = random.random(rows) < 1 / (1 + np.exp(strength * (frame.sum(axis=1) - 3)))
    return frame.mask(random.random(frame.shape) < 0.05), bad.to_numpy()


def counted(frame: pd.DataFrame, bad: Any) -> tuple[list[BinCounts], list[PairCounts]]:
    features = [BinCounts.of_rows(one, frame, bad) for one in BINNINGS]
    places = ((0, 1), (2, 0), (1, 2))
    return features, [PairCounts.of_rows(BINNINGS[left], BINNINGS[right], frame, bad) for left, right in places]


# --- exact fits -------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CODINGS)), st.sampled_from([0.0, 1.0, 50.0]))
def test_least_squares_are_those_of_the_rows(seed: int, coding: Any, ridge: float) -> None:
    frame, bad = small(seed)
    features, pairs = counted(frame, bad)
    found = fit_linear(features, pairs, coding=coding, ridge=ridge)
    pooled = Ridge(alpha=ridge).fit(CODINGS[coding](features, frame), ~bad)
    np.testing.assert_allclose([one.value for one in found.slopes], pooled.coef_, atol=1e-7)
    predicted = pooled.predict(CODINGS[coding](features, frame))
    np.testing.assert_allclose(found.linear_predictor(frame), predicted, atol=1e-7)
    np.testing.assert_allclose(found.probability_bad(frame), 1 - predicted, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CODINGS)))
def test_the_discriminant_is_that_of_the_rows_and_ranks_as_least_squares_do(seed: int, coding: Any) -> None:
    frame, bad = small(seed)
    features, pairs = counted(frame, bad)
    found = fit_discriminant(features, pairs, coding=coding, ridge=0).linear_predictor(frame)
    rows = CODINGS[coding](features, frame)
    pooled = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, ~bad)
    wanted = pooled.decision_function(rows)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())
    linear = fit_linear(features, pairs, coding=coding, ridge=0).linear_predictor(frame)
    assert np.corrcoef(linear, found)[0, 1] == pytest.approx(1, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CODINGS)))
def test_a_logistic_model_of_one_feature_is_exact(seed: int, coding: Any) -> None:
    frame, bad = small(seed)
    features = [BinCounts.of_rows(BINNINGS[0], frame, bad)]
    good_or_none, bad_or_none = np.array(features[0].good) > 0, np.array(features[0].bad) > 0
    assume((good_or_none == bad_or_none).all())  # a bin with one label alone has no finite coefficient
    found = fit_logistic(features, [], coding=coding, ridge=0)
    rows = sm.add_constant(CODINGS[coding](features, frame))
    pooled = sm.Logit(~bad, rows).fit(disp=False, method="newton", tol=1e-12)
    np.testing.assert_allclose([one.value for one in found.slopes], pooled.params[1:], atol=1e-6)
    np.testing.assert_allclose([one.error for one in found.slopes], pooled.bse[1:], rtol=1e-5)
    np.testing.assert_allclose(found.linear_predictor(frame), rows @ pooled.params, atol=1e-6)


def test_naive_bayes_is_exact_where_features_are_independent() -> None:
    """Twelve applicants of each kind of one feature's bins with each of the other's."""
    one, other = ((40, 10), (20, 20)), ((30, 5), (30, 25))
    features = []
    for name, cells in (("x", one), ("y", other)):
        good, bad = zip(*cells, (0, 0), strict=True)
        features.append(BinCounts(Binning.at(name, [0]), good, bad))
    found = fit_naive(features, smoothing=0)
    row = found.linear_predictor(pd.DataFrame({"x": [-1], "y": [-1]}))[0]
    assert row == pytest.approx(np.log(60 * (40 / 60) * (30 / 60)) - np.log(30 * (10 / 30) * (5 / 30)))
    assert fit_naive(features, slope=0.5).values[0][0] == pytest.approx(0.5 * woe(features[0])["x"].woe[0])


# --- logistic regression ----------------------------------------------------------------------------------------


@cache
def judged() -> dict[str, list[dict[str, float]]]:
    """Fold by fold, each model of all agencies' features beside the one on everybody's rows."""
    results: dict[str, list[dict[str, float]]] = {"woe": [], "bins": []}
    for fitted, held_out in folds(3):
        features = counts_of(fitted)
        bad, out_bad = is_bad(fitted), is_bad(held_out)
        pairs = pairs_of(features, fitted)
        at_bank = pairs_of(features, fitted, lambda one, other: one in BANK or other in BANK)
        for coding, rows_of in CODINGS.items():
            rows = rows_of(features, fitted)
            pooled = LogisticRegression(C=1.0, tol=1e-9, solver="newton-cholesky").fit(rows, ~bad)
            wanted = pooled.decision_function(rows_of(features, held_out))
            models = {
                "logistic": fit_logistic(features, pairs, coding=coding),
                "star": fit_logistic(features, at_bank, coding=coding),
                "discriminant": fit_discriminant(features, pairs, coding=coding),
                "naive": fit_naive(features),
            }
            row = {"pooled": roc_auc_score(~out_bad, wanted)}
            for name, model in models.items():
                found = model.linear_predictor(held_out)
                row[name] = roc_auc_score(~out_bad, found)
                row[f"{name} probability"] = np.abs(1 / (1 + np.exp(found)) - 1 / (1 + np.exp(wanted))).mean()
                own = log_likelihood(model.linear_predictor(fitted), bad)
                row[f"{name} lost"] = log_likelihood(pooled.decision_function(rows), bad) - own
            results[coding].append(row)
    return results


def mean_of(coding: str, name: str) -> float:
    return float(np.mean([row[name] for row in judged()[coding]]))


@pytest.mark.parametrize("coding", CODINGS)
def test_counts_of_pairs_give_nearly_the_logistic_model_of_the_rows(coding: str) -> None:
    columns = {"woe": 12, "bins": 34}[coding]
    for name in ("logistic", "star"):
        assert abs(mean_of(coding, name) - mean_of(coding, "pooled")) < 0.002
        assert max(row[f"{name} lost"] for row in judged()[coding]) < columns / 4, "half of sampling's own cost"
        assert mean_of(coding, f"{name} probability") < 0.01
    assert mean_of(coding, "discriminant lost") > 4 * mean_of(coding, "logistic lost")
    assert mean_of(coding, "naive") < mean_of(coding, "logistic") - 0.01
    assert mean_of(coding, "pooled") == pytest.approx(0.83, abs=0.01)


def test_agencies_know_what_the_bank_does_not() -> None:
    alone = []
    for fitted, held_out in folds():
        features = counts_of(fitted, BANK)
        model = fit_logistic(features, pairs_of(features, fitted), coding="bins")
        alone.append(roc_auc_score(~is_bad(held_out), model.linear_predictor(held_out)))
    assert np.mean(alone) == pytest.approx(0.65, abs=0.02)
    assert mean_of("bins", "logistic") - np.mean(alone) > 0.15


def test_slopes_and_errors_are_near_to_those_of_the_rows() -> None:
    frame = applications()
    features = counts_of(frame)
    found = fit_logistic(features, pairs_of(features, frame), ridge=0)
    pooled = sm.Logit(~is_bad(frame), sm.add_constant(evidence_of(features, frame))).fit(disp=False)
    errors = pooled.bse[1:]
    assert np.abs([one.value for one in found.slopes] - pooled.params[1:]).max() < errors.max()
    assert (np.abs([one.value for one in found.slopes] - pooled.params[1:]) < errors).all()
    np.testing.assert_allclose([one.error for one in found.slopes], errors, rtol=0.1)


def test_withheld_cells_cost_little() -> None:
    fitted, held_out = folds()[0]
    features, bad = counts_of(fitted), is_bad(held_out)
    pairs = pairs_of(features, fitted)
    hidden = [PairCounts(one.first, one.second, np.where(one.cells < 10, np.nan, one.cells)) for one in pairs]
    assert np.mean([np.isnan(one.cells).mean() for one in hidden]) > 0.3
    full, part = fit_logistic(features, pairs), fit_logistic(features, hidden)
    aucs = [roc_auc_score(~bad, model.linear_predictor(held_out)) for model in (full, part)]
    assert abs(aucs[0] - aucs[1]) < 0.005
    assert np.abs(full.probability_bad(held_out) - part.probability_bad(held_out)).mean() < 0.03
    assert any("cells of pairs were withheld" in note for note in part.notes())
    assert not any("cells of pairs were withheld" in note for note in full.notes())


@pytest.mark.parametrize("coding", CODINGS)
def test_a_withheld_bin_is_neutral_in_every_fit(coding: Any) -> None:
    """Neutral is the mean: by bins, of all whose bin is known; by evidence, a WOE of 0."""
    frame, bad = small(4)
    features, pairs = counted(frame, bad)
    hidden = BinCounts(BINNINGS[0], (features[0].good[0], None, *features[0].good[2:]), features[0].bad)
    for fit in (fit_linear, fit_discriminant, fit_logistic):
        found = fit([hidden, *features[1:]], pairs, coding=coding)
        assert found.values[0][1] == 0 and found.values[0][0] != 0
        if coding == "bins":
            for one, values in zip([hidden, *features[1:]], found.values, strict=True):
                assert np.dot(one.shown().sum(axis=0), values) == pytest.approx(0, abs=1e-9)
        assert any("x: withheld" in note for note in found.notes())


def test_what_was_not_counted_is_said() -> None:
    frame, bad = small(1)
    features, pairs = counted(frame, bad)
    unlabelled = PairCounts(pairs[0].first, pairs[0].second, pairs[0].cells.sum(axis=0, keepdims=True))
    found = fit_logistic(features, [unlabelled, pairs[1]])
    assert any("without the label" in note and "x × y" in note for note in found.notes())
    assert any("taken as independent" in note and "y × z" in note for note in found.notes())
    known = fit_logistic(features, pairs)
    assert known.remarks == ()


def test_all_pairs_of_another_population_are_fitted_to_this_one() -> None:
    """Between two agencies more subjects may be in common than the bank knows: their association counts alone."""
    frame, bad = small(2, rows=3000)
    features, pairs = counted(frame, bad)
    wider = [PairCounts(one.first, one.second, 3 * one.cells.sum(axis=0, keepdims=True)) for one in pairs]
    narrow = [PairCounts(one.first, one.second, one.cells.sum(axis=0, keepdims=True)) for one in pairs]
    first, second = (fit_logistic(features, given) for given in (wider, narrow))
    np.testing.assert_allclose(first.linear_predictor(frame), second.linear_predictor(frame), atol=1e-6)


def test_points_against_the_evidence_are_named() -> None:
    """A feature that only repeats another, with noise, can turn round beside it."""
    random = np.random.default_rng(0)
    x = random.normal(size=4000)
    frame = pd.DataFrame({"x": x, "y": x + random.normal(size=4000)})
    bad = random.random(4000) < 1 / (1 + np.exp(2 * x - 0.7 * (frame["y"] - x)))
    bins = [Binning.at(name, np.linspace(-2, 2, 9)) for name in ("x", "y")]
    features = [BinCounts.of_rows(one, frame, bad) for one in bins]
    found = fit_logistic(features, [PairCounts.of_rows(bins[0], bins[1], frame, bad)])
    assert found.slopes[1].value < 0
    assert any("against their own evidence: y" in note for note in found.notes())
    assert "against" in found.summary()


def test_scores_that_lie_far_apart_are_remarked() -> None:
    frame, bad = small(3, rows=2000, strength=4)
    features, pairs = counted(frame, bad)
    assert any("standard deviation" in one for one in fit_logistic(features, pairs).remarks)


# --- calibration on known outcomes ------------------------------------------------------------------------------


def test_calibration_is_a_logistic_line_and_keeps_the_ranks() -> None:
    fitted, held_out = folds()[1]
    features, bad = counts_of(fitted), is_bad(held_out)
    naive = fit_naive(features)
    log_odds = naive.linear_predictor(held_out)
    found = naive.calibrated(log_odds, bad)
    line = sm.Logit(~bad, sm.add_constant(log_odds)).fit(disp=False)
    np.testing.assert_allclose(found.linear_predictor(held_out), line.params[0] + line.params[1] * log_odds, atol=1e-6)
    assert 0.4 < line.params[1] < 0.8, "dependent features were counted twice"
    assert found.probability_bad(held_out).mean() == pytest.approx(bad.mean(), abs=1e-6)
    assert "Calibrated" in found.notes()[1]


@pytest.mark.parametrize(
    ("log_odds", "bad", "error"),
    [
        ([1.0, 2.0], [True], BadQuestion),
        ([1.0, np.nan], [True, False], BadQuestion),
        ([1.0, 2.0], [True, True], BadQuestion),
        ([4.0, 2.0, 1.0, 3.0], [True, True, False, False], BadQuestion),
        ([1.0, 2.0, 3.0, 4.0], [True, True, False, False], Separation),
        ([1.0, 1.0, 1.0], [True, True, False], Separation),
    ],
)
def test_bad_calibration_is_refused(log_odds: list[float], bad: list[bool], error: type[Exception]) -> None:
    frame, labels = small(1)
    with pytest.raises(error):
        fit_naive(counted(frame, labels)[0]).calibrated(log_odds, bad)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_fitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, bad = small(1)
    features, pairs = counted(frame, bad)
    other = Binning.at("y", [1, 2.5])
    twin = Binning.at("w", [1, 2, 3])
    copy = frame.assign(w=frame["x"])
    same = [features[0], BinCounts.of_rows(twin, copy, bad)]
    with pytest.raises(Collinear, match="w"):
        fit_linear(same, [PairCounts.of_rows(BINNINGS[0], twin, copy, bad)], ridge=0)
    with pytest.raises(ConstantColumn, match="v"):
        fit_logistic([*features, BinCounts(Binning.at("v", []), (3, 0), (3, 0))], pairs)
    with pytest.raises(BadQuestion, match="given"):
        fit_linear(features, [PairCounts.of_rows(BINNINGS[0], other, frame, bad)])
    with pytest.raises(BadQuestion, match="itself"):
        fit_linear(features, [PairCounts.of_rows(BINNINGS[0], BINNINGS[0], frame, bad)])
    with pytest.raises(BadQuestion, match="coding"):
        fit_linear(features, pairs, coding="dummies")  # type: ignore[arg-type]
    with pytest.raises(BadQuestion, match="penalty"):
        fit_logistic(features, pairs, ridge=-1)
    with pytest.raises(BadQuestion, match="slope"):
        fit_naive(features, slope=0)
    with pytest.raises(NoEvents):
        fit_naive([BinCounts(BINNINGS[2], (1, 2, 0), (0, 0, 0))])
    apart = [BinCounts(Binning.at("x", [0]), (50, 0, 0), (0, 50, 0))]
    with pytest.raises(Separation, match="x"):
        fit_logistic(apart, [], coding="bins", ridge=0)
    monkeypatch.setattr("ceiba.scorecards.fits.ITERATIONS", 1)
    with pytest.raises(NotConverged):
        fit_logistic(features, pairs)


def test_a_model_shows_itself() -> None:
    frame, bad = small(1)
    features, pairs = counted(frame, bad)
    model: BinModel = fit_logistic(features, pairs)
    assert model.to_pandas().iloc[:, 0].tolist() == ["x", "y", "z"]
    rows = model.to_dict()["Bins"]
    assert len(rows) == sum(one.count for one in BINNINGS) and rows[0]["bin"] == "< 1"
    assert "logistic" in model.summary() and "<table" in model._repr_html_()
    assert model.binnings == tuple(BINNINGS)
