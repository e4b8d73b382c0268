"""What the outcomes of models that the holders iterate have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ceiba.analysis import Outcome
from ceiba.formula import ModelSpec
from ceiba.models import FittedModel


@dataclass(frozen=True, repr=False)
class IteratedOutcome(Outcome):
    """Coefficients with their covariance, and where the fit ended."""

    model: FittedModel
    """For rows of your own, and for export: `model.to_json()`, `model.to_pmml()`."""
    spec: ModelSpec
    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    log_likelihood: float
    rows: int
    """Complete rows, over all holders."""
    iterations: int

    @property
    def versions(self) -> dict[str, str]:
        """Holder → the version of its dataset that was fitted: `space.table(name, version=fit.versions)`."""
        return dict(self.model.origin.versions)

    @property
    def standard_errors(self) -> tuple[float, ...]:
        """The covariance's diagonal, its roots."""
        return tuple(math.sqrt(self.covariance[at][at]) for at in range(len(self.names)))
