"""Build the graphs of `nano` from pinned packages and prove them against their sources in the same run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from tokenizers import Tokenizer

from magicmm_export.graph import Array
from magicmm_export.nano import packages
from magicmm_export.nano.checkpoint import Checkpoint, read_checkpoint
from magicmm_export.nano.concepts import Bank, Concept, concept_bank, read_concepts, read_scenes, with_scenes
from magicmm_export.nano.efficientnet import Network, read_network
from magicmm_export.nano.files import GraphFiles
from magicmm_export.nano.image import image_graph
from magicmm_export.nano.linear import Precision
from magicmm_export.nano.minilm import BLOCK_INPUTS, text_graph
from magicmm_export.nano.oracle import read_state
from magicmm_export.nano.quantise import Calibration, observe
from magicmm_export.nano.run import TextEncoder, open_model
from magicmm_export.nano.student import Student, composed_graph
from magicmm_export.nano.verify import (
    test_sentences,
    verify_bank,
    verify_close,
    verify_image_batches,
    verify_image_float,
    verify_text_float,
    verify_text_padding,
)
from magicmm_export.nano.verify_student import (
    Composer,
    composed_ids,
    verify_composed,
    verify_composed_padding,
    verify_photos,
)
from magicmm_export.nano.views import folder_views, synthetic_views

SYNTHETIC_PICTURES = 12

log = logging.getLogger(__name__)


SHARED_ALIGNMENT = 64
"""Of the constants in the data file of the image graph: a page each would be 54 KB more."""


@dataclass(frozen=True)
class Graphs:
    """The graphs of one precision; without a student there is nothing that composes."""

    image: ModelProto
    text: ModelProto
    composed: ModelProto | None


def build_graphs(
    out_dir: Path, precision: Precision | str = Precision.INT8, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Write the graphs and `tokenizer.json`, and return what was measured on them.

    Two builds from the same packages and checkpoint on one machine write the same bytes. Progress goes to the log.

    Args:
        out_dir: Where `image.onnx`, `text.onnx` and, with a checkpoint, `composed.onnx` go.
        precision: Of the graphs.
        checkpoint: The trained model; None = photos are what the concept bank says of them.

    Raises:
        PackageError: A pinned package is missing or differs.
        MagicError: See `read_checkpoint`.
        ParityError: A graph is further from its source than allowed.
    """
    precision = Precision(precision)
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(out_dir / "tokenizer.json")
    concepts = read_concepts()

    log.info("Folding the image network.")
    network = read_network(read_state(packages.locate(packages.VISION_WEIGHTS)))
    trained = None
    if checkpoint is not None:
        trained = read_checkpoint(checkpoint, network, packages.locate(packages.TEXT_WEIGHTS))

    log.info("Writing the float text graph and encoding %d concepts.", len(concepts))
    text_float = text_graph(packages.locate(packages.TEXT_WEIGHTS), None)
    encode = TextEncoder(open_model(text_float, BLOCK_INPUTS), tokenizer)
    bank = Bank(concept_bank(concepts, encode))
    peaks = dict(encode.peaks)  # of the concepts alone: the text graph depends on nothing that is trained
    report: dict[str, Any] = {"precision": precision.value}
    if trained is not None:
        wanted = with_scenes(bank.vectors, read_scenes(concepts), encode)
        report["bank"] = verify_bank(trained.bank.vectors, wanted)
        bank = trained.bank

    truth = _graphs(network, bank, text_float, None if trained is None else trained.student(None), None)
    graphs = truth
    if precision is Precision.INT8:
        text = text_graph(packages.locate(packages.TEXT_WEIGHTS), peaks)
        log.info("Observing the image network on the calibration pictures.")
        bank_alone = image_graph(network, bank, None)
        seen = observe(bank_alone, network, _calibration_views())
        student = None if trained is None else trained.student(peaks)
        graphs = _graphs(network, bank, text, student, seen)
    files = [*_write(out_dir, graphs), out_dir / "tokenizer.json"]
    report["bytes"] = {file.name: file.stat().st_size for file in files}

    log.info("Verifying.")
    report["text"] = _verify_text(truth.text, out_dir / "text.onnx", tokenizer, concepts)
    photos = _test_views()
    report["image"] = _verify_image(truth, out_dir / "image.onnx", photos, trained)
    if trained is not None and truth.composed is not None:
        rows = composed_ids(tokenizer, test_sentences(concepts)[-len(photos) :])
        report["composed"] = verify_composed(truth.image, truth.composed, trained.model, photos, rows)
        written = Composer.open(out_dir / "image.onnx", out_dir / "composed.onnx")
        vectors, expected = (one.each(photos, rows) for one in (written, Composer.open(truth.image, truth.composed)))
        report["composed"] |= verify_close("composed", vectors, expected)
        report["composed"] |= verify_composed_padding(written, photos, rows)
    return report


def _graphs(
    network: Network, bank: Bank, text: ModelProto, student: Student | None, seen: Calibration | None
) -> Graphs:
    composed = None if student is None else composed_graph(student)
    return Graphs(image_graph(network, bank, seen, student), text, composed)


def _write(folder: Path, graphs: Graphs) -> list[Path]:
    """Write the graphs; text first, whose weights the others read."""
    files = GraphFiles(folder)
    files.add("text.onnx", graphs.text)
    if graphs.composed is None:
        files.add("image.onnx", graphs.image)
    else:
        shared = {tensor.name for tensor in graphs.composed.graph.initializer}
        files.add("image.onnx", graphs.image, shared, SHARED_ALIGNMENT)
        files.add("composed.onnx", graphs.composed, is_anonymous=True)
    return files.written


def _write_tokenizer(path: Path) -> Tokenizer:
    """Write the package's tokenizer with truncation and padding off: lengths are the caller's business."""
    spec = json.loads(packages.locate(packages.TOKENIZER).read_text("utf-8"))
    spec["truncation"] = spec["padding"] = None
    path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return Tokenizer.from_file(str(path))


def _calibration_views() -> Iterator[Array]:
    yield from folder_views(packages.locate_folder(*packages.CALIBRATION_PHOTOS))
    yield from synthetic_views(SYNTHETIC_PICTURES)


def _test_views() -> list[Array]:
    folder = packages.locate_folder(*packages.TEST_PHOTOS)
    return [*folder_views(folder), *folder_views(folder / "campus")]


def _verify_image(graphs: Graphs, path: Path, photos: list[Array], trained: Checkpoint | None) -> dict[str, Any]:
    report: dict[str, Any] = {"photos": len(photos)}
    report |= verify_image_float(graphs.image, packages.locate(packages.VISION_WEIGHTS), photos)
    if trained is not None:
        report |= verify_photos(graphs.image, trained.model, photos)
    written, truth = open_model(path), open_model(graphs.image)
    vectors, expected = (
        np.concatenate([session.run(["vector"], {"pixels": photo})[0] for photo in photos])
        for session in (written, truth)
    )
    report |= verify_close("image", vectors, expected)
    verify_image_batches(written, photos)
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
