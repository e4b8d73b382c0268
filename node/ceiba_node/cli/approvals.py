"""approvals: jobs that a person has to decide on."""

from typing import Annotated, Any

import typer

from ceiba_node.cli.common import DEFAULT_HOME, SHORT, AsJson, Desk, Folder, desk, in_columns, now, show
from ceiba_node.ledger import Waiting
from ceiba_node.policy import Decision
from ceiba_protocol.canonical import to_plain
from ceiba_protocol.errors import AgreementNotActive, CeibaError, NotWaiting
from ceiba_protocol.explaining import Asked, Book, explain
from ceiba_protocol.explanation import Explanation
from ceiba_protocol.linkage.joint import JointManifest, read_any
from ceiba_protocol.linkage.joint_wording import describe_joint, rests_on
from ceiba_protocol.trust.agreement import Agreement, State, operations_of
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.trust.rendering import moment, quoted
from ceiba_protocol.trust.roster import Descriptor, Role

commands = typer.Typer(no_args_is_help=True, help="Decide on questions that wait for a person.")

Which = Annotated[str, typer.Argument(help="The job's id, or its first digits.")]
Private = Annotated[str, typer.Option(help="Why, for this house alone.")]


@commands.command("list")
def list_waiting(home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the jobs that wait for a decision, oldest first.

    Example: ceiba-node approvals list
    """
    with desk(home) as here:
        facts = [_facts(one) for one in here.ledger.undecided(now())]
    rows = [
        [one["job"][:SHORT], one["merchant"], one["table"], quoted(one["purpose"]), f"until {moment(one['until'])}"]
        for one in facts
    ]
    show({"waiting": facts}, in_columns(rows) if rows else "Nothing waits.", as_json)


@commands.command("show")
def show_waiting(job: Which, home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show what a job means, in the merchant's own words for it, and who asks it for which purpose.

    Example: ceiba-node approvals show 0b1c
    """
    with desk(home) as here:
        waiting = _find(here, job)
        opened = read_any(waiting.manifest)
        explained = _described(opened) if isinstance(opened, JointManifest) else _explained(here, opened)
    facts = _facts(waiting)
    told = {
        **{name: facts[name] for name in ("job", "merchant", "table")},
        "purpose": quoted(facts["purpose"]),
        **{name: ", ".join(facts[name]) for name in ("columns", "operations")},
        **{name: facts[name] for name in ("agreement", "number")},
        **{name: moment(facts[name]) for name in ("since", "until")},
    }
    lines = [f"  {name:14} {value}" for name, value in told.items()]
    if isinstance(explained, list):
        told_first, facts["explanation"] = explained, None
    elif isinstance(explained, CeibaError):
        problem = {"code": explained.code, "text": explained.public}
        told_first, facts["explanation"], facts["problem"] = [f"It cannot be explained: {explained}"], None, problem
    else:
        told_first, facts["explanation"] = explained.lines(), explained.to_dict()
    show(facts, "\n".join([*told_first, "Who asks it", *lines]), as_json)


@commands.command("approve")
def approve(job: Which, private: Private = "", home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Let a job be answered; the running node does, unless another rule forbids it by then.

    Example: ceiba-node approvals approve 0b1c
    """
    _decide(job, Decision(approved=True, reason=""), private, home, as_json)


@commands.command("refuse")
def refuse(
    job: Which,
    reason: Annotated[str, typer.Option(help="Why, for the merchant.")],
    private: Private = "",
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Refuse a job, with a reason for the merchant and, if need be, another one for this house.

    Example: ceiba-node approvals refuse 0b1c --reason "Outside the study" --private "Asked three times this week"
    """
    _decide(job, Decision(approved=False, reason=reason), private, home, as_json)


def _decide(job: str, decision: Decision, private: str, home: Any, as_json: bool) -> None:
    with desk(home) as here:
        waiting = _find(here, job)
        here.ledger.decide(waiting.job_id, decision, private, now())
    facts = {"job": waiting.job_id.hex(), "approved": decision.approved}
    show(facts, f"{'Approved' if decision.approved else 'Refused'}; a running node answers.", as_json)


def _find(here: Desk, text: str) -> Waiting:
    """By the beginning of its id. Raises NotWaiting, also if that is more than one job's."""
    found = [one for one in here.ledger.undecided(now()) if one.job_id.hex().startswith(text)]
    if len(found) != 1:
        raise NotWaiting(job=text)
    return found[0]


def _described(manifest: JointManifest) -> list[str]:
    return [*describe_joint(manifest.plan), rests_on(manifest.plan, manifest.noise)]


def _explained(here: Desk, manifest: Manifest) -> Explanation | CeibaError:
    """What the merchant's own `query.explain()` shows, by this house's ledger and rules; or why it cannot be shown, as
    after the agreement was suspended or the snapshot removed."""
    try:
        contract = here.contracts.get(manifest.agreement_digest)
        if (state := contract.state(now())) is not State.ACTIVE:
            return AgreementNotActive(agreement=contract.agreement.agreement_id, state=state)
        merchant = here.roster.member(manifest.merchant, Role.MERCHANT)
        assert merchant.encryption_key is not None  # every merchant on a roster has one
        asked = Asked(
            plan=manifest.plan,
            schema=here.home.snapshots().get(manifest.plan.table, manifest.versions[here.name]).schema,
            capacities={pin.holder: pin.row_capacity for pin in manifest.datasets},
            key_bits=merchant.encryption_key.n.bit_length(),
            noise=manifest.noise,
            agreement=contract.agreement,
        )
        return explain(asked, _book(here, manifest, merchant, contract.agreement))
    except CeibaError as error:
        return error


def _book(here: Desk, manifest: Manifest, merchant: Descriptor, agreement: Agreement) -> Book:
    """What this house's ledger knows of earlier jobs, and what it goes by itself."""
    table, organisation = manifest.plan.table, merchant.legal_person
    spent, by_all = here.ledger.spent(table, organisation, now())
    return Book(
        whose="in this house's ledger",
        jobs=manifest.number - 1,
        spent=spent,
        spent_by_all=by_all,
        exact=here.ledger.exact_used(table, organisation, manifest.versions[here.name]),
        rules=here.home.policy().tightened(agreement.disclosure),
    )


def _facts(waiting: Waiting) -> dict[str, Any]:
    manifest = read_any(waiting.manifest)  # verified before it was put there
    if isinstance(manifest, JointManifest):
        plans = [plan for side in manifest.plan.sides for plan in side.plans]
        columns = {f"{plan.table}.{column}" for plan in plans for column in plan.columns}
    else:
        plans, columns = [manifest.plan], set(manifest.plan.columns)
    return {
        "job": waiting.job_id.hex(),
        "merchant": manifest.merchant,
        "table": ", ".join(dict.fromkeys(plan.table for plan in plans)),
        "purpose": manifest.purpose,
        "columns": sorted(columns),
        "operations": sorted(set[str]().union(*map(operations_of, plans))),
        "agreement": manifest.agreement_digest,
        "number": manifest.number,
        "since": waiting.since,
        "until": waiting.expires_at,
        "plan": to_plain(manifest.plan),
    }
