"""The attacks on live spaces themselves take minutes, and run with `ceiba-lab attack --all`; here, that they fit
together."""

from tests.attacks.live.suite import ATTACKS
from tests.attacks.live.weakened import CHECKS


def test_every_attack_leaves_out_a_check_that_can_be_left_out() -> None:
    assert {attack.without for attack in ATTACKS} <= set(CHECKS)


def test_attacks_have_names_of_their_own_and_titles_that_end() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert [attack.name for attack in ATTACKS if not attack.title.endswith(".")] == []
