"""A receipt holds with a roster alone, and every kind of damage fails at the step that names it."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ceiba_protocol.canonical import MAX_BODY_BYTES, Digest, canonical_json
from ceiba_protocol.errors import CeibaError, MalformedDocument, ReceiptRejected
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.rounds import CLOCK_TOLERANCE
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Approval, GateShare, Submission
from ceiba_protocol.trust.log import Checkpoint, Release, entry_of
from ceiba_protocol.trust.receipt import STEPS, Receipt, Step, check, read_parts, verify
from ceiba_protocol.trust.roster import OPERATOR, Revocation, Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.log_pb2 import ReceiptParts
from tests.support.members import (
    HOLDERS,
    MERCHANT,
    NOW,
    ROWS,
    World,
    altered,
    changed,
    graded,
    holder,
    publisher,
    resigned,
    signed_by,
    signing_key,
)

FIRST, SECOND, THIRD = HOLDERS
OTHER_DIGEST = Digest("ab" * 32)
FOUR = {**ROWS, "dresden": [{"sex": 1, "age": 50, "chol": 10}]}
LEFT = "dresden"


@cache
def done() -> tuple[World, ReceiptParts]:
    world = World()
    return world, world.receipt_parts()


@cache
def gated() -> tuple[World, ReceiptParts]:
    """A job with a gate, in which nothing but the row count of the men is released."""
    men = {name: [{"sex": 1, "age": None, "chol": None}] * (count + 2) for count, name in enumerate(HOLDERS)}
    world = World(men, schema=graded("internal"))
    return world, world.receipt_parts()


EITHER = {"without a gate": done, "with a gate": gated}
either = pytest.mark.parametrize("kind", EITHER)


@cache
def done_without_one() -> tuple[World, ReceiptParts]:
    world = World(FOUR)
    world.agreement = world.make_agreement(smallest_set=3)
    return world, world.receipt_parts(left=[LEFT])


def copy(parts: ReceiptParts) -> ReceiptParts:
    made = ReceiptParts()
    made.CopyFrom(parts)
    return made


def receipt(kind: str = "without a gate") -> Receipt:
    world, parts = EITHER[kind]()
    return read_parts(parts, world.roster)


def holds(receipt: Receipt, roster: Roster) -> bool:
    return verify(receipt, roster)[-1].error is None


# --- honest receipts ---------------------------------------------------------------------------------------------


@either
def test_every_step_of_an_honest_receipt_holds_with_the_roster_alone(kind: str) -> None:
    world, parts = EITHER[kind]()
    steps = verify(receipt(kind), world.roster)
    assert [(step.number, step.name, step.error) for step in steps] == [
        (number, name, None) for number, (name, _) in enumerate(STEPS, 1)
    ]
    assert check(receipt(kind), world.roster) == Release.parse(parts.release.body).total_digest
    assert str(steps[0]).startswith("1. ok ")


def test_a_job_that_one_has_left_has_a_receipt_too() -> None:
    world, parts = done_without_one()
    made = read_parts(parts, world.roster)
    assert holds(made, world.roster)
    assert [text.signer for text in made.aborts] == [LEFT]
    assert [text.signer for text in made.submissions] == list(HOLDERS)


def test_with_a_gate_it_has_everybodys_share_and_what_they_let_pass() -> None:
    made = receipt("with a gate")
    assert [text.signer for text in made.shares] == list(HOLDERS)
    said = {Submission.parse(text.signed().body).released for text in made.submissions}
    assert len(said) == 1 and said != {""}
    assert receipt().shares == ()


@either
def test_the_file_is_the_receipt(kind: str) -> None:
    made = receipt(kind)
    read = Receipt.parse(made.body())
    assert read == made
    assert read.body() == made.body()
    assert holds(read, EITHER[kind]()[0].roster)


def test_a_release_in_an_older_log_than_its_holders_had_witnessed_is_refused() -> None:
    """The operator forks the log before what the holders had seen, and hides the fork from them."""
    world, parts = done()
    seen = changed(Approval.parse(parts.approvals[0].body), log_size=parts.index + 1)
    later = copy(parts)
    later.approvals[0].CopyFrom(signed_by(parts.approvals[0].signer, seen))
    failed(read_parts(later, world.roster), world.roster, 7)


def test_three_of_four_witnesses_are_enough() -> None:
    """⌈(4 + 1 + 1)/2⌉ = 3."""
    world = World(FOUR)
    parts = world.receipt_parts()
    del parts.checkpoint.cosignatures[1]
    assert holds(read_parts(parts, world.roster), world.roster)
    del parts.checkpoint.cosignatures[1]
    failed(read_parts(parts, world.roster), world.roster, 8)


def test_more_of_the_log_changes_nothing() -> None:
    """The checkpoint may be any one that covers the entry; the tree's sizes walk through every form of path."""
    world, parts = done()
    for after in range(9):
        log = [parts.entry, *(b"%d" % number for number in range(after))]
        assert holds(read_parts(world.proved(parts, log, 0), world.roster), world.roster)


