"""Random powers of one fixed base, by the comb of Lim and Lee (CRYPTO '94, "More flexible exponentiation").

An exponent of teeth·columns bits is written as a matrix: row i holds the bits of weight 2^(i·columns) and above, and
the `teeth` bits of one column are a digit. The columns are cut into `strips`, each with a table of the 2^teeth
products of its row bases, so that one power costs columns multiplications and columns/strips − 1 squarings. Against
a plain power (one squaring for each bit of the exponent) that is 5 to 10 times less, after a table is built.

The exponent is never assembled: a uniform exponent is a uniform digit for each column, so the digits are drawn.
Table reads follow secret digits; constant time is not claimed (PROTOCOL §8).
"""

import itertools
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from ceiba_protocol.sums.randomness import Random

MAXIMUM_ENTRIES = 1 << 15
"""Table entries: 25 MB of residues modulo the square of a 3072-bit n. Four times as many would save a tenth more."""
_TEETH = range(4, 14)
_STRIPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class CombShape:
    """How an exponent of at least `exponent_bits` bits is cut: `strips` × `width` columns of `teeth` bits each."""

    teeth: int
    strips: int
    width: int

    @property
    def exponent_bits(self) -> int:
        """Exponents are uniform in [0, 2^exponent_bits)."""
        return self.teeth * self.strips * self.width

    @property
    def entries(self) -> int:
        """Residues kept in the table."""
        return self.strips << self.teeth

    def multiplications(self, count: int) -> int:
        """Modular multiplications and squarings to build the table and draw `count` powers."""
        return self.exponent_bits + self.entries + count * (self.strips + 1) * self.width


def cheapest_shape(exponent_bits: int, count: int) -> CombShape:
    """The shape that draws `count` powers with the fewest multiplications, table included."""
    shapes = [
        CombShape(teeth, strips, width=-(-exponent_bits // (teeth * strips)))
        for teeth, strips in itertools.product(_TEETH, _STRIPS)
    ]
    affordable = (shape for shape in shapes if shape.entries <= MAXIMUM_ENTRIES)
    return min(affordable, key=lambda shape: shape.multiplications(count))


class FixedBase:
    """The powers of one base modulo `modulus`. The base and its table are secret: nothing here prints them."""

    def __init__(self, base: mpz, modulus: mpz, shape: CombShape) -> None:
        self.shape = shape
        self._modulus = modulus
        self._tables = _tables(base, modulus, shape)

    def random_power(self, random: Random) -> mpz:
        """base^r for r uniform in [0, 2^exponent_bits)."""
        modulus, tables, strips = self._modulus, self._tables, self.shape.strips
        digits = _random_digits(random, self.shape)
        power = mpz(1)
        for start in range(0, len(digits), strips):
            power = power * power % modulus
            for table, digit in zip(tables, digits[start : start + strips], strict=True):
                power = power * table[digit] % modulus
        return power


def _random_digits(random: Random, shape: CombShape) -> list[int]:
    """One uniform digit of `teeth` ≤ 16 bits for each column, the most significant column of each strip first."""
    drawn = random(2 * shape.strips * shape.width)
    mask = (1 << shape.teeth) - 1
    return [(high << 8 | low) & mask for high, low in zip(drawn[::2], drawn[1::2], strict=True)]


def _tables(base: mpz, modulus: mpz, shape: CombShape) -> list[list[mpz]]:
    """For each strip j: entry d is the product, over the set bits i of d, of base^(2^((i·strips + j)·width))."""
    tables = [[mpz(1)] for _ in range(shape.strips)]
    step = mpz(1) << shape.width
    for _ in range(shape.teeth):
        for table in tables:
            table.extend([entry * base % modulus for entry in table])
            base = gmpy2.powmod(base, step, modulus)
    return tables
