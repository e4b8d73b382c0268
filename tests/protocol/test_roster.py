"""What a member checks before it pins a roster: a lying operator must show one that everybody refuses."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadKeyProof,
    BadSignature,
    CeibaError,
    KeyTooShort,
    MalformedDocument,
    RosterMismatch,
    RosterNotApproved,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.joining import check_pin, confirm_pin
from ceiba_protocol.trust.certificates import certificate_fingerprint, make_authority
from ceiba_protocol.trust.identity import Duty, DutyKey, Identity
from ceiba_protocol.trust.roster import (
    Charter,
    Descriptor,
    Revocation,
    Role,
    Roster,
    RosterApproval,
    RosterTable,
    approval_of,
    check_roster,
    check_succession,
)
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.trust.words import words_of
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import (
    HOLDERS,
    LOG_KEY,
    NOW,
    SCHEMA,
    World,
    altered,
    changed,
    encryption_key,
    holder,
    merchant,
    officer,
    publisher,
    resigned,
    signed_by,
    signing_key,
)

AUTHORITY = make_authority("test-space", datetime.now(UTC)).certificate
ME = holder("cleveland")
HONEST = (merchant(bits=3072), *map(holder, HOLDERS))


def roster(members: Iterable[Descriptor] = HONEST, holders: Iterable[str] = HOLDERS, **changes: Any) -> Roster:
    fields: dict[str, Any] = {
        "space": "test-space",
        "version": 2,
        "authority_fingerprint": certificate_fingerprint(AUTHORITY),
        "log_key": LOG_KEY.public.hex(),
        "members": tuple(members),
        "tables": (RosterTable(table="health.heart", schema_digest=SCHEMA.digest(), holders=tuple(holders)),),
    }
    return Roster(**(fields | changes))


def refused(wrong: Roster, error: type[CeibaError], says: str | None = None, me: Descriptor = ME) -> None:
    with pytest.raises(error, match=says):
        check_roster(wrong, me)


def with_member(name: str, /, **changes: Any) -> tuple[Descriptor, ...]:
    return tuple(changed(member, **changes) if member.name == name else member for member in HONEST)


@pytest.mark.parametrize("me", HONEST, ids=lambda me: me.name)
def test_an_honest_roster_is_pinned_by_everybody(me: Descriptor) -> None:
    check_roster(roster(), me)


# --- who is on it ------------------------------------------------------------------------------------------------


def test_roster_without_me_is_refused() -> None:
    refused(roster(HONEST[:-1]), RosterMismatch, "zurich", me=holder("zurich"))


@pytest.mark.parametrize("field", ["signing_key", "tls_fingerprint", "organisation"])
def test_own_entry_altered_is_refused(field: str) -> None:
    refused(roster(with_member("cleveland", **{field: "cd" * 32})), RosterMismatch, "its entry for cleveland")


def test_own_encryption_key_altered_is_refused() -> None:
    """The key is well formed and proved, and it is not the merchant's own."""
    other = encryption_key("bank-a", 4096)
    refused(roster(with_member("bank-a", encryption_key=other)), RosterMismatch, "bank-a", me=HONEST[0])


def test_sybil_organisation_is_refused() -> None:
    refused(roster(with_member("hungary", organisation="zurich")), RosterMismatch, "organisation")


@pytest.mark.parametrize("spelling", ["ZURICH", " zurich  ", "\uff5aurich", "zurich\u00a0"])
def test_another_spelling_is_no_other_organisation(spelling: str) -> None:
    refused(roster(with_member("hungary", organisation=spelling)), RosterMismatch, "organisation")


def test_merchant_may_belong_to_a_holders_organisation() -> None:
    check_roster(roster(with_member("bank-a", organisation="zurich")), ME)


def test_nobody_is_called_like_the_operator_in_the_log() -> None:
    refused(roster([*HONEST, holder("coordinator")]), RosterMismatch, "operator's name")


def test_two_members_of_one_name_are_refused() -> None:
    twin = changed(holder("hungary"), name="zurich", organisation="other")
    refused(roster([*HONEST, twin]), RosterMismatch, "same name")


def test_one_signing_key_for_two_names_is_refused() -> None:
    refused(
        roster(with_member("hungary", signing_key=holder("zurich").signing_key)), RosterMismatch, "same signing key"
    )


def test_one_tls_key_for_two_names_is_refused() -> None:
    fingerprint = holder("zurich").tls_fingerprint
    refused(roster(with_member("hungary", tls_fingerprint=fingerprint)), RosterMismatch, "same TLS key")


def test_names_do_not_differ_in_case_alone() -> None:
    capital = changed(roster(), members=with_member("hungary", name="Zurich"))
    with pytest.raises(MalformedDocument):
        Roster.parse(capital.body())


