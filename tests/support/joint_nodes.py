"""Real nodes of holders with different tables and a real coordinator, without a network or processes."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pytest

from ceiba.joint_jobs import JointAnswer, open_answer
from ceiba.joint_queries import Opened
from ceiba_node.answering import Answering
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.linking import Session
from ceiba_node.publishing import publish
from ceiba_node.responding import Pending, Reply
from ceiba_node.snapshots import SnapshotStore
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import CeibaError, error_from
from ceiba_protocol.linkage.joint import JointPlan, JointQuestion, JointSet, Kind, SidePlan, Step, make_joint_manifest
from ceiba_protocol.plan import Named, Plan
from ceiba_protocol.schema import Grade
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.trust.agreement import Agreement, Mode
from ceiba_protocol.trust.documents import NoiseTerms, Offer, Refusal
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import Task
from ceiba_protocol.whole_job import sealing_secret
from tests.coordinator.office import Office
from tests.support.fake_log import FakeLog
from tests.support.joins import short_keys
from tests.support.joint_space import JointWorld
from tests.support.keys import keypair
from tests.support.members import MERCHANT, NOW, changed, holder, publisher, signed_by
from tests.support.seeded import seeded


@contextmanager
def quick_keys() -> Iterator[None]:
    """Within it, nodes have Paillier keys of 1024 bits that need not be made."""
    with short_keys(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ceiba_node.linking.generate_keypair", lambda *_: keypair(1024))
        patch.setattr("ceiba_node.linking.TABLE_FOR", 10)
        yield


class HouseOfOne:
    """A holder's node in a folder; `restart` forgets all but the folder."""

    def __init__(self, name: str, world: JointWorld, office: Office, folder: Path) -> None:
        self.name, self.world, self.office, self.folder = name, world, office, folder
        self.policy, self.now = Policy(), NOW
        folder.mkdir()
        self.snapshots = SnapshotStore(folder / "snapshots", holder=name)
        self.publish(world.datasets[name].frame)
        self.start()

    def publish(self, frame: pandas.DataFrame) -> None:
        """A version of its table."""
        source = self.folder / "table.csv"
        frame.to_csv(source, index=False)
        publish(
            self.snapshots,
            source,
            self.world.datasets[self.name].schema,
            now=datetime.fromtimestamp(NOW, UTC),
            version_key=seeded(f"storage key of {self.name}")(32),
            publisher=publisher(self.name),
        )

    def start(self) -> None:
        storage_key = seeded(f"storage key of {self.name}")(32)
        identity = Identity(
            space="test-space",
            descriptor=holder(self.name),
            coordinator="127.0.0.1:1",
            signing_seed=seeded(f"signing key of {self.name}")(32).hex(),
            sealing_seed=sealing_secret(self.name).hex(),
            storage_key=storage_key.hex(),
            tls_key="",
            certificate="",
            authority="",
            encryption=None,
        )
        self.log = FakeLog()
        self.node = Answering(
            identity,
            self.world.roster,
            self.snapshots,
            DuckDBEngine(holder=self.name, memory_limit="200MB", threads=1, temp_directory=self.folder / "spill"),
            Ledger(self.folder / "ledger.sqlite3", storage_key),
            Encryptors(os.urandom, stock=0),
            lambda: self.policy,
            lambda: self.now,
            os.urandom,
        )
        self.node.witness.connect(self.log)
        self.node.connect(self)  # type: ignore[arg-type]  # it is asked for messages of joint jobs alone
        self.node.take_up_agreement(AgreementEvidence(signatures=self.world.signatures()))

    def restart(self) -> None:
        self.node.close()
        self.start()

    def received(self, job_id: bytes, step: int) -> tuple[Signed, bytes]:
        signed = self.office.jobs.received(job_id, step, self.name)
        return signed, self.office.jobs.joint_payload(job_id, step)

    def answer(self, task: Task) -> Reply | Pending:
        if task.WhichOneof("kind") == "approve":
            return self.node.approve(task.job_id, task.approve.manifest)
        return self.node.linking.take_step(
            task.job_id, task.joint.step, list(task.joint.approvals), self.log.checkpoint()
        )

    @property
    def session(self) -> Session | None:
        """What it has in its memory of the one job that is under way."""
        (session,) = self.node.linking._sessions.values() or (None,)
        return session

    @contextmanager
    def cheating(self, kind: Kind, change: Callable[[bytes], bytes]) -> Iterator[None]:
        """Within it, it sends something else in steps of that kind; sealed and signed, as only it can."""
        compute = self.node.linking._compute

        def computed(session: Session, agreed: JointSet, step: Step, before: Mapping[Step, bytes]) -> bytes:
            payload = compute(session, agreed, step, before)
            return change(payload) if step.kind is kind else payload

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.node.linking, "_compute", computed)
            yield

    def files(self) -> bytes:
        """All that its folder has."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


class JointNodes:
    """A space whose holders are those of `JointWorld`, under one joint agreement on everything."""

    def __init__(self, folder: Path, **terms: Any) -> None:
        """`terms`: of the agreement's JointTerms."""
        self.world = JointWorld()
        folder.mkdir(exist_ok=True)
        self.office = Office(folder / "coordinator.sqlite3", self.world, agreed=False)
        for schema in self.world.schemas.values():
            self.office.store.put_schema(schema.digest(), schema.body())
        self.world.agreement = self._agreement(terms)
        self.office.agree()
        self.houses = {name: HouseOfOne(name, self.world, self.office, folder / name) for name in self.world.datasets}
        self.number = 0
        self.id = b""
        self.not_accepted: list[CeibaError] = []
        """What the coordinator has said to answers that it did not take."""

    def _agreement(self, terms: Mapping[str, Any]) -> Agreement:
        return self.world.joint_agreement(**terms)

    def close(self) -> None:
        for house in self.houses.values():
            house.node.close()

    # --- asking

    def plan(
        self, mode: Mode, base: str, *joined: str, linked: tuple[str, ...] = (), **plans: Plan | tuple[Plan, ...]
    ) -> JointPlan:
        """By holder the plan or plans that it is asked, or how many rows there are."""
        sides = {name: self._side(name, plans.get(name)) for name in (base, *joined, *linked)}
        return JointPlan(
            mode=mode,
            base=sides[base],
            joined=tuple(sides[name] for name in sorted(joined)),
            linked=tuple(sides[name] for name in sorted(linked)),
        )

    def _side(self, name: str, plans: Plan | tuple[Plan, ...] | None) -> SidePlan:
        asked = plans if isinstance(plans, tuple) else (plans or self.counts(name),)
        return SidePlan(holder=name, on="uscc", plans=asked)

    def counts(self, name: str, **parts: Any) -> Plan:
        """How many rows of a holder's table pass."""
        schema = self.world.datasets[name].schema
        rows = (Named(name="rows", statistic=Count()),)
        return Plan(table=schema.table, schema_digest=schema.digest(), **({"filter": None, "outputs": rows} | parts))

    def submit(self, plan: JointPlan, noise: NoiseTerms | None = None) -> bytes:
        self.number += 1
        offers = {}
        for name, house in self.houses.items():
            snapshot = house.snapshots.current(self.world.datasets[name].schema.table)
            offers[name] = Offer.parse(snapshot.offer.body)
        manifest = make_joint_manifest(
            job_id=seeded(f"job {self.number}")(16).hex(),
            number=self.number,
            agreement=self.world.agreement,
            merchant=MERCHANT,
            plan=plan,
            offers={side.holder: offers[side.holder] for side in plan.sides},
            now=NOW,
            seconds=60,
            noise=noise,
        )
        self.signed = signed_by(MERCHANT, manifest)
        self.id = self.office.jobs.submit(self.signed, MERCHANT)
        return self.id

    @property
    def question(self) -> JointQuestion:
        return self.world.joint_question(self.signed, self.world.agreement)

    def ask(self, plan: JointPlan, *, absent: tuple[str, ...] = (), noise: NoiseTerms | None = None) -> str:
        """The state in which the job is once nobody who is there has anything to do. `absent`: holders that take no
        steps, though they have approved."""
        self.submit(plan, noise)
        return self.go_on(absent=absent)

    def go_on(self, *, absent: tuple[str, ...] = ()) -> str:
        while self.work(absent):
            pass
        return self.state

    def work(self, absent: tuple[str, ...] = ()) -> bool:
        """Everybody answers what it is asked now; whether anything was taken."""
        taken = False
        for name, house in self.houses.items():
            for task in self.office.jobs.tasks(name):
                if task.WhichOneof("kind") == "approve" or name not in absent:
                    taken |= self._deliver(name, house.answer(task))
        self.tell_of_the_end()
        return taken

    def tell_of_the_end(self) -> None:
        for job_id in self.office.jobs.ended([self.id]):
            for house in self.houses.values():
                house.node.forget(job_id)

    def _deliver(self, name: str, reply: Reply | Pending) -> bool:
        assert isinstance(reply, Reply)
        jobs, kind = self.office.jobs, reply.signed.type
        try:
            if kind == type_of(Refusal):
                jobs.refuse(reply.signed, name)
            elif kind.endswith("JointApproval"):
                jobs.approve(reply.signed, name)
            else:
                jobs.take_message(reply.signed, reply.payload, name)
        except CeibaError as error:
            self.not_accepted.append(error)
            return False
        return True

    # --- what came of it

    @property
    def state(self) -> str:
        return self.office.jobs.status(self.id, MERCHANT, set()).state

    @property
    def reason(self) -> tuple[str, str]:
        """Who refused, and the code of its error."""
        signed = self.office.jobs.status(self.id, MERCHANT, set()).refusal
        return signed.signer, Refusal.parse(signed.body).code

    @property
    def error(self) -> CeibaError:
        """What it said."""
        refusal = Refusal.parse(self.office.jobs.status(self.id, MERCHANT, set()).refusal.body)
        return error_from(refusal.code, dict(refusal.fields))

    def kept(self) -> list[bytes]:
        """Payloads of the job that the coordinator still has."""
        steps = self.office.store.joint_messages(self.id)
        return [payload for step in steps if (payload := self.office.store.joint_payload(self.id, step))]

    def opened(self) -> Opened:
        """What the merchant reads."""
        approvals, messages = self.office.jobs.joint_result(self.id)
        papers = [(signed, bytearray(self.office.jobs.joint_payload(self.id, step))) for step, signed in messages]
        question = self.question
        programs = {name: self.world.programs(question, name) for name in question.holders}
        return open_answer(question, programs, JointAnswer(approvals, papers), sealing_secret(MERCHANT))


class InternalNodes(JointNodes):
    """Under an agreement on internal data: at least five subjects in a released cell."""

    def _agreement(self, terms: Any) -> Agreement:
        return changed(super()._agreement(terms), disclosure=RULES[Grade.INTERNAL])
