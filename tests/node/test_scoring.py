"""The node's side of scoring: what it approves, what it answers, and what it never answers twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.house_rules import Policy
from ceiba_node.policy import Decision, Stop, StopKind
from ceiba_node.subject_index import SubjectIndex
from ceiba_protocol.errors import (
    BadSignature,
    DatasetMissing,
    MalformedMessage,
    NotWaiting,
    ScoreModelNotReady,
    SecondPayload,
    SetMismatch,
    UnknownMember,
)
from ceiba_protocol.linkage.scoring import (
    ModelApproval,
    ModelRefusal,
    Score,
    ScoreAnswer,
    ScoreRequest,
    check_answer,
    coordinator_combine,
    merchant_read,
    request_context,
)
from ceiba_protocol.schema import Grade
from ceiba_protocol.trust.agreement import DAY, Notice, Word
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.log import body_digest
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import ScoreCall
from ceiba_protocol.whole_job import sealing_secret
from tests.support.members import MERCHANT, NOW, signed_by
from tests.support.score_world import COARSE, COARSE_BITS, FIRMS, ScoreNode, ScoreWorld, sales_of


@pytest.fixture(autouse=True)
def short_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba_protocol.sums.paillier.MINIMUM_KEY_BITS", 1024)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ScoreNode]:
    made = ScoreNode(tmp_path)
    yield made
    made.scoring.close()


def score_of(node: ScoreNode, call: ScoreCall) -> list[Any]:
    """What the merchant reads when the other holders know nobody."""
    world, approvals = node.world, node.approvals()
    request, keys = ScoreRequest.parse(call.request.body), world.mask_keys(approvals)
    context = request_context(world.model, request, keys)
    signed, ciphertexts = node.scoring.answer(world.task(call, "tax", approvals))
    answers = {"tax": (world.roster.open_any(signed, ScoreAnswer), ciphertexts)}
    for name in ("insurance", "register"):
        other = world.answer(name, call, approvals)
        answers[name] = (ScoreAnswer.parse(other.answer.body), other.ciphertexts)
    for name, (answer, blob) in answers.items():
        check_answer(answer, blob, name, world.model, request, context, world.n)
    assert coordinator_combine(answers, len(request.consents), world.n)
    return merchant_read(world.model, request, answers, context, world.private_key, sealing_secret(MERCHANT))


def plain(firm: int) -> int:
    """Of a firm that only the tax office knows."""
    sales = sales_of(firm) if firm < FIRMS else None
    place = 0 if sales is None else 1 if sales >= 5000 else 2 if sales >= 100 else 3
    return COARSE[0][5] + COARSE[1][2] + COARSE[2][3] + COARSE[3][place]


# --- models ----------------------------------------------------------------------------------------------------


def test_an_approval_is_the_same_after_a_restart(node: ScoreNode) -> None:
    word = node.approve()
    assert word is not None
    approval = node.world.roster.open_any(word, ModelApproval)
    kept = node.ledger.score_model(node.world.model.digest())
    assert kept is not None and kept.mask_secret is not None
    assert approval.mask_key == x25519_public_key(kept.mask_secret).hex()
    assert kept.mask_secret not in b"".join(path.read_bytes() for path in node.folder.glob("ledger.sqlite3*"))
    node.restart()
    assert node.approve() == word
    assert node.ledger.has_signed(word.type, body_digest(word))  # the log may attribute it to this holder


def refused(node: ScoreNode, signed: Signed | None = None) -> str:
    word = node.approve(signed)
    assert word is not None
    return node.world.roster.open_any(word, ModelRefusal).code


def test_a_model_outside_the_agreement_is_refused(tmp_path: Path) -> None:
    world = ScoreWorld()
    changes: list[dict[str, Any]] = [
        {"purpose": "advertising"},
        {"valid_until": world.agreement.not_after + 1},
        {"sides": (*world.model.sides[:2], world.model.sides[2].model_copy(update={"schema_digest": "0" * 64}))},
    ]
    node = ScoreNode(tmp_path, world)
    for change in changes:
        assert refused(node, world.signed_model(**change)) == "not_agreed"
    assert refused(node, world.signed_model(key_id="0" * 64)) == "bad_score_model"
    assert refused(node, world.signed_model(agreement_digest="1" * 64)) == "unknown_agreement"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"forbidden_columns": ("tax.firms.sales",)}, "forbidden_by_policy"),
        ({"merchants": ("bank-b",)}, "forbidden_by_policy"),
        ({"highest_grade": "internal"}, "forbidden_by_policy"),
        ({"minimum_subjects": 12}, "forbidden_by_policy"),
        ({"products_only": True}, "forbidden_by_policy"),
    ],
)
def test_the_houses_own_rules_count(tmp_path: Path, policy: dict[str, Any], code: str) -> None:
    assert refused(ScoreNode(tmp_path, policy=Policy(**policy))) == code


def test_a_private_model_whose_score_could_say_half_of_its_bins_is_refused(tmp_path: Path) -> None:
    """Its bins make 8.2 bits."""
    world = ScoreWorld()
    node = ScoreNode(tmp_path, world)
    assert refused(node, world.signed_model(bits=COARSE_BITS + 1)) == "score_says_too_much"
    assert len(node.approvals()) == 3


def test_a_model_with_a_bin_of_few_subjects_is_refused(node: ScoreNode) -> None:
    node.publish({f"firm {firm}": 50 if firm < 40 else 20_000 for firm in range(FIRMS)}, NOW + 1)
    assert refused(node) == "bin_too_small"


def test_nobody_elses_model_is_answered_at_all(node: ScoreNode) -> None:
    model = node.world.model
    with pytest.raises(MalformedMessage):
        node.approve(signed_by("bank-b", model))
    with pytest.raises(UnknownMember):
        node.approve(signed_by("tax", model))
    forged = node.world.signed_model()
    forged.signature = bytes(64)
    with pytest.raises(BadSignature):
        node.approve(forged)


def test_what_may_be_better_the_next_time_is_no_refusal(tmp_path: Path) -> None:
    node = ScoreNode(tmp_path)
    (tmp_path / "snapshots" / "tax.firms" / "current").unlink()
    with pytest.raises(DatasetMissing):
        node.approve()
    node.publish({f"firm {firm}": sales_of(firm) for firm in range(FIRMS)})
    assert node.world.roster.open_any(node.approve() or Signed(), ModelApproval)


@pytest.mark.parametrize("approved", [True, False])
def test_a_person_decides_where_the_agreement_says_so(tmp_path: Path, approved: bool) -> None:
    node = ScoreNode(tmp_path, ScoreWorld(approval="each job"))
    digest = node.world.model.digest()
    assert node.approve() is None and list(node.scoring.decided()) == []
    with pytest.raises(ScoreModelNotReady):
        node.scoring.answer(node.world.task(node.world.call(node.world.consent("x")), "tax", node.world.approvals()))
    node.ledger.decide_score_model(digest, Decision(approved, "not now"), "")
    with pytest.raises(NotWaiting):
        node.ledger.decide_score_model(digest, Decision(not approved, ""), "")
    node.restart()
    (word,) = node.scoring.decided()
    assert word.type == f"ceiba.v1.{'ModelApproval' if approved else 'ModelRefusal'}"
    assert list(node.scoring.decided()) == [] and node.approve() == word


def test_a_model_that_cannot_be_used_is_not_shown_to_a_person(tmp_path: Path) -> None:
    node = ScoreNode(tmp_path, ScoreWorld(approval="each job"))
    node.publish({"firm 1": 50, "firm 2": 20_000}, NOW + 1)
    assert refused(node) == "bin_too_small"


# --- scores ----------------------------------------------------------------------------------------------------


def test_scores_of_those_whom_the_house_knows_and_of_those_whom_it_does_not(node: ScoreNode) -> None:
    firms = [0, 1, 2, 3, FIRMS]
    call = node.world.call(*(node.world.consent(f"firm {firm}") for firm in firms))
    assert score_of(node, call) == [Score(plain(firm), {}) for firm in firms]


def test_the_same_request_gets_the_same_bytes_also_after_a_restart(node: ScoreNode) -> None:
    call = node.world.call(node.world.consent("firm 1"))
    first = node.scoring.answer(node.world.task(call, "tax", node.approvals()))
    node.restart()
    assert node.scoring.answer(node.world.task(call, "tax", node.approvals())) == first
    other = node.world.call(node.world.consent("firm 2"), request_id=ScoreRequest.parse(call.request.body).request_id)
    with pytest.raises(SecondPayload):
        node.answer(other)


def test_a_consent_is_answered_once_also_after_a_restart(node: ScoreNode) -> None:
    consent = node.world.consent("firm 1")
    assert node.refusal(node.world.call(consent)) is None
    assert node.refusal(node.world.call(consent)) == "consent_used"
    node.restart()
    assert node.refusal(node.world.call(consent)) == "consent_used"
    assert node.refusal(node.world.call(node.world.consent("firm 1"))) is None


def test_a_consent_that_was_refused_is_not_used_up(node: ScoreNode) -> None:
    consent = node.world.consent("firm 1")
    node.now = NOW - 1000
    assert node.refusal(node.world.call(consent)) == "consent_not_yet_valid"
    node.now = NOW
    assert node.refusal(node.world.call(consent)) is None


def test_what_a_consent_must_be(node: ScoreNode) -> None:
    world = node.world
    (consent, subject), (_, other) = world.consent("firm 1"), world.consent("firm 1")
    assert node.refusal(world.call(world.consent("firm 1", NOW - 7200))) == "consent_expired"
    assert node.refusal(world.call(world.consent("firm 1", merchant="bank-b"))) == "consent_for_other_merchant"
    assert node.refusal(world.call(world.consent("firm 1", holders=("tax",)))) == "consent_for_other_holders"
    assert node.refusal(world.call((consent, other))) == "consent_for_other_subject"
    swapped = world.call((consent, subject))
    swapped.subjects[2].sealed[0] = world.call(world.consent("firm 1")).subjects[2].sealed[0]
    assert node.refusal(swapped) == "malformed_message"


def test_the_quota_counts_subjects_over_models_and_in_one_batch(node: ScoreNode) -> None:
    for known in ("firm 1", "nobody"):
        call = node.world.call(*(node.world.consent(known) for _ in range(5)))
        answer, ciphertexts = node.answer(call)
        assert [(one.place, one.code) for one in answer.refusals] == [(3, "quota_exceeded"), (4, "quota_exceeded")]
        assert len(ciphertexts) == 3 * 256
    node.restart()
    assert node.refusal(node.world.call(node.world.consent("firm 1"))) == "quota_exceeded"
    node.now = NOW + DAY - NOW % DAY
    assert node.refusal(node.world.call(node.world.consent("firm 1", node.now))) is None


def test_a_house_limits_scores_of_all_subjects_together(node: ScoreNode) -> None:
    world, node.policy = node.world, Policy(scores_in_all_per_day=2)
    answer, _ = node.answer(world.call(*(world.consent(f"firm {firm}") for firm in range(3))))
    assert [(one.place, one.code) for one in answer.refusals] == [(2, "quota_exceeded")]
    assert answer.refusals[0].fields["used"] == "2" and "all subjects" in answer.refusals[0].fields["quota"]
    assert node.refusal(world.call(world.consent("nobody"))) == "quota_exceeded"
    node.policy = Policy()
    assert node.refusal(world.call(world.consent("nobody"))) is None


def test_a_subject_is_counted_by_its_number_where_it_has_several_identifiers(
    node: ScoreNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if two names were two identifiers of one firm, and `other` another firm's."""
    numbers = {"firm 1": 7, "register no. 1": 7, "other": 8}
    monkeypatch.setattr(SubjectIndex, "number", lambda _, identifier: numbers[identifier])
    world = node.world
    for name in ("firm 1", "register no. 1", "firm 1"):
        assert node.refusal(world.call(world.consent(name))) is None
    assert node.refusal(world.call(world.consent("register no. 1"))) == "quota_exceeded"
    assert node.refusal(world.call(world.consent("other"))) is None


