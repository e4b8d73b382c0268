"""The log's Merkle tree: SHA-256, RFC 6962 §2.1 and RFC 9162 §2.1.

The coordinator keeps the entries and makes proofs; holders keep a `Frontier` and check. All hashes have 32 bytes,
all sizes count leaves, and indices begin at 0.

The tree is walked level by level from the leaves: neighbours are hashed in pairs, and an odd last node moves up as it
is. That is the tree which §2.1.1 defines by splitting at the largest power of two, without its recursion.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ceiba_protocol.errors import LogProofFailed, MalformedMessage

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

_SIZE = struct.Struct(">Q")
_LARGEST_SIZE = 2**64 - 1


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry). The first byte keeps an entry from passing for an inner node."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right); both have 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# --- what a witness keeps --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frontier:
    """The compact range of a tree: all that a witness needs to keep so as to extend it and know its root.

    `hashes` are the roots of the perfect subtrees that the tree consists of, the largest (leftmost) first: one for
    each bit that is set in `size`, 0 ≤ size < 2^64. A witness appends all new entries in order and compares roots.
    Raises MalformedMessage if the two do not fit.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= _LARGEST_SIZE or len(self.hashes) != self.size.bit_count():
            raise MalformedMessage(message="Frontier", problem="it has another number of hashes than its size needs")
        if any(len(part) != HASH_BYTES for part in self.hashes):
            raise MalformedMessage(message="Frontier", problem="a hash does not have 32 bytes")

    def append(self, entry: bytes) -> "Frontier":
        """The frontier of the tree with one more leaf."""
        hashes = [*self.hashes, leaf_hash(entry)]
        carry = self.size
        while carry & 1:  # as in adding 1 to a binary number: two subtrees of one size become the next larger
            right = hashes.pop()
            hashes.append(node_hash(hashes.pop(), right))
            carry >>= 1
        return Frontier(self.size + 1, tuple(hashes))

    def root(self) -> bytes:
        """The root of the whole tree, 32 bytes."""
        if not self.hashes:
            return EMPTY_ROOT
        *larger, root = self.hashes
        for left in reversed(larger):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """`size` as 8 bytes, big-endian, then the hashes."""
        return _SIZE.pack(self.size) + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises MalformedMessage."""
        if len(data) < _SIZE.size:
            raise MalformedMessage(message="Frontier", problem="it is too short to hold a size")
        (size,) = _SIZE.unpack_from(data)
        return cls(size, tuple(data[at : at + HASH_BYTES] for at in range(_SIZE.size, len(data), HASH_BYTES)))


# --- proofs, made by the coordinator ---------------------------------------------------------------------------


def root_of(leaf_hashes: Sequence[bytes], size: int) -> bytes:
    """The root of the tree of the first `size` leaves (§2.1.1); `size` − 1 hashings.

    Raises MalformedMessage unless 0 ≤ size ≤ len(leaf_hashes).
    """
    level = _first(leaf_hashes, size)
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else EMPTY_ROOT


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int, size: int) -> list[bytes]:
    """PATH(index, D_size) of RFC 9162 §2.1.3.1: proves that leaf `index` is in the tree of the first `size` leaves.

    At most 64 hashes. Raises MalformedMessage unless 0 ≤ index < size ≤ len(leaf_hashes).
    """
    level = _first(leaf_hashes, size)
    if not 0 <= index < size:
        raise MalformedMessage(message="inclusion proof", problem="the index is not within the tree")
    return _siblings(level, index)


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int, new_size: int) -> list[bytes]:
    """PROOF(old_size, D_new_size) of RFC 9162 §2.1.4.1: proves that the old tree is the beginning of the new one.

    Empty for an old tree without leaves and for equal sizes, where nothing is to be proved; otherwise the last
    perfect subtree of the old tree, unless it is the whole old tree, and that node's siblings up to the new root.
    Raises MalformedMessage unless 0 ≤ old_size ≤ new_size ≤ len(leaf_hashes).
    """
    level = _first(leaf_hashes, new_size)
    if not 0 <= old_size <= new_size:
        raise MalformedMessage(message="consistency proof", problem="the old tree is larger than the new one")
    if old_size in (0, new_size):
        return []
    index = old_size - 1
    while index & 1:  # up to the root of the old tree's last perfect subtree
        level, index = _parents(level), index >> 1
    start = [] if index == 0 else [level[index]]
    return start + _siblings(level, index)


def _first(leaf_hashes: Sequence[bytes], size: int) -> list[bytes]:
    if not 0 <= size <= len(leaf_hashes):
        raise MalformedMessage(message="log proof", problem="the log does not have that many entries")
    return list(leaf_hashes[:size])


def _parents(level: list[bytes]) -> list[bytes]:
    """The next level up, of ⌈len(level) / 2⌉ nodes."""
    even = len(level) & ~1
    return [node_hash(level[at], level[at + 1]) for at in range(0, even, 2)] + level[even:]


def _siblings(level: list[bytes], index: int) -> list[bytes]:
    """The sibling of the node at `index` of `level`, of its parent, and so on, where there is one."""
    siblings = []
    while len(level) > 1:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        level, index = _parents(level), index >> 1
    return siblings


# --- checks, run by holders and merchants ----------------------------------------------------------------------


def check_inclusion(entry: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Leaf `index` of the tree with `size` leaves and this root is `entry`: RFC 9162 §2.1.3.2, its step numbers.

    `size` and `root` must come from one signed checkpoint: with the root of a tree of 3 leaves, a caller who says
    4 is not contradicted, because the path of leaf 0 has the same form in both. Raises LogProofFailed.
    """
    _check_lengths([root, *proof])
    # 1. The index is within the tree.
    if not 0 <= index < size:
        raise LogProofFailed(problem="the entry's index is not within the tree")
    # 2. and 3. fn is the node's index in its level, sn the index of the level's last node; r is the node's hash.
    fn, sn = index, size - 1
    r = leaf_hash(entry)
    # 4. Up one level for each p.
    for p in proof:
        if sn == 0:
            raise LogProofFailed(problem="it has more hashes than the tree has levels")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            fn, sn = _skip_levels_without_sibling(fn, sn)
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    # 5. That was the root.
    if sn != 0:
        raise LogProofFailed(problem="it has fewer hashes than the tree needs")
    if r != root:
        raise LogProofFailed(problem="it does not lead from the entry to the root")


