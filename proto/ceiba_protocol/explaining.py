"""Making an `Explanation`, by the merchant before it asks and by a holder for the person who decides there.

All follows from public facts, as every party computes them, and from the explaining party's own book of what was asked
before. No row is read, and nothing is sent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

from ceiba_protocol.disclosure.accounting import epsilon
from ceiba_protocol.disclosure.forecast import Forecast, forecast, keys_without_shares
from ceiba_protocol.disclosure.gate import GateForm, gate_of
from ceiba_protocol.disclosure.grade import DATASET_FACTOR, MILLION, Disclosure, NoiseRule, as_rho, disclosure_for
from ceiba_protocol.disclosure.support import tests_of
from ceiba_protocol.errors import (
    BudgetExhausted,
    CeibaError,
    DatasetMissing,
    ExactQuotaUsed,
    GateTooLarge,
    GradeForbids,
    NoAgreement,
    NoiseUndefined,
)
from ceiba_protocol.explaining_fits import FitFacts, fit_facts
from ceiba_protocol.explanation import DELTA, Account, Explanation, NoiseFacts
from ceiba_protocol.plan import ROW_COUNT, Plan, Program, compile_plan
from ceiba_protocol.rounds import check_noise, layout_of, share_variances
from ceiba_protocol.schema import Schema
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import NoiseTerms
from ceiba_protocol.wording import describe

WORD_BYTES = 8
"""Of the gate."""
SECONDS_PER_STAGE = 0.1
"""Messages and durable writes on a local network."""
SECONDS_PER_ROW_AND_SUM = 4e-9
SECONDS_PER_SUM_OF_FIT = 2e-5
"""Arithmetic at 256 bits on what all have added up."""
SECONDS_PER_NOISE = 2e-5
SECONDS_PER_DECRYPTION = 0.01
"""Rough unit costs on two 2.5 GHz cores at 3072 bits; `make bench` measures them."""


@dataclass(frozen=True)
class Asked:
    """A job before it runs, as both sides know it."""

    plan: Plan
    schema: Schema
    capacities: Mapping[str, int]
    """Each holder's published row capacity; at least those of the agreement's holders that have published."""
    key_bits: int
    """Of the merchant's encryption key."""
    noise: NoiseTerms | None
    agreement: Agreement | CeibaError
    """Under which it is asked, or why there is none; then all holders answer by what the columns' grades demand."""


@dataclass(frozen=True)
class Book:
    """What one party has written down of earlier jobs, and goes by itself."""

    whose: str
    """In words, such as "by this folder's own count"."""
    jobs: int = 0
    """Of the agreement, without this one."""
    spent: int = 0
    """Millionths of ρ in the last 365 days: this merchant's, on this table."""
    spent_by_all: int | None = None
    """The same of all merchants together, if it is known."""
    exact: int = 0
    """Answers without noise to this merchant, on these versions of the data."""
    rules: Disclosure | None = None
    """What the party goes by where that is stricter than the agreement."""


@dataclass(frozen=True)
class Derived:
    """What follows from a job's public facts."""

    asked: Asked
    agreement: Agreement | None
    holders: tuple[str, ...]
    rules: Disclosure | None
    """Agreed, or the least; None if nothing is allowed at all."""
    program: Program
    variances: tuple[int, ...]
    """Of one holder's noise in each sum of a cell; empty for exact figures."""
    layout: Layout
    gate: GateForm | None
    fit: FitFacts | None
    """Of a question that iterates."""

    @property
    def capacities(self) -> list[int]:
        """Of those who answer."""
        return [self.asked.capacities[name] for name in self.holders if name in self.asked.capacities]


def explain(asked: Asked, book: Book) -> Explanation:
    """What the job means. Raises the errors of `compile_plan` and `Fit.check`, and ValueOutOfRange for sums beyond the
    engines."""
    job = _derive(asked)
    accounts, short = _accounts(job, book)
    words = job.gate.words if job.gate else 0
    return Explanation(
        question="\n".join(describe(asked.plan)),
        agreement=asked.agreement,
        holders=job.holders,
        cells=job.program.cells,
        sums=len(job.program.sums),
        tests=job.gate.shape[2] if job.gate else 0,
        parties=_parties(job),
        forecast=_forecast(job),
        assumptions=_assumptions(job),
        refusals=(*_refusals(job), *short),
        needs_a_person=_needs_a_person(job, book),
        accounts=tuple(accounts),
        whose_count=book.whose,
        fit=job.fit,
        noise=_noise(job),
        exact="" if asked.noise else _exact_terms(job, book),
        ciphertexts=job.layout.ciphertexts,
        bytes_per_holder=job.layout.ciphertexts * ciphertext_bytes(1 << (asked.key_bits - 1))
        + WORD_BYTES * words
        + (job.fit.bytes_per_holder if job.fit else 0),
        seconds=_seconds(job),
    )


