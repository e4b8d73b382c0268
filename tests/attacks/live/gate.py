"""Attacks at the gate itself: an operator that changes shares, and a corrupt hospital that answers the holders
differently, so that one of them releases what the others do not."""

import hashlib
import itertools
import os
from dataclasses import dataclass

import numpy as np

from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.gate import COUNT, NEAREST, VETO
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.rounds import Commitment, Question, approve, commit_to_set, contribute, leader_of, share_gate
from ceiba_protocol.sums.masks import Words
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.trust.documents import GateShare
from ceiba_protocol.trust.hpke import seal_to
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import WorkPart
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.disclosure import DAYS, ROWS
from tests.attacks.live.field import HOLDERS, VICTIM, Field, Share, said
from tests.attacks.live.mallory import Reply
from tests.attacks.live.visits import NINETIES

CORRUPT = "dresden"
HONEST = [holder for holder in HOLDERS if holder != CORRUPT]
OWN_TOTAL = sum(row["days"] for row in ROWS[VICTIM])


def lanes(words: Words, question: Question) -> Words:
    """A view of a share's words: [lanes, cells, tests]."""
    gate = question.gate(len(HOLDERS))
    assert gate is not None
    return gate.lanes(words)


@attack(without="the words are the signed ones")
def tampered_share(field: Field, without: str | None) -> Outcome:
    """The operator adds ten patients to a share, so that four patients in their nineties, all in one hospital, pass."""
    field.begin(without)
    signed = field.ask(sql=f"{DAYS} WHERE age BETWEEN 90 AND 95")
    approvals, question = field.approve_all(signed), field.question(signed)
    shares = field.share_all(signed, approvals)
    document, blob = shares[CORRUPT]
    words = np.frombuffer(blob, dtype="<u8").copy()
    lanes(words, question)[COUNT] += 10
    shown = [(document, words.tobytes()), *(shares[holder] for holder in HONEST)]
    for holder in HOLDERS:
        field.serve(holder, signed, shown)
    return _outcome(field, question, field.contribute_all(signed, approvals), sum(NINETIES.values()))


@dataclass(frozen=True)
class Job:
    """A job in which the corrupt hospital has approved with a mask key of the attacker's choice."""

    signed: Signed
    question: Question
    approvals: list[Signed]
    commitment: Commitment
    secret: bytes

    def share(self, field: Field) -> Share:
        """The corrupt hospital's, by which everything passes."""
        assert self.commitment.gate is not None
        words = np.zeros(self.commitment.gate.words, dtype=np.uint64)
        lanes(words, self.question)[[COUNT, NEAREST]] = 2
        share, blob = share_gate(self.question, self.commitment, CORRUPT, words, self.secret, os.urandom)
        return sign(share, CORRUPT, field.holder(CORRUPT).signing_key), blob

    def vetoing(self, field: Field, share: Share) -> Share:
        """The same share with a veto to everything, under a signature of its own: masks are added, so they stay."""
        words = np.frombuffer(share[1], dtype="<u8").copy()
        lanes(words, self.question)[VETO] += 1
        digest = Digest(hashlib.sha256(words.tobytes()).hexdigest())
        document = GateShare.parse(share[0].body).model_copy(update={"words_digest": digest})
        return sign(document, CORRUPT, field.holder(CORRUPT).signing_key), words.tobytes()

    def submission(self, field: Field, commitment: Commitment) -> Reply:
        """The corrupt hospital's, of nothing but zeros."""
        encryptor = Encryptor.for_count(self.question.modulus, commitment.layout.ciphertexts, os.urandom)
        zeros = [0] * commitment.layout.slots
        made, ciphertexts = contribute(
            self.question, commitment, CORRUPT, zeros, self.secret, encryptor, os.urandom(32)
        )
        submission = sign(made, CORRUPT, field.holder(CORRUPT).signing_key)
        return Reply([WorkPart(submission=submission), WorkPart(ciphertexts=ciphertexts)])


@attack(without="the release is bound to the gate")
def two_faced_shares(field: Field, without: str | None) -> Outcome:
    """A corrupt hospital signs two shares, and the operator shows one hospital another one than the rest.

    By that everything passes, and by the others' nothing: the total is that hospital's own.
    """
    field.begin(without)
    job = _job(field, must_lead=False)
    shares = field.share_all(job.signed, job.approvals, HONEST)
    passing = job.share(field)
    vetoing = job.vetoing(field, passing)
    for holder in HONEST:
        field.serve(holder, job.signed, [passing if holder == VICTIM else vetoing, *shares.values()])
    return _finish(field, job, job.commitment)


@attack(without="the release is bound to the gate's decision")
def wrong_key_for_the_others(field: Field, without: str | None) -> Outcome:
    """A corrupt hospital that draws the gate's key seals the right one to one hospital, and wrong ones to the rest.

    They read nonsense, and release nothing.
    """
    field.begin(without)
    job = _job(field, must_lead=True)
    shares = field.share_all(job.signed, job.approvals, HONEST)
    signed, blob = job.share(field)
    share = GateShare.parse(signed.body)
    keys = dict(share.sealed_keys)
    for holder in set(HONEST) - {VICTIM}:
        member = field.roster.member(holder, Role.HOLDER)
        context = job.commitment.gate_context.digest()
        keys[holder] = seal_to(bytes.fromhex(member.sealing_key), os.urandom(32), context).hex()
    lying = sign(share.model_copy(update={"sealed_keys": keys}), CORRUPT, field.holder(CORRUPT).signing_key)
    shown = [(lying, blob), *shares.values()]
    for holder in HONEST:
        field.serve(holder, job.signed, shown)
    return _finish(field, job, job.commitment.after_gate(document for document, _ in shown))


def _job(field: Field, *, must_lead: bool) -> Job:
    """The days of all patients; `must_lead`: the corrupt hospital draws the gate's key, for which it tries out keys."""
    signed = field.ask(sql=DAYS)
    question, honest, key = field.question(signed), field.approve_all(signed, HONEST), field.holder(CORRUPT).signing_key
    for _ in itertools.count():
        secret = os.urandom(32)
        own = sign(approve(question, CORRUPT, question.pin_of(CORRUPT), secret, os.urandom(16)), CORRUPT, key)
        commitment = commit_to_set(question, [own, *honest])
        if leader_of(commitment) == CORRUPT or not must_lead:
            return Job(signed, question, [own, *honest], commitment, secret)
    raise AssertionError


def _finish(field: Field, job: Job, commitment: Commitment) -> Outcome:
    replies = field.contribute_all(job.signed, job.approvals, HONEST)
    replies[CORRUPT] = job.submission(field, commitment)
    return _outcome(field, job.question, replies, OWN_TOTAL)


def _outcome(field: Field, question: Question, replies: dict[str, Reply], wanted: int) -> Outcome:
    refused = [reply for reply in replies.values() if reply.submission is None]
    if refused:
        return Outcome(False, said(refused[0]))
    try:
        sums = field.total(replies, question)
    except CeibaError as error:
        return Outcome(False, error.public)
    assert sums is not None
    return Outcome(sums[-1] == wanted, f"{VICTIM}'s own total, {sums[-1]}")


ATTACKS = [tampered_share, two_faced_shares, wrong_key_for_the_others]
