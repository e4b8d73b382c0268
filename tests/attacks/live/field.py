"""Where the attacks take place: a live space of four hospitals, whose operator and whose merchant have turned bad.

The space is made honestly, with a roster and agreements that every officer has signed. Then the coordinator's process
ends, and Mallory takes its place with its keys. Each attack begins with the holders' folders as they were then, and
with nodes of the build that it needs.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import phe

from ceiba.sql import parse
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_node.contracts import Contracts
from ceiba_node.ledger import Ledger
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import error_from
from ceiba_protocol.plan import Plan
from ceiba_protocol.rounds import Question, make_manifest, read_manifest
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.secure_sum import coordinator_multiply, merchant_open
from ceiba_protocol.trust.agreement import Agreement, Contract
from ceiba_protocol.trust.documents import Manifest, NoiseTerms, Offer, Refusal
from ceiba_protocol.trust.identity import Duty, Identity
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.roster import Role, Roster, approval_of
from ceiba_protocol.trust.sealing import PASSPHRASE_FILE
from ceiba_protocol.trust.signing import pre_authentication_encoding, sign
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from ceiba_protocol.v1.work_pb2 import ApproveTask, ContributeTask, ForgetTask, GateTask, RosterTask, Task
from ceiba_scenarios import Sandbox
from tests.attacks.live import visits
from tests.attacks.live.mallory import ANSWER_SECONDS, Mallory, Reply
from tests.attacks.live.visits import VISITS
from tests.support.clock import seconds_now

HOLDERS = ("dresden", "hungary", "leipzig", "zurich")
VICTIM = "zurich"
MERCHANTS = ("bank-a", "bank-b")
"""Two organisations that collude with each other and with the operator."""
TABLE = "health.stays"
SCHEMA = Schema.from_plain(
    {
        "table": TABLE,
        "columns": [
            {"name": "days", "type": "int", "minimum": 0, "maximum": 365, "nullable": False, "grade": "public"},
            {"name": "ward", "type": "category", "domain": ["icu", "surgery"], "nullable": False, "grade": "public"},
        ],
    }
)
DAYS = {"dresden": [1, 2, 3], "hungary": [10, 20], "leipzig": [100], "zurich": [7, 11, 13, 17]}
"""No two holders have the same sum, and no sum of some is the sum of others."""
SECRET = sum(DAYS[VICTIM])
"""What the attackers want: the victim's own total, 48."""
SQL = f"SELECT SUM(days) AS days FROM {TABLE}"
SCHEMAS = {TABLE: SCHEMA, VISITS: visits.SCHEMA}
LOOK_SECONDS = 0.02
WEAKENED = Path(__file__).with_name("weakened.py")
Share = tuple[Signed, bytes]
"""Of a gate: its document, and its words."""


