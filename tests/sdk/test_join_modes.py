"""Joins in the other two modes, on the merchant's side: counting alone, and figures of what all tables have."""

from pathlib import Path
from typing import Any

import pytest

import ceiba
from ceiba.joins import Join
from ceiba.space import Space
from ceiba_protocol.errors import (
    AnswerRejected,
    BadQuestion,
    BadSignature,
    CeibaError,
    IntersectionTooSmall,
    JobFailed,
    JobRefused,
    LinkageGone,
    MalformedMessage,
    NoAgreement,
    NotAgreed,
)
from ceiba_protocol.job import State
from ceiba_protocol.linkage.joint import JointManifest, JointMessage, JointPlan, commit_jointly
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.roster import OPERATOR
from ceiba_protocol.v1.jobs_pb2 import JobStatus
from tests.support.joint_space import JointCoordinator, JointWorld, agree, firms, joint_home
from tests.support.members import NOW, signed_by

FRAMES = firms()
TABLES = ["tax.firms", "insurance.firms", "patents.firms"]
BOTH = FRAMES["tax"].merge(FRAMES["social"], on="uscc", suffixes=("_tax", "_social"))
ALL = BOTH[BOTH.uscc.isin(FRAMES["patents"].uscc)]


@pytest.fixture(scope="module")
def world() -> JointWorld:
    return JointWorld()


@pytest.fixture
def coordinator(world: JointWorld) -> JointCoordinator:
    return JointCoordinator(world)


