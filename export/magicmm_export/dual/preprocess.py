"""How a checkpoint wants its pixels, and which view of the SDK that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPImageProcessor, SiglipImageProcessor

from magicmm_export.dual.folder import checkpoint_invalid, read_json

_BICUBIC = 3
_FILE = "preprocessor_config.json"
_PROCESSORS: dict[str, Any] = {
    "CLIPFeatureExtractor": CLIPImageProcessor,
    "CLIPImageProcessor": CLIPImageProcessor,
    "CLIPImageProcessorFast": CLIPImageProcessor,
    "SiglipImageProcessor": SiglipImageProcessor,
    "SiglipImageProcessorFast": SiglipImageProcessor,
}
_OF_FAMILY = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """What happens to the pixels of a photo.

    Attributes:
        side: Of the square that the model sees, in pixels.
        view: `crop` or `squash` (docs/FORMAT.md part 2). transformers resizes before it crops and the SDK crops before
            it resizes: the same square but for up to a pixel of rounding.
        factor: What bytes are multiplied by first, normally 1/255.
        mean: float32 [3], subtracted then.
        deviation: float32 [3], divided by last.
        notes: Where the SDK differs from the checkpoint by more than rounding, in words. Vectors of one bundle still
            belong together, because photos and queries take the same way.
    """

    side: int
    view: str
    factor: float
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    notes: tuple[str, ...]

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the vision tower reads, float32 [n, 3, side, side], for uint8 [n, side, side, 3]."""
        scaled = pixels.astype(np.float32) * np.float32(self.factor)
        return np.ascontiguousarray(((scaled - self.mean) / self.deviation).transpose(0, 3, 1, 2))


def read_image_recipe(folder: Path, family: str, side: int) -> ImageRecipe:
    """Read `preprocessor_config.json`; what it leaves out is transformers' default of its class.

    Args:
        folder: The checkpoint.
        family: `clip` or `siglip`.
        side: What the vision tower was built for.

    Raises:
        MagicError: `source_unavailable` without the file; `checkpoint_invalid` for another processor, for pixels that
            the SDK cannot make, and for a size that is not the vision tower's.
    """
    spec = read_json(folder / _FILE, "Copy preprocessor_config.json beside config.json; it says how pixels are scaled.")
    name = spec.get("image_processor_type") or spec.get("feature_extractor_type") or _OF_FAMILY[family]
    if not isinstance(name, str) or name not in _PROCESSORS:
        raise _invalid(f"names the image processor {name!r}", f"Supported are {', '.join(_PROCESSORS)}.")
    try:
        processor = _PROCESSORS[name].from_dict(spec)
        return _recipe(processor, side)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _invalid(f"is broken ({error})", "Copy it again.") from None


def _recipe(processor: Any, side: int) -> ImageRecipe:
    view, notes = _view(processor, side)
    if processor.resample != _BICUBIC:
        notes.append(f"the checkpoint resizes with Pillow's filter {int(processor.resample)}, the SDK with bicubic (3)")
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, deviation = np.zeros(3, np.float32), np.ones(3, np.float32)
    if processor.do_normalize:
        mean, deviation = _channels(processor.image_mean), _channels(processor.image_std)
    if not (np.isfinite([factor, *mean, *deviation]).all() and factor > 0 and (deviation > 0).all()):
        raise _invalid("scales pixels by numbers that are not positive", "Copy it again.")
    return ImageRecipe(side, view, factor, mean, deviation, tuple(notes))


def _view(processor: Any, side: int) -> tuple[str, list[str]]:
    size: dict[str, Any] = dict(processor.size)
    if not processor.do_resize:
        raise _invalid("switches resizing off", "The SDK always resizes; set do_resize to true if that is right.")
    cropped: dict[str, Any] = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else size
    seen = (cropped.get("height"), cropped.get("width"))
    if "shortest_edge" in size and cropped is size:
        raise _invalid("keeps the shape of a photo", "Only square pictures are supported: set do_center_crop to true.")
    if seen != (side, side):
        raise _invalid(f"gives pictures of {seen}, the vision tower reads {(side, side)}", "Correct one of them.")
    if "shortest_edge" not in size:
        if size != cropped:
            raise _invalid(f"squashes to {size} and then crops to {cropped}", "Only one of them is supported.")
        return "squash", []
    if size["shortest_edge"] == side:
        return "crop", []
    note = f"the checkpoint crops {side} of {size['shortest_edge']} pixels, the SDK shows the whole centred square"
    return "crop", [note]


def _channels(values: Any) -> NDArray[np.float32]:
    """Return one number a channel; transformers takes a single number for all."""
    return np.broadcast_to(np.asarray(values, np.float32), (3,)).copy()


def _invalid(message: str, remedy: str) -> Exception:
    return checkpoint_invalid(f"{_FILE} {message}.", remedy)
