"""The lender's 4,454 applications of `credit.csv`, as if they lay at one place, and fine bins of their columns."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

import ceiba_scenarios
from ceiba.scorecards import BinCounts, Binning, PairCounts, coarse
from ceiba_protocol.schema import Schema

NUMBERS = {
    "time": 72,
    "amount": 5_000,
    "price": 12_000,
    "expenses": 200,
    "seniority": 50,
    "income": 1_000,
    "assets": 300_000,
    "debt": 30_000,
    "age": 70,
}
CATEGORIES = {
    "job": ["fixed", "freelance", "partime", "others"],
    "home": ["owner", "rent", "parents", "other", "priv", "ignore"],
    "records": ["no", "yes"],
    "marital": ["married", "single", "separated", "widow", "divorced"],
}
BANK = ("time", "amount", "price", "expenses")
JOINED = (*BANK, "seniority", "job", "income", "assets", "home", "records", "marital", "age")
"""All but `debt`, whose bins do not differ."""
SCHEMA = Schema.from_plain(
    {
        "table": "bank.applications",
        "columns": [
            *({"name": name, "type": "int", "minimum": 0, "maximum": high} for name, high in NUMBERS.items()),
            *({"name": name, "type": "category", "domain": domain} for name, domain in CATEGORIES.items()),
            {"name": "status", "type": "category", "domain": ["good", "bad"], "nullable": False},
        ],
    }
)
_LOWS = {"income": 30, "assets": 1_000, "debt": 500, "amount": 200, "price": 300}
FINE = {
    **{name: Binning.equal(SCHEMA, name, 20) for name in NUMBERS if name not in _LOWS},
    **{name: Binning.geometric(SCHEMA, name, 20, low=low) for name, low in _LOWS.items()},
    **{name: Binning.categories(SCHEMA, name) for name in CATEGORIES},
}


@cache
def applications() -> pd.DataFrame:
    return pd.read_csv(Path(ceiba_scenarios.__file__).parent / "data" / "credit.csv")


def is_bad(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    return (frame["status"] == "bad").to_numpy()


def folds(count: int = 5) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(to fit, to judge), without order."""
    rows = applications()
    part = np.random.default_rng(3).permutation(len(rows)) % count
    return [(rows[part != one], rows[part == one]) for one in range(count)]


def counts_of(frame: pd.DataFrame, names: Sequence[str] = JOINED) -> list[BinCounts]:
    """Coarse bins of these features, as joined jobs would count them."""
    return [coarse(BinCounts.of_rows(FINE[name], frame, is_bad(frame))) for name in names]


def pairs_of(
    features: Sequence[BinCounts], frame: pd.DataFrame, by_label: Callable[[str, str], bool] = lambda *_: True
) -> list[PairCounts]:
    """Of all pairs of features; `by_label` says of which the label is known."""
    return [
        PairCounts.of_rows(one.binning, other.binning, frame, is_bad(frame) if by_label(one.name, other.name) else None)
        for one, other in combinations(features, 2)
    ]
