"""Receipts of scores: who agreed, consented, asked and answered, checked offline with a roster alone (PROTOCOL §5.5).

It is what the merchant keeps of one request: documents that others have signed, and its own. It has no score in it and
no identifier. The log has the digests of what it consists of; that it does is no part of the proof, nor is the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

from pydantic import Field

from ceiba_protocol.canonical import MAX_BODY_BYTES, Document, Hex, HexDigest, Text
from ceiba_protocol.errors import CeibaError, ReceiptRejected
from ceiba_protocol.linkage.consent import Consent, check_terms, open_consent
from ceiba_protocol.linkage.score_model import ScoreModel, check_agreed, terms_of
from ceiba_protocol.linkage.scoring import (
    ScoreAnswer,
    ScoreRequest,
    check_answered,
    commit_to_holders,
    request_context,
)
from ceiba_protocol.trust.agreement import Agreement, read_contract
from ceiba_protocol.trust.receipt import SharedText, SignedText, Step, run_steps
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import document_digest, type_of
from ceiba_protocol.v1.common_pb2 import Signed


class ConsentText(Document):
    """A signed consent as JSON has it; its issuer is no member."""

    issuer: Text
    text: str
    """What was signed."""
    signature: Hex

    @classmethod
    def of(cls, signed: Signed) -> Self:
        return cls(issuer=signed.signer, text=signed.body.decode(), signature=signed.signature.hex())

    def signed(self) -> Signed:
        signature = bytes.fromhex(self.signature)
        return Signed(type=type_of(Consent), body=self.text.encode(), signer=self.issuer, signature=signature)


class ScoreReceipt(Document):
    """Of one request for scores; a JSON file."""

    MAX_BYTES: ClassVar[int] = 16 * MAX_BODY_BYTES
    format: Annotated[int, Field(ge=1, le=1)] = 1
    roster_digest: HexDigest
    """Of the roster under which the signatures verify; a newer one serves as well."""
    agreement: SharedText
    model: SignedText
    approvals: tuple[SignedText, ...]
    """Of the model, by its holders."""
    request: SignedText
    consents: tuple[ConsentText, ...]
    """In the request's order."""
    answers: tuple[SignedText, ...]
    """Each has the digest of the ciphertexts that its holder sent, and which consents it refused."""


def score_receipt(
    roster: Roster, agreement: SharedText, model: Signed, approvals: Sequence[Signed], request: Signed,
    consents: Sequence[Signed], answers: Sequence[Signed],
) -> ScoreReceipt:  # fmt: skip
    """Run by the merchant, of what it has verified."""
    return ScoreReceipt(
        roster_digest=roster.digest(),
        agreement=agreement,
        model=SignedText.of(model),
        approvals=tuple(map(SignedText.of, approvals)),
        request=SignedText.of(request),
        consents=tuple(map(ConsentText.of, consents)),
        answers=tuple(map(SignedText.of, answers)),
    )


@dataclass
class _Reading:
    """What the steps have found so far; each step builds on those before it."""

    receipt: ScoreReceipt
    roster: Roster
    agreement: Agreement = field(init=False)
    model: ScoreModel = field(init=False)
    mask_keys: dict[str, bytes] = field(init=False)
    request: ScoreRequest = field(init=False)


def _agreement(reading: _Reading) -> None:
    contract = read_contract(reading.receipt.agreement.signed(), [], reading.roster)
    if contract.missing:
        raise _fails(f"{', '.join(contract.missing)} did not sign the agreement.")
    reading.agreement = contract.agreement


def _model(reading: _Reading) -> None:
    signed = reading.receipt.model.signed()
    reading.model = reading.roster.open(signed, ScoreModel, Role.MERCHANT)
    if signed.signer != reading.model.merchant:
        raise _fails("its merchant is not its signer.")
    check_agreed(reading.model, reading.agreement)


def _approvals(reading: _Reading) -> None:
    signed = [one.signed() for one in reading.receipt.approvals]
    reading.mask_keys = commit_to_holders(reading.model, signed, reading.roster)


def _request(reading: _Reading) -> None:
    signed = reading.receipt.request.signed()
    reading.request = reading.roster.open(signed, ScoreRequest, Role.MERCHANT)
    if (signed.signer, reading.request.model_digest) != (reading.model.merchant, reading.model.digest()):
        raise _fails("it is another merchant's, or for another model.")


def _consents(reading: _Reading) -> None:
    signed = [one.signed() for one in reading.receipt.consents]
    if tuple(map(document_digest, signed)) != reading.request.consents:
        raise _fails("its consents are not those of the request.")
    assert reading.agreement.joint is not None  # `check_agreed` has seen it
    issuers = {one.name: bytes.fromhex(one.key) for one in reading.agreement.joint.consent_issuers}
    for one in signed:
        consent = open_consent(one, issuers)
        check_terms(consent, terms_of(reading.model), consent.not_before)


def _answers(reading: _Reading) -> None:
    context = request_context(reading.model, reading.request, reading.mask_keys)
    signed = [one.signed() for one in reading.receipt.answers]
    for one in signed:
        answer = reading.roster.open(one, ScoreAnswer, Role.HOLDER)
        check_answered(answer, one.signer, reading.model, reading.request, context)
    if tuple(sorted(one.signer for one in signed)) != reading.model.holders:
        raise _fails("the answers are not one of each holder.")


STEPS: tuple[tuple[str, Callable[[_Reading], None]], ...] = (
    ("every party signed the agreement", _agreement),
    ("the merchant signed a model within it", _model),
    ("every holder of the model approved it", _approvals),
    ("the merchant signed the request for scores with it", _request),
    ("who the agreement names attested each consent to it", _consents),
    ("each holder signed for what it sent or refused", _answers),
)
"""In order; a step that fails ends the verification."""


def _fails(problem: str) -> ReceiptRejected:
    return ReceiptRejected(step="?", problem=problem)


def verify(receipt: ScoreReceipt, roster: Roster) -> list[Step]:
    """The steps up to the first that fails, or all of them. `roster` is one that the verifier trusts, and is read as of
    the newest consent, whose issuer said when it began."""
    try:
        begun = [Consent.parse(one.text.encode()).not_before for one in receipt.consents]
    except CeibaError:
        begun = []  # which fails in its step
    return run_steps(STEPS, _Reading(receipt, roster.as_of(max(begun)) if begun else roster))
