"""Digests as words: the list of BIP-39 in its order, its own known answers, and what people make of words."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.trust.words import MEMBER_WORDS, ROSTER_WORDS, normalised, word_list, words_of

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of b"abc" (FIPS 180-2, appendix B.1)."""

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(1, 23)


def test_the_list_is_bip_39s_english_list() -> None:
    as_published = "".join(f"{word}\n" for word in word_list()).encode()
    known = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    assert hashlib.sha256(as_published).hexdigest() == known


def test_2048_words_that_their_first_four_letters_tell_apart() -> None:
    assert len(word_list()) == len(set(word_list())) == len({word[:4] for word in word_list()}) == 2048


@pytest.mark.parametrize(
    ("entropy", "sentence"),
    [
        ("00" * 16, "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"),
        ("7f" * 16, "legal winner thank year wave sausage worth useful legal winner thank yellow"),
        ("80" * 16, "letter advice cage absurd amount doctor acoustic avoid letter advice cage above"),
        ("ff" * 16, "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong"),
        (
            "9e885d952ad362caeb4efe34a8e91bd2",
            "ozone drill grab fiber curtain grace pudding thank cruise elder eight picnic",
        ),
        (
            "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c",
            "hamster diagram private dutch cause delay private meat slide toddler razor book "
            "happy fancy gospel tennis maple dilemma loan word shrug inflict delay length",
        ),
        (
            "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
            "void come effort suffer camp survey warrior heavy shoot primary clutch crush "
            "open amazing screen patrol group space point ten exist slush involve unfold",
        ),
    ],
)
def test_known_answers_of_bip_39(entropy: str, sentence: str) -> None:
    """Its last word holds a checksum, which a digest does not need; all the words before it must agree."""
    *words, _ = sentence.split()
    assert words_of(entropy, len(words)) == "-".join(words)


@pytest.mark.parametrize("count", [MEMBER_WORDS, ROSTER_WORDS])
def test_words_are_the_first_bits_read_as_a_number(count: int) -> None:
    bits = "".join(f"{int(digit, 16):04b}" for digit in ABC)
    expected = [word_list()[int(bits[11 * at : 11 * at + 11], 2)] for at in range(count)]
    assert words_of(ABC, count).split("-") == expected


def test_words_of_a_known_digest() -> None:
    # 0xba7816bf8f01cfea4 is 10111010011 11000000101 10101111111 00011110000 00011100111 11110101001 00..
    numbers = [0b10111010011, 0b11000000101, 0b10101111111, 0b00011110000, 0b00011100111, 0b11110101001]
    assert numbers == [int(ABC, 16) // 2 ** (256 - 11 * at) % 2048 for at in range(1, 7)]
    assert words_of(ABC, 6) == "-".join(word_list()[number] for number in numbers)


@given(digests, counts)
def test_words_give_the_bits_back(digest: str, count: int) -> None:
    number = 0
    for word in words_of(digest, count).split("-"):
        number = number * 2048 + word_list().index(word)
    assert number == int(digest, 16) >> (256 - 11 * count)


# --- what a person types -----------------------------------------------------------------------------------------


@st.composite
def typed_words(draw: st.DrawFn) -> tuple[str, str]:
    """The words of a digest, and a way in which someone may type them."""
    words = words_of(draw(digests), draw(counts))
    between = st.text("-, \t\n\u00a0\u2011\u2013", min_size=1, max_size=3)
    typed = draw(st.sampled_from(["", " ", "\n", "- "]))
    for word in words.split("-"):
        length = draw(st.integers(min(4, len(word)), len(word)))
        case = draw(st.sampled_from([str.lower, str.upper, str.title]))
        typed += case(word[:length]) + draw(between)
    return words, typed


@given(typed_words())
def test_every_way_of_typing_the_words_gives_them(words_and_typed: tuple[str, str]) -> None:
    words, typed = words_and_typed
    assert normalised(typed) == words


@given(digests, counts)
def test_words_are_normal_already(digest: str, count: int) -> None:
    assert normalised(words_of(digest, count)) == words_of(digest, count)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Abandon, ABIL  able", "abandon-ability-able"),
        ("act actr actor", "act-actress-actor"),
        ("acto", "actor"),
        ("aban abando", "abandon-abandon"),
        ("aba", "aba"),
        ("abandonment", "abandonment"),
        ("abandno", "abandno"),
        ("ceiba zoo", "ceiba-zoo"),
        ("zoos", "zoos"),
        ("", ""),
        (" -, ", ""),
        ("abandon.able", "abandon.able"),
        ("12345", "12345"),
    ],
)
def test_cut_words_are_completed_and_what_is_no_word_is_kept(typed: str, expected: str) -> None:
    assert normalised(typed) == expected


@given(st.text())
def test_any_text_becomes_normal_once_and_for_all(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@given(digests, digests)
def test_other_words_never_become_the_same(one: str, other: str) -> None:
    same_bits = int(one, 16) >> 124 == int(other, 16) >> 124
    assert (normalised(words_of(other, ROSTER_WORDS).upper()) == words_of(one, ROSTER_WORDS)) == same_bits


def test_the_list_is_not_read_before_it_is_needed() -> None:
    program = "import sys, ceiba, ceiba_protocol.trust.words; sys.exit('mnemonic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
