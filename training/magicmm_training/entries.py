"""What training and evaluation are made of: entries (one side of a pair), pairs, and instruction samples."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.templates import Reads, Role, Side, Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ImageSource = Path | bytes
"""A picture as a file (already confined to its data set's folder), or the bytes of one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a pair: a text, a picture or both, and the instruction that it is read under (paper 3.1).

    Attributes:
        text: Words, or None.
        image: A picture, or None.
        instruction: First line of the prompt.
        side: Query or candidate; names the text line.
        max_tiles: 1 for photos, 4 for visual documents.
    """

    text: str | None
    image: ImageSource | None
    instruction: str
    side: Side
    max_tiles: int = 1

    def __post_init__(self) -> None:
        """Refuse an entry without content."""
        if self.image is None and not (self.text and self.text.strip()):
            raise MagicError(
                ErrorCode.TEXT_INVALID, "An entry has neither text nor image.", "Remove the row, or complete it."
            )

    @property
    def role(self) -> Role:
        """How the model is asked for this entry's vector."""
        reads = Reads.TEXT if self.image is None else Reads.IMAGE if self.text is None else Reads.IMAGE_AND_TEXT
        return Role(self.instruction, self.side, reads, self.max_tiles)

    def content_id(self) -> str:
        """Return 32 hex digits that two entries share exactly when text and picture bytes are equal.

        The instruction does not count: the same caption is the same candidate under any instruction.

        Raises:
            MagicError: `image_invalid` when the picture cannot be read.
        """
        digest = hashlib.sha256(b"\0" if self.text is None else b"\1" + self.text.strip().encode() + b"\0")
        if self.image is not None:
            digest.update(image_bytes(self.image))
        return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, its true target, and known negatives (InfoNCE's row).

    Attributes:
        id: Unique within its data set, stable across runs.
        dataset: Name of the (sub-)data set; batches and candidates stay within it.
        query: What is searched with.
        positive: The one true target.
        negatives: Explicit hard negatives, best first.
    """

    id: str
    dataset: str
    query: Entry
    positive: Entry
    negatives: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """One instruction sample of the restoration stage.

    Attributes:
        id: Unique within its data set.
        dataset: Its name.
        turns: Of "system", "user" and "assistant"; answers of the assistant carry the loss. Each `<image>` in a turn is
            the place of a picture.
        images: The pictures, in the order of their places.
    """

    id: str
    dataset: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()


class PairSet(Protocol):
    """A map-style data set of pairs."""

    name: str
    fingerprint: str
    """Changes with content: names rows, files and options, not places on this machine."""

    def __len__(self) -> int:
        """Return how many pairs there are."""
        ...

    def __getitem__(self, place: int) -> Pair:
        """Return a pair; the same place always gives the same pair.

        Raises:
            MagicError: For a broken row, naming file, row and field.
        """
        ...


class ConversationSet(Protocol):
    """A map-style data set of instruction samples; see `PairSet`."""

    name: str
    fingerprint: str

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def __getitem__(self, place: int) -> Conversation:
        """Return a sample."""
        ...


class LazyEntries(Sequence[Entry]):
    """Entries that are read when they are asked for: a corpus does not fit into memory."""

    @abstractmethod
    def at(self, place: int) -> Entry:
        """Return the entry at a place from 0 to the length."""

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        """Return an entry, or some."""
        if isinstance(place, slice):
            return [self.at(each) for each in range(len(self))[place]]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.at(place)


class EntryEmbedder(Protocol):
    """Anything that turns entries into vectors: a torch model, a bundle through the SDK, a foreign model."""

    name: str
    dim: int
    fingerprint: str
    """Names the weights; cached vectors of another fingerprint are not used."""

    def embed(self, entries: Sequence[Entry]) -> Floats:
        """Return float32 [n, dim], unit rows, each as if its entry were alone.

        Raises:
            MagicError: `image_invalid`, `text_invalid`, `runtime_failed`; NaN never leaves an embedder.
        """
        ...


def image_bytes(image: ImageSource) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        MagicError: `image_invalid` when it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise MagicError(
            ErrorCode.IMAGE_INVALID,
            f"{image} cannot be read: {error.strerror or error}.",
            "Restore it, or drop the row.",
        ) from None
