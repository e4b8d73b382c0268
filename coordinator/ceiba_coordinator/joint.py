"""Joint jobs: holders' messages, stored and passed on in the order of their steps (PROTOCOL §5).

Every payload is sealed to its receiver, so what is stored here says who sent how much to whom, and nothing else. But
where subjects are linked by tokens, more than two holders send theirs to the operator, which then has steps of its own:
it learns which tokens are at which holders, and not whose they are (`token_steps`).
"""

import structlog

from ceiba_coordinator.job_states import JobStates, require
from ceiba_coordinator.store.jobs import Seat, StoredJob
from ceiba_protocol.errors import (
    CeibaError,
    IllegalTransition,
    JobConflict,
    MalformedMessage,
    NotYetDone,
    NumberUsed,
    UnknownJob,
)
from ceiba_protocol.job import Event, State
from ceiba_protocol.linkage.joint import (
    MOST_PAYLOAD,
    JointApproval,
    JointManifest,
    JointMessage,
    JointQuestion,
    JointSet,
    Step,
    check_joint_approval,
    check_message,
    commit_jointly,
    message_of,
    read_joint_manifest,
    sealed_for,
    total_digest,
)
from ceiba_protocol.linkage.token_steps import coordinator_link
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.roster import OPERATOR, Role
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import ApproveTask, JointTask, Task

log = structlog.get_logger()


def is_joint(signed: Signed) -> bool:
    """Whether a manifest is a joint one."""
    return bool(signed.type == type_of(JointManifest))


