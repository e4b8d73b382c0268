"""The holder's policy engine: may this question be answered? Pure: no file, no clock, no network (PROTOCOL §6.2).

`rounds.read_manifest` comes before: signatures, suite, window, and that the question is within its agreement. Then
RULES, one after the other; each raises or lets pass. The coordinator is never asked and never believed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ceiba_node.house_rules import Policy
from ceiba_protocol.disclosure.grade import ORDER, Disclosure, NoiseRule, disclosure_for, grade_of
from ceiba_protocol.errors import (
    AgreementNotActive,
    ForbiddenByPolicy,
    HistoryFull,
    NearbySet,
    NumberUsed,
    QuotaExceeded,
    RefusedByPerson,
    Stopped,
)
from ceiba_protocol.linkage.joint import JointQuestion
from ceiba_protocol.linkage.score_model import ProductWeights, ScoreModel, columns_read
from ceiba_protocol.plan import Plan, compile_plan
from ceiba_protocol.rounds import Question
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.trust.agreement import (
    DAY,
    NEARBY_SECONDS,
    Agreement,
    Contract,
    Overlap,
    State,
    check_parties,
    check_terms,
    differ_by_few,
    overlaps,
)
from ceiba_protocol.trust.roster import Roster


class StopKind(StrEnum):
    ALL = "all"
    DATASET = "dataset"
    MERCHANT = "merchant"
    AGREEMENT = "agreement"


@dataclass(frozen=True)
class Stop:
    """What this house answers no more, until it resumes."""

    kind: StopKind
    name: str
    """A table, a merchant, or an agreement's digest; empty for ALL."""
    reason: str
    """For this house alone."""
    since: int

    @property
    def what(self) -> str:
        """What has stopped, in words for whoever asked."""
        return {
            StopKind.ALL: "all questions",
            StopKind.DATASET: f"questions about {self.name}",
            StopKind.MERCHANT: f"{self.name}'s questions",
            StopKind.AGREEMENT: "questions under this agreement",
        }[self.kind]


@dataclass(frozen=True)
class Decision:
    """What a person decided on a job."""

    approved: bool
    reason: str
    """For the merchant."""


@dataclass(frozen=True)
class AnsweredSet:
    """A set of holders that this one has answered in, of one job."""

    job_id: bytes
    table: str
    organisation: str
    """The merchant's, whatever it calls itself."""
    holders: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Record:
    """What the ledger knows that matters for one question."""

    stops: tuple[Stop, ...] = ()
    jobs_today: int = 0
    """Of this merchant, since midnight UTC, without this job."""
    cells_today: int = 0
    number_used: bool = False
    """By another job under the same agreement."""
    answered: tuple[AnsweredSet, ...] = ()
    """Of the last 30 days."""
    kept_sets: int = 0
    """Of subjects behind earlier answers about the table."""
    asked_before: bool = False
    """A person has approved a job with the very same plan."""
    decision: Decision | None = None


@dataclass(frozen=True)
class Request:
    """One question, and all that the decision depends on."""

    question: Question | JointQuestion
    contract: Contract
    schema: Schema
    """Of this house's table."""
    policy: Policy
    record: Record
    me: str
    now: int
    """Seconds since 1970 UTC."""

    @property
    def agreement(self) -> Agreement:
        return self.contract.agreement

    @property
    def plans(self) -> tuple[Plan, ...]:
        """What is asked of this house; several only in a joint question."""
        if isinstance(self.question, JointQuestion):
            return self.question.plan.side_of(self.me).plans
        return (self.question.manifest.plan,)

    @property
    def table(self) -> str:
        return self.plans[0].table

    @property
    def columns(self) -> frozenset[str]:
        """Those that are read here."""
        return frozenset().union(*(plan.columns for plan in self.plans))

    @property
    def is_exact(self) -> bool:
        return self.question.manifest.noise is None

    @property
    def grade(self) -> Grade:
        """The highest of the columns that are read here."""
        return grade_of(self.columns, self.schema)

    @property
    def rules(self) -> Disclosure:
        """What was agreed on what may leave, or this house's stricter rule."""
        return self.policy.tightened(self.agreement.disclosure)

    @property
    def cells(self) -> int:
        """Those of the result; of a joint one at least, before it is known how many groups the base has."""
        if isinstance(self.question, JointQuestion):
            return sum(compile_plan(plan, self.schema).cells for plan in self.plans)
        return self.question.program.cells


