"""What every command shares: the folder, the form of its output, and the node's parts that it opens."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ceiba_node.config import Home
from ceiba_node.contracts import Contracts
from ceiba_node.ledger import Ledger
from ceiba_protocol.trust.roster import Roster

Folder = Annotated[Path, typer.Option("--home", envvar="CEIBA_NODE_HOME", help="The node's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", help="The key's file, if it is kept elsewhere than in the folder.")
]
DEFAULT_HOME = Path("ceiba-node")
SHORT = 8
"""Digits of an id that lists show; the beginning of one is enough for a command."""


@dataclass(frozen=True)
class Desk:
    """What people at this house decide with. Nothing here needs the coordinator or the running node."""

    home: Home
    name: str
    roster: Roster
    ledger: Ledger
    contracts: Contracts

    def check_log(self) -> None:
        """Run before anything is signed. Raises the log's fault, if one was found: what is signed beside an old
        copy of the ledger would make the newest one wrong too."""
        if (fault := self.ledger.fault()) is not None:
            raise fault.error


@contextmanager
def desk(home: Path, passphrase: bytes | None = None) -> Iterator[Desk]:
    """Without a passphrase it is looked for. Raises BadIdentity, RosterNotPinned, LedgerDamaged, PassphraseNeeded,
    BadPassphrase."""
    place = Home(home, passphrase)
    identity, roster, ledger = place.identity(), place.roster(), place.ledger()
    try:
        yield Desk(place, identity.name, roster, ledger, Contracts(ledger, roster))
    finally:
        ledger.close()


def now() -> int:
    """Seconds since 1970 UTC."""
    return int(time.time())


def show(facts: Any, text: str, as_json: bool) -> None:
    """Print facts for programs, or the same as text for people."""
    typer.echo(json.dumps(facts) if as_json else text)


def in_columns(rows: list[list[str]]) -> str:
    """Rows of cells, left-aligned, as wide as the widest of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
