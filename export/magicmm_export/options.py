"""What an export of a vision-language checkpoint is told, whatever the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicmm_export.part_cache import PartCache
from magicmm_quant.recipe import RECIPES, Recipe

SEED = 0
"""Of the rotation's signs: the same checkpoint gives the same bundle."""


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is lowered.

    Attributes:
        recipe: Scheme of every unit.
        rotate: Rotate the language model's residual stream, which spreads outliers over all channels.
        compression: 2 = 64 visual tokens a tile, 1 = 256; None = what the checkpoint says.
        image_size: Side of a tile; None = what the checkpoint says.
        model_id: Name of the bundle; None = that of the checkpoint's folder.
        smoothing: Scales by unit (SmoothQuant), from calibration.
        static_scales: Scales of what the vision units read, from calibration, for runtimes that want them beforehand.
        calibration: What smoothing and rounding were computed from, in words; part of the cache's keys.
        cache: Where finished parts are kept between attempts.
    """

    recipe: Recipe = RECIPES["int8"]
    rotate: bool = True
    compression: int | None = None
    image_size: int | None = None
    model_id: str | None = None
    smoothing: Mapping[str, Any] | None = None
    static_scales: Mapping[str, float] | None = None
    calibration: str = ""
    cache: PartCache | None = None


@dataclass(frozen=True)
class Progress:
    """How far an export is: bytes of the checkpoint that were read, of how many, and what is being done."""

    done: int
    total: int
    what: str
