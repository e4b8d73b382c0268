"""A small table for models, with every kind of column that a formula can have, and random rows that fit it."""

from datetime import date, timedelta

import numpy as np
import pandas as pd

from ceiba_protocol.schema import Schema

SCHEMA = Schema.from_plain(
    {
        "table": "health.visits",
        "columns": [
            {"name": "cost", "type": "decimal", "resolution": 0.1, "minimum": -50, "maximum": 50},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120},
            {"name": "free", "type": "int"},
            {"name": "event", "type": "int", "minimum": 0, "maximum": 1},
            {"name": "sex", "type": "category", "domain": ["male", "female"]},
            {"name": "city", "type": "category", "domain": ["a b", "O'Hara", "東京"]},
            {"name": "smoker", "type": "bool"},
            {"name": "stage", "type": "int", "domain": [3, 1, 2]},
            {"name": "seen", "type": "date", "minimum": "2024-01-15", "maximum": "2024-06-10"},
            {"name": "came", "type": "date", "minimum": "2024-01-15", "maximum": "2024-06-10"},
        ],
    }
)
CITIES = ["a b", "O'Hara", "東京"]


def frame_of(rows: int, seed: int = 0, missing: float = 0.0) -> pd.DataFrame:
    """Random rows that fit the schema, categories in their declared order."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "cost": random.integers(-500, 501, rows) / 10,
            "age": random.integers(0, 121, rows),
            "event": random.integers(0, 2, rows),
            "sex": pd.Categorical(random.choice(["male", "female"], rows), categories=["male", "female"]),
            "city": pd.Categorical(
                random.choice(["a b", "O'Hara", "東京"], rows), categories=["a b", "O'Hara", "東京"]
            ),
            "smoker": random.integers(0, 2, rows).astype(bool),
            "stage": pd.Categorical(random.choice([3, 1, 2], rows), categories=[3, 1, 2]),
            "seen": [date(2024, 1, 15) + timedelta(days=int(days)) for days in random.integers(0, 100, rows)],
            "came": [date(2024, 1, 15) + timedelta(days=int(days)) for days in random.integers(0, 100, rows)],
        }
    )
    return frame.mask(random.random((rows, len(frame.columns))) < missing) if missing else frame