MAX_KEPT_SETS = 10_000
"""Sets of subjects that are kept for each table; from then on only answers with noise are given."""


class DecisionPending(Exception):
    """A person has to decide first. Never leaves the node: the coordinator is only told that the job waits."""


Rule = Callable[[Request], None]


# --- the rules, in their order ---------------------------------------------------------------------------------


def not_stopped(request: Request) -> None:
    """Raises Stopped."""
    manifest = request.question.manifest
    names = (request.table, manifest.merchant, manifest.agreement_digest)
    _demand_no_stop(names, request.record.stops, request.me)


def agreement_is_in_force(request: Request) -> None:
    """Raises AgreementNotActive."""
    _demand_active(request.contract, request.now)


def merchant_and_purpose_are_allowed(request: Request) -> None:
    """Raises ForbiddenByPolicy."""
    _allow_merchant_and_purpose(request.agreement, request.policy, request.me)


def columns_are_allowed(request: Request) -> None:
    """Raises ForbiddenByPolicy."""
    _allow_columns(request.table, request.columns, request.policy, request.me)
    if isinstance(request.question, JointQuestion):
        _allow_identifier(request.table, request.question.plan.side_of(request.me).on, request.policy, request.me)


def grade_is_allowed(request: Request) -> None:
    """Raises GradeForbids for core data, ForbiddenByPolicy above the local highest grade."""
    _allow_grade(request.columns, request.schema, request.policy, request.me)


def minimums_are_met(request: Request) -> None:
    """Raises ForbiddenByPolicy, which names the first of k, h, m and t that is too low."""
    _demand_minimums(request.agreement, request.policy, request.me)


def history_has_room(request: Request) -> None:
    """Raises HistoryFull: what cannot be compared with everything that was answered is not answered exactly."""
    question = request.question
    if isinstance(question, JointQuestion) or question.manifest.noise is not None or not question.rules.has_gate:
        return  # joint answers are compared by their words, and by the cells of earlier plans, which are not stored
    if request.record.kept_sets + request.cells * len(question.tests.audited) > MAX_KEPT_SETS:
        raise HistoryFull(holder=request.me, table=request.agreement.table, limit=MAX_KEPT_SETS)


def number_is_new(request: Request) -> None:
    """Raises NumberUsed."""
    if request.record.number_used:
        number = request.question.manifest.number
        raise NumberUsed(number=number, agreement=request.agreement.agreement_id)


def quotas_are_kept(request: Request) -> None:
    """Raises QuotaExceeded."""
    merchant, used, limit = request.question.manifest.merchant, request.record.jobs_today, request.policy.jobs_per_day
    if used + 1 > limit:
        raise QuotaExceeded(quota=f"jobs of {merchant} in one day", holder=request.me, used=used, limit=limit)
    _demand_cells_today(request, request.cells)


def layout_is_within_bounds(request: Request) -> None:
    """Raises ForbiddenByPolicy."""
    _demand_cells(request, request.cells)


def person_has_approved(request: Request) -> None:
    """Raises DecisionPending while a person is to be asked, RefusedByPerson once the answer was no."""
    decision = request.record.decision
    if decision is not None and not decision.approved:
        raise RefusedByPerson(holder=request.me, reason=decision.reason)
    if decision is None and _needs_a_person(request):
        raise DecisionPending


