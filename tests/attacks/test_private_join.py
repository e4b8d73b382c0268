"""Attacks on private joins (PROTOCOL §2.2, §2.3, §5.4, §5.9): each succeeds on a weakened build, then fails on ours.

A is the base holder, B the joined one, who owns the Paillier key; `tests.support.joins.Join` plays both honestly.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import gmpy2
import phe
import pytest
from gmpy2 import mpz

from ceiba_protocol.errors import BadKeyProof, ExactJoinForbidden
from ceiba_protocol.linkage import private_join, strict_gate
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, Row
from ceiba_protocol.linkage.private_join import BaseSide, JoinedSide, ProvenKey, merchant_open
from ceiba_protocol.linkage.ristretto import (
    Point,
    add,
    base_multiply,
    multiply,
    random_scalar,
    subtract,
)
from ceiba_protocol.linkage.strict_gate import Pair
from ceiba_protocol.sums import key_proof
from ceiba_protocol.sums.fixed_base import CombShape, FixedBase
from ceiba_protocol.sums.key_proof import prove_key
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.sums.randomness import Random, random_below
from tests.attacks.test_malformed_modulus import Trapdoor, combine, discrete_logarithm, trapdoor
from tests.support.joins import KEY_CONTEXT, Join, by_grouping, proven, short_keys, terms_for
from tests.support.keys import keypair
from tests.support.seeded import seeded

IDS = [b"%d" % number for number in range(40)]


@pytest.fixture(scope="module", autouse=True)
def _short_keys() -> Iterator[None]:
    with short_keys():
        yield


# --- one-row groups --------------------------------------------------------------------------------------------


class GreedyBase(BaseSide):
    """An A with one subject in its group, whose row it counts so many times that the gate finds enough of them."""

    times = 3

    def _match(self, *arguments: Any) -> tuple[list[int], list[mpz]]:
        matched, products = super()._match(*arguments)
        return matched, [gmpy2.powmod(product, self.times, mpz(self._exchange.n) ** 2) for product in products]


def answer_about_one(
    terms: JoinTerms, rows: Mapping[bytes, Row], flag: bool, noise: Sequence[Sequence[int]], kind: type[BaseSide]
) -> Any:
    """What such an A and the merchant read together about the one subject."""
    own = [(0,) * len(cell.noise) for cell in terms.shapes if cell.noise]  # it leaves out its own
    base = kind(terms, [[[IDS[0]]]], proven(1024), seeded("greedy"), noise=own)
    private_key = keypair(1024)[1]
    joined = JoinedSide(terms, rows, private_key, seeded("tax"), joiner_is_semi_honest=flag, noise=noise)
    decision, share = joined.decide(base.test(joined.tests(base.mask(joined.rows(base.groups())))))
    return merchant_open(terms, base.share(decision), share)


def test_a_group_of_one_is_read_where_exact_answers_are_given() -> None:
    """Padding, the smallest group and the gate do not help; this is what the flag's signature takes upon itself."""
    terms = terms_for(1, FieldShape(6, (20,)))
    rows: dict[bytes, Row] = {identifier: [(0, (1000 + place,))] for place, identifier in enumerate(IDS[:20])}
    assert answer_about_one(terms, rows, True, (), GreedyBase) == [[(3, (3 * 1000,))]]
    assert answer_about_one(terms, rows | {IDS[0]: []}, True, (), GreedyBase) == [[(0, (0,))]]
    # Without any trick, A alone reads from the decision whether the subject is in the cell.
    assert answer_about_one(terms, rows, True, (), BaseSide) == [[None]]
    assert answer_about_one(terms, rows | {IDS[0]: []}, True, (), BaseSide) == [[(0, (0,))]]


def test_a_group_of_one_gets_no_exact_answer_without_the_flag() -> None:
    terms = terms_for(1, FieldShape(6, (20,)))
    with pytest.raises(ExactJoinForbidden):
        answer_about_one(terms, {IDS[0]: [(0, (1000,))]}, False, (), GreedyBase)


NOISY_TERMS = terms_for(1, FieldShape(12, (20,), noise=(400, 10**6)))
"""σ is 20 for the count, 1,000 for the sum."""


