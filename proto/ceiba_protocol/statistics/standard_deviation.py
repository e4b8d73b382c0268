"""STDDEV_SAMP(x), STDDEV_POP(x)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total, root, variance_of


class StandardDeviation(Statistic):
    """The square root of the variance, of a sample (divisor n−1) or of a population (n); exact up to one rounding."""

    statistic: Literal["standard_deviation"] = "standard_deviation"
    value: Expression
    population: bool = False

    sql = {"STDDEV_SAMP": {}, "STDDEV": {}, "STDDEV_POP": {"population": True}}

    def sums(self) -> Sequence[Expression]:
        return [only_where(present(self.value), ONE), self.value, product(self.value, self.value)]

    def finish(self, n: Total, x: Total, xx: Total) -> float | None:
        variance = variance_of(n, x, xx, population=self.population)
        return None if variance is None else root(*variance)