RULES: tuple[Rule, ...] = (
    not_stopped,
    agreement_is_in_force,
    merchant_and_purpose_are_allowed,
    columns_are_allowed,
    grade_is_allowed,
    minimums_are_met,
    number_is_new,
    quotas_are_kept,
    layout_is_within_bounds,
    history_has_room,
    person_has_approved,
)
STILL: tuple[Rule, ...] = (not_stopped, agreement_is_in_force)
"""What must hold still when an approved job is contributed to."""


def decide(request: Request) -> None:
    """Run by the holder before it approves. Raises the first rule's error that does not hold, or DecisionPending."""
    for rule in RULES:
        rule(request)


def check_still(request: Request) -> None:
    """Run by the holder before it sends anything more to a job that it has approved. Raises as the rules of STILL."""
    for rule in STILL:
        rule(request)


def check_cells(request: Request, cells: int) -> None:
    """Run by the holder of a joint job once all have approved: how many cells the merchant gets of it follows from the
    others' announcements as well. Raises ForbiddenByPolicy, QuotaExceeded."""
    _demand_cells(request, cells)
    _demand_cells_today(request, cells)


def check_set(request: Request, holders: Sequence[str]) -> None:
    """Run by the holder before it submits to a round of these holders. Raises Stopped, AgreementNotActive, NearbySet.

    Two totals of sets that differ by fewer holders than the minimum would show the sum of these few.
    """
    check_still(request)
    for earlier, few in _nearby(request, holders):
        if earlier.organisation == request.question.merchant.legal_person or request.policy.strict_sets:
            raise NearbySet(table=earlier.table, holders=", ".join(few))


def may_leave(request: Request) -> bool:
    """Whether an abort token lets the others go on, and shows them nothing about this holder.

    It would, if this holder had answered the same merchant for this table with the set that it now leaves.
    """
    agreement = request.agreement
    if agreement.smallest_set >= len(agreement.holders):
        return False
    others = [holder for holder in agreement.holder_names if holder != request.me]
    organisation = request.question.merchant.legal_person
    return not any(earlier.organisation == organisation for earlier, _ in _nearby(request, others))


def check_signing(
    agreement: Agreement, contracts: Iterable[Contract], schema: Schema, roster: Roster, policy: Policy, me: str,
    now: int,
) -> list[Overlap]:  # fmt: skip
    """Run before the officer signs: the overlaps that are no ground to refuse, to be shown as the risk that they are.

    1. Parties, sets and keys are the roster's. 2. The rules fit the columns' grades. 3. The local policy would let such
    questions pass. 4. No other agreement has nearly the same set: of the same merchant never, of another one not under
    `strict_sets`. Raises AgreementMismatch, UnknownMember, TooFewHolders, GradeForbids, UnknownColumn,
    ForbiddenByPolicy, NearbySet, and AgreementNotActive if its time is over.
    """
    check_parties(agreement, roster)
    if now > agreement.not_after:
        raise AgreementNotActive(agreement=agreement.agreement_id, state=State.EXPIRED)
    _allow_merchant_and_purpose(agreement, policy, me)
    side = agreement.side_of(me)
    _allow_columns(side.table, side.columns, policy, me)
    if (identifier := agreement.identifier_of(me)) is not None:
        _allow_identifier(side.table, identifier, policy, me)
    check_terms(agreement, schema)
    _allow_grade(side.columns, schema, policy, me)
    _demand_minimums(agreement, policy, me)
    others = [one.agreement for one in contracts if one.digest != agreement.digest() and may_be_answered(one, me, now)]
    found = overlaps(agreement, others, roster, now)
    for overlap in found:
        if overlap.same_merchant or policy.strict_sets:
            raise NearbySet(table=agreement.table, holders=", ".join(overlap.holders))
    return found


def may_be_answered(contract: Contract, me: str, now: int) -> bool:
    """Whether questions under it can be or could have been answered: it came into force, or this holder signed it and
    the others still may. A mere proposal counts only then, or two proposals would forbid each other for good."""
    return not contract.missing or (contract.state(now) is State.PROPOSED and me in contract.signatures)


