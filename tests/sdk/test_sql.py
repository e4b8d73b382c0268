"""SQL: the same text in DuckDB is its meaning; what is outside is refused by name, with its place."""

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ceiba.statistics
from ceiba.kept import _presentations
from ceiba.query import Query
from ceiba.released import Released
from ceiba.result import Result
from ceiba.sql import parse
from ceiba.sql.patterns import matching
from ceiba.terms import case, col, date_trunc, width_bucket
from ceiba_protocol.canonical import MAX_BODY_BYTES
from ceiba_protocol.errors import (
    BadQuestion,
    BadSQL,
    CeibaError,
    PlanTooLarge,
    UnboundedColumn,
    UnknownCategory,
    UnknownColumn,
    UnknownTable,
    UnsupportedSQL,
    WrongType,
)
from ceiba_protocol.plan import Plan, grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS, WITHHELD
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.questions import answer, query_of, rows, schema_of, table, truth

count, mean, total, variance = (ceiba.statistics.statistic(name) for name in ("count", "mean", "sum", "variance"))


# --- the oracle -------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A value as both sides can be compared: midnights as dates, decimals exact, what is divided by 0 as NULL."""
    if isinstance(value, datetime) and value.time() == datetime.min.time():
        return value.date()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _same(ours: Any, theirs: Any) -> bool:
    ours, theirs = _plain(ours), _plain(theirs)
    if isinstance(theirs, Decimal):
        return ours is not None and float(theirs) == ours
    if isinstance(theirs, float) and ours is not None:
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return type(ours) is type(theirs) and ours == theirs