def test_the_ledger_does_not_name_subjects(node: ScoreNode) -> None:
    node.answer(node.world.call(node.world.consent("a firm of whom nobody shall know")))
    files = b"".join(path.read_bytes() for path in node.folder.glob("ledger.sqlite3*"))
    assert b"a firm of whom nobody shall know" not in files
    node.ledger.forget_scores(NOW + 3 * DAY)
    assert node.ledger.count_scores(b"", "bank-a", 0) == 1  # the consent stays used; of whom, is gone


def test_what_is_forgotten_is_in_no_file(node: ScoreNode) -> None:
    """Also not in SQLite's write-ahead log, which keeps pages as they were."""
    node.answer(node.world.call(node.world.consent("firm 1")))
    with node.ledger._lock:
        (subject,) = node.ledger._connection.execute("SELECT subject FROM scores").fetchone()
        (secret,) = node.ledger._connection.execute("SELECT mask_secret FROM score_models").fetchone()

    def found() -> set[bytes]:
        files = b"".join(path.read_bytes() for path in node.folder.glob("ledger.sqlite3*"))
        return {one for one in (subject, secret) if one in files}

    assert found() == {subject, secret}
    node.ledger.forget_scores(NOW + 3 * DAY)
    assert found() == {secret}
    node.ledger.forget_scores(node.world.model.valid_until + 1)
    assert not found()


