"""Attacks on joint jobs among real nodes and a real coordinator (PROTOCOL §5.4)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ceiba_node.engines.joined_rows import joined_rows
from ceiba_node.house_rules import Policy
from ceiba_node.linking import Linking
from ceiba_node.own_side import OwnSide
from ceiba_protocol.expression import Branch, Case, ColumnValue, Comparing, Logic, Not, Number, TextValue
from ceiba_protocol.linkage.joint import JointMessage, JointSet
from ceiba_protocol.linkage.private_join import BaseSide, JoinedSide
from ceiba_protocol.linkage.ristretto import multiply
from ceiba_protocol.linkage.token_steps import TokenSide, coordinator_link
from ceiba_protocol.plan import ByCase, ByColumn, LabelBranch, Named
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.joint_nodes import InternalNodes, JointNodes, quick_keys


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JointNodes]:
    with quick_keys():
        made = JointNodes(tmp_path_factory.mktemp("joint") / "space")
        yield made
        made.close()


# --- a base that counts who passes the other's filter ----------------------------------------------------------


def matches_seen(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> list[int]:
    """How many subjects of each of its groups the base finds at the joined holder, which is asked for `asked`."""
    found: list[int] = []
    match = BaseSide._match

    def counting(side: BaseSide, group_of: Any, points: Any, *rest: Any) -> Any:
        (secret,) = side._secrets
        known = [group_of.get(multiply(secret, point)) for point in points]
        found.extend(known.count(group) for group in range(side._exchange.terms.groups))
        return match(side, group_of, points, *rest)

    groups = nodes.counts("tax", groups=(ByColumn(name="industry", column="industry"),))
    with monkeypatch.context() as patch:
        patch.setattr(BaseSide, "_match", counting)
        plan = nodes.plan(Mode.HIDDEN, "tax", "social", tax=groups, social=nodes.counts("social", **asked))
        assert nodes.ask(plan) == "done"
    return found


LARGE = Comparing(comparison=Comparison.EQUAL, left=ColumnValue(name="size"), right=TextValue(value="large"))


def only_who_passes(own: OwnSide, _: Any) -> Any:
    """The weakened build: subjects without rows that pass are not there."""
    (program,) = own.programs
    found = joined_rows(own.engine, own.snapshot, program, own.side.on)
    return {name: list(found.entries(subject)) for subject, name in enumerate(found.identifiers)}


def test_a_base_learns_nothing_of_the_joined_holders_filter(nodes: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of a group of one subject, which would be that subject's."""
    everybody = matches_seen(nodes, monkeypatch)
    assert matches_seen(nodes, monkeypatch, filter=LARGE) == everybody
    monkeypatch.setattr(OwnSide, "rows", only_who_passes)
    assert 0 < sum(matches_seen(nodes, monkeypatch, filter=LARGE)) < sum(everybody)


# --- a merchant that aims at one subject within a cell of many -------------------------------------------------


@pytest.fixture
def graded(tmp_path: Path) -> Iterator[JointNodes]:
    """As nobody has asked it anything: what was, decides what may be asked."""
    with quick_keys():
        made = InternalNodes(tmp_path / "space")
        yield made
        made.close()


WAGES, EMPLOYMENT = ColumnValue(name="wages"), ColumnValue(name="employment")
VICTIM = Comparing(comparison=Comparison.EQUAL, left=WAGES, right=Number(value="3587"))
"""True of one firm alone, which the tax office has as well."""


def asked_of_social(nodes: JointNodes, statistic: Any, **parts: Any) -> Any:
    return nodes.counts("social", outputs=(Named(name="x", statistic=statistic),), **parts)


def total_read(nodes: JointNodes, *plans: Any) -> list[Any]:
    """What the merchant reads of each plan's one cell: its subjects and the last of its sums; None if withheld."""
    assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social", social=plans)) == "done"
    tables = nodes.opened()["social"]
    return [None if table.subjects == [None] else (table.subjects[0], table.totals[-1]) for table in tables]


AIMED = {
    "a sum of one arm": Sum(value=Case(branches=(Branch(when=VICTIM, then=EMPLOYMENT),))),
    "a count with a filter": Count(value=Case(branches=(Branch(when=VICTIM, then=Number(value="1")),))),
    "all but one": Sum(value=Case(branches=(Branch(when=VICTIM, then=Number(value="0")),), otherwise=EMPLOYMENT)),
}


