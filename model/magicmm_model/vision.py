"""InternViT-300M: pixels to a grid of patch vectors (paper fact sheet 1.1 and 1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from magicmm_model.config import VisionConfig

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's, of values from 0 to 1 (paper fact sheet 1.2)."""


class VisionTower(nn.Module):
    """Pre-norm transformer over the patches of one tile; no norm at the end, class token dropped."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate the parameters; their values come from a checkpoint."""
        super().__init__()
        self.grid = config.grid
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patch grid.

        Args:
            pixels: uint8 [n, side, side, 3], RGB; normalised in here, so that no caller can forget it.

        Returns:
            [n, side / patch, side / patch, hidden], in the type of the weights.
        """
        count, dtype = pixels.shape[0], self.patch_embedding.weight.dtype
        patches = self.patch_embedding(normalise(pixels).to(dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(count, -1, -1), patches], dim=1)
        tokens = tokens + self.position_embedding
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, 1:].reshape(count, self.grid, self.grid, -1)


class VisionLayer(nn.Module):
    """Attention and MLP, each scaled by a learned vector (LayerScale) before it is added."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        size = config.hidden_size
        self.norm1 = nn.LayerNorm(size, config.norm_eps)
        self.attn = VisionAttention(config)
        self.ls1 = nn.Parameter(torch.ones(size))
        self.norm2 = nn.LayerNorm(size, config.norm_eps)
        self.mlp = VisionMlp(config)
        self.ls2 = nn.Parameter(torch.ones(size))

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, s, hidden] -> [n, s, hidden]."""
        tokens = tokens + self.ls1 * self.attn(self.norm1(tokens))
        return tokens + self.ls2 * self.mlp(self.norm2(tokens))


class VisionAttention(nn.Module):
    """Multi-head self-attention in both directions, one matrix for query, key and value."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, s, hidden] -> [n, s, hidden]."""
        shape = (*tokens.shape[:2], self.heads, -1)
        query, key, value = (part.reshape(shape).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class VisionMlp(nn.Module):
    """Two layers with GELU (the exact one) between."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, s, hidden] -> [n, s, hidden]."""
        return self.fc2(functional.gelu(self.fc1(tokens)))


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] with ImageNet's mean and deviation taken out."""
    mean, deviation = (torch.tensor(values, device=pixels.device) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    return ((pixels.float() - mean) / deviation).permute(0, 3, 1, 2)


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Interpolate position embeddings to another grid as InternVL does: bicubic, in float32, class token untouched.

    Args:
        table: [1, 1 + g * g, hidden].
        grid: Cells along one side of the new grid.

    Returns:
        [1, 1 + grid * grid, hidden], in the type of `table`.
    """
    cells = table[:, 1:].float()
    side = round(cells.shape[1] ** 0.5)
    planes = cells.transpose(1, 2).reshape(1, -1, side, side)
    resized = functional.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
