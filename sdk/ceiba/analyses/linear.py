"""Linear regression, ordinary and ridge, from exact sums of products.

Coefficients, residual sums of squares and their covariance are solved exactly and rounded once; only the distributions
(t, F) and logarithms are computed in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import log, pi
from typing import TYPE_CHECKING, Any

from ceiba.analyses.coefficients import coefficient_rows, coefficient_titles
from ceiba.analyses.exact import (
    Dependent,
    ExactAnalysis,
    Matrix,
    Moments,
    ask_moments,
    dot,
    inverse,
    read_moments,
    times,
)
from ceiba.analysis import Outcome
from ceiba.extras import stats
from ceiba.formula import INTERCEPT, ModelSpec, read_formula
from ceiba.models import FittedModel, LinkFunction, Origin
from ceiba.summary import TablePart
from ceiba.terms import Scalar
from ceiba_protocol.design import DesignColumn, Function
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Expression, product
from ceiba_protocol.schema import nearest
from ceiba_protocol.statistics.base import root

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ceiba.query import Table
    from ceiba.result import Result

ROWS_PER_COEFFICIENT = 10
"""Fewer say little about the coefficients, and much about the rows."""


@dataclass(frozen=True)
class Coefficient:
    """One line of a summary."""

    name: str
    value: float
    """In units of the response per unit of the column."""
    standard_error: float
    t: float
    p: float
    """Two-sided, of the t distribution."""
    low: float
    high: float
    """The interval at the fit's level."""


@dataclass(frozen=True, repr=False)
class LinearFit(Outcome):
    """Ordinary least squares (Draper and Smith 1998, §5; the numbers that statsmodels' OLS gives)."""

    model: FittedModel
    coefficients: tuple[Coefficient, ...]
    level: float
    """Of the coefficients' intervals: 0.95 for 95 %."""
    n: int
    """Complete rows."""
    residual_degrees: int
    model_degrees: int
    """Coefficients besides the constant."""
    residual_variance: float
    """RSS / residual degrees, in the response's unit squared."""
    r_squared: float
    """About the mean; about 0 where the columns do not span a constant."""
    adjusted_r_squared: float
    f: float | None
    """Of all coefficients besides the constant being 0; None for a constant alone."""
    f_p: float | None
    log_likelihood: float
    aic: float
    bic: float
    condition_number: float
    """Of the columns, each scaled to length 1 (Belsley 1980): 1 for unrelated columns, above 30 for collinear ones."""

    title = "Linear regression"

    def plot(self, **options: Any) -> Figure:
        """A forest plot of the coefficients but the intercept, with their intervals. Raises BadQuestion without any."""
        from ceiba import plots

        shown = [one for one in self.coefficients if one.name != INTERCEPT]
        if not shown:
            raise BadQuestion(problem="the model has no column to draw", hint="Read its summary().")
        names, values = [one.name for one in shown], [one.value for one in shown]
        ends = [one.low for one in shown], [one.high for one in shown]
        defaults: dict[str, Any] = {"reference": 0.0, "log": False, "label": "coefficient"}
        return plots.forest(names, values, *ends, **(defaults | options))

    def parts(self) -> Sequence[TablePart]:
        """The coefficients; then the fit as a whole."""
        rows = [(one.name, one.value, one.standard_error, one.t, one.p, one.low, one.high) for one in self.coefficients]
        response = self.model.spec.response
        facts = [
            ("response", "" if response is None else response.name),
            ("n", self.n),
            ("df residual", self.residual_degrees),
            ("df model", self.model_degrees),
            ("R²", self.r_squared),
            ("adjusted R²", self.adjusted_r_squared),
            ("F", self.f),
            ("p (F)", self.f_p),
            ("log-likelihood", self.log_likelihood),
            ("AIC", self.aic),
            ("BIC", self.bic),
            ("residual standard error", self.residual_variance**0.5),
            ("condition number", self.condition_number),
        ]
        return [
            TablePart("Coefficients", coefficient_titles(self.residual_degrees, self.level), rows),
            TablePart.of_facts("Fit", facts),
        ]

    def f_test(self, *names: str) -> tuple[float, float]:
        """F and p of these coefficients all being 0, such as those of a category: Wald's test, which is the F test that
        compares the fits with and without them. Raises BadQuestion for a name that is no coefficient's."""
        import numpy as np

        known = list(self.model.spec.names)
        for name in names:
            if name not in known:
                problem = f"{name} is no coefficient; the nearest is {nearest(name, known)}"
                raise BadQuestion(problem=problem, hint="`fit.model.coefficients` lists them.")
        if not names or len(set(names)) != len(names):
            raise BadQuestion(problem="f_test() takes coefficients, each once", hint=f'Write f_test("{known[-1]}").')
        places = [known.index(name) for name in names]
        own = np.array(self.model.values)[places]
        covariance = np.array(self.model.covariance)[np.ix_(places, places)]
        f = float(own @ np.linalg.solve(covariance, own)) / len(places)
        return f, float(stats("f_test()").f.sf(f, len(places), self.residual_degrees))

    def notes(self) -> list[str]:
        """Warns of columns that are nearly collinear."""
        if self.condition_number <= 30:
            return []
        return [
            f"The condition number is {self.condition_number:.3g}: some columns nearly depend on others, so their "
            "coefficients are uncertain. What is shown is exact all the same."
        ]


