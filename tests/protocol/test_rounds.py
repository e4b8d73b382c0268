"""A whole job without a network: right when everybody is honest, refused by name when somebody is not."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    AgreementMismatch,
    BadCiphertext,
    BadSignature,
    CeibaError,
    DatasetMissing,
    DatasetUnknown,
    MalformedDocument,
    MalformedMessage,
    ManifestMismatch,
    NotAgreed,
    OutsideWindow,
    SeedReused,
    SetMismatch,
    SlotOverflow,
    TotalRejected,
    UnknownMember,
)
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.rounds import (
    CLOCK_TOLERANCE,
    LONGEST_WINDOW,
    abort,
    approve,
    check_submission,
    commit_to_set,
    commit_to_values,
    make_manifest,
    open_result,
)
from ceiba_protocol.sums.paillier import modulus_bytes
from ceiba_protocol.sums.secure_sum import RoundContext, coordinator_multiply, merchant_open
from ceiba_protocol.trust.agreement import DAY
from ceiba_protocol.trust.documents import Approval, Manifest, Submission
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import run_job
from tests.support.keys import keypair
from tests.support.members import (
    HOLDERS,
    MERCHANT,
    NOW,
    ROWS,
    SCHEMA,
    World,
    altered,
    changed,
    holder,
    merchant,
    plan_of,
    resigned,
    signed_by,
    signing_key,
)
from tests.support.pooled import pooled

FIRST, SECOND, THIRD = HOLDERS
OTHER_DIGEST = Digest("ab" * 32)


@pytest.fixture
def world() -> World:
    return World()


# --- honest parties ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sex, COUNT(*) AS n, SUM(age) AS a, AVG(age) AS m, SUM(chol) AS c FROM health.heart GROUP BY sex",
        "SELECT COUNT(*) AS n, COUNT(age) AS a, VAR_SAMP(age) AS v FROM health.heart WHERE chol >= 0",
        "SELECT SUM(age) AS a FROM health.heart WHERE age > 120",
    ],
)
def test_run_job_gives_what_duckdb_gives_on_the_pooled_rows(sql: str) -> None:
    rows = run_job(plan_of(sql), SCHEMA, ROWS, keypair(3072), os.urandom, NOW)
    expected = pooled(sql, ROWS)
    assert len(rows) == len(expected) > 0
    for ours, theirs in zip(sorted(rows, key=str), sorted(expected, key=str), strict=True):
        assert [None if x is None else pytest.approx(float(x)) if not isinstance(x, str) else x for x in theirs] == [
            *ours
        ]


ROW = st.fixed_dictionaries(
    {
        "sex": st.integers(0, 1),
        "age": st.none() | st.integers(0, 120),
        "chol": st.none() | st.integers(-200, 600),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=9), min_size=3, max_size=6))
def test_the_total_is_that_of_the_pooled_rows_for_any_rows(tables: list[list[dict]]) -> None:
    world = World({f"h{place}": rows for place, rows in enumerate(tables)})
    assert list(world.open(world.submissions).sums) == world.truth()


def test_clip_counts_travel_with_the_sums(world: World) -> None:
    assert world.open(world.submissions).clipped == {"chol": 0}


def test_order_of_messages_does_not_matter(world: World) -> None:
    shuffled = world.open(world.submissions[::-1], approvals=world.approvals()[::-1])
    assert list(shuffled.sums) == world.truth()


def test_a_holder_cannot_use_its_mask_twice(world: World) -> None:
    commitment = commit_to_set(world.read(), world.approvals())
    world.contribute(FIRST, world.read(), commitment)
    with pytest.raises(SeedReused):
        world.contribute(FIRST, world.read(), commitment)


# --- 1. the manifest ---------------------------------------------------------------------------------------------


def test_no_manifest_without_every_holders_offer(world: World) -> None:
    del world.pins[SECOND]
    with pytest.raises(DatasetMissing, match=SECOND):
        world.manifest()


def test_manifest_by_a_stranger_is_refused(world: World) -> None:
    with pytest.raises(UnknownMember):
        world.read(signed_by("mallory", world.manifest(merchant="mallory")))


def test_manifest_signed_by_a_holder_is_refused(world: World) -> None:
    with pytest.raises(UnknownMember):
        world.read(signed_by(FIRST, world.manifest()))


def test_manifest_in_another_merchants_name_is_refused(world: World) -> None:
    with pytest.raises(ManifestMismatch, match="not its signer"):
        world.read(signed_by("bank-b", world.manifest()))


def test_manifest_signed_with_another_key_is_refused(world: World) -> None:
    forged = signed_by("bank-b", world.manifest())
    forged.signer = MERCHANT
    with pytest.raises(BadSignature):
        world.read(forged)


def test_manifest_changed_on_the_way_is_refused(world: World) -> None:
    with pytest.raises(BadSignature):
        world.read(altered(world.signed_manifest(), b'"purpose":"research"', b'"purpose":"insuranc"'))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signature_of_another_length_is_refused(world: World, length: int) -> None:
    signed = world.signed_manifest()
    signed.signature = (signed.signature + bytes(1))[:length]
    with pytest.raises(BadSignature):
        world.read(signed)


def test_approval_cannot_stand_for_a_manifest(world: World) -> None:
    with pytest.raises(MalformedMessage):
        world.read(signed_by(MERCHANT, Approval.parse(world.approval(FIRST).body)))


def test_type_of_a_document_is_signed(world: World) -> None:
    signed = signed_by(MERCHANT, Approval.parse(world.approval(FIRST).body))
    signed.type = "ceiba.v1.Manifest"
    with pytest.raises(BadSignature):
        world.read(signed)


@pytest.mark.parametrize("seconds", [-CLOCK_TOLERANCE, 0, 60, 60 + CLOCK_TOLERANCE])
def test_clocks_may_differ_by_five_minutes(world: World, seconds: int) -> None:
    assert world.read(now=NOW + seconds).holders == list(HOLDERS)


@pytest.mark.parametrize("seconds", [-CLOCK_TOLERANCE - 1, 60 + CLOCK_TOLERANCE + 1])
def test_clocks_may_not_differ_by_more(world: World, seconds: int) -> None:
    with pytest.raises(OutsideWindow):
        world.read(now=NOW + seconds)


def test_window_must_not_end_before_it_begins(world: World) -> None:
    with pytest.raises(MalformedDocument):
        world.read(world.signed_manifest(not_after=NOW))


@pytest.mark.parametrize("year", [253_402_300_800, 2**52], ids=["year 10000", "far beyond any calendar"])
def test_window_beyond_the_calendar_is_refused_in_our_own_words(world: World, year: int) -> None:
    with pytest.raises((OutsideWindow, MalformedDocument)):
        world.read(world.signed_manifest(not_before=year, not_after=year + 1))


def test_window_of_more_than_thirty_days_is_refused(world: World) -> None:
    world.read(world.signed_manifest(not_after=NOW + LONGEST_WINDOW))
    with pytest.raises(ManifestMismatch, match="30 days"):
        world.read(world.signed_manifest(not_after=NOW + LONGEST_WINDOW + 1))


def test_manifest_with_other_disclosure_rules_is_refused(world: World) -> None:
    with pytest.raises(ManifestMismatch, match="disclosure rules"):
        world.read(world.signed_manifest(disclosure_digest=OTHER_DIGEST))


def test_manifest_under_another_agreement_is_refused(world: World) -> None:
    signed = world.signed_manifest()
    with pytest.raises(ManifestMismatch, match="another agreement"):
        world.read(signed, agreement=world.make_agreement(agreement_id="0c" * 16))


def test_newer_roster_with_the_same_keys_changes_nothing(world: World) -> None:
    """A merchant that joins must not end everybody else's agreements."""
    newer = world.make_roster([*world.roster.members, holder("dresden")], version=2)
    assert world.read(roster=newer).digest == world.read().digest


