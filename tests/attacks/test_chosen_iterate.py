"""Chosen iterates: a point of a logistic regression at which a sum over everybody is one person's row (PROTOCOL §4.1).

With β = K·a·(x − the victim's x) all weights p(1−p) vanish but the victim's, so the Hessian's first row, divided by its
corner, is the victim's covariates. It first succeeds at holders that sum wherever they are told to.
"""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ceiba_protocol import whole_job
from ceiba_protocol.errors import MalformedDocument, TotalRejected, WeightsConcentrated
from ceiba_protocol.fit_rounds import FitRound, share_fit
from ceiba_protocol.plan import Named, Plan, compile_plan, fit_rows
from ceiba_protocol.statistics.fits.base import GRID_BITS, Floats, Frame
from ceiba_protocol.statistics.fits.exact import from_grid
from ceiba_protocol.statistics.fits.newton import NewtonState
from ceiba_protocol.statistics.glm import GLM, Family, Prepared
from ceiba_protocol.trust.documents import FitShare
from tests.support.fitting import by_hospital, column, fit, heart, heart_rows, where
from tests.support.pooled import Pooled

MODEL = GLM(
    family=Family.BINOMIAL,
    response=where("diagnosis", ">", "0"),
    columns=(column("age"), column("resting_bp"), column("max_heart_rate"), column("exercise_angina")),
)
SCHEMA = heart()
PLAN = Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=(Named(name="fit", statistic=MODEL),))
PROGRAM = compile_plan(PLAN, SCHEMA)
SIZE = MODEL.parameters
STRENGTH = 1e6
CARELESS, CAREFUL = PROGRAM.frame(2048, 5, is_guarded=False), PROGRAM.frame(2048, 5, is_guarded=True)

Hospitals = dict[str, Prepared]


def hospitals() -> Hospitals:
    """Each hospital's rows."""
    parts = by_hospital(heart_rows())
    return {name: MODEL.prepare(fit_rows(PROGRAM, Pooled(SCHEMA, part).rows), CAREFUL) for name, part in parts.items()}


def totals_at(state: NewtonState, rows: Hospitals, at: Frame) -> list[int]:
    return [sum(each) for each in zip(*(MODEL.measure(state, one, at) for one in rows.values()), strict=True)]


def honest_start(rows: Hospitals) -> NewtonState:
    """The state after the first round, whose centres and spreads put columns on one scale."""
    state = MODEL.begin(CAREFUL)
    return MODEL.advance(state, totals_at(state, rows, CAREFUL), CAREFUL)


def aimed_at(victim: Floats, state: NewtonState) -> NewtonState:
    """β for a victim whose age and blood pressure the merchant knows to full precision."""
    known = state.scaling.apply(victim[None, :])[0, :2]
    direction = np.array([1.0, math.sqrt(2)])
    beta = np.concatenate([[-STRENGTH * direction @ known], STRENGTH * direction, np.zeros(SIZE - 3)])
    return state.model_copy(update={"beta": tuple(round(one * 2**GRID_BITS) for one in beta)})


def victim_of(rows: Hospitals) -> Floats:
    """Somebody who is the only one of that age and blood pressure anywhere."""
    everybody = np.concatenate([one.columns for one in rows.values()])
    _, places, counts = np.unique(everybody[:, :2], axis=0, return_inverse=True, return_counts=True)
    return np.asarray(everybody[np.flatnonzero(counts[places.reshape(-1)] == 1)[0]])


def test_holders_that_sum_wherever_they_are_told_to_give_away_a_row() -> None:
    rows = hospitals()
    state, victim = honest_start(rows), victim_of(rows)
    totals = totals_at(aimed_at(victim, state), rows, CARELESS)
    upper = np.array([float(from_grid(total, GRID_BITS)) for total in totals[:SIZE]])
    np.testing.assert_allclose(upper[1:] / upper[0], state.scaling.apply(victim[None, :])[0], atol=1e-6)


def test_a_holder_looks_at_its_own_weights_before_it_sums() -> None:
    rows = hospitals()
    aimed = aimed_at(victim_of(rows), honest_start(rows))
    for one in rows.values():  # to whomever the victim belongs; at the others nobody is near
        with pytest.raises(WeightsConcentrated):
            MODEL.measure(aimed, one, CAREFUL)


def test_all_refuse_a_whole_whose_weight_few_rows_carry() -> None:
    rows = hospitals()
    state = honest_start(rows)
    totals = totals_at(state, rows, CAREFUL)
    assert MODEL.advance(state, totals, CAREFUL)
    totals[-1] = totals[-2] ** 2 >> GRID_BITS  # Σw² = (Σw)²: one row has all the weight
    with pytest.raises(WeightsConcentrated):
        MODEL.advance(state, totals, CAREFUL)


def test_a_merchant_has_nowhere_to_write_an_iterate() -> None:
    plain = json.loads(PLAN.body())
    assert Plan.parse(json.dumps(plain, separators=(",", ":"), sort_keys=True).encode()) == PLAN
    plain["outputs"][0]["statistic"]["beta"] = ["0"] * SIZE
    with pytest.raises(MalformedDocument):
        Plan.parse(json.dumps(plain, separators=(",", ":"), sort_keys=True).encode())


def test_holders_at_different_states_get_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    victim = victim_of(hospitals())

    def told_otherwise(this: FitRound, me: str, *rest: Any) -> tuple[FitShare, bytes]:
        if me == "hungary" and this.iteration == 1:
            assert isinstance(this.state, NewtonState)
            this = replace(this, state=aimed_at(victim, this.state))
        return share_fit(this, me, *rest)

    parts = by_hospital(heart_rows())
    assert fit(MODEL, SCHEMA, parts)  # nobody is told otherwise
    monkeypatch.setattr(whole_job, "share_fit", told_otherwise)
    with pytest.raises(TotalRejected, match="hungary summed at another state"):
        fit(MODEL, SCHEMA, parts)
