"""Private scoring: the plain scorecard's number, whatever the bins, and a named error for each way to go wrong."""

import hashlib
import itertools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import (
    BadCiphertext,
    BadKeyProof,
    BadScoreModel,
    BinTooSmall,
    CeibaError,
    ConsentExpired,
    KeyTooShort,
    MalformedMessage,
    NoDomain,
    ScoreSaysTooMuch,
    SeedReused,
    SetMismatch,
)
from ceiba_protocol.expression import ColumnValue, Comparing, Number, Part
from ceiba_protocol.linkage import scoring
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators, random_unit
from ceiba_protocol.linkage.score_model import (
    Bins,
    PrivateWeights,
    ScoreModel,
    bins_at,
    bins_of,
    bits_for,
    check_bits,
    check_model,
    check_points,
    check_population,
    combinations,
    encrypt_weights,
    feature_of,
    histogram_plan,
    most_bits,
    terms_of,
    weights_digest,
)
from ceiba_protocol.linkage.scoring import (
    HolderModel,
    MaskKeys,
    Score,
    ScoreAnswer,
    ScoreRefusal,
    ScoreRequest,
    absent,
    answered_by_all,
    blinding_bound,
    check_answer,
    coordinator_combine,
    holder_score,
    merchant_open,
    merchant_read,
    open_reasons,
    ready_model,
    reasons_for,
    request_context,
    run_score,
    score_context,
    seal_reasons,
)
from ceiba_protocol.plan import ByCase, ByColumn, LabelBranch, compile_plan, grouped_sums
from ceiba_protocol.program import SUBJECT, Comparison, evaluate
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.paillier import Encryptor, decode_ciphertexts, decrypt, encode_ciphertexts, encode_modulus
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.roster import EncryptionKey
from tests.support.keys import keypair
from tests.support.scorecards import FEATURES, MINE, POINTS, SCHEMAS, SENIORITY, column, model, product
from tests.support.seeded import seeded

PUBLIC, PRIVATE = keypair(256)
N = int(PUBLIC.n)
SEALING_SECRET = bytes(range(32))
HOLDERS = ("insurance", "register", "tax")
FIRM: Mapping[str, Mapping[str, int | None]] = {
    "insurance": {"months": 50, "late": 1},
    "register": {"kind": 2},
    "tax": {"sales": 6000},
}
ALL_BINS = tuple(bins_of(feature.key, SCHEMAS[feature.table]) for feature in FEATURES)


def plain_score(rows: Mapping[str, Mapping[str, int | None]]) -> int:
    """The scorecard with every cut written out by hand."""
    insurance, register, tax = (rows.get(holder) for holder in HOLDERS)
    months = None if insurance is None else insurance["months"]
    late = None if insurance is None else insurance["late"]
    sales = None if tax is None else tax["sales"]
    seniority = 5 if months is None else 0 if months < 12 else 4 if months >= 120 else 1 + (months - 12) // 36
    total = POINTS[0][seniority] + POINTS[1][2 if late is None else late]
    total += POINTS[2][3] if register is None else POINTS[2][register["kind"] or 0]
    return total + POINTS[3][0 if sales is None else 1 if sales >= 5000 else 2 if sales >= 100 else 3]


