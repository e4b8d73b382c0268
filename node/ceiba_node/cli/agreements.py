"""agreements: what the officer reads, signs and ends. None of it needs the coordinator: a running node passes it on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ceiba_node.cli.common import DEFAULT_HOME, SHORT, AsJson, Desk, Folder, KeyFile, desk, in_columns, now, show
from ceiba_node.cli.datasets import read_schema
from ceiba_node.policy import check_signing, may_be_answered
from ceiba_protocol.canonical import to_plain
from ceiba_protocol.errors import IllegalNotice, NothingToSign
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Contract, Overlap, State, Word, give_notice, no_party_now, overlaps
from ceiba_protocol.trust.identity import Duty
from ceiba_protocol.trust.rendering import moment, render
from ceiba_protocol.trust.signing import sign

commands = typer.Typer(no_args_is_help=True, help="Read, sign, refuse and end agreements. Signed by the officer.")

Which = Annotated[str, typer.Argument(help="The agreement's id, or its first digits.")]
Reason = Annotated[str, typer.Option(help="Why, for all parties.")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="The table's schema, if it is not published yet.")]

NOT_PROTECTED = """\
What this does not protect:
  - A released total says something about everybody in it, if the group has much in common.
  - Exact answers are compared with earlier ones by two and three. What four or more of them show together is not found.
  - For each cell all holders see the sum of their counts, each cut off at a small cap. Public data has no gate.
  - The merchant's questions, who answers them, and when, are known to all parties and to the operator.
  - If more than the tolerated number of holders collude with the merchant, they learn what the others add."""


@commands.command("list")
def list_agreements(home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the agreements that this node knows, and whose signature is missing.

    Example: ceiba-node agreements list
    """
    with desk(home) as here:
        known = here.contracts.all()
        facts = [_facts(here, contract) for contract in known]
        unreadable = here.contracts.unreadable()
    rows = [
        [
            one["agreement_id"][:SHORT],
            one["state"],
            one["merchant"],
            one["table"],
            f"until {moment(one['not_after'])[:10]}",
            f"missing: {', '.join(one['missing'])}" if one["missing"] else "",
            f"not answered: {one['not_answered']}" if one["not_answered"] else "",
        ]
        for one in facts
    ]
    lines = [in_columns(rows)] if rows else ["No agreements."]
    lines += [f"{digest[:SHORT]}  unreadable: a party has other keys now" for digest in unreadable]
    show({"agreements": facts, "unreadable": unreadable}, "\n".join(lines), as_json)


