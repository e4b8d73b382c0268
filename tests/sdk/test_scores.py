"""Scores: scikit-learn on the pooled rows, and what binning and withheld bins do."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from ceiba.query import Query, Table
from ceiba.released import Released
from ceiba.result import Result
from ceiba.terms import col
from ceiba_protocol.errors import BadQuestion, CeibaError, UnboundedColumn, UnknownColumn, WrongType
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.pooled import Pooled

POINTS = {"name": "points", "type": "int", "minimum": 0, "maximum": 15}
OTHERS = [
    {"name": "risk", "type": "decimal", "resolution": 0.001, "minimum": 0, "maximum": 1},
    {"name": "free", "type": "int"},
    {"name": "default", "type": "bool"},
    {"name": "flag", "type": "int", "minimum": 0, "maximum": 1, "nullable": False},
    {"name": "grade", "type": "category", "domain": ["a", "b"], "nullable": False},
]
SCHEMA = Schema.from_plain({"table": "bank.loans", "columns": [POINTS, *OTHERS]})


def frame_of(rows: int, seed: int, missing: float = 0.0) -> pd.DataFrame:
    """Scores that mean something: the event's probability is `risk`."""
    random = np.random.default_rng(seed)
    risk = np.round(random.beta(1, 2, rows), 3)
    frame = pd.DataFrame(
        {
            "points": np.clip(np.round(risk * 15 + random.normal(0, 2, rows)), 0, 15).astype(int),
            "risk": risk,
            "default": random.random(rows) < risk,
        }
    )
    frame = frame.mask(random.random(frame.shape) < missing) if missing else frame
    return frame.assign(flag=(frame["default"] == True).astype(int), grade=random.choice(["a", "b"], rows))  # noqa: E712


def table_of(frame: pd.DataFrame) -> Table:
    return Table(SCHEMA, Pooled(SCHEMA, frame))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1]))