@pytest.mark.parametrize("name", [MERCHANT, SECOND])
def test_party_with_other_keys_now_is_refused(world: World, name: str) -> None:
    members = [changed(one, sealing_key="cd" * 32) if one.name == name else one for one in world.roster.members]
    with pytest.raises(AgreementMismatch, match=f"{name} has other keys now"):
        world.read(roster=world.make_roster(members, version=2))


BEYOND_THE_AGREEMENT: dict[str, tuple[dict[str, Any], type[CeibaError], str]] = {
    "purpose": ({"purpose": "marketing"}, ManifestMismatch, "purpose"),
    "rules": ({"disclosure_digest": OTHER_DIGEST}, ManifestMismatch, "disclosure rules"),
    "more jobs": ({"number": 101}, ManifestMismatch, "100 are agreed"),
    "before it begins": ({"not_before": NOW - 2 * DAY, "not_after": NOW + 60}, ManifestMismatch, "agreement's time"),
}


@pytest.mark.parametrize("what", BEYOND_THE_AGREEMENT)
def test_manifest_beyond_the_agreement_is_refused(world: World, what: str) -> None:
    changes, error, says = BEYOND_THE_AGREEMENT[what]
    with pytest.raises(error, match=says):
        world.read(world.signed_manifest(**changes))


