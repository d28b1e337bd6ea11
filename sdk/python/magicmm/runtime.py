"""Everything the SDK asks of an inference runtime: named arrays in, one float32 array out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magicmm import executorch_runtime, openvino_runtime
from magicmm.errors import ErrorCode, MagicError
from magicmm.onnx_files import INT8, ExternalTensor, external_tensors
from magicmm.packed import UNSTORED_OFFSET, read_packed
from magicmm.saturation import saturates

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magicmm.bundle import Bundle

    Floats = NDArray[np.float32]


# Releases 1.20 to 1.24 end the process when a product has no zero point for its weights and the precise mode is on;
# 1.32 does not (tried on an emulated processor without VNNI). What lies between was not tried.
_FIRST_SAFE_RELEASE = (1, 32)


ONNX, OPENVINO, EXECUTORCH, COREML = "onnx", "openvino", "executorch", "coreml"
"""The runtimes: the first runs every graph of most bundles, the second alternatives to them, the third programs, the
fourth packages, on Apple's systems only."""


class Session(Protocol):
    """One loaded graph. `run` may be called from several threads."""

    input_names: frozenset[str]

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        """Return the graph's first output, or the one that is named."""
        ...


def check_runtime(bundle: Bundle, runtime: str) -> None:
    """Check that this SDK has a runtime and that the bundle has a graph for it; nothing is loaded.

    Raises:
        MagicError: `runtime_failed`.
    """
    graphs, alternatives = bundle.manifest.graphs, bundle.manifest.alternatives
    if runtime == OPENVINO and "onnx" in graphs:
        if not alternatives.get(runtime):
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"{bundle.path} has no graph for OpenVINO.",
                "Leave out the runtime, or export the bundle with --openvino and --calibrate PHOTOS.",
            )
        openvino_runtime.require_openvino()
    elif runtime not in graphs or runtime not in (ONNX, EXECUTORCH):
        possible = [name for name in (ONNX, EXECUTORCH) if name in graphs]
        remedy = f"Take the runtime {possible[0]!r}." if possible else "Export the bundle with --runtime onnx."
        if set(graphs) == {COREML}:
            remedy = "Core ML runs in apps on Apple's systems; here, export the bundle with --runtime onnx."
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"Runtime {runtime!r} cannot run {bundle.path}: its graphs are for {', '.join(sorted(graphs)) or 'none'}.",
            remedy,
        )
    elif runtime == EXECUTORCH:
        executorch_runtime.require_executorch()


def open_session(bundle: Bundle, part: str, threads: int, runtime: str) -> Session:
    """Load one graph of a bundle.

    Args:
        bundle: Where it lies.
        part: "vision", "language", "image", "text" or "composed".
        threads: 0 takes all physical cores.
        runtime: "onnx", "executorch"; "openvino" runs the parts that the bundle has an alternative of on OpenVINO, the
            others on "onnx".

    Raises:
        MagicError: `runtime_failed` for a runtime that the bundle has no graphs for, or that refuses the graph;
            `bundle_invalid` for a graph that reads a file which the manifest does not list, and for packed weights
            that are broken or are not those that the graph declares.
    """
    check_runtime(bundle, runtime)
    alternative = alternative_graph(bundle, part, runtime)
    if alternative is not None:
        return openvino_runtime.OpenvinoSession(alternative, threads)
    if runtime == EXECUTORCH:
        program = bundle.file(bundle.manifest.graphs[runtime][part])
        return executorch_runtime.ExecutorchSession(program, part, threads)
    name = bundle.manifest.graphs["onnx"][part]
    path = bundle.file(name)
    tensors = _checked_tensors(bundle, name)
    packed = bundle.manifest.packed.get("onnx", {}).get(part)
    if packed is None:
        return OnnxSession(path, threads)
    declared = [tensor for tensor in tensors if packed in [_beside(name, other) for other in tensor.all("location")]]
    return OnnxSession(path, threads, read_packed(bundle.file(packed), _unstored_shapes(name, declared)))


def alternative_graph(bundle: Bundle, part: str, runtime: str) -> Path | None:
    """Return the graph of a part that the bundle has for another runtime, or None.

    Raises:
        MagicError: `bundle_invalid` when it reads a file which the manifest does not list; `runtime_failed` when it is
            no ONNX graph.
    """
    name = bundle.manifest.alternatives.get(runtime, {}).get(part)
    if name is None:
        return None
    _checked_tensors(bundle, name)
    return bundle.file(name)


