"""A coordinator that lies in joint jobs, with real nodes and without a network (PROTOCOL §5.4).

It passes on other messages than it was given, other approvals, and messages of its own. Each lie is first shown to
succeed in a build without the checks that stop it: there somebody reads a figure that was to be withheld, or goes on
without somebody's word. Ours refuses it by name, and sends the merchant nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ceiba_node.responding import Reply
from ceiba_protocol.errors import TotalRejected, UnknownJob
from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.linkage import joint
from ceiba_protocol.linkage.join_messages import Exchange, read_share
from ceiba_protocol.linkage.joint import (
    JointApproval,
    JointPlan,
    JointQuestion,
    JointSet,
    Kind,
    Step,
    check_joint_approval,
    message_of,
)
from ceiba_protocol.linkage.masked_fields import Share
from ceiba_protocol.linkage.private_join import merchant_open
from ceiba_protocol.linkage.ristretto import encode_points, random_point
from ceiba_protocol.plan import ByColumn, Named
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.sums.layout import split_digits
from ceiba_protocol.trust.agreement import Agreement, Mode
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.trust.hpke import open_sealed, seal_to
from ceiba_protocol.trust.roster import OPERATOR, Role
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import sealing_secret
from tests.support.joint_nodes import JointNodes, quick_keys
from tests.support.members import MERCHANT, changed, resigned, signed_by
from tests.support.seeded import seeded

BASE, LARGE, SMALL = "tax", "social", "patents"
"""The tax office asks of steel firms; the patent office knows 9 of them, which are too few."""
FIGURES = {LARGE: "wages", SMALL: "patents"}
MINIMUM = 12


class StrictNodes(JointNodes):
    """Groups of fewer than 12 subjects are withheld."""

    def _agreement(self, terms: Mapping[str, Any]) -> Agreement:
        made = super()._agreement(terms)
        rules = made.disclosure.model_copy(update={"minimum_subjects": MINIMUM})
        return changed(made, disclosure=rules)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictNodes]:
    with quick_keys():
        made = StrictNodes(tmp_path_factory.mktemp("joint") / "space")
        yield made
        made.close()


def plan(nodes: JointNodes, *joined: str) -> JointPlan:
    """Figures of the joined holders by the tax office's industries."""
    by_industry = nodes.counts(BASE, groups=(ByColumn(name="industry", column="industry"),))
    plans = {
        name: nodes.counts(
            name,
            outputs=(
                Named(name=column, statistic=Sum(value=ColumnValue(name=column))),
                Named(name="n", statistic=Subjects()),
            ),
        )
        for name, column in FIGURES.items()
        if name in joined
    }
    return nodes.plan(Mode.HIDDEN, BASE, *joined, **{BASE: by_industry}, **plans)


def steel(nodes: JointNodes, holder: str) -> tuple[int, int]:
    """How many steel firms the tax office and a joined holder know, and the sum of that one's figures."""
    tax, other = (nodes.world.datasets[name].frame for name in (BASE, holder))
    both = tax.merge(other, on="uscc")
    of_steel = both[both.industry == "steel"]
    return of_steel.uscc.nunique(), int(of_steel[FIGURES[holder]].sum())


# --- the coordinator ---------------------------------------------------------------------------------------------

Given = tuple[Signed, bytes]


