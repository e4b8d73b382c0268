"""What linking two holders' identifiers costs, against openmined-psi on the same lists: `python -m bench.linkage`,
with the identifiers of each holder as an argument.

Wall time, both sides in one process on one machine, nothing sent. Both count an intersection exactly and both hide
which identifiers are in it. What is compared is not the same: openmined-psi is C++ on one thread and tells the client
the size; ours uses all cores, the size goes to a third party, and P-256 there is ristretto255 here. It is measured
before and after ours. Evaluation by all holders, with proofs, has no baseline; its parts add up for each identifier.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.crypto import Figure
from ceiba_protocol.linkage.key_use import SUITE, prove_use, verify_use
from ceiba_protocol.linkage.oprf import BATCH, published_size, run_linkage
from ceiba_protocol.linkage.ristretto import (
    base_multiply,
    decode_points,
    encode_points,
    hash_all,
    multiply_all,
    random_scalar,
)
from ceiba_protocol.trust.agreement import Mode

COUNT = 100_000
WITH_PROOFS = 10_000
PYTHON = Path(".psi/bin/python")
PROGRAM = Path(__file__).parent / "peers" / "openmined_psi.py"


def lists(count: int) -> tuple[list[str], list[str]]:
    """Two lists of 18 characters each, half of each in the other."""
    everybody = [f"91{number:016d}" for number in range(count + count // 2)]
    return everybody[:count], everybody[-count:]


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def openmined(count: int) -> float:
    """Seconds, after checking the size that it finds."""
    if not PYTHON.exists():
        sys.exit("openmined-psi is not installed; run `make bench`.")
    first, second = lists(count)
    shared = len(set(first) & set(second))
    done = subprocess.run(
        [str(PYTHON), str(PROGRAM), str(shared)],
        input="\n".join([*first, *second[shared:]]),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    taken, size = done.stdout.split()
    assert int(size) == shared, "both must count the same lists"
    return float(taken)


def counting(count: int) -> dict[str, Figure]:
    """How many of `count` identifiers are at both of two holders."""
    first, second = lists(count)

    def ours() -> None:
        found = run_linkage({"tax": first, "fund": second}, Mode.CARDINALITY, 10, count, os.urandom)
        assert found.size == published_size(len(set(first) & set(second)))

    before, mine, after = openmined(count), seconds(ours), openmined(count)
    baseline = (before + after) / 2
    return {
        f"counting {count:,} × {count:,}, two holders": {
            "ours": mine, "baseline": baseline, "ratio": mine / baseline, "reach": "≤ 1 ×",
        }
    }  # fmt: skip


def revealing(count: int) -> dict[str, Figure]:
    """Tokens by both holders' keys, every answer proved and checked."""
    first, second = lists(count)
    identifiers = {"tax": first, "fund": second}
    mine = seconds(lambda: run_linkage(identifiers, Mode.REVEALED, 10, count, os.urandom))
    return {f"revealing {count:,} × {count:,}, two holders, with proofs": alone(mine)}


def parts() -> dict[str, Figure]:
    """Seconds for each identifier, all cores."""
    secret = random_scalar(os.urandom)
    messages = [b"%d" % number for number in range(BATCH)]
    points = hash_all(messages, b"bench")
    products = multiply_all(secret, points)
    encoded = encode_points(products)
    proof = prove_use(secret, points, products, SUITE, os.urandom)
    public = base_multiply(secret)
    actions: dict[str, Callable[[], object]] = {
        "hash to the group": lambda: hash_all(messages, b"bench"),
        "check a point": lambda: decode_points(encoded, "bench"),
        "multiply": lambda: multiply_all(secret, points),
        "prove": lambda: prove_use(secret, points, products, SUITE, os.urandom),
        "verify a proof": lambda: verify_use(public, points, products, SUITE, proof, "bench"),
    }
    return {f"of linkage, each identifier: {name}": alone(seconds(action) / BATCH) for name, action in actions.items()}


def alone(ours: float) -> Figure:
    return {"ours": ours, "baseline": None, "ratio": None, "reach": None}


def measure_linkage(count: int = COUNT) -> dict[str, Figure]:
    return counting(count) | revealing(min(count, WITH_PROOFS)) | parts()


if __name__ == "__main__":
    for name, figure in measure_linkage(*map(int, sys.argv[1:])).items():
        print(name, figure)
