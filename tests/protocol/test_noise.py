"""Noise: the sampler against the definition, how much of it there is, sticky keys. All keys are fixed."""

import ast
import hmac
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.canonical import tlv
from ceiba_protocol.disclosure import noise
from ceiba_protocol.disclosure.noise import (
    MINIMUM_VARIANCE,
    KeyedBits,
    bernoulli_exp,
    discrete_gaussian,
    members_digest,
    noise_shares,
    noise_vector,
    squared_sensitivity,
    sticky_key,
    tail,
    versions_digest,
)
from ceiba_protocol.errors import NoiseUndefined

KEYS = bytes(range(32)), bytes(range(32, 64))
"""The second is for the retry: a true sampler fails a test at 1e-3 under both once in a million choices of keys."""
SIGNIFICANCE = 1e-3
QUESTION = {"versions_digest": b"v" * 32, "plan_digest": b"p" * 32, "members_digest": b"m" * 32}


def samples(key: bytes, variance: int, count: int) -> list[int]:
    bits = KeyedBits(key)
    return [discrete_gaussian(bits, variance) for _ in range(count)]


def mean_square(values: list[int]) -> float:
    return math.fsum(value * value for value in values) / len(values)


def correlation(left: list[int], right: list[int]) -> float:
    products = math.fsum(a * b for a, b in zip(left, right, strict=True)) / len(left)
    return products / math.sqrt(mean_square(left) * mean_square(right))


# --- bits ------------------------------------------------------------------------------------------------------


def test_the_stream_is_aes_256_in_counter_mode_from_zero() -> None:
    """AES-256 under the zero key of the blocks 0 and 1: H and T of McGrew and Viega's test case 13 for GCM."""
    bits = KeyedBits(bytes(32))
    assert bits.below(2**128).to_bytes(16, "big").hex() == "dc95c078a2408989ad48a21492842087"
    assert bits.below(2**128).to_bytes(16, "big").hex() == "530f8afbc74536b9a963b4f1c4cb738b"


def test_no_byte_of_the_stream_is_used_twice_or_left_out() -> None:
    bits = KeyedBits(KEYS[0])
    stream = Cipher(algorithms.AES256(KEYS[0]), modes.CTR(bytes(16))).encryptor().update(bytes(7 * 1_000))
    assert b"".join(bits.below(2**56).to_bytes(7, "big") for _ in range(1_000)) == stream


def test_integers_below_a_bound_are_uniform_and_cross_blocks() -> None:
    for bound in (1, 2, 3, 5, 255, 256, 257):
        bits = KeyedBits(KEYS[0])
        counts = Counter(bits.below(bound) for _ in range(200 * bound))
        assert sorted(counts) == list(range(bound))
        assert chi_square_p([counts[n] for n in range(bound)], [200.0] * bound) > SIGNIFICANCE
    wide = 3 << 9_000  # wider than a block of keystream
    assert all(bits.below(wide) < wide for _ in range(20))
    assert max(bits.below(wide) for _ in range(20)) >= wide // 2


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 1), (1, 7), (1, 1), (3, 2), (7, 2), (2**300, 2**301)])
def test_coins_have_the_probability_exp_of_minus_the_fraction(numerator: int, denominator: int) -> None:
    bits, count = KeyedBits(KEYS[0]), 40_000
    heads = sum(bernoulli_exp(bits, numerator, denominator) for _ in range(count))
    expected = math.exp(-(numerator / denominator))
    assert abs(heads / count - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / count)


# --- the sampler against the definition ------------------------------------------------------------------------


