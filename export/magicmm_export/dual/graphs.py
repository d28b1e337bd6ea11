"""The two graphs of a bundle around what was traced: uint8 pixels enter one, ids and mask the other."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from magicmm_export.dual.preprocess import ImageRecipe
from magicmm_export.dual.trace import IDS, IMAGE_VECTOR, MASK, OPSET, PIXELS, TEXT_VECTOR, upstream
from magicmm_export.dual.words import TextRecipe
from magicmm_export.graph import Array

IR_VERSION = 8
"""The one that came with opset 18, so that older runtimes still open the file."""
VECTOR = "vector"
_OWN = "magicmm."
"""Prefix of the values that are added, so that they cannot meet a traced name."""


def image_graph(traced: ModelProto, recipe: ImageRecipe, dim: int) -> ModelProto:
    """Return `pixels` uint8 [n, side, side, 3] -> `vector` float32 [n, dim], of unit length."""
    graph = upstream(traced, IMAGE_VECTOR)
    front = [
        helper.make_node("Cast", ["pixels"], [_OWN + "bytes"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [_OWN + "bytes", _OWN + "factor"], [_OWN + "scaled"]),
        helper.make_node("Sub", [_OWN + "scaled", _OWN + "mean"], [_OWN + "centred"]),
        helper.make_node("Div", [_OWN + "centred", _OWN + "deviation"], [_OWN + "normalised"]),
        helper.make_node("Transpose", [_OWN + "normalised"], [PIXELS], perm=[0, 3, 1, 2]),
    ]
    _store(graph, factor=np.array(recipe.factor, np.float32), mean=recipe.mean, deviation=recipe.deviation)
    shape: list[str | int] = ["n", recipe.side, recipe.side, 3]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    return _finish("image", graph, front, IMAGE_VECTOR, ["n", dim])


def text_graph(traced: ModelProto, family: str, recipe: TextRecipe, dim: int) -> ModelProto:
    """Return `ids` int64 [b, s], `mask` int64 [b, s] -> `vector` float32 [b, dim], of unit length."""
    graph = upstream(traced, TEXT_VECTOR)
    front = _clip_front() if family == "clip" else _siglip_front(graph, recipe)
    for name in ("ids", "mask"):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]))
    return _finish("text", graph, front, TEXT_VECTOR, ["b", dim])


def _clip_front() -> list[NodeProto]:
    return [helper.make_node("Identity", ["ids"], [IDS]), helper.make_node("Identity", ["mask"], [MASK])]


def _siglip_front(graph: GraphProto, recipe: TextRecipe) -> list[NodeProto]:
    """Fill every row to the full length: SigLIP was trained so, without a mask, and reads its last position."""
    _store(
        graph,
        pad=np.array(recipe.pad_id, np.int64),
        length=np.array([recipe.max_tokens], np.int64),
        before=np.zeros(3, np.int64),
    )
    return [
        helper.make_node("Cast", ["mask"], [_OWN + "is_token"], to=TensorProto.BOOL),
        helper.make_node("Where", [_OWN + "is_token", "ids", _OWN + "pad"], [_OWN + "filled"]),
        helper.make_node("Shape", ["ids"], [_OWN + "given"], start=1, end=2),
        helper.make_node("Sub", [_OWN + "length", _OWN + "given"], [_OWN + "after"]),
        helper.make_node("Concat", [_OWN + "before", _OWN + "after"], [_OWN + "around"], axis=0),
        helper.make_node("Pad", [_OWN + "filled", _OWN + "around", _OWN + "pad"], [IDS]),
    ]


def _store(graph: GraphProto, **arrays: Array) -> None:
    graph.initializer.extend(numpy_helper.from_array(array, _OWN + name) for name, array in arrays.items())


def _finish(name: str, graph: GraphProto, front: list[NodeProto], output: str, shape: list[str | int]) -> ModelProto:
    """Set the new nodes before the traced ones and declare the output under the name that all bundles use."""
    traced = [*graph.node, helper.make_node("Identity", [output], [VECTOR])]
    del graph.node[:]
    graph.node.extend([*front, *traced])
    graph.name = name
    graph.output.append(helper.make_tensor_value_info(VECTOR, TensorProto.FLOAT, shape))
    imports = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="magicmm")
