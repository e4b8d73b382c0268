"""ceiba agreements: what a merchant proposes, and what it says about it later."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ceiba.space import Space

Folder = Annotated[Path, typer.Option("--identity", envvar="CEIBA_IDENTITY", help="The identity's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Id = Annotated[str, typer.Argument(help="The first digits of the agreement's id.")]
Reason = Annotated[str, typer.Option(help="All parties read it.")]
DEFAULT_FOLDER = Path("~/.ceiba")

app = typer.Typer(no_args_is_help=True, help="Propose agreements, and follow, suspend or end them.")


def connected(identity: Path) -> "Space":
    from ceiba.space import connect  # read when needed, so that --help is quick

    return connect(identity=identity)


@app.command("list")
def list_all(identity: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """List this merchant's agreements, who has not signed, and how many jobs are used.

    Example: ceiba agreements list
    """
    with connected(identity) as space:
        found = space.agreements()
        typer.echo(json.dumps(found.to_dicts()) if as_json else repr(found))


@app.command()
def show(agreement: Id, identity: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Show an agreement in full, as the holders read it.

    Example: ceiba agreements show 3f2a
    """
    with connected(identity) as space:
        found = space.agreements[agreement]
        typer.echo(found.contract.agreement.body().decode() if as_json else found.text)


@app.command()
def propose(
    table: Annotated[str, typer.Argument(help="The table, such as health.heart.")],
    purpose: Annotated[str, typer.Option(help="What the answers are for.")],
    columns: Annotated[str, typer.Option(help="Names with commas; all that may be asked if left out.")] = "",
    operations: Annotated[str, typer.Option(help="Such as count,mean,filter,group by; all if left out.")] = "",
    holders: Annotated[str, typer.Option(help="Names with commas; all of the table's if left out.")] = "",
    jobs: Annotated[int, typer.Option(help="How many jobs in all.")] = 100,
    days: Annotated[int, typer.Option(help="How long it is to last from now.")] = 90,
    each_job: Annotated[
        bool, typer.Option("--each-job", help="Let a person at each holder decide on each job.")
    ] = False,
    tolerated: Annotated[int | None, typer.Option(help="Colluding holders to withstand; else the roster's.")] = None,
    smallest_set: Annotated[int | None, typer.Option(help="Least holders of a job that others have left.")] = None,
    wait: Annotated[int, typer.Option(help="Seconds to wait until every holder has signed.")] = 0,
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Sign an agreement and ask the holders to sign it.

    Example: ceiba agreements propose health.heart --purpose "premium study" --columns age,sex --jobs 20 --days 90
    """
    with connected(identity) as space:
        made = space.agreements.propose(
            table,
            purpose=purpose,
            columns=_names(columns),
            operations=_names(operations),
            holders=_names(holders),
            jobs=jobs,
            days=days,
            approval="each job" if each_job else "standing",
            tolerated=tolerated,
            smallest_set=smallest_set,
        )
        if wait:
            made.wait(wait)
        typer.echo(json.dumps(space.agreements.facts(made.contract)) if as_json else made.text)


@app.command()
def withdraw(agreement: Id, reason: Reason = "", identity: Folder = DEFAULT_FOLDER) -> None:
    """Take back a proposal that not everybody has signed.

    Example: ceiba agreements withdraw 3f2a --reason "a mistake in the columns"
    """
    with connected(identity) as space:
        space.agreements[agreement].withdraw(reason)
    typer.echo("Withdrawn.")


@app.command()
def suspend(agreement: Id, reason: Reason = "", identity: Folder = DEFAULT_FOLDER) -> None:
    """Have nothing answered under an agreement until you resume it.

    Example: ceiba agreements suspend 3f2a --reason "an incident"
    """
    with connected(identity) as space:
        space.agreements[agreement].suspend(reason)
    typer.echo("Suspended.")


@app.command()
def resume(agreement: Id, reason: Reason = "", identity: Folder = DEFAULT_FOLDER) -> None:
    """End your own suspension.

    Example: ceiba agreements resume 3f2a
    """
    with connected(identity) as space:
        space.agreements[agreement].resume(reason)
    typer.echo("Resumed.")


@app.command()
def terminate(agreement: Id, reason: Reason = "", identity: Folder = DEFAULT_FOLDER) -> None:
    """End an agreement for good.

    Example: ceiba agreements terminate 3f2a --reason "the study is over"
    """
    with connected(identity) as space:
        space.agreements[agreement].terminate(reason)
    typer.echo("Terminated.")


def _names(text: str) -> list[str] | None:
    """Names with commas between them; None for an empty text."""
    return [name.strip() for name in text.split(",")] if text else None
