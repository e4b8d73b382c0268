"""The merchant's commands on agreements, a query with its receipt, jobs that are waited for later."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ceiba.analyses.t_test import TTest
from ceiba.analysis import AnalysisJob
from ceiba.cli import app
from ceiba.files import write_csv
from ceiba.query import Table
from ceiba.reattaching import taken_up
from ceiba.result import Result
from ceiba.space import Space
from ceiba_protocol.errors import BadQuestion, CeibaError, LedgerDamaged, ReceiptRejected, UnknownJob
from ceiba_protocol.statistics import WITHHELD
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


GROUPED = "SELECT sex AS who, SUM(age) / COUNT(*) AS a FROM health.heart GROUP BY ROLLUP(sex) HAVING a > 1 ORDER BY a"


def test_another_process_waits_for_the_answer(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    """Each command reads the folder anew, as another process would; the answer is shown as it was asked for."""
    coordinator.add(world.agreement)
    job = run("query", GROUPED, "--submit").strip()
    assert [manifest.job_id for manifest in coordinator.manifests] == [job]
    assert json.loads(run("result", job[:8], "--json")) == [
        {"who": "male", "a": 140 / 3},
        {"who": None, "a": 301 / 6},
        {"who": "female", "a": 161 / 3},
    ]
    (listed,) = json.loads(run("jobs", "--json"))
    assert (listed["job"], listed["state"]) == (job, "done")
    assert listed["question"].startswith("health.heart; group who = sex")
    file = tmp_path / "receipt.json"
    run("result", job, "--receipt", str(file))
    assert "The receipt holds." in run("verify", str(file), "--roster", str(tmp_path / "roster.json"))


def test_another_process_gets_the_same_outcome_of_an_analysis(
    world: World, coordinator: Coordinator, tmp_path: Path
) -> None:
    """With the filter of the table, and the arguments as they were typed."""
    coordinator.add(world.agreement)
    with Space(merchant_home(world, tmp_path)) as space:
        heart = space.table("health.heart")
        job = heart.filter(heart.age > 20).t_test("age", by="sex", equal_variance=True).submit()
        mine = job.wait()
    with Space(merchant_home(world, tmp_path)) as other:
        again = other.job(job.id)
        theirs = again.wait()
        assert isinstance(again, AnalysisJob) and again.status().state == again.progress() == "done"
    assert isinstance(theirs, TTest) and theirs == mine and theirs.equal_variance and theirs.result.receipt
    assert json.loads(run("result", job.id, "--json"))["Tests"][0]["test"] == "Student"
    assert run("result", job.id).startswith("t-test\n")
    assert json.loads(run("jobs", "--json"))[0]["state"] == "done"


def test_every_plain_argument_is_kept(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    """Sequences, options by name, mappings."""
    with Space(merchant_home(world, tmp_path)) as space:
        heart = space.table("health.heart")
        asked = [
            heart.anova("age", by=("sex",)),
            heart.logistic("I(age > 30) ~ sex", weights="age"),
            heart.standardised_rate(events="age", by="sex", population={"female": 1.5, "male": 2}),
            heart.filter(heart.age > 3).kmeans(["age", "chol"], clusters=2),
        ]
        for analysis in asked:
            again = taken_up(analysis.query, lambda condition: Table(heart.schema, space, condition))
            assert again is not None and again.query.plan() == analysis.query.plan()
            assert again.query.analysis == analysis.query.analysis


def test_of_an_analysis_whose_arguments_are_not_kept_the_figures_are_taken_up_and_say_so(
    world: World, coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.add(world.agreement)
    with Space(merchant_home(world, tmp_path)) as space:
        heart = space.table("health.heart")
        analysis = heart.t_test(heart.age, by="sex")
        job = analysis.submit()
        result = space.job(job.id).wait()
        assert isinstance(result, Result) and "t_test(...).finish(result)" in repr(result)
        assert analysis.finish(result) == job.wait()


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "filter", "arguments": {}},
        {"method": "t_test", "arguments": {"value": "age", "by": "sex", "level": 0.9}},
        {"method": "describe", "arguments": {"columns": ["age"], "by": "sex"}},
        {"method": "t_test", "where": "{}"},
    ],
)
def test_what_another_version_has_kept_is_not_taken_for_the_same_analysis(
    world: World, coordinator: Coordinator, tmp_path: Path, changed: dict[str, Any]
) -> None:
    coordinator.add(world.agreement)
    with Space(merchant_home(world, tmp_path)) as space:
        job = space.table("health.heart").t_test("age", by="sex").submit()
        file = tmp_path / "jobs" / f"{job.id}.json"
        kept = json.loads(file.read_text())
        file.write_text(json.dumps(kept | {"analysis": kept["analysis"] | changed}))
        result = space.job(job.id).wait()
        assert isinstance(result, Result) and "not kept" in repr(result)


def test_a_job_is_taken_up_again_after_its_deadline(
    world: World, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.add(world.agreement)
    job = run("query", SQL, "--submit").strip()
    monkeypatch.setattr("time.time", lambda: NOW + 3600)
    result = Space(merchant_home(world, tmp_path)).job(job).wait()
    assert result.rows == [(6,)] and result.seconds == 3600


def test_only_a_job_of_this_folder_is_taken_up(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    one, other = (run("query", SQL, "--submit", "--json") for _ in range(2))
    assert one != other
    for unknown in ("f" * 32, "", "../roster"):
        with pytest.raises(UnknownJob):
            run("result", unknown)
    (tmp_path / "jobs" / f"{'e' * 32}.json").write_text("{}")
    with pytest.raises(LedgerDamaged):
        run("result", "e" * 32)


def test_jobs_are_forgotten_after_a_year(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    old, newer = (run("query", SQL, "--submit").strip() for _ in range(2))
    for job, days in ((old, 366), (newer, 364)):
        os.utime(tmp_path / "jobs" / f"{job}.json", (0, NOW - days * 86_400))
    newest = run("query", SQL, "--submit").strip()
    assert {one.job_id for one in merchant_home(world, tmp_path).kept_jobs()} == {newer, newest}
    assert "Older ones, not shown: 1" in run("jobs", "--newest", "1")


def test_ctrl_c_cancels_a_query_and_leaves_nothing(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    coordinator.interrupts = True
    stopped: Any = CliRunner().invoke(app, ["query", SQL])
    assert stopped.exit_code == 130 and "cancelled" in stopped.stderr
    assert coordinator.cancelled == [manifest.job_id for manifest in coordinator.manifests]
    assert merchant_home(world, tmp_path).kept_jobs() == []


def test_ctrl_c_while_it_is_sent_cancels_as_well(
    world: World, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.add(world.agreement)

    def interrupt(request: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator, "Jobs_Submit", interrupt)
    stopped: Any = CliRunner().invoke(app, ["query", SQL, "--submit"])
    assert stopped.exit_code == 130 and len(coordinator.cancelled) == 1
    assert merchant_home(world, tmp_path).kept_jobs() == []


def test_ctrl_c_at_a_submitted_job_only_ends_the_waiting(world: World, coordinator: Coordinator) -> None:
    coordinator.add(world.agreement)
    job = run("query", SQL, "--submit").strip()
    coordinator.interrupts = True
    stopped: Any = CliRunner().invoke(app, ["result", job])
    assert stopped.exit_code == 130 and "goes on" in stopped.stderr and coordinator.cancelled == []
    coordinator.interrupts = False
    assert json.loads(run("result", job, "--json")) == [{"n": 6}]


def test_rows_are_written_for_a_spreadsheet(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    file = tmp_path / "rows.csv"
    run("query", GROUPED, "--csv", str(file))
    assert list(csv.reader(file.open())) == [
        ["who", "a"],
        ["male", str(140 / 3)],
        ["", str(301 / 6)],
        ["female", str(161 / 3)],
    ]
    noisy = Result(("g", "n"), [("x, y", 5), (None, WITHHELD)], groups=("g",), plus_minus=[("x, y", 1.5), (None, None)])
    write_csv(noisy, file)
    assert file.read_bytes() == b'g,n,n_plus_minus\r\n"x, y",5,1.5\r\n,withheld,\r\n'


def test_a_result_is_drawn(world: World, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.add(world.agreement)
    file = tmp_path / "n.svg"
    run("query", "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex", "--mock", "--plot", str(file))
    assert "<svg" in file.read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("--plot", "out.xyz"),
        ("--csv", "/nowhere/at/all.csv"),
        ("--csv", "."),
        ("--submit", "--csv", "x.csv"),
        ("--submit", "--mock"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_asked(
    world: World, coordinator: Coordinator, options: tuple[str, ...]
) -> None:
    coordinator.add(world.agreement)
    with pytest.raises(BadQuestion):
        run("query", SQL, *options)
    assert coordinator.manifests == []


def test_joining_prints_the_words_of_the_keys(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator and the holders compare them by telephone, as those of a holder."""
    joined = SimpleNamespace(space="test-space", name=MERCHANT, descriptor=world.roster.by_name[MERCHANT])
    monkeypatch.setattr("ceiba.cli.read_token", lambda token: token)
    monkeypatch.setattr("ceiba.cli.join", lambda *_: joined)
    words = world.roster.by_name[MERCHANT].words
    command = ["init", "--join", "x", "--identity", str(tmp_path / "new")]
    assert words in run(*command) and json.loads(run(*command, "--json"))["words"] == words
