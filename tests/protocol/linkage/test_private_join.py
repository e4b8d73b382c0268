"""The private join: equal to the plain one, silent about everything else, and deaf to whatever is malformed."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import permutations
from statistics import variance
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import (
    BadCiphertext,
    BadGroupElement,
    BadJoin,
    BadKeyProof,
    CeibaError,
    ExactJoinForbidden,
    GateTooLarge,
    IntersectionTooSmall,
    JoinOutOfOrder,
    KeyTooShort,
    MalformedMessage,
    RepeatedIdentifier,
    SlotOverflow,
    TotalRejected,
    ValueOutOfRange,
)
from ceiba_protocol.linkage.cores import on_all_cores
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.join_messages import write_share
from ceiba_protocol.linkage.join_terms import JoinTerms, padded
from ceiba_protocol.linkage.masked_fields import FieldShape, MaskedFields, Row, check_rows
from ceiba_protocol.linkage.private_join import (
    BaseSide,
    JoinedSide,
    ProvenKey,
    fresh_noise,
    merchant_open,
    noise_in_common,
    run_join,
)
from ceiba_protocol.linkage.ristretto import hash_to_group, multiply
from ceiba_protocol.sums.key_proof import prove_key
from ceiba_protocol.sums.layout import split_digits
from ceiba_protocol.sums.paillier import Encryptor, ciphertext_bytes
from ceiba_protocol.sums.randomness import random_order
from tests.support.joins import KEY_CONTEXT, STEPS, Join, plain_join, proven, short_keys, terms_for
from tests.support.keys import keypair
from tests.support.seeded import seeded

PRIVATE = keypair(1024)[1]
N = int(PRIVATE.public_key.n)
COUNT, SUMS = FieldShape(6), FieldShape(6, (12, 20))
COUNT_AS_NOISY = FieldShape(10, noise=(16,))
IDS = [b"%d" % number for number in range(70)]
GROUPS = [IDS[:9], IDS[9:11], [], IDS[20:30]]
ROWS: dict[bytes, Row] = {
    IDS[number]: [(number % 2, (number - 5, -7 * number)), (2, ())] for number in (*range(12), *range(28, 34))
}
TERMS = terms_for(len(GROUPS), SUMS, SUMS, COUNT)
KINDS = [*STEPS, "joined share"]


@pytest.fixture(scope="module", autouse=True)
def _short_keys() -> Iterator[None]:
    with short_keys():
        yield


@pytest.fixture(scope="module")
def honest() -> Join:
    """A join that went well, with every message."""
    join = Join(TERMS, GROUPS, ROWS)
    assert join.run() == plain_join(TERMS, GROUPS, ROWS)
    return join


def changed(kind: str, change: Callable[[bytes], bytes]) -> Join:
    """A join in which one message is changed on the way."""
    return Join(TERMS, GROUPS, ROWS, change=lambda of, message: change(message) if of == kind else message)


# --- equal to the plain join -----------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn) -> tuple[JoinTerms, list[list[bytes]], dict[bytes, Row]]:
    """Two features of two bins each, every subject in at most one bin of each; some groups empty."""
    shapes = (SUMS, SUMS, COUNT, FieldShape(6, (9,)))
    of_group = draw(st.lists(st.integers(-1, 2), max_size=40))
    groups = [[IDS[place] for place, group in enumerate(of_group) if group == wanted] for wanted in range(3)]
    rows: dict[bytes, Row] = {}
    for place in draw(st.lists(st.integers(0, 59), unique=True, max_size=20)):
        drawn = (draw(st.sampled_from((None, 0, 1))), draw(st.sampled_from((None, 2, 3))))
        bins = [bin for bin in drawn if bin is not None]
        widths = [shapes[bin].value_widths for bin in bins]
        values = [tuple(draw(st.integers(-(2 ** (w - 1) // 21), 2 ** (w - 1) // 21)) for w in some) for some in widths]
        rows[IDS[place]] = list(zip(bins, values, strict=True))
    rules: dict[str, Any] = {"minimum_subjects": draw(st.integers(1, 4)), "hides_zeros": draw(st.booleans())}
    return terms_for(3, *shapes, **rules), groups, rows


@settings(max_examples=25, deadline=None)
@given(tables())
def test_equals_the_plain_join(case: tuple[JoinTerms, list[list[bytes]], dict[bytes, Row]]) -> None:
    assert Join(*case).run() == plain_join(*case)


@pytest.mark.parametrize("hides_zeros", [False, True])
@pytest.mark.parametrize("none_is_many", [False, True])
def test_a_cell_is_released_with_its_guards_alone(hides_zeros: bool, none_is_many: bool) -> None:
    """Three of each group are in the first cell; so many of them meet each of its two conditions."""
    met = [(3, 3), (3, 2), (2, 3), (3, 0), (0, 3), (3, 1)]
    shapes = (FieldShape(5, (9,)), FieldShape(5), FieldShape(5), FieldShape(5, none_is_many=none_is_many))
    terms = terms_for(len(met), *shapes, hides_zeros=hides_zeros, guards=(0, 0))
    groups = [IDS[3 * group : 3 * group + 3] for group in range(len(met))]
    rows: dict[bytes, Row] = {
        identifier: [(0, (7,)), (1, ()), *((2 + guard, ()) for guard in (0, 1) if place < met[group][guard])]
        for group, members in enumerate(groups)
        for place, identifier in enumerate(members)
    }
    none = (not hides_zeros, none_is_many or not hides_zeros)
    good = [all(n == 3 or (n == 0 and is_good) for n, is_good in zip(of, none, strict=True)) for of in met]
    assert Join(terms, groups, rows).run() == [[(3, (21,)) if one else None, (3, ())] for one in good]


@pytest.mark.parametrize(
    ("cells", "guards"), [((COUNT, COUNT), (1,)), ((COUNT, COUNT), (-1,)), ((COUNT, SUMS), (0,)), ((COUNT,), (0,))]
)
def test_guards_guard_cells_that_there_are_and_have_no_sums(cells: Any, guards: tuple[int, ...]) -> None:
    with pytest.raises(BadJoin):
        terms_for(1, *cells, guards=guards)


def test_guards_are_in_the_digest() -> None:
    cells = (COUNT, COUNT, COUNT)
    made = [terms_for(1, *cells, guards=guards) for guards in ((), (0,), (1,), (0, 0))]
    made.append(terms_for(1, COUNT, COUNT, FieldShape(6, none_is_many=True)))
    assert len({terms.digest() for terms in made}) == 5


def test_either_side_can_withhold_what_is_large_enough() -> None:
    """The base groups, the joined holder cells; the other one cannot tell it from what is too small."""
    terms, groups = terms_for((2, 1), COUNT, FieldShape(6, (9,))), [[IDS[:4], IDS[4:9]], [IDS[:9]]]
    rows: dict[bytes, Row] = {identifier: [(0, ()), (1, (5,))] for identifier in IDS[:9]}

    def read(groups_vetoed: set[int], cells_vetoed: set[int]) -> list[list[Any]]:
        base = BaseSide(terms, groups, proven(1024), seeded("base"), vetoed=groups_vetoed)
        joined = JoinedSide(terms, rows, PRIVATE, seeded("b"), joiner_is_semi_honest=True, vetoed=cells_vetoed)
        decision, share = joined.decide(base.test(joined.tests(base.mask(joined.rows(base.groups())))))
        return merchant_open(terms, base.share(decision), share)

    whole = [[(4, ()), (4, (20,))], [(5, ()), (5, (25,))], [(9, ()), (9, (45,))]]
    assert read(set(), set()) == whole
    assert read({1}, set()) == [whole[0], [None, None], whole[2]]
    assert read({2}, {0}) == [[None, whole[0][1]], [None, whole[1][1]], [None, None]]


@pytest.mark.parametrize("hides_zeros", [False, True])
def test_only_what_is_large_enough_is_released(hides_zeros: bool) -> None:
    groups = [IDS[:2], IDS[2:5], IDS[5:6], []]  # k − 1, k, 1 and 0 of them at both
    terms = terms_for(4, FieldShape(5, (9,)), hides_zeros=hides_zeros)
    rows = {identifier: [(0, (-4,))] for identifier in IDS[:6]}
    none = None if hides_zeros else (0, (0,))
    assert Join(terms, groups, rows).run() == [[None], [(3, (-12,))], [None], [none]]


def test_without_a_minimum_everything_is_released() -> None:
    terms = terms_for(2, FieldShape(5, (9,)), minimum_subjects=1)
    assert Join(terms, [IDS[:1], []], {IDS[0]: [(0, (7,))]}).run() == [[(1, (7,))], [(0, (0,))]]


def test_cells_that_fill_several_plaintexts() -> None:
    shapes = [FieldShape(5, (30, 60)) for _ in range(11)]
    terms = terms_for(2, *shapes)
    rows = {IDS[number]: [(cell, (number, -(10**16) - cell)) for cell in range(11)] for number in range(5)}
    groups = [IDS[:4], IDS[4:8]]
    join = Join(terms, groups, rows)
    assert join.run() == plain_join(terms, groups, rows)
    assert len(join.sent["masked sums"]) == 32 + 2 * 3 * ciphertext_bytes(N)  # five cells of 180 bits in each


def test_sums_at_the_ends_of_their_widths() -> None:
    terms = terms_for(2, FieldShape(5, (4, 3, 4)))
    rows: dict[bytes, Row] = {IDS[0]: [(0, (-7, 3, -1))], IDS[1]: [(0, (0, 0, 0))], IDS[2]: [(0, (0, 0, -6))]}
    assert Join(terms, [IDS[:3], []], rows).run()[0] == [(3, (-7, 3, -7))]


def test_the_whole_with_the_default_key() -> None:
    rows = {identifier: [(0, (-3, 40)), (2, ())] for identifier in IDS[5:12]}
    assert run_join(TERMS, [GROUPS], rows, keypair(3072)[1], os.urandom) == plain_join(TERMS, GROUPS, rows)


def test_several_joined_holders_are_a_star() -> None:
    for joined in ("tax", "insurance"):
        terms = replace(TERMS, joined=joined)
        rows = {identifier: row for identifier, row in ROWS.items() if joined == "tax" or identifier != IDS[0]}
        assert Join(terms, GROUPS, rows).run() == plain_join(terms, GROUPS, rows)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(0, 2**32))
def test_shares_of_every_field_differ_by_its_sum(data: st.DataObject, cells: int, seed: int) -> None:
    """Without encryption: rows, also the largest, and masks are added as integers below n."""
    widths = st.lists(st.integers(2, 40), max_size=4).map(tuple)
    shapes = tuple(FieldShape(data.draw(st.integers(2, 20)), data.draw(widths)) for _ in range(cells))
    fields = MaskedFields(shapes, 1024)
    largest = [tuple(2 ** (width - 1) - 1 for width in shape.value_widths) for shape in shapes]
    sign = data.draw(st.sampled_from((1, -1)))
    rows: list[Row] = [[(cell, [sign * value for value in largest[cell]])] for cell in range(cells)]
    rows += [[(cell, [0] * len(largest[cell])) for cell in range(cells)]]
    masks = fields.draw_masks(N, seeded(f"masks {seed}"))
    sums = [sum(column) for column in zip(*map(fields.pack_row, rows), masks, strict=True)]
    assert all(0 <= total < N for total in sums)
    for shape, share, mask, values in zip(shapes, fields.split(sums), fields.split(masks), largest, strict=True):
        assert share[0] - mask[0] == 2
        assert split_digits(share[1] - mask[1], shape.value_widths) == [sign * value for value in values]


ROOM = FieldShape(6, (12, 20))
"""Fields of 6 + 42 and 32 + 42 bits."""
TOO_NEAR = {
    "the count's field ends": (2**48 - 2**6 + 1) + (2**40 << 48),
    "the values' field begins": (2**31 - 1) << 48,
    "the values' field ends": (2**74 - 2**31 + 1) << 48,
    "the modulus ends": N - 1 - ((N - 1) % 2**122) + (2**40 << 48),
}


@pytest.mark.parametrize("what", TOO_NEAR)
def test_a_mask_that_leaves_no_room_is_drawn_again(what: str) -> None:
    wanted, later = MaskedFields((ROOM,), 1024), seeded("again")
    width, shift = -(-N.bit_length() // 8), -N.bit_length() % 8
    first = iter([(TOO_NEAR[what] << shift).to_bytes(width, "big")])
    masks = wanted.draw_masks(N, lambda size: next(first, None) or later(size))
    assert masks == wanted.draw_masks(N, seeded("again")) != [TOO_NEAR[what]]


def test_masks_are_as_long_as_the_modulus() -> None:
    """Bits that no field has are masked as well."""
    drawn = [mask for seed in range(200) for mask in MaskedFields((ROOM,), 1024).draw_masks(N, seeded(f"long {seed}"))]
    assert max(drawn) > N - N // 50 and min(drawn) < N // 50


def test_a_plaintext_stays_below_half_of_the_modulus() -> None:
    half, one_more = FieldShape(469, ()), FieldShape(470, ())  # 511 and 512 bits of 1022
    assert MaskedFields((half, half), 1024).plaintexts == 1
    assert MaskedFields((half, one_more), 1024).plaintexts == 2


# --- noise -----------------------------------------------------------------------------------------------------


NOISY = FieldShape(10, (16,), noise=(16, 100))
NOISY_TERMS = terms_for(2, NOISY)


NONE = [(0, 0), (0, 0)]
"""What a holder adds whose draws all came to nothing."""


def test_the_noise_of_both_is_in_counts_sums_and_gate() -> None:
    """k = 3, and σ = 4 for each of the two: a noisy count is released from 3 + 2·√32 on, or when it is below −6·√32."""
    rows = {identifier: [(0, (10,))] for identifier in IDS[:12]}
    groups = [IDS[:6], IDS[6:12]]
    assert NOISY_TERMS.forbidden(NOISY) == range(-33, 14)
    for one, other in ([(8, -7), (7, 0)], NONE), (NONE, [(8, -7), (7, 0)]), ([(3, 1), (9, 2)], [(5, -8), (-2, -2)]):
        assert Join(NOISY_TERMS, groups, rows, one, other).run() == [[(14, (53,))], [None]]
    assert Join(NOISY_TERMS, groups, rows, [(-39, 3), (-20, 1)], [(0, 0), (-20, 0)]).run() == [[None], [(-34, (61,))]]


def test_noise_at_its_tail_leaves_no_field() -> None:
    most = [(160, 400), (160, -400)]
    rows = {identifier: [(0, (1,))] for identifier in IDS[:20]}
    assert Join(NOISY_TERMS, [IDS[:20], []], rows, most, most).run() == [[(340, (820,))], [(320, (-800,))]]


def test_fresh_noise_is_the_shape_and_the_size_that_the_terms_say() -> None:
    terms = terms_for(200, NOISY)
    drawn = fresh_noise(terms, seeded("noise"))
    counts, sums = zip(*drawn, strict=True)
    assert len(drawn) == 200
    assert 12 < variance(counts) < 20  # of 16 and 100; four standard deviations of a sample's variance
    assert 60 < variance(sums) < 140
    assert fresh_noise(terms, seeded("noise")) == drawn != fresh_noise(terms, seeded("other noise"))
    assert fresh_noise(TERMS, seeded("noise")) == []


def test_noise_in_common_is_that_of_one_holder_in_a_count() -> None:
    """Of variance 16, whatever sums there are."""
    drawn = [noise_in_common(NOISY_TERMS, seeded(f"common {number}")) for number in range(400)]
    assert 12 < variance(drawn) < 20  # more than three standard deviations of a sample's variance
    assert noise_in_common(TERMS, seeded("common")) == 0


@pytest.mark.parametrize(("drawn", "is_enough"), [(-2, True), (-3, False), (3, True)])
def test_with_noise_it_is_decided_with_noise_whether_enough_are_in_common(
    drawn: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve are, and ten are enough."""
    monkeypatch.setattr("ceiba_protocol.linkage.private_join.noise_in_common", lambda *_: drawn)
    rows = {identifier: [(0, (10,))] for identifier in IDS[:12]}
    join = Join(replace(NOISY_TERMS, smallest_intersection=10), [IDS[:6], IDS[6:12]], rows, NONE, NONE)
    if is_enough:
        join.run()
        return
    with pytest.raises(IntersectionTooSmall, match="10"):
        join.run()


