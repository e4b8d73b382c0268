"""The space's log: one entry for each signed document, checkpoints that holders witness (PROTOCOL §6.3).

The operator keeps the log; it cannot change or fork it unnoticed, because every holder extends its own copy of the
tree's frontier with the new entries and compares the root before it signs the checkpoint too. An entry names a document
by digests: no figure, plan or token is in it.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from pydantic import Field

from ceiba_protocol.canonical import Digest, Document, Hex, HexDigest, JobId, MemberName, Seconds, Text
from ceiba_protocol.errors import LedgerRolledBack, LogProofFailed, MalformedMessage
from ceiba_protocol.trust.documents import Attempt
from ceiba_protocol.trust.merkle import Frontier
from ceiba_protocol.trust.roster import OPERATOR, Role, Roster
from ceiba_protocol.trust.signing import D, open_signed
from ceiba_protocol.v1.common_pb2 import Signed


class LogEntry(Document):
    """That a document was signed. The entry's canonical bytes are the leaf of the tree."""

    at: Seconds
    """When the coordinator received it."""
    type: Text
    """The signed document's type, such as ceiba.v1.Approval."""
    signer: MemberName
    body_digest: HexDigest
    """SHA-256 of the document's bytes."""
    signature: Hex
    """Under the signer's key, so that nobody has to believe the operator who signed what."""


class Checkpoint(Document):
    """The whole log in one hash. Signed by the operator with the log key, and then by each holder that witnessed it."""

    space: MemberName
    size: Annotated[int, Field(ge=0)]
    root: HexDigest
    at: Seconds


class Release(Document):
    """A job's encrypted total was handed to its merchant. Signed by the operator with the log key."""

    job_id: JobId
    manifest_digest: HexDigest
    agreement_digest: HexDigest
    attempt: Attempt
    total_digest: HexDigest
    """SHA-256 of the total's ciphertexts."""
    at: Seconds


def entry_of(signed: Signed, at: int) -> LogEntry:
    """The entry for a signed document."""
    return LogEntry(
        at=at,
        type=signed.type,
        signer=signed.signer,
        body_digest=body_digest(signed),
        signature=signed.signature.hex(),
    )


def body_digest(signed: Signed) -> Digest:
    """SHA-256 of the signed bytes."""
    return Digest(hashlib.sha256(signed.body).hexdigest())


def open_operators(signed: Signed, kind: type[D], roster: Roster) -> D:
    """A document that the operator signed with the log key. Raises BadSignature, MalformedDocument."""
    if signed.signer != OPERATOR:
        raise MalformedMessage(message=kind.__name__, problem="it is not the operator's")
    return open_signed(signed, kind, bytes.fromhex(roster.log_key))


def read_checkpoint(signed: Signed, roster: Roster) -> Checkpoint:
    """The operator's checkpoint of this space. Raises BadSignature, MalformedDocument, MalformedMessage."""
    checkpoint = open_operators(signed, Checkpoint, roster)
    if checkpoint.space != roster.space:
        raise MalformedMessage(message="Checkpoint", problem="it is another space's")
    return checkpoint


def witness(frontier: Frontier, entries: Sequence[bytes], checkpoint: Checkpoint) -> Frontier:
    """Run by a holder: its own frontier, extended by all entries since, has the checkpoint's size and root.

    That is consistency and inclusion of every entry at once. Raises LogProofFailed: the log was rolled back or forked.
    """
    if checkpoint.size < frontier.size:
        raise LogProofFailed(problem=f"it has {checkpoint.size} entries, and {frontier.size} were witnessed before")
    for entry in entries:
        frontier = frontier.append(entry)
    check_root(frontier, checkpoint)
    return frontier


def check_root(frontier: Frontier, checkpoint: Checkpoint) -> None:
    """The tree that a holder has built is the one that the operator signed. Raises LogProofFailed."""
    if frontier.size != checkpoint.size or frontier.root().hex() != checkpoint.root:
        raise LogProofFailed(problem=f"its first {checkpoint.size} entries are not those that its root stands for")


def check_longest(checkpoint: Checkpoint, log_size: int) -> None:
    """Run by a holder before it submits: the log is as long as whoever of the round has seen most of it has seen it.
    Raises LogProofFailed."""
    if checkpoint.size < log_size:
        problem = f"a checkpoint covers {checkpoint.size} entries, and a holder has witnessed {log_size}"
        raise LogProofFailed(problem=problem)


def check_own(entries: Iterable[bytes], me: str, is_mine: Callable[[str, Digest], bool]) -> list[Digest]:
    """Run by a holder: whatever the log attributes to it stands in its own ledger; the digests of these documents.

    `is_mine(type, body_digest)` looks into the ledger. A document that is missing there means that the ledger is an
    old copy, or that somebody else uses this member's keys. Raises LedgerRolledBack, MalformedDocument.
    """
    own = []
    for body in entries:
        entry = LogEntry.parse(body)
        if entry.signer == me:
            if not is_mine(entry.type, entry.body_digest):
                raise LedgerRolledBack(document=entry.type.removeprefix("ceiba.v1."), at=entry.at)
            own.append(entry.body_digest)
    return own


def cosigners(checkpoint: Signed, cosignatures: Iterable[Signed], holders: Iterable[str], roster: Roster) -> list[str]:
    """Which of these holders have signed exactly this checkpoint, sorted. Raises BadSignature for one that is false."""
    wanted, found = set(holders), set()
    for signed in cosignatures:
        roster.open(signed, Checkpoint, Role.HOLDER)
        if signed.body == checkpoint.body and signed.signer in wanted:
            found.add(signed.signer)
    return sorted(found)


def needed_cosignatures(holders: int, tolerated: int) -> int:
    """⌈(n+t+1)/2⌉: any two such sets share more than t holders, so that an honest one would be in both of two forks.

    With t = 0 that is more than half; t dishonest holders could sign both forks.
    """
    return -(-(holders + tolerated + 1) // 2)
