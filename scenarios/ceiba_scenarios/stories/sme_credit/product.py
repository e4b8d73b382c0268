"""The enterprise health index: which points a firm has for what each agency knows of it.

The points are made up: what a real index weighs is for those who sell it to say. They are whole, from 0 for what says
little good of a firm to about 10, and the best of everything adds up to 100. What is missing has none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import pandas

NUMBERS: dict[str, tuple[list[float], list[int]]] = {
    "employment": ([0.5, 2, 10], [0, 4, 8, 11]),
    "sales": ([50, 200, 1_000, 5_000], [0, 4, 8, 11, 13]),
    "capital": ([20, 100, 500], [0, 3, 6, 8]),
    "institutions": ([10, 30, 50, 70], [0, 4, 8, 10, 12]),
    "value": ([50, 200, 1_000, 5_000], [0, 5, 9, 12, 14]),
    "tobinq": ([0.8, 1.2, 2, 4], [0, 4, 8, 11, 9]),
    "patents": ([1, 5, 20], [0, 4, 7, 9]),
    "cites": ([1, 50], [0, 4, 7]),
    "randd": ([1, 50, 250], [0, 4, 7, 9]),
}
"""Column → edges of its bins, and the points of each."""
CATEGORIES: dict[str, Mapping[str, int]] = {"sp500": {"no": 0, "yes": 6}}


def points_of(rows: pandas.DataFrame, columns: tuple[str, ...]) -> list[int]:
    """A holder's part of the index of each of its firms, which it computes at home."""
    return [sum(_points(column, row[column]) for column in columns) for _, row in rows.iterrows()]


def _points(column: str, value: float | str) -> int:
    if column in CATEGORIES:
        return CATEGORIES[column][str(value)]
    edges, points = NUMBERS.get(column, ([], [0]))
    return points[bisect_right(edges, float(value))] if edges else 0