class World:
    """A model that three holders have approved, under a test key that no proof was asked for."""

    def __init__(self, made: ScoreModel, points: Any = POINTS, scores: int = 1) -> None:
        self.blob = b""
        if isinstance(made.weights, PrivateWeights):
            self.blob = encrypt_weights(points, made.bits, Encryptor.for_count(N, 17, os.urandom))
            weights = PrivateWeights(blob_digest=weights_digest(self.blob))
            made = made.model_copy(update={"weights": weights})
        self.model = made
        check_model(made, self.blob, N)
        self.secrets = {holder: os.urandom(32) for holder in made.holders}
        self.keys = {holder: x25519_public_key(secret) for holder, secret in self.secrets.items()}
        consents = tuple(Digest(hashlib.sha256(bytes([at])).hexdigest()) for at in range(scores))
        self.request = ScoreRequest(request_id=os.urandom(16).hex(), model_digest=made.digest(), consents=consents)
        self.obfuscators = FullObfuscators(N, os.urandom)

    @property
    def context(self) -> bytes:
        return request_context(self.model, self.request, self.keys)

    def ready(self, me: str) -> HolderModel:
        peers = {peer: key for peer, key in self.keys.items() if peer != me}
        return scoring._ready(self.model, self.blob, me, self.bins(me), MaskKeys(self.secrets[me], peers), N)

    def bins(self, me: str) -> tuple[Bins, ...]:
        return bins_at(self.model, me, SCHEMAS[self.model.side_of(me).table])

    def answer(
        self, me: str, places: list[list[int]], refusals: tuple[ScoreRefusal, ...] = ()
    ) -> tuple[ScoreAnswer, bytes]:
        """To each consent, `places` in turn, unless it is refused."""
        ready, parts, reasons = self.ready(me), [], []
        for place, bins in enumerate(places):
            if place not in {refusal.place for refusal in refusals}:
                one = score_context(self.context, self.request.consents[place])
                parts.append(holder_score(ready, bins, one, self.obfuscators, os.urandom))
                if plain := reasons_for(ready, bins):
                    reasons.append(seal_reasons(plain, one, me, x25519_public_key(SEALING_SECRET)).hex())
        ciphertexts = encode_ciphertexts(parts, N)
        answer = ScoreAnswer(
            request_id=self.request.request_id,
            model_digest=self.model.digest(),
            holder=me,
            context_digest=Digest(self.context.hex()),
            refusals=refusals,
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            reasons=tuple(reasons),
        )
        return answer, ciphertexts

    def places(self, rows: Mapping[str, Mapping[str, int | None]]) -> dict[str, list[int]]:
        return {
            holder: [one.of(evaluate(one.key.node, rows[holder])) for one in self.ready(holder).bins]
            if holder in rows
            else absent(self.ready(holder))
            for holder in self.model.holders
        }

    def read(self, answers: Mapping[str, tuple[ScoreAnswer, bytes]]) -> list[Score | CeibaError]:
        for holder, (answer, ciphertexts) in answers.items():
            check_answer(answer, ciphertexts, holder, self.model, self.request, self.context, N)
        return merchant_read(self.model, self.request, answers, self.context, PRIVATE, SEALING_SECRET)


# --- honest parties --------------------------------------------------------------------------------------------


@given(
    months=st.none() | st.integers(0, 600),
    late=st.none() | st.integers(0, 1),
    kind=st.integers(0, 2),
    sales=st.none() | st.integers(0, 100_000),
    known=st.sets(st.sampled_from(HOLDERS)),
)
@settings(max_examples=60, deadline=None)
def test_the_score_is_the_plain_scorecards(
    months: int | None, late: int | None, kind: int, sales: int | None, known: set[str]
) -> None:
    rows = {"insurance": {"months": months, "late": late}, "register": {"kind": kind}, "tax": {"sales": sales}}
    rows = {holder: row for holder, row in rows.items() if holder in known}
    assert run_score(model(), SCHEMAS, POINTS, rows, keypair(256), os.urandom) == plain_score(rows)


@pytest.mark.parametrize("kind", [model, product])
def test_private_model_and_product_give_the_same_number(kind: Any) -> None:
    assert run_score(kind(), SCHEMAS, POINTS, FIRM, keypair(256), seeded("one")) == 4 - 80 + 40 + 31


@pytest.mark.parametrize("kind", [model, product])
def test_one_holder_scores_alone_without_masks(kind: Any) -> None:
    rows = {"registry": {**FIRM["insurance"], **FIRM["register"], **FIRM["tax"]}}
    assert run_score(kind(features=MINE), SCHEMAS, POINTS, rows, keypair(256), os.urandom) == plain_score(FIRM)


