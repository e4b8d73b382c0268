"""Steps: in which versions of a table a subject's number means the same subject, also when their rows are gone.

    <folder>/<table>/steps/00000000-<version>.begin      numbers may mean others in all versions before
    <folder>/<table>/steps/00000001-<version>.follows    they mean the same as in the version before

A step's file is empty, appears at once, and before its version becomes the current one; readers need no lock.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ceiba_node.durable import make_durable

_BEGIN, _FOLLOWS = "begin", "follows"
_NAME = re.compile(rf"([0-9]{{8,}})-([0-9a-f]{{64}})\.({_BEGIN}|{_FOLLOWS})")


@dataclass(frozen=True)
class _Step:
    path: Path
    number: int
    version: str
    begins: bool
    """No way leads here from the step before."""


class Steps:
    """The versions of one table that were current, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, version: str, current: str | None, follows: bool) -> None:
        """Record the version that comes after the current one. Run before it becomes the current one, by one process
        at a time. `follows`: whether numbers mean the same in both."""
        steps = self._rewound(current)
        if steps and steps[-1].version == version:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        is_linked = follows and bool(steps) and steps[-1].version == current
        number = steps[-1].number + 1 if steps else 0
        (self._folder / f"{number:08}-{version}.{_FOLLOWS if is_linked else _BEGIN}").touch(mode=0o600)
        make_durable(self._folder)

    def are_linked(self, one: str, other: str) -> bool:
        """Whether a subject's number means the same subject in both versions."""
        steps = self._all()
        places = [[place for place, step in enumerate(steps) if step.version == version] for version in (one, other)]
        ways = [steps[min(start, end) + 1 : max(start, end) + 1] for start in places[0] for end in places[1]]
        return any(not any(step.begins for step in way) for way in ways)

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
