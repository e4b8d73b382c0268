"""Rosters: who puts them in force, and what ends when a member is on them no more."""

from pathlib import Path
from typing import Any

import pytest

from ceiba_protocol.errors import (
    AgreementMismatch,
    BadCommand,
    BadSignature,
    CeibaError,
    IllegalTransition,
    NameRevoked,
    NotYetDone,
    RosterMismatch,
    RosterNotApproved,
    RosterNotPinned,
    UnknownMember,
)
from ceiba_protocol.job import State
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.roster import Charter, Revocation, Roster, approval_of, check_succession
from ceiba_protocol.trust.signing import sign
from tests.coordinator.office import Office, refused
from tests.coordinator.test_membership import Newcomer
from tests.coordinator.test_membership import Office as EnrolmentOffice
from tests.support.members import HOLDERS, MERCHANT, NOW, SCHEMA, altered, holder, signed_by
from tests.support.seeded import seeded

FIRST, SECOND, THIRD = HOLDERS
SIX = ("a1", "b2", "c3", "d4", "e5", "f6")


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def enrolled(tmp_path: Path) -> EnrolmentOffice:
    """Six holders who have enrolled, and no roster yet."""
    made = EnrolmentOffice(tmp_path / "coordinator.sqlite3")
    for descriptor in map(holder, SIX):
        made.enrol(Newcomer(descriptor))
    return made


def approve(office: Any, roster: Roster, *names: str) -> None:
    for name in names:
        office.membership.approve_roster(signed_by(name, approval_of(roster, name)), name)


# --- the quorum --------------------------------------------------------------------------------------------------


def test_first_roster_is_in_force_once_two_thirds_of_its_signers_approve(enrolled: EnrolmentOffice) -> None:
    membership = enrolled.membership
    with pytest.raises(RosterNotPinned):
        membership.roster()
    first = membership.propose_roster([(SCHEMA, [*SIX])])
    approve(enrolled, first, *SIX[:3], SIX[0])
    with pytest.raises(RosterNotApproved) as caught:
        membership.roster()
    assert caught.value.fields == {"version": "1", "approved": "3", "quorum": "4"}
    approve(enrolled, first, SIX[3])
    assert membership.roster() == first


def test_later_roster_changes_nothing_until_a_quorum_of_the_one_in_force_approves(enrolled: EnrolmentOffice) -> None:
    first = enrolled.put_in_force([*SIX])
    enrolled.enrol(Newcomer(holder("newcomer")))
    second = enrolled.membership.propose_roster([(SCHEMA, [*SIX, "newcomer"])])
    with pytest.raises(UnknownMember):
        approve(enrolled, second, "newcomer")  # it signs the one after this
    approve(enrolled, second, *SIX[:3])
    assert (enrolled.membership.roster(), enrolled.membership.newest) == (first, second)
    approve(enrolled, second, SIX[5])
    assert enrolled.membership.roster() == second
    received = enrolled.membership.signed_roster()
    check_succession(first, Roster.parse(received.roster), list(received.approvals), first.by_name[SIX[0]])


def test_stewards_sign_for_all(enrolled: EnrolmentOffice) -> None:
    stewards = SIX[1:4]
    first = enrolled.membership.propose_roster([(SCHEMA, [*SIX])], stewards, tolerated=2)
    assert (first.charter, first.quorum) == (Charter(stewards=stewards, tolerated=2), 2)
    with pytest.raises(UnknownMember):
        approve(enrolled, first, SIX[0])
    approve(enrolled, first, *stewards[:2])
    assert enrolled.membership.roster() == first


def test_late_approval_is_kept_for_those_who_pinned_an_older_one(enrolled: EnrolmentOffice) -> None:
    first = enrolled.membership.propose_roster([(SCHEMA, [*SIX])])
    approve(enrolled, first, *SIX)
    assert [one.signer for one in enrolled.membership.signed_roster().approvals] == [*SIX]


