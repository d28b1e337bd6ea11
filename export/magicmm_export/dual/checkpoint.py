"""A CLIP or SigLIP checkpoint folder in the layout of transformers, checked before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from magicmm.errors import ErrorCode, MagicError
from magicmm_export.dual.folder import COPY_AGAIN, checkpoint_invalid, read_json, weight_files
from magicmm_export.dual.preprocess import ImageRecipe, read_image_recipe
from magicmm_export.dual.words import TextRecipe, read_text_recipe

FAMILIES: dict[str, tuple[Any, Any]] = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
_UNUSED = "position_ids"
"""A buffer 0, 1, 2, ... that old checkpoints stored with their weights."""


@dataclass(frozen=True, slots=True)
class DualCheckpoint:
    """What a checkpoint says of itself.

    Attributes:
        folder: Where it lies.
        family: `clip` or `siglip`.
        config: The transformers config.
        image: How it wants its pixels.
        text: How it wants its words.
        weights: Its safetensors files.
    """

    folder: Path
    family: str
    config: Any
    image: ImageRecipe
    text: TextRecipe
    weights: list[Path]

    @classmethod
    def open(cls, folder: Path) -> DualCheckpoint:
        """Read everything but the weights.

        Raises:
            MagicError: `source_unavailable` when the folder or one of its files is missing; `checkpoint_invalid` for
                another family and for files that are broken or do not belong together.
        """
        if not folder.is_dir():
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE, f"{folder} is no folder.", "Give the folder of a downloaded checkpoint."
            )
        raw = read_json(folder / "config.json", "Give the folder that holds config.json and model.safetensors.")
        family = raw.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            raise checkpoint_invalid(
                f"{folder} is a model of type {family!r}.", f"Supported dual encoders: {', '.join(FAMILIES)}."
            )
        try:
            config = FAMILIES[family][0].from_dict(raw)
        except Exception as error:  # transformers raises whatever its constructors do
            raise checkpoint_invalid(f"config.json is broken ({_first_line(error)}).", COPY_AGAIN) from None
        image = read_image_recipe(folder, family, config.vision_config.image_size)
        text = read_text_recipe(folder, family, config.text_config)
        return cls(folder, family, config, image, text, weight_files(folder))

    def load(self) -> Any:
        """Return the model in float32, from local safetensors only.

        Raises:
            MagicError: `checkpoint_invalid` when tensors are missing, unknown, of another shape or not finite.
        """
        try:
            model, report = FAMILIES[self.family][1].from_pretrained(
                self.folder,
                config=self.config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # safetensors, torch and transformers raise their own
            raise checkpoint_invalid(
                f"The weights of {self.folder} cannot be loaded ({_first_line(error)}).", COPY_AGAIN
            ) from None
        unknown = [name for name in report["unexpected_keys"] if not name.endswith(_UNUSED)]
        problems = {
            "missing": sorted(report["missing_keys"]),
            "unknown": sorted(unknown),
            "not finite": [name for name, value in model.named_parameters() if not value.isfinite().all()],
        }
        if any(problems.values()):
            listed = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names)
            raise checkpoint_invalid(
                f"{self.folder} does not hold the tensors of a {self.family}: {listed}.", COPY_AGAIN
            )
        return model.eval()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
