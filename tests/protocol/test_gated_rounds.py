"""Whole jobs with a gate: what is released is right, what is not stays unknown, and no lie about it gives a number."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ceiba_protocol.whole_job
from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.gate import COUNT, LANES, pack_released
from ceiba_protocol.disclosure.grade import MILLION, RULES, Disclosure
from ceiba_protocol.errors import (
    BadSignature,
    CeibaError,
    ExactForbidden,
    GateTooLarge,
    MalformedMessage,
    NoiseTooCostly,
    SeedReused,
    SetMismatch,
    TotalRejected,
    UnknownMember,
)
from ceiba_protocol.plan import ROW_COUNT, Program, finish
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import (
    commit_to_set,
    contribute,
    leader_of,
    noise_for,
    open_gate,
    open_result,
    share_gate,
)
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.sums.masks import expand_words
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.sums.secure_sum import coordinator_multiply, merchant_open
from ceiba_protocol.trust.documents import GateShare, NoiseTerms, Submission
from ceiba_protocol.trust.hpke import open_sealed, seal_to
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import run_job, sealing_secret
from tests.support.keys import keypair
from tests.support.members import (
    NOW,
    SCHEMA,
    World,
    altered,
    changed,
    graded,
    holder,
    plan_of,
    resigned,
    signed_by,
)
from tests.support.pooled import pooled
from tests.support.seeded import seeded

INTERNAL, SENSITIVE = graded("internal"), graded("sensitive")
SQL = "SELECT sex, COUNT(*) AS n, SUM(age) AS years FROM health.heart GROUP BY sex"
OTHER_DIGEST = Digest("ab" * 32)
Shares = list[tuple[Signed, bytes]]


def crowd(sizes: Mapping[str, tuple[int, int]], seed: int = 0) -> dict[str, list[Row]]:
    """So many women and men at each holder, with ages from 20 to 119, one in eight without a measured cholesterol."""
    random = Random(seed)
    return {
        name: [
            {
                "sex": sex,
                "age": random.randint(20, 119),
                "chol": None if random.random() < 0.125 else random.randint(-200, 600),
            }
            for sex, count in enumerate(both)
            for _ in range(count)
        ]
        for name, both in sizes.items()
    }


MANY_WOMEN = crowd({"cleveland": (6, 1), "hungary": (7, 1), "zurich": (9, 1)})
"""Men are too few: one at each holder."""
FIRST, SECOND, THIRD = MANY_WOMEN


@pytest.fixture
def world() -> World:
    return World(MANY_WOMEN, plan_of(SQL, INTERNAL), schema=INTERNAL)


def answer(world: World) -> list[tuple[Any, ...]]:
    """What the merchant reads when everybody is honest."""
    opened = world.open(world.submissions)
    return finish(world.read().program, opened.sums, opened.sent, noisy=world.noise is not None)


# --- what is released is right -----------------------------------------------------------------------------------


def test_a_cell_of_many_is_released_and_a_cell_of_few_is_not(world: World) -> None:
    ((_, women, years),) = pooled(SQL + " HAVING sex = 'female'", MANY_WOMEN)
    assert answer(world) == [("female", women, years), ("male", WITHHELD, WITHHELD)]


def test_a_withheld_sum_is_not_even_in_the_ciphertext(world: World) -> None:
    """The merchant decrypts 0 in its place; nothing has to be hidden from it afterwards."""
    opened, truth = world.open(world.submissions), world.truth()
    assert opened.sent is not None
    assert opened.sent.tolist() == [[True, True, True], [False, False, False]]
    assert list(opened.sums) == [*truth[:3], 0, 0, 0] and all(truth[3:])


ROW = st.fixed_dictionaries(
    {
        "#subject": st.integers(0, 5),
        "sex": st.integers(0, 1),
        "age": st.none() | st.integers(0, 2),
        "chol": st.none(),
    }
)
TABLES = st.lists(st.lists(ROW, min_size=1, max_size=14), min_size=3, max_size=5)


def oracle(tables: Sequence[Sequence[Row]], least: int, cap: int, *, hides_zeros: bool) -> list[tuple[Any, ...]]:
    """The answer to SQL by the rules themselves, row by row."""
    rows: list[tuple[Any, ...]] = []
    for sex, label in enumerate(("female", "male")):
        cell = [[row for row in table if row["sex"] == sex] for table in tables]

        def holds(condition: Callable[[Row], bool], cell: Sequence[Sequence[Row]] = cell) -> bool:
            subjects = [len({row["#subject"] for row in table if condition(row)}) for table in cell]
            total = sum(min(one, cap) for one in subjects)
            return total >= least or (total == 0 and not hides_zeros)

        everybody = [row for table in cell for row in table]
        ages = [row["age"] for row in everybody if row["age"] is not None]
        shown = holds(lambda row: True)
        sum_shown = shown and holds(lambda row: row["age"] is not None) and holds(lambda row: bool(row["age"]))
        if shown and not everybody:
            continue
        n, years = len(everybody), (sum(ages) if ages else None)
        rows.append((label, n if shown else WITHHELD, years if sum_shown else WITHHELD))
    return rows


@pytest.mark.parametrize("hides_zeros", [False, True])
@settings(max_examples=60, deadline=None)
@given(tables=TABLES)
def test_any_rows_are_released_by_the_rules_and_are_those_without_a_gate(
    tables: list[list[Row]], hides_zeros: bool
) -> None:
    """Distinct subjects count, not rows; and suppression changes nothing about what is released."""
    schema, rows = (SENSITIVE if hides_zeros else INTERNAL), {f"h{at}": table for at, table in enumerate(tables)}
    world = World(rows, plan_of(SQL, schema), schema=schema)
    world.agreement = world.make_agreement(disclosure=changed(world.agreement.disclosure, minimum_subjects=5))
    found = answer(world)
    assert found == oracle(tables, 5, 2, hides_zeros=hides_zeros)
    public = {row[0]: row for row in answer(World(rows, plan_of(SQL)))}
    for label, *values in found:
        expected = public.get(label, (label, 0, None))[1:]
        assert all(value is WITHHELD or value == true for value, true in zip(values, expected, strict=True))


COUNTRY = crowd({"aachen": (40, 3), "berlin": (35, 1), "cologne": (50, 1), "dresden": (45, 0)}, seed=3)
QUESTIONS = {
    "every kind of sum": "SELECT sex, COUNT(*) AS n, SUM(age) AS a, AVG(chol) AS m, VAR_SAMP(age) AS v, "
    "CORR(age, chol) AS r FROM health.heart GROUP BY sex",
    "buckets": "SELECT width_bucket(age, 20, 120, 25) AS b, COUNT(*) AS n, SUM(chol) AS c FROM health.heart GROUP BY b",
    "two keys": "SELECT sex, width_bucket(age, 20, 120, 4) AS b, COUNT(*) AS n FROM health.heart GROUP BY sex, b",
    "a rare condition inside": "SELECT COUNT(*) AS n, COUNT(CASE WHEN age = 119 THEN 1 END) AS old, "
    "SUM(CASE WHEN age > 60 THEN age ELSE 0 END) AS s FROM health.heart",
    "a rare condition outside": "SELECT sex, COUNT(*) AS n FROM health.heart WHERE age > 115 GROUP BY sex",
}
ALL_WITHHELD = {"a rare condition outside"}


@pytest.mark.parametrize("grade", ["internal", "sensitive"])
@pytest.mark.parametrize("what", QUESTIONS)
def test_run_job_releases_what_duckdb_gives_or_nothing(what: str, grade: str) -> None:
    schema, sql = graded(grade), QUESTIONS[what]
    keys = sql.split("FROM")[1].count("GROUP BY") * (1 + sql.endswith("sex, b"))
    rows = run_job(plan_of(sql, schema), schema, COUNTRY, keypair(3072), os.urandom, NOW)
    expected = {row[:keys]: row[keys:] for row in pooled(sql, COUNTRY)}
    released = withheld = 0
    for (*label,) in rows:
        key, values = tuple(label[:keys]), label[keys:]
        for ours, theirs in zip(values, expected.get(key, [0] * len(values)), strict=True):
            assert ours is WITHHELD or ours == (None if theirs is None else pytest.approx(float(theirs)))
            released, withheld = released + (ours is not WITHHELD), withheld + (ours is WITHHELD)
    assert {row[:keys] for row in rows} >= (expected.keys() if grade == "internal" else set())
    assert withheld and bool(released) == (what not in ALL_WITHHELD)


def test_without_a_gate_nothing_is_withheld() -> None:
    sql = QUESTIONS["every kind of sum"]
    rows = run_job(plan_of(sql), SCHEMA, COUNTRY, keypair(3072), os.urandom, NOW)
    assert len(rows) == 2 and not any(value is WITHHELD for row in rows for value in row)


@pytest.mark.parametrize(("per_subject", "n"), [(1, 6), (2, WITHHELD)])
def test_a_subject_that_may_be_at_two_holders_is_no_two_subjects(per_subject: int, n: Any) -> None:
    """Two at each of three holders could be three persons."""
    schema = graded("internal", max_holders_per_subject=per_subject)
    world = World(crowd({"a": (2, 0), "b": (2, 0), "c": (2, 0)}), plan_of(SQL, schema), schema=schema)
    assert answer(world)[0][1] == n


def test_those_who_remain_have_a_gate_of_their_own() -> None:
    """One of four leaves; the others decide without it, and their cells are their own."""
    world = World({**MANY_WOMEN, "aachen": MANY_WOMEN[FIRST]}, plan_of(SQL, INTERNAL), schema=INTERNAL)
    world.agreement = world.make_agreement(smallest_set=3)
    question = world.read()
    approvals = [world.approval(name, attempt=1) for name in MANY_WOMEN]
    aborts = [world.abort("aachen")]
    commitment = commit_to_set(question, approvals, aborts)
    answers = [world.contribute(name, question, commitment) for name in commitment.holders]
    shares = [signed for signed, _ in world.shares_in(question, commitment)]
    opened = open_result(question, approvals, answers, world.total(answers), world.private_key, aborts, shares)
    ((_, women, years),) = pooled(SQL + " HAVING sex = 'female'", MANY_WOMEN)
    assert finish(question.program, opened.sums, opened.sent)[0] == ("female", women, years)


# --- lies at the gate --------------------------------------------------------------------------------------------


def flipped(blob: bytes) -> bytes:
    return bytes([blob[0] ^ 1]) + blob[1:]


def first(shares: Shares, **changes: Any) -> Shares:
    """The first holder's document with changes that it has signed."""
    signed, blob = shares[0]
    return [(resigned(signed, GateShare, **changes), blob), *shares[1:]]


