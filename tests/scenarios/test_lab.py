"""ceiba-lab as a tester uses it: stories by name or file, one JSON object, exit codes, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import statsmodels.api as sm

from ceiba_scenarios.stories.health_research import logistic, pooled_heart, split_trial
from ceiba_scenarios.stories.health_sharing import split_by_hospital
from ceiba_scenarios.story import Lab, find_story, story_names

SECONDS = 240
MINE = """
def run(lab):
    rows = 10 * [1, 2, lab.seed]
    print("a word of the story's own")
    files = {}
    for name in "abc":
        files[name] = lab.folder / f"{name}.csv"
        files[name].write_text("x\\n" + "\\n".join(map(str, rows)))
    with lab.sandbox({name: {"t": file} for name, file in files.items()}) as sandbox:
        result = lab.show(sandbox.merchant("m").sql("SELECT SUM(x) FROM t").run())
        lab.check("sum", result.value, 3 * sum(rows))
"""


def run_lab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ceiba_scenarios", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)


def run_story(folder: Path, source: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of a tester's own story."""
    (folder / "mine.py").write_text(source)
    done = run_lab(folder, "run", "./mine.py", "--json", *options)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_story_of_the_testers_own(tmp_path: Path) -> None:
    code, report = run_story(tmp_path, MINE, "--seed", "7")
    assert code == 0
    assert (report["scenario"], report["ok"], report["seed"], report["error"]) == ("mine", True, 7, None)
    assert report["checks"] == [{"name": "sum", "ok": True, "expected": 300, "got": 300}]
    assert report["wire_bytes"] > 3 * 768
    assert report["seconds"] > 0
    folder = Path(report["folder"])
    assert folder.parent == tmp_path / "runs"
    assert folder.stat().st_mode & 0o077 == 0
    assert json.loads((folder / "report.json").read_text()) == report
    assert "  ok      sum" in (folder / "report.txt").read_text()
    assert {path.parent.name for path in folder.rglob("log.jsonl")} == {"a", "b", "c", "coordinator"}
    assert not processes_in(folder)


@pytest.mark.slow
def test_a_story_that_raises_leaves_no_process_and_a_report(tmp_path: Path) -> None:
    broken = MINE.replace("with lab.sandbox(", "sandbox = lab.sandbox(").replace(
        ") as sandbox:", ")\n    sandbox.start()"
    )
    broken = broken[: broken.index("        result")] + "    raise RuntimeError('nothing more')"
    code, report = run_story(tmp_path, broken)
    assert (code, report["ok"], report["error"]) == (1, False, "RuntimeError: nothing more")
    assert "nothing more" in (Path(report["folder"]) / "report.txt").read_text()
    assert not processes_in(Path(report["folder"]))


def test_a_check_that_fails(tmp_path: Path) -> None:
    code, report = run_story(
        tmp_path, "def run(lab):\n    lab.check('three', (1, 2), [1, 3])\n    lab.check('one', 1, 1)"
    )
    assert (code, report["ok"]) == (1, False)
    assert report["checks"][0] == {"name": "three", "ok": False, "expected": [1, 3], "got": [1, 2]}
    assert report["checks"][1]["ok"]


def test_an_error_of_ceiba_gives_its_own_exit_code(tmp_path: Path) -> None:
    code, report = run_story(tmp_path, "def run(lab):\n    lab.sandbox({'a': {'t': 'nowhere.csv'}}).start()")
    assert code == 2
    assert "BadSource" in report["error"]


@pytest.mark.parametrize(
    ("story", "said"),
    [
        ("health_shering", "nearest name is health_sharing"),
        ("./nowhere.py", "no such file"),
        ("./empty.py", "no function run(lab)"),
        ("./broken.py", "importing it raises SyntaxError"),
    ],
)
def test_what_is_no_story(tmp_path: Path, story: str, said: str) -> None:
    (tmp_path / "empty.py").touch()
    (tmp_path / "broken.py").write_text("def run(")
    done = run_lab(tmp_path, "run", story, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("got", "expected", "ok"),
    [
        (0.1 + 0.2, 0.3, False),
        (0.3, 0.3, True),
        ([(1, None, "a")], [(1, None, "a")], True),
        ([(1, 2)], [[1, 2]], True),
        ([1], [1, 2], False),
        (None, 1.0, False),
    ],
)
def test_floats_are_compared_to_the_last_digit(tmp_path: Path, got: Any, expected: Any, ok: bool) -> None:
    lab = Lab(tmp_path, 1)
    lab.check("it", got, expected)
    assert lab.checks[0].ok is ok


def test_every_story_says_what_it_is_about() -> None:
    assert "health_sharing" in story_names()
    assert all(find_story(name).title for name in story_names())


@pytest.mark.slow
def test_health_sharing(tmp_path: Path) -> None:
    done = run_lab(tmp_path, "run", "health_sharing")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "No row left a hospital, and no exact cell of fewer than 11 patients or 3 hospitals." in done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_health_research(tmp_path: Path) -> None:
    done = run_lab(tmp_path, "run", "health_research", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and len(report["checks"]) >= 20 and all(check["ok"] for check in report["checks"])
    page = (Path(report["folder"]) / "report.html").read_text()
    headings = ["What was asked, and of whom", "What each party saw", "Table one", "Logistic regression", "Survival"]
    assert [page.index(f">{heading}") for heading in headings] == sorted(page.index(f">{one}") for one in headings)
    assert page.count("<figure>") == 4 and "Not protected:" in page and "<script" not in page


def test_the_story_of_research_computes_as_statsmodels_does() -> None:
    rows = pooled_heart().dropna(subset=["resting_bp"])
    ill = (rows["diagnosis"] > 0).to_numpy(dtype=float)
    x = sm.add_constant(rows[["age", "resting_bp"]]).to_numpy(dtype=float)
    theirs = sm.Logit(ill, x).fit(disp=False, tol=1e-12)
    coefficients, errors = logistic(x, ill)
    assert coefficients == pytest.approx(list(theirs.params), rel=1e-8)
    assert errors == pytest.approx(list(theirs.bse), rel=1e-8)


def test_the_trial_is_split_by_institution_and_loses_nobody(tmp_path: Path) -> None:
    files = split_trial(tmp_path / "trial", ["a", "b", "c", "d"])
    parts = [pd.read_csv(file) for file in files.values()]
    assert sorted(pd.concat(parts)["patient_id"]) == list(range(1, 229))
    assert all("inst" not in part.columns and len(part) > 20 for part in parts)


@pytest.mark.slow
def test_up_says_how_to_connect_and_stops_on_sigterm(tmp_path: Path) -> None:
    files = split_by_hospital(tmp_path / "hospitals")
    holders = [part for name, path in files.items() for part in ("--holder", f"{name}=heart:{path}")]
    command = [sys.executable, "-m", "ceiba_scenarios", "up", *holders, "--folder", str(tmp_path / "space"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        facts = json.loads(up.stdout.readline())
        question = ["query", "SELECT COUNT(*) FROM heart", "--identity", facts["identity"], "--json"]
        asked = subprocess.run(
            [sys.executable, "-m", "ceiba", *question],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"CEIBA_PASSPHRASE_FILE": facts["passphrase_file"]},
        )
        up.send_signal(signal.SIGTERM)
        assert up.wait(SECONDS) == 0
    assert [list(row.values()) for row in json.loads(asked.stdout)] == [[920]]
    assert not processes_in(tmp_path / "space")


def processes_in(folder: Path) -> list[str]:
    """Command lines of running processes that name this folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line and process.name != str(os.getpid()):
            found.append(line)
    return found
