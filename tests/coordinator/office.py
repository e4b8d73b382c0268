"""A coordinator without a network, beside a world whose members send it messages."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ceiba_coordinator.agreements import Agreements
from ceiba_coordinator.answers import aborts_in, approvals_in, shares_in
from ceiba_coordinator.jobs import Jobs
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.receipts import Receipts
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.rounds import Commitment, commit_to_set, open_result
from ceiba_protocol.trust.certificates import make_authority
from ceiba_protocol.trust.roster import Roster, approval_of
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import HOLDERS, LOG_KEY, MERCHANT, NOW, World, signed_by

AUTHORITY = make_authority("test-space", datetime.fromtimestamp(NOW, UTC))


class Office:
    """Its agreement is signed by everybody, unless a test wants to see to that itself."""

    def __init__(self, path: Path | None = None, world: World | None = None, *, agreed: bool = True) -> None:
        self.world = world or World()
        self.path = path
        self.now = NOW
        self.open()
        self.store.put_schema(self.world.schema.digest(), self.world.schema.body())
        self.put_in_force(self.world.roster)
        self.id = bytes.fromhex(self.world.job_id)
        if agreed:
            self.agree()

    def open(self) -> None:
        self.store = Store(open_engine(f"sqlite:///{self.path}" if self.path else "sqlite://"))
        self.log = Log(self.store, "test-space", LOG_KEY, self.clock)
        self.membership = Membership(self.store, "test-space", AUTHORITY, self.log, self.clock)
        self.agreements = Agreements(self.store, self.membership, self.log, self.clock)
        self.jobs = Jobs(self.store, self.membership, self.agreements, self.log, self.clock)
        self.receipts = Receipts(self.store, self.log)

    def clock(self) -> int:
        return self.now

    def restart(self) -> None:
        """Everything but the file is forgotten."""
        self.store.engine.dispose()
        self.open()

    # --- rosters and agreements

    def propose(self, roster: Roster) -> None:
        """A roster by hand; the fast keys of these tests would not pass an operator's own check."""
        self.store.add_roster(roster.version, roster.digest(), roster.body())

    def approve_roster(self, roster: Roster, *names: str) -> None:
        for name in names:
            self.membership.approve_roster(signed_by(name, approval_of(roster, name)), name)

    def put_in_force(self, roster: Roster) -> None:
        judge = self.membership.in_force() or roster
        self.propose(roster)
        self.approve_roster(roster, *judge.signers[: judge.quorum])
        assert self.membership.roster() == roster

    def agree(self, *names: str) -> None:
        """These parties sign, or all."""
        for signed in self.world.signatures():
            if not names or signed.signer in names:
                self.agreements.submit(signed, signed.signer)

    # --- jobs

    def submit(self, signed: Signed | None = None) -> None:
        self.jobs.submit(signed or self.world.signed_manifest(), MERCHANT)

    def approve(self, *names: str, **changes: Any) -> None:
        for name in names:
            self.jobs.approve(self.world.approval(name, **changes), name)

    def leave(self, name: str) -> None:
        self.jobs.refuse(self.world.refusal(name), name, self.world.abort(name))

    def share(self, *names: str) -> None:
        """Their honest shares of the gate, in the set of the current attempt."""
        shares = {signed.signer: (signed, words) for signed, words in self.honest_shares()}
        for name in names:
            self.jobs.share(*shares[name], self.id, name)

    def honest_shares(self) -> list[tuple[Signed, bytes]]:
        return self.world.shares_in(self.world.read(), self.commitment())

    def contribute(self, *names: str) -> None:
        for name in names:
            self.jobs.contribute(*self.world.submission(name), self.id, name)

    def commitment(self) -> Commitment:
        """The set of the current attempt, as its holders see it in their task."""
        seats = self.store.seats(self.id)
        return commit_to_set(self.world.read(), approvals_in(seats), aborts_in(seats))

    def contribute_anew(self, *names: str) -> None:
        """In the set of the current attempt, whichever it is."""
        commitment = self.commitment()
        for name in names:
            self.jobs.contribute(*self.world.contribute(name, self.world.read(), commitment), self.id, name)

    def finish(self) -> None:
        """A whole job."""
        self.submit()
        self.approve(*HOLDERS)
        if self.world.agreement.disclosure.has_gate:
            self.share(*HOLDERS)
        self.contribute(*HOLDERS)

    def state(self) -> str:
        return self.jobs.status(self.id, MERCHANT, set()).state

    def tasks(self, name: str) -> list[str | None]:
        return [task.WhichOneof("kind") for task in self.jobs.tasks(name)]

    def result(self) -> list[int]:
        """What the merchant reads from the stored answer."""
        seats, total = self.jobs.result(self.id, MERCHANT)
        submissions = [
            (seat.submission, self.jobs.ciphertexts(self.id, seat.holder)) for seat in seats if seat.submission
        ]
        question, key = self.world.read(), self.world.private_key
        papers = approvals_in(seats), submissions, total, key, aborts_in(seats), shares_in(seats)
        return list(open_result(question, *papers).sums)


def refused(error: type[CeibaError], action: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(error):
        action(*arguments)
