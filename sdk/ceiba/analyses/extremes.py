"""Why there is no minimum and no maximum, and what there is instead: the words, in one place for Python and SQL."""

from __future__ import annotations

from typing import NoReturn

from ceiba_protocol.errors import BadQuestion

EXTREME_PROBLEM = "the smallest or largest value of a column is the value of a single person"
EXTREME_HINT = (
    "Extremes are not computed. Ask for quantiles, heart.quantiles('age', q=(0.01, 0.99)), or for the whole "
    "distribution: use HISTOGRAM(x, low, high, bins)."
)
NO_EXTREMES = f"It would be the value of a single person. {EXTREME_HINT}"
"""What SQL says of MIN and MAX."""


def refuse_extreme(*_arguments: object, **_options: object) -> NoReturn:
    """There is no minimum and no maximum: each is the value of a single person. Raises BadQuestion, which says what to
    ask instead."""
    raise BadQuestion(problem=EXTREME_PROBLEM, hint=EXTREME_HINT)