def rewritten(signed: Signed, blob: bytes) -> tuple[Signed, bytes]:
    """Another share by the same holder, in which everything fits."""
    other = flipped(blob)
    return resigned(signed, GateShare, words_digest=Digest(hashlib.sha256(other).hexdigest())), other


GATE_LIES: dict[str, tuple[Callable[[Shares], Shares], type[CeibaError], str]] = {
    "changed words": (lambda s: [(s[0][0], flipped(s[0][1])), *s[1:]], MalformedMessage, "not the signed ones"),
    "fewer words": (lambda s: [(s[0][0], s[0][1][:-8]), *s[1:]], MalformedMessage, "not the signed ones"),
    "no words": (lambda s: [(s[0][0], b""), *s[1:]], MalformedMessage, "not the signed ones"),
    "another's words": (lambda s: [(s[0][0], s[1][1]), *s[1:]], MalformedMessage, "not the signed ones"),
    "more words, and signed": (lambda s: first(s, words=1000), MalformedMessage, "another number of words"),
    "a share is missing": (lambda s: s[1:], SetMismatch, "each once"),
    "a share twice": (lambda s: [*s, s[0]], SetMismatch, "each once"),
    "one in another's place": (lambda s: [s[1], *s[1:]], SetMismatch, "each once"),
    "no share at all": (lambda s: [], SetMismatch, "each once"),
    "in another's name": (lambda s: first(s, holder=SECOND), MalformedMessage, "another's name"),
    "for another job": (lambda s: first(s, job_id="0c" * 16), MalformedMessage, "another job"),
    "of another attempt": (lambda s: first(s, attempt=1), MalformedMessage, "attempt"),
    "in another context": (lambda s: first(s, context_digest=OTHER_DIGEST), TotalRejected, "another context"),
    "changed on the way": (
        lambda s: [(altered(s[0][0], b'"attempt":0', b'"attempt":1'), s[0][1]), *s[1:]],
        BadSignature,
        "GateShare",
    ),
    "by a stranger": (
        lambda s: [*s[1:], (signed_by("mallory", GateShare.parse(s[0][0].body)), s[0][1])],
        UnknownMember,
        "mallory",
    ),
    "a submission in its place": (lambda s: [(s[0][0].__class__(), b""), *s[1:]], UnknownMember, "roster"),
}


