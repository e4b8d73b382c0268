"""The holder's engine: a question's integer totals from one snapshot, by DuckDB.

The connection can read its one file and nothing else: no other file, no extension, no change of settings. DuckDB's
error texts can quote values, so none leaves this module; the operator reads the exception's class name.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt

from ceiba_node.engines.evidence import Dominance, Evidence, Gathering, NotOurs, cell_of, magnitudes_of
from ceiba_node.engines.products import Products, products_of
from ceiba_node.engines.rendering import render
from ceiba_node.engines.statements import (
    render_bounded,
    render_factors,
    render_flags,
    render_magnitudes,
    render_readings,
)
from ceiba_node.quiet import quietly
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.disclosure.support import Tests
from ceiba_protocol.errors import EngineFailed, JobCancelled, SnapshotDamaged
from ceiba_protocol.plan import ROW_COUNT, Program, rows_of
from ceiba_protocol.program import SUBJECT
from ceiba_protocol.statistics.fits.base import FitRows

T = TypeVar("T")

OPEN_SNAPSHOTS = 2
"""Snapshots kept open for the next question: the current one, and one that is being replaced or compared with."""
_INTERRUPT_EVERY = 0.01
"""Seconds between interrupts until a query has stopped: DuckDB forgets one that arrives before the query begins."""

_MOST_ROWS, _FEWEST_ROWS = 1_000_000, 50_000
"""Bounds on the rows of one part, where rows are read in parts."""
_PART_BYTES, _KEY_BYTES, _SUM_BYTES = 100_000_000, 64, 32
"""What the rows of one part may take; what one takes by its keys and its subject, and by each sum."""

_ROWS = "SELECT count(*) FROM rows"
_SUBJECTS = 'SELECT count(*), min("#subject"), max("#subject") FROM rows'
_LOCK_DOWN = "SET enable_external_access = false; SET lock_configuration = true"


class Cancellation:
    """Stops one job's query from another thread. Give it to `grouped_sums`; call `cancel` once, at any time."""

    def __init__(self, job: str) -> None:
        self.job = job
        self._cancelled = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._cursor: duckdb.DuckDBPyConnection | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Returns when no query of the job runs any more."""
        self._cancelled.set()
        while not self._idle.wait(_INTERRUPT_EVERY):
            cursor = self._cursor
            if cursor is not None:
                cursor.interrupt()

    @contextmanager
    def watching(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Raises JobCancelled if `cancel` was called before."""
        self._cursor = cursor
        self._idle.clear()
        try:
            if self.cancelled:
                raise JobCancelled(job=self.job)
            yield
        finally:
            self._cursor = None
            self._idle.set()


