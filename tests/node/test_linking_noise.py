"""Joint answers with noise, among real nodes and a real coordinator (PROTOCOL §3.6, §5.4; ADR 0027)."""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import pytest

from ceiba_node.engines.joined_rows import Bounds
from ceiba_node.house_rules import Policy
from ceiba_node.own_side import OwnSide
from ceiba_node.responding import Reply
from ceiba_protocol.disclosure.accounting import cost_millionths
from ceiba_protocol.disclosure.grade import MILLION, RULES
from ceiba_protocol.errors import NoiseTooCostly, NoiseUndefined, NotAgreed, SetMismatch
from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.joint import (
    JoinedTable,
    JointApproval,
    JointPlan,
    check_joint_approval,
    check_joint_noise,
)
from ceiba_protocol.linkage.private_join import fresh_noise
from ceiba_protocol.plan import ByColumn, Named
from ceiba_protocol.schema import Grade
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.joint_nodes import JointNodes, quick_keys
from tests.support.members import MERCHANT, changed
from tests.support.seeded import seeded

DEAR = NoiseTerms(rho=MILLION // 4)
"""With it σ of a count is 4 at each of the two holders, the least that there is."""
CHEAP = NoiseTerms(rho=1000)
FOOD, STEEL = 27, 13
"""How many firms the tax office and the insurance have in common, by industry."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("joint") / "space", base_is_trusted=False)
        yield made
        made.close()


def wages(nodes: JointNodes, **parts: Any) -> JointPlan:
    """By industry of the tax office; `parts`: of the insurance's plan."""
    outputs = (Named(name="wages", statistic=Sum(value=ColumnValue(name="wages"))),)
    groups = nodes.counts("tax", groups=(ByColumn(name="industry", column="industry"),))
    asked = nodes.counts("social", **({"outputs": outputs} | parts))
    return nodes.plan(Mode.HIDDEN, "tax", "social", tax=groups, social=asked)


def read(nodes: JointNodes, plan: JointPlan, noise: NoiseTerms = DEAR) -> JoinedTable:
    assert nodes.ask(plan, noise=noise) == "done"
    (table,) = nodes.opened()["social"]
    return table


def no_noise(terms: JoinTerms, _: Random) -> list[list[int]]:
    return [[0] * len(cell.noise) for cell in terms.shapes]


def approval(nodes: JointNodes) -> JointApproval:
    """The insurance's, of the job that was submitted, which then ends."""
    (task,) = nodes.office.jobs.tasks("social")
    reply = nodes.houses["social"].answer(task)
    assert isinstance(reply, Reply)
    nodes.office.jobs.cancel(nodes.id, MERCHANT)
    return JointApproval.parse(reply.signed.body)


def test_noise_is_in_every_figure_and_its_variance_is_told(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is between an answer with noise and one whose noise is nothing is within what was told."""
    with monkeypatch.context() as silent:
        silent.setattr(
            "ceiba_node.linking.fresh_noise", lambda terms, _: [[0] * len(one.noise) for one in terms.shapes]
        )
        plain = read(nodes, wages(nodes))
    assert plain.subjects[:2] == plain.totals[:6:3] == [FOOD, STEEL]
    noisy = read(nodes, wages(nodes))
    assert noisy.variances == plain.variances and noisy.variances[0] == 2 * 16
    assert noisy.totals[:3] != plain.totals[:3]
    for place, (one, other) in enumerate(zip(noisy.totals[:3], plain.totals[:3], strict=True)):
        assert abs(one - other) < 7 * sqrt(noisy.variances[place])


def test_the_same_question_has_other_noise_and_is_charged_again(nodes: JointNodes) -> None:
    ledger = nodes.houses["social"].node._ledger
    organisation = nodes.world.roster.by_name["bank-a"].legal_person
    before = ledger.spent("insurance.firms", organisation, nodes.houses["social"].now)[0]
    answers = {tuple(read(nodes, wages(nodes), DEAR).totals[:3]) for _ in range(2)}
    assert len(answers) == 2
    assert ledger.spent("insurance.firms", organisation, nodes.houses["social"].now)[0] == before + 2 * DEAR.rho
    version = nodes.houses["social"].snapshots.current("insurance.firms").version
    assert ledger.exact_used("insurance.firms", organisation, version) == 0


def test_a_base_that_leaves_one_firm_out_the_second_time(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise that is the same for the same question, as other jobs have it, the difference is that firm's wages."""
    groupings = OwnSide.groupings

    def without_one(*arguments: Any) -> Any:
        return [[[one for one in group if one != b"firm 22"] for group in groups] for groups in groupings(*arguments)]

    def answers() -> list[int]:
        whole = read(nodes, wages(nodes)).totals
        with monkeypatch.context() as cheating:
            cheating.setattr(OwnSide, "groupings", without_one)
            return [one - other for one, other in zip(whole[:3], read(nodes, wages(nodes)).totals[:3], strict=True)]

    insured = nodes.world.datasets["social"].frame
    victim = int(insured[insured.uscc == "firm 22"].wages.iloc[0])
    with monkeypatch.context() as weakened:
        weakened.setattr("ceiba_node.linking.fresh_noise", lambda terms, _: fresh_noise(terms, seeded("sticky")))
        assert answers() == [1, 1, victim]
    assert answers()[2] != victim


def test_a_subject_adds_to_few_cells_and_as_much_as_one_row(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth firm has two lines at the insurance, some in two regions."""
    monkeypatch.setattr(
        "ceiba_node.linking.fresh_noise", lambda terms, _: [[0] * len(one.noise) for one in terms.shapes]
    )
    monkeypatch.setattr("ceiba_protocol.linkage.join_terms.JoinTerms.forbidden", lambda *_: range(0))
    frame = nodes.world.datasets["social"].frame
    common = frame[frame.uscc.isin([f"firm {number}" for number in range(10, 50)])]
    by_region = (ByColumn(name="region", column="region"),)
    two = common.drop_duplicates(["uscc", "region"])
    assert len(common) > len(two) > common.uscc.nunique()
    one_cell = read(nodes, wages(nodes, groups=by_region))
    assert sum(one_cell.totals[::3]) == common.uscc.nunique()
    two_cells = read(nodes, wages(nodes, groups=by_region), DEAR.model_copy(update={"cells_per_subject": 2}))
    assert sum(two_cells.totals[::3]) == len(two)
    assert two_cells.variances[2] == 2 * one_cell.variances[2]
    assert sum(read(nodes, wages(nodes)).totals[2::3]) == common.wages.sum()
    (program,) = nodes.world.programs(nodes.question, "social")
    entries = [(cell, [3, 3, 250_000]) for cell in range(9)]
    by_firm = [Bounds(program, 2, b"key").apply(firm, entries) for firm in (b"firm 22", b"firm 23")]
    assert [sums for own in by_firm for _, sums in own] == [[1, 1, 100_000]] * 4
    assert by_firm[0] != by_firm[1] and by_firm[0] == Bounds(program, 2, b"key").apply(b"firm 22", reversed(entries))


def test_several_tables_and_holders_share_what_it_costs(nodes: JointNodes) -> None:
    """Twice as many groupings or joined holders are each twice the variance. Whether enough are in common is paid for
    like a sum, so that two counts have three halves of it."""
    groups = tuple(nodes.counts("tax", groups=(ByColumn(name=name, column=name),)) for name in ("industry", "region"))
    counts = nodes.counts("social")

    def variance(joined: tuple[str, ...] = ("social",), **plans: Any) -> int:
        nodes.submit(nodes.plan(Mode.HIDDEN, "tax", *joined, **plans), CHEAP)
        return approval(nodes).shapes[0].noise[0]

    one = variance(social=counts)
    assert one == 1000  # of each of the two holders: 2·Δ² / 2ρ
    assert cost_millionths([1, 1], [one, one], 2, 1) == CHEAP.rho
    assert variance(tax=groups, social=counts) == 2 * one
    assert variance(social=(counts, counts)) == 3 * one // 2
    assert variance(joined=("patents", "social"), social=counts) == 2 * one


def test_a_holder_cannot_announce_less_noise_than_the_question_has(nodes: JointNodes) -> None:
    nodes.submit(wages(nodes), CHEAP)
    given = approval(nodes)
    (shape,) = given.shapes
    check_joint_approval(nodes.question, "social", given)
    for noise in ((), shape.noise[:1], (16, *shape.noise[1:]), (*shape.noise, 16)):
        other = given.model_copy(update={"shapes": (shape.model_copy(update={"noise": noise}),)})
        with pytest.raises(SetMismatch, match="noise"):
            check_joint_approval(nodes.question, "social", other)


def test_what_noise_cannot_be_asked_for(nodes: JointNodes) -> None:
    with pytest.raises(NotAgreed, match="exact"):
        nodes.submit(wages(nodes))
    agreement = nodes.world.agreement
    with pytest.raises(NoiseTooCostly):
        check_joint_noise(changed(agreement, disclosure=RULES[Grade.SENSITIVE]), wages(nodes), DEAR)
    with pytest.raises(NoiseUndefined, match="rounded"):
        nodes.submit(nodes.plan(Mode.CARDINALITY, "tax", "social"), CHEAP)
    with pytest.raises(NoiseUndefined, match="2 joined holders"):
        nodes.submit(nodes.plan(Mode.HIDDEN, "tax", "patents", "social"), NoiseTerms(rho=1))


def test_a_year_that_is_spent_is_refused_by_name(nodes: JointNodes) -> None:
    nodes.houses["social"].policy = Policy(rho_per_year=0.0005)
    assert nodes.ask(wages(nodes), noise=CHEAP) in ("failed", "refused")
    assert nodes.reason == ("social", "budget_exhausted")
