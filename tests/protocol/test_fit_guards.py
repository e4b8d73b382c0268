"""What a fit refuses, by name and in words; and that random tables give the textbook's numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import (
    BadModel,
    CeibaError,
    Collinear,
    ColumnConcentrated,
    ColumnWithheld,
    ConstantColumn,
    NoEvents,
    NoiseUndefined,
    NotConverged,
    NotFinite,
    PlanTooLarge,
    Separation,
    TooFewRows,
    TotalRejected,
    WeightsConcentrated,
)
from ceiba_protocol.expression import ColumnValue, Number
from ceiba_protocol.plan import Named, Plan, Program, compile_plan, fit_rows
from ceiba_protocol.rounds import check_fit
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.cox import Cox
from ceiba_protocol.statistics.fits.base import GRID_BITS, Fit
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.statistics.survival import Survival
from ceiba_protocol.trust.documents import DatasetPin, NoiseTerms
from tests.support.fitting import column, fit, fit_plainly, function, where
from tests.support.pooled import Pooled

SCHEMA = Schema.from_plain(
    {
        "table": "lab.rows",
        "version": 1,
        "title": "Made-up rows",
        "columns": [
            {"name": "y", "type": "int", "minimum": 0, "maximum": 100, "grade": "internal"},
            {"name": "b", "type": "bool", "grade": "internal"},
            {"name": "x", "type": "int", "minimum": -1000, "maximum": 1000, "grade": "internal"},
            {"name": "z", "type": "decimal", "resolution": 0.01, "minimum": 0, "maximum": 1000, "grade": "internal"},
            {"name": "w", "type": "int", "minimum": 0, "maximum": 1_000_000, "grade": "internal"},
            {"name": "t", "type": "int", "minimum": 0, "maximum": 400, "grade": "internal"},
            {"name": "before", "type": "int", "minimum": -10, "maximum": 400, "grade": "internal"},
            {"name": "kind", "type": "category", "domain": ["a", "b", "c"], "grade": "internal"},
        ],
    }
)
T, B, BEFORE = (ColumnValue(name=name) for name in ("t", "b", "before"))
KIND_B, KIND_C = (where("kind", "=", level, text=True) for level in ("b", "c"))


def rows(seed: int, count: int = 300) -> pd.DataFrame:
    """With missing values, ties, and a skewed column."""
    draw = np.random.default_rng(seed)
    x = draw.integers(-20, 20, count)
    z = np.round(np.minimum(np.exp(draw.normal(0, 1.2, count)), 900), 2)
    kind = draw.choice(["a", "b", "c"], count, p=[0.5, 0.3, 0.2])
    eta = 0.04 * x + 0.2 * np.log(z + 0.5) + 0.5 * (kind == "b")
    frame = pd.DataFrame(
        {
            "y": draw.poisson(np.exp(np.minimum(eta, 3))).clip(0, 100),
            "b": draw.random(count) < 1 / (1 + np.exp(-eta)),
            "x": x.astype(float),
            "z": z,
            "w": draw.integers(1, 9, count).astype(float),
            "t": np.ceil(draw.exponential(60, count)).clip(0, 400),
            "before": 1.0,
            "kind": kind,
        }
    )
    for name in ("x", "z", "kind"):
        frame[name] = frame[name].where(draw.random(count) > 0.1)
    return frame


def split(frame: pd.DataFrame, holders: int = 3) -> dict[str, pd.DataFrame]:
    return {f"holder-{place}": frame.iloc[place::holders] for place in range(holders)}


def glm(family: str, response: str, *columns: DesignColumn, **options: Any) -> GLM:
    return GLM(family=Family(family), response=column(response), columns=columns, **options)


# --- the textbook's numbers -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["binomial", "poisson", "gaussian"]), st.integers(3, 5))
def test_random_tables_give_statsmodels_numbers(seed: int, family: str, holders: int) -> None:
    """Rows with a missing value are left out; weights and an offset count as they do there."""
    frame = rows(seed)
    response = "b" if family == "binomial" else "y"
    options = {"weights": column("w"), "offset": function(Function.LOG1P, "t")} if family == "poisson" else {}
    model = glm(family, response, column("x"), function(Function.LOG1P, "z"), KIND_B, KIND_C, **options)
    found = fit_plainly(model, SCHEMA, split(frame, holders), is_guarded=False)  # some have little effective weight
    used = frame.dropna()
    design = np.column_stack([np.ones(len(used)), used.x, np.log1p(used.z), used.kind == "b", used.kind == "c"]).astype(
        float
    )
    kind = {"binomial": sm.families.Binomial, "poisson": sm.families.Poisson, "gaussian": sm.families.Gaussian}[family]
    extra = {"var_weights": used.w, "offset": np.log1p(used.t)} if family == "poisson" else {}
    wanted = sm.GLM(used[response].astype(float), design, family=kind(), **extra).fit(tol=1e-14, maxiter=200)
    np.testing.assert_allclose(found["coefficients"], wanted.params, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["covariance"], wanted.normalized_cov_params, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["deviance"], wanted.deviance, rtol=1e-6)
    assert found["rows"] == len(used)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["efron", "breslow"]))
def test_random_survival_gives_statsmodels_numbers(seed: int, ties: Any) -> None:
    frame = rows(seed)
    model = Cox(time=T, event=B, columns=(column("x"), KIND_B, KIND_C), ties=ties)
    found = fit_plainly(model, SCHEMA, split(frame), is_guarded=False)
    used = frame.dropna(subset=["x", "kind"])
    design = np.column_stack([used.x, used.kind == "b", used.kind == "c"]).astype(float)
    wanted = sm.PHReg(used.t.to_numpy(), design, used.b.to_numpy().astype(int), ties=ties).fit()
    np.testing.assert_allclose(found["coefficients"], wanted.params, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found["log_likelihood"], wanted.llf, rtol=1e-9)


def test_one_holder_without_a_level_of_a_factor_changes_nothing() -> None:
    frame = rows(1)
    apart = {"one": frame[frame.kind != "c"], "two": frame[frame.kind == "c"], "three": frame.iloc[:0]}
    model = glm("binomial", "b", column("x"), KIND_B, KIND_C)
    together = fit_plainly(model, SCHEMA, split(frame))
    np.testing.assert_allclose(fit_plainly(model, SCHEMA, apart)["coefficients"], together["coefficients"], rtol=1e-8)


# --- refusals ---------------------------------------------------------------------------------------------------


def separated() -> pd.DataFrame:
    return rows(2).assign(b=lambda frame: frame.x > 3)


def one_outlier() -> pd.DataFrame:
    frame = rows(3).assign(z=1.0)
    frame.loc[:2, "z"] = [999.0, 3.0, 2.0]
    return frame


def one_weight() -> pd.DataFrame:
    frame = rows(4).assign(w=1.0)
    frame.loc[frame.dropna().index[0], "w"] = 1_000_000.0
    return frame


REFUSED: list[tuple[str, Fit, pd.DataFrame, type[CeibaError]]] = [
    ("perfect separation", glm("binomial", "b", column("x")), separated(), Separation),
    ("a constant column", glm("binomial", "b", column("z")), rows(2).assign(z=5.0), ConstantColumn),
    ("a level that nobody has", glm("binomial", "b", KIND_C), rows(2).assign(kind="a"), ConstantColumn),
    (
        "collinear columns",
        glm("poisson", "y", column("x"), DesignColumn(name="x again", factors=(Factor(value=ColumnValue(name="x")),))),
        rows(2),
        Collinear,
    ),
    ("fewer rows than parameters", glm("gaussian", "y", column("x"), column("z")), rows(2, 20), TooFewRows),
    ("one value that is all the variance", glm("gaussian", "y", column("z")), one_outlier(), ColumnConcentrated),
    (
        "one weight that is all the weight",
        glm("gaussian", "y", column("x"), weights=column("w")),
        one_weight(),
        WeightsConcentrated,
    ),
    ("zero weights", glm("gaussian", "y", column("x"), weights=column("w")), rows(2).assign(w=0.0), TooFewRows),
    ("a large offset", glm("poisson", "y", column("x"), offset=column("w")), rows(5).assign(w=5000.0), NotFinite),
    ("too few iterations", glm("binomial", "b", column("x"), max_iterations=1), rows(2), NotConverged),
    (
        "nobody with the event",
        Cox(time=T, event=B, columns=(column("x"),)),
        rows(2).assign(b=False),
        NoEvents,
    ),
    ("times that can be negative", Survival(time=BEFORE, event=B), rows(2), BadModel),
    ("a grid without width", Survival(time=T, event=B, grid=Number(value="0")), rows(2), BadModel),
    ("an outcome that is no share", glm("binomial", "y", column("x")), rows(2), BadModel),
    ("a count that can be negative", glm("poisson", "x", column("z")), rows(2), BadModel),
    ("a dispersion of 0", glm("negative_binomial", "y", column("x"), alpha=Number(value="0")), rows(2), BadModel),
    ("nothing to fit", glm("gaussian", "y", intercept=False), rows(2), BadModel),
    ("an exponential beyond numbers", glm("gaussian", "y", function(Function.EXP, "w")), rows(2), BadModel),
]  # fmt: skip


@pytest.mark.parametrize(("model", "frame", "error"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_fit_is_refused_by_name(model: Fit, frame: pd.DataFrame, error: type[CeibaError]) -> None:
    with pytest.raises(error) as caught:
        fit_plainly(model, SCHEMA, split(frame))
    assert caught.value.what_to_do


def test_a_group_that_is_all_censored_has_a_flat_curve() -> None:
    found = fit_plainly(Survival(time=T, event=B), SCHEMA, split(rows(2).assign(b=False)))
    assert sum(found["events"]) == 0
    assert sum(found["censored"]) == 300


def test_a_rare_level_is_withheld_by_the_gate() -> None:
    frame = rows(6)
    rare = frame.assign(kind=["c" if place == 7 else "a" if place % 2 else "b" for place in range(len(frame))])
    with pytest.raises(ColumnWithheld, match=r"one of .*kind=c"):
        fit(glm("binomial", "b", column("x"), KIND_B, KIND_C), SCHEMA, split(rare))


# --- totals that a lying holder has made ------------------------------------------------------------------------------


def program_of(statistic: Fit) -> Program:
    outputs = (Named(name="fit", statistic=statistic),)
    return compile_plan(Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=outputs), SCHEMA)


@pytest.mark.parametrize("lie", [-1, 2**63, 2**100])
@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("statistic", [Survival(time=T, event=B), Cox(time=T, event=B, columns=(column("x"),))])
def test_counts_that_cannot_be_are_a_named_error(statistic: Fit, rounds: int, lie: int) -> None:
    """And not an endless loop: Efron's ties take a step for each event."""
    program = compile_plan(
        Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=(Named(name="fit", statistic=statistic),)),
        SCHEMA,
    )
    frame = program.frame(512, 5)
    prepared = statistic.prepare(fit_rows(program, Pooled(SCHEMA, rows(1)).rows), frame)
    state = statistic.begin(frame)
    for _ in range(rounds):
        state = statistic.advance(state, statistic.measure(state, prepared, frame), frame)
    totals = statistic.measure(state, prepared, frame)
    totals[-1] = lie << GRID_BITS if rounds and isinstance(statistic, Cox) else lie
    with pytest.raises(TotalRejected):
        statistic.advance(state, totals, frame)


