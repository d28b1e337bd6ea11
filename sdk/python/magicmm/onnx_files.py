"""Which other files an ONNX graph reads, found without loading it.

A graph may keep weights in external files, and older runtimes follow whatever path it names: "../../x" would be read.
So every name is looked up here, wherever the format allows a tensor, before a runtime sees the graph.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
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
    "Tensor": {13: "Entry"},
}


def external_files(path: Path) -> set[str]:
    """Return the file names that a graph's tensors point at, as they are written in it.

    Raises:
        ValueError: When the file is no protobuf message.
        OSError: When it cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") < 0:  # the key that every external tensor must spell out
            return set()
        return {name.decode("utf-8") for name in _locations(data, 0, len(data), "Model", 0)}


def _locations(data: mmap.mmap, start: int, stop: int, message: str, depth: int) -> Iterator[bytes]:
    if depth > _MOST_DEPTH:
        raise ValueError("messages are nested too deeply")
    if message == "Entry":
        fields = {number: data[begin:end] for number, begin, end in _fields(data, start, stop)}
        if fields.get(1) == b"location":
            yield fields.get(2, b"")
        return
    inner = _INNER[message]
    for number, begin, end in _fields(data, start, stop):
        if number in inner:
            yield from _locations(data, begin, end, inner[number], depth + 1)


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of every length-delimited field; all others are stepped over."""
    while at < stop:
        key, at = _varint(data, at, stop)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, at = _varint(data, at, stop)
            if length > stop - at:
                raise ValueError("a field ends after its message")
            yield number, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at, stop)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
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
