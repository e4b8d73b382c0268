"""Many sums of products by one matrix product: the same integers as the reference, or the plain way."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ceiba_node.engines import duckdb_engine
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.engines.products import products_of
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.plan import Named, Plan, Program, compile_plan, grouped_sums
from ceiba_protocol.program import Comparison, Row
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.moments import Moments
from tests.support.snapshots import write_snapshot

FOLDER = Path(tempfile.mkdtemp(prefix="ceiba-products-"))
WIDTH = 24
NAMES = [f"c{place}" for place in range(WIDTH)]
ABOVE = Comparing(comparison=Comparison.GREATER, left=ColumnValue(name="c0"), right=Number(value="0"))


@pytest.fixture
def engine() -> Iterator[DuckDBEngine]:
    engine = DuckDBEngine(holder="cleveland", memory_limit="300MB", threads=2, temp_directory=FOLDER / "spill")
    yield engine
    engine.close()


def schema(largest: int, *, nullable: bool) -> Schema:
    columns = [
        {"name": name, "type": "int", "minimum": -largest, "maximum": largest, "nullable": nullable} for name in NAMES
    ]
    return Schema.from_plain({"table": "lab.wide", "version": 1, "title": "Wide", "columns": columns})


def program(made: Schema, *, filtered: bool) -> Program:
    moments = Moments(values=tuple(ColumnValue(name=name) for name in NAMES))
    named = Named(name="m", statistic=moments)
    condition = ABOVE if filtered else None
    return compile_plan(Plan(table=made.table, schema_digest=made.digest(), filter=condition, outputs=(named,)), made)


def rows(largest: int, *, nullable: bool, count: int = 120) -> list[Row]:
    draw = np.random.default_rng(3)
    values = draw.integers(-largest, largest + 1, (count, WIDTH))
    missing = draw.random((count, WIDTH)) < (0.02 if nullable else 0)
    return [
        {name: None if gone else int(value) for name, value, gone in zip(NAMES, row, lacks, strict=True)}
        for row, lacks in zip(values, missing, strict=True)
    ]


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("largest", [1, 999, 1_000_000])
def test_sums_are_the_references(
    engine: DuckDBEngine, monkeypatch: pytest.MonkeyPatch, largest: int, nullable: bool, filtered: bool
) -> None:
    """Also when the rows are read in several parts."""
    monkeypatch.setattr(duckdb_engine, "_FEWEST_ROWS", 64)
    monkeypatch.setattr(duckdb_engine, "_PART_BYTES", 1)
    made, some = schema(largest, nullable=nullable), rows(largest, nullable=nullable)
    asked = program(made, filtered=filtered)
    assert products_of(asked, 10**6) is not None
    assert engine.grouped_sums(write_snapshot(FOLDER, made, some), asked) == grouped_sums(asked, some)


def test_values_too_large_for_exact_parts_are_summed_by_themselves(engine: DuckDBEngine) -> None:
    largest = 2**40
    made, some = schema(largest, nullable=False), rows(largest, nullable=False, count=50)
    asked = program(made, filtered=False)
    assert products_of(asked, 10**6) is None
    assert engine.grouped_sums(write_snapshot(FOLDER, made, some), asked) == grouped_sums(asked, some)


def test_a_part_is_never_so_large_that_a_sum_could_round() -> None:
    for largest in (999, 1_000_000, 2_000_000):
        products = products_of(program(schema(largest, nullable=False), filtered=False), 10**9)
        assert products is not None
        assert products.rows * largest**2 <= 2**53
