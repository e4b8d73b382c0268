"""The same Flower app in one process: `python flower_in_process.py ROUNDS RESULT FILE FILE FILE FILE`.

Messages are function calls, one client after the other: what the clients and SecAgg+ compute, without processes,
network or waiting, which no deployment reaches. Writes what the server writes.
"""

import sys
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

sys.path.insert(0, str(Path(__file__).parent / "flower_logistic"))
import client
import server


class Calls(Grid):
    """Sends a message by calling the client app; each client keeps its context, as in a SuperNode."""

    def __init__(self, contexts: Iterable[Context]) -> None:
        self.contexts = {context.node_id: context for context in contexts}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self.answer(deepcopy(message)) for message in messages]  # clients change what they get

    def answer(self, message: Message) -> Message:
        return client.app(message, self.contexts[message.metadata.dst_node_id])

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=1)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    def create_message(self, *content: object, **more: object) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError


def main(rounds: str, result: str, *files: str) -> None:
    rows, width = np.load(files[0]).shape
    config = {"rounds": int(rounds), "rows": rows, "columns": width - 1, "result": result}
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 0
    contexts = [Context(1, place, {"file": file}, RecordDict(), config) for place, file in enumerate(files, 1)]
    server.app(Calls(contexts), Context(1, 0, {}, RecordDict(), config))


main(*sys.argv[1:])
