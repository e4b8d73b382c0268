"""Agreements as this holder knows them: its own copies, each verified again whenever it is read."""

from ceiba_node.ledger import Ledger
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import AgreementMismatch, CeibaError, UnknownAgreement
from ceiba_protocol.trust.agreement import Contract, read_contract
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence


class Contracts:
    """The ledger's agreements under a roster. What members signed before they were revoked still reads; whether an
    agreement's parties are members now is for `check_parties` to say."""

    def __init__(self, ledger: Ledger, roster: Roster) -> None:
        self._ledger = ledger
        self._space = roster.space
        self._readable = roster.as_of(0)

    def get(self, digest: Digest) -> Contract:
        """Raises UnknownAgreement, and what `read_contract` does if a party has other keys now."""
        evidence = self._ledger.evidence(digest)
        if not evidence.signatures:
            raise UnknownAgreement(agreement=digest[:12])
        return self._read(evidence)

    def all(self) -> list[Contract]:
        """Those that can be read, in the order in which they became known."""
        return [contract for contract in map(self._try, self._ledger.agreement_digests()) if contract is not None]

    def unreadable(self) -> list[Digest]:
        """Those of which a party has other keys now, so that its signature cannot be checked."""
        return [digest for digest in self._ledger.agreement_digests() if self._try(digest) is None]

    def find(self, text: str) -> Contract:
        """By the beginning of its id or its digest, if that is one agreement's alone. Raises UnknownAgreement."""
        found = [
            one for one in self.all() if one.agreement.agreement_id.startswith(text) or one.digest.startswith(text)
        ]
        if len(found) != 1 or not text:
            raise UnknownAgreement(agreement=text)
        return found[0]

    def merge(self, evidence: AgreementEvidence) -> Contract:
        """Take over what is new in what the coordinator sent: all of it if all of it is genuine, otherwise nothing.

        Raises AgreementMismatch, and what `read_contract` does.
        """
        contract = self._read(evidence)
        if contract.agreement.space != self._space:
            raise AgreementMismatch(agreement=contract.agreement.agreement_id, problem="it is another space's")
        self._ledger.merge_agreement(contract.digest, evidence.signatures, evidence.notices)
        return self.get(contract.digest)

    def _read(self, evidence: AgreementEvidence) -> Contract:
        return read_contract(evidence.signatures, evidence.notices, self._readable)

    def _try(self, digest: Digest) -> Contract | None:
        try:
            return self.get(digest)
        except CeibaError:
            return None
