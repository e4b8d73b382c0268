"""Results: the released rows, as tuples, data frames or Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, overload

from ceiba.display import html_table, text_table
from ceiba_protocol.errors import BadQuestion, MissingExtra
from ceiba_protocol.schema import nearest

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from ceiba.receipts import Receipt

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
        """A data frame: int64 (Int64 where a value is NULL), float64, boolean, str, datetime64."""
        import pandas

        return pandas.DataFrame({name: _series(self[name]) for name in self.columns}, columns=list(self.columns))

    def to_arrow(self) -> pyarrow.Table:
        """An Arrow table. Raises MissingExtra without pyarrow."""
        try:
            import pyarrow
        except ImportError:
            raise MissingExtra(feature="to_arrow()", package="pyarrow") from None
        return pyarrow.table({name: pyarrow.array(self[name]) for name in self.columns})

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
        return [", ".join(facts), *([note] if clipped else [])]

    def __repr__(self) -> str:
        return text_table(self.columns, self.rows, self.notes())

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows, self.notes())


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
