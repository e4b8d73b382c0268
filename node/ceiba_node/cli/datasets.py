"""publish: datasets."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Folder, KeyFile, show
from ceiba_node.config import Home
from ceiba_protocol.errors import BadSource
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.identity import Duty


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


def read_schema(path: Path) -> Schema:
    """A schema from its TOML file. Raises BadSource, BadSchema."""
    try:
        plain = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise BadSource(source=path, problem="it is no readable TOML file") from None
    return Schema.from_plain(plain)
