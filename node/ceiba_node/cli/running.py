"""status and serve: the node itself."""

import logging
import os
import sys
from collections import Counter
from typing import Annotated, Any

import structlog
import typer

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Folder, now, show
from ceiba_node.config import Home
from ceiba_node.contracts import Contracts
from ceiba_protocol.errors import BadConfiguration, CeibaError, NotReachable
from ceiba_protocol.joining import fetch_roster
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.rendering import printable
from ceiba_protocol.trust.roster import Roster, approved_by


def status(
    home: Folder = DEFAULT_HOME,
    online: Annotated[bool, typer.Option("--online", help="Ask the coordinator for the newest roster too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say who this node is, what it has pinned, published, agreed, stopped and answered, and what waits for a person.

    Example: ceiba-node status --json
    """
    place = Home(home)
    identity, roster, snapshots = place.identity(), place.pinned_roster(), place.snapshots()
    current = [snapshots.current(table) for table in snapshots.tables()]
    facts: dict[str, Any] = {
        "name": identity.name,
        "space": identity.space,
        "coordinator": identity.coordinator,
        "words": identity.descriptor.words,
        "roster": roster.fingerprint if roster else None,
        "roster_version": roster.version if roster else None,
        **({"newest_roster": _newest(identity, roster)} if online else {}),
        "configuration": _configuration(place),
        **(_from_ledger(place, roster) if roster else {}),
        "datasets": {one.table: {"version": one.version, "rows": one.rows} for one in current},
    }
    show(facts, _in_lines(facts), as_json)


def _from_ledger(place: Home, roster: Roster) -> dict[str, Any]:
    ledger = place.ledger()
    try:
        contracts, fault = Contracts(ledger, roster), ledger.fault()
        states = Counter(contract.state(now()).value for contract in contracts.all())
        if unreadable := len(contracts.unreadable()):
            states["unreadable"] = unreadable
        return {
            "fault": printable(str(fault.error)) if fault else None,
            "stops": [{"kind": one.kind.value, "name": one.name, "reason": one.reason} for one in ledger.stops()],
            "agreements": dict(states),
            "waiting": len(ledger.undecided(now())) + len(ledger.undecided_score_models(now())),
            "witnessed": ledger.frontier().size,
            "not_in_log": ledger.not_in_log(),
            "jobs": ledger.counts(),
        }
    finally:
        ledger.close()


def _newest(identity: Identity, pinned: Roster | None) -> str:
    """The newest roster in words, as the coordinator has it. It is judged by those who decide on it, if this node knows
    them: on the first its own signers, on a later one those of the roster before it."""
    try:
        received = fetch_roster(identity)
    except NotReachable:
        return "unknown: the coordinator does not answer"
    except CeibaError as error:  # of a member that was revoked, say
        return f"unknown: the coordinator refuses to tell ({error.public.rstrip('.')})"
    newest = Roster.parse(received.roster)
    known = f"version {newest.version}"
    if pinned is not None and newest == pinned and newest.version > 1:
        return f"{known}, the one that is pinned here"
    judge = newest if newest.version == 1 else pinned
    if judge is None or (newest.version > 1 and newest.version <= judge.version):
        return f"{known}, not the one that is pinned here"
    approved = len(approved_by(judge, newest, received.approvals))
    state = "in force" if approved >= judge.quorum else "proposed"
    if newest.version > judge.version + 1:  # those who signed the one between decide as well
        return f"{known}: approved by {approved} of the {judge.quorum} that roster {judge.version} takes"
    return f"{known}, {state}: approved by {approved} of the {judge.quorum} that it takes"


def _configuration(place: Home) -> str:
    """Whether the running node can read its rules, in words."""
    try:
        place.settings()
        place.policy()
    except BadConfiguration as error:
        return f"nothing is answered: {error.public}"
    return "readable"


def _in_lines(facts: dict[str, Any]) -> str:
    plain = {name: value for name, value in facts.items() if not isinstance(value, dict | list)}
    lines = [f"{name:14} {'none' if value is None else printable(str(value))}" for name, value in plain.items()]
    for stop in facts.get("stops", ()):
        lines.append(f"{'stopped':14} {stop['kind']} {stop['name']}".rstrip() + f": {stop['reason']}")
    for table, one in facts["datasets"].items():
        lines.append(f"{'dataset':14} {table}: {one['rows']} rows, version {one['version'][:16]}…")
    for state, count in facts.get("agreements", {}).items():
        lines.append(f"{'agreements':14} {count} {state}")
    return "\n".join([*lines, *(f"{name:14} {count} jobs" for name, count in facts.get("jobs", {}).items())])


def serve(
    home: Folder = DEFAULT_HOME, json_log: Annotated[bool, typer.Option("--json", help="JSON log lines.")] = False
) -> None:
    """Answer the space's questions until told to stop (SIGTERM, Ctrl-C). Opens no port: the node dials out.

    Example: ceiba-node serve --home /srv/ceiba-node
    """
    from ceiba_node.service import serve as run

    configure_log(json_log)
    run(Home(home), clock=now, random=os.urandom)


def configure_log(as_json: bool) -> None:
    """Structured lines on standard error."""
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
