"""The model written out from rewritten weights alone, as the exported graphs compute it: an oracle for quantisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from magicmm_model.compress import halve_grid, unshuffle
from magicmm_model.language import rotary_angles, rotate
from magicmm_quant.units import unit_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm_model.config import ModelConfig
    from magicmm_quant.weights import RewrittenWeights


class Forward:
    """Visual tokens (in the rotated stream) and vectors, at compression 2."""

    def __init__(self, weights: RewrittenWeights, config: ModelConfig) -> None:
        """Keep what to read from."""
        self.weights = weights
        self.config = config

    def linear(self, unit: str, rows: Tensor) -> Tensor:
        made = self.weights.linear(unit)
        assert made.weight.dtype == np.float32
        bias = None if made.bias is None else torch.from_numpy(made.bias)
        return functional.linear(rows, torch.from_numpy(made.weight), bias)

    def layer_norm(self, name: str, rows: Tensor, eps: float) -> Tensor:
        gain, bias = self.weights.norm(name)
        assert bias is not None
        return functional.layer_norm(rows, rows.shape[-1:], torch.from_numpy(gain), torch.from_numpy(bias), eps)

    def rms_norm(self, name: str, rows: Tensor) -> Tensor:
        gain, bias = self.weights.norm(name)
        assert bias is None
        return self.plain_rms(rows) * torch.from_numpy(gain)

    def plain_rms(self, rows: Tensor) -> Tensor:
        return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + self.config.language.norm_eps)

    def visual(self, pixels: Tensor) -> Tensor:
        """Uint8 [n, side, side, 3] -> [n, tile_tokens, dim]."""
        count, grid, patch = len(pixels), self.config.vision.grid, self.config.vision.patch_size
        cells = pixels.float().reshape(count, grid, patch, grid, patch, 3).permute(0, 1, 3, 2, 4, 5)
        patches = self.linear("vision.patches", cells.reshape(count, grid * grid, -1))
        rows = functional.pad(patches, (0, 0, 1, 0)) + torch.from_numpy(self.weights.positions())
        heads, eps = self.config.vision.heads, self.config.vision.norm_eps
        for place in range(self.config.vision.layers):
            block = f"vision.layers.{place}"
            merged = self.linear(f"{block}.qkv", self.layer_norm(f"{block}.norm1", rows, eps))
            query, key, value = (
                part.reshape(*rows.shape[:2], heads, -1).transpose(1, 2) for part in merged.chunk(3, -1)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            rows = rows + self.linear(f"{block}.proj", mixed)
            inner = functional.gelu(self.linear(f"{block}.fc1", self.layer_norm(f"{block}.norm2", rows, eps)))
            rows = rows + self.linear(f"{block}.fc2", inner)
        joined = unshuffle(halve_grid(rows[:, 1:].reshape(count, grid, grid, -1)))
        inner = functional.gelu(
            self.linear("connector.linear_1", self.layer_norm("connector.layer_norm", joined, 1e-5))
        )
        return self.linear("connector.linear_2", inner)

    def vector(self, rows: Tensor) -> Tensor:
        """[b, s, dim] of the rotated stream -> unit vectors [b, dim] of the last row."""
        language = self.config.language
        positions = torch.arange(rows.shape[1])[None]
        cos, sin = rotary_angles(positions, language.head_dim, language.rope_theta, torch.float32)
        for place in range(language.layers):
            block = f"language.layers.{place}"
            merged = self.linear(f"{block}.qkv", self.rms_norm(f"{block}.input_layernorm", rows))
            heads = merged.reshape(*rows.shape[:2], -1, language.head_dim).transpose(1, 2)
            turned = rotate(heads[:, : -language.kv_heads], cos, sin)
            query, key = turned[:, : language.heads], turned[:, language.heads :]
            value = heads[:, -language.kv_heads :]
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            rows = rows + self.linear(f"{block}.o", mixed.transpose(1, 2).flatten(2))
            normed = self.rms_norm(f"{block}.post_attention_layernorm", rows)
            gate, up = self.linear(f"{block}.gate_up", normed).chunk(2, -1)
            rows = rows + self.linear(f"{block}.down", functional.silu(gate) * up)
        closing = torch.from_numpy(self.weights.closing())
        last = self.plain_rms(rows[:, -1])
        return functional.normalize(last @ closing if closing.ndim == 2 else last * closing, dim=-1)


def smoothable(config: ModelConfig) -> list[str]:
    """Return the units that smoothing can reach."""
    kinds = ("qkv", "proj", "fc1", "linear_1", "o", "gate_up", "down")
    return [unit for unit in unit_shapes(config) if unit.rpartition(".")[2] in kinds]


def random_smoothing(config: ModelConfig, units: list[str]) -> dict[str, NDArray[np.float32]]:
    """Vectors from 1/4 to 4; the heads of a group share theirs (6 of width 8, 2 value heads)."""
    generator, found = np.random.default_rng(11), {}
    for unit in units:
        scales = 2 ** generator.uniform(-2, 2, unit_shapes(config)[unit][1])
        if unit.endswith(".o"):
            scales = np.repeat(scales[:16].reshape(2, 1, 8), 3, axis=1).reshape(-1)
        found[unit] = scales.astype(np.float32)
    return found
