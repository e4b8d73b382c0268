"""All attacks on live spaces, for `ceiba-lab attack`."""

from tests.attacks.live import keys, log, manifests, sets, transport
from tests.attacks.live.field import open_field

ATTACKS = [*sets.ATTACKS, *keys.ATTACKS, *manifests.ATTACKS, *log.ATTACKS, *transport.ATTACKS]

__all__ = ["ATTACKS", "open_field"]
