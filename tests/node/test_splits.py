"""Splits: a subject's part follows from its identifier and the seed alone, at every holder and in every version."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency

import ceiba
from ceiba.choosing import Wish, choose
from ceiba.query import Query, Table
from ceiba.sql import parse
from ceiba_node.drafts import Seal
from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.publishing import publish
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_node.withdrawals import withdraw
from ceiba_protocol.disclosure.grade import Grade
from ceiba_protocol.errors import (
    BadQuestion,
    CeibaError,
    EngineFailed,
    NoAgreement,
    NotAgreed,
    SplitNeedsSubjectKey,
    WrongType,
)
from ceiba_protocol.expression import Part, seeds_of, split_key, to_text
from ceiba_protocol.plan import finish
from ceiba_protocol.program import DIGEST, part_of, subject_digest
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import check_covers
from tests.support.members import NOW as WORLD_NOW
from tests.support.members import World, changed, publisher
from tests.support.questions import NoRunner

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHO = 40
KEY_OF_STUDY_7 = 343351692125748444420060064620099147
DIGEST_OF_ZOE = 71663818247157168
PARTS_OF_EIGHT = [18, 16, 1, 14, 5, 17, 15, 18]
SEED = "study 7"
PARTS = (2, 4, 5, 10, 20)
SCHEMA = Schema.from_plain(
    {
        "table": "health.heart",
        "subject_key": "patient",
        "columns": [
            {"name": "who", "type": "int", "domain": list(range(WHO))},
            {"name": "x", "type": "int", "minimum": 0, "maximum": 9},
        ],
    }
)
HEART = Table(SCHEMA, NoRunner())


def name(who: int) -> str:
    """A patient's identifier; the column `who` lets a test see whom a row is about."""
    return f"Zoë-{who}"


def holder(folder: Path, who: str) -> SnapshotStore:
    return SnapshotStore(folder / who, holder=who, keep=3)


def published(store: SnapshotStore, folder: Path, patients: Sequence[tuple[str, int]]) -> Snapshot:
    source = folder / "source.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "who", "x"), *((text, who, who % 10) for text, who in patients)])
    key, signer = b"k" * 32, publisher(store.holder)
    publish(store, source, SCHEMA, now=NOW, version_key=key, publisher=signer)
    return store.current(SCHEMA.table)


@pytest.fixture
def engine(tmp_path: Path) -> Iterable[DuckDBEngine]:
    engine = DuckDBEngine(holder="a", memory_limit="300MB", threads=1, temp_directory=tmp_path / "spill")
    yield engine
    engine.close()


def parts_in(engine: DuckDBEngine, snapshot: Snapshot, parts: int = 5, seed: str = SEED) -> dict[int, int]:
    """Patient → part, as the engine finds it."""
    program = HEART.group_by("who", ceiba.split(seed, parts)).count().program
    rows = finish(program, engine.grouped_sums(snapshot, program))
    assert all(count in (0, *range(1, 100)) for *_, count in rows)
    found = [(who, int(str(part))) for who, part, _ in rows]
    assert len({who for who, _ in found}) == len(found), "a patient in two parts"
    return {int(str(who)): part for who, part in found}


def meant(patients: Iterable[int], parts: int = 5, seed: str = SEED) -> dict[int, int]:
    return {who: part_of(split_key(seed), subject_digest(name(who)), parts) for who in patients}


# --- the same everywhere -----------------------------------------------------------------------------------------


def test_a_patient_is_in_the_same_part_at_every_holder(tmp_path: Path, engine: DuckDBEngine) -> None:
    here = [(name(who), who) for who in (3, 1, 2, 7, 7, 30, 12)]
    there = [(f"  {name(who)} ", who) for who in reversed((1, 2, 3, 4, 12, 35, 1))]
    one = parts_in(engine, published(holder(tmp_path, "a"), tmp_path, here))
    other = parts_in(engine, published(holder(tmp_path, "b"), tmp_path, there))
    assert set(one) & set(other) == {1, 2, 3, 12} and len(set(one.values())) > 1
    assert one == meant(one) and other == meant(other)


def test_a_composed_and_a_decomposed_letter_are_the_same_person(tmp_path: Path, engine: DuckDBEngine) -> None:
    decomposed = [(name(who).replace("ë", "e\N{COMBINING DIAERESIS}"), who) for who in range(WHO)]
    assert parts_in(engine, published(holder(tmp_path, "a"), tmp_path, decomposed)) == meant(range(WHO))


def test_parts_stay_in_every_version(tmp_path: Path, engine: DuckDBEngine) -> None:
    store = holder(tmp_path, "a")
    first = published(store, tmp_path, [(name(who), who) for who in range(20)])
    second = published(store, tmp_path, [(name(who), who) for who in reversed(range(10, WHO))])
    assert first.version != second.version
    assert parts_in(engine, first) == meant(range(20)) and parts_in(engine, second) == meant(range(10, WHO))
    withdraw(store, SCHEMA.table, [name(15)], Seal(NOW, b"k" * 32, publisher("a")))
    third = store.current(SCHEMA.table)
    assert parts_in(engine, third) == meant(set(range(10, WHO)) - {15})


