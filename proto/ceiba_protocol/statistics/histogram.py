"""HISTOGRAM(x, low, high, bins)."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.expression import ONE, Comparing, Expression, Logic, Number, number, only_where, product
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.base import WITHHELD, Statistic, Total


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

    def _edge(self, k: int) -> Fraction:
        low, high = Fraction(self.low.value), Fraction(self.high.value)
        return low * self.bins + (high - low) * k

    def _side(self, comparison: Comparison, k: int) -> Expression:
        scaled = product(self.value, number(self.bins))
        return Comparing(comparison=comparison, left=scaled, right=number(self._edge(k)))

    def sums(self) -> Sequence[Expression]:
        conditions: list[Expression] = [self._side(Comparison.LESS, 0)]
        for k in range(self.bins):
            upper = Comparison.LESS_OR_EQUAL if k == self.bins - 1 else Comparison.LESS
            terms = (self._side(Comparison.GREATER_OR_EQUAL, k), self._side(upper, k + 1))
            conditions.append(Logic(op="and", terms=terms))
        conditions.append(self._side(Comparison.GREATER, self.bins))
        return [only_where(condition, ONE) for condition in conditions]

    def finish(self, *counts: Total) -> list[dict[str, Any]]:
        """One entry a bin: `from`, `to` (None beyond the ends) and `count`, which may be WITHHELD."""
        edges = [float(self._edge(k) / self.bins) for k in range(self.bins + 1)]
        starts, ends = [None, *edges], [*edges, None]
        return [
            {"from": start, "to": end, "count": WITHHELD if count.withheld else count.units}
            for start, end, count in zip(starts, ends, counts, strict=True)
        ]
