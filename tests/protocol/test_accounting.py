"""Accounting: against PROTOCOL's table, `dp_accounting` and OpenDP, and against an attack on two tables."""

import math
from fractions import Fraction

import dp_accounting
import opendp.prelude as opendp
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.disclosure.accounting import cost_millionths, epsilon
from ceiba_protocol.disclosure.noise import noise_shares, noise_vector
from ceiba_protocol.errors import NoiseUndefined

DELTA = 1e-6
opendp.enable_features("contrib")

rhos = pytest.mark.parametrize("rho", [0.0001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0])

# --- ε of ρ ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "expected"),
    [(0.005, 0.43), (0.02, 0.90), (0.05, 1.47), (0.1, 2.14), (0.25, 3.54), (0.5, 5.22), (1, 7.77)],
)
def test_epsilon_is_that_of_the_protocols_table(rho: float, expected: float) -> None:
    assert round(epsilon(rho, DELTA), 2) == expected


@rhos
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
def test_epsilon_agrees_with_the_renyi_accountant_of_dp_accounting(rho: float, delta: float) -> None:
    accountant = RdpAccountant(orders=[1 + math.exp(step / 50) for step in range(-150, 500)])
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier=1 / math.sqrt(2 * rho)))
    assert epsilon(rho, delta) == pytest.approx(accountant.get_epsilon(delta), rel=0.01)


@rhos
def test_epsilon_agrees_with_opendp(rho: float) -> None:
    scale = math.sqrt(1 / (2 * rho))
    gaussian = opendp.m.make_gaussian(opendp.atom_domain(T=int), opendp.absolute_distance(T=int), scale=scale)
    assert gaussian.map(1) == pytest.approx(rho)
    curve = opendp.c.make_zCDP_to_approxDP(gaussian).map(1)
    assert epsilon(rho, DELTA) == pytest.approx(curve.epsilon(DELTA), rel=0.01)


def test_epsilon_is_no_less_than_the_exact_one_of_a_discrete_gaussian() -> None:
    exact = privacy_loss_distribution.from_discrete_gaussian_mechanism(sigma=10).get_epsilon_for_delta(DELTA)
    assert exact <= epsilon(0.005, DELTA) <= 1.1 * exact


def test_no_loss_is_no_epsilon_and_more_of_it_is_more() -> None:
    assert epsilon(0, DELTA) == 0
    assert epsilon(Fraction(1, 10**13), DELTA) == 0  # the distance in total variation is below δ
    grown = [epsilon(Fraction(n, 100), DELTA) for n in range(1, 200)]
    assert grown == sorted(set(grown))
    assert epsilon(10**6, DELTA) == pytest.approx(10**6 + 2 * math.sqrt(10**6 * math.log(1 / DELTA)), rel=1e-3)


# --- what an answer costs --------------------------------------------------------------------------------------


def test_cost_is_the_sum_over_measures_and_rounds_up() -> None:
    assert cost_millionths([1], [50], 3, 1) == 5_000  # 1/(2·100)
    assert cost_millionths([1, 0, 9], [67, 0, 600], 4, 1) == 2_488 + 2_500  # 1/402 = 2487.56 millionths, rounded up
    assert cost_millionths([1], [10**9], 3, 1) == 1
    assert cost_millionths([0], [0], 3, 1) == 0


def test_cost_agrees_with_the_map_of_opendp() -> None:
    space = opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=float)
    for squared, share in ((1, 50), (300, 1234), (10**8, 10**12)):
        opened = opendp.m.make_gaussian(*space, scale=math.sqrt(3 * share)).map(math.sqrt(squared))
        assert cost_millionths([squared], [share], 5, 2) == pytest.approx(opened * 1e6, rel=0.01, abs=1)


