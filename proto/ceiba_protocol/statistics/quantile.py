"""APPROX_QUANTILE(x, q) and MEDIAN(x), read from the counts of bins."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.expression import ONE, Expression, Number, only_where
from ceiba_protocol.statistics.base import WITHHELD, Statistic, Total, Withheld
from ceiba_protocol.statistics.bins import bin_conditions, edges


class Quantile(Statistic):
    """The value below which a share `q` of the values lies, interpolated between two neighbours as SQL's
    PERCENTILE_CONT does (Hyndman and Fan 1996, definition 7), each taken for the middle of its bin.

    So it is off by at most half a bin, and exact where every value is the middle of one. NULL without values, and where
    it lies below `low` or above `high`. `inside` says that no value does, so that nobody counts those. Withheld if a
    bin is: there may be any number of values in it.
    """

    statistic: Literal["quantile"] = "quantile"
    value: Expression
    q: Number
    low: Number
    high: Number
    bins: Annotated[int, Field(ge=1, le=1000)]
    inside: bool = False

    sql = {"APPROX_QUANTILE": {}, "MEDIAN": {"q": Number(value="0.5")}}
    disjoint = True
    smooth = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if Fraction(self.low.value) >= Fraction(self.high.value):
            raise ValueError("a quantile's low is below its high")
        if not 0 <= Fraction(self.q.value) <= 1:
            raise ValueError("a quantile's q is between 0 and 1")
        return self

    @property
    def bin_width(self) -> Fraction:
        """In the value's own units."""
        return (Fraction(self.high.value) - Fraction(self.low.value)) / self.bins

    def sums(self) -> Sequence[Expression]:
        conditions = bin_conditions(self.value, self.low, self.high, self.bins)
        return [only_where(condition, ONE) for condition in (conditions[1:-1] if self.inside else conditions)]

    def finish(self, *counts: Total) -> float | Withheld | None:
        if any(count.withheld for count in counts):
            return WITHHELD
        upto = list(accumulate(count.units for count in counts))
        if upto[-1] < 1:
            return None
        place = Fraction(self.q.value) * (upto[-1] - 1)
        whole, part = divmod(place, 1)
        lower, upper = self._value_at(int(whole), upto), self._value_at(int(whole) + (part > 0), upto)
        return None if lower is None or upper is None else float(lower + part * (upper - lower))

    def _value_at(self, place: int, upto: Sequence[int]) -> Fraction | None:
        """The middle of the bin that has the value at a place, from 0, in their order; None outside."""
        found = next(number for number, count in enumerate(upto) if count > place)
        between = edges(self.low, self.high, self.bins)
        middles: list[Fraction | None] = [(start + end) / 2 for start, end in pairwise(between)]
        return (middles if self.inside else [None, *middles, None])[found]
