"""The holder's engine: a question's integer totals from one snapshot, by DuckDB.

The connection can read its one file and nothing else: no other file, no extension, no change of settings. DuckDB's
error texts can quote values, so none leaves this module; the operator reads the exception's class name.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from ceiba_node.engines.rendering import render
from ceiba_node.quiet import quietly
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.errors import EngineFailed, JobCancelled, SnapshotDamaged
from ceiba_protocol.plan import Program

OPEN_SNAPSHOTS = 2
"""Snapshots kept open for the next question: the current one, and one that is being replaced or compared with."""
_INTERRUPT_EVERY = 0.01
"""Seconds between interrupts until a query has stopped: DuckDB forgets one that arrives before the query begins."""

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
        sql, parameters = render(program)
        cursor = self._cursor(snapshot)
        try:
            with (cancellation or Cancellation("")).watching(cursor):
                rows = self._run(cursor, sql, parameters, cancellation)
        finally:
            cursor.close()
        return self._spread(program, rows)

    def bounded_sums(self, snapshot, program, cells_per_subject, order_key, one_row_each, cancellation=None):
        return self.grouped_sums(snapshot, program, cancellation)

    def evidence(self, snapshot, program, tests, rules, one_row_each, cancellation=None):
        import numpy as np
        from pyroaring import BitMap
        from ceiba_node.engines.evidence import Evidence
        from ceiba_protocol.disclosure.dominance import cannot_dominate, dominates
        from ceiba_protocol.program import evaluate

        cursor = self._cursor(snapshot)
        rel = cursor.execute('SELECT * FROM "rows"')
        names = [d[0] for d in rel.description]
        subj, mem, mags = {}, {}, {}
        for row in rel.fetchall():
            r = dict(zip(names, row))
            if program.condition is not None and evaluate(program.condition, r) != 1:
                continue
            cell = program.cell_of(tuple(evaluate(k.node, r) for k in program.keys))
            for n, t in enumerate(tests.tests):
                if evaluate(t.support, r) == 1:
                    subj.setdefault((cell, n), set()).add(r["#subject"])
                if t.audited and evaluate(t.members, r) == 1:
                    mem.setdefault((cell, n), BitMap()).add(r["#subject"])
                for one in t.magnitudes:
                    v = evaluate(program.sums[one].node, r)
                    if v is not None:
                        d = mags.setdefault((cell, n, one), {})
                        d[r["#subject"]] = d.get(r["#subject"], 0) + abs(v)
        subjects = np.zeros((program.cells, len(tests)), dtype=np.int64)
        for k, v in subj.items():
            subjects[k] = len(v)
        dom = np.zeros((program.cells, len(tests)), dtype=bool)
        for (cell, n, one), d in mags.items():
            if not cannot_dominate(program.sums[one].node, rules) and dominates(
                max(d.values()), sum(d.values()), rules
            ):
                dom[cell, n] = True
        return Evidence(subjects, mem, dom)

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

    def _run(
        self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: list[int], cancellation: Cancellation | None
    ) -> list[tuple[int | None, ...]]:
        """Raises EngineFailed, or JobCancelled if that is why it failed."""
        try:
            return quietly(lambda: cursor.execute(sql, parameters).fetchall(), EngineFailed(holder=self._holder))
        except EngineFailed:
            if cancellation is not None and cancellation.cancelled:
                raise JobCancelled(job=cancellation.job) from None
            raise

    def _spread(self, program: Program, rows: list[tuple[int | None, ...]]) -> list[int]:
        """Put each row's sums into its cell. A key outside the public domain fails: the snapshot is not ours."""
        keys, width = len(program.keys), len(program.sums)
        totals = [0] * (program.cells * width)
        for row in rows:
            try:
                start = width * program.cell_of(row[:keys])
            except KeyError:
                start = -1
            if start < 0:
                raise EngineFailed(holder=self._holder, private="a key outside the public domain")
            totals[start : start + width] = [total or 0 for total in row[keys:]]
        return totals
