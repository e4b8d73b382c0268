"""Formulas: `"chol ~ age * C(sex) + log(income)"` becomes the design columns that holders are sent.

formulaic reads the formula's operators into terms; each factor is then read with Python's `ast` into the closed
algebra of expressions, so nothing in a formula is ever executed. Levels, their order and which one is left out follow
from the schema's declared domains, never from data.

Columns are named and coded as formulaic does with `ensure_full_rank`: a categorical factor leaves out its reference
level where the model has its margin already, and is fully coded where it has not (patsy's documentation, "Redundancy
and categorical factors").
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from ceiba.extras import STATS, needed
from ceiba.terms import Term, built, expression_of, joined, literal
from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import BadQuestion, NoDomain, PlanTooLarge, UnboundedColumn, UnknownCategory
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
    lower_number,
    lower_sum,
)
from ceiba_protocol.program import Comparison
from ceiba_protocol.schema import Column, ColumnType, Schema, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas

    Vector = npt.NDArray[np.float64]

INTERCEPT = "Intercept"
MAX_COLUMNS = 1000
"""Design columns of one formula."""
MAX_FACTORS = 8
"""Factors of one design column."""
MAX_POWER = 8
_CATEGORICAL = {ColumnType.CATEGORY, ColumnType.BOOL, ColumnType.INT, ColumnType.DECIMAL}
_FUNCTIONS = {str(each): each for each in Function if each is not Function.VALUE}
_GRAMMAR = (
    "Write columns joined by + : * and **, C(x), C(x, Treatment('level')), I(x ** 2), I(x > 50), "
    f'{", ".join(f"{name}(x)" for name in _FUNCTIONS)}, and - 1 for no intercept: "y ~ age * C(sex) + log(dose)".'
)


@dataclass(frozen=True)
class ModelSpec:
    """A formula as it is sent: the response, and one column for each coefficient but the intercept's."""

    text: str
    response: DesignColumn | None
    """None for a formula without one, `~ x`."""
    columns: tuple[DesignColumn, ...]
    intercept: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The coefficients' names, the intercept first."""
        own = tuple(column.name for column in self.columns)
        return (INTERCEPT, *own) if self.intercept else own


def read_formula(text: str, schema: Schema) -> ModelSpec:
    """The design of a formula over a table. Raises BadQuestion, UnknownColumn, UnknownCategory, UnboundedColumn,
    NoDomain, WrongType, ResolutionNeeded, PlanTooLarge, and MissingExtra without formulaic."""
    left, right = _sides(text)
    response = None if left is None else _response(left, schema)
    reader = _Reader(schema)
    columns = tuple(column for term in right for column in reader.columns(term))
    if len({column.name for column in columns}) != len(columns):
        raise BadQuestion(problem=f"two columns of {text!r} have the same name", hint="Leave one of them out.")
    if not reader.intercept and not columns:
        raise BadQuestion(problem=f"{text!r} has nothing on its right-hand side", hint=_GRAMMAR)
    return ModelSpec(text, response, columns, reader.intercept)


def require_binary(spec: ModelSpec, schema: Schema) -> DesignColumn:
    """The response of a model of an event: a truth value, or a number that the schema bounds by 0 and 1.

    Raises BadQuestion for any other, or none.
    """
    hint = 'Give a bool column, an int column bounded by 0 and 1, or a condition: I(diagnosis > 0), I(sex == "Male").'
    if spec.response is None:
        raise BadQuestion(problem=f"the formula {spec.text!r} has no response", hint=hint)
    factor = spec.response.factors[0]
    lowered = lower_number(factor.value, schema, "A response")
    zero_or_one = lowered.step == 1 and lowered.node.low >= 0 and lowered.node.high <= 1
    if factor.function is not Function.VALUE or not zero_or_one:
        raise BadQuestion(problem=f"{spec.response.name} can be something other than 0 and 1", hint=hint)
    return spec.response


def _sides(text: str) -> tuple[list[Any] | None, list[Any]]:
    """The terms of both sides, as formulaic reads them."""
    if not isinstance(text, str):
        raise BadQuestion(problem=f"a {type(text).__name__} is no formula", hint=_GRAMMAR)
    formulaic = needed("formulaic", "A formula", STATS)
    errors = needed("formulaic.errors", "A formula", STATS)
    try:
        formula: Any = formulaic.Formula(text)
    except (errors.FormulaicError, SyntaxError, ValueError, TypeError, AttributeError, RecursionError):
        raise BadQuestion(problem=f"the formula {text!r} is not well formed", hint=_GRAMMAR) from None
    left, right = (list(formula.lhs), formula.rhs) if hasattr(formula, "rhs") else (None, formula)
    try:
        sides = left, list(right)
        if not all(hasattr(term, "factors") for side in sides if side is not None for term in side):
            raise TypeError("not a list of terms")
    except TypeError:
        raise BadQuestion(problem=f"the formula {text!r} has several parts", hint=_GRAMMAR) from None
    if len(sides[1]) > MAX_COLUMNS:
        raise PlanTooLarge(what="number of terms in the formula", limit=MAX_COLUMNS)
    return sides


