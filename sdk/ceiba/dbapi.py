"""PEP 249: ask from whatever speaks Python's database interface, such as `pandas.read_sql`.

    from ceiba import dbapi

    with dbapi.connect(identity="~/.ceiba/bank-a") as connection:
        sql = "SELECT sex, AVG(age) FROM health.heart WHERE age > ? GROUP BY sex"
        frame = pandas.read_sql(sql, connection, params=[50])

Each `execute` asks the space, under one of its agreements, and waits. What was withheld is None, as NULL is;
`cursor.result` has the whole result, with what was withheld and why, the noise, and the receipt.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from ceiba_protocol.errors import CeibaError, Fault, UnsupportedSQL, ValueOutOfRange
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    from ceiba.query import Query
    from ceiba.result import Result

apilevel = "2.0"
threadsafety = 1
"""Threads may share the module, but not connections."""
paramstyle = "qmark"


# --- errors: https://peps.python.org/pep-0249/#exceptions --------------------------------------------------------


class Warning(Exception):
    """Required by PEP 249; never raised."""


class Error(Exception):
    """Base of all errors here. `error`: the CeibaError behind it, with a code and what to do; None for misuse."""

    error: CeibaError | None = None


class InterfaceError(Error):
    """A connection or cursor is used after it was closed, or before anything was asked."""


class DatabaseError(Error):
    """Base of what has to do with the space."""


class DataError(DatabaseError):
    """A value is out of range."""


class OperationalError(DatabaseError):
    """The space said no by a rule that was agreed on, or cannot be reached."""


class IntegrityError(DatabaseError):
    """Required by PEP 249; never raised."""


class InternalError(DatabaseError):
    """Another member sent something that the protocol forbids."""


class ProgrammingError(DatabaseError):
    """The question is wrong: asking again does not help."""


class NotSupportedError(DatabaseError):
    """Ceiba does not do this."""


_BY_FAULT: dict[Fault, type[DatabaseError]] = {
    Fault.CALLER: ProgrammingError,
    Fault.POLICY: OperationalError,
    Fault.US: OperationalError,
    Fault.PEER: InternalError,
}
_BY_KIND: dict[type[CeibaError], type[DatabaseError]] = {UnsupportedSQL: NotSupportedError, ValueOutOfRange: DataError}


class _Translated:
    """Whatever fails inside as a CeibaError leaves as an error of PEP 249."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, raised: BaseException | None, _at: object) -> None:
        if isinstance(raised, CeibaError):
            error = _BY_KIND.get(type(raised), _BY_FAULT[raised.fault])(str(raised))
            error.error = raised
            raise error from raised


# --- types: https://peps.python.org/pep-0249/#type-objects-and-constructors ---------------------------------------


class _TypeObject(frozenset[str]):
    """Equal to the code of every type of its kind."""

    def __eq__(self, other: object) -> bool:
        return other in self if isinstance(other, str) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = frozenset.__hash__


STRING = _TypeObject({"text"})
NUMBER = _TypeObject({"integer", "float", "boolean"})
DATETIME = _TypeObject({"date", "timestamp"})
BINARY = _TypeObject()
ROWID = _TypeObject()

Date = datetime.date
Timestamp = datetime.datetime


def Time(hour: int, minute: int, second: int) -> NoReturn:
    """No column has a time of day alone."""
    raise NotSupportedError("no column has a time of day alone; use Timestamp")


def DateFromTicks(ticks: float) -> datetime.date:
    """The day, UTC."""
    return TimestampFromTicks(ticks).date()


def TimestampFromTicks(ticks: float) -> datetime.datetime:
    """The moment, UTC."""
    return datetime.datetime.fromtimestamp(ticks, datetime.UTC).replace(tzinfo=None)


def TimeFromTicks(ticks: float) -> NoReturn:
    """No column has a time of day alone."""
    raise NotSupportedError("no column has a time of day alone; use TimestampFromTicks")


def Binary(content: bytes) -> NoReturn:
    """No column has bytes."""
    raise NotSupportedError("no column has bytes")


_CODES = {
    bool: "boolean",
    int: "integer",
    float: "float",
    str: "text",
    datetime.datetime: "timestamp",
    datetime.date: "date",
    list: "table",
}


def _type_code(values: Sequence[object]) -> str | None:
    """That of a column; "float" where there are whole numbers too, None where every value is NULL."""
    codes = {_CODES[type(value)] for value in values if value is not None}
    return "float" if codes == {"integer", "float"} else min(codes, default=None)


# --- connections --------------------------------------------------------------------------------------------------


