"""How a joined row lies in plaintexts, so that a sum over rows can be masked field by field (PROTOCOL §5.4).

Every cell of the joined holder has a *count* field and, if it has sums, a *values* field, in which its sums are packed
as signed balanced digits (PROTOCOL §2.4). Fields lie side by side in as many Paillier plaintexts as they need; a cell
never straddles two. The base holder adds to each field of an encrypted sum its own random number, and the key's owner
decrypts the sum: then each of the two holds an integer share of every field, and single cells can be released while the
others stay hidden.

The numbers of one plaintext together are uniform in Z_n, so that what the key's owner decrypts tells it nothing at all,
also if its rows are no rows but whatever it likes, with bits beyond the last field or beyond what a field may hold. A
field that may hold b bits is b + 42 bits wide: but for one mask in 2^40, which is drawn again, nothing that is added to
it carries into the next one, and a sum is the difference of two shares.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ceiba_protocol.disclosure.noise import tail
from ceiba_protocol.errors import MalformedMessage, SlotOverflow, ValueOutOfRange
from ceiba_protocol.sums.layout import join_digits
from ceiba_protocol.sums.randomness import Random, random_below

_ROOM_BITS = 42
"""By so many bits a field is wider than what it may hold, so that masks seldom lie too near to its end."""
NOISES = 2
"""Both holders add noise to every figure: whoever is in league with the merchant does not know the other's."""
_HEADROOM_BITS = 2
"""A plaintext stays below 2^(bits(n) − 2), hence below n/2."""

Row = Sequence[tuple[int, Sequence[int]]]
"""What one subject adds: for each cell that it is in, the cell's number and its values. It counts once in each."""
Share = tuple[int, int]
"""One holder's share of a cell: of its count field, and of its values field (0 if the cell has no sums)."""
Cell = tuple[int, tuple[int, ...]] | None
"""What the merchant reads of a cell: its count and its sums, or nothing because it was withheld."""


@dataclass(frozen=True)
class FieldShape:
    """The sizes of one cell: `count_bits` ≥ 1 for a count without sign, a width ≥ 2 for each signed sum.

    The magnitude of a sum of width w is below 2^(w−1), its noise included. `noise` is empty for an exact cell; else it
    has the variances, in squared integer units, of each holder's noise in the count and in each sum (PROTOCOL §3.6).
    With `none_is_many` nobody in it is as good as many, also where zeros are hidden.
    """

    count_bits: int
    value_widths: tuple[int, ...] = ()
    noise: tuple[int, ...] = ()
    none_is_many: bool = False

    @property
    def value_bits(self) -> int:
        """Bits of all sums together, signs included."""
        return sum(self.value_widths)

    @property
    def masked_bits(self) -> tuple[int, int]:
        """Width of the count field and of the values field with their masks; 0 for no values."""
        return self.count_bits + _ROOM_BITS, self.value_bits + _ROOM_BITS if self.value_widths else 0

    @property
    def count_tail(self) -> int:
        """How far the noise of both can move the count."""
        return NOISES * tail(self.noise[0]) if self.noise else 0

    def numbers(self) -> tuple[int, ...]:
        """All of it, as what a digest is made of."""
        widths, noise = self.value_widths, self.noise
        return (self.count_bits, len(widths), *widths, len(noise), *noise, self.none_is_many)

    def values_field(self, values: Sequence[int]) -> int:
        """Σ v_j·2^(offset_j), signed. Each value must be within its width."""
        return join_digits(values, self.value_widths)

    def has_room(self, mask: Share) -> bool:
        """Whether whatever the fields may hold can be added to these masks without leaving the fields."""
        (count, values), (count_bits, values_bits), half = mask, self.masked_bits, 1 << self.value_bits >> 1
        return count + (1 << self.count_bits) <= 1 << count_bits and half <= values <= (1 << values_bits) - half


@dataclass(frozen=True)
class MaskedFields:
    """The fields of all cells under a modulus of `key_bits`; cells take plaintexts in order, each from bit 0 on.

    Raises ValueOutOfRange if a cell does not fit into one plaintext.
    """

    cells: tuple[FieldShape, ...]
    key_bits: int

    def __post_init__(self) -> None:
        widest = max(sum(cell.masked_bits) for cell in self.cells)
        if widest > self._capacity:
            raise ValueOutOfRange(what="What a joined cell sums", bits=widest, limit=self._capacity)

    @property
    def plaintexts(self) -> int:
        """How many plaintexts hold one row, and one masked sum."""
        return self._places[-1][0] + 1

    def pack_row(self, row: Row) -> list[int]:
        """Run by the joined holder: one subject as `plaintexts` signed integers; to be reduced modulo n."""
        packed = [0] * self.plaintexts
        for number, values in row:
            plaintext, offset = self._places[number]
            cell = self.cells[number]
            packed[plaintext] += (1 + (cell.values_field(values) << cell.masked_bits[0])) << offset
        return packed

    def draw_masks(self, n: int, random: Random) -> list[int]:
        """Run by the base holder: for each plaintext of one sum a number that is uniform in Z_n."""
        sums_end = n - (1 << self._capacity - _ROOM_BITS + 1)
        while True:
            masks = [random_below(random, n) for _ in range(self.plaintexts)]
            shares = zip(self.cells, self.split(masks), strict=True)
            if max(masks) < sums_end and all(cell.has_room(share) for cell, share in shares):
                return masks

    def split(self, plaintexts: Sequence[int]) -> list[Share]:
        """Each holder's share of every cell, from its plaintexts of one sum: the masks, or what was decrypted.

        What lies above the last field is dropped without a word: a refusal would tell the sender something of the sum.
        """
        shares = []
        for cell, (plaintext, offset) in zip(self.cells, self._places, strict=True):
            count_bits, values_bits = cell.masked_bits
            both = plaintexts[plaintext] >> offset
            shares.append((both & ((1 << count_bits) - 1), both >> count_bits & ((1 << values_bits) - 1)))
        return shares

    @property
    def _capacity(self) -> int:
        return self.key_bits - _HEADROOM_BITS

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """For each cell its plaintext, and the bit at which it begins there."""
        places, plaintext, used = [], 0, 0
        for cell in self.cells:
            bits = sum(cell.masked_bits)
            if used + bits > self._capacity:
                plaintext, used = plaintext + 1, 0
            places.append((plaintext, used))
            used += bits
        return places


def check_rows(cells: Sequence[FieldShape], rows: Iterable[Row]) -> None:
    """Run by the joined holder: whichever of the rows are summed, with noise, no sum leaves its width.

    Raises MalformedMessage for a row that names a cell twice, or one that there is not, or that has another number of
    values; SlotOverflow if the magnitudes of all rows together leave no room.
    """
    reach = [[0] * len(cell.value_widths) for cell in cells]
    for row in rows:
        named = [number for number, _ in row]
        if len(set(named)) != len(named) or not all(0 <= number < len(cells) for number in named):
            raise MalformedMessage(message="rows to join", problem="one names a cell twice, or one that there is not")
        for number, values in row:
            if len(values) != len(reach[number]):
                raise MalformedMessage(message="rows to join", problem="one has too many or too few values")
            reach[number] = [so_far + abs(value) for so_far, value in zip(reach[number], values, strict=True)]
    for cell, reached in zip(cells, reach, strict=True):
        tails = [NOISES * tail(variance) for variance in cell.noise[1:]] or [0] * len(reached)
        for width, most, noise in zip(cell.value_widths, reached, tails, strict=True):
            if most + noise >= 1 << (width - 1):
                raise SlotOverflow(width=width)
