"""VAR_SAMP(x), VAR_POP(x)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total, quotient, variance_of


class Variance(Statistic):
    """The variance over the rows where the value is not NULL: of a sample (divisor n−1), or of a population (n).

    Exact up to one rounding: the sums are integers, so nothing cancels.
    """

    statistic: Literal["variance"] = "variance"
    value: Expression
    population: bool = False

    sql = {"VAR_SAMP": {}, "VARIANCE": {}, "VAR_POP": {"population": True}}

    def sums(self) -> Sequence[Expression]:
        return [only_where(present(self.value), ONE), self.value, product(self.value, self.value)]

    def finish(self, n: Total, x: Total, xx: Total) -> float | None:
        variance = variance_of(n, x, xx, population=self.population)
        return None if variance is None else quotient(*variance)
