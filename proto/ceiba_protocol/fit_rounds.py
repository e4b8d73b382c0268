"""The rounds of a fit, between gate and release, every role's step side by side (PROTOCOL §4.1).

One round: every holder sums at the state that all have derived, masks and sends; the coordinator hands the shares on
and can read none; every holder opens the sum and derives the next state. The merchant chooses no state and sees none.
Whoever derives another one masks otherwise, so a holder that is shown another iterate spoils the sum instead of
answering it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ceiba_protocol.canonical import Digest, sha256
from ceiba_protocol.disclosure.gate import Released, pack_released, released_sums
from ceiba_protocol.errors import (
    ColumnWithheld,
    MalformedMessage,
    NotConverged,
    PlanTooLarge,
    SetMismatch,
    TotalRejected,
)
from ceiba_protocol.rounds import (
    FIT,
    Commitment,
    Question,
    check_words,
    leader_of,
    open_group_key,
    own_masks,
    seal_to_all,
)
from ceiba_protocol.statistics.fits.base import MAX_SUMS, Fit, FitState, Frame
from ceiba_protocol.sums.masks import expand_words
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import RoundContext
from ceiba_protocol.sums.wide import add_wide, from_wide, negate_wide, to_wide
from ceiba_protocol.trust.documents import FitShare
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed

MOST_BYTES = 16 * MAX_SUMS
"""Of one holder's words in one round."""
MAX_ROUNDS = 1000
"""Steps and their halvings together, as many as a share's document can number."""


@dataclass(frozen=True)
class FitRound:
    """One round at the state that everybody has derived."""

    question: Question
    commitment: Commitment
    """After the gate, where there is one."""
    released: str
    """The gate's decision, packed; empty without a gate."""
    passed: tuple[bool, ...] | None
    """For each cell, whether it passes; None without a gate."""
    state: FitState
    iteration: int

    @property
    def fit(self) -> Fit:
        assert self.question.program.fit is not None
        return self.question.program.fit

    @cached_property
    def frame(self) -> Frame:
        return replace(self.question.frame(self.commitment.holders), passed=self.passed)

    @cached_property
    def words(self) -> int:
        """Two for each sum. Raises PlanTooLarge."""
        width = self.fit.width(self.state, self.frame)
        if width > MAX_SUMS:
            raise PlanTooLarge(what="number of sums in a round of a fit", limit=MAX_SUMS)
        return 2 * width

    @cached_property
    def context(self) -> RoundContext:
        """The release's, with the stage, the round, the form of its sums and the state."""
        return replace(
            self.commitment.release_context(self.released),
            stage=FIT,
            iteration=self.iteration,
            layout_digest=sha256("ceiba/v1/fit", self.words.to_bytes(4, "big")),
            iterate_digest=bytes.fromhex(self.state.digest()),
        )


def first_round(question: Question, commitment: Commitment, released: Released | None) -> FitRound:
    """Run by every holder after the gate. Raises ColumnWithheld if it does not let the whole fit pass; where each cell
    has figures of its own, if it lets none."""
    assert question.program.fit is not None
    passed = None
    if released is not None and commitment.gate is not None:
        sums = released_sums(commitment.gate, released)
        own = sums[:, question.program.uses[0].sums]
        passed = tuple(bool(cell.all()) for cell in own)
        if not (any(passed) if question.program.fit.per_cell else all(passed)):
            raise ColumnWithheld(columns=_withheld(question, released))
    state = question.program.fit.begin(question.frame(commitment.holders))
    return FitRound(question, commitment, "" if released is None else pack_released(released), passed, state, 0)


