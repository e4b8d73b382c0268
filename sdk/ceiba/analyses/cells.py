"""What the analyses of tables and groups share: asking for cells, and reading them.

A grouping key's NULL is left out by a filter at the holders, so that a small cell of missing values hides no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ceiba.query import Query, Table
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba.terms import Grouping, Term, col, grouping, joined
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import columns_of
from ceiba_protocol.plan import ByBucket, ByCase, GroupKey
from ceiba_protocol.statistics import WITHHELD, Statistic, Withheld
from ceiba_protocol.wording import is_condition

Key = str | Term | Grouping
"""A grouping key: a column's name, a column, a condition, `width_bucket`, `date_trunc`, or `case` with labels."""

Labels = tuple[Any, ...]
Values = tuple[Any, ...]

WITHHELD_NOTE = (
    "A cell that this needs was withheld (an empty one may look the same): what depends on it is left out. "
    "Use coarser groups."
)
NOISE_NOTE = (
    "The figures carry noise: no test and no interval is given, because they would take noisy counts for exact ones."
)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; an end is None where the formula gives none."""

    value: float
    low: float | None
    high: float | None

    def row(self, name: str) -> tuple[Any, ...]:
        """As a row of a summary: name, value, low, high."""
        return name, self.value, self.low, self.high


@dataclass(frozen=True)
class Test:
    """A test of significance."""

    __test__ = False  # to pytest: no class of tests

    statistic: float
    """In the units of its reference distribution: χ², t or F."""
    degrees: float
    """Of freedom; of the numerator for F."""
    p: float
    """In 0 to 1, two-sided for t."""


# --- asking -----------------------------------------------------------------------------------------------------


def require_ungrouped(table: Table, name: str) -> None:
    """Raises BadQuestion for a table with group_by keys, which an analysis would silently drop."""
    if table._keys:
        hint = f"Call {name}() on the table without group_by; groups are named with by=, rows chosen with filter()."
        raise BadQuestion(problem=f"{name}() of a table that is grouped already", hint=hint)


def ask(table: Table, keys: Sequence[Key], outputs: Mapping[str, Statistic]) -> Query:
    """The query of these statistics in each cell of the keys, over the rows where no key is NULL.

    Its columns are the keys, then the outputs, in this order; an output called like a key gets an underscore.
    """
    made = [grouping(key) for key in keys]
    names = {key.key.name for key in made}
    titled = {f"{name}_" if name in names else name: output for name, output in outputs.items()}
    query = table.group_by(*made).agg(**titled)
    conditions = [_present(key.key) for key in made if _may_be_null(query, key)]
    return table.filter(*conditions).group_by(*made).agg(**titled) if conditions else query


def _may_be_null(query: Query, key: Grouping) -> bool:
    """Whether rows can lack a label. A filter that all rows pass would only make holders take the question for another
    one about the same people."""
    compiled = next(one for one in query.program.keys if one.name == key.key.name)
    if None not in compiled.values:
        return False
    if not isinstance(key.key, ByCase) or not is_condition(key.key):
        return True
    return any(query.schema.column(name).nullable for name in columns_of(key.key.branches[0].when))


def _present(key: GroupKey) -> Term:
    """True where a key has a label."""
    match key:
        case ByBucket():
            return Term(key.value).notnull()
        case ByCase():
            first, *others = (Term(branch.when) for branch in key.branches)
            return joined("or", (first, *others)) if others else first
        case _:
            return col(key.column).notnull()


def moments(value: Term | str) -> dict[str, Statistic]:
    """Count, mean and sample variance of a value: all that tests of means need."""
    made = {name: statistic(name)(value) for name in ("count", "mean", "variance")}
    return {"n": made["count"], "mean": made["mean"], "variance": made["variance"]}


# --- reading ----------------------------------------------------------------------------------------------------


def labels_of(query: Query, place: int) -> list[Any]:
    """The public labels of one key, without NULL; a condition's as truth values, and of truth values True first."""
    found = [query.label_of(query.asked.groups[place], label) for label in query.program.keys[place].labels]
    present = [label for label in found if label is not None]
    return sorted(present, reverse=True) if set(present) == {True, False} else present


def cells(result: Result, keys: int) -> dict[Labels, Values]:
    """The released rows by their labels: what is not in it has no rows. Rows where a key is NULL are left out."""
    return {row[:keys]: row[keys:] for row in result.rows if None not in row[:keys]}


def is_withheld(*values: Any) -> bool:
    """Whether one of them was not released."""
    return any(value is WITHHELD for value in values)


@dataclass(frozen=True)
class Group:
    """Count, mean and sample variance of a value in one group."""

    label: Any
    n: int | Withheld
    """Rows where the value is there."""
    mean: float | Withheld | None
    """In the value's unit; None of no rows."""
    variance: float | Withheld | None
    """With divisor n − 1, in the value's unit squared; None of fewer than two rows."""

    @property
    def withheld(self) -> bool:
        """Whether one of its numbers was."""
        return is_withheld(self.n, self.mean, self.variance)

    @property
    def sd(self) -> float | Withheld | None:
        """The standard deviation, in the value's unit."""
        return sqrt(self.variance) if isinstance(self.variance, int | float) else self.variance

    @property
    def row(self) -> tuple[Any, ...]:
        """As a row of a summary: label, n, mean, sd."""
        return self.label, self.n, self.mean, self.sd


def group(label: Any, values: Values | None) -> Group:
    """A group from the outputs of `moments`; without rows if there are none."""
    return Group(label, *(values or (0, None, None)))


@dataclass(frozen=True)
class Sample:
    """A group of which everything was released: what is computed with."""

    n: int
    mean: float
    variance: float

    @property
    def squares(self) -> float:
        """Σ(x − mean)²."""
        return (self.n - 1) * self.variance


def sample(one: Group) -> Sample | None:
    """None for a group without rows, or of which something was withheld. A single value has variance 0."""
    if not isinstance(one.n, int) or not isinstance(one.mean, int | float) or one.n < 1:
        return None
    return Sample(one.n, float(one.mean), float(one.variance) if isinstance(one.variance, int | float) else 0.0)


def estimates_part(title: str, estimates: Mapping[str, Estimate | None]) -> TablePart:
    """A summary's table of estimates with their intervals; without those that there are not."""
    rows = [one.row(name) for name, one in estimates.items() if one is not None]
    return TablePart(title, ("", "estimate", "95 % low", "95 % high"), rows)


def tests_part(tests: Mapping[str, Test | None]) -> TablePart:
    """A summary's table of tests; without those that there are not."""
    rows = [(name, one.statistic, one.degrees, one.p) for name, one in tests.items() if one is not None]
    return TablePart("Tests", ("test", "statistic", "df", "p"), rows)


def standing_notes(result: Result, withheld: bool) -> list[str]:
    """What is said of every outcome from which something is missing."""
    return [*([WITHHELD_NOTE] if withheld else []), *([NOISE_NOTE] if result.noise is not None else [])]
