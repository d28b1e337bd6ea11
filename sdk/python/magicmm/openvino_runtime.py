"""Graphs on OpenVINO's CPU device, for bundles that hold one for it: the optional extra `magicmm[openvino]`.

OpenVINO fuses QuantizeLinear and DequantizeLinear around a product into one int8 kernel, and runs attention in bfloat16
where the processor has instructions for it (docs/decisions/0007).
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_INSTALL = "pip install 'magicmm[openvino]'"
_EXACT = {"LP_TRANSFORMS_MODE": "NO"}
"""Leaves products in float32, where whole numbers of 8 bits are exact, too."""
_DEPTH = 64
_STATISTICS = "openvino_telemetry"


def require_openvino() -> None:
    """Check that the package is there; it is not imported.

    Raises:
        MagicError: `runtime_failed` with the command that installs it.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MagicError(ErrorCode.RUNTIME_FAILED, "OpenVINO is not installed.", f"Run: {_INSTALL}")


class OpenvinoSession:
    """A graph whose inputs begin with an axis of items; each item runs alone, so neighbours cannot change a bit.

    Attributes:
        output_name: Of the output that `run` returns.
    """

    def __init__(self, path: Path, threads: int, watched: Sequence[str] = ()) -> None:
        """Load the graph.

        Args:
            path: The ONNX file.
            threads: 0 takes all physical cores.
            watched: Names of values inside to keep beside the output, for `run_watched`.

        Raises:
            MagicError: `runtime_failed` when the package is missing, refuses the graph, or multiplies inexactly.
        """
        require_openvino()
        try:
            model = _core().read_model(path)
            if watched:
                model.add_outputs(list(watched))
            model.reshape({entry.any_name: [1, *list(entry.partial_shape)[1:]] for entry in model.inputs})
            compiled = _core().compile_model(model, "CPU", _properties(threads))
            self._request = compiled.create_infer_request()
        except Exception as error:  # OpenVINO's exceptions share no public base class
            raise _failed(f"OpenVINO refuses {path}", error) from None
        self._inputs = {
            entry.any_name: (entry.element_type.to_dtype(), entry.partial_shape) for entry in compiled.inputs
        }
        self.input_names = frozenset(self._inputs)
        self.output_name: str = compiled.outputs[0].any_name
        self._watched = tuple(watched)
        self._lock = threading.Lock()  # one request holds one item

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        """Return the first output, or the one that is named, as float32.

        Raises:
            MagicError: `runtime_failed` with what OpenVINO said.
        """
        return self.run_watched(inputs, output)[0]

    def run_watched(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> list[Floats]:
        """Return the first output or the named one, then the watched values, as float32, items along the first axis.

        Raises:
            MagicError: `runtime_failed` with what OpenVINO said.
        """
        try:
            (count,) = {len(values) for values in inputs.values()}
            items = ({name: values[at : at + 1] for name, values in inputs.items()} for at in range(count))
            rows = [self._run_item(item, output) for item in items]
            if not rows:
                raise ValueError("there are no items")
            return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        except Exception as error:  # as above
            raise _failed("OpenVINO failed", error) from None

    def _run_item(self, item: dict[str, NDArray[Any]], output: str | None) -> list[Floats]:
        for name, values in item.items():
            dtype, shape = self._inputs[name]
            # OpenVINO takes any shape, without an error, where the graph has free sides.
            if values.dtype != dtype or not shape.compatible(type(shape)(list(values.shape))):
                raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, not {dtype} {shape}")
        with self._lock:
            self._request.infer(item)
            asked = self._request.get_output_tensor(0) if output is None else self._request.get_tensor(output)
            found = [asked, *map(self._request.get_tensor, self._watched)]
            return [np.array(tensor.data, dtype=np.float32) for tensor in found]


@functools.cache
def saturates() -> bool:
    """Return whether OpenVINO's int8 products come out too small here (x86 without VNNI); asked once a process."""
    return _largest_sum({}) != _DEPTH * 127 * 127


def attention_type() -> str:
    """Return the type of what is not int8, as attention: "bf16" where the processor multiplies it, else "f32"."""
    return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _properties(threads: int) -> dict[str, Any]:
    """Return how a graph is compiled on this processor."""
    found: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": attention_type(),
        "ENABLE_CPU_PINNING": False,  # onnxruntime leaves its fastest kernels in a thread that is bound to one core
    }
    if threads:
        found["INFERENCE_NUM_THREADS"] = threads
    if saturates():
        if _largest_sum(_EXACT) != _DEPTH * 127 * 127:
            raise RuntimeError("it has no exact products for this processor")
        found |= _EXACT
    return found


def _largest_sum(properties: Mapping[str, Any]) -> float:
    """Return what OpenVINO makes of the largest codes: 64 times 127 x 127."""
    core = _core()  # imports OpenVINO as it must be imported
    from openvino import Model
    from openvino import opset13 as operators

    given = operators.parameter([1, _DEPTH], np.float32)
    levels = [np.float32(level) for level in (-128, 127, -128, 127)]
    codes = operators.fake_quantize(given, *levels, 256)
    stored = operators.convert(operators.constant(np.full((_DEPTH, 16), 127, np.int8)), "f32")
    weights = operators.multiply(stored, operators.constant(np.ones((1, 16), np.float32)))
    model = Model([operators.matmul(codes, weights, False, False)], [given])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, **properties}
    sums = core.compile_model(model, "CPU", options)(np.full((1, _DEPTH), 127, np.float32))[0]
    return float(sums.min())


@functools.cache
def _core() -> Any:
    with _no_statistics():
        import openvino

    return openvino.Core()


@contextmanager
def _no_statistics() -> Iterator[None]:
    """Keep OpenVINO from reporting that it is used: importing it does, over the network, unless this package lacks."""
    absent = _STATISTICS not in sys.modules
    if absent:
        sys.modules[_STATISTICS] = None  # type: ignore[assignment] # what Python takes for a package that is not there
    try:
        yield
    finally:
        if absent:
            del sys.modules[_STATISTICS]


def _failed(what: str, error: Exception) -> MagicError:
    said = " ".join(str(error).split())[-300:]
    return MagicError(ErrorCode.RUNTIME_FAILED, f"{what}: {said}.", "Run: magicmm verify BUNDLE --runtime openvino")
