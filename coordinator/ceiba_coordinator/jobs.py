"""The life of jobs: what may happen to them, each step one transaction that leaves a state to restart from.

A task is not stored: it is a seat whose answer is missing in a job that waits for it, so a restart forgets nothing.
"""

from collections.abc import Callable, Iterable

import structlog

from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Seat, Store, StoredJob
from ceiba_protocol.errors import (
    IllegalTransition,
    JobConflict,
    MalformedMessage,
    NotYetDone,
    SecondPayload,
    UnknownJob,
)
from ceiba_protocol.job import ENDED, Event, State, advance
from ceiba_protocol.rounds import Question, check_approval, check_submission, read_manifest
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.sums.secure_sum import coordinator_multiply
from ceiba_protocol.trust.documents import Approval, Manifest, Refusal
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import JobStatus
from ceiba_protocol.v1.work_pb2 import ApproveTask, ContributeTask, Task

log = structlog.get_logger()

Notify = Callable[[Iterable[str]], None]


class Jobs:
    """The jobs of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self, store: Store, membership: Membership, clock: Callable[[], int], notify: Notify = lambda names: None
    ) -> None:
        """`clock` gives seconds since 1970 UTC. `notify` is told whom a change concerns: job ids and holders' names."""
        self._store = store
        self._membership = membership
        self._clock = clock
        self._notify = notify
        self._questions: dict[bytes, Question] = {}

    # --- what merchants do

    def submit(self, signed: Signed, merchant: str) -> bytes:
        """Store a job; its id. The same bytes again change nothing.

        Raises MalformedMessage, JobConflict, and what `read_manifest` does.
        """
        question = self._read(signed, self._clock())
        if question.manifest.merchant != merchant:
            raise MalformedMessage(message="SubmitRequest", problem="the manifest is another merchant's")
        job_id = bytes.fromhex(question.manifest.job_id)
        stored = self._store.job(job_id)
        if stored is not None and stored.manifest != signed:
            raise JobConflict(job=question.manifest.job_id)
        if stored is None:
            deadline = question.manifest.not_after
            job = StoredJob(job_id, merchant, signed, State.WAITING_FOR_APPROVALS, deadline, None)
            self._store.add_job(job, question.holders)
            self._questions[job_id] = question
            self._notify(question.holders)
            log.info("job.submitted", job=job_id.hex(), merchant=merchant, table=question.program.table)
        return job_id

    def status(self, job_id: bytes, merchant: str, online: set[str]) -> JobStatus:
        """Raises UnknownJob also for another merchant's job."""
        job = self._job_of(job_id, merchant)
        seats = self._store.seats(job_id)
        holders = [seat.holder for seat in seats]
        return JobStatus(
            job_id=job_id,
            state=job.state,
            holders=holders,
            approved=[seat.holder for seat in seats if seat.approval],
            submitted=[seat.holder for seat in seats if seat.submission],
            online=sorted(online.intersection(holders)),
            refusal=job.refusal,
            deadline=job.deadline,
        )

    def cancel(self, job_id: bytes, merchant: str) -> None:
        """Raises UnknownJob, IllegalTransition if it has ended."""
        job = self._job_of(job_id, merchant)
        self._move(job, Event.CANCELLATION)

    def result(self, job_id: bytes, merchant: str) -> tuple[list[Seat], bytes]:
        """The seats and the total; `ciphertexts` has the rest. Raises UnknownJob, NotYetDone."""
        job = self._job_of(job_id, merchant)
        if job.state is not State.DONE:
            raise NotYetDone(job=job_id.hex(), state=job.state)
        return self._store.seats(job_id), self._store.total(job_id)

    def ciphertexts(self, job_id: bytes, holder: str) -> bytes:
        """What one holder has sent: one at a time, because all of them together are many megabytes."""
        return self._store.ciphertexts(job_id, holder)[holder]

    def _job_of(self, job_id: bytes, merchant: str) -> StoredJob:
        job = self._store.job(job_id)
        if job is None or job.merchant != merchant:
            raise UnknownJob(job=job_id.hex())
        return job

    # --- what holders do

    def tasks(self, holder: str) -> list[Task]:
        """Everything that waits for this holder."""
        tasks = []
        for job in self._store.open_jobs():
            seats = self._store.seats(job.job_id)
            seat = next((seat for seat in seats if seat.holder == holder), None)
            if seat is None:
                continue
            if job.state is State.WAITING_FOR_APPROVALS and seat.approval is None:
                tasks.append(Task(job_id=job.job_id, approve=ApproveTask(manifest=job.manifest)))
            if job.state is State.WAITING_FOR_SUBMISSIONS and seat.submission is None:
                approvals = [one.approval for one in seats if one.approval]
                tasks.append(Task(job_id=job.job_id, contribute=ContributeTask(approvals=approvals)))
        return tasks

    def ended(self, job_ids: Iterable[bytes]) -> list[bytes]:
        """Those of the jobs that have ended."""
        still_open = {job.job_id for job in self._store.open_jobs()}
        return [job_id for job_id in job_ids if job_id not in still_open]

    def approve(self, signed: Signed, holder: str) -> None:
        """Store an approval; with the last one the set is fixed. A repetition changes nothing.

        Raises UnknownJob, MalformedMessage, BadSignature, SecondPayload, IllegalTransition.
        """
        approval = self._membership.roster().open(signed, Approval, Role.HOLDER)
        job, seat = self._seat(bytes.fromhex(approval.job_id), holder)
        if signed.signer != holder:
            raise MalformedMessage(message="Approval", problem="it is another holder's")
        check_approval(self._question(job), holder, approval)
        if seat.approval is not None:
            _require_repetition(job, seat.approval == signed)
            return
        with self._store.transaction():
            _require_state(job, State.WAITING_FOR_APPROVALS, "an approval")
            self._store.fill_seat(job.job_id, holder, approval=signed.SerializeToString())
            if all(one.approval for one in self._store.seats(job.job_id)):
                self._move(job, Event.LAST_APPROVAL)
        self._notify([job.job_id.hex()])

    def refuse(self, signed: Signed, holder: str) -> None:
        """End a job because a holder says no, or cannot go on. A refusal of a job that has ended changes nothing.

        Raises UnknownJob, MalformedMessage, BadSignature.
        """
        refusal = self._membership.roster().open(signed, Refusal, Role.HOLDER)
        job, _ = self._seat(bytes.fromhex(refusal.job_id), holder)
        if refusal.holder != holder or refusal.manifest_digest != self._question(job).digest:
            raise MalformedMessage(message="Refusal", problem="it is for another manifest or in another's name")
        if job.state not in ENDED:
            log.warning("job.refused_by", job=refusal.job_id, holder=holder, code=refusal.code)
            self._move(job, Event.REFUSAL, refusal=signed.SerializeToString())

    def expected_bytes(self, job_id: bytes) -> int:
        """How many bytes of ciphertexts a submission to this job has. Raises UnknownJob."""
        job = self._store.job(job_id)
        if job is None:
            raise UnknownJob(job=job_id.hex())
        question = self._question(job)
        return question.layout.ciphertexts * ciphertext_bytes(question.modulus)

    def contribute(self, signed: Signed, ciphertexts: bytes, job_id: bytes, holder: str) -> None:
        """Store a submission; with the last one, the product. A repetition changes nothing.

        Raises UnknownJob, BadSignature, MalformedMessage, BadCiphertext, SecondPayload, IllegalTransition.
        """
        job, seat = self._seat(job_id, holder)
        question = self._question(job)
        if check_submission(signed, ciphertexts, question) != holder:
            raise MalformedMessage(message="Submission", problem="it is in another holder's name")
        if seat.submission is not None:
            _require_repetition(job, seat.submission == signed)
            return
        coordinator_multiply({holder: ciphertexts}, question.layout, question.modulus)
        with self._store.transaction():
            _require_state(job, State.WAITING_FOR_SUBMISSIONS, "a submission")
            self._store.fill_seat(job_id, holder, submission=signed.SerializeToString(), ciphertexts=ciphertexts)
            contributions = self._store.ciphertexts(job_id)
            if sorted(contributions) == question.holders:
                total = coordinator_multiply(contributions, question.layout, question.modulus)
                self._move(job, Event.LAST_SUBMISSION, total=total)
        self._notify([job_id.hex()])

    def _seat(self, job_id: bytes, holder: str) -> tuple[StoredJob, Seat]:
        job = self._store.job(job_id)
        seats = self._store.seats(job_id)
        for seat in seats:
            if job is not None and seat.holder == holder:
                return job, seat
        raise UnknownJob(job=job_id.hex())

    # --- what time does

    def expire(self) -> list[bytes]:
        """End the jobs whose window is over; their ids."""
        now = self._clock()
        overdue = [job for job in self._store.open_jobs() if job.deadline < now]
        for job in overdue:
            self._move(job, Event.DEADLINE)
        return [job.job_id for job in overdue]

    def _move(self, job: StoredJob, event: Event, **columns: bytes) -> None:
        """The one place where a job's state changes. Raises IllegalTransition."""
        state = advance(job.job_id.hex(), job.state, event)
        self._store.set_state(job.job_id, state, **columns)
        self._notify([job.job_id.hex(), *(seat.holder for seat in self._store.seats(job.job_id))])
        log.info("job.moved", job=job.job_id.hex(), state=state, because=event)
        if state in ENDED:
            self._questions.pop(job.job_id, None)

    # --- reading manifests

    def _question(self, job: StoredJob) -> Question:
        """What a stored job asks. Its window was checked when it was submitted."""
        if job.job_id not in self._questions:
            self._questions[job.job_id] = self._read(job.manifest, None)
        return self._questions[job.job_id]

    def _read(self, signed: Signed, now: int | None) -> Question:
        roster = self._membership.roster()
        manifest = roster.open(signed, Manifest, Role.MERCHANT)
        schema = self._membership.schema(manifest.plan.table)
        return read_manifest(signed, roster, schema, manifest.not_before if now is None else now)


def _require_repetition(job: StoredJob, same: bool) -> None:
    if not same:
        raise SecondPayload(job=job.job_id.hex())


def _require_state(job: StoredJob, state: State, event: str) -> None:
    if job.state is not state:
        raise IllegalTransition(job=job.job_id.hex(), state=job.state, event=event)
