"""A plan in words, for people; parties compute on the document, never on this text."""

from typing import Any

from ceiba_protocol.canonical import Document
from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.expression import Comparing, Not, Number, Part, to_text
from ceiba_protocol.plan import ByBucket, ByCalendar, ByCase, ByColumn, GroupKey, LabelBranch, Plan
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.fits.base import Fit


def describe(plan: Plan) -> list[str]:
    """The whole plan, a line for each of its parts: what is left out here would not be seen by who decides on it."""
    lines = [f"Question about {plan.table}"]
    if plan.filter is not None:
        lines.append(f"  where {to_text(plan.filter)}")
    lines += [f"  group {key.name} = {key_text(key)}" for key in plan.groups]
    return lines + [f"  {output.name} = {statistic_text(output.statistic)}" for output in plan.outputs]


def key_text(key: GroupKey) -> str:
    """A grouping key as SQL would write it."""
    match key:
        case ByColumn(column=column):
            return column
        case ByBucket(value=value, low=low, high=high, count=count):
            return f"width_bucket({to_text(value)}, {low.value}, {high.value}, {count})"
        case ByCalendar(column=column, unit=unit):
            return f"date_trunc('{unit}', {column})"
        case ByCase(branches=branches, otherwise=otherwise):
            if is_condition(key):
                return f"({to_text(branches[0].when)})"
            if (split := split_of(key)) is not None:
                return to_text(split)
            arms = " ".join(f"WHEN {to_text(arm.when)} THEN {_quoted(arm.label)}" for arm in branches)
            return f"CASE {arms}{'' if otherwise is None else f' ELSE {_quoted(otherwise)}'} END"


def is_condition(key: GroupKey) -> bool:
    """Whether a key's groups are a condition's true, false and NULL, as the SDK makes them."""
    if not isinstance(key, ByCase) or key.otherwise is not None or len(key.branches) != 2:
        return False
    yes, no = key.branches
    return (yes.label, no.label, no.when) == ("true", "false", Not(term=yes.when))


def parts_key(name: str, split: Part) -> ByCase:
    """Groups of their own for the parts of a split, labelled by their numbers. Everybody is in one of them, so the last
    is whoever is left, and NULL is no group."""
    *others, last = range(split.parts)
    conditions = (Comparing(comparison=Comparison.EQUAL, left=split, right=Number(value=str(part))) for part in others)
    arms = tuple(LabelBranch(when=one, label=str(part)) for part, one in zip(others, conditions, strict=True))
    return ByCase(name=name, branches=arms, otherwise=str(last))


def split_of(key: GroupKey) -> Part | None:
    """The split whose parts are a key's groups, as `parts_key` makes them."""
    match key:
        case ByCase(branches=(LabelBranch(when=Comparing(left=Part() as split)), *_)):
            return split if key == parts_key(key.name, split) else None
    return None


def statistic_text(statistic: Statistic) -> str:
    """A statistic with its arguments, up to the last that is not left at its default: `variance(age, True)`. Those of a
    fit have their names beside them."""
    if isinstance(statistic, Fit):
        return _fit_text(statistic)
    fields = {name: field for name, field in type(statistic).model_fields.items() if name != "statistic"}
    given = [(getattr(statistic, name), field.default) for name, field in fields.items()]
    while given and given[-1][0] == given[-1][1]:
        given.pop()
    return f"{statistic.statistic}({', '.join(_argument(value) for value, _ in given)})"


def _fit_text(fit: Fit) -> str:
    """Of design columns only what is computed: their names are a merchant's words."""
    fields = {name: field for name, field in type(fit).model_fields.items() if name != "statistic"}
    given = {name: getattr(fit, name) for name, field in fields.items() if getattr(fit, name) != field.default}
    return f"{fit.statistic}({', '.join(f'{name}: {_fit_argument(value)}' for name, value in given.items())})"


def _fit_argument(value: Any) -> str:
    """Several columns in brackets, so that it shows where they end."""
    text = _argument(value)
    return f"({text})" if isinstance(value, tuple) and len(value) > 1 else text


def _argument(value: Any) -> str:
    if isinstance(value, DesignColumn):
        parts = [_argument(factor) for factor in value.factors]
        return parts[0] if len(parts) == 1 else " * ".join(f"({part})" if " " in part else part for part in parts)
    if isinstance(value, Factor):
        text = to_text(value.value)
        return text if value.function is Function.VALUE else f"{value.function}({text})"
    if isinstance(value, tuple):
        return ", ".join(map(_argument, value))
    if isinstance(value, Document):
        return to_text(value)  # type: ignore[arg-type]  # the only documents inside a statistic
    return str(value)


def _quoted(label: str) -> str:
    return "'" + label.replace("'", "''") + "'"
