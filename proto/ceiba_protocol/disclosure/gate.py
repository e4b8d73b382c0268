"""The gate: which cells may be released, without a holder showing its own counts (PROTOCOL §3.2).

Every holder counts, caps, masks and sends. The masks cancel for the holders alone: they read the sums of capped counts,
and all derive the same decision from the same signed shares. The merchant and the coordinator see only the decision.

One threshold does two things. Each holder contributes at most `cap` = ⌊(k−1)/(h−1)⌋ subjects, so h − 1 holders reach at
most k − 1: a sum of k needs k subjects and h holders, and the opened value is small however large the counts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt

from ceiba_protocol.canonical import sha256
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.disclosure.support import ROWS, Tests
from ceiba_protocol.errors import GateTooLarge, MalformedMessage
from ceiba_protocol.sums.masks import Words
from ceiba_protocol.sums.randomness import Random

MAX_HOLDERS = 128
"""Every holder receives every share."""
MAX_TESTS = 200_000
"""Cells times tests: 4.8 MB from each holder."""
COUNT, NEAREST, VETO = range(3)
"""The lanes of an exact job's gate, one word a test in each: subjects, subjects by which the nearest earlier answer
differs, and 0 or anything else for a veto."""
LANES = 3

Counts = npt.NDArray[np.int64]
"""[cells, tests] of one holder."""
Released = npt.NDArray[np.bool_]
"""[cells, tests]: what holds."""


@dataclass(frozen=True)
class Threshold:
    """What a sum of capped counts must reach, and the cap."""

    least: int
    cap: int


def threshold_of(rules: Disclosure, holders_per_subject: int = 1) -> Threshold:
    """For k·holders_per_subject subjects, because a subject may be counted at so many holders, and h holders.

    Where h holders at the cap would not reach k, the cap is rounded up instead, and the threshold with it.
    """
    k, h = rules.minimum_subjects * holders_per_subject, rules.minimum_holders
    if h == 1:
        return Threshold(k, k)
    cap = (k - 1) // (h - 1)
    if h * cap >= k:
        return Threshold(k, cap)
    cap = -(-(k - 1) // (h - 1)) or 1
    return Threshold((h - 1) * cap + 1, cap)


@dataclass(frozen=True)
class GateForm:
    """The shape of one job's gate and the rule that its sums are held against. Follows from public facts."""

    cells: int
    tests: Tests
    threshold: Threshold
    hides_zeros: bool
    noisy: bool
    """One lane with the noisy row counts, and one test a cell: the others would decide on exact counts."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lanes, cells, tests."""
        return (1, self.cells, 1) if self.noisy else (LANES, self.cells, len(self.tests))

    @property
    def words(self) -> int:
        lanes, cells, tests = self.shape
        return lanes * cells * tests

    def digest(self) -> bytes:
        """32 bytes; stands where the release has its layout."""
        numbers = (*self.shape, self.threshold.least, self.threshold.cap, self.hides_zeros)
        return sha256("ceiba/v1/gate", *(int(number).to_bytes(8, "big") for number in numbers))

    def check_size(self, holders: int) -> None:
        """Raises GateTooLarge."""
        _, cells, tests = self.shape
        if cells * tests > MAX_TESTS:
            raise GateTooLarge(what=f"{cells} cells with {tests} tests each", limit=f"{MAX_TESTS} tests")
        if holders > MAX_HOLDERS:
            raise GateTooLarge(what=f"{holders} holders", limit=f"{MAX_HOLDERS} holders")


def gate_of(
    cells: int, tests: Tests, rules: Disclosure, holders_per_subject: int = 1, variance: int = 0
) -> GateForm | None:
    """A job's gate; None if there is nothing that a cell could fail.

    `variance`: of the noise in a row count that colluding holders do not know; 0 for exact figures.
    """
    if not rules.has_gate:
        return None
    threshold = threshold_of(rules, holders_per_subject)
    if variance:  # two standard deviations above k, so that nobody stands out by noise alone
        threshold = Threshold(rules.minimum_subjects * holders_per_subject + isqrt(4 * variance), 0)
    return GateForm(cells, tests, threshold, rules.hides_zeros, bool(variance))


