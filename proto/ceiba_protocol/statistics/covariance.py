"""COVAR_SAMP(x, y), COVAR_POP(x, y)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total


class Covariance(Statistic):
    """The covariance over the rows where neither value is NULL (pairwise complete), as SQL defines it."""

    statistic: Literal["covariance"] = "covariance"
    left: Expression
    right: Expression
    population: bool = False

    sql = {"COVAR_SAMP": {}, "COVAR_POP": {"population": True}}

    def sums(self) -> Sequence[Expression]:
        both = present(self.left, self.right)
        return [
            only_where(both, ONE),
            only_where(both, self.left),
            only_where(both, self.right),
            product(self.left, self.right),
        ]

    def finish(self, n: Total, x: Total, y: Total, xy: Total) -> float | None:
        divisor = n.units if self.population else n.units - 1
        if n.units < 1 or divisor < 1:
            return None
        joint = n.units * xy.units - x.units * y.units
        step = x.step * y.step
        return joint * step.numerator / (n.units * divisor * step.denominator)
