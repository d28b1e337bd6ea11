"""The `language` part for one sequence of a fixed length, padded on the right, behind a prefix of a bounded length.

Nothing is computed from lengths: causal mask and rotary angles are tables cut to the bucket, and the two numbers that
vary, the place of the last token and the length of the prefix, pick rows of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm import ErrorCode, MagicError
from magicmm_export.decomposition.norms import Norms, RmsNorm, UnitLength
from magicmm_model.language import rotary_angles, rotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magicmm_model.config import LanguageConfig
    from magicmm_model.language import LanguageLayer
    from magicmm_model.model import MagicModel

BLOCKED = -1e4
"""Added to a score that must not count: small enough in float32, and within float16."""


class _View(NamedTuple):
    """What some tokens see: cosines and sines of their positions [r, 1, head_dim], mask [1, 1, r, p + s]."""

    cos: Tensor
    sin: Tensor
    mask: Tensor


class LanguageBlocks(nn.Module):
    """All layers, pooling and unit length; the last layer runs for the last token alone.

    Or some layers of them, where a converter has no memory for all at once: such a piece takes the rows that the piece
    in front gives, and gives the rows behind its own last layer, or the vector if that is the last of all.
    """

    cos: Tensor
    sin: Tensor
    causal: Tensor
    shift_cos: Tensor
    shift_sin: Tensor
    hidden: Tensor
    closing: Tensor | None

    def __init__(
        self,
        model: MagicModel,
        length: int,
        prefix: int = 0,
        norms: Norms = Norms.NATIVE,
        closing: Tensor | None = None,
        layers: range | None = None,
    ) -> None:
        """Share the model's parameters; tables are cut to the bucket.

        Args:
            model: The model.
            length: Tokens s of the bucket.
            prefix: Longest prefix p; 0 = the part takes none.
            norms: How norms are written.
            closing: [dim, dim], multiplied behind the final norm where the residual stream is rotated
                (`RewrittenWeights.closing`), or None.
            layers: Which layers, one after the other; None = all.

        Raises:
            MagicError: `argument_invalid` for a length or prefix that the model has no positions for.
        """
        super().__init__()
        language = model.config.language
        if length < 1 or prefix < 0 or length + prefix > language.max_positions:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"A bucket of {length} tokens behind a prefix of {prefix} does not fit {language.max_positions} "
                "positions.",
                "Take a smaller bucket.",
            )
        self.length, self.prefix = length, prefix
        self.layers = layers or range(language.layers)
        self.blocks = nn.ModuleList(
            _Block(model.language.layers[place], language, norms)  # type: ignore[arg-type]
            for place in self.layers
        )
        self.is_end = self.layers.stop == language.layers
        if self.is_end:
            self.norm = RmsNorm(model.language.norm.weight, language.norm_eps, norms)
            self.unit = UnitLength(language.hidden_size, norms)
            self.register_buffer("closing", closing, persistent=False)
        self._keep_angles("", length, language)
        own = torch.full((length, length), BLOCKED).triu(1)
        causal = torch.cat([torch.zeros(length, prefix), own], dim=1)
        self.register_buffer("causal", causal[None, None], persistent=False)
        if prefix:
            self._keep_angles("shift_", prefix + 1, language)
            # Row p: the places behind a prefix of p tokens.
            behind = torch.full((prefix + 1, prefix), BLOCKED).triu(0)
            hidden = torch.cat([behind, torch.zeros(prefix + 1, length)], dim=1)
            self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, embeds: Tensor, last: Tensor, before: Tensor | None = None, *past: Tensor) -> Tensor:
        """Return the unit vector of the sequence; a piece in front of the last one gives rows [1, s, dim].

        Args:
            embeds: float32 [1, s, dim]; what stands behind `last` changes nothing.
            last: Whole number [1], place of the last token within `embeds`.
            before: Whole number [1], tokens of the prefix, 0 to p; None where the part takes no prefix.
            past: Key and value of each layer that is here, float32 [1, kv_heads, p, head_dim], key 0, value 0, key 1,
                ...: the prefix at positions 0, 1, ..., then anything finite.

        Returns:
            float32 [1, dim].
        """
        *_, (_, vector) = self.stages(embeds, last, before, *past)
        return vector

    def stages(
        self, embeds: Tensor, last: Tensor, before: Tensor | None = None, *past: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each stage of the parity ladder, the vector last.

        The last layer's value is that of the last token: [1, 1, dim].
        """
        everyone = self._view(before)
        alone = everyone
        if self.is_end:
            alone = _View(*(values.index_select(axis, last) for values, axis in zip(everyone, (0, 0, 2), strict=True)))
        tokens = embeds
        final = len(self.blocks) - 1 if self.is_end else None
        for place, block in enumerate(self.blocks):
            own = past[2 * place : 2 * place + 2]
            queries = tokens.index_select(1, last) if place == final else tokens
            tokens = block(tokens, queries, everyone, alone if place == final else everyone, own)
            yield f"language.layers.{self.layers[place]}", tokens
        if not self.is_end:
            return
        pooled = self.norm(tokens.reshape(1, -1))
        if self.closing is not None:
            pooled = pooled @ self.closing
        yield "vector", self.unit(pooled)

    def _keep_angles(self, name: str, count: int, language: LanguageConfig) -> None:
        """Store cosines and sines of the first positions, each [count, 1, head_dim]."""
        angles = rotary_angles(torch.arange(count)[None], language.head_dim, language.rope_theta, torch.float32)
        for kind, values in zip(("cos", "sin"), angles, strict=True):
            self.register_buffer(f"{name}{kind}", values.reshape(count, 1, -1), persistent=False)

    def _view(self, before: Tensor | None) -> _View:
        """Return what the bucket's tokens see behind a prefix."""
        cos, sin, mask = self.cos, self.sin, self.causal
        if before is not None:
            first_cos, first_sin = (table.index_select(0, before) for table in (self.shift_cos, self.shift_sin))
            # The angle of a sum: positions begin behind the prefix, whatever its length.
            cos, sin = cos * first_cos - sin * first_sin, sin * first_cos + cos * first_sin
            mask = mask + self.hidden.index_select(0, before)
        return _View(cos, sin, mask)


