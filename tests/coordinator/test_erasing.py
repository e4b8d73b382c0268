"""What holders have sent each other is gone from the coordinator's disk when their job has ended."""

from pathlib import Path

from ceiba_protocol.v1.common_pb2 import Signed
from tests.coordinator.office import Office
from tests.support.seeded import seeded
from tests.support.traces import everything_in


def test_no_byte_of_a_forgotten_payload_is_left_in_a_file(tmp_path: Path) -> None:
    """Neither in a free page of the database nor in its write-ahead log; what is kept, is."""
    office = Office(tmp_path / "coordinator.sqlite3")
    office.submit()
    store = office.store
    payloads = {step: seeded(f"payload {step}")(100_000) for step in range(3)}
    for step, payload in payloads.items():
        store.add_joint_message(office.id, step, Signed(signer="tax"), payload)
    # A file's pages are of 4,096 bytes: some 1,000 of them in a row are on one.
    parts = {step: [payload[at : at + 1_000] for at in range(0, 100_000, 5_000)] for step, payload in payloads.items()}

    def found(step: int) -> int:
        content = everything_in(tmp_path)
        return sum(part in content for part in parts[step])

    assert min(map(found, parts)) > 10, "the search finds nothing at all"
    with store.transaction():
        store.forget_joint_payloads(office.id, [0, 2])
    assert [found(0), found(2)] == [0, 0] and found(1) > 10
    assert store.joint_payload(office.id, 1) == payloads[1] and not store.joint_payload(office.id, 0)
    assert sorted(store.joint_messages(office.id)) == [0, 1, 2]
    store.engine.dispose()
