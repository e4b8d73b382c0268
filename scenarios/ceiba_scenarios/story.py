"""What a story is, and the `Lab` that it is given.

A story is a Python file with `def run(lab)`: it makes a space, asks, says in plain words what happened, and checks
what it got against what an independent computation expects. One of ours, by name, or a tester's own `./mine.py`:

    def run(lab):
        with lab.sandbox({"a": {"t": "a.csv"}, "b": {"t": "b.csv"}, "c": {"t": "c.csv"}}) as sandbox:
            result = lab.show(sandbox.merchant("bank-a").sql("SELECT COUNT(*) FROM t").run())
            lab.check("rows of all three", result.value, 30)
"""

import importlib
import importlib.util
import json
import math
import pkgutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ceiba.analysis import Outcome
from ceiba.result import Result
from ceiba_protocol.errors import BadStory, CeibaError, UnknownStory
from ceiba_protocol.schema import Schema, nearest
from ceiba_scenarios import stories
from ceiba_scenarios.sandbox import Sandbox

Shown = TypeVar("Shown", Result, Outcome)
CHECK_FAILED = 1
"""Exit code of a story whose checks do not all hold, or that raises what is no CeibaError."""


# --- what a story works with ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One comparison of a story."""

    name: str
    ok: bool
    expected: Any
    got: Any

    def __str__(self) -> str:
        return f"  ok      {self.name}" if self.ok else f"  FAILED  {self.name}: {self.got!r} is not {self.expected!r}"


class Lab:
    """What a story works with. Everything that it says, shows and checks is printed and kept with the run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        """Where this run is kept; a story may put files of its own here."""
        self.seed = seed
        """For whatever a story draws, so that a run can be repeated."""
        self.checks: list[Check] = []
        self.said: list[str] = []
        self._wire_bytes: dict[str, int] = {}
        self._sandboxes: list[Sandbox] = []

    def sandbox(
        self,
        holders: Mapping[str, Mapping[str, Any]],
        *,
        schemas: Mapping[str, Schema | Mapping[str, Any] | str | Path] | None = None,
    ) -> Sandbox:
        """A space, started by `with`: holder → table → CSV, Parquet or data frame. Its folder is kept with the run."""
        sandbox = Sandbox(holders, schemas=schemas, folder=self.folder / f"space-{len(self._sandboxes) + 1}")
        self._sandboxes.append(sandbox)
        return sandbox

    def say(self, text: str = "") -> None:
        """Print a text."""
        self.said.append(text)
        print(text, flush=True)

    def show(self, shown: Shown) -> Shown:
        """Print a result, or what an analysis made of one, and count its bytes on the wire; returns it."""
        self.tally(shown.result if isinstance(shown, Outcome) else shown)
        self.say(f"\n{shown}")
        return shown

    def tally(self, result: Result) -> None:
        """Count a result's bytes on the wire without printing it."""
        self._wire_bytes[result.job_id] = result.wire_bytes

    def check(self, name: str, got: Any, expected: Any) -> None:
        """Compare. Floats must be equal to the last digit: what Ceiba finishes is the exact value, rounded once."""
        check = Check(name, _is_same(got, expected), expected, got)
        self.checks.append(check)
        self.say(str(check))

    @property
    def wire_bytes(self) -> int:
        """What holders sent for all results that were shown."""
        return sum(self._wire_bytes.values())

    def stop(self) -> None:
        """Stop every process, also of a sandbox that the story left running."""
        for sandbox in self._sandboxes:
            sandbox.stop()


def _is_same(got: Any, expected: Any) -> bool:
    """Equality of values, rows and lists of rows; a list and a tuple of the same values are the same."""
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(_is_same(*pair) for pair in zip(got, expected, strict=True))
    return bool(got == expected)


# --- finding ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    """A story's name, its first sentence, and what runs it."""

    name: str
    title: str
    run: Callable[[Lab], None]


def story_names() -> list[str]:
    """The stories that come with Ceiba."""
    return [module.name for module in pkgutil.iter_modules(stories.__path__)]


def find_story(name: str) -> Story:
    """A story by its name, or a file that ends in .py. Raises UnknownStory, BadStory."""
    if name.endswith(".py"):
        return _story(Path(name).stem, _load(Path(name)))
    if name not in story_names():
        raise UnknownStory(story=name, nearest=nearest(name, story_names()))
    return _story(name, importlib.import_module(f"{stories.__name__}.{name}"))


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadStory(story=path, problem="there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a tester's file can raise anything
        raise BadStory(story=path, problem=f"importing it raises {type(error).__name__}: {error}") from error
    return module


def _story(name: str, module: ModuleType) -> Story:
    run = getattr(module, "run", None)
    if not callable(run):
        raise BadStory(story=name, problem="it has no function run(lab)")
    return Story(name, (module.__doc__ or "").strip().partition("\n")[0], run)


# --- running ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a run gave."""

    scenario: str
    seed: int
    checks: list[Check]
    error: Exception | None
    """What the story raised."""
    wire_bytes: int
    """What holders sent: approvals, submissions and ciphertexts of all shown results."""
    seconds: float
    folder: Path
    """Where report.json, report.txt, and every member's folder and log are kept."""

    @property
    def ok(self) -> bool:
        return self.error is None and all(check.ok for check in self.checks)

    @property
    def exit_code(self) -> int:
        if isinstance(self.error, CeibaError):
            return self.error.fault.exit_code
        return 0 if self.ok else CHECK_FAILED

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "seed": self.seed,
            "checks": [_plain(vars(check)) for check in self.checks],
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "wire_bytes": self.wire_bytes,
            "seconds": round(self.seconds, 3),
            "folder": str(self.folder),
        }

    def __str__(self) -> str:
        failed = sum(not check.ok for check in self.checks)
        verdict = f"{failed} of {len(self.checks)} checks FAILED" if failed else f"all {len(self.checks)} checks ok"
        if self.error is not None:
            verdict = f"stopped by {type(self.error).__name__}, {verdict} until then"
        return (
            f"{self.scenario}: {verdict}, {self.seconds:.1f} s, seed {self.seed}.\n"
            f"Reports, and each member's folder and log: {self.folder}"
        )


def run_story(name: str, seed: int, runs: Path) -> Report:
    """Run a story; whatever happens in it, its processes end and its report is written. Raises UnknownStory, BadStory.

    The run's folder is readable by its owner alone: members' keys and data stay in it.
    """
    story = find_story(name)
    folder = runs.absolute() / f"{story.name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    folder.mkdir(mode=0o700, parents=True)
    lab, started = Lab(folder, seed), time.monotonic()
    error = _run(story, lab)
    report = Report(story.name, seed, lab.checks, error, lab.wire_bytes, time.monotonic() - started, folder)
    lab.say(f"\n{report}")
    (folder / "report.json").write_text(json.dumps(report.to_plain(), indent=2))
    (folder / "report.txt").write_text("\n".join(lab.said) + "\n")
    return report


def _run(story: Story, lab: Lab) -> Exception | None:
    """What the story raised, which is part of its report."""
    try:
        story.run(lab)
    except CeibaError as error:
        lab.say(f"\n{error.public}\n{error.what_to_do}")
        return error
    except Exception as error:
        lab.say(f"\n{traceback.format_exc()}")
        return error
    finally:
        lab.stop()
    return None


def _plain(value: Any) -> Any:
    """A checked value as JSON has it; what JSON has not, as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
