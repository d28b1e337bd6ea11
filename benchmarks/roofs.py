"""What this machine can do at most: GEMMs of the vision tower's largest shape, and reading memory.

onnxruntime 1.32 leaves its AMX path when the process may use one core only: never pin, and look at these numbers first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from report import race, readers

if TYPE_CHECKING:
    from magicmm_model.config import ModelConfig

ROWS, INNER, COLUMNS = 1025, 1024, 4096
"""fc1 of one 448 px tile."""


@dataclass(frozen=True, slots=True)
class Roofs:
    """GFLOP/s of one GEMM by type, and GB/s of reading memory, with some number of threads."""

    int8: float
    bf16: float
    fp32: float
    read: float


def measure_roofs(threads: int, rounds: int = 10, seconds: float = 5) -> Roofs:
    """Time the GEMMs in turns, and the readers in turns."""
    calls = {"int8": _int8_gemm(threads), "bf16": _torch_gemm("bfloat16"), "fp32": _torch_gemm("float32")}
    timings = race(calls, rounds, seconds)
    speed = {name: 2e-9 * ROWS * INNER * COLUMNS / timing.best for name, timing in timings.items()}
    words = np.ones(1 << 25, np.int64)
    read = min(timing.best for timing in race(readers(words, threads), rounds, seconds).values())
    return Roofs(speed["int8"], speed["bf16"], speed["fp32"], words.nbytes / 1e9 / read)


def _int8_gemm(threads: int) -> Callable[[], object]:
    """MatMulInteger, uint8 by constant int8, as the graphs have it."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-127, 128, (INNER, COLUMNS), np.int8), "w")
    zero = numpy_helper.from_array(np.array(128, np.uint8), "z")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w", "z"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, (ROWS, INNER))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (ROWS, COLUMNS))],
        [weight, zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows = rng.integers(0, 256, (ROWS, INNER), np.uint8)
    return lambda: session.run(None, {"a": rows})


def _torch_gemm(name: str) -> Callable[[], object]:
    """A torch linear with as many threads as torch is set to."""
    import torch

    dtype = getattr(torch, name)
    rows, weight = torch.randn(ROWS, INNER).to(dtype), torch.randn(COLUMNS, INNER).to(dtype)

    def call() -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(rows, weight)

    return call


def photo_work(config: ModelConfig, live: int) -> tuple[int, int]:
    """Count FLOPs of vision and of language for one tile, as torch counts them: nothing is computed.

    Args:
        config: Shapes, tile side and compression.
        live: Tokens of the sequence, the visual ones included.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from magicmm_model.model import MagicModel

    side = config.vision.image_size
    with torch.device("meta"), torch.inference_mode():
        model = MagicModel(config)
        pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        embeds, last = torch.zeros(1, live, config.dim), torch.tensor([live - 1])
        found = []
        for call in (partial(model.visual_tokens, pixels), partial(model.vectors, embeds, last)):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                call()
            found.append(int(counter.get_total_flops()))
    return found[0], found[1]
