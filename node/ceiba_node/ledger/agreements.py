"""This holder's own copy of every agreement: signatures and notices as received, never a state."""

from collections.abc import Iterable

from ceiba_node.ledger.file import LedgerFile, note_signed
from ceiba_protocol.canonical import Digest
from ceiba_protocol.trust.log import body_digest
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed


class Agreements(LedgerFile):
    def merge_agreement(self, digest: Digest, signatures: Iterable[Signed], notices: Iterable[Signed]) -> None:
        """Add what is new, all of it verified by the caller; what is known stays."""
        with self._transaction() as connection:
            for signed in signatures:
                row = (digest, signed.signer, signed.SerializeToString())
                connection.execute("INSERT OR IGNORE INTO agreements VALUES (?, ?, ?)", row)
            for signed in notices:
                row = (digest, body_digest(signed), signed.SerializeToString())
                connection.execute("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", row)

    def record_signature(self, digest: Digest, signed: Signed, now: int) -> None:
        """The officer's own signature: it counts here at once, and the running node uploads it."""
        with self._transaction() as connection:
            row = (digest, signed.signer, signed.SerializeToString())
            connection.execute("INSERT OR IGNORE INTO agreements VALUES (?, ?, ?)", row)
            note_signed(connection, signed, now, to_upload=True)

    def record_notice(self, digest: Digest, signed: Signed, now: int) -> None:
        """The officer's own notice, likewise."""
        with self._transaction() as connection:
            row = (digest, body_digest(signed), signed.SerializeToString())
            connection.execute("INSERT OR IGNORE INTO notices VALUES (?, ?, ?)", row)
            note_signed(connection, signed, now, to_upload=True)

    def agreement_digests(self) -> list[Digest]:
        """All that are known, in the order in which they became known."""
        rows = self._all("SELECT digest FROM agreements GROUP BY digest ORDER BY MIN(rowid)")
        return [Digest(digest) for (digest,) in rows]

    def evidence(self, digest: Digest) -> AgreementEvidence:
        """All that is known of one agreement; empty if nothing is."""
        signatures = self._all("SELECT signed FROM agreements WHERE digest = ? ORDER BY rowid", digest)
        notices = self._all("SELECT signed FROM notices WHERE agreement_digest = ? ORDER BY rowid", digest)
        return AgreementEvidence(
            signatures=[Signed.FromString(signed) for (signed,) in signatures],
            notices=[Signed.FromString(signed) for (signed,) in notices],
        )
