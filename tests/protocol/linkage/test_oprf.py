"""Tokens: known answers of RFC 9496 and 9497, intersections as sets have them, and every refusal by its name."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import rbcl
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import (
    BadGroupElement,
    BadKeyUse,
    BadTokens,
    CeibaError,
    CountNotKept,
    IntersectionTooSmall,
    LinkageTooLarge,
    MalformedMessage,
    RepeatedIdentifier,
    SetMismatch,
)
from ceiba_protocol.linkage import oprf, ristretto
from ceiba_protocol.linkage.key_use import BASE, SUITE, prove_use, verify_use
from ceiba_protocol.linkage.oprf import (
    DiffieHellman,
    Evaluator,
    JobKey,
    Linkage,
    Owner,
    decode_tokens,
    encode_tokens,
    intersect,
    published_size,
    run_linkage,
)
from ceiba_protocol.trust.agreement import Mode
from tests.support.seeded import seeded
from tests.vectors.rebuild import FOLDER

RFC9497 = json.loads((FOLDER / "rfc9497.json").read_text(encoding="utf-8"))
CASES = [(mode, vector) for mode in RFC9497["modes"] for vector in mode["vectors"]]
CASE_IDS = [f"mode {mode['mode']}, {len(vector['inputs'])}: {vector['inputs'][0][:4]}" for mode, vector in CASES]
ORDER = 2**252 + 27742317777372353535851937790883648493
JOB = bytes(range(32))


def scalar(value: int) -> bytes:
    return (value % ORDER).to_bytes(32, "little")


def suite(mode: int) -> bytes:
    return b"OPRFV1-" + bytes([mode]) + b"-ristretto255-SHA512"


def from_hex(values: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


# --- the group -------------------------------------------------------------------------------------------------


def test_multiples_of_the_base_are_those_of_rfc_9496() -> None:
    expected = [
        "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
        "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
        "94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259",
    ]
    for number, encoding in enumerate(expected, 1):
        assert ristretto.base_multiply(scalar(number)).hex() == encoding
        assert ristretto.multiply(scalar(number), BASE).hex() == encoding
    one, two, three = from_hex(expected)
    assert ristretto.add(one, two) == three
    assert ristretto.subtract(three, two) == one


@given(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1))
@settings(max_examples=25, deadline=None)
def test_scalars_are_integers_modulo_the_order(left: int, right: int) -> None:
    assert ristretto.multiply_scalars(scalar(left), scalar(right)) == scalar(left * right)
    assert ristretto.subtract_scalars(scalar(left), scalar(right)) == scalar(left - right)
    assert ristretto.invert(scalar(left)) == scalar(pow(left, -1, ORDER))


def test_only_integers_from_one_to_the_order_are_scalars() -> None:
    assert ristretto.is_scalar(scalar(1)) and ristretto.is_scalar((ORDER - 1).to_bytes(32, "little"))
    for value in (b"", bytes(31), bytes(32), b"\1" + bytes(32), ORDER.to_bytes(32, "little"), b"\xff" * 32):
        assert not ristretto.is_scalar(value)


def test_a_random_scalar_is_not_zero() -> None:
    draws = iter([bytes(64), (ORDER * 3).to_bytes(64, "little"), scalar(7) + bytes(32)])
    assert ristretto.random_scalar(lambda size: next(draws)) == scalar(7)


def test_random_points_are_points_and_differ() -> None:
    random = seeded("points")
    points = [ristretto.random_point(random) for _ in range(20)]
    assert ristretto.decode_points(ristretto.encode_points(points), "north") == points
    assert len(set(points)) == 20


BAD_ENCODINGS = {  # RFC 9496, appendix A.2, but the first four
    "identity": ("00" * 32, "the identity"),
    "shorter": ("e2f2ae0a", "not a multiple of 32"),
    "longer": (BASE.hex() + "00", "not a multiple of 32"),
    "highest bit": (BASE[:31].hex() + f"{BASE[31] | 0x80:02x}", "not the encoding"),
    "not canonical": ("00" + "ff" * 31, "not the encoding"),
    "not canonical in 255 bits": ("ed" + "ff" * 30 + "7f", "not the encoding"),
    "negative field element": ("01" + "00" * 31, "not the encoding"),
    "not a square": ("26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371", "not the encoding"),
    "negative product": ("3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e", "not the encoding"),
    "minus one": ("ec" + "ff" * 30 + "7f", "not the encoding"),
}


@pytest.mark.parametrize("name", BAD_ENCODINGS)
def test_what_is_no_point_is_refused_wherever_it_stands(name: str) -> None:
    encoding, problem = BAD_ENCODINGS[name]
    for before in (0, 100):
        with pytest.raises(BadGroupElement, match=problem) as caught:
            ristretto.decode_points(BASE * before + bytes.fromhex(encoding), "north")
        assert caught.value.fields["member"] == "north"


@pytest.mark.parametrize(
    "action",
    [
        lambda: ristretto.multiply(scalar(2), bytes(32)),
        lambda: ristretto.multiply(scalar(0), BASE),
        lambda: ristretto.multiply(scalar(2), BASE[:31]),
        lambda: ristretto.multiply(b"\2", BASE),
        lambda: ristretto.multiply_all(scalar(2), [BASE] * 99 + [b"\1" + bytes(31)]),
        lambda: ristretto.add(BASE, b"\1" + bytes(31)),
        lambda: ristretto.base_multiply(scalar(0)),
        lambda: ristretto.invert(scalar(0)),
    ],
)
def test_nothing_is_computed_with_what_is_neither_point_nor_scalar(action: Callable[[], object]) -> None:
    with pytest.raises(BadGroupElement):
        action()


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_batches_keep_their_order_on_any_number_of_cores(
    cores: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    points = ristretto.hash_all([b"%d" % number for number in range(count)], b"test")
    assert points == [ristretto.hash_to_group(b"%d" % number, b"test") for number in range(count)]
    twice = ristretto.multiply_all(scalar(2), points)
    assert twice == [ristretto.add(point, point) for point in points] == ristretto.add_all(points, points)
    assert ristretto.decode_points(ristretto.encode_points(twice), "north") == twice
    total = ristretto.weighted_sum([scalar(2)] * count, points)
    expected = bytes(32)
    for point in twice:
        expected = ristretto.add(expected, point)
    assert total == expected


def test_no_copy_of_the_library_stays_behind() -> None:
    assert not Path(rbcl._sodium._name).exists()


# --- RFC 9497 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "vector"), CASES, ids=CASE_IDS)
def test_keys_blinds_evaluations_and_outputs_are_those_of_rfc_9497(
    mode: dict[str, Any], vector: dict[str, Any]
) -> None:
    context, secret = suite(mode["mode"]), bytes.fromhex(mode["secret_key"])
    info = bytes.fromhex(RFC9497["key_info"])
    derivation = bytes.fromhex(RFC9497["seed"]) + len(info).to_bytes(2, "big") + info + b"\0"
    assert ristretto.hash_to_scalar(derivation, b"DeriveKeyPair" + context) == secret
    assert mode["public_key"] in (None, ristretto.base_multiply(secret).hex())

    inputs, blinds = from_hex(vector["inputs"]), from_hex(vector["blinds"])
    points = ristretto.hash_all(inputs, b"HashToGroup-" + context)
    blinded = [ristretto.multiply(blind, point) for blind, point in zip(blinds, points, strict=True)]
    assert blinded == from_hex(vector["blinded"])
    evaluated = ristretto.multiply_all(secret, blinded)
    assert evaluated == from_hex(vector["evaluated"])
    for blind, value, point, output in zip(blinds, inputs, evaluated, from_hex(vector["outputs"]), strict=True):
        unblinded = ristretto.multiply(ristretto.invert(blind), point)
        parts = [len(part).to_bytes(2, "big") + part for part in (value, unblinded)]
        assert hashlib.sha512(b"".join(parts) + b"Finalize").digest() == output


VERIFIABLE = [(mode, vector) for mode, vector in CASES if mode["mode"] == 1]


@pytest.mark.parametrize(("mode", "vector"), VERIFIABLE, ids=["first", "second", "batch of two"])
def test_proofs_are_those_of_rfc_9497(mode: dict[str, Any], vector: dict[str, Any]) -> None:
    assert suite(1) == SUITE
    blinded, evaluated = from_hex(vector["blinded"]), from_hex(vector["evaluated"])
    drawn = bytes.fromhex(vector["proof_scalar"]) + bytes(32)
    proof = prove_use(bytes.fromhex(mode["secret_key"]), blinded, evaluated, SUITE, lambda size: drawn)
    assert proof.hex() == vector["proof"]
    verify_use(bytes.fromhex(mode["public_key"]), blinded, evaluated, SUITE, proof, "north")


# --- proofs ----------------------------------------------------------------------------------------------------


def batch_with_proof(context: bytes = SUITE) -> dict[str, Any]:
    secret = scalar(12345)
    inputs = ristretto.hash_all([b"a", b"b", b"c"], b"test")
    outputs = ristretto.multiply_all(secret, inputs)
    return {
        "public": ristretto.base_multiply(secret),
        "inputs": inputs,
        "outputs": outputs,
        "context": context,
        "proof": prove_use(secret, inputs, outputs, context, seeded("proof")),
    }


def changed_bit(value: bytes, place: int) -> bytes:
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


WRONG = {
    "another key": lambda it: it | {"public": BASE},
    "another context": lambda it: it | {"context": it["context"] + b"!"},
    "an input exchanged": lambda it: it | {"inputs": [BASE, *it["inputs"][1:]]},
    "an output exchanged": lambda it: it | {"outputs": [*it["outputs"][:2], BASE]},
    "outputs in another order": lambda it: it | {"outputs": it["outputs"][::-1]},
    "pairs in another order": lambda it: it | {"inputs": it["inputs"][::-1], "outputs": it["outputs"][::-1]},
    "fewer pairs": lambda it: it | {"inputs": it["inputs"][:2], "outputs": it["outputs"][:2]},
    "another challenge": lambda it: it | {"proof": changed_bit(it["proof"], 0)},
    "another response": lambda it: it | {"proof": changed_bit(it["proof"], 32)},
    "empty": lambda it: it | {"proof": b""},
    "shorter": lambda it: it | {"proof": it["proof"][:-1]},
    "zeros": lambda it: it | {"proof": bytes(64)},
    "a response beyond the order": lambda it: (
        it | {"proof": it["proof"][:32] + (int.from_bytes(it["proof"][32:], "little") + ORDER).to_bytes(32, "little")}
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_proof_of_anything_else_is_refused(name: str) -> None:
    verify_use(**batch_with_proof(), member="north")
    with pytest.raises(BadKeyUse) as caught:
        verify_use(**WRONG[name](batch_with_proof()), member="north")
    assert caught.value.fields["member"] == "north"


def test_two_wrong_outputs_that_cancel_are_refused() -> None:
    """The weights of a batch are hashes, so errors cannot be chosen to vanish in the sum."""
    it = batch_with_proof()
    first, second, third = it["outputs"]
    it["outputs"] = [ristretto.add(first, BASE), ristretto.subtract(second, BASE), third]
    it["proof"] = prove_use(scalar(12345), it["inputs"], it["outputs"], SUITE, seeded("proof"))
    with pytest.raises(BadKeyUse):
        verify_use(**it, member="north")


# --- a linkage in parts ----------------------------------------------------------------------------------------


IDENTIFIERS = {
    "tax": ["a", "b", "c", "d", "e"],
    "fund": ["e", "d", "x", "b"],
    "register": ["z", "d", "e", "b", "y", "c"],
}


class Space:
    """Holders that have announced; batches are of two identifiers."""

    def __init__(self, *holders: str, job: bytes = JOB, limit: int = 10) -> None:
        self.random = seeded("space")
        self.identifiers = {holder: IDENTIFIERS[holder] for holder in holders}
        self.keys = {holder: JobKey(job, holder, self.random) for holder in holders}
        self.announcements = {holder: self.keys[holder].announce(len(IDENTIFIERS[holder])) for holder in holders}
        self.linkage = Linkage.of(job, self.announcements, limit)

    def owner(self, holder: str) -> Owner:
        return Owner(self.linkage, holder, self.keys[holder], self.identifiers[holder], self.random)

    def evaluator(self, holder: str, owner: str) -> Evaluator:
        return Evaluator(self.linkage, holder, self.keys[holder], owner, self.random)

    def side(self, holder: str) -> DiffieHellman:
        return DiffieHellman(self.linkage, holder, self.keys[holder], self.identifiers[holder])

    def finished(self, holder: str) -> Owner:
        owner = self.owner(holder)
        sides = {other: self.evaluator(other, holder) for other in self.linkage.others(holder)}
        for batch in self.linkage.batches(holder):
            blinded = owner.blind(batch)
            owner.finish(batch, {other: side.evaluate(batch, blinded) for other, side in sides.items()})
        return owner


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf, "BATCH", 2)


def test_a_token_is_the_hash_that_the_protocol_states() -> None:
    space = Space("tax", "fund")
    key = sum(int.from_bytes(one.secret, "little") for one in space.keys.values())
    tokens = set(decode_tokens(space.finished("tax").submission(), "tax"))
    for identifier in IDENTIFIERS["tax"]:
        (point,) = space.linkage.to_group([identifier])
        y = ristretto.multiply(scalar(key), point)
        message = b"ceiba/v1/tok" + space.linkage.digest + b"\0\1" + identifier.encode() + y
        assert hashlib.sha512(message).digest()[:32] in tokens


def test_an_identifier_is_another_point_in_every_linkage() -> None:
    linkages = [Space("tax", "fund", job=job).linkage for job in (JOB, bytes(32))]
    for linkage in linkages:
        message = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ceiba/v1/id", linkage.digest, b"a"))
        assert linkage.to_group(["a"]) == [ristretto.hash_to_group(message, b"HashToGroup-" + SUITE)]
    assert linkages[0].to_group(["a"]) != linkages[1].to_group(["a"])


def test_the_linkage_digest_depends_on_all_that_must_agree() -> None:
    linkage = Space("tax", "fund").linkage
    others = [
        Linkage(bytes(32), linkage.sizes, linkage.public_keys),
        Linkage(JOB, {**linkage.sizes, "tax": 6}, linkage.public_keys),
        Linkage(JOB, linkage.sizes, {**linkage.public_keys, "tax": BASE}),
        Linkage(JOB, {**linkage.sizes, "new": 5}, {**linkage.public_keys, "new": BASE}),
    ]
    assert len({one.digest for one in (linkage, *others)}) == 5
    swapped = Linkage(JOB, dict(reversed(linkage.sizes.items())), linkage.public_keys)
    assert swapped.digest == linkage.digest


@given(st.lists(st.sets(st.text(max_size=3), min_size=1, max_size=7), min_size=2, max_size=3))
@settings(max_examples=15, deadline=None)
def test_a_linkage_finds_what_sets_have_in_common(sets: list[set[str]]) -> None:
    identifiers = {f"holder-{number}": sorted(one) for number, one in enumerate(sets)}
    common = set.intersection(*sets)
    found = run_linkage(identifiers, Mode.REVEALED, 0, 10, seeded("property"))
    assert found.size == len(common)
    assert all(set(own) == common and len(own) == len(common) for own in found.matches.values())
    assert len({tuple(own) for own in found.matches.values()}) == 1, "rows are not aligned"
    counted = run_linkage(identifiers, Mode.CARDINALITY, 0, 10, seeded("property"))
    assert counted.size == published_size(len(common))
    assert not counted.matches


@pytest.mark.parametrize("holders", [2, 3])
@pytest.mark.parametrize("mode", [Mode.CARDINALITY, Mode.REVEALED])
def test_an_intersection_below_the_minimum_is_not_told(holders: int, mode: Mode) -> None:
    identifiers = dict(itertools.islice(IDENTIFIERS.items(), holders))
    run_linkage(identifiers, mode, 3, 10, seeded("minimum"))
    with pytest.raises(IntersectionTooSmall) as caught:
        run_linkage(identifiers, mode, 4, 10, seeded("minimum"))
    assert caught.value.fields == {"minimum": "4"}


def test_small_sizes_are_published_to_the_nearest_ten() -> None:
    rounded = {0: 0, 4: 0, 5: 10, 14: 10, 15: 20, 994: 990, 999: 1000, 1000: 1000, 1001: 1001, 23456: 23456}
    assert {size: published_size(size) for size in rounded} == rounded


def test_secrets_do_not_print() -> None:
    space = Space("tax", "fund")
    owner = space.owner("tax")
    owner.blind(0)
    for one in (space.keys["tax"], owner, space.evaluator("fund", "tax"), space.side("tax"), space.linkage):
        assert space.keys["tax"].secret.hex() not in repr(one)
        assert repr(space.keys["tax"].secret) not in repr(one)
        assert "'a'" not in repr(one), "an identifier"


# --- announcements ---------------------------------------------------------------------------------------------


def refused_announcement(change: Callable[[bytes, Space], bytes]) -> CeibaError:
    space = Space("tax", "fund")
    changed = space.announcements | {"fund": change(space.announcements["fund"], space)}
    with pytest.raises(CeibaError) as caught:
        Linkage.of(JOB, changed, 10)
    return caught.value


def test_an_announcement_needs_the_key_that_it_names() -> None:
    """Otherwise the last to announce could choose a key that cancels the others': K − ΣK_j."""

    def cancelling(_: bytes, space: Space) -> bytes:
        rogue = ristretto.subtract(BASE, space.keys["tax"].public)
        return space.announcements["fund"][:8] + rogue + space.announcements["fund"][40:]

    assert isinstance(refused_announcement(cancelling), BadKeyUse)
    assert isinstance(refused_announcement(lambda own, space: space.announcements["tax"]), BadKeyUse), "another's"
    assert isinstance(refused_announcement(lambda own, _: bytes(7) + b"\3" + own[8:]), BadKeyUse), "another size"
    assert isinstance(refused_announcement(lambda own, _: own[:-64] + bytes(64)), BadKeyUse)
    other_job = JobKey(bytes(32), "fund", seeded("other")).announce(4)
    assert isinstance(refused_announcement(lambda own, _: other_job), BadKeyUse)


