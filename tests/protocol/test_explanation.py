"""An explanation: the same facts give the same text on both sides, and it names what would refuse the job."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ceiba.sql import parse
from ceiba_protocol.disclosure.grade import RULES, Disclosure, NoiseRule
from ceiba_protocol.disclosure.support import tests_of as find_tests
from ceiba_protocol.errors import CeibaError, NoAgreement
from ceiba_protocol.explaining import Asked, Book, explain
from ceiba_protocol.explanation import Explanation
from ceiba_protocol.plan import compile_plan
from ceiba_protocol.rounds import make_manifest, read_manifest
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.members import HOLDERS, MERCHANT, NOW, World, graded, signed_by

SENSITIVE = RULES[Grade.SENSITIVE]
NOISE = NoiseTerms(rho=5_000)
MERCHANTS, HOUSES = "by this folder's own count", "in this house's ledger"
NONE = NoAgreement(table="health.heart", problem="none is known")
CAPACITIES = {"cleveland": 1024, "hungary": 512, "zurich": 1024}


def schema_of(grade: Grade) -> Schema:
    columns = [
        {"name": "sex", "type": "category", "domain": ["female", "male"], "shares": ["1", "3"], "nullable": False},
        {"name": "age", "type": "int", "minimum": 0, "maximum": 120, "grade": grade},
        {"name": "stage", "type": "category", "domain": ["a", "b", "c"]},
    ]
    return Schema.from_plain({"table": "health.heart", "columns": columns})


def asked_with(
    sql: str = "SELECT sex, COUNT(*) AS n, AVG(age) AS years FROM health.heart GROUP BY sex",
    noise: NoiseTerms | None = None,
    grade: Grade = Grade.SENSITIVE,
    agreement: CeibaError | None = None,
    capacities: dict[str, int] | None = None,
    **agreed: Any,
) -> Asked:
    schema = schema_of(grade)
    made = World().make_agreement(
        schema_digest=schema.digest(), columns=("age", "sex", "stage"), **({"disclosure": RULES.get(grade)} | agreed)
    )
    plan = parse(sql, lambda _: schema)[0]
    return Asked(plan, schema, capacities or CAPACITIES, 3072, noise, agreement or made)


def explained(book: Book | None = None, **asked: Any) -> Explanation:
    return explain(asked_with(**asked), book or Book(MERCHANTS))


def codes(explanation: Explanation) -> list[str]:
    return [error.code for error in explanation.refusals]


# --- both sides ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [None, NOISE])
def test_both_sides_read_the_same(noise: NoiseTerms | None) -> None:
    """The merchant from the catalogue's offers, a holder from the manifest; only whose count it is differs."""
    world = World(schema=graded("internal"))
    assert world.merchant.encryption_key is not None
    bits = world.merchant.encryption_key.n.bit_length()
    offered = {offer.holder: offer.row_capacity for offer in world.offers()}
    merchants = Asked(world.plan, world.schema, offered, bits, noise, world.agreement)
    manifest = make_manifest(
        job_id=world.job_id, number=8, agreement=world.agreement, merchant=world.merchant, plan=world.plan,
        schema=world.schema, offers=world.offers(), now=NOW, seconds=60, noise=noise,
    )  # fmt: skip
    read = read_manifest(signed_by(MERCHANT, manifest), world.agreement, world.roster, world.schema, NOW).manifest
    pinned = {pin.holder: pin.row_capacity for pin in read.datasets}
    holders = Asked(read.plan, world.schema, pinned, bits, read.noise, world.agreement)
    one, other = explain(merchants, Book(MERCHANTS, 7, 1000)), explain(holders, Book(HOUSES, 7, 1000))
    assert [line.replace(MERCHANTS, HOUSES) for line in one.lines()] == other.lines()
    assert one.to_dict() == {**other.to_dict(), "whose_count": MERCHANTS}


def test_the_size_is_that_of_the_round() -> None:
    """Ciphertexts of the layout that the manifest names, and the words that each holder sends to the gate."""
    world = World(schema=graded("internal"))
    question = world.read()
    gate = question.gate(3)
    assert gate is not None
    offered = {offer.holder: offer.row_capacity for offer in world.offers()}
    asked = Asked(world.plan, world.schema, offered, question.modulus.bit_length(), None, world.agreement)
    found = explain(asked, Book(MERCHANTS))
    assert found.ciphertexts == question.layout.ciphertexts
    assert found.bytes_per_holder == found.ciphertexts * 256 + 8 * gate.words
    assert (found.cells, found.sums, found.tests) == (2, len(question.program.sums), len(find_tests(question.program)))


def test_programs_get_what_people_read() -> None:
    found = explained(noise=NOISE, book=Book(HOUSES, spent=20_000, spent_by_all=30_000))
    facts = json.loads(json.dumps(found.to_dict()))
    assert facts["noise"]["epsilon"] == pytest.approx(found.noise and found.noise.epsilon)
    assert [one["remains"] for one in facts["accounts"]] == ["99", "0.075", "0.365"]
    assert facts["withheld"] == round(found.withheld, 3)


# --- who sees what ---------------------------------------------------------------------------------------------


def test_holders_learn_capped_counts_or_noisy_ones_and_without_a_gate_nothing() -> None:
    exact, noisy = explained().parties, explained(noise=NOISE).parties
    assert "counted up to 5 at each holder, so up to 15" in exact["each holder"]
    assert "each cell's rows at all 3 holders, with noise" in noisy["each holder"] and "with noise" in noisy["merchant"]
    public = explained(grade=Grade.PUBLIC, disclosure=RULES[Grade.PUBLIC])
    assert "gate" not in "".join(public.parties.values()) and public.forecast is None and public.tests == 0
    assert not [one for one in public.accounts if "exact" in one.what]


