"""Packed 4-bit weights of one graph, written tensor by tensor (docs/FORMAT.md, part 1, "Packed weights")."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import StringStringEntryProto, TensorProto

from magicmm.packed import UNSTORED_OFFSET, pack


class PackedFile:
    """A safetensors file whose header is written last: the library wants all tensors in memory, this one of them."""

    def __init__(self, path: Path) -> None:
        """Collect values beside `path`."""
        self.path = path
        self._values = path.with_name(f"{path.name}.values")
        self._stream = self._values.open("wb")
        self._entries: dict[str, dict[str, object]] = {}

    def append(self, name: str, codes: NDArray[np.int8], multipliers: NDArray[np.uint8]) -> TensorProto:
        """Pack int8 [K, N] codes and uint8 [K / group, N] multipliers; declare their product."""
        for kind, array in pack(codes, np.ascontiguousarray(multipliers)).items():
            begin = self._stream.tell()
            self._stream.write(np.ascontiguousarray(array).data)
            offsets = [begin, self._stream.tell()]
            self._entries[f"{name}.{kind}"] = {"dtype": "U8", "shape": list(array.shape), "data_offsets": offsets}
        tensor = TensorProto(name=name, data_type=TensorProto.INT8, dims=codes.shape)
        tensor.data_location = TensorProto.EXTERNAL
        facts = {"location": self.path.name, "offset": UNSTORED_OFFSET, "length": codes.size}
        tensor.external_data.extend(StringStringEntryProto(key=key, value=str(value)) for key, value in facts.items())
        return tensor

    def close(self) -> bool:
        """Write the file, if anything was appended, and say whether there is one."""
        self._stream.close()
        if self._entries:
            header = json.dumps(self._entries).encode()
            header += b" " * (-len(header) % 8)
            with self.path.open("wb") as target, self._values.open("rb") as values:
                target.write(len(header).to_bytes(8, "little") + header)
                shutil.copyfileobj(values, target, 1 << 22)
        self._values.unlink()
        return bool(self._entries)