def _checked_tensors(bundle: Bundle, name: str) -> list[ExternalTensor]:
    """Return the tensors that a graph keeps in other files, all of which the bundle lists."""
    path = bundle.file(name)
    try:
        tensors = external_tensors(path)
    except (OSError, ValueError) as error:
        raise _failed(f"{path} is no ONNX graph", error) from None
    for tensor in tensors:
        for other in tensor.all("location"):
            bundle.file(_beside(name, other))
    return tensors


def _beside(graph: str, location: str) -> str:
    """Return the name in the bundle of a file that a graph names."""
    return (PurePosixPath(graph).parent / location).as_posix()


def _unstored_shapes(graph: str, declared: list[ExternalTensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a graph's packed tensors by name; each must be one that onnxruntime lets us supply.

    Raises:
        MagicError: `bundle_invalid`.
    """
    for tensor in declared:
        if not (
            tensor.is_initializer
            and tensor.data_type == INT8
            and len(tensor.all("location")) == 1
            and tensor.all("offset") == [str(UNSTORED_OFFSET)]
        ):
            raise MagicError(
                ErrorCode.BUNDLE_INVALID,
                f"{graph} does not declare {tensor.name!r} as packed weights must be.",
                "Install the bundle again, or export it anew.",
            )
    shapes = {tensor.name: tensor.shape for tensor in declared}
    if len(shapes) < len(declared):
        raise MagicError(
            ErrorCode.BUNDLE_INVALID,
            f"{graph} declares packed weights of one name twice.",
            "Install the bundle again, or export it anew.",
        )
    return shapes


class OnnxSession:
    """A graph on onnxruntime's CPU provider."""

    def __init__(self, path: Path, threads: int, weights: Mapping[str, NDArray[np.int8]] | None = None) -> None:
        """Load the graph.

        Args:
            path: The ONNX file.
            threads: 0 takes all physical cores.
            weights: Values of initializers that the file declares as external; needed only during the call.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores from the decode workers of a sync.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if saturates() and _release(ort.__version__) >= _FIRST_SAFE_RELEASE:
            # Sums of uint8 x int8 products are wrong otherwise. Exact through uint8 weights, at twice the memory and
            # time (measured): only where this processor, x86 without VNNI, needs it.
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 4
        try:
            if weights:
                # onnxruntime 1.20 to 1.32 copies these. `add_initializer` does not: a kernel that keeps its weights as
                # they are would read memory that we gave back, and the option above would look for them in the file.
                values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
                options.add_external_initializers(list(weights), values)
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            # A fallback would open the graph again, from weights that are gone by then.
            self._session.disable_fallback()
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _failed(f"onnxruntime refuses {path}", error) from None
        self.input_names = frozenset(entry.name for entry in self._session.get_inputs())
        self._output = self._session.get_outputs()[0].name
        self._only_needed = ort.RunOptions()
        self._only_needed.only_execute_path_to_fetches = True

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        """Return the first output, or the one that is named, as float32; what it does not need is not computed.

        Raises:
            MagicError: `runtime_failed` with what onnxruntime said.
        """
        try:
            return np.asarray(self._session.run([output or self._output], dict(inputs), self._only_needed)[0], dtype=np.float32)
        except Exception as error:  # as above; also an output that is no array of numbers
            raise _failed("onnxruntime failed", error) from None


def unit_vectors(output: Floats, count: int, dim: int, what: str) -> Floats:
    """Return [count, dim] with rows of length 1; a wrong graph is named here and not three layers later.

    Raises:
        MagicError: `runtime_failed` for another shape, and for NaN, infinite and zero rows, which never leave the SDK.
    """
    if output.shape != (count, dim):
        raise MagicError(
            ErrorCode.RUNTIME_FAILED, f"The {what} graph gave {output.shape}, not {(count, dim)}.", "Verify the bundle."
        )
    lengths = np.linalg.norm(output, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 1e-6).all()):
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"The {what} graph gave a vector that has no direction.",
            "Run: magicmm verify BUNDLE",
        )
    unit: Floats = output / lengths
    return unit


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def _failed(what: str, error: Exception) -> MagicError:
    said = " ".join(str(error).split())[:300]
    return MagicError(ErrorCode.RUNTIME_FAILED, f"{what}: {said}.", "Run: magicmm verify BUNDLE")
