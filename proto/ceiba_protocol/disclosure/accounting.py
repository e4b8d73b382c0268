"""What answers with noise cost: ρ of zero-concentrated differential privacy, and ε(δ) for people (PROTOCOL §3.6).

Ledgers add up ρ in whole millionths, exactly. ε is for display only, so floats are good enough for it.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from ceiba_protocol.disclosure.grade import MILLION
from ceiba_protocol.disclosure.noise import independent_shares
from ceiba_protocol.errors import NoiseUndefined

_LOG_ORDERS = (-30.0, 30.0)
"""Where ln(α − 1) is searched; the best α − 1 is near √(ln(1/δ)/ρ)."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def cost_millionths(
    squared_sensitivities: Sequence[int], share_variances: Sequence[int], holders: int, tolerated: int
) -> int:
    """ρ of an answer in millionths, rounded up: Σ Δ²/(2σ²), where σ² is the variance of `holders` − `tolerated` shares.

    Both sequences are by measure, in squared integer units. Raises NoiseUndefined if a measure has a sensitivity and
    no noise, because no ρ bounds that.
    """
    independent = independent_shares(holders, tolerated)
    rho = Fraction(0)
    for squared, variance in zip(squared_sensitivities, share_variances, strict=True):
        if squared and not variance:
            raise NoiseUndefined(problem="a sum that depends on one subject has none")
        if squared:
            rho += Fraction(squared, 2 * independent * variance)
    return math.ceil(rho * MILLION)


def epsilon(rho: Fraction | float, delta: float) -> float:
    """The least ε for which ρ-zCDP is known to imply (ε, δ)-differential privacy; ρ ≥ 0, 0 < δ < 1.

    Canonne, Kamath and Steinke (2020), Corollary 13: δ = min over α > 1 of
    exp((α−1)(αρ−ε))/(α−1)·(1−1/α)^α. For each α that is one ε; the least of them is wanted. ln δ is convex in α, so
    they fall and then rise, and golden-section search over ln(α−1) finds the least.
    """
    if rho == 0:
        return 0.0
    given = float(rho)

    def at(log_order: float) -> float:
        less_one = math.exp(log_order)  # α − 1
        log_ratio = log_order - math.log1p(less_one)  # ln(1 − 1/α)
        alpha = 1 + less_one
        return alpha * given + (alpha * log_ratio - math.log(delta) - log_order) / less_one

    return max(0.0, _least(at, *_LOG_ORDERS))


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function that falls and then rises, by golden-section search to 1e-9 of its argument."""
    while high - low > 1e-9:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return function((low + high) / 2)
