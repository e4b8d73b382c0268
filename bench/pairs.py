"""What all pairs of features of two holders cost: `python -m bench.pairs`, with the size of each.

Five features at either, of six bins each; half of each holder's subjects are at the other. Three ways: a join for each
feature of the base, as one asks with `tabulate`; one join with all of them, whose rows are sent anew for each (mode
hidden); and one in which a row serves all (mode revealed, without the linking by tokens before it). All roles in one
process on all cores, 3072-bit key, its table made ahead, nothing sent.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, Row
from ceiba_protocol.linkage.private_join import BaseSide, Cell, JoinedSide, ProvenKey, merchant_open
from ceiba_protocol.sums.key_proof import prove_key
from ceiba_protocol.sums.paillier import Encryptor, generate_keypair

FEATURES, BINS, MINIMUM = 5, 6, 5

Grouping = Sequence[Sequence[bytes]]


def bin_of(subject: int, feature: int) -> int:
    """Something different for each feature, as if by chance."""
    return subject * (2 * feature + 7919) // 13 % BINS


@dataclass
class Costs:
    """In seconds and bytes, of as many joins as it takes."""

    wall: float = 0.0
    cpu: float = 0.0
    sent: int = 0


class Bench:
    """One pair of tables and one key; repeats the joins with fresh secrets."""

    def __init__(self, count: int) -> None:
        self.count = count
        subjects = range(count + count // 2)
        names = [b"91%016d" % subject for subject in subjects]
        self.groupings = [
            [[names[one] for one in subjects[:count] if bin_of(one, feature) == group] for group in range(BINS)]
            for feature in range(FEATURES)
        ]
        self.rows: dict[bytes, Row] = {
            names[one]: [(feature * BINS + bin_of(one, feature + FEATURES), ()) for feature in range(FEATURES)]
            for one in subjects[-count:]
        }
        self.private_key = generate_keypair(os.urandom)[1]
        n = int(self.private_key.public_key.n)
        self.key = ProvenKey(n, prove_key(self.private_key, bytes(32)), bytes(32))
        self.encryptor = Encryptor.for_count(n, 10_000, os.urandom)

    def terms(self, groupings: Sequence[Grouping], one_row_for_all: bool) -> JoinTerms:
        """Of a join about these."""
        return JoinTerms(
            context=os.urandom(32),
            base="register",
            joined="tax",
            groupings=tuple(map(len, groupings)),
            one_row_for_all=one_row_for_all,
            cells=(FieldShape(self.count.bit_length()),) * (FEATURES * BINS),
            minimum_subjects=MINIMUM,
            hides_zeros=True,
            smallest_intersection=MINIMUM,
            base_subjects=self.count,
            joined_subjects=self.count,
        )

    def join(self, groupings: Sequence[Grouping], costs: Costs, one_row_for_all: bool = False) -> list[list[Cell]]:
        """All tables of these groupings."""
        wall, cpu = time.perf_counter(), time.process_time()
        terms, flag = self.terms(groupings, one_row_for_all), {"joiner_is_semi_honest": True}
        base = BaseSide(terms, groupings, self.key, os.urandom, obfuscators=FullObfuscators(self.key.n, os.urandom))
        joined = JoinedSide(terms, self.rows, self.private_key, os.urandom, encryptor=self.encryptor, **flag)
        rows = joined.rows(base.groups())
        decision, share = joined.decide(base.test(joined.tests(base.mask(rows))))
        opened = merchant_open(terms, base.share(decision), share)
        costs.wall += time.perf_counter() - wall
        costs.cpu += time.process_time() - cpu
        costs.sent += len(rows)
        return opened


def main(count: int) -> None:
    """Print what each way costs."""
    bench, ways = Bench(count), {name: Costs() for name in ("a join each", "rows each", "a row for all")}
    answers = [
        [cells for one in bench.groupings for cells in bench.join([one], ways["a join each"])],
        bench.join(bench.groupings, ways["rows each"]),
        bench.join(bench.groupings, ways["a row for all"], one_row_for_all=True),
    ]
    assert answers[0] == answers[1] == answers[2]
    print(f"{FEATURES} × {FEATURES} features of {BINS} bins, {count:,} × {count:,} subjects")
    for name, costs in ways.items():
        print(f"{name:<15}{costs.wall:>8.2f} s{costs.cpu:>8.2f} s CPU{costs.sent / 1e6:>8.2f} MB of rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
