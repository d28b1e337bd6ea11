"""What is said to a generative model in one turn: words and pictures in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from magicmm_model.templates import IMAGE_PLACEHOLDER, Prompt, PromptBuilder, Turn
from magicmm_model.tiling import photo_tiles
from magicmm_training.entries import Entry, ImageSource, image_bytes

if TYPE_CHECKING:
    from torch import Tensor


class Picture(NamedTuple):
    """A picture in a message.

    Attributes:
        image: File or bytes.
        max_tiles: 1 for photos, 4 for documents.
    """

    image: ImageSource
    max_tiles: int


Part = str | Picture


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a user.

    Attributes:
        parts: Words and pictures, in order.
    """

    parts: tuple[Part, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures, in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))

    @property
    def text(self) -> str:
        """All of it, with `<image>` where a picture belongs.

        Where words themselves hold `<image>`, a blank is put into it: it must not take a picture's place.
        """
        return "".join(IMAGE_PLACEHOLDER if isinstance(part, Picture) else _harmless(part) for part in self.parts)


def said(entry: Entry) -> tuple[Part, ...]:
    """Return an entry as parts of a message: its picture, then its words."""
    picture = () if entry.image is None else (Picture(entry.image, entry.max_tiles),)
    words = () if entry.text is None else (f" {entry.text}" if picture else entry.text,)
    return (*picture, *words)


class MessageReader:
    """Reads messages for one of our own models."""

    def __init__(self, prompts: PromptBuilder, side: int) -> None:
        """Keep what makes prompts, and the side of a tile in pixels."""
        self._prompts = prompts
        self._side = side

    def read(self, message: Message) -> tuple[Prompt, tuple[Tensor, ...]]:
        """Return the prompt, up to where the model answers, and the tiles of each picture.

        Raises:
            MagicError: `image_invalid`; `argument_invalid` for a message that is longer than the model reads.
        """
        tiles = tuple(
            photo_tiles(image_bytes(picture.image), self._side, picture.max_tiles) for picture in message.pictures
        )
        return self._prompts.chat([Turn("user", message.text)], [len(part) for part in tiles]), tiles


def _harmless(words: str) -> str:
    return words.replace(IMAGE_PLACEHOLDER, f"{IMAGE_PLACEHOLDER[0]} {IMAGE_PLACEHOLDER[1:]}")