@pytest.mark.parametrize(("noise", "read"), [((60, -400), (61, (600,))), ((10, 5), None)])
def test_a_group_of_one_drowns_in_noise(noise: tuple[int, int], read: object) -> None:
    """With the subject and without, what is read, and whether, is the same for noise that differs by what it adds."""
    present = answer_about_one(NOISY_TERMS, {IDS[0]: [(0, (1000,))]}, False, [noise], BaseSide)
    absent = answer_about_one(NOISY_TERMS, {IDS[0]: []}, False, [(noise[0] + 1, noise[1] + 1000)], BaseSide)
    assert present == absent == [[read]]


class Amplifier(GreedyBase):
    """It counts the row a million times."""

    times = 10**6


def test_known_limit_noise_does_not_cover_a_base_holder_that_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """It covers a group that is too small, not an A that computes another sum than the protocol's.

    The merchant is in it and leaves out its own checks; the two read the value a million times, and the noise once.
    """
    monkeypatch.setattr(private_join, "_open_cell", lambda terms, cell, mask, share: share[1] - mask[1])
    read = answer_about_one(NOISY_TERMS, {IDS[0]: [(0, (1234,))]}, False, [(60, -2345)], Amplifier)
    assert round(read[0][0] / Amplifier.times) == 1234


# --- replies in the order of the questions ---------------------------------------------------------------------


def linked_by_place(label: str) -> tuple[set[bytes], set[bytes]]:
    """Whom A takes for B's subjects if it reads B's reply in the order of its own points; and who they are."""
    rows: dict[bytes, Row] = {identifier: [] for identifier in IDS[:32:2]}
    join = Join(terms_for(1, FieldShape(6)), [IDS[:32]], rows, label=label)
    join.run("rows")
    sent, reply = join.sent["groups"][36:], join.sent["rows"][32 : 33 * 32]
    domain, (secret,) = join.terms.hash_domain(), join.base._secrets
    own = {multiply(secret, private_join.hash_to_group(identifier, domain)): identifier for identifier in IDS[:32]}
    first = 64 + 32 * join.terms.most_points
    rows_of_joined = [join.sent["rows"][at : at + 32] for at in range(first, first + 20 * 32, 32)]
    common = {multiply(secret, point) for point in rows_of_joined}
    places = range(0, 32 * 32, 32)
    return {own[sent[at : at + 32]] for at in places if reply[at : at + 32] in common}, set(rows)


def test_unshuffled_replies_say_who_is_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_join, "random_order", lambda random, count: list(range(count)))
    taken, true = linked_by_place("unshuffled")
    assert taken == true


def test_shuffled_replies_say_only_how_many_are_in_common() -> None:
    guesses = [linked_by_place(f"shuffled {run}") for run in range(6)]
    assert all(len(taken) == len(true) == 16 for taken, true in guesses)
    right = sum(len(taken & true) for taken, true in guesses)
    assert 30 < right < 66  # 48 are expected of 96 by chance, with a standard deviation of 3.5


# --- several groupings -----------------------------------------------------------------------------------------


def digits(place: int) -> tuple[int, int, int]:
    return place % 3, place // 3 % 3, place // 9


THREE_FEATURES = [[IDS[at] for at in range(27) if digits(at)[of] == value] for of in range(3) for value in range(3)]
"""27 subjects by three features of three values: together these say who it is."""


class OneKey(BaseSide):
    """The weakened build: the same a for all groupings."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._secrets = self._secrets[:1] * len(self._secrets)


def profiles_read(kind: type[BaseSide]) -> list[int]:
    """Of how many of A's subjects B reads a group in one, in two and in all three groupings."""
    terms = terms_for((3, 3, 3), FieldShape(6))
    sent = kind(terms, by_grouping(terms, THREE_FEATURES), proven(1024), seeded("three")).groups()
    points = [sent[at : at + 32] for at in range(32 + 9 * 4, 32 + 9 * 4 + 3 * 48 * 32, 32)]
    groupings = Counter(point for grouping in range(3) for point in set(points[grouping * 48 : grouping * 48 + 48]))
    seen = Counter(groupings.values())
    return [seen[number] for number in (1, 2, 3)]


