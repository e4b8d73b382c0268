"""HISTOGRAM(x, low, high, bins)."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.expression import ONE, Expression, Number, only_where
from ceiba_protocol.statistics.base import WITHHELD, Statistic, Total
from ceiba_protocol.statistics.bins import bin_conditions, edges


class Histogram(Statistic):
    """Counts of a value in equal bins from `low` to `high`, the last one closed, and of what lies below and above.

    Exact for decimal `low` and `high`, also where the bins' edges are no decimals: x·bins is compared, not x.
    """

    statistic: Literal["histogram"] = "histogram"
    value: Expression
    low: Number
    high: Number
    bins: Annotated[int, Field(ge=1, le=1000)]

    sql = {"HISTOGRAM": {}}
    disjoint = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if Fraction(self.low.value) >= Fraction(self.high.value):
            raise ValueError("a histogram's low is below its high")
        return self

    def sums(self) -> Sequence[Expression]:
        return [only_where(condition, ONE) for condition in bin_conditions(self.value, self.low, self.high, self.bins)]

    def finish(self, *counts: Total) -> list[dict[str, Any]]:
        """One entry a bin: `from`, `to` (None beyond the ends) and `count`, which may be WITHHELD."""
        between = list(map(float, edges(self.low, self.high, self.bins)))
        starts, ends = [None, *between], [*between, None]
        return [
            {"from": start, "to": end, "count": WITHHELD if count.withheld else count.units}
            for start, end, count in zip(starts, ends, counts, strict=True)
        ]
