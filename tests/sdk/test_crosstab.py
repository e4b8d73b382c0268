"""Contingency tables against scipy and statsmodels on the pooled rows."""

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable, Table2x2

from ceiba.analyses.cells import Estimate, Test
from ceiba.analyses.crosstab import CrossTab, StratifiedCrossTab
from ceiba.query import Table
from ceiba.terms import width_bucket
from ceiba_protocol.errors import BadQuestion, MissingExtra
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import WITHHELD
from tests.support.pooled import Pooled
from tests.support.pooled_heart import SCHEMA, frame, gated_heart, heart, noisy_heart

ABC = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "a", "type": "bool"},
            {"name": "b", "type": "bool", "nullable": False},
            {"name": "c", "type": "category", "domain": ["x", "y", "z"]},
        ],
    }
)


def close(found: object, expected: object) -> None:
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def numbers(one: Estimate | Test | None) -> tuple[object, ...]:
    assert one is not None
    return tuple(vars(one).values())


def test_a_table_of_two_columns_is_scipys() -> None:
    found = heart().crosstab("chest_pain", "resting_ecg").run()
    expected = pd.crosstab(frame().chest_pain, frame().resting_ecg).loc[list(found.rows), list(found.columns)]
    assert found.counts == tuple(map(tuple, expected.to_numpy().tolist()))
    chi = stats.chi2_contingency(expected)
    assert found.chi_square is not None
    close(numbers(found.chi_square), (chi.statistic, chi.dof, chi.pvalue))
    close(found.cramers_v, stats.contingency.association(expected, "cramer"))
    assert found.odds_ratio is None and found.chi_square_yates is None and found.fisher is None


def test_a_fourfold_table_is_statsmodels() -> None:
    table = heart()
    found = table.crosstab("sex", table.diagnosis > 0).run()
    assert found.rows == ("Female", "Male") and found.columns == (True, False)
    counts = pd.crosstab(frame().sex, frame().diagnosis > 0).reindex(columns=[True, False]).to_numpy()
    assert found.counts == tuple(map(tuple, counts.tolist()))
    expected = Table2x2(counts, shift_zeros=False)
    assert found.odds_ratio and found.risk_ratio and found.risk_difference and found.chi_square_yates
    close(
        (found.odds_ratio.value, found.odds_ratio.low, found.odds_ratio.high),
        (expected.oddsratio, *expected.oddsratio_confint()),
    )
    close(
        (found.risk_ratio.value, found.risk_ratio.low, found.risk_ratio.high),
        (expected.riskratio, *expected.riskratio_confint()),
    )
    close(found.chi_square_yates.p, stats.chi2_contingency(counts, correction=True).pvalue)
    close(found.fisher, stats.fisher_exact(counts).pvalue)
    close(found.n, len(frame()))
    assert "Risk of diagnosis_gt_0 = True, of sex = Female against sex = Male." in found.summary()


def test_the_physicians_health_study_has_its_published_numbers() -> None:
    """Agresti 2013, table 2.3: aspirin and heart attacks; odds ratio 1.83 (1.44, 2.33), risk ratio 1.82 (1.43, 2.31),
    risk difference 0.0077 (0.005, 0.011)."""
    rows = [(True, True, 189), (True, False, 10845), (False, True, 104), (False, False, 10933)]
    found = _table([(a, b, "x") for a, b, count in rows for _ in range(count)]).crosstab("a", "b").run()
    assert found.odds_ratio and found.risk_ratio and found.risk_difference
    assert (round(found.odds_ratio.value, 2), round(found.odds_ratio.low or 0, 2)) == (1.83, 1.44)
    assert (round(found.odds_ratio.high or 0, 2), round(found.risk_ratio.value, 2)) == (2.33, 1.82)
    assert (round(found.risk_ratio.low or 0, 2), round(found.risk_ratio.high or 0, 2)) == (1.43, 2.31)
    assert (round(found.risk_difference.value, 4), round(found.risk_difference.low or 0, 3)) == (0.0077, 0.005)
    assert round(found.risk_difference.high or 0, 3) == 0.011


