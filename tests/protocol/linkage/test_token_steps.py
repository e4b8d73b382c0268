"""The steps of a joint job in every mode, and linking by tokens from one to the next (PROTOCOL §5.3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from ceiba_protocol.errors import AnswerRejected, CeibaError, SetMismatch
from ceiba_protocol.linkage.joint import (
    OF_PAIR,
    TO_MERCHANT,
    JointPlan,
    Kind,
    SidePlan,
    Step,
    announced,
    steps_of,
)
from ceiba_protocol.linkage.oprf import JobKey, encode_tokens, published_size
from ceiba_protocol.linkage.token_steps import TokenSide, coordinator_link, read_size, write_size
from ceiba_protocol.plan import ByColumn, Named, Plan
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.subjects import Subjects
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.roster import OPERATOR
from tests.support.seeded import seeded

MERCHANT = "bank"
JOB = bytes(range(32))
KNOWN = {
    "fund": [f"firm {number}" for number in range(10, 45)],
    "register": [f"firm {number}" for number in range(0, 40, 2)],
    "tax": [f"firm {number}" for number in range(30)],
}
FEWEST = 3


def side(holder: str, *plans: Plan) -> SidePlan:
    return SidePlan(holder=holder, on="uscc", plans=plans or (rows_of(holder),))


def rows_of(holder: str, statistic: Any = None, **parts: Any) -> Plan:
    outputs = (Named(name="rows", statistic=statistic or Count()),)
    fixed: dict[str, Any] = {"table": f"{holder}.firms", "schema_digest": "0" * 64, "filter": None, "outputs": outputs}
    return Plan(**(fixed | parts))


def plan_of(mode: Mode, base: str, *joined: str, linked: tuple[str, ...] = ()) -> JointPlan:
    return JointPlan(mode=mode, base=side(base), joined=tuple(map(side, joined)), linked=tuple(map(side, linked)))


TWO = plan_of(Mode.CARDINALITY, "tax", "fund")
THREE = plan_of(Mode.CARDINALITY, "tax", "fund", "register")
REVEALED = plan_of(Mode.REVEALED, "tax", "fund", linked=("register",))


# --- steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        TWO,
        THREE,
        REVEALED,
        plan_of(Mode.HIDDEN, "tax", "fund"),
        plan_of(Mode.HIDDEN, "tax", "fund", "register"),
        plan_of(Mode.REVEALED, "tax", "fund", "register"),
        plan_of(Mode.REVEALED, "tax", "fund"),
    ],
    ids=lambda plan: f"{plan.mode} of {len(plan.sides)}",
)
def test_steps_can_be_taken_in_their_order_and_each_opens_only_what_it_received(plan: JointPlan) -> None:
    steps = steps_of(plan, MERCHANT)
    parties = {*plan.holders, MERCHANT, OPERATOR}
    for number, step in enumerate(steps):
        assert step.number == number
        assert {step.sender, step.receiver} <= parties and step.sender != step.receiver
        assert all(needed < number for needed in step.needs)
        assert (step.receiver == MERCHANT) == (step.kind in TO_MERCHANT)
        assert bool(step.pair) == (step.kind in OF_PAIR)
    waited_for = {needed for step in steps for needed in step.needs}
    last = {step.number for step in steps if step.receiver == MERCHANT}
    assert waited_for | last == set(range(len(steps))), "a message that nobody waits for"


def test_every_step_of_a_pair_needs_the_one_before_it() -> None:
    pair = steps_of(plan_of(Mode.HIDDEN, "tax", "fund"), MERCHANT)
    assert [step.kind for step in pair] == list(OF_PAIR)
    assert [step.needs for step in pair] == [(), (0,), (1,), (2,), (3,), (4,), (5,), (6, 5)]


def test_joins_wait_until_it_is_revealed_what_all_have() -> None:
    steps = steps_of(REVEALED, MERCHANT)
    common = {step.receiver: step.number for step in steps if step.kind is Kind.COMMON}
    tokens = {step.number for step in steps if step.kind is Kind.TOKENS}
    assert sorted(common) == ["fund", "tax"], "the register need not know"
    assert len(tokens) == 3
    assert all(set(step.needs) == tokens for step in steps if step.kind is Kind.COMMON)
    (groups,) = (step for step in steps if step.kind is Kind.GROUPS)
    (rows,) = (step for step in steps if step.kind is Kind.ROWS)
    assert groups.needs == (common["tax"],)
    assert rows.needs == (groups.number, common["fund"])


WRONG_PLANS: dict[str, dict[str, Any]] = {
    "a group of what is only counted": {"base": side("tax", rows_of("tax", groups=(ByColumn(name="g", column="g"),)))},
    "a figure of what is only counted": {"joined": (side("fund", rows_of("fund", Subjects())),)},
    "two plans of what is only counted": {"joined": (side("fund", rows_of("fund"), rows_of("fund")),)},
    "linked beside what is only counted": {"linked": (side("register"),)},
    "linked where that is hidden": {"mode": Mode.HIDDEN, "linked": (side("register"),)},
    "joined and linked": {"mode": Mode.REVEALED, "linked": (side("fund"),)},
    "base and linked": {"mode": Mode.REVEALED, "linked": (side("tax"),)},
    "linked twice": {"mode": Mode.REVEALED, "linked": (side("register"), side("register"))},
    "linked in another order": {"mode": Mode.REVEALED, "linked": (side("register"), side("patents"))},
}


@pytest.mark.parametrize("what", WRONG_PLANS)
def test_what_no_joint_plan_can_be(what: str) -> None:
    fields = {"mode": Mode.CARDINALITY, "base": side("tax"), "joined": (side("fund"),)}
    JointPlan(**fields)
    with pytest.raises(ValidationError):
        JointPlan(**(fields | WRONG_PLANS[what]))


def test_who_encrypts() -> None:
    assert [name for name in REVEALED.holders if REVEALED.encrypts(name)] == ["fund"]
    assert not any(THREE.encrypts(name) for name in THREE.holders)


# --- a whole linkage -------------------------------------------------------------------------------------------


@dataclass
class Linked:
    """A linkage by the steps of a plan, in one place. `cheats`: by sender and kind, what is sent instead."""

    plan: JointPlan
    known: Mapping[str, list[str]] = field(default_factory=lambda: KNOWN)
    cheats: Mapping[tuple[str, Kind], Callable[[bytes], bytes]] = field(default_factory=dict)
    label: str = "linkage"
    sent: dict[Step, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.plan.holders
        random = {name: seeded(f"{self.label} of {name}") for name in names}
        self.keys = {name: JobKey(JOB, name, random[name]) for name in names}
        sizes = {name: announced(len(KNOWN[name])) for name in names}
        announcements = {name: self.keys[name].announce(sizes[name]) for name in names}
        self.agreed: Any = SimpleNamespace(
            question=SimpleNamespace(digest=JOB.hex(), fewest_in_common=FEWEST, plan=self.plan),
            approvals={
                name: SimpleNamespace(subjects=size, token_key=announcements[name].hex())
                for name, size in sizes.items()
            },
        )
        own = {name: [one.encode() for one in self.known[name]] for name in names}
        self.sides = {name: TokenSide(self.agreed, name, self.keys[name], own[name], random[name]) for name in names}

    def run(self) -> "Linked":
        steps = steps_of(self.plan, MERCHANT)
        for step in (one for one in steps if one.kind not in OF_PAIR):
            needed = {steps[number]: self.sent[steps[number]] for number in step.needs}
            if step.sender == OPERATOR:
                payload = coordinator_link(self.agreed, {one.sender: sent for one, sent in needed.items()})
            else:
                payload = self.sides[step.sender].send(step, needed)
            self.sent[step] = self.cheats.get((step.sender, step.kind), lambda payload: payload)(payload)
        return self

    def of(self, kind: Kind) -> list[bytes]:
        return [payload for step, payload in self.sent.items() if step.kind is kind]

    @property
    def size(self) -> int:
        (payload,) = self.of(Kind.SIZE)
        return read_size(self.agreed, payload)


def common(*names: str) -> set[str]:
    return set.intersection(*(set(KNOWN[name]) for name in names))


def test_two_and_three_holders_count() -> None:
    assert Linked(TWO).run().size == published_size(len(common("tax", "fund"))) == 20
    assert Linked(THREE).run().size == published_size(len(common(*KNOWN))) == 10


def test_each_holder_finds_its_own_that_all_have() -> None:
    linked = Linked(REVEALED).run()
    for step, payload in linked.sent.items():
        if step.kind is Kind.COMMON:
            found = linked.sides[step.receiver].common(payload)
            assert found == {one.encode() for one in common(*KNOWN)}


def test_lengths_follow_from_the_announced_numbers_alone() -> None:
    few = {name: own[:4] for name, own in KNOWN.items()} | {"register": ["firm 10", "firm 12", "firm 2", "firm 0"]}
    few["tax"], few["fund"] = ["firm 10", "firm 12", "firm 0", "firm 2"], ["firm 10", "firm 12", "firm 0", "firm 2"]
    for plan in (TWO, THREE, REVEALED):
        lengths = [len(payload) for payload in Linked(plan).run().sent.values()]
        assert [len(payload) for payload in Linked(plan, few).run().sent.values()] == lengths


def test_a_side_answers_each_owner_once_and_takes_only_its_own_steps() -> None:
    linked = Linked(THREE).run()
    blinded = next(step for step in linked.sent if step.kind is Kind.BLINDED and step.sender == "fund")
    with pytest.raises(CeibaError, match="answered before"):
        linked.sides[blinded.receiver].evaluated("fund", linked.sent[blinded])
    with pytest.raises(SetMismatch, match="no holder's"):
        linked.sides["tax"].send(steps_of(plan_of(Mode.HIDDEN, "tax", "fund"), MERCHANT)[0], {})
    assert "firm" not in repr(linked.sides["tax"])


# --- what is sent instead ---------------------------------------------------------------------------------------

IDENTITY = bytes(32)
TAX = 32 * announced(30)
"""Bytes of the tokens of the tax office."""


def backwards(sent: bytes) -> bytes:
    return b"".join(sent[at : at + 32] for at in range(len(sent) - 32, -1, -32))


def first_twice(sent: bytes) -> bytes:
    return sent[:32] + sent[:-32]


CHEATS: dict[str, tuple[JointPlan, str, Kind, Callable[[bytes], bytes], str]] = {
    "the identity": (THREE, "fund", Kind.BLINDED, lambda sent: IDENTITY + sent[32:], "bad_group_element"),
    "no point": (THREE, "fund", Kind.BLINDED, lambda sent: b"\xff" * 32 + sent[32:], "bad_group_element"),
    "a point twice": (THREE, "fund", Kind.BLINDED, first_twice, "bad_group_element"),
    "more points than announced": (THREE, "fund", Kind.BLINDED, lambda sent: sent + sent[:32], "count_not_kept"),
    "fewer points than announced": (THREE, "fund", Kind.BLINDED, lambda sent: sent[32:], "count_not_kept"),
    "half a point more": (THREE, "fund", Kind.BLINDED, lambda sent: sent + sent[:16], "count_not_kept"),
    "a wrong proof": (
        THREE, "fund", Kind.EVALUATED, lambda sent: sent[:-1] + bytes([sent[-1] ^ 1]), "bad_key_use",
    ),
    "two evaluations exchanged": (
        THREE, "fund", Kind.EVALUATED, lambda sent: sent[32:64] + sent[:32] + sent[64:], "bad_key_use",
    ),
    "a longer evaluation": (THREE, "fund", Kind.EVALUATED, lambda sent: sent + b"0", "malformed_message"),
    "no evaluation": (THREE, "fund", Kind.EVALUATED, lambda _: b"", "malformed_message"),
    "the identity as an evaluation": (
        THREE, "fund", Kind.EVALUATED, lambda sent: IDENTITY + sent[32:], "bad_group_element",
    ),
    "tokens in another order": (THREE, "fund", Kind.TOKENS, backwards, "bad_tokens"),
    "a token twice": (REVEALED, "fund", Kind.TOKENS, first_twice, "bad_tokens"),
    "half a token": (REVEALED, "fund", Kind.TOKENS, lambda sent: sent[:-16], "bad_tokens"),
    "a token too many": (THREE, "fund", Kind.TOKENS, lambda sent: sent + b"\xff" * 32, "count_not_kept"),
    "tokens that nobody has": (
        THREE, "fund", Kind.TOKENS, lambda sent: encode_tokens(seeded(f"{at}")(32) for at in range(len(sent) // 32)),
        "intersection_too_small",
    ),
    "an offer in the order of rows": (TWO, "tax", Kind.OFFER, backwards, "bad_tokens"),
    "an offer with a point twice": (TWO, "tax", Kind.OFFER, first_twice, "bad_tokens"),
    "an offer of fewer": (TWO, "tax", Kind.OFFER, lambda sent: sent[32:], "count_not_kept"),
    "an offer with the identity": (TWO, "tax", Kind.OFFER, lambda sent: IDENTITY + sent[32:], "bad_group_element"),
    "a reply in the order of rows": (
        TWO, "fund", Kind.REPLY, lambda sent: backwards(sent[:-TAX]) + sent[-TAX:], "bad_tokens",
    ),
    "a reply with tokens in another order": (
        TWO, "fund", Kind.REPLY, lambda sent: sent[:-TAX] + backwards(sent[-TAX:]), "bad_tokens",
    ),
    "a reply with a token too few": (TWO, "fund", Kind.REPLY, lambda sent: sent[:-32], "malformed_message"),
    "a reply with the identity": (TWO, "fund", Kind.REPLY, lambda sent: IDENTITY + sent[32:], "bad_group_element"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHEATS)
def test_who_sends_something_else_is_refused_by_name(what: str) -> None:
    plan, sender, kind, change, code = CHEATS[what]
    with pytest.raises(CeibaError) as caught:
        Linked(plan, cheats={(sender, kind): change}).run()
    assert caught.value.code == code
    if code != "intersection_too_small":
        assert sender in caught.value.public


@pytest.mark.parametrize("plan", [TWO, THREE, REVEALED], ids=["two", "three", "revealed"])
def test_tokens_of_another_job_match_nobody(plan: JointPlan) -> None:
    """Nor do an offer's points: the group elements of each job are others, and so are its keys."""
    kind = Kind.OFFER if plan is TWO else Kind.TOKENS
    (first, *_) = Linked(plan, label="another").run().of(kind)
    sender = "tax" if plan is TWO else "fund"
    with pytest.raises(CeibaError, match="Fewer than 3 subjects"):
        Linked(plan, cheats={(sender, kind): lambda _: first}).run()


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        (backwards, "bad_tokens"),
        (first_twice, "bad_tokens"),
        (lambda sent: IDENTITY + sent[32:], "bad_tokens"),
        (lambda sent: sent[: 32 * (FEWEST - 1)], "bad_tokens"),
        (lambda sent: sent + bytes(32), "bad_tokens"),
        (lambda sent: sent[:-1], "bad_tokens"),
        (lambda sent: sent[:-1] + b"\1", "bad_tokens"),
        (lambda sent: bytes(len(sent)), "intersection_too_small"),
        (lambda sent: sent[: 32 * (FEWEST - 1)].ljust(len(sent), b"\0"), "intersection_too_small"),
    ],
)
def test_a_holder_takes_only_its_own_tokens_from_the_coordinator(
    shown: Callable[[bytes], bytes], code: str
) -> None:  # fmt: skip
    linked = Linked(REVEALED).run()
    with pytest.raises(CeibaError) as caught:
        linked.sides["fund"].common(shown(linked.of(Kind.COMMON)[0]))
    assert caught.value.code == code


@cache
def counted() -> Linked:
    return Linked(THREE).run()


@pytest.mark.parametrize("size", [0, 10, 20, 32])
def test_a_size_that_may_be_published_is_read(size: int) -> None:
    """The fewest are 3, which are shown as none; 20 firms of the register are announced as 20."""
    agreed = counted().agreed
    if size <= 20:
        assert read_size(agreed, write_size(size)) == size
    else:
        with pytest.raises(AnswerRejected):
            read_size(agreed, write_size(size))


@pytest.mark.parametrize("payload", [b"", (10).to_bytes(9, "big"), (14).to_bytes(8, "big"), b"\xff" * 8])
def test_another_size_is_not(payload: bytes) -> None:
    with pytest.raises(AnswerRejected, match="number of subjects"):
        read_size(counted().agreed, payload)
