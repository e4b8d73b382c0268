"""The table of coefficients that every model's summary has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ceiba.extras import stats


def coefficient_titles(df: int | None = None, level: float = 0.95) -> tuple[str, ...]:
    """Of the columns of `coefficient_rows`."""
    letter = "z" if df is None else "t"
    ends = f"[{(1 - level) / 2:.4g}", f"{(1 + level) / 2:.4g}]"
    return "", "coef", "std err", letter, f"P>|{letter}|", *ends


def coefficient_rows(
    names: Sequence[str],
    coefficients: Sequence[float],
    errors: Sequence[float],
    df: int | None = None,
    level: float = 0.95,
) -> list[tuple[Any, ...]]:
    """Name, coefficient, standard error, Wald statistic, two-sided p, and the interval at `level`. With `df` degrees of
    freedom by Student's t; else by the normal distribution. Raises MissingExtra without scipy."""
    laws = stats("A model's summary")
    law = laws.norm if df is None else laws.t(df)
    reach = float(law.ppf((1 + level) / 2))
    rows = []
    for name, value, error in zip(names, coefficients, errors, strict=True):
        ratio = value / error if error else float("nan")
        p = float(2 * law.sf(abs(ratio)))
        rows.append((name, value, error, ratio, p, value - reach * error, value + reach * error))
    return rows
