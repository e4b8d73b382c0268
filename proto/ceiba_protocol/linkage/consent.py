"""Consent: a subject's word that it may be scored, once (PROTOCOL §5.5 steps 2 to 4).

A consent is signed by an issuer that the agreement names, and says nothing about whom it is of but a commitment. The
subject's identifier travels beside it, sealed to each holder, so that the coordinator never sees it; a holder opens
it, compares it with the commitment, and answers each consent once.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import Digest, Document, HexDigest, JobId, MemberName, Seconds, Text, tlv
from ceiba_protocol.errors import (
    BadQuestion,
    BadSignature,
    ConsentExpired,
    ConsentForged,
    ConsentForOtherHolders,
    ConsentForOtherMerchant,
    ConsentForOtherModel,
    ConsentForOtherPurpose,
    ConsentForOtherSubject,
    ConsentNotYetValid,
    ConsentUsed,
    MalformedMessage,
    QuotaExceeded,
    UnknownConsentIssuer,
)
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.hpke import open_sealed, seal_to
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.signing import open_signed, sign
from ceiba_protocol.v1.common_pb2 import Signed

LONGEST_CONSENT = 24 * 3600
"""Seconds. A holder remembers what it has answered for so long at least."""
CLOCK_TOLERANCE = 300
"""Seconds by which a consent may begin early; an end is an end (PROTOCOL §6.5)."""
SCORES_PER_DAY = 3
"""Of one subject for one merchant, whatever the models: more would read a subject bit by bit (PROTOCOL §5.5)."""
SALT_BYTES = 32
IDENTIFIER_BYTES = 255
"""Longest normalised identifier, in UTF-8. All are sealed at this length, so that lengths tell nothing."""
SEALED_BYTES = SALT_BYTES + 1 + IDENTIFIER_BYTES + 48


# --- the subject -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Subject:
    """Whom a consent is of. `identifier` is normalised, of 1 to IDENTIFIER_BYTES bytes; `salt` has SALT_BYTES random
    bytes, without which the commitment to a public identifier would be no secret. Neither is ever printed."""

    identifier: str
    salt: bytes

    @property
    def commitment(self) -> Digest:
        """HMAC-SHA256(salt, identifier)."""
        return Digest(hmac.digest(self.salt, self.identifier.encode(), hashlib.sha256).hex())

    def __repr__(self) -> str:
        return "Subject(…)"


def new_subject(identifier: str, random: Random) -> Subject:
    """Run by whoever asks the subject: a normalised identifier with a new salt. Raises BadQuestion."""
    if not 1 <= len(identifier.encode()) <= IDENTIFIER_BYTES:
        problem = f"an identifier has 1 to {IDENTIFIER_BYTES} bytes in UTF-8"
        raise BadQuestion(problem=problem, hint="Give the subject's identifier as the table's subject key has it.")
    return Subject(identifier, random(SALT_BYTES))


def seal_subject(subject: Subject, consent_digest: Digest, holder: str, sealing_key: bytes) -> bytes:
    """Run by the merchant: SEALED_BYTES that only `holder` can open, and for this consent alone (step 3)."""
    identifier = subject.identifier.encode()
    plain = subject.salt + bytes([len(identifier)]) + identifier.ljust(IDENTIFIER_BYTES, b"\0")
    return seal_to(sealing_key, plain, _seal_info(consent_digest, holder))


def open_subject(sealed: bytes, consent_digest: Digest, me: str, sealing_secret: bytes) -> Subject:
    """Run by the holder `me`: what was sealed to it for this consent. Raises MalformedMessage."""
    problem = "what is sealed in it is not the subject of its consent for this holder"
    try:
        plain = open_sealed(sealing_secret, sealed, _seal_info(consent_digest, me), "ScoreRequest")
        salt, size, padded = plain[:SALT_BYTES], plain[SALT_BYTES], plain[SALT_BYTES + 1 :]
        identifier, padding = padded[:size].decode(), padded[size:]
    except (MalformedMessage, IndexError, UnicodeDecodeError):
        raise MalformedMessage(message="ScoreRequest", problem=problem) from None
    if not identifier or len(sealed) != SEALED_BYTES or padding.strip(b"\0"):
        raise MalformedMessage(message="ScoreRequest", problem=problem)
    return Subject(identifier, salt)


def _seal_info(consent_digest: Digest, holder: str) -> bytes:
    return tlv(b"ceiba/v1/consent-subject", bytes.fromhex(consent_digest), holder.encode())


# --- the consent -----------------------------------------------------------------------------------------------


class Consent(Document):
    """One subject may be scored once, with one model, for one merchant and purpose. Signed by `issuer`."""

    jti: JobId
    """16 random bytes: the consent's own number, which every holder answers once."""
    issuer: Text
    subject_commitment: HexDigest
    """HMAC-SHA256 under the subject's salt of its normalised identifier."""
    merchant: MemberName
    holders: Annotated[tuple[MemberName, ...], Field(min_length=1)]
    """Every holder that adds to the score, sorted."""
    purpose: Text
    model_digest: HexDigest
    not_before: Seconds
    not_after: Seconds
    """At most LONGEST_CONSENT after `not_before`."""
    max_uses: Literal[1] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.not_before < self.not_after <= self.not_before + LONGEST_CONSENT:
            raise ValueError("it must end after it begins, within a day")
        if list(self.holders) != sorted(set(self.holders)):
            raise ValueError("holders are sorted and distinct")
        return self


