"""Many sums of products of few columns, as matrices of covariances need: one matrix product, not thousands of sums.

Float64 holds integers up to 2^53, so a product of matrices of integers is exact while no sum can exceed that, in
whatever order it is added up; rows are read in parts that are small enough.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ceiba_protocol.plan import ROW_COUNT, Program
from ceiba_protocol.program import NULL, TRUE, Choose, Multiply, Node

FEWEST_SUMS = 200
"""Below it, sums by themselves are as fast."""
LARGEST = 2**53
FEWEST_ROWS = 1_000
"""Of a part; where values are so large that fewer would have to do, sums by themselves are used."""


@dataclass(frozen=True)
class Products:
    """Each sum of a program but the row count is Σ factors[i]·factors[j] over the rows where `condition` holds."""

    condition: Node
    factors: tuple[Node, ...]
    pairs: npt.NDArray[np.intp]
    """[sums, 2]"""
    rows: int
    """So many rows at a time give exact sums."""

    def sums(self, columns: npt.NDArray[np.float64]) -> list[int]:
        """Of one part: `columns` [rows, factors] are integers."""
        matrix = columns.T @ columns
        return [int(one) for one in matrix[self.pairs[:, 0], self.pairs[:, 1]]]


def products_of(program: Program, most_rows: int) -> Products | None:
    """The program's sums as products; None where they are none, or few."""
    if program.keys or len(program.sums) < FEWEST_SUMS or program.sums[ROW_COUNT].node != TRUE:
        return None
    places: dict[Node, int] = {TRUE: 0}
    pairs, condition = [], _condition(program.sums[-1].node)
    for one in program.sums[ROW_COUNT + 1 :]:
        node = one.node
        if _condition(node) is not condition and _condition(node) != condition:
            return None
        value = node.branches[0][1] if isinstance(node, Choose) else node
        left, right = (value.left, value.right) if isinstance(value, Multiply) else (value, TRUE)
        pairs.append([places.setdefault(side, len(places)) for side in (left, right)])
    if len(places) > len(pairs) // 2:
        return None
    largest = max(max(abs(factor.low), abs(factor.high)) for factor in places)
    rows = min(most_rows, LARGEST // max(1, largest**2))
    if rows < FEWEST_ROWS or any(factor.nullable and condition == TRUE for factor in places):
        return None
    return Products(condition, tuple(places), np.array(pairs, dtype=np.intp), rows)


def _condition(node: Node) -> Node:
    if isinstance(node, Choose) and len(node.branches) == 1 and node.otherwise == NULL:
        return node.branches[0][0]
    return TRUE
