"""Receipts: that a result came from an authorised job, checked offline with a roster alone (PROTOCOL §6.3).

A receipt proves who agreed, who asked, who answered, and that all of it stands in a log that enough of the
holders have witnessed. It has no figure in it, and does not prove that a holder's database tells the truth.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from ceiba_protocol.canonical import MAX_BODY_BYTES, Digest, Document, Hex, HexDigest, MemberName, Text, digest_of
from ceiba_protocol.errors import CeibaError, ReceiptRejected
from ceiba_protocol.linkage.joint import (
    JointManifest,
    JointQuestion,
    JointSet,
    check_documents,
    commit_jointly,
    read_joint_manifest,
    total_digest,
)
from ceiba_protocol.rounds import (
    Commitment,
    Question,
    check_shares,
    check_submitted,
    check_window,
    commit_to_set,
    read_manifest,
    read_released,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Agreement, read_contract
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.trust.log import (
    Checkpoint,
    LogEntry,
    Release,
    body_digest,
    cosigners,
    needed_cosignatures,
    open_operators,
    read_checkpoint,
)
from ceiba_protocol.trust.merkle import check_inclusion
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import ReceiptParts

R = TypeVar("R")


class SignedText(Document):
    """A signed document as JSON has it."""

    type: Text
    text: str
    """What was signed."""
    signer: MemberName
    signature: Hex

    @classmethod
    def of(cls, signed: Signed) -> "SignedText":
        """Raises ValueError for what is no text, or signed by no name."""
        return cls(type=signed.type, text=signed.body.decode(), signer=signed.signer, signature=signed.signature.hex())

    def signed(self) -> Signed:
        return self.signed_by(self.signer, self.signature)

    def signed_by(self, signer: str, signature: str) -> Signed:
        """The same bytes with another signature."""
        return Signed(type=self.type, body=self.text.encode(), signer=signer, signature=bytes.fromhex(signature))


class SharedText(Document):
    """One text that several members have signed."""

    first: SignedText
    others: dict[MemberName, Hex]
    """Signer → signature of the same text. A signature on another text is left out: it proves nothing here."""

    @classmethod
    def of(cls, signed: Sequence[Signed]) -> "SharedText":
        """Raises ValueError as `SignedText.of`, and IndexError for none at all."""
        same = [one for one in signed[1:] if one.body == signed[0].body]
        return cls(first=SignedText.of(signed[0]), others={one.signer: one.signature.hex() for one in same})

    def signed(self) -> list[Signed]:
        """All of them, as they were sent."""
        return [self.first.signed(), *(self.first.signed_by(*other) for other in sorted(self.others.items()))]


class Receipt(Document):
    """Everything that an auditor needs beside the roster; a JSON file."""

    MAX_BYTES: ClassVar[int] = 16 * MAX_BODY_BYTES
    """A manifest of the largest size, and the papers of a thousand holders: about 1,800 bytes each."""

    format: Annotated[int, Field(ge=3, le=3)] = 3
    roster_digest: HexDigest
    """Of the roster under which the signatures verify; a newer one serves as well."""
    schema_text: str
    other_schema_texts: tuple[str, ...]
    """Of a joint job: those of the joined tables. None of other jobs."""
    agreement: SharedText
    manifest: SignedText
    approvals: tuple[SignedText, ...]
    aborts: tuple[SignedText, ...]
    shares: tuple[SignedText, ...]
    """Of the gate, without their words."""
    submissions: tuple[SignedText, ...]
    """Of a joint job: the messages of all steps, without their payloads."""
    release: SignedText
    entry: str
    index: Annotated[int, Field(ge=0, lt=2**53)]
    inclusion: tuple[Hex, ...]
    checkpoint: SharedText
    """First the operator's signature, then the holders'."""


def read_parts(parts: ReceiptParts, roster: Roster) -> Receipt:
    """The receipt from what the coordinator sent; nothing is believed of it yet. Raises ReceiptRejected."""
    try:
        return Receipt(
            roster_digest=roster.digest(),
            schema_text=parts.schema.decode(),
            other_schema_texts=tuple(schema.decode() for schema in parts.other_schemas),
            agreement=SharedText.of(parts.agreement),
            manifest=SignedText.of(parts.manifest),
            approvals=_texts(parts.approvals),
            aborts=_texts(parts.aborts),
            shares=_texts(parts.shares),
            submissions=_texts(parts.submissions),
            release=SignedText.of(parts.release),
            entry=parts.entry.decode(),
            index=parts.index,
            inclusion=tuple(node.hex() for node in parts.inclusion),
            checkpoint=SharedText.of([parts.checkpoint.checkpoint, *parts.checkpoint.cosignatures]),
        )
    except (ValueError, IndexError):
        raise ReceiptRejected(step="0, it can be read", problem="something is missing or is no text.") from None


def _texts(signed: Iterable[Signed]) -> tuple[SignedText, ...]:
    return tuple(map(SignedText.of, signed))


# --- verification ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of the verification."""

    number: int
    name: str
    error: CeibaError | None
    """None where it holds."""

    def __str__(self) -> str:
        return f"{self.number}. {'ok    ' if self.error is None else 'FAILED'}  {self.name}" + (
            f": {self.error.public}" if self.error else ""
        )


