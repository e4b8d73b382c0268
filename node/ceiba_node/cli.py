"""ceiba-node: the commands of a holder."""

import json
import os
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from ceiba_node.config import Home
from ceiba_protocol.errors import BadSource, CeibaError
from ceiba_protocol.joining import check_pin, confirm_pin, fetch_roster, join, read_token
from ceiba_protocol.schema import Schema

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a holder's node in a Ceiba space.")

Folder = Annotated[Path, typer.Option("--home", envvar="CEIBA_NODE_HOME", help="The node's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
DEFAULT_HOME = Path("ceiba-node")


@app.command()
def init(
    join_token: Annotated[str, typer.Option("--join", help="The token from `ceiba-coordinator invite`.")],
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make this node's keys and join a space. The keys never leave the folder.

    Example: ceiba-node init --join ceiba-join-eyJhdXRob3JpdHki... --home /srv/ceiba-node
    """
    place = Home.make(home)
    identity = join(read_token(join_token), place.begun_identity(), place.save_identity, os.urandom)
    if as_json:
        typer.echo(json.dumps({"space": identity.space, "name": identity.name}))
    else:
        typer.echo(
            f"Joined {identity.space} as {identity.name}. Next, when all have joined: ceiba-node pin --home {home}"
        )


@app.command()
def pin(
    fingerprint: Annotated[str, typer.Option(help="What the other members confirmed, outside of Ceiba.")] = "",
    file: Annotated[Path | None, typer.Option(help="The roster's file; otherwise the coordinator is asked.")] = None,
    home: Folder = DEFAULT_HOME,
) -> None:
    """Pin the space's roster, after its fingerprint was compared with the other members by telephone.

    Example: ceiba-node pin --fingerprint 7f3a-...-09c1
    """
    place = Home(home)
    identity = place.identity()
    body = fetch_roster(identity) if file is None else file.read_bytes()
    pinned = place.pinned_roster()
    if fingerprint:
        roster = check_pin(identity, body, fingerprint, pinned)
    else:
        roster = confirm_pin(identity, body, pinned, lambda text: typer.prompt(text, default="", show_default=False))
    place.pin(roster)
    typer.echo(f"Pinned roster {roster.version}. A running node takes it up by itself.")


@app.command()
def publish(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or a DuckDB file.")],
    schema: Annotated[Path, typer.Option(help="The table's schema, TOML.")],
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=SOURCE where a source column is called otherwise.")
    ] = None,
    source_table: Annotated[str | None, typer.Option(help="Table in a DuckDB file.")] = None,
    tolerance: Annotated[int | None, typer.Option(help="Refuse if more rows than this do not conform.")] = None,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a dataset's next version from a file, checked against its schema, and report what did not conform.

    Example: ceiba-node publish patients.parquet --schema heart.toml --column ph_ecog=ph.ecog
    """
    from ceiba_node.publishing import publish as make

    place = Home(home)
    report = make(
        place.snapshots(),
        source,
        read_schema(schema),
        source_columns=dict(entry.split("=", 1) for entry in column or []),
        source_table=source_table,
        tolerance=tolerance,
        now=datetime.now(UTC),
        version_key=place.identity().version_key,
    )
    typer.echo(json.dumps(report.to_plain()) if as_json else str(report))


@app.command()
def status(home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Say who this node is, what it has pinned and published, and how many jobs it has answered.

    Example: ceiba-node status --json
    """
    place = Home(home)
    identity, roster, snapshots = place.identity(), place.pinned_roster(), place.snapshots()
    current = [snapshots.current(table) for table in snapshots.tables()]
    facts: dict[str, Any] = {
        "name": identity.name,
        "space": identity.space,
        "coordinator": identity.coordinator,
        "roster": roster.fingerprint if roster else None,
        "datasets": {one.table: {"version": one.version, "rows": one.rows} for one in current},
        "jobs": place.ledger().counts() if roster else {},
    }
    typer.echo(json.dumps(facts) if as_json else _in_lines(facts))


def _in_lines(facts: dict[str, Any]) -> str:
    lines = [f"{name:12} {value or 'none'}" for name, value in facts.items() if not isinstance(value, dict)]
    for table, one in facts["datasets"].items():
        lines.append(f"dataset      {table}: {one['rows']} rows, version {one['version'][:16]}…")
    return "\n".join([*lines, *(f"{name:12} {count} jobs" for name, count in facts["jobs"].items())])


@app.command()
def serve(
    home: Folder = DEFAULT_HOME, json_log: Annotated[bool, typer.Option("--json", help="JSON log lines.")] = False
) -> None:
    """Answer the space's questions until told to stop (SIGTERM, Ctrl-C). Opens no port: the node dials out.

    Example: ceiba-node serve --home /srv/ceiba-node
    """
    from ceiba_node.service import serve as run

    configure_log(json_log)
    run(Home(home), clock=lambda: int(time.time()), random=os.urandom)


def read_schema(path: Path) -> Schema:
    """A schema from its TOML file. Raises BadSource, BadSchema."""
    try:
        plain = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise BadSource(source=path, problem="it is no readable TOML file") from None
    return Schema.from_plain(plain)


def configure_log(as_json: bool) -> None:
    """Structured lines on standard error."""
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
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
