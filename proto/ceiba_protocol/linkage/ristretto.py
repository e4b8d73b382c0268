"""The group ristretto255 (RFC 9496) and its hash functions (RFC 9380, RFC 9497 §4.1), on libsodium.

A point is its canonical encoding of 32 bytes; a scalar is 32 bytes, little-endian, in [0, ℓ) with the prime
ℓ = 2^252 + 27742317777372353535851937790883648493, the order of the group. libsodium computes with scalars in
constant time. Costs on one core: a multiplication 55 µs, by the base point 23 µs, hashing to the group 20 µs, an
addition 18 µs, checking a stranger's point 6 µs.

`rbcl` carries libsodium. Its wrappers check no lengths, so the functions are called without them. A call lets go of
the interpreter's lock, so that the chunks of a batch run on all cores.
"""

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rbcl import _sodium

from ceiba_protocol.errors import BadGroupElement
from ceiba_protocol.sums.randomness import Random

with suppress(OSError):
    Path(_sodium._name).unlink()  # loaded by now; rbcl would leave 2.8 MB behind for every process

Point = bytes
"""An element of the group in its canonical encoding: 32 bytes."""
Scalar = bytes
"""An integer in [0, ℓ): 32 bytes, little-endian."""

POINT_BYTES = 32
SCALAR_BYTES = 32
HASH_BYTES = 64
"""Of what is mapped to a point or reduced to a scalar: long enough for a result within 2^-128 of uniform."""

_IDENTITY: Point = bytes(POINT_BYTES)
_ZERO: Scalar = bytes(SCALAR_BYTES)
_Item = TypeVar("_Item")
_SMALLEST_CHUNK = 16  # a millisecond of multiplications; starting a thread takes a tenth of that


class _Function:
    """A function of libsodium that takes and returns byte strings of fixed sizes; the result's comes first."""

    def __init__(self, name: str, result_size: int, *sizes: int, can_refuse: bool = False) -> None:
        self._result_size, self._sizes = result_size, sizes
        self._call = _sodium[name]  # a copy of its own, so rbcl's wrappers keep their settings
        self._call.argtypes = [ctypes.c_char_p] * (1 + len(sizes))
        self._call.restype = ctypes.c_int if can_refuse else None

    def __call__(self, *arguments: bytes) -> bytes:
        if tuple(map(len, arguments)) != self._sizes:  # libsodium would read beyond the end
            raise BadGroupElement(member="another member", problem="one does not have the length that it must have")
        result = ctypes.create_string_buffer(self._result_size)
        if self._call(result, *arguments):
            raise BadGroupElement(member="another member", problem="one is no point, or a product is the identity")
        return result.raw


_multiply = _Function("crypto_scalarmult_ristretto255", POINT_BYTES, SCALAR_BYTES, POINT_BYTES, can_refuse=True)
_base_multiply = _Function("crypto_scalarmult_ristretto255_base", POINT_BYTES, SCALAR_BYTES, can_refuse=True)
_add = _Function("crypto_core_ristretto255_add", POINT_BYTES, POINT_BYTES, POINT_BYTES, can_refuse=True)
_subtract = _Function("crypto_core_ristretto255_sub", POINT_BYTES, POINT_BYTES, POINT_BYTES, can_refuse=True)
_from_hash = _Function("crypto_core_ristretto255_from_hash", POINT_BYTES, HASH_BYTES, can_refuse=True)
_reduce = _Function("crypto_core_ristretto255_scalar_reduce", SCALAR_BYTES, HASH_BYTES)
_invert = _Function("crypto_core_ristretto255_scalar_invert", SCALAR_BYTES, SCALAR_BYTES, can_refuse=True)
_multiply_scalars = _Function("crypto_core_ristretto255_scalar_mul", SCALAR_BYTES, SCALAR_BYTES, SCALAR_BYTES)
_subtract_scalars = _Function("crypto_core_ristretto255_scalar_sub", SCALAR_BYTES, SCALAR_BYTES, SCALAR_BYTES)
_is_point = _sodium["crypto_core_ristretto255_is_valid_point"]
_is_point.argtypes = [ctypes.c_char_p]


# --- scalars ---------------------------------------------------------------------------------------------------


def random_scalar(random: Random) -> Scalar:
    """A secret scalar, uniform in [1, ℓ) up to 2^-128."""
    while (scalar := _reduce(random(HASH_BYTES))) == _ZERO:
        pass
    return scalar


def is_scalar(value: bytes) -> bool:
    """Whether these are the 32 bytes of an integer in [1, ℓ), as a stranger's must be."""
    wide = value + bytes(HASH_BYTES - SCALAR_BYTES)
    return len(value) == SCALAR_BYTES and value != _ZERO and _reduce(wide) == value


def invert(scalar: Scalar) -> Scalar:
    """1/scalar modulo ℓ; zero raises BadGroupElement."""
    return _invert(scalar)


def multiply_scalars(left: Scalar, right: Scalar) -> Scalar:
    """left·right modulo ℓ."""
    return _multiply_scalars(left, right)


def subtract_scalars(left: Scalar, right: Scalar) -> Scalar:
    """left − right modulo ℓ."""
    return _subtract_scalars(left, right)