def test_malformed_announcements_are_refused() -> None:
    assert isinstance(refused_announcement(lambda own, _: own[:-1]), MalformedMessage)
    assert isinstance(refused_announcement(lambda own, _: own + b"\0"), MalformedMessage)
    assert isinstance(refused_announcement(lambda own, _: own[:8] + bytes(32) + own[40:]), BadGroupElement)
    assert isinstance(refused_announcement(lambda own, _: own[:8] + b"\xff" * 32 + own[40:]), BadGroupElement)


def test_more_identifiers_than_the_quota_are_refused() -> None:
    Space("tax", "fund", limit=5)
    with pytest.raises(LinkageTooLarge) as caught:
        Space("tax", "fund", limit=4)
    assert caught.value.fields == {"member": "tax", "announced": "5", "limit": "4"}


def test_a_linkage_takes_two() -> None:
    with pytest.raises(SetMismatch):
        Space("tax")


# --- evaluation ------------------------------------------------------------------------------------------------


def test_each_batch_is_evaluated_once_and_none_beyond_what_was_announced() -> None:
    space = Space("tax", "fund")
    evaluator, owner = space.evaluator("fund", "tax"), space.owner("tax")
    assert list(space.linkage.batches("tax")) == [0, 1, 2]
    with pytest.raises(CountNotKept, match="3 batches are missing"):
        evaluator.check_complete()
    evaluator.evaluate(1, owner.blind(1))
    for batch in (1, 3, -1):
        with pytest.raises(CountNotKept, match="one too many"):
            evaluator.evaluate(batch, owner.blind(1))
    with pytest.raises(CountNotKept, match="has 2 of 1"):
        evaluator.evaluate(2, owner.blind(1))
    with pytest.raises(CountNotKept, match="has 1 of 2"):
        evaluator.evaluate(0, owner.blind(2))
    evaluator.evaluate(2, owner.blind(2))
    with pytest.raises(CountNotKept, match="1 batches are missing"):
        evaluator.check_complete()
    evaluator.evaluate(0, owner.blind(0))
    evaluator.check_complete()


