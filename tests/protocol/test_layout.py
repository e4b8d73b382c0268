"""Layout: packing against plain arithmetic, and everything that unpacking refuses."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.errors import MalformedMessage, SlotOverflow, TotalRejected, ValueOutOfRange
from ceiba_protocol.sums.layout import Layout
from tests.support.keys import keypair

N = int(keypair(1024)[0].n)
SMALL = Layout(key_bits=1024, header=(), cell=(100, 5), cells=2, holders=3)

bounds = st.integers(0, 2**100)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    return Layout(
        key_bits=1024,
        header=tuple(draw(st.lists(bounds, max_size=4))),
        cell=tuple(draw(st.lists(bounds, max_size=5))),
        cells=draw(st.integers(0, 12)),
        holders=draw(st.integers(1, 6)),
    )


def total_bounds(layout: Layout) -> list[int]:
    return [*layout.header, *layout.cell * layout.cells]


def drawn_values(data: st.DataObject, bounds: list[int]) -> list[int]:
    return [data.draw(st.one_of(st.sampled_from([-b, b]), st.integers(-b, b))) for b in bounds]


# --- the law ---------------------------------------------------------------------------------------------------


@given(layouts(), st.data())
def test_sum_of_packings_unpacks_to_the_sums(layout: Layout, data: st.DataObject) -> None:
    shares = [bound // layout.holders for bound in total_bounds(layout)]
    values = [drawn_values(data, shares) for _ in range(layout.holders)]
    packings = [layout.pack(row, shares) for row in values]
    total = [sum(position) % N for position in zip(*packings, strict=True)]
    assert layout.unpack(total, N) == [sum(column) for column in zip(*values, strict=True)]


@given(layouts(), st.data())
def test_packing_is_the_weighted_sum_of_its_slots(layout: Layout, data: st.DataObject) -> None:
    limits = total_bounds(layout)
    values = drawn_values(data, limits)
    # Greedy by hand: [width, value] pairs, a counter first, a new ciphertext when the next slot does not fit.
    counter = layout.holders.bit_length() + 1
    chunks = [[(counter, 1)]]
    for value, limit in zip(values, limits, strict=True):
        slot = (limit.bit_length() + 1, value)
        if sum(width for width, _ in chunks[-1]) + slot[0] > 1024 - 67:
            chunks.append([(counter, 1)])
        chunks[-1].append(slot)
    expected = []
    for chunk in chunks:
        offsets = accumulate((width for width, _ in chunk[:-1]), initial=0)
        expected.append(sum(value * 2**offset for offset, (_, value) in zip(offsets, chunk, strict=True)))
    assert layout.pack(values, limits) == expected
    assert layout.ciphertexts == len(expected)
    assert all(abs(part) < 2 ** (1024 - 67) for part in expected)


def test_empty_layout_still_counts_holders() -> None:
    layout = Layout(key_bits=1024, header=(), cell=(), cells=0, holders=3)
    assert (layout.slots, layout.ciphertexts) == (0, 1)
    assert layout.pack([], []) == [1]
    assert layout.unpack([3], N) == []


def test_fifty_thousand_slots() -> None:
    layout = Layout(key_bits=3072, header=(7,), cell=(10**6, 10**12), cells=25_000, holders=3)
    values = [-3, *range(50_000)]
    limits = total_bounds(layout)
    n = int(keypair(3072)[0].n)
    packed = layout.pack(values, limits)
    total = [2 * part + other for part, other in zip(packed, layout.pack([0] * 50_001, limits), strict=True)]
    assert layout.unpack(total, n) == [2 * value for value in values]


# --- refusals when packing -------------------------------------------------------------------------------------


@given(layouts(), st.data())
def test_one_beyond_its_bound_is_refused(layout: Layout, data: st.DataObject) -> None:
    limits = total_bounds(layout)
    if not limits:
        return
    at = data.draw(st.integers(0, len(limits) - 1))
    values = [0] * len(limits)
    values[at] = data.draw(st.sampled_from([-1, 1])) * (limits[at] + 1)
    with pytest.raises(SlotOverflow):
        layout.pack(values, limits)


def test_a_holders_own_bound_counts_not_the_total() -> None:
    assert SMALL.pack([33, 1, -33, -1], [33, 1, 33, 1])
    with pytest.raises(SlotOverflow):
        SMALL.pack([34, 1, -33, -1], [33, 1, 33, 1])


@pytest.mark.parametrize(("values", "limits"), [(3, 4), (4, 3), (5, 5), (0, 0)])
def test_another_number_of_values_is_refused(values: int, limits: int) -> None:
    with pytest.raises(MalformedMessage):
        SMALL.pack([0] * values, [1] * limits)


def test_widest_possible_slot_fits_and_one_bit_more_does_not() -> None:
    # 1024 − 67 bits, minus the counter's 3, minus the sign.
    bound = 2 ** (1024 - 67 - 3 - 1) - 1
    layout = Layout(key_bits=1024, header=(bound,), cell=(), cells=0, holders=3)
    assert layout.ciphertexts == 1
    assert layout.unpack([3 + (-bound << 3) + N], N) == [-bound]
    with pytest.raises(ValueOutOfRange):
        Layout(key_bits=1024, header=(bound + 1,), cell=(), cells=0, holders=3)


# --- refusals when unpacking -----------------------------------------------------------------------------------


def packed_total(values: list[int]) -> int:
    [part] = SMALL.pack(values, total_bounds(SMALL))
    return part + 2


@pytest.mark.parametrize("extra", [2, -1, 1])
def test_another_number_of_holders_is_refused(extra: int) -> None:
    with pytest.raises(TotalRejected, match="number of holders"):
        SMALL.unpack([(packed_total([0, 0, 0, 0]) + extra) % N], N)


@given(st.integers(0, N - 1))
def test_random_residues_are_refused(residue: int) -> None:
    used = 3 + 2 * (8 + 4)
    signed = residue - N if residue > N // 2 else residue
    if abs(signed) < 2**used:
        return
    with pytest.raises(TotalRejected, match="canary"):
        SMALL.unpack([residue], N)


@pytest.mark.parametrize("bit", [27, 100, 956, 1000, 1020])
def test_one_bit_above_the_slots_is_refused(bit: int) -> None:
    with pytest.raises(TotalRejected, match="canary"):
        SMALL.unpack([packed_total([1, 2, 3, 4]) + (1 << bit)], N)


def test_a_sum_beyond_its_bound_is_refused_though_it_fits_its_bits() -> None:
    assert SMALL.unpack([packed_total([100, 5, 0, 0])], N) == [100, 5, 0, 0]
    with pytest.raises(TotalRejected, match="public bound"):
        SMALL.unpack([packed_total([100, 5, 0, 0]) + (1 << 3)], N)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_ciphertexts_is_refused(count: int) -> None:
    with pytest.raises(TotalRejected, match="instead of 1"):
        SMALL.unpack([packed_total([0, 0, 0, 0])] * count, N)


# --- the digest ------------------------------------------------------------------------------------------------


def test_every_field_changes_the_digest() -> None:
    variants = [
        SMALL,
        Layout(1025, (), (100, 5), 2, 3),
        Layout(1024, (100,), (5,), 2, 3),
        Layout(1024, (100, 5), (), 2, 3),
        Layout(1024, (), (100, 6), 2, 3),
        Layout(1024, (), (5, 100), 2, 3),
        Layout(1024, (), (100, 5), 3, 3),
        Layout(1024, (), (100, 5), 2, 4),
    ]
    assert len({layout.digest() for layout in variants}) == len(variants)


def test_equal_layouts_have_equal_digests() -> None:
    assert SMALL.digest() == Layout(1024, (), (100, 5), 2, 3).digest()
    assert len(SMALL.digest()) == 32
