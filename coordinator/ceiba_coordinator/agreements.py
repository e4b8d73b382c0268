"""The space's agreements: the coordinator passes signatures and notices on, and can change none (PROTOCOL §2.6).

Nothing but the signed documents is stored. An agreement's state is computed from them whenever it is needed, under the
roster in force: one whose party was revoked or has other keys ends by itself.
"""

from collections.abc import Callable

import structlog

from ceiba_coordinator.bells import EVERYBODY, Notify
from ceiba_coordinator.log import Log
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.agreements import StoredAgreement
from ceiba_coordinator.store.database import Store
from ceiba_protocol.errors import (
    AgreementMismatch,
    AgreementNotActive,
    CeibaError,
    IllegalNotice,
    MalformedMessage,
    MessageTooLarge,
    QuotaExceeded,
    UnknownAgreement,
)
from ceiba_protocol.trust.agreement import (
    TRANSITIONS,
    Agreement,
    Contract,
    Notice,
    State,
    check_parties,
    check_terms,
    read_contract,
)
from ceiba_protocol.trust.roster import OPERATOR, Role
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence, ListAgreementsResponse
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()

OPEN_PROPOSALS = 200
"""Of one merchant at a time: people have to read them, and every holder gets all of them."""
LARGEST_AGREEMENT = 32 * 1024
"""Bytes; some hundred holders and columns. All its signatures travel in one message, each with the same bytes."""
NOTICES = 1_000
"""Of one party about one agreement."""

_LIVING = {state for state, _ in TRANSITIONS}


