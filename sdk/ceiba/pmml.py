"""Models as PMML 4.4 (https://dmg.org/pmml/v4-4-1/GeneralStructure.html), so that other programs can apply them.

Each design column becomes a DerivedField, and the model a RegressionModel over them. A missing value makes the fields
that need it missing, as in the formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ceiba_protocol.design import Factor, Function
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import (
    Arithmetic,
    Case,
    ColumnValue,
    Comparing,
    Expression,
    Logic,
    Missing,
    Not,
    Number,
    Round,
    TextValue,
    TruthValue,
    columns_of,
)
from ceiba_protocol.program import Comparison
from ceiba_protocol.schema import Column, ColumnType, Schema

if TYPE_CHECKING:
    from ceiba.models import FittedModel

Element = ElementTree.Element

NAMESPACE = "http://www.dmg.org/PMML-4_4"
_NORMALISATION = {"identity": "none", "logit": "logit", "log": "exp"}
"""RegressionModel's name for the link's inverse."""
_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_COMPARISONS = {
    Comparison.EQUAL: "equal",
    Comparison.NOT_EQUAL: "notEqual",
    Comparison.LESS: "lessThan",
    Comparison.LESS_OR_EQUAL: "lessOrEqual",
    Comparison.GREATER: "greaterThan",
    Comparison.GREATER_OR_EQUAL: "greaterOrEqual",
}


def to_pmml(model: FittedModel) -> str:
    """A model as an XML document; an offset is one more column, with a coefficient of 1.

    Raises BadQuestion for a formula that reads dates, and for Cox's model.
    """
    if model.family == "cox":
        problem = "PMML's Cox model has a baseline hazard, and this fit has none"
        raise BadQuestion(problem=problem, hint="Use to_json(), or predict() for relative hazards.")
    columns = [*model.spec.columns, *([] if model.offset is None else [model.offset])]
    root = _element("PMML", xmlns=NAMESPACE, version="4.4")
    header = _add(root, "Header", description=f"{model.spec.text} on {model.schema.table}")
    _add(header, "Application", name="ceiba")
    names = sorted({name for column in columns for part in column.factors for name in columns_of(part.value)})
    target = _target(model, names)
    fields = [*names, *([target] if target is not None else [])]
    dictionary = _add(root, "DataDictionary", numberOfFields=str(len(fields)))
    dictionary.extend([_data_field(model.schema.column(name)) for name in fields])
    dictionary_names = _add(root, "TransformationDictionary")
    for place, column in enumerate(columns):
        derived = _add(
            dictionary_names,
            "DerivedField",
            name=_derived(place),
            displayName=column.name,
            optype="continuous",
            dataType="double",
        )
        derived.append(_chain("*", [_factor(part, model.schema) for part in column.factors]))
    regression = _add(
        root,
        "RegressionModel",
        modelName=model.family,
        functionName="regression",
        normalizationMethod=_NORMALISATION[model.link],
    )
    mining = _add(regression, "MiningSchema")
    for name in names:
        _add(mining, "MiningField", name=name, usageType="active")
    if target is not None:
        _add(mining, "MiningField", name=target, usageType="target")
    coefficients = list(model.values)
    intercept = coefficients.pop(0) if model.spec.intercept else 0.0
    coefficients += [] if model.offset is None else [1.0]
    table = _add(regression, "RegressionTable", intercept=repr(intercept))
    for place, coefficient in enumerate(coefficients):
        _add(table, "NumericPredictor", name=_derived(place), coefficient=repr(coefficient))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _derived(place: int) -> str:
    """A name that no column has: columns' names have no dot."""
    return f"column.{place + 1}"


def _target(model: FittedModel, names: Iterable[str]) -> str | None:
    """The response's column, if the response is one; None for an expression, or one that is a regressor too."""
    response = model.spec.response
    if response is None or response.factors[0].function is not Function.VALUE:
        return None
    value = response.factors[0].value
    return value.name if isinstance(value, ColumnValue) and value.name not in names else None


def _data_field(column: Column) -> Element:
    match column.type:
        case ColumnType.CATEGORY:
            made = _element("DataField", name=column.name, optype="categorical", dataType="string")
            for label in column.domain_labels:
                _add(made, "Value", value=label)
            return made
        case ColumnType.BOOL:
            return _element("DataField", name=column.name, optype="categorical", dataType="boolean")
        case ColumnType.INT | ColumnType.DECIMAL:
            return _element("DataField", name=column.name, optype="continuous", dataType="double")
    raise BadQuestion(problem=f"PMML has no form for {column.name}, a {column.type}", hint="Use to_json().")


