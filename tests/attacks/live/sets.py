"""Attacks that try to isolate one holder by what set is asked."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ceiba_protocol.trust.documents import AbortToken, Approval, Submission
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, SECRET, VICTIM, Field, job_id_of, said, until

OTHERS = [holder for holder in HOLDERS if holder != VICTIM]


@attack(without="the set is the agreement's")
def smaller_set(field: Field, without: str | None) -> Outcome:
    """Two banks ask the same question, the operator leaves one hospital out of the second, and they subtract."""
    field.begin(without)
    whole = field.answer(field.ask())
    return _subtract(field, whole, field.ask("bank-b"))


@attack(without="the tokens' signatures")
def forged_abort_token(field: Field, without: str | None) -> Outcome:
    """Where holders may leave, the operator writes a token in one's name, and two banks subtract."""
    field.begin(without)
    lenient = field.agree("bank-b", smallest_set=3)
    whole = field.answer(field.ask())
    second = field.ask("bank-b", agreement=lenient)
    token = AbortToken(job_id=job_id_of(second), manifest_digest=field.question(second).digest, holder=VICTIM)
    forged = sign(token, VICTIM, SigningKey(bytes(32)))
    return _subtract(field, whole, second, attempt=1, aborts=[forged])


@attack(without="one payload a round")
def second_answer(field: Field, without: str | None) -> Outcome:
    """A corrupt hospital approves twice, with two mask keys, and the operator asks another for one round twice.

    The masks of both answers differ, so even then nothing can be subtracted: this check is the second of two.
    """
    field.begin(without, VICTIM)
    signed, corrupt = field.ask(), OTHERS[0]
    approvals = field.approve_all(signed)
    others = [approval for approval in approvals if approval.signer != corrupt]
    (first_key,) = [approval for approval in approvals if approval.signer == corrupt]
    first = field.contribute(VICTIM, signed, approvals)
    second = field.contribute(VICTIM, signed, [*others, _with_other_mask_key(field, corrupt, first_key)])
    if second.submission is None or first.submission is None:
        return Outcome(False, said(second))
    answers = [Submission.parse(reply.submission.body) for reply in (first, second) if reply.submission]
    contexts, rounds = {one.context_digest for one in answers}, {(one.job_id, one.attempt) for one in answers}
    return Outcome(len(contexts) == 2 and len(rounds) == 1, f"two answers that {VICTIM} signed for one round")


@attack(without="sets that nearly coincide, at signing")
def second_agreement(field: Field, without: str | None) -> Outcome:
    """A bank that has agreed with all four hospitals proposes a second agreement, over the other three.

    What they would answer under it is looked at again, in `set_that_nearly_coincides`; for agreements that are asked
    under more than 30 days apart, the signature is the last word.
    """
    field.begin(None)
    proposal = field.propose(**_without_victim(field))
    field.tell(proposal, [field.signed(proposal)])

    def sign_at(holder: str) -> str:
        done = field.command(holder, without, "agreements", "sign", proposal.agreement_id, "--yes")
        return done.stderr.partition("\n")[0] if done.returncode else ""

    with ThreadPoolExecutor(max_workers=len(OTHERS)) as people:
        refusals = dict(zip(OTHERS, people.map(sign_at, OTHERS), strict=True))
    if any(refusals.values()):
        return Outcome(False, f"{OTHERS[0]}'s officer is told: {refusals[OTHERS[0]]}")
    papers, body = field.mallory.papers.documents, proposal.body()
    until(lambda: {one.signer for one in papers if one.body == body} == set(OTHERS))
    return Outcome(True, f"an agreement in force over all but {VICTIM}, beside the one over all")


@attack(without="sets that nearly coincide, when answering")
def set_that_nearly_coincides(field: Field, without: str | None) -> Outcome:
    """Careless officers signed a second agreement, over three of four; one bank asks under both, and subtracts."""
    field.begin(without)
    smaller = field.agree(**_without_victim(field))
    whole = field.answer(field.ask())
    sql = "SELECT SUM(days) AS days FROM health.stays WHERE days >= 0"
    return _subtract(field, whole, field.ask(agreement=smaller, sql=sql))


def _without_victim(field: Field) -> dict[str, Any]:
    """Terms of an agreement over the others."""
    parties = field.agreements["bank-a"].holders
    return {"holders": tuple(party for party in parties if party.name != VICTIM), "smallest_set": len(OTHERS)}


def _subtract(
    field: Field, whole: list[int] | None, second: Signed, attempt: int = 0, aborts: list[Signed] | None = None
) -> Outcome:
    """Ask the others alone, and take their total from that of all."""
    assert whole is not None
    approvals = field.approve_all(second, OTHERS, attempt)
    replies = {holder: field.contribute(holder, second, approvals, aborts or []) for holder in OTHERS}
    rest = field.total(replies, field.question(second))
    if rest is None:
        return Outcome(False, said(replies[OTHERS[0]]))
    difference = whole[-1] - rest[-1]
    return Outcome(difference == SECRET, f"{VICTIM}'s own total, {difference}")


def _with_other_mask_key(field: Field, corrupt: str, approval: Signed) -> Signed:
    """A second approval by a holder that knows its own keys."""
    mask_key = x25519_public_key(bytes(31) + b"\1").hex()
    changed = Approval.parse(approval.body).model_copy(update={"mask_key": mask_key})
    return sign(changed, corrupt, field.holder(corrupt).signing_key)


ATTACKS = [smaller_set, forged_abort_token, second_answer, second_agreement, set_that_nearly_coincides]
