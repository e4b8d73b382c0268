"""The analyses as methods of a table: `heart.t_test("cholesterol", by="sex")`. Each module loads when it is used."""

from __future__ import annotations


class AnalysisMethods:
    """What `ceiba.Table` can do beside `filter`, `group_by` and `agg`."""

    # --- tables and tests

    # --- linear models and matrices

    # --- scores

    # --- fits and survival
