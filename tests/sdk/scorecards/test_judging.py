"""Judging scores: scikit-learn and scipy on the same rows; drift by hand."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from ceiba.scorecards import BinCounts, Binning, Population, Scorecard, fit_logistic, judge, stability
from ceiba_protocol.errors import BadQuestion, NoEvents
from tests.support.credit import applications, counts_of, folds, is_bad, pairs_of

ROWS = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=4, max_size=60)


@settings(deadline=None)
@given(ROWS)
def test_figures_are_those_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, bad = (np.array(side) for side in zip(*rows, strict=True))
    assume(0 < bad.sum() < len(bad))
    found = judge(scores, bad)
    assert found.auc == pytest.approx(roc_auc_score(~bad, scores))
    assert found.gini == pytest.approx(2 * found.auc - 1)
    assert found.ks == pytest.approx(stats.ks_2samp(scores[bad], scores[~bad], method="asymp").statistic)
    assert abs((scores[bad] < found.ks_at).mean() - (scores[~bad] < found.ks_at).mean()) == pytest.approx(found.ks)
    false, true, thresholds = roc_curve(~bad, scores, drop_intermediate=False)
    assert found.curve[1:] == tuple(
        (threshold, pytest.approx(x), pytest.approx(y))
        for threshold, x, y in zip(thresholds[1:], false[1:], true[1:], strict=True)
    )
    assert sum(one.n for one in found.bands) == len(rows) and sum(one.bad for one in found.bands) == bad.sum()
    assert all(one.high < after.low for one, after in zip(found.bands, found.bands[1:], strict=False))
    assert found.calibration is None


@given(ROWS)
def test_only_the_order_of_scores_counts(rows: list[tuple[int, bool]]) -> None:
    scores, bad = (np.array(side) for side in zip(*rows, strict=True))
    assume(0 < bad.sum() < len(bad))
    one, other = judge(scores, bad), judge(np.exp(scores / 3.0), bad)
    assert one.figures == other.figures and [b.n for b in one.bands] == [b.n for b in other.bands]
    reversed_ = judge(-scores, bad)
    assert reversed_.auc == pytest.approx(1 - one.auc) and reversed_.ks == pytest.approx(one.ks)


def test_calibration_out_of_sample_is_by_hand() -> None:
    fitted, held_out = folds()[2]
    features, bad = counts_of(fitted), is_bad(held_out)
    card = Scorecard.of(fit_logistic(features, pairs_of(features, fitted)))
    scores = card.score(held_out)
    risk = card.probability_bad(scores)
    found = judge(scores, bad, probabilities=risk, bands=8)
    calibration = found.calibration
    assert calibration is not None and len(found.bands) == calibration.degrees == 8
    wanted = sum(
        (one.bad - one.n * one.predicted) ** 2 / (one.n * one.predicted * (1 - one.predicted))
        for one in found.bands
        if one.predicted is not None
    )
    assert calibration.chi_squared == pytest.approx(wanted)
    assert calibration.p == pytest.approx(stats.chi2.sf(wanted, 8)) and calibration.p > 0.001
    assert calibration.brier == pytest.approx(brier_score_loss(bad, risk))
    first = (scores >= found.bands[0].low) & (scores <= found.bands[0].high)
    assert (found.bands[0].n, found.bands[0].observed) == (first.sum(), pytest.approx(bad[first].mean()))
    assert found.bands[0].predicted == pytest.approx(risk[first].mean())
    low, high = found.auc_interval or (0, 1)
    assert low < found.auc < high and found.auc == pytest.approx(0.83, abs=0.04)
    assert "Hosmer" in found.summary() and found.plot() is not None


@pytest.mark.parametrize(
    ("scores", "bad", "options"),
    [
        ([1, 2], [True], {}),
        ([1, math.nan], [True, False], {}),
        ([1, None], [True, False], {}),
        (["high", "low"], [True, False], {}),
        ([[1], [2]], [True, False], {}),
        ([1, 2], [True, None], {}),
        ([1, 2], [True, False], {"probabilities": [0.5]}),
        ([1, 2], [True, False], {"bands": 0}),
    ],
)
def test_what_cannot_be_judged_is_refused(scores: list[float], bad: list[bool], options: dict[str, object]) -> None:
    with pytest.raises(BadQuestion):
        judge(scores, bad, **options)  # type: ignore[arg-type]


def test_without_good_or_bad_there_is_nothing_to_judge() -> None:
    with pytest.raises(NoEvents):
        judge([1, 2, 3], [True, True, True])


# --- stability --------------------------------------------------------------------------------------------------

AGE, SCORE = Binning.at("age", [30, 50]), Binning.at("score", [550, 600, 650])


def test_drift_by_hand() -> None:
    before = [BinCounts(AGE, (100, 200, 90, 5), (20, 30, 10, 5)), Population(SCORE, (10, 20, 30, 40, 0))]
    now = [Population(SCORE, (10, 20, 30, 40, 0)), Population(AGE, (180, 200, 80, 40))]
    found = stability(before, now)
    shares = np.array([120, 230, 100, 10]) / 460, np.array([180, 200, 80, 40]) / 500
    assert found.psi["age"] == pytest.approx(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    assert found.psi["score"] == 0
    assert found.to_pandas()["feature"].tolist() == ["age", "score"]
    one = {drift.name: drift for drift in found.features}["score"]
    assert one.merged == 1 and one.bins[-1].label == ">= 650, missing"
    assert any("joined" in note and "score" in note for note in found.notes())


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=4, max_size=4))
def test_drift_is_never_negative_and_the_same_both_ways(cells: list[tuple[int, int]]) -> None:
    old, new = (Population(AGE, side) for side in zip(*cells, strict=True))
    there, back = stability([old], [new]).psi["age"], stability([new], [old]).psi["age"]
    if not all(sum(side) for side in zip(*cells, strict=True)):
        assert there is None and back is None
    else:
        assert there is not None and there >= 0 and there == pytest.approx(back, abs=1e-12)


def test_of_withheld_counts_there_is_no_index() -> None:
    found = stability([Population(AGE, (1, 2, None, 4))], [Population(AGE, (1, 2, 3, 4))])
    assert found.psi == {"age": None} and found.features[0].bins[0].expected is None
    assert found.features[0].bins[0].actual == pytest.approx(0.1)
    assert any("withheld" in note and "age" in note for note in found.notes())


def test_scores_of_one_population_do_not_drift_and_of_half_of_it_do() -> None:
    rows = applications()
    features = counts_of(rows)
    card = Scorecard.of(fit_logistic(features, pairs_of(features, rows)))
    scored = rows.assign(score=card.score(rows))
    bands = Binning.at("score", range(350, 700, 50))
    halves = [Population.of_rows(bands, scored[scored.index % 2 == side]) for side in (0, 1)]
    assert (stability(halves[:1], halves[1:]).psi["score"] or 1) < 0.05
    worse = Population.of_rows(bands, scored[is_bad(rows)])
    assert (stability(halves[:1], [worse]).psi["score"] or 0) > 0.25


def test_other_bins_are_no_drift() -> None:
    with pytest.raises(BadQuestion):
        stability([Population(AGE, (1, 2, 3, 4))], [Population(Binning.at("age", [30, 51]), (1, 2, 3, 4))])
    with pytest.raises(BadQuestion):
        stability([Population(AGE, (1, 2, 3, 4))], [Population(SCORE, (1, 2, 3, 4, 5))])