@pytest.fixture
def space(coordinator: JointCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(joint_home(coordinator.world, tmp_path))


def joined(space: Space, tables: int = 3, **options: Any) -> Join:
    return space.join(*TABLES[:tables], on="uscc", **options)


def asked(coordinator: JointCoordinator) -> JointPlan:
    return JointManifest.parse(coordinator.submitted.body).plan


# --- counting --------------------------------------------------------------------------------------------------


def test_all_tables_are_counted_alone_where_that_is_agreed(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality", "hidden"])
    result = joined(space).count().run()
    assert result.value == ALL.uscc.nunique() == 20
    assert (asked(coordinator).mode, result.columns, result.holders) == (
        Mode.CARDINALITY, ("count",), ("patents", "social", "tax"),
    )  # fmt: skip
    assert "tax.firms and patents.firms and insurance.firms have in common" in repr(result)
    assert "to the nearest ten" in repr(result)
    assert result.receipt is not None and result.receipt.verify()
    assert joined(space, 2).count().run().value == 40


def test_each_tables_filter_counts_and_small_numbers_are_rounded(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality"])
    join = joined(space)
    query = join.filter(join.sales > 300, join.employment > 7, join.patents >= 0).count()
    passing = BOTH[(BOTH.sales > 300) & (BOTH.employment > 7)]
    exact = passing[passing.uscc.isin(FRAMES["patents"].uscc)].uscc.nunique()
    assert exact == 14 and query.run().value == 10
    filters = {side.holder: side.plans[0].filter for side in asked(coordinator).sides}
    assert all(filters.values()) and len(filters) == 3


def test_where_it_is_not_agreed_two_tables_are_counted_as_before(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES)
    query = joined(space, 2).count()
    assert query.run().value == 40 and asked(coordinator).mode is Mode.HIDDEN
    with pytest.raises(NoAgreement, match="does not cover the mode cardinality"):
        joined(space).count().run()


def test_groups_are_counted_exactly(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality", "hidden"])
    counts = joined(space, 2).group_by("industry").count().run()
    assert asked(coordinator).mode is Mode.HIDDEN
    expected = BOTH.groupby("industry").uscc.nunique()
    assert {row[0]: row[1] for row in counts} == expected.to_dict()


def test_a_count_goes_on_in_another_process(space: Space, coordinator: JointCoordinator, tmp_path: Path) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality"])
    job = joined(space).count().submit()
    later = Space(joint_home(coordinator.world, tmp_path))
    assert later.job(job.id).wait() == job.wait()


# --- what all have ---------------------------------------------------------------------------------------------


def test_figures_are_of_what_all_tables_have(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["hidden", "revealed"])
    join = joined(space, reveal=True)
    result = join.group_by("industry").agg(ceiba.sum("wages"), ceiba.sum("employment")).run()
    sums = ALL.groupby("industry")[["wages", "employment"]].sum()
    assert {row[0]: row[1:] for row in result} == {name: tuple(row) for name, row in sums.iterrows()}
    plan = asked(coordinator)
    assert (plan.mode, [side.holder for side in plan.linked]) == (Mode.REVEALED, ["patents"])
    assert "the holders have learnt which they are" in repr(result)
    assert "the holders learn which subjects all of them have" in repr(join)
    assert "linked: patents, on uscc" in repr(join.agg(ceiba.sum("wages")))
    tables = join.group_by("industry").tabulate("size").run()
    assert sum(row[-1] for row in tables["size"]) == ALL.groupby(["industry", "size"]).uscc.nunique().sum()
    # The same without: of what two have.
    hidden = joined(space).group_by("industry").agg(ceiba.sum("wages")).run()
    assert {row[0]: row[1] for row in hidden} == BOTH.groupby("industry").wages.sum().to_dict()


def test_it_takes_an_agreement_that_says_so(space: Space, coordinator: JointCoordinator) -> None:
    agreement = agree(space, coordinator, TABLES, modes=["cardinality", "hidden"])
    query = joined(space, reveal=True).agg(ceiba.sum("wages"))
    with pytest.raises(NoAgreement, match="does not cover the mode revealed"):
        query.run()
    with pytest.raises(NotAgreed, match="the mode revealed"):
        query.run(agreement=agreement.agreement_id)
    assert joined(space, reveal=True).count().run().value == 20, "counting alone discloses less"
    assert asked(coordinator).mode is Mode.CARDINALITY


def test_what_all_have_is_counted_exactly_where_it_may_be_revealed(
    space: Space, coordinator: JointCoordinator
) -> None:  # fmt: skip
    agree(space, coordinator, TABLES, modes=["revealed"])
    join = joined(space, reveal=True)
    assert join.filter(join.sales > 300).count().run().value == ALL[ALL.sales > 300].uscc.nunique() == 16
    assert asked(coordinator).mode is Mode.REVEALED
    with pytest.raises(BadQuestion, match=r"patents > 3 of patents.firms does not filter figures of insurance.firms"):
        join.filter(join.patents > 3).agg(ceiba.sum("wages"))


# --- linkages that serve several jobs --------------------------------------------------------------------------


def test_a_later_question_is_about_the_same_subjects(space: Space, coordinator: JointCoordinator) -> None:
    agreement = agree(space, coordinator, TABLES, modes=["revealed"], jobs_per_linkage=9)
    agree(
        space,
        coordinator,
        {"tax.firms": ["industry"], "insurance.firms": ["wages"], "patents.firms": ["field"]},
        modes=["revealed"],
        jobs_per_linkage=9,
    )  # it would be chosen for the narrower question alone
    join = joined(space, reveal=True)
    first = join.group_by("size").agg(ceiba.sum("sales")).submit()
    result = first.wait()
    assert asked(coordinator).linkage is None
    before = len(coordinator.question_of(coordinator.submitted).steps)
    query = join.filter(join.sales > 300).group_by("industry").agg(ceiba.sum("wages"))
    selling = ALL[ALL.sales > 300].groupby("industry").wages.sum().to_dict()
    ids = []
    for linkage in (result, result.job_id, first, space.job(first.id)):
        later = query.run(linkage=linkage)
        assert {row[0]: row[1] for row in later} == selling
        assert asked(coordinator).linkage == first.id
        assert JointManifest.parse(coordinator.submitted.body).agreement_digest == agreement.digest()
        ids.append(later.job_id)
    assert (before, len(coordinator.question_of(coordinator.submitted).steps)) == (25, 8)
    # Of a job that used it, and of several tables, it is the same one.
    tables = join.group_by("industry").tabulate("size").run(linkage=ids[0])
    assert asked(coordinator).linkage == first.id
    join.count().run(linkage=tables)
    assert (asked(coordinator).linkage, asked(coordinator).mode) == (first.id, Mode.REVEALED)
    # Another process takes up such a job, and names it.
    job = query.submit(linkage=result)
    later_space = Space(space.home)
    assert later_space.job(job.id).wait() == job.wait()
    joined(later_space, reveal=True).agg(ceiba.sum("wages")).run(linkage=job.id)
    assert asked(coordinator).linkage == first.id


def test_a_linkage_that_is_not_to_be_used_again_is_refused(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality", "hidden", "revealed"])
    hidden = joined(space, 2).group_by("industry").agg(ceiba.sum("wages"))
    first, count = hidden.run(), joined(space).count().run()
    query = joined(space, reveal=True).agg(ceiba.sum("wages"))
    revealed = query.run()
    with pytest.raises(BadQuestion, match="reveal=True"):
        hidden.run(linkage=revealed)
    for one in (first, count):
        with pytest.raises(BadQuestion, match="has linked nothing that is kept"):
            query.run(linkage=one)
    with pytest.raises(BadQuestion, match="linkage"):
        query.run(linkage="the one before")
    with pytest.raises(BadQuestion, match="no job and no result"):
        query.run(linkage=7)
    with pytest.raises(NoAgreement, match="lets no linkage serve several jobs"):
        query.run(linkage="0f" * 16)
    with pytest.raises(NotAgreed, match="a linkage that serves several jobs"):
        query.run(linkage=revealed)


def test_a_linkage_that_is_gone_says_what_to_do(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["revealed"], jobs_per_linkage=2)
    job = joined(space, reveal=True).agg(ceiba.sum("wages")).submit(linkage="0f" * 16)
    reason = LinkageGone(holder="social", job="0f" * 16)
    refusal = refusal_of(coordinator, holder="social", code=reason.code, fields=reason.fields)
    coordinator.status = JobStatus(state=State.REFUSED, refusal=signed_by("social", refusal))
    with pytest.raises(JobFailed, match="Ask again without `linkage`") as caught:
        job.wait()
    assert isinstance(caught.value.reason, LinkageGone)


def test_pairs_are_of_one_linkage_where_it_may_serve_them(space: Space, coordinator: JointCoordinator) -> None:
    keys = ("industry", "size", "field")
    agree(space, coordinator, TABLES, modes=["revealed"], jobs_per_linkage=1, purpose="one")
    agree(space, coordinator, TABLES, modes=["revealed"], jobs_per_linkage=2, purpose="two")
    submitted: list[JointPlan] = []
    submit = coordinator.Jobs_Submit
    coordinator.Jobs_Submit = lambda request: (submit(request), submitted.append(asked(coordinator)))[0]  # type: ignore[method-assign]
    pairs = joined(space, reveal=True).pairs(*keys)
    anew, kept = pairs.run(purpose="one"), pairs.run(purpose="two")
    assert anew.to_dicts() == kept.to_dicts()
    assert [plan.linkage for plan in submitted] == [None, None, None, kept.job_ids[0]]
    pairs.run(purpose="two", linkage=kept)
    assert [plan.linkage for plan in submitted[4:]] == [kept.job_ids[0]] * 2


def test_an_explanation_says_what_is_used_again(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["revealed"], jobs_per_linkage=4)
    query = joined(space, reveal=True).group_by("industry").agg(ceiba.sum("wages"))
    first, again = query.explain(), query.explain(linkage="0f" * 16)
    assert "may serve 4 jobs; until then, for at most 30 days" in first.linkage
    assert "0f" * 16 in again.linkage and "at most 4 jobs" in str(again) and "used again" in again.question[1]
    assert "token" in first.parties["coordinator"] and "token" not in again.parties["coordinator"]
    assert "which it has kept" in again.parties["tax"] and "which it has kept" in again.parties["social"]
    assert again.parties["patents"] == first.parties["patents"]
    assert not coordinator.results


# --- who learns what -------------------------------------------------------------------------------------------


def parties_of(query: Any) -> dict[str, str]:
    return dict(query.explain().parties)


def test_an_explanation_says_who_learns_what(space: Space, coordinator: JointCoordinator) -> None:
    agree(space, coordinator, TABLES, modes=["cardinality", "hidden", "revealed"])
    among_two, among_three = parties_of(joined(space, 2).count()), parties_of(joined(space).count())
    assert "how many of its subjects social has, as it is" in among_two["tax"]
    assert "not how many match" in among_two["social"] and "every message is sealed" in among_two["coordinator"]
    assert "nearest ten" in among_two["merchant"] and "nearest ten" in among_three["merchant"]
    assert "which of these are at which holders" in among_three["coordinator"]
    assert "not who they are" in among_three["coordinator"]
    assert "NOBODY CHECKS" in among_three["coordinator"] and "NOBODY CHECKS" not in among_two["coordinator"]
    assert all("not how many they have in common" in among_three[name] for name in ("tax", "social", "patents"))
    revealed = parties_of(joined(space, reveal=True).group_by("industry").agg(ceiba.sum("wages")))
    assert all("WHICH OF ITS OWN SUBJECTS ALL OTHERS KNOW" in revealed[name] for name in ("tax", "social"))
    assert "nothing else" in revealed["patents"] and "at which holders" in revealed["coordinator"]
    assert "NOBODY CHECKS" in revealed["coordinator"]
    hidden = parties_of(joined(space).group_by("industry").agg(ceiba.sum("wages")))
    assert not any("WHICH" in text or "token" in text for text in hidden.values()) and "patents" not in hidden
    assert "one number" in str(joined(space).count().explain())
    assert not coordinator.results


# --- answers that are not what they should be -------------------------------------------------------------------


def counting(space: Space, coordinator: JointCoordinator, **terms: Any) -> Any:
    agree(space, coordinator, TABLES, modes=["cardinality"], **terms)
    return joined(space).count().submit()


def replace_size(coordinator: JointCoordinator, payload: bytes) -> None:
    question = coordinator.question_of(coordinator.submitted)
    agreed = commit_jointly(question, [part.approval for part in coordinator.results if part.HasField("approval")])
    coordinator.results[-2:] = coordinator.sent(agreed, len(question.steps) - 1, payload)


@pytest.mark.parametrize("payload", [(14).to_bytes(8, "big"), (10_000).to_bytes(8, "big"), b"\0" * 7])
def test_a_number_that_nobody_may_publish_is_not_shown(
    space: Space, coordinator: JointCoordinator, payload: bytes
) -> None:  # fmt: skip
    job = counting(space, coordinator)
    replace_size(coordinator, payload)
    with pytest.raises(AnswerRejected, match="number of subjects"):
        job.wait()


def test_a_number_below_the_agreed_minimum_is_not_shown(space: Space, coordinator: JointCoordinator) -> None:
    job = counting(space, coordinator, smallest_intersection=17)
    replace_size(coordinator, (10).to_bytes(8, "big"))
    with pytest.raises(AnswerRejected, match="too small"):
        job.wait()


def test_among_three_only_the_operator_says_how_many(space: Space, coordinator: JointCoordinator) -> None:
    job = counting(space, coordinator)
    part = coordinator.results[-2]
    part.joint_message.CopyFrom(signed_by("tax", JointMessage.parse(part.joint_message.body)))
    with pytest.raises(MalformedMessage, match="not the operator's"):
        job.wait()


def refusal_of(coordinator: JointCoordinator, **changes: Any) -> Refusal:
    question = coordinator.question_of(coordinator.submitted)
    fields: dict[str, Any] = {
        "job_id": question.manifest.job_id,
        "manifest_digest": question.digest,
        "holder": OPERATOR,
        "code": "intersection_too_small",
        "fields": {"minimum": "17"},
    }
    return Refusal(**(fields | changes))


def test_the_operators_reason_is_told(space: Space, coordinator: JointCoordinator) -> None:
    job = counting(space, coordinator)
    refusal = signed_by(OPERATOR, refusal_of(coordinator))
    coordinator.status = JobStatus(state=State.FAILED, refusal=refusal)
    with pytest.raises(JobRefused, match="Fewer than 17 subjects are at all holders") as caught:
        job.wait()
    assert isinstance(caught.value.reason, IntersectionTooSmall)


@pytest.mark.parametrize(
    ("signer", "changes", "error"),
    [
        (OPERATOR, {"holder": "tax"}, MalformedMessage),
        (OPERATOR, {"job_id": "0f" * 16}, MalformedMessage),
        ("tax", {}, MalformedMessage),
    ],
)
def test_a_reason_in_anothers_name_is_not_believed(
    space: Space, coordinator: JointCoordinator, signer: str, changes: dict[str, str], error: type[CeibaError]
) -> None:
    job = counting(space, coordinator)
    coordinator.status = JobStatus(state=State.FAILED, refusal=signed_by(signer, refusal_of(coordinator, **changes)))
    with pytest.raises(error):
        job.wait()


def test_a_reason_that_the_operator_has_not_signed_is_not_believed(
    space: Space, coordinator: JointCoordinator
) -> None:  # fmt: skip
    job = counting(space, coordinator)
    signed = signed_by("tax", refusal_of(coordinator))
    signed.signer = OPERATOR
    coordinator.status = JobStatus(state=State.FAILED, refusal=signed)
    with pytest.raises(BadSignature):
        job.wait()
