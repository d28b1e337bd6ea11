"""Which other files an ONNX graph reads, and which tensors it keeps there, found without loading it.

A graph may keep weights in external files, and older runtimes follow whatever path it names: "../../x" would be read.
So every name is looked up here, wherever the format allows a tensor, before a runtime sees the graph.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

# Message -> field number -> message, for the parts of onnx.proto that can lead to a tensor.
_INNER = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_DIMS, _DATA_TYPE, _TENSOR_NAME, _EXTERNAL_DATA = 1, 2, 8, 13  # fields of a Tensor
_INITIALIZER_DEPTH = 2  # Model, Graph, Tensor; those of training graphs and subgraphs lie deeper


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """A tensor whose values lie in another file.

    Attributes:
        name: Its name.
        data_type: The number of its type in onnx.proto; 3 is int8.
        shape: As declared.
        entries: Where the values lie, as key and value in the order of the file: `location`, `offset`, `length`.
        is_initializer: Whether it is an initializer of the main graph.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    entries: tuple[tuple[str, str], ...]
    is_initializer: bool

    def all(self, key: str) -> list[str]:
        """Return every value that is given for a key: readers differ in which they take."""
        return [value for given, value in self.entries if given == key]


INT8 = 3
"""`TensorProto.INT8`."""


def external_tensors(path: Path) -> list[ExternalTensor]:
    """Return the tensors that name a file, wherever they are.

    Raises:
        ValueError: When the file is no protobuf message.
        OSError: When it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") < 0:  # the key that every external tensor must spell out
            return []
        return list(_tensors(data, 0, len(data), "Model", 0))


def _tensors(data: mmap.mmap, start: int, stop: int, message: str, depth: int) -> Iterator[ExternalTensor]:
    if depth > _MOST_DEPTH:
        raise ValueError("messages are nested too deeply")
    if message == "Tensor":
        tensor = _tensor(data, start, stop, is_initializer=depth == _INITIALIZER_DEPTH)
        if tensor.all("location"):
            yield tensor
        return
    inner = _INNER[message]
    for number, kind, begin, end in _fields(data, start, stop):
        if kind == _BYTES and number in inner:
            yield from _tensors(data, begin, end, inner[number], depth + 1)


def _tensor(data: mmap.mmap, start: int, stop: int, is_initializer: bool) -> ExternalTensor:
    name, data_type, shape, entries = "", 0, [], []
    for number, kind, begin, end in _fields(data, start, stop):
        if number == _DIMS and kind in (_VARINT, _BYTES):  # one by one, or all in one field
            while begin < end:
                size, begin = _varint(data, begin, end)
                shape.append(size)
        elif number == _DATA_TYPE and kind == _VARINT:
            data_type, _ = _varint(data, begin, end)
        elif number == _TENSOR_NAME and kind == _BYTES:
            name = data[begin:end].decode("utf-8")
        elif number == _EXTERNAL_DATA and kind == _BYTES:
            entries.append(_entry(data, begin, end))
    return ExternalTensor(name, data_type, tuple(shape), tuple(entries), is_initializer)


def _entry(data: mmap.mmap, start: int, stop: int) -> tuple[str, str]:
    texts = {number: data[begin:end] for number, kind, begin, end in _fields(data, start, stop) if kind == _BYTES}
    return texts.get(1, b"").decode("utf-8"), texts.get(2, b"").decode("utf-8")


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, kind, begin and end of the content of every field."""
    while at < stop:
        key, at = _varint(data, at, stop)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, begin = _varint(data, at, stop)
            if length > stop - begin:
                raise ValueError("a field ends after its message")
            end = begin + length
        elif kind == _VARINT:
            begin = at
            _, end = _varint(data, at, stop)
        elif kind in _FIXED:
            begin, end = at, at + _FIXED[kind]
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
        yield number, kind, begin, end
        at = end
    if at != stop:
        raise ValueError("a field ends after its message")


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