@pytest.mark.parametrize("noise", [[], [(1, 2)], [(1,), (1,)], [(1, 2, 3), (1, 2, 3)]])
def test_noise_of_another_shape_is_refused(noise: list[tuple[int, ...]]) -> None:
    with pytest.raises(BadJoin, match="noise of tax"):
        Join(NOISY_TERMS, [[], []], {}, noise, NONE)
    with pytest.raises(BadJoin, match="noise of register"):
        Join(NOISY_TERMS, [[], []], {}, NONE, noise)


def test_noise_where_the_terms_have_none_is_refused() -> None:
    with pytest.raises(BadJoin, match="noise of tax"):
        Join(TERMS, GROUPS, ROWS, noise=[(1, 2, 3)] * 12)


def test_no_exact_answer_without_the_flag() -> None:
    with pytest.raises(ExactJoinForbidden, match="tax"):
        JoinedSide(TERMS, ROWS, PRIVATE, os.urandom)
    JoinedSide(NOISY_TERMS, {}, PRIVATE, os.urandom, noise=[(1, 2), (3, 4)])


# --- silent about everything else ------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(16, 4, 1, 0), (0, 0, 0, 0), (60, 0, 0, 0), (17, 17, 17, 9)])
def test_lengths_of_messages_follow_from_public_facts(honest: Join, sizes: tuple[int, ...]) -> None:
    """Groups of other sizes, another number of rows, other values, other cells released."""
    starts = [sum(sizes[:place]) for place in range(4)]
    groups = [IDS[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    other = Join(TERMS, groups, {IDS[0]: [(1, (1, 1))]}, label="other")
    assert other.run() != plain_join(TERMS, GROUPS, ROWS)
    assert {kind: len(sent) for kind, sent in other.sent.items()} == {k: len(s) for k, s in honest.sent.items()}
    assert other.sent.keys() == set(KINDS)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 40), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_there_is_room_for_whoever_is_in_the_groups(data: st.DataObject, minimum: int, numbers: list[int]) -> None:
    """As many subjects as announced in each grouping, in whichever groups; the padded sizes are the largest then."""
    terms = terms_for(tuple(numbers), COUNT, minimum_subjects=minimum)
    points = 0
    for groups in numbers:
        place = st.integers(0, groups - 1)
        of_group = Counter(data.draw(st.lists(place, min_size=terms.base_subjects, max_size=terms.base_subjects)))
        points += sum(max(padded(of_group[group]), terms.smallest_group) for group in range(groups))
    assert points <= terms.most_points


def test_group_sizes_are_padded() -> None:
    assert [padded(size) for size in (0, 1, 16, 17, 32, 33)] == [16, 16, 16, 32, 32, 48]
    join = Join(terms_for(2, COUNT, minimum_subjects=20), [IDS[:1], IDS[1:34]], {})
    join.run("groups")
    assert join.sent["groups"][32:40] == (32).to_bytes(4, "big") + (48).to_bytes(4, "big")


def test_shares_of_the_joined_holder_look_uniform() -> None:
    """Of 160 cells, 20 with the largest sums; the top three bits of both fields, 7 degrees of freedom."""
    terms = terms_for(8, *[FieldShape(6, (8, 12))] * 20)
    rows: dict[bytes, Row] = {IDS[0]: [(cell, (127, 2047)) for cell in range(20)]}
    join = Join(terms, [[IDS[0]], *[[]] * 7], rows)
    join.run("tests")
    for place, bits in ((0, 6 + 42), (1, 20 + 42)):
        bins = [0] * 8
        for share in join.joined._shares:
            bins[min(share[place] >> (bits - 3), 7)] += 1
        assert sum((seen - 20) ** 2 for seen in bins) / 20 < 30  # exceeded once in 10^4


def test_shares_of_withheld_cells_are_nowhere(honest: Join) -> None:
    released = [cell is not None for group in honest.open() for cell in group]
    assert released.count(False) > 2
    for side, kind in ((honest.base._masks, "base share"), (honest.joined._shares, "joined share")):
        for (count, _), is_released in zip(side, released, strict=True):
            assert (count.to_bytes(7, "big") in honest.sent[kind]) == is_released


def test_the_same_identifiers_are_other_points_in_another_join(honest: Join) -> None:
    again = Join(replace(TERMS, context=bytes([1]) * 32), GROUPS, ROWS)  # with the same secrets
    again.run("rows")
    assert again.base._secrets == honest.base._secrets
    sent = (again.sent["groups"], honest.sent["groups"])
    points = [{message[at : at + 32] for at in range(48, 48 + 64 * 32, 32)} for message in sent]
    padding = 4 * 16 - sum(map(len, GROUPS))  # of the same randomness
    assert len(points[0] & points[1]) == padding


def test_no_message_shows_an_order() -> None:
    """Neither that of A's subjects in a group, nor that of B's rows, with padding in between."""
    join = Join(terms_for(1, COUNT, joined_subjects=40), [IDS[:20]], {identifier: [] for identifier in IDS[:20]})
    join.run("rows")
    for side, message, start, size in (
        (join.base, join.sent["groups"], 36, 32),
        (join.joined, join.sent["rows"], 64 + join.terms.most_points * 32, 40),
    ):
        points = [message[at : at + 32] for at in range(start, start + size * 32, 32)]
        hashed = [hash_to_group(identifier, join.terms.hash_domain()) for identifier in IDS[:20]]
        places = [points.index(multiply(side._secrets[0], point)) for point in hashed]
        assert places != sorted(places)
        assert 2 < sum(place < size // 2 for place in places) < 18


def test_no_ciphertext_comes_twice(honest: Join) -> None:
    width = ciphertext_bytes(N)
    rows = honest.sent["rows"][-20 * width :]
    assert len({rows[at : at + width] for at in range(0, len(rows), width)}) == 20


def test_nothing_secret_prints(honest: Join) -> None:
    key = honest.joined._gate_key
    assert str(key.secret) not in repr(key)
    assert "object at" in repr(honest.base)
    assert "object at" in repr(honest.joined)
    assert repr(proven(1024)).startswith("ProvenKey(key_id=")


# --- deaf to whatever is malformed -----------------------------------------------------------------------------


CUTS: list[Callable[[bytes], bytes]] = [
    lambda _: b"",
    lambda message: message[:31],
    lambda message: message[:-1],
    lambda message: message + b"\0",
    lambda message: bytes([message[0] ^ 1]) + message[1:],
]
ROOM_FOR_POINTS = TERMS.most_points * 32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", range(len(CUTS)))
def test_a_message_of_another_length_or_join_is_refused(kind: str, cut: int) -> None:
    with pytest.raises(MalformedMessage):
        changed(kind, CUTS[cut]).run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_context_is_refused(kind: str) -> None:
    other = Join(replace(TERMS, context=bytes([1]) * 32), GROUPS, ROWS)
    other.run()
    with pytest.raises(MalformedMessage, match="another"):
        changed(kind, lambda _: other.sent[kind]).run()


def test_a_message_of_another_step_is_refused_though_it_has_the_length() -> None:
    """Four cells of 64 bytes in each group are as long as one ciphertext of 256."""
    join = Join(terms_for(2, COUNT, COUNT, COUNT, COUNT), [[], []], {})
    join.run("tests")
    assert len(join.sent["tests"]) == len(join.sent["masked sums"])
    with pytest.raises(MalformedMessage, match="another step"):
        join.base.test(join.sent["masked sums"])


def test_a_message_under_another_key_is_refused() -> None:
    join = Join(TERMS, GROUPS, ROWS)
    other = BaseSide(TERMS, [GROUPS], proven(2048), os.urandom)
    with pytest.raises(MalformedMessage, match="another key"):
        join.joined.rows(other.groups())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_gives_an_answer_or_a_named_error(kind: str, where: float, flip: int) -> None:
    def change(message: bytes) -> bytes:
        place = int(where * len(message))
        return message[:place] + bytes([message[place] ^ flip]) + message[place + 1 :]

    try:
        changed(kind, change).run()
    except CeibaError as error:
        assert error.code in {"malformed_message", "bad_group_element", "bad_ciphertext", "total_rejected"}


POINTS = [
    ("groups", 48), ("rows", 32), ("rows", 32 + ROOM_FOR_POINTS), ("rows", 64 + ROOM_FOR_POINTS), ("tests", 32),
    ("tested", 32),
]  # fmt: skip
"""Where points begin: in `rows` A's own, then the gate key, then B's."""


@pytest.mark.parametrize(("kind", "place"), POINTS)
@pytest.mark.parametrize("point", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31), bytes(31) + b"\x80"])
def test_what_is_no_point_or_the_identity_is_refused(kind: str, place: int, point: bytes) -> None:
    with pytest.raises(BadGroupElement):
        changed(kind, lambda message: message[:place] + point + message[place + 32 :]).run()


