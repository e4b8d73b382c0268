"""Results as files: tables for spreadsheets, pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ceiba.analysis import Outcome
from ceiba.result import Result
from ceiba_protocol.errors import BadQuestion

PICTURES = (".png", ".svg", ".pdf")


def require_writable(*files: Path | None) -> None:
    """To be called before a question is asked and counted. Raises BadQuestion."""
    for file in files:
        if file is not None and (not file.parent.is_dir() or file.is_dir()):
            raise BadQuestion(problem=f"{file} cannot be written", hint="Name a file in a folder that there is.")


def require_picture(file: Path | None) -> None:
    """Raises BadQuestion for a file whose ending says no kind of picture."""
    if file is not None and file.suffix.lower() not in PICTURES:
        hint = f"Use a file that ends in {', '.join(PICTURES)}."
        raise BadQuestion(problem=f"{file.name} does not end like a picture", hint=hint)


def require_one_table(found: object) -> None:
    """Raises BadQuestion for the many tables of a join."""
    if isinstance(found, Mapping):
        hint = "Take them in Python: `space.job(id).wait()` has a result by name."
        raise BadQuestion(problem="a file takes one table, and these are several", hint=hint)


def write_csv(result: Result, file: Path) -> None:
    """Titles, then rows (RFC 4180, UTF-8): nothing for NULL, `withheld` for what was. With noise, each column of values
    is followed by one with half of its 95 % interval, `n_plus_minus` for `n`."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        places = [(place, name, name not in result.groups) for place, name in enumerate(result.columns)]
        noisy = bool(result.plus_minus)
        writer.writerow(
            title
            for _, name, is_value in places
            for title in ([name, f"{name}_plus_minus"] if noisy and is_value else [name])
        )
        for number, row in enumerate(result.rows):
            halves = result.plus_minus[number] if noisy else ()
            writer.writerow(
                value
                for place, _, is_value in places
                for value in ([row[place], halves[place]] if noisy and is_value else [row[place]])
            )


def write_picture(found: Result | Outcome, file: Path) -> None:
    """What `found.plot()` draws. Raises MissingExtra without matplotlib, and BadQuestion for what has no picture."""
    drawable: Any = found
    drawable.plot().savefig(file)
