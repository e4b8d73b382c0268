"""Joint jobs: one question about subjects of whom several holders know different things (PROTOCOL §5).

The merchant signs a manifest; every holder approves; then the holders exchange messages, each sealed to its receiver,
in the order of `steps_of`. One holder, the base, says which of its subjects belong together; each other one, joined to
it, says what it knows of them; and nobody learns which subjects two holders have in common. `private_join` is what a
base and a joined holder compute; here is who sends what to whom, and when.

In the other two modes (§5.3) subjects are linked by tokens first, `token_steps`: to count those that all holders have,
which is all then, or to tell each holder which of its own these are, so that the joins are about them alone. What was
told so can serve later jobs, if the agreement allows it (ADR 0028).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ceiba_protocol.canonical import (
    Digest,
    Document,
    FieldName,
    Hex,
    HexDigest,
    JobId,
    MemberName,
    Seconds,
    Text,
    sha256,
)
from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.disclosure.noise import MINIMUM_VARIANCE, noise_shares, squared_sensitivity, tail
from ceiba_protocol.disclosure.support import ROWS, Test, tests_of
from ceiba_protocol.errors import (
    DatasetMissing,
    LinkageDiffers,
    ManifestMismatch,
    NoiseUndefined,
    NotAgreed,
    PlanTooLarge,
    SetMismatch,
)
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import NOISES, Cell, FieldShape
from ceiba_protocol.plan import MAX_SUMS, ROW_COUNT, Plan, Program, compile_plan
from ceiba_protocol.rounds import check_cites, check_noise, check_window
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.statistics.fits.base import Fit
from ceiba_protocol.sums.key_proof import key_context
from ceiba_protocol.sums.layout import width
from ceiba_protocol.trust.agreement import JOIN, Agreement, Mode, check_parties, check_side_covers
from ceiba_protocol.trust.documents import DatasetPin, Manifest, NoiseTerms, Offer
from ceiba_protocol.trust.hpke import seal_to
from ceiba_protocol.trust.log import open_operators
from ceiba_protocol.trust.roster import OPERATOR, SUITE, Descriptor, EncryptionKey, Role, Roster
from ceiba_protocol.trust.signing import type_of
from ceiba_protocol.v1.common_pb2 import Signed

MOST_PAYLOAD = 512 * 1024 * 1024
"""Bytes of one message: rows of half a million subjects."""
MOST_TABLES = 100
"""Plans of one holder in one job."""


class SidePlan(Document):
    """What a joint question asks of one holder."""

    holder: MemberName
    on: FieldName
    """The column by whose values subjects are the same."""
    plans: Annotated[tuple[Plan, ...], Field(min_length=1, max_length=MOST_TABLES)]
    """All of one table. Each plan of the base is a grouping of its subjects, and makes a table with each plan of each
    joined holder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({plan.table for plan in self.plans}) != 1:
            raise ValueError("a side has one table")
        if any(isinstance(output.statistic, Fit) for plan in self.plans for output in plan.outputs):
            raise ValueError("a fit is no sum over subjects")
        return self

    @property
    def table(self) -> str:
        return self.plans[0].table