@pytest.mark.parametrize(("kind", "place"), POINTS)
def test_another_encoding_of_a_point_is_refused(kind: str, place: int) -> None:
    """With the highest bit set libsodium 1.0.18 reads the same point, which would pass for a second subject."""
    with pytest.raises(BadGroupElement):
        changed(kind, lambda sent: sent[: place + 31] + bytes([sent[place + 31] | 0x80]) + sent[place + 32 :]).run()


@pytest.mark.parametrize("bad", [0, N, int(PRIVATE.p), N**2])
@pytest.mark.parametrize("kind", ["rows", "masked sums"])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_unit_is_refused_wherever_it_is(bad: int, kind: str, place: int) -> None:
    """Also in a row that matches nobody: 14 of the 20 do not."""
    width = ciphertext_bytes(N)

    def change(message: bytes) -> bytes:
        start = len(message) - (place + 1) * width
        return message[:start] + bad.to_bytes(width, "big") + message[start + width :]

    with pytest.raises(BadCiphertext, match="tax" if kind == "rows" else "register"):
        changed(kind, change).run()


@pytest.mark.parametrize(("kind", "start"), [("groups", 48), ("rows", 32), ("rows", 64 + ROOM_FOR_POINTS)])
def test_a_point_that_comes_twice_is_refused(kind: str, start: int) -> None:
    with pytest.raises(MalformedMessage, match="more than once"):
        changed(kind, lambda sent: sent[: start + 32] + sent[start : start + 32] + sent[start + 64 :]).run()


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [((16, 16, 16, 0), "smaller"), ((16, 16, 16, 17), "not padded"), ((16, 16, 16, 96), "more subjects"),
     ((16, 16, 16, 2**32 - 16), "more subjects")],
)  # fmt: skip
def test_groups_that_are_not_as_announced_are_refused(sizes: tuple[int, ...], problem: str) -> None:
    encoded = b"".join(size.to_bytes(4, "big") for size in sizes)
    with pytest.raises(MalformedMessage, match=problem):
        changed("groups", lambda message: message[:32] + encoded + message[48:]).run()


