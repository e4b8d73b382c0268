"""Through real gRPC and mutual TLS: who is let in, what is refused, and what happens when somebody is away."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import ceiba
from ceiba.home import Home
from ceiba.jobs import Job
from ceiba.progress import in_words
from ceiba.space import Space
from ceiba_coordinator.config import Config
from ceiba_node.answering import Answering
from ceiba_node.ledger import Ledger
from ceiba_node.operator import Operator
from ceiba_node.responding import Reply
from ceiba_node.service import assemble
from ceiba_protocol.errors import CeibaError, IllegalTransition, JobCancelled, JobExpired, NotReachable
from ceiba_protocol.trust.certificates import CertificateName, issue_member, make_authority, make_request, new_key
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.v1 import catalogue_pb2, enrolment_pb2, jobs_pb2, work_pb2
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub, EnrolmentStub
from ceiba_protocol.v1.jobs_pb2_grpc import JobsStub
from ceiba_protocol.v1.work_pb2 import PullRequest, Task, WorkPart
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import CHANNEL_OPTIONS, enrolment_channel, from_rpc_error, secure_channel
from ceiba_scenarios import Sandbox
from ceiba_scenarios.processes import free_port
from tests.support.members import HOLDERS, SCHEMA, changed, frames
from tests.support.seeded import seeded
from tests.support.waiting import until

pytestmark = pytest.mark.slow

SQL = "SELECT COUNT(*) AS n, SUM(age) AS years FROM health.heart"
TRUTH = (6, 301)
FIRST, SECOND, THIRD = HOLDERS
CALL_SECONDS = 30.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("transport")
    with Sandbox(frames(), schemas={"health.heart": SCHEMA}, folder=folder) as sandbox:
        sandbox.merchant("bank-b")
        sandbox.merchant("bank-a")
        yield sandbox


@pytest.fixture
def space(lab: Sandbox) -> Space:
    return lab.merchant("bank-a")


def identity_of(lab: Sandbox, name: str) -> Identity:
    return lab.node_home(name).identity() if name in HOLDERS else lab.merchant_home(name).identity()


def error_of(call: Callable[[], Any]) -> CeibaError:
    """The error that a call or a stream ends with, as a member's software reads it."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = call()
        list(answer if hasattr(answer, "__iter__") else [answer])
    return from_rpc_error(caught.value, "there")


def list_tables(channel: grpc.Channel) -> Any:
    return CatalogueStub(channel).List(catalogue_pb2.ListRequest(), timeout=CALL_SECONDS)


# --- certificates ------------------------------------------------------------------------------------------------


def channel_with(lab: Sandbox, key: bytes | None, certificate: bytes | None) -> grpc.Channel:
    authority = lab.config.read_authority().certificate
    return grpc.secure_channel(lab.address, grpc.ssl_channel_credentials(authority, key, certificate), CHANNEL_OPTIONS)


def certificate(lab: Sandbox, key: bytes, *, name: CertificateName | None = None, days: int = 0) -> bytes:
    """By the space's own CA, as if it had been issued some days ago: what an operator can mint."""
    authority = lab.config.read_authority()
    wanted = name or CertificateName("sandbox", "merchant", "bank-a")
    return issue_member(authority, make_request(key), wanted, datetime.now(UTC) - timedelta(days=days))


def test_a_members_own_certificate_opens_the_door(lab: Sandbox) -> None:
    """The control for the tests below: the same channel with the right certificate."""
    mine = identity_of(lab, "bank-a")
    with channel_with(lab, mine.tls_key.encode(), mine.certificate.encode()) as channel:
        assert [table.table for table in list_tables(channel).tables] == ["health.heart"]
    with channel_with(lab, mine.tls_key.encode(), certificate(lab, mine.tls_key.encode(), days=80)) as channel:
        assert list_tables(channel).tables


def not_let_in(lab: Sandbox, key: bytes | None, shown: bytes | None) -> None:
    with channel_with(lab, key, shown) as channel:
        assert isinstance(error_of(lambda: list_tables(channel)), NotReachable)


