"""The policy engine: every rule by itself, their order, the sets that nearly coincide, and what an officer may sign."""

import itertools
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ceiba_node.house_rules import SAMPLE_POLICY, Policy, read_policy
from ceiba_node.policy import (
    MAX_KEPT_SETS,
    RULES,
    AnsweredSet,
    Decision,
    DecisionPending,
    Record,
    Request,
    Stop,
    StopKind,
    check_set,
    check_signing,
    day_begins,
    decide,
    may_leave,
)
from ceiba_protocol.disclosure import grade as grades
from ceiba_protocol.disclosure.grade import DEFAULT_RHO, MILLION, NoiseRule, disclosure_for
from ceiba_protocol.errors import (
    AgreementMismatch,
    AgreementNotActive,
    BadConfiguration,
    CeibaError,
    ForbiddenByPolicy,
    GradeForbids,
    HistoryFull,
    NearbySet,
    NumberUsed,
    QuotaExceeded,
    RefusedByPerson,
    Stopped,
    UnknownMember,
)
from ceiba_protocol.rounds import Question
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.trust.agreement import DAY, NEARBY_SECONDS, Agreement, Contract, Word, read_contract
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.members import (
    HOLDERS,
    MERCHANT,
    NOW,
    ROWS,
    SCHEMA,
    World,
    changed,
    graded,
    holder,
    merchant,
    signed_by,
)

ME = HOLDERS[0]
JOB = bytes.fromhex("0b" * 16)
FIVE = {**ROWS, "lille": ROWS["zurich"], "mainz": ROWS["zurich"]}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def schema_with(grade: Grade) -> Schema:
    """The same, but for the grade of `age`."""
    columns = [
        column.model_copy(update={"grade": grade}) if column.name == "age" else column for column in SCHEMA.columns
    ]
    return changed(SCHEMA, columns=tuple(columns))


@cache
def request(world: World) -> Request:
    """A question that every rule lets pass. Made once of each world: signing it takes most of a test's time."""
    return Request(world.read(), world.contract(), SCHEMA, Policy(), Record(), ME, NOW)


def with_record(given: Request, **changes: Any) -> Request:
    return replace(given, record=replace(given.record, **changes))


def with_policy(given: Request, **changes: Any) -> Request:
    return replace(given, policy=given.policy.model_copy(update=changes))


def with_decision(given: Request, approved: bool = True) -> Request:
    """A person has decided."""
    return with_record(given, decision=Decision(approved, ""))


@cache
def gated(grade: str = "internal", noise: bool = False) -> Question:
    """The same question about data of that grade, exact or with noise."""
    world = World(schema=graded(grade))
    world.noise = NoiseTerms(rho=DEFAULT_RHO) if noise else None
    return world.read()


def suspended(given: Request) -> Request:
    notices = tuple(read_contract(WORLD.signatures(), [WORLD.notice("zurich", Word.SUSPEND)], WORLD.roster).notices)
    return replace(given, contract=Contract(given.contract.agreement, given.contract.signatures, notices))


WORLD = World()
BROKEN: list[tuple[type[Exception], Callable[[Request], Request]]] = [
    (Stopped, lambda one: with_record(one, stops=(Stop(StopKind.ALL, "", "", NOW),))),
    (AgreementNotActive, suspended),
    (ForbiddenByPolicy, lambda one: with_policy(one, merchants=("bank-b",))),
    (ForbiddenByPolicy, lambda one: with_policy(one, forbidden_columns=("health.heart.age",))),
    (GradeForbids, lambda one: replace(with_decision(one), schema=schema_with(Grade.CORE))),
    (ForbiddenByPolicy, lambda one: with_policy(one, minimum_holders=4)),
    (NumberUsed, lambda one: with_record(one, number_used=True)),
    (QuotaExceeded, lambda one: with_record(one, jobs_today=200)),
    (ForbiddenByPolicy, lambda one: with_policy(one, cells_per_job=1)),
    (HistoryFull, lambda one: replace(with_record(one, kept_sets=MAX_KEPT_SETS), question=gated())),
    (RefusedByPerson, lambda one: with_record(one, decision=Decision(False, "no"))),
]
"""One way to break each rule, in the order of RULES."""


def error_of(given: Request) -> Exception:
    with pytest.raises((CeibaError, DecisionPending)) as caught:
        decide(given)
    return caught.value


def test_a_good_question_passes_every_rule(world: World) -> None:
    decide(request(world))


