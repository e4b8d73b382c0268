"""Results: the released rows, as tuples, data frames or Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from math import floor, log10
from typing import TYPE_CHECKING, Any, overload

from ceiba.display import html_table, text_table
from ceiba.extras import ARROW, needed
from ceiba.noise import NoiseReport
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.schema import nearest
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from matplotlib.figure import Figure

    from ceiba.receipts import Receipt

REASONS = {
    "cell_withheld": "fewer subjects or holders than agreed, one subject dominates, or an earlier answer is about "
    "nearly the same subjects. Use coarser groups, or ask with noise.",
    "joined_cell_withheld": "a cell of the table has fewer subjects in common than agreed, or so few are behind one of "
    "its figures, or it is about nearly the same subjects as another one; a table is shown whole or not at all. Use "
    "coarser groups, or ask with noise.",
    "value_withheld": "too few subjects have such a value, or too few do not; the cell itself is large enough.",
    "below_threshold": "the noisy count is below the agreed minimum and twice its noise.",
}
"""Why something was withheld, by code. Which holder, or which of the rules, nobody outside learns."""

INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, repr=False)
class Result:
    """What a question released: rows of Python values, None where SQL says NULL.

    >>> result = heart.group_by("sex").agg(n=ceiba.count()).run()
    >>> result[0], result["n"], result.to_pandas()
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    job_id: str = ""
    holders: tuple[str, ...] = ()
    clipped: Mapping[str, int] = field(default_factory=dict)
    """Column → values outside the schema's bounds that were clipped at publishing, over all holders."""
    seconds: float | None = None
    """From asking to the finished rows."""
    wire_bytes: int = 0
    """What the holders sent for it: approvals, abort tokens, submissions and ciphertexts."""
    receipt: Receipt | None = field(default=None, compare=False)
    """Proves the way of this result to others: `result.receipt.verify()`. None for made-up rows."""
    groups: tuple[str, ...] = ()
    """The columns that say what a row is about."""
    noise: NoiseReport | None = None
    """None for exact figures."""
    plus_minus: list[tuple[Any, ...]] = field(default_factory=list)
    """With noise, for each value half of its 95 % interval, None where there is none; of the noise alone."""
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What a figure's axes call the columns, with their units; a column's name, where it is not in here."""

    is_joined: bool = False
    """Whether it is about subjects that several holders know."""
    remarks: tuple[str, ...] = ()
    """What is said about columns below the rows, such as how far a median may be off."""

    @property
    def withheld(self) -> list[dict[str, Any]]:
        """What was not released: for each row the groups, the columns, and the code of the reason (REASONS)."""
        found = []
        for row in self.rows:
            values = dict(zip(self.columns, row, strict=True))
            missing = [name for name in self.columns if name not in self.groups and _is_withheld(values[name])]
            if missing:
                about = {name: values[name] for name in self.groups}
                found.append({**about, "columns": missing, "reason": self._reason(len(missing))})
        return found

    def _reason(self, missing: int) -> str:
        if self.noise is not None:
            return "below_threshold"
        if self.is_joined:
            return "joined_cell_withheld"
        return "cell_withheld" if missing == len(self.columns) - len(self.groups) else "value_withheld"

    def interval(self, row: int, column: str) -> tuple[float, float] | None:
        """The 95 % interval of a value with noise; None for what has none."""
        self[column]  # names the nearest column, if there is none of this name
        half = self.plus_minus[row][self.columns.index(column)] if self.plus_minus else None
        value = self[column][row]
        return (value - half, value + half) if isinstance(half, int | float) and column not in self.groups else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    @overload
    def __getitem__(self, key: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: str | slice) -> list[Any]: ...
    def __getitem__(self, key: int | str | slice) -> tuple[Any, ...] | list[Any]:
        """A row by its number, rows by a slice, a column's values by its name."""
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.columns:
            problem = f"the result has no column {key}; the nearest is {nearest(key, self.columns)}"
            raise BadQuestion(problem=problem, hint="`result.columns` lists them.")
        place = self.columns.index(key)
        return [row[place] for row in self.rows]

    @property
    def value(self) -> Any:
        """The value of a result that has one row and one column."""
        if len(self.rows) != 1 or len(self.columns) != 1:
            problem = f"the result has {len(self.rows)} rows and {len(self.columns)} columns, not a single value"
            raise BadQuestion(problem=problem, hint="Take a row, result[0], or a column, result['name'].")
        return self.rows[0][0]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame: int64 (Int64 where a value is NULL or was withheld), float64, boolean, str, datetime64.

        With noise, each column of numbers is followed by one with half of its 95 % interval, `n_plus_minus` for `n`.
        """
        import pandas

        frame = {}
        for place, name in enumerate(self.columns):
            frame[name] = _series([None if value is WITHHELD else value for value in self[name]])
            if self.plus_minus and name not in self.groups:
                frame[f"{name}_plus_minus"] = _series([row[place] for row in self.plus_minus])
        return pandas.DataFrame(frame)

    def to_arrow(self) -> pyarrow.Table:
        """An Arrow table. Raises MissingExtra without pyarrow."""
        pyarrow = needed("pyarrow", "to_arrow()", ARROW)
        columns = {name: [None if value is WITHHELD else value for value in self[name]] for name in self.columns}
        return pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})

    def plot(self, *columns: str, title: str = "") -> Figure:
        """A figure of these columns, by default of all that are not groups: `result.plot().savefig("result.png")`.

        Bars, a histogram, a heat map for two keys, a line over dates; several columns are drawn side by side. What was
        withheld is hatched, intervals of the noise are drawn. Raises BadQuestion where nothing can be drawn, such as
        one single value, and MissingExtra without matplotlib.
        """
        from ceiba.plots.results import plot_result

        return plot_result(self, columns, title)

    def notes(self) -> list[str]:
        """What a reader should know beside the rows: how many, from whom, and what was clipped."""
        facts = [f"{len(self.rows)} {'row' if len(self.rows) == 1 else 'rows'}"]
        if self.holders:
            facts.append(f"{len(self.holders)} holders")
        if self.job_id:
            facts.append(f"job {self.job_id}")
        if self.seconds is not None:
            facts.append(f"{self.seconds:.2f} s")
        clipped = [f"{name} ({count})" for name, count in self.clipped.items() if count]
        note = f"Note: values outside the declared bounds were clipped in {', '.join(clipped)}."
        return [", ".join(facts), *([note] if clipped else []), *self.remarks, *self._protection()]

    def _protection(self) -> list[str]:
        """The noise, and what was withheld and why."""
        withheld = self.withheld
        lines = [str(self.noise)] if self.noise else []
        for code in dict.fromkeys(one["reason"] for one in withheld):
            rows = sum(one["reason"] == code for one in withheld)
            lines.append(f"Withheld in {rows} {'row' if rows == 1 else 'rows'}: {REASONS[code]}")
        return lines

    def _shown(self) -> list[tuple[Any, ...]]:
        """The rows, with what each value may be off by."""
        if not self.plus_minus:
            return self.rows
        labels = [name in self.groups for name in self.columns]
        return [
            tuple(
                value if is_label else _with_half(value, half)
                for is_label, value, half in zip(labels, row, halves, strict=True)
            )
            for row, halves in zip(self.rows, self.plus_minus, strict=True)
        ]

    def __repr__(self) -> str:
        return text_table(self.columns, self._shown(), self.notes())

    def _repr_html_(self) -> str:
        return html_table(self.columns, self._shown(), self.notes())


def _is_withheld(value: Any) -> bool:
    """Of a small table, whether one of its entries was."""
    return value is WITHHELD or (isinstance(value, list) and any(WITHHELD in entry.values() for entry in value))


def _with_half(value: Any, half: Any) -> Any:
    """A value and half of its interval, both to the latter's second significant digit, whole numbers at least whole."""
    if not isinstance(half, int | float) or not isinstance(value, int | float):
        return value
    digits = 0 if isinstance(value, int) or half <= 0 else max(0, 1 - floor(log10(half)))
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _series(values: list[Any]) -> Any:
    import pandas

    return pandas.Series(values, dtype=_dtype(values))


def _dtype(values: list[Any]) -> Any:
    """The pandas type that holds these values without changing one."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if not kinds:
        return "object"
    if kinds == {bool}:
        return "bool" if len(present) == len(values) else "boolean"
    if kinds == {int} and all(value in INT64 for value in present):
        return "int64" if len(present) == len(values) else "Int64"
    if kinds <= {int, float}:
        return "float64" if float in kinds else "object"
    if kinds == {str}:
        return None  # whatever this pandas infers for text
    return "datetime64[us]" if all(issubclass(kind, date) for kind in kinds) else "object"
