"""A CLIP or SigLIP checkpoint folder to a bundle: read, trace, compare with torch, quantise, compare again, write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto

from magicmm.errors import ErrorCode, MagicError
from magicmm_export.bundle_writer import GoldenInput, weights_identity, write_bundle
from magicmm_export.dual.checkpoint import DualCheckpoint
from magicmm_export.dual.graphs import image_graph, text_graph
from magicmm_export.dual.int8 import SCHEME, int8_graph
from magicmm_export.dual.parity import check_float, check_int8, graph_vectors, make_probes, torch_vectors
from magicmm_export.dual.trace import trace
from magicmm_export.dual.words import TOKENIZER
from magicmm_export.graph import save

Precision = Literal["float32", "int8"]
PRECISIONS = ("float32", "int8")
TEXT_WEIGHT = 1.0
"""Share of the words in a query of photo and words: as much as the photo, since no checkpoint says better."""


def export_dual_encoder(
    checkpoint: Path,
    target: Path,
    *,
    model_id: str | None = None,
    precision: Precision = "int8",
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the bundle `target` from a CLIP or SigLIP checkpoint, and return its path.

    The folder is that of transformers: config.json, *.safetensors, tokenizer.json, preprocessor_config.json. Nothing is
    fetched and no code of the checkpoint runs. How the bundle differs from the checkpoint by more than rounding (a
    resize that is not bicubic, a margin around the crop) is named in the manifest under `source.notes`.

    Args:
        checkpoint: The folder.
        target: The bundle to write, `NAME.magicmm`; must not exist.
        model_id: The bundle's name for people and for the index; by default that of the folder.
        precision: "int8" is a quarter of the size and must keep a mean cosine of 0.98 to "float32".
        progress: Told in a few words what is going on.

    Raises:
        MagicError: `argument_invalid` (target exists, no such precision, int8 too far off), `source_unavailable`
            (missing files), `checkpoint_invalid` (another family, broken or unfitting files), `runtime_failed` (the
            graphs do not reproduce torch), `storage_failed`. Nothing is left at `target` then.
    """
    if precision not in PRECISIONS:
        raise _refused(f"There is no precision {precision!r}.", f"Take one of {', '.join(PRECISIONS)}.")
    if target.exists() or target.is_symlink():
        raise _refused(f"{target} exists.", "Give another name, or remove it first.")
    source = DualCheckpoint.open(checkpoint)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        for part in ("traced", "float32", "bundle"):
            (scratch / part).mkdir(parents=True)
        return _export(source, scratch, target, model_id or checkpoint.resolve().name, precision, progress or _silent)
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED, f"{target} cannot be written: {error}.", "Check its folder and the free space."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _export(
    source: DualCheckpoint, scratch: Path, target: Path, name: str, precision: str, tell: Callable[[str], None]
) -> Path:
    staged = scratch / "bundle"
    floats = staged if precision == "float32" else scratch / "float32"
    tell("Loading the weights.")
    model = source.load()
    probes = make_probes(source)
    truth = torch_vectors(model, source, probes)
    dim = truth["image"].shape[1]

    tell("Tracing the model.")
    traced = trace(model, source.family, scratch / "traced")
    del model
    graphs = {
        "image": image_graph(traced, source.image, dim),
        "text": text_graph(traced, source.family, source.text, dim),
    }
    _save(graphs, floats)

    tell("Comparing the graphs with torch.")
    found = graph_vectors(floats, probes)
    quality = {"float32_to_torch": check_float(found, truth)}
    if precision == "int8":
        tell("Quantising to int8.")
        _save(
            {"image": int8_graph(graphs["image"]), "text": int8_graph(graphs["text"], source.text.vocabulary)}, staged
        )
        quality["int8_to_float32"] = check_int8(graph_vectors(staged, probes), found)

    tell("Writing the bundle.")
    shutil.copyfile(source.folder / TOKENIZER, staged / TOKENIZER)
    manifest = _manifest(source, name, dim, precision, quality)
    return write_bundle(staged, target, manifest, _golden()).path


def _save(graphs: dict[str, ModelProto], folder: Path) -> None:
    for part, graph in graphs.items():
        save(graph, folder / f"{part}.onnx")


def _manifest(source: DualCheckpoint, name: str, dim: int, precision: str, quality: dict[str, Any]) -> dict[str, Any]:
    image, text = source.image, source.text
    no_ids: dict[str, Any] = {"head": [], "image_before": [], "image_after": [], "tail": []}
    photo = {**no_ids, "text": "{text}", "prefix": None, "max_tiles": 1}
    return {
        "id": name,
        "title": f"{name}, a {source.family} checkpoint of transformers",
        "architecture": "dual_encoder",
        "dim": dim,
        "matryoshka_dims": [],
        "weights": weights_identity(source.weights),
        "image": {"side": image.side, "views": [image.view], "resample": "bicubic"},
        "text": {"tokenizer": TOKENIZER, "max_tokens": text.max_tokens, "pad_id": text.pad_id},
        "roles": {"photo": photo, "query": {**photo, "head": list(text.head), "tail": list(text.tail)}},
        "composed": {"text_weight": TEXT_WEIGHT},
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx"}},
        "quantisation": dict.fromkeys(("image", "text"), SCHEME if precision == "int8" else "float32"),
        "quality": quality,
        "licence": "that of the checkpoint",
        "source": {"family": source.family, "notes": list(image.notes)},
    }


def _golden() -> list[GoldenInput]:
    y, x = np.mgrid[0:72, 0:112]
    rgb = np.stack([60 + 2 * y, 250 - 2 * x, (x * y) % 251], axis=2).astype(np.uint8)
    return [
        GoldenInput("words", text="a dog"),
        GoldenInput("landscape", rgb=rgb),
        GoldenInput("portrait", rgb=np.ascontiguousarray(rgb.transpose(1, 0, 2))),
        GoldenInput("composed", text="a dog", rgb=rgb),
    ]


def _silent(_: str) -> None:
    """Tell nobody."""


def _refused(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, message, remedy)