def newer(world: World, name: str, revoked_at: int, back: bool = False) -> Roster:
    """Version 2, where the member's keys are revoked, and `back`: where it has got new ones."""
    old = world.roster.by_name[name]
    gone = Revocation(descriptor=old, revoked_at=revoked_at, reason="a lost key")
    again = [changed(old, signing_key="cd" * 32, sealing_key="ce" * 32)] if back else []
    members = [*(one for one in world.roster.members if one.name != name), *again]
    return world.make_roster(members, version=2, revoked=(gone,))


@pytest.mark.parametrize("back", [False, True], ids=["gone", "with new keys"])
@pytest.mark.parametrize("name", [SECOND, MERCHANT])
def test_a_newer_roster_serves_unless_somebody_was_revoked_by_then(name: str, back: bool) -> None:
    world, parts = done()
    released = Release.parse(parts.release.body).at
    assert holds(receipt(), changed(world.roster, version=2))
    assert holds(receipt(), newer(world, name, released + 1, back))
    for at in (released, released - 1):
        assert not holds(receipt(), newer(world, name, at, back))


def test_of_several_old_keys_those_of_the_time_count() -> None:
    world, parts = done()
    released, old = Release.parse(parts.release.body).at, world.roster.by_name[SECOND]
    between = changed(old, signing_key="ab" * 32)
    gone = [
        Revocation(descriptor=old, revoked_at=released + 1, reason=""),
        Revocation(descriptor=between, revoked_at=released + 2, reason=""),
    ]
    for revoked in (gone, gone[::-1]):
        roster = changed(newer(world, SECOND, released + 1, back=True), revoked=tuple(revoked))
        assert holds(receipt(), roster)
        assert roster.as_of(released + 1).member(SECOND, Role.HOLDER) == between


# --- damage ------------------------------------------------------------------------------------------------------


def replaced(parts: Any, what: str, at: int, *signed: Any) -> None:
    """These in place of one of the documents."""
    documents = getattr(parts, what)
    kept = [*documents[:at], *signed, *documents[at + 1 :]]
    del documents[:]
    documents.extend(kept)


def other_job(world: World) -> World:
    """The same members and agreement, asked another time."""
    other = World(world.rows, schema=world.schema)
    other.job_id, other.number, other.mask_secrets = "0c" * 16, 2, world.mask_secrets
    return other


def reshared(parts: ReceiptParts, **changes: Any) -> None:
    """The first holder's share with other fields, which it has signed."""
    replaced(parts, "shares", 0, resigned(parts.shares[0], GateShare, **changes))


def all_say(parts: ReceiptParts, released: str) -> None:
    """Every holder signs this as the gate's decision."""
    for at, submission in enumerate(list(parts.submissions)):
        replaced(parts, "submissions", at, resigned(submission, Submission, released=released))


def rereleased(world: World, parts: ReceiptParts, **changes: Any) -> ReceiptParts:
    """Another release, which the operator has signed and logged like the true one."""
    made = copy(parts)
    made.release.CopyFrom(resigned(parts.release, Release, **changes))
    log = [b"before", entry_of(made.release, NOW).body(), b"after"]
    return world.proved(made, log, 1)


def recosigned(world: World, parts: ReceiptParts, *names: str, **changes: Any) -> ReceiptParts:
    made = copy(parts)
    checkpoint = changed(Checkpoint.parse(parts.checkpoint.checkpoint.body), **changes)
    del made.checkpoint.cosignatures[:]
    made.checkpoint.cosignatures.extend(signed_by(name, checkpoint) for name in names)
    return made


