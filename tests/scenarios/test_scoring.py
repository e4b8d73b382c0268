"""Private scoring through the front door: three agencies, a bank, an issuer of consents, and firms that say yes."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import ceiba
from ceiba.agreements import AgreementHandle
from ceiba.consents import GivenConsent, IssuerKey, give, new_issuer
from ceiba.scoring import Feature, RegisteredModel, Score
from ceiba.space import Space
from ceiba_protocol.errors import (
    BadIdentifier,
    CeibaError,
    ConsentExpired,
    ConsentForOtherMerchant,
    ConsentForOtherSubject,
    ConsentUsed,
    QuotaExceeded,
    ScoreModelNotReady,
    UnknownConsentIssuer,
)
from ceiba_protocol.identifiers import IdentifierKind, uscc_check_digit
from ceiba_protocol.linkage.consent import ConsentTerms, give_consent, new_subject
from ceiba_protocol.linkage.score_receipt import ScoreReceipt, verify
from ceiba_protocol.schema import Column, ColumnType, Identifier, Schema
from ceiba_protocol.trust.agreement import ConsentIssuer
from ceiba_scenarios import Sandbox

pytestmark = pytest.mark.slow

HOLDERS = ("insurance", "register", "tax")
FIRMS = 60
STRANGER = FIRMS + 1
"""Nobody's."""


def code(firm: int) -> str:
    body = f"91110000{firm:09d}"
    return body + uscc_check_digit(body)


USCC = Identifier(column="uscc", kind=IdentifierKind.USCC)


def schema(table: str, *columns: Column) -> Schema:
    return Schema(
        table=table,
        subject_key="uscc",
        identifiers=(USCC,),
        columns=columns,
    )


SCHEMAS = {
    "insurance.firms": schema(
        "insurance.firms", Column(name="months", type=ColumnType.INT, minimum="0", maximum="600")
    ),
    "register.firms": schema(
        "register.firms", Column(name="kind", type=ColumnType.CATEGORY, domain=("sole", "limited", "listed"))
    ),
    "tax.firms": schema("tax.firms", Column(name="sales", type=ColumnType.INT, minimum="0", maximum="100000")),
}
KINDS = ("sole", "limited", "listed")
ROWS = {
    "insurance": pd.DataFrame({"uscc": map(code, range(FIRMS)), "months": [10 * firm for firm in range(FIRMS)]}),
    "register": pd.DataFrame({"uscc": map(code, range(FIRMS)), "kind": [KINDS[firm % 3] for firm in range(FIRMS)]}),
    "tax": pd.DataFrame({"uscc": map(code, range(20, FIRMS)), "sales": [1000 * firm for firm in range(20, FIRMS)]}),
}
FEATURES = [
    Feature("insurance.firms", ceiba.width_bucket("months", 120, 480, 3).alias("seniority"), (-2, -1, 0, 1, 1, 0)),
    Feature("register.firms", "kind", (0, -1, 1, 0)),
    Feature("tax.firms", ceiba.width_bucket("sales", 30000, 50000, 1).alias("turnover"), (-1, 0, 1, 0)),
]
"""6·4·4 bins: their private scores have 3 bits, from −4 to 3."""
BASE = 600


