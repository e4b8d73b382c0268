"""The space's rosters: proposed by the operator, put in force by the members who sign them (PROTOCOL §6.1)."""

from collections.abc import Callable, Iterable

from ceiba_coordinator.log import Log
from ceiba_coordinator.store.database import Store
from ceiba_protocol.errors import (
    BadCommand,
    DatasetMissing,
    RosterMismatch,
    RosterNotApproved,
    RosterNotPinned,
    UnknownMember,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.certificates import certificate_fingerprint
from ceiba_protocol.trust.roster import (
    Charter,
    Descriptor,
    Revocation,
    Role,
    Roster,
    RosterApproval,
    RosterTable,
    approval_of,
    approved_by,
    check_roster,
)
from ceiba_protocol.trust.signing import open_signed
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster


class Rosters:
    """The rosters of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self, store: Store, space: str, authority_certificate: bytes, log: Log, clock: Callable[[], int]
    ) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._store = store
        self._space = space
        self._authority_certificate = authority_certificate
        self._log = log
        self._clock = clock
        self._read: dict[int, Roster] = {}
        self._schemas: dict[str, Schema] = {}
        self.when_in_force: Callable[[], None] = lambda: None
        """Called in the transaction that puts a roster in force."""

    def enrolled(self) -> tuple[Descriptor, ...]:
        """Every member's descriptor, sorted by name."""
        return tuple(read_descriptor(signed) for signed in self._store.descriptors())

    # --- proposing

    def propose_roster(
        self, tables: list[tuple[Schema, list[str]]], stewards: Iterable[str] = (), tolerated: int = 1
    ) -> Roster:
        """The next roster, from all enrolled members and the given tables, each with its holders; stored as proposed.

        `stewards`: 3 to 7 holders who sign rosters for all; none if all holders do. `tolerated`: t of the charter.
        Raises BadCommand, RosterMismatch, UnknownMember, BadKeyProof.
        """
        if (chosen := sorted(set(stewards))) and not 3 <= len(chosen) <= 7:
            raise _cannot_propose(f"{len(chosen)} stewards are named, and it takes none or 3 to 7")
        listed = tuple(
            RosterTable(table=schema.table, schema_digest=schema.digest(), holders=tuple(sorted(set(holders))))
            for schema, holders in tables
            if holders
        )
        if len(listed) != len(tables):
            raise _cannot_propose("a table has no holders")
        with self._store.transaction():
            for schema, _ in tables:
                self._store.put_schema(schema.digest(), schema.body())
            return self._propose(listed, Charter(stewards=tuple(chosen), tolerated=tolerated), ())

    def revoke(self, name: str, reason: str) -> Roster:
        """Forget a member of the newest roster, and propose the next one without it; the tables stay, but those that
        nobody else holds. Its certificate opens nothing from now on.

        Raises UnknownMember if it is on no roster, and what `propose_roster` does.
        """
        newest = self.newest
        if newest is None or name not in newest.by_name:
            raise UnknownMember(member=name, role="member")
        stewards = tuple(steward for steward in newest.charter.stewards if steward != name)
        charter = newest.charter.model_copy(update={"stewards": stewards if len(stewards) >= 3 else ()})
        without = [
            table.model_copy(update={"holders": tuple(holder for holder in table.holders if holder != name)})
            for table in newest.tables
        ]
        tables = tuple(table for table in without if table.holders)
        revocation = Revocation(descriptor=newest.by_name[name], revoked_at=self._clock(), reason=reason)
        with self._store.transaction():
            self._store.remove_member(name)
            return self._propose(tables, charter, (revocation,))

    def _propose(self, tables: tuple[RosterTable, ...], charter: Charter, revoked: tuple[Revocation, ...]) -> Roster:
        newest, members = self.newest, self.enrolled()
        if not members:
            raise _cannot_propose("nobody has enrolled yet")
        before = newest.revoked if newest else ()
        roster = Roster(
            space=self._space,
            version=1 if newest is None else newest.version + 1,
            authority_fingerprint=certificate_fingerprint(self._authority_certificate),
            log_key=self._log.public_key,
            charter=charter,
            members=members,
            revoked=before + revoked,
            tables=tables,
        )
        check_roster(roster, members[0])
        self._store.add_roster(roster.version, roster.digest(), roster.body())
        return roster

    # --- approving

    def approve_roster(self, signed: Signed, holder: str) -> None:
        """Store a signer's approval of the newest roster; with the last one that it takes, it is in force. A repetition
        changes nothing.

        Version 1 is approved by its own signers, each later one by those of the roster in force.
        Raises RosterNotPinned, UnknownMember, BadSignature, RosterMismatch.
        """
        newest = self._newest()
        judge = self._judge_of(newest)
        approval = judge.open(signed, RosterApproval, Role.HOLDER)
        if signed.signer != holder or holder not in judge.signers:
            raise UnknownMember(member=holder, role="signer of the newest roster")
        if approval != approval_of(newest, holder):
            raise RosterMismatch(problem=f"the approval is not for the newest roster, version {newest.version}")
        if holder in (one.signer for one in self._store.roster_approvals(newest.version)):
            return
        with self._store.transaction():
            self._store.add_roster_approval(newest.version, holder, signed)
            self._log.append(signed)
            approvals = self._store.roster_approvals(newest.version)
            enough = len(approved_by(judge, newest, approvals)) >= judge.quorum
            if enough and newest.version not in self._store.versions_in_force():
                self._store.put_in_force(newest.version, self._clock())
                self.when_in_force()

    def _judge_of(self, roster: Roster) -> Roster:
        """Whose signers decide on that roster: the one that was in force before it, or itself if it is the first."""
        before = [version for version in self._store.versions_in_force() if version < roster.version]
        return self._at(max(before)) if before else roster

    # --- reading

    def roster(self) -> Roster:
        """The roster in force. Raises RosterNotPinned before there is any, RosterNotApproved while the first one lacks
        approvals."""
        if (roster := self.in_force()) is None:
            newest = self._newest()
            approved = len(self._store.roster_approvals(newest.version))
            raise RosterNotApproved(version=newest.version, approved=approved, quorum=self._judge_of(newest).quorum)
        return roster

    def in_force(self) -> Roster | None:
        versions = self._store.versions_in_force()
        return self._at(max(versions)) if versions else None

    @property
    def newest(self) -> Roster | None:
        """Proposed or in force, as in the database, which the command line writes too; None before there is one."""
        version = self._store.newest_roster_version()
        return None if version is None else self._at(version)

    def signed_roster(self) -> SignedRoster:
        """The newest roster with its approvals. Raises RosterNotPinned before there is one."""
        return self._signed(self._newest().version)

    def successors(self, pinned: str) -> list[SignedRoster] | None:
        """What a holder that has pinned the roster with that digest has to take up, oldest first; None if it has
        pinned the one in force. Nothing for one that is ahead, with a roster which is only proposed yet."""
        versions = self._store.versions_in_force()
        if versions and versions[max(versions)] == pinned:
            return None
        newest = self.newest
        if newest is not None and newest.digest() == pinned:
            return []
        known = max((version for version, digest in versions.items() if digest == pinned), default=0)
        return [self._signed(version) for version in versions if version > known]

    def schema(self, table: str) -> Schema:
        """The schema of a table of the roster in force. Raises UnknownTable, DatasetMissing if there is none yet."""
        entry = self.roster().table(table)
        if entry.schema_digest not in self._schemas:
            body = self._store.schema(entry.schema_digest)
            if body is None:
                raise DatasetMissing(holders=", ".join(entry.holders), table=table)
            self._schemas[entry.schema_digest] = Schema.parse(body)
        return self._schemas[entry.schema_digest]

    def _newest(self) -> Roster:
        if (newest := self.newest) is None:
            raise RosterNotPinned(command="ceiba-coordinator roster")
        return newest

    def _at(self, version: int) -> Roster:
        if version not in self._read:
            self._read[version] = Roster.parse(self._store.roster(version))
        return self._read[version]

    def _signed(self, version: int) -> SignedRoster:
        return SignedRoster(roster=self._store.roster(version), approvals=self._store.roster_approvals(version))


def _cannot_propose(problem: str) -> BadCommand:
    return BadCommand(command="ceiba-coordinator roster", problem=problem)


def read_descriptor(signed: Signed) -> Descriptor:
    """A descriptor, signed with the key that it describes. Raises BadSignature, MalformedDocument."""
    unverified = Descriptor.parse(signed.body)
    return open_signed(signed, Descriptor, unverified.key_for(Descriptor))