class JointPlan(Document):
    """A question about subjects that the base and a joined holder both know, for each joined holder; in the modes that
    link by tokens, about those that all of its holders know."""

    mode: Mode
    base: SidePlan
    joined: Annotated[tuple[SidePlan, ...], Field(min_length=1)]
    """Sorted by holder."""
    linked: tuple[SidePlan, ...] = ()
    """Others, sorted by holder: figures are of subjects that these know as well, and that is all. Which ones, they do
    not learn. Only in the mode REVEALED."""
    linkage: JobId | None = None
    """The job in which its holders were told which of their subjects all know: these are meant again, and nobody is
    linked anew. Only in the mode REVEALED."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names, linked = [side.holder for side in self.joined], [side.holder for side in self.linked]
        if names != sorted(set(names)) or self.base.holder in names:
            raise ValueError("one base, and others, sorted and distinct")
        if linked != sorted(set(linked) - {self.base.holder, *names}) or (linked and self.mode is not Mode.REVEALED):
            raise ValueError("those that are only linked are others, sorted, where the intersection is revealed")
        if self.linkage is not None and self.mode is not Mode.REVEALED:
            raise ValueError("only a linkage that was revealed can be used again")
        if self.mode is Mode.CARDINALITY and any(len(side.plans) > 1 or not _only_counts(side) for side in self.sides):
            raise ValueError("only how many subjects there are is asked")
        outputs = [output for plan in self.base.plans for output in plan.outputs]
        if any(not isinstance(output.statistic, Count) for output in outputs):
            raise ValueError("the base's own figures are no part of a join")
        return self

    @property
    def sides(self) -> tuple[SidePlan, ...]:
        return (self.base, *self.joined, *self.linked)

    @property
    def holders(self) -> list[str]:
        """Sorted."""
        return sorted(side.holder for side in self.sides)

    @property
    def has_tokens(self) -> bool:
        """Whether subjects are linked by tokens in this job."""
        return self.mode is not Mode.HIDDEN and self.linkage is None

    def encrypts(self, holder: str) -> bool:
        """Whether it sends what it knows of its subjects, under a key of its own: a joined holder, unless all that is
        asked is how many they are."""
        return self.mode is not Mode.CARDINALITY and holder in [side.holder for side in self.joined]

    def side_of(self, holder: str) -> SidePlan:
        """Raises SetMismatch."""
        for side in self.sides:
            if side.holder == holder:
                return side
        raise SetMismatch(problem=f"{holder} is not in it")


def _only_counts(side: SidePlan) -> bool:
    """Neither groups nor figures."""
    return not any(plan.groups or {type(one.statistic) for one in plan.outputs} != {Count} for plan in side.plans)


class JointManifest(Document):
    """A joint question, described and signed by its merchant."""

    job_id: JobId
    suite: Literal["K1"] = "K1"
    merchant: MemberName
    purpose: Text
    agreement_digest: HexDigest
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    """Which of the agreement's jobs this is. Each holder answers each number once, so a replay is no new job."""
    plan: JointPlan
    datasets: tuple[DatasetPin, ...]
    """One for each holder of the question, sorted by holder."""
    noise: NoiseTerms | None = None
    """`rho` is of all tables together, split evenly over joined holders, and then over the sums of a cell in all of a
    holder's plans and whether enough are in common; `cells_per_subject` is of each plan. None for exact figures."""
    disclosure_digest: HexDigest
    not_before: Seconds
    not_after: Seconds

    def version_of(self, holder: str) -> str:
        """Of its pinned dataset; empty if it has none here."""
        return next((pin.version for pin in self.datasets if pin.holder == holder), "")


def read_any(signed: Signed) -> Manifest | JointManifest:
    """A manifest of either kind, whose signature was verified before. Raises MalformedDocument."""
    return (JointManifest if signed.type == type_of(JointManifest) else Manifest).parse(signed.body)


class CellShape(Document):
    """How many cells one plan of a side has, and how wide their sums are."""

    cells: Annotated[int, Field(ge=1, le=MAX_SUMS)]
    widths: tuple[Annotated[int, Field(ge=2, le=256)], ...]
    """Bits of each signed sum of a cell; with noise, without the number of rows, which is that of subjects then."""
    noise: tuple[Annotated[int, Field(ge=MINIMUM_VARIANCE)], ...] = ()
    """Variances, in squared units, of each holder's noise in the number of subjects and in each sum. None where figures
    are exact."""
    guards: tuple[bool, ...] = ()
    """For each condition behind the sums (`guards_of`) whether a cell in which nobody meets it is as good as one in
    which many do. None where cells are released as they are."""


class JointApproval(Document):
    """A holder takes part in a joint job. What it says of its cells and key, the others compute with."""

    job_id: JobId
    manifest_digest: HexDigest
    holder: MemberName
    dataset_version: HexDigest
    subjects: Annotated[int, Field(ge=1, le=2**40)]
    """At least as many as its dataset has, whatever the question chooses of them: `announced`."""
    shapes: tuple[CellShape, ...]
    """One for each of its plans; those of the base have no sums."""
    encryption_key: EncryptionKey | None
    """Of a holder that `encrypts` what it knows of its subjects; None from others."""
    token_key: Hex | None = None
    """A JobKey's announcement of so many subjects, where they are linked by tokens; 104 bytes."""
    nonce: JobId
    log_size: Annotated[int, Field(ge=0)]
    """Entries of the log that this holder has witnessed."""


class JointMessage(Document):
    """What one party sends another in one step, without the payload itself."""

    job_id: JobId
    manifest_digest: HexDigest
    context_digest: HexDigest
    """Of the approvals of all whom its step concerns: `JointSet.context`."""
    step: Annotated[int, Field(ge=0, le=100_000)]
    sender: MemberName
    receiver: MemberName
    size: Annotated[int, Field(ge=0, le=2**40)]
    """Bytes of the payload, which is sealed to the receiver."""
    payload_digest: HexDigest
    """SHA-256 of the sealed payload."""


