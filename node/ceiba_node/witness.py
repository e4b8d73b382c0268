"""The holder as a witness of the log: it extends its own copy of the tree, compares, then signs (PROTOCOL §6.3).

What it finds wrong, once, it never forgets: a node whose log was changed, or whose own ledger is an old copy, answers
nothing any more, also after a restart.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from ceiba_node.ledger import Ledger
from ceiba_protocol.errors import CeibaError, LedgerRolledBack, LogProofFailed, MalformedDocument, NotReachable
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.log import Checkpoint, check_longest, check_own, read_checkpoint, witness
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed

log = structlog.get_logger()


class LogService(Protocol):
    """The operator's log. Every method raises NotReachable, and what the operator answers instead."""

    def newest(self) -> Signed | None:
        """The newest checkpoint, if there is one."""

    def entries(self, first: int, end: int) -> Iterable[bytes]:
        """Entries [first, end), in order."""

    def cosign(self, cosignature: Signed) -> None:
        """Hand in this holder's signature on a checkpoint."""


class Witness:
    """Safe for several threads."""

    def __init__(self, identity: Identity, roster: Roster, ledger: Ledger, clock: Callable[[], int]) -> None:
        self._identity = identity
        self._roster = roster
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._service: LogService | None = None
        fault = ledger.fault()
        self._fault: CeibaError | None = fault.error if fault else None
        self._size = ledger.frontier().size
        if self._fault is not None:
            log.error("log.fault", code=self._fault.code, fields=self._fault.fields)

    @property
    def size(self) -> int:
        """Entries that were witnessed."""
        return self._size

    @property
    def fault(self) -> CeibaError | None:
        return self._fault

    def connect(self, service: LogService) -> None:
        self._service = service

    def check(self) -> None:
        """Raises the fault that was found, if one was."""
        if self._fault is not None:
            raise self._fault

    def catch_up(self) -> None:
        """Witness the newest checkpoint, before anything is answered on a new connection: a node that was restored
        from an old copy finds out here. Raises as `take_up`."""
        newest = self._connected().newest()
        if newest is not None:
            self.take_up(newest)

    def take_up(self, signed: Signed) -> None:
        """Verify a checkpoint, store it, and sign it.

        1. The operator signed it. 2. The entries since the last one give its root. 3. Whatever it attributes to this
        holder stands in the ledger. 4. Store; 5. sign, and send.
        Raises LogProofFailed and LedgerRolledBack, for good; BadSignature, MalformedDocument, MalformedMessage,
        NotReachable.
        """
        with self._lock:
            self.check()
            checkpoint = read_checkpoint(signed, self._roster)
            if self._ledger.witnessed_root(checkpoint.size) != checkpoint.root:
                if self._is_overtaken(checkpoint):
                    return
                self._extend(checkpoint, signed)
            self._connected().cosign(sign(checkpoint, self._identity.name, self._identity.signing_key))

    def require(self, signed: Signed, log_size: int) -> None:
        """Run before a submission: the log is at least as long as every holder of the round has seen it, and this
        holder has witnessed all of it. Raises as `take_up`."""
        self.check()
        checkpoint = read_checkpoint(signed, self._roster)
        check_longest(checkpoint, log_size)
        if checkpoint.size > self.size:
            self.take_up(signed)

    def _extend(self, checkpoint: Checkpoint, signed: Signed) -> None:
        frontier = self._ledger.frontier()
        entries = (
            list(self._connected().entries(frontier.size, checkpoint.size)) if checkpoint.size > frontier.size else []
        )
        try:
            extended = witness(frontier, entries, checkpoint)
            own = check_own(entries, self._identity.name, self._ledger.has_signed)
        except (LogProofFailed, LedgerRolledBack) as error:
            raise self._keep(error, signed) from None
        except MalformedDocument:
            raise self._keep(LogProofFailed(problem="an entry of it cannot be read"), signed) from None
        self._ledger.record_witnessed(checkpoint, signed, extended, own)
        self._size = checkpoint.size

    def _is_overtaken(self, checkpoint: Checkpoint) -> bool:
        """Whether it is no newer than one that was witnessed, and shorter: two tasks may change places on the way.
        Nothing is signed then. A shorter log with a later time was rolled back."""
        newest = self._ledger.newest_checkpoint()
        overtaken = newest is not None and checkpoint.size < newest.size and checkpoint.at <= newest.at
        if overtaken:
            log.info("log.checkpoint_overtaken", size=checkpoint.size, witnessed=self.size)
        return overtaken

    def _keep(self, error: CeibaError, signed: Signed) -> CeibaError:
        self._ledger.record_fault(error, signed, self._clock())
        self._fault = error
        log.error("log.fault", code=error.code, fields=error.fields)
        return error

    def _connected(self) -> LogService:
        if self._service is None:
            raise NotReachable(target="the log", problem="there is no connection yet")
        return self._service