def test_under_one_key_the_joined_holder_links_groupings() -> None:
    """63 points are padding, 27 subjects each one's whole profile."""
    assert profiles_read(OneKey) == [3 * 48 - 3 * 27, 0, 27]


def test_under_a_key_for_each_grouping_it_links_none() -> None:
    assert profiles_read(BaseSide) == [3 * 48, 0, 0]


def members_found(one_row_for_all: bool) -> tuple[list[bytes], list[bytes]]:
    """Whom A takes for B's subjects if it puts together the groups of the rows in the same places; and who they are."""
    rows: dict[bytes, Row] = {IDS[at]: [(0, ())] for at in (0, 2, 3, 7, 11, 13, 14, 20, 22, 26)}
    terms = terms_for((3, 3, 3), FieldShape(6), one_row_for_all=one_row_for_all)
    join = Join(terms, THREE_FEATURES, rows)
    join.run("rows")
    group_of, points, _ = join.base._read_rows(join.sent["rows"])
    read = [
        [group_of.get(multiply(secret, points[row_set * 20 + place])) for place in range(20)]
        for grouping, secret in enumerate(join.base._secrets)
        for row_set in [terms.row_set_of(grouping)]
    ]
    for grouping, groups in enumerate(read):  # in either case A learns how many of each group B has
        known = [grouping * 3 + digits(int(identifier))[grouping] for identifier in rows]
        assert sorted(group for group in groups if group is not None) == sorted(known)
    found = [groups for groups in zip(*read, strict=True) if None not in groups]
    who = {tuple(grouping * 3 + digit for grouping, digit in enumerate(digits(at))): IDS[at] for at in range(27)}
    return sorted(who[groups] for groups in found), sorted(rows)


def test_one_row_for_all_groupings_says_who_is_in_common() -> None:
    """So the terms have it only where that is revealed anyway."""
    taken, true = members_found(one_row_for_all=True)
    assert taken == true


def test_rows_of_their_own_say_only_how_many_are_in_each_group() -> None:
    taken, true = members_found(one_row_for_all=False)
    assert len(taken) < len(true)
    assert len({*taken} & {*true}) < 3


# --- short exponents against the key's owner -------------------------------------------------------------------