@pytest.mark.parametrize("blinded", [bytes(32) + BASE, BASE + b"\xff" * 32, BASE + BASE, BASE + BASE[:31]])
def test_the_evaluator_refuses_what_is_no_batch_of_points(blinded: bytes) -> None:
    evaluator = Space("tax", "fund").evaluator("fund", "tax")
    with pytest.raises(BadGroupElement) as caught:
        evaluator.evaluate(0, blinded)
    assert caught.value.fields["member"] == "tax"


def test_a_blind_is_fresh_for_every_batch_and_holder() -> None:
    space = Space("tax", "fund")
    owner = space.owner("tax")
    first, again = owner.blind(0), owner.blind(0)
    assert first != again
    points = space.linkage.to_group(IDENTIFIERS["tax"][:2])
    assert not set(ristretto.decode_points(first, "tax")) & set(points)


def answers_to(owner: Owner, space: Space, batch: int = 0) -> dict[str, bytes]:
    blinded = owner.blind(batch)
    return {other: space.evaluator(other, "tax").evaluate(batch, blinded) for other in space.linkage.others("tax")}


ANSWERS = {
    "points of another key": (lambda own, space: own["register"], BadKeyUse),
    "points exchanged": (lambda own, space: own["fund"][32:64] + own["fund"][:32] + own["fund"][64:], BadKeyUse),
    "no proof": (lambda own, space: own["fund"][:64] + bytes(64), BadKeyUse),
    "a point less": (lambda own, space: own["fund"][32:], MalformedMessage),
    "a point more": (lambda own, space: BASE + own["fund"], MalformedMessage),
    "empty": (lambda own, space: b"", MalformedMessage),
    "the identity": (lambda own, space: bytes(32) + own["fund"][32:], BadGroupElement),
    "not canonical": (lambda own, space: b"\xff" * 32 + own["fund"][32:], BadGroupElement),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_owner_refuses_wrong_answers(name: str) -> None:
    space = Space("tax", "fund", "register")
    owner = space.owner("tax")
    own = answers_to(owner, space)
    change, error = ANSWERS[name]
    with pytest.raises(error, match="fund"):
        owner.finish(0, own | {"fund": change(own, space)})
    owner.finish(0, own)
    for batch in (0, 1):
        with pytest.raises(MalformedMessage, match="not asked for, or is finished"):
            owner.finish(batch, own)


def test_a_proof_for_another_batch_owner_or_linkage_is_refused() -> None:
    space = Space("tax", "fund")
    owner = space.owner("tax")
    blinded = owner.blind(0)
    points = ristretto.decode_points(blinded, "tax")
    shares = ristretto.multiply_all(space.keys["fund"].secret, points)
    others = [
        space.linkage.proof_context("tax", "fund", 1),
        space.linkage.proof_context("fund", "fund", 0),
        space.linkage.proof_context("tax", "tax", 0),
        Linkage(bytes(32), space.linkage.sizes, space.linkage.public_keys).proof_context("tax", "fund", 0),
        SUITE,
    ]
    for context in others:
        proof = prove_use(space.keys["fund"].secret, points, shares, context, seeded("other"))
        with pytest.raises(BadKeyUse):
            owner.finish(0, {"fund": ristretto.encode_points(shares) + proof})
    right = space.linkage.proof_context("tax", "fund", 0)
    proof = prove_use(space.keys["fund"].secret, points, shares, right, seeded("other"))
    owner.finish(0, {"fund": ristretto.encode_points(shares) + proof})


def test_all_others_must_answer() -> None:
    space = Space("tax", "fund", "register")
    owner = space.owner("tax")
    answers = answers_to(owner, space)
    for wrong in ({"fund": answers["fund"]}, answers | {"tax": answers["fund"]}, {}):
        with pytest.raises(SetMismatch):
            owner.finish(0, wrong)


def test_nothing_half_linked_is_submitted() -> None:
    space = Space("tax", "fund")
    owner = space.owner("tax")
    owner.finish(0, answers_to(owner, space))
    with pytest.raises(CountNotKept, match="2 have a token"):
        owner.submission()


@pytest.mark.parametrize("side", [Space.owner, Space.side])
def test_a_holder_links_distinct_identifiers_as_many_as_it_announced(side: Callable[[Space, str], object]) -> None:
    space = Space("tax", "fund")
    space.identifiers["tax"] = ["a", "b", "a", "d", "e"]
    with pytest.raises(RepeatedIdentifier) as caught:
        side(space, "tax")
    assert caught.value.fields == {"holder": "tax"}, "how many there are is nobody's business"
    space.identifiers["tax"] = ["a", "b"]
    with pytest.raises(CountNotKept):
        side(space, "tax")


# --- the coordinator -------------------------------------------------------------------------------------------


def tokens(*numbers: int) -> bytes:
    return b"".join(bytes([number]) * 32 for number in numbers)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ({"tax": tokens(1, 3, 2), "fund": tokens(1, 2)}, BadTokens),
        ({"tax": tokens(1, 2, 2), "fund": tokens(1, 2)}, BadTokens),
        ({"tax": tokens(1, 2, 3)[:-1], "fund": tokens(1, 2)}, BadTokens),
        ({"tax": tokens(1, 2), "fund": tokens(1, 2)}, CountNotKept),
        ({"tax": tokens(1, 2, 3, 4), "fund": tokens(1, 2)}, CountNotKept),
        ({"tax": tokens(1, 2, 3)}, SetMismatch),
        ({"tax": tokens(1, 2, 3), "fund": tokens(1, 2), "new": b""}, SetMismatch),
        ({"tax": tokens(1, 2, 3), "fund": tokens(3, 4)}, IntersectionTooSmall),
    ],
)
def test_the_coordinator_refuses_submissions(sent: dict[str, bytes], error: type[CeibaError]) -> None:
    assert intersect({"tax": 3, "fund": 2}, {"tax": tokens(1, 2, 3), "fund": tokens(2, 3)}, 2)
    with pytest.raises(error):
        intersect({"tax": 3, "fund": 2}, sent, 2)