@pytest.mark.parametrize("what", GATE_LIES)
def test_a_holder_decides_on_nothing_but_everybodys_signed_words(world: World, what: str) -> None:
    lie, error, says = GATE_LIES[what]
    question, commitment = world.first_set()
    shares = lie(world.shares)
    with pytest.raises(error, match=says):
        open_gate(question, commitment, shares, THIRD, sealing_secret(THIRD))


def test_shares_of_another_job_do_not_fit(world: World) -> None:
    """Same members, same mask keys, another question."""
    other = World(MANY_WOMEN, plan_of(SQL + " ORDER BY 1", INTERNAL), schema=INTERNAL)
    other.job_id, other.mask_secrets = "0c" * 16, world.mask_secrets
    question, commitment = world.first_set()
    with pytest.raises(MalformedMessage):
        open_gate(question, commitment, other.shares, FIRST, sealing_secret(FIRST))


def test_a_gate_is_masked_once(world: World) -> None:
    """A second time with other words would show their difference."""
    question, commitment = world.first_set()
    world.share(FIRST, question, commitment)
    with pytest.raises(SeedReused):
        world.share(FIRST, question, commitment)


def test_a_holder_does_not_share_under_another_mask_key(world: World) -> None:
    question, commitment = world.first_set()
    words = world.words(FIRST, question, commitment)
    with pytest.raises(SetMismatch, match=f"its mask key for {FIRST}"):
        share_gate(question, commitment, FIRST, words, world.mask_secrets[SECOND], os.urandom)


