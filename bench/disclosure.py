"""What disclosure control costs: the gate's masks against the bare keystream, noise against OpenDP's discrete Gaussian.

One thread, CPU time. OpenDP draws without sticky keys and in Rust; ours makes a key of its own for every sample.
"""

import os
from collections.abc import Callable

import numpy as np
import opendp.prelude as opendp
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.crypto import Figure, cpu, least_cpu
from ceiba_protocol.disclosure.gate import LANES
from ceiba_protocol.disclosure.noise import KeyedBits, discrete_gaussian, noise_vector
from ceiba_protocol.sums.masks import combined_words, expand_words
from ceiba_protocol.trust.keys import x25519_public_key

SAMPLES = 20_000


def measure_noise() -> dict[str, Figure]:
    """Microseconds a sample, ours and OpenDP's, their ratio (above 1: ours is faster) and PROTOCOL §3.6's target."""
    opendp.enable_features("contrib")
    return {
        f"noise sample, σ = {name} (µs)": noise_sample(deviation)
        for name, deviation in (("10", 10), ("10^6", 10**6), ("10^12", 10**12))
    } | {"noise sample, σ = 10^6, one stream (µs)": unkeyed_sample(10**6)}


def measure_gate() -> dict[str, Figure]:
    """Microseconds of a holder for each peer and 1,000 cells with one test, three lanes of words: deriving the seed,
    which the release pays as well, and masking. The baseline is AES-256-CTR over as many bytes, in one call."""
    words, peers = LANES * 1000, 64
    secrets = {f"h{place:02d}": os.urandom(32) for place in range(peers + 1)}
    keys = {name: x25519_public_key(secret) for name, secret in secrets.items()}
    me, *others = secrets
    seeds = [os.urandom(32) for _ in range(peers)]

    def whole() -> object:
        return combined_words(me, secrets[me], {name: keys[name] for name in others}, os.urandom(32), words)

    def masks() -> object:
        total = np.zeros(words, dtype=np.uint64)
        for seed in seeds:
            total += expand_words(seed, words)
        return total

    def keystream() -> object:
        return Cipher(algorithms.AES(seeds[0]), modes.CTR(bytes(16))).encryptor().update(bytes(8 * words * peers))

    per_peer = {name: least_cpu(action) * 1e6 / peers for name, action in (("masks", masks), ("whole", whole))}
    baseline = least_cpu(keystream) * 1e6 / peers
    return {
        "gate: mask 1,000 cells for one peer (µs)": _as_figure(per_peer["masks"], baseline, "≤ 20 µs"),
        "gate: the same with X25519 and HKDF (µs)": _as_figure(per_peer["whole"], baseline, None),
    }


def _as_figure(ours: float, baseline: float, reach: str | None) -> Figure:
    return {"ours": ours, "baseline": baseline, "ratio": baseline / ours, "reach": reach}


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
    return _as_figure(mine * microseconds, baseline * microseconds, "≤ 20 µs")
