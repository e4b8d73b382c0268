"""Constructors of the statistics as a merchant calls them: `mean("age")`, `histogram("age", 0, 100, 10)`.

Made from the classes in `ceiba_protocol.statistics`, so a new statistic needs no line here. Each is known by its own
name and by its SQL functions in lower case: `statistic("mean")`, `statistic("avg")`, `statistic("stddev_pop")`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from inspect import Parameter, Signature
from typing import Any, get_args

from pydantic.fields import FieldInfo

from ceiba.terms import built, column_or_term, expression_of, python_value, require_shallow
from ceiba_protocol.errors import BadQuestion, UnknownStatistic
from ceiba_protocol.expression import (
    ONE,
    ColumnValue,
    Expression,
    Logic,
    Number,
    TextValue,
    only_where,
    present,
)
from ceiba_protocol.schema import nearest
from ceiba_protocol.statistics import STATISTICS, Statistic
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.fits.base import Fit

Constructor = Callable[..., Statistic]


@cache
def _known() -> dict[str, tuple[type[Statistic], Mapping[str, Any]]]:
    """Every name that stands for a statistic, with the options that the name fixes. Fits are a table's methods."""
    by_sql = {name.lower(): (kind, fixed) for kind in STATISTICS.values() for name, fixed in kind.sql.items()}
    return by_sql | {name: (kind, {}) for name, kind in STATISTICS.items() if not issubclass(kind, Fit)}


def statistic_names() -> list[str]:
    """All names that `statistic` knows."""
    return sorted(_known())


@cache
def statistic(name: str) -> Constructor:
    """The constructor of a statistic: its arguments are the class's fields, columns as names or terms.

    >>> statistic("mean")("cholesterol")
    Mean(statistic='mean', value=ColumnValue(op='column', name='cholesterol'))

    Raises UnknownStatistic; the constructor raises BadQuestion for arguments that do not fit.
    """
    if name not in _known():
        raise UnknownStatistic(statistic=name, nearest=nearest(name, _known()))
    kind, fixed = _known()[name]
    arguments = {field: info for field, info in kind.model_fields.items() if field not in ("statistic", *fixed)}
    signature = Signature([_parameter(field, info) for field, info in arguments.items()])

    def construct(*args: Any, **options: Any) -> Statistic:
        try:
            given = signature.bind(*args, **options).arguments
        except TypeError as error:
            raise BadQuestion(problem=f"{name}(): {error}", hint=f"Call it as {name}{signature}.") from None
        fields = {field: _read(arguments[field].annotation, value) for field, value in given.items()}
        made = built(kind, **fields, **fixed)
        require_shallow(made)
        return made

    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = kind.__doc__
    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct


def only_rows(made: Statistic, condition: Expression) -> Statistic:
    """The statistic over the rows where the condition is true: SQL's FILTER. Not for subjects, which are not values."""
    if isinstance(made, Count):
        wanted = condition if made.value is None else Logic(op="and", terms=(condition, present(made.value)))
        fields: dict[str, Any] = {"value": only_where(wanted, ONE)}
    else:
        values = [name for name, info in type(made).model_fields.items() if _mentions(info.annotation, ColumnValue)]
        fields = {name: only_where(condition, getattr(made, name)) for name in values}
    return built(type(made), **{**dict(made), **fields})


def _parameter(field: str, info: FieldInfo) -> Parameter:
    default = Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
    return Parameter(field, Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _read(annotation: Any, value: Any) -> Any:
    """An argument as the field's type wants it: an expression, an exact number, or a plain option."""
    if value is None:
        return None
    if _mentions(annotation, ColumnValue):
        if isinstance(value, list | tuple):
            return tuple(_value_expression(item) for item in value)
        return _value_expression(value)
    return expression_of(value) if _mentions(annotation, Number) else python_value(value)


def _value_expression(value: Any) -> Expression:
    expression = column_or_term(value).expression if isinstance(value, str) else expression_of(value)
    if isinstance(expression, TextValue):
        raise BadQuestion(problem="a statistic was given a text literal", hint="Give it a column, a number or a term.")
    return expression


def _mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))
