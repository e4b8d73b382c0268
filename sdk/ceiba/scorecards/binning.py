"""Bins of a feature: public edges or groups of categories, the same for holders, for fits and for scoring.

Edges come from the schema and from counts, never from single values: fine bins between declared bounds first, then
coarse ones made of them (`ceiba.scorecards.coarse`). The last bin is always the one of missing values, because a
subject that a holder does not know scores as one of whom everything is missing (PROTOCOL §5.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from ceiba.terms import Grouping, Scalar, Term, built, case, column_or_term, literal, plan_name
from ceiba_protocol.canonical import Document, FieldName, Text
from ceiba_protocol.errors import BadQuestion, UnboundedColumn, UnknownCategory
from ceiba_protocol.expression import ColumnValue, Expression, Number, TruthValue, to_text
from ceiba_protocol.schema import NUMERIC, PLAIN_DECIMAL, Column, ColumnType, Schema, nearest

if TYPE_CHECKING:
    import pandas

MAX_BINS = 100
MISSING = "missing"
Places = npt.NDArray[np.int64]


def _plain_decimal(text: str) -> str:
    if len(text) > 90 or not PLAIN_DECIMAL.fullmatch(text):
        raise ValueError("an edge is a plain decimal number")
    return text


Edge = Annotated[str, AfterValidator(_plain_decimal)]


class Binning(Document):
    """Bins of one feature: `edges` of a number, or `groups` of categories; behind them the bin of missing values."""

    name: FieldName
    """The feature's name: a column of a question's result, and of rows of one's own."""
    value: Expression
    """What holders compute on a row; mostly the column itself."""
    table: Text = ""
    """Whose table the feature is in, where that is of use."""
    edges: tuple[Edge, ...] = ()
    """Rising. A number belongs to the bin that it is the lower end of; the first and the last bin are open."""
    groups: tuple[tuple[Text, ...], ...] = Field(default=(), max_length=MAX_BINS)
    """Categories, or `false` and `true`; each in one group."""
    truth: bool = False
    """Whether the groups are those of a truth value."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.edges and self.groups:
            raise ValueError("a feature has edges or groups, not both")
        if len(self.edges) >= MAX_BINS:
            raise ValueError(f"more than {MAX_BINS} bins")
        if any(low >= high for low, high in zip(self.cuts, self.cuts[1:], strict=False)):
            raise ValueError("the edges do not rise")
        members = [member for group in self.groups for member in group]
        if len(set(members)) < len(members) or not all(self.groups):
            raise ValueError("a category is in two groups, or a group has none")
        return self

    # --- making one

    @classmethod
    def at(cls, value: str | Term, edges: Sequence[Scalar], *, name: str = "", table: str = "") -> Binning:
        """Bins of a number between edges of your own: `Binning.at("age", [25, 35, 50])` has four, and one for missing
        values. A computed feature needs a name. Raises BadQuestion.
        """
        term = column_or_term(value)
        numbers = [literal(edge) for edge in edges]
        if not all(isinstance(number, Number) for number in numbers):
            raise BadQuestion(problem="an edge is no number", hint="Give the edges as rising numbers.")
        texts = tuple(number.value for number in numbers if isinstance(number, Number))
        return built(cls, name=name or _name_of(term), value=term.expression, table=table, edges=texts)

    @classmethod
    def equal(
        cls, schema: Schema, column: str, count: int = 20, *, low: Scalar | None = None, high: Scalar | None = None
    ) -> Binning:
        """`count` bins of one width between the column's declared bounds, or `low` and `high`.

        Raises BadQuestion, UnboundedColumn, UnknownColumn.
        """
        found, start, end = _range_of(schema, column, count, low, high)
        width = (end - start) / count
        return _rounded(schema, found, [start + place * width for place in range(1, count)])

    @classmethod
    def geometric(
        cls, schema: Schema, column: str, count: int = 20, *, low: Scalar | None = None, high: Scalar | None = None
    ) -> Binning:
        """Bins whose ends grow by one factor, for amounts of which few are large: `count` between `low` (above 0) and
        `high`, by default the declared bounds, and one below `low`.

        Raises BadQuestion, UnboundedColumn, UnknownColumn.
        """
        found, start, end = _range_of(schema, column, count, low, high)
        if start <= 0:
            hint = "Give `low`: the smallest amount that matters, above 0."
            raise BadQuestion(problem=f"the bins of {column} cannot grow from {start}", hint=hint)
        factor = float(end / start) ** (1 / count)
        return _rounded(schema, found, [Fraction(float(start) * factor**place) for place in range(count)])

    @classmethod
    def categories(cls, schema: Schema, column: str, groups: Sequence[Sequence[str]] = ()) -> Binning:
        """A bin for each category (or truth value) of the declared domain, or for each of `groups` of them.

        Raises BadQuestion, UnknownCategory, UnknownColumn.
        """
        found = schema.column(column)
        if found.type not in (ColumnType.CATEGORY, ColumnType.BOOL):
            raise BadQuestion(problem=f"{column} has no categories", hint="Use Binning.equal() or Binning.at().")
        labels = found.domain_labels
        for one in (one for group in groups for one in group if one not in labels):
            raise UnknownCategory(value=one, column=column, nearest=nearest(one, labels))
        made = tuple(map(tuple, groups)) if groups else tuple((label,) for label in labels)
        left_out = set(labels) - {one for group in made for one in group}
        if left_out:
            problem = f"the groups leave out {', '.join(sorted(left_out))}"
            raise BadQuestion(problem=problem, hint="Put every category of the domain into a group.")
        value, truth = ColumnValue(name=column), found.type is ColumnType.BOOL
        return built(cls, name=column, value=value, table=schema.table, groups=made, truth=truth)

    def merged(self, groups: Sequence[Sequence[int]]) -> Binning:
        """Coarser bins: `groups` has the place of each bin but the last, neighbouring ones together if these are
        numbers. Raises BadQuestion."""
        places = [place for group in groups for place in group]
        if sorted(places) != list(range(self.missing)) or not all(groups):
            hint = "Name each place but the last, the one of missing values, once."
            raise BadQuestion(problem=f"these are not all bins of {self.name}", hint=hint)
        if self.groups:
            joined = tuple(tuple(one for place in group for one in self.groups[place]) for group in groups)
            return self.model_copy(update={"groups": joined})
        if places != sorted(places):
            raise BadQuestion(problem=f"bins of {self.name} that are no neighbours were joined", hint="Keep the order.")
        return self.model_copy(update={"edges": tuple(self.edges[group[0] - 1] for group in groups[1:])})

    # --- what it is

    @cached_property
    def cuts(self) -> tuple[Fraction, ...]:
        """The edges as numbers."""
        return tuple(map(Fraction, self.edges))

    @property
    def missing(self) -> int:
        """The place of the bin of missing values: the last."""
        return len(self.groups) or len(self.edges) + 1

    @property
    def count(self) -> int:
        """How many bins there are, with the one of missing values."""
        return self.missing + 1

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The bins' names: `< 25`, `[25, 35)`, `>= 35`, or the categories of each; then the one of missing values."""
        if self.groups:
            names = [", ".join(group) for group in self.groups]
        elif self.edges:
            inner = [f"[{low}, {high})" for low, high in zip(self.edges, self.edges[1:], strict=False)]
            names = [f"< {self.edges[0]}", *inner, f">= {self.edges[-1]}"]
        else:
            names = ["any"]
        return (*names, MISSING if MISSING not in names else f"({MISSING})")

    def group_key(self, name: str = "") -> Grouping:
        """The bins as a question's groups, called by their labels: `table.group_by(binning.group_key(), ...)`."""
        *named, missing = self.labels
        return case(*zip(self.tests(), named, strict=True), otherwise=missing).alias(name or self.name)

    def tests(self) -> list[Term]:
        """A condition for each bin but the last; the first that holds names the bin."""
        value = Term(self.value)
        if self.groups:
            return [value.isin([one == "true" for one in group] if self.truth else group) for group in self.groups]
        return [*(value < Decimal(edge) for edge in self.edges), value.notnull()]

    def places(self, frame: pandas.DataFrame) -> Places:
        """int64 [rows]: in which bin each row of one's own is, by the column that has the feature's name.

        Numbers are taken as they are. Raises BadQuestion for a column that is not there or not numeric,
        UnknownCategory.
        """
        import pandas

        if self.name not in frame.columns:
            names = nearest(self.name, map(str, frame.columns))
            problem = f"the data frame has no column {self.name}; the nearest is {names}"
            raise BadQuestion(problem=problem, hint="Add it; a computed feature is a column of its own.")
        series = frame[self.name]
        if self.groups:
            return self._places_of_categories(series)
        try:
            numbers = pandas.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError):
            hint = "Convert it first, with pandas.to_numeric."
            raise BadQuestion(problem=f"{self.name} of the data frame is not numeric", hint=hint) from None
        found = np.searchsorted([float(cut) for cut in self.cuts], numbers, side="right")
        return np.where(np.isnan(numbers), self.missing, found).astype(np.int64)

    def _places_of_categories(self, series: pandas.Series) -> Places:
        import pandas

        known = {one: place for place, group in enumerate(self.groups) for one in group}
        places = []
        for value in series:
            if pandas.isna(value):
                places.append(self.missing)
                continue
            text = str(truth_of(value)).lower() if self.truth else str(value)
            if text in known:
                places.append(known[text])
            else:
                raise UnknownCategory(value=text, column=self.name, nearest=nearest(text, known))
        return np.array(places, dtype=np.int64)


