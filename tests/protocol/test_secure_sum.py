"""The secure sum: right for every honest set, refused for every disagreement."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import BadCiphertext, ManifestMismatch, SetMismatch, TotalRejected
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.paillier import Encryptor, key_id
from ceiba_protocol.sums.secure_sum import (
    RoundContext,
    coordinator_multiply,
    holder_contribute,
    merchant_open,
    run_sum,
    set_digest,
)
from tests.support.keys import keypair

PUBLIC, PRIVATE = keypair(1024)
N = int(PUBLIC.n)
HOLDERS = ("east", "north", "west")
LAYOUT = Layout(key_bits=1024, header=(30,), cell=(3_000, 3 * 10**9), cells=30, holders=3)
SHARES = [10, *[1_000, 10**9] * 30]
VALUES = {
    "east": [1, *range(60)],
    "north": [10, *range(0, -60, -1)],
    "west": [-4, *[1_000, -(10**9)] * 30],
}
SUMS = [sum(column) for column in zip(*VALUES.values(), strict=True)]
ENCRYPTOR = Encryptor.for_count(N, 200, os.urandom)


class World:
    """Three holders with fresh mask keys, who may each hold their own view of the round."""

    def __init__(self, holders: tuple[str, ...] = HOLDERS) -> None:
        secrets = {holder: X25519PrivateKey.generate() for holder in holders}
        self.secrets = {holder: secret.private_bytes_raw() for holder, secret in secrets.items()}
        self.keys = {holder: secret.public_key().public_bytes_raw() for holder, secret in secrets.items()}
        self.context = RoundContext(
            suite="K1",
            agreement_digest=os.urandom(32),
            manifest_digest=os.urandom(32),
            attempt=0,
            stage=0,
            iteration=0,
            set_digest=set_digest({holder: (bytes(32), key) for holder, key in self.keys.items()}),
            key_id=key_id(N),
            layout_digest=LAYOUT.digest(),
        )

    def contribute(self, me: str, **changes: Any) -> bytes:
        arguments: dict[str, Any] = {
            "context": self.context,
            "layout": LAYOUT,
            "values": VALUES[me],
            "share_bounds": SHARES,
            "me": me,
            "mask_secret": self.secrets[me],
            "peers": {peer: key for peer, key in self.keys.items() if peer != me},
            "encryptor": ENCRYPTOR,
        }
        return holder_contribute(**(arguments | changes))

    def contributions(self) -> dict[str, bytes]:
        return {holder: self.contribute(holder) for holder in self.keys}


def opened(contributions: Mapping[str, bytes]) -> list[int]:
    return merchant_open(coordinator_multiply(contributions, LAYOUT, N), contributions, LAYOUT, PRIVATE)


# --- honest parties --------------------------------------------------------------------------------------------


def test_merchant_reads_the_sums() -> None:
    assert opened(World().contributions()) == SUMS


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(0, 40), st.data())
def test_run_sum_adds(holders: int, cells: int, data: st.DataObject) -> None:
    layout = Layout(key_bits=1024, header=(), cell=(10**12,), cells=cells, holders=holders)
    share = st.integers(-(10**12) // holders + 1, 10**12 // holders)
    values = {f"h{index}": [data.draw(share) for _ in range(cells)] for index in range(holders)}
    expected = [sum(column) for column in zip(*values.values(), strict=True)]
    assert run_sum(values, layout, os.urandom, (PUBLIC, PRIVATE)) == expected


def test_run_sum_with_the_default_key() -> None:
    layout = Layout(key_bits=3072, header=(), cell=(3_000, 3 * 10**9), cells=40, holders=3)
    values = {holder: [(-1) ** index * index for index in range(80)] for holder in HOLDERS}
    expected = [3 * value for value in values["east"]]
    assert run_sum(values, layout, os.urandom, keypair(3072)) == expected


def test_order_of_holders_does_not_matter() -> None:
    contributions = World().contributions()
    totals = {
        coordinator_multiply({holder: contributions[holder] for holder in order}, LAYOUT, N)
        for order in permutations(HOLDERS)
    }
    assert len(totals) == 1


def test_ids_sort_as_text_not_as_numbers() -> None:
    layout = Layout(key_bits=1024, header=(100,), cell=(), cells=0, holders=3)
    values = {"h10": [1], "h9": [2], "h1": [3]}
    assert run_sum(values, layout, os.urandom, (PUBLIC, PRIVATE)) == [6]


def test_message_lengths_do_not_depend_on_values() -> None:
    world = World()
    lengths = {len(part) for part in world.contributions().values()}
    zeros = World().contribute("east", values=[0] * LAYOUT.slots)
    assert lengths == {LAYOUT.ciphertexts * 256} == {len(zeros)}


def test_one_holders_plaintext_is_masked_even_from_the_keys_owner() -> None:
    contributions = World().contributions()
    for holder in HOLDERS:
        with pytest.raises(TotalRejected):
            opened({holder: contributions[holder]})


# --- disagreement ----------------------------------------------------------------------------------------------


def changed(context: RoundContext, name: str) -> RoundContext:
    """The context with one bit of one field flipped."""
    value = getattr(context, name)
    if isinstance(value, bytes):
        other: Any = value[:-1] + bytes([value[-1] ^ 1])
    else:
        other = value ^ 1 if isinstance(value, int) else "J1"
    changes: dict[str, Any] = {name: other}
    return replace(context, **changes)


FIELDS = [field.name for field in fields(RoundContext)]
TIED = {"key_id", "layout_digest"}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_in_the_digest(name: str) -> None:
    context = World().context
    assert changed(context, name).digest() != context.digest()


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in TIED])
@pytest.mark.parametrize("odd", HOLDERS)
def test_one_flipped_bit_at_one_holder_rejects_the_total(name: str, odd: str) -> None:
    world = World()
    contributions = world.contributions() | {odd: world.contribute(odd, context=changed(world.context, name))}
    with pytest.raises(TotalRejected):
        opened(contributions)


@pytest.mark.parametrize("name", sorted(TIED))
def test_context_of_another_key_or_layout_is_refused_by_the_holder(name: str) -> None:
    world = World()
    with pytest.raises(ManifestMismatch):
        world.contribute("east", context=changed(world.context, name))


def test_layout_for_another_key_length_is_refused_by_the_holder() -> None:
    world, other = World(), replace(LAYOUT, key_bits=960)
    context = replace(world.context, layout_digest=other.digest())
    with pytest.raises(ManifestMismatch):
        world.contribute("east", layout=other, context=context)


def test_a_holder_left_out_of_anothers_set_rejects_the_total() -> None:
    """The coordinator shows `east` a stranger in the place of `west`."""
    world = World()
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for context in (world.context, replace(world.context, set_digest=bytes(32))):
        shown = world.contribute("east", context=context, peers={"north": world.keys["north"], "south": stranger})
        honest = {holder: world.contribute(holder) for holder in ("north", "west")}
        with pytest.raises(TotalRejected):
            opened({"east": shown} | honest)
        world = World()


def test_a_smaller_set_than_the_layouts_is_refused_by_the_holder() -> None:
    world = World()
    with pytest.raises(SetMismatch):
        world.contribute("east", peers={"north": world.keys["north"]})


def test_an_absent_holder_rejects_the_total() -> None:
    contributions = World().contributions()
    for absent in HOLDERS:
        with pytest.raises(TotalRejected):
            opened({holder: part for holder, part in contributions.items() if holder != absent})


def test_nobody_is_nobody() -> None:
    with pytest.raises(TotalRejected):
        coordinator_multiply({}, LAYOUT, N)


@pytest.mark.parametrize("copied", ["north", "west", "fourth"])
def test_a_holders_ciphertexts_twice_reject_the_total(copied: str) -> None:
    contributions = World().contributions()
    with pytest.raises(TotalRejected):
        opened(contributions | {copied: contributions["east"]})


def test_contributions_of_two_rounds_do_not_mix() -> None:
    first, second = World(), World()
    with pytest.raises(TotalRejected):
        opened(first.contributions() | {"west": second.contribute("west")})


# --- what the coordinator could send ---------------------------------------------------------------------------


def test_another_total_than_the_product_is_refused() -> None:
    contributions = World().contributions()
    total = bytearray(coordinator_multiply(contributions, LAYOUT, N))
    total[-1] ^= 1
    with pytest.raises(TotalRejected, match="product"):
        merchant_open(bytes(total), contributions, LAYOUT, PRIVATE)


def test_swapped_ciphertexts_of_one_holder_reject_the_total() -> None:
    contributions = World().contributions()
    part = contributions["east"]
    with pytest.raises(TotalRejected):
        opened(contributions | {"east": part[256:512] + part[:256] + part[512:]})


@pytest.mark.parametrize("change", [lambda part: part[:-1], lambda part: part[256:], lambda part: part + part[:256]])
def test_another_number_of_ciphertexts_is_refused_and_its_sender_named(change: Any) -> None:
    contributions = World().contributions()
    with pytest.raises(BadCiphertext, match="north"):
        coordinator_multiply(contributions | {"north": change(contributions["north"])}, LAYOUT, N)


def test_ciphertext_that_is_no_unit_is_refused_and_its_sender_named() -> None:
    contributions = World().contributions()
    bad = N.to_bytes(256, "big") + contributions["north"][256:]
    with pytest.raises(BadCiphertext, match="north"):
        coordinator_multiply(contributions | {"north": bad}, LAYOUT, N)


# --- digests against hashlib -----------------------------------------------------------------------------------


def lengths_first(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def test_context_digest_by_hand() -> None:
    digests = [bytes([index]) * 32 for index in range(7)]
    context = RoundContext("K1", digests[0], digests[1], 1, 2, 3, *digests[2:])
    numbers = [b"\0\0\0\x01", b"\0\0\0\x02", b"\0\0\0\x03"]
    parts = lengths_first(b"ceiba/v1/ctx", b"K1", *digests[:2], *numbers, *digests[2:])
    assert context.digest() == hashlib.sha256(parts).digest()


def test_absent_gate_and_iterate_are_zeros() -> None:
    context = World().context
    assert context.gate_transcript_digest == context.iterate_digest == bytes(32)


def test_set_digest_by_hand_in_any_order() -> None:
    members = {"b": (b"B" * 32, b"2" * 32), "a": (b"A" * 32, b"1" * 32)}
    parts = [lengths_first(b"a", b"A" * 32, b"1" * 32), lengths_first(b"b", b"B" * 32, b"2" * 32)]
    expected = hashlib.sha256(lengths_first(b"ceiba/v1/set", *parts)).digest()
    assert set_digest(members) == set_digest(dict(sorted(members.items()))) == expected
