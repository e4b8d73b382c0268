"""The life of jobs: what may happen to them, each step one transaction that leaves a state to restart from.

What holders do to them is in `answers`.
"""

from collections.abc import Callable

import structlog

from ceiba_coordinator.agreements import Agreements
from ceiba_coordinator.answers import Answers
from ceiba_coordinator.bells import EVERYBODY, Notify
from ceiba_coordinator.joint import is_joint
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store
from ceiba_coordinator.store.jobs import Seat, StoredJob
from ceiba_protocol.errors import (
    CeibaError,
    JobConflict,
    MalformedMessage,
    NotYetDone,
    NumberUsed,
    UnknownJob,
)
from ceiba_protocol.job import Event, State
from ceiba_protocol.rounds import (
    read_manifest,
)
from ceiba_protocol.trust.agreement import check_parties
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import JobStatus

log = structlog.get_logger()


class Jobs(Answers):
    """The jobs of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self,
        store: Store,
        membership: Membership,
        agreements: Agreements,
        log: Log,
        clock: Callable[[], int],
        notify: Notify = lambda names: None,
    ) -> None:
        """`clock` gives seconds since 1970 UTC. `notify` is told whom a change concerns: job ids and holders' names."""
        super().__init__(store, membership, agreements, log, clock, notify)
        membership.when_in_force = self._end_broken

    # --- what merchants do

    def submit(self, signed: Signed, merchant: str) -> bytes:
        """Store a job; its id. The same bytes again change nothing.

        Raises MalformedMessage, JobConflict, UnknownAgreement, AgreementNotActive, NumberUsed, and what
        `read_manifest` does, or `read_joint_manifest`.
        """
        if is_joint(signed):
            return self.submit_joint(signed, merchant)
        manifest = self._membership.roster().open(signed, Manifest, Role.MERCHANT)
        if not manifest.merchant == signed.signer == merchant:
            raise MalformedMessage(message="SubmitRequest", problem="the manifest is another merchant's")
        job_id = bytes.fromhex(manifest.job_id)
        stored = self._store.job(job_id)
        if stored is not None and stored.manifest != signed:
            raise JobConflict(job=manifest.job_id)
        if stored is None:
            self._add(job_id, signed, manifest)
        return job_id

    def _add(self, job_id: bytes, signed: Signed, manifest: Manifest) -> None:
        agreement = self._agreements.require_active(manifest.agreement_digest, manifest.merchant)
        schema = self._membership.schema(manifest.plan.table)
        question = read_manifest(signed, agreement, self._membership.roster(), schema, self._clock())
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
        self._questions[job_id] = question
        self._notify(question.holders)
        log.info("job.submitted", job=job_id.hex(), merchant=job.merchant, table=question.program.table)

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
            shared=[seat.holder for seat in seats if seat.share],
            submitted=[seat.holder for seat in seats if seat.submission],
            iterations=job.iteration,
            messages=len(self._store.joint_messages(job_id)),
            messages_in_all=len(self._joint(job).steps) if is_joint(job.manifest) else 0,
            online=sorted(online.intersection(holders)),
            refusal=job.refusal,
            deadline=job.deadline,
            left=[seat.holder for seat in seats if seat.abort],
            pending=[seat.holder for seat in seats if seat.pending and job.state is State.WAITING_FOR_APPROVALS],
            ended_because=job.ended_because,
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

    # --- what time and rosters do

    def expire(self) -> list[bytes]:
        """End the jobs whose window is over; their ids."""
        now = self._clock()
        overdue = [job for job in self._store.open_jobs() if job.deadline < now]
        for job in overdue:
            self._move(job, Event.DEADLINE)
        return [job.job_id for job in overdue]

    def _end_broken(self) -> None:
        """Run when a roster comes into force: end the jobs that one of its changes makes impossible to answer."""
        self._questions.clear()
        self._joint_questions.clear()
        roster = self._membership.roster()
        for job in self._store.open_jobs():
            try:
                check_parties(self._agreements.contract(job.agreement_digest).agreement, roster)
            except CeibaError as error:
                self._move(job, Event.REVOCATION, ended_because=error.code)
        self._notify([EVERYBODY])
