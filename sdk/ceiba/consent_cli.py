"""ceiba consent: what a merchant asks a subject for, and what an issuer gives it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ceiba.agreements_cli import DEFAULT_FOLDER, AsJson, Folder
from ceiba_protocol.errors import BadCommand, NoKeyFile

app = typer.Typer(no_args_is_help=True, help="Ask for, give and read consents to be scored.")

Out = Annotated[Path, typer.Option("--out", help="The file to write.")]


@app.command()
def key(
    name: Annotated[str, typer.Option(help="The issuer's name, as agreements are to have it.")],
    out: Out = Path("issuer.key"),
    as_json: AsJson = False,
) -> None:
    """Make an issuer's key, sealed under a passphrase. Agreements name the issuer with the public half.

    The passphrase is that in CEIBA_PASSPHRASE_FILE or CEIBA_PASSPHRASE; otherwise you are asked for it.

    Example: ceiba consent key --name "chamber of commerce" --out issuer.key
    """
    from ceiba.consents import new_issuer
    from ceiba_protocol.joining import ask_passphrase, close_keys

    made = new_issuer(name)
    _write_private(out, close_keys(made, ask_passphrase(new=True), os.urandom))
    facts = {"name": made.name, "key": made.key.public.hex()}
    typer.echo(json.dumps(facts) if as_json else f"{made.name}\n  {facts['key']}")


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="The first digits of the model's digest.")],
    out: Out = Path("request.json"),
    identity: Folder = DEFAULT_FOLDER,
) -> None:
    """Write what a subject is asked to agree to, for the issuer.

    Example: ceiba consent ask 3f2a --out request.json
    """
    from ceiba.space import connect

    with connect(identity=identity) as space:
        out.write_bytes(space.score_model(model).consent_request().body() + b"\n")
    typer.echo(f"Written to {out}.")


@app.command()
def give(
    request: Annotated[Path, typer.Argument(help="What `ceiba consent ask` wrote.")],
    subject: Annotated[str, typer.Option(help="The identifier of the subject who said yes.")],
    key: Annotated[Path, typer.Option("--key", help="The issuer's key.")] = Path("issuer.key"),
    hours: Annotated[float, typer.Option(help="How long it lasts from now, 24 at most.")] = 24,
    out: Out = Path("consent.json"),
) -> None:
    """Attest that a subject has agreed to be scored once. It can be used by whoever has the file and the identifier.

    Example: ceiba consent give request.json --subject 91110000802100433B --hours 2
    """
    from ceiba.consents import IssuerKey, read_request
    from ceiba.consents import give as give_consent
    from ceiba_protocol.joining import ask_passphrase, open_keys

    if not key.exists():
        raise NoKeyFile(path=key)
    asked = read_request(request.read_bytes())
    issuer = open_keys(key.read_bytes(), ask_passphrase(), IssuerKey, key)
    given = give_consent(asked, subject, issuer, hours)
    _write_private(out, given.body() + b"\n")
    typer.echo(f"Written to {out}: {asked.merchant} may score the subject once, for: {asked.purpose}")


@app.command()
def show(
    consent: Annotated[Path, typer.Argument(help="What `ceiba consent give` wrote.")], as_json: AsJson = False
) -> None:
    """Show what a consent allows. It does not say of whom it is.

    Example: ceiba consent show consent.json
    """
    from ceiba.consents import read_consent
    from ceiba_protocol.canonical import to_plain
    from ceiba_protocol.trust.rendering import moment, quoted

    given = read_consent(consent.read_bytes()).consent
    facts = {
        "issuer": quoted(given.issuer),
        "merchant": given.merchant,
        "purpose": quoted(given.purpose),
        "holders": ", ".join(given.holders),
        "model": given.model_digest,
        "from": moment(given.not_before),
        "until": moment(given.not_after),
    }
    lines = "\n".join(f"{name:9} {value}" for name, value in facts.items())
    typer.echo(json.dumps(to_plain(given)) if as_json else lines)


def _write_private(path: Path, content: bytes) -> None:
    """A new file, readable by its owner alone. Raises BadCommand rather than replace one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadCommand(command="ceiba consent", problem=f"there is a file {path} already") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
