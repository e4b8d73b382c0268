"""Several groupings of the base in one private join: a table for each, and no more known than of as many joins."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import BadJoin, IntersectionTooSmall, MalformedMessage, RepeatedIdentifier
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, Row
from ceiba_protocol.sums.paillier import ciphertext_bytes
from tests.support.joins import Join, plain_join, short_keys, terms_for

COUNT, SUMS = FieldShape(6), FieldShape(6, (12, 20))
IDS = [b"%d" % number for number in range(60)]
BY_REGION = [IDS[:20], IDS[20:30], []]
BY_SIZE = [IDS[5:40:2], IDS[6:40:2]]
"""The first five have none."""
GROUPS = [*BY_REGION, *BY_SIZE]
ROWS: dict[bytes, Row] = {identifier: [(0, (place, -place)), (1, ())] for place, identifier in enumerate(IDS[8:28])}
TERMS = terms_for((3, 2), SUMS, COUNT)
BOTH = [TERMS, replace(TERMS, one_row_for_all=True)]


@pytest.fixture(scope="module", autouse=True)
def _short_keys() -> Iterator[None]:
    with short_keys():
        yield


@st.composite
def tables(draw: st.DrawFn) -> tuple[JoinTerms, list[list[bytes]], dict[bytes, Row]]:
    """Up to three groupings of the same subjects, some of whom are in no group."""
    groupings = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
    groups = []
    for count in groupings:
        of_group = draw(st.lists(st.integers(-1, count - 1), max_size=40))
        groups += [[IDS[at] for at, group in enumerate(of_group) if group == wanted] for wanted in range(count)]
    rows: dict[bytes, Row] = {}
    for place in draw(st.lists(st.integers(0, 45), unique=True, max_size=20)):
        rows[IDS[place]] = [(0, (place - 20, 7 * place)), (1, ())][: draw(st.integers(0, 2))]
    terms = terms_for(groupings, SUMS, COUNT, hides_zeros=draw(st.booleans()))
    return replace(terms, one_row_for_all=draw(st.booleans())), groups, rows


@settings(max_examples=25, deadline=None)
@given(tables())
def test_every_grouping_equals_its_plain_join(case: tuple[JoinTerms, list[list[bytes]], dict[bytes, Row]]) -> None:
    assert Join(*case).run() == plain_join(*case)


@pytest.mark.parametrize("terms", BOTH, ids=["rows each", "one row"])
def test_no_point_comes_twice(terms: JoinTerms) -> None:
    """Though most subjects are in a group of either grouping, and every row is sent as often as the terms say."""
    join = Join(terms, GROUPS, ROWS)
    join.run("rows")
    room = terms.most_points
    assert room == 60 + 3 * 16 + 60 + 2 * 16
    points = [join.sent["groups"][at : at + 32] for at in range(32 + 5 * 4, len(join.sent["groups"]), 32)]
    times = room + 1 + 20 * terms.row_sets
    points += [join.sent["rows"][at : at + 32] for at in range(32, 32 + 32 * times, 32)]
    filling = 2 * (room - (32 + 16 + 16 + 32 + 32))
    assert len(points) == room + times and points.count(bytes(32)) == filling
    assert len(set(points)) == len(points) - filling + 1


@pytest.mark.parametrize(("terms", "times"), [(BOTH[0], 2), (BOTH[1], 1)], ids=["rows each", "one row"])
def test_rows_are_sent_once_for_each_grouping_or_once_for_all(terms: JoinTerms, times: int) -> None:
    join = Join(terms, GROUPS, ROWS)
    assert join.run() == plain_join(terms, GROUPS, ROWS)
    width = ciphertext_bytes(join.private_key.public_key.n)
    assert len(join.sent["rows"]) == 32 + (200 + 1) * 32 + times * 20 * (32 + width)
    rows = join.sent["rows"][-times * 20 * width :]
    assert len({rows[at : at + width] for at in range(0, len(rows), width)}) == times * 20


@pytest.mark.parametrize("terms", BOTH, ids=["rows each", "one row"])
def test_each_grouping_needs_enough_in_common(terms: JoinTerms) -> None:
    """By region all 20 of the joined holder's subjects have a group, by size the first has only five of them."""
    groups = [*BY_REGION, IDS[:12], IDS[12:13]]
    assert Join(replace(terms, smallest_intersection=5), groups, ROWS).run() == plain_join(terms, groups, ROWS)
    with pytest.raises(IntersectionTooSmall, match="6"):
        Join(replace(terms, smallest_intersection=6), groups, ROWS).run()


def test_an_identifier_is_once_in_a_grouping_and_may_be_in_every_one() -> None:
    Join(TERMS, [IDS[:2], IDS[2:3], [], IDS[:3], []], ROWS)
    with pytest.raises(RepeatedIdentifier):
        Join(TERMS, [IDS[:2], IDS[2:3], [], IDS[:3], IDS[2:4]], ROWS)


def test_no_grouping_has_more_subjects_or_other_groups_than_announced() -> None:
    terms = replace(TERMS, base_subjects=40)
    Join(terms, [IDS[:40], [], [], IDS[:40], []], ROWS)
    with pytest.raises(BadJoin, match="more subjects"):
        Join(terms, [IDS[:1], [], [], IDS[:41], []], ROWS)
    with pytest.raises(BadJoin, match="another number of groups"):
        Join(terms, GROUPS[:4], ROWS)


def test_points_beyond_what_one_grouping_may_have_are_refused() -> None:
    """Of 60 subjects a grouping of two groups has at most 92 points; this has 96, and the other one few."""
    sizes = b"".join(size.to_bytes(4, "big") for size in (16, 16, 16, 16, 80))

    def change(kind: str, message: bytes) -> bytes:
        return message[:32] + sizes + message[52:] if kind == "groups" else message

    with pytest.raises(MalformedMessage, match="more subjects than announced"):
        Join(TERMS, GROUPS, ROWS, change=change).run()


def test_how_groups_are_distributed_is_in_the_digest() -> None:
    terms = [terms_for(groupings, COUNT) for groupings in ((5,), (2, 3), (3, 2), (3, 1, 1))]
    assert len({one.digest() for one in [*terms, replace(terms[1], one_row_for_all=True)]}) == 5
