"""What disclosure control costs at a holder's engine, against the plain sums of the same question: `python -m
bench.disclosure_engine [ROWS]`.

In this process, on a snapshot made by DuckDB, warm; processor time of all threads, the least of RUNS, because a shared
machine only ever adds to it: on two idle cores the wall time is between half of it and all. The question is that of
`bench.space`: 100 groups, seven aggregates of two columns.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from bench.data import SCHEMA
from bench.space import SEED, SQL
from ceiba.sql import parse
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.disclosure.support import tests_of
from ceiba_protocol.plan import Program, compile_plan
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.v1.common_pb2 import Signed

RUNS = 3
CELLS_PER_SUBJECT = 2
TABLE = Schema.from_plain(SCHEMA)


def question() -> Program:
    plan, _ = parse(SQL, lambda _: TABLE)
    return compile_plan(plan, TABLE)


def make_snapshot(path: Path, rows: int, rows_per_subject: int) -> Snapshot:
    """`rows` rows as publishing would store them. With several to a subject, they are scattered over the table."""
    subject = "i" if rows_per_subject == 1 else f"hash({SEED}, i, 4) % {rows // rows_per_subject}"
    with duckdb.connect(str(path)) as database:
        database.execute(f"""
            CREATE TABLE rows AS SELECT
                CAST(hash({SEED}, i, 1) % 100 AS TINYINT) AS g,
                CAST(hash({SEED}, i, 2) % 10000 AS SMALLINT) AS x,
                CAST((hash({SEED}, i, 3) % 20001)::BIGINT - 10000 AS SMALLINT) AS y,
                CAST({subject} AS INTEGER) AS "#subject"
            FROM range({rows}) AS t(i)""")
    return Snapshot("bench", "0" * 64, TABLE, rows, {}, datetime.now(UTC), path, Signed())


@contextmanager
def opened(rows: int, rows_per_subject: int) -> Iterator[tuple[DuckDBEngine, Snapshot]]:
    """An engine with a node's usual limits, and a snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        engine = DuckDBEngine(holder="bench", memory_limit="400MB", threads=2, temp_directory=Path(folder) / "spill")
        yield engine, make_snapshot(Path(folder) / "rows.duckdb", rows, rows_per_subject)
        engine.close()


def least_seconds(action: Callable[[], object]) -> float:
    action()
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def measure_evidence(rows: int, rows_per_subject: int) -> dict[str, float]:
    """Seconds of the plain sums, and of the evidence for them."""
    program, rules = question(), RULES[Grade.INTERNAL]
    tests, alone = tests_of(program), rows_per_subject == 1
    with opened(rows, rows_per_subject) as (engine, snapshot):
        return {
            "sums": least_seconds(lambda: engine.grouped_sums(snapshot, program)),
            "evidence": least_seconds(lambda: engine.evidence(snapshot, program, tests, rules, alone)),
        }


def measure_bounding(rows: int, rows_per_subject: int) -> dict[str, float]:
    """Seconds of the plain sums, and of bounded ones: with a choice of cells, and with room for all of them."""
    program = question()
    with opened(rows, rows_per_subject) as (engine, snapshot):

        def bounded(cells_per_subject: int) -> float:
            return least_seconds(lambda: engine.bounded_sums(snapshot, program, cells_per_subject, b"bench", False))

        return {
            "sums": least_seconds(lambda: engine.grouped_sums(snapshot, program)),
            f"bounded, at most {CELLS_PER_SUBJECT} cells": bounded(CELLS_PER_SUBJECT),
            "bounded, any number of cells": bounded(program.cells),
        }


def peak_megabytes() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for per_subject in (1, 3):
        print(f"{rows:,} rows, {per_subject} to a subject:", measure_evidence(rows, per_subject))
    print(f"{rows:,} rows, 3 to a subject:", measure_bounding(rows, 3))
    print(f"peak memory: {peak_megabytes():.0f} MB")
