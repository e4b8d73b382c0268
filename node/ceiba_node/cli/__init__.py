"""ceiba-node: the commands of a holder."""

import os
import sys

import typer

from ceiba_node.cli import agreements, approvals, book, datasets, joining, models, running, stopping
from ceiba_node.cli.datasets import read_schema
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.trust.rendering import printable

__all__ = ["app", "main", "read_schema"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a holder's node in a Ceiba space.")
for command in (
    joining.init,
    joining.key,
    joining.pin,
    datasets.publish,
    datasets.withdraw,
    running.status,
    running.serve,
    stopping.stop,
    stopping.resume,
):
    app.command()(command)
app.add_typer(agreements.commands, name="agreements")
app.add_typer(approvals.commands, name="approvals")
app.add_typer(book.commands, name="ledger")
app.add_typer(models.commands, name="models")


def main() -> None:
    """Run the command line; a CeibaError is printed in its own words, with an exit code that tells its kind."""
    os.umask(0o077)  # whatever is written, by SQLite and DuckDB too, is for this user alone
    try:
        app()
    except CeibaError as error:
        typer.echo(f"{printable(error.public)}\n{printable(error.what_to_do)}", err=True)
        sys.exit(error.fault.exit_code)
