"""Attacks on linkage: each succeeds against a weakened build, then fails against the shipped one (PROTOCOL §5)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import pytest

from ceiba_protocol.errors import BadKeyUse, BadTokens
from ceiba_protocol.linkage import oprf
from ceiba_protocol.linkage.key_use import prove_use
from ceiba_protocol.linkage.oprf import DiffieHellman, Evaluator, JobKey, Linkage, Owner, decode_tokens, intersect
from ceiba_protocol.linkage.ristretto import (
    Point,
    add_all,
    decode_points,
    encode_points,
    multiply_all,
    random_scalar,
)
from ceiba_protocol.sums.randomness import Random
from tests.support.seeded import seeded

JOB = hashlib.sha256(b"a job").digest()


def register(count: int) -> list[str]:
    """A public register of firms: everybody knows all identifiers that there are."""
    return [f"91{number:016d}" for number in range(count)]


@dataclass
class Run:
    """One linkage, with what the coordinator stored of it, and what the holders keep for themselves."""

    linkage: Linkage
    keys: Mapping[str, JobKey]
    submissions: Mapping[str, bytes]
    stored: list[bytes] = field(default_factory=list)

    def stored_words(self) -> set[bytes]:
        """Every 32 bytes that begin at a multiple of 8 in what was stored."""
        return {blob[at : at + 32] for blob in self.stored for at in range(0, len(blob) - 31, 8)}


def link(
    identifiers: Mapping[str, Sequence[str]],
    random: Random,
    job: bytes = JOB,
    cheats: Mapping[str, type[Evaluator]] | None = None,
) -> Run:
    """Tokens by all holders' keys. The coordinator stores all that passes it, here even what is sealed, unsealed.

    `cheats` evaluate in a way of their own.
    """
    kinds = dict.fromkeys(identifiers, Evaluator) | dict(cheats or {})
    keys = {holder: JobKey(job, holder, random) for holder in identifiers}
    announcements = {holder: keys[holder].announce(len(own)) for holder, own in identifiers.items()}
    run = Run(Linkage.of(job, announcements, 10**6), keys, {}, list(announcements.values()))
    submissions = {}
    for holder, own in identifiers.items():
        owner = Owner(run.linkage, holder, keys[holder], own, random)
        sides = {other: kind(run.linkage, other, keys[other], holder, random) for other, kind in kinds.items()}
        for batch in run.linkage.batches(holder):
            blinded = owner.blind(batch)
            answers = {other: sides[other].evaluate(batch, blinded) for other in run.linkage.others(holder)}
            owner.finish(batch, answers)
            run.stored += [blinded, *answers.values()]
        submissions[holder] = owner.submission()
    run.submissions = submissions
    run.stored += submissions.values()
    return run


def count_between_two(identifiers: Mapping[str, Sequence[str]], random: Random) -> Run:
    """Counting by Diffie–Hellman; the offers are stored unsealed as well."""
    keys = {holder: JobKey(JOB, holder, random) for holder in identifiers}
    announcements = {holder: keys[holder].announce(len(own)) for holder, own in identifiers.items()}
    linkage = Linkage.of(JOB, announcements, 10**6)
    sides = {holder: DiffieHellman(linkage, holder, keys[holder], own) for holder, own in identifiers.items()}
    offers = {holder: side.offer() for holder, side in sides.items()}
    first, second = identifiers
    submissions = {first: sides[second].tokens_of_peer(offers[first])}
    submissions[second] = sides[first].tokens_of_peer(offers[second])
    return Run(linkage, keys, submissions, [*announcements.values(), *offers.values(), *submissions.values()])


# --- a dictionary against what the coordinator stored ----------------------------------------------------------


def token(linkage: Linkage, identifier: str, point: bytes) -> bytes:
    encoded = identifier.encode()
    hashed = hashlib.sha512(b"ceiba/v1/tok" + linkage.digest + len(encoded).to_bytes(2, "big") + encoded + point)
    return hashed.digest()[:32]


def guesses(linkage: Linkage, candidates: Sequence[str], keys: Sequence[JobKey]) -> Iterator[Iterator[bytes]]:
    """For all candidates, one form after another, whatever somebody with these holders' keys can compute of them."""
    yield (hashlib.sha256(one.encode()).digest() for one in candidates)
    yield (hashlib.sha256(linkage.digest + one.encode()).digest() for one in candidates)
    yield (token(linkage, one, b"") for one in candidates)
    points = linkage.to_group(candidates)
    yield iter(points)
    yield (token(linkage, one, point) for one, point in zip(candidates, points, strict=True))
    if keys:
        shares = [multiply_all(key.secret, points) for key in keys]
        for share in shares:
            yield iter(share)
        total: list[Point] = reduce(add_all, shares)
        yield (token(linkage, one, point) for one, point in zip(candidates, total, strict=True))
        chain = reduce(lambda so_far, key: multiply_all(key.secret, so_far), keys, points)
        yield (hashlib.sha512(b"ceiba/v1/dh-tok" + linkage.digest + one).digest()[:32] for one in chain)


def found_by_dictionary(run: Run, candidates: Sequence[str], keys: Sequence[JobKey] = ()) -> set[str]:
    words = run.stored_words()
    return {
        candidate
        for form in guesses(run.linkage, candidates, keys)
        for candidate, guess in zip(candidates, form, strict=True)
        if guess in words
    }


def plain_hash(owner: Owner, identifier: bytes, point: Point) -> bytes:
    return hashlib.sha256(identifier).digest()


def salted_hash(owner: Owner, identifier: bytes, point: Point) -> bytes:
    return hashlib.sha256(owner._linkage.digest + identifier).digest()


