"""Receipts: what proves offline that a job's result was authorised (PROTOCOL §6.3)."""

from ceiba_coordinator.answers import aborts_in, approvals_in, shares_in
from ceiba_coordinator.joint import is_joint
from ceiba_coordinator.log import Log
from ceiba_coordinator.store.database import Store
from ceiba_coordinator.store.jobs import StoredJob
from ceiba_protocol.errors import NotYetDone, UnknownJob
from ceiba_protocol.linkage.joint import JointManifest
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.v1.log_pb2 import ReceiptParts


class Receipts:
    """The receipts of one space's jobs. Not thread-safe: the server calls it from one thread."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store = store
        self._log = log

    def parts(self, job_id: bytes, member: str) -> ReceiptParts:
        """For the job's merchant and its holders. Raises UnknownJob also for everybody else, NotYetDone."""
        store, log = self._store, self._log
        job, seats = store.job(job_id), store.seats(job_id)
        if job is None or member not in (job.merchant, *(seat.holder for seat in seats)):
            raise UnknownJob(job=job_id.hex())
        if job.release is None or job.release_index is None:
            raise NotYetDone(job=job_id.hex(), state=job.state)
        position, agreement = job.release_index, store.agreement(job.agreement_digest)
        size = store.best_witnessed(position, [seat.holder for seat in seats]) or store.newest_checkpoint_size()
        assert agreement is not None and size is not None
        first, *others = self._schemas(job)
        messages = list(store.joint_messages(job_id).values())
        return ReceiptParts(
            agreement=agreement.signatures,
            manifest=job.manifest,
            approvals=approvals_in(seats),
            aborts=aborts_in(seats),
            shares=shares_in(seats),
            submissions=messages or [seat.submission for seat in seats if seat.submission],
            release=job.release,
            entry=log.read(position, position + 1)[0],
            index=position,
            inclusion=log.inclusion(position, size),
            checkpoint=log.witnessed(size),
            schema=first,
            other_schemas=others,
        )

    def _schemas(self, job: StoredJob) -> list[bytes]:
        """Of the job's tables."""
        if is_joint(job.manifest):
            digests = [side.plans[0].schema_digest for side in JointManifest.parse(job.manifest.body).plan.sides]
        else:
            digests = [Manifest.parse(job.manifest.body).plan.schema_digest]
        return [self._store.schema(digest) or b"" for digest in dict.fromkeys(digests)]