def rechecked(parts: ReceiptParts, key: Any = None, **changes: Any) -> None:
    """Another checkpoint by the operator, or by who has `key`."""
    checkpoint = changed(Checkpoint.parse(parts.checkpoint.checkpoint.body), **changes)
    signed = sign(checkpoint, OPERATOR, key) if key else signed_by(OPERATOR, checkpoint)
    parts.checkpoint.checkpoint.CopyFrom(signed)


def second_form(signature: bytes) -> bytes:
    """(R, S + L), which satisfies the equation of Ed25519 as well; RFC 8032 §5.1.7 refuses it."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    return signature[:32] + s.to_bytes(32, "little")


Damage = Callable[[World, ReceiptParts], object]
"""Changes the parts, or returns others."""

DAMAGE: dict[str, tuple[int, Damage]] = {
    # 1. the agreement
    "a holder did not sign the agreement": (1, lambda w, p: p.agreement.pop(2)),
    "the merchant did not sign the agreement": (1, lambda w, p: p.agreement.pop(0)),
    "a publisher signed it": (
        1,
        lambda w, p: replaced(p, "agreement", 2, sign(w.agreement, SECOND, publisher(SECOND))),
    ),
    "a holder signed other bytes": (
        1,
        lambda w, p: replaced(p, "agreement", 2, resigned(p.agreement[2], Agreement, jobs=1)),
    ),
    "the agreement was changed": (
        1,
        lambda w, p: replaced(p, "agreement", 0, altered(p.agreement[0], b"research", b"anything")),
    ),
    "a stranger signed it too": (1, lambda w, p: p.agreement.append(signed_by("bank-b", w.agreement))),
    # 2. the manifest
    "manifest of another agreement": (
        2,
        lambda w, p: p.manifest.CopyFrom(w.signed_manifest(agreement_digest=OTHER_DIGEST)),
    ),
    "manifest of another merchant": (
        2,
        lambda w, p: p.manifest.CopyFrom(signed_by("bank-b", w.manifest(merchant="bank-b"))),
    ),
    "manifest changed": (2, lambda w, p: p.manifest.CopyFrom(altered(p.manifest, b"research", b"anything"))),
    "manifest beyond the agreed jobs": (2, lambda w, p: p.manifest.CopyFrom(w.signed_manifest(number=101))),
    "an approval in its place": (2, lambda w, p: p.manifest.CopyFrom(p.approvals[0])),
    "another schema": (2, lambda w, p: setattr(p, "schema", p.schema.replace(b'"120"', b'"121"'))),
    # 3. the set
    "manifest of another job": (3, lambda w, p: p.manifest.CopyFrom(other_job(w).signed_manifest())),
    "an approval is missing": (3, lambda w, p: p.approvals.pop()),
    "an approval twice": (3, lambda w, p: p.approvals.append(p.approvals[0])),
    "approval of another job": (3, lambda w, p: replaced(p, "approvals", 0, other_job(w).approval(FIRST))),
    "approval in another's name": (
        3,
        lambda w, p: replaced(p, "approvals", 0, signed_by(SECOND, Approval.parse(p.approvals[0].body))),
    ),
    "a token of one who answered": (3, lambda w, p: p.aborts.append(w.abort(FIRST))),
    "a smaller set than was agreed on": (
        3,
        lambda w, p: (replaced(p, "approvals", 0), p.aborts.append(w.abort(FIRST))),
    ),
    # 5. the submissions
    "a submission is missing": (5, lambda w, p: p.submissions.pop()),
    "a submission twice": (5, lambda w, p: p.submissions.append(p.submissions[0])),
    "one in another's place": (5, lambda w, p: replaced(p, "submissions", 0, p.submissions[1])),
    "submission of another context": (
        5,
        lambda w, p: replaced(p, "submissions", 0, resigned(p.submissions[0], Submission, context_digest=OTHER_DIGEST)),
    ),
    "submission of another job": (
        5,
        lambda w, p: replaced(p, "submissions", 0, resigned(p.submissions[0], Submission, job_id="0c" * 16)),
    ),
    "submission of another attempt": (
        5,
        lambda w, p: replaced(p, "submissions", 0, resigned(p.submissions[0], Submission, attempt=1)),
    ),
    "submission that its holder did not sign": (
        5,
        lambda w, p: setattr(p.submissions[0], "signature", p.submissions[1].signature),
    ),
    "another mask key in an approval": (
        5,
        lambda w, p: replaced(p, "approvals", 0, resigned(p.approvals[0], Approval, mask_key="09" + "0" * 62)),
    ),
    # 6. the release
    "release of another job": (6, lambda w, p: rereleased(w, p, job_id="0c" * 16)),
    "release of another manifest": (6, lambda w, p: rereleased(w, p, manifest_digest=OTHER_DIGEST)),
    "release of another agreement": (6, lambda w, p: rereleased(w, p, agreement_digest=OTHER_DIGEST)),
    "release of another attempt": (6, lambda w, p: rereleased(w, p, attempt=1)),
    "release before its job": (6, lambda w, p: rereleased(w, p, at=NOW - CLOCK_TOLERANCE - 1)),
    "release after its job's end": (6, lambda w, p: rereleased(w, p, at=NOW + 60 + CLOCK_TOLERANCE + 1)),
    "release by a stranger": (
        6,
        lambda w, p: p.release.CopyFrom(sign(Release.parse(p.release.body), OPERATOR, signing_key("mallory"))),
    ),
    "release by a holder": (6, lambda w, p: p.release.CopyFrom(signed_by(FIRST, Release.parse(p.release.body)))),
    "release of another total": (
        6,
        lambda w, p: p.release.CopyFrom(resigned(p.release, Release, total_digest=OTHER_DIGEST)),
    ),
    "release with the second form of its signature": (
        6,
        lambda w, p: setattr(p.release, "signature", second_form(p.release.signature)),
    ),
    "entry of another document": (6, lambda w, p: setattr(p, "entry", entry_of(p.manifest, NOW).body())),
    "entry of another release": (
        6,
        lambda w, p: setattr(p, "entry", entry_of(w.release(total_digest=OTHER_DIGEST), NOW).body()),
    ),
    "no entry": (6, lambda w, p: setattr(p, "entry", b"")),
    # 7. the log
    "another entry of the same release": (7, lambda w, p: setattr(p, "entry", entry_of(p.release, NOW - 1).body())),
    "wrong index": (7, lambda w, p: setattr(p, "index", p.index + 1)),
    "index beyond the log": (7, lambda w, p: setattr(p, "index", 2**52)),
    "proof in another tree": (
        7,
        lambda w, p: p.inclusion.__setitem__(slice(None), w.proved(p, [p.entry, *[b"other"] * 5], 0).inclusion),
    ),
    "a node changed": (7, lambda w, p: p.inclusion.__setitem__(0, bytes(32))),
    "a node too few": (7, lambda w, p: p.inclusion.pop()),
    "a node too many": (7, lambda w, p: p.inclusion.append(bytes(32))),
    "a node too long": (7, lambda w, p: p.inclusion.__setitem__(0, p.inclusion[0] + b"\0")),
    "checkpoint by a stranger": (7, lambda w, p: rechecked(p, signing_key("mallory"))),
    "checkpoint of another space": (7, lambda w, p: rechecked(p, space="other")),
    "checkpoint of a smaller log": (7, lambda w, p: rechecked(p, size=p.index)),
    "checkpoint of another root": (7, lambda w, p: rechecked(p, root=OTHER_DIGEST)),
    "a holder's word for a checkpoint": (
        7,
        lambda w, p: p.checkpoint.checkpoint.CopyFrom(p.checkpoint.cosignatures[0]),
    ),
    # 8. the witnesses
    "nobody witnessed": (8, lambda w, p: recosigned(w, p)),
    "one witness of three": (8, lambda w, p: recosigned(w, p, FIRST)),
    "one witness twice": (8, lambda w, p: recosigned(w, p, FIRST, FIRST, FIRST)),
    "witnesses of another checkpoint": (8, lambda w, p: recosigned(w, p, *HOLDERS, at=NOW + 60)),
    "a merchant as a witness": (8, lambda w, p: recosigned(w, p, FIRST, MERCHANT)),
    "the operator as a witness": (8, lambda w, p: recosigned(w, p, FIRST, OPERATOR)),
    "a forged cosignature": (
        8,
        lambda w, p: setattr(p.checkpoint.cosignatures[0], "signature", p.checkpoint.cosignatures[1].signature),
    ),
    "a publisher as a witness": (
        8,
        lambda w, p: replaced(
            p.checkpoint,
            "cosignatures",
            0,
            sign(Checkpoint.parse(p.checkpoint.checkpoint.body), FIRST, publisher(FIRST)),
        ),
    ),
}


WITHOUT_GATE: dict[str, tuple[int, Damage]] = {
    "a share of a gate that is not there": (4, lambda w, p: p.shares.append(gated()[1].shares[0])),
    "one says that a gate let something pass": (
        5,
        lambda w, p: replaced(p, "submissions", 1, resigned(p.submissions[1], Submission, released="80")),
    ),
    "all say that a gate let something pass": (5, lambda w, p: all_say(p, "80")),
}

WITH_GATE: dict[str, tuple[int, Damage]] = {
    # 4. the shares
    "no shares": (4, lambda w, p: p.ClearField("shares")),
    "a share is missing": (4, lambda w, p: p.shares.pop()),
    "a share twice": (4, lambda w, p: p.shares.append(p.shares[0])),
    "a share in another's place": (4, lambda w, p: replaced(p, "shares", 0, p.shares[1])),
    "share of another job": (4, lambda w, p: reshared(p, job_id="0c" * 16)),
    "an honest share of another job": (4, lambda w, p: replaced(p, "shares", 0, other_job(w).share_documents[0])),
    "share of another attempt": (4, lambda w, p: reshared(p, attempt=1)),
    "share of another context": (4, lambda w, p: reshared(p, context_digest=OTHER_DIGEST)),
    "share of fewer words": (4, lambda w, p: reshared(p, words=1)),
    "share in another's name": (4, lambda w, p: reshared(p, holder=SECOND)),
    "share that another signed": (
        4,
        lambda w, p: replaced(p, "shares", 0, signed_by(SECOND, GateShare.parse(p.shares[0].body))),
    ),
    "share that its holder did not sign": (4, lambda w, p: setattr(p.shares[0], "signature", p.shares[1].signature)),
    "share that a publisher signed": (
        4,
        lambda w, p: replaced(p, "shares", 0, sign(GateShare.parse(p.shares[0].body), FIRST, publisher(FIRST))),
    ),
    "share of one who is no holder of the job": (
        4,
        lambda w, p: p.shares.append(signed_by(MERCHANT, GateShare.parse(p.shares[0].body))),
    ),
    # 5. other shares than those that everybody is bound to, and other decisions
    "another transcript: other words": (5, lambda w, p: reshared(p, words_digest=OTHER_DIGEST)),
    "another transcript: a sealed key": (5, lambda w, p: reshared(p, sealed_keys={FIRST: "0e" * 80})),
    "another decision by one": (
        5,
        lambda w, p: replaced(p, "submissions", 2, resigned(p.submissions[2], Submission, released="ff" * 3)),
    ),
    "no decision by one": (
        5,
        lambda w, p: replaced(p, "submissions", 0, resigned(p.submissions[0], Submission, released="")),
    ),
    "no decision by all": (5, lambda w, p: all_say(p, "")),
    "a decision about another plan": (5, lambda w, p: all_say(p, "00" * 1000)),
}
ALL_DAMAGE: dict[tuple[str, str], tuple[int, Damage]] = {
    **{(kind, what): damage for kind in EITHER for what, damage in DAMAGE.items()},
    **{("without a gate", what): damage for what, damage in WITHOUT_GATE.items()},
    **{("with a gate", what): damage for what, damage in WITH_GATE.items()},
}
ALL_DAMAGE["with a gate", "another mask key in an approval"] = (4, DAMAGE["another mask key in an approval"][1])
"""The gate's is the first context that is not the one that the holders had."""


