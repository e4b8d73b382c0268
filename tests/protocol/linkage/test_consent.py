"""Consent: once, in its time, for exactly what it says; a named error for each way to fail."""

import os
from typing import Any

import pytest
from pydantic import ValidationError

from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    ConsentExpired,
    ConsentForged,
    ConsentForOtherHolders,
    ConsentForOtherMerchant,
    ConsentForOtherModel,
    ConsentForOtherPurpose,
    ConsentForOtherSubject,
    ConsentNotYetValid,
    ConsentUsed,
    MalformedDocument,
    MalformedMessage,
    QuotaExceeded,
    UnknownConsentIssuer,
)
from ceiba_protocol.linkage.consent import (
    CLOCK_TOLERANCE,
    IDENTIFIER_BYTES,
    LONGEST_CONSENT,
    SEALED_BYTES,
    Consent,
    ConsentTerms,
    Subject,
    check_consent,
    check_score_quota,
    give_consent,
    new_subject,
    open_subject,
    seal_subject,
)
from ceiba_protocol.trust.hpke import seal_to
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.signing import sign
from tests.support.errors import everything_about
from tests.support.seeded import seeded

NOW = 1_700_000_000
MODEL = Digest("6d" * 32)
TERMS = ConsentTerms("bank", ("insurance", "tax"), "credit decision", MODEL)
KEY, OTHER_KEY = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)
ISSUERS = {"chamber": KEY.public}
FIRM = new_subject("91110000802100433B", seeded("firm"))
CONSENT = give_consent(FIRM, TERMS, ("chamber", KEY), NOW, 600, seeded("consent"))
SECRET = bytes(range(32))


def checked(signed: Any = CONSENT, **changes: Any) -> Consent:
    arguments: dict[str, Any] = {
        "terms": TERMS,
        "issuers": ISSUERS,
        "subject": FIRM,
        "now": NOW,
        "seen": lambda _: False,
    }
    return check_consent(signed, **(arguments | changes))


def terms(**changes: Any) -> ConsentTerms:
    return ConsentTerms(**{**vars(TERMS), **changes})


def test_a_consent_is_taken_from_its_beginning_to_its_end() -> None:
    for now in (NOW - CLOCK_TOLERANCE, NOW, NOW + 600):
        assert checked(now=now).jti == Consent.parse(CONSENT.body).jti


REFUSED: list[tuple[str, type[CeibaError], dict[str, Any]]] = [
    ("unknown issuer", UnknownConsentIssuer, {"issuers": {"another": KEY.public}}),
    ("wrong signature", ConsentForged, {"issuers": {"chamber": OTHER_KEY.public}}),
    ("other merchant", ConsentForOtherMerchant, {"terms": terms(merchant="mallory")}),
    ("other purpose", ConsentForOtherPurpose, {"terms": terms(purpose="advertising")}),
    ("other model", ConsentForOtherModel, {"terms": terms(model_digest=Digest("6e" * 32))}),
    ("fewer holders", ConsentForOtherHolders, {"terms": terms(holders=("tax",))}),
    ("more holders", ConsentForOtherHolders, {"terms": terms(holders=("insurance", "register", "tax"))}),
    ("not yet", ConsentNotYetValid, {"now": NOW - CLOCK_TOLERANCE - 1}),
    ("expired", ConsentExpired, {"now": NOW + 601}),
    ("other subject", ConsentForOtherSubject, {"subject": Subject("91110000802100433C", FIRM.salt)}),
    ("other salt", ConsentForOtherSubject, {"subject": Subject(FIRM.identifier, bytes(32))}),
    ("replayed", ConsentUsed, {"seen": lambda jti: jti == Consent.parse(CONSENT.body).jti}),
]


