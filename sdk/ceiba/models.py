"""Fitted models: what a fit is to its owner, on rows of its own and in other programs.

    fit = heart.linear("cholesterol ~ age + C(sex)").run()
    fit.model.predict(my_patients)
    Path("fit.json").write_text(fit.model.to_json())
    Path("fit.pmml").write_text(fit.model.to_pmml())

A model has the coefficients, and where they came from; it has no row, and no sum that is not in the coefficients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ceiba.formula import ModelSpec, design_matrix
from ceiba.terms import Term
from ceiba_protocol.canonical import canonical_json
from ceiba_protocol.design import DesignColumn, Function
from ceiba_protocol.errors import BadQuestion, CeibaError
from ceiba_protocol.expression import Expression, number
from ceiba_protocol.schema import Schema

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas

    from ceiba.result import Result

    Vector = npt.NDArray[np.float64]

FORMAT = "ceiba-model-1"
MAX_JSON = 16 * 1024 * 1024
"""Characters of a model's JSON that are read."""


class LinkFunction(StrEnum):
    """What of the mean response is linear in the coefficients."""

    IDENTITY = "identity"
    LOGIT = "logit"
    LOG = "log"

    def mean(self, linear: Vector) -> Vector:
        """The mean response at values of the linear predictor."""
        import numpy as np

        with np.errstate(over="ignore"):
            match self:
                case LinkFunction.IDENTITY:
                    return linear
                case LinkFunction.LOGIT:
                    return np.asarray(1 / (1 + np.exp(-linear)), dtype=np.float64)
                case LinkFunction.LOG:
                    return np.asarray(np.exp(linear), dtype=np.float64)


