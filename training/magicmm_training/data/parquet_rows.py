"""Rows of parquet files, by row group, with the latest groups kept."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.json_rows import unreadable
from magicmm_training.data.rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_KEPT_GROUPS = 4
"""Of all files of a source together: one group of pictures can have hundreds of MB."""


class GroupCache:
    """The row groups that were read last, as pyarrow tables; shared by the files of a source."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = Lock()

    def read(self, path: Path, group: int, columns: list[str]) -> Any:
        """Return a row group.

        Raises:
            MagicError: `source_unavailable` when it cannot be read.
        """
        with self._lock:
            if (path, group) not in self._kept:
                while len(self._kept) >= _KEPT_GROUPS:
                    self._kept.popitem(last=False)
                self._kept[path, group] = _read_group(path, group, columns)
            self._kept.move_to_end((path, group))
            return self._kept[path, group]

    def __reduce__(self) -> tuple[type[GroupCache], tuple[()]]:
        """Send an empty cache to worker processes: they read for themselves."""
        return GroupCache, ()


class ParquetRows:
    """A parquet file.

    A row costs the reading of its row group, unless that was among the last ones: files for shuffled reading should
    have small row groups (the Hub's picture data sets have 100 rows).
    """

    def __init__(self, path: Path, required: Sequence[str], optional: Sequence[str], cache: GroupCache) -> None:
        """Read the footer.

        Args:
            path: The file.
            required: Columns that must be there.
            optional: Columns that are read when they are there; others are never read.
            cache: Keeps row groups.

        Raises:
            MagicError: `source_unavailable` when it is no parquet file; `text_invalid` when a required column is
                missing.
        """
        self._path = path
        self._cache = cache
        metadata, columns = _footer(path)
        missing = [name for name in required if name not in columns]
        if missing:
            raise MagicError(
                ErrorCode.TEXT_INVALID,
                f"{path.name} has no column {', '.join(map(repr, missing))}; it has {', '.join(columns)}.",
                "Name the format that the file has.",
            )
        self._columns = [name for name in (*required, *optional) if name in columns]
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = [0, *accumulate(counts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: int) -> Row:
        """Return a row.

        Raises:
            MagicError: `source_unavailable` when its row group cannot be read; `text_invalid` when a text in it is no
                UTF-8.
        """
        group = bisect_right(self._starts, place) - 1
        table = self._cache.read(self._path, group, self._columns)
        try:
            values = table.slice(place - self._starts[group], 1).to_pylist()[0]
        except UnicodeDecodeError:
            raise MagicError(
                ErrorCode.TEXT_INVALID,
                f"{self._path.name}, row {place + 1}: a text is no UTF-8.",
                "Mend or remove the row.",
            ) from None
        return Row(values, self._path.name, place + 1)


def _read_group(path: Path, group: int, columns: list[str]) -> Any:
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def _footer(path: Path) -> tuple[Any, list[str]]:
    try:
        with pq.ParquetFile(path) as file:
            return file.metadata, list(file.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None
