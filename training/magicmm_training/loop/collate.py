"""Entries to what the model reads: token ids padded on the right, tiles, and places of the pooled tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import torch

from magicmm_model.embedder import pad_prompts
from magicmm_model.templates import Prompt, PromptBuilder
from magicmm_model.tiling import photo_tiles
from magicmm_training.entries import image_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magicmm_model.config import ModelConfig
    from magicmm_model.tokenizer import PromptTokenizer
    from magicmm_training.entries import Entry


@dataclass(frozen=True, slots=True)
class ReadEntry:
    """An entry, decoded and tokenized.

    Attributes:
        ids: Of its whole prompt.
        tiles: uint8 [n, side, side, 3], or None without picture.
        text: Its words, for messages.
        content: Its content id.
        truncated: Whether the words were cut.
    """

    ids: tuple[int, ...]
    tiles: Tensor | None
    text: str | None
    content: str
    truncated: bool


class EntryBatch(TypedDict):
    """Arguments of `TrainableModel.forward` that ask for vectors."""

    ids: Tensor
    pixels: Tensor | None
    last: Tensor


class EntryReader:
    """Reads entries for one model and tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: PromptTokenizer, max_tokens: int | None = None) -> None:
        """Prepare the prompts; `max_tokens` replaces the model's longest prompt."""
        config = config if max_tokens is None else replace(config, max_tokens=max_tokens)
        self._side = config.vision.image_size
        self._prompts = PromptBuilder(config, tokenizer)

    def read(self, entry: Entry) -> ReadEntry:
        """Decode the picture and build the prompt.

        Raises:
            MagicError: `image_invalid`, `text_invalid`, or `argument_invalid` for an entry that fits no prompt.
        """
        tiles = None
        if entry.image is not None:
            entry = replace(entry, image=image_bytes(entry.image))  # read once, for the pixels and the content id
            tiles = photo_tiles(entry.image, self._side, entry.max_tiles)
        prompt = self._prompts.build(entry.role, entry.text, 0 if tiles is None else len(tiles))
        return ReadEntry(prompt.ids, tiles, entry.text, entry.content_id(), prompt.truncated)


def collate(entries: Sequence[ReadEntry], fill: int, device: torch.device | str = "cpu") -> EntryBatch:
    """Put entries side by side.

    Args:
        entries: One or more.
        fill: Id that pads short rows; nothing ever looks at it.
        device: Where the tensors go.
    """
    ids, last = pad_prompts([Prompt(entry.ids) for entry in entries], fill)
    return EntryBatch(
        ids=ids.to(device), pixels=join_tiles([entry.tiles for entry in entries], device), last=last.to(device)
    )


def join_tiles(tiles: Sequence[Tensor | None], device: torch.device | str = "cpu") -> Tensor | None:
    """Return all tiles in order, uint8 [n, side, side, 3], or None when there are none."""
    seen = [part for part in tiles if part is not None]
    return torch.cat(seen).to(device) if seen else None