# --- factors ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """One factor as written: a number, or a categorical with the column of each level."""

    text: str
    number: Factor | None = None
    levels: tuple[tuple[str, Factor], ...] = ()
    reference: str = ""

    def coded(self, *, reduced: bool) -> list[tuple[str, Factor]]:
        """The columns' names and values; `reduced` leaves the reference level out."""
        if self.number is not None:
            return [(self.text, self.number)]
        mark = "T." if reduced else ""
        return [
            (f"{self.text}[{mark}{name}]", f) for name, f in self.levels if not (reduced and name == self.reference)
        ]


def _read_factor(factor: Any, schema: Schema) -> _Read:
    text, method = str(factor.expr), str(factor.eval_method.value)
    if method == "lookup":
        return _read_column(text, schema.column(text))
    tree = _parse(text)
    if isinstance(tree, ast.Call) and _function_name(tree) == "C":
        return _read_categorical(text, tree, schema)
    return _Read(text, number=_checked(_number_factor(tree, schema), schema))


def _read_column(text: str, column: Column) -> _Read:
    if column.type is ColumnType.CATEGORY:
        return _levels_of(text, column, None)
    if column.type not in _CATEGORICAL:
        hint = "Use numbers, truth values and categories; a difference of dates is a number: I(seen - came)."
        raise BadQuestion(problem=f"{text} is a {column.type}", hint=hint)
    return _Read(text, number=Factor(value=_bounded(column)))


def _bounded(column: Column) -> Expression:
    if column.range is None:
        raise UnboundedColumn(column=column.name)
    return ColumnValue(name=column.name)


def _number_factor(tree: ast.expr, schema: Schema) -> Factor:
    """`log(x)`, `I(x ** 2)`, or an expression in braces."""
    if isinstance(tree, ast.Call):
        name = _function_name(tree)
        if name in _FUNCTIONS:
            return Factor(value=_expression(_only_argument(tree), schema), function=_FUNCTIONS[name])
    return Factor(value=_expression(tree, schema))


def _checked(factor: Factor, schema: Schema) -> Factor:
    """A factor with its types checked, and every column that it reads bounded."""
    lower_sum(factor.value, schema)
    return factor


def _read_categorical(text: str, call: ast.Call, schema: Schema) -> _Read:
    hint = "Write C(x), or C(x, Treatment('level')) to compare with that level."
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    given = [*call.args, *named.values()]
    if not 1 <= len(given) <= 2 or not isinstance(given[0], ast.Name) or named.keys() - {"contrasts"}:
        raise BadQuestion(problem=f"{text} is no categorical column", hint=hint)
    reference = _reference(given[1], hint) if len(given) == 2 else None
    return _levels_of(text, schema.column(given[0].id), reference)


def _reference(tree: ast.expr, hint: str) -> object:
    """The level that Treatment, or formulaic's contr.treatment, names; None for the first."""
    if isinstance(tree, ast.Call) and _function_name(tree) in ("Treatment", "contr.treatment"):
        named = {keyword.arg: keyword.value for keyword in tree.keywords}
        given = [*tree.args, *named.values()]
        if not given:
            return None
        if len(given) == 1 and not named.keys() - {"reference", "base"} and isinstance(given[0], ast.Constant):
            return given[0].value
    if isinstance(tree, ast.Name) and tree.id == "Treatment":
        return None
    raise BadQuestion(problem=f"the coding {ast.unparse(tree)} is not available", hint=hint)


def _levels_of(text: str, column: Column, reference: object) -> _Read:
    """A column's declared levels, named as pandas prints them."""
    if column.codes is None or column.type not in _CATEGORICAL:
        raise NoDomain(column=column.name)
    levels = tuple(_level(column, code, label) for code, label in zip(column.codes, column.domain_labels, strict=True))
    names = [name for name, _ in levels]
    chosen = names[0] if reference is None else str(reference)
    if chosen not in names:
        raise UnknownCategory(value=chosen, column=column.name, nearest=nearest(chosen, names))
    return _Read(text, levels=levels, reference=chosen)


