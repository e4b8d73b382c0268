"""ceiba-lab: the commands of a tester."""

import contextlib
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ceiba_protocol.errors import CeibaError
from ceiba_protocol.schema import Grade
from ceiba_scenarios.attack import SUITE, load_suite, run_attacks
from ceiba_scenarios.sandbox import Sandbox
from ceiba_scenarios.story import CHECK_FAILED, find_story, run_story, story_names

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run whole Ceiba spaces on this machine.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
DEFAULT_SEED = 1
LOOK_SECONDS = 0.5
"""Between two looks at whether all processes are still running."""


@app.command("list")
def list_stories(as_json: AsJson = False) -> None:
    """List the stories that come with Ceiba.

    Example: ceiba-lab list
    """
    titles = {name: find_story(name).title for name in story_names()}
    typer.echo(json.dumps(titles) if as_json else "\n".join(f"{name:20} {title}" for name, title in titles.items()))


@app.command()
def run(
    story: Annotated[str, typer.Argument(help="A name from `ceiba-lab list`, or your own file, ./mine.py.")],
    seed: Annotated[int, typer.Option(help="For whatever the story draws.")] = DEFAULT_SEED,
    out: Annotated[Path, typer.Option(help="The folder that keeps a folder for each run.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run a story on a space of its own. Exit code 0: all its checks hold.

    Your own story is a Python file with `def run(lab)`, which uses lab.sandbox(holders), lab.say(text),
    lab.show(result), lab.check(name, got, expected), lab.seed and lab.folder.

    Example: ceiba-lab run ./mine.py --seed 7 --json
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        report = run_story(story, seed, out)
    if as_json:
        typer.echo(json.dumps(report.to_plain()))
    raise typer.Exit(report.exit_code)


@app.command()
def attack(
    names: Annotated[list[str] | None, typer.Argument(help="Names from --list.")] = None,
    run_all: Annotated[bool, typer.Option("--all", help="Run every attack.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the attacks, and run none.")] = False,
    suite: Annotated[Path, typer.Option(help="The suite's file, from the root of the source tree.")] = SUITE,
    out: Annotated[Path, typer.Option(help="The folder that keeps a folder for each run.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Attack a live space: every attack on a build that lacks one check, and on the shipped one, side by side.

    Exit code 0: each succeeds without its check, and is stopped with it. Run it in the source tree, where the weakened
    builds are.

    Example: ceiba-lab attack --all --json
    """
    found = load_suite(suite)
    if list_only or not (names or run_all):
        titles = {name: {"title": one.title, "without": one.without} for name, one in found.attacks.items()}
        lines = [f"{name:32} {one['title']}" for name, one in titles.items()]
        typer.echo(json.dumps(titles) if as_json else "\n".join(lines))
        return
    folder = out.absolute() / f"attack-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    folder.mkdir(mode=0o700, parents=True)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        duels = run_attacks(found, [] if run_all else names or [], folder, lambda duel: print(duel, flush=True))
    ok = all(duel.ok for duel in duels)
    facts = {"ok": ok, "attacks": [duel.to_plain() for duel in duels], "folder": str(folder)}
    (folder / "report.json").write_text(json.dumps(facts, indent=2))
    (folder / "report.txt").write_text("\n".join(map(str, duels)) + "\n")
    held = sum(duel.ok for duel in duels)
    verdict = f"{held} of {len(duels)} attacks succeed without their check and are stopped with it."
    typer.echo(json.dumps(facts) if as_json else f"{verdict}\nReports: {folder}")
    raise typer.Exit(0 if ok else CHECK_FAILED)


@app.command()
def up(
    holder: Annotated[list[str], typer.Option(help="NAME=TABLE:FILE, CSV or Parquet; once for each file.")],
    schema: Annotated[list[str] | None, typer.Option(help="TABLE=FILE.toml; otherwise derived from the files.")] = None,
    merchant: Annotated[str, typer.Option(help="Who asks.")] = "bank-a",
    folder: Annotated[Path | None, typer.Option(help="Keep all members' folders here; otherwise removed.")] = None,
    grade: Annotated[Grade, typer.Option(help="Of every column of a derived schema.")] = Grade.INTERNAL,
    as_json: AsJson = False,
) -> None:
    """Run a space until Ctrl-C, and say how to connect to it. A table has at least three holders.

    Example: ceiba-lab up --holder a=health.heart:a.csv --holder b=health.heart:b.csv --holder c=health.heart:c.csv
    """
    schemas = dict(_split(entry, "=", "--schema TABLE=FILE.toml") for entry in schema or [])
    with Sandbox(_read_holders(holder), schemas=schemas, folder=folder, grade=grade) as sandbox:
        space = sandbox.merchant(merchant)
        tables = [entry.name for entry in space.catalogue()]
        identity = str(sandbox.merchant_home(merchant).folder.absolute())
        passphrase = str(sandbox.passphrase_file.absolute())
        facts = {
            "coordinator": space.address, "identity": identity, "passphrase_file": passphrase, "tables": tables
        }  # fmt: skip
        typer.echo(json.dumps(facts) if as_json else _how_to_connect(space.address, identity, passphrase, tables[0]))
        with contextlib.suppress(KeyboardInterrupt):
            _watch(sandbox)


def _read_holders(entries: list[str]) -> dict[str, dict[str, str]]:
    """Holder → table → file; the same holder may be named for several tables."""
    holders: dict[str, dict[str, str]] = {}
    for entry in entries:
        name, source = _split(entry, "=", "--holder NAME=TABLE:FILE")
        table, file = _split(source, ":", "--holder NAME=TABLE:FILE")
        holders.setdefault(name, {})[table] = file
    return holders


def _split(entry: str, sign: str, form: str) -> tuple[str, str]:
    first, found, second = entry.partition(sign)
    if not found:
        raise typer.BadParameter(f"{entry} is not of the form {form}")
    return first, second


def _how_to_connect(address: str, identity: str, passphrase: str, table: str) -> str:
    sql = f"SELECT COUNT(*) FROM {table}"  # noqa: S608 - printed, not run
    return f"""The space is running; its coordinator is at {address}. The keys are sealed; this opens them:
    export CEIBA_PASSPHRASE_FILE={passphrase}

In Python:
    import ceiba
    space = ceiba.connect(identity="{identity}")
    print(space.catalogue())
    print(space.sql("{sql}").run())

On the command line:
    ceiba query "{sql}" --identity {identity}

Ctrl-C stops it."""


def _watch(sandbox: Sandbox) -> None:
    """Wait for Ctrl-C. Raises NotReachable when a process ends by itself."""
    while True:
        for process in sandbox.processes.values():
            process.require_running()
        time.sleep(LOOK_SECONDS)


def main() -> None:
    """Run the command line; a CeibaError is printed in its own words, with an exit code that tells its kind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways to stop leave no process behind
    try:
        app()
    except CeibaError as error:
        typer.echo(f"{error.public}\n{error.what_to_do}", err=True)
        sys.exit(error.fault.exit_code)


if __name__ == "__main__":
    main()
