"""Agreements: the same for every party, whatever arrives when, and nothing is signed or answered beyond them."""

import itertools
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.grade import ORDER, RULES, Disclosure, NoiseRule, disclosure_for
from ceiba_protocol.errors import (
    AgreementMismatch,
    BadSignature,
    CeibaError,
    GradeForbids,
    IllegalNotice,
    MalformedMessage,
    NotAgreed,
    TooFewHolders,
    UnknownColumn,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.statistics import STATISTICS
from ceiba_protocol.trust.agreement import (
    DAY,
    KEPT_SECONDS,
    LONGEST_AGREEMENT,
    NEARBY_SECONDS,
    OPERATIONS,
    TRANSITIONS,
    Agreement,
    Contract,
    Event,
    Notice,
    Overlap,
    Party,
    State,
    Word,
    check_covers,
    check_parties,
    check_terms,
    differ_by_few,
    give_notice,
    operations_of,
    overlaps,
    read_contract,
)
from ceiba_protocol.trust.roster import Charter, Revocation, Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import (
    HOLDERS,
    MERCHANT,
    NOW,
    SCHEMA,
    World,
    altered,
    changed,
    holder,
    merchant,
    officer,
    plan_of,
    publisher,
    signed_by,
    signing_key,
)

FIRST, SECOND, THIRD = HOLDERS
OTHER_DIGEST = Digest("ab" * 32)
WORLD = World()
AGREEMENT = WORLD.agreement
SIGNATURES = WORLD.signatures()
ENDINGS = {State.REFUSED, State.WITHDRAWN, State.EXPIRED, State.TERMINATED}
AFTER = AGREEMENT.not_after + 1


def contract(*notices: Notice, signed: int = len(SIGNATURES)) -> Contract:
    """What has been verified already, so that a test of states needs no signatures."""
    return Contract(AGREEMENT, {one.signer: one for one in SIGNATURES[:signed]}, notices)


def notice(member: str, word: Word, number: int = 1, **changes: Any) -> Notice:
    made = Notice(agreement_digest=AGREEMENT.digest(), member=member, number=number, word=word, reason="a test", at=NOW)
    return changed(made, **changes)


# --- states ------------------------------------------------------------------------------------------------------

LEGAL = {
    ("proposed", "last_signature", "active"),
    ("proposed", "refusal", "refused"),
    ("proposed", "withdrawal", "withdrawn"),
    ("proposed", "suspension", "proposed"),
    ("proposed", "termination", "refused"),
    ("proposed", "end", "expired"),
    ("active", "suspension", "suspended"),
    ("active", "refusal", "terminated"),
    ("active", "withdrawal", "terminated"),
    ("active", "termination", "terminated"),
    ("active", "end", "expired"),
    ("suspended", "refusal", "terminated"),
    ("suspended", "withdrawal", "terminated"),
    ("suspended", "termination", "terminated"),
    ("suspended", "end", "expired"),
}
"""Written apart from the table: changing a move means changing it twice, on purpose."""


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_either_in_the_list_or_no_move(state: State, event: Event) -> None:
    expected = {after for before, cause, after in LEGAL if (before, cause) == (state, event)}
    assert {TRANSITIONS[state, event]} == expected if expected else (state, event) not in TRANSITIONS


def test_every_state_is_reached_and_nothing_leads_out_of_an_ending() -> None:
    assert {State.PROPOSED, *TRANSITIONS.values()} == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State) - ENDINGS
    for state in set(State) - ENDINGS:
        assert all(TRANSITIONS[state, event] in ENDINGS for event in (Event.TERMINATION, Event.END))


def test_what_is_written_down_is_read_again() -> None:
    """Words that stand in signed documents and in every ledger, and times that everybody must count alike."""
    assert list(Word) == ["refuse", "withdraw", "suspend", "resume", "terminate"]
    assert (AGREEMENT.suite, Agreement.model_fields["suite"].default) == ("K1", "K1")
    assert (DAY, NEARBY_SECONDS, KEPT_SECONDS, LONGEST_AGREEMENT) == (86_400, 2_592_000, 2_592_000, 94_867_200)
    assert changed(AGREEMENT, approval="each job").digest() != AGREEMENT.digest()


def test_active_means_that_every_party_has_signed() -> None:
    signed = [contract(signed=count).state(NOW) for count in range(len(SIGNATURES) + 1)]
    assert signed == [State.PROPOSED] * len(SIGNATURES) + [State.ACTIVE]
    assert contract(signed=2).missing == (SECOND, THIRD)
    assert contract().missing == ()


def test_it_ends_a_second_after_its_last() -> None:
    assert contract().state(AGREEMENT.not_after) is State.ACTIVE
    assert contract().state(AFTER) is State.EXPIRED
    assert contract(signed=2).state(AFTER) is State.EXPIRED
    assert contract(notice(FIRST, Word.SUSPEND)).state(AFTER) is State.EXPIRED


