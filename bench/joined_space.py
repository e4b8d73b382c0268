"""A joined GROUP BY in a running space on loopback: `python -m bench.joined_space`, with the rows of each holder.

Two agencies in processes of their own, 3072-bit keys, nothing prepared; half of each one's firms are at the other.
Twelve groups of the one, COUNT and SUM of the other, against DuckDB on both tables in one process. Memory is the most
that each process ever had.
"""

import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pandas as pd

import ceiba
from bench.crypto import Figure
from bench.joins import GROUPS, alone
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.schema import Column, ColumnType, Identifier, Schema
from ceiba_scenarios import Sandbox

COUNT = 20_000


def _schema(table: str, column: Column) -> Schema:
    identifiers = (Identifier(column="code", kind=IdentifierKind.TEXT),)
    return Schema(table=table, subject_key="code", identifiers=identifiers, columns=(column,))


SECTORS = tuple(f"sector {number:02d}" for number in range(GROUPS))
SCHEMAS = {
    "tax.firms": _schema("tax.firms", Column(name="sector", type=ColumnType.CATEGORY, domain=SECTORS)),
    "insurance.firms": _schema(
        "insurance.firms", Column(name="staff", type=ColumnType.INT, minimum="0", maximum="9999")
    ),
}


def tables(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`count` firms of each agency, the upper half of the one's with the other."""
    codes = [f"firm {number:09d}" for number in range(count + count // 2)]
    tax = pd.DataFrame({"code": codes[:count], "sector": [SECTORS[number % GROUPS] for number in range(count)]})
    staff = [number * 7919 % 10_000 for number in range(count)]
    return tax, pd.DataFrame({"code": codes[-count:], "staff": staff})


def measure_joined_space(count: int = COUNT) -> dict[str, Figure]:
    """Every figure; the answer is checked against DuckDB's."""
    tax, insurance = tables(count)
    holders = {"tax": {"tax.firms": tax}, "insurance": {"insurance.firms": insurance}}
    title = f"a space, {count:,} × {count:,}, {GROUPS} groups"
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(holders, schemas=SCHEMAS, folder=Path(folder) / "space") as lab,
    ):
        bank = lab.merchant("bank", agreed=False)
        lab.agree_jointly(bank, tuple(SCHEMAS))
        asked = bank.join(*SCHEMAS, on="code").group_by("sector").agg(n=ceiba.subjects(), staff=ceiba.sum("staff"))
        started = time.perf_counter()
        result = asked.run(progress=False, deadline=7200)
        seconds = time.perf_counter() - started
        peaks = {name: _peak_megabytes(process.pid) for name, process in lab.processes.items()}
    started = time.perf_counter()
    plain = duckdb.sql(
        "SELECT sector, COUNT(*), SUM(staff) FROM tax JOIN insurance USING (code) GROUP BY sector ORDER BY sector"
    ).fetchall()
    baseline = time.perf_counter() - started
    assert result.rows == [(sector, n, int(staff)) for sector, n, staff in plain]
    figures = {f"{title}: peak memory of {name}, MB": alone(peak) for name, peak in peaks.items()}
    whole: Figure = {"ours": seconds, "baseline": baseline, "ratio": seconds / baseline, "reach": None}
    return {f"{title}: from the question to the answer, s": whole, **figures}


def _peak_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main(arguments: list[str]) -> None:
    """Print the figures."""
    for name, figure in measure_joined_space(int(arguments[0]) if arguments else COUNT).items():
        print(f"{name:<85}{figure['ours']:>12,.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
