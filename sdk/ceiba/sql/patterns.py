"""LIKE and ILIKE: the labels of a declared domain that a pattern matches. No pattern ever reaches a holder."""

from __future__ import annotations

import re
from collections.abc import Iterator


def matching(pattern: str, labels: tuple[str, ...], *, escape: str, ignore_case: bool) -> list[str]:
    """The labels that the whole pattern matches: `%` is any text, `_` one character; `escape` before either, or before
    itself, means the character."""
    wanted = re.compile(_regular(list(_pieces(pattern, escape))), re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    return [label for label in labels if wanted.fullmatch(label)]


def _pieces(pattern: str, escape: str) -> Iterator[str]:
    """Regular expressions for the characters; "" for `%`."""
    characters = iter(pattern)
    for character in characters:
        if escape and character == escape:
            yield re.escape(next(characters, escape))
        else:
            yield {"%": "", "_": "."}.get(character, re.escape(character))


def _regular(pieces: list[str]) -> str:
    """Each part between two `%` is taken where it first fits, and stays there (atomic): so matching takes no time that
    grows with the number of `%`."""
    parts = [""]
    for piece in pieces:
        if piece:
            parts[-1] += piece
        else:
            parts.append("")
    first, *others = parts
    if not others:
        return first
    *middle, last = others
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + f".*{last}"