@dataclass
class Coordinator:
    """Asks every holder for every step, in their order, and passes on what `lie` makes of the messages."""

    nodes: JointNodes
    lie: Callable[["Coordinator", Step], Given | None] = lambda *_: None
    """Of a message that a holder asks for: what it gets instead; None for the true one."""
    shown: Callable[[str, list[Signed]], list[Signed]] = lambda _, approvals: approvals
    """Which approvals a holder is shown."""
    absent: str = ""
    """Who is not even asked to approve."""
    approvals: list[Signed] = field(default_factory=list)
    sent: dict[int, Given] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Who has refused, and the error's code, in their order."""

    def run(self, plan: JointPlan) -> "Coordinator":
        nodes = self.nodes
        nodes.submit(plan)
        self.approvals = [self._approved(name) for name in nodes.question.holders if name != self.absent]
        # The bases' last, so that the coordinator has every decision before it passes on one.
        for step in sorted(nodes.question.steps, key=lambda step: step.kind is Kind.BASE_SHARE):
            house = nodes.houses[step.sender]
            if self.absent in (step.sender, step.pair) or not self._can_ask(step):
                continue
            house.node.connect(_Line(self, step.sender))  # type: ignore[arg-type]
            asked = self.shown(step.sender, self.approvals)
            reply = house.node.linking.take_step(nodes.id, step.number, asked, house.log.checkpoint())
            assert isinstance(reply, Reply)
            if reply.signed.type == type_of(Refusal):
                self.refused.append((step.sender, Refusal.parse(reply.signed.body).code))
            else:
                self.sent[step.number] = (reply.signed, reply.payload)
        for house in nodes.houses.values():
            house.node.forget(nodes.id)
        return self

    def _approved(self, name: str) -> Signed:
        reply = self.nodes.houses[name].node.approve(self.nodes.id, self.nodes.signed)
        assert isinstance(reply, Reply)
        return reply.signed

    def _can_ask(self, step: Step) -> bool:
        steps = self.nodes.question.steps
        return all(number in self.sent or steps[number].receiver == MERCHANT for number in step.needs)

    def received(self, number: int) -> Given:
        step = self.nodes.question.steps[number]
        given = self.lie(self, step) or self.sent.get(number)
        if given is None:
            raise UnknownJob(job=self.nodes.id.hex())
        return given

    # --- what comes of it

    @property
    def agreed(self) -> JointSet:
        """As the coordinator knows it."""
        question = self.nodes.question
        opened = {one.signer: question.roster.open(one, JointApproval, Role.HOLDER) for one in self.approvals}
        return JointSet(question, opened)

    def step(self, kind: Kind, pair: str) -> Step:
        (found,) = [one for one in self.nodes.question.steps if (one.kind, one.pair) == (kind, pair)]
        return found

    def shares(self, pair: str) -> dict[Kind, bytes]:
        """What the merchant can open of a pair's."""
        found = {}
        for kind in (Kind.BASE_SHARE, Kind.JOINED_SHARE):
            step = self.step(kind, pair)
            if step.number in self.sent:
                info = joint.sealing_info(self.agreed, step)
                found[kind] = open_sealed(sealing_secret(MERCHANT), self.sent[step.number][1], info, "it")
        return found


@dataclass
class _Line:
    """A holder's connection."""

    coordinator: Coordinator
    name: str

    def received(self, _job_id: bytes, number: int) -> Given:
        return self.coordinator.received(number)


def figures(coordinator: Coordinator, pair: str) -> list[tuple[int, int] | None]:
    """What a merchant reads that leaves out its own checks: by group, the count and the sum that were released."""
    terms, shares = coordinator.agreed.terms(pair), coordinator.shares(pair)
    released, masks = read_share(shares[Kind.BASE_SHARE], terms, terms.base)
    _, theirs = read_share(shares[Kind.JOINED_SHARE], terms, pair)

    def opened(cell: Any, mask: Share, share: Share) -> tuple[int, int]:
        _, _, figure, _ = split_digits(share[1] - mask[1], cell.value_widths)  # rows, rows with a figure, it, subjects
        return share[0] - mask[0], figure

    cells = list(zip(terms.shapes, released, masks, theirs, strict=True))[:: len(terms.cells)]  # without their guards
    return [opened(cell, mask, share) if is_released else None for cell, is_released, mask, share in cells]


def assert_no_figure(coordinator: Coordinator, pair: str) -> None:
    assert Kind.BASE_SHARE not in coordinator.shares(pair)


# --- weakened builds ---------------------------------------------------------------------------------------------


