"""A split in a running space: three holders that share patients, one part for each of them."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import ceiba
from ceiba_protocol.errors import NoAgreement
from ceiba_protocol.expression import split_key
from ceiba_protocol.program import part_of, subject_digest
from ceiba_protocol.schema import Schema
from ceiba_scenarios import Sandbox

PURPOSE = "study 7"
TABLE = "health.visits"
SCHEMA = Schema.from_plain(
    {
        "table": TABLE,
        "subject_key": "patient",
        "max_holders_per_subject": 3,
        "columns": [{"name": "days", "type": "int", "minimum": 0, "maximum": 50, "grade": "internal"}],
    }
)
VISITS = {
    holder: pd.DataFrame({"patient": [f"p{n}" for n in range(first, first + 150)], "days": range(150)}).assign(
        days=lambda frame: frame["days"] % 51
    )
    for holder, first in (("a", 0), ("b", 50), ("c", 100))
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("split")
    holders: dict[str, dict[str, Path]] = {}
    for holder, frame in VISITS.items():
        file = folder / f"{holder}.csv"
        frame.to_csv(file, index=False)
        holders[holder] = {TABLE: file}
    with Sandbox(holders, schemas={TABLE: SCHEMA}) as made:
        yield made


@pytest.mark.slow
def test_parts_of_a_running_space_are_those_of_the_pooled_rows(sandbox: Sandbox) -> None:
    space = sandbox.merchant("bank-a", agreed=False)
    sandbox.agree(space, TABLE, purpose=PURPOSE)
    visits = space.table(TABLE)
    pooled = pd.concat(VISITS.values())
    part = pooled["patient"].map(lambda who: part_of(split_key(PURPOSE), subject_digest(who), 5))

    def truth(rows: "pd.Series[bool]") -> tuple[int, int]:
        return int(rows.sum()), int(pooled["days"][rows].sum())

    split, wanted = ceiba.split(PURPOSE, 5), {"n": ceiba.count(), "days": ceiba.sum("days")}
    assert visits.filter(split != 0).agg(**wanted).run().rows == [truth(part != 0)]
    assert visits.filter(split == 0).agg(**wanted).run().rows == [truth(part == 0)]
    again = visits.group_by(ceiba.split(PURPOSE, 5)).agg(**wanted).run()
    assert all(row == (row[0], *truth(part == row[0])) for row in again if ceiba.WITHHELD not in row)
    assert again[0][1:] == (ceiba.WITHHELD, ceiba.WITHHELD), "the same people in other words"
    with pytest.raises(NoAgreement, match="has another purpose than the split's seed, tuned"):
        visits.filter(ceiba.split("tuned", 5) == 0).count().run()
