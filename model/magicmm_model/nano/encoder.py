"""MiniLM (BERT, post-norm), with adapters that are switched on for sequences that hold visual tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from magicmm_model.nano.config import NanoConfig

EPSILON = 1e-12
HIDDEN = -1e4
"""Added to the scores of filled places: their share becomes zero."""


class Adapted(nn.Module):
    """A linear layer of the pretrained encoder, and a low-rank adapter beside it.

    Without the adapter it computes what the pretrained layer does, bit for bit.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        """Allocate; the adapter starts as zero."""
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.normal_(self.down, std=inputs**-0.5)

    def forward(self, rows: Tensor, adapt: bool) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        found: Tensor = self.base(rows)
        return found + rows @ self.down.T @ self.up.T if adapt else found


class Layer(nn.Module):
    """Attention and feed-forward, each followed by its norm."""

    def __init__(self, config: NanoConfig) -> None:
        """Allocate."""
        super().__init__()
        width, self._heads = config.width, config.heads
        self.query, self.key, self.value, self.mixed = (Adapted(width, width, config.rank) for _ in range(4))
        self.inner = Adapted(width, config.inner, config.rank)
        self.outer = Adapted(config.inner, width, config.rank)
        self.attention_norm, self.norm = (nn.LayerNorm(width, EPSILON) for _ in range(2))

    def forward(self, rows: Tensor, hidden: Tensor, adapt: bool) -> Tensor:
        """[b, s, width], what is added to scores [b, 1, 1, s] -> [b, s, width]."""
        rows = self.attention_norm(rows + self.mixed(self._attend(rows, hidden, adapt), adapt))
        normed: Tensor = self.norm(rows + self.outer(functional.gelu(self.inner(rows, adapt)), adapt))
        return normed

    def _attend(self, rows: Tensor, hidden: Tensor, adapt: bool) -> Tensor:
        batch, length, width = rows.shape
        shape = (batch, length, self._heads, width // self._heads)
        query, key, value = (
            layer(rows, adapt).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        # Not scaled_dot_product_attention: on CPUs its backward pass takes most of a training step.
        scores = query @ key.transpose(2, 3) * (width // self._heads) ** -0.5
        return ((scores + hidden).softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)


class Encoder(nn.Module):
    """Rows of words and visual tokens to one unit vector: mean over all places that count."""

    def __init__(self, config: NanoConfig) -> None:
        """Allocate."""
        super().__init__()
        self.words = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, EPSILON)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor, visual: Tensor | None = None) -> Tensor:
        """Encode texts, photos or both.

        Args:
            ids: int64 [b, s]: [CLS], the text and [SEP]; with visual tokens [CLS], [SEP], and the text and [SEP] if
                there is one. Filled up on the right.
            mask: [b, s], 1 = token, 0 = fill.
            visual: [b, v, width], set between the first id and the second; None = none.

        Returns:
            [b, width], unit rows.
        """
        rows = self.words(ids)
        if visual is not None:
            rows = torch.cat([rows[:, :1], visual, rows[:, 1:]], 1)
            mask = torch.cat([mask.new_ones(visual.shape[:2]), mask], 1)
        kept = mask.to(rows.dtype)
        hidden = ((1 - kept) * HIDDEN)[:, None, None]
        rows = self.norm(rows + self.positions.weight[: rows.shape[1]])
        for layer in self.layers:
            rows = layer(rows, hidden, visual is not None)
        return functional.normalize((rows * kept[..., None]).sum(1), dim=-1)
