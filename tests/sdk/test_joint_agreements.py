"""Proposing joint agreements: what holders are asked to sign follows from the tables, and is never laxer."""

from pathlib import Path
from typing import Any

import pytest

from ceiba.space import Space
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    DatasetMissing,
    GradeForbids,
    NotAnIdentifier,
    SeveralHolders,
    UnknownColumn,
    UnknownTable,
)
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.trust.agreement import DAY, OPERATIONS, Agreement, ConsentIssuer, Mode, Side
from tests.support.joint_space import PATENTS, SOCIAL, TAX, Dataset, JointCoordinator, JointWorld, firms, joint_home
from tests.support.members import NOW

TABLES = ["tax.firms", "insurance.firms"]
ISSUERS = [ConsentIssuer(name="notary b", key="0b" * 32), ConsentIssuer(name="notary a", key="0a" * 32)]


def graded(schema: Schema, grades: dict[str, str]) -> Schema:
    columns = [
        column.model_copy(update={"grade": Grade(grades.get(column.name, "public"))}) for column in schema.columns
    ]
    return schema.model_copy(update={"columns": tuple(columns)})


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, social: Schema = SOCIAL) -> tuple[Space, JointCoordinator]:
    frames = firms()
    datasets = {"tax": TAX, "social": social, "patents": PATENTS}
    coordinator = JointCoordinator(JointWorld({name: Dataset(one, frames[name]) for name, one in datasets.items()}))
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(joint_home(coordinator.world, folder)), coordinator


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Space, JointCoordinator]:
    return make(tmp_path, monkeypatch)


def propose(space: Space, tables: Any = tuple(TABLES), **terms: Any) -> Agreement:
    return space.agreements.propose_joint(tables, **({"purpose": "credit"} | terms)).contract.agreement


def test_left_out_is_everything_that_may_be_asked_and_nothing_that_weakens(made: tuple[Space, Any]) -> None:
    space, coordinator = made
    agreement = propose(space)
    (evidence,) = coordinator.agreements.values()
    assert Agreement.parse(evidence.signatures[0].body) == agreement
    assert [(side.holder, side.table) for side in agreement.sides] == [
        ("social", "insurance.firms"), ("tax", "tax.firms"),
    ]  # fmt: skip
    assert agreement.side_of("tax").columns == ("industry", "region", "sales")
    assert agreement.side_of("social") == Side(
        holder="social",
        table="insurance.firms",
        schema_digest=SOCIAL.digest(),
        columns=("employment", "region", "size", "wages"),
    )
    assert agreement.operations == tuple(sorted((*OPERATIONS, "join")))
    joint = agreement.joint
    assert joint is not None and joint.modes == (Mode.HIDDEN,) and not joint.consent_issuers
    assert (joint.base_is_trusted, joint.smallest_intersection, joint.scores_per_day) == (False, 20, 3)
    assert joint.bases == ("social", "tax")
    assert (agreement.jobs, agreement.not_after - agreement.not_before, agreement.approval) == (
        100,
        90 * DAY,
        "standing",
    )
    assert agreement.smallest_set == 2 and agreement.disclosure == RULES[Grade.PUBLIC]


def test_what_it_says_is_what_is_signed(made: tuple[Space, Any]) -> None:
    agreement = propose(
        made[0], {"tax.firms": ["sales", "industry", "sales"], "patents.firms": None}, modes=["revealed", "hidden"],
        smallest_intersection=50, base_is_trusted=True, consent_issuers=ISSUERS, scores_per_day=9, jobs=4, days=2,
        bases=["tax"], operations=["mean", "score"], approval="each job", rules={"minimum_subjects": 30},
    )  # fmt: skip
    assert agreement.side_of("tax").columns == ("industry", "sales") and agreement.holder_names == ("patents", "tax")
    assert agreement.side_of("patents").columns == ("field", "patents")
    assert agreement.operations == ("count", "join", "mean", "score")  # a base counts
    joint = agreement.joint
    assert joint is not None and joint.modes == (Mode.HIDDEN, Mode.REVEALED)
    assert [one.name for one in joint.consent_issuers] == ["notary a", "notary b"]
    assert (joint.base_is_trusted, joint.smallest_intersection, joint.scores_per_day) == (True, 50, 9)
    assert joint.bases == ("tax",)
    assert (agreement.jobs, agreement.not_after - agreement.not_before, agreement.approval) == (4, 2 * DAY, "each job")
    assert agreement.disclosure.minimum_subjects == 30