@pytest.mark.parametrize(("points", "score"), [(-(2**23), -(2**23)), (2**23 - 1, 2**23 - 1)])
def test_scores_reach_from_end_to_end_of_their_bits(points: int, score: int) -> None:
    extreme = ((points,) * 6, (0,) * 3, (0,) * 4, (0,) * 4)
    assert run_score(model(), SCHEMAS, extreme, FIRM, keypair(256), os.urandom) == score


@pytest.mark.parametrize("points", [-(2**23) - 1, 2**23])
def test_points_that_leave_the_bits_are_refused(points: int) -> None:
    extreme = ((points, 0, 0, 0, 0, 0), (0,) * 3, (0,) * 4, (0,) * 4)
    with pytest.raises(BadScoreModel, match="24 bits"):
        encrypt_weights(extreme, 24, Encryptor.for_count(N, 4, os.urandom))
    with pytest.raises(BadScoreModel, match="24 bits"):
        check_model(product(extreme), b"", N)
    check_points(extreme, 25)


def test_a_batch_has_each_score_and_each_refusal_at_its_place() -> None:
    world = World(model(), scores=3)
    error = ConsentExpired(at="then", now="now")
    refusal = ScoreRefusal(place=1, code=error.code, fields=error.fields)
    firm, unknown = world.places(FIRM), world.places({})
    answers = {
        holder: world.answer(
            holder, [firm[holder], firm[holder], unknown[holder]], (refusal,) if holder == "tax" else ()
        )
        for holder in HOLDERS
    }
    first, second, third = world.read(answers)
    assert (first, third) == (Score(plain_score(FIRM), {}), Score(plain_score({}), {}))
    assert isinstance(second, ConsentExpired) and second.fields == error.fields
    assert answered_by_all(answers, 3) == [0, 2]


def test_when_every_consent_is_refused_there_is_nothing_to_open() -> None:
    world = World(model())
    refusal = ScoreRefusal(place=0, code="consent_used", fields={})
    answers = {holder: world.answer(holder, [world.places(FIRM)[holder]], (refusal,)) for holder in HOLDERS}
    assert coordinator_combine(answers, 1, N) == b""
    assert [type(one).__name__ for one in world.read(answers)] == ["ConsentUsed"]


def test_a_product_names_the_features_that_cost_most_and_no_more_than_agreed() -> None:
    world = World(product(reasons=2))
    firm = world.places(FIRM)
    (score,) = world.read({holder: world.answer(holder, [firm[holder]]) for holder in HOLDERS})
    assert isinstance(score, Score)
    # insurance: late costs 12 + 80, seniority 25 − 4; register and tax have their best bins.
    assert score == Score(plain_score(FIRM), {"insurance": ("late", "seniority"), "register": (), "tax": ()})
    one = World(product(reasons=1))
    assert reasons_for(one.ready("insurance"), firm["insurance"]) == b"\x00\x01"
    assert len(reasons_for(world.ready("tax"), [0])) == len(reasons_for(world.ready("tax"), [1])) == 4


def test_a_private_model_has_no_reasons() -> None:
    world = World(model())
    assert reasons_for(world.ready("insurance"), [0, 0]) == b""
    answer, ciphertexts = world.answer("insurance", [[0, 0]])
    leaky = answer.model_copy(update={"reasons": ("00",)})
    with pytest.raises(MalformedMessage, match="reasons"):
        check_answer(leaky, ciphertexts, "insurance", world.model, world.request, world.context, N)


@pytest.mark.parametrize("plain", [b"\x00\x02\xff\xff", b"\x00\x00", b""], ids=["another's feature", "too few", "none"])
def test_reasons_that_are_not_the_holders_are_refused(plain: bytes) -> None:
    made, context = product(reasons=2), bytes(32)
    sealed = seal_reasons(plain, context, "insurance", x25519_public_key(SEALING_SECRET))
    with pytest.raises(MalformedMessage, match="insurance"):
        open_reasons(sealed, context, "insurance", made, SEALING_SECRET)
    good = seal_reasons(b"\x00\x01\xff\xff", context, "insurance", x25519_public_key(SEALING_SECRET))
    assert open_reasons(good, context, "insurance", made, SEALING_SECRET) == ("late",)
    with pytest.raises(MalformedMessage):  # sealed for another score
        open_reasons(good, bytes([1]) * 32, "insurance", made, SEALING_SECRET)


