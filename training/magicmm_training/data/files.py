"""Which files a source consists of, their rows one after another, and a name for their content."""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_right
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.json_rows import JsonLines, JsonList, unreadable
from magicmm_training.data.parquet_rows import GroupCache, ParquetRows
from magicmm_training.data.tar_rows import TarSamples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magicmm_training.data.rows import Row, Rows

_BLOCK = 1 << 20
_WHOLE_BLOCKS = 64
"""Files up to so many MiB are hashed whole, of longer ones so many blocks spread evenly."""


class ChainedRows:
    """The rows of several files as one."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        """Count the rows."""
        self._parts = parts
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: int) -> Row:
        """Return a row; see `Rows`."""
        part = bisect_right(self._starts, place) - 1
        return self._parts[part][place - self._starts[part]]


def source_files(path: Path, split: str, endings: Sequence[str], others: Sequence[str] = ()) -> list[Path]:
    """Return the files of a source, sorted by name.

    A folder holds `SPLIT.ENDING` or `SPLIT-....ENDING`, directly or in `data/` (the layout of the Hub). Splits and
    endings never mix: the first that is found counts.

    Args:
        path: A file, whose split is what it is, or a folder.
        split: What names in a folder begin with.
        endings: Such as ".parquet", the preferred one first.
        others: What names may begin with instead when there is no file of the split.

    Raises:
        MagicError: `source_unavailable` when there is none.
    """
    if path.is_file():
        if path.suffix not in endings:
            raise _absent(f"{path} does not end in {' or '.join(endings)}.")
        return [path]
    if not path.is_dir():
        raise _absent(f"{path} does not exist.")
    names = (split, *others)
    for name, folder, ending in product(names, (path, path / "data"), endings):
        start = glob.escape(name)
        found = sorted({*folder.glob(f"{start}{ending}"), *folder.glob(f"{start}[-_]*{ending}")})
        if found:
            return found
    wanted = " or ".join(f"{name}*" for name in names)
    raise _absent(f"{path} holds no file {wanted} that ends in {' or '.join(endings)}.")


def open_rows(files: Sequence[Path], required: Sequence[str], optional: Sequence[str]) -> Rows:
    """Open files by their endings: .parquet, .jsonl, .json, .tar.

    Raises:
        MagicError: When one cannot be read, or lacks a required column.
    """
    cache = GroupCache()
    return ChainedRows([_open(path, required, optional, cache) for path in files])


def chosen_rows(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return which of `count` rows are used: all, or `limit` of them chosen by the seed alone, in rising order."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    # Bits of the generator itself, whose stream numpy keeps the same for ever.
    keys = np.random.PCG64(seed).random_raw(count)
    return np.sort(np.argsort(keys, kind="stable")[:limit]).astype(np.int64)


def content_fingerprint(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """Return 32 hex digits that name the files' content and the options, wherever the files lie.

    Files of more than 64 MiB are sampled: their length and 64 blocks of 1 MiB from first to last. A change that keeps
    the length and every such block goes unseen; reading terabytes before each start would cost more. Pictures that
    rows point to are not read here.

    Raises:
        MagicError: `source_unavailable` when a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"\0{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                for offset in _blocks(size):
                    file.seek(offset)
                    digest.update(file.read(_BLOCK))
        except OSError as error:
            raise unreadable(path, error) from None
    return digest.hexdigest()[:32]


def _blocks(size: int) -> Sequence[int]:
    if size <= _WHOLE_BLOCKS * _BLOCK:
        return range(0, size, _BLOCK)
    return [(size - _BLOCK) * block // (_WHOLE_BLOCKS - 1) for block in range(_WHOLE_BLOCKS)]


def _open(path: Path, required: Sequence[str], optional: Sequence[str], cache: GroupCache) -> Rows:
    if path.suffix == ".parquet":
        return ParquetRows(path, required, optional, cache)
    if path.suffix == ".tar":
        return TarSamples(path)
    return JsonLines(path) if path.suffix == ".jsonl" else JsonList(path)


def _absent(message: str) -> MagicError:
    return MagicError(
        ErrorCode.SOURCE_UNAVAILABLE,
        message,
        "Set the source's path and split to where the data lie (docs/TRAINING.md).",
    )
