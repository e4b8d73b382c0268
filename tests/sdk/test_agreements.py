"""Agreements on the merchant's side: proposing, following, and choosing one for a question."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba.choosing import Wish, choose
from ceiba.noise import Noise
from ceiba.space import Space
from ceiba_protocol.disclosure.grade import disclosure_for
from ceiba_protocol.errors import (
    AgreementNotActive,
    BadQuestion,
    BudgetExhausted,
    DatasetMissing,
    IllegalNotice,
    JobFailed,
    MalformedDocument,
    NoAgreement,
    NotAgreed,
    TooFewHolders,
    UnknownAgreement,
    UnknownColumn,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.job import State as JobState
from ceiba_protocol.trust.agreement import DAY, OPERATIONS, Agreement, Contract, State, Word
from ceiba_protocol.trust.roster import Revocation, approval_of
from ceiba_protocol.v1.jobs_pb2 import JobStatus
from tests.support.coordinator import Coordinator, merchant_home
from tests.support.members import HOLDERS, MERCHANT, NOW, SCHEMA, World, changed, graded, plan_of, signed_by

SQL = "SELECT sex, COUNT(*) AS n, SUM(age) AS years FROM health.heart WHERE age > 1 GROUP BY sex ORDER BY sex"
TRUTH = [("female", 2, 161), ("male", 3, 140)]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def coordinator(world: World) -> Coordinator:
    return Coordinator(world)


@pytest.fixture
def space(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.polling.time.sleep", lambda seconds: None)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(merchant_home(coordinator.world, tmp_path))


def signed_agreement(coordinator: Coordinator) -> Agreement:
    (evidence,) = coordinator.agreements.values()
    return Agreement.parse(evidence.signatures[0].body)


# --- proposing --------------------------------------------------------------------------------------------------


def test_a_proposal_asks_for_all_that_may_be_asked_unless_it_says_less(space: Space, coordinator: Coordinator) -> None:
    handle = space.agreements.propose("health.heart", purpose="premium study")
    agreement = signed_agreement(coordinator)
    assert agreement == handle.contract.agreement and agreement.holder_names == HOLDERS
    assert agreement.columns == ("age", "chol", "sex") and agreement.operations == tuple(sorted(OPERATIONS))
    assert agreement.disclosure == disclosure_for(SCHEMA.by_name, SCHEMA)
    assert (agreement.tolerated, agreement.smallest_set, agreement.approval) == (1, 3, "standing")
    assert (agreement.not_before, agreement.not_after) == (NOW, NOW + 90 * DAY)
    assert handle.contract.missing == HOLDERS and handle.state() is State.PROPOSED
    assert "premium study" in handle.text and "not signed yet by cleveland, hungary, zurich" in handle.text


def test_what_it_says_is_what_is_signed(space: Space, coordinator: Coordinator) -> None:
    space.agreements.propose(
        "health.heart", purpose="x", columns=["sex", "age", "sex"], operations=["mean", "filter"], jobs=7, days=2,
        approval="each job", holders=["zurich", "hungary", "cleveland"],
    )  # fmt: skip
    agreement = signed_agreement(coordinator)
    assert agreement.columns == ("age", "sex") and agreement.operations == ("filter", "mean")
    assert (agreement.jobs, agreement.not_after - agreement.not_before, agreement.approval) == (7, 2 * DAY, "each job")
    assert agreement.holder_names == HOLDERS


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"table": "health.hart"}, UnknownTable),
        ({"columns": ["agee"]}, UnknownColumn),
        ({"operations": ["median"]}, BadQuestion),
        ({"holders": ["cleveland", "hungary", "utrecht"]}, UnknownMember),
        ({"holders": ["cleveland", "hungary", "bank-b"]}, UnknownMember),
        ({"holders": ["cleveland", "hungary"], "smallest_set": 3}, BadQuestion),
        ({"holders": ["cleveland", "hungary"]}, BadQuestion),
        ({"tolerated": 2}, TooFewHolders),
        ({"smallest_set": 4}, BadQuestion),
        ({"jobs": 0}, BadQuestion),
        ({"days": 0}, BadQuestion),
        ({"days": 4000}, BadQuestion),
        ({"approval": "never"}, BadQuestion),
        ({"columns": []}, BadQuestion),
        ({"purpose": "two\nlines"}, BadQuestion),
    ],
    ids=str,
)
def test_what_cannot_be_agreed_on_is_refused_before_it_is_sent(
    space: Space, coordinator: Coordinator, wrong: dict[str, Any], error: type[Exception]
) -> None:
    asked: dict[str, Any] = {"table": "health.heart", "purpose": "x"} | wrong
    with pytest.raises(error):
        space.agreements.propose(**asked)
    assert not coordinator.agreements


def test_a_holder_without_the_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: World().rows["zurich"] for name in ("cleveland", "hungary", "utrecht", "zurich")}
    world = World(rows)
    table = world.roster.tables[0].model_copy(update={"holders": HOLDERS})
    world.roster = world.roster.model_copy(update={"tables": (table,)})
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: Coordinator(world).channel())
    space = Space(merchant_home(world, tmp_path))
    with pytest.raises(DatasetMissing, match="utrecht"):
        space.agreements.propose("health.heart", purpose="x", holders=list(rows))


# --- following --------------------------------------------------------------------------------------------------


def test_waiting_ends_when_the_last_holder_has_signed(
    space: Space, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = space.agreements.propose("health.heart", purpose="x")
    agreement, left = handle.contract.agreement, list(HOLDERS)
    (evidence,) = coordinator.agreements.values()
    monkeypatch.setattr(
        "ceiba.polling.time.sleep", lambda _: evidence.signatures.append(signed_by(left.pop(), agreement))
    )
    assert handle.wait().contract.state(NOW) is State.ACTIVE and not left


def test_waiting_ends_when_a_holder_refuses_and_at_its_deadline(
    world: World, space: Space, coordinator: Coordinator
) -> None:
    coordinator.add(world.agreement, [MERCHANT, "zurich"])
    handle = space.agreements[world.agreement.agreement_id[:4]]
    with pytest.raises(AgreementNotActive, match="proposed"):
        handle.wait(deadline=0)
    coordinator.add(world.agreement, [MERCHANT], [world.notice("hungary", Word.REFUSE)])
    with pytest.raises(AgreementNotActive, match="refused"):
        handle.wait()


def test_a_half_signed_agreement_can_be_read_and_withdrawn(
    world: World, space: Space, coordinator: Coordinator
) -> None:
    coordinator.add(world.agreement, [MERCHANT, "zurich"])
    handle = space.agreements[world.agreement.agreement_id]
    assert "not signed yet by cleveland, hungary" in handle.text
    handle.withdraw("a mistake")
    assert handle.state() is State.WITHDRAWN and '"a mistake"' in handle.text
    with pytest.raises(IllegalNotice):
        handle.suspend()


def test_an_active_one_is_suspended_resumed_and_terminated(
    world: World, space: Space, coordinator: Coordinator
) -> None:
    coordinator.add(world.agreement)
    handle = space.agreements[world.agreement.agreement_id]
    with pytest.raises(IllegalNotice):
        handle.withdraw()
    handle.suspend("holidays")
    assert handle.state() is State.SUSPENDED
    with pytest.raises(AgreementNotActive, match="suspended"):
        space.sql(SQL).run(agreement=handle)
    handle.resume()
    assert handle.state() is State.ACTIVE
    handle.terminate()
    assert handle.state() is State.TERMINATED


def test_a_reason_that_holders_could_not_read_is_refused(space: Space, coordinator: Coordinator) -> None:
    handle = space.agreements.propose("health.heart", purpose="x")
    with pytest.raises(BadQuestion):
        handle.withdraw("two\nlines")
    assert handle.state() is State.PROPOSED


def test_the_list_shows_who_has_not_signed_and_what_was_left_out(
    world: World, space: Space, coordinator: Coordinator
) -> None:
    coordinator.add(world.agreement, [MERCHANT, "zurich"])
    false = world.make_agreement(agreement_id="0c" * 16)
    coordinator.add(false)
    coordinator.agreements[false.digest()].signatures[2].signature = bytes(64)
    others = world.make_agreement(agreement_id="0d" * 16, merchant="bank-b")
    coordinator.add(others)
    listed = space.agreements()
    (row,) = listed.to_dicts()
    assert row["not_signed"] == "cleveland, hungary" and row["state"] == "proposed" and row["jobs"] == "0 of 100"
    assert "do not verify under the pinned roster: 1" in repr(listed) and "0a0a0a0a0a0a" in listed._repr_html_()
    for beginning in ("0d", "", "ff"):
        with pytest.raises(UnknownAgreement):
            space.agreements[beginning]


def test_an_agreement_whose_holder_was_revoked_says_so_and_is_not_asked_under(
    world: World, space: Space, coordinator: Coordinator
) -> None:
    coordinator.add(world.agreement)
    gone = world.roster.by_name["zurich"]
    was = Revocation(descriptor=gone, revoked_at=NOW, reason="a lost server")
    members = tuple(member for member in world.roster.members if member is not gone)
    space.home.pin(changed(world.roster, version=2, members=members, revoked=(was,)))
    space.roster = space.home.roster()
    (row,) = space.agreements().to_dicts()
    assert row["state"] == "active; not answered: zurich was revoked"
    assert "not answered   zurich was revoked" in space.agreements["0a"].text
    assert space.agreements["0a"].contract.state(NOW) is State.ACTIVE


# --- choosing ---------------------------------------------------------------------------------------------------


def test_the_agreement_with_the_fewest_columns_is_taken_and_of_equals_the_longest(world: World) -> None:
    narrow = {"columns": ("age", "sex")}
    wide = world.make_agreement(agreement_id="01" * 16, not_after=NOW + 400 * DAY)
    short = world.make_agreement(agreement_id="02" * 16, **narrow, not_after=NOW + DAY)
    long = world.make_agreement(agreement_id="03" * 16, **narrow)
    wish = Wish(plan_of(SQL), NOW, NOW + 60)
    contracts = [world.contract(one) for one in (wide, short, long)]
    for order in (contracts, contracts[::-1]):
        assert choose(order, wish, world.roster, lambda _: 0).agreement == long
    assert choose(contracts, wish, world.roster, lambda one: 100 * (one == long)).agreement == short


@given(st.lists(st.sets(st.sampled_from(["sex", "age", "chol"]), min_size=1), min_size=1, max_size=5))
def test_the_choice_covers_the_question_and_nothing_smaller_does(world: World, sets: list[set[str]]) -> None:
    made = [
        world.make_agreement(agreement_id=f"{place:032x}", columns=tuple(sorted(columns)))
        for place, columns in enumerate(sets)
    ]
    contracts = [
        Contract(one, dict.fromkeys([party.name for party in one.parties], signed_by(MERCHANT, one)), ())
        for one in made
    ]
    wish = Wish(plan_of(SQL), NOW, NOW + 60)
    covering = [columns for columns in sets if columns >= {"sex", "age"}]
    if covering:
        found = choose(contracts, wish, world.roster, lambda _: 0).agreement
        assert set(found.columns) in covering and len(found.columns) == min(map(len, covering))
    else:
        with pytest.raises(NoAgreement):
            choose(contracts, wish, world.roster, lambda _: 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": ("age",)}, "does not cover the column sex"),
        ({"operations": ("count", "filter", "sum")}, "does not cover the operation group by"),
        ({"not_before": NOW + 1}, "begins at"),
        ({"not_after": NOW + 59}, "before the job's deadline"),
        ({"not_after": NOW - 1}, "is expired"),
        ({"jobs": 3}, "all 3 jobs were asked"),
        ({"tolerated": 5}, "does not fit the roster"),
    ],
    ids=str,
)
def test_no_agreement_says_what_the_nearest_lacks(world: World, change: dict[str, Any], said: str) -> None:
    nearest = world.contract(world.make_agreement(**change))
    far = world.contract(world.make_agreement(agreement_id="ff" * 16, columns=("chol",), operations=("histogram",)))
    with pytest.raises(NoAgreement, match=said) as caught:
        choose([far, nearest], Wish(plan_of(SQL), NOW, NOW + 60), world.roster, lambda _: 3)
    assert nearest.agreement.agreement_id in caught.value.public


def test_an_unsigned_agreement_names_who_did_not_sign(world: World) -> None:
    half = Contract(world.agreement, {MERCHANT: world.signatures()[0]}, ())
    with pytest.raises(NoAgreement, match="proposed, and cleveland, hungary, zurich did not sign"):
        choose([half], Wish(plan_of(SQL), NOW, NOW + 60), world.roster, lambda _: 0)
    with pytest.raises(NoAgreement, match="none about this table for this purpose"):
        choose([world.contract()], Wish(plan_of(SQL), NOW, NOW + 60, "marketing"), world.roster, lambda _: 0)


# --- asking -----------------------------------------------------------------------------------------------------


def test_every_job_takes_the_next_number_of_its_agreement(world: World, space: Space, coordinator: Coordinator) -> None:
    coordinator.add(world.agreement)
    for _ in range(2):
        assert space.sql(SQL).run().rows == TRUTH
    assert [manifest.number for manifest in coordinator.manifests] == [1, 2]
    assert {manifest.purpose for manifest in coordinator.manifests} == {"research"}
    assert space.agreements().to_dicts()[0]["jobs"] == "2 of 100"


def test_what_cannot_be_asked_takes_no_number(world: World, space: Space, coordinator: Coordinator) -> None:
    narrow = world.make_agreement(columns=("age",))
    coordinator.add(narrow)
    with pytest.raises(NotAgreed, match="columns sex"):
        space.sql(SQL).run(agreement="0a")
    with pytest.raises(NoAgreement):
        space.sql(SQL).run()
    with pytest.raises(NoAgreement):
        space.sql("SELECT SUM(age) FROM health.heart").run(purpose="marketing")
    assert space.home.jobs_asked(narrow) == 0 and not coordinator.manifests


def test_those_who_left_are_not_among_those_who_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {**World().rows, "utrecht": [{"sex": 1, "age": 9, "chol": 0}]}
    world = World(rows)
    world.agreement = world.make_agreement(smallest_set=3)
    coordinator = Coordinator(world)
    coordinator.add(world.agreement)
    coordinator.leaving = ("utrecht",)
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    result = Space(merchant_home(world, tmp_path)).sql(SQL).run()
    assert result.rows == TRUTH and result.holders == HOLDERS
    assert result.receipt is not None and len(result.receipt.verify(wait=0)) == 11


def test_a_job_that_nobody_refused_says_why_it_failed(world: World, space: Space, coordinator: Coordinator) -> None:
    coordinator.add(world.agreement)
    coordinator.status = JobStatus(state=JobState.FAILED, ended_because="unknown_member")
    with pytest.raises(JobFailed, match="it says unknown_member"):
        space.sql(SQL).run()


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Space, Coordinator]:
    """A space whose table is of grade internal."""
    world = World(schema=graded("internal"))
    coordinator = Coordinator(world)
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return world, Space(merchant_home(world, tmp_path)), coordinator


def test_a_plan_says_under_which_agreement_it_would_be_asked(gated: tuple[World, Space, Coordinator]) -> None:
    world, space, coordinator = gated
    query = space.sql(SQL)
    without = query.explain()
    assert [error.code for error in without.refusals] == ["no_agreement"] and "agreement      none" in str(without)
    coordinator.add(world.agreement)
    space.home.next_number(world.agreement)
    explained = query.explain()
    assert '0a0a0a0a0a0a, for "research"' in str(explained) and "grade internal: at least 5" in str(explained)
    assert not explained.refusals and not explained.needs_a_person and explained.noise is None
    jobs, exact = explained.accounts
    assert (jobs.used, jobs.limit, jobs.remains) == ("1", "100", "98")
    assert (exact.used, exact.limit, exact.remains) == ("0", "50", "49")
    assert "by this folder's own count" in str(explained)
    assert json.loads(json.dumps(explained.to_dict()))["agreement"] == "0a" * 16
    assert not coordinator.manifests


def test_what_was_asked_counts_by_the_folders_own_book(
    gated: tuple[World, Space, Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, space, coordinator = gated
    coordinator.add(world.agreement)
    query = space.sql(SQL)
    monkeypatch.setattr("ceiba.jobs.Job.send", lambda self: None)
    for noise in (Noise(rho=0.4), Noise(rho=0.3), False):
        query.submit(noise=noise)
    (_, rho), (_, exact) = (query.explain(noise=noise).accounts for noise in (Noise(rho=0.2), False))
    assert (rho.cost, rho.used, rho.limit, rho.remains) == ("at most 0.2", "0.7", "1", "0.1")
    assert (exact.used, exact.remains) == ("1", "48")
    (refused,) = query.explain(noise=Noise(rho=0.4)).refusals
    assert isinstance(refused, BudgetExhausted) and "costs ρ 0.4, and 0.3 is left" in refused.public
    with_noise = query.explain(noise=True)
    assert with_noise.noise is not None and with_noise.noise.epsilon == pytest.approx(0.43, abs=0.01)
    assert with_noise.noise.shares == pytest.approx({"n": 0.005 / 3, "years": 0.01 / 3})


# --- a newer roster ---------------------------------------------------------------------------------------------


def test_a_newer_roster_is_taken_up_once_enough_signers_have_approved_it(
    world: World, space: Space, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ceiba_protocol.trust.roster.verify_key", lambda *_: None)  # the key is short, to be fast
    newer = world.roster.model_copy(update={"version": 2})
    coordinator.roster.roster = newer.body()
    coordinator.roster.approvals.append(signed_by("zurich", approval_of(newer, "zurich")))
    assert not space.take_up_roster() and space.home.roster().version == 1
    coordinator.roster.approvals.append(signed_by("hungary", approval_of(newer, "hungary")))
    with pytest.raises(UnknownTable):
        space.table("health.lungs")  # what the pinned roster does not know makes the merchant look for a newer one
    assert space.roster.version == space.home.roster().version == 2


def test_a_roster_that_is_no_roster_changes_nothing(space: Space, coordinator: Coordinator) -> None:
    coordinator.roster.roster = b"{}"
    with pytest.raises(MalformedDocument):
        space.take_up_roster()
    assert space.home.roster().version == 1
