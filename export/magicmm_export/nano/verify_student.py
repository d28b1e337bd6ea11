"""Check the trained part of the built-in model's graphs against torch, and photos with text against themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from onnxruntime import InferenceSession
from tokenizers import Tokenizer
from torch.nn import functional

from magicmm_export.graph import Array
from magicmm_export.nano.concepts import VIEWS
from magicmm_export.nano.run import open_model
from magicmm_export.nano.student import READ_VIEWS
from magicmm_export.nano.verify import PADDING_TOLERANCE, Report, require
from magicmm_model.nano.config import CLS, SEP
from magicmm_model.nano.model import NanoModel, filled

STUDENT_TOLERANCE = 2e-5
FEATURES = "head"
"""The value that the photo's feature maps have in a float graph."""


@dataclass(frozen=True)
class Composer:
    """The two graphs that a query of photo and text goes through."""

    image: InferenceSession
    composed: InferenceSession

    @classmethod
    def open(cls, image: ModelProto | Path, composed: ModelProto | Path) -> Composer:
        """Open both."""
        return cls(open_model(image), open_model(composed))

    def visual(self, photo: Array) -> Array:
        """Return the visual tokens [1, v, width] of a photo's views."""
        return np.asarray(self.image.run(["visual"], {"pixels": photo})[0])

    def run(self, visual: Array, rows: list[list[int]]) -> Array:
        """Return unit vectors for visual tokens [n, v, width] and the ids of a text each."""
        ids, mask = filled(rows)
        given = {"visual": visual, "ids": ids.numpy(), "mask": mask.numpy()}
        return np.asarray(self.composed.run(["vector"], given)[0])

    def each(self, photos: list[Array], rows: list[list[int]]) -> Array:
        """Return a unit vector for each photo with its text, one at a time."""
        return np.concatenate([self.run(self.visual(photo), [row]) for photo, row in zip(photos, rows, strict=True)])


def composed_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the ids of role `composed` for texts."""
    return [[CLS, SEP, *tokenizer.encode(text, add_special_tokens=False).ids, SEP] for text in texts]


@torch.inference_mode()
def verify_photos(image: ModelProto, model: NanoModel, photos: list[Array]) -> Report:
    """Compare the float graph's photo vectors with torch, from the graph's own feature maps on."""
    session = open_model(image, [FEATURES])
    error = 0.0
    for photo in photos:
        vector, maps = session.run(["vector", FEATURES], {"pixels": photo})
        truth = model.indexed(_cells(maps), READ_VIEWS)
        error = max(error, float(np.abs(vector - truth.numpy()).max()))
    require("photo vectors against torch", error, STUDENT_TOLERANCE)
    return {"vector_max_abs": error}


@torch.inference_mode()
def verify_composed(
    image: ModelProto, composed: ModelProto, model: NanoModel, photos: list[Array], rows: list[list[int]]
) -> Report:
    """Compare the float graphs' vectors of photos with text with torch."""
    session, reader = open_model(image, [FEATURES]), open_model(composed)
    error = 0.0
    for photo, row in zip(photos, rows, strict=True):
        visual, maps = session.run(["visual", FEATURES], {"pixels": photo})
        ids, mask = filled([row])
        vector = reader.run(["vector"], {"visual": visual, "ids": ids.numpy(), "mask": mask.numpy()})[0]
        truth = model.composed(ids, mask, _cells(maps)[:, :READ_VIEWS])
        error = max(error, float(np.abs(vector - truth.numpy()).max()))
    require("vectors of photo and text against torch", error, STUDENT_TOLERANCE)
    return {"vector_max_abs": error}


def verify_composed_padding(composer: Composer, photos: list[Array], rows: list[list[int]]) -> Report:
    """Measure how far photos with text of mixed lengths, together, are from each alone."""
    error = 0.0
    for start in range(0, len(photos), 8):
        visual = np.concatenate([composer.visual(photo) for photo in photos[start : start + 8]])
        texts = rows[start : start + 8]
        together = composer.run(visual, texts)
        alone = [composer.run(visual[place : place + 1], [text])[0] for place, text in enumerate(texts)]
        error = max(error, float(np.abs(together - np.stack(alone)).max()))
    require("padded text beside a photo against the same alone", error, PADDING_TOLERANCE)
    return {"padding_max_abs": error}


def _cells(maps: Array) -> torch.Tensor:
    """[VIEWS, channels, 8, 8] -> [1, VIEWS, cells, channels]."""
    halved = functional.avg_pool2d(torch.from_numpy(maps), 2).flatten(2).transpose(1, 2)
    return halved.view(1, VIEWS, *halved.shape[1:])
