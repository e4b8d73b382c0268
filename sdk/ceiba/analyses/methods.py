"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from ceiba.analyses.anova import Anova
    from ceiba.analyses.cells import Key
    from ceiba.analyses.crosstab import CrossTab, StratifiedCrossTab
    from ceiba.analyses.t_test import TTest
    from ceiba.analysis import Analysis
    from ceiba.query import Table
    from ceiba.terms import Term


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

    def anova(self, value: Term | str, by: Key | Sequence[Key]) -> Analysis[Anova]:
        """Analysis of variance of a value by one factor, or by two with their interaction (types II and III).

        With η² and ω². Raises BadQuestion.

        >>> heart.anova("max_heart_rate", by="chest_pain").summary()
        >>> heart.anova("max_heart_rate", by=("sex", "chest_pain")).run().effects
        """
        from ceiba.analyses.anova import anova

        return anova(self._table, value, by)

    # --- linear models and matrices

    # --- scores

    # --- fits and survival
