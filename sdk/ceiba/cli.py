"""ceiba: the commands of a merchant."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ceiba.home import Home
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.joining import check_pin, confirm_pin, fetch_roster, join, read_token

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Ask questions of a Ceiba space.")

Folder = Annotated[Path, typer.Option("--identity", envvar="CEIBA_IDENTITY", help="The identity's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
DEFAULT_FOLDER = Path("~/.ceiba")


@app.command()
def init(
    join_token: Annotated[str, typer.Option("--join", help="The token from `ceiba-coordinator invite`.")],
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make this merchant's keys and join a space. The decryption key never leaves the folder.

    Example: ceiba init --join ceiba-join-eyJhdXRob3JpdHki... --identity ~/.ceiba/bank-a
    """
    home = Home(identity)
    joined = join(read_token(join_token), home.begun_identity(), home.save_identity, os.urandom)
    if as_json:
        typer.echo(json.dumps({"space": joined.space, "name": joined.name}))
    else:
        typer.echo(f"Joined {joined.space} as {joined.name}.")
        typer.echo(f"Next, when all have joined: ceiba pin --identity {identity}")


@app.command()
def pin(
    fingerprint: Annotated[str, typer.Option(help="What the other members confirmed, outside of Ceiba.")] = "",
    file: Annotated[Path | None, typer.Option(help="The roster's file; otherwise the coordinator is asked.")] = None,
    identity: Folder = DEFAULT_FOLDER,
) -> None:
    """Pin the space's roster, after its fingerprint was compared with the other members by telephone.

    Example: ceiba pin --fingerprint 7f3a-...-09c1
    """
    home = Home(identity)
    own = home.identity()
    body = fetch_roster(own) if file is None else file.read_bytes()
    pinned = home.pinned_roster()
    if fingerprint:
        roster = check_pin(own, body, fingerprint, pinned)
    else:
        roster = confirm_pin(own, body, pinned, lambda text: typer.prompt(text, default="", show_default=False))
    home.pin(roster)
    typer.echo(f"Pinned roster {roster.version}.")


@app.command()
def catalogue(identity: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """List the space's tables, their holders, and what they have published.

    Example: ceiba catalogue --json
    """
    from ceiba.space import connect

    with connect(identity=identity) as space:
        found = space.catalogue()
    typer.echo(json.dumps(found.to_dicts()) if as_json else repr(found))


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT; docs/merchant.md describes the subset.")],
    explain: Annotated[bool, typer.Option(help="Say what it means instead of asking.")] = False,
    mock: Annotated[bool, typer.Option(help="Run it on made-up rows instead of asking.")] = False,
    deadline: Annotated[int, typer.Option(help="Seconds until the job ends without an answer.")] = 120,
    purpose: Annotated[str, typer.Option(help="What the answer is for; holders see it.")] = "",
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Ask a question in SQL.

    Example: ceiba query "SELECT sex, COUNT(*), AVG(age) FROM health.heart GROUP BY sex"
    """
    from ceiba.space import connect

    with connect(identity=identity) as space:
        question = space.sql(sql)
        if explain:
            typer.echo(str(question.explain()))
            return
        result = question.mock() if mock else question.run(deadline=deadline, purpose=purpose)
    typer.echo(json.dumps(result.to_dicts(), default=str) if as_json else repr(result))


def main() -> None:
    """Run the command line; a CeibaError is printed in its own words, with an exit code that tells its kind."""
    try:
        app()
    except CeibaError as error:
        typer.echo(f"{error.public}\n{error.what_to_do}", err=True)
        sys.exit(error.fault.exit_code)


if __name__ == "__main__":
    main()