# --- bins ------------------------------------------------------------------------------------------------------


def test_bins_are_the_cells_of_a_histogram_over_the_same_key() -> None:
    rows: list[dict[str, int | None]] = [
        {"months": months, "late": 0} for months in (0, 11, 12, 47, 48, 119, 120, None, None)
    ]
    counts = [0] * ALL_BINS[0].count
    for row in rows:
        counts[ALL_BINS[0].of(evaluate(ALL_BINS[0].key.node, row))] += 1
    schema = SCHEMAS["insurance.firms"]
    compiled = compile_plan(histogram_plan(schema.table, SENIORITY, schema.digest()), schema)
    totals = grouped_sums(compiled, [{**row, SUBJECT: at} for at, row in enumerate(rows)])
    assert counts == totals[1::2] == [2, 2, 1, 1, 1, 2]


def test_the_missing_bin_is_where_a_row_of_nulls_falls() -> None:
    assert [one.missing for one in ALL_BINS] == [5, 2, 3, 0]
    assert [one.count for one in ALL_BINS] == [6, 3, 4, 4]  # the kind, which may not be NULL, has one bin more
    assert ALL_BINS[2].of(None) == 3 and ALL_BINS[2].of(2) == 2


def test_a_nulls_own_bin_is_not_confused_with_the_missing_one() -> None:
    """Where NULL and "none filed" are two bins, a NULL is in its own."""
    known = Comparing(
        op="compare", comparison=Comparison.LESS, left=ColumnValue(name="months"), right=Number(value="12")
    )
    late = Comparing(
        op="compare", comparison=Comparison.EQUAL, left=ColumnValue(name="late"), right=ColumnValue(name="late")
    )
    key = ByCase(name="k", branches=(LabelBranch(when=known, label="new"), LabelBranch(when=late, label="told")))
    bins = bins_of(key, SCHEMAS["insurance.firms"])
    assert (bins.missing, bins.of(None), bins.count) == (2, 2, 3)
    with pytest.raises(KeyError):
        bins.of(7)


def test_a_key_without_a_public_domain_or_of_a_split_makes_no_bins() -> None:
    with pytest.raises(NoDomain):
        bins_of(ByColumn(name="m", column="months"), SCHEMAS["insurance.firms"])
    half = Comparing(op="compare", comparison=Comparison.EQUAL, left=Part(seed="s", parts=2), right=Number(value="0"))
    key = ByCase(name="half", branches=(LabelBranch(when=half, label="first"),))
    with pytest.raises(BadScoreModel, match="split"):
        bins_of(key, SCHEMAS["insurance.firms"])


def test_the_features_name_may_be_any() -> None:
    for name in ("n", "m", "n" * 63):
        key = ByColumn(name=name, column="late")
        assert bins_of(key, SCHEMAS["insurance.firms"]).key.name == name


@pytest.mark.parametrize(
    ("subjects", "grade", "passes"),
    [
        ([9, 5, 5, 7, 6, 5], "internal", True),
        ([9, 5, 4, 7, 6, 5], "internal", False),
        ([9, 5, 0, 7, 6, 5], "internal", True),
        ([9, 5, 5, 7, 6, 1], "internal", False),  # also the missing bin
        ([9, 5, 5, 7, 6, 0], "sensitive", True),
        ([9, 5, 0, 7, 6, 5], "sensitive", False),
    ],
)  # fmt: skip
def test_no_bin_may_isolate(subjects: list[int], grade: Any, passes: bool) -> None:
    rules = {rule.grade.value: rule for rule in RULES.values()}[grade]
    if passes:
        check_population(ALL_BINS[0], subjects, rules, 5, "insurance")
        return
    with pytest.raises(BinTooSmall, match="seniority") as caught:
        check_population(ALL_BINS[0], subjects, rules, 5, "insurance")
    assert caught.value.fields == {"feature": "seniority", "least": "5", "holder": "insurance"}