@dataclass(frozen=True, repr=False)
class RidgeFit(Outcome):
    """Ridge regression (Hoerl and Kennard 1970): coefficients without standard errors, which a penalty makes biased."""

    model: FittedModel
    penalty: float
    standardise: bool
    n: int
    """Complete rows."""
    r_squared: float
    """1 − RSS/TSS on the rows that it was fitted on; about 0 without an intercept."""
    effective_degrees: float
    """Trace of the hat matrix, the intercept's 1 included (Hastie, Tibshirani and Friedman 2009, eq. 3.50)."""

    title = "Ridge regression"

    def parts(self) -> Sequence[TablePart]:
        """The coefficients; then the fit as a whole."""
        facts = [
            ("n", self.n),
            ("penalty", self.penalty),
            ("standardised columns", self.standardise),
            ("R²", self.r_squared),
            ("effective degrees of freedom", self.effective_degrees),
        ]
        rows = list(self.model.coefficients.items())
        return [TablePart("Coefficients", ("", "coef"), rows), TablePart.of_facts("Fit", facts)]

    def notes(self) -> list[str]:
        """Why there are no p-values."""
        return ["A penalty biases the coefficients, so they have no standard errors and no p-values."]


# --- asking -----------------------------------------------------------------------------------------------------


def linear(table: Table, formula: str, *, level: float = 0.95) -> ExactAnalysis[LinearFit]:
    """Ordinary least squares of a formula. Raises what `read_formula` does, and BadQuestion."""
    if not 0 < level < 1:
        raise BadQuestion(problem=f"the level {level} is not between 0 and 1", hint="Write level=0.95 for 95 %.")
    spec = _spec(table, formula)
    return ExactAnalysis(_ask(table, spec, "linear"), partial(_fit, spec, table, level))


def ridge(table: Table, formula: str, *, penalty: Scalar, standardise: bool = True) -> ExactAnalysis[RidgeFit]:
    """Least squares with `penalty`·Σβ², the intercept not penalised. Raises what `linear` does."""
    exact = Fraction(Decimal(repr(penalty)) if isinstance(penalty, float) else penalty)
    if exact <= 0:
        raise BadQuestion(problem=f"the penalty {penalty} is not above 0", hint="For no penalty, use linear().")
    spec = _spec(table, formula)
    return ExactAnalysis(_ask(table, spec, "ridge"), partial(_fit_ridge, spec, table, exact, standardise))


