"""Files inside of Qt resource files (`.rcc`), as far as Debian's packages hold pictures in them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"qres"
_HEADER, _DATED_FROM = 20, 2
_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4


@dataclass(frozen=True, slots=True)
class _Node:
    """An entry of the tree: a directory with `count` children from `first` on, or a file whose data are at `first`."""

    name: str
    flags: int
    count: int
    first: int


class ResourceFile:
    """One resource file, read whole."""

    def __init__(self, path: Path) -> None:
        """Read its header.

        Raises:
            ValueError: When it is none.
        """
        self._data = path.read_bytes()
        if self._data[:4] != _MAGIC or len(self._data) < _HEADER:
            raise ValueError(f"{path} is no Qt resource file")
        version, self._tree, self._contents, self._names = struct.unpack_from(">IIII", self._data, 4)
        self._width = 22 if version >= _DATED_FROM else 14

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of every file, but those compressed by zstd."""
        yield from self._walk(0, "")

    def _walk(self, number: int, above: str) -> Iterator[tuple[str, bytes]]:
        node = self._node(number)
        path = f"{above}/{node.name}" if number else ""
        if node.flags & _DIRECTORY:
            for child in range(node.first, node.first + node.count):
                yield from self._walk(child, path)
        elif not node.flags & _ZSTD:
            yield path, self._content(node)

    def _node(self, number: int) -> _Node:
        place = self._tree + number * self._width
        name_at, flags = struct.unpack_from(">IH", self._data, place)
        count, first = struct.unpack_from(">II", self._data, place + 6)
        return _Node(self._name(name_at) if number else "", flags, count, first)

    def _name(self, place: int) -> str:
        (length,) = struct.unpack_from(">H", self._data, self._names + place)
        start = self._names + place + 6  # behind length and hash
        return self._data[start : start + 2 * length].decode("utf-16-be")

    def _content(self, node: _Node) -> bytes:
        place = self._contents + node.first
        (length,) = struct.unpack_from(">I", self._data, place)
        stored = self._data[place + 4 : place + 4 + length]
        return zlib.decompress(stored[4:]) if node.flags & _ZLIB else stored