@pytest.mark.parametrize("aim", AIMED)
def test_a_sum_over_one_firm_of_a_large_cell_is_withheld(
    graded: JointNodes, aim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merchant alone, in one question: the cell has 40 firms, and the sum is one firm's."""
    aimed = asked_of_social(graded, AIMED[aim])
    with monkeypatch.context() as weakened:
        for module in ("ceiba_protocol.linkage.joint", "ceiba_node.own_side"):
            weakened.setattr(f"{module}.guards_of", lambda *_: ())
        weakened.setattr("ceiba_node.own_side.near_cells", lambda *_: set())
        assert total_read(graded, aimed) == [(40, {"a sum of one arm": 39, "all but one": 937}.get(aim, 1))]
    honest = asked_of_social(graded, Sum(value=EMPLOYMENT))
    monkeypatch.setattr(Linking, "_earlier", lambda *_: ())  # as if the weakened build had not answered before
    assert total_read(graded, honest, aimed) == [(40, 976), None]


@pytest.fixture
def lenient(tmp_path: Path) -> Iterator[JointNodes]:
    """One subject in common is agreed on as enough."""
    with quick_keys():
        made = InternalNodes(tmp_path / "space", smallest_intersection=1)
        yield made
        made.close()


@pytest.mark.parametrize("sales", ["370", "333"])
def test_a_base_filter_for_one_firm_does_not_say_whether_the_other_knows_it(lenient: JointNodes, sales: str) -> None:
    """A firm that both have, and one that the tax office alone has: were one in common enough, a job that is done would
    say that it is the former."""
    one = Comparing(comparison=Comparison.EQUAL, left=ColumnValue(name="sales"), right=Number(value=sales))
    asked = lenient.plan(Mode.HIDDEN, "tax", "social", tax=lenient.counts("tax", filter=one))
    assert lenient.ask(asked) == "failed" and lenient.reason == ("tax", "intersection_too_small")


def test_an_identifier_that_the_house_forbids_links_nobody(lenient: JointNodes) -> None:
    house = lenient.houses["social"]
    house.policy = Policy(forbidden_columns=("insurance.firms.uscc",))
    try:
        assert lenient.ask(lenient.plan(Mode.HIDDEN, "tax", "social")) == "refused"
        assert lenient.reason == ("social", "forbidden_by_policy")
    finally:
        house.policy = Policy()


def two_tables(nodes: JointNodes, side: str) -> list[Any]:
    """What the merchant reads of everybody, and of all but the victim, in one job."""
    if side == "joined":
        all_but_one = asked_of_social(nodes, Sum(value=EMPLOYMENT), filter=Not(term=VICTIM))
        return total_read(nodes, asked_of_social(nodes, Sum(value=EMPLOYMENT)), all_but_one)
    sales = Comparing(comparison=Comparison.NOT_EQUAL, left=ColumnValue(name="sales"), right=Number(value="999"))
    groupings = (nodes.counts("tax"), nodes.counts("tax", filter=sales))
    wanted = asked_of_social(nodes, Sum(value=EMPLOYMENT))
    assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social", tax=groupings, social=wanted)) == "done"
    tables = nodes.opened()["social"]
    return [None if table.subjects == [None] else (table.subjects[0], table.totals[-1]) for table in tables]


@pytest.mark.parametrize("side", ["joined", "base"])
def test_two_tables_of_one_job_that_differ_by_one_firm(
    graded: JointNodes, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have many, and the victim's employment is the difference, whichever holder knows how to name it."""
    with monkeypatch.context() as weakened:
        weakened.setattr(Linking, "_earlier", lambda *_: ())
        assert two_tables(graded, side) == [(40, 976), None], "what is few at one holder is seen there"
        weakened.setattr("ceiba_node.own_side.near_cells", lambda *_: set())
        assert two_tables(graded, side) == [(40, 976), (39, 937)]
    with pytest.raises(AssertionError, match="refused"):
        two_tables(graded, side)
    assert graded.reason[1] == "asked_otherwise"


def test_a_withheld_cell_is_not_what_a_total_leaves(graded: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim's cell is withheld, everybody else's stands beside the total: as `tabulate` asks for tables."""
    victim = ByCase(name="who", branches=(LabelBranch(when=VICTIM, label="victim"),), otherwise="others")
    total, terms_of = Sum(value=EMPLOYMENT), JointSet.terms
    asked = asked_of_social(graded, total), asked_of_social(graded, total, groups=(victim,))

    def read() -> tuple[Any, Any]:
        assert graded.ask(graded.plan(Mode.HIDDEN, "tax", "social", social=asked)) == "done"
        whole, parts = graded.opened()["social"]
        return parts.subjects, whole.totals[-1] - parts.totals[-1]

    with monkeypatch.context() as weakened:
        weakened.setattr(JointSet, "terms", lambda *arguments: replace(terms_of(*arguments), plans=()))
        weakened.setattr("ceiba_node.own_side.near_cells", lambda *_: set())
        assert read() == ([None, 39], 39), "the victim's employment"
    monkeypatch.setattr("ceiba_node.own_side.near_cells", lambda *_: set())
    assert read()[0] == [None, None], "the gate alone sees to it"


def test_two_jobs_that_differ_by_one_firm(graded: JointNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can see that what differs by many at a holder differs by one in common."""
    everybody = asked_of_social(graded, Sum(value=EMPLOYMENT))
    some = "firm 10", "firm 50", "firm 51", "firm 52", "firm 53", "firm 54"
    social = graded.world.datasets["social"].frame
    wages = [int(social[social.uscc == one].wages.iloc[0]) for one in some]
    apart = [Comparing(comparison=Comparison.EQUAL, left=WAGES, right=Number(value=str(one))) for one in wages]
    others = asked_of_social(graded, Sum(value=EMPLOYMENT), filter=Not(term=Logic(op="or", terms=tuple(apart))))
    with monkeypatch.context() as weakened:
        weakened.setattr(Linking, "_earlier", lambda *_: ())
        ((_, whole),), ((count, rest),) = total_read(graded, everybody), total_read(graded, others)
        assert (count, whole - rest) == (40, int(social[social.uscc == "firm 10"].employment.iloc[0]))
    assert graded.ask(graded.plan(Mode.HIDDEN, "tax", "social", social=others)) == "refused"
    assert graded.reason[1] == "asked_otherwise" and "another filter" in graded.error.public


# --- the lengths of messages -----------------------------------------------------------------------------------

SALES = ColumnValue(name="sales")
NOISE = NoiseTerms(rho=100_000)
"""With it σ of a count is 4 at either holder, the least that there is."""


def lengths(nodes: JointNodes) -> list[int]:
    """Of all messages: the merchant's receipt has their documents."""
    messages = nodes.office.store.joint_messages(nodes.id)
    return [JointMessage.parse(messages[step.number].body).size for step in nodes.question.steps]


def lengths_of_groups(nodes: JointNodes) -> list[list[int]]:
    """With 32 firms of the base in its group, and with 33."""
    sales, found = sorted(nodes.world.datasets["tax"].frame.sales, reverse=True), []
    for passing in (32, 33):
        few = Comparing(comparison=Comparison.GREATER, left=SALES, right=Number(value=str(sales[passing])))
        plan = nodes.plan(Mode.HIDDEN, "tax", "social", tax=nodes.counts("tax", filter=few))
        assert nodes.ask(plan, noise=NOISE) == "done"
        found.append(lengths(nodes))
    return found


def test_lengths_of_messages_say_nothing_exact_of_the_bases_groups(
    graded: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merchant alone, with noise: the edge at which a length changes is one firm's figure, for next to no ρ."""
    groups, rows = BaseSide.groups, JoinedSide.rows

    def fill_up(side: JoinedSide, short: bytes, *more: Any) -> bytes:
        terms = side._exchange.terms
        return rows(side, short.ljust(32 + 4 * terms.groups + 32 * terms.most_points, b"\0"), *more)

    with monkeypatch.context() as weakened:
        weakened.setattr(BaseSide, "groups", lambda side: groups(side).rstrip(b"\0"))
        weakened.setattr(JoinedSide, "rows", fill_up)
        few, more = lengths_of_groups(graded)
        assert 15 * 32 < more[0] - few[0] < 17 * 32
    few, more = lengths_of_groups(graded)
    assert few == more


def lengths_of_common(nodes: JointNodes) -> list[list[int]]:
    """With everybody, and without one firm that both have."""
    frame, found = nodes.world.datasets["social"].frame, []
    for known in (frame, frame[frame.uscc != "firm 20"]):
        nodes.houses["social"].publish(known)
        assert nodes.ask(nodes.plan(Mode.REVEALED, "tax", "social"), noise=NOISE) == "done"
        found.append([size for size, step in zip(lengths(nodes), nodes.question.steps, strict=True) if not step.pair])
    return found


def test_the_length_of_what_is_common_does_not_say_how_many_that_is(
    graded: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is rounded where it is asked; where they are revealed to holders, the merchant has the length."""
    common = TokenSide.common

    def fill_up(side: TokenSide, short: bytes) -> frozenset[bytes]:
        return common(side, short.ljust(32 * min(side._linkage.sizes.values()), b"\0"))

    with monkeypatch.context() as weakened:
        weakened.setattr(
            "ceiba_coordinator.joint.coordinator_link", lambda *sent: coordinator_link(*sent).rstrip(b"\0")
        )
        weakened.setattr(TokenSide, "common", fill_up)
        whole, without = lengths_of_common(graded)
        assert 2 * 31 <= sum(whole) - sum(without) <= 2 * 33, "to either holder"
    whole, without = lengths_of_common(graded)
    assert whole == without
