"""The holder as a witness: an honest log is signed; a changed one stops the node for good, as an old ledger does."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.policy import Decision
from ceiba_node.responding import Pending, Reply
from ceiba_protocol.errors import BadSignature, LedgerRolledBack, LogProofFailed, MalformedMessage, NotReachable
from ceiba_protocol.trust.documents import Approval, Refusal
from ceiba_protocol.trust.log import Checkpoint, entry_of
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import NOW, World, resigned, signed_by
from tests.support.one_node import ME, SECOND, STORAGE_KEY, THIRD, Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    made.log.add(made.world.signed_manifest(), made.world.approval(SECOND), made.approve().signed)
    yield made
    made.answering.close()


def refused(reply: Any, code: str) -> None:
    assert isinstance(reply, Reply) and reply.token is None and reply.payload == b""
    assert World().roster.open(reply.signed, Refusal, Role.HOLDER).code == code


def signed_documents(node: Node) -> list[str]:
    """Whatever this holder has signed, by digest: before anything is sent it stands there."""
    return [digest for (digest,) in node.ledger._all("SELECT body_digest FROM documents ORDER BY body_digest")]


def witness(node: Node, at: int = NOW, size: int | None = None) -> None:
    node.answering.witness.take_up(node.log.checkpoint(at, size))


def test_an_honest_checkpoint_is_signed_byte_for_byte(node: Node) -> None:
    checkpoint = node.log.checkpoint()
    node.answering.witness.take_up(checkpoint)
    (cosigned,) = node.log.cosigned
    assert cosigned.body == checkpoint.body and cosigned.signer == ME
    assert node.world.roster.open(cosigned, Checkpoint, Role.HOLDER).size == 3
    assert node.ledger.frontier().size == node.answering.witness.size == 3


def test_it_goes_on_where_it_was_after_a_restart(node: Node) -> None:
    witness(node)
    node.restart()
    asked: list[tuple[int, int]] = []
    entries = node.log.entries
    node.log.entries = lambda first, end: asked.append((first, end)) or entries(first, end)  # type: ignore[method-assign]
    node.log.add(node.world.approval(THIRD))
    witness(node, NOW + 1)
    assert asked == [(3, 4)] and node.answering.witness.size == 4


def test_the_same_checkpoint_again_is_signed_again(node: Node) -> None:
    witness(node)
    witness(node)
    assert len(node.log.cosigned) == 2 and node.log.cosigned[0] == node.log.cosigned[1]


def test_what_it_saw_of_its_own_is_noted(node: Node) -> None:
    assert node.ledger.not_in_log() == 1
    witness(node)
    assert node.ledger.not_in_log() == 0


# --- what is wrong, for good -------------------------------------------------------------------------------------


def forked(node: Node) -> Signed:
    witness(node)
    node.log.bodies[1] = entry_of(node.world.approval(THIRD), NOW).body()
    node.log.add(node.world.approval(SECOND))
    return node.log.checkpoint(NOW + 1)


def forked_at_the_same_size(node: Node) -> Signed:
    witness(node)
    node.log.bodies[1] = entry_of(node.world.approval(THIRD), NOW).body()
    return node.log.checkpoint(NOW)


def rolled_back(node: Node) -> Signed:
    witness(node)
    return node.log.checkpoint(NOW + 1, size=2)


def rolled_back_for_good(node: Node) -> Signed:
    checkpoint = rolled_back(node)
    del node.log.bodies[2:]
    return checkpoint


def rolled_back_to_nothing(node: Node) -> Signed:
    checkpoint = rolled_back(node)
    node.log.bodies.clear()
    return checkpoint


def with_an_entry_left_out(node: Node) -> Signed:
    checkpoint = node.log.checkpoint()
    del node.log.bodies[1]
    return checkpoint


def with_an_entry_too_many(node: Node) -> Signed:
    checkpoint = node.log.checkpoint()
    entries = list(node.log.bodies)
    node.log.entries = lambda first, end: [*entries, entries[0]]  # type: ignore[method-assign]
    return checkpoint


def with_rubbish(node: Node) -> Signed:
    node.log.bodies.append(b"{}")
    return node.log.checkpoint()


def not_mine(node: Node) -> Signed:
    own = Approval.parse(node.approve().signed.body)
    node.log.add(signed_by(ME, own.model_copy(update={"nonce": "00" * 16})))
    return node.log.checkpoint()


def not_mine_of_old(node: Node) -> Signed:
    node.log.add(signed_by(ME, Approval.parse(node.world.approval(ME, nonce="00" * 16).body)))
    return node.log.checkpoint()


FAULTS: list[tuple[type[Exception], Callable[[Node], Signed]]] = [
    (LogProofFailed, forked),
    (LogProofFailed, forked_at_the_same_size),
    (LogProofFailed, rolled_back),
    (LogProofFailed, with_an_entry_left_out),
    (LogProofFailed, with_an_entry_too_many),
    (LogProofFailed, with_rubbish),
    (LedgerRolledBack, not_mine),
]


@pytest.mark.parametrize(("kind", "spoil"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_fault_stops_the_node_for_good(node: Node, kind: type[Exception], spoil: Callable[[Node], Signed]) -> None:
    """It signs nothing at all, not even a refusal: a restored old ledger would make the newest one wrong. It offers
    nothing, answers nothing and leaves nothing, also when all seems well again."""
    approvals = node.approvals()
    checkpoint = spoil(node)
    signed_before, documents = len(node.log.cosigned), signed_documents(node)
    with pytest.raises(kind):
        node.answering.witness.take_up(checkpoint)
    for _ in range(2):
        for act in (node.approve, lambda: node.contribute(approvals)):
            with pytest.raises(kind):
                act()
        assert node.answering.offers() == {} and list(node.answering.decided()) == []
        assert list(node.answering.broken_by_roster()) == node.answering.to_upload() == []
        with pytest.raises(kind):
            witness(node, NOW + 2)
        node.restart()
    fault = node.ledger.fault()
    assert fault is not None and type(fault.error) is kind and fault.checkpoint == checkpoint
    assert len(node.log.cosigned) == signed_before and node.ledger.counts()["answered"] == 0
    assert signed_documents(node) == documents


def lifted(node: Node) -> None:
    assert node.ledger.lift_fault("The operator restored the newest copy", NOW)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_lifted_fault_that_is_gone_is_history(node: Node, restarted: bool) -> None:
    """The operator came back with an old copy of the log, then with the newest: nothing was lost in between."""
    approvals, checkpoint = node.approvals(), rolled_back(node)
    with pytest.raises(LogProofFailed):
        node.answering.witness.take_up(checkpoint)
    assert not node.answering.witness.look_again()
    lifted(node)
    with pytest.raises(LogProofFailed):  # it was lifted, and is not looked at yet
        node.approve()
    if restarted:
        node.restart()
        node.answering.witness.catch_up()
    else:
        assert node.answering.witness.look_again() and not node.answering.witness.look_again()
    assert node.contribute(approvals).payload and node.ledger.fault() is None
    (kept,) = node.ledger.faults()
    assert (kept.checkpoint, kept.lifted_at, kept.lifted_because) == (
        checkpoint, NOW, "The operator restored the newest copy"
    )  # fmt: skip


STILL_THERE: list[tuple[type[Exception], Callable[[Node], Signed]]] = [
    (LogProofFailed, forked),
    (LogProofFailed, rolled_back_for_good),
    (LogProofFailed, rolled_back_to_nothing),
    (LedgerRolledBack, not_mine),
]


@pytest.mark.parametrize(("kind", "spoil"), STILL_THERE, ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.parametrize("restarted", [False, True])
def test_a_lifted_fault_that_still_exists_comes_back(
    node: Node, kind: type[Exception], spoil: Callable[[Node], Signed], restarted: bool
) -> None:
    with pytest.raises(kind):
        node.answering.witness.take_up(spoil(node))
    lifted(node)
    cosigned, documents = list(node.log.cosigned), signed_documents(node)
    if restarted:
        node.restart()
    with pytest.raises(kind):
        node.answering.witness.catch_up() if restarted else node.answering.witness.look_again()
    with pytest.raises(kind):
        node.approve()
    assert [fault.lifted_at for fault in node.ledger.faults()] == [NOW, None]
    assert node.log.cosigned == cosigned and signed_documents(node) == documents


def test_an_old_copy_of_the_log_is_found_out_at_once(node: Node) -> None:
    """Its newest checkpoint is as old as the copy: only a task could be overtaken by another."""
    older = node.log.checkpoint(NOW, size=2)
    witness(node)
    node.log.newest = lambda: older  # type: ignore[method-assign]
    with pytest.raises(LogProofFailed):
        node.answering.witness.catch_up()
    assert node.ledger.fault() is not None


def test_a_decision_and_a_notice_wait_until_a_fault_is_mended(node: Node) -> None:
    """A person's decision is neither lost nor sent."""
    node.policy = Policy(ask_for_new_questions=True)
    node.ask("0c", 2)
    assert isinstance(node.approve(), Pending)
    node.ledger.decide(node.id, Decision(approved=True, reason=""), "", NOW)
    node.ledger.record_signed(signed_by(ME, Approval.parse(node.world.approval(SECOND).body)), NOW, to_upload=True)
    with pytest.raises(LedgerRolledBack):
        node.answering.witness.take_up(not_mine_of_old(node))
    assert list(node.answering.decided()) == [] == node.answering.to_upload()
    assert len(node.ledger.decided_unanswered(NOW)) == len(node.ledger.to_upload()) == 1


