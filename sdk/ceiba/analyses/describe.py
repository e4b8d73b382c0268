"""The first table of a paper: how many values, their means and spreads, and how frequent each category is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from ceiba.analyses.anova import one_way
from ceiba.analyses.cells import (
    Group,
    Key,
    Labels,
    Values,
    ask,
    cells,
    group,
    is_withheld,
    labels_of,
    moments,
    require_ungrouped,
    sample,
    standing_notes,
)
from ceiba.analyses.crosstab import chi_square
from ceiba.analyses.t_test import welch
from ceiba.analysis import Analysis, Outcome
from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.summary import TablePart, p_text
from ceiba.terms import Term, case, col, grouping
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.schema import NUMERIC, Column, ColumnType
from ceiba_protocol.statistics import Statistic, Withheld

Count = int | float | Withheld
"""Rows; a number with decimals only with noise."""


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers, in each group."""

    name: str
    unit: str
    groups: tuple[Group, ...]
    """One for each group, or the only one."""
    p: float | None
    """Of Welch's t-test with two groups, of the analysis of variance with more."""
    difference: float | None
    """With two groups, how far apart the means are in standard deviations: |m₁ − m₂| / √((s₁² + s₂²)/2)."""


@dataclass(frozen=True)
class CategoryColumn:
    """A column with a declared domain, in each group."""

    name: str
    labels: Labels
    counts: tuple[tuple[Count, ...], ...]
    """[groups][labels] rows."""
    p: float | None
    """Of Pearson's χ² of independence from the groups."""
    difference: float | None
    """With two groups, the standardised difference of the shares, √((p₁−p₂)ᵀ S⁻¹ (p₁−p₂)) with S the mean of both
    covariance matrices (Yang and Dalton 2012, SAS Global Forum 335)."""


@dataclass(frozen=True, repr=False)
class Description(Outcome):
    """Columns described, in each group if there are groups. Withheld figures are WITHHELD, and nothing is computed from
    them."""

    key: str | None
    """The name of the key that makes the groups."""
    labels: Labels
    """The groups that have rows; without groups, the only one is called "all"."""
    rows: tuple[Count, ...]
    """In each group."""
    numbers: tuple[NumericColumn, ...]
    categories: tuple[CategoryColumn, ...]

    title = "Description"

    def parts(self) -> Sequence[TablePart]:
        """With groups, the table of a paper: mean (sd) and n (%), p and the standardised difference. Without, two
        tables of plain numbers."""
        if self.key is not None:
            heads = [f"{self.key} = {label} (n = {rows})" for label, rows in zip(self.labels, self.rows, strict=True)]
            return [TablePart("Table 1", ("", *heads, "p", "SMD"), list(self._table_one()))]
        head, rows = ("column", "n", "missing", "mean", "sd", "unit"), self.rows[0] if self.rows else 0
        numbers = [_numeric_row(one, rows) for one in self.numbers]
        categories = [row for one in self.categories for row in _category_rows(one, rows)]
        titles = ("column", "value", "count", "%")
        return [TablePart("Numbers", head, numbers), TablePart("Categories", titles, categories)]

    def _table_one(self) -> Iterator[tuple[Any, ...]]:
        for one in self.numbers:
            unit = f" ({one.unit})" if one.unit else ""
            yield f"{one.name}{unit}", *(_mean_and_sd(each) for each in one.groups), _p(one.p), _rounded(one.difference)
            missing = [_less(rows, each.n) for rows, each in zip(self.rows, one.groups, strict=True)]
            if any(missing):
                yield f"  {one.name} missing", *missing, "", ""
        for category in self.categories:
            yield category.name, *("" for _ in self.labels), _p(category.p), _rounded(category.difference)
            for place, label in enumerate(category.labels):
                yield f"  {label}", *(_count_and_share(counts, place) for counts in category.counts), "", ""

    def notes(self) -> list[str]:
        """How the groups are compared, and why something is missing."""
        own = [value for one in self.numbers for each in one.groups for value in each.row[1:]]
        own += [count for one in self.categories for counts in one.counts for count in counts]
        notes = standing_notes(self.result, is_withheld(*self.rows, *own))
        if self.key is not None:
            tests = "Welch's t-test" if len(self.labels) == 2 else "analysis of variance"
            notes.insert(0, f"Numbers: mean (sd), {tests}. Categories: n (% of those present), Pearson's χ².")
        return notes


def _numeric_row(one: NumericColumn, rows: Count) -> tuple[Any, ...]:
    label_n_mean_sd = one.groups[0].row if one.groups else ("all", 0, None, None)
    return one.name, label_n_mean_sd[1], _less(rows, label_n_mean_sd[1]), *label_n_mean_sd[2:], one.unit


def _category_rows(one: CategoryColumn, rows: Count) -> Iterator[tuple[Any, ...]]:
    counts = one.counts[0] if one.counts else tuple(0 for _ in one.labels)
    whole = _whole(counts)
    for label, count in zip(one.labels, counts, strict=True):
        share = None if whole is None or isinstance(count, Withheld) else 100 * count / whole
        yield one.name, str(label), count, share
    yield one.name, "missing", _less(rows, sum(counts) if not is_withheld(*counts) else counts[0]), None  # type: ignore[arg-type]


