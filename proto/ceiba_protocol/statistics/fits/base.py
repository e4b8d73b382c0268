"""What all fits have in common: which numbers of a row they read, their steps, and how the final figures are sent."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ceiba_protocol.canonical import Document
from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import BadModel, NotFinite
from ceiba_protocol.expression import (
    ONE,
    Arithmetic,
    Comparing,
    Expression,
    Logic,
    number,
    only_where,
    present,
    product,
)
from ceiba_protocol.program import Comparison, Node
from ceiba_protocol.statistics.base import Output, Statistic, Total
from ceiba_protocol.statistics.fits.exact import EXPONENT_BOUND, MANTISSA_BITS, from_slots, to_slots

GRID_BITS = 40
"""Sums and iterates are multiples of 2^-40 (PROTOCOL §4.1)."""
MAX_SUMS = 200_000
"""Of one iteration: 3.2 MB from each holder."""
LARGEST_SUM = 2.0**79
"""Of one holder, in magnitude; with the grid and the holders it stays within 128 bits."""
MAX_COLUMNS = 100
MAX_VALUES = 2**26
"""Rows, by the published capacity, times columns at one holder, which keeps them in memory: a logistic regression took
42 bytes for each, so 2.8 GB."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """One number that holders read of a row: `node`·`step`."""

    node: Node
    step: Fraction

    @cached_property
    def low(self) -> float:
        return float(self.node.low * self.step)

    @cached_property
    def high(self) -> float:
        return float(self.node.high * self.step)

    def floats(self, units: npt.NDArray[np.int64]) -> Floats:
        """Each the float nearest to units·step, as a reader of decimal text would have it."""
        return np.asarray(units.astype(np.float64) * self.step.numerator / self.step.denominator)


@dataclass(frozen=True)
class Frame:
    """What everybody knows of one fit before its first round."""

    readings: tuple[Reading, ...]
    """In the order of the fit's `variables`."""
    cells: int
    """Groups or strata."""
    rows: int
    """No more than so many, over all holders."""
    minimum: int
    """Subjects that any figure must be about."""
    is_guarded: bool
    """False for public data, where a row may be its own figure."""
    passed: tuple[bool, ...] | None = None
    """For each cell, whether the gate lets it pass; None: all. The others add nothing to any round."""
    cap: int | None = None
    """Of how many subjects one holder counts at most, where they are counted as the gate does; None: of all."""
    least: int | None = None
    """How many must be counted so; None: `minimum`."""


@dataclass(frozen=True)
class FitRows:
    """One holder's rows in which nothing is missing."""

    cells: npt.NDArray[np.int64]
    """[rows]: the number of the row's group."""
    values: Floats
    """[rows, variables]"""
    subjects: npt.NDArray[np.int64]
    """[rows]: whose row it is, numbered from 0 without gaps: guards count subjects, who may have several rows."""


def of_subjects(subjects: npt.NDArray[np.int64], amounts: Floats) -> Floats:
    """[subjects]: what the rows of each have together."""
    return np.bincount(subjects, weights=amounts).astype(np.float64) if len(subjects) else np.zeros(0)


class FitState(Document):
    """Where a fit is: the same at every holder, and its digest is bound into the next round's masks."""

    is_final: bool = False


class Fit(Statistic):
    """A statistic whose sums depend on what earlier sums gave.

    Run by every holder: `prepare` and `measure` on its own rows; `advance` on the masked sum of all, with the same
    outcome everywhere; at the end `values`, which each sends encrypted, so that the merchant opens them, and nothing
    else, once it has seen that all agree.
    """

    takes_groups: ClassVar[bool] = False
    per_cell: ClassVar[bool] = False
    """Whether each cell has final figures of its own."""

    # --- what a row has

    @abstractmethod
    def design(self) -> Sequence[DesignColumn]:
        """Everything that is read of a row, as design columns; a row that lacks one of them is left out."""

    def conditions(self) -> Sequence[Expression]:
        """What a row must meet beside."""
        return ()

    def variables(self) -> tuple[Expression, ...]:
        """The distinct expressions of all factors."""
        return tuple(dict.fromkeys(factor.value for column in self.design() for factor in column.factors))

    def complete(self) -> Expression:
        """TRUE in the rows that are used."""
        terms = [present(value) for value in self.variables()]
        terms += [test for column in self.design() for factor in column.factors for test in _domain(factor)]
        return Logic(op="and", terms=tuple(dict.fromkeys((*terms, *self.conditions()))))

    def sums(self) -> Sequence[Expression]:
        """What the gate looks at; none of it is released: the rows that are used, and for each column those of them in
        which it is not 0. `disclosure.support` adds what columns have together."""
        complete = self.complete()
        return [only_where(complete, ONE), *(only_where(complete, _plain(column)) for column in self.design())]

    @property
    def cut(self) -> str:
        """By what it cuts its rows: an answer about the same rows, cut elsewhere, could be subtracted."""
        return ""

    # --- the rounds

    def check(self, frame: Frame) -> None:
        """What can be said from the schema alone. Raises BadModel."""
        if len(self.design()) > MAX_COLUMNS:
            raise BadModel(problem=f"it has {len(self.design())} columns, and {MAX_COLUMNS} are the most")

    @abstractmethod
    def begin(self, frame: Frame) -> FitState:
        """The state of the first round, which no data has entered."""

    @abstractmethod
    def prepare(self, rows: FitRows, frame: Frame) -> Any:
        """Run by a holder, once: what `measure` needs of its rows."""

    @abstractmethod
    def width(self, state: Any, frame: Frame) -> int:
        """How many sums this round has; the same at every holder."""

    @abstractmethod
    def measure(self, state: Any, prepared: Any, frame: Frame) -> list[int]:
        """Run by a holder: its sums. Raises what its own rows forbid."""

    @abstractmethod
    def advance(self, state: Any, totals: Sequence[int], frame: Frame) -> FitState:
        """Run by every holder on the sum of all. Raises what the whole forbids."""

    # --- the answer

    @abstractmethod
    def slots(self, frame: Frame) -> list[int]:
        """The largest magnitude of each of `values`; how many there are must not depend on data."""

    @abstractmethod
    def values(self, state: Any, frame: Frame) -> list[int]:
        """The final figures as integers, the same at every holder."""

    @abstractmethod
    def read(self, values: Sequence[int]) -> Output:
        """Run by the merchant on `values`, of one cell where each has its own."""

    def finish(self, *totals: Total) -> Output:
        return self.read([total.units for total in totals])


