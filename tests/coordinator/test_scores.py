"""Scoring models and requests at the coordinator."""

from collections.abc import Callable
from typing import Any

import pytest

from ceiba_coordinator.scores import OPEN_MODELS, Scores
from ceiba_protocol.errors import (
    AgreementNotActive,
    BadCiphertext,
    BadScoreModel,
    CeibaError,
    JobConflict,
    MalformedMessage,
    NotAgreed,
    QuotaExceeded,
    ScoreModelNotReady,
    SecondPayload,
    UnknownJob,
    UnknownScoreModel,
)
from ceiba_protocol.linkage.scoring import ScoreRequest, merchant_open
from ceiba_protocol.trust.agreement import Notice, Word
from ceiba_protocol.trust.log import LogEntry
from ceiba_protocol.v1.scoring_pb2 import ScoreCall
from tests.coordinator.office import Office
from tests.support.members import MERCHANT, NOW, signed_by
from tests.support.score_world import COARSE_BITS, HOLDERS, ScoreWorld
from tests.support.scorecards import SCHEMAS


def refused(error: type[CeibaError], action: Callable[..., object], *arguments: object, **changes: object) -> None:
    with pytest.raises(error):
        action(*arguments, **changes)


class ScoreOffice(Office):
    """A coordinator beside simulated agencies; everybody has signed the agreement."""

    def __init__(self) -> None:
        self.scored = ScoreWorld()
        super().__init__(world=self.scored, agreed=False)  # type: ignore[arg-type]
        for schema in SCHEMAS.values():
            self.store.put_schema(schema.digest(), schema.body())
        for signed in self.scored.evidence().signatures:
            self.agreements.submit(signed, signed.signer)
        self.scores = Scores(self.store, self.membership, self.agreements, self.log, self.clock)

    def register(self, **changes: Any) -> None:
        self.scores.register(self.scored.signed_model(**changes), self.scored.weights, MERCHANT)

    def approve(self, *names: str, **changes: Any) -> None:
        for name in names or HOLDERS:
            self.scores.take_word(self.scored.approval(name, **changes), name)

    def answer(self, call: ScoreCall, *names: str, **changes: Any) -> None:
        for name in names or HOLDERS:
            one = self.scored.answer(name, call, self.scored.approvals(), **changes)
            self.scores.answer(one.answer, one.ciphertexts, name)

    def logged(self, kind: str) -> int:
        entries = [LogEntry.parse(body) for body in self.store.log_entries(0, self.store.log_size())]
        return sum(entry.type == f"ceiba.v1.{kind}" for entry in entries)

    def tasks(self, name: str) -> list[str | None]:
        return [task.WhichOneof("kind") for _, task in self.scores.tasks(name)]


@pytest.fixture
def office() -> ScoreOffice:
    made = ScoreOffice()
    made.register()
    return made


@pytest.fixture
def ready(office: ScoreOffice) -> ScoreOffice:
    office.approve()
    return office


@pytest.fixture
def call(ready: ScoreOffice) -> ScoreCall:
    return ready.scored.call(ready.scored.consent("firm 1"), ready.scored.consent("firm 2"))


# --- models ----------------------------------------------------------------------------------------------------


def test_a_model_waits_for_each_holder_until_it_has_said_its_word(office: ScoreOffice) -> None:
    digest = office.scored.model.digest()
    assert [office.tasks(name) for name in HOLDERS] == [["model"]] * 3
    assert office.scores.weights(digest, "tax") == office.scored.weights
    office.scores.wait_for_person(digest, "tax")
    assert list(office.scores.status(digest, MERCHANT).pending) == ["tax"]
    office.approve("insurance", "tax")
    status = office.scores.status(digest, "register")
    assert ([one.signer for one in status.approvals], list(status.pending)) == (["insurance", "tax"], [])
    assert [office.tasks(name) for name in HOLDERS] == [[], ["model"], []]
    assert office.logged("ScoreModel") == 1 and office.logged("ModelApproval") == 2


