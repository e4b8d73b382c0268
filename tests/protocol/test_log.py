"""The log as its holders see it: only growth is witnessed, and nobody is said to have signed what it did not."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import (
    BadSignature,
    LedgerRolledBack,
    LogProofFailed,
    MalformedDocument,
    MalformedMessage,
    UnknownMember,
)
from ceiba_protocol.trust.log import (
    OPERATOR,
    Checkpoint,
    body_digest,
    check_own,
    cosigners,
    entry_of,
    needed_cosignatures,
    read_checkpoint,
    witness,
)
from ceiba_protocol.trust.merkle import Frontier
from ceiba_protocol.trust.signing import sign
from tests.support.members import HOLDERS, LOG_KEY, MERCHANT, NOW, World, changed, signed_by, signing_key

WORLD = World()
DOCUMENTS = [WORLD.signed_manifest(), *WORLD.approvals(), *map(WORLD.refusal, HOLDERS)]
LOG = WORLD.log_of(DOCUMENTS)


def frontier_of(entries: Sequence[bytes]) -> Frontier:
    frontier = Frontier()
    for entry in entries:
        frontier = frontier.append(entry)
    return frontier


# --- witnessing --------------------------------------------------------------------------------------------------


@given(log=st.lists(st.binary(max_size=8), max_size=40), data=st.data())
def test_honest_growth_is_witnessed_in_any_batches(log: list[bytes], data: st.DataObject) -> None:
    ends = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=8)))
    frontier = Frontier()
    for end in [*ends, len(log)]:
        frontier = witness(frontier, log[frontier.size : end], WORLD.checkpoint(log[:end]))
        assert frontier == frontier_of(log[:end])


FORKS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda log: [log[0], b"other", *log[2:]],
    "dropped": lambda log: [log[0], *log[2:]],
    "inserted": lambda log: [log[0], b"other", *log[1:]],
    "reordered": lambda log: [log[1], log[0], *log[2:]],
    "twice": lambda log: [log[0], *log],
}


@pytest.mark.parametrize("what", FORKS)
@pytest.mark.parametrize("new", [False, True], ids=["in the past", "among the new"])
def test_another_log_than_the_checkpoints_is_refused(what: str, new: bool) -> None:
    """Whether the root or the delivered entries are false, and whether or not the holder has seen that part before."""
    seen = 0 if new else 3
    forked = FORKS[what](LOG)
    with pytest.raises(LogProofFailed):
        witness(frontier_of(LOG[:seen]), LOG[seen:], WORLD.checkpoint(forked))
    with pytest.raises(LogProofFailed):
        witness(frontier_of(forked[:seen]), forked[seen:], WORLD.checkpoint(LOG))


def test_a_rewritten_past_is_refused_though_its_end_is_delivered_honestly() -> None:
    forked = FORKS["changed"](LOG)
    with pytest.raises(LogProofFailed):
        witness(frontier_of(LOG[:3]), forked[3:], WORLD.checkpoint(forked))


def test_a_shrunken_log_is_refused_though_it_was_true_once() -> None:
    with pytest.raises(LogProofFailed, match="4 entries, and 5 were witnessed before"):
        witness(frontier_of(LOG[:5]), [], WORLD.checkpoint(LOG[:4]))


def test_two_roots_of_one_size_are_refused() -> None:
    other = WORLD.checkpoint(FORKS["reordered"](LOG))
    with pytest.raises(LogProofFailed):
        witness(frontier_of(LOG), [], other)
    with pytest.raises(LogProofFailed):
        witness(Frontier(), [], WORLD.checkpoint(LOG[:1], size=0))


@pytest.mark.parametrize("delivered", [LOG[4:-1], [*LOG[4:], b"more"], LOG, []], ids=["few", "many", "all", "none"])
def test_exactly_the_new_entries_must_be_delivered(delivered: list[bytes]) -> None:
    with pytest.raises(LogProofFailed):
        witness(frontier_of(LOG[:4]), delivered, WORLD.checkpoint(LOG))


def test_a_false_size_beside_the_true_root_is_refused() -> None:
    for size in (len(LOG) - 1, len(LOG) + 1):
        with pytest.raises(LogProofFailed):
            witness(frontier_of(LOG[:3]), LOG[3:], WORLD.checkpoint(LOG, size=size))


def test_only_the_operators_checkpoint_of_this_space_is_read() -> None:
    checkpoint = WORLD.checkpoint(LOG)
    assert read_checkpoint(signed_by(OPERATOR, checkpoint), WORLD.roster) == checkpoint
    refused = {
        "another space": (signed_by(OPERATOR, changed(checkpoint, space="other")), MalformedMessage),
        "another key": (sign(checkpoint, OPERATOR, signing_key("mallory")), BadSignature),
        "a holder's": (signed_by("zurich", checkpoint), MalformedMessage),
        "a holder's key in the operator's name": (sign(checkpoint, OPERATOR, signing_key("zurich")), BadSignature),
        "another document": (WORLD.release(), MalformedMessage),
        "a negative size": (signed_by(OPERATOR, changed(checkpoint, size=-1)), MalformedDocument),
    }
    for what, (signed, error) in refused.items():
        with pytest.raises(error):
            read_checkpoint(signed, WORLD.roster)
            pytest.fail(what)


def test_a_roster_with_another_log_key_reads_no_checkpoint() -> None:
    signed = signed_by(OPERATOR, WORLD.checkpoint(LOG))
    with pytest.raises(BadSignature):
        read_checkpoint(signed, changed(WORLD.roster, log_key=signing_key("mallory").public.hex()))
    assert WORLD.roster.log_key == LOG_KEY.public.hex()


# --- what a holder finds of itself -------------------------------------------------------------------------------


def ledger(*documents: int) -> Callable[[str, Digest], bool]:
    """Has these of DOCUMENTS."""
    known = {(DOCUMENTS[at].type, body_digest(DOCUMENTS[at])) for at in documents}
    return lambda kind, digest: (kind, digest) in known


OWN = [at for at, signed in enumerate(DOCUMENTS) if signed.signer == "hungary"]


def test_own_entries_that_the_ledger_knows_are_found_in_order() -> None:
    assert check_own(LOG, "hungary", ledger(*OWN)) == [body_digest(DOCUMENTS[at]) for at in OWN]
    assert len(OWN) == 2


@pytest.mark.parametrize("lost", OWN)
def test_an_own_entry_that_the_ledger_does_not_know_stops_everything(lost: int) -> None:
    with pytest.raises(LedgerRolledBack) as caught:
        check_own(LOG, "hungary", ledger(*(at for at in OWN if at != lost)))
    assert caught.value.fields == {"document": DOCUMENTS[lost].type.removeprefix("ceiba.v1."), "at": str(NOW + lost)}


def test_the_same_bytes_as_another_type_are_unknown() -> None:
    approval = DOCUMENTS[OWN[0]]
    entry = changed(entry_of(approval, NOW), type="ceiba.v1.Refusal").body()
    with pytest.raises(LedgerRolledBack):
        check_own([entry], "hungary", ledger(*OWN))


def test_others_entries_are_theirs() -> None:
    def never(kind: str, digest: Digest) -> bool:
        raise AssertionError(f"asked for {kind} {digest}")

    assert check_own(LOG, "geneva", never) == []


@pytest.mark.parametrize("body", [b"", b"{}", LOG[0] + b" ", LOG[0].replace(b'"at":', b'"at": ')])
def test_an_entry_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedDocument):
        check_own([body], "geneva", ledger())


def test_no_entry_tells_more_than_digests() -> None:
    """The log goes to every holder: neither a plan, nor a dataset version, nor a mask key is in it."""
    whole = b"".join(LOG)
    manifest = WORLD.manifest()
    for secret in (b"chol", b"health.heart", manifest.job_id.encode(), WORLD.pins["zurich"].version.encode()):
        assert secret not in whole
        assert any(secret in signed.body for signed in DOCUMENTS)


# --- cosignatures ------------------------------------------------------------------------------------------------

CHECKPOINT = WORLD.checkpoint(LOG)
SIGNED = signed_by(OPERATOR, CHECKPOINT)


def test_cosigners_are_those_asked_about_who_signed_these_very_bytes() -> None:
    by = {name: signed_by(name, CHECKPOINT) for name in HOLDERS}
    later = signed_by("zurich", changed(CHECKPOINT, at=NOW + 60))
    assert cosigners(SIGNED, by.values(), HOLDERS, WORLD.roster) == sorted(HOLDERS)
    assert cosigners(SIGNED, [by["zurich"], by["hungary"]], HOLDERS, WORLD.roster) == ["hungary", "zurich"]
    assert cosigners(SIGNED, [by["zurich"]] * 3, HOLDERS, WORLD.roster) == ["zurich"]
    assert cosigners(SIGNED, by.values(), ["cleveland"], WORLD.roster) == ["cleveland"]
    assert cosigners(SIGNED, [later, by["hungary"]], HOLDERS, WORLD.roster) == ["hungary"]
    assert cosigners(SIGNED, [], HOLDERS, WORLD.roster) == []


def test_no_cosignature_is_counted_that_is_no_holders_own() -> None:
    with pytest.raises(BadSignature):
        cosigners(SIGNED, [sign(CHECKPOINT, "zurich", signing_key("hungary"))], HOLDERS, WORLD.roster)
    for signer in (MERCHANT, OPERATOR, "mallory"):
        with pytest.raises(UnknownMember):
            cosigners(SIGNED, [signed_by(signer, CHECKPOINT)], (*HOLDERS, signer), WORLD.roster)


def test_another_document_of_the_holder_is_no_cosignature() -> None:
    with pytest.raises(MalformedMessage):
        cosigners(SIGNED, [WORLD.approval("zurich")], HOLDERS, WORLD.roster)
    relabelled = WORLD.approval("zurich")
    relabelled.type = "ceiba.v1.Checkpoint"
    with pytest.raises(BadSignature):
        cosigners(SIGNED, [relabelled], HOLDERS, WORLD.roster)


def test_needed_cosignatures_by_hand() -> None:
    assert {n: needed_cosignatures(n, 1) for n in range(3, 10)} == {3: 3, 4: 3, 5: 4, 6: 4, 7: 5, 8: 5, 9: 6}
    assert {n: needed_cosignatures(n, 2) for n in range(4, 8)} == {4: 4, 5: 4, 6: 5, 7: 5}


@pytest.mark.parametrize(("holders", "tolerated"), [(n, t) for n in range(3, 9) for t in range(3) if n >= t + 2])
def test_an_honest_holder_would_be_in_both_of_two_forks(holders: int, tolerated: int) -> None:
    """Any two sets of witnesses share more holders than may collude. One fewer would not do."""
    needed = needed_cosignatures(holders, tolerated)
    sets = [set(chosen) for chosen in itertools.combinations(range(holders), needed)]
    assert all(len(one & other) > tolerated for one, other in itertools.product(sets, sets))
    fewer = [set(chosen) for chosen in itertools.combinations(range(holders), needed - 1)]
    assert any(len(one & other) <= tolerated for one, other in itertools.product(fewer, fewer))


def test_a_checkpoints_bytes_are_the_same_whoever_signs_them() -> None:
    assert {signed_by(name, CHECKPOINT).body for name in (OPERATOR, *HOLDERS)} == {CHECKPOINT.body()}
    assert Checkpoint.parse(SIGNED.body) == CHECKPOINT