def _sort_key(row: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(repr(value) for value in map(_plain, row) if not isinstance(value, float | Decimal))


def _assert_like_duckdb(sql: str, *, ordered: bool = False) -> None:
    result, (titles, expected) = answer(query_of(sql)), truth(sql)
    ours = result.rows
    if not ordered:
        ours, expected = sorted(ours, key=_sort_key), sorted(expected, key=_sort_key)
    assert len(ours) == len(expected) and len(result.columns) == len(titles), sql
    for mine, theirs in zip(ours, expected, strict=True):
        assert all(map(_same, mine, theirs)), f"{sql}\n{mine}\n{theirs}"


QUESTIONS = [
    "SELECT COUNT(*) FROM health.heart",
    "select count(*), COUNT(age), Sum(visits), sum(dose), AVG(chol) from Health.Heart",
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex",
    "SELECT sex, smoker, COUNT(*), SUM(dose) FROM health.heart GROUP BY ALL",
    "SELECT smoker AS s, city AS c, AVG(age) FROM health.heart GROUP BY 2, s",
    'SELECT SEX, "Age" > 50 AS old, VAR_SAMP(chol), STDDEV_POP(age) FROM health.heart GROUP BY Sex, old',
    "SELECT age > 50, COUNT(*) FROM health.heart GROUP BY age > 50",
    "SELECT COUNT(*) FROM health.heart h GROUP BY h.sex",
    "SELECT health.heart.sex FROM health.heart GROUP BY heart.sex",
    "SELECT stage, COUNT(*) FROM health.heart WHERE stage IN (1, 3) GROUP BY stage",
    "SELECT day, COUNT(*) FROM health.heart GROUP BY day HAVING day > '2024-01-01'",
    "SELECT width_bucket(age, 10, 90, 7) AS w, COUNT(*) FROM health.heart GROUP BY w",
    "SELECT width_bucket(chol, -10.5, 50, 3), COUNT(*) FROM health.heart GROUP BY 1",
    "SELECT date_trunc('month', seen) AS m, COUNT(*) FROM health.heart GROUP BY m",
    "SELECT DATE_TRUNC('week', came), COUNT(*) FROM health.heart GROUP BY 1",
    "SELECT CASE WHEN age < 30 THEN 'young' WHEN age < 60 THEN 'middle' ELSE 'old' END AS g, COUNT(*)"
    " FROM health.heart GROUP BY g",
    "SELECT CASE sex WHEN 'male' THEN 'm' END AS g, COUNT(*) FROM health.heart GROUP BY g",
    "SELECT COUNT(*) FROM health.heart WHERE NOT age = 50 AND NOT sex IS NULL OR smoker",
    "SELECT COUNT(*) FROM health.heart WHERE NOT (age BETWEEN 20 AND 40) AND age NOT IN (50, 51)",
    "SELECT COUNT(*) FROM health.heart WHERE age NOT BETWEEN 20 AND 40 OR visits = -1 AND smoker IS NOT NULL",
    "SELECT COUNT(*) FROM health.heart WHERE age = visits IS NULL OR age IN (1, 2) = smoker AND age > 5 IS NOT NULL",
    "SELECT COUNT(*) FROM health.heart WHERE NOT smoker = TRUE OR smoker = age BETWEEN 1 AND 50",
    "SELECT COUNT(*) FROM health.heart WHERE smoker IS TRUE",
    "SELECT COUNT(*) FROM health.heart WHERE smoker IS NOT TRUE",
    "SELECT COUNT(*) FROM health.heart WHERE (age > 50) IS FALSE",
    "SELECT COUNT(*) FROM health.heart WHERE smoker = TRUE AND sex <> 'male' AND sex != 'female'",
    "SELECT COUNT(*) FROM health.heart WHERE seen >= DATE '2024-03-01' AND came < TIMESTAMP '2024-03-01 12:30:00'",
    "SELECT COUNT(*) FROM health.heart WHERE seen >= '2024-03-01' AND seen < '2024-04-01'::DATE",
    "SELECT COUNT(*) FROM health.heart WHERE city = 'O''Hara' OR city = '東京'",
    "SELECT COUNT(*) FROM health.heart WHERE dose = 4.50 OR dose = .1 OR chol > 1e1",
    "SELECT SUM(-age + 2 * visits - 1), SUM(age * dose), AVG(age / 2) FROM health.heart",
    "SELECT SUM(ROUND(dose, 1)), SUM(round(chol * 2)) FROM health.heart",
    "SELECT SUM(CASE WHEN sex = 'male' THEN dose ELSE 0 END), SUM(CASE age WHEN 5 THEN 1 END) FROM health.heart",
    "SELECT SUM(CASE WHEN age > 50 THEN visits ELSE NULL END), SUM(age > 50) FROM health.heart",
    "SELECT COVAR_SAMP(age, chol), covar_pop(age, chol), CORR(age, visits) FROM health.heart",
    "SELECT VARIANCE(age), stddev(age), MEAN(age), stddev_samp(chol) FROM health.heart WHERE age > 1000",
    "SELECT SUM(age), COUNT(age), COUNT(*) FROM health.heart WHERE age IS NULL",
    "SELECT sex, SUM(age) FROM health.heart WHERE age > 1000 GROUP BY sex",
    "SELECT sex FROM health.heart GROUP BY sex HAVING COUNT(*) > 100 AND AVG(age) IS NOT NULL",
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex HAVING n > 20 AND sex <> 'male'",
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex HAVING sex = 'male' OR sex IS NULL",
    "SELECT sex, COUNT(*) FROM health.heart GROUP BY sex HAVING CASE WHEN sex IS NULL THEN 1 ELSE 2 END = 1",
    "SELECT smoker, COUNT(*) FROM health.heart GROUP BY smoker HAVING NOT smoker OR COUNT(*) / 2 > 10000",
    "SELECT AVG(age) AS stage, COUNT(*) FROM health.heart GROUP BY heart.stage HAVING stage > 2 OR heart.stage = 1",
    "SELECT COUNT(*) FROM health.heart HAVING COUNT(*) > 1000",
    "SELECT COUNT(*) FROM health.heart HAVING SUM(visits) + 1 > COUNT(*) * -5 AND ROUND(AVG(age), 1) > 0.5",
    "SELECT COUNT(*) /* a comment */ FROM health.heart -- and another\n WHERE age > 3;",
    # patterns
    "SELECT COUNT(*) FROM health.heart WHERE sex LIKE '%male' AND city NOT LIKE 'K_ln'",
    "SELECT COUNT(*) FROM health.heart WHERE sex NOT LIKE 'z%'",
    "SELECT COUNT(*) FROM health.heart WHERE NOT (sex LIKE 'fe%') OR city ILIKE '%HARA' OR city LIKE '<_>'",
    "SELECT COUNT(*) FROM health.heart WHERE city LIKE '_!%' ESCAPE '!' OR sex LIKE '%' OR sex LIKE ''",
    "SELECT sex AS s, COUNT(*) FROM health.heart GROUP BY s HAVING s LIKE 'f%'",
    "SELECT CASE WHEN age < 30 THEN 'young' ELSE 'old' END AS g, COUNT(*) FROM health.heart GROUP BY g"
    " HAVING g NOT ILIKE 'Y%'",
    # what is spelt out in CASE
    "SELECT SUM(COALESCE(age, visits, 0)), AVG(COALESCE(chol, 7, dose, age)) FROM health.heart",
    "SELECT SUM(NULLIF(visits, 3)), COUNT(NULLIF(visits, age)), SUM(NULLIF(age, stage)) FROM health.heart",
    "SELECT SUM(ABS(visits)), SUM(ABS(chol - age)), SUM(ABS(-2)) FROM health.heart",
    "SELECT SUM(GREATEST(age, visits, stage)), SUM(LEAST(chol, 5, dose)), SUM(greatest(1, 2)) FROM health.heart",
    "SELECT COUNT(*) FROM health.heart WHERE COALESCE(smoker, age > 60, TRUE) AND NULLIF(stage, 2) = 1",
    "SELECT COUNT(*) FROM health.heart WHERE IF(sex = 'male', age > 40, smoker)",
    "SELECT COUNT(*) FROM health.heart WHERE CASE WHEN sex IS NULL THEN TRUE WHEN stage = 1 THEN smoker END",
    "SELECT SUM(COALESCE(5, age)), SUM(COALESCE(smoker, 2)) FROM health.heart",
    "SELECT COALESCE(smoker, FALSE) AS s, COUNT(*) FROM health.heart GROUP BY s",
    "SELECT COALESCE(sex, 'unknown') AS s, COUNT(*) FROM health.heart GROUP BY s",
    "SELECT COALESCE(NULLIF(sex, 'male'), city, 'x') AS s, COUNT(*) FROM health.heart GROUP BY s",
    "SELECT COALESCE(sex, 'male'), NULLIF(city, 'Köln'), COUNT(*) FROM health.heart GROUP BY ALL",
    "SELECT SUM(IF(smoker, age, 0)), SUM(IF(sex = 'male', 1, visits)) FROM health.heart",
    "SELECT IF(age > 40, 'old', 'young') AS g, COUNT(*) FROM health.heart GROUP BY g",
    "SELECT sex, COALESCE(SUM(age) / NULLIF(COUNT(*), 0), 0), ABS(AVG(visits) - AVG(age)), COALESCE(sex, 'none')"
    " FROM health.heart GROUP BY sex HAVING GREATEST(COUNT(age), 3) > 5",
    "SELECT COUNT(*) FROM health.heart WHERE stage IS DISTINCT FROM visits AND sex IS NOT DISTINCT FROM 'male'",
    "SELECT COUNT(*) FROM health.heart WHERE (smoker IS DISTINCT FROM TRUE) AND age IS NOT DISTINCT FROM NULL",
    "SELECT COUNT(*) FROM health.heart WHERE NOT (stage IS NOT DISTINCT FROM visits) OR sex IS DISTINCT FROM NULL",
    # FILTER
    "SELECT COUNT(*) FILTER (WHERE age > 50), COUNT(age) FILTER (WHERE smoker), COUNT(sex) FILTER (WHERE age > 9)"
    " FROM health.heart",
    "SELECT sex, AVG(age) FILTER (WHERE smoker) AS a, SUM(dose) FILTER (WHERE NOT smoker) / COUNT(*) AS d"
    " FROM health.heart GROUP BY sex HAVING COUNT(*) FILTER (WHERE smoker) > 3",
    "SELECT CORR(age, chol) FILTER (WHERE city = 'Köln'), VAR_POP(age) FILTER (WHERE age > 1000) FROM health.heart",
    # parts of dates
    "SELECT YEAR(seen) AS y, COUNT(*) FROM health.heart GROUP BY y",
    "SELECT EXTRACT(month FROM came), COUNT(*) FROM health.heart GROUP BY 1 HAVING EXTRACT(month FROM came) > 1",
    "SELECT MONTH(seen), date_part('quarter', seen) AS q, AVG(age) FROM health.heart GROUP BY ALL",
    "SELECT COUNT(*), AVG(QUARTER(came)) FROM health.heart WHERE MONTH(seen) IN (2, 4) AND YEAR(came) = 2024",
    "SELECT COUNT(*) FROM health.heart WHERE seen < DATE '2024-03-01' + 10 AND seen >= DATE '2024-03-20' - 20 - 1",
    "SELECT COUNT(*) FROM health.heart WHERE age > DATE '2024-03-31' - DATE '2024-03-01'",
    # totals over groups
    "SELECT sex, COUNT(*), SUM(age), AVG(chol), VAR_SAMP(age), CORR(age, chol) FROM health.heart GROUP BY ROLLUP(sex)",
    "SELECT sex, city, smoker, COUNT(*) AS n FROM health.heart GROUP BY CUBE(sex, city, smoker)",
    "SELECT sex, city, COUNT(*), AVG(age) FROM health.heart GROUP BY GROUPING SETS ((sex, city), (city), (), (sex))",
    "SELECT sex, city, COUNT(*), STDDEV(age) FROM health.heart GROUP BY GROUPING SETS (ROLLUP(sex, city), city, city)",
    "SELECT sex, city, stage, COUNT(*) FROM health.heart GROUP BY city, ROLLUP((sex, stage))",
    "SELECT sex, GROUPING(sex) AS g, GROUPING(city, sex) AS b, COUNT(*) FROM health.heart GROUP BY CUBE(sex, city)",
    "SELECT CASE WHEN GROUPING(sex) = 1 THEN 'all' ELSE sex END AS who, SUM(age) / COUNT(*) AS r FROM health.heart"
    " GROUP BY ROLLUP(sex)",
    "SELECT sex, COUNT(*) FROM health.heart GROUP BY ROLLUP(sex) HAVING GROUPING(sex) = 0 OR COUNT(*) > 5",
    "SELECT date_trunc('month', seen) AS m, age > 50 AS old, SUM(visits) FROM health.heart GROUP BY ROLLUP(m, 2)",
    "SELECT sex, COUNT(*) FROM health.heart WHERE age > 1000 GROUP BY ROLLUP(sex)",
    "SELECT COUNT(*) FROM health.heart GROUP BY ()",
    "SELECT sex, city, GROUPING(sex), COUNT(*) FROM health.heart WHERE city <> 'Köln' GROUP BY sex, city",
    # medians of columns with few possible values
    "SELECT MEDIAN(age), median(visits) FROM health.heart",
    "SELECT sex, COUNT(*), MEDIAN(stage) FILTER (WHERE smoker), MEDIAN(age + visits) - AVG(age) AS x FROM health.heart"
    " GROUP BY ROLLUP(sex)",
    "SELECT MEDIAN(age) FROM health.heart WHERE age > 1000",
    # the least-squares line
    "SELECT sex, REGR_SLOPE(chol, age), REGR_INTERCEPT(chol, age), REGR_R2(chol, age), REGR_COUNT(chol, age)"
    " FROM health.heart GROUP BY sex",
    "SELECT REGR_AVGX(chol, age), REGR_AVGY(chol, age), REGR_SXX(chol, age), REGR_SYY(chol, age), REGR_SXY(chol, age)"
    " FROM health.heart",
    "SELECT city, regr_slope(dose, visits) + 0, regr_r2(visits, dose) FROM health.heart GROUP BY ROLLUP(city)",
    "SELECT REGR_SLOPE(age, 3), REGR_INTERCEPT(age, 3), REGR_R2(age, 3), REGR_R2(3, age), REGR_SLOPE(3, age)"
    " FROM health.heart",
    "SELECT REGR_SLOPE(age, chol), REGR_SXX(age, chol), REGR_COUNT(age, chol) FROM health.heart WHERE age > 1000",
    # computed from aggregates
    "SELECT sex, SUM(visits) / COUNT(*) AS rate, COUNT(*) - COUNT(age) FROM health.heart GROUP BY sex",
    "SELECT smoker, ROUND(AVG(age) - AVG(visits) * 2, 1), -COUNT(*) FROM health.heart GROUP BY smoker",
    "SELECT SUM(age) / SUM(visits - visits), AVG(age) + SUM(CASE WHEN age > 1000 THEN 1 END) FROM health.heart",
    "SELECT COUNT(*) > 10 AND AVG(age) < 3, COUNT(age) IS NULL, COUNT(*) BETWEEN 1 AND 9 FROM health.heart",
    "SELECT sex, CASE WHEN COUNT(*) > 110 THEN 'many' WHEN sex IS NULL THEN 'unknown' ELSE 'few' END AS size"
    " FROM health.heart GROUP BY sex",
    "SELECT stage, stage * 2 + COUNT(*), stage + 1, stage IS NULL FROM health.heart GROUP BY stage",
    "SELECT sex, AVG(age) / 2 AS half FROM health.heart GROUP BY sex HAVING half > 10 AND SUM(age) / 2 > half",
]

ORDERED = [
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex ORDER BY sex",
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex ORDER BY sex DESC",
    "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex ORDER BY sex DESC NULLS FIRST",
    "SELECT sex, smoker, COUNT(*) FROM health.heart GROUP BY ALL ORDER BY smoker DESC, 1",
    "SELECT city, stage, AVG(age) FROM health.heart GROUP BY ALL ORDER BY AVG(age) DESC, city LIMIT 5 OFFSET 2",
    "SELECT city FROM health.heart GROUP BY city ORDER BY SUM(visits) * -1, city LIMIT 3",
    "SELECT date_trunc('month', seen), COUNT(*) FROM health.heart GROUP BY 1 ORDER BY date_trunc('month', seen) DESC",
    "SELECT age > 50 AS old, COUNT(*) FROM health.heart GROUP BY old ORDER BY age > 50 LIMIT 2",
    "SELECT city, COUNT(*) FROM health.heart GROUP BY city ORDER BY city LIMIT 0",
    "SELECT sex, SUM(age) / COUNT(*) AS rate, COUNT(*) FROM health.heart GROUP BY sex ORDER BY rate DESC, 3",
    "SELECT sex, -COUNT(*) FROM health.heart GROUP BY sex ORDER BY 2 LIMIT 2",
    "SELECT city, COUNT(*) FROM health.heart GROUP BY city ORDER BY AVG(age) - AVG(visits), city",
    "SELECT MONTH(seen) AS m, COUNT(*) FROM health.heart GROUP BY m ORDER BY m DESC",
    "SELECT city, stage, COUNT(*) FROM health.heart GROUP BY ROLLUP(city, stage)"
    " ORDER BY GROUPING(city, stage), city, stage DESC LIMIT 9",
    "SELECT city AS sex, sex AS city, COUNT(*) FROM health.heart GROUP BY ALL ORDER BY sex DESC, heart.sex",
]


@pytest.mark.parametrize("sql", QUESTIONS)
def test_answers_like_duckdb(sql: str) -> None:
    _assert_like_duckdb(sql)


@pytest.mark.parametrize("sql", ORDERED)
def test_orders_like_duckdb(sql: str) -> None:
    _assert_like_duckdb(sql, ordered=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sex, COUNT(*), count(age), AVG(chol) AS a, SUM(age + 1) FROM health.heart GROUP BY sex",
        "SELECT age > 50, Sex FROM health.heart GROUP BY ALL",
        "SELECT covar_pop(age, chol), VAR_POP(visits) FROM health.heart",
    ],
)
def test_titles_like_duckdb(sql: str) -> None:
    assert list(query_of(sql).columns) == truth(sql)[0]


