"""Files that survive a power cut."""

import os
from pathlib import Path


def make_durable(path: Path) -> None:
    """Make a file, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """A new file, readable by its owner alone."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    make_durable(path)
