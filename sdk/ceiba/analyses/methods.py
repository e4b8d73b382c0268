"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, overload

from ceiba.reattaching import remembered

if TYPE_CHECKING:
    from ceiba.analyses.anova import Anova
    from ceiba.analyses.cells import Key
    from ceiba.analyses.cross_validation import CrossValidator
    from ceiba.analyses.crosstab import CrossTab, StratifiedCrossTab
    from ceiba.analyses.describe import Description
    from ceiba.analyses.glm import GlmOutcome
    from ceiba.analyses.kmeans import ClusterOutcome
    from ceiba.analyses.linear import LinearFit, RidgeFit
    from ceiba.analyses.matrices import MatrixOutcome, PrincipalComponents
    from ceiba.analyses.quantiles import QuantileSearch
    from ceiba.analyses.rates import StandardisedRate, StandardisedRatio
    from ceiba.analyses.scores import Roc, Stability
    from ceiba.analyses.survival import CoxOutcome, SurvivalOutcome
    from ceiba.analyses.t_test import TTest
    from ceiba.analysis import Analysis
    from ceiba.query import Table
    from ceiba.terms import Scalar, Term


class AnalysisMethods:
    """What `ceiba.Table` can do beside `filter`, `group_by` and `agg`."""

    @property
    def _table(self) -> Table:
        return self  # type: ignore[return-value]  # nothing but a table has these methods

    # --- tables and tests

    @overload
    def crosstab(self, rows: Key, columns: Key) -> Analysis[CrossTab]: ...
    @overload
    def crosstab(self, rows: Key, columns: Key, by: Key) -> Analysis[StratifiedCrossTab]: ...
    @remembered
    def crosstab(self, rows: Key, columns: Key, by: Key | None = None) -> Analysis[Any]:
        """The contingency table of two grouping keys; with `by`, 2×2 tables in strata, pooled over them.

        χ² with and without Yates's correction, Fisher's exact test, Cramér's V, odds ratio, risk ratio and risk
        difference with 95 % intervals; in strata Mantel-Haenszel, CMH and Breslow-Day. Raises BadQuestion.

        >>> heart.crosstab("sex", heart.diagnosis > 0).run().odds_ratio
        >>> heart.crosstab("sex", heart.diagnosis > 0, by=ceiba.width_bucket("age", 40, 70, 3)).summary()
        """
        from ceiba.analyses.crosstab import crosstab, stratified_crosstab

        if by is None:
            return crosstab(self._table, rows, columns)
        return stratified_crosstab(self._table, rows, columns, by)

    @remembered
    def t_test(
        self, value: Term | str, by: Key | None = None, mean: float | None = None, *, equal_variance: bool = False
    ) -> Analysis[TTest]:
        """Compare the means of a value in two groups (Welch; Student with `equal_variance`), or one mean with `mean`.

        With the difference's interval, Cohen's d and Hedges' g. Raises BadQuestion for a key that has not two labels.

        >>> heart.t_test("cholesterol", by="sex").run().test.p
        >>> heart.t_test("cholesterol", mean=200).summary()
        """
        from ceiba.analyses.t_test import t_test

        return t_test(self._table, value, by, mean, equal_variance=equal_variance)

    @remembered
    def anova(self, value: Term | str, by: Key | Sequence[Key]) -> Analysis[Anova]:
        """Analysis of variance of a value by one factor, or by two with their interaction (types II and III).

        With η² and ω². Raises BadQuestion.

        >>> heart.anova("max_heart_rate", by="chest_pain").summary()
        >>> heart.anova("max_heart_rate", by=("sex", "chest_pain")).run().effects
        """
        from ceiba.analyses.anova import anova

        return anova(self._table, value, by)

    def quantiles(
        self,
        value: Term | str,
        q: Sequence[float] = (0.25, 0.5, 0.75),
        by: Key | None = None,
        *,
        bins: int | None = None,
        questions: int = 12,
        low: float | None = None,
        high: float | None = None,
    ) -> QuantileSearch:
        """Quantiles of a value, by counts up to cuts that get finer around them: several questions, each a job.

        `bins`: into how many parts a question cuts, 2 to 100; None: 100 of public columns, else 10. `questions`: at
        most so many. `low`, `high`: where most values are known to lie, in the value's unit. The outcome says how
        exact each quantile is; it is exact where the last cuts were the column's own units. Raises BadQuestion.

        >>> heart.quantiles("age", by="sex", low=30, high=75).run().groups[0].at(0.5)
        >>> heart.quantiles("cholesterol", q=(0.1, 0.9)).summary()
        """
        from ceiba.analyses.quantiles import quantiles

        return quantiles(self._table, value, q, by, bins=bins, questions=questions, low=low, high=high)

    def median(self, value: Term | str, by: Key | None = None, **options: Any) -> QuantileSearch:
        """The median of a value; options as for `quantiles`.

        >>> heart.median("age").run().value
        """
        return self.quantiles(value, (0.5,), by, **options)

    def minimum(self, value: Term | str) -> NoReturn:
        """Refused: the smallest value is one person's. Raises BadQuestion, which says what to ask instead."""
        from ceiba.analyses.extremes import refuse_extreme

        refuse_extreme(value)

    def maximum(self, value: Term | str) -> NoReturn:
        """Refused: the largest value is one person's. Raises BadQuestion, which says what to ask instead."""
        from ceiba.analyses.extremes import refuse_extreme

        refuse_extreme(value)

    @remembered
    def describe(self, columns: Sequence[str] | None = None, by: Key | None = None) -> Analysis[Description]:
        """How many values, mean and standard deviation of numbers, and how frequent each category is; with `by`, the
        first table of a paper: mean (sd), n (%), p-values and standardised differences. One question.

        `columns`: their names; None: all with declared bounds or values. Raises BadQuestion.

        >>> heart.describe(["age", "sex", "cholesterol"]).summary()
        >>> heart.describe(by="sex").to_pandas()
        """
        from ceiba.analyses.describe import describe

        return describe(self._table, columns, by)

    @overload
    def standardised_rate(
        self, events: Term | str, by: Key, *, population: Mapping[Any, float], time: Term | str | None = None
    ) -> Analysis[StandardisedRate]: ...
    @overload
    def standardised_rate(
        self, events: Term | str, by: Key, *, expected: Mapping[Any, float], time: Term | str | None = None
    ) -> Analysis[StandardisedRatio]: ...
    @remembered
    def standardised_rate(
        self,
        events: Term | str,
        by: Key,
        *,
        population: Mapping[Any, float] | None = None,
        expected: Mapping[Any, float] | None = None,
        time: Term | str | None = None,
    ) -> Analysis[Any]:
        """The rate of events, standardised over strata: directly with `population`, a weight for each stratum, or
        indirectly (SMR) with `expected`, a rate for each.

        `events`: a condition, or a column of numbers of events. The rate is per row, or with `time` per unit of that
        column. Raises BadQuestion.

        >>> ages = ceiba.case((heart.age < 50, "young"), otherwise="old").alias("ages")
        >>> heart.standardised_rate(heart.diagnosis > 0, by=ages, population={"young": 600, "old": 400}).summary()
        >>> heart.standardised_rate(heart.diagnosis > 0, by=ages, expected={"young": 0.2, "old": 0.4}).run().ratio
        """
        from ceiba.analyses.rates import standardised_rate, standardised_ratio
        from ceiba_protocol.errors import BadQuestion

        if population is not None and expected is None:
            return standardised_rate(self._table, events, by, population, time)
        if expected is not None and population is None:
            return standardised_ratio(self._table, events, by, expected, time)
        hint = "Give population={stratum: weight} for a rate, or expected={stratum: rate} for a ratio."
        raise BadQuestion(problem="standardised_rate() needs either population= or expected=", hint=hint)

    # --- linear models and matrices

    @remembered
    def linear(self, formula: str, *, level: float = 0.95) -> Analysis[LinearFit]:
        """Ordinary least squares, solved exactly. `level`: of the coefficients' intervals.

        >>> heart.linear("cholesterol ~ age * C(sex)").summary()
        """
        from ceiba.analyses.linear import linear

        return linear(self._table, formula, level=level)

    @remembered
    def ridge(self, formula: str, *, penalty: Scalar, standardise: bool = True) -> Analysis[RidgeFit]:
        """Least squares with `penalty`·Σβ² of the columns in standard deviations, or in their own units.

        >>> heart.ridge("cholesterol ~ age + resting_bp", penalty=10).run().model.coefficients
        """
        from ceiba.analyses.linear import ridge

        return ridge(self._table, formula, penalty=penalty, standardise=standardise)

    @remembered
    def covariance_matrix(self, columns: Sequence[str | Term]) -> Analysis[MatrixOutcome]:
        """Sample covariances over the rows where no value is missing; up to 100 columns.

        >>> heart.covariance_matrix(["age", "cholesterol"]).run().to_pandas()
        """
        from ceiba.analyses.matrices import matrix

        return matrix(self._table, columns, "covariance")

    @remembered
    def correlation_matrix(self, columns: Sequence[str | Term]) -> Analysis[MatrixOutcome]:
        """Pearson's correlations over the rows where no value is missing; up to 100 columns.

        >>> heart.correlation_matrix(["age", "cholesterol"]).run().to_pandas()
        """
        from ceiba.analyses.matrices import matrix

        return matrix(self._table, columns, "correlation")

    @remembered
    def pca(self, columns: Sequence[str | Term], *, standardise: bool = True) -> Analysis[PrincipalComponents]:
        """Principal components of the correlation matrix, or with `standardise=False` of the covariance matrix.

        >>> heart.pca(["age", "cholesterol", "resting_bp"]).run().loadings
        """
        from ceiba.analyses.matrices import pca

        return pca(self._table, columns, standardise=standardise)

    # --- scores

    @remembered
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

    @remembered
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

    @remembered
    def glm(self, formula: str, family: str = "gaussian", **options: Any) -> Analysis[GlmOutcome]:
        """A generalised linear model: `heart.glm("days ~ age", family="poisson", exposure="beds").summary()`.

        Families: gaussian, binomial (logit), poisson and negative_binomial (log; `alpha` is its dispersion). Options:
        `offset`, `exposure`, `weights`, each a column in the words of a formula; `max_iterations`, 1 to 100.
        """
        from ceiba.analyses.glm import glm

        return glm(self._table, formula, family, **options)

    @remembered
    def logistic(self, formula: str, **options: Any) -> Analysis[GlmOutcome]:
        """Logistic regression: `heart.logistic("I(diagnosis > 0) ~ age + sex").summary()`. Options as for `glm`."""
        return self.glm(formula, "binomial", **options)

    def cross_validate(
        self, formula: str, family: str = "gaussian", *, seed: str, folds: int = 5, **options: Any
    ) -> CrossValidator:
        """How a formula predicts subjects that it was not fitted on: fits on all parts of a split but one, each judged
        on the part that it has not seen. Several questions, all exact.

        `seed`: of the split; where small groups are protected, the agreement's purpose. `folds`: 2, 4, 5, 10 or 20.
        Options: `edges`, the predicted probabilities between which events are counted (binomial), and `alpha`. Of an
        event AUC, KS and calibration; else the mean squared error or mean Poisson deviance. Raises BadQuestion.

        >>> heart.cross_validate("I(diagnosis > 0) ~ age + C(sex)", "binomial", seed="study 7").run().roc.auc
        """
        from ceiba.analyses.cross_validation import cross_validate

        return cross_validate(self._table, formula, family, seed=seed, folds=folds, **options)

    @remembered
    def kaplan_meier(
        self, time: Term | str, event: Term | str, *, by: Any = None, strata: Any = None, grid: float = 1
    ) -> Analysis[SurvivalOutcome]:
        """Life tables, survival and cumulative hazard with intervals, and the log-rank test of the groups:
        `trial.kaplan_meier(time="days", event="died", by="arm").plot()`.

        `event` is above 0, or true, for whom it has happened. `strata`: compare within them. `grid`: the width of the
        time steps; where data are not public the holders merge them until enough subjects leave at each.
        """
        from ceiba.analyses.survival import kaplan_meier

        return kaplan_meier(self._table, time, event, by=by, strata=strata, grid=grid)

    @remembered
    def cox(
        self, formula: str, time: Term | str, event: Term | str, *, strata: Any = None, ties: str = "efron",
        grid: float = 1, max_iterations: int = 30,
    ) -> Analysis[CoxOutcome]:  # fmt: skip
        """Cox's proportional hazards: `trial.cox("age + C(arm)", time="days", event="died").summary()`.

        `ties`: efron or breslow. `strata`: a key whose groups have their own baselines. Times as in `kaplan_meier`.
        `max_iterations`: 1 to 100.
        """
        from ceiba.analyses.survival import cox

        return cox(
            self._table, formula, time, event, strata=strata, ties=ties, grid=grid, max_iterations=max_iterations
        )

    @remembered
    def kmeans(
        self, columns: Sequence[str] | str, clusters: int, *, max_iterations: int = 100
    ) -> Analysis[ClusterOutcome]:
        """Clusters of rows that are alike in standardised columns: `heart.kmeans(["age", "cholesterol"], 3)`.

        `max_iterations`: 1 to 300.
        """
        from ceiba.analyses.kmeans import kmeans

        return kmeans(self._table, columns, clusters, max_iterations=max_iterations)
