"""What all formats share: chosen rows of some files, and a function that makes one sample of one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from magicmm_training.data.files import chosen_rows, content_fingerprint, open_rows, source_files
from magicmm_training.data.pictures import Pictures

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from magicmm_model.instructions import TaskInstruction
    from magicmm_training.data.prompts import Prompts
    from magicmm_training.data.rows import Row, Rows
    from magicmm_training.entries import Conversation, Pair
    from magicmm_training.recipe import Source

Sample = TypeVar("Sample")

_READING = 1
"""Part of fingerprints: raised when the same rows begin to give other samples."""


@dataclass(frozen=True, slots=True)
class PairContext:
    """What a row of pairs is read with.

    Attributes:
        source: The source, for its name and group.
        pictures: Where its pictures are.
        prompts: Makes its entries.
    """

    source: Source
    pictures: Pictures
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class PairFormat:
    """A format of pairs.

    Attributes:
        read: Makes a pair of a row.
        task: Returns the paper's instructions for a source.
        endings: Of its files, the preferred one first.
        required: Columns of parquet files that must be there.
        optional: Columns that are read when they are there.
        also_train: What names of files of the split "train" may begin with instead.
    """

    read: Callable[[Row, PairContext], Pair]
    task: Callable[[Source], TaskInstruction | None]
    endings: tuple[str, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationFormat:
    """A format of instruction samples; see `PairFormat`."""

    read: Callable[[Row, Source, Pictures], Conversation]
    endings: tuple[str, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()


class ReadRows(Generic[Sample]):
    """A map-style data set over rows: a `PairSet` or a `ConversationSet`.

    Attributes:
        name: Of the source.
        fingerprint: Names rows and options.
    """

    def __init__(
        self, name: str, fingerprint: str, rows: Rows, places: NDArray[np.int64], read: Callable[[Row], Sample]
    ) -> None:
        """Put rows and reading together.

        Args:
            name: Of the source.
            fingerprint: Of content and options.
            rows: All rows.
            places: Those that are used.
            read: Makes a sample of a row.
        """
        self.name = name
        self.fingerprint = fingerprint
        self._rows = rows
        self._places = places
        self._read = read

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Sample:
        """Return a sample.

        Raises:
            IndexError: Outside 0 to length - 1.
            MagicError: For a broken row, naming file, row and field.
        """
        if not 0 <= place < len(self._places):
            raise IndexError(place)
        return self._read(self._rows[int(self._places[place])])


def open_read_rows(
    source: Source,
    path: Path,
    seed: int,
    layout: PairFormat | ConversationFormat,
    options: Mapping[str, object],
    read: Callable[[Row], Sample],
) -> ReadRows[Sample]:
    """Open the files of a source, choose rows and name their content.

    Args:
        source: The source.
        path: Its file or folder.
        seed: Of the choice under `limit`.
        layout: Files and columns of the format.
        options: What else decides on samples, for the fingerprint.
        read: Makes a sample of a row.

    Raises:
        MagicError: When there are no files, or they cannot be read.
    """
    others = layout.also_train if source.split == "train" else ()
    files = source_files(path, source.split, layout.endings, others)
    rows = open_rows(files, layout.required, layout.optional)
    places = chosen_rows(len(rows), source.limit, seed)
    told = {
        "reading": _READING,
        "format": source.format,
        "name": source.name,
        "rows": len(places),
        "seed": seed if len(places) < len(rows) else None,
        **options,
    }
    return ReadRows(source.name, content_fingerprint(files, told), rows, places, read)
