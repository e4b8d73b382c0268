"""MOMENTS(x, y, ...)."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total

MAX_VALUES = 100


class Moments(Statistic):
    """n, Σxᵢ and Σxᵢxⱼ over the rows where no value is NULL (listwise complete): what linear models are made of.

    With d values there are 1 + d + d·(d+1)/2 sums.
    """

    statistic: Literal["moments"] = "moments"
    values: Annotated[tuple[Expression, ...], Field(min_length=1, max_length=MAX_VALUES)]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The places i ≤ j of the products, in the order of their sums."""
        return ((i, j) for i in range(len(self.values)) for j in range(i, len(self.values)))

    def sums(self) -> Sequence[Expression]:
        complete = present(*self.values)
        products = [product(self.values[i], self.values[j]) for i, j in self.pairs()]
        return [only_where(complete, value) for value in (ONE, *self.values, *products)]

    def finish(self, n: Total, *totals: Total) -> list[dict[str, Any]]:
        """One entry a sum: `left` and `right`, the places of its values (None for none), and the exact `total`: an
        integer where it is one, otherwise a text such as 3/20, as `fractions.Fraction` reads it."""
        places = [(None, None), *((i, None) for i in range(len(self.values))), *self.pairs()]
        return [
            {"left": left, "right": right, "total": _plain(total.units * total.step)}
            for (left, right), total in zip(places, (n, *totals), strict=True)
        ]


def _plain(exact: Fraction) -> int | str:
    return exact.numerator if exact.denominator == 1 else str(exact)
