"""ceiba: the commands of a merchant."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ceiba.agreements_cli import DEFAULT_FOLDER, AsJson, Folder
from ceiba.agreements_cli import app as agreements_app
from ceiba.consent_cli import app as consent_app
from ceiba.home import Home
from ceiba.progress import shown_by_default
from ceiba_protocol.errors import BadQuestion, CeibaError, Fault
from ceiba_protocol.joining import check_pin, confirm_pin, fetch_roster, join, read_token
from ceiba_protocol.trust.rendering import printable

if TYPE_CHECKING:
    from ceiba.analysis import Outcome
    from ceiba.receipts import Receipt
    from ceiba.result import Result

CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write the rows here, for a spreadsheet.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw the result here: .png, .svg or .pdf.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Ask questions of a Ceiba space.")

PICTURES = (".png", ".svg", ".pdf")
"""What `query --plot` can write, by the file's ending."""

app.add_typer(agreements_app, name="agreements")
app.add_typer(consent_app, name="consent")


@app.command()
def init(
    join_token: Annotated[str, typer.Option("--join", help="The token from `ceiba-coordinator invite`.")],
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make this merchant's keys, sealed under a passphrase, and join a space. No key leaves the folder.

    The passphrase is that in CEIBA_PASSPHRASE_FILE or CEIBA_PASSPHRASE; otherwise you are asked for it.

    Example: ceiba init --join ceiba-join-eyJhdXRob3JpdHki... --identity ~/.ceiba/bank-a
    """
    home = Home(identity)
    joined = join(read_token(join_token), home.begun_identity(), home.save_identity, os.urandom)
    if as_json:
        facts = {"space": joined.space, "name": joined.name, "words": joined.descriptor.words}
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"Joined {joined.space} as {joined.name}. The words of your keys, to be read out when others ask:")
        typer.echo(f"  {joined.descriptor.words}")
        typer.echo(f"Next, when all have joined: ceiba pin --identity {identity}")


@app.command()
def pin(
    fingerprint: Annotated[str, typer.Option(help="The twelve words that other members read out.")] = "",
    file: Annotated[Path | None, typer.Option(help="The roster's file; otherwise the coordinator is asked.")] = None,
    identity: Folder = DEFAULT_FOLDER,
) -> None:
    """Pin the space's first roster, after its words were compared with the other members by telephone.

    Later ones are taken up by themselves once enough of their signers have approved them.
    Example: ceiba pin --fingerprint "wolf juice …", with all twelve words.
    """
    home = Home(identity)
    own = home.identity()
    body = fetch_roster(own).roster if file is None else file.read_bytes()
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
    agreement: Annotated[str, typer.Option(help="First digits of the agreement to ask under.")] = "",
    purpose: Annotated[str, typer.Option(help="Ask under an agreement for exactly this purpose.")] = "",
    receipt: Annotated[Path | None, typer.Option(help="Verify the result's receipt, and write it here.")] = None,
    rho: Annotated[str, typer.Option(help="Ask with noise that costs so much ρ, such as 0.005.")] = "",
    exact: Annotated[bool, typer.Option(help="Ask for exact figures also where noise is the rule.")] = False,
    submit: Annotated[bool, typer.Option(help="Do not wait: print the job's id, for `ceiba result`.")] = False,
    csv: CsvFile = None,
    plot: PlotFile = None,
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Ask a question in SQL, under an agreement that covers it. Ctrl-C cancels it.

    Example: ceiba query "SELECT sex, COUNT(*), AVG(age) FROM health.heart GROUP BY sex"
    """
    from ceiba.noise import Noise
    from ceiba.space import connect

    if rho and exact:
        raise BadQuestion(problem="an answer is exact or has noise", hint="Leave out --rho or --exact.")
    if receipt is not None and (explain or mock):
        raise BadQuestion(problem="nothing is asked, so there is no receipt", hint="Leave out --receipt.")
    if submit and (explain or mock):
        raise BadQuestion(problem="there is nothing to wait for", hint="Leave out --submit, or --explain and --mock.")
    if (explain or submit) and (receipt or csv or plot):
        hint = "Leave out --receipt, --csv and --plot; `ceiba result` takes them as well."
        raise BadQuestion(problem="there is no result yet", hint=hint)
    check_files(csv, plot)
    with connect(identity=identity) as space:
        question = space.sql(sql)
        noise = Noise(rho) if rho else False if exact else None
        under = {"agreement": agreement or None, "purpose": purpose or None, "noise": noise}
        if explain:
            explained = question.explain(**under)
            typer.echo(json.dumps(explained.to_dict()) if as_json else str(explained))
            return
        if submit:
            job = question.submit(deadline=deadline, **under)
            typer.echo(json.dumps({"job": job.id}) if as_json else job.id)
            return
        with interruptible("Interrupted, and cancelled; `ceiba jobs` lists it only if it could not be."):
            result = question.mock() if mock else question.run(deadline=deadline, **under)
        show(result, as_json, receipt, csv, plot)


@app.command("result")
def result_of(
    job: Annotated[str, typer.Argument(help="The job's id, or its first digits.")],
    receipt: Annotated[Path | None, typer.Option(help="Verify the result's receipt, and write it here.")] = None,
    csv: CsvFile = None,
    plot: PlotFile = None,
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Wait for the answer of a job that this folder has asked. Ctrl-C ends the waiting; the job goes on.

    Example: ceiba result f0618a39
    """
    from ceiba.space import connect

    check_files(csv, plot)
    with connect(identity=identity) as space, interruptible("Interrupted; the job goes on."):
        result = space.job(job).wait(progress=shown_by_default(), cancels=False)
        show(result, as_json, receipt, csv, plot)


@app.command()
def jobs(
    newest: Annotated[int, typer.Option(help="How many are listed.")] = 20,
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """List the jobs that this folder has asked, and their states now.

    Example: ceiba jobs --json
    """
    from ceiba.space import connect

    with connect(identity=identity) as space:
        found = space.jobs(max(1, newest))
        typer.echo(json.dumps(found.to_dicts()) if as_json else repr(found))


def check_files(csv: Path | None, plot: Path | None) -> None:
    """Before a question is asked and counted: can its result be written?"""
    from ceiba.files import require_picture, require_writable

    require_writable(csv, plot)
    require_picture(plot)


def show(found: "Result | Outcome", as_json: bool, receipt: Path | None, csv: Path | None, plot: Path | None) -> None:
    """Print a result, or what an analysis makes of it, and write what was asked for; CSV has what was released."""
    from ceiba import analysis
    from ceiba.files import require_one_table, write_csv, write_picture

    result = found.result if isinstance(found, analysis.Outcome) else found
    facts = found.to_dict() if isinstance(found, analysis.Outcome) else found.to_dicts()
    typer.echo(json.dumps(facts, default=str) if as_json else repr(found))
    if csv or plot:
        require_one_table(found)
    if csv is not None:
        write_csv(result, csv)
    if plot is not None:
        write_picture(found, plot)
    if receipt is not None and result.receipt is not None:
        keep_receipt(result.receipt, receipt)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C says what it has done, and exits as programs do that were interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(message, err=True)
        raise typer.Exit(130) from None


def keep_receipt(receipt: "Receipt", file: Path) -> None:
    """Verify and write it; one that fails is written as well, as evidence. Says so where no program reads."""
    try:
        steps = receipt.verify()
    finally:
        receipt.save(file)
    typer.echo(f"Receipt: {len(steps)} steps hold, written to {file}.", err=True)


@app.command()
def verify(
    receipt: Annotated[Path, typer.Argument(help="The receipt's file.")],
    roster: Annotated[Path | None, typer.Option(help="A roster that you trust; else the pinned one.")] = None,
    identity: Folder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Verify a receipt offline, of a result or of scores: no network and no key, only a roster whose words you have
    compared.

    Exits with 0 if every step holds, else with 5. Example: ceiba verify receipt.json --roster roster.json
    """
    from ceiba.receipts import witnessed
    from ceiba_protocol.linkage import score_receipt
    from ceiba_protocol.trust import receipt as papers
    from ceiba_protocol.trust.roster import Roster

    trusted = Home(identity).roster() if roster is None else Roster.parse(_content(roster))
    content = _content(receipt)
    if b'"consents":[' in content:  # as no other receipt has it: what is signed stands in it as text, with \\"
        steps, seen = (
            score_receipt.verify(score_receipt.ScoreReceipt.parse(content), trusted),
            "Whether the log has it is not looked at",
        )
    else:
        document = papers.Receipt.parse(content)
        steps, seen = papers.verify(document, trusted), witnessed(document, trusted)
    failed = steps[-1].error
    if as_json:
        found = [{"number": one.number, "name": one.name, "problem": one.error and one.error.public} for one in steps]
        typer.echo(json.dumps({"valid": failed is None, "roster": trusted.fingerprint, "steps": found}))
    else:
        lines = [*map(str, steps), f"{seen}; roster {trusted.version}, {trusted.fingerprint}"]
        typer.echo("\n".join(map(printable, lines)))
        typer.echo("The receipt holds." if failed is None else f"The receipt fails at step {steps[-1].number}.")
    if failed is not None:
        raise typer.Exit(Fault.PEER.exit_code)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise typer.BadParameter(f"{file} cannot be read") from None


def main() -> None:
    """Run the command line; a CeibaError is printed in its own words, with an exit code that tells its kind."""
    try:
        app()
    except CeibaError as error:
        typer.echo(f"{printable(error.public)}\n{printable(error.what_to_do)}", err=True)
        sys.exit(error.fault.exit_code)


if __name__ == "__main__":
    main()
