"""Both sides of a private join in one place, with messages that a test can read and change on the way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

import phe
import pytest

from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, Row
from ceiba_protocol.linkage.private_join import BaseSide, Cell, JoinedSide, ProvenKey, merchant_open
from ceiba_protocol.sums import paillier
from ceiba_protocol.sums.key_proof import prove_key
from tests.support.keys import keypair
from tests.support.seeded import seeded

KEY_CONTEXT = bytes(range(32))
STEPS = ("groups", "rows", "masked sums", "tests", "tested", "decision", "base share")
"""Messages in their order; the joined holder's share goes with the decision."""


@contextmanager
def short_keys() -> Iterator[None]:
    """Within it, keys of 1024 bits can be proven."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paillier, "MINIMUM_KEY_BITS", 1024)
        yield


def terms_for(groups: int | tuple[int, ...], *cells: FieldShape, **changes: Any) -> JoinTerms:
    """Terms of a small join with k = 3, zeros shown, and no smallest intersection; of one grouping, or of several."""
    fields: dict[str, Any] = {
        "context": bytes(32),
        "base": "register",
        "joined": "tax",
        "groupings": (groups,) if isinstance(groups, int) else groups,
        "one_row_for_all": False,
        "cells": cells,
        "minimum_subjects": 3,
        "hides_zeros": False,
        "smallest_intersection": 0,
        "base_subjects": 60,
        "joined_subjects": 20,
    }
    return JoinTerms(**(fields | changes))


@cache
def proven(bits: int) -> ProvenKey:
    """The test key of so many bits with its proof verified."""
    private_key = keypair(bits)[1]
    return ProvenKey(private_key.public_key.n, prove_key(private_key, KEY_CONTEXT), KEY_CONTEXT)


def by_grouping(terms: JoinTerms, groups: Sequence[Sequence[bytes]]) -> list[Sequence[Sequence[bytes]]]:
    """The groups of each grouping; the last one has whatever is left."""
    ends = [*accumulate(terms.groupings)][:-1]
    return [groups[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)]


@dataclass
class Join:
    """One join. `groups`: of all groupings, one after the other. `change` is called with the kind and the bytes of
    every message, and what it returns is delivered."""

    terms: JoinTerms
    groups: Sequence[Sequence[bytes]]
    rows: Mapping[bytes, Row]
    noise: Sequence[Sequence[int]] = ()
    base_noise: Sequence[Sequence[int]] = ()
    change: Callable[[str, bytes], bytes] = lambda _, message: message
    private_key: phe.PaillierPrivateKey = field(default_factory=lambda: keypair(1024)[1])
    label: str = "join"
    sent: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = seeded(f"{self.label} base"), seeded(f"{self.label} joined")
        groupings = by_grouping(self.terms, self.groups)
        key = proven(self.private_key.public_key.n.bit_length())
        self.base = BaseSide(self.terms, groupings, key, random[0], noise=self.base_noise)
        self.joined = JoinedSide(
            self.terms, self.rows, self.private_key, random[1], joiner_is_semi_honest=True, noise=self.noise
        )

    def run(self, until: str = "base share") -> list[list[Cell]]:
        """All steps up to that message; the last one is for the merchant, who opens the shares."""
        makers: list[Callable[[bytes], bytes]] = [
            lambda _: self.base.groups(), self.joined.rows, self.base.mask, self.joined.tests, self.base.test,
            self._decide, self.base.share,
        ]  # fmt: skip
        message = b""
        for kind, make in zip(STEPS[: STEPS.index(until) + 1], makers, strict=False):
            message = self._send(kind, make(message))
        return self.open() if until == STEPS[-1] else []

    def open(self) -> list[list[Cell]]:
        """What the merchant reads."""
        return merchant_open(self.terms, self.sent["base share"], self.sent["joined share"])

    def _decide(self, tested: bytes) -> bytes:
        decision, share = self.joined.decide(tested)
        self._send("joined share", share)
        return decision

    def _send(self, kind: str, message: bytes) -> bytes:
        self.sent[kind] = self.change(kind, message)
        return self.sent[kind]


def plain_join(terms: JoinTerms, groups: Sequence[Sequence[bytes]], rows: Mapping[bytes, Row]) -> list[list[Cell]]:
    """What the merchant must read: all in one table, then the rule of the gate."""
    return [[_plain_cell(terms, place, group, rows) for place in range(len(terms.cells))] for group in groups]


def _plain_cell(terms: JoinTerms, place: int, group: Sequence[bytes], rows: Mapping[bytes, Row]) -> Cell:
    found = [values for identifier in group for cell, values in rows.get(identifier, ()) if cell == place]
    if len(found) < terms.minimum_subjects and (found or terms.hides_zeros):
        return None
    sums = (sum(values[measure] for values in found) for measure in range(len(terms.cells[place].value_widths)))
    return len(found), tuple(sums)