def test_a_round_of_events_has_no_time_at_which_few_leave() -> None:
    """What the holders read of each other: who leaves at each time, and who had the event only of merged times."""
    statistic = Survival(time=T, event=B)
    program = compile_plan(
        Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=(Named(name="fit", statistic=statistic),)),
        SCHEMA,
    )
    frame = program.frame(512, 5)
    prepared = statistic.prepare(fit_rows(program, Pooled(SCHEMA, rows(1)).rows), frame)
    first = statistic.measure(statistic.begin(frame), prepared, frame)
    flipped = statistic.prepare(
        fit_rows(program, Pooled(SCHEMA, rows(1).assign(b=lambda of: ~of.b.astype(bool))).rows), frame
    )
    assert statistic.measure(statistic.begin(frame), flipped, frame) == first
    state = statistic.advance(statistic.begin(frame), first, frame)
    pairs = np.array(statistic.measure(state, prepared, frame)).reshape(-1, 2)
    assert pairs.sum(axis=1).min() >= 5


def test_more_than_a_holder_has_room_for_is_refused_before_it_is_asked() -> None:
    model = glm("gaussian", "y", column("x"), column("z"))
    plan = Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=(Named(name="fit", statistic=model),))
    program = compile_plan(plan, SCHEMA)
    pins = [DatasetPin(holder="one", version="0" * 64, row_capacity=2**rows) for rows in (24, 25)]
    check_fit(program, None, pins[:1])
    with pytest.raises(PlanTooLarge, match="in memory"):
        check_fit(program, None, pins)
    with pytest.raises(NoiseUndefined):
        check_fit(program, NoiseTerms(rho=5000), pins[:1])