# --- generated questions ----------------------------------------------------------------------------------------

_PLAIN_NUMBERS = ["age", "visits", "chol", "dose", "stage", "7", "-2", "0.5", "12.25", "0", "ABS(visits - stage)"]
_CHOSEN = ["COALESCE(age, visits)", "NULLIF(stage, 2)", "GREATEST(age, chol, 3)", "LEAST(stage, visits)", "MONTH(seen)"]
_NUMBERS = st.sampled_from([*_PLAIN_NUMBERS, *_CHOSEN])
_VALUES = st.one_of(
    _NUMBERS,
    st.tuples(_NUMBERS, st.sampled_from(["+", "-", "*"]), _NUMBERS).map(" ".join),
    st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(lambda x: f"{x[0]} - {x[1]} * {x[2]}"),
    st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(lambda x: f"-({x[0]} + {x[1]}) - {x[2]}"),
    st.tuples(_NUMBERS, _NUMBERS).map(lambda x: f"CASE WHEN smoker THEN {x[0]} WHEN sex = 'male' THEN {x[1]} END"),
)
_COMPARISONS = st.tuples(_VALUES, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), _VALUES).map(" ".join)
_TESTS = st.one_of(
    _COMPARISONS,
    st.sampled_from(["smoker", "sex = 'male'", "city <> '東京'", "smoker IS NULL", "smoker IS NOT FALSE", "TRUE"]),
    st.sampled_from(["seen < '2024-03-05'", "sex NOT IN ('male')", "city IN ('Köln', '<b>')", "came IS NOT NULL"]),
    st.tuples(_VALUES, _NUMBERS, _NUMBERS).map(lambda x: f"{x[0]} BETWEEN {x[1]} AND {x[2]}"),
    st.tuples(_NUMBERS, _NUMBERS, _NUMBERS).map(lambda x: f"{x[0]} NOT IN ({x[1]}, {x[2]})"),
    _NUMBERS.map(lambda x: f"{x} + 1 IS NULL"),
    st.sampled_from(["sex LIKE '%_male'", "sex NOT LIKE 'm%'", "city NOT ILIKE 'k_ln%'", "COALESCE(smoker, age > 60)"]),
    st.tuples(_NUMBERS, st.sampled_from(["", "NOT "]), _NUMBERS).map(
        lambda x: f"({x[0]} IS {x[1]}DISTINCT FROM {x[2]})"
    ),
)
_CONDITIONS = st.recursive(
    _TESTS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(" ".join),
        inner.map(lambda x: f"NOT {x}"),
        inner.map(lambda x: f"({x})"),
        inner.map(lambda x: f"({x}) IS NOT TRUE"),
    ),
    max_leaves=5,
)
_GROUPS = st.lists(
    st.sampled_from(
        [
            "sex",
            "smoker",
            "city",
            "stage",
            "age > 40",
            "chol * 2 < age",
            "width_bucket(age, 0, 120, 3)",
            "width_bucket(dose, 1, 2.5, 4)",
            "date_trunc('quarter', seen)",
            "CASE WHEN age < 30 THEN 'a' WHEN smoker THEN 'b' END",
            "IF(city LIKE '%a', 'with', 'without')",
            "COALESCE(sex, 'unknown')",
            "QUARTER(came)",
        ]
    ),
    max_size=2,
    unique=True,
)
_FUNCTIONS = st.sampled_from(["COUNT", "SUM", "AVG", "VAR_SAMP", "VAR_POP", "STDDEV", "MEAN"])
_ONE = st.one_of(
    st.just("COUNT(*)"),
    st.tuples(_FUNCTIONS, _VALUES).map(lambda x: f"{x[0]}(({x[1]}) * 1)"),
    st.tuples(_FUNCTIONS, _NUMBERS, _TESTS).map(lambda x: f"{x[0]}(1 * {x[1]}) FILTER (WHERE {x[2]})"),
    st.tuples(st.sampled_from(["SLOPE", "INTERCEPT", "R2", "COUNT", "SXY"]), _NUMBERS, _NUMBERS).map(
        lambda x: f"REGR_{x[0]}(1 * {x[1]}, 1 * {x[2]})"
    ),
)
_AGGREGATES = st.one_of(
    _ONE,
    st.tuples(_ONE, st.sampled_from(["+", "-", "/"]), _ONE).map(" ".join),
    st.tuples(_ONE, _ONE).map(lambda x: f"COALESCE({x[0]}, ABS({x[1]}), 0)"),
)
_SETS = st.sampled_from(["{}", "ROLLUP ({})", "CUBE ({})", "GROUPING SETS (({}), ())"])
_HAVING = st.sampled_from(
    ["", " HAVING COUNT(*) > 9", " HAVING SUM(visits) > 20 OR AVG(age) < 55.5 AND COUNT(age) <> 3"]
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    groups=_GROUPS,
    outputs=st.lists(_AGGREGATES, min_size=1, max_size=3),
    where=st.one_of(st.just(""), _CONDITIONS.map(lambda x: f" WHERE {x}")),
    having=_HAVING,
    sets=_SETS,
)
def test_generated_questions_answer_like_duckdb(
    groups: list[str], outputs: list[str], where: str, having: str, sets: str
) -> None:
    grouped = f" GROUP BY {sets.format(', '.join(f'({key})' for key in groups))}" if groups else ""
    levels = [f"GROUPING({key})" for key in groups]
    items = [f"{item} AS c{place}" for place, item in enumerate([*groups, *levels, *outputs])]
    _assert_like_duckdb(f"SELECT {', '.join(items)} FROM health.heart{where}{grouped}{having}")


