"""Opening a joint answer: whatever of it is not what all holders agreed on and sealed, there is no figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ceiba
from ceiba.joint_jobs import JointJob
from ceiba.space import Space
from ceiba_protocol.errors import (
    AnswerRejected,
    BadSignature,
    CeibaError,
    MalformedDocument,
    MalformedMessage,
    MessageTooLarge,
    SetMismatch,
    TotalRejected,
)
from ceiba_protocol.linkage.joint import CellShape, JointMessage, JointSet, commit_jointly
from ceiba_protocol.v1.jobs_pb2 import ResultPart
from tests.support.joint_space import JointCoordinator, JointWorld, agree, joint_home
from tests.support.members import MERCHANT, NOW, altered, resigned, signed_by

TABLES = ["tax.firms", "insurance.firms", "patents.firms"]


class Asked:
    """A job about two pairs, and the parts of its answer: three approvals, then a message and a payload four times."""

    def __init__(self, space: Space, coordinator: JointCoordinator) -> None:
        self.space = space
        self.coordinator = coordinator
        agree(space, coordinator, TABLES)
        join = space.join(*TABLES, on="uscc").group_by("industry")
        self.query = join.agg(ceiba.mean("wages"), ceiba.sum("patents"))
        self.job: JointJob[Any] = self.query.submit()
        self.parts = coordinator.results

    @property
    def agreed(self) -> JointSet:
        question = self.coordinator.question_of(self.job._signed)
        return commit_jointly(question, [part.approval for part in self.parts if part.HasField("approval")])

    def message(self, place: int) -> Any:
        """The place of its part, of the four."""
        return 3 + 2 * place

    def to_merchant(self) -> list[int]:
        """The numbers of the steps whose messages the merchant gets."""
        return [step.number for step in self.agreed.question.steps if step.receiver == MERCHANT]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    coordinator = JointCoordinator(JointWorld())
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Asked(Space(joint_home(coordinator.world, tmp_path)), coordinator)


def test_an_honest_answer_opens(asked: Asked) -> None:
    result = asked.job.wait()
    assert len(result) == 2 and result.wire_bytes > sum(len(part.payload) for part in asked.parts)


def without(*places: int) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        asked.parts[:] = [part for place, part in enumerate(asked.parts) if place not in places]

    return change


def swapped(one: int, other: int) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        asked.parts[one], asked.parts[other] = asked.parts[other], asked.parts[one]

    return change


def twice(*places: int) -> Callable[[Asked], None]:
    return lambda asked: asked.parts.extend([asked.parts[place] for place in places])


def of_another_job(place: int) -> Callable[[Asked], None]:
    """The same part of an answer to the same question, asked again."""

    def change(asked: Asked) -> None:
        asked.query.submit()
        asked.parts[place] = asked.coordinator.results[place]
        asked.coordinator.results = asked.parts

    return change


def approved_otherwise(**changes: Any) -> Callable[[Asked], None]:
    """A holder itself lies in its approval."""

    def change(asked: Asked) -> None:
        question = asked.coordinator.question_of(asked.job._signed)
        lie = asked.coordinator.world.joint_approval("social", question, **changes)
        asked.parts[question.holders.index("social")] = ResultPart(approval=lie)

    return change


def flipped(asked: Asked) -> None:
    payload = asked.parts[4].payload
    asked.parts[4] = ResultPart(payload=payload[:-1] + bytes([payload[-1] ^ 1]))


def wrong_signature(asked: Asked) -> None:
    signed = asked.parts[3].joint_message
    asked.parts[3] = ResultPart(joint_message=altered(signed, b'"sender":"patents"', b'"sender":"social"'))


def sealed_to_another(asked: Asked) -> None:
    number = asked.to_merchant()[0]
    asked.parts[3:5] = asked.coordinator.sent(asked.agreed, number, b"a share", to="bank-b")


def share(change: Callable[[bytes], bytes]) -> Callable[[Asked], None]:
    """A holder itself seals another share than it should: the joined one of the second pair."""

    def apply(asked: Asked) -> None:
        agreed, number = asked.agreed, asked.to_merchant()[2]
        step = agreed.question.steps[number]
        honest = asked.coordinator.world.shares(agreed, agreed.question.plan.side_of(step.pair))[step.kind]
        asked.parts[7:9] = asked.coordinator.sent(agreed, number, change(honest))

    return apply


def signed_by_another(asked: Asked) -> None:
    message = JointMessage.parse(asked.parts[3].joint_message.body)
    asked.parts[3] = ResultPart(joint_message=signed_by("social", message))


def another_size(asked: Asked) -> None:
    asked.parts[3] = ResultPart(joint_message=resigned(asked.parts[3].joint_message, JointMessage, size=7))


def between_holders(asked: Asked) -> None:
    asked.parts[3:5] = asked.coordinator.sent(asked.agreed, 0, b"groups")


def too_long(asked: Asked) -> None:
    asked.parts[4:5] = [ResultPart(payload=bytes(100_000))] * 3


WRONG: dict[str, tuple[Callable[[Asked], None], type[CeibaError], str]] = {
    "an approval missing": (without(0), SetMismatch, "not one of each holder"),
    "an approval twice": (lambda asked: asked.parts.__setitem__(0, asked.parts[1]), SetMismatch, "not one of each"),
    "an approval too many": (lambda asked: asked.parts.insert(0, asked.parts[1]), MessageTooLarge, "Result"),
    "an approval of another job": (of_another_job(1), SetMismatch, "is for another job"),
    "a message of another job": (of_another_job(3), SetMismatch, "another job's, step's or holder's"),
    "a payload of another job": (of_another_job(4), SetMismatch, "is not about the payload"),
    "an approval after a message": (swapped(2, 3), MalformedMessage, "out of order"),
    "a payload before its message": (swapped(3, 4), MalformedMessage, "out of order"),
    "two payloads exchanged": (swapped(4, 6), SetMismatch, "is not about the payload"),
    "a share missing": (without(9, 10), AnswerRejected, "the share of tax is missing"),
    "a payload missing": (without(10), SetMismatch, "is not about the payload"),
    "no answer at all": (lambda asked: asked.parts.clear(), SetMismatch, "not one of each holder"),
    "a share once more": (twice(3, 4), MessageTooLarge, "Result"),
    "a share instead of another": (
        lambda asked: asked.parts.__setitem__(slice(9, 11), asked.parts[7:9]), AnswerRejected, "or one twice",
    ),
    "a message between holders": (between_holders, AnswerRejected, "is not the merchant's"),
    "a bit of a payload": (flipped, SetMismatch, "is not about the payload"),
    "a signature": (wrong_signature, BadSignature, "patents"),
    "signed by another holder": (signed_by_another, SetMismatch, "another job's, step's or holder's"),
    "said to be longer": (another_size, SetMismatch, "is not about the payload"),
    "too long": (too_long, MessageTooLarge, "Result"),
    "a part of another kind": (lambda asked: asked.parts.append(ResultPart(total=b"1")), MalformedMessage, "order"),
    "no document": (
        lambda asked: asked.parts[3].joint_message.__setattr__("body", b"{}"), MalformedDocument, "JointMessage",
    ),
    "sealed to another": (sealed_to_another, AnswerRejected, "cannot be opened with this merchant's key"),
    "announced more cells": (
        approved_otherwise(shapes=()), SetMismatch, "has not the keys or the shapes",
    ),
    "announced other sums": (
        approved_otherwise(shapes=(CellShape(cells=1, widths=(40, 60)),)), AnswerRejected, "social announced other",
    ),
    "another dataset": (approved_otherwise(dataset_version="0" * 64), SetMismatch, "manifest or dataset"),
    "a share that is cut": (share(lambda honest: honest[:-1]), MalformedMessage, "share of social"),
    "a share of another pair": (share(lambda honest: bytes(32) + honest[32:]), MalformedMessage, "another join"),
    "other cells released": (
        share(lambda honest: honest[:32] + bytes([honest[32] ^ 4]) + honest[33:]), TotalRejected, "different cells",
    ),
    "a count beyond the subjects": (
        share(lambda honest: honest[:33] + bytes([honest[33] ^ 64]) + honest[34:]), TotalRejected, "public bound",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_changed_answer_gives_no_figure_and_says_why(asked: Asked, what: str) -> None:
    change, error, says = WRONG[what]
    change(asked)
    with pytest.raises(error, match=says):
        asked.job.wait()
