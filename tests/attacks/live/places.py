"""Places for attacks that would spoil the field for the next one: nodes that are put back afterwards, an agreement for
one attack, and the real coordinator, which runs beside Mallory."""

import contextlib
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from ceiba_coordinator.config import FILE
from ceiba_protocol.errors import NotReachable
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.identity import Duty, Identity
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.work_pb2 import Task
from ceiba_protocol.wire import secure_channel
from ceiba_scenarios.processes import Process, free_port
from tests.attacks.live.field import HOLDERS, WEAKENED, Field

START_SECONDS = 60.0


# --- nodes -------------------------------------------------------------------------------------------------------


@contextmanager
def unspoilt(field: Field, without: str | None, *weakened: str) -> Iterator[None]:
    """Everything as the field was made, these nodes, or all, without the check; whatever is done to the nodes' files
    meanwhile, the next attack begins anew."""
    field.begin(without, *weakened)
    try:
        yield
    finally:
        field.mallory.touched.update(HOLDERS)


def saved_ledger(field: Field, holder: str) -> bytes:
    """A copy of a node's ledger, as a backup of its folder has it."""
    path = field.sandbox.node_home(holder).ledger_path
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        return ledger.serialize()


def put_back(field: Field, holder: str, ledger: bytes) -> None:
    """An older ledger in the place of the newest, under a node that does not run."""
    path = field.sandbox.node_home(holder).ledger_path
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(ledger)


def roll_back(field: Field, holder: str, ledger: bytes) -> None:
    """Restart a node with an older ledger."""
    field.sandbox.processes[holder].stop()
    put_back(field, holder, ledger)
    field.restart(holder)


# --- agreements --------------------------------------------------------------------------------------------------


@contextmanager
def another_agreement(
    field: Field, merchant: str, *, signed_with: Mapping[str, Duty] | None = None, **terms: Any
) -> Iterator[Agreement]:
    """An agreement of its own for one merchant, with other terms, which the operator has passed on to every holder.

    Every officer signs it; `signed_with` names holders for whom another of their keys does.
    """
    usual = field.agreements[merchant]
    made = usual.model_copy(update={"agreement_id": free_id(), **terms})
    signatures = [field.signed(made, merchant)]
    for holder in made.holder_names:
        duty = (signed_with or {}).get(holder, Duty.OFFICER)
        key = field.sandbox.node_home(holder).duty_key(duty).signing_key
        signatures.append(sign(made, holder, key))
    for holder in HOLDERS:
        field.mallory.send(holder, Task(agreement=AgreementEvidence(signatures=signatures)))
    field.agreements[merchant] = field.by_digest[made.digest()] = made
    try:
        yield made
    finally:
        field.agreements[merchant] = usual


def free_id() -> str:
    return secrets.token_hex(16)


# --- the real coordinator ----------------------------------------------------------------------------------------


class Coordinator:
    """The real coordinator's process, on the space's database as it was before Mallory came."""

    def __init__(self, field: Field, home: Path, without: str | None) -> None:
        self.home = home
        self.address = f"127.0.0.1:{free_port()}"
        listening = field.sandbox.config.settings
        text = (home / FILE).read_text()
        for old, new in ((listening.listen, self.address), (listening.listen_enrolment, f"127.0.0.1:{free_port()}")):
            text = text.replace(f'"{old}"', f'"{new}"')
        (home / FILE).write_text(text)
        launcher = [str(WEAKENED), without, "ceiba_coordinator"] if without else []
        self.process = Process("coordinator", "ceiba_coordinator", home, field.sandbox.passphrase_file, launcher)

    def channel(self, identity: Identity) -> grpc.Channel:
        return secure_channel(self.address, identity)

    def start(self, member: Identity) -> None:
        """Return once it lets that member in. Raises NotReachable."""
        self.process.start()
        deadline = time.monotonic() + START_SECONDS
        with self.channel(member) as channel:
            while time.monotonic() < deadline:
                self.process.require_running()
                with contextlib.suppress(grpc.FutureTimeoutError):
                    grpc.channel_ready_future(channel).result(timeout=0.5)
                    return
        raise NotReachable(target="the coordinator", problem="it did not start")


@contextmanager
def coordinator(
    field: Field, without: str | None, prepare: Callable[[Path], None] = lambda _: None
) -> Iterator[Coordinator]:
    """The real coordinator beside Mallory, on a copy of its folder, which `prepare` may change before it starts."""
    with tempfile.TemporaryDirectory(prefix="ceiba-coordinator-") as folder:
        home = Path(folder) / "coordinator"
        shutil.copytree(field.sandbox.coordinator_folder, home)
        prepare(home)
        made = Coordinator(field, home, without)
        try:
            made.start(field.merchants["bank-a"])
            yield made
        finally:
            made.process.stop()