def _derive(asked: Asked) -> Derived:
    agreement = asked.agreement if isinstance(asked.agreement, Agreement) else None
    holders = agreement.holder_names if agreement else tuple(sorted(asked.capacities))
    tolerated = agreement.tolerated if agreement else min(1, len(holders) - 1)
    program, per_subject = compile_plan(asked.plan, asked.schema), asked.schema.max_holders_per_subject
    variances = share_variances(program, asked.noise, tolerated, per_subject, len(holders)) if holders else ()
    capacities = [asked.capacities[name] for name in holders if name in asked.capacities]
    rules, gate = agreement.disclosure if agreement else _least_rules(asked), None
    if rules is not None and rules.has_gate:
        unknown = variances[ROW_COUNT] * (len(holders) - tolerated) if variances else 0
        gate = gate_of(program, tests_of(program), rules, per_subject, unknown)
    layout = layout_of(program, capacities, asked.key_bits, variances)
    fit = None
    if program.fit is not None:
        minimum = rules.minimum_subjects * per_subject if rules else 1
        frame = program.frame(sum(capacities), minimum, is_guarded=gate is not None)
        program.fit.check(frame)
        fit = fit_facts(program.fit, frame)
    return Derived(asked, agreement, holders, rules, program, variances, layout, gate, fit)


def _least_rules(asked: Asked) -> Disclosure | None:
    try:
        return disclosure_for(asked.plan.columns, asked.schema)
    except GradeForbids:
        return None


# --- who sees what ---------------------------------------------------------------------------------------------


def _parties(job: Derived) -> dict[str, str]:
    """Each party, and what it sees. What the gate shows is PROTOCOL §3.2, what the rounds of a fit show §4.1."""
    if job.fit is not None:
        return _parties_of_fit(job, job.fit)
    program, gate, everybody = job.program, job.gate, f"all {len(job.holders)} holders"
    size = f"cells: {program.cells}, sums in each: {len(program.sums)}"
    noisy = ", with noise" if job.asked.noise else ""
    passes, withheld = (" of what passes the gate", ", and what was withheld") if gate else ("", "")
    return {
        "merchant": f"the totals over {everybody}{passes} ({size}){noisy}{withheld}; no holder's own figures",
        "each holder": f"the question{_shown_by(gate, job)}",
        "coordinator": f"the question, who answers and when{', what passes the gate' if gate else ''}, and ciphertexts "
        "that it cannot open",
        "everybody else": "nothing; the log that holders witness has names and digests, no figures",
    }


def _parties_of_fit(job: Derived, fit: FitFacts) -> dict[str, str]:
    """The sums of the rounds are the holders' alone."""
    everybody, others = f"all {len(job.holders)} holders", len(job.holders) - 1
    gate = passes = withheld = ""
    if job.gate is not None:
        gate, passes = f"of the gate, {_counted_up_to(job.gate, job)}; ", "what passes the gate, "
        withheld = ", and what was withheld" if job.program.released_cells > 1 else ""
    return {
        "merchant": f"the final figures alone, over {everybody}: {fit.figures}{withheld}; if it is refused, why; no "
        "sum of any round, no state on the way, no holder's own figures",
        "each holder": f"the question; {gate}the sums of every round over {everybody}, so with its own those of the "
        f"other {others} together, and what follows from them; no other holder's own sums",
        "coordinator": f"the question, who answers and when, {passes}how many rounds there are and, if it is refused, "
        "why; masked words and ciphertexts that it cannot read",
        "everybody else": "nothing; the log that holders witness has names and digests, no figures",
    }


def _shown_by(gate: GateForm | None, job: Derived) -> str:
    """What the holders learn from the gate, and what they do not learn."""
    if gate is None:
        return "; no other holder's figures, and not the totals"
    if gate.noisy:
        everybody = f"all {len(job.holders)} holders"
        return f"; of the gate, each cell's rows at {everybody}, with noise; no other holder's figures or other totals"
    return f"; of the gate, {_counted_up_to(gate, job)}; no other holder's figures, and not the totals"


def _counted_up_to(gate: GateForm, job: Derived) -> str:
    cap, tests = gate.threshold.cap, len(gate.tests)
    each, most = "cell" if tests == 1 else f"cell and each of {tests} tests", cap * len(job.holders)
    return f"for each {each}, how many subjects, counted up to {cap} at each holder, so up to {most}"


# --- what comes of it ------------------------------------------------------------------------------------------


def _forecast(job: Derived) -> Forecast | None:
    if job.gate is None:
        return None
    noise = job.variances[ROW_COUNT] * len(job.holders) if job.variances else 0
    return forecast(job.program, job.asked.schema, job.capacities, job.gate, noise)


def _assumptions(job: Derived) -> str:
    """What the forecast takes for granted because it is not public."""
    alike = keys_without_shares(job.program, job.asked.schema)
    parts = ["the holders' tables are three quarters full"]
    if alike:
        parts.append(f"all values of {', '.join(alike)} are equally frequent")
    elif job.program.keys:
        parts.append("values are as frequent as the schema says")
    if job.asked.plan.filter is not None:
        parts.append("the filter keeps every row")
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]


