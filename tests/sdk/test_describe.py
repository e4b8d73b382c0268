"""The first table of a paper against pandas and scipy on the pooled rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ceiba.query import Table
from ceiba_protocol.errors import BadQuestion, UnknownColumn
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import WITHHELD
from tests.support.pooled import Pooled
from tests.support.pooled_heart import SCHEMA, frame, gated_heart, heart, noisy_heart

MIXED = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "x", "type": "decimal", "resolution": 0.5, "minimum": -10, "maximum": 10},
            {"name": "d", "type": "decimal", "resolution": 0.5, "domain": [0.5, 1]},
            {"name": "c", "type": "category", "domain": ["u", "v", "w"]},
            {"name": "f", "type": "bool"},
            {"name": "g", "type": "category", "domain": ["one", "two"]},
            {"name": "free", "type": "int"},
            {"name": "day", "type": "date", "minimum": "2020-01-01", "maximum": "2021-01-01"},
        ],
    }
)


def test_all_columns_that_can_be_are_described_in_one_question() -> None:
    found = heart().describe().run()
    assert {one.name for one in found.numbers} | {one.name for one in found.categories} == set(SCHEMA.by_name)
    for number in found.numbers:
        values = frame()[number.name].dropna()
        assert number.groups[0].row[1:] == pytest.approx((len(values), values.mean(), values.std()))
    for category in found.categories:
        counts = frame()[category.name].dropna().map(_text).value_counts()
        assert category.counts[0] == tuple(counts.get(label, 0) for label in category.labels)
        assert category.p is None and category.difference is None
    assert found.rows == (920,) and [part.title for part in found.parts()] == ["Numbers", "Categories"]
    missing = {row[0]: row[2] for row in found.parts()[0].rows}
    assert missing["cholesterol"] == frame().cholesterol.isna().sum()


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) else str(value)


def test_two_groups_are_compared_as_papers_do() -> None:
    columns = ["age", "cholesterol", "chest_pain", "exercise_angina"]
    found = heart().describe(columns, by="sex").run()
    women, men = (frame()[frame().sex == label] for label in found.labels)
    for number in found.numbers:
        first, second = women[number.name].dropna(), men[number.name].dropna()
        assert number.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-9)
        spread = np.sqrt((first.var() + second.var()) / 2)
        assert number.difference == pytest.approx(abs(first.mean() - second.mean()) / spread)
    for category in found.categories:
        table = pd.crosstab(frame().sex, frame()[category.name])
        assert category.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-9)
    pain = [one.chest_pain.value_counts(normalize=True).sort_index() for one in (women, men)]
    mean = sum(np.diag(one) - np.outer(one, one) for one in pain) / 2
    apart = (pain[0] - pain[1]).to_numpy()  # over all values: a generalised inverse gives the same distance
    assert found.categories[0].difference == pytest.approx(np.sqrt(apart @ np.linalg.pinv(mean) @ apart))
    angina = found.categories[1]
    first, second = (one.exercise_angina.dropna().astype(float).mean() for one in (women, men))
    spread = np.sqrt((first * (1 - first) + second * (1 - second)) / 2)
    assert angina.difference == pytest.approx(abs(first - second) / spread)  # of two values, the usual formula
    text = found.summary()
    assert f"sex = Male (n = {len(men)})" in text and f"{men.age.mean():.1f} ({men.age.std():.1f})" in text
    assert found.to_pandas().shape[1] == 5


def test_more_groups_are_compared_by_analysis_of_variance() -> None:
    found = heart().describe(["age", "sex"], by="chest_pain").run()
    groups = [one.age for _, one in frame().groupby("chest_pain")]
    assert found.numbers[0].p == pytest.approx(stats.f_oneway(*groups).pvalue, rel=1e-9)
    assert found.numbers[0].difference is None and "analysis of variance" in found.summary()


def test_what_is_withheld_is_shown_and_not_compared() -> None:
    found = gated_heart(200).describe(["age"], by="sex").run()
    assert found.rows[0] is WITHHELD and found.numbers[0].p is None
    assert "withheld" in found.summary() and found.to_dict()
    whole = gated_heart(1000).describe(["age", "sex"]).run()
    assert whole.rows == (WITHHELD,) and "was withheld" in whole.summary()
    noisy = noisy_heart().describe(["age", "sex"], by="exercise_angina").run()
    assert noisy.numbers[0].p is noisy.categories[0].p is None and "noise" in noisy.summary()


def test_bad_questions_are_named() -> None:
    table = Table(MIXED, Pooled(MIXED, pd.DataFrame(columns=list(MIXED.by_name))))
    with pytest.raises(BadQuestion, match="free has neither"):
        table.describe(["free"])
    with pytest.raises(BadQuestion, match="day has neither"):
        table.describe(["day"])
    with pytest.raises(UnknownColumn):
        table.describe(["y"])
    with pytest.raises(BadQuestion, match="with by="):
        table.group_by("g").describe()
    assert table.describe().run().summary() and table.describe(by="g").run().rows == ()


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-20, 20).map(lambda x: x / 2),
            st.sampled_from([0.5, 1.0, None]),
            st.sampled_from(["u", "v", "w", None]),
            st.sampled_from([True, False, None]),
            st.sampled_from(["one", "two", None]),
        )
    )
)
def test_any_table_is_pandas(rows: list[tuple[object, ...]]) -> None:
    table = pd.DataFrame(rows, columns=["x", "d", "c", "f", "g"], dtype=object)
    for by in (None, "g"):
        found = Table(MIXED, Pooled(MIXED, table)).describe(by=by).run()
        assert found.summary() and found.to_dict()
        for place, label in enumerate(found.labels):
            own = table if by is None else table[table.g == label]
            assert found.rows[place] == len(own)
            values = own.x.dropna().astype(float)
            assert found.numbers[0].groups[place].n == len(values)
            if len(values) > 1:
                assert found.numbers[0].groups[place].sd == pytest.approx(values.std(), abs=1e-9)
            for category in found.categories:
                counts = [sum(_text(one) == label for one in own[category.name].dropna()) for label in category.labels]
                if category.name != "d":
                    assert list(category.counts[place]) == counts
            decimals = next(one for one in found.categories if one.name == "d")
            assert list(decimals.counts[place]) == [sum(own.d == value) for value in (0.5, 1.0)]