WORDS = {
    (MERCHANT, Word.WITHDRAW): (State.WITHDRAWN, State.TERMINATED),
    (FIRST, Word.REFUSE): (State.REFUSED, State.TERMINATED),
    (MERCHANT, Word.TERMINATE): (State.REFUSED, State.TERMINATED),
    (FIRST, Word.TERMINATE): (State.REFUSED, State.TERMINATED),
    (MERCHANT, Word.SUSPEND): (State.PROPOSED, State.SUSPENDED),
    (FIRST, Word.SUSPEND): (State.PROPOSED, State.SUSPENDED),
    (FIRST, Word.RESUME): (State.PROPOSED, State.ACTIVE),
}


@pytest.mark.parametrize(("member", "word"), WORDS)
def test_one_notice_on_a_half_signed_and_on_a_signed_agreement(member: str, word: Word) -> None:
    said = notice(member, word)
    half, whole = contract(said, signed=3), contract(said)
    assert (half.state(NOW), whole.state(NOW)) == WORDS[member, word]


def test_only_the_party_that_suspended_resumes() -> None:
    suspended = notice(FIRST, Word.SUSPEND, 1)
    assert contract(suspended, notice(SECOND, Word.RESUME, 2)).state(NOW) is State.SUSPENDED
    assert contract(suspended, notice(MERCHANT, Word.RESUME, 2)).state(NOW) is State.SUSPENDED
    assert contract(suspended, notice(FIRST, Word.RESUME, 2)).state(NOW) is State.ACTIVE


def test_several_suspensions_end_with_the_last_of_them() -> None:
    both = [notice(FIRST, Word.SUSPEND, 1), notice(MERCHANT, Word.SUSPEND, 1)]
    resumed = [notice(FIRST, Word.RESUME, 2), notice(MERCHANT, Word.RESUME, 2)]
    assert contract(*both).state(NOW) is State.SUSPENDED
    assert contract(*both, resumed[0]).state(NOW) is State.SUSPENDED
    assert contract(*both, resumed[1]).state(NOW) is State.SUSPENDED
    assert contract(*both, *resumed).state(NOW) is State.ACTIVE


@pytest.mark.parametrize("replayed", [1, 2, 3])
def test_an_older_notice_that_is_replayed_changes_nothing(replayed: int) -> None:
    said = [notice(FIRST, word, at) for at, word in enumerate((Word.SUSPEND, Word.RESUME, Word.SUSPEND), 1)]
    assert contract(*said, said[replayed - 1]).state(NOW) is State.SUSPENDED
    said.append(notice(FIRST, Word.RESUME, 4))
    assert contract(*said, said[replayed - 1]).state(NOW) is State.ACTIVE
    assert contract(*said).latest_number(FIRST) == 4
    assert contract(*said).latest_number(SECOND) == 0


@pytest.mark.parametrize(("silent", "speaks"), [(FIRST, SECOND), (SECOND, FIRST)])
def test_a_notice_is_no_other_partys(silent: str, speaks: str) -> None:
    known = contract(notice(speaks, Word.SUSPEND, 4))
    assert (known.latest_number(silent), known.latest_number(speaks)) == (0, 4)
    assert (known.suspends(silent), known.suspends(speaks)) == (False, True)


def test_of_two_notices_with_one_number_the_suspension_counts_in_either_order() -> None:
    """A restored backup, or a party that says one thing to some and another thing to others."""
    two = [notice(FIRST, Word.SUSPEND, 7), notice(FIRST, Word.RESUME, 7)]
    assert {contract(*said).state(NOW) for said in itertools.permutations(two)} == {State.SUSPENDED}


def said_by(member: str) -> st.SearchStrategy[Notice]:
    wrong = Word.REFUSE if member == MERCHANT else Word.WITHDRAW
    words = st.sampled_from([word for word in Word if word is not wrong])
    return st.builds(notice, st.just(member), words, st.integers(1, 3))


NOTICES = st.lists(st.sampled_from([MERCHANT, FIRST]).flatmap(said_by), max_size=6)
"""Few parties and numbers, so that some numbers are equal."""
TIMES = st.sampled_from([AGREEMENT.not_before - 1, NOW, AFTER])


@given(
    signatures=st.just(SIGNATURES) | st.lists(st.sampled_from(SIGNATURES)), notices=NOTICES, now=TIMES, data=st.data()
)
def test_the_state_does_not_depend_on_what_arrives_first(
    signatures: list[Signed], notices: list[Notice], now: int, data: st.DataObject
) -> None:
    def state(signatures: list[Signed], notices: list[Notice]) -> State:
        return Contract(AGREEMENT, {one.signer: one for one in signatures}, tuple(notices)).state(now)

    shuffled = data.draw(st.permutations(signatures)), data.draw(st.permutations(notices))
    assert state(*shuffled) == state(signatures, notices) == state(signatures * 2, notices * 2)


@given(count=st.integers(0, len(SIGNATURES)), notices=NOTICES, more=NOTICES, now=TIMES)
def test_what_has_ended_never_begins_again(count: int, notices: list[Notice], more: list[Notice], now: int) -> None:
    if contract(*notices, signed=count).state(now) in ENDINGS:
        later = [contract(*notices, *more, signed=signed) for signed in range(count, len(SIGNATURES) + 1)]
        assert {one.state(max(now, NOW)) for one in later} <= ENDINGS
        assert {one.state(AFTER) for one in later} <= ENDINGS


