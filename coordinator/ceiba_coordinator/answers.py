"""What holders answer to jobs: approvals, refusals, abort tokens, submissions (PROTOCOL §2.5).

A task is not stored: it is a seat whose answer is missing in a job that waits for it, so a restart forgets nothing.
Whatever is stored because somebody signed it is appended to the log in the same transaction.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import structlog

from ceiba_coordinator.job_states import require
from ceiba_coordinator.joint import JointAnswers, is_joint
from ceiba_coordinator.store.jobs import Seat, StoredJob
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    IllegalTransition,
    MalformedMessage,
    SetMismatch,
    UnknownJob,
)
from ceiba_protocol.fit_rounds import check_fit_document
from ceiba_protocol.job import ENDED, Event, State
from ceiba_protocol.linkage.joint import JointApproval, JointQuestion
from ceiba_protocol.rounds import (
    Commitment,
    Question,
    check_aborts,
    check_approval,
    check_share,
    check_submission,
    check_words,
    commit_past_gate,
    commit_to_set,
    read_manifest,
)
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.sums.secure_sum import coordinator_multiply
from ceiba_protocol.trust.documents import Approval, FitShare, GateShare, Manifest, Refusal, Submission
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import ApproveTask, ContributeTask, FitTask, GateTask, Task

log = structlog.get_logger()


class Answers(JointAnswers):
    """The holders' half of `Jobs`, which is the whole."""

    # --- what holders do

    def tasks(self, holder: str) -> list[Task]:
        """Every job that waits for this holder."""
        tasks = []
        for job in self._store.open_jobs():
            seats = self._store.seats(job.job_id)
            seat = next((seat for seat in seats if seat.holder == holder and seat.abort is None), None)
            if seat is None:
                continue
            if is_joint(job.manifest):
                tasks += self.joint_tasks(job, seat)
                continue
            if job.state is State.WAITING_FOR_APPROVALS and seat.approval is None:
                approve = ApproveTask(manifest=job.manifest, attempt=job.attempt)
                tasks.append(Task(job_id=job.job_id, approve=approve))
            if job.state is State.WAITING_FOR_SHARES and seat.share is None:
                tasks.append(Task(job_id=job.job_id, gate=GateTask(**self._set_of(seats))))
            if job.state is State.WAITING_FOR_ITERATIONS and self._waits_for(job, seat):
                fit = FitTask(iteration=job.iteration, **self._set_of(seats))
                tasks.append(Task(job_id=job.job_id, fit=fit))
            if job.state is State.WAITING_FOR_SUBMISSIONS and seat.submission is None:
                tasks.append(Task(job_id=job.job_id, contribute=ContributeTask(**self._set_of(seats))))
        return tasks

    def _waits_for(self, job: StoredJob, seat: Seat) -> bool:
        """A fit's round has nothing from this holder, which has not submitted either."""
        return seat.submission is None and seat.holder not in self._store.fit_shares(job.job_id, job.iteration)

    def _set_of(self, seats: list[Seat]) -> dict[str, Any]:
        """What holders need beside the manifest to check the set."""
        return {
            "approvals": approvals_in(seats), "aborts": aborts_in(seats), "checkpoint": self._log.newest_checkpoint()
        }  # fmt: skip

    def ended(self, job_ids: Iterable[bytes]) -> list[bytes]:
        """Those of the jobs that have ended."""
        still_open = {job.job_id for job in self._store.open_jobs()}
        return [job_id for job_id in job_ids if job_id not in still_open]

    def wait_for_person(self, job_id: bytes, holder: str) -> None:
        """Remember, for the merchant, that a person at that holder has to decide. Raises UnknownJob."""
        job, seat = self._seat(job_id, holder)
        if job.state is State.WAITING_FOR_APPROVALS and seat.approval is None:
            self._store.fill_seat(job_id, holder, pending=True)
            self._notify([job_id.hex()])

    def approve(self, signed: Signed, holder: str) -> None:
        """Store an approval; with the last one the set is fixed. A repetition changes nothing.

        Raises UnknownJob, MalformedMessage, BadSignature, SecondPayload, SetMismatch, and IllegalTransition, also for
        an approval of another attempt than the job's.
        """
        if signed.type == type_of(JointApproval):
            self.approve_joint(signed, holder)
            return
        approval = self._membership.roster().open(signed, Approval, Role.HOLDER)
        job, seat = self._seat(bytes.fromhex(approval.job_id), holder)
        if signed.signer != holder:
            raise MalformedMessage(message="Approval", problem="it is another holder's")
        if seat.approval == signed:
            return
        check_approval(self._question(job), holder, approval)
        if seat.abort is not None:
            raise SetMismatch(problem=f"{holder} has left the job")
        require(job, State.WAITING_FOR_APPROVALS, approval.attempt, "an approval", seat.approval)
        with self._store.transaction():
            self._store.fill_seat(job.job_id, holder, approval=signed.SerializeToString(), pending=False)
            self._log.append(signed)
            if all(one.approval for one in self._store.seats(job.job_id) if one.abort is None):
                self._move(job, _after_approvals(self._question(job), self._commitment(job)))
        self._notify([job.job_id.hex()])

    def refuse(self, signed: Signed, holder: str, abort: Signed | None = None) -> None:
        """A holder says no, or cannot go on: that ends the job, unless it leaves with an abort token before anybody has
        submitted, and enough others remain, who then begin another attempt. A second refusal changes nothing.

        Raises UnknownJob, MalformedMessage, BadSignature, and SetMismatch for a token that it may not give.
        """
        refusal = self._membership.roster().open(signed, Refusal, Role.HOLDER)
        job, seat = self._seat(bytes.fromhex(refusal.job_id), holder)
        question = self._joint(job) if is_joint(job.manifest) else self._question(job)
        if not refusal.holder == signed.signer == holder or refusal.manifest_digest != question.digest:
            raise MalformedMessage(message="Refusal", problem="it is for another manifest or in another's name")
        if abort is not None:
            _check_leaves(question, abort, seat)
        if seat.refusal is not None or seat.abort is not None:
            return
        with self._store.transaction():
            self._store.fill_seat(job.job_id, holder, refusal=signed.SerializeToString())
            self._log.append(signed)
            if abort is not None:
                self._store.fill_seat(job.job_id, holder, abort=abort.SerializeToString())
                self._log.append(abort)
            if job.state not in ENDED:
                log.warning("job.refused_by", job=refusal.job_id, holder=holder, code=refusal.code)
                self._go_on_or_end(job, question, signed, left=abort is not None)

    def _go_on_or_end(self, job: StoredJob, question: Question | JointQuestion, refusal: Signed, *, left: bool) -> None:
        seats = self._store.seats(job.job_id)
        remaining = sum(seat.abort is None for seat in seats)
        nobody_has_sent = not any(seat.has_submitted for seat in seats)  # whoever has refuses another set
        if left and nobody_has_sent and remaining >= question.agreement.smallest_set:
            self._store.clear_attempt(job.job_id)
            self._move(job, Event.ABSTENTION, attempt=job.attempt + 1)
        else:
            self._move(job, Event.REFUSAL, refusal=refusal.SerializeToString())

    def expected_words(self, job_id: bytes) -> int:
        """How many bytes of words a share of this job has, in whatever state: a repetition may come late. None without
        a gate. Raises UnknownJob."""
        job = self._store.job(job_id)
        if job is None:
            raise UnknownJob(job=job_id.hex())
        question = self._question(job)
        gate = question.gate(len(question.holders))
        return 0 if gate is None else 8 * gate.words

    def share(self, signed: Signed, words: bytes, job_id: bytes, holder: str) -> None:
        """Store a share of the gate; with the last one, holders can ask for all. A repetition changes nothing.

        Raises UnknownJob, BadSignature, MalformedMessage, SetMismatch, SecondPayload, and IllegalTransition, also for a
        share of another attempt than the job's.
        """
        opened = self._membership.roster().open(signed, GateShare, Role.HOLDER)
        job, seat = self._seat(job_id, holder)
        if signed.signer != holder:
            raise MalformedMessage(message="GateShare", problem="it is in another holder's name")
        if seat.share == signed:
            return
        require(job, State.WAITING_FOR_SHARES, opened.attempt, "a share of the gate", seat.share)
        check_words(check_share(signed, self._question(job), self._commitment(job)), words)
        with self._store.transaction():
            columns = {"share": signed.SerializeToString(), "words": words, "has_submitted": True}
            self._store.fill_seat(job_id, holder, **columns)
            self._log.append(signed)
            if all(one.share for one in self._store.seats(job_id) if one.abort is None):
                is_fit = self._question(job).program.fit is not None
                self._move(job, Event.LAST_SHARE_BEFORE_FIT if is_fit else Event.LAST_SHARE)
        self._notify([job_id.hex()])

    def shares(self, job_id: bytes, holder: str) -> list[Signed]:
        """What the job's holders have sent to the gate, for one of them; `words` has the rest.

        Raises UnknownJob, IllegalTransition before all have sent theirs.
        """
        job, _ = self._seat(job_id, holder)
        if job.state not in (State.WAITING_FOR_SUBMISSIONS, State.WAITING_FOR_ITERATIONS):
            raise IllegalTransition(job=job_id.hex(), state=job.state, event="a request for the gate's shares")
        return shares_in(self._store.seats(job_id))

    def share_fit(self, signed: Signed, words: bytes, job_id: bytes, holder: str) -> None:
        """Store a share of a fit's round; with the last one, holders can ask for all, and the next round begins. What
        the words are sums of, the coordinator cannot know. A repetition changes nothing.

        Raises UnknownJob, BadSignature, MalformedMessage, SetMismatch, SecondPayload, IllegalTransition.
        """
        opened = self._membership.roster().open(signed, FitShare, Role.HOLDER)
        job, seat = self._seat(job_id, holder)
        if signed.signer != holder:
            raise MalformedMessage(message="FitShare", problem="it is in another holder's name")
        before = self._store.fit_shares(job_id, opened.iteration).get(holder)
        if before == signed:
            return
        require(job, State.WAITING_FOR_ITERATIONS, opened.attempt, "a share of a fit", before or seat.submission)
        if opened.iteration != job.iteration:
            event = f"a share of round {opened.iteration}"
            raise IllegalTransition(job=job_id.hex(), state=f"{job.state}, round {job.iteration}", event=event)
        check_words(check_fit_document(signed, self._question(job), job.attempt, job.iteration), words)
        holders = self._commitment(job).holders
        if holder not in holders:
            raise SetMismatch(problem=f"{holder} is not in it")
        with self._store.transaction():
            self._store.add_fit_share(job_id, job.iteration, holder, signed, words)
            self._store.fill_seat(job_id, holder, has_submitted=True)
            self._log.append(signed)
            if sorted(self._store.fit_shares(job_id, job.iteration)) == holders:
                self._move(job, Event.ITERATION, iteration=job.iteration + 1)
        self._notify([job_id.hex()])

    def fit_shares(self, job_id: bytes, holder: str, iteration: int) -> list[Signed]:
        """What the job's holders have sent to a round that is complete, for one of them.

        Raises UnknownJob, IllegalTransition before all have sent theirs.
        """
        job, _ = self._seat(job_id, holder)
        if job.state is not State.WAITING_FOR_ITERATIONS or iteration >= job.iteration:
            event = f"a request for the shares of round {iteration}"
            raise IllegalTransition(job=job_id.hex(), state=f"{job.state}, round {job.iteration}", event=event)
        return list(self._store.fit_shares(job_id, iteration).values())

    def fit_words(self, job_id: bytes, iteration: int, holder: str) -> bytes:
        """One share's words, as `words`."""
        return self._store.fit_words(job_id, iteration, holder)

    def words(self, job_id: bytes, holder: str) -> bytes:
        """One share's words: one at a time, because all of them together are megabytes."""
        return self._store.words(job_id, holder)

    def expected_bytes(self, job_id: bytes) -> int:
        """How many bytes of ciphertexts a submission to this job's attempt has. Raises UnknownJob."""
        job = self._store.job(job_id)
        if job is None:
            raise UnknownJob(job=job_id.hex())
        question = self._question(job)
        layout = question.layout_for(seat.holder for seat in self._store.seats(job_id) if seat.abort is None)
        return layout.ciphertexts * ciphertext_bytes(question.modulus)

    def contribute(self, signed: Signed, ciphertexts: bytes, job_id: bytes, holder: str) -> None:
        """Store a submission; with the last one, the product and its release. A repetition changes nothing.

        Raises UnknownJob, BadSignature, MalformedMessage, BadCiphertext, SecondPayload, and IllegalTransition, also for
        a submission to another attempt than the job's.
        """
        submission = self._membership.roster().open(signed, Submission, Role.HOLDER)
        job, seat = self._seat(job_id, holder)
        if signed.signer != holder:
            raise MalformedMessage(message="Submission", problem="it is in another holder's name")
        if seat.submission == signed:
            return
        is_fit = self._question(job).program.fit is not None
        state = State.WAITING_FOR_ITERATIONS if is_fit else State.WAITING_FOR_SUBMISSIONS
        require(job, state, submission.attempt, "a submission", seat.submission)
        question, commitment = self._question(job), self._past_gate(job)
        check_submission(signed, ciphertexts, question, commitment)
        coordinator_multiply({holder: ciphertexts}, commitment.layout, question.modulus)
        with self._store.transaction():
            columns = {"submission": signed.SerializeToString(), "ciphertexts": ciphertexts, "has_submitted": True}
            self._store.fill_seat(job_id, holder, **columns)
            self._log.append(signed)
            contributions = self._store.ciphertexts(job_id)
            if sorted(contributions) == commitment.holders:
                total = coordinator_multiply(contributions, commitment.layout, question.modulus)
                digest = Digest(hashlib.sha256(total).hexdigest())
                self._hand_out(job, question.digest, digest, Event.LAST_SUBMISSION, total)
        self._notify([job_id.hex()])

    # --- what a job asks, and of whom

    def _question(self, job: StoredJob) -> Question:
        """What a stored job asks. Its window was checked when it was submitted."""
        if job.job_id not in self._questions:
            manifest = Manifest.parse(job.manifest.body)
            agreement = self._agreements.contract(job.agreement_digest).agreement
            schema = self._membership.schema(manifest.plan.table)
            self._questions[job.job_id] = read_manifest(
                job.manifest, agreement, self._membership.roster(), schema, manifest.not_before
            )
        return self._questions[job.job_id]

    def _commitment(self, job: StoredJob) -> Commitment:
        seats = self._store.seats(job.job_id)
        return commit_to_set(self._question(job), approvals_in(seats), aborts_in(seats))

    def _past_gate(self, job: StoredJob) -> Commitment:
        seats = self._store.seats(job.job_id)
        return commit_past_gate(self._question(job), approvals_in(seats), aborts_in(seats), shares_in(seats))


def approvals_in(seats: Iterable[Seat]) -> list[Signed]:
    return [seat.approval for seat in seats if seat.approval]


def aborts_in(seats: Iterable[Seat]) -> list[Signed]:
    return [seat.abort for seat in seats if seat.abort]


def shares_in(seats: Iterable[Seat]) -> list[Signed]:
    return [seat.share for seat in seats if seat.share]


def _after_approvals(question: Question, commitment: Commitment) -> Event:
    if commitment.gate is not None:
        return Event.LAST_APPROVAL
    return Event.LAST_APPROVAL_WITHOUT_GATE if question.program.fit is None else Event.LAST_APPROVAL_BEFORE_FIT


def _check_leaves(question: Question | JointQuestion, abort: Signed, seat: Seat) -> None:
    """The token is this holder's, and not a lie. Raises SetMismatch, BadSignature."""
    if isinstance(question, JointQuestion):
        raise SetMismatch(problem="no holder can leave a joint job")
    if check_aborts(question, [abort]) != {seat.holder}:
        raise SetMismatch(problem="the abort token is another holder's")
    if seat.has_submitted:
        raise SetMismatch(problem=f"{seat.holder} has submitted to this job and cannot leave it")
