"""Attacks on scoring: each reads a subject's bins from a build that lacks one rule, and then fails (PROTOCOL §5.5)."""

import itertools
import os
from collections.abc import Iterable, Sequence
from functools import cache

import gmpy2
import phe
import pytest
from gmpy2 import mpz

from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import BadKeyProof, BadScoreModel, BinTooSmall, ConsentUsed, QuotaExceeded
from ceiba_protocol.expression import ColumnValue, Number
from ceiba_protocol.linkage import scoring
from ceiba_protocol.linkage.consent import check_consent, check_score_quota, give_consent, new_subject
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import (
    Bins,
    PrivateWeights,
    ScoreModel,
    bins_at,
    bins_of,
    check_model,
    check_population,
    encrypt_weights,
    feature_of,
    terms_of,
    weights_digest,
)
from ceiba_protocol.linkage.scoring import HolderModel, MaskKeys, holder_score, merchant_open, ready_model, run_score
from ceiba_protocol.plan import ByBucket, GroupKey
from ceiba_protocol.program import evaluate
from ceiba_protocol.schema import Grade
from ceiba_protocol.sums.key_proof import prove_key, verify_key
from ceiba_protocol.sums.paillier import Encryptor, encode_ciphertexts, encode_modulus, key_id
from ceiba_protocol.sums.randomness import Random, random_below
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.roster import EncryptionKey
from tests.attacks.test_malformed_modulus import CONTEXT, FEATURE_BITS, hostile_weights, read_features, trapdoor
from tests.support.keys import keypair
from tests.support.scorecards import MINE, NOON, POINTS, SCHEMAS, SENIORITY, model
from tests.support.seeded import seeded

SCORE_BITS = 24
HOLDER = "registry"
SCHEMA = SCHEMAS["registry.firms"]
BINS = (2, 1, 2, 1)
"""The victim's."""
PLACES = tuple(tuple(range(len(row))) for row in POINTS)
"""Points that many subjects have the same sum of."""


def holder_model(n: int, blob: bytes, made: ScoreModel) -> HolderModel:
    """A model as its one holder has it when it has not asked for the key's proof."""
    weights = PrivateWeights(blob_digest=weights_digest(blob))
    made = made.model_copy(update={"weights": weights, "key_id": Digest(key_id(n).hex())})
    check_model(made, blob, n)
    return scoring._ready(made, blob, HOLDER, bins_at(made, HOLDER, SCHEMA), MaskKeys(b"", {}), n)


def every_bins(ready: HolderModel) -> Iterable[tuple[int, ...]]:
    return itertools.product(*(range(one.count) for one in ready.bins))


# --- short exponents, and obfuscators that are used twice, against the key's owner -----------------------------