class Smooth:
    """A prime p with only small factors in p − 1, so that its owner takes logarithms (Pohlig and Hellman 1978)."""

    def __init__(self, random: Random, bits: int) -> None:
        small = [prime for prime in range(3, 3000) if gmpy2.is_prime(prime)]
        self.prime, self.factors = mpz(1), list[int]()
        while not gmpy2.is_prime(self.prime) or self.prime % 4 != 3:
            self.factors, order = [], mpz(2)
            while order.bit_length() < bits - 1:
                self.factors.append(small[random_below(random, len(small))])
                order *= self.factors[-1]
            self.prime = order + 1

    def logarithm(self, target: mpz, base: mpz) -> tuple[mpz, mpz] | None:
        """x and the order of `base` with base^x = target; None if there is no x."""
        x, modulus = mpz(0), mpz(1)
        for factor in {2, *self.factors}:
            power = factor ** max(self.factors.count(factor), 1)
            cofactor = (self.prime - 1) // power
            digits = self._in_subgroup(*(gmpy2.powmod(value, cofactor, self.prime) for value in (target, base)), factor)
            if digits is None:
                return None
            x, modulus = combine(x, modulus, digits[0], digits[1]), modulus * digits[1]
        return x, modulus

    def _in_subgroup(self, target: mpz, base: mpz, factor: int) -> tuple[mpz, mpz] | None:
        order = mpz(1)
        while gmpy2.powmod(base, order, self.prime) != 1:
            order *= factor
        x, weight, left = mpz(0), mpz(1), order
        while left > 1:
            left //= factor
            wanted = gmpy2.powmod(target * gmpy2.powmod(base, -x, self.prime), left, self.prime)
            step = gmpy2.powmod(base, order // factor, self.prime)
            digit = next((d for d in range(factor) if gmpy2.powmod(step, d, self.prime) == wanted), None)
            if digit is None:
                return None
            x, weight = x + digit * weight, weight * factor
        return (x, order) if target == gmpy2.powmod(base, x, self.prime) else None


@cache
def smooth_key() -> tuple[Smooth, Smooth, phe.PaillierPrivateKey]:
    """A key of about 1024 bits that passes the correct-key proof, and whose owner takes logarithms."""
    random = seeded("smooth")
    while True:
        p, q = Smooth(random, 515), Smooth(random, 515)
        n = p.prime * q.prime
        if p.prime != q.prime and gmpy2.gcd(n, (p.prime - 1) * (q.prime - 1)) == 1:
            return p, q, phe.PaillierPrivateKey(phe.PaillierPublicKey(int(n)), int(p.prime), int(q.prime))


class ShortObfuscators(FullObfuscators):
    """The weakened build: hs^r with an r of half the length, and a base hs that B knows."""

    def __init__(self, n: int, random: Random) -> None:
        super().__init__(n, random)
        self.base = gmpy2.powmod(-(mpz(random_below(random, n)) ** 2) % n, n, mpz(n) ** 2)
        self._powers = FixedBase(self.base, mpz(n) ** 2, CombShape(8, 1, n.bit_length() // 16))

    def make(self) -> mpz:
        return self._powers.random_power(self._random)


def rows_found(obfuscators: FullObfuscators, base: mpz) -> tuple[list[int], int]:
    """Which of B's rows, all of the same content, B takes for the one in A's group; and which it is."""
    p, q, private_key = smooth_key()
    n = int(private_key.public_key.n)
    rows: dict[bytes, Row] = {identifier: [(0, (7,))] for identifier in IDS[:5]}
    terms = terms_for(1, FieldShape(6, (20,)), joined_subjects=5)
    secret_place = 3
    side = BaseSide(terms, [[[IDS[secret_place]]]], proven_key(private_key), seeded("base"), obfuscators=obfuscators)
    joined = JoinedSide(terms, rows, private_key, seeded("tax"), joiner_is_semi_honest=True)
    sent = joined.rows(side.groups())
    masked = mpz.from_bytes(side.mask(sent)[32:], "big")
    own = {joined_place(joined, identifier, sent): place for place, identifier in enumerate(IDS[:5])}
    width = ciphertext_bytes(n)
    encrypted = [mpz.from_bytes(sent[at : at + width], "big") for at in range(len(sent) - 5 * width, len(sent), width)]
    exponent = gmpy2.invert(n, (p.prime - 1) * (q.prime - 1))
    root, roots = (gmpy2.powmod(masked, exponent, n), [gmpy2.powmod(one, exponent, n) for one in encrypted])
    base_root = gmpy2.powmod(base, exponent, n)
    found = [place for place, one in enumerate(roots) if is_short(root * gmpy2.invert(one, n) % n, base_root)]
    return [own[place] for place in found], secret_place


def proven_key(private_key: phe.PaillierPrivateKey) -> ProvenKey:
    return ProvenKey(private_key.public_key.n, prove_key(private_key, KEY_CONTEXT), KEY_CONTEXT)


def joined_place(joined: JoinedSide, identifier: bytes, sent: bytes) -> int:
    """Where B put a row of its own."""
    point = multiply(joined._secrets[0], private_join.hash_to_group(identifier, joined._exchange.terms.hash_domain()))
    return (sent.index(point) - 64) // 32 - joined._exchange.terms.most_points


def is_short(target: mpz, base: mpz) -> bool:
    """Does B find an exponent of half the length of n?"""
    p, q, private_key = smooth_key()
    found = [side.logarithm(target % side.prime, base % side.prime) for side in (p, q)]
    if found[0] is None or found[1] is None:
        return False
    (x, order), (y, other) = found
    shared = gmpy2.gcd(order, other)
    if (x - y) % shared:
        return False
    rest = other // shared
    exponent = (x + order * ((y - x) // shared * gmpy2.invert(order // shared, rest) % rest)) % (order * rest)
    return bool(exponent.bit_length() <= int(private_key.public_key.n).bit_length() // 2)


def test_short_exponents_tell_the_owner_of_the_key_which_row_matched() -> None:
    n = int(smooth_key()[2].public_key.n)
    weak = ShortObfuscators(n, seeded("weak"))
    found, true = rows_found(weak, weak.base)
    assert found == [true]


def test_full_exponents_tell_the_owner_of_the_key_nothing() -> None:
    n = int(smooth_key()[2].public_key.n)
    base = ShortObfuscators(n, seeded("weak")).base
    found, _ = rows_found(FullObfuscators(n, seeded("full")), base)
    assert found == []


# --- a malformed modulus ---------------------------------------------------------------------------------------


class CovertEncryptor:
    """B's "encryptions": U^(2^row), where n-th powers die and the selection of rows survives (PROTOCOL §2.2)."""

    def __init__(self, key: Trapdoor) -> None:
        self.n = int(key.n)
        self._covert = combine(key.u, key.p**2, mpz(1), (key.n // key.p) ** 2)

    def encrypt(self, plaintext: int) -> mpz:
        row = plaintext >> (6 + 42)  # the values field: each row's value is its number
        return gmpy2.powmod(self._covert, mpz(1) << row, mpz(self.n) ** 2)


def selection_read(key: Trapdoor, answer: mpz, rows: int) -> list[int]:
    """Run by B: which rows were multiplied, whatever was added and however it was randomised."""
    square, cofactor = key.p**2, key.p * (key.p - 1) // key.product
    survivor, base = (gmpy2.powmod(element, cofactor, square) for element in (answer, key.u))
    packed, modulus = mpz(0), mpz(1)
    for prime in key.primes:
        exponent = key.product // prime
        target, generator = (gmpy2.powmod(element, exponent, square) for element in (survivor, base))
        packed = combine(packed, modulus, mpz(discrete_logarithm(target, generator, prime, square)), prime)
        modulus *= prime
    return [row for row in range(rows) if packed >> row & 1]


def test_under_an_unproven_modulus_the_owner_reads_who_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    key = trapdoor(4)
    n = int(key.n)
    private_key = phe.PaillierPrivateKey(phe.PaillierPublicKey(n), int(key.p), int(key.n // key.p))
    terms = terms_for(1, FieldShape(6, (20,)))
    rows: dict[bytes, Row] = {identifier: [(0, (place,))] for place, identifier in enumerate(IDS[:20])}
    encryptor: Any = CovertEncryptor(key)
    joined = JoinedSide(terms, rows, private_key, seeded("b"), joiner_is_semi_honest=True, encryptor=encryptor)
    monkeypatch.setattr(private_join, "verify_key", lambda n, proof, context: None)
    matched = [0, 3, 4, 11, 17]
    base = BaseSide(terms, [[[IDS[place] for place in matched]]], ProvenKey(n, b"", KEY_CONTEXT), seeded("a"))
    answer = mpz.from_bytes(base.mask(joined.rows(base.groups()))[32:], "big")
    assert [row for row in selection_read(key, answer, 20) if row] == matched[1:]  # padding stands in row 0's place


def test_no_side_can_be_made_under_an_unproven_modulus() -> None:
    key = trapdoor(4)
    width = (key.n.bit_length() + 7) // 8
    for root in (1, int(key.n) - 1):
        with pytest.raises(BadKeyProof):
            ProvenKey(int(key.n), root.to_bytes(width, "big") * key_proof.ROOTS, KEY_CONTEXT)
    with pytest.raises(BadKeyProof):
        honest = prove_key(keypair(3072)[1], KEY_CONTEXT)
        ProvenKey(int(key.n), honest.ljust(key_proof.ROOTS * width, b"\1"), KEY_CONTEXT)


# --- counts, without the gate's randomness ---------------------------------------------------------------------


COUNTS = (1, 2, 3, 5, 0, 8)


def gate_join(label: str) -> Join:
    """Groups with these counts, k = 6."""
    starts = [sum(COUNTS[:group]) for group in range(len(COUNTS))]
    groups = [IDS[start : start + count] for start, count in zip(starts, COUNTS, strict=True)]
    rows: dict[bytes, Row] = {identifier: [(0, ())] for identifier in IDS[:19]}
    join = Join(terms_for(6, FieldShape(6), minimum_subjects=6), groups, rows, label=label)
    join.run("decision")
    return join


def opened_tests(join: Join) -> list[list[tuple[Pair, Point]]]:
    """What B reads: for each cell, each of its five tests with its decryption."""
    key, body = join.joined._gate_key, join.sent["tested"][32:]
    pairs = [(body[at : at + 32], body[at + 32 : at + 64]) for at in range(0, len(body), 64)]
    opened = [(pair, subtract(pair[1], multiply(key.secret, pair[0]))) for pair in pairs]
    return [opened[start : start + 5] for start in range(0, len(opened), 5)]


def small_multiple(unit: Point, point: Point) -> int | None:
    """The number c in −5 … 8 with point = c·unit, if there is one."""
    multiples, total = {bytes(32): 0}, bytes(32)
    for number in range(1, 9):
        total = add(total, unit)
        multiples |= {total: number, subtract(bytes(32), total): -number}
    found = multiples.get(point)
    return found if found is None or found >= -5 else None


GENERATOR = base_multiply((1).to_bytes(32, "little"))
READ = [{count - value for value in range(1, 6)} for count in COUNTS]
"""What the tests of each cell say of its count: its differences from 1 … 5."""


def scaled(pair: Pair, random: Random) -> Pair:
    """A weakened `_hide`: without fresh randomness."""
    scale = random_scalar(random)
    return multiply(scale, pair[0]), multiply(scale, pair[1])


def randomised(pair: Pair, public: Point, random: Random) -> Pair:
    """A weakened `_hide`: without a random factor."""
    fresh = random_scalar(random)
    return add(pair[0], base_multiply(fresh)), add(pair[1], multiply(fresh, public))


def encrypt_with_one(shares: Sequence[int], key: strict_gate.GateKey, random: Random) -> bytes:
    """B's encryptions with ρ = 1: (G, share·G + H). Nobody can see that."""
    exponents = (share.to_bytes(32, "little") for share in shares)
    return b"".join(GENERATOR + add(base_multiply(exponent), key.public) for exponent in exponents)


def test_without_a_random_factor_the_counts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_gate, "_hide", randomised)
    cells = opened_tests(gate_join("no factor"))
    assert [{small_multiple(GENERATOR, point) for _, point in cell} for cell in cells] == READ


def test_without_fresh_randomness_the_counts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half of each test is then the factor, s·ρ·G, for a ρ that B chose."""
    monkeypatch.setattr(strict_gate, "_hide", lambda pair, public, random: scaled(pair, random))
    monkeypatch.setattr(private_join, "encrypt_shares", encrypt_with_one)
    cells = opened_tests(gate_join("not fresh"))
    assert [{small_multiple(pair[0], point) for pair, point in cell} for cell in cells] == READ


def test_unshuffled_tests_say_which_count_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_gate, "random_order", lambda random, count: list(range(count)))
    assert places_of_zero(gate_join("unshuffled")) == [[0], [1], [2], [4], [], []]


def places_of_zero(join: Join) -> list[list[int]]:
    """Where among its five tests each cell has the identity."""
    return [[at for at, (_, point) in enumerate(cell) if point == bytes(32)] for cell in opened_tests(join)]


def test_the_gate_says_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One identity in each cell that is withheld, none in the others, nothing else that is small; at any place."""
    monkeypatch.setattr(private_join, "encrypt_shares", encrypt_with_one)
    places = []
    for run in range(12):
        join = gate_join(f"run {run}")
        cells = opened_tests(join)
        for unit in (lambda pair: GENERATOR, lambda pair: pair[0]):
            read = [[small_multiple(unit(pair), point) for pair, point in cell] for cell in cells]
            assert [[number for number in cell if number is not None] for cell in read] == [[0]] * 4 + [[], []]
        places += [place for cell in places_of_zero(join) for place in cell]
    counted = [places.count(place) for place in range(5)]
    assert sum((seen - 9.6) ** 2 for seen in counted) / 9.6 < 23.5  # four degrees of freedom: once in 10^4