# --- the order of messages -------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a message is: first of `token_steps`, then of `private_join`, each in its order."""

    OFFER = "offer"
    REPLY = "reply"
    BLINDED = "blinded"
    EVALUATED = "evaluated"
    TOKENS = "tokens"
    COMMON = "common"
    SIZE = "size"
    GROUPS = "groups"
    ROWS = "rows"
    MASKED = "masked"
    TESTS = "tests"
    TESTED = "tested"
    RELEASED = "released"
    JOINED_SHARE = "joined_share"
    BASE_SHARE = "base_share"


OF_PAIR = tuple(Kind)[list(Kind).index(Kind.GROUPS) :]
"""What a base and a joined holder send, in this order."""
BY_BASE = frozenset({Kind.GROUPS, Kind.MASKED, Kind.TESTED, Kind.BASE_SHARE})
TO_MERCHANT = frozenset({Kind.SIZE, Kind.JOINED_SHARE, Kind.BASE_SHARE})


@dataclass(frozen=True)
class Step:
    """One message of a joint job."""

    number: int
    kind: Kind
    sender: str
    """A holder, or OPERATOR."""
    receiver: str
    """A holder, OPERATOR, or the merchant."""
    needs: tuple[int, ...] = ()
    """Messages that have to be there before. The sender opens those of them that it received."""
    pair: str = ""
    """The joined holder, the other one being the base; empty where it concerns all holders."""


class _Steps(list[Step]):
    def add(self, kind: Kind, sender: str, receiver: str, needs: Iterable[int] = (), pair: str = "") -> int:
        self.append(Step(len(self), kind, sender, receiver, tuple(needs), pair))
        return len(self) - 1


def steps_of(plan: JointPlan, merchant: str) -> tuple[Step, ...]:
    """Every message of a joint job: those that link all holders by tokens, if any, and then pair after pair; the pairs
    do not wait for one another."""
    steps, base, common = _Steps(), plan.base.holder, dict[str, int]()
    if plan.mode is Mode.CARDINALITY and len(plan.sides) == 2:
        (joined,) = (side.holder for side in plan.joined)
        offer = steps.add(Kind.OFFER, base, joined)
        steps.add(Kind.SIZE, base, merchant, [steps.add(Kind.REPLY, joined, base, [offer])])
    elif plan.has_tokens:
        tokens = _add_tokens(steps, plan.holders)
        if plan.mode is Mode.CARDINALITY:
            steps.add(Kind.SIZE, OPERATOR, merchant, tokens)
        else:
            ends = sorted({base, *(side.holder for side in plan.joined)})  # who is only linked need not know
            common = {holder: steps.add(Kind.COMMON, OPERATOR, holder, tokens) for holder in ends}
    for side in plan.joined if plan.mode is not Mode.CARDINALITY else ():
        _add_pair(steps, base, side.holder, merchant, common)
    return tuple(steps)


def _add_tokens(steps: _Steps, holders: Sequence[str]) -> list[int]:
    """Everybody has its subjects evaluated by everybody else; the numbers of the messages with their tokens."""
    pairs = [(owner, other) for owner in holders for other in holders if other != owner]
    blinded = {pair: steps.add(Kind.BLINDED, *pair) for pair in pairs}
    evaluated = {
        (owner, other): steps.add(Kind.EVALUATED, other, owner, [blinded[owner, other]]) for owner, other in pairs
    }
    return [
        steps.add(Kind.TOKENS, owner, OPERATOR, [number for pair, number in evaluated.items() if pair[0] == owner])
        for owner in holders
    ]


def _add_pair(steps: _Steps, base: str, joined: str, merchant: str, common: Mapping[str, int]) -> None:
    """`common`: by holder, the message that says which of its subjects all know, if there is one."""
    sent = dict[Kind, int]()
    for kind in OF_PAIR:
        sender, other = (base, joined) if kind in BY_BASE else (joined, base)
        needs = list(sent.values())[-1:]
        if kind in (Kind.GROUPS, Kind.ROWS) and sender in common:
            needs.append(common[sender])
        if kind is Kind.BASE_SHARE:  # it is of what the joined holder decided, and comes after that one's share
            needs.append(sent[Kind.RELEASED])
        sent[kind] = steps.add(kind, sender, merchant if kind in TO_MERCHANT else other, needs, joined)


# --- 1. the merchant describes the job -------------------------------------------------------------------------


