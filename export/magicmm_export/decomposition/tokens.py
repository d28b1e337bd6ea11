"""Token ids to rows, for a runtime that keeps the table in its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from magicmm_model.model import MagicModel


class TokenTable(nn.Module):
    """The rows of token ids."""

    def __init__(self, model: MagicModel) -> None:
        """Share the model's table."""
        super().__init__()
        self.rows = model.language.embed_tokens

    def forward(self, ids: Tensor) -> Tensor:
        """Whole numbers [1, s] -> float32 [1, s, dim]."""
        found: Tensor = self.rows(ids)
        return found
