"""Tables of one joint job that are about nearly the same subjects: which of their cells are withheld (PROTOCOL §3.5).

What one table leaves of another is released with the two, so it must be about nobody, or about many. Each holder looks
at its own subjects alone: whoever is few here is not more in what is in common. What differs by many here may differ
by few there, and answers of other jobs are not looked at: nobody could.
"""

from collections.abc import Iterable, Sequence

from pyroaring import BitMap


def near_cells(tables: Sequence[Sequence[BitMap]], least: int) -> set[int]:
    """Which cells to withhold, numbered table after table. `tables`: for each, who is in each of its cells; fewer than
    `least` are few.

    1. A cell that differs by few from one of an earlier table, or from what all of that add up to. 2. One more cell of
    a table in which few are in cells that are too small, because the others' sum is the total of another table less
    these; and of one that adds up to nearly the same as an earlier one. Nothing of a job with one table.
    """
    withheld, shown, first = set[int](), list[BitMap](), 0
    for cells in tables if len(tables) > 1 else ():
        large = [place for place, members in enumerate(cells) if len(members) >= least]
        own = {place for place in large if _is_near(cells[place], shown, least)}
        left = sorted((place for place in large if place not in own), key=lambda place: len(cells[place]))
        whole = _union(cells)
        rest = len(whole - _union(cells[place] for place in left))
        if left and (0 < rest < least or (not rest and _is_near(whole, shown, least))):
            own.add(left.pop(0))
        shown += [whole, *(cells[place] for place in left)]
        withheld |= {first + place for place in own}
        first += len(cells)
    return withheld


def members_of(rows: Iterable[Iterable[int]], sizes: Sequence[int]) -> list[list[BitMap]]:
    """For each table of so many cells, who is in each cell; of each subject the cells that it is in, numbered table
    after table. Numbers beyond the last table's count for nothing."""
    flat = [BitMap() for _ in range(sum(sizes))]
    for subject, cells in enumerate(rows):
        for cell in cells:
            if cell < len(flat):
                flat[cell].add(subject)
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return [flat[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _is_near(members: BitMap, shown: Iterable[BitMap], least: int) -> bool:
    """Whether it differs from one of these, and by few."""
    size = len(members)
    close = (one for one in shown if abs(len(one) - size) < least)
    return any(0 < members.symmetric_difference_cardinality(one) < least for one in close)


def _union(cells: Iterable[BitMap]) -> BitMap:
    return BitMap.union(BitMap(), *cells)
