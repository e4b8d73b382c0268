"""All attacks on live spaces, for `ceiba-lab attack`."""

from tests.attacks.live import disclosure, gate, keys, log, manifests, sets, transport
from tests.attacks.live.field import open_field

ATTACKS = [
    *sets.ATTACKS, *keys.ATTACKS, *manifests.ATTACKS, *log.ATTACKS, *transport.ATTACKS, *disclosure.ATTACKS,
    *gate.ATTACKS,
]  # fmt: skip

__all__ = ["ATTACKS", "open_field"]
