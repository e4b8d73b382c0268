"""What the operator, the merchant and corrupt holders see together of a whole job: games in which they must tell two
databases apart (PROTOCOL §2.7, §3.2, §8).

Four holders answer a gated question: one cell is released, one is withheld. The colluders have every document, every
word of the gate and the key that opens every submission, and take off every mask that a corrupt holder knows. They
learn a logistic regression on half of the runs and guess on the other half.

- *The operator and the merchant alone* must not tell apart databases that differ in the capped totals, as long as
  what is released is the same.
- *With a corrupt holder* they have the group's key, and with it the capped totals, as PROTOCOL §3.2 says. Databases
  with equal capped totals and equal totals over the honest holders must look alike.

Randomness is seeded, so that the outcome is the same on every machine; only sealed keys are not, which the library
draws itself, and they are opened where that is possible and left out where it is not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gmpy2 import mpz

from ceiba_protocol import rounds
from ceiba_protocol.disclosure.gate import COUNT, VETO, exact_words, pack_released
from ceiba_protocol.disclosure.support import count_subjects
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.program import Row
from ceiba_protocol.sums.masks import Words, combined_mask, combined_words, expand, expand_words, shared_seed
from ceiba_protocol.sums.paillier import Encryptor, decode_ciphertexts, decrypt
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.documents import GateShare, Submission
from ceiba_protocol.trust.hpke import open_sealed
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import sealing_secret
from tests.support.keys import keypair
from tests.support.members import World, graded, plan_of, signed_by
from tests.support.seeded import seeded

BITS = 256
"""Whoever can open the ciphertexts is not stopped by a long key."""
SCHEMA = graded("internal")
N = int(keypair(BITS)[0].n)
QUESTION = "SELECT sex, COUNT(*) AS n, SUM(age) AS years FROM health.heart GROUP BY sex"
FEMALE, MALE = 0, 1
NAMES = ("east", "north", "south", "west")


@dataclass(frozen=True)
class Database:
    """Ages by holder, of the cell that is released and of the one that is not; and who vetoes that one."""

    released: Mapping[str, Sequence[int]]
    withheld: Mapping[str, Sequence[int]]
    vetoes: frozenset[str]

    def rows(self, name: str) -> list[Row]:
        cells = ((FEMALE, self.released), (MALE, self.withheld))
        return [{"sex": sex, "age": age, "chol": None} for sex, ages in cells for age in ages[name]]


ONE = Database(
    released={"east": [40, 50, 60, 70], "north": [30, 35], "south": [20], "west": [45]},
    withheld={"east": [33, 34, 35], "north": [], "south": [], "west": [90]},
    vetoes=frozenset({"east"}),
)
SWAPPED = Database(
    released=ONE.released | {"east": ONE.released["west"], "west": ONE.released["east"]},
    withheld=ONE.withheld | {"east": ONE.withheld["west"], "west": ONE.withheld["east"]},
    vetoes=frozenset({"north", "west"}),
)
"""Capped totals and totals over east and west are those of ONE."""
SPREAD = Database(
    released={"east": [40, 30], "north": [50, 35], "south": [60, 45], "west": [70, 20]},
    withheld={"east": [], "north": [50], "south": [], "west": []},
    vetoes=frozenset(),
)
"""What is released is the same; the capped totals are 8 and 1 instead of 6 and 3."""


DATABASES = {"one": ONE, "swapped": SWAPPED, "spread": SPREAD}


# --- a whole job, and what there is to see of it ----------------------------------------------------------------


@cache
def world() -> tuple[World, rounds.Question]:
    """What is public, the same in all databases: each holder's capacity too."""
    made = World({name: [{}] * 8 for name in NAMES}, plan_of(QUESTION, SCHEMA), BITS, seeded("world"), SCHEMA)
    return made, made.read()


@dataclass(frozen=True)
class Transcript:
    """One job."""

    commitment: rounds.Commitment
    """Of the gate."""
    context: bytes
    """Of the release: 32 bytes, what its masks depend on."""
    documents: Sequence[Signed]
    shares: Mapping[str, GateShare]
    words: Mapping[str, Words]
    """By holder, as sent: masked."""
    residues: Mapping[str, int]
    """What each holder's submission decrypts to: masked."""
    released: npt.NDArray[np.bool_]
    totals: Sequence[int]
    mask_secrets: Mapping[str, bytes]


