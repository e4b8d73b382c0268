"""ledger: what was answered, to whom, and what it cost; backups of the book."""

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from ceiba_node.cli.common import DEFAULT_HOME, SHORT, AsJson, Desk, Folder, desk, in_columns, now, show
from ceiba_node.config import Home
from ceiba_node.ledger import Entry
from ceiba_protocol.disclosure.grade import DATASET_FACTOR, MILLION, as_rho
from ceiba_protocol.errors import BadCommand
from ceiba_protocol.trust.agreement import organisation_of
from ceiba_protocol.trust.rendering import moment

commands = typer.Typer(invoke_without_command=True, help="Show what was answered and what it cost; back it up.")

FIELDS = ["when", "merchant", "table", "agreement", "job", "question", "cells", "exact", "rho", "state"]
"""Of an entry, for programs."""
HEADER = ["when", "merchant", "table", "agreement", "job", "question", "cells", "cost", "state"]


@commands.callback(invoke_without_command=True)
def show_ledger(
    context: typer.Context,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the entries here as well.")] = None,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what was answered, to whom, under which agreement, what it cost, and what remains.

    Example: ceiba-node ledger --csv ledger.csv
    """
    if context.invoked_subcommand is not None:
        return
    with desk(home) as here:
        entries, accounts = here.ledger.entries(), accounts_of(here)
    if csv_file is not None:
        _write_csv(csv_file, entries)
    facts = {"entries": [_facts(one) for one in entries], "accounts": accounts}
    show(facts, ledger_text(entries, accounts), as_json)


@commands.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")], home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Copy the ledger, also while the node is running. Back it up after every day; an old copy stops the node.

    Example: ceiba-node ledger backup /backup/ledger-monday.sqlite3
    """
    with desk(home) as here:
        here.ledger.back_up(file)
    show({"file": str(file)}, f"Written to {file}.", as_json)


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")], home: Folder = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Put a backup in the ledger's place; the node must be stopped. What was there stays beside it.

    If the backup is older than what this node has signed since, the node finds that out from the log when it starts,
    and answers nothing.

    Example: ceiba-node ledger restore /backup/ledger-monday.sqlite3
    """
    kept = Home(home).restore_ledger(file)
    show({"kept": str(kept)}, f"Restored; what was there is {kept}.", as_json)


def accounts_of(here: Desk) -> list[dict[str, Any]]:
    """For each table and merchant's organisation that was answered: what was spent, and what remains under this
    house's own limits and the laxest of its agreements."""
    policy, found = here.home.policy(), []
    agreements = [contract.agreement for contract in here.contracts.all()]
    for table, organisation in here.ledger.customers():
        agreed = [
            one.disclosure
            for one in agreements
            if (one.side_of(here.name).table, organisation_of(one, here.roster)) == (table, organisation)
        ]
        limit = max((policy.tightened(rules).rho_per_year for rules in agreed), default=0)
        own, everybody = here.ledger.spent(table, organisation, now())
        left = max(0, min(limit - own, DATASET_FACTOR * limit - everybody))
        amounts = {"spent": as_rho(own), "of": as_rho(limit), "left": as_rho(left)}
        found.append({"table": table, "organisation": organisation, **amounts})
    return found


def _write_csv(path: Path, entries: list[Entry]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(map(_facts, entries))
    except OSError:
        raise BadCommand(command="ceiba-node ledger --csv", problem=f"{path} cannot be written") from None


def ledger_text(entries: list[Entry], accounts: list[dict[str, Any]]) -> str:
    """Entries and accounts for people."""
    if not entries:
        return "Nothing was answered yet."
    rows = [list(_short(one).values()) for one in entries]
    lines = [in_columns([HEADER, *rows]), ""]
    lines += [
        f"{one['organisation']} has spent ρ {one['spent']} of {one['of']} on {one['table']} in the last 365 days; "
        f"{one['left']} is left"
        for one in accounts
    ]
    return "\n".join(lines)


def _facts(entry: Entry) -> dict[str, Any]:
    """`FIELDS`; ρ as a decimal number."""
    return {
        "when": moment(entry.approved_at),
        "merchant": entry.merchant,
        "table": entry.table,
        "agreement": entry.agreement,
        "job": entry.job_id.hex(),
        "question": entry.plan_digest,
        "cells": entry.cells,
        "exact": entry.exact,
        "rho": entry.rho / MILLION,
        "state": entry.state,
    }


def _short(entry: Entry) -> dict[str, str]:
    cost = "exact" if entry.exact else f"ρ {as_rho(entry.rho)}"
    facts = _facts(entry)
    short = {name: str(facts[name])[:SHORT] for name in ("agreement", "job", "question")}
    return {name: cost if name == "cost" else short.get(name, str(facts.get(name, ""))) for name in HEADER}
