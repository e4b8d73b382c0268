"""The node's folder: who may read it, and what is in it."""

from pathlib import Path

import pytest

from ceiba_node.config import FILE, Home
from ceiba_protocol.errors import BadConfiguration, BadIdentity, LedgerDamaged, RosterNotPinned


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_that_was_there_before_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir(mode=0o755)
    assert mode(Home.make(tmp_path / "node").folder) == 0o700


def test_what_was_spilled_before_is_gone_and_nobody_else_may_look(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    (tmp_path / "spill").mkdir(mode=0o755)
    (tmp_path / "spill" / "rows.tmp").write_text("left by a crash")
    spill = home.make_spill_folder()
    assert (mode(spill), list(spill.iterdir())) == (0o700, [])


def test_the_sample_configuration_holds_the_defaults(tmp_path: Path) -> None:
    from ceiba_node.config import Settings

    assert Home.make(tmp_path).settings() == Settings()


@pytest.mark.parametrize("text", ["memory_limit = 5", "threads = 0", "colour = 'red'", "threads =", "\x00"])
def test_a_wrong_configuration_is_refused_by_its_key(tmp_path: Path, text: str) -> None:
    home = Home.make(tmp_path)
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadConfiguration):
        home.settings()


def test_a_node_that_has_not_joined_or_pinned_says_so(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    with pytest.raises(BadIdentity, match="not joined"):
        home.identity()
    with pytest.raises(RosterNotPinned, match="pin"):
        home.roster()


def test_a_missing_ledger_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    with pytest.raises(LedgerDamaged, match="missing"):
        home.ledger()
    assert not home.ledger_path.exists()