@pytest.mark.parametrize("place", range(len(RULES)))
def test_each_rule_refuses_by_itself(world: World, place: int) -> None:
    """It, and no other: a rule that is left out lets the question pass."""
    kind, spoil = BROKEN[place]
    broken = spoil(request(world))
    with pytest.raises(kind):
        RULES[place](broken)
    for other in (*RULES[:place], *RULES[place + 1 :]):
        other(broken)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(range(len(RULES)), 2)))
def test_of_two_broken_rules_the_earlier_one_answers(world: World, first: int, second: int) -> None:
    alone, both = BROKEN[first][1](request(world)), BROKEN[second][1](BROKEN[first][1](request(world)))
    kept = RULES[first]
    with pytest.raises(CeibaError) as expected:
        kept(replace(alone, policy=both.policy, record=both.record))
    assert str(error_of(both)) == str(expected.value)


def test_a_ledger_finds_its_stops_again() -> None:
    """It keeps these words."""
    assert list(StopKind) == ["all", "dataset", "merchant", "agreement"]


def test_nothing_changes_while_the_rules_run(world: World) -> None:
    given, stop, decision = request(world), Stop(StopKind.ALL, "", "", NOW), Decision(True, "")
    for part in (given, given.record, stop, decision, answered(*HOLDERS).answered[0]):
        with pytest.raises(FrozenInstanceError):
            setattr(part, next(iter(vars(part))), None)


# --- stops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        (StopKind.ALL, "", "all questions"),
        (StopKind.DATASET, "health.heart", "questions about health.heart"),
        (StopKind.MERCHANT, MERCHANT, "bank-a's questions"),
        (StopKind.AGREEMENT, WORLD.agreement.digest(), "questions under this agreement"),
    ],
)
def test_a_stop_says_what_and_not_why(world: World, kind: StopKind, name: str, what: str) -> None:
    error = error_of(with_record(request(world), stops=(Stop(kind, name, "they lied to us", NOW),)))
    assert isinstance(error, Stopped) and error.fields == {"holder": ME, "what": what}


@pytest.mark.parametrize(
    "stop",
    [
        Stop(StopKind.DATASET, "health.lungs", "", NOW),
        Stop(StopKind.MERCHANT, "a-bank", "", NOW),
        Stop(StopKind.MERCHANT, "bank-b", "", NOW),
        Stop(StopKind.AGREEMENT, "ab" * 32, "", NOW),
        Stop(StopKind.MERCHANT, "health.heart", "", NOW),
    ],
)
def test_a_stop_of_something_else_stops_nothing(world: World, stop: Stop) -> None:
    decide(with_record(request(world), stops=(stop,)))


# --- the house's own limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"merchants": ("bank-b",)}, "merchants"),
        ({"purposes": ("care",)}, "purposes does not list the agreement's."),
        ({"columns": ("health.heart.sex", "health.heart.chol")}, "age"),
        (
            {"forbidden_columns": ("health.heart.chol", "health.heart.age")},
            "columns or forbidden_columns exclude age, chol of health.heart",
        ),
        ({"forbidden_columns": ("health.heart.chol",)}, "chol"),
        ({"minimum_subjects": 12}, "minimum_subjects is 12"),
        ({"minimum_cell_holders": 4}, "minimum_cell_holders is 4"),
        ({"minimum_holders": 4}, "minimum_holders is 4"),
        ({"tolerated": 2}, "tolerated is 2"),
    ],
)
def test_the_refusal_names_the_houses_rule(world: World, settings: dict[str, Any], rule: str) -> None:
    error = error_of(with_policy(request(world), **settings))
    assert isinstance(error, ForbiddenByPolicy) and rule in error.fields["rule"] + "."


@pytest.mark.parametrize(
    "settings",
    [
        {"merchants": (MERCHANT,)},
        {"purposes": ("research",)},
        {"columns": ("health.lungs.smoker",)},
        {"columns": ("health.heart.sex", "health.heart.age", "health.heart.chol")},
        {"forbidden_columns": ("health.lungs.age",)},
    ],
)
def test_lists_that_do_not_concern_it_let_it_pass(world: World, settings: dict[str, Any]) -> None:
    decide(with_policy(request(world), **settings))


def test_a_grade_above_the_houses_highest_is_forbidden(world: World) -> None:
    sensitive = replace(request(world), schema=schema_with(Grade.SENSITIVE))
    decide(sensitive)
    error = error_of(with_policy(sensitive, highest_grade=Grade.INTERNAL))
    assert isinstance(error, ForbiddenByPolicy) and "internal" in error.fields["rule"]


