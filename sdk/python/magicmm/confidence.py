"""How sure a search by words may be that its first match fits (docs/decisions/0014-confidence.md).

A cosine alone says little: its size depends on the words. What says more is how far the best match stands above what
the same words score on the library as a rule, and among how many photos it is the best.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from magicmm.manifest import ConfidenceSpec
    from magicmm.quantise import Scales


def confidence(spec: ConfidenceSpec, best: float, background: Scales, library: int, searched: int) -> float | None:
    """Return the probability that the best match fits the words; None in a library that is too small to tell.

    Args:
        spec: The model's calibration.
        best: Score of the best match.
        background: Scores of photos of the whole library, whatever a filter leaves of it.
        library: Photos in the library.
        searched: Photos that passed the filter. Fewer than the least library count as that many: nothing is known of
            choices among a handful.
    """
    if library < spec.least_photos:
        return None
    excess = best - float(np.quantile(background.astype(np.float64), spec.quantile))
    photos = max(searched, spec.least_photos)
    return sigmoid(spec.intercept + spec.excess * excess + spec.log_photos * math.log(photos))


def sigmoid(logit: float) -> float:
    """Return the probability of a logit."""
    return 0.5 * (1 + math.tanh(logit / 2))