# --- points ----------------------------------------------------------------------------------------------------


def random_point(random: Random) -> Point:
    """A point that nobody knows a logarithm of, uniform up to 2^-128."""
    return _from_hash(random(HASH_BYTES))


def multiply(scalar: Scalar, point: Point) -> Point:
    """scalar·point. Raises BadGroupElement when `point` is none, or the product is the identity."""
    return _multiply(scalar, point)


def base_multiply(scalar: Scalar) -> Point:
    """scalar·G for the base point G of RFC 9496. Raises BadGroupElement for zero."""
    return _base_multiply(scalar)


def add(left: Point, right: Point) -> Point:
    """left + right; may be the identity. Raises BadGroupElement when one is no point."""
    return _add(left, right)


def subtract(left: Point, right: Point) -> Point:
    """left − right; may be the identity. Raises BadGroupElement when one is no point."""
    return _subtract(left, right)


def multiply_all(scalar: Scalar, points: Sequence[Point]) -> list[Point]:
    """scalar·point for each, in order, on all cores. Raises BadGroupElement as `multiply` does."""
    return _on_all_cores(lambda chunk: [_multiply(scalar, point) for point in chunk], points)


def add_all(left: Sequence[Point], right: Sequence[Point]) -> list[Point]:
    """The sums of two vectors of one length, position by position, on all cores."""
    pairs = list(zip(left, right, strict=True))
    return _on_all_cores(lambda chunk: [_add(*pair) for pair in chunk], pairs)


def weighted_sum(weights: Sequence[Scalar], points: Sequence[Point]) -> Point:
    """Σ weight·point, on all cores; the identity when there are none."""

    def one_sum(chunk: Sequence[tuple[Scalar, Point]]) -> list[Point]:
        return [functools.reduce(_add, (_multiply(weight, point) for weight, point in chunk), _IDENTITY)]

    return functools.reduce(_add, _on_all_cores(one_sum, list(zip(weights, points, strict=True))), _IDENTITY)


# --- hashing ---------------------------------------------------------------------------------------------------


def hash_to_group(message: bytes, dst: bytes) -> Point:
    """A point that depends on `message` like a random oracle's; `dst` (1–255 bytes) separates its uses.

    hash_to_ristretto255 of RFC 9380, appendix B, with expand_message_xmd over SHA-512.
    """
    return _from_hash(_expand_message(message, dst))


def hash_to_scalar(message: bytes, dst: bytes) -> Scalar:
    """A scalar in [0, ℓ) that depends on `message` like a random oracle's (RFC 9497 §4.1)."""
    return _reduce(_expand_message(message, dst))


def hash_all(messages: Sequence[bytes], dst: bytes) -> list[Point]:
    """`hash_to_group` of each, in order, on all cores."""
    return _on_all_cores(lambda chunk: [hash_to_group(message, dst) for message in chunk], messages)


def _expand_message(message: bytes, dst: bytes) -> bytes:
    """expand_message_xmd (RFC 9380 §5.3.1) over SHA-512 to 64 bytes, which is a single block."""
    dst_prime = dst + bytes([len(dst)])
    zero_block = bytes(128)  # s_in_bytes of SHA-512
    first = hashlib.sha512(zero_block + message + HASH_BYTES.to_bytes(2, "big") + b"\0" + dst_prime).digest()
    return hashlib.sha512(first + b"\1" + dst_prime).digest()


# --- points on the wire ----------------------------------------------------------------------------------------


def encode_points(points: Sequence[Point]) -> bytes:
    """One after another, 32 bytes each."""
    return b"".join(points)


def decode_points(blob: bytes, member: str) -> list[Point]:
    """The points that `member` sent: canonical encodings, none the identity; anything else raises BadGroupElement.

    The identity would stay what it is under every key, so its token would be the same for everybody.
    """
    if len(blob) % POINT_BYTES:
        raise BadGroupElement(member=member, problem=f"{len(blob)} bytes are not a multiple of {POINT_BYTES}")
    points = [blob[at : at + POINT_BYTES] for at in range(0, len(blob), POINT_BYTES)]

    def check(chunk: Sequence[tuple[int, Point]]) -> list[Point]:
        for place, point in chunk:
            if point == _IDENTITY:
                raise BadGroupElement(member=member, problem=f"number {place} is the identity")
            if point[-1] >> 7 or not _is_point(point):  # libsodium 1.0.18 does not look at the highest bit
                raise BadGroupElement(member=member, problem=f"number {place} is not the encoding of a point")
        return [point for _, point in chunk]

    return _on_all_cores(check, list(enumerate(points, 1)))


# --- all cores -------------------------------------------------------------------------------------------------


def _on_all_cores(work: Callable[[Sequence[_Item]], list[Point]], items: Sequence[_Item]) -> list[Point]:
    """work(items), in chunks of which each core takes one."""
    cores = os.cpu_count() or 1
    if cores == 1 or len(items) < cores * _SMALLEST_CHUNK:
        return work(items)
    size = -(-len(items) // cores)
    chunks = [items[at : at + size] for at in range(0, len(items), size)]
    with ThreadPoolExecutor(cores) as threads:
        return [point for part in threads.map(work, chunks) for point in part]
