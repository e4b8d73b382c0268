"""One job, from its manifest to its answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ceiba.query import Query
from ceiba.receipts import Receipt
from ceiba.released import Released
from ceiba.result import Result
from ceiba.submitted import SubmittedJob
from ceiba_protocol.errors import MalformedMessage, MessageTooLarge
from ceiba_protocol.rounds import Opened, Question, open_result, read_manifest
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import GateShare, Manifest
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import ResultPart

if TYPE_CHECKING:
    from ceiba.space import Space


class Job(SubmittedJob[Result]):
    """A question that has been asked. `wait` gives the answer, however long ago it was asked; in another process than
    the one that asked, `space.job(id)` takes it up again."""

    def __init__(self, space: Space, query: Query, signed: Signed, agreement: Agreement, started: float) -> None:
        """`started`: when it was asked, in seconds since 1970."""
        # The window was checked when it was asked; who takes it up later may read what was answered in time.
        now = Manifest.parse(signed.body).not_before
        self._question = read_manifest(signed, agreement, space.roster, query.schema, now)
        super().__init__(space, self._question, signed, agreement, started)
        self.query = query
        self.remarks: tuple[str, ...] = ()
        """What its result says beside what follows from the question."""

    @property
    def manifest(self) -> Manifest:
        """What the holders are asked."""
        return self._question.manifest

    # --- the answer

    def _answer(self) -> Result:
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
