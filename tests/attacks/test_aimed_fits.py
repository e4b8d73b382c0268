"""Fits that are aimed at one person: by an event, a cell of two columns, a base level, a function, or many rows.

Each would give that person away, to the merchant or to another holder.
"""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.design import DesignColumn, Factor, Function
from ceiba_protocol.disclosure.support import tests_of as gate_tests
from ceiba_protocol.errors import ClusterTooSmall, ColumnConcentrated, ColumnWithheld, WeightsConcentrated
from ceiba_protocol.expression import Arithmetic, ColumnValue, Comparing, Expression, Logic, Number, TextValue
from ceiba_protocol.plan import Named, Plan, compile_plan
from ceiba_protocol.program import SUBJECT, Comparison
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.cox import Cox
from ceiba_protocol.statistics.fits.base import GRID_BITS, Fit, to_sums
from ceiba_protocol.statistics.fits.exact import exactly
from ceiba_protocol.statistics.fits.scaling import Moments, Scaling, moment_sums
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.statistics.kmeans import KMeans, KMeansState, Prepared
from ceiba_protocol.statistics.survival import Survival, common_ends
from tests.support.fitting import column, fit, fit_plainly, function, where

SCHEMA = Schema.from_plain(
    {
        "table": "lab.rows",
        "version": 1,
        "title": "Made-up rows",
        "columns": [
            {"name": name, "type": "int", "minimum": 0, "maximum": 400, "nullable": False, "grade": "internal"}
            for name in ("age", "days", "visits")
        ]
        + [
            {"name": "died", "type": "bool", "nullable": False, "grade": "internal"},
            {"name": "sex", "type": "category", "domain": ["f", "m"], "nullable": False, "grade": "internal"},
            {
                "name": "ward",
                "type": "category",
                "domain": ["a", "b", "burns"],
                "nullable": False,
                "grade": "internal",
            },
        ],
    }
)
AGE, DAYS, DIED = (ColumnValue(name=name) for name in ("age", "days", "died"))
B, BURNS = (where("ward", "=", ward, text=True) for ward in ("b", "burns"))
MAN = where("sex", "=", "m", text=True)
GROWN = where("age", ">", "50")


def people(count: int = 240, **one: Any) -> pd.DataFrame:
    """Of three wards and two sexes, in every combination; the last person is as `one` says."""
    draw = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": draw.integers(20, 90, count),
            "days": draw.integers(1, 300, count),
            "visits": np.arange(count) % 7 + 1,
            "died": draw.random(count) < 0.5,
            "sex": draw.choice(["f", "m"], count),
            "ward": draw.choice(["a", "b", "burns"], count),
        }
    )
    for name, value in one.items():
        frame.loc[count - 1, name] = value
    return frame


def holders(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {f"holder-{place}": frame.iloc[place::3] for place in range(3)}


def model(*columns: DesignColumn, response: DesignColumn | None = None, family: str = "gaussian") -> GLM:
    return GLM(family=Family(family), response=response or column("days"), columns=columns)


def among(name: str, value: str) -> Expression:
    return Comparing(comparison=Comparison.EQUAL, left=ColumnValue(name=name), right=TextValue(value=value))


def is_oldest(text: str = "97") -> Expression:
    return Comparing(comparison=Comparison.EQUAL, left=AGE, right=Number(value=text))


def above(value: Expression, limit: str) -> Expression:
    return Arithmetic(op="subtract", left=value, right=Number(value=limit))


def withheld(statistic: Fit, frame: pd.DataFrame, *allowed: pd.DataFrame) -> str:
    """It is fitted to the allowed rows, and withheld on the others; what the refusal names."""
    for one in allowed:
        assert fit(statistic, SCHEMA, holders(one))
    with pytest.raises(ColumnWithheld) as caught:
        fit(statistic, SCHEMA, holders(frame))
    return str(caught.value.fields["columns"])


# --- events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [is_oldest(), Logic(op="and", terms=(is_oldest(), DIED)), above(AGE, "96")],
    ids=["a condition", "two conditions", "a number above 0"],
)
def test_an_event_that_one_person_has(event: Expression) -> None:
    """The life table would tell when the oldest has left, and whether also something else is true of it."""
    frame = people(age=97, died=True)
    assert withheld(Survival(time=DAYS, event=event), frame) == "event"
    assert "event" in withheld(Cox(time=DAYS, event=event, columns=(MAN,)), frame)


def test_an_event_that_all_but_one_have() -> None:
    event = Comparing(comparison=Comparison.LESS, left=AGE, right=Number(value="97"))
    assert withheld(Survival(time=DAYS, event=event), people(age=97))


def test_many_events_are_released() -> None:
    ((table,),) = fit(Survival(time=DAYS, event=DIED), SCHEMA, holders(people()))
    assert sum(table["events"]) == people().died.sum()


# --- what the information matrix counts --------------------------------------------------------------------------