@dataclass
class _Reading:
    """What the steps have found so far; each step builds on those before it."""

    receipt: Receipt
    roster: Roster
    agreement: Agreement = field(init=False)
    question: Question | JointQuestion = field(init=False)
    commitment: Commitment | JointSet = field(init=False)
    release: Release = field(init=False)
    checkpoint: Checkpoint = field(init=False)


def _agreement(reading: _Reading) -> None:
    contract = read_contract(reading.receipt.agreement.signed(), [], reading.roster)
    if contract.missing:
        raise _fails(f"{', '.join(contract.missing)} did not sign the agreement.")
    reading.agreement = contract.agreement


def _manifest(reading: _Reading) -> None:
    signed, agreement = reading.receipt.manifest.signed(), reading.agreement
    if signed.type == type_of(JointManifest):
        pinned = {side.schema_digest for side in agreement.sides}
        texts = [text.encode() for text in (reading.receipt.schema_text, *reading.receipt.other_schema_texts)]
        schemas = [Schema.parse_pinned(text, digest_of(Schema, text)) for text in texts]
        if {schema.digest() for schema in schemas} - pinned:
            raise _fails("a schema is not one of the agreement's.")
        by_table = {schema.table: schema for schema in schemas}
        asked_at = JointManifest.parse(signed.body).not_before
        question = read_joint_manifest(signed, agreement, reading.roster, by_table, asked_at)
        if {side.table for side in question.plan.sides} != by_table.keys():
            raise _fails("it has not the schema of every table that was asked.")
        reading.question = question
        return
    if reading.receipt.other_schema_texts:
        raise _fails("it has schemas of other tables than the one that was asked.")
    schema = Schema.parse_pinned(reading.receipt.schema_text.encode(), agreement.schema_digest)
    asked_at = Manifest.parse(signed.body).not_before
    reading.question = read_manifest(signed, agreement, reading.roster, schema, asked_at)


def _set(reading: _Reading) -> None:
    approvals = [text.signed() for text in reading.receipt.approvals]
    aborts = [text.signed() for text in reading.receipt.aborts]
    if isinstance(reading.question, JointQuestion):
        if aborts:
            raise _fails("somebody left the job, and nobody can leave a joint one.")
        reading.commitment = commit_jointly(reading.question, approvals)
    else:
        reading.commitment = commit_to_set(reading.question, approvals, aborts)


def _gate(reading: _Reading) -> None:
    shares, commitment = [text.signed() for text in reading.receipt.shares], reading.commitment
    if isinstance(commitment, Commitment) and commitment.gate is not None:
        assert isinstance(reading.question, Question)
        check_shares(shares, reading.question, commitment)
        reading.commitment = commitment.after_gate(shares)
    elif shares:
        raise _fails("there are shares of a gate, and the job has none.")


def _submissions(reading: _Reading) -> None:
    submissions, commitment = [text.signed() for text in reading.receipt.submissions], reading.commitment
    if isinstance(commitment, JointSet):
        check_documents(commitment, submissions)
        return
    assert isinstance(reading.question, Question)
    found = [check_submitted(one, reading.question, commitment).holder for one in submissions]
    if sorted(found) != commitment.holders:
        raise _fails("the submissions are not those of the whole set, each once.")
    read_released(commitment, submissions)


