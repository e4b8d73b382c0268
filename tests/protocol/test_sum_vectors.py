"""The stored vectors of the secure sum are what the code computes today."""

import json

import pytest

from tests.vectors.rebuild import FOLDER, VECTORS, render


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vector_is_recomputed(name: str) -> None:
    stored = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(stored) == json.loads(render(VECTORS[name]()))