def _noise(job: Derived) -> NoiseFacts | None:
    """ρ is split evenly over all sums of a cell."""
    terms = job.asked.noise
    if terms is None:
        return None
    rho, sums = Fraction(terms.rho, MILLION), len(job.program.sums)
    return NoiseFacts(
        rho=float(rho),
        epsilon=epsilon(rho, DELTA),
        count_sigma=sqrt(job.variances[ROW_COUNT] * len(job.holders)) if job.variances else 0.0,
        cells_per_subject=terms.cells_per_subject,
        shares={use.name: float(rho * len(set(use.sums)) / sums) for use in job.program.uses},
    )


def _exact_terms(job: Derived, book: Book) -> str:
    if _is_exception(job, book):
        return "none: exact figures, only within their quota and with a person's approval at every holder"
    if job.fit is not None:
        return "none: the same figures as a fit on all rows in one place; its rounds count as one exact answer together"
    return "none: exact figures"


def _seconds(job: Derived) -> float:
    """On a local network, with the largest holder at its capacity."""
    rows, sums = max(job.capacities, default=0), len(job.program.sums)
    noise = SECONDS_PER_NOISE * job.program.cells * sums if job.asked.noise else 0.0
    stages = 2 if job.gate else 1
    scan = SECONDS_PER_ROW_AND_SUM * rows * sums
    if job.fit is not None:
        stages += job.fit.rounds
        scan += SECONDS_PER_ROW_AND_SUM * rows * job.fit.sums + SECONDS_PER_SUM_OF_FIT * job.fit.sums
    return SECONDS_PER_STAGE * stages + scan + noise + SECONDS_PER_DECRYPTION * job.layout.ciphertexts


# --- what would refuse it, and what it costs -------------------------------------------------------------------


def _refusals(job: Derived) -> Iterator[CeibaError]:
    """Rules that it breaks whatever was asked before."""
    if isinstance(job.asked.agreement, CeibaError):
        yield job.asked.agreement
    if job.fit is not None and job.asked.noise is not None:
        yield NoiseUndefined(problem="a fit is exact: its iterates have no noise")
    if missing := [name for name in job.holders if name not in job.asked.capacities]:
        yield DatasetMissing(holders=", ".join(missing), table=job.program.table)
    try:
        disclosure_for(job.asked.plan.columns, job.asked.schema)
        if job.agreement:
            check_noise(job.asked.noise, job.agreement)
    except CeibaError as error:
        yield error
    try:
        if job.gate:
            job.gate.check_size(len(job.holders))
    except GateTooLarge as error:
        yield error


def _is_exception(job: Derived, book: Book) -> bool:
    """Exact figures where noise is the rule."""
    rules = book.rules or job.rules
    return job.asked.noise is None and rules is not None and rules.noise is NoiseRule.MANDATORY


def _needs_a_person(job: Derived, book: Book) -> bool:
    return _is_exception(job, book) or (job.agreement is not None and job.agreement.approval == "each job")


def _accounts(job: Derived, book: Book) -> tuple[list[Account], list[CeibaError]]:
    """The limits that the job counts against, and what refuses it where one does not reach."""
    found: list[tuple[Account, CeibaError]] = []
    rules, noise, table = book.rules or job.rules, job.asked.noise, job.program.table
    if job.agreement:
        jobs = job.agreement.jobs
        problem = f"all {jobs} jobs of {job.agreement.agreement_id} were asked"
        account = _counted("the agreement's jobs", book.jobs, jobs)
        found.append((account, NoAgreement(table=table, problem=problem)))
    if rules is not None and noise is not None:
        spent = [("this merchant's", book.spent, rules.rho_per_year)]
        if book.spent_by_all is not None:
            spent.append(("all merchants'", book.spent_by_all, DATASET_FACTOR * rules.rho_per_year))
        for whose, used, limit in spent:
            account = _rho(f"{whose} ρ on {table} in 365 days", noise.rho, used, limit)
            left = as_rho(max(0, limit - used))
            found.append((account, BudgetExhausted(table=table, cost=as_rho(noise.rho), left=left)))
    elif rules is not None and rules.has_gate:
        account = _counted("this merchant's exact answers from these data", book.exact, rules.exact_jobs)
        found.append((account, ExactQuotaUsed(table=table, used=book.exact, limit=rules.exact_jobs)))
    return [account for account, _ in found], [error for account, error in found if not account.remains]


def _counted(what: str, used: int, limit: int) -> Account:
    left = limit - used - 1
    return Account(what, "1", str(used), str(limit), str(left) if left >= 0 else "")


def _rho(what: str, cost: int, spent: int, limit: int) -> Account:
    """In millionths. The same question on the same data again costs nothing."""
    left = limit - spent - cost
    return Account(what, f"at most {as_rho(cost)}", as_rho(spent), as_rho(limit), as_rho(left) if left >= 0 else "")
