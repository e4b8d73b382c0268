"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ceiba.analyses.glm import GlmOutcome
    from ceiba.analysis import Analysis
    from ceiba.query import Table


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
