"""What fits over a whole space cost, against statsmodels and lifelines on the pooled rows: `python -m bench.fits`.

Four holders with real processes on loopback, on one machine; every figure is the median of RUNS warm runs, wall time.
The baselines run in this process on one data frame, after one run that warms everything up.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from lifelines import KaplanMeierFitter

from bench.crypto import Figure
from bench.space import median_seconds
from ceiba.query import Table
from ceiba_scenarios import Sandbox

HOLDERS = ("north", "south", "east", "west")
RUNS = 5
ROWS, COLUMNS, MATRIX_COLUMNS = 100_000, 20, 100
LUNG = Path(__file__).parents[1] / "scenarios" / "ceiba_scenarios" / "data" / "lung.csv"
LUNG_SCHEMA = LUNG.with_suffix(".toml")


def rows(count: int, seed: int) -> pd.DataFrame:
    """Twenty columns, ten of them 0 or 1, and an outcome that depends on them."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {f"x{place}": draw.integers(0, 1000, count) for place in range(COLUMNS // 2)}
        | {f"d{place}": draw.integers(0, 2, count) for place in range(COLUMNS // 2)}
    )
    eta = (frame.x0 - 500) / 400 + 0.5 * frame.d0 - 0.3 * frame.d1
    return frame.assign(y=(draw.random(count) < 1 / (1 + np.exp(-eta))).astype(int))


def schema(grade: str) -> dict[str, Any]:
    numbers = [{"name": f"x{place}", "type": "int", "minimum": 0, "maximum": 999} for place in range(COLUMNS // 2)]
    flags = [{"name": f"d{place}", "type": "int", "minimum": 0, "maximum": 1} for place in range(COLUMNS // 2)]
    outcome = {"name": "y", "type": "int", "minimum": 0, "maximum": 1}
    return {
        "table": "bench",
        "columns": [one | {"nullable": False, "grade": grade} for one in (*numbers, *flags, outcome)],
    }


def formula() -> str:
    names = [f"{kind}{place}" for kind in "xd" for place in range(COLUMNS // 2)]
    return f"y ~ {' + '.join(names)}"


def statsmodels_logit(frame: pd.DataFrame) -> Any:
    design = sm.add_constant(frame.drop(columns="y").astype(float))
    return sm.GLM(frame.y, design, family=sm.families.Binomial()).fit()


def logistic(grade: str) -> dict[str, Figure]:
    """Logistic regression of 4 × 100,000 rows with 20 columns."""
    parts = {holder: rows(ROWS, seed) for seed, holder in enumerate(HOLDERS)}
    pooled = pd.concat(parts.values(), ignore_index=True)
    baseline = median_seconds(lambda: statsmodels_logit(pooled), 3)
    with Sandbox({holder: {"bench": part} for holder, part in parts.items()}, schemas={"bench": schema(grade)}) as lab:
        table = lab.merchant("bank").table("bench")
        started = time.perf_counter()
        outcome = table.logistic(formula()).run()
        first = time.perf_counter() - started
        whole = median_seconds(lambda: table.logistic(formula()).run(), RUNS)
    wanted = statsmodels_logit(pooled).params.to_numpy()
    np.testing.assert_allclose(outcome.coefficients, wanted, rtol=1e-6, atol=1e-9)
    allowed = 3 * baseline + 0.3 * outcome.iterations
    name = f"logistic, 4 × {ROWS:,} rows × {COLUMNS} columns, {'no gate' if grade == 'public' else 'with gate'}"
    return {
        f"{name}, {outcome.iterations} iterations": {
            "ours": whole, "baseline": baseline, "ratio": whole / baseline, "reach": f"≤ {allowed:.2f} s",
        },
        f"{name}: the first time": {"ours": first, "baseline": baseline, "ratio": first / baseline, "reach": None},
    }  # fmt: skip


def survival() -> dict[str, Figure]:
    """Kaplan–Meier and Cox on the 228 patients of the lung trial over four holders."""
    patients = pd.read_csv(LUNG)
    parts = {holder: patients.iloc[place :: len(HOLDERS)] for place, holder in enumerate(HOLDERS)}
    with tempfile.TemporaryDirectory():
        tables = {holder: {"research.lung": part} for holder, part in parts.items()}
        with Sandbox(tables, schemas={"research.lung": LUNG_SCHEMA}) as lab:
            trial = lab.merchant("bank").table("research.lung")
            ours = median_seconds(lambda: _curves(trial), RUNS)
            cox = median_seconds(lambda: trial.cox("age + sex", time="time", event="status").run(), RUNS)
    baseline = median_seconds(lambda: [_fit(part) for _, part in patients.groupby("sex")], RUNS)
    design = patients[["age", "sex"]].astype(float)
    hazard = median_seconds(lambda: sm.PHReg(patients.time, design, patients.status, ties="efron").fit(), RUNS)
    return {
        "Kaplan–Meier by sex, 228 patients, 4 holders": {
            "ours": ours, "baseline": baseline, "ratio": ours / baseline, "reach": "≤ 1.5 s",
        },
        "Cox, 228 patients, 4 holders": {"ours": cox, "baseline": hazard, "ratio": cox / hazard, "reach": None},
    }  # fmt: skip


def _curves(trial: Table) -> Any:
    return trial.kaplan_meier(time="time", event="status", by="sex").run()


def _fit(part: pd.DataFrame) -> Any:
    return KaplanMeierFitter().fit(part.time, part.status)


def covariance() -> dict[str, Figure]:
    """A covariance matrix of 100 columns over rows where none is missing."""
    names = [f"c{place}" for place in range(MATRIX_COLUMNS)]
    columns = [{"name": name, "type": "int", "minimum": 0, "maximum": 999, "grade": "public"} for name in names]
    parts = {}
    for seed, holder in enumerate(HOLDERS):
        values = np.random.default_rng(seed).integers(0, 1000, (1000, MATRIX_COLUMNS))
        parts[holder] = pd.DataFrame(values, columns=names)
    pooled = pd.concat(parts.values())
    tables = {holder: {"bench": part} for holder, part in parts.items()}
    with Sandbox(tables, schemas={"bench": {"table": "bench", "columns": columns}}) as lab:
        table = lab.merchant("bank").table("bench")
        ours = median_seconds(lambda: table.covariance_matrix(names).run(), 3)
    baseline = median_seconds(lambda: pooled.cov(), RUNS)
    return {
        f"covariance of {MATRIX_COLUMNS} columns, 4 × 1,000 rows": {
            "ours": ours, "baseline": baseline, "ratio": ours / baseline, "reach": "≤ 3 s",
        }
    }  # fmt: skip


def measure_fits() -> dict[str, Figure]:
    return survival() | covariance() | logistic("public") | logistic("internal")


if __name__ == "__main__":
    for name, figure in measure_fits().items():
        print(name, figure)
