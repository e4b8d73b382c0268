"""How much of the log this holder has witnessed, and the fault that it found, if it found one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from ceiba_node.ledger.file import LedgerFile
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import CeibaError, error_from
from ceiba_protocol.trust.log import Checkpoint
from ceiba_protocol.trust.merkle import Frontier
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class Fault:
    """Why this node answers nothing any more."""

    error: CeibaError
    checkpoint: Signed
    """The evidence: what the operator signed."""
    since: int


class Witnessing(LedgerFile):
    def frontier(self) -> Frontier:
        """Of the log as far as it was witnessed."""
        row = self._one("SELECT frontier FROM witnessed ORDER BY size DESC LIMIT 1")
        return Frontier.from_bytes(row[0]) if row else Frontier()

    def newest_checkpoint(self) -> Checkpoint | None:
        row = self._one("SELECT checkpoint FROM witnessed ORDER BY size DESC LIMIT 1")
        return Checkpoint.parse(Signed.FromString(row[0]).body) if row else None

    def witnessed_root(self, size: int) -> str | None:
        """The root of a checkpoint of that size, if one was witnessed."""
        row = self._one("SELECT root FROM witnessed WHERE size = ?", size)
        return row[0] if row else None

    def record_witnessed(
        self, checkpoint: Checkpoint, signed: Signed, frontier: Frontier, own: Iterable[Digest]
    ) -> None:
        """A checkpoint that extends what was witnessed; `own`: the body digests of this holder's documents in it."""
        values = (checkpoint.size, checkpoint.root, checkpoint.at, frontier.to_bytes(), signed.SerializeToString())
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO witnessed VALUES (?, ?, ?, ?, ?)", values)
            rows = [(digest,) for digest in own]
            connection.executemany("UPDATE documents SET in_log = 1 WHERE body_digest = ?", rows)

    def record_fault(self, error: CeibaError, checkpoint: Signed, now: int) -> None:
        """The first one stays."""
        values = (error.code, json.dumps(error.fields), checkpoint.SerializeToString(), now)
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO fault VALUES (1, ?, ?, ?, ?)", values)

    def fault(self) -> Fault | None:
        row = self._one("SELECT code, fields, checkpoint, since FROM fault")
        if row is None:
            return None
        code, fields, checkpoint, since = row
        return Fault(error_from(code, json.loads(fields)), Signed.FromString(checkpoint), since)
