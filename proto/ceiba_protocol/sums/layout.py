"""Layout: how the sums of a job lie packed in ciphertexts, and back (PROTOCOL §2.4).

Each ciphertext holds P = Σ v_k·2^(offset_k), a signed integer of signed *balanced* digits: no bias is added, and the
digits of a sum of packings are the sums of the digits as long as every sum stays within its bound. The layout is
a pure function of public facts, so every party computes it and its digest enters every mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.errors import MalformedMessage, SlotOverflow, TotalRejected, ValueOutOfRange

CANARY_BITS = 64
"""Zero bits above the slots. Masks that do not cancel leave them random: a miss has probability below 2^-64."""
HEADROOM_BITS = 3
"""With the canary they keep totals far below n/3, the largest integer that `phe` reads."""


@dataclass(frozen=True)
class Layout:
    """Slots of one job: the `header` once, then the sums of each cell, cell after cell.

    `header` and `cell` are bounds of the *total*: no |sum over all holders| is larger. A slot takes exactly
    bit_length(bound) + 1 bits, the sign included, not 32, 48 or 64: the width is public either way, every saved bit
    is a smaller message, and counts of some thousand rows need 15. Every ciphertext begins with a slot to which each
    holder adds 1, then takes slots in order until the next does not fit into key_bits − 3 − 64 bits.
    """

    key_bits: int
    header: tuple[int, ...]
    cell: tuple[int, ...]
    cells: int
    holders: int

    def __post_init__(self) -> None:
        widest = max((width(bound) for bound in self.header + self.cell), default=0)
        limit = self._capacity - width(self.holders)
        if widest > limit:
            raise ValueOutOfRange(what="A sum over all holders", bits=widest, limit=limit)

    @property
    def slots(self) -> int:
        """How many sums there are: the length of `pack`'s argument and of `unpack`'s result."""
        return len(self.header) + self.cells * len(self.cell)

    @property
    def ciphertexts(self) -> int:
        """How many ciphertexts hold them; at least one, so that an empty answer is still a checked one."""
        return len(self._chunks)

    def digest(self) -> bytes:
        """32 bytes: SHA256(TLV[…]) of all fields; integers as 4 bytes, bounds as big-endian bytes of any length."""
        sizes = (self.key_bits, self.cells, self.holders)
        bounds = (self.header, self.cell)
        return sha256(
            "ceiba/v1/layout",
            *(size.to_bytes(4, "big") for size in sizes),
            *(tlv(*(b.to_bytes(width(b) // 8 + 1, "big") for b in part)) for part in bounds),
        )

    def pack(self, values: Sequence[int], share_bounds: Sequence[int]) -> list[int]:
        """Run by a holder: its sums as one signed integer P, |P| < 2^(key_bits − 67), for each ciphertext.

        `share_bounds` are this holder's own published bounds, slot by slot; those of all holders must add up to at
        most the layout's. A value beyond its bound raises SlotOverflow and nothing is sent: it could carry into the
        next slot.
        """
        if not len(values) == len(share_bounds) == self.slots:
            problem = f"{len(values)} values and {len(share_bounds)} bounds for {self.slots} slots"
            raise MalformedMessage(message="sums of a holder", problem=problem)
        for value, bound in zip(values, share_bounds, strict=True):
            if not -bound <= value <= bound:
                raise SlotOverflow(width=width(bound))
        start, packed = 0, []
        for widths in self._chunks:
            stop = start + len(widths) - 1
            packed.append(join_digits([1, *values[start:stop]], widths))
            start = stop
        return packed

    def unpack(self, residues: Sequence[int], n: int) -> list[int]:
        """Run by the merchant: the sums from the decrypted residues in [0, n), one for each ciphertext.

        Raises TotalRejected unless, in every ciphertext, the canary is empty and each holder counted once, and every
        sum is within its bound. One of these fails when holders disagreed about anything in the context.
        """
        if len(residues) != self.ciphertexts:
            raise TotalRejected(problem=f"{len(residues)} ciphertexts instead of {self.ciphertexts}")
        values: list[int] = []
        for residue, widths in zip(residues, self._chunks, strict=True):
            counter, *digits = split_digits(residue - n if residue > n // 2 else residue, widths)
            if counter != self.holders:
                raise TotalRejected(problem="the number of holders in it is not the agreed one")
            values += digits
        if not all(-bound <= value <= bound for value, bound in zip(values, self._bounds(), strict=True)):
            raise TotalRejected(problem="a sum is beyond its public bound")
        return values

    @property
    def _capacity(self) -> int:
        return self.key_bits - HEADROOM_BITS - CANARY_BITS

    def _bounds(self) -> Iterator[int]:
        yield from self.header
        for _ in range(self.cells):
            yield from self.cell

    @cached_property
    def _chunks(self) -> list[list[int]]:
        """For each ciphertext, the widths of its slots: the counter of participants first."""
        counter = width(self.holders)
        chunks, used = [[counter]], counter
        for bound in self._bounds():
            if used + width(bound) > self._capacity:
                chunks.append([counter])
                used = counter
            chunks[-1].append(width(bound))
            used += width(bound)
        return chunks


def width(bound: int) -> int:
    """Bits of a slot whose digits lie in [−bound, bound]: with w bits a digit lies in [−2^(w−1), 2^(w−1))."""
    return bound.bit_length() + 1


def join_digits(digits: Sequence[int], widths: Sequence[int]) -> int:
    """Σ digit_k·2^(offset_k), the first digit least significant."""
    packed = 0
    for digit, bits in zip(reversed(digits), reversed(widths), strict=True):
        packed = (packed << bits) + digit
    return packed


def split_digits(packed: int, widths: Sequence[int]) -> list[int]:
    """The balanced digits of `packed`; whatever is left above them is a canary that died."""
    digits = []
    for bits in widths:
        half = 1 << (bits - 1)
        digit = ((packed + half) & (2 * half - 1)) - half
        digits.append(digit)
        packed = (packed - digit) >> bits
    if packed:
        raise TotalRejected(problem="its canary bits are not empty")
    return digits
