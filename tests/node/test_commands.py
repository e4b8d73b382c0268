"""ceiba-node's commands on a folder, with no coordinator: keys, what the officer signs, decisions and stops."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from ceiba_node import cli
from ceiba_node.cli.joining import make_duties
from ceiba_node.config import Home
from ceiba_node.contracts import Contracts
from ceiba_node.ledger import Waiting
from ceiba_node.policy import StopKind
from ceiba_protocol.errors import BadIdentity, BadPassphrase, CeibaError, WrongKey
from ceiba_protocol.joining import ROSTER_FILE
from ceiba_protocol.trust.agreement import State
from ceiba_protocol.trust.identity import Duty, Identity
from ceiba_protocol.trust.roster import Duties
from ceiba_protocol.trust.sealing import is_sealed
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from tests.support.members import HOLDERS, MERCHANT, NOW, World, changed, holder, signed_by
from tests.support.one_node import ME
from tests.support.seeded import seeded

PASSPHRASE = "correct horse"
SCHEMA_TOML = """
table = "health.heart"
[[columns]]
name = "sex"
type = "category"
domain = ["female", "male"]
nullable = false
[[columns]]
name = "age"
type = "int"
minimum = 0
maximum = 120
[[columns]]
name = "chol"
type = "decimal"
resolution = 0.1
minimum = -20
maximum = 60
out_of_bounds = "clip"
"""


class House:
    """A node's folder with its keys and a pinned roster, and its command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CEIBA_PASSPHRASE", PASSPHRASE)
        monkeypatch.setattr("ceiba_node.cli.common.time.time", lambda: NOW)
        self.home = Home.make(folder / "node")
        self.duties = make_duties(self.home)
        self.world = World()
        mine = holder(ME, duties=self.duties)
        members = tuple(mine if one.name == ME else one for one in self.world.roster.members)
        self.world.roster = self.world.make_roster(members)
        self.world.agreement = self.world.make_agreement()
        self.home.save_identity(
            Identity(
                space="test-space",
                descriptor=mine,
                coordinator="127.0.0.1:1",
                signing_seed=seeded(f"signing key of {ME}")(32).hex(),
                sealing_seed=seeded("sealing")(32).hex(),
                storage_key=seeded("storage")(32).hex(),
                tls_key="",
                certificate="some",
                authority="",
                encryption=None,
            )
        )
        self.home.pin(self.world.roster)
        self.schema = folder / "heart.toml"
        self.schema.write_text(SCHEMA_TOML)

    def learn(self, *signers: str) -> None:
        signatures = [signed_by(name, self.world.agreement) for name in signers]
        ledger = self.home.ledger()
        Contracts(ledger, self.world.roster).merge(AgreementEvidence(signatures=signatures))
        ledger.close()

    def run(self, *words: str) -> str:
        """What a command prints. A CeibaError passes through."""
        result = CliRunner().invoke(cli.app, [*words, "--home", str(self.home.folder)])
        if isinstance(result.exception, CeibaError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def state(self) -> State:
        ledger = self.home.ledger()
        try:
            return Contracts(ledger, self.world.roster).get(self.world.agreement.digest()).state(NOW)
        finally:
            ledger.close()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


# --- keys --------------------------------------------------------------------------------------------------------


def test_every_key_in_the_folder_is_sealed_and_its_owners_alone(house: House) -> None:
    for name in ("identity.json", "officer.key", "publisher.key"):
        path = house.home.folder / name
        assert is_sealed(path.read_bytes()) and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadPassphrase):
        Home(house.home.folder, b"another").identity()


def test_the_identity_is_opened_once_and_again_when_it_has_changed(house: House) -> None:
    first = house.home.identity()
    assert house.home.identity() is first
    house.home.save_identity(first.model_copy(update={"certificate": "another"}))
    assert house.home.identity().certificate == "another"


def test_no_duty_is_done_with_another_ones_key(house: House, tmp_path: Path) -> None:
    with pytest.raises(WrongKey):
        house.home.duty_key(Duty.OFFICER, house.home.duty_path(Duty.PUBLISHER))
    public = json.loads(
        CliRunner().invoke(cli.app, ["key", "officer", "--out", str(tmp_path / "other.key"), "--json"]).stdout
    )["public"]
    assert public != house.duties.officer
    with pytest.raises(WrongKey):
        house.home.duty_key(Duty.OFFICER, tmp_path / "other.key")
    with pytest.raises(BadIdentity):
        house.home.duty_key(Duty.OFFICER, tmp_path / "nothing.key")


def test_a_key_made_elsewhere_is_certified_and_stays_there(house: House, tmp_path: Path) -> None:
    made = CliRunner().invoke(cli.app, ["key", "officer", "--out", str(tmp_path / "usb.key"), "--json"])
    public = json.loads(made.stdout)["public"]
    elsewhere = Home.make(tmp_path / "second")
    assert make_duties(elsewhere, public) == Duties(officer=public, publisher=make_duties(elsewhere, public).publisher)
    assert not elsewhere.duty_path(Duty.OFFICER).exists() and elsewhere.duty_path(Duty.PUBLISHER).exists()


# --- agreements --------------------------------------------------------------------------------------------------