@pytest.mark.parametrize(("role", "has_key"), [(Role.HOLDER, True), (Role.MERCHANT, False)])
def test_merchants_alone_have_encryption_keys(role: Role, has_key: bool) -> None:
    entry = changed(HONEST[0], role=role, encryption_key=HONEST[0].encryption_key if has_key else None)
    with pytest.raises(MalformedDocument):
        Descriptor.parse(entry.body())


# --- merchants' keys (I6) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1024, 2048])
def test_short_key_is_refused(bits: int) -> None:
    refused(roster([merchant(bits=bits), *HONEST[1:]]), KeyTooShort)


def test_proof_for_another_merchant_is_refused() -> None:
    """The same key, whose proof is bound to bank-b's name and signing key."""
    stolen = encryption_key("bank-b", 3072)
    refused(roster(with_member("bank-a", encryption_key=stolen)), BadKeyProof)


def test_damaged_proof_is_refused() -> None:
    key = encryption_key("bank-a", 3072)
    wrong = changed(key, proof=key.proof[:-2] + ("00" if key.proof[-2:] != "00" else "01"))
    refused(roster(with_member("bank-a", encryption_key=wrong)), BadKeyProof)


def test_missing_proof_is_refused() -> None:
    refused(
        roster(with_member("bank-a", encryption_key=changed(encryption_key("bank-a", 3072), proof=""))), BadKeyProof
    )


def test_one_bad_merchant_spoils_the_roster_for_everybody() -> None:
    second = changed(merchant("bank-b", 3072), encryption_key=encryption_key("bank-a", 3072))
    for me in HONEST:
        refused(roster([*HONEST, second]), BadKeyProof, me=me)


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holders", [HOLDERS[:1], HOLDERS[:2]])
def test_a_table_may_have_few_holders_whom_only_joint_agreements_can_name(holders: tuple[str, ...]) -> None:
    check_roster(roster(holders=holders), ME)


@pytest.mark.parametrize(
    "holders",
    [
        ("cleveland", "cleveland", "zurich"),
        ("zurich", "hungary", "cleveland"),
        ("cleveland", "hungary", "zurich", "zurich"),
    ],
)
def test_holders_are_sorted_and_distinct(holders: tuple[str, ...]) -> None:
    refused(roster(holders=holders), RosterMismatch, "sorted and distinct")


def test_table_of_a_stranger_is_refused() -> None:
    refused(roster(holders=("cleveland", "hungary", "mallory")), UnknownMember, "mallory")


def test_merchant_does_not_stand_behind_a_table() -> None:
    refused(roster(holders=("bank-a", "cleveland", "hungary")), UnknownMember, "bank-a")


def test_table_without_holders_is_refused() -> None:
    empty = changed(roster(), tables=(changed(roster().tables[0], holders=()),))
    with pytest.raises(MalformedDocument):
        Roster.parse(empty.body())


def test_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UnknownTable, match=r"nearest name is health\.heart"):
        roster().table("health.hart")


def test_role_is_part_of_who_somebody_is() -> None:
    with pytest.raises(UnknownMember):
        roster().member("bank-a", Role.HOLDER)
    with pytest.raises(UnknownMember):
        roster().member("cleveland", Role.MERCHANT)


# --- pinning -----------------------------------------------------------------------------------------------------


def identity(descriptor: Descriptor = ME, authority: bytes = AUTHORITY, space: str = "test-space") -> Identity:
    return Identity(
        space=space,
        descriptor=descriptor,
        coordinator="127.0.0.1:1",
        signing_seed="00" * 32,
        sealing_seed="00" * 32,
        storage_key="00" * 32,
        tls_key="",
        certificate="",
        authority=authority.decode(),
        encryption=None,
    )


def test_confirmed_roster_is_pinned() -> None:
    body = roster().body()
    assert check_pin(identity(), body, f" {roster().fingerprint.upper()}\n", None).body() == body


def test_the_first_question_does_not_show_the_fingerprint_that_is_to_be_compared() -> None:
    asked: list[str] = []
    typed = iter(["", roster().fingerprint])

    def ask(text: str) -> str:
        asked.append(text)
        return next(typed)

    assert confirm_pin(identity(), roster().body(), None, ask) == roster()
    assert [roster().fingerprint in text for text in asked] == [False, True]
    assert all(member.name in asked[0] for member in roster().members)


def test_newer_and_same_version_are_pinned() -> None:
    for version in (2, 3):
        newer = roster(version=version)
        assert check_pin(identity(), newer.body(), newer.fingerprint, roster()) == newer


def not_pinned(wrong: Roster, error: type[CeibaError], says: str, **given: Any) -> None:
    mine = given.get("identity", identity())
    with pytest.raises(error, match=says):
        check_pin(mine, wrong.body(), given.get("fingerprint", wrong.fingerprint), given.get("pinned"))


