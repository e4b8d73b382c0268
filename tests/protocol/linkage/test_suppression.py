"""Which cells are withheld beside those that are too small (`linkage.suppression`)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ceiba_protocol.linkage.suppression import Bools, Integers, released_with


def released(rows: list[list[int]], least: int = 3) -> list[list[int]]:
    """1 for what is released of a table with these counts."""
    counts = np.array(rows)
    return released_with(counts >= least, counts, enough=least).astype(int).tolist()


def test_what_is_large_throughout_is_released() -> None:
    assert released([[3, 9], [4, 5]]) == [[1, 1], [1, 1]]
    assert released([[7]]) == [[1]] and released([[2]]) == [[0]]
    assert released_with(np.array(True), np.array(9), 3).tolist() is True


def test_a_small_cell_takes_the_smallest_large_one_of_its_lines() -> None:
    assert released([[2, 9, 5, 7]]) == [[0, 1, 0, 1]]
    assert released([[2], [9], [5]]) == [[0], [1], [0]]
    # (0, 0) takes (0, 2) and (1, 0); these would be alone in their lines but for (1, 2)
    assert released([[2, 9, 5], [6, 9, 8], [9, 9, 9]]) == [[0, 1, 0], [0, 1, 0], [1, 1, 1]]


def test_two_small_cells_need_a_large_one_as_well() -> None:
    """The total less the rest would be the sum of two firms."""
    assert released([[1, 1, 9, 5]]) == [[0, 0, 1, 0]]
    assert released([[1, 1, 1]]) == [[0, 0, 0]]


def test_without_a_likely_one_it_is_the_largest_but_none_that_is_empty() -> None:
    assert released_with(np.array([False, True, True]), np.array([0, 1, 2]), 3).tolist() == [False, True, False]
    assert released_with(np.array([False, True]), np.array([0, -1]), 3).tolist() == [False, True]


SIZES = st.integers(0, 30)
TABLES = st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(
    lambda shape: st.tuples(arrays.arrays(bool, tuple(shape)), arrays.arrays(np.int64, tuple(shape), elements=SIZES))
)


@given(TABLES)
def test_no_line_gives_a_small_cell_away(table: tuple[Bools, Integers]) -> None:
    """By the lines' totals alone, no withheld cell, and no sum of small ones alone, can be computed along a line."""
    large, likely = table
    found = released_with(large, likely, 5)
    assert not (found & ~large).any()
    for axis, length in enumerate(large.shape):
        lines, own = (np.moveaxis(one, axis, -1).reshape(-1, length) for one in (found, large))
        for released_here, large_here in zip(lines, own, strict=True):
            withheld = ~released_here
            is_safe = withheld.sum() > 1 and large_here[withheld].any()
            assert is_safe or not withheld.any() or withheld.all()


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 2)])
def test_a_table_of_zeros_is_withheld_as_it_is(shape: tuple[int, ...]) -> None:
    assert not released_with(np.zeros(shape, bool), np.zeros(shape, np.int64), 5).any()