class DuckDBEngine:
    """`memory_limit` (such as "400MB") and `threads` hold for each open snapshot; spills go to `temp_directory`."""

    def __init__(self, *, holder: str, memory_limit: str, threads: int, temp_directory: Path) -> None:
        self._holder = holder
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": str(temp_directory),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, duckdb.DuckDBPyConnection] = OrderedDict()

    def grouped_sums(self, snapshot: Snapshot, program: Program, cancellation: Cancellation | None = None) -> list[int]:
        """The totals of every cell, cell by cell, each sum after the other, 0 in cells without rows: what
        `plan.grouped_sums` gives for the snapshot's rows.

        Safe to call from several threads. Raises SnapshotDamaged, EngineFailed, JobCancelled, ValueOutOfRange.
        """
        products = products_of(program, _MOST_ROWS)
        with self.running(snapshot, cancellation) as query:
            if products is not None:
                return _products(query, program, products)
            sql, parameters = render(program)
            return _spread(program, query.rows(sql, parameters))

    def bounded_sums(
        self,
        snapshot: Snapshot,
        program: Program,
        cells_per_subject: int,
        order_key: bytes,
        one_row_each: bool,
        cancellation: Cancellation | None = None,
    ) -> list[int]:
        """Like `grouped_sums`, but one subject changes each sum in at most `cells_per_subject` ≥ 1 cells, and in each
        by at most the sum's `row_bound`: what it adds to a cell is clipped to what one row could add, and its cells
        are chosen by `order_key`, whatever other subjects there are (PROTOCOL §3.6).

        The rows are read in ranges of subjects: memory does not grow with them. Raises what `grouped_sums` does.
        """
        if one_row_each:
            return self.grouped_sums(snapshot, program, cancellation)
        seed = int.from_bytes(sha256(order_key).digest()[:7])
        statement = render_bounded(program, cells_per_subject, seed)
        totals = [0] * (program.cells * len(program.sums))
        with self.running(snapshot, cancellation) as query:
            for start, end in query.ranges_of_subjects(len(program.sums)):
                part = _spread(program, query.rows(statement.sql, statement.part(start, end)))
                totals = [total + more for total, more in zip(totals, part, strict=True)]
        return totals

    def evidence(
        self,
        snapshot: Snapshot,
        program: Program,
        tests: Tests,
        rules: Disclosure,
        one_row_each: bool,
        cancellation: Cancellation | None = None,
    ) -> Evidence:
        """How many and which subjects meet each of the program's tests in each cell, and where one dominates.

        `tests`: those of the program; `rules`: the agreement's; `one_row_each`: no subject has two rows. The rows are
        read in slices: memory grows with the subjects that bitmaps name, by about 2 bytes for each of them in each cell
        and condition. Raises what `grouped_sums` does.
        """
        gathering = Gathering(program, tests, one_row_each=one_row_each)
        statement = render_flags(program, gathering.conditions)
        step = _rows_at_once(len(gathering.conditions))
        with self.running(snapshot, cancellation) as query:
            ((rows,),) = query.rows(_ROWS, [])
            for start in range(0, rows or 0, step):
                gathering.add(query.arrays(statement.sql, statement.part(start, start + step)))
            dominance = Dominance(program, magnitudes_of(program, tests, rules, one_row_each=one_row_each))
            if dominance.sums:
                statement = render_magnitudes(program, dominance.sums, one_row_each)
                for start, end in query.ranges_of_subjects(0 if one_row_each else len(dominance.sums)):
                    dominance.add(query.rows(statement.sql, statement.part(start, end)))
        return gathering.finish(dominance.finish(tests, rules))

    def fit_rows(self, snapshot: Snapshot, program: Program, cancellation: Cancellation | None = None) -> FitRows:
        """What a fit reads of the rows in which nothing is missing: what `plan.fit_rows` gives, in some order. All of
        them are in memory: 8 bytes for each reading. Raises what `grouped_sums` does."""
        statement = render_readings(program)
        with self.running(snapshot, cancellation) as query:
            arrays = query.arrays(statement.sql, statement.parameters)
            units = [arrays[f"#r{at}"] for at in range(len(program.readings))]
            return rows_of(program, _cells(program, arrays), units, arrays[SUBJECT])

    def close(self) -> None:
        """Close every snapshot; later questions open theirs again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _cursor(self, snapshot: Snapshot) -> duckdb.DuckDBPyConnection:
        with self._lock:
            connection = self._open.get(snapshot.path) or self._connect(snapshot)
            self._open[snapshot.path] = connection
            self._open.move_to_end(snapshot.path)
            while len(self._open) > OPEN_SNAPSHOTS:
                self._open.popitem(last=False)[1].close()
            return connection.cursor()

    def _connect(self, snapshot: Snapshot) -> duckdb.DuckDBPyConnection:
        failure = SnapshotDamaged(table=snapshot.table, version=snapshot.version, holder=self._holder)
        connection = quietly(lambda: duckdb.connect(str(snapshot.path), read_only=True, config=self._config), failure)
        quietly(lambda: connection.execute(_LOCK_DOWN), EngineFailed(holder=self._holder))
        return connection

    @contextmanager
    def running(self, snapshot: Snapshot, cancellation: Cancellation | None) -> Iterator["Query"]:
        """A job's statements on a snapshot, one after the other. A key or a subject that no publishing could have
        written fails: the snapshot is not ours."""
        cursor, cancellation = self._cursor(snapshot), cancellation or Cancellation("")
        try:
            with cancellation.watching(cursor):
                yield Query(cursor, self._holder, cancellation)
        except NotOurs as error:
            problem = str(error)
        else:
            return
        finally:
            cursor.close()
        raise EngineFailed(holder=self._holder, private=problem)


class Query:
    """The statements of one job. Each raises EngineFailed, or JobCancelled if that is why it failed."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, holder: str, cancellation: Cancellation) -> None:
        self._cursor = cursor
        self._holder = holder
        self._cancellation = cancellation

    def rows(self, sql: str, parameters: Sequence[int]) -> list[tuple[int | None, ...]]:
        return self._run(lambda: self._cursor.execute(sql, parameters).fetchall())

    def arrays(self, sql: str, parameters: Sequence[int]) -> dict[str, Any]:
        """The columns by name; masked arrays where there are NULLs."""
        return self._run(lambda: self._cursor.execute(sql, parameters).fetchnumpy())

    def ranges_of_subjects(self, sums: int) -> Iterator[tuple[int, int]]:
        """Ranges of subjects, from … up to and without …, with few enough rows to keep so many sums for each; one range
        if there are none to keep."""
        ((rows, first, last),) = self.rows(_SUBJECTS, [])
        if rows and first is not None and last is not None:
            parts = -(-rows // _rows_at_once(sums * _SUM_BYTES)) if sums else 1
            width = -(-(last - first + 1) // parts)
            yield from ((start, start + width) for start in range(first, last + 1, width))

    def _run(self, action: Callable[[], T]) -> T:
        cancelled = JobCancelled(job=self._cancellation.job)
        if self._cancellation.cancelled:
            raise cancelled
        try:
            return quietly(action, EngineFailed(holder=self._holder))
        except EngineFailed:
            if self._cancellation.cancelled:
                raise cancelled from None
            raise


def _rows_at_once(bytes_each: int) -> int:
    """How many rows, or groups of rows, are in memory together if each takes so much beside its keys and subject."""
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _PART_BYTES // (_KEY_BYTES + bytes_each)))


def _cells(program: Program, arrays: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """[rows]: each row's cell, from its keys. Raises NotOurs."""
    keys = [arrays[f"#k{at}"] for at in range(len(program.keys))]
    if not keys:
        return np.zeros(len(arrays["#r0"]), dtype=np.int64)
    columns = [np.ma.filled(key.astype(object), None) if np.ma.isMaskedArray(key) else key for key in keys]
    known: dict[tuple[Any, ...], int] = {}
    found = np.empty(len(keys[0]), dtype=np.int64)
    for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        if values not in known:
            known[values] = cell_of(program, values)
        found[row] = known[values]
    return found


def _products(query: Query, program: Program, products: Products) -> list[int]:
    """All sums, the row count first. A factor that is NULL adds nothing."""
    ((count,),) = query.rows(*render(replace(program, sums=program.sums[: ROW_COUNT + 1])))
    ((rows,),) = query.rows(_ROWS, [])
    statement = render_factors(program, products.condition, products.factors)
    totals = [0] * len(products.pairs)
    step = min(products.rows, _rows_at_once(_KEY_BYTES * len(products.factors)))
    for start in range(0, rows or 0, step):
        arrays = query.arrays(statement.sql, statement.part(start, start + step))
        columns = [np.ma.filled(arrays[f"#f{at}"], 0).astype(np.float64) for at in range(len(products.factors))]
        part = products.sums(np.column_stack(columns))
        totals = [total + more for total, more in zip(totals, part, strict=True)]
    return [count or 0, *totals]


def _spread(program: Program, rows: Iterable[tuple[int | None, ...]]) -> list[int]:
    """Put each row's sums into its cell. Raises NotOurs."""
    keys, width = len(program.keys), len(program.sums)
    totals = [0] * (program.cells * width)
    for row in rows:
        start = width * cell_of(program, row[:keys])
        totals[start : start + width] = [total or 0 for total in row[keys:]]
    return totals
