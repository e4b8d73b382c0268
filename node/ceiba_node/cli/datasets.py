"""publish and withdraw: datasets."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Folder, KeyFile, show
from ceiba_node.config import Home
from ceiba_node.snapshots import SnapshotStore
from ceiba_protocol.errors import BadCommand, BadSource, DatasetMissing
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.identity import Duty
from ceiba_protocol.trust.rendering import printable


def publish(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet or a DuckDB file.")],
    schema: Annotated[Path, typer.Option(help="The table's schema, TOML.")],
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=SOURCE where a source column is called otherwise.")
    ] = None,
    source_table: Annotated[str | None, typer.Option(help="Table in a DuckDB file.")] = None,
    tolerance: Annotated[int | None, typer.Option(help="Refuse if more rows than this do not conform.")] = None,
    key: KeyFile = None,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a dataset's next version from a file, checked against its schema, and report what did not conform.

    The publisher signs its offer; the officer's key cannot.

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
        publisher=place.duty_key(Duty.PUBLISHER, key).signing_key,
    )
    show(report.to_plain(), str(report), as_json)


def withdraw(
    table: Annotated[str, typer.Argument(help="The table's name.")],
    subject: Annotated[list[str] | None, typer.Option(help="A subject's identifier, as the source has it.")] = None,
    file: Annotated[Path | None, typer.Option("--from", help="A file with one identifier a line.")] = None,
    shows_list: Annotated[bool, typer.Option("--list", help="Print who has withdrawn, and do nothing.")] = False,
    key: KeyFile = None,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Leave persons who object out of a table, now and in every later version. There is no way back.

    The publisher signs the version without them. Older versions that have them are deleted.

    Example: ceiba-node withdraw health.heart --from objections.txt
    """
    from ceiba_node.drafts import Seal
    from ceiba_node.withdrawals import withdraw as leave_out

    place = Home(home)
    identifiers = [*(subject or []), *(_lines(file) if file else [])]
    if shows_list == bool(subject or file):
        raise BadCommand(command="ceiba-node withdraw", problem="it takes --subject or --from, or --list alone")
    if shows_list:
        _show_withdrawn(place.snapshots(), table, as_json)
        return
    if not any(name.strip() for name in identifiers):
        raise BadCommand(command="ceiba-node withdraw", problem="no identifier was given")
    seal = Seal(datetime.now(UTC), place.identity().version_key, place.duty_key(Duty.PUBLISHER, key).signing_key)
    report = leave_out(place.snapshots(), table, identifiers, seal)
    show(report.to_plain(), str(report), as_json)


def _show_withdrawn(store: SnapshotStore, table: str, as_json: bool) -> None:
    """For the holder's own eyes. Raises DatasetMissing."""
    if table not in store.tables():
        raise DatasetMissing(holders=store.holder, table=table)
    withdrawn = store.withdrawn(table)
    lines = [f"{table}: {len(withdrawn)} withdrawn", *(f"  {printable(name)}" for name in withdrawn)]
    show({"table": table, "withdrawn": withdrawn}, "\n".join(lines), as_json)


def _lines(path: Path) -> list[str]:
    """Raises BadCommand, in words that quote nothing of the file."""
    try:
        return [line.removesuffix("\r") for line in path.read_text("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError):
        raise BadCommand(command="ceiba-node withdraw", problem=f"{path} is no readable text file") from None


def read_schema(path: Path) -> Schema:
    """A schema from its TOML file. Raises BadSource, BadSchema."""
    try:
        plain = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise BadSource(source=path, problem="it is no readable TOML file") from None
    return Schema.from_plain(plain)
