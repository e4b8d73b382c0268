"""AVG(x)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present
from ceiba_protocol.statistics.base import Statistic, Total, quotient


class Mean(Statistic):
    """The arithmetic mean over the rows where the value is not NULL; the exact quotient, rounded once."""

    statistic: Literal["mean"] = "mean"
    value: Expression

    sql = {"AVG": {}, "MEAN": {}}

    def sums(self) -> Sequence[Expression]:
        return [only_where(present(self.value), ONE), self.value]

    def finish(self, n: Total, x: Total) -> float | None:
        return quotient(x.units * x.step.numerator, n.units * x.step.denominator)
