"""What every kind of job has: where it is stored, who sits in it, and the one place where its state changes."""

from collections.abc import Callable

import structlog

from ceiba_coordinator.agreements import Agreements
from ceiba_coordinator.bells import Notify
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store
from ceiba_coordinator.store.jobs import Seat, StoredJob
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import IllegalTransition, SecondPayload, UnknownJob
from ceiba_protocol.job import ENDED, Event, State, advance
from ceiba_protocol.linkage.joint import JointManifest, JointQuestion, steps_of
from ceiba_protocol.rounds import Question
from ceiba_protocol.trust.log import Release
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()


class JobStates:
    """The base of everything that answers about jobs. Not thread-safe: the server calls it from one thread."""

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
        self._store = store
        self._membership = membership
        self._agreements = agreements
        self._log = log
        self._clock = clock
        self._notify = notify
        self._questions: dict[bytes, Question] = {}
        self._joint_questions: dict[bytes, JointQuestion] = {}

    def _seat(self, job_id: bytes, holder: str) -> tuple[StoredJob, Seat]:
        job = self._store.job(job_id)
        seats = self._store.seats(job_id)
        for seat in seats:
            if job is not None and seat.holder == holder:
                return job, seat
        raise UnknownJob(job=job_id.hex())

    def _move(self, job: StoredJob, event: Event, **columns: object) -> None:
        """Raises IllegalTransition."""
        state = advance(job.job_id.hex(), job.state, event)
        self._store.set_state(job.job_id, state, **columns)
        self._notify([job.job_id.hex(), *(seat.holder for seat in self._store.seats(job.job_id))])
        log.info("job.moved", job=job.job_id.hex(), state=state, because=event)
        if state in ENDED:
            self._questions.pop(job.job_id, None)
            self._store.forget_fit(job.job_id)
            self._joint_questions.pop(job.job_id, None)
            if job.manifest.type == type_of(JointManifest):
                self._forget_payloads(job, state)

    def _forget_payloads(self, job: StoredJob, state: State) -> None:
        """Of a joint job only what its merchant may still ask for is kept. What its messages were follows from its
        manifest, also after a restart."""
        manifest = JointManifest.parse(job.manifest.body)
        kept = manifest.merchant if state is State.DONE else None
        steps = steps_of(manifest.plan, manifest.merchant)
        self._store.forget_joint_payloads(job.job_id, [step.number for step in steps if step.receiver != kept])

    def _hand_out(
        self, job: StoredJob, manifest_digest: Digest, total_digest: Digest, event: Event, total: bytes = b""
    ) -> None:
        """The job's answer is there: store it, and sign and log that it is handed out."""
        release = self._log.sign(
            Release(
                job_id=job.job_id.hex(),
                manifest_digest=manifest_digest,
                agreement_digest=Digest(job.agreement_digest),
                attempt=job.attempt,
                total_digest=total_digest,
                at=self._clock(),
            )
        )
        index = self._log.append(release)
        self._log.checkpoint()
        self._move(job, event, total=total, release=release.SerializeToString(), release_index=index)


def require(job: StoredJob, state: State, attempt: int, what: str, before: Signed | None) -> None:
    """An answer that is not a repetition comes at its time. Raises SecondPayload, IllegalTransition."""
    if attempt != job.attempt:
        event = f"{what} for attempt {attempt}"
        raise IllegalTransition(job=job.job_id.hex(), state=f"{job.state}, attempt {job.attempt}", event=event)
    if before is not None:
        raise SecondPayload(job=job.job_id.hex())
    if job.state is not state:
        raise IllegalTransition(job=job.job_id.hex(), state=job.state, event=what)