@dataclass(frozen=True)
class JointQuestion:
    """A verified joint manifest with what follows from it. Made by `read_joint_manifest` alone."""

    manifest: JointManifest
    digest: Digest
    roster: Roster
    agreement: Agreement

    @property
    def plan(self) -> JointPlan:
        return self.manifest.plan

    @property
    def holders(self) -> list[str]:
        return self.plan.holders

    @property
    def fewest_in_common(self) -> int:
        """As `Agreement.fewest_in_common`."""
        return self.agreement.fewest_in_common

    @property
    def least(self) -> int:
        """How many subjects a released cell has, unless it has none."""
        return self.rules.minimum_subjects if self.rules.has_gate else 1

    @property
    def merchant(self) -> Descriptor:
        return self.roster.member(self.manifest.merchant, Role.MERCHANT)

    @property
    def rules(self) -> Disclosure:
        return self.agreement.disclosure

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return steps_of(self.plan, self.manifest.merchant)

    def pin_of(self, holder: str) -> DatasetPin:
        """Raises SetMismatch if the job is not for that holder."""
        for pin in self.manifest.datasets:
            if pin.holder == holder:
                return pin
        raise SetMismatch(problem=f"{holder} is not in it")


def make_joint_manifest(
    *, job_id: str, number: int, agreement: Agreement, merchant: str, plan: JointPlan,
    offers: Mapping[str, Offer], now: int, seconds: int, noise: NoiseTerms | None = None,
) -> JointManifest:  # fmt: skip
    """Run by the merchant. `offers`: by holder, each verified. Raises NotAgreed, DatasetMissing, and what
    `check_joint_noise` does."""
    check_joint_covers(agreement, plan, noise)
    check_joint_noise(agreement, plan, noise)
    missing = [side for side in plan.sides if side.holder not in offers]
    if missing:
        raise DatasetMissing(holders=", ".join(side.holder for side in missing), table=missing[0].table)
    pins = [
        DatasetPin(holder=name, version=offers[name].version, row_capacity=offers[name].row_capacity)
        for name in plan.holders
    ]
    return JointManifest(
        job_id=job_id,
        merchant=merchant,
        purpose=agreement.purpose,
        agreement_digest=agreement.digest(),
        number=number,
        plan=plan,
        datasets=tuple(pins),
        noise=noise,
        disclosure_digest=agreement.disclosure.digest(),
        not_before=now,
        not_after=now + seconds,
    )


def read_joint_manifest(
    signed: Signed, agreement: Agreement, roster: Roster, schemas: Mapping[str, Schema], now: int
) -> JointQuestion:
    """Run by everybody who receives one, against its own roster, its own copy of the agreement and its own clock.

    `schemas`: of the tables that this party knows; the plans of others are their holders' to check.
    1. The merchant of the roster signed it. 2. Its window is open, no longer than 30 days, and within the agreement's.
    3. It cites this agreement, whose parties have the keys of this roster; purpose, rules and number are its own.
    4. It asks holders of the agreement for what is agreed, each with one pinned dataset. 5. The plans compile.
    Raises UnknownMember, BadSignature, MalformedDocument, OutsideWindow, ManifestMismatch, SetMismatch, NotAgreed,
    AgreementMismatch, and the errors of `check_joint_noise` and `compile_plan`.
    """
    manifest = roster.open(signed, JointManifest, Role.MERCHANT)
    if not manifest.merchant == signed.signer == agreement.merchant.name:
        raise ManifestMismatch(problem="its merchant is not its signer, or not the agreement's")
    check_window(manifest, now)
    check_cites(manifest, agreement)
    check_parties(agreement, roster)
    if [pin.holder for pin in manifest.datasets] != manifest.plan.holders:
        raise SetMismatch(problem="it does not pin one dataset of each of its holders")
    check_joint_covers(agreement, manifest.plan, manifest.noise)
    check_joint_noise(agreement, manifest.plan, manifest.noise)
    for side in manifest.plan.sides:
        if side.table in schemas:
            programs_of(side, schemas[side.table])
    return JointQuestion(manifest, manifest.digest(), roster, agreement)