def test_no_setting_opens_core_data(world: World) -> None:
    """Nor does a person who approves the job."""
    open_house = with_policy(request(world), highest_grade=Grade.CORE, ask_from_grade=Grade.CORE)
    for asked in (open_house, with_decision(open_house)):
        assert isinstance(error_of(replace(asked, schema=schema_with(Grade.CORE))), GradeForbids)


def test_important_data_is_closed_until_the_house_opens_it_and_a_person_the_job(world: World) -> None:
    important = replace(request(world), schema=schema_with(Grade.IMPORTANT))
    error = error_of(with_decision(important))
    assert isinstance(error, ForbiddenByPolicy)
    assert error.fields["rule"] == "highest_grade is sensitive, and a column is important"
    opened = with_policy(important, highest_grade=Grade.IMPORTANT)
    assert isinstance(error_of(opened), DecisionPending)
    decide(with_decision(opened))


def test_the_last_job_of_a_day_is_answered_and_no_other(world: World) -> None:
    few = with_policy(request(world), jobs_per_day=5)
    decide(with_record(few, jobs_today=4))
    error = error_of(with_record(few, jobs_today=5))
    assert isinstance(error, QuotaExceeded)
    assert error.fields == {"quota": "jobs of bank-a in one day", "holder": ME, "used": "5", "limit": "5"}


def test_an_empty_ledger_has_used_nothing(world: World) -> None:
    just_enough = {"jobs_per_day": 1, "cells_per_day": request(world).cells}
    decide(with_policy(request(world), **just_enough))
    for quota, limit in just_enough.items():
        assert isinstance(error_of(with_policy(request(world), **{quota: limit - 1})), QuotaExceeded)


def test_a_question_may_have_as_many_cells_as_the_house_allows(world: World) -> None:
    cells = request(world).cells
    decide(with_policy(request(world), cells_per_job=cells))
    error = error_of(with_policy(request(world), cells_per_job=cells - 1))
    assert isinstance(error, ForbiddenByPolicy)
    assert error.fields["rule"] == f"cells_per_job is {cells - 1}, and the question has {cells}"


def test_cells_are_counted_before_they_are_answered(world: World) -> None:
    asked = request(world)
    limit = asked.policy.cells_per_day
    decide(with_record(asked, cells_today=limit - asked.cells))
    error = error_of(with_record(asked, cells_today=limit - asked.cells + 1))
    assert isinstance(error, QuotaExceeded) and "cells of bank-a" in error.fields["quota"]


@given(st.integers(0, 10**10))
def test_a_day_begins_at_midnight_utc(now: int) -> None:
    begin = day_begins(now)
    assert begin % DAY == 0 and 0 <= now - begin < DAY


# --- people ------------------------------------------------------------------------------------------------------


def each_job() -> Request:
    """Under an agreement by which a person decides on each job."""
    world = World()
    world.agreement = world.make_agreement(approval="each job")
    return request(world)


@pytest.mark.parametrize(
    "asks",
    [
        lambda world: each_job(),
        lambda world: with_policy(
            replace(request(world), schema=schema_with(Grade.SENSITIVE)), ask_from_grade=Grade.SENSITIVE
        ),
        lambda world: with_policy(request(world), ask_from_grade=Grade.PUBLIC),
        lambda world: with_policy(request(world), ask_for_new_questions=True),
    ],
    ids=["the agreement", "the grade", "a grade above it", "a new question"],
)
def test_a_person_is_asked_and_the_answer_counts(world: World, asks: Callable[[World], Request]) -> None:
    asked = asks(world)
    assert isinstance(error_of(asked), DecisionPending)
    decide(with_record(asked, decision=Decision(True, "")))
    error = error_of(with_record(asked, decision=Decision(False, "outside the study")))
    assert isinstance(error, RefusedByPerson) and error.fields["reason"] == "outside the study"


def test_nobody_is_asked_twice_about_the_same_question(world: World) -> None:
    decide(with_record(with_policy(request(world), ask_for_new_questions=True), asked_before=True))


def test_an_approval_does_not_lift_another_rule() -> None:
    assert isinstance(error_of(with_record(each_job(), decision=Decision(True, ""), jobs_today=200)), QuotaExceeded)


# --- exact answers, and those with noise -------------------------------------------------------------------------