@pytest.mark.parametrize(("kind", "what"), ALL_DAMAGE)
def test_damage_fails_at_the_step_that_names_it(kind: str, what: str) -> None:
    step, damage = ALL_DAMAGE[kind, what]
    world, honest = EITHER[kind]()
    parts = copy(honest)
    returned = damage(world, parts)
    parts = returned if isinstance(returned, ReceiptParts) else parts
    assert parts != honest
    failed(read_parts(parts, world.roster), world.roster, step)


def failed(receipt: Receipt, roster: Roster, number: int) -> None:
    """The verification ends at this step, and `check` says so."""
    *before, last = verify(receipt, roster)
    assert (last.number, [step.error for step in before]) == (number, [None] * (number - 1))
    assert isinstance(last.error, CeibaError)
    assert "FAILED" in str(last)
    with pytest.raises(ReceiptRejected) as caught:
        check(receipt, roster)
    assert caught.value.fields["step"] == f"{number}, {STEPS[number - 1][0]}"


SMALLER: dict[str, Damage] = {
    "without the token of who left": lambda w, p: p.aborts.pop(),
    "with a token for another job": lambda w, p: replaced(p, "aborts", 0, w.abort(LEFT, job_id="0c" * 16)),
    "with a token by another": lambda w, p: replaced(p, "aborts", 0, w.abort(FIRST, holder=LEFT)),
}


