"""One real holder at the gate: what it shares it keeps, and what it releases follows from everybody's shares alone."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ceiba_node import policy
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_node.responding import Pending, Reply
from ceiba_protocol.disclosure.gate import COUNT, LANES, NEAREST, VETO, unpack_released
from ceiba_protocol.disclosure.grade import DATASET_FACTOR, RULES, Disclosure, NoiseRule, as_rho
from ceiba_protocol.errors import NotReachable
from ceiba_protocol.plan import finish, grouped_sums
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import CLOCK_TOLERANCE, commit_to_set, leader_of
from ceiba_protocol.schema import Grade
from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.sums.masks import expand_words
from ceiba_protocol.trust.documents import DatasetPin, GateShare, NoiseTerms, Refusal, Submission
from ceiba_protocol.trust.hpke import open_sealed
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import sealing_secret
from tests.support.members import MERCHANT, NOW, ROWS, World, capacity, graded, plan_of, resigned, signed_by
from tests.support.one_node import ME, SECOND, STORAGE_KEY, THIRD, Node

INTERNAL, SENSITIVE, IMPORTANT = (graded(grade) for grade in ("internal", "sensitive", "important"))
SQL = "SELECT sex, COUNT(*) AS n, SUM(age) AS years FROM health.heart GROUP BY sex"
OTHER_SQL = "SELECT sex, COUNT(*) AS n FROM health.heart WHERE age > 30 GROUP BY sex"


def people(women: int, oldest: int = 0) -> list[Row]:
    """So many women aged 30 to 49, of whom one may be older, and a man: too few of them at three holders."""
    rows: list[Row] = [{"sex": 0, "age": 30 + at % 20, "chol": None} for at in range(women)]
    if oldest:
        rows[0] = {"sex": 0, "age": oldest, "chol": None}
    return [*rows, {"sex": 1, "age": 60, "chol": 0}]


MANY = {ME: people(12), SECOND: people(11), THIRD: people(14)}
FOUR = {**MANY, "lille": people(13)}
SENSITIVE_EXACT = RULES[Grade.SENSITIVE].exact_jobs


def rules(grade: Grade = Grade.INTERNAL, **changes: Any) -> Disclosure:
    """An agreement's, stricter than its grade demands."""
    return RULES[grade].model_copy(update=changes)


def make(folder: Path, schema: Any = INTERNAL, rows: Any = MANY, **options: Any) -> Node:
    return Node(folder, rows=rows, schema=schema, plan=plan_of(SQL, schema), **options)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Under an agreement about internal data."""
    made = make(tmp_path)
    yield made
    made.answering.close()


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Node]:
    """The same with four holders, one of whom may leave a job."""
    made = make(tmp_path, rows=FOUR, smallest_set=3)
    yield made
    made.answering.close()


@pytest.fixture
def sensitive(tmp_path: Path) -> Iterator[Node]:
    """Under an agreement by which noise is mandatory."""
    made = make(tmp_path, schema=SENSITIVE)
    yield made
    made.answering.close()


def refused(reply: Any, code: str) -> dict[str, str]:
    """Refused for that reason, signed; the public fields."""
    assert isinstance(reply, Reply) and reply.payload == b""
    refusal = World(FOUR, schema=INTERNAL).roster.open(reply.signed, Refusal, Role.HOLDER)
    assert (refusal.code, refusal.holder) == (code, ME)
    return dict(refusal.fields)


def approved(reply: Any) -> bool:
    return isinstance(reply, Reply) and reply.signed.type.endswith("Approval")


def result(node: Node, approvals: list[Signed], reply: Reply) -> list[tuple[Any, ...]]:
    """The rows that the merchant reads when the simulated holders answer as well."""
    opened = node.opened(approvals, reply)
    return finish(node.world.read().program, opened.sums, opened.sent, noisy=node.world.noise is not None)


def ask(node: Node, number: int, sql: str = SQL, noise: NoiseTerms | None = None) -> None:
    """The merchant's next job."""
    node.ask(f"{number:02x}", number)
    node.world.plan = plan_of(sql, node.world.schema)
    node.world.noise = noise


