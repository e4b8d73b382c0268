"""Putting a node together from its folder."""

from collections.abc import Callable

from ceiba_node.agent import Agent
from ceiba_node.answering import Answering
from ceiba_node.config import Home
from ceiba_node.encryptors import Encryptors
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.ledger import Ledger
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.wire import secure_channel


def run(home: Home, clock: Callable[[], int], random: Random) -> Agent:
    """An agent that is ready to run. Raises BadIdentity, RosterNotPinned, BadConfiguration, LedgerDamaged."""
    identity, roster, settings = home.identity(), home.roster(), home.settings()
    ledger = Ledger(home.ledger_path, bytes.fromhex(identity.storage_key))
    engine = DuckDBEngine(
        holder=identity.name,
        memory_limit=settings.memory_limit,
        threads=settings.threads,
        temp_directory=home.spill_folder,
    )
    encryptors = Encryptors(random, settings.prepared_ciphertexts)
    encryptors.prepare(member.encryption_key.n for member in roster.members if member.encryption_key)
    answering = Answering(identity, roster, home.snapshots(), engine, ledger, encryptors, clock, random)
    channel = secure_channel(identity.coordinator, identity)
    return Agent(channel, identity.coordinator, answering)