def play(database: Database, label: str) -> Transcript:
    """Every role's steps, as in `whole_job.run_job`."""
    space, question = world()
    random = seeded(label)
    space.mask_secrets = {name: random(32) for name in NAMES}
    approvals = space.approvals(question)
    commitment = rounds.commit_to_set(question, approvals)
    words = {name: plain_words(database, name, commitment, random) for name in NAMES}
    shares = {
        name: rounds.share_gate(question, commitment, name, words[name], space.mask_secrets[name], random)
        for name in NAMES
    }
    sent = [(signed_by(name, share), blob) for name, (share, blob) in shares.items()]
    released = rounds.open_gate(question, commitment, sent, NAMES[0], sealing_secret(NAMES[0]))
    after = commitment.after_gate([signed for signed, _ in sent])
    answers = {}
    for name in NAMES:
        values, encryptor = grouped_sums(question.program, database.rows(name)), Encryptor.for_count(N, 1, random)
        answers[name] = rounds.contribute(
            question, after, name, values, space.mask_secrets[name], encryptor, random(32), released
        )
    ciphertexts = [decode_ciphertexts(blob, N, name)[0] for name, (_, blob) in answers.items()]
    residues = dict(zip(NAMES, decrypt(space.private_key, ciphertexts), strict=True))
    return Transcript(
        commitment=commitment,
        context=after.release_context(pack_released(released)).digest(),
        documents=[
            *approvals,
            *(signed for signed, _ in sent),
            *(signed_by(n, one) for n, (one, _) in answers.items()),
        ],
        shares={name: share for name, (share, _) in shares.items()},
        words={name: np.frombuffer(blob, dtype="<u8") for name, (_, blob) in shares.items()},
        residues=residues,
        released=released,
        totals=after.layout.unpack([sum(residues.values()) % N], N),
        mask_secrets=dict(space.mask_secrets),
    )


def plain_words(database: Database, name: str, commitment: rounds.Commitment, random: Random) -> Words:
    """A holder's words before they are masked; earlier answers differ by as many subjects as there are."""
    _, question = world()
    assert commitment.gate is not None
    subjects = count_subjects(question.program, question.tests, database.rows(name))
    vetoed = np.zeros(subjects.shape, dtype=np.bool_)
    vetoed[MALE] = name in database.vetoes
    return exact_words(commitment.gate, subjects, subjects, vetoed, random)


def seen(transcript: Transcript, corrupt: Sequence[str]) -> tuple[dict[str, Words], dict[str, int]]:
    """By honest holder: its words and its plaintext, without every mask that the corrupt holders know."""
    gate, context = transcript.commitment.gate_context.digest(), transcript.context
    words, residues = {}, {}
    for name in NAMES:
        if name in corrupt:
            continue
        words[name], residues[name] = transcript.words[name], mpz(transcript.residues[name])
        for spy in corrupt:
            secret, key = transcript.mask_secrets[spy], transcript.commitment.mask_keys[name]
            in_gate = expand_words(shared_seed(secret, key, gate, spy, name), len(words[name]))
            (in_release,) = expand(shared_seed(secret, key, context, spy, name), N, 1)
            words[name] = words[name] - in_gate if name < spy else words[name] + in_gate
            residues[name] += -in_release if name < spy else in_release
    leader = rounds.leader_of(transcript.commitment)
    if corrupt and leader in words:
        words[leader] = words[leader] - expand_words(group_key(transcript, corrupt[0]), len(words[leader]))
    return words, {name: int(residue % N) for name, residue in residues.items()}


def group_key(transcript: Transcript, spy: str) -> bytes:
    sealed = transcript.shares[rounds.leader_of(transcript.commitment)].sealed_keys[spy]
    return open_sealed(sealing_secret(spy), bytes.fromhex(sealed), transcript.commitment.gate_context.digest(), "it")


@cache
def transcript_of(database: str, run: int, weakness: str) -> Transcript:
    return play(DATABASES[database], f"{database}/{run}/{weakness}")


def transcripts(database: str, runs: int, weakness: str = "") -> list[Transcript]:
    return [transcript_of(database, run, weakness) for run in range(runs)]


