"""The whole model: vision tower, compression, connector, language model, pooling (paper section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError
from magicmm_model.compress import halve_grid, unshuffle
from magicmm_model.config import Head
from magicmm_model.connector import Connector
from magicmm_model.language import LanguageModel
from magicmm_model.vision import VisionTower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.config import ModelConfig
    from magicmm_model.language import KeyValue


class MagicModel(nn.Module):
    """Pixels and token ids to unit vectors, or to next-token logits.

    The three parts are the parts that export lowers: `visual_tokens` is the `vision` graph, `language.embed_tokens` the
    token table, `vectors` the `language` graph (DESIGN section 4).
    """

    def __init__(self, config: ModelConfig) -> None:
        """Allocate the parameters; `load_model` fills them from a checkpoint."""
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.connector = Connector(config)
        self.language = LanguageModel(config.language, config.head)

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """Return what the language model reads in place of image placeholders.

        Args:
            pixels: uint8 [n, side, side, 3], one tile each.

        Returns:
            [n, tile_tokens, dim].
        """
        grid = self.vision(pixels)
        if self.config.compression == 2:
            grid = halve_grid(grid)
        visual: Tensor = self.connector(unshuffle(grid))
        return visual

    def embed_sequence(self, ids: Tensor, visual: Tensor | None, image_token_id: int) -> Tensor:
        """Set token rows and visual tokens side by side.

        Args:
            ids: int64 [b, s], holding `image_token_id` where a visual token belongs.
            visual: [n, tile_tokens, dim] of all tiles, in the order of the placeholders, or None.
            image_token_id: Id of `<IMG_CONTEXT>`.

        Returns:
            [b, s, dim].

        Raises:
            MagicError: `argument_invalid` when the numbers of placeholders and visual tokens differ.
        """
        rows: Tensor = self.language.embed_tokens(ids)
        holes = ids == image_token_id
        wanted, given = int(holes.sum()), 0 if visual is None else visual.shape[0] * visual.shape[1]
        if wanted != given:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"The prompts hold {wanted} image placeholders, the pictures give {given} visual tokens.",
                f"Write {self.config.tile_tokens} placeholders a tile.",
            )
        return rows if visual is None else rows.masked_scatter(holes[..., None], visual.to(rows.dtype))

    def vectors(self, embeds: Tensor, last: Tensor, past: Sequence[KeyValue] | None = None) -> Tensor:
        """Return the L2-normalised hidden state of each sequence's last token (paper section 3.1).

        Args:
            embeds: [b, s, dim], padded on the right.
            last: int64 [b], place of the last token within `embeds`.
            past: Keys and values of a prefix that all sequences share (batch b or 1), or None.

        Returns:
            float32 [b, dim], unit rows.
        """
        batch = embeds.shape[0]  # not len(), which export would take for a constant
        if past is not None:
            past = [(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1)) for key, value in past]
        hidden, _ = self.language(embeds, past)
        pooled = hidden[torch.arange(batch, device=hidden.device), last]
        return functional.normalize(pooled.float(), dim=-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token.

        Args:
            hidden: [..., dim], of `language`.

        Returns:
            [..., vocab].

        Raises:
            MagicError: `argument_invalid` for a model without a head.
        """
        if self.config.head is Head.NONE:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "This model has no head for next-token logits.",
                "Load a checkpoint that has one, with head=True.",
            )
        return self.language.logits(hidden)