def test_strata_are_statsmodels() -> None:
    table = heart()
    found = table.crosstab("sex", table.diagnosis > 0, by=width_bucket("age", 40, 70, 3)).run()
    decade = ((frame().age - 40) // 10 + 1).clip(0, 4)
    groups = [frame()[decade == label] for label in found.strata]
    counts = [pd.crosstab(one.sex, one.diagnosis > 0).reindex(columns=[True, False]).to_numpy() for one in groups]
    _compare(found, counts)


def test_one_stratum_has_the_ratios_of_the_table_itself() -> None:
    """Of one table, the intervals of Robins, Breslow, Greenland and of Greenland, Robins are Woolf's and Katz's."""
    table = heart()
    alone = table.crosstab("sex", table.diagnosis > 0).run()
    found = table.crosstab("sex", table.diagnosis > 0, by=table.age >= 0).run()
    close(numbers(found.odds_ratio), numbers(alone.odds_ratio))
    close(numbers(found.risk_ratio), numbers(alone.risk_ratio))
    assert found.homogeneity is None


def test_filters_hold_and_missing_keys_are_left_out() -> None:
    table = heart()
    found = table.filter(table.age > 50).crosstab("thallium", "exercise_angina").run()
    old = frame()[frame().age > 50].dropna(subset=["thallium", "exercise_angina"])
    assert found.n == len(old) < (frame().age > 50).sum()
    assert found.columns == (True, False)


def test_what_is_withheld_leaves_out_what_depends_on_it() -> None:
    gated = gated_heart(11)
    found = gated.crosstab("chest_pain", "diagnosis").run()
    assert any(WITHHELD in row for row in found.counts) and found.n is None
    assert (found.chi_square, found.cramers_v) == (None, None)
    assert "was withheld" in found.summary() and found.to_pandas().isna().any(axis=None)
    pooled = gated.crosstab("sex", gated.diagnosis > 0, by="chest_pain").run()
    assert any(one.withheld for one in pooled.strata.values())
    assert pooled.odds_ratio is None and pooled.cmh is None and "was withheld" in pooled.summary()


def test_noisy_counts_are_not_tested() -> None:
    found = noisy_heart().crosstab("sex", "exercise_angina").run()
    assert found.n and found.chi_square is None and found.odds_ratio is None
    assert "noise" in " ".join(found.notes())


def test_only_keys_that_may_be_missing_are_filtered() -> None:
    table = heart()
    assert table.crosstab("sex", table.diagnosis > 0).query.asked.filter is None
    assert table.crosstab("sex", table.cholesterol > 200).query.asked.filter is not None
    counted = table.crosstab("sex", table.cholesterol > 200).run().n
    assert counted == frame().cholesterol.notna().sum()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtra, match=r"ceiba\[stats\]"):
        heart().crosstab("sex", "diagnosis").run()


def test_bad_questions_are_named() -> None:
    with pytest.raises(BadQuestion, match="with by="):
        heart().group_by("sex").crosstab("sex", "diagnosis")
    with pytest.raises(BadQuestion, match="4 labels"):
        heart().crosstab("chest_pain", heart().diagnosis > 0, by="sex")
    with pytest.raises(BadQuestion, match="same name"):
        heart().crosstab("sex", "sex")


# --- any small table ------------------------------------------------------------------------------------------------


def _table(rows: list[tuple[object, ...]]) -> Table:
    return Table(ABC, Pooled(ABC, pd.DataFrame(rows, columns=["a", "b", "c"])))


def _compare(found: StratifiedCrossTab, counts: list[np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        expected = StratifiedTable(counts)
        assert found.odds_ratio and found.risk_ratio and found.cmh and found.cmh_corrected
        close(numbers(found.odds_ratio), (expected.oddsratio_pooled, *expected.oddsratio_pooled_confint()))
        close(found.risk_ratio.value, expected.riskratio_pooled)
        for one, correction in ((found.cmh, False), (found.cmh_corrected, True)):
            cmh = expected.test_null_odds(correction=correction)
            if one.statistic:  # a difference below the correction counts as none, as in R
                close((one.statistic, one.p), (cmh.statistic, cmh.pvalue))
        if found.homogeneity is not None:
            equal = expected.test_equal_odds()
            if not np.isnan(equal.statistic):  # it divides by 1 − ratio
                assert found.homogeneity.statistic == pytest.approx(equal.statistic, rel=1e-6)


ROWS = st.lists(
    st.tuples(st.sampled_from([True, False, None]), st.booleans(), st.sampled_from(["x", "y", "z", None])), max_size=60
)


@given(ROWS)
def test_any_fourfold_table_is_scipys(rows: list[tuple[object, ...]]) -> None:
    found = _table(rows).crosstab("a", "b").run()
    counts = np.array([[sum(row[:2] == (a, b) for row in rows) for b in (True, False)] for a in (True, False)])
    assert found.counts == tuple(map(tuple, counts.tolist()))
    assert found.summary() and found.to_dict()
    if not counts.any():
        assert found.fisher is None
        return
    close(found.fisher, stats.fisher_exact(counts).pvalue)
    if counts.sum(0).all() and counts.sum(1).all():
        assert found.chi_square
        close(found.chi_square.p, stats.chi2_contingency(counts, correction=False).pvalue)
    else:
        assert found.chi_square is None and found.cramers_v is None
    assert (found.odds_ratio is not None) == counts.all()


@given(ROWS)
def test_any_strata_are_statsmodels(rows: list[tuple[object, ...]]) -> None:
    found = _table(rows).crosstab("a", "b", by="c").run()
    present = [row for row in rows if None not in row]
    strata = [[[sum(row == (a, b, c) for row in present) for b in (True, False)] for a in (True, False)] for c in "xyz"]
    counts = [np.array(one) for one in strata if np.sum(one) > 1]
    assert found.summary()
    assume(counts)
    top = sum(one[0, 0] * one[1, 1] for one in counts)
    bottom = sum(one[0, 1] * one[1, 0] for one in counts)
    assert (found.odds_ratio is not None) == bool(top and bottom)
    inner = [one for one in counts if one.sum(0).all() and one.sum(1).all()]
    if found.odds_ratio and len(inner) == len(counts):
        _compare(found, counts)


def test_the_outcomes_are_typed() -> None:
    assert isinstance(heart().crosstab("sex", "diagnosis").mock(50), CrossTab)
    assert SCHEMA.table in repr(heart().crosstab("sex", "diagnosis"))