def test_a_curve_of_units_is_that_of_scikit_learn(seed: int, missing: float) -> None:
    frame = frame_of(120, seed, missing)
    found = table_of(frame).roc("points", "default").run()
    complete = frame[["points", "default"]].dropna().astype(float)
    assume(complete["default"].nunique() == 2)
    assert found.auc == pytest.approx(roc_auc_score(complete["default"], complete["points"]), rel=1e-12)
    assert found.auc_error == 0 and found.gini == pytest.approx(2 * found.auc - 1)
    false, true, thresholds = roc_curve(complete["default"], complete["points"], drop_intermediate=False)
    wanted = dict(zip(thresholds[1:], zip(false[1:], true[1:], strict=True), strict=True))
    curve = {threshold: (x, y) for threshold, x, y in found.curve[1:]}
    assert found.curve[0] == (None, 0, 0) and found.curve[-1][1:] == (1, 1)
    for threshold, point in wanted.items():
        assert curve[threshold] == pytest.approx(point)
    sides = [complete.loc[complete["default"] == side, "points"] for side in (0, 1)]
    assert found.ks == pytest.approx(stats.ks_2samp(*sides).statistic, rel=1e-12)
    at = [np.mean(side >= found.ks_at) for side in sides]
    assert abs(at[0] - at[1]) == pytest.approx(found.ks)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_binning_moves_the_area_by_no_more_than_is_said(seed: int, bins: int) -> None:
    frame = frame_of(120, seed)
    found = table_of(frame).roc("risk", "default", bins=bins).run()
    assume(frame["default"].nunique() == 2)
    exact = roc_auc_score(frame["default"], frame["risk"])
    assert abs(found.auc - exact) <= found.auc_error + 1e-12
    places = np.minimum((frame["risk"] * 1000).round().astype(int) * bins // 1000, bins - 1)
    assert found.auc == pytest.approx(roc_auc_score(frame["default"], places), rel=1e-12)
    sides = [frame.loc[frame["default"] == side, "risk"] for side in (False, True)]
    assert found.ks <= stats.ks_2samp(*sides).statistic + 1e-12
    assert len(found.bins) == bins and found.bins[-1].high == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_interval_is_delongs(seed: int) -> None:
    """From all pairs of rows, as the paper defines it."""
    frame = frame_of(60, seed)
    found = table_of(frame).roc("points", "default").run()
    events, others = (frame.loc[frame["default"] == side, "points"].to_numpy() for side in (True, False))
    assume(min(len(events), len(others)) > 1)
    wins = (events[:, None] > others) + (events[:, None] == others) / 2
    variance = wins.mean(axis=1).var(ddof=1) / len(events) + wins.mean(axis=0).var(ddof=1) / len(others)
    reach = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.auc_interval == pytest.approx((max(0, wins.mean() - reach), min(1, wins.mean() + reach)), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_calibration_is_that_of_the_rows(seed: int) -> None:
    frame = frame_of(300, seed)
    found = table_of(frame).roc("risk", "default", bins=5).run()
    bins = np.minimum((frame["risk"] * 1000).round().astype(int) // 200, 4)
    groups = frame.assign(default=frame["default"].astype(float)).groupby(bins)
    sizes, risk, share = groups.size(), groups["risk"].mean(), groups["default"].mean()
    observed = [(one.n, one.predicted, one.observed) for one in found.bins if one.n]
    np.testing.assert_allclose(observed, np.column_stack([sizes, risk, share]), rtol=1e-12)
    wanted = (sizes * (share - risk) ** 2 / (risk * (1 - risk))).sum()
    calibration = found.calibration
    assert calibration is not None
    assert calibration.chi_squared == pytest.approx(wanted, rel=1e-9)
    assert calibration.degrees == len(sizes) - 2
    assert calibration.p == pytest.approx(stats.chi2.sf(wanted, len(sizes) - 2), rel=1e-9)
    assert calibration.brier == pytest.approx(brier_score_loss(frame["default"], frame["risk"]), rel=1e-12)


def test_every_form_of_an_event_and_of_a_score() -> None:
    frame = frame_of(200, 3)
    table = table_of(frame)
    wanted = roc_auc_score(frame["default"], frame["points"])
    for event in ("default", "flag", table.flag > 0, col("default")):
        assert table.roc("points", event).run().auc == pytest.approx(wanted)
    assert table.roc(table.points * -1, "default").run().auc == pytest.approx(1 - wanted)
    assert table.roc("default", "flag").run().auc == 1
    thirds = table.roc(table.points / 3, "default").run()
    assert thirds.auc == pytest.approx(wanted) and thirds.bins[1].low == 1 / 3
    narrow = table.roc("points", "default", low=4, high=9).run()
    assert [narrow.bins[0].low, narrow.bins[-1].high] == [None, None] and len(narrow.bins) == 8
    clipped = roc_auc_score(frame["default"], frame["points"].clip(3, 10))
    assert narrow.auc == pytest.approx(clipped) and narrow.auc_error > 0
    assert narrow.calibration is None
    wide = table.roc("points", "default", low=-5, high=40).run()
    assert wide.auc_error > 0 and wide.bins[0].low <= 0 < wide.bins[0].high, "no bin where no value can be"


def test_no_event_is_said() -> None:
    found = table_of(frame_of(50, 1).assign(default=False)).roc("points", "default").run()
    assert found.auc is found.ks is found.gini is None and found.curve == []
    assert "no curve" in found.notes()[0] and "AUC" in found.summary()


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("pints", "default"), {}, UnknownColumn),
        (("free", "default"), {}, UnboundedColumn),
        (("grade", "default"), {}, WrongType),
        (("points", "grade"), {}, BadQuestion),
        (("points", "risk"), {}, BadQuestion),
        (("points", "default"), {"bins": 0}, BadQuestion),
        (("points", "default"), {"bins": 2.5}, BadQuestion),
        (("points", "default"), {"low": 9, "high": 3}, BadQuestion),
        (("points", "default"), {"low": 0.5, "high": 3}, BadQuestion),
        (("points", "default"), {"low": "a"}, BadQuestion),
    ],
)
def test_bad_scores_are_said(arguments: Any, options: Any, error: type[CeibaError]) -> None:
    with pytest.raises(error):
        table_of(frame_of(5, 0)).roc(*arguments, **options)
    with pytest.raises(BadQuestion, match="grouped"):
        table_of(frame_of(5, 0)).group_by("grade").roc("points", "default")


def test_an_unbounded_score_needs_ends() -> None:
    table = table_of(frame_of(100, 0).assign(free=frame_of(100, 0)["points"] * 7 - 30))
    found = table.roc("free", "default", low=-30, high=75, bins=15).run()
    assert found.auc is not None and len(found.bins) == 17


