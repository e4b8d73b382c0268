"""What a whole space costs, against DuckDB on the same rows as the baseline: `python -m bench.space`.

Three holders with real processes on loopback, on one machine; every figure is the median of RUNS warm runs, wall
time. The baseline runs the same SQL on each holder's rows, one holder after the other, and merges nothing: DuckDB
with two threads, its own file format, the connection open and the file in memory. Two parts are measured apart, in
this process, on the same snapshots: *scan*, the holders' engines one after the other; *cryptography*, masking and
encryption at all holders, the product, and the decryption. What is left of the whole is *orchestration*: messages,
signatures, durable writes, and waiting for each other.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from bench.crypto import Figure, Round
from bench.data import schema, write_rows
from ceiba.query import Query
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_protocol.rounds import layout_of
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_scenarios import Sandbox

HOLDERS = ("north", "south", "west")
SQL = "SELECT g, COUNT(*), SUM(x), AVG(x), VAR_SAMP(x), SUM(y), AVG(y), VAR_SAMP(y) FROM bench GROUP BY g"
RUNS = 15
SEED = 7
MERCHANT = "bank"
ONE_QUESTION = """
import time; started = time.perf_counter()
import ceiba; imported = time.perf_counter()
with ceiba.connect(identity={identity!r}) as space:
    space.sql({sql!r}).run()
print(imported - started, time.perf_counter() - started)
"""


def median_seconds(action: Callable[[], object], runs: int = RUNS) -> float:
    """Wall time of one run: the median, after one run that warms everything up."""
    action()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def plaintext(files: list[Path]) -> float:
    """The baseline: the same SQL on each holder's own DuckDB table, one after the other."""
    connections = []
    for file in files:
        connection = duckdb.connect(config={"threads": 2})
        connection.execute(f"CREATE TABLE bench AS SELECT * FROM '{file}'")
        connections.append(connection)
    seconds = median_seconds(lambda: [connection.execute(SQL).fetchall() for connection in connections])
    for connection in connections:
        connection.close()
    return seconds


def scan(lab: Sandbox, query: Query) -> float:
    """The holders' engines on their snapshots, one after the other."""
    with tempfile.TemporaryDirectory() as spill:
        engines = [
            DuckDBEngine(holder=holder, memory_limit="400MB", threads=2, temp_directory=Path(spill))
            for holder in HOLDERS
        ]
        snapshots = [lab.node_home(holder).snapshots().current("bench") for holder in HOLDERS]
        pairs = list(zip(engines, snapshots, strict=True))
        seconds = median_seconds(lambda: [engine.grouped_sums(snapshot, query.program) for engine, snapshot in pairs])
        for engine in engines:
            engine.close()
    return seconds


def cryptography(lab: Sandbox, query: Query) -> float:
    """Everything between the plain sums and the opened total, with prepared encryption, one party after the other."""
    identity = lab.merchant_home(MERCHANT).identity()
    assert identity.encryption is not None
    public_key, private_key = identity.encryption.keypair
    capacities = [lab.node_home(holder).snapshots().current("bench").row_capacity for holder in HOLDERS]
    layout = layout_of(query.program, capacities, public_key.n.bit_length())
    encryptor = Encryptor.for_count(public_key.n, 10**6, os.urandom)
    encryptor.pool.add(encryptor.obfuscators((RUNS + 1) * len(HOLDERS) * layout.ciphertexts))
    whole = Round(layout, HOLDERS, private_key)
    return median_seconds(lambda: whole.run(encryptor))


def cold_start(lab: Sandbox) -> tuple[float, float]:
    """Seconds of `import ceiba`, and from there to the first answer, in a new process."""
    code = ONE_QUESTION.format(identity=str(lab.merchant_home(MERCHANT).folder), sql=SQL)
    environment = os.environ | {"CEIBA_PASSPHRASE_FILE": str(lab.passphrase_file)}
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        runs.append(tuple(float(part) for part in done.stdout.split()))
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def peak_memory(lab: Sandbox) -> float:
    """The largest peak of a node's resident memory, in bytes."""
    peaks = []
    for holder in HOLDERS:
        status = Path(f"/proc/{lab.processes[holder].pid}/status").read_text()
        peaks += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    return float(max(peaks))


def measure(rows: int, grade: str, reach: str) -> dict[str, Figure]:
    """The query over `rows` rows at each of three holders; `reach` is DESIGN §9's ratio.

    A warm run is the same question again, which is not compared with earlier answers; the first one is, and stores who
    was behind it. `python -m bench.audit` measures comparisons.
    """
    folder = Path(__file__).parent / "data"
    files = [
        write_rows(folder / f"{rows}-{holder}.parquet", rows, SEED + place) for place, holder in enumerate(HOLDERS)
    ]
    tables = {holder: {"bench": file} for holder, file in zip(HOLDERS, files, strict=True)}
    baseline = plaintext(files)
    with Sandbox(tables, schemas={"bench": schema(grade)}) as lab:
        query = lab.merchant(MERCHANT).sql(SQL)
        started = time.perf_counter()
        query.run()
        first = time.perf_counter() - started
        whole = median_seconds(lambda: query.run().to_pandas())
        noisy = median_seconds(lambda: query.run(noise=True).to_pandas())
        wire = query.run().wire_bytes / len(HOLDERS)
        parts = {"scan": scan(lab, query), "cryptography": cryptography(lab, query)}
        imported, first_answer = cold_start(lab)
        memory = peak_memory(lab)
    name = f"3 × {rows:,} rows, {'no gate' if grade == 'public' else 'with gate'}"
    figures: dict[str, Figure] = {
        f"{name}: SDK call to data frame": _against(whole, baseline, reach),
        f"{name}: the first time": _against(first, baseline, None),
        f"{name}: with noise": _against(noisy, baseline, None),
        f"{name}: scan": _against(parts["scan"], baseline, None),
        f"{name}: cryptography": _against(parts["cryptography"], baseline, None),
        f"{name}: orchestration": _against(whole - sum(parts.values()), baseline, None),
        f"{name}: wire bytes per holder": _plain(wire, "≤ 100,000 bytes"),
        f"{name}: memory of a node, peak bytes": _plain(memory, "≤ 600 MB"),
        f"{name}: import ceiba": _plain(imported, "≤ 0.5 s"),
        f"{name}: import to first answer": _plain(first_answer, "≤ 2 s"),
    }
    return figures


def _against(ours: float, baseline: float, reach: str | None) -> Figure:
    """`ratio` is ours to the baseline: below 1 we are faster."""
    return {"ours": ours, "baseline": baseline, "ratio": ours / baseline, "reach": reach}


def _plain(ours: float, reach: str) -> Figure:
    return {"ours": ours, "baseline": None, "ratio": None, "reach": reach}


def measure_all() -> dict[str, Figure]:
    """Both sizes."""
    return (
        measure(1_000_000, "public", "≤ 2 ×")
        | measure(1_000_000, "internal", "≤ 3 ×")
        | measure(10_000_000, "internal", "≤ 1.7 ×")
    )


if __name__ == "__main__":
    for name, figure in measure_all().items():
        print(name, figure)
