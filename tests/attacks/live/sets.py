"""Attacks that try to isolate one holder by what set is asked."""

from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, SECRET, VICTIM, Field, said

OTHERS = [holder for holder in HOLDERS if holder != VICTIM]


@attack(without="the set is the agreement's")
def smaller_set(field: Field, without: str | None) -> Outcome:
    """Two banks ask the same question, the operator leaves one hospital out of the second, and they subtract."""
    field.use(without)
    whole = field.answer(field.ask())
    assert whole is not None
    second = field.ask("bank-b")
    approvals = field.approve_all(second, OTHERS)
    replies = {holder: field.contribute(holder, second, approvals) for holder in OTHERS}
    rest = field.total(replies, field.question(second))
    if rest is None:
        return Outcome(False, said(replies[OTHERS[0]]))
    difference = whole[-1] - rest[-1]
    return Outcome(difference == SECRET, f"{VICTIM}'s own total, {difference}")


ATTACKS = [smaller_set]
