"""One job, from its manifest to its answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc

from ceiba.progress import Progress, Report, in_words, show_nothing, unanswered
from ceiba.query import Query
from ceiba.receipts import Receipt
from ceiba.released import Released
from ceiba.result import Result
from ceiba_protocol.errors import (
    CeibaError,
    Fault,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobRefused,
    MalformedMessage,
    MessageTooLarge,
    NotReachable,
    error_from,
)
from ceiba_protocol.job import ENDED, State
from ceiba_protocol.rounds import CLOCK_TOLERANCE, Opened, Question, open_result, read_manifest
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import GateShare, Manifest, Refusal
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import JobReference, JobStatus, ResultPart, SubmitRequest
from ceiba_protocol.v1.jobs_pb2_grpc import JobsStub
from ceiba_protocol.wire import from_rpc_error

if TYPE_CHECKING:
    from ceiba.space import Space

CALL_SECONDS = 30.0
RETRY_SECONDS = 0.2
"""Between tries while the coordinator is away; the job itself is safe in its database."""


class Job:
    """A question that has been asked. `wait` gives the answer, however long ago it was asked; in another process than
    the one that asked, `space.job(id)` takes it up again."""

    def __init__(
        self, space: Space, jobs: JobsStub, query: Query, signed: Signed, agreement: Agreement, started: float
    ) -> None:
        """`started`: when it was asked, in seconds since 1970."""
        self._space = space
        self._jobs = jobs
        self.query = query
        self._signed = signed
        self._started = started
        self.agreement = agreement
        self.remarks: tuple[str, ...] = ()
        """What its result says beside what follows from the question."""
        # The window was checked when it was asked; who takes it up later may read what was answered in time.
        now = Manifest.parse(signed.body).not_before
        self._question = read_manifest(signed, agreement, space.roster, query.schema, now)
        self._reference = JobReference(job_id=bytes.fromhex(self.id))

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self._question.manifest.job_id

    @property
    def manifest(self) -> Manifest:
        """What the holders are asked."""
        return self._question.manifest

    def __repr__(self) -> str:
        return f"Job({self.id})"

    def send(self) -> None:
        """Submit the manifest; the coordinator may restart meanwhile, because the same bytes are the same job."""
        for attempt in self._tries():
            with attempt:
                self._jobs.Submit(SubmitRequest(manifest=self._signed), timeout=CALL_SECONDS)

    def status(self) -> JobStatus:
        """The job's state now, who has answered, and how many rounds of a fit are complete (`iterations`)."""
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

    def wait(self, progress: Progress = show_nothing, *, cancels: bool = True) -> Result:
        """The answer, once all holders have given their part and every check has passed.

        Ctrl-C cancels the job, unless `cancels` is False: then it goes on, and `space.job(id)` takes it up again.

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
        answer = self._fetch()
        opened = self._open(answer)
        result = self.query.result(
            Released(opened.sums, opened.sent, self._question.manifest.noise, opened.variances),
            job_id=self.id,
            holders=tuple(opened.holders),
            clipped=opened.clipped,
            wire_bytes=answer.wire_bytes,
            seconds=max(0.0, time.time() - self._started),
            receipt=Receipt(self._space, self._signed, hashlib.sha256(answer.total).hexdigest()),
        )
        return replace(result, remarks=(*result.remarks, *self.remarks))

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

    def _tries(self) -> Iterator[_Attempt]:
        """Attempts until one succeeds, or fails for a reason that waiting does not cure, or the job is over."""
        while True:
            attempt = _Attempt(self._space.address)
            yield attempt
            if attempt.error is None:
                return
            if time.time() > self._question.manifest.not_after + CLOCK_TOLERANCE:
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
        refusal = self._space.roster.open(status.refusal, Refusal, Role.HOLDER)
        if (refusal.job_id, refusal.manifest_digest, refusal.holder) != (
            self.id,
            self._question.digest,
            status.refusal.signer,
        ):
            return MalformedMessage(message="JobStatus", problem="its refusal is for another job")
        reason = error_from(refusal.code, dict(refusal.fields))
        kind = JobFailed if reason.fault is Fault.US else JobRefused
        ended = kind(job=self.id, holder=refusal.holder, reason=reason.public, remedy=reason.what_to_do)
        ended.reason = reason
        return ended

    # --- the answer

    def _fetch(self) -> Answer:
        """What the coordinator has of the answer, its sizes checked and nothing else yet."""
        answer = Answer()
        for attempt in self._tries():
            with attempt:
                answer = _collect(self._jobs.Result(self._reference), self._question)
        return answer

    def _open(self, answer: Answer) -> Opened:
        """The released totals, after every check of `open_result`."""
        assert self._space.identity.encryption is not None
        submissions = [(signed, bytes(ciphertexts)) for signed, ciphertexts in answer.submissions]
        private_key = self._space.identity.encryption.keypair[1]
        return open_result(
            self._question,
            answer.approvals,
            submissions,
            bytes(answer.total),
            private_key,
            answer.aborts,
            answer.shares,
        )


@dataclass
class Answer:
    """What the merchant receives for a job that is done."""

    approvals: list[Signed] = field(default_factory=list)
    aborts: list[Signed] = field(default_factory=list)
    shares: list[Signed] = field(default_factory=list)
    """Of the gate, without their words."""
    submissions: list[tuple[Signed, bytearray]] = field(default_factory=list)
    total: bytearray = field(default_factory=bytearray)

    @property
    def wire_bytes(self) -> int:
        """What the holders sent: approvals, abort tokens, shares of the gate, submissions and ciphertexts."""
        documents = [*self.approvals, *self.aborts, *self.shares, *(signed for signed, _ in self.submissions)]
        words = sum(8 * GateShare.parse(signed.body).words for signed in self.shares)
        return sum(signed.ByteSize() for signed in documents) + words + sum(len(blob) for _, blob in self.submissions)


class _Attempt:
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


def _collect(parts: Iterable[ResultPart], question: Question) -> Answer:
    """The parts of an answer. Raises MessageTooLarge, MalformedMessage."""
    answer = Answer()
    limit = question.layout.ciphertexts * ciphertext_bytes(question.modulus)
    for part in parts:
        match part.WhichOneof("part"):
            case "approval":
                answer.approvals.append(part.approval)
            case "abort" if not answer.submissions:
                answer.aborts.append(part.abort)
            case "gate_share" if not answer.submissions:
                answer.shares.append(part.gate_share)
            case "submission":
                answer.submissions.append((part.submission, bytearray()))
            case "ciphertexts" if answer.submissions:
                answer.submissions[-1][1].extend(part.ciphertexts)
            case "total":
                answer.total += part.total
            case _:
                raise MalformedMessage(message="ResultPart", problem="it is out of order")
        largest = max((len(answer.total), *(len(blob) for _, blob in answer.submissions)))
        documents = max(len(answer.approvals) + len(answer.aborts), len(answer.shares), len(answer.submissions))
        if largest > limit or documents > len(question.holders):
            raise MessageTooLarge(message="Result", limit=limit)
    return answer
