"""Check built graphs against torch and against themselves, and report what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from magicmm_export.graph import Array
from magicmm_export.nano.concepts import Concept
from magicmm_export.nano.run import TextEncoder, open_model

Report = dict[str, float]

FEATURE_TOLERANCE = 1e-3
LOGIT_TOLERANCE = 1e-3
TEXT_TOLERANCE = 1e-5
PADDING_TOLERANCE = 1e-6
MULTILINGUAL, OWN_SPACE = "multilingual text", "multilingual text in its own space"
LEAST_MEAN_COSINE = {"image": 0.99, "text": 0.999, "composed": 0.99, MULTILINGUAL: 0.998, OWN_SPACE: 0.998}
LEAST_COSINE = {"image": 0.95, "text": 0.998, "composed": 0.95, MULTILINGUAL: 0.99, OWN_SPACE: 0.98}
# Without the mean, vectors have .37 to .56 of their length, and the same rounding turns them further.
LEAST_BANK_COSINE = 0.99999
SHORT_TEMPLATES = ("a photo of a {}", "{} at night", "two people and a {}", "my old {}")


class ParityError(ValueError):
    """A built graph is further from its source than allowed."""


def test_sentences(concepts: list[Concept]) -> list[str]:
    """Return 200 texts that the concept bank does not hold: 150 short queries and 50 pairs of descriptions."""
    short = [SHORT_TEMPLATES[i % 4].format(concepts[i * 6].names[0]) for i in range(150)]
    described = [concept.description for concept in concepts[::9] if concept.description]
    return short + [" ".join(described[i : i + 2]) for i in range(0, 100, 2)]


def verify_image_float(model: ModelProto, weights: Path, photos: list[Array]) -> Report:
    """Compare the float graph's features and logits with torch on the crop of each photo."""
    from magicmm_export.nano.oracle import vision_oracle  # it imports the network's package

    session = open_model(model, ("head", "logits"))
    maps, logits = vision_oracle(weights, [photo[0] for photo in photos])
    features = scores = 0.0
    for index, photo in enumerate(photos):
        found_map, found_logits = session.run(["head", "logits"], {"pixels": photo})
        features = max(features, float(np.abs(found_map[0] - maps[index]).max()))
        scores = max(scores, float(np.abs(found_logits[0].mean(0) - logits[index]).max()))
    require("image features against torch", features, FEATURE_TOLERANCE)
    require("image logits against torch", scores, LOGIT_TOLERANCE)
    return {"features_max_abs": features, "logits_max_abs": scores}


def verify_text_float(model: ModelProto, weights: Path, tokenizer: Tokenizer, texts: list[str]) -> Report:
    """Compare the float graph's vectors with transformers."""
    from magicmm_export.nano.oracle import text_oracle

    truth = text_oracle(weights.parent, tokenizer, texts)
    error = float(np.abs(TextEncoder(open_model(model), tokenizer)(texts) - truth).max())
    require("text vectors against transformers", error, TEXT_TOLERANCE)
    return {"vector_max_abs": error}


def verify_close(name: str, found: Array, truth: Array) -> Report:
    """Compare the written graph's vectors with the float graph's."""
    cosines = np.einsum("nd,nd->n", found, truth)
    mean, least = float(cosines.mean()), float(cosines.min())
    if mean < LEAST_MEAN_COSINE[name] or least < LEAST_COSINE[name]:
        raise ParityError(
            f"The {name} graph has cosine {mean:.5f} (least {least:.5f}) to float32; "
            f"{LEAST_MEAN_COSINE[name]} (least {LEAST_COSINE[name]}) is required."
        )
    return {"cosine_mean": mean, "cosine_min": least}


def verify_image_batches(session: InferenceSession, photos: list[Array]) -> None:
    """Require that a photo has the same outputs, bit for bit, alone and in a batch."""
    names = [output.name for output in session.get_outputs()]
    alone = [session.run(names, {"pixels": photo}) for photo in photos[:5]]
    for count in (2, 3, 5):
        together = session.run(names, {"pixels": np.concatenate(photos[:count])})
        for place, name in enumerate(names):
            if not np.array_equal(together[place], np.concatenate([one[place] for one in alone[:count]])):
                raise ParityError(f"The image graph returns another {name} in a batch of {count} than alone.")


def verify_bank(trained: Array, built: Array) -> Report:
    """Compare a checkpoint's concept bank with the one that the packages give, row by row."""
    least = float(np.einsum("nd,nd->n", trained, built).min())
    require("the checkpoint's concept bank against the packages", 1 - least, 1 - LEAST_BANK_COSINE)
    return {"cosine_min": least}


def verify_text_padding(session: InferenceSession, tokenizer: Tokenizer, texts: list[str]) -> Report:
    """Measure how far a padded batch of mixed lengths is from each text alone."""
    error = 0.0
    for start in range(0, len(texts), 16):
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts[start : start + 16])]
        width = max(map(len, rows))
        ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
        padded = session.run(["vector"], {"ids": ids, "mask": mask})[0]
        for row, vector in zip(rows, padded, strict=True):
            one = np.array([row], np.int64)
            alone = session.run(["vector"], {"ids": one, "mask": np.ones_like(one)})[0][0]
            error = max(error, float(np.abs(alone - vector).max()))
    require("padded text against the same text alone", error, PADDING_TOLERANCE)
    return {"padding_max_abs": error}


def require(what: str, error: float, tolerance: float) -> None:
    """Refuse an error beyond its tolerance.

    Raises:
        ParityError: Says what differs.
    """
    if not error <= tolerance:
        raise ParityError(f"Largest difference of {what} is {error:.3g}; {tolerance:.3g} is allowed.")
