"""README.md and docs/ are true: their commands parse, their examples run, their tables are the code's."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import ceiba
import ceiba_protocol
from ceiba_coordinator.config import SAMPLE as COORDINATOR_SAMPLE
from ceiba_node.config import SAMPLE as NODE_SAMPLE
from ceiba_node.house_rules import SAMPLE_POLICY
from ceiba_node.quantising import CONFORMING, Rule, rule_for
from ceiba_protocol.disclosure.grade import RULES, as_rho
from ceiba_protocol.errors import ERRORS, CeibaError
from ceiba_protocol.identifiers import Flaw, IdentifierKind
from ceiba_protocol.schema import ColumnType, Grade, Schema
from tests.support import check_readme, diagrams
from tests.support.check_readme import read_toml
from tests.support.documents import ROOT, Block, blocks, pages, table_rows
from tests.support.offline import OfflineSpace
from tests.support.pooled_heart import PooledSpace

README = ROOT / "README.md"
HOSPITAL, MERCHANT, SCHEMA, STATISTICS = (
    ROOT / "docs" / f"{name}.md" for name in ("hospital", "merchant", "schema", "statistics")
)
GUIDE = ROOT / "docs" / "merchant"
"""A page for each analysis."""


def _blocks(path: Path, info: str) -> list[Block]:
    return [block for block in blocks(path) if block.info == info]


def _schema(path: Path) -> Schema:
    """The one schema that a page shows."""
    found = [read for block in _blocks(path, "toml") if isinstance(read := read_toml(block.text), Schema)]
    (schema,) = found
    return schema


@pytest.fixture
def space() -> OfflineSpace:
    return OfflineSpace({"health.heart": _schema(HOSPITAL)})


# --- what check_readme checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_a_page_says_nothing_untrue(path: Path) -> None:
    assert list(check_readme.page_problems(path)) == []


def test_tables_and_section_key_equal_the_code() -> None:
    assert [*check_readme.table_problems(), *check_readme.section_problems()] == []


@pytest.mark.parametrize(
    "line",
    [
        "ceiba quer 'SELECT 1'",
        "ceiba query",
        "ceiba pin --finger 7f3a",
        "/opt/ceiba/bin/ceiba-node publish a.csv",
        "ceiba-lab run health_sharing --seed many",
    ],
)
def test_a_command_that_does_not_parse_is_found(line: str) -> None:
    assert check_readme.command_problem(line) is not None


def test_an_unknown_option_in_prose_is_found() -> None:
    assert check_readme.mention_problem("ceiba pin --json") is not None
    assert check_readme.mention_problem("ceiba pin --file roster.json") is None


def test_a_bad_sample_and_a_dead_link_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[gone](nowhere.md) [here](#absent)\n\n# Heading\n")
    assert len(list(check_readme.link_problems(page))) == 2
    assert check_readme.block_problem(Block(README, 1, "toml", "threads = 0\n")) is not None
    assert check_readme.block_problem(Block(README, 1, "python", "import\n")) is not None


def test_diagrams_are_drawn_from_the_state_tables() -> None:
    text = diagrams.PAGE.read_text(encoding="utf-8")
    assert text == diagrams.drawn(text)
    assert set(re.findall(r"```mermaid (\w+)", text)) == set(diagrams.DIAGRAMS)


def test_the_threat_model_names_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)::(\w+)`", text)
    assert len(named) >= 5
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


# --- samples ---------------------------------------------------------------------------------------------------


def test_samples_are_the_files_that_init_writes() -> None:
    texts = [block.text for block in _blocks(HOSPITAL, "toml")]
    local = {"address": "127.0.0.1:7443", "enrolment_address": "127.0.0.1:7444"}
    listen = {"listen": "127.0.0.1:7443", "listen_enrolment": "127.0.0.1:7444"}
    assert NODE_SAMPLE in texts
    assert SAMPLE_POLICY in texts
    assert COORDINATOR_SAMPLE.format(space="city-health", **local, **listen) in texts


def test_the_schema_example_has_every_type_and_field() -> None:
    columns = _schema(SCHEMA).columns
    assert {column.type for column in columns} == set(ColumnType)
    described = {name for row in table_rows(SCHEMA, "field", "types") for name in re.findall("`([a-z_]+)`", row[0])}
    assert described == set(type(columns[0]).model_fields)
    described = {name for row in table_rows(SCHEMA, "field", "needed") for name in re.findall("`([a-z_]+)`", row[0])}
    assert described == set(Schema.model_fields)
    assert {row[0].strip("`") for row in table_rows(SCHEMA, "kind", "what it is")} == set(IdentifierKind)


def test_grades_demand_what_the_page_says() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table_rows(SCHEMA, "grade", "subjects in every released cell")}
    assert set(rows) == {grade.value for grade in Grade}
    for grade, rule in RULES.items():
        wanted = [rule.minimum_subjects, rule.minimum_holders, rule.exact_jobs, as_rho(rule.rho_per_year)]
        assert rows.pop(grade.value) == [str(one) for one in wanted]
    assert all("refused" in refused[0] for refused in rows.values())


def test_publishing_rules_are_all_described() -> None:
    said: dict[str, bool] = {}
    for rules, *_, conforms in table_rows(HOSPITAL, "rule", "meaning"):
        said |= dict.fromkeys(re.findall("`([a-z_]+)`", rules), conforms == "yes")
    columns = [*_schema(HOSPITAL).columns, *_schema(SCHEMA).columns]
    columns = [column for column in columns if column.type is not ColumnType.CATEGORY]
    of_values = {rule.name_for(column): rule in CONFORMING for rule in Rule for column in columns}
    assert said == of_values | {rule_for(flaw): False for flaw in Flaw}


def test_every_log_event_is_described() -> None:
    logged = re.compile(r"\blog\.(?:info|warning|error)\(\s*\"([a-z_.]+)\"")
    files = [path for role in ("node", "coordinator") for path in (ROOT / role).rglob("*.py")]
    events = {event for path in files for event in logged.findall(path.read_text())}
    assert len(events) > 30
    assert events - set(re.findall("`([a-z_.]+)`", HOSPITAL.read_text())) == set()


def test_exit_codes_and_error_codes_fit() -> None:
    rows = {row[0]: row for row in table_rows(MERCHANT, "exit code", "fault")}
    for code in (2, 3, 4, 5):
        _, fault, _, examples = rows[str(code)]
        for name in re.findall("`([a-z_]+)`", examples):
            assert (ERRORS[name].fault.name, ERRORS[name].fault.exit_code) == (fault.strip("`"), code)


# --- examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [README, MERCHANT], ids=lambda path: path.name)
def test_python_examples_run(path: Path, space: OfflineSpace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # an example writes a figure
    monkeypatch.setattr("ceiba.space.connect", lambda *_, **__: space)
    names: dict[str, object] = {}
    for block in _blocks(path, "python"):
        exec(compile(block.text, block.place, "exec"), names)
    assert names["space"] is space


@pytest.mark.parametrize("path", sorted(GUIDE.glob("*.md")), ids=lambda path: path.name)
def test_examples_of_the_guide_print_what_stands_below_them(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the rows of the stories' hospitals, pooled: a text block is what the Python above it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"ceiba": ceiba, "space": PooledSpace()}
    printed = io.StringIO()
    for block in blocks(path):
        if block.info == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, block.place, "exec"), names)
        elif block.info == "text":
            assert printed.getvalue() == block.text, block.place
            printed = io.StringIO()


def test_sql_examples_are_understood(space: OfflineSpace) -> None:
    (block,) = _blocks(MERCHANT, "sql")
    for sql in block.text.splitlines():
        assert space.sql(sql).mock().columns


def test_refusals_are_refused_with_their_hints(space: OfflineSpace) -> None:
    rows = table_rows(MERCHANT, "refused", "example")
    assert len(rows) >= 10
    for _, example, hint in rows:
        with pytest.raises(CeibaError) as caught:
            space.sql(example.strip("`"))
        assert hint in caught.value.what_to_do


STAYS = """
table = "example.stays"
columns = [
    { name = "cost", type = "decimal", resolution = 0.01, minimum = 0, maximum = 9000 },
    { name = "days", type = "int", minimum = 1, maximum = 90 },
]
"""


def test_the_new_statistic_is_one_file(tmp_path: Path) -> None:
    """In a copy of the protocol package, so that the registry finds the file as it would find a committed one."""
    (statistic,), (use,) = _blocks(STATISTICS, "python statistic"), _blocks(STATISTICS, "python uses-statistic")
    package = tmp_path / "ceiba_protocol"
    shutil.copytree(Path(ceiba_protocol.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "statistics" / "ratio_of_sums.py").write_text(statistic.text)
    plain = tomllib.loads(STAYS)
    setup = (
        "from tests.support.offline import OfflineSpace\nfrom ceiba_protocol.schema import Schema\n"
        f"space = OfflineSpace({{'example.stays': Schema.from_plain({plain!r})}})\n"
    )
    check = "assert ceiba.ratio_of_sums.__doc__ and 0 < ratio < 9000 and len(stays.columns) == 2\n"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", setup + use.text + check], env=environment, check=True)


# --- the wire schema ---------------------------------------------------------------------------------------------

_FIELD = re.compile(r"^\s*(repeated |optional )?(map<\w+, \w+>|\w+) \w+ = \d+;")


@pytest.mark.parametrize("file", sorted((ROOT / "proto/ceiba_protocol/v1").glob("*.proto")), ids=lambda file: file.name)
def test_every_field_on_the_wire_says_what_it_is(file: Path) -> None:
    lines = file.read_text().splitlines()
    silent = [
        line.strip() for before, line in pairwise(lines) if _FIELD.match(line) and not before.strip().startswith("//")
    ]
    assert silent == []
    assert sum(1 for line in lines if _FIELD.match(line)) > 3
