"""A space without a network: its tables have schemas and no holders, and every question is answered by `mock`."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.sql import parse
from ceiba_protocol.schema import Schema


class OfflineSpace:
    """What `ceiba.connect` returns in the documentation's examples."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self.schemas = schemas

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        pass

    def close(self) -> None:
        pass

    def table(self, name: str) -> Table:
        return Table(self.schemas[name], self)

    def sql(self, text: str, parameters: Sequence[object] | None = None) -> Query:
        plan, presentation = parse(text, self.schemas.__getitem__, parameters)
        return Query(self.schemas[plan.table], self, plan, presentation)

    def run(self, query: Query, **_options: Any) -> Result:
        return query.mock()

    def submit(self, query: Query, **_options: Any) -> Any:
        raise NotImplementedError

    def explain(self, query: Query) -> Any:
        raise NotImplementedError
