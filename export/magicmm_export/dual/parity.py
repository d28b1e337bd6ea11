"""Run the checkpoint in torch and its graphs in onnxruntime on the same pixels and ids, and compare the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from magicmm.errors import ErrorCode, MagicError
from magicmm.image import resize
from magicmm_export.dual.checkpoint import DualCheckpoint
from magicmm_export.dual.words import load_tokenizer

LEAST_FLOAT = 0.9999
"""Least cosine of any float32 vector to torch; graphs that are right reach 0.999999."""
LEAST_INT8 = 0.98
"""Least mean cosine of int8 vectors to float32."""
_PICTURES = 12
_SUBJECTS = (
    "a dog",
    "two people on a beach at sunset",
    "a red car",
    "receipt",
    "snow on the mountains",
    "my old kitchen",
)
_FORMS = ("{}", "a photo of {}", "{}, seen from above, at night")

Floats = NDArray[np.float32]
Vectors = Mapping[str, Floats]
"""Of `image` and of `text`: float32 [n, dim], unit rows."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What is compared: smooth noise of several grains, and sentences.

    Attributes:
        pixels: uint8 [n, side, side, 3].
        sequences: The ids of each sentence, head and tail included.
    """

    pixels: NDArray[np.uint8]
    sequences: list[list[int]]


def make_probes(checkpoint: DualCheckpoint) -> Probes:
    """Return the same pictures and sentences whenever the checkpoint is the same."""
    random, side = np.random.default_rng(0), checkpoint.image.side
    grains = [2 ** (1 + index % 6) for index in range(_PICTURES)]
    noise = [random.integers(0, 256, (grain, grain, 3), np.uint8) for grain in grains]
    pixels = np.stack([resize(one, (side, side), (0, 0, len(one), len(one))) for one in noise])
    text, tokenizer = checkpoint.text, load_tokenizer(checkpoint.folder)
    room = text.max_tokens - len(text.head) - len(text.tail)
    sentences = [form.format(subject) for form in _FORMS for subject in _SUBJECTS]
    words = [tokenizer.encode(sentence, add_special_tokens=False).ids[:room] for sentence in sentences]
    return Probes(pixels, [[*text.head, *ids, *text.tail] for ids in words])


def torch_vectors(model: Any, checkpoint: DualCheckpoint, probes: Probes) -> Vectors:
    """Run transformers' own `get_image_features` and `get_text_features`, one input at a time."""
    with torch.inference_mode():
        images = [
            model.get_image_features(pixel_values=torch.from_numpy(checkpoint.image.normalise(one[None])))
            for one in probes.pixels
        ]
        texts = [model.get_text_features(**_torch_inputs(checkpoint, ids)) for ids in probes.sequences]
    return {"image": _unit(torch.cat(images).numpy()), "text": _unit(torch.cat(texts).numpy())}


def graph_vectors(folder: Path, probes: Probes) -> Vectors:
    """Run `image.onnx` and `text.onnx` of a folder, one input at a time as the SDK does."""
    image, text = _open(folder / "image.onnx"), _open(folder / "text.onnx")
    rows = [np.array([ids], np.int64) for ids in probes.sequences]
    images = [image.run(None, {"pixels": one[None]})[0] for one in probes.pixels]
    texts = [text.run(None, {"ids": row, "mask": np.ones_like(row)})[0] for row in rows]
    return {"image": _unit(np.concatenate(images)), "text": _unit(np.concatenate(texts))}


def check_float(found: Vectors, truth: Vectors) -> dict[str, Any]:
    """Return the cosines to torch by part.

    Raises:
        MagicError: `runtime_failed` when a vector is further off than float32 rounding.
    """
    report = {part: _cosines(found[part], truth[part]) for part in truth}
    for part, cosines in report.items():
        if not cosines["min"] >= LEAST_FLOAT:
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"The traced {part} graph has cosine {cosines['min']:.5f} to torch; {LEAST_FLOAT} is required.",
                "Install the pinned versions: pip install 'magicmm[export]'.",
            )
    return report


def check_int8(found: Vectors, truth: Vectors) -> dict[str, Any]:
    """Return the cosines to float32 by part.

    Raises:
        MagicError: `argument_invalid` when their mean is too low: this model does not bear int8.
    """
    report = {part: _cosines(found[part], truth[part]) for part in truth}
    for part, cosines in report.items():
        if not cosines["mean"] >= LEAST_INT8:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"In int8 the {part} vectors have mean cosine {cosines['mean']:.4f} to float32; "
                f"{LEAST_INT8} is required.",
                "Export this model with precision float32.",
            )
    return report


def _torch_inputs(checkpoint: DualCheckpoint, ids: list[int]) -> dict[str, torch.Tensor]:
    if checkpoint.family == "siglip":
        filled = ids + [checkpoint.text.pad_id] * (checkpoint.text.max_tokens - len(ids))
        return {"input_ids": torch.tensor([filled])}
    row = torch.tensor([ids])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def _open(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _cosines(found: Floats, truth: Floats) -> dict[str, float]:
    cosines = np.einsum("nd,nd->n", found.astype(np.float64), truth.astype(np.float64))
    return {"mean": round(float(cosines.mean()), 6), "min": round(float(cosines.min()), 6)}
