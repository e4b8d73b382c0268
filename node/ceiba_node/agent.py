"""The node's connection: it dials the coordinator, announces datasets, pulls tasks and sends the answers."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog

from ceiba_node.answering import Answering
from ceiba_node.operator import Operator
from ceiba_node.responding import Pending, Reply
from ceiba_protocol.errors import CeibaError, Fault, NotReachable, TooManyCalls
from ceiba_protocol.v1.catalogue_pb2 import AnnounceRequest
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from ceiba_protocol.v1.work_pb2 import PullRequest, Task, WorkPart
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import chunks, from_rpc_error

log = structlog.get_logger()

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 5.0
CHORES_EVERY_SECONDS = 1.0
"""How soon a new version is offered after `ceiba-node publish`, and a person's decision sent."""
CALL_SECONDS = 120.0
JOIN_SECONDS = 5.0
WORKERS = 4


class Agent:
    """Runs until `stop`. Whatever fails is tried again: the coordinator keeps a task until it has the answer."""

    def __init__(
        self,
        channel: grpc.Channel,
        target: str,
        answering: Answering,
        is_outdated: Callable[[], bool],
        take_up_roster: Callable[[SignedRoster], bool] = lambda _: False,
    ) -> None:
        """`is_outdated` says that the node must be put together anew, because its folder has changed;
        `take_up_roster` pins a newer roster that a quorum has approved, and says whether it has."""
        self._answering = answering
        self._target = target
        self._work = WorkStub(channel)
        self._catalogue = CatalogueStub(channel)
        self._operator = Operator(channel, target)
        self._stop = threading.Event()
        self._pull: grpc.Call | None = None
        self._announced: dict[str, bytes] = {}
        self._lost_with: str | None = None
        """The code of the error that was told last, until a task comes: the same is not told every few seconds."""
        self._failing: dict[str, object] = {}
        """Likewise, by chore."""
        self._has_looked = False
        """Whether the log was seen since this node began: before that the ledger could be an old copy."""
        self._is_outdated = is_outdated
        self._take_up_roster = take_up_roster
        self._chores: dict[str, Callable[[], None]] = {
            "announce": self._announce,
            "forget": answering.forget_expired,
            "upload": self._upload,
            "decide": self._send_decided,
            "witness": self._look_again,
        }

    def stop(self) -> None:
        self._stop.set()
        if self._pull is not None:
            self._pull.cancel()

    def run(self) -> None:
        """Pull and answer until stopped."""
        self._answering.witness.connect(self._operator)
        self._answering.connect(self._operator)
        chores = threading.Thread(target=self._keep_house, name="announce", daemon=True)
        chores.start()
        wait = FIRST_RETRY_SECONDS
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="task") as workers:
            while not self._stop.is_set():
                if self._pull_once(workers):
                    wait = FIRST_RETRY_SECONDS
                self._stop.wait(wait)
                wait = min(2 * wait, LAST_RETRY_SECONDS)
        chores.join(JOIN_SECONDS)  # the caller closes the ledger next

    def _pull_once(self, workers: ThreadPoolExecutor) -> bool:
        """One connection's worth of tasks; whether any came."""
        came = False
        try:
            self._begin()
            stream = self._work.Pull(PullRequest(roster_digest=self._answering.roster_digest))
            self._pull = stream
            if self._stop.is_set():  # `stop` may have looked for a stream just before there was this one
                stream.cancel()
            for task in stream:
                came = True
                if self._lost_with is not None:
                    self._lost_with = None
                    log.info("coordinator.reached")
                workers.submit(self._handle, task)
        except grpc.RpcError as error:
            self._lost(from_rpc_error(error, self._target))
        except CeibaError as error:
            self._lost(error)
        return came

    def _begin(self) -> None:
        """Before a connection's first task: a ledger that is an old copy is found out, and jobs that a new roster has
        broken are refused. While the log is at fault no task is answered, and nothing is signed."""
        if self._answering.witness.fault is None:
            try:
                self._answering.witness.catch_up()
            except CeibaError:
                if self._answering.witness.fault is None:
                    raise
        self._has_looked = True
        for reply in self._answering.broken_by_roster():
            self._try_to_send(reply)

    def _lost(self, error: CeibaError) -> None:
        self._announced.clear()  # what the coordinator had may be gone, if it comes back from a backup
        if not self._stop.is_set() and error.code != self._lost_with:
            self._lost_with = error.code
            log.warning("coordinator.lost", code=error.code)

    # --- tasks

    def _handle(self, task: Task) -> None:
        """Answer one task. A failure is logged; the coordinator sends the task again on the next connection."""
        try:
            match task.WhichOneof("kind"):
                case "approve":
                    self._send(self._answering.approve(task.job_id, task.approve.manifest, task.approve.attempt))
                case "gate":
                    asked = task.gate
                    self._send(self._answering.share(task.job_id, asked.approvals, asked.aborts, asked.checkpoint))
                case "fit":
                    fit = task.fit
                    self._send(
                        self._answering.iterate(task.job_id, fit.iteration, fit.approvals, fit.aborts, fit.checkpoint)
                    )
                case "contribute":
                    wanted = task.contribute
                    self._send(
                        self._answering.contribute(task.job_id, wanted.approvals, wanted.aborts, wanted.checkpoint)
                    )
                case "joint":
                    joint = task.joint
                    self._send(
                        self._answering.linking.take_step(
                            task.job_id, joint.step, list(joint.approvals), joint.checkpoint
                        )
                    )
                case "forget":
                    self._answering.forget(task.job_id)
                case "agreement":
                    self._answering.take_up_agreement(task.agreement)
                case "witness":
                    self._answering.witness.take_up(task.witness.checkpoint)
                case "roster":
                    if self._take_up_roster(task.roster.roster):
                        self.stop()
        except NotReachable as error:
            log.warning("task.failed", **_job(task), code=error.code)
            self._reconnect()
        except CeibaError as error:
            if self._answering.witness.fault is not None:  # said loudly: the coordinator only sees that nothing comes
                log.error("task.not_answered", **_job(task), code=error.code, fields=error.fields)
                return
            log.warning("task.failed", **_job(task), code=error.code, fields=error.fields)
        except grpc.RpcError as error:
            refused = from_rpc_error(error, self._target)
            log.warning("answer.not_accepted", **_job(task), code=refused.code)
            lost = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if lost or isinstance(refused, TooManyCalls):
                self._reconnect()
        except Exception as error:  # nothing may vanish in the pool of threads
            log.error("task.failed", **_job(task), exception=type(error).__name__)

    def _reconnect(self) -> None:
        """An answer that could not be delivered is asked for again on a new connection."""
        if self._pull is not None:
            self._pull.cancel()

    def _send(self, reply: Reply | Pending) -> None:
        self._work.Submit(_parts(reply), timeout=CALL_SECONDS)

    def _try_to_send(self, reply: Reply) -> None:
        """What the coordinator does not wait for any more, it refuses; the others are asked for again."""
        try:
            self._send(reply)
        except grpc.RpcError as error:
            log.info("answer.not_accepted", code=from_rpc_error(error, self._target).code)

    # --- what nobody asks for

    def _keep_house(self) -> None:
        """Every chore, every second. One that fails does not keep the others from being done."""
        while not self._stop.is_set():
            try:
                if self._is_outdated():
                    self.stop()
                    return
            except Exception as error:  # a folder that cannot be read now
                log.error("folder.not_readable", exception=type(error).__name__)
            for name, chore in self._chores.items():
                self._do(name, chore)
            self._stop.wait(CHORES_EVERY_SECONDS)

    def _do(self, name: str, chore: Callable[[], None]) -> None:
        try:
            chore()
        except CeibaError as error:
            self._tell(name, log.warning, code=error.code, fields=error.fields)
        except grpc.RpcError as error:
            log.debug(f"{name}.failed", code=from_rpc_error(error, self._target).code)
        except Exception as error:  # a full disk, say: this thread goes on, or no new version would be offered
            self._tell(name, log.error, exception=type(error).__name__)
        else:
            self._failing.pop(name, None)

    def _tell(self, name: str, say: Callable[..., object], **what: object) -> None:
        """That a chore has failed, once for each way in which it does."""
        if self._failing.get(name) != what:
            self._failing[name] = what
            say(f"{name}.failed", **what)

    def _announce(self) -> None:
        """Offer each table's current version, unless it was the last one that was offered."""
        for table, (offer, schema) in self._answering.offers().items():
            if self._announced.get(table) != offer.body:
                self._catalogue.Announce(AnnounceRequest(offer=offer, schema=schema), timeout=CALL_SECONDS)
                self._announced[table] = offer.body
                log.info("dataset.offered", table=table)

    def _upload(self) -> None:
        """Signatures and notices of people here. What the coordinator refuses is not tried again: it counts at this
        node all the same."""
        for signed in self._answering.to_upload():
            try:
                self._operator.upload(signed)
            except CeibaError as error:
                if error.fault is Fault.US:  # not reachable now, or a fault that may pass
                    log.debug("upload.failed", code=error.code)
                    return
                log.warning("upload.refused", type=signed.type, code=error.code, fields=error.fields)
            self._answering.mark_uploaded(signed)

    def _look_again(self) -> None:
        """After `ceiba-node resume log`. If the fault is gone, a new connection brings again what was not answered."""
        if self._answering.witness.look_again():
            self._reconnect()

    def _send_decided(self) -> None:
        for reply in self._answering.decided() if self._has_looked else ():
            self._try_to_send(reply)


def _job(task: Task) -> dict[str, str]:
    """The job that a task is about, for the log: an agreement or a checkpoint is about none."""
    return {"job": task.job_id.hex()} if task.job_id else {}


def _parts(reply: Reply | Pending) -> Iterator[WorkPart]:
    if isinstance(reply, Pending):
        yield WorkPart(pending=reply.job_id)
        return
    match reply.signed.type.removeprefix("ceiba.v1."):
        case "Approval" | "JointApproval":
            yield WorkPart(approval=reply.signed)
        case "JointMessage":
            yield WorkPart(joint_message=reply.signed)
            yield from (WorkPart(payload=part) for part in chunks(reply.payload))
        case "GateShare":
            yield WorkPart(gate_share=reply.signed)
            yield from (WorkPart(words=part) for part in chunks(reply.payload))
        case "FitShare":
            yield WorkPart(fit_share=reply.signed)
            yield from (WorkPart(words=part) for part in chunks(reply.payload))
        case "Submission":
            yield WorkPart(submission=reply.signed)
            yield from (WorkPart(ciphertexts=part) for part in chunks(reply.payload))
        case _:
            yield WorkPart(refusal=reply.signed)
    if reply.token is not None:
        yield WorkPart(abort=reply.token)