def test_a_private_model_has_no_bins_in_which_nobody_is() -> None:
    """They would raise the number of bits that its scores may have."""
    rules = RULES[Grade.INTERNAL]
    check_population(ALL_BINS[0], [9, 5, 5, 7, 6, 0], rules, 5, "insurance", is_private=True)
    with pytest.raises(BinTooSmall, match="seniority"):
        check_population(ALL_BINS[0], [9, 5, 0, 7, 6, 5], rules, 5, "insurance", is_private=True)


# --- models that are refused -----------------------------------------------------------------------------------


def good_blob() -> bytes:
    return encrypt_weights(POINTS, 24, Encryptor.for_count(N, 17, os.urandom))


def test_a_models_blob_is_the_one_that_it_names() -> None:
    blob = good_blob()
    made = model(weights=PrivateWeights(blob_digest=weights_digest(blob)))
    check_model(made, blob, N)
    with pytest.raises(BadScoreModel, match="names"):
        check_model(made, good_blob(), N)


@pytest.mark.parametrize(
    "change", [lambda blob: blob[64:], lambda blob: blob + blob[:64], lambda blob: blob[:-1], lambda _: b""]
)
def test_a_blob_with_another_number_of_ciphertexts_is_refused(change: Any) -> None:
    blob = change(good_blob())
    with pytest.raises(BadScoreModel, match="one ciphertext for each bin"):
        check_model(model(weights=PrivateWeights(blob_digest=weights_digest(blob))), blob, N)


def test_a_blob_with_a_ciphertext_that_is_no_unit_is_refused() -> None:
    blob = int(PRIVATE.p).to_bytes(64, "big") + good_blob()[64:]
    with pytest.raises(BadCiphertext, match="bank"):
        check_model(model(weights=PrivateWeights(blob_digest=weights_digest(blob))), blob, N)


def test_another_key_is_refused() -> None:
    blob = good_blob()
    made = model(weights=PrivateWeights(blob_digest=weights_digest(blob)))
    with pytest.raises(BadScoreModel, match="key"):
        check_model(made, blob, int(keypair(1024)[0].n))


def test_a_holder_compares_schema_and_bins_with_its_own() -> None:
    schema, made = SCHEMAS["tax.firms"], model()
    assert [one.count for one in bins_at(made, "tax", schema)] == [4]
    with pytest.raises(BadScoreModel, match=r"tax\.firms"):
        bins_at(made, "tax", schema.model_copy(update={"version": 2}))
    with pytest.raises(SetMismatch):
        bins_at(made, "police", schema)
    counted = FEATURES[3].model_copy(update={"bins": 5})
    with pytest.raises(BadScoreModel, match="number of bins"):
        bins_at(model(features=(*FEATURES[:3], counted)), "tax", schema)


@pytest.mark.parametrize("points", [POINTS[:3], (*POINTS[:3], POINTS[3][:3]), (*POINTS, (1,))])
def test_a_product_has_points_for_each_bin(points: Any) -> None:
    with pytest.raises(BadScoreModel, match="points for each bin"):
        check_model(product(points), b"", N)


def test_a_product_has_no_ciphertexts() -> None:
    with pytest.raises(BadScoreModel, match="no ciphertexts"):
        check_model(product(), good_blob(), N)


