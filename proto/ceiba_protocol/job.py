"""A job's states and the legal moves between them, as a table. The coordinator stores the state; others read it."""

from enum import StrEnum

from ceiba_protocol.errors import IllegalTransition


class State(StrEnum):
    WAITING_FOR_APPROVALS = "waiting_for_approvals"
    WAITING_FOR_SHARES = "waiting_for_shares"
    """Of the gate."""
    WAITING_FOR_ITERATIONS = "waiting_for_iterations"
    """Of a fit: shares of one round after the other, and at last the submissions."""
    WAITING_FOR_MESSAGES = "waiting_for_messages"
    """Of a joint job: from one holder to another, and at last to the merchant."""
    WAITING_FOR_SUBMISSIONS = "waiting_for_submissions"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Event(StrEnum):
    LAST_APPROVAL = "last_approval"
    """Every holder of the set has approved, and there is a gate."""
    LAST_APPROVAL_WITHOUT_GATE = "last_approval_without_gate"
    LAST_APPROVAL_BEFORE_FIT = "last_approval_before_fit"
    """Likewise without a gate, and the question is a fit."""
    LAST_APPROVAL_OF_JOINT = "last_approval_of_joint"
    """Likewise of a joint job."""
    LAST_SHARE = "last_share"
    """Every holder of the set has sent its share to the gate."""
    LAST_SHARE_BEFORE_FIT = "last_share_before_fit"
    """Likewise, and the question is a fit."""
    ITERATION = "iteration"
    """Every holder of the set has sent its share of one round of the fit."""
    LAST_MESSAGE = "last_message"
    """Every message of a joint job is stored."""
    LAST_SUBMISSION = "last_submission"
    """Every holder of the set has submitted, and the product is stored."""
    ABSTENTION = "abstention"
    """A holder left with an abort token, and the agreement lets those who remain answer without it."""
    REFUSAL = "refusal"
    """A holder said no, or could not go on."""
    REVOCATION = "revocation"
    """A roster came into force on which a party is not what it was when the agreement was signed."""
    DEADLINE = "deadline"
    CANCELLATION = "cancellation"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL): State.WAITING_FOR_SHARES,
    (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_WITHOUT_GATE): State.WAITING_FOR_SUBMISSIONS,
    (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_BEFORE_FIT): State.WAITING_FOR_ITERATIONS,
    (State.WAITING_FOR_APPROVALS, Event.LAST_APPROVAL_OF_JOINT): State.WAITING_FOR_MESSAGES,
    (State.WAITING_FOR_APPROVALS, Event.ABSTENTION): State.WAITING_FOR_APPROVALS,
    (State.WAITING_FOR_APPROVALS, Event.REFUSAL): State.REFUSED,
    (State.WAITING_FOR_APPROVALS, Event.REVOCATION): State.FAILED,
    (State.WAITING_FOR_APPROVALS, Event.DEADLINE): State.EXPIRED,
    (State.WAITING_FOR_APPROVALS, Event.CANCELLATION): State.CANCELLED,
    (State.WAITING_FOR_SHARES, Event.LAST_SHARE): State.WAITING_FOR_SUBMISSIONS,
    (State.WAITING_FOR_SHARES, Event.LAST_SHARE_BEFORE_FIT): State.WAITING_FOR_ITERATIONS,
    (State.WAITING_FOR_SHARES, Event.ABSTENTION): State.WAITING_FOR_APPROVALS,
    (State.WAITING_FOR_SHARES, Event.REFUSAL): State.FAILED,
    (State.WAITING_FOR_SHARES, Event.REVOCATION): State.FAILED,
    (State.WAITING_FOR_SHARES, Event.DEADLINE): State.EXPIRED,
    (State.WAITING_FOR_SHARES, Event.CANCELLATION): State.CANCELLED,
    (State.WAITING_FOR_ITERATIONS, Event.ITERATION): State.WAITING_FOR_ITERATIONS,
    (State.WAITING_FOR_ITERATIONS, Event.LAST_SUBMISSION): State.DONE,
    (State.WAITING_FOR_ITERATIONS, Event.ABSTENTION): State.WAITING_FOR_APPROVALS,
    (State.WAITING_FOR_ITERATIONS, Event.REFUSAL): State.FAILED,
    (State.WAITING_FOR_ITERATIONS, Event.REVOCATION): State.FAILED,
    (State.WAITING_FOR_ITERATIONS, Event.DEADLINE): State.EXPIRED,
    (State.WAITING_FOR_ITERATIONS, Event.CANCELLATION): State.CANCELLED,
    (State.WAITING_FOR_MESSAGES, Event.LAST_MESSAGE): State.DONE,
    (State.WAITING_FOR_MESSAGES, Event.REFUSAL): State.FAILED,
    (State.WAITING_FOR_MESSAGES, Event.REVOCATION): State.FAILED,
    (State.WAITING_FOR_MESSAGES, Event.DEADLINE): State.EXPIRED,
    (State.WAITING_FOR_MESSAGES, Event.CANCELLATION): State.CANCELLED,
    (State.WAITING_FOR_SUBMISSIONS, Event.LAST_SUBMISSION): State.DONE,
    (State.WAITING_FOR_SUBMISSIONS, Event.ABSTENTION): State.WAITING_FOR_APPROVALS,
    (State.WAITING_FOR_SUBMISSIONS, Event.REFUSAL): State.FAILED,
    (State.WAITING_FOR_SUBMISSIONS, Event.REVOCATION): State.FAILED,
    (State.WAITING_FOR_SUBMISSIONS, Event.DEADLINE): State.EXPIRED,
    (State.WAITING_FOR_SUBMISSIONS, Event.CANCELLATION): State.CANCELLED,
}

ENDED = frozenset(set(State) - {state for state, _ in TRANSITIONS})
"""States that nothing leads out of."""


def advance(job_id: str, state: State, event: Event) -> State:
    """The state after `event`. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(job=job_id, state=state, event=event) from None
