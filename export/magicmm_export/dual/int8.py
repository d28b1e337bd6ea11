"""Rewrite a traced graph in int8: linear layers and the token table, with one activation scale a row.

onnxruntime's `quantize_dynamic` was measured and is not used: its one activation scale a tensor lets a photo's vector
depend on the photos beside it in the batch (a tiny CLIP: cosine 0.9992 to itself alone; here: equal), which the SDK
promises not to happen. What remains in float32 are convolutions, the position tables, and linear layers that the tracer
wrote as `Gemm` or whose weights the graph itself cuts in parts (in SigLIP's pooling head): a few million numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from magicmm_export.graph import Array
from magicmm_quant.schemes import quantise_int8

SCHEME = "linear layers: 8-bit weights per output channel, uint8 activations per row; token rows: 8-bit; rest: float32"


def int8_graph(model: ModelProto, vocabulary: int | None = None) -> ModelProto:
    """Return the graph with every product by a stored matrix in int8.

    Args:
        model: A float32 graph; not changed.
        vocabulary: Rows of the token table, which becomes int8 too; None: the graph has none.
    """
    return _Int8Rewriter(model, vocabulary).rewrite()


class _Int8Rewriter:
    """One rewrite: new nodes in order, codes in place of weights, and each input quantised once."""

    def __init__(self, model: ModelProto, vocabulary: int | None) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._matrices = {
            tensor.name: tensor
            for tensor in model.graph.initializer
            if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT
        }
        self._nodes: list[NodeProto] = []
        self._added: dict[str, TensorProto] = {}
        self._rows: dict[str, tuple[str, str]] = {}

    def rewrite(self) -> ModelProto:
        for node in self._model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self._matrices:
                self._linear(node)
            elif node.op_type == "Gather" and self._is_token_table(node.input[0]):
                self._token_rows(node)
            else:
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        old = self._model.graph
        graph = helper.make_graph(self._nodes, old.name, old.input, old.output, [*kept, *self._added.values()])
        return helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
            producer_name=self._model.producer_name,
        )

    def _linear(self, node: NodeProto) -> None:
        """Replace rows @ matrix.

        Weights are uint8 around 128: with int8, x86 processors without VNNI add pairs of products in 16 bits, which
        overflow.
        """
        codes, row_scale = self._quantised(node.input[0])
        matrix = node.input[1]
        if f"{matrix}.codes" not in self._added:
            stored = quantise_int8(np.ascontiguousarray(numpy_helper.to_array(self._matrices[matrix]).T))
            unsigned = (stored.codes.T.astype(np.int16) + 128).astype(np.uint8)
            self._store(f"{matrix}.codes", np.ascontiguousarray(unsigned))
            self._store(f"{matrix}.scales", stored.scales)
        zero = self._store("magicmm.zero", np.array(128, np.uint8))
        out = node.output[0]
        self._node("MatMulInteger", [codes, f"{matrix}.codes", zero, zero], f"{out}.whole")
        self._node("Cast", [f"{out}.whole"], f"{out}.float", to=TensorProto.FLOAT)
        self._node("Mul", [f"{out}.float", row_scale], f"{out}.scaled")
        self._node("Mul", [f"{out}.scaled", f"{matrix}.scales"], out)

    def _quantised(self, rows: str) -> tuple[str, str]:
        """Return uint8 codes around 128 and their scales [..., 1]; layers that read the same rows share them."""
        if rows not in self._rows:
            last = self._store("magicmm.last", np.array([-1], np.int64))
            least = self._store("magicmm.least", np.array(1e-12, np.float32))
            step = self._store("magicmm.step", np.array(1 / 127, np.float32))
            # Cast truncates and its input is positive: the half makes it round.
            shift = self._store("magicmm.shift", np.array(128.5, np.float32))
            self._node("Abs", [rows], f"{rows}.abs")
            self._node("ReduceMax", [f"{rows}.abs", last], f"{rows}.peak", keepdims=1)
            self._node("Max", [f"{rows}.peak", least], f"{rows}.bound")
            self._node("Mul", [f"{rows}.bound", step], f"{rows}.scale")
            self._node("Div", [rows, f"{rows}.scale"], f"{rows}.steps")
            self._node("Add", [f"{rows}.steps", shift], f"{rows}.shifted")
            self._node("Cast", [f"{rows}.shifted"], f"{rows}.codes", to=TensorProto.UINT8)
            self._rows[rows] = f"{rows}.codes", f"{rows}.scale"
        return self._rows[rows]

    def _is_token_table(self, name: str) -> bool:
        return name in self._matrices and self._matrices[name].dims[0] == self._vocabulary

    def _token_rows(self, node: NodeProto) -> None:
        table, ids = node.input
        stored = quantise_int8(numpy_helper.to_array(self._matrices[table]))
        self._store(f"{table}.codes", stored.codes)
        self._store(f"{table}.scales", stored.scales[:, None])
        out = node.output[0]
        self._node("Gather", [f"{table}.codes", ids], f"{out}.codes")
        self._node("Gather", [f"{table}.scales", ids], f"{out}.scales")
        self._node("Cast", [f"{out}.codes"], f"{out}.float", to=TensorProto.FLOAT)
        self._node("Mul", [f"{out}.float", f"{out}.scales"], out)

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(op, inputs, [output], **attributes))

    def _store(self, name: str, array: Array) -> str:
        if name not in self._added:
            self._added[name] = numpy_helper.from_array(array, name)
        return name
