"""SmoothQuant and AWQ scales: hot input channels give some of their size to the weights, or take some from them.

A unit that reads x with weights W reads x / s with W * s instead; whatever is in front of it is divided by s, exactly
(`RewrittenWeights`). With s = max|x|^a / max|w|^(1 - a), both sides have about the same spread (Xiao et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_quant.units import unit_plans

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from magicmm_model.config import ModelConfig
    from magicmm_quant.calibration import Statistics
    from magicmm_quant.units import Feed
    from magicmm_quant.weights import RewrittenWeights

    Floats = NDArray[np.float32]

LIMIT = 64.0
"""The largest scale; one over it is the smallest."""
_FLOOR = 1e-5
"""Channels quieter than this share of the loudest count as that loud: silence has no spread to even out."""


def smoothable_units(config: ModelConfig) -> dict[str, Feed | None]:
    """Return the units whose inputs can be scaled, with the feed that is divided, or None for a norm."""
    plans = unit_plans(config)
    feeds: dict[str, Feed | None] = {plan.feed.unit: plan.feed for plan in plans.values() if plan.feed}
    return {unit: feeds.get(unit) for unit, plan in plans.items() if plan.norm or unit in feeds}


def smoothing_scales(
    statistics: Statistics,
    weights: RewrittenWeights,
    config: ModelConfig,
    alpha: float = 0.5,
    only: Collection[str] | None = None,
) -> dict[str, Floats]:
    """Return the scales [in] of every unit that can be smoothed, each of geometric mean 1.

    Args:
        statistics: Of the same rewrites as `weights`.
        weights: With rotation, without smoothing; each unit is read once.
        config: Of the weights.
        alpha: 0 evens out the weights alone, 1 the inputs alone.
        only: Units to smooth, or None for all that can be.

    Raises:
        MagicError: `argument_invalid` for another alpha, or for units that cannot be smoothed or were not observed.
    """
    able = smoothable_units(config)
    wanted = [unit for unit in able if only is None or unit in only]
    wrong = [unit for unit in only or () if unit not in able] + [u for u in wanted if u not in statistics.units]
    if wrong or not 0 <= alpha <= 1:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{wrong[0]} cannot be smoothed, or was not observed." if wrong else f"alpha is {alpha}, not 0 to 1.",
            "Take units of `smoothable_units` that the statistics hold, and an alpha from 0 to 1.",
        )
    return {
        unit: unit_scales(
            statistics.units[unit].peak, np.abs(weights.linear(unit).weight).max(axis=0), alpha, able[unit]
        )
        for unit in wanted
    }


def unit_scales(inputs: Floats, weights: Floats, alpha: float = 0.5, feed: Feed | None = None) -> Floats:
    """Return the scales of one unit: float32 [in].

    Args:
        inputs: float32 [in], largest magnitude of each input channel.
        weights: float32 [in], largest magnitude of each column.
        alpha: Share of the inputs.
        feed: Heads that read the same value head get the same scales.
    """
    shape = (1, 1, -1) if feed is None else (-1, feed.copies, feed.width)
    loud, heavy = (_floored(peaks.astype(np.float64).reshape(shape).max(axis=1)) for peaks in (inputs, weights))
    logs = alpha * np.log(loud) - (1 - alpha) * np.log(heavy)
    limit = np.log(LIMIT)
    logs = _centred(logs)
    # Clamping moves the mean, and centring may move a clamped scale over the limit again: a few rounds settle both.
    for _ in range(20):
        logs = _centred(np.clip(logs, -limit, limit))
    scales = np.exp(np.clip(logs, -limit, limit))[:, None].repeat(shape[1], axis=1)
    return scales.reshape(-1).astype(np.float32)


def _floored(peaks: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(peaks, max(peaks.max() * _FLOOR, np.finfo(np.float32).tiny))


def _centred(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    return logs - logs.mean()