# --- expressions ------------------------------------------------------------------------------------------------


def _factor(factor: Factor, schema: Schema) -> Element:
    value = _number(factor.value, schema)
    match factor.function:
        case Function.VALUE:
            return value
        case Function.LOG:
            return _apply("ln", value)
        case Function.LOG1P:
            return _apply("ln", _apply("+", _constant("1"), value))
        case Function.SQRT:
            return _apply("sqrt", value)
        case Function.EXP:
            return _apply("exp", value)


def _is_condition(expression: Expression, schema: Schema) -> bool:
    if isinstance(expression, ColumnValue):
        return schema.column(expression.name).type is ColumnType.BOOL
    return isinstance(expression, Comparing | Logic | Not | Missing | TruthValue)


def _number(expression: Expression, schema: Schema) -> Element:
    """An expression as a number; a condition counts as 1 or 0."""
    if _is_condition(expression, schema):
        return _apply("if", _plain(expression, schema), _constant("1"), _constant("0"))
    return _plain(expression, schema)


def _plain(expression: Expression, schema: Schema) -> Element:
    match expression:
        case ColumnValue(name=name):
            return _element("FieldRef", field=name)
        case Number(value=value):
            return _constant(value)
        case TextValue(value=value):
            return _constant(value, "string")
        case TruthValue(value=truth):
            return _constant(str(truth).lower(), "boolean")
        case Arithmetic(op=op, left=left, right=right):
            return _apply(_ARITHMETIC[op], _number(left, schema), _number(right, schema))
        case Round(value=value, digits=digits):
            return _round(value, digits, schema)
        case Case(branches=branches, otherwise=otherwise):
            made = _constant("", "double", missing="true") if otherwise is None else _number(otherwise, schema)
            for branch in reversed(branches):
                made = _apply("if", _plain(branch.when, schema), _number(branch.then, schema), made)
            return made
        case Comparing(comparison=comparison, left=left, right=right):
            both = _is_condition(left, schema) and _is_condition(right, schema)
            read = _plain if both or isinstance(right, TextValue) or isinstance(left, TextValue) else _side
            return _apply(_COMPARISONS[comparison], read(left, schema), read(right, schema))
        case Logic(op=op, terms=terms):
            return _chain(op, [_plain(term, schema) for term in terms])
        case Not(term=term):
            return _apply("not", _plain(term, schema))
        case Missing(value=value):
            return _apply("isMissing", _plain(value, schema))
    raise BadQuestion(problem=f"PMML has no form for a {expression.op}", hint="Use to_json().")


def _side(expression: Expression, schema: Schema) -> Element:
    """One side of a comparison: categories as they are, all else as numbers."""
    if isinstance(expression, ColumnValue) and schema.column(expression.name).type is ColumnType.CATEGORY:
        return _plain(expression, schema)
    return _number(expression, schema)


def _round(value: Expression, digits: int, schema: Schema) -> Element:
    """Halves away from zero: PMML's own `round` takes them up."""
    scale = str(10**digits)

    def half(sign: str) -> Element:
        scaled = _apply("*", _number(value, schema), _constant(f"{sign}{scale}"))
        tie = _apply("*", scaled, _constant("1.000000000000001"))  # as `predict` treats decimal halves
        whole = _apply("floor", _apply("+", tie, _constant("0.5")))
        return _apply("/", whole, _constant(f"{sign}{scale}"))

    return _apply("if", _apply("lessThan", _number(value, schema), _constant("0")), half("-"), half(""))


def _chain(function: str, parts: list[Element]) -> Element:
    """A function of two arguments over a list."""
    made = parts[0]
    for part in parts[1:]:
        made = _apply(function, made, part)
    return made


def _apply(function: str, *arguments: Element) -> Element:
    made = _element("Apply", function=function)
    made.extend(arguments)
    return made


def _constant(text: str, kind: str = "double", **attributes: str) -> Element:
    made = _element("Constant", dataType=kind, **attributes)
    made.text = text
    return made


def _element(tag: str, **attributes: str) -> Element:
    return ElementTree.Element(tag, attributes)


def _add(parent: Element, tag: str, **attributes: str) -> Element:
    made = _element(tag, **attributes)
    parent.append(made)
    return made
