"""DuckDB without its error texts, which can quote values of rows."""

from collections.abc import Callable
from typing import TypeVar

import duckdb

from ceiba_protocol.errors import CeibaError

T = TypeVar("T")


def quietly(action: Callable[[], T], failure: CeibaError) -> T:
    """What `action` returns; where DuckDB fails, raises `failure`, whose `private` is the class of DuckDB's error.

    It is raised outside `except`, so that not even its context holds DuckDB's text.
    """
    try:
        return action()
    except duckdb.Error as error:
        failure.private = type(error).__name__
    raise failure