@dataclass(frozen=True)
class Origin:
    """Where a model came from, so that the same fit can be asked again."""

    job_id: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Holder → the version of its dataset; empty for made-up rows."""

    @classmethod
    def of(cls, result: Result) -> Origin:
        """The origin of a result."""
        return cls(result.job_id, {} if result.receipt is None else result.receipt.versions)


@dataclass(frozen=True)
class FittedModel:
    """Coefficients of a formula's design columns, the intercept first where there is one."""

    spec: ModelSpec
    schema: Schema
    family: str
    """Of the response: gaussian, binomial, poisson, negative_binomial; or cox."""
    link: LinkFunction
    values: tuple[float, ...]
    """The coefficients, in the order of `spec.names`."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the coefficients, in the same order; empty where there is none, as for a penalised fit."""
    rows: int
    """Complete rows that it was fitted on, over all holders."""
    origin: Origin = Origin()
    facts: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the family, such as the penalty or a dispersion."""
    offset: DesignColumn | None = None
    """What was added to the linear predictor with a coefficient of 1: an exposure's logarithm, say."""

    @property
    def coefficients(self) -> dict[str, float]:
        """Name → coefficient, in units of the response (or of its link) per unit of the column."""
        return dict(zip(self.spec.names, self.values, strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Name → standard error; empty without a covariance."""
        variances = [row[place] for place, row in enumerate(self.covariance)]
        return {name: variance**0.5 for name, variance in zip(self.spec.names, variances, strict=bool(variances))}

    def linear_predictor(self, frame: pandas.DataFrame, *, per_unit: bool = False) -> Vector:
        """float64 [rows]: offset + Σ coefficient·column; otherwise as `predict`."""
        import numpy as np

        linear = np.asarray(design_matrix(self.spec, self.schema, frame) @ np.array(self.values), dtype=np.float64)
        if self.offset is None or per_unit:
            return linear
        alone = replace(self.spec, response=None, columns=(self.offset,), intercept=False)
        return linear + design_matrix(alone, self.schema, frame)[:, 0]

    def predict(self, frame: pandas.DataFrame, *, per_unit: bool = False) -> Vector:
        """float64 [rows]: the mean response on rows of your own, NaN where a value is missing: a probability of a
        logistic model, an expected number of a Poisson model, a hazard relative to a row of zeros of a Cox model.

        The frame has the table's columns that the formula (and the offset) reads, in the schema's units. `per_unit`
        leaves the offset out, so that a model with an exposure gives the rate per unit of it. Raises BadQuestion,
        UnknownCategory.
        """
        return self.link.mean(self.linear_predictor(frame, per_unit=per_unit))

    def score(self, digits: int = 6) -> Term:
        """The linear predictor as a term, its coefficients rounded to `digits` decimals: to be judged on rows of the
        holders that it was not fitted on, `table.filter(...).roc(fit.model.score(), "event", low=-3, high=3)`.

        A logistic model's probabilities rise with it, so ROC, Gini and KS are theirs. Raises BadQuestion for columns
        with functions, whose values are not exact.
        """
        values = list(self.values)
        parts = [Term(_rounded(values.pop(0), digits))] if self.spec.intercept else []
        columns = [*self.spec.columns, *([] if self.offset is None else [self.offset])]
        require_exact(columns)
        for column, value in zip(columns, [*values, *([] if self.offset is None else [1.0])], strict=True):
            made = Term(_rounded(value, digits))
            for factor in column.factors:
                made = made * Term(factor.value)
            parts.append(made)
        return _total(parts)

    def to_json(self) -> str:
        """The model as RFC 8785 JSON, with its schema: `from_json` needs nothing else."""
        response = self.spec.response
        plain = {
            "format": FORMAT,
            "formula": self.spec.text,
            "response": None if response is None else response.model_dump(mode="json"),
            "columns": [column.model_dump(mode="json") for column in self.spec.columns],
            "intercept": self.spec.intercept,
            "family": self.family,
            "link": str(self.link),
            "coefficients": dict(zip(self.spec.names, self.values, strict=True)),
            "covariance": [list(row) for row in self.covariance],
            "rows": self.rows,
            "facts": dict(self.facts),
            "offset": None if self.offset is None else self.offset.model_dump(mode="json"),
            "table": self.schema.table,
            "schema_digest": self.schema.digest(),
            "schema": json.loads(self.schema.body()),
            "dataset_versions": dict(self.origin.versions),
            "job_id": self.origin.job_id,
        }
        return canonical_json(plain).decode()

    @classmethod
    def from_json(cls, text: str) -> FittedModel:
        """The model that `to_json` wrote. Raises BadQuestion for anything else."""
        hint = "Give the text that to_json() of a model wrote, unchanged."
        if len(text) > MAX_JSON:
            raise BadQuestion(problem="the text is too long to be a model", hint=hint)
        try:
            return _read(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError, CeibaError):
            raise BadQuestion(problem="the text is not a model of this version", hint=hint) from None

    def to_pmml(self) -> str:
        """The model as PMML 4.4, for other programs. Raises BadQuestion for what PMML cannot say: dates, and hazards
        without a baseline."""
        from ceiba.pmml import to_pmml

        return to_pmml(self)


def require_exact(columns: Sequence[DesignColumn]) -> None:
    """Raises BadQuestion for columns with functions, whose values on a row are rounded."""
    for column in columns:
        if any(factor.function is not Function.VALUE for factor in column.factors):
            problem = f"{column.name} is no exact number on each row, so holders cannot predict with it"
            raise BadQuestion(
                problem=problem, hint="Use predict() on rows of your own, or bins and powers: I(age ** 2)."
            )


def _total(parts: list[Term]) -> Term:
    """Their sum, by halves, because a long chain would nest too deeply."""
    middle = len(parts) // 2
    return parts[0] if middle == 0 else _total(parts[:middle]) + _total(parts[middle:])


def _rounded(value: float, digits: int) -> Expression:
    return number(round(Decimal(value), digits))


def _read(plain: Mapping[str, Any]) -> FittedModel:
    """Raises ValueError, KeyError, TypeError or a CeibaError for what is no model."""
    schema = Schema.parse_pinned(canonical_json(plain["schema"]), plain["schema_digest"])
    columns = tuple(_column(column) for column in plain["columns"])
    response = None if plain["response"] is None else _column(plain["response"])
    spec = ModelSpec(str(plain["formula"]), response, columns, plain["intercept"] is True)
    covariance = tuple(tuple(float(value) for value in row) for row in plain["covariance"])
    square = {len(row) for row in covariance} <= {len(covariance)} and len(covariance) in (0, len(spec.names))
    if plain["format"] != FORMAT or not square or set(plain["coefficients"]) != set(spec.names):
        raise ValueError("not a model")
    return FittedModel(
        spec=spec,
        schema=schema,
        family=str(plain["family"]),
        link=LinkFunction(plain["link"]),
        values=tuple(float(plain["coefficients"][name]) for name in spec.names),
        covariance=covariance,
        rows=int(plain["rows"]),
        origin=Origin(str(plain["job_id"]), dict(plain["dataset_versions"])),
        facts={str(name): float(value) for name, value in plain["facts"].items()},
        offset=None if plain["offset"] is None else _column(plain["offset"]),
    )


def _column(plain: Any) -> DesignColumn:
    return DesignColumn.model_validate_json(json.dumps(plain))
