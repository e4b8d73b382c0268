"""The gate's rule against a plain model, its words, and how its decision is written."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.disclosure.gate import (
    COUNT,
    LANES,
    MAX_HOLDERS,
    MAX_TESTS,
    NEAREST,
    VETO,
    GateForm,
    Threshold,
    decide,
    exact_words,
    noisy_words,
    pack_released,
    released_sums,
    threshold_of,
    unpack_released,
)
from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.disclosure.support import ROWS, Test, Tests
from ceiba_protocol.errors import GateTooLarge, MalformedMessage
from ceiba_protocol.program import TRUE
from ceiba_protocol.schema import Grade
from ceiba_protocol.sums.masks import Words
from tests.support.members import changed
from tests.support.seeded import seeded

# --- thresholds --------------------------------------------------------------------------------------------------


def rules(k: int, h: int) -> Disclosure:
    return changed(RULES[Grade.INTERNAL], minimum_subjects=k, minimum_holders=h)


THRESHOLDS = {
    # k, h, holders per subject: least, cap
    (1, 1, 1): (1, 1),
    (5, 1, 1): (5, 5),
    (5, 3, 1): (5, 2),  # internal
    (11, 3, 1): (11, 5),  # sensitive
    (20, 4, 1): (20, 6),  # important
    (100, 2, 1): (100, 99),
    (11, 3, 2): (22, 10),  # a subject may be at two holders, so twice as many must be counted
    (5, 3, 4): (20, 9),
    # ⌊(k−1)/(h−1)⌋ at h holders would not reach k: rounded up
    (1, 3, 1): (3, 1),
    (2, 3, 1): (3, 1),
    (4, 3, 1): (5, 2),
    (10, 7, 1): (13, 2),
    (7, 4, 1): (7, 2),
}


@pytest.mark.parametrize(("k", "h", "per_subject"), THRESHOLDS)
def test_threshold_and_cap(k: int, h: int, per_subject: int) -> None:
    assert threshold_of(rules(k, h), per_subject) == Threshold(*THRESHOLDS[k, h, per_subject])


small = st.integers(1, 60)


@given(k=small, h=st.integers(1, 12), per_subject=st.integers(1, 4))
def test_the_threshold_takes_k_subjects_and_h_holders_and_no_more(k: int, h: int, per_subject: int) -> None:
    found = threshold_of(rules(k, h), per_subject)
    assert (h - 1) * found.cap < found.least <= h * found.cap
    assert found.least >= k * per_subject
    if found.least > k * per_subject:  # no cap would have done for k itself
        assert not any((h - 1) * cap < k * per_subject <= h * cap for cap in range(1, k * per_subject + 1))


@given(k=small, h=st.integers(1, 6), counts=st.lists(st.integers(0, 80), max_size=10))
def test_who_passes_has_k_subjects_at_h_holders(k: int, h: int, counts: list[int]) -> None:
    found = threshold_of(rules(k, h))
    if sum(min(count, found.cap) for count in counts) >= found.least:
        assert sum(counts) >= k and sum(count > 0 for count in counts) >= h
    if sum(count >= found.cap for count in counts) >= h:
        assert sum(min(count, found.cap) for count in counts) >= found.least


CELLS = {
    "three patients at each of ten hospitals": ([3] * 10, True),
    "four in all": ([2, 1, 1], False),
    "four at one": ([4], False),
    "one large hospital beside stragglers": ([100, 1, 1], False),
    "two large hospitals": ([100, 100], False),
    "ten in all": ([4, 3, 3], False),
    "eleven in all": ([4, 4, 3], True),
    "eleven in all, nine at one": ([9, 1, 1], False),
    "nobody": ([0, 0, 0], False),
}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_under_eleven_subjects_at_three_holders(cell: str) -> None:
    counts, passes = CELLS[cell]
    form = form_of((Test(TRUE, TRUE, audited=False),), threshold=threshold_of(rules(11, 3)), hides_zeros=True)
    words = [holders_words(form, [[count]]) for count in counts]
    assert decide(form, total_of(words)).tolist() == [[passes]]


FIVE = threshold_of(rules(5, 3))

# --- the decision ------------------------------------------------------------------------------------------------


def form_of(
    tests: Sequence[Test], *, cells: int = 1, threshold: Threshold = FIVE, hides_zeros: bool = False,
    together: tuple[int, ...] = (), needs: tuple[tuple[int, ...], ...] = ((ROWS,),),
    units: tuple[tuple[int, ...], ...] = ((0,),), noisy: bool = False,
) -> GateForm:  # fmt: skip
    return GateForm(cells, Tests(tuple(tests), needs, units, together), threshold, hides_zeros, noisy)


def holders_words(form: GateForm, subjects: list[list[int]], vetoed: list[list[bool]] | None = None) -> Words:
    """Of a holder that has answered nothing before."""
    counts = np.array(subjects, dtype=np.int64)
    veto = np.zeros(counts.shape, dtype=np.bool_) if vetoed is None else np.array(vetoed)
    return exact_words(form, counts, np.full(counts.shape, 10**6), veto, seeded("vetoes"))


def total_of(words: Sequence[Words]) -> Words:
    return sum(words, start=np.zeros(1, dtype=np.uint64))


def model(form: GateForm, lanes: list[list[list[int]]]) -> list[list[bool]]:
    """The decision as PROTOCOL §3.2 tells it, cell by cell, in plain Python."""
    decided = []
    for counts, nearest, vetoes in zip(*lanes, strict=True):
        holds = []
        for test, count, near, veto in zip(form.tests.tests, counts, nearest, vetoes, strict=True):
            nobody = count == 0
            enough = count >= form.threshold.least or (nobody and (test.is_difference or not form.hides_zeros))
            far = near >= form.threshold.least or nobody or not test.audited
            holds.append(enough and far and veto == 0)
        if not all(holds[place] for place in form.tests.together):
            holds = [one and place not in form.tests.together for place, one in enumerate(holds)]
        decided.append([one and holds[ROWS] for one in holds])
    return decided


flags = st.tuples(st.booleans(), st.booleans())
near_the_threshold = st.integers(0, 9)
veto_words = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 2**64 - 1))


@st.composite
def gates(draw: st.DrawFn) -> tuple[GateForm, list[list[list[int]]]]:
    tests = [Test(TRUE, TRUE, audited=a, is_difference=d) for a, d in draw(st.lists(flags, min_size=1, max_size=5))]
    together = draw(st.sets(st.integers(1, len(tests) - 1))) if len(tests) > 1 else set[int]()
    form = form_of(
        tests,
        cells=draw(st.integers(1, 4)),
        threshold=draw(st.sampled_from([Threshold(5, 2), Threshold(3, 1), Threshold(1, 1)])),
        hides_zeros=draw(st.booleans()),
        together=tuple(sorted(together)),
    )
    lane = {COUNT: near_the_threshold, NEAREST: near_the_threshold, VETO: veto_words}
    drawn = [[[draw(lane[which]) for _ in tests] for _ in range(form.cells)] for which in range(LANES)]
    return form, drawn


@given(gates())
def test_the_decision_is_the_models(gate: tuple[GateForm, list[list[list[int]]]]) -> None:
    form, lanes = gate
    total = np.array(lanes, dtype=np.uint64).reshape(-1)
    assert decide(form, total).tolist() == model(form, lanes)


def decided(tests: Sequence[Test], lanes: list[list[int]], **form: object) -> list[bool]:
    """One cell, from its three lanes."""
    total = np.array(lanes, dtype=np.uint64).reshape(-1)
    return list(decide(form_of(tests, **form), total)[0].tolist())  # type: ignore[arg-type]


ALL, PART = Test(TRUE, TRUE), Test(TRUE, TRUE)
REST = Test(TRUE, TRUE, audited=False, is_difference=True)


@pytest.mark.parametrize(("hides", "shown"), [(False, True), (True, False)])
def test_an_empty_cell_shows_unless_zeros_are_hidden(hides: bool, shown: bool) -> None:
    assert decided([ALL], [[0], [0], [0]], hides_zeros=hides) == [shown]
    assert decided([ALL, PART], [[9, 0], [9, 0], [0, 0]], hides_zeros=hides) == [True, shown]


@pytest.mark.parametrize("count", [1, 4])
def test_few_are_no_better_than_the_empty_cell_where_it_is_hidden(count: int) -> None:
    assert decided([ALL], [[count], [9], [0]], hides_zeros=True) == [False]
    assert decided([ALL], [[count], [9], [0]], hides_zeros=False) == [False]


@pytest.mark.parametrize("hides", [False, True])
def test_two_parts_that_differ_by_nobody_or_by_many_pass(hides: bool) -> None:
    holds = {rest: decided([ALL, REST], [[9, rest], [9, 0], [0, 0]], hides_zeros=hides)[1] for rest in (0, 1, 4, 5)}
    assert holds == {0: True, 1: False, 4: False, 5: True}


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_parts_hold_all_or_none(failing: int) -> None:
    counts = [30, 9, 9, 9, 9]
    counts[failing] = 1
    found = decided([ALL, PART, PART, PART, PART], [counts, [99] * 5, [0] * 5], together=(1, 2, 3))
    assert found == [True, False, False, False, True]


@pytest.mark.parametrize("lane", [COUNT, NEAREST, VETO])
def test_where_the_rows_fail_the_whole_cell_does(lane: int) -> None:
    lanes = [[9, 9], [9, 9], [0, 0]]
    lanes[lane][ROWS] = 1
    assert decided([ALL, PART], lanes) == [False, False]


def test_no_cell_depends_on_another() -> None:
    form = form_of([ALL], cells=3)
    total = np.array([9, 1, 9, 9, 9, 1, 0, 0, 0], dtype=np.uint64)
    assert decide(form, total).tolist() == [[True], [False], [False]]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6), st.integers(-50, 50))
def test_noisy_counts_are_compared_with_their_sign(counts: list[int], least: int) -> None:
    form = form_of([ALL, PART], cells=len(counts), threshold=Threshold(least, 0), noisy=True, hides_zeros=True)
    halves = [noisy_words(form, [count // 2 for count in counts]), noisy_words(form, [-(-c // 2) for c in counts])]
    assert decide(form, total_of(halves)).tolist() == [[count >= least] for count in counts]


def test_with_noise_the_row_count_decides_on_everything() -> None:
    form = form_of([ALL, PART], cells=2, noisy=True, needs=((0,), (0, 1), (0, 1)), units=((0,), (1, 2)))
    assert form.shape == (1, 2, 1)
    assert released_sums(form, np.array([[True], [False]])).tolist() == [[True] * 3, [False] * 3]


# --- which sums are sent -----------------------------------------------------------------------------------------


def test_a_sum_is_sent_for_an_output_all_of_whose_sums_may_be_sent() -> None:
    """Sums 1 and 2 are one output; sum 2 alone is another; 3 is used by nobody, like the row count 0."""
    form = form_of([ALL, PART, PART], needs=((0,), (0, 1), (0, 2), (0,)), units=((1, 2), (2,)))
    sent = {
        tuple(released): released_sums(form, np.array([released])).tolist()[0]
        for released in ([True, True, True], [True, True, False], [True, False, True], [False, False, False])
    }
    assert sent == {
        (True, True, True): [False, True, True, False],
        (True, True, False): [False] * 4,
        (True, False, True): [False, False, True, False],
        (False, False, False): [False] * 4,
    }


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_no_sum_is_sent_without_its_tests(released: list[list[bool]]) -> None:
    needs, units = ((0,), (0, 1), (0, 2, 3), (0, 3)), ((0,), (1, 2), (2, 3), (3,))
    form = form_of([ALL, PART, PART, REST], cells=len(released), needs=needs, units=units)
    sent = released_sums(form, np.array(released)).tolist()
    for cell, may in zip(released, sent, strict=True):
        for place, one in enumerate(may):
            whole = [unit for unit in units if place in unit and all(cell[t] for s in unit for t in needs[s])]
            assert one == bool(whole)


# --- words -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=2, max_size=2), min_size=1, max_size=5), st.data())
def test_words_are_capped_counts_and_vetoes(counts: list[list[int]], data: st.DataObject) -> None:
    form = form_of([ALL, PART], cells=len(counts), threshold=Threshold(11, 5))
    nearest = [[data.draw(st.integers(0, 20)) for _ in row] for row in counts]
    vetoed = [[data.draw(st.booleans()) for _ in row] for row in counts]
    random = seeded("any")
    lanes = exact_words(form, np.array(counts), np.array(nearest), np.array(vetoed), random).reshape(form.shape)
    assert lanes[COUNT].tolist() == [[min(5, one) for one in row] for row in counts]
    assert lanes[NEAREST].tolist() == [[min(5, one) for one in row] for row in nearest]
    assert (lanes[VETO] != 0).tolist() == vetoed


@pytest.mark.parametrize("byte", [0, 1, 255])
def test_a_veto_is_never_zero_whatever_the_dice_say(byte: int) -> None:
    form = form_of([ALL], cells=3)
    cells = np.zeros((3, 1), dtype=np.int64)
    words = exact_words(form, cells, cells, np.array([[True], [False], [True]]), lambda count: bytes([byte]) * count)
    first, none, third = words.reshape(form.shape)[VETO].reshape(-1).tolist()
    assert first == third == max(1, int.from_bytes(bytes([byte]) * 8, "little")) and none == 0


def test_vetoes_are_fresh_and_do_not_tell_how_many_there_are() -> None:
    """Every veto takes eight bytes of its own; two of them are not twice one."""
    form = form_of([ALL], cells=50)
    zero, all_of_them = np.zeros((50, 1), dtype=np.int64), np.ones((50, 1), dtype=np.bool_)
    vetoes = exact_words(form, zero, zero, all_of_them, seeded("fifty")).reshape(form.shape)[VETO].reshape(-1).tolist()
    stream = seeded("fifty")(400)
    assert vetoes == [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 400, 8)]
    assert len(set(vetoes)) == 50


def test_what_is_not_audited_may_be_near() -> None:
    unaudited = Test(TRUE, TRUE, audited=False)
    assert decided([ALL, unaudited, PART], [[9, 9, 9], [9, 0, 0], [0, 0, 0]]) == [True, True, False]


# --- how it is written -------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_what_is_packed_is_unpacked(cells: int, tests: int, data: st.DataObject) -> None:
    form = form_of([ALL] * tests, cells=cells)
    released = np.array([[data.draw(st.booleans()) for _ in range(tests)] for _ in range(cells)])
    text = pack_released(released)
    assert unpack_released(form, text).tolist() == released.tolist()
    assert len(text) == 2 * -(-cells * tests // 8)


def test_the_first_bit_is_the_first_cells_rows() -> None:
    released = np.zeros((3, 3), dtype=np.bool_)
    released[0, 0] = released[2, 2] = True
    assert pack_released(released) == "8080"


MALFORMED = {
    "empty": "",
    "too short": "80",
    "too long": "808000",
    "a bit in the filling": "8081",
    "capitals": "FF80",
    "a space": "80 80",
    "a space before": " 8080",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_another_text_than_a_packed_one_is_refused(what: str) -> None:
    with pytest.raises(MalformedMessage, match="not the plan's"):
        unpack_released(form_of([ALL] * 3, cells=3), MALFORMED[what])


@given(st.binary(max_size=4).map(bytes.hex))
def test_one_decision_has_one_text(text: str) -> None:
    form = form_of([ALL] * 3, cells=3)
    try:
        released = unpack_released(form, text)
    except MalformedMessage:
        assert len(text) != 4 or int(text, 16) % 128
    else:
        assert pack_released(released) == text


# --- its size and digest -----------------------------------------------------------------------------------------


def test_a_gate_has_a_largest_size() -> None:
    full = form_of([ALL] * 4, cells=MAX_TESTS // 4)
    full.check_size(MAX_HOLDERS)
    assert full.words == LANES * MAX_TESTS == 600_000
    with pytest.raises(GateTooLarge, match="50001 cells with 4 tests each"):
        form_of([ALL] * 4, cells=MAX_TESTS // 4 + 1).check_size(3)
    with pytest.raises(GateTooLarge, match="129 holders"):
        form_of([ALL]).check_size(MAX_HOLDERS + 1)
    form_of([ALL] * 4, cells=MAX_TESTS // 4 + 1, noisy=True).check_size(3)  # one test a cell


def test_every_part_of_the_rule_changes_the_digest() -> None:
    """The gate's masks are made under it: holders with another rule in mind get no sum."""
    forms = [
        form_of([ALL]),
        form_of([ALL, PART]),
        form_of([ALL], cells=2),
        form_of([ALL], threshold=Threshold(6, 2)),
        form_of([ALL], threshold=Threshold(5, 3)),
        form_of([ALL], hides_zeros=True),
        form_of([ALL], noisy=True),
    ]
    assert len({form.digest() for form in forms}) == len(forms)
    assert form_of([ALL]).digest() == form_of([ALL]).digest()
