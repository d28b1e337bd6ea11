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
            pairs = json.loads(header, object_pairs_hook=list)
            entries = [(name, dict(value)) for name, value in pairs if name != "__metadata__"]
            tensors = {name: self._entry(name, entry, start) for name, entry in entries}
        except MagicError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._invalid("has a broken header") from None
        doubled = sorted(name for name, count in Counter(name for name, _ in entries).items() if count > 1)
        if doubled:
            raise self._invalid(f"names a tensor twice: {', '.join(doubled)}")
        place = start
        for name, stored in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
            if stored.offset != place:
                raise self._invalid(f"has a gap or an overlap before the tensor {name}")
            place += stored.size
        if place != end:
            wrong = f"lacks {place - end:,} bytes at its end" if place > end else f"has {end - place:,} bytes too many"
            raise self._invalid(wrong)
        return tensors

    def _entry(self, name: str, entry: dict[str, Any], start: int) -> StoredTensor:
        shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"])
        begin, end = entry["data_offsets"]
        numbers = (*shape, begin, end)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise self._invalid(f"has a broken entry for the tensor {name}")
        if dtype is None:
            raise self._invalid(f"holds the tensor {name} of type {entry['dtype']}, supported are {', '.join(DTYPES)}")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise self._invalid(f"gives the tensor {name} {end - begin:,} bytes, its shape {list(shape)} needs other")
        return StoredTensor(shape, dtype, start + begin, end - begin)

    def read(self, name: str) -> torch.Tensor:
        """Return a new tensor with the stored values and type.

        Raises:
            MagicError: `source_unavailable` when the file vanished or shrank meanwhile.
        """
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        view = tensor.reshape(-1).view(torch.uint8).numpy().data if stored.size else memoryview(b"")
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(stored.offset)
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
