"""Steps: which subjects' rows changed from one version of a table to another, also when the old rows are gone.

    <folder>/<table>/steps/00000000-<version>.begin      subjects' numbers may mean others in all versions before
    <folder>/<table>/steps/00000001-<version>.parquet    the subjects that changed on the way to this version

A step says of every changed subject what it was `before` and `after`: 0 where it had no row, else 64 bits of a keyed
digest of its rows. So what changed and changed back between two versions does not count as changed between them: a
faulty export that is mended the next night must not hide the one person who was admitted meanwhile.

A step's file appears at once, and before its version becomes the current one; readers need no lock.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from ceiba_node.durable import make_durable
from ceiba_node.quantising import literal

Numbers = NDArray[np.uint64]
"""Subjects' numbers, ascending."""
_COLUMNS = ("number", "before", "after")
_NONE = np.empty(0, np.uint64)
_BEGIN, _STEP = "begin", "parquet"
_NAME = re.compile(rf"([0-9]{{8,}})-([0-9a-f]{{64}})\.({_BEGIN}|{_STEP})")


@dataclass(frozen=True)
class _Step:
    path: Path
    number: int
    version: str
    begins: bool
    """No way leads here from the step before."""


class Steps:
    """The versions of one table that were current, in order, and what changed between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, version: str, current: str | None, changes: Path | None) -> None:
        """Record that `version` follows the current one. Run before it becomes the current one, by one process at a
        time. `changes`: what `changes.write_changes` wrote, a staging file, or None if nobody can say what changed."""
        steps = self._rewound(current)
        if steps and steps[-1].version == version:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        follows = changes is not None and bool(steps) and steps[-1].version == current
        number = steps[-1].number + 1 if steps else 0
        path = self._folder / f"{number:08}-{version}.{_STEP if follows else _BEGIN}"
        if changes is not None and follows:
            changes.chmod(0o600)
            make_durable(changes)
            os.replace(changes, path)
        else:
            path.touch(mode=0o600)
        make_durable(self._folder)

    def changed(self, one: str, other: str) -> Numbers | None:
        """The subjects whose rows differ between two versions; None if nobody can say, or a step is damaged."""
        between = self._between(one, other)
        try:
            return None if between is None else _net([step.path for step in between])
        except duckdb.Error:
            return None

    def are_linked(self, one: str, other: str) -> bool:
        """Whether a subject's number means the same subject in both versions."""
        return self._between(one, other) is not None

    def _between(self, one: str, other: str) -> list[_Step] | None:
        """The steps of the shortest way between the two; a version that came back has the same rows each time."""
        steps = self._all()
        ways = [
            steps[min(start, end) + 1 : max(start, end) + 1]
            for start, from_step in enumerate(steps)
            for end, to_step in enumerate(steps)
            if from_step.version == one and to_step.version == other
        ]
        return min((way for way in ways if not any(step.begins for step in way)), key=len, default=None)

    def _rewound(self, current: str | None) -> list[_Step]:
        """All steps, after removing those to versions that never became the current one, because of a crash."""
        steps = self._all()
        while any(step.version == current for step in steps) and steps[-1].version != current:
            steps.pop().path.unlink()
        return steps

    def _all(self) -> list[_Step]:
        if not self._folder.is_dir():
            return []
        found = [(path, _NAME.fullmatch(path.name)) for path in self._folder.iterdir()]
        steps = [_Step(path, int(name[1]), name[2], name[3] == _BEGIN) for path, name in found if name]
        return sorted(steps, key=lambda step: step.number)


def _net(paths: Sequence[Path]) -> Numbers:
    """The subjects whose state before the first step that has them is not the one after the last."""
    parts = [_read(path) for path in paths]
    numbers, before, after = (np.concatenate([_NONE, *(part[name] for part in parts)]) for name in _COLUMNS)
    subjects, first = np.unique(numbers, return_index=True)
    _, last = np.unique(numbers[::-1], return_index=True)
    return np.asarray(subjects[before[first] != after[::-1][last]], np.uint64)


def _read(path: Path) -> dict[str, Numbers]:
    with duckdb.connect(config={"temp_directory": "", "threads": 1}) as database:
        arrays = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM read_parquet({literal(str(path))})").fetchnumpy()
        return {name: np.asarray(array, np.uint64) for name, array in arrays.items()}