def test_manifest_after_the_agreements_end_is_refused(world: World) -> None:
    world.agreement = world.make_agreement(not_after=NOW + 30)
    with pytest.raises(ManifestMismatch, match="agreement's time"):
        world.read()


def test_manifest_of_another_merchant_is_refused(world: World) -> None:
    """bank-b asks under bank-a's agreement."""
    stolen = signed_by("bank-b", changed(world.manifest(), merchant="bank-b"))
    with pytest.raises(ManifestMismatch, match="not the agreement's"):
        world.read(stolen)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": ("age", "sex")}, "columns chol"),
        ({"operations": ("count", "group by", "sum")}, "operations mean"),
        ({"operations": ("count", "mean", "sum")}, "operations group by"),
    ],
    ids=str,
)
def test_plan_beyond_the_agreement_is_refused(world: World, changes: dict[str, Any], says: str) -> None:
    """A merchant that leaves its own check out."""
    manifest = world.manifest()
    world.agreement = world.make_agreement(**changes)
    smuggled = changed(manifest, agreement_digest=world.agreement.digest())
    with pytest.raises(NotAgreed, match=says):
        world.read(signed_by(MERCHANT, smuggled))
    with pytest.raises(NotAgreed, match=says):
        world.manifest()


def test_manifest_for_another_schema_is_refused(world: World) -> None:
    other = changed(world.plan, schema_digest=OTHER_DIGEST)
    with pytest.raises(ManifestMismatch, match="another schema"):
        world.read(world.signed_manifest(plan=other))


def test_schema_that_is_not_the_rosters_is_not_used(world: World) -> None:
    with pytest.raises(ManifestMismatch, match="another version of the schema"):
        world.read(schema=changed(SCHEMA, version=2))


def test_manifest_for_a_smaller_set_is_refused(world: World) -> None:
    with pytest.raises(SetMismatch):
        world.read(world.signed_manifest(datasets=world.manifest().datasets[:2]))


def test_manifest_for_a_larger_set_is_refused(world: World) -> None:
    datasets = world.manifest().datasets
    with pytest.raises(SetMismatch):
        world.read(world.signed_manifest(datasets=(*datasets, changed(datasets[2], holder="zz-top"))))


def test_manifest_that_names_a_holder_twice_is_refused(world: World) -> None:
    first, second, _ = world.manifest().datasets
    with pytest.raises(SetMismatch):
        world.read(world.signed_manifest(datasets=(first, second, second)))


def test_manifest_in_another_order_is_refused(world: World) -> None:
    with pytest.raises(SetMismatch):
        world.read(world.signed_manifest(datasets=world.manifest().datasets[::-1]))


def test_manifest_with_another_merchants_key_is_refused(world: World) -> None:
    with pytest.raises(ManifestMismatch, match="encryption key"):
        world.read(world.signed_manifest(key_id=OTHER_DIGEST))


