"""Qwen2.5: rows of the token table and visual tokens to hidden states (paper fact sheet 1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.config import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.config import LanguageConfig

    KeyValue = tuple[Tensor, Tensor]
    """Keys (rotated) and values of one layer, each [b, kv_heads, s, head_dim]."""


class LanguageModel(nn.Module):
    """Causal decoder, with or without a head for next-token logits."""

    def __init__(self, config: LanguageConfig, head: Head) -> None:
        """Allocate the parameters; their values come from a checkpoint."""
        super().__init__()
        self.config = config
        self.head = head
        # Not filled with random numbers: on the meta device that imports sympy, which takes 150 MB.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
        self.layers = nn.ModuleList(LanguageLayer(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.hidden_size, config.norm_eps)
        if head is Head.UNTIED:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        embeds: Tensor,
        past: Sequence[KeyValue] | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run all layers and the final norm.

        Padding on the right needs no mask: under causal attention no token sees what follows it.

        Args:
            embeds: [b, s, hidden].
            past: Keys and values of p earlier tokens per layer, or None.
            positions: int64 [b, s] or [1, s]; by default p, p + 1, ...
            mask: bool [b or 1, 1, s, p + s], True = may be seen; by default causal.

        Returns:
            Hidden states [b, s, hidden] after the final norm, and the keys and values of all p + s tokens per layer.
        """
        length = embeds.shape[1]
        before = past[0][0].shape[2] if past else 0
        if positions is None:
            positions = torch.arange(before, before + length, device=embeds.device)[None]
        if mask is None and before:
            mask = torch.ones(length, before + length, dtype=torch.bool, device=embeds.device).tril(before)
        cos, sin = rotary_angles(positions, self.config.head_dim, self.config.rope_theta, embeds.dtype)
        kept: list[KeyValue] = []
        for place, layer in enumerate(self.layers):
            embeds, key_value = layer(embeds, cos, sin, mask, past[place] if past else None)
            kept.append(key_value)
        return self.norm(embeds), kept

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> scores of the next token [..., vocab]."""
        weight = self.embed_tokens.weight if self.head is Head.TIED else self.lm_head.weight
        return functional.linear(hidden, weight)


class LanguageLayer(nn.Module):
    """Attention and gated MLP, each after an RMSNorm and added to its input."""

    def __init__(self, config: LanguageConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.norm_eps)
        self.self_attn = LanguageAttention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.norm_eps)
        self.mlp = LanguageMlp(config)

    def forward(
        self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """[b, s, hidden] -> [b, s, hidden], and the keys and values so far."""
        mixed, key_value = self.self_attn(self.input_layernorm(tokens), cos, sin, mask, past)
        tokens = tokens + mixed
        return tokens + self.mlp(self.post_attention_layernorm(tokens)), key_value


class LanguageAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LanguageConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.group_size = config.heads // config.kv_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """[b, s, hidden] -> [b, s, hidden], and the keys and values so far."""
        query = rotate(self._heads(self.q_proj(tokens)), cos, sin)
        key = rotate(self._heads(self.k_proj(tokens)), cos, sin)
        value = self._heads(self.v_proj(tokens))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed = functional.scaled_dot_product_attention(
            query, self._share(key), self._share(value), attn_mask=mask, is_causal=mask is None
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), (key, value)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _share(self, heads: Tensor) -> Tensor:
        """Repeat each key or value head for the query heads of its group: [b, kv, s, d] -> [b, kv x group, s, d]."""
        return heads[:, :, None].expand(-1, -1, self.group_size, -1, -1).flatten(1, 2)


class LanguageMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LanguageConfig) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[b, s, hidden] -> [b, s, hidden]."""
        return self.down_proj(functional.silu(self.gate_proj(tokens)) * self.up_proj(tokens))


class RmsNorm(nn.Module):
    """Divide by the root mean square, in float32; written out, because not every runtime has it as an operator."""

    def __init__(self, size: int, eps: float) -> None:
        """Allocate the gain."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        wide = tokens.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(tokens.dtype)


def rotary_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines for `rotate`, computed in float32.

    Args:
        positions: int64 [b, s].
        head_dim: Width of a head.
        theta: Base of the wavelengths.
        dtype: Type of the result.

    Returns:
        Two tensors [b, 1, s, head_dim].
    """
    steps = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + d / 2) of a head by the angle of its position: [b, h, s, d] -> [b, h, s, d]."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]  # slices: fewer back ends take a chunk
    return heads * cos + torch.cat([-second, first], dim=-1) * sin