# --- guessing ---------------------------------------------------------------------------------------------------


def features(transcript: Transcript, corrupt: Sequence[str]) -> npt.NDArray[np.float64]:
    """All that a guesser looks at: of every word and plaintext, and of their sums over the honest holders, each byte
    and the whole as a fraction; and how often each half byte occurs."""
    words, residues = seen(transcript, corrupt)
    table = np.array(list(words.values()))
    numbers = [*residues.values(), sum(residues.values()) % N]
    shares = np.vstack([table, table.sum(axis=0, dtype=np.uint64)])
    in_words = np.frombuffer(shares.astype("<u8").tobytes(), dtype=np.uint8)
    in_numbers = np.frombuffer(b"".join(number.to_bytes(BITS // 8, "big") for number in numbers), dtype=np.uint8)
    commitments = b"".join(bytes.fromhex(Submission.parse(one.body).commitment) for one in transcript.documents[-4:])
    halves = np.concatenate([in_words >> 4, in_words & 15, in_numbers >> 4, in_numbers & 15])
    parts = [
        in_words, shares.reshape(-1) / 2**64, in_numbers, [number / N for number in numbers],
        np.bincount(halves, minlength=16), np.frombuffer(commitments, dtype=np.uint8),
    ]  # fmt: skip
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def accuracy(views: Sequence[Sequence[npt.NDArray[np.float64]]]) -> float:
    """How often a logistic regression, learnt from every second run of two databases, is right about the others."""
    data = np.array([view for pair in zip(*views, strict=True) for view in pair])
    truth = np.arange(len(data)) % 2
    learnt = np.arange(len(data)) // 2 % 2 == 0
    spread = data[learnt].std(axis=0)
    data = (data - data[learnt].mean(axis=0)) / np.where(spread > 0, spread, 1)
    weights, bias = np.zeros(data.shape[1]), 0.0
    for _ in range(200):
        wrong = 1 / (1 + np.exp(-np.clip(data[learnt] @ weights + bias, -30, 30))) - truth[learnt]
        weights -= 0.05 * (data[learnt].T @ wrong / learnt.sum() + 0.01 * weights)
        bias -= 0.05 * wrong.mean()
    return float(((data[~learnt] @ weights + bias > 0) == truth[~learnt]).mean())


def game(databases: Sequence[str], corrupt: Sequence[str], runs: int, weakness: str = "") -> float:
    """`runs`: of each database."""
    return accuracy(
        [[features(one, corrupt) for one in transcripts(database, runs, weakness)] for database in databases]
    )


NOBODY, ONE_HOLDER, TWO_HOLDERS = (), ("south",), ("south", "north")
GAMES = {
    "operator and merchant": (("one", "spread"), NOBODY),
    "and a holder": (("one", "swapped"), ONE_HOLDER),
    "and all holders but two": (("one", "swapped"), TWO_HOLDERS),
}
FEW, MANY = 200, 1_000
"""Runs of each database."""


@pytest.mark.parametrize("colluders", GAMES)
def test_colluders_cannot_tell_databases_apart(colluders: str) -> None:
    """Half of the runs are guessed: guessing gives half of them right, ± 0.5/√runs."""
    assert abs(game(*GAMES[colluders], FEW) - 0.5) < 3 * 0.5 / FEW**0.5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("colluders", GAMES)
def test_colluders_cannot_tell_databases_apart_in_many_runs(colluders: str) -> None:
    assert abs(game(*GAMES[colluders], MANY) - 0.5) < 3 * 0.5 / MANY**0.5


# --- the guesser is no straw man: it wins where one mask is left out ------------------------------------------


def without(*pairs: set[str]) -> dict[str, Callable[..., Any]]:
    """Both kinds of masks, but for those of some pairs."""

    def weak(mask: Callable[..., Any]) -> Callable[..., Any]:
        def combined(me: str, secret: bytes, peers: Mapping[str, bytes], *others: Any) -> Any:
            return mask(me, secret, {peer: key for peer, key in peers.items() if {me, peer} not in pairs}, *others)

        return combined

    return {"rounds.combined_words": weak(combined_words), "sums.secure_sum.combined_mask": weak(combined_mask)}


WEAKNESSES = {
    "the leader's mask": ("operator and merchant", {"rounds.expand_words": lambda _, size: np.zeros(size, np.uint64)}),
    "the only pair of honest holders": ("and all holders but two", without({"east", "west"})),
    "one honest holder's pairs": ("and a holder", without({"east", "west"}, {"east", "north"})),
}
"""By what is left out: who notices. Two pairs, where three are honest: one would leave them connected, and masked."""


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_without_a_mask_the_guesser_wins(weakness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    colluders, functions = WEAKNESSES[weakness]
    for name, function in functions.items():
        monkeypatch.setattr(f"ceiba_protocol.{name}", function)
    assert game(*GAMES[colluders], 60, weakness) > 0.9


# --- what they do learn, and how the rest looks ----------------------------------------------------------------


@pytest.mark.parametrize("database", DATABASES)
def test_the_games_are_about_the_right_thing(database: str) -> None:
    """One cell is released, one is not, with the same totals in all databases: those of the rows of the first."""
    _, question = world()
    for transcript in transcripts(database, 3):
        assert transcript.released.tolist() == [[True] * len(question.tests), [False] * len(question.tests)]
        assert list(transcript.totals) == [8, 8, 350, 0, 0, 0]


@pytest.mark.parametrize(("database", "capped"), [("one", [6, 3]), ("swapped", [6, 3]), ("spread", [8, 1])])
def test_a_corrupt_holder_learns_the_capped_totals(database: str, capped: list[int]) -> None:
    """PROTOCOL §3.2 says so; of vetoes it learns that there is one or more, and not how many."""
    for transcript in transcripts(database, 3):
        gate = transcript.commitment.gate
        assert gate is not None
        total = np.sum(list(transcript.words.values()), axis=0, dtype=np.uint64)
        total -= expand_words(group_key(transcript, "south"), len(total))
        lanes = gate.lanes(total)
        assert lanes[COUNT, :, 0].tolist() == capped
        assert (lanes[VETO, MALE] != 0).all() == bool(DATABASES[database].vetoes)


def test_a_corrupt_holder_learns_no_more_of_the_honest_than_their_sum() -> None:
    """The game is about the right thing: together the honest holders' words and plaintexts are exactly the sums."""
    _, question = world()
    honest = [name for name in NAMES if name not in ONE_HOLDER]
    for database in ("one", "swapped"):
        values = [grouped_sums(question.program, DATABASES[database].rows(name))[:3] + [0] * 3 for name in honest]
        for transcript in transcripts(database, 3):
            words, residues = seen(transcript, ONE_HOLDER)
            layout = transcript.commitment.layout
            packed = [layout.pack(one, layout.cell * layout.cells)[0] for one in values]
            assert sum(residues.values()) % N == sum(packed) % N
            gate = transcript.commitment.gate
            assert gate is not None
            lanes = gate.lanes(np.sum(list(words.values()), axis=0, dtype=np.uint64))
            assert lanes[COUNT, :, 0].tolist() == [5, 3]


@pytest.mark.parametrize("holder", NAMES[:2])
def test_what_an_honest_holder_sends_is_uniform(holder: str) -> None:
    """Chi-square over the top six bits, 63 degrees of freedom: 63 ± 11, refused beyond four deviations. Of one word of
    the gate and of the plaintext, as the operator, the merchant and a corrupt holder see them."""
    views = [seen(one, ONE_HOLDER) for database in ("one", "swapped") for one in transcripts(database, FEW)]
    plaintexts = [64 * residues[holder] // N for _, residues in views]
    for tops in (plaintexts, *(np.array([words[holder] for words, _ in views]) >> np.uint64(58)).T):
        expected = len(views) / 64
        counts = np.bincount(np.asarray(tops, dtype=np.int64), minlength=64)
        assert abs(float(((counts - expected) ** 2).sum()) / expected - 63) < 4 * 126**0.5


def test_no_length_depends_on_the_rows() -> None:
    """The leader's share is longer than the others', and who leads follows from public keys."""
    lengths = {
        (sum(sizes), *sizes[:4], *sizes[-4:])
        for database in DATABASES
        for transcript in transcripts(database, 20)
        for sizes in [[len(document.body) for document in transcript.documents]]
    }
    assert len(lengths) == 1