@pytest.mark.parametrize("sql", [*QUESTIONS, *ORDERED])
def test_how_a_result_is_shown_can_be_kept(sql: str) -> None:
    presentation = query_of(sql).presentation
    assert _presentations().validate_json(_presentations().dump_json(presentation)) == presentation


# --- the same plan as the Python API ----------------------------------------------------------------------------


def _pairs() -> list[tuple[str, Plan]]:
    heart = table()
    young = case((heart.age < 30, "young"), otherwise="old")
    return [
        (
            "SELECT sex, COUNT(*) AS n, AVG(chol) AS chol FROM health.heart WHERE age > 50 GROUP BY sex",
            heart.filter(heart.age > 50).group_by("sex").agg(n=count(), chol=mean("chol")).plan(),
        ),
        (
            "SELECT SUM(dose * 2.50) AS s FROM health.heart WHERE age BETWEEN 1 AND 9 AND smoker AND sex IN ('male')",
            heart.filter(heart.age.between(1, 9), heart.smoker, heart.sex.isin(["male"]))
            .agg(s=total(heart.dose * 2.5))
            .plan(),
        ),
        (
            "SELECT age > 50, COUNT(*) AS n FROM health.heart GROUP BY 1 HAVING n > 5 ORDER BY 1 LIMIT 1",
            heart.group_by(heart.age > 50).agg(n=count()).plan(),
        ),
        (
            "SELECT width_bucket(age, 0, 100, 5), date_trunc('MONTH', seen) AS m, CASE WHEN age < 30 THEN 'young' "
            "ELSE 'old' END AS g, VAR_POP(age) AS v FROM health.heart GROUP BY ALL",
            heart.group_by(width_bucket("age", 0, 100, 5), date_trunc("month", heart.seen).alias("m"), young.alias("g"))
            .agg(v=variance("age", population=True))
            .plan(),
        ),
        (
            "SELECT COUNT(*) AS n FROM health.heart WHERE came >= TIMESTAMP '2024-01-01 10:00:00' AND seen IS NOT NULL"
            " AND NOT smoker IS TRUE OR age IN (1, 2, -3)",
            heart.filter(
                (col("came") >= datetime(2024, 1, 1, 10))
                & heart.seen.notnull()
                & ~(heart.smoker.notnull() & heart.smoker)
                | heart.age.isin([1, 2, -3])
            )
            .agg(n=count())
            .plan(),
        ),
    ]


