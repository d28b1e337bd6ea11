"""InternVL's MLP between vision tower and language model (`mlp1`), unchanged by the compression (paper section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from magicmm_model.config import ModelConfig


class Connector(nn.Module):
    """LayerNorm, linear, GELU, linear."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.connector_size)  # epsilon 1e-5 in both published implementations
        self.linear_1 = nn.Linear(config.connector_size, config.dim)
        self.linear_2 = nn.Linear(config.dim, config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, t, 4 x vision hidden] -> [n, t, language hidden]."""
        return self.linear_2(functional.gelu(self.linear_1(self.layer_norm(tokens))))
