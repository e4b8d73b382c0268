"""One real holder in a fit: each share is stored before it is sent and sent once; states follow from shares alone."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ceiba_node.answering import FIT
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.policy import Stop, StopKind
from ceiba_node.responding import Reply
from ceiba_protocol.design import Factor
from ceiba_protocol.disclosure.gate import NEAREST
from ceiba_protocol.errors import CeibaError, NotReachable
from ceiba_protocol.expression import Arithmetic, ColumnValue, Comparing, Expression, Number, TextValue
from ceiba_protocol.plan import ByColumn, GroupKey, Plan, finish, fit_alone
from ceiba_protocol.program import Comparison, Row
from ceiba_protocol.rounds import CLOCK_TOLERANCE, Commitment, Question, commit_to_set, leader_of, open_result
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.statistics.survival import Survival
from ceiba_protocol.trust.documents import FitShare, NoiseTerms, Refusal
from ceiba_protocol.trust.hpke import seal_to
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.common_pb2 import Signed
from tests.node.test_gate_answering import own_words
from tests.support.fit_rounds import INTERNAL, MODEL, ROUNDS, FitRounds, column, fit_plan, patients
from tests.support.members import HOLDERS, NOW, SCHEMA, plan_of, resigned, signed_by
from tests.support.one_node import ME, SECOND, STORAGE_KEY, THIRD, FakeGate, Node

ROWS: dict[str, list[Row]] = {name: list(patients(name)) for name in HOLDERS}
AGE, CHOL = ColumnValue(name="age"), ColumnValue(name="chol")


class FakeFits(FakeGate):
    """Where the node finds the shares of the rounds: its own, and those of simulated holders."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.world)
        self._node = node
        self.fits: dict[bytes, FitRounds] = {}
        self.of_rounds: dict[tuple[bytes, int], list[tuple[Signed, bytes]]] = {}
        """By job and round. A test that wants the node to be shown others changes them."""
        self.asked: list[int] = []

    def take(self, own: Reply, question: Question, commitment: Commitment, job_id: bytes) -> None:
        """Keep the node's share of a round; the others send theirs and go on."""
        if job_id not in self.fits:
            others = [name for name in commitment.holders if name != ME]
            self.fits[job_id] = FitRounds(self._node.world, others, question, commitment, self.stored.get(job_id, []))
        fit, iteration = self.fits[job_id], FitShare.parse(own.signed.body).iteration
        if (job_id, iteration) not in self.of_rounds:
            assert fit.iteration == iteration
            shares = [(own.signed, own.payload), *(fit.share(name) for name in fit.rounds)]
            self.of_rounds[job_id, iteration] = shares
            with suppress(CeibaError):  # what the others then refuse as well
                fit.go_on(shares)

    def fit_shares(self, job_id: bytes, iteration: int) -> list[tuple[Signed, bytes]]:
        self.asked.append(iteration)
        return self.of_rounds.get((job_id, iteration), [])


class FitNode(Node):
    """With a question that is a fit."""

    def __init__(
        self, folder: Path, statistic: Statistic = MODEL, schema: Schema = INTERNAL, rows: Any = None, **options: Any
    ) -> None:
        super().__init__(folder, rows=rows or ROWS, schema=schema, plan=fit_plan(statistic, schema), **options)
        self.gate: FakeFits = FakeFits(self)
        self.answering.connect(self.gate)

    def iterate(self, iteration: int, approvals: list[Signed], *, takes: bool = True) -> Any:
        reply = self.answering.iterate(self.id, iteration, approvals, [], self.log.checkpoint())
        if takes and reply.payload and reply.signed.type.endswith("FitShare"):
            question = self.world.read()
            self.gate.take(reply, question, commit_to_set(question, approvals), self.id)
        return reply

    def through(self, rounds: int, approvals: list[Signed]) -> list[Reply]:
        """The gate, where there is one, and so many rounds."""
        if self.world.agreement.disclosure.has_gate:
            assert self.share(approvals).payload
        replies = [self.iterate(at, approvals) for at in range(rounds)]
        assert all(reply.payload for reply in replies)
        return replies

    def fitted(self) -> Any:
        """The whole job as the merchant gets it; or the refusal."""
        approvals, at = self.approvals(), 0
        reply = self.share(approvals) if self.world.agreement.disclosure.has_gate else None
        while reply is None or (reply.payload and not reply.signed.type.endswith("Submission")):
            reply, at = self.iterate(at, approvals), at + 1
        if not reply.payload:
            return reply
        fit = self.gate.fits[self.id]
        submissions = [(reply.signed, reply.payload), *(fit.submission(name) for name in fit.rounds)]
        opened = self.opened_of(approvals, submissions)
        self.answering.forget(self.id)
        return finish(self.world.read().program, opened.sums, opened.sent)

    def opened_of(self, approvals: list[Signed], submissions: list[tuple[Signed, bytes]]) -> Any:
        shares = [signed for signed, _ in self.gate.shares(self.id)]
        total, key = self.world.total(submissions), self.world.private_key
        return open_result(self.world.read(), approvals, submissions, total, key, shares=shares)

    def asks(self, number: int, plan: Plan) -> None:
        """The merchant's next job."""
        self.ask(f"{number:02x}", number)
        self.world.plan = plan


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FitNode]:
    made = FitNode(tmp_path)
    yield made
    made.answering.close()