def _level(column: Column, code: int, label: str) -> tuple[str, Factor]:
    value = Term(ColumnValue(name=column.name))
    match column.type:
        case ColumnType.BOOL:
            return str(bool(code)), Factor(value=value.expression if code else (~value).expression)
        case ColumnType.INT:
            return str(code), Factor(value=(value == code).expression)
        case ColumnType.DECIMAL:
            exact = code * column.step
            return str(float(exact)), Factor(value=(value == float(exact)).expression)
        case _:
            return label, Factor(value=(value == label).expression)


# --- expressions ------------------------------------------------------------------------------------------------


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadQuestion(problem=f"{text} in the formula is not well formed", hint=_GRAMMAR) from None


def _function_name(call: ast.Call) -> str:
    """`log` for `log(...)` and `np.log(...)`."""
    return ast.unparse(call.func).removeprefix("np.").removeprefix("numpy.")


def _only_argument(call: ast.Call) -> ast.expr:
    if len(call.args) != 1 or call.keywords:
        raise BadQuestion(problem=f"{ast.unparse(call)} has other than one argument", hint=_GRAMMAR)
    return call.args[0]


_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _expression(tree: ast.expr, schema: Schema) -> Expression:
    """What stands inside I(...) or a function, as an expression of the closed algebra. Raises BadQuestion."""
    try:
        return expression_of(_term(tree, schema))
    except RecursionError:
        raise PlanTooLarge(what="nesting", limit="a few dozen levels") from None


