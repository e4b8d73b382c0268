"""A whole space on one machine: real processes, real mutual TLS on loopback, a folder and keys for each member."""

import contextlib
import os
import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from ceiba.agreements import AgreementHandle
from ceiba.home import Home as MerchantHome
from ceiba.space import Space, connect
from ceiba_coordinator.folder import make_folder
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.server import open_membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_node.cli.book import accounts_of, ledger_text
from ceiba_node.cli.common import desk
from ceiba_node.cli.joining import make_duties, take_confirmed
from ceiba_node.config import Home as NodeHome
from ceiba_node.contracts import Contracts
from ceiba_node.drafts import Seal
from ceiba_node.ledger import Ledger
from ceiba_node.policy import Decision, check_signing
from ceiba_node.publishing import PublishReport, publish
from ceiba_node.withdrawals import WithdrawalReport, withdraw
from ceiba_protocol.errors import BadSource, NotReachable, NotWaiting, UnknownAgreement, UnknownTable
from ceiba_protocol.joining import check_pin, fetch_roster, join
from ceiba_protocol.schema import Grade, Schema, nearest
from ceiba_protocol.trust.agreement import FEWEST_SUMMED, Contract
from ceiba_protocol.trust.identity import Duty, JoinToken
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.wire import enrolment_channel
from ceiba_scenarios.deriving import Derived, derive
from ceiba_scenarios.processes import Process, free_port

START_SECONDS = 60.0
CHECK_SECONDS = 0.05
_WIDEST_TERMS: dict[str, Any] = {"purpose": "sandbox", "jobs": 1_000_000, "days": 365}
_WIDEST_JOINT_TERMS = _WIDEST_TERMS | {"base_is_trusted": True, "smallest_intersection": 1}
"""So that a test or a tester's script need not think of agreements before it wants to."""