# --- giving notice -----------------------------------------------------------------------------------------------

SUSPENDED_BY_FIRST = notice(FIRST, Word.SUSPEND, 3)
POSSIBLE: dict[str, tuple[Contract, set[tuple[str, Word]]]] = {
    "proposed": (
        contract(signed=2),
        {(MERCHANT, Word.WITHDRAW), (FIRST, Word.REFUSE), (SECOND, Word.REFUSE)},
    ),
    "active": (
        contract(),
        {(name, word) for name in (MERCHANT, FIRST, SECOND) for word in (Word.SUSPEND, Word.TERMINATE)},
    ),
    "suspended": (
        contract(SUSPENDED_BY_FIRST),
        {
            (FIRST, Word.RESUME),
            (SECOND, Word.SUSPEND),
            (MERCHANT, Word.SUSPEND),
            *((name, Word.TERMINATE) for name in (MERCHANT, FIRST, SECOND)),
        },
    ),
    "refused": (contract(notice(FIRST, Word.REFUSE), signed=2), set()),
    "withdrawn": (contract(notice(MERCHANT, Word.WITHDRAW), signed=2), set()),
    "terminated": (contract(notice(SECOND, Word.TERMINATE)), set()),
}


@pytest.mark.parametrize("state", POSSIBLE)
def test_notice_is_given_only_where_it_changes_something(state: str) -> None:
    known, possible = POSSIBLE[state]
    assert known.state(NOW) == state
    for member, word in itertools.product((MERCHANT, FIRST, SECOND, "bank-b", "mallory"), Word):
        if (member, word) in possible:
            given = give_notice(known, member, word, "why", NOW)
            assert (given.member, given.word, given.agreement_digest) == (member, word, AGREEMENT.digest())
            assert (given.number, given.reason, given.at) == (known.latest_number(member) + 1, "why", NOW)
        else:
            with pytest.raises(IllegalNotice) as caught:
                give_notice(known, member, word, "why", NOW)
            assert caught.value.fields["agreement"] == f"{AGREEMENT.agreement_id}, which is {state}"


def test_nothing_is_said_about_what_has_expired() -> None:
    for member, word in itertools.product((MERCHANT, FIRST), Word):
        with pytest.raises(IllegalNotice):
            give_notice(contract(), member, word, "why", AFTER)


AACHEN = World({"aachen": [], **WORLD.rows})


@pytest.mark.parametrize(("name", "may", "may_not"), [
    ("aachen", Word.REFUSE, Word.WITHDRAW), (MERCHANT, Word.WITHDRAW, Word.REFUSE), (THIRD, Word.REFUSE, Word.WITHDRAW),
])  # fmt: skip
def test_the_merchant_withdraws_and_holders_refuse_whatever_their_names(name: str, may: Word, may_not: Word) -> None:
    proposed = read_contract(AACHEN.signatures()[:1], [], AACHEN.roster)
    assert give_notice(proposed, name, may, "why", NOW).word is may
    assert AACHEN.contract(notices=[AACHEN.notice(name, may)]).notices[0].word is may
    with pytest.raises(IllegalNotice):
        give_notice(proposed, name, may_not, "why", NOW)
    with pytest.raises(IllegalNotice):
        AACHEN.contract(notices=[AACHEN.notice(name, may_not)])


# --- reading what others sent ------------------------------------------------------------------------------------


def test_what_every_party_signed_is_read() -> None:
    signed = WORLD.notice(FIRST, Word.SUSPEND)
    read = WORLD.contract(notices=[signed])
    assert (read.agreement, read.missing, read.digest) == (AGREEMENT, (), AGREEMENT.digest())
    assert read.notices == (notice(FIRST, Word.SUSPEND),)
    assert read.signatures == {one.signer: one for one in SIGNATURES}


def rephrased(member: str) -> Signed:
    return signed_by(member, changed(AGREEMENT, purpose="advertising"))


SIGNATURES_REFUSED: dict[str, tuple[Callable[[], list[Signed]], type[CeibaError]]] = {
    "none": (list, AgreementMismatch),
    "other bytes": (lambda: [*SIGNATURES[:3], rephrased(THIRD)], AgreementMismatch),
    "other bytes first": (lambda: [rephrased(MERCHANT), *SIGNATURES[1:]], AgreementMismatch),
    "changed on the way": (lambda: [altered(SIGNATURES[0], b"research", b"anything")], BadSignature),
    "by one on no roster": (lambda: [*SIGNATURES, signed_by("mallory", AGREEMENT)], AgreementMismatch),
    "by one on no roster alone": (lambda: [signed_by("mallory", AGREEMENT)], UnknownMember),
    "by another merchant": (lambda: [*SIGNATURES, signed_by("bank-b", AGREEMENT)], AgreementMismatch),
    "by another merchant alone": (lambda: [signed_by("bank-b", AGREEMENT)], AgreementMismatch),
    "by a holder's program": (lambda: [*SIGNATURES[:3], sign(AGREEMENT, THIRD, signing_key(THIRD))], BadSignature),
    "by a holder's publisher": (lambda: [*SIGNATURES[:3], sign(AGREEMENT, THIRD, publisher(THIRD))], BadSignature),
    "by another's officer": (lambda: [*SIGNATURES[:3], sign(AGREEMENT, THIRD, officer(FIRST))], BadSignature),
    "a party's twice, once false": (
        lambda: [*SIGNATURES, sign(AGREEMENT, FIRST, signing_key("mallory"))],
        BadSignature,
    ),
    "another document": (lambda: [WORLD.signed_manifest()], MalformedMessage),
}