def _release(reading: _Reading) -> None:
    signed = reading.receipt.release.signed()
    reading.release = open_operators(signed, Release, reading.roster)
    manifest, digest = reading.question.manifest, reading.question.digest
    attempt = reading.commitment.context.attempt if isinstance(reading.commitment, Commitment) else 0
    wanted = (manifest.job_id, digest, manifest.agreement_digest, attempt)
    release = reading.release
    if (release.job_id, release.manifest_digest, release.agreement_digest, release.attempt) != wanted:
        raise _fails("the release is of another job.")
    if isinstance(reading.commitment, JointSet):
        messages = check_documents(reading.commitment, [text.signed() for text in reading.receipt.submissions])
        if total_digest(reading.commitment.question, messages) != release.total_digest:
            raise _fails("the release is of other messages.")
    # Its time decides who counts as revoked, and is the operator's word. The window is what the holders have compared
    # with their own clocks before they approved.
    check_window(manifest, release.at)
    entry = LogEntry.parse(reading.receipt.entry.encode())
    if (entry.type, entry.body_digest) != (signed.type, body_digest(signed)):
        raise _fails("the log's entry is not the release's.")


def _inclusion(reading: _Reading) -> None:
    receipt = reading.receipt
    if receipt.index < reading.commitment.log_size:
        raise _fails("the log is shorter there than its holders had witnessed before they answered.")
    reading.checkpoint = read_checkpoint(receipt.checkpoint.first.signed(), reading.roster)
    root, proof = bytes.fromhex(reading.checkpoint.root), [bytes.fromhex(node) for node in receipt.inclusion]
    check_inclusion(receipt.entry.encode(), receipt.index, reading.checkpoint.size, proof, root)


def _witnesses(reading: _Reading) -> None:
    holders = reading.agreement.holder_names
    checkpoint, *cosignatures = reading.receipt.checkpoint.signed()
    found = cosigners(checkpoint, cosignatures, holders, reading.roster)
    needed = needed_cosignatures(len(holders), reading.agreement.tolerated)
    if len(found) < needed:
        raise _fails(f"{len(found)} of {len(holders)} holders have witnessed the log, and it takes {needed}.")


STEPS: tuple[tuple[str, Callable[[_Reading], None]], ...] = (
    ("the merchant and every holder signed the same agreement", _agreement),
    ("the merchant signed the manifest, and it keeps to the agreement", _manifest),
    ("the agreement's whole set approved it; whoever is missing signed that it left", _set),
    ("each of them signed its share of the gate, where there is one", _gate),
    (
        "each of them signed its submission or messages, for this manifest, this set and the gate's one decision",
        _submissions,
    ),
    ("the operator signed the release of their total", _release),
    ("the release stands in the log", _inclusion),
    ("enough of the agreement's holders witnessed that log", _witnesses),
)
"""In order; a step that fails ends the verification."""


def _fails(problem: str) -> ReceiptRejected:
    return ReceiptRejected(step="?", problem=problem)


def verify(receipt: Receipt, roster: Roster) -> list[Step]:
    """The steps up to the first that fails, or all of them. `roster` is one that the verifier trusts.

    Members that were revoked later than the release still count, as they did then.
    """
    return run_steps(STEPS, _Reading(receipt, _roster_of_then(receipt, roster)))


def run_steps(to_run: Iterable[tuple[str, Callable[[R], None]]], reading: R) -> list[Step]:
    """Steps by name, up to the first that fails."""
    steps: list[Step] = []
    for number, (name, run) in enumerate(to_run, start=1):
        try:
            run(reading)
        except CeibaError as error:
            return [*steps, Step(number, name, error)]
        steps.append(Step(number, name, None))
    return steps


def _roster_of_then(receipt: Receipt, roster: Roster) -> Roster:
    """The time is the release's, whose signature step 5 checks; one that cannot be read fails there."""
    try:
        return roster.as_of(open_operators(receipt.release.signed(), Release, roster).at)
    except CeibaError:
        return roster


def check(receipt: Receipt, roster: Roster) -> Digest:
    """The digest of the released total, once every step holds. Raises ReceiptRejected, which says which step fails."""
    last = verify(receipt, roster)[-1]
    if last.error is not None:
        raise ReceiptRejected(step=f"{last.number}, {last.name}", problem=last.error.public)
    return Release.parse(receipt.release.text.encode()).total_digest
