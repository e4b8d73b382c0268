"""All attacks on live spaces, for `ceiba-lab attack`."""

from tests.attacks.live import sets
from tests.attacks.live.field import open_field

ATTACKS = [*sets.ATTACKS]

__all__ = ["ATTACKS", "open_field"]