@pytest.mark.parametrize("what", SIGNATURES_REFUSED)
def test_signatures_are_parties_on_the_same_bytes_with_the_duty(what: str) -> None:
    signatures, error = SIGNATURES_REFUSED[what]
    with pytest.raises(error):
        read_contract(signatures(), [], WORLD.roster)


NOTICES_REFUSED: dict[str, tuple[Callable[[], Signed], type[CeibaError]]] = {
    "in another's name": (lambda: signed_by(FIRST, notice(SECOND, Word.SUSPEND)), AgreementMismatch),
    "in an earlier one's name": (lambda: signed_by(SECOND, notice(FIRST, Word.SUSPEND)), AgreementMismatch),
    "about an agreement of a low digest": (
        lambda: WORLD.notice(FIRST, Word.SUSPEND, agreement_digest=Digest("00" * 32)),
        AgreementMismatch,
    ),
    "about one of a high digest": (
        lambda: WORLD.notice(FIRST, Word.SUSPEND, agreement_digest=Digest("ff" * 32)),
        AgreementMismatch,
    ),
    "about another agreement": (
        lambda: WORLD.notice(FIRST, Word.SUSPEND, agreement_digest=OTHER_DIGEST),
        AgreementMismatch,
    ),
    "by another merchant": (lambda: WORLD.notice("bank-b", Word.TERMINATE), IllegalNotice),
    "by one on no roster": (lambda: WORLD.notice("mallory", Word.TERMINATE), UnknownMember),
    "a holder withdraws": (lambda: WORLD.notice(FIRST, Word.WITHDRAW), IllegalNotice),
    "the merchant refuses": (lambda: WORLD.notice(MERCHANT, Word.REFUSE), IllegalNotice),
    "by a holder's program": (
        lambda: sign(notice(FIRST, Word.RESUME), FIRST, signing_key(FIRST)),
        BadSignature,
    ),
    "by a holder's publisher": (lambda: sign(notice(FIRST, Word.RESUME), FIRST, publisher(FIRST)), BadSignature),
    "changed on the way": (
        lambda: altered(WORLD.notice(FIRST, Word.SUSPEND), b'"suspend"', b'"resume"'),
        BadSignature,
    ),
    "an agreement in its place": (lambda: SIGNATURES[0], MalformedMessage),
}


@pytest.mark.parametrize("what", NOTICES_REFUSED)
def test_notices_are_a_partys_own_about_this_agreement(what: str) -> None:
    signed, error = NOTICES_REFUSED[what]
    with pytest.raises(error):
        WORLD.contract(notices=[signed()])


@pytest.mark.parametrize("word", [Word.SUSPEND, Word.RESUME, Word.TERMINATE])
@pytest.mark.parametrize("member", [MERCHANT, FIRST])
def test_either_side_may_say_the_rest(member: str, word: Word) -> None:
    assert WORLD.contract(notices=[WORLD.notice(member, word)]).notices[0].word is word


# --- checks before signing ---------------------------------------------------------------------------------------


def test_an_honest_agreement_passes() -> None:
    check_parties(AGREEMENT, WORLD.roster)
    check_terms(AGREEMENT, SCHEMA)
    check_covers(AGREEMENT, WORLD.plan)


def with_member(name: str, **changes: Any) -> Roster:
    members = tuple(changed(one, **changes) if one.name == name else one for one in WORLD.roster.members)
    return changed(WORLD.roster, members=members)


def without(name: str) -> Roster:
    return changed(WORLD.roster, members=tuple(one for one in WORLD.roster.members if one.name != name))


MERCHANT_AS_HOLDER = Party(name=FIRST, descriptor_digest=WORLD.party(FIRST).descriptor_digest)
HOLDER_IS_MERCHANT = tuple(sorted((*AGREEMENT.holders[1:], WORLD.party("bank-b")), key=lambda party: party.name))