# --- a holder's part -------------------------------------------------------------------------------------------


def exact_words(form: GateForm, subjects: Counts, nearest: Counts, vetoed: Released, random: Random) -> Words:
    """Run by a holder: its words before they are masked. `subjects` and `nearest` are not capped yet; a veto is a
    uniformly random word other than 0, so that two of them do not cancel and nobody can tell how many there are."""
    words = np.zeros(form.shape, dtype=np.uint64)
    words[COUNT] = np.minimum(subjects, form.threshold.cap)
    words[NEAREST] = np.minimum(nearest, form.threshold.cap)
    vetoes = np.frombuffer(random(8 * int(vetoed.sum())), dtype="<u8")
    words[VETO][vetoed] = np.maximum(vetoes, 1)
    return words.reshape(-1)


def noisy_words(form: GateForm, noisy_counts: Sequence[int]) -> Words:
    """Run by a holder: its row counts with its noise, the very numbers that it releases if the gate lets them."""
    return np.array(noisy_counts, dtype=np.int64).astype(np.uint64)


# --- everybody's decision --------------------------------------------------------------------------------------


def decide(form: GateForm, total: Words) -> Released:
    """Run by every holder on the sum of all words, with the same outcome.

    1. Enough subjects at enough holders; a cell without anybody is as good where zeros need not be hidden. 2. No
    earlier answer is about nearly the same subjects. 3. Nobody vetoes. 4. Where the rows of a cell fail, all of it
    does; and what could be found from its complement fails with it.
    """
    lanes = total.reshape(form.shape)
    if form.noisy:
        return np.asarray(lanes[COUNT].astype(np.int64) >= form.threshold.least)
    counts, none = lanes[COUNT], lanes[COUNT] == 0
    zero_is_good = np.array([test.is_difference or not form.hides_zeros for test in form.tests.tests])
    holds = (counts >= form.threshold.least) | (none & zero_is_good)
    audited = np.array([test.audited for test in form.tests.tests])
    holds &= (lanes[NEAREST] >= form.threshold.least) | ~audited | none
    holds &= lanes[VETO] == 0
    together = list(form.tests.together)
    if together:
        holds[:, together] &= holds[:, together].all(axis=1, keepdims=True)
    return np.asarray(holds & holds[:, [ROWS]])


def released_sums(form: GateForm, released: Released) -> Released:
    """[cells, sums]: what is sent; the others are 0. A sum is sent for an output all of whose sums may be sent."""
    sums = len(form.tests.needs)
    if form.noisy:
        return np.repeat(released, sums, axis=1)
    sent = np.zeros((form.cells, sums), dtype=np.bool_)
    for unit in form.tests.units:
        needed = sorted({test for one in unit for test in form.tests.needs[one]})
        sent[:, list(unit)] |= released[:, needed].all(axis=1, keepdims=True)
    return sent


def pack_released(released: Released) -> str:
    """One bit a test, cell after cell, in hexadecimal; the last byte is filled up with zeros."""
    return np.packbits(released.reshape(-1)).tobytes().hex()


def unpack_released(form: GateForm, text: str) -> Released:
    """Raises MalformedMessage unless `text` is exactly what `pack_released` writes for this form."""
    _, cells, tests = form.shape
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8)).astype(np.bool_)
    except ValueError:
        bits = np.zeros(0, dtype=np.bool_)
    released = bits[: cells * tests].reshape(cells, tests) if len(bits) >= cells * tests else None
    if released is None or pack_released(released) != text:
        raise MalformedMessage(message="Submission", problem="its list of released cells is not the plan's")
    return released
