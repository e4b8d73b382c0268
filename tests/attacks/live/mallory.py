"""An operator who attacks: it listens where the coordinator did, with the coordinator's CA and log key, and says to
each holder whatever a script tells it to.

It keeps a log of its own, which begins with the real one, and may show different holders different ones.
"""

import json
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from ceiba_protocol.canonical import Digest
from ceiba_protocol.trust.certificates import KeyAndCertificate, issue_server, read_member_certificate
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.log import Checkpoint, entry_of
from ceiba_protocol.trust.merkle import consistency_proof, leaf_hash, root_of
from ceiba_protocol.trust.roster import OPERATOR
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1 import agreements_pb2, catalogue_pb2, enrolment_pb2, log_pb2, work_pb2
from ceiba_protocol.v1.agreements_pb2_grpc import AgreementsServicer, add_AgreementsServicer_to_server
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueServicer, add_CatalogueServicer_to_server
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryServicer, add_DirectoryServicer_to_server
from ceiba_protocol.v1.log_pb2_grpc import LogServicer, add_LogServicer_to_server
from ceiba_protocol.v1.work_pb2_grpc import WorkServicer, add_WorkServicer_to_server
from ceiba_protocol.wire import chunks
from tests.support.clock import seconds_now, utc_now

ANSWER_SECONDS = 60.0
"""How long a script waits for a holder: far more than it takes, and the end of a script that waits in vain."""


@dataclass
class Reply:
    """What a holder answered to one task."""

    parts: list[work_pb2.WorkPart] = field(default_factory=list)

    def _first(self, kind: str) -> Any:
        return next((getattr(part, kind) for part in self.parts if part.WhichOneof("part") == kind), None)

    @property
    def approval(self) -> Signed | None:
        return self._first("approval")

    @property
    def refusal(self) -> Signed | None:
        return self._first("refusal")

    @property
    def submission(self) -> Signed | None:
        return self._first("submission")

    @property
    def abort(self) -> Signed | None:
        return self._first("abort")

    @property
    def gate_share(self) -> Signed | None:
        return self._first("gate_share")

    @property
    def ciphertexts(self) -> bytes:
        return b"".join(part.ciphertexts for part in self.parts if part.WhichOneof("part") == "ciphertexts")

    @property
    def words(self) -> bytes:
        """Of a share of the gate."""
        return b"".join(part.words for part in self.parts if part.WhichOneof("part") == "words")


class Papers(AgreementsServicer):
    """What holders' officers have sent about agreements."""

    def __init__(self) -> None:
        self.documents: list[Signed] = []

    def Submit(self, request: agreements_pb2.SubmitAgreementRequest, context: grpc.ServicerContext) -> Any:
        self.documents.append(request.document)
        return agreements_pb2.AgreementEvidence()

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        return agreements_pb2.ListAgreementsResponse()


