"""Every subject's bins for one scoring model, in memory: found by identifier in microseconds, known or not."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.engines.joined_rows import cells_of_subjects, numbers_of_subjects
from ceiba_node.snapshots import Snapshot
from ceiba_protocol.linkage.score_model import Bins
from ceiba_protocol.plan import MAX_GROUP_KEYS, GroupKey, Named, Plan, compile_plan
from ceiba_protocol.statistics.count import Count

_CELLS_AT_ONCE = 50_000
"""Features whose bins are read in one pass of the rows have together at most so many cells."""
_KEY_BYTES = 8


@dataclass(frozen=True)
class SubjectIndex:
    """What one version of a dataset says of its subjects: 8 bytes for each, and 1 for each feature; 8 more where the
    table has several identifiers."""

    version: str
    key: bytes = field(repr=False)
    """Of this process: nobody can look for two identifiers with one hash."""
    hashes: npt.NDArray[np.uint64] = field(repr=False)
    """[subjects], sorted."""
    bins: npt.NDArray[np.uint8] = field(repr=False)
    """[features, subjects]"""
    population: tuple[tuple[int, ...], ...] = field(repr=False)
    """For each feature, how many subjects are in each of its bins."""
    numbers: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    """[subjects]: their numbers, where they can be found by several identifiers."""

    def find(self, identifier: str) -> list[int] | None:
        """The subject's bin of each feature; None if it is not known."""
        place = self._place(identifier)
        if place is None:
            return None
        bins: list[int] = self.bins[:, place].tolist()
        return bins

    def number(self, identifier: str) -> int | None:
        """The subject's number, if it is known and has several identifiers."""
        place = self._place(identifier)
        return None if self.numbers is None or place is None else int(self.numbers[place])

    def _place(self, identifier: str) -> int | None:
        wanted = _hash(self.key, identifier.encode())
        place = int(np.searchsorted(self.hashes, np.uint64(wanted)))
        return place if place < len(self.hashes) and int(self.hashes[place]) == wanted else None


def build_index(
    engine: DuckDBEngine, snapshot: Snapshot, groups: Sequence[GroupKey], bins: Sequence[Bins], on: str
) -> SubjectIndex:
    """`groups`: of the features, whose bins are `bins`; `on`: the column of identifiers. A subject without one cannot
    be found, and is counted in no bin.

    Raises DuplicateIdentifier where rows of one subject fall into two bins, NotAnIdentifier, and what
    `engine.grouped_sums` does.
    """
    identifiers: list[bytes] = []
    columns: list[npt.NDArray[np.uint8]] = []
    for start, end in _passes([len(one.key.values) for one in bins]):
        plan = Plan(
            table=snapshot.table,
            schema_digest=snapshot.schema.digest(),
            groups=tuple(groups[start:end]),
            outputs=(Named(name=_unused(groups[start:end]), statistic=Count()),),
        )
        cells = cells_of_subjects(engine, snapshot, compile_plan(plan, snapshot.schema), on)
        identifiers = identifiers or list(cells)
        shape = tuple(len(one.key.values) for one in bins[start:end])
        places = np.unravel_index(np.fromiter(cells.values(), np.int64, len(cells)), shape)
        columns += [place.astype(np.uint8) for place in places]
    key = secrets.token_bytes(16)
    hashes = np.fromiter((_hash(key, one) for one in identifiers), np.uint64, len(identifiers))
    order = np.argsort(hashes)
    population = [
        tuple(np.bincount(column, minlength=one.count).tolist()) for column, one in zip(columns, bins, strict=True)
    ]
    numbers = None
    if len(snapshot.schema.identifiers) > 1:
        known = numbers_of_subjects(engine, snapshot, on)
        numbers = np.fromiter((known[one] for one in identifiers), np.int64, len(identifiers))[order]
    return SubjectIndex(snapshot.version, key, hashes[order], np.stack(columns)[:, order], tuple(population), numbers)


def _passes(cells: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of features that one pass can read."""
    start = 0
    for end in range(1, len(cells) + 1):
        last = end == len(cells)
        if last or end - start == MAX_GROUP_KEYS or prod(cells[start : end + 1]) > _CELLS_AT_ONCE:
            yield start, end
            start = end


def _unused(groups: Sequence[GroupKey]) -> str:
    names = {group.name for group in groups}
    return next(name for name in ("n", *(f"n{place}" for place in range(len(groups)))) if name not in names)


def _hash(key: bytes, identifier: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identifier, digest_size=_KEY_BYTES, key=key).digest(), "big")