@pytest.mark.parametrize("number", range(5))
def test_sql_and_python_give_the_same_plan(number: int) -> None:
    sql, plan = _pairs()[number]
    assert parse(sql, schema_of)[0].digest() == plan.digest()


def test_layout_case_and_comments_do_not_change_the_plan() -> None:
    one = "SELECT sex, COUNT(*) AS n FROM health.heart WHERE (age > 50) GROUP BY sex"
    other = 'select SEX, /* how many */ count ( * ) n\nfrom HEALTH."heart" h\nwhere h.AGE>50.0 group by 1'
    assert parse(one, schema_of)[0] == parse(other, schema_of)[0]


def test_what_is_local_never_leaves() -> None:
    bare = "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex"
    local = f"{bare} HAVING n > 5 AND sex IS NOT NULL ORDER BY n DESC LIMIT 3 OFFSET 1"
    assert parse(local, schema_of)[0] == parse(bare, schema_of)[0]


def test_an_aggregate_that_is_only_in_having_is_asked_for_but_hidden() -> None:
    query = query_of("SELECT sex FROM health.heart GROUP BY sex HAVING AVG(age) > 5")
    assert [output.name for output in query.plan().outputs] == ["avg_age"] and query.columns == ("sex",)


def test_every_sql_name_of_every_statistic_is_known() -> None:
    arguments = {"COUNT": "age", "HISTOGRAM": "age, 0, 100, 10", "MEDIAN": "age", "APPROX_QUANTILE": "age, 0.9"}
    for kind in STATISTICS.values():
        fields = [name for name, info in kind.model_fields.items() if name != "statistic" and info.is_required()]
        for name in kind.sql:
            wanted = arguments.get(name, ", ".join(["age", "visits", "dose"][: len(fields)]))
            query = query_of(f"SELECT {name}({wanted}) AS x FROM health.heart")
            assert type(query.plan().outputs[0].statistic) is kind


# --- names ------------------------------------------------------------------------------------------------------


def test_any_title_gets_a_plan_name() -> None:
    query = query_of(
        'SELECT sex AS "Größe; --", COUNT(*) AS "日本", COUNT(*) AS "日本", AVG(age) "1" FROM heart GROUP BY 1'
    )
    assert query.columns == ("Größe; --", "日本", "日本_1", "1")
    assert [part.name for part in (*query.plan().groups, *query.plan().outputs)] == ["Gr_e", "_", "__2", "_1"]


def _withheld_but_first(query: Query) -> Result:
    """All cells but the first are withheld."""
    sent = np.zeros((query.program.cells, len(query.program.sums)), dtype=bool)
    sent[0] = True
    return query.result(Released(grouped_sums(query.program, rows()), sent))


def test_what_is_computed_from_withheld_aggregates_is_withheld() -> None:
    sql = "SELECT sex, SUM(age) / COUNT(*) AS rate, CASE WHEN COUNT(*) > 5 THEN 1 ELSE 0 END, COUNT(*) IS NULL"
    result = _withheld_but_first(query_of(f"{sql} FROM heart GROUP BY sex"))
    assert result[0] == answer(query_of(f"{sql} FROM heart GROUP BY sex"))[0]
    assert [row[1:] for row in result[1:]] == [(WITHHELD, WITHHELD, WITHHELD)] * 2
    assert [one["reason"] for one in result.withheld] == ["cell_withheld"] * 2
    kept = _withheld_but_first(query_of(f"{sql} FROM heart GROUP BY sex HAVING rate > 0"))
    assert kept["sex"] == ["female"]


def test_the_noise_of_a_computed_column_is_that_of_its_sums() -> None:
    query = query_of(
        "SELECT AVG(age), SUM(age) / COUNT(age), COUNT(*) * 2 - COUNT(*) AS n, COUNT(*), COUNT(*) > 9,"
        " CASE WHEN COUNT(*) > 9 THEN 1 END FROM heart"
    )
    variances = [900] * len(query.program.sums)
    (width,) = query.result(
        Released(grouped_sums(query.program, rows()), None, NoiseTerms(rho=5000, cells_per_subject=1), variances)
    ).plus_minus
    assert width[1] == pytest.approx(width[0], rel=1e-9)
    assert width[2] == pytest.approx(width[3]) and width[3] == pytest.approx(1.959964 * 30)
    assert width[4:] == (None, None)


@pytest.mark.parametrize("nested", ["ABS(%s)", "GREATEST(%s, visits, stage, 3)", "COALESCE(%s, visits)"])
def test_functions_that_are_spelt_out_stay_small(nested: str) -> None:
    inner = "age"
    for _ in range(25):
        inner = nested % inner
    with pytest.raises(PlanTooLarge):
        query_of(f"SELECT SUM({inner}) FROM heart")


def test_a_pattern_takes_no_time_that_grows_with_its_wildcards() -> None:
    assert matching("%a" * 40 + "b", ("a" * 300,), escape="", ignore_case=False) == []
    assert matching("a%b%c", ("abc", "a--b--c", "acb", "abcd"), escape="", ignore_case=False) == ["abc", "a--b--c"]
    assert matching("%ab%ab", ("abab", "ab", "xabxab"), escape="", ignore_case=False) == ["abab", "xabxab"]
    assert matching("5!%_", ("5%x", "50x", "5!x"), escape="!", ignore_case=False) == ["5%x"]


def test_dates_over_a_very_long_time_have_no_months() -> None:
    born = {"name": "born", "type": "date", "minimum": "0001-01-01", "maximum": "9999-12-31"}
    seen = {"name": "seen", "type": "date"}
    people = Schema.from_plain({"table": "people", "columns": [born, seen]})
    with pytest.raises(UnsupportedSQL, match="so long a time"):
        parse("SELECT MONTH(born), COUNT(*) FROM people GROUP BY 1", lambda _: people)
    with pytest.raises(UnboundedColumn):
        parse("SELECT YEAR(seen), COUNT(*) FROM people GROUP BY 1", lambda _: people)
    with pytest.raises(BadSQL, match="beyond the calendar"):
        parse("SELECT COUNT(*) FROM people WHERE born < DATE '9999-12-31' + 1", lambda _: people)


