"""The node's second connection, for scores: a stream of its own, on which no scan and no job is waited for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog

from ceiba_node.scoring import Scoring, is_approval
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import (
    HolderAnswer,
    ModelReference,
    ModelTask,
    ModelWord,
    RequestTask,
    ScorePullRequest,
)
from ceiba_protocol.v1.scoring_pb2_grpc import ScoringStub
from ceiba_protocol.wire import from_rpc_error

log = structlog.get_logger()

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 5.0
CHORES_EVERY_SECONDS = 1.0
"""How soon a person's decision is sent, and the index of a new version is made."""
CALL_SECONDS = 120.0
JOIN_SECONDS = 5.0


class ScoreAgent:
    """Runs beside the node's `Agent` until `stop`. Whatever fails is tried again: the coordinator sends a model until
    it has a word on it, and a merchant asks again for what it has not got."""

    def __init__(self, channel: grpc.Channel, target: str, scoring: Scoring) -> None:
        self._stub = ScoringStub(channel)
        self._target = target
        self._scoring = scoring
        self._stop = threading.Event()
        self._pull: grpc.Call | None = None
        self._lost_with: str | None = None
        """The code of the error that was told last: the same is not told every few seconds."""
        self._threads = [
            threading.Thread(target=self._run, name="scores", daemon=True),
            threading.Thread(target=self._keep_house, name="models", daemon=True),
        ]

    def start(self) -> None:
        self._scoring.connect(self)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns once nothing is being answered any more: the caller closes the ledger next."""
        self._stop.set()
        if self._pull is not None:
            self._pull.cancel()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def weights(self, model_digest: str) -> bytes:
        """The encrypted weights of a model, from the coordinator. Raises NotReachable, and what it answers instead."""
        reference = ModelReference(model_digest=bytes.fromhex(model_digest))
        try:
            return b"".join(part.weights for part in self._stub.Weights(reference, timeout=CALL_SECONDS))
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None

    def approvals(self, model_digest: str) -> list[Signed]:
        """What its holders have approved a model with so far. Raises likewise."""
        reference = ModelReference(model_digest=bytes.fromhex(model_digest))
        try:
            return list(self._stub.Status(reference, timeout=CALL_SECONDS).approvals)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None

    # --- the stream

    def _run(self) -> None:
        wait = FIRST_RETRY_SECONDS
        with (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="score") as scores,
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="model") as models,
        ):
            while not self._stop.is_set():
                if self._pull_once(scores, models):
                    wait = FIRST_RETRY_SECONDS
                self._stop.wait(wait)
                wait = min(2 * wait, LAST_RETRY_SECONDS)

    def _pull_once(self, scores: ThreadPoolExecutor, models: ThreadPoolExecutor) -> bool:
        """One connection's worth of tasks; whether any came."""
        came = False
        try:
            self._scoring.begin()
            stream = self._stub.Pull(ScorePullRequest())
            self._pull = stream
            if self._stop.is_set():  # `stop` may have looked for a stream just before there was this one
                stream.cancel()
            for task in stream:
                came, self._lost_with = True, None
                if task.WhichOneof("kind") == "request":
                    scores.submit(self._answer, task.request)
                else:
                    models.submit(self._consider, task.model)
        except grpc.RpcError as error:
            self._lost(from_rpc_error(error, self._target))
        except CeibaError as error:
            self._lost(error)
        return came

    def _lost(self, error: CeibaError) -> None:
        if not self._stop.is_set() and error.code != self._lost_with:
            self._lost_with = error.code
            log.warning("scores.lost", code=error.code)

    def _answer(self, task: RequestTask) -> None:
        try:
            answer, ciphertexts = self._scoring.answer(task)
            self._stub.Answer(HolderAnswer(answer=answer, ciphertexts=ciphertexts), timeout=CALL_SECONDS)
        except CeibaError as error:
            log.warning("score.not_answered", code=error.code, fields=error.fields)
        except grpc.RpcError as error:  # the merchant may wait no more; if it does, it asks again
            log.info("score.not_taken", code=from_rpc_error(error, self._target).code)
        except Exception as error:  # nothing may vanish in the pool of threads
            log.error("score.failed", exception=type(error).__name__)

    def _consider(self, task: ModelTask) -> None:
        try:
            word = self._scoring.consider(task.model)
            if word is None:
                pending = ModelWord(pending=bytes.fromhex(self._scoring.digest_of(task.model)))
                self._stub.Approve(pending, timeout=CALL_SECONDS)
            else:
                self._say(word)
        except CeibaError as error:
            log.warning("score_model.not_decided", code=error.code, fields=error.fields)
            self._again()
        except grpc.RpcError as error:
            log.info("score_model.word_not_taken", code=from_rpc_error(error, self._target).code)
        except Exception as error:  # likewise
            log.error("score_model.failed", exception=type(error).__name__)

    def _say(self, word: Signed) -> None:
        said = ModelWord(approval=word) if is_approval(word) else ModelWord(refusal=word)
        self._stub.Approve(said, timeout=CALL_SECONDS)

    def _again(self) -> None:
        """What could not be decided now is asked for again on a new connection."""
        if self._pull is not None and not self._stop.wait(CHORES_EVERY_SECONDS):
            self._pull.cancel()

    # --- what nobody asks for

    def _keep_house(self) -> None:
        failing: str | None = None
        while not self._stop.wait(CHORES_EVERY_SECONDS):
            try:
                self._scoring.keep_ready()
                for word in self._scoring.decided():
                    self._say(word)
                failing = None
            except grpc.RpcError as error:
                log.debug("scores.chore_failed", code=from_rpc_error(error, self._target).code)
            except Exception as error:  # a snapshot that is being replaced, a full disk: this thread goes on
                code = error.code if isinstance(error, CeibaError) else type(error).__name__
                if code != failing:
                    log.warning("scores.chore_failed", code=code)
                failing = code
