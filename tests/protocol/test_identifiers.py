"""Identifiers: what is written differently is one identifier; what cannot be right is refused, and not shown."""

import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.cn import ric, uscc

from ceiba_protocol.errors import BadIdentifier
from ceiba_protocol.identifiers import MAX_IDENTIFIER, Flaw, IdentifierKind, normalise, uscc_check_digit
from tests.support.errors import everything_about

USCC, RESIDENT_ID, TEXT = IdentifierKind
ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"

STANDARD = "91350100M000100Y43"
"""The example of GB 32100-2015."""
REGISTERED = ["91110000600037341L", "91310110666007217T", "91330201MA282UF146", "11610923MB2900168E"]
"""Codes that registers have published, the last an authority's; the first is stdnum's own example."""
EARLY = "91350211M00013FA1N"
"""Published too: an early pilot gave codes whose check digit is not the standard's."""
RESIDENTS = ["11010519491231002X", "440524188001010014"]
"""The examples of GB 11643-1999."""


def flaw_of(kind: IdentifierKind, value: str) -> str:
    with pytest.raises(BadIdentifier) as refusal:
        normalise(kind, value)
    assert refusal.value.fields["kind"] == kind
    return refusal.value.fields["flaw"]


# --- known answers from outside ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [STANDARD, *REGISTERED])
def test_published_credit_codes_are_normal(code):
    assert normalise(USCC, code) == code


@pytest.mark.parametrize("number", RESIDENTS)
def test_the_standards_resident_numbers_are_normal(number):
    assert normalise(RESIDENT_ID, number) == number


def test_a_code_with_another_check_digit_is_refused():
    assert flaw_of(USCC, EARLY) == Flaw.CHECK_DIGIT


@given(st.text(ALPHABET, min_size=17, max_size=17))
def test_the_check_digit_is_stdnums(code):
    assert uscc_check_digit(code) == uscc.calc_check_digit(code)


@given(st.text(ALPHABET, min_size=2, max_size=2), st.text(string.digits, min_size=6, max_size=6),
       st.text(ALPHABET, min_size=9, max_size=9))  # fmt: skip
@settings(max_examples=20)
def test_only_one_of_31_check_digits_is_accepted(authority, region, organisation):
    code = authority + region + organisation
    accepted = [digit for digit in ALPHABET if not is_refused(USCC, code + digit)]
    assert accepted == [uscc.calc_check_digit(code)]


@given(st.dates(), st.integers(0, 999_999), st.integers(0, 999))
@settings(max_examples=40)
def test_only_one_of_11_check_digits_is_accepted(born, region, order):
    number = f"{region:06}{born.year:04}{born.month:02}{born.day:02}{order:03}"
    accepted = [digit for digit in "0123456789X" if not is_refused(RESIDENT_ID, number + digit)]
    assert accepted == [ric.calc_check_digit(number + "0")]


def is_refused(kind: IdentifierKind, value: str) -> bool:
    try:
        normalise(kind, value)
    except BadIdentifier:
        return True
    return False


@given(st.integers(0, 16), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(place, other):
    changed = STANDARD[:place] + other + STANDARD[place + 1 :]
    assert changed == STANDARD or is_refused(USCC, changed)


@given(st.integers(0, 16))
def test_two_neighbours_that_changed_places_are_noticed(place):
    swapped = STANDARD[:place] + STANDARD[place + 1] + STANDARD[place] + STANDARD[place + 2 :]
    assert swapped == STANDARD or is_refused(USCC, swapped)


# --- one form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "91350100m000100y43",
        " 91350100 M000 100Y43\t",
        "91350100-M000100Y4-3",
        "91350100\u2013M000100Y4\u22123",
        "９１３５０１００Ｍ０００１００Ｙ４３",
        "９１３５０１００－ｍ０００１００ｙ４　３",
        "\ufeff91350100M000100Y43\u200b",
        "91350100\xadM000\xa0100Y43",
    ],
)
def test_ways_to_write_a_credit_code(written):
    assert normalise(USCC, written) == STANDARD


