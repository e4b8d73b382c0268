"""README.md and docs/ as data: their blocks of code, tables, commands and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(.*)$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. `info` is what stands after the fence: the language, and how a test may use it."""

    path: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    info, start, lines = None, 0, list[str]()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and info is None:
            info, start, lines = fence[1].strip(), number, []
        elif fence and info is not None:
            yield Block(path, start, info, "\n".join(lines) + "\n")
            info = None
        elif info is not None:
            lines.append(line)


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(path: Path) -> list[str]:
    """Targets of a page's links, without those to other sites."""
    return [target for target in _LINK.findall(prose(path)) if "://" not in target]


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings have on the usual sites."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def inline_code(path: Path) -> list[str]:
    return _INLINE.findall(prose(path))


def shell_lines(block: Block) -> Iterator[str]:
    """The commands of a console block, which stand after `$ `, and of a systemd unit."""
    for line in block.text.splitlines():
        if block.language == "console" and line.startswith("$ "):
            yield line.removeprefix("$ ")
        if block.language == "ini" and line.startswith("ExecStart="):
            yield line.removeprefix("ExecStart=")


def table_rows(path: Path, *header: str) -> list[list[str]]:
    """The cells of a page's table whose header begins with these words."""
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if _cells(line)[: len(header)] == list(header):
            next(lines)
            rows = list[list[str]]()
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append(_cells(row))
            return rows
    return []


def _cells(line: str) -> list[str]:
    if not line.startswith("|"):
        return []
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
