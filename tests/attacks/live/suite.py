"""All attacks on live spaces, for `ceiba-lab attack`."""

from tests.attacks.live import log, sets, transport
from tests.attacks.live.field import open_field

ATTACKS = [*sets.ATTACKS, *log.ATTACKS, *transport.ATTACKS]

__all__ = ["ATTACKS", "open_field"]