def test_a_holder_refuses_a_revealed_intersection_that_is_not_one() -> None:
    space = Space("tax", "fund")
    owner = space.finished("tax")
    own = decode_tokens(owner.submission(), "tax")
    assert [IDENTIFIERS["tax"][place] for place in owner.matches(encode_tokens(own[:3]), 3)]
    with pytest.raises(IntersectionTooSmall):
        owner.matches(encode_tokens(own[:2]), 3)
    for wrong in (tokens(0) + encode_tokens(own), b"".join(own[::-1]), own[0] * 3, encode_tokens(own)[:-1]):
        with pytest.raises(BadTokens) as caught:
            owner.matches(wrong, 1)
        assert caught.value.fields["member"] == "the coordinator"


# --- counting between two --------------------------------------------------------------------------------------


def test_both_make_the_same_token_for_the_same_subject_and_know_not_which() -> None:
    space = Space("tax", "fund")
    tax, fund = space.side("tax"), space.side("fund")
    of_tax = set(decode_tokens(fund.tokens_of_peer(tax.offer()), "fund"))
    of_fund = set(decode_tokens(tax.tokens_of_peer(fund.offer()), "tax"))
    assert len(of_tax & of_fund) == 3
    product = ristretto.multiply_scalars(space.keys["tax"].secret, space.keys["fund"].secret)
    shared = ristretto.multiply_all(product, space.linkage.to_group(IDENTIFIERS["tax"]))
    hashed = (hashlib.sha512(b"ceiba/v1/dh-tok" + space.linkage.digest + point).digest()[:32] for point in shared)
    assert set(hashed) == of_tax


def test_offers_are_as_announced_in_order_and_of_points() -> None:
    space = Space("tax", "fund")
    fund, offer = space.side("fund"), space.side("tax").offer()
    points = ristretto.decode_points(offer, "tax")
    refused = {
        b"".join(points[::-1]): BadTokens,
        b"".join(sorted([*points[1:], points[1]])): BadTokens,
        b"".join(points[1:]): CountNotKept,
        bytes(32) + b"".join(points[1:]): BadGroupElement,
        b"".join(points[:-1]) + b"\xff" * 32: BadGroupElement,
    }
    for wrong, error in refused.items():
        with pytest.raises(error):
            fund.tokens_of_peer(wrong)
    assert fund.tokens_of_peer(offer)


def test_diffie_hellman_takes_exactly_two() -> None:
    with pytest.raises(SetMismatch):
        Space("tax", "fund", "register").side("tax")
