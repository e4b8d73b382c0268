"""Attacks by questions that anybody may ask: what their answers, together or alone, tell about few people.

All are about `visits`, whose columns are graded, so that there is a gate, a memory of what was answered, and a budget.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ceiba.sql import parse
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.plan import compile_plan
from ceiba_protocol.rounds import layout_of
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import NoiseTerms
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import ApproveTask
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, VICTIM, Field, said
from tests.attacks.live.visits import (
    BURNT,
    NEW,
    NINETIES,
    OLD_MAN,
    RICH,
    SCHEMA,
    VISITS,
    WARDS,
    Row,
    frame,
    rows_of,
)

NOISE = NoiseTerms(rho=100_000)
TIMES = 6
DAYS = f"SELECT SUM(days) AS days FROM {VISITS}"
DAYS_BY_WARD = f"SELECT ward, SUM(days) AS days FROM {VISITS} GROUP BY ward"
COUNT = f"SELECT COUNT(*) AS n FROM {VISITS}"
COUNT_BY_WARD = f"SELECT ward, COUNT(*) AS n FROM {VISITS} GROUP BY ward"
ROWS = {holder: rows_of(holder) for holder in HOLDERS}


def true_days(holds: Callable[[Row], bool] = lambda _: True) -> int:
    """Of the patients for whom that holds, at all hospitals."""
    return sum(row["days"] for rows in ROWS.values() for row in rows if holds(row))


def true_count(holds: Callable[[Row], bool] = lambda _: True) -> int:
    return sum(holds(row) for rows in ROWS.values() for row in rows)


def exact(field: Field, sql: str, merchant: str = "bank-a", agreement: Agreement | None = None) -> list[int]:
    """The last sum of every cell, 0 where it is withheld. Raises AssertionError if the question is refused."""
    signed = field.ask(merchant, sql=sql, agreement=agreement)
    sums, width = field.answer(signed), len(field.question(signed).program.sums)
    assert sums is not None
    return sums[width - 1 :: width]


def difference(field: Field, first: str, second: str, expected: int, merchants: Sequence[str] = ("bank-a",)) -> int:
    """The first answer, which is `expected`, less the second one."""
    (whole,) = exact(field, first, merchants[0])
    assert whole == expected, "the first question is answered"
    (part,) = exact(field, second, merchants[-1])
    return whole - part


def told(found: int, wanted: int, whose: str) -> Outcome:
    """Whether what was found is what the attacker wanted to know."""
    return Outcome(found == wanted, f"{whose}, {found}" if found == wanted else "one of the answers is withheld")


# --- differences of exact answers ------------------------------------------------------------------------------------


@attack(without="earlier answers compared")
def tracker(field: Field, without: str | None) -> Outcome:
    """A merchant asks about the patients of a ward, then about those below 96: the two differ by one man."""
    field.begin(without)
    ward = f"{DAYS} WHERE ward = 'medicine'"
    found = difference(field, ward, f"{ward} AND age < 96", true_days(lambda row: row["ward"] == "medicine"))
    return told(found, OLD_MAN["days"], f"the days of {VICTIM}'s oldest patient")


@attack(without="earlier answers compared")
def tracker_by_complement(field: Field, without: str | None) -> Outcome:
    """A merchant asks about everybody, then about everybody but the men over 95, of whom there is one."""
    field.begin(without)
    found = difference(field, DAYS, f"{DAYS} WHERE NOT (age > 95 AND sex = 'male')", true_days())
    return told(found, OLD_MAN["days"], f"the days of {VICTIM}'s oldest patient")


@attack(without="other merchants' answers compared")
def tracker_across_merchants(field: Field, without: str | None) -> Outcome:
    """Two banks of different organisations ask one question each, and subtract."""
    field.begin(without)
    found = difference(field, DAYS, f"{DAYS} WHERE age < 96", true_days(), ("bank-a", "bank-b"))
    return told(found, OLD_MAN["days"], f"the days of {VICTIM}'s oldest patient")


@attack(without="what two answers make together")
def tracker_by_union(field: Field, without: str | None) -> Outcome:
    """Women, then everybody, then the men below 96: no two of the three differ by few."""
    field.begin(without)
    (women,) = exact(field, f"{DAYS} WHERE sex = 'female'")
    assert women == true_days(lambda row: row["sex"] == "female")
    found = difference(field, DAYS, f"{DAYS} WHERE sex = 'male' AND age < 96", true_days()) - women
    return told(found, OLD_MAN["days"], f"the days of {VICTIM}'s oldest patient")


@attack(without="what released cells add up to")
def suppressed_cell_from_total(field: Field, without: str | None) -> Outcome:
    """Ward by ward the one burnt patient is withheld; the total of all wards, less the others, is hers."""
    field.begin(without)
    cells = exact(field, DAYS_BY_WARD)
    assert 0 not in cells[: len(WARDS)] and cells[len(WARDS) :] == [0], "only her ward is withheld"
    (whole,) = exact(field, DAYS)
    return told(whole - sum(cells), BURNT["days"], f"the days of {VICTIM}'s only burnt patient")


@attack(without="known totals")
def suppressed_cell_from_earlier_total(field: Field, without: str | None) -> Outcome:
    """The same the other way round: first the total, then ward by ward."""
    field.begin(without)
    (whole,) = exact(field, DAYS)
    assert whole == true_days()
    return told(whole - sum(exact(field, DAYS_BY_WARD)), BURNT["days"], f"the days of {VICTIM}'s only burnt patient")


# --- versions --------------------------------------------------------------------------------------------------------


def publish(field: Field, rows: Sequence[Row]) -> None:
    """A new version of the victim's table."""
    field.sandbox.publish(VICTIM, VISITS, frame(list(rows)))
    field.mallory.touched.add(VICTIM)