def test_the_same_again_changes_nothing(office: ScoreOffice) -> None:
    before = office.store.log_size()
    office.register()
    office.approve("tax")
    office.approve("tax")
    assert office.store.log_size() == before + 1


def test_what_is_no_model_of_the_merchants(office: ScoreOffice) -> None:
    scored, weights = office.scored, office.scored.weights
    refused(MalformedMessage, office.scores.register, scored.signed_model(), weights, "bank-b")
    refused(BadScoreModel, office.scores.register, scored.signed_model(model_id="11" * 16), weights[1:], MERCHANT)
    refused(NotAgreed, office.register, model_id="22" * 16, purpose="advertising")
    refused(ScoreModelNotReady, office.register, model_id="33" * 16, valid_until=NOW - 1)


def test_a_merchant_has_so_many_models(office: ScoreOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPEN_MODELS > 10
    monkeypatch.setattr("ceiba_coordinator.scores.OPEN_MODELS", 2)
    office.register(model_id="11" * 16)
    refused(QuotaExceeded, office.register, model_id="22" * 16)
    office.now = office.scored.model.valid_until + 1
    office.register(model_id="22" * 16, valid_until=office.now)


def test_strangers_learn_nothing_of_a_model(office: ScoreOffice) -> None:
    digest = office.scored.model.digest()
    refused(UnknownScoreModel, office.scores.status, digest, "bank-b")
    refused(UnknownScoreModel, office.scores.weights, digest, "police")
    refused(UnknownScoreModel, office.scores.status, "0" * 64, MERCHANT)
    refused(UnknownScoreModel, office.scores.wait_for_person, digest, "police")


def test_a_word_is_its_holders_and_a_refusal_stays(office: ScoreOffice) -> None:
    scored = office.scored
    refused(MalformedMessage, office.scores.take_word, scored.approval("tax"), "register")
    refused(MalformedMessage, office.scores.take_word, scored.approval("tax", holder="register"), "tax")
    refused(UnknownScoreModel, office.scores.take_word, scored.approval("tax", model_digest="0" * 64), "tax")
    office.approve("tax")
    refused(SecondPayload, office.approve, "tax", mask_key="11" * 32)
    office.scores.take_word(scored.refusal("tax"), "tax")
    refused(SecondPayload, office.approve, "tax")
    assert [one.signer for one in office.scores.status(scored.model.digest(), MERCHANT).refusals] == ["tax"]


# --- requests --------------------------------------------------------------------------------------------------


def test_nothing_is_multiplied_before_all_have_answered(ready: ScoreOffice, call: ScoreCall) -> None:
    opened = ready.scores.begin(call, MERCHANT)
    assert [ready.tasks(name) for name in HOLDERS] == [["request"]] * 3
    one = ready.scored.answer("tax", call, ready.scored.approvals())
    ready.scores.answer(one.answer, one.ciphertexts, "tax")
    ready.scores.answer(one.answer, one.ciphertexts, "tax")
    ready.answer(call, "insurance")
    assert opened.outcome is None and [ready.tasks(name) for name in HOLDERS] == [[], ["request"], []]


def test_the_outcome_is_the_product(ready: ScoreOffice, call: ScoreCall) -> None:
    opened = ready.scores.begin(call, MERCHANT)
    ready.answer(call)
    assert opened.outcome is not None and [len(one.ciphertexts) for one in opened.outcome.answers] == [512] * 3
    scores = merchant_open(opened.outcome.products, ready.scored.private_key, COARSE_BITS)
    assert scores == [-1 + 0 + 0 - 2] * 2  # nobody knows these firms
    assert [ready.tasks(name) for name in HOLDERS] == [[]] * 3
    assert (ready.logged("ScoreRequest"), ready.logged("ScoreAnswer")) == (1, 3)


def test_the_same_request_again_asks_again_and_is_logged_once(ready: ScoreOffice, call: ScoreCall) -> None:
    first = ready.scores.begin(call, MERCHANT)
    assert ready.scores.begin(call, MERCHANT) is first
    answers = {name: ready.scored.answer(name, call, ready.scored.approvals()) for name in HOLDERS}
    for _ in range(2):
        opened = ready.scores.begin(call, MERCHANT)
        for name, one in answers.items():
            ready.scores.answer(one.answer, one.ciphertexts, name)
        assert opened.outcome is not None
    assert (ready.logged("ScoreRequest"), ready.logged("ScoreAnswer")) == (1, 3)


def test_an_id_is_one_request(ready: ScoreOffice, call: ScoreCall) -> None:
    ready.scores.begin(call, MERCHANT)
    request_id = ScoreRequest.parse(call.request.body).request_id
    other = ready.scored.call(ready.scored.consent("firm 3"), request_id=request_id)
    refused(JobConflict, ready.scores.begin, other, MERCHANT)


def test_a_request_has_its_merchant_its_consents_and_its_subjects(ready: ScoreOffice, call: ScoreCall) -> None:
    refused(MalformedMessage, ready.scores.begin, call, "bank-b")
    broken = [ScoreCall.FromString(call.SerializeToString()) for _ in range(5)]
    del broken[0].consents[1]
    del broken[1].subjects[1]
    broken[2].subjects[1].holder = "tax"
    del broken[3].subjects[0].sealed[1]
    broken[4].subjects[0].sealed[0] = b"short"
    for one in broken:
        refused(MalformedMessage, ready.scores.begin, one, MERCHANT)
    assert ready.logged("ScoreRequest") == 0


def test_only_an_approved_model_is_scored_with(office: ScoreOffice) -> None:
    scored = office.scored
    call = scored.call(scored.consent("firm 1"))
    office.approve("tax", "insurance")
    with pytest.raises(ScoreModelNotReady, match="register did not approve"):
        office.scores.begin(call, MERCHANT)
    office.approve("register")
    office.scores.begin(call, MERCHANT)
    office.scores.take_word(scored.refusal("tax"), "tax")
    with pytest.raises(ScoreModelNotReady, match="tax refused"):
        office.scores.begin(scored.call(scored.consent("firm 1")), MERCHANT)


def test_time_and_notices_end_a_model(ready: ScoreOffice, call: ScoreCall) -> None:
    ready.scores.begin(call, MERCHANT)
    scored, digest = ready.scored, ready.scored.agreement.digest()
    notice = Notice(agreement_digest=digest, member=MERCHANT, number=1, word=Word.SUSPEND, reason="", at=NOW)
    ready.agreements.submit(signed_by(MERCHANT, notice), MERCHANT)
    refused(AgreementNotActive, ready.scores.begin, scored.call(scored.consent("firm 1")), MERCHANT)
    ready.now = scored.model.valid_until + 1
    refused(ScoreModelNotReady, ready.scores.begin, scored.call(scored.consent("firm 1")), MERCHANT)


def test_an_answer_is_its_holders_to_an_open_request(ready: ScoreOffice, call: ScoreCall) -> None:
    one = ready.scored.answer("tax", call, ready.scored.approvals())
    refused(UnknownJob, ready.scores.answer, one.answer, one.ciphertexts, "tax")
    opened = ready.scores.begin(call, MERCHANT)
    refused(UnknownJob, ready.scores.answer, one.answer, one.ciphertexts, "register")
    refused(MalformedMessage, ready.answer, call, "register", context_digest="0" * 64)
    refused(BadCiphertext, ready.scores.answer, one.answer, one.ciphertexts[:-1] + b"\0", "tax")
    ready.scores.answer(one.answer, one.ciphertexts, "tax")
    assert ready.scores.give_up(opened).fields == {"holders": "insurance, register"}
    refused(UnknownJob, ready.scores.answer, one.answer, one.ciphertexts, "tax")
