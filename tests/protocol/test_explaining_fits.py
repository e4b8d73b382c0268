"""What is said of a fit before it runs, against what it does when it runs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from ceiba.analysis import Analysis
from ceiba.query import Table
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import BadModel
from ceiba_protocol.explaining import Book, explain
from ceiba_protocol.explaining_fits import BYTES_A_SUM, FitFacts, fit_facts
from ceiba_protocol.explanation import Explanation
from ceiba_protocol.plan import compile_plan, fit_rows
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.statistics import STATISTICS
from ceiba_protocol.statistics.fits.base import Fit
from ceiba_protocol.wording import statistic_text
from tests.protocol.test_explanation import NOISE, asked_with, schema_of
from tests.support.fitting import by_hospital, heart, heart_rows, lung, lung_rows
from tests.support.pooled import Pooled

Made = Callable[[Table], Analysis[Any]]

MODELS: dict[str, Made] = {
    "logistic": lambda t: t.logistic("I(diagnosis > 0) ~ age + C(sex) + cholesterol"),
    "gaussian": lambda t: t.glm("cholesterol ~ age + C(sex)"),
    "poisson": lambda t: t.glm("diagnosis ~ age + C(sex)", family="poisson", offset="log(age)"),
    "kmeans": lambda t: t.kmeans(["age", "max_heart_rate"], 3),
}


def table_of(schema: Schema) -> Table:
    return Table(schema, None)  # type: ignore[arg-type]  # nothing is asked


def explained(made: Made, grade: Grade = Grade.INTERNAL, **agreed: Any) -> Explanation:
    """Of the table of `test_explanation`."""
    asked = asked_with(grade=grade, **agreed)
    return explain(replace(asked, plan=made(table_of(schema_of(grade))).query.plan()), Book("by nobody's count"))


def rounds_of(made: Made, schema: Schema, frames: Mapping[str, pd.DataFrame]) -> tuple[FitFacts, list[int]]:
    """What is said beforehand, and the number of sums in each round as it is."""
    program = compile_plan(made(table_of(schema)).query.plan(), schema)
    fit: Any = program.fit
    frame = program.frame(sum(map(len, frames.values())), 5)
    facts = fit_facts(fit, frame)
    prepared = [fit.prepare(fit_rows(program, Pooled(schema, one).rows), frame) for one in frames.values()]
    state, widths = fit.begin(frame), []
    while not state.is_final:
        widths.append(fit.width(state, frame))
        sums = [fit.measure(state, one, frame) for one in prepared]
        state = fit.advance(state, [sum(each) for each in zip(*sums, strict=True)], frame)
    return facts, widths


@pytest.mark.parametrize("name", MODELS)
def test_rounds_and_bytes_are_about_what_they_are(name: str) -> None:
    facts, widths = rounds_of(MODELS[name], heart(), by_hospital(heart_rows()))
    assert facts.largest == max(widths)
    assert facts.rounds / 2 <= len(widths) <= 2 * facts.rounds
    assert facts.bytes_per_holder / 2 <= BYTES_A_SUM * sum(widths) <= 2 * facts.bytes_per_holder


def test_the_rounds_of_a_cox_model_are_at_most_so_large() -> None:
    """How many steps of time there are follows from the data: each has at least as many subjects as a figure must."""
    schema, rows = lung("internal"), lung_rows()
    facts, widths = rounds_of(lambda t: t.cox("age + sex", "time", "status"), schema, {"all": rows})
    assert max(widths) <= facts.largest <= 2 * max(widths)
    assert facts.rounds / 2 <= len(widths) <= 2 * facts.rounds
    table, its_widths = rounds_of(lambda t: t.kaplan_meier("time", "status"), schema, {"all": rows})
    assert (table.rounds, table.largest) == (len(its_widths), max(its_widths))
    assert sum(its_widths) <= table.sums <= 2 * sum(its_widths)


def test_of_every_fit_its_own_figures_are_told() -> None:
    """A new one is explained as well as these, or this fails."""
    made = [*MODELS.values(), lambda t: t.kaplan_meier("age", t.diagnosis), lambda t: t.cox("sex", "age", t.diagnosis)]
    programs = [compile_plan(one(table_of(heart())).query.plan(), heart()) for one in made]
    told = {one.fit.statistic: fit_facts(one.fit, one.frame(100, 5)).figures for one in programs if one.fit}
    assert told.keys() == {name for name, kind in STATISTICS.items() if issubclass(kind, Fit)}
    assert "the final figures" not in told.values()


# --- who sees what ---------------------------------------------------------------------------------------------


def test_who_sees_what_of_a_fit() -> None:
    parties = explained(lambda t: t.logistic("I(age > 50) ~ sex + stage")).parties
    merchant, holder, coordinator = (parties[name] for name in ("merchant", "each holder", "coordinator"))
    assert merchant.startswith("the final figures alone, over all 3 holders: coefficients (4) and their covariance")
    assert "no sum of any round" in merchant
    assert "the sums of every round over all 3 holders, so with its own those of the other 2 together" in holder
    assert "counted up to 2 at each holder" in holder and "no other holder's own sums" in holder
    assert "how many rounds there are" in coordinator and "masked words and ciphertexts that it cannot" in coordinator


def test_what_can_refuse_it_is_told_with_its_numbers() -> None:
    text = str(explained(lambda t: t.logistic("I(age > 50) ~ sex + stage")))
    for told in (
        "fewer than 40 complete rows",
        "effective sample size (Σw)²/Σw² is below 40",
        "a coefficient grows beyond 30 standard deviations",
        "does not converge in 30 iterations",
        "all or nothing: enough subjects at enough holders are behind the complete rows, and behind each column",
        "its rounds count as one exact answer together",
        "1 of this merchant's exact answers from these data: 0 of 50 used",
    ):
        assert told in text
    clusters = str(explained(lambda t: t.kmeans(["age"], 2)))
    assert "a cluster has fewer than 5 rows" in clusters and "coefficient" not in clusters


def test_public_data_have_no_gate_and_fewer_guards() -> None:
    found = explained(lambda t: t.logistic("I(age > 50) ~ sex"), Grade.PUBLIC, disclosure=RULES[Grade.PUBLIC])
    text = str(found)
    assert "gate" not in "".join(found.parties.values()) and "effective sample size" not in text
    assert "fewer than 3 complete rows" in text


def test_groups_of_life_tables_are_withheld_one_by_one() -> None:
    found = explained(lambda t: t.kaplan_meier("age", t.stage == "a", by="sex"))
    assert "and what was withheld" in found.parties["merchant"] and "of the cells (2)" in str(found)
    assert "times are merged until 5 subjects leave" in found.parties["merchant"] and "about 2 rounds of" in str(found)


def test_programs_read_it_as_well() -> None:
    found = explained(lambda t: t.kmeans(["age"], 2))
    facts = json.loads(json.dumps(found.to_dict()))["fit"]
    assert facts["rounds"] == 20 and facts["guards"] and facts["sums"] * BYTES_A_SUM < found.bytes_per_holder
    assert explain(asked_with(), Book("")).to_dict()["fit"] is None


def test_what_is_known_beforehand_is_said_before_anybody_is_asked() -> None:
    asked = asked_with(grade=Grade.INTERNAL, noise=NOISE)
    plan = table_of(asked.schema).kmeans(["age"], 2).query.plan()
    refusals = explain(replace(asked, plan=plan), Book("")).refusals
    assert [one.code for one in refusals] == ["noise_undefined"]
    with pytest.raises(BadModel, match="its schema's bounds"):
        explained(lambda t: t.glm("I(age - 50) ~ sex", family="poisson"))


# --- in words --------------------------------------------------------------------------------------------------


def words_of(made: Made) -> str:
    return statistic_text(made(table_of(heart())).query.plan().outputs[0].statistic)


def test_a_fit_in_words_has_all_that_holders_compute_with() -> None:
    """The outcome, every column, weights and offset, and no word of the merchant's own."""
    said = words_of(
        lambda t: t.glm(
            "diagnosis ~ 0 + age + log(cholesterol) + C(sex):age",
            family="negative_binomial",
            exposure="resting_bp",
            weights="max_heart_rate",
            alpha=0.5,
        )
    )
    assert said == (
        "glm(family: negative_binomial, response: diagnosis, columns: (age, log(cholesterol), (sex = 'Male') * age), "
        "intercept: False, offset: log(resting_bp), weights: max_heart_rate, alpha: 0.5)"
    )
    assert words_of(lambda t: t.logistic("I(diagnosis > 0) ~ age")) == (
        "glm(family: binomial, response: diagnosis > 0, columns: age)"
    )
    assert words_of(lambda t: t.kmeans("age + cholesterol", 4)) == "kmeans(columns: (age, cholesterol), clusters: 4)"
    assert words_of(lambda t: t.kaplan_meier("age", t.diagnosis > 0, grid=5)) == (
        "survival(time: age, event: diagnosis > 0, grid: 5)"
    )
