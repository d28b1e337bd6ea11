"""What an export of a vision-language checkpoint is told, whatever the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicmm import ErrorCode, MagicError
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

    def bundle_id(self, file_name: str) -> str:
        """Return the name of a bundle that is written as `NAME.magicmm`."""
        return self.model_id or file_name.removesuffix(".magicmm")


def refuse_foreign(given: Mapping[str, Any], whom: str, remedy: str) -> None:
    """Refuse options of the command line that mean nothing where they were given.

    Args:
        given: Options that are foreign there, by name; those with a value that is false were not given.
        whom: To whom they mean nothing.
        remedy: What to do.

    Raises:
        MagicError: `argument_invalid`, which names them.
    """
    names = [name for name, value in given.items() if value]
    if names:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{', '.join(names)} means nothing to {whom}.", remedy)


@dataclass(frozen=True)
class Progress:
    """How far an export is: bytes of the checkpoint that were read, of how many, and what is being done."""

    done: int
    total: int
    what: str