def test_a_merchants_words_cannot_pass_for_a_line_of_ours() -> None:
    sql = "SELECT CASE WHEN age > 1 THEN 'x\u3164y' ELSE '  budget  0' END AS g, COUNT(*) FROM health.heart GROUP BY g"
    shown = str(explained(sql=sql))
    assert "\u3164" not in shown and "\\U00003164" in shown and "  budget  0" not in shown.split("Who sees what")[0]


def test_every_condition_of_a_group_is_shown() -> None:
    case = "CASE WHEN age > 60 THEN 'old' WHEN age > 30 THEN 'mid' ELSE 'young' END"
    assert case in explained(sql=f"SELECT {case} AS g, COUNT(*) FROM health.heart GROUP BY g").question


# --- what comes of it ------------------------------------------------------------------------------------------


def test_the_forecast_says_what_it_rests_on() -> None:
    found = explained(sql="SELECT sex, stage, COUNT(*) FROM health.heart WHERE age > 50 GROUP BY sex, stage")
    assert found.forecast is not None and found.forecast.chances.shape == (8,)
    assert "all values of stage are equally frequent and the filter keeps every row" in str(found)
    assert "as frequent as the schema says" in explained().assumptions
    assert explained(capacities=dict.fromkeys(HOLDERS, 8)).withheld > 1.2 > 0.1 > explained().withheld


def test_an_outputs_part_of_rho_is_that_of_its_sums() -> None:
    noise = explained(noise=NOISE).noise
    assert noise is not None
    assert noise.shares == pytest.approx({"n": 0.005 / 3, "years": 0.01 / 3})
    assert noise.epsilon == pytest.approx(0.43, abs=0.01)  # PROTOCOL §3.6
    assert noise.count_sigma == pytest.approx((1.5 * 3 / (2 * 0.005)) ** 0.5, rel=0.01)  # 3 sums, n/(n − t) = 1.5
    assert not explained().noise


# --- what would refuse it --------------------------------------------------------------------------------------


def rules(**changes: Any) -> Disclosure:
    return SENSITIVE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("asked", "book", "refusals"),
    [
        ({}, {}, []),
        ({"noise": NOISE}, {}, []),
        ({"disclosure": rules(exact_jobs=0)}, {}, ["exact_forbidden", "exact_quota_used"]),
        ({}, {"exact": 4}, []),
        ({}, {"exact": 5}, ["exact_quota_used"]),
        ({}, {"rules": rules(exact_jobs=2), "exact": 2}, ["exact_quota_used"]),
        ({"noise": NOISE}, {"spent": 95_000}, []),
        ({"noise": NOISE}, {"spent": 95_001}, ["budget_exhausted"]),
        ({"noise": NOISE}, {"spent_by_all": 395_001}, ["budget_exhausted"]),
        ({"noise": NoiseTerms(rho=100_001)}, {}, ["noise_too_costly", "budget_exhausted"]),
        ({}, {"jobs": 99}, []),
        ({}, {"jobs": 100}, ["no_agreement"]),
        ({"capacities": {"cleveland": 8, "zurich": 8}}, {}, ["dataset_missing"]),
        ({"agreement": NoAgreement(table="health.heart", problem="none is known")}, {}, ["no_agreement"]),
        (
            {"agreement": NoAgreement(table="t", problem="x"), "grade": Grade.CORE},
            {},
            ["no_agreement", "grade_forbids"],
        ),
    ],
    ids=str,
)
def test_what_would_refuse_it_is_named(asked: dict[str, Any], book: dict[str, Any], refusals: list[str]) -> None:
    found = explained(Book(MERCHANTS, **book), **asked)
    assert codes(found) == refusals
    for error in found.refusals:
        assert error.public in str(found)


def test_a_gate_that_is_too_large_is_named() -> None:
    outputs = ", ".join(f"SUM(CASE WHEN age > {n} THEN 1 END)" for n in range(40))
    keys = "width_bucket(age, 0, 100, 120) AS a, sex"
    schema = schema_of(Grade.SENSITIVE)
    plan = parse(f"SELECT {keys}, {outputs} FROM health.heart GROUP BY a, sex", lambda _: schema)[0]
    program = compile_plan(plan, schema)
    assert program.cells * len(find_tests(program)) > 200_000
    assert codes(explain(replace(asked_with(), plan=plan), Book(MERCHANTS))) == ["gate_too_large"]
    many = {f"h{place}": 8 for place in range(129)}
    alone = replace(asked_with(agreement=NONE), capacities=many)
    assert codes(explain(alone, Book(MERCHANTS))) == ["no_agreement", "gate_too_large"]


def test_a_person_decides_where_exact_is_the_exception_or_each_job_is_agreed() -> None:
    assert explained().needs_a_person and "person's approval at every holder" in explained().exact
    assert not explained(noise=NOISE).needs_a_person
    assert explained(noise=NOISE, approval="each job").needs_a_person
    optional = {"disclosure": rules(noise=NoiseRule.OPTIONAL)}
    assert not explained(**optional).needs_a_person
    assert explained(Book(HOUSES, rules=SENSITIVE), **optional).needs_a_person


def test_without_an_agreement_the_least_that_the_columns_demand_is_explained() -> None:
    found = explained(agreement=NONE)
    assert not isinstance(found.agreement, Agreement) and found.to_dict()["agreement"] is None
    assert found.needs_a_person and found.forecast is not None and found.holders == HOLDERS