def _spec(table: Table, formula: str) -> ModelSpec:
    spec = read_formula(formula, table.schema)
    if spec.response is None:
        raise BadQuestion(problem=f"the formula {formula!r} has no response", hint='Write "y ~ a + b".')
    return spec


def _ask(table: Table, spec: ModelSpec, what: str) -> Any:
    assert spec.response is not None
    values = [exact_value(column, spec.text) for column in (*spec.columns, spec.response)]
    return ask_moments(table, values, what)


def exact_value(column: DesignColumn, formula: str) -> Expression:
    """A column as one exact expression. Raises BadQuestion for a column with a function, whose sums are not exact."""
    if any(factor.function is not Function.VALUE for factor in column.factors):
        problem = f"{column.name} is no exact number on each row, and this fit is made of exact sums"
        raise BadQuestion(problem=problem, hint=f'Use table.glm({formula!r}, family="gaussian"), which iterates.')
    value = column.factors[0].value
    for factor in column.factors[1:]:
        value = product(value, factor.value)
    return value


# --- finishing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Normal:
    """The normal equations of one fit, exactly: X'X, X'y, y'y, and what they are about."""

    names: tuple[str, ...]
    gram: Matrix
    moment: list[Fraction]
    square: Fraction
    ones: list[Fraction]
    """X'1."""
    n: int
    total: Fraction
    """Σy."""

    @property
    def about_mean(self) -> Fraction:
        """Σ(y − ȳ)²."""
        return self.square - self.total * self.total / self.n


def _normal(spec: ModelSpec, moments: Moments) -> _Normal:
    """Raises BadQuestion for too few rows, or a response that does not vary."""
    response = len(spec.columns)
    places: list[int | None] = [*([None] if spec.intercept else []), *range(response)]
    gram = moments.gram([*places, response])
    made = _Normal(
        names=spec.names,
        gram=[row[:-1] for row in gram[:-1]],
        moment=[row[-1] for row in gram[:-1]],
        square=gram[-1][-1],
        ones=[row[-1] for row in moments.gram([*places, None])[:-1]],
        n=moments.n,
        total=moments.sums[response],
    )
    require_rows(made.n, len(made.names))
    if made.about_mean == 0:
        assert spec.response is not None
        raise BadQuestion(problem=f"{spec.response.name} is the same in all {made.n} rows", hint="Choose other rows.")
    return made


def require_rows(rows: int, coefficients: int) -> None:
    """Raises BadQuestion for fewer than ten complete rows for each coefficient."""
    if rows < ROWS_PER_COEFFICIENT * coefficients:
        problem = f"{rows} complete rows are too few for {coefficients} coefficients: it takes ten for each"
        raise BadQuestion(problem=problem, hint="Leave out columns, or levels and interactions of categories.")


def inverse_of(names: Sequence[str], gram: Matrix) -> Matrix:
    """(X'X)⁻¹, exactly. Raises BadQuestion, which names the column that is constant or depends on others."""
    try:
        return inverse(gram)
    except Dependent as found:
        own, others = names[found.place], [names[place] for place in found.on]
    if not others:
        raise BadQuestion(problem=f"{own} is 0 in every row", hint="Leave it out; no row may have that level.")
    if others == [INTERCEPT]:
        raise BadQuestion(problem=f"{own} is the same in every row, as the intercept is", hint="Leave it out.")
    problem = f"{own} is collinear: it can be computed from {', '.join(others)}"
    raise BadQuestion(problem=problem, hint="Leave one of them out.")


