"""One `.safetensors` file, read tensor by tensor with plain reads.

The `safetensors` library maps the whole file, and every page it touches counts as memory of the process. Reading by
offset keeps the peak at one tensor, which is what loading and exporting the 2B model in little memory needs. The format
is a length (8 bytes), a JSON header and raw values; every rule below is checked before a value is read.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER = 100_000_000
"""The limit of the `safetensors` library."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that weights come in."""
_MOST = 1 << 48
"""More bytes than any file holds: such shapes are refused before anything multiplies them (zero sizes hide them)."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        shape: Its shape, row-major.
        dtype: Its stored type.
        offset: Of its first byte in the file.
        size: In bytes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    size: int


class TensorFile:
    """The tensors of one file by name."""

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises:
            MagicError: `source_unavailable` when the file cannot be opened; `checkpoint_invalid` when the header is
                broken, tensors overlap or leave gaps, or the file is shorter or longer than the header says.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                header_size = int.from_bytes(file.read(8), "little")
                if not 2 <= header_size <= min(MAX_HEADER, size - 8):
                    raise self._invalid("is cut off or is no safetensors file")
                header = file.read(header_size)
        except OSError as error:
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{path} cannot be read: {error.strerror}.",
                "Check the path and its permissions.",
            ) from None
        self.tensors = self._parse(header, start=8 + header_size, end=size)

    def _parse(self, header: bytes, start: int, end: int) -> dict[str, StoredTensor]:
        try:
            entries = json.loads(header.decode(), object_pairs_hook=_strict_object, parse_int=_count)
            if not isinstance(entries, dict):
                raise ValueError("no object")
            _check_metadata(entries.pop("__metadata__", None))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested too deep, or one of ours
            raise self._invalid(f"has a broken header: {error}") from None
        tensors = {name: self._entry(name, entry, start) for name, entry in entries.items()}
        place = start
        for name, stored in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
            if stored.offset != place:
                raise self._invalid(f"has a gap or an overlap before the tensor {name}")
            place += stored.size
        if place != end:
            wrong = f"lacks {place - end:,} bytes at its end" if place > end else f"has {end - place:,} bytes too many"
            raise self._invalid(wrong)
        return tensors

    def _entry(self, name: str, entry: object, start: int) -> StoredTensor:
        if not (isinstance(entry, dict) and _is_well_formed(entry)):
            raise self._invalid(f"has a broken entry for the tensor {name}")
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        dtype, size = DTYPES.get(entry["dtype"]), end - begin
        if dtype is None:
            raise self._invalid(f"holds the tensor {name} of type {entry['dtype']}, supported are {', '.join(DTYPES)}")
        if size != math.prod(shape) * dtype.itemsize:
            raise self._invalid(f"gives the tensor {name} {size:,} bytes, its shape {shape} needs other")
        return StoredTensor(tuple(shape), dtype, start + begin, size)

    def read(self, name: str) -> torch.Tensor:
        """Return a new tensor with the stored values and type.

        Raises:
            MagicError: `source_unavailable` when the file vanished or shrank meanwhile.
        """
        stored = self.tensors[name]
        return self._read(stored.shape, stored.dtype, stored.offset)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return a new tensor with the rows from `start` up to `stop`, reading no others.

        Raises:
            MagicError: `argument_invalid` when the tensor has no such rows; `source_unavailable` as `read`.
        """
        stored = self.tensors[name]
        if not (stored.shape and 0 <= start <= stop <= stored.shape[0]):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The tensor {name} of shape {list(stored.shape)} has no rows {start} to {stop}.",
                "Ask for rows within its first axis.",
            )
        row = math.prod(stored.shape[1:]) * stored.dtype.itemsize
        return self._read((stop - start, *stored.shape[1:]), stored.dtype, stored.offset + start * row)

    def _read(self, shape: tuple[int, ...], dtype: torch.dtype, offset: int) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        view = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise MagicError(
                            ErrorCode.SOURCE_UNAVAILABLE,
                            f"{self.path} became shorter while it was read.",
                            "Do not change a checkpoint that is in use.",
                        )
                    view = view[count:]
        except OSError as error:
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE, f"{self.path} cannot be read: {error.strerror}.", "Check the disk."
            ) from None
        return tensor

    def _invalid(self, what: str) -> MagicError:
        return MagicError(ErrorCode.CHECKPOINT_INVALID, f"{self.path} {what}.", "Copy or download it again.")


def _strict_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what Python's JSON reader lets through and the format does not allow."""
    found = dict(pairs)
    for text in (part for pair in pairs for part in pair if isinstance(part, str)):
        text.encode()  # half a surrogate pair is no text
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"twice there is {', '.join(name for name, count in counts.items() if count > 1)}")
    return found


def _count(digits: str) -> int:
    """Every number of the format counts something; whatever has a sign, "-0" too, becomes one that is refused."""
    return int(digits) if digits.isdigit() else -1


def _is_well_formed(entry: dict[str, Any]) -> bool:
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (isinstance(entry["dtype"], str) and isinstance(shape, list) and isinstance(offsets, list)):
        return False
    counts = all(type(number) is int and number >= 0 for number in (*shape, *offsets))
    return counts and len(offsets) == 2 and math.prod(side or 1 for side in shape) <= _MOST


def _check_metadata(value: object) -> None:
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        raise ValueError("__metadata__ is not an object of texts")