@dataclass(frozen=True)
class ConsentTerms:
    """What a consent must be for; it follows from the model (`scoring.terms_of`)."""

    merchant: str
    holders: tuple[str, ...]
    purpose: str
    model_digest: Digest


def give_consent(
    subject: Subject, terms: ConsentTerms, issuer: tuple[str, SigningKey], now: int, seconds: int, random: Random
) -> Signed:
    """Run by the issuer, once the subject has said yes: a consent from `now` on, for 1 to LONGEST_CONSENT seconds."""
    name, key = issuer
    consent = Consent(
        jti=random(16).hex(),
        issuer=name,
        subject_commitment=subject.commitment,
        merchant=terms.merchant,
        holders=terms.holders,
        purpose=terms.purpose,
        model_digest=terms.model_digest,
        not_before=now,
        not_after=now + seconds,
    )
    return sign(consent, name, key)


def open_consent(signed: Signed, issuers: Mapping[str, bytes]) -> Consent:
    """Steps 1 and 2 of `check_consent`, which need no subject. Raises UnknownConsentIssuer, ConsentForged,
    MalformedDocument, MalformedMessage."""
    # 1. The agreement names the issuer.
    if signed.signer not in issuers:
        raise UnknownConsentIssuer(issuer=signed.signer)
    # 2. The issuer has signed it, in its own name.
    try:
        consent = open_signed(signed, Consent, issuers[signed.signer])
    except BadSignature:
        raise ConsentForged(issuer=signed.signer) from None
    if consent.issuer != signed.signer:
        raise ConsentForged(issuer=signed.signer)
    return consent


def check_terms(consent: Consent, terms: ConsentTerms, now: int) -> None:
    """Steps 3 to 7 of `check_consent`, which the coordinator can run as well. Raises the error of each."""
    # 3. to 6. It is for this merchant, this purpose, this model and exactly these holders.
    if consent.merchant != terms.merchant:
        raise ConsentForOtherMerchant(merchant=terms.merchant)
    if consent.purpose != terms.purpose:
        raise ConsentForOtherPurpose
    if consent.model_digest != terms.model_digest:
        raise ConsentForOtherModel
    if consent.holders != terms.holders:
        raise ConsentForOtherHolders(holders=", ".join(terms.holders))
    # 7. It has begun, give or take the clocks, and has not ended.
    if now < consent.not_before - CLOCK_TOLERANCE:
        _outside(ConsentNotYetValid, consent.not_before, now)
    if now > consent.not_after:
        _outside(ConsentExpired, consent.not_after, now)


def check_consent(
    signed: Signed, terms: ConsentTerms, issuers: Mapping[str, bytes], subject: Subject, now: int,
    seen: Callable[[str], bool],
) -> Consent:  # fmt: skip
    """Run by a holder for each score (PROTOCOL §5.5 step 4): the consent, if it allows this score now.

    1. The agreement names its issuer: `issuers`, name → Ed25519 public key. 2. The issuer signed it. 3.–6. It is for
    this merchant, purpose, model and set of holders. 7. `now`, seconds since 1970 UTC, is in its window. 8. It is of
    this subject. 9. `seen`, asked for its jti, does not know it. Must follow: the jti is remembered durably, at least
    until the consent ends, before anything is sent; of two threads with one jti only one may go on.
    Raises UnknownConsentIssuer, ConsentForged, ConsentForOtherMerchant, …Purpose, …Model, …Holders, …Subject,
    ConsentNotYetValid, ConsentExpired, ConsentUsed, MalformedDocument, MalformedMessage.
    """
    # 1. and 2.
    consent = open_consent(signed, issuers)
    # 3. to 7.
    check_terms(consent, terms, now)
    # 8. It is of the subject whose identifier was sealed to this holder.
    if not hmac.compare_digest(consent.subject_commitment, subject.commitment):
        raise ConsentForOtherSubject
    # 9. It was not used before.
    if seen(consent.jti):
        raise ConsentUsed
    return consent


def _outside(kind: type[ConsentNotYetValid] | type[ConsentExpired], bound: int, now: int) -> NoReturn:
    at, here = (datetime.fromtimestamp(time, UTC).isoformat() for time in (bound, now))
    raise kind(at=at, now=here)


# --- how often -------------------------------------------------------------------------------------------------


def check_score_quota(used: int, limit: int, holder: str) -> None:
    """Run by a holder before it answers. `used`: scores of this subject for the merchant's organisation since midnight
    UTC, over all models together, without the one that is asked for. Raises QuotaExceeded."""
    if used >= limit:
        quota = "scores of one subject for one merchant in one day"
        raise QuotaExceeded(quota=quota, holder=holder, used=used, limit=limit)
