"""Scorecards: points on their scale, what they say of one's own rows, and that JSON says the same."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ceiba
from ceiba.models import LinkFunction
from ceiba.scorecards import (
    BinCounts,
    BinModel,
    Binning,
    Scale,
    Scorecard,
    fit_linear,
    fit_logistic,
    fit_naive,
    woe,
)
from ceiba.terms import col
from ceiba_protocol.errors import BadQuestion, UnknownCategory
from tests.support.credit import applications, counts_of, folds, pairs_of

ODDS = st.floats(-12, 12)


def model_of(values: list[list[float]], intercept: float = 2.0) -> BinModel:
    """Made-up values of features x0, x1, ..."""
    counts = [
        BinCounts(Binning.at(f"x{place}", range(len(own) - 2)), (1,) * len(own), (1,) * len(own))
        for place, own in enumerate(values)
    ]
    return BinModel("made up", LinkFunction.LOGIT, woe(*counts), intercept, tuple(map(tuple, values)), (), ())


VALUES = st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=6), min_size=1, max_size=6)


@given(ODDS, st.integers(1, 200), st.sampled_from(["19", "1", "0.5", "50"]), st.integers(0, 1000))
def test_doubling_the_odds_adds_exactly_one_step(log_odds: float, doubling: int, odds: str, anchor: int) -> None:
    scale = Scale(anchor=anchor, odds=odds, doubling=doubling)
    assert scale.points(log_odds + math.log(2)) - scale.points(log_odds) == pytest.approx(doubling, rel=1e-9)
    assert scale.points(math.log(float(odds))) == pytest.approx(anchor)
    assert scale.log_odds(scale.points(log_odds)) == pytest.approx(log_odds, abs=1e-9)


def test_600_points_are_one_bad_to_19_good() -> None:
    card = Scorecard.of(model_of([[-1.0, 0.0, 1.0]], intercept=math.log(19)))
    assert card.base == 600 and card.features[0].points == (-72, 0, 72)
    assert card.probability_bad([600, 650, 550]) == pytest.approx([1 / 20, 1 / 39, 2 / 21])


@given(VALUES, st.booleans(), st.floats(-4, 4))
def test_points_follow_the_odds_and_rounding_is_bounded(values: list[list[float]], spread: bool, start: float) -> None:
    model = model_of(values, start)
    card = Scorecard.of(model, spread_base=spread)
    for own, feature in zip(values, card.features, strict=True):
        order = np.argsort(own, kind="stable")
        assert (np.diff(np.array(feature.points)[order]) >= 0).all()
    rows = pd.DataFrame([{f"x{at}": own for at in range(len(values))} for own in (-0.5, 0.5, 3.5, None)])
    exact = card.scale.points(model.linear_predictor(rows))
    assert np.abs(card.score(rows) - exact).max() <= (len(values) + 1) / 2 + 1e-9
    assert card.base == 0 or not spread
    low, high = card.bounds
    assert low <= card.score(rows).min() and card.score(rows).max() <= high


def test_weights_and_base_are_the_score() -> None:
    fitted, held_out = folds()[0]
    features = counts_of(fitted)
    card = Scorecard.of(fit_logistic(features, pairs_of(features, fitted)), name="sme")
    weights, places = card.weights(), card.places(held_out)
    summed = [card.base + sum(row[place] for row, place in zip(weights, own, strict=True)) for own in places]
    assert summed == card.score(held_out).tolist()
    assert [len(row) for row in weights] == [one.binning.count for one in features]
    assert len(card.to_frame()) == sum(map(len, weights)) and card.to_frame()["points"].dtype == np.int64
    absent = pd.DataFrame([dict.fromkeys(card_names(card), None)])
    assert card.score(absent).tolist() == [card.base + sum(row[-1] for row in weights)]


def card_names(card: Scorecard) -> list[str]:
    return [feature.binning.name for feature in card.features]


@given(VALUES)
def test_json_comes_back_as_it_went(values: list[list[float]]) -> None:
    card = Scorecard.of(model_of(values), name="märz", doubling=20, odds=12.5)
    read = Scorecard.from_json(card.to_json())
    assert read == card and read.digest() == card.digest() and read.to_json() == card.to_json()


def test_a_computed_feature_survives_json() -> None:
    ratio = Binning.at((col("debt") / col("income")).round(2), [0.5], name="ratio", table="tax.firms")
    other = Binning.at("age", [30])
    counts = [BinCounts(one, (50, 30, 5), (10, 20, 2)) for one in (ratio, other)]
    card = Scorecard.from_json(Scorecard.of(fit_naive(counts)).to_json())
    assert card.features[0].binning == ratio and card.features[0].binning.table == "tax.firms"
    assert card.features[0].binning.group_key().key == ratio.group_key().key


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["features"][0]["points"].append(3),
        lambda plain: plain["features"].append(plain["features"][0]),
        lambda plain: plain["features"][0]["points"].__setitem__(0, 2**23),
        lambda plain: plain["features"].clear(),
        lambda plain: plain["scale"].__setitem__("odds", "0"),
        lambda plain: plain["scale"].__setitem__("doubling", 0),
        lambda plain: plain.__setitem__("more", 1),
        lambda plain: plain.__setitem__("base", 1.5),
        lambda plain: plain.__setitem__("base", 2**23 - 1),
    ],
)
def test_what_is_no_scorecard_is_refused(change: Any) -> None:
    plain = json.loads(Scorecard.of(model_of([[1.0, 2.0, 3.0], [0.0, 1.0]])).to_json())
    change(plain)
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True)
    with pytest.raises(BadQuestion, match="not a scorecard"):
        Scorecard.from_json(text)
    for text in ("", "{", "[]", "\ud800", "[" * 5000):
        with pytest.raises(BadQuestion):
            Scorecard.from_json(text)


def test_what_has_no_points_is_refused() -> None:
    frame = applications()
    features = counts_of(frame, ("time", "records"))
    with pytest.raises(BadQuestion, match="no odds"):
        Scorecard.of(fit_linear(features, pairs_of(features, frame)))
    model = model_of([[1.0, 2.0]])
    for options in (
        {"odds": 0},
        {"odds": -1},
        {"doubling": 0},
        {"anchor": 2**30},
        {"odds": "many"},
        {"doubling": 2**22},
    ):
        with pytest.raises(BadQuestion):
            Scorecard.of(model, **options)  # type: ignore[arg-type]


def test_an_applicants_points_are_explained() -> None:
    frame = applications()
    features = counts_of(frame, ("time", "records", "seniority"))
    card = Scorecard.of(fit_logistic(features, pairs_of(features, frame)))
    row = {"time": 60, "records": "yes", "seniority": None}
    found = card.explain(row)
    assert found.score == card.score(pd.DataFrame([row]))[0] == card.base + sum(one.points for one in found.features)
    assert found.probability_bad == pytest.approx(card.probability_bad([found.score])[0])
    worst = found.reasons(1)[0]
    assert worst.feature == "records" and worst.bin == "yes" and worst.lost == max(one.lost for one in found.features)
    assert [one.lost for one in found.reasons()] == sorted(
        (one.lost for one in found.features if one.lost), reverse=True
    )
    best = {"time": 6, "records": "no", "seniority": 40}
    assert "score" in card.explain(best).summary() and len(card.explain(best).to_pandas()) == 3
    with pytest.raises(UnknownCategory):
        card.explain({**row, "records": "perhaps"})
    with pytest.raises(BadQuestion):
        card.explain({"time": 60})


def test_scorecards_are_found_in_the_package() -> None:
    assert ceiba.Scorecard is Scorecard and ceiba.Binning is Binning
    assert ceiba.scorecards.fit_logistic is fit_logistic
    assert {"Scorecard", "Binning", "scorecards"} <= set(dir(ceiba))
