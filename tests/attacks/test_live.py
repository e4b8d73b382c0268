"""Every attack of the suite: on a live space it succeeds without its check, and not on the shipped build."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ceiba_scenarios.attack import Attack, run_attack
from tests.attacks.live.field import Field, open_field
from tests.attacks.live.suite import ATTACKS
from tests.attacks.live.weakened import CHECKS

IN_EVERY_RUN = {
    "smaller-set", "sybil-roster", "replayed-job", "two-manifests", "forked-log", "minted-certificate",
    "revoked-member", "tracker",
}  # fmt: skip
"""Ten to thirty seconds each, so a few of each kind. `make test-long` runs the others."""
THREAT_MODEL = Path(__file__).parents[2] / "docs" / "threat-model.md"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with open_field(tmp_path_factory.mktemp("live")) as opened:
        yield opened


def marked(attack: Attack) -> object:
    return pytest.param(attack, id=attack.name, marks=() if attack.name in IN_EVERY_RUN else pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [marked(attack) for attack in ATTACKS])
def test_attack(field: Field, attack: Attack) -> None:
    duel = run_attack(attack, field)
    assert duel.weakened.succeeded, f"without '{attack.without}': {duel.weakened.saw}"
    assert not duel.shipped.succeeded, duel.shipped.saw


def test_the_threat_model_names_the_attacks_that_there_are() -> None:
    named = set(re.findall(r"attack `([a-z-]+)`", THREAT_MODEL.read_text()))
    assert named == {attack.name for attack in ATTACKS}


def test_those_in_every_run_are_attacks() -> None:
    assert {attack.name for attack in ATTACKS} >= IN_EVERY_RUN


def test_each_attack_has_a_name_and_a_check_of_its_own_build() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert {attack.without for attack in ATTACKS} == set(CHECKS)