def day_begins(now: int) -> int:
    """Midnight UTC before `now`, seconds since 1970."""
    return now - now % DAY


# --- scoring models --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRequest:
    """A scoring model, and all that the decision on it depends on, or on a score with it."""

    model: ScoreModel
    contract: Contract
    schema: Schema
    """Of this house's table."""
    policy: Policy
    stops: tuple[Stop, ...]
    decision: Decision | None
    me: str
    now: int
    """Seconds since 1970 UTC."""

    @property
    def rules(self) -> Disclosure:
        """What was agreed on what may leave, or this house's stricter rule."""
        return self.policy.tightened(self.contract.agreement.disclosure)

    @property
    def least(self) -> int:
        """How many subjects a bin must have that has any."""
        return max(self.rules.minimum_subjects, self.policy.minimum_subjects)


def check_model_still(request: ModelRequest) -> None:
    """Run by the holder before each score: a model lives for weeks, and the local policy may have changed since. Raises
    Stopped, AgreementNotActive, ForbiddenByPolicy, GradeForbids."""
    agreement, policy, me = request.contract.agreement, request.policy, request.me
    model, table, columns = request.model, request.schema.table, columns_read(request.model, me)
    _demand_no_stop((table, model.merchant, model.agreement_digest), request.stops, me)
    if policy.products_only and not isinstance(model.weights, ProductWeights):
        raise _forbidden(me, "products_only is set, and the model's points are encrypted")
    _demand_active(request.contract, request.now)
    _allow_merchant_and_purpose(agreement, policy, me)
    _allow_columns(table, columns, policy, me)
    _allow_identifier(table, model.side_of(me).on, policy, me)
    _allow_grade(columns, request.schema, policy, me)
    _demand_minimums(agreement, policy, me)


def check_scores_in_all(used: int, policy: Policy, merchant: str, me: str) -> None:
    """Run by the holder before each score. `used`: scores of all subjects for the merchant's organisation since
    midnight UTC. Raises QuotaExceeded."""
    limit = policy.scores_in_all_per_day
    if limit and used >= limit:
        raise QuotaExceeded(
            quota=f"scores of all subjects for {merchant} in one day", holder=me, used=used, limit=limit
        )


def decide_on_model(request: ModelRequest) -> None:
    """Run by the holder before it approves a model. Raises Stopped, AgreementNotActive, ForbiddenByPolicy,
    GradeForbids, RefusedByPerson, or DecisionPending."""
    agreement, policy, me = request.contract.agreement, request.policy, request.me
    check_model_still(request)
    if request.decision is not None and not request.decision.approved:
        raise RefusedByPerson(holder=me, reason=request.decision.reason)
    columns = columns_read(request.model, me)
    is_high = ORDER.index(grade_of(columns, request.schema)) >= ORDER.index(policy.ask_from_grade)
    if request.decision is None and (agreement.approval == "each job" or is_high or policy.ask_for_new_questions):
        raise DecisionPending


# --- parts that a rule and the signing share -------------------------------------------------------------------


def _demand_no_stop(names: tuple[str, str, str], stops: Iterable[Stop], me: str) -> None:
    """`names`: of table, merchant and agreement. Raises Stopped."""
    stopped = dict(zip((StopKind.DATASET, StopKind.MERCHANT, StopKind.AGREEMENT), names, strict=True))
    for stop in stops:
        if stop.kind is StopKind.ALL or stopped[stop.kind] == stop.name:
            raise Stopped(holder=me, what=stop.what)


def _demand_active(contract: Contract, now: int) -> None:
    state = contract.state(now)
    if state is not State.ACTIVE:
        raise AgreementNotActive(agreement=contract.agreement.agreement_id, state=state)