@attack(without="earlier answers compared")
def yesterday_and_today(field: Field, without: str | None) -> Outcome:
    """The same question before and after a hospital has published one more patient."""
    field.begin(without)
    (yesterday,) = exact(field, DAYS)
    publish(field, [*ROWS[VICTIM], NEW])
    (today,) = exact(field, DAYS)
    return told(today - yesterday, NEW["days"], f"the days of {VICTIM}'s newest patient")


@attack(without="earlier answers compared")
def corrected_between_versions(field: Field, without: str | None) -> Outcome:
    """The same question before and after one patient's row was corrected: nobody has come or gone."""
    field.begin(without)
    (yesterday,) = exact(field, DAYS)
    publish(field, [row if row != OLD_MAN else {**row, "days": row["days"] + 24} for row in ROWS[VICTIM]])
    (today,) = exact(field, DAYS)
    return told(today - yesterday, 24, f"by how many days {VICTIM} has corrected one patient's stay")


# --- few in one cell -------------------------------------------------------------------------------------------------


@attack(without="k subjects")
def small_group(field: Field, without: str | None) -> Outcome:
    """How many patients are 88 years old? There is one at each of four hospitals."""
    field.begin(without)
    (found,) = exact(field, f"{COUNT} WHERE age = 88")
    return told(found, len(HOLDERS), "how many patients are 88 years old")


@attack(without="h holders")
def not_null_to_one_hospital(field: Field, without: str | None) -> Outcome:
    """A value that one hospital alone has measured: whoever has one is its patient, and there are many of them."""
    field.begin(without)
    (found,) = exact(field, f"{DAYS} WHERE marker IS NOT NULL")
    return told(found, sum(row["days"] for row in ROWS[VICTIM]), f"{VICTIM}'s own total")


@attack(without="tests of conditions")
def rare_in_a_mean(field: Field, without: str | None) -> Outcome:
    """The share of patients in their nineties: a mean over a cell of everybody, whose sum is how many there are."""
    field.begin(without)
    (found,) = exact(field, f"SELECT AVG(CASE WHEN age BETWEEN 90 AND 95 THEN 1 ELSE 0 END) AS share FROM {VISITS}")
    return told(found, len(NINETIES), f"how many patients are in their nineties, all in {VICTIM}")


