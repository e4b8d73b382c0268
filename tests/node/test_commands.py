"""ceiba-node's commands on a folder, with no coordinator: keys, what the officer signs, decisions and stops."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from ceiba_node import cli
from ceiba_node.cli.joining import make_duties
from ceiba_node.config import Home
from ceiba_node.contracts import Contracts
from ceiba_node.ledger import Budget, Charge, Left, Waiting
from ceiba_node.policy import StopKind
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadCommand,
    BadPassphrase,
    CeibaError,
    DatasetMissing,
    LedgerRolledBack,
    LogProofFailed,
    NodeRunning,
    NoKeyFile,
    NoSubjectKey,
    NothingToSign,
    UnknownMember,
    WrongKey,
)
from ceiba_protocol.explaining import Asked, Book, explain
from ceiba_protocol.joining import ROSTER_FILE
from ceiba_protocol.trust.agreement import State
from ceiba_protocol.trust.documents import DatasetPin, NoiseTerms
from ceiba_protocol.trust.identity import Duty, Identity
from ceiba_protocol.trust.rendering import quoted
from ceiba_protocol.trust.roster import Duties, Revocation, Roster, approval_of
from ceiba_protocol.trust.sealing import is_sealed
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from tests.node.test_ledger import job_of, payload_of
from tests.support.members import HOLDERS, MERCHANT, NOW, World, changed, graded, holder, signed_by
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
        self.world = World(schema=graded("internal"))
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
    with pytest.raises(NoKeyFile, match="--key"):
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
    for fact in (
        "research",
        MERCHANT,
        *HOLDERS,
        "health.heart",
        "100 at most",
        "not protect",
        "no answer differs by fewer",
    ):
        assert fact in text
    signed = house.json("agreements", "sign", "0a0a", "--yes", "--schema", str(house.schema))
    assert (signed["state"], signed["missing"]) == ("active", [])
    assert house.state() is State.ACTIVE
    (listed,) = house.json("agreements", "list")["agreements"]
    assert listed["signed_here"] and "active" in house.run("agreements", "list")


def test_what_is_not_to_be_signed_says_why(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    sign = ["agreements", "sign", "0a", "--yes", "--schema", str(house.schema)]
    house.run(*sign)
    with pytest.raises(NothingToSign, match="it is active"):
        house.run(*sign)
    house.run("agreements", "terminate", "0a", "--reason", "a test")
    with pytest.raises(NothingToSign, match="it is terminated"):
        house.run(*sign)


def test_an_agreement_whose_party_was_revoked_or_has_other_keys_says_so(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    house.run("agreements", "sign", "0a", "--yes", "--schema", str(house.schema))
    assert house.json("agreements", "show", "0a")["not_answered"] is None
    assert "not answered" not in house.run("agreements", "list")
    roster, gone = house.world.roster, HOLDERS[2]
    others = tuple(one for one in roster.members if one.name != gone)
    was = Revocation(descriptor=roster.by_name[gone], revoked_at=NOW, reason="a lost server")
    another = holder(gone, signing_key="ab" * 32)
    for members, said in ((others, "was revoked"), ((*others, another), "has other keys now")):
        house.home.pin(changed(roster, version=2, members=members, revoked=(was,)))
        assert house.json("agreements", "show", "0a")["state"] == "active"
        for words in (["list"], ["show", "0a"]):
            text = house.run("agreements", *words)
            assert "not answered" in text and f"{gone} {said}" in text


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


def test_while_the_log_is_at_fault_nothing_is_signed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an old copy of the ledger a signature would make the newest one wrong too."""
    house.learn(MERCHANT, *HOLDERS[1:])
    ledger = house.home.ledger()
    ledger.record_fault(LedgerRolledBack(document="Approval", at=NOW), Signed(), NOW)
    for words in (["sign", "0a", "--yes", "--schema", str(house.schema)], ["refuse", "0a", "--reason", "no"]):
        with pytest.raises(LedgerRolledBack):
            house.run("agreements", *words)
    monkeypatch.setattr(Identity, "authority_fingerprint", "0" * 64)
    words = later(house)
    with pytest.raises(LedgerRolledBack):
        house.run("pin", "--fingerprint", words, "--file", str(house.home.folder / "next.json"))
    assert ledger.to_upload() == [] and house.home.roster().version == 1
    ledger.close()


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
    shown = house.run("approvals", "show", "0b")
    assert "group by" in shown and "cannot be explained: There is no agreement" in shown
    assert house.json("approvals", "show", "0b")["problem"]["code"] == "unknown_agreement"
    assert house.json("status")["waiting"] == 1
    house.run("approvals", "refuse", "0b", "--reason", "outside the study", "--private", "third time")
    assert house.run("approvals", "list").strip() == "Nothing waits."
    with pytest.raises(CeibaError, match="No job"):
        house.run("approvals", "approve", "0b")


