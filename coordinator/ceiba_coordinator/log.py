"""The space's log: what the operator writes down so that it cannot deny or change it later (PROTOCOL §6.3).

An entry is appended in the same transaction that stores its document, so that the log and the rest never differ.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from ceiba_coordinator.bells import NEW_CHECKPOINT, Notify
from ceiba_coordinator.store.database import Store
from ceiba_protocol.canonical import Digest, Document
from ceiba_protocol.errors import MalformedMessage
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.log import Checkpoint, entry_of
from ceiba_protocol.trust.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash
from ceiba_protocol.trust.roster import OPERATOR, Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import WitnessedCheckpoint

ENTRIES_A_MESSAGE = 1_000
"""An entry has less than 1 KB, so a message of them stays below 1 MiB."""


class Log:
    """Not thread-safe: the server calls it from one thread."""

    def __init__(
        self,
        store: Store,
        space: str,
        key: SigningKey,
        clock: Callable[[], int],
        notify: Notify = lambda names: None,
    ) -> None:
        """`key` is the operator's log key, `clock` gives seconds since 1970 UTC."""
        self._store = store
        self._space = space
        self._key = key
        self._clock = clock
        self._notify = notify
        self._leaves: list[bytes] = []

    @property
    def public_key(self) -> str:
        """As every roster names it."""
        return self._key.public.hex()

    # --- writing

    def append(self, signed: Signed) -> int:
        """Log a signed document; its entry's index. For the transaction that stores the document."""
        position = self._store.log_size()
        self._store.add_log_entry(position, entry_of(signed, self._clock()).body())
        return position

    def sign(self, document: Document) -> Signed:
        """A document in the operator's name: a Release, a Checkpoint, or of a joint job a JointMessage or Refusal."""
        return sign(document, OPERATOR, self._key)

    def checkpoint(self) -> None:
        """Sign the log as it is, unless the newest checkpoint covers it already."""
        size, last = self._store.log_size(), self._store.newest_checkpoint_size()
        if size == last:
            return
        frontier = Frontier() if last is None else Frontier.from_bytes(self._store.frontier(last))
        for entry in self._store.log_entries(frontier.size, size):
            frontier = frontier.append(entry)
        root = Digest(frontier.root().hex())
        checkpoint = Checkpoint(space=self._space, size=size, root=root, at=self._clock())
        self._store.add_checkpoint(size, self.sign(checkpoint), frontier.to_bytes())
        self._notify([NEW_CHECKPOINT])

    # --- reading

    def newest_checkpoint(self) -> Signed:
        """As the operator signed it; of the empty log before there is anything in it."""
        return self.witnessed(self._newest_size()).checkpoint

    def newest_witnessed(self) -> WitnessedCheckpoint:
        """The newest checkpoint with the holders' signatures on it so far."""
        return self.witnessed(self._newest_size())

    def witnessed(self, size: int) -> WitnessedCheckpoint:
        """The checkpoint of that size, which there must be, with the holders' signatures on it."""
        checkpoint = self._store.checkpoint(size)
        assert checkpoint is not None
        return WitnessedCheckpoint(checkpoint=checkpoint, cosignatures=self._store.cosignatures(size))

    def unwitnessed(self, holder: str) -> Signed | None:
        """The newest checkpoint if that holder has not signed it; None for the empty log, which needs no witness."""
        size = self._newest_size()
        return None if size == 0 or self._store.has_cosigned(size, holder) else self._store.checkpoint(size)

    def _newest_size(self) -> int:
        if self._store.newest_checkpoint_size() is None:
            self.checkpoint()
        return self._store.newest_checkpoint_size() or 0

    def parts(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges in which to read the entries [first, end), each for one message.

        Raises MalformedMessage if the log does not reach so far.
        """
        if not 0 <= first <= end <= self._store.log_size():
            raise MalformedMessage(message="EntriesRequest", problem="the log does not have these entries")
        starts = range(first, end, ENTRIES_A_MESSAGE)
        return ((start, min(start + ENTRIES_A_MESSAGE, end)) for start in starts)

    def read(self, first: int, end: int) -> list[bytes]:
        """The bodies of the entries [first, end), as many as one message takes."""
        return self._store.log_entries(first, end)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """RFC 6962 §2.1.2. Raises MalformedMessage for sizes that the log does not have."""
        return consistency_proof(self._leaf_hashes(), old_size, new_size)

    def inclusion(self, position: int, size: int) -> list[bytes]:
        """RFC 6962 §2.1.1. Raises MalformedMessage for places that the log does not have."""
        return inclusion_proof(self._leaf_hashes(), position, size)

    def _leaf_hashes(self) -> list[bytes]:
        """Of the whole log. Kept in memory, and so only for calls that append nothing: what they see is committed."""
        new = self._store.log_entries(len(self._leaves), self._store.log_size())
        self._leaves += map(leaf_hash, new)
        return self._leaves

    # --- witnesses

    def cosign(self, signed: Signed, holder: str, rosters: "HasRoster") -> None:
        """Store a holder's signature on a checkpoint. A repetition changes nothing.

        Raises UnknownMember, BadSignature, and MalformedMessage unless its bytes are a checkpoint of this log.
        """
        size = rosters.roster().open(signed, Checkpoint, Role.HOLDER).size
        stored = self._store.checkpoint(size)
        if signed.signer != holder or stored is None or stored.body != signed.body:
            raise MalformedMessage(message="Cosignature", problem="it is another's, or on no checkpoint of this log")
        if not self._store.has_cosigned(size, holder):
            self._store.add_cosignature(size, holder, signed)


class HasRoster(Protocol):
    """Who knows the roster in force: `Rosters`, which itself writes to the log."""

    def roster(self) -> Roster: ...
