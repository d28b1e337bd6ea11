"""One scale for all rows that a unit reads, for runtimes that want to know it before they see any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magicmm_quant.schemes import LEVELS_8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from magicmm_quant.calibration import Statistics

    Floats = NDArray[np.float32]

_SMALLEST = 1e-12


def static_scales(statistics: Statistics, smoothing: Mapping[str, Floats]) -> dict[str, float]:
    """Return what one step of an int8 code stands for, by unit of the vision tower.

    The largest number that was seen becomes 127; what is larger later is cut.

    Args:
        statistics: Of the units before smoothing.
        smoothing: Scales by unit; a unit reads its inputs divided by them.
    """
    scales = {}
    for unit, seen in statistics.units.items():
        if unit.startswith(("vision.", "connector.")):
            peaks = seen.peak / smoothing[unit] if unit in smoothing else seen.peak
            scales[unit] = max(float(peaks.max()) / LEVELS_8, _SMALLEST)
    return scales
