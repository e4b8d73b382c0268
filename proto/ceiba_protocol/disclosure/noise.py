"""Noise for answers: exact discrete Gaussian shares from sticky keys, in integers only (PROTOCOL §3.6).

Every holder adds to each sum a discrete Gaussian, N_Z(0, v): P(x) ∝ exp(−x²/(2v)) on the integers. A coalition that
knows `tolerated` shares still faces the whole target variance σ². The sampler is Algorithms 1 to 3 of Canonne, Kamath
and Steinke, "The Discrete Gaussian for Differential Privacy" (2020). It is exact: only integers are compared, so that
no rounding of a float gives a value away (Mironov 2012). Its running time depends on what it draws, so a holder
answers when a whole vector is drawn, never after a single sample.
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.disclosure.grade import MILLION
from ceiba_protocol.errors import NoiseUndefined

MINIMUM_VARIANCE = 16
"""Of one share. The sum of shares is not a discrete Gaussian itself; Kairouz, Liu and Steinke (2021) bound what
that costs by τ = 10·Σ_{k<n} exp(−2π²·v·k/(k+1)) for n shares of variance v: here below 1e-60, so ignored."""
TAIL = 40
"""Standard deviations; a share is beyond them with probability below exp(−800)."""
_BLOCK = 512
"""Bytes of keystream at a time; most samples need fewer."""


class KeyedBits:
    """Uniform integers from the AES-256-CTR keystream of a 32-byte key, from counter zero: same key, same integers."""

    __slots__ = ("_at", "_buffer", "_stream")

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._buffer = b""
        self._at = 0

    def below(self, bound: int) -> int:
        """Uniform in [0, bound), bound ≥ 1, by rejection of whole bytes' leading bits: no bias."""
        bits = (bound - 1).bit_length()
        width, spare = (bits + 7) >> 3, -bits & 7
        while True:
            at = self._at
            end = self._at = at + width
            if end > len(self._buffer):
                self._buffer = self._buffer[at:] + self._stream.update(bytes(_BLOCK + width))
                at, end = 0, width
                self._at = end
            candidate = int.from_bytes(self._buffer[at:end], "big") >> spare
            if candidate < bound:
                return candidate


def bernoulli_exp(bits: KeyedBits, numerator: int, denominator: int) -> bool:
    """True with probability exp(−numerator/denominator); numerator ≥ 0, denominator ≥ 1 (CKS 2020, Algorithm 1)."""
    while numerator > denominator:
        if not _bernoulli_exp_up_to_one(bits, 1, 1):
            return False
        numerator -= denominator
    return _bernoulli_exp_up_to_one(bits, numerator, denominator)


def _bernoulli_exp_up_to_one(bits: KeyedBits, numerator: int, denominator: int) -> bool:
    """Of γ = numerator/denominator ≤ 1: the first k at which a coin of probability γ/k shows tails is odd."""
    below = bits.below
    k, product = 1, denominator
    while below(product) < numerator:
        k += 1
        product += denominator
    return k & 1 == 1


def _discrete_laplace(bits: KeyedBits, scale: int) -> int:
    """P(x) ∝ exp(−|x|/scale) on the integers, scale ≥ 1 (CKS 2020, Algorithm 2)."""
    while True:
        remainder = bits.below(scale)
        if not _bernoulli_exp_up_to_one(bits, remainder, scale):
            continue
        quotient = 0
        while _bernoulli_exp_up_to_one(bits, 1, 1):
            quotient += 1
        magnitude = remainder + scale * quotient
        if not bits.below(2):
            return magnitude
        if magnitude:  # else zero would come twice, with either sign
            return -magnitude


def discrete_gaussian(bits: KeyedBits, variance: int) -> int:
    """One sample of P(x) ∝ exp(−x²/(2·variance)) on the integers, variance ≥ 0 (CKS 2020, Algorithm 3).

    A discrete Laplace y of scale t = ⌊σ⌋ + 1 is accepted with probability exp(−(|y| − σ²/t)²/(2σ²)), which is
    exp(−(|y|·t − σ²)²/(2σ²t²)) in integers. Variance zero is no noise.
    """
    if variance == 0:
        return 0
    scale = isqrt(variance) + 1
    denominator = 2 * variance * scale * scale
    while True:
        candidate = _discrete_laplace(bits, scale)
        if bernoulli_exp(bits, (abs(candidate) * scale - variance) ** 2, denominator):
            return candidate


# --- how much noise --------------------------------------------------------------------------------------------


def squared_sensitivity(row_bound: int, cells_per_subject: int, holders_per_subject: int) -> int:
    """Δ² of one measure over all cells, in squared integer units: h²·L0·C².

    One subject changes at most L0 = `cells_per_subject` cells at each of h = `holders_per_subject` holders, each by
    at most C = `row_bound`, the largest magnitude of the summand in integer units: 1 for a count, C² for squares.
    Squared everywhere, because √L0 is no integer.
    """
    return holders_per_subject**2 * cells_per_subject * row_bound**2


