"""The members' processes: started, watched, stopped, and their logs kept."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ceiba_protocol.errors import NotReachable
from ceiba_protocol.trust.sealing import PASSPHRASE_FILE

STOP_SECONDS = 10.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One member's server: `python -m MODULE serve --home FOLDER --json`, its log in FOLDER/log.jsonl."""

    def __init__(self, name: str, module: str, home: Path, passphrase_file: Path, launcher: Sequence[str] = ()) -> None:
        """`passphrase_file` opens its keys. `launcher` replaces `-m MODULE`; tests start doubles with it."""
        self.name = name
        self.home = home
        self.module = module
        self.launcher = list(launcher)
        self._environment = {"PYTHONUNBUFFERED": "1", PASSPHRASE_FILE: str(passphrase_file)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.home / "log.jsonl"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, appending to its log."""
        program = self.launcher or ["-m", self.module]
        command = [sys.executable, *program, "serve", "--home", str(self.home), "--json"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self._environment
            )

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def require_running(self) -> None:
        """Raises NotReachable if the process has ended."""
        if not self.is_running():
            raise NotReachable(target=self.name, problem=f"its process has ended; see {self.log_path}")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self, seconds: float) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