WRONG_FINGERPRINTS = {
    "none": "",
    "zeros": "abandon-" * 11 + "abandon",
    "beginning": roster().fingerprint.rpartition("-")[0],
    "in another order": "-".join(reversed(roster().fingerprint.split("-"))),
    "another version's": roster(version=3).fingerprint,
}


@pytest.mark.parametrize("fingerprint", WRONG_FINGERPRINTS.values(), ids=WRONG_FINGERPRINTS)
def test_wrong_fingerprint_is_not_pinned(fingerprint: str) -> None:
    not_pinned(roster(), RosterMismatch, "words", fingerprint=fingerprint)


def test_older_version_is_not_pinned() -> None:
    not_pinned(roster(version=1), RosterMismatch, "older", pinned=roster())


def test_another_spaces_roster_is_not_pinned() -> None:
    not_pinned(roster(space="other-space"), RosterMismatch, "another space")


def test_roster_under_another_ca_is_not_pinned() -> None:
    other = certificate_fingerprint(make_authority("test-space", datetime.now(UTC)).certificate)
    not_pinned(roster(authority_fingerprint=other), RosterMismatch, "another space")


def test_roster_with_my_key_replaced_is_not_pinned_even_if_confirmed() -> None:
    not_pinned(roster(with_member("cleveland", signing_key="cd" * 32)), RosterMismatch, "cleveland")


def test_a_changed_byte_is_not_pinned() -> None:
    with pytest.raises((MalformedDocument, RosterMismatch)):
        check_pin(identity(), roster().body().replace(b'"version":2', b'"version":3'), roster().fingerprint, None)


def test_fingerprint_is_twelve_words_of_the_digest() -> None:
    assert roster().fingerprint == words_of(roster().digest(), 12)
    assert len(roster().fingerprint.split("-")) == 12


# --- succession --------------------------------------------------------------------------------------------------

EIGHT = tuple(f"clinic-{number}" for number in range(1, 9))


def approvals(made: Roster, *names: str) -> list[Signed]:
    return [signed_by(name, approval_of(made, name)) for name in names]


def test_quorum_is_two_thirds_rounded_up() -> None:
    """By hand: of 3 two, of 4 three, of 5 four, of 6 four, of 7 five."""
    sizes = {3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 8: 6}
    for size, quorum in sizes.items():
        members = tuple(map(holder, EIGHT[:size]))
        assert roster(members, EIGHT[:3]).quorum == quorum
        assert roster(members, EIGHT[:3]).signers == EIGHT[:size]


def test_stewards_sign_for_all() -> None:
    charter = Charter(stewards=EIGHT[:4])
    space = roster(tuple(map(holder, EIGHT)), EIGHT[:3], charter=charter)
    assert (space.signers, space.quorum) == (EIGHT[:4], 3)
    check_roster(space, holder("clinic-8"))


@pytest.mark.parametrize("stewards", [EIGHT[:1], EIGHT[:2], EIGHT, EIGHT[2::-1], (*EIGHT[:3], EIGHT[2])])
def test_stewards_are_three_to_seven_sorted_and_distinct(stewards: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Charter(stewards=stewards)


def test_steward_who_is_no_holder_is_refused() -> None:
    charter = Charter(stewards=("bank-a", "cleveland", "zurich"))
    refused(roster(charter=charter), UnknownMember, "bank-a")


def test_quorum_of_the_pinned_rosters_signers_makes_a_successor() -> None:
    pinned, newer = roster(), roster(version=3)
    check_succession(pinned, newer, approvals(newer, "hungary", "zurich"), ME)


SHORT_OF_QUORUM = {
    "nobody": lambda newer: [],
    "one of three": lambda newer: approvals(newer, "zurich"),
    "one of them twice": lambda newer: approvals(newer, "zurich", "zurich"),
    "a merchant": lambda newer: [*approvals(newer, "zurich"), signed_by("bank-a", approval_of(newer, "bank-a"))],
    "a stranger": lambda newer: [*approvals(newer, "zurich"), signed_by("mallory", approval_of(newer, "mallory"))],
    "in another's name": lambda newer: [
        *approvals(newer, "zurich"),
        resigned(approvals(newer, "hungary")[0], RosterApproval, member="cleveland"),
    ],
    "for another roster": lambda newer: [*approvals(newer, "zurich"), *approvals(roster(version=4), "hungary")],
    "altered": lambda newer: [*approvals(newer, "zurich"), altered(approvals(roster(), "hungary")[0], b"2", b"3")],
}


@pytest.mark.parametrize("signed", SHORT_OF_QUORUM.values(), ids=SHORT_OF_QUORUM)
def test_less_than_a_quorum_makes_no_successor(signed: Callable[[Roster], list[Signed]]) -> None:
    newer = roster(version=3)
    with pytest.raises(RosterNotApproved, match="it takes 2"):
        check_succession(roster(), newer, signed(newer), ME)


def test_members_that_a_roster_adds_cannot_approve_it() -> None:
    """A coordinator that enrols two holders of its own does not thereby have a quorum."""
    sybils = ("mallory-1", "mallory-2")
    newer = roster((*HONEST, *map(holder, sybils)), version=3)
    with pytest.raises(RosterNotApproved):
        check_succession(roster(), newer, approvals(newer, "zurich", *sybils), ME)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": "other-space"},
        {"log_key": "cd" * 32},
        {"authority_fingerprint": Digest("cd" * 32)},
        {"version": 2},
        {"version": 1},
    ],
    ids=str,
)
def test_successor_is_of_the_same_space_and_newer(changes: dict[str, Any]) -> None:
    newer = roster(**({"version": 3} | changes))
    with pytest.raises(RosterMismatch):
        check_succession(roster(), newer, approvals(newer, *HOLDERS), ME)