def _withheld(question: Question, released: Released) -> str:
    """The columns that may be meant: tests of parts of one whole hold together or not at all, so that it is one of
    them. What is left of columns, such as a base level, is said only where all else holds."""
    fit, needs = question.program.fit, question.tests.needs
    assert fit is not None
    holds = np.asarray(released.all(axis=0))
    failed = {place for place, test in enumerate(question.tests.tests) if not (holds[place] or test.is_difference)}
    rows, *columns = question.program.uses[0].sums
    if not failed:
        failed = {place for place in range(len(holds)) if not holds[place]} - set(needs[rows])
    tested = fit.design()[-len(columns) :]
    found = [one.name for one, place in zip(tested, columns, strict=True) if failed.intersection(needs[place])]
    if failed.intersection(needs[rows]) or not found:
        return "the complete rows"
    names = list(dict.fromkeys(found))
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def share_fit(
    this: FitRound, me: str, sums: Sequence[int], mask_secret: bytes, random: Random
) -> tuple[FitShare, bytes]:
    """Run by a holder: its sums, masked, and the document to sign; both to be stored before they are sent (I2).

    As in the gate, the leader adds a mask whose key it seals to the holders. Raises SetMismatch.
    """
    if 2 * len(sums) != this.words:
        raise MalformedMessage(message="sums of a holder", problem=f"{len(sums)} values for {this.words // 2} sums")
    context = this.context.digest()
    # Masks between pairs cancel modulo 2^128: each is a number of two words, added by one and subtracted by the other.
    masked = add_wide(to_wide(sums), own_masks(this.commitment, context, me, this.words, mask_secret, wide=True))
    sealed = {}
    if me == leader_of(this.commitment):
        group_key = random(32)
        masked = add_wide(masked, expand_words(group_key, this.words))
        sealed = seal_to_all(this.question, this.commitment, group_key, context)
    blob = masked.astype("<u8").tobytes()
    share = FitShare(
        job_id=this.question.manifest.job_id,
        attempt=this.commitment.context.attempt,
        iteration=this.iteration,
        holder=me,
        context_digest=Digest(context.hex()),
        words=this.words,
        words_digest=Digest(hashlib.sha256(blob).hexdigest()),
        sealed_keys=sealed,
    )
    return share, blob


def check_fit_document(signed: Signed, question: Question, attempt: int, iteration: int) -> FitShare:
    """Run by whoever receives a share, also without knowing the state: it is its holder's, for this job and round.

    Raises UnknownMember, BadSignature, MalformedDocument, MalformedMessage.
    """
    share = question.roster.open(signed, FitShare, Role.HOLDER)
    wanted = (signed.signer, question.manifest.job_id, attempt, iteration)
    if (share.holder, share.job_id, share.attempt, share.iteration) != wanted or question.program.fit is None:
        raise MalformedMessage(message="FitShare", problem="it is for another job or round, or in another's name")
    return share


def next_round(this: FitRound, shares: Sequence[tuple[Signed, bytes]], me: str, sealing_secret: bytes) -> FitRound:
    """Run by every holder on all shares of a round, with the same outcome: the next one, or the last, whose state is
    final. Raises SetMismatch, TotalRejected, what `check_fit_document` does, and what the fit says of the whole."""
    if this.iteration >= MAX_ROUNDS:
        raise NotConverged(iterations=MAX_ROUNDS)
    attempt, context = this.commitment.context.attempt, this.context.digest()
    documents = [check_fit_document(signed, this.question, attempt, this.iteration) for signed, _ in shares]
    if sorted(document.holder for document in documents) != this.commitment.holders:
        raise SetMismatch(problem="the shares of a round are not those of the set's holders, each once")
    total = np.zeros(this.words, dtype=np.uint64)
    for document, (_, blob) in zip(documents, shares, strict=True):
        if document.context_digest != context.hex() or document.words != this.words:
            raise TotalRejected(problem=f"{document.holder} summed at another state of the fit")
        total = add_wide(total, check_words(document, blob))
    group_key = open_group_key(this.commitment, documents, me, sealing_secret, context)
    sums = from_wide(add_wide(total, negate_wide(expand_words(group_key, this.words))))
    return replace(this, state=this.fit.advance(this.state, sums, this.frame), iteration=this.iteration + 1)


def replayed(
    first: FitRound, rounds: int, shares_of: Callable[[int], Sequence[tuple[Signed, bytes]]], me: str,
    sealing_secret: bytes,
) -> FitRound:  # fmt: skip
    """The round after so many, from their shares: what a holder does that has forgotten where it was."""
    this = first
    for iteration in range(rounds):
        this = next_round(this, shares_of(iteration), me, sealing_secret)
    return this


def final_values(this: FitRound) -> list[int]:
    """What every holder sends encrypted, after its clip counts, once the state is final."""
    return this.fit.values(this.state, this.frame)
