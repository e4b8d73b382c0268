"""The roster: who the members are, by their keys, and which holders stand behind each table (PROTOCOL §6.1).

Every member pins the first roster after comparing its fingerprint with the others, and from then on checks every
signature against its own copy. A later version is taken up once a quorum of the pinned version's holders, or of the
stewards that its charter names, has signed it; the coordinator, which distributes rosters, cannot change one unnoticed.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import Digest, Document, Hex, Hex32, HexDigest, MemberName, Seconds, TableName, Text
from ceiba_protocol.errors import (
    CeibaError,
    RosterMismatch,
    RosterNotApproved,
    UnknownMember,
    UnknownTable,
)
from ceiba_protocol.schema import nearest
from ceiba_protocol.sums.key_proof import key_context, verify_key
from ceiba_protocol.sums.paillier import key_id
from ceiba_protocol.trust.signing import D, open_signed
from ceiba_protocol.trust.words import MEMBER_WORDS, ROSTER_WORDS, words_of
from ceiba_protocol.v1.common_pb2 import Signed

MINIMUM_HOLDERS = 3
"""With two holders each could subtract itself from the total (PROTOCOL §1)."""
OPERATOR = "coordinator"
"""The signer's name on what the operator signs with the log key; no member can have it."""
SUITE = "K1"
"""Paillier-3072, X25519, HKDF-SHA256, AES-256-CTR, Ed25519, SHA-256 (PROTOCOL §1)."""


SIGNED_BY_OFFICER = frozenset({"Agreement", "Notice"})
SIGNED_BY_PUBLISHER = frozenset({"Offer"})
"""Names of documents that a holder's own key cannot sign."""


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


class Duties(Document):
    """Ed25519 public keys of two people at a holder, whom its own signature on the descriptor certifies.

    What one signs, the other cannot: a database administrator publishes no contract, a data-protection officer no data.
    """

    officer: Hex32
    """Signs agreements and notices about them."""
    publisher: Hex32
    """Signs offers of datasets."""


class Descriptor(Document):
    """A member's public keys, self-signed at enrolment."""

    name: MemberName
    role: Role
    organisation: Text
    signing_key: Hex32
    """Ed25519 public key: the member's own, under which its running program answers."""
    tls_fingerprint: HexDigest
    """SHA-256 of the DER SubjectPublicKeyInfo of its TLS key. The certificate is renewed; the key stays."""
    sealing_key: Hex32
    """X25519 public key to which others seal messages for it with HPKE."""
    duties: Duties | None = None
    """A holder's; None for a merchant."""
    encryption_key: EncryptionKey | None = None
    """A merchant's; None for a holder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.encryption_key is not None) != (self.role is Role.MERCHANT):
            raise ValueError("a merchant has an encryption key, and nobody else")
        if (self.duties is not None) != (self.role is Role.HOLDER):
            raise ValueError("a holder has an officer and a publisher, and nobody else")
        return self

    @property
    def legal_person(self) -> str:
        """The organisation without what a spelling may vary: Unicode form, case, spaces. Equal ones are the same."""
        return " ".join(unicodedata.normalize("NFKC", self.organisation).casefold().split())

    def key_for(self, kind: type[Document]) -> bytes:
        """The public key under which this member signs documents of that kind."""
        if self.duties is not None and kind.__name__ in SIGNED_BY_OFFICER:
            return bytes.fromhex(self.duties.officer)
        if self.duties is not None and kind.__name__ in SIGNED_BY_PUBLISHER:
            return bytes.fromhex(self.duties.publisher)
        return bytes.fromhex(self.signing_key)

    @property
    def words(self) -> str:
        """Six words for a telephone call, before one signs a roster that lists these keys."""
        return words_of(self.digest(), MEMBER_WORDS)

    def key_context(self) -> bytes:
        """What the encryption key's proof is bound to."""
        return key_context(self.name, bytes.fromhex(self.signing_key), SUITE, "long-lived")


class Revocation(Document):
    """A member that is one no more. What it signed before still counts."""

    descriptor: Descriptor
    revoked_at: Seconds
    reason: Text