@pytest.mark.parametrize("stewards", [SIX[:1], SIX[:2], (*SIX, "x", "y"), (*SIX[:2], MERCHANT)])
def test_wrong_stewards_are_refused(enrolled: EnrolmentOffice, stewards: tuple[str, ...]) -> None:
    with pytest.raises((BadCommand, UnknownMember)):
        enrolled.membership.propose_roster([(SCHEMA, [*SIX])], stewards)
    assert enrolled.membership.newest is None


def test_more_tolerated_need_more_holders(enrolled: EnrolmentOffice) -> None:
    assert enrolled.membership.propose_roster([(SCHEMA, [*SIX])], tolerated=5).minimum_holders == 7
    assert enrolled.membership.propose_roster([(SCHEMA, [*SIX])], tolerated=4).minimum_holders == 6


def test_rosters_survive_a_restart(tmp_path: Path) -> None:
    office = Office(tmp_path / "coordinator.sqlite3")
    second = office.world.make_roster(version=2)
    office.propose(second)
    office.approve_roster(second, FIRST)
    office.restart()
    assert office.membership.roster().version == 1
    office.approve_roster(second, THIRD)
    office.restart()
    assert office.membership.roster() == second


# --- false approvals ---------------------------------------------------------------------------------------------


def test_false_approvals_count_for_nothing(office: Office) -> None:
    second = office.world.make_roster(version=2)
    office.propose(second)
    approval = approval_of(second, FIRST)
    honest = signed_by(FIRST, approval)
    forged = sign(approval, FIRST, SigningKey(seeded("mallory")(32)))
    approve_roster = office.membership.approve_roster
    refused(BadSignature, approve_roster, forged, FIRST)
    refused(BadSignature, approve_roster, altered(honest, b'"version":2', b'"version":3'), FIRST)
    refused(UnknownMember, approve_roster, honest, SECOND)
    refused(UnknownMember, approve_roster, signed_by(MERCHANT, approval_of(second, MERCHANT)), MERCHANT)
    refused(RosterMismatch, approve_roster, signed_by(FIRST, approval_of(second, SECOND)), FIRST)
    other = office.world.make_roster(version=2, tables=())
    refused(RosterMismatch, approve_roster, signed_by(FIRST, approval_of(other, FIRST)), FIRST)
    refused(RosterMismatch, approve_roster, signed_by(FIRST, approval_of(office.world.roster, FIRST)), FIRST)
    assert office.store.roster_approvals(2) == []


# --- who has to take up what -------------------------------------------------------------------------------------


def test_holder_with_an_old_roster_is_sent_all_that_follow(office: Office) -> None:
    first, second, third, fourth = (office.world.make_roster(version=version) for version in (1, 2, 3, 4))
    office.put_in_force(second)
    office.put_in_force(third)
    office.propose(fourth)
    successors = office.membership.successors

    def versions(digest: str) -> list[int]:
        return [Roster.parse(one.roster).version for one in successors(digest) or []]

    assert versions(first.digest()) == [2, 3]
    assert versions("00" * 32) == [1, 2, 3]
    assert successors(third.digest()) is None
    assert successors(fourth.digest()) == []


# --- revocation --------------------------------------------------------------------------------------------------


def test_revoking_proposes_a_roster_without_the_member(enrolled: EnrolmentOffice) -> None:
    first = enrolled.put_in_force([*SIX])
    second = enrolled.membership.revoke(SIX[2], "a lost server")
    assert second.revoked == (Revocation(descriptor=first.by_name[SIX[2]], revoked_at=NOW, reason="a lost server"),)
    assert second.tables[0].holders == SIX[:2] + SIX[3:]
    assert enrolled.membership.roster() == first
    approve(enrolled, second, *SIX[:2], *SIX[3:5])
    assert enrolled.membership.roster() == second


