"""The coordinator's book of agreements: what it takes, what it shows to whom, and what follows."""

from pathlib import Path
from typing import Any

import pytest

from ceiba_coordinator import agreements as book
from ceiba_protocol.errors import (
    AgreementMismatch,
    AgreementNotActive,
    BadSignature,
    CeibaError,
    IllegalNotice,
    MalformedMessage,
    MessageTooLarge,
    QuotaExceeded,
    TooFewHolders,
    UnknownAgreement,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.trust.agreement import DAY, Notice, State, Word, read_contract
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from tests.coordinator.office import Office, refused
from tests.support.members import HOLDERS, MERCHANT, NOW, altered, holder, resigned, signed_by, signing_key

FIRST, SECOND, THIRD = HOLDERS
OTHER = "bank-b"


@pytest.fixture
def office() -> Office:
    return Office(agreed=False)


def state(office: Office) -> State:
    """As everybody who is shown the evidence computes it."""
    stored = office.store.agreement(office.world.agreement.digest())
    assert stored is not None
    return read_contract(stored.signatures, stored.notices, office.world.roster).state(office.now)


def say(office: Office, member: str, word: Word, number: int = 1) -> None:
    office.agreements.submit(office.world.notice(member, word, number), member)


def propose(office: Office, number: int, **changes: Any) -> None:
    """Another agreement of the same merchant."""
    agreement = office.world.make_agreement(agreement_id=f"{number:032x}", **changes)
    office.agreements.submit(signed_by(MERCHANT, agreement), MERCHANT)


# --- its life, as a table ----------------------------------------------------------------------------------------

ALL = (MERCHANT, *HOLDERS)
LIVES: dict[str, tuple[tuple[str, ...], list[tuple[str, Word]], State]] = {
    "proposed": ((MERCHANT,), [], State.PROPOSED),
    "all but one": (ALL[:-1], [], State.PROPOSED),
    "all": (ALL, [], State.ACTIVE),
    "refused": ((MERCHANT, FIRST), [(SECOND, Word.REFUSE)], State.REFUSED),
    "withdrawn": ((MERCHANT, FIRST), [(MERCHANT, Word.WITHDRAW)], State.WITHDRAWN),
    "suspended": (ALL, [(FIRST, Word.SUSPEND)], State.SUSPENDED),
    "resumed": (ALL, [(FIRST, Word.SUSPEND), (FIRST, Word.RESUME)], State.ACTIVE),
    "resumed by one": (
        ALL,
        [(FIRST, Word.SUSPEND), (SECOND, Word.SUSPEND), (FIRST, Word.RESUME)],
        State.SUSPENDED,
    ),
    "terminated": (ALL, [(MERCHANT, Word.TERMINATE)], State.TERMINATED),
}


@pytest.mark.parametrize("life", LIVES)
def test_state_follows_from_what_was_stored(tmp_path: Path, life: str) -> None:
    signers, words, expected = LIVES[life]
    office = Office(tmp_path / "coordinator.sqlite3", agreed=False)
    office.agree(*signers)
    numbers = dict.fromkeys(ALL, 0)
    for member, word in words:
        numbers[member] += 1
        say(office, member, word, numbers[member])
    office.restart()
    assert state(office) is expected
    if expected is State.ACTIVE:
        office.submit()
    else:
        refused(AgreementNotActive, office.submit)


def test_agreement_expires(office: Office) -> None:
    office.agree()
    office.now = office.world.agreement.not_after + 1
    assert state(office) is State.EXPIRED
    refused(AgreementNotActive, office.submit)


def test_agreement_with_a_revoked_party_ends_by_itself(office: Office) -> None:
    office.agree()
    members = [member for member in office.world.roster.members if member.name != THIRD]
    office.put_in_force(office.world.make_roster(members, version=2, tables=office.world.roster.tables))
    refused(UnknownMember, office.submit)


def test_signatures_come_back_as_they_were_sent(office: Office) -> None:
    office.agree()
    (evidence,) = office.agreements.list(MERCHANT).agreements
    assert list(evidence.signatures) == office.world.signatures()


def test_same_document_again_changes_nothing(office: Office) -> None:
    office.agree()
    say(office, FIRST, Word.SUSPEND)
    size = office.store.log_size()
    office.agree()
    say(office, FIRST, Word.SUSPEND)
    assert office.store.log_size() == size


# --- false signatures and notices --------------------------------------------------------------------------------


def refused_submission(office: Office, error: type[CeibaError], signed: Signed, member: str) -> None:
    """Refused, and nothing is stored or logged."""
    before = (office.store.agreements(), office.store.log_size())
    refused(error, office.agreements.submit, signed, member)
    assert (office.store.agreements(), office.store.log_size()) == before


def test_forged_signature_is_refused(office: Office) -> None:
    office.agree(MERCHANT)
    agreement = office.world.agreement
    own_key = sign(agreement, FIRST, signing_key(FIRST))  # the member's key, where it takes the officer's
    refused_submission(office, BadSignature, own_key, FIRST)
    refused_submission(office, BadSignature, sign(agreement, FIRST, signing_key("mallory")), FIRST)
    honest = signed_by(FIRST, agreement)
    refused_submission(office, BadSignature, altered(honest, b'"jobs":100', b'"jobs":900'), FIRST)
    refused_submission(office, MalformedMessage, honest, SECOND)


def test_forged_notice_is_refused(office: Office) -> None:
    office.agree()
    notice = office.world.notice
    refused_submission(office, MalformedMessage, notice(FIRST, Word.SUSPEND), SECOND)
    in_anothers_name = resigned(notice(FIRST, Word.SUSPEND), Notice, member=SECOND)
    refused_submission(office, AgreementMismatch, in_anothers_name, FIRST)
    altered_notice = altered(notice(FIRST, Word.SUSPEND), b'"number":1', b'"number":2')
    refused_submission(office, BadSignature, altered_notice, FIRST)
    unknown = notice(FIRST, Word.SUSPEND, agreement_digest="ab" * 32)
    refused_submission(office, UnknownAgreement, unknown, FIRST)


def test_second_notice_of_a_number_is_refused(office: Office) -> None:
    """Which of the two came first could not be told."""
    office.agree()
    say(office, FIRST, Word.SUSPEND)
    refused_submission(office, IllegalNotice, office.world.notice(FIRST, Word.RESUME), FIRST)


def test_words_have_their_parties(office: Office) -> None:
    office.agree(MERCHANT)
    refused_submission(office, IllegalNotice, office.world.notice(FIRST, Word.WITHDRAW), FIRST)
    refused_submission(office, IllegalNotice, office.world.notice(MERCHANT, Word.REFUSE), MERCHANT)


def test_other_documents_are_refused(office: Office) -> None:
    refused_submission(office, MalformedMessage, office.world.signed_manifest(), MERCHANT)
    refused_submission(office, MalformedMessage, Signed(), MERCHANT)


def test_signature_on_a_proposal_that_was_withdrawn_is_refused(office: Office) -> None:
    office.agree(MERCHANT)
    say(office, MERCHANT, Word.WITHDRAW)
    refused_submission(office, AgreementNotActive, signed_by(FIRST, office.world.agreement), FIRST)


# --- proposals ---------------------------------------------------------------------------------------------------


def test_only_the_merchant_proposes(office: Office) -> None:
    refused_submission(office, UnknownAgreement, signed_by(FIRST, office.world.agreement), FIRST)
    refused_submission(office, AgreementMismatch, signed_by(OTHER, office.world.agreement), OTHER)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"space": "another-space"}, AgreementMismatch),
        ({"table": "health.lungs"}, UnknownTable),
        ({"schema_digest": "ab" * 32}, AgreementMismatch),
        ({"tolerated": 2}, TooFewHolders),
        ({"not_before": NOW - 2 * DAY, "not_after": NOW - DAY}, AgreementMismatch),
        ({"purpose": "x" * book.LARGEST_AGREEMENT}, MessageTooLarge),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unfit_proposal_is_refused(office: Office, changes: dict[str, Any], error: type[CeibaError]) -> None:
    made = signed_by(MERCHANT, office.world.make_agreement(**changes))
    refused_submission(office, error, made, MERCHANT)


