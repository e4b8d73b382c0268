"""One side of a joint job: its subjects by their identifiers, each with what it adds to every cell (PROTOCOL §5.4).

Nothing here leaves the holder as it is: linkage turns identifiers into group elements, and sums into ciphertexts. The
order is that of the subjects' numbers, which says who was published first, so whoever sends something shuffles it.
Who has withdrawn is in no version. A subject whose identifier is missing, or was malformed, is not joined.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.evidence import cells_of
from ceiba_node.engines.statements import IDENTIFIER, render_by_subject, render_identifiers
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import DuplicateIdentifier
from ceiba_protocol.plan import Program
from ceiba_protocol.program import SUBJECT, SUBJECTS, TRUE

Integers = npt.NDArray[np.int64]

_TYPES = ((7, "TINYINT"), (15, "SMALLINT"), (31, "INTEGER"), (63, "BIGINT"))
_NARROW = (np.int8, np.int16, np.int32)


@dataclass(frozen=True)
class JoinedRows:
    """What the subjects of one side add to each sum. The entries of subject s are `starts[s]` … `starts[s + 1]`, in the
    order of cells; there is at least one."""

    identifiers: list[bytes] = field(repr=False)
    """[subjects]: in normal form, UTF-8; each once."""
    starts: Integers = field(repr=False)
    """[subjects + 1]"""
    cells: Integers = field(repr=False)
    """[entries]: the cell's place in the public order of the program's cells."""
    sums: tuple[npt.NDArray[Any], ...] = field(repr=False)
    """For each of the program's sums [entries]: exact integers, in the narrowest type that holds them, and Python's own
    where 64 bits may not be enough."""

    def entries(self, subject: int) -> "Iterator[Entry]":
        """Each cell in which this subject has rows, and its sums there."""
        for entry in range(self.starts[subject], self.starts[subject + 1]):
            yield int(self.cells[entry]), [int(column[entry]) for column in self.sums]


def joined_rows(
    engine: DuckDBEngine, snapshot: Snapshot, program: Program, on: str, cancellation: Cancellation | None = None
) -> JoinedRows:
    """The subjects that have rows which pass the filter, by the identifier `on`. Added up over subjects, the sums are
    what `engine.grouped_sums` gives for the rows of subjects that have this identifier.

    The rows are read in ranges of subjects; what is returned takes about 80 bytes for each subject, and for each entry
    8 and 1 to 8 for each sum. Raises NotAnIdentifier, and what `engine.grouped_sums` does.
    """
    parts = _parts(engine, snapshot, program, on, cancellation)
    entries = np.concatenate([np.zeros(0, np.int64), *(part.entries for part in parts)])
    return JoinedRows(
        identifiers=[name for part in parts for name in part.identifiers],
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(entries)]),
        cells=np.concatenate([np.zeros(0, np.int64), *(part.cells for part in parts)]),
        sums=tuple(
            np.concatenate([np.zeros(0, np.int8), *(part.sums[place] for part in parts)])
            for place in range(len(program.sums))
        ),
    )


def cells_of_subjects(
    engine: DuckDBEngine, snapshot: Snapshot, program: Program, on: str, cancellation: Cancellation | None = None
) -> dict[bytes, int]:
    """By the identifier `on`, the one cell in which each subject has rows that pass the filter. The program's sums do
    not matter.

    Raises DuplicateIdentifier where a subject has rows in two cells; NotAnIdentifier, and what `engine.grouped_sums`
    does.
    """
    found: dict[bytes, int] = {}
    for part in _parts(engine, snapshot, replace(program, sums=()), on, cancellation):
        several = int(np.count_nonzero(part.entries > 1))
        if several:
            problem = "rows of one subject fall into two groups"
            raise DuplicateIdentifier(table=snapshot.table, column=on, problem=problem, private=f"{several} subjects")
        found.update(zip(part.identifiers, part.cells.tolist(), strict=True))
    return found


def numbers_of_subjects(engine: DuckDBEngine, snapshot: Snapshot, on: str) -> dict[bytes, int]:
    """By the identifier `on`, each subject's number: the same by whichever of its identifiers, and in every version.
    Raises NotAnIdentifier, EngineFailed."""
    statement = render_identifiers(snapshot.schema.identifier(on).column)
    found: dict[bytes, int] = {}
    with engine.running(snapshot, None) as query:
        for start, end in query.ranges_of_subjects(1):
            known = query.arrays(statement.sql, statement.part(start, end))
            found.update(zip((name.encode() for name in known[IDENTIFIER]), known[SUBJECT].tolist(), strict=True))
    return found


def base_groups(
    engine: DuckDBEngine, snapshot: Snapshot, program: Program, on: str, cancellation: Cancellation | None = None
) -> list[list[bytes]]:
    """For each cell, in their public order, the identifiers of its subjects; rows of one subject count once. Raises
    what `cells_of_subjects` does."""
    groups: list[list[bytes]] = [[] for _ in range(program.cells)]
    for name, cell in cells_of_subjects(engine, snapshot, program, on, cancellation).items():
        groups[cell].append(name)
    return groups


Entry = tuple[int, list[int]]
"""A cell's place, and what a subject adds to each sum there."""


