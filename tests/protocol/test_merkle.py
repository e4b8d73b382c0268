"""The Merkle tree against RFC 6962's own recursive definition, with every proof of every tree of up to 64 leaves."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.errors import LogProofFailed, MalformedMessage
from ceiba_protocol.trust.merkle import (
    EMPTY_ROOT,
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

MOST = 64
ENTRIES = [b"entry %d" % number for number in range(MOST)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
OTHER = hashlib.sha256(b"in no tree").digest()
SIZES = range(MOST + 1)


# --- the definition, RFC 6962 §2.1, as it is written there; D[low:high] of ENTRIES ------------------------------


def split(low: int, high: int) -> int:
    """low + k, where k is the largest power of two smaller than high − low."""
    return low + (1 << (high - low - 1).bit_length() - 1)


@cache
def mth(low: int, high: int) -> bytes:
    if low == high:
        return hashlib.sha256().digest()
    if high - low == 1:
        return hashlib.sha256(b"\x00" + ENTRIES[low]).digest()
    middle = split(low, high)
    return hashlib.sha256(b"\x01" + mth(low, middle) + mth(middle, high)).digest()


def path(index: int, low: int, high: int) -> list[bytes]:
    if high - low == 1:
        return []
    middle = split(low, high)
    if index < middle:
        return [*path(index, low, middle), mth(middle, high)]
    return [*path(index, middle, high), mth(low, middle)]


def subproof(old: int, low: int, high: int, whole: bool) -> list[bytes]:
    """`old` counts from 0, not from `low`."""
    if old == high:
        return [] if whole else [mth(low, high)]
    middle = split(low, high)
    if old <= middle:
        return [*subproof(old, low, middle, whole), mth(middle, high)]
    return [*subproof(old, middle, high, False), mth(low, middle)]


def turns(index: int, low: int, high: int) -> str:
    """The form of a path: on which side each sibling lies, from the leaf up."""
    if high - low == 1:
        return ""
    middle = split(low, high)
    return turns(index, low, middle) + "R" if index < middle else turns(index, middle, high) + "L"


def is_accepted(check: Callable[..., None], *arguments: object) -> bool:
    try:
        check(*arguments)
    except LogProofFailed:
        return False
    return True


def spoilt(proof: list[bytes]) -> Iterator[list[bytes]]:
    """The proof with one element changed, cut, dropped, doubled or added, or two swapped, at every place."""
    for at, part in enumerate(proof):
        before, after = proof[:at], proof[at + 1 :]
        yield [*before, OTHER, *after]
        yield [*before, part[:-1] + bytes([part[-1] ^ 1]), *after]
        yield [*before, part[:-1], *after]
        yield [*before, part + b"\x00", *after]
        yield [*before, *after]
        yield [*before, part, part, *after]
        yield [*before, OTHER, part, *after]
        if after:
            yield [*before, after[0], part, *after[1:]]
    yield [*proof, OTHER]
    yield [*proof, b""]


def others(right: int) -> set[int]:
    """Wrong numbers in place of the right one: none, the neighbours, and all that differ in one bit of seven."""
    return ({-1, 0, right - 1, right + 1} | {right ^ 1 << bit for bit in range(7)}) - {right}


# --- known answers ---------------------------------------------------------------------------------------------

CT_LEAVES = [
    leaf_hash(bytes.fromhex(entry))
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
"""The test vectors of Certificate Transparency's reference implementation."""