def test_bins_are_limited() -> None:
    wide = Schema(table="tax.firms", columns=(column("code", domain=tuple(map(str, range(100)))),))
    with pytest.raises(BadScoreModel, match="101 bins"):  # one is for NULL
        feature_of("tax", ByColumn(name="code", column="code"), wide)
    many = tuple(
        FEATURES[0].model_copy(update={"bins": 100, "key": ByColumn(name=f"c{at}", column="late")}) for at in range(41)
    )
    with pytest.raises(BadScoreModel, match="4100 bins"):
        check_model(model(features=many), b"", N)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": FEATURES[1:3]},
        {"features": FEATURES[::-1]},
        {"features": (*FEATURES[:2], FEATURES[1], *FEATURES[2:])},
        {"sides": model().sides[1:]},
        {"sides": model().sides[::-1]},
        {"sides": (*model().sides[:2], model().sides[2].model_copy(update={"table": "police.firms"}))},
        {"bits": 1},
        {"bits": 33},
    ],
    ids=[
        "two features",
        "not sorted",
        "one name twice",
        "a side missing",
        "sides not sorted",
        "another table",
        "few bits",
        "many bits",
    ],
)
def test_what_is_no_model(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


def test_a_private_score_has_half_as_many_bits_as_its_bins_at_most() -> None:
    """6·3·4·4 = 288 ways to be in bins, more than 4⁴ and fewer than 4⁵."""
    assert combinations(FEATURES) == 288 and most_bits(FEATURES) == 4
    check_bits(model(bits=4))
    with pytest.raises(ScoreSaysTooMuch, match="of 5 bits") as caught:
        check_bits(model(bits=5))
    assert "fit 4 bits" in caught.value.what_to_do and "make 10 bits" in caught.value.what_to_do
    check_bits(product(bits=24))  # its points everybody sees


def test_a_column_that_is_read_again_says_nothing_more() -> None:
    finer = FEATURES[0].model_copy(
        update={"key": FEATURES[0].key.model_copy(update={"name": "finer"}), "bins": FEATURES[0].bins + 1}
    )
    assert combinations((*FEATURES, FEATURES[3])) == combinations(FEATURES)
    assert combinations((FEATURES[0], finer)) == finer.bins
    elsewhere = [feature.model_copy(update={"holder": "registry"}) for feature in FEATURES]
    assert combinations((*FEATURES, *elsewhere)) == 288**2


@pytest.mark.parametrize(
    ("points", "bits"),
    [([[0], [0]], 2), ([[1, -2]], 2), ([[2, 0]], 3), ([[-3, 0]], 3), ([[-4, 3]], 3), ([[255], [-256, 0]], 9),
     ([[2**40]], 42)],
)  # fmt: skip
def test_the_fewest_bits_that_all_sums_fit(points: list[list[int]], bits: int) -> None:
    assert bits_for(points) == bits
    check_points(points, bits)
    if bits > 2:
        with pytest.raises(BadScoreModel):
            check_points(points, bits - 1)


def test_terms_and_holders_follow_from_the_model() -> None:
    terms = terms_of(model())
    assert (terms.merchant, terms.holders, terms.purpose) == ("bank", HOLDERS, "credit decision")
    assert terms.model_digest == model().digest() != model(purpose="another").digest()


# --- the holder's step -----------------------------------------------------------------------------------------


def test_the_key_proof_is_verified_before_a_model_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world, context = World(model()), key_context("bank", bytes(32), "K1", "long-lived")
    peers = {peer: key for peer, key in world.keys.items() if peer != "tax"}
    key = EncryptionKey(modulus=encode_modulus(N).hex(), proof=prove_key(PRIVATE, context).hex())
    arguments = (world.model, world.blob, "tax", world.bins("tax"), MaskKeys(world.secrets["tax"], peers))
    with pytest.raises(KeyTooShort):
        ready_model(*arguments, (key, context))
    monkeypatch.setattr("ceiba_protocol.sums.paillier.MINIMUM_KEY_BITS", 256)
    assert ready_model(*arguments, (key, context)).me == "tax"
    with pytest.raises(BadKeyProof):
        ready_model(*arguments, (key, key_context("mallory", bytes(32), "K1", "long-lived")))


def test_the_set_of_mask_keys_is_the_models() -> None:
    world = World(model())
    for peers in ({}, {"insurance": bytes(32)}, {holder: bytes(32) for holder in HOLDERS}):
        with pytest.raises(SetMismatch):
            scoring._ready(world.model, world.blob, "tax", world.bins("tax"), MaskKeys(bytes(32), peers), N)


def test_a_holder_reads_only_its_own_features() -> None:
    ready = World(model()).ready("register")
    assert [one.key.name for one in ready.bins] == ["kind"] and len(ready.factors[0]) == 4
    assert not ready.is_designated and "secret" not in repr(ready.masks)


def test_answers_have_one_size_whoever_is_asked_about() -> None:
    firm, nobody = (World(product()) for _ in range(2))
    known, unknown = firm.answer("tax", [[1]]), nobody.answer("tax", [absent(nobody.ready("tax"))])
    assert len(known[1]) == len(unknown[1]) == 64
    assert len(known[0].body()) == len(unknown[0].body())


def test_a_context_masks_once_in_a_process() -> None:
    world = World(model())
    world.answer("tax", [[0]])
    with pytest.raises(SeedReused):
        world.answer("tax", [[1]])


@given(bits=st.integers(8, 32), holders=st.integers(1, 8), n=st.integers(2**200, 2**256))
def test_blinding_fills_the_plaintexts_and_never_wraps(bits: int, holders: int, n: int) -> None:
    bound = blinding_bound(n, bits, holders)
    largest = holders * (bound - 1) * 2**bits + 2**bits - 1
    assert largest < n < holders * (bound + 1) * 2**bits


@pytest.mark.parametrize(("holders", "excess"), [(1, 0.0), (2, 0.28), (4, 0.75), (8, 1.25)])
def test_the_channels_capacity_on_a_toy_modulus(holders: int, excess: float) -> None:
    """PROTOCOL §5.5: log2 n − H(2^L·Σρ), exactly, by convolution."""
    bits, n = 4, 2**16 + 1
    bound = blinding_bound(n, bits, holders)
    one = np.full(bound, 1 / bound)
    total = one
    for _ in range(holders - 1):
        total = np.convolve(total, one)
    entropy = -float(np.sum(total * np.log2(total, where=total > 0, out=np.zeros_like(total))))
    assert math.log2(n) - entropy - bits == pytest.approx(excess, abs=0.02)


def test_an_obfuscator_is_a_power_of_a_unit() -> None:
    n = 7 * 11  # most residues of so small a modulus are none
    units = {int(random_unit(n, seeded(str(at)))) for at in range(400)}
    assert units == {unit for unit in range(1, n) if math.gcd(unit, n) == 1}
    obfuscators = FullObfuscators(N, os.urandom)
    obfuscators.fill(3)
    assert decrypt(PRIVATE, [obfuscators.take() for _ in range(5)]) == [0] * 5  # also once the pool is empty
    assert "unused" in repr(obfuscators)


# --- disagreement and bad answers ------------------------------------------------------------------------------


def scores_of(parts: dict[str, Any]) -> list[int]:
    product = 1
    for part in parts.values():
        product = product * int(part) % N**2
    return merchant_open(encode_ciphertexts([product], N), PRIVATE, 24)


@pytest.mark.parametrize("differs", ["context", "mask key"])
def test_masks_of_holders_that_disagree_do_not_cancel(differs: str) -> None:
    """Then the number is uniform in 2^24: right with probability 2^-24 in each of the tries."""
    world = World(model())
    right = plain_score(FIRM)
    for attempt in range(3):
        contexts = {holder: hashlib.sha256(bytes([attempt])).digest() for holder in HOLDERS}
        readies = {holder: world.ready(holder) for holder in HOLDERS}
        if differs == "context":
            contexts["tax"] = os.urandom(32)
        else:
            peers = {**readies["tax"].masks.peers, "register": x25519_public_key(os.urandom(32))}
            masks = MaskKeys(world.secrets["tax"], peers)
            readies["tax"] = scoring._ready(world.model, world.blob, "tax", world.bins("tax"), masks, N)
        parts = {
            holder: holder_score(
                readies[holder], world.places(FIRM)[holder], contexts[holder], world.obfuscators, os.urandom
            )
            for holder in HOLDERS
        }
        assert scores_of(parts) != [right]


def test_everything_that_holders_must_agree_on_is_in_the_context() -> None:
    world = World(model())
    other_model = world.model.model_copy(update={"bits": 25})
    other_request = world.request.model_copy(update={"request_id": "11" * 16})
    other_consents = world.request.model_copy(update={"consents": (Digest("22" * 32),)})
    other_keys = {**world.keys, "tax": bytes(32)}
    contexts = {
        world.context,
        request_context(other_model, world.request, world.keys),
        request_context(world.model, other_request, world.keys),
        request_context(world.model, other_consents, world.keys),
        request_context(world.model, world.request, other_keys),
        score_context(world.context, world.request.consents[0]),
        score_context(world.context, Digest("22" * 32)),
    }
    assert len(contexts) == 7


def test_request_context_by_hand() -> None:
    world = World(model())

    def lengths_first(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    members = [lengths_first(holder.encode(), world.keys[holder]) for holder in HOLDERS]
    chosen = hashlib.sha256(lengths_first(b"ceiba/v1/score-set", *members)).digest()
    digests = (bytes.fromhex(world.model.digest()), bytes.fromhex(world.request.digest()), chosen)
    assert world.context == hashlib.sha256(lengths_first(b"ceiba/v1/score-ctx", *digests)).digest()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"holder": "tax"}, "another request or set"),
        ({"request_id": "00" * 16}, "another request or set"),
        ({"model_digest": Digest("00" * 32)}, "another request or set"),
        ({"context_digest": Digest("00" * 32)}, "another request or set"),
        ({"refusals": (ScoreRefusal(place=1, code="x", fields={}),)}, "not asked"),
        ({"refusals": (ScoreRefusal(place=0, code="x", fields={}),)}, "0 ciphertexts"),
        ({"ciphertext_digest": Digest("00" * 32)}, "signed"),
    ],
)
def test_an_answer_to_something_else_is_refused(change: dict[str, Any], problem: str) -> None:
    world = World(model())
    answer, ciphertexts = world.answer("register", [[1]])
    check_answer(answer, ciphertexts, "register", world.model, world.request, world.context, N)
    with pytest.raises((MalformedMessage, BadCiphertext), match=problem):
        check_answer(
            answer.model_copy(update=change), ciphertexts, "register", world.model, world.request, world.context, N
        )