def test_a_total_over_a_withheld_cell_is_withheld() -> None:
    """One of four cells is: so are the two totals that it is a part of, and no other."""
    sql = "SELECT sex, age > 50 AS old, COUNT(*) AS n FROM heart WHERE age IS NOT NULL AND sex IS NOT NULL GROUP BY"
    query = query_of(f"{sql} ROLLUP(old, sex)")
    sent = np.ones((query.program.cells, len(query.program.sums)), dtype=bool)
    labels = list(query.program.labels())
    sent[labels.index(("true", "male"))] = False
    result = query.result(Released(grouped_sums(query.program, rows()), sent))
    exact = {row[:2]: row[2] for row in answer(query)}
    withheld = {("male", True), (None, True), (None, None)}
    assert {row[:2]: row[2] for row in result if row[2] is not WITHHELD} == {
        key: n for key, n in exact.items() if key not in withheld
    }
    assert {row[:2] for row in result if row[2] is WITHHELD} == withheld
    assert exact[None, None] == sum(exact[sex, old] for sex in ("female", "male") for old in (False, True))


def test_the_noise_of_a_total_is_that_of_all_its_cells() -> None:
    query = query_of("SELECT city, COUNT(*), AVG(visits) + 0 FROM heart GROUP BY ROLLUP(city)")
    noise, variances = NoiseTerms(rho=5000, cells_per_subject=1), [25] * len(query.program.sums)
    result = query.result(Released(grouped_sums(query.program, rows()), None, noise, variances))
    assert [row[1] for row in result.plus_minus] == pytest.approx([5 * 1.959964] * 4 + [10 * 1.959964])
    assert [row[0] for row in result.rows][-1] is None and result["count_star()"][-1] == len(rows())


def test_grouping_sets_are_limited() -> None:
    cube = "CUBE(sex, city, smoker, stage, day)"
    with pytest.raises(PlanTooLarge, match="grouping sets"):
        query_of(f"SELECT COUNT(*) FROM heart GROUP BY {cube}, {cube}")


@pytest.mark.parametrize("q", ["0", "0.1", "0.25", "0.9", "0.99", "1"])
def test_quantiles_are_exact_for_few_values_and_within_half_a_bin_for_many(q: str) -> None:
    result = answer(query_of(f"SELECT APPROX_QUANTILE(age, {q}) AS age, APPROX_QUANTILE(chol, {q}) AS chol FROM heart"))
    _, ((age, chol),) = truth(f"SELECT quantile_cont(age, {q}), quantile_cont(chol::DOUBLE, {q}) FROM health.heart")
    assert result["age"] == [pytest.approx(age, rel=1e-12)]
    assert abs(result["chol"][0] - chol) <= 0.45
    assert result.remarks == ("Note: chol is read from bins 0.9 wide: off by at most 0.45.",)
    assert result.remarks[0] in repr(result)


def test_a_quantile_has_the_bins_that_were_asked_for() -> None:
    made = {
        sql: query_of(f"SELECT {sql} AS m FROM heart").asked.outputs[0].statistic
        for sql in ("MEDIAN(age)", "MEDIAN(age, 12)", "MEDIAN(age, 20, 80, 3)", "APPROX_QUANTILE(dose, 0.25, 10)")
    }
    bins = {sql: (one.low.value, one.high.value, one.bins, one.inside) for sql, one in made.items()}
    assert bins == {
        "MEDIAN(age)": ("-0.5", "120.5", 121, True),
        "MEDIAN(age, 12)": ("-0.5", "120.5", 11, True),
        "MEDIAN(age, 20, 80, 3)": ("20", "80", 3, False),
        "APPROX_QUANTILE(dose, 0.25, 10)": ("-0.005", "9.095", 10, True),
    }


def test_a_quantile_beside_a_withheld_bin_is_withheld() -> None:
    query = query_of("SELECT MEDIAN(age, 3) AS m, COUNT(*) AS n FROM heart")
    sent = np.ones((1, len(query.program.sums)), dtype=bool)
    sent[0, query.program.uses[0].sums[2]] = False
    result = query.result(Released(grouped_sums(query.program, rows()), sent))
    assert result[0] == (WITHHELD, len(rows()))
    assert "name few bins" in repr(result)


def test_a_quantile_read_from_noisy_bins_has_no_interval() -> None:
    query = query_of("SELECT MEDIAN(age), MEDIAN(age) + 1, COUNT(*) FROM heart")
    noise, variances = NoiseTerms(rho=5000, cells_per_subject=1), [4] * len(query.program.sums)
    result = query.result(Released(grouped_sums(query.program, rows()), None, noise, variances))
    assert result.plus_minus == [(None, None, pytest.approx(2 * 1.959964))]


def test_computed_columns_are_chosen_by_their_titles_in_python() -> None:
    query = query_of("SELECT sex, SUM(age) / COUNT(*) AS rate FROM heart GROUP BY sex")
    sorted_rows = answer(query.order_by("rate"))
    assert sorted_rows["rate"] == sorted(sorted_rows["rate"])
    assert len(answer(query.having(col("rate") > sorted_rows["rate"][0]))) == len(sorted_rows) - 1
    with pytest.raises(BadQuestion, match="nearest is rate"):
        query.order_by("ratee")


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(UnknownColumn, match="nearest name is age"):
        query_of("SELECT COUNT(*) FROM heart WHERE agee > 5")
    with pytest.raises(UnknownTable, match=r"nearest name is health\.heart"):
        query_of("SELECT COUNT(*) FROM health.hart")
    with pytest.raises(UnknownTable):
        query_of("SELECT COUNT(*) FROM heart h WHERE x.age > 5")
    with pytest.raises(UnknownTable):
        query_of("SELECT COUNT(*) FROM '/etc/passwd'")
    with pytest.raises(UnknownCategory, match="nearest value is male"):
        query_of("SELECT COUNT(*) FROM heart WHERE sex = 'Male'")


def test_subjects_are_counted_under_a_name_that_is_no_column():
    query = query_of("SELECT sex, COUNT(DISTINCT Subject) n FROM heart GROUP BY sex HAVING COUNT(DISTINCT subject) > 5")
    (output,) = query.asked.outputs
    assert (output.name, output.statistic) == ("n", ceiba.statistics.statistic("subjects")())
    column = {"name": "subject", "type": "int", "domain": [1, 2]}
    taught = Schema.from_plain({"table": "lessons", "columns": [column]})
    with pytest.raises(UnsupportedSQL, match="DISTINCT"):
        parse("SELECT COUNT(DISTINCT subject) FROM lessons", lambda _: taught)


# --- what is refused, and where ---------------------------------------------------------------------------------

