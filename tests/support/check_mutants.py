"""Does a test fail for every small change of the modules that decide? `python -m tests.support.check_mutants`

Changes that all tests accept are compared with tests/mutants.toml, which says for each why it may survive.
"""

import difflib
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support.mutant_run import ROOT, survivors
from tests.support.mutators import mutants

LIST = Path("tests/mutants.toml")

Change = tuple[str, str]
"""The lines that went and the lines that came, without indentation: the same after an edit elsewhere in the file."""


def change(source: str, mutated: str) -> Change:
    lines = list(difflib.ndiff(source.splitlines(), mutated.splitlines()))
    went, came = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return went, came


def explained(file: str) -> list[Change]:
    """The changes of `file` that may survive; an entry without a reason does not count."""
    entries = tomllib.loads((ROOT / LIST).read_text()).get("survivor", [])
    return [(entry["line"], entry["becomes"]) for entry in entries if entry["module"] == file and entry.get("why")]


def problems(found: Sequence[Change], may_survive: Sequence[Change]) -> list[str]:
    """What to do. Alike changes at two places are two survivors, and need two explanations."""
    new, gone = Counter(found) - Counter(may_survive), Counter(may_survive) - Counter(found)
    return [f"no test fails for this; write one, or explain it in {LIST}:\n{_shown(*it)}" for it in new.elements()] + [
        f"does not survive; take it out of {LIST}:\n{_shown(*it)}" for it in gone.elements()
    ]


def _shown(line: str, becomes: str) -> str:
    return f"  line = {line!r}\n  becomes = {becomes!r}"


def check(file: str, tests: Sequence[str]) -> list[str]:
    """Run all mutants of one module, print the survivors as diffs, and return the problems."""
    source = (ROOT / file).read_text()
    if not survivors(file, [source], tests):
        return ["its tests fail without any change"]
    texts = mutants(source)
    alive = survivors(file, texts, tests)
    print(f"{file}: {len(texts)} mutants, {len(alive)} survive", flush=True)
    for text in alive:
        print(*difflib.unified_diff(source.splitlines(), text.splitlines(), file, file, n=1, lineterm=""), sep="\n")
    return problems([change(source, text) for text in alive], explained(file))


def main() -> None:
    modules = tomllib.loads((ROOT / LIST).read_text())["modules"]
    bad = [f"\n{file}: {problem}" for file, tests in modules.items() for problem in check(file, tests)]
    sys.exit("\n".join(bad) if bad else 0)


if __name__ == "__main__":
    main()
