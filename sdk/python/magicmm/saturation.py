"""Does onnxruntime multiply uint8 by int8 exactly on this processor? Asked, not guessed from the processor's name.

Without dot-product instructions (VNNI) an x86 processor adds two products in 16 bits: 255 * 127 * 2 is cut to 32767.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

# One node, y = MatMulInteger(a uint8, b int8), opset 13: ONNX can be read here, but not written.
_GRAPH = (
    b'\x08\x07:>\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01p'
    b"Z\t\n\x01a\x12\x04\n\x02\x08\x02Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\r"
)
_DEPTH = 64


@functools.cache
def saturates() -> bool:
    """Return whether sums of uint8 x int8 products come out too small; takes a millisecond, once a process."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(_GRAPH, options, providers=["CPUExecutionProvider"])
    largest = {"a": np.full((4, _DEPTH), 255, np.uint8), "b": np.full((_DEPTH, 16), 127, np.int8)}
    sums: Any = session.run(None, largest)[0]
    return bool((sums != _DEPTH * 255 * 127).any())
