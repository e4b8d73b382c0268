"""All attacks on live spaces, for `ceiba-lab attack`."""

from tests.attacks.live import keys, manifests, sets
from tests.attacks.live.field import open_field

ATTACKS = [*sets.ATTACKS, *keys.ATTACKS, *manifests.ATTACKS]

__all__ = ["ATTACKS", "open_field"]
