"""The merchant's commands on agreements, and a query with its receipt."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ceiba.cli import app
from ceiba.space import Space
from ceiba_protocol.errors import BadQuestion, CeibaError, ReceiptRejected
from ceiba_protocol.trust.agreement import Agreement
from tests.support.coordinator import Coordinator, merchant_home
from tests.support.members import MERCHANT, NOW, World

SQL = "SELECT COUNT(*) AS n FROM health.heart"
GROUPED = "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex"


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def coordinator(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    made = Coordinator(world)
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.polling.time.sleep", lambda seconds: None)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: made.channel())
    monkeypatch.setattr("ceiba.space.connect", lambda **_: Space(merchant_home(world, tmp_path)))
    return made


def run(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if isinstance(result.exception, CeibaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_agreement_is_proposed_shown_listed_and_withdrawn(coordinator: Coordinator) -> None:
    shown = run(
        "agreements", "propose", "health.heart", "--purpose", "premium study", "--columns", "age, sex",
        "--operations", "count,group by", "--jobs", "20", "--days", "3", "--each-job",
    )  # fmt: skip
    (evidence,) = coordinator.agreements.values()
    agreement = Agreement.parse(evidence.signatures[0].body)
    assert (agreement.columns, agreement.operations) == (("age", "sex"), ("count", "group by"))
    assert (agreement.jobs, agreement.approval, agreement.purpose) == (20, "each job", "premium study")
    assert run("agreements", "show", agreement.agreement_id[:6]) == shown
    assert run("agreements", "show", agreement.agreement_id, "--json").encode().strip() == agreement.body()
    (row,) = json.loads(run("agreements", "list", "--json"))
    assert row["state"] == "proposed" and row["purpose"] == "premium study"
    run("agreements", "withdraw", agreement.agreement_id[:6], "--reason", "a mistake")
    assert "withdrawn" in run("agreements", "list")


def test_an_active_agreement_is_suspended_resumed_and_ended(world: World, coordinator: Coordinator) -> None:
    coordinator.add(world.agreement)
    for command, state in (("suspend", "suspended"), ("resume", "active"), ("terminate", "terminated")):
        run("agreements", command, "0a0a")
        assert json.loads(run("agreements", "list", "--json"))[0]["state"] == state


def test_a_query_writes_a_receipt_that_verifies_offline(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    file = tmp_path / "receipt.json"
    assert json.loads(run("query", SQL, "--agreement", "0a", "--receipt", str(file), "--json")) == [{"n": 6}]
    assert "The receipt holds." in run("verify", str(file), "--roster", str(tmp_path / "roster.json"))


def test_a_receipt_that_fails_is_written_as_evidence(
    world: World, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.add(world.agreement)
    coordinator.cosigners = []
    monkeypatch.setattr("ceiba.receipts.backing_off", lambda seconds: [None])
    with pytest.raises(ReceiptRejected, match="step 8"):
        run("query", SQL, "--receipt", str(tmp_path / "receipt.json"))
    failed: Any = CliRunner().invoke(
        app, ["verify", str(tmp_path / "receipt.json"), "--roster", str(tmp_path / "roster.json")]
    )
    assert failed.exit_code == 5 and "8. FAILED" in failed.output


def test_made_up_rows_have_no_receipt_to_write(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement, [MERCHANT])
    with pytest.raises(BadQuestion):
        run("query", SQL, "--mock", "--receipt", str(tmp_path / "receipt.json"))
    assert not (tmp_path / "receipt.json").exists()


def test_a_result_is_drawn_into_a_file(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement, [MERCHANT])
    file = tmp_path / "n.svg"
    run("query", GROUPED, "--mock", "--plot", str(file))
    assert "<svg" in file.read_text() and not list(tmp_path.glob("*.png"))


def test_a_picture_file_that_cannot_be_is_refused_before_asking(world: World, tmp_path: Path) -> None:
    for file in (tmp_path / "n.exe", tmp_path / "nowhere" / "n.png"):
        with pytest.raises(BadQuestion):
            run("query", GROUPED, "--plot", str(file))


def test_joining_prints_the_words_of_the_keys(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator and the holders compare them by telephone, as those of a holder."""
    joined = SimpleNamespace(space="test-space", name=MERCHANT, descriptor=world.roster.by_name[MERCHANT])
    monkeypatch.setattr("ceiba.cli.read_token", lambda token: token)
    monkeypatch.setattr("ceiba.cli.join", lambda *_: joined)
    words = world.roster.by_name[MERCHANT].words
    command = ["init", "--join", "x", "--identity", str(tmp_path / "new")]
    assert words in run(*command) and json.loads(run(*command, "--json"))["words"] == words
