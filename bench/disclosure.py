"""What disclosure control costs: `measure_noise`, against OpenDP's discrete Gaussian as the baseline.

One thread, CPU time. OpenDP draws without sticky keys and in Rust; ours makes a key of its own for every sample.
"""

import os
from collections.abc import Callable

import opendp.prelude as opendp

from bench.crypto import Figure, cpu
from ceiba_protocol.disclosure.noise import KeyedBits, discrete_gaussian, noise_vector

SAMPLES = 20_000


def measure_noise() -> dict[str, Figure]:
    """Microseconds a sample, ours and OpenDP's, their ratio (above 1: ours is faster) and PROTOCOL §3.6's target."""
    opendp.enable_features("contrib")
    return {
        f"noise sample, σ = {name} (µs)": noise_sample(deviation)
        for name, deviation in (("10", 10), ("10^6", 10**6), ("10^12", 10**12))
    } | {"noise sample, σ = 10^6, one stream (µs)": unkeyed_sample(10**6)}


def noise_sample(deviation: int) -> Figure:
    """One sample of a holder's sticky noise vector of 10,000 cells and two measures."""
    digests = {name: os.urandom(32) for name in ("versions_digest", "plan_digest", "members_digest")}
    key, variances = os.urandom(32), (deviation**2, deviation**2)

    def ours() -> object:
        return noise_vector(key, **digests, variances=variances, cells=SAMPLES // 2)

    return _against_opendp(ours, deviation)


def unkeyed_sample(deviation: int) -> Figure:
    """The sampler alone, all samples from one keystream."""
    bits, variance = KeyedBits(os.urandom(32)), deviation**2
    return _against_opendp(lambda: [discrete_gaussian(bits, variance) for _ in range(SAMPLES)], deviation)


def _against_opendp(ours: Callable[[], object], deviation: int) -> Figure:
    """OpenDP is measured directly before and after, because the machine's speed drifts."""
    space = opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=float)
    gaussian, zeros = opendp.m.make_gaussian(*space, scale=float(deviation)), [0] * SAMPLES
    before, mine, after = cpu(lambda: gaussian(zeros)), cpu(ours), cpu(lambda: gaussian(zeros))
    baseline = (before + after) / 2
    microseconds = 1e6 / SAMPLES
    return {
        "ours": mine * microseconds,
        "baseline": baseline * microseconds,
        "ratio": baseline / mine,
        "reach": "≤ 20 µs",
    }