def _allow_merchant_and_purpose(agreement: Agreement, policy: Policy, me: str) -> None:
    if policy.merchants and agreement.merchant.name not in policy.merchants:
        raise _forbidden(me, f"merchants does not list {agreement.merchant.name}")
    if policy.purposes and agreement.purpose not in policy.purposes:
        raise _forbidden(me, "purposes does not list the agreement's")


def _allow_columns(table: str, columns: Iterable[str], policy: Policy, me: str) -> None:
    forbidden = sorted(column for column in columns if not policy.allows_column(table, column))
    if forbidden:
        raise _forbidden(me, f"columns or forbidden_columns exclude {', '.join(forbidden)} of {table}")


def _allow_identifier(table: str, column: str, policy: Policy, me: str) -> None:
    """Subjects are found by it, and its values go nowhere: so it need not be listed, but it may be forbidden."""
    if f"{table}.{column}" in policy.forbidden_columns:
        raise _forbidden(me, f"forbidden_columns has {column} of {table}, by which subjects would be found")


def _allow_grade(columns: Iterable[str], schema: Schema, policy: Policy, me: str) -> None:
    grade = disclosure_for(columns, schema).grade
    if ORDER.index(grade) > ORDER.index(policy.highest_grade):
        raise _forbidden(me, f"highest_grade is {policy.highest_grade}, and a column is {grade}")


def _demand_minimums(agreement: Agreement, policy: Policy, me: str) -> None:
    agreed = {
        "minimum_subjects": (agreement.disclosure.minimum_subjects, policy.minimum_subjects),
        "minimum_cell_holders": (agreement.disclosure.minimum_holders, policy.minimum_cell_holders),
        "minimum_holders": (min(agreement.smallest_set, len(agreement.holders)), policy.minimum_holders),
        "tolerated": (agreement.tolerated, policy.tolerated),
    }
    if agreement.joint is not None:  # no holder adds to another's figures: how many they are protects nothing
        agreed = {"minimum_subjects": agreed["minimum_subjects"]}
    for name, (has, least) in agreed.items():
        if has < least:
            raise _forbidden(me, f"{name} is {least}, and the agreement has {has}")


def _demand_cells(request: Request, cells: int) -> None:
    limit = request.policy.cells_per_job
    if cells > limit:
        raise _forbidden(request.me, f"cells_per_job is {limit}, and the question has {cells}")


def _demand_cells_today(request: Request, cells: int) -> None:
    used, limit = request.record.cells_today, request.policy.cells_per_day
    if used + cells > limit:
        quota = f"cells of {request.question.manifest.merchant} in one day"
        raise QuotaExceeded(quota=quota, holder=request.me, used=used, limit=limit)


def _needs_a_person(request: Request) -> bool:
    policy = request.policy
    return (
        request.agreement.approval == "each job"
        or (request.is_exact and request.rules.noise is NoiseRule.MANDATORY)
        or ORDER.index(request.grade) >= ORDER.index(policy.ask_from_grade)
        or (policy.ask_for_new_questions and not request.record.asked_before)
    )


def _nearby(request: Request, holders: Sequence[str]) -> list[tuple[AnsweredSet, tuple[str, ...]]]:
    """Sets answered in other jobs about this table within 30 days that differ from this one by few. The earlier
    attempts of the same job are void: someone who was in them has sworn never to submit."""
    minimum = max(request.agreement.minimum_holders, request.policy.minimum_holders)
    own_id, table = bytes.fromhex(request.question.manifest.job_id), request.agreement.table
    compared = [
        (earlier, differ_by_few(holders, earlier.holders, minimum))
        for earlier in request.record.answered
        if earlier.job_id != own_id and earlier.table == table and earlier.at > request.now - NEARBY_SECONDS
    ]
    return [(earlier, few) for earlier, few in compared if few]


def _forbidden(me: str, rule: str) -> ForbiddenByPolicy:
    return ForbiddenByPolicy(holder=me, rule=rule)
