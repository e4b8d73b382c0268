"""ceiba-coordinator: the operator's commands."""

import asyncio
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated

import structlog
import typer

from ceiba_coordinator.config import FILE, Config
from ceiba_coordinator.folder import make_folder
from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.errors import BadSource, CeibaError
from ceiba_protocol.joining import describe_roster
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.roster import Role, Roster

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run the coordinator of a Ceiba space.")

Home = Annotated[Path, typer.Option(envvar="CEIBA_COORDINATOR_HOME", help="The coordinator's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


@app.command()
def init(
    space: Annotated[str, typer.Option(help="The space's name, such as city-health.")],
    home: Home = Path("ceiba-coordinator"),
    host: Annotated[str, typer.Option(help="Name or address under which members reach this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the services; enrolment takes the next one.")] = 7443,
) -> None:
    """Make a coordinator's folder: configuration, CA, log key and database. The keys are sealed under a passphrase.

    Example: ceiba-coordinator init --space city-health --host coordinator.example --home /srv/ceiba
    """
    listen = host if host == "127.0.0.1" else "0.0.0.0"  # noqa: S104 - the operator named another host
    make_folder(home, space, address=f"{host}:{port}", enrolment=f"{host}:{port + 1}", listen=listen)
    typer.echo(f"Made {home / FILE}. Next: ceiba-coordinator serve --home {home}")


@app.command()
def serve(home: Home = Path("ceiba-coordinator"), json_log: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Run the coordinator until it is told to stop (SIGTERM, Ctrl-C).

    Example: ceiba-coordinator serve --home /srv/ceiba
    """
    from ceiba_coordinator.server import serve as run

    _configure_log(json_log)
    asyncio.run(run(Config.read(home), lambda port, enrolment: None))


@app.command()
def invite(
    role: Role,
    name: Annotated[str, typer.Argument(help="The member's name: lower-case letters, digits, hyphens.")],
    organisation: Annotated[str, typer.Option(help="The legal organisation; holders must differ in it.")] = "",
    home: Home = Path("ceiba-coordinator"),
    as_json: AsJson = False,
) -> None:
    """Print a join token for one new member; good once, for 24 hours.

    Example: ceiba-coordinator invite holder st-mary --organisation "St Mary's Hospital Trust"
    """
    config = Config.read(home)
    settings = config.settings
    token = _membership(config).invite(
        name,
        role,
        organisation or name,
        address=settings.address,
        enrolment=settings.enrolment_address,
        random=os.urandom,
    )
    typer.echo(json.dumps({"token": token.encode()}) if as_json else token.encode())


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The member's name.")], home: Home = Path("ceiba-coordinator")
) -> None:
    """Forget a member that was never on a roster in force, so that it can be invited again.

    Example: ceiba-coordinator remove st-mary
    """
    _membership(Config.read(home)).remove(name)
    typer.echo(f"Removed {name}. It can be invited again.")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The member's name.")],
    reason: Annotated[str, typer.Option(help="Why, for the other members; it stays on every later roster.")],
    out: Annotated[Path | None, typer.Option(help="Also write the roster to this file.")] = None,
    home: Home = Path("ceiba-coordinator"),
    as_json: AsJson = False,
) -> None:
    """Propose the next roster without a member, for example one that has lost its keys.

    It can be invited again, with new keys. Once enough of those who sign rosters have approved, its agreements end, and
    so do the jobs that wait for it.
    Example: ceiba-coordinator revoke st-mary --reason "its server was stolen"
    """
    membership = _membership(Config.read(home))
    before = membership.newest
    made = membership.revoke(name, reason)
    _show_proposed(made, out, as_json)
    if as_json or before is None:
        return
    for table in sorted({table.table for table in before.tables} - {table.table for table in made.tables}):
        typer.echo(f"The table {table} is not on it: too few holders are left. Jobs about it end.")
    if before.charter.stewards and not made.charter.stewards:
        typer.echo("Fewer than three stewards are left: from this roster on, all holders sign.")


@app.command()
def members(home: Home = Path("ceiba-coordinator"), as_json: AsJson = False) -> None:
    """List who has enrolled, and show the newest roster.

    Example: ceiba-coordinator members
    """
    membership = _membership(Config.read(home))
    enrolled, newest = membership.enrolled(), membership.newest
    if as_json:
        facts = {"enrolled": [member.name for member in enrolled], "roster": newest and newest.fingerprint}
        typer.echo(json.dumps(facts))
        return
    typer.echo("\n".join(f"{member.role:8} {member.name} ({member.organisation})" for member in enrolled))
    typer.echo(describe_roster(newest) if newest else "No roster has been made yet.")
    if newest is not None and newest != membership.in_force():
        typer.echo("It is only proposed: not enough of those who sign rosters have approved it yet.")


@app.command()
def roster(
    table: Annotated[list[str], typer.Option(help="SCHEMA.toml:holder,holder,holder; once for each table.")],
    steward: Annotated[
        list[str],
        typer.Option(
            default_factory=list, show_default=False, help="A holder who signs rosters for all; 3 to 7, or none."
        ),
    ],
    tolerated: Annotated[
        int, typer.Option(min=1, max=1000, help="How many holders may collude with the merchant and the coordinator.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the roster to this file.")] = None,
    home: Home = Path("ceiba-coordinator"),
    as_json: AsJson = False,
) -> None:
    """Propose the space's next roster, from all enrolled members and the tables given here.

    Those who sign rosters compare its words with each other and pin it; when enough have, it is in force and the
    others take it up by themselves. Until then the one before it counts.
    Example: ceiba-coordinator roster --table heart.toml:cleveland,hungary,zurich
    """
    tables = [_read_table(entry) for entry in table]
    _show_proposed(_membership(Config.read(home)).propose_roster(tables, steward, tolerated), out, as_json)


def _show_proposed(made: Roster, out: Path | None, as_json: bool) -> None:
    if out is not None:
        out.write_bytes(made.body())
    facts = {"version": made.version, "fingerprint": made.fingerprint}
    typer.echo(json.dumps(facts) if as_json else describe_roster(made))


def _read_table(entry: str) -> tuple[Schema, list[str]]:
    path, _, holders = entry.rpartition(":")
    try:
        plain = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError):
        raise BadSource(source=path, problem="it is no readable TOML file") from None
    return Schema.from_plain(plain), [name.strip() for name in holders.split(",") if name.strip()]


def _membership(config: Config) -> Membership:
    from ceiba_coordinator.server import open_membership

    return open_membership(config, Store(open_engine(config.database_url)))


def _configure_log(as_json: bool) -> None:
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main() -> None:
    """Run the command line; a CeibaError is printed in its own words, with an exit code that tells its kind."""
    os.umask(0o077)  # whatever is written, by SQLite and DuckDB too, is for this user alone
    try:
        app()
    except CeibaError as error:
        typer.echo(f"{error.public}\n{error.what_to_do}", err=True)
        sys.exit(error.fault.exit_code)


if __name__ == "__main__":
    main()