class Field:
    """The running space, and what its operator and merchant can do together."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        for merchant in MERCHANTS:
            sandbox.merchant(merchant)
        spaces = [sandbox.merchant(merchant) for merchant in MERCHANTS]
        self.merchants = {space.identity.name: space.identity for space in spaces}
        contracts = [entry.contract for space in spaces for entry in space.agreements()]
        standing = {(one.agreement.table, one.agreement.merchant.name): one.agreement for one in contracts}
        self.agreements = {merchant: standing[TABLE, merchant] for merchant in MERCHANTS}
        self.visit_agreements = {merchant: standing[VISITS, merchant] for merchant in MERCHANTS}
        self.by_digest = {contract.digest: contract.agreement for contract in contracts}
        self.roster = spaces[-1].roster
        self.number = 0
        self._builds: dict[str, str | None] = dict.fromkeys(HOLDERS, "none: it does not run yet")
        config = sandbox.config
        _at_once([sandbox.processes[holder].stop for holder in HOLDERS])
        sandbox.coordinator.stop()
        self.mallory = Mallory(sandbox.address, config.read_authority(), config.read_log_key(), config.space)
        store = Store(open_engine(config.database_url))
        self._log = store.log_entries(0, store.log_size())
        self.mallory.log = list(self._log)
        self.mallory.start()
        self._saved = sandbox.folder / "as-made"
        for holder in HOLDERS:
            self._save(holder, contracts)

    def close(self) -> None:
        self.mallory.stop()

    def _save(self, holder: str, contracts: Sequence[Contract]) -> None:
        """Keep a holder's folder for `begin`: with every signature, also one that had not reached it, and without
        prepared ciphertexts, which four nodes would compute after every start."""
        home = self.sandbox.node_home(holder)
        with contextlib.closing(home.ledger()) as ledger:
            for contract in contracts:
                Contracts(ledger, home.roster()).merge(AgreementEvidence(signatures=contract.signatures.values()))
        settings = home.folder / "node.toml"
        settings.write_text(settings.read_text().replace("prepared_ciphertexts = 256", "prepared_ciphertexts = 0"))
        shutil.copytree(home.folder, self._saved / holder)

    # --- builds

    def begin(self, without: str | None, *holders: str) -> None:
        """Everything as the field was made, and these holders, or all, as the build that lacks this check; the others
        as the shipped one. To be called first by each attack, so that none depends on those before it."""
        wanted = {holder: without if holder in (holders or HOLDERS) else None for holder in HOLDERS}
        stale = [one for one in HOLDERS if one in self.mallory.touched or self._builds[one] != wanted[one]]
        self._stop(stale)
        for holder in stale:
            home = self.sandbox.node_home(holder).folder
            shutil.rmtree(home)
            shutil.copytree(self._saved / holder, home)
        self.mallory.touched.clear()
        self.mallory.log = list(self._log)
        self.mallory.logs.clear()
        self.mallory.cosignatures.clear()
        self.mallory.shares.clear()
        self.mallory.papers.documents.clear()
        self._start({holder: wanted[holder] for holder in stale})

    def use(self, without: str | None, *holders: str) -> None:
        """Run these holders, or all, as the build that lacks this check; None is the shipped build. Waits until each
        has connected again. They keep what they know."""
        others = [holder for holder in holders or HOLDERS if self._builds[holder] != without]
        self._stop(others)
        self._start(dict.fromkeys(others, without))
        self.mallory.touched.update(others)

    def restart(self, *holders: str) -> None:
        """Stop and start them as they are."""
        self._stop(holders)
        self._start({holder: self._builds[holder] for holder in holders})
        self.mallory.touched.update(holders)

    def _stop(self, holders: Iterable[str]) -> None:
        _at_once([self.sandbox.processes[holder].stop for holder in holders])

    def _start(self, builds: Mapping[str, str | None]) -> None:
        for holder, without in builds.items():
            process = self.sandbox.processes[holder]
            process.launcher = [str(WEAKENED), without, process.module] if without else []
            self._builds[holder] = without
            while not self.mallory.pulled[holder].empty():
                self.mallory.pulled[holder].get()
            process.start()
        for holder in builds:
            self.mallory.pulled[holder].get(timeout=ANSWER_SECONDS)

    def command(self, holder: str, without: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ceiba-node ARGUMENTS` at a holder's house, as that build."""
        process = self.sandbox.processes[holder]
        program = [str(WEAKENED), without, process.module] if without else ["-m", process.module]
        self.mallory.touched.add(holder)
        return subprocess.run(
            [sys.executable, *program, *arguments, "--home", str(process.home)],
            env=os.environ | {PASSPHRASE_FILE: str(self.sandbox.passphrase_file)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    # --- what the merchant can make

    def plan(self, sql: str = SQL) -> Plan:
        return parse(sql, SCHEMAS.__getitem__)[0]

    def offers(self, table: str) -> list[Offer]:
        """What the holders have published last."""
        signed = [self.sandbox.node_home(holder).snapshots().current(table).offer for holder in HOLDERS]
        return [self.roster.open(one, Offer, Role.HOLDER) for one in signed]

    def manifest(
        self, merchant: str = "bank-a", *, sql: str = SQL, agreement: Agreement | None = None,
        noise: NoiseTerms | None = None, **changes: Any,
    ) -> Manifest:  # fmt: skip
        """An honest manifest with a new number, or with fields changed by the merchant itself, unchecked."""
        self.number += 1
        plan = self.plan(sql)
        made = make_manifest(
            job_id=secrets.token_hex(16),
            number=self.number,
            agreement=agreement or self._standing(plan.table)[merchant],
            merchant=self.merchants[merchant].descriptor,
            plan=plan,
            schema=SCHEMAS[plan.table],
            offers=self.offers(plan.table),
            now=seconds_now(),
            seconds=600,
            noise=noise,
        )
        return Manifest.model_construct(**(dict(made) | changes))

    def signed(self, document: Any, merchant: str = "bank-a") -> Signed:
        """By a merchant."""
        identity = self.merchants[merchant]
        return sign(document, identity.name, identity.signing_key)

    def sign_bytes(self, body: bytes, kind: str, signer: str, key: SigningKey) -> Signed:
        """Bytes as they are, under somebody's key."""
        name = f"ceiba.v1.{kind}"
        signature = key.sign(pre_authentication_encoding(name, body))
        return Signed(type=name, body=body, signer=signer, signature=signature)

    def ask(self, merchant: str = "bank-a", **changes: Any) -> Signed:
        """A manifest, signed."""
        return self.signed(self.manifest(merchant, **changes), merchant)

    def question(self, signed: Signed) -> Question:
        agreement = self.by_digest[json.loads(signed.body)["agreement_digest"]]
        return read_manifest(signed, agreement, self.roster, SCHEMAS[agreement.table], seconds_now())

    def _standing(self, table: str) -> dict[str, Agreement]:
        return {TABLE: self.agreements, VISITS: self.visit_agreements}[table]

    # --- further agreements

    def propose(self, merchant: str = "bank-a", table: str = TABLE, **terms: Any) -> Agreement:
        """The merchant's agreement with other terms, signed by nobody yet."""
        fresh = {"agreement_id": secrets.token_hex(16)}
        agreement = self._standing(table)[merchant].model_copy(update=fresh | terms)
        self.by_digest[agreement.digest()] = agreement
        return agreement

    def agree(
        self, merchant: str = "bank-a", to: Sequence[str] = (), table: str = TABLE, **terms: Any
    ) -> Agreement:  # fmt: skip
        """Likewise, signed by every party's right key, whatever its node would have said, and known to `to`."""
        agreement = self.propose(merchant, table, **terms)
        signed = [self.signed(agreement, merchant)]
        for holder in agreement.holder_names:
            officer = self.sandbox.node_home(holder).duty_key(Duty.OFFICER)
            signed.append(sign(agreement, holder, officer.signing_key))
        self.tell(agreement, signed, to)
        return agreement

    def tell(self, agreement: Agreement, signed: Sequence[Signed], to: Sequence[str] = ()) -> None:
        """Send an agreement's signatures to these holders, or to all its own; returns when they have them."""
        holders = to or agreement.holder_names
        for holder in holders:
            self.mallory.send(holder, Task(agreement=AgreementEvidence(signatures=signed)))
        for holder in holders:
            with contextlib.closing(self.sandbox.node_home(holder).ledger()) as ledger:
                until(partial(_knows, ledger, agreement.digest(), len(signed)))

    # --- what the operator can do

    def approve(self, holder: str, signed: Signed, attempt: int = 0) -> Reply:
        """Ask one holder to approve a manifest; its answer."""
        return self.mallory.ask(holder, self.task(signed, approve=ApproveTask(manifest=signed, attempt=attempt)))

    def approve_all(self, signed: Signed, holders: Sequence[str] = HOLDERS, attempt: int = 0) -> list[Signed]:
        """Approvals by all of them. Raises AssertionError if one refuses: the attack is not set up then."""
        task = self.task(signed, approve=ApproveTask(manifest=signed, attempt=attempt))
        replies = self.mallory.ask_all(dict.fromkeys(holders, task))
        approvals = [reply.approval for reply in replies.values() if reply.approval is not None]
        assert len(approvals) == len(holders), [said(reply) for reply in replies.values()]
        return approvals

    def share_all(
        self, signed: Signed, approvals: Sequence[Signed], holders: Sequence[str] = HOLDERS
    ) -> dict[str, Share]:
        """Ask for shares of the gate, and serve them to all holders from then on, as an honest operator does. Raises
        AssertionError if one refuses."""
        gate = GateTask(approvals=approvals, checkpoint=self.mallory.checkpoint(seconds_now()))
        replies = self.mallory.ask_all(dict.fromkeys(holders, self.task(signed, gate=gate)))
        shares = {holder: (reply.gate_share, reply.words) for holder, reply in replies.items() if reply.gate_share}
        assert len(shares) == len(holders), [said(reply) for reply in replies.values()]
        for holder in holders:
            self.serve(holder, signed, list(shares.values()))
        return shares

    def serve(self, holder: str, signed: Signed, shares: Sequence[Share]) -> None:
        """What a holder is told from now on that all have sent to a job's gate."""
        self.mallory.shares[holder, bytes.fromhex(job_id_of(signed))] = list(shares)

    def contribute(
        self, holder: str, signed: Signed, approvals: Sequence[Signed], aborts: Sequence[Signed] = (), **changes: Any
    ) -> Reply:
        """Ask one holder for its part; its answer."""
        checkpoint = changes.get("checkpoint") or self.mallory.checkpoint(seconds_now())
        contribute = ContributeTask(approvals=approvals, aborts=aborts, checkpoint=checkpoint)
        return self.mallory.ask(holder, self.task(signed, contribute=contribute))

    def contribute_all(
        self, signed: Signed, approvals: Sequence[Signed], holders: Sequence[str] = HOLDERS
    ) -> dict[str, Reply]:
        contribute = ContributeTask(approvals=approvals, checkpoint=self.mallory.checkpoint(seconds_now()))
        return self.mallory.ask_all(dict.fromkeys(holders, self.task(signed, contribute=contribute)))

    def forget(self, signed: Signed) -> None:
        for holder in HOLDERS:
            self.mallory.send(holder, self.task(signed, forget=ForgetTask()))

    def task(self, signed: Signed, **kind: Any) -> Task:
        return Task(job_id=bytes.fromhex(job_id_of(signed)), **kind)

    def hear(self, holder: str, task: Task) -> tuple[Reply | None, str]:
        """Send a task that may get no answer: the answer, or None and what the node's own log says about it."""
        log = self.sandbox.processes[holder].log_path
        seen, answers = log.stat().st_size, self.mallory.replies[holder, task.job_id]
        self.mallory.send(holder, task)
        until(lambda: not answers.empty() or _complaint(log, seen, task.job_id.hex()) is not None)
        if answers.empty():
            return None, f"{holder} answers nothing: {_complaint(log, seen, task.job_id.hex())}"
        reply = answers.get()
        return reply, said(reply)

    def hear_contribution(
        self, holder: str, signed: Signed, approvals: Sequence[Signed], checkpoint: Signed | None = None
    ) -> tuple[Reply | None, str]:
        shown = checkpoint or self.mallory.checkpoint(seconds_now())
        return self.hear(holder, self.task(signed, contribute=ContributeTask(approvals=approvals, checkpoint=shown)))

    def hear_approval(self, holder: str, signed: Signed) -> tuple[Reply | None, str]:
        return self.hear(holder, self.task(signed, approve=ApproveTask(manifest=signed)))

    def offer_roster(self, holder: str, roster: Roster, signers: Iterable[tuple[str, SigningKey]]) -> str | None:
        """Send a roster with these members' approvals: None if the node takes it up, or what its log says."""
        approvals = [sign(approval_of(roster, name), name, key) for name, key in signers]
        signed = SignedRoster(roster=roster.body(), approvals=approvals)
        log = self.sandbox.processes[holder].log_path
        seen, wanted = log.stat().st_size, bytes.fromhex(roster.digest())
        self.mallory.send(holder, Task(roster=RosterTask(roster=signed)))
        until(lambda: self.mallory.rosters[holder] == wanted or _complaint(log, seen, "") is not None)
        return None if self.mallory.rosters[holder] == wanted else _complaint(log, seen, "")

    def holder(self, name: str) -> Identity:
        """A holder's keys, for attacks in which it is corrupt."""
        return self.sandbox.node_home(name).identity()

    def total(
        self, replies: Mapping[str, Reply], question: Question, key: phe.PaillierPrivateKey | None = None
    ) -> list[int] | None:
        """The sums that operator and merchant can open from these answers; None if anybody refused."""
        if any(reply.submission is None for reply in replies.values()):
            return None
        contributions = {holder: reply.ciphertexts for holder, reply in replies.items()}
        layout = question.layout_for(sorted(contributions))
        encryption = self.merchants[question.merchant.name].encryption
        assert encryption is not None
        private_key = key or encryption.keypair[1]
        product = coordinator_multiply(contributions, layout, private_key.public_key.n)
        return merchant_open(product, contributions, layout, private_key)

    def answer(self, signed: Signed, holders: Sequence[str] = HOLDERS) -> list[int] | None:
        """A whole job with these holders, honest or not: the sums, cell by cell; a withheld one is 0."""
        approvals, question = self.approve_all(signed, holders), self.question(signed)
        if question.gate(len(holders)) is not None:
            self.share_all(signed, approvals, holders)
        return self.total(self.contribute_all(signed, approvals, holders), question)


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that a node does. Raises AssertionError if it does not: the attack is not set up then."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "a node did not do what was waited for"
        time.sleep(LOOK_SECONDS)


def _knows(ledger: Ledger, digest: Digest, signatures: int) -> bool:
    """Whether a running node has written down so many signatures of an agreement."""
    return len(ledger.evidence(digest).signatures) >= signatures


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(max_workers=len(HOLDERS)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def _complaint(log: Path, seen: int, job_id: str) -> str | None:
    """What a node has logged since about a task that it does not answer: the error's public text."""
    with log.open("rb") as file:
        file.seek(seen)
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    for line in lines:
        entry = json.loads(line)
        if entry["event"] == "roster.not_taken_up" and not job_id:
            return "Too few of the pinned roster's signers have approved it."
        if entry["event"] in ("task.failed", "task.not_answered") and entry.get("job", "") == job_id:
            return error_from(entry.get("code", entry.get("exception")), entry.get("fields", {})).public
    return None


def job_id_of(signed: Signed) -> str:
    return str(json.loads(signed.body)["job_id"])


def said(reply: Reply) -> str:
    """What a refusal says, for the report."""
    if reply.refusal is None:
        return "an answer"
    refusal = Refusal.parse(reply.refusal.body)
    return f"{refusal.holder}: {error_from(refusal.code, dict(refusal.fields)).public}"


@contextmanager
def open_field(folder: Path) -> Iterator[Field]:
    """A field of its own, in this folder."""
    frames = {
        name: {TABLE: pandas.DataFrame({"days": days, "ward": "icu"}), VISITS: visits.frame(visits.rows_of(name))}
        for name, days in DAYS.items()
    }
    with Sandbox(frames, schemas=SCHEMAS, folder=folder / "space") as sandbox:
        field = Field(sandbox)
        try:
            yield field
        finally:
            field.close()