PARTIES_REFUSED: dict[str, tuple[Agreement, Roster, type[CeibaError], str]] = {
    "another space": (changed(AGREEMENT, space="other"), WORLD.roster, AgreementMismatch, "another space's."),
    "one more space": (changed(AGREEMENT, space="the-other"), WORLD.roster, AgreementMismatch, "another space's."),
    "another table": (changed(AGREEMENT, table="health.lung"), WORLD.roster, UnknownTable, "health.lung"),
    "another schema": (
        changed(AGREEMENT, schema_digest=OTHER_DIGEST),
        WORLD.roster,
        AgreementMismatch,
        "another schema",
    ),
    "a schema of a low digest": (
        changed(AGREEMENT, schema_digest=Digest("00" * 32)),
        WORLD.roster,
        AgreementMismatch,
        "the roster has another schema of health.heart.",
    ),
    "a schema of a high digest": (
        changed(AGREEMENT, schema_digest=Digest("ff" * 32)),
        WORLD.roster,
        AgreementMismatch,
        "another schema",
    ),
    "a holder's new keys": (
        AGREEMENT,
        with_member(SECOND, signing_key="cd" * 32),
        AgreementMismatch,
        f"{SECOND} has other keys",
    ),
    "a new officer": (
        AGREEMENT,
        with_member(SECOND, duties=holder(FIRST).duties),
        AgreementMismatch,
        f"{SECOND} has other keys",
    ),
    "the merchant's new keys": (
        AGREEMENT,
        with_member(MERCHANT, sealing_key="cd" * 32),
        AgreementMismatch,
        f"{MERCHANT} has other keys",
    ),
    "a holder that is gone": (AGREEMENT, without(THIRD), UnknownMember, THIRD),
    "a merchant that is gone": (AGREEMENT, without(MERCHANT), UnknownMember, MERCHANT),
    "a holder as its merchant": (
        changed(AGREEMENT, merchant=MERCHANT_AS_HOLDER),
        WORLD.roster,
        UnknownMember,
        "as merchant",
    ),
    "a merchant among its holders": (
        changed(AGREEMENT, holders=HOLDER_IS_MERCHANT),
        WORLD.roster,
        UnknownMember,
        "bank-b is not on the pinned roster as holder",
    ),
    "two holders": (
        changed(AGREEMENT, holders=AGREEMENT.holders[:2]),
        WORLD.roster,
        TooFewHolders,
        "has 2 holders; at least 3",
    ),
    "a smaller set of two": (changed(AGREEMENT, smallest_set=2), WORLD.roster, TooFewHolders, "has 2 holders"),
    "fewer than its own t allows": (
        changed(AGREEMENT, tolerated=2),
        WORLD.roster,
        TooFewHolders,
        "has 3 holders; at least 4",
    ),
    "fewer than the charter allows": (
        AGREEMENT,
        changed(WORLD.roster, charter=Charter(tolerated=3)),
        TooFewHolders,
        "has 3 holders; at least 5",
    ),
}


@pytest.mark.parametrize("what", PARTIES_REFUSED)
def test_parties_are_the_rosters_and_enough(what: str) -> None:
    agreement, roster, error, says = PARTIES_REFUSED[what]
    with pytest.raises(error, match=re.escape(says)):
        check_parties(agreement, roster)


@pytest.mark.parametrize("digit", ["00", "ff"])
def test_a_party_has_no_other_keys(digit: str) -> None:
    party = Party(name=SECOND, descriptor_digest=Digest(digit * 32))
    holders = (AGREEMENT.holders[0], party, AGREEMENT.holders[2])
    with pytest.raises(AgreementMismatch, match=f"{SECOND} has other keys"):
        check_parties(changed(AGREEMENT, holders=holders), WORLD.roster)


def test_more_holders_than_must_be_are_enough() -> None:
    check_parties(MORE.agreement, MORE.roster)
    check_parties(changed(MORE.agreement, smallest_set=4), MORE.roster)


def graded(**grades: str) -> Schema:
    """The schema with other grades."""
    columns = tuple(changed(column, grade=Grade(grades.get(column.name, column.grade))) for column in SCHEMA.columns)
    return changed(SCHEMA, columns=columns)


def terms(schema: Schema, **changes: Any) -> Agreement:
    return changed(AGREEMENT, schema_digest=schema.digest(), **changes)


STRICTNESS: dict[str, Callable[[Disclosure], Any]] = {
    "grade": lambda rules: ORDER[ORDER.index(rules.grade) - 1],
    "minimum_subjects": lambda rules: rules.minimum_subjects - 1,
    "minimum_holders": lambda rules: rules.minimum_holders - 1,
    "minimum_set": lambda rules: rules.minimum_set - 1,
    "dominance_one": lambda rules: rules.dominance_one + 1,
    "dominance_two": lambda rules: rules.dominance_two + 1,
    "exact_jobs": lambda rules: rules.exact_jobs + 1,
    "noise": lambda rules: NoiseRule.OPTIONAL,
    "rho_per_year": lambda rules: rules.rho_per_year + 1,
}
"""For each rule a value that is laxer by one."""


def laxer(rules: Disclosure, rule: str) -> Disclosure:
    return changed(rules, **{rule: STRICTNESS[rule](rules)})


