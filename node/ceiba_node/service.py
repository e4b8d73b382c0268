"""Putting a node together from its folder, and anew when another roster is pinned or its certificate renewed."""

import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import structlog

from ceiba_node.agent import Agent
from ceiba_node.answering import Answering
from ceiba_node.config import Home
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.score_agent import ScoreAgent
from ceiba_node.scoring import Scoring
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.joining import renew, successor
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.certificates import expires_at
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from ceiba_protocol.wire import secure_channel

log = structlog.get_logger()

SWITCH_SECONDS = 0.0005
"""A thread that computes lets the others run this often; with Python's 5 ms a signature waits for a whole scan."""
RENEWAL_SECONDS = 3600
"""How often the certificate's end is looked at, and a failed renewal tried again; it has a month."""


def assemble(home: Home, clock: Callable[[], int], random: Random) -> Answering:
    """What answers, with its ledger open. Raises BadIdentity, RosterNotPinned, BadConfiguration, LedgerDamaged."""
    identity, roster, settings = home.identity(), home.roster(), home.settings()
    home.policy()  # a house whose rules cannot be read answers nothing
    engine = DuckDBEngine(
        holder=identity.name,
        memory_limit=settings.memory_limit,
        threads=settings.threads,
        temp_directory=home.make_spill_folder(),
    )
    ledger = home.ledger()
    encryptors = Encryptors(random, settings.prepared_ciphertexts)
    encryptors.prepare(member.encryption_key.n for member in roster.members if member.encryption_key)
    return Answering(identity, roster, home.snapshots(), engine, ledger, encryptors, home.policy, clock, random)


class Renewal:
    """The node's certificate, kept from ending. Nothing that fails here stops the node."""

    def __init__(self, home: Home, clock: Callable[[], int]) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self._home = home
        self._clock = clock
        self._next_look = 0

    def has_renewed(self) -> bool:
        """Whether a new certificate was saved just now. Looks when first asked, then once in RENEWAL_SECONDS."""
        now = self._clock()
        if now < self._next_look:
            return False
        self._next_look = now + RENEWAL_SECONDS
        try:
            renewed = renew(self._home.identity(), datetime.fromtimestamp(now, UTC))
            if renewed is not None:
                self._home.save_identity(renewed)
                log.info("certificate.renewed", ends=expires_at(renewed.certificate.encode()).isoformat())
        except CeibaError as error:
            log.warning("certificate.renewal_failed", code=error.code, fields=error.fields)
            return False
        except Exception as error:  # a full disk, say: the old certificate still stands in the folder
            log.error("certificate.renewal_failed", exception=type(error).__name__)
            return False
        return renewed is not None


def serve(home: Home, clock: Callable[[], int], random: Random) -> None:
    """Answer until SIGTERM or SIGINT; with a new roster once `ceiba-node pin` has pinned it, and with a new
    certificate once it is renewed."""
    sys.setswitchinterval(SWITCH_SECONDS)
    stopped = threading.Event()
    agents: list[Agent] = []

    def stop(*_: object) -> None:
        stopped.set()
        for agent in agents:
            agent.stop()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    with home.running():
        _serve(home, clock, random, agents, stopped)


def _serve(home: Home, clock: Callable[[], int], random: Random, agents: list[Agent], stopped: threading.Event) -> None:
    """`agents`: where the running one is put, for whoever stops it."""
    renewal = Renewal(home, clock)
    while not stopped.is_set():
        pinned, identity = home.roster(), home.identity()
        answering = assemble(home, clock, random)
        with secure_channel(identity.coordinator, identity) as channel:
            agent = Agent(
                channel,
                identity.coordinator,
                answering,
                partial(_is_outdated, home, pinned, renewal),
                partial(_take_up_roster, home),
            )
            agents[:] = [agent]
            scoring = Scoring(answering.house, home.settings().prepared_scores)
            scores = ScoreAgent(channel, identity.coordinator, scoring)
            scores.start()
            if stopped.is_set():  # `stop` may have looked for an agent just before there was this one
                agent.stop()
            try:
                agent.run()
            finally:
                scores.stop()
                scoring.close()
        answering.close()


def _is_outdated(home: Home, pinned: Roster, renewal: Renewal) -> bool:
    """Whether the folder has another roster than the node was put together with, or another certificate."""
    if home.pinned_roster() != pinned:
        log.info("roster.changed")
        return True
    return renewal.has_renewed()


def _take_up_roster(home: Home, received: SignedRoster) -> bool:
    """Pin a newer roster, if a quorum of the pinned one's signers has approved it. Raises what `successor` does."""
    roster = successor(home.identity(), home.roster(), received)
    if roster is None:
        log.info("roster.not_taken_up")
        return False
    home.pin(roster)
    log.info("roster.taken_up", version=roster.version)
    return True