# --- the leader's key --------------------------------------------------------------------------------------------


def sealed_by_leader(world: World, keys: Mapping[str, str]) -> Shares:
    """Everybody's shares, the leader's with these sealed keys in place of its own."""
    leader = leader_of(world.first_set()[1])
    return [
        (resigned(signed, GateShare, sealed_keys=dict(keys)), blob) if signed.signer == leader else (signed, blob)
        for signed, blob in world.shares
    ]


def seal(world: World, name: str, secret: bytes, info: bytes | None = None) -> str:
    context = world.first_set()[1].gate_context.digest()
    return seal_to(bytes.fromhex(holder(name).sealing_key), secret, context if info is None else info).hex()


def honest_keys(world: World) -> dict[str, str]:
    leader = leader_of(world.first_set()[1])
    (signed,) = [signed for signed, _ in world.shares if signed.signer == leader]
    return dict(GateShare.parse(signed.body).sealed_keys)


def group_key(world: World) -> bytes:
    context = world.first_set()[1].gate_context.digest()
    return open_sealed(sealing_secret(FIRST), bytes.fromhex(honest_keys(world)[FIRST]), context, "GateShare")


KEYS: dict[str, tuple[Callable[[World], dict[str, str]], str]] = {
    "none at all": (lambda w: {}, "no key for every holder"),
    "none for one": (lambda w: {n: k for n, k in honest_keys(w).items() if n != THIRD}, "no key for every holder"),
    "another's": (lambda w: honest_keys(w) | {THIRD: honest_keys(w)[FIRST]}, "cannot be opened"),
    "garbage": (lambda w: honest_keys(w) | {THIRD: "0e" * 80}, "cannot be opened"),
    "nothing": (lambda w: honest_keys(w) | {THIRD: ""}, "cannot be opened"),
    "for another round": (lambda w: honest_keys(w) | {THIRD: seal(w, THIRD, group_key(w), b"x")}, "cannot be opened"),
    "a short one": (lambda w: honest_keys(w) | {THIRD: seal(w, THIRD, bytes(16))}, "key is none"),
    "a long one": (lambda w: honest_keys(w) | {THIRD: seal(w, THIRD, bytes(33))}, "key is none"),
}


