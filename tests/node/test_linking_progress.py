"""A long step of a joint job says in the log how far it is."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ceiba_node import linking
from ceiba_protocol.linkage import private_join
from ceiba_protocol.trust.agreement import Mode
from tests.support.joint_nodes import JointNodes, quick_keys


@pytest.mark.parametrize(("long", "said"), [(1, True), (10_000, False)])
def test_both_long_steps_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int, said: bool
) -> None:
    monkeypatch.setattr(linking, "LONG_STEP", long)
    monkeypatch.setattr(private_join, "_BATCH", 1)
    with quick_keys():
        nodes = JointNodes(tmp_path / "space")
        with capture_logs() as lines:
            assert nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social")) == "done"
        nodes.close()
    told = [(line["step"], line["rows"], line["of_rows"]) for line in lines if line["event"] == "job.linking"]
    for step in ("rows", "masked"):
        rows = [row for of, *row in told if of == step]
        assert len(rows) == (10 if said else 0)
        assert not said or (rows[-1][0] == rows[-1][1] and rows == sorted(rows))
