"""Holders that leave a job with an abort token, and the smaller sets that the others then answer in."""

from typing import Any

import pytest

from ceiba_protocol.errors import IllegalTransition, MalformedMessage, SetMismatch
from ceiba_protocol.job import State
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.trust.documents import AbortToken, Approval, Refusal
from ceiba_protocol.trust.log import LogEntry
from ceiba_protocol.trust.signing import type_of
from tests.coordinator.office import Office, refused
from tests.support.members import MERCHANT, ROWS, World

ROWS_OF_FIVE = {**ROWS, "oslo": [{"sex": 0, "age": 5, "chol": 9}], "vienna": [{"sex": 1, "age": 7, "chol": 90}]}
FIRST, SECOND, *_, LAST = FIVE = tuple(sorted(ROWS_OF_FIVE))


class SmallerSets(World):
    """Five holders, of whom four must at least answer."""

    def make_agreement(self, *arguments: Any, **changes: Any) -> Any:
        return super().make_agreement(*arguments, **({"smallest_set": 4} | changes))


@pytest.fixture
def office() -> Office:
    office = Office(world=SmallerSets(ROWS_OF_FIVE))
    office.submit()
    return office


def attempts(office: Office) -> list[int | None]:
    """The attempt that each holder is asked to approve; None where it is asked nothing."""
    tasks = [office.jobs.tasks(name) for name in FIVE]
    return [task[0].approve.attempt if task else None for task in tasks]


def without(office: Office, left: str) -> list[int]:
    """The true totals of those who stayed."""
    rows = [row for name, rows in office.world.rows.items() if name != left for row in rows]
    return list(grouped_sums(office.world.read().program, rows))


def test_the_others_answer_without_a_holder_that_left(office: Office) -> None:
    office.approve(FIRST, SECOND)
    office.leave(LAST)
    assert office.state() == State.WAITING_FOR_APPROVALS
    assert attempts(office) == [1, 1, 1, 1, None]
    office.approve(*FIVE[:-1], attempt=1)
    (task,) = office.jobs.tasks(FIRST)
    assert [one.signer for one in task.contribute.aborts] == [LAST]
    office.contribute_anew(*FIVE[:-1])
    assert office.state() == State.DONE
    assert office.result() == without(office, LAST)


def test_a_holder_may_leave_after_the_set_is_fixed(office: Office) -> None:
    office.approve(*FIVE)
    office.leave(LAST)
    assert attempts(office) == [1, 1, 1, 1, None]
    assert office.store.ciphertexts(office.id) == {}
    office.approve(*FIVE[:-1], attempt=1)
    office.contribute_anew(*FIVE[:-1])
    assert office.result() == without(office, LAST)


def test_nobody_leaves_a_job_to_which_somebody_has_submitted(office: Office) -> None:
    """Who has submitted would refuse another set, so the job ends."""
    office.approve(*FIVE)
    office.contribute_anew(FIRST)
    office.leave(LAST)
    assert office.state() == State.FAILED


def test_documents_of_the_old_attempt_stay_in_the_log(office: Office) -> None:
    office.approve(FIRST)
    office.leave(LAST)
    office.approve(FIRST, attempt=1)
    entries = map(LogEntry.parse, office.log.read(0, office.store.log_size()))
    assert [entry.type for entry in entries if entry.signer == FIRST].count(type_of(Approval)) == 2


def test_status_names_those_who_left(office: Office) -> None:
    office.leave(LAST)
    status = office.jobs.status(office.id, MERCHANT, set())
    assert (list(status.left), status.HasField("refusal")) == ([LAST], False)


def test_too_few_remain(office: Office) -> None:
    office.leave(LAST)
    office.leave(FIRST)
    assert office.state() == State.REFUSED
    assert office.jobs.status(office.id, MERCHANT, set()).refusal.signer == FIRST
    assert attempts(office) == [None] * 5


def test_a_set_that_is_answered_whole_or_not_at_all_ends() -> None:
    office = Office()
    office.submit()
    office.leave("zurich")
    assert office.state() == State.REFUSED


