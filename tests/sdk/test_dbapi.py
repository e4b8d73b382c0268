"""PEP 249 over a space that answers from rows in this process."""

import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba import dbapi
from ceiba.query import Query
from ceiba.released import Released
from ceiba.result import Result
from ceiba.sql import parse
from ceiba_protocol.errors import (
    BadQuestion,
    BadSQL,
    CeibaError,
    NoAgreement,
    NotReachable,
    TotalRejected,
    UnknownCategory,
    UnsupportedSQL,
    ValueOutOfRange,
)
from ceiba_protocol.plan import grouped_sums
from tests.support.pooled import Pooled
from tests.support.questions import HEART, NoRunner, decoded, rows, schema_of


def _frame() -> pd.DataFrame:
    columns = {column.name: [decoded(column, row[column.name]) for row in rows()] for column in HEART.columns}
    return pd.DataFrame(columns, dtype=object)


class PooledSpace:
    """Answers from a frame; notes how it was asked."""

    def __init__(self) -> None:
        self.pooled = Pooled(HEART, _frame())
        self.asked: list[dict[str, Any]] = []
        self.error: CeibaError | None = None
        self.open = True

    def sql(self, text: str, parameters: Sequence[object] = ()) -> Query:
        plan, presentation = parse(text, schema_of, parameters)
        return Query(HEART, self, plan, presentation)

    def run(self, query: Query, **options: Any) -> Result:
        self.asked.append(options)
        if self.error:
            raise self.error
        return self.pooled.run(query)

    submit = explain = NoRunner.submit

    def close(self) -> None:
        self.open = False


@pytest.fixture
def space() -> PooledSpace:
    return PooledSpace()


@pytest.fixture
def connection(space: PooledSpace) -> dbapi.Connection:
    return dbapi.connect(space=space, agreement="3f2a")


SQL = "SELECT sex, COUNT(*) AS n, AVG(age) AS age FROM health.heart WHERE age > ? GROUP BY sex ORDER BY n"


def test_the_module_says_what_it_can() -> None:
    assert (dbapi.apilevel, dbapi.paramstyle, dbapi.threadsafety) == ("2.0", "qmark", 1)


def test_pandas_reads_a_question(connection: dbapi.Connection) -> None:
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        read = pd.read_sql(SQL, connection, params=[40])  # type: ignore[call-overload]
    frame = _frame()
    grouped = frame[frame.age > 40].assign(age=lambda one: one.age.astype(float)).groupby("sex", dropna=False).age
    wanted = grouped.agg(["count", "mean"]).sort_values("count")
    assert list(read.columns) == ["sex", "n", "age"]
    assert list(read.n) == list(wanted["count"])
    assert list(read.age) == pytest.approx(list(wanted["mean"]))


def test_rows_are_fetched_one_by_one_in_parts_and_all(connection: dbapi.Connection, space: PooledSpace) -> None:
    with connection.cursor() as cursor:
        assert cursor.description is None and cursor.rowcount == -1
        rows = list(cursor.execute(SQL, (10,)))
        assert cursor.rowcount == 3 == len(rows) and cursor.fetchone() is None and cursor.fetchall() == []
        cursor.execute(SQL, (10,))
        assert cursor.fetchone() == rows[0]
        assert cursor.fetchmany() == [rows[1]]
        cursor.arraysize = 5
        assert cursor.fetchmany() == [rows[2]]
        assert cursor.execute(SQL, (10,)).fetchall() == rows
    assert space.asked == [{"agreement": "3f2a"}] * 3
    with pytest.raises(dbapi.InterfaceError):
        cursor.fetchone()


def test_columns_are_described_with_type_codes(connection: dbapi.Connection) -> None:
    cursor = connection.cursor().execute(
        "SELECT sex, day, date_trunc('month', seen) AS m, smoker AS s, COUNT(*) AS n, AVG(age) AS a, "
        "SUM(CASE WHEN age > 999 THEN 1 END) AS none, HISTOGRAM(age, 0, 9, 2) AS h FROM heart GROUP BY ALL"
    )
    assert cursor.description is not None
    codes = {name: (code, nullable) for name, code, *_, nullable in cursor.description}
    assert codes == {
        "sex": ("text", True),
        "day": ("date", True),
        "m": ("date", True),
        "s": ("boolean", True),
        "n": ("integer", False),
        "a": ("float", False),
        "none": (None, True),
        "h": ("table", False),
    }
    assert codes["sex"][0] == dbapi.STRING and codes["n"][0] != dbapi.STRING
    assert codes["n"][0] == dbapi.NUMBER and codes["a"][0] == dbapi.NUMBER and codes["m"][0] == dbapi.DATETIME


VALUES = [
    ("age > ?", 40, "age > 40"),
    ("visits = ?", -3, "visits = -3"),
    ("visits - ? = 2", -3, "visits - (-3) = 2"),
    ("dose < ?", Decimal("4.25"), "dose < 4.25"),
    ("dose < ?", 4.25, "dose < 4.25"),
    ("age = ?", np.int64(50), "age = 50"),
    ("sex = ?", "male", "sex = 'male'"),
    ("city IN (?, 'Köln')", "O'Hara", "city IN ('O''Hara', 'Köln')"),
    ("sex LIKE ?", "fe%", "sex LIKE 'fe%'"),
    ("smoker = ?", True, "smoker = TRUE"),
    ("smoker IS ?", None, "smoker IS NULL"),
    ("sex IS DISTINCT FROM ?", None, "sex IS NOT NULL"),
    ("seen > ?", date(2024, 3, 1), "seen > '2024-03-01'"),
    ("came > ?", datetime(2024, 2, 1, 12), "came > TIMESTAMP '2024-02-01 12:00'"),
]


