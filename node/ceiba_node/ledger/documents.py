"""What this holder has signed: compared with what the log attributes to it, and uploaded where nobody asks for it."""

from ceiba_node.ledger.file import LedgerFile, note_signed
from ceiba_protocol.canonical import Digest
from ceiba_protocol.trust.log import body_digest
from ceiba_protocol.v1.common_pb2 import Signed


class Documents(LedgerFile):
    def record_signed(self, signed: Signed, now: int, *, to_upload: bool = False) -> None:
        """On return it is on the disk, and may be sent. `to_upload`: the running node sends it, unasked."""
        with self._transaction() as connection:
            note_signed(connection, signed, now, to_upload=to_upload)

    def has_signed(self, kind: str, digest: Digest) -> bool:
        """`kind`: the type on the signed message, such as ceiba.v1.Approval; `digest`: SHA-256 of its body."""
        return self._one("SELECT 1 FROM documents WHERE (type, body_digest) = (?, ?)", kind, digest) is not None

    def to_upload(self) -> list[Signed]:
        """What the coordinator has not taken yet, oldest first."""
        rows = self._all("SELECT signed FROM documents WHERE to_upload = 1 ORDER BY signed_at, rowid")
        return [Signed.FromString(signed) for (signed,) in rows]

    def mark_uploaded(self, signed: Signed) -> None:
        with self._transaction() as connection:
            key = (signed.type, body_digest(signed))
            connection.execute("UPDATE documents SET to_upload = 0 WHERE (type, body_digest) = (?, ?)", key)

    def not_in_log(self) -> int:
        """How many documents were never seen in the log; lost on the way, or kept out of it."""
        row = self._one("SELECT COUNT(*) FROM documents WHERE in_log = 0")
        return int(row[0]) if row else 0