def gate_total(node: Node, approvals: list[Signed]) -> npt.NDArray[np.uint64]:
    """What the holders read together, by lane, cell and test."""
    question = node.world.read()
    commitment = commit_to_set(question, approvals)
    shares = {signed.signer: (signed, blob) for signed, blob in node.gate.shares(node.id)}
    leader = GateShare.parse(shares[leader_of(commitment)][0].body)
    context = commitment.gate_context.digest()
    key = open_sealed(sealing_secret(ME), bytes.fromhex(leader.sealed_keys[ME]), context, "GateShare")
    assert commitment.gate is not None
    words = sum(np.frombuffer(blob, dtype="<u8") for _, blob in shares.values())
    return commitment.gate.lanes(words - expand_words(key, commitment.gate.words))


def own_words(node: Node, monkeypatch: pytest.MonkeyPatch) -> npt.NDArray[np.uint64]:
    """What the node says at the gate: the other holders send zeros there."""
    silent = lambda _, question, commitment: np.zeros(commitment.gate.words, dtype=np.uint64)  # noqa: E731
    monkeypatch.setattr(node.world, "words", silent)
    approvals = node.approvals()
    assert node.share(approvals).payload
    return gate_total(node, approvals)


# --- the whole ---------------------------------------------------------------------------------------------------


def test_many_are_released_exactly_and_few_are_withheld(node: Node) -> None:
    approvals = node.approvals()
    reply = node.answer(approvals)
    women = [row["age"] or 0 for rows in MANY.values() for row in rows if row["sex"] == 0]
    assert result(node, approvals, reply) == [("female", len(women), sum(women)), ("male", WITHHELD, WITHHELD)]


def test_what_is_withheld_is_not_sent(node: Node) -> None:
    opened, truth = node.opened(approvals := node.approvals(), node.answer(approvals)), node.world.truth()
    assert list(opened.sums) == [*truth[:3], 0, 0, 0] and all(truth[3:])


