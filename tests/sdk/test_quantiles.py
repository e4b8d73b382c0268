"""Quantiles by refined histograms against numpy on the pooled rows; what is withheld ends the search, honestly."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ceiba
from ceiba.query import Table
from ceiba.sql import parse
from ceiba_protocol.errors import BadQuestion, CeibaError
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import WITHHELD
from tests.support.pooled import Pooled
from tests.support.pooled_heart import SCHEMA, Gated, frame, heart, noisy_heart

XG = Schema.from_plain(
    {
        "table": "t",
        "columns": [
            {"name": "x", "type": "decimal", "resolution": 0.25, "minimum": -20, "maximum": 30},
            {"name": "g", "type": "bool"},
        ],
    }
)
PUBLIC = Schema.from_plain(
    {"table": "t", "columns": [{"name": "x", "type": "int", "minimum": 0, "maximum": 99, "grade": "public"}]}
)


def some() -> pd.DataFrame:
    """Every fourth patient: the gate's tests are slow on rows of Python."""
    return frame().iloc[::4]


def gated(least: int) -> tuple[Table, Gated]:
    runner = Gated(SCHEMA, some(), least)
    return Table(SCHEMA, runner), runner


@pytest.mark.parametrize("column", ["age", "cholesterol", "st_depression"])
def test_where_nothing_is_withheld_they_are_numpys(column: str) -> None:
    q = (0.05, 0.25, 0.5, 0.77, 0.95)
    found = heart().quantiles(column, q=q).run()
    expected = np.quantile(frame()[column].dropna(), q)
    (group,) = found.groups
    assert [one.value for one in group.quantiles] == pytest.approx(expected.tolist(), abs=1e-12)
    assert {one.half_width for one in group.quantiles} == {0.0}
    assert group.n == frame()[column].count()


def test_groups_filters_and_the_distance_between_the_quartiles() -> None:
    table = heart()
    found = table.filter(table.age > 40).quantiles("cholesterol", by="sex", questions=30).run()
    rows = frame()[frame().age > 40]
    for group in found.groups:
        own = rows[rows.sex == group.labels[0]].cholesterol.dropna()
        assert [one.value for one in group.quantiles] == pytest.approx(own.quantile([0.25, 0.5, 0.75]).tolist())
        assert group.iqr and group.iqr.value == pytest.approx(own.quantile(0.75) - own.quantile(0.25))
    assert [group.labels for group in found.groups] == [("Female",), ("Male",)]
    assert found.to_pandas().columns.tolist() == ["sex", "quantile", "value", "±", "n"]


def test_a_public_column_of_few_units_takes_one_question() -> None:
    found = Table(PUBLIC, Pooled(PUBLIC, pd.DataFrame({"x": [3, 4, 8, 99]}))).quantiles("x").run()
    assert len(found.results) == 1 and [one.value for one in found.groups[0].quantiles] == [3.75, 6.0, 30.75]


def test_the_search_ends_where_bins_are_withheld_and_says_how_wide() -> None:
    table, runner = gated(4)
    found = table.median("cholesterol").run()
    one = found.groups[0].quantiles[0]
    assert one.value is not None and one.half_width is not None
    assert 0 < one.half_width < 5 and abs(one.value - some().cholesterol.median()) <= one.half_width
    assert len(runner.asked) == len(found.results) <= 12
    assert any(result.withheld for result in found.results) and "Finer bins were withheld" in found.summary()


def test_they_are_exact_where_single_units_have_the_minimum() -> None:
    table, _ = gated(4)
    found = table.quantiles("age").run()
    assert [one.value for one in found.groups[0].quantiles] == some().age.quantile([0.25, 0.5, 0.75]).tolist()
    assert {one.half_width for one in found.groups[0].quantiles} == {0.0}


def test_knowing_where_values_lie_needs_fewer_questions() -> None:
    table, runner = gated(4)
    found = table.median("age", low=40, high=65, bins=5).run()
    assert found.value == some().age.median() and len(runner.asked) <= 3


def test_where_nothing_is_released_the_answer_is_the_columns_bounds() -> None:
    table, runner = gated(125)
    found = table.median("age", by="sex", questions=4).run()
    women, men = found.groups
    assert women.n is WITHHELD and women.quantiles[0].value is None
    assert men.quantiles[0].half_width and men.quantiles[0].half_width > 20
    assert len(runner.asked) <= 4 and "withheld" in found.summary()


def test_noise_is_paid_for_once() -> None:
    found = noisy_heart().median("age").run()
    assert len(found.results) == 1 and "noise" in found.summary()
    one = found.groups[0].quantiles[0]
    assert one.value is not None and one.half_width is not None
    assert abs(one.value - frame().age.median()) <= one.half_width


def test_bad_questions_are_named() -> None:
    for wrong in ((), (2,), ("a",)):
        with pytest.raises(BadQuestion, match="from 0 to 1"):
            heart().quantiles("age", q=wrong)
    with pytest.raises(BadQuestion, match="single person"):
        heart().quantiles("age", q=(0, 0.5))
    with pytest.raises(BadQuestion, match="2 to 100 bins"):
        heart().quantiles("age", bins=1)
    with pytest.raises(BadQuestion, match="from 0 to 120"):
        heart().quantiles("age", low=130)
    with pytest.raises(BadQuestion, match="several questions"):
        heart().median("age").submit()
    with pytest.raises(BadQuestion, match="with by="):
        heart().group_by("sex").median("age")
    with pytest.raises(CeibaError):
        heart().median("sex")


def test_mock_and_explain_are_about_the_first_question() -> None:
    search = heart().quantiles("age", by="sex")
    assert search.mock(200).summary() and "up_to_1" in repr(search)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.integers(-80, 120).map(lambda x: x / 4), st.sampled_from([True, False, None]))),
    st.integers(2, 12),
    st.integers(0, 6),
)
def test_any_answer_holds_the_quantile(rows: list[tuple[float | None, bool | None]], bins: int, least: int) -> None:
    table = pd.DataFrame(rows, columns=["x", "g"], dtype=object)
    found = Table(XG, Gated(XG, table, least)).quantiles("x", by="g", bins=bins).run()
    for group in found.groups:
        own = table[table.g == group.labels[0]].x.dropna().astype(float)
        assert group.n in (len(own), WITHHELD)
        for one in group.quantiles:
            if one.value is not None and one.half_width is not None:
                assert abs(one.value - own.quantile(one.q)) <= one.half_width + 1e-9
            else:
                assert group.n in (0, WITHHELD)
    assert found.summary() and found.to_dict()


# --- extremes ---------------------------------------------------------------------------------------------------


def test_extremes_are_refused_with_the_reason_and_the_alternative() -> None:
    for refused in (
        lambda: ceiba.min("age"),
        lambda: ceiba.max("age"),
        lambda: heart().minimum("age"),
        lambda: heart().maximum("age"),
    ):
        with pytest.raises(BadQuestion, match=r"single person.*q=\(0.01, 0.99\).*HISTOGRAM"):
            refused()
    for function in ("MIN", "MAX"):
        with pytest.raises(CeibaError, match=r"single person.*q=\(0.01, 0.99\).*HISTOGRAM"):
            parse(f"SELECT {function}(age) FROM health.heart", lambda _: SCHEMA)
    assert "min" not in dir(ceiba)
