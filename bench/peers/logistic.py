"""Logistic regression over four parties, here and with Flower's SecAgg+, in one run: `python -m bench.peers.logistic`,
with the rows of each party as an argument.

The same rows and the same method: Newton's, from zero, as many rounds as ours takes. What is compared is not the same:

* SecAgg+ clips beyond ±8 and rounds at random to one of 2²² steps, so its coefficients are approximate. Its clients
  scale their columns by the limits in the schema, lest anything be clipped. Ours are exact to the fit's tolerance.
* Flower's server sees the sum of every round, gradient and Hessian, and the model after it; it also chooses at which
  coefficients to ask. Here the holders see the sums of every round and nobody chooses; the coordinator sees none, and
  the merchant the final fit alone.
* Flower has neither agreements, a gate, budgets, signatures, receipts nor a log; it runs here without TLS and without
  authenticating clients. A round of it can do without one client of the four; three can open the masks of another.
* Flower's time is from its first round to its last step; ours from the merchant's call to a fit with standard errors,
  the median of RUNS. Starting what stays up is in neither.

Little of a deployed round is SecAgg+. It has four exchanges; in each the server and the SuperNodes look for messages
every three seconds (flwr 1.42 has no option for it), and each SuperNode starts a process, about a second of processor
time, on one machine here. So the same app runs once more in one process, with calls for messages: what clients and
SecAgg+ compute, which no deployment reaches. Ours has its processes, network and disks in both ratios.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from bench import fits
from bench.peers import flower
from ceiba_scenarios import Sandbox

ROWS, RUNS = 10_000, 5
MIDDLE, SCALE = 500, 300  # of the columns from 0 to 999: what is left is between -2 and 2


def main(count: int = ROWS) -> None:
    parts = {holder: fits.rows(count, seed) for seed, holder in enumerate(fits.HOLDERS)}
    optimum = fits.statsmodels_logit(scaled(pd.concat(parts.values()))).params.to_numpy()
    fitted = {"no gate": ours(parts, "public"), "with gate": ours(parts, "internal")}
    rounds = max(outcome.iterations for _, outcome in fitted.values())
    print(f"logistic, 4 × {count:,} rows × {fits.COLUMNS} columns:")
    for name, (seconds, outcome) in fitted.items():
        show(f"ours, {name}", seconds, outcome.iterations, [on_scaled(outcome.coefficients)], optimum)
    clients = [client_rows(part) for part in parts.values()]
    for name, run in (("Flower, deployed", flower.deployed), ("Flower, in one process", flower.in_process)):
        found = run(clients, rounds)
        show(name, found["seconds"], rounds, found["coefficients"], optimum)
        for ours_name, (seconds, outcome) in fitted.items():
            each = seconds / outcome.iterations / (found["seconds"] / rounds)
            print(f"    ours, {ours_name}: {seconds / found['seconds']:.2g} × in total, {each:.2g} × an iteration")


def ours(parts: dict[str, pd.DataFrame], grade: str) -> tuple[float, Any]:
    """The median of RUNS warm runs in seconds, and the fit."""
    tables = {holder: {"bench": part} for holder, part in parts.items()}
    with Sandbox(tables, schemas={"bench": fits.schema(grade)}) as lab:
        table = lab.merchant("bank").table("bench")
        outcome = table.logistic(fits.formula()).run()
        seconds = []
        for _ in range(RUNS):
            started = time.perf_counter()
            table.logistic(fits.formula()).run()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), outcome


def show(name: str, seconds: float, rounds: int, coefficients: list[Any], optimum: np.ndarray) -> None:
    """`coefficients`, after each round or the last one alone: how far the last is from the pooled optimum."""
    away = np.abs(np.asarray(coefficients)[-1] - optimum).max()
    print(f"  {name}: {seconds:.3f} s, {rounds} iterations, {seconds / rounds:.3f} s each, {away:.1e} from the optimum")


def scaled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{name: (frame[name] - MIDDLE) / SCALE for name in frame if name.startswith("x")})


def on_scaled(coefficients: tuple[float, ...]) -> np.ndarray:
    """The coefficients for `scaled` columns from those for the columns as they are: the intercept, those of x, of d."""
    found = np.array(coefficients)
    steep = found[1 : 1 + fits.COLUMNS // 2]
    found[0] += MIDDLE * steep.sum()
    steep *= SCALE  # a view of `found`
    return found


def client_rows(part: pd.DataFrame) -> np.ndarray:
    """What a client has: [rows, intercept + columns + outcome]."""
    return np.column_stack([np.ones(len(part)), scaled(part).to_numpy(float)])


if __name__ == "__main__":
    main(*(int(count) for count in sys.argv[1:2]))