def test_no_certificate(lab: Sandbox) -> None:
    not_let_in(lab, None, None)


def test_certificate_of_another_ca(lab: Sandbox) -> None:
    mine = identity_of(lab, "bank-a")
    other = make_authority("sandbox", datetime.now(UTC))
    name = CertificateName("sandbox", "merchant", "bank-a")
    shown = issue_member(other, make_request(mine.tls_key.encode()), name, datetime.now(UTC))
    not_let_in(lab, mine.tls_key.encode(), shown)


@pytest.mark.parametrize("days", [91, 200, -1], ids=["expired yesterday", "long expired", "not valid before tomorrow"])
def test_certificate_out_of_its_time(lab: Sandbox, days: int) -> None:
    key = identity_of(lab, "bank-a").tls_key.encode()
    not_let_in(lab, key, certificate(lab, key, days=days))


def test_certificate_without_its_key(lab: Sandbox) -> None:
    """A certificate is public; with another key the handshake fails."""
    not_let_in(lab, new_key(), identity_of(lab, "bank-a").certificate.encode())


@pytest.mark.parametrize(
    "name",
    [
        CertificateName("sandbox", "merchant", "bank-a"),
        CertificateName("sandbox", "holder", FIRST),
        CertificateName("sandbox", "merchant", "nobody"),
        CertificateName("sandbox", "coordinator", "coordinator"),
    ],
    ids=lambda name: f"{name.role} {name.name}",
)
def test_minted_certificate_admits_nobody(lab: Sandbox, name: CertificateName) -> None:
    """The operator signs a certificate for a member's name and its own key: TLS accepts it, no service does."""
    key = new_key()
    with channel_with(lab, key, certificate(lab, key, name=name)) as channel:
        for call in (
            lambda: list_tables(channel),
            lambda: DirectoryStub(channel).GetRoster(enrolment_pb2.GetRosterRequest(), timeout=CALL_SECONDS),
            lambda: WorkStub(channel).Pull(PullRequest(), timeout=CALL_SECONDS),
            lambda: JobsStub(channel).Watch(jobs_pb2.JobReference(job_id=bytes(16)), timeout=CALL_SECONDS),
        ):
            assert error_of(call).code == "unknown_member"


def test_real_key_under_another_name_admits_nobody(lab: Sandbox) -> None:
    """A holder whose CA friend gives it a merchant's certificate, for its own key."""
    key = identity_of(lab, FIRST).tls_key.encode()
    for name in (CertificateName("sandbox", "merchant", "bank-a"), CertificateName("sandbox", "merchant", FIRST)):
        with channel_with(lab, key, certificate(lab, key, name=name)) as channel:
            assert error_of(lambda: list_tables(channel)).code == "unknown_member"


def test_server_of_another_ca_is_not_believed(lab: Sandbox, space: Space) -> None:
    other = make_authority("sandbox", datetime.now(UTC)).certificate.decode()
    home = Home(lab.merchant_home("bank-a").folder, lab.passphrase)
    home._opened = changed(space.identity, authority=other)
    with pytest.raises(NotReachable), Space(home) as misled:
        misled.catalogue()


def test_wrong_address_is_not_reachable(lab: Sandbox) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(NotReachable, match=address):
        ceiba.connect(address, identity=lab.merchant_home("bank-a").folder, passphrase=lab.passphrase)


# --- roles -------------------------------------------------------------------------------------------------------

REFERENCE = jobs_pb2.JobReference(job_id=bytes(16))
HOLDERS_MAY_NOT: dict[str, Callable[[grpc.Channel], Any]] = {
    "Submit": lambda channel: JobsStub(channel).Submit(jobs_pb2.SubmitRequest(), timeout=CALL_SECONDS),
    "Watch": lambda channel: JobsStub(channel).Watch(REFERENCE, timeout=CALL_SECONDS),
    "Result": lambda channel: JobsStub(channel).Result(REFERENCE, timeout=CALL_SECONDS),
    "Cancel": lambda channel: JobsStub(channel).Cancel(REFERENCE, timeout=CALL_SECONDS),
}
MERCHANTS_MAY_NOT: dict[str, Callable[[grpc.Channel], Any]] = {
    "Pull": lambda channel: WorkStub(channel).Pull(PullRequest(), timeout=CALL_SECONDS),
    "Submit": lambda channel: WorkStub(channel).Submit(iter([WorkPart()]), timeout=CALL_SECONDS),
    "Announce": lambda channel: CatalogueStub(channel).Announce(catalogue_pb2.AnnounceRequest(), timeout=CALL_SECONDS),
}