def test_fewer_points_than_the_sizes_say_are_refused() -> None:
    with pytest.raises(BadGroupElement):
        changed("groups", lambda sent: sent[:44] + (32).to_bytes(4, "big") + sent[48:]).run()


@pytest.mark.parametrize(("kind", "end"), [("groups", 48 + ROOM_FOR_POINTS), ("rows", 32 + ROOM_FOR_POINTS)])
@pytest.mark.parametrize("place", ["first", "last"])
def test_what_fills_up_is_zero_bytes(kind: str, end: int, place: str) -> None:
    at = end - 1 if place == "last" else end - ROOM_FOR_POINTS + 64 * 32
    with pytest.raises(MalformedMessage, match="zero bytes"):
        changed(kind, lambda sent: sent[:at] + b"\1" + sent[at + 1 :]).run()


def test_a_group_below_the_minimum_is_refused_though_padded() -> None:
    def shrink(kind: str, message: bytes) -> bytes:
        return message[:32] + (16).to_bytes(4, "big") + message[36:] if kind == "groups" else message

    with pytest.raises(MalformedMessage, match="smaller"):
        Join(replace(TERMS, minimum_subjects=17), GROUPS, ROWS, change=shrink).run()


def test_bits_for_cells_that_there_are_not_are_refused() -> None:
    for kind in ("decision", "joined share", "base share"):
        with pytest.raises(MalformedMessage, match="bits"):
            changed(kind, lambda message: message[:33] + bytes([message[33] | 0x80]) + message[34:]).run()


