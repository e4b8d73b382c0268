"""The agent's life without a coordinator: it stops when told, also before it has begun, and its threads with it."""

import threading
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from ceiba_node.agent import Agent
from ceiba_protocol.errors import EngineFailed, LogProofFailed, NotReachable, WrongRole
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import Task, WitnessTask

NOBODY = "127.0.0.1:1"


def agent(offers: Any = dict, is_outdated: Any = lambda: False) -> Agent:
    witness = SimpleNamespace(connect=lambda _: None, catch_up=lambda: None, look_again=lambda: False, fault=None)
    answering: Any = SimpleNamespace(
        witness=witness,
        connect=lambda _: None,
        offers=offers,
        forget_expired=lambda: None,
        roster_digest=bytes(32),
        broken_by_roster=list,
        to_upload=list,
        decided=list,
    )
    return Agent(grpc.insecure_channel(NOBODY), NOBODY, answering, is_outdated)


def announcing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "announce"]


def test_an_agent_stopped_before_it_runs_does_not_run() -> None:
    stopped = agent()
    stopped.stop()
    stopped.run()
    assert not announcing()


def test_an_agent_ends_when_its_folder_has_changed() -> None:
    agent(is_outdated=lambda: True).run()
    assert not announcing()


@pytest.mark.parametrize(
    "failure", [OSError("disk full"), EngineFailed(holder="a")], ids=["a disk", "an error of ours"]
)
def test_a_failure_does_not_end_the_announcing(failure: Exception) -> None:
    tries = iter([failure, failure])
    stopping: list[Agent] = []

    def offers() -> Any:
        failed = next(tries, None)
        if failed is None:
            stopping[0].stop()
            return {}
        raise failed

    stopping.append(agent(offers))
    stopping[0].run()
    assert next(tries, None) is None and not announcing()


def test_a_signature_is_uploaded_until_it_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the coordinator cannot be reached it stays; what it refuses is not sent again and again."""
    signed, uploaded = Signed(type="ceiba.v1.Notice"), []
    answers = iter([NotReachable(target="it", problem="x"), NotReachable(target="it", problem="x"), WrongRole])
    uploading = agent()
    uploading._answering.to_upload = lambda: [] if uploaded else [signed]  # type: ignore[method-assign]
    uploading._answering.mark_uploaded = uploaded.append  # type: ignore[method-assign]

    def upload(_: Signed) -> None:
        answer = next(answers)
        raise answer(role="holder", method="x") if answer is WrongRole else answer  # type: ignore[operator]

    monkeypatch.setattr(uploading._operator, "upload", upload)
    for expected in ([], [], [signed], [signed]):
        uploading._upload()
        assert uploaded == expected


def test_a_decision_is_not_answered_before_the_log_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that is an old copy knows decisions that were answered long ago."""
    sent: list[Any] = []
    deciding = agent()
    deciding._answering.decided = lambda: ["a reply"]  # type: ignore[method-assign, assignment, return-value]
    monkeypatch.setattr(deciding, "_try_to_send", sent.append)
    deciding._send_decided()
    assert sent == []
    deciding._begin()
    deciding._send_decided()
    assert sent == ["a reply"]


def test_a_task_that_meets_a_fault_of_the_logs_is_told_loudly() -> None:
    failing = agent()
    fault = LogProofFailed(problem="it is shorter")

    def take_up(_: Signed) -> None:
        failing._answering.witness.fault = fault  # type: ignore[misc]
        raise fault

    failing._answering.witness.take_up = take_up  # type: ignore[method-assign]
    with capture_logs() as lines:
        failing._handle(Task(witness=WitnessTask(checkpoint=Signed())))
    assert [(line["event"], line["log_level"], line["code"]) for line in lines] == [
        ("task.not_answered", "error", "log_proof_failed")
    ]
    assert "job" not in lines[0]


def test_a_warning_is_repeated_only_when_it_changes() -> None:
    """Before a quorum has approved the roster every connection fails, every few seconds."""
    lost, failures = agent(), iter([WrongRole(role="a", method="b")] * 3 + [NotReachable(target="a", problem="b")])
    with capture_logs() as lines:
        for problem in ("x", "y"):
            lost._lost(NotReachable(target="it", problem=problem))
        for _ in range(4):
            lost._do("upload", lambda: _raise(next(failures)))
    assert [(line["event"], line["code"]) for line in lines] == [
        ("coordinator.lost", "not_reachable"),
        ("upload.failed", "wrong_role"),
        ("upload.failed", "not_reachable"),
    ]


def _raise(error: Exception) -> None:
    raise error