def check_joint_covers(agreement: Agreement, plan: JointPlan, noise: NoiseTerms | None) -> None:
    """What a joint plan reads and does is agreed on. Raises NotAgreed, which names what is not."""
    wanted = {"the operation join": JOIN in agreement.operations, f"the mode {plan.mode}": False}
    if agreement.joint is not None:
        wanted[f"the mode {plan.mode}"] = plan.mode in agreement.joint.modes
        wanted["exact answers, because the base is not trusted"] = noise is not None or agreement.joint.base_is_trusted
        wanted["a linkage that serves several jobs"] = plan.linkage is None or agreement.joint.jobs_per_linkage > 1
    for side in plan.sides:
        is_party = side.holder in agreement.holder_names
        wanted[f"the table {side.table} of {side.holder}"] = is_party
        found_by = agreement.identifier_of(side.holder) if is_party else None
        wanted[f"finding subjects of {side.table} by {side.on}"] = found_by == side.on
    bases = agreement.joint.bases if agreement.joint else ()
    wanted[f"{plan.base.holder} as the base, which may be {', '.join(bases)}"] = plan.base.holder in bases
    for what, is_agreed in wanted.items():
        if not is_agreed:
            raise NotAgreed(agreement=agreement.agreement_id, what=what)
    for side in plan.sides:
        for one in side.plans:
            check_side_covers(agreement, agreement.side_of(side.holder), one)


def check_joint_noise(agreement: Agreement, plan: JointPlan, noise: NoiseTerms | None) -> None:
    """Raises NoiseUndefined, and what `check_noise` does."""
    check_noise(noise, agreement)
    if noise is not None and plan.mode is Mode.CARDINALITY:
        raise NoiseUndefined(problem="the size of an intersection is rounded, and has no noise")
    if noise is not None and noise.rho < len(plan.joined):
        raise NoiseUndefined(problem=f"{len(plan.joined)} joined holders cannot share less than a millionth of ρ each")


