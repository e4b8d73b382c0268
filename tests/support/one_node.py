"""One real holder among simulated ones: its node in a folder, without a network."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ceiba_node.answering import Answering
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.publishing import publish
from ceiba_node.responding import Pending, Reply
from ceiba_node.snapshots import SnapshotStore
from ceiba_protocol.canonical import Digest
from ceiba_protocol.plan import Plan
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import Commitment, Opened, Question, commit_to_set, open_result
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import DatasetPin, NoiseTerms
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import sealing_secret
from tests.support.fake_log import FakeLog
from tests.support.members import (
    HOLDERS,
    NOW,
    ROWS,
    SCHEMA,
    World,
    holder,
    publisher,
)
from tests.support.seeded import seeded

ME, SECOND, THIRD = HOLDERS
STORAGE_KEY = seeded("storage key")(32)


class FakeGate:
    """Where the node finds the shares of a job's gate: its own as it sent it, and the simulated holders'."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._others: dict[bytes, list[tuple[Signed, bytes]]] = {}
        self.stored: dict[bytes, list[tuple[Signed, bytes]]] = {}
        """By job. A test that wants the node to be shown others changes them."""

    def collect(self, own: Reply, question: Question, commitment: Commitment) -> None:
        """Keep the node's share; the others answer the same set, each once."""
        context = commitment.gate_context.digest()
        if context not in self._others:
            names = [name for name in commitment.holders if name != ME]
            self._others[context] = [self._world.share(name, question, commitment) for name in names]
        shares = [(own.signed, own.payload), *self._others[context]]
        self.stored[bytes.fromhex(question.manifest.job_id)] = shares
        self._world.shown = dict.fromkeys(commitment.holders, shares)

    def shares(self, job_id: bytes) -> list[tuple[Signed, bytes]]:
        return self.stored.get(job_id, [])


class Node:
    """A holder's node in a folder, without a network; `restart` forgets all but the folder."""

    def __init__(
        self, folder: Path, rows: Mapping[str, Sequence[Row]] = ROWS, schema: Schema = SCHEMA, plan: Plan | None = None,
        noise: NoiseTerms | None = None, **agreed: Any,
    ) -> None:  # fmt: skip
        """`rows`: by holder; `agreed`: fields of the agreement."""
        self.folder = folder
        self.world = World(rows, plan, schema=schema)
        self.world.agreement = self.world.make_agreement(**agreed)
        self.world.noise = noise
        self.log = FakeLog(self.world.roster.space)
        self.gate = FakeGate(self.world)
        self.policy = Policy()
        self.publisher = publisher(ME)
        self.now = NOW
        self.snapshots = SnapshotStore(folder / "snapshots", holder=ME)
        self.publish(rows[ME])
        snapshot = self.snapshots.current("health.heart")
        self.world.pins[ME] = DatasetPin(
            holder=ME, version=Digest(snapshot.version), row_capacity=snapshot.row_capacity
        )
        self.id = bytes.fromhex(self.world.job_id)
        self.start()

    def publish(self, rows: Any) -> None:
        path = self.folder / "heart.csv"
        with path.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["sex", "age", "chol"])
            for row in rows:
                chol = "" if row["chol"] is None else row["chol"] / 10
                writer.writerow([["female", "male"][row["sex"]], "" if row["age"] is None else row["age"], chol])
        publish(
            self.snapshots,
            path,
            self.world.schema,
            now=datetime.fromtimestamp(NOW, UTC),
            version_key=STORAGE_KEY,
            publisher=self.publisher,
        )

    def start(self, storage_key: bytes = STORAGE_KEY, learn: bool = True) -> None:
        identity = Identity(
            space="test-space",
            descriptor=holder(ME),
            coordinator="127.0.0.1:1",
            signing_seed=seeded(f"signing key of {ME}")(32).hex(),
            sealing_seed=sealing_secret(ME).hex(),
            storage_key=storage_key.hex(),
            tls_key="",
            certificate="",
            authority="",
            encryption=None,
        )
        self.ledger = Ledger(self.folder / "ledger.sqlite3", storage_key)
        self.answering = Answering(
            identity,
            self.world.roster,
            self.snapshots,
            DuckDBEngine(holder=ME, memory_limit="300MB", threads=1, temp_directory=self.folder / "spill"),
            self.ledger,
            Encryptors(os.urandom, stock=0),
            lambda: self.policy,
            lambda: self.now,
            os.urandom,
        )
        self.answering.witness.connect(self.log)
        self.answering.connect(self.gate)
        if learn:
            self.learn()

    def learn(self, agreement: Agreement | None = None, notices: Iterable[Signed] = ()) -> None:
        """The coordinator tells of an agreement that every party has signed."""
        evidence = AgreementEvidence(signatures=self.world.signatures(agreement), notices=notices)
        self.answering.take_up_agreement(evidence)

    def restart(self, **options: Any) -> None:
        self.answering.close()
        self.start(**options)

    # --- tasks, and what was answered

    def approve(self, manifest: Signed | None = None, attempt: int = 0) -> Any:
        return self.answering.approve(self.id, manifest or self.world.signed_manifest(), attempt)

    def approvals(self, **replaced: Signed) -> list[Signed]:
        return self.world.approvals(**({ME: self.approve().signed} | replaced))

    def contribute(self, approvals: list[Signed] | None = None, aborts: Iterable[Signed] = ()) -> Any:
        wanted = self.approvals() if approvals is None else approvals
        return self.answering.contribute(self.id, wanted, list(aborts), self.log.checkpoint())

    def share(self, approvals: list[Signed] | None = None, aborts: Iterable[Signed] = ()) -> Any:
        """What the node answers the gate; the other holders' shares of the same set are there then."""
        wanted, tokens = self.approvals() if approvals is None else approvals, list(aborts)
        reply = self.answering.share(self.id, wanted, tokens, self.log.checkpoint())
        if isinstance(reply, Reply) and reply.payload:
            question = self.world.read()
            self.gate.collect(reply, question, commit_to_set(question, wanted, tokens))
        return reply

    def answer(self, approvals: list[Signed] | None = None) -> Any:
        """Both rounds: the share, and the submission."""
        wanted = self.approvals() if approvals is None else approvals
        share = self.share(wanted)
        return self.contribute(wanted) if isinstance(share, Pending) or share.payload else share

    def opened(self, approvals: list[Signed], reply: Reply) -> Opened:
        """What the merchant reads when the simulated holders answer as well."""
        question = self.world.read()
        commitment = commit_to_set(question, approvals)
        others = [self.world.contribute(name, question, commitment) for name in commitment.holders if name != ME]
        submissions = [(reply.signed, reply.payload), *others]
        shares = [signed for signed, _ in self.gate.shares(self.id)]
        total, key = self.world.total(submissions), self.world.private_key
        return open_result(question, approvals, submissions, total, key, shares=shares)

    def ask(self, job_id: str, number: int, **changes: Any) -> None:
        """The merchant's next job."""
        self.world.job_id, self.world.number = job_id * 16, number
        self.id = bytes.fromhex(self.world.job_id)

    def files(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.glob("ledger.sqlite3*"))
