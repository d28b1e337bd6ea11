"""Whether uint8 x int8 sums are exact on this machine: a graph of 72 bytes is asked, so it must be the right one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from magicmm import saturation


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    saturation.saturates.cache_clear()
    yield
    saturation.saturates.cache_clear()


def test_the_graph_is_one_product_of_uint8_and_int8() -> None:
    model = onnx.ModelProto.FromString(saturation._GRAPH)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("MatMulInteger", ["a", "b"], ["y"])
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads what Linux says of the processor")
def test_the_answer_is_that_of_the_instructions_of_this_processor() -> None:
    flags = set(Path("/proc/cpuinfo").read_text("ascii", errors="replace").split())
    assert saturation.saturates() == ("avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"})


def test_a_sum_that_is_cut_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut:
        def __init__(self, *args: object, **options: object) -> None:
            pass

        def run(self, names: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            pairs = [
                inputs["a"][:, at : at + 2].astype(int) @ inputs["b"][at : at + 2].astype(int) for at in range(0, 64, 2)
            ]
            return [sum(np.minimum(pair, 32767) for pair in pairs)]

    monkeypatch.setattr(sys.modules["onnxruntime"], "InferenceSession", Cut)
    assert saturation.saturates()