@pytest.mark.parametrize(
    "written", ["110105 19491231 002x", "１１０１０５１９４９１２３１００２ｘ", "110105-19491231-002X"]
)
def test_ways_to_write_a_resident_number(written):
    assert normalise(RESIDENT_ID, written) == RESIDENTS[0]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("  Acme \t GmbH\n& Co.", "acme gmbh & co."),
        ("STRASSE 5", "strasse 5"),
        ("Straße 5", "strasse 5"),
        ("ＲＥＧ－００１", "reg-001"),
        ("é", "\xe9"),
        ("e\u0301", "\xe9"),
        ("①ﬁ", "1fi"),
        ("东京　都", "东京 都"),
    ],
)
def test_text(written, normal):
    assert normalise(TEXT, written) == normal


ANY = st.text(max_size=40) | st.text("0123456789ABXYxy- \u2010\uff10\u3000\ufb01\u0345\u1e9e", max_size=24)


@given(st.sampled_from(IdentifierKind), ANY)
def test_what_is_normal_stays_as_it_is(kind, value):
    try:
        normal = normalise(kind, value)
    except BadIdentifier:
        return
    assert normal and len(normal) <= MAX_IDENTIFIER and normalise(kind, normal) == normal
    assert unicodedata.is_normalized("NFKC", normal)


@given(ANY)
def test_case_and_composition_make_no_other_text(value):
    for other in (value.lower(), *(unicodedata.normalize(form, value) for form in ("NFC", "NFD", "NFKC", "NFKD"))):
        assert result_of(other) == result_of(value)


def result_of(value: str) -> str | None:
    return None if is_refused(TEXT, value) else normalise(TEXT, value)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "flaw"),
    [
        (USCC, "", Flaw.LENGTH),
        (USCC, " - ", Flaw.LENGTH),
        (USCC, STANDARD[:-1], Flaw.LENGTH),
        (USCC, STANDARD + "3", Flaw.LENGTH),
        (USCC, "91350100M000100I43", Flaw.CHARACTER),
        (USCC, "91350100M000100é43", Flaw.CHARACTER),
        (USCC, "9135010AM000100Y43", Flaw.CHARACTER),
        (USCC, "9135010\u0660M000100Y43", Flaw.CHARACTER),
        (USCC, "91350100M000100_43", Flaw.CHARACTER),
        (USCC, "91350100M000100Y44", Flaw.CHECK_DIGIT),
        (RESIDENT_ID, "110105491231002", Flaw.LENGTH),
        (RESIDENT_ID, "1101051949123100X2", Flaw.CHARACTER),
        (RESIDENT_ID, "1101051949123100\u06622", Flaw.CHARACTER),
        (RESIDENT_ID, "11010519490229002X", Flaw.DATE),
        (RESIDENT_ID, "11010500001231002X", Flaw.DATE),
        (RESIDENT_ID, "110105194912310021", Flaw.CHECK_DIGIT),
        (TEXT, " \t\u3000", Flaw.LENGTH),
        (TEXT, "x" * (MAX_IDENTIFIER + 1), Flaw.LENGTH),
        (TEXT, "\ufdfa" * 20, Flaw.LENGTH),
        (TEXT, "a\ud800", Flaw.CHARACTER),
    ],
)
def test_each_flaw(kind, value, flaw):
    assert flaw_of(kind, value) == flaw


def test_no_error_has_the_value():
    for kind, value in [(USCC, "91350100M000100Y44"), (RESIDENT_ID, "11010519490229002X"), (TEXT, "canary" * 99)]:
        with pytest.raises(BadIdentifier) as refusal:
            normalise(kind, value)
        said = everything_about(refusal.value)
        assert value not in said and value[:6] not in said