def _term(tree: ast.expr, schema: Schema) -> Term:
    match tree:
        case ast.Name(id=name):
            return Term(ColumnValue(name=schema.column(name).name))
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return Term(literal(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_term(operand, schema)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _term(operand, schema)
        case ast.UnaryOp(op=ast.Invert() | ast.Not(), operand=operand):
            return ~_term(operand, schema)
        case ast.BinOp(op=ast.Pow(), left=base, right=ast.Constant(value=int() as power)):
            return _power(_term(base, schema), power)
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op, left=left, right=right):
            return joined("and" if isinstance(op, ast.BitAnd) else "or", (_term(left, schema), _term(right, schema)))
        case ast.BoolOp(op=op, values=values):
            return joined("and" if isinstance(op, ast.And) else "or", [_term(value, schema) for value in values])
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
            made: Term = _ARITHMETIC[type(op)](_term(left, schema), _term(right, schema))
            return made
        case ast.Compare() if all(type(op) in _COMPARISONS for op in tree.ops):
            return _comparison(tree, schema)
        case ast.Call():
            return _call(tree, schema)
    raise BadQuestion(problem=f"{ast.unparse(tree)} cannot stand in a formula", hint=_GRAMMAR)


def _comparison(tree: ast.Compare, schema: Schema) -> Term:
    """`0 < x <= 5` is both comparisons, as in Python."""
    sides = [_term(side, schema) for side in (tree.left, *tree.comparators)]
    tests = [_COMPARISONS[type(op)](*pair) for op, pair in zip(tree.ops, pairwise(sides), strict=True)]
    return tests[0] if len(tests) == 1 else joined("and", tests)


def _call(tree: ast.Call, schema: Schema) -> Term:
    match _function_name(tree), tree.args:
        case "I", _:
            return _term(_only_argument(tree), schema)
        case "round", [value] if not tree.keywords:
            return _term(value, schema).round()
        case "round", [value, ast.Constant(value=int() as digits)] if not tree.keywords:
            return _term(value, schema).round(digits)
    name = _function_name(tree)
    if name in _FUNCTIONS:
        problem = f"{name}(...) stands inside another expression, where values must be exact"
        raise BadQuestion(problem=problem, hint=f"Let it stand alone: {name}(x), or {name}(x):z for a product.")
    known = f"The functions are C, I, round, {', '.join(_FUNCTIONS)}."
    raise BadQuestion(problem=f"a formula has no function {name}", hint=known)


def _power(base: Term, power: int) -> Term:
    if isinstance(power, bool) or not 1 <= power <= MAX_POWER:
        hint = f"Use whole powers from 1 to {MAX_POWER}."
        raise BadQuestion(problem=f"the power {power} is not available", hint=hint)
    made = base
    for _ in range(power - 1):
        made = made * base
    return made


# --- coding -----------------------------------------------------------------------------------------------------

_Scoped = tuple[tuple[str, bool], ...]
"""A product of factors, each by its text and whether its reference level is left out."""


class _Reader:
    """Codes terms in order; what earlier terms span is not coded again."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._factors: dict[str, _Read] = {}
        self._spanned: set[frozenset[tuple[str, bool]]] = set()
        self.intercept = False

    def columns(self, term: Any) -> list[DesignColumn]:
        """The design columns of one term."""
        factors = [self._read(factor) for factor in term.factors if str(factor.expr) != "1"]
        if len(factors) > MAX_FACTORS:
            raise BadQuestion(problem=f"{term} has more than {MAX_FACTORS} factors", hint="Leave some out.")
        span = [scoped for scoped in _span(factors) if frozenset(scoped) not in self._spanned]
        self._spanned.update(map(frozenset, span))
        found = [self._coded(scoped) for scoped in _simplified(span)]
        return [column for columns in found for column in columns]

    def _read(self, factor: Any) -> _Read:
        text = str(factor.expr)
        if str(factor.eval_method.value) == "literal":
            raise BadQuestion(problem=f"the number {text} scales a term", hint=f"Write I({text} * x).")
        if text not in self._factors:
            self._factors[text] = _read_factor(factor, self._schema)
        return self._factors[text]

    def _coded(self, scoped: _Scoped) -> Iterator[DesignColumn]:
        """One column for each combination of levels; the first factor's vary fastest."""
        if not scoped:
            self.intercept = True
            return
        parts = [self._factors[text].coded(reduced=reduced) for text, reduced in scoped]
        for chosen in product(*reversed(parts)):
            names, factors = zip(*reversed(chosen), strict=True)
            yield built(DesignColumn, name=":".join(names), factors=factors)


def _span(factors: Sequence[_Read]) -> Iterator[_Scoped]:
    """The products that span a term: a categorical is its reduced coding, and a constant."""
    choices = [((f.text, False),) if f.number is not None else ((f.text, True), None) for f in factors]
    for chosen in product(*choices):
        yield tuple(one for one in chosen if one is not None)


def _simplified(terms: Iterable[_Scoped]) -> list[_Scoped]:
    """The fewest products with the same span: b + a-:b becomes a:b, for a reduced factor a- and any b."""
    kept: list[_Scoped] = []
    for term in sorted(terms, key=len):
        for one in kept:
            added = [factor for factor in term if factor not in one]
            if len(one) == len(term) - 1 and len(added) == 1 and added[0][1]:
                whole = tuple((text, reduced and (text, reduced) != added[0]) for text, reduced in term)
                kept = _simplified([*(other for other in kept if other != one), whole])
                break
        else:
            kept.append(term)
    return kept


# --- response ---------------------------------------------------------------------------------------------------


def _response(terms: Sequence[Any], schema: Schema) -> DesignColumn:
    if len(terms) != 1 or len(terms[0].factors) != 1:
        raise BadQuestion(problem="the response is other than one column or expression", hint='Write "y ~ a + b".')
    (factor,) = terms[0].factors
    if str(factor.eval_method.value) == "literal":
        raise BadQuestion(problem="the response is a constant", hint='Write "y ~ a + b".')
    read = _read_factor(factor, schema)
    if read.number is None:
        hint = f'Compare it with a level: I({read.text.removeprefix("C(").partition(",")[0].rstrip(")")} == "level").'
        raise BadQuestion(problem=f"the response {read.text} is a category", hint=hint)
    return built(DesignColumn, name=read.text, factors=(read.number,))


# --- on the merchant's own rows ---------------------------------------------------------------------------------


def design_matrix(spec: ModelSpec, schema: Schema, frame: pandas.DataFrame) -> Vector:
    """The design of the merchant's own rows: float64 [rows, names], the intercept first where there is one.

    NaN where a value is missing, or a function is not defined. Values are taken as they are, not rounded to the
    schema's resolution. Raises BadQuestion for a column that the frame lacks, UnknownCategory for a level outside the
    declared domain.
    """
    import numpy as np

    own = design_values(spec.columns, schema, frame)
    return np.column_stack([np.ones(len(frame)), own]) if spec.intercept else own


def design_values(columns: Sequence[DesignColumn], schema: Schema, frame: pandas.DataFrame) -> Vector:
    """float64 [rows, columns]: each column on each row of the frame; otherwise as `design_matrix`."""
    import numpy as np

    rows = _Rows(schema, frame)
    values = np.ones((len(frame), len(columns)))
    for place, column in enumerate(columns):
        for factor in column.factors:
            values[:, place] *= rows.factor(factor)
    return values


class _Rows:
    """Evaluates expressions on a frame's rows: numbers and truth values (1, 0) in float64, NaN for NULL."""

    def __init__(self, schema: Schema, frame: pandas.DataFrame) -> None:
        self._schema, self._frame = schema, frame

    def factor(self, factor: Factor) -> Vector:
        """`function(value)` on every row."""
        import numpy as np

        value = self._number(factor.value)
        with np.errstate(all="ignore"):
            match factor.function:
                case Function.VALUE:
                    made = value
                case Function.LOG:
                    made = np.log(value)
                case Function.LOG1P:
                    made = np.log1p(value)
                case Function.SQRT:
                    made = np.sqrt(value)
                case Function.EXP:
                    made = np.exp(value)
        return np.where(np.isfinite(made), made, np.nan)

    def _column(self, name: str) -> Vector:
        """A column as numbers: a category as its place in the domain, dates as days, times as microseconds."""
        import numpy as np
        import pandas

        column = self._schema.column(name)
        if name not in self._frame.columns:
            names = nearest(name, map(str, self._frame.columns))
            raise BadQuestion(problem=f"the data frame has no column {name}; the nearest is {names}", hint="Add it.")
        series = self._frame[name]
        if column.type in (ColumnType.INT, ColumnType.DECIMAL, ColumnType.BOOL):
            try:
                return pandas.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan)
            except (ValueError, TypeError):
                hint = "Convert it first, with pandas.to_numeric."
                raise BadQuestion(problem=f"{name} of the data frame is not numeric", hint=hint) from None
        if column.type is ColumnType.CATEGORY:
            codes = [np.nan if pandas.isna(value) else column.encode(str(value)) for value in series]
            return np.array(codes, dtype=np.float64)
        try:
            times = pandas.to_datetime(series, utc=column.type is ColumnType.TIMESTAMP)
        except (ValueError, TypeError):
            raise BadQuestion(problem=f"{name} of the data frame is no date", hint="Use pandas.to_datetime.") from None
        unit = pandas.Timedelta(days=1) if column.type is ColumnType.DATE else pandas.Timedelta(microseconds=1)
        epoch = pandas.Timestamp(0, tz="UTC" if column.type is ColumnType.TIMESTAMP else None)
        return np.asarray(((times - epoch) / unit).to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)

    def _number(self, expression: Expression) -> Vector:
        import numpy as np

        match expression:
            case ColumnValue(name=name):
                return self._column(name)
            case Number(value=value):
                return np.full(len(self._frame), float(Fraction(value)))
            case TruthValue(value=truth):
                return np.full(len(self._frame), float(truth))
            case Arithmetic(op=op, left=left, right=right):
                with np.errstate(all="ignore"):
                    made: Vector = _NUMPY[op](self._number(left), self._number(right))
                return made
            case Round(value=value, digits=digits):
                scaled = self._number(value) * 10.0**digits
                tie = 1 + 1e-15  # 0.285 is a little less in binary, and rounds as the decimal does
                return np.copysign(np.floor(np.abs(scaled) * tie + 0.5), scaled) / 10.0**digits
            case Case(branches=branches, otherwise=otherwise):
                made = np.full(len(self._frame), np.nan) if otherwise is None else self._number(otherwise)
                for branch in reversed(branches):
                    made = np.where(self._number(branch.when) == 1, self._number(branch.then), made)
                return made
            case Comparing(comparison=comparison, left=left, right=right):
                sides = self._side(left, right), self._side(right, left)
                missing = np.isnan(sides[0]) | np.isnan(sides[1])
                return np.where(missing, np.nan, _NUMPY_COMPARISON[comparison](*sides))
            case Logic(op=op, terms=terms):
                values = np.stack([self._number(term) for term in terms])
                deciding = 0.0 if op == "and" else 1.0
                unknown = np.where(np.isnan(values).any(axis=0), np.nan, 1 - deciding)
                return np.where((values == deciding).any(axis=0), deciding, unknown)
            case Not(term=term):
                return 1 - self._number(term)
            case Missing(value=value):
                return np.isnan(self._number(value)).astype(np.float64)
        raise BadQuestion(problem=f"a {expression.op} cannot be computed on rows of your own", hint=_GRAMMAR)

    def _side(self, side: Expression, beside: Expression) -> Vector:
        """One side of a comparison; a text is read by the column on the other side."""
        import numpy as np

        if isinstance(side, TextValue):
            assert isinstance(beside, ColumnValue)  # or the formula would not have been read
            return np.full(len(self._frame), float(self._schema.column(beside.name).encode(side.value)))
        return self._number(side)


_NUMPY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
_NUMPY_COMPARISON: Mapping[Comparison, Callable[[Any, Any], Any]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.NOT_EQUAL: operator.ne,
    Comparison.LESS: operator.lt,
    Comparison.LESS_OR_EQUAL: operator.le,
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_OR_EQUAL: operator.ge,
}