def under(question: Question, **settings: Any) -> Request:
    """A question under its own agreement, by these settings of the house."""
    agreement = question.agreement
    contract = replace(request(WORLD).contract, agreement=agreement)
    schema = graded(agreement.disclosure.grade.value)
    return with_policy(replace(request(WORLD), question=question, contract=contract, schema=schema), **settings)


def test_an_exact_answer_about_sensitive_data_takes_a_person() -> None:
    exact = under(gated("sensitive"))
    assert isinstance(error_of(exact), DecisionPending)
    decide(with_decision(exact))
    decide(under(gated("sensitive", noise=True)))


def test_about_internal_data_only_if_the_house_wants_it() -> None:
    decide(under(gated("internal")))
    assert isinstance(error_of(under(gated("internal"), noise=NoiseRule.MANDATORY)), DecisionPending)
    decide(under(gated("internal", noise=True), noise=NoiseRule.MANDATORY))


def test_a_house_cannot_do_without_the_agreed_noise() -> None:
    assert isinstance(error_of(under(gated("sensitive"), noise=NoiseRule.OPTIONAL)), DecisionPending)


def test_an_exact_answer_must_fit_into_the_history() -> None:
    """Whatever it is compared with is counted: each part of each cell."""
    exact = under(gated("internal"))
    needed = exact.cells * len(exact.question.tests.audited)
    assert needed > exact.cells
    decide(with_record(exact, kept_sets=MAX_KEPT_SETS - needed))
    error = error_of(with_record(exact, kept_sets=MAX_KEPT_SETS - needed + 1))
    assert isinstance(error, HistoryFull)
    assert error.fields == {"holder": ME, "table": "health.heart", "limit": str(MAX_KEPT_SETS)}


def test_a_full_history_ends_neither_noisy_nor_public_answers(world: World) -> None:
    """These are not compared with anything."""
    for asked in (under(gated("internal", noise=True)), request(world)):
        decide(with_record(asked, kept_sets=MAX_KEPT_SETS))