@pytest.mark.parametrize("what", KEYS)
def test_a_holder_without_the_groups_key_goes_no_further(world: World, what: str) -> None:
    keys, says = KEYS[what]
    question, commitment = world.first_set()
    with pytest.raises(MalformedMessage, match=says):
        open_gate(question, commitment, sealed_by_leader(world, keys(world)), THIRD, sealing_secret(THIRD))


def test_the_leader_is_one_of_the_set_and_everybody_finds_the_same(world: World) -> None:
    leaders = [leader_of(commit_to_set(world.read(), world.approvals()[::order])) for order in (1, -1)]
    assert leaders[0] == leaders[1] in MANY_WOMEN
    assert [bool(GateShare.parse(one.body).sealed_keys) for one in world.share_documents] == [
        name == leaders[0] for name in MANY_WOMEN
    ]


def test_a_wrong_key_for_everybody_lets_nothing_pass(world: World) -> None:
    """They add up noise: the vetoes' lane is not 0."""
    wrong = sealed_by_leader(world, {name: seal(world, name, bytes(32)) for name in MANY_WOMEN})
    question, commitment = world.first_set()
    world.shown = dict.fromkeys(MANY_WOMEN, wrong)
    answers = [world.contribute(name, question, commitment) for name in MANY_WOMEN]
    documents = [signed for signed, _ in wrong]
    opened = open_result(question, world.approvals(), answers, world.total(answers), world.private_key, (), documents)
    assert opened.sent is not None and not opened.sent.any() and set(opened.sums) == {0}


def product_of(world: World, answers: Sequence[tuple[Signed, bytes]]) -> tuple[bytes, dict[str, bytes]]:
    """What a coordinator has that checks nothing."""
    blobs = {signed.signer: blob for signed, blob in answers}
    question = world.read()
    return coordinator_multiply(blobs, question.layout, question.modulus), blobs


def never_a_number(world: World, answers: Sequence[tuple[Signed, bytes]], documents: Sequence[Signed]) -> None:
    """The honest merchant refuses; one that checks no signature, context or decision decrypts noise."""
    question = world.read()
    product, blobs = product_of(world, answers)
    with pytest.raises((SetMismatch, TotalRejected, MalformedMessage)):
        open_result(question, world.approvals(), answers, product, world.private_key, (), documents)
    with pytest.raises(TotalRejected):
        merchant_open(product, blobs, question.layout, world.private_key)


@pytest.mark.parametrize("misled", MANY_WOMEN)
def test_a_leader_that_misleads_one_holder_isolates_nobody(world: World, misled: str) -> None:
    """The leader seals a wrong key to one: that one adds up noise and releases nothing. If the others' masks cancelled
    with its own, a merchant in league with the leader would read the total of the others alone."""
    keys = honest_keys(world) | {misled: seal(world, misled, bytes(32))}
    wrong = sealed_by_leader(world, keys)
    question, commitment = world.first_set()
    world.shown = dict.fromkeys(MANY_WOMEN, wrong)
    answers = [world.contribute(name, question, commitment) for name in MANY_WOMEN]
    decisions = {Submission.parse(signed.body).released for signed, _ in answers}
    assert len(decisions) == 2
    never_a_number(world, answers, [signed for signed, _ in wrong])