def test_proposal_to_a_holder_without_the_table_is_refused(office: Office) -> None:
    outsider = holder("outsider")
    office.world.roster = office.world.make_roster([*office.world.roster.members, outsider], version=2)
    office.put_in_force(office.world.roster)
    made = signed_by(MERCHANT, office.world.make_agreement([*HOLDERS, "outsider"]))
    refused_submission(office, AgreementMismatch, made, MERCHANT)


def test_id_of_an_agreement_is_used_once(office: Office) -> None:
    office.agree(MERCHANT)
    other = signed_by(MERCHANT, office.world.make_agreement(purpose="marketing"))
    refused_submission(office, AgreementMismatch, other, MERCHANT)


def test_open_proposals_of_a_merchant_are_limited(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "OPEN_PROPOSALS", 3)
    office.agree()
    for number in range(3):
        propose(office, number)
    refused(QuotaExceeded, propose, office, 3)
    theirs = office.world.make_agreement(merchant=OTHER, agreement_id="0e" * 16)
    office.agreements.submit(signed_by(OTHER, theirs), OTHER)
    digest = office.store.agreements()[-2].digest
    office.agreements.submit(office.world.notice(MERCHANT, Word.WITHDRAW, agreement_digest=digest), MERCHANT)
    propose(office, 3)


# --- who sees what -----------------------------------------------------------------------------------------------


def test_merchant_sees_its_own_and_holders_see_all(office: Office) -> None:
    office.agree(MERCHANT)
    theirs = office.world.make_agreement(merchant=OTHER, agreement_id="0e" * 16)
    office.agreements.submit(signed_by(OTHER, theirs), OTHER)

    def seen(member: str) -> list[bytes]:
        return [evidence.signatures[0].body for evidence in office.agreements.list(member).agreements]

    mine = office.world.agreement
    assert seen(MERCHANT) == [mine.body()]
    assert seen(OTHER) == [theirs.body()]
    assert seen(FIRST) == [mine.body(), theirs.body()]


def test_another_merchant_learns_as_little_as_of_no_agreement(office: Office) -> None:
    office.agree()
    about_it = office.world.notice(OTHER, Word.TERMINATE)
    about_nothing = office.world.notice(OTHER, Word.TERMINATE, agreement_digest="ab" * 32)
    refused_submission(office, UnknownAgreement, about_it, OTHER)
    refused_submission(office, UnknownAgreement, about_nothing, OTHER)


def test_holders_get_an_agreement_again_when_it_has_changed(office: Office) -> None:
    office.agree(MERCHANT)
    (before,) = office.agreements.concerning(SECOND)
    assert list(office.agreements.concerning(SECOND)) == [before]
    office.agree(FIRST)
    ((after, evidence),) = office.agreements.concerning(SECOND).items()
    assert after != before and [one.signer for one in evidence.signatures] == [MERCHANT, FIRST]


def test_holder_of_another_table_is_not_told(office: Office) -> None:
    office.agree(MERCHANT)
    assert not office.agreements.concerning("outsider")