@pytest.mark.parametrize("method", HOLDERS_MAY_NOT)
def test_holder_may_not_call_what_is_for_merchants(lab: Sandbox, method: str) -> None:
    with secure_channel(lab.address, identity_of(lab, FIRST)) as channel:
        assert error_of(lambda: HOLDERS_MAY_NOT[method](channel)).code == "wrong_role"


@pytest.mark.parametrize("method", MERCHANTS_MAY_NOT)
def test_merchant_may_not_call_what_is_for_holders(lab: Sandbox, method: str) -> None:
    with secure_channel(lab.address, identity_of(lab, "bank-a")) as channel:
        assert error_of(lambda: MERCHANTS_MAY_NOT[method](channel)).code == "wrong_role"


def test_another_merchants_job_is_an_unknown_one(lab: Sandbox, space: Space) -> None:
    job = space.sql(SQL).submit()
    assert job.wait()[0] == TRUTH
    reference = jobs_pb2.JobReference(job_id=bytes.fromhex(job.id))
    with secure_channel(lab.address, identity_of(lab, "bank-b")) as channel:
        stub = JobsStub(channel)
        for call in (stub.Watch, stub.Result, stub.Cancel):
            assert error_of(lambda: call(reference, timeout=CALL_SECONDS)).code == "unknown_job"  # noqa: B023


def test_enrolment_port_serves_nothing_else(lab: Sandbox) -> None:
    config = Config.read(lab.coordinator_folder, lab.passphrase_file.read_bytes())
    authority = config.read_authority().certificate.decode()
    with enrolment_channel(config.settings.enrolment_address, authority) as channel:
        for service in (list_tables, HOLDERS_MAY_NOT["Submit"], MERCHANTS_MAY_NOT["Pull"]):
            with pytest.raises(grpc.RpcError) as caught:
                answer = service(channel)
                list(answer if hasattr(answer, "__iter__") else [answer])
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        request = enrolment_pb2.EnrolRequest(token=bytes(16), certificate_request=b"\xff" * 100)
        assert error_of(lambda: EnrolmentStub(channel).Enrol(request, timeout=CALL_SECONDS)).code == "bad_join_token"


# --- malformed messages ------------------------------------------------------------------------------------------

METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in (catalogue_pb2, jobs_pb2, work_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


GARBAGE = {
    "wire type 7": b"\xff" * 50,
    "endless length": b"\x0a\xff\xff\xff\xff\x0f",
    "noise": b"\xff" + seeded("garbage")(1000),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_bytes_are_refused_and_tell_nothing(lab: Sandbox, space: Space, method: str, garbage: bytes) -> None:
    member = FIRST if ".Work/" in method or method.endswith("Announce") else "bank-a"
    with secure_channel(lab.address, identity_of(lab, member)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(method)(iter([garbage]), timeout=CALL_SECONDS))
        assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
        assert "Traceback" not in str(caught.value.details())
    assert space.catalogue()


def test_oversized_message_is_refused(lab: Sandbox) -> None:
    with secure_channel(lab.address, identity_of(lab, FIRST)) as channel:
        request = catalogue_pb2.AnnounceRequest(schema=bytes(5 * 1024 * 1024))
        with pytest.raises(grpc.RpcError) as caught:
            CatalogueStub(channel).Announce(request, timeout=CALL_SECONDS)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(from_rpc_error(caught.value, "there"), NotReachable)


class StandIn:
    """In the place of a holder's node, with its folder and certificate: sends what the test wants."""

    def __init__(self, channel: grpc.Channel, answering: Answering) -> None:
        self.answering = answering
        self._stub = WorkStub(channel)

    def task(self, job: Job, kind: str) -> Task:
        pull = self._stub.Pull(PullRequest(roster_digest=self.answering.roster_digest), timeout=CALL_SECONDS)
        wanted = (task for task in pull if (task.job_id.hex(), task.WhichOneof("kind")) == (job.id, kind))
        task = next(wanted)
        pull.cancel()
        return task

    def send(self, *parts: WorkPart) -> None:
        self._stub.Submit(iter(parts), timeout=CALL_SECONDS)

    def refused(self, code: str, *parts: WorkPart) -> None:
        assert error_of(lambda: self.send(*parts)).code == code


@contextmanager
def in_place_of(lab: Sandbox, holder: str) -> Iterator[StandIn]:
    """The holder's process is stopped, and its folder used by this process."""
    lab.processes[holder].stop()
    answering = assemble(lab.node_home(holder), lambda: int(time.time()), os.urandom)
    try:
        with secure_channel(lab.address, identity_of(lab, holder)) as channel:
            answering.witness.connect(Operator(channel, lab.address))
            yield StandIn(channel, answering)
    finally:
        answering.close()
        lab.processes[holder].start()


def damaged(signed: Signed, part: str) -> Signed:
    copy = Signed.FromString(signed.SerializeToString())
    setattr(copy, part, getattr(copy, part)[:-1])
    return copy


def parts_of(reply: Reply) -> list[WorkPart]:
    return [WorkPart(submission=reply.signed), WorkPart(ciphertexts=reply.payload)]


def test_malformed_answers_are_refused_and_the_right_one_still_counts(lab: Sandbox, space: Space) -> None:
    """Truncated, repeated, oversized and disordered answers of one holder; then its real one."""
    with in_place_of(lab, THIRD) as node:
        job = space.sql(SQL).submit()
        task = node.task(job, "approve")
        approval = node.answering.approve(task.job_id, task.approve.manifest).signed
        # an approval
        node.refused("malformed_message")
        node.refused("malformed_message", WorkPart())
        node.refused("malformed_message", WorkPart(ciphertexts=b"x"))
        node.refused("unknown_member", WorkPart(approval=Signed()))
        node.refused("bad_signature", WorkPart(approval=damaged(approval, "body")))
        node.refused("bad_signature", WorkPart(approval=damaged(approval, "signature")))
        node.refused("malformed_message", WorkPart(refusal=approval))
        node.send(WorkPart(approval=approval))
        node.send(WorkPart(approval=approval))
        # a submission
        task = node.task(job, "contribute")
        fixed = task.contribute
        reply = node.answering.contribute(task.job_id, fixed.approvals, fixed.aborts, fixed.checkpoint)
        signed, blob = parts_of(reply)
        node.refused("malformed_document", WorkPart(submission=approval), blob)
        node.refused("malformed_document", WorkPart(submission=damaged(reply.signed, "body")), blob)
        node.refused("bad_signature", WorkPart(submission=damaged(reply.signed, "signature")), blob)
        node.refused("malformed_message", signed)
        node.refused("malformed_message", signed, WorkPart(ciphertexts=reply.payload[:-1]))
        node.refused("malformed_message", signed, WorkPart(ciphertexts=bytes(len(reply.payload))))
        node.refused("message_too_large", signed, blob, WorkPart(ciphertexts=b"x"))
        node.refused("message_too_large", signed, *[WorkPart(ciphertexts=bytes(2**20))] * 50)
        node.refused("malformed_message", signed, blob, signed)
        node.refused("malformed_message", signed, WorkPart(approval=approval), blob)
        assert job.status().state == "waiting_for_submissions"
        halves = [WorkPart(ciphertexts=part) for part in (reply.payload[:7], b"", reply.payload[7:])]
        node.send(signed, *halves)
        node.send(*parts_of(reply))
        assert job.wait()[0] == TRUTH


def test_answer_in_another_holders_name_is_refused(lab: Sandbox, space: Space) -> None:
    """One holder's certificate, another holder's signed document."""
    with in_place_of(lab, THIRD) as node:
        job = space.sql(SQL).submit()
        task = node.task(job, "approve")
        approval = node.answering.approve(task.job_id, task.approve.manifest).signed
        with secure_channel(lab.address, identity_of(lab, FIRST)) as channel:
            stranger = StandIn(channel, node.answering)
            stranger.refused("malformed_message", WorkPart(approval=approval))
        node.send(WorkPart(approval=approval))
        job.cancel()


def test_late_answer_is_refused_in_our_own_words(lab: Sandbox, space: Space) -> None:
    with in_place_of(lab, THIRD) as node:
        job = space.sql(SQL).submit()
        task = node.task(job, "approve")
        approval = node.answering.approve(task.job_id, task.approve.manifest).signed
        job.cancel()
        node.refused("illegal_transition", WorkPart(approval=approval))


# --- somebody is away --------------------------------------------------------------------------------------------


@contextmanager
def away(lab: Sandbox, holder: str) -> Iterator[None]:
    process = lab.processes[holder]
    process.stop()
    try:
        yield
    finally:
        if not process.is_running():
            process.start()


def waits_for(job: Job, words: str) -> None:
    until(lambda: words in in_words(job.status()), f"the status to say {words!r}")


def test_job_waits_for_an_offline_holder_and_says_so(lab: Sandbox, space: Space) -> None:
    with away(lab, THIRD):
        job = space.sql(SQL).submit()
        waits_for(job, f"2 of 3 holders have approved; waiting for {THIRD} (offline)")
        assert (FIRST in job.status().online) and (SECOND in job.status().online)
    assert job.wait()[0] == TRUTH


def test_deadline_ends_a_job_and_names_who_was_away(lab: Sandbox, space: Space) -> None:
    with away(lab, SECOND):
        job = space.sql(SQL).submit(deadline=10)
        with pytest.raises(JobExpired) as caught:
            job.wait()
    assert caught.value.fields == {"job": job.id, "holders": SECOND}


def test_cancelled_job_ends_and_is_forgotten(lab: Sandbox, space: Space) -> None:
    with away(lab, SECOND):
        job = space.sql(SQL).submit()
        waits_for(job, f"waiting for {SECOND} (offline)")
        home = lab.node_home(FIRST)
        ledger = Ledger(home.ledger_path, bytes.fromhex(home.identity().storage_key))
        has_secret = lambda: ledger.answer(bytes.fromhex(job.id)).mask_secret is not None  # type: ignore[union-attr]  # noqa: E731
        assert has_secret()
        job.cancel()
        with pytest.raises(JobCancelled):
            job.wait()
        with pytest.raises(IllegalTransition):
            job.cancel()
        until(lambda: not has_secret(), f"{FIRST} to erase its secret")
        ledger.close()
    assert space.sql(SQL).run()[0] == TRUTH


def test_job_outlives_its_merchants_process(lab: Sandbox, space: Space) -> None:
    """The same manifest again, from another connection: the job goes on, and it is one job."""
    with away(lab, SECOND):
        job = space.sql(SQL).submit()
    with ceiba.connect(identity=lab.merchant_home("bank-a").folder, passphrase=lab.passphrase) as second:
        again = Job(second, second.sql(SQL), job._signed, job.agreement, job._started)
        again.send()
        assert again.wait()[0] == TRUTH
    assert job.wait()[0] == TRUTH


# --- health and reflection ---------------------------------------------------------------------------------------


def test_health_answers(lab: Sandbox) -> None:
    with secure_channel(lab.address, identity_of(lab, "bank-a")) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(lab: Sandbox) -> None:
    with secure_channel(lab.address, identity_of(lab, "bank-a")) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=CALL_SECONDS)
        names = {service.name for service in answer.list_services_response.service}
    assert {"ceiba.v1.Jobs", "ceiba.v1.Work", "ceiba.v1.Catalogue", "ceiba.v1.Directory"} <= names