def test_the_officer_reads_and_signs_and_the_state_follows(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    assert house.state() is State.PROPOSED
    text = house.run("agreements", "show", "0a0a")
    for fact in ("research", MERCHANT, *HOLDERS, "health.heart", "100 at most", "not protect", "not enforced"):
        assert fact in text
    signed = house.json("agreements", "sign", "0a0a", "--yes", "--schema", str(house.schema))
    assert (signed["state"], signed["missing"]) == ("active", [])
    assert house.state() is State.ACTIVE
    (listed,) = house.json("agreements", "list")["agreements"]
    assert listed["signed_here"] and "active" in house.run("agreements", "list")


def test_nothing_is_signed_with_the_publishers_key(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    key = str(house.home.duty_path(Duty.PUBLISHER))
    with pytest.raises(WrongKey):
        house.run("agreements", "sign", "0a", "--yes", "--schema", str(house.schema), "--key", key)
    with pytest.raises(WrongKey):
        house.run("agreements", "refuse", "0a", "--reason", "no", "--key", key)
    assert house.state() is State.PROPOSED


def test_without_a_yes_nothing_is_signed(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    words = ["agreements", "sign", "0a", "--schema", str(house.schema), "--home", str(house.home.folder)]
    result = CliRunner().invoke(cli.app, words, input="n\n")
    assert result.exit_code == 1 and "research" in result.output
    assert house.state() is State.PROPOSED


def test_refuse_suspend_resume_terminate(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    house.run("agreements", "sign", "0a", "--yes", "--schema", str(house.schema))
    for word, state in (("suspend", State.SUSPENDED), ("resume", State.ACTIVE), ("terminate", State.TERMINATED)):
        house.run("agreements", word, "0a", "--reason", "a test")
        assert house.state() is state
    with pytest.raises(CeibaError, match="terminated"):
        house.run("agreements", "resume", "0a")
    ledger = house.home.ledger()
    assert len(ledger.to_upload()) == 4  # the signature and three notices, for the running node
    ledger.close()


def test_a_refusal_ends_a_proposal(house: House) -> None:
    house.learn(MERCHANT)
    house.run("agreements", "refuse", "0a", "--reason", "too wide")
    assert house.state() is State.REFUSED


# --- decisions and stops -----------------------------------------------------------------------------------------


def test_an_inbox_is_read_and_decided(house: House) -> None:
    ledger = house.home.ledger()
    ledger.add_waiting(Waiting(bytes.fromhex(house.world.job_id), 0, house.world.signed_manifest(), NOW, NOW + 60))
    ledger.close()
    (waiting,) = house.json("approvals", "list")["waiting"]
    assert (waiting["merchant"], waiting["purpose"], waiting["columns"]) == (
        MERCHANT,
        "research",
        ["age", "chol", "sex"],
    )
    assert "group by" in house.run("approvals", "show", "0b")
    assert house.json("status")["waiting"] == 1
    house.run("approvals", "refuse", "0b", "--reason", "outside the study", "--private", "third time")
    assert house.run("approvals", "list").strip() == "Nothing waits."
    with pytest.raises(CeibaError, match="No job"):
        house.run("approvals", "approve", "0b")


def test_stops_are_kept_told_and_ended(house: House) -> None:
    house.learn(MERCHANT)
    house.run("stop", "all", "--reason", "an audit")
    house.run("stop", "merchant", MERCHANT)
    house.run("stop", "agreement", "0a")
    stops = house.json("status")["stops"]
    assert {"kind": "all", "name": "", "reason": "an audit"} in stops and len(stops) == 3
    assert house.json("resume", "all")["was_stopped"] and not house.json("resume", "all")["was_stopped"]
    ledger = house.home.ledger()
    assert {one.kind for one in ledger.stops()} == {StopKind.MERCHANT, StopKind.AGREEMENT}
    ledger.close()


@pytest.mark.parametrize(
    "words", [("dataset", "health.hart"), ("merchant", "bank-z"), ("agreement", "ff"), ("all", "x"), ("dataset",)]
)
def test_a_stop_with_a_slip_of_the_pen_says_so(house: House, words: tuple[str, ...]) -> None:
    with pytest.raises(CeibaError):
        house.run("stop", *words)
    assert house.json("status")["stops"] == []


def test_status_tells_what_a_person_needs(house: House) -> None:
    house.learn(MERCHANT)
    facts = house.json("status")
    assert (facts["agreements"], facts["witnessed"], facts["fault"]) == ({"proposed": 1}, 0, None)
    assert facts["roster"] == house.world.roster.fingerprint and facts["words"]
    assert "1 proposed" in house.run("status")


# --- a later roster ----------------------------------------------------------------------------------------------


def later(house: House) -> str:
    """A next roster, in a file; its words. Without merchants, whose keys here are too short to be pinned."""
    holders = tuple(one for one in house.world.roster.members if one.name in HOLDERS)
    house.home.pin(changed(house.world.roster, members=holders))
    identity = house.home.identity()
    following = changed(house.world.roster, members=holders, version=2)
    (house.home.folder / "next.json").write_bytes(following.body())
    assert identity.descriptor in following.members
    return following.fingerprint


def test_a_proposed_roster_is_approved_and_the_old_one_used_until_it_is_in_force(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Identity, "authority_fingerprint", "0" * 64)
    monkeypatch.setattr("ceiba_node.cli.joining.secure_channel", lambda target, _: grpc.insecure_channel(target))
    words = later(house)
    file = str(house.home.folder / "next.json")
    told = house.json("pin", "--fingerprint", words, "--file", file)
    assert told == {"version": 2, "pinned": False, "signs": True, "sent": False}
    assert house.home.roster().version == 1
    ledger = house.home.ledger()
    assert [one.type for one in ledger.to_upload()] == ["ceiba.v1.RosterApproval"]
    ledger.close()
    assert house.json("pin", "--fingerprint", words, "--file", file, "--at-once")["pinned"]
    assert house.home.roster().version == 2 and (house.home.folder / ROSTER_FILE).stat().st_mode & 0o777 == 0o600