@dataclass(frozen=True)
class Bounds:
    """What a subject adds at most where an answer has noise (PROTOCOL §3.6)."""

    program: Program
    cells_per_subject: int
    order_key: bytes = field(repr=False)
    """Chooses a subject's cells, whatever other subjects there are."""

    @cached_property
    def _one_row(self) -> list[tuple[int, int]]:
        """The least and the most that a row can add to each sum."""
        nodes = [one.node for one in self.program.sums]
        return [(0, 1) if node in (TRUE, SUBJECTS) else (min(node.low, 0), max(node.high, 0)) for node in nodes]

    def apply(self, identifier: bytes, entries: Iterable[Entry]) -> list[Entry]:
        """In at most so many cells, and to each sum as much as one row could add."""

        def order(entry: Entry) -> bytes:
            return hmac.digest(self.order_key, tlv(identifier, entry[0].to_bytes(8, "big")), "sha256")

        kept = sorted(entries, key=order)[: self.cells_per_subject]
        return [
            (cell, [min(max(own, low), high) for own, (low, high) in zip(sums, self._one_row, strict=True)])
            for cell, sums in kept
        ]


@dataclass(frozen=True)
class _Part:
    """A range of subjects. `entries`: how many each has."""

    identifiers: list[bytes]
    entries: Integers
    cells: Integers
    sums: list[npt.NDArray[Any]]


def _parts(
    engine: DuckDBEngine, snapshot: Snapshot, program: Program, on: str, cancellation: Cancellation | None
) -> list[_Part]:  # fmt: skip
    declared = snapshot.schema.identifier(on)
    most_rows = 1 if snapshot.is_one_row_each else snapshot.rows
    types = [_type_for(one.row_bound * most_rows) for one in program.sums]
    statement = render_by_subject(program, types, snapshot.is_one_row_each)
    identifiers = render_identifiers(declared.column)
    parts = []
    with engine.running(snapshot, cancellation) as query:
        for start, end in query.ranges_of_subjects(1 + len(program.sums)):
            known = query.arrays(identifiers.sql, identifiers.part(start, end))
            found = query.arrays(statement.sql, statement.part(start, end))
            parts.append(_part(program, found, known[SUBJECT], known[IDENTIFIER]))
    return parts


def _part(
    program: Program, found: Mapping[str, Any], known: Integers, names: npt.NDArray[np.object_]
) -> _Part:  # fmt: skip
    """`found`: by the names of `render_by_subject`; `known`, `names`: who has an identifier, in ascending order."""
    numbers = found[SUBJECT]
    cells = cells_of(program, [found[f"#k{place}"] for place in range(len(program.keys))], numbers).astype(np.int64)
    order = np.lexsort((cells, numbers))
    order = order[np.isin(numbers[order], known)]
    subjects, entries = np.unique(numbers[order], return_counts=True)
    return _Part(
        identifiers=[name.encode() for name in names[np.searchsorted(known, subjects)].tolist()],
        entries=entries.astype(np.int64),
        cells=cells[order],
        sums=[_integers(found[f"#v{place}"])[order] for place in range(len(program.sums))],
    )


def _type_for(magnitude: int) -> str:
    """The narrowest type that holds a sum of at most ±magnitude, and that numpy reads exactly: text for 128 bits."""
    return next((name for bits, name in _TYPES if magnitude.bit_length() <= bits), "VARCHAR")


def _integers(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column as it was fetched: NULL adds 0, and text is too long for 64 bits."""
    filled = np.ma.filled(column, 0)
    if filled.dtype == object:
        return np.array([int(one) for one in filled.tolist()], dtype=object)
    for narrow in _NARROW:
        bounds = np.iinfo(narrow)
        if not len(filled) or (bounds.min <= filled.min() and filled.max() <= bounds.max):
            return filled.astype(narrow)
    return filled
