"""Tables and queries: immutable, checked when built, local where they say so."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba.mock import mock_rows
from ceiba.presentation import Order, Presentation, Shown, evaluate
from ceiba.query import Query, Table
from ceiba.released import Released
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.terms import case, col, width_bucket
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    NoDomain,
    PlanTooLarge,
    ResolutionNeeded,
    UnboundedColumn,
    UnknownCategory,
    UnknownColumn,
    WrongType,
)
from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import WITHHELD
from tests.support.questions import HEART, NoRunner, answer, query_of, table

count, mean, histogram = statistic("count"), statistic("mean"), statistic("histogram")


# --- tables -----------------------------------------------------------------------------------------------------


def test_columns_are_attributes_and_items() -> None:
    heart = table()
    assert repr(heart.age) == repr(heart["age"]) == "age"
    assert "chol" in dir(heart) and "filter" in dir(heart)
    assert heart.columns == list(HEART.by_name)


def test_typos_name_the_nearest_column_and_hasattr_works() -> None:
    heart = table()
    with pytest.raises(UnknownColumn, match="nearest name is age"):
        _ = heart.agee
    with pytest.raises(UnknownColumn, match="nearest name is chol"):
        heart["cholesterol"]
    assert not hasattr(heart, "agee") and not hasattr(heart, "_ipython_display_")


def test_a_column_called_like_a_method_is_an_item() -> None:
    schema = Schema.from_plain({"table": "t", "columns": [{"name": "count", "type": "bool"}]})
    heart = Table(schema, NoRunner())
    assert repr(heart["count"]) == "count"
    assert heart.count().columns == ("count",)


def test_tables_copy_and_pickle() -> None:
    heart = table().filter(col("age") > 5)
    for other in (copy.copy(heart), copy.deepcopy(heart), pickle.loads(pickle.dumps(heart))):
        assert other.count().plan() == heart.count().plan()


def test_steps_do_not_change_the_table() -> None:
    heart = table()
    grouped = heart.filter(heart.age > 5).group_by("sex")
    assert heart.count().plan().filter is None and grouped.count().plan().groups


def test_several_filters_are_one_conjunction() -> None:
    heart = table()
    together = heart.filter((heart.age > 5) & heart.smoker & (heart.visits > 0)).count()
    assert heart.filter(heart.age > 5, heart.smoker).filter(heart.visits > 0).count().plan() == together.plan()


def test_a_table_describes_its_columns() -> None:
    heart = table().filter(col("age") > 5).group_by("sex")
    text, html = repr(heart), heart._repr_html_()
    assert "age     int            years  0 to 120" in text and "decimal(0.1)" in text
    assert "where age > 5" in text and "grouped by sex" in text
    assert "&lt;b&gt;" in html and "<b>" not in html


# --- queries are checked when they are built --------------------------------------------------------------------


def test_errors_appear_before_anything_is_asked() -> None:
    heart = table()
    uses: list[tuple[type[CeibaError], Callable[[], object]]] = [
        (UnknownColumn, lambda: heart.agg(m=mean("agee"))),
        (UnknownColumn, lambda: heart.filter(col("agee") > 5)),
        (UnknownCategory, lambda: heart.filter(heart.sex == "Male")),
        (WrongType, lambda: heart.agg(m=mean("sex"))),
        (WrongType, lambda: heart.filter(heart.age)),
        (WrongType, lambda: heart.filter("age > 5")),  # type: ignore[arg-type]
        (NoDomain, lambda: heart.group_by("age").count()),
        (UnknownColumn, lambda: heart.group_by("agee").count()),
        (ResolutionNeeded, lambda: heart.agg(m=mean(heart.age / heart.visits))),
        (BadQuestion, lambda: heart.agg()),
        (BadQuestion, lambda: heart.agg(n=heart.age)),  # type: ignore[arg-type]
        (BadQuestion, lambda: heart.agg(größe=count())),
        (BadQuestion, lambda: heart.group_by("sex").agg(sex=count())),
        (BadQuestion, lambda: heart.group_by("sex", "sex").count()),
    ]
    for error, use in uses:
        with pytest.raises(error):
            use()


def test_a_column_without_bounds_cannot_be_summed() -> None:
    schema = Schema.from_plain({"table": "t", "columns": [{"name": "x", "type": "int"}]})
    with pytest.raises(UnboundedColumn):
        Table(schema, NoRunner()).agg(m=mean("x"))


def test_wrong_types_after_the_release_are_told_before_it() -> None:
    query = table().group_by("sex").agg(n=count(), h=histogram("age", 0, 9, 3))
    uses: list[tuple[type[CeibaError], Callable[[], object]]] = [
        (WrongType, lambda: query.having(col("n") > "x")),
        (WrongType, lambda: query.having(col("n"))),
        (WrongType, lambda: query.having(col("h") == 1)),
        (WrongType, lambda: query.having(col("sex") + 1 > 2)),
        (WrongType, lambda: query.order_by("h")),
        (BadQuestion, lambda: query.having(col("m") > 1)),
        (BadQuestion, lambda: query.order_by("m")),
        (BadQuestion, lambda: query.limit(-1)),
    ]
    for error, use in uses:
        with pytest.raises(error):
            use()


def test_deep_questions_are_refused_by_name() -> None:
    heart, deep = table(), col("age")
    for _ in range(3000):
        deep = deep + 1
    uses: list[Callable[[], object]] = [
        lambda: heart.filter(deep > 1),
        lambda: heart.count().having(deep > 1),
        lambda: heart.group_by(case((deep > 1, "a"))).count(),
    ]
    for use in uses:
        with pytest.raises(PlanTooLarge, match="nesting"):
            use()


# --- what happens after the release -----------------------------------------------------------------------------


def test_having_order_and_limit_stay_here() -> None:
    query = table().group_by("city", "sex").agg(n=count(), age=mean("age"))
    shown = query.having(col("n") > 5).having(col("sex").notnull()).order_by("n", descending=True).order_by("city")
    shown = shown.limit(3, offset=1)
    assert shown.plan() == query.plan() and query.presentation == Presentation.of(query.plan())
    same = query_of(
        "SELECT city, sex, COUNT(*) AS n, AVG(age) AS age FROM heart GROUP BY ALL HAVING n > 5 AND sex IS NOT NULL "
        "ORDER BY n DESC, city LIMIT 3 OFFSET 1"
    )
    assert answer(shown).rows == answer(same).rows and len(answer(shown)) == 3


def test_sql_queries_are_refined_by_title() -> None:
    query = query_of("SELECT sex, COUNT(*) FROM heart GROUP BY sex").order_by("count_star()", descending=True).limit(1)
    assert len(answer(query)) == 1


_NULLABLE = st.one_of(st.none(), st.integers(-3, 3))


@given(st.lists(st.tuples(_NULLABLE, _NULLABLE), max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_sorting_is_stable_with_nulls_where_they_were_asked(rows: Any, down: bool, up: bool, first: bool) -> None:
    order = (Order(ColumnValue(name="a"), down, first), Order(ColumnValue(name="b"), up))
    shown = Presentation((Shown.plain("a", "a"), Shown.plain("b", "b")), order=order)
    result = shown.apply([{"a": a, "b": b} for a, b in rows])

    def place(value: int | None, descending: bool, nulls_first: bool) -> tuple[int, int]:
        if value is None:
            return (-1 if nulls_first else 1, 0)
        return (0, -value if descending else value)

    assert result == sorted(rows, key=lambda row: (place(row[0], down, first), place(row[1], up, False)))


_WITHHELD_OR_NULL = st.sampled_from([None, WITHHELD])
_SOME = st.one_of(_WITHHELD_OR_NULL, st.integers(-3, 3))


@given(st.lists(st.tuples(_SOME, _SOME), max_size=12), st.booleans(), st.booleans())
def test_withheld_is_sorted_and_kept_as_null_is(rows: Any, down: bool, first: bool) -> None:
    """Otherwise ORDER BY and HAVING would tell something about it."""
    columns = (Shown.plain("a", "a"), Shown.plain("b", "b"))
    conditions = [col("a") > 0, ~(col("a") > 0), col("a").isnull(), (col("a") + col("b")) < 1, col("a").notnull()]
    for having in (None, *(condition.expression for condition in conditions)):
        order = (Order(ColumnValue(name="a"), down, first), Order(ColumnValue(name="b")))
        shown = Presentation(columns, having, order)
        nulls = [{"a": None if a is WITHHELD else a, "b": None if b is WITHHELD else b} for a, b in rows]
        chosen = shown.choose([{"a": a, "b": b} for a, b in rows])
        assert chosen == shown.choose(nulls)
        assert [rows[place] for place in chosen] == shown.apply([{"a": a, "b": b} for a, b in rows])


@pytest.mark.parametrize(
    ("term", "value"),
    [
        (col("w") > 5, None),
        (col("w") == col("w"), None),
        ((col("w") > 5) | (col("n") > 0), True),
        ((col("w") > 5) & (col("n") < 0), False),
        (~(col("w") == 1), None),
        (col("w").isnull(), True),
        (col("w").notnull(), False),
        (col("w") + col("n"), None),
        (col("n") / col("w"), None),
        (col("w").round(1), None),
        (case((col("w") > 1, 1), otherwise=3), 3),
    ],
)
def test_withheld_counts_as_null_in_conditions(term: Any, value: object) -> None:
    assert evaluate(term.expression, {"w": WITHHELD, "n": 10}) == value


def test_withheld_rows_go_where_null_goes() -> None:
    query = table().group_by("sex").agg(n=count())
    width, cells = len(query.program.sums), query.program.cells
    sent = np.ones((cells, width), dtype=np.bool_)
    sent[0] = False
    totals = (np.arange(10, 10 + cells * width).reshape(cells, width) * sent).reshape(-1).tolist()

    def shown(asked: Query) -> list[Any]:
        return asked.result(Released(totals, sent))["n"]

    assert shown(query)[0] is WITHHELD and len(shown(query)) == cells == 3
    assert shown(query.order_by("n"))[-1] is WITHHELD
    assert WITHHELD not in shown(query.having(col("n") > 0)) and len(shown(query.having(col("n") > 0))) == 2
    assert shown(query.having(col("n").isnull())) == [WITHHELD]


@pytest.mark.parametrize(
    ("term", "value"),
    [
        (col("x") + 1 > 5, None),
        ((col("x") > 1) & (col("n") < 0), False),
        ((col("x") > 1) | (col("n") > 0), True),
        (~(col("x") == 1), None),
        (col("x").isnull(), True),
        (col("n") / 0, None),
        (col("n") / 4, 2.5),
        (col("f") == 0.1, True),
        ((col("f") * 25).round(0), 3),
        ((col("n") * -0.25).round(0), -3),
        (col("n").round(2), 10),
        (case((col("x") > 1, 1), (col("n") > 1, 2), otherwise=3), 2),
        (case((col("x") > 1, 1)), None),
        (col("t") < "b", True),
        (col("b") == True, True),  # noqa: E712
        (1 - col("n"), -9),
    ],
)
def test_conditions_on_results_follow_sql(term: Any, value: object) -> None:
    assert evaluate(term.expression, {"x": None, "n": 10, "f": 0.1, "t": "a", "b": True}) == value


# --- running ----------------------------------------------------------------------------------------------------


class _Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Query, dict[str, Any]]] = []

    def run(self, query: Query, **options: Any) -> Result:
        self.calls.append(("run", query, options))
        return Result(("n",), [(3,)])

    def submit(self, query: Query, **options: Any) -> str:
        self.calls.append(("submit", query, options))
        return "job"

    def explain(self, query: Query) -> str:
        self.calls.append(("explain", query, {}))
        return "words"


def test_asking_is_left_to_the_runner() -> None:
    runner = _Recorder()
    query = Table(HEART, runner).count()
    assert not runner.calls
    assert query.run(deadline=5).value == 3 and query.to_pandas()["n"].tolist() == [3]
    assert query.submit() == "job" and query.explain() == "words"
    assert [call[0] for call in runner.calls] == ["run", "run", "submit", "explain"]
    assert runner.calls[0][1] is query and runner.calls[0][2] == {"deadline": 5}


def test_a_query_shows_what_it_asks_without_asking() -> None:
    heart = table()
    query = (
        heart.filter(heart.age > 5).group_by("sex", width_bucket("age", 0, 100, 10)).agg(v=statistic("var_pop")("age"))
    )
    text = repr(query.having(col("v") > 5))
    for part in (
        "where age > 5",
        "group sex = sex",
        "width_bucket(age, 0, 100, 10)",
        "variance(age, True)",
        "having v > 5",
    ):
        assert part in text


# --- mock -------------------------------------------------------------------------------------------------------


def test_mock_needs_no_space_and_repeats_itself() -> None:
    query = table().group_by("sex").agg(n=count(), chol=mean("chol"))
    assert query.mock().rows == query.mock().rows != query.mock(seed=1).rows
    assert sum(query.mock(rows=50)["n"]) == 50 and query.mock(rows=0).rows == []
    assert query.mock().job_id == "mock"


def test_mock_rows_fit_the_schema_and_have_nulls() -> None:
    made = mock_rows(HEART, HEART.by_name, 400, seed=3)
    for column in HEART.columns:
        values = [row[column.name] for row in made]
        present = [value for value in values if value is not None]
        assert (len(present) < len(values)) == column.nullable
        assert column.range is not None
        assert min(present) >= column.range[0] and max(present) <= column.range[1]
        if column.codes is not None:
            assert set(present) == set(column.codes)


def test_mock_columns_do_not_depend_on_one_another() -> None:
    alone = mock_rows(HEART, ["age"], 20, seed=3)
    assert alone == [{"age": row["age"]} for row in mock_rows(HEART, ["age", "sex"], 20, seed=3)]


def test_mock_works_without_bounds() -> None:
    kinds = [("a", "int"), ("c", "date"), ("d", "timestamp"), ("e", "bool")]
    columns: list[dict[str, Any]] = [{"name": name, "type": kind} for name, kind in kinds]
    columns.append({"name": "b", "type": "decimal", "resolution": "0.5"})
    heart = Table(Schema.from_plain({"table": "t", "columns": columns}), NoRunner())
    assert 0 < heart.filter(heart.c > "2021-01-01", heart.d > "2021-01-01", heart.b >= 0).count().mock().value < 1000
