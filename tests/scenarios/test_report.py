"""Reports: one page that loads nothing, runs nothing, and says what it was told."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ceiba import plots
from ceiba.result import Result
from ceiba_protocol.errors import BadStory
from ceiba_protocol.statistics import WITHHELD
from ceiba_scenarios.report import Captioned, HtmlReport

HOSTILE = "<script>alert(1)</script>\"'&-->$x$<img src=x onerror=alert(1)>"
VOID = {"meta"}


class Page(HTMLParser):
    """Every tag with its attributes; the nesting must be right."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(word: str = "harmless") -> HtmlReport:
    result = Result((word, "n"), [(word, 20), ("other", WITHHELD)], groups=(word,))
    figure = plots.bars([word, "other"], [20, WITHHELD], title=word, label=word, axis=word)
    return (
        HtmlReport(word, word)
        .section(word, f"First {word}\nline.\n\nSecond.", result)
        .section("Figures", figure, Captioned(result.plot(title=word), word, alt=word))
        .section("Heat", plots.heat_map([word], [word, "b"], [[1, WITHHELD]], label=word))
    )


@pytest.mark.parametrize("word", ["harmless", HOSTILE])
def test_a_report_refers_to_nothing_outside_and_runs_nothing(word: str) -> None:
    page = Page(report(word).html())
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "img"}, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in {"href", "src", "xlink:href", "action", "data", "srcset"}:
                assert value is not None and re.match("#|data:image/png;base64,", value), value
            if value is not None and "url(" in value:
                assert set(re.findall(r"url\((.)", value)) == {"#"}, value
    assert "@import" not in report(word).html() and "://" not in report(word).html()


def test_hostile_words_are_shown_as_they_are() -> None:
    page = Page(report(HOSTILE).html())
    assert "".join(page.texts).count("<script>alert(1)</script>") >= 6
    assert page.all("svg")[1]["aria-label"] == HOSTILE


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    page = Page(report().html())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [str(value) for _, attributes in page.tags for value in attributes.values() if value]
    used = {one for value in wanted for one in re.findall(r"^#(\S+)$|url\(#([^)]+)\)", value)}
    assert {a or b for a, b in used if not re.fullmatch("[0-9a-f]{6}", a)} <= set(ids)


def test_a_report_is_accessible() -> None:
    page = Page(report().html())
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == len(page.all("main")) == 1
    figures = page.all("svg")
    assert len(figures) == len(page.all("figure")) == len(page.all("figcaption")) == 3
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in figures)
    assert len(page.all("caption")) == len(page.all("table")) == 1 and page.all("th")[0]["scope"] == "col"
    assert len(page.all("nav")) == 1 and "withheld" in page.texts


def test_colours_of_words_have_contrast() -> None:
    from ceiba.plots.style import GREY, INK
    from ceiba_scenarios.report import STYLE

    def luminance(color: str) -> float:
        digits = "".join(2 * digit for digit in color[1:]) if len(color) == 4 else color[1:]
        parts = [part / 255 for part in bytes.fromhex(digits)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    words = set(re.findall(r"(?<![-\w])color: (#[0-9a-f]+)", STYLE))
    assert len(words) >= 4
    assert all(1.05 / (luminance(color) + 0.05) >= 7 for color in words)
    assert all(1.05 / (luminance(color) + 0.05) >= 4.5 for color in (INK, GREY))


def test_paragraphs_and_the_file(tmp_path: Path) -> None:
    made = report()
    assert made.write(tmp_path / "report.html").read_text(encoding="utf-8") == made.html()
    assert "<p>First harmless line.</p>\n<p>Second.</p>" in made.html()


def test_what_cannot_be_shown_is_said() -> None:
    part: Any = 5
    with pytest.raises(BadStory, match="cannot show a int"):
        HtmlReport("t").section("s", part)
