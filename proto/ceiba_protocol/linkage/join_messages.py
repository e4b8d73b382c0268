"""How the messages of a private join become bytes, and back: lengths follow from public facts alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ceiba_protocol.canonical import sha256
from ceiba_protocol.errors import JoinOutOfOrder, MalformedMessage
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, MaskedFields, Share
from ceiba_protocol.linkage.ristretto import Point, decode_points
from ceiba_protocol.sums.paillier import key_id

_HEADER_BYTES = 32
SIZE_BYTES = 4


class Exchange:
    """What one side keeps of an exchange: its terms, whose key it is under, and which step comes next."""

    def __init__(self, terms: JoinTerms, me: str, n: int, steps: tuple[str, ...]) -> None:
        self.terms = terms
        self.n = int(n)
        self.fields = MaskedFields(terms.cells, self.n.bit_length())
        self._me = me
        self._left = steps

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Each step once, in order; after one that failed there is none. Raises JoinOutOfOrder."""
        left, self._left = self._left, ()
        if left[:1] != (name,):
            raise JoinOutOfOrder(member=self._me, step=name)
        yield
        self._left = left[1:]

    def seal(self, kind: str, *parts: bytes) -> bytes:
        """A message to the other holder: 32 bytes that tie it to its kind, the terms and the key; then the parts."""
        return b"".join((self._header(kind), *parts))

    def open(self, kind: str, message: bytes, sender: str, size: int | None = None) -> memoryview:
        """The body of a message, which must have `size` bytes if that is known. Raises MalformedMessage."""
        body = _body(message, self._header(kind), what := f"{kind} of {sender}")
        if size is not None:
            check_size(body, size, what)
        return body

    def _header(self, kind: str) -> bytes:
        return sha256("ceiba/v1/join-message", kind.encode(), self.terms.digest(), key_id(self.n))


def _body(message: bytes, header: bytes, what: str) -> memoryview:
    if message[:_HEADER_BYTES] != header:
        raise MalformedMessage(message=what, problem="it belongs to another join, another key or another step")
    return memoryview(message)[_HEADER_BYTES:]


def check_size(body: memoryview, size: int, what: str) -> None:
    """Raises MalformedMessage."""
    if len(body) != size:
        raise MalformedMessage(message=what, problem=f"it has {len(body)} bytes instead of {size}")


def filled(points: bytes, size: int) -> bytes:
    """With zero bytes up to `size`: the length of a message does not tell how many points there are."""
    return points.ljust(size, b"\0")


def without_filling(body: memoryview, size: int, what: str) -> memoryview:
    """The first `size` bytes. Raises MalformedMessage unless there are so many, and zero bytes alone after them."""
    check_size(body[:size], size, what)
    if bytes(body[size:]).strip(b"\0"):
        raise MalformedMessage(message=what, problem="there is something else than zero bytes after its points")
    return body[:size]


def distinct_points(blob: memoryview, what: str, sender: str) -> list[Point]:
    """The points that `sender` sent. One that comes twice would count a subject twice, so it is refused."""
    points = decode_points(bytes(blob), sender)
    if len(set(points)) != len(points):
        raise MalformedMessage(message=f"{what} of {sender}", problem="a point is in it more than once")
    return points


def write_sizes(sizes: Sequence[int]) -> bytes:
    """4 bytes each."""
    return b"".join(size.to_bytes(SIZE_BYTES, "big") for size in sizes)


def read_sizes(body: memoryview, count: int) -> tuple[list[int], memoryview]:
    """The sizes at the beginning, and what follows them. `body` has at least so many bytes."""
    end = count * SIZE_BYTES
    sizes = [int.from_bytes(body[at : at + SIZE_BYTES], "big") for at in range(0, end, SIZE_BYTES)]
    return sizes, body[end:]


# --- decisions and shares --------------------------------------------------------------------------------------


def bitmap_bytes(terms: JoinTerms) -> int:
    """Of one bit for each cell of each group."""
    return -(-len(terms.shapes) // 8)


def write_bitmap(released: Sequence[bool]) -> bytes:
    """The first cell's bit is the least significant of the first byte."""
    number = sum(1 << place for place, bit in enumerate(released) if bit)
    return number.to_bytes(-(-len(released) // 8), "little")


def read_bitmap(encoded: bytes, terms: JoinTerms, what: str) -> list[bool]:
    """Raises MalformedMessage for bits beyond the cells."""
    number, cells = int.from_bytes(encoded, "little"), len(terms.shapes)
    if number >> cells:
        raise MalformedMessage(message=what, problem="it has bits for cells that there are not")
    return [bool(number >> place & 1) for place in range(cells)]


def write_share(terms: JoinTerms, holder: str, released: Sequence[bool], shares: Sequence[Share]) -> bytes:
    """For the merchant: header, bits, and the fields of every cell, zero for those that are withheld."""
    parts = [_share_header(terms, holder), write_bitmap(released)]
    for cell, bit, share in zip(terms.shapes, released, shares, strict=True):
        for field, size in zip(share, _share_bytes(cell), strict=True):
            parts.append((field if bit else 0).to_bytes(size, "big", signed=True))
    return b"".join(parts)


def read_share(share: bytes, terms: JoinTerms, holder: str) -> tuple[list[bool], list[Share]]:
    """The bits and the fields of every cell. Raises MalformedMessage."""
    what, at = f"share of {holder}", bitmap_bytes(terms)
    sizes = [_share_bytes(cell) for cell in terms.shapes]
    view = _body(share, _share_header(terms, holder), what)
    check_size(view, at + sum(map(sum, sizes)), what)
    body, shares = bytes(view), []
    for count_bytes, values_bytes in sizes:
        middle, end = at + count_bytes, at + count_bytes + values_bytes
        shares.append(
            (int.from_bytes(body[at:middle], "big", signed=True), int.from_bytes(body[middle:end], "big", signed=True))
        )
        at = end
    return read_bitmap(body[: bitmap_bytes(terms)], terms, what), shares


def _share_header(terms: JoinTerms, holder: str) -> bytes:
    return sha256("ceiba/v1/join-share", holder.encode(), terms.digest())


def _share_bytes(cell: FieldShape) -> tuple[int, int]:
    """Of a cell's two fields, signed, because noise may make one negative; the second is 1 where there are no sums."""
    count_bits, values_bits = cell.masked_bits
    return (count_bits + 9) // 8, (values_bits + 9) // 8
