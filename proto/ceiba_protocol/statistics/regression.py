"""REGR_SLOPE(y, x) and its like: the least-squares line through pairs, and the parts that it is computed from."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from ceiba_protocol.expression import ONE, Expression, only_where, present, product
from ceiba_protocol.statistics.base import Statistic, Total, quotient

Part = Literal["slope", "intercept", "r2", "count", "avgx", "avgy", "sxx", "syy", "sxy"]

_NEEDS = {
    "slope": ("x", "y", "xx", "xy"),
    "intercept": ("x", "y", "xx", "xy"),
    "r2": ("x", "y", "xx", "yy", "xy"),
    "count": (),
    "avgx": ("x",),
    "avgy": ("y",),
    "sxx": ("x", "xx"),
    "syy": ("y", "yy"),
    "sxy": ("x", "y", "xy"),
}
"""The sums that each part needs, besides the number of pairs: no others are asked for."""


class Regression(Statistic):
    """A part of the least-squares line y = intercept + slope·x over the rows where neither value is NULL, as SQL:2003
    §10.9 defines it, with y first: "slope", "intercept", "r2" (the squared correlation; 1 where y does not vary),
    "count", "avgx", "avgy", and the centred sums "sxx" Σ(x − x̄)², "syy", "sxy".

    NULL without pairs; the first three also where x does not vary. Exact up to one rounding.
    """

    statistic: Literal["regression"] = "regression"
    y: Expression
    x: Expression
    part: Part = "slope"

    sql = {f"REGR_{part.upper()}": {"part": part} for part in _NEEDS}

    def sums(self) -> Sequence[Expression]:
        both = present(self.y, self.x)
        of = {
            "x": only_where(both, self.x),
            "y": only_where(both, self.y),
            "xx": only_where(both, product(self.x, self.x)),
            "yy": only_where(both, product(self.y, self.y)),
            "xy": product(self.y, self.x),
        }
        return [only_where(both, ONE), *(of[name] for name in _NEEDS[self.part])]

    def finish(self, n: Total, *totals: Total) -> int | float | None:
        if self.part == "count":
            return n.units
        found = self._part(n.units, dict(zip(_NEEDS[self.part], totals, strict=True))) if n.units > 0 else None
        return None if found is None else quotient(found.numerator, found.denominator)

    def _part(self, n: int, totals: dict[str, Total]) -> Fraction | None:
        value = {name: total.units * total.step for name, total in totals.items()}

        def centred(one: str, other: str) -> Fraction:
            return value[one + other] - value[one] * value[other] / n

        match self.part:
            case "avgx" | "avgy":
                return value[self.part[-1]] / n
            case "sxx" | "syy":
                return max(centred(self.part[-1], self.part[-1]), Fraction(0))  # below 0 only by noise
            case "sxy":
                return centred("x", "y")
        spread = centred("x", "x")
        if spread <= 0:  # below 0 only by noise
            return None
        slope = centred("x", "y") / spread
        match self.part:
            case "slope":
                return slope
            case "intercept":
                return (value["y"] - slope * value["x"]) / n
        height = centred("y", "y")
        return slope * centred("x", "y") / height if height > 0 else Fraction(1)
