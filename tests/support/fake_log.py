"""The operator's log for tests without a network: honest unless a test changes its entries."""

from collections.abc import Iterable

from ceiba_protocol.canonical import Digest
from ceiba_protocol.trust.log import Checkpoint, LogEntry, entry_of
from ceiba_protocol.trust.merkle import leaf_hash, root_of
from ceiba_protocol.trust.roster import OPERATOR
from ceiba_protocol.v1.common_pb2 import Signed
from tests.support.members import NOW, signed_by


class FakeLog:
    """A `LogService` that keeps what it was asked for. `bodies` are the log's leaves."""

    def __init__(self, space: str = "test-space") -> None:
        self.space = space
        self.bodies: list[bytes] = []
        self.cosigned: list[Signed] = []

    def add(self, *documents: Signed, at: int = NOW) -> None:
        self.bodies += [entry_of(document, at).body() for document in documents]

    def add_entry(self, entry: LogEntry) -> None:
        self.bodies.append(entry.body())

    def checkpoint(self, at: int = NOW, size: int | None = None) -> Signed:
        count = len(self.bodies) if size is None else size
        root = Digest(root_of([leaf_hash(body) for body in self.bodies], count).hex())
        return signed_by(OPERATOR, Checkpoint(space=self.space, size=count, root=root, at=at))

    # --- what a node asks for

    def newest(self) -> Signed | None:
        return self.checkpoint() if self.bodies else None

    def entries(self, first: int, end: int) -> Iterable[bytes]:
        return self.bodies[first:end]

    def cosign(self, cosignature: Signed) -> None:
        self.cosigned.append(cosignature)