def only_man_with_burns(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[(frame.ward == "burns") & (frame.index != 239), "sex"] = "f"
    return frame


def test_a_cell_of_two_columns_with_one_person() -> None:
    """XᵀX has the number of rows in which both hold, and the covariance is its inverse."""
    frame = only_man_with_burns(people(ward="burns", sex="m"))
    assert "burns" in withheld(model(BURNS, MAN), frame, people())


def test_a_cell_of_a_column_and_the_outcome_with_one_person() -> None:
    """A logistic fit's score equations give the number of events in each level."""
    frame = people(ward="burns", sex="m").assign(died=lambda of: (of.ward != "burns") & of.died)
    frame.loc[239, "died"] = True
    died = DesignColumn(name="died", factors=(Factor(value=DIED),))
    assert withheld(model(BURNS, response=died, family="binomial"), frame, people())


def test_a_cell_of_two_base_levels_with_one_person() -> None:
    """Neither column is 1 in it: the counts of all others leave it."""
    frame = people(ward="a", sex="f")
    frame.loc[(frame.ward == "a") & (frame.index != 239), "sex"] = "m"
    assert withheld(model(B, BURNS, MAN), frame, people())


def test_a_base_level_of_one_person() -> None:
    """The intercept would be that person's outcome."""
    frame = people(ward="a").assign(ward=lambda of: of.ward.where(of.index == 239, of.ward.replace("a", "b")))
    assert withheld(model(B, BURNS), frame, people())


def test_levels_of_one_factor_exclude_each_other_and_need_no_cell() -> None:
    compiled = compile_plan(plan(model(B, BURNS)), SCHEMA)
    names = [repr(test.support) for test in gate_tests(compiled).tests]
    both = [name for name in names if name.count("Compare") == 2 and "Negation" not in name and "AnyOf" not in name]
    assert not [name for name in both if name.count("name='ward'") == 2]


def plan(statistic: Fit) -> Plan:
    return Plan(table=SCHEMA.table, schema_digest=SCHEMA.digest(), outputs=(Named(name="fit", statistic=statistic),))


# --- functions ---------------------------------------------------------------------------------------------------


def test_a_logarithm_that_is_0_for_all_but_one_person() -> None:
    """log(visits) of those who came once."""
    frame = people(visits=300).assign(visits=lambda of: of.visits.where(of.index == 239, 1))
    assert "log(visits)" in withheld(model(function(Function.LOG, "visits"), GROWN), frame, people())


# --- one person with many rows ------------------------------------------------------------------------------------


def with_many_rows(frame: pd.DataFrame, count: int, **one: Any) -> pd.DataFrame:
    """Everybody has one row, but for somebody with so many that are as `one` says."""
    rows = pd.concat([frame.assign(**{SUBJECT: range(len(frame))}), frame.iloc[[0] * count].assign(**one)])
    rows[SUBJECT] = rows[SUBJECT].fillna(len(frame)).astype(int)
    return rows.reset_index(drop=True)


def test_subjects_carry_a_columns_variance_and_not_rows() -> None:
    """visits is 1 but in twenty rows of one person: enough rows, one subject. The mean of many is not 0 either."""
    aimed = with_many_rows(people().assign(visits=1), 20, visits=300)
    assert fit_plainly(model(column("visits")), SCHEMA, holders(aimed.drop(columns=SUBJECT)))
    with pytest.raises(ColumnConcentrated):
        fit_plainly(model(column("visits")), SCHEMA, holders(aimed))


def test_subjects_carry_the_weight_and_not_rows() -> None:
    aimed = with_many_rows(people().assign(visits=1), 20, visits=300)
    weighed = GLM(family=Family.GAUSSIAN, response=column("days"), columns=(column("age"),), weights=column("visits"))
    aimed["age"] = people(len(aimed)).age
    assert fit_plainly(weighed, SCHEMA, holders(aimed.drop(columns=SUBJECT)))
    with pytest.raises(WeightsConcentrated):
        fit_plainly(weighed, SCHEMA, {"one": aimed})


def test_subjects_leave_and_not_rows() -> None:
    """Seven rows on the last day, all of one person."""
    aimed = with_many_rows(people(10).assign(days=10), 7, days=399, died=True)
    table = fit_plainly(Survival(time=DAYS, event=DIED), SCHEMA, {"one": aimed.drop(columns=SUBJECT)})
    assert (table["times"], table["at_risk"]) == ([10, 399], [17, 7])
    table = fit_plainly(Survival(time=DAYS, event=DIED), SCHEMA, {"one": aimed})
    assert (table["times"], table["at_risk"]) == ([399], [17])


def test_subjects_make_a_cluster_and_not_rows() -> None:
    clusters = KMeans(columns=(column("age"), column("days")), clusters=2)
    frame = compile_plan(plan(clusters), SCHEMA).frame(100, 5)
    rows = np.array([[0.0, 0.0]] * 6 + [[9.0, 9.0]] * 12)
    whose = np.array([0, 1, 2, 3, 4, 5, *[6] * 12])
    scaling = Scaling(shift=((0.0).hex(),) * 2, spread=((1.0).hex(),) * 2)
    centres = tuple(centre << GRID_BITS for centre in (0, 0, 9, 9))
    state = KMeansState(phase="counting", scaling=scaling, centres=centres)
    counts = clusters.measure(state, Prepared(rows, whose), frame)
    assert counts == [6, 1]
    with pytest.raises(ClusterTooSmall):
        clusters.advance(state, counts, frame)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_effective_subjects_are_those_of_the_definition(seed: int, subjects: int) -> None:
    draw = np.random.default_rng(seed)
    whose = np.unique(draw.integers(0, subjects, 40), return_inverse=True)[1]
    x = draw.normal(3, 2, (40, 1))
    totals = to_sums(moment_sums(x, [(-10.0, 10.0)], whose))
    with exactly():
        found = Moments.of(totals)
    q = np.bincount(whose, weights=(x[:, 0] - x.mean()) ** 2)
    assert float(found.effective[0]) == pytest.approx(q.sum() ** 2 / (q**2).sum(), rel=1e-6)
    assert (found.rows, found.subjects) == (40, len(q))


# --- what other holders see ---------------------------------------------------------------------------------------


def test_nobody_sums_over_a_cluster_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every holder reads the sums of a round: over one person they would be that person's row."""
    summed: list[list[int]] = []
    original = KMeans.measure

    def watched(self: KMeans, state: Any, prepared: Any, frame: Any) -> list[int]:
        sums = original(self, state, prepared, frame)
        if state.phase == "lloyd":
            summed.append(sums[:-1:3])
        return sums

    monkeypatch.setattr(KMeans, "measure", watched)
    with pytest.raises(ClusterTooSmall):
        fit(KMeans(columns=(column("age"), column("days")), clusters=20), SCHEMA, holders(people()))
    rounds = [list(map(sum, zip(*summed[at : at + 3], strict=True))) for at in range(0, len(summed), 3)]
    assert all(count >= 5 << GRID_BITS for counts in rounds for count in counts)


def test_a_cluster_at_one_holder_alone_is_too_small() -> None:
    """As in the gate: enough subjects at enough holders."""
    frame = people()
    parts = holders(frame)
    parts["holder-0"] = parts["holder-0"].copy()
    parts["holder-0"].iloc[:20, [0, 1]] = 400
    clusters = KMeans(columns=(column("age"), column("days")), clusters=2)
    assert min(fit_plainly(clusters, SCHEMA, parts)["counts"]) == 20
    with pytest.raises(ClusterTooSmall):
        fit(clusters, SCHEMA, parts)


# --- cut otherwise ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=12, max_size=12), min_size=4, max_size=4), st.integers(2, 6))
def test_questions_by_other_groups_end_their_steps_where_enough_have_left(table: list[list[int]], least: int) -> None:
    """By sex, by ward, and by neither: between any two ends of steps, of whichever question, are enough of all."""
    leaving = np.array(table)
    groupings = [leaving[[0, 1]] + leaving[[2, 3]], leaving[[0, 2]] + leaving[[1, 3]], leaving.sum(axis=0)[None]]
    found = [common_ends(one[one.sum(axis=1) > 0], least) for one in groupings]
    every, start, of_all = sorted(set().union(*found)), 0, leaving.sum(axis=0)
    for end in every:
        assert len(every) == 1 or of_all[start : end + 1].sum() >= least
        start = end + 1
    assert not of_all[start:].any()


def test_other_times_of_the_same_people_are_another_question() -> None:
    """Else the tables of two grids could be subtracted."""
    of_day, of_week = (Survival(time=DAYS, event=DIED, grid=Number(value=grid)) for grid in ("1", "7"))
    assert of_day.cut != of_week.cut != Survival(time=above(DAYS, "0"), event=DIED, grid=Number(value="7")).cut
    (whole,) = [test for test in gate_tests(compile_plan(plan(of_day), SCHEMA)).tests if test.cut]
    assert whole.audited and whole.columns == {"days", "died"}


def test_a_weight_that_is_a_little_more_for_one_person() -> None:
    """Beside the fit without weights, the difference is what that person adds: coefficients, and the covariance."""
    tilted = Arithmetic(op="add", left=ColumnValue(name="visits"), right=Number(value="1000"))
    weights = DesignColumn(name="weight", factors=(Factor(value=tilted),))
    aimed = people().assign(visits=lambda of: of.visits.where(of.index == 239, 0))
    statistic = GLM(family=Family.GAUSSIAN, response=column("days"), columns=(column("age"),), weights=weights)
    assert "weight" in withheld(statistic, aimed, people())


def test_a_plan_has_its_tests_in_little_time() -> None:
    """Of 40 columns: each pair is a test, and nothing grows faster."""
    columns = [where("age", ">", str(30 + at)) for at in range(40)]
    compiled = compile_plan(plan(model(*columns)), SCHEMA)
    assert len(json.dumps([repr(compiled.fit)])) and len(gate_tests(compiled)) < 10_000
