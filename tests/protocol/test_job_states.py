"""Every state and every event: legal moves as the table says, all others refused."""

import itertools

import pytest

from ceiba_protocol.errors import IllegalTransition
from ceiba_protocol.job import ENDED, TRANSITIONS, Event, State, advance

LEGAL = {
    ("waiting_for_approvals", "last_approval", "waiting_for_shares"),
    ("waiting_for_approvals", "last_approval_without_gate", "waiting_for_submissions"),
    ("waiting_for_approvals", "last_approval_before_fit", "waiting_for_iterations"),
    ("waiting_for_approvals", "last_approval_of_joint", "waiting_for_messages"),
    ("waiting_for_approvals", "abstention", "waiting_for_approvals"),
    ("waiting_for_approvals", "refusal", "refused"),
    ("waiting_for_approvals", "revocation", "failed"),
    ("waiting_for_approvals", "deadline", "expired"),
    ("waiting_for_approvals", "cancellation", "cancelled"),
    ("waiting_for_shares", "last_share", "waiting_for_submissions"),
    ("waiting_for_shares", "last_share_before_fit", "waiting_for_iterations"),
    ("waiting_for_shares", "abstention", "waiting_for_approvals"),
    ("waiting_for_shares", "refusal", "failed"),
    ("waiting_for_shares", "revocation", "failed"),
    ("waiting_for_shares", "deadline", "expired"),
    ("waiting_for_shares", "cancellation", "cancelled"),
    ("waiting_for_iterations", "iteration", "waiting_for_iterations"),
    ("waiting_for_iterations", "last_submission", "done"),
    ("waiting_for_iterations", "abstention", "waiting_for_approvals"),
    ("waiting_for_iterations", "refusal", "failed"),
    ("waiting_for_iterations", "revocation", "failed"),
    ("waiting_for_iterations", "deadline", "expired"),
    ("waiting_for_iterations", "cancellation", "cancelled"),
    ("waiting_for_messages", "last_message", "done"),
    ("waiting_for_messages", "refusal", "failed"),
    ("waiting_for_messages", "revocation", "failed"),
    ("waiting_for_messages", "deadline", "expired"),
    ("waiting_for_messages", "cancellation", "cancelled"),
    ("waiting_for_submissions", "last_submission", "done"),
    ("waiting_for_submissions", "abstention", "waiting_for_approvals"),
    ("waiting_for_submissions", "refusal", "failed"),
    ("waiting_for_submissions", "revocation", "failed"),
    ("waiting_for_submissions", "deadline", "expired"),
    ("waiting_for_submissions", "cancellation", "cancelled"),
}
"""Written apart from the table: changing a move means changing it twice, on purpose."""


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_either_in_the_list_or_refused(state: State, event: Event) -> None:
    expected = {after for before, cause, after in LEGAL if (before, cause) == (state, event)}
    if expected:
        assert {advance("0b" * 16, state, event)} == expected
    else:
        with pytest.raises(IllegalTransition) as caught:
            advance("0b" * 16, state, event)
        assert caught.value.fields == {"job": "0b" * 16, "state": state, "event": event}


def test_an_ended_job_takes_nothing() -> None:
    assert {"done", "refused", "failed", "expired", "cancelled"} == ENDED
    assert not [state for state, _ in TRANSITIONS if state in ENDED]


def test_every_state_is_reached_and_every_open_job_can_end() -> None:
    reached = {State.WAITING_FOR_APPROVALS, *TRANSITIONS.values()}
    assert reached == set(State)
    for state in set(State) - ENDED:
        assert {TRANSITIONS[state, event] for event in (Event.DEADLINE, Event.CANCELLATION)} <= ENDED


def test_nothing_is_done_without_all_rounds() -> None:
    """The only ways to `done` are the last submission and a joint job's last message, and the only ways to where a
    submission counts are the last share of the gate, and the last approval where there is no gate; the only way to the
    gate or to messages is the last approval."""
    assert {key for key, after in TRANSITIONS.items() if after is State.DONE} == {
        (State.WAITING_FOR_SUBMISSIONS, Event.LAST_SUBMISSION),
        (State.WAITING_FOR_ITERATIONS, Event.LAST_SUBMISSION),
        (State.WAITING_FOR_MESSAGES, Event.LAST_MESSAGE),
    }
    assert {key for key, after in TRANSITIONS.items() if after is State.WAITING_FOR_ITERATIONS} == {
        (State.WAITING_FOR_SHARES, Event.LAST_SHARE_BEFORE_FIT),
        (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_BEFORE_FIT),
        (State.WAITING_FOR_ITERATIONS, Event.ITERATION),
    }
    assert {key for key, after in TRANSITIONS.items() if after is State.WAITING_FOR_SUBMISSIONS} == {
        (State.WAITING_FOR_SHARES, Event.LAST_SHARE),
        (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_WITHOUT_GATE),
    }
    assert [key for key, after in TRANSITIONS.items() if after is State.WAITING_FOR_SHARES] == [
        (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL)
    ]
    assert [key for key, after in TRANSITIONS.items() if after is State.WAITING_FOR_MESSAGES] == [
        (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_OF_JOINT)
    ]
