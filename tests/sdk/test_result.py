"""Results: rows of Python values, readable, and as data frames without a changed value."""

import copy
import pickle
import sys
from datetime import date
from typing import Any

import pandas
import pytest

from ceiba.display import cell
from ceiba.result import REASONS, Result
from ceiba_protocol.errors import BadQuestion, MissingExtra
from ceiba_protocol.statistics import WITHHELD

ROWS: list[tuple[Any, ...]] = [("female", 201, 0.5, date(2024, 1, 1)), (None, None, None, None)]
RESULT = Result(("sex", "n", "x", "day"), ROWS)


def test_rows_columns_and_slices() -> None:
    assert len(RESULT) == 2 and list(RESULT) == ROWS and RESULT[0] == ROWS[0] and RESULT[:1] == ROWS[:1]
    assert RESULT["n"] == [201, None]
    assert RESULT.to_dicts()[0] == {"sex": "female", "n": 201, "x": 0.5, "day": date(2024, 1, 1)}
    with pytest.raises(BadQuestion, match="nearest is sex"):
        RESULT["sexx"]


def test_value_is_for_single_cells() -> None:
    assert Result(("n",), [(5,)]).value == 5
    for result in (RESULT, Result(("n",), []), Result(("a", "b"), [(1, 2)])):
        with pytest.raises(BadQuestion, match="not a single value"):
            _ = result.value


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, None], "Int64"),
        ([2**63, 1], "object"),
        ([0.5, None], "float64"),
        ([0.5, 1], "float64"),
        ([True, False], "bool"),
        ([True, None], "boolean"),
        ([date(2024, 1, 1), None], "datetime64[us]"),
        ([None, None], "object"),
        ([[{"a": 1}], None], "object"),
    ],
)
def test_pandas_types(values: list[Any], dtype: str) -> None:
    frame = Result(("x",), [(value,) for value in values]).to_pandas()
    assert frame["x"].dtype == dtype
    assert [None if pandas.api.types.is_scalar(v) and pandas.isna(v) else v for v in frame["x"]] == [
        pandas.Timestamp(value) if isinstance(value, date) else value for value in values
    ]


def test_text_columns_and_empty_results() -> None:
    frame = RESULT.to_pandas()
    assert frame["sex"][0] == "female" and pandas.isna(frame["sex"][1])
    empty = Result(("a", "b"), []).to_pandas()
    assert list(empty.columns) == ["a", "b"] and len(empty) == 0


def test_repr_is_aligned() -> None:
    result = Result(("city", "n", "x"), [("東京", 7, 1 / 3), ("Köln", 123, None)], holders=("a", "b"), seconds=0.25)
    assert repr(result).split("\n") == [
        "city    n             x",
        "----  ---  ------------",
        "東京    7  0.3333333333",
        "Köln  123          NULL",
        "2 rows, 2 holders, 0.25 s",
    ]


def test_long_results_are_cut() -> None:
    text = repr(Result(("n",), [(n,) for n in range(100)]))
    assert "... and 70 more rows" in text and text.count("\n") == 33


def test_clipping_is_noted_only_where_it_happened() -> None:
    noted = Result(("n",), [(1,)], clipped={"age": 4, "chol": 0})
    assert "clipped in age (4)." in repr(noted) and "chol" not in repr(noted)
    assert "Note" not in repr(Result(("n",), [(1,)], clipped={"age": 0}))


# --- what was withheld -------------------------------------------------------------------------------------------

SMALL: list[dict[str, Any]] = [{"from": None, "to": 0.0, "count": 7}, {"from": 0.0, "to": None, "count": WITHHELD}]
GATED = Result(
    ("sex", "n", "age", "h"),
    [("female", 20, 61.5, []), ("male", WITHHELD, WITHHELD, WITHHELD), (None, 9, WITHHELD, SMALL)],
    groups=("sex",),
)


def test_withheld_says_where_what_and_why() -> None:
    assert GATED.withheld == [
        {"sex": "male", "columns": ["n", "age", "h"], "reason": "cell_withheld"},
        {"sex": None, "columns": ["age", "h"], "reason": "value_withheld"},
    ]
    assert {one["reason"] for one in GATED.withheld} < set(REASONS)
    assert Result(("n",), [(5,)]).withheld == []


def test_withheld_without_groups_is_the_whole_answer() -> None:
    assert Result(("n",), [(WITHHELD,)]).withheld == [{"columns": ["n"], "reason": "cell_withheld"}]


def test_text_shows_withheld_and_why() -> None:
    text = repr(GATED)
    assert text.count("  withheld") == 4 and text.count("Withheld in 1 row: ") == 2
    assert f"Withheld in 1 row: {REASONS['cell_withheld']}" in text
    two = Result(("sex", "n"), [("female", WITHHELD), ("male", WITHHELD)], groups=("sex",))
    assert "Withheld in 2 rows: " in repr(two)
    assert "Withheld" not in repr(RESULT)


def test_numbers_stay_on_the_right_beside_withheld() -> None:
    lines = repr(Result(("n",), [(5,), (WITHHELD,)], groups=())).split("\n")
    assert lines[2:4] == ["       5", "withheld"]


def test_withheld_is_missing_in_a_data_frame_and_columns_keep_their_types() -> None:
    frame = GATED.to_pandas()
    assert list(frame.columns) == ["sex", "n", "age", "h"]
    assert (frame["n"].dtype, frame["age"].dtype) == ("Int64", "float64")
    assert frame["n"].isna().tolist() == [False, True, False] and frame["age"].isna().tolist() == [False, True, True]
    assert frame["n"][0] == 20


def test_withheld_stays_what_it_is_in_rows_and_dicts() -> None:
    assert GATED["n"] == [20, WITHHELD, 9] and GATED.to_dicts()[1]["age"] is WITHHELD
    assert pickle.loads(pickle.dumps(WITHHELD)) is copy.deepcopy(WITHHELD) is WITHHELD


def test_arrow_has_nulls_for_withheld() -> None:
    pytest.importorskip("pyarrow")
    assert Result(("n",), [(5,), (WITHHELD,)]).to_arrow().to_pylist() == [{"n": 5}, {"n": None}]


def test_html_is_escaped_and_semantic() -> None:
    html = Result(("<n>",), [("<script>",)], job_id="j&1")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "&lt;n&gt;" in html and "j&amp;1" in html
    assert html.startswith("<table><caption>") and '<th scope="col">' in html


def test_cells_cannot_move_the_cursor() -> None:
    assert "\x1b" not in cell("\x1b[2Jx\n") and len(cell("x" * 500)) == 60


def test_arrow_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ceiba\[arrow\]'"):
        RESULT.to_arrow()


def test_arrow_keeps_values() -> None:
    pytest.importorskip("pyarrow")
    assert RESULT.to_arrow().to_pylist() == RESULT.to_dicts()