def test_revocations_stay_and_only_another_name_can_join(enrolled: EnrolmentOffice) -> None:
    """The log has signatures of the old name, which a new ledger does not know."""
    first = enrolled.put_in_force([*SIX])
    unused = enrolled.invite(SIX[2])
    enrolled.membership.revoke(SIX[2], "a lost server")
    with pytest.raises(NameRevoked, match=f"{SIX[2]}-2"):
        enrolled.invite(SIX[2])
    with pytest.raises(NameRevoked):
        enrolled.membership.enrol(Newcomer(holder(SIX[2])).request(unused))
    again = Newcomer(holder(f"{SIX[2]}-2", organisation=first.by_name[SIX[2]].organisation))
    enrolled.enrol(again)
    third = enrolled.membership.propose_roster([(SCHEMA, [*SIX[:2], *SIX[3:], f"{SIX[2]}-2"])])
    assert [one.descriptor for one in third.revoked] == [first.by_name[SIX[2]]]
    assert third.by_name[f"{SIX[2]}-2"] == again.descriptor


def test_a_table_without_a_holder_is_dropped(enrolled: EnrolmentOffice) -> None:
    other = Schema.from_plain({"table": "health.lungs", "columns": [{"name": "age", "type": "int"}]})
    tables = [(SCHEMA, [*SIX]), (other, [SIX[0]])]
    made = enrolled.membership.propose_roster(tables)
    assert len(made.tables) == 2
    assert [table.table for table in enrolled.membership.revoke(SIX[0], "left").tables] == ["health.heart"]


def test_two_stewards_are_too_few(enrolled: EnrolmentOffice) -> None:
    enrolled.membership.propose_roster([(SCHEMA, [*SIX])], SIX[:4])
    assert enrolled.membership.revoke(SIX[0], "left").charter.stewards == SIX[1:4]
    assert enrolled.membership.revoke(SIX[1], "left").signers == SIX[2:]


def test_stranger_cannot_be_revoked(enrolled: EnrolmentOffice) -> None:
    with pytest.raises(UnknownMember):
        enrolled.membership.revoke("nobody", "left")
    assert enrolled.membership.newest is None


def without_third(office: Office) -> Roster:
    members = [member for member in office.world.roster.members if member.name != THIRD]
    return office.world.make_roster(members, version=2, tables=office.world.roster.tables)


def with_new_keys(office: Office) -> Roster:
    members = [member for member in office.world.roster.members if member.name != THIRD]
    return office.world.make_roster([*members, holder(THIRD, sealing_key="ab" * 32)], version=2)


@pytest.mark.parametrize("stage", ["approving", "answering"])
@pytest.mark.parametrize(
    ("change", "code"), [(without_third, "unknown_member"), (with_new_keys, AgreementMismatch.code)]
)
def test_running_jobs_with_a_changed_party_end(office: Office, stage: str, change: Any, code: str) -> None:
    office.submit()
    office.approve(FIRST, *(HOLDERS if stage == "answering" else ()))
    second = change(office)
    office.propose(second)
    office.approve_roster(second, FIRST)
    assert office.state() in (State.WAITING_FOR_APPROVALS, State.WAITING_FOR_SUBMISSIONS)
    office.approve_roster(second, SECOND)
    status = office.jobs.status(office.id, MERCHANT, set())
    assert (status.state, status.ended_because, status.HasField("refusal")) == (State.FAILED, code, False)
    assert [office.tasks(name) for name in HOLDERS] == [[]] * 3
    refused(CeibaError, office.submit, office.world.signed_manifest(job_id="0c" * 16, number=2))


def test_jobs_of_others_go_on_when_a_roster_comes_into_force(office: Office) -> None:
    office.submit()
    office.approve(*HOLDERS)
    newcomer = holder("newcomer")
    office.put_in_force(office.world.make_roster([*office.world.roster.members, newcomer], version=2))
    office.contribute(*HOLDERS)
    assert office.result() == office.world.truth()
    assert not office.jobs.status(office.id, MERCHANT, set()).HasField("ended_because")


def test_answered_job_is_not_undone_by_a_revocation(office: Office) -> None:
    office.finish()
    total = office.jobs.result(office.id, MERCHANT)
    office.put_in_force(without_third(office))
    assert office.jobs.result(office.id, MERCHANT) == total


def test_job_that_a_revocation_ended_stays_ended(office: Office) -> None:
    office.submit()
    office.put_in_force(without_third(office))
    refused(IllegalTransition, office.jobs.cancel, office.id, MERCHANT)
    refused(NotYetDone, office.jobs.result, office.id, MERCHANT)