class Runs:
    """A runner that withholds some cells, or adds noise's terms."""

    def __init__(self, frame: pd.DataFrame, withheld: tuple[int, ...] = (), **about: Any) -> None:
        self.rows, self.withheld, self.about = Pooled(SCHEMA, frame).rows, withheld, about

    def run(self, query: Query, **_options: Any) -> Result:
        sent = np.ones((query.program.cells, len(query.program.sums)), dtype=bool)
        sent[list(self.withheld)] = False
        about = dict(self.about)
        if "terms" in about:
            about["variances"] = [4] * len(query.program.sums)
        return query.result(Released(grouped_sums(query.program, self.rows), sent, **about))

    submit = explain = run


def test_withheld_bins_leave_out_what_depends_on_them_and_change_nothing_else() -> None:
    frame = frame_of(200, 5)
    whole = table_of(frame).roc("risk", "default", bins=4).run()
    found = Table(SCHEMA, Runs(frame, (0,))).roc("risk", "default", bins=4).run()
    assert found.auc is found.ks is found.calibration is found.auc_interval is None and found.curve == []
    assert "withheld" in found.notes()[0]
    assert found.bins[1:] == whole.bins[1:] and found.bins[0].n is None
    stability = Table(SCHEMA, Runs(frame, (1,))).population_stability("risk", [1, 1, 1, 1], bins=4).run()
    assert stability.psi is None and any("withheld" in note for note in stability.notes())


def test_noise_gives_no_interval_and_no_test() -> None:
    found = Table(SCHEMA, Runs(frame_of(200, 5), terms=NoiseTerms(rho=1000))).roc("risk", "default", bins=4).run()
    assert found.auc is not None and found.auc_interval is found.auc_error is found.calibration is None
    assert any("noise" in note for note in found.notes())


# --- stability --------------------------------------------------------------------------------------------------


def psi(expected: np.ndarray, actual: np.ndarray) -> float:
    e, a = expected / expected.sum(), actual / actual.sum()
    return float(((a - e) * np.log(a / e)).sum())


def test_stability_by_hand_and_in_its_three_forms() -> None:
    old, new = frame_of(300, 1), frame_of(300, 2).assign(points=lambda frame: (frame["points"] + 2).clip(0, 15))
    both = pd.concat([old.assign(grade="a"), new.assign(grade="b")])
    bins = [np.bincount(np.minimum(frame["points"] * 3 // 15, 2), minlength=3) for frame in (old, new)]
    wanted = psi(*bins)
    tables = table_of(new).population_stability("points", table_of(old), bins=3)
    shares = table_of(new).population_stability("points", [int(count) for count in bins[0]], bins=3)
    table = table_of(both)
    condition = table.population_stability("points", table.grade == "a", bins=3)
    for analysis in (tables, shares, condition):
        found = analysis.run()
        assert found.psi == pytest.approx(wanted, rel=1e-12) and found.merged == 0
        assert [one.actual for one in found.bins] == pytest.approx(bins[1] / 300)
        assert sum(one.contribution or 0 for one in found.bins) == pytest.approx(wanted)
    later = Schema.from_plain({"table": "bank.loans", "version": 2, "columns": [{**POINTS, "maximum": 18}, *OTHERS]})
    versions = Table(later, Pooled(later, new)).population_stability("points", table_of(old), bins=3)
    assert [one.high for one in versions.run().bins] == [6.0, 12.0, 18.0], "bins that hold the values of both"
    assert psi(np.array([1, 3]), np.array([1, 1])) == pytest.approx(0.25 * math.log(3))
    assert tables.mock(500).psi is not None and "PSI" in shares.run().summary()


def test_bins_without_rows_are_merged() -> None:
    old = frame_of(300, 1)
    new = old[old["points"] > 7]
    found = table_of(new).population_stability("points", table_of(old), bins=16).run()
    assert found.psi is not None and math.isfinite(found.psi) and found.merged > 0
    assert sum(one.actual or 0 for one in found.bins) == pytest.approx(1)
    assert found.bins[0].low == 0 and any("joined" in note for note in found.notes())
    empty = table_of(old).filter(col("points") > 99).population_stability("points", [1] * 10).run()
    assert empty.psi is None and any("no rows" in note for note in empty.notes())


@pytest.mark.parametrize("expected", [[1, 2], [1, -1, 1], [0, 0, 0], ["a", "b", "c"], [math.inf, 1, 1]])
def test_shares_must_fit_the_bins(expected: Any) -> None:
    with pytest.raises(BadQuestion, match="does not fit"):
        table_of(frame_of(5, 0)).population_stability("points", expected, bins=3)
