"""The roster: who the members are, by their keys, and which holders stand behind each table.

Every member pins the roster's bytes after comparing its fingerprint with the others, and from then on checks every
signature, merchant key and set of holders against its own copy; the coordinator, which distributes it, cannot change
it unnoticed. Until agreements exist, the roster is the standing agreement: a table's holders answer together or not
at all, whoever asks (PROTOCOL §2.6, docs/adr/0002).
"""

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import Digest, Document, Hex, Hex32, HexDigest, MemberName, TableName, Text
from ceiba_protocol.errors import RosterMismatch, TooFewHolders, UnknownMember, UnknownTable
from ceiba_protocol.schema import nearest
from ceiba_protocol.sums.key_proof import key_context, verify_key
from ceiba_protocol.sums.paillier import key_id
from ceiba_protocol.trust.signing import D, open_signed
from ceiba_protocol.v1.common_pb2 import Signed

MINIMUM_HOLDERS = 3
"""max(3, t+2) with t = 1: with two holders each could subtract itself from the total (PROTOCOL §1)."""
SUITE = "K1"
"""Paillier-3072, X25519, HKDF-SHA256, AES-256-CTR, Ed25519, SHA-256 (PROTOCOL §1)."""


class Role(StrEnum):
    HOLDER = "holder"
    MERCHANT = "merchant"


class EncryptionKey(Document):
    """A merchant's Paillier modulus and the proof that it is well formed (PROTOCOL §2.2)."""

    modulus: Hex
    proof: Hex

    @cached_property
    def n(self) -> int:
        return int(self.modulus, 16)


class Descriptor(Document):
    """A member's public keys, self-signed at enrolment."""

    name: MemberName
    role: Role
    organisation: Text
    signing_key: Hex32
    """Ed25519 public key."""
    tls_fingerprint: HexDigest
    """SHA-256 of the DER SubjectPublicKeyInfo of its TLS key. The certificate is renewed; the key stays."""
    encryption_key: EncryptionKey | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.encryption_key is not None) != (self.role is Role.MERCHANT):
            raise ValueError("a merchant has an encryption key, and nobody else")
        return self

    @property
    def public_key(self) -> bytes:
        return bytes.fromhex(self.signing_key)

    def key_context(self) -> bytes:
        """What the encryption key's proof is bound to."""
        return key_context(self.name, self.public_key, SUITE, "long-lived")


class RosterTable(Document):
    """A table: its schema, and the holders who answer for it, all of them or none."""

    table: TableName
    schema_digest: HexDigest
    holders: Annotated[tuple[MemberName, ...], Field(min_length=1)]


class Roster(Document):
    """The space's members and tables at one version."""

    space: MemberName
    version: Annotated[int, Field(ge=1)]
    authority_fingerprint: HexDigest
    """SHA-256 of the space's CA certificate, DER."""
    members: tuple[Descriptor, ...]
    tables: tuple[RosterTable, ...]

    @cached_property
    def by_name(self) -> dict[str, Descriptor]:
        return {member.name: member for member in self.members}

    @property
    def fingerprint(self) -> str:
        """128 bits of the digest in groups of four, to be compared over the telephone."""
        digest = self.digest()[:32]
        return "-".join(digest[i : i + 4] for i in range(0, 32, 4))

    def member(self, name: str, role: Role) -> Descriptor:
        """Raises UnknownMember if nobody of that name has that role."""
        member = self.by_name.get(name)
        if member is None or member.role is not role:
            raise UnknownMember(member=name, role=role)
        return member

    def table(self, name: str) -> RosterTable:
        """Raises UnknownTable, which names the nearest one."""
        for table in self.tables:
            if table.table == name:
                return table
        raise UnknownTable(table=name, nearest=nearest(name, [table.table for table in self.tables]))

    def open(self, signed: Signed, kind: type[D], role: Role) -> D:
        """A document signed by a member in that role. Raises UnknownMember, BadSignature, MalformedDocument."""
        return open_signed(signed, kind, self.member(signed.signer, role).public_key)


def check_roster(roster: Roster, me: Descriptor) -> None:
    """Run by every member before it pins a roster; `me` is its own descriptor, as its keys are on its disk.

    1. I am on it, with exactly my keys. 2. No two members share a name, a key or, among holders, an organisation (P1).
    3. Every merchant's encryption key is proved well formed (I6). 4. Every table has enough holders, all on the roster.
    Raises RosterMismatch, TooFewHolders, UnknownMember, KeyTooShort, BadKeyProof.
    """
    if roster.by_name.get(me.name) != me:
        raise RosterMismatch(problem=f"its entry for {me.name} is missing or has other keys than this member's")
    for what, values in _must_differ(roster).items():
        if len(set(values)) != len(values):
            raise RosterMismatch(problem=f"two members have the same {what}")
    for member in roster.members:
        if member.encryption_key is not None:
            key = member.encryption_key
            verify_key(key.n, bytes.fromhex(key.proof), member.key_context())
    for table in roster.tables:
        _check_table(roster, table)


def _must_differ(roster: Roster) -> dict[str, list[str]]:
    members = roster.members
    return {
        "name": [member.name for member in members],
        "signing key": [member.signing_key for member in members],
        "TLS key": [member.tls_fingerprint for member in members],
        "organisation": [member.organisation for member in members if member.role is Role.HOLDER],
    }


def _check_table(roster: Roster, table: RosterTable) -> None:
    if list(table.holders) != sorted(set(table.holders)):
        raise RosterMismatch(problem=f"the holders of {table.table} are not sorted and distinct")
    for holder in table.holders:
        roster.member(holder, Role.HOLDER)
    if len(table.holders) < MINIMUM_HOLDERS:
        raise TooFewHolders(table=table.table, holders=len(table.holders), minimum=MINIMUM_HOLDERS)


def merchant_key_id(merchant: Descriptor) -> Digest:
    """The id of a merchant's encryption key, as manifests carry it."""
    assert merchant.encryption_key is not None
    return Digest(key_id(merchant.encryption_key.n).hex())