def refused(reply: Any, code: str) -> dict[str, str]:
    """Refused for that reason, signed; the public fields."""
    assert isinstance(reply, Reply) and reply.payload == b""
    refusal = Refusal.parse(reply.signed.body)
    assert (refusal.code, refusal.holder) == (code, ME), refusal
    return dict(refusal.fields)


def payloads(node: FitNode) -> list[tuple[str, int]]:
    return [
        (stage, at) for stage, at in node.ledger._all("SELECT stage, iteration FROM payloads ORDER BY rowid") if at >= 0
    ]


def everybody(rows: Any = None) -> list[Row]:
    return [row for name in HOLDERS for row in (rows or ROWS)[name]]


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_fit_is_that_of_all_rows_together(node: FitNode) -> None:
    program = node.world.read().program
    ((found,),), ((wanted,),) = node.fitted(), finish(program, fit_alone(program, everybody()))
    assert found["coefficients"] == pytest.approx(wanted["coefficients"], rel=1e-8)
    assert found["rows"] == 60
    assert payloads(node) == [("gate", 0), *((FIT, at) for at in range(ROUNDS)), ("release", 0)]


def test_public_data_are_fitted_without_a_gate(tmp_path: Path) -> None:
    node = FitNode(tmp_path, schema=SCHEMA)
    ((found,),) = node.fitted()
    assert found["rows"] == 60
    node.answering.close()


def test_its_sums_leave_it_masked(node: FitNode) -> None:
    """None of the numbers that it sends is one of its own sums."""
    approvals = node.approvals()
    (reply,) = node.through(1, approvals)
    fit = node.answering._work[node.id].fit
    assert fit is not None
    sums = fit.round.fit.measure(
        fit.round.state, node.answering._work[node.id].computed.result().prepared, fit.round.frame
    )
    sent = np.frombuffer(reply.payload, dtype="<u8")
    assert not set(sent[::2].tolist()) & {value % 2**64 for value in sums}


# --- I2: stored before it is sent, and once ----------------------------------------------------------------------


def test_a_share_is_stored_before_it_is_returned(node: FitNode) -> None:
    approvals = node.approvals()
    (reply,) = node.through(1, approvals)
    stored = Ledger(node.folder / "ledger.sqlite3", STORAGE_KEY).payload(node.id, 0, FIT, 0)
    assert stored is not None and (stored.submission, stored.ciphertexts) == (reply.signed, reply.payload)
    assert stored.context_digest == FitShare.parse(reply.signed.body).context_digest


