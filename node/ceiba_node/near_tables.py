"""Tables about nearly the same subjects: which of their cells are withheld in exact joint answers (PROTOCOL §3.5).

What one table leaves of another is released with the two, so it must be about nobody, or about many. Each holder looks
at its own subjects alone, in the tables of a job and of those before it: whoever is few here is not more in what is in
common. What differs by many here may differ by few there; against that stands what `one_population` demands.
"""

from collections.abc import Iterable, Sequence

from pyroaring import BitMap


def near_cells(tables: Sequence[Sequence[BitMap]], least: int) -> set[int]:
    """Which cells to withhold, numbered table after table. `tables`: for each, who is in each of its cells; fewer than
    `least` are few.

    1. A cell that differs by few from one of an earlier table, or from what all of that add up to. 2. One cell of a
    table that adds up to nearly the same as an earlier one. That no total gives a small cell away, the gate sees to
    (`linkage.suppression`).
    """
    withheld, shown, first = set[int](), list[BitMap](), 0
    for cells in tables:
        large = [place for place, members in enumerate(cells) if len(members) >= least]
        own = {place for place in large if _is_near(cells[place], shown, least)}
        left = sorted((place for place in large if place not in own), key=lambda place: len(cells[place]))
        whole = _union(cells)
        if left and _union(cells[place] for place in left) == whole and _is_near(whole, shown, least):
            own.add(left.pop(0))
        shown += [whole, *(cells[place] for place in left)]
        withheld |= {first + place for place in own}
        first += len(cells)
    return withheld


def _is_near(members: BitMap, shown: Iterable[BitMap], least: int) -> bool:
    """Whether it differs from one of these, and by few."""
    size = len(members)
    close = (one for one in shown if abs(len(one) - size) < least)
    return any(0 < members.symmetric_difference_cardinality(one) < least for one in close)


def _union(cells: Iterable[BitMap]) -> BitMap:
    return BitMap.union(BitMap(), *cells)