def test_terms_are_for_the_schema_and_as_strict_as_its_grades() -> None:
    sensitive = graded(chol="sensitive")
    strict = RULES[Grade.SENSITIVE]
    check_terms(terms(sensitive, disclosure=strict), sensitive)
    check_terms(terms(sensitive, columns=("age", "sex")), sensitive)
    check_terms(terms(SCHEMA, disclosure=strict), SCHEMA)
    refused: list[tuple[Agreement, Schema, type[CeibaError], str]] = [
        (AGREEMENT, sensitive, AgreementMismatch, "it was made for another schema."),
        (changed(AGREEMENT, table="health.lung"), SCHEMA, AgreementMismatch, "another schema"),
        (changed(AGREEMENT, table="health.aorta"), SCHEMA, AgreementMismatch, "another schema"),
        (terms(sensitive), sensitive, AgreementMismatch, "laxer than its columns' grades demand."),
        (terms(sensitive, disclosure=changed(strict, minimum_subjects=10)), sensitive, AgreementMismatch, "laxer"),
        (terms(sensitive, disclosure=changed(strict, minimum_holders=2)), sensitive, AgreementMismatch, "laxer"),
        (terms(sensitive, disclosure=changed(strict, grade=Grade.INTERNAL)), sensitive, AgreementMismatch, "laxer"),
        (changed(AGREEMENT, columns=("age", "height")), SCHEMA, UnknownColumn, "height"),
        (terms(graded(chol="core")), graded(chol="core"), GradeForbids, "grade core"),
        *(
            (terms(sensitive, disclosure=laxer(strict, rule)), sensitive, AgreementMismatch, "laxer")
            for rule in STRICTNESS
        ),
    ]
    for agreement, schema, error, says in refused:
        with pytest.raises(error, match=re.escape(says)):
            check_terms(agreement, schema)


IMPORTANT = RULES[Grade.IMPORTANT]


def important(**changes: Any) -> tuple[Agreement, Schema]:
    """Terms on important data, which pass unless a test changes them; and their schema."""
    schema = graded(chol="important")
    passing: dict[str, Any] = {"disclosure": IMPORTANT, "smallest_set": 4, "approval": "each job"}
    return terms(schema, **(passing | changes)), schema


def test_important_data_takes_four_holders_and_a_person_for_each_job() -> None:
    check_terms(*important())
    with pytest.raises(TooFewHolders, match="has 3 holders; at least 4"):
        check_terms(*important(smallest_set=3))
    with pytest.raises(AgreementMismatch, match="a person's approval of each job"):
        check_terms(*important(approval="standing"))


@pytest.mark.parametrize("rule", ["minimum_set", "minimum_holders"])
def test_what_the_rules_demand_of_the_set_is_possible(rule: str) -> None:
    wanting = changed(RULES[Grade.SENSITIVE], **{rule: 5})
    check_terms(terms(SCHEMA, disclosure=wanting, smallest_set=5), SCHEMA)
    with pytest.raises(TooFewHolders, match="has 4 holders; at least 5"):
        check_terms(terms(SCHEMA, disclosure=wanting, smallest_set=4), SCHEMA)


COVERED = {
    "the table health.heart": {"table": "health.lung"},
    "columns chol, sex": {"columns": ("age",)},
    "operations group by": {"operations": ("count", "mean", "sum")},
    "operations mean": {"operations": tuple(sorted({"count", "sum", "group by"}))},
}


@pytest.mark.parametrize("says", COVERED)
def test_what_a_plan_reads_and_does_is_agreed_on(says: str) -> None:
    with pytest.raises(NotAgreed, match=re.escape(f"does not cover {says}.")):
        check_covers(changed(AGREEMENT, **COVERED[says]), WORLD.plan)


def test_a_column_that_is_only_filtered_by_must_be_agreed_on() -> None:
    plan = plan_of("SELECT COUNT(*) AS n FROM health.heart WHERE age > 50")
    least = changed(AGREEMENT, columns=("age",), operations=("count", "filter"))
    check_covers(least, plan)
    check_covers(AGREEMENT, plan)
    for missing in ({"columns": ("sex",)}, {"operations": ("count",)}):
        with pytest.raises(NotAgreed):
            check_covers(changed(least, **missing), plan)


def test_every_operation_has_one_name() -> None:
    assert set(OPERATIONS) == {"filter", "group by", *STATISTICS}
    assert operations_of(WORLD.plan) == {"count", "sum", "mean", "group by"}


# --- the document ------------------------------------------------------------------------------------------------


def fields(**changes: Any) -> dict[str, Any]:
    return dict(AGREEMENT) | changes


