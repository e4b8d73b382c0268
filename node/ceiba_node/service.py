"""Putting a node together from its folder, and anew when another roster is pinned."""

import signal
import sys
import threading
from collections.abc import Callable

from ceiba_node.agent import Agent
from ceiba_node.answering import Answering
from ceiba_node.config import Home
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.wire import secure_channel

SWITCH_SECONDS = 0.0005
"""A thread that computes lets the others run this often; with Python's 5 ms a signature waits for a whole scan."""


def assemble(home: Home, clock: Callable[[], int], random: Random) -> Answering:
    """What answers, with its ledger open. Raises BadIdentity, RosterNotPinned, BadConfiguration, LedgerDamaged."""
    identity, roster, settings = home.identity(), home.roster(), home.settings()
    engine = DuckDBEngine(
        holder=identity.name,
        memory_limit=settings.memory_limit,
        threads=settings.threads,
        temp_directory=home.make_spill_folder(),
    )
    ledger = home.ledger()
    encryptors = Encryptors(random, settings.prepared_ciphertexts)
    encryptors.prepare(member.encryption_key.n for member in roster.members if member.encryption_key)
    return Answering(identity, roster, home.snapshots(), engine, ledger, encryptors, clock, random)


def serve(home: Home, clock: Callable[[], int], random: Random) -> None:
    """Answer until SIGTERM or SIGINT; with a new roster once `ceiba-node pin` has pinned it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    stopped = threading.Event()
    agents: list[Agent] = []

    def stop(*_: object) -> None:
        stopped.set()
        for agent in agents:
            agent.stop()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    while not stopped.is_set():
        pinned, identity = home.roster(), home.identity()
        answering = assemble(home, clock, random)
        with secure_channel(identity.coordinator, identity) as channel:
            agent = Agent(channel, identity.coordinator, answering, lambda: home.pinned_roster() != pinned)  # noqa: B023
            agents[:] = [agent]
            if stopped.is_set():  # `stop` may have looked for an agent just before there was this one
                agent.stop()
            agent.run()
        answering.close()