@pytest.mark.parametrize("what", SMALLER)
def test_a_smaller_set_needs_the_signed_word_of_who_left(what: str) -> None:
    world, honest = done_without_one()
    parts = copy(honest)
    SMALLER[what](world, parts)
    failed(read_parts(parts, world.roster), world.roster, 3)


def test_four_holders_need_three_witnesses_though_one_left() -> None:
    world, honest = done_without_one()
    assert holds(read_parts(recosigned(world, honest, FIRST, SECOND, LEFT), world.roster), world.roster)
    failed(read_parts(recosigned(world, honest, FIRST, SECOND), world.roster), world.roster, 8)


def test_holders_that_are_no_parties_are_no_witnesses() -> None:
    world, honest = done()
    strangers = ("geneva", "lyon", "nantes")
    roster = world.make_roster((world.merchant, *map(holder, (*HOLDERS, *strangers))))
    failed(read_parts(recosigned(world, honest, *strangers), roster), roster, 8)
    failed(read_parts(recosigned(world, honest, FIRST, *strangers), roster), roster, 8)
    assert holds(read_parts(recosigned(world, honest, *HOLDERS, *strangers), roster), roster)


def test_another_spaces_roster_is_no_witness_for_it() -> None:
    world = done()[0]
    strangers = [changed(one, signing_key="ab" * 32, duties=None) for one in world.roster.members]
    failed(receipt(), changed(world.roster, members=tuple(strangers)), 1)
    failed(receipt(), changed(world.roster, space="other"), 2)
    failed(receipt(), changed(world.roster, log_key=signing_key("mallory").public.hex()), 6)