BAD_FIELDS: dict[str, dict[str, Any]] = {
    "ends before it begins": {"not_after": AGREEMENT.not_before - 1},
    "ends when it begins": {"not_after": AGREEMENT.not_before},
    "longer than three years": {"not_after": AGREEMENT.not_before + LONGEST_AGREEMENT + 1},
    "holders not sorted": {"holders": AGREEMENT.holders[::-1]},
    "a holder twice": {"holders": (AGREEMENT.holders[0], *AGREEMENT.holders)},
    "a holder's name twice": {
        "holders": (Party(name=FIRST, descriptor_digest=OTHER_DIGEST), *AGREEMENT.holders),
    },
    "no holders": {"holders": (), "smallest_set": 3},
    "columns not sorted": {"columns": AGREEMENT.columns[::-1]},
    "a column twice": {"columns": ("age", "age")},
    "no columns": {"columns": ()},
    "operations not sorted": {"operations": AGREEMENT.operations[::-1]},
    "an operation twice": {"operations": ("count", "count")},
    "no operations": {"operations": ()},
    "unknown operation": {"operations": ("count", "median of rows")},
    "smallest set larger than the whole": {"smallest_set": 4},
    "smallest set of two": {"smallest_set": 2},
    "nobody may collude": {"tolerated": 0},
    "no jobs": {"jobs": 0},
    "too many jobs": {"jobs": 1_000_001},
    "too many may collude": {"tolerated": 1001},
    "approval by nobody": {"approval": "none"},
    "another suite": {"suite": "K2"},
    "direction of writing changed": {"purpose": "research \u202e"},
    "a term that nobody knows": {"fee": 1},
}


@pytest.mark.parametrize("what", BAD_FIELDS)
def test_an_agreement_that_is_none_is_not_made(what: str) -> None:
    with pytest.raises(ValidationError):
        Agreement(**fields(**BAD_FIELDS[what]))


def test_the_longest_agreement_is_one() -> None:
    longest = Agreement(**fields(not_after=AGREEMENT.not_before + LONGEST_AGREEMENT))
    assert Agreement.parse(longest.body()) == longest


def crowd(count: int) -> dict[str, Any]:
    return {"holders": tuple(Party(name=f"h{at:04}", descriptor_digest=OTHER_DIGEST) for at in range(count))}


def test_an_agreement_may_be_as_large_and_as_small_as_its_fields_say() -> None:
    extremes: list[dict[str, Any]] = [
        {"jobs": 1, "operations": ("count",), "columns": ("age",), "approval": "each job"},
        {"jobs": 1_000_000, "tolerated": 1000},
        crowd(4) | {"smallest_set": 3},
        crowd(1001) | {"smallest_set": 1000},
    ]
    for allowed in extremes:
        made = Agreement(**fields(**allowed))
        assert Agreement.parse(made.body()) == made
    with pytest.raises(ValidationError):
        Agreement(**fields(**crowd(1001), smallest_set=1001))


def test_the_last_notice_has_the_number_of_a_million() -> None:
    assert Notice(**(dict(notice(FIRST, Word.SUSPEND)) | {"number": 1_000_000})).number == 1_000_000


def test_minimum_holders_is_three_or_t_and_two() -> None:
    assert [changed(AGREEMENT, tolerated=t).minimum_holders for t in (1, 2, 5)] == [3, 4, 7]


@pytest.mark.parametrize("number", [0, -1, 1_000_001])
def test_a_notices_number_counts_from_one(number: int) -> None:
    with pytest.raises(ValidationError):
        Notice(**(dict(notice(FIRST, Word.SUSPEND)) | {"number": number}))


# --- grades ------------------------------------------------------------------------------------------------------


EVERY_RULE = {
    "public": (1, 1, 3, 100, 100, 1_000_000, "optional", 10_000_000),
    "internal": (5, 3, 3, 70, 85, 50, "optional", 1_000_000),
    "sensitive": (11, 3, 3, 70, 85, 5, "mandatory", 100_000),
    "important": (20, 4, 4, 70, 85, 0, "mandatory", 20_000),
}
"""k, h, m, percents, exact jobs, noise, millionths of ρ a year: written apart from the table, after PROTOCOL §3.1."""


@pytest.mark.parametrize("grade", EVERY_RULE)
def test_rules_follow_from_the_highest_grade(grade: str) -> None:
    schema = graded(sex="public", age="public", chol=grade)
    found = disclosure_for(("age", "chol"), schema)
    assert tuple(dict(found).values()) == (grade, *EVERY_RULE[grade])
    assert disclosure_for(("age", "sex"), schema) == disclosure_for((), schema) == RULES[Grade.PUBLIC]


def test_core_data_is_not_answered() -> None:
    assert set(RULES) == set(Grade) - {Grade.CORE}
    with pytest.raises(GradeForbids) as caught:
        disclosure_for(("age", "chol"), graded(age="core"))
    assert caught.value.fields == {"grade": "core", "table": "health.heart"}


@pytest.mark.parametrize("rule", STRICTNESS)
def test_every_rule_counts_by_itself(rule: str) -> None:
    """`is_at_least` looks at each of them: laxer by one in one rule is laxer."""
    assert set(STRICTNESS) == set(Disclosure.model_fields)
    strict = RULES[Grade.SENSITIVE]
    assert not laxer(strict, rule).is_at_least(strict)
    assert strict.is_at_least(laxer(strict, rule))


def test_what_is_public_has_no_gate_and_what_hides_zeros() -> None:
    public = RULES[Grade.PUBLIC]
    assert [grade for grade in RULES if not RULES[grade].has_gate] == ["public"]
    assert changed(public, minimum_subjects=2).has_gate and changed(public, minimum_holders=2).has_gate
    assert [grade for grade in RULES if RULES[grade].hides_zeros] == ["sensitive", "important"]


