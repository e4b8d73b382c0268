"""The agent's life without a coordinator: it stops when told, also before it has begun, and its threads with it."""

import threading
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from ceiba_node.agent import Agent
from ceiba_protocol.errors import EngineFailed, NotReachable, WrongRole
from ceiba_protocol.v1.common_pb2 import Signed

NOBODY = "127.0.0.1:1"


def agent(offers: Any = dict, is_outdated: Any = lambda: False) -> Agent:
    witness = SimpleNamespace(connect=lambda _: None, catch_up=lambda: None, fault=None)
    answering: Any = SimpleNamespace(
        witness=witness,
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
