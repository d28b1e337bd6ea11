"""Run a bundle as the SDK does and keep values from inside its graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.encoders import VisionLanguageEncoder
from magicmm.onnx_files import external_tensors
from magicmm.packed import read_packed
from magicmm.saturation import saturates

if TYPE_CHECKING:
    from magicmm.runtime import Floats, Session

Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a graph: its inputs, and the watched values and outputs by name."""

    inputs: Inputs
    values: Mapping[str, Floats]


class ObservedEncoder(VisionLanguageEncoder):
    """The SDK's encoder, with graphs that also return values from inside; one of them is in memory at a time.

    Attributes:
        runs: By part ("vision", "language"), every run so far.
    """

    def __init__(self, bundle: Bundle, watched: Mapping[str, Sequence[str]], threads: int = 0) -> None:
        """Remember what to watch.

        Args:
            bundle: A vision-language bundle.
            watched: Names of float32 values by part.
            threads: 0 takes all physical cores.
        """
        super().__init__(bundle, threads, "onnx")
        self.runs: dict[str, list[Run]] = {}
        self._watched = watched
        self._threads = threads

    def session(self, part: str) -> Session:
        """Return the observed graph of a part; any other is closed first."""
        if part not in self._sessions:
            self._sessions.clear()
            session = _ObservedSession(
                self._bundle, part, self._watched.get(part, ()), self.runs.setdefault(part, []), self._threads
            )
            self._sessions[part] = session
        return self._sessions[part]


class _ObservedSession:
    """A graph whose inner values became outputs; the bundle on disk stays as it is."""

    def __init__(self, bundle: Bundle, part: str, watched: Iterable[str], runs: list[Run], threads: int) -> None:
        import onnxruntime as ort

        path = graph_file(bundle, part)
        model = load_graph(path)
        for name in watched:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")  # as the SDK does
        try:
            packed = unpacked_weights(bundle, part, model)
            if packed:
                values = [ort.OrtValue.ortvalue_from_numpy(array) for array in packed.values()]
                options.add_external_initializers(list(packed), values)
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except MagicError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _failed(path, error) from None
        self.input_names = frozenset(entry.name for entry in self._session.get_inputs())
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._path = path
        self._runs = runs

    def run(self, inputs: Inputs) -> Floats:
        """Return the first output and keep all of them."""
        try:
            found = dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))
        except Exception as error:  # as above
            raise _failed(self._path, error) from None
        self._runs.append(Run(inputs, found))
        return np.asarray(found[self._outputs[0]], np.float32)


def graph_file(bundle: Bundle, part: str) -> Path:
    """Return the ONNX file of a part.

    Raises:
        MagicError: `argument_invalid` when the bundle is for another runtime; `bundle_invalid` when the graph reads a
            file that the manifest does not list.
    """
    if "onnx" not in bundle.manifest.graphs:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{bundle.path} has graphs for {', '.join(sorted(bundle.manifest.graphs)) or 'no runtime'}, not for onnx.",
            "Give a bundle that was exported for onnx.",
        )
    name = bundle.manifest.graphs["onnx"][part]
    path = bundle.file(name)
    try:
        tensors = external_tensors(path)
    except (OSError, ValueError) as error:
        raise _no_graph(path, error) from None
    for tensor in tensors:
        for other in tensor.all("location"):
            bundle.file((PurePosixPath(name).parent / other).as_posix())
    return path


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without its external weights.

    Raises:
        MagicError: `bundle_invalid` when the file is no ONNX graph.
    """
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own
        raise _no_graph(path, error) from None


def value_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of everything that nodes give."""
    return {name for node in model.graph.node for name in node.output if name}


def external(tensor: onnx.TensorProto, key: str) -> str | None:
    """Return what an initializer says of its place outside of the graph: `location`, `offset`, `length`."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), None)


def packed_tensors(bundle: Bundle, part: str, model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the initializers that the SDK unpacks from 4-bit codes."""
    packed = bundle.manifest.packed.get("onnx", {}).get(part)
    folder = Path(bundle.manifest.graphs["onnx"][part]).parent
    return [
        tensor
        for tensor in model.graph.initializer
        if packed and (place := external(tensor, "location")) and (folder / place).as_posix() == packed
    ]


def unpacked_weights(bundle: Bundle, part: str, model: onnx.ModelProto) -> dict[str, NDArray[np.int8]]:
    """Return the int8 weights that lie packed beside a graph, by name.

    Raises:
        MagicError: `bundle_invalid` when they are broken or are not those that the graph declares.
    """
    tensors = packed_tensors(bundle, part, model)
    if not tensors:
        return {}
    name = bundle.manifest.packed["onnx"][part]
    return read_packed(bundle.file(name), {tensor.name: tuple(tensor.dims) for tensor in tensors})


def _no_graph(path: Path, error: Exception) -> MagicError:
    remedy = "Install the bundle again, or export it anew."
    return MagicError(ErrorCode.BUNDLE_INVALID, f"{path} is no ONNX graph: {error}.", remedy)


def _failed(path: Path, error: Exception) -> MagicError:
    said = " ".join(str(error).split())[:300]
    return MagicError(ErrorCode.RUNTIME_FAILED, f"onnxruntime failed on {path}: {said}.", "Run: magicmm verify BUNDLE")
