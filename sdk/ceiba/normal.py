"""95 % intervals by the normal distribution."""

from math import exp, sqrt

NORMAL_95 = 1.959963984540054
"""Standard deviations around the mean that hold 95 % of a normal distribution: its 97.5 % point."""


def around_logarithm(value: float, variance: float) -> tuple[float, float]:
    """The interval of a ratio or rate above 0 whose logarithm has this variance."""
    reach = exp(NORMAL_95 * sqrt(variance))
    return value / reach, value * reach