@pytest.mark.parametrize(
    ("size", "root"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        (6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_known_roots(size: int, root: str) -> None:
    assert root_of(CT_LEAVES, size).hex() == root


def test_known_proofs() -> None:
    assert [part.hex() for part in inclusion_proof(CT_LEAVES, 5, 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [part.hex() for part in consistency_proof(CT_LEAVES, 6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_leaves_and_nodes_hash_apart() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)


# --- every tree of up to 64 leaves, by the definition -----------------------------------------------------------


def test_every_root_is_the_defined_one() -> None:
    assert [root_of(LEAVES, size) for size in SIZES] == [mth(0, size) for size in SIZES]


@pytest.mark.parametrize("size", SIZES[1:])
def test_every_inclusion_proof_is_the_defined_one_and_holds(size: int) -> None:
    for index in range(size):
        proof = inclusion_proof(LEAVES, index, size)
        assert proof == path(index, 0, size)
        check_inclusion(ENTRIES[index], index, size, proof, mth(0, size))


@pytest.mark.parametrize("new", SIZES)
def test_every_consistency_proof_is_the_defined_one_and_holds(new: int) -> None:
    for old in range(new + 1):
        proof = consistency_proof(LEAVES, old, new)
        assert proof == ([] if old == 0 else subproof(old, 0, new, True))
        check_consistency(old, mth(0, old), new, mth(0, new), proof)


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES[1:])
def test_no_changed_inclusion_proof_holds(size: int) -> None:
    root = mth(0, size)
    for index in range(size):
        entry, proof = ENTRIES[index], inclusion_proof(LEAVES, index, size)
        assert not any(is_accepted(check_inclusion, entry, index, size, bad, root) for bad in spoilt(proof))
        for wrong in others(index):
            assert not is_accepted(check_inclusion, entry, wrong, size, proof, root)
        for other in (OTHER, b"", entry + b"\x00", ENTRIES[index - 1]):
            assert not is_accepted(check_inclusion, other, index, size, proof, root)
        for bad_root in (OTHER, EMPTY_ROOT, root[:-1], b"", root + b"\x00"):
            assert not is_accepted(check_inclusion, entry, index, size, proof, bad_root)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_path_beyond_the_top_is_refused_though_it_leads_to_the_root(size: int) -> None:
    proof, root = inclusion_proof(LEAVES, size - 1, size), mth(0, size)
    for beyond in (node_hash(OTHER, root), node_hash(root, OTHER)):
        with pytest.raises(LogProofFailed, match="more hashes"):
            check_inclusion(ENTRIES[size - 1], size - 1, size, [*proof, OTHER], beyond)


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_inclusion_proof_holds_in_no_tree_of_another_size(size: int) -> None:
    for index in range(size):
        entry, proof = ENTRIES[index], inclusion_proof(LEAVES, index, size)
        for wrong in others(size) & set(SIZES):
            assert not is_accepted(check_inclusion, entry, index, wrong, proof, mth(0, wrong))


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_false_size_beside_the_true_root_is_refused_unless_the_path_has_the_same_form(size: int) -> None:
    for index in range(size):
        entry, proof = ENTRIES[index], inclusion_proof(LEAVES, index, size)
        for wrong in others(size):
            same_form = index < wrong and turns(index, 0, wrong) == turns(index, 0, size)
            assert is_accepted(check_inclusion, entry, index, wrong, proof, mth(0, size)) == same_form


@pytest.mark.parametrize("new", SIZES)
def test_no_changed_consistency_proof_holds(new: int) -> None:
    new_root = mth(0, new)
    for old in range(new + 1):
        old_root, proof = mth(0, old), consistency_proof(LEAVES, old, new)
        assert not any(is_accepted(check_consistency, old, old_root, new, new_root, bad) for bad in spoilt(proof))
        for wrong in others(old):
            assert not is_accepted(check_consistency, wrong, old_root, new, new_root, proof)
        for bad_root in (OTHER, old_root[:-1], old_root + b"\x00", b""):
            assert not is_accepted(check_consistency, old, bad_root, new, new_root, proof)
        for bad_root in (new_root[:-1], new_root + b"\x00", b""):
            assert not is_accepted(check_consistency, old, old_root, new, bad_root, proof)
        # Every tree of at least one leaf extends the empty one.
        assert is_accepted(check_consistency, old, old_root, new, OTHER, proof) == (old == 0 and new > 0)


@pytest.mark.parametrize("new", SIZES[1:])
def test_a_consistency_proof_holds_for_no_tree_of_another_size(new: int) -> None:
    for old in range(1, new + 1):
        proof = consistency_proof(LEAVES, old, new)
        for wrong in others(new) & set(SIZES):
            assert not is_accepted(check_consistency, old, mth(0, old), wrong, mth(0, wrong), proof)
        for wrong in others(old) & set(SIZES[1:]):
            assert not is_accepted(check_consistency, wrong, mth(0, wrong), new, mth(0, new), proof)


@pytest.mark.parametrize("changed", range(7))
def test_a_rewritten_log_has_no_consistency_proof(changed: int) -> None:
    forged = [*LEAVES[:changed], OTHER, *LEAVES[changed + 1 :]]
    for new in range(8, 20):
        proof = consistency_proof(forged, 7, new)
        with pytest.raises(LogProofFailed, match="old root"):
            check_consistency(7, mth(0, 7), new, root_of(forged, new), proof)


def test_two_trees_of_one_size_are_a_fork() -> None:
    with pytest.raises(LogProofFailed, match="one size"):
        check_consistency(5, mth(0, 5), 5, OTHER, [])


def test_a_shrunken_log_is_refused() -> None:
    with pytest.raises(LogProofFailed, match="larger"):
        check_consistency(8, mth(0, 8), 7, mth(0, 7), consistency_proof(LEAVES, 7, 8))


def test_hashes_cut_elsewhere_are_refused() -> None:
    """31 and 33 bytes concatenate to what 32 and 32 do, so the lengths have to be checked."""
    [left, right] = LEAVES[:2]
    moved = node_hash(left, right)
    assert node_hash(left + right[:1], right[1:]) == moved
    with pytest.raises(LogProofFailed, match="32 bytes"):
        check_consistency(1, left + right[:1], 2, moved, [right[1:]])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, -1), (0, MOST + 1)])
def test_no_inclusion_proof_is_made_beyond_the_log(index: int, size: int) -> None:
    with pytest.raises(MalformedMessage):
        inclusion_proof(LEAVES, index, size)


@pytest.mark.parametrize(("old", "new"), [(-1, 3), (4, 3), (1, MOST + 1), (0, -1), (0, MOST + 1)])
def test_no_consistency_proof_is_made_beyond_the_log(old: int, new: int) -> None:
    with pytest.raises(MalformedMessage):
        consistency_proof(LEAVES, old, new)


@pytest.mark.parametrize("size", [-1, MOST + 1])
def test_no_root_is_given_beyond_the_log(size: int) -> None:
    with pytest.raises(MalformedMessage):
        root_of(LEAVES, size)


# --- the frontier ----------------------------------------------------------------------------------------------


def appended(frontier: Frontier, entries: list[bytes]) -> Frontier:
    return reduce(Frontier.append, entries, frontier)


def test_a_frontier_holds_the_perfect_subtrees_largest_first() -> None:
    frontier = appended(Frontier(), ENTRIES[:13])
    assert frontier == Frontier(13, (mth(0, 8), mth(8, 12), mth(12, 13)))
    assert frontier.root() == mth(0, 13)


@given(st.lists(st.binary(max_size=70), max_size=40), st.data())
def test_a_frontier_has_the_root_wherever_the_appends_are_split(entries: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries)))
    leaves = [leaf_hash(entry) for entry in entries]
    first = appended(Frontier(), entries[:at])
    assert (first.size, first.root()) == (at, root_of(leaves, at))
    whole = appended(Frontier.from_bytes(first.to_bytes()), entries[at:])
    assert whole == appended(Frontier(), entries)
    assert (whole.size, whole.root()) == (len(entries), root_of(leaves, len(entries)))