def chi_square_p(observed: Sequence[float], expected: Sequence[float]) -> float:
    """The probability of so bad a fit or worse, by the closed form for an even number of degrees of freedom.

    For an odd number the next even one is taken, which makes the test a little more lenient.
    """
    half = math.fsum((have - want) ** 2 / want for have, want in zip(observed, expected, strict=True)) / 2
    terms = itertools.accumulate(range(1, len(observed) // 2), lambda term, k: term * half / k, initial=1.0)
    return math.exp(-half) * math.fsum(terms)


def fit(values: list[int], variance: int) -> float:
    """p of the hypothesis that `values` are discrete Gaussian: every integer within 3σ a class, and the two tails."""
    cut, far = math.ceil(3 * math.sqrt(variance)), math.ceil(20 * math.sqrt(variance))
    weights = {x: math.exp(-x * x / (2 * variance)) for x in range(-far, far + 1)}
    total = math.fsum(weights.values())
    counts = Counter(max(-cut - 1, min(cut + 1, value)) for value in values)
    expected = {x: weights[x] for x in range(-cut, cut + 1)}
    expected[cut + 1] = expected[-cut - 1] = math.fsum(weights[x] for x in range(cut + 1, far + 1))
    return chi_square_p([counts[x] for x in expected], [len(values) * weight / total for weight in expected.values()])


@pytest.mark.parametrize("count", [200_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("variance", [4, 16, 100])
def test_samples_have_the_probabilities_of_the_definition(variance: int, count: int) -> None:
    assert any(fit(samples(key, variance, count), variance) > SIGNIFICANCE for key in KEYS)


def test_the_fit_refuses_a_variance_that_is_off_by_a_sixteenth_and_a_doubled_zero() -> None:
    values = samples(KEYS[0], 17, 50_000)
    assert fit(values, 16) < 1e-6
    assert fit([*values, *[0] * values.count(0)], 17) < 1e-6


def test_the_chi_square_is_the_one_of_the_tables() -> None:
    """Critical values at 1e-3 of 2, 10 and 40 degrees of freedom."""
    for degrees, critical in ((2, 13.816), (10, 29.588), (40, 73.402)):
        observed = [100 + math.sqrt(critical * 100), *[100] * degrees]
        assert chi_square_p(observed, [100.0] * (degrees + 1)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("variance", [10**6 + 1, 2**120, 2**200 + 12_345])
def test_a_large_variance_is_met(variance: int) -> None:
    count, deviation = 20_000, math.sqrt(variance)
    values = samples(KEYS[0], variance, count)
    assert abs(math.fsum(values) / count) < 4 * deviation / math.sqrt(count)
    assert abs(mean_square(values) / variance - 1) < 4 * math.sqrt(2 / count)
    for width in (0.5, 1, 2):
        share = math.erf(width / math.sqrt(2))
        within = sum(abs(value) < width * deviation for value in values) / count
        assert abs(within - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_no_variance_is_no_noise() -> None:
    assert samples(KEYS[0], 0, 3) == [0, 0, 0]


def test_samples_of_a_key_are_frozen() -> None:
    """Whoever changes them changes every holder's sticky noise, and two answers to one question then differ."""
    assert samples(KEYS[0], 100, 8) == [-9, -9, 10, 2, 9, -2, -3, 0]
    vector = noise_vector(KEYS[0], **QUESTION, variances=(16, 10**12), cells=4)
    assert vector == [-13, 260637, -1, -970779, 7, 1750476, -3, 277871]


# --- how much noise --------------------------------------------------------------------------------------------


def test_squared_sensitivity_is_that_of_the_protocol() -> None:
    """Two holders, each with 3 cells of at most 5 units: (2·√3·5)² = 300."""
    assert squared_sensitivity(5, 3, 2) == 300
    assert squared_sensitivity(1, 1, 1) == 1


def test_the_default_count_has_a_standard_deviation_of_ten() -> None:
    """ρ = 0.005: σ² = 1/(2·0.005) = 100 among the two of three holders that do not collude."""
    assert noise_shares(5_000, [1], 3, 1) == (50,)
    assert noise_shares(5_000, [1, 0, 9], 4, 1) == (67, 0, 600)  # 200/3 rounded up; 1800/3; a constant needs none
    assert noise_shares(1_000_000, [1, 33], 3, 1) == (MINIMUM_VARIANCE, 17)  # 33·2/2/2 = 16.5
    assert noise_shares(5_000, [0], 3, 1) == (0,)


sensitivities = st.lists(st.one_of(st.just(0), st.integers(1, 100), st.integers(1, 2**190)), min_size=1, max_size=6)


@given(st.integers(1, 10**8), sensitivities, st.integers(1, 64), st.data())
def test_the_shares_nobody_knows_have_the_whole_variance(
    rho: int, squared: list[int], holders: int, data: st.DataObject
) -> None:
    independent = data.draw(st.integers(1, holders))
    shares = noise_shares(rho, squared, holders, holders - independent)
    measures = sum(1 for sensitivity in squared if sensitivity)
    for sensitivity, share in zip(squared, shares, strict=True):
        needed = sensitivity * measures * 10**6  # times 1/(2·rho) is σ²
        assert 2 * rho * independent * share >= needed
        if sensitivity == 0:
            assert share == 0
        elif share > MINIMUM_VARIANCE:
            assert 2 * rho * independent * (share - 1) < needed
        else:
            assert share == MINIMUM_VARIANCE


def test_totals_of_shares_have_the_variance_that_was_promised() -> None:
    """n = 3, t = 1: two shares together σ², three 1.5·σ²."""
    count, target = 20_000, 100
    (share,) = noise_shares(5_000, [1], 3, 1)
    drawn = [noise_vector(bytes([holder]) * 32, **QUESTION, variances=[share], cells=count) for holder in range(3)]
    two = mean_square([sum(parts) for parts in zip(*drawn[1:], strict=True)])
    three = mean_square([sum(parts) for parts in zip(*drawn, strict=True)])
    assert abs(two / target - 1) < 3 * math.sqrt(2 / count)
    assert abs(three / (1.5 * target) - 1) < 3 * math.sqrt(2 / count)


def test_the_least_share_makes_the_sum_of_shares_as_good_as_a_discrete_gaussian() -> None:
    """τ of Kairouz, Liu and Steinke (2021) for 1,000 holders."""
    exponents = (-2 * math.pi**2 * MINIMUM_VARIANCE * k / (k + 1) for k in range(1, 1_000))
    assert 10 * math.fsum(map(math.exp, exponents)) < 1e-60


@pytest.mark.parametrize(("rho", "holders", "tolerated"), [(0, 3, 1), (-1, 3, 1), (1, 3, 3), (1, 3, 4), (1, 3, -1)])
def test_noise_that_is_not_defined_is_refused(rho: int, holders: int, tolerated: int) -> None:
    with pytest.raises(NoiseUndefined):
        noise_shares(rho, [1], holders, tolerated)


@given(st.integers(1, 2**200))
def test_the_tail_is_forty_standard_deviations_rounded_up(variance: int) -> None:
    assert (tail(variance) - 1) ** 2 < 1600 * variance <= tail(variance) ** 2
    assert tail(0) == 0


# --- sticky keys -----------------------------------------------------------------------------------------------


def test_the_sticky_key_is_the_hmac_of_what_the_protocol_names() -> None:
    message = tlv(b"ceiba/v1/noise", b"v" * 32, b"p" * 32, b"m" * 32, b"1000", b"\0\0\0\7", b"\0\0\0\2")
    key = sticky_key(KEYS[0], **QUESTION, variance=1000, cell=7, measure=2)
    assert key == hmac.digest(KEYS[0], message, "sha256")


def test_every_cell_and_measure_is_drawn_from_its_own_key_and_cells_come_first() -> None:
    variances = (16, 0, 2**70)
    expected = [
        discrete_gaussian(KeyedBits(sticky_key(KEYS[0], **QUESTION, variance=v, cell=cell, measure=measure)), v)
        for cell in range(5)
        for measure, v in enumerate(variances)
    ]
    assert noise_vector(KEYS[0], **QUESTION, variances=variances, cells=5) == expected


def test_the_same_question_has_the_same_noise_and_every_other_one_its_own() -> None:
    def drawn(noise_key: bytes = KEYS[0], variance: int = 2**80, **changed: bytes) -> list[int]:
        return noise_vector(noise_key, **{**QUESTION, **changed}, variances=[variance], cells=20)

    first = drawn()
    assert drawn() == first
    others = [drawn(**{name: b"x" * 32}) for name in QUESTION] + [drawn(KEYS[1]), drawn(variance=2**80 + 1)]
    for other in others:
        assert not set(first) & set(other)


def test_holders_and_versions_are_named_whatever_their_order() -> None:
    assert members_digest(["b", "a", "c"]) == members_digest(("c", "b", "a"))
    assert versions_digest({"a": "1", "b": "2"}) == versions_digest({"b": "2", "a": "1"})
    members = [members_digest(names) for names in (["a", "b"], ["a"], ["ab"], ["a", "b", "c"])]
    versions = [versions_digest(v) for v in ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1"}, {"a1": ""})]
    assert len({*members, *versions}) == 8


def test_cells_and_measures_are_independent() -> None:
    count = 20_000
    vector = noise_vector(KEYS[0], **QUESTION, variances=(100, 100), cells=count)
    first, second = vector[::2], vector[1::2]
    limit = 4 / math.sqrt(count)
    assert abs(correlation(first, second)) < limit
    assert abs(correlation(first[1:], first[:-1])) < limit
    assert abs(correlation([value**2 - 100 for value in first], [value**2 - 100 for value in second])) < limit


# --- integers only ---------------------------------------------------------------------------------------------


def floats_in(source: str) -> Iterator[str]:
    """What could make a float: its literals, `/`, float() and round(), imports of anything numerical but isqrt."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield repr(node.value)
        elif isinstance(node, ast.Div):
            yield "/"
        elif isinstance(node, ast.Name) and node.id in {"float", "complex", "round", "pow"}:
            yield node.id
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name != "hmac")
        elif isinstance(node, ast.ImportFrom) and node.module == "math":
            yield from (name.name for name in node.names if name.name != "isqrt")
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in {
            *("collections", "cryptography", "ceiba_protocol")
        }:
            yield node.module


def test_no_float_takes_part_in_the_noise() -> None:
    assert list(floats_in(Path(noise.__file__).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        *("a = 0.5", "a = 1e3", "a = 1j", "a = b / 2", "a /= 2", "float(a)", "round(a)"),
        *("import math", "from math import exp", "import numpy as np", "from numpy import random", "import random"),
    ],
)
def test_floats_are_found(source: str) -> None:
    assert list(floats_in(source))
