"""Parts of a tiny model as Core ML packages, for tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from magicmm_export.coreml.compress import compress
from magicmm_export.coreml.convert import convert_module
from magicmm_export.coreml.interpreter import MilFunction, Run
from magicmm_export.coreml.package import save_model
from magicmm_export.coreml.schemes import Target, scheme_named
from magicmm_export.decomposition import LanguageBlocks, Norms, VisionEncoder
from magicmm_model.model import MagicModel

LENGTH, PREFIX, BEFORE, LAST = 24, 10, 6, 8
"""A bucket, the prefix that it takes, the tokens of the one that is given, and the place of the last token."""


@dataclass(frozen=True)
class SavedPart:
    """A module and the package that was made from it.

    Attributes:
        module: In torch, float32.
        inputs: What it was converted with.
        package: The folder.
        stages: By stage, the value inside.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    package: Path
    stages: Mapping[str, str]

    def run(self, inputs: Mapping[str, Tensor] | None = None) -> Run:
        """Interpret the package, with all stages watched."""
        given = {name: value.numpy() for name, value in (inputs or self.inputs).items()}
        return MilFunction.load(self.package).run(given, self.stages.values())

    @torch.no_grad()
    def wanted(self, inputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the stages in torch."""
        return dict(self.module.stages(*(inputs or self.inputs).values()))  # type: ignore[operator]


def save_part(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    folder: Path,
    scheme: str = "float16",
    inner: Collection[str] = (),
) -> SavedPart:
    """Convert, compress and save."""
    chosen = scheme_named(scheme)
    converted = convert_module(module.eval(), inputs, output, chosen, Target.IOS18, inner)
    package = folder / f"{output}.mlpackage"
    save_model(compress(converted.model, chosen), package)
    return SavedPart(module, inputs, package, converted.stages)


def vision_inputs(model: MagicModel) -> dict[str, Tensor]:
    """Return the pixels of one tile."""
    side = model.config.vision.image_size
    pixels = torch.randint(0, 256, (1, side, side, 3), generator=torch.Generator().manual_seed(1))
    return {"pixels": pixels.float()}


def language_inputs(model: MagicModel, length: int = LENGTH, prefix: int = PREFIX) -> dict[str, Tensor]:
    """Return nine rows, zeros up to the bucket, behind a prefix of six tokens."""
    generator = torch.Generator().manual_seed(2)
    language = model.config.language
    embeds = torch.zeros(1, length, model.config.dim)
    embeds[:, : LAST + 1] = torch.randn(1, LAST + 1, model.config.dim, generator=generator)
    found = {"embeds": embeds, "last": torch.tensor([LAST], dtype=torch.int32)}
    if not prefix:
        return found
    with torch.no_grad():
        past = model.language(torch.randn(1, BEFORE, model.config.dim, generator=generator))[1]
    found["before"] = torch.tensor([BEFORE], dtype=torch.int32)
    for place, pair in enumerate(past):
        for kind, values in zip(("key", "value"), pair, strict=True):
            found[f"past_{kind}_{place}"] = nn.functional.pad(values, (0, 0, 0, prefix - values.shape[2]))
    assert len(past) == language.layers
    return found


def save_vision(model: MagicModel, folder: Path, scheme: str = "float16") -> SavedPart:
    """Return the vision part as a package."""
    return save_part(VisionEncoder(model, Norms.HALF), vision_inputs(model), "visual", folder, scheme)


def save_language(
    model: MagicModel, folder: Path, scheme: str = "float16", norms: Norms = Norms.HALF, length: int = LENGTH
) -> SavedPart:
    """Return a bucket of the language part as a package."""
    blocks = LanguageBlocks(model, length, PREFIX, norms)
    return save_part(blocks, language_inputs(model, length), "vector", folder, scheme)