def test_it_tells_no_more_than_capped_counts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two subjects at most, of twelve women; and the one man."""
    words = own_words(node, monkeypatch)
    assert words.shape[0] == LANES
    assert words[COUNT].tolist() == [[2] * words.shape[2], [1] * words.shape[2]]
    assert words[VETO][0].tolist() == [0] * words.shape[2]


def test_public_data_have_no_gate_and_no_share(tmp_path: Path) -> None:
    node = Node(tmp_path, rows=ROWS)
    approvals = node.approvals()
    assert "no gate" in refused(node.share(approvals), "set_mismatch")["problem"]
    assert node.contribute(approvals).payload
    node.answering.close()


# --- the share is stored before it is sent (I2) ------------------------------------------------------------------


def test_share_is_stored_before_it_is_returned(node: Node) -> None:
    reply = node.share()
    stored = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY).payload(node.id, 0, "gate", 0)
    assert stored is not None and (stored.submission, stored.ciphertexts) == (reply.signed, reply.payload)
    assert stored.context_digest == GateShare.parse(reply.signed.body).context_digest
    assert node.ledger.counts()["answered"] == 0  # nothing is released yet


def test_release_is_stored_before_it_is_returned(node: Node) -> None:
    reply = node.answer()
    stored = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY).payload(node.id, 0, "release", 0)
    assert stored is not None and (stored.submission, stored.ciphertexts) == (reply.signed, reply.payload)
    assert stored.context_digest == Submission.parse(reply.signed.body).context_digest


def test_those_behind_it_are_stored_with_the_share_and_settled_with_the_release(node: Node) -> None:
    """From the share on, a later answer is compared with it; what was withheld never was an answer."""
    question, approvals = node.world.read(), node.approvals()
    parts = question.program.cells * len(question.tests.audited)
    assert node.ledger.count_sets("health.heart") == 0
    node.share(approvals)
    assert node.ledger.count_sets("health.heart") == parts
    reply = node.contribute(approvals)
    gate = question.gate(3)
    assert gate is not None
    released = unpack_released(gate, Submission.parse(reply.signed.body).released)
    assert released.any(axis=1).tolist() == [True, False]
    # Of each part the women, and the union of all released cells (-1).
    kept = node.ledger._all("SELECT cell, COUNT(*), MIN(settled) FROM answered_sets GROUP BY cell ORDER BY cell")
    assert kept == [(-1, parts // 2, 1), (0, parts // 2, 1)]


def test_a_share_that_cannot_be_stored_is_not_sent(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on /srv/secret-path")

    approvals = node.approvals()
    monkeypatch.setattr(node.ledger, "record_payload", full_disk)
    reply = node.share(approvals)
    refused(reply, "internal_error")
    assert b"secret-path" not in reply.signed.body


def test_resend_is_byte_identical(node: Node) -> None:
    """Although sealing, vetoes and masks of the leader are random each time."""
    approvals = node.approvals()
    first = (node.share(approvals), node.contribute(approvals))
    assert all(reply.payload for reply in first)
    for _ in range(2):
        assert (node.share(approvals[::-1]), node.contribute(approvals[::-1])) == first
        node.restart()


def test_resend_goes_on_after_a_new_version_and_after_the_window(node: Node) -> None:
    approvals = node.approvals()
    first = (node.share(approvals), node.contribute(approvals))
    node.publish(MANY[SECOND])
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    node.restart()
    assert (node.share(approvals), node.contribute(approvals)) == first


def test_restart_between_the_rounds(node: Node) -> None:
    approvals = node.approvals()
    node.restart()
    assert node.share(approvals).payload
    node.publish(MANY[SECOND])
    node.restart()
    reply = node.contribute(approvals)
    assert result(node, approvals, reply)[0][1] == 12 + 11 + 14


def test_a_forgotten_share_is_not_made_again(node: Node) -> None:
    approvals = node.approvals()
    first = node.share(approvals)
    node.answering.forget(node.id)
    for _ in range(2):
        again = node.share(approvals)
        assert again.signed == first.signed and again.payload == b""
        refused(node.contribute(approvals), "job_expired")
        node.restart()


@pytest.mark.parametrize("task", ["share", "contribute"])
def test_nothing_is_sent_for_the_first_time_after_the_window(node: Node, task: str) -> None:
    approvals = node.approvals()
    if task == "contribute":
        assert node.share(approvals).payload
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    refused(getattr(node, task)(approvals), "outside_window")


# --- one set only ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_a_share_for_another_set_is_refused(node: Node, restarted: bool) -> None:
    """The same holders, one with another mask key: two shares could be subtracted."""
    approvals = node.approvals()
    first = node.share(approvals)
    if restarted:
        node.restart()
    other = node.approvals(hungary=node.world.approval(SECOND, mask_key="cd" * 32))
    refused(node.share(other), "second_payload")
    refused(node.contribute(other), "total_rejected")  # the shares are those of the first
    assert node.share(approvals) == first
    assert node.contribute(approvals).payload


def test_a_release_for_another_gate_is_refused(node: Node) -> None:
    """Another holder sends its share again with other words: what was released is not computed anew."""
    approvals = node.approvals()
    first = node.answer(approvals)
    own, second, third = honest = node.gate.stored[node.id]
    node.gate.stored[node.id] = [own, other_words(second), third]
    for _ in range(2):
        refused(node.contribute(approvals), "second_payload")
        node.restart()
    node.gate.stored[node.id] = honest
    assert node.contribute(approvals) == first


def test_no_other_attempt_after_a_share(leaving: Node) -> None:
    approvals = leaving.approvals()
    leaving.share(approvals)
    for _ in range(2):
        refused(leaving.approve(attempt=1), "second_payload")
        leaving.restart()
    assert leaving.contribute(approvals).payload


def test_who_has_shared_never_leaves(leaving: Node) -> None:
    """The other holders' shares of a smaller set, and this one, would tell its counts."""
    approvals = leaving.approvals()
    leaving.share(approvals)
    leaving.ledger.stop(Stop(StopKind.ALL, "", "", NOW))
    stopped = [leaving.contribute(approvals), leaving.share(approvals), leaving.approve(attempt=1)]
    for reply, code in zip(stopped, ("stopped", "stopped", "second_payload"), strict=True):
        refused(reply, code)
        assert reply.token is None
    assert leaving.ledger.counts()["left"] == 0
    leaving.ledger.resume(StopKind.ALL, "")
    assert leaving.contribute(approvals).payload


