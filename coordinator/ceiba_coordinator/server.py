"""The coordinator's process: two ports, the clock, and a clean end."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ceiba_coordinator.agreements import Agreements as AgreementBook
from ceiba_coordinator.bells import EVERYBODY, Notify
from ceiba_coordinator.config import Config
from ceiba_coordinator.credentials import server_credentials
from ceiba_coordinator.jobs import Jobs as JobBook
from ceiba_coordinator.log import Log as LogBook
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.receipts import Receipts
from ceiba_coordinator.scores import Scores
from ceiba_coordinator.services.agreements import Agreements
from ceiba_coordinator.services.calls import CALLS_PER_MEMBER, Callers, Desk
from ceiba_coordinator.services.catalogue import Catalogue
from ceiba_coordinator.services.enrolment import Directory, Enrolment
from ceiba_coordinator.services.jobs import Jobs
from ceiba_coordinator.services.log import Log
from ceiba_coordinator.services.scoring import Scoring
from ceiba_coordinator.services.work import Presence, Work
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.v1 import agreements_pb2, catalogue_pb2, enrolment_pb2, jobs_pb2, log_pb2, scoring_pb2, work_pb2
from ceiba_protocol.v1.agreements_pb2_grpc import add_AgreementsServicer_to_server
from ceiba_protocol.v1.catalogue_pb2_grpc import add_CatalogueServicer_to_server
from ceiba_protocol.v1.enrolment_pb2_grpc import add_DirectoryServicer_to_server, add_EnrolmentServicer_to_server
from ceiba_protocol.v1.jobs_pb2_grpc import add_JobsServicer_to_server
from ceiba_protocol.v1.log_pb2_grpc import add_LogServicer_to_server
from ceiba_protocol.v1.scoring_pb2_grpc import add_ScoringServicer_to_server
from ceiba_protocol.v1.work_pb2_grpc import add_WorkServicer_to_server

log = structlog.get_logger()

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second coordinator on the port is a mistake, not a helper
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),  # a line that is cut without a word: its calls count no more after 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # whoever connects and then says nothing
    ("grpc.max_connection_idle_ms", 600_000),  # members connect again by themselves
    ("grpc.max_concurrent_streams", 2 * CALLS_PER_MEMBER),  # beyond its share a member is told, not kept waiting
]
CONCURRENT_CALLS = 4_000
"""Each member keeps one or two streams open; what is beyond is refused, not queued."""
CLOCK_SECONDS = 1.0
GRACE_SECONDS = 2.0
SWITCH_SECONDS = 0.0005
"""How often the state's thread lets the network's run; with Python's 5 ms each hop between them may take that long."""


def clock() -> int:
    """Seconds since 1970 UTC."""
    return int(time.time())


def open_membership(config: Config, store: Store) -> Membership:
    """The space's membership, with the CA and the log key from the coordinator's folder."""
    return Membership(store, config.space, config.read_authority(), _open_log(config, store), clock)


def _open_log(config: Config, store: Store, notify: Notify = lambda names: None) -> LogBook:
    return LogBook(store, config.space, config.read_log_key(), clock, notify)


async def serve(config: Config, started: Callable[[int, int], None]) -> None:
    """Run until SIGTERM or SIGINT. `started` is told the two ports once both listen."""
    sys.setswitchinterval(SWITCH_SECONDS)
    store = Store(open_engine(config.database_url))
    authority = config.read_authority()
    desk = Desk(store)
    presence = Presence(desk)
    log_book = _open_log(config, store, desk.notify)
    membership = Membership(store, config.space, authority, log_book, clock)
    agreements = AgreementBook(store, membership, log_book, clock, desk.notify)
    jobs = JobBook(store, membership, agreements, log_book, clock, desk.notify)
    receipts = Receipts(store, log_book)
    scores = Scores(store, membership, agreements, log_book, clock, desk.notify)
    callers = Callers(desk, membership)

    members = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS)
    add_DirectoryServicer_to_server(Directory(desk, callers, membership), members)
    add_CatalogueServicer_to_server(Catalogue(desk, callers, membership, presence), members)
    add_JobsServicer_to_server(Jobs(desk, callers, jobs, presence), members)
    add_AgreementsServicer_to_server(Agreements(desk, callers, agreements), members)
    add_LogServicer_to_server(Log(desk, callers, membership, log_book, receipts), members)
    add_WorkServicer_to_server(Work(desk, callers, membership, agreements, jobs, log_book, presence), members)
    add_ScoringServicer_to_server(Scoring(desk, callers, scores), members)
    healthy = _add_health_and_reflection(members)
    newcomers = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS)
    add_EnrolmentServicer_to_server(Enrolment(desk, membership), newcomers)

    mutual = server_credentials(authority, config.space, clock, mutual=True)
    one_sided = server_credentials(authority, config.space, clock, mutual=False)
    port = members.add_secure_port(config.listen, mutual)
    enrolment = newcomers.add_secure_port(config.listen_enrolment, one_sided)
    await members.start()
    await newcomers.start()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", space=config.space, port=port, enrolment_port=enrolment)
    started(port, enrolment)

    expiry = asyncio.create_task(_keep_time(desk, jobs, membership, log_book))
    await _until_told_to_stop()
    expiry.cancel()
    await asyncio.gather(members.stop(GRACE_SECONDS), newcomers.stop(GRACE_SECONDS))
    log.info("stopped")


def _add_health_and_reflection(server: grpc.aio.Server) -> health.aio.HealthServicer:
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    files = (enrolment_pb2, catalogue_pb2, agreements_pb2, jobs_pb2, work_pb2, log_pb2, scoring_pb2)
    names = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return healthy


async def _keep_time(desk: Desk, jobs: JobBook, membership: Membership, log_book: LogBook) -> None:
    """End jobs whose window is over, sign the log if it has grown, and notice a roster that the command line has
    proposed meanwhile."""
    newest = None
    while True:
        roster = await desk.run(lambda: membership.newest)
        if roster != newest:
            desk.notify([EVERYBODY])
        newest = roster
        for job_id in await desk.run(jobs.expire):
            log.info("job.expired", job=job_id.hex())
        await desk.run(log_book.checkpoint)
        await asyncio.sleep(CLOCK_SECONDS)


async def _until_told_to_stop() -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()
