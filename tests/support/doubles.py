"""Starts a real coordinator or node that a test can crash, or whose calls it can read.

    python doubles.py ceiba_node serve --home FOLDER …

FOLDER/crash.json, looked at whenever a watched method runs: {"method": "Ledger.record_approval", "when": "before",
"after_calls": 2} kills this process with SIGKILL right before (or right after) that method's third call from then on.
The file is removed first, so a process crashes once.
FOLDER/record: if that folder exists when the process starts, every message in and out of its server is written there,
one file each: NUMBER-in-METHOD or NUMBER-out-METHOD.
FOLDER/callers: if that folder exists, an empty file NAME-FINGERPRINT says which certificate a caller has shown.
"""

import functools
import importlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WATCHED = {
    "ceiba_node": [
        ("ceiba_node.ledger", "Ledger", "record_approval"),
        ("ceiba_node.ledger", "Ledger", "record_payload"),
        ("ceiba_node.ledger", "Ledger", "forget"),
        ("ceiba_node.agent", "Agent", "_send"),
    ],
    "ceiba_coordinator": [
        ("ceiba_coordinator.store.database", "Store", "add_job"),
        ("ceiba_coordinator.store.database", "Store", "fill_seat"),
        ("ceiba_coordinator.store.database", "Store", "set_state"),
        ("ceiba_coordinator.jobs", "Jobs", "submit"),
        ("ceiba_coordinator.jobs", "Jobs", "approve"),
        ("ceiba_coordinator.jobs", "Jobs", "share"),
        ("ceiba_coordinator.jobs", "Jobs", "share_fit"),
        ("ceiba_coordinator.store.database", "Store", "add_fit_share"),
        ("ceiba_coordinator.jobs", "Jobs", "contribute"),
        ("ceiba_coordinator.jobs", "Jobs", "take_message"),
    ],
}


def main() -> None:
    module, home = sys.argv[1], Path(sys.argv[sys.argv.index("--home") + 1])
    for place, kind, name in WATCHED[module]:
        watch(getattr(importlib.import_module(place), kind), name, home / "crash.json")
    if (home / "record").is_dir():
        record(home / "record")
    if module == "ceiba_coordinator":
        note_callers(home / "callers")
    sys.argv = [module, *sys.argv[2:]]
    importlib.import_module(f"{module}.cli").main()


def watch(kind: type, name: str, plan_file: Path) -> None:
    method = getattr(kind, name)

    @functools.wraps(method)
    def watched(*args: Any, **kwargs: Any) -> Any:
        crash(plan_file, f"{kind.__name__}.{name}", "before")
        result = method(*args, **kwargs)
        crash(plan_file, f"{kind.__name__}.{name}", "after")
        return result

    setattr(kind, name, watched)


CALLS: dict[str, int] = {}
LOCK = threading.Lock()


def crash(plan_file: Path, method: str, when: str) -> None:
    with LOCK:
        try:
            plan = json.loads(plan_file.read_text())
        except FileNotFoundError:
            return
        if (plan["method"], plan["when"]) != (method, when):
            return
        CALLS[plan["id"]] = CALLS.get(plan["id"], 0) + 1
        if CALLS[plan["id"]] > plan["after_calls"]:
            plan_file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def record(folder: Path) -> None:
    """Messages are recorded as the bytes that gRPC carries, before they are parsed and after they are serialised."""
    import grpc

    numbers = itertools.count()

    def writing(direction: str, method: str, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def converted(value: Any) -> Any:
            result = convert(value)
            content = value if direction == "in" else result
            (folder / f"{next(numbers):06}-{direction}-{method}").write_bytes(content)
            return result

        return converted

    for name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        original = getattr(grpc, f"{name}_rpc_method_handler")

        def handler(
            behavior: Any, request_deserializer: Any = None, response_serializer: Any = None, *, make: Any = original
        ) -> Any:
            method = getattr(behavior, "__qualname__", "method")
            return make(
                behavior,
                request_deserializer=request_deserializer and writing("in", method, request_deserializer),
                response_serializer=response_serializer and writing("out", method, response_serializer),
            )

        setattr(grpc, f"{name}_rpc_method_handler", handler)


def note_callers(folder: Path) -> None:
    """Note the certificate of every call that is let in."""
    from ceiba_coordinator.services.calls import Callers
    from ceiba_protocol.trust.certificates import certificate_fingerprint

    original = Callers.name

    async def noting(self: Any, context: Any, *role: Any) -> str:
        name = await original(self, context, *role)
        if folder.is_dir():
            (certificate,) = context.auth_context()["x509_pem_cert"]
            (folder / f"{name}-{certificate_fingerprint(certificate)}").touch()
        return name

    Callers.name = noting  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    main()