# --- order -----------------------------------------------------------------------------------------------------


def test_each_step_happens_once_and_in_its_order(honest: Join) -> None:
    join = Join(TERMS, GROUPS, ROWS)
    with pytest.raises(JoinOutOfOrder, match="register"):
        join.base.mask(honest.sent["rows"])
    with pytest.raises(JoinOutOfOrder):
        join.base.groups()
    with pytest.raises(JoinOutOfOrder, match="tax"):
        join.joined.tests(honest.sent["masked sums"])
    for again in (honest.base.groups, lambda: honest.joined.rows(honest.sent["groups"])):
        with pytest.raises(JoinOutOfOrder):
            again()


def test_after_an_error_nothing_is_answered() -> None:
    join = Join(TERMS, GROUPS, ROWS)
    groups = join.base.groups()
    with pytest.raises(MalformedMessage):
        join.joined.rows(groups[:-1])
    with pytest.raises(JoinOutOfOrder):
        join.joined.rows(groups)


def test_progress_counts_rows_and_may_end_the_work() -> None:
    join, seen = Join(replace(TERMS, joined_subjects=600), GROUPS, ROWS), list[tuple[int, int]]()
    rows = join.joined.rows(join.base.groups(), lambda done, total: seen.append((done, total)))
    assert seen == [(256, 600), (512, 600), (600, 600)]

    class StopIt(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopIt

    with pytest.raises(StopIt):
        join.base.mask(rows, stop)
    with pytest.raises(JoinOutOfOrder):
        join.base.test(b"")


# --- who is in it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "is_enough"), [(13, True), (14, False)])
def test_too_small_an_intersection_ends_the_join(least: int, is_enough: bool) -> None:
    join = Join(replace(TERMS, smallest_intersection=least), GROUPS, ROWS)  # 9 and 2 and 2 subjects are at both
    if is_enough:
        join.run()
        return
    with pytest.raises(IntersectionTooSmall, match="14"):
        join.run()
    with pytest.raises(JoinOutOfOrder):
        join.base.test(b"")


def test_an_empty_side_has_nothing_in_common() -> None:
    terms = replace(TERMS, smallest_intersection=1)
    for groups, rows in ((GROUPS, {}), ([[]] * 4, ROWS)):
        with pytest.raises(IntersectionTooSmall):
            Join(terms, groups, rows).run()


@pytest.mark.parametrize("groups", [[IDS[:2], IDS[1:3], [], []], [[IDS[0], IDS[0]], [], [], []]])
def test_an_identifier_twice_is_refused(groups: list[list[bytes]]) -> None:
    with pytest.raises(RepeatedIdentifier, match="register"):
        Join(TERMS, groups, ROWS)


@pytest.mark.parametrize(
    ("groups", "problem"),
    [(GROUPS[:3], "another number"), ([*GROUPS, []], "another number"), ([IDS[:61], [], [], []], "more subjects")],
)
def test_other_groups_than_announced_are_not_sent(groups: list[list[bytes]], problem: str) -> None:
    with pytest.raises(BadJoin, match=f"register has {problem}"):
        Join(TERMS, groups, ROWS)


def test_more_rows_than_announced_are_not_sent() -> None:
    with pytest.raises(BadJoin, match="tax has more subjects"):
        Join(TERMS, GROUPS, {identifier: [] for identifier in IDS[:21]})


# --- rows, terms, keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [[(0, (1, 1)), (0, (1, 1))], [(3, ())], [(-1, ())], [(0, (1,))], [(2, (1,))]],
    ids=["twice", "beyond", "before", "too few", "too many"],
)
def test_rows_that_fit_no_cell_are_refused(row: Row) -> None:
    with pytest.raises(MalformedMessage, match="rows to join"):
        Join(TERMS, GROUPS, {IDS[0]: row})