class Asking(Protocol):
    """What is needed of a space: `ceiba.Space` is one."""

    def sql(self, text: str, parameters: Sequence[object]) -> Query:
        """A question, whose `?` stand for these values."""

    def close(self) -> None:
        """End the connection."""


def connect(
    address: str | None = None,
    identity: str | Path = "~/.ceiba",
    *,
    space: Asking | None = None,
    passphrase: str | bytes | None = None,
    **options: Any,
) -> Connection:
    """A connection to a space: as `ceiba.connect`, or over a `space` that is connected already, which stays open.

    `options` are those of `Query.run`, for every question: agreement, purpose, deadline, noise, version.
    Raises OperationalError, ProgrammingError and InternalError.
    """
    if space is not None:
        return Connection(space, options, closes=False)
    import ceiba

    with _Translated():
        return Connection(ceiba.connect(address, identity, passphrase=passphrase), options, closes=True)


class Connection:
    """Nothing is ever changed through it, so a transaction has nothing to do."""

    Warning, Error, InterfaceError, DatabaseError = Warning, Error, InterfaceError, DatabaseError
    DataError, OperationalError, IntegrityError = DataError, OperationalError, IntegrityError
    InternalError, ProgrammingError, NotSupportedError = InternalError, ProgrammingError, NotSupportedError

    def __init__(self, space: Asking, options: dict[str, Any], *, closes: bool) -> None:
        self._space: Asking | None = space
        self._options = options
        self._closes = closes

    @property
    def space(self) -> Asking:
        """Raises InterfaceError once it is closed."""
        if self._space is None:
            raise InterfaceError("the connection is closed")
        return self._space

    def cursor(self) -> Cursor:
        """Raises InterfaceError once it is closed."""
        _ = self.space
        return Cursor(self)

    def commit(self) -> None:
        """Does nothing: questions change nothing."""
        _ = self.space

    def rollback(self) -> NoReturn:
        """Raises NotSupportedError: what was asked stays asked, and counted."""
        raise NotSupportedError("what was asked cannot be unasked")

    def close(self) -> None:
        """End the connection; also the space's, if `connect` made that."""
        space, self._space = self._space, None
        if space is not None and self._closes:
            space.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


Description = tuple[str, str | None, None, None, None, None, bool]
"""A column's title, type code, four things that are not known, and whether it has NULL."""


class Cursor:
    """One question after the other, and the rows of the last."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.lastrowid = None
        self._result: Result | None = None
        self._next = 0
        self._closed = False

    @property
    def result(self) -> Result:
        """The whole result of the last question. Raises InterfaceError before there is one."""
        if self._closed or self._result is None:
            raise InterfaceError("the cursor is closed" if self._closed else "nothing was asked yet")
        return self._result

    @property
    def description(self) -> list[Description] | None:
        """The columns of the last question; None before there is one."""
        if self._result is None:
            return None
        columns = [[_plain(value) for value in self._result[name]] for name in self._result.columns]
        return [
            (name, _type_code(values), None, None, None, None, None in values)
            for name, values in zip(self._result.columns, columns, strict=True)
        ]

    @property
    def rowcount(self) -> int:
        """How many rows the last question has; -1 before there is one."""
        return -1 if self._result is None else len(self._result)

    def execute(self, operation: str, parameters: Sequence[object] = ()) -> Self:
        """Ask a question in SQL and wait for its answer; each `?` in it stands for one of the parameters, which are
        numbers, texts, dates, truth values or None."""
        if self._closed:
            raise InterfaceError("the cursor is closed")
        space = self.connection.space
        with _Translated():
            self._result, self._next = None, 0
            self._result = space.sql(operation, parameters).run(**self.connection._options)
        return self

    def executemany(self, operation: str, parameters: Sequence[Sequence[object]]) -> NoReturn:
        """Raises NotSupportedError, as each question is an answer of its own."""
        raise NotSupportedError("questions are asked one by one: use execute")

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row; None after the last."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """The next rows, at most `size`, or else `arraysize`."""
        start, self._next = self._next, self._next + (self.arraysize if size is None else size)
        return [tuple(map(_plain, row)) for row in self.result[start : self._next]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return self.fetchmany(len(self.result))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchone, None)

    def setinputsizes(self, sizes: object) -> None:
        """Does nothing."""

    def setoutputsize(self, size: object, column: object = None) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Forget the rows."""
        self._closed, self._result = True, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """NULL for what was withheld, also in a small table."""
    if isinstance(value, list):
        return [{name: _plain(part) for name, part in entry.items()} for entry in value]
    return None if value is WITHHELD else value