def test_a_share_that_cannot_be_stored_is_not_sent(node: FitNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on /srv/secret-path")

    approvals = node.approvals()
    node.share(approvals)
    monkeypatch.setattr(node.ledger, "record_payload", full_disk)
    reply = node.iterate(0, approvals)
    refused(reply, "internal_error")
    assert b"secret-path" not in reply.signed.body


@pytest.mark.parametrize("rounds", range(1, ROUNDS + 1))
def test_after_a_restart_shares_are_resent_byte_for_byte_and_the_next_follows(node: FitNode, rounds: int) -> None:
    """Sealing and the leader's mask are random each time; memory is gone, so the state is derived by replaying."""
    approvals = node.approvals()
    first = node.through(rounds, approvals)
    for _ in range(2):
        node.restart()
        node.gate.asked.clear()
        assert [node.iterate(at, approvals) for at in range(rounds)] == first
        assert node.gate.asked == list(range(rounds - 1))
    node.restart()
    assert node.iterate(rounds, approvals).payload  # without having been asked for the earlier ones
    while not node.gate.fits[node.id].is_final:
        rounds += 1
        node.iterate(rounds, approvals)
    node.restart()
    last = node.iterate(ROUNDS, approvals)
    assert last.signed.type.endswith("Submission")
    node.restart()
    assert node.iterate(ROUNDS, approvals) == last
    assert [node.iterate(at, approvals) for at in range(len(first))] == first


def test_resend_goes_on_after_a_new_version_and_after_the_window(node: FitNode) -> None:
    approvals = node.approvals()
    first = node.through(2, approvals)
    node.publish(patients("somebody else"))
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    node.restart()
    assert [node.iterate(at, approvals) for at in range(2)] == first


@pytest.mark.parametrize("rounds", [0, 1, ROUNDS])
def test_nothing_is_sent_for_the_first_time_after_the_window(node: FitNode, rounds: int) -> None:
    approvals = node.approvals()
    node.through(rounds, approvals)
    node.now = NOW + 60 + CLOCK_TOLERANCE + 1
    refused(node.iterate(rounds, approvals), "outside_window")
    node.restart()
    refused(node.iterate(rounds, approvals), "outside_window")


def test_a_forgotten_round_is_not_made_again(node: FitNode) -> None:
    approvals = node.approvals()
    (first,) = node.through(1, approvals)
    node.answering.forget(node.id)
    for _ in range(2):
        again = node.iterate(0, approvals)
        assert again.signed == first.signed and again.payload == b""
        refused(node.iterate(1, approvals), "job_expired")
        node.restart()


@pytest.mark.parametrize("restarted", [False, True])
def test_another_context_for_the_same_round_is_a_second_payload(node: FitNode, restarted: bool) -> None:
    """Another holder sends other words, validly signed, to the round before: another state of the same round."""
    approvals = node.approvals()
    first = node.through(2, approvals)
    honest = node.gate.of_rounds[node.id, 0]
    own, second, third = honest
    node.gate.of_rounds[node.id, 0] = [own, other_words(second, 1 << 40), third]
    if restarted:
        node.restart()
        refused(node.iterate(1, approvals), "second_payload")
        refused(node.iterate(2, approvals), "total_rejected")  # the round after it was summed elsewhere
        node.restart()
    node.gate.of_rounds[node.id, 0] = honest
    assert node.iterate(1, approvals) == first[1]
    assert node.iterate(2, approvals).payload
    assert payloads(node).count((FIT, 1)) == 1


def test_another_set_is_refused(node: FitNode) -> None:
    approvals = node.approvals()
    node.through(1, approvals)
    other = node.approvals(hungary=node.world.approval(SECOND, mask_key="cd" * 32))
    refused(node.iterate(0, other), "total_rejected")  # the gate's shares are those of the first
    refused(node.iterate(1, other), "total_rejected")
    assert node.iterate(1, approvals).payload


def test_another_set_without_a_gate_is_a_second_payload(tmp_path: Path) -> None:
    node = FitNode(tmp_path, schema=SCHEMA)
    approvals = node.approvals()
    first = node.through(1, approvals)
    node.restart()
    other = node.approvals(hungary=node.world.approval(SECOND, mask_key="cd" * 32))
    refused(node.iterate(0, other), "second_payload")
    node.restart()
    assert node.iterate(0, approvals) == first[0]
    node.answering.close()


def test_a_round_of_a_gate_that_is_not_complete_is_refused(node: FitNode) -> None:
    approvals = node.approvals()
    refused(node.iterate(0, approvals), "set_mismatch")
    assert node.share(approvals).payload
    assert node.iterate(0, approvals).payload


def test_rounds_beyond_the_last_are_refused(node: FitNode) -> None:
    approvals = node.approvals()
    node.through(ROUNDS, approvals)
    last = node.iterate(ROUNDS, approvals)
    refused(node.iterate(ROUNDS + 1, approvals), "set_mismatch")
    assert node.iterate(ROUNDS, approvals) == last
    assert node.ledger.counts()["answered"] == 1


def test_a_fit_is_not_answered_past_its_rounds(node: FitNode) -> None:
    """A coordinator that asks for the release of the gate's sums, which no answer of a fit has."""
    approvals = node.approvals()
    node.through(1, approvals)
    reply = node.contribute(approvals)
    assert reply.payload == b""
    assert node.ledger.counts()["answered"] == 0


# --- whose shares the state follows from -------------------------------------------------------------------------


def other_words(share: tuple[Signed, bytes], add: int = 1) -> tuple[Signed, bytes]:
    """With other words, under the same holder's signature."""
    signed, blob = share
    words = np.frombuffer(blob, dtype="<u8").copy()
    words[0] += np.uint64(add)
    changed = words.tobytes()
    return resigned(signed, FitShare, words_digest=hashlib.sha256(changed).hexdigest()), changed


KINDS = {
    "one is missing": "set_mismatch",
    "its own is missing": "set_mismatch",
    "its own is another": "set_mismatch",
    "one twice": "set_mismatch",
    "other words": "malformed_message",
    "not signed": "bad_signature",
    "a stranger's": "unknown_member",
    "of another round": "malformed_message",
    "of another attempt": "malformed_message",
    "of another job": "malformed_message",
    "in another's name": "malformed_message",
    "of another state": "total_rejected",
    "fewer words": "total_rejected",
    "none": "set_mismatch",
}


@pytest.mark.parametrize("kind", KINDS)
def test_shares_that_are_not_everybodys_are_refused(node: FitNode, kind: str) -> None:
    """What a coordinator forged, dropped, or sent twice. It can then send the honest ones: nothing was signed since."""
    approvals = node.approvals()
    node.through(1, approvals)
    own, second, third = honest = node.gate.of_rounds[node.id, 0]
    signed, blob = second
    few, unsigned = blob[:-16], Signed(type=signed.type, body=signed.body, signer=SECOND, signature=bytes(64))
    digest = hashlib.sha256(few).hexdigest()
    wrong = {
        "one is missing": [own, second],
        "its own is missing": [second, third],
        "its own is another": [other_words(own), second, third],
        "one twice": [own, second, second],
        "other words": [own, (signed, bytes(len(blob))), third],
        "not signed": [own, (unsigned, blob), third],
        "a stranger's": [own, (signed_by("mallory", FitShare.parse(signed.body)), blob), third],
        "of another round": [own, (resigned(signed, FitShare, iteration=1), blob), third],
        "of another attempt": [own, (resigned(signed, FitShare, attempt=1), blob), third],
        "of another job": [own, (resigned(signed, FitShare, job_id="0c" * 16), blob), third],
        "in another's name": [own, (resigned(signed, FitShare, holder=THIRD), blob), third],
        "of another state": [own, (resigned(signed, FitShare, context_digest="ab" * 32), blob), third],
        "fewer words": [own, (resigned(signed, FitShare, words=len(few) // 8, words_digest=digest), few), third],
        "none": [],
    }
    node.gate.of_rounds[node.id, 0] = wrong[kind]
    reply = node.iterate(1, approvals)
    refused(reply, KINDS[kind])
    assert reply.token is None and payloads(node) == [("gate", 0), (FIT, 0)]
    node.gate.of_rounds[node.id, 0] = honest
    assert node.iterate(1, approvals).payload


def test_the_order_of_shares_does_not_matter(node: FitNode) -> None:
    approvals = node.approvals()
    node.through(1, approvals)
    node.gate.of_rounds[node.id, 0].reverse()
    first = node.iterate(1, approvals)
    assert first.payload
    node.restart()
    node.gate.of_rounds[node.id, 0].reverse()
    assert node.iterate(1, approvals) == first


def test_shares_that_cannot_be_fetched_are_no_reason_to_refuse(node: FitNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise NotReachable(target="the coordinator", problem="nothing answers there")

    approvals = node.approvals()
    node.through(1, approvals)
    with monkeypatch.context() as away:
        away.setattr(node.gate, "fit_shares", unreachable)
        with pytest.raises(NotReachable):
            node.iterate(1, approvals)
    assert node.iterate(1, approvals).payload


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("none", "malformed_message"),
        ("short", "malformed_message"),
        ("another's", None),
        ("wrong", None),
    ],
)
def test_a_leader_that_seals_no_key_or_a_wrong_one_is_found_out(node: FitNode, kind: str, code: str | None) -> None:
    """With a wrong key the sums are random numbers: a fit of them is refused, and whoever derives another state masks
    otherwise."""
    approvals = node.approvals()
    node.through(1, approvals)
    question = node.world.read()
    commitment = node.gate.fits[node.id].rounds[SECOND].commitment
    leader = leader_of(commitment)
    shares = {signed.signer: (signed, blob) for signed, blob in node.gate.of_rounds[node.id, 0]}
    signed, blob = shares[leader]
    share = FitShare.parse(signed.body)
    context, member = bytes.fromhex(share.context_digest), question.roster.member(ME, Role.HOLDER)
    seal = bytes.fromhex(member.sealing_key)
    keys = {
        "none": {name: key for name, key in share.sealed_keys.items() if name != ME},
        "short": share.sealed_keys | {ME: seal_to(seal, bytes(31), context).hex()},
        "another's": share.sealed_keys | {ME: share.sealed_keys[SECOND]},
        "wrong": share.sealed_keys | {ME: seal_to(seal, bytes(32), context).hex()},
    }[kind]
    if leader == ME:  # then the ledger has the honest one, which a copy of its folder would have to match
        shares[leader] = resigned(signed, FitShare, sealed_keys=keys), blob
        node.ledger._connection.execute(
            "UPDATE payloads SET submission = ? WHERE stage = 'fit'", (shares[leader][0].SerializeToString(),)
        )
    shares[leader] = resigned(signed, FitShare, sealed_keys=keys), blob
    node.gate.of_rounds[node.id, 0] = list(shares.values())
    reply = node.iterate(1, approvals, takes=False)
    if code is not None:
        refused(reply, code)
    else:
        assert reply.payload == b"" and reply.token is None
    assert payloads(node) == [("gate", 0), (FIT, 0)]


def test_what_is_refused_names_no_value(tmp_path: Path) -> None:
    """Of a column that few carry, at this holder and at the others: its name, and nothing that is in it."""
    rows = {name: [{**row, "chol": 300} for row in ROWS[name]] for name in HOLDERS}
    rows[ME][0]["chol"] = 577
    node = FitNode(tmp_path, rows=rows)
    approvals = node.approvals()
    node.through(1, approvals)
    reply = node.iterate(1, approvals)
    assert refused(reply, "column_concentrated")["column"] == "chol"
    assert b"577" not in reply.signed.body and b"57.7" not in reply.signed.body
    node.answering.close()


# --- what is not fitted ------------------------------------------------------------------------------------------


def test_a_fit_under_noise_is_refused(node: FitNode) -> None:
    manifest = node.world.manifest()
    signed = signed_by(manifest.merchant, manifest.model_copy(update={"noise": NoiseTerms(rho=1000)}))
    assert "fit" in refused(node.approve(signed), "noise_undefined")["problem"]


def test_a_fit_that_was_not_agreed_on_is_refused(tmp_path: Path) -> None:
    """The manifest is what its merchant signs, whatever the SDK would have said."""
    node = FitNode(tmp_path)
    manifest = node.world.manifest()
    operations = tuple(one for one in node.world.agreement.operations if one != "glm")
    node.world.agreement = node.world.make_agreement(operations=operations, agreement_id="0d" * 16)
    node.learn()
    digest = node.world.agreement.digest()
    signed = signed_by(manifest.merchant, manifest.model_copy(update={"agreement_digest": digest}))
    assert "glm" in refused(node.approve(signed), "not_agreed")["what"]
    node.answering.close()


def test_whoever_stops_in_the_middle_sends_nothing_more_and_does_not_leave(node: FitNode) -> None:
    approvals = node.approvals()
    first = node.through(1, approvals)
    node.ledger.stop(Stop(StopKind.ALL, "", "", NOW))
    reply = node.iterate(1, approvals)
    refused(reply, "stopped")
    assert reply.token is None
    node.ledger.resume(StopKind.ALL, "")
    assert node.iterate(0, approvals) == first[0]
    assert node.iterate(1, approvals).payload


def test_the_houses_stricter_quota_counts_fits(node: FitNode) -> None:
    node.policy = Policy(exact_jobs=0)
    refused(node.approve(), "exact_quota_used")


# --- compared with other answers ---------------------------------------------------------------------------------

SURVIVAL = Survival(time=AGE, event=Comparing(comparison=Comparison.GREATER, left=CHOL, right=Number(value="20")))
OF_MEN = (ByColumn(name="sex", column="sex"),)
ALL_BUT_ONE = Comparing(comparison=Comparison.LESS, left=AGE, right=Number(value="100"))


def with_old_man() -> dict[str, list[Row]]:
    """The only one of 103, at this holder."""
    return {**ROWS, ME: [{**ROWS[ME][0], "age": 103}, *ROWS[ME][1:]]}


def asked(statistic: Statistic, where: Expression | None = None, groups: tuple[GroupKey, ...] = ()) -> Plan:
    return fit_plan(statistic, INTERNAL, groups).model_copy(update={"filter": where})


SEX = GLM(
    family=Family.BINOMIAL,
    response=column("sex").model_copy(
        update={"factors": (column("chol").factors[0].model_copy(update={"value": SURVIVAL.event}),)}
    ),
    columns=(column("age"),),
)
STATISTICS = {"glm": MODEL, "survival": SURVIVAL, "conditions": SEX}


def nearest(node: FitNode, monkeypatch: pytest.MonkeyPatch, number: int, plan: Plan) -> int:
    """By how many subjects the plan's nearest part differs from what was asked before, capped at 2, at this holder: the
    others say nothing at this gate. Then the job ends, and the node starts anew."""
    node.asks(number, plan)
    found = own_words(node, monkeypatch)[NEAREST][:, list(node.world.read().tests.audited)]
    node.answering.forget(node.id)
    node.restart()
    return int(found.min())


@pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)
@pytest.mark.parametrize("order", [1, -1])
def test_the_same_fit_without_one_person_differs_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistic: Statistic, order: int
) -> None:
    """Two fits that differ by one row differ by what that row says. The gate withholds what differs by few."""
    node = FitNode(tmp_path, rows=with_old_man())
    first, second = [asked(statistic), asked(statistic, ALL_BUT_ONE)][::order]
    assert nearest(node, monkeypatch, 1, first) == 2
    assert nearest(node, monkeypatch, 2, first) == 2  # the very same again
    assert nearest(node, monkeypatch, 3, second) <= 1
    node.answering.close()


@pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_sum_and_a_fit_without_one_person_differ_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistic: Statistic, order: int
) -> None:
    node = FitNode(tmp_path, rows=with_old_man())
    count = plan_of("SELECT COUNT(*) AS n, SUM(age) AS years FROM health.heart", INTERNAL)
    first, second = [count, asked(statistic, ALL_BUT_ONE)][::order]
    assert nearest(node, monkeypatch, 1, first) == 2
    assert nearest(node, monkeypatch, 2, second) <= 1
    node.answering.close()


