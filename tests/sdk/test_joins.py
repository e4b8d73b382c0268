"""Joins on the merchant's side: building a question, choosing who is the base, asking, and reading the answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ceiba
from ceiba.cli import app
from ceiba.joins import Join
from ceiba.joint_jobs import JointJob, JointWish
from ceiba.joint_queries import JointResult
from ceiba.space import Space
from ceiba_protocol.errors import (
    AgreementNotActive,
    AmbiguousColumn,
    BadQuestion,
    DatasetMissing,
    DatasetUnknown,
    JobFailed,
    LinkageLost,
    NoAgreement,
    NotAgreed,
    NotAnIdentifier,
    ReceiptRejected,
    SeveralHolders,
    UnknownAgreement,
    UnknownColumn,
    UnknownTable,
)
from ceiba_protocol.expression import to_text
from ceiba_protocol.job import State
from ceiba_protocol.linkage.joint import JointManifest, JointPlan
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Word, give_notice
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.v1.jobs_pb2 import JobStatus
from tests.support.joint_space import (
    PATENTS,
    SOCIAL,
    TAX,
    Dataset,
    JointCoordinator,
    JointWorld,
    agree,
    firms,
    joint_home,
)
from tests.support.members import NOW, signed_by

FRAMES = firms()
TABLES = ["tax.firms", "insurance.firms", "patents.firms"]
BOTH = FRAMES["tax"].merge(FRAMES["social"], on="uscc", suffixes=("_tax", "_social"))
"""Rows of firms that both have: one for each row of the insurance."""


@pytest.fixture(scope="module")
def world() -> JointWorld:
    return JointWorld()


def space_of(coordinator: JointCoordinator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(joint_home(coordinator.world, folder))


@pytest.fixture
def coordinator(world: JointWorld) -> JointCoordinator:
    return JointCoordinator(world)


@pytest.fixture
def space(coordinator: JointCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    return space_of(coordinator, tmp_path, monkeypatch)


@pytest.fixture
def agreed(space: Space, coordinator: JointCoordinator) -> Space:
    agree(space, coordinator, TABLES)
    return space


def two(space: Space) -> Join:
    return space.join("tax.firms", "insurance.firms", on="uscc")


def three(space: Space) -> Join:
    return space.join(*TABLES, on="uscc")


# --- answers ----------------------------------------------------------------------------------------------------


def test_statistics_of_one_table_by_groups_of_another_are_those_of_the_joined_rows(agreed: Space) -> None:
    """Two rows of a firm in the insurance are two rows, and one subject."""
    query = two(agreed).group_by("industry").agg(ceiba.mean("wages"), n=ceiba.count(), firms=ceiba.subjects())
    result = query.run()
    truth = BOTH.groupby("industry").agg(mean=("wages", "mean"), n=("wages", "size"), firms=("uscc", "nunique"))
    assert query.columns == result.columns == ("industry", "mean_wages", "n", "firms")
    assert result.rows == [(name, *row) for name, *row in truth.itertuples()]
    assert truth.n.sum() > truth.firms.sum()
    assert result.holders == ("social", "tax") and result.job_id in repr(result)
    assert "tax.firms and insurance.firms have in common; nobody has learnt which" in repr(result)
    assert result.groups == ("industry",)


def test_each_sides_filters_are_its_own(agreed: Space) -> None:
    join = two(agreed)
    conditions = (join["employment"] > 10) & (join.sales < 700) & (join["insurance.firms"].region == "east")
    query = join.filter(conditions).group_by("industry").agg(n=ceiba.count(), wages=ceiba.sum("wages"))
    kept = BOTH[(BOTH.employment > 10) & (BOTH.sales < 700) & (BOTH.region_social == "east")]
    truth = kept.groupby("industry").agg(n=("wages", "size"), wages=("wages", "sum"))
    assert query.run().rows == [(name, *row) for name, *row in truth.itertuples()]
    base, (joined,) = query.plan().base.plans[0], query.plan().joined[0].plans
    assert base.filter is not None and to_text(base.filter) == "sales < 700"
    assert joined.filter is not None and to_text(joined.filter) == "(employment > 10 AND region = 'east')"


def test_a_measured_table_can_have_groups_of_its_own(agreed: Space) -> None:
    result = two(agreed).group_by("size", "industry").agg(ceiba.sum("wages")).run()
    truth = BOTH.groupby(["industry", "size"]).wages.sum()
    assert result.columns == ("industry", "size", "sum_wages")  # the base's first
    assert {row[:2]: row[2] for row in result} == truth.to_dict()


def test_groups_and_figures_of_one_table_are_about_what_another_knows(agreed: Space) -> None:
    """Then the other is the base, which only says whom it knows."""
    query = two(agreed).group_by("industry").agg(ceiba.sum("sales"))
    assert query.plan().base.holder == "social" and not query.plan().base.plans[0].groups
    truth = FRAMES["tax"][FRAMES["tax"].uscc.isin(FRAMES["social"].uscc)].groupby("industry").sales.sum()
    assert dict(query.run().rows) == truth.to_dict()


def test_what_two_tables_have_in_common_is_counted(agreed: Space) -> None:
    join = two(agreed)
    assert join.count().run().value == BOTH.uscc.nunique() == 40
    by_condition = join.group_by(join.sales > 500).count().run()
    truth = BOTH.groupby(BOTH.sales > 500).uscc.nunique()
    assert by_condition.columns == ("sales_gt_500", "count") and dict(by_condition.rows) == truth.to_dict()
    by_both = join.group_by("industry", "size").count().run()
    assert {row[:2]: row[2] for row in by_both} == BOTH.groupby(["industry", "size"]).uscc.nunique().to_dict()


def test_figures_of_several_tables_stand_side_by_side(agreed: Space) -> None:
    """Each is about what its own table and the base have in common; who has nobody in a group has NULL there."""
    join = three(agreed)
    query = join.group_by(join.sales == 407).agg(ceiba.mean("wages"), ceiba.sum("patents"))
    result = query.run()
    patents = FRAMES["tax"].merge(FRAMES["patents"], on="uscc")
    wages = BOTH.groupby(BOTH.sales == 407).wages.mean().to_dict()
    numbers = patents.groupby(patents.sales == 407).patents.sum().to_dict()
    assert set(wages) == {True, False} and set(numbers) == {False}
    assert {row[0]: row[1:] for row in result} == {one: (wages[one], numbers.get(one)) for one in wages}
    assert len(result.remarks) == 2 and result.holders == ("patents", "social", "tax")


def test_many_tables_take_one_linkage(agreed: Space, coordinator: JointCoordinator) -> None:
    bins = ceiba.width_bucket("employment", 0, 40, 4)
    tables = three(agreed).group_by("industry").tabulate("size", "field", staff=bins).run()
    assert isinstance(tables, JointResult) and list(tables) == ["size", "field", "staff"]
    assert tables["size"].columns == ("industry", "size", "subjects")
    truth = BOTH.groupby(["industry", "size"]).uscc.nunique().to_dict()
    assert {row[:2]: row[2] for row in tables["size"]} == truth
    staff = BOTH.groupby(["industry", BOTH.employment // 10 + 1]).uscc.nunique().to_dict()
    assert {row[:2]: row[2] for row in tables["staff"]} == staff
    patents = FRAMES["tax"].merge(FRAMES["patents"], on="uscc")
    assert {row[:2]: row[2] for row in tables["field"]} == patents.groupby(["industry", "field"]).size().to_dict()
    assert len({table.job_id for table in tables.values()}) == 1 and tables.job_id in repr(tables)
    assert "tax.firms and patents.firms" in repr(tables["field"]) and "patents" not in repr(tables["size"])
    assert tables.to_pandas()["staff"].subjects.sum() == sum(staff.values())
    assert tables.to_dicts()["field"] == tables["field"].to_dicts()
    with pytest.raises(BadQuestion, match="nearest is staff"):
        tables["staf"]


def test_small_cells_are_withheld_and_look_so(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES[:2], rules={"minimum_subjects": 9})
    counts = BOTH.groupby(["industry", "size"]).uscc.nunique().to_dict()
    assert all(counts[industry, "large"] < 9 < counts[industry, "small"] for industry in ("food", "steel"))
    join = two(space).group_by("industry")
    tables = join.tabulate("size", paid=join.wages >= 0).run()
    assert set(tables["size"]["subjects"]) == {ceiba.WITHHELD}, "all of it, or another table could tell the small ones"
    assert ceiba.WITHHELD not in tables["paid"]["subjects"]
    result = join.group_by("size").agg(ceiba.mean("wages"), n=ceiba.subjects()).run()
    assert {row[2:] for row in result} == {(ceiba.WITHHELD, ceiba.WITHHELD)}
    assert result.withheld[0]["columns"] == ["mean_wages", "n"]
    assert {one["reason"] for one in result.withheld} == {"joined_cell_withheld"}
    assert (
        "in common than agreed" in repr(result)
        and "whole or not at all" in repr(result)
        and "dominates" not in repr(result)
    )


def test_of_no_rows_there_is_the_one_row_that_sql_has(agreed: Space) -> None:
    join = two(agreed)
    assert join.filter(join.sales > 1000).agg(ceiba.mean("wages"), n=ceiba.count()).run().rows == [(None, 0)]
    assert join.filter(join.sales > 1000).group_by("industry").agg(ceiba.mean("wages")).run().rows == []


def test_a_split_is_the_bases(agreed: Space, coordinator: JointCoordinator) -> None:
    join = two(agreed)
    query = join.filter(ceiba.split("credit", 2) == 0).group_by(ceiba.split("credit", 4)).agg(ceiba.mean("wages"))
    base = query.plan().base.plans[0]
    assert base.filter is not None and len(base.groups) == 1 and query.plan().joined[0].plans[0].filter is None
    assert query.columns == ("part", "mean_wages")


# --- names ------------------------------------------------------------------------------------------------------


def test_a_name_means_the_one_table_that_has_it(space: Space) -> None:
    join = two(space)
    assert to_text(join["sales"].expression) == to_text(join.sales.expression) == "sales"
    assert join.columns == [
        "industry", "sales", "tax_firms__region", "employment", "wages", "size", "insurance_firms__region",
    ]  # fmt: skip
    assert {"industry", "tax_firms__region", "agg"} <= set(dir(join)) and "region" in dir(join["tax.firms"])
    assert hasattr(join, "wages") and not hasattr(join, "wage") and not hasattr(join["tax.firms"], "wages")
    with pytest.raises(UnknownColumn, match="has no column wage; the nearest name is wages"):
        join["wage"]
    with pytest.raises(UnknownColumn, match="has no column wages"):
        join["tax.firms"]["wages"]
    assert "insurance.firms of social, joined on uscc" in repr(join) and "<table>" in join._repr_html_()
    assert "tax.firms, joined on uscc" in repr(join["tax.firms"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda join: join["region"],
        lambda join: join.filter(ceiba.col("region") == "east"),
        lambda join: join.group_by("region"),
        lambda join: join.agg(ceiba.count("region")),
        lambda join: join.tabulate("region"),
        lambda join: join.region,
    ],
)
def test_a_name_that_two_tables_have_is_asked_back(space: Space, ask: Callable[[Join], Any]) -> None:
    with pytest.raises(AmbiguousColumn) as caught:
        ask(two(space))
    assert "tax.firms, insurance.firms" in str(caught.value)
    assert "`firms['tax.firms'].region`" in str(caught.value) and "'tax_firms__region'" in str(caught.value)


def test_a_qualified_name_serves_everywhere(agreed: Space) -> None:
    join = two(agreed)
    ours, theirs = join["tax.firms"].region, join["insurance.firms"].region
    result = join.group_by(ours).agg(ceiba.count(theirs)).run()
    assert result.columns == ("region", "count_region")
    assert dict(result.rows) == BOTH.groupby("region_tax").size().to_dict()
    both = join.group_by(ours, (theirs == "east").alias("east")).count().run()
    truth = BOTH.groupby(["region_tax", BOTH.region_social == "east"]).uscc.nunique().to_dict()
    assert {row[:2]: row[2] for row in both} == truth
    assert join.group_by("tax_firms__region").count().plan() == join.group_by(ours).count().plan()
    tables = join.group_by(ours).tabulate(where=theirs).run()
    assert tables["where"].columns == ("region", "where", "subjects")


def test_statistics_without_a_name_are_called_what_they_are(space: Space) -> None:
    variance = ceiba.variance("wages", population=True)
    query = two(space).agg(ceiba.mean("wages"), variance, ceiba.count(), ceiba.subjects())
    assert query.columns == ("mean_wages", "variance_wages_True", "count", "subjects")


# --- who is the base --------------------------------------------------------------------------------------------


def roles(plan: JointPlan) -> tuple[str, list[str]]:
    return plan.base.holder, [side.holder for side in plan.joined]


@pytest.mark.parametrize(
    ("keys", "measured", "base", "joined"),
    [
        ([], ["wages"], "tax", ["social"]),
        ([], ["sales"], "social", ["tax"]),
        (["industry"], ["wages"], "tax", ["social"]),
        (["industry"], ["sales"], "social", ["tax"]),
        (["size"], ["wages"], "tax", ["social"]),
        (["size"], ["sales"], "social", ["tax"]),
        (["field"], ["wages"], "patents", ["social"]),
        ([], ["patents", "wages"], "tax", ["patents", "social"]),
        ([], ["sales", "wages"], "patents", ["social", "tax"]),
        (["field"], ["sales", "wages"], "patents", ["social", "tax"]),
        (["industry", "size"], ["wages"], "tax", ["social"]),
    ],
    ids=str,
)
def test_the_base_has_the_groups_and_is_not_measured(
    space: Space, keys: list[str], measured: list[str], base: str, joined: list[str]
) -> None:
    query = three(space).group_by(*keys).agg(*map(ceiba.sum, measured))
    assert roles(query.plan()) == (base, joined)


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda join: join.agg(ceiba.sum("sales"), ceiba.sum("wages")), "statistics of every joined table"),
        (lambda join: join.group_by("industry").agg(ceiba.sum("sales"), ceiba.sum("wages")), "has the groups"),
        (lambda join: join.agg(ceiba.mean(join.sales / 2 + join.wages)), "a statistic reads columns of several tables"),
        (lambda join: join.filter((join.sales > 3) | (join.wages > 3)), "sales of tax.firms, wages of insurance.firms"),
        (lambda join: join.group_by(join.sales > join.wages), "a group reads columns of several tables"),
        (lambda join: join.group_by("industry").agg(industry=ceiba.count()), "the same name: industry, industry"),
        (lambda join: join.agg(n=ceiba.sum("wages"), m=3), "m is a int, not a statistic"),
        (lambda join: join.agg(), "asks for nothing"),
        (lambda join: join.agg(ceiba.mean("wages"), mean_wages=ceiba.count()), "the same name"),
        (lambda join: join.tabulate(), "no keys"),
        (lambda join: join.tabulate(part=ceiba.split("x", 2)), "reads no column"),
        (lambda join: join.group_by("size").tabulate("size"), "is a group of a table that is tabulated"),
        (lambda join: join.group_by("industry").tabulate(industry="size"), "the same name"),
        (lambda join: join.group_by("industry").tabulate(subjects="size"), "the same name"),
        (lambda join: join.tabulate("size", size=join.employment > 3), "the same name"),
    ],
)  # fmt: skip
def test_what_two_tables_cannot_be_asked_is_said_before(space: Space, ask: Callable[[Join], Any], problem: str) -> None:
    with pytest.raises(BadQuestion, match=problem):
        ask(two(space))


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda join: join.agg(ceiba.sum("wages"), ceiba.sum("patents"), n=ceiba.count()), "of which table rows"),
        (lambda join: join.group_by("industry", "field").agg(ceiba.sum("wages")), "groups are of several tables"),
        (lambda join: join.group_by("size").agg(ceiba.sum("wages"), ceiba.sum("patents")), "size groups only one of"),
        (lambda join: join.filter(join.patents > 3).agg(ceiba.sum("wages")), "does not filter figures of insur"),
        (
            lambda join: join.filter(join.patents > 3).agg(ceiba.sum("wages"), ceiba.sum("patents")),
            "patents > 3 of patents.firms does not filter figures of insurance.firms",
        ),
    ],
)  # fmt: skip
def test_what_three_tables_cannot_be_asked_is_said_before(
    space: Space, ask: Callable[[Join], Any], problem: str
) -> None:
    with pytest.raises(BadQuestion, match=problem):
        ask(three(space))


# --- joining ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "options", "error", "problem"),
    [
        (["tax.firms"], {"on": "uscc"}, BadQuestion, "two or more tables"),
        (["tax.firms", "tax.firms"], {"on": "uscc"}, BadQuestion, "different names"),
        (["tax.firms", "insurance.firm"], {"on": "uscc"}, UnknownTable, "insurance.firms"),
        (["tax.firms", "insurance.firms"], {"on": "sales"}, NotAnIdentifier, "sales"),
        (["tax.firms", "insurance.firms"], {"on": {"tax.firms": "uscc"}}, BadQuestion, "on what insurance.firms is"),
        (["tax.firms", "insurance.firms"], {"on": "uscc", "holder": {"tax.firms": "social"}}, DatasetMissing, "social"),
    ],
)
def test_what_cannot_be_joined_is_said_at_once(
    space: Space, tables: list[str], options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        space.join(*tables, **options)


def test_a_table_of_several_holders_needs_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = firms()
    south = frames["social"].iloc[:20].reset_index(drop=True)
    datasets = {
        "tax": Dataset(TAX, frames["tax"]),
        "north": Dataset(SOCIAL, frames["social"]),
        "south": Dataset(SOCIAL, south),
        "patents": Dataset(PATENTS, frames["patents"]),
    }
    coordinator = JointCoordinator(JointWorld(datasets))
    space = space_of(coordinator, tmp_path, monkeypatch)
    for ask in (lambda: two(space), lambda: space.agreements.propose_joint(TABLES[:2], purpose="x")):
        with pytest.raises(SeveralHolders, match="north, south") as caught:
            ask()
    assert "`holder={'insurance.firms': 'north'}`" in str(caught.value)
    chosen = {"insurance.firms": "south"}
    agree(space, coordinator, TABLES[:2], holder=chosen)
    join = space.join("tax.firms", "insurance.firms", on="uscc", holder=chosen)
    truth = frames["tax"].merge(south, on="uscc").groupby("industry").wages.sum()
    assert dict(join.group_by("industry").agg(ceiba.sum("wages")).run().rows) == truth.to_dict()
    with pytest.raises(NoAgreement, match="none about these tables together"):
        space.join(*TABLES[:2], on="uscc", holder={"insurance.firms": "north"}).count().run()


def test_identifiers_have_names_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joining(tax: Schema, social: Schema) -> Space:
        datasets = {"tax": Dataset(tax, FRAMES["tax"]), "social": Dataset(social, FRAMES["social"])}
        world = JointWorld({**datasets, "patents": Dataset(PATENTS, FRAMES["patents"])})
        coordinator = JointCoordinator(world)
        space = space_of(coordinator, tmp_path / tax.digest(), monkeypatch)
        agree(space, coordinator, TABLES[:2])
        return space

    code = {"subject_key": "code", "identifiers": [{"column": "code", "kind": "text"}]}
    space = joining(TAX, Schema.from_plain(SOCIAL.model_dump(mode="json") | code))
    join = space.join(*TABLES[:2], on={"tax.firms": "uscc", "insurance.firms": "code"})
    assert join.count().run().value == 40
    coded = {"identifiers": [{"column": "uscc", "kind": "uscc"}]}
    space = joining(Schema.from_plain(TAX.model_dump(mode="json") | coded), SOCIAL)
    with pytest.raises(BadQuestion, match=r"different kinds: uscc in tax\.firms, text in insurance\.firms"):
        two(space)


def test_a_holder_does_not_join_its_own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = JointWorld()
    tables = tuple(table.model_copy(update={"holders": ("tax",)}) for table in world.roster.tables)
    world.roster = world.roster.model_copy(update={"tables": tables})
    space = space_of(JointCoordinator(world), tmp_path, monkeypatch)
    with pytest.raises(BadQuestion, match=r"one holder's: tax\.firms of tax, insurance\.firms of tax"):
        two(space)


def test_versions_are_pinned_for_a_join(agreed: Space, coordinator: JointCoordinator) -> None:
    version = next(offer.version for offer in coordinator.world.joint_offers() if offer.holder == "tax")
    join = agreed.join(*TABLES[:2], on="uscc", version={"tax": version[:8]})
    assert join.count().run().value == 40
    with pytest.raises(DatasetUnknown, match="tax has no version"):
        agreed.join(*TABLES[:2], on="uscc", version={"tax": "0" * 8}).count().run()


# --- asking -----------------------------------------------------------------------------------------------------


def test_a_question_and_its_explanation_say_who_is_asked_what(space: Space, coordinator: JointCoordinator) -> None:
    query = two(space).group_by("industry").agg(ceiba.mean("wages"))
    words = repr(query)
    assert words.startswith("Join of tax.firms with insurance.firms, hidden, not asked yet")
    assert "base: tax, on uscc" in words and "mean_wages = mean(wages)" in words
    refused = query.explain()
    assert "none about these tables together" in str(refused) and refused.to_dict()["refused"]["code"] == "no_agreement"
    agreement = agree(space, coordinator, TABLES[:2], smallest_intersection=17)
    explained = query.explain()
    for part in ("base: tax", "with fewer than 17 subjects in common", agreement.agreement_id, "0 of 100"):
        assert part in str(explained)
    assert explained.to_dict()["cells"] == 4 and set(explained.parties) >= {"merchant", "tax", "social", "coordinator"}
    assert json.dumps(explained.to_dict()) and not coordinator.results


def test_a_job_goes_on_in_another_process(
    agreed: Space, coordinator: JointCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = two(agreed)
    one = join.group_by("industry").agg(ceiba.mean("wages"), n=ceiba.count()).submit(deadline=60)
    answer = coordinator.results
    many = join.group_by("industry").tabulate("size", staff=join.employment > 10).submit()
    coordinator.results, newer = answer, coordinator.results
    later = Space(joint_home(coordinator.world, tmp_path))
    again = later.job(one.id[:10])
    assert isinstance(again, JointJob) and again.id in repr(again) and again.wait() == one.wait()
    assert {row["state"] for row in later.jobs().to_dicts()} == {"done"}
    assert "Join of tax.firms with insurance.firms" in repr(later.jobs())
    coordinator.results = newer
    tables, taken_up = many.wait(), later.job(many.id).wait()
    assert isinstance(taken_up, JointResult) and dict(taken_up) == dict(tables)
    monkeypatch.setattr("ceiba.space.connect", lambda **_: later)
    shown: Any = CliRunner().invoke(app, ["result", many.id, "--json"])
    assert set(json.loads(shown.stdout)) == {"size", "staff"}
    proved: Any = CliRunner().invoke(app, ["result", many.id, "--receipt", str(tmp_path / "receipt.json")])
    assert proved.exit_code == 0 and (tmp_path / "receipt.json").exists()
    refused: Any = CliRunner().invoke(app, ["result", many.id, "--csv", str(tmp_path / "x.csv")])
    assert isinstance(refused.exception, BadQuestion)


def test_ctrl_c_cancels_and_leaves_nothing(agreed: Space, coordinator: JointCoordinator) -> None:
    coordinator.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        two(agreed).count().run(progress=False)
    assert len(coordinator.cancelled) == 1 and agreed.home.kept_jobs() == []


def test_a_holders_reason_is_told(agreed: Space, coordinator: JointCoordinator) -> None:
    submit = coordinator.Jobs_Submit

    def refused(request: Any) -> JobStatus:
        submit(request)
        question = coordinator.question_of(request.manifest)
        reason = LinkageLost(holder="social")
        refusal = Refusal(
            job_id=question.manifest.job_id,
            manifest_digest=question.digest,
            holder="social",
            code=reason.code,
            fields=reason.fields,
        )
        coordinator.status = JobStatus(state=State.FAILED, refusal=signed_by("social", refusal))
        return coordinator.status

    coordinator.Jobs_Submit = refused  # type: ignore[method-assign]
    with pytest.raises(JobFailed, match="social was restarted") as caught:
        two(agreed).count().run()
    assert isinstance(caught.value.reason, LinkageLost)


def test_a_joint_result_has_a_receipt(agreed: Space, coordinator: JointCoordinator) -> None:
    result, other = (two(agreed).group_by("industry").agg(ceiba.mean("wages")).run() for _ in range(2))
    assert result.receipt is not None and other.receipt is not None
    steps = other.receipt.verify()
    assert all(step.error is None for step in steps) and len(steps) == 11
    assert other.receipt.versions.keys() == {"social", "tax"}
    with pytest.raises(ReceiptRejected, match="another manifest"):
        result.receipt.verify()  # the coordinator has only the newer one
    tables = two(agreed).group_by("industry").tabulate("size", pay=ceiba.width_bucket("wages", 0, 9000, 3)).run()
    assert all(table.receipt is tables.receipt for table in tables.values())
    assert tables.receipt is not None and tables.receipt.verify()


def test_what_was_asked_is_noted_for_each_table(agreed: Space) -> None:
    two(agreed).count().run()
    asked = agreed.home.asked_jobs()
    assert [one.table for one in asked] == ["insurance.firms", "tax.firms"] and {one.rho for one in asked} == {None}


# --- under which agreement --------------------------------------------------------------------------------------


def cited(coordinator: JointCoordinator) -> str:
    return JointManifest.parse(coordinator.submitted.body).agreement_digest


def test_the_narrowest_agreement_that_covers_it_is_chosen(space: Space, coordinator: JointCoordinator) -> None:
    wide = agree(space, coordinator, TABLES)
    narrow = agree(space, coordinator, {"tax.firms": ["industry"], "insurance.firms": ["wages"]})
    two(space).group_by("industry").agg(ceiba.mean("wages")).run()
    assert cited(coordinator) == narrow.digest()
    two(space).group_by("industry").agg(ceiba.mean("employment")).run()
    assert cited(coordinator) == wide.digest()
    with pytest.raises(NotAgreed, match="columns employment"):
        two(space).agg(ceiba.mean("employment")).run(agreement=narrow.agreement_id)
    with pytest.raises(UnknownAgreement):
        two(space).count().run(agreement="f" * 32)


@pytest.mark.parametrize(
    ("tables", "terms", "says"),
    [
        ({"tax.firms": ["sales"], "insurance.firms": ["wages"]}, {}, "does not cover the column industry of tax.firms"),
        ({"tax.firms": ["industry"], "insurance.firms": ["size"]}, {}, "column wages of insurance.firms"),
        (TABLES[:2], {"operations": ["join", "group by"]}, "does not cover the operation mean"),
        (TABLES[:2], {"operations": ["score"]}, "does not cover the operation join"),
        (TABLES[:2], {"modes": ["cardinality"]}, "does not cover the mode hidden"),
        (TABLES[:2], {"base_is_trusted": False}, "allows no exact answers, because it does not trust the base"),
        (TABLES[:2], {"bases": ["social"]}, "does not let tax be the base: group by columns of insurance.firms, or"),
    ],
)
def test_what_an_agreement_lacks_is_said(
    space: Space, coordinator: JointCoordinator, tables: Any, terms: dict[str, Any], says: str
) -> None:
    agreement = agree(space, coordinator, tables, **terms)
    query = two(space).group_by("industry").agg(ceiba.mean("wages"))
    with pytest.raises(NoAgreement, match=says):
        query.run(noise=False)
    with pytest.raises(NotAgreed):
        query.run(agreement=agreement.agreement_id, noise=False)
    assert space.home.jobs_asked(agreement) == 0


def test_another_identifier_than_the_agreed_one_is_said(space: Space, world: JointWorld) -> None:
    wish = JointWish(two(space).group_by("industry").agg(ceiba.mean("wages")).plan(), NOW, NOW + 60)
    assert wish.lacks(world.joint_agreement()) == []
    other = world.joint_agreement(identifiers=("uscc", "register", "uscc"))  # of patents, social and tax
    assert wish.lacks(other) == ["finds subjects of insurance.firms by register, not by uscc"]


def test_other_reasons_are_said_as_of_any_agreement(space: Space, coordinator: JointCoordinator) -> None:
    agreement = agree(space, coordinator, TABLES[:2], jobs=1)
    query = two(space).count()
    with pytest.raises(NoAgreement, match="none about these tables together for this purpose"):
        query.run(purpose="another")
    query.run(purpose="credit")
    with pytest.raises(NoAgreement, match="used up"):
        query.run()
    contract = space.agreements.contract(agreement.agreement_id)
    notice = give_notice(contract, "tax", Word.SUSPEND, "", NOW)
    coordinator.agreements[agreement.digest()].notices.append(signed_by("tax", notice))
    with pytest.raises(AgreementNotActive, match="suspended"):
        query.run(agreement=agreement.agreement_id[:6])


def test_joint_agreements_are_not_for_one_tables_sums(space: Space, coordinator: JointCoordinator) -> None:
    agreement = agree(space, coordinator, TABLES)
    for table in TABLES:  # one of them is the agreement's own
        query = space.table(table).count()
        with pytest.raises(NoAgreement, match="none about this table is known"):
            query.run()
        with pytest.raises(NotAgreed, match="joint agreement"):
            query.run(agreement=agreement.agreement_id)