@pytest.mark.parametrize("misled", MANY_WOMEN)
def test_two_shares_of_one_holder_never_give_a_number(world: World, misled: str) -> None:
    """One holder signs two shares, and the coordinator shows one of the others the second."""
    liar = next(name for name in MANY_WOMEN if name != misled)
    second = [rewritten(signed, blob) if signed.signer == liar else (signed, blob) for signed, blob in world.shares]
    question, commitment = world.first_set()
    world.shown = {misled: second}
    answers = [world.contribute(name, question, commitment) for name in MANY_WOMEN]
    for shares in (world.shares, second):
        never_a_number(world, answers, [signed for signed, _ in shares])


# --- the decision, as the holders sign it ------------------------------------------------------------------------


def other_decision(world: World) -> str:
    """That the men pass too."""
    return pack_released(np.ones(world.read().gate(3).shape[1:], dtype=np.bool_))  # type: ignore[union-attr]


@pytest.mark.parametrize("liars", [[FIRST], [FIRST, SECOND], list(MANY_WOMEN)], ids=len)
def test_another_decision_than_the_one_that_was_made_is_refused(world: World, liars: list[str]) -> None:
    said = other_decision(world)
    answers = [
        world.submission(name, released=said) if name in liars else world.submission(name) for name in MANY_WOMEN
    ]
    with pytest.raises((SetMismatch, TotalRejected)):
        world.open(answers)


@pytest.mark.parametrize("text", ["", "ff", "00" * 100], ids=["none", "of another size", "of a larger plan"])
def test_a_decision_of_another_form_is_refused(world: World, text: str) -> None:
    with pytest.raises((MalformedMessage, TotalRejected)):
        world.open([world.submission(name, released=text) for name in MANY_WOMEN])


def test_without_a_gate_there_is_no_decision() -> None:
    world = World()
    with pytest.raises((MalformedMessage, TotalRejected)):
        world.open([world.submission(name, released="80") for name in world.holders])


def test_a_holder_that_lets_more_pass_than_the_others_never_gives_a_number(world: World) -> None:
    """Its software is wrong, or it means to unlock a cell: the total of a few men must not come out."""
    question, commitment = world.first_set()
    everything = np.ones(world.released(FIRST, question, commitment).shape, dtype=np.bool_)  # type: ignore[union-attr]
    bound = commitment.after_gate(world.share_documents)
    values = world.figures(FIRST, question, commitment)
    encryptor = Encryptor.for_count(question.modulus, 1, os.urandom)
    secret = world.mask_secrets[FIRST]
    lie, blob = contribute(question, bound, FIRST, values, secret, encryptor, bytes(32), everything)
    answers = [(signed_by(FIRST, lie), blob)]
    answers += [world.contribute(name, question, commitment) for name in (SECOND, THIRD)]
    never_a_number(world, answers, world.share_documents)


# --- who learns what ---------------------------------------------------------------------------------------------


def test_merchant_and_coordinator_cannot_add_up_the_gate(world: World) -> None:
    """They have all words. Without the group's key their sum says nothing; with it, it is the capped totals."""
    form = world.read().gate(3)
    assert form is not None
    total = sum((np.frombuffer(blob, dtype="<u8") for _, blob in world.shares), start=np.zeros(1, dtype=np.uint64))
    assert all(word > 2**20 for word in total.tolist())
    true = form.lanes(total - expand_words(group_key(world), len(total)))
    assert true[COUNT][:, ROW_COUNT].tolist() == [6, 3]  # capped at two each: of 22 women, and of 3 men
    for signed, blob in world.shares:
        assert all(word > 2**20 for word in np.frombuffer(blob, dtype="<u8").tolist()), signed.signer


def test_the_groups_key_is_in_no_document_and_new_for_each_job() -> None:
    keys = set()
    for at in range(3):
        world = World(MANY_WOMEN, plan_of(SQL, INTERNAL), schema=INTERNAL)
        world.job_id = f"{at:032x}"
        key = group_key(world)
        assert not any(key.hex().encode() in signed.body or key in signed.body for signed in world.share_documents)
        keys.add(key)
    assert len(keys) == 3


