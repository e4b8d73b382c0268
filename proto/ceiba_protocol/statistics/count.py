"""COUNT(*) and COUNT(x)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present
from ceiba_protocol.statistics.base import Statistic, Total


class Count(Statistic):
    """How many rows there are, or, with a value, in how many rows it is not NULL. Exact."""

    statistic: Literal["count"] = "count"
    value: Expression | None = None

    sql = {"COUNT": {}}

    def sums(self) -> Sequence[Expression]:
        return [ONE if self.value is None else only_where(present(self.value), ONE)]

    def finish(self, n: Total) -> int:
        return n.units