@pytest.mark.parametrize("weaker", [plain_hash, salted_hash])
def test_hashes_of_identifiers_fall_to_a_dictionary(
    weaker: Callable[[Owner, bytes, Point], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = register(2_000)
    monkeypatch.setattr(Owner, "_token", weaker)
    assert found_by_dictionary(link(two_of(everybody), seeded("hashes")), everybody) == set(everybody[100:200])


def holders_of(everybody: list[str]) -> dict[str, list[str]]:
    return {"tax": everybody[100:160], "fund": everybody[130:200], "register": everybody[150:180]}


def two_of(everybody: list[str]) -> dict[str, list[str]]:
    return {"tax": everybody[100:160], "fund": everybody[130:200]}


def test_the_dictionary_finds_everybody_with_all_keys() -> None:
    """So it is the keys that keep it from finding anybody, and the attack is no weaker than it could be."""
    everybody = register(500)
    for run in (link(two_of(everybody), seeded("all")), count_between_two(two_of(everybody), seeded("all"))):
        assert found_by_dictionary(run, everybody, list(run.keys.values())) == set(everybody[100:200])


def test_the_dictionary_finds_nobody_while_one_key_is_missing() -> None:
    everybody = register(500)
    run = link(holders_of(everybody), seeded("three"))
    for kept in run.keys:
        known = [key for holder, key in run.keys.items() if holder != kept]
        assert not found_by_dictionary(run, everybody, known)


def dictionary_finds_nobody(everybody: list[str]) -> None:
    assert not found_by_dictionary(link(holders_of(everybody), seeded("three")), everybody)
    assert not found_by_dictionary(count_between_two(two_of(everybody), seeded("two")), everybody)


def test_the_coordinator_finds_nobody() -> None:
    dictionary_finds_nobody(register(2_000))


@pytest.mark.long
def test_the_coordinator_finds_nobody_among_a_million() -> None:
    dictionary_finds_nobody(register(1_000_000))


# --- the same subject in two jobs ------------------------------------------------------------------------------


def test_a_kept_key_links_the_tokens_of_two_jobs_and_a_fresh_one_does_not() -> None:
    everybody = register(60)
    identifiers = {"tax": everybody[:40], "fund": everybody[20:]}

    def both(first: Run, second: Run) -> int:
        return len(set(decode_tokens(first.submissions["tax"], "")) & set(decode_tokens(second.submissions["tax"], "")))

    # Weakened: the keys of the first job again, and nothing that tells the jobs apart.
    assert both(link(identifiers, seeded("keys")), link(identifiers, seeded("keys"))) == 40
    # Fresh keys, as in a second attempt at the same job.
    assert both(link(identifiers, seeded("keys")), link(identifiers, seeded("others"))) == 0
    # The same keys by mistake, in another job.
    other_job = link(identifiers, seeded("keys"), job=bytes(32))
    assert both(link(identifiers, seeded("keys")), other_job) == 0


# --- answers under a wrong key ---------------------------------------------------------------------------------


class Selective(Evaluator):
    """Answers under another key beyond the first half, so that nothing there can match, and counts the first half."""

    def evaluate(self, batch: int, blinded: bytes) -> bytes:
        points = decode_points(blinded, self._owner)
        half = len(points) // 2
        other = random_scalar(self._random)
        answers = multiply_all(self._key.secret, points[:half]) + multiply_all(other, points[half:])
        context = self._linkage.proof_context(self._owner, self._me, batch)
        return encode_points(answers) + prove_use(self._key.secret, points, answers, context, self._random)


def test_a_holder_cannot_choose_which_rows_of_another_may_match(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = register(60)
    identifiers = {"tax": everybody[:40], "fund": everybody[10:50]}
    with monkeypatch.context() as weakened:
        weakened.setattr(oprf, "verify_use", lambda *arguments: None)
        run = link(identifiers, seeded("selective"), cheats={"fund": Selective})
        assert len(intersect(run.linkage.sizes, run.submissions, 0)) == 10, "of the 20 first rows at the tax office"
    run = link(identifiers, seeded("selective"))
    assert len(intersect(run.linkage.sizes, run.submissions, 0)) == 30
    with pytest.raises(BadKeyUse, match="fund"):
        link(identifiers, seeded("selective"), cheats={"fund": Selective})


# --- the order of the rows -------------------------------------------------------------------------------------


def named_by_order(run: Run, everybody: Sequence[str]) -> set[str]:
    """The attack: the office that holds everybody has them in the order of the register, so a place is a name."""
    whole, part = (
        [blob[at : at + 32] for at in range(0, len(blob), 32)]
        for blob in (run.submissions["register"], run.submissions["fund"])
    )
    return {name for name, token in zip(everybody, whole, strict=True) if token in set(part)}


def test_tokens_in_the_order_of_the_rows_name_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = register(200)
    members = everybody[::4] + everybody[1::9]
    identifiers = {"register": everybody, "fund": sorted(set(members))}
    with monkeypatch.context() as weakened:
        weakened.setattr(oprf, "encode_tokens", b"".join)
        unordered = link(identifiers, seeded("order"))
    assert named_by_order(unordered, everybody) == set(members)
    with pytest.raises(BadTokens, match="order"):
        intersect(unordered.linkage.sizes, unordered.submissions, 0)

    run = link(identifiers, seeded("order"))
    assert len(intersect(run.linkage.sizes, run.submissions, 0)) == len(set(members))
    share = len(set(members)) / len(everybody)
    right = len(named_by_order(run, everybody) & set(members)) / len(set(members))
    assert right < share + 0.2, "no better than naming at random"