def test_a_restored_old_ledger_is_found_out_before_it_sends(node: Node, tmp_path: Path) -> None:
    """The disk of last week: it has forgotten what was approved and answered since."""
    node.answering.close()
    shutil.copy(tmp_path / "ledger.sqlite3", tmp_path / "old.sqlite3")
    node.start()
    node.ask("0c", 2)
    approvals = node.approvals()
    node.log.add(*approvals, node.contribute(approvals).signed)
    node.answering.close()
    shutil.copy(tmp_path / "old.sqlite3", tmp_path / "ledger.sqlite3")
    for leftover in tmp_path.glob("ledger.sqlite3-*"):
        leftover.unlink()
    node.start()
    with pytest.raises(LedgerRolledBack):
        node.answering.witness.catch_up()
    with pytest.raises(LedgerRolledBack):
        node.approve()


def test_a_restored_old_ledger_is_found_out_at_the_latest_by_its_own_submission(node: Node, tmp_path: Path) -> None:
    """If nobody tells it of a new checkpoint before: the task itself brings one."""
    approvals = node.approvals()
    node.answering.close()
    shutil.copy(tmp_path / "ledger.sqlite3", tmp_path / "old.sqlite3")
    node.start()
    node.log.add(node.contribute(approvals).signed)
    node.answering.close()
    shutil.copy(tmp_path / "old.sqlite3", tmp_path / "ledger.sqlite3")
    for leftover in tmp_path.glob("ledger.sqlite3-*"):
        leftover.unlink()
    node.start()
    documents = signed_documents(node)
    with pytest.raises(LedgerRolledBack):
        node.contribute(approvals)
    assert node.ledger.counts()["answered"] == 0 and signed_documents(node) == documents


