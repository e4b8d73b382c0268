"""What every kind of job that was asked has in common: waiting, cancelling, and why it ended without an answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from ceiba.progress import Progress, Report, in_words, show_nothing, unanswered
from ceiba_protocol.errors import (
    CeibaError,
    Fault,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobRefused,
    MalformedMessage,
    NotReachable,
    error_from,
)
from ceiba_protocol.job import ENDED, State
from ceiba_protocol.rounds import CLOCK_TOLERANCE, Question
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.log import open_operators
from ceiba_protocol.trust.roster import OPERATOR, Role
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import JobReference, JobStatus, SubmitRequest
from ceiba_protocol.v1.jobs_pb2_grpc import JobsStub
from ceiba_protocol.wire import from_rpc_error

if TYPE_CHECKING:
    from ceiba.space import Space
    from ceiba_protocol.linkage.joint import JointQuestion

CALL_SECONDS = 30.0
RETRY_SECONDS = 0.2
"""Between tries while the coordinator is away; the job itself is safe in its database."""

Outcome = TypeVar("Outcome")


class SubmittedJob(ABC, Generic[Outcome]):
    """A question that has been asked. `wait` gives the answer, however long ago it was asked."""

    def __init__(
        self, space: Space, question: Question | JointQuestion, signed: Signed, agreement: Agreement, started: float
    ) -> None:
        """`question`: what the signed manifest says. `started`: when it was asked, in seconds since 1970."""
        self._space = space
        self._jobs = JobsStub(space.channel)
        self._asked = question
        self._signed = signed
        self._started = started
        self.agreement = agreement
        self._reference = JobReference(job_id=bytes.fromhex(self.id))

    @abstractmethod
    def _answer(self) -> Outcome:
        """What the holders have answered, every check passed. For a job that is done."""

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self._asked.manifest.job_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id})"

    def send(self) -> None:
        """Submit the manifest; the coordinator may restart meanwhile, because the same bytes are the same job."""
        for attempt in self._tries():
            with attempt:
                self._jobs.Submit(SubmitRequest(manifest=self._signed), timeout=CALL_SECONDS)

    def status(self) -> JobStatus:
        """The job's state now, who has answered, how many rounds of a fit are complete (`iterations`) and how many of a
        join's messages are stored (`messages`)."""
        watching = self._jobs.Watch(self._reference, timeout=CALL_SECONDS)
        try:
            return next(watching)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None
        finally:
            watching.cancel()

    def progress(self) -> str:
        """What the job is doing now, in words, and whom it waits for: `round 4 of the fit among 3 holders`."""
        status = self.status()
        return status.state if status.state in ENDED else in_words(status)

    def cancel(self) -> None:
        """End the job; holders forget it, and this folder as well."""
        try:
            self._jobs.Cancel(self._reference, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None
        self._space.home.forget_job(self.id)

    def wait(self, progress: Progress = show_nothing, *, cancels: bool = True) -> Outcome:
        """The answer, once all holders have given their part and every check has passed.

        Ctrl-C cancels the job, unless `cancels` is False: then it goes on, and can be waited for again.

        Raises JobRefused and JobFailed, whose `reason` is the holder's error, JobExpired, JobCancelled, and
        TotalRejected if a check fails.
        """
        with progress() as report:
            try:
                status = self._watch(report)
            except KeyboardInterrupt:
                if cancels:
                    self.abandon()
                raise
        if status.state != State.DONE:
            raise self._why(status)
        return self._answer()

    def abandon(self) -> None:
        """Cancel it for somebody who interrupts and wants out: it may have ended meanwhile."""
        with suppress(CeibaError):
            self.cancel()

    # --- waiting

    def _watch(self, report: Report) -> JobStatus:
        """The job's last status. A coordinator that is away is waited for until the job's deadline."""
        status = JobStatus()
        for attempt in self._tries():
            with attempt:
                for status in self._jobs.Watch(self._reference):
                    report(status)
        if status.state not in ENDED:
            raise NotReachable(target=self._space.address, problem="the connection ended early")
        return status

    def _tries(self) -> Iterator[Attempt]:
        """Attempts until one succeeds, or fails for a reason that waiting does not cure, or the job is over."""
        while True:
            attempt = Attempt(self._space.address)
            yield attempt
            if attempt.error is None:
                return
            if time.time() > self._asked.manifest.not_after + CLOCK_TOLERANCE:
                raise attempt.error
            time.sleep(RETRY_SECONDS)

    def _why(self, status: JobStatus) -> CeibaError:
        """Why a job ended without a result; a refusal's signature is checked before its reason is believed."""
        if status.state == State.EXPIRED:
            return JobExpired(job=self.id, holders=", ".join(unanswered(status)))
        if status.state == State.CANCELLED:
            return JobCancelled(job=self.id)
        if not status.HasField("refusal"):
            because = f"it says {status.ended_because or 'nothing'}, and no holder has refused."
            remedy = "Ask again; if it repeats, ask the operator what the coordinator's log says of the job."
            return JobFailed(job=self.id, holder="the coordinator", reason=because, remedy=remedy)
        refusal = self._opened(status.refusal)
        if (refusal.job_id, refusal.manifest_digest, refusal.holder) != (
            self.id,
            self._asked.digest,
            status.refusal.signer,
        ):
            return MalformedMessage(message="JobStatus", problem="its refusal is for another job")
        reason = error_from(refusal.code, dict(refusal.fields))
        kind = JobFailed if reason.fault is Fault.US else JobRefused
        ended = kind(job=self.id, holder=refusal.holder, reason=reason.public, remedy=reason.what_to_do)
        ended.reason = reason
        return ended

    def _opened(self, signed: Signed) -> Refusal:
        """A holder's; or the operator's, where tokens that it was sent do not fit."""
        if signed.signer == OPERATOR:
            return open_operators(signed, Refusal, self._space.roster)
        return self._space.roster.open(signed, Refusal, Role.HOLDER)


class Attempt:
    """One try of a call: an unreachable coordinator is noted, any other error is raised."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.error: NotReachable | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, raised: BaseException | None, _at: object) -> bool:
        if not isinstance(raised, grpc.RpcError):
            return False
        error = from_rpc_error(raised, self._target)
        if not isinstance(error, NotReachable):
            raise error from None
        self.error = error
        return True