def pair_key(first: Binning, second: Binning) -> Grouping:
    """The pairs of two features' bins as one key, where a question takes one key for each table: `a & b`."""
    labels = iter(pair_labels(first, second))
    branches = [(test & other, next(labels)) for test, other in _pairs_of_tests(first, second)]
    return case(*branches, otherwise=next(labels)).alias(pair_name(first, second))


def _pairs_of_tests(first: Binning, second: Binning) -> Iterator[tuple[Term, Term]]:
    """Conditions of which the first that holds names the pair; none holds where both values are missing."""
    any_row = Term(TruthValue(value=True))
    tests, others = [[*one.tests(), any_row] for one in (first, second)]
    yield from list(product(tests, others))[:-1]


def pair_name(first: Binning, second: Binning) -> str:
    """What `pair_key` is called."""
    return plan_name(f"{first.name}_and_{second.name}")


def pair_labels(first: Binning, second: Binning) -> list[str]:
    """Of all pairs of bins, the second feature's fastest."""
    return [f"{one} & {other}" for one, other in product(first.labels, second.labels)]


def truth_of(value: object) -> bool:
    """A truth value as frames have it: true, 1, "true". Raises BadQuestion for anything else."""
    text = str(value).lower()
    if text not in _TRUTHS:
        raise BadQuestion(problem=f"{value!r} is neither true nor false", hint="Give True and False, or 1 and 0.")
    return _TRUTHS[text]


