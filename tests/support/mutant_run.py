"""Which texts of a module do its tests accept? Each runs in a process of its own, in memory: no file is changed."""

import importlib.util
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing.connection import wait
from pathlib import Path
from types import CodeType

# Imported once and inherited by every process: starting them anew takes most of a short run.
import cryptography.hazmat.primitives.ciphers  # noqa: F401
import gmpy2  # noqa: F401
import google.protobuf.text_format  # noqa: F401
import hypothesis
import numpy  # noqa: F401
import pandas  # noqa: F401
import phe  # noqa: F401
import pydantic  # noqa: F401
import pytest
import sqlglot  # noqa: F401

ROOT = Path(__file__).parents[2]
PROCESSES = 2
CPU_SECONDS = 60
"""A mutant that computes for longer is in an endless loop, which counts as noticed."""

# The same examples in every run, fewer, and no time spent on making a counterexample short: nobody reads it.
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("ci"),
    max_examples=20,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


class Mutant(SourceFileLoader):
    """Whoever imports the module of `file` (root/package/…/module.py) gets `text`."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__(".".join(Path(file).with_suffix("").parts[1:]), str(ROOT / file))
        self.text = text

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec")

    def test(self, tests: Sequence[str]) -> None:
        """Run in a process of its own: ends it with pytest's exit code."""
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
        os.chdir(ROOT)
        sys.dont_write_bytecode = True
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        options = ["-x", "--noconftest", "-pno:cacheprovider", "-pno:xdist", f"-otimeout={2 * CPU_SECONDS}"]
        options += ["--hypothesis-profile=mutants", "--assert=plain", "--tb=no"]  # no explanation of failures
        os._exit(pytest.main([*options, *tests]))


def survivors(file: str, texts: Sequence[str], tests: Sequence[str]) -> list[str]:
    """The texts of `file` with which all `tests` pass, in the order given."""
    fork, waiting, alive = multiprocessing.get_context("fork"), list(texts), set[str]()
    running: dict[object, tuple[multiprocessing.process.BaseProcess, str]] = {}
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            text = waiting.pop(0)
            process = fork.Process(target=Mutant(file, text).test, args=(tests,))
            process.start()
            running[process.sentinel] = process, text
        for sentinel in wait([process.sentinel for process, _ in running.values()]):
            process, text = running.pop(sentinel)
            process.join()
            if process.exitcode == pytest.ExitCode.OK:
                alive.add(text)
    return [text for text in texts if text in alive]