def test_filters_divide_the_rows(tmp_path: Path, engine: DuckDBEngine) -> None:
    snapshot = published(holder(tmp_path, "a"), tmp_path, [(name(who), who) for who in range(WHO)])

    def total(table: Table) -> list[int]:
        return engine.grouped_sums(snapshot, table.agg(n=ceiba.count(), x=ceiba.sum("x")).program)

    split = ceiba.split(SEED, 5)
    fitted, judged = total(HEART.filter(split != 0)), total(HEART.filter(split == 0))
    assert [a + b for a, b in zip(fitted, judged, strict=True)] == total(HEART)
    assert judged[0] == list(meant(range(WHO)).values()).count(0) > 0
    assert total(HEART.filter(split == 7))[0] == total(HEART.filter(split < 0))[0] == 0
    assert total(HEART.filter(split.isin([1, 2])))[0] == total(HEART.filter((split > 0) & (split <= 2)))[0]


def test_a_version_without_digests_answers_no_split(tmp_path: Path, engine: DuckDBEngine) -> None:
    snapshot = published(holder(tmp_path, "a"), tmp_path, [(name(1), 1)])
    with duckdb.connect(str(snapshot.path)) as database:
        database.execute(f'ALTER TABLE rows DROP COLUMN "{DIGEST}"')
    assert engine.grouped_sums(snapshot, HEART.count().program)
    with pytest.raises(EngineFailed):
        engine.grouped_sums(snapshot, HEART.filter(ceiba.split(SEED) == 0).count().program)


def test_the_digest_is_part_of_what_the_version_commits_to(tmp_path: Path) -> None:
    """The same numbers for other people are another version."""
    versions = {published(holder(tmp_path, text), tmp_path, [(text, 1)]).version for text in ("ann", "bob")}
    assert len(versions) == 2


# --- the hash ----------------------------------------------------------------------------------------------------


def test_parts_are_pinned() -> None:
    """Changing these would move people from fitting to judging in every study."""
    key = split_key(SEED)
    assert (key, subject_digest("Zoë-1")) == (KEY_OF_STUDY_7, DIGEST_OF_ZOE)
    assert [part_of(key, subject_digest(f"p{n}"), 20) for n in range(8)] == PARTS_OF_EIGHT


