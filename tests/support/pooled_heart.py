"""The 920 patients of `heart_disease.csv` as one table, and as the frame that it is compared with."""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ceiba_scenarios
from ceiba.query import Query, Table
from ceiba.released import Released
from ceiba.result import Result
from ceiba.sql import parse
from ceiba_protocol.disclosure.support import count_subjects, tests_of
from ceiba_protocol.plan import Program, grouped_sums
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.fitting import lung, lung_rows
from tests.support.pooled import Pooled

DATA = Path(ceiba_scenarios.__file__).parent / "data"
SCHEMA = Schema.from_plain(tomllib.loads((DATA / "heart.toml").read_text()))


@cache
def frame() -> pd.DataFrame:
    """What the hospitals publish: missing codes are NULL, and so is what lies outside the declared bounds."""
    rows = pd.read_csv(DATA / "heart_disease.csv")
    for column in SCHEMA.columns:
        values = rows[column.name]
        if column.missing_codes:
            rows[column.name] = values = values.where(~values.isin([float(code) for code in column.missing_codes]))
        if column.minimum is not None and column.maximum is not None:
            rows[column.name] = values.where(values.between(float(column.minimum), float(column.maximum)))
    return rows


@cache
def heart() -> Table:
    return Table(SCHEMA, Pooled(SCHEMA, frame()))


class PooledSpace:
    """What the guide's examples ask: patients with heart disease, and those of the lung trial."""

    def __init__(self) -> None:
        self._tables = {"health.heart": heart(), "research.lung": Table(lung(), Pooled(lung(), lung_rows()))}

    def table(self, name: str) -> Table:
        return self._tables[name]

    def sql(self, text: str, parameters: Sequence[object] | None = None) -> Query:
        plan, presentation = parse(text, lambda name: self._tables[name].schema, parameters)
        table = self._tables[plan.table]
        return Query(table.schema, table.runner, plan, presentation)


class Gated(Pooled):
    """Withholds as a gate does that all rows are behind, each of its own subject: at least `least` in every test."""

    def __init__(self, schema: Schema, rows: pd.DataFrame, least: int) -> None:
        super().__init__(schema, rows)
        self.least = least
        self.asked: list[Query] = []

    def run(self, query: Query, **_options: Any) -> Result:
        self.asked.append(query)
        return query.result(Released(grouped_sums(query.program, self.rows), sent=self._sent(query.program)))

    def _sent(self, program: Program) -> Any:
        """[cells, sums]: `gate.decide` and `released_sums`, without holders and history."""
        tests = tests_of(program)
        counts = count_subjects(program, tests, self.rows)
        holds = (counts >= self.least) | ((counts == 0) & [test.is_difference for test in tests.tests])
        holds[:, list(tests.together)] &= holds[:, list(tests.together)].all(axis=1, keepdims=True)
        holds &= holds[:, [0]]
        sent = np.zeros((program.cells, len(program.sums)), dtype=np.bool_)
        for unit in tests.units:
            needed = sorted({test for one in unit for test in tests.needs[one]})
            sent[:, list(unit)] |= holds[:, needed].all(axis=1, keepdims=True)
        return sent


class Noisy(Pooled):
    """Says that its answers carry noise, of standard deviation 2 in each sum's units; adds none."""

    def run(self, query: Query, **_options: Any) -> Result:
        totals = grouped_sums(query.program, self.rows)
        return query.result(Released(totals, terms=NoiseTerms(rho=5000), variances=[4] * len(query.program.sums)))


@cache
def gated_heart(least: int) -> Table:
    return Table(SCHEMA, Gated(SCHEMA, frame(), least))


@cache
def noisy_heart() -> Table:
    return Table(SCHEMA, Noisy(SCHEMA, frame()))