@attack(without="tests of what two sums do not share")
def all_but_the_rare(field: Field, without: str | None) -> Outcome:
    """How many patients there are, and how many of them are not in their nineties, in one answer."""
    field.begin(without)
    signed = field.ask(
        sql=f"SELECT COUNT(*) AS n, SUM(CASE WHEN age < 90 OR age > 95 THEN 1 END) AS most FROM {VISITS}"
    )
    sums = field.answer(signed)
    assert sums is not None and sums[0] == true_count(), "the number of all patients is released"
    return told(sums[0] - sums[1], len(NINETIES), f"how many patients are in their nineties, all in {VICTIM}")


@attack(without="nobody dominates")
def dominant_patient(field: Field, without: str | None) -> Outcome:
    """The bills of a ward in which one patient has paid nearly all."""
    field.begin(without, VICTIM)
    (found,) = exact(field, f"SELECT SUM(bill) AS bill FROM {VISITS} WHERE ward = 'surgery'")
    if not found:
        return Outcome(False, "the sum is withheld")
    others = found - RICH["bill"]
    return Outcome(others < found // 10, f"one patient's bill, {found}, up to the {others} that all others have paid")


@attack(without="groups have a declared domain")
def data_dependent_groups(field: Field, without: str | None) -> Outcome:
    """A plan, made without the SDK, that groups by a column whose values are not declared."""
    field.begin(without, VICTIM)
    ages = tuple(str(age) for age in range(121))
    columns = tuple(one.model_copy(update={"domain": ages}) if one.name == "age" else one for one in SCHEMA.columns)
    declared = SCHEMA.model_copy(update={"columns": columns})
    plan = parse(f"SELECT age, COUNT(*) AS n FROM {VISITS} GROUP BY age", lambda _: declared)[0]
    usual = field.manifest(sql=COUNT)
    capacities, bits = [pin.row_capacity for pin in usual.datasets], field.question(field.signed(usual)).modulus
    layout = layout_of(compile_plan(plan, declared), capacities, bits.bit_length())
    changes = {
        "plan": plan.model_copy(update={"schema_digest": SCHEMA.digest()}),
        "layout_digest": layout.digest().hex(),
    }
    reply = field.approve(VICTIM, field.ask(sql=COUNT, **changes))
    if reply.approval is None:
        return Outcome(False, said(reply))
    return Outcome(True, f"{VICTIM}'s approval of a group for each age that a row may have")


# --- noise, and what it costs ----------------------------------------------------------------------------------------


@attack(without="noise sticks to the question")
def averaging(field: Field, without: str | None) -> Outcome:
    """A merchant asks the same question with noise again and again, and takes the mean."""
    field.begin(without)
    answers = [field.answer(field.ask(sql=COUNT_BY_WARD, noise=NOISE)) for _ in range(TIMES)]
    truth = [true_count(lambda row, ward=ward: row["ward"] == ward) for ward in WARDS]  # type: ignore[misc]
    errors = np.array([(answer or [])[: len(WARDS)] for answer in answers]) - truth
    largest = np.abs(errors).max()
    if (errors == errors[0]).all():
        return Outcome(False, f"{TIMES} times the same numbers, off by up to {largest}")
    return Outcome(
        True, f"{TIMES} answers that differ, off by up to {largest}; their mean by {np.abs(errors.mean(0)).max():.1f}"
    )


IN_OTHER_WORDS = ["days >= 1", "days > 0", "NOT days < 1", "NOT days <= 0", "days + 1 > 1", "days * 2 > 1"]


@attack(without="answers with noise are paid for")
def averaging_in_other_words(field: Field, without: str | None) -> Outcome:
    """Likewise, each time in other words, so that the noise is new; the budget lasts for three."""
    field.begin(without)
    agreement = field.agree(table=VISITS, disclosure=_with_budget(field, 3))
    answers = []
    for words in IN_OTHER_WORDS:
        counts, saying = _unless_refused(
            field, field.ask(sql=f"{COUNT} WHERE {words}", noise=NOISE, agreement=agreement)
        )
        if counts is None:
            assert len(answers) == 3, saying
            return Outcome(False, f"{len(answers)} answers; then {saying}")
        answers += counts
    error = abs(sum(answers) / len(answers) - true_count())
    return Outcome(True, f"{len(answers)} answers, of which three are paid for; their mean is off by {error:.1f}")


@attack(without="the budget is a table's")
def version_bump_keeps_the_budget(field: Field, without: str | None) -> Outcome:
    """The same question again after each publication, when the noise is new; the budget lasts for two."""
    field.begin(without)
    agreement, rows = field.agree(table=VISITS, disclosure=_with_budget(field, 2)), list(ROWS[VICTIM])
    for times in range(3):
        counts, saying = _unless_refused(field, field.ask(sql=COUNT, noise=NOISE, agreement=agreement))
        if counts is None:
            assert times == 2, saying
            return Outcome(False, f"{times} answers; then {saying}")
        rows.append({**NEW, "patient": f"new-{times}"})
        publish(field, rows)
    return Outcome(True, "three answers, of which two are paid for: each version began with a whole budget")


@attack(without="noise is new for each version")
def before_and_after_a_withdrawal(field: Field, without: str | None) -> Outcome:
    """The same question with noise, before and after a patient has objected: whatever the noise is, it cancels."""
    field.begin(without)
    before = field.answer(field.ask(sql=DAYS, noise=NOISE))
    done = field.command(VICTIM, None, "withdraw", VISITS, "--subject", OLD_MAN["patient"])
    assert done.returncode == 0 and before is not None, done.stderr
    after = field.answer(field.ask(sql=DAYS, noise=NOISE))
    assert after is not None
    found = [old - new for old, new in zip(before, after, strict=True)]
    if found == [1, OLD_MAN["days"]]:
        return Outcome(True, f"that one patient has objected at {VICTIM}, and his {found[1]} days")
    return Outcome(False, f"two answers that differ by {found[0]} patients and {found[1]} days, because of new noise")


@attack(without="the sum is read in the transaction")
def last_of_a_budget(field: Field, without: str | None) -> Outcome:
    """Two jobs at once, of which the budget pays for one."""
    field.begin(without, VICTIM)
    agreement = field.agree(table=VISITS, to=[VICTIM], disclosure=_with_budget(field, 1))
    jobs = [field.ask(sql=f"{COUNT} WHERE {words}", noise=NOISE, agreement=agreement) for words in IN_OTHER_WORDS[:2]]
    tasks = [field.task(signed, approve=ApproveTask(manifest=signed)) for signed in jobs]
    for task in tasks:
        field.mallory.send(VICTIM, task)
    replies = [field.mallory.reply(VICTIM, task) for task in tasks]
    refused = [reply for reply in replies if reply.approval is None]
    assert len(refused) < 2, "one of them is paid for"
    if refused:
        return Outcome(False, said(refused[0]))
    return Outcome(True, f"{VICTIM}'s approval of two jobs, of which one is paid for")


def _with_budget(field: Field, answers: int) -> Disclosure:
    """Stricter rules than usual: a year's budget is so many answers with noise."""
    return field.visit_agreements["bank-a"].disclosure.model_copy(update={"rho_per_year": answers * NOISE.rho})


def _unless_refused(field: Field, signed: Signed) -> tuple[list[int] | None, str]:
    """The answer, or what the holders say instead."""
    reply = field.approve(VICTIM, signed)
    if reply.approval is None:
        return None, said(reply)
    return field.answer(signed), ""


ATTACKS = [
    tracker, tracker_by_complement, tracker_across_merchants, tracker_by_union, suppressed_cell_from_total,
    suppressed_cell_from_earlier_total, yesterday_and_today, corrected_between_versions, small_group,
    not_null_to_one_hospital, rare_in_a_mean, all_but_the_rare, dominant_patient, data_dependent_groups, averaging,
    averaging_in_other_words, version_bump_keeps_the_budget, before_and_after_a_withdrawal, last_of_a_budget,
]  # fmt: skip