def test_manifest_with_another_layout_is_refused(world: World) -> None:
    with pytest.raises(ManifestMismatch, match="layout"):
        world.read(world.signed_manifest(layout_digest=OTHER_DIGEST))


def test_manifest_with_other_capacities_than_its_layouts_is_refused(world: World) -> None:
    first, *others = world.manifest().datasets
    larger = changed(first, row_capacity=2 * first.row_capacity)
    with pytest.raises(ManifestMismatch, match="layout"):
        world.read(world.signed_manifest(datasets=(larger, *others)))


def test_substituted_merchant_key_on_one_roster_is_refused(world: World) -> None:
    """The operator shows one holder a roster on which the merchant has the operator's key."""
    substituted = world.make_roster([merchant(bits=2048), *map(holder, HOLDERS)])
    with pytest.raises(AgreementMismatch):
        world.read(roster=substituted)


# --- 2. approvals ------------------------------------------------------------------------------------------------


def test_holder_does_not_approve_a_version_that_it_does_not_have(world: World) -> None:
    own = changed(world.pins[FIRST], version=OTHER_DIGEST)
    with pytest.raises(DatasetUnknown):
        approve(world.read(), FIRST, own, bytes(32), bytes(16))


def test_holder_does_not_approve_another_row_capacity_than_its_own(world: World) -> None:
    own = changed(world.pins[FIRST], row_capacity=1024)
    with pytest.raises(DatasetUnknown):
        approve(world.read(), FIRST, own, bytes(32), bytes(16))


def test_holder_does_not_approve_for_a_set_without_itself(world: World) -> None:
    with pytest.raises(SetMismatch):
        approve(world.read(), "zz-top", world.pins[FIRST], bytes(32), bytes(16))


# --- 3. the set --------------------------------------------------------------------------------------------------


def refused_set(world: World, approvals: list[Signed], error: type[CeibaError], says: str) -> None:
    with pytest.raises(error, match=says):
        commit_to_set(world.read(), approvals)


def test_smaller_set_is_refused(world: World) -> None:
    refused_set(world, world.approvals()[:2], SetMismatch, "not those of the agreement")


def test_empty_set_is_refused(world: World) -> None:
    refused_set(world, [], SetMismatch, "one of each")


def test_holder_in_anothers_place_is_refused(world: World) -> None:
    first, second, _ = world.approvals()
    refused_set(world, [first, second, second], SetMismatch, "one of each")


def test_duplicated_approval_is_refused(world: World) -> None:
    approvals = world.approvals()
    refused_set(world, [*approvals, approvals[0]], SetMismatch, "one of each")


def test_two_different_approvals_of_one_holder_are_refused(world: World) -> None:
    again = world.approval(FIRST, mask_key="cd" * 32)
    refused_set(world, [*world.approvals(), again], SetMismatch, "one of each")


def test_approval_by_a_stranger_is_refused(world: World) -> None:
    stranger = resigned(world.approval(THIRD), Approval, holder="mallory")
    stranger = signed_by("mallory", Approval.parse(stranger.body))
    refused_set(world, [*world.approvals()[:2], stranger], UnknownMember, "mallory")


def test_approval_by_a_merchant_is_refused(world: World) -> None:
    by_merchant = signed_by(MERCHANT, Approval.parse(world.approval(THIRD, holder=MERCHANT).body))
    refused_set(world, [*world.approvals()[:2], by_merchant], UnknownMember, MERCHANT)


def test_swapped_signers_are_refused(world: World) -> None:
    first, second, third = world.approvals()
    first.signer, second.signer = second.signer, first.signer
    refused_set(world, [first, second, third], BadSignature, "Approval")


def test_approval_in_anothers_name_is_refused(world: World) -> None:
    refused_set(world, world.approvals(cleveland=world.approval(FIRST, holder=SECOND)), SetMismatch, "another holder")


def test_approval_of_another_manifest_is_refused(world: World) -> None:
    other = world.approval(SECOND, world.read(world.signed_manifest(number=2)))
    refused_set(world, world.approvals(hungary=other), SetMismatch, "another manifest")