# --- what is no receipt ------------------------------------------------------------------------------------------

UNREADABLE: dict[str, Damage] = {
    "nobody signed an agreement": lambda w, p: p.ClearField("agreement"),
    "no manifest": lambda w, p: p.ClearField("manifest"),
    "no release": lambda w, p: p.ClearField("release"),
    "no checkpoint": lambda w, p: p.ClearField("checkpoint"),
    "a body that is no text": lambda w, p: setattr(p.manifest, "body", b"\xff"),
    "a schema that is no text": lambda w, p: setattr(p, "schema", b"\xff"),
    "an entry that is no text": lambda w, p: setattr(p, "entry", b"\xff"),
    "an index beyond what JSON can say": lambda w, p: setattr(p, "index", 2**53),
    "a signer that commands a terminal": lambda w, p: setattr(p.release, "signer", "\x1b[2J7. ok"),
    "a type that commands a terminal": lambda w, p: setattr(p.release, "type", "\x1b[2J7. ok"),
    "a witness that commands a terminal": lambda w, p: setattr(p.checkpoint.cosignatures[0], "signer", "\x1b[2J"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_receipt_is_refused_in_our_own_words(what: str) -> None:
    world, honest = done()
    parts = copy(honest)
    UNREADABLE[what](world, parts)
    with pytest.raises(ReceiptRejected) as caught:
        read_parts(parts, world.roster)
    assert caught.value.fields["step"].startswith("0, ")
    assert "\x1b" not in str(caught.value)


def test_every_receipt_that_can_be_read_can_be_written() -> None:
    world, honest = done()
    parts = copy(honest)
    parts.index = 2**53 - 1
    assert Receipt.parse(read_parts(parts, world.roster).body()).index == 2**53 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": 4},
        {"index": -1},
        {"inclusion": ["AB"]},
        {"note": "authorised by the ministry"},
        {"roster_digest": "0"},
        {"\x1b[2J": 1},
    ],
)
def test_a_file_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    plain = json.loads(receipt().body()) | changes
    with pytest.raises(MalformedDocument) as caught:
        Receipt.parse(canonical_json(plain))
    assert "\x1b" not in str(caught.value)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(MalformedDocument):
        Receipt.parse(receipt().body().replace(b'"schema_text":"{', b'"schema_text":"\\ud800{'))