def test_a_stricter_grade_has_no_laxer_rule() -> None:
    assert set(ORDER) == set(Grade)
    ordered = [RULES[grade] for grade in ORDER if grade in RULES]
    for low, high in itertools.product(range(len(ordered)), repeat=2):
        assert ordered[high].is_at_least(ordered[low]) == (high >= low)


# --- sets that nearly coincide -----------------------------------------------------------------------------------


def test_sets_that_differ_by_few() -> None:
    assert differ_by_few("abcd", "abc", 3) == ("d",)
    assert differ_by_few("abcd", "bcde", 3) == ("a", "e")
    assert differ_by_few("abcd", "cdef", 3) == ()  # four: two of each
    assert differ_by_few("abcdef", "abc", 3) == ()
    assert differ_by_few("abcdef", "abc", 4) == ("d", "e", "f")
    assert differ_by_few("abc", "cba", 3) == ()


@given(one=st.sets(st.sampled_from("abcdefg")), other=st.sets(st.sampled_from("abcdefg")), minimum=st.integers(3, 6))
def test_the_difference_is_symmetric_and_counted(one: set[str], other: set[str], minimum: int) -> None:
    found = differ_by_few(one, other, minimum)
    either = sorted((one | other) - (one & other))
    assert found == differ_by_few(other, one, minimum) == (tuple(either) if 1 <= len(either) < minimum else ())


MORE = World({**WORLD.rows, "dresden": [], "geneva": [], "lyon": []})


def signed_for(names: str, merchant: str = MERCHANT, **changes: Any) -> Agreement:
    """An agreement with the holders of these initials."""
    return MORE.make_agreement([name for name in MORE.holders if name[0] in names], merchant, **changes)


NEW = signed_for("cdhz")


def test_overlapping_agreements_are_named_with_the_holders_that_they_would_show() -> None:
    fewer, others, same, far = signed_for("chz"), signed_for("ghzd"), signed_for("cdhz"), signed_for("zghl")
    found = overlaps(NEW, [fewer, others, same, far], MORE.roster, NOW)
    assert [(one.other, one.holders) for one in found] == [(fewer, ("dresden",)), (others, ("cleveland", "geneva"))]
    assert all(one.same_merchant for one in found)


@pytest.mark.parametrize("table", ["health.aorta", "health.lung"])
def test_agreements_on_another_table_do_not_overlap(table: str) -> None:
    assert overlaps(NEW, [signed_for("chz", table=table)], MORE.roster, NOW) == []


@pytest.mark.parametrize("ago", [NEARBY_SECONDS - 1, NEARBY_SECONDS, NEARBY_SECONDS + 1])
def test_overlaps_reach_back_thirty_days(ago: int) -> None:
    assert NEARBY_SECONDS == 30 * DAY
    found = overlaps(NEW, [signed_for("chz", not_after=NOW - ago)], MORE.roster, NOW)
    assert bool(found) == (ago < NEARBY_SECONDS)


def test_the_same_organisation_under_another_name_is_the_same_merchant() -> None:
    other = signed_for("chz", "bank-b")
    assert [one.same_merchant for one in overlaps(NEW, [other], MORE.roster, NOW)] == [False]
    assert [one.same_merchant for one in overlaps(other, [NEW], MORE.roster, NOW)] == [False]
    twin = merchant("bank-b", organisation=MORE.roster.member(MERCHANT, Role.MERCHANT).organisation)
    roster = MORE.make_roster((MORE.merchant, twin, *map(holder, MORE.holders)))
    assert [one.same_merchant for one in overlaps(NEW, [other], roster, NOW)] == [True]


def test_a_revoked_merchant_under_a_new_name_is_the_same_merchant() -> None:
    other = signed_for("chz", "bank-b")
    gone = Revocation(descriptor=merchant("bank-b", organisation=MERCHANT), revoked_at=NOW - 1, reason="a lost key")
    roster = MORE.make_roster((MORE.merchant, *map(holder, MORE.holders)), revoked=(gone,))
    assert [one.same_merchant for one in overlaps(NEW, [other], roster, NOW)] == [True]


def test_what_was_verified_stays_as_it_is() -> None:
    for made in (contract(), Overlap(NEW, (), True)):
        with pytest.raises(FrozenInstanceError):
            setattr(made, next(iter(vars(made))), None)


def test_the_largest_t_in_play_decides_how_many_are_few() -> None:
    other = signed_for("chzgl")  # dresden, geneva, lyon
    assert overlaps(NEW, [other], MORE.roster, NOW) == []
    wary = MORE.make_roster(charter=Charter(tolerated=2))
    for found in (
        overlaps(signed_for("cdhz", tolerated=2), [other], MORE.roster, NOW),
        overlaps(NEW, [changed(other, tolerated=2)], MORE.roster, NOW),
        overlaps(NEW, [other], wary, NOW),
    ):
        assert [one.holders for one in found] == [("dresden", "geneva", "lyon")]