class Mallory(WorkServicer, CatalogueServicer, DirectoryServicer, LogServicer):
    """Everything that holders send is kept; what they ask for is what the script has set."""

    def __init__(self, address: str, authority: KeyAndCertificate, log_key: SigningKey, space: str) -> None:
        self.authority, self.log_key, self.space = authority, log_key, space
        self.tasks: dict[str, queue.SimpleQueue[work_pb2.Task | None]] = defaultdict(queue.SimpleQueue)
        self.replies: dict[tuple[str, bytes], queue.SimpleQueue[Reply]] = defaultdict(queue.SimpleQueue)
        self.offers: dict[tuple[str, str], catalogue_pb2.AnnounceRequest] = {}
        self.rosters: dict[str, bytes] = {}
        """The digest of the roster that each holder has pinned, as of its last call."""
        self.pulled: dict[str, queue.SimpleQueue[bytes]] = defaultdict(queue.SimpleQueue)
        self.log: list[bytes] = []
        self.logs: dict[str, list[bytes]] = {}
        """Another log for single holders, which a fork shows them."""
        self.cosignatures: dict[str, queue.SimpleQueue[Signed]] = defaultdict(queue.SimpleQueue)
        self.shares: dict[tuple[str, bytes], list[tuple[Signed, bytes]]] = {}
        """What each holder of a job is told that all have sent to its gate."""
        self.papers = Papers()
        self.touched: set[str] = set()
        """Holders that are not as the field was made any more."""
        self._lock = threading.Lock()
        server = issue_server(authority, space, utc_now())
        credentials = grpc.ssl_server_credentials(
            [(server.key, server.certificate + authority.certificate)], authority.certificate, require_client_auth=True
        )
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64), options=[("grpc.so_reuseport", 0)])
        for add in (
            add_WorkServicer_to_server,
            add_CatalogueServicer_to_server,
            add_DirectoryServicer_to_server,
            add_LogServicer_to_server,
        ):
            add(self, self._server)
        add_AgreementsServicer_to_server(self.papers, self._server)
        self._server.add_secure_port(address, credentials)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        for tasks in self.tasks.values():
            tasks.put(None)
        self._server.stop(None).wait()

    # --- what a script does

    def send(self, holder: str, task: work_pb2.Task) -> None:
        self.touched.add(holder)
        self.tasks[holder].put(task)

    def ask(self, holder: str, task: work_pb2.Task) -> Reply:
        """Send a task about a job and wait for the answer. Raises queue.Empty if there is none."""
        self.send(holder, task)
        return self.reply(holder, task)

    def reply(self, holder: str, task: work_pb2.Task) -> Reply:
        """The answer to a task that was sent. Raises queue.Empty if there is none."""
        return self.replies[holder, task.job_id].get(timeout=ANSWER_SECONDS)

    def ask_all(self, tasks: Mapping[str, work_pb2.Task]) -> dict[str, Reply]:
        """Likewise of several holders at once, by holder."""
        for holder, task in tasks.items():
            self.send(holder, task)
        return {holder: self.reply(holder, task) for holder, task in tasks.items()}

    def append(self, signed: Signed, now: int) -> None:
        """Write a document into the log."""
        self.log.append(entry_of(signed, now).body())

    def checkpoint(self, now: int, size: int | None = None, log: list[bytes] | None = None) -> Signed:
        """The operator's word on a log of that size: its own, or a fork."""
        entries = self.log if log is None else log
        hashes = [leaf_hash(entry) for entry in entries]
        count = len(hashes) if size is None else size
        made = Checkpoint(space=self.space, size=count, root=Digest(root_of(hashes, count).hex()), at=now)
        return sign(made, OPERATOR, self.log_key)

    # --- what holders call

    def Pull(self, request: Any, context: grpc.ServicerContext) -> Iterator[work_pb2.Task]:
        holder = caller(context)
        with self._lock:
            old, self.tasks[holder] = self.tasks[holder], queue.SimpleQueue()
            old.put(None)  # one stream a holder
        tasks = self.tasks[holder]
        context.add_callback(lambda: tasks.put(None))
        self.rosters[holder] = request.roster_digest  # after the queue: whoever sees this may send
        self.pulled[holder].put(request.roster_digest)
        while (task := tasks.get()) is not None:
            yield task

    def Submit(self, request: Iterator[work_pb2.WorkPart], context: grpc.ServicerContext) -> Any:
        reply = Reply(list(request))
        first = reply.parts[0]
        job_id = first.pending if first.WhichOneof("part") == "pending" else job_of(first)
        self.replies[caller(context), job_id].put(reply)
        return work_pb2.SubmitWorkResponse()

    def Shares(self, request: work_pb2.SharesRequest, context: grpc.ServicerContext) -> Iterator[work_pb2.SharePart]:
        for signed, words in self.shares[caller(context), request.job_id]:
            yield work_pb2.SharePart(share=signed)
            yield from (work_pb2.SharePart(words=part) for part in chunks(words))

    def Announce(self, request: catalogue_pb2.AnnounceRequest, context: grpc.ServicerContext) -> Any:
        self.offers[caller(context), request.offer.body.decode()] = request
        return catalogue_pb2.AnnounceResponse()

    def GetRoster(self, request: Any, context: grpc.ServicerContext) -> Any:
        return enrolment_pb2.SignedRoster()

    def GetCheckpoint(self, request: Any, context: grpc.ServicerContext) -> Any:
        shown = self.checkpoint(seconds_now(), log=self.logs.get(caller(context)))
        return log_pb2.WitnessedCheckpoint(checkpoint=shown)

    def Entries(self, request: log_pb2.EntriesRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        entries = self.logs.get(caller(context), self.log)
        yield log_pb2.LogEntries(entries=entries[request.first : request.end])

    def Consistency(self, request: log_pb2.ConsistencyRequest, context: grpc.ServicerContext) -> Any:
        hashes = [leaf_hash(entry) for entry in self.logs.get(caller(context), self.log)]
        return log_pb2.ConsistencyProof(nodes=consistency_proof(hashes, request.old_size, request.new_size))

    def Cosign(self, request: log_pb2.CosignRequest, context: grpc.ServicerContext) -> Any:
        self.cosignatures[caller(context)].put(request.cosignature)
        return log_pb2.CosignResponse()


def caller(context: grpc.ServicerContext) -> str:
    read = read_member_certificate(context.auth_context()["x509_pem_cert"][0])
    assert read is not None
    return read[0].name


def job_of(part: work_pb2.WorkPart) -> bytes:
    signed = getattr(part, part.WhichOneof("part") or "")
    return bytes.fromhex(json.loads(signed.body)["job_id"])
