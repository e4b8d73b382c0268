"""Is what README.md and docs/ say still true? `python -m tests.support.check_readme`

Commands parse, links resolve, Python compiles, configurations and schemas are accepted, and tables equal the code.
"""

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from ceiba.statistics import statistic_names
from ceiba_coordinator.config import Settings as CoordinatorSettings
from ceiba_node.config import Settings as NodeSettings
from ceiba_node.house_rules import Policy
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS
from tests.support.diagrams import drawn
from tests.support.documents import (
    ROOT,
    Block,
    anchors,
    blocks,
    inline_code,
    links,
    pages,
    prose,
    shell_lines,
    table_rows,
)

MERCHANT, STATISTICS_PAGE, PROTOCOL = (ROOT / "docs" / name for name in ("merchant.md", "statistics.md", "protocol.md"))


# --- commands --------------------------------------------------------------------------------------------------


@cache
def commands() -> dict[str, Any]:
    """Each of our programs by name, as the command-line library sees it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    modules = {name: importlib.import_module(entry.partition(":")[0]) for name, entry in scripts.items()}
    return {name: typer.main.get_command(module.app) for name, module in modules.items()}


def command_problem(line: str) -> str | None:
    """Why one of our programs would not take this line; None if it would, or for another program's."""
    words = _words(line)
    if not words or words[0] not in commands():
        return None
    program = commands()[words[0]]
    try:
        with program.make_context(words[0], list(words[1:])) as context:
            _, command, arguments = program.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(command.name, arguments, parent=context)
    except Exception as error:  # the library's own classes are private
        if type(error).__name__ != "Exit":  # --help
            return f"`{line}` does not parse: {error}"
    return None


def _words(line: str) -> list[str]:
    """A shell line as words, up to a redirection, a pipe or a second command."""
    words = shlex.split(line, comments=True)
    ends = [place for place, word in enumerate(words) if word in ("|", ">", ">>", "&&", ";", "&")]
    words = words[: min(ends, default=len(words))]
    return [Path(words[0]).name, *words[1:]] if words else []


def mention_problem(code: str) -> str | None:
    """Why inline code that begins with one of our programs is wrong: an unknown subcommand or option."""
    name, *rest = code.split(" ")
    if name not in commands() or not rest or not re.fullmatch("[a-z]+", rest[0]):
        return None
    subcommand = commands()[name].commands.get(rest[0])
    if subcommand is None:
        return f"`{code}`: {name} has no command {rest[0]}"
    known = {option for parameter in subcommand.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest[1:] if word.startswith("--") and word not in known | {"--help"}]
    return f"`{code}`: {name} {rest[0]} has no {', '.join(unknown)}" if unknown else None


def make_problems(path: Path) -> Iterator[str]:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    lines = [line for block in blocks(path) for line in shell_lines(block)]
    for target in re.findall(r"^make ([a-z-]+)", "\n".join([*lines, *inline_code(path)]), flags=re.MULTILINE):
        if target not in targets:
            yield f"the Makefile has no target {target}"


# --- blocks ----------------------------------------------------------------------------------------------------


def block_problem(block: Block) -> str | None:
    """Why a block of Python or TOML is not what it seems to be."""
    try:
        if block.language == "python":
            ast.parse(block.text)
        if block.language == "toml":
            read_toml(block.text)
    except (SyntaxError, tomllib.TOMLDecodeError, ValidationError, CeibaError) as error:
        return f"{block.place}: {error}"
    return None


def read_toml(text: str) -> Schema | CoordinatorSettings | NodeSettings | Policy:
    """A sample: policy.toml if it forbids columns, a schema if it has some, coordinator.toml if it names a space, else
    node.toml."""
    plain = tomllib.loads(text)
    if "forbidden_columns" in plain:
        return Policy.model_validate(plain)
    if "columns" in plain:
        return Schema.from_plain({"table": "example", **plain})
    return CoordinatorSettings.model_validate(plain) if "space" in plain else NodeSettings.model_validate(plain)


# --- links and tables ------------------------------------------------------------------------------------------


def link_problems(path: Path) -> Iterator[str]:
    for target in links(path):
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        if not page.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in anchors(page):
            yield f"the link {target} has no such heading"


def table_problems() -> Iterator[str]:
    rows = table_rows(STATISTICS_PAGE, "statistic", "SQL")
    said = {_names(row[0])[0]: set(_names(row[1])) for row in rows}
    if said != {name: set(kind.sql) for name, kind in STATISTICS.items()}:
        yield "docs/statistics.md: its table is not the registry of statistics"
    rows = table_rows(MERCHANT, "statistic", "also called")
    if {name for row in rows for name in _names(" ".join(row[:2]))} != _python_names():
        yield "docs/merchant.md: its table of statistics does not have the names that `dir(ceiba)` has"
    text = PROTOCOL.read_text(encoding="utf-8")
    if text != drawn(text):
        yield "docs/protocol.md: its diagrams are not the state tables'; python -m tests.support.diagrams draws them"


def _names(cells: str) -> list[str]:
    return re.findall("`([A-Za-z_][A-Za-z_0-9]*)`", cells)


def _python_names() -> set[str]:
    """Fits are a table's methods, and have no constructor in `ceiba`."""
    return set(statistic_names())


def section_problems() -> Iterator[str]:
    """Sections and invariants that the code cites and docs/protocol.md does not explain."""
    key = prose(PROTOCOL)
    for root in ("proto", "node", "coordinator", "sdk", "scenarios"):
        for path in [*(ROOT / root).rglob("*.py"), *(ROOT / root).rglob("*.proto")]:
            cited = re.findall(r"\b(?:PROTOCOL|DESIGN) §[\d.]*\d|\b[IP]\d{1,2}\b", path.read_text())
            for citation in sorted(set(cited)):
                if path.match("*_pb2*") or re.search(rf"{re.escape(citation)}(?![\d.]*\d)", key):
                    continue
                yield f"docs/protocol.md does not explain {citation}, which {path.relative_to(ROOT)} cites"


# --- all of it -------------------------------------------------------------------------------------------------


def page_problems(path: Path) -> Iterator[str]:
    checks: list[Callable[[Path], Iterator[str]]] = [make_problems, link_problems]
    for check in checks:
        yield from check(path)
    yield from filter(None, map(mention_problem, inline_code(path)))
    for block in blocks(path):
        yield from filter(None, [block_problem(block), *map(command_problem, shell_lines(block))])


def problems() -> list[str]:
    """Everything that is no longer true, in words."""
    found = [f"{path.relative_to(ROOT)}: {problem}" for path in pages() for problem in page_problems(path)]
    return [*found, *table_problems(), *section_problems()]


def main() -> None:
    found = problems()
    for problem in found:
        print(problem)
    if found:
        sys.exit(f"{len(found)} statements of the documentation are not true.")


if __name__ == "__main__":
    main()
