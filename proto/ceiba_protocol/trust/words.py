"""Digests as words, to be read out on the telephone: the English list of BIP-39, 11 bits a word.

How many words: 12 words are 132 bits, for a roster, because whoever shapes a roster could search for two with equal
words, which takes 2^66 digests. 6 words are 66 bits, for one member's keys, where words that are already known must
be met by other keys (a second preimage), which takes 2^66 keys.
"""

import re
from functools import cache

BITS_PER_WORD = 11
ROSTER_WORDS = 12
MEMBER_WORDS = 6

_LETTERS_THAT_TELL = 4
"""BIP-39: no two words of the list have the same first four letters."""
_BETWEEN_WORDS = re.compile(r"[\s,\-\u2010-\u2015]+")
"""Spaces, commas, and the hyphens and dashes that mail programs make of one another."""


@cache
def word_list() -> tuple[str, ...]:
    """The 2048 words in BIP-39's order."""
    from mnemonic import Mnemonic  # read when a word is first needed, so that importing Ceiba stays quick

    return tuple(Mnemonic("english").wordlist)


@cache
def _by_first_letters() -> dict[str, str]:
    return {word[:_LETTERS_THAT_TELL]: word for word in word_list()}


def words_of(digest: str, count: int) -> str:
    """The first 11·`count` bits of a digest in hexadecimal, big-endian, as `count` words joined by single hyphens.

    `count`: 1 to 23, for a SHA-256.
    """
    whole = bytes.fromhex(digest)
    bits = int.from_bytes(whole, "big") >> (8 * len(whole) - BITS_PER_WORD * count)
    shifts = range(BITS_PER_WORD * (count - 1), -1, -BITS_PER_WORD)
    return "-".join(word_list()[bits >> shift & 0x7FF] for shift in shifts)


def normalised(text: str) -> str:
    """What a person typed, in the form that `words_of` gives, for comparison with it.

    Upper case, spaces and commas do not matter, and a word may be cut after its fourth letter or later. A word that is
    not on the list is kept as it is, so that the comparison fails.
    """
    typed = [word for word in _BETWEEN_WORDS.split(text.lower()) if word]
    return "-".join(_completed(word) for word in typed)


def _completed(typed: str) -> str:
    word = _by_first_letters().get(typed[:_LETTERS_THAT_TELL], "")
    return word if word.startswith(typed) else typed
