"""The same questions to other systems, in one run: `make peers`. Wall time.

Kaplan–Meier over four parties beside MPyC, the median of RUNS. What is compared is not the same: MPyC's parties share
secrets (one of four may collude), open the totals to all of them, and have neither agreements, a gate, budgets,
signatures nor a log; its time begins once they are connected. Ours is from the merchant's call to curves with a test,
through a coordinator that may see nothing.

Logistic regression beside Flower's SecAgg+: `bench.peers.logistic` says what is not the same.
"""

import statistics
import subprocess
import sys
from pathlib import Path

from bench import fits
from bench.peers import logistic

PYTHON = Path(".peers/bin/python")
PROGRAM = Path(__file__).parent / "mpyc_survival.py"
RUNS = 5


def mpyc() -> tuple[float, list[str]]:
    """Seconds, and the medians that it finds."""
    seconds, medians = [], list[str]()
    for _ in range(RUNS):
        command = [str(PYTHON), str(PROGRAM), str(fits.LUNG), "-M4"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        first, *medians = done.stdout.split()[-3:]
        seconds.append(float(first))
    return statistics.median(seconds), medians


def main() -> None:
    if not PYTHON.exists():
        sys.exit("The other systems are not installed; run `make peers`.")
    theirs, medians = mpyc()
    for name, figure in fits.survival().items():
        if name.startswith("Kaplan"):
            ours = figure["ours"]
            assert isinstance(ours, float)
            ratio = f"{ours / theirs:.1f} ×"
            print(f"{name}: ours {ours:.3f} s, MPyC {theirs:.3f} s (medians {', '.join(medians)}), {ratio}")
    logistic.main()


main()