def noise_shares(
    rho_millionths: int, squared_sensitivities: Sequence[int], holders: int, tolerated: int
) -> tuple[int, ...]:
    """For each measure the variance of one holder's share, in squared integer units, so that an answer costs at most ρ.

    ρ (zCDP, in millionths) is split equally over the m measures that have a sensitivity: σ² = Δ²·m/(2ρ). Any
    `holders` − `tolerated` shares together have at least σ²; of all holders they have n/(n−t) times that. A share is
    rounded up, and at least MINIMUM_VARIANCE; a measure of sensitivity zero gets none. Raises NoiseUndefined.
    """
    if rho_millionths < 1:
        raise NoiseUndefined(problem="the privacy loss that it may cost is not above zero")
    independent = independent_shares(holders, tolerated)
    measures = sum(1 for squared in squared_sensitivities if squared)
    divisor = 2 * rho_millionths * independent
    return tuple(
        max(MINIMUM_VARIANCE, -(-squared * measures * MILLION // divisor)) if squared else 0
        for squared in squared_sensitivities
    )


def independent_shares(holders: int, tolerated: int) -> int:
    """How many shares `tolerated` colluding holders do not know: n − t. Raises NoiseUndefined unless 0 ≤ t < n."""
    if not 0 <= tolerated < holders:
        raise NoiseUndefined(problem=f"of {holders} holders {tolerated} may collude, and one must remain")
    return holders - tolerated


def tail(variance: int) -> int:
    """⌈40·σ⌉ for a share of this variance: what a layout adds to a sum's bound (PROTOCOL §2.4)."""
    return isqrt(TAIL**2 * variance - 1) + 1 if variance else 0


def cells_order_key(noise_key: bytes) -> bytes:
    """32 bytes by which a holder chooses to which cells a subject with too many adds."""
    return sha256("ceiba/v1/cells-of-subjects", noise_key)


# --- sticky keys -----------------------------------------------------------------------------------------------


def members_digest(holders: Iterable[str]) -> bytes:
    """32 bytes that name the set of holders. Not the round's set digest, whose mask keys are new in every attempt."""
    return sha256("ceiba/v1/members", *(name.encode() for name in sorted(holders)))


def versions_digest(versions: Mapping[str, str]) -> bytes:
    """32 bytes that name the dataset version (a digest) of *every* holder.

    If one holder alone drew anew, the others' shares would cancel in the difference of two answers.
    """
    return sha256("ceiba/v1/versions", *(tlv(name.encode(), of.encode()) for name, of in sorted(versions.items())))


def _sticky_base(noise_key: bytes, *question: bytes) -> hmac.HMAC:
    return hmac.new(noise_key, tlv(b"ceiba/v1/noise", *question), "sha256")


def _sticky_leaf(base: hmac.HMAC, variance: bytes, cell: int, measure: int) -> bytes:
    leaf = base.copy()
    leaf.update(tlv(variance, cell.to_bytes(4, "big"), measure.to_bytes(4, "big")))
    return leaf.digest()


def sticky_key(
    noise_key: bytes,
    *,
    versions_digest: bytes,
    plan_digest: bytes,
    members_digest: bytes,
    variance: int,
    cell: int,
    measure: int,
) -> bytes:
    """One holder's 32-byte key for one cell and measure, made of what is public about the question and never of data.

    HMAC-SHA256(noise_key, TLV["ceiba/v1/noise", versions, plan, members, variance, cell, measure]), variance in
    decimal, cell and measure in 4 bytes. The same question has the same noise, so that asking again averages nothing
    out. `noise_key` is 32 secret bytes that this holder alone has.
    """
    base = _sticky_base(noise_key, versions_digest, plan_digest, members_digest)
    return _sticky_leaf(base, b"%d" % variance, cell, measure)


def noise_vector(
    noise_key: bytes,
    *,
    versions_digest: bytes,
    plan_digest: bytes,
    members_digest: bytes,
    variances: Sequence[int],
    cells: int,
) -> list[int]:
    """Run by a holder: its noise for `cells` × `variances`, cell 0's measures first; the same for the same arguments.

    Each sample has its own `sticky_key`, so that no cell's noise depends on another's.
    """
    base = _sticky_base(noise_key, versions_digest, plan_digest, members_digest)
    encoded = [b"%d" % variance for variance in variances]
    return [
        discrete_gaussian(KeyedBits(_sticky_leaf(base, encoded[measure], cell, measure)), variance)
        for cell in range(cells)
        for measure, variance in enumerate(variances)
    ]
