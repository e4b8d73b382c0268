"""The coordinator's services as its holders meet them: over the wire, from a real process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ceiba_coordinator.config import AUTHORITY_KEY, LOG_KEY, Config
from ceiba_coordinator.folder import make_folder
from ceiba_coordinator.server import open_membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.canonical import digest
from ceiba_protocol.errors import BadPassphrase, MalformedMessage, NotReachable, UnknownJob
from ceiba_protocol.joining import fetch_roster, join, successor
from ceiba_protocol.trust.identity import Duty, Identity, new_duty_key
from ceiba_protocol.trust.log import read_checkpoint, witness
from ceiba_protocol.trust.merkle import Frontier, check_consistency
from ceiba_protocol.trust.roster import Duties, Role, Roster, approval_of
from ceiba_protocol.trust.sealing import is_sealed
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1 import agreements_pb2, log_pb2
from ceiba_protocol.v1.agreements_pb2_grpc import AgreementsStub
from ceiba_protocol.v1.enrolment_pb2 import ApproveRosterRequest
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub
from ceiba_protocol.v1.log_pb2_grpc import LogStub
from ceiba_protocol.v1.work_pb2 import PullRequest, Task, WorkPart
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import from_rpc_error, secure_channel
from ceiba_scenarios.processes import free_port
from tests.support.members import HOLDERS, SCHEMA
from tests.support.waiting import until

pytestmark = pytest.mark.slow
PASSPHRASE = b"correct horse"


class Space:
    """A coordinator's process and three holders who have joined it."""

    def __init__(self, home: Path) -> None:
        self.config = make_folder(
            home,
            "test-space",
            address=f"127.0.0.1:{free_port()}",
            enrolment=f"127.0.0.1:{free_port()}",
            listen="127.0.0.1",
            passphrase=PASSPHRASE,
        )
        self.membership = open_membership(self.config, Store(open_engine(self.config.database_url)))
        command = [sys.executable, "-m", "ceiba_coordinator", "serve", "--home", str(home)]
        environment = {**os.environ, "CEIBA_PASSPHRASE": PASSPHRASE.decode()}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.members = {name: self.join(name) for name in HOLDERS}
        self.channels = {name: secure_channel(one.coordinator, one) for name, one in self.members.items()}

    def join(self, name: str) -> Identity:
        settings = self.config.settings
        token = self.membership.invite(
            name, Role.HOLDER, name, address=settings.address, enrolment=settings.enrolment_address, random=os.urandom
        )
        keys = [new_duty_key(duty, os.urandom).signing_key.public.hex() for duty in Duty]
        joined: list[Identity] = []

        def tried() -> bool:
            try:
                joined.append(
                    join(token, None, lambda identity: None, os.urandom, Duties(officer=keys[0], publisher=keys[1]))
                )
            except NotReachable:
                return False
            return True

        until(tried, "the coordinator enrols")
        return joined[0]

    def approve(self, name: str, roster: Roster) -> None:
        approval = sign(approval_of(roster, name), name, self.members[name].signing_key)
        DirectoryStub(self.channels[name]).ApproveRoster(ApproveRosterRequest(approval=approval), timeout=30)

    def pull(self, name: str, roster: Roster | None) -> Iterator[Task]:
        pinned = bytes.fromhex(roster.digest()) if roster else bytes(32)
        stream: Iterator[Task] = WorkStub(self.channels[name]).Pull(PullRequest(roster_digest=pinned), timeout=30)
        return stream

    def stop(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    made = Space(tmp_path / "coordinator")
    yield made
    made.stop()


def refused(error: type[Exception], call: Any, *arguments: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(*arguments)
        if not hasattr(answer, "DESCRIPTOR"):
            list(answer)
    assert isinstance(from_rpc_error(caught.value, "the coordinator"), error)


def test_rosters_and_the_log_over_the_wire(space: Space) -> None:
    # A roster is proposed; two of three approve, and it is in force: holders are told, whatever they have pinned.
    first = space.membership.propose_roster([(SCHEMA, [*HOLDERS])])
    waiting = space.pull("zurich", None)
    for name in HOLDERS[:2]:
        received = fetch_roster(space.members[name])
        assert Roster.parse(received.roster) == first
        space.approve(name, first)
    task = next(waiting)
    assert Roster.parse(task.roster.roster.roster) == first and len(task.roster.roster.approvals) == 2

    # Who has pinned it witnesses the log: its entries, its root, and then signs.
    task = next(space.pull("zurich", first))
    checkpoint = read_checkpoint(task.witness.checkpoint, first)
    log = LogStub(space.channels["zurich"])
    request = log_pb2.EntriesRequest(first=0, end=checkpoint.size)
    entries = [body for part in log.Entries(request) for body in part.entries]
    assert witness(Frontier(), entries, checkpoint).size == 2
    cosignature = sign(checkpoint, "zurich", space.members["zurich"].signing_key)
    log.Cosign(log_pb2.CosignRequest(cosignature=cosignature))
    witnessed = log.GetCheckpoint(log_pb2.GetCheckpointRequest())
    assert (witnessed.checkpoint, list(witnessed.cosignatures)) == (task.witness.checkpoint, [cosignature])

    # The next roster is taken up by its approvals alone; the log has grown consistently.
    second = space.membership.propose_roster([(SCHEMA, [*HOLDERS])], HOLDERS)
    stream = space.pull("hungary", first)
    assert next(stream).WhichOneof("kind") == "witness"  # a proposed roster blocks nobody
    for name in HOLDERS[:2]:
        space.approve(name, second)
    assert all(task.WhichOneof("kind") == "witness" for task in stream)  # until the stream ends
    task = next(space.pull("hungary", first))
    assert successor(space.members["hungary"], first, task.roster.roster) == second
    task = next(space.pull("hungary", second))
    later = read_checkpoint(task.witness.checkpoint, second)
    sizes = log_pb2.ConsistencyRequest(old_size=checkpoint.size, new_size=later.size)
    proof = list(log.Consistency(sizes).nodes)
    check_consistency(checkpoint.size, bytes.fromhex(checkpoint.root), later.size, bytes.fromhex(later.root), proof)

    # What does not exist is refused by name.
    refused(MalformedMessage, log.Entries, log_pb2.EntriesRequest(first=0, end=1_000))
    refused(MalformedMessage, log.Consistency, log_pb2.ConsistencyRequest(old_size=0, new_size=1_000))
    refused(MalformedMessage, log.Cosign, log_pb2.CosignRequest(cosignature=sign(
        checkpoint.model_copy(update={"root": digest("fork")}), "zurich", space.members["zurich"].signing_key
    )))  # fmt: skip
    refused(UnknownJob, log.GetReceipt, log_pb2.ReceiptRequest(job_id=bytes(16)))
    agreements = AgreementsStub(space.channels["zurich"])
    assert not agreements.List(agreements_pb2.ListAgreementsRequest()).agreements
    refused(MalformedMessage, agreements.Submit, agreements_pb2.SubmitAgreementRequest())
    work = WorkStub(space.channels["zurich"])
    refused(MalformedMessage, work.Submit, iter([WorkPart(abort=cosignature)]))
    refused(MalformedMessage, work.Submit, iter([WorkPart(refusal=cosignature), WorkPart(pending=bytes(16))]))
    refused(UnknownJob, work.Submit, iter([WorkPart(pending=bytes(16))]))


def test_the_operators_keys_are_sealed(tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    addresses = {"address": "a:1", "enrolment": "a:2", "listen": "127.0.0.1"}
    config = make_folder(home, "test-space", **addresses, passphrase=PASSPHRASE)
    for file in (AUTHORITY_KEY, LOG_KEY):
        assert is_sealed((home / file).read_bytes()) and (home / file).stat().st_mode & 0o777 == 0o600
    stolen = b"".join(path.read_bytes() for path in home.iterdir())
    assert config.read_authority().key not in stolen and b"PRIVATE KEY" not in stolen
    assert Config.read(home, PASSPHRASE).read_log_key().public == config.read_log_key().public
    for read in (Config.read(home, b"wrong").read_log_key, Config.read(home, b"wrong").read_authority):
        with pytest.raises(BadPassphrase):
            read()