@contextmanager
def weakened(*parts: str) -> Iterator[None]:
    """A build without some of what stops a lying coordinator."""
    with pytest.MonkeyPatch.context() as patch:
        if "signatures" in parts:
            patch.setattr("ceiba_node.linking.check_message", lambda *_: None)
        if "seals" in parts:  # what is sealed can be opened as any step of any job
            for module in ("ceiba_protocol.linkage.joint", "ceiba_node.linking"):
                patch.setattr(f"{module}.sealing_info", lambda *_: b"anything")
        if "headers" in parts:  # messages of a join look the same in every join
            patch.setattr(Exchange, "_header", lambda _, kind: kind.encode().ljust(32))
        if "completeness" in parts:
            patch.setattr("ceiba_node.linking.commit_jointly", committed_to_some)
        if "contexts" in parts:
            patch.setattr(JointSet, "context", lambda *_: bytes(32))
        yield


def committed_to_some(question: JointQuestion, approvals: list[Signed]) -> JointSet:
    """`commit_jointly`, whoever is missing."""
    opened = {one.signer: question.roster.open(one, JointApproval, Role.HOLDER) for one in approvals}
    for signer, approval in opened.items():
        check_joint_approval(question, signer, approval)
    return JointSet(question, opened)


def test_an_honest_coordinator(nodes: StrictNodes) -> None:
    """What the lies are measured by: wages by industry are released, patents are not: there are few steel firms."""
    done = Coordinator(nodes).run(plan(nodes, LARGE, SMALL))
    assert done.refused == [] and len(done.sent) == 16
    assert figures(done, LARGE)[1] == steel(nodes, LARGE)
    assert set(figures(done, SMALL)) == {None}
    assert 0 < steel(nodes, SMALL)[0] < MINIMUM


# --- a changed payload -------------------------------------------------------------------------------------------


def random_tests(coordinator: Coordinator, step: Step) -> Given | None:
    """To who decides which groups are large enough: none has a count that is too small."""
    if (step.kind, step.pair) != (Kind.TESTED, SMALL):
        return None
    agreed = coordinator.agreed
    terms, key = agreed.terms(SMALL), agreed.approvals[SMALL].encryption_key
    assert key is not None
    tests = sum(2 * len(terms.forbidden(cell)) for cell in terms.shapes)
    points = encode_points([random_point(seeded(f"test {place}")) for place in range(tests)])
    return sealed_by_coordinator(coordinator, step, Exchange(terms, BASE, key.n, ()).seal("tested", points))


def sealed_by_coordinator(coordinator: Coordinator, step: Step, payload: bytes) -> Given:
    """Everybody's sealing key is on the roster, and what it is sealed for is no secret: only the signature is."""
    agreed = coordinator.agreed
    receiver = agreed.question.roster.by_name[step.receiver]
    sealed = seal_to(bytes.fromhex(receiver.sealing_key), payload, joint.sealing_info(agreed, step))
    return coordinator.sent[step.number][0], sealed


def signed_by_coordinator(coordinator: Coordinator, step: Step) -> Given | None:
    lie = random_tests(coordinator, step)
    if lie is None:
        return None
    return signed_by(OPERATOR, message_of(coordinator.agreed, step, lie[1])), lie[1]


def signed_by_another_holder(coordinator: Coordinator, step: Step) -> Given | None:
    """One that conspires with the coordinator."""
    lie = random_tests(coordinator, step)
    if lie is None:
        return None
    return signed_by(LARGE, message_of(coordinator.agreed, step, lie[1])), lie[1]


def in_anothers_name(coordinator: Coordinator, step: Step) -> Given | None:
    lie = signed_by_another_holder(coordinator, step)
    if lie is not None:
        lie[0].signer = BASE
    return lie


def one_bit(coordinator: Coordinator, step: Step) -> Given | None:
    if (step.kind, step.pair) != (Kind.TESTED, SMALL):
        return None
    signed, sealed = coordinator.sent[step.number]
    return signed, sealed[:-1] + bytes([sealed[-1] ^ 1])