@given(
    st.integers(1, 10**8),
    st.lists(st.one_of(st.just(0), st.integers(1, 10**6), st.integers(1, 2**190)), max_size=6),
    st.integers(1, 64),
    st.data(),
)
def test_an_answer_costs_no_more_than_was_granted(
    rho: int, squared: list[int], holders: int, data: st.DataObject
) -> None:
    tolerated = data.draw(st.integers(0, holders - 1))
    shares = noise_shares(rho, squared, holders, tolerated)
    assert cost_millionths(squared, shares, holders, tolerated) <= rho


def test_a_large_answer_uses_all_that_was_granted() -> None:
    """Where rounding up a share is small beside it, the split leaves nothing of ρ unused."""
    squared = [1, 10**6, 10**12]
    assert cost_millionths(squared, noise_shares(1_000, squared, 5, 2), 5, 2) == 1_000


def test_a_cost_without_a_bound_is_refused() -> None:
    with pytest.raises(NoiseUndefined):
        cost_millionths([1, 1], [16, 0], 3, 1)
    with pytest.raises(NoiseUndefined):
        cost_millionths([1], [16], 3, 3)


# --- an attack: which of two tables was it? --------------------------------------------------------------------

COUNT = 20_000
"""Totals of either table."""
CONFIDENCE = 1e-3
"""The lower bound on ε is above the true ε in at most one of so many choices of keys."""


def chernoff_bound(hits: int, count: int, failure: float, *, upper: bool) -> float:
    """A bound on a probability of which `hits` of `count` were seen: count·KL(seen, bound) = ln(1/failure)."""
    seen, limit = hits / count, math.log(1 / failure) / count

    def divergence(p: float) -> float:
        ones = seen * math.log(seen / p) if seen else 0.0
        return ones + ((1 - seen) * math.log((1 - seen) / (1 - p)) if seen < 1 else 0.0)

    inside, outside = seen, 1.0 if upper else 0.0
    for _ in range(60):
        middle = (inside + outside) / 2
        if middle in (0.0, 1.0) or divergence(middle) > limit:
            outside = middle
        else:
            inside = middle
    return outside


def proven_epsilon(share: int) -> float:
    """A lower bound on ε from totals, over a count of 0 and one of 1, of the shares of the two holders that are honest.

    For every threshold the event "the total is at least so large" under either table; what (ε, δ) promises is
    P ≤ e^ε·Q + δ.
    """
    totals = []
    for count in (0, 1):
        question = {"versions_digest": bytes([count]) * 32, "plan_digest": bytes(32), "members_digest": bytes(32)}
        parts = [noise_vector(bytes([holder]) * 32, **question, variances=[share], cells=COUNT) for holder in (1, 2)]
        totals.append([count + sum(drawn) for drawn in zip(*parts, strict=True)])
    without, having = totals
    thresholds = range(-10, 31)
    failure = CONFIDENCE / (2 * len(thresholds))
    proven = 0.0
    for threshold in thresholds:
        likely = chernoff_bound(sum(total >= threshold for total in having), COUNT, failure, upper=False)
        unlikely = chernoff_bound(sum(total >= threshold for total in without), COUNT, failure, upper=True)
        if likely > DELTA:
            proven = max(proven, math.log((likely - DELTA) / unlikely))
    return proven


def test_an_attacker_proves_no_more_than_the_claim_and_more_if_the_noise_is_too_small() -> None:
    (share,) = noise_shares(5_000, [1], 3, 1)
    claimed = epsilon(Fraction(cost_millionths([1], [share], 3, 1), 10**6), DELTA)
    assert proven_epsilon(share) < claimed
    assert proven_epsilon(share // 16) > claimed  # σ a quarter of what it must be: the attack works


def test_bounds_on_a_probability_hold_what_was_seen() -> None:
    assert chernoff_bound(0, 100, 0.01, upper=False) == 0
    assert chernoff_bound(0, 100, 0.01, upper=True) == pytest.approx(1 - 0.01 ** (1 / 100))
    assert chernoff_bound(50, 100, 0.01, upper=False) < 0.5 < chernoff_bound(50, 100, 0.01, upper=True)
