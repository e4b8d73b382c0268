"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ceiba.analyses.linear import LinearFit, RidgeFit
    from ceiba.analyses.matrices import MatrixOutcome, PrincipalComponents
    from ceiba.analyses.scores import Roc, Stability
    from ceiba.analysis import Analysis
    from ceiba.query import Table
    from ceiba.terms import Scalar, Term


class AnalysisMethods:
    """What `ceiba.Table` can do beside `filter`, `group_by` and `agg`."""

    @property
    def _table(self) -> Table:
        return self  # type: ignore[return-value]  # nothing but a table has these methods

    # --- tables and tests

    # --- linear models and matrices

    def linear(self, formula: str, *, level: float = 0.95) -> Analysis[LinearFit]:
        """Ordinary least squares, solved exactly. `level`: of the coefficients' intervals.

        >>> heart.linear("cholesterol ~ age * C(sex)").summary()
        """
        from ceiba.analyses.linear import linear

        return linear(self._table, formula, level=level)

    def ridge(self, formula: str, *, penalty: Scalar, standardise: bool = True) -> Analysis[RidgeFit]:
        """Least squares with `penalty`·Σβ² of the columns in standard deviations, or in their own units.

        >>> heart.ridge("cholesterol ~ age + resting_bp", penalty=10).run().model.coefficients
        """
        from ceiba.analyses.linear import ridge

        return ridge(self._table, formula, penalty=penalty, standardise=standardise)

    def covariance_matrix(self, columns: Sequence[str | Term]) -> Analysis[MatrixOutcome]:
        """Sample covariances over the rows where no value is missing; up to 100 columns.

        >>> heart.covariance_matrix(["age", "cholesterol"]).run().to_pandas()
        """
        from ceiba.analyses.matrices import matrix

        return matrix(self._table, columns, "covariance")

    def correlation_matrix(self, columns: Sequence[str | Term]) -> Analysis[MatrixOutcome]:
        """Pearson's correlations over the rows where no value is missing; up to 100 columns.

        >>> heart.correlation_matrix(["age", "cholesterol"]).run().to_pandas()
        """
        from ceiba.analyses.matrices import matrix

        return matrix(self._table, columns, "correlation")

    def pca(self, columns: Sequence[str | Term], *, standardise: bool = True) -> Analysis[PrincipalComponents]:
        """Principal components of the correlation matrix, or with `standardise=False` of the covariance matrix.

        >>> heart.pca(["age", "cholesterol", "resting_bp"]).run().loadings
        """
        from ceiba.analyses.matrices import pca

        return pca(self._table, columns, standardise=standardise)

    # --- scores

    def roc(
        self,
        score: str | Term,
        event: str | Term,
        *,
        bins: int | None = None,
        low: Scalar | None = None,
        high: Scalar | None = None,
    ) -> Analysis[Roc]:
        """How a score tells events from other rows: ROC curve, AUC, Gini, KS, and for probabilities the calibration.

        `bins` between `low` and `high` (or the declared bounds): 20, or one for each value if that is fewer.

        >>> loans.roc("score", "default", bins=50).run().auc
        >>> heart.roc(heart.age, heart.diagnosis > 0).summary()
        """
        from ceiba.analyses.scores import roc

        return roc(self._table, score, event, bins=bins, low=low, high=high)

    def population_stability(
        self,
        score: str | Term,
        expected: Table | Term | Sequence[float],
        *,
        bins: int | None = None,
        low: Scalar | None = None,
        high: Scalar | None = None,
    ) -> Analysis[Stability]:
        """The population stability index of a score against `expected`: another table or version, a condition that
        chooses this table's expected rows, or the shares of the bins, from low to high.

        >>> loans.population_stability("score", expected=loans.year == 2024).summary()
        """
        from ceiba.analyses.scores import population_stability

        return population_stability(self._table, score, expected, bins=bins, low=low, high=high)

    # --- fits and survival