class Charter(Document):
    """What the members have agreed on about the space itself."""

    stewards: Annotated[tuple[MemberName, ...], Field(max_length=7)] = ()
    """The 3 to 7 holders who sign rosters for all; empty if all holders do."""
    tolerated: Annotated[int, Field(ge=1, le=1000)] = 1
    """t: how many holders may collude with the merchant and the coordinator without learning another's figures."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.stewards) in (1, 2) or list(self.stewards) != sorted(set(self.stewards)):
            raise ValueError("stewards are none, or 3 to 7, sorted and distinct")
        return self


class RosterTable(Document):
    """A table: its schema, and the holders who have datasets of it."""

    table: TableName
    schema_digest: HexDigest
    holders: Annotated[tuple[MemberName, ...], Field(min_length=1)]


class Roster(Document):
    """The space's members and tables at one version."""

    space: MemberName
    version: Annotated[int, Field(ge=1)]
    authority_fingerprint: HexDigest
    """SHA-256 of the space's CA certificate, DER."""
    log_key: Hex32
    """Ed25519 public key under which the operator signs the log's checkpoints. It signs nothing else that counts."""
    charter: Charter = Charter()
    members: tuple[Descriptor, ...]
    revoked: tuple[Revocation, ...] = ()
    tables: tuple[RosterTable, ...]

    @cached_property
    def by_name(self) -> dict[str, Descriptor]:
        return {member.name: member for member in self.members}

    @property
    def fingerprint(self) -> str:
        """Twelve words, to be compared over the telephone."""
        return words_of(self.digest(), ROSTER_WORDS)

    @property
    def signers(self) -> tuple[str, ...]:
        """Who signs the next roster: the stewards, or every holder."""
        holders = sorted(member.name for member in self.members if member.role is Role.HOLDER)
        return self.charter.stewards or tuple(holders)

    @property
    def quorum(self) -> int:
        """How many of the signers it takes: ⌈2/3⌉ of them."""
        return -(-2 * len(self.signers) // 3)

    @property
    def minimum_holders(self) -> int:
        """max(3, t+2): fewer holders would let t colluding ones see another's figures (PROTOCOL §1)."""
        return max(MINIMUM_HOLDERS, self.charter.tolerated + 2)

    def as_of(self, at: int) -> Self:
        """The roster with the keys back that were revoked only after that time, to read what they signed then.

        A member that has got new keys since has the ones that it had then.
        """
        later = [one for one in self.revoked if one.revoked_at > at]
        then = {one.descriptor.name: one.descriptor for one in sorted(later, key=lambda one: -one.revoked_at)}
        others = [member for member in self.members if member.name not in then]
        return self.model_copy(update={"members": (*others, *then.values())}) if then else self

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
        return open_signed(signed, kind, self.member(signed.signer, role).key_for(kind))

    def open_any(self, signed: Signed, kind: type[D]) -> D:
        """As `open`, by a member in whatever role."""
        member = self.by_name.get(signed.signer)
        return self.open(signed, kind, member.role if member else Role.HOLDER)


def check_roster(roster: Roster, me: Descriptor) -> None:
    """Run by every member before it pins a roster; `me` is its own descriptor, as its keys are on its disk.

    1. I am on it, with exactly my keys. 2. No two members share a name, a key or, among holders, an organisation (P1).
    3. Every merchant's encryption key is proved well formed (I6). 4. Every table's holders are on the
    roster; whether they are enough for sums is for each agreement to say.
    5. The stewards are holders on it, and nobody revoked is a member with the same keys.
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
    if OPERATOR in roster.by_name:
        raise RosterMismatch(problem=f"a member is called {OPERATOR}, which is the operator's name in the log")
    for steward in roster.charter.stewards:
        roster.member(steward, Role.HOLDER)
    for revocation in roster.revoked:
        if revocation.descriptor in roster.members:
            raise RosterMismatch(problem=f"{revocation.descriptor.name} is a member and revoked at once")


class RosterApproval(Document):
    """A signer's word that a roster is the one it has compared with the others."""

    space: MemberName
    version: Annotated[int, Field(ge=1)]
    roster_digest: HexDigest
    member: MemberName


def approval_of(roster: Roster, member: str) -> RosterApproval:
    """Run by a signer that has checked the roster."""
    return RosterApproval(space=roster.space, version=roster.version, roster_digest=roster.digest(), member=member)


def approved_by(judge: Roster, roster: Roster, approvals: Iterable[Signed]) -> tuple[str, ...]:
    """Which of the judging roster's signers have approved this roster; what does not verify counts for nothing."""
    found = set()
    for signed in approvals:
        try:
            approval = judge.open(signed, RosterApproval, Role.HOLDER)
        except CeibaError:
            continue
        if signed.signer in judge.signers and approval == approval_of(roster, signed.signer):
            found.add(signed.signer)
    return tuple(sorted(found))


def check_succession(pinned: Roster, roster: Roster, approvals: Sequence[Signed], me: Descriptor) -> None:
    """Run by every member before it takes up a newer roster without a telephone call.

    1. It follows the pinned one: same space, CA and log key, a later version. 2. A quorum of the pinned roster's
    signers has signed it. 3. It is acceptable in itself. Raises RosterMismatch, RosterNotApproved, and what
    `check_roster` does.
    """
    same = (roster.space, roster.authority_fingerprint, roster.log_key)
    if same != (pinned.space, pinned.authority_fingerprint, pinned.log_key):
        raise RosterMismatch(problem="its space, CA or log key is another one than the pinned roster's")
    if roster.version <= pinned.version:
        raise RosterMismatch(problem=f"version {roster.version} is not newer than the pinned {pinned.version}")
    signed_by = approved_by(pinned, roster, approvals)
    if len(signed_by) < pinned.quorum:
        raise RosterNotApproved(version=roster.version, approved=len(signed_by), quorum=pinned.quorum)
    check_roster(roster, me)


def _must_differ(roster: Roster) -> dict[str, list[str]]:
    members = roster.members
    return {
        "name": [member.name for member in members],
        "signing key": [key for member in members for key in _signing_keys(member)],
        "sealing key": [member.sealing_key for member in members],
        "TLS key": [member.tls_fingerprint for member in members],
        "organisation": [member.legal_person for member in members if member.role is Role.HOLDER],
    }


def _signing_keys(member: Descriptor) -> list[str]:
    duties = [member.duties.officer, member.duties.publisher] if member.duties else []
    return [member.signing_key, *duties]


def _check_table(roster: Roster, table: RosterTable) -> None:
    if list(table.holders) != sorted(set(table.holders)):
        raise RosterMismatch(problem=f"the holders of {table.table} are not sorted and distinct")
    for holder in table.holders:
        roster.member(holder, Role.HOLDER)


def merchant_key_id(merchant: Descriptor) -> Digest:
    """The id of a merchant's encryption key, as manifests carry it."""
    assert merchant.encryption_key is not None
    return Digest(key_id(merchant.encryption_key.n).hex())