def test_sums_that_could_leave_their_widths_are_refused() -> None:
    cell = FieldShape(6, (4,))
    check_rows([cell], [[(0, (4,))], [(0, (-3,))]])
    with pytest.raises(SlotOverflow):
        check_rows([cell], [[(0, (4,))], [(0, (-4,))]])
    noisy = replace(cell, value_widths=(12,), noise=(16, 16))  # two tails of 160
    check_rows([noisy], [[(0, (2047 - 320,))]])
    with pytest.raises(SlotOverflow):
        check_rows([noisy], [[(0, (2048 - 320,))]])


@pytest.mark.parametrize(
    "change",
    [
        {"context": bytes(31)},
        {"joined": "register"},
        {"groupings": ()},
        {"groupings": (4, 0)},
        {"cells": ()},
        {"minimum_subjects": 0},
        {"base_subjects": 0},
        {"joined_subjects": 64, "base_subjects": 64},
        {"cells": (FieldShape(6, (1,)),)},
        {"cells": (FieldShape(9, (8,), noise=(16, 16)), FieldShape(9))},
        {"cells": (FieldShape(9, (8,), noise=(16,)),)},
        {"cells": (FieldShape(9, (8,), noise=(16, 15)),)},
        {"cells": (FieldShape(8, (8,), noise=(16, 16)),)},
    ],
    ids=str,
)
def test_terms_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadJoin):
        replace(TERMS, **change)


