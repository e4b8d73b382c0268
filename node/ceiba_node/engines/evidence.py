"""stopgap"""

from collections.abc import Mapping
from dataclasses import dataclass
import numpy as np
from pyroaring import BitMap


@dataclass(frozen=True)
class Evidence:
    subjects: np.ndarray
    members: Mapping[tuple[int, int], BitMap]
    dominated: np.ndarray
