"""Attacks on a live space. Each is run twice: on a build that lacks exactly one check, where it must succeed, and on
the shipped one, which must stop it.

The suite lies in the source tree, beside the tests, because the weakened builds are test doubles: nothing that is
installed can leave a check out. A suite is a Python file with `ATTACKS`, a list of Attack, and `open_field(folder)`, a
context manager for what they all need: a running space, and an operator's and a merchant's keys to attack it with.
"""

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceiba_protocol.errors import BadStory, UnknownStory
from ceiba_protocol.schema import nearest

SUITE = Path("tests/attacks/live/suite.py")
"""From the root of the source tree."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    succeeded: bool
    saw: str
    """What the attacker saw, in a sentence."""


@dataclass(frozen=True)
class Attack:
    """One attack, and the check that stops it."""

    name: str
    title: str
    """What the attacker tries, in a sentence."""
    without: str
    """The one check that the weakened build lacks."""
    run: Callable[[Any, str | None], Outcome]
    """Called with the suite's field, and the check to leave out, or None for the shipped build."""


def attack(without: str) -> Callable[[Callable[[Any, str | None], Outcome]], Attack]:
    """Makes an Attack of a function: its name, and the first line of its docstring as title.

    >>> @attack(without="whole set")
    ... def smaller_set(field, without): ...
    """

    def make(run: Callable[[Any, str | None], Outcome]) -> Attack:
        return Attack(run.__name__.replace("_", "-"), (run.__doc__ or "").strip().partition("\n")[0], without, run)

    return make


@dataclass(frozen=True)
class Suite:
    """The attacks of one file, and what opens their field."""

    attacks: dict[str, Attack]
    open_field: Callable[[Path], AbstractContextManager[Any]]


def load_suite(file: Path = SUITE) -> Suite:
    """Raises BadStory: the suite is part of the source tree, so an installed Ceiba alone has none."""
    if not file.is_file():
        problem = "there is no such file; the attack suite is in the source tree and this runs from its root"
        raise BadStory(story=file, problem=problem)
    root = str(Path.cwd())
    if root not in sys.path:
        sys.path.insert(0, root)
    module = importlib.import_module(".".join(file.with_suffix("").parts))
    return Suite({attack.name: attack for attack in module.ATTACKS}, module.open_field)


@dataclass(frozen=True)
class Duel:
    """Both runs of one attack, side by side."""

    attack: Attack
    weakened: Outcome
    shipped: Outcome
    seconds: float

    @property
    def ok(self) -> bool:
        """It shows something: without the check it succeeds, with it it does not."""
        return self.weakened.succeeded and not self.shipped.succeeded

    def to_plain(self) -> dict[str, Any]:
        """For programs: JSON values."""
        return {
            "name": self.attack.name,
            "title": self.attack.title,
            "without": self.attack.without,
            "weakened": vars(self.weakened),
            "shipped": vars(self.shipped),
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        ending = "succeeds" if self.weakened.succeeded else "FAILS, so the attack shows nothing"
        stopped = "SUCCEEDS" if self.shipped.succeeded else "is stopped"
        return (
            f"{'ok    ' if self.ok else 'FAILED'}  {self.attack.name}: {self.attack.title}\n"
            f"        without '{self.attack.without}' it {ending}: {self.weakened.saw}\n"
            f"        on the shipped build it {stopped}: {self.shipped.saw}"
        )


def run_attacks(
    suite: Suite, names: Iterable[str], folder: Path, report: Callable[[Duel], None] = lambda duel: None
) -> list[Duel]:
    """Run the named attacks, or all for no name, on one field. Raises UnknownStory for a name that is none."""
    wanted = list(names) or list(suite.attacks)
    for name in wanted:
        if name not in suite.attacks:
            raise UnknownStory(story=name, nearest=nearest(name, suite.attacks))
    duels = []
    with suite.open_field(folder) as field:
        for name in wanted:
            duels.append(run_attack(suite.attacks[name], field))
            report(duels[-1])
    return duels


def run_attack(attack: Attack, field: Any) -> Duel:
    """First on the weakened build, then on the shipped one."""
    started = time.monotonic()
    weakened = attack.run(field, attack.without)
    return Duel(attack, weakened, attack.run(field, None), time.monotonic() - started)