# --- what is only refused ----------------------------------------------------------------------------------------


def test_an_overtaken_checkpoint_is_neither_signed_nor_held_against_anyone(node: Node) -> None:
    """Two tasks may change places on the way."""
    older = node.log.checkpoint(NOW, size=2)
    witness(node)
    node.answering.witness.take_up(older)
    assert len(node.log.cosigned) == 1 and node.answering.witness.fault is None


@pytest.mark.parametrize("what", ["a stranger's", "another space's", "nothing"])
def test_what_is_no_checkpoint_of_this_log_is_not_signed(node: Node, what: str) -> None:
    honest = node.log.checkpoint()
    wrong = {
        "a stranger's": lambda: signed_by(ME, Checkpoint.parse(honest.body)),
        "another space's": lambda: resigned(honest, Checkpoint, space="elsewhere"),
        "nothing": Signed,
    }
    with pytest.raises((BadSignature, MalformedMessage)):
        node.answering.witness.take_up(wrong[what]())
    assert node.log.cosigned == [] and node.answering.witness.fault is None


def test_a_set_is_not_answered_with_a_log_shorter_than_another_holder_has_seen(node: Node) -> None:
    seen = node.world.approval(SECOND, log_size=4)
    refused(node.contribute(node.approvals(hungary=seen)), "log_proof_failed")
    assert node.answering.witness.fault is None  # the other may have lied
    node.log.add(node.world.approval(THIRD))
    assert node.contribute(node.approvals(hungary=seen)).payload


def test_a_submission_waits_until_its_checkpoint_was_witnessed(node: Node) -> None:
    assert node.contribute(node.approvals()).payload
    assert node.answering.witness.size == 3 and len(node.log.cosigned) == 1


def test_a_log_that_cannot_be_reached_is_no_reason_to_refuse(node: Node) -> None:
    def unreachable(*_: object) -> Any:
        raise NotReachable(target="the log", problem="nothing answers there")

    approvals, entries = node.approvals(), node.log.entries
    node.log.entries = unreachable  # type: ignore[method-assign]
    with pytest.raises(NotReachable):
        node.contribute(approvals)
    node.log.entries = entries  # type: ignore[method-assign]
    assert node.contribute(approvals).payload


def test_an_approval_says_how_much_was_witnessed(node: Node) -> None:
    witness(node)
    node.ask("0c", 2)
    assert Approval.parse(node.approve().signed.body).log_size == 3


def test_every_document_is_in_the_ledger_before_it_is_returned(node: Node) -> None:
    """Approval, submission and refusal: what the log will attribute to this holder."""
    other = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY)
    replies = [node.approve(), node.contribute(node.approvals())]
    node.ask("0c", 1)
    replies.append(node.approve())
    for reply in replies:
        entry = entry_of(reply.signed, NOW)
        assert other.has_signed(entry.type, entry.body_digest)
    other.close()