class Agreements:
    """The agreements of one space. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self,
        store: Store,
        membership: Membership,
        log: Log,
        clock: Callable[[], int],
        notify: Notify = lambda names: None,
    ) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._store = store
        self._membership = membership
        self._log = log
        self._clock = clock
        self._notify = notify
        self.changes = 0
        """One more with every signature and notice, for whoever keeps what follows from them."""

    # --- what parties send

    def submit(self, signed: Signed, member: str) -> AgreementEvidence:
        """Store a signature or a notice; what is known of that agreement afterwards. A repetition changes nothing.

        Raises MalformedMessage, UnknownAgreement, AgreementMismatch, AgreementNotActive, IllegalNotice, QuotaExceeded,
        MessageTooLarge, BadSignature, and what `check_parties` and `check_terms` do.
        """
        if signed.signer != member:
            raise MalformedMessage(message="SubmitAgreementRequest", problem="the document is another member's")
        if len(signed.body) > LARGEST_AGREEMENT:
            raise MessageTooLarge(message="Agreement", limit=LARGEST_AGREEMENT)
        if signed.type == type_of(Agreement):
            digest = self._add_signature(signed, member)
        elif signed.type == type_of(Notice):
            digest = self._add_notice(signed, member)
        else:
            raise MalformedMessage(message="SubmitAgreementRequest", problem="it is no agreement and no notice")
        stored = self._store.agreement(digest)
        assert stored is not None
        return _evidence(stored)

    def _add_signature(self, signed: Signed, member: str) -> str:
        agreement = self._membership.roster().open_any(signed, Agreement)
        digest = agreement.digest()
        stored = self._store.agreement(digest)
        if stored is not None and member in (one.signer for one in stored.signatures):
            return digest
        self._check(agreement)
        before = stored.signatures if stored else ()
        contract = self._read((*before, signed), stored.notices if stored else ())
        with self._store.transaction():
            if stored is None:
                self._propose(agreement, member)
            elif (state := contract.state(self._clock())) not in _LIVING:
                raise AgreementNotActive(agreement=agreement.agreement_id, state=state)
            self._store_document(agreement, signed, 0)
        return digest

    def _check(self, agreement: Agreement) -> None:
        roster = self._membership.roster()
        check_parties(agreement, roster)
        for side in agreement.sides:
            check_terms(agreement, self._membership.schema(side.table))
            if side.holder not in roster.table(side.table).holders:
                problem = f"{side.holder} has no dataset of {side.table}"
                raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
        if agreement.not_after <= self._clock():
            raise AgreementMismatch(agreement=agreement.agreement_id, problem="its time is over")

    def _propose(self, agreement: Agreement, member: str) -> None:
        if agreement.merchant.name != member:
            raise UnknownAgreement(agreement=agreement.agreement_id)
        if self._store.has_agreement_id(agreement.agreement_id):
            raise AgreementMismatch(agreement=agreement.agreement_id, problem="another agreement has this id")
        proposals = sum(self._is_open(stored) for stored in self._store.agreements_of(member))
        if proposals >= OPEN_PROPOSALS:
            raise QuotaExceeded(quota="open proposals", holder=f"the {OPERATOR}", used=proposals, limit=OPEN_PROPOSALS)
        self._store.add_agreement(
            digest=agreement.digest(),
            agreement_id=agreement.agreement_id,
            merchant=member,
            about=(side.table for side in agreement.sides),
        )

    def _is_open(self, stored: StoredAgreement) -> bool:
        try:
            return self._read(stored.signatures, stored.notices).state(self._clock()) is State.PROPOSED
        except CeibaError:
            return False  # a party of it is none any more

    def _add_notice(self, signed: Signed, member: str) -> str:
        notice = self._membership.roster().open_any(signed, Notice)
        stored = self._store.agreement(notice.agreement_digest)
        if stored is None or not self._may_see(stored, member):
            raise UnknownAgreement(agreement=notice.agreement_digest)
        agreement = self._read(stored.signatures, (*stored.notices, signed)).agreement
        own = [Notice.parse(one.body) for one in stored.notices if one.signer == member]
        if notice in own:
            return stored.digest
        if len(own) >= NOTICES or notice.number in (one.number for one in own):
            raise IllegalNotice(member=member, word=notice.word, agreement=agreement.agreement_id)
        with self._store.transaction():
            self._store_document(agreement, signed, notice.number)
        return stored.digest

    def _store_document(self, agreement: Agreement, signed: Signed, notice: int) -> None:
        self._store.add_agreement_document(agreement.digest(), signed.signer, notice, signed)
        self._log.append(signed)
        self.changes += 1
        self._notify([EVERYBODY])
        log.info("agreement.changed", agreement=agreement.agreement_id, signer=signed.signer, type=signed.type)

    # --- what members see

    def list(self, member: str) -> ListAgreementsResponse:
        """Oldest first: a merchant's own, and a holder all."""
        seen = [stored for stored in self._store.agreements() if self._may_see(stored, member)]
        return ListAgreementsResponse(agreements=map(_evidence, seen))

    def _may_see(self, stored: StoredAgreement, member: str) -> bool:
        """Holders see all, because the sets of others' agreements decide whether their own are safe."""
        known = self._membership.roster().by_name.get(member)
        return stored.merchant == member or (known is not None and known.role is Role.HOLDER)

    def concerning(self, holder: str) -> dict[tuple[str, int], AgreementEvidence]:
        """The agreements in which a holder is a party or which are about a table that it holds, oldest first; the key
        changes with every document that is added."""
        held = [table.table for table in self._membership.roster().tables if holder in table.holders]
        found = self._store.agreements_with(held, holder)
        return {(stored.digest, stored.documents): _evidence(stored) for stored in found}

    def contract(self, digest: str) -> Contract:
        """An agreement under the roster in force, all its signatures verified.

        Raises UnknownAgreement, and what `read_contract` does where a party is none any more.
        """
        stored = self._store.agreement(digest)
        if stored is None:
            raise UnknownAgreement(agreement=digest)
        return self._read(stored.signatures, stored.notices)

    def require_active(self, digest: str, merchant: str) -> Agreement:
        """That merchant's agreement, by this coordinator's copy. Raises UnknownAgreement also for another merchant's,
        AgreementNotActive, and what `contract` does."""
        contract = self.contract(digest)
        if contract.agreement.merchant.name != merchant:
            raise UnknownAgreement(agreement=digest)
        if (state := contract.state(self._clock())) is not State.ACTIVE:
            raise AgreementNotActive(agreement=contract.agreement.agreement_id, state=state)
        return contract.agreement

    def _read(self, signatures: tuple[Signed, ...], notices: tuple[Signed, ...]) -> Contract:
        return read_contract(signatures, notices, self._membership.roster())


def _evidence(stored: StoredAgreement) -> AgreementEvidence:
    return AgreementEvidence(signatures=stored.signatures, notices=stored.notices)
