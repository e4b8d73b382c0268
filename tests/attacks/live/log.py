"""Attacks with the log: forks, old states of it, old states of a node, and receipts that nobody has witnessed."""

import contextlib
import hashlib
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ceiba_node.policy import Stop, StopKind
from ceiba_protocol.canonical import Digest
from ceiba_protocol.trust.log import OPERATOR, Checkpoint, Release, entry_of
from ceiba_protocol.trust.merkle import inclusion_proof, leaf_hash
from ceiba_protocol.trust.receipt import read_parts
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import ReceiptParts, WitnessedCheckpoint
from ceiba_protocol.v1.work_pb2 import Task, WitnessTask
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, SCHEMA, VICTIM, WEAKENED, Field
from tests.attacks.live.places import roll_back, saved_ledger, unspoilt
from tests.support.clock import seconds_now

OTHERS = [holder for holder in HOLDERS if holder != VICTIM]
TRIES = 20


# --- what the operator can do with its log -----------------------------------------------------------------------


def something(field: Field) -> bytes:
    """An entry for another document each time: a manifest that the merchant has signed."""
    return entry_of(field.ask(), seconds_now()).body()


def show(field: Field, holder: str, log: list[bytes], later: int = 0) -> tuple[Signed | None, str]:
    """Show one holder this log and ask it to witness all of it: its signature on the checkpoint, or what it says
    instead to the next question. `later`: seconds by which the checkpoint claims to be newer than it is."""
    field.mallory.logs[holder] = log
    checkpoint = field.mallory.checkpoint(seconds_now() + later, log=log)
    field.mallory.send(holder, Task(witness=WitnessTask(checkpoint=checkpoint)))
    for _ in range(TRIES):
        reply, saying = field.hear_approval(holder, field.ask())
        with contextlib.suppress(queue.Empty):
            while True:
                signed = field.mallory.cosignatures[holder].get_nowait()
                if signed.body == checkpoint.body:
                    return signed, f"{holder} has signed it"
        if reply is None or reply.approval is None:
            return None, saying
    raise AssertionError(f"{holder} neither signs nor refuses")


@attack(without="the root compared")
def forked_log(field: Field, without: str | None) -> Outcome:
    """The operator shows two hospitals two logs of one size, and changes for one of them what it has seen before."""
    first, second = "dresden", "hungary"
    with unspoilt(field, without, first, second):
        seen = [*field.mallory.log, something(field)]
        for holder in (first, second):
            signed, _ = show(field, holder, seen)
            assert signed is not None
        fork = [*field.mallory.log, something(field), something(field)]
        signatures = {}
        for holder, log in ((first, [*seen, something(field)]), (second, fork)):
            signatures[holder], answer = show(field, holder, log)
            if signatures[holder] is None:
                return Outcome(False, answer)
        one, other = (Checkpoint.parse(signed.body) for signed in signatures.values() if signed)
        return Outcome(
            one.size == other.size and one.root != other.root,
            f"the signatures of {first} and {second} on two different logs of {one.size} entries",
        )


@attack(without="what was witnessed before")
def rolled_back_log(field: Field, without: str | None) -> Outcome:
    """The operator shortens the log and writes it anew, after a hospital has witnessed it."""
    holder = "dresden"
    with unspoilt(field, without, holder):
        longer = [*field.mallory.log, something(field), something(field)]
        signed, _ = show(field, holder, longer)
        assert signed is not None
        shorter = [*field.mallory.log, something(field)]
        signed, answer = show(field, holder, shorter, later=60)
        if signed is None:
            return Outcome(False, answer)
        saw = f"{holder}'s signature on a log of {len(shorter)} entries, after it had witnessed {len(longer)}"
        return Outcome(Checkpoint.parse(signed.body).size < len(longer), saw)


# --- old states of a node ----------------------------------------------------------------------------------------


def log_all(field: Field, documents: Sequence[Signed | None]) -> None:
    for signed in documents:
        assert signed is not None
        field.mallory.append(signed, seconds_now())


@attack(without="own entries compared with the ledger")
def rolled_back_holder(field: Field, without: str | None) -> Outcome:
    """A hospital has answered, its ledger of yesterday is put back, and it is asked the same question again."""
    with unspoilt(field, without, VICTIM):
        signed, old = field.ask(), saved_ledger(field, VICTIM)
        approvals = field.approve_all(signed)
        replies = {holder: field.contribute(holder, signed, approvals) for holder in HOLDERS}
        assert field.total(replies, field.question(signed)) is not None
        log_all(field, [signed, *approvals, *(reply.submission for reply in replies.values())])
        roll_back(field, VICTIM, old)
        approved, saying = field.hear_approval(VICTIM, signed)
        if approved is None or approved.approval is None:
            return Outcome(False, saying)
        others = [approval for approval in approvals if approval.signer != VICTIM]
        again, saying = field.hear_contribution(VICTIM, signed, [*others, approved.approval])
        if again is None or again.submission is None:
            return Outcome(False, saying)
        different = again.ciphertexts != replies[VICTIM].ciphertexts
        return Outcome(different, f"{VICTIM} has signed two different answers to one question")