def test_approval_of_another_job_is_refused(world: World) -> None:
    refused_set(
        world, world.approvals(hungary=world.approval(SECOND, job_id="0c" * 16)), SetMismatch, "another manifest"
    )


def test_approval_for_another_attempt_is_refused(world: World) -> None:
    refused_set(world, world.approvals(hungary=world.approval(SECOND, attempt=1)), SetMismatch, "same attempt")


def test_approval_of_another_version_is_refused(world: World) -> None:
    other = world.approval(SECOND, dataset_version=OTHER_DIGEST)
    refused_set(world, world.approvals(hungary=other), SetMismatch, "another version")


def test_same_mask_key_twice_is_refused(world: World) -> None:
    stolen = Approval.parse(world.approval(FIRST).body).mask_key
    refused_set(world, world.approvals(hungary=world.approval(SECOND, mask_key=stolen)), SetMismatch, "same mask key")


def test_mask_key_of_low_order_is_refused(world: World) -> None:
    question = world.read()
    commitment = commit_to_set(question, world.approvals(hungary=world.approval(SECOND, mask_key="00" * 32)))
    with pytest.raises(SetMismatch, match="usable"):
        world.contribute(FIRST, question, commitment)


def test_changed_mask_key_is_refused(world: World) -> None:
    own = Approval.parse(world.approval(FIRST).body).mask_key.encode()
    changed = altered(world.approval(FIRST), own, b"cd" * 32)
    refused_set(world, world.approvals(cleveland=changed), BadSignature, "Approval")


def test_own_mask_key_replaced_is_noticed(world: World) -> None:
    """Somebody with the holder's signing key, or a coordinator that replays an approval from before a restore."""
    commitment = commit_to_set(world.read(), world.approvals(cleveland=world.approval(FIRST, mask_key="cd" * 32)))
    with pytest.raises(SetMismatch, match=f"its mask key for {FIRST}"):
        world.contribute(FIRST, world.read(), commitment)


def test_value_beyond_the_published_capacity_is_never_sent(world: World) -> None:
    world.rows = {**world.rows, FIRST: [{"sex": 0, "age": 1, "chol": 1}] * 5}
    with pytest.raises(SlotOverflow):
        world.contribute(FIRST, world.read(), commit_to_set(world.read(), world.approvals()))


# --- smaller sets (I3) -------------------------------------------------------------------------------------------

FOUR = {**ROWS, "dresden": [{"sex": 1, "age": 50, "chol": 10}]}
LEFT = "dresden"


@pytest.fixture
def four() -> World:
    """Four holders whose agreement lets one leave a job."""
    world = World(FOUR)
    world.agreement = world.make_agreement(smallest_set=3)
    return world


def again(world: World, *names: str, attempt: int = 1) -> list[Signed]:
    return [world.approval(name, attempt=attempt) for name in names or HOLDERS]


def test_those_who_remain_answer_with_the_token_of_who_left(four: World) -> None:
    question = four.read()
    approvals, aborts = again(four), [four.abort(LEFT)]
    commitment = commit_to_set(question, approvals, aborts)
    assert commitment.holders == sorted(HOLDERS)
    submissions = [four.contribute(name, question, commitment) for name in HOLDERS]
    opened = open_result(question, approvals, submissions, four.total(submissions), four.private_key, aborts)
    assert opened.holders == sorted(HOLDERS)
    assert opened.sums == grouped_sums(question.program, [row for name in HOLDERS for row in ROWS[name]])


