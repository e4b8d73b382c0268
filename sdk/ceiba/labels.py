"""What a figure's axes call the columns of a result: what they are, and in which unit."""

from __future__ import annotations

from collections.abc import Mapping

from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.plan import ByCalendar, ByColumn, GroupKey, Named, Plan
from ceiba_protocol.schema import Schema
from ceiba_protocol.wording import statistic_text

KEEP_THE_UNIT = {"sum": "sum of ", "mean": "mean of ", "standard_deviation": "standard deviation of ", "histogram": ""}
"""Statistics whose value (a histogram's bins) is in the unit of their column."""
COUNTS = {"count": "rows", "subjects": "subjects"}


def axis_labels(plan: Plan, schema: Schema) -> Mapping[str, str]:
    """The plan's name of a column → its label, such as `mean of age (years)`."""
    labels = {key.name: _key_label(key, schema) for key in plan.groups}
    return labels | {output.name: _output_label(output, schema) for output in plan.outputs}


def _key_label(key: GroupKey, schema: Schema) -> str:
    match key:
        case ByColumn(column=name):
            return _with_unit(key.name, name, schema)
        case ByCalendar(unit=unit):
            return str(unit)
        case _:
            return key.name


def _output_label(output: Named, schema: Schema) -> str:
    statistic = output.statistic
    value = getattr(statistic, "value", None)
    if statistic.statistic in COUNTS and value is None:
        return COUNTS[statistic.statistic]
    if statistic.statistic in KEEP_THE_UNIT and isinstance(value, ColumnValue):
        return KEEP_THE_UNIT[statistic.statistic] + _with_unit(value.name, value.name, schema)
    text = statistic_text(statistic)
    return output.name if len(text) > 40 else text


def _with_unit(label: str, column: str, schema: Schema) -> str:
    unit = schema.column(column).unit
    return f"{label} ({unit})" if unit else label
