"""Which analysis a job is for, kept beside it, so that another process gets the same outcome and not only the figures.

An analysis is a method's name and its arguments as they were typed. Arguments that are no plain values, such as terms,
are not kept: then the figures alone can be taken up, and they say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from ceiba_protocol.expression import Expression

if TYPE_CHECKING:
    from ceiba.analysis import Analysis
    from ceiba.query import Query, Table

Method = TypeVar("Method", bound=Callable[..., Any])

_ANALYSES: set[str] = set()
"""The methods that may be called again."""
_EXPRESSION: TypeAdapter[Any] = TypeAdapter(Expression)


class AskedAnalysis(BaseModel):
    """One call of a method of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str
    where: str | None
    """The table's filter, in JSON."""
    arguments: dict[str, JsonValue] | None
    """None: some are no plain values."""

    @property
    def note(self) -> str:
        """What a result says where the outcome cannot be made again."""
        return (
            f"Note: this was asked by {self.method}(), with arguments that are not kept, or by another version of "
            f"Ceiba. Write the analysis again and finish it with this result: {self.method}(...).finish(result)."
        )


def remembered(method: Method) -> Method:
    """For a method of a table that makes an analysis: its query knows by which call it was made."""
    _ANALYSES.add(method.__name__)
    form = signature(method)

    @wraps(method)
    def call(table: Any, *given: Any, **named: Any) -> Any:
        analysis = method(table, *given, **named)
        where = None if table._condition is None else _EXPRESSION.dump_json(table._condition).decode()
        arguments = _plain(form.parameters, form.bind(table, *given, **named).arguments)
        asked = AskedAnalysis(method=method.__name__, where=where, arguments=arguments)
        return replace(analysis, query=replace(analysis.query, analysis=asked))

    return call  # type: ignore[return-value]  # `wraps` keeps the signature


def _plain(parameters: Any, bound: dict[str, Any]) -> dict[str, JsonValue] | None:
    """By name, without the table; None if one of them is more than text, numbers, truth values, lists and mappings."""
    arguments: dict[str, Any] = {}
    for name, value in list(bound.items())[1:]:
        arguments |= value if parameters[name].kind is Parameter.VAR_KEYWORD else {name: value}
    if not all(map(_is_plain, arguments.values())):
        return None
    return {name: _listed(value) for name, value in arguments.items()}


def _listed(value: Any) -> JsonValue:
    """With lists for tuples."""
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(one) for key, one in value.items())
    return value is None or type(value) in (str, int, float, bool)


def taken_up(query: Query, table: Callable[[Any], Table]) -> Analysis[Any] | None:
    """The analysis that a kept query was made by; `table` makes one from a filter.

    None if there was none, if its arguments are not kept, or if this version would ask another question for it.
    """
    asked = query.analysis
    if asked is None or asked.arguments is None or asked.method not in _ANALYSES:
        return None
    try:
        where = None if asked.where is None else _EXPRESSION.validate_json(asked.where)
        analysis: Analysis[Any] = getattr(table(where), asked.method)(**asked.arguments)
    except (ValidationError, TypeError):  # another version's
        return None
    return analysis if analysis.query.plan() == query.plan() else None
