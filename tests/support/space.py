"""A running space of four hospitals, started once for all tests of a process; pytest finds it through conftest.py."""

from collections.abc import Iterator

import pytest

from ceiba_scenarios import Sandbox
from ceiba_scenarios.stories.health_sharing import DATA, TABLE, split_by_hospital


@pytest.fixture(scope="session")
def space_of_four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Four real hospitals with the table health.heart. Tests must leave its processes running."""
    files = split_by_hospital(tmp_path_factory.mktemp("space") / "hospitals")
    holders = {hospital: {TABLE: file} for hospital, file in files.items()}
    with Sandbox(holders, schemas={TABLE: DATA / "heart.toml"}) as sandbox:
        yield sandbox
