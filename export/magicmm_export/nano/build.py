"""Build the graphs of `nano` from pinned packages and prove them against their sources in the same run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from tokenizers import Tokenizer

from magicmm_export.graph import Array, save
from magicmm_export.nano import packages
from magicmm_export.nano.concepts import Concept, concept_bank, read_concepts
from magicmm_export.nano.efficientnet import Network, read_network
from magicmm_export.nano.image import image_graph
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.minilm import BLOCK_INPUTS, text_graph
from magicmm_export.nano.oracle import read_state
from magicmm_export.nano.quantise import observe
from magicmm_export.nano.run import TextEncoder, open_model
from magicmm_export.nano.verify import (
    test_sentences,
    verify_close,
    verify_image_batches,
    verify_image_float,
    verify_text_float,
    verify_text_padding,
)
from magicmm_export.nano.views import folder_views, synthetic_views

SYNTHETIC_PICTURES = 12

log = logging.getLogger(__name__)


def build_graphs(out_dir: Path, precision: Precision | str = Precision.INT8) -> dict[str, Any]:
    """Write `image.onnx`, `text.onnx` and `tokenizer.json`, and return what was measured on them.

    Two builds from the same packages on one machine write the same bytes. Progress goes to the log.

    Raises:
        PackageError: A pinned package is missing or differs.
        ParityError: A graph is further from its source than allowed.
    """
    precision = Precision(precision)
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(out_dir / "tokenizer.json")
    concepts = read_concepts()

    log.info("Writing the float text graph and encoding %d concepts.", len(concepts))
    text_float = text_graph(packages.locate(packages.TEXT_WEIGHTS), None)
    encode = TextEncoder(open_model(text_float, BLOCK_INPUTS), tokenizer)
    bank = concept_bank(concepts, encode)

    log.info("Folding the image network.")
    network = read_network(read_state(packages.locate(packages.VISION_WEIGHTS)))
    image_float = image_graph(network, bank, None)

    image, text = image_float, text_float
    if precision is Precision.INT8:
        text = text_graph(packages.locate(packages.TEXT_WEIGHTS), encode.peaks)
        image = _quantise_image(network, bank, image_float)
    files = save(image, out_dir / "image.onnx") + save(text, out_dir / "text.onnx") + [out_dir / "tokenizer.json"]

    log.info("Verifying.")
    return {
        "precision": precision.value,
        "bytes": {file.name: file.stat().st_size for file in files},
        "image": _verify_image(image_float, out_dir / "image.onnx"),
        "text": _verify_text(text_float, out_dir / "text.onnx", tokenizer, concepts),
    }


def _write_tokenizer(path: Path) -> Tokenizer:
    """Write the package's tokenizer with truncation and padding off: lengths are the caller's business."""
    spec = json.loads(packages.locate(packages.TOKENIZER).read_text("utf-8"))
    spec["truncation"] = spec["padding"] = None
    path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return Tokenizer.from_file(str(path))


def _quantise_image(network: Network, bank: Array, image_float: ModelProto) -> ModelProto:
    log.info("Observing the image network on the calibration pictures.")
    return image_graph(network, bank, observe(image_float, network, _calibration_views()))


def _calibration_views() -> Iterator[Array]:
    yield from folder_views(packages.locate_folder(*packages.CALIBRATION_PHOTOS))
    yield from synthetic_views(SYNTHETIC_PICTURES)


def _verify_image(reference: ModelProto, path: Path) -> dict[str, Any]:
    folder = packages.locate_folder(*packages.TEST_PHOTOS)
    photos = [*folder_views(folder), *folder_views(folder / "campus")]
    report: dict[str, Any] = {"photos": len(photos)}
    report |= verify_image_float(reference, packages.locate(packages.VISION_WEIGHTS), photos)
    written, truth = open_model(path), open_model(reference)
    vectors = np.concatenate([written.run(["vector"], {"pixels": photo})[0] for photo in photos])
    expected = np.concatenate([truth.run(["vector"], {"pixels": photo})[0] for photo in photos])
    report |= verify_close("image", vectors, expected)
    verify_image_batches(written, photos, vectors)
    return report


def _verify_text(reference: ModelProto, path: Path, tokenizer: Tokenizer, concepts: list[Concept]) -> dict[str, Any]:
    texts = test_sentences(concepts)
    report: dict[str, Any] = {"sentences": len(texts)}
    report |= verify_text_float(reference, packages.locate(packages.TEXT_WEIGHTS), tokenizer, texts)
    written = open_model(path)
    expected = TextEncoder(open_model(reference), tokenizer)(texts)
    report |= verify_close("text", TextEncoder(written, tokenizer)(texts), expected)
    report |= verify_text_padding(written, tokenizer, texts)
    return report
