"""A whole receipt with the roster that it holds under, one that does not hold, and the roots of a growing log."""

from functools import cache

from ceiba_protocol.trust.log import witness
from ceiba_protocol.trust.merkle import Frontier
from ceiba_protocol.trust.receipt import Receipt, read_parts, verify
from ceiba_protocol.v1.log_pb2 import ReceiptParts
from tests.support.members import World
from tests.support.seeded import seeded


@cache
def _done() -> tuple[World, ReceiptParts]:
    world = World(random=seeded("a receipt"))
    return world, world.receipt_parts()


def _verified(made: Receipt, world: World) -> dict[str, object]:
    steps = verify(made, world.roster)
    error = steps[-1].error
    return {
        "roster": world.roster.body().decode(),
        "receipt": made.body().decode(),
        "steps": len(steps),
        "error": error.code if error else None,
    }


def receipt() -> dict[str, object]:
    """Every step holds."""
    world, parts = _done()
    made = read_parts(parts, world.roster)
    return _verified(made, world)


def receipt_too_few_witnesses() -> dict[str, object]:
    """One of three holders has cosigned: the last step fails."""
    world, parts = _done()
    one = ReceiptParts()
    one.CopyFrom(parts)
    del one.checkpoint.cosignatures[1:]
    return _verified(read_parts(one, world.roster), world)


def log_checkpoints() -> dict[str, object]:
    """Entries, the log's root after each, and what a holder that has witnessed so far keeps."""
    world, parts = _done()
    log = world.log_of([*parts.agreement, parts.manifest, *parts.approvals, *parts.submissions, parts.release])
    frontier, roots, kept = Frontier(), [], []
    for size, entry in enumerate(log, 1):
        checkpoint = world.checkpoint(log[:size])
        frontier = witness(frontier, [entry], checkpoint)
        roots.append(checkpoint.root)
        kept.append(frontier.to_bytes().hex())
    return {"entries": [entry.decode() for entry in log], "roots": roots, "frontiers": kept}
