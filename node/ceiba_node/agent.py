"""The node's connection: it dials the coordinator, announces datasets, pulls tasks and sends the answers."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog

from ceiba_node.answering import Answering, Reply
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.v1.catalogue_pb2 import AnnounceRequest
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.work_pb2 import PullRequest, Task, WorkPart
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import chunks, from_rpc_error

log = structlog.get_logger()

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 5.0
ANNOUNCE_EVERY_SECONDS = 1.0
"""How soon a new version is offered after `ceiba-node publish`."""
CALL_SECONDS = 120.0
JOIN_SECONDS = 5.0
WORKERS = 4


class Agent:
    """Runs until `stop`. Whatever fails is tried again: the coordinator keeps a task until it has the answer."""

    def __init__(
        self, channel: grpc.Channel, target: str, answering: Answering, is_outdated: Callable[[], bool]
    ) -> None:
        """`is_outdated` says that the node must be put together anew, because its folder has changed."""
        self._answering = answering
        self._target = target
        self._work = WorkStub(channel)
        self._catalogue = CatalogueStub(channel)
        self._stop = threading.Event()
        self._pull: grpc.Call | None = None
        self._announced: dict[str, bytes] = {}
        self._is_outdated = is_outdated

    def stop(self) -> None:
        self._stop.set()
        if self._pull is not None:
            self._pull.cancel()

    def run(self) -> None:
        """Pull and answer until stopped."""
        announcing = threading.Thread(target=self._keep_announcing, name="announce", daemon=True)
        announcing.start()
        wait = FIRST_RETRY_SECONDS
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="task") as workers:
            while not self._stop.is_set():
                if self._pull_once(workers):
                    wait = FIRST_RETRY_SECONDS
                self._stop.wait(wait)
                wait = min(2 * wait, LAST_RETRY_SECONDS)
        announcing.join(JOIN_SECONDS)  # the caller closes the ledger next

    def _pull_once(self, workers: ThreadPoolExecutor) -> bool:
        """One connection's worth of tasks; whether any came."""
        came = False
        try:
            stream = self._work.Pull(PullRequest(roster_digest=self._answering.roster_digest))
            self._pull = stream
            if self._stop.is_set():  # `stop` may have looked for a stream just before there was this one
                stream.cancel()
            for task in stream:
                came = True
                workers.submit(self._handle, task)
        except grpc.RpcError as error:
            self._announced.clear()  # what the coordinator had may be gone, if it comes back from a backup
            if not self._stop.is_set():
                log.warning("coordinator.lost", code=from_rpc_error(error, self._target).code)
        return came

    def _handle(self, task: Task) -> None:
        """Answer one task. A failure is logged; the coordinator sends the task again on the next connection."""
        try:
            match task.WhichOneof("kind"):
                case "approve":
                    self._send(self._answering.approve(task.job_id, task.approve.manifest))
                case "contribute":
                    self._send(self._answering.contribute(task.job_id, task.contribute.approvals))
                case "forget":
                    self._answering.forget(task.job_id)
        except CeibaError as error:
            log.warning("task.failed", job=task.job_id.hex(), code=error.code, fields=error.fields)
        except grpc.RpcError as error:
            log.warning("answer.not_accepted", job=task.job_id.hex(), code=from_rpc_error(error, self._target).code)
            self._reconnect_if_lost(error)
        except Exception as error:  # nothing may vanish in the pool of threads
            log.error("task.failed", job=task.job_id.hex(), exception=type(error).__name__)

    def _reconnect_if_lost(self, error: grpc.RpcError) -> None:
        """An answer that could not be delivered is asked for again on a new connection."""
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and self._pull is not None:
            self._pull.cancel()

    def _send(self, reply: Reply) -> None:
        self._work.Submit(_parts(reply), timeout=CALL_SECONDS)

    def _keep_announcing(self) -> None:
        while not self._stop.is_set():
            try:
                if self._is_outdated():
                    self.stop()
                    return
                self._announce()
                self._answering.forget_expired()
            except CeibaError as error:
                log.warning("announce.failed", code=error.code, fields=error.fields)
            except grpc.RpcError as error:
                log.debug("announce.failed", code=from_rpc_error(error, self._target).code)
            except Exception as error:  # a full disk, say: this thread goes on, or no new version would be offered
                log.error("announce.failed", exception=type(error).__name__)
            self._stop.wait(ANNOUNCE_EVERY_SECONDS)

    def _announce(self) -> None:
        """Offer each table's current version, unless it was the last one that was offered."""
        for table, (offer, schema) in self._answering.offers().items():
            if self._announced.get(table) != offer.body:
                self._catalogue.Announce(AnnounceRequest(offer=offer, schema=schema), timeout=CALL_SECONDS)
                self._announced[table] = offer.body
                log.info("dataset.offered", table=table)


def _parts(reply: Reply) -> Iterator[WorkPart]:
    match reply.signed.type.removeprefix("ceiba.v1."):
        case "Approval":
            yield WorkPart(approval=reply.signed)
        case "Submission":
            yield WorkPart(submission=reply.signed)
        case _:
            yield WorkPart(refusal=reply.signed)
    for part in chunks(reply.ciphertexts):
        yield WorkPart(ciphertexts=part)
