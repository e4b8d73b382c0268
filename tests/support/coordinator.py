"""A coordinator in memory for tests of a merchant: real stubs over a channel that calls these methods."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ceiba.home import Home
from ceiba_protocol.errors import UnknownAgreement
from ceiba_protocol.job import State
from ceiba_protocol.rounds import commit_to_set
from ceiba_protocol.sums.secure_sum import coordinator_multiply
from ceiba_protocol.trust.agreement import Agreement, Notice
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.trust.identity import EncryptionSecret, Identity
from ceiba_protocol.trust.log import Checkpoint, Release, entry_of
from ceiba_protocol.trust.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from ceiba_protocol.trust.roster import OPERATOR
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence, ListAgreementsResponse, SubmitAgreementRequest
from ceiba_protocol.v1.catalogue_pb2 import ListResponse, TableEntry
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from ceiba_protocol.v1.jobs_pb2 import JobStatus, ResultPart, SubmitRequest
from ceiba_protocol.v1.log_pb2 import ConsistencyProof, ConsistencyRequest, ReceiptParts, WitnessedCheckpoint
from tests.support.members import MERCHANT, NOW, World, signed_by
from tests.support.seeded import seeded


def merchant_home(world: World, folder: Path) -> Home:
    """The merchant's folder with the world's roster pinned; its keys are in memory only."""
    home = Home(folder, b"not used")
    home._opened = Identity(
        space=world.roster.space,
        descriptor=world.merchant,
        coordinator="coordinator.example:7443",
        signing_seed=seeded(f"signing key of {MERCHANT}")(32).hex(),
        sealing_seed="00" * 32,
        storage_key="00" * 32,
        tls_key="a key",
        certificate="a certificate",
        authority="an authority",
        encryption=EncryptionSecret(p=int(world.private_key.p), q=int(world.private_key.q)),
    )
    home.pin(world.roster)
    return home


class Coordinator:
    """Holders answer a job as soon as it is asked, without those in `leaving`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.roster = SignedRoster(roster=world.roster.body())
        self.agreements: dict[str, AgreementEvidence] = {}
        self.entries: list[bytes] = []
        self.cosigners: list[str] = list(world.holders)
        self.leaving: tuple[str, ...] = ()
        self.parts = ReceiptParts()
        self.results: list[ResultPart] = []
        self.status = JobStatus(state=State.DONE)
        self.manifests: list[Manifest] = []
        self.cancelled: list[str] = []
        self.interrupts = False
        """Whether somebody presses Ctrl-C while waiting."""

    # --- agreements

    def add(self, agreement: Agreement, signers: Iterable[str] | None = None, notices: Iterable[Signed] = ()) -> None:
        """An agreement that these parties have signed, or all."""
        names = [party.name for party in agreement.parties] if signers is None else signers
        self.agreements[agreement.digest()] = AgreementEvidence(
            signatures=[signed_by(name, agreement) for name in names], notices=notices
        )

    def Agreements_Submit(self, request: SubmitAgreementRequest) -> AgreementEvidence:
        signed = request.document
        if signed.type == type_of(Agreement):
            digest = Agreement.parse(signed.body).digest()
            self.agreements.setdefault(digest, AgreementEvidence()).signatures.append(signed)
            return self.agreements[digest]
        digest = Notice.parse(signed.body).agreement_digest
        if digest not in self.agreements:
            raise UnknownAgreement(agreement=digest)
        self.agreements[digest].notices.append(signed)
        return self.agreements[digest]

    def Agreements_List(self, _request: Any) -> ListAgreementsResponse:
        return ListAgreementsResponse(agreements=self.agreements.values())

    # --- directory and catalogue

    def Directory_GetRoster(self, _request: Any) -> SignedRoster:
        return self.roster

    def Catalogue_List(self, _request: Any) -> ListResponse:
        offers = [signed_by(offer.holder, offer) for offer in self.world.offers()]
        schema = self.world.schema
        return ListResponse(tables=[TableEntry(table=schema.table, schema=schema.body(), offers=offers)])

    # --- jobs

    def Jobs_Submit(self, request: SubmitRequest) -> JobStatus:
        world, signed = self.world, request.manifest
        manifest = Manifest.parse(signed.body)
        self.manifests.append(manifest)
        cited = Agreement.parse(self.agreements[manifest.agreement_digest].signatures[0].body)
        question = world.read(signed, agreement=cited)
        names = [name for name in question.holders if name not in self.leaving]
        approvals = [world.approval(name, question, attempt=1 if self.leaving else 0) for name in names]
        aborts = [world.abort(name, question) for name in self.leaving]
        commitment = commit_to_set(question, approvals, aborts)
        shares = [share for share, _ in world.shares_in(question, commitment)]
        answers = {name: world.contribute(name, question, commitment) for name in names}
        total = coordinator_multiply(
            {name: blob for name, (_, blob) in answers.items()}, commitment.layout, question.modulus
        )
        self.results = [*(ResultPart(approval=one) for one in approvals), *(ResultPart(abort=one) for one in aborts)]
        self.results += [ResultPart(gate_share=one) for one in shares]
        for submission, blob in answers.values():
            self.results += [ResultPart(submission=submission), ResultPart(ciphertexts=blob)]
        self.results.append(ResultPart(total=total))
        release = Release(
            job_id=manifest.job_id,
            manifest_digest=question.digest,
            agreement_digest=manifest.agreement_digest,
            attempt=commitment.context.attempt,
            total_digest=hashlib.sha256(total).hexdigest(),  # type: ignore[arg-type]
            at=NOW,
        )
        for one in (signed, *approvals, *aborts, *shares, *(submission for submission, _ in answers.values())):
            self.append(one)
        self.parts = ReceiptParts(
            agreement=self.agreements[manifest.agreement_digest].signatures,
            manifest=signed,
            approvals=approvals,
            aborts=aborts,
            shares=shares,
            submissions=[submission for submission, _ in answers.values()],
            schema=world.schema.body(),
        )
        self.release(signed_by(OPERATOR, release))
        return self.status

    def Jobs_Watch(self, _request: Any) -> "_Watching":
        return _Watching(self)

    def Jobs_Cancel(self, request: Any) -> JobStatus:
        self.cancelled.append(request.job_id.hex())
        self.status = JobStatus(state=State.CANCELLED)
        return self.status

    def Jobs_Result(self, _request: Any) -> Iterator[ResultPart]:
        yield from self.results

    # --- the log

    def append(self, signed: Signed) -> None:
        self.entries.append(entry_of(signed, NOW).body())

    def release(self, signed: Signed) -> None:
        """Log a release, and make it the receipt's."""
        self.append(signed)
        self.parts.release.CopyFrom(signed)
        self.parts.entry, self.parts.index = self.entries[-1], len(self.entries) - 1

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_hash(entry) for entry in self.entries]

    def Log_GetReceipt(self, _request: Any) -> ReceiptParts:
        size = len(self.entries)
        root = root_of(self.leaves, size).hex()
        checkpoint = Checkpoint(space=self.world.roster.space, size=size, root=root, at=NOW)  # type: ignore[arg-type]
        witnessed = WitnessedCheckpoint(
            checkpoint=signed_by(OPERATOR, checkpoint),
            cosignatures=[signed_by(name, checkpoint) for name in self.cosigners],
        )
        self.parts.checkpoint.CopyFrom(witnessed)
        self.parts.inclusion[:] = inclusion_proof(self.leaves, self.parts.index, size)
        return self.parts

    def Log_Consistency(self, request: ConsistencyRequest) -> ConsistencyProof:
        return ConsistencyProof(nodes=consistency_proof(self.leaves, request.old_size, request.new_size))

    # --- the channel

    def channel(self) -> Any:
        """What stubs need of a grpc.Channel: each of its methods by name. Messages pass as they are."""

        def method(path: str, *_: Any, **__: Any) -> Callable[..., Any]:
            name = path.removeprefix("/ceiba.v1.").replace("/", "_")
            return lambda request, timeout=None: getattr(self, name)(request)

        return SimpleNamespace(
            unary_unary=method, unary_stream=method, stream_unary=method, stream_stream=method, close=lambda: None
        )


class _Watching:
    """A stream of one status."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coming = iter([coordinator.status])
        self._interrupts = coordinator.interrupts

    def __iter__(self) -> Iterator[JobStatus]:
        return self

    def __next__(self) -> JobStatus:
        if self._interrupts:
            raise KeyboardInterrupt
        return next(self._coming)

    def cancel(self) -> None:
        pass