@pytest.mark.parametrize("parts", PARTS)
def test_parts_are_even_and_made_of_the_same_twentieths(parts: int) -> None:
    digests = [subject_digest(str(n)) for n in range(10_000)]
    key = split_key("even")
    counts = Counter(part_of(key, digest, parts) for digest in digests)
    assert set(counts) == set(range(parts))
    expected = len(digests) / parts
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert statistic < chi2.ppf(1 - 1e-6, parts - 1)
    assert all(part_of(key, digest, 20) * parts // 20 == part_of(key, digest, parts) for digest in digests)


def test_two_seeds_give_independent_splits() -> None:
    table = [[0] * 5 for _ in range(5)]
    one, other = split_key("one"), split_key("other")
    for n in range(10_000):
        digest = subject_digest(str(n))
        table[part_of(one, digest, 5)][part_of(other, digest, 5)] += 1
    assert chi2_contingency(table).pvalue > 1e-6


def sums_over(seeds: Sequence[str], people: int) -> Any:
    """[sums, people]: who is in each part, in 20 parts under each seed, as anybody can compute who knows them."""
    digests = [subject_digest(str(n)) for n in range(people)]
    found = [[part_of(split_key(seed), digest, 20) for digest in digests] for seed in seeds]
    return np.array([[int(part == of) for part in parts] for parts in found for of in range(20)])


def test_free_seeds_would_give_everybodys_value_and_one_seed_does_not() -> None:
    """Why the seed is the agreement's purpose: ADR 0019."""
    people = 300
    secret = np.arange(people) * 7 % 11
    known = sums_over([f"seed {n}" for n in range(20)], people)
    assert known.sum(axis=1).min() >= 3 and len(known) == 400
    found = np.linalg.lstsq(known, known @ secret, rcond=None)[0]
    assert np.rint(found).astype(int).tolist() == secret.tolist()
    assert np.linalg.matrix_rank(sums_over(["the purpose"], people)) == 20


# --- questions ---------------------------------------------------------------------------------------------------


def test_groups_are_called_by_the_numbers_of_the_parts() -> None:
    query = HEART.group_by(ceiba.split(SEED, 4)).agg(n=ceiba.count())
    result = query.having(ceiba.col("part") >= 1).order_by("part").mock(rows=400)
    assert result["part"] == [1, 2, 3] and min(result["n"]) > 50
    assert query.mock(rows=400)["part"] == [0, 1, 2, 3] and query.program.cells == 4  # and no NULL
    assert "group part = SPLIT('study 7', 4)" in repr(query)
    assert HEART.group_by(ceiba.split(SEED, 4).alias("fold")).count().columns == ("fold", "count")


def test_sql_says_the_same() -> None:
    def asked(sql: str) -> Any:
        plan, presentation = parse(sql, lambda _: SCHEMA)
        return Query(SCHEMA, NoRunner(), plan, presentation)

    query = asked("SELECT SPLIT('study 7', 4) AS fold, COUNT(*) AS n FROM health.heart GROUP BY fold ORDER BY fold")
    same = HEART.group_by(ceiba.split(SEED, 4).alias("fold")).agg(n=ceiba.count())
    assert query.plan() == same.plan() and query.mock().rows == same.mock().rows
    filtered = asked("SELECT COUNT(*) AS n FROM health.heart WHERE SPLIT('study 7', 5) <> 0")
    assert filtered.plan() == HEART.filter(ceiba.split(SEED, 5) != 0).agg(n=ceiba.count()).plan()
    for wrong in ("SPLIT(5, 'a')", "SPLIT('a')", "SPLIT('a', 3)", "SPLIT(who, 5)"):
        with pytest.raises(CeibaError):
            asked(f"SELECT COUNT(*) FROM health.heart WHERE {wrong} = 0")


@pytest.mark.parametrize(
    "use",
    [
        lambda: HEART.agg(s=ceiba.sum(ceiba.split(SEED))),
        lambda: HEART.agg(s=ceiba.mean(HEART.x * ceiba.split(SEED))),
        lambda: HEART.filter(ceiba.split(SEED) + 1 == 2),
        lambda: HEART.filter(ceiba.split(SEED) == 0.5),
        lambda: HEART.filter(ceiba.split(SEED) == "0"),
        lambda: HEART.filter(ceiba.split(SEED) == HEART.x),
        lambda: HEART.filter(ceiba.split(SEED)),
        lambda: HEART.filter(ceiba.split(SEED) == ceiba.split("other")),
        lambda: HEART.group_by(ceiba.width_bucket(ceiba.split(SEED), 0, 5, 5)).count(),
        lambda: HEART.count().having(ceiba.split(SEED) == 0),
        lambda: HEART.agg(s=ceiba.sum(ceiba.case((HEART.x > 1, ceiba.split(SEED)), otherwise=0))),
    ],
)
def test_a_part_is_no_number(use: Any) -> None:
    with pytest.raises(WrongType):
        use()


@pytest.mark.parametrize(("seed", "parts"), [("s", 3), ("s", 1), ("s", 40), ("s", 0)])
def test_only_divisors_of_twenty_are_numbers_of_parts(seed: str, parts: int) -> None:
    with pytest.raises(BadQuestion, match="2, 4, 5, 10 or 20"):
        ceiba.split(seed, parts)


def test_a_seed_is_a_text() -> None:
    seed: Any = 7
    with pytest.raises(BadQuestion, match="no text"):
        ceiba.split(seed)


def test_a_table_without_subjects_has_no_splits() -> None:
    keyless = Schema.from_plain({"table": "t", "columns": [{"name": "x", "type": "bool"}]})
    with pytest.raises(SplitNeedsSubjectKey, match="no splits of t"):
        Table(keyless, NoRunner()).filter(ceiba.split(SEED) == 0)


def test_a_seed_is_text_in_words_and_found_in_a_plan() -> None:
    assert to_text(Part(seed="o'clock", parts=5)) == "SPLIT('o''clock', 5)"
    rich = HEART.filter((ceiba.split("a") == 0) | ~(ceiba.split("b") == 1)).group_by(ceiba.split("c"))
    query = rich.agg(m=ceiba.mean(ceiba.case((ceiba.split("d") == 1, HEART.x), otherwise=0)))
    assert seeds_of(query.plan()) == {"a", "b", "c", "d"} and seeds_of(HEART.count().plan()) == frozenset()


# --- agreements --------------------------------------------------------------------------------------------------


def agreement_and_plan(seed: str, **rules: Any) -> tuple[Any, Any]:
    world = World()
    plan = HEART.filter(ceiba.split(seed) == 0).count().plan()
    disclosure = changed(world.agreement.disclosure, **rules)
    changes = {"table": plan.table, "operations": ("count", "filter"), "disclosure": disclosure, "purpose": SEED}
    return changed(world.agreement, **changes), plan


def test_the_seed_is_the_purpose_of_the_agreement() -> None:
    check_covers(*agreement_and_plan(SEED, minimum_subjects=5))
    with pytest.raises(NotAgreed, match="another seed of a split than its purpose: tuned"):
        check_covers(*agreement_and_plan("tuned", minimum_subjects=5))


def test_a_choice_among_agreements_says_what_the_nearest_lacks() -> None:
    world = World()
    agreement, plan = agreement_and_plan("tuned", minimum_subjects=5)
    wish = Wish(plan, WORLD_NOW, WORLD_NOW + 60)
    with pytest.raises(NoAgreement, match="has another purpose than the split's seed, tuned"):
        choose([world.contract(agreement)], wish, world.roster, lambda _: 0)


def test_where_nothing_is_protected_any_seed_will_do() -> None:
    check_covers(*agreement_and_plan("tuned", grade=Grade.PUBLIC, minimum_subjects=1, minimum_holders=1))
