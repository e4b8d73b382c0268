"""A story's report as one HTML page: text, tables, figures; nothing is loaded from elsewhere, and nothing runs.

report = HtmlReport("Heart disease in four hospitals", "What bank-a asked, and what it was told.")
report.section("Cohort", "Who they are.", result, Captioned(result.plot(), "Patients by sex"))
report.write(lab.folder / "report.html")
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from ceiba_protocol.errors import BadStory
from ceiba_protocol.trust.rendering import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ceiba.summary import TablePart

STYLE = """
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 54rem; padding: 0 1.2rem; background: #fff; color: #222;
  font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #ccc; }
p { margin: .6rem 0; max-width: 42rem; }
.lead { font-size: 1.1rem; color: #444; }
nav ol { margin: 1rem 0; padding-left: 1.4rem; columns: 2; }
a { color: #00558c; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide:focus { outline: 2px solid #00558c; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { caption-side: bottom; text-align: left; color: #555; font-size: .85rem; padding-top: .4rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #666; }
figure { margin: 1.2rem 0; }
figcaption { color: #555; font-size: .9rem; max-width: 42rem; }
svg { max-width: 100%; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
@media print {
  body { margin: 0; max-width: none; font-size: 10.5pt; }
  nav { display: none; }
  figure, table, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .wide { overflow: visible; }
}
"""
"""Text and captions have at least 7:1 of contrast on white, links 7:1 (WCAG 2.2, level AAA)."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing but what is in it."""


@runtime_checkable
class ShowsItself(Protocol):
    """Results, outcomes, listings: what notebooks show as a table. Its HTML is taken as it is."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True)
class Captioned:
    """A figure with its caption; `alt` says in words what it shows, for who does not see it."""

    figure: Figure
    caption: str
    alt: str = ""


class Listing:
    """A table of texts in the report, whole however long they are."""

    def __init__(self, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], title: str = "") -> None:
        self.columns, self.rows, self.title = columns, rows, title

    def _repr_html_(self) -> str:
        caption = f"<caption>{_cell(self.title)}</caption>" if self.title else ""
        head = "".join(f'<th scope="col">{_cell(name)}</th>' for name in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in self.rows)
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Part:
    """One table of an outcome, as its summary in a notebook has it."""

    def __init__(self, part: TablePart) -> None:
        self._html = part.html()

    def _repr_html_(self) -> str:
        return self._html


class HtmlReport:
    """A page with a title and sections, in the order in which they are added."""

    def __init__(self, title: str, lead: str = "", *, language: str = "en") -> None:
        self.title = title
        self.lead = lead
        self.language = language
        self._sections: list[tuple[str, str]] = []
        self._figures = 0

    def section(self, heading: str, *parts: str | ShowsItself | Figure | Captioned) -> Self:
        """Add a section: texts (an empty line ends a paragraph), tables, figures. Raises BadStory for anything else."""
        self._sections.append((heading, "\n".join(self._part(part) for part in parts)))
        return self

    def write(self, path: Path) -> Path:
        """Write the page; returns `path`."""
        path.write_text(self.html(), encoding="utf-8")
        return path

    def html(self) -> str:
        """The whole page."""
        lead = f'<p class="lead">{_text(self.lead)}</p>' if self.lead else ""
        body = "\n".join(
            f'<section id="s{n}" aria-labelledby="h{n}"><h2 id="h{n}">{_text(heading)}</h2>\n{content}</section>'
            for n, (heading, content) in enumerate(self._sections, start=1)
        )
        return f"""<!DOCTYPE html>
<html lang="{escape(self.language)}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(self.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{_text(self.title)}</h1>{lead}</header>
{_contents([heading for heading, _ in self._sections])}
<main>
{body}
</main>
</body>
</html>
"""

    # --- parts

    def _part(self, part: object) -> str:
        from matplotlib.figure import Figure

        match part:
            case str():
                return _paragraphs(part)
            case Figure():
                return self._figure(Captioned(part, _titles(part)))
            case Captioned():
                return self._figure(part)
            case ShowsItself():
                table = part._repr_html_()
                return f'<div class="wide" role="region" aria-label="table" tabindex="0">{table}</div>'
        raise BadStory(story=self.title, problem=f"a section of a report cannot show a {type(part).__name__}")

    def _figure(self, captioned: Captioned) -> str:
        self._figures += 1
        label = _text(captioned.alt or captioned.caption)
        svg = _inline_svg(captioned.figure, f"f{self._figures}-")
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        caption = f"<figcaption>Figure {self._figures}. {_text(captioned.caption)}</figcaption>"
        return f"<figure>{svg}{caption}</figure>"


def _text(text: str) -> str:
    """Escaped, also for attributes, and without what turns the writing direction."""
    return escape(printable(text))


def _cell(value: Any) -> str:
    return _text("–" if value is None else str(value))


def _paragraphs(text: str) -> str:
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return "\n".join(f"<p>{_text(part)}</p>" for part in parts if part)


def _contents(headings: Sequence[str]) -> str:
    if len(headings) < 3:
        return ""
    items = "".join(f'<li><a href="#s{n}">{_text(heading)}</a></li>' for n, heading in enumerate(headings, start=1))
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _titles(figure: Figure) -> str:
    """What a figure's panels are called, for a figure without a caption."""
    titles = [axes.get_title(loc="left").replace(r"\$", "$") for axes in figure.axes]
    return ", ".join(title for title in titles if title) or "figure"


def _inline_svg(figure: Figure, prefix: str) -> str:
    """The figure as an `<svg>` element whose texts are texts; ids begin with `prefix`, so that figures share none."""
    import matplotlib

    buffer = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(<[^>]*?\bid=")', rf"\g<1>{prefix}", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