@pytest.mark.parametrize(("error", "changes"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED])
def test_each_way_to_fail_has_its_error(error: type[CeibaError], changes: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        checked(**changes)
    told = everything_about(caught.value)
    assert FIRM.identifier not in told and FIRM.salt.hex() not in told


def test_what_is_forged_is_never_marked_as_used() -> None:
    """Otherwise a stranger who has seen a jti could use up somebody's consent."""
    asked: list[str] = []
    for changes in (one[2] for one in REFUSED if one[0] != "replayed"):
        with pytest.raises(CeibaError):
            checked(**{"seen": lambda jti: bool(asked.append(jti)), **changes})
    assert asked == []


@pytest.mark.parametrize("change", ["body", "signature", "type"])
def test_changed_bytes_are_refused(change: str) -> None:
    forged = type(CONSENT)()
    forged.CopyFrom(CONSENT)
    match change:
        case "body":
            forged.body = CONSENT.body.replace(b"bank", b"tank")
        case "signature":
            forged.signature = bytes(64)
        case "type":
            forged.type = "ceiba.v1.Approval"
    with pytest.raises((ConsentForged, MalformedMessage)):
        checked(forged)


def test_one_issuer_does_not_sign_in_anothers_name() -> None:
    consent = Consent.parse(CONSENT.body)
    with pytest.raises(ConsentForged):
        checked(sign(consent, "other", OTHER_KEY), issuers={**ISSUERS, "other": OTHER_KEY.public})


@pytest.mark.parametrize(
    "changes",
    [
        {"not_after": NOW + LONGEST_CONSENT + 1},
        {"not_after": NOW},
        {"holders": ("tax", "insurance")},
        {"holders": ("tax", "tax")},
        {"holders": ()},
        {"max_uses": 2},
        {"jti": "00"},
    ],
)
def test_what_is_no_consent(changes: dict[str, Any]) -> None:
    consent = Consent.parse(CONSENT.body)
    with pytest.raises(ValidationError):
        Consent(**{**dict(consent), **changes})
    with pytest.raises(MalformedDocument):
        signed = sign(consent.model_copy(update=changes), "chamber", KEY)
        checked(signed)


def test_commitment_is_hmac_sha256() -> None:
    """RFC 4231, test case 2."""
    subject = Subject("what do ya want for nothing?", b"Jefe")
    assert subject.commitment == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_two_consents_of_one_subject_share_nothing_that_links_them() -> None:
    first, second = (
        Consent.parse(give_consent(new_subject("x", os.urandom), TERMS, ("chamber", KEY), NOW, 1, os.urandom).body)
        for _ in range(2)
    )
    assert first.jti != second.jti and first.subject_commitment != second.subject_commitment


# --- what only the holder opens --------------------------------------------------------------------------------


def test_the_subject_is_sealed_to_one_holder_for_one_consent_at_one_size() -> None:
    public = x25519_public_key(SECRET)
    sealed = seal_subject(FIRM, MODEL, "tax", public)
    assert open_subject(sealed, MODEL, "tax", SECRET) == FIRM
    assert FIRM.identifier.encode() not in sealed
    for identifier in ("x", "统" * 85, "y" * IDENTIFIER_BYTES):
        subject = new_subject(identifier, os.urandom)
        other = seal_subject(subject, MODEL, "tax", public)
        assert len(other) == SEALED_BYTES == len(sealed) and open_subject(other, MODEL, "tax", SECRET) == subject
    for consent, holder, secret in (
        (Digest("00" * 32), "tax", SECRET),
        (MODEL, "insurance", SECRET),
        (MODEL, "tax", bytes(32)),
    ):
        with pytest.raises(MalformedMessage, match="ScoreRequest"):
            open_subject(sealed, consent, holder, secret)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        bytes(33),
        bytes(32) + b"\x00" + bytes(IDENTIFIER_BYTES),  # nobody
        bytes(32) + b"\x01" + b"xy".ljust(IDENTIFIER_BYTES, b"\0"),  # something behind it
        bytes(32) + b"\x01" + b"x".ljust(IDENTIFIER_BYTES - 1, b"\0"),
        bytes(32) + b"\x01" + b"\xff".ljust(IDENTIFIER_BYTES, b"\0"),
    ],
)
def test_what_is_sealed_must_be_a_subject(plain: bytes) -> None:
    sealed = seal_to(x25519_public_key(SECRET), plain, _info())
    with pytest.raises(MalformedMessage, match="ScoreRequest"):
        open_subject(sealed, MODEL, "tax", SECRET)


def _info() -> bytes:
    parts = (b"ceiba/v1/consent-subject", bytes.fromhex(MODEL), b"tax")
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@pytest.mark.parametrize("identifier", ["", "x" * (IDENTIFIER_BYTES + 1), "统" * 86])
def test_identifiers_have_bounds(identifier: str) -> None:
    with pytest.raises(BadQuestion):
        new_subject(identifier, os.urandom)


def test_a_subject_does_not_print() -> None:
    assert FIRM.identifier not in repr(FIRM) and FIRM.salt.hex() not in repr(FIRM)


def test_the_quota_counts_what_was_answered() -> None:
    check_score_quota(2, 3, "tax")
    with pytest.raises(QuotaExceeded, match="3 of 3"):
        check_score_quota(3, 3, "tax")