@commands.command("show")
def show_agreement(agreement: Which, home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show in words exactly what is signed: who, which data, what may be computed, for what, how often, until when.

    Example: ceiba-node agreements show 3fb2
    """
    with desk(home) as here:
        contract = here.contracts.find(agreement)
        found = _overlaps(here, contract)
        facts = _facts(here, contract) | {"overlaps": [_overlap(one) for one in found]}
        text = _text(here, contract, found)
    show(facts, text, as_json)


@commands.command("sign")
def sign_agreement(
    agreement: Which,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    schema: SchemaFile = None,
    key: KeyFile = None,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Sign an agreement with the officer's key, after it was checked against the roster, the policy and the others.

    Example: ceiba-node agreements sign 3fb2 --key /media/usb/officer.key
    """
    with desk(home) as here:
        here.check_log()
        contract = here.contracts.find(agreement)
        at = now()
        _check_unsigned(contract, here.name, at)
        terms, policy = contract.agreement, here.home.policy()
        found = check_signing(
            terms,
            here.contracts.all(),
            _schema(here, terms.side_of(here.name).table, schema),
            here.roster,
            policy,
            here.name,
            at,
        )
        officer = here.home.duty_key(Duty.OFFICER, key)
        if not yes:
            typer.echo(_text(here, contract, found), err=as_json)
            typer.confirm("Sign it?", abort=True, err=as_json)
        signed = sign(terms, here.name, officer.signing_key)
        here.ledger.record_signature(contract.digest, signed, at)
        after = here.contracts.get(contract.digest)
        facts = _facts(here, after)
    show(facts, f"Signed. The agreement is {facts['state']}; a running node passes the signature on.", as_json)


@commands.command("refuse")
def refuse(
    agreement: Which, reason: Reason, key: KeyFile = None, home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Refuse a proposed agreement for good, also one that was signed here while others have not.

    Example: ceiba-node agreements refuse 3fb2 --reason "The purpose is too wide"
    """
    _give(Word.REFUSE, agreement, reason, key, home, as_json)


@commands.command("suspend")
def suspend(
    agreement: Which, reason: Reason, key: KeyFile = None, home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Suspend an active agreement, here at once and for all parties, until `resume`.

    Example: ceiba-node agreements suspend 3fb2 --reason "Under review"
    """
    _give(Word.SUSPEND, agreement, reason, key, home, as_json)


@commands.command("resume")
def resume(
    agreement: Which, reason: Reason = "", key: KeyFile = None, home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """End this house's own suspension.

    Example: ceiba-node agreements resume 3fb2
    """
    _give(Word.RESUME, agreement, reason, key, home, as_json)


@commands.command("terminate")
def terminate(
    agreement: Which, reason: Reason, key: KeyFile = None, home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """End an active agreement for good.

    Example: ceiba-node agreements terminate 3fb2 --reason "The project is over"
    """
    _give(Word.TERMINATE, agreement, reason, key, home, as_json)


def _check_unsigned(contract: Contract, me: str, at: int) -> None:
    """Raises NothingToSign, which says why."""
    if me not in contract.agreement.holder_names:
        problem = "it is no party to it"
    elif (state := contract.state(at)) is not State.PROPOSED:
        problem = f"it is {state}"
    elif me not in contract.missing:
        problem = "it has signed it"
    else:
        return
    raise NothingToSign(member=me, agreement=contract.agreement.agreement_id, problem=problem)


def _give(word: Word, agreement: str, reason: str, key: Path | None, home: Path, as_json: bool) -> None:
    with desk(home) as here:
        here.check_log()
        contract = here.contracts.find(agreement)
        if here.name not in contract.agreement.holder_names:
            raise IllegalNotice(member=here.name, word=word, agreement=contract.agreement.agreement_id)
        notice = give_notice(contract, here.name, word, reason, now())
        officer = here.home.duty_key(Duty.OFFICER, key)
        here.ledger.record_notice(contract.digest, sign(notice, here.name, officer.signing_key), now())
        facts = _facts(here, here.contracts.get(contract.digest))
    show(facts, f"Done. The agreement is {facts['state']} here; a running node passes the notice on.", as_json)


def _schema(here: Desk, table: str, file: Path | None) -> Schema:
    """That of the given file, otherwise of the published dataset. Raises DatasetMissing."""
    return read_schema(file) if file else here.home.snapshots().current(table).schema


def _overlaps(here: Desk, contract: Contract) -> list[Overlap]:
    others = [
        one.agreement
        for one in here.contracts.all()
        if one.digest != contract.digest and may_be_answered(one, here.name, now())
    ]
    return overlaps(contract.agreement, others, here.roster, now())


def _text(here: Desk, contract: Contract, found: list[Overlap]) -> str:
    return "\n".join([*render(contract, here.roster.as_of(0), now(), found, here.roster), NOT_PROTECTED])


def _facts(here: Desk, contract: Contract) -> dict[str, Any]:
    agreement = contract.agreement
    return {
        **to_plain(agreement),
        "merchant": agreement.merchant.name,
        "holders": list(agreement.holder_names),
        "digest": contract.digest,
        "state": contract.state(now()).value,
        "not_answered": no_party_now(agreement, here.roster),
        "missing": list(contract.missing),
        "signed_here": here.name in contract.signatures,
        "notices": [to_plain(notice) for notice in contract.notices],
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "agreement_id": overlap.other.agreement_id,
        "merchant": overlap.other.merchant.name,
        "holders": list(overlap.holders),
        "same_merchant": overlap.same_merchant,
    }