def wait_for_a_person(house: House, **changes: Any) -> None:
    """A job waits that runs on what this house has published."""
    source = house.home.folder / "heart.csv"
    source.write_text("sex,age,chol\nmale,60,51.1\nfemale,41,-0.7\nmale,3,0\n")
    house.run("publish", str(source), "--schema", str(house.schema))
    snapshot = house.home.snapshots().current("health.heart")
    pin = DatasetPin(holder=ME, version=Digest(snapshot.version), row_capacity=snapshot.row_capacity)
    house.world.pins[ME] = pin
    manifest = signed_by(MERCHANT, house.world.manifest(**changes))
    ledger = house.home.ledger()
    ledger.add_waiting(Waiting(bytes.fromhex(house.world.job_id), 0, manifest, NOW, NOW + 60))
    ledger.close()


def agree(house: House) -> None:
    """Every party signs."""
    house.learn(MERCHANT, *HOLDERS[1:])
    house.run("agreements", "sign", "0a", "--yes", "--schema", str(house.schema))


def test_who_decides_reads_what_the_merchant_reads(house: House) -> None:
    agree(house)
    wait_for_a_person(house, number=4, noise=NoiseTerms(rho=5_000))
    world, manifest = house.world, house.world.manifest(noise=NoiseTerms(rho=5_000))
    assert world.merchant.encryption_key is not None
    asked = Asked(
        plan=world.plan,
        schema=world.schema,
        capacities={pin.holder: pin.row_capacity for pin in manifest.datasets},
        key_bits=world.merchant.encryption_key.n.bit_length(),
        noise=manifest.noise,
        agreement=world.agreement,
    )
    merchants = explain(asked, Book("by this folder's own count", jobs=3)).lines()
    shown = house.run("approvals", "show", "0b").splitlines()
    house_only = [line for line in shown[: len(merchants) + 1] if "all merchants' ρ" in line]
    common = [line for line in shown if line not in house_only][: len(merchants)]
    assert common == [line.replace("by this folder's own count", "in this house's ledger") for line in merchants]
    assert len(house_only) == 1 and shown[len(merchants) + 1] == "Who asks it"
    facts = house.json("approvals", "show", "0b")
    assert facts["explanation"]["accounts"][0]["used"] == "3" and facts["number"] == 4 and facts["plan"]["groups"]


def test_a_houses_stricter_rules_count_in_its_inbox(house: House) -> None:
    agree(house)
    (house.home.folder / "policy.toml").write_text("exact_jobs = 0\n")
    wait_for_a_person(house)
    (refused,) = house.json("approvals", "show", "0b")["explanation"]["refusals"]
    assert refused["code"] == "exact_quota_used" and "All 0 exact answers" in refused["text"]


def test_what_cannot_be_explained_is_shown_with_the_reason(house: House) -> None:
    house.learn(MERCHANT, *HOLDERS[1:])
    wait_for_a_person(house)
    shown = house.run("approvals", "show", "0b")
    assert "is proposed, so nothing is answered under it" in shown and quoted("research") in shown


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


def test_a_fault_is_lifted_with_a_reason_and_stays_recorded(house: House) -> None:
    ledger = house.home.ledger()
    ledger.record_fault(LogProofFailed(problem="it is shorter"), Signed(), NOW)
    assert "shorter" in house.json("status")["fault"]
    with pytest.raises(BadCommand):
        house.run("resume", "log")
    assert house.json("resume", "log", "--reason", "the newest copy is back")["was_at_fault"]
    assert house.json("status")["fault"] is None
    assert not house.json("resume", "log", "--reason", "again")["was_at_fault"]
    assert [fault.lifted_because for fault in ledger.faults()] == ["the newest copy is back"]
    ledger.close()


