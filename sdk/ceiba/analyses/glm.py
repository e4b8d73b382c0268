"""Generalised linear models: logistic, Poisson, negative binomial, Gaussian (PROTOCOL §4.1).

The holders iterate among themselves; what is released is the final fit: coefficients, their covariance, deviance,
log-likelihood and the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ceiba.analyses.coefficients import coefficient_rows, coefficient_titles
from ceiba.analyses.iterated import IteratedOutcome
from ceiba.analysis import Analysis
from ceiba.extras import stats
from ceiba.formula import read_formula, require_binary
from ceiba.models import FittedModel, LinkFunction, Origin
from ceiba.summary import TablePart
from ceiba.terms import built, literal
from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.schema import Schema, nearest
from ceiba_protocol.statistics.glm import GLM, Family

if TYPE_CHECKING:
    import pandas

    from ceiba.models import Vector
    from ceiba.query import Table
    from ceiba.result import Result


_LINKS = {
    Family.GAUSSIAN: LinkFunction.IDENTITY,
    Family.BINOMIAL: LinkFunction.LOGIT,
    Family.POISSON: LinkFunction.LOG,
    Family.NEGATIVE_BINOMIAL: LinkFunction.LOG,
}


@dataclass(frozen=True, repr=False)
class GlmOutcome(IteratedOutcome):
    """A fitted model. With a Gaussian, the covariance has the dispersion deviance / (n − p) in it, else 1."""

    family: Family
    deviance: float

    title = "Generalised linear model"

    def predict(self, frame: pandas.DataFrame, *, per_unit: bool = False) -> Vector:
        """The mean response on rows of your own: `FittedModel.predict`."""
        return self.model.predict(frame, per_unit=per_unit)

    @property
    def dispersion(self) -> float:
        """What the variance function is multiplied by."""
        return self.deviance / self.residual_df if self.family is Family.GAUSSIAN else 1.0

    @property
    def residual_df(self) -> int:
        """Rows less parameters."""
        return self.rows - len(self.names)

    @property
    def aic(self) -> float:
        """2p − 2·log-likelihood (Akaike 1974); p counts the coefficients."""
        return 2 * len(self.names) - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """p·log n − 2·log-likelihood (Schwarz 1978)."""
        return len(self.names) * math.log(self.rows) - 2 * self.log_likelihood

    def parts(self) -> Sequence[TablePart]:
        df = self.residual_df if self.family is Family.GAUSSIAN else None
        rows = coefficient_rows(self.names, self.coefficients, self.standard_errors, df)
        facts = [
            ("outcome", self.spec.response.name if self.spec.response else ""),
            ("family", self.family.value.replace("_", " ")),
            ("rows", self.rows),
            ("residual degrees of freedom", self.residual_df),
            ("deviance", self.deviance),
            ("log-likelihood", self.log_likelihood),
            ("AIC", self.aic),
            ("iterations", self.iterations),
        ]
        parts = [TablePart("coefficients", coefficient_titles(df), rows), TablePart.of_facts("fit", facts)]
        if self.family is not Family.GAUSSIAN and self.spec.columns:
            parts.insert(1, TablePart(*self._ratios(rows)))
        return parts

    def _ratios(self, rows: Sequence[tuple[Any, ...]]) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
        """Exponentiated coefficients with their intervals."""
        name = "odds ratios" if self.family is Family.BINOMIAL else "rate ratios"
        ratios = [(row[0], math.exp(row[1]), _exp(row[5]), _exp(row[6])) for row in rows if row[0] != "Intercept"]
        return name, ("", name.removesuffix("s"), "[0.025", "0.975]"), ratios

    def plot(self, **options: Any) -> Any:
        """A forest plot: ratios with their intervals, or coefficients."""
        from ceiba import plots

        if not self.spec.columns:
            raise BadQuestion(problem="the model has no column to draw", hint="Read its summary().")
        main = self.parts()[0].rows
        if self.family is Family.GAUSSIAN:
            shown = [(row[0], row[1], row[5], row[6]) for row in main if row[0] != "Intercept"]
            defaults: dict[str, Any] = {"reference": 0.0, "log": False, "label": "coefficient"}
        else:
            _, columns, shown = self._ratios(main)
            defaults = {"reference": 1.0, "log": True, "label": columns[1]}
        names, estimates, lower, upper = (list(part) for part in zip(*shown, strict=True))
        return plots.forest(names, estimates, lower, upper, **(defaults | options))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def glm(
    table: Table, formula: str, family: str, *, offset: str | None = None, exposure: str | None = None,
    weights: str | None = None, alpha: float = 1.0, max_iterations: int = 30,
) -> Analysis[GlmOutcome]:  # fmt: skip
    """`offset`, `exposure` and `weights` are the right-hand side of a formula with one column: "log(days)", "days".
    `max_iterations`: 1 to 100."""
    stats("A model's summary")  # said before anything is asked
    if family not in list(Family):
        hint = f"The nearest that there is: {nearest(family, [one.value for one in Family])}."
        raise BadQuestion(problem=f"there is no family {family}", hint=hint)
    kind, schema = Family(family), table.schema
    spec = read_formula(formula, schema)
    response = require_binary(spec, schema) if kind is Family.BINOMIAL else spec.response
    if response is None:
        raise BadQuestion(problem=f"the formula {formula!r} has no outcome", hint='Write "outcome ~ column + column".')
    if offset is not None and exposure is not None:
        raise BadQuestion(problem="an exposure is an offset, and there are both", hint="Give one of them.")
    offset_column = _exposure(exposure, schema) if exposure is not None else _one_column(offset, schema, "offset")
    statistic = built(
        GLM,
        family=kind,
        response=response,
        columns=spec.columns,
        intercept=spec.intercept,
        offset=offset_column,
        weights=_one_column(weights, schema, "weights"),
        alpha=literal(alpha),
        max_iterations=max_iterations,
    )

    def finish(result: Result) -> GlmOutcome:
        found = result.value
        rows, size = found["rows"], len(found["names"])
        scale = found["deviance"] / (rows - size) if kind is Family.GAUSSIAN else 1.0
        likelihood = _gaussian_likelihood(rows, found["deviance"]) if kind is Family.GAUSSIAN else None
        covariance = tuple(tuple(one * scale for one in row) for row in found["covariance"])
        model = FittedModel(
            spec=spec,
            schema=schema,
            family=kind.value,
            link=_LINKS[kind],
            values=tuple(found["coefficients"]),
            covariance=covariance,
            rows=rows,
            origin=Origin.of(result),
            facts={"deviance": found["deviance"]} | _alpha(kind, alpha),
            offset=offset_column,
        )
        return GlmOutcome(
            result=result,
            model=model,
            spec=spec,
            family=kind,
            names=tuple(found["names"]),
            coefficients=tuple(found["coefficients"]),
            covariance=covariance,
            deviance=found["deviance"],
            log_likelihood=found["log_likelihood"] if likelihood is None else likelihood,
            rows=rows,
            iterations=found["iterations"],
        )

    return Analysis(table.agg(fit=statistic), finish)


def _alpha(family: Family, alpha: float) -> dict[str, float]:
    return {"alpha": float(alpha)} if family is Family.NEGATIVE_BINOMIAL else {}


def _one_column(text: str | None, schema: Schema, what: str) -> DesignColumn | None:
    if text is None:
        return None
    columns = read_formula(f"~ 0 + {text}", schema).columns
    if len(columns) != 1:
        raise BadQuestion(problem=f"{what} {text!r} is not one column", hint=f'Give one, such as {what}="log(days)".')
    return columns[0]


def _exposure(text: str, schema: Schema) -> DesignColumn:
    """Its logarithm is the offset."""
    column = _one_column(text, schema, "exposure")
    assert column is not None
    if len(column.factors) != 1 or column.factors[0].function is not Function.VALUE:
        raise BadQuestion(problem=f"the exposure {text!r} is not a plain column", hint='Use offset="log(...)" instead.')
    factor = Factor(value=column.factors[0].value, function=Function.LOG)
    return DesignColumn(name=f"log({column.name})", factors=(factor,))


def _gaussian_likelihood(rows: int, deviance: float) -> float:
    """At the dispersion that maximises it, deviance / n."""
    return -rows / 2 * (math.log(2 * math.pi * deviance / rows) + 1)
