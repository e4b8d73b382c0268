"""CORR(x, y)."""

import math
from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total, root


class Correlation(Statistic):
    """Pearson's correlation over the rows where neither value is NULL; NULL where a value does not vary.

    Exact up to one rounding.
    """

    statistic: Literal["correlation"] = "correlation"
    left: Expression
    right: Expression

    sql = {"CORR": {}}

    def sums(self) -> Sequence[Expression]:
        both = present(self.left, self.right)
        return [
            only_where(both, ONE),
            only_where(both, self.left),
            only_where(both, self.right),
            only_where(both, product(self.left, self.left)),
            only_where(both, product(self.right, self.right)),
            product(self.left, self.right),
        ]

    def finish(self, n: Total, x: Total, y: Total, xx: Total, yy: Total, xy: Total) -> float | None:
        joint = n.units * xy.units - x.units * y.units
        spread_x = n.units * xx.units - x.units * x.units
        spread_y = n.units * yy.units - y.units * y.units
        if spread_x <= 0 or spread_y <= 0:  # below 0 only by noise
            return None
        return math.copysign(root(joint * joint, spread_x * spread_y), joint)
