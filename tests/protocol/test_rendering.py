"""What an officer reads before signing: every fact of the agreement, and nothing that hides or imitates one."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.disclosure.grade import RULES, Disclosure
from ceiba_protocol.schema import Grade
from ceiba_protocol.trust.agreement import DAY, OPERATIONS, Contract, Overlap, Party, Word
from ceiba_protocol.trust.rendering import moment, quoted, render
from ceiba_protocol.trust.words import MEMBER_WORDS, words_of
from tests.support.members import HOLDERS, NOW, World, changed

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40).map(
    lambda text: unicodedata.normalize("NFC", text)
)
SOME_OPERATIONS = st.sets(st.sampled_from(OPERATIONS), min_size=1).map(lambda some: tuple(sorted(some)))
FACTS = st.fixed_dictionaries(
    {
        "agreement_id": st.binary(min_size=16, max_size=16).map(bytes.hex),
        "columns": st.sets(st.sampled_from(["sex", "age", "chol"]), min_size=1).map(lambda some: tuple(sorted(some))),
        "operations": SOME_OPERATIONS,
        "purpose": TEXTS,
        "disclosure": st.sampled_from(list(RULES.values())),
        "tolerated": st.integers(1, 1000),
        "smallest_set": st.integers(3, 1000),
        "jobs": st.integers(1, 10**6),
        "approval": st.sampled_from(["standing", "each job"]),
        "not_before": st.integers(NOW, NOW + DAY),
        "not_after": st.integers(NOW + 2 * DAY, NOW + 300 * DAY),
    }
)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def text_of(world: World, agreement: Any) -> list[str]:
    return render(Contract(agreement, {}, ()), world.roster, NOW)


@given(FACTS)
def test_every_fact_stands_in_the_text_on_its_own_line(world: World, facts: dict[str, Any]) -> None:
    agreement = world.make_agreement(**facts)
    lines = text_of(world, agreement)
    labelled = {line[2:16].strip(): line[17:] for line in lines[1:]}
    assert len(labelled) == len(lines) - 1  # no two lines have one label
    assert lines[0] == f"Agreement {agreement.agreement_id}"
    expected = {
        "space": "test-space",
        "purpose": quoted(agreement.purpose),
        "table": agreement.table,
        "columns": ", ".join(agreement.columns),
        "operations": ", ".join(agreement.operations),
        "from": moment(agreement.not_before),
        "until": moment(agreement.not_after),
        "schema": agreement.schema_digest,
        "suite": "K1",
        "digest": agreement.digest(),
    }
    assert {label: labelled[label] for label in expected} == expected
    assert labelled["jobs"].startswith(f"{agreement.jobs} at most; ")
    assert ("a person at each holder" in labelled["jobs"]) == (agreement.approval == "each job")
    assert labelled["tolerated"].startswith(f"{agreement.tolerated} ")
    assert (agreement.smallest_set == 3) == (labelled["who answers"] == "all 3 holders, or nobody")
    assert agreement.smallest_set == 3 or f"at least {agreement.smallest_set} of them" in labelled["who answers"]
    check_rules(agreement.disclosure, labelled)
    for place, party in enumerate(agreement.parties):
        line = labelled[f"holder {place} of 3" if place else "merchant"]
        assert line == f'{party.name}, "{party.name}", keys {words_of(party.descriptor_digest, MEMBER_WORDS)}'


def check_rules(rules: Disclosure, labelled: dict[str, str]) -> None:
    """Every rule that does something stands there with its number; where no cell can fail, one line says so."""
    if rules == RULES[Grade.PUBLIC]:
        assert labelled["small cells"] == "grade public: every cell is released as it is"
        assert not {"dominance", "differencing", "exact answers", "noise"} & labelled.keys()
        return
    facts = {
        "small cells": (
            f"grade {rules.grade}: ", f"{rules.minimum_subjects} subjects", f"{rules.minimum_holders} holders",
            "an empty one " + ("shows" if rules.grade == "internal" else "looks the same"),
        ),
        "dominance": (f"at most {rules.dominance_one} %", f"at most {rules.dominance_two} %"),
        "differencing": ("no answer differs by fewer subjects or holders than that",),
        "exact answers": (f"{rules.exact_jobs} for each version" if rules.exact_jobs else "none",),
        "noise": (f"{rules.noise}; at most ρ ", f"ρ {RHO[rules.grade]} in any 365 days"),
    }  # fmt: skip
    for label, parts in facts.items():
        for fact in parts:
            assert fact in labelled[label]
    person = "a person's approval at every holder" in labelled["exact answers"]
    assert person == (rules.noise == "mandatory" and rules.exact_jobs > 0)


RHO = {"internal": "1", "sensitive": "0.1", "important": "0.02"}


def test_stricter_rules_than_a_grades_are_the_ones_that_show(world: World) -> None:
    rules = changed(RULES[Grade.SENSITIVE], minimum_subjects=37, rho_per_year=12_345, exact_jobs=4)
    labelled = {line[2:16].strip(): line[17:] for line in text_of(world, world.make_agreement(disclosure=rules))[1:]}
    assert "at least 37 subjects" in labelled["small cells"]
    assert "ρ 0.012345 " in labelled["noise"] and "at most 4 for" in labelled["exact answers"]
    open_cells = changed(RULES[Grade.PUBLIC], minimum_subjects=2)
    text = "\n".join(text_of(world, world.make_agreement(disclosure=open_cells)))
    assert "at least 2 subjects and 1 holders" in text and "released as it is" not in text


@given(TEXTS)
def test_a_quotation_prints_in_full_on_one_line(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable() and "  " not in shown
    unescaped = shown[1:-1].encode("ascii", "backslashreplace").decode("unicode_escape")
    assert unescaped == text  # so no two texts look alike, and nothing is left out


HIDDEN = (
    *("\n", "\r", "\x1b[2K", "\x9b", "\u202e", "\u2066", "\u200b", "\u200d", "\u2028", "\xad", "\ufeff", "\u00a0"),
    *("\u3000", "\U000e0041", "\ufe0f", "\U000e0100", "\u3164", "\u115f", "\u034f", "\ue000", "\u0600"),
)


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_nothing_invisible_gets_through(hidden: str) -> None:
    shown = quoted(f"research{hidden}only")
    assert hidden not in shown and f"\\U{ord(hidden[0]):08x}" in shown


def test_a_purpose_cannot_pass_for_a_line_of_ours(world: World) -> None:
    agreement = world.make_agreement(purpose='research"' + " " * 60 + "columns        none")
    assert len(text_of(world, agreement)) == len(text_of(world, world.agreement))
    assert not any("   columns        none" in line for line in text_of(world, agreement))


def test_a_party_with_other_keys_than_the_rosters_is_pointed_out(world: World) -> None:
    stranger = Party(name="zurich", descriptor_digest=world.party("cleveland").descriptor_digest)
    agreement = world.make_agreement(holders=None)
    false = agreement.model_copy(update={"holders": (*agreement.holders[:2], stranger)})
    (line,) = [line for line in text_of(world, false) if "NOT ON THE ROSTER WITH THESE KEYS" in line]
    assert "holder 3 of 3  zurich," in line
    assert not any("NOT ON THE ROSTER" in line for line in text_of(world, agreement))


def test_it_says_who_has_signed_who_has_spoken_and_which_sets_endanger_somebody(world: World) -> None:
    half = Contract(world.agreement, {"bank-a": world.signatures()[0]}, ())
    assert any(
        line.endswith(f"proposed; not signed yet by {', '.join(HOLDERS)}") for line in render(half, world.roster, NOW)
    )

    contract = world.contract(notices=[world.notice("zurich", Word.SUSPEND)])
    other = world.make_agreement(agreement_id="0c" * 16)
    lines = render(contract, world.roster, NOW, [Overlap(other, ("hungary",), same_merchant=True)])
    assert any("suspended; every party has signed" in line for line in lines)
    assert any(line.startswith("  suspend ") and "zurich" in line and '"a test"' in line for line in lines)
    (warning,) = [line for line in lines if "WARNING" in line]
    assert "the same merchant" in warning and "only by hungary" in warning and other.agreement_id in warning