def plain(firm: int) -> int:
    """The scorecard by hand."""
    if firm >= FIRMS:
        return BASE + 0 + 0 + 0
    months, sales = 10 * firm, 1000 * firm
    seniority = -2 if months < 120 else 1 if months >= 480 else (-1, 0, 1)[(months - 120) // 120]
    turnover = 0 if firm < 20 else -1 if sales < 30000 else 1 if sales >= 50000 else 0
    return BASE + seniority + (0, -1, 1)[firm % 3] + turnover


@dataclasses.dataclass
class World:
    lab: Sandbox
    issuer: IssuerKey
    bank: Space
    agreement: AgreementHandle
    model: RegisteredModel

    def consent(self, firm: int, model: RegisteredModel | None = None) -> GivenConsent:
        return give((model or self.model).consent_request(), code(firm), self.issuer)


def agree(lab: Sandbox, space: Space, issuer: IssuerKey, **terms: Any) -> AgreementHandle:
    issuers = [ConsentIssuer(name=issuer.name, key=issuer.key.public.hex())]  # type: ignore[arg-type]
    proposal = space.agreements.propose_joint(
        list(SCHEMAS), purpose="credit decision", operations=["score"], consent_issuers=issuers, **terms
    )
    for holder in HOLDERS:
        lab.sign_agreement(holder, proposal.id)
    return proposal.wait(60)


class Lean(Sandbox):
    """Nothing is prepared in idle time, which a test would wait for and not use."""

    def _join_holder(self, name: str) -> None:
        super()._join_holder(name)
        settings = self.node_home(name).folder / "node.toml"
        settings.write_text("prepared_ciphertexts = 0\nprepared_scores = 0\n")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    tables = {holder: {f"{holder}.firms": rows} for holder, rows in ROWS.items()}
    with Lean(tables, schemas=SCHEMAS) as lab:
        bank, issuer = lab.merchant("bank", agreed=False), new_issuer("chamber of commerce")
        agreement = agree(lab, bank, issuer, scores_per_day=3)
        model = bank.register_model(FEATURES, on="uscc", base=BASE).wait(60)
        yield World(lab, issuer, bank, agreement, model)


def test_scores_are_the_scorecards_also_of_firms_that_some_or_nobody_know(world: World) -> None:
    firms = [3, 25, 47, 59, STRANGER]
    wanted = [(world.consent(firm), code(firm)) for firm in firms]
    assert world.model.score_all(wanted) == [Score(plain(firm), {}) for firm in firms]
    again = world.bank.score_model(world.model.digest[:10])
    score = again.score(world.consent(30), f" {code(30)[:9]}-{code(30)[9:].lower()}")
    assert score.points == plain(30) and isinstance(score.receipt, ScoreReceipt)
    assert [step.error for step in verify(score.receipt, world.bank.roster)] == [None] * 6
    assert code(30).encode() not in score.receipt.body()


def test_the_coordinator_and_the_logs_never_have_an_identifier(world: World) -> None:
    world.model.score(world.consent(28), code(28))
    files = [path for path in world.lab.folder.rglob("*") if path.is_file()]
    seen = [path for path in files if "coordinator" in path.parts or path.suffix == ".jsonl"]
    assert len(seen) > 3 and not [path for path in seen if code(28).encode() in path.read_bytes()]


def test_a_consent_is_used_once_also_after_the_holder_was_restarted(world: World) -> None:
    """With a product of one holder, whom no other one's memory helps; of one column there is no private score."""
    keys = [ceiba.width_bucket("months", 100 * at, 600, 1).alias(f"over_{at}") for at in (1, 2, 3)]
    features = [Feature("insurance.firms", key, (0, 1, 0, 0)) for key in keys]
    model = world.bank.register_model(features, on="uscc", product=True).wait(60)
    consent, other = (world.consent(31, model) for _ in range(2))
    assert model.score(consent, code(31)).points == 3
    with pytest.raises(ConsentUsed):
        model.score(consent, code(31))
    insurance = world.lab.processes["insurance"]
    insurance.stop()
    insurance.start()
    with pytest.raises(ConsentUsed):
        model.score(consent, code(31))
    assert model.score(other, code(31)).points == 3


def test_a_consent_allows_what_it_says_and_nothing_else(world: World) -> None:
    request, now = world.model.consent_request(), int(time.time())
    stranger = new_issuer("somebody else")
    expired = _given(world.issuer, request.terms, code(32), now - 7200)
    elsewhere = dataclasses.replace(request.terms, merchant="mallory")
    refused: dict[type[CeibaError], tuple[GivenConsent, str]] = {
        ConsentExpired: (expired, code(32)),
        ConsentForOtherMerchant: (_given(world.issuer, elsewhere, code(32), now), code(32)),
        ConsentForOtherSubject: (world.consent(32), code(33)),
        UnknownConsentIssuer: (give(request, code(32), stranger), code(32)),
    }
    scores = world.model.score_all([*refused.values(), (world.consent(32), code(32))])
    assert [type(score) for score in scores] == [*refused, Score]
    assert scores[-1] == Score(plain(32), {})
    with pytest.raises(BadIdentifier):
        world.model.score(world.consent(32), "91110000000000000X")


def _given(issuer: IssuerKey, terms: ConsentTerms, identifier: str, now: int) -> GivenConsent:
    subject = new_subject(identifier, lambda size: bytes(size))
    signed = give_consent(subject, terms, (issuer.name, issuer.key), now, 3600, lambda size: bytes(size - 1) + b"\1")
    salt = subject.salt.hex()
    return GivenConsent(issuer=issuer.name, text=signed.body.decode(), signature=signed.signature.hex(), salt=salt)


def test_model_hopping_on_one_firm_ends_at_the_quota_known_or_not(world: World) -> None:
    product = world.bank.register_model(FEATURES, on="uscc", product=True, reasons=1).wait(60)
    for firm in (40, STRANGER + 1):
        for model in (world.model, product, world.model):
            model.score(world.consent(firm, model), code(firm))
        with pytest.raises(QuotaExceeded, match="3 of 3"):
            product.score(world.consent(firm, product), code(firm))
    score = product.score(world.consent(22, product), code(22))
    assert score == Score(plain(22) - BASE, {"insurance": ("seniority",), "register": ("kind",), "tax": ("turnover",)})


def test_a_model_with_a_bin_of_few_firms_is_refused_and_the_reason_told(world: World) -> None:
    narrow = ceiba.width_bucket("sales", 41500, 42500, 1).alias("narrow")
    model = world.bank.register_model([*FEATURES, Feature("tax.firms", narrow, (0, 0, 0, 0))], on="uscc")
    with pytest.raises(ScoreModelNotReady, match=r"tax refused it .*narrow"):
        model.wait(60)
    with pytest.raises(ScoreModelNotReady):
        model.score(world.consent(1, model), code(1))


def test_what_was_agreed_ends_scores_at_once(world: World) -> None:
    """Last, because nothing is scored afterwards."""
    consent = world.consent(50)
    world.agreement.suspend("a complaint")
    with pytest.raises(CeibaError) as caught:
        world.model.score(consent, code(50))
    assert caught.value.code == "agreement_not_active"
