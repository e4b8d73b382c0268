"""Fits through a whole job, with masks, keys and gate: the same bits as one process gives that has all rows."""

import os
from random import Random
from typing import Any

import pytest

from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.errors import CeibaError, TooFewRows
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.plan import ByColumn, compile_plan, finish, fit_alone
from ceiba_protocol.program import Comparison, Row
from ceiba_protocol.statistics.cox import Cox
from ceiba_protocol.statistics.fits.base import Fit
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.statistics.kmeans import KMeans
from ceiba_protocol.statistics.survival import Survival
from ceiba_protocol.whole_job import run_job
from tests.support.fit_rounds import column, fit_plan
from tests.support.keys import keypair
from tests.support.members import NOW, SCHEMA

AGE, CHOL = ColumnValue(name="age"), ColumnValue(name="chol")
HIGH = Comparing(comparison=Comparison.GREATER, left=CHOL, right=Number(value="20"))
SEX = ByColumn(name="sex", column="sex")
LOGARITHM = DesignColumn(name="log", factors=(Factor(value=AGE, function=Function.LOG1P),))
FITS: dict[str, tuple[Fit, tuple[Any, ...]]] = {
    "gaussian": (GLM(family=Family.GAUSSIAN, response=column("age"), columns=(column("chol"),)), ()),
    "poisson": (GLM(family=Family.POISSON, response=column("age"), columns=(column("chol"), LOGARITHM)), ()),
    "survival": (Survival(time=AGE, event=HIGH), (SEX,)),
    "cox": (Cox(time=AGE, event=HIGH, columns=(column("chol"),)), (SEX,)),
    "kmeans": (KMeans(columns=(column("age"), column("chol")), clusters=2), ()),
}


def tables(seed: int) -> dict[str, list[Row]]:
    """Of three to five holders, one of them without a row."""
    draw = Random(seed)

    def row() -> Row:
        age, chol = draw.randrange(0, 121), draw.randrange(-200, 601)
        sick = chol if draw.random() < 0.9 else None
        return {"sex": draw.randrange(2), "age": age if draw.random() < 0.9 else None, "chol": sick}

    return {f"holder-{at}": [row() for _ in range(at * draw.randrange(5, 20))] for at in range(draw.randrange(3, 6))}


def outcome(action: Any) -> Any:
    """What comes of it, or the name of the error."""
    try:
        return action()
    except CeibaError as error:
        return error.code


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("seed", range(2))
def test_a_whole_job_gives_what_all_rows_together_give(name: str, seed: int) -> None:
    """For public data; or both are refused for the same reason. Only the order in which floats are added differs."""
    (statistic, groups), given_rows = FITS[name], tables(seed)
    plan = fit_plan(statistic, SCHEMA, groups)
    program = compile_plan(plan, SCHEMA)
    everybody = [row for part in given_rows.values() for row in part]
    wanted = outcome(lambda: finish(program, fit_alone(program, everybody)))
    found = outcome(lambda: run_job(plan, SCHEMA, given_rows, keypair(3072), os.urandom, NOW))
    if isinstance(wanted, str) or isinstance(found, str):
        assert found == wanted
        return
    for (*labels, one), (*others, two) in zip(found, wanted, strict=True):
        assert labels == others and set(one) == set(two)
        for key, value in two.items():
            if key not in ("names", "iterations"):
                assert flat(one[key]) == pytest.approx(flat(value), rel=1e-6, abs=1e-6), key


def flat(value: Any) -> list[float]:
    return [number for part in value for number in flat(part)] if isinstance(value, list) else [float(value)]


def test_without_rows_a_fit_is_refused_by_name() -> None:
    plan = fit_plan(FITS["gaussian"][0], SCHEMA)
    with pytest.raises(TooFewRows):
        run_job(plan, SCHEMA, {f"holder-{place}": [] for place in range(3)}, keypair(3072), os.urandom, NOW)