class JointAnswers(JobStates):
    """What members do to joint jobs."""

    # --- what merchants do

    def submit_joint(self, signed: Signed, merchant: str) -> bytes:
        """Store a joint job; its id. The same bytes again change nothing.

        Raises MalformedMessage, JobConflict, UnknownAgreement, AgreementNotActive, NumberUsed, and what
        `read_joint_manifest` does.
        """
        manifest = self._membership.roster().open(signed, JointManifest, Role.MERCHANT)
        if not manifest.merchant == signed.signer == merchant:
            raise MalformedMessage(message="SubmitRequest", problem="the manifest is another merchant's")
        job_id = bytes.fromhex(manifest.job_id)
        stored = self._store.job(job_id)
        if stored is not None and stored.manifest != signed:
            raise JobConflict(job=manifest.job_id)
        if stored is None:
            self._add_joint(job_id, signed, manifest)
        return job_id

    def _add_joint(self, job_id: bytes, signed: Signed, manifest: JointManifest) -> None:
        agreement = self._agreements.require_active(manifest.agreement_digest, manifest.merchant)
        question = self._read_joint(signed, manifest, self._clock())
        if self._store.has_job_number(manifest.agreement_digest, manifest.number):
            raise NumberUsed(number=manifest.number, agreement=agreement.agreement_id)
        job = StoredJob(
            job_id=job_id,
            merchant=manifest.merchant,
            manifest=signed,
            agreement_digest=manifest.agreement_digest,
            number=manifest.number,
            state=State.WAITING_FOR_APPROVALS,
            attempt=0,
            deadline=manifest.not_after,
        )
        with self._store.transaction():
            self._store.add_job(job, question.holders)
            self._log.append(signed)
        self._joint_questions[job_id] = question
        self._notify(question.holders)
        log.info(
            "job.submitted", job=job_id.hex(), merchant=job.merchant, tables=[s.table for s in manifest.plan.sides]
        )

    def is_joint_job(self, job_id: bytes) -> bool:
        """False also for a job that there is not."""
        job = self._store.job(job_id)
        return job is not None and is_joint(job.manifest)

    def joint_result(self, job_id: bytes) -> tuple[list[Signed], list[tuple[int, Signed]]]:
        """The approvals, and the messages to the merchant by step; `joint_payload` has the rest. Raises NotYetDone."""
        job = self._store.job(job_id)
        if job is None or job.state is not State.DONE:
            raise NotYetDone(job=job_id.hex(), state=job.state if job else "unknown")
        question, messages = self._joint(job), self._store.joint_messages(job_id)
        to_merchant = [step.number for step in question.steps if step.receiver == job.merchant]
        return self._approvals(job_id), [(number, messages[number]) for number in to_merchant]

    def joint_payload(self, job_id: bytes, step: int) -> bytes:
        """One message's: one at a time, because all of them together are many megabytes."""
        return self._store.joint_payload(job_id, step)

    # --- what holders do

    def joint_tasks(self, job: StoredJob, seat: Seat) -> list[Task]:
        """What a joint job waits for from this holder."""
        if job.state is State.WAITING_FOR_APPROVALS and seat.approval is None:
            return [Task(job_id=job.job_id, approve=ApproveTask(manifest=job.manifest))]
        if job.state is not State.WAITING_FOR_MESSAGES:
            return []
        stored, approvals = self._store.joint_messages(job.job_id), self._approvals(job.job_id)
        checkpoint = self._log.newest_checkpoint()
        return [
            Task(job_id=job.job_id, joint=JointTask(step=step.number, approvals=approvals, checkpoint=checkpoint))
            for step in self._joint(job).steps
            if step.sender == seat.holder and step.number not in stored and stored.keys() >= set(step.needs)
        ]

    def approve_joint(self, signed: Signed, holder: str) -> None:
        """Store an approval; with the last one the messages begin. A repetition changes nothing.

        Raises UnknownJob, MalformedMessage, BadSignature, SecondPayload, SetMismatch, IllegalTransition.
        """
        approval = self._membership.roster().open(signed, JointApproval, Role.HOLDER)
        job, seat = self._seat(bytes.fromhex(approval.job_id), holder)
        if signed.signer != holder or not is_joint(job.manifest):
            raise MalformedMessage(message="JointApproval", problem="it is another holder's, or of another kind of job")
        if seat.approval == signed:
            return
        check_joint_approval(self._joint(job), holder, approval)
        require(job, State.WAITING_FOR_APPROVALS, 0, "an approval", seat.approval)
        with self._store.transaction():
            self._store.fill_seat(job.job_id, holder, approval=signed.SerializeToString(), pending=False)
            self._log.append(signed)
            if all(one.approval for one in self._store.seats(job.job_id)):
                self._move(job, Event.LAST_APPROVAL_OF_JOINT)
        self._notify([job.job_id.hex()])

    def expected_payload(self, signed: Signed, holder: str) -> int:
        """How many bytes its payload has, as its sender has signed. Raises UnknownJob, BadSignature."""
        message = self._membership.roster().open(signed, JointMessage, Role.HOLDER)
        self._seat(bytes.fromhex(message.job_id), holder)
        return min(message.size, MOST_PAYLOAD)

    def take_message(self, signed: Signed, payload: bytes, holder: str) -> None:
        """Store a message; with the last one the job is done. A repetition changes nothing.

        Raises UnknownJob, BadSignature, MalformedMessage, SetMismatch, SecondPayload, IllegalTransition.
        """
        message = self._membership.roster().open(signed, JointMessage, Role.HOLDER)
        job, _ = self._seat(bytes.fromhex(message.job_id), holder)
        question, stored = self._joint(job), self._store.joint_messages(job.job_id)
        if stored.get(message.step) == signed:
            return
        require(job, State.WAITING_FOR_MESSAGES, 0, "a message", stored.get(message.step))
        step = self._step(question, message.step)
        if holder != step.sender or not stored.keys() >= set(step.needs):
            event = f"the message of step {step.number} from {holder}"
            raise IllegalTransition(job=job.job_id.hex(), state=job.state, event=event)
        check_message(self._set(job), step, signed, payload)
        with self._store.transaction():
            self._store.add_joint_message(job.job_id, step.number, signed, payload)
            self._log.append(signed)
            self._go_on(job, question)
        self._notify([job.job_id.hex(), *question.holders])

    def _go_on(self, job: StoredJob, question: JointQuestion) -> None:
        """What the operator has to do once another message is stored: its own steps that became possible, in full; and
        with the last message of all, the end. Where tokens do not fit, it refuses to go on, as a holder would."""
        stored = self._store.joint_messages(job.job_id)
        own = [step for step in question.steps if step.sender == OPERATOR and step.number not in stored]
        ready = [step for step in own if stored.keys() >= set(step.needs)]
        try:
            if ready:
                self._link(job, question, ready)
        except CeibaError as error:
            self._refuse(job, question, error)
            return
        if len(stored) + len(ready) == len(question.steps):
            self._finish(job, question)

    def _link(self, job: StoredJob, question: JointQuestion, ready: list[Step]) -> None:
        """Steps that all need the same messages, every holder's tokens, and say what these have in common."""
        agreed, tokens = self._set(job), [question.steps[number] for number in ready[0].needs]
        submissions = {step.sender: self._store.joint_payload(job.job_id, step.number) for step in tokens}
        payload = coordinator_link(agreed, submissions)
        for step in ready:
            sealed = sealed_for(agreed, step, payload)
            signed = self._log.sign(message_of(agreed, step, sealed))
            self._store.add_joint_message(job.job_id, step.number, signed, sealed)
            self._log.append(signed)

    def _refuse(self, job: StoredJob, question: JointQuestion, error: CeibaError) -> None:
        log.warning("job.refused_by", job=job.job_id.hex(), holder=OPERATOR, code=error.code)
        manifest = question.manifest
        refusal = Refusal(
            job_id=manifest.job_id,
            manifest_digest=question.digest,
            holder=OPERATOR,
            code=error.code,
            fields=error.fields,
        )
        signed = self._log.sign(refusal)
        self._log.append(signed)
        self._move(job, Event.REFUSAL, refusal=signed.SerializeToString())

    def _finish(self, job: StoredJob, question: JointQuestion) -> None:
        messages = [JointMessage.parse(one.body) for one in self._store.joint_messages(job.job_id).values()]
        self._hand_out(job, question.digest, total_digest(question, messages), Event.LAST_MESSAGE)

    def received(self, job_id: bytes, number: int, holder: str) -> Signed:
        """The message of a step, for its receiver; `joint_payload` has the rest.

        Raises UnknownJob, IllegalTransition.
        """
        job, _ = self._seat(job_id, holder)
        if not is_joint(job.manifest) or job.state is not State.WAITING_FOR_MESSAGES:
            raise IllegalTransition(job=job_id.hex(), state=job.state, event="a request for a message")
        stored = self._store.joint_messages(job_id)
        if self._step(self._joint(job), number).receiver != holder or number not in stored:
            raise IllegalTransition(job=job_id.hex(), state=job.state, event=f"a request for the message {number}")
        return stored[number]

    # --- what a joint job asks, and of whom

    def _joint(self, job: StoredJob) -> JointQuestion:
        """What a stored joint job asks. Its window was checked when it was submitted."""
        if job.job_id not in self._joint_questions:
            manifest = JointManifest.parse(job.manifest.body)
            self._joint_questions[job.job_id] = self._read_joint(job.manifest, manifest, manifest.not_before)
        return self._joint_questions[job.job_id]

    def _read_joint(self, signed: Signed, manifest: JointManifest, now: int) -> JointQuestion:
        agreement = self._agreements.contract(manifest.agreement_digest).agreement
        tables = {side.table for side in manifest.plan.sides} & {side.table for side in agreement.sides}
        schemas = {table: self._membership.schema(table) for table in tables}
        return read_joint_manifest(signed, agreement, self._membership.roster(), schemas, now)

    def _set(self, job: StoredJob) -> JointSet:
        return commit_jointly(self._joint(job), self._approvals(job.job_id))

    def _approvals(self, job_id: bytes) -> list[Signed]:
        return [seat.approval for seat in self._store.seats(job_id) if seat.approval]

    def _step(self, question: JointQuestion, number: int) -> Step:
        if number >= len(question.steps):
            raise UnknownJob(job=question.manifest.job_id)
        return question.steps[number]