SMALLER_SETS: dict[str, Callable[[World], tuple[list[Signed], list[Signed]]]] = {
    "without a token": lambda world: (again(world), []),
    "in the first attempt": lambda world: (again(world, attempt=0), [world.abort(LEFT)]),
    "with everybody's approval and a token": lambda world: (again(world, *sorted(FOUR)), [world.abort(LEFT)]),
    "token in another's name": lambda world: (again(world), [world.abort(FIRST, holder=LEFT)]),
    "token for another job": lambda world: (again(world), [world.abort(LEFT, job_id="0c" * 16)]),
    "token for another manifest": lambda world: (again(world), [world.abort(LEFT, manifest_digest=OTHER_DIGEST)]),
    "forged token": lambda world: (again(world), [sign(abort(world.read(), LEFT), LEFT, signing_key("mallory"))]),
    "token of a stranger": lambda world: (again(world), [signed_by("mallory", abort(world.read(), "mallory"))]),
    "too few remain": lambda world: (again(world, *HOLDERS[:2]), [world.abort(LEFT), world.abort(THIRD)]),
    "two attempts at once": lambda world: (
        [*again(world, *HOLDERS[:2]), world.approval(THIRD, attempt=2)],
        [world.abort(LEFT)],
    ),
}


@pytest.mark.parametrize("what", SMALLER_SETS)
def test_other_smaller_sets_are_refused(four: World, what: str) -> None:
    approvals, aborts = SMALLER_SETS[what](four)
    with pytest.raises((SetMismatch, BadSignature, UnknownMember)):
        commit_to_set(four.read(), approvals, aborts)


def test_nobody_may_leave_where_the_agreement_wants_all(four: World) -> None:
    four.agreement = four.make_agreement()
    with pytest.raises(SetMismatch, match="fewer than the agreement demands"):
        commit_to_set(four.read(), again(four), [four.abort(LEFT)])


def test_two_attempts_of_one_job_have_nothing_in_common(four: World) -> None:
    """Answers of the first attempt, combined with those of the second, give no number."""
    question = four.read()
    first = commit_to_set(question, four.approvals(question))
    second = commit_to_set(question, again(four), [four.abort(LEFT)])
    blobs = dict(zip(HOLDERS, (four.contribute(name, question, second)[1] for name in HOLDERS), strict=True))
    blobs[FIRST] = four.contribute(FIRST, question, first)[1]
    product = coordinator_multiply(blobs, second.layout, question.modulus)
    with pytest.raises(TotalRejected):
        merchant_open(product, blobs, second.layout, four.private_key)


# --- 5. submissions ----------------------------------------------------------------------------------------------


def refused_submission(world: World, signed: Signed, blob: bytes, error: type[CeibaError]) -> None:
    with pytest.raises(error):
        check_submission(signed, blob, world.read(), commit_to_set(world.read(), world.approvals()))


def test_submission_in_anothers_name_is_refused(world: World) -> None:
    signed, blob = world.submission(FIRST, holder=SECOND)
    refused_submission(world, signed, blob, MalformedMessage)


def test_submission_signed_by_another_is_refused(world: World) -> None:
    signed, blob = world.submission(FIRST)
    signed.signer = SECOND
    refused_submission(world, signed, blob, BadSignature)


def test_submission_by_a_stranger_is_refused(world: World) -> None:
    signed, blob = world.submission(FIRST)
    refused_submission(world, signed_by("mallory", Submission.parse(signed.body)), blob, UnknownMember)


def test_submission_to_another_job_is_refused(world: World) -> None:
    refused_submission(world, *world.submission(FIRST, job_id="0c" * 16), MalformedMessage)


def test_submission_of_another_attempt_is_refused(world: World) -> None:
    refused_submission(world, *world.submission(FIRST, attempt=1), MalformedMessage)


def test_submission_with_another_count_is_refused(world: World) -> None:
    refused_submission(world, *world.submission(FIRST, ciphertexts=2), MalformedMessage)


def test_submission_in_another_context_is_refused(world: World) -> None:
    refused_submission(world, *world.submission(FIRST, context_digest=OTHER_DIGEST), TotalRejected)


def test_changed_ciphertext_is_refused(world: World) -> None:
    signed, blob = world.submission(FIRST)
    refused_submission(world, signed, blob[:-1] + bytes([blob[-1] ^ 1]), MalformedMessage)


def test_truncated_ciphertexts_are_refused(world: World) -> None:
    signed, blob = world.submission(FIRST)
    refused_submission(world, signed, blob[:-1], MalformedMessage)


