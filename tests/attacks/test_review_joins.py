"""Attacks on private joins by holders who do not follow the protocol (PROTOCOL §5.4): first on a weakened build."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from gmpy2 import mpz

from ceiba_protocol.errors import IntersectionTooSmall
from ceiba_protocol.linkage.masked_fields import FieldShape, MaskedFields, Row
from ceiba_protocol.linkage.private_join import BaseSide, JoinedSide
from ceiba_protocol.sums.paillier import Encryptor, decode_ciphertexts, decrypt
from ceiba_protocol.sums.randomness import Random, random_bits
from tests.support.joins import Join, proven, short_keys, terms_for
from tests.support.keys import keypair
from tests.support.seeded import seeded

IDS = [b"%d" % number for number in range(20)]
PRIVATE = keypair(1024)[1]
N = int(PRIVATE.public_key.n)
COUNT_BITS = 6


@pytest.fixture(scope="module", autouse=True)
def _short_keys() -> Iterator[None]:
    with short_keys():
        yield


# --- a joined holder whose rows have bits where no field is ----------------------------------------------------


class Marking:
    """Its rows have each a bit of their own, above all that the base can cut out; or in a field's highest bit."""

    def __init__(self, first_bit: int, step: int) -> None:
        self.n = N
        self._honest = Encryptor.for_count(N, 20, seeded("marking"))
        self._first_bit, self._step = first_bit, step

    def encrypt(self, plaintext: int) -> mpz:
        row = plaintext >> (COUNT_BITS + 42)  # the values field: each row's value is its number
        return self._honest.encrypt(plaintext + (1 << self._first_bit + self._step * row))


def marks_read(marking: Any, group: Sequence[int] = (1, 4, 11, 17)) -> int:
    """What the joined holder decrypts of its base's group, above the first mark."""
    rows: dict[bytes, Row] = {identifier: [(0, (place,))] for place, identifier in enumerate(IDS)}
    terms = terms_for(1, FieldShape(COUNT_BITS, (20,)))
    base = BaseSide(terms, [[[IDS[place] for place in group]]], proven(1024), seeded("base"))
    joined = JoinedSide(terms, rows, PRIVATE, seeded("tax"), joiner_is_semi_honest=True, encryptor=marking)
    masked = base.mask(joined.rows(base.groups()))
    joined.tests(masked)  # nobody notices
    (opened,) = decrypt(PRIVATE, decode_ciphertexts(masked[32:], N, "register"))
    return int(opened) >> marking._first_bit


def within_fields(fields: MaskedFields, n: int, random: Random) -> list[int]:
    """The weakened build: a mask for each field, longer by 41 bits than what the field may hold, and none beyond."""
    (cell,) = fields.cells
    count_bits, _ = cell.masked_bits
    count, values = (random_bits(random, bits + 41) for bits in (cell.count_bits, cell.value_bits))
    return [count + (values + (1 << cell.value_bits >> 1) << count_bits)]


ABOVE_ALL_FIELDS = Marking(first_bit=6 + 42 + 20 + 42, step=1)
WHO_IS_IN_COMMON = 1 << 1 | 1 << 4 | 1 << 11 | 1 << 17
HIGHEST_OF_A_FIELD = Marking(first_bit=6 + 41, step=0)


def test_bits_beyond_the_fields_say_who_is_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskedFields, "draw_masks", within_fields)
    assert marks_read(ABOVE_ALL_FIELDS) == WHO_IS_IN_COMMON
    parities = [marks_read(HIGHEST_OF_A_FIELD, range(size)) & 1 for size in range(1, 7)]
    assert parities == [1, 0, 1, 0, 1, 0]


def test_a_joined_holder_that_marks_its_rows_reads_nothing() -> None:
    assert marks_read(ABOVE_ALL_FIELDS) != WHO_IS_IN_COMMON


@pytest.mark.parametrize("marked", [True, False])
def test_what_a_joined_holder_decrypts_is_uniform_whatever_its_rows_are(marked: bool) -> None:
    """Before and after a plaintext of the attacker's choice is added: the masks alone decide."""
    fields = MaskedFields((FieldShape(COUNT_BITS, (20,)),), 1024)
    chosen = N // 3 if marked else 0
    bins, highest = [0] * 8, 0
    for draw in range(400):
        seen = (fields.draw_masks(N, seeded(f"draw {draw}"))[0] + chosen) % N
        bins[8 * seen // N] += 1
        highest += seen >> (COUNT_BITS + 41) & 1
    assert sum((seen - 50) ** 2 for seen in bins) / 50 < 30  # exceeded once in 10^4
    assert 140 < highest < 260


# --- a merchant that asks until a job ends ---------------------------------------------------------------------

ENOUGH, JOBS = 10, 60


def jobs_that_end(in_common: int, jobs: int = JOBS) -> int:
    """Of so many with noise, that end because too few are in common."""
    noisy = terms_for(1, FieldShape(10, noise=(16,)), smallest_intersection=ENOUGH)
    rows: dict[bytes, Row] = {identifier: [(0, ())] for identifier in IDS}
    ended = 0
    for job in range(jobs):
        join = Join(noisy, [IDS[:in_common]], rows, [(0,)], [(0,)], label=f"{in_common} in common, {job}")
        try:
            join.run("masked sums")
        except IntersectionTooSmall:
            ended += 1
    return ended


def test_an_exact_threshold_says_whether_one_subject_passes_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters of the base that leave nine or ten in common, as one subject passes or does not: for next to no ρ."""
    monkeypatch.setattr("ceiba_protocol.linkage.private_join.noise_in_common", lambda *_: 0)
    assert (jobs_that_end(ENOUGH - 1, 2), jobs_that_end(ENOUGH, 2)) == (2, 0)


def test_a_threshold_with_noise_says_what_is_paid_for() -> None:
    """Of σ = 4: jobs end with probability Φ(1/8) = 0.55 and Φ(−1/8) = 0.45, far below ten with certainty."""
    fewer, enough = jobs_that_end(ENOUGH - 1), jobs_that_end(ENOUGH)
    assert 20 < fewer < 46 and 14 < enough < 40, "either may be either"
    assert jobs_that_end(0, 10) >= 9 and jobs_that_end(20, 10) <= 1
