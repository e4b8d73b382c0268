"""Standardised rates against the textbook's formulas, computed on the pooled rows in another way."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ceiba.query import Table
from ceiba.terms import case, width_bucket
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.schema import Schema
from tests.support.pooled import Pooled
from tests.support.pooled_heart import frame, gated_heart, heart, noisy_heart

DEATHS = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "age", "type": "category", "domain": ["a", "b", "c", "d", "e", "f"], "nullable": False},
            {"name": "cases", "type": "int", "minimum": 0, "maximum": 1000},
            {"name": "births", "type": "decimal", "resolution": 0.5, "minimum": 0, "maximum": 1000000},
        ],
    }
)


def deaths(rows: list[tuple[object, ...]]) -> Table:
    return Table(DEATHS, Pooled(DEATHS, pd.DataFrame(rows, columns=["age", "cases", "births"])))


def ageadjust_direct(count: np.ndarray, pop: np.ndarray, standard: np.ndarray) -> tuple[float, ...]:
    """What R's epitools::ageadjust.direct computes, written down again by shape and scale."""
    share = standard / standard.sum()
    rate, variance, widest = (share * count / pop).sum(), (share**2 * count / pop**2).sum(), (share / pop).max()
    low = stats.gamma(a=rate**2 / variance, scale=variance / rate).ppf(0.025)
    upper = stats.gamma(a=(rate + widest) ** 2 / (variance + widest**2), scale=(variance + widest**2) / (rate + widest))
    return count.sum() / pop.sum(), rate, low, upper.ppf(0.975)


def test_direct_rates_by_person_time() -> None:
    """Numbers of the size that such a table has: rare events in six age groups."""
    pop = np.array([230061, 329449, 114920, 39487, 14208, 3052])
    count = np.array([107, 141, 60, 40, 39, 25])
    standard = np.array([319933, 931318, 786511, 488235, 237863, 61313])
    table = deaths([(age, int(d), float(n)) for age, d, n in zip("abcdef", count, pop, strict=True)])
    weights = dict(zip("abcdef", standard.tolist(), strict=True))
    found = table.standardised_rate("cases", by="age", population=weights, time="births").run()
    crude, rate, low, high = ageadjust_direct(count, pop, standard)
    assert found.crude and found.adjusted
    assert found.crude.value == pytest.approx(crude)
    assert (found.adjusted.value, found.adjusted.low, found.adjusted.high) == pytest.approx((rate, low, high))


def test_direct_rates_by_rows_with_a_filter() -> None:
    table = heart()
    found = table.filter(table.sex == "Male").standardised_rate(
        table.diagnosis > 0, by=width_bucket("age", 40, 70, 3), population={0: 1, 1: 2, 2: 3, 3: 2, 4: 1}
    )
    men = frame()[frame().sex == "Male"]
    stratum = ((men.age - 40) // 10 + 1).clip(0, 4)
    grouped = (men.diagnosis > 0).groupby(stratum)
    outcome = found.run()
    crude, *adjusted = ageadjust_direct(
        grouped.sum().to_numpy(), grouped.count().to_numpy(), np.array([1.0, 2, 3, 2, 1])
    )
    assert outcome.adjusted and outcome.crude and outcome.crude.value == pytest.approx(crude)
    assert [outcome.adjusted.value, outcome.adjusted.low, outcome.adjusted.high] == pytest.approx(adjusted)


def test_the_ratio_has_the_exact_poisson_interval() -> None:
    """After 11 events, a Poisson mean has the exact limits 5.491 and 19.682."""
    table = deaths([("a", 4, 100.0), ("b", 7, 50.0)])
    rates = dict.fromkeys("abcdef", 0.0) | {"a": 0.05, "b": 0.1}
    found = table.standardised_rate("cases", by="age", expected=rates, time="births").run()
    assert found.observed == 11 and found.expected == pytest.approx(10) and found.ratio
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((1.1, 0.5491, 1.9682), abs=1e-4)
    assert "SMR" in found.summary()


def test_rows_without_an_event_or_a_time_are_left_out_on_both_sides() -> None:
    table = deaths([("a", 1, 2.0), ("a", None, 5.0), ("a", 3, None), ("b", 1, 4.0)])
    weights = dict.fromkeys("abcdef", 0.0) | {"a": 1.0, "b": 1.0}
    found = table.standardised_rate("cases", by="age", population=weights, time="births").run()
    assert [(one.events, one.exposure) for one in found.strata[:2]] == [(1, 2.0), (1, 4.0)]
    assert found.adjusted and found.adjusted.value == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_what_is_missing_is_said() -> None:
    table = deaths([("a", 1, 2.0)])
    weights = dict.fromkeys("abcdef", 1.0)
    empty = table.standardised_rate("cases", by="age", population=weights, time="births").run()
    assert empty.adjusted is None and empty.crude and "is empty here" in empty.summary()
    gated = gated_heart(60)
    old = case((gated.age < 35, "young"), otherwise="old").alias("ages")
    withheld = gated.standardised_rate(gated.diagnosis > 0, by=old, population={"young": 1, "old": 1}).run()
    assert withheld.adjusted is withheld.crude is None and "was withheld" in withheld.summary()
    ratio = gated.standardised_rate(gated.diagnosis > 0, by=old, expected={"young": 0.1, "old": 0.1}).run()
    assert ratio.ratio is ratio.observed is None and "was withheld" in ratio.summary()
    noisy = noisy_heart().standardised_rate("fasting_sugar_high", by="sex", population={"Female": 1, "Male": 1}).run()
    assert noisy.adjusted is None and "noise" in noisy.summary()


def test_bad_questions_are_named() -> None:
    table = heart()
    for wrong, words in (
        ({"Female": 1}, "lacks Male"),
        ({"Female": 1, "Male": 1, "other": 1}, "has other"),
        ({"Female": -1, "Male": 1}, "below 0"),
        ({"Female": 0, "Male": 0}, "only zeros"),
    ):
        with pytest.raises(BadQuestion, match=words):
            table.standardised_rate(table.diagnosis > 0, by="sex", population=wrong)
    with pytest.raises(BadQuestion, match="population= or expected="):
        table.standardised_rate("diagnosis", by="sex")  # type: ignore[call-overload]
    with pytest.raises(BadQuestion, match="with by="):
        table.group_by("sex").standardised_rate("diagnosis", by="sex", population={})


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.none() | st.integers(0, 9),
            st.none() | st.integers(0, 20).map(lambda x: x / 2),
        )
    )
)
def test_any_rates_are_those_of_the_rows(rows: list[tuple[object, ...]]) -> None:
    weights = dict.fromkeys("abcdef", 0.0) | {"a": 3.0, "b": 2.0, "c": 1.0}
    found = deaths(rows).standardised_rate("cases", by="age", population=weights, time="births").run()
    complete = pd.DataFrame(rows, columns=["age", "cases", "births"]).dropna()
    sums = complete.astype({"cases": float, "births": float}).groupby("age").sum().reindex(list("abc"), fill_value=0)
    assert found.summary() and found.to_dict()
    assert (found.crude is not None) == (sums.births.sum() > 0)
    assert (found.adjusted is not None) == (sums.births > 0).all()
    if found.adjusted is not None and sums.cases.sum() > 0:
        expected = ageadjust_direct(sums.cases.to_numpy(), sums.births.to_numpy(), np.array([3.0, 2, 1]))[1:]
        assert (found.adjusted.value, found.adjusted.low, found.adjusted.high) == pytest.approx(expected)
