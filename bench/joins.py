"""What a private join of two holders costs, and where its time goes: `python -m bench.joins`, with the size of each.

GROUP BY of 12 groups, COUNT and SUM; half of each holder's subjects are at the other. All roles in one process on all
cores, 3072-bit key, nothing sent. *Cold* has nothing made ahead; *prepared* takes obfuscators from pools that were
filled in idle time. The whole is wall time; its steps are CPU time of all threads. Memory is the most that the process
ever had, with what both sides hold.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import phe

from bench.crypto import Figure
from ceiba_protocol.linkage.cores import on_all_cores
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, Row
from ceiba_protocol.linkage.private_join import BaseSide, Cell, JoinedSide, ProvenKey, merchant_open
from ceiba_protocol.linkage.ristretto import hash_all, multiply_all, random_scalar
from ceiba_protocol.sums.key_proof import prove_key
from ceiba_protocol.sums.paillier import Encryptor, generate_keypair

COUNT = 2_000
GROUPS, MINIMUM = 12, 11
_PART = 64
"""Obfuscators at a time, on each core."""

Tables = tuple[list[list[bytes]], dict[bytes, Row]]


def tables(count: int) -> Tables:
    """`count` subjects of each holder: A's in 12 groups, B's with one value, the upper half of A's with B."""
    identifiers = [b"91%016d" % number for number in range(count + count // 2)]
    groups = [identifiers[group:count:GROUPS] for group in range(GROUPS)]
    return groups, {identifier: [(0, (int(identifier) % 1999 - 999,))] for identifier in identifiers[-count:]}


def plain(groups: list[list[bytes]], rows: Mapping[bytes, Row]) -> list[list[Cell]]:
    """The same without any protection; every group of the benchmark is large enough."""
    found = [[rows[identifier][0][1][0] for identifier in group if identifier in rows] for group in groups]
    return [[(len(values), (sum(values),))] for values in found]


def timed(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall time, CPU time of all threads, both in seconds, and what comes of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = action()
    return time.perf_counter() - wall, time.process_time() - cpu, made


@dataclass
class Ahead:
    """What was made ahead of time; with nothing of it, a join is cold."""

    encryptor: Encryptor | None = None
    obfuscators: FullObfuscators | None = None


class Bench:
    """One pair of tables, terms and key; repeats the join with fresh secrets."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.private_key: phe.PaillierPrivateKey = generate_keypair(os.urandom)[1]
        self.n = int(self.private_key.public_key.n)
        self.key = ProvenKey(self.n, prove_key(self.private_key, bytes(32)), bytes(32))
        self.groups, self.rows = tables(count)
        self.terms = JoinTerms(
            context=os.urandom(32),
            base="register",
            joined="tax",
            groupings=(GROUPS,),
            one_row_for_all=False,
            cells=(FieldShape(count.bit_length(), (count.bit_length() + 11,)),),
            minimum_subjects=MINIMUM,
            hides_zeros=False,
            smallest_intersection=MINIMUM,
            base_subjects=count,
            joined_subjects=count,
        )

    def run(self, ahead: Ahead) -> dict[str, float]:
        """CPU seconds of each step, after checking the answer."""
        base = BaseSide(self.terms, [self.groups], self.key, os.urandom, obfuscators=ahead.obfuscators)
        joined = JoinedSide(
            self.terms, self.rows, self.private_key, os.urandom, joiner_is_semi_honest=True, encryptor=ahead.encryptor
        )
        _, blinding, blinded = timed(base.groups)
        _, encrypting, rows = timed(lambda: joined.rows(blinded))
        _, matching, masked = timed(lambda: base.mask(rows))
        _, gate, (decision, share) = timed(lambda: joined.decide(base.test(joined.tests(masked))))
        assert merchant_open(self.terms, base.share(decision), share) == plain(self.groups, self.rows)
        self.bytes_sent = len(rows)
        return {
            "A blinds": blinding,
            "B multiplies and encrypts": encrypting,
            "A matches and masks": matching,
            "gate, both": gate,
        }

    def prepare(self) -> Ahead:
        """Everything that can be made ahead: a table, an obfuscator for each of B's rows and each of A's groups."""
        encryptor = Encryptor.for_count(self.n, self.count, os.urandom)
        for made in on_all_cores(encryptor.obfuscators, [_PART] * -(-self.count // _PART)):
            encryptor.pool.add(made)
        obfuscators = FullObfuscators(self.n, os.urandom)
        obfuscators.pool.add(on_all_cores(lambda _: obfuscators.make(), range(GROUPS)))
        return Ahead(encryptor, obfuscators)


def measure(count: int) -> dict[str, Figure]:
    """Every figure, in this process."""
    bench = Bench(count)
    cold, _, cold_steps = timed(lambda: bench.run(Ahead()))
    preparing, preparing_cpu, ahead = timed(bench.prepare)
    prepared, _, prepared_steps = timed(lambda: bench.run(ahead))
    secret, identifiers = random_scalar(os.urandom), list(bench.rows)
    _, multiplying, _ = timed(lambda: multiply_all(secret, hash_all(identifiers, b"bench")))
    figures = {
        "whole, cold, s": cold,
        "whole, prepared, s": prepared,
        "preparing, in idle time, s": preparing,
        "B to A, bytes a row": bench.bytes_sent / count,
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "CPU a row, ms: to hash and multiply one list": 1000 * multiplying / count,
        "CPU a row, ms: to prepare": 1000 * preparing_cpu / count,
    }
    for name, steps in (("cold", cold_steps), ("prepared", prepared_steps)):
        figures |= {f"CPU a row, ms, {name}: {step}": 1000 * taken / count for step, taken in steps.items()}
    title = f"join, {count:,} × {count:,}, {GROUPS} groups"
    return {f"{title}: {name}": alone(figure) for name, figure in figures.items()}


def alone(ours: float) -> Figure:
    return {"ours": ours, "baseline": None, "ratio": None, "reach": None}


def measure_joins(count: int = COUNT) -> dict[str, Figure]:
    """The same in a process of its own, so that the memory is this benchmark's."""
    command = [sys.executable, "-m", "bench.joins", str(count), "--json"]
    figures: dict[str, Figure] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return figures


def main(arguments: list[str]) -> None:
    """Print the figures."""
    figures = measure(int(arguments[0]) if arguments else COUNT)
    if "--json" in arguments:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:<85}{figure['ours']:>12,.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
