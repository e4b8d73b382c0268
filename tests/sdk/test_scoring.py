"""The merchant's side of scoring: nothing that the coordinator hands over is believed without its signatures."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import ceiba
from ceiba.cli import app
from ceiba.consents import GivenConsent
from ceiba.scoring import Card, Feature, RegisteredModel, Score, ScoreWish, _carded, _weighed
from ceiba_protocol.errors import (
    BadCiphertext,
    BadQuestion,
    BadScoreModel,
    BadSignature,
    CeibaError,
    MalformedMessage,
    NotAgreed,
    NotAnIdentifier,
    SetMismatch,
    TotalRejected,
)
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.score_receipt import STEPS, ScoreReceipt, verify
from ceiba_protocol.linkage.scoring import ScoreAnswer, ScoreRequest, coordinator_combine
from ceiba_protocol.trust.receipt import SharedText, SignedText
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.v1.scoring_pb2 import ModelStatus, ScoreCall, ScoreOutcome
from ceiba_protocol.whole_job import sealing_secret
from tests.support.members import MERCHANT, NOW, changed, signed_by, signing_key
from tests.support.score_world import HOLDERS, ScoreWorld
from tests.support.scorecards import POINTS, SCHEMAS


class FakeStub:
    """A coordinator whose holders know nobody; `change` is what it does to an honest outcome."""

    def __init__(self, world: ScoreWorld) -> None:
        self.world = world
        self.change: Callable[[ScoreOutcome], None] = lambda _: None
        self.status = ModelStatus(approvals=world.approvals())

    def Status(self, _reference: Any, timeout: float) -> ModelStatus:
        return self.status

    def Score(self, call: ScoreCall, timeout: float) -> ScoreOutcome:
        approvals = self.world.approvals()
        answers = [self.world.answer(name, call, approvals) for name in HOLDERS]
        parts = {one.answer.signer: (ScoreAnswer.parse(one.answer.body), one.ciphertexts) for one in answers}
        products = coordinator_combine(parts, len(call.consents), self.world.n)
        outcome = ScoreOutcome(answers=answers, products=products, approvals=approvals)
        self.change(outcome)
        return outcome


@pytest.fixture
def model() -> RegisteredModel:
    world = ScoreWorld()
    identity = SimpleNamespace(
        name=MERCHANT,
        signing_key=signing_key(MERCHANT),
        sealing_seed=sealing_secret(MERCHANT).hex(),
        encryption=SimpleNamespace(keypair=(world.public_key, world.private_key)),
    )
    space: Any = SimpleNamespace(
        identity=identity,
        roster=world.roster,
        address="",
        channel=_no_channel(),
        with_newest_roster=lambda step: step(),
    )
    parties = SharedText.of(list(world.evidence().signatures))
    made = RegisteredModel(space, world.signed_model(), 600, IdentifierKind.TEXT, parties)
    made._stub = FakeStub(world)  # type: ignore[assignment]
    return made


def _no_channel() -> Any:
    def method(*_: Any, **__: Any) -> None:
        return None

    return SimpleNamespace(unary_unary=method, unary_stream=method, stream_unary=method)


def consent(model: RegisteredModel, identifier: str) -> GivenConsent:
    signed, subject = _world(model).consent(identifier)
    signature, salt = signed.signature.hex(), subject.salt.hex()
    return GivenConsent(issuer=signed.signer, text=signed.body.decode(), signature=signature, salt=salt)


def _world(model: RegisteredModel) -> ScoreWorld:
    stub: Any = model._stub
    world: ScoreWorld = stub.world
    return world


NOBODYS = 600 - 1 + 0 + 0 - 2


def test_a_score_has_the_base_points_that_no_holder_knows_of(model: RegisteredModel) -> None:
    assert model.score(consent(model, "firm 1"), "Firm 1") == Score(NOBODYS, {})


def test_many_travel_in_parts(model: RegisteredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba.scoring.MOST_SCORES", 2)
    given = consent(model, "firm 1")
    assert len(model.score_all([(consent(model, "firm 1"), "firm 1") for _ in range(5)])) == 5
    assert model.score_all([]) == [] and given.salt not in repr(given)


# --- receipts ----------------------------------------------------------------------------------------------------


def receipt_of(model: RegisteredModel) -> ScoreReceipt:
    receipt = model.score(consent(model, "firm 1"), "firm 1").receipt
    assert isinstance(receipt, ScoreReceipt)
    return ScoreReceipt.parse(receipt.body())


def failing(receipt: ScoreReceipt, roster: Roster, **changes: Any) -> int:
    """The step at which a changed receipt fails; 0 for none."""
    last = verify(receipt.model_copy(update=changes), roster)[-1]
    return 0 if last.error is None else last.number


def test_a_scores_receipt_holds_offline_and_names_no_subject(model: RegisteredModel, tmp_path: Path) -> None:
    receipt, roster = receipt_of(model), _world(model).roster
    assert [step.error for step in verify(receipt, roster)] == [None] * len(STEPS)
    assert b"firm 1" not in receipt.body()
    (tmp_path / "score.json").write_bytes(receipt.body())
    (tmp_path / "roster.json").write_bytes(roster.body())
    words = ["verify", str(tmp_path / "score.json"), "--roster", str(tmp_path / "roster.json")]
    good = CliRunner().invoke(app, words)
    assert (
        good.exit_code == 0
        and "The receipt holds." in good.output
        and "Whether the log has it is not looked at" in good.output
    )
    (tmp_path / "score.json").write_bytes(receipt.model_copy(update={"answers": ()}).body())
    bad = CliRunner().invoke(app, words)
    assert bad.exit_code == 5 and "fails at step 6" in bad.output


def test_a_receipt_with_anything_of_another_score_fails_at_its_step(model: RegisteredModel) -> None:
    one, other, world = receipt_of(model), receipt_of(model), _world(model)
    assert failing(one, world.roster) == 0
    parties = world.evidence().signatures
    assert failing(one, world.roster, agreement=SharedText.of(parties[:-1])) == 1
    elsewhere = signed_by(MERCHANT, changed(world.model, purpose="advertising"))
    assert failing(one, world.roster, model=SignedText.of(elsewhere)) == 2
    assert failing(one, world.roster, approvals=one.approvals[:-1]) == 3
    assert failing(one, world.roster, approvals=(*one.approvals[:-1], one.approvals[0])) == 3
    request = ScoreRequest.parse(one.request.text.encode())
    assert failing(one, world.roster, request=SignedText.of(signed_by("bank-b", request))) == 4
    of_other = request.model_copy(update={"model_digest": "0" * 64})
    assert failing(one, world.roster, request=SignedText.of(signed_by(MERCHANT, of_other))) == 4
    assert failing(one, world.roster, consents=other.consents) == 5
    forged = one.consents[0].model_copy(update={"signature": other.consents[0].signature})
    assert failing(one, world.roster, consents=(forged,)) == 5
    assert failing(one, world.roster, answers=other.answers) == 6
    assert failing(one, world.roster, answers=(*one.answers[:-1], one.answers[0])) == 6
    assert failing(one, world.roster, answers=one.answers[:-1]) == 6
    assert failing(one, world.roster, request=other.request, consents=other.consents) == 6


def drop_answer(outcome: ScoreOutcome) -> None:
    del outcome.answers[1]


def repeat_answer(outcome: ScoreOutcome) -> None:
    outcome.answers[1].CopyFrom(outcome.answers[0])


def change_product(outcome: ScoreOutcome) -> None:
    outcome.products = outcome.products[:-1] + bytes([outcome.products[-1] ^ 1])


def change_ciphertext(outcome: ScoreOutcome) -> None:
    one = outcome.answers[2]
    one.ciphertexts = one.ciphertexts[:-1] + bytes([one.ciphertexts[-1] ^ 1])


def change_answer(outcome: ScoreOutcome) -> None:
    outcome.answers[0].answer.body = outcome.answers[0].answer.body.replace(b"insurance", b"insuranze")


def drop_approval(outcome: ScoreOutcome) -> None:
    del outcome.approvals[0]


def other_mask_key(outcome: ScoreOutcome) -> None:
    """Genuine, and not the one that the holders have answered under."""
    outcome.approvals[0].CopyFrom(ScoreWorld().approval("insurance", mask_key="11" * 32))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (drop_answer, SetMismatch),
        (repeat_answer, SetMismatch),
        (change_product, TotalRejected),
        (change_ciphertext, BadCiphertext),
        (change_answer, BadSignature),
        (drop_approval, SetMismatch),
        (other_mask_key, (SetMismatch, MalformedMessage)),
    ],
)
def test_what_the_coordinator_changes_is_noticed(model: RegisteredModel, change: Any, error: Any) -> None:
    stub: Any = model._stub
    stub.change = change
    with pytest.raises(error):
        model.score(consent(model, "firm 1"), "firm 1")


def test_status_says_who_has_said_what(model: RegisteredModel) -> None:
    stub: Any = model._stub
    assert model.status().is_ready and model.wait(0) is model
    world = stub.world
    stub.status = ModelStatus(
        approvals=[world.approval("tax")], refusals=[world.refusal("register")], pending=["insurance"]
    )
    state = model.status()
    assert (state.approved, list(state.refused), state.pending) == (("tax",), ["register"], ("insurance",))
    with pytest.raises(CeibaError, match="register refused it"):
        model.wait(5)
    stub.status.refusals[0].signature = bytes(64)
    with pytest.raises(BadSignature):
        model.status()


# --- making a model --------------------------------------------------------------------------------------------


def a_space(**schemas: Any) -> Any:
    known = {**SCHEMAS, **schemas}
    roster = ScoreWorld().roster
    return SimpleNamespace(table=lambda name: SimpleNamespace(schema=known[name]), roster=roster)


LATE = Feature("insurance.firms", "late", POINTS[1])
KIND = Feature("register.firms", "kind", POINTS[2])
SALES = Feature("tax.firms", ceiba.width_bucket("sales", 100, 5000, 2).alias("sales"), (1, 2, 3, 4, 5))


def carded(*features: Feature, on: Any = "uscc") -> Card:
    return _carded(a_space(), features or (SALES, KIND, LATE), on, {})


def test_features_are_sorted_by_holder_with_their_points() -> None:
    card = carded()
    assert [feature.holder for feature in card.features] == list(HOLDERS)
    assert card.points == (POINTS[1], POINTS[2], (1, 2, 3, 4, 5))
    assert [side.table for side in card.sides] == ["insurance.firms", "register.firms", "tax.firms"]


def test_what_is_no_card() -> None:
    with pytest.raises(BadQuestion, match="5 bins, and 2 points"):
        carded(Feature("tax.firms", SALES.key, (1, 2)))
    with pytest.raises(NotAnIdentifier):
        carded(on="sales")
    with pytest.raises(BadQuestion, match="by which identifier"):
        carded(on={"tax.firms": "uscc"})
    with pytest.raises(BadQuestion, match="none"):
        _carded(a_space(), [], "uscc", {})


def test_weights_are_encrypted_or_those_of_a_product() -> None:
    n = ScoreWorld().n
    weights, bits, blob = _weighed(POINTS, n)
    assert (weights.kind, bits, len(blob)) == ("private", 9, 17 * 256)  # sums from −137 to 108
    assert _weighed(POINTS, n, bits=24)[1] == _weighed(POINTS, n, product=True)[1] == 24
    assert _weighed(POINTS, n, product=True, reasons=2)[0].kind == "product"
    with pytest.raises(BadQuestion, match="reasons"):
        _weighed(POINTS, n, reasons=2)
    with pytest.raises(BadScoreModel):
        _weighed(((2**40,), *POINTS[1:]), n)


def test_an_agreement_is_chosen_by_what_it_covers() -> None:
    wish = ScoreWish(carded(), NOW, NOW)
    world = ScoreWorld()
    assert wish.is_about(world.agreement) and wish.lacks(world.agreement) == []
    wish.check(world.agreement)
    silent = world.make_agreement(operations=("join",))
    assert wish.lacks(silent) == ["does not cover the operation score"]
    with pytest.raises(NotAgreed):
        wish.check(silent)
    assert world.agreement.joint is not None
    unattested = world.make_agreement(joint=world.agreement.joint.model_copy(update={"consent_issuers": ()}))
    assert wish.lacks(unattested) == ["names nobody who attests consent"]
    assert signed_by(MERCHANT, unattested)