def test_refusals_and_consents_are_distinct() -> None:
    answer, _ = World(model()).answer("register", [[1]])
    twice = tuple(ScoreRefusal(place=0, code="x", fields={}) for _ in range(2))
    with pytest.raises(ValidationError):
        ScoreAnswer(**{**dict(answer), "refusals": twice})
    with pytest.raises(ValidationError):
        ScoreRequest(request_id="00" * 16, model_digest=Digest("00" * 32), consents=(Digest("00" * 32),) * 2)


def test_a_missing_holder_is_noticed_before_anything_is_shown() -> None:
    world = World(model())
    answers = {holder: world.answer(holder, [world.places(FIRM)[holder]]) for holder in HOLDERS[:2]}
    with pytest.raises(SetMismatch):
        world.read(answers)


def test_every_subset_of_holders_opens_to_noise() -> None:
    world = World(model())
    parts = {
        holder: decode_ciphertexts(world.answer(holder, [world.places(FIRM)[holder]])[1], N, holder)[0]
        for holder in HOLDERS
    }
    seen = {
        scores_of({holder: parts[holder] for holder in some})[0]
        for size in (1, 2)
        for some in itertools.combinations(HOLDERS, size)
    }
    assert len(seen) == 6 and plain_score(FIRM) not in seen
    assert scores_of(parts) == [plain_score(FIRM)]
