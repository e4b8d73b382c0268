"""A job that is cancelled while this holder answers it: whichever comes first, nothing of it stays."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.responding import JobLocks
from ceiba_protocol.trust.documents import Refusal, Submission
from tests.support.one_node import Node

FAR = 2**40
"""Seconds since 1970: after every deadline."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.answering.close()


class Held:
    """A method that waits, once it is called, until it is let go."""

    def __init__(self, method: Any) -> None:
        self.method, self.reached, self.let_go = method, threading.Event(), threading.Event()

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.reached.set()
        assert self.let_go.wait(30)
        return self.method(*given, **named)


def started(step: Any) -> threading.Thread:
    thread = threading.Thread(target=step)
    thread.start()
    return thread


def keeps_nothing(node: Node) -> bool:
    """Neither a mask secret nor masked words in the ledger, nor figures in memory."""
    return node.ledger.expired(before=FAR) == [] and node.answering._work == {} and len(node.answering._locks) == 0


def test_a_lock_is_held_by_one_and_kept_while_somebody_waits() -> None:
    locks, order = JobLocks(), list[str]()
    holding, let_go = threading.Event(), threading.Event()

    def work(name: str, job: bytes) -> None:
        with locks.held(job):
            order.append(f"{name} begins")
            if name == "first":
                holding.set()
                assert let_go.wait(30)
            order.append(f"{name} ends")

    first = started(lambda: work("first", b"job"))
    assert holding.wait(30)
    others = [started(lambda name=name: work(name, b"job")) for name in ("second", "third")]
    work("elsewhere", b"another job")
    assert order == ["first begins", "elsewhere begins", "elsewhere ends"] and len(locks) == 1
    let_go.set()
    for thread in (first, *others):
        thread.join(30)
    assert len(locks) == 0 and order[3] == "first ends"
    assert {order[4].split()[0], order[6].split()[0]} == {"second", "third"} and order[4].split()[0] in order[5]
    with pytest.raises(ZeroDivisionError), locks.held(b"job"):
        raise ZeroDivisionError
    assert len(locks) == 0


def test_what_is_written_while_the_job_is_cancelled_is_erased_as_well(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = node.approvals()
    writing = Held(node.ledger.record_payload)
    monkeypatch.setattr(node.ledger, "record_payload", writing)
    replies: list[Any] = []
    answering = started(lambda: replies.append(node.contribute(approvals)))
    assert writing.reached.wait(30)
    forgetting = started(lambda: node.answering.forget(node.id))
    forgetting.join(0.3)  # it would be over by now if it did not wait for the round
    writing.let_go.set()
    for thread in (answering, forgetting):
        thread.join(30)
    assert replies[0].signed.type.endswith(Submission.__name__) and node.ledger.has_payload(node.id)
    assert keeps_nothing(node)


def test_a_round_that_comes_after_the_end_is_refused_and_begins_nothing(node: Node) -> None:
    approvals = node.approvals()
    assert not keeps_nothing(node)
    node.answering.forget(node.id)
    assert node.contribute(approvals).signed.type.endswith(Refusal.__name__)
    assert node.ledger.expired(before=FAR) == [] and node.answering._work == {}


def test_a_round_that_waited_for_the_end_is_refused_as_well(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read the secret before, and goes by what the ledger says once it is its turn."""
    approvals = node.approvals()
    read = Held(node.ledger.left)  # the first thing that is done under the lock
    monkeypatch.setattr(node.ledger, "left", read)
    replies: list[Any] = []
    with node.answering._locks.held(node.id):
        answering = started(lambda: replies.append(node.contribute(approvals)))
        answering.join(0.3)
        assert not read.reached.is_set()
        node.ledger.forget(node.id)
        node.answering._work.clear()
    read.let_go.set()
    answering.join(30)
    assert replies[0].signed.type.endswith(Refusal.__name__)
    assert node.ledger.expired(before=FAR) == [] and node.answering._work == {}
