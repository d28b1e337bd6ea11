"""Write ONNX graphs node by node, with weights in one page-aligned file that the runtime maps instead of reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, checker, helper, numpy_helper

from magicmm_export.packed_file import PackedFile

Array = npt.NDArray[Any]

OPSET = 20
IR_VERSION = 9  # the oldest that carries opset 20, so that older runtimes still open the file
CONTRIB = "com.microsoft"
EXTERNAL_ABOVE = 1 << 16
PAGE = 4096


class DataFile:
    """External weights of one graph, appended as they come: no more than one of them is in memory."""

    def __init__(self, path: Path, align: int = PAGE) -> None:
        """Create or empty the file; each array begins at a multiple of `align`."""
        self.path = path
        self._align = align
        self._stream = path.open("wb")

    def append(self, name: str, array: Array) -> TensorProto:
        """Write an array at the next place and return the tensor that points at it."""
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        self._place(tensor, np.asarray(array, order="C").data, array.nbytes)
        return tensor

    def move(self, tensor: TensorProto) -> None:
        """Write the values that a tensor holds at the next place and make it point there."""
        self._place(tensor, tensor.raw_data, len(tensor.raw_data))
        tensor.ClearField("raw_data")

    def _place(self, tensor: TensorProto, values: bytes | memoryview, length: int) -> None:
        self._stream.write(bytes(-self._stream.tell() % self._align))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", self._stream.tell()), ("length", length)):
            tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
        self._stream.write(values)

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()


class GraphWriter:
    """Collect nodes and constants; every method returns the name of the value it made."""

    def __init__(
        self,
        name: str,
        data: DataFile | None = None,
        packed: PackedFile | None = None,
        stored: Mapping[str, TensorProto] | None = None,
    ) -> None:
        """Start an empty graph.

        Args:
            name: Of the graph.
            data: Large constants go there at once.
            packed: Takes 4-bit weights.
            stored: Constants that another graph in the same folder has written, by name; they are not written again.
        """
        self._graph = GraphProto(name=name)
        self._values: set[str] = set()
        self._data = data
        self._packed = packed
        self._stored = stored or {}

    def input(self, name: str, kind: int, shape: tuple[int | str, ...]) -> str:
        """Declare an input of an ONNX element type; strings in the shape are free dimensions."""
        self._graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return self._new(name)

    def output(self, value: str, kind: int, shape: tuple[int | str, ...]) -> None:
        """Declare a value that already exists as an output."""
        self._graph.output.append(helper.make_tensor_value_info(value, kind, shape))

    def constant(self, name: str, array: Array) -> str:
        """Store an array under a name of its own; one that another graph has stored under it must be the same."""
        if name in self._stored:
            return self.stored(name)
        if self._data is not None and array.nbytes > EXTERNAL_ABOVE:
            tensor = self._data.append(name, array)
        else:
            tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self._graph.initializer.append(tensor)
        return self._new(name)

    def has_stored(self, name: str, kind: int | None = None) -> bool:
        """Say whether another graph has stored a constant, of an element type if one is given."""
        return name in self._stored and kind in (None, self._stored[name].data_type)

    def stored(self, name: str) -> str:
        """Use a constant that another graph has stored."""
        self._graph.initializer.append(self._stored[name])
        return self._new(name)

    def packed(self, name: str, codes: npt.NDArray[np.int8], multipliers: npt.NDArray[np.uint8]) -> str:
        """Declare int8 weights [K, N] that the SDK unpacks from 4-bit codes and multipliers when it opens the graph."""
        if self._packed is None:
            raise ValueError("The graph has no packed file.")
        self._graph.initializer.append(self._packed.append(name, codes, multipliers))
        return self._new(name)

    def shared(self, array: Array) -> str:
        """Store a small array once, however often it is asked for."""
        name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}"
        return name if name in self._values else self.constant(name, array)

    def ints(self, *values: int) -> str:
        """Store a short int64 list, such as axes or a shape."""
        return self.shared(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Store one float32."""
        return self.shared(np.array(value, np.float32))

    def node(self, op: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, named after the operator unless a name is given."""
        return self.nodes(op, *inputs, names=(name or f"{op}_{len(self._graph.node)}",), domain=domain, **attributes)[0]

    def nodes(
        self, op: str, *inputs: str, names: tuple[str, ...], domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs."""
        outputs = [self._new(name) if name else "" for name in names]
        node: NodeProto = helper.make_node(op, inputs, outputs, name=names[-1], domain=domain, **attributes)
        self._graph.node.append(node)
        return names

    def model(self) -> ModelProto:
        """Return the finished model; only the operator domains that were used are imported."""
        domains = {"": OPSET} | {node.domain: 1 for node in self._graph.node if node.domain}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        model: ModelProto = helper.make_model(self._graph, opset_imports=imports, ir_version=IR_VERSION)
        model.producer_name = "magicmm"
        if self._data is None and not self._stored:  # otherwise the file is checked, where the weights can be found
            checker.check_model(model)
        return model

    def _new(self, name: str) -> str:
        if name in self._values:
            raise ValueError(f"The graph already holds a value named {name!r}.")
        self._values.add(name)
        return name


def save(model: ModelProto, path: Path) -> list[Path]:
    """Write a model; weights over 64 KiB go to `<path>.data`, which the runtime maps instead of reading."""
    placed = ModelProto()
    placed.CopyFrom(model)
    large = [tensor for tensor in placed.graph.initializer if len(tensor.raw_data) > EXTERNAL_ABOVE]
    written = [path]
    if large:
        data = DataFile(path.with_name(path.name + ".data"))
        for tensor in large:
            data.move(tensor)
        data.close()
        written.append(data.path)
    path.write_bytes(placed.SerializeToString(deterministic=True))
    return written