def test_approved_roster_is_still_checked_by_everybody() -> None:
    wrong = roster(with_member("cleveland", signing_key="cd" * 32), version=3)
    with pytest.raises(RosterMismatch, match="its entry for cleveland"):
        check_succession(roster(), wrong, approvals(wrong, "hungary", "zurich"), ME)


# --- revocation and duties ---------------------------------------------------------------------------------------


def revoked(name: str, at: int) -> Roster:
    gone = Revocation(descriptor=holder(name), revoked_at=at, reason="the key was lost")
    members = (*(member for member in HONEST if member.name != name), holder("dresden"))
    return roster(members, ("cleveland", "dresden", "zurich"), revoked=(gone,), version=3)


def test_what_a_revoked_member_signs_counts_no_more() -> None:
    with pytest.raises(UnknownMember):
        revoked("hungary", NOW).open(
            signed_by("hungary", approval_of(roster(), "hungary")), RosterApproval, Role.HOLDER
        )


def test_what_it_signed_before_still_counts_then() -> None:
    signed = signed_by("hungary", approval_of(roster(), "hungary"))
    now = revoked("hungary", NOW)
    assert now.as_of(NOW - 1).open(signed, RosterApproval, Role.HOLDER) == approval_of(roster(), "hungary")
    with pytest.raises(UnknownMember):
        now.as_of(NOW).open(signed, RosterApproval, Role.HOLDER)


def test_nobody_is_a_member_and_revoked_with_the_same_keys() -> None:
    gone = Revocation(descriptor=holder("hungary"), revoked_at=NOW, reason="")
    refused(roster(revoked=(gone,)), RosterMismatch, "revoked at once")
    returned = changed(gone, descriptor=changed(holder("hungary"), signing_key="cd" * 32))
    check_roster(roster(revoked=(returned,)), ME)


def test_each_duty_has_its_own_documents() -> None:
    """The publisher's key cannot sign an agreement, the officer's no offer, and the member's own neither."""
    world = World()
    offer, agreement = world.offers()[0], world.agreement
    keys = {"member": signing_key("cleveland"), "officer": officer("cleveland"), "publisher": publisher("cleveland")}
    for duty, key in keys.items():
        for document, wanted in (
            (agreement, "officer"),
            (offer, "publisher"),
            (approval_of(roster(), "cleveland"), "member"),
        ):
            signed = sign(document, "cleveland", key)
            if duty == wanted:
                assert roster().open(signed, type(document), Role.HOLDER) == document
            else:
                with pytest.raises(BadSignature):
                    roster().open(signed, type(document), Role.HOLDER)


@pytest.mark.parametrize("duty", ["officer", "publisher"])
def test_one_person_at_two_holders_is_refused(duty: str) -> None:
    zurich = holder("zurich")
    assert zurich.duties is not None
    borrowed = changed(zurich.duties, **{duty: officer("hungary").public.hex()})
    refused(roster(with_member("zurich", duties=borrowed)), RosterMismatch, "same signing key")


def test_holder_without_duties_is_no_holder() -> None:
    with pytest.raises(MalformedDocument):
        Descriptor.parse(changed(holder("zurich"), duties=None).body())


def test_no_secret_is_printed() -> None:
    mine = identity()
    assert mine.signing_seed not in repr(mine) and mine.storage_key not in f"{mine}"
    key = signing_key("cleveland")
    assert repr(key) == f"SigningKey(public={key.public.hex()})"
    assert repr(DutyKey(duty=Duty.OFFICER, signing_seed="77" * 32)).count("77" * 8) == 0
