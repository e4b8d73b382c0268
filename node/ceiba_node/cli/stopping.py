"""stop and resume: the switch, and the way back after a fault of the log's.

Written to this node's own ledger, so that it works with the coordinator down.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Desk, Folder, desk, now, show
from ceiba_node.policy import Stop, StopKind
from ceiba_protocol.errors import BadCommand
from ceiba_protocol.trust.roster import Role

Kind = Annotated[StopKind, typer.Argument(help="What: all, or one dataset, merchant or agreement.")]


class Resumed(StrEnum):
    """A `StopKind`, or the log."""

    ALL = "all"
    DATASET = "dataset"
    MERCHANT = "merchant"
    AGREEMENT = "agreement"
    LOG = "log"


What = Annotated[
    Resumed, typer.Argument(help="What: all, one dataset, merchant or agreement, or the log after a fault.")
]
Name = Annotated[str, typer.Argument(help="The table, the merchant, or the agreement's id or its first digits.")]


def stop(
    kind: Kind,
    name: Name = "",
    reason: Annotated[str, typer.Option(help="Why, for this house alone.")] = "",
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Answer no more: nothing at all, or not about a dataset, for a merchant, or under an agreement.

    It counts for a running node at once, for what is being answered too, and until `resume`, also after a restart.

    Example: ceiba-node stop merchant bank-a --reason "Waiting for their audit"
    """
    with desk(home) as here:
        target = _target(here, kind, name)
        here.ledger.stop(Stop(kind, target, reason, now()))
    show({"stopped": kind.value, "name": target}, f"Stopped: {_said(kind, name)}.", as_json)


def resume(
    what: What,
    name: Name = "",
    reason: Annotated[str, typer.Option(help="With `log`: what was found out, for this house alone.")] = "",
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Answer again what `stop` has stopped. Other stops stay.

    `resume log` lifts the fault that `status` shows, once its cause is known and mended. What was found stays recorded.
    The node checks the log again, from where it was, before it answers: a fault that is still there comes back.

    Example: ceiba-node resume merchant bank-a
    """
    if what is Resumed.LOG:
        _lift_fault(name, reason, home, as_json)
        return
    kind = StopKind(what.value)
    with desk(home) as here:
        stopped = {one.name for one in here.ledger.stops() if one.kind is kind}
        target = name if name in stopped else _target(here, kind, name)
        was = here.ledger.resume(kind, target)
    text = f"Resumed: {_said(kind, name)}." if was else f"It was not stopped: {_said(kind, name)}."
    show({"resumed": kind.value, "name": target, "was_stopped": was}, text, as_json)


def _lift_fault(name: str, reason: str, home: Path, as_json: bool) -> None:
    if name or not reason:
        raise BadCommand(
            command="ceiba-node resume", problem="after `log` it takes --reason, what was found out, and no name"
        )
    with desk(home) as here:
        was = here.ledger.lift_fault(reason, now())
    done = "Lifted; the node checks the log again before it answers: `ceiba-node status` shows a fault that comes back."
    show({"resumed": "log", "was_at_fault": was}, done if was else "There was no fault.", as_json)


def _target(here: Desk, kind: StopKind, name: str) -> str:
    """What the ledger calls it. Something unknown is refused: a stop with a slip of the pen would stop nothing.

    Raises BadCommand, UnknownTable, UnknownMember, UnknownAgreement.
    """
    if (kind is StopKind.ALL) != (not name):
        problem = "nothing is named after `all`" if name else f"name the {kind} that is meant"
        raise BadCommand(command="ceiba-node stop", problem=problem)
    match kind:
        case StopKind.DATASET:
            return here.roster.table(name).table
        case StopKind.MERCHANT:
            return here.roster.member(name, Role.MERCHANT).name
        case StopKind.AGREEMENT:
            return here.contracts.find(name).digest
    return ""


def _said(kind: StopKind, name: str) -> str:
    return "everything" if kind is StopKind.ALL else f"{kind} {name}"
