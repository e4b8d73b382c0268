"""Which cells of a job's tables are withheld, because what one table leaves of another would be few."""

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from ceiba_node.near_tables import near_cells

LEAST = 5


def table(*cells: range) -> list[BitMap]:
    return [BitMap(cell) for cell in cells]


EVERYBODY, HALVES = table(range(40)), table(range(20), range(20, 40))


def test_one_table_leaves_nothing_of_another() -> None:
    assert near_cells([table(range(39), range(39, 40))], LEAST) == set()


def test_tables_of_the_same_or_of_many_others_are_released() -> None:
    assert near_cells([EVERYBODY, HALVES, EVERYBODY, table(range(35), range(35, 40))], LEAST) == set()
    assert near_cells([EVERYBODY, table(range(35))], LEAST) == set()


def test_what_differs_by_few_is_withheld_the_second_time() -> None:
    assert near_cells([EVERYBODY, table(range(39))], LEAST) == {1}
    assert near_cells([EVERYBODY, table(range(36))], LEAST) == {1}
    assert near_cells([HALVES, table(range(1, 21), range(21, 40))], LEAST) == {2, 3}


def test_totals_that_differ_by_few_are_broken_up() -> None:
    assert near_cells([EVERYBODY, table(range(10), range(10, 38))], LEAST) == {1}
    assert near_cells([HALVES, table(range(10), range(10, 38))], LEAST) == {2}


@given(st.lists(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=4), max_size=4), st.integers(1, 6))
def test_no_two_cells_that_are_released_differ_by_few(tables: list[list[set[int]]], least: int) -> None:
    withheld = near_cells([[BitMap(cell) for cell in cells] for cells in tables], least)
    released, first = [], 0
    for number, cells in enumerate(tables):
        large = [(place, cell) for place, cell in enumerate(cells, first) if len(cell) >= least]
        released += [(number, cell) for place, cell in large if place not in withheld]
        first += len(cells)
    for number, cell in released:
        for other, another in released:
            assert number == other or not 0 < len(cell ^ another) < least
