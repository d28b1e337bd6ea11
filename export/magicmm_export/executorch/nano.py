"""The built-in model to a verified bundle for ExecuTorch: a program of the methods `image`, `text_S`, `composed_S`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.executorch_runtime import method_name, require_executorch
from magicmm.runtime import EXECUTORCH
from magicmm_export.executorch.export import PLAN, PROGRAM, ExecutorchOptions
from magicmm_export.executorch.lowering import Method, lower
from magicmm_export.executorch.nano_layers import quantised_layers
from magicmm_export.executorch.targets import XNNPACK
from magicmm_export.nano.encoder_modules import ComposedTower, TextTower
from magicmm_export.nano.image import SIDE
from magicmm_export.nano.layers import Layers, float_layers
from magicmm_export.nano.lowered import NanoExport, Say
from magicmm_export.nano.modules import ImageTower
from magicmm_export.nano.stored import StoredImage, StoredText
from magicmm_export.planner import write_plans
from magicmm_export.vision_language import Quality, write_staged
from magicmm_quant.recipe import RECIPES, Recipe

_INT8 = "8-bit weights per output channel, int8 activations per row, int8 token rows"
SCHEMES = {
    "int8": {
        "image": "convolutions: 7-bit weights per output channel, static int8 activations; classifier: 8-bit, per row; "
        "with a student also as composed",
        "text": _INT8,
        "composed": f"{_INT8}; adapters: float32",
    },
    "float32": dict.fromkeys(("image", "text", "composed"), "float32, from int8 weights"),
}


def export_nano(
    bundle: Bundle,
    target: Path,
    options: ExecutorchOptions | None = None,
    quality: Quality | None = None,
    say: Say | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    Args:
        bundle: A bundle that the builder of the built-in model wrote in int8: all weights are taken from its graphs.
        target: `NAME.magicmm`.
        options: Recipe ("int8" or "float32"), buckets, name, and how much may stay outside of XNNPACK.
        quality: As for `write_staged`.
        say: Called after each step.

    Raises:
        MagicError: `argument_invalid` for another bundle or recipe and for buckets that do not fit; `runtime_failed`
            for a missing package or more work outside of the backend than allowed; else as `write_staged`.
    """
    given = options or ExecutorchOptions()
    require_executorch()
    nano_layers(given.recipe)
    return write_staged(target, lambda staged: _NanoProgram(bundle, staged, given, target, say), quality)


def nano_layers(recipe: Recipe) -> Layers:
    """Return how a recipe's layers are computed.

    Raises:
        MagicError: `argument_invalid` for a recipe that the model cannot be lowered with.
    """
    if recipe == RECIPES["int8"]:
        return quantised_layers()
    if recipe == RECIPES["float32"]:
        return float_layers(XNNPACK.norms)
    raise MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"The built-in model holds int8 weights; it cannot be lowered to ExecuTorch with the recipe {recipe.name}.",
        "Take --recipe int8 or float32.",
    )


def nano_methods(image: StoredImage, text: StoredText, layers: Layers, buckets: Sequence[int]) -> dict[str, Method]:
    """Return the methods of a program: `image`, and `text_S` and, with a student, `composed_S` for each bucket S.

    Args:
        image: Weights of the image part.
        text: Weights of the text part.
        layers: How they are computed.
        buckets: Lengths.
    """
    tower = TextTower(text, layers)
    pixels = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    methods = {"image": Method(ImageTower(image, tower, layers), (pixels,))}
    for length in buckets:
        methods[method_name("text", length)] = Method(tower.bucket(length), _ids(length))
    if image.student is not None:
        encoder = ComposedTower(tower, image.student)
        visual = torch.zeros(1, image.student.handed, tower.positions.shape[1])
        for length in buckets:
            methods[method_name("composed", length)] = Method(encoder.bucket(length), (visual, *_ids(length)))
    return methods


def _ids(length: int) -> tuple[torch.Tensor, ...]:
    # A tensor each: torch.export makes one input of two that are the same tensor.
    return tuple(torch.zeros(1, length, dtype=torch.int64) for _ in range(2))


class _NanoProgram(NanoExport):
    """Adds one program for XNNPACK."""

    def __init__(self, bundle: Bundle, staged: Path, options: ExecutorchOptions, target: Path, say: Say | None) -> None:
        super().__init__(bundle, staged, options.buckets, options.bundle_id(target.name), say)
        self._options = options

    def write_graphs(self) -> dict[str, Any]:
        methods = nano_methods(self.image, self.text, nano_layers(self._options.recipe), self.buckets)
        lowered = lower(methods, XNNPACK, self.say)
        lowered.plan.check(self._options.most_outside)
        (self.staged / PROGRAM).parent.mkdir()
        lowered.write(self.staged / PROGRAM)
        write_plans(self.staged / PLAN, [lowered.plan])
        return {
            "graphs": {EXECUTORCH: dict.fromkeys(self.parts, PROGRAM)},
            "plans": PLAN,
            "quantisation": {part: SCHEMES[self._options.recipe.name][part] for part in self.parts},
        }

    def weight_files(self) -> list[Path]:
        return [self.staged / PROGRAM]
