"""A checkpoint folder of either layout, checked as a whole and read tensor by tensor."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.config import ModelConfig
from magicmm_model.config_json import Layout, read_config
from magicmm_model.naming import plain_spelling, stored_names, tensor_shapes
from magicmm_model.tensor_file import TensorFile

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\.safetensors")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
        folder: Where it lies.
        layout: Which names its files use.
        config: Its shapes, and how it says that it wants to be run.
    """

    folder: Path
    layout: Layout
    config: ModelConfig
    _homes: dict[str, tuple[TensorFile, str]]

    @classmethod
    def open(cls, folder: Path | str) -> Checkpoint:
        """Read the config and the headers of all shards; no values yet.

        Raises:
            MagicError: `source_unavailable` without folder or files; `checkpoint_invalid` for a config of another
                family, broken files, and - all listed in one error - tensors that are missing, extra, there twice
                or of another shape than the config says.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE, f"{folder} is no folder.", "Give the folder of a downloaded checkpoint."
            )
        layout, config = read_config(folder)
        homes = _check_tensors(folder, _shards(folder), layout, config)
        return cls(folder, layout, config, homes)

    @property
    def names(self) -> list[str]:
        """The names of all tensors, as `MagicModel` calls them."""
        return list(tensor_shapes(self.config))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(file.tensors[name].size for file, name in self._homes.values())

    def dtype(self, name: str) -> torch.dtype:
        """Return the type in which a tensor is stored; of parts that differ, the one that holds both."""
        homes = (self._homes[part] for part in stored_names(name, self.layout))
        return reduce(torch.promote_types, (file.tensors[stored].dtype for file, stored in homes))

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor as stored, its parts joined."""
        parts = [file.read(stored) for file, stored in (self._homes[part] for part in stored_names(name, self.layout))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the rows of a tensor from `start` up to `stop`, reading no others.

        Raises:
            MagicError: `argument_invalid` when the tensor has no such rows, or is stored in parts.
        """
        parts = stored_names(name, self.layout)
        if len(parts) > 1:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The tensor {name} is stored in {len(parts)} parts, which are not read by rows.",
                "Read it as a whole.",
            )
        file, stored = self._homes[parts[0]]
        return file.read_rows(stored, start, stop)


def _shards(folder: Path) -> list[TensorFile]:
    """Open the files that the index names, or all there are without an index."""
    index = folder / _INDEX
    if not index.exists():
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{folder} holds no *.safetensors file.",
                "Only safetensors are read: pickled weights (*.bin, *.pt) can run code.",
            )
        return [TensorFile(path) for path in paths]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        wrong = [name for name in names if not _SHARD_NAME.fullmatch(name)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _invalid(f"{index} is broken.", "Copy the checkpoint again.") from None
    if wrong:
        raise _invalid(f"{index} names {wrong[0]!r}, which is no file beside it.", "Copy the checkpoint again.")
    return [TensorFile(folder / name) for name in names]


def _check_tensors(
    folder: Path, files: list[TensorFile], layout: Layout, config: ModelConfig
) -> dict[str, tuple[TensorFile, str]]:
    """Match what is stored with what the config asks for; one error names all differences."""
    homes: dict[str, list[tuple[TensorFile, str]]] = defaultdict(list)
    for file in files:
        for name in file.tensors:
            homes[plain_spelling(name, layout)].append((file, name))
    expected = _stored_shapes(layout, config)
    found = {name: places[0][0].tensors[places[0][1]].shape for name, places in homes.items()}
    problems = {
        "missing": sorted(expected.keys() - homes.keys()),
        "extra": sorted(homes.keys() - expected.keys()),
        "there twice": sorted(name for name, places in homes.items() if len(places) > 1),
        "of the wrong shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise _invalid(
            f"{folder} does not hold the tensors of its config.json ({layout.value} layout): {listed}.",
            "Copy the checkpoint again, or correct its config.json.",
        )
    return {name: places[0] for name, places in homes.items()}


def _stored_shapes(layout: Layout, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in tensor_shapes(config).items():
        parts = stored_names(name, layout)
        shapes |= dict.fromkeys(parts, (shape[0] // len(parts), *shape[1:]))
    return shapes


def _invalid(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.CHECKPOINT_INVALID, message, remedy)