def test_refusal_without_a_token_ends_the_job(office: Office) -> None:
    office.jobs.refuse(office.world.refusal(LAST), LAST)
    assert office.state() == State.REFUSED


def test_leaving_again_changes_nothing(office: Office) -> None:
    office.leave(LAST)
    size = office.store.log_size()
    office.leave(LAST)
    assert (attempts(office), office.store.log_size()) == ([1, 1, 1, 1, None], size)


def test_a_holder_that_left_does_not_come_back(office: Office) -> None:
    office.leave(LAST)
    refused(SetMismatch, lambda: office.approve(LAST, attempt=1))
    assert office.store.seats(office.id)[-1].approval is None


@pytest.mark.parametrize("attempt", [0, 2])
def test_approval_of_another_attempt_is_refused(office: Office, attempt: int) -> None:
    office.leave(LAST)
    refused(IllegalTransition, lambda: office.approve(FIRST, attempt=attempt))
    assert attempts(office)[0] == 1


def test_submission_to_the_old_set_is_refused(office: Office) -> None:
    office.approve(*FIVE)
    late = office.world.contribute(SECOND, office.world.read(), office.commitment())
    office.leave(LAST)
    office.approve(*FIVE[:-1], attempt=1)
    refused(IllegalTransition, office.jobs.contribute, *late, office.id, SECOND)
    assert office.store.ciphertexts(office.id) == {}


def test_who_has_submitted_cannot_leave(office: Office) -> None:
    """Not in a later attempt either: two totals that differ by this holder could show its figures."""
    office.approve(*FIVE)
    office.contribute_anew(FIRST)
    refused(SetMismatch, office.leave, FIRST)
    office.leave(LAST)
    refused(SetMismatch, office.leave, FIRST)


@pytest.mark.parametrize("changes", [{"holder": SECOND}, {"job_id": "0c" * 16}, {"manifest_digest": "ab" * 32}])
def test_token_for_something_else_moves_nothing(office: Office, changes: dict[str, Any]) -> None:
    token = office.world.abort(LAST, **changes)
    refused(SetMismatch, office.jobs.refuse, office.world.refusal(LAST), LAST, token)
    assert (attempts(office), office.state()) == ([0] * 5, State.WAITING_FOR_APPROVALS)


def test_token_of_another_moves_nothing(office: Office) -> None:
    """Who forges a holder's absence isolates the others."""
    stolen = office.world.abort(FIRST)
    refused(SetMismatch, office.jobs.refuse, office.world.refusal(LAST), LAST, stolen)
    assert attempts(office) == [0] * 5


def test_token_instead_of_a_refusal_moves_nothing(office: Office) -> None:
    refused(MalformedMessage, office.jobs.refuse, office.world.abort(LAST), LAST, office.world.abort(LAST))
    assert attempts(office) == [0] * 5


def test_refusal_and_token_are_both_in_the_log(office: Office) -> None:
    size = office.store.log_size()
    office.leave(LAST)
    entries = map(LogEntry.parse, office.log.read(size, office.store.log_size()))
    assert [entry.type for entry in entries] == [type_of(Refusal), type_of(AbortToken)]


def test_attempts_survive_a_restart(tmp_path: Any) -> None:
    office = Office(tmp_path / "coordinator.sqlite3", SmallerSets(ROWS_OF_FIVE))
    office.submit()
    office.leave(LAST)
    office.approve(*FIVE[:-1], attempt=1)
    office.restart()
    office.contribute_anew(*FIVE[:-1])
    assert office.result() == without(office, LAST)


def test_pending_holders_are_named_until_they_decide(office: Office) -> None:
    office.jobs.wait_for_person(office.id, SECOND)
    assert list(office.jobs.status(office.id, MERCHANT, set()).pending) == [SECOND]
    office.approve(SECOND)
    office.jobs.wait_for_person(office.id, SECOND)
    assert list(office.jobs.status(office.id, MERCHANT, set()).pending) == []