def test_more_tests_than_the_gate_can_make_are_refused() -> None:
    replace(TERMS, groupings=(400, 600), minimum_subjects=67)
    with pytest.raises(GateTooLarge):
        replace(TERMS, groupings=(400, 600), minimum_subjects=68)


def test_a_cell_that_fills_more_than_a_plaintext_is_refused() -> None:
    wide = terms_for(1, FieldShape(6, (1022 - 6 - 2 * 42,)))
    Join(wide, [[]], {})
    with pytest.raises(ValueOutOfRange):
        Join(terms_for(1, FieldShape(7, (1022 - 6 - 2 * 42,))), [[]], {})


@pytest.mark.parametrize("name", [field.name for field in fields(JoinTerms)])
def test_everything_is_in_the_digest(name: str) -> None:
    value = getattr(TERMS, name)
    other: Any = {
        "context": bytes([1]) * 32, "base": "firms", "joined": "patents", "hides_zeros": True,
        "cells": (SUMS, COUNT, SUMS), "groupings": (2, 2), "guards": (0,), "plans": (1, 2),
    }.get(name, value)  # fmt: skip
    if other == value:
        other = value + 1
    changed: dict[str, Any] = {name: other}
    assert replace(TERMS, **changed).digest() != TERMS.digest()
    assert replace(TERMS, **changed).hash_domain() != TERMS.hash_domain()


