"""The `vision` part for one tile: pixels to visual tokens (paper section 3.2).

Attention is two batched products of rank 3 with a softmax between; fused attention falls to pieces where a back end has
none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition.norms import LayerNorm, Norms
from magicmm_model.compress import unshuffle
from magicmm_model.vision import IMAGE_MEAN, IMAGE_STD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magicmm_model.config import VisionConfig
    from magicmm_model.model import MagicModel
    from magicmm_model.vision import VisionLayer


class VisionEncoder(nn.Module):
    """Vision tower, compression and connector."""

    mean: Tensor
    deviation: Tensor
    first: Tensor

    def __init__(self, model: MagicModel, norms: Norms = Norms.NATIVE) -> None:
        """Share the model's parameters."""
        super().__init__()
        config, tower, connector = model.config, model.vision, model.connector
        self.grid = config.vision.grid
        self.compression = config.compression
        self.patches = tower.patch_embedding
        self.positions = tower.position_embedding
        self.first = tower.class_embedding
        self.blocks = nn.ModuleList(
            _Block(layer, config.vision, norms)  # type: ignore[arg-type]
            for layer in tower.layers
        )
        self.closing_norm = LayerNorm(connector.layer_norm, norms)
        self.linear_1, self.linear_2 = connector.linear_1, connector.linear_2
        # Of values 0 to 255, [1, 3, 1, 1].
        for name, values in (("mean", IMAGE_MEAN), ("deviation", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None] * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the visual tokens of one tile.

        Args:
            pixels: uint8 (or float, 0 to 255) [1, side, side, 3], RGB; normalised in here.

        Returns:
            float32 [1, tile_tokens, dim].
        """
        *_, (_, visual) = self.stages(pixels)
        return visual

    def stages(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage of the parity ladder, the visual tokens last."""
        planes = (pixels.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.deviation
        cells = self.patches(planes).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first, cells], dim=1) + self.positions
        yield "patches", tokens
        for place, block in enumerate(self.blocks):
            tokens = block(tokens)
            yield f"vision.layers.{place}", tokens
        grid = tokens[:, 1:].reshape(1, self.grid, self.grid, -1)
        if self.compression == 2:
            grid = functional.avg_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        normed = self.closing_norm(unshuffle(grid))
        yield "visual tokens", self.linear_2(functional.gelu(self.linear_1(normed)))


class _Block(nn.Module):
    """One pre-norm layer, each half scaled by a learned vector."""

    scale: Tensor

    def __init__(self, layer: VisionLayer, config: VisionConfig, norms: Norms) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(layer.norm1, norms), LayerNorm(layer.norm2, norms)
        self.qkv, self.proj = layer.attn.qkv, layer.attn.proj
        self.fc1, self.fc2 = layer.mlp.fc1, layer.mlp.fc2
        # None: it went into the matrix in front of it (magicmm_quant.weights).
        self.ls1, self.ls2 = (None if bool((scale == 1).all()) else scale for scale in (layer.ls1, layer.ls2))
        self.heads, self.size = config.heads, config.hidden_size
        self.register_buffer("scale", torch.tensor([(self.size // self.heads) ** -0.5]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[1, s, hidden] -> [1, s, hidden]."""
        tokens = tokens + _times(self.proj(self._mixed(self.qkv(self.norm1(tokens)))), self.ls1)
        return tokens + _times(self.fc2(functional.gelu(self.fc1(self.norm2(tokens)))), self.ls2)

    def _mixed(self, merged: Tensor) -> Tensor:
        """Queries, keys and values side by side [1, s, 3 x hidden] -> [1, s, hidden]."""
        size, length = self.size, merged.shape[1]
        query, key, value = (
            merged[..., start : start + size].reshape(length, self.heads, -1).permute(1, 0, 2)
            for start in (0, size, 2 * size)
        )
        # Scaled before the product: scores stay within float16.
        shares = torch.bmm(query * self.scale, key.transpose(1, 2)).softmax(-1)
        return torch.bmm(shares, value).permute(1, 0, 2).reshape(1, length, size)


def _times(rows: Tensor, scale: Tensor | None) -> Tensor:
    return rows if scale is None else rows * scale
