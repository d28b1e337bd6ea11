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
    """A folder of graphs; a constant that an earlier graph keeps in its data file is read from there by later ones."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder."""
        self._folder = folder
        self._stored: dict[str, tuple[TensorProto, bytes]] = {}
        self.written: list[Path] = []

    def add(self, name: str, model: ModelProto, outside: Collection[str] = (), align: int = PAGE) -> Path:
        """Write a graph, and its data file where it has weights that no earlier graph stored.

        Args:
            name: Of the file.
            model: The graph with all its constants.
            outside: Constants that later graphs read, too: in the data file whatever their size.
            align: Each constant in the data file begins at a multiple of this.

        Raises:
            ValueError: A constant has the name of an earlier one and differs from it.
        """
        placed = ModelProto()
        placed.CopyFrom(model)
        path = self._folder / name
        new = [tensor for tensor in placed.graph.initializer if not self._refer(tensor, name)]
        least = {tensor.name: LEAST_SHARED if tensor.name in outside else EXTERNAL_ABOVE for tensor in new}
        large = [tensor for tensor in new if len(tensor.raw_data) > least[tensor.name]]
        self.written.append(path)
        if large:
            data = DataFile(path.with_name(name + ".data"), align)
            for tensor in large:
                digest = _digest(tensor)
                data.move(tensor)
                self._stored[tensor.name] = (tensor, digest)
            data.close()
            self.written.append(data.path)
        path.write_bytes(placed.SerializeToString(deterministic=True))
        return path

    def _refer(self, tensor: TensorProto, name: str) -> bool:
        """Make a constant point at the one that was stored under its name; say whether there is one."""
        if tensor.name not in self._stored:
            return False
        stored, digest = self._stored[tensor.name]
        if digest != _digest(tensor):
            raise ValueError(f"{name} holds another {tensor.name!r} than an earlier graph.")
        tensor.CopyFrom(stored)
        return True


def _digest(tensor: TensorProto) -> bytes:
    facts = f"{tensor.data_type} {list(tensor.dims)} ".encode()
    return hashlib.sha256(facts + tensor.raw_data).digest()