def check_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """The old tree's leaves are the first leaves of the new tree: RFC 9162 §2.1.4.2, its step numbers.

    Each size and its root must come from one signed checkpoint, as for `check_inclusion`. Raises LogProofFailed.
    """
    _check_lengths([old_root, new_root, *proof])
    if not 0 <= old_size <= new_size:
        raise LogProofFailed(problem="the old tree is larger than the new one")
    if 0 in (old_size, new_size) or old_size == new_size:
        _check_without_proof(old_size, old_root, new_size, new_root, proof)
        return
    # 1. Different trees need a proof.
    if not proof:
        raise LogProofFailed(problem="it is empty, and the trees differ")
    # 2. An old tree that is perfect is itself the node to start from.
    path = [old_root, *proof] if old_size.bit_count() == 1 else list(proof)
    # 3. and 4. Up to the root of the old tree's last perfect subtree.
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    # 5. fr grows to the old root and sr to the new one.
    fr = sr = path[0]
    # 6. Up one level for each c: a left sibling is in both trees, a right one in the new tree only.
    for c in path[1:]:
        if sn == 0:
            raise LogProofFailed(problem="it has more hashes than the tree has levels")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            fn, sn = _skip_levels_without_sibling(fn, sn)
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    # 7. Those were the roots.
    if sn != 0:
        raise LogProofFailed(problem="it has fewer hashes than the tree needs")
    if fr != old_root:
        raise LogProofFailed(problem="it does not lead to the old root")
    if sr != new_root:
        raise LogProofFailed(problem="it does not lead to the new root")


def _check_without_proof(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """The cases that the RFC leaves out: everything extends the empty tree, and a tree extends itself only."""
    if proof:
        raise LogProofFailed(problem="it is not empty, and there is nothing to prove")
    for size, root in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and root != EMPTY_ROOT:
            raise LogProofFailed(problem="the root of a tree without leaves is another one")
    if old_size == new_size and old_root != new_root:
        raise LogProofFailed(problem="two trees of one size have different roots")


def _skip_levels_without_sibling(fn: int, sn: int) -> tuple[int, int]:
    """Up past the levels in which the node was the odd last one and moved up as it was."""
    while not fn & 1 and fn != 0:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_lengths(hashes: Sequence[bytes]) -> None:
    # Inner nodes concatenate: parts of 31 and 33 bytes would hash like two of 32.
    if any(len(part) != HASH_BYTES for part in hashes):
        raise LogProofFailed(problem="a hash does not have 32 bytes")
