"""The graphs of a bundle as `onnx` sees them, without their weights."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.onnx_files import external_tensors


def graph_file(bundle: Bundle, part: str, runtime: str = "onnx") -> Path:
    """Return the ONNX file of a part: the one that a runtime reads, which is that of "onnx" unless it has its own.

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
    name = bundle.manifest.alternatives.get(runtime, {}).get(part) or bundle.manifest.graphs["onnx"][part]
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


def _no_graph(path: Path, error: Exception) -> MagicError:
    remedy = "Install the bundle again, or export it anew."
    return MagicError(ErrorCode.BUNDLE_INVALID, f"{path} is no ONNX graph: {error}.", remedy)
