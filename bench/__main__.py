"""`make bench`: everything that DESIGN §9 names, in one run; a table here, the same as JSON in bench/results.json."""

import json
import os
import platform
from pathlib import Path

import duckdb
import gmpy2
import phe
from rich.console import Console
from rich.table import Table

from bench import crypto, disclosure, fits, joined_space, joins, linkage, scoring, space
from bench.audit import measure_audit
from bench.crypto import Figure

RESULTS = Path(__file__).parent / "results.json"


def conditions() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "phe": phe.__version__,
        "gmpy2": gmpy2.version(),
        "gmp": gmpy2.mp_version(),
        "duckdb": duckdb.__version__,
        "key_bits": 3072,
    }


def show(title: str, figures: dict[str, Figure]) -> None:
    """One table: ours, the baseline, their ratio and what it should be."""
    table = Table("figure", "ours", "baseline", "ratio", "reach", title=title)
    for name, figure in figures.items():
        table.add_row(name, *(_text(figure[column]) for column in ("ours", "baseline", "ratio", "reach")))
    Console(width=120).print(table)


def _text(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:,.4g}"


def main() -> None:
    measured = conditions()
    cryptography = crypto.measure()
    show("Cryptography against phe: seconds of CPU; ratio above 1: ours is faster", cryptography)
    safety = disclosure.measure_gate() | disclosure.measure_noise() | measure_audit()
    show("What makes answers safe: CPU; ratio above 1: ours is faster", safety)
    models = fits.measure_fits()
    show("Fits against statsmodels and lifelines on pooled rows: seconds; ratio above 1: ours is slower", models)
    linked = linkage.measure_linkage()
    show("Linkage against openmined-psi: seconds; ratio above 1: ours is slower", linked)
    joined = joins.measure_joins() | joined_space.measure_joined_space()
    show("A private join of two holders: alone, and in a space against a plain join by DuckDB", joined)
    scored = scoring.measure() | scoring.measure_space()
    show("Private scores: seconds, of CPU for one role, on the clock in a space; without a baseline", scored)
    spaces = space.measure_all()
    show("A space against plain DuckDB: seconds; ratio above 1: ours is slower", spaces)
    results = {"conditions": measured, "cryptography": cryptography, "safety": safety, "fits": models}
    results |= {"linkage": linked, "joins": joined, "scores": scored, "space": spaces}
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(f"Written to {RESULTS}.")


main()
