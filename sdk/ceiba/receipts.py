"""A result's receipt, as the merchant who asked for the result fetches, verifies and keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from ceiba.polling import backing_off
from ceiba_protocol.errors import CeibaError, Fault, ReceiptRejected
from ceiba_protocol.linkage.joint import read_any
from ceiba_protocol.trust import receipt as papers
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.log import Checkpoint, Release, cosigners, read_checkpoint
from ceiba_protocol.trust.merkle import check_consistency
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import ConsistencyRequest, ReceiptRequest
from ceiba_protocol.v1.log_pb2_grpc import LogStub
from ceiba_protocol.wire import from_rpc_error

if TYPE_CHECKING:
    from ceiba.space import Space

CALL_SECONDS = 30.0
WITNESSES = len(papers.STEPS)
"""The number of the step that only waiting can mend."""


class Receipt:
    """Proof of how a result came about, without a figure in it. Fetched when it is first needed."""

    def __init__(self, space: Space, manifest: Signed, total_digest: str) -> None:
        """`manifest`: as this process signed it. `total_digest`: SHA-256 of the total's ciphertexts that it opened; of
        a joint job, what `linkage.joint.total_digest` says."""
        self._space = space
        self._manifest = manifest
        self._total_digest = total_digest
        self._opened = read_any(manifest)
        self._job_id = self._opened.job_id
        self._fetched: papers.Receipt | None = None
        self._steps: list[papers.Step] = []
        self._log = LogStub(space.channel)

    @property
    def document(self) -> papers.Receipt:
        """What was last fetched. Raises NotReachable, NotYetDone, ReceiptRejected."""
        return self._fetched or self._fetch()

    @property
    def versions(self) -> dict[str, str]:
        """Holder → the version of its dataset that the result is about."""
        return {pin.holder: pin.version for pin in self._opened.datasets}

    def verify(self, wait: float = 10.0) -> list[papers.Step]:
        """Check everything that an auditor checks, and what only this process can: that it is about this result, and
        that the log still begins with what was seen of it before.

        Holders witness the log a moment after a job is done: `wait`, in seconds, for enough of them. Raises
        ReceiptRejected, which names the step, and NotReachable.
        """
        for _ in backing_off(wait):
            self._steps = papers.verify(self._fetch(), self._space.roster)
            last = self._steps[-1]
            if last.error is None or last.number != WITNESSES:
                break
        papers.check(self.document, self._space.roster)
        for name, run in self._own_checks():
            self._step(name, run)
        return list(self._steps)

    def save(self, path: str | Path) -> None:
        """Write it to a file for `ceiba verify`, whether or not it verifies."""
        Path(path).expanduser().write_bytes(self.document.body())

    def __repr__(self) -> str:
        if self._fetched is None:
            return f"Receipt of job {self._job_id}, not fetched yet: verify() does"
        steps = self._steps or papers.verify(self._fetched, self._space.roster)
        return "\n".join(
            [f"Receipt of job {self._job_id}", *map(str, steps), witnessed(self._fetched, self._space.roster)]
        )

    # --- parts

    def _fetch(self) -> papers.Receipt:
        request = ReceiptRequest(job_id=bytes.fromhex(self._job_id))
        try:
            parts = self._log.GetReceipt(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None
        self._fetched = papers.read_parts(parts, self._space.roster)
        return self._fetched

    def _own_checks(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        return (
            ("it is about the manifest that was signed here", self._check_manifest),
            ("its total is the one that was opened here", self._check_total),
            ("its log goes on from the newest that was seen here", self._check_log),
        )

    def _step(self, name: str, run: Callable[[], None]) -> None:
        number = len(self._steps) + 1
        try:
            run()
        except CeibaError as error:
            if error.fault is not Fault.PEER:  # the receipt may be good, and was not checked to the end
                raise
            self._steps.append(papers.Step(number, name, error))
            problem = error.fields["problem"] if isinstance(error, ReceiptRejected) else error.public
            raise ReceiptRejected(step=f"{number}, {name}", problem=problem) from None
        self._steps.append(papers.Step(number, name, None))

    def _check_manifest(self) -> None:
        if self.document.manifest.signed().body != self._manifest.body:
            raise ReceiptRejected(step="?", problem="it is the receipt of another manifest.")

    def _check_total(self) -> None:
        released = Release.parse(self.document.release.text.encode()).total_digest
        if released != self._total_digest:
            raise ReceiptRejected(step="?", problem="the log has the release of another total.")

    def _check_log(self) -> None:
        """The receipt's checkpoint and the newest one seen before are of one log; the newer one is kept.

        Raises LogProofFailed, LedgerDamaged, NotReachable.
        """
        signed, kept = self.document.checkpoint.first.signed(), self._space.home.checkpoint()
        found = read_checkpoint(signed, self._space.roster)
        if kept is not None:
            before = read_checkpoint(kept, self._space.roster)
            older, newer = sorted((before, found), key=lambda checkpoint: checkpoint.size)
            proof = self._consistency(older, newer)
            check_consistency(older.size, bytes.fromhex(older.root), newer.size, bytes.fromhex(newer.root), proof)
            if found.size <= before.size:
                return
        self._space.home.replace_checkpoint(kept, signed)

    def _consistency(self, older: Checkpoint, newer: Checkpoint) -> list[bytes]:
        if older.size == newer.size:
            return []
        request = ConsistencyRequest(old_size=older.size, new_size=newer.size)
        try:
            return list(self._log.Consistency(request, timeout=CALL_SECONDS).nodes)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._space.address) from None


def witnessed(document: papers.Receipt, roster: Roster) -> str:
    """How many of the agreement's holders have signed its checkpoint, in words."""
    try:
        holders = Agreement.parse(document.agreement.first.text.encode()).holder_names
        checkpoint, *cosignatures = document.checkpoint.signed()
        found = cosigners(checkpoint, cosignatures, holders, roster)
    except CeibaError:
        return "Who has witnessed it cannot be read"
    return f"{len(found)} of {len(holders)} holders have witnessed it"
