"""The table that the attacks on disclosure are about: made-up patients of four hospitals, the same in every run, whose
columns are graded, so that the gate and the budgets are on."""

import random
from typing import Any

import pandas

from ceiba_protocol.schema import Schema

VISITS = "health.visits"
HOSPITAL_SIZE = 60
WARDS = ["icu", "surgery", "medicine", "maternity"]
SCHEMA = Schema.from_plain(
    {
        "table": VISITS,
        "subject_key": "patient",
        "columns": [
            {"name": "sex", "type": "category", "domain": ["female", "male"], "nullable": False},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120, "nullable": False},
            {"name": "ward", "type": "category", "domain": [*WARDS, "burns"], "nullable": False},
            {"name": "days", "type": "int", "minimum": 0, "maximum": 60, "nullable": False},
            {"name": "bill", "type": "int", "minimum": 0, "maximum": 1_000_000, "nullable": False},
            {"name": "marker", "type": "int", "minimum": 0, "maximum": 100},
        ],
    }
)
"""Internal, as nothing else is said: k is 5 patients, h 3 hospitals."""

Row = dict[str, Any]

OLD_MAN: Row = {
    "patient": "zurich-old-man", "sex": "male", "age": 97, "ward": "medicine", "days": 17, "bill": 500, "marker": 50,
}  # fmt: skip
"""The only one of his age."""
BURNT: Row = {
    "patient": "zurich-burnt", "sex": "female", "age": 45, "ward": "burns", "days": 23, "bill": 500, "marker": 50,
}  # fmt: skip
"""The only patient of her ward."""
RICH: Row = {
    "patient": "zurich-rich", "sex": "male", "age": 50, "ward": "surgery", "days": 3, "bill": 900_000, "marker": 50,
}  # fmt: skip
NEW: Row = {
    "patient": "zurich-new", "sex": "male", "age": 40, "ward": "icu", "days": 31, "bill": 500, "marker": 50,
}  # fmt: skip
"""Not in the data yet."""
NINETIES = {"zurich-90": 7, "zurich-91": 11, "zurich-92": 13, "zurich-93": 17}
"""Days of the four patients between 90 and 95, all in zurich: none of them has too much of the 48."""


def rows_of(holder: str) -> list[Row]:
    """Everybody is below 80, but for one of 88 at each hospital and those who are named above, all in zurich; only
    zurich has measured the marker."""
    draw = random.Random(holder)
    rows: list[Row] = [
        {
            "patient": f"{holder}-{number}",
            "sex": draw.choice(["female", "male"]),
            "age": 88 if number == 0 else draw.randrange(18, 80),
            "ward": WARDS[number % len(WARDS)],
            "days": draw.randrange(1, 30),
            "bill": draw.randrange(100, 900),
            "marker": draw.randrange(1, 100) if holder == "zurich" else None,
        }
        for number in range(HOSPITAL_SIZE)
    ]
    if holder == "zurich":
        rows += [OLD_MAN, BURNT, RICH]
        rows += [
            {**OLD_MAN, "patient": name, "age": int(name[-2:]), "sex": "female", "days": days}
            for name, days in NINETIES.items()
        ]
    return rows


def frame(rows: list[Row]) -> pandas.DataFrame:
    made = pandas.DataFrame(rows)
    return made.astype({"marker": "Int64"})