def check_same_linkage(first: JointManifest, later: JointManifest, me: str) -> None:
    """Run by a holder that has linked subjects in the first job: the later one is about the very same. Same agreement
    and so same merchant, same holders, tables and identifiers, same versions of all data. Raises LinkageDiffers."""
    sides = [sorted((side.holder, side.table, side.on) for side in one.plan.sides) for one in (first, later)]
    others = [pin.holder for pin in later.datasets if pin not in first.datasets]
    problems = {
        "it is of another agreement": later.agreement_digest != first.agreement_digest,
        "it is of other holders, tables or identifiers": sides[0] != sides[1],
        f"it is of another version of the data of {', '.join(others)}": bool(others),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise LinkageDiffers(job=first.job_id, holder=me, problem=problem)


def programs_of(side: SidePlan, schema: Schema) -> tuple[Program, ...]:
    """A side's plans compiled; together they have no more sums than one plan may. Raises what `compile_plan` does,
    ManifestMismatch for a column that is no identifier of the schema, PlanTooLarge."""
    if side.on not in schema.identifier_columns:
        raise ManifestMismatch(problem=f"{side.on} is no identifier of {side.table}")
    programs = tuple(compile_plan(plan, schema) for plan in side.plans)
    check_tables([1], [(one.cells, len(one.sums)) for one in programs])
    return programs


def check_tables(groups: Iterable[int], cells: Iterable[tuple[int, int]]) -> None:
    """All tables of a base and one joined holder have no more sums than one plan may. `groups`: of each of the base's
    plans; `cells`: of each of the other's, with how many sums a cell has beside its count. Raises PlanTooLarge."""
    if sum(groups) * sum(number * (1 + sums) for number, sums in cells) > MAX_SUMS:
        raise PlanTooLarge(what="number of sums in all tables", limit=MAX_SUMS)


def _cells_per_subject(plan: JointPlan, noise: NoiseTerms) -> int:
    """In all tables that one of a joined holder's plans makes: a subject is in one group of each of the base's."""
    return len(plan.base.plans) * noise.cells_per_subject


# --- 2. each holder approves -----------------------------------------------------------------------------------


def announced(subjects: int) -> int:
    """What others learn of the number of a dataset's subjects: rounded up, by at most an eighth."""
    step = 1 << max(0, subjects.bit_length() - 4)
    return max(1, -(-subjects // step) * step)


def guards_of(program: Program, question: JointQuestion) -> tuple[Test, ...]:
    """What must be many in a cell, beside its subjects, before one of its sums is released: as in any exact job, or a
    sum over few could be asked for in a cell of many (PROTOCOL §3.2)."""
    has_guards = question.rules.has_gate and question.manifest.noise is None
    return tests_of(program).tests[ROWS + 1 :] if has_guards else ()


def shapes_of(question: JointQuestion, holder: str, programs: Sequence[Program]) -> tuple[CellShape, ...]:
    """What a holder announces of the cells of its plans, from public facts. `programs`: these plans, compiled. Raises
    NoiseUndefined."""
    if not question.plan.encrypts(holder):
        return tuple(CellShape(cells=one.cells, widths=()) for one in programs)
    capacity = question.pin_of(holder).row_capacity
    return tuple(
        CellShape(
            cells=one.cells,
            widths=tuple(_widths(one, capacity, noise)),
            noise=noise,
            guards=tuple(test.is_difference for test in guards_of(one, question)),
        )
        for one, noise in zip(programs, _variances(question, programs), strict=True)
    )


def _widths(program: Program, capacity: int, noise: Sequence[int]) -> list[int]:
    if not noise:
        return [width(capacity * one.row_bound) for one in program.sums]
    summed = zip(program.sums, noise, strict=True)
    return [width(capacity * one.row_bound + NOISES * tail(variance)) for one, variance in summed][ROW_COUNT + 1 :]


def _variances(question: JointQuestion, programs: Sequence[Program]) -> list[tuple[int, ...]]:
    """For each of a joined holder's plans, of one holder's noise in each sum of a cell; nothing where it is exact."""
    noise, plan = question.manifest.noise, question.plan
    if noise is None:
        return [()] * len(programs)
    cells = _cells_per_subject(plan, noise)
    sensitivities = [squared_sensitivity(one.row_bound, cells, 1) for program in programs for one in program.sums]
    if 0 in sensitivities:
        raise NoiseUndefined(problem="one of its sums is always 0")
    shares = iter(_shares(plan, noise, sensitivities))
    return [tuple(islice(shares, len(program.sums))) for program in programs]


def _shares(plan: JointPlan, noise: NoiseTerms, sensitivities: Sequence[int]) -> tuple[int, ...]:
    """Of measures of these squared sensitivities, the variance of one holder's noise. One more is paid for: whether
    enough are in common, which the base says (`private_join.noise_in_common`)."""
    *shares, _ = noise_shares(noise.rho // len(plan.joined), [*sensitivities, 1], NOISES, NOISES - 1)
    return tuple(shares)


def join_key_context(holder: Descriptor) -> bytes:
    """What the proof of a joined holder's key is bound to."""
    return key_context(holder.name, bytes.fromhex(holder.signing_key), SUITE, "joined")


@dataclass(frozen=True)
class JointSet:
    """The holders' approvals of a joint job, all verified. Made by `commit_jointly` alone."""

    question: JointQuestion
    approvals: Mapping[str, JointApproval]

    def context(self, pair: str = "") -> bytes:
        """32 bytes to which everything between the base and this joined holder is bound, or between all holders."""
        ends = (self.question.plan.base.holder, pair) if pair else self.question.holders
        digests = [bytes.fromhex(self.approvals[name].digest()) for name in ends]
        return sha256("ceiba/v1/join", bytes.fromhex(self.question.digest), *digests)

    def cells(self, holder: str) -> int:
        """How many the merchant gets of this holder's part, if all are released: groups of the base times cells of the
        joined holders that it has to do with; 1 where all that is said is how many subjects there are."""
        plan, linked = self.question.plan, {side.holder for side in self.question.plan.linked}
        if plan.mode is Mode.CARDINALITY or holder in linked:
            return 1
        joined = {holder} if holder != plan.base.holder else self.approvals.keys() - linked - {holder}
        groups = sum(shape.cells for shape in self.approvals[plan.base.holder].shapes)
        return groups * sum(shape.cells for name in joined for shape in self.approvals[name].shapes)

    def terms(self, pair: str) -> JoinTerms:
        """What the base and this joined holder compute with. Raises PlanTooLarge, and what `JoinTerms` does.

        Where it is revealed to the base whom all holders know, one row of the joined holder serves all of its plans.
        """
        question = self.question
        base, joined = self.approvals[question.plan.base.holder], self.approvals[pair]
        rules = question.rules
        groupings = tuple(shape.cells for shape in base.shapes)
        check_tables(groupings, [(shape.cells, len(shape.widths) + len(shape.guards)) for shape in joined.shapes])
        cells = [one for one in joined.shapes for _ in range(one.cells)]
        counted = joined.subjects + NOISES * max(tail(one.noise[0]) if one.noise else 0 for one in joined.shapes)
        count_bits = counted.bit_length()
        guards = [(place, none) for place, shape in enumerate(cells) for none in shape.guards]
        return JoinTerms(
            context=self.context(pair),
            base=base.holder,
            joined=pair,
            groupings=groupings,
            one_row_for_all=question.plan.mode is Mode.REVEALED,
            cells=(
                *(FieldShape(count_bits, shape.widths, shape.noise) for shape in cells),
                *(FieldShape(count_bits, none_is_many=none_is_many) for _, none_is_many in guards),
            ),
            guards=tuple(place for place, _ in guards),
            plans=tuple(shape.cells for shape in joined.shapes),
            minimum_subjects=question.least,
            hides_zeros=rules.hides_zeros,
            smallest_intersection=question.fewest_in_common,
            base_subjects=base.subjects,
            joined_subjects=joined.subjects,
        )

    @property
    def log_size(self) -> int:
        """The longest log that one of the holders has witnessed."""
        return max(one.log_size for one in self.approvals.values())


def check_joint_approval(question: JointQuestion, signer: str, approval: JointApproval) -> None:
    """Raises SetMismatch unless the approval is this holder's, for this manifest and its pinned dataset."""
    pin = question.pin_of(signer)
    stated = (approval.holder, approval.job_id, approval.manifest_digest, approval.dataset_version)
    if stated != (signer, question.manifest.job_id, question.digest, pin.version):
        raise SetMismatch(problem=f"the approval of {signer} is for another job, manifest or dataset")
    plan, side = question.plan, question.plan.side_of(signer)
    keys = (approval.encryption_key is not None, approval.token_key is not None)
    if keys != (plan.encrypts(signer), plan.has_tokens) or len(approval.shapes) != len(side.plans):
        raise SetMismatch(problem=f"the approval of {signer} has not the keys or the shapes of its side")
    if approval.subjects > announced(pin.row_capacity):
        raise SetMismatch(problem=f"{signer} announced more subjects than its dataset can have")
    if sum(shape.cells * (1 + len(shape.widths) + len(shape.guards)) for shape in approval.shapes) > MAX_SUMS:
        raise SetMismatch(problem=f"the approval of {signer} announces more cells than a job may have")
    if not _has_agreed_noise(question, signer, approval.shapes):
        raise SetMismatch(problem=f"{signer} announced noise that is not that of the question's counts and sums")


def _has_agreed_noise(question: JointQuestion, signer: str, shapes: Sequence[CellShape]) -> bool:
    """Whether there is noise in every count and sum, and as much in counts as the question says. How much there has to
    be in sums, who does not know the table's schema cannot tell."""
    noise, measures = question.manifest.noise, sum(len(shape.noise) for shape in shapes)
    if noise is None or not question.plan.encrypts(signer):
        return measures == 0
    if measures == 0:
        return False
    squared = squared_sensitivity(1, _cells_per_subject(question.plan, noise), 1)
    count, *_ = _shares(question.plan, noise, [squared] * measures)
    return all(shape.noise[:1] == (count,) and len(shape.noise) == 1 + len(shape.widths) for shape in shapes)


def commit_jointly(question: JointQuestion, approvals: Iterable[Signed]) -> JointSet:
    """Run by every holder and by the merchant: each holder of the question has approved it, once.

    Raises UnknownMember, BadSignature, MalformedDocument, SetMismatch.
    """
    signed = list(approvals)
    opened = {one.signer: question.roster.open(one, JointApproval, Role.HOLDER) for one in signed}
    for signer, approval in opened.items():
        check_joint_approval(question, signer, approval)
    if len(opened) != len(signed) or sorted(opened) != question.holders:
        raise SetMismatch(problem="the approvals are not one of each holder")
    return JointSet(question, opened)


# --- 3. messages -----------------------------------------------------------------------------------------------


def message_of(agreed: JointSet, step: Step, sealed: bytes) -> JointMessage:
    """Run by the sender of a step."""
    return JointMessage(
        job_id=agreed.question.manifest.job_id,
        manifest_digest=agreed.question.digest,
        context_digest=Digest(agreed.context(step.pair).hex()),
        step=step.number,
        sender=step.sender,
        receiver=step.receiver,
        size=len(sealed),
        payload_digest=Digest(hashlib.sha256(sealed).hexdigest()),
    )


def sealed_for(agreed: JointSet, step: Step, payload: bytes) -> bytes:
    """Run by the sender of a step. What is for the operator, which has no sealing key, is protected by TLS alone."""
    if step.receiver == OPERATOR:
        return payload
    receiver = agreed.question.roster.by_name[step.receiver]
    return seal_to(bytes.fromhex(receiver.sealing_key), payload, sealing_info(agreed, step))


def sealing_info(agreed: JointSet, step: Step) -> bytes:
    """What a step's payload is sealed for: it opens as nothing else."""
    return sha256("ceiba/v1/joint-payload", agreed.context(step.pair), step.number.to_bytes(4, "big"))


def check_message(agreed: JointSet, step: Step, signed: Signed, sealed: bytes) -> None:
    """Run by the coordinator and by the receiver. Raises UnknownMember, BadSignature, MalformedMessage, SetMismatch."""
    if check_document(agreed, step, signed) != message_of(agreed, step, sealed):
        raise SetMismatch(problem=f"the message of step {step.number} is not about the payload that came with it")


def check_document(agreed: JointSet, step: Step, signed: Signed) -> JointMessage:
    """Of a message without its payload: it is this step's, signed by who sends it. Raises as `check_message`."""
    roster = agreed.question.roster
    if step.sender == OPERATOR:
        message = open_operators(signed, JointMessage, roster)
    else:
        message = roster.open(signed, JointMessage, Role.HOLDER)
    wanted = message_of(agreed, step, b"")
    without = message.model_copy(update={"size": wanted.size, "payload_digest": wanted.payload_digest})
    if signed.signer != step.sender or without != wanted:
        raise SetMismatch(problem=f"the message of step {step.number} is another job's, step's or holder's")
    return message


def check_documents(agreed: JointSet, messages: Iterable[Signed]) -> list[JointMessage]:
    """Run by who verifies a receipt: one message of every step, in their order. Raises as `check_message`."""
    signed, steps = list(messages), agreed.question.steps
    if len(signed) != len(steps):
        raise SetMismatch(problem="the messages are not one of each step")
    return [check_document(agreed, step, one) for step, one in zip(steps, signed, strict=True)]


def total_digest(question: JointQuestion, messages: Iterable[JointMessage]) -> Digest:
    """What stands for the answer in the log: of the payloads that the merchant gets, in the order of their steps."""
    to_merchant = [one for one in messages if one.receiver == question.manifest.merchant]
    ordered = sorted(to_merchant, key=lambda one: one.step)
    return Digest(sha256("ceiba/v1/joint-total", *(bytes.fromhex(one.payload_digest) for one in ordered)).hex())


# --- 4. the merchant opens -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JoinedTable:
    """One table of a joint answer: a program whose keys are the base's and then the joined holder's, and its totals."""

    holder: str
    program: Program
    totals: list[int]
    sent: npt.NDArray[np.bool_]
    """[cells, sums]: which were released."""
    subjects: list[int | None]
    """By cell: how many subjects are in it, None where it was withheld."""
    noise: NoiseTerms | None = None
    """None for exact figures."""
    variances: tuple[int, ...] = ()
    """Of the noise in each sum of a cell; empty if there is none."""


def tables_of(
    base: Sequence[Program], approval: JointApproval, programs: Sequence[Program], cells: Sequence[Sequence[Cell]],
    noise: NoiseTerms | None,
) -> list[JoinedTable]:  # fmt: skip
    """What the merchant makes of a joined holder's released cells: `cells` [groups of all plans of the base][cells of
    all plans]. For each plan of the base, a table with each of the joined holder's.

    The keys of the base and of the joined holder differ in name; `joined_program` says so.
    """
    tables, groups = [], iter(cells)
    for grouping in base:
        own, first = list(islice(groups, grouping.cells)), 0
        for program, shape in zip(programs, approval.shapes, strict=True):
            found = [cell for group in own for cell in group[first : first + program.cells]]
            whole = joined_program(grouping, program)
            tables.append(_table_of(approval.holder, whole, found, noise, shape.noise))
            first += program.cells
    return tables


def _table_of(
    holder: str, program: Program, cells: Sequence[Cell], noise: NoiseTerms | None, shares: Sequence[int]
) -> JoinedTable:
    """`shares`: variances of one holder's noise. With it each subject has one row, so their number is that of rows."""
    totals, width = list[int](), len(program.sums)
    for cell in cells:
        count, sums = cell or (0, (0,) * (width - bool(noise)))
        totals += (count, *sums) if noise else sums
    sent = np.array([[cell is not None] * width for cell in cells], dtype=bool)
    subjects = [None if cell is None else cell[0] for cell in cells]
    return JoinedTable(holder, program, totals, sent, subjects, noise, tuple(NOISES * one for one in shares))


def joined_program(base: Program, joined: Program) -> Program:
    """The joined holder's sums in cells that the base's keys and its own make."""
    return replace(joined, keys=(*base.keys, *joined.keys))
