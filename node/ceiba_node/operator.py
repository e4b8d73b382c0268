"""The coordinator's services that a node calls unasked: its log, and what takes people's signatures."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc

from ceiba_protocol.disclosure.gate import LANES, MAX_HOLDERS, MAX_TESTS
from ceiba_protocol.errors import MessageTooLarge
from ceiba_protocol.fit_rounds import MOST_BYTES
from ceiba_protocol.linkage.joint import MOST_PAYLOAD
from ceiba_protocol.v1.agreements_pb2 import SubmitAgreementRequest
from ceiba_protocol.v1.agreements_pb2_grpc import AgreementsStub
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import ApproveRosterRequest
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub
from ceiba_protocol.v1.log_pb2 import CosignRequest, EntriesRequest, GetCheckpointRequest
from ceiba_protocol.v1.log_pb2_grpc import LogStub
from ceiba_protocol.v1.work_pb2 import FitSharesRequest, ReceivedRequest, SharePart, SharesRequest
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import from_rpc_error

CALL_SECONDS = 120.0


class Operator:
    """Every method raises NotReachable, or the error that the coordinator answers with. Safe for several threads."""

    def __init__(self, channel: grpc.Channel, target: str) -> None:
        self._target = target
        self._log = LogStub(channel)
        self._agreements = AgreementsStub(channel)
        self._directory = DirectoryStub(channel)
        self._work = WorkStub(channel)

    def newest(self) -> Signed | None:
        """The newest checkpoint, if there is one."""
        with self._translated():
            checkpoint = self._log.GetCheckpoint(GetCheckpointRequest(), timeout=CALL_SECONDS).checkpoint
        return checkpoint if checkpoint.type else None

    def entries(self, first: int, end: int) -> Iterator[bytes]:
        """Entries [first, end), in order."""
        with self._translated():
            for part in self._log.Entries(EntriesRequest(first=first, end=end), timeout=CALL_SECONDS):
                yield from part.entries

    def cosign(self, cosignature: Signed) -> None:
        """Hand in this holder's signature on a checkpoint."""
        with self._translated():
            self._log.Cosign(CosignRequest(cosignature=cosignature), timeout=CALL_SECONDS)

    def upload(self, signed: Signed) -> None:
        """Hand in an agreement's signature, a notice, or a roster's approval."""
        with self._translated():
            if signed.type == "ceiba.v1.RosterApproval":
                self._directory.ApproveRoster(ApproveRosterRequest(approval=signed), timeout=CALL_SECONDS)
            else:
                self._agreements.Submit(SubmitAgreementRequest(document=signed), timeout=CALL_SECONDS)

    def shares(self, job_id: bytes) -> list[tuple[Signed, bytes]]:
        """What every holder of a job has sent to its gate: the document and its words."""
        with self._translated():
            parts = self._work.Shares(SharesRequest(job_id=job_id), timeout=CALL_SECONDS)
            return _collected(parts, 8 * LANES * MAX_TESTS)

    def fit_shares(self, job_id: bytes, iteration: int) -> list[tuple[Signed, bytes]]:
        """What every holder of a job has sent to a round of its fit: the document and its words."""
        request = FitSharesRequest(job_id=job_id, iteration=iteration)
        with self._translated():
            return _collected(self._work.FitShares(request, timeout=CALL_SECONDS), MOST_BYTES)

    def received(self, job_id: bytes, step: int) -> tuple[Signed, bytes]:
        """A message of a joint job to this holder, and its sealed payload."""
        signed, payload = Signed(), bytearray()
        with self._translated():
            for part in self._work.Received(ReceivedRequest(job_id=job_id, step=step), timeout=CALL_SECONDS):
                if part.WhichOneof("part") == "message":
                    signed = part.message
                payload += part.payload
                if len(payload) > MOST_PAYLOAD:
                    raise MessageTooLarge(message="Received", limit=MOST_PAYLOAD)
        return signed, bytes(payload)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None


def _collected(parts: Iterable[SharePart], limit: int) -> list[tuple[Signed, bytes]]:
    """Documents, each with its words. Raises MessageTooLarge."""
    found: list[tuple[Signed, bytearray]] = []
    for part in parts:
        if part.WhichOneof("part") == "share":
            found.append((part.share, bytearray()))
        elif found:
            found[-1][1].extend(part.words)
        if len(found) > MAX_HOLDERS or (found and len(found[-1][1]) > limit):
            raise MessageTooLarge(message="Shares", limit=limit)
    return [(signed, bytes(words)) for signed, words in found]
