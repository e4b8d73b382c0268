"""What the operator, the merchant and one holder see together: a game in which they must tell two databases apart.

Four holders, one of them corrupt. In both databases the honest three have the same sum; in one the first honest holder
has everything. The colluders decrypt every submission (the key is the merchant's), subtract every mask that the corrupt
holder shares, and guess. Randomness is seeded, so that the outcome is the same on every machine.
"""

from statistics import median

import pytest
from gmpy2 import mpz

from ceiba_protocol.sums.masks import combined_mask, expand, shared_seed
from ceiba_protocol.trust.keys import x25519_public_key
from tests.support.keys import keypair
from tests.support.seeded import seeded

N = int(keypair(1024)[0].n)
CORRUPT, HONEST = "corrupt", ("east", "north", "west")
SUM = 3_000_000
DATABASES = ({"east": SUM, "north": 0, "west": 0}, {"east": 0, "north": 1_000_000, "west": 2_000_000})
RUNS = 1_000
"""For each database. Guessing gives half of the second half right, ± 0.5/√RUNS."""


def view(database: int, run: int) -> dict[str, mpz]:
    """By honest holder: its plaintext without what the corrupt holder can take off it."""
    names = [CORRUPT, *HONEST]
    secrets = {name: seeded(f"{database}/{run}/{name}")(32) for name in names}
    keys = {name: x25519_public_key(secret) for name, secret in secrets.items()}
    context = seeded(f"context {database}/{run}")(32)
    seen = {}
    for name in HONEST:
        peers = {peer: key for peer, key in keys.items() if peer != name}
        (mask,) = combined_mask(name, secrets[name], peers, context, N, 1)
        (known,) = expand(shared_seed(secrets[CORRUPT], keys[name], context, CORRUPT, name), N, 1)
        sign = -1 if name > CORRUPT else 1
        seen[name] = (DATABASES[database][name] + mask - sign * known) % N
    return seen


@pytest.fixture(scope="module")
def views() -> list[list[dict[str, mpz]]]:
    return [[view(database, run) for run in range(RUNS)] for database in (0, 1)]


def test_colluders_learn_the_sum_of_the_honest(views: list[list[dict[str, mpz]]]) -> None:
    """The game is about the right thing: together the views are exactly the sum, which the merchant learns anyway."""
    for database in views:
        assert {sum(seen.values()) % N for seen in database} == {SUM}


def guesses_right(views: list[list[dict[str, mpz]]], feature: str) -> float:
    """A guesser that has learnt the best threshold from the first half of the runs, tried on the second."""
    values = [[seen[feature] for seen in database] for database in views]
    half = RUNS // 2
    threshold = median(values[0][:half] + values[1][:half])
    smaller = median(values[0][:half]) < median(values[1][:half])
    right = sum((value < threshold) == smaller for value in values[0][half:])
    right += sum((value >= threshold) == smaller for value in values[1][half:])
    return right / RUNS


@pytest.mark.parametrize("holder", HONEST)
def test_colluders_cannot_tell_databases_with_equal_sums_apart(views: list[list[dict[str, mpz]]], holder: str) -> None:
    assert abs(guesses_right(views, holder) - 0.5) < 3 * 0.5 / RUNS**0.5


@pytest.mark.parametrize("holder", HONEST)
def test_what_one_honest_holder_sends_is_uniform(views: list[list[dict[str, mpz]]], holder: str) -> None:
    """Chi-square over the top six bits, 63 degrees of freedom: 63 ± 11, refused beyond four deviations."""
    for database in views:
        counts = [0] * 64
        for seen in database:
            counts[int(64 * seen[holder] // N)] += 1
        expected = RUNS / 64
        assert abs(sum((count - expected) ** 2 / expected for count in counts) - 63) < 4 * 126**0.5


def test_without_masks_the_guesser_wins() -> None:
    """The guesser is no straw man: it tells the databases apart at once where nothing hides them."""
    bare = [[{"east": mpz(database["east"])} for _ in range(RUNS)] for database in DATABASES]
    assert guesses_right(bare, "east") == 1.0