STRICTER = {
    "exact_jobs": (4, 4),
    "noise": (NoiseRule.MANDATORY, NoiseRule.MANDATORY),
    "rho_per_year": (0.25, MILLION // 4),
    "dominance_one": (60, 60),
    "dominance_two": (80, 80),
}
LAXER = {"exact_jobs": 51, "noise": NoiseRule.OPTIONAL, "rho_per_year": 1.5, "dominance_one": 71, "dominance_two": 86}
"""Than what internal data demand."""


def test_of_each_rule_the_stricter_one_counts() -> None:
    agreed = grades.RULES[Grade.INTERNAL]
    assert Policy().tightened(agreed) == Policy(**LAXER).tightened(agreed) == agreed
    for key, (setting, expected) in STRICTER.items():
        tightened = Policy(**{**LAXER, key: setting}).tightened(agreed)
        assert tightened == agreed.model_copy(update={key: expected})
        assert tightened.is_at_least(agreed) and tightened != agreed


@pytest.mark.parametrize("grade", grades.RULES)
def test_a_house_never_loosens_what_was_agreed(grade: Grade) -> None:
    for settings in ({}, LAXER, {key: setting for key, (setting, _) in STRICTER.items()}):
        assert Policy(**settings).tightened(grades.RULES[grade]).is_at_least(grades.RULES[grade])


@given(st.integers(0, MILLION))
@example(249)
def test_a_house_means_the_rho_that_it_writes(millionths: int) -> None:
    """Also where the binary number is a little less than what people write, such as 0.000249."""
    assert Policy(rho_per_year=millionths / MILLION).tightened(grades.RULES[Grade.INTERNAL]).rho_per_year == millionths


# --- sets that nearly coincide -----------------------------------------------------------------------------------


def answered(*holders: str, job: bytes = bytes(16), at: int = NOW - 1, **changes: Any) -> Record:
    fields = {"job_id": job, "table": "health.heart", "organisation": MERCHANT, "holders": holders, "at": at}
    return Record(answered=(AnsweredSet(**(fields | changes)),))


@pytest.mark.parametrize("job", [bytes(16), b"\xff" * 16])
def test_a_set_that_lacks_one_holder_of_an_answered_one_is_refused(world: World, job: bytes) -> None:
    with pytest.raises(NearbySet) as caught:
        check_set(replace(request(world), record=answered(*HOLDERS, "lille", "mainz", job=job)), HOLDERS)
    assert caught.value.fields == {"table": "health.heart", "holders": "lille, mainz"}


@pytest.mark.parametrize(
    "record",
    [
        answered(*HOLDERS),
        answered(*HOLDERS, "lille", at=NOW - NEARBY_SECONDS),
        answered(*HOLDERS, "lille", at=NOW - NEARBY_SECONDS - 1),
        answered(*HOLDERS, "lille", table="health.aorta"),
        answered(*HOLDERS, "lille", table="health.lungs"),
        answered(*HOLDERS, "lille", organisation="a-bank"),
        answered(*HOLDERS, "lille", organisation="bank-b"),
        answered(*HOLDERS, "lille", job=JOB),
        answered(ME, "lille", "mainz", "nancy"),
    ],
    ids=[
        "the same",
        "thirty days ago",
        "long ago",
        "another table",
        "one more table",
        "another merchant",
        "one more merchant",
        "an earlier attempt",
        "quite another",
    ],
)
def test_a_set_that_endangers_nobody_is_answered(world: World, record: Record) -> None:
    check_set(replace(request(world), record=record), HOLDERS)


def test_a_merchant_under_another_name_is_the_same(world: World) -> None:
    """What counts is the organisation."""
    sister = replace(request(world).question, merchant=merchant("bank-b", organisation=MERCHANT))
    with pytest.raises(NearbySet):
        check_set(replace(request(world), question=sister, record=answered(*HOLDERS, "lille")), HOLDERS)


def test_strict_sets_count_every_merchant(world: World) -> None:
    strict = with_policy(request(world), strict_sets=True)
    with pytest.raises(NearbySet):
        check_set(replace(strict, record=answered(*HOLDERS, "lille", organisation="bank-b")), HOLDERS)


def test_a_stop_since_the_approval_counts_before_the_submission(world: World) -> None:
    with pytest.raises(Stopped):
        check_set(BROKEN[0][1](request(world)), HOLDERS)
    with pytest.raises(AgreementNotActive):
        check_set(suspended(request(world)), HOLDERS)


NAMES = st.sets(st.sampled_from(["cleveland", "hungary", "zurich", "lille", "mainz", "nancy"]), min_size=1)


@given(NAMES, NAMES)
def test_two_answered_sets_never_differ_by_one_or_two(one: set[str], other: set[str]) -> None:
    """Whatever comes first: of two sets that this lets pass, the difference is nothing or at least three holders."""
    try:
        check_set(replace(request(WORLD), record=answered(*sorted(one))), sorted(other))
    except NearbySet:
        assert 0 < len(one ^ other) < 3
    else:
        assert len(one ^ other) not in (1, 2)


def test_who_answered_the_whole_set_does_not_leave_it() -> None:
    world = World(FIVE)
    world.agreement = world.make_agreement(smallest_set=3)
    for me in (ME, "zurich"):
        asked = replace(request(world), me=me)
        assert may_leave(asked)
        assert not may_leave(replace(asked, record=answered(*sorted(FIVE))))
        assert may_leave(replace(asked, record=answered(*sorted(FIVE), at=NOW - NEARBY_SECONDS)))
        for other in ("a-bank", "bank-b"):
            assert may_leave(replace(asked, record=answered(*sorted(FIVE), organisation=other)))


def test_nobody_leaves_where_all_must_answer(world: World) -> None:
    assert not may_leave(request(world))


# --- signing -----------------------------------------------------------------------------------------------------


class Signing:
    """An officer before a proposal, in a space of five holders."""

    def __init__(self) -> None:
        self.world = World(FIVE)
        self.policy = Policy()
        self.others: list[Contract] = []

    def agreement(self, **changes: Any) -> Agreement:
        return self.world.make_agreement(**changes)

    def known(self, signers: Any = None, **changes: Any) -> Contract:
        """Another agreement that this node knows, signed by all or by these."""
        agreement = self.agreement(**{"agreement_id": "0f" * 16, **changes})
        names = signers or [party.name for party in agreement.parties]
        return read_contract([signed_by(name, agreement) for name in names], [], self.world.roster)

    def check(self, agreement: Agreement | None = None, schema: Schema = SCHEMA) -> Any:
        wanted = agreement or self.world.agreement
        return check_signing(wanted, self.others, schema, self.world.roster, self.policy, ME, NOW)


@pytest.fixture
def signing() -> Signing:
    return Signing()


def test_a_good_proposal_may_be_signed(signing: Signing) -> None:
    assert signing.check() == []


def test_another_set_by_one_holder_for_the_same_merchant_may_not(signing: Signing) -> None:
    signing.others = [signing.known()]
    for some in (4, 3):
        with pytest.raises(NearbySet) as caught:
            signing.check(signing.agreement(holders=sorted(FIVE)[:some]))
        assert caught.value.fields == {"table": "health.heart", "holders": ", ".join(sorted(FIVE)[some:])}


def test_for_another_merchant_it_is_shown_unless_the_house_is_strict(signing: Signing) -> None:
    signing.others = [signing.known(merchant="bank-b")]
    smaller = signing.agreement(holders=sorted(FIVE)[:-1])
    ((overlap),) = signing.check(smaller)
    assert (overlap.holders, overlap.same_merchant) == (("zurich",), False)
    signing.policy = Policy(strict_sets=True)
    with pytest.raises(NearbySet):
        signing.check(smaller)


@pytest.mark.parametrize("signed", [False, True])
def test_a_proposal_counts_once_it_is_signed_here(signing: Signing, signed: bool) -> None:
    """Else two proposals would forbid each other."""
    signing.others = [signing.known(signers=[MERCHANT, *([ME] if signed else [])])]
    smaller = signing.agreement(holders=sorted(FIVE)[:-1])
    if signed:
        with pytest.raises(NearbySet):
            signing.check(smaller)
    else:
        assert signing.check(smaller) == []


def test_an_agreement_without_this_holder_counts_too(signing: Signing) -> None:
    """The others' total without it, and theirs with it, would show its figures."""
    signing.others = [signing.known(holders=sorted(set(FIVE) - {ME}))]
    with pytest.raises(NearbySet, match=ME):
        signing.check()


def test_what_local_policy_would_refuse_is_not_signed(signing: Signing) -> None:
    for settings in ({"merchants": ("bank-b",)}, {"forbidden_columns": ("health.heart.age",)}, {"tolerated": 2}):
        signing.policy = Policy(**settings)
        with pytest.raises(ForbiddenByPolicy):
            signing.check()


def test_what_is_over_or_has_other_keys_is_not_signed(signing: Signing) -> None:
    assert signing.check(signing.agreement(not_after=NOW)) == []
    with pytest.raises(AgreementNotActive) as caught:
        signing.check(signing.agreement(not_after=NOW - 1))
    assert caught.value.fields["state"] == "expired"
    signing.world.roster = changed(
        signing.world.roster, members=tuple(m for m in signing.world.roster.members if m.name != "zurich")
    )
    with pytest.raises(UnknownMember):
        signing.check()
    again = tuple(
        holder("lille", organisation="elsewhere") if m.name == "lille" else m for m in signing.world.roster.members
    )
    signing.world.roster = changed(signing.world.roster, members=(*again, holder("zurich")))
    with pytest.raises(AgreementMismatch, match="lille"):
        signing.check()


def test_rules_laxer_than_the_grades_are_not_signed(signing: Signing) -> None:
    """The schema here says sensitive; the proposal was made as if nothing were."""
    strict = schema_with(Grade.SENSITIVE)
    table = changed(signing.world.roster.tables[0], schema_digest=strict.digest())
    signing.world.roster = changed(signing.world.roster, tables=(table,))
    lax = disclosure_for(["sex"], schema_with(Grade.PUBLIC)).model_copy(update={"minimum_subjects": 2})
    with pytest.raises(AgreementMismatch, match="laxer"):
        signing.check(signing.agreement(schema_digest=strict.digest(), disclosure=lax), strict)


# --- policy.toml -------------------------------------------------------------------------------------------------


def test_the_sample_holds_the_defaults_and_explains_every_key(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(SAMPLE_POLICY)
    assert read_policy(path) == Policy()
    lines = SAMPLE_POLICY.splitlines()
    assert {line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")} == set(
        Policy.model_fields
    )


@pytest.mark.parametrize(
    "text",
    ["minimum_holder = 3", "minimum_holders = 2", "tolerated = 0", "jobs_per_day = -1", "highest_grade = 'x'", "["],
)
def test_a_wrong_policy_is_refused_by_its_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(BadConfiguration) as caught:
        read_policy(path)
    assert text.split(" = ")[0] in caught.value.fields["problem"] or text == "["


def test_a_missing_policy_is_not_replaced_by_a_laxer_one(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        read_policy(tmp_path / "policy.toml")
