"""No released total is so much one subject's that it tells that subject's value: each holder's own word is enough."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ceiba_protocol.disclosure.dominance import cannot_dominate, dominates
from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.program import Load
from ceiba_protocol.schema import Grade
from tests.support.members import changed

INTERNAL = RULES[Grade.INTERNAL]
"""70 % for the largest, 85 % for the two largest."""


def rules(one: int, two: int, k: int = 5) -> Disclosure:
    return changed(INTERNAL, dominance_one=one, dominance_two=two, minimum_subjects=k)


percents = st.integers(1, 100)
all_rules = st.builds(rules, percents, percents, st.integers(1, 12))
amounts = st.integers(0, 40) | st.integers(0, 10**12)


def holds_in(contributions: list[int], agreed: Disclosure) -> bool:
    """The (n, K) rule for n = 1 and 2 on everybody's contributions, which nobody knows."""
    largest, total = sorted(contributions, reverse=True), sum(contributions)
    return 100 * largest[0] <= agreed.dominance_one * total and 100 * sum(largest[:2]) <= agreed.dominance_two * total


@pytest.mark.parametrize(
    ("largest", "total", "one", "two", "expected"),
    [
        (42, 100, 70, 85, False),  # half of 85 is less than 70
        (43, 100, 70, 85, True),
        (425, 1000, 70, 85, False),
        (426, 1000, 70, 85, True),
        (30, 100, 30, 100, False),
        (31, 100, 30, 100, True),
        (50, 100, 100, 100, False),
        (51, 100, 100, 100, True),  # two might make up all of it
        (0, 0, 70, 85, False),
        (7, 7, 70, 85, True),  # alone
        (3 * 10**30, 7 * 10**30, 70, 85, True),
    ],
)
def test_a_holder_compares_its_largest_with_its_own_total(
    largest: int, total: int, one: int, two: int, expected: bool
) -> None:
    assert dominates(largest, total, rules(one, two)) == expected


@given(st.lists(st.lists(amounts, min_size=1, max_size=6), min_size=1, max_size=5), all_rules)
def test_where_no_holder_objects_nobody_dominates(holders: list[list[int]], agreed: Disclosure) -> None:
    if not any(dominates(max(own), sum(own), agreed) for own in holders):
        assert holds_in([one for own in holders for one in own], agreed)


even = st.lists(st.integers(80, 120), min_size=4, max_size=6)


@given(st.lists(even, min_size=2, max_size=4), st.integers(30, 60), st.integers(50, 100))
def test_where_no_holder_objects_nobody_dominates_in_even_cells(holders: list[list[int]], one: int, two: int) -> None:
    """Mostly cells that pass, so that the property above is no empty one."""
    agreed = rules(one, two)
    assume(not any(dominates(max(own), sum(own), agreed) for own in holders))
    assert holds_in([part for own in holders for part in own], agreed)


@given(st.dictionaries(st.integers(0, 4), st.lists(amounts, min_size=3, max_size=3), min_size=2), all_rules)
def test_a_subject_at_several_holders_does_not_dominate_either(
    subjects: dict[int, list[int]], agreed: Disclosure
) -> None:
    """`subjects`: what each adds at each of three holders."""
    holders = list(zip(*subjects.values(), strict=True))
    if not any(dominates(max(own), sum(own), agreed) for own in holders):
        assert holds_in([sum(parts) for parts in subjects.values()], agreed)


@given(st.lists(amounts, min_size=1, max_size=6), all_rules)
def test_one_who_dominates_everywhere_is_objected_to(own: list[int], agreed: Disclosure) -> None:
    """A single holder sees the whole: where the rule fails, it says so."""
    if not holds_in(own, agreed):
        assert dominates(max(own), sum(own), agreed)


# --- bounds that exclude it --------------------------------------------------------------------------------------


def column(low: int, high: int) -> Load:
    return Load(low=low, high=high, nullable=False, name="x")


@pytest.mark.parametrize(
    ("low", "high", "k", "expected"),
    [
        (50, 50, 5, True),  # a fifth each
        (50, 200, 5, False),  # 200 of 400
        (60, 60, 2, False),  # half each: more than 42.5 %
        (50, 50, 3, True),  # a third each
        (100, 295, 5, True),  # 295 of 695 is 42.4 %
        (100, 296, 5, False),  # 296 of 696 is 42.53 %
        (-296, -100, 5, False),
        (-295, -100, 5, True),
        (0, 10, 1000, False),  # all others may add nothing
        (-10, 10, 1000, False),
        (1, 1, 1, False),  # one subject is all of it
    ],
)
def test_bounds_that_exclude_dominance(low: int, high: int, k: int, expected: bool) -> None:
    assert cannot_dominate(column(low, high), rules(70, 85, k)) == expected


@st.composite
def cells(draw: st.DrawFn) -> tuple[Load, Disclosure, list[int]]:
    """A column, rules, and what at least k subjects with one row each may add."""
    agreed = draw(all_rules)
    low = draw(st.integers(1, 100))
    high = draw(st.integers(low, 4 * low))
    sign = draw(st.sampled_from([1, -1]))
    values = draw(st.lists(st.integers(low, high) | st.sampled_from([low, high]), min_size=agreed.minimum_subjects))
    bounds = (low, high) if sign > 0 else (-high, -low)
    return column(*bounds), agreed, values


@given(cells())
@example((column(100, 295), rules(70, 85, 5), [295, 100, 100, 100, 100]))
@example((column(100, 295), rules(70, 85, 5), [295, 295, 100, 100, 100]))
def test_within_such_bounds_nobody_dominates(cell: tuple[Load, Disclosure, list[int]]) -> None:
    node, agreed, values = cell
    if cannot_dominate(node, agreed):
        assert holds_in(values, agreed)


@given(st.integers(1, 100), st.integers(0, 300), all_rules)
def test_whatever_the_bounds_exclude_a_holder_of_the_whole_would_not_object_to(
    low: int, wider: int, agreed: Disclosure
) -> None:
    """The worst of all cells: one at the upper bound, and no more others than must be, all at the lower."""
    worst = [low + wider] + [low] * (agreed.minimum_subjects - 1)
    assert cannot_dominate(column(low, low + wider), agreed) == (not dominates(max(worst), sum(worst), agreed))
