"""Equal bins from a low to a high bound, as several statistics count them."""

from collections.abc import Sequence
from fractions import Fraction

from ceiba_protocol.expression import Comparing, Expression, Logic, Number, number, product
from ceiba_protocol.program import Comparison


def edges(low: Number, high: Number, bins: int) -> list[Fraction]:
    """The bounds of the bins: `bins` + 1, from `low` to `high`."""
    return [_scaled_edge(low, high, bins, k) / bins for k in range(bins + 1)]


def bin_conditions(value: Expression, low: Number, high: Number, bins: int) -> Sequence[Expression]:
    """That a value lies below `low`, in each bin (the last one closed), above `high`.

    Exact for decimal `low` and `high`, also where the bins' edges are no decimals: x·bins is compared, not x.
    """
    scaled = product(value, number(bins))

    def side(comparison: Comparison, k: int) -> Expression:
        return Comparing(comparison=comparison, left=scaled, right=number(_scaled_edge(low, high, bins, k)))

    conditions: list[Expression] = [side(Comparison.LESS, 0)]
    for k in range(bins):
        upper = Comparison.LESS_OR_EQUAL if k == bins - 1 else Comparison.LESS
        conditions.append(Logic(op="and", terms=(side(Comparison.GREATER_OR_EQUAL, k), side(upper, k + 1))))
    return [*conditions, side(Comparison.GREATER, bins)]


def _scaled_edge(low: Number, high: Number, bins: int, k: int) -> Fraction:
    """The k-th bound times `bins`: a decimal if `low` and `high` are."""
    start, end = Fraction(low.value), Fraction(high.value)
    return start * bins + (end - start) * k