class SmoothKey:
    """A key whose owner can take logarithms: p − 1 and q − 1 have small factors alone. Its proof is a good one."""

    def __init__(self, bits: int) -> None:
        random = seeded("smooth")
        self.p, self.factors_p = _smooth_prime(bits // 2, random)
        self.q, self.factors_q = _smooth_prime(bits // 2, random)
        while gmpy2.gcd(self.p * self.q, (self.p - 1) * (self.q - 1)) != 1 or self.p == self.q:
            self.q, self.factors_q = _smooth_prime(bits // 2, random)
        self.n = int(self.p * self.q)
        self.private = phe.PaillierPrivateKey(phe.PaillierPublicKey(self.n), int(self.p), int(self.q))

    def root(self, ciphertext: mpz) -> mpz:
        """r modulo n of (1 + n·m)·r^n."""
        return gmpy2.powmod(ciphertext, gmpy2.invert(self.n, (self.p - 1) * (self.q - 1)), self.n)

    def is_short_power(self, base: mpz, power: mpz) -> bool:
        """Whether power = base^r modulo n for an r of at most half as many bits as n."""
        found = [
            logarithm(base % prime, power % prime, prime, factors)
            for prime, factors in ((self.p, self.factors_p), (self.q, self.factors_q))
        ]
        if None in found:
            return False
        (x, m), (y, k) = (one for one in found if one is not None)
        common = gmpy2.gcd(m, k)
        if (x - y) % common:
            return False
        step = (y - x) // common * gmpy2.invert(m // common, k // common) % (k // common)
        return int((x + m * step) % (m // common * k)).bit_length() <= self.n.bit_length() // 2


def _smooth_prime(bits: int, random: Random) -> tuple[mpz, dict[int, int]]:
    small = [prime for prime in range(3, 2000) if gmpy2.is_prime(prime)]
    while True:
        product, factors = mpz(2), {2: 1}
        while product.bit_length() < bits - 11:
            factor = small[random_below(random, len(small))]
            product, factors[factor] = product * factor, factors.get(factor, 0) + 1
        for factor in small:
            candidate = product * factor + 1
            if candidate % 4 == 3 and candidate.bit_length() >= bits - 1 and gmpy2.is_prime(candidate):
                factors[factor] = factors.get(factor, 0) + 1
                return candidate, factors


def logarithm(base: mpz, power: mpz, prime: mpz, factors: dict[int, int]) -> tuple[mpz, mpz] | None:
    """Pohlig and Hellman: x and m with power = base^x mod prime, x known modulo m; None if there is none."""
    found, modulus = mpz(0), mpz(1)
    for factor, exponent in factors.items():
        cofactor = (prime - 1) // mpz(factor) ** exponent
        generator, target = gmpy2.powmod(base, cofactor, prime), gmpy2.powmod(power, cofactor, prime)
        order = next(factor**e for e in range(exponent + 1) if gmpy2.powmod(generator, factor**e, prime) == 1)
        digit_of, step = {}, mpz(1)
        top = gmpy2.powmod(generator, order // factor, prime) if order > 1 else mpz(1)
        for digit in range(factor if order > 1 else 1):
            digit_of[step] = digit
            step = step * top % prime
        x, weight, left = mpz(0), mpz(1), order
        while left > 1:
            digit = digit_of.get(gmpy2.powmod(target, left // factor, prime))
            if digit is None:
                return None
            x += digit * weight
            target = target * gmpy2.invert(gmpy2.powmod(generator, digit * weight, prime), prime) % prime
            weight, left = weight * factor, left // factor
        if target != 1:
            return None
        if order > 1:
            found += modulus * ((x - found) * gmpy2.invert(modulus, order) % order)
            modulus *= order
    return found % modulus, modulus


@cache
def smooth_key() -> SmoothKey:
    return SmoothKey(512)


def test_the_smooth_keys_proof_is_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the proof does not help against the two attacks below; p is a prime like others."""
    monkeypatch.setattr("ceiba_protocol.sums.paillier.MINIMUM_KEY_BITS", 500)
    verify_key(smooth_key().n, prove_key(smooth_key().private, CONTEXT), CONTEXT)


class ShortExponents(FullObfuscators):
    """The weakened build: hs^r with half as many bits, hs as the key's owner has published it (HEU and IPCL do so)."""

    def __init__(self, n: int, hs: mpz) -> None:
        super().__init__(n, os.urandom)
        self._hs = hs

    def make(self) -> mpz:
        exponent = int.from_bytes(os.urandom(self.n.bit_length() // 16), "big")
        return gmpy2.powmod(self._hs, exponent, mpz(self.n) ** 2)


def candidates(key: SmoothKey, ready: HolderModel, answer: mpz, base: mpz) -> list[tuple[int, ...]]:
    """Run by the owner: which bins the answer can be made of, among those that explain its score."""
    square = mpz(key.n) ** 2
    score = merchant_open(encode_ciphertexts([answer], key.n), key.private, SCORE_BITS)[0]
    possible = []
    for bins in every_bins(ready):
        if sum(bins) == score:
            product = mpz(1)
            for factors, place in zip(ready.factors, bins, strict=True):
                product = product * factors[place] % square
            if key.is_short_power(base, key.root(answer * gmpy2.invert(product, square) % square)):
                possible.append(bins)
    return possible


@pytest.mark.parametrize("is_short", [True, False], ids=["short exponents", "as built"])
def test_short_exponents_tell_the_keys_owner_which_bins_were_chosen(is_short: bool) -> None:
    key, square = smooth_key(), mpz(smooth_key().n) ** 2
    hs = gmpy2.powmod(-(mpz(random_below(os.urandom, key.n)) ** 2) % key.n, key.n, square)
    blob = encrypt_weights(PLACES, SCORE_BITS, Encryptor.for_count(key.n, 17, os.urandom))
    ready = holder_model(key.n, blob, model(features=MINE))
    assert sum(sum(bins) == sum(BINS) for bins in every_bins(ready)) == 43
    obfuscators = ShortExponents(key.n, hs) if is_short else FullObfuscators(key.n, os.urandom)
    answer = holder_score(ready, BINS, bytes(32), obfuscators, os.urandom)
    assert candidates(key, ready, answer, key.root(hs)) == ([BINS] if is_short else [])


class UsedTwice(FullObfuscators):
    """The weakened build: a pool that was copied, by a fork say, so that answers have one obfuscator."""

    def __init__(self, n: int, random: Random) -> None:
        super().__init__(n, random)
        self._copied = self.make()

    def take(self) -> mpz:
        return self._copied


@pytest.mark.parametrize("pool", [UsedTwice, FullObfuscators])
def test_an_obfuscator_that_is_used_twice_tells_the_owner_how_two_subjects_differ(pool: type[FullObfuscators]) -> None:
    n, private = int(keypair(256)[0].n), keypair(256)[1]
    square, inverse = mpz(n) ** 2, gmpy2.invert(n, (private.p - 1) * (private.q - 1))
    blob = encrypt_weights(POINTS, SCORE_BITS, Encryptor.for_count(n, 17, os.urandom))
    ready, obfuscators = holder_model(n, blob, model(features=MINE)), pool(n, os.urandom)
    obfuscators.fill(2)
    other = (4, 0, 0, 3)
    first, second = (holder_score(ready, bins, bytes(32), obfuscators, os.urandom) for bins in (BINS, other))
    # The owner knows the root of each of its own ciphertexts, and compares the quotient's with every pair's.
    roots = [[gmpy2.powmod(factor, inverse, n) for factor in factors] for factors in ready.factors]
    quotient = gmpy2.powmod(first * gmpy2.invert(second, square) % square, inverse, n)
    combined = {bins: _product(roots, bins, n) for bins in every_bins(ready)}
    pairs = [
        (one, two)
        for one, root in combined.items()
        for two in [bins for bins, value in combined.items() if value * quotient % n == root][:2]
    ]
    assert ((BINS, other) in pairs) is (pool is UsedTwice)


def _product(roots: list[list[mpz]], bins: Sequence[int], n: int) -> mpz:
    product = mpz(1)
    for row, place in zip(roots, bins, strict=True):
        product = product * row[place] % n
    return product


# --- weights that try to read every bin ------------------------------------------------------------------------


def read_everything(answer: mpz, private: phe.PaillierPrivateKey, features: int) -> list[int]:
    """Run by the merchant whose weights are b·2^(40·f): the bins, if nothing but the score is in the plaintext."""
    plain = private.raw_decrypt(int(answer)) - (1 << SCORE_BITS - 1)
    return [plain >> 40 * feature & 0xFF for feature in range(features)]


@pytest.mark.parametrize("is_blinded", [False, True], ids=["without rho", "as built"])
def test_hostile_weights_read_only_the_bits_of_the_score(is_blinded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_blinded:
        monkeypatch.setattr(scoring, "blinding_bound", lambda n, bits, holders: 1)
    public, private = keypair(256)
    n, encryptor = int(public.n), Encryptor.for_count(int(public.n), 17, os.urandom)
    weights = [[place << 40 * feature for place in range(len(row))] for feature, row in enumerate(POINTS)]
    with pytest.raises(BadScoreModel):  # an honest merchant's program does not encrypt them
        encrypt_weights(weights, SCORE_BITS, encryptor)
    blob = encode_ciphertexts([encryptor.encrypt(weight) for row in weights for weight in row], n)
    ready, obfuscators = holder_model(n, blob, model(features=MINE)), FullObfuscators(n, os.urandom)
    answers = [holder_score(ready, BINS, bytes(32), obfuscators, os.urandom) for _ in range(4)]
    read = [read_everything(answer, private, len(BINS)) for answer in answers]
    assert [one[0] for one in read] == [BINS[0]] * 4  # the L bits that a score may say
    if is_blinded:
        assert len({tuple(one[1:]) for one in read}) == 4  # all else is new each time
    else:
        assert read == [list(BINS)] * 4


# --- a malformed modulus ---------------------------------------------------------------------------------------


def test_without_the_proof_a_malformed_modulus_reads_every_bin() -> None:
    key, random = trapdoor(4), seeded("holder")
    covert = hostile_weights(key, len(POINTS))
    blob = encode_ciphertexts(
        [
            gmpy2.powmod(one, place, key.n**2)
            for one, row in zip(covert, POINTS, strict=True)
            for place in range(len(row))
        ],
        int(key.n),
    )
    ready = holder_model(int(key.n), blob, model(features=MINE))
    answer = holder_score(ready, BINS, bytes(32), FullObfuscators(int(key.n), random), random)
    assert read_features(key, answer, len(BINS)) == list(BINS) and FEATURE_BITS == 20
    # As built: nobody can prove this modulus, and without a proof no model is ready.
    forged = b"\x01" * (9 * ((key.n.bit_length() + 7) // 8))
    unproven = EncryptionKey(modulus=encode_modulus(int(key.n)).hex(), proof=forged.hex())
    with pytest.raises(BadKeyProof):
        ready_model(ready.model, blob, HOLDER, ready.bins, ready.masks, (unproven, CONTEXT))


# --- consents, models and bins ---------------------------------------------------------------------------------

KEY = SigningKey(bytes([7]) * 32)


def test_a_consent_is_answered_once_also_after_a_restart() -> None:
    """The weakened build remembers consents in memory alone, and forgets them when it restarts."""
    subject, terms, issuers = new_subject("firm", os.urandom), terms_of(model()), {"chamber": KEY.public}
    consent = give_consent(subject, terms, ("chamber", KEY), NOON, 600, os.urandom)

    def is_answered(remembered: set[str]) -> bool:
        try:
            remembered.add(check_consent(consent, terms, issuers, subject, NOON, remembered.__contains__).jti)
        except ConsentUsed:
            return False
        return True

    assert [is_answered(set()) for _ in range(2)] == [True, True]
    book = set[str]()
    assert [is_answered(book) for _ in range(2)] == [True, False]


def test_one_subject_under_many_models_is_read_bit_by_bit_until_the_quota_ends() -> None:
    """Models whose only weight is one bin's answer "is it in this bin?"; the victim consents to each."""
    points = POINTS[0]

    def hopping(per_day: int) -> tuple[int | None, int]:
        for asked in range(len(points)):
            check_score_quota(asked, per_day, HOLDER)
            row = {HOLDER: {"months": 100, "late": None, "kind": 0, "sales": None}}
            one_bin = ([100 * (at == asked) for at in range(6)], [0] * 3, [0] * 4, [0] * 4)
            if run_score(model(features=MINE), SCHEMAS, one_bin, row, keypair(256), os.urandom):
                return asked, asked + 1
        return None, len(points)

    assert hopping(per_day=1000) == (bins_of(SENIORITY, SCHEMA).of(3), 4)
    with pytest.raises(QuotaExceeded):
        hopping(per_day=3)


SALES_BY_FIRM = [120, 130, 150, 700, 710, 745, 760, 4711, 9000, 9100]
"""4711 is the victim's: a rival knows about how much it sells, and wants the number."""


def edges(low: int, high: int, count: int) -> GroupKey:
    return ByBucket(
        name="sales",
        value=ColumnValue(name="sales"),
        low=Number(value=str(low)),
        high=Number(value=str(high)),
        count=count,
    )


def population(bins: Bins) -> list[int]:
    counts = [0] * bins.count
    for sales in SALES_BY_FIRM:
        counts[bins.of(evaluate(bins.key.node, {"sales": sales}))] += 1
    return counts


@pytest.mark.parametrize("grade", [Grade.INTERNAL, Grade.SENSITIVE])
def test_edges_around_one_subject_are_refused(grade: Grade) -> None:
    rules, narrow, wide = RULES[grade], bins_of(edges(4700, 4720, 20), SCHEMA), bins_of(edges(100, 800, 1), SCHEMA)
    made = model(features=(*MINE[:3], feature_of(HOLDER, edges(4700, 4720, 20), SCHEMA)))
    points = (*([0] * len(row) for row in POINTS[:3]), list(range(narrow.count)))
    # Weakened: nobody counts who is in the bins, and the score is the number.
    row = {HOLDER: {"months": None, "late": None, "kind": 0, "sales": 4711}}
    assert 4699 + run_score(made, SCHEMAS, points, row, keypair(256), os.urandom) == 4711
    # As built.
    with pytest.raises(BinTooSmall):
        check_population(narrow, population(narrow), rules, 3, HOLDER)
    if not rules.hides_zeros:
        check_population(wide, population(wide), rules, 3, HOLDER)