def test_the_stored_form() -> None:
    assert Frontier().to_bytes() == bytes(8)
    assert appended(Frontier(), ENTRIES[:3]).to_bytes() == bytes(7) + b"\x03" + mth(0, 2) + mth(2, 3)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frontier_in_one_form_or_refused(data: bytes) -> None:
    try:
        frontier = Frontier.from_bytes(data)
    except MalformedMessage:
        assert data != bytes(8)
    else:
        assert frontier.to_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(9),
        bytes(7) + b"\x03" + bytes(32),
        bytes(7) + b"\x03" + bytes(63),
        bytes(7) + b"\x03" + bytes(65),
        bytes(7) + b"\x03" + bytes(96),
        bytes(7) + b"\x04" + bytes(64),
        bytes(8) + bytes(32),
    ],
)
def test_nonsense_is_no_frontier(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Frontier.from_bytes(data)


@pytest.mark.parametrize("size", [-1, 2**64])
def test_a_size_beyond_eight_bytes_is_no_frontier(size: int) -> None:
    with pytest.raises(MalformedMessage):
        Frontier(size, (OTHER,))


# --- size ------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_leaves() -> None:
    entries = [b"%d" % number for number in range(100_000)]
    leaves = [leaf_hash(entry) for entry in entries]
    root = root_of(leaves, 100_000)
    assert appended(Frontier(), entries).root() == root
    check_inclusion(entries[77_777], 77_777, 100_000, inclusion_proof(leaves, 77_777, 100_000), root)
    old_root = root_of(leaves, 65_537)
    check_consistency(65_537, old_root, 100_000, root, consistency_proof(leaves, 65_537, 100_000))