@pytest.mark.parametrize(
    "policy",
    [
        {"forbidden_columns": ("tax.firms.sales",)},
        {"forbidden_columns": ("tax.firms.uscc",)},
        {"merchants": ("bank-b",)},
        {"purposes": ("research",)},
        {"highest_grade": Grade.INTERNAL},
        {"minimum_subjects": 12},
        {"products_only": True},
    ],
)
def test_the_houses_rules_as_they_stand_now_count_for_models_that_were_approved(
    node: ScoreNode, policy: dict[str, Any]
) -> None:
    call = node.world.call(node.world.consent("firm 1"))
    node.approvals()
    node.policy = Policy(**policy)
    assert node.refusal(call) == "forbidden_by_policy"
    node.policy = Policy()
    assert node.refusal(node.world.call(node.world.consent("firm 1"))) is None, "what was refused is not used up"


def test_what_was_said_ends_scores_at_once(node: ScoreNode) -> None:
    world = node.world
    stop = Stop(StopKind.DATASET, "tax.firms", "", NOW)
    node.approvals()
    node.ledger.stop(stop)
    assert node.refusal(world.call(world.consent("firm 1"))) == "stopped"
    node.ledger.resume(stop.kind, stop.name)
    digest = world.agreement.digest()
    notice = Notice(agreement_digest=digest, member=MERCHANT, number=1, word=Word.SUSPEND, reason="", at=NOW)
    node.learn(signed_by(MERCHANT, notice))
    assert node.refusal(world.call(world.consent("firm 1"))) == "agreement_not_active"
    node.now = world.model.valid_until + 1
    assert node.refusal(world.call(world.consent("firm 1", node.now))) == "score_model_not_ready"