def test_who_has_left_never_shares(leaving: Node) -> None:
    approvals = leaving.approvals()
    leaving.ledger.stop(Stop(StopKind.ALL, "", "", NOW))
    first = leaving.share(approvals)
    refused(first, "stopped")
    assert first.token is not None
    leaving.ledger.resume(StopKind.ALL, "")
    assert leaving.share(approvals) == leaving.contribute(approvals) == first
    assert leaving.ledger.payload(leaving.id, 0, "gate", 0) is None


# --- whose shares the release counts -----------------------------------------------------------------------------


def other_words(share: tuple[Signed, bytes]) -> tuple[Signed, bytes]:
    """With one word more, under the same holder's signature: what a copy of its folder could make."""
    signed, blob = share
    words = (np.frombuffer(blob, dtype="<u8") + np.uint64(1)).tobytes()
    return resigned(signed, GateShare, words_digest=hashlib.sha256(words).hexdigest()), words


def test_shares_without_its_own_are_refused(node: Node) -> None:
    approvals = node.approvals()
    node.share(approvals)
    own, *others = node.gate.stored[node.id]
    node.gate.stored[node.id] = [other_words(own), *others]
    assert "own" in refused(node.contribute(approvals), "set_mismatch")["problem"]
    assert node.ledger.counts()["answered"] == 0


def test_shares_of_a_gate_that_it_never_answered_are_refused(node: Node) -> None:
    """A whole transcript, also with a share in its name, is nothing to a holder that has stored none."""
    approvals = node.approvals()
    node.share(approvals)
    node.ledger._connection.execute("DELETE FROM payloads")
    refused(node.contribute(approvals), "set_mismatch")
    assert node.ledger.counts()["answered"] == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("one is missing", "set_mismatch"),
        ("one twice", "set_mismatch"),
        ("other words", "malformed_message"),
        ("not signed", "bad_signature"),
        ("a stranger's", "unknown_member"),
        ("none", "set_mismatch"),
    ],
)
def test_shares_that_are_not_everybodys_are_refused(node: Node, kind: str, code: str) -> None:
    approvals = node.approvals()
    node.share(approvals)
    own, (signed, blob), third = honest = node.gate.stored[node.id]
    unsigned = Signed(type=signed.type, body=signed.body, signer=signed.signer, signature=bytes(64))
    wrong = {
        "one is missing": [own, (signed, blob)],
        "one twice": [own, (signed, blob), (signed, blob)],
        "other words": [own, (signed, bytes(len(blob))), third],
        "not signed": [own, (unsigned, blob), third],
        "a stranger's": [own, (signed_by("mallory", GateShare.parse(signed.body)), blob), third],
        "none": [],
    }
    node.gate.stored[node.id] = wrong[kind]
    reply = node.contribute(approvals)
    refused(reply, code)
    assert reply.token is None and node.ledger.counts()["answered"] == 0
    node.gate.stored[node.id] = honest
    assert node.contribute(approvals).payload


def test_shares_that_cannot_be_fetched_are_no_reason_to_refuse(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: bytes) -> Any:
        raise NotReachable(target="the coordinator", problem="nothing answers there")

    approvals = node.approvals()
    node.share(approvals)
    with monkeypatch.context() as away:
        away.setattr(node.gate, "shares", unreachable)
        with pytest.raises(NotReachable):
            node.contribute(approvals)
    assert node.ledger.counts() == {"approved": 1, "answered": 0, "left": 0}
    assert node.contribute(approvals).payload


