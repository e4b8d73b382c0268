"""What every statistic has in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, ClassVar

from ceiba_protocol.canonical import Document
from ceiba_protocol.expression import Expression


class Withheld(Enum):
    """Stands where a value was not released: too few people behind it, or too close to an earlier answer."""

    WITHHELD = "withheld"

    def __repr__(self) -> str:
        return "WITHHELD"

    def __str__(self) -> str:
        return self.value


WITHHELD = Withheld.WITHHELD

Output = int | float | None | Withheld | list[dict[str, Any]] | dict[str, Any]
"""A finished value: an exact integer, a correctly rounded float, None where SQL says NULL, a small table, or the
figures of a fit by their names."""


@dataclass(frozen=True, slots=True)
class Total:
    """The sum over all rows of all holders of one expression: exactly `units`·`step`."""

    units: int
    step: Fraction
    withheld: bool = False
    """Not released; then `units` is 0 and means nothing. Only statistics with disjoint sums meet it."""


class Statistic(Document, ABC):
    """One statistic with its arguments. A subclass declares `statistic: Literal["its_name"] = "its_name"`,
    then its arguments (expressions first, options after), and the two methods."""

    statistic: str

    sql: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """SQL functions that mean this statistic, each with the options that it fixes."""
    disjoint: ClassVar[bool] = False
    """Whether no row adds to two of its sums, so that each of them can be released or withheld by itself."""

    smooth: ClassVar[bool] = True
    """Whether a small change of a sum changes it a little, so that noise in the sums gives it an interval."""

    @classmethod
    def name(cls) -> str:
        return str(cls.model_fields["statistic"].default)

    @abstractmethod
    def sums(self) -> Sequence[Expression]:
        """The row expressions to be summed in each cell, at every holder. NULL adds nothing to a sum."""

    @abstractmethod
    def finish(self, *args: Any, **kwargs: Any) -> Output:
        """Run by the merchant on each cell, with one `Total` for each expression of `sums`, in that order.

        (Typed loosely here, so that each statistic can name its totals: `def finish(self, n: Total, x: Total)`.)
        """


def quotient(numerator: int, denominator: int) -> float | None:
    """numerator / denominator as the nearest float; None where the denominator is 0, as SQL says NULL."""
    return numerator / denominator if denominator else None


def root(numerator: int, denominator: int) -> float:
    """√(numerator / denominator) as the nearest float, for values ≥ 0: an integer root of at least 55 bits, whose last
    bit says whether anything is left (rounding to odd), so that the division rounds once and rightly (Boldo and
    Melquiond 2008)."""
    shift = max(0, (112 + denominator.bit_length() - numerator.bit_length()) // 2)
    scaled = numerator << (2 * shift)
    whole = math.isqrt(scaled // denominator)
    return (whole | (whole * whole * denominator != scaled)) / (1 << shift)


def variance_of(n: Total, x: Total, xx: Total, *, population: bool) -> tuple[int, int] | None:
    """(n·Σx² − (Σx)²) / (n·(n−1)), or / n² for a population, as numerator and denominator: exact, so nothing cancels.
    None where it is not defined."""
    divisor = n.units if population else n.units - 1
    if n.units < 1 or divisor < 1:
        return None
    spread = max(0, n.units * xx.units - x.units * x.units)  # noise can make it negative
    return spread * x.step.numerator**2, n.units * divisor * x.step.denominator**2