def test_made_up_tests_release_a_small_group_in_a_build_that_checks_no_message(nodes: StrictNodes) -> None:
    """The merchant reads the patents of 9 firms, exactly; an honest one would refuse to."""
    with weakened("signatures"):
        lied = Coordinator(nodes, lie=random_tests).run(plan(nodes, LARGE, SMALL))
    assert lied.refused == []
    assert figures(lied, SMALL)[1] == steel(nodes, SMALL)
    shares = lied.shares(SMALL)
    with pytest.raises(TotalRejected, match="too small"):
        merchant_open(lied.agreed.terms(SMALL), shares[Kind.BASE_SHARE], shares[Kind.JOINED_SHARE])


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (random_tests, "set_mismatch"),
        (one_bit, "set_mismatch"),
        (signed_by_coordinator, "unknown_member"),
        (signed_by_another_holder, "set_mismatch"),
        (in_anothers_name, "bad_signature"),
    ],
)
def test_a_changed_payload_is_refused(nodes: StrictNodes, lie: Any, code: str) -> None:
    lied = Coordinator(nodes, lie=lie).run(plan(nodes, LARGE, SMALL))
    assert lied.refused[0] == (SMALL, code)
    assert_no_figure(lied, SMALL)
    assert not lied.shares(SMALL)


# --- messages in each other's place ------------------------------------------------------------------------------


def swapped(coordinator: Coordinator, step: Step) -> Given | None:
    """What the two joined holders have decided: the tax office takes each for the other's."""
    if step.kind is not Kind.RELEASED:
        return None
    other = {LARGE: SMALL, SMALL: LARGE}[step.pair]
    return coordinator.sent.get(coordinator.step(Kind.RELEASED, other).number)


def test_swapped_decisions_release_a_small_groups_masks_in_a_weakened_build(nodes: StrictNodes) -> None:
    with weakened("signatures", "seals", "headers"):
        lied = Coordinator(nodes, lie=swapped).run(plan(nodes, LARGE, SMALL))
        assert lied.refused == []
        terms = lied.agreed.terms(SMALL)
        released, _ = read_share(lied.shares(SMALL)[Kind.BASE_SHARE], terms, BASE)
    assert all(released[:: len(terms.cells)])


@pytest.mark.parametrize(
    ("parts", "code"),
    [((), "set_mismatch"), (("signatures",), "malformed_message"), (("signatures", "seals"), "malformed_message")],
)
def test_swapped_messages_are_refused_by_each_of_three_checks(
    nodes: StrictNodes, parts: tuple[str, ...], code: str
) -> None:
    with weakened(*parts):
        lied = Coordinator(nodes, lie=swapped).run(plan(nodes, LARGE, SMALL))
        assert lied.refused[0] == (BASE, code)
        assert_no_figure(lied, SMALL)


# --- a message of another job ------------------------------------------------------------------------------------


def replaying(before: Coordinator) -> Callable[[Coordinator, Step], Given | None]:
    """The tests of an earlier job: under this one's key they say of no count that it is too small."""

    def lie(_: Coordinator, step: Step) -> Given | None:
        return before.sent[step.number] if (step.kind, step.pair) == (Kind.TESTED, SMALL) else None

    return lie


def test_a_replayed_message_releases_a_small_group_in_a_weakened_build(nodes: StrictNodes) -> None:
    with weakened("signatures", "seals", "headers"):
        before = Coordinator(nodes).run(plan(nodes, SMALL))
        lied = Coordinator(nodes, lie=replaying(before)).run(plan(nodes, SMALL))
        assert lied.refused == [] and figures(lied, SMALL)[1] == steel(nodes, SMALL)


@pytest.mark.parametrize(
    ("parts", "code"),
    [((), "set_mismatch"), (("signatures",), "malformed_message"), (("signatures", "seals"), "malformed_message")],
)
def test_a_replayed_message_is_refused_by_each_of_three_checks(
    nodes: StrictNodes, parts: tuple[str, ...], code: str
) -> None:
    with weakened(*parts):
        before = Coordinator(nodes).run(plan(nodes, SMALL))
        lied = Coordinator(nodes, lie=replaying(before)).run(plan(nodes, SMALL))
    assert before.refused == [] and lied.refused[0] == (SMALL, code)
    assert not lied.shares(SMALL)


