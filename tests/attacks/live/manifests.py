"""Attacks by what a merchant signs: what a holder approves that was never agreed on."""

import json
from collections.abc import Callable
from typing import Any

from ceiba_protocol.trust.agreement import DAY
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, TABLE, VICTIM, Field, said
from tests.support.clock import seconds_now

NARROW: dict[str, Any] = {"columns": ("days",), "operations": ("sum",)}
SURGERY = f"SELECT SUM(days) AS days FROM {TABLE} WHERE ward = 'surgery'"  # nobody has a row there
CYRILLIC_A = "\u0430"
LIMIT = 256 * 1024


@attack(without="one manifest for all")
def two_manifests(field: Field, without: str | None) -> Outcome:
    """Merchant and operator show one hospital another question than the rest, who have no row for theirs.

    A sum of both would be the victim's own. Even without the check there is none: masks name the manifest, so those
    of different ones do not cancel. What the check prevents is the answer.
    """
    field.begin(without, VICTIM)
    shown = field.manifest()
    other = field.signed(field.manifest(sql=SURGERY, job_id=shown.job_id, number=shown.number))
    signed = field.signed(shown)
    others = [holder for holder in HOLDERS if holder != VICTIM]
    approvals = field.approve_all(signed, [VICTIM]) + field.approve_all(other, others)
    reply = field.contribute(VICTIM, signed, approvals)
    if reply.submission is None:
        return Outcome(False, said(reply))
    return Outcome(
        True,
        f"an answer that {VICTIM} signed to a question that nobody else approved; its masks, which name the manifest, "
        "still hide it",
    )


@attack(without="one value has one form in bytes")
def smuggled_fields(field: Field, without: str | None) -> Outcome:
    """A merchant signs what two readers read differently: a field twice, in another order, or unknown; white space."""
    field.begin(without, VICTIM)
    kinds: dict[str, Callable[[dict[str, Any]], bytes]] = {
        "a field twice": lambda plain: _dumped(plain).replace(
            b'"purpose":', b'"purpose":"fraud detection","purpose":', 1
        ),
        "another order": lambda plain: _dumped(dict(reversed(plain.items()))),
        "white space": lambda plain: json.dumps(plain).encode(),
        "an unknown field": lambda plain: _dumped(plain | {"row_filter": "name = 'Kim'"}),
    }
    approved, sayings = [], []
    for kind, write in kinds.items():
        manifest = field.manifest()
        body = write(json.loads(manifest.body()))
        signed = field.sign_bytes(body, "Manifest", "bank-a", field.merchants["bank-a"].signing_key)
        reply, saying = field.hear_approval(VICTIM, signed)
        if reply is not None and reply.approval is not None:
            approved.append(kind)
        sayings.append(saying)
    if approved:
        return Outcome(len(approved) >= 3, f"{VICTIM}'s approval of manifests with {', '.join(approved)}")
    return Outcome(False, sayings[0])


def _dumped(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()


@attack(without="the purpose is the agreement's")
def look_alike_purpose(field: Field, without: str | None) -> Outcome:
    """A question for a purpose that reads like the agreed one and is another: one letter of it is Cyrillic."""
    field.begin(without, VICTIM)
    purpose = field.agreements["bank-a"].purpose
    look_alike = purpose.replace("a", CYRILLIC_A, 1)
    assert look_alike != purpose
    named = field.manifest().model_copy(update={"merchant": f"b{CYRILLIC_A}nk-a"})
    reply, _ = field.hear_approval(VICTIM, field.signed(named))
    assert reply is None, "a look-alike of a member's name was read"
    return _approval(field, f"the purpose {look_alike!a}", purpose=look_alike)


@attack(without="the plan is covered")
def beyond_the_agreement(field: Field, without: str | None) -> Outcome:
    """Agreed is the sum of one column; asked is that sum ward by ward, and then a variance."""
    field.begin(without, VICTIM)
    narrow = field.agree(to=[VICTIM], **NARROW)
    changes = {"agreement_digest": narrow.digest(), "disclosure_digest": narrow.disclosure.digest()}
    questions = {
        "a column": f"SELECT ward, SUM(days) AS days FROM {TABLE} GROUP BY ward",
        "an operation": f"SELECT VARIANCE(days) AS days FROM {TABLE}",
    }
    replies = [field.approve(VICTIM, field.ask(sql=sql, **changes)) for sql in questions.values()]
    approved = [what for what, reply in zip(questions, replies, strict=True) if reply.approval]
    if approved:
        return Outcome(len(approved) == 2, f"{VICTIM}'s approval of {' and '.join(approved)} that were not agreed on")
    return Outcome(False, said(replies[0]))


@attack(without="a number once")
def replayed_job(field: Field, without: str | None) -> Outcome:
    """A merchant asks again under a number that was used, with another job id, and once more after a restart."""
    field.begin(without, VICTIM)
    first = field.manifest()
    assert field.approve(VICTIM, field.signed(first)).approval is not None
    replies = [field.approve(VICTIM, field.ask(number=first.number))]
    field.restart(VICTIM)
    replies.append(field.approve(VICTIM, field.ask(number=first.number)))
    if any(reply.approval is None for reply in replies):
        refused = [reply for reply in replies if reply.approval is None]
        return Outcome(len(refused) < 2, said(refused[-1]))
    return Outcome(True, f"three jobs that {VICTIM} approved under number {first.number}")


@attack(without="the window")
def late_manifest(field: Field, without: str | None) -> Outcome:
    """A manifest of the day before yesterday, whose time is over, under an agreement that still runs."""
    field.begin(without, VICTIM)
    now = seconds_now()
    standing = field.agree(to=[VICTIM], not_before=now - 7 * DAY)
    asked = now - 2 * DAY
    return _approval(
        field, "a question whose time is over", agreement=standing, not_before=asked, not_after=asked + 600
    )


@attack(without="the size limit")
def oversized_manifest(field: Field, without: str | None) -> Outcome:
    """A manifest of more than 256 KiB, which every holder would have to keep."""
    field.begin(without, VICTIM)
    room = LIMIT - len(field.propose(purpose="").body())
    wordy = field.agree(to=[VICTIM], purpose="x" * room)
    outputs = ", ".join(f"SUM(days) AS days_{place}" for place in range(40))
    signed = field.ask(agreement=wordy, sql=f"SELECT {outputs} FROM {TABLE}")
    assert len(signed.body) > LIMIT
    reply, saying = field.hear_approval(VICTIM, signed)
    if reply is None or reply.approval is None:
        return Outcome(False, saying)
    return Outcome(True, f"{VICTIM}'s approval of {len(signed.body):,} bytes")


def _approval(field: Field, of_what: str, **changes: Any) -> Outcome:
    """Ask the victim to approve a manifest with these changes."""
    reply = field.approve(VICTIM, field.ask(**changes))
    if reply.approval is None:
        return Outcome(False, said(reply))
    return Outcome(True, f"{VICTIM}'s approval of {of_what}")


ATTACKS = [
    two_manifests, smuggled_fields, look_alike_purpose, beyond_the_agreement, replayed_job, late_manifest,
    oversized_manifest,
]  # fmt: skip