REFUSED = [
    ("SELECT COUNT(*) FROM heart a LEFT §JOIN heart b ON a.age = b.age", "A join"),
    ("SELECT COUNT(*) FROM heart a, §heart b", "A join"),
    ("SELECT COUNT(*) FROM (§SELECT * FROM heart)", "A subquery"),
    ("SELECT COUNT(*) FROM heart WHERE age IN (§SELECT 1)", "A subquery"),
    ("SELECT COUNT(*) FROM heart\nWHERE age >\n  (§SELECT AVG(age) FROM heart)", "A subquery"),
    ("SELECT COUNT(*) FROM heart WHERE §EXISTS (SELECT 1)", "EXISTS"),
    ("§WITH x AS (SELECT 1) SELECT COUNT(*) FROM x", "WITH"),
    ("SELECT COUNT(*) FROM heart §UNION ALL SELECT 1", "UNION"),
    ("SELECT COUNT(*) FROM heart §INTERSECT SELECT 1", "INTERSECT"),
    ("SELECT COUNT(*) FROM heart §EXCEPT SELECT 1", "EXCEPT"),
    ("SELECT §DISTINCT sex FROM heart", "DISTINCT"),
    ("SELECT COUNT(§DISTINCT sex) FROM heart", "DISTINCT"),
    ("SELECT COUNT(§DISTINCT subject, sex) FROM heart", "DISTINCT"),
    ("SELECT COUNT(§DISTINCT heart.subject) FROM heart", "DISTINCT"),
    ("SELECT SUM(§DISTINCT subject) FROM heart", "DISTINCT"),
    ("SELECT SUM(age) §OVER () FROM heart", "A window function"),
    ("SELECT sex, SUM(age) §OVER (PARTITION BY sex) FROM heart GROUP BY ALL", "A window function"),
    ("SELECT COUNT(DISTINCT subject) §FILTER (WHERE age > 5) FROM heart", "FILTER with"),
    ("SELECT ROUND(age) §FILTER (WHERE age > 5) FROM heart", "FILTER here"),
    ("SELECT SUM(age) FILTER (WHERE §AVG(age) > 5) FROM heart", "The aggregate AVG here"),
    ("SELECT §MIN(age) FROM heart", "The function MIN"),
    ("SELECT sex,\n       §max(age) FROM heart GROUP BY sex", "The function MAX"),
    ("SELECT §mode(age) FROM heart", "The function MODE"),
    ("SELECT percentile_cont(0.5) §WITHIN GROUP (ORDER BY age) FROM heart", "WITHIN GROUP"),
    ("SELECT §MEDIAN(age / 3) FROM heart", "MEDIAN of what is no decimal number"),
    ("SELECT §quantile_cont(age, 0.5) FROM heart", "The function QUANTILE_CONT"),
    ("SELECT §* FROM heart", "*"),
    ("SELECT heart.§* FROM heart", "*"),
    ("SELECT §age FROM heart", "age outside GROUP BY"),
    ("SELECT sex, §age, COUNT(*) FROM heart GROUP BY sex", "age outside GROUP BY"),
    ("SELECT §age + 1 FROM heart", "A computed value outside an aggregate"),
    ("SELECT sex, COUNT(*) FROM heart GROUP BY sex HAVING §age > 5", "age outside GROUP BY"),
    ("SELECT sex, COUNT(*) FROM heart GROUP BY sex ORDER BY §age", "age outside GROUP BY"),
    ("SELECT AVG(age) + §age FROM heart", "age outside GROUP BY"),
    ("SELECT ROUND(AVG(age) - SUM(age) §OVER ()) FROM heart", "A window function"),
    ("SELECT AVG(age) + §sqrt(COUNT(*)) FROM heart", "The function SQRT"),
    ("SELECT AVG(§SUM(age)) FROM heart", "The aggregate SUM here"),
    ("SELECT COUNT(*) FROM heart WHERE §COUNT(*) > 5", "The aggregate COUNT here"),
    ("SELECT COUNT(*) FROM heart GROUP BY §AVG(age)", "An aggregate in GROUP BY"),
    ("SELECT §evil(age) FROM heart", "The function EVIL"),
    ("SELECT COUNT(*) FROM heart WHERE §read_text('/etc/passwd') = 'x'", "The function READ_TEXT"),
    ("SELECT COUNT(*) FROM §read_csv('/etc/passwd')", "A table function"),
    ("SELECT COUNT(*) FROM heart WHERE §width_bucket(age, 0, 9, 2) = 1", "The function WIDTH_BUCKET here"),
    ("SELECT COUNT(*) FROM heart WHERE age > §?", "A parameter"),
    ("SELECT COUNT(*) FROM heart WHERE age > §$1", "A parameter"),
    ("SELECT COUNT(*) FROM heart; §DROP TABLE heart", "A second statement"),
    ("SELECT COUNT(*) FROM heart; §SELECT 1", "A second statement"),
    ("§DROP TABLE heart", "The statement DROP"),
    ("§INSERT INTO heart VALUES (1)", "The statement INSERT"),
    ("§update heart SET age = 1", "The statement UPDATE"),
    ("§COPY heart TO 'x'", "The statement COPY"),
    ("§PRAGMA database_list", "The statement PRAGMA"),
    ("§ATTACH 'x'", "The statement ATTACH"),
    ("§EXPLAIN SELECT 1", "The statement EXPLAIN"),
    ("§FROM heart", "FROM before SELECT"),
    ("§(SELECT 1)", "A statement in parentheses"),
    ("SELECT COUNT(*) FROM heart WHERE age §LIKE '5%'", "LIKE on anything but"),
    ("SELECT COUNT(*) FROM heart WHERE CASE WHEN smoker THEN 'a' END §ILIKE 'a'", "LIKE on anything but"),
    ("SELECT COUNT(*) FROM heart WHERE sex §LIKE city", "LIKE with this pattern"),
    ("SELECT COUNT(*) FROM heart GROUP BY EXTRACT(dow FROM §seen)", "The part DOW of a date"),
    ("SELECT SUM(§YEAR(seen + 1)) FROM heart", "A part of a computed date"),
    ("SELECT seen, COUNT(*) FROM heart GROUP BY ALL HAVING §YEAR(seen) = 2024", "A part of a date here"),
    ("SELECT COUNT(*) FROM heart GROUP BY §COALESCE(age, 0)", "A computed value outside an aggregate"),
    ("SELECT COUNT(*) FROM heart GROUP BY §COALESCE(sex, age)", "A computed value outside an aggregate"),
    ("SELECT COUNT(*) FROM heart WHERE age §% 2 = 1", "%"),
    ("SELECT COUNT(*) FROM heart WHERE age §// 2 = 1", "//"),
    ("SELECT COUNT(*) FROM heart WHERE sex §|| 'a' = 'b'", "||"),
    ("SELECT COUNT(*) FROM heart WHERE age = §NULL", "NULL as a value"),
    ("SELECT COUNT(*) FROM heart WHERE seen > §current_date", "CURRENT_DATE"),
    ("SELECT COUNT(*) FROM heart WHERE seen > DATE '2024-01-01' - §INTERVAL 1 DAY", "INTERVAL"),
    ("SELECT SUM(CAST(§age AS INT)) FROM heart", "CAST"),
    ("SELECT SUM(§CASE WHEN age > 1 THEN 'x' END) FROM heart", "A CASE with text here"),
    ("SELECT COUNT(*) FROM heart WHERE smoker = §age < visits", "A comparison of a condition without parentheses"),
    ("SELECT sex, COUNT(DISTINCT subject) FROM heart §GROUP BY ROLLUP (sex)", "COUNT(DISTINCT subject) with totals"),
    ("SELECT sex, COUNT(*) FROM heart GROUP BY sex WITH §ROLLUP", "ROLLUP here"),
    ("SELECT GROUPING(§age), COUNT(*) FROM heart GROUP BY sex", "age outside GROUP BY"),
    ("SELECT GROUPING(§COUNT(*)) FROM heart GROUP BY sex", "GROUPING of no group"),
    ("SELECT COUNT(*) FROM heart WHERE §GROUPING(sex) = 1", "The function GROUPING"),
    ("SELECT COUNT(*) FROM heart §QUALIFY 1 = 1", "QUALIFY"),
    ("SELECT COUNT(*) FROM heart USING §SAMPLE 10%", "A sample"),
    ("SELECT COUNT(*) FROM heart §LIMIT 1 + 1", "A computed LIMIT"),
    ("SELECT COUNT(*) FROM heart §FETCH FIRST 5 ROWS ONLY", "FETCH"),
    ("SELECT COUNT(*) FROM heart §LIMIT 10%", "A share of the rows"),
    ("SELECT COUNT(*) FROM heart WHERE age IN §visits", "This form of IN"),
    ("SELECT COUNT(*) FROM heart WHERE smoker = NOT §smoker", "A comparison of a condition"),
    ("SELECT COUNT(*) §INTO x FROM heart", "INTO"),
    ("SELECT COUNT(*) FROM heart §FOR UPDATE", "A lock"),
]


