"""What the secure sum costs, against `phe` as the baseline: `python -m bench.crypto`.

One run, one thread, CPU time, 3072-bit key. The machine's speed drifts, so `phe` is measured directly before and
after each of our figures, 10 encryptions each time, and a baseline is their mean; `phe` has no set-up, so what it
needs for 3,000 ciphertexts is extrapolated. `phe` uses gmpy2 as well. Cold figures include the encryptor's own base.
"""

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence

import gmpy2
import phe
from gmpy2 import mpz

from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.paillier import Encryptor, generate_keypair, key_id, multiply
from ceiba_protocol.sums.secure_sum import (
    RoundContext,
    coordinator_multiply,
    holder_contribute,
    merchant_open,
    set_digest,
)
from ceiba_protocol.trust.keys import x25519_public_key

Figure = dict[str, float | str | None]
MANY = 10**6
"""A count for which an encryptor takes its largest table."""


def cpu(action: Callable[[], object]) -> float:
    """Seconds of CPU, all threads of this process."""
    started = time.process_time()
    action()
    return time.process_time() - started


def least_cpu(action: Callable[[], object]) -> float:
    """The least of five runs, for targets in seconds."""
    return min(cpu(action) for _ in range(5))


def against_phe(public_key: phe.PaillierPublicKey, count: int, ours: Callable[[], object], reach: str) -> Figure:
    """Seconds for each of the `count` ciphertexts that `ours` makes, against `phe`."""

    def encrypt_ten() -> None:
        for value in range(10):
            public_key.encrypt(value)

    before, mine, after = cpu(encrypt_ten), cpu(ours), cpu(encrypt_ten)
    baseline = (before + after) / 20
    return {"ours": mine / count, "baseline": baseline, "ratio": baseline * count / mine, "reach": reach}


def encryption(public_key: phe.PaillierPublicKey) -> dict[str, Figure]:
    """Ciphertexts made cold, from a prebuilt table, from the pool, and 64-bit values packed into them."""
    n = int(public_key.n)

    def cold(count: int) -> Callable[[], object]:
        def make() -> list[mpz]:
            encryptor = Encryptor.for_count(n, count, os.urandom)
            return [encryptor.encrypt(value) for value in range(count)]

        return make

    ready = Encryptor.for_count(n, MANY, os.urandom)
    ready.pool.add(ready.obfuscators(500))
    pooled = against_phe(public_key, 500, lambda: [ready.encrypt(n - 1) for _ in range(500)], "≥ 1,000 ×")
    packed = Layout(key_bits=n.bit_length(), header=(), cell=(2**63 - 1,), cells=460, holders=3)
    values = [2**40] * packed.slots

    def encrypt_packed() -> list[mpz]:
        return [ready.encrypt(part) for part in packed.pack(values, values)]

    return {
        "encrypt 10, cold": against_phe(public_key, 10, cold(10), "≥ 2.5 ×"),
        "encrypt 300, cold": against_phe(public_key, 300, cold(300), "≥ 6 ×"),
        "encrypt 3,000, cold": against_phe(public_key, 3_000, cold(3_000), "≥ 12 ×"),
        "encrypt, table built": against_phe(public_key, 300, lambda: ready.obfuscators(300), "≥ 15 ×"),
        "encrypt, from the pool": pooled,
        "packed 64-bit value, table built": against_phe(public_key, packed.slots, encrypt_packed, "≥ 400 ×"),
    }


def addition(public_key: phe.PaillierPublicKey) -> dict[str, Figure]:
    """One addition of two ciphertexts, against one bare modular multiplication."""
    n = int(public_key.n)
    square = mpz(n) ** 2
    vectors = [[mpz.from_bytes(os.urandom(760), "big") for _ in range(100)] for _ in range(50)]

    def bare() -> None:
        left, right = vectors[0][0], vectors[1][0]
        for _ in range(4_900):
            left * right % square

    pairs = [(cpu(lambda: multiply(vectors, n)), cpu(bare)) for _ in range(7)]
    ours, baseline = (min(column) / 4_900 for column in zip(*pairs, strict=True))
    return {"add": {"ours": ours, "baseline": baseline, "ratio": baseline / ours, "reach": "≥ 0.91 ×"}}


