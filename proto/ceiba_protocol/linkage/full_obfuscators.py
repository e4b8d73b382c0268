"""Obfuscators with full entropy: what makes a derived ciphertext say its plaintext to the key's owner, and no more."""

from collections.abc import Callable

import gmpy2
from gmpy2 import mpz

from ceiba_protocol.sums.paillier import Pool, key_id, released_gil
from ceiba_protocol.sums.randomness import Random, random_below


class FullObfuscators:
    """r^n mod n², r uniform in Z_n^*, each handed out once (PROTOCOL §2.3 rules 3 and 4; I7).

    For a ciphertext that was *derived* with our secrets and goes to the key's owner. Under a proven key the n-th
    residues are a group of φ(n) elements that r ↦ r^n maps Z_n^* onto, one to one: times a uniform one, every unit
    becomes a uniform ciphertext of the same plaintext. A short exponent to a fixed base does not do that, because the
    owner can choose factors with which it takes logarithms (`tests/attacks/test_scoring.py`). One costs a whole power,
    33 ms at 3072 bits, and depends on nothing: fill the pool in idle time.
    """

    def __init__(self, n: int, random: Random) -> None:
        self.n = n
        self.pool = Pool()
        self._n, self._square = mpz(n), mpz(n) ** 2
        self._random = random

    def __repr__(self) -> str:
        return f"FullObfuscators(key_id={key_id(self.n).hex()}, {len(self.pool)} unused)"

    def make(self) -> mpz:
        """A fresh one, which is not in the pool."""
        with released_gil():
            return gmpy2.powmod(random_unit(self._n, self._random), self._n, self._square)

    def fill(self, stock: int, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Add to the pool until it has `stock`, or `is_wanted` says no."""
        while len(self.pool) < stock and is_wanted():
            self.pool.add([self.make()])

    def take(self) -> mpz:
        """One that nobody else gets: from the pool, or made now if that is empty."""
        obfuscator = self.pool.take()
        return self.make() if obfuscator is None else obfuscator


def random_unit(n: mpz, random: Random) -> mpz:
    """Uniform in Z_n^*. A proven modulus can still have a factor of 17 bits, so that a residue is not always a unit."""
    while gmpy2.gcd(unit := mpz(random_below(random, int(n))), n) != 1:
        pass
    return unit