@pytest.mark.parametrize(
    "words", [("dataset", "health.hart"), ("merchant", "bank-z"), ("agreement", "ff"), ("all", "x"), ("dataset",)]
)
def test_a_stop_with_a_slip_of_the_pen_says_so(house: House, words: tuple[str, ...]) -> None:
    with pytest.raises(CeibaError) as refused:
        house.run("stop", *words)
    assert isinstance(refused.value, BadCommand) == (words in [("all", "x"), ("dataset",)])
    assert house.json("status")["stops"] == []


def test_status_tells_what_a_person_needs(house: House) -> None:
    house.learn(MERCHANT)
    facts = house.json("status")
    assert (facts["agreements"], facts["witnessed"], facts["fault"]) == ({"proposed": 1}, 0, None)
    assert facts["not_in_log"] == 0
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
    again = house.json("pin", "--fingerprint", words, "--file", file)
    assert again == {"version": 2, "pinned": True, "signs": False, "sent": False}
    assert house.home.roster().version == 2 and (house.home.folder / ROSTER_FILE).stat().st_mode & 0o777 == 0o600


def test_a_newcomer_pins_a_later_roster_and_is_not_asked_to_approve_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is pinned before: those who signed the roster before it decide. The coordinator is not even called."""
    monkeypatch.setattr(Identity, "authority_fingerprint", "0" * 64)
    words = later(house)
    (house.home.folder / ROSTER_FILE).unlink()
    told = house.json("pin", "--fingerprint", words, "--file", str(house.home.folder / "next.json"))
    assert told == {"version": 2, "pinned": True, "signs": False, "sent": False}
    ledger = house.home.ledger()
    assert ledger.to_upload() == []
    ledger.close()


# --- what status says of the newest roster, and of the rules ------------------------------------------------------


def newest_roster(house: House, monkeypatch: pytest.MonkeyPatch, roster: Roster, *approved: str) -> str:
    approvals = [signed_by(name, approval_of(roster, name)) for name in approved]
    received = SignedRoster(roster=roster.body(), approvals=approvals)
    monkeypatch.setattr("ceiba_node.cli.running.fetch_roster", lambda _: received)
    return str(house.json("status", "--online")["newest_roster"])


def test_status_tells_the_truth_about_the_newest_roster(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first = house.world.roster
    second, third = changed(first, version=2), changed(first, version=3)
    assert "newest_roster" not in house.json("status") and "newest_roster" not in house.run("status")
    assert newest_roster(house, monkeypatch, first, *HOLDERS[1:]).startswith("version 1, in force: approved by 2 of")
    assert newest_roster(house, monkeypatch, second, HOLDERS[1]).startswith("version 2, proposed: approved by 1 of")
    assert "roster 1 takes" in newest_roster(house, monkeypatch, third, HOLDERS[1])
    house.home.pin(second)
    assert newest_roster(house, monkeypatch, second, *HOLDERS[1:]) == "version 2, the one that is pinned here"


def test_a_revoked_member_is_told_so_beside_the_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Identity) -> None:
        raise UnknownMember(member=ME, role="member")

    monkeypatch.setattr("ceiba_node.cli.running.fetch_roster", refuse)
    facts = house.json("status", "--online")
    assert "not on the pinned roster" in facts["newest_roster"] and facts["name"] == ME


def test_status_names_the_key_that_is_wrong_in_the_policy(house: House) -> None:
    assert house.json("status")["configuration"] == "readable"
    (house.home.folder / "policy.toml").write_text("merchantz = []")
    assert "merchantz" in house.json("status")["configuration"]


def test_a_purpose_cannot_pass_for_a_line_of_ours(house: House) -> None:
    """What the merchant wrote is quoted: it can neither end its quotes nor fill up a line."""
    purpose = 'research"  until 2099'
    house.world.agreement = house.world.make_agreement(purpose=purpose)
    ledger = house.home.ledger()
    ledger.add_waiting(Waiting(bytes.fromhex(house.world.job_id), 0, house.world.signed_manifest(), NOW, NOW + 60))
    ledger.close()
    for words in (["list"], ["show", "0b"]):
        shown = house.run("approvals", *words)
        assert quoted(purpose) in shown and purpose not in shown


# --- withdrawals -------------------------------------------------------------------------------------------------


def publish_people(house: House, folder: Path, extra: str = 'subject_key = "patient"\n') -> Path:
    house.schema.write_text(SCHEMA_TOML.replace('table = "health.heart"\n', f'table = "health.heart"\n{extra}'))
    source = folder / "people.csv"
    source.write_text("patient,sex,age,chol\nann,female,1,1\nbob,male,2,2\nann,female,3,3\ncho,male,4,4\n")
    house.run("publish", str(source), "--schema", str(house.schema))
    return source


def test_who_objects_is_left_out_now_and_later(house: House, tmp_path: Path) -> None:
    source = publish_people(house, tmp_path)
    assert house.run("withdraw", "health.heart", "--list") == "health.heart: 0 withdrawn\n"
    assert house.run("withdraw", "health.heart", "--subject", "ann").startswith(
        "health.heart: 1 of 1 found; rows left out: 2, versions deleted: 1; version "
    )
    objections = tmp_path / "objections.txt"
    objections.write_bytes(b"\xef\xbb\xbfcho \r\n\r\nnobody yet\r\n")
    elsewhere = (house.home.folder / "publisher.key").rename(tmp_path / "elsewhere.key")
    facts = house.json("withdraw", "health.heart", "--from", str(objections), "--key", str(elsewhere))
    assert (facts["given"], facts["found"], facts["rows_left_out"]) == (2, 1, 1)
    assert house.json("withdraw", "health.heart", "--list")["withdrawn"] == ["ann", "cho", "nobody yet"]
    assert "  nobody yet" in house.run("withdraw", "health.heart", "--list").splitlines()
    report = house.json("publish", str(source), "--schema", str(house.schema), "--key", str(elsewhere))
    assert (report["rows"], report["withdrawn"], report["version"]) == (1, 3, facts["version"])


def test_only_the_publisher_withdraws(house: House, tmp_path: Path) -> None:
    publish_people(house, tmp_path)
    with pytest.raises(WrongKey):
        house.run("withdraw", "health.heart", "--subject", "ann", "--key", str(house.home.folder / "officer.key"))
    assert house.json("withdraw", "health.heart", "--list")["withdrawn"] == []


@pytest.mark.parametrize(
    "words", [[], ["--subject", " "], ["--subject", "ann", "--list"], ["--from", "/nowhere"], ["--from", "/dev/null"]]
)
def test_a_withdrawal_of_nobody_is_a_bad_command(house: House, tmp_path: Path, words: list[str]) -> None:
    publish_people(house, tmp_path)
    with pytest.raises(BadCommand):
        house.run("withdraw", "health.heart", *words)


def test_withdrawals_need_a_dataset_with_a_subject_key(house: House, tmp_path: Path) -> None:
    for words in (["--subject", "ann"], ["--list"]):
        with pytest.raises(DatasetMissing):
            house.run("withdraw", "health.heart", *words)
    publish_people(house, tmp_path, extra="")
    with pytest.raises(NoSubjectKey):
        house.run("withdraw", "health.heart", "--subject", "ann")


# --- the ledger --------------------------------------------------------------------------------------------------


def answer(house: House) -> None:
    """Three jobs: an exact one that was answered, one with noise that was left, and the same again."""
    house.learn(MERCHANT, *HOLDERS[1:])
    ledger, world = house.home.ledger(), house.world
    costs = ((0, "exact"), (5_000, "noise"), (5_000, "noise"))
    for number, (rho, sticky) in enumerate(costs):
        world.noise = NoiseTerms(rho=rho, cells_per_subject=1) if rho else None
        job = job_of(
            world, number, manifest=world.signed_manifest(), agreement_digest=world.agreement.digest(),
            approved_at=NOW + number,
        )  # fmt: skip
        charge = Charge(job.job_id, job.dataset, MERCHANT, MERCHANT, rho, sticky, rho == 0, "versions", job.approved_at)
        ledger.record_approval(job, 0, world.approval(ME), bytes(32), (charge, Budget(10**6, 10**6, 9)))
    ledger.record_payload(payload_of(world, 0), bytes(32), NOW)
    left = Left(world.refusal(ME), world.abort(ME))
    assert ledger.record_left(bytes([1]) * 16, left, NOW)
    ledger.close()


def test_the_ledger_says_what_was_answered_and_what_it_cost(house: House) -> None:
    answer(house)
    text, agreement = house.run("ledger"), house.world.agreement.digest()
    header, *rows, space, account = text.splitlines()
    assert header.split() == ["when", "merchant", "table", "agreement", "job", "question", "cells", "cost", "state"]
    wanted = ("exact", "answered"), ("ρ 0.005", "left"), ("ρ 0", "approved")
    for number, (row, (cost, state)) in enumerate(zip(rows, wanted, strict=True)):
        when, *others = [word.strip() for word in row.split("  ") if word]
        assert when == f"2027-01-15T08:00:0{number}+00:00"
        assert others == [
            MERCHANT, "health.heart", agreement[:8], f"0{number}" * 4, "adadadad", "2", cost, state
        ]  # fmt: skip
    assert space == ""
    assert account == (f"{MERCHANT} has spent ρ 0.005 of 1 on health.heart in the last 365 days; 0.995 is left")


def test_the_ledger_for_programs(house: House, tmp_path: Path) -> None:
    answer(house)
    file = tmp_path / "ledger.csv"
    facts = house.json("ledger", "--csv", str(file))
    assert facts["accounts"] == [
        {"table": "health.heart", "organisation": MERCHANT, "spent": "0.005", "of": "1", "left": "0.995"}
    ]
    first, second, _ = facts["entries"]
    assert first == {
        "when": "2027-01-15T08:00:00+00:00",
        "merchant": MERCHANT,
        "table": "health.heart",
        "agreement": house.world.agreement.digest(),
        "job": "00" * 16,
        "question": "ad" * 32,
        "cells": 2,
        "exact": True,
        "rho": 0.0,
        "state": "answered",
    }
    assert (second["exact"], second["rho"], second["state"]) == (False, 0.005, "left")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert rows == [{name: str(value) for name, value in entry.items()} for entry in facts["entries"]]


def test_the_ledger_before_anything_was_answered(house: House, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty.csv", tmp_path / "full.csv"
    assert house.run("ledger", "--csv", str(empty)) == "Nothing was answered yet.\n"
    assert house.json("ledger") == {"entries": [], "accounts": []}
    answer(house)
    house.run("ledger", "--csv", str(full))
    (header,) = empty.read_text().splitlines()
    assert header == full.read_text().splitlines()[0]
    with pytest.raises(BadCommand, match="cannot be written"):
        house.run("ledger", "--csv", str(tmp_path))


def test_the_ledger_is_backed_up_and_restored(house: House, tmp_path: Path) -> None:
    backup = tmp_path / "monday.sqlite3"
    assert house.run("ledger", "backup", str(backup)) == f"Written to {backup}.\n"
    with pytest.raises(BadCommand):
        house.run("ledger", "backup", str(backup))
    answer(house)
    with house.home.running(), pytest.raises(NodeRunning):
        house.run("ledger", "restore", str(backup))
    kept = house.home.folder / "ledger.sqlite3.replaced-1"
    assert house.run("ledger", "restore", str(backup)) == f"Restored; what was there is {kept}.\n"
    assert house.json("ledger")["entries"] == []
    assert house.json("ledger", "restore", str(kept)) == {"kept": str(kept.with_suffix(".replaced-2"))}
    assert len(house.json("ledger")["entries"]) == 3


def test_several_processes_pin_at_once_and_the_newest_roster_stays(house: House) -> None:
    """The service follows a new roster while an officer's command pins it."""
    versions = [changed(house.world.roster, version=version) for version in range(1, 9)]
    with ThreadPoolExecutor(len(versions)) as pool:
        for _ in range(5):
            list(pool.map(house.home.pin, versions))
    assert house.home.roster().version == 8
    assert not list(house.home.folder.glob("*.new"))
