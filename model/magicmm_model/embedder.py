"""The reference embedder in torch: text, photo, photo + text and documents to vectors of one space.

The names follow the SDK's `magicmm.Embedder`, which does the same from a bundle without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_model.templates import ROLES, Prompt, PromptBuilder, Role
from magicmm_model.tiling import photo_tiles
from magicmm_model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magicmm_model.model import MagicModel


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector and how it came about.

    Attributes:
        vector: float32 [dim], unit length, on the CPU.
        tokens: Length of the sequence, visual tokens included.
        truncated: Whether the text was too long and cut from the right, before the closing tokens.
    """

    vector: Tensor
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Item:
    """What shall become one vector: a text, a picture, or both.

    Attributes:
        text: The user's words, or None.
        image: A path, the bytes of a file, a PIL image, uint8 [h, w, 3], or None.
    """

    text: str | None = None
    image: object | None = None


class TorchEmbedder:
    """A model with its tokenizer and templates."""

    def __init__(self, model: MagicModel, tokenizer: PromptTokenizer) -> None:
        """Put the parts together; `open` does it from a folder."""
        self.model = model
        self.tokenizer = tokenizer
        self.prompts = PromptBuilder(model.config, tokenizer)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        dtype: torch.dtype | None = None,
        compression: int | None = None,
        image_size: int | None = None,
        head: bool = False,
        device: torch.device | str = "cpu",
    ) -> TorchEmbedder:
        """Load a checkpoint folder; see `load_model` for the options and errors."""
        checkpoint = Checkpoint.open(folder)
        tokenizer = PromptTokenizer(Path(folder) / "tokenizer.json", checkpoint.config.language.vocab_size)
        model = load_model(
            checkpoint, dtype=dtype, compression=compression, image_size=image_size, head=head, device=device
        )
        return cls(model, tokenizer)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.model.config.dim

    def embed_text(self, text: str, role: str | Role = "query") -> Embedding:
        """Embed one text.

        Raises:
            MagicError: `text_invalid` for an empty text, `argument_invalid` for a role that reads something else.
        """
        return self.embed([Item(text=text)], role)[0]

    def embed_image(self, image: object, role: str | Role = "photo") -> Embedding:
        """Embed one picture.

        Raises:
            MagicError: `image_invalid` for anything that is no picture, `argument_invalid` for another role.
        """
        return self.embed([Item(image=image)], role)[0]

    def embed_query(self, text: str | None = None, image: object | None = None) -> Embedding:
        """Embed a query of words, of a picture, or of both in one sequence, under the roles that the SDK uses.

        Raises:
            MagicError: `argument_invalid` when both are missing, `text_invalid` for an empty text, `image_invalid`.
        """
        if text is not None and image is not None:
            return self.embed([Item(text, image)], "composed")[0]
        if image is not None:
            return self.embed_image(image)
        if text is not None:
            return self.embed_text(text)
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "The query has neither text nor image.", "Give one of them.")

    @torch.inference_mode()
    def embed(self, items: Sequence[Item], role: str | Role) -> list[Embedding]:
        """Embed a batch under one role; each vector is what the item would get alone.

        Args:
            items: Any number; memory grows with it.
            role: Name of one of `ROLES`, or a role of your own.

        Raises:
            MagicError: For the first item that cannot be embedded.
        """
        role = find_role(role)
        if not items:
            return []
        side = self.model.config.vision.image_size
        tiles = [None if item.image is None else photo_tiles(item.image, side, role.max_tiles) for item in items]
        counts = [0 if part is None else len(part) for part in tiles]
        prompts = [self.prompts.build(role, item.text, count) for item, count in zip(items, counts, strict=True)]
        pixels = torch.cat([part for part in tiles if part is not None]) if any(counts) else None
        vectors = self._vectors(prompts, pixels)
        return [
            Embedding(vector, len(prompt.ids), prompt.truncated)
            for vector, prompt in zip(vectors, prompts, strict=True)
        ]

    def _vectors(self, prompts: Sequence[Prompt], pixels: Tensor | None) -> Tensor:
        device = self.model.language.norm.weight.device
        special = self.tokenizer.special
        ids, last = pad_prompts(prompts, special.end)
        visual = None if pixels is None else self.model.visual_tokens(pixels.to(device))
        embeds = self.model.embed_sequence(ids.to(device), visual, special.context)
        return self.model.vectors(embeds, last.to(device)).cpu()


def find_role(role: str | Role) -> Role:
    """Return a role by its name.

    Raises:
        MagicError: `argument_invalid` for an unknown name.
    """
    if isinstance(role, Role):
        return role
    if role not in ROLES:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, f"There is no role {role!r}.", f"Choose one of {', '.join(ROLES)}."
        )
    return ROLES[role]


def pad_prompts(prompts: Sequence[Prompt], fill: int) -> tuple[Tensor, Tensor]:
    """Return ids [b, s], padded on the right, and the place of each pooled token [b]."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), fill)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt.ids)] = torch.tensor(prompt.ids)
    return ids, torch.tensor([prompt.last for prompt in prompts])