def _plain(column: DesignColumn) -> Expression:
    """Without functions, and 0 where the column is: a logarithm is 0 at 1. An exponential is 0 nowhere, and says
    nothing where its value is 0."""
    first, *others = map(_zero_where, column.factors)
    for other in others:
        first = product(first, other)
    return first


def _zero_where(factor: Factor) -> Expression:
    if factor.function is Function.LOG:
        return Arithmetic(op="subtract", left=factor.value, right=ONE)
    return factor.value


def happened(event: Expression) -> DesignColumn:
    """1 where an event's column is above 0."""
    test = Comparing(comparison=Comparison.GREATER, left=event, right=number(0))
    return DesignColumn(name="event", factors=(Factor(value=test),))


def _domain(factor: Factor) -> list[Expression]:
    """Where the function is defined."""
    match factor.function:
        case Function.LOG:
            return [Comparing(comparison=Comparison.GREATER, left=factor.value, right=number(0))]
        case Function.SQRT:
            return [Comparing(comparison=Comparison.GREATER_OR_EQUAL, left=factor.value, right=number(0))]
        case Function.LOG1P:
            return [Comparing(comparison=Comparison.GREATER, left=factor.value, right=number(-1))]
    return []


# --- design columns in numbers ---------------------------------------------------------------------------------

_FUNCTIONS: dict[Function, Any] = {
    Function.VALUE: lambda x: x,
    Function.LOG: np.log,
    Function.LOG1P: np.log1p,
    Function.SQRT: np.sqrt,
    Function.EXP: np.exp,
}


class Columns:
    """Design columns over the variables of a fit."""

    def __init__(self, fit: Fit, columns: Iterable[DesignColumn], frame: Frame) -> None:
        places = {value: place for place, value in enumerate(fit.variables())}
        self.names = [column.name for column in columns]
        self._factors = [[(places[one.value], one.function) for one in column.factors] for column in columns]
        self._readings = frame.readings

    def __len__(self) -> int:
        return len(self.names)

    def values(self, rows: FitRows) -> Floats:
        """[rows, columns]. Raises NotFinite."""
        made = np.ones((len(rows.values), len(self)))
        for place, factors in enumerate(self._factors):
            for variable, function in factors:
                made[:, place] *= _FUNCTIONS[function](rows.values[:, variable])
        if not np.isfinite(made).all():
            raise NotFinite(what="a column")
        return made

    def bounds(self) -> list[tuple[float, float]]:
        """The least and largest value that a row can have in each column, by the schema. Raises BadModel."""
        return [self._bounds(place) for place in range(len(self))]

    def _bounds(self, place: int) -> tuple[float, float]:
        low, high = 1.0, 1.0
        for variable, function in self._factors[place]:
            ends = _ends(self._readings[variable], function)
            corners = [a * b for a in (low, high) for b in ends]
            low, high = min(corners), max(corners)
        if not math.isfinite(low) or not math.isfinite(high):
            raise BadModel(problem=f"{self.names[place]} can be too large for a number, by its schema's bounds")
        return low, high


def _ends(reading: Reading, function: Function) -> tuple[float, float]:
    """A monotone function at both ends of where it is defined."""
    low = reading.low
    if function is Function.LOG:
        low = max(low, float(reading.step))
    if function is Function.LOG1P:
        low = max(low, float(reading.step) - 1)
    if function is Function.SQRT:
        low = max(low, 0.0)
    if reading.high < low:
        raise BadModel(problem=f"no row has a value of which {function} is defined, by the schema's bounds")
    with np.errstate(over="ignore"):
        return float(_FUNCTIONS[function](low)), float(_FUNCTIONS[function](reading.high))


# --- numbers as they are sent ----------------------------------------------------------------------------------


def to_sums(values: Sequence[float] | Floats) -> list[int]:
    """A holder's sums on the grid. Raises NotFinite."""
    found = np.asarray(values, dtype=np.float64)
    if not (np.abs(found) < LARGEST_SUM).all():  # also what is no number
        raise NotFinite(what="a sum")
    return [int(one) for one in np.rint(np.ldexp(found, GRID_BITS)).tolist()]  # scaling by 2^k is exact


FLOAT_SLOTS = (2**MANTISSA_BITS, EXPONENT_BOUND)


def float_values(values: Iterable[float]) -> list[int]:
    """Two slots for each. Raises NotFinite."""
    slots: list[int] = []
    for value in values:
        if not math.isfinite(value):
            raise NotFinite(what="a final figure")
        slots += to_slots(value)
    return slots


def read_floats(slots: Sequence[int]) -> list[float]:
    return [from_slots(*pair) for pair in zip(slots[::2], slots[1::2], strict=True)]
