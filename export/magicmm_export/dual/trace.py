"""Trace a dual encoder with optimum's ONNX exporter, and take the traced graph apart.

optimum calls torch.onnx's tracer (`dynamo=False`), which torch 2.13 still has. Measured there with optimum-onnx 0.1.0
and transformers 4.57.6: both families within 3e-7 of torch, with free batch and sequence sizes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto
from optimum.exporters.onnx import export
from optimum.exporters.onnx.model_configs import CLIPOnnxConfig, SiglipOnnxConfig

OPSET = 18
"""The least that optimum recommends for both families; onnxruntime 1.14 and later read it."""
PIXELS, IDS, MASK = "pixel_values", "input_ids", "attention_mask"
IMAGE_VECTOR, TEXT_VECTOR = "image_embeds", "text_embeds"
_CONFIGS = {"clip": CLIPOnnxConfig, "siglip": SiglipOnnxConfig}


def trace(model: Any, family: str, folder: Path) -> ModelProto:
    """Return the whole model as one graph with both inputs and both vectors (of unit length).

    Args:
        model: The transformers model in float32.
        family: `clip` or `siglip`.
        folder: An empty folder for the exporter's files, which may be deleted afterwards.
    """
    path = folder / "traced.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes as fixed; parity is measured
        export(model, _CONFIGS[family](model.config, task="feature-extraction"), path, opset=OPSET)
    return onnx.load(path)


def upstream(traced: ModelProto, output: str) -> GraphProto:
    """Return the nodes and weights that one output depends on, in order, without declared inputs and outputs."""
    needed, nodes = {output}, []
    for node in reversed(traced.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    kept = GraphProto()
    kept.node.extend(reversed(nodes))
    kept.initializer.extend(tensor for tensor in traced.graph.initializer if tensor.name in needed)
    return kept