def _fit(spec: ModelSpec, table: Table, level: float, result: Result) -> LinearFit:
    law = stats("linear()").f
    normal = _normal(spec, read_moments(result, "linear"))
    inverted = inverse_of(normal.names, normal.gram)
    beta = times(inverted, normal.moment)
    residual = normal.square - dot(beta, normal.moment)
    size, n = len(beta), normal.n
    if residual == 0:
        hint = "Leave out what the response is made of."
        raise BadQuestion(problem="the columns give the response exactly, so there is nothing to estimate", hint=hint)
    degrees = n - size
    variance = residual / degrees
    has_constant = spec.intercept or dot(normal.ones, times(inverted, normal.ones)) == n
    total = normal.about_mean if has_constant else normal.square
    model_degrees = size - has_constant
    f = float((total - residual) / model_degrees / variance) if model_degrees else None
    likelihood = -n / 2 * (log(2 * pi) + log(residual / n) + 1)
    unexplained = residual / total
    covariance = [[value * variance for value in row] for row in inverted]
    model = FittedModel(
        spec=spec,
        schema=table.schema,
        family="gaussian",
        link=LinkFunction.IDENTITY,
        values=tuple(map(float, beta)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        rows=n,
        origin=Origin.of(result),
        facts={"residual_variance": float(variance), "residual_degrees": float(degrees)},
    )
    errors = [_root(covariance[place][place]) for place in range(size)]
    return LinearFit(
        result=result,
        model=model,
        coefficients=tuple(
            Coefficient(*row) for row in coefficient_rows(normal.names, model.values, errors, degrees, level)
        ),
        level=level,
        n=n,
        residual_degrees=degrees,
        model_degrees=model_degrees,
        residual_variance=float(variance),
        r_squared=float(1 - unexplained),
        adjusted_r_squared=float(1 - unexplained * (n - has_constant) / degrees),
        f=f,
        f_p=None if f is None else float(law.sf(f, model_degrees, degrees)),
        log_likelihood=likelihood,
        aic=-2 * likelihood + 2 * size,
        bic=-2 * likelihood + log(n) * size,
        condition_number=_condition_number(normal.gram),
    )


def _fit_ridge(spec: ModelSpec, table: Table, penalty: Fraction, standardise: bool, result: Result) -> RidgeFit:
    """With standardised columns the penalty of a column is multiplied by its variance (population), which is the same
    fit in the columns' own units."""
    moments = read_moments(result, "ridge")
    normal = _normal(spec, moments)
    scatter = moments.scatter()
    start = 1 if spec.intercept else 0
    penalised = [list(row) for row in normal.gram]
    for place in range(len(spec.columns)):
        weight = scatter[place][place] / moments.n if standardise else Fraction(1)
        if weight == 0:
            problem = f"{spec.columns[place].name} is the same in every row, so it cannot be standardised"
            raise BadQuestion(problem=problem, hint="Leave it out.")
        penalised[start + place][start + place] += penalty * weight
    inverted = inverse_of(normal.names, penalised)
    beta = times(inverted, normal.moment)
    residual = normal.square - 2 * dot(beta, normal.moment) + dot(beta, times(normal.gram, beta))
    total = normal.about_mean if spec.intercept else normal.square
    trace = sum((dot(row, column) for row, column in zip(inverted, normal.gram, strict=True)), Fraction(0))
    model = FittedModel(
        spec=spec,
        schema=table.schema,
        family="gaussian",
        link=LinkFunction.IDENTITY,
        values=tuple(map(float, beta)),
        covariance=(),
        rows=normal.n,
        origin=Origin.of(result),
        facts={"penalty": float(penalty)},
    )
    return RidgeFit(
        result=result,
        model=model,
        penalty=float(penalty),
        standardise=standardise,
        n=normal.n,
        r_squared=float(1 - residual / total),
        effective_degrees=float(trace),
    )


def _root(exact: Fraction) -> float:
    return root(exact.numerator, exact.denominator)


def _condition_number(gram: Matrix) -> float:
    import numpy as np

    lengths = [_root(gram[place][place]) for place in range(len(gram))]
    scaled = [
        [float(value) / a / b for value, b in zip(row, lengths, strict=True)]
        for row, a in zip(gram, lengths, strict=True)
    ]
    values = np.linalg.eigvalsh(np.array(scaled))
    return float(np.sqrt(values[-1] / values[0])) if values[0] > 0 else float("inf")