@pytest.mark.parametrize(("condition", "value", "spelled"), VALUES)
def test_a_value_means_what_it_would_as_a_literal(
    connection: dbapi.Connection, condition: str, value: object, spelled: str
) -> None:
    cursor = connection.cursor()
    got = cursor.execute(f"SELECT COUNT(*) FROM heart WHERE {condition}", [value]).fetchall()
    assert got == cursor.execute(f"SELECT COUNT(*) FROM heart WHERE {spelled}").fetchall()
    assert 0 < got[0][0] < len(rows())


def test_values_take_their_places_in_order(space: PooledSpace) -> None:
    sql = "SELECT COUNT(*) FROM heart WHERE age BETWEEN ? AND ? AND sex = '?' -- ?"
    with pytest.raises(UnknownCategory) as caught:
        _ = space.sql(sql, (20, 60)).program
    assert caught.value.fields["value"] == "?"
    ordered = space.sql("SELECT SUM(CASE WHEN age > ? THEN ? ELSE ? END) AS s FROM heart", [50, 1, 2])
    same = space.sql("SELECT SUM(CASE WHEN age > 50 THEN 1 ELSE 2 END) AS s FROM heart")
    assert ordered.plan().digest() == same.plan().digest()


@pytest.mark.parametrize("values", [(), (1,), (1, 2, 3), "ab", {"a": 1, "b": 2}, None])
def test_another_number_of_values_is_the_callers_error(connection: dbapi.Connection, values: Any) -> None:
    with pytest.raises(dbapi.DatabaseError):
        connection.cursor().execute("SELECT COUNT(*) FROM heart WHERE age > ? OR age = ?", values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, b"x", object(), [1], "a\x00b", "\u202emale"])
def test_what_is_no_value_is_the_callers_error(connection: dbapi.Connection, value: object) -> None:
    with pytest.raises(dbapi.ProgrammingError):
        connection.cursor().execute("SELECT COUNT(*) FROM heart WHERE age = ? OR sex = 'male'", [value])


@given(st.text(max_size=30))
def test_no_text_is_read_as_sql(text: str) -> None:
    space = PooledSpace.__new__(PooledSpace)
    try:
        _ = space.sql("SELECT COUNT(*) FROM heart WHERE sex = ?", [text]).program
    except UnknownCategory as error:
        assert error.fields["value"] == unicodedata.normalize("NFC", text)
    except BadQuestion:
        assert not text.isprintable() or not text
    else:
        assert text in ("female", "male")


ERRORS = [
    (BadSQL(line=1, column=1, problem="x"), dbapi.ProgrammingError),
    (UnsupportedSQL(construct="x", line=1, column=1, hint="y"), dbapi.NotSupportedError),
    (ValueOutOfRange(what="x", bits=99, limit=63), dbapi.DataError),
    (NoAgreement(table="x", problem="y"), dbapi.OperationalError),
    (NotReachable(target="x", problem="y"), dbapi.OperationalError),
    (TotalRejected(problem="x"), dbapi.InternalError),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda one: getattr(one, "code", ""))
def test_errors_are_those_of_the_interface(
    connection: dbapi.Connection, space: PooledSpace, error: CeibaError, kind: type[dbapi.Error]
) -> None:
    space.error = error
    with pytest.raises(dbapi.Error) as caught:
        connection.cursor().execute(SQL, [1])
    assert type(caught.value) is kind and caught.value.error is error and str(error) in str(caught.value)
    assert issubclass(kind, connection.DatabaseError)


def test_what_was_withheld_is_null_and_said_in_the_result(connection: dbapi.Connection, space: PooledSpace) -> None:
    def run(query: Query, **_: Any) -> Result:
        sent = np.zeros((query.program.cells, len(query.program.sums)), dtype=bool)
        return query.result(Released(grouped_sums(query.program, rows()), sent))

    space.run = run  # type: ignore[method-assign]
    cursor = connection.cursor().execute(SQL, [1])
    assert all(row[1:] == (None, None) for row in cursor.fetchall())
    assert len(cursor.result.withheld) == 3
    ((bins,),) = connection.cursor().execute("SELECT HISTOGRAM(age, 0, 9, 1) FROM heart").fetchall()
    assert [one["count"] for one in bins] == [None] * 3


def test_transactions_have_nothing_to_do(connection: dbapi.Connection, space: PooledSpace) -> None:
    connection.commit()
    with pytest.raises(dbapi.NotSupportedError):
        connection.rollback()
    with pytest.raises(dbapi.NotSupportedError):
        connection.cursor().executemany(SQL, [[1], [2]])
    cursor = connection.cursor()
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, lambda: cursor.execute(SQL, [1])):
        with pytest.raises(dbapi.InterfaceError):
            use()
    assert space.open, "it was connected by somebody else"


def test_a_connection_of_its_own_is_closed_with_it(space: PooledSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba.space.connect", lambda *where, **_: space)
    with dbapi.connect("coordinator.example:7443", "~/.ceiba/bank-a") as connection:
        assert connection.cursor().execute("SELECT COUNT(*) FROM heart").fetchone() == (len(rows()),)
    assert not space.open


def test_constructors_of_types() -> None:
    assert dbapi.DateFromTicks(86_400) == dbapi.Date(1970, 1, 2)
    assert dbapi.TimestampFromTicks(86_401) == dbapi.Timestamp(1970, 1, 2, 0, 0, 1)
    for refused in (lambda: dbapi.Time(1, 2, 3), lambda: dbapi.TimeFromTicks(1), lambda: dbapi.Binary(b"")):
        with pytest.raises(dbapi.NotSupportedError):
            refused()
