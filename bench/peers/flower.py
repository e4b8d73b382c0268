"""Runs `flower_logistic`: on loopback (a SuperLink, four SuperNodes, ended afterwards), or in one process."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(".peers/bin").absolute()
APP = Path(__file__).parent / "flower_logistic"
PATIENCE = 60  # seconds until the SuperLink answers


def deployed(parts: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """`seconds` of all rounds without starting anything, and `coefficients` [rounds, columns].

    Every part is what one client has: float64 [rows, columns + 1], the outcome (0 or 1) last.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        home = Path(folder)
        link = free_port()
        (home / "config.toml").write_text(f'[superlink.bench]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
        where = ["--host", "127.0.0.1", "--port"]
        superlink = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        running.enter_context(process([*superlink, *where, str(link)], home))
        wait_for(link)
        for file in saved(parts, home):
            supernode = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}"]
            config = ["--node-config", f'file="{file}"']
            running.enter_context(process([*supernode, *where, str(free_port()), *config], home))
        return run(home, rounds, parts[0])


def run(home: Path, rounds: int, part: np.ndarray) -> dict[str, Any]:
    result = home / "result.json"
    config = f'rounds={rounds} rows={len(part)} columns={part.shape[1] - 1} result="{result}"'
    command = [str(BIN / "flwr"), "run", str(APP), "bench", "--stream", "--run-config", config]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=600)
    if not result.exists():
        logs = "\n".join(log.read_text()[-3000:] for log in sorted(home.glob("*.log")))
        raise RuntimeError(f"Flower gave no result:\n{done.stdout}\n{done.stderr}\n{logs}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def in_process(parts: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """As `deployed`, with messages that are function calls."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        result = home / "result.json"
        program = [str(BIN / "python"), str(APP.parent / "flower_in_process.py"), str(rounds), str(result)]
        command = [*program, *(str(file) for file in saved(parts, home))]
        subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=300, check=True)
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def saved(parts: list[np.ndarray], folder: Path) -> list[Path]:
    files = [folder / f"{place}.npy" for place in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        np.save(file, part)
    return files


@contextmanager
def process(command: list[str], home: Path) -> Iterator[None]:
    """A process with all that it starts, in a group of its own; the group is ended on the way out."""
    with (home / f"{time.monotonic_ns()}.log").open("w") as log:
        program = [str(BIN / command[0]), *command[1:]]
        started = subprocess.Popen(
            program, env=environment(home), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()


def environment(home: Path) -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home)}
    return os.environ | quiet | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the SuperLink does not answer after {PATIENCE} seconds")