_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def _name_of(term: Term) -> str:
    if isinstance(term.expression, ColumnValue):
        return term.expression.name
    text = to_text(term.expression)
    raise BadQuestion(problem=f"the feature {text} has no name", hint=f'Give name="{plan_name(text)}".')


def _range_of(
    schema: Schema, name: str, count: int, low: Scalar | None, high: Scalar | None
) -> tuple[Column, Fraction, Fraction]:
    """The column, and between which numbers its bins lie. Raises BadQuestion, UnboundedColumn, UnknownColumn."""
    column = schema.column(name)
    if column.type not in NUMERIC:
        raise BadQuestion(problem=f"{name} is no number", hint="Use Binning.categories().")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < MAX_BINS:
        raise BadQuestion(problem=f"{count!r} bins are not possible", hint=f"Use 1 to {MAX_BINS - 1}.")
    if column.range is None and (low is None or high is None):
        raise UnboundedColumn(column=name)
    declared = [code * column.step for code in column.range or (0, 0)]
    start, end = (
        whole if given is None else Fraction(Decimal(str(given)))
        for given, whole in zip((low, high), declared, strict=True)
    )
    if start >= end:
        raise BadQuestion(problem=f"the bins of {name} go from {start} to {end}", hint="Give the lower end first.")
    return column, start, end


def _rounded(schema: Schema, column: Column, edges: Sequence[Fraction]) -> Binning:
    """Edges at multiples of the column's resolution, each once."""
    steps = sorted({round(edge / column.step) for edge in edges})
    numbers = [Decimal((step * column.step).numerator) / (step * column.step).denominator for step in steps]
    return Binning.at(column.name, numbers, table=schema.table)
