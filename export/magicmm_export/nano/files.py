"""Write the graphs of one bundle so that no weight is stored twice."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from onnx import ModelProto, TensorProto

from magicmm_export.graph import EXTERNAL_ABOVE, PAGE, DataFile

LEAST_SHARED = 256
"""Below this many bytes a constant is copied: naming its place would take as many."""


class GraphFiles:
    """A folder of graphs; a constant that an earlier graph keeps in its data file is read from there by later ones.

    Constants are the same when their types, shapes and bytes are, whatever they are called.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder."""
        self._folder = folder
        self._stored: dict[bytes, TensorProto] = {}
        self.written: list[Path] = []

    def add(
        self,
        name: str,
        model: ModelProto,
        outside: Collection[str] = (),
        align: int = PAGE,
        *,
        is_anonymous: bool = False,
    ) -> None:
        """Write a graph, and its data file where it has weights that no earlier graph stored.

        Args:
            name: Of the file.
            model: The graph with all its constants.
            outside: Constants that later graphs read, too: in the data file whatever their size.
            align: Each constant in the data file begins at a multiple of this.
            is_anonymous: All values but inputs and outputs get numbers for names, which take fewer bytes.
        """
        placed = ModelProto()
        placed.CopyFrom(model)
        path = self._folder / name
        if is_anonymous:
            _number_values(placed)
        # Sizes stay: shapes are inferred from them before any other file is read.
        new = [
            tensor
            for tensor in placed.graph.initializer
            if tensor.data_type != TensorProto.INT64 and not self._refer(tensor)
        ]
        least = {tensor.name: LEAST_SHARED if tensor.name in outside else EXTERNAL_ABOVE for tensor in new}
        large = [tensor for tensor in new if len(tensor.raw_data) > least[tensor.name]]
        self.written.append(path)
        if large:
            data = DataFile(path.with_name(name + ".data"), align)
            for tensor in large:
                digest = _digest(tensor)
                data.move(tensor)
                self._stored[digest] = tensor
            data.close()
            self.written.append(data.path)
        path.write_bytes(placed.SerializeToString(deterministic=True))

    def _refer(self, tensor: TensorProto) -> bool:
        """Make a constant point at the same one of an earlier graph; say whether there is one."""
        stored = self._stored.get(_digest(tensor))
        if stored is None:
            return False
        name = tensor.name
        tensor.CopyFrom(stored)
        tensor.name = name
        return True


def _number_values(model: ModelProto) -> None:
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    made = [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]
    for number, name in enumerate(made):
        names.setdefault(name, f"{number:x}")
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def _digest(tensor: TensorProto) -> bytes:
    facts = f"{tensor.data_type} {list(tensor.dims)} ".encode()
    return hashlib.sha256(facts + tensor.raw_data).digest()
