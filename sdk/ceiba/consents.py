"""Consents on their way: what a merchant asks a subject for, and what the issuer gives it (PROTOCOL §5.5 step 2).

Both are JSON files that people pass on. The request says whom, what for and by which model one would be scored; the
consent is the issuer's word that the subject said yes, with the salt by which a holder finds whom it is of.
"""

from __future__ import annotations

import os
import time
from typing import Annotated

from pydantic import Field

from ceiba_protocol.canonical import Document, Hex, Hex32, HexDigest, MemberName, Text
from ceiba_protocol.errors import BadQuestion, MalformedDocument
from ceiba_protocol.identifiers import IdentifierKind, normalise
from ceiba_protocol.linkage.consent import LONGEST_CONSENT, Consent, ConsentTerms, Subject, give_consent, new_subject
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed


class ConsentRequest(Document):
    """What a subject is asked to agree to. `RegisteredModel.consent_request` makes it."""

    merchant: MemberName
    holders: tuple[MemberName, ...]
    """Who would add to the score."""
    purpose: Text
    model_digest: HexDigest
    kind: IdentifierKind
    """Which identifier the subject gives."""

    @property
    def terms(self) -> ConsentTerms:
        return ConsentTerms(self.merchant, self.holders, self.purpose, self.model_digest)

    def subject(self, identifier: str, salt: bytes) -> Subject:
        """Raises BadIdentifier."""
        return Subject(normalise(self.kind, identifier), salt)


class GivenConsent(Document):
    """A consent with its salt. Whoever has it and the subject's identifier can use it, once."""

    issuer: Text
    text: str
    """The Consent that the issuer signed."""
    signature: Hex
    salt: Hex32

    @property
    def signed(self) -> Signed:
        signature = bytes.fromhex(self.signature)
        return Signed(type=type_of(Consent), body=self.text.encode(), signer=self.issuer, signature=signature)

    @property
    def consent(self) -> Consent:
        """Whose signature the holders check. Raises MalformedDocument."""
        return Consent.parse(self.text.encode())

    def __repr__(self) -> str:
        return f"GivenConsent(issuer={self.issuer!r})"


class IssuerKey(Document):
    """An issuer's Ed25519 key, as its sealed file has it."""

    name: Text
    """As agreements name it."""
    seed: Annotated[Hex32, Field(repr=False)]

    @property
    def key(self) -> SigningKey:
        return SigningKey(bytes.fromhex(self.seed))


def new_issuer(name: str) -> IssuerKey:
    """A new key. Agreements name the issuer with its public half."""
    return IssuerKey(name=name, seed=os.urandom(32).hex())


def give(request: ConsentRequest, identifier: str, issuer: IssuerKey, hours: float = 24) -> GivenConsent:
    """Run by the issuer, once the subject has said yes to exactly this request.

    `hours`: from now on, at most 24. Raises BadIdentifier, BadQuestion.
    """
    seconds = round(hours * 3600)
    if not 1 <= seconds <= LONGEST_CONSENT:
        raise BadQuestion(problem=f"a consent of {hours} hours", hint="A consent lasts up to 24 hours.")
    subject = new_subject(normalise(request.kind, identifier), os.urandom)
    signed = give_consent(subject, request.terms, (issuer.name, issuer.key), int(time.time()), seconds, os.urandom)
    return GivenConsent(
        issuer=issuer.name, text=signed.body.decode(), signature=signed.signature.hex(), salt=subject.salt.hex()
    )


def read_request(content: bytes) -> ConsentRequest:
    """Raises BadQuestion for what is no request."""
    try:
        return ConsentRequest.parse(content.strip())
    except MalformedDocument:
        raise BadQuestion(
            problem="the file is no request for a consent", hint="`ceiba consent ask` writes one."
        ) from None


def read_consent(content: bytes) -> GivenConsent:
    """Raises BadQuestion for what is no consent."""
    try:
        given = GivenConsent.parse(content.strip())
        given.consent  # noqa: B018 - it must be one
    except MalformedDocument:
        raise BadQuestion(problem="the file is no consent", hint="`ceiba consent give` writes one.") from None
    return given