class _Block(nn.Module):
    """One layer, for all tokens or for some of them."""

    scale: Tensor

    def __init__(self, layer: LanguageLayer, config: LanguageConfig, norms: Norms) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1 = RmsNorm(layer.input_layernorm.weight, config.norm_eps, norms)
        self.norm2 = RmsNorm(layer.post_attention_layernorm.weight, config.norm_eps, norms)
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.o_proj = attention.o_proj
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.kv_heads, self.group = config.kv_heads, config.heads // config.kv_heads
        self.head_dim = config.head_dim
        self.register_buffer("scale", torch.tensor([config.head_dim**-0.5]), persistent=False)

    def forward(self, tokens: Tensor, queries: Tensor, everyone: _View, own: _View, past: tuple[Tensor, ...]) -> Tensor:
        """Run the layer for `queries` [1, r, dim], which are some of `tokens` [1, s, dim] or all of them."""
        normed = self.norm1(tokens)
        asking = normed if queries is tokens else self.norm1(queries)
        key = rotate(self._heads(self.k_proj(normed)), everyone.cos, everyone.sin)
        key, value = key.permute(1, 0, 2), self._heads(self.v_proj(normed)).permute(1, 0, 2)
        if past:
            key, value = (torch.cat([old.flatten(0, 1), new], 1) for old, new in zip(past, (key, value), strict=True))
        state = queries + self.o_proj(self._mixed(asking, key, value, own))
        inner = self.norm2(state)
        return state + self.down_proj(functional.silu(self.gate_proj(inner)) * self.up_proj(inner))

    def _mixed(self, asking: Tensor, key: Tensor, value: Tensor, own: _View) -> Tensor:
        """Queries [1, r, dim], keys and values [kv_heads, p + s, head_dim] -> [1, r, dim].

        Query heads that share a key head are stacked as rows of one product: keys and values are never repeated.
        """
        count = asking.shape[1]
        query = rotate(self._heads(self.q_proj(asking)), own.cos, own.sin) * self.scale
        split = query.reshape(count, self.kv_heads, self.group, self.head_dim).permute(1, 2, 0, 3)
        stacked = split.reshape(self.kv_heads, self.group * count, self.head_dim)
        scores = torch.bmm(stacked, key.transpose(1, 2)).reshape(self.kv_heads, self.group, count, -1)
        shares = (scores + own.mask).softmax(-1).reshape(self.kv_heads, self.group * count, -1)
        mixed = torch.bmm(shares, value).reshape(self.kv_heads, self.group, count, self.head_dim)
        return mixed.permute(2, 0, 1, 3).reshape(1, count, -1)

    def _heads(self, projected: Tensor) -> Tensor:
        """[1, r, heads x head_dim] -> [r, heads, head_dim]."""
        return projected.reshape(projected.shape[1], -1, self.head_dim)
