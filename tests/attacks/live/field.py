"""Where the attacks take place: a live space of four hospitals, whose operator and whose merchant have turned bad.

The space is made honestly, with a roster and an agreement that every officer has signed. Then the coordinator's process
ends, and Mallory takes its place with its keys. Between attacks nodes are restarted as the build that an attack needs.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas

from ceiba.sql import parse
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.errors import error_from
from ceiba_protocol.plan import Plan
from ceiba_protocol.rounds import Question, make_manifest, read_manifest
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.secure_sum import coordinator_multiply, merchant_open
from ceiba_protocol.trust.documents import Manifest, Refusal
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import ApproveTask, ContributeTask, ForgetTask, Task
from ceiba_scenarios import Sandbox
from tests.attacks.live.mallory import ANSWER_SECONDS, Mallory, Reply
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
            {"name": "days", "type": "int", "minimum": 0, "maximum": 365, "nullable": False},
            {"name": "ward", "type": "category", "domain": ["icu", "surgery"], "nullable": False},
        ],
    }
)
DAYS = {"dresden": [1, 2, 3], "hungary": [10, 20], "leipzig": [100], "zurich": [7, 11, 13, 17]}
"""No two holders have the same sum, and no sum of some is the sum of others."""
SECRET = sum(DAYS[VICTIM])
"""What the attackers want: the victim's own total, 48."""
SQL = f"SELECT SUM(days) AS days FROM {TABLE}"
WEAKENED = Path(__file__).with_name("weakened.py")


class Field:
    """The running space, and what its operator and merchant can do together."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        for merchant in MERCHANTS:
            sandbox.merchant(merchant)
        spaces = [sandbox.merchant(merchant) for merchant in MERCHANTS]
        self.merchants = {space.identity.name: space.identity for space in spaces}
        self.agreements = {
            space.identity.name: entry.contract.agreement for space in spaces for entry in space.agreements()
        }
        self.roster = spaces[-1].roster
        (entry,) = spaces[-1].catalogue()
        self.offers = list(entry.offers({}).values())
        self.number = 0
        self._builds: dict[str, str | None] = dict.fromkeys(HOLDERS)
        config = sandbox.config
        sandbox.coordinator.stop()
        self.mallory = Mallory(sandbox.address, config.read_authority(), config.read_log_key(), config.space)
        store = Store(open_engine(config.database_url))
        self.mallory.log = store.log_entries(0, store.log_size())
        self.mallory.start()

    def close(self) -> None:
        self.mallory.stop()

    # --- builds

    def use(self, without: str | None, *holders: str) -> None:
        """Run these holders, or all, as the build that lacks this check; None is the shipped build. Waits until each
        has connected again."""
        others = [holder for holder in holders or HOLDERS if self._builds[holder] != without]
        for holder in others:
            process = self.sandbox.processes[holder]
            process.launcher = [str(WEAKENED), without, process.module] if without else []
            self._builds[holder] = without
        self.restart(*others)

    def restart(self, *holders: str) -> None:
        """Stop and start them as they are."""
        for holder in holders:
            self.sandbox.processes[holder].stop()
            while not self.mallory.pulled[holder].empty():
                self.mallory.pulled[holder].get()
        for holder in holders:
            self.sandbox.processes[holder].start()
        for holder in holders:
            self.mallory.pulled[holder].get(timeout=ANSWER_SECONDS)

    # --- what the merchant can make

    def plan(self, sql: str = SQL) -> Plan:
        return parse(sql, lambda _: SCHEMA)[0]

    def manifest(self, merchant: str = "bank-a", *, sql: str = SQL, **changes: Any) -> Manifest:
        """An honest manifest with a new number, or with fields changed by the merchant itself, unchecked."""
        self.number += 1
        made = make_manifest(
            job_id=secrets.token_hex(16),
            number=self.number,
            agreement=self.agreements[merchant],
            merchant=self.merchants[merchant].descriptor,
            plan=self.plan(sql),
            schema=SCHEMA,
            offers=self.offers,
            now=seconds_now(),
            seconds=600,
        )
        return Manifest.model_construct(**(dict(made) | changes))

    def signed(self, document: Any, merchant: str = "bank-a") -> Signed:
        """By a merchant."""
        identity = self.merchants[merchant]
        return sign(document, identity.name, identity.signing_key)

    def ask(self, merchant: str = "bank-a", **changes: Any) -> Signed:
        """A manifest, signed."""
        return self.signed(self.manifest(merchant, **changes), merchant)

    def question(self, signed: Signed) -> Question:
        return read_manifest(signed, self.agreements[signed.signer], self.roster, SCHEMA, seconds_now())

    # --- what the operator can do

    def approve(self, holder: str, signed: Signed, attempt: int = 0) -> Reply:
        """Ask one holder to approve a manifest; its answer."""
        return self.mallory.ask(holder, self.task(signed, approve=ApproveTask(manifest=signed, attempt=attempt)))

    def approve_all(self, signed: Signed, holders: Sequence[str] = HOLDERS, attempt: int = 0) -> list[Signed]:
        """Approvals by all of them. Raises AssertionError if one refuses: the attack is not set up then."""
        approvals = [self.approve(holder, signed, attempt).approval for holder in holders]
        assert all(approval is not None for approval in approvals)
        return [approval for approval in approvals if approval is not None]

    def contribute(
        self, holder: str, signed: Signed, approvals: Sequence[Signed], aborts: Sequence[Signed] = (), **changes: Any
    ) -> Reply:
        """Ask one holder for its part; its answer."""
        checkpoint = changes.get("checkpoint") or self.mallory.checkpoint(seconds_now())
        contribute = ContributeTask(approvals=approvals, aborts=aborts, checkpoint=checkpoint)
        return self.mallory.ask(holder, self.task(signed, contribute=contribute))

    def forget(self, signed: Signed) -> None:
        for holder in HOLDERS:
            self.mallory.send(holder, self.task(signed, forget=ForgetTask()))

    def task(self, signed: Signed, **kind: Any) -> Task:
        return Task(job_id=bytes.fromhex(job_id_of(signed)), **kind)

    def total(self, replies: Mapping[str, Reply], question: Question) -> list[int] | None:
        """The sums that operator and merchant can open from these answers; None if anybody refused."""
        if any(reply.submission is None for reply in replies.values()):
            return None
        contributions = {holder: reply.ciphertexts for holder, reply in replies.items()}
        layout = question.layout_for(sorted(contributions))
        product = coordinator_multiply(contributions, layout, question.modulus)
        encryption = self.merchants[question.merchant.name].encryption
        assert encryption is not None
        return merchant_open(product, contributions, layout, encryption.keypair[1])

    def answer(self, signed: Signed, holders: Sequence[str] = HOLDERS, **more: Any) -> list[int] | None:
        """A whole job with these holders, honest or not."""
        approvals = self.approve_all(signed, holders)
        replies = {holder: self.contribute(holder, signed, approvals, **more) for holder in holders}
        return self.total(replies, self.question(signed))


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
    frames = {name: {TABLE: pandas.DataFrame({"days": days, "ward": "icu"})} for name, days in DAYS.items()}
    with Sandbox(frames, schemas={TABLE: SCHEMA}, folder=folder / "space") as sandbox:
        field = Field(sandbox)
        try:
            yield field
        finally:
            field.close()
