"""Fits through a whole job without a network, on real data split over its holders."""

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.expression import ColumnValue, Comparing, Expression, Number, TextValue
from ceiba_protocol.plan import GroupKey, Named, Plan, compile_plan, fit_rows
from ceiba_protocol.program import SUBJECT, Comparison
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.fits.base import Fit
from ceiba_protocol.whole_job import run_job
from tests.support.keys import keypair
from tests.support.members import NOW
from tests.support.pooled import Pooled

DATA = Path(__file__).parents[2] / "scenarios" / "ceiba_scenarios" / "data"


@cache
def heart(grade: str = "internal") -> Schema:
    """The hospitals' data standard, every column of one grade."""
    document = tomllib.loads((DATA / "heart.toml").read_text())
    for column in document["columns"]:
        column["grade"] = grade
    return Schema.from_plain(document)


def heart_rows() -> pd.DataFrame:
    """920 patients of four hospitals; 0 is no blood pressure and no cholesterol."""
    rows = pd.read_csv(DATA / "heart_disease.csv")
    for name in ("resting_bp", "cholesterol"):
        rows[name] = rows[name].where(rows[name] != 0)
    return rows


@cache
def lung(grade: str = "public") -> Schema:
    """The trial's data standard, every column of one grade."""
    document = tomllib.loads((DATA / "lung.toml").read_text())
    for column in document["columns"]:
        column["grade"] = grade
    return Schema.from_plain(document)


def lung_rows() -> pd.DataFrame:
    """228 patients."""
    return pd.read_csv(DATA / "lung.csv").assign(status=lambda rows: rows.status == 1)


def by_institution(rows: pd.DataFrame, holders: int = 18) -> dict[str, pd.DataFrame]:
    """One holder for each institution; the patient without one is the first's. With fewer holders, several of each."""
    number = rows.inst.fillna(rows.inst.iloc[0]).rank(method="dense").astype(int) % holders
    return {f"inst-{place}": part for place, part in rows.groupby(number)}


def by_hospital(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name).replace("_", "-"): part for name, part in rows.groupby("hospital")}


def column(name: str) -> DesignColumn:
    return DesignColumn(name=name, factors=(Factor(value=ColumnValue(name=name)),))


def function(name: Function, of: str) -> DesignColumn:
    return DesignColumn(name=f"{name}({of})", factors=(Factor(value=ColumnValue(name=of), function=name),))


def where(name: str, comparison: str, value: str, *, text: bool = False) -> DesignColumn:
    """1 where it holds, else 0."""
    right: Expression = TextValue(value=value) if text else Number(value=value)
    test = Comparing(comparison=Comparison(comparison), left=ColumnValue(name=name), right=right)
    return DesignColumn(name=f"{name}{comparison}{value}", factors=(Factor(value=test),))


def rows_with_subjects(schema: Schema, frame: pd.DataFrame) -> list[dict[str, int | None]]:
    """The rows; whose they are, where the frame has numbers in a column "#subject"."""
    rows: list[dict[str, int | None]] = Pooled(schema, frame).rows
    if SUBJECT in frame:
        rows = [row | {SUBJECT: int(who)} for row, who in zip(rows, frame[SUBJECT], strict=True)]
    return rows


def fit(
    statistic: Statistic, schema: Schema, frames: Mapping[str, pd.DataFrame], groups: tuple[GroupKey, ...] = ()
) -> list[tuple[Any, ...]]:
    """The rows that the merchant gets."""
    plan = Plan(
        table=schema.table,
        schema_digest=schema.digest(),
        groups=groups,
        outputs=(Named(name="fit", statistic=statistic),),
    )
    rows = {holder: rows_with_subjects(schema, frame) for holder, frame in frames.items()}
    return run_job(plan, schema, rows, keypair(3072), os.urandom, NOW)


def fit_plainly(
    statistic: Fit, schema: Schema, frames: Mapping[str, pd.DataFrame], *, minimum: int = 5, is_guarded: bool = True
) -> Any:
    """The same rounds without masks, keys and gate: quick, for what the rounds themselves say."""
    plan = Plan(table=schema.table, schema_digest=schema.digest(), outputs=(Named(name="fit", statistic=statistic),))
    program = compile_plan(plan, schema)
    frame = program.frame(sum(map(len, frames.values())), minimum, is_guarded=is_guarded)
    statistic.check(frame)
    rows = [fit_rows(program, rows_with_subjects(schema, one)) for one in frames.values()]
    prepared = [statistic.prepare(one, frame) for one in rows]
    state = statistic.begin(frame)
    while not state.is_final:
        sums = [statistic.measure(state, one, frame) for one in prepared]
        state = statistic.advance(state, [sum(each) for each in zip(*sums, strict=True)], frame)
    return statistic.read(statistic.values(state, frame))
