"""stop and resume: the switch. Written to this node's own ledger, so that it works with the coordinator down."""

from typing import Annotated

import typer

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Desk, Folder, desk, now, show
from ceiba_node.policy import Stop, StopKind
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.trust.roster import Role

Kind = Annotated[StopKind, typer.Argument(help="What: all, or one dataset, merchant or agreement.")]
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


def resume(kind: Kind, name: Name = "", home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Answer again what `stop` has stopped. Other stops stay.

    Example: ceiba-node resume merchant bank-a
    """
    with desk(home) as here:
        stopped = {one.name for one in here.ledger.stops() if one.kind is kind}
        target = name if name in stopped else _target(here, kind, name)
        was = here.ledger.resume(kind, target)
    text = f"Resumed: {_said(kind, name)}." if was else f"It was not stopped: {_said(kind, name)}."
    show({"resumed": kind.value, "name": target, "was_stopped": was}, text, as_json)


def _target(here: Desk, kind: StopKind, name: str) -> str:
    """What the ledger calls it. Something unknown is refused: a stop with a slip of the pen would stop nothing.

    Raises BadConfiguration, UnknownTable, UnknownMember, UnknownAgreement.
    """
    if (kind is StopKind.ALL) != (not name):
        raise BadConfiguration(path=f"stop {kind}", problem="name what is meant, and nothing after `all`")
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