def test_a_fit_that_asks_for_a_value_which_one_person_lacks_differs_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plus 0 times a column: the same figures of everybody who has one."""
    node = FitNode(tmp_path, rows={**ROWS, ME: [{**ROWS[ME][0], "chol": None}, *ROWS[ME][1:]]})
    old = Comparing(comparison=Comparison.GREATER, left=AGE, right=Number(value="50"))
    nothing = Arithmetic(op="multiply", left=CHOL, right=Number(value="0"))
    assert nearest(node, monkeypatch, 1, asked(Survival(time=AGE, event=old))) == 2
    same = asked(Survival(time=Arithmetic(op="add", left=AGE, right=nothing), event=old))
    assert nearest(node, monkeypatch, 2, same) <= 1
    node.answering.close()


@pytest.mark.parametrize("changes", [{"grid": Number(value="7")}, {"grid": Number(value="0.5")}])
def test_the_same_people_at_other_times_are_too_near(
    node: FitNode, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Between the ends of two grids' steps one person may have left."""
    assert nearest(node, monkeypatch, 1, asked(SURVIVAL)) == 2
    assert nearest(node, monkeypatch, 2, asked(SURVIVAL.model_copy(update=changes))) == 0


def test_a_nullable_column_more_is_too_near_although_nobody_lacks_it(
    node: FitNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its words the second is about other rows, and which these are is compared by subjects: none is many."""
    men = Comparing(comparison=Comparison.EQUAL, left=ColumnValue(name="sex"), right=TextValue(value="male"))
    sex = column("sex").model_copy(update={"factors": (Factor(value=men),)})
    assert nearest(node, monkeypatch, 1, asked(MODEL.model_copy(update={"columns": (sex,)}))) == 2
    assert nearest(node, monkeypatch, 2, asked(MODEL.model_copy(update={"columns": (sex, column("chol"))}))) == 0


def test_another_model_of_the_same_people_is_answered(node: FitNode) -> None:
    node.asks(1, asked(MODEL))
    assert isinstance(node.fitted(), list)
    node.asks(2, asked(MODEL.model_copy(update={"family": Family.POISSON})))
    assert isinstance(node.fitted(), list)
