"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ceiba.analyses.glm import GlmOutcome
    from ceiba.analyses.kmeans import ClusterOutcome
    from ceiba.analyses.survival import CoxOutcome, SurvivalOutcome
    from ceiba.analysis import Analysis
    from ceiba.query import Table
    from ceiba.terms import Term


class AnalysisMethods:
    """What `ceiba.Table` can do beside `filter`, `group_by` and `agg`."""

    def _own(self) -> Table:
        return cast("Table", self)

    # --- tables and tests

    # --- linear models and matrices

    # --- scores

    # --- fits and survival

    def glm(self, formula: str, family: str = "gaussian", **options: Any) -> Analysis[GlmOutcome]:
        """A generalised linear model: `heart.glm("days ~ age", family="poisson", exposure="beds").summary()`.

        Families: gaussian, binomial (logit), poisson and negative_binomial (log; `alpha` is its dispersion). Options:
        `offset`, `exposure`, `weights`, each a column in the words of a formula.
        """
        from ceiba.analyses.glm import glm

        return glm(self._own(), formula, family, **options)

    def logistic(self, formula: str, **options: Any) -> Analysis[GlmOutcome]:
        """Logistic regression: `heart.logistic("I(diagnosis > 0) ~ age + sex").summary()`. Options as for `glm`."""
        return self.glm(formula, "binomial", **options)

    def kaplan_meier(
        self, time: Term | str, event: Term | str, *, by: Any = None, strata: Any = None, grid: float = 1
    ) -> Analysis[SurvivalOutcome]:
        """Life tables, survival and cumulative hazard with intervals, and the log-rank test of the groups:
        `trial.kaplan_meier(time="days", event="died", by="arm").plot()`.

        `event` is above 0, or true, for whom it has happened. `strata`: compare within them. `grid`: the width of the
        time steps; where data are not public the holders merge them until enough subjects leave at each.
        """
        from ceiba.analyses.survival import kaplan_meier

        return kaplan_meier(self._own(), time, event, by=by, strata=strata, grid=grid)

    def cox(
        self, formula: str, time: Term | str, event: Term | str, *, strata: Any = None, ties: str = "efron",
        grid: float = 1,
    ) -> Analysis[CoxOutcome]:  # fmt: skip
        """Cox's proportional hazards: `trial.cox("age + C(arm)", time="days", event="died").summary()`.

        `ties`: efron or breslow. `strata`: a key whose groups have their own baselines. Times as in `kaplan_meier`.
        """
        from ceiba.analyses.survival import cox

        return cox(self._own(), formula, time, event, strata=strata, ties=ties, grid=grid)

    def kmeans(self, columns: Sequence[str] | str, clusters: int) -> Analysis[ClusterOutcome]:
        """Clusters of rows that are alike in standardised columns: `heart.kmeans(["age", "cholesterol"], 3)`."""
        from ceiba.analyses.kmeans import kmeans

        return kmeans(self._own(), columns, clusters)
