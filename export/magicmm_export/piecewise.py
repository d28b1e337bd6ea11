"""Run a graph of a bundle piece by piece: the weights of one piece in memory, however large the graph.

A whole session holds every weight, twice while 4-bit ones are unpacked. Export only needs a few vectors, so it cuts the
nodes into runs of consecutive ones, opens one after the other and carries the values between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm.packed import read_packed_tensor
from magicmm.saturation import saturates
from magicmm_export.graph_files import graph_file, load_graph, packed_tensors

if TYPE_CHECKING:
    from magicmm import Bundle

Values = dict[str, NDArray[Any]]
PIECE_BYTES = 32_000_000
"""Weights of a piece; a node with larger ones is a piece of its own."""


class PiecewiseGraph:
    """One graph of a bundle, cut where the weights of a piece reach a limit."""

    def __init__(self, bundle: Bundle, part: str, threads: int = 0, piece_bytes: int = PIECE_BYTES) -> None:
        """Read the graph without its weights and cut it.

        Args:
            bundle: The bundle.
            part: "vision" or "language".
            threads: Of each session; 0 takes all physical cores.
            piece_bytes: Most bytes of weights in memory at once.

        Raises:
            MagicError: As `graph_file` and `load_graph`.
        """
        self._path = graph_file(bundle, part)
        self._model = load_graph(self._path)
        self._threads = threads
        packed = {tensor.name for tensor in packed_tensors(bundle, part, self._model)}
        self._packed = (packed, bundle.file(bundle.manifest.packed["onnx"][part])) if packed else None
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self.pieces = list(self._cut(piece_bytes))

    @property
    def output(self) -> str:
        """Name of the output that the SDK reads, the first one."""
        return str(self._model.graph.output[0].name)

    def run(self, inputs: Sequence[Mapping[str, NDArray[Any]]], watched: Iterable[str] = ()) -> list[Values]:
        """Run all inputs through each piece before the next one is opened.

        Args:
            inputs: One mapping a run.
            watched: Names of values to return beside the output.

        Returns:
            The output and watched values of each run, by name.

        Raises:
            MagicError: `runtime_failed` with what onnxruntime said.
        """
        kept = {self.output, *watched}
        states: list[Values] = [dict(one) for one in inputs]
        found: list[Values] = [{} for _ in inputs]
        for place, nodes in enumerate(self.pieces):
            later = kept | {name for piece in self.pieces[place + 1 :] for node in piece for name in node.input}
            given = sorted(_read_by(nodes) - self._initializers.keys())
            wanted = sorted({name for node in nodes for name in node.output if name} & later)
            session = self._session(nodes, given, wanted, states[0]) if states else None
            for state, answer in zip(states, found, strict=True):
                state.update(self._run(session, wanted, {name: state[name] for name in given}))
                answer.update({name: state[name] for name in wanted if name in kept})
                for name in state.keys() - later:
                    del state[name]
        return found

    def _cut(self, most: int) -> Iterator[list[onnx.NodeProto]]:
        nodes: list[onnx.NodeProto] = []
        held: set[str] = set()
        for node in self._model.graph.node:
            added = {name for name in node.input if name in self._initializers}
            if nodes and sum(map(self._size, held | added)) > most:
                yield nodes
                nodes, held = [], set()
            nodes.append(node)
            held |= added
        yield nodes

    def _size(self, name: str) -> int:
        tensor = self._initializers[name]
        return int(prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)

    def _session(self, nodes: list[onnx.NodeProto], given: list[str], wanted: list[str], state: Values) -> Any:
        """Open a piece; the types of what it reads are those of the values at hand."""
        import onnxruntime as ort

        tensors = [
            self._filled(self._initializers[name]) for name in sorted(_read_by(nodes) & self._initializers.keys())
        ]
        lacking = [name for name in given if name not in state]
        if lacking:
            raise self._failed(f"{lacking[0]} is read before anything gives it")
        entries = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(state[name].dtype), [None] * state[name].ndim
            )
            for name in given
        ]
        graph = onnx.helper.make_graph(nodes, "piece", entries, [onnx.ValueInfoProto(name=name) for name in wanted])
        graph.initializer.extend(tensors)
        model = onnx.helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # a piece is used a few times and dropped
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._path.parent))
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")  # as the SDK does
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise self._failed(error) from None

    def _filled(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return a tensor as a session reads it: packed weights unpacked, others where they lie."""
        if self._packed is None or tensor.name not in self._packed[0]:
            return tensor
        values = read_packed_tensor(self._packed[1], tensor.name, tuple(tensor.dims))
        return onnx.TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=values.tobytes()
        )

    def _run(self, session: Any, wanted: list[str], inputs: Values) -> Values:
        try:
            return dict(zip(wanted, session.run(wanted, inputs), strict=True))
        except Exception as error:  # as above
            raise self._failed(error) from None

    def _failed(self, error: object) -> MagicError:
        said = " ".join(str(error).split())[:300]
        return MagicError(
            ErrorCode.RUNTIME_FAILED, f"onnxruntime failed on {self._path}: {said}.", "Run: magicmm verify BUNDLE"
        )


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return what nodes read from outside of themselves."""
    given: set[str] = set()
    read: set[str] = set()
    for node in nodes:
        read |= {name for name in node.input if name} - given
        given |= set(node.output)
    return read