def test_the_gate_decides_and_not_the_holder(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own twelve women do not matter where the others have none."""
    words = own_words(node, monkeypatch)
    assert words[COUNT][0].tolist() == [2] * words.shape[2]
    approvals = node.approvals()
    assert result(node, approvals, node.contribute(approvals)) == [
        ("female", WITHHELD, WITHHELD),
        ("male", WITHHELD, WITHHELD),
    ]


# --- noise -------------------------------------------------------------------------------------------------------

NOISE = NoiseTerms(rho=200_000)


@pytest.fixture
def noisy(tmp_path: Path) -> Iterator[Node]:
    made = make(tmp_path, noise=NOISE)
    yield made
    made.answering.close()


def test_the_noisy_counts_at_the_gate_are_those_of_the_release(noisy: Node) -> None:
    """Other noise at the gate than in the answer would tell more about the same people."""
    approvals = noisy.approvals()
    opened, counts = noisy.opened(approvals, noisy.answer(approvals)), gate_total(noisy, approvals)
    assert counts.shape == (1, 2, 1)
    assert opened.sent is not None and opened.sent.all(axis=1).tolist() == [True, False]
    assert opened.sums[0] == counts.astype(np.int64)[0, 0, 0]
    assert list(opened.sums[3:]) == [0, 0, 0]


def test_its_own_noise_is_in_the_answer(noisy: Node) -> None:
    """The others' figures are known here; the rest is the node's, with the noise of its own key."""
    approvals = noisy.approvals()
    opened, world = noisy.opened(approvals, noisy.answer(approvals)), noisy.world
    question = world.read()
    commitment = commit_to_set(question, approvals)
    others = [world.figures(name, question, commitment)[:3] for name in (SECOND, THIRD)]
    own = [total - sum(parts) for total, *parts in zip(opened.sums[:3], *others, strict=True)]
    world.noise_keys[ME] = noisy.answering._identity.noise_key
    assert own == world.figures(ME, question, commitment)[:3]
    assert own != grouped_sums(question.program, MANY[ME])[:3]


def test_the_same_question_again_gets_the_same_noise_and_costs_nothing(noisy: Node) -> None:
    approvals = noisy.approvals()
    first = noisy.opened(approvals, noisy.answer(approvals)).sums
    noisy.restart()
    ask(noisy, 2, noise=NOISE)
    again = noisy.approvals()
    assert noisy.opened(again, noisy.answer(again)).sums == first
    assert noisy.ledger.spent("health.heart", MERCHANT, NOW) == (NOISE.rho, NOISE.rho)


def test_nobody_behind_noise_is_kept(noisy: Node) -> None:
    assert noisy.answer().payload
    assert noisy.ledger.count_sets("health.heart") == 0


# --- budgets -----------------------------------------------------------------------------------------------------


def test_the_budget_is_charged_with_the_approval(noisy: Node) -> None:
    assert noisy.ledger.spent("health.heart", MERCHANT, NOW) == (0, 0)
    noisy.approve()
    for _ in range(2):
        assert noisy.ledger.spent("health.heart", MERCHANT, NOW) == (NOISE.rho, NOISE.rho)
        noisy.answer()
        noisy.answering.forget(noisy.id)  # the job may end as it likes
        noisy.restart()


def test_several_attempts_are_charged_once(tmp_path: Path) -> None:
    node = make(tmp_path, rows=FOUR, smallest_set=3, noise=NOISE)
    for attempt in (0, 1, 2, 1):
        assert approved(node.approve(attempt=attempt))
        assert node.ledger.spent("health.heart", MERCHANT, NOW) == (NOISE.rho, NOISE.rho)
        node.restart()
    node.answering.close()


def test_an_exhausted_budget_is_a_signed_refusal(tmp_path: Path) -> None:
    rho = RULES[Grade.INTERNAL].rho_per_year * 6 // 10
    node = make(tmp_path, noise=NoiseTerms(rho=rho))
    assert approved(node.approve())
    ask(node, 2, OTHER_SQL, NoiseTerms(rho=rho))
    expected = {"table": "health.heart", "cost": as_rho(rho), "left": "0.4"}
    for _ in range(2):
        assert refused(node.approve(), "budget_exhausted") == expected
        node.restart()
    assert node.ledger.counts()["approved"] == 1
    assert node.ledger.spent("health.heart", MERCHANT, NOW) == (rho, rho)
    ask(node, 2, OTHER_SQL, NoiseTerms(rho=RULES[Grade.INTERNAL].rho_per_year - rho))  # the number is still free
    assert approved(node.approve())
    ask(node, 3, OTHER_SQL, NoiseTerms(rho=1))
    assert refused(node.approve(), "budget_exhausted")["left"] == "0"
    node.answering.close()


def test_exact_answers_are_counted_for_each_version(tmp_path: Path) -> None:
    node = make(tmp_path, disclosure=rules(exact_jobs=1))
    assert approved(node.approve())
    ask(node, 2, OTHER_SQL)
    assert refused(node.approve(), "exact_quota_used") == {"table": "health.heart", "limit": "1", "used": "1"}
    assert node.ledger.counts()["approved"] == 1
    ask(node, 3)
    assert approved(node.approve())  # the same question as before
    ask(node, 4, OTHER_SQL, NOISE)
    assert approved(node.approve())  # with noise it is not counted
    assert node.ledger.exact_used("health.heart", MERCHANT, version_of(node)) == 1
    publish_another(node)
    ask(node, 5, OTHER_SQL)
    assert approved(node.approve())
    node.answering.close()


def version_of(node: Node) -> str:
    return node.world.manifest().versions[ME]


def publish_another(node: Node) -> None:
    """A version with one woman more."""
    node.publish(people(13))
    current = node.snapshots.current("health.heart")
    node.world.pins[ME] = DatasetPin(holder=ME, version=current.version, row_capacity=capacity(current.rows))


def test_all_merchants_together_have_a_budget(tmp_path: Path) -> None:
    """Of four times one merchant's: then even a merchant that has asked nothing is refused."""
    node = make(tmp_path, disclosure=rules(rho_per_year=NOISE.rho), noise=NOISE)
    node.approve()
    connection = node.ledger._connection
    for other in range(DATASET_FACTOR):
        row = (bytes([255, other]), "health.heart", "x", f"another {other}", NOISE.rho, "", 0, "", NOW)
        connection.execute("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM charges WHERE organisation = ?", (MERCHANT,))
    ask(node, 2, OTHER_SQL, NOISE)
    assert refused(node.approve(), "budget_exhausted")["left"] == "0"
    node.answering.close()


# --- people, grades, the history ---------------------------------------------------------------------------------


def decide(node: Node, approved: bool = True) -> None:
    node.ledger.decide(node.id, Decision(approved, "not for this"), "", NOW)


def test_where_noise_is_mandatory_an_exact_job_waits_for_a_person(sensitive: Node) -> None:
    assert sensitive.approve() == Pending(sensitive.id)
    version = version_of(sensitive)
    assert sensitive.ledger.exact_used("health.heart", MERCHANT, version) == 0  # charged when it is approved
    decide(sensitive)
    (reply,) = sensitive.answering.decided()
    assert approved(reply) and sensitive.ledger.exact_used("health.heart", MERCHANT, version) == 1
    approvals = sensitive.approvals()
    assert result(sensitive, approvals, sensitive.answer(approvals))[0][1] == 12 + 11 + 14


def test_a_person_may_refuse_it(sensitive: Node) -> None:
    sensitive.approve()
    decide(sensitive, approved=False)
    (reply,) = sensitive.answering.decided()
    assert refused(reply, "refused_by_person")["reason"] == "not for this"


def test_with_noise_nobody_is_asked(sensitive: Node) -> None:
    ask(sensitive, 1, noise=NoiseTerms(rho=RULES[Grade.SENSITIVE].rho_per_year))
    approvals = sensitive.approvals()
    assert sensitive.answer(approvals).payload


def test_a_person_does_not_lift_the_quota(sensitive: Node) -> None:
    for number in range(1, SENSITIVE_EXACT + 2):
        ask(sensitive, number, f"SELECT COUNT(*) AS n FROM health.heart WHERE age > {number}")
        assert sensitive.approve() == Pending(sensitive.id)
        decide(sensitive)
        (reply,) = sensitive.answering.decided()
        assert approved(reply) is (number <= SENSITIVE_EXACT)
    assert refused(reply, "exact_quota_used")["limit"] == str(SENSITIVE_EXACT)


def test_a_full_history_is_a_signed_refusal(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.answer().payload
    kept = node.ledger.count_sets("health.heart")
    ask(node, 2, OTHER_SQL)
    needed = node.world.read().program.cells * len(node.world.read().tests.audited)
    monkeypatch.setattr(policy, "MAX_KEPT_SETS", kept + needed - 1)
    limit = str(kept + needed - 1)
    assert refused(node.approve(), "history_full") == {"holder": ME, "table": "health.heart", "limit": limit}
    ask(node, 2, OTHER_SQL, NOISE)
    assert approved(node.approve())
    ask(node, 3, OTHER_SQL)
    monkeypatch.setattr(policy, "MAX_KEPT_SETS", kept + needed)
    assert approved(node.approve())


def test_important_data_is_answered_with_noise_when_a_person_approves_the_job(tmp_path: Path) -> None:
    """Four holders, each job by hand, no exact answers at all."""
    rho = RULES[Grade.IMPORTANT].rho_per_year
    rows = {name: people(150) for name in FOUR}
    node = make(tmp_path, schema=IMPORTANT, rows=rows, noise=NoiseTerms(rho=rho), approval="each job")
    assert "highest_grade" in refused(node.approve(), "forbidden_by_policy")["rule"]
    node.policy = Policy(highest_grade=Grade.IMPORTANT)
    assert node.approve() == Pending(node.id)
    decide(node)
    (reply,) = node.answering.decided()
    assert approved(reply)
    approvals = node.approvals()
    (_, women, _), (_, men, _) = result(node, approvals, node.answer(approvals))
    assert women is not WITHHELD and men is WITHHELD
    assert node.ledger.spent("health.heart", MERCHANT, NOW) == (rho, rho)
    node.answering.close()


def test_important_data_has_no_exact_answers(tmp_path: Path) -> None:
    node = make(tmp_path, schema=IMPORTANT, rows=FOUR, approval="each job")
    node.policy = Policy(highest_grade=Grade.IMPORTANT)
    refused(node.approve(), "exact_forbidden")
    node.answering.close()


# --- the house's stricter rules ----------------------------------------------------------------------------------


def test_the_house_may_give_fewer_exact_answers(node: Node) -> None:
    node.policy = Policy(exact_jobs=1)
    assert approved(node.approve())
    ask(node, 2, OTHER_SQL)
    assert refused(node.approve(), "exact_quota_used")["limit"] == "1"


def test_the_house_may_give_none(node: Node) -> None:
    node.policy = Policy(exact_jobs=0)
    assert refused(node.approve(), "exact_quota_used")["limit"] == "0"


def test_the_house_may_demand_noise(node: Node) -> None:
    node.policy = Policy(noise=NoiseRule.MANDATORY)
    assert node.approve() == Pending(node.id)
    ask(node, 2, OTHER_SQL, NOISE)
    assert approved(node.approve())


def test_the_house_may_have_a_smaller_budget(noisy: Node) -> None:
    noisy.policy = Policy(rho_per_year=0.199999)
    assert refused(noisy.approve(), "budget_exhausted") == {"table": "health.heart", "cost": "0.2", "left": "0.199999"}
    noisy.policy = Policy(rho_per_year=0.2)
    assert approved(noisy.approve())


def test_a_laxer_house_changes_nothing(tmp_path: Path) -> None:
    node = make(tmp_path, disclosure=rules(exact_jobs=1, rho_per_year=NOISE.rho))
    node.policy = Policy(exact_jobs=100, rho_per_year=10)
    assert approved(node.approve())
    ask(node, 2, OTHER_SQL)
    assert refused(node.approve(), "exact_quota_used")["limit"] == "1"
    ask(node, 3, SQL, NOISE)
    assert approved(node.approve())
    ask(node, 4, OTHER_SQL, NOISE)
    assert refused(node.approve(), "budget_exhausted")["left"] == "0"
    node.answering.close()


@pytest.mark.parametrize("house", [{}, {"dominance_one": 10}, {"dominance_two": 20}], ids=["agreed", "one", "two"])
def test_the_house_may_allow_less_dominance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, house: Any) -> None:
    """The oldest of twelve has a sixth of all their years: less than was agreed, and more than the house allows. It is
    the sum that is vetoed, and not the count."""
    rows = {**MANY, ME: people(12, oldest=80)}
    ages = [row["age"] or 0 for row in rows[ME] if row["sex"] == 0]
    assert 0.1 < max(ages) / sum(ages) < 0.2
    node = make(tmp_path, rows=rows)
    node.policy = Policy(**house)
    vetoed = own_words(node, monkeypatch)[VETO][0] != 0
    tests = node.world.read().tests.tests
    assert vetoed.tolist() == [bool(house) and bool(test.magnitudes) for test in tests]
    assert any(test.magnitudes for test in tests)
    node.answering.close()


# --- compared with earlier answers -------------------------------------------------------------------------------


def test_it_counts_by_how_many_an_answer_differs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody, and everybody but one: what nobody has answered before is far from everything."""
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    assert (own_words(node, monkeypatch)[NEAREST] == 2).all()
    node.answering.forget(node.id)
    ask(node, 2, "SELECT COUNT(*) AS n FROM health.heart WHERE age < 60")
    assert own_words(node, monkeypatch)[NEAREST].tolist() == [[1]]
    node.answering.forget(node.id)
    node.restart()
    ask(node, 3, "SELECT COUNT(*) AS n FROM health.heart WHERE age > 30")
    assert own_words(node, monkeypatch)[NEAREST].tolist() == [[1]]


def test_what_a_total_would_leave_of_its_parts_is_withheld(node: Node) -> None:
    """Everybody, and then women and men, of whom there are few: women alone would show how many."""
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    approvals = node.approvals()
    everybody = sum(map(len, MANY.values()))
    assert result(node, approvals, node.answer(approvals)) == [(everybody,)]
    node.restart()
    ask(node, 2, "SELECT sex, COUNT(*) AS n FROM health.heart GROUP BY sex")
    approvals = node.approvals()
    assert result(node, approvals, node.answer(approvals)) == [("female", WITHHELD), ("male", WITHHELD)]


def test_two_exact_questions_are_not_under_way_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    own_words(node, monkeypatch)
    ask(node, 2, "SELECT COUNT(*) AS n FROM health.heart WHERE age < 60")
    assert refused(node.share(node.approvals()), "answer_pending") == {"holder": ME, "table": "health.heart"}


def test_a_share_counts_for_later_answers_whatever_becomes_of_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have released it: also when this holder never did."""
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    own_words(node, monkeypatch)
    node.answering.forget(node.id)
    node.restart()
    ask(node, 2, "SELECT COUNT(*) AS n FROM health.heart WHERE age < 60")
    assert own_words(node, monkeypatch)[NEAREST].tolist() == [[1]]


def test_what_was_withheld_does_not_count(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it went out."""
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    own_words(node, monkeypatch)
    approvals = node.approvals()
    assert result(node, approvals, node.contribute(approvals)) == [(WITHHELD,)]
    ask(node, 2, "SELECT COUNT(*) AS n FROM health.heart WHERE age < 60")
    assert own_words(node, monkeypatch)[NEAREST].tolist() == [[2]]


def test_the_same_question_about_a_new_version_is_compared_with_the_old(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One woman came."""
    ask(node, 1, "SELECT COUNT(*) AS n FROM health.heart")
    own_words(node, monkeypatch)
    node.answering.forget(node.id)
    publish_another(node)
    ask(node, 2, "SELECT COUNT(*) AS n FROM health.heart")
    assert own_words(node, monkeypatch)[NEAREST].tolist() == [[1]]