@either
@settings(max_examples=500, deadline=None)
@given(at=st.integers(min_value=0), character=st.characters(max_codepoint=0x17F))
def test_no_changed_character_goes_unnoticed(kind: str, at: int, character: str) -> None:
    """The roster's digest is a hint where to look and proves nothing; every other character counts."""
    made = receipt(kind)
    text = made.body().decode()
    at %= len(text)
    damaged = text[:at] + character + text[at + 1 :]
    assume(damaged != text)
    try:
        read = Receipt.parse(damaged.encode())
    except MalformedDocument:
        return
    assert (
        not holds(read, EITHER[kind]()[0].roster)
        or read.model_copy(update={"roster_digest": made.roster_digest}) == made
    )


@either
@pytest.mark.parametrize(
    "field", sorted(Receipt.model_fields.keys() - {"roster_digest", "format", "aborts", "other_schema_texts"})
)
def test_no_field_of_another_receipt_fits(field: str, kind: str) -> None:
    """Two honest jobs of the same members under one agreement: what they do not share cannot be exchanged."""
    world = EITHER[kind]()[0]
    other, theirs = another_done(kind)
    mine, its = receipt(kind), read_parts(theirs, other.roster)
    if getattr(mine, field) == getattr(its, field):
        assert field in {"agreement", "schema_text", "index"} or (field, kind) == ("shares", "without a gate")
    else:
        assert not holds(mine.model_copy(update={field: getattr(its, field)}), world.roster)


@cache
def another_done(kind: str) -> tuple[World, ReceiptParts]:
    first = EITHER[kind]()[0]
    other = World(first.rows, schema=first.schema)
    other.job_id, other.number = "0c" * 16, 2
    return other, other.receipt_parts()


# --- what is in it -----------------------------------------------------------------------------------------------


def numbers(value: object) -> Iterator[int]:
    """Every integer in a document, also in the documents that it quotes."""
    match value:
        case dict():
            for part in value.values():
                yield from numbers(part)
        case list():
            for part in value:
                yield from numbers(part)
        case int():
            yield value
        case str() if value.lstrip("-").isdecimal():
            yield int(value)
        case str() if value.startswith("{"):
            yield from numbers(json.loads(value))


def test_no_figure_is_in_it() -> None:
    world, _ = done()
    program = world.read().program
    each = [grouped_sums(program, rows) for rows in ROWS.values()]
    figures = {sum_ for sums in [*each, world.truth()] for sum_ in sums if abs(sum_) > len(HOLDERS)}
    assert len(figures) > 8
    found = set(numbers(json.loads(receipt().body())))
    assert {NOW, 100, 120} <= found  # the search finds what is there: a time, the agreed jobs, a column's maximum
    assert not found & (figures - {120})  # one age is the column's maximum, which the schema says


def test_a_thousand_holders_have_a_receipt() -> None:
    sizes = {}
    for holders in (3, 8):
        world = World({f"holder-{number:03d}": ROWS[FIRST] for number in range(holders)})
        sizes[holders] = len(read_parts(world.receipt_parts(), world.roster).body())
    for_each = (sizes[8] - sizes[3]) / 5
    assert sizes[3] + 1000 * for_each + 2 * MAX_BODY_BYTES < Receipt.MAX_BYTES


def test_a_step_says_what_failed() -> None:
    error = ReceiptRejected(step="?", problem="nobody was there.")
    assert str(Step(7, "it was witnessed", error)) == f"7. FAILED  it was witnessed: {error.public}"
    assert str(Step(1, "it was signed", None)) == "1. ok      it was signed"
