"""Everything the SDK asks of an inference runtime: named arrays in, one float32 array out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm.onnx_files import external_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magicmm.bundle import Bundle

    Floats = NDArray[np.float32]


class Session(Protocol):
    """One loaded graph. `run` may be called from several threads."""

    input_names: frozenset[str]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """Return the graph's single output."""
        ...


def open_session(bundle: Bundle, part: str, threads: int, runtime: str) -> Session:
    """Load one graph of a bundle.

    Raises:
        MagicError: `runtime_failed` for a runtime that the bundle has no graphs for, or that refuses the graph;
            `bundle_invalid` for a graph that reads a file which the manifest does not list.
    """
    graphs = bundle.manifest.graphs
    if runtime not in graphs or runtime != "onnx":
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"Runtime {runtime!r} cannot run {bundle.path}: its graphs are for {', '.join(sorted(graphs)) or 'none'}.",
            "This SDK runs 'onnx'; export the bundle with --runtime onnx.",
        )
    name = graphs[runtime][part]
    path = bundle.file(name)
    try:
        others = external_files(path)
    except (OSError, ValueError) as error:
        raise _failed(f"{path} is no ONNX graph", error) from None
    for other in others:
        bundle.file((PurePosixPath(name).parent / other).as_posix())
    return OnnxSession(path, threads)


class OnnxSession:
    """A graph on onnxruntime's CPU provider."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the graph; `threads` = 0 takes all physical cores."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores from the decode workers of a sync.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _failed(f"onnxruntime refuses {path}", error) from None
        self.input_names = frozenset(entry.name for entry in self._session.get_inputs())
        self._output = self._session.get_outputs()[0].name

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """Return the first output as float32.

        Raises:
            MagicError: `runtime_failed` with what onnxruntime said.
        """
        try:
            return np.asarray(self._session.run([self._output], dict(inputs))[0], dtype=np.float32)
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


def _failed(what: str, error: Exception) -> MagicError:
    said = " ".join(str(error).split())[:300]
    return MagicError(ErrorCode.RUNTIME_FAILED, f"{what}: {said}.", "Run: magicmm verify BUNDLE")