def test_the_newest_version_counts_and_must_keep_to_the_rules(node: ScoreNode) -> None:
    sales = {f"firm {firm}": sales_of(firm) for firm in range(FIRMS)}
    call = node.world.call(node.world.consent("firm 1"))
    assert score_of(node, call) == [Score(plain(1), {})]
    node.publish({**sales, "firm 1": 50}, NOW + 1)
    node.scoring.keep_ready()
    call = node.world.call(node.world.consent("firm 1"))
    assert score_of(node, call) == [Score(plain(3), {})]
    node.publish({"firm 1": 50}, NOW + 2)
    assert node.refusal(node.world.call(node.world.consent("firm 1"))) == "bin_too_small"


def test_only_the_models_own_holders_make_a_set(node: ScoreNode) -> None:
    world, own = node.world, node.approvals()
    call = world.call(world.consent("firm 1"))
    for approvals in (own[:2], [*own, own[0]], world.approvals(), [*own[:2], world.approval("register")]):
        with pytest.raises((SetMismatch, ScoreModelNotReady)):
            node.scoring.answer(world.task(call, "tax", approvals))
    assert node.refusal(call) is None


def test_a_request_is_its_merchants(node: ScoreNode) -> None:
    world = node.world
    call = world.call(world.consent("firm 1"))
    call.request.CopyFrom(signed_by("bank-b", ScoreRequest.parse(call.request.body)))
    with pytest.raises(ScoreModelNotReady):
        node.answer(call)
    short = world.call(world.consent("firm 1"), world.consent("firm 2"))
    del short.consents[1]
    with pytest.raises(MalformedMessage):
        node.answer(short)
    short = world.call(world.consent("firm 1"), world.consent("firm 2"))
    del short.subjects[2].sealed[1]
    with pytest.raises(MalformedMessage):
        node.answer(short)


def test_house_keeping_makes_ready_and_forgets(node: ScoreNode) -> None:
    node.models.approved = node.approvals()
    node.scoring.keep_ready()
    assert node.refusal(node.world.call(node.world.consent("firm 1"))) is None
    node.now = node.world.model.valid_until + 1
    node.scoring.keep_ready()
    kept = node.ledger.score_model(node.world.model.digest())
    assert kept is not None and kept.mask_secret is None


def test_what_cannot_be_stored_is_not_sent(node: ScoreNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    consent = node.world.consent("firm 1")
    monkeypatch.setattr(node.ledger, "record_scores", full)
    with pytest.raises(OSError, match="no space"):
        node.answer(node.world.call(consent))
    monkeypatch.undo()
    monkeypatch.setattr("ceiba_protocol.sums.paillier.MINIMUM_KEY_BITS", 1024)
    assert node.refusal(node.world.call(consent)) is None
