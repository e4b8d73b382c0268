"""Which cells of a table are withheld beside those that are too small, so that no total gives these away.

In every line of a table, along one key with the others held, the total may be known: of another table, of another job,
or to a holder. With one cell withheld in a line it is that total less the rest.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def released_with(are_large: Bools, likely: Integers, enough: int) -> Bools:
    """Which cells to release, of those that are large enough by themselves. All arrays have an axis for each key.

    In every line in which a cell is withheld and another is not, at least two are withheld, and one of these is large:
    so the others' sum leaves a sum over many. Of the cells that could be withheld it is the one with the fewest
    subjects, as far as `likely` can tell, among those with at least `enough` of them; else the one with the most. One
    that is certainly empty, −1, is none of these. That one is empty for another reason cannot be told where empty
    cells are shown; then it covers nothing.

    What a chain of lines together determines is not looked for, nor how narrowly a cell is bounded.
    """
    released, large, sizes = are_large.ravel().copy(), are_large.ravel(), likely.ravel()
    lines, again = list(_lines(are_large.shape)), True
    while again:
        again = False
        for line in lines:
            withheld = line[~released[line]]
            if len(withheld) in (0, len(line)) or (len(withheld) > 1 and large[withheld].any()):
                continue
            shown = line[released[line] & (sizes[line] >= 0)]
            if not len(shown):
                continue
            many = shown[sizes[shown] >= enough]
            chosen = many[np.argmin(sizes[many])] if len(many) else shown[np.argmax(sizes[shown])]
            released[chosen], again = False, True
    return released.reshape(are_large.shape)


def _lines(shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.intp]]:
    """The places of the cells of every line, in a table that is laid out row after row."""
    places = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.intp).reshape(shape)
    for axis, length in enumerate(shape):
        if length > 1:
            yield from np.moveaxis(places, axis, -1).reshape(-1, length)
