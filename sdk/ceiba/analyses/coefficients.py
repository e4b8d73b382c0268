"""The table of coefficients that every model's summary has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ceiba_protocol.errors import MissingExtra


def require_scipy(feature: str) -> Any:
    """`scipy.stats`. Raises MissingExtra."""
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtra(feature=feature, package="scipy") from None
    return stats


def coefficient_rows(
    names: Sequence[str], coefficients: Sequence[float], errors: Sequence[float], df: int | None = None
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Titles and rows: name, coefficient, standard error, Wald statistic, p, 95 % interval. With `df`, by Student's t;
    else by the normal distribution."""
    stats = require_scipy("A model's summary")
    law = stats.norm if df is None else stats.t(df)
    quantile, letter = float(law.ppf(0.975)), "z" if df is None else "t"
    rows = []
    for name, value, error in zip(names, coefficients, errors, strict=True):
        ratio = value / error if error else float("nan")
        rows.append((name, value, error, ratio, float(2 * law.sf(abs(ratio))), value - quantile * error,
                     value + quantile * error))  # fmt: skip
    return ("", "coef", "std err", letter, f"P>|{letter}|", "[0.025", "0.975]"), rows
