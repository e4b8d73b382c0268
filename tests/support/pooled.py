"""DuckDB's answer on everybody's rows in one table: what the answer would be if nobody had to keep anything."""

from collections.abc import Mapping, Sequence

import duckdb

from ceiba_protocol.program import Row

_WIDTH_BUCKET = """CREATE MACRO width_bucket(x, lo, hi, n) AS CASE WHEN x < lo THEN 0 WHEN x >= hi THEN n + 1
    ELSE CAST(floor((x - lo) * n / (hi - lo)) AS INTEGER) + 1 END"""


def pooled(sql: str, rows: Mapping[str, Sequence[Row]]) -> list[tuple]:
    """Of the table health.heart in `members`; `rows` are snapshots: categories and units become what people write."""
    with duckdb.connect() as database:
        database.execute(_WIDTH_BUCKET)
        database.execute("CREATE SCHEMA health")
        database.execute("CREATE TABLE health.heart (sex VARCHAR, age INTEGER, chol DECIMAL(9,1))")
        everybody = []
        for row in (row for own in rows.values() for row in own):
            chol = None if row["chol"] is None else row["chol"] / 10
            everybody.append([["female", "male"][row["sex"] or 0], row["age"], chol])
        database.executemany("INSERT INTO health.heart VALUES (?, ?, ?)", everybody)
        return database.execute(sql).fetchall()