class Sandbox:
    """A space for tests, stories and a tester's own script.

    >>> with Sandbox({"a": {"t": "a.csv"}, "b": {"t": "b.csv"}, "c": {"t": "c.parquet"}}) as lab:
    ...     lab.merchant("bank-a").sql("SELECT COUNT(*) FROM t").run().value

    Each holder publishes its own file, or data frame, for each of its tables. Where `schemas` has none for a table,
    one is derived from all its files, which no real space could do. At least three holders a table, or two tables that
    are joined.
    """

    def __init__(
        self,
        holders: Mapping[str, Mapping[str, Any]],
        *,
        schemas: Mapping[str, Schema | Mapping[str, Any] | str | Path] | None = None,
        folder: Path | None = None,
        space: str = "sandbox",
        launcher: Mapping[str, list[str]] | None = None,
        grade: Grade | str = Grade.INTERNAL,
    ) -> None:
        """`folder` keeps everything afterwards; without it a temporary one is removed. `grade` is that of every column
        of a derived schema: with "public" nothing is withheld. `launcher` is for tests."""
        self._temporary = None if folder else tempfile.mkdtemp(prefix="ceiba-")
        self.folder = Path(folder or self._temporary or "")
        self._space = space
        self._holders = {name: dict(tables) for name, tables in holders.items()}
        self._declared = {table: _read_schema(schema) for table, schema in (schemas or {}).items()}
        self._launcher = launcher
        self._grade = Grade(grade)
        self._merchants: dict[str, Space] = {}
        self._homes: dict[Path, NodeHome | MerchantHome] = {}
        self.reports: dict[tuple[str, str], PublishReport] = {}
        """What publishing counted, by holder and table."""
        self.processes: dict[str, Process] = {}

    # --- the whole

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make every member, publish, and start the processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.passphrase = secrets.token_hex(16).encode()
        self.passphrase_file.touch(mode=0o600)
        self.passphrase_file.write_bytes(self.passphrase)
        self._start_coordinator()
        for name in self._holders:
            self._join_holder(name)
        self._tables = self._read_tables()
        self._pin_first_roster()
        for name, tables in self._holders.items():
            for table in tables:
                self.publish(name, table)
        for name in self._holders:
            self.processes[name].start()

    def stop(self) -> None:
        """Stop every process; remove the folder if it was temporary."""
        for space in self._merchants.values():
            space.close()
        for process in reversed(self.processes.values()):  # the coordinator last: it waits for holders' streams
            process.stop()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # --- members

    def merchant(self, name: str, *, agreed: bool = True) -> Space:
        """A connected merchant of that name. The first time it joins, every holder approves the roster that lists it,
        and (`agreed`) signs a standing agreement for every table of at least three holders, with all columns and
        operations and the whole set; `agree_jointly` is for those that fewer have."""
        if name not in self._merchants:
            home = self.merchant_home(name)
            identity = join(self._invite(name, Role.MERCHANT), None, home.save_identity, os.urandom)
            roster = self._propose_roster()
            home.pin(check_pin(identity, fetch_roster(identity).roster, roster.fingerprint, None))
            for holder in self._holders:
                self._confirm(holder, roster)
            self._merchants[name] = connect(identity=home.folder, passphrase=self.passphrase)
            self._wait_for_offers(self._merchants[name])
            for table in self._summed_tables() if agreed else ():
                self.agree(self._merchants[name], table)
        return self._merchants[name]

    def agree(self, space: Space, table: str, **terms: Any) -> AgreementHandle:
        """A merchant's proposal, signed by every holder's officer. `terms` as for `space.agreements.propose`."""
        return self._signed_by_all(space.agreements.propose(table, **(_WIDEST_TERMS | terms)))

    def agree_jointly(
        self, space: Space, tables: Sequence[str] | Mapping[str, Sequence[str] | None], **terms: Any
    ) -> AgreementHandle:
        """The same for tables of different holders about the same subjects. Whoever is the base is believed; any of
        them may be, unless `terms` name `bases`. `terms` as for `space.agreements.propose_joint`."""
        return self._signed_by_all(space.agreements.propose_joint(tables, **(_WIDEST_JOINT_TERMS | terms)))

    def _signed_by_all(self, proposal: AgreementHandle) -> AgreementHandle:
        for holder in proposal.contract.agreement.holder_names:
            self.sign_agreement(holder, proposal.id)
        return proposal.wait(START_SECONDS)

    def _summed_tables(self) -> list[str]:
        """Those of enough holders that their sums may be asked for."""
        return [table for table in self._tables if self._is_summed(table)]

    def _is_summed(self, table: str) -> bool:
        return sum(table in own for own in self._holders.values()) >= FEWEST_SUMMED

    def sign_agreement(self, holder: str, agreement_id: str) -> None:
        """What `ceiba-node agreements sign` does, once the running node has heard of the proposal.

        Raises what `check_signing` does, and UnknownAgreement if the node does not hear of it.
        """
        home, now = self.node_home(holder), int(time.time())
        with contextlib.closing(home.ledger()) as ledger:
            contract = self._until_known(home, ledger, agreement_id)
            terms, roster = contract.agreement, home.roster()
            others, schema = Contracts(ledger, roster).all(), self._tables[terms.side_of(holder).table].schema
            check_signing(terms, others, schema, roster, home.policy(), holder, now)
            signed = sign(terms, holder, home.duty_key(Duty.OFFICER).signing_key)
            ledger.record_signature(contract.digest, signed, now)

    def decide(self, holder: str, job_id: str, *, approved: bool = True, reason: str = "") -> None:
        """What `ceiba-node approvals approve` or `refuse` does, once the job waits for a person there."""
        deadline = time.monotonic() + START_SECONDS
        with contextlib.closing(self.node_home(holder).ledger()) as ledger:
            while True:
                try:
                    return ledger.decide(bytes.fromhex(job_id), Decision(approved, reason), "", int(time.time()))
                except NotWaiting:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(CHECK_SECONDS)

    def ledger(self, holder: str) -> str:
        """What `ceiba-node ledger` prints there."""
        with desk(self.node_home(holder).folder, self.passphrase) as here:
            return ledger_text(here.ledger.entries(), accounts_of(here))

    def _until_known(self, home: NodeHome, ledger: Ledger, agreement_id: str) -> Contract:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(UnknownAgreement):
                return Contracts(ledger, home.roster()).find(agreement_id)
            time.sleep(CHECK_SECONDS)
        raise UnknownAgreement(agreement=agreement_id)

    def merchant_home(self, name: str) -> MerchantHome:
        folder = self.folder / "merchants" / name
        home = self._homes.setdefault(folder, MerchantHome(folder, self.passphrase))
        assert isinstance(home, MerchantHome)
        return home

    def node_home(self, name: str) -> NodeHome:
        folder = self.folder / "holders" / name
        home = self._homes.setdefault(folder, NodeHome(folder, self.passphrase))
        assert isinstance(home, NodeHome)
        return home

    @property
    def passphrase_file(self) -> Path:
        """Opens every member's keys in this sandbox; in a real space each has its own passphrase."""
        return self.folder / "passphrase"

    @property
    def coordinator(self) -> Process:
        return self.processes["coordinator"]

    @property
    def coordinator_folder(self) -> Path:
        return self.folder / "coordinator"

    def publish(self, holder: str, table: str, source: Any = None) -> PublishReport:
        """Publish a holder's file again, or another file or data frame; the running node offers it by itself."""
        home, derived = self.node_home(holder), self._tables[table]
        path = self._as_file(holder, table, self._holders[holder][table] if source is None else source)
        report = publish(
            home.snapshots(),
            path,
            derived.schema,
            source_columns=derived.source_columns,
            now=datetime.now(UTC),
            version_key=home.identity().version_key,
            publisher=home.duty_key(Duty.PUBLISHER).signing_key,
        )
        self.reports[holder, table] = report
        return report

    def withdraw(self, holder: str, table: str, identifiers: Iterable[str]) -> WithdrawalReport:
        """What `ceiba-node withdraw` does; the running node offers the version without them by itself."""
        home = self.node_home(holder)
        publisher = home.duty_key(Duty.PUBLISHER).signing_key
        seal = Seal(datetime.now(UTC), home.identity().version_key, publisher)
        return withdraw(home.snapshots(), table, identifiers, seal)

    # --- the coordinator

    def _start_coordinator(self) -> None:
        home = self.coordinator_folder
        port, enrolment = free_port(), free_port()
        self.address, self._enrolment = f"127.0.0.1:{port}", f"127.0.0.1:{enrolment}"
        self.config = make_folder(
            home,
            self._space,
            address=self.address,
            enrolment=self._enrolment,
            listen="127.0.0.1",
            passphrase=self.passphrase,
        )
        self.processes["coordinator"] = self._process("coordinator", "ceiba_coordinator", home)
        self.coordinator.start()
        self.wait_for_coordinator()

    def wait_for_coordinator(self) -> None:
        """Return once it accepts connections. Raises NotReachable if its process ends, or takes too long."""
        authority = self.config.read_authority().certificate
        deadline = time.monotonic() + START_SECONDS
        with enrolment_channel(self._enrolment, authority.decode()) as channel:
            while time.monotonic() < deadline:
                self.coordinator.require_running()
                with contextlib.suppress(grpc.FutureTimeoutError):
                    grpc.channel_ready_future(channel).result(timeout=0.5)
                    return
        raise NotReachable(target="the coordinator", problem=f"it did not start in {START_SECONDS:.0f} s")

    def _membership(self) -> Membership:
        return open_membership(self.config, Store(open_engine(self.config.database_url)))

    def _invite(self, name: str, role: Role) -> JoinToken:
        return self._membership().invite(
            name, role, name, address=self.address, enrolment=self._enrolment, random=os.urandom
        )

    def _process(self, name: str, module: str, home: Path) -> Process:
        return Process(name, module, home, self.passphrase_file, (self._launcher or {}).get(name, ()))

    # --- holders

    def _join_holder(self, name: str) -> None:
        home = NodeHome.make(self.node_home(name).folder, self.passphrase)
        if not any(self._is_summed(table) for table in self._holders[name]):
            _prepare_no_sums(home)
        token = self._invite(name, Role.HOLDER)
        join(token, None, home.save_identity, os.urandom, make_duties(home))
        self.processes[name] = self._process(name, "ceiba_node", home.folder)

    def _read_tables(self) -> dict[str, Derived]:
        """Every table's schema, declared or derived. Raises UnknownTable for a schema of no table."""
        names = sorted({table for tables in self._holders.values() for table in tables})
        for table in self._declared:
            if table not in names:
                raise UnknownTable(table=table, nearest=nearest(table, names))
        return {table: self._derived(table) for table in names}

    def _derived(self, table: str) -> Derived:
        if table in self._declared:
            return Derived(self._declared[table], {})
        files = [
            self._as_file(holder, table, tables[table]) for holder, tables in self._holders.items() if table in tables
        ]
        return derive(table, files, self._grade)

    def _as_file(self, holder: str, table: str, source: Any) -> Path:
        """The source as a file; a data frame is written to Parquet in the holder's folder."""
        if isinstance(source, str | Path):
            if not Path(source).is_file():
                raise BadSource(source=source, problem="there is no such file")
            return Path(source)
        return _write_parquet(source, self.node_home(holder).folder / f"{table}.parquet")

    # --- the roster

    def _propose_roster(self) -> Roster:
        tables = [
            (derived.schema, sorted(name for name, own in self._holders.items() if table in own))
            for table, derived in self._tables.items()
        ]
        return self._membership().propose_roster(tables)

    def _pin_first_roster(self) -> None:
        """Pinned and approved by every holder: in the sandbox one process stands for all the telephone calls."""
        roster = self._propose_roster()
        for name in self._holders:
            self._confirm(name, roster)

    def _confirm(self, holder: str, roster: Roster) -> None:
        """What `ceiba-node pin` does once the words were compared."""
        home = self.node_home(holder)
        received = fetch_roster(home.identity())
        confirmed = check_pin(home.identity(), received.roster, roster.fingerprint, home.pinned_roster())
        take_confirmed(home, received, confirmed)

    def _wait_for_offers(self, space: Space) -> None:
        """Return once every holder has offered its tables: the first question must not meet a half-open space."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for process in self.processes.values():
                process.require_running()
            if all(len(entry.offers({})) == len(entry.pinned.holders) for entry in space.catalogue()):
                return
            time.sleep(CHECK_SECONDS)
        raise NotReachable(target="a holder", problem=f"it did not offer its tables in {START_SECONDS:.0f} s")


def _prepare_no_sums(home: NodeHome) -> None:
    """What a node prepares for each merchant are seconds of work, and of use to sums alone."""
    path = home.folder / "node.toml"
    path.write_text(path.read_text().replace("prepared_ciphertexts = 256", "prepared_ciphertexts = 0"))


def _read_schema(schema: Schema | Mapping[str, Any] | str | Path) -> Schema:
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, Mapping):
        return Schema.from_plain(schema)
    return Schema.from_plain(tomllib.loads(Path(schema).read_text()))


def _write_parquet(frame: Any, path: Path) -> Path:
    """A pandas data frame as Parquet."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.table("frame").write_parquet(str(path))
    return path