def test_anothers_ciphertexts_are_refused(world: World) -> None:
    refused_submission(world, world.submission(FIRST)[0], world.submission(SECOND)[1], MalformedMessage)


def test_commitment_opens_to_its_values_alone() -> None:
    commitment = commit_to_values([1, 23], bytes(32))
    assert commitment != commit_to_values([12, 3], bytes(32))
    assert commitment != commit_to_values([1, 23], b"\x01" * 32)


# --- 8. opening --------------------------------------------------------------------------------------------------


def refused_opening(
    world: World, submissions: list[tuple[Signed, bytes]], error: type[CeibaError], **more: object
) -> None:
    total = world.total(world.submissions)
    with pytest.raises(error):
        world.open(submissions, **{"total": total, **more})


def test_total_tampered_with_is_refused(world: World) -> None:
    total = world.total(world.submissions)
    tampered = (int.from_bytes(total, "big") * (1 + world.public_key.n) % world.public_key.n**2).to_bytes(
        len(total), "big"
    )
    refused_opening(world, world.submissions, TotalRejected, total=tampered)


def test_truncated_total_is_refused(world: World) -> None:
    refused_opening(world, world.submissions, TotalRejected, total=world.total(world.submissions)[:-1])


def test_total_of_a_smaller_set_is_refused(world: World) -> None:
    two = world.submissions[:2]
    refused_opening(world, two, SetMismatch, total=world.total(two))


def test_one_holder_twice_is_refused(world: World) -> None:
    refused_opening(world, [*world.submissions, world.submissions[0]], SetMismatch)


def test_one_holder_in_place_of_another_is_refused(world: World) -> None:
    first, second, _ = world.submissions
    refused_opening(world, [first, second, first], SetMismatch)


def test_truncated_answer_is_refused(world: World) -> None:
    signed, blob = world.submissions[0]
    refused_opening(world, [(signed, blob[:-1]), *world.submissions[1:]], MalformedMessage)


def test_signed_but_wrong_length_is_refused(world: World) -> None:
    """A holder signs what it sends, so the digest fits; the length does not."""
    signed, blob = world.submission(FIRST)
    longer = blob + bytes(1)
    signed = resigned(signed, Submission, ciphertext_digest=Digest(hashlib.sha256(longer).hexdigest()))
    refused_opening(world, [(signed, longer), *world.submissions[1:]], BadCiphertext)


def test_opening_with_other_approvals_is_refused(world: World) -> None:
    others = world.approvals(hungary=world.approval(SECOND, mask_key="cd" * 32))
    refused_opening(world, world.submissions, TotalRejected, approvals=others)


def test_opening_with_fewer_approvals_is_refused(world: World) -> None:
    refused_opening(world, world.submissions, SetMismatch, approvals=world.approvals()[:2])


def test_part_of_the_answer_is_noise(world: World) -> None:
    """Whoever skips the checks and multiplies two of three gets nothing: the masks of the third stay."""
    question = world.read()
    two = {name: blob for name, (_, blob) in zip(HOLDERS[:2], world.submissions, strict=False)}
    product = coordinator_multiply(two, question.layout, question.modulus)
    with pytest.raises(TotalRejected):
        merchant_open(product, two, question.layout, world.private_key)


# --- two holders that disagree on anything -----------------------------------------------------------------------


CHANGED: dict[str, object] = {"suite": "K2", "attempt": 1, "stage": 0, "iteration": 1}