class Round:
    """All parties of one secure sum, ready to repeat it: every repetition is another attempt, with its own masks."""

    def __init__(self, layout: Layout, holders: Sequence[str], private_key: phe.PaillierPrivateKey) -> None:
        self.layout = layout
        self.holders = holders
        self.private_key = private_key
        self._n = int(private_key.public_key.n)
        self._secrets = {holder: os.urandom(32) for holder in holders}
        self._keys = {holder: x25519_public_key(secret) for holder, secret in self._secrets.items()}
        self._set = set_digest({holder: (bytes(32), key) for holder, key in self._keys.items()})
        self._attempts = itertools.count()
        self._shares = [bound // len(holders) for bound in (*layout.header, *layout.cell * layout.cells)]
        self._values = [share // 3 for share in self._shares]

    def contribute(self, me: str, attempt: int, encryptor: Encryptor) -> bytes:
        """Holder `me`: pack, mask, encrypt."""
        context = RoundContext(
            "K1", bytes(32), bytes(32), attempt, 0, 0, self._set, key_id(self._n), self.layout.digest()
        )
        peers = {peer: key for peer, key in self._keys.items() if peer != me}
        return holder_contribute(
            context, self.layout, self._values, self._shares, me, self._secrets[me], peers, encryptor
        )

    def contribute_again(self, encryptor: Encryptor) -> bytes:
        """The first holder's part of a new attempt."""
        return self.contribute(self.holders[0], next(self._attempts), encryptor)

    def contributions(self, encryptor: Encryptor) -> Mapping[str, bytes]:
        """Every holder's part of a new attempt."""
        attempt = next(self._attempts)
        return {holder: self.contribute(holder, attempt, encryptor) for holder in self.holders}

    def multiply(self, contributions: Mapping[str, bytes]) -> bytes:
        """The coordinator's part."""
        return coordinator_multiply(contributions, self.layout, self._n)

    def open(self, total: bytes, contributions: Mapping[str, bytes]) -> list[int]:
        """The merchant's part."""
        return merchant_open(total, contributions, self.layout, self.private_key)

    def run(self, encryptor: Encryptor) -> list[int]:
        """All parts, one after the other."""
        contributions = self.contributions(encryptor)
        return self.open(self.multiply(contributions), contributions)


def large_round(public_key: phe.PaillierPublicKey, private_key: phe.PaillierPrivateKey) -> dict[str, Figure]:
    """1,000 cells of 64 bits, 64 holders: CPU of one of each role. Holder: table cold, and built before."""
    n, holders = int(public_key.n), [f"holder-{index:02}" for index in range(64)]
    layout = Layout(key_bits=n.bit_length(), header=(), cell=(2**63 - 1,), cells=1_000, holders=len(holders))
    whole = Round(layout, holders, private_key)
    ready = Encryptor.for_count(n, MANY, os.urandom)
    contributions = whole.contributions(ready)
    total = whole.multiply(contributions)
    seconds = {
        "holder, table cold": (
            least_cpu(lambda: whole.contribute_again(Encryptor.for_count(n, layout.ciphertexts, os.urandom))),
            "≤ 0.2 s",
        ),
        "holder, table built": (least_cpu(lambda: whole.contribute_again(ready)), "≤ 0.2 s"),
        "coordinator": (least_cpu(lambda: whole.multiply(contributions)), "≤ 0.05 s"),
        "merchant": (least_cpu(lambda: whole.open(total, contributions)), "≤ 0.4 s"),
    }
    return {
        f"1,000 cells × 64 holders: {role}": {"ours": ours, "baseline": None, "ratio": None, "reach": reach}
        for role, (ours, reach) in seconds.items()
    }


def measure() -> dict[str, Figure]:
    """Every figure: seconds of ours and of the baseline, their ratio (above 1: ours is faster), DESIGN §9's target."""
    public_key, private_key = generate_keypair(os.urandom)
    return encryption(public_key) | addition(public_key) | large_round(public_key, private_key)


def main() -> None:
    """Print the figures."""
    print(f"phe {phe.__version__}, gmpy2 {gmpy2.version()}, {gmpy2.mp_version()}, one thread, CPU time")
    for name, figure in measure().items():
        baseline = f"{figure['baseline']:.3e}" if figure["baseline"] is not None else "-"
        ratio = f"{figure['ratio']:.2f} ×" if figure["ratio"] is not None else "-"
        print(f"{name:<48}{figure['ours']:.3e} s  baseline {baseline:>9}  {ratio:>11}  reach {figure['reach']}")


if __name__ == "__main__":
    main()