def test_shares_have_one_size_whatever_the_rows(world: World) -> None:
    empty = World(
        {name: [{"sex": 0, "age": None, "chol": None}] * len(rows) for name, rows in MANY_WOMEN.items()},
        plan_of(SQL, INTERNAL),
        schema=INTERNAL,
    )
    sizes = [len(blob) for _, blob in world.shares]
    assert sizes == [len(blob) for _, blob in empty.shares] == [8 * (LANES * 2 * len(world.read().tests) + 1)] * 3


@pytest.mark.parametrize("what", ["MAX_TESTS", "MAX_HOLDERS"])
def test_a_gate_that_is_too_large_is_refused_before_anybody_works(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.read()
    monkeypatch.setattr(f"ceiba_protocol.disclosure.gate.{what}", 2)
    with pytest.raises(GateTooLarge):
        world.read()


# --- noise -------------------------------------------------------------------------------------------------------

TERMS = NoiseTerms(rho=MILLION)
TOWNS = crowd({"aachen": (60, 70), "berlin": (80, 1), "cologne": (90, 0)}, seed=5)


def noisy(terms: NoiseTerms = TERMS, rows: Mapping[str, Sequence[Row]] = TOWNS, schema: Schema = INTERNAL) -> World:
    world = World(rows, plan_of(SQL, schema), schema=schema)
    world.noise = terms
    return world


def noise_of(world: World) -> list[int]:
    """Everybody's together, sum by sum."""
    question, commitment = world.first_set()
    each = [noise_for(question, commitment, world.noise_keys[name]) for name in world.holders]
    return [sum(one) for one in zip(*each, strict=True)]


def test_the_difference_to_the_truth_is_everybodys_noise() -> None:
    world = noisy()
    opened = world.open(world.submissions)
    noised = [true + extra for true, extra in zip(world.truth(), noise_of(world), strict=True)]
    assert opened.sent is not None and opened.sent.all()
    assert list(opened.sums) == noised != world.truth()
    assert list(opened.variances) == [3 * one for one in world.read().variances(3)]


def recorded_noise(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Filled by `run_job` with each holder's noise."""
    found: list[list[int]] = []

    def recording(*arguments: Any) -> list[int]:
        found.append(noise_for(*arguments))
        return found[-1]

    monkeypatch.setattr(ceiba_protocol.whole_job, "noise_for", recording)
    return found


def test_run_job_adds_each_holders_noise_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recorded_noise(monkeypatch)
    rows = run_job(plan_of(SQL, INTERNAL), INTERNAL, TOWNS, keypair(3072), os.urandom, NOW, TERMS)
    program: Program = World(TOWNS, plan_of(SQL, INTERNAL), schema=INTERNAL).read().program
    true = {label: (n, years) for label, n, years in pooled(SQL, TOWNS)}
    assert len(found) == 3 and len(program.sums) == 3
    for cell, (label, n, years) in enumerate(rows):
        noise = [sum(one[3 * cell + place] for one in found) for place in range(3)]
        assert (n, years) == (true[label][0] + noise[0], true[label][1] + noise[2])
    assert sum(map(any, found)) == 3  # one of a holder's numbers may be 0, not all of them


def asked(world: World) -> list[int]:
    return list(world.open(world.submissions).sums)


def test_asking_again_gives_the_same_numbers() -> None:
    """Another job, other mask keys, the next number of the agreement: nothing averages out."""
    again = noisy()
    again.job_id, again.number = "0c" * 16, 2
    assert again.mask_secrets != noisy().mask_secrets
    assert asked(again) == asked(noisy())


OTHERWISE: dict[str, Callable[[World], object]] = {
    "another version at one holder": lambda w: w.pins.update(cologne=changed(w.pins["cologne"], version=OTHER_DIGEST)),
    "another price": lambda w: setattr(w, "noise", NoiseTerms(rho=MILLION // 2)),
    "more cells for each subject": lambda w: setattr(w, "noise", changed(TERMS, cells_per_subject=2)),
    "another question": lambda w: setattr(w, "plan", plan_of(SQL.replace(" GROUP", " WHERE age >= 0 GROUP"), INTERNAL)),
    "another secret of one holder": lambda w: w.noise_keys.update(cologne=bytes(32)),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_another_question_gets_other_noise_from_everybody(what: str) -> None:
    """Were one holder's alone new, the others' would cancel in the difference of the two answers."""
    world, before = noisy(), noisy()
    OTHERWISE[what](world)
    question, commitment = world.first_set()
    first_question, first_commitment = before.first_set()
    for name in TOWNS:
        new = noise_for(question, commitment, world.noise_keys[name])
        old = noise_for(first_question, first_commitment, before.noise_keys[name])
        assert (new == old) == (what == "another secret of one holder" and name != "cologne")
    assert asked(world) != asked(before)


@settings(max_examples=30, deadline=None)
@given(men=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_with_noise_the_noisy_count_decides(men: int, seed: int) -> None:
    """The same number that is released is the one that is compared; two standard deviations above k."""
    rows = crowd({"a": (60, men), "b": (60, 0), "c": (60, 0)})
    world = noisy(rows=rows)
    world.noise_keys = {name: seeded(f"{seed} {name}")(32) for name in rows}
    opened, question = world.open(world.submissions), world.read()
    assert question.variances(3) == (16, 16, question.variances(3)[2])
    assert question.gate(3).threshold.least == 5 + 11  # 2·√(2·16) = 11.3, of the two whom no one colludes with
    counts = [true + extra for true, extra in zip(world.truth(), noise_of(world), strict=True)][ROW_COUNT::3]
    assert opened.sent is not None
    assert opened.sent.tolist() == [[count >= 16] * 3 for count in counts]
    assert list(opened.sums)[ROW_COUNT::3] == [count if count >= 16 else 0 for count in counts]


def test_a_cell_without_anybody_is_a_row_like_any_other() -> None:
    """That it is empty would be an exact answer about it."""
    world = noisy(rows=crowd({"a": (60, 0), "b": (60, 0), "c": (60, 0)}))
    assert [row[0] for row in answer(world)] == ["female", "male"]
    assert answer(world)[1][1] is WITHHELD


def test_an_answer_costs_no_more_than_a_year_may() -> None:
    assert noisy(NoiseTerms(rho=MILLION)).read().manifest.noise == TERMS
    with pytest.raises(NoiseTooCostly) as caught:
        noisy(NoiseTerms(rho=MILLION + 1)).read()
    assert caught.value.fields == {"cost": "1.000001", "limit": "1"}
    with pytest.raises(NoiseTooCostly):
        noisy(NoiseTerms(rho=MILLION // 10 + 1), schema=SENSITIVE).read()


def with_rules(world: World, rules: Disclosure) -> World:
    world.agreement = world.make_agreement(disclosure=rules)
    return world


def test_where_there_are_no_exact_answers_a_job_without_noise_is_refused() -> None:
    important = changed(RULES[Grade.IMPORTANT], minimum_set=3, minimum_holders=3)
    for rules in (important, changed(RULES[Grade.INTERNAL], exact_jobs=0)):
        exact = with_rules(World(TOWNS, plan_of(SQL, INTERNAL), schema=INTERNAL), rules)
        with pytest.raises(ExactForbidden):
            exact.read()
        assert with_rules(noisy(NoiseTerms(rho=20_000)), rules).read().manifest.noise is not None


def test_noise_is_of_the_manifest_and_of_nobodys_choice(world: World) -> None:
    """Who strikes it out of a signed manifest, or puts it in, has another layout."""
    with pytest.raises(CeibaError, match="layout"):
        world.read(world.signed_manifest(noise=TERMS))
    with_noise = noisy()
    with pytest.raises(CeibaError, match="layout"):
        with_noise.read(with_noise.signed_manifest(noise=None))