@pytest.mark.parametrize("field", [field.name for field in fields(RoundContext)])
@pytest.mark.parametrize("liar", [0, 2], ids=["first", "last"])
def test_disagreement_never_gives_a_number(world: World, field: str, liar: int) -> None:
    """One holder has another view of one field and signs the context that it believes in. Without any check of
    signatures or contexts, the total is refused by the layout alone."""
    question = world.read()
    honest = commit_to_set(question, world.approvals(question))
    other = replace(honest.context, **{field: CHANGED.get(field, b"\xab" * 32)})
    assert other.digest() != honest.context.digest()
    views = [honest] * 3
    views[liar] = replace(honest, context=other)
    if field in ("key_id", "layout_digest"):
        # What the holder encrypts under would not fit what it was told: it refuses before it sends.
        with pytest.raises(ManifestMismatch):
            world.contribute(HOLDERS[liar], question, views[liar])
        return
    answers = [world.contribute(name, question, view) for name, view in zip(HOLDERS, views, strict=True)]
    with pytest.raises((TotalRejected, MalformedMessage), match=r"another context|another job or attempt"):
        world.open(answers)
    blobs = {name: blob for name, (_, blob) in zip(HOLDERS, answers, strict=True)}
    product = coordinator_multiply(blobs, question.layout, question.modulus)
    with pytest.raises(TotalRejected):
        merchant_open(product, blobs, question.layout, world.private_key)


DISAGREEMENTS: dict[str, Callable[[World], Manifest]] = {
    "number": lambda world: world.manifest(number=2),
    "window": lambda world: world.manifest(not_after=NOW + 61),
    "plan": lambda world: make_manifest(
        job_id=world.job_id,
        number=1,
        agreement=world.agreement,
        merchant=world.merchant,
        plan=plan_of(
            "SELECT sex, COUNT(*) AS n, SUM(age) AS years, AVG(chol) AS chol FROM health.heart "
            "WHERE age > 1 GROUP BY sex"
        ),
        schema=SCHEMA,
        offers=world.offers(),
        now=NOW,
        seconds=60,
    ),
}


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_two_manifests_of_one_job_never_give_a_number(world: World, what: str) -> None:
    """The merchant signs two manifests of one job id and shows one holder the other: equal layout, other context."""
    question, other = world.read(), world.read(signed_by(MERCHANT, DISAGREEMENTS[what](world)))
    assert question.layout == other.layout and question.digest != other.digest
    refused_set(world, world.approvals(zurich=world.approval(THIRD, other)), SetMismatch, "another manifest")
    honest = commit_to_set(question, world.approvals(question))
    misled = commit_to_set(other, world.approvals(other))
    answers = [world.contribute(name, question, honest) for name in HOLDERS[:2]]
    answers.append(world.contribute(THIRD, other, misled))
    blobs = {name: blob for name, (_, blob) in zip(HOLDERS, answers, strict=True)}
    product = coordinator_multiply(blobs, question.layout, question.modulus)
    with pytest.raises(TotalRejected):
        merchant_open(product, blobs, question.layout, world.private_key)


def test_ciphertexts_have_one_size_whatever_the_rows(world: World) -> None:
    empty = World({name: [{"sex": 0, "age": None, "chol": None}] * len(rows) for name, rows in ROWS.items()})
    sizes = [len(blob) for _, blob in world.submissions]
    assert sizes == [len(blob) for _, blob in empty.submissions]
    assert sizes == [world.read().layout.ciphertexts * 2 * modulus_bytes(world.public_key.n)] * 3


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_flipped_bit_of_the_answer_goes_unnoticed(data: st.DataObject) -> None:
    """One bit of any message that the merchant receives: refused, whichever it is."""
    submissions = [(Signed.FromString(s.SerializeToString()), blob) for s, blob in FLIPPED.submissions]
    approvals = FLIPPED.approvals()
    target = data.draw(st.integers(0, 2))
    where = data.draw(st.sampled_from(["approval body", "approval signature", "submission body", "signature", "blob"]))
    signed = approvals[target] if where.startswith("approval") else submissions[target][0]
    part = "signature" if "signature" in where else "body"
    if where == "blob":
        submissions[target] = (signed, flipped(submissions[target][1], data))
    else:
        setattr(signed, part, flipped(getattr(signed, part), data))
    with pytest.raises(CeibaError):
        FLIPPED.open(submissions, FLIPPED.total(FLIPPED.submissions), approvals)


FLIPPED = World()


def flipped(content: bytes, data: st.DataObject) -> bytes:
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