def test_subjects_are_found_by_the_only_identifier_or_by_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = (*SOCIAL.identifiers, SOCIAL.identifiers[0].model_copy(update={"column": "register"}))
    space, _ = make(tmp_path, monkeypatch, SOCIAL.model_copy(update={"identifiers": two}))
    with pytest.raises(BadQuestion, match=r"insurance\.firms are found; it has uscc, register"):
        propose(space)
    with pytest.raises(NotAnIdentifier):
        propose(space, on="register")  # which the tax office does not have
    agreement = propose(space, on={"insurance.firms": "register"})
    assert [agreement.identifier_of(name) for name in agreement.holder_names] == ["register", "uscc"]


def test_scores_are_agreed_where_somebody_can_consent(made: tuple[Space, Any]) -> None:
    assert "score" in propose(made[0], consent_issuers=ISSUERS[:1]).operations
    assert propose(made[0], consent_issuers=ISSUERS[:1], operations=["score"]).operations == ("score",)


def test_the_rules_are_those_of_the_strictest_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, _ = make(tmp_path, monkeypatch, graded(SOCIAL, {"wages": "sensitive", "size": "internal"}))
    assert propose(space).disclosure == RULES[Grade.SENSITIVE]
    for tables in ({"insurance.firms": ["size"], "tax.firms": None}, {"tax.firms": None, "insurance.firms": ["size"]}):
        assert propose(space, tables).disclosure == RULES[Grade.INTERNAL]
    with pytest.raises(CeibaError, match="laxer than"):
        propose(space, rules={"minimum_subjects": 2})


def test_core_data_are_left_out_and_not_agreed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, _ = make(tmp_path, monkeypatch, graded(SOCIAL, {"wages": "core"}))
    assert propose(space).side_of("social").columns == ("employment", "region", "size")
    with pytest.raises(GradeForbids):
        propose(space, {"tax.firms": None, "insurance.firms": ["wages"]})


@pytest.mark.parametrize(
    ("tables", "terms", "error"),
    [
        (["tax.firms", "insurance.firm"], {}, UnknownTable),
        (["tax.firms"], {}, BadQuestion),
        ([], {}, BadQuestion),
        ({"tax.firms": ["sale"], "insurance.firms": None}, {}, UnknownColumn),
        ({"tax.firms": [], "insurance.firms": None}, {}, BadQuestion),
        ({"tax.firms": None, "insurance.firms": []}, {}, BadQuestion),
        (TABLES, {"holder": {"tax.firms": "social"}}, DatasetMissing),
        (TABLES, {"operations": ["median"]}, BadQuestion),
        (TABLES, {"modes": ["open"]}, BadQuestion),
        (TABLES, {"modes": []}, BadQuestion),
        (TABLES, {"smallest_intersection": 0}, BadQuestion),
        (TABLES, {"scores_per_day": 0}, BadQuestion),
        (TABLES, {"bases": []}, BadQuestion),
        (TABLES, {"bases": ["patents"]}, BadQuestion),
        (TABLES, {"consent_issuers": [ISSUERS[0], ISSUERS[0]]}, BadQuestion),
        (TABLES, {"rules": {"minimum_subject": 3}}, BadQuestion),
        (TABLES, {"days": 0}, BadQuestion),
        (TABLES, {"purpose": "two\nlines"}, BadQuestion),
    ],
    ids=str,
)
def test_what_cannot_be_agreed_on_is_refused_before_it_is_sent(
    made: tuple[Space, Any], tables: Any, terms: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        propose(made[0], tables, **terms)
    assert not made[1].agreements


def test_two_tables_of_one_holder_are_no_joint_agreement(made: tuple[Space, Any], tmp_path: Path) -> None:
    space, coordinator = made
    tables = tuple(table.model_copy(update={"holders": ("tax",)}) for table in space.roster.tables)
    space.roster = space.roster.model_copy(update={"tables": tables})
    with pytest.raises(BadQuestion, match="tax, tax"):
        propose(space)
    tables = tuple(table.model_copy(update={"holders": ("patents", "tax")}) for table in space.roster.tables)
    space.roster = space.roster.model_copy(update={"tables": tables})
    with pytest.raises(SeveralHolders, match="patents, tax"):
        propose(space)
    assert not coordinator.agreements