# --- approvals ---------------------------------------------------------------------------------------------------


def two_faced(name: str, approvals: list[Signed]) -> list[Signed]:
    """A holder that conspires with the coordinator has approved twice; everybody sees another approval."""
    if name != SMALL:
        return approvals
    return [resigned(one, JointApproval, nonce="ee" * 16) if one.signer == SMALL else one for one in approvals]


def test_different_approvals_pass_in_a_build_whose_messages_are_bound_to_none(nodes: StrictNodes) -> None:
    with weakened("contexts"):
        lied = Coordinator(nodes, shown=two_faced).run(plan(nodes, SMALL))
        assert lied.refused == [] and lied.shares(SMALL).keys() == {Kind.BASE_SHARE, Kind.JOINED_SHARE}


def test_different_approvals_are_refused(nodes: StrictNodes) -> None:
    lied = Coordinator(nodes, shown=two_faced).run(plan(nodes, LARGE, SMALL))
    assert lied.refused[0] == (SMALL, "set_mismatch")
    assert not lied.shares(SMALL) and figures(lied, LARGE)[1] is not None


def test_approvals_that_change_on_the_way_are_refused(nodes: StrictNodes) -> None:
    calls: list[str] = []

    def changing(name: str, approvals: list[Signed]) -> list[Signed]:
        calls.append(name)
        return two_faced(SMALL, approvals) if calls.count(name) > 1 else approvals

    lied = Coordinator(nodes, shown=changing).run(plan(nodes, SMALL))
    assert lied.refused[0] == (BASE, "set_mismatch") and not lied.shares(SMALL)


def without(missing: str) -> Callable[[str, list[Signed]], list[Signed]]:
    return lambda _, approvals: [one for one in approvals if one.signer != missing]


def test_the_others_go_on_without_a_holder_in_a_build_that_does_not_count_them(nodes: StrictNodes) -> None:
    """The patent office was not even asked; the wages are read all the same."""
    with weakened("completeness"):
        lied = Coordinator(nodes, absent=SMALL).run(plan(nodes, LARGE, SMALL))
        assert lied.refused == [] and figures(lied, LARGE)[1] == steel(nodes, LARGE)


@pytest.mark.parametrize("missing", [BASE, LARGE, SMALL])
def test_nobody_goes_on_without_a_holder(nodes: StrictNodes, missing: str) -> None:
    lied = Coordinator(nodes, shown=without(missing)).run(plan(nodes, LARGE, SMALL))
    assert lied.refused and {code for _, code in lied.refused} == {"set_mismatch"} and lied.sent == {}


def test_an_approval_twice_or_of_another_job_is_none(nodes: StrictNodes) -> None:
    before = Coordinator(nodes).run(plan(nodes, LARGE, SMALL))
    twice = Coordinator(nodes, shown=lambda _, approvals: [*approvals, approvals[0]]).run(plan(nodes, LARGE, SMALL))
    replayed = Coordinator(nodes, shown=lambda _, approvals: [before.approvals[0], *approvals[1:]])
    replayed.run(plan(nodes, LARGE, SMALL))
    forged = Coordinator(nodes, shown=lambda _, approvals: [_forged(approvals[0]), *approvals[1:]])
    forged.run(plan(nodes, LARGE, SMALL))
    for lied, code in ((twice, "set_mismatch"), (replayed, "set_mismatch"), (forged, "bad_signature")):
        assert lied.refused[0][1] == code and lied.sent == {}


def _forged(signed: Signed) -> Signed:
    changed_body = JointApproval.parse(signed.body).model_copy(update={"subjects": 1})
    return Signed(type=signed.type, signer=signed.signer, body=changed_body.body(), signature=signed.signature)