def test_digest_by_hand() -> None:
    def lengths_first(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    def numbers(*given: int) -> bytes:
        return lengths_first(*(number.to_bytes(8, "big") for number in given))

    terms = terms_for(5, FieldShape(9, (8, 7), noise=(16, 17, 18)), COUNT_AS_NOISY)
    parts = [
        b"ceiba/v1/join",
        bytes(32),
        b"register",
        b"tax",
        numbers(5),
        numbers(0, 3, 0, 0, 60, 20),
        numbers(),
        numbers(),
    ]
    cells = [numbers(9, 2, 8, 7, 3, 16, 17, 18, 0), numbers(10, 0, 1, 16, 0)]
    assert terms.digest() == hashlib.sha256(lengths_first(*parts, *cells)).digest()
    assert terms.hash_domain() == b"ceiba/v1/join" + terms.digest()


def test_widths_and_noise_are_in_the_digest() -> None:
    shapes = [FieldShape(12, (16, 17)), FieldShape(12, (17, 16)), FieldShape(13, (16, 17))]
    shapes += [FieldShape(12, (16, 17), noise=(16, 16, 16)), FieldShape(12, (16, 17), noise=(16, 16, 17))]
    assert len({terms_for(1, shape).digest() for shape in shapes}) == 5


def test_a_key_without_its_proof_is_no_key() -> None:
    proof = prove_key(PRIVATE, KEY_CONTEXT)
    with pytest.raises(BadKeyProof):
        ProvenKey(N, proof, bytes(32))
    with pytest.raises(BadKeyProof):
        ProvenKey(N, proof[:-1], KEY_CONTEXT)
    with pytest.raises(KeyTooShort), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ceiba_protocol.sums.paillier.MINIMUM_KEY_BITS", 3072)
        ProvenKey(N, proof, KEY_CONTEXT)


def test_what_was_made_ahead_is_used_and_must_be_for_the_key() -> None:
    obfuscators = FullObfuscators(N, seeded("ahead"))
    obfuscators.fill(3)
    encryptor = Encryptor.for_count(N, 20, seeded("ahead"))
    encryptor.pool.add(encryptor.obfuscators(15))
    base = BaseSide(TERMS, [GROUPS], proven(1024), os.urandom, obfuscators=obfuscators)
    joined = JoinedSide(TERMS, ROWS, PRIVATE, os.urandom, joiner_is_semi_honest=True, encryptor=encryptor)
    decision, share = joined.decide(base.test(joined.tests(base.mask(joined.rows(base.groups())))))
    assert merchant_open(TERMS, base.share(decision), share) == plain_join(TERMS, GROUPS, ROWS)
    assert len(obfuscators.pool) == len(encryptor.pool) == 0
    other = keypair(2048)[1]
    with pytest.raises(BadJoin, match="obfuscators of register"):
        BaseSide(TERMS, [GROUPS], proven(2048), os.urandom, obfuscators=obfuscators)
    with pytest.raises(BadJoin, match="encryptor of tax"):
        JoinedSide(TERMS, ROWS, other, os.urandom, joiner_is_semi_honest=True, encryptor=encryptor)


# --- order, cores ----------------------------------------------------------------------------------------------


def test_every_order_is_as_likely() -> None:
    random, seen = seeded("order"), dict[tuple[int, ...], int]()
    for _ in range(1200):
        order = tuple(random_order(random, 4))
        seen[order] = seen.get(order, 0) + 1
    assert all(sorted(order) == [0, 1, 2, 3] for order in seen)
    assert sum((seen.get(order, 0) - 50) ** 2 for order in permutations(range(4))) / 50 < 59  # 23 d.o.f.: once in 10^4
    assert random_order(random, 0) == []


def test_work_on_all_cores_keeps_its_order_and_its_errors() -> None:
    assert list(on_all_cores(lambda part: part * part, range(100))) == [part * part for part in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(on_all_cores(lambda part: 1 // part, [1, 0, 1]))


# --- the merchant ----------------------------------------------------------------------------------------------


ONE = terms_for(1, FieldShape(5, (8, 8)))


def opened(mask: tuple[int, int], share: tuple[int, int], bits: tuple[bool, bool] = (True, True)) -> object:
    shares = [
        write_share(ONE, holder, [bit], [fields])
        for holder, bit, fields in zip((ONE.base, ONE.joined), bits, (mask, share), strict=True)
    ]
    return merchant_open(ONE, *shares)


def test_merchant_takes_the_difference() -> None:
    assert opened((100, 1000), (104, 1000 - 3 + (5 << 8))) == [[(4, (-3, 5))]]
    assert opened((0, 0), (0, 0), (False, False)) == [[None]]


@pytest.mark.parametrize(
    ("count", "values", "problem"),
    [
        (1, 0, "too small"),
        (2, 0, "too small"),
        (21, 0, "beyond its public bound"),
        (-1, 0, "beyond its public bound"),
        (0, 1, "has a sum"),
        (3, 1 << 16, "canary"),
    ],
)
def test_merchant_refuses_figures_that_cannot_be(count: int, values: int, problem: str) -> None:
    with pytest.raises(TotalRejected, match=problem):
        opened((7, 9), (7 + count, 9 + values))


def test_merchant_refuses_holders_that_disagree() -> None:
    with pytest.raises(TotalRejected, match="different cells"):
        opened((7, 9), (11, 9), (True, False))


def test_merchant_refuses_figures_of_a_withheld_cell() -> None:
    base, joined = (write_share(ONE, holder, [False], [(7, 9)]) for holder in (ONE.base, ONE.joined))
    assert merchant_open(ONE, base, joined) == [[None]]
    with pytest.raises(TotalRejected, match="withheld"):
        merchant_open(ONE, base, joined[:-1] + b"\1")


def test_merchant_refuses_a_share_in_the_others_place(honest: Join) -> None:
    with pytest.raises(MalformedMessage):
        merchant_open(TERMS, honest.sent["joined share"], honest.sent["base share"])
