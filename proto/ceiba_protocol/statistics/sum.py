"""SUM(x)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present
from ceiba_protocol.statistics.base import Statistic, Total, quotient


class Sum(Statistic):
    """The sum of a value over the rows where it is not NULL; NULL where there are none. Exact."""

    statistic: Literal["sum"] = "sum"
    value: Expression

    sql = {"SUM": {}}

    def sums(self) -> Sequence[Expression]:
        return [only_where(present(self.value), ONE), self.value]

    def finish(self, n: Total, x: Total) -> int | float | None:
        if n.units == 0:
            return None
        if x.step.denominator == 1:
            return x.units * x.step.numerator
        return quotient(x.units * x.step.numerator, x.step.denominator)
