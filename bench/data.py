"""The benchmark's rows, the same for the same seed: 100 groups, an integer and a decimal with two places."""

from pathlib import Path

import duckdb

COLUMNS = [
    {"name": "g", "type": "int", "domain": list(range(100)), "nullable": False},
    {"name": "x", "type": "int", "minimum": 0, "maximum": 9999, "nullable": False},
    {"name": "y", "type": "decimal", "resolution": "0.01", "minimum": "-100.00", "maximum": "100.00",
     "nullable": False},
]  # fmt: skip


def schema(grade: str) -> dict[str, object]:
    """With every column of that grade: public has no gate."""
    return {"table": "bench", "columns": [{**column, "grade": grade} for column in COLUMNS]}


def write_rows(path: Path, rows: int, seed: int) -> Path:
    """`rows` rows as Parquet, unless they are there already. Values come from DuckDB's hash of seed and row number."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        select = f"""
            SELECT CAST(hash({seed}, i, 1) % 100 AS INTEGER) AS g,
                   CAST(hash({seed}, i, 2) % 10000 AS INTEGER) AS x,
                   CAST((hash({seed}, i, 3) % 20001)::BIGINT - 10000 AS DECIMAL(9, 2)) / 100 AS y
            FROM range({rows}) AS t(i)"""
        with duckdb.connect() as connection:
            connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path