@attack(without="the longest log anybody has seen")
def hidden_log(field: Field, without: str | None) -> Outcome:
    """A hospital has stopped all answers, its ledger of yesterday is put back, and the log is hidden from it."""
    with unspoilt(field, without, VICTIM):
        hidden, old = list(field.mallory.log), saved_ledger(field, VICTIM)
        signed = field.ask()
        approvals = field.approve_all(signed)
        replies = [field.contribute(holder, signed, approvals) for holder in HOLDERS]
        log_all(field, [signed, *approvals, *(reply.submission for reply in replies)])
        for holder in OTHERS:
            seen, _ = show(field, holder, field.mallory.log)
            assert seen is not None
        with contextlib.closing(field.sandbox.node_home(VICTIM).ledger()) as ledger:
            ledger.stop(Stop(StopKind.ALL, "", "an incident", seconds_now()))
        stopped = field.approve(VICTIM, field.ask())
        assert stopped.approval is None, "it had stopped"
        field.mallory.logs[VICTIM] = hidden
        roll_back(field, VICTIM, old)
        second = field.ask()
        approvals = field.approve_all(second)
        checkpoint = field.mallory.checkpoint(seconds_now(), log=hidden)
        reply, saying = field.hear_contribution(VICTIM, second, approvals, checkpoint)
        if reply is None or reply.submission is None:
            return Outcome(False, saying)
        replied = {holder: field.contribute(holder, second, approvals) for holder in OTHERS}
        total = field.total({**replied, VICTIM: reply}, field.question(second))
        return Outcome(total is not None, f"a new total with {VICTIM}'s figures, {total and total[-1]}, after its stop")


# --- receipts ----------------------------------------------------------------------------------------------------


@attack(without="enough witnesses")
def unwitnessed_receipt(field: Field, without: str | None) -> Outcome:
    """The operator makes a receipt from a log that it has shown to nobody but two colluding hospitals."""
    colluding = ("dresden", "hungary")
    field.begin(None)
    signed = field.ask()
    approvals = field.approve_all(signed)
    replies = [field.contribute(holder, signed, approvals) for holder in HOLDERS]
    release = forged_release(field, signed)
    entries = [*field.mallory.log, entry_of(release, seconds_now()).body()]
    checkpoint = field.mallory.checkpoint(seconds_now(), log=entries)
    cosignatures = [cosigned(field, holder, checkpoint) for holder in colluding]
    parts = ReceiptParts(
        agreement=agreement_signatures(field),
        manifest=signed,
        approvals=approvals,
        submissions=[reply.submission for reply in replies if reply.submission],
        release=release,
        entry=entries[-1],
        index=len(entries) - 1,
        inclusion=inclusion_proof([leaf_hash(entry) for entry in entries], len(entries) - 1, len(entries)),
        checkpoint=WitnessedCheckpoint(checkpoint=checkpoint, cosignatures=cosignatures),
        schema=SCHEMA.body(),
    )
    code, printed = verify(field, read_parts(parts, field.roster).body(), without)
    return Outcome(code == 0, printed)


def forged_release(field: Field, signed: Signed) -> Signed:
    """The operator's word on a total that nobody has computed."""
    question = field.question(signed)
    made = Release(
        job_id=question.manifest.job_id,
        manifest_digest=question.digest,
        agreement_digest=question.manifest.agreement_digest,
        attempt=0,
        total_digest=Digest(hashlib.sha256(b"whatever it likes").hexdigest()),
        at=seconds_now(),
    )
    return sign(made, OPERATOR, field.mallory.log_key)


def cosigned(field: Field, holder: str, checkpoint: Signed) -> Signed:
    identity = field.sandbox.node_home(holder).identity()
    return sign(Checkpoint.parse(checkpoint.body), holder, identity.signing_key)


def agreement_signatures(field: Field) -> list[Signed]:
    """Of the agreement under which bank-a asks, as every holder has them."""
    with contextlib.closing(field.sandbox.node_home(VICTIM).ledger()) as ledger:
        return list(ledger.evidence(field.agreements["bank-a"].digest()).signatures)


def verify(field: Field, receipt: bytes, without: str | None) -> tuple[int, str]:
    """What an auditor does with a receipt, in a process of its own: the exit status, and the last step with the word
    on the whole."""
    program = [str(WEAKENED), without, "ceiba"] if without else ["-m", "ceiba"]
    with tempfile.TemporaryDirectory() as folder:
        file, roster = Path(folder) / "receipt.json", Path(folder) / "roster.json"
        file.write_bytes(receipt)
        roster.write_bytes(field.roster.body())
        command = [sys.executable, *program, "verify", str(file), "--roster", str(roster)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    steps = [line for line in lines if line[:1].isdigit()]
    return done.returncode, f"{lines[-1]} {' '.join(steps[-1].split()) if steps else ''}"


ATTACKS = [forked_log, rolled_back_log, rolled_back_holder, hidden_log, unwitnessed_receipt]