@pytest.mark.parametrize(("marked", "construct"), REFUSED)
def test_refuses_by_name_with_the_place_and_a_hint(marked: str, construct: str) -> None:
    before, _, after = marked.partition("§")
    with pytest.raises(UnsupportedSQL) as caught:
        query_of(before + after)
    fields = caught.value.fields
    place = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    assert fields["construct"].startswith(construct)
    assert (int(fields["line"]), int(fields["column"])) == place
    assert fields["hint"]


BAD = [
    ("§", "no question"),
    ("§-- nothing", "no question"),
    ("SELECT COUNT(*) FROM heart WHERE sex = §'male", "not closed"),
    ("SELECT COUNT(*)\nFROM heart WHERE age §> ", "misplaced at '>'"),
    ("SELECT COUNT(*) FROM heart WHERE age > 5 §)", "misplaced at '\\)'"),
    ("SELECT COUNT(*) FROM heart WHERE seen > DATE §'yesterday'", "no date"),
    ("SELECT §COUNT(*)", "no FROM"),
    ("SELECT COUNT(*) FROM heart GROUP BY §2", "no item 2"),
    ("SELECT COUNT(*) FROM heart ORDER BY §0", "no item 0"),
    ("SELECT §MEDIAN(age, 0, 9) FROM heart", "a number of bins"),
    ("SELECT §APPROX_QUANTILE(age) FROM heart", "a number of bins"),
    ("SELECT §MEDIAN(age, 2.5) FROM heart", "whole number from 1"),
]


@pytest.mark.parametrize(("marked", "problem"), BAD)
def test_bad_sql_says_where(marked: str, problem: str) -> None:
    before, _, after = marked.partition("§")
    with pytest.raises(BadSQL, match=problem) as caught:
        query_of(before + after)
    place = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    assert (int(caught.value.fields["line"]), int(caught.value.fields["column"])) == place


def test_wrong_arguments_and_types_are_the_callers() -> None:
    for sql in ("SELECT AVG() FROM heart", "SELECT AVG(age, sex, 1) FROM heart", "SELECT COUNT('x') FROM heart"):
        with pytest.raises(BadQuestion):
            query_of(sql)
    for sql in (
        "SELECT AVG(sex) FROM heart",
        "SELECT COUNT(*) FROM heart WHERE age",
        "SELECT COUNT(*) FROM heart WHERE age = 'x'",
        "SELECT COUNT(*) FROM heart HAVING COUNT(*)",
        "SELECT COUNT(*) FROM heart HAVING COUNT(*) > 'x'",
        "SELECT HISTOGRAM(age, 0, 9, 3) AS h FROM heart ORDER BY h",
    ):
        with pytest.raises(WrongType):
            query_of(sql)


@pytest.mark.parametrize(
    "deep",
    [
        "(" * 500 + "age > 1" + ")" * 500,
        "NOT " * 500 + "smoker",
        " + ".join(["age"] * 500) + " > 1",
        "- " * 2000 + "age > 1",
        "CASE WHEN smoker THEN " * 60 + "1" + " END" * 60 + " = 1",
        "ROUND(" * 60 + "age" + ")" * 60 + " = 1",
    ],
)
def test_deep_nesting_is_refused_by_name(deep: str) -> None:
    with pytest.raises(PlanTooLarge, match="nesting"):
        query_of(f"SELECT COUNT(*) FROM heart WHERE {deep}")


def test_long_chains_are_not_deep() -> None:
    query = query_of("SELECT COUNT(*) FROM heart WHERE " + " OR ".join(f"age = {n % 90}" for n in range(2000)))
    assert len(query.plan().body()) < MAX_BODY_BYTES * 2
    assert answer(query).value > 0


INJECTIONS = [
    "male' OR 1=1 --",
    "male'; DROP TABLE heart; --",
    'male" OR ""="',
    "male\\' OR 1=1",
    "${1}",
    "male' UNION SELECT 1 --",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_literals_stay_text(text: str) -> None:
    quoted = text.replace("'", "''")
    with pytest.raises(UnknownCategory) as caught:
        query_of(f"SELECT COUNT(*) FROM heart WHERE sex = '{quoted}'")
    assert caught.value.fields["value"] == text


@pytest.mark.parametrize("text", ["ma\x00le", "\u202emale", "\x1b[2Kmale"])
def test_text_that_a_terminal_would_obey_is_no_literal(text: str) -> None:
    with pytest.raises(BadQuestion, match="control characters"):
        query_of(f"SELECT COUNT(*) FROM heart WHERE sex = '{text}'")


_WORDS = """SELECT COUNT ( * ) , FROM heart WHERE age > 5 'x' " sex AND NOT OR IN BETWEEN IS NULL GROUP BY HAVING
    ORDER LIKE 'm%' ILIKE ESCAPE '!' FILTER ( ROLLUP CUBE GROUPING SETS ABS IF COALESCE MEDIAN YEAR EXTRACT ( year FROM
    DISTINCT LIMIT CASE WHEN THEN END ; -- /* AVG DATE '2024-01-01' [ ] { } :: $ ? . = - + ::INT OVER ü"""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(_WORDS.split()), max_size=14))
def test_no_text_gives_anything_but_a_named_error(words: list[str]) -> None:
    for start in ("", "SELECT COUNT(*) FROM heart "):
        try:
            query_of(start + " ".join(words))
        except CeibaError:
            continue


def test_dates_are_dates() -> None:
    result = answer(
        query_of("SELECT day, date_trunc('year', came) AS y, COUNT(*) FROM heart GROUP BY ALL ORDER BY day, y")
    )
    assert result[0][:2] == (date(2024, 1, 1), date(2024, 1, 1))