def _whole(counts: Sequence[Count]) -> float | None:
    """All of them; None if one was withheld, or there are none."""
    whole = sum(count for count in counts if not isinstance(count, Withheld))
    return None if is_withheld(*counts) or whole <= 0 else whole


def _less(rows: Count, present: Count) -> Count:
    if isinstance(rows, Withheld) or isinstance(present, Withheld):
        return rows if isinstance(rows, Withheld) else present
    return rows - present


def _mean_and_sd(one: Group) -> Any:
    if isinstance(one.mean, int | float) and isinstance(one.sd, int | float):
        return f"{one.mean:.1f} ({one.sd:.1f})"
    return one.mean


def _count_and_share(counts: Sequence[Count], place: int) -> Any:
    whole, count = _whole(counts), counts[place]
    return count if whole is None or isinstance(count, Withheld) else f"{count} ({100 * count / whole:.1f} %)"


def _p(p: float | None) -> str:
    return "" if p is None else p_text(p)


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


# --- the question -----------------------------------------------------------------------------------------------


def describe(table: Table, columns: Sequence[str] | None = None, by: Key | None = None) -> Analysis[Description]:
    """All columns that can be described, or those named; in each group of a key. Raises BadQuestion."""
    require_ungrouped(table, "describe")
    keys = [] if by is None else [by]
    left_out = {grouping(key).key.name for key in keys}
    columns = [columns] if isinstance(columns, str) else columns
    chosen = [table.schema.column(name) for name in columns] if columns is not None else list(table.schema.columns)
    if columns is None:
        chosen = [column for column in chosen if _can_be_described(column) and column.name not in left_out]
    for column in chosen:
        if not _can_be_described(column):
            hint = "Leave it out, or ask the holders to declare its bounds or its values in the schema."
            raise BadQuestion(problem=f"{column.name} has neither declared bounds nor a domain to describe", hint=hint)
    outputs = {"rows": statistic("count")()}
    for column in chosen:
        outputs |= {f"{column.name}_{suffix}": output for suffix, output in _outputs(column).items()}
    query = ask(table, keys, outputs)
    return Analysis(query, partial(_finish, query, tuple(chosen)))


def _can_be_described(column: Column) -> bool:
    return column.codes is not None or (column.type in NUMERIC and column.range is not None)


def _outputs(column: Column) -> Mapping[str, Statistic]:
    """Of a column with a domain the count of each value, otherwise count, mean and variance."""
    if column.codes is None:
        return moments(column.name)
    count = statistic("count")
    return {str(place): count(case((_is(column, place), 1))) for place in range(len(column.codes))}


def _is(column: Column, place: int) -> Term:
    term = col(column.name)
    if column.type is ColumnType.BOOL:
        return term if place else ~term
    label = column.domain_labels[place]
    return term == (Decimal(label) if column.type in NUMERIC else label)


# --- the numbers ------------------------------------------------------------------------------------------------


def _finish(query: Query, columns: Sequence[Column], result: Result) -> Description:
    keys = query.asked.groups
    released = cells(result, len(keys))
    labels = [label for label in (labels_of(query, 0) if keys else ["all"]) if ((label,) if keys else ()) in released]
    answers = [released[(label,) if keys else ()] for label in labels]
    compare = result.noise is None and len(labels) > 1
    numbers, categories, place = [], [], 1
    for column in columns:
        width = 3 if column.codes is None else len(column.codes)
        own = [values[place : place + width] for values in answers]
        if column.codes is None:
            numbers.append(_numeric(column, labels, own, compare))
        else:
            categories.append(_category(column, own, compare))
        place += width
    rows = tuple(values[0] for values in answers)
    return Description(result, keys[0].name if keys else None, tuple(labels), rows, tuple(numbers), tuple(categories))


def _numeric(column: Column, labels: Sequence[Any], answers: Sequence[Values], compare: bool) -> NumericColumn:
    groups = tuple(group(label, values) for label, values in zip(labels, answers, strict=True))
    samples = [one for each in groups if (one := sample(each)) is not None]
    p = difference = None
    if compare and len(samples) == len(groups):
        if len(samples) == 2:
            p = welch(*samples)
            spread = sqrt((samples[0].variance + samples[1].variance) / 2)
            difference = abs(samples[0].mean - samples[1].mean) / spread if spread else None
        else:
            p = next((effect.p for effect in one_way(column.name, samples)), None)
    return NumericColumn(column.name, column.unit, groups, p, difference)


def _category(column: Column, answers: Sequence[Values], compare: bool) -> CategoryColumn:
    p = difference = None
    if compare and not any(is_withheld(*counts) for counts in answers):
        table = np.array(answers, dtype=np.float64)
        test = chi_square(table)
        p = None if test is None else test.p
        difference = _distance(table) if len(table) == 2 and table.sum(1).all() else None
    return CategoryColumn(column.name, column.domain_labels, tuple(map(tuple, answers)), p, difference)


def _distance(counts: Any) -> float:
    """The standardised difference of two rows of counts, over all values but the first, which the others imply."""
    shares = (counts / counts.sum(1, keepdims=True))[:, counts.sum(0) > 0][:, 1:]
    covariances = [np.diag(p) - np.outer(p, p) for p in shares]
    apart = shares[0] - shares[1]
    return float(sqrt(max(0.0, apart @ np.linalg.pinv((covariances[0] + covariances[1]) / 2) @ apart)))
